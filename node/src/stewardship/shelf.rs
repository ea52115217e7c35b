//! The store, as a new holder needs it.

use cairn_proto::{GroupId, ShardRoot, Slot};
use futures::{FutureExt as _, future::BoxFuture};

use crate::store::{NewShard, Store, StoreError};

/// Where a new holder's shards go.
pub trait Shelf: Send + Sync + 'static {
    /// The slot of the group that was accepted here once.
    fn accepted_slot(&self, group: GroupId) -> Option<Slot>;
    /// Whether this very shard is here, sound.
    fn has(&self, group: GroupId, slot: Slot, ordinal: u8, root: &ShardRoot) -> bool;
    /// Bytes that may still be stored.
    fn room(&self) -> u64;
    /// Stores a shard; durable on return.
    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<(), StoreError>>;
}

impl Shelf for Store {
    fn accepted_slot(&self, group: GroupId) -> Option<Slot> {
        Self::accepted_slot(self, group)
    }

    fn has(&self, group: GroupId, slot: Slot, ordinal: u8, root: &ShardRoot) -> bool {
        self.has_sound(group, slot, ordinal, root)
    }

    fn room(&self) -> u64 {
        self.usage().free_bytes.0
    }

    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { Self::put(self, shard).await.map(|_| ()) }.boxed()
    }
}
