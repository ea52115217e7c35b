//! What holders lost comes back, and what cannot come back is told: never a green exit over a hole.

use std::collections::BTreeSet;

use cairn_core::placement;
use cairn_proto::{PeerKey, manifest::HOLDERS_MAX};

use super::{memory_overlay::Manner, *};
use crate::{
    ops::DumpArgs,
    vault::catalogue::{Catalogue, CommitRecord},
};

/// Every holder of these slots loses all that it has, and stays.
fn lose(owner: &Owner, slots: std::ops::Range<u8>) {
    for holder in slots.flat_map(|slot| owner.overlay.holders_of_slot(slot)) {
        owner.overlay.lose_shards(&holder);
    }
}

fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_missed_is_filled_by_the_next_backup() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    lose(&owner, 0..3);
    owner.check(false).await.expect(ExitCode::Damage);
    let stripes = catalogue(&owner).stripes().count();
    assert_eq!(catalogue(&owner).shortfalls().expect("readable").len(), stripes, "each is noted");
    owner.backup().await.expect(ExitCode::Success);
    owner.check(true).await.expect(ExitCode::Success);
    lose(&owner, 3..6);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_asks_by_itself_what_is_missing() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    lose(&owner, 0..3);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.summary()["stripes_completed"].as_u64() >= Some(1), "{}", ran.summary());
    owner.check(true).await.expect(ExitCode::Success);
    // Four at once are more than anybody can fill: that is said, and goes away when they come back.
    let gone: BTreeSet<PeerKey> = (0..4).flat_map(|slot| owner.overlay.holders_of_slot(slot)).collect();
    gone.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Dead));
    owner.backup().await.expect(ExitCode::BelowTarget);
    gone.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    owner.backup().await.expect(ExitCode::Success);
    owner.check(true).await.expect(ExitCode::Success);
    owner.overlay.assert_separated();
}

/// A note that no question brings back: the holder says that it has the shard, which was read and was wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_that_was_lost_for_a_while_keeps_its_note() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay.holders_of_slot(0).iter().for_each(|peer| owner.overlay.rot(peer));
    owner.check(true).await.expect(ExitCode::Damage);
    let noted = catalogue(&owner).short().expect("readable");
    assert!(!noted.is_empty());
    let away: BTreeSet<PeerKey> = (5..8).chain([0]).flat_map(|slot| owner.overlay.holders_of_slot(slot)).collect();
    away.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Dead));
    owner.check(false).await.expect(ExitCode::Lost);
    assert!(catalogue(&owner).short().expect("readable").is_empty(), "nothing can be done about it now");
    away.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    owner.check(false).await.expect(ExitCode::Success);
    assert_eq!(catalogue(&owner).short().expect("readable"), noted);
}

/// A liar says that it has the shard, and takes it again gladly.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_read_wrong_goes_to_somebody_else() {
    let owner = Owner::new(60);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let liars = owner.overlay.holders_of_slot(0);
    liars.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Liar));
    owner.check(true).await.expect(ExitCode::Damage);
    let code = owner.backup().await.code();
    let honest = owner.overlay.holders_of_slot(0).into_iter().filter(|peer| !liars.contains(peer)).count();
    // Whether somebody else has the colour is the salt's choice; a liar alone is no success.
    assert_eq!(code == ExitCode::Success, honest >= liars.len(), "{code:?}, {honest} honest");
    assert!(honest > 0 || code == ExitCode::BelowTarget, "{code:?}");
    owner.overlay.assert_separated();
}

