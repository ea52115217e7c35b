//! Gives space back: copies what still counts out of sparse segments into the newest one, then removes them.
//!
//! Log order is kept in meaning: a copy carries the whole state of its shard at the moment of copying, so whichever
//! older records of it are left, the copy is the last word. The copies are synced before the old file goes.
//!
//! - **STORE-2** Compaction changes no answer. Attacked by `tests::life::compaction_changes_no_answer`.

use std::{collections::BTreeSet, io::ErrorKind, ops::ControlFlow, sync::PoisonError};

use bytes::Bytes;
use cairn_proto::{
    GroupId,
    record::{Change, Record, SHARD_RECORD, ShardHead},
};

use super::{
    StoreError,
    index::{Place, SEGMENT_START, Stage},
    reader::{Expected, read_verified},
    scan::{Payloads, walk},
    writer::{Writer, segment_name, state_of},
};

/// Bytes copied in one step: puts wait for no more than this between two steps.
const STEP_BYTES: u64 = 8 << 20;
/// Records looked at in one step, for segments full of small ones.
const STEP_RECORDS: usize = 8192;

/// How far a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on from here.
    More(u64),
    /// Its file is gone; this many bytes came back.
    Removed(u64),
    /// Something in it counts and cannot be moved.
    Kept,
}

impl Writer {
    /// Segments with at least this share of garbage, oldest first.
    pub(super) fn plan_compaction(&mut self, least_dead_percent: u64) -> Vec<u32> {
        let index = self.read_index();
        let sparse: Vec<u32> = index
            .segments
            .iter()
            .filter(|(number, s)| {
                let dead = s.len.saturating_sub(s.current);
                let empty = s.current <= SEGMENT_START && self.active_segment() != Some(**number);
                let sparse = dead > 0 && dead * 100 >= s.len * least_dead_percent;
                (empty || sparse) && self.unmovable.get(number) != Some(&s.current)
            })
            .map(|(number, _)| *number)
            .collect();
        drop(index);
        if self.active_segment().is_some_and(|active| sparse.contains(&active)) {
            self.seal_active();
        }
        sparse
    }
}

/// One step of emptying one segment.
pub(super) struct Pass;

impl Pass {
    pub(super) fn step(writer: &mut Writer, number: u32, from: u64) -> Result<Step, StoreError> {
        let Some((file, len)) = writer.read_index().segments.get(&number).map(|s| (s.file.clone(), s.len)) else {
            return Ok(Step::Removed(0));
        };
        if writer.active_segment() == Some(number) {
            return Ok(Step::Kept);
        }
        let (mut copies, mut bytes, mut seen, mut stop) = (Vec::new(), 0, 0, None);
        // The index learns of a copy when the step is written: a state that stands here many times is to go once.
        let (mut states, mut damaged) = (BTreeSet::new(), Vec::new());
        let walked = walk(file.as_ref(), &writer.key, from, len, Payloads::Skip, |found| {
            let place = Place { segment: number, offset: found.offset };
            seen += 1;
            for copy in copies_of(writer, &found.record, place, &mut damaged) {
                if let Record::State(s) = &copy.0 {
                    let purged = (s.change == Change::Purged).then_some(s.segment);
                    if !states.insert((s.group, s.ordinal, s.root, purged)) {
                        continue;
                    }
                }
                bytes += copy.1.as_ref().map_or(0, |_| SHARD_RECORD as u64);
                copies.push(copy);
            }
            if bytes < STEP_BYTES && seen < STEP_RECORDS {
                return ControlFlow::Continue(());
            }
            stop = Some(found.offset + found.head_len + found.record.payload_len() as u64);
            ControlFlow::Break(())
        });
        writer.commit(&copies)?;
        for (group, ordinal, place) in damaged {
            writer.mark(group, ordinal, place, true);
        }
        if walked.unreadable {
            return Ok(Self::keep(writer, number));
        }
        match stop {
            Some(next) if next < len => Ok(Step::More(next)),
            _ => Self::finish(writer, number, len),
        }
    }

