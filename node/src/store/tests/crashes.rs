//! DUR-4 under power cuts and failing operations: random work on a random disk. Seeds are printed; `CAIRN_SEED=n` runs one.

use futures::future::join_all;

use super::*;
use crate::store::faulty_disk::Fault;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What the outside was told.
#[derive(Default)]
struct Told {
    stored: BTreeSet<(u8, u8)>,
    /// Not told how it ended: anything but a wrong byte.
    unsure: BTreeSet<(u8, u8)>,
    heads: BTreeMap<u8, u64>,
    ledger: BTreeMap<u8, u8>,
}

/// Slot of a group in these runs.
fn own(g: u8) -> u8 {
    g % 8
}

async fn some_work(store: &Store, random: &mut Random, told: &mut Told, clock: &TestClock) {
    match random.below(10) {
        0..=4 => {
            let many = 1 + random.below(4);
            let shards: Vec<_> = (0..many).map(|_| (random.below(3) as u8, random.below(6) as u8)).collect();
            let results = join_all(shards.iter().map(|(g, o)| store.put(shard(*g, own(*g), *o)))).await;
            for (at, result) in shards.into_iter().zip(results) {
                match result {
                    Ok(_) => {
                        told.unsure.remove(&at);
                        told.stored.insert(at);
                        told.ledger.insert(at.0, own(at.0));
                    }
                    Err(_) if !told.stored.contains(&at) => {
                        told.unsure.insert(at);
                    }
                    Err(_) => {}
                }
            }
        }
        5 | 6 => {
            let (g, o) = (random.below(3) as u8, random.below(6) as u8);
            let _ = store.delete(group(g), slot(own(g)), o).await;
        }
        7 => {
            let vault = random.below(2) as u8;
            let sequence = told.heads.get(&vault).map_or(1, |s| s + 1);
            clock.advance(1_000);
            if store.keep_head(head(vault, sequence).1).await.is_ok() {
                told.heads.insert(vault, sequence);
            }
        }
        8 => {
            // Everything in the trash is purged after this: no more promises about it.
            for info in store.list().iter().filter(|i| i.state == ShardState::Trash) {
                let at = (info.group.as_bytes()[0], info.ordinal);
                told.stored.remove(&at);
                told.unsure.insert(at);
            }
            clock.advance(86_400_000);
            let _ = store.compact().await;
        }
        _ => {
            let (g, o) = (random.below(3) as u8, random.below(6) as u8);
            let _ = store.get(group(g), slot(own(g)), o, 0, 0).await;
        }
    }
}

async fn check(store: &Store, told: &Told, seed: u64, lies: bool) {
    for g in 0..3 {
        for o in 0..6 {
            let s = shard(g, own(g), o);
            match read(store, &s).await {
                Ok(bytes) => assert_eq!(bytes, s.bytes, "SEED={seed} a wrong byte in {g}/{o}"),
                Err(e) if told.stored.contains(&(g, o)) && !lies => panic!("SEED={seed} DUR-4: {g}/{o}: {e}"),
                Err(StoreError::Damaged | StoreError::NotFound) => {}
                Err(e) => panic!("SEED={seed} {g}/{o}: {e}"),
            }
        }
    }
    if lies {
        return;
    }
    for (g, s) in &told.ledger {
        assert_eq!(store.accepted_slot(group(*g)), Some(slot(*s)), "SEED={seed} SEP-1");
        let other = shard(*g, (s + 1) % 8, 200);
        assert!(matches!(store.put(other).await, Err(StoreError::LedgerConflict { .. })), "SEED={seed} SEP-1");
    }
    for (vault, sequence) in &told.heads {
        let (key, _) = head(*vault, 0);
        let kept = HeadRecord::open(&store.find_head(&key).expect("kept")).expect("valid");
        assert!(kept.sequence >= *sequence, "SEED={seed} a head went back");
    }
}

async fn run(seed: u64, with_database: bool, lies: bool) {
    let mut random = Random(seed);
    let (disk, clock, mut told) = (FaultyDisk::new(seed), TestClock::new(), Told::default());
    let temp = database_folder();
    let database = with_database.then(|| temp.path().join("index"));
    for _ in 0..4 {
        let store = on(&disk, &clock, database.as_deref());
        check(&store, &told, seed, lies).await;
        let faults: &[Fault] =
            if lies { &[Fault::LostSync] } else { &[Fault::ShortWrite, Fault::NoSpace, Fault::Broken] };
        for _ in 0..random.below(3) {
            disk.fail(1 + random.below(30), faults[random.below(faults.len() as u64) as usize]);
        }
        for _ in 0..4 + random.below(5) {
            some_work(&store, &mut random, &mut told, &clock).await;
            if lies {
                // What was promised over lost syncs cannot be kept.
                continue;
            }
        }
        // Half of the time in the middle of something, whatever comes: it may be a compaction.
        if random.below(2) == 0 {
            disk.fail(1 + random.below(12), Fault::PowerCut);
            for _ in 0..4 {
                some_work(&store, &mut random, &mut told, &clock).await;
            }
        }
        store.close().await;
        disk.crash();
    }
    disk.heal();
    let store = on(&disk, &clock, database.as_deref());
    check(&store, &told, seed, lies).await;
    if !lies {
        // Over lost syncs the log may have forgotten what the index's own database, on an honest disk, still knows.
        self_check(&store, &disk, &clock);
    }
    store.close().await;
}

#[tokio::test]
async fn acknowledged_means_durable_whatever_happens() {
    for seed in seeds(0..120) {
        println!("SEED={seed} scenario=store_crashes database={}", seed % 24 == 0);
        run(seed, seed % 24 == 0, false).await;
    }
}

#[tokio::test]
async fn a_disk_that_lies_about_syncs_costs_shards_and_never_a_byte() {
    for seed in seeds(1000..1030) {
        println!("SEED={seed} scenario=store_lost_syncs");
        run(seed, seed % 10 == 0, true).await;
    }
}

#[tokio::test]
async fn a_full_disk_in_the_middle_of_a_write_leaves_the_store_usable() {
    let (disk, clock) = (FaultyDisk::new(3), TestClock::new());
    let store = on(&disk, &clock, None);
    store.put(shard(1, 2, 0)).await.expect("stored");
    for fault in [Fault::NoSpace, Fault::Broken] {
        disk.fail(1, fault);
        let failed = store.put(shard(1, 2, 1)).await.expect_err("fails");
        assert_eq!(matches!(failed, StoreError::NoSpace { .. }), fault == Fault::NoSpace, "{failed}");
        self_check(&store, &disk, &clock);
    }
    // The write, then the sync.
    disk.fail(2, Fault::Broken);
    assert!(matches!(store.put(shard(1, 2, 1)).await, Err(StoreError::Io { .. })));
    disk.fail(1, Fault::ShortWrite);
    store.put(shard(1, 2, 1)).await.expect("stored");
    // A failure that cannot be undone: reading goes on, writing does not, until the next start.
    disk.fail(1, Fault::Broken);
    disk.fail(2, Fault::Broken);
    assert!(store.put(shard(1, 2, 2)).await.is_err());
    assert!(matches!(store.put(shard(1, 2, 2)).await, Err(StoreError::ReadOnly)));
    assert_eq!(read(&store, &shard(1, 2, 1)).await.expect("read"), shard(1, 2, 1).bytes);
    store.close().await;
    let store = on(&disk, &clock, None);
    for o in 0..2 {
        assert_eq!(read(&store, &shard(1, 2, o)).await.expect("read"), shard(1, 2, o).bytes);
    }
    store.put(shard(1, 2, 2)).await.expect("stored");
}
