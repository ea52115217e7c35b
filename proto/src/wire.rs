//! The shard protocol's frames: what travels on one long stream between a requester and a holder.
//!
//! A frame is a fixed header, a small prost head, and raw payload bytes (a shard, or nothing):
//!
//! ```text
//! 0      1         2          4          8            12        16            16+head       +payload
//! kind | priority | head_len | request  | payload_len | zero  | head (prost) | payload
//!  u8     u8         u16 LE     u32 LE     u32 LE       u32
//! ```
//!
//! The reader checks both lengths before it allocates. Requests of one stream are answered in any order; the
//! request number pairs them. A requester may have [`IN_FLIGHT_MAX`] unanswered requests on a stream.

use crate::{DecodeError, SHARD_SIZE};

/// Bytes of a frame's header.
pub const FRAME_HEADER_SIZE: usize = 16;
/// Most bytes of a frame's prost head: an open request (ticket 68 + grant 178) or a receipt with room to spare.
pub const FRAME_HEAD_MAX: usize = 2048;
/// Most bytes of a frame's payload: one shard.
pub const FRAME_PAYLOAD_MAX: usize = SHARD_SIZE;
/// Most bytes of what opens a group otherwise than by a grant: a mandate, every change of stewards that there may be, and an order
/// are 99 KiB.
pub const FRAME_PASS_MAX: usize = 128 * 1024;
/// Unanswered requests that a holder accepts on one stream: 8 MiB in flight fill 100 ms at 80 MB/s.
pub const IN_FLIGHT_MAX: usize = 8;
/// Groups that one stream may have open at a holder; the oldest is forgotten (and must be opened again).
pub const OPEN_GROUPS_MAX: usize = 256;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Requester: here is a group's ticket and my grant ([`OpenGroup`]).
    Open = 1,
    /// Requester: keep this shard ([`PutShard`], payload = the shard).
    Put = 2,
    /// Requester: send bytes of a shard ([`GetShard`]).
    Get = 3,
    /// Requester: which of these do you hold ([`HasShards`]).
    Has = 4,
    /// Requester: move a shard to the trash ([`DeleteShard`]).
    Delete = 5,
    /// Requester: forget the request with this number; no answer comes.
    Cancel = 6,
    /// Requester: here is an order that names us both (no head, payload = its credentials).
    OpenOrder = 7,
    /// Requester: here is a mandate whose steward I am (no head, payload = mandate and changes).
    OpenWatch = 8,
    /// Holder: the group is open on this stream.
    Opened = 65,
    /// Holder: durable; the head is the signed receipt ([`crate::signed::SignedBytes`]).
    Stored = 66,
    /// Holder: the bytes asked for, as payload.
    Data = 67,
    /// Holder: the answer to [`FrameKind::Has`] ([`HasAnswer`]).
    Holding = 68,
    /// Holder: it lies in the trash now.
    Deleted = 69,
    /// Holder: no, and why ([`Refused`]).
    Refused = 70,
}

impl FrameKind {
    /// Most bytes of its payload.
    #[must_use]
    pub const fn payload_max(self) -> usize {
        match self {
            Self::Put | Self::Data => FRAME_PAYLOAD_MAX,
            Self::OpenOrder | Self::OpenWatch => FRAME_PASS_MAX,
            _ => 0,
        }
    }

    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Put,
            3 => Self::Get,
            4 => Self::Has,
            5 => Self::Delete,
            6 => Self::Cancel,
            7 => Self::OpenOrder,
            8 => Self::OpenWatch,
            65 => Self::Opened,
            66 => Self::Stored,
            67 => Self::Data,
            68 => Self::Holding,
            69 => Self::Deleted,
            70 => Self::Refused,
            _ => return None,
        })
    }
}

/// How urgent a request is. A holder serves the lower number first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// Repair of a group near k.
    Critical = 0,
    /// Restore.
    High = 1,
    /// Backup.
    Normal = 2,
    /// Rebalance, audit.
    Low = 3,
}

impl Priority {
    /// All four, most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];
}

/// A checked frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// How urgent; answers repeat the request's.
    pub priority: Priority,
    /// Bytes of prost head that follow, at most [`FRAME_HEAD_MAX`].
    pub head_len: u16,
    /// Pairs an answer with its request; the requester chooses it, unique among its unanswered ones.
    pub request: u32,
    /// Raw bytes after the head, at most [`FrameKind::payload_max`].
    pub payload_len: u32,
}

impl FrameHeader {
    /// The 16 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_SIZE] {
        let mut out = [0u8; FRAME_HEADER_SIZE];
        out[0] = self.kind as u8;
        out[1] = self.priority as u8;
        out[2..4].copy_from_slice(&self.head_len.to_le_bytes());
        out[4..8].copy_from_slice(&self.request.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        out
    }

    /// Reads and checks 16 bytes.
    ///
    /// # Errors
    /// Unknown kind or priority, a length over its limit, or reserved bytes that are not zero.
    pub fn decode(bytes: &[u8; FRAME_HEADER_SIZE]) -> Result<Self, DecodeError> {
        let what = "frame header";
        let kind = FrameKind::from_u8(bytes[0]).ok_or(DecodeError::Invalid { what, why: "unknown kind" })?;
        let priority =
            *Priority::ALL.get(usize::from(bytes[1])).ok_or(DecodeError::Invalid { what, why: "unknown priority" })?;
        let head_len = u16::from_le_bytes([bytes[2], bytes[3]]);
        let request = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let payload_len = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if bytes[12..] != [0; 4] {
            return Err(DecodeError::Invalid { what, why: "reserved bytes are not zero" });
        }
        if usize::from(head_len) > FRAME_HEAD_MAX {
            return Err(DecodeError::TooLarge { what, limit: FRAME_HEAD_MAX, found: head_len.into() });
        }
        let limit = kind.payload_max();
        if payload_len as usize > limit {
            return Err(DecodeError::TooLarge { what, limit, found: payload_len as usize });
        }
        Ok(Self { kind, priority, head_len, request, payload_len })
    }
}

