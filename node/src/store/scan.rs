//! Walks a segment from record to record, and finds the way again after bytes that are none.
//!
//! Damage costs what it hit and nothing behind it: the next place where a keyed check fits is the next record.

use std::ops::ControlFlow;

use cairn_proto::{
    DecodeError, SHARD_SIZE,
    record::{ALIGN, HEAD_MAX, Record, RecordKey, SHARD_HEAD},
};

use super::disk::SegmentFile;

/// Bytes read at a time while looking for the next record.
const WINDOW: usize = 1 << 20;

/// Whether payloads are read and hashed too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Payloads {
    Skip,
    Verify,
}

/// A record in a segment.
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) offset: u64,
    pub(super) head_len: u64,
    /// `false` when the payload was read and is not what its root says.
    pub(super) payload_ok: bool,
}

/// How a walk ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Walked {
    /// Behind the last whole record.
    pub(super) valid_end: u64,
    /// Bytes in which no record could be read, as (from, to); the last one may be a torn tail.
    pub(super) gaps: Vec<(u64, u64)>,
    /// Some of it could not be read from the disk at all.
    pub(super) unreadable: bool,
}

/// Walks the records from `from` to `size`; stops when `visit` says so.
pub(super) fn walk(
    file: &dyn SegmentFile,
    key: &RecordKey,
    from: u64,
    size: u64,
    payloads: Payloads,
    mut visit: impl FnMut(Found) -> ControlFlow<()>,
) -> Walked {
    let mut walked = Walked { valid_end: from, ..Walked::default() };
    let mut at = from;
    while at < size {
        match record_at(file, key, at, size) {
            Ok((record, head_len)) => {
                let mut payload_ok = true;
                if let (Record::Shard(s), Payloads::Verify) = (&record, payloads) {
                    let mut bytes = vec![0; SHARD_SIZE];
                    let read = file.read_at(&mut bytes, at + head_len);
                    payload_ok = matches!(read, Ok(SHARD_SIZE)) && blake3::hash(&bytes) == *s.root.as_bytes();
                }
                let next = at + head_len + record.payload_len() as u64;
                walked.valid_end = next;
                if visit(Found { record, offset: at, head_len, payload_ok }).is_break() {
                    return walked;
                }
                at = next;
            }
            Err(unreadable) => {
                walked.unreadable |= unreadable;
                let next = next_record(file, key, at + ALIGN as u64, size, &mut walked.unreadable);
                walked.gaps.push((at, next));
                at = next;
            }
        }
    }
    walked
}

/// The record at exactly this place, whole within `size`. The error says whether the disk could not be read.
fn record_at(file: &dyn SegmentFile, key: &RecordKey, at: u64, size: u64) -> Result<(Record, u64), bool> {
    let mut head = vec![0; SHARD_HEAD];
    loop {
        let read = file.read_at(&mut head, at).map_err(|_| true)?;
        match Record::decode(&head[..read], key) {
            Ok((record, head_len)) => {
                let end = at + head_len as u64 + record.payload_len() as u64;
                return if end <= size { Ok((record, head_len as u64)) } else { Err(false) };
            }
            Err(DecodeError::Truncated { needed, .. }) if read == head.len() && needed <= HEAD_MAX => {
                head.resize(needed, 0);
            }
            Err(_) => return Err(false),
        }
    }
}

fn next_record(file: &dyn SegmentFile, key: &RecordKey, from: u64, size: u64, unreadable: &mut bool) -> u64 {
    let mut window = vec![0; WINDOW];
    let mut at = from;
    while at < size {
        let Ok(read) = file.read_at(&mut window, at) else {
            *unreadable = true;
            at += WINDOW as u64;
            continue;
        };
        for inside in (0..read).step_by(ALIGN) {
            if window[inside..read].starts_with(b"CRNr") && record_at(file, key, at + inside as u64, size).is_ok() {
                return at + inside as u64;
            }
        }
        at += WINDOW as u64;
    }
    size
}
