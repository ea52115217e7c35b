//! The chunk index: which row of runs a chunk stands in. Files beside the database, since a database row for each chunk
//! costs twenty times as much of everything (`docs/adr/0015-chunk-index.md`).
//!
//! It is derived: the rows of runs are the truth, and every answer is looked up there before anybody believes it. So nothing
//! in here is synced; what is missing, torn or of another moment is made anew from the rows. A catalogue counts the chunks
//! that it ever recorded, in the batch that records them; the index says up to which count it goes, and an index that does not
//! say the same is not used.
//!
//! New entries wait in memory, [`WAITING_MAX`] at most, then become a sorted file; a file that is not twice as large as the one
//! after it is merged with that, so there are some ten files for a hundred million chunks, and each entry is written as
//! often.
//!
//! Memory: 3 MiB for what waits, 3 MiB for rows looked at of late, 8 bytes for 255 entries, and for a backup a
//! [`filter`] of a byte a chunk, at most 32 MiB. Disk: 16 bytes a chunk, up to twice that while merging.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_proto::{
    ChunkId,
    index::{RunPlace, RunRow, StripeNo},
};

mod filter;
mod sorted;
#[cfg(test)]
mod tests;

use filter::Filter;
use sorted::{Entry, Sorted, Writer, merge, prefix_of};

/// Entries that wait in memory: half a gigabyte of a stream.
const WAITING_MAX: usize = 1 << 16;
/// Chunks of rows looked at of late that are remembered: those that follow a chunk which is known are mostly known as well.
const RECENT_MAX: usize = 1 << 14;
/// Stripe numbers below this fit into an entry: a million groups have 2^28.
const STRIPES_END: u64 = 1 << 40;

const MAGIC: &[u8; 8] = b"CAIRNCI1";

/// The key of a row of runs: where its first run lies, or lay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    pub(super) stripe: StripeNo,
    pub(super) offset: u32,
}

impl From<&RunPlace> for RowKey {
    fn from(place: &RunPlace) -> Self {
        Self { stripe: place.stripe, offset: place.offset }
    }
}

fn prefix(id: &ChunkId) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_be_bytes(bytes) >> 8
}

/// The index of one catalogue.
#[derive(Debug)]
pub(super) struct Chunks {
    dir: PathBuf,
    instance: [u8; 16],
    /// Oldest first, each at least twice as large as the next.
    files: Vec<Sorted>,
    next_file: u64,
    waiting: BTreeSet<Entry>,
    /// How many chunks the catalogue has recorded with what is in here.
    pub(super) recorded: u64,
    /// The same as the files say it.
    saved: Option<u64>,
    filter: Option<Filter>,
    /// Chunks of rows looked at of late: that they are there, not where, since a newer place may stand elsewhere.
    recent: HashSet<ChunkId>,
    /// The row that was looked at last.
    pub(super) last: Option<(RowKey, Arc<Vec<RunRow>>)>,
    /// Whether stripes are lost: then where a chunk lies decides whether it is there.
    pub(super) careful: bool,
}

impl Chunks {
    /// The folder in a catalogue's folder.
    pub(super) fn dir(catalogue: &Path) -> PathBuf {
        catalogue.join("chunks")
    }

