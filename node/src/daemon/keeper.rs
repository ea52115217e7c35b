//! The store as the network's keeper of shards.

use bytes::Bytes;
use cairn_proto::{GroupId, Slot, VaultKey, wire::RefusalCode};
use futures::{FutureExt, future::BoxFuture};

use crate::{
    network::keeper::{KeeperSpace, ShardKeeper},
    store::{NewShard, Store, StoreError, StoredShard},
};

/// A store that serves the network.
pub(super) struct StoreKeeper {
    store: Store,
}

impl StoreKeeper {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }
}

impl ShardKeeper for StoreKeeper {
    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<StoredShard, RefusalCode>> {
        async move { self.store.put(shard).await.map_err(refusal) }.boxed()
    }

    fn get(
        &self,
        group: GroupId,
        slot: Slot,
        ordinal: u8,
        offset: u32,
        length: u32,
    ) -> BoxFuture<'_, Result<Bytes, RefusalCode>> {
        async move { self.store.get(group, slot, ordinal, offset, length).await.map_err(refusal) }.boxed()
    }

    fn holding(&self, group: GroupId, slot: Slot) -> BoxFuture<'_, Result<[u8; 32], RefusalCode>> {
        std::future::ready(Ok(self.store.holding(group, slot))).boxed()
    }

    fn delete(&self, group: GroupId, slot: Slot, ordinal: u8) -> BoxFuture<'_, Result<(), RefusalCode>> {
        async move { self.store.delete(group, slot, ordinal).await.map_err(refusal) }.boxed()
    }

    /// The store reads the vault's key from the record itself, which the network has verified.
    fn keep_head(&self, _vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<(), RefusalCode>> {
        async move { self.store.keep_head(encoded).await.map(|_newer| ()).map_err(refusal) }.boxed()
    }

    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<Vec<u8>>, RefusalCode>> {
        std::future::ready(Ok(self.store.find_head(&vault))).boxed()
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, RefusalCode>> {
        std::future::ready(Ok(self.store.heads().into_iter().map(|(_, encoded)| encoded).collect())).boxed()
    }

    fn space(&self) -> KeeperSpace {
        let usage = self.store.usage();
        KeeperSpace { give: usage.pledged, free: usage.free_bytes }
    }
}

/// What goes over the wire. The operator's details stay in the log.
fn refusal(error: StoreError) -> RefusalCode {
    match &error {
        StoreError::RootMismatch => RefusalCode::RootMismatch,
        StoreError::WrongLength { .. } | StoreError::RangeOutside | StoreError::HeadInvalid(_) => {
            RefusalCode::BadRequest
        }
        StoreError::Occupied => RefusalCode::Occupied,
        StoreError::LedgerConflict { .. } => RefusalCode::LedgerConflict,
        StoreError::NoSpace { .. } | StoreError::HeadsFull { .. } => RefusalCode::NoSpace,
        StoreError::NotFound => RefusalCode::NotFound,
        StoreError::Damaged => RefusalCode::Damaged,
        StoreError::Closed => RefusalCode::ShuttingDown,
        _ => {
            tracing::error!("the store failed: {error}");
            RefusalCode::StoreFailed
        }
    }
}
