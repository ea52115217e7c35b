//! A shard's life: put, get, lease, trash, purge; the ledger; space; who may open.

use super::*;

#[tokio::test]
async fn put_get_ranges_and_what_is_refused() {
    let (disk, clock) = (FaultyDisk::new(1), TestClock::new());
    let store = on(&disk, &clock, None);
    let s = shard(1, 2, 9);
    let stored = store.put(s.clone()).await.expect("stored");
    assert!(stored.new);
    assert_eq!(read(&store, &s).await.expect("read"), s.bytes);
    for (offset, length) in [(0, 1), (65_535, 2), (65_536, 65_536), (1_048_575, 1), (700_001, 0), (0, 1_048_576)] {
        let end = if length == 0 { SHARD_SIZE } else { (offset + length) as usize };
        let part = store.get(s.group, s.slot, 9, offset, length).await.expect("range");
        assert_eq!(part, s.bytes.slice(offset as usize..end), "{offset}+{length}");
    }
    for (offset, length) in [(1_048_576, 0), (0, 1_048_577), (1_048_575, 2), (u32::MAX, u32::MAX)] {
        assert!(matches!(store.get(s.group, s.slot, 9, offset, length).await, Err(StoreError::RangeOutside)));
    }
    assert!(matches!(store.get(s.group, slot(3), 9, 0, 0).await, Err(StoreError::NotFound)));
    assert!(matches!(store.get(s.group, s.slot, 8, 0, 0).await, Err(StoreError::NotFound)));
    assert!(matches!(store.delete(s.group, slot(3), 9).await, Err(StoreError::NotFound)));
    // The same again extends the lease and writes no bytes.
    let longer = NewShard { lease_until: Timestamp(6_000_000_000), ..s.clone() };
    let again = store.put(longer.clone()).await.expect("again");
    assert_eq!((again.new, again.lease_until), (false, longer.lease_until));
    assert_eq!(store.put(s.clone()).await.expect("not shortened").lease_until, longer.lease_until);
    let other = NewShard { ordinal: 9, ..shard(1, 2, 10) };
    assert!(matches!(store.put(other).await, Err(StoreError::Occupied)));
    let lie = NewShard { root: ShardRoot::from_bytes([0; 32]), ..shard(1, 2, 11) };
    assert!(matches!(store.put(lie).await, Err(StoreError::RootMismatch)));
    let short = NewShard { bytes: Bytes::from_static(b"x").into(), ..shard(1, 2, 12) };
    assert!(matches!(store.put(short).await, Err(StoreError::WrongLength { found: 1 })));
    let mut bitmap = [0; 32];
    bitmap[1] = 2;
    assert_eq!(store.holding(s.group, s.slot), bitmap);
    assert_eq!(store.holding(s.group, slot(3)), [0; 32]);
    self_check(&store, &disk, &clock);
    store.close().await;
    assert!(matches!(store.put(shard(3, 3, 3)).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn ledger_outlives_deletion_purge_compaction_and_the_index() {
    let (disk, clock) = (FaultyDisk::new(2), TestClock::new());
    let store = on(&disk, &clock, None);
    store.put(shard(1, 2, 0)).await.expect("stored");
    let refused = store.put(shard(1, 3, 1)).await;
    assert!(matches!(refused, Err(StoreError::LedgerConflict { accepted }) if accepted == slot(2)));
    store.delete(group(1), slot(2), 0).await.expect("deleted");
    assert!(matches!(store.put(shard(1, 3, 1)).await, Err(StoreError::LedgerConflict { .. })), "in the trash");
    clock.advance(86_400_000);
    let report = store.compact().await.expect("compacted");
    assert_eq!((report.purged, report.segments), (1, 1));
    assert!(store.list().is_empty());
    assert!(store.usage().disk_bytes.0 < 1024, "{:?}", store.usage());
    self_check(&store, &disk, &clock);
    store.close().await;
    let store = on(&disk, &clock, None);
    assert!(matches!(store.put(shard(1, 3, 1)).await, Err(StoreError::LedgerConflict { .. })), "SEP-1");
    assert_eq!(store.accepted_slot(group(1)), Some(slot(2)));
    store.put(shard(1, 2, 1)).await.expect("its own slot is welcome");
}

#[tokio::test]
async fn two_slots_at_the_same_moment_one_wins() {
    let (disk, clock) = (FaultyDisk::new(2), TestClock::new());
    let store = on(&disk, &clock, None);
    for g in 0..8 {
        let (a, b) = tokio::join!(store.put(shard(g, 2, 0)), store.put(shard(g, 3, 1)));
        assert!(a.is_ok() != b.is_ok(), "SEP-1");
        assert_eq!(store.accepted_slot(group(g)), Some(slot(if a.is_ok() { 2 } else { 3 })));
    }
    assert_eq!(store.list().len(), 8);
    self_check(&store, &disk, &clock);
}

#[tokio::test]
async fn trash_is_served_and_restored_until_the_hold_is_over() {
    let (disk, clock) = (FaultyDisk::new(3), TestClock::new());
    let store = on(&disk, &clock, None);
    let (a, b, c) = (shard(1, 2, 0), shard(1, 2, 1), shard(1, 2, 2));
    for s in [&a, &b, &c] {
        store.put(s.clone()).await.expect("stored");
        store.delete(s.group, s.slot, s.ordinal).await.expect("deleted");
        store.delete(s.group, s.slot, s.ordinal).await.expect("twice is no error");
    }
    assert_eq!(store.holding(group(1), slot(2)), [0; 32]);
    assert!(store.list().iter().all(|i| i.state == ShardState::Trash));
    clock.advance(86_399_999);
    assert_eq!(store.compact().await.expect("compacts").purged, 0);
    assert_eq!(read(&store, &a).await.expect("DUR-5: served"), a.bytes);
    assert!(!store.put(b.clone()).await.expect("restored by a put").new);
    clock.advance(1);
    assert_eq!(store.compact().await.expect("compacts").purged, 1);
    assert_eq!(
        store.list().iter().map(|i| (i.ordinal, i.state)).collect::<Vec<_>>(),
        [(0, ShardState::Live), (1, ShardState::Live)]
    );
    assert!(matches!(read(&store, &c).await, Err(StoreError::NotFound)));
    // A lease that ended goes the same way, after its grace.
    clock.advance(5_000_000_000);
    assert_eq!(store.expire(10_000_000_000).await.expect("none"), 0);
    assert_eq!(store.expire(0).await.expect("two"), 2);
    assert_eq!(read(&store, &a).await.expect("still served"), a.bytes);
    self_check(&store, &disk, &clock);
}

#[tokio::test]
async fn who_only_looks_brings_nothing_back_from_the_trash() {
    let (disk, clock) = (FaultyDisk::new(3), TestClock::new());
    let store = on(&disk, &clock, None);
    let s = shard(1, 2, 0);
    store.put(s.clone()).await.expect("stored");
    store.delete(s.group, s.slot, s.ordinal).await.expect("deleted");
    assert_eq!(store.look(s.group, s.slot, s.ordinal).await.expect("it is there"), s.bytes[..]);
    assert!(store.list().iter().all(|i| i.state == ShardState::Trash));
    clock.advance(86_400_000);
    assert_eq!(store.compact().await.expect("compacts").purged, 1);
    assert!(matches!(store.look(s.group, s.slot, s.ordinal).await, Err(StoreError::NotFound)));
}

#[tokio::test]
async fn what_was_signed_for_is_kept_until_its_lease_is_over_whoever_has_it_deleted() {
    let (disk, clock) = (FaultyDisk::new(3), TestClock::new());
    let store = on(&disk, &clock, None);
    let bound = NewShard { lease_until: (clock.clock())().plus_ms(30 * 86_400_000), ..shard(1, 2, 0) };
    let free = shard(1, 2, 1);
    for s in [&bound, &free] {
        store.put(s.clone()).await.expect("stored");
        store.delete(s.group, s.slot, s.ordinal).await.expect("deleted");
    }
    assert_eq!(store.rows(group(1), slot(2)), [], "what is in the trash is not signed for again");
    clock.advance(29 * 86_400_000);
    assert_eq!(store.compact().await.expect("compacts").purged, 1);
    assert!(matches!(store.look(free.group, free.slot, free.ordinal).await, Err(StoreError::NotFound)));
    let seen = store.look(bound.group, bound.slot, bound.ordinal).await;
    assert_eq!(seen.expect("TRUST-1: it can be shown to any auditor"), bound.bytes[..]);
    self_check(&store, &disk, &clock);
    clock.advance(86_400_000);
    assert_eq!(store.compact().await.expect("compacts").purged, 1);
    store.put(free.clone()).await.expect("stored");
    assert_eq!(store.rows(group(1), slot(2)), [(1, free.root, free.lease_until)]);
}

#[tokio::test]
async fn compaction_changes_no_answer() {
    let (disk, clock) = (FaultyDisk::new(4), TestClock::new());
    let store = on(&disk, &clock, None);
    let all: Vec<_> = (0..12).map(|o| shard(1 + o % 2, 4, o)).collect();
    for s in &all {
        store.put(s.clone()).await.expect("stored");
        store.keep_head(head(1, s.ordinal.into()).1).await.expect("kept");
        clock.advance(1_000);
    }
    for s in all.iter().filter(|s| s.ordinal % 3 != 0) {
        store.delete(s.group, s.slot, s.ordinal).await.expect("deleted");
    }
    clock.advance(86_400_000);
    // One more that stays in the trash across the compaction.
    store.delete(all[0].group, all[0].slot, 0).await.expect("deleted");
    let before = store.usage();
    let report = store.compact().await.expect("compacts");
    assert_eq!(report.purged, 8);
    assert!(report.segments >= 3 && store.usage().disk_bytes < before.disk_bytes, "{report:?}");
    self_check(&store, &disk, &clock);
    store.close().await;
    let store = on(&disk, &clock, None);
    assert_eq!(store.list().iter().filter(|i| i.state == ShardState::Trash).count(), 1, "the trash stays trash");
    for s in &all {
        match (s.ordinal % 3, read(&store, s).await) {
            (0, Ok(bytes)) => assert_eq!(bytes, s.bytes, "STORE-2"),
            (1 | 2, Err(StoreError::NotFound)) => {}
            (_, other) => panic!("STORE-2: {} gives {:?}", s.ordinal, other.map(|b| b.len())),
        }
    }
    assert_eq!(store.find_head(&head(1, 0).0), Some(head(1, 11).1));
    // What was purged may come again, and does not vanish by the purge records that were carried on.
    store.put(all[1].clone()).await.expect("again");
    store.compact().await.expect("compacts");
    store.close().await;
    assert_eq!(read(&on(&disk, &clock, None), &all[1]).await.expect("there"), all[1].bytes);
}

#[tokio::test]
async fn heads_keep_the_newest_and_refuse_junk() {
    let (disk, clock) = (FaultyDisk::new(5), TestClock::new());
    let store = on(&disk, &clock, None);
    let (vault, second) = head(1, 2);
    assert!(store.keep_head(second.clone()).await.expect("kept"));
    assert!(!store.keep_head(second.clone()).await.expect("known"));
    assert!(!store.keep_head(head(1, 1).1).await.expect("older"));
    assert!(matches!(store.keep_head(vec![1; 100]).await, Err(StoreError::HeadInvalid(_))));
    assert_eq!(store.find_head(&vault), Some(second.clone()));
    assert_eq!(store.find_head(&head(2, 0).0), None);
    store.close().await;
    assert_eq!(on(&disk, &clock, None).heads(), vec![(vault, second)]);
}

#[tokio::test]
async fn the_pledge_and_the_keep_free_limit_hold_and_garbage_makes_room() {
    let (disk, clock) = (FaultyDisk::new(6), TestClock::new());
    let config = StoreConfig { give: ByteSize(5 << 20), ..config("store".into(), &clock) };
    let store = Store::open_on(config, Arc::new(disk.clone()), &VOLUME, None).expect("opens");
    for o in 0..4 {
        store.put(shard(1, 1, o)).await.expect("fits");
    }
    assert!(matches!(store.put(shard(1, 1, 4)).await, Err(StoreError::NoSpace { .. })));
    assert!(store.usage().disk_bytes <= store.usage().pledged);
    for o in 0..3 {
        store.delete(group(1), slot(1), o).await.expect("deleted");
    }
    assert!(matches!(store.put(shard(1, 1, 4)).await, Err(StoreError::NoSpace { .. })), "the hold is not over");
    clock.advance(86_400_000);
    store.compact().await.expect("compacts");
    store.put(shard(1, 1, 4)).await.expect("room again");
    disk.set_free(1 << 20);
    assert!(matches!(store.put(shard(1, 1, 5)).await, Err(StoreError::NoSpace { .. })), "the disk");
    assert_eq!(read(&store, &shard(1, 1, 3)).await.expect("reads go on"), shard(1, 1, 3).bytes);
    self_check_small(&store);
}

fn self_check_small(store: &Store) {
    let u = store.usage();
    assert_eq!(u.live_bytes.0 + u.trash_bytes.0 + u.record_bytes.0 + u.dead_bytes.0, u.disk_bytes.0);
}

#[tokio::test]
async fn real_folder_lock_empty_mount_and_index() {
    let (temp, clock) = (tempfile::tempdir().expect("temp"), TestClock::new());
    let dir = temp.path().join("store");
    let open = || Store::open(config(dir.clone(), &clock));
    let store = open().expect("made");
    store.put(shard(1, 2, 3)).await.expect("stored");
    store.keep_head(head(1, 1).1).await.expect("kept");
    assert!(matches!(open(), Err(StoreError::Locked { .. })));
    let (list, usage) = (store.list(), store.usage());
    store.close().await;
    drop(store);
    let same = |store: &Store| {
        assert_eq!(store.list(), list);
        assert_eq!(Usage { free_bytes: ByteSize(0), ..store.usage() }, Usage { free_bytes: ByteSize(0), ..usage });
        assert_eq!(store.find_head(&head(1, 1).0), Some(head(1, 1).1));
    };
    let store = open().expect("opens");
    assert!(!store.opened().rebuilt && store.opened().records_read == 0, "{:?}", store.opened());
    same(&store);
    store.close().await;

    let index = dir.join("index");
    std::fs::remove_dir_all(&index).expect("removed");
    let store = open().expect("opens without its index");
    assert!(store.opened().rebuilt);
    same(&store);
    store.close().await;

    for fill in [0u8, 0xff, 0x5a] {
        for entry in std::fs::read_dir(&index).expect("listed") {
            let path = entry.expect("entry").path();
            if path.is_file() {
                let len = std::fs::metadata(&path).expect("metadata").len() as usize;
                std::fs::write(&path, vec![fill; len]).expect("garbled");
            }
        }
        let store = open().expect("opens with a garbled index");
        same(&store);
        assert_eq!(read(&store, &shard(1, 2, 3)).await.expect("read"), shard(1, 2, 3).bytes);
        store.close().await;
    }

    let away = temp.path().join("away");
    std::fs::rename(&dir, &away).expect("unmounted");
    std::fs::create_dir(&dir).expect("mount point");
    assert!(matches!(open(), Err(StoreError::WrongVolume { .. })));
    assert_eq!(std::fs::read_dir(&dir).expect("listed").count(), 0, "an empty mount stays as it is");
    std::fs::write(dir.join("volume"), [1; 32]).expect("another disk");
    assert!(matches!(open(), Err(StoreError::WrongVolume { .. })));
    std::fs::remove_dir_all(&dir).expect("removed");
    std::fs::rename(&away, &dir).expect("mounted");
    same(&open().expect("opens"));
}

#[tokio::test]
async fn a_list_comes_in_parts() {
    let (disk, clock) = (FaultyDisk::new(9), TestClock::new());
    let store = on(&disk, &clock, None);
    for (g, ordinals) in [(1, vec![0, 7, 255]), (2, vec![3]), (3, vec![0, 1])] {
        for ordinal in ordinals {
            store.put(shard(g, 2, ordinal)).await.expect("stored");
        }
    }
    let whole = store.list();
    assert_eq!(whole.len(), 6);
    for limit in 1..8 {
        let (mut parts, mut after) = (Vec::new(), None);
        loop {
            let part = store.list_after(after, limit);
            assert!(part.len() <= limit);
            let Some(last) = part.last() else { break };
            after = Some((last.group, last.ordinal));
            parts.extend(part);
        }
        assert_eq!(parts, whole, "{limit} at a time");
    }
    store.close().await;
}
