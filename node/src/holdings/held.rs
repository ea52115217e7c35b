//! What we hold, as far as a departure and own losses ask.

use cairn_proto::{GroupId, Ordinals, Slot};

use crate::store::{ShardState, Store};

/// Shards that are looked at under one lock of the store's index.
const PAGE: usize = 4096;

/// What we hold of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldGroup {
    /// The group.
    pub group: GroupId,
    /// Our slot.
    pub slot: Slot,
    /// Live and, as far as is known, sound.
    pub sound: Ordinals,
    /// Damaged or gone.
    pub damaged: Ordinals,
}

/// The store, seen so.
pub trait Held: Send + Sync + 'static {
    /// Our slot of a group, if we ever had something of it. Must not block.
    fn slot(&self, group: GroupId) -> Option<Slot>;
    /// Which shards of it are sound. Must not block.
    fn sound(&self, group: GroupId, slot: Slot) -> Ordinals;
    /// Every group with a live shard, in order. May take a while.
    fn groups(&self) -> Vec<HeldGroup>;
}

impl Held for Store {
    fn slot(&self, group: GroupId) -> Option<Slot> {
        self.accepted_slot(group)
    }

    fn sound(&self, group: GroupId, slot: Slot) -> Ordinals {
        Ordinals::from_bytes(self.holding(group, slot))
    }

    fn groups(&self) -> Vec<HeldGroup> {
        let mut groups: Vec<HeldGroup> = Vec::new();
        let mut after = None;
        loop {
            let page = self.list_after(after, PAGE);
            let Some(last) = page.last() else { return groups };
            after = Some((last.group, last.ordinal));
            for shard in page.iter().filter(|shard| shard.state == ShardState::Live) {
                if groups.last().is_none_or(|group| group.group != shard.group) {
                    let none = Ordinals::default();
                    groups.push(HeldGroup { group: shard.group, slot: shard.slot, sound: none, damaged: none });
                }
                if let Some(group) = groups.last_mut() {
                    let of = if shard.damaged { &mut group.damaged } else { &mut group.sound };
                    of.insert(shard.ordinal);
                }
            }
        }
    }
}
