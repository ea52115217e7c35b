//! DUR-4, one power cut at a time: the same work, and the power goes at its n-th write, sync, creation or removal, for every
//! n and several ways in which the sectors may fall. The work is a purge, a compaction with others writing in between, head
//! moves, batches and a second compaction. Then the store is opened with its database, with one that is older, and
//! without; it must have everything that was acknowledged, and go on.
//!
//! The same with every other fault at each of these operations: a short write, a full disk, EIO, a sync that does nothing; the
//! power goes at the end. And with the power going again at each operation of the start that follows, while it rebuilds.
//!
//! A seed is 1000 n + way; it is printed, and `CAIRN_SEED=n` runs that one alone. One command is in flight at a time, or
//! a batch in a fixed order, so that a seed is the same run again.

use cairn_proto::record::block_checks;
use futures::StreamExt as _;

use super::*;
use crate::store::faulty_disk::Fault;

/// Ways in which the sectors fall for each place of the cut.
const WAYS: u64 = 6;
/// The way whose seeds let the power go again and again in the start after the cut.
const REBUILD: u64 = 50;
/// Ways of the other faults, from here on.
const OTHERS: u64 = 100;
const OTHER_FAULTS: [Fault; 4] = [Fault::ShortWrite, Fault::NoSpace, Fault::Broken, Fault::LostSync];
/// Runs at once: each has a few files of some MiB in memory, and most of a run with a database waits for sled to close.
const AT_ONCE: usize = 4;

/// What the outside was told; what it asked to delete is in neither.
#[derive(Clone, Default)]
struct Told {
    shards: BTreeSet<(u8, u8)>,
    heads: BTreeMap<u8, u64>,
    slots: BTreeSet<u8>,
}

impl Told {
    async fn put(&mut self, store: &Store, g: u8, ordinal: u8) {
        if store.put(shard(g, g, ordinal)).await.is_ok() {
            self.shards.insert((g, ordinal));
            self.slots.insert(g);
        }
    }

    async fn delete(&mut self, store: &Store, g: u8, ordinal: u8) {
        self.shards.remove(&(g, ordinal));
        let _ = store.delete(group(g), slot(g), ordinal).await;
    }

    async fn head(&mut self, store: &Store, vault: u8, sequence: u64) {
        if store.keep_head(head(vault, sequence).1).await.is_ok() {
            self.heads.insert(vault, sequence);
        }
    }

    /// Two shards and a head in one batch: the writer waits until it can see all three.
    async fn batch(&mut self, store: &Store, g: u8, ordinals: [u8; 2], vault: u8, sequence: u64) {
        let mut replies = Vec::new();
        let kept = {
            let _writer_waits = store.0.index.write().expect("not poisoned");
            for o in ordinals {
                let (s, (reply, answer)) = (shard(g, g, o), oneshot::channel());
                let blocks = block_checks(&s.bytes);
                store.0.commands.try_send(Command::Put { shard: s, blocks, reply }).map_err(|_| ()).expect("room");
                replies.push((o, answer));
            }
            let (vault, bytes) = head(vault, sequence);
            let (reply, answer) = oneshot::channel();
            let head = KeptHead { vault, generation: 0, sequence, bytes };
            store.0.commands.try_send(Command::KeepHead { head, reply }).map_err(|_| ()).expect("room");
            answer
        };
        for (o, answer) in replies {
            if answer.await.expect("answered").is_ok() {
                self.shards.insert((g, o));
                self.slots.insert(g);
            }
        }
        if kept.await.expect("answered").is_ok() {
            self.heads.insert(vault, sequence);
        }
    }
}

/// Two segments and a bit: two shards whose hold is over, one that is in the trash, two heads.
async fn base(clock: &TestClock, database: &Path) -> (FaultyDisk, Told) {
    let (disk, mut told) = (FaultyDisk::new(0), Told::default());
    let store = on(&disk, clock, Some(database));
    for o in 0..6 {
        told.put(&store, 1, o).await;
    }
    for vault in 1..3 {
        told.head(&store, vault, 1).await;
    }
    told.delete(&store, 1, 1).await;
    told.delete(&store, 1, 2).await;
    clock.advance(86_400_000);
    told.delete(&store, 1, 4).await;
    store.close().await;
    (disk, told)
}

