//! The segment log's records: what a holder's disk says (DUR-4), and nothing that does not stand on its own.
//!
//! A record is a fixed part, a body, and for a shard its payload. Records start at multiples of [`ALIGN`], so a
//! scan that lost the thread finds the next one; the payload of a shard starts at a multiple of it too.
//!
//! ```text
//! 0       4         5      6      8           12             16        32      32+body   (to 64)   +payload (to 64)
//! "CRNr" | version | kind | zero | body_len  | payload_len  | check   | body  | zeros   | payload | zeros
//!           u8        u8    u16    u32 LE      u32 LE         16 bytes
//! ```
//!
//! A shard's payload should begin where a block of the disk begins ([`DISK_BLOCK`]), so that it can be written around the page cache: a
//! [`Record::Space`] before it sees to that. A log without them is as good.
//!
//! `check` is keyed BLAKE3 over everything before it and the body, under a key that only this store has. A plain CRC
//! would not do: shards come from strangers, and one filled with well-formed records would be taken for log
//! entries by a scan that has to find its way after damage.
//!
//! A shard's body has a CRC32C per [`BLOCK`] of its payload, so that a range is verified without reading the rest; the
//! whole is named by its BLAKE3 root.

use crate::{
    DecodeError, GroupId, SHARD_SIZE, ShardRoot, Slot, Timestamp, VaultKey, message::HEAD_RECORD_MAX as HEAD_BYTES_MAX,
};

/// Records and payloads start at multiples of this.
pub const ALIGN: usize = 64;
/// Bytes before the body.
pub const FIXED: usize = 32;
/// What disks write at once, or a multiple of it.
pub const DISK_BLOCK: usize = 4096;
/// Payload bytes under one CRC32C.
pub const BLOCK: usize = 64 * 1024;
/// Blocks of a shard.
pub const BLOCKS: usize = SHARD_SIZE / BLOCK;
/// Most bytes of a body: a vault's head and its name.
pub const BODY_MAX: usize = HEAD_BYTES_MAX + 64;
/// Most bytes before a payload.
pub const HEAD_MAX: usize = (FIXED + BODY_MAX).next_multiple_of(ALIGN);
/// Bytes before a shard's payload.
pub const SHARD_HEAD: usize = (FIXED + SHARD_BODY).next_multiple_of(ALIGN);
/// Bytes that a shard takes in the log.
pub const SHARD_RECORD: usize = SHARD_HEAD + SHARD_SIZE;
/// Bytes of a [`Record::Space`] that has no zeros.
pub const SPACE_HEAD: usize = FIXED.next_multiple_of(ALIGN);

const MAGIC: [u8; 4] = *b"CRNr";
const VERSION: u8 = 1;
const SHARD_BODY: usize = 32 + 1 + 1 + 32 + 8 + 8 + 4 * BLOCKS;
const STATE_BODY: usize = 32 + 1 + 1 + 32 + 8 + 8 + 4;
const WHAT: &str = "log record";

/// Checks records: drawn from the store's volume id.
#[derive(Clone)]
pub struct RecordKey([u8; 32]);

impl RecordKey {
    /// The key of the store with this volume id.
    #[must_use]
    pub fn of_volume(volume: &[u8; 32]) -> Self {
        Self(blake3::derive_key("cairn 2026-11 store record check v1", volume))
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// First record of every segment: its number, so that a file under a wrong name is noticed.
    Segment {
        /// The number that the file's name says too.
        number: u32,
    },
    /// A shard; its bytes follow.
    Shard(ShardHead),
    /// SEP-1, second guard: the one slot of this group that was ever accepted here. Kept for ever.
    Ledger {
        /// The group.
        group: GroupId,
        /// Its slot here.
        slot: Slot,
    },
    /// A shard's lease or whereabouts changed.
    State(StateChange),
    /// A vault's head, kept for its owner.
    Head(KeptHead),
    /// Means nothing: what follows begins where it should.
    Space {
        /// Zeros behind the head: a multiple of [`ALIGN`] below [`DISK_BLOCK`].
        length: u32,
    },
}

/// What the log says of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardHead {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// BLAKE3 of the payload.
    pub root: ShardRoot,
    /// Until when it is kept, as far as this record knows; later [`StateChange`]s win.
    pub lease_until: Timestamp,
    /// When it was first stored.
    pub stored_at: Timestamp,
    /// CRC32C of each block of the payload.
    pub blocks: [u32; BLOCKS],
}

