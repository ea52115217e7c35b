//! The network with fallback storage among its holders: what is asked of a key that stands for a provider goes there.
//!
//! - **TRUST-1** Nothing that a provider does is told to those who judge peers.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::{
    peer_view::{PeerView, PerMille},
    reputation::Observed,
    steward::wire::GroupMap,
};
use cairn_proto::{
    Domain, GroupId, PeerKey, Slot, Timestamp, VaultKey, audit::Evidence, message::HeadRecord, wire::Priority,
};
use futures::{FutureExt as _, future::BoxFuture};

use super::{Storage, place};
use crate::{
    overlay::{
        Challenged, GroupAccess, HeadPublished, KeptReceipt, Overlay, OverlayError, ShardAddress, ShardChallenge,
        ShardPut, StewardError, TransferError,
    },
    standing::ports::Witness,
};

/// Whoever judges peers hears nothing of providers.
struct Deaf {
    inner: Arc<dyn Overlay>,
    storage: Arc<Storage>,
}

impl Witness for Deaf {
    fn saw(&self, peer: PeerKey, seen: Observed) {
        if self.storage.name_of(&peer).is_none()
            && let Some(witness) = self.inner.witness()
        {
            witness.saw(peer, seen);
        }
    }

    fn learned(&self, evidence: Evidence) {
        if let Some(witness) = self.inner.witness() {
            witness.learned(evidence);
        }
    }
}

/// The network, with fallback storage among its holders.
pub(in crate::vault) struct Leaning {
    inner: Arc<dyn Overlay>,
    storage: Arc<Storage>,
    witness: Deaf,
}

impl Leaning {
    /// The overlay itself when there is no fallback storage.
    pub(in crate::vault) fn wrap(inner: Arc<dyn Overlay>, storage: Arc<Storage>) -> Arc<dyn Overlay> {
        if storage.holders.is_empty() {
            return inner;
        }
        let witness = Deaf { inner: inner.clone(), storage: storage.clone() };
        Arc::new(Self { inner, storage, witness })
    }

    fn is_one(&self, holder: &PeerKey) -> bool {
        self.storage.holders.contains_key(holder)
    }
}

impl Overlay for Leaning {
    fn me(&self) -> PeerKey {
        self.inner.me()
    }

    fn my_domain(&self) -> Domain {
        self.inner.my_domain()
    }

    fn witness(&self) -> Option<&dyn Witness> {
        self.inner.witness().map(|_| &self.witness as &dyn Witness)
    }

    fn quota(&self, peer: &PeerKey, since: Timestamp) -> PerMille {
        self.inner.quota(peer, since)
    }

    fn fallback_of(&self, holder: &PeerKey) -> Option<&str> {
        self.storage.name_of(holder)
    }

    fn is_connected(&self, peer: &PeerKey) -> bool {
        self.is_one(peer) || self.inner.is_connected(peer)
    }

    fn reach(&self, peer: PeerKey) {
        if !self.is_one(&peer) {
            self.inner.reach(peer);
        }
    }

    fn peers(&self, refresh: bool) -> BoxFuture<'_, Result<Vec<PeerView>, OverlayError>> {
        self.inner.peers(refresh)
    }

    fn put_shard(
        &self,
        to: PeerKey,
        put: ShardPut,
        priority: Priority,
    ) -> BoxFuture<'_, Result<KeptReceipt, TransferError>> {
        if self.is_one(&to) { self.storage.put(to, put).boxed() } else { self.inner.put_shard(to, put, priority) }
    }

    fn get_shard(
        &self,
        from: PeerKey,
        address: ShardAddress,
        offset: u32,
        length: u32,
        priority: Priority,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        if !self.is_one(&from) {
            return self.inner.get_shard(from, address, offset, length, priority);
        }
        async move {
            // A sealed object is read whole or not at all.
            let shard = self.storage.get(&from, place(&address)).await?;
            let begin = (offset as usize).min(shard.len());
            let end = if length == 0 { shard.len() } else { shard.len().min(begin + length as usize) };
            Ok(shard.slice(begin..end))
        }
        .boxed()
    }

    fn has_shards(
        &self,
        at: PeerKey,
        group: Arc<GroupAccess>,
        slot: Slot,
    ) -> BoxFuture<'_, Result<[u8; 32], TransferError>> {
        if !self.is_one(&at) {
            return self.inner.has_shards(at, group, slot);
        }
        async move { self.storage.has(&at, &group, slot).await }.boxed()
    }

    fn delete_shard(&self, at: PeerKey, address: ShardAddress) -> BoxFuture<'_, Result<(), TransferError>> {
        if !self.is_one(&at) {
            return self.inner.delete_shard(at, address);
        }
        async move { self.storage.delete(&at, place(&address)).await }.boxed()
    }

    fn challenge(&self, at: PeerKey, about: ShardChallenge) -> BoxFuture<'_, Result<Challenged, TransferError>> {
        if self.is_one(&at) { self.storage.challenge(at, about).boxed() } else { self.inner.challenge(at, about) }
    }

    fn register_group(&self, steward: PeerKey, record: Vec<u8>) -> BoxFuture<'_, Result<(), StewardError>> {
        self.inner.register_group(steward, record)
    }

    fn leave_tokens(
        &self,
        steward: PeerKey,
        group: GroupId,
        own: Vec<u8>,
        spare: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<(), StewardError>> {
        self.inner.leave_tokens(steward, group, own, spare)
    }

    fn group_map(
        &self,
        steward: PeerKey,
        group: Arc<GroupAccess>,
    ) -> BoxFuture<'_, Result<Box<GroupMap>, StewardError>> {
        self.inner.group_map(steward, group)
    }

    fn publish_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<HeadPublished, OverlayError>> {
        self.inner.publish_head(vault, encoded)
    }

    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<HeadRecord>, OverlayError>> {
        self.inner.find_head(vault)
    }
}
