//! What the village's peers keep, and how a shard is rebuilt there.

use cairn_proto::order::OrderId;

use super::*;

/// A store in memory.
#[derive(Default)]
pub(in super::super) struct MemShelf {
    pub(in super::super) shards: Mutex<BTreeMap<(u8, u8), (ShardRoot, Bytes)>>,
    pub(in super::super) full: AtomicBool,
    /// Slot and ordinal of what its disk lost.
    pub(in super::super) damaged: Mutex<BTreeSet<(u8, u8)>>,
}

impl Shelf for MemShelf {
    fn accepted_slot(&self, _group: GroupId) -> Option<Slot> {
        self.shards.lock().expect("shelf").keys().next().map(|(at, _)| slot(*at))
    }

    fn has(&self, _group: GroupId, at: Slot, ordinal: u8, root: &ShardRoot) -> bool {
        self.shards.lock().expect("shelf").get(&(at.as_u8(), ordinal)).is_some_and(|(known, _)| known == root)
            && !self.damaged.lock().expect("shelf").contains(&(at.as_u8(), ordinal))
    }

    fn room(&self) -> u64 {
        if self.full.load(Ordering::SeqCst) { 0 } else { u64::MAX }
    }

    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<(), StoreError>> {
        let place = (shard.slot.as_u8(), shard.ordinal);
        self.shards.lock().expect("shelf").insert(place, (shard.root, (*shard.bytes).clone()));
        self.damaged.lock().expect("shelf").remove(&place);
        std::future::ready(Ok(())).boxed()
    }
}

/// A shelf of the one group.
pub(super) struct MemHeld(pub(super) Arc<MemShelf>, pub(super) GroupId);

impl Held for MemHeld {
    fn slot(&self, group: GroupId) -> Option<Slot> {
        self.0.accepted_slot(group).filter(|_| group == self.1)
    }

    fn sound(&self, _group: GroupId, _slot: Slot) -> Ordinals {
        self.0.sound()
    }

    fn groups(&self) -> Vec<HeldGroup> {
        let damaged = self.0.damaged.lock().expect("shelf").iter().map(|(_, ordinal)| *ordinal).collect();
        let group = |slot| HeldGroup { group: self.1, slot, sound: self.0.sound(), damaged };
        self.slot(self.1).map(group).into_iter().collect()
    }
}

impl MemShelf {
    pub(super) fn sound(&self) -> Ordinals {
        let damaged = self.damaged.lock().expect("shelf").clone();
        let shards = self.shards.lock().expect("shelf");
        shards.keys().filter(|place| !damaged.contains(place)).map(|(_, ordinal)| *ordinal).collect()
    }
}

/// Rebuilds by looking the shard up.
pub(super) struct Oracle(pub(super) Arc<BTreeMap<(u8, u8), Bytes>>, pub(super) Arc<World>);

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

    fn named<'a>(&'a self, _: &'a OrderId) -> BoxFuture<'a, Option<BTreeSet<PeerKey>>> {
        std::future::ready(self.1.left_out.lock().expect("left out").clone()).boxed()
    }
}
