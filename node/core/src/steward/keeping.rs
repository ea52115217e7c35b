//! What is kept of a group across a crash, what its owner is told, whom to probe and whom to ask.

use std::collections::BTreeMap;

use cairn_proto::{Certificate, DecodeError, GroupId, PeerKey, Slot, Timestamp};

use super::{
    GROUPS_MAX, Steward,
    places::Places,
    suspects::{Suspects, Suspicion},
    watched::{self, Watched},
    wire,
};
use crate::{durability::repairs::RepairTimes, liveness::Presence, peer_view::PeerView};

/// A holder that is to be asked what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The group.
    pub group: GroupId,
    /// The slot that it holds.
    pub slot: Slot,
    /// Whom.
    pub holder: PeerKey,
}

impl Steward {
    /// Whoever begins to watch a group knows nothing of its people but what the network heard: who was silent for a day before, and is not heard now, was gone
    /// then. Of the time before we ran nothing is said.
    pub(super) fn learn_of_strangers(&mut self, now: Timestamp, peers: &[PeerView]) {
        let began = *self.began.get_or_insert(now);
        for view in peers.iter().filter(|view| self.crowd.knows(&view.peer)) {
            let since = view.last_heard.max(began);
            if now.ms_since(since) >= self.rhythm.steward_lost_ms {
                self.watch.expected_since(view.peer, since, now);
            }
        }
    }

    /// Most bytes of a group's state, 8 MiB: one whose holders were all replaced many times. A usual one has 70 KiB.
    pub const STATE_MAX: usize = watched::state::STATE_MAX;

    /// What must survive a crash of what is known of a group; for [`Steward::resume`]. At most [`Steward::STATE_MAX`] bytes.
    #[must_use]
    pub fn encode_group(&self, group: &GroupId) -> Option<Vec<u8>> {
        self.groups.get(group).map(Watched::encode)
    }

    /// Watches a group again, from what [`Steward::encode_group`] gave. The caller made sure that the bytes are those that it wrote: the
    /// votes of orders in it are not checked again. A mandate that is over meanwhile is found by the next [`Steward::tick`].
    ///
    /// # Errors
    /// Bytes that no group has; no room.
    pub fn resume(&mut self, bytes: &[u8], now: Timestamp) -> Result<GroupId, DecodeError> {
        let what = "steward's group";
        let mut group = Watched::decode(bytes, now)?;
        self.clock(now);
        group.clamp(now, &self.rhythm);
        let id = group.record.group();
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&id) {
            return Err(DecodeError::TooLarge { what, limit: GROUPS_MAX, found: GROUPS_MAX + 1 });
        }
        self.vetting.resume(&group, now);
        self.groups.insert(id, group);
        // Whom the saved state of liveness has is watched already, and not anew.
        self.count_people(&id, false, now);
        Ok(id)
    }

    /// Where peers are and since when; for [`Steward::resume_places`]. A few MiB at most.
    #[must_use]
    pub fn encode_places(&self) -> Vec<u8> {
        self.places.encode()
    }

    /// Goes on from what [`Steward::encode_places`] gave.
    ///
    /// # Errors
    /// Bytes that it never gave; then everybody settles anew.
    pub fn resume_places(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), DecodeError> {
        self.places = Places::decode(bytes)?;
        self.places.clamp(now);
        Ok(())
    }

    /// How long repairs took that it saw, those of now included.
    #[must_use]
    pub fn repairs(&self, now: Timestamp) -> RepairTimes {
        self.repairs.with_open(self.groups.values().flat_map(|group| group.lacking_for(now)))
    }

    /// Goes on counting from what was counted before.
    pub const fn resume_repairs(&mut self, before: RepairTimes) {
        self.repairs = before;
    }

    /// Who may have sent wrong bytes; for [`Steward::resume_suspects`]. Some hundred KiB, with liars everywhere two MiB.
    #[must_use]
    pub fn encode_suspects(&self) -> Vec<u8> {
        self.suspects.encode()
    }

    /// Goes on from what [`Steward::encode_suspects`] gave.
    ///
    /// # Errors
    /// Bytes that it never gave; then nobody is suspected.
    pub fn resume_suspects(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), DecodeError> {
        self.suspects = Suspects::decode(bytes)?;
        self.suspects.lapse(now, self.rhythm.suspect_ms());
        Ok(())
    }

    /// Whether [`Steward::encode_suspects`] gives something else than when this was asked last.
    pub const fn suspects_changed(&mut self) -> bool {
        self.suspects.take_changed()
    }

    /// What is held against a peer by those for whom it helped in a rebuild.
    #[must_use]
    pub fn suspicion(&self, peer: &PeerKey) -> Option<Suspicion> {
        self.suspects.suspicion(peer)
    }

    /// Peers that are to be counted as suspected in their standing here, each time once.
    pub fn newly_suspected(&mut self) -> Vec<PeerKey> {
        self.suspects.count_fresh()
    }

    /// What this steward knows of a group, for the owner who asks.
    #[must_use]
    pub fn map_for_owner(&self, group: &GroupId) -> Option<wire::GroupMap> {
        self.groups.get(group).map(Watched::map_for_owner)
    }

    /// Everybody whose signs of life matter. With `true` those of groups that need something now or have an order under way, who are
    /// to be probed often.
    #[must_use]
    pub fn concerned(&self) -> Vec<(PeerKey, bool)> {
        let mut all = BTreeMap::new();
        for group in self.groups.values() {
            let busy = group.is_busy(self.now);
            for peer in group.everybody().filter(|peer| *peer != self.me) {
                *all.entry(peer).or_insert(false) |= busy;
            }
        }
        all.into_iter().collect()
    }

    /// Up to so many holders that are here and are to be asked now what they have of a slot; the answer goes to [`Steward::reported`].
    /// Each is named once in [`super::Rhythm::inventory_ms`] when [`Steward::asked`] is called for it.
    #[must_use]
    pub fn inventory_due(&self, now: Timestamp, most: usize) -> Vec<Inventory> {
        let of = |(group, watched): (&GroupId, &Watched)| {
            let group = *group;
            let due = watched.to_ask(&self.me, now, self.rhythm.inventory_ms);
            due.into_iter().map(move |(slot, holder)| Inventory { group, slot, holder })
        };
        let here = |due: &Inventory| self.watch.belief(&due.holder, now).presence == Presence::Here;
        // New holders first: nobody waits for them longer than they get on. Nothing is believed of them yet.
        let new = |(group, watched): (&GroupId, &Watched)| {
            let group = *group;
            let due = watched.newcomers_to_ask(now, &self.rhythm);
            due.into_iter().map(move |(slot, holder)| Inventory { group, slot, holder })
        };
        let new = self.groups.iter().flat_map(new).filter(|due| due.holder != self.me);
        new.chain(self.groups.iter().flat_map(of).filter(here)).take(most).collect()
    }

    /// A holder is being asked what it has: whether it answers or not, it is not named again in this period.
    pub fn asked(&mut self, due: &Inventory, now: Timestamp) {
        if let Some(group) = self.groups.get_mut(&due.group) {
            group.asked(due.slot, due.holder, now);
            group.asked_newcomer(due.slot, &due.holder, now);
        }
    }

    /// The mandate and the changes of stewards since, as a holder wants to see them before it says what it has.
    #[must_use]
    pub fn pass(&self, group: &GroupId) -> Option<(&[u8], &[Certificate])> {
        self.groups.get(group).map(|group| (group.record.sealed_mandate(), group.chain.changes()))
    }
}
