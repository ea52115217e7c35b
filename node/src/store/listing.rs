//! What is here: answers from the index in memory. No shard is read, and nothing changes.

use std::ops::Bound;

use cairn_proto::{ByteSize, GroupId, SHARD_SIZE, ShardRoot, Slot, Timestamp, VaultKey};
use serde::Serialize;

use super::{
    Store,
    index::{Entry, Stage, Usage},
};

/// Live, or waiting for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// Kept under its lease.
    Live,
    /// Deleted or expired; served and restored when somebody asks for it before the hold is over.
    Trash,
}

/// A shard in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardInfo {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// Its name.
    pub root: ShardRoot,
    /// Its size.
    pub bytes: ByteSize,
    /// Until when it is kept.
    pub lease_until: Timestamp,
    /// Live or in the trash.
    pub state: ShardState,
    /// Its bytes did not match when they were last read.
    pub damaged: bool,
}

/// Which shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ShardRef {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
}

impl Store {
    /// Which stripes of the group have a sound, live shard here: bit `ordinal % 8` of byte `ordinal / 8`. The trash does
    /// not count, so that nobody relies on a shard whose end is set.
    #[must_use]
    pub fn holding(&self, group: GroupId, slot: Slot) -> [u8; 32] {
        let mut bitmap = [0; 32];
        if let Some(known) = self.index().groups.get(&group).filter(|g| g.slot == slot) {
            for (ordinal, _) in known.shards.iter().filter(|(_, e)| e.stage == Stage::Live && !e.damaged) {
                bitmap[usize::from(ordinal / 8)] |= 1 << (ordinal % 8);
            }
        }
        bitmap
    }

    /// The same shards with their roots and leases, by ordinal.
    #[must_use]
    pub fn rows(&self, group: GroupId, slot: Slot) -> Vec<(u8, ShardRoot, Timestamp)> {
        let index = self.index();
        let shards = index.groups.get(&group).filter(|g| g.slot == slot).into_iter().flat_map(|g| &g.shards);
        let sound = shards.filter(|(_, e)| e.stage == Stage::Live && !e.damaged);
        sound.map(|(ordinal, e)| (*ordinal, e.root, e.lease_until)).collect()
    }

    /// Whether this very shard is here, live and not known to be damaged.
    #[must_use]
    pub fn has_sound(&self, group: GroupId, slot: Slot, ordinal: u8, root: &ShardRoot) -> bool {
        let index = self.index();
        let entry = index.groups.get(&group).filter(|g| g.slot == slot).and_then(|g| g.shards.get(&ordinal));
        entry.is_some_and(|e| e.root == *root && e.stage == Stage::Live && !e.damaged)
    }

    /// The one slot of the group that was ever accepted here (SEP-1), deleted shards included.
    #[must_use]
    pub fn accepted_slot(&self, group: GroupId) -> Option<Slot> {
        self.index().groups.get(&group).map(|g| g.slot)
    }

    /// The newest head kept for a vault, encoded.
    #[must_use]
    pub fn find_head(&self, vault: &VaultKey) -> Option<Vec<u8>> {
        self.index().heads.get(vault).map(|h| h.kept.bytes.clone())
    }

    /// All heads kept, encoded.
    #[must_use]
    pub fn heads(&self) -> Vec<(VaultKey, Vec<u8>)> {
        self.index().heads.iter().map(|(v, h)| (*v, h.kept.bytes.clone())).collect()
    }

    /// Every shard here, in order.
    #[must_use]
    pub fn list(&self) -> Vec<ShardInfo> {
        self.list_after(None, usize::MAX)
    }

    /// At most so many shards, in order, after this stripe of this group.
    #[must_use]
    pub fn list_after(&self, after: Option<(GroupId, u8)>, limit: usize) -> Vec<ShardInfo> {
        let info = |group: &GroupId, slot, ordinal: &u8, e: &Entry| ShardInfo {
            group: *group,
            slot,
            ordinal: *ordinal,
            root: e.root,
            bytes: ByteSize(SHARD_SIZE as u64),
            lease_until: e.lease_until,
            state: if e.stage == Stage::Live { ShardState::Live } else { ShardState::Trash },
            damaged: e.damaged,
        };
        let index = self.index();
        let from = after.map_or(Bound::Unbounded, |(group, _)| Bound::Included(group));
        index
            .groups
            .range((from, Bound::Unbounded))
            .flat_map(|(g, known)| {
                let from = match after {
                    Some((group, ordinal)) if group == *g => Bound::Excluded(ordinal),
                    _ => Bound::Unbounded,
                };
                known.shards.range((from, Bound::Unbounded)).map(move |(o, e)| info(g, known.slot, o, e))
            })
            .take(limit)
            .collect()
    }

    /// Bytes by what they are for.
    #[must_use]
    pub fn usage(&self) -> Usage {
        // A disk that cannot say has no room.
        let free = self.0.disk.free_bytes().unwrap_or(0).saturating_sub(self.0.config.keep_free.0);
        self.index().usage(self.0.config.give, free)
    }
}
