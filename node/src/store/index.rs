//! What the log says, in memory: groups and their shards, heads, segments, and the bytes that each of them takes.
//!
//! The only way in is [`Index::apply`], with records in the order of the log; recovery and the writer both use it, so a
//! rebuilt index equals the one that was lost. About 100 bytes per shard, 0.01 % of the data.
//!
//! # Invariants
//!
//! - **SEP-1** A group has one slot for ever. Enforced by [`Index::apply`] (a second one is refused even from the
//!   log) and by the writer before it writes; attacked by `tests::life::ledger_outlives..`.
//! - **STORE-1** live + trash + records + dead = disk, and equals a recount from the log. Attacked by
//!   `tests::self_check`.

use std::{collections::BTreeMap, sync::Arc};

use cairn_proto::{
    ByteSize, GroupId, ShardRoot, Slot, Timestamp, VaultKey,
    record::{ALIGN, Change, FIXED, KeptHead, Record, SHARD_RECORD},
};

use super::disk::SegmentFile;

/// Bytes of a ledger or state record in the log.
pub(super) const SMALL: u64 = 128;
/// Bytes of a segment's first record.
pub(super) const SEGMENT_START: u64 = ALIGN as u64;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u64,
}

/// Where a shard stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Live,
    Trash { since: Timestamp },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) root: ShardRoot,
    pub(super) lease_until: Timestamp,
    pub(super) stored_at: Timestamp,
    pub(super) place: Place,
    pub(super) stage: Stage,
    /// Segment of the newest state record, when there is one since the shard's own.
    pub(super) state_segment: Option<u32>,
    /// The bytes did not match when they were last looked at.
    pub(super) damaged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) slot: Slot,
    /// Segment of the ledger record; `None` when only a shard told us (its ledger record was damaged).
    pub(super) ledger_segment: Option<u32>,
    pub(super) shards: BTreeMap<u8, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadEntry {
    pub(super) kept: KeptHead,
    pub(super) segment: u32,
}

pub(super) struct Segment {
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) len: u64,
    /// Bytes of records that still count.
    pub(super) current: u64,
}

/// A row that changed and must go to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Group(GroupId),
    Shard(GroupId, u8),
    Head(VaultKey),
}

/// Bytes by what they are for. `live + trash + records + dead = disk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// What the operator gives.
    pub pledged: ByteSize,
    /// Records of live shards.
    pub live_bytes: ByteSize,
    /// Records of shards in the trash.
    pub trash_bytes: ByteSize,
    /// Ledger, leases, tombstones, heads, segment starts.
    pub record_bytes: ByteSize,
    /// Garbage in the log; compaction gives it back.
    pub dead_bytes: ByteSize,
    /// All segment files.
    pub disk_bytes: ByteSize,
    /// What may still be stored: the pledge and the keep-free limit considered, garbage counted as used.
    pub free_bytes: ByteSize,
    /// Live shards.
    pub shards: u64,
}

#[derive(Default)]
pub(super) struct Index {
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) heads: BTreeMap<VaultKey, HeadEntry>,
    pub(super) segments: BTreeMap<u32, Segment>,
    live: u64,
    trash: u64,
    records: u64,
    shards: u64,
}

#[derive(Clone, Copy)]
enum Class {
    Live,
    Trash,
    Records,
}

impl Index {
    pub(super) fn entry(&self, group: &GroupId, ordinal: u8) -> Option<&Entry> {
        self.groups.get(group)?.shards.get(&ordinal)
    }

    pub(super) fn entry_mut(&mut self, group: &GroupId, ordinal: u8) -> Option<&mut Entry> {
        self.groups.get_mut(group)?.shards.get_mut(&ordinal)
    }

    pub(super) fn add_segment(&mut self, number: u32, file: Arc<dyn SegmentFile>, len: u64) {
        self.segments.insert(number, Segment { file, len, current: 0 });
        // Counted when the file is long enough to have it, so that garbage in its place is dead, not current.
        if len >= SEGMENT_START {
            self.account(number, SEGMENT_START, Class::Records, true);
        }
    }

