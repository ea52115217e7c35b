//! The seam between a vault and the network: what an owner needs of the overlay, and nothing of how it is done.
//!
//! [`crate::network`] implements it over libp2p; tests implement it in memory.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::{
    peer_view::{PeerView, PerMille},
    steward::wire::{GroupMap, Refusal},
};
use cairn_proto::{
    Domain, GroupId, GroupTicket, PeerKey, ShardRoot, Slot, StatementId, Timestamp, VaultKey,
    audit::{Challenge, Way},
    message::{HeadRecord, Receipt},
    signed::SignedBytes,
    wire::{Priority, RefusalCode},
};
use ed25519_dalek::SigningKey;
use futures::future::BoxFuture;

use crate::standing::ports::Witness;

/// Maps of groups that are asked for at once. One has 2 MiB at most, so 32 MiB of what liars send.
pub const MAPS_AT_ONCE: usize = 16;

/// A group that we own: its public ticket and the key that signs its grants.
pub struct GroupAccess {
    /// What defines the group.
    pub ticket: GroupTicket,
    /// The group's authority; zeroized on drop.
    pub authority: SigningKey,
}

impl std::fmt::Debug for GroupAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupAccess({})", self.ticket.id().short())
    }
}

/// Which shard: a slot of a stripe of a group that we own.
#[derive(Clone, Debug)]
pub struct ShardAddress {
    /// The group and its key.
    pub group: Arc<GroupAccess>,
    /// Position in the stripe.
    pub slot: Slot,
    /// Stripe of the group.
    pub ordinal: u8,
}

/// A shard to be stored.
#[derive(Clone, Debug)]
pub struct ShardPut {
    /// Where it belongs.
    pub address: ShardAddress,
    /// BLAKE3 of `bytes`.
    pub root: ShardRoot,
    /// Until when the holder is asked to keep it.
    pub lease_until: Timestamp,
    /// Exactly [`cairn_proto::SHARD_SIZE`] bytes.
    pub bytes: Bytes,
}

/// A holder's receipt, verified by the overlay: signature, holder, and that it says what was asked.
#[derive(Clone, Debug)]
pub struct KeptReceipt {
    /// What it says.
    pub receipt: Receipt,
    /// The signed bytes, to be kept as evidence.
    pub signed: SignedBytes,
}

/// Why one transfer with one peer did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The peer could not be dialled, or the connection broke.
    #[error("cannot reach the peer: {0}")]
    Unreachable(String),
    /// No byte moved for too long.
    #[error("the peer stopped answering")]
    TimedOut,
    /// The peer said no.
    #[error("the peer refused: {code:?}")]
    Refused {
        /// Why.
        code: RefusalCode,
        /// When asking again helps, in milliseconds; 0 when it does not.
        retry_after_ms: u64,
    },
    /// The peer broke the protocol or lied (wrong length, wrong signature).
    #[error("the peer answered wrongly: {0}")]
    Misbehaved(String),
    /// Our own node is going down.
    #[error("this node is going down")]
    ShuttingDown,
}

/// Why a steward did not do as an owner asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StewardError {
    /// It was not reached, or broke the protocol.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// It said no.
    #[error("the steward refused: {0:?}")]
    Refused(Refusal),
}

/// Why the overlay as a whole cannot do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// No peer could be reached at all.
    #[error("no peer of the network can be reached: {0}")]
    NoPeers(String),
    /// Our own node is going down.
    #[error("this node is going down")]
    ShuttingDown,
}

/// How a published head fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadPublished {
    /// Peers that confirmed keeping it.
    pub kept_by: usize,
}

/// What a holder is to show of a shard.
#[derive(Clone, Debug)]
pub struct ShardChallenge {
    /// What defines the group.
    pub ticket: GroupTicket,
    /// The group's key, to give ourselves leave to read; without one only digests are answered.
    pub access: Option<Arc<GroupAccess>>,
    /// Position in the stripe.
    pub slot: Slot,
    /// Stripe of the group.
    pub ordinal: u8,
    /// The shard's root as its owner knows it.
    pub root: ShardRoot,
    /// Where leaves are asked for follows from it.
    pub nonce: [u8; 32],
    /// How to answer.
    pub way: Way,
    /// How many leaves.
    pub leaves: u8,
    /// The last answer that we got of this holder.
    pub previous: Option<StatementId>,
}

/// Time for an answer: a line that wakes up, a holder that is busy and asked again.
const CHALLENGE_MS: u64 = 5 * 60 * 1000;

