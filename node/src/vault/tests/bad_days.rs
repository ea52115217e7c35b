//! The bad days: dead peers, liars, rot, interruptions, wrong secrets.

use std::collections::BTreeSet;

use super::{memory_overlay::Manner, *};
use crate::ops::SnapshotsArgs;

/// One victim a slot, for the first `count` slots.
fn kill(owner: &Owner, count: u8, manner: Manner) {
    for slot in 0..count {
        for holder in owner.overlay.holders_of_slot(slot) {
            owner.overlay.set_manner(&holder, manner);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_dead_slots_do_not_matter_and_new_data_goes_elsewhere() {
    let owner = Owner::new(30);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    kill(&owner, 3, Manner::Dead);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.check(false).await.expect(ExitCode::Damage);
    owner.write("b", &noise(2, 9 << 20));
    let ran = owner.backup().await;
    // Whether a living peer has the colour of each dead one is the salt's choice; what could not be filled is told.
    let whole = ran.summary()["stripes_below_target"] == 0;
    ran.expect(if whole { ExitCode::Success } else { ExitCode::BelowTarget });
    owner.restore("out2").await.expect(ExitCode::Success);
    owner.assert_same("out2");
}

/// With every shard of theirs waited for, a restore would take as many dials as it has stripes.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_connected_is_waited_for_once() {
    let owner = Owner::new(30);
    owner.write("a", &noise(1, 60 << 20));
    owner.backup().await.expect(ExitCode::Success);
    // No more than three of any group: each of them has one slot of it at most.
    (0..3).for_each(|slot| kill_one(&owner, slot, Manner::Away));
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    // Of twelve stripes and those of metadata, with three slots each: what was asked for before the first wait was over, and nothing after it.
    let waits = owner.overlay.waits();
    assert!((1..=18).contains(&waits), "{waits}");
}

/// A tree is read before any file, and its first shard alone: as long as nobody else is connected its holder would be waited for.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_tree_is_not_waited_for_alone() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 100 << 10));
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay.peer_keys().iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Asleep));
    kill_one(&owner, 0, Manner::Away);
    let began = std::time::Instant::now();
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    assert!(owner.overlay.waits() > 0, "it was asked");
    // A dial in vain takes five seconds.
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "{:?}", began.elapsed());
}