/// Puts four holders that nobody knows into a slot of every group.
pub(super) fn forget_holders(owner: &Owner, slot: u8) {
    let catalogue = catalogue(owner);
    for row in catalogue.groups().collect::<Result<Vec<_>, _>>().expect("readable") {
        let mut row = row;
        row.sealed = true;
        row.holders[usize::from(slot)] =
            (0..HOLDERS_MAX as u8).map(|at| PeerKey::from_bytes([0xd0 + at; 32])).collect();
        catalogue.set_group(&row).expect("written");
    }
    lose(owner, slot..slot + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_holders_all_went_is_given_to_others() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    forget_holders(&owner, 0);
    owner.backup().await.expect(ExitCode::Success);
    owner.check(true).await.expect(ExitCode::Success);
    let rows = catalogue(&owner).groups().collect::<Result<Vec<_>, _>>().expect("readable");
    assert!(rows.iter().flat_map(|row| &row.holders).all(|slot| slot.len() <= HOLDERS_MAX));
}

/// Who holds what stands in the manifest, so a repair is only worth something when a head follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_reaches_the_network_without_a_snapshot() {
    let mut owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    forget_holders(&owner, 0);
    let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
    let ran = owner.run(Verb::Backup(args)).await.expect(ExitCode::NothingToDo);
    assert!(ran.summary()["stripes_completed"].as_u64() >= Some(1), "{}", ran.summary());
    let here = catalogue(&owner).group(1).expect("readable").expect("there");
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    let there = catalogue(&owner).group(1).expect("readable").expect("there");
    assert_eq!(here.holders, there.holders);
    owner.check(true).await.expect(ExitCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_that_never_took_a_shard_do_not_use_up_a_slot() {
    let owner = Owner::new(90);
    let peers = owner.overlay.shared().peers(true).await.expect("known");
    let keys = Vault::open(&owner.data, None).expect("opens").keys;
    let me = placement::Owner { peer: owner.overlay.shared().me(), domain: owner.overlay.shared().my_domain() };
    let groups = groups_of(keys, me, peers, 1);
    let place = groups.take_place(None).expect("a place");
    // The slot with the most peers: ninety in nine colours are more than five somewhere.
    let mut best = 0;
    for slot in 0..8 {
        let mut tried = BTreeSet::new();
        while let Some(peer) = groups.next_holder(place.group, slot, &tried) {
            tried.insert(peer);
            groups.peer_failed(peer);
        }
        best = best.max(tried.len());
    }
    assert!(best > HOLDERS_MAX, "{best} were offered it");
    let row = groups.current(place.group).expect("a row");
    assert!(row.holders.iter().all(|slot| slot.len() <= HOLDERS_MAX));
}

/// The first snapshot's four slots are gone with its index; the second lives.
async fn with_a_lost_segment() -> Owner {
    let mut owner = Owner::new(24);
    owner.write("doomed", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    // The index lies in the last slots.
    let doomed: Vec<_> = (1..5).flat_map(|slot| owner.overlay.holders_of_slot(slot)).collect();
    doomed.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Dead));
    owner.write("fine", &noise(2, 9 << 20));
    owner.backup().await.expect(ExitCode::BelowTarget);
    owner.data = owner.dir.path().join("blank");
    owner
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_segment_costs_what_it_had_and_nothing_else() {
    let owner = with_a_lost_segment().await;
    let ran = owner.recover().await.expect(ExitCode::Lost);
    assert_eq!(ran.summary()["index_segments_lost"], 1, "{}", ran.summary());
    assert_eq!(ran.errors().len(), 1, "{:?}", ran.errors());
    let path = encode_path(&owner.source.join("fine"));
    let ran = owner.run(Verb::Dump(DumpArgs { snapshot: "latest".to_owned(), path })).await.expect(ExitCode::Success);
    assert!(ran.output == noise(2, 9 << 20));
    owner.check(false).await.expect(ExitCode::Lost);
    // What the lost one had is not known, so it is stored anew.
    owner.backup().await;
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.recover().await.expect(ExitCode::Lost);
    owner.restore("out2").await.expect(ExitCode::Success);
    owner.assert_same("out2");
}

/// A segment that could not be read is not given up: when its holders come back, so does what it had.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_segment_that_comes_back_is_read() {
    let owner = with_a_lost_segment().await;
    owner.recover().await.expect(ExitCode::Lost);
    owner.check(false).await.expect(ExitCode::Lost);
    owner.write("more", &noise(3, 1 << 20));
    owner.backup().await;
    owner.check(false).await;
    owner.backup().await;
    owner.overlay.peer_keys().iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.check(true).await.expect(ExitCode::Success);
}

/// What can never be had again is told by every check, and costs no backup its speed.
#[tokio::test(flavor = "multi_thread")]
async fn old_losses_are_told_and_files_behind_lists_are_read_once() {
    use cairn_proto::{
        ChunkId,
        index::StripeNo,
        tree::{ContentRef, Node, NodeKind},
    };
    let owner = Owner::new(24);
    owner.write("doomed", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    std::fs::remove_file(owner.source.join("doomed")).expect("removed");
    owner.write("small", b"small");
    lose(&owner, 0..4);
    owner.check(false).await.expect(ExitCode::Lost);
    owner.backup().await.expect(ExitCode::Success);
    owner.check(false).await.expect(ExitCode::Lost);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.summary()["stripes_lost"].as_u64() >= Some(1), "{}", ran.summary());
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");

    let vault = Vault::open(&owner.data, None).expect("opens");
    let ingest = ingest(&vault, crate::vault::ingest::Out::Nowhere);
    assert!(!ingest.lost().is_empty());
    let content = ContentRef { depth: 1, ids: vec![vault.keys.chunk_id(b"small")] };
    assert!(ingest.has_content(&content).expect("readable"), "its list lives");
    let gone = ContentRef { depth: 1, ids: vec![ChunkId::from_bytes([7; 32])] };
    assert!(!ingest.has_content(&gone).expect("readable"));
    let file = Node { content, ..Node::new(b"f".to_vec(), NodeKind::File) };
    let plain = Node::new(b"f".to_vec(), NodeKind::File);
    let files = [([1; 32], file.encode().expect("valid")), ([2; 32], plain.encode().expect("valid"))];
    vault.catalogue.set_files(&files).expect("written");
    let mut lost = vault.catalogue.lost().expect("readable");
    vault.catalogue.set_lost(&lost).expect("written");
    assert!(vault.catalogue.file(&[1; 32]).expect("readable").is_some(), "nothing new is lost");
    lost.insert(StripeNo(1 << 40));
    vault.catalogue.set_lost(&lost).expect("written");
    assert!(vault.catalogue.file(&[1; 32]).expect("readable").is_none(), "a chunk behind its list may be lost");
    assert!(vault.catalogue.file(&[2; 32]).expect("readable").is_some());
}

fn ingest(vault: &Vault, out: crate::vault::ingest::Out) -> crate::vault::ingest::Ingest {
    crate::vault::ingest::Ingest::new(
        vault.keys.clone(),
        vault.catalogue.clone(),
        cairn_proto::CodeParams::new(5, 3).expect("valid"),
        cairn_core::chunking::ChunkProfile::Files,
        cairn_core::pack::StripeNumbers::from_next(cairn_proto::index::StripeNo(1)),
        out,
        std::sync::Arc::default(),
    )
    .expect("an ingest")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_known_before_anything_is_in_it() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 40 << 20));
    let cancel = CancellationToken::new();
    owner.overlay.cancel_after(1, cancel.clone());
    owner.overlay.stall_then(true);
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
    owner.overlay.stall_then(false);
    assert_eq!(catalogue(&owner).stripes().count(), 0, "one shard is no stripe");
    assert!(owner.overlay.shard_count() > 0);
    owner.backup().await.expect(ExitCode::Success);
    assert_eq!(owner.overlay.occupied(), 0, "no ordinal was given out twice");
}