impl ShardChallenge {
    /// As it goes to a holder.
    #[must_use]
    pub fn seal(&self, holder: PeerKey, key: &SigningKey, now: Timestamp) -> SignedBytes {
        let challenge = Challenge {
            auditor: PeerKey::from_bytes(key.verifying_key().to_bytes()),
            holder,
            group: self.ticket.id(),
            slot: self.slot,
            ordinal: self.ordinal,
            root: self.root,
            nonce: self.nonce,
            way: self.way,
            slices: self.leaves,
            previous: self.previous,
            issued: now,
            deadline: now.plus_ms(CHALLENGE_MS),
        };
        challenge.seal(key)
    }
}

/// What a holder answered. Nothing in it is checked but its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Challenged {
    /// The challenge as it went out.
    pub challenge: SignedBytes,
    /// What the holder signed.
    pub answer: SignedBytes,
    /// What it showed.
    pub slices: Vec<Vec<u8>>,
}

/// What an owner needs of the network. Every future may be dropped at any await point: the request is cancelled.
pub trait Overlay: Send + Sync + 'static {
    /// Our own key: the bearer of our grants.
    fn me(&self) -> PeerKey;

    /// Our own domain: peers of it never hold our groups.
    fn my_domain(&self) -> Domain;

    /// Who takes note of what was seen of peers; none where nobody does.
    fn witness(&self) -> Option<&dyn Witness> {
        None
    }

    /// How much of what it offers a newcomer may be given in a day ([`cairn_core::placement::vetting`]). `since`: known since then.
    fn quota(&self, _peer: &PeerKey, _since: Timestamp) -> PerMille {
        1000
    }

    /// Whether a holder that a group's row names is no peer but stands for fallback storage, and for which: its name.
    fn fallback_of(&self, _holder: &PeerKey) -> Option<&str> {
        None
    }

    /// Whether a question to this peer need not wait for a connection; a moment later it may be otherwise.
    fn is_connected(&self, _peer: &PeerKey) -> bool {
        true
    }

    /// Begins to connect to a peer that will be asked soon; [`Self::is_connected`] tells when it is.
    fn reach(&self, _peer: PeerKey) {}

    /// Peers known now, from gossiped adverts and random walks in the DHT. With `refresh`, walks first until
    /// enough storage peers are known or nothing new turns up.
    fn peers(&self, refresh: bool) -> BoxFuture<'_, Result<Vec<PeerView>, OverlayError>>;

    /// Stores one shard at one peer; durable there when this returns. `Busy` is waited for inside, within reason.
    fn put_shard(
        &self,
        to: PeerKey,
        put: ShardPut,
        priority: Priority,
    ) -> BoxFuture<'_, Result<KeptReceipt, TransferError>>;

    /// Reads `length` bytes (0: to the end) of a shard from `offset`. The bytes are *not* checked against the root:
    /// the caller knows it and does.
    fn get_shard(
        &self,
        from: PeerKey,
        address: ShardAddress,
        offset: u32,
        length: u32,
        priority: Priority,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>>;

    /// Which ordinals of a group's slot the peer holds: bit `o % 8` of byte `o / 8`.
    fn has_shards(
        &self,
        at: PeerKey,
        group: Arc<GroupAccess>,
        slot: Slot,
    ) -> BoxFuture<'_, Result<[u8; 32], TransferError>>;

    /// Moves a shard to the holder's trash.
    fn delete_shard(&self, at: PeerKey, address: ShardAddress) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Has a holder show what it has of a shard; one that is busy is asked again, within reason.
    fn challenge(&self, at: PeerKey, about: ShardChallenge) -> BoxFuture<'_, Result<Challenged, TransferError>>;

    /// Leaves a group's record ([`cairn_proto::GroupRecord::encode`]) to a steward that its mandate names; durable there when
    /// this returns.
    fn register_group(&self, steward: PeerKey, record: Vec<u8>) -> BoxFuture<'_, Result<(), StewardError>>;

    /// Leaves tokens ([`cairn_proto::tokens::Booklet`], sealed) to a steward that watches the group: its own, and a spare one for a steward
    /// that others put in; durable there when this returns.
    fn leave_tokens(
        &self,
        steward: PeerKey,
        group: GroupId,
        own: Vec<u8>,
        spare: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<(), StewardError>>;

    /// What a steward knows of a group that we own. Nothing in it is checked yet. A steward that does not answer within seconds is
    /// an error; time that passes before it is asked is not counted, and no more than [`MAPS_AT_ONCE`] are asked at once.
    fn group_map(
        &self,
        steward: PeerKey,
        group: Arc<GroupAccess>,
    ) -> BoxFuture<'_, Result<Box<GroupMap>, StewardError>>;

    /// Has the network keep an encoded head record ([`HeadRecord::seal`]).
    fn publish_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<HeadPublished, OverlayError>>;

    /// The newest valid head record that the network has for a vault, by disjoint paths and direct questions.
    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<HeadRecord>, OverlayError>>;
}
