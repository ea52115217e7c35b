//! The store as the network's keeper of shards and stewardship's shelf. Both say what they see to [`Holdings`], and take nothing once this
//! node leaves.

use bytes::Bytes;
use cairn_proto::{ByteSize, GroupId, ShardRoot, Slot, Timestamp, VaultKey, wire::RefusalCode};
use futures::{FutureExt, future::BoxFuture};

use crate::{
    holdings::{Holdings, Watchers},
    network::keeper::{KeeperSpace, ShardKeeper},
    stewardship::Shelf,
    store::{NewShard, Store, StoreError, StoredShard},
};

/// A store that serves the network.
pub(super) struct StoreKeeper {
    store: Store,
    holdings: Holdings,
}

impl StoreKeeper {
    pub(super) const fn new(store: Store, holdings: Holdings) -> Self {
        Self { store, holdings }
    }
}

impl Shelf for StoreKeeper {
    fn accepted_slot(&self, group: GroupId) -> Option<Slot> {
        self.store.accepted_slot(group)
    }

    fn has(&self, group: GroupId, slot: Slot, ordinal: u8, root: &ShardRoot) -> bool {
        self.store.has_sound(group, slot, ordinal, root)
    }

    fn room(&self) -> u64 {
        ShardKeeper::space(self).free.0
    }

    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.store.put(shard).await.map(|_| ()) }.boxed()
    }

    fn watched(&self, group: GroupId, by: Watchers) {
        self.holdings.watched(group, by);
    }
}

impl ShardKeeper for StoreKeeper {
    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<StoredShard, RefusalCode>> {
        async move {
            // What lies here already is no more of a burden.
            let known = self.store.has_sound(shard.group, shard.slot, shard.ordinal, &shard.root);
            if self.holdings.is_leaving() && !known {
                return Err(RefusalCode::NoSpace);
            }
            self.store.put(shard).await.map_err(refusal)
        }
        .boxed()
    }

    fn get(
        &self,
        group: GroupId,
        slot: Slot,
        ordinal: u8,
        offset: u32,
        length: u32,
    ) -> BoxFuture<'_, Result<Bytes, RefusalCode>> {
        async move {
            let read = self.store.get(group, slot, ordinal, offset, length).await;
            if matches!(read, Err(StoreError::Damaged)) {
                self.holdings.lost(group, slot, [ordinal].into_iter().collect());
            }
            read.map_err(refusal)
        }
        .boxed()
    }

    fn look(&self, group: GroupId, slot: Slot, ordinal: u8) -> BoxFuture<'_, Result<Bytes, RefusalCode>> {
        async move { self.store.look(group, slot, ordinal).await.map_err(refusal) }.boxed()
    }

    fn holding(&self, group: GroupId, slot: Slot) -> BoxFuture<'_, Result<[u8; 32], RefusalCode>> {
        std::future::ready(Ok(self.store.holding(group, slot))).boxed()
    }

    fn rows(&self, group: GroupId, slot: Slot) -> Vec<(u8, ShardRoot, Timestamp)> {
        self.store.rows(group, slot)
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
        let free = if self.holdings.is_leaving() { ByteSize(0) } else { usage.free_bytes };
        KeeperSpace { give: usage.pledged, free }
    }

    fn watched(&self, group: GroupId, by: Watchers) {
        self.holdings.watched(group, by);
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
        StoreError::HeadTooSoon => RefusalCode::Busy,
        StoreError::NotFound => RefusalCode::NotFound,
        StoreError::Damaged => RefusalCode::Damaged,
        StoreError::Closed => RefusalCode::ShuttingDown,
        _ => {
            tracing::error!("the store failed: {error}");
            RefusalCode::StoreFailed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_proto::message::HeadRecord;
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::store::StoreConfig;

    #[tokio::test]
    async fn a_head_that_moves_too_often_is_told_to_come_again() {
        let dir = tempfile::tempdir().expect("temp");
        let mut config = StoreConfig::new(dir.path().join("store"), ByteSize(1 << 30));
        config.keep_free = ByteSize(0);
        // No time goes by, however long this takes.
        config.clock = Arc::new(|| Timestamp(1_000_000));
        let keeper = StoreKeeper::new(Store::open(config).expect("opens"), Holdings::default());
        let key = SigningKey::from_bytes(&[5; 32]);
        let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
        let head = |sequence| HeadRecord { vault, generation: 0, sequence, sealed: vec![1; 40] }.seal(&key);
        let mut moves = 0;
        let refused = loop {
            match keeper.keep_head(vault, head(moves)).await {
                Ok(()) => moves += 1,
                Err(code) => break code,
            }
            assert!(moves < 100, "heads move without end");
        };
        assert_eq!(refused, RefusalCode::Busy, "as much as: come again");
        assert_eq!(keeper.find_head(vault).await, Ok(Some(head(moves - 1))));
        keeper.store.close().await;
    }
}
