//! Gives space back: copies what still counts out of sparse segments into the newest one, then removes them.
//!
//! Log order is kept in meaning: a copy carries the whole state of its shard at the moment of copying, so whichever
//! older records of it are left, the copy is the last word. The copies are synced before the old file goes.
//!
//! - **STORE-2** Compaction changes no answer. Attacked by `tests::life::compaction_changes_no_answer`.

use std::{ops::ControlFlow, sync::PoisonError};

use bytes::Bytes;
use cairn_proto::record::{Change, Record, SHARD_RECORD, ShardHead};

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
                (empty || sparse) && !self.unmovable.contains(number)
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
        walk(file.as_ref(), &writer.key, from, len, Payloads::Skip, |found| {
            let place = Place { segment: number, offset: found.offset };
            seen += 1;
            for copy in copies_of(writer, &found.record, place) {
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
        match stop {
            Some(next) if next < len => Ok(Step::More(next)),
            _ => Self::finish(writer, number, len),
        }
    }

    fn finish(writer: &mut Writer, number: u32, len: u64) -> Result<Step, StoreError> {
        let left = writer.read_index().segments.get(&number).map_or(0, |s| s.current);
        if left > SEGMENT_START {
            tracing::warn!(segment = number, bytes = left, "damaged records keep a segment from being emptied");
            writer.unmovable.insert(number);
            return Ok(Step::Kept);
        }
        // The database must not point into a file that is gone, or the next start would scan everything.
        if let Some(database) = &writer.database {
            database.flush();
        }
        let io = StoreError::io("removing an empty segment");
        writer.disk.remove(&segment_name(number)).map_err(&io)?;
        writer.disk.sync_folder().map_err(&io)?;
        writer.index.write().unwrap_or_else(PoisonError::into_inner).remove_segment(number);
        // The checkpoint may have stood in the segment that went.
        writer.record(&[]);
        Ok(Step::Removed(len))
    }
}

/// What has to be written elsewhere before this record may go.
fn copies_of(writer: &Writer, record: &Record, place: Place) -> Vec<(Record, Option<Bytes>)> {
    let index = writer.read_index();
    match record {
        Record::Segment { .. } => Vec::new(),
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
            let needed = index.entry(&s.group, s.ordinal).is_none()
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
