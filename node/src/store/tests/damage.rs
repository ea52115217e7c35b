//! Flipped, cut and foreign bytes: never a wrong byte, never a panic, nothing lost but what was hit.

use super::*;

/// A log with every kind of record, in one segment.
async fn small_log(disk: &FaultyDisk, clock: &TestClock) -> [NewShard; 2] {
    let config = StoreConfig { segment_size: ByteSize(64 << 20), ..config("store".into(), clock) };
    let store = Store::open_on(config, Arc::new(disk.clone()), &VOLUME, None).expect("opens");
    let (a, b) = (shard(1, 2, 0), shard(3, 4, 1));
    store.put(a.clone()).await.expect("stored");
    store.keep_head(head(1, 1).1).await.expect("kept");
    store.delete(a.group, a.slot, 0).await.expect("deleted");
    read(&store, &a).await.expect("restored");
    store.put(NewShard { lease_until: Timestamp(u64::MAX), ..a.clone() }).await.expect("extended");
    store.put(b.clone()).await.expect("stored");
    store.close().await;
    [a, b]
}

async fn never_a_wrong_byte(disk: &FaultyDisk, clock: &TestClock, shards: &[NewShard], what: &str) -> usize {
    let store = on(disk, clock, None);
    let mut good = 0;
    for s in shards {
        match read(&store, s).await {
            Ok(bytes) => {
                assert_eq!(bytes, s.bytes, "{what}: a wrong byte");
                good += 1;
            }
            Err(StoreError::Damaged | StoreError::NotFound) => {}
            Err(e) => panic!("{what}: {e}"),
        }
        if let Some(accepted) = store.accepted_slot(s.group) {
            assert_eq!(accepted, s.slot, "{what}: SEP-1");
        }
    }
    store.close().await;
    good
}

#[tokio::test]
async fn a_flipped_bit_anywhere() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let shards = small_log(&disk, &clock).await;
    let mut size = 0;
    disk.edit("00000001.seg", |bytes| size = bytes.len()).expect("there");
    // All bytes of heads and small records, a few of the payloads: 64 + 128 + 192, then the first payload.
    let (first, second) = (384, 384 + SHARD_SIZE);
    let spots = (0..first).chain(second..size - SHARD_SIZE).step_by(5);
    let payloads = (first..second).chain(size - SHARD_SIZE..size).step_by(97_001);
    for at in spots.chain(payloads).chain([first, second - 1, second, size - SHARD_SIZE, size - 1]) {
        let copy = disk.copy(2);
        copy.edit("00000001.seg", |bytes| bytes[at] ^= 1 << (at % 8)).expect("there");
        let good = never_a_wrong_byte(&copy, &clock, &shards, &format!("bit flipped in byte {at}")).await;
        assert!(good >= 1, "a flip in byte {at} may hit one shard only");
    }
}

#[tokio::test]
async fn cut_off_anywhere() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let shards = small_log(&disk, &clock).await;
    let mut size = 0;
    disk.edit("00000001.seg", |bytes| size = bytes.len()).expect("there");
    for at in (0..size).step_by(131_071).chain([0, 1, 63, 64, 65, 191, 192, 384, size - 1]) {
        let copy = disk.copy(2);
        copy.edit("00000001.seg", |bytes| bytes.truncate(at)).expect("there");
        never_a_wrong_byte(&copy, &clock, &shards, &format!("cut at {at}")).await;
        // And it goes on from there.
        let store = on(&copy, &clock, None);
        store.put(shards[0].clone()).await.expect("stored again");
        self_check(&store, &copy, &clock);
        store.close().await;
        assert!(never_a_wrong_byte(&copy, &clock, &shards, "after the repair").await >= 1);
    }
}