    /// An empty index that replaces whatever is there.
    pub(super) fn anew(dir: PathBuf, instance: [u8; 16]) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir_all(&dir)?,
        }
        Ok(Self {
            dir,
            instance,
            files: Vec::new(),
            next_file: 1,
            waiting: BTreeSet::new(),
            recorded: 0,
            saved: None,
            filter: None,
            recent: HashSet::new(),
            last: None,
            careful: false,
        })
    }

    /// The index that is there, if it is whole and of this very moment of the catalogue.
    pub(super) fn open(dir: PathBuf, instance: [u8; 16], recorded: u64) -> Option<Self> {
        let bytes = fs::read(dir.join("list")).ok()?;
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let (head, numbers) = body.split_at_checked(24)?;
        let (numbers, []) = numbers.as_chunks::<8>() else { return None };
        let numbers: Vec<u64> = numbers.iter().map(|n| u64::from_le_bytes(*n)).collect();
        let (covers, listed) = numbers.split_first()?;
        let (listed, []) = listed.as_chunks::<2>() else { return None };
        if crc32c::crc32c(body) != u32::from_le_bytes(*sum)
            || head != [&MAGIC[..], &instance].concat()
            || *covers != recorded
        {
            return None;
        }
        let files: io::Result<Vec<_>> = listed.iter().map(|[no, entries]| Sorted::open(&dir, *no, *entries)).collect();
        let files = files.ok()?;
        let listed: BTreeSet<String> = listed.iter().map(|[no, _]| format!("{no:08}")).collect();
        for stray in fs::read_dir(&dir).ok()?.filter_map(Result::ok) {
            let name = stray.file_name().to_string_lossy().into_owned();
            if name != "list" && !listed.contains(&name) {
                let _ = fs::remove_file(stray.path());
            }
        }
        Some(Self {
            next_file: files.iter().map(|file| file.no).max().unwrap_or(0) + 1,
            dir,
            instance,
            files,
            waiting: BTreeSet::new(),
            recorded,
            saved: Some(recorded),
            filter: None,
            recent: HashSet::new(),
            last: None,
            careful: false,
        })
    }

    /// Adds the chunks of a row of runs.
    pub(super) fn insert(&mut self, row: RowKey, runs: &[RunRow]) -> io::Result<()> {
        if row.stripe.0 >= STRIPES_END {
            return Err(io::Error::other("a stripe's number is too high for the chunk index"));
        }
        for (id, _) in runs.iter().flat_map(|run| &run.chunks) {
            let prefix = prefix(id);
            if let Some(filter) = &mut self.filter {
                filter.insert(prefix);
            }
            let place = (u128::from(row.stripe.0) << 32) | u128::from(row.offset);
            self.waiting.insert((u128::from(prefix) << 72) | place);
        }
        if self.waiting.len() >= WAITING_MAX { self.spill() } else { Ok(()) }
    }

    /// Rows that the chunk may stand in, none twice.
    pub(super) fn candidates(&mut self, id: &ChunkId) -> io::Result<Vec<RowKey>> {
        let prefix = prefix(id);
        if self.filter.as_ref().is_some_and(|filter| !filter.may_have(prefix)) {
            return Ok(Vec::new());
        }
        let low = u128::from(prefix) << 72;
        let mut found: Vec<Entry> = self.waiting.range(low..=(low | ((1 << 72) - 1))).copied().collect();
        for file in &self.files {
            file.find(prefix, &mut found)?;
        }
        found.sort_unstable();
        found.dedup();
        let key = |e: Entry| RowKey { stripe: StripeNo((e >> 32) as u64 & (STRIPES_END - 1)), offset: e as u32 };
        Ok(found.into_iter().map(key).collect())
    }

    /// Makes sure that most new chunks are known as such without a look at the files, for whoever looks for many.
    pub(super) fn expect_new(&mut self) -> io::Result<()> {
        if self.filter.as_ref().is_some_and(|filter| !filter.is_full()) {
            return Ok(());
        }
        // The old one goes first, so that there are never two.
        self.filter = None;
        let keys = self.files.iter().map(|file| file.entries).sum::<u64>() + self.waiting.len() as u64;
        let mut filter = Filter::for_keys(keys.saturating_add(keys / 2));
        self.waiting.iter().for_each(|entry| filter.insert(prefix_of(*entry)));
        for file in &self.files {
            for entry in file.iter() {
                filter.insert(prefix_of(entry?));
            }
        }
        self.filter = Some(filter);
        Ok(())
    }

    /// Whether the chunk was looked at of late.
    pub(super) fn recent(&self, id: &ChunkId) -> bool {
        !self.careful && self.recent.contains(id)
    }

    /// Remembers a row that was looked at.
    pub(super) fn remember(&mut self, runs: &[RunRow]) {
        let more = runs.iter().map(|run| run.chunks.len()).sum::<usize>();
        if self.recent.len() + more > RECENT_MAX {
            self.recent.clear();
        }
        if self.careful || more > RECENT_MAX {
            return;
        }
        for run in runs {
            self.recent.extend(run.chunks.iter().map(|(id, _)| *id));
        }
    }

    /// Forgets the rows that were looked at: they change.
    pub(super) fn forget(&mut self) {
        self.recent = HashSet::new();
        self.last = None;
    }

    /// Writes what waits, so that the next one to open the catalogue finds an index that is complete.
    pub(super) fn save(&mut self) -> io::Result<()> {
        if self.saved == Some(self.recorded) && self.waiting.is_empty() { Ok(()) } else { self.spill() }
    }

    fn spill(&mut self) -> io::Result<()> {
        let mut replaced = Vec::new();
        if !self.waiting.is_empty() {
            let no = self.take_number();
            let mut out = Writer::new(&self.dir, no)?;
            self.waiting.iter().try_for_each(|entry| out.push(*entry))?;
            self.files.push(out.finish(&self.dir)?);
            self.waiting.clear();
            while let [.., older, newer] = &self.files[..]
                && older.entries < 2 * newer.entries
            {
                let merged = merge(&self.dir, self.next_file, older, newer)?;
                self.next_file += 1;
                replaced.extend(self.files.drain(self.files.len() - 2..));
                self.files.push(merged);
            }
        }
        // They are named until the new list stands.
        self.write_list()?;
        replaced.into_iter().for_each(|file| file.remove(&self.dir));
        Ok(())
    }

    fn take_number(&mut self) -> u64 {
        self.next_file += 1;
        self.next_file - 1
    }

    fn write_list(&mut self) -> io::Result<()> {
        let mut bytes = [&MAGIC[..], &self.instance].concat();
        let listed = self.files.iter().flat_map(|file| [file.no, file.entries]);
        bytes.extend([self.recorded].into_iter().chain(listed).flat_map(u64::to_le_bytes));
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let temporary = self.dir.join("list.new");
        fs::write(&temporary, bytes)?;
        fs::rename(&temporary, self.dir.join("list"))?;
        self.saved = Some(self.recorded);
        Ok(())
    }
}

/// Whether the error says that the index is not what was written, so that a new one helps.
pub(super) fn is_broken(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}