/// CRC32C of each block of a shard. `shard` must have [`SHARD_SIZE`] bytes; blocks that are not there count as empty.
#[must_use]
pub fn block_checks(shard: &[u8]) -> [u32; BLOCKS] {
    let mut out = [0; BLOCKS];
    for (check, block) in out.iter_mut().zip(shard.chunks(BLOCK)) {
        *check = crc32c::crc32c(block);
    }
    out
}

/// Why a shard's state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    /// Its lease was extended; it is live.
    Lease = 4,
    /// It went to the trash at [`StateChange::at`].
    Tombstone = 5,
    /// It came back from the trash; it is live.
    Restored = 6,
    /// Its hold in the trash is over; its bytes may go.
    Purged = 7,
}

/// A shard's state from here on: whole, so that no other state record is needed to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// What happened.
    pub change: Change,
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// Which shard; a record for another root is ignored.
    pub root: ShardRoot,
    /// The lease as it stands.
    pub lease_until: Timestamp,
    /// When it happened.
    pub at: Timestamp,
    /// Segment of the shard's record; of a purge the newest segment at that time. A purge must be kept while a segment up
    /// to this one exists, or a scan would find a copy of the shard and no reason not to list it.
    pub segment: u32,
}

/// A vault's head and the order it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptHead {
    /// Whose.
    pub vault: VaultKey,
    /// From the signed record.
    pub generation: u32,
    /// From the signed record.
    pub sequence: u64,
    /// The signed record, encoded; at most [`crate::message::HEAD_RECORD_MAX`] bytes.
    pub bytes: Vec<u8>,
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Segment { .. } => 1,
            Self::Shard(_) => 2,
            Self::Ledger { .. } => 3,
            Self::State(s) => s.change as u8,
            Self::Head(_) => 8,
            Self::Space { .. } => 9,
        }
    }

    /// Bytes of payload behind the head.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        match self {
            Self::Shard(_) => SHARD_SIZE,
            Self::Space { length } => *length as usize,
            _ => 0,
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SHARD_BODY);
        match self {
            Self::Segment { number } => out.extend(number.to_le_bytes()),
            Self::Ledger { group, slot } => {
                out.extend(group.as_bytes());
                out.push(slot.as_u8());
            }
            Self::Shard(s) => {
                out.extend(s.group.as_bytes());
                out.extend([s.slot.as_u8(), s.ordinal]);
                out.extend(s.root.as_bytes());
                out.extend(s.lease_until.0.to_le_bytes());
                out.extend(s.stored_at.0.to_le_bytes());
                s.blocks.iter().for_each(|b| out.extend(b.to_le_bytes()));
            }
            Self::State(s) => {
                out.extend(s.group.as_bytes());
                out.extend([s.slot.as_u8(), s.ordinal]);
                out.extend(s.root.as_bytes());
                out.extend(s.lease_until.0.to_le_bytes());
                out.extend(s.at.0.to_le_bytes());
                out.extend(s.segment.to_le_bytes());
            }
            Self::Head(h) => {
                out.extend(h.vault.as_bytes());
                out.extend(h.generation.to_le_bytes());
                out.extend(h.sequence.to_le_bytes());
                out.extend(&h.bytes);
            }
            Self::Space { .. } => {}
        }
        out
    }

    /// Everything before the payload, padded to [`ALIGN`].
    #[must_use]
    pub fn encode(&self, key: &RecordKey) -> Vec<u8> {
        let body = self.body();
        let mut out = Vec::with_capacity((FIXED + body.len()).next_multiple_of(ALIGN));
        out.extend(MAGIC);
        out.extend([VERSION, self.kind(), 0, 0]);
        out.extend((body.len() as u32).to_le_bytes());
        out.extend((self.payload_len() as u32).to_le_bytes());
        let check = check(key, &out, &body);
        out.extend(check);
        out.extend(body);
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        out
    }

    /// Reads one record from the start of `bytes`, which may be longer, and says how long its head is. The payload
    /// is not looked at.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] with the bytes needed when there are too few of them; else the first rule broken.
    pub fn decode(bytes: &[u8], key: &RecordKey) -> Result<(Self, usize), DecodeError> {
        let truncated = |needed| DecodeError::Truncated { what: WHAT, needed, found: bytes.len() };
        let invalid = |why| DecodeError::Invalid { what: WHAT, why };
        let fixed = bytes.get(..FIXED).ok_or_else(|| truncated(FIXED))?;
        if fixed[..4] != MAGIC {
            return Err(invalid("no record starts here"));
        }
        if fixed[4] != VERSION {
            return Err(invalid("unknown version"));
        }
        let mut lengths = Reader(&fixed[8..16]);
        let (body_len, payload_len) = (lengths.u32()? as usize, lengths.u32()? as usize);
        if body_len > BODY_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: BODY_MAX, found: body_len });
        }
        let head_len = (FIXED + body_len).next_multiple_of(ALIGN);
        let body = bytes.get(FIXED..FIXED + body_len).ok_or_else(|| truncated(head_len))?;
        let padding = bytes.get(FIXED + body_len..head_len).ok_or_else(|| truncated(head_len))?;
        if check(key, &fixed[..16], body) != fixed[16..] {
            return Err(DecodeError::NotAuthentic { what: WHAT });
        }
        if padding.iter().any(|b| *b != 0) || fixed[6..8] != [0, 0] {
            return Err(invalid("padding is not zero"));
        }
        let record = Self::from_parts(fixed[5], body, payload_len)?;
        if record.payload_len() != payload_len {
            return Err(invalid("wrong payload length"));
        }
        Ok((record, head_len))
    }

    fn from_parts(kind: u8, body: &[u8], payload_len: usize) -> Result<Self, DecodeError> {
        let mut r = Reader(body);
        let record = match kind {
            1 => Self::Segment { number: r.u32()? },
            2 => {
                let (group, slot, ordinal) = (r.id()?, Slot::new(r.u8()?)?, r.u8()?);
                let (root, lease, stored) = (r.id()?, r.u64()?, r.u64()?);
                let mut blocks = [0; BLOCKS];
                for b in &mut blocks {
                    *b = r.u32()?;
                }
                Self::Shard(ShardHead {
                    group: GroupId::from_bytes(group),
                    slot,
                    ordinal,
                    root: ShardRoot::from_bytes(root),
                    lease_until: Timestamp(lease),
                    stored_at: Timestamp(stored),
                    blocks,
                })
            }
            3 => Self::Ledger { group: GroupId::from_bytes(r.id()?), slot: Slot::new(r.u8()?)? },
            4..=7 if body.len() == STATE_BODY => {
                let change = match kind {
                    4 => Change::Lease,
                    5 => Change::Tombstone,
                    6 => Change::Restored,
                    _ => Change::Purged,
                };
                Self::State(StateChange {
                    change,
                    group: GroupId::from_bytes(r.id()?),
                    slot: Slot::new(r.u8()?)?,
                    ordinal: r.u8()?,
                    root: ShardRoot::from_bytes(r.id()?),
                    lease_until: Timestamp(r.u64()?),
                    at: Timestamp(r.u64()?),
                    segment: r.u32()?,
                })
            }
            8 => {
                let (vault, generation, sequence) = (r.id()?, r.u32()?, r.u64()?);
                let bytes = r.rest();
                if bytes.len() > HEAD_BYTES_MAX {
                    return Err(DecodeError::TooLarge { what: WHAT, limit: HEAD_BYTES_MAX, found: bytes.len() });
                }
                Self::Head(KeptHead { vault: VaultKey::from_bytes(vault), generation, sequence, bytes: bytes.to_vec() })
            }
            9 if payload_len < DISK_BLOCK && payload_len.is_multiple_of(ALIGN) => {
                Self::Space { length: payload_len as u32 }
            }
            _ => return Err(DecodeError::Invalid { what: WHAT, why: "unknown kind" }),
        };
        if !r.rest().is_empty() {
            return Err(DecodeError::Invalid { what: WHAT, why: "bytes are left over" });
        }
        Ok(record)
    }
}

