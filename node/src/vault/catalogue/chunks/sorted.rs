//! One file of the chunk index: entries in order, in blocks that are read and checked alone.
//!
//! Blocks of 4 KiB: up to 255 entries of 16 bytes, big-endian; at 4080 how many (`u16`), at 4092 the CRC32C of all before it.
//! Behind them the first entry's prefix of each block (`u64`), then how many blocks and entries there are (`u64` each),
//! and the CRC32C of all that. Numbers are little-endian.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// A chunk's prefix (56 bits), then where its row lies: stripe (40 bits) and offset (32 bits).
pub(super) type Entry = u128;

const BLOCK: usize = 4096;
const ENTRY: usize = size_of::<Entry>();
const PER_BLOCK: usize = 255;
const COUNT_AT: usize = PER_BLOCK * ENTRY;
const SUM_AT: usize = BLOCK - 4;
const FOOT: usize = 8 + 8 + 4;

/// The prefix that an entry is found by.
pub(super) const fn prefix_of(entry: Entry) -> u64 {
    (entry >> 72) as u64
}

/// What says that a file is not what was written; the index is made anew then.
pub(super) fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the chunk index is damaged")
}

fn name(dir: &Path, no: u64) -> PathBuf {
    dir.join(format!("{no:08}"))
}

/// A file that is complete. 8 bytes of memory a block, so 4 MiB for a hundred million chunks.
#[derive(Debug)]
pub(super) struct Sorted {
    pub(super) no: u64,
    pub(super) entries: u64,
    file: File,
    fences: Vec<u64>,
}

impl Sorted {
    /// Opens a file; it must have that many entries.
    pub(super) fn open(dir: &Path, no: u64, entries: u64) -> io::Result<Self> {
        let file = File::open(name(dir, no))?;
        let length = file.metadata()?.len();
        let blocks = entries.div_ceil(PER_BLOCK as u64);
        if blocks.checked_mul(BLOCK as u64 + 8).and_then(|n| n.checked_add(FOOT as u64)) != Some(length) {
            return Err(broken());
        }
        let mut foot = vec![0; blocks as usize * 8 + FOOT];
        file.read_exact_at(&mut foot, blocks * BLOCK as u64)?;
        let (body, sum) = foot.split_last_chunk::<4>().ok_or_else(broken)?;
        let (numbers, []) = body.as_chunks::<8>() else { return Err(broken()) };
        let mut fences: Vec<u64> = numbers.iter().map(|n| u64::from_le_bytes(*n)).collect();
        let counts = fences.split_off(blocks as usize);
        if crc32c::crc32c(body) != u32::from_le_bytes(*sum) || counts != [blocks, entries] || !fences.is_sorted() {
            return Err(broken());
        }
        Ok(Self { no, entries, file, fences })
    }

    /// Removes the file; what cannot be removed is a stray that the next opening removes.
    pub(super) fn remove(self, dir: &Path) {
        let _ = std::fs::remove_file(name(dir, self.no));
    }

    fn block(&self, at: usize, bytes: &mut [u8; BLOCK]) -> io::Result<usize> {
        self.file.read_exact_at(bytes, at as u64 * BLOCK as u64)?;
        let count = usize::from(u16::from_le_bytes([bytes[COUNT_AT], bytes[COUNT_AT + 1]]));
        if bytes.last_chunk() != Some(&crc32c::crc32c(&bytes[..SUM_AT]).to_le_bytes()) || count > PER_BLOCK {
            return Err(broken());
        }
        Ok(count)
    }

    /// Adds every entry with this prefix.
    pub(super) fn find(&self, prefix: u64, found: &mut Vec<Entry>) -> io::Result<()> {
        // The block before the first that begins with the prefix may end with it.
        let first = self.fences.partition_point(|fence| *fence < prefix).saturating_sub(1);
        let mut bytes = [0; BLOCK];
        for (at, _) in self.fences.iter().enumerate().skip(first).take_while(|(_, fence)| **fence <= prefix) {
            let count = self.block(at, &mut bytes)?;
            let (entries, _) = bytes[..count * ENTRY].as_chunks::<ENTRY>();
            let begin = entries.partition_point(|e| prefix_of(Entry::from_be_bytes(*e)) < prefix);
            let same = entries[begin..].iter().map(|e| Entry::from_be_bytes(*e));
            found.extend(same.take_while(|e| prefix_of(*e) == prefix));
        }
        Ok(())
    }

    /// Every entry, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = io::Result<Entry>> {
        let mut bytes = [0; BLOCK];
        (0..self.fences.len()).flat_map(move |at| {
            let (read, failed) = match self.block(at, &mut bytes) {
                Ok(count) => (bytes[..count * ENTRY].as_chunks::<ENTRY>().0.to_vec(), None),
                Err(e) => (Vec::new(), Some(Err(e))),
            };
            read.into_iter().map(|e| Ok(Entry::from_be_bytes(e))).chain(failed)
        })
    }
}

/// Writes a file, without syncing it: the index can be made anew, and a file that is torn shows it.
#[derive(Debug)]
pub(super) struct Writer {
    no: u64,
    out: BufWriter<File>,
    block: Vec<u8>,
    fences: Vec<u64>,
    entries: u64,
}

impl Writer {
    pub(super) fn new(dir: &Path, no: u64) -> io::Result<Self> {
        let out = BufWriter::with_capacity(64 << 10, File::create(name(dir, no))?);
        Ok(Self { no, out, block: Vec::with_capacity(BLOCK), fences: Vec::new(), entries: 0 })
    }

    /// The next entry, not smaller than those before.
    pub(super) fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.block.is_empty() {
            self.fences.push(prefix_of(entry));
        }
        self.block.extend_from_slice(&entry.to_be_bytes());
        self.entries += 1;
        if self.block.len() == COUNT_AT { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        let count = (self.block.len() / ENTRY) as u16;
        self.block.resize(COUNT_AT, 0);
        self.block.extend_from_slice(&count.to_le_bytes());
        self.block.resize(SUM_AT, 0);
        let sum = crc32c::crc32c(&self.block);
        self.block.extend_from_slice(&sum.to_le_bytes());
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    /// Completes the file and opens it.
    pub(super) fn finish(mut self, dir: &Path) -> io::Result<Sorted> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let counts = [self.fences.len() as u64, self.entries];
        let mut foot: Vec<u8> = self.fences.iter().chain(&counts).flat_map(|n| n.to_le_bytes()).collect();
        foot.extend_from_slice(&crc32c::crc32c(&foot).to_le_bytes());
        self.out.write_all(&foot)?;
        self.out.flush()?;
        drop(self.out);
        Ok(Sorted { no: self.no, entries: self.entries, file: File::open(name(dir, self.no))?, fences: self.fences })
    }
}

/// Two files as one; what both have stands in it once.
pub(super) fn merge(dir: &Path, no: u64, a: &Sorted, b: &Sorted) -> io::Result<Sorted> {
    let mut out = Writer::new(dir, no)?;
    let (mut a, mut b) = (a.iter(), b.iter());
    let (mut left, mut right) = (a.next().transpose()?, b.next().transpose()?);
    while let Some(next) = left.into_iter().chain(right).min() {
        out.push(next)?;
        if left == Some(next) {
            left = a.next().transpose()?;
        }
        if right == Some(next) {
            right = b.next().transpose()?;
        }
    }
    out.finish(dir)
}