/// sled puts what does not fit into a page into files that it never syncs.
#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_too_large_for_a_page() {
    use crate::vault::catalogue::StripeRecord;
    use cairn_core::{chunking::ChunkProfile, pack::RunBuilder};
    use cairn_proto::{
        ChunkId, SnapshotId, Timestamp,
        index::{RunCodec, RunPlace, RunRow, StripeNo},
        manifest::{PATHS_MAX, SnapshotRecord, SourceKind},
        tree::ContentRef,
    };
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("catalogue");
    let catalogue = Catalogue::open(&path, &cairn_proto::VaultKey::from_bytes([1; 32])).expect("opens");
    let mut builder = RunBuilder::new(ChunkProfile::Files);
    let id = |n: u32| ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let mut raw: Vec<_> = (0..12_000u32).filter_map(|n| builder.push(id(n), &[1]).expect("fits")).collect();
    raw.extend(builder.finish());
    let place = |at: u32, raw_len: usize| RunPlace {
        stripe: StripeNo(1),
        offset: at,
        stored_len: 1,
        next: None,
        codec: RunCodec::Zstd,
        raw_len: raw_len as u32,
    };
    let runs: Vec<_> = raw
        .into_iter()
        .zip(0u32..)
        .map(|(run, at)| RunRow { place: place(at, run.chunks.len()), chunks: run.chunks })
        .collect();
    let record = SnapshotRecord {
        time: Timestamp(1),
        hostname: "h".to_owned(),
        username: "u".to_owned(),
        uid: 1,
        gid: 1,
        paths: (0..PATHS_MAX).map(|n| format!("/some/where/{n}").into_bytes()).collect(),
        tags: Vec::new(),
        source: SourceKind::Files,
        root: ContentRef::empty(),
        total_files: 1,
        total_bytes: 1,
        data_added: 1,
        program: "p".to_owned(),
        parent: None,
    };
    let snapshots: Vec<_> = (0..20u8).map(|n| (SnapshotId::from_bytes([n; 32]), record.clone())).collect();
    let segments: Vec<_> = (0..20_000).map(|at| place(at, 1)).collect();
    for _ in 0..20 {
        catalogue.record_stripe(&StripeRecord { runs: runs.clone(), ..StripeRecord::default() }).expect("written");
        catalogue.set_files(&[([1; 32], vec![7; 40_000])]).expect("written");
        let commit = CommitRecord { snapshots: &snapshots, segments: &segments, ..CommitRecord::default() };
        catalogue.finish_commit(&commit).expect("written");
    }
    let blobs = std::fs::read_dir(path.join("blobs")).expect("there").count();
    assert_eq!(blobs, 0);
    assert_eq!(catalogue.segments().expect("readable"), segments);
    assert_eq!(catalogue.snapshots().expect("readable"), snapshots);
    assert_eq!(catalogue.runs().count(), runs.len());
    let fewer = CommitRecord { segments: &segments[..3], ..CommitRecord::default() };
    catalogue.finish_commit(&fewer).expect("written");
    assert_eq!(catalogue.segments().expect("readable"), segments[..3]);
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