/// With every shard of theirs waited for, a restore would wait three seconds for each stripe; and they are asked all the same when nobody
/// else is left.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_waited_for_once() {
    let owner = Owner::new(30);
    owner.write("a", &noise(1, 60 << 20));
    owner.backup().await.expect(ExitCode::Success);
    (0..2).for_each(|slot| kill_one(&owner, slot, Manner::Slow));
    let began = std::time::Instant::now();
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    // Twelve stripes and those of metadata, two slots each: what was asked for before the first wait was over, and nothing after it.
    let waits = owner.overlay.waits();
    assert!((1..=18).contains(&waits), "{waits}");
    assert!(began.elapsed() < std::time::Duration::from_secs(40), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn four_dead_slots_lose_files_by_name_and_nothing_else() {
    let owner = Owner::new(24);
    owner.write("doomed", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let doomed = (0..4).flat_map(|slot| owner.overlay.holders_of_slot(slot)).collect::<Vec<_>>();
    // The second snapshot goes to other peers; then the first group's four slots lose everything.
    for peer in &doomed {
        owner.overlay.set_manner(peer, Manner::Dead);
    }
    owner.write("fine", &noise(2, 9 << 20));
    // Twenty are left for nine colours: among the 65,536 salts that are tried there is one that has all of them.
    assert_eq!(doomed.len(), 4, "one replica, one group");
    // All of "fine" is safe; that "doomed" is not is said.
    owner.backup().await.expect(ExitCode::BelowTarget);
    let ran = owner.restore("out").await.expect(ExitCode::Lost);
    assert!(ran.errors().iter().any(|e| e.item.ends_with("/doomed")), "{:?}", ran.errors());
    assert!(!owner.restored("out").join("doomed").exists());
    assert!(std::fs::read(owner.restored("out").join("fine")).expect("there") == noise(2, 9 << 20));
    let ran = owner.check(false).await.expect(ExitCode::Lost);
    assert!(ran.errors().iter().any(|e| e.item.ends_with("/doomed")), "{:?}", ran.errors());
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_and_rot_never_give_a_wrong_byte() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay.rot(&owner.overlay.holders_of_slot(0)[0]);
    kill_one(&owner, 1, Manner::Liar);
    owner.overlay.lose_shards(&owner.overlay.holders_of_slot(2)[0]);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    let ran = owner.check(true).await.expect(ExitCode::Damage);
    assert!(ran.summary()["shards_wrong"].as_u64() > Some(0));
    // One more, and it is a clear error instead.
    kill(&owner, 5, Manner::Liar);
    owner.restore("out2").await.expect(ExitCode::Lost);
    assert!(!owner.restored("out2").join("a").exists());
}

fn kill_one(owner: &Owner, slot: u8, manner: Manner) {
    owner.overlay.set_manner(&owner.overlay.holders_of_slot(slot)[0], manner);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_fails_meanwhile_is_replaced() {
    let owner = Owner::new(40);
    let peers = owner.overlay.peer_keys();
    for peer in peers.iter().take(6) {
        owner.overlay.set_manner(peer, Manner::Full);
    }
    owner.write("a", &noise(1, 30 << 20));
    let code = owner.backup().await.code();
    assert!(matches!(code, ExitCode::Success | ExitCode::BelowTarget), "{code:?}");
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_not_sent_again() {
    for puts in [1, 9, 20, 50, 77] {
        let owner = Owner::new(24);
        owner.write("a", &noise(1, 40 << 20));
        let cancel = CancellationToken::new();
        owner.overlay.cancel_after(puts, cancel.clone());
        let ran = owner.run_with(Verb::Backup(owner.backup_args()), None, None, cancel).await;
        if ran.code() == ExitCode::Success {
            continue;
        }
        ran.expect(ExitCode::Interrupted);
        assert!(owner.run(Verb::Snapshots(SnapshotsArgs::default())).await.rows().is_empty(), "DUR-1");
        let first = owner.overlay.take_sent() >> 20;
        owner.backup().await.expect(ExitCode::Success);
        let second = owner.overlay.take_sent() >> 20;
        let once = 8 * 9;
        // Six stripes may have been in flight; everything else must not go twice.
        assert!(first + second <= once + 6 * 8, "{puts}: {first} + {second} MiB");
        owner.restore("out").await.expect(ExitCode::Success);
        owner.assert_same("out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_head_lists_nothing() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 3 << 20));
    owner.overlay.keep_no_heads(true);
    let ran = owner.backup().await.expect(ExitCode::TooFewPeers);
    assert_eq!(ran.failure().id, "HEAD_NOT_KEPT");
    assert!(owner.run(Verb::Snapshots(SnapshotsArgs::default())).await.rows().is_empty(), "DUR-1");
    owner.overlay.keep_no_heads(false);
    owner.overlay.take_sent();
    owner.backup().await.expect(ExitCode::Success);
    assert!(owner.overlay.take_sent() <= 4 << 20);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_peers_says_how_many_more() {
    let owner = Owner::new(3);
    owner.write("a", b"a");
    let ran = owner.backup().await.expect(ExitCode::TooFewPeers);
    assert_eq!(ran.failure().id, "TOO_FEW_PEERS");
    assert!(ran.failure().message.contains("2 more"), "{}", ran.failure().message);
    assert!(ran.failure().message.contains("class"), "{}", ran.failure().message);
    let nobody = Owner::new(0);
    nobody.backup().await.expect(ExitCode::TooFewPeers);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_are_refused_at_once() {
    let mut owner = Owner::new(10);
    owner.data = owner.dir.path().join("secret");
    let right = SecretText::new("right".to_owned());
    Vault::init(&owner.data, Some(&right)).expect("a vault");
    let wrong = SecretText::new("wrong".to_owned());
    let none = CancellationToken::new();
    let ran = owner.run_with(Verb::Stats, Some(wrong), None, none.clone()).await;
    ran.expect(ExitCode::WrongSecret);
    owner.run_with(Verb::Stats, None, None, none.clone()).await.expect(ExitCode::WrongSecret);
    owner.run_with(Verb::Stats, Some(right), None, none).await.expect(ExitCode::Success);

    owner.data = owner.dir.path().join("blank");
    owner.run(Verb::Stats).await.expect(ExitCode::NotFound);
    let mut words: Vec<&str> = owner.phrase.expose().split(' ').collect();
    words.swap(0, 1);
    let swapped = if words[0] == words[1] { "abandon ".repeat(24) } else { words.join(" ") };
    let args = RecoverArgs { phrase: SecretText::new(swapped) };
    owner.run(Verb::Recover(args)).await.expect(ExitCode::WrongSecret);
    let ran = owner.recover().await.expect(ExitCode::WrongSecret);
    assert_eq!(ran.failure().id, "NO_HEAD");
    assert!(!owner.data.join("vault").exists(), "a failed recovery leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn shortfalls_are_filled_by_the_next_run() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 4 << 20));
    // Whoever has colour 0 is full, whichever salt is drawn: the only stripe stands at seven slots.
    owner.overlay.fill_slot(Some(0));
    let ran = owner.backup().await.expect(ExitCode::BelowTarget);
    assert_eq!(ran.summary()["stripes_below_target"], 1);
    assert!(owner.overlay.holders_of_slot(0).is_empty() && owner.overlay.holders_of_slot(1).len() == 1);
    owner.overlay.fill_slot(None);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.summary()["stripes_completed"].as_u64() >= Some(1));
    owner.check(true).await.expect(ExitCode::Success);
    owner.overlay.assert_separated();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_backup_is_as_good_as_a_killed_one() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 40 << 20));
    let cancel = CancellationToken::new();
    owner.overlay.cancel_after(30, cancel.clone());
    let ctx = VaultContext {
        dir: owner.data.clone(),
        overlay: owner.overlay.shared(),
        witness: None,
        fallback: Default::default(),
        repairs: Default::default(),
        meeting: None,
    };
    let (events, _listener) = mpsc::channel(1024);
    let verb = Verb::Backup(owner.backup_args());
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        _ = run_verb(&ctx, verb, None, None, None, events, CancellationToken::new()) => {}
    }
    assert!(owner.overlay.shard_count() > 0);
    owner.backup().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_lost_the_head_gets_a_new_one() {
    let mut owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay.lose_head();
    owner.backup().await.expect(ExitCode::Success);
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_restore_fetches_little() {
    let owner = Owner::new(24);
    owner.write("big", &noise(1, 30 << 20));
    owner.write("small", b"only this");
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay.take_fetched();
    let path = encode_path(&owner.source.join("small"));
    let args = crate::ops::DumpArgs { snapshot: "latest".to_owned(), path };
    let ran = owner.run(Verb::Dump(args)).await.expect(ExitCode::Success);
    assert_eq!(ran.output, b"only this");
    assert!(owner.overlay.take_fetched() <= 3 << 20, "a file of a few bytes needs a few shards");
}

/// A run of 256 KiB is fetched with the whole shard that it lies in, since only a whole shard can be checked. What counts
/// is that each shard is fetched once.
#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_large_vault_fetches_its_trees_once() {
    const BIG: usize = 6;
    const SMALL: usize = 2000;
    let owner = Owner::new(24);
    for at in 0..BIG {
        owner.write(&format!("big/{at}"), &noise(at as u8, 16 << 20));
    }
    for at in 0..SMALL {
        owner.write(&format!("small/{}/{at}", at % 20), &noise(1, 3000 + at));
    }
    owner.backup().await.expect(ExitCode::Success);
    let stored = owner.overlay.shard_count() as u64;
    let fetched = || owner.overlay.take_fetched() / cairn_proto::SHARD_SIZE as u64;
    let latest = "latest".to_owned();
    fetched();
    owner.run(Verb::Ls(crate::ops::LsArgs { snapshot: latest.clone(), path: None })).await.expect(ExitCode::Success);
    let ls = fetched();
    let find = crate::ops::FindArgs { patterns: vec!["1999".to_owned()], snapshot: None };
    let ran = owner.run(Verb::Find(find)).await.expect(ExitCode::Success);
    assert_eq!(ran.rows().len(), 1);
    let find = fetched();
    let path = encode_path(&owner.source.join("small/19/1999"));
    let ran = owner.run(Verb::Dump(crate::ops::DumpArgs { snapshot: latest, path })).await.expect(ExitCode::Success);
    assert!(ran.output == noise(1, 4999));
    let dump = fetched();
    println!("{stored} shards stored; fetched by ls {ls}, find {find}, dump {dump}");
    // 2,000 nodes and their lists are about 1 MiB before compression, and what is packed together may lie in two shards.
    assert!(ls <= 3 && find <= 3 && dump <= 4, "ls {ls}, find {find}, dump {dump}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_stripe_had_is_stored_anew() {
    let mut owner = Owner::new(24);
    owner.write("doomed", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    // The index lies in the last slots.
    for slot in 1..5 {
        for holder in owner.overlay.holders_of_slot(slot) {
            owner.overlay.lose_shards(&holder);
        }
    }
    owner.check(false).await.expect(ExitCode::Lost);
    owner.backup().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.overlay.take_sent();
    owner.backup().await.expect(ExitCode::Success);
    assert!(owner.overlay.take_sent() <= 12 << 20, "once is enough");
    // The folders above the source may have changed since, so that the first snapshot's own tree is gone.
    let latest = owner.run(Verb::Snapshots(SnapshotsArgs::default())).await;
    let first = latest.rows()[0]["short_id"].as_str().expect("an id").to_owned();
    let ran = owner.check(true).await;
    assert!(ran.errors().iter().all(|e| e.item.starts_with(&first)), "{first}: {:?}", ran.errors());
    // Nor does a blank machine need what was lost.
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out2").await.expect(ExitCode::Success);
    owner.assert_same("out2");
}

/// Marks slots of every stripe as lacking, and seals every group, so that none is of the next run.
fn mark_short(owner: &Owner, slots: &[u8]) -> super::super::catalogue::Catalogue {
    let catalogue = Vault::open(&owner.data, None).expect("opens").catalogue;
    for row in catalogue.groups().collect::<Vec<_>>() {
        let row = cairn_proto::manifest::GroupRow { sealed: true, ..row.expect("a group") };
        catalogue.set_group(&row).expect("written");
    }
    for row in catalogue.stripes().collect::<Vec<_>>() {
        catalogue.set_shortfall(row.expect("a stripe").no, slots).expect("written");
    }
    catalogue
}

#[tokio::test(flavor = "multi_thread")]
async fn every_holder_of_a_completed_stripe_is_remembered() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let before = mark_short(&owner, &[0, 1, 2]).group(1).expect("readable").expect("there");
    for slot in 0..3 {
        for holder in owner.overlay.holders_of_slot(slot) {
            owner.overlay.set_manner(&holder, Manner::Dead);
        }
    }
    owner.backup().await;
    let catalogue = Vault::open(&owner.data, None).expect("opens").catalogue;
    let left: BTreeSet<u8> = catalogue.shortfalls().expect("readable").into_iter().flat_map(|(_, s)| s).collect();
    let after = catalogue.group(1).expect("readable").expect("there");
    for slot in (0..3u8).filter(|slot| !left.contains(slot)) {
        let at = usize::from(slot);
        assert!(after.holders[at].len() > before.holders[at].len(), "slot {slot}: {:?}", after.holders);
    }
    owner.overlay.assert_separated();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_replica_goes_to_somebody_else() {
    let owner = Owner::new(60);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let catalogue = mark_short(&owner, &[0]);
    let before = catalogue.group(1).expect("readable").expect("there");
    assert_eq!(before.holders[0].len(), 2, "sixty domains make two replicas");
    owner.overlay.set_manner(&before.holders[0][1], Manner::Dead);
    drop(catalogue);
    owner.backup().await;
    let catalogue = Vault::open(&owner.data, None).expect("opens").catalogue;
    let after = catalogue.group(1).expect("readable").expect("there");
    let whole = catalogue.shortfalls().expect("readable").is_empty();
    assert_eq!(whole, after.holders[0].len() > 2, "{:?}", after.holders[0]);
    owner.overlay.assert_separated();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_left_short_is_told() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    drop(mark_short(&owner, &[0]));
    for peer in owner.overlay.peer_keys() {
        owner.overlay.set_manner(&peer, Manner::Full);
    }
    for holder in owner.overlay.holders_of_slot(0) {
        owner.overlay.lose_shards(&holder);
    }
    let mut args = owner.backup_args();
    args.dry_run = true;
    let ran = owner.run(Verb::Backup(args)).await.expect(ExitCode::BelowTarget);
    assert!(ran.summary()["stripes_below_target"].as_u64() >= Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sequence_is_signed_twice() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 1 << 20));
    owner.overlay.keep_no_heads(true);
    owner.backup().await.expect(ExitCode::TooFewPeers);
    owner.overlay.keep_no_heads(false);
    owner.backup().await.expect(ExitCode::Success);
    let key = Vault::open(&owner.data, None).expect("opens").keys.vault_key();
    let head = owner.overlay.shared().find_head(key).await.expect("answers").expect("a head");
    assert_eq!(head.sequence, 2, "1 was signed by the run that failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_catalogue_is_no_empty_vault() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 1 << 20));
    owner.backup().await.expect(ExitCode::Success);
    std::fs::remove_dir_all(owner.data.join("vault/catalogue")).expect("removed");
    owner.overlay.lose_head();
    let ran = owner.backup().await.expect(ExitCode::Failed);
    assert!(ran.failure().hint.contains("cairn recover"), "{:?}", ran.failure());
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_does_not_go_back_behind_this_folder() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 1 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let catalogue = Vault::open(&owner.data, None).expect("opens").catalogue;
    let counters = catalogue.counters().expect("readable");
    catalogue
        .set_counters(super::super::catalogue::Counters { sequence: counters.sequence + 1, ..counters })
        .expect("written");
    catalogue.flush().expect("written");
    drop(catalogue);
    let ran = owner.recover().await.expect(ExitCode::Refused);
    assert_eq!(ran.failure().id, "OLDER_HEAD");
    std::fs::remove_dir_all(owner.data.join("vault/catalogue")).expect("removed");
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_cannot_name_is_refused_before_anything_is_sent() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 1 << 20));
    let args = owner.backup_args();
    let path = args.paths[0].clone();
    for args in [
        BackupArgs { paths: vec![path; 4097], ..args.clone() },
        BackupArgs { tags: vec!["t".to_owned(); 257], ..args.clone() },
        BackupArgs { tags: vec!["t".repeat(2000)], ..args.clone() },
        BackupArgs { host: Some("h".repeat(2000)), ..args },
    ] {
        owner.run(Verb::Backup(args)).await.expect(ExitCode::Usage);
    }
    assert_eq!(owner.overlay.take_sent(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_never_replaces_another_vault() {
    let text = |s: &str| Some(SecretText::new(s.to_owned()));
    let mut owner = Owner::new(24);
    owner.write("a", b"a");
    owner.backup().await.expect(ExitCode::Success);
    let recover = || Verb::Recover(RecoverArgs { phrase: owner.phrase.clone() });
    let other = owner.dir.path().join("other");
    Vault::init(&other, text("a").as_ref()).expect("a vault");
    let home = std::mem::replace(&mut owner.data, other);
    let recover = recover();
    for passphrase in [text("b"), None, text("a")] {
        let ran = owner.run_with(recover.clone(), passphrase, None, CancellationToken::new()).await;
        assert_eq!(ran.expect(ExitCode::Refused).failure().id, "OTHER_VAULT");
        Vault::open(&owner.data, text("a").as_ref()).expect("still there");
    }
    let _ = home;
    // The vault's own keyring: a new passphrase may be set, but none given is no wish to have none.
    owner.data = owner.dir.path().join("own");
    owner.run_with(recover.clone(), text("a"), None, CancellationToken::new()).await.expect(ExitCode::Success);
    owner.run_with(recover.clone(), None, None, CancellationToken::new()).await.expect(ExitCode::WrongSecret);
    Vault::open(&owner.data, text("a").as_ref()).expect("still there");
    owner.run_with(recover, text("b"), None, CancellationToken::new()).await.expect(ExitCode::Success);
    Vault::open(&owner.data, text("b").as_ref()).expect("the new one");
}
