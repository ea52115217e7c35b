//! The index's database lags behind the log: kills in between, compaction meanwhile, and how much a start has to read.
//!
//! A seed is one random run; it is printed, and `CAIRN_SEED` runs that one alone.

use cairn_proto::record::SHARD_RECORD;
use futures::StreamExt as _;

use super::*;
use crate::store::faulty_disk::Fault;

/// Ends the store as a kill does. What the database was not told is lost to it; the log's last write is torn.
async fn kill(store: Store, disk: &FaultyDisk) {
    let (reply, done) = oneshot::channel();
    store.0.commands.send(Command::Close { killed: true, reply }).await.map_err(|_| ()).expect("runs");
    done.await.expect("ended");
    disk.crash();
}

fn lagging(clock: &TestClock, disk: &FaultyDisk, database: &Path, behind: u64) -> Store {
    let config = StoreConfig { index_behind: ByteSize(behind), ..config("store".into(), clock) };
    Store::open_on(config, Arc::new(disk.clone()), &VOLUME, Some(database)).expect("opens")
}

/// The database's folder, each time it is opened a copy of what was there: sled lets go of its lock some time after it was
/// closed, on a thread of its own.
struct Folders {
    temp: tempfile::TempDir,
    opened: u32,
}

impl Folders {
    fn new() -> Self {
        Self { temp: database_folder(), opened: 0 }
    }

    fn last(&self) -> PathBuf {
        self.temp.path().join(self.opened.to_string())
    }