/// That everything recorded leaves it is asserted by each commit.
#[test]
fn a_chunk_is_kept_once_on_its_way_and_when_it_arrived() {
    use crate::vault::{
        catalogue::StripeRecord,
        ingest::{Lane, Out},
    };
    let owner = Owner::new(1);
    let vault = Vault::open(&owner.data, None).expect("opens");
    let (sender, _receiver) = mpsc::channel(1);
    let under_way = std::sync::Arc::default();
    let mut ingest = ingest(&vault, Out::Senders(sender)).sharing(std::sync::Arc::clone(&under_way));
    let mut keep = |n: u128| {
        ingest.keep(Lane::Data, &n.to_le_bytes()).expect("kept");
        ingest.bytes_added() / 16
    };
    for n in 0..20_000 {
        assert_eq!(keep(n), n as u64 + 1);
        assert_eq!(keep(n / 2), n as u64 + 1);
    }
    assert_eq!(under_way.len(), 20_000);
    ingest.settle().expect("placed");
    let runs = ingest.open_rows();
    let record = StripeRecord { runs, ..StripeRecord::default() };
    vault.catalogue.record_stripe(&record).expect("written");
    under_way.arrived(&record.runs);
    assert_eq!(under_way.len(), 0);
    let mut keep = |n: u128| {
        ingest.keep(Lane::Data, &n.to_le_bytes()).expect("kept");
        ingest.bytes_added() / 16
    };
    assert!((0..20_000).all(|n| keep(n) == 20_000));
    assert_eq!(keep(20_000), 20_001);
}

/// However many they are: nobody else can find them once a manifest does not name them any more.
#[test]
fn no_unread_segment_is_given_up_when_the_index_is_written_anew() {
    use cairn_proto::index::{RunCodec, RunPlace, StripeNo};
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("c");
    let catalogue = Catalogue::open(&path, &cairn_proto::VaultKey::from_bytes([1; 32])).expect("opens");
    let place = |no: u64| {
        let (stripe, codec) = (StripeNo(no), RunCodec::Zstd);
        RunPlace { stripe, offset: 1 << 20, stored_len: 1 << 20, next: Some(StripeNo(no + 1)), codec, raw_len: 1 << 20 }
    };
    let segments: Vec<_> = (1..=2_000).map(|no| place(2 * no)).collect();
    let commit = CommitRecord { segments: &segments, ..CommitRecord::default() };
    catalogue.finish_commit(&commit).expect("written");
    let unread = &segments[..1_500];
    catalogue.set_unread_segments(&[unread, &[place(9_001)]].concat()).expect("written");
    assert_eq!(catalogue.unread_segments().expect("readable"), unread, "all that the index names, and no more");
    // One that was read is lost: the others are written anew, the unread ones stay.
    catalogue.set_lost(&[segments[1_700].stripe, segments[3].stripe].into()).expect("written");
    assert_eq!(catalogue.living_segments().expect("readable"), unread);
    assert_eq!(std::fs::read_dir(path.join("blobs")).expect("there").count(), 0);
    catalogue.set_unread_segments(&[]).expect("written");
    assert!(catalogue.unread_segments().expect("readable").is_empty());
}

