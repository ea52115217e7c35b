//! A shard's bytes, and its sums when they were taken while it came in.
//!
//! The root and the checks of the blocks are taken block by block as the bytes arrive: they are still in the processor's
//! cache then, and no other thread has to be woken for them. Sums are made here only, from the bytes beside them, so that
//! nobody can pass off others.

use std::ops::Deref;

use bytes::Bytes;
use cairn_core::shard_buffer::ShardBuffer;
use cairn_proto::{
    SHARD_SIZE,
    record::{BLOCK, BLOCKS},
};

/// What [`super::Store::put`] needs to know of a shard's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) root: [u8; 32],
    pub(super) blocks: [u32; BLOCKS],
}

/// Bytes of a shard.
#[derive(Clone, Debug)]
pub struct ShardBytes {
    bytes: Bytes,
    sums: Option<Box<Sums>>,
}

impl ShardBytes {
    /// The bytes alone.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The sums, if they were taken.
    pub(super) fn sums(&self) -> Option<Sums> {
        self.sums.as_deref().copied()
    }

    /// Takes the sums, unless they were: a third of a millisecond for a shard.
    pub(super) fn sum(bytes: &[u8]) -> Sums {
        let mut summing = Summing::default();
        summing.take(bytes);
        summing.finish(bytes)
    }
}

impl Deref for ShardBytes {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl PartialEq<ShardBytes> for Bytes {
    fn eq(&self, other: &ShardBytes) -> bool {
        *self == other.bytes
    }
}

impl From<Bytes> for ShardBytes {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, sums: None }
    }
}

impl From<Vec<u8>> for ShardBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

/// A shard on its way in.
#[derive(Debug)]
pub struct Arriving {
    buffer: ShardBuffer,
    filled: usize,
    summing: Summing,
}

impl Default for Arriving {
    fn default() -> Self {
        Self { buffer: ShardBuffer::take(), filled: 0, summing: Summing::default() }
    }
}

impl Arriving {
    /// Where the next bytes go; empty when all are there. What was in it before means nothing.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// The first `more` bytes of [`Self::rest`] have come.
    pub fn came(&mut self, more: usize) {
        self.filled = (self.filled + more).min(SHARD_SIZE);
        self.summing.take(&self.buffer[..self.filled]);
    }

    /// The shard; `None` when bytes are missing.
    #[must_use]
    pub fn finish(self) -> Option<ShardBytes> {
        if self.filled < SHARD_SIZE {
            return None;
        }
        let sums = self.summing.finish(&self.buffer);
        Some(ShardBytes { bytes: self.buffer.freeze(), sums: Some(sums.into()) })
    }
}

/// Sums over the whole blocks seen so far.
#[derive(Debug, Default)]
struct Summing {
    // On the heap: it is 2 KiB, and lies in the future of each stream.
    hasher: Box<blake3::Hasher>,
    blocks: [u32; BLOCKS],
    done: usize,
}

impl Summing {
    /// `all` has everything so far, from the first byte on. Whole blocks only: BLAKE3 is slow in smaller steps.
    fn take(&mut self, all: &[u8]) {
        while let Some(block) = all.get(self.done..self.done + BLOCK) {
            self.hasher.update(block);
            if let Some(check) = self.blocks.get_mut(self.done / BLOCK) {
                *check = crc32c::crc32c(block);
            }
            self.done += BLOCK;
        }
    }

    fn finish(mut self, all: &[u8]) -> Sums {
        self.hasher.update(all.get(self.done..).unwrap_or_default());
        Sums { root: *self.hasher.finalize().as_bytes(), blocks: self.blocks }
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::record::block_checks;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_shard_that_is_not_whole_is_none() {
        let mut arriving = Arriving::default();
        arriving.rest().fill(3);
        arriving.came(SHARD_SIZE - 1);
        assert_eq!(arriving.rest().len(), 1);
        assert!(arriving.finish().is_none());
        assert!(Arriving::default().finish().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn sums_are_those_of_the_whole(parts in proptest::collection::vec(1usize..300_000, 1..12), seed: u8) {
            let mut bytes = vec![0; SHARD_SIZE];
            blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
            let (mut arriving, mut at) = (Arriving::default(), 0);
            for part in parts.into_iter().chain([SHARD_SIZE]) {
                let rest = arriving.rest();
                let n = part.min(rest.len());
                rest[..n].copy_from_slice(&bytes[at..at + n]);
                arriving.came(n);
                at += n;
            }
            let shard = arriving.finish().expect("whole");
            let sums = Sums { root: *blake3::hash(&bytes).as_bytes(), blocks: block_checks(&bytes) };
            prop_assert_eq!(shard.sums(), Some(sums));
            prop_assert_eq!(ShardBytes::sum(&bytes), sums);
            prop_assert_eq!(&shard[..], &bytes[..]);
        }
    }
}
