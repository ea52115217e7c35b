//! Which stewards lose their place, and to whom.
//!
//! A steward that is silent for a day is replaced ([`Rhythm::steward_lost_ms`](super::super::Rhythm)), whatever its class. That takes half of the
//! committee, so whoever loses more than half within that day loses all of it, and the group is left alone until its owner returns. Where no
//! more than that half are here, an hour is enough, or up to the day for a machine that is often away so long: the next loss would be one
//! too many. Not before: a steward takes its tokens with it.

use std::collections::BTreeSet;

use cairn_proto::{
    Action, PeerKey,
    mandate::{STEWARDS_MAX, half},
    order::CHANGES_MAX,
};

use super::{
    super::watched::{Subject, Watched},
    Scene,
};
use crate::{
    liveness::{Belief, Presence},
    placement,
};

/// Of the day after which a silent steward is replaced, what is waited for with none of them to spare: an hour.
const NONE_TO_SPARE: u64 = 24;
/// Changes of stewards under one mandate that may be for this, of [`CHANGES_MAX`]: the others are for who is lost.
const EARLY_MAX: usize = CHANGES_MAX / 2;

/// A place that somebody else should take.
pub(super) struct Seat {
    pub(super) subject: Subject,
    /// Whose it is; nobody's, where there is room for another one.
    old: Option<PeerKey>,
    /// The day was waited for, or is not to be.
    pub(super) patient: bool,
}

impl Scene<'_> {
    /// Peers that may become stewards, best first.
    pub(in super::super) fn new_stewards(&self, group: &Watched, avoid: &BTreeSet<PeerKey>) -> Vec<PeerKey> {
        let policy = self.policy(group);
        let request = self.request(group, &policy, avoid);
        // The request leaves out our own domain, where we are the steward already.
        let ranked = placement::stewards(self.peers, &request, &group.record.mandate.ticket);
        let fits = |peer: &PeerKey| !group.committee().stewards().contains(peer) && !self.leaves(peer);
        ranked.into_iter().filter(fits).collect()
    }

    /// How long a steward may be silent where so many are here beyond those that a change takes.
    fn patience_ms(&self, spare: usize, belief: &Belief) -> u64 {
        let (day, late) = (self.rhythm.steward_lost_ms, self.watch.timers().late_ms);
        if spare > 0 {
            return day;
        }
        // Machines that sleep would change places every night.
        let most = (day / NONE_TO_SPARE).max(late).max(belief.usual_ms);
        // Whoever signs heard from the two of them at other times than who proposes.
        let most = if self.to_sign { most - most / 4 } else { most };
        most.min(day)
    }

    /// Stewards beyond half of the committee, which a change of it takes, who were heard within an hour.
    fn spare_stewards(&self, group: &Watched) -> usize {
        let stewards = group.committee().stewards();
        let hour = (self.rhythm.steward_lost_ms / NONE_TO_SPARE).max(self.watch.timers().late_ms);
        let here = |peer: &&PeerKey| **peer == self.me || self.watch.belief(peer, self.now).silent_ms < hour;
        let spare = stewards.iter().filter(here).count().saturating_sub(half(stewards.len()));
        // Whoever proposes it may have missed one that we heard.
        if self.to_sign { spare.saturating_sub(1) } else { spare }
    }
}

/// The places to be filled, those of stewards first.
pub(super) fn open(group: &Watched, scene: &Scene<'_>) -> Vec<Seat> {
    let committee = group.committee();
    let spare = scene.spare_stewards(group);
    let seat = |old: &PeerKey| {
        let belief = scene.watch.belief(old, scene.now);
        // Whoever leaves is replaced while it is here: that costs nothing, and three at once would cost the quorum.
        let silent = belief.silent_ms >= scene.rhythm.steward_lost_ms;
        let patient = belief.presence >= Presence::Gone || belief.leaving || silent;
        let early = belief.silent_ms >= scene.patience_ms(spare, &belief) && committee.changes() < EARLY_MAX;
        let open = *old != scene.me && (patient || early);
        open.then_some(Seat { subject: Subject::Steward(*old), old: Some(*old), patient })
    };
    let mut seats: Vec<Seat> = committee.stewards().iter().filter_map(seat).collect();
    if committee.stewards().len() < STEWARDS_MAX {
        seats.push(Seat { subject: Subject::Another, old: None, patient: true });
    }
    seats
}

/// Who takes it, if anybody; a lost steward's place is given up where nobody does.
pub(super) fn filled(group: &Watched, scene: &Scene<'_>, seat: &Seat) -> Option<Action> {
    let new = |avoid: &BTreeSet<PeerKey>| scene.new_stewards(group, avoid).first().copied();
    let Some(old) = seat.old else { return new(&BTreeSet::new()).map(|new| Action::Enlist { new }) };
    match new(&group.avoided(&seat.subject, scene.now)).or_else(|| new(&BTreeSet::new())) {
        Some(new) => Some(Action::Replace { old, new }),
        None => seat.patient.then_some(Action::Retire { old }),
    }
}
