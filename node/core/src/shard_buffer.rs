//! Buffers of one shard, used again.
//!
//! A backup makes eight of them for every five MiB, a holder one for every shard that it takes, on one thread each and to be
//! dropped on another. From the allocator they came zeroed, touched new pages each time, and stayed behind in the heaps of
//! threads that had ended: 40 MiB more for every GiB of a stream. A bounded number is kept here instead.
//!
//! They begin where a page of memory does, so that a disk can take their bytes as they lie (`store::disk`).
//!
//! What a buffer had in it before is still there when it is taken: whoever takes one must fill it, or clear the rest, before
//! its bytes go anywhere.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use cairn_proto::{SHARD_SIZE, record::DISK_BLOCK};

/// Buffers that wait to be used again at most: those of two stripes. More is soon needed only when more is in use.
const KEPT: usize = 16;

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// [`SHARD_SIZE`] bytes, of which the first lies at a multiple of [`DISK_BLOCK`]; before them a block for what a disk has before a shard.
pub struct ShardBuffer {
    bytes: Vec<u8>,
    /// Where that block begins.
    front: usize,
}

impl ShardBuffer {
    /// A buffer with anything in it.
    #[must_use]
    pub fn take() -> Self {
        let used = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = used.unwrap_or_else(|| vec![0; SHARD_SIZE + 2 * DISK_BLOCK]);
        let front = bytes.as_ptr().align_offset(DISK_BLOCK).min(DISK_BLOCK);
        Self { bytes, front }
    }

    /// The block before the shard, and the shard.
    #[must_use]
    pub fn with_front(&mut self) -> &mut [u8] {
        &mut self.bytes[self.front..self.front + DISK_BLOCK + SHARD_SIZE]
    }

    /// The block before the shard.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        &self.bytes[self.front..self.front + DISK_BLOCK]
    }

    /// A copy of a shard's bytes; `None` for any other length.
    #[must_use]
    pub fn copy_of(shard: &[u8]) -> Option<Self> {
        (shard.len() == SHARD_SIZE).then(|| {
            let mut buffer = Self::take();
            buffer.copy_from_slice(shard);
            buffer
        })
    }

    /// The bytes, to be shared; the buffer is free again when the last of them is dropped.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for ShardBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(bytes);
        }
    }
}

impl Deref for ShardBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.front + DISK_BLOCK..][..SHARD_SIZE]
    }
}

impl DerefMut for ShardBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.with_front()[DISK_BLOCK..]
    }
}

impl AsRef<[u8]> for ShardBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for ShardBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl std::fmt::Debug for ShardBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShardBuffer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_few_are_kept() {
        let many: Vec<_> = (0..3 * KEPT).map(|_| ShardBuffer::take()).collect();
        assert!(many.iter().all(|buffer| buffer.len() == SHARD_SIZE && buffer.as_ptr().align_offset(DISK_BLOCK) == 0));
        drop(many);
        assert!(FREE.lock().expect("lock").len() <= KEPT);
        let mut one = ShardBuffer::take();
        one.with_front().fill(1);
        one[0] = 2;
        assert_eq!((one.front(), &one[..2]), (&[1; DISK_BLOCK][..], &[2, 1][..]));
        let shared = ShardBuffer::copy_of(&[7; SHARD_SIZE]).expect("a shard").freeze();
        let part = shared.slice(5..9);
        drop(shared);
        assert_eq!(part[..], [7; 4], "still there for whoever has a part");
        assert!(ShardBuffer::copy_of(&[7; 5]).is_none());
    }
}
