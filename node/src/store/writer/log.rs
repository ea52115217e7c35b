//! Records to the end of the log: one vectored write and one sync a batch, a new segment when one is full.
//!
//! # Invariants
//!
//! - **DUR-4** No answer before the records behind it are synced. Enforced by [`Writer::commit`]; attacked by
//!   `tests::crashes`.

use std::{
    io::{self, IoSlice},
    ops::Range,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use cairn_proto::{
    ByteSize,
    record::{DISK_BLOCK, Record, RecordKey, SPACE_HEAD},
};

use super::{
    super::{StoreError, disk::SegmentFile, index::Place},
    Writer,
};

/// What a commit writes: payloads as they lie in memory, each from a block of the disk on, and between them all else together.
struct Layout<'a> {
    /// Heads and spaces; what belongs on a block of the disk lies on one in memory too, from `from` on.
    small: Vec<u8>,
    from: usize,
    pieces: Vec<Piece<'a>>,
    /// Where in the segment each record begins.
    offsets: Vec<u64>,
    /// Where in the segment the last one ends.
    end: u64,
}

enum Piece<'a> {
    Small(Range<usize>),
    Payload(&'a [u8]),
}

impl<'a> Layout<'a> {
    fn new(records: &'a [(Record, Option<Bytes>)], key: &RecordKey, start: u64) -> Self {
        let heads: Vec<Vec<u8>> = records.iter().map(|(record, _)| record.encode(key)).collect();
        // The buffer never grows, or it would lie elsewhere.
        let most = heads.iter().map(|head| head.len() + DISK_BLOCK + SPACE_HEAD).sum::<usize>() + 2 * DISK_BLOCK;
        let mut small: Vec<u8> = Vec::with_capacity(most);
        let from = small.as_ptr().align_offset(DISK_BLOCK).min(DISK_BLOCK);
        let begin = from + (start % DISK_BLOCK as u64) as usize;
        small.resize(begin, 0);
        let mut layout = Self { small, from, pieces: Vec::new(), offsets: Vec::new(), end: start };
        let mut open = begin;
        for (head, (_, payload)) in heads.iter().zip(records) {
            if payload.is_some() {
                layout.space_before(head.len(), key);
            }
            layout.offsets.push(layout.end);
            layout.put(head);
            if let Some(payload) = payload {
                layout.pieces.extend([Piece::Small(open..layout.small.len()), Piece::Payload(payload)]);
                open = layout.small.len();
                layout.end += payload.len() as u64;
            }
        }
        layout.pieces.push(Piece::Small(open..layout.small.len()));
        layout
    }

    fn put(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        self.end += bytes.len() as u64;
    }

    /// Has what comes after a head of so many bytes begin on a block.
    fn space_before(&mut self, head: usize, key: &RecordKey) {
        let over = ((self.end + head as u64) % DISK_BLOCK as u64) as usize;
        let gap = (DISK_BLOCK - over) % DISK_BLOCK;
        // Records are multiples of a space's head.
        if let Some(length) = gap.checked_sub(SPACE_HEAD) {
            self.put(&Record::Space { length: length as u32 }.encode(key));
            self.put(&[0; DISK_BLOCK][..length]);
        }
    }

    /// What to write, in order; whole blocks apart from what is none.
    fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(4 * self.pieces.len());
        for piece in &self.pieces {
            match piece {
                Piece::Payload(payload) => slices.push(IoSlice::new(payload)),
                Piece::Small(range) => {
                    let (begin, end) = (range.start - self.from, range.end - self.from);
                    let first = begin.next_multiple_of(DISK_BLOCK).min(end);
                    let last = (end - end % DISK_BLOCK).max(first);
                    for (begin, end) in [(begin, first), (first, last), (last, end)] {
                        if begin < end {
                            slices.push(IoSlice::new(&self.small[self.from + begin..self.from + end]));
                        }
                    }
                }
            }
        }
        slices
    }
}

