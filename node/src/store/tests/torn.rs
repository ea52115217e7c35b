//! Copies that a power cut tore, and old records of a place that has seen two shards: neither may win over what was acknowledged.

use cairn_proto::record::SHARD_HEAD;

use super::*;

fn append(disk: &FaultyDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).expect("made");
    assert_eq!(file.write_at(&[std::io::IoSlice::new(bytes)], 0).expect("written"), bytes.len());
    file.sync().expect("synced");
    disk.sync_folder().expect("synced");
}

/// What a power cut in the middle of a compaction leaves: the good shard in the first segment, in the second one its copy
/// with a whole head and a payload of which a part never reached the disk.
async fn torn_copy(clock: &TestClock, database: Option<&Path>) -> (FaultyDisk, NewShard) {
    let disk = FaultyDisk::new(1);
    let store = on(&disk, clock, database);
    for o in 0..3 {
        store.put(shard(1, 2, o)).await.expect("stored");
    }
    for o in 1..3 {
        store.delete(group(1), slot(2), o).await.expect("deleted");
    }
    clock.advance(86_400_000);
    store.close().await;
    let done = disk.copy(2);
    let store = on(&done, clock, None);
    assert!(store.compact().await.expect("compacts").segments >= 1);
    let place = store.index().entry(&group(1), 0).expect("there").place;
    assert!(place.segment > 1);
    store.close().await;
    let name = writer::segment_name(place.segment);
    let mut copied = Vec::new();
    done.edit(&name, |bytes| copied = bytes.clone()).expect("there");
    copied[place.offset as usize + SHARD_HEAD + 4096..][..64 * 1024].fill(0);
    append(&disk, &name, &copied);
    (disk, shard(1, 2, 0))
}

async fn good_shard_stays(with_database: bool) {
    let (clock, temp) = (TestClock::new(), tempfile::tempdir().expect("temp"));
    let database = with_database.then(|| temp.path().join("index"));
    let (disk, good) = torn_copy(&clock, database.as_deref()).await;
    let store = on(&disk, &clock, database.as_deref());
    assert_eq!(store.opened().rebuilt, !with_database);
    assert_eq!(read(&store, &good).await.expect("DUR-4"), good.bytes);
    self_check(&store, &disk, &clock);
    // More segments, so that a later scan does not read the torn copy's payload for being in the last one.
    for o in 10..14 {
        store.put(shard(1, 2, o)).await.expect("stored");
    }
    store.close().await;
    let again = on(&disk.copy(3), &clock, None);
    assert_eq!(read(&again, &good).await.expect("DUR-4 after the index was lost"), good.bytes);
    again.close().await;
    // And the compaction that failed is tried again.
    let store = on(&disk, &clock, database.as_deref());
    assert!(store.compact().await.expect("compacts").segments >= 1);
    assert_eq!(read(&store, &good).await.expect("DUR-4 after the next compaction"), good.bytes);
    store.close().await;
    let store = on(&disk, &clock, None);
    assert_eq!(read(&store, &good).await.expect("DUR-4"), good.bytes);
}

#[tokio::test]
async fn a_torn_copy_never_takes_the_place_of_the_good_shard() {
    good_shard_stays(false).await;
}

#[tokio::test]
async fn nor_when_the_database_knows_the_good_one() {
    good_shard_stays(true).await;
}

/// A and, after its purge, B at the same place; A's segment stays because of its neighbours. The records that say that A is
/// gone must stay as long.
#[tokio::test]
async fn what_was_purged_stays_so_after_another_shard_had_its_place() {
    let (disk, clock) = (FaultyDisk::new(4), TestClock::new());
    let store = on(&disk, &clock, None);
    let (a, b) = (shard(1, 2, 0), NewShard { ordinal: 0, ..shard(1, 2, 100) });
    for s in [&a, &shard(1, 2, 1), &shard(1, 2, 2)] {
        store.put(s.clone()).await.expect("stored");
    }
    purge(&store, &clock, &[0]).await;
    // B lies beside the record of A's purge, and that segment gets sparse while B lives.
    for s in [&b, &shard(1, 2, 5), &shard(1, 2, 6)] {
        store.put(s.clone()).await.expect("the place is free");
    }
    let beside = store.index().entry(&group(1), 0).expect("there").place.segment;
    purge(&store, &clock, &[5, 6]).await;
    self_check(&store, &disk, &clock);
    assert!(!store.index().segments.contains_key(&beside), "its segment was emptied");
    purge(&store, &clock, &[0]).await;
    self_check(&store, &disk, &clock);
    assert!(store.index().segments.contains_key(&1), "A's bytes are still there");
    store.close().await;
    let store = on(&disk, &clock, None);
    assert!(store.list().iter().all(|i| i.root != a.root), "A is back from the dead");
}