fn check(key: &RecordKey, fixed: &[u8], body: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(fixed);
    hasher.update(body);
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) =
            self.0.split_first_chunk().ok_or(DecodeError::Truncated { what: WHAT, needed: N, found: self.0.len() })?;
        self.0 = tail;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take::<1>().map(|[b]| b)
    }
    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_le_bytes)
    }
    fn id(&mut self) -> Result<[u8; 32], DecodeError> {
        self.take()
    }
    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> RecordKey {
        RecordKey::of_volume(&[7; 32])
    }

    fn record() -> impl Strategy<Value = Record> {
        let id = any::<[u8; 32]>;
        let slot = (0u8..32).prop_map(|s| Slot::new(s).expect("below 32"));
        let change =
            prop_oneof![Just(Change::Lease), Just(Change::Tombstone), Just(Change::Restored), Just(Change::Purged)];
        prop_oneof![
            any::<u32>().prop_map(|number| Record::Segment { number }),
            (0..DISK_BLOCK / ALIGN).prop_map(|n| Record::Space { length: (n * ALIGN) as u32 }),
            (id(), slot.clone()).prop_map(|(g, slot)| Record::Ledger { group: GroupId::from_bytes(g), slot }),
            (id(), slot.clone(), any::<u8>(), id(), any::<(u64, u64)>(), any::<[u32; BLOCKS]>()).prop_map(
                |(g, slot, ordinal, r, (lease, stored), blocks)| Record::Shard(ShardHead {
                    group: GroupId::from_bytes(g),
                    slot,
                    ordinal,
                    root: ShardRoot::from_bytes(r),
                    lease_until: Timestamp(lease),
                    stored_at: Timestamp(stored),
                    blocks,
                })
            ),
            (change, id(), slot, any::<u8>(), id(), any::<(u64, u64, u32)>()).prop_map(
                |(change, g, slot, ordinal, r, (lease, at, segment))| Record::State(StateChange {
                    change,
                    group: GroupId::from_bytes(g),
                    slot,
                    ordinal,
                    root: ShardRoot::from_bytes(r),
                    lease_until: Timestamp(lease),
                    at: Timestamp(at),
                    segment,
                })
            ),
            (id(), any::<(u32, u64)>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
                |(v, (generation, sequence), bytes)| Record::Head(KeptHead {
                    vault: VaultKey::from_bytes(v),
                    generation,
                    sequence,
                    bytes,
                })
            ),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip_and_any_flipped_bit_is_noticed(record in record(), bit: prop::sample::Index) {
            let bytes = record.encode(&key());
            prop_assert_eq!(bytes.len() % ALIGN, 0);
            prop_assert_eq!(Record::decode(&bytes, &key()), Ok((record, bytes.len())));
            let bit = bit.index(bytes.len() * 8);
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::decode(&bad, &key()).is_err());
            prop_assert!(Record::decode(&bytes, &RecordKey::of_volume(&[8; 32])).is_err(), "another store's record");
            prop_assert!(Record::decode(&bytes[..bytes.len() - 1], &key()).is_err());
        }

        #[test]
        fn junk_never_panics(bytes: Vec<u8>) {
            prop_assert!(Record::decode(&bytes, &key()).is_err());
            let mut dressed = b"CRNr\x01".to_vec();
            dressed.extend(bytes);
            prop_assert!(Record::decode(&dressed, &key()).is_err());
        }
    }

    /// Frozen: a store written by an older version must stay readable. A change here is a new record version.
    #[test]
    fn golden_bytes() {
        let (group, slot) = (GroupId::from_bytes([1; 32]), Slot::new(2).expect("below 32"));
        let (root, time) = (ShardRoot::from_bytes([3; 32]), Timestamp(0x0102_0304));
        let shard =
            ShardHead { group, slot, ordinal: 9, root, lease_until: time, stored_at: time, blocks: [5; BLOCKS] };
        let state = |change| {
            Record::State(StateChange {
                change,
                group,
                slot,
                ordinal: 9,
                root,
                lease_until: time,
                at: time,
                segment: 6,
            })
        };
        let head = KeptHead { vault: VaultKey::from_bytes([4; 32]), generation: 1, sequence: 2, bytes: vec![8; 70] };
        let mut log = Vec::new();
        for record in [
            Record::Segment { number: 7 },
            Record::Shard(shard),
            Record::Ledger { group, slot },
            state(Change::Lease),
            state(Change::Tombstone),
            state(Change::Restored),
            state(Change::Purged),
            Record::Head(head),
        ] {
            log.extend(record.encode(&key()));
        }
        assert_eq!(
            blake3::hash(&log).to_hex().as_str(),
            "e30c32a695a8cfc682df51428853e952eee24c2288daf469d1451c84cdd445b2"
        );
        let space = Record::Space { length: 128 }.encode(&key());
        assert_eq!(
            blake3::hash(&space).to_hex().as_str(),
            "4b314d5a7f7325551b1ede32ee84fda88ebdf17dfaa4e7e2bce3ebbc5420ee61"
        );
    }

    #[test]
    fn a_space_is_less_than_a_block() {
        let space = |length| Record::Space { length }.encode(&key());
        assert_eq!((space(0).len(), Record::Space { length: 128 }.payload_len()), (SPACE_HEAD, 128));
        assert!(Record::decode(&space(DISK_BLOCK as u32 - 64), &key()).is_ok());
        for wrong in [1, 63, DISK_BLOCK as u32, u32::MAX] {
            assert!(Record::decode(&space(wrong), &key()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_shard_record_is_192_bytes_and_the_shard() {
        assert_eq!((SHARD_HEAD, SHARD_RECORD), (192, 192 + SHARD_SIZE));
        assert_eq!(block_checks(&vec![0; SHARD_SIZE])[15], crc32c::crc32c(&[0; BLOCK]));
    }
}