/// The segment that is being written.
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) end: u64,
}

impl Writer {
    /// Ends the segment that is being written, so that compaction may empty it.
    pub(in crate::store) fn seal_active(&mut self) {
        if let Some(active) = self.active.take() {
            active.file.finished();
        }
    }

    pub(in crate::store) fn active_segment(&self) -> Option<u32> {
        self.active.as_ref().map(|a| a.number)
    }

    /// Writes and syncs the records, then takes them into the index; the database hears of them later. All or, for those who ask,
    /// nothing.
    pub(in crate::store) fn commit(&mut self, records: &[(Record, Option<Bytes>)]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let active = self.active_with_room()?;
        let (number, file, start) = (active.number, active.file.clone(), active.end);
        let layout = Layout::new(records, &self.key, start);
        let end = layout.end;
        if let Err(e) = write_all(file.as_ref(), &mut layout.slices(), start) {
            self.undo(&file, start);
            return Err(no_space(&e, end - start).unwrap_or_else(|| StoreError::io("writing to the log")(e)));
        }
        if let Err(e) = file.sync() {
            self.undo(&file, start);
            // The kernel may have dropped pages, and says so once: what follows goes to a new segment.
            self.seal_active();
            return Err(no_space(&e, end - start).unwrap_or_else(|| StoreError::io("syncing the log")(e)));
        }
        if let Some(active) = &mut self.active {
            active.end = end;
        }
        let mut rows = Vec::new();
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = index.segments.get_mut(&number) {
            segment.len = end;
        }
        for ((record, _), offset) in records.iter().zip(layout.offsets) {
            rows.extend(index.apply(record, Place { segment: number, offset }).unwrap_or_default());
        }
        drop(index);
        self.changed(rows, end - start);
        Ok(())
    }

    /// Takes the tail of a failed write away.
    fn undo(&mut self, file: &Arc<dyn SegmentFile>, start: u64) {
        if let Err(e) = file.truncate(start) {
            tracing::error!(error = %e, "a failed write could not be undone: the store only reads until the next start");
            self.read_only = true;
        }
    }

    fn active_with_room(&mut self) -> Result<&mut Active, StoreError> {
        if let Some(full) = self.active.take_if(|active| active.end >= self.config.segment_size.0) {
            full.file.finished();
        }
        let active = match self.active.take() {
            Some(active) => active,
            None => self.new_segment()?,
        };
        Ok(self.active.insert(active))
    }

    fn new_segment(&mut self) -> Result<Active, StoreError> {
        let number = self.next_number;
        // Never the same number twice: a file that could not be removed must not be met again.
        self.next_number += 1;
        let name = segment_name(number);
        let start = Record::Segment { number }.encode(&self.key);
        let made = self.disk.create(&name).and_then(|file| {
            write_all(file.as_ref(), &mut [IoSlice::new(&start)], 0)?;
            file.sync()?;
            self.disk.sync_folder()?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                index.add_segment(number, file.clone(), start.len() as u64);
                Ok(Active { number, file, end: start.len() as u64 })
            }
            Err(e) => {
                let _ = self.disk.remove(&name);
                Err(no_space(&e, start.len() as u64).unwrap_or_else(|| StoreError::io("making a segment")(e)))
            }
        }
    }
}

/// File name of a segment.
pub(in crate::store) fn segment_name(number: u32) -> String {
    format!("{number:08}.seg")
}

fn write_all(file: &dyn SegmentFile, mut slices: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    while !slices.is_empty() {
        // Linux takes at most 1024 slices at once.
        let some = slices.len().min(1024);
        match file.write_at(&slices[..some], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                IoSlice::advance_slices(&mut slices, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn no_space(error: &io::Error, needed: u64) -> Option<StoreError> {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        .then_some(StoreError::NoSpace { needed: ByteSize(needed), free: ByteSize(0) })
}
