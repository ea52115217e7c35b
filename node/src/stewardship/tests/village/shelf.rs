//! What the village's peers keep, and how a shard is rebuilt there.

use super::*;

/// A store in memory.
#[derive(Default)]
pub(in super::super) struct MemShelf {
    pub(in super::super) shards: Mutex<BTreeMap<(u8, u8), (ShardRoot, Bytes)>>,
    pub(in super::super) full: AtomicBool,
}

impl Shelf for MemShelf {
    fn accepted_slot(&self, _group: GroupId) -> Option<Slot> {
        self.shards.lock().expect("shelf").keys().next().map(|(at, _)| slot(*at))
    }

    fn has(&self, _group: GroupId, at: Slot, ordinal: u8, root: &ShardRoot) -> bool {
        self.shards.lock().expect("shelf").get(&(at.as_u8(), ordinal)).is_some_and(|(known, _)| known == root)
    }

    fn room(&self) -> u64 {
        if self.full.load(Ordering::SeqCst) { 0 } else { u64::MAX }
    }

    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<(), StoreError>> {
        let place = (shard.slot.as_u8(), shard.ordinal);
        self.shards.lock().expect("shelf").insert(place, (shard.root, (*shard.bytes).clone()));
        std::future::ready(Ok(())).boxed()
    }
}

/// Rebuilds by looking the shard up.
pub(super) struct Oracle(pub(super) Arc<BTreeMap<(u8, u8), Bytes>>);

impl Rebuilder for Oracle {
    fn rebuild(
        &self,
        credentials: Arc<Credentials>,
        task: Arc<Task>,
        ordinal: u8,
    ) -> BoxFuture<'_, Result<Bytes, Failure>> {
        let meant = matches!(&credentials.certificate.order.action, Action::Rebuild { slot, .. } if *slot == task.slot);
        let found = self.0.get(&(task.slot.as_u8(), ordinal)).filter(|_| meant).cloned();
        std::future::ready(found.ok_or(Failure::Refused)).boxed()
    }
}