#[test]
fn a_lost_stripe_is_forgotten_when_nothing_needs_it() {
    use crate::vault::catalogue::{Counters, StripeRecord};
    use cairn_proto::{
        ChunkId, ShardRoot, StripeId,
        index::{RunCodec, RunPlace, RunRow, StripeNo, StripeRow},
    };
    let dir = tempfile::tempdir().expect("temp dir");
    let catalogue = Catalogue::open(&dir.path().join("c"), &cairn_proto::VaultKey::from_bytes([1; 32])).expect("opens");
    let id = |n: u8| ChunkId::from_bytes([n; 32]);
    let store = |no: u64, chunks: &[u8]| {
        let row = StripeRow {
            no: StripeNo(no),
            group: 1,
            ordinal: no as u8,
            epoch: 1,
            stripe: StripeId::from_bytes([no as u8; 32]),
            used: 1,
            roots: (0..3).map(|at| (at != 1).then_some(ShardRoot::from_bytes([at; 32]))).collect(),
        };
        let place = RunPlace {
            stripe: StripeNo(no),
            offset: 0,
            stored_len: chunks.len() as u32,
            next: None,
            codec: RunCodec::Raw,
            raw_len: chunks.len() as u32,
        };
        let runs = vec![RunRow { place, chunks: chunks.iter().map(|n| (id(*n), 1)).collect() }];
        let record = StripeRecord { row: Some(row), runs, pending: true, ..StripeRecord::default() };
        catalogue.record_stripe(&record).expect("written");
        place
    };
    let lost = |numbers: &[u64]| numbers.iter().map(|no| StripeNo(*no)).collect::<BTreeSet<_>>();
    store(1, &[1, 2]);
    store(2, &[3, 4]);
    let segment = store(3, &[5]);
    store(4, &[1, 2, 3, 5]);
    catalogue.set_shortfall(StripeNo(1), &[2]).expect("written");
    let counters = Counters { generation: 1, sequence: 1, next_stripe: 4, next_group: 2 };
    let commit = CommitRecord { segments: &[segment], counters: Some(counters), ..CommitRecord::default() };
    catalogue.finish_commit(&commit).expect("written");
    catalogue.set_lost(&lost(&[1, 2, 3])).expect("written");
    assert!(catalogue.short().expect("readable").is_empty(), "what is lost is not completed");
    assert_eq!(catalogue.shortfalls().expect("readable"), [(StripeNo(1), vec![2])], "nor forgotten");
    catalogue.set_lost(&lost(&[2, 3])).expect("written");
    assert_eq!(catalogue.short().expect("readable"), [(StripeNo(1), vec![2])], "it may come back");
    catalogue.set_lost(&lost(&[1, 2, 3])).expect("written");
    assert!(catalogue.index_is_lost().expect("readable"));
    // Chunk 4 has no other place, and the index segment has none.
    assert_eq!(catalogue.retire_lost().expect("written"), lost(&[2, 3]));
    assert!(catalogue.shortfalls().expect("readable").is_empty(), "what nobody needs lacks nothing");
    catalogue.finish_commit(&CommitRecord::default()).expect("written");
    assert_eq!(catalogue.retire_lost().expect("written"), lost(&[2]));
    let left: Vec<u64> = catalogue.stripes().map(|row| row.expect("readable").no.0).collect();
    assert_eq!(left, [2, 4]);
    let (stripes, runs, _) = catalogue.pending(usize::MAX).expect("whole");
    assert_eq!((stripes.len(), runs.len()), (2, 2));
    for n in [1, 2, 3, 5] {
        assert_eq!(catalogue.find_chunk(&id(n)).expect("readable").expect("there").place.stripe, StripeNo(4));
    }
    // A number that no head knows as used stays taken.
    catalogue.set_lost(&lost(&[4])).expect("written");
    for n in [1, 2, 3, 5] {
        assert!(catalogue.has_chunk(&id(n)).expect("readable"));
    }
    assert_eq!(catalogue.retire_lost().expect("written"), lost(&[4]));
    catalogue.verify().expect("sums and rows agree");
}
