//! Contents whose list of chunks is longer than anybody should hold.

use cairn_proto::{
    ChunkId, SnapshotId, Timestamp,
    manifest::{SnapshotRecord, SourceKind},
    tree::{ContentRef, LIST_IDS_MAX, Node, NodeKind, TreeWriter},
};

use super::*;
use crate::{
    ops::DumpArgs,
    vault::{
        catalogue::CommitRecord,
        content_ids::{ContentIds, IDS_HELD_MAX},
        reader::Reader,
    },
};

/// A vault that has these bytes as chunks. Each is a file of its own, small enough to be one chunk.
async fn keep(owner: &Owner, files: &[(&str, Vec<u8>)]) -> Vec<ChunkId> {
    for (name, bytes) in files {
        assert!(bytes.len() <= 256 << 10, "the smallest chunk of a file");
        owner.write(name, bytes);
    }
    owner.backup().await.expect(ExitCode::Success);
    let vault = Vault::open(&owner.data, None).expect("opens");
    let ids: Vec<_> = files.iter().map(|(_, bytes)| vault.keys.chunk_id(bytes)).collect();
    assert!(ids.iter().all(|id| vault.catalogue.has_chunk(id).expect("readable")));
    ids
}

fn list(ids: &[ChunkId]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

/// 64 lists of 8,192 ids below one list: 524,288 chunks, of which two are different.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_holds_one_list_of_each_level() {
    let owner = Owner::new(24);
    let ids = keep(&owner, &[("one", b"1".to_vec()), ("two", b"2".to_vec())]).await;
    let below = [vec![ids[0]; LIST_IDS_MAX - 1], vec![ids[1]]].concat();
    let lists = keep(&owner, &[("list", list(&below))]).await;
    let top = keep(&owner, &[("top", list(&[lists[0]; 64]))]).await;

    let vault = Vault::open(&owner.data, None).expect("opens");
    let reader = Reader::new(vault.keys.clone(), owner.overlay.shared(), Some(vault.catalogue.clone()));
    let mut walk = ContentIds::new(&ContentRef { depth: 2, ids: top });
    let (mut count, mut held) = (0, 0);
    while let Some(id) = walk.next(&reader).await {
        let last_of_list = count % LIST_IDS_MAX == LIST_IDS_MAX - 1;
        assert_eq!(id.expect("readable"), ids[usize::from(last_of_list)], "chunk {count}");
        held = held.max(walk.held());
        count += 1;
    }
    assert_eq!(count, 64 * LIST_IDS_MAX);
    // Far below the bound, which is for four levels of full lists.
    const { assert!(64 + LIST_IDS_MAX <= IDS_HELD_MAX) };
    assert!(held <= 64 + LIST_IDS_MAX, "{held} ids held");
}

/// Dump and restore follow the lists; a list that cannot be had costs its file and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_lists_is_dumped_and_restored() {
    let owner = Owner::new(24);
    let ids = keep(&owner, &[("one", b"1".to_vec()), ("two", b"2".to_vec())]).await;
    let below = [vec![ids[0]; LIST_IDS_MAX - 1], vec![ids[1]]].concat();
    let lists = keep(&owner, &[("list", list(&below))]).await;
    let long = Node {
        mode: 0o600,
        size: 3 * LIST_IDS_MAX as u64,
        content: ContentRef { depth: 1, ids: vec![lists[0]; 3] },
        ..Node::new(b"long".to_vec(), NodeKind::File)
    };
    let gone = Node {
        name: b"unknown".to_vec(),
        content: ContentRef { depth: 1, ids: vec![ChunkId::from_bytes([7; 32])] },
        ..long.clone()
    };
    let mut tree = TreeWriter::default();
    assert!(tree.push(&long).expect("a node").is_none() && tree.push(&gone).expect("a node").is_none());
    let root = keep(&owner, &[("tree", tree.finish().expect("one chunk"))]).await;
    let record = SnapshotRecord {
        time: Timestamp(u64::MAX >> 16),
        hostname: "h".to_owned(),
        username: "u".to_owned(),
        uid: 0,
        gid: 0,
        paths: vec![b"/long".to_vec()],
        tags: Vec::new(),
        source: SourceKind::Files,
        root: ContentRef { depth: 0, ids: root },
        total_files: 1,
        total_bytes: long.size,
        data_added: 0,
        program: "test".to_owned(),
        parent: None,
    };
    {
        let vault = Vault::open(&owner.data, None).expect("opens");
        let segments = vault.catalogue.segments().expect("readable");
        let snapshots = [(SnapshotId::from_bytes([9; 32]), record)];
        let commit = CommitRecord { snapshots: &snapshots, segments: &segments, ..CommitRecord::default() };
        vault.catalogue.finish_commit(&commit).expect("written");
    }
    let expected: Vec<u8> = [vec![b'1'; LIST_IDS_MAX - 1], vec![b'2']].concat().repeat(3);
    let args = DumpArgs { snapshot: "latest".to_owned(), path: "/long".to_owned() };
    let ran = owner.run(Verb::Dump(args)).await.expect(ExitCode::Success);
    assert!(ran.output == expected);
    let ran = owner.restore("out").await.expect(ExitCode::Partial);
    assert!(std::fs::read(owner.dir.path().join("out/long")).expect("there") == expected);
    assert!(!owner.dir.path().join("out/unknown").exists());
    assert!(ran.errors().iter().any(|e| e.item.ends_with("/unknown")), "{:?}", ran.errors());
}
