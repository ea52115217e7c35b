//! The store, as a new holder needs it.

use cairn_proto::{GroupId, ShardRoot, Slot};
use futures::future::BoxFuture;

use crate::{
    holdings::Watchers,
    store::{NewShard, StoreError},
};

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
    /// Stewards of a group gave us shards of it, and their order was found good; must not block.
    fn watched(&self, _group: GroupId, _by: Watchers) {}
}
