//! The seams between stewardship and the network: what it asks of peers, and what peers ask of it.
//!
//! [`crate::network`] implements the first and calls the second; tests do both in memory.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use cairn_core::{
    part::{Credentials, Task},
    peer_view::{PeerView, PerMille},
    reputation::QUOTA_FIRST,
    steward::{
        message::Failure,
        wire::{Answer, Request},
    },
};
use cairn_proto::{Certificate, Ordinals, PeerKey, Slot, Timestamp, order::OrderId};
use futures::{FutureExt as _, future::BoxFuture};

use crate::{overlay::TransferError, standing::ports::Witness};

/// What opens a group at a holder for a steward that asks what it has, and for nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchPass {
    /// The mandate, as it was signed.
    pub mandate: Arc<[u8]>,
    /// Stewards that changed since.
    pub changes: Arc<[Certificate]>,
}

/// What stewardship needs of the network. Every future may be dropped at any await point.
pub trait StewardNet: Send + Sync + 'static {
    /// Our own key.
    fn me(&self) -> PeerKey;

    /// Who takes note of what was seen of peers; none where nobody does.
    fn witness(&self) -> Option<&dyn Witness> {
        None
    }

    /// Who is proved to have lied.
    fn convicted(&self) -> Vec<PeerKey> {
        Vec::new()
    }

    /// By what share of what it offers a newcomer is held in a day. `since`: known since then.
    fn quota(&self, _peer: &PeerKey, _since: Timestamp) -> PerMille {
        QUOTA_FIRST
    }

    /// Everybody known now. `last_heard` moves with every sign of life: adverts, pings, answers.
    fn peers(&self) -> BoxFuture<'_, Vec<PeerView>>;

    /// Asks whether a peer is there: one small question, dialled for if need be.
    fn probe(&self, peer: PeerKey) -> BoxFuture<'_, Result<(), TransferError>>;

    /// One question on the stewards' protocol.
    fn request(&self, to: PeerKey, request: Request) -> BoxFuture<'_, Result<Answer, TransferError>>;

    /// Which ordinals of a slot a holder has, under a mandate.
    fn holding(&self, at: PeerKey, pass: WatchPass, slot: Slot) -> BoxFuture<'_, Result<Ordinals, TransferError>>;

    /// Waits until this node takes part in background work: it may be paused.
    fn ready(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// One shard from the source that an order names, by the new holder that it names. Not checked against a root.
    fn fetch(
        &self,
        from: PeerKey,
        credentials: Arc<Credentials>,
        ordinal: u8,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>>;
}

/// Who answers what comes in on the stewards' protocol. The network bounds how many run at once, all in all and for
/// each peer.
pub trait StewardService: Send + Sync + 'static {
    /// Answers a peer. Must end in bounded time; what takes long goes on behind it.
    fn handle(&self, from: PeerKey, request: Request) -> BoxFuture<'_, Answer>;
}

/// Rebuilds a shard for us, the new holder that an order names, from the helpers that it names, blinded.
pub trait Rebuilder: Send + Sync + 'static {
    /// One shard of a rebuild, checked against the sheet's root.
    fn rebuild(
        &self,
        credentials: Arc<Credentials>,
        task: Arc<Task>,
        ordinal: u8,
    ) -> BoxFuture<'_, Result<Bytes, Failure>>;

    /// Helpers of an order whose doing it seems to be that roots came out wrong, though shards may have come without them. None where every
    /// root came out right at once; nobody where it could not be found out.
    fn named<'a>(&'a self, _order: &'a OrderId) -> BoxFuture<'a, Option<BTreeSet<PeerKey>>> {
        std::future::ready(None).boxed()
    }
}