    fn next(&mut self) -> PathBuf {
        let last = self.last();
        self.opened += 1;
        if last.exists() {
            super::power::copy_folder(&last, &self.last());
        }
        self.last()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Puts, deletions, heads and compactions with rows waiting, a kill after each few; all that was told is there again, the
/// index was not made anew, and a start read no more than the lag and one commit.
async fn run(seed: u64) {
    let mut random = Random(seed);
    let (disk, clock, mut folders) = (FaultyDisk::new(seed), TestClock::new(), Folders::new());
    let (mut stored, mut heads) = (BTreeSet::new(), BTreeMap::new());
    // From "each commit" to "never by itself".
    let behind = [1, 2 << 20, 5 << 20, 1 << 30][random.below(4) as usize];
    // A database that was never told anything is made from the whole log, which is no longer than the lag then.
    let store = lagging(&clock, &disk, &folders.next(), behind);
    store.put(shard(1, 1, 0)).await.expect("stored");
    stored.insert((1, 0));
    store.close().await;
    for life in 0..5 {
        let store = lagging(&clock, &disk, &folders.next(), behind);
        assert!(!store.opened().rebuilt, "SEED={seed} life {life}: the database did not fit");
        for (g, o) in &stored {
            let s = shard(*g, *g, *o);
            assert!(read(&store, &s).await.expect("DUR-4") == s.bytes, "SEED={seed} life {life}: a wrong byte");
            assert_eq!(store.accepted_slot(group(*g)), Some(slot(*g)), "SEED={seed} SEP-1");
        }
        for (vault, sequence) in &heads {
            let kept = store.find_head(&head(*vault, 0).0).expect("kept");
            assert_eq!(HeadRecord::open(&kept).expect("valid").sequence, *sequence, "SEED={seed} life {life}");
        }
        self_check(&store, &disk, &clock);
        for _ in 0..3 + random.below(8) {
            let (g, o) = (1 + random.below(3) as u8, random.below(6) as u8);
            match random.below(8) {
                0..=3 => {
                    store.put(shard(g, g, o)).await.expect("stored");
                    stored.insert((g, o));
                }
                4 | 5 => {
                    let _ = store.delete(group(g), slot(g), o).await;
                    stored.remove(&(g, o));
                }
                6 => {
                    clock.advance(1_000);
                    let next = heads.get(&g).map_or(1, |s| s + 1);
                    assert!(store.keep_head(head(g, next).1).await.expect("kept"));
                    heads.insert(g, next);
                }
                _ => {
                    clock.advance(86_400_000);
                    store.compact().await.expect("compacts");
                }
            }
        }
        kill(store, &disk).await;
    }
}

#[tokio::test]
async fn a_kill_between_log_and_index_loses_nothing() {
    for seed in seeds(0..24) {
        println!("SEED={seed} scenario=store_index_behind");
        run(seed).await;
    }
}

/// Before a segment goes the database must know all that it had, with rows waiting for ever, too: a cut at any operation of a
/// compaction leaves nothing that points into a file that is gone.
#[tokio::test]
async fn compaction_waits_for_the_rows() {
    let (disk, clock, mut folders) = (FaultyDisk::new(5), TestClock::new(), Folders::new());
    let store = lagging(&clock, &disk, &folders.next(), 1 << 30);
    for o in 0..3 {
        store.put(shard(1, 2, o)).await.expect("stored");
    }
    // From here on the database has rows that point into the first segment.
    store.close().await;
    let base_database = folders.last();
    // One way of the sectors and names to fall, and another.
    let cuts = (1..=20u64).flat_map(|at| [10 * at, 10 * at + 1]);
    let runs = seeds(cuts).into_iter().map(|seed| cut_compaction(seed, &disk, &base_database, &clock));
    let through: Vec<bool> = futures::stream::iter(runs).buffer_unordered(4).collect().await;
    assert!(through.contains(&true), "no run came to the end: there are more operations than cuts");
}

/// One compaction with a power cut at an operation; whether it was over before.
async fn cut_compaction(seed: u64, base: &FaultyDisk, base_database: &Path, base_clock: &TestClock) -> bool {
    println!("SEED={seed} scenario=store_compaction_with_rows_waiting");
    let (disk, clock, mut folders) = (base.copy(seed), TestClock::new(), Folders::new());
    clock.0.store(base_clock.0.load(Ordering::SeqCst), Ordering::SeqCst);
    super::power::copy_folder(base_database, &folders.last());
    let store = lagging(&clock, &disk, &folders.next(), 1 << 30);
    for o in 1..3 {
        store.delete(group(1), slot(2), o).await.expect("deleted");
    }
    clock.advance(86_400_000);
    disk.fail(seed / 10, Fault::PowerCut);
    let through = store.compact().await.is_ok();
    kill(store, &disk).await;
    let store = lagging(&clock, &disk, &folders.next(), 1 << 30);
    assert!(!store.opened().rebuilt, "SEED={seed} the database points into a segment that is gone");
    assert!(!through || !store.index().segments.contains_key(&1), "SEED={seed}");
    assert_eq!(read(&store, &shard(1, 2, 0)).await.expect("DUR-4"), shard(1, 2, 0).bytes, "SEED={seed}");
    self_check(&store, &disk, &clock);
    through
}

/// How much log a start reads after a kill: what came since the database was told, and the commit that told it would have
/// ended with.
#[tokio::test]
async fn a_start_reads_no_more_than_the_lag() {
    const PUTS: u8 = 24;
    for lag in [1u64, 4, 10] {
        let (disk, clock, mut folders) = (FaultyDisk::new(lag), TestClock::new(), Folders::new());
        let store = lagging(&clock, &disk, &folders.next(), 1);
        store.put(shard(1, 2, 0)).await.expect("stored");
        store.close().await;
        let mut read_again = Vec::new();
        for puts in [PUTS, PUTS + 1, PUTS + 2, PUTS + 3] {
            let store = lagging(&clock, &disk, &folders.next(), lag * SHARD_RECORD as u64);
            read_again.push(store.opened().records_read);
            for o in 0..puts {
                store.put(shard(puts, 2, o)).await.expect("stored");
            }
            kill(store, &disk).await;
        }
        let store = lagging(&clock, &disk, &folders.next(), 1);
        read_again.push(store.opened().records_read);
        // Each segment of three shards begins with a record of its own, a group with one more.
        let most = lag + lag.div_ceil(3) + 1;
        assert!(read_again.iter().all(|n| *n <= most), "lag {lag}: {read_again:?} records, at most {most}");
        assert!(lag == 1 || read_again.iter().any(|n| *n > 1), "nothing ever lagged: {read_again:?}");
        assert_eq!(store.usage().shards, 1 + (0..4).map(|n| u64::from(PUTS + n)).sum::<u64>());
    }
}

/// Rows of small records are bounded by their number: they hardly lengthen the log.
#[tokio::test]
async fn many_small_records_do_not_wait_for_a_long_log() {
    let (disk, clock, mut folders) = (FaultyDisk::new(6), TestClock::new(), Folders::new());
    let store = lagging(&clock, &disk, &folders.next(), 1 << 30);
    let s = shard(1, 2, 0);
    store.put(s.clone()).await.expect("stored");
    store.close().await;
    let store = lagging(&clock, &disk, &folders.next(), 1 << 30);
    for lease in 0..writer::ROWS_MAX as u64 {
        let longer = Timestamp(s.lease_until.0 + 1 + lease);
        assert!(!store.put(NewShard { lease_until: longer, ..s.clone() }).await.expect("longer").new);
    }
    kill(store, &disk).await;
    let store = lagging(&clock, &disk, &folders.next(), 1 << 30);
    assert!(!store.opened().rebuilt);
    let again = store.opened().records_read;
    assert!(again < 16, "{again} of {} records were read again", writer::ROWS_MAX);
}
