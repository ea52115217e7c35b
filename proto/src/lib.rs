//! What crosses a wire or a disk in Cairn, and nothing else: ids, units, messages, codecs, limits.
//!
//! `SPEC.md` beside this crate has the byte layouts; `tests/golden/` freezes them. Every decoder here takes
//! hostile bytes: it is bounded, never panics, and has a fuzz target.

pub mod audit;
pub mod code_params;
pub mod group;
pub mod head;
pub mod ids;
pub mod index;
pub mod layout;
pub mod mandate;
pub mod manifest;
pub mod message;
pub mod network_file;
pub mod order;
pub mod pass;
pub mod receipt;
pub mod record;
pub mod signed;
pub mod tokens;
pub mod tree;
pub mod units;
pub mod wire;

pub use code_params::{CodeParams, SEAL_OVERHEAD, SHARD_PAYLOAD, SHARD_SIZE, STRIPES_PER_GROUP_MAX, Slot};
pub use group::{Grant, GroupTicket, Rights};
pub use ids::{
    ChunkId, Domain, GroupId, NetworkId, PeerKey, Region, ShardRoot, SnapshotId, StatementId, StripeId, VaultKey,
};
pub use mandate::{GroupRecord, Mandate, Powers, SheetRow, SlotSheet};
pub use order::{Action, Certificate, Committee, Order, Ordinals, Taken};
pub use units::{ByteSize, Timestamp};

/// The version that stands in every protocol name and in adverts. Peers of another version are not eligible.
pub const PROTOCOL_VERSION: u32 = 1;

/// Why bytes were not what they claim to be. Decoders return this and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the layout needs.
    #[error("{what}: {found} bytes where {needed} are needed")]
    Truncated {
        /// What was being decoded.
        what: &'static str,
        /// Bytes the layout needs.
        needed: usize,
        /// Bytes present.
        found: usize,
    },
    /// More than the stated limit.
    #[error("{what}: {found} is over the limit of {limit}")]
    TooLarge {
        /// What was being decoded.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// The value found.
        found: usize,
    },
    /// A field has a value outside its domain.
    #[error("{what}: {why}")]
    Invalid {
        /// What was being decoded.
        what: &'static str,
        /// Which rule it broke.
        why: &'static str,
    },
    /// A signature or checksum does not match.
    #[error("{what}: the signature or checksum does not match")]
    NotAuthentic {
        /// What was being decoded.
        what: &'static str,
    },
}
