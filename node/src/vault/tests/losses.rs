//! What is lost for good is told by each check, stored anew by the next backup, and forgotten when nothing needs it any more.

use std::collections::BTreeSet;

use super::{healing::lose, memory_overlay::Manner, *};
use crate::{
    ops::DumpArgs,
    vault::catalogue::{Catalogue, CommitRecord},
};

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
