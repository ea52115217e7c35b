//! Reads a shard or a part of it, and lets no byte out that is not the one that was stored (DUR-2).

use bytes::Bytes;
use cairn_core::shard_buffer::ShardBuffer;
use cairn_proto::{
    GroupId, ShardRoot, Slot,
    record::{BLOCK, BLOCKS, DISK_BLOCK, Record, RecordKey, SHARD_HEAD, ShardHead},
};

use super::{StoreError, disk::SegmentFile};

/// Which shard must lie at a place.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    pub(super) group: GroupId,
    pub(super) slot: Slot,
    pub(super) ordinal: u8,
    pub(super) root: ShardRoot,
}

impl Expected {
    fn fits(&self, s: &ShardHead) -> bool {
        (self.group, self.slot, self.ordinal, self.root) == (s.group, s.slot, s.ordinal, s.root)
    }
}

/// Bytes `offset .. offset + length` of the shard whose record lies at `at`; the range must lie in the shard. Each block
/// touched is checked. [`StoreError::NotFound`] when the record itself is not there.
pub(super) fn read_range(
    file: &dyn SegmentFile,
    key: &RecordKey,
    at: u64,
    expected: &Expected,
    offset: usize,
    length: usize,
) -> Result<Bytes, StoreError> {
    let (first, last) = (offset / BLOCK, (offset + length).div_ceil(BLOCK));
    let (shard, payload) = if last - first == BLOCKS {
        read_whole(file, key, at, expected)?
    } else {
        let mut head = [0; SHARD_HEAD];
        read(file, &mut head, at)?;
        let shard = head_of(&head, key, expected)?;
        let mut payload = vec![0; (last - first) * BLOCK];
        read(file, &mut payload, at + (SHARD_HEAD + first * BLOCK) as u64)?;
        (shard, Bytes::from(payload))
    };
    let checks = shard.blocks.iter().skip(first);
    if payload.chunks(BLOCK).zip(checks).any(|(block, check)| crc32c::crc32c(block) != *check) {
        return Err(StoreError::Damaged);
    }
    let start = offset - first * BLOCK;
    Ok(payload.slice(start..start + length))
}

/// The whole shard, checked against its root; errors as for [`read_range`].
pub(super) fn read_verified(
    file: &dyn SegmentFile,
    key: &RecordKey,
    at: u64,
    expected: &Expected,
) -> Result<(ShardHead, Bytes), StoreError> {
    let (shard, payload) = read_whole(file, key, at, expected)?;
    if blake3::hash(&payload) != *expected.root.as_bytes() {
        return Err(StoreError::Damaged);
    }
    Ok((shard, payload))
}

/// Head and bytes of the shard at a place, unchecked, into a buffer that is there: no new pages. Where it lies on whole blocks both come with
/// one read, around the page cache.
fn read_whole(
    file: &dyn SegmentFile,
    key: &RecordKey,
    at: u64,
    expected: &Expected,
) -> Result<(ShardHead, Bytes), StoreError> {
    let from = at + SHARD_HEAD as u64;
    let mut buffer = ShardBuffer::take();
    let shard = match from.checked_sub(DISK_BLOCK as u64).filter(|before| before.is_multiple_of(DISK_BLOCK as u64)) {
        Some(before) => {
            read(file, buffer.with_front(), before)?;
            head_of(&buffer.front()[DISK_BLOCK - SHARD_HEAD..], key, expected)?
        }
        None => {
            let mut head = [0; SHARD_HEAD];
            read(file, &mut head, at)?;
            let shard = head_of(&head, key, expected)?;
            read(file, &mut buffer, from)?;
            shard
        }
    };
    Ok((shard, buffer.freeze()))
}

fn read(file: &dyn SegmentFile, buf: &mut [u8], at: u64) -> Result<(), StoreError> {
    match file.read_at(buf, at) {
        Ok(n) if n == buf.len() => Ok(()),
        // The file is shorter than the log said: the bytes are gone.
        Ok(_) => Err(StoreError::Damaged),
        Err(e) => Err(StoreError::io("reading a shard")(e)),
    }
}

fn head_of(bytes: &[u8], key: &RecordKey, expected: &Expected) -> Result<ShardHead, StoreError> {
    match Record::decode(bytes, key) {
        Ok((Record::Shard(s), _)) if expected.fits(&s) => Ok(s),
        _ => Err(StoreError::NotFound),
    }
}
