//! Rows of runs: several runs in each, as many as a row may have, and where a chunk is found in them.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, MutexGuard},
};

use cairn_proto::{
    ChunkId,
    index::{IndexSegment, RunPlace, RunRow},
};

use super::{
    Catalogue, CatalogueError, Meta, Result,
    chunks::{Chunks, RowKey, is_broken},
    guard::Change,
    layout::{PENDING_RUN, ROW_MAX, RUN, encode_runs, meta_key, row_key, row_of_key},
};

/// What an encoded run takes at most, and each chunk in it.
const RUN_BYTES: usize = 40;
const CHUNK_BYTES: usize = 36;
/// What stands in a row beside its runs.
const ROW_BYTES: usize = 16;

enum Trouble {
    Index(io::Error),
    Other(CatalogueError),
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Self::Index(e)
    }
}

impl From<CatalogueError> for Trouble {
    fn from(e: CatalogueError) -> Self {
        Self::Other(e)
    }
}

/// Neighbours in rows; a run that is larger than a row is one alone.
fn in_rows(runs: &[RunRow]) -> impl Iterator<Item = &[RunRow]> {
    let mut size = 0;
    let mut rows = Vec::new();
    let mut first = 0;
    for (at, run) in runs.iter().enumerate() {
        let more = RUN_BYTES + run.chunks.len() * CHUNK_BYTES;
        if at > first && ROW_BYTES + size + more > ROW_MAX {
            rows.push(&runs[first..at]);
            (first, size) = (at, 0);
        }
        size += more;
    }
    rows.push(&runs[first..]);
    rows.into_iter().filter(|row| !row.is_empty())
}

impl Catalogue {
    /// Whether the chunk lies in acknowledged stripes.
    ///
    /// # Errors
    /// The disk.
    pub fn has_chunk(&self, id: &ChunkId) -> Result<bool> {
        self.with_chunks(|chunks| {
            if chunks.recent(id) {
                return Ok(true);
            }
            chunks.expect_new()?;
            let found = self.look_up(chunks, id)?.is_some();
            if let Some((_, row)) = chunks.last.clone().filter(|_| found) {
                chunks.remember(&row);
            }
            Ok(found)
        })
    }