    /// After the torn tail of the newest segment was cut off.
    pub(super) fn cut_segment(&mut self, number: u32, len: u64) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.len = len;
        }
    }

    pub(super) fn remove_segment(&mut self, number: u32) {
        if let Some(segment) = self.segments.get(&number)
            && segment.current >= SEGMENT_START
        {
            self.account(number, SEGMENT_START, Class::Records, false);
        }
        self.segments.remove(&number);
    }

    /// Takes in one record that lies at `place` in the log. Returns the rows that changed; `None` when the record
    /// contradicts the ledger and was ignored.
    pub(super) fn apply(&mut self, record: &Record, place: Place) -> Option<Vec<Row>> {
        match record {
            Record::Segment { .. } | Record::Space { .. } => Some(Vec::new()),
            Record::Ledger { group, slot } => {
                let known = self.groups.entry(*group).or_insert_with(|| Group::new(*slot));
                if known.slot != *slot {
                    return None;
                }
                let old = known.ledger_segment.replace(place.segment);
                self.account_in(old, SMALL, Class::Records, false);
                self.account(place.segment, SMALL, Class::Records, true);
                Some(vec![Row::Group(*group)])
            }
            Record::Shard(s) => {
                let mut rows = Vec::new();
                let known = self.groups.entry(s.group).or_insert_with(|| {
                    rows.push(Row::Group(s.group));
                    Group::new(s.slot)
                });
                if known.slot != s.slot {
                    return None;
                }
                let entry = Entry {
                    root: s.root,
                    lease_until: s.lease_until,
                    stored_at: s.stored_at,
                    place,
                    stage: Stage::Live,
                    state_segment: None,
                    damaged: false,
                };
                self.replace(s.group, s.ordinal, Some(entry));
                rows.push(Row::Shard(s.group, s.ordinal));
                Some(rows)
            }
            Record::State(s) => {
                let Some(mut entry) = self.entry(&s.group, s.ordinal).copied().filter(|e| e.root == s.root) else {
                    return Some(Vec::new());
                };
                entry.lease_until = s.lease_until;
                entry.state_segment = Some(place.segment);
                entry.stage = match s.change {
                    Change::Tombstone => Stage::Trash { since: s.at },
                    _ => Stage::Live,
                };
                self.replace(s.group, s.ordinal, (s.change != Change::Purged).then_some(entry));
                Some(vec![Row::Shard(s.group, s.ordinal)])
            }
            Record::Head(kept) => {
                let old = self.heads.get(&kept.vault);
                if old.is_some_and(|o| o.order() > (kept.generation, kept.sequence)) {
                    return Some(Vec::new());
                }
                if let Some((segment, len)) = old.map(|o| (o.segment, o.record_len())) {
                    self.account(segment, len, Class::Records, false);
                }
                let entry = HeadEntry { kept: kept.clone(), segment: place.segment };
                self.account(place.segment, entry.record_len(), Class::Records, true);
                self.heads.insert(kept.vault, entry);
                Some(vec![Row::Head(kept.vault)])
            }
        }
    }

    /// Takes in rows of the database, whose segments must have been added.
    pub(super) fn load(&mut self, groups: BTreeMap<GroupId, Group>, heads: BTreeMap<VaultKey, HeadEntry>) {
        for group in groups.values() {
            self.account_in(group.ledger_segment, SMALL, Class::Records, true);
            for entry in group.shards.values() {
                self.account_entry(entry, true);
            }
        }
        for head in heads.values() {
            self.account(head.segment, head.record_len(), Class::Records, true);
        }
        (self.groups, self.heads) = (groups, heads);
    }

    /// Bytes by what they are for; `disk_free` is what may still be written with the keep-free limit respected.
    pub(super) fn usage(&self, pledged: ByteSize, disk_free: u64) -> Usage {
        let disk: u64 = self.segments.values().map(|s| s.len).sum();
        let current = self.live + self.trash + self.records;
        Usage {
            pledged,
            live_bytes: ByteSize(self.live),
            trash_bytes: ByteSize(self.trash),
            record_bytes: ByteSize(self.records),
            dead_bytes: ByteSize(disk.saturating_sub(current)),
            disk_bytes: ByteSize(disk),
            free_bytes: ByteSize(pledged.0.saturating_sub(disk).min(disk_free)),
            shards: self.shards,
        }
    }

    fn replace(&mut self, group: GroupId, ordinal: u8, entry: Option<Entry>) {
        let Some(known) = self.groups.get_mut(&group) else { return };
        let old = match entry {
            Some(entry) => known.shards.insert(ordinal, entry),
            None => known.shards.remove(&ordinal),
        };
        if let Some(old) = old {
            self.account_entry(&old, false);
        }
        if let Some(entry) = entry {
            self.account_entry(&entry, true);
        }
    }

    fn account_entry(&mut self, entry: &Entry, add: bool) {
        let class = match entry.stage {
            Stage::Live => Class::Live,
            Stage::Trash { .. } => Class::Trash,
        };
        if entry.stage == Stage::Live {
            self.shards = if add { self.shards + 1 } else { self.shards - 1 };
        }
        self.account(entry.place.segment, SHARD_RECORD as u64, class, add);
        self.account_in(entry.state_segment, SMALL, Class::Records, add);
    }

    fn account_in(&mut self, segment: Option<u32>, bytes: u64, class: Class, add: bool) {
        if let Some(segment) = segment {
            self.account(segment, bytes, class, add);
        }
    }

    fn account(&mut self, segment: u32, bytes: u64, class: Class, add: bool) {
        let total = match class {
            Class::Live => &mut self.live,
            Class::Trash => &mut self.trash,
            Class::Records => &mut self.records,
        };
        let step = |n: &mut u64| *n = if add { *n + bytes } else { n.saturating_sub(bytes) };
        step(total);
        if let Some(segment) = self.segments.get_mut(&segment) {
            step(&mut segment.current);
        }
    }
}

impl Group {
    fn new(slot: Slot) -> Self {
        Self { slot, ledger_segment: None, shards: BTreeMap::new() }
    }
}

impl HeadEntry {
    /// What decides which of two heads is newer.
    pub(super) fn order(&self) -> (u32, u64) {
        (self.kept.generation, self.kept.sequence)
    }

    fn record_len(&self) -> u64 {
        head_record_len(self.kept.bytes.len())
    }
}

/// Bytes of a head's record in the log.
pub(super) const fn head_record_len(head: usize) -> u64 {
    (FIXED + 32 + 4 + 8 + head).next_multiple_of(ALIGN) as u64
}
