//! Records to the end of the log: one vectored write and one sync a batch, a new segment when one is full.
//!
//! # Invariants
//!
//! - **DUR-4** No answer before the records behind it are synced. Enforced by [`Writer::commit`]; attacked by
//!   `tests::crashes`.

use std::{
    io::{self, IoSlice},
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use cairn_proto::{ByteSize, record::Record};

use super::{
    super::{StoreError, disk::SegmentFile, index::Place},
    Writer,
};

/// The segment that is being written.
pub(super) struct Active {
    pub(super) number: u32,
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) end: u64,
}

impl Writer {
    /// Ends the segment that is being written, so that compaction may empty it.
    pub(in crate::store) fn seal_active(&mut self) {
        self.active = None;
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
        let heads: Vec<Vec<u8>> = records.iter().map(|(r, _)| r.encode(&self.key)).collect();
        let active = self.active_with_room()?;
        let (number, file, start) = (active.number, active.file.clone(), active.end);
        let mut slices = Vec::with_capacity(2 * records.len());
        let mut places = Vec::with_capacity(records.len());
        let mut end = start;
        for (head, (_, payload)) in heads.iter().zip(records) {
            places.push(Place { segment: number, offset: end });
            slices.push(IoSlice::new(head));
            end += head.len() as u64;
            if let Some(payload) = payload {
                slices.push(IoSlice::new(payload));
                end += payload.len() as u64;
            }
        }
        if let Err(e) = write_all(file.as_ref(), &mut slices, start) {
            self.undo(&file, start);
            return Err(no_space(&e, end - start).unwrap_or_else(|| StoreError::io("writing to the log")(e)));
        }
        if let Err(e) = file.sync() {
            self.undo(&file, start);
            // The kernel may have dropped pages, and says so once: what follows goes to a new segment.
            self.active = None;
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
        for ((record, _), place) in records.iter().zip(places) {
            rows.extend(index.apply(record, place).unwrap_or_default());
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
        if self.active.as_ref().is_some_and(|a| a.end >= self.config.segment_size.0) {
            self.active = None;
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
