//! What those stewards do who outlive more than half of their committee: successions, which they order, believe or endorse
//! ([`crate::succession`] says when one counts).
//!
//! - *Who orders one.* A proposal to replace or retire a silent steward that less than half signed in time is a succession where fewer than half were heard for two
//!   days, twice as long as a lost steward is waited for. One place at a time, so that each new steward takes part in
//!   the next one; from half on it goes on as usual.
//! - *Who believes it.* A steward that did not hear those who are passed over for a day.
//! - *Who comes back.* Where half of the committee comes back later, whoever is shown the change for the first time would think it a lie.
//!   So new stewards hand the record to who was passed over and is heard again. One that had heard nobody for a day and a half when the change was made
//!   cannot say that anybody was here then, and signs for it (`Watched::endorse`). It goes by it once half did, as everybody does from then on: alone, it
//!   would leave its place to whoever waits for it to sleep for a day.

use cairn_proto::{Certificate, GroupId, PeerKey, Timestamp};

use super::{Rhythm, Say, Steward};
use crate::{
    liveness::{Outage, Watch},
    peer_view::PeerView,
};

/// When we heard nobody.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ears {
    deaf: Option<(Timestamp, Timestamp)>,
}

impl Ears {
    /// To be called at a sign of life, before the watch hears it.
    pub(super) fn note(&mut self, watch: &Watch, rhythm: &Rhythm, now: Timestamp) {
        if let Some(last) = watch.last_contact().filter(|last| now.ms_since(*last) >= rhythm.steward_lost_ms) {
            self.deaf = Some((last, now));
        }
    }

    /// Whether we had heard nobody for a day and a half at that time: a succession waits for two, by clocks and last words that differ.
    fn were_deaf(&self, at: Timestamp, rhythm: &Rhythm) -> bool {
        let long = rhythm.steward_lost_ms / 2 * 3;
        self.deaf.is_some_and(|(from, until)| from.plus_ms(long) <= at && at <= until)
    }

    /// Whether a peer was heard within a day: by the watch, and where that never heard it by the network.
    pub(super) fn heard<'a>(
        me: &PeerKey,
        watch: &'a Watch,
        peers: &'a [PeerView],
        rhythm: &Rhythm,
        now: Timestamp,
    ) -> impl Fn(&PeerKey) -> bool + use<'a> {
        let (lost_ms, me) = (rhythm.steward_lost_ms, *me);
        move |peer| {
            let view = || peers.iter().find(|view| view.peer == *peer);
            *peer == me
                || watch.heard_within(peer, lost_ms, now)
                || !watch.met(peer) && view().is_some_and(|view| view.at_work_within(lost_ms, now))
        }
    }
}

impl Steward {
    /// Makes a succession of what fewer than half signed, where the others were not heard for long; and tells who was passed over and is here again.
    pub(super) fn succeed(&mut self, id: GroupId, now: Timestamp, peers: &[PeerView]) {
        if !matches!(self.watch.outage(now), Outage::None) {
            return;
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        let alone = group.is_left_alone(&self.me, &self.watch, &self.rhythm, now);
        if alone != std::mem::replace(&mut group.alone, alone) {
            // What came to nothing did so for want of signatures.
            group.try_all_again(now);
        }
        let (lost_ms, pause_ms) = (self.rhythm.steward_lost_ms, self.rhythm.compare_ms);
        if let Some(back) = group.next_to_tell(now, pause_ms, |peer| self.watch.heard_within(peer, lost_ms, now)) {
            let whole = group.whole();
            self.tell(back, whole);
        }
        let Some(group) = self.groups.get_mut(&id).filter(|_| alone) else { return };
        if let Some(certificate) = group.succession_due(now) {
            self.ordered(id, certificate, now, peers);
        }
    }

    /// Signs for what was done without us while we heard nobody, and tells those who have the places now.
    pub(super) fn endorse(&mut self, id: &GroupId, changes: &[Certificate]) {
        let (ears, rhythm) = (self.ears, self.rhythm);
        // Signatures are dear, and whoever heard somebody all the time has none to give.
        let Some(group) = self.groups.get(id).filter(|_| ears.deaf.is_some()) else { return };
        let (successions, stewards) = group.passing_over(&self.me, changes, &|at| ears.were_deaf(at, &rhythm));
        let mut say = Vec::new();
        for change in successions {
            if let (Ok(order), Ok(vote)) = (change.order.id(), change.order.sign(&self.key)) {
                say.extend(stewards.iter().map(|to| (*to, Say::Vote { group: *id, order, vote })));
            }
        }
        say.into_iter().for_each(|(to, say)| self.tell(to, say));
    }
}