    /// The run that a chunk lies in; the newest, if there are more.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn find_chunk(&self, id: &ChunkId) -> Result<Option<RunRow>> {
        self.with_chunks(|chunks| self.look_up(chunks, id))
    }

    fn look_up(&self, chunks: &mut Chunks, id: &ChunkId) -> Result<Option<RunRow>, Trouble> {
        let mut newest: Option<RunRow> = None;
        for key in chunks.candidates(id)? {
            // A row that is gone, and one that only begins with the same bytes, are no reason to worry.
            let row = match &chunks.last {
                Some((last, row)) if *last == key => row.clone(),
                _ => {
                    let Some(runs) = self.run_row(key)? else { continue };
                    let row = Arc::new(runs);
                    chunks.last = Some((key, row.clone()));
                    row
                }
            };
            let place = |run: &RunRow| (run.place.stripe, run.place.offset);
            let having = row.iter().filter(|run| run.chunks.iter().any(|(found, _)| found == id));
            newest = having.chain(&newest).max_by_key(|run| place(run)).cloned();
        }
        Ok(newest)
    }

    fn run_row(&self, key: RowKey) -> Result<Option<Vec<RunRow>>> {
        self.get(&row_key(RUN, key))?.map(|bytes| Ok(IndexSegment::decode(&bytes)?.runs)).transpose()
    }

    fn chunks(&self) -> MutexGuard<'_, Option<Chunks>> {
        // Whoever panicked with it may have left half of a change.
        self.db.chunks.lock().unwrap_or_else(|poisoned| {
            let mut chunks = poisoned.into_inner();
            *chunks = None;
            self.db.chunks.clear_poison();
            chunks
        })
    }

    /// Works with the chunk index, which is made anew when it turns out to be broken. Not to be called with the state locked.
    fn with_chunks<T>(&self, mut work: impl FnMut(&mut Chunks) -> Result<T, Trouble>) -> Result<T> {
        let mut guard = self.chunks();
        let mut healed = false;
        loop {
            let done = match &mut *guard {
                Some(chunks) => work(chunks),
                None => self.open_chunks(healed).and_then(|chunks| work(guard.insert(chunks))),
            };
            match done {
                Ok(done) => return Ok(done),
                Err(Trouble::Other(e)) => return Err(e),
                Err(Trouble::Index(e)) => {
                    // It may lack what the rows have by now; the next one looks again.
                    *guard = None;
                    if healed || !is_broken(&e) {
                        return Err(CatalogueError::Database(e.to_string().into()));
                    }
                    healed = true;
                }
            }
        }
    }

    fn open_chunks(&self, anew: bool) -> Result<Chunks, Trouble> {
        let recorded = self.recorded_chunks()?;
        let identity = self.meta(Meta::Identity)?.unwrap_or_default();
        let instance = identity.last_chunk::<16>().copied().ok_or(CatalogueError::Damaged("it has no identity"))?;
        let dir = Chunks::dir(&self.db.path);
        let there = if anew { None } else { Chunks::open(dir.clone(), instance, recorded) };
        let mut chunks = match there {
            Some(chunks) => chunks,
            None => {
                let mut chunks = Chunks::anew(dir, instance)?;
                for item in self.scan(RUN) {
                    let (key, value) = item?;
                    let key = row_of_key(&key).ok_or(CatalogueError::Damaged("a key of runs"))?;
                    chunks.insert(key, &IndexSegment::decode(&value).map_err(CatalogueError::from)?.runs)?;
                }
                chunks.recorded = recorded;
                chunks.save()?;
                chunks
            }
        };
        chunks.careful = !self.lost()?.is_empty();
        Ok(chunks)
    }

    fn recorded_chunks(&self) -> Result<u64> {
        let Some(bytes) = self.meta(Meta::Chunks)? else { return Ok(0) };
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| CatalogueError::Damaged("the count of chunks"))?))
    }

    /// Applies a change that adds these runs, `pending` or not, and tells the chunk index.
    pub(super) fn apply_with_runs(&self, change: Change, runs: &[RunRow], pending: bool) -> Result<()> {
        if runs.is_empty() {
            return self.apply(change);
        }
        let mut change = Some(change);
        self.with_chunks(|chunks| {
            let recorded = chunks.recorded + runs.iter().map(|run| run.chunks.len() as u64).sum::<u64>();
            // Not a second time when the index had to be made anew: then it has them already.
            if let Some(mut change) = change.take() {
                for row in in_rows(runs) {
                    let key = RowKey::from(&row[0].place);
                    change.put(&row_key(RUN, key), encode_runs(row)?);
                    if pending {
                        change.put(&row_key(PENDING_RUN, key), Vec::new());
                    }
                }
                change.put(&meta_key(Meta::Chunks), recorded.to_le_bytes().to_vec());
                self.apply(change)?;
                chunks.forget();
                for row in in_rows(runs) {
                    chunks.insert(RowKey::from(&row[0].place), row)?;
                }
                // Only now: what is written on the way must not say that it has all of them.
                chunks.recorded = recorded;
            }
            Ok(())
        })
    }

    /// Those of the runs that do not stand here yet, by their places.
    pub(super) fn without_known(&self, runs: &[RunRow]) -> Result<Vec<RunRow>> {
        self.with_chunks(|chunks| {
            chunks.expect_new()?;
            let mut new = Vec::new();
            for run in runs {
                let mut known = false;
                if let Some((first, _)) = run.chunks.first() {
                    for key in chunks.candidates(first)? {
                        let row = self.run_row(key)?.unwrap_or_default();
                        known |= row.iter().any(|there| there.place == run.place);
                    }
                }
                if !known {
                    new.push(run.clone());
                }
            }
            Ok(new)
        })
    }

    /// Makes the chunk index as complete on disk as the rows are. When it cannot be, as on a full disk, it is made anew from them
    /// when it is wanted: nothing that stands fails for it.
    pub(super) fn save_chunks(&self) {
        let mut guard = self.chunks();
        if let Some(Err(error)) = guard.as_mut().map(Chunks::save) {
            tracing::warn!(%error, "where chunks lie was not written down; it will be looked up in the rows again");
            *guard = None;
        }
    }

    /// What was looked at may be told no more: stripes are lost or came back, or rows changed.
    pub(super) fn forget_recent(&self) -> Result<()> {
        let mut guard = self.chunks();
        if let Some(chunks) = &mut *guard {
            chunks.careful = !self.lost()?.is_empty();
            chunks.forget();
        }
        Ok(())
    }

    /// Every run, in order of rows.
    pub fn runs(&self) -> impl Iterator<Item = Result<RunRow>> {
        self.run_rows().flat_map(|row| {
            let (runs, failed) = match row {
                Ok((_, runs)) => (runs, None),
                Err(e) => (Vec::new(), Some(Err(e))),
            };
            runs.into_iter().map(Ok).chain(failed)
        })
    }

    /// Every row of runs, with its key.
    pub(super) fn run_rows(&self) -> impl Iterator<Item = Result<(RowKey, Vec<RunRow>)>> {
        self.scan(RUN).map(|item| {
            let (key, value) = item?;
            let key = row_of_key(&key).ok_or(CatalogueError::Damaged("a key of runs"))?;
            Ok((key, IndexSegment::decode(&value)?.runs))
        })
    }

    /// Rows of runs that wait for a segment, in order, until they take `limit` bytes or more; whether there are more.
    pub(super) fn pending_runs(&self, limit: usize, taken: &mut usize) -> Result<(Vec<RunRow>, bool)> {
        let mut runs = Vec::new();
        for item in self.tree.scan_prefix([PENDING_RUN]).keys() {
            if *taken >= limit {
                return Ok((runs, true));
            }
            let mut key = item?.to_vec();
            key[0] = RUN;
            let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a pending run is missing"))?;
            *taken += bytes.len();
            runs.extend(IndexSegment::decode(&bytes)?.runs);
        }
        Ok((runs, false))
    }

    /// Notes that the runs at these places stand in a segment: a row waits no more when all of its runs do. They are those that
    /// have waited first, so nothing behind the first row that still waits is looked at.
    pub(super) fn runs_are_in_segments(&self, places: &[RunPlace], change: &mut Change) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let places: HashSet<RunPlace> = places.iter().copied().collect();
        for item in self.tree.scan_prefix([PENDING_RUN]).keys() {
            let pending = item?.to_vec();
            let mut key = pending.clone();
            key[0] = RUN;
            let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a pending run is missing"))?;
            if !IndexSegment::decode(&bytes)?.runs.iter().all(|run| places.contains(&run.place)) {
                break;
            }
            change.remove(pending);
        }
        Ok(())
    }
}
