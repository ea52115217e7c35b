//! How the catalogue's rows are named and encoded.

use super::{CatalogueError, Counters, Meta, Result, chunks::RowKey};
use cairn_proto::{
    Timestamp,
    index::{IndexSegment, RunPlace, RunRow, StripeNo, StripeRow},
    manifest::{EpochRow, GroupRow, Manifest},
};

/// Most bytes of a row: what may be larger is split, or not kept at all.
pub(super) const ROW_MAX: usize = 7 << 10;

pub(super) const META: u8 = b'm';
pub(super) const RUN: u8 = b'r';
pub(super) const STRIPE: u8 = b's';
pub(super) const GROUP: u8 = b'g';
pub(super) const SNAPSHOT: u8 = b'n';
pub(super) const RECEIPT: u8 = b'e';
pub(super) const FILE: u8 = b'f';
pub(super) const SHORTFALL: u8 = b'h';
pub(super) const LOST: u8 = b'l';
pub(super) const SEGMENT: u8 = b'i';
pub(super) const UNREAD: u8 = b'u';
pub(super) const FORMER: u8 = b'o';
pub(super) const SILENT: u8 = b'w';
pub(super) const WATCH: u8 = b'v';
pub(super) const TOKENS: u8 = b't';
pub(super) const SEATS: u8 = b'k';
pub(super) const GIVEN: u8 = b'd';
pub(super) const PENDING_STRIPE: u8 = b'p';
pub(super) const PENDING_RUN: u8 = b'q';

pub(super) fn stripe_key(prefix: u8, no: StripeNo) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&no.0.to_be_bytes());
    key
}

/// Of [`RUN`] or [`PENDING_RUN`].
pub(super) fn row_key(prefix: u8, key: RowKey) -> Vec<u8> {
    let mut bytes = stripe_key(prefix, key.stripe);
    bytes.extend_from_slice(&key.offset.to_be_bytes());
    bytes
}

pub(super) fn row_of_key(key: &[u8]) -> Option<RowKey> {
    let (stripe, offset) = key.get(1..)?.split_first_chunk::<8>()?;
    Some(RowKey { stripe: StripeNo(u64::from_be_bytes(*stripe)), offset: u32::from_be_bytes(offset.try_into().ok()?) })
}

/// Receipts of a stripe's holders, each with its slot and length, in as few rows as may be: keys and values.
pub(super) fn receipt_rows(no: StripeNo, receipts: &[(u8, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for (slot, signed) in receipts {
        // One that is longer than any is no receipt.
        let Ok(length) = u16::try_from(signed.len()) else { continue };
        if rows.last().is_none_or(|row| row.len() + 3 + signed.len() > ROW_MAX) {
            rows.push(Vec::new());
        }
        let Some(row) = rows.last_mut() else { continue };
        row.push(*slot);
        row.extend_from_slice(&length.to_le_bytes());
        row.extend_from_slice(signed);
    }
    let key = |part: u8| [stripe_key(RECEIPT, no), vec![part]].concat();
    (0u8..).zip(rows).map(|(part, row)| (key(part), row)).collect()
}

/// What [`receipt_rows`] put into a row, as far as it reads.
pub(super) fn receipts_in(mut row: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(([slot, low, high], rest)) = row.split_first_chunk::<3>() {
        let Some((signed, rest)) = rest.split_at_checked(u16::from_le_bytes([*low, *high]).into()) else { break };
        found.push((*slot, signed.to_vec()));
        row = rest;
    }
    found
}

pub(super) fn id_key(prefix: u8, id: &[u8; 32]) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(id);
    key
}

pub(super) fn group_key(number: u32) -> Vec<u8> {
    let mut key = vec![GROUP];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Of [`SEGMENT`] or [`UNREAD`]: the number in the list.
pub(super) fn segment_key(prefix: u8, at: usize) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&(at as u32).to_be_bytes());
    key
}

pub(super) fn former_key(group: u32) -> Vec<u8> {
    let mut key = vec![FORMER];
    key.extend_from_slice(&group.to_be_bytes());
    key
}

pub(super) fn watch_key(group: u32) -> Vec<u8> {
    let mut key = vec![WATCH];
    key.extend_from_slice(&group.to_be_bytes());
    key
}

/// Tokens of a shard.
pub(super) fn tokens_key(group: u32, slot: u8, ordinal: u8) -> Vec<u8> {
    let mut key = vec![TOKENS];
    key.extend_from_slice(&group.to_be_bytes());
    key.extend_from_slice(&[slot, ordinal]);
    key
}

pub(super) fn seats_key(group: u32) -> Vec<u8> {
    let mut key = vec![SEATS];
    key.extend_from_slice(&group.to_be_bytes());
    key
}

pub(super) fn checked<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8]> {
    let (value, sum) =
        value.split_last_chunk::<4>().ok_or(CatalogueError::Damaged("a row is shorter than its checksum"))?;
    if crc32c::crc32c_append(crc32c::crc32c(key), value) != u32::from_le_bytes(*sum) {
        return Err(CatalogueError::Damaged("a row fails its checksum"));
    }
    Ok(value)
}

pub(super) fn encode_runs(runs: &[RunRow]) -> Result<Vec<u8>> {
    Ok(IndexSegment { stripes: vec![], runs: runs.to_vec() }.encode()?)
}

pub(super) fn encode_stripe(row: &StripeRow) -> Result<Vec<u8>> {
    Ok(IndexSegment { stripes: vec![row.clone()], runs: vec![] }.encode()?)
}

/// A group row is encoded as a manifest that has nothing else: one encoding, one decoder.
pub(super) fn encode_group(row: &GroupRow) -> Result<Vec<u8>> {
    let manifest = Manifest {
        groups: vec![row.clone()],
        segments: vec![],
        snapshots: vec![],
        next_stripe: StripeNo(1),
        next_group: row.number.saturating_add(1),
        epochs: vec![EpochRow { number: 1, created: Timestamp(0) }],
    };
    Ok(manifest.encode()?)
}

pub(super) fn encode_segments(segments: &[RunPlace]) -> Result<Vec<u8>> {
    let manifest = Manifest {
        groups: vec![],
        segments: segments.to_vec(),
        snapshots: vec![],
        next_stripe: StripeNo(u64::MAX),
        next_group: 1,
        epochs: vec![EpochRow { number: 1, created: Timestamp(0) }],
    };
    Ok(manifest.encode()?)
}

pub(super) fn decode_group(bytes: &[u8]) -> Result<GroupRow> {
    Manifest::decode(bytes)?.groups.pop().ok_or(CatalogueError::Damaged("a group row is empty"))
}

pub(super) fn meta_key(name: Meta) -> [u8; 2] {
    [META, name as u8]
}

pub(super) fn counters_bytes(c: Counters) -> Vec<u8> {
    let mut v = Vec::with_capacity(24);
    v.extend_from_slice(&c.sequence.to_le_bytes());
    v.extend_from_slice(&c.next_stripe.to_le_bytes());
    v.extend_from_slice(&((u64::from(c.generation) << 32) | u64::from(c.next_group)).to_le_bytes());
    v
}