#[tokio::test]
async fn damage_is_found_listed_repaired_and_its_neighbours_stay() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = on(&disk, &clock, None);
    let all: Vec<_> = (0..9).map(|o| shard(1, 2, o)).collect();
    for s in &all {
        store.put(s.clone()).await.expect("stored");
    }
    let place = store.index().entry(&group(1), 4).expect("there").place;
    let name = writer::segment_name(place.segment);
    disk.edit(&name, |bytes| bytes[place.offset as usize + 500_000] ^= 1).expect("there");
    let report = store.scrub(&CancellationToken::new()).await.expect("scrubbed");
    let hit = ShardRef { group: group(1), slot: slot(2), ordinal: 4 };
    assert_eq!((report.checked, report.damaged, report.missing), (9, vec![hit], vec![]));
    assert!(matches!(read(&store, &all[4]).await, Err(StoreError::Damaged)));
    assert_eq!(store.get(group(1), slot(2), 4, 0, 1000).await.expect("a sound block"), all[4].bytes.slice(..1000));
    // The finding is told to the writer without waiting: this waits until it came by.
    store.delete(group(9), slot(2), 0).await.expect_err("not here");
    assert!(store.list()[4].damaged);
    assert_eq!(store.holding(group(1), slot(2))[0], 0b1110_1111);
    // The head of another one.
    let place = store.index().entry(&group(1), 7).expect("there").place;
    disk.edit(&writer::segment_name(place.segment), |bytes| bytes[place.offset as usize + 40] ^= 1).expect("there");
    let report = store.scrub(&CancellationToken::new()).await.expect("scrubbed");
    assert_eq!((report.damaged.len(), report.missing), (1, vec![ShardRef { ordinal: 7, ..hit }]));
    store.put(shard(2, 3, 0)).await.expect("stored");
    for batch in [1, 2, 9, 10, 11] {
        let report = store.scrub_by(batch, &CancellationToken::new()).await.expect("scrubbed");
        assert_eq!((report.checked, report.damaged.len(), report.missing.len()), (10, 1, 1), "{batch} at a time");
    }
    store.delete(group(2), slot(3), 0).await.expect("deleted");
    store.close().await;
    let store = on(&disk, &clock, None);
    assert_eq!(store.opened().gaps.len(), 1, "{:?}", store.opened());
    assert_eq!(
        store.list().iter().filter(|i| i.group == group(1)).count(),
        8,
        "only the one without a head is unknown"
    );
    // Repair puts the same shards again.
    store.scrub(&CancellationToken::new()).await.expect("scrubbed");
    for o in [4, 7] {
        assert!(store.put(all[o].clone()).await.expect("repaired").new);
    }
    for s in &all {
        assert_eq!(read(&store, s).await.expect("whole again"), s.bytes);
    }
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    assert!(store.scrub(&cancelled).await.expect("stopped").cancelled);
}

/// A stranger's shard full of records that would free a slot, were they taken for the store's own.
#[tokio::test]
async fn records_inside_a_shard_are_not_believed() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = on(&disk, &clock, None);
    let forged = cairn_proto::record::Record::Ledger { group: group(9), slot: slot(9) };
    let mut bytes = forged.encode(&RecordKey::of_volume(&[8; 32]));
    bytes = bytes.repeat(SHARD_SIZE / bytes.len());
    let evil = NewShard {
        root: ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes()),
        bytes: bytes.into(),
        ..shard(1, 2, 0)
    };
    store.put(evil).await.expect("stored");
    let place = store.index().entry(&group(1), 0).expect("there").place;
    store.put(shard(1, 2, 1)).await.expect("stored");
    store.close().await;
    disk.edit(&writer::segment_name(place.segment), |b| b[place.offset as usize] ^= 1).expect("there");
    let store = on(&disk, &clock, None);
    assert_eq!(store.accepted_slot(group(9)), None);
    assert_eq!(read(&store, &shard(1, 2, 1)).await.expect("behind it"), shard(1, 2, 1).bytes);
}

/// Earlier versions put shards where the last record ended; both kinds of record stand in one log then.
#[tokio::test]
async fn a_log_without_spaces_is_read_and_gone_on_with() {
    use cairn_proto::record::{DISK_BLOCK, Record, SHARD_HEAD, ShardHead, block_checks};
    let (disk, clock, key) = (FaultyDisk::new(1), TestClock::new(), RecordKey::of_volume(&VOLUME));
    let old = [shard(1, 2, 0), shard(1, 2, 1)];
    let mut log = Record::Segment { number: 1 }.encode(&key);
    log.extend(Record::Ledger { group: group(1), slot: slot(2) }.encode(&key));
    for s in &old {
        let NewShard { group, slot, ordinal, root, lease_until, .. } = *s;
        let blocks = block_checks(&s.bytes);
        let head = ShardHead { group, slot, ordinal, root, lease_until, stored_at: Timestamp(1), blocks };
        log.extend(Record::Shard(head).encode(&key));
        log.extend_from_slice(&s.bytes);
    }
    let file = disk.create(&writer::segment_name(1)).expect("made");
    assert_eq!(file.write_at(&[std::io::IoSlice::new(&log)], 0).expect("written"), log.len());
    file.sync().expect("synced");
    disk.sync_folder().expect("synced");
    let config = StoreConfig { segment_size: ByteSize(64 << 20), ..config("store".into(), &clock) };
    let open = || Store::open_on(config.clone(), Arc::new(disk.clone()), &VOLUME, None).expect("opens");
    let store = open();
    assert!(store.opened().gaps.is_empty());
    let new = [shard(1, 2, 2), shard(3, 4, 0), shard(3, 4, 1)];
    for s in &new {
        store.put(s.clone()).await.expect("stored");
        store.keep_head(head(1, u64::from(s.ordinal) + 1).1).await.expect("kept");
    }
    store.close().await;
    let store = open();
    assert!(store.opened().gaps.is_empty() && store.opened().damaged == 0);
    for s in old.iter().chain(&new) {
        assert_eq!(read(&store, s).await.expect("there"), s.bytes);
    }
    let index = store.index();
    let begins = |s: &NewShard| {
        let place = index.entry(&s.group, s.ordinal).expect("there").place;
        assert_eq!(place.segment, 1);
        (place.offset as usize + SHARD_HEAD) % DISK_BLOCK
    };
    assert!(old.iter().map(begins).all(|at| at != 0));
    assert_eq!(new.each_ref().map(begins), [0; 3], "small records lie between them");
}