/// A compaction as [`Store::compact`] does it, with others in between. Errors end it, as there.
async fn compact_among_others(store: &Store, told: &mut Told) -> Result<(), StoreError> {
    store.ask(|reply| Command::PurgeTrash { reply }).await?;
    let plan = store.ask(|reply| Command::PlanCompaction { least_dead_percent: DEAD_PERCENT, reply }).await?;
    for (turn, segment) in plan.into_iter().enumerate() {
        let mut from = 0;
        while let Step::More(next) = store.ask(|reply| Command::CompactStep { segment, from, reply }).await? {
            from = next;
        }
        told.put(store, 1, 10 + turn as u8).await;
        told.head(store, 1, 2 + turn as u64).await;
    }
    Ok(())
}

async fn work(store: &Store, told: &mut Told, clock: &TestClock) {
    let _ = compact_among_others(store, told).await;
    // From the trash and back.
    let _ = store.get(group(1), slot(1), 4, 0, 1).await;
    told.delete(store, 1, 5).await;
    told.batch(store, 2, [0, 1], 2, 2).await;
    clock.advance(86_400_000);
    let _ = store.compact().await;
    told.head(store, 2, 3).await;
}

/// Power cuts in the middle of a start, over all runs.
static CUT_STARTS: AtomicU64 = AtomicU64::new(0);

/// Opens the store after the power has gone in the middle of opening it, at its first operation, its second, ... until it
/// is through before.
fn open_through_cuts(disk: &FaultyDisk, clock: &TestClock, seed: u64) -> Store {
    for at in 1..50 {
        disk.fail(at, Fault::PowerCut);
        let config = config("store".into(), clock);
        if let Ok(store) = Store::open_on(config, Arc::new(disk.clone()), &VOLUME, None) {
            disk.heal();
            return store;
        }
        CUT_STARTS.fetch_add(1, Ordering::SeqCst);
        disk.crash();
    }
    panic!("SEED={seed}: opening a store takes no 50 operations");
}

