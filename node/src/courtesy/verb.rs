//! The limits of one verb (`--limit-up`, `--limit-down`): the overlay as it is, but shards wait for their turn.
//!
//! A shard at a time, each at the line's own speed; over some shards the limit holds.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::{
    courtesy::timetable::{Speed, Timetable},
    peer_view::{PeerView, PerMille},
    steward::wire::GroupMap,
};
use cairn_proto::{
    Domain, GroupId, PeerKey, SHARD_SIZE, Slot, Timestamp, VaultKey, message::HeadRecord, wire::Priority,
};
use futures::{FutureExt as _, future::BoxFuture};

use super::{Courtesy, CourtesyConfig};
use crate::overlay::{
    Challenged, GroupAccess, HeadPublished, KeptReceipt, Overlay, OverlayError, ShardAddress, ShardChallenge, ShardPut,
    StewardError, TransferError,
};
use crate::standing::ports::Witness;

/// An overlay of which shards are moved no faster than a verb wants.
pub struct Limited {
    inner: Arc<dyn Overlay>,
    courtesy: Courtesy,
}

impl Limited {
    /// The overlay itself when there is no limit. Bytes a second each.
    #[must_use]
    pub fn wrap(inner: Arc<dyn Overlay>, up: Option<u64>, down: Option<u64>) -> Arc<dyn Overlay> {
        if up.is_none() && down.is_none() {
            return inner;
        }
        let speed = |limit: Option<u64>| limit.map_or(Speed::Free, Speed::Limited);
        let table = Timetable::new(speed(up), speed(down), Vec::new());
        Arc::new(Self { inner, courtesy: Courtesy::start(CourtesyConfig::new(table, None)) })
    }
}

fn crowded(_: super::line::Crowded) -> TransferError {
    TransferError::TimedOut
}

impl Overlay for Limited {
    fn me(&self) -> PeerKey {
        self.inner.me()
    }

    fn my_domain(&self) -> Domain {
        self.inner.my_domain()
    }

    fn witness(&self) -> Option<&dyn Witness> {
        self.inner.witness()
    }

    fn quota(&self, peer: &PeerKey, since: Timestamp) -> PerMille {
        self.inner.quota(peer, since)
    }

    fn fallback_of(&self, holder: &PeerKey) -> Option<&str> {
        self.inner.fallback_of(holder)
    }

    fn is_connected(&self, peer: &PeerKey) -> bool {
        self.inner.is_connected(peer)
    }

    fn reach(&self, peer: PeerKey) {
        self.inner.reach(peer);
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
        async move {
            self.courtesy.up().pass(priority, put.bytes.len()).await.map_err(crowded)?;
            self.inner.put_shard(to, put, priority).await
        }
        .boxed()
    }

    fn get_shard(
        &self,
        from: PeerKey,
        address: ShardAddress,
        offset: u32,
        length: u32,
        priority: Priority,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        async move {
            let bytes = if length == 0 { SHARD_SIZE.saturating_sub(offset as usize) } else { length as usize };
            self.courtesy.down().pass(priority, bytes).await.map_err(crowded)?;
            self.inner.get_shard(from, address, offset, length, priority).await
        }
        .boxed()
    }

    /// An answer is a hundredth of a shard.
    fn challenge(&self, at: PeerKey, about: ShardChallenge) -> BoxFuture<'_, Result<Challenged, TransferError>> {
        self.inner.challenge(at, about)
    }

    fn has_shards(
        &self,
        at: PeerKey,
        group: Arc<GroupAccess>,
        slot: Slot,
    ) -> BoxFuture<'_, Result<[u8; 32], TransferError>> {
        self.inner.has_shards(at, group, slot)
    }

    fn delete_shard(&self, at: PeerKey, address: ShardAddress) -> BoxFuture<'_, Result<(), TransferError>> {
        self.inner.delete_shard(at, address)
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
