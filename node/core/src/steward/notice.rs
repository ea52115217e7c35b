//! What holders say of themselves before anybody asks: that they lost something, that they will leave, that they stay after all.
//!
//! A holder speaks of itself alone: who says it is whom the transport authenticated, and a group of which it holds nothing is not
//! touched by its word. What it may cost others is bounded by what bounds repairs anyhow: a slot's copy once for each holder who says
//! that it leaves, since the next one finds it there; shards given again by the rule for who does not keep its word
//! (`Watched::keeps_word`).

use std::collections::BTreeMap;

use cairn_proto::{GroupId, Ordinals, PeerKey, Slot, Timestamp};

use super::{Effect, Steward, watched::Watched, wire::Kept};
use crate::liveness::{Presence, Watch};

/// A departure further ahead than this is taken for one then: until it comes the peer is not counted among those whose silence says
/// something of the network, and what it has is copied although it is there.
pub const LEAVE_AHEAD_MS: u64 = 30 * 24 * 3_600_000;

impl Steward {
    /// A holder says that it lost these shards of its slot: as much as an inventory that lacks them, and no more is held against it. Whether
    /// it holds something of that slot at all.
    pub fn lost(&mut self, holder: PeerKey, group: GroupId, slot: Slot, lost: &Ordinals, now: Timestamp) -> bool {
        self.clock(now);
        self.heard(holder, now);
        let rhythm = self.rhythm;
        let Some(watched) = self.groups.get_mut(&group) else { return false };
        if !watched.holders(slot).contains(&holder) {
            return false;
        }
        let left = watched.has(slot, &holder).without(lost);
        if watched.report(holder, slot, &left, now, &rhythm) {
            self.effects.push(Effect::Persist(group));
        }
        true
    }

    /// A peer says that it will be gone for good from this time on, and asks how far the others are with these groups.
    pub fn leaving(&mut self, peer: PeerKey, at: Timestamp, groups: &[GroupId], now: Timestamp) -> Vec<Kept> {
        self.clock(now);
        self.heard(peer, now);
        if self.knows(&peer) {
            self.watch.leaving(peer, at.min(now.plus_ms(LEAVE_AHEAD_MS)), now);
        }
        let kept =
            |group| self.groups.get(group).map_or(Kept::Unknown, |group| group.kept_without(&peer, &self.watch, now));
        groups.iter().map(kept).collect()
    }

    /// A peer says that it stays after all.
    pub fn stays(&mut self, peer: PeerKey, now: Timestamp) {
        self.clock(now);
        if self.knows(&peer) {
            self.watch.stays(peer, now);
        }
    }
}

impl Watched {
    /// Whether others who stay have all that this peer has; of a group of which it has nothing, nothing is known.
    fn kept_without(&self, peer: &PeerKey, watch: &Watch, now: Timestamp) -> Kept {
        let mut holds = false;
        let mut beliefs = BTreeMap::new();
        let mut stays = |other: &PeerKey| {
            *beliefs.entry(*other).or_insert_with(|| {
                let belief = watch.belief(other, now);
                !belief.leaving && belief.presence < Presence::Gone
            })
        };
        for slot in self.code().each_slot() {
            let holders = self.holders(slot);
            if !holders.contains(peer) {
                continue;
            }
            let mut alone = self.has(slot, peer).and(&self.wanted(slot));
            for other in holders.iter().filter(|other| *other != peer) {
                if stays(other) {
                    alone = alone.without(&self.has(slot, other));
                }
            }
            if !alone.is_empty() {
                return Kept::Needed;
            }
            holds = true;
        }
        if holds { Kept::Elsewhere } else { Kept::Unknown }
    }
}