async fn check(store: &Store, told: &Told, seed: u64, when: &str) {
    for (g, o) in &told.shards {
        match read(store, &shard(*g, *g, *o)).await {
            Ok(bytes) => assert!(bytes == shard(*g, *g, *o).bytes, "SEED={seed} {when}: a wrong byte in {g}/{o}"),
            Err(e) => panic!("SEED={seed} {when}: DUR-4: {g}/{o}: {e}"),
        }
    }
    for (vault, sequence) in &told.heads {
        let kept = store.find_head(&head(*vault, 0).0).unwrap_or_else(|| panic!("SEED={seed} {when}: no head"));
        let kept = HeadRecord::open(&kept).expect("valid").sequence;
        assert!(kept >= *sequence, "SEED={seed} {when}: head {vault} went back from {sequence} to {kept}");
    }
    for g in &told.slots {
        assert_eq!(store.accepted_slot(group(*g)), Some(slot(*g)), "SEED={seed} {when}: SEP-1");
    }
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// One run; how many operations the work took.
async fn run(seed: u64, base: &(FaultyDisk, Told), base_database: &Path, base_clock: &TestClock) -> u64 {
    let (at, way) = (seed / 1000, seed % 1000);
    let clock = &TestClock::new();
    clock.0.store(base_clock.0.load(Ordering::SeqCst), Ordering::SeqCst);
    let (disk, mut told) = (base.0.copy(seed), base.1.clone());
    let temp = database_folder();
    let (current, old) = (temp.path().join("index"), temp.path().join("old"));
    // One run in sixteen with the database as it was then, one with what it was before, the others without: sled's closing
    // takes half a second.
    let mode = if way < WAYS { (at + way) % 16 } else { 1 };
    let before = (mode == 0 || mode == 8).then(|| copy_folder(base_database, &current)).map(|()| current.as_path());
    if mode == 8 {
        copy_folder(base_database, &old);
    }
    let after = match mode {
        0 => Some(current.as_path()),
        8 => Some(old.as_path()),
        _ => None,
    };
    let fault = way.checked_sub(OTHERS).map_or(Fault::PowerCut, |which| OTHER_FAULTS[which as usize]);

    let store = on(&disk, clock, before);
    let start = disk.operations();
    if at > 0 {
        disk.fail(at, fault);
    }
    work(&store, &mut told, clock).await;
    let took = disk.operations() - start;
    store.close().await;
    disk.crash();

    let store = if way == REBUILD { open_through_cuts(&disk, clock, seed) } else { on(&disk, clock, after) };
    if fault == Fault::LostSync {
        no_wrong_byte(&store, &told, seed).await;
        return took;
    }
    check(&store, &told, seed, "after the cut").await;
    self_check(&store, &disk, clock);
    // Life goes on: what was torn lies in an old segment soon, and what was being copied is copied.
    for o in 20..23 {
        told.put(&store, 2, o).await;
    }
    clock.advance(1_000);
    told.head(&store, 1, 50).await;
    assert_eq!(told.heads[&1], 50, "SEED={seed} the store goes on");
    check(&on(&disk.copy(1), clock, None), &told, seed, "without the index, later").await;
    store.compact().await.unwrap_or_else(|e| panic!("SEED={seed} compaction: {e}"));
    check(&store, &told, seed, "after the next compaction").await;
    self_check(&store, &disk, clock);
    store.close().await;
    took
}

/// Over a disk that lied nothing can be promised, but for this.
async fn no_wrong_byte(store: &Store, told: &Told, seed: u64) {
    for (g, o) in &told.shards {
        match read(store, &shard(*g, *g, *o)).await {
            Ok(bytes) => assert!(bytes == shard(*g, *g, *o).bytes, "SEED={seed}: a wrong byte in {g}/{o}"),
            Err(StoreError::Damaged | StoreError::NotFound) => {}
            Err(e) => panic!("SEED={seed}: {g}/{o}: {e}"),
        }
    }
    let (g, o) = (2, 30);
    store.put(shard(g, g, o)).await.unwrap_or_else(|e| panic!("SEED={seed} the store goes on: {e}"));
    assert_eq!(read(store, &shard(g, g, o)).await.expect("read"), shard(g, g, o).bytes, "SEED={seed}");
}

async fn at_every_operation(name: &str, ways: Vec<u64>) {
    let (clock, temp) = (TestClock::new(), database_folder());
    let database = temp.path().join("index");
    let base = base(&clock, &database).await;
    // Once without a cut, to know how many places there are.
    let places = run(0, &base, &database, &clock).await;
    assert!(places >= 20, "{places} operations are too few for this work");
    let all = seeds((1..=places).flat_map(|at| ways.iter().map(move |way| 1000 * at + way)));
    println!("scenario={name} places={places} runs={}", all.len());
    let runs = all.into_iter().map(|seed| {
        println!("SEED={seed} scenario={name}");
        run(seed, &base, &database, &clock)
    });
    futures::stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
}

#[tokio::test]
async fn a_power_cut_at_every_operation() {
    at_every_operation("store_power_cut", (0..WAYS).collect()).await;
}

#[tokio::test]
async fn any_other_fault_at_every_operation() {
    let others = OTHER_FAULTS.len() as u64;
    at_every_operation("store_fault", (OTHERS..OTHERS + others).collect()).await;
}

#[tokio::test]
async fn power_cuts_while_it_starts_after_a_power_cut() {
    at_every_operation("store_cut_in_rebuild", vec![REBUILD]).await;
    let cuts = CUT_STARTS.load(Ordering::SeqCst);
    println!("cuts={cuts}");
    assert!(cuts > 0, "a start that writes nothing cannot be cut");
}