    /// The segment stays, until less in it counts: a repair or a purge of what cannot be moved.
    fn keep(writer: &mut Writer, number: u32) -> Step {
        let left = writer.read_index().segments.get(&number).map_or(0, |s| s.current);
        tracing::warn!(segment = number, bytes = left, "damage keeps a segment from being emptied");
        writer.unmovable.insert(number, left);
        Step::Kept
    }

    fn finish(writer: &mut Writer, number: u32, len: u64) -> Result<Step, StoreError> {
        let left = writer.read_index().segments.get(&number).map_or(0, |s| s.current);
        if left > SEGMENT_START {
            return Ok(Self::keep(writer, number));
        }
        // The database must not point into a file that is gone, or the next start would scan everything.
        writer.tell_database();
        if let Some(database) = &writer.database {
            database.flush();
        }
        let io = StoreError::io("removing an empty segment");
        match writer.disk.remove(&segment_name(number)) {
            // An earlier attempt came this far.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other.map_err(&io)?,
        }
        writer.disk.sync_folder().map_err(&io)?;
        writer.index.write().unwrap_or_else(PoisonError::into_inner).remove_segment(number);
        // The checkpoint may have stood in the segment that went.
        writer.tell_database();
        Ok(Step::Removed(len))
    }
}

/// What has to be written elsewhere before this record may go. Shards that turn out to be damaged go to `damaged`.
fn copies_of(
    writer: &Writer,
    record: &Record,
    place: Place,
    damaged: &mut Vec<(GroupId, u8, Place)>,
) -> Vec<(Record, Option<Bytes>)> {
    let index = writer.read_index();
    match record {
        Record::Segment { .. } | Record::Space { .. } => Vec::new(),
        Record::Ledger { group, .. } => {
            let here = index.groups.get(group).is_some_and(|g| g.ledger_segment == Some(place.segment));
            if here { vec![(record.clone(), None)] } else { Vec::new() }
        }
        Record::Head(kept) => {
            let current = index.heads.get(&kept.vault);
            let here = current.is_some_and(|h| h.segment == place.segment && h.kept == *kept);
            if here { vec![(record.clone(), None)] } else { Vec::new() }
        }
        Record::Shard(s) => {
            let Some(entry) = index.entry(&s.group, s.ordinal).filter(|e| e.place == place).copied() else {
                return Vec::new();
            };
            let file = index.segments.get(&place.segment).map(|segment| segment.file.clone());
            let expected = Expected { group: s.group, slot: s.slot, ordinal: s.ordinal, root: s.root };
            // A damaged shard stays where it is, and its segment with it, until it is repaired or purged.
            let Some(Ok((_, payload))) = file.map(|f| read_verified(f.as_ref(), &writer.key, place.offset, &expected))
            else {
                damaged.push((s.group, s.ordinal, place));
                return Vec::new();
            };
            let head = ShardHead { lease_until: entry.lease_until, ..*s };
            let mut copies = vec![(Record::Shard(head), Some(payload))];
            if let Stage::Trash { since } = entry.stage {
                let state = state_of(&index, &s.group, s.ordinal, Change::Tombstone, since, None);
                copies.extend(state.map(|r| (r, None)));
            }
            copies
        }
        Record::State(s) if s.change == Change::Purged => {
            // Another shard at the place now says nothing about this one; the same one again is the last word itself.
            let needed = index.entry(&s.group, s.ordinal).is_none_or(|e| e.root != s.root)
                && index.segments.range(..=s.segment).any(|(number, _)| *number != place.segment);
            if needed { vec![(record.clone(), None)] } else { Vec::new() }
        }
        Record::State(s) => {
            let Some(entry) = index.entry(&s.group, s.ordinal).filter(|e| e.state_segment == Some(place.segment))
            else {
                return Vec::new();
            };
            let (change, at) = match entry.stage {
                Stage::Live => (Change::Lease, s.at),
                Stage::Trash { since } => (Change::Tombstone, since),
            };
            state_of(&index, &s.group, s.ordinal, change, at, None).map(|r| (r, None)).into_iter().collect()
        }
    }
}
