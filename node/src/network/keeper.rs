//! What the network needs of a store: keep a shard, give it back. The real store implements it; tests keep in memory.

pub mod memory;

use bytes::Bytes;
use cairn_proto::{ByteSize, GroupId, ShardRoot, Slot, Timestamp, VaultKey, wire::RefusalCode};
use futures::future::BoxFuture;

use crate::{
    holdings::Watchers,
    store::{NewShard, StoredShard},
};

/// Space, for adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperSpace {
    /// Pledged.
    pub give: ByteSize,
    /// Still free for shards.
    pub free: ByteSize,
}

/// Keeps shards and head records durably. A refusal is the code that goes over the wire.
///
/// # Invariants
///
/// - **SEP-1, second guard** `put` answers [`RefusalCode::LedgerConflict`] when it ever accepted another slot of
///   the group.
pub trait ShardKeeper: Send + Sync + 'static {
    /// Checks the root, stores, and returns once durable. Idempotent for the same root. The shard passed every check that
    /// the network can make (grant, bearer, colour, length), not yet the root.
    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<StoredShard, RefusalCode>>;

    /// Bytes of a shard; `length` 0 means to the end.
    fn get(
        &self,
        group: GroupId,
        slot: Slot,
        ordinal: u8,
        offset: u32,
        length: u32,
    ) -> BoxFuture<'_, Result<Bytes, RefusalCode>>;

    /// The whole shard for who only looks at it: trash included, and nothing comes back from there by it.
    fn look(&self, group: GroupId, slot: Slot, ordinal: u8) -> BoxFuture<'_, Result<Bytes, RefusalCode>> {
        self.get(group, slot, ordinal, 0, 0)
    }

    /// Bit `o % 8` of byte `o / 8` set for each ordinal held.
    fn holding(&self, group: GroupId, slot: Slot) -> BoxFuture<'_, Result<[u8; 32], RefusalCode>>;

    /// Every shard of the slot that is live and sound, by ordinal, and until when it is kept: what a receipt says of the rest. None: it
    /// says nothing of it. Must not block.
    fn rows(&self, _group: GroupId, _slot: Slot) -> Vec<(u8, ShardRoot, Timestamp)> {
        Vec::new()
    }

    /// Moves a shard to the trash.
    fn delete(&self, group: GroupId, slot: Slot, ordinal: u8) -> BoxFuture<'_, Result<(), RefusalCode>>;

    /// Keeps a verified, encoded head record; the newest wins.
    fn keep_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<(), RefusalCode>>;

    /// The head record kept for a vault.
    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<Vec<u8>>, RefusalCode>>;

    /// Every head record kept: what the DHT serves after a restart.
    fn heads(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, RefusalCode>>;

    /// Space pledged and free now; must not block.
    fn space(&self) -> KeeperSpace;

    /// A steward showed who watches a group, and its pass was found good; must not block.
    fn watched(&self, _group: GroupId, _by: Watchers) {}
}