async fn purge(store: &Store, clock: &TestClock, ordinals: &[u8]) {
    for o in ordinals {
        store.delete(group(1), slot(2), *o).await.expect("deleted");
    }
    clock.advance(86_400_000);
    assert_eq!(store.compact().await.expect("compacts").purged, ordinals.len() as u64);
}

#[tokio::test]
async fn repairing_a_damaged_shard_shortens_no_lease() {
    let (disk, clock) = (FaultyDisk::new(4), TestClock::new());
    let store = on(&disk, &clock, None);
    let long = NewShard { lease_until: Timestamp(9_000_000_000), ..shard(1, 2, 0) };
    store.put(long.clone()).await.expect("stored");
    rot(&store, &disk, 0);
    store.scrub(&CancellationToken::new()).await.expect("scrubbed");
    let again = store.put(NewShard { lease_until: Timestamp(1), ..long.clone() }).await.expect("repaired");
    assert_eq!((again.new, again.lease_until), (true, long.lease_until), "what was promised");
    assert_eq!(store.list()[0].lease_until, long.lease_until);
    self_check(&store, &disk, &clock);
}

/// A reader found the rotten copy; before the writer hears of it, a repair has put a good one elsewhere.
#[tokio::test]
async fn a_finding_is_about_the_copy_that_was_read() {
    let (disk, clock) = (FaultyDisk::new(4), TestClock::new());
    let store = on(&disk, &clock, None);
    store.put(shard(1, 2, 0)).await.expect("stored");
    let old = store.index().entry(&group(1), 0).expect("there").place;
    rot(&store, &disk, 0);
    assert!(matches!(read(&store, &shard(1, 2, 0)).await, Err(StoreError::Damaged)));
    assert!(store.put(shard(1, 2, 0)).await.expect("repaired").new);
    let late = Command::Mark { group: group(1), ordinal: 0, place: old, damaged: true };
    store.0.commands.send(late).await.expect("open");
    store.delete(group(1), slot(2), 9).await.expect_err("only to know that the writer came by");
    assert!(!store.list()[0].damaged, "the good copy is not the one that was read");
    assert_eq!(store.holding(group(1), slot(2))[0], 1);
}

/// A segment that a damaged shard kept from being emptied is emptied once the shard was put again.
#[tokio::test]
async fn a_repair_sets_the_segment_free() {
    let (disk, clock) = (FaultyDisk::new(4), TestClock::new());
    let store = on(&disk, &clock, None);
    for o in 0..3 {
        store.put(shard(1, 2, o)).await.expect("stored");
    }
    rot(&store, &disk, 0);
    for o in 1..3 {
        store.delete(group(1), slot(2), o).await.expect("deleted");
    }
    clock.advance(86_400_000);
    assert_eq!(store.compact().await.expect("compacts").kept, 1);
    assert!(store.list()[0].damaged, "compaction found it and says so");
    assert!(store.put(shard(1, 2, 0)).await.expect("repaired").new);
    store.compact().await.expect("compacts");
    assert!(!store.index().segments.contains_key(&1));
    assert_eq!(read(&store, &shard(1, 2, 0)).await.expect("there"), shard(1, 2, 0).bytes);
    self_check(&store, &disk, &clock);
}

fn rot(store: &Store, disk: &FaultyDisk, ordinal: u8) {
    let place = store.index().entry(&group(1), ordinal).expect("there").place;
    disk.edit(&writer::segment_name(place.segment), |b| b[place.offset as usize + 300_000] ^= 1).expect("there");
}
