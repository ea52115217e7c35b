//! Opens what a stop, a crash or a damaged disk left behind.
//!
//! The database is believed when its digest fits and everything it points to exists; then only the log behind its
//! checkpoint is read. Else the whole log is. A shard's record takes the place of an older one of the same shard only when
//! its bytes are sound: what a crash left of a compaction must not hide the good one (DUR-4). Bytes that are no record cost themselves only: they are skipped
//! and reported. Nothing is ever cut off but the tail of the newest segment behind its last whole record, which
//! is what a crash in the middle of an unacknowledged write leaves.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use cairn_proto::record::{Record, RecordKey, SHARD_RECORD};

use super::{
    StoreError,
    database::{Database, Loaded},
    disk::Disk,
    index::{Index, Place, SEGMENT_START},
    reader::{Expected, read_verified},
    scan::{Payloads, walk},
    writer::segment_name,
};

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The index was made again from the whole log.
    pub rebuilt: bool,
    /// Records read from the log.
    pub records_read: u64,
    /// Bytes of an unfinished write that were cut off.
    pub torn_bytes: u64,
    /// Bytes in which no record could be read, as (segment, from, to). They stay.
    pub gaps: Vec<(u32, u64, u64)>,
    /// Shards whose bytes are not what their record says.
    pub damaged: u64,
    /// Copies of shards whose bytes never reached the disk; the shard they were to replace counts.
    pub torn_copies: u64,
    /// Records that contradict the ledger (SEP-1) and were ignored.
    pub conflicts: u64,
}

/// An opened log.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) database: Option<Database>,
    pub(super) opened: Opened,
    /// The segment that may be written on.
    pub(super) append_to: Option<u32>,
    /// Ledger entries that only a shard told of: to be written again.
    pub(super) lost_ledgers: Vec<Record>,
}

/// Numbers of the segments, in order.
pub(super) fn segment_numbers(disk: &dyn Disk) -> std::io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> = disk
        .list()?
        .iter()
        .filter_map(|name| name.strip_suffix(".seg")?.parse().ok())
        .filter(|n| *n != u32::MAX)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    key: &RecordKey,
    database_folder: Option<&Path>,
) -> Result<Recovered, StoreError> {
    let io = StoreError::io("opening the log");
    let mut index = Index::default();
    for number in segment_numbers(disk.as_ref()).map_err(&io)? {
        let file = disk.open(&segment_name(number)).map_err(&io)?;
        let size = file.size().map_err(&io)?;
        index.add_segment(number, file, size);
    }
    let mut opened = Opened::default();
    let mut database = database_folder.and_then(Database::open);
    let from = match database.as_mut().and_then(Database::load).filter(|l| fits(&index, l)) {
        Some(loaded) => {
            index.load(loaded.groups, loaded.heads);
            Some(loaded.up_to)
        }
        None => None,
    };
    opened.rebuilt = from.is_none() && !index.segments.is_empty();
    let mut rows = Vec::new();
    let last = index.segments.keys().next_back().copied();
    let mut append_to = last;
    let numbers: Vec<u32> = index.segments.keys().copied().collect();
    for number in numbers {
        let start = match from {
            Some(place) if number < place.segment => continue,
            Some(place) if number == place.segment => place.offset,
            _ => 0,
        };
        // Payloads of older segments were synced and acknowledged before the next one began: scrub looks after them.
        let payloads = if from.is_some() || Some(number) == last { Payloads::Verify } else { Payloads::Skip };
        let Some((file, size)) = index.segments.get(&number).map(|s| (s.file.clone(), s.len)) else { continue };
        let walked = walk(file.as_ref(), key, start, size, payloads, |found| {
            if matches!(found.record, Record::Space { .. }) {
                return ControlFlow::Continue(());
            }
            opened.records_read += 1;
            if let Record::Shard(s) = &found.record
                && index.entry(&s.group, s.ordinal).is_some_and(|e| e.root == s.root)
            {
                let sound = match payloads {
                    Payloads::Verify => found.payload_ok,
                    // Rare: both a copy and what it was copied from are still there.
                    Payloads::Skip => {
                        let same = Expected { group: s.group, slot: s.slot, ordinal: s.ordinal, root: s.root };
                        read_verified(file.as_ref(), key, found.offset, &same).is_ok()
                    }
                };
                if !sound {
                    // A crash in the middle of compaction, or of a repair. The log has the shard already, and the
                    // next compaction would remove the one that counts less.
                    opened.torn_copies += 1;
                    return ControlFlow::Continue(());
                }
            }
            match index.apply(&found.record, Place { segment: number, offset: found.offset }) {
                Some(changed) => rows.extend(changed),
                None => opened.conflicts += 1,
            }
            if let (Record::Shard(s), false) = (&found.record, found.payload_ok)
                && let Some(entry) = index.entry_mut(&s.group, s.ordinal)
            {
                entry.damaged = true;
                opened.damaged += 1;
            }
            ControlFlow::Continue(())
        });
        let mut gaps = walked.gaps;
        if Some(number) == last && walked.valid_end < size && !walked.unreadable {
            if walked.valid_end >= SEGMENT_START {
                file.truncate(walked.valid_end).map_err(&io)?;
                index.cut_segment(number, walked.valid_end);
                opened.torn_bytes = size - walked.valid_end;
                gaps.pop();
            } else {
                // Not one record: a crash while the segment was made, or worse. It stays until compaction.
                append_to = None;
            }
        }
        append_to = append_to.filter(|_| !walked.unreadable && size >= SEGMENT_START);
        opened.gaps.extend(gaps.into_iter().map(|(a, b)| (number, a, b)));
    }
    if let (Some(db), Some((number, segment))) = (&mut database, index.segments.last_key_value()) {
        let up_to = Place { segment: *number, offset: segment.len };
        let ok = if from.is_some() { db.record(&index, &rows, up_to) } else { db.rewrite(&index, up_to) };
        if !ok {
            tracing::warn!("the store's index cannot be written; the log goes on without it");
            database = None;
        }
    }
    report(&opened);
    let lost_ledgers = index
        .groups
        .iter()
        .filter(|(_, g)| g.ledger_segment.is_none())
        .map(|(group, g)| Record::Ledger { group: *group, slot: g.slot })
        .collect();
    Ok(Recovered { index, database, opened, append_to, lost_ledgers })
}

/// Whether everything that the database points to exists in the log.
fn fits(index: &Index, loaded: &Loaded) -> bool {
    let reaches = |segment: u32, end: u64| index.segments.get(&segment).is_some_and(|s| end <= s.len);
    reaches(loaded.up_to.segment, loaded.up_to.offset)
        && loaded.heads.values().all(|h| reaches(h.segment, 0))
        && loaded.groups.values().all(|g| {
            g.ledger_segment.is_none_or(|s| reaches(s, 0))
                && g.shards.values().all(|e| {
                    reaches(e.place.segment, e.place.offset + SHARD_RECORD as u64)
                        && e.state_segment.is_none_or(|s| reaches(s, 0))
                })
        })
}

fn report(opened: &Opened) {
    if opened.rebuilt || opened.torn_bytes > 0 {
        tracing::info!(
            rebuilt = opened.rebuilt,
            records = opened.records_read,
            torn = opened.torn_bytes,
            copies = opened.torn_copies,
            "store opened"
        );
    }
    if !opened.gaps.is_empty() || opened.damaged > 0 || opened.conflicts > 0 {
        tracing::warn!(
            gaps = opened.gaps.len(),
            damaged = opened.damaged,
            conflicts = opened.conflicts,
            "the store's log has damage; what it hit is repaired from the other slots"
        );
    }
}
