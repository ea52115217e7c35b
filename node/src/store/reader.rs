//! Reads a shard or a part of it, and lets no byte out that is not the one that was stored (DUR-2).

use bytes::Bytes;
use cairn_core::shard_buffer::ShardBuffer;
use cairn_proto::{
    GroupId, SHARD_SIZE, ShardRoot, Slot,
    record::{BLOCK, BLOCKS, Record, RecordKey, SHARD_HEAD, SHARD_RECORD, ShardHead},
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
    let mut head = [0; SHARD_HEAD];
    read(file, &mut head, at)?;
    let shard = head_of(&head, key, expected)?;
    let from = at + (SHARD_HEAD + first * BLOCK) as u64;
    let payload = if last - first == BLOCKS {
        // A restore asks for whole shards: a buffer that is there costs a read more and no new pages.
        let mut payload = ShardBuffer::take();
        read(file, &mut payload, from)?;
        payload.freeze()
    } else {
        let mut payload = vec![0; (last - first) * BLOCK];
        read(file, &mut payload, from)?;
        Bytes::from(payload)
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
    let mut record = vec![0; SHARD_RECORD];
    read(file, &mut record, at)?;
    let shard = head_of(&record[..SHARD_HEAD], key, expected)?;
    let payload = Bytes::from(record).slice(SHARD_HEAD..);
    debug_assert_eq!(payload.len(), SHARD_SIZE);
    if blake3::hash(&payload) != *expected.root.as_bytes() {
        return Err(StoreError::Damaged);
    }
    Ok((shard, payload))
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