/// Head of [`FrameKind::Open`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OpenGroup {
    /// An encoded [`crate::GroupTicket`], 68 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub ticket: Vec<u8>,
    /// An encoded [`crate::Grant`], 178 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub grant: Vec<u8>,
}

/// Head of [`FrameKind::Put`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutShard {
    /// Group id, 32 bytes; must be open on the stream.
    #[prost(bytes = "vec", tag = "1")]
    pub group: Vec<u8>,
    /// Slot of the shard: must be the receiver's colour in this group.
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    /// Stripe of the group, 0..=255.
    #[prost(uint32, tag = "3")]
    pub ordinal: u32,
    /// BLAKE3 of the payload, 32 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub root: Vec<u8>,
    /// Until when the holder is asked to keep it, ms since 1970.
    #[prost(uint64, tag = "5")]
    pub lease_until: u64,
}

/// Head of [`FrameKind::Get`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetShard {
    /// Group id, 32 bytes; must be open on the stream.
    #[prost(bytes = "vec", tag = "1")]
    pub group: Vec<u8>,
    /// Slot of the shard.
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    /// Stripe of the group, 0..=255.
    #[prost(uint32, tag = "3")]
    pub ordinal: u32,
    /// First byte wanted.
    #[prost(uint32, tag = "4")]
    pub offset: u32,
    /// Bytes wanted; 0 means to the end.
    #[prost(uint32, tag = "5")]
    pub length: u32,
}

/// Head of [`FrameKind::Has`]: one group, any ordinals.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HasShards {
    /// Group id, 32 bytes; must be open on the stream.
    #[prost(bytes = "vec", tag = "1")]
    pub group: Vec<u8>,
    /// Slot of the shards.
    #[prost(uint32, tag = "2")]
    pub slot: u32,
}

/// Head of [`FrameKind::Holding`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HasAnswer {
    /// 32 bytes, bit `o % 8` of byte `o / 8` set when the shard of ordinal `o` is held (live, not in the trash).
    #[prost(bytes = "vec", tag = "1")]
    pub ordinals: Vec<u8>,
}

/// Head of [`FrameKind::Delete`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteShard {
    /// Group id, 32 bytes; must be open on the stream with the delete right.
    #[prost(bytes = "vec", tag = "1")]
    pub group: Vec<u8>,
    /// Slot of the shard.
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    /// Stripe of the group, 0..=255.
    #[prost(uint32, tag = "3")]
    pub ordinal: u32,
}

/// Head of [`FrameKind::Refused`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refused {
    /// A [`RefusalCode`].
    #[prost(enumeration = "RefusalCode", tag = "1")]
    pub code: i32,
    /// Ask again after this many milliseconds; 0 when asking again does not help.
    #[prost(uint64, tag = "2")]
    pub retry_after_ms: u64,
}

/// Why a holder refuses. Numbers are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RefusalCode {
    /// Not said; never sent on purpose.
    Unknown = 0,
    /// Queues or memory are full: wait `retry_after_ms`.
    Busy = 1,
    /// The slot is not this peer's colour in the group (SEP-1).
    WrongColour = 2,
    /// This peer once accepted another slot of the group (SEP-1, second guard).
    LedgerConflict = 3,
    /// The group is not open on this stream, or the grant does not allow it.
    NotAuthorised = 4,
    /// The pledge or the disk is full.
    NoSpace = 5,
    /// No such shard, trash looked into.
    NotFound = 6,
    /// A field is out of its domain.
    BadRequest = 7,
    /// The payload's hash is not the root stated.
    RootMismatch = 8,
    /// The shard is here but damaged.
    Damaged = 9,
    /// The node is going down.
    ShuttingDown = 10,
    /// This ordinal holds another shard already; shards are immutable.
    Occupied = 11,
    /// This peer keeps no shards.
    NotStorage = 12,
    /// The store failed; see the holder's log.
    StoreFailed = 13,
    /// The bearer's domain, which decides on its colour, is not known here yet: wait `retry_after_ms`, its advert is asked for.
    UnknownBearer = 14,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_sixteen_bytes_decode_or_refuse(bytes: [u8; 16]) {
            if let Ok(h) = FrameHeader::decode(&bytes) {
                prop_assert_eq!(h.encode(), bytes);
                prop_assert!(usize::from(h.head_len) <= FRAME_HEAD_MAX);
                prop_assert!(h.payload_len as usize <= h.kind.payload_max());
            }
        }
    }

    #[test]
    fn lengths_over_the_limit_are_refused_before_anything_is_allocated() {
        let good =
            FrameHeader { kind: FrameKind::Put, priority: Priority::Normal, head_len: 9, request: 1, payload_len: 5 };
        assert_eq!(FrameHeader::decode(&good.encode()), Ok(good));
        let mut long = good.encode();
        long[8..12].copy_from_slice(&(FRAME_PAYLOAD_MAX as u32 + 1).to_le_bytes());
        assert!(matches!(FrameHeader::decode(&long), Err(DecodeError::TooLarge { .. })));
        let get = FrameHeader { kind: FrameKind::Get, ..good };
        assert!(FrameHeader::decode(&get.encode()).is_err());
        let open = |payload_len| FrameHeader { kind: FrameKind::OpenOrder, payload_len, ..good }.encode();
        assert!(FrameHeader::decode(&open(FRAME_PASS_MAX as u32)).is_ok());
        assert!(FrameHeader::decode(&open(FRAME_PASS_MAX as u32 + 1)).is_err());
    }
}
