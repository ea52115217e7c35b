//! Attacks on the store's invariants, over disks that fail as asked.

#![allow(clippy::panic, reason = "a test that panics says what broke")]

mod behind;
mod crashes;
mod damage;
mod life;
mod limits;
mod power;
mod torn;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cairn_proto::{ByteSize, VaultKey};
use ed25519_dalek::SigningKey;
use tokio_util::sync::CancellationToken;

use super::{faulty_disk::FaultyDisk, *};

const VOLUME: [u8; 32] = [7; 32];

/// A clock that stands until it is moved.
#[derive(Clone)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_000_000)))
    }
    fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
    fn clock(&self) -> Clock {
        let this = self.clone();
        Arc::new(move || Timestamp(this.0.load(Ordering::SeqCst)))
    }
}

/// Small segments, an index that is told of each second or third shard, a day of trash, a pledge of a GiB.
fn config(dir: PathBuf, clock: &TestClock) -> StoreConfig {
    StoreConfig {
        dir,
        give: ByteSize(1 << 30),
        keep_free: ByteSize(0),
        segment_size: ByteSize(3 << 20),
        index_behind: ByteSize(2 << 20),
        trash_hold_ms: 86_400_000,
        clock: clock.clock(),
    }
}

fn on(disk: &FaultyDisk, clock: &TestClock, database: Option<&Path>) -> Store {
    Store::open_on(config("store".into(), clock), Arc::new(disk.clone()), &VOLUME, database).expect("opens")
}

/// Seeds of a scenario, or the one in `CAIRN_SEED` to see a failure again.
fn seeds(all: impl Iterator<Item = u64>) -> Vec<u64> {
    match std::env::var("CAIRN_SEED") {
        Ok(one) => vec![one.parse().expect("CAIRN_SEED is a number")],
        Err(_) => all.collect(),
    }
}

/// A folder for the index's database: in memory where the system has such a place, since these runs are about the log.
fn database_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temp")
}

fn group(n: u8) -> GroupId {
    GroupId::from_bytes([n; 32])
}

fn slot(n: u8) -> Slot {
    Slot::new(n).expect("below 32")
}

/// The shard that a test means by these numbers, always with the same bytes. Made once: hundreds of runs ask for the same few.
fn shard(g: u8, s: u8, ordinal: u8) -> NewShard {
    /// Shards kept, 1 MiB each: more than any scenario of many runs asks for.
    const MADE_MAX: usize = 96;
    static MADE: std::sync::Mutex<BTreeMap<(u8, u8, u8), NewShard>> = std::sync::Mutex::new(BTreeMap::new());
    let made = || MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = made().get(&(g, s, ordinal)) {
        return known.clone();
    }
    let mut bytes = vec![0; SHARD_SIZE];
    blake3::Hasher::new().update(&[g, s, ordinal]).finalize_xof().fill(&mut bytes);
    let shard = NewShard {
        group: group(g),
        slot: slot(s),
        ordinal,
        root: ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes()),
        // Over already: what is deleted goes with its hold.
        lease_until: Timestamp(1_000),
        bytes: bytes.into(),
    };
    let mut made = made();
    if made.len() < MADE_MAX {
        made.insert((g, s, ordinal), shard.clone());
    }
    shard
}

fn head(vault: u8, sequence: u64) -> (VaultKey, Vec<u8>) {
    let key = SigningKey::from_bytes(&[vault; 32]);
    let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
    (vault, HeadRecord { vault, generation: 0, sequence, sealed: vec![9; 50] }.seal(&key))
}

async fn read(store: &Store, s: &NewShard) -> Result<Bytes, StoreError> {
    store.get(s.group, s.slot, s.ordinal, 0, 0).await
}

/// What the log says. `damaged` is a finding of the last read, told to the index without waiting, and not in the log.
fn facts(store: &Store) -> BTreeMap<GroupId, super::index::Group> {
    let mut groups = store.index().groups.clone();
    for entry in groups.values_mut().flat_map(|g| g.shards.values_mut()) {
        entry.damaged = false;
    }
    groups
}

/// STORE-1: the sums fit, and an index made from the log alone is the same, row by row and byte by byte.
fn self_check(store: &Store, disk: &FaultyDisk, clock: &TestClock) {
    let usage = store.usage();
    let sum = usage.live_bytes.0 + usage.trash_bytes.0 + usage.record_bytes.0 + usage.dead_bytes.0;
    assert_eq!(sum, usage.disk_bytes.0, "STORE-1 {usage:?}");
    let again = on(&disk.copy(1), clock, None);
    assert_eq!(facts(&again), facts(store));
    assert_eq!(again.index().heads, store.index().heads);
    // The pledge is the opener's.
    let same = |u: Usage| Usage { pledged: ByteSize(0), free_bytes: ByteSize(0), ..u };
    assert_eq!(same(again.usage()), same(usage), "STORE-1");
}
