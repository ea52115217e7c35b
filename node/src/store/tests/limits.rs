//! What strangers can make the store write: heads and state records without end, and commands that spoil a batch.

use cairn_proto::{SHARD_SIZE, record::DISK_BLOCK};
use futures::{FutureExt as _, future::BoxFuture};

use super::*;

/// Lets the writer see the tasks' commands all at once: it waits for the index until the queue has them.
#[allow(clippy::await_holding_lock, reason = "the writer is a thread of its own, and is to wait")]
async fn at_once<T: Send + 'static>(store: &Store, tasks: Vec<impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    let many = tasks.len();
    assert!(many <= writer::QUEUE_MAX);
    let running: Vec<_> = {
        let _writer_waits = store.0.index.write().expect("not poisoned");
        let running = tasks.into_iter().map(tokio::spawn).collect();
        // The first one is in the writer's hands.
        while store.0.commands.capacity() > writer::QUEUE_MAX + 1 - many {
            tokio::task::yield_now().await;
        }
        running
    };
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.expect("no panic"));
    }
    results
}

/// Segments that everything fits in.
fn wide(disk: &FaultyDisk, clock: &TestClock) -> Store {
    let config = StoreConfig { segment_size: ByteSize(64 << 20), ..config("store".into(), clock) };
    Store::open_on(config, Arc::new(disk.clone()), &VOLUME, None).expect("opens")
}

#[tokio::test]
async fn commands_that_wait_for_others_do_not_cut_a_batch_short() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = wide(&disk, &clock);
    // Sixteen that want the same place, each with a longer lease, and sixteen that do not.
    let tasks = (0..32)
        .map(|n| {
            let ordinal = if n % 2 == 0 { 200 } else { n };
            let s = NewShard { lease_until: Timestamp(u64::from(n)), ..shard(1, 2, ordinal) };
            let store = store.clone();
            async move { store.put(s).await }
        })
        .collect();
    assert!(at_once(&store, tasks).await.iter().all(Result::is_ok));
    let offsets: Vec<u64> = store.index().groups[&group(1)].shards.values().map(|e| e.place.offset).collect();
    let span = offsets.iter().max().expect("some") - offsets.iter().min().expect("some");
    assert_eq!(span, 16 * (SHARD_SIZE + DISK_BLOCK) as u64, "one batch has all seventeen shards");
    assert_eq!(store.list()[16].lease_until, Timestamp(30));
    self_check(&store, &disk, &clock);
}

#[tokio::test]
async fn heads_of_one_vault_share_a_batch() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = wide(&disk, &clock);
    store.put(shard(9, 1, 0)).await.expect("stored");
    let before = disk.syncs();
    let tasks: Vec<BoxFuture<'static, bool>> = (0..32u8)
        .map(|n| {
            let (store, encoded) = (store.clone(), head(1 + n % 4 / 2, n.into()).1);
            match n % 2 {
                0 => async move { store.keep_head(encoded).await.expect("kept") }.boxed(),
                _ => async move { store.put(shard(1, 2, n)).await.expect("stored").new }.boxed(),
            }
        })
        .collect();
    at_once(&store, tasks).await;
    let syncs = disk.syncs() - before;
    assert!(syncs <= 2, "{syncs} syncs for what one or two batches can do");
    for (vault, newest) in [(1, 28), (2, 30)] {
        assert_eq!(store.find_head(&head(vault, 0).0), Some(head(vault, newest).1));
    }
    self_check(&store, &disk, &clock);
}

/// A store with a pledge of four shards and segments of half a MiB.
fn small(disk: &FaultyDisk, clock: &TestClock) -> Store {
    let config =
        StoreConfig { give: ByteSize(4 << 20), segment_size: ByteSize(512 << 10), ..config("store".into(), clock) };
    Store::open_on(config, Arc::new(disk.clone()), &VOLUME, None).expect("opens")
}

#[tokio::test]
async fn deleting_and_fetching_for_ever_fills_no_disk() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = small(&disk, &clock);
    store.put(shard(1, 2, 0)).await.expect("stored");
    let mut most = 0;
    for _ in 0..20_000 {
        store.delete(group(1), slot(2), 0).await.expect("deleted");
        store.get(group(1), slot(2), 0, 0, 1).await.expect("served and restored");
        most = most.max(store.usage().disk_bytes.0);
    }
    assert!(most <= 4 << 20, "{most} bytes for one shard and its state");
    // One that goes on in the background is over when this is.
    store.compact().await.expect("compacts");
    self_check(&store, &disk, &clock);
    assert_eq!(read(&store, &shard(1, 2, 0)).await.expect("there"), shard(1, 2, 0).bytes);
}

