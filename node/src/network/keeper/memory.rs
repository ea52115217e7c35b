//! A keeper in memory, for tests and measurements: the rules of a store without its disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use cairn_proto::{ByteSize, GroupId, ShardRoot, Slot, Timestamp, VaultKey, message::HeadRecord, wire::RefusalCode};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::Semaphore;

use super::{KeeperSpace, ShardKeeper};
use crate::network::clock;
use crate::store::{NewShard, StoredShard};

/// Keeps everything in memory. Knows every put that came through, so that a test can ask what got past the
/// network's checks.
#[derive(Debug)]
pub struct MemoryKeeper {
    inner: Mutex<Inner>,
    /// Puts and gets wait for a permit; a test takes them away to make the keeper slow.
    pub gate: Semaphore,
    discard: bool,
}

#[derive(Debug, Default)]
struct Inner {
    shards: BTreeMap<(GroupId, u8), (Slot, ShardRoot, Bytes)>,
    ledger: BTreeMap<GroupId, Slot>,
    offered: BTreeSet<(GroupId, Slot)>,
    failing: Option<RefusalCode>,
    heads: BTreeMap<VaultKey, Vec<u8>>,
}

impl Default for MemoryKeeper {
    fn default() -> Self {
        Self { inner: Mutex::default(), gate: Semaphore::new(Self::GATE), discard: false }
    }
}

impl MemoryKeeper {
    /// Permits of the gate: taking them all shuts it.
    pub const GATE: usize = 1024;

    /// One that checks and forgets, to measure the network alone.
    #[must_use]
    pub fn discarding() -> Self {
        Self { discard: true, ..Self::default() }
    }

    /// Every (group, slot) that ever reached the keeper: what the network let through.
    #[must_use]
    pub fn offered(&self) -> BTreeSet<(GroupId, Slot)> {
        self.lock().offered.clone()
    }

    /// Shards held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().shards.len()
    }

    /// Flips a bit of what is held, as bad memory would.
    pub fn flip(&self, group: GroupId, ordinal: u8, at: usize) {
        if let Some((.., bytes)) = self.lock().shards.get_mut(&(group, ordinal)) {
            let mut other = bytes.to_vec();
            other[at] ^= 1;
            *bytes = other.into();
        }
    }

    /// From now on reading fails so, or does not.
    pub fn reading_fails(&self, code: Option<RefusalCode>) {
        self.lock().failing = code;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, shard: NewShard) -> Result<StoredShard, RefusalCode> {
        let mut inner = self.lock();
        inner.offered.insert((shard.group, shard.slot));
        if blake3::hash(&shard.bytes).as_bytes() != shard.root.as_bytes() {
            return Err(RefusalCode::RootMismatch);
        }
        if *inner.ledger.entry(shard.group).or_insert(shard.slot) != shard.slot {
            return Err(RefusalCode::LedgerConflict);
        }
        let place = (shard.group, shard.ordinal);
        let known = inner.shards.get(&place).map(|(_, root, _)| *root);
        match known {
            Some(root) if root != shard.root => return Err(RefusalCode::Occupied),
            _ if self.discard => {}
            _ => {
                inner.shards.insert(place, (shard.slot, shard.root, shard.bytes.into_bytes()));
            }
        }
        Ok(StoredShard { stored_at: clock(), lease_until: shard.lease_until, new: known.is_none() })
    }
}

impl ShardKeeper for MemoryKeeper {
    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<StoredShard, RefusalCode>> {
        async move {
            let _open = self.gate.acquire().await.map_err(|_| RefusalCode::StoreFailed)?;
            self.take(shard)
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
            let _open = self.gate.acquire().await.map_err(|_| RefusalCode::StoreFailed)?;
            let inner = self.lock();
            if let Some(code) = inner.failing {
                return Err(code);
            }
            let (held, _, bytes) = inner.shards.get(&(group, ordinal)).ok_or(RefusalCode::NotFound)?;
            if *held != slot {
                return Err(RefusalCode::NotFound);
            }
            let start = offset as usize;
            let end = if length == 0 { bytes.len() } else { start + length as usize };
            if start > end || end > bytes.len() {
                return Err(RefusalCode::BadRequest);
            }
            Ok(bytes.slice(start..end))
        }
        .boxed()
    }

    fn holding(&self, group: GroupId, slot: Slot) -> BoxFuture<'_, Result<[u8; 32], RefusalCode>> {
        let mut bits = [0u8; 32];
        for ((_, ordinal), (held, ..)) in self.lock().shards.range((group, 0)..=(group, u8::MAX)) {
            if *held == slot {
                bits[usize::from(ordinal / 8)] |= 1 << (ordinal % 8);
            }
        }
        std::future::ready(Ok(bits)).boxed()
    }

    /// Keeps everything for as long as it runs.
    fn rows(&self, group: GroupId, slot: Slot) -> Vec<(u8, ShardRoot, Timestamp)> {
        let inner = self.lock();
        let of_group = inner.shards.range((group, 0)..=(group, u8::MAX)).filter(|(_, (held, ..))| *held == slot);
        of_group.map(|((_, ordinal), (_, root, _))| (*ordinal, *root, Timestamp(u64::MAX))).collect()
    }

    fn delete(&self, group: GroupId, _: Slot, ordinal: u8) -> BoxFuture<'_, Result<(), RefusalCode>> {
        let gone = self.lock().shards.remove(&(group, ordinal));
        std::future::ready(gone.map(|_| ()).ok_or(RefusalCode::NotFound)).boxed()
    }

    fn keep_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<(), RefusalCode>> {
        let open = |bytes: &[u8]| HeadRecord::open(bytes).ok();
        let mut inner = self.lock();
        let older = inner
            .heads
            .get(&vault)
            .and_then(|kept| open(kept))
            .is_some_and(|kept| open(&encoded).is_none_or(|new| kept.supersedes(&new)));
        if !older {
            inner.heads.insert(vault, encoded);
        }
        drop(inner);
        std::future::ready(Ok(())).boxed()
    }

    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<Vec<u8>>, RefusalCode>> {
        std::future::ready(Ok(self.lock().heads.get(&vault).cloned())).boxed()
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, RefusalCode>> {
        std::future::ready(Ok(self.lock().heads.values().cloned().collect())).boxed()
    }

    fn space(&self) -> KeeperSpace {
        let used = self.lock().shards.values().map(|(.., bytes)| bytes.len() as u64).sum::<u64>();
        let give = 64 * 1024 * 1024 * 1024_u64;
        KeeperSpace { give: ByteSize(give), free: ByteSize(give.saturating_sub(used)) }
    }
}
