//! Content-defined chunking: where a source is cut, so that an insertion moves no cut but those near it.
//!
//! FastCDC's rules (least, intended and most bytes, cuts rarer before the intended size than behind it) with a hash of our
//! own ([`scan`], ADR 0014). The hash is keyed with the vault's seed, so cut points of known files cannot be compared with
//! the vault's. Cut points are part of the format (a different cut costs deduplication, never correctness):
//! `tests::golden_cuts` freezes them.

mod scan;
#[cfg(test)]
mod tests;

use scan::{Cutter, Rarity};

/// How a source is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkProfile {
    /// Files: 256 KiB at least, about 1 MiB, 4 MiB at most.
    Files,
    /// Streams such as database dumps, where a row changes here and there: 2, 8 and 64 KiB.
    Stream,
    /// Pages of one size, for databases that write in place; a power of two, 512 bytes to 1 MiB.
    Pages(PageSize),
    /// Metadata that has no structure of its own: 16, 64 and 512 KiB.
    Metadata,
}

/// A page size: a power of two from 512 bytes to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// Checks the size.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 1 << 20 { Some(Self(bytes)) } else { None }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl ChunkProfile {
    /// Fewest, intended and most bytes of a chunk. The last chunk of a source may be smaller.
    #[must_use]
    pub const fn sizes(self) -> (usize, usize, usize) {
        match self {
            Self::Files => (256 << 10, 1 << 20, 4 << 20),
            Self::Stream => (2 << 10, 8 << 10, 64 << 10),
            Self::Metadata => (16 << 10, 64 << 10, 512 << 10),
            Self::Pages(size) => (size.0 as usize, size.0 as usize, size.0 as usize),
        }
    }

    /// Bytes of a run before compression: what one random access decompresses. Files' chunks are read whole, so a
    /// run is about one chunk; streams' chunks are small and read near each other.
    #[must_use]
    pub const fn run_target(self) -> usize {
        match self {
            Self::Files => 1 << 20,
            Self::Stream | Self::Pages(_) | Self::Metadata => 256 << 10,
        }
    }
}

/// Bytes that one reading may bring, and the least room that [`Chunker::room`] gives.
pub const READ_ROOM: usize = 1 << 20;

/// Cuts a stream of bytes.
///
/// ```text
/// loop {
///     let n = source.read(chunker.room());
///     chunker.filled(n);
///     while let Some(chunk) = chunker.next_chunk() { .. }
/// }
/// while let Some(chunk) = chunker.finish() { .. }
/// ```
///
/// Bytes are cut as soon as they are there, while caches still have them. Memory: twice the largest chunk (8 MiB for files), at
/// least one of the largest and twice [`READ_ROOM`]; of which a source touches no more than it fills.
pub struct Chunker {
    profile: ChunkProfile,
    cutter: Cutter,
    /// As long as it ever gets, once it is used; what waits is in `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Length of the next chunk from which on nothing is known yet; 0 when nothing was looked at.
    next: usize,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunker({:?}, {} bytes waiting)", self.profile, self.end - self.start)
    }
}

impl Chunker {
    /// A chunker for one or more sources of a kind; `seed` from [`crate::keys::VaultKeys::chunker_seed`].
    #[must_use]
    pub fn new(profile: ChunkProfile, seed: u64) -> Self {
        Self { profile, cutter: Cutter::new(seed), buffer: Vec::new(), start: 0, end: 0, next: 0 }
    }

    /// Where the next bytes of the source go: room for [`READ_ROOM`] bytes or more. Take all chunks out before.
    ///
    /// What waits is moved to the front when the room behind it is used up, so most bytes are cut where they were read.
    pub fn room(&mut self) -> &mut [u8] {
        let largest = self.profile.sizes().2;
        if self.buffer.is_empty() {
            self.buffer = vec![0; (2 * largest).max(largest + 2 * READ_ROOM)];
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < READ_ROOM {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put into [`Self::room`].
    ///
    /// # Panics
    /// When there was no room for so many.
    pub fn filled(&mut self, bytes: usize) {
        assert!(bytes <= self.buffer.len() - self.end, "more than there was room for");
        self.end += bytes;
    }

    /// Copies the next bytes in, for sources that have them already; at most [`READ_ROOM`] at once.
    ///
    /// # Panics
    /// For more than there is room for.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// The next chunk, when enough bytes are there to know where it ends.
    pub fn next_chunk(&mut self) -> Option<&[u8]> {
        self.take(false)
    }

    /// After the last byte: the chunks that are left, one a call. After `None` a new source may begin.
    pub fn finish(&mut self) -> Option<&[u8]> {
        self.take(true)
    }

    fn take(&mut self, last: bool) -> Option<&[u8]> {
        let (least, intended, most) = self.profile.sizes();
        let left = &self.buffer[self.start..self.end];
        let left = &left[..left.len().min(most)];
        let all = last || left.len() == most;
        let cut = match self.profile {
            ChunkProfile::Pages(_) => Err(least),
            ChunkProfile::Files | ChunkProfile::Stream | ChunkProfile::Metadata => {
                self.cutter.length(left, self.next.max(least), Rarity::about(intended), all)
            }
        };
        let length = match cut {
            Ok(length) => length,
            Err(_) if all && !left.is_empty() => left.len(),
            Err(next) => {
                self.next = if all { 0 } else { next };
                return None;
            }
        };
        let chunk = &self.buffer[self.start..self.start + length];
        self.start += length;
        self.next = 0;
        Some(chunk)
    }
}