fn big_head(vault: u32, sequence: u64) -> Vec<u8> {
    let mut seed = [3; 32];
    seed[..4].copy_from_slice(&vault.to_le_bytes());
    let key = SigningKey::from_bytes(&seed);
    let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
    HeadRecord { vault, generation: 0, sequence, sealed: vec![9; 7900] }.seal(&key)
}

#[tokio::test]
async fn a_head_moves_once_a_second_and_a_few_times_at_once() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = wide(&disk, &clock);
    let mut kept = 0;
    for sequence in 0..100 {
        match store.keep_head(head(1, sequence).1).await {
            Ok(true) => kept += 1,
            Err(StoreError::HeadTooSoon) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kept, 9, "the first, and eight moves");
    assert!(store.keep_head(head(2, 1).1).await.expect("another vault does not wait"));
    clock.advance(999);
    assert!(matches!(store.keep_head(head(1, 100).1).await, Err(StoreError::HeadTooSoon)));
    clock.advance(1);
    assert!(store.keep_head(head(1, 100).1).await.expect("a second is over"));
    assert!(matches!(store.keep_head(head(1, 101).1).await, Err(StoreError::HeadTooSoon)));
    // A clock that is set back a year does not stop the vault for a year.
    clock.0.store(0, Ordering::SeqCst);
    clock.advance(1_000);
    assert!(matches!(store.keep_head(head(1, 101).1).await, Err(StoreError::HeadTooSoon)));
    clock.advance(8_000);
    assert!(store.keep_head(head(1, 101).1).await.expect("moves again"));
}

#[tokio::test]
async fn what_is_small_needs_room_too_and_deletions_do_not() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = small(&disk, &clock);
    let s = shard(1, 2, 0);
    store.put(s.clone()).await.expect("stored");
    disk.set_free(100);
    assert!(matches!(store.keep_head(big_head(1, 1)).await, Err(StoreError::NoSpace { .. })));
    let longer = NewShard { lease_until: Timestamp(u64::MAX), ..s.clone() };
    assert!(matches!(store.put(longer.clone()).await, Err(StoreError::NoSpace { .. })));
    store.delete(group(1), slot(2), 0).await.expect("deleted");
    assert_eq!(read(&store, &s).await.expect("DUR-5: served all the same"), s.bytes);
    assert_eq!(store.list()[0].state, ShardState::Trash, "and not restored");
    assert!(matches!(store.put(longer).await, Err(StoreError::NoSpace { .. })));
    disk.set_free(1 << 30);
    // A batch asks the disk once: this ends the one that was refused.
    store.compact().await.expect("nothing to do");
    assert_eq!(read(&store, &s).await.expect("served"), s.bytes);
    assert_eq!(store.list()[0].state, ShardState::Live);
    assert!(store.keep_head(big_head(1, 1)).await.expect("kept"));
}

/// All places taken by heads at their largest, in a store that gives nothing: they move on, within the reserve.
#[tokio::test]
async fn every_head_moves_within_the_reserve() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let config = StoreConfig { give: ByteSize(0), segment_size: ByteSize(4 << 20), ..config("store".into(), &clock) };
    let segment = config.segment_size.0;
    let store = Store::open_on(config, Arc::new(disk.clone()), &VOLUME, None).expect("opens");
    for vault in 0..HEADS_MAX as u32 {
        assert!(store.keep_head(big_head(vault, 1)).await.expect("kept"));
    }
    assert!(matches!(store.keep_head(big_head(u32::MAX, 1)).await, Err(StoreError::HeadsFull { .. })));
    let mut most = 0;
    for vault in 0..1_500 {
        assert!(store.keep_head(big_head(vault, 2)).await.expect("moves"));
        most = most.max(store.usage().disk_bytes.0);
    }
    assert!(most <= (HEADS_MAX as u64) * 8_320 + 2 * segment, "{most}");
    assert!(matches!(store.put(shard(1, 2, 0)).await, Err(StoreError::NoSpace { .. })));
}

#[tokio::test]
async fn heads_that_move_for_ever_leave_room_for_shards() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = small(&disk, &clock);
    let mut most = 0;
    for sequence in 0..2_000 {
        clock.advance(1_000);
        assert!(store.keep_head(big_head(1, sequence)).await.expect("one a second is kept"));
        most = most.max(store.usage().disk_bytes.0);
    }
    assert!(most <= 4 << 20, "{most} bytes for one head");
    store.put(shard(1, 2, 0)).await.expect("there is room for shards");
    store.compact().await.expect("compacts");
    self_check(&store, &disk, &clock);
}
