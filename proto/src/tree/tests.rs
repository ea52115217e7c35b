use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::ChunkId;

fn id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId::from_bytes)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("not in a name", |b| !matches!(b, b'/' | 0 | b'.')), 1..40)
}

fn time() -> impl Strategy<Value = FileTime> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| FileTime { secs, nanos })
}

fn content() -> impl Strategy<Value = ContentRef> {
    (0u8..=LIST_DEPTH_MAX, vec(id(), 1..5)).prop_map(|(depth, ids)| ContentRef { depth, ids })
}

prop_compose! {
    fn file()(
        name in name(),
        numbers in any::<[u32; 3]>(),
        owners in option::of("[a-zé]{0,20}"),
        times in (time(), time()),
        wide in any::<[u64; 3]>(),
        xattrs in proptest::collection::btree_map(vec(1u8..255, 1..20), vec(any::<u8>(), 0..60), 0..4),
        hardlink in option::of(any::<u64>()),
        gaps in vec((1u64..1000, 1u64..1000), 0..5),
        content in content(),
    ) -> Node {
        let mut holes = Vec::new();
        let mut end = 0;
        for (gap, length) in gaps {
            holes.push((end + gap, length));
            end += gap + length;
        }
        Node {
            mode: numbers[0], uid: numbers[1], gid: numbers[2], user: owners.clone(), group: owners,
            mtime: times.0, ctime: times.1, size: end + wide[0] % 1_000_000, inode: wide[1], device_id: wide[2],
            links: wide[0], xattrs: xattrs.into_iter().collect(), hardlink, holes, content,
            ..Node::new(name, NodeKind::File)
        }
    }
}

proptest! {
    #[test]
    fn nodes_round_trip(node in file()) {
        let bytes = node.encode()?;
        prop_assert_eq!(Node::decode(&bytes), Ok(node));
    }

    #[test]
    fn a_node_that_decodes_has_one_encoding(node in file(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = node.encode()?;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Node::decode(&bytes) {
            prop_assert_eq!(other.encode()?, bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Node::decode(&bytes);
        let _ = decode_list(&bytes);
        prop_assert!(decode_nodes(&bytes).count() <= bytes.len());
    }

    #[test]
    fn folders_round_trip(nodes in vec(file(), 0..30)) {
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
        let mut writer = TreeWriter::new();
        let mut chunks = Vec::new();
        for node in nodes.values() {
            chunks.extend(writer.push(node)?);
        }
        chunks.extend(writer.finish());
        let back: Result<Vec<_>, _> = chunks.iter().flat_map(|c| decode_nodes(c)).collect();
        prop_assert_eq!(back?, nodes.into_values().collect::<Vec<_>>());
    }
}

fn big_folder(changed: Option<usize>) -> Vec<Vec<u8>> {
    let mut writer = TreeWriter::new();
    let mut chunks = Vec::new();
    for i in 0..20_000 {
        let mut node = Node::new(format!("file-{i:06}").into_bytes(), NodeKind::File);
        node.content.ids.push(ChunkId::from_bytes([7; 32]));
        node.mtime.secs = i64::from(changed == Some(i));
        chunks.extend(writer.push(&node).expect("valid"));
    }
    chunks.extend(writer.finish());
    chunks
}

#[test]
fn a_changed_entry_changes_its_own_chunk_only() {
    let (before, after) = (big_folder(None), big_folder(Some(7000)));
    assert!(before.iter().all(|c| c.len() <= TREE_CHUNK_MAX));
    let mean = before.iter().map(Vec::len).sum::<usize>() / before.len();
    assert!((40_000..120_000).contains(&mean), "mean chunk {mean}");
    let changed = after.iter().filter(|c| !before.contains(c)).count();
    assert_eq!(changed, 1);
}

#[test]
fn hostile_names_and_fields_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; NAME_MAX + 1]] {
        assert!(Node::new(name.to_vec(), NodeKind::File).encode().is_err());
    }
    let good = Node { size: 100, ..Node::new(b"a".to_vec(), NodeKind::File) };
    let refused = |change: fn(&mut Node)| {
        let mut node = good.clone();
        change(&mut node);
        assert!(node.encode().is_err(), "{node:?}");
    };
    refused(|n| n.mtime.nanos = 1_000_000_000);
    refused(|n| n.link_target = b"x".to_vec());
    refused(|n| n.xattrs = vec![(b"a".to_vec(), vec![]), (b"a".to_vec(), vec![])]);
    refused(|n| n.xattrs = vec![(b"".to_vec(), vec![])]);
    refused(|n| n.xattrs = vec![(b"a".to_vec(), vec![0; XATTRS_MAX])]);
    refused(|n| n.holes = vec![(0, 101)]);
    refused(|n| n.holes = vec![(0, 0)]);
    refused(|n| n.holes = vec![(0, 10), (10, 5)]);
    refused(|n| n.holes = vec![(u64::MAX, 2)]);
    refused(|n| n.content.depth = 5);
    refused(|n| n.content.ids = vec![ChunkId::from_bytes([0; 32]); INLINE_IDS_MAX + 1]);
    refused(|n| {
        n.kind = NodeKind::Fifo;
        n.content.ids = vec![ChunkId::from_bytes([0; 32])];
    });
}

#[test]
fn names_out_of_order_are_refused() {
    let node = |name: &[u8]| Node::new(name.to_vec(), NodeKind::File);
    let mut writer = TreeWriter::new();
    assert!(writer.push(&node(b"b")).is_ok());
    assert!(writer.push(&node(b"b")).is_err());
    assert!(writer.push(&node(b"a")).is_err());
    let mut chunk = Vec::new();
    for name in [b"b", b"a"] {
        put_bytes(&mut chunk, &node(name).encode().expect("valid"));
    }
    let read: Vec<_> = decode_nodes(&chunk).collect();
    assert!(matches!(&read[..], [Ok(_), Err(_)]));
}

/// Lists and reads back a content of `count` chunks; returns its reference and the list chunks made.
fn list(ids: &[ChunkId]) -> (ContentRef, BTreeMap<ChunkId, Vec<u8>>) {
    let mut kept = BTreeMap::new();
    let mut keep = |bytes: Vec<u8>| {
        let id = ChunkId::from_bytes(*blake3::hash(&bytes).as_bytes());
        kept.insert(id, bytes);
        Ok::<_, DecodeError>(id)
    };
    let mut builder = ListBuilder::new();
    for id in ids {
        builder.push(*id, &mut keep).expect("in bounds");
    }
    (builder.finish(&mut keep).expect("in bounds"), kept)
}

fn numbered(count: usize) -> Vec<ChunkId> {
    (0..count as u64).map(|i| ChunkId::from_bytes(*blake3::hash(&i.to_le_bytes()).as_bytes())).collect()
}

#[test]
fn contents_of_any_length_are_listed() {
    for (count, depth) in [(0, 0), (1, 0), (256, 0), (257, 1), (8192, 1), (8193, 1), (300_000, 1), (1_600_000, 2)] {
        let ids = numbered(count);
        let (content, kept) = list(&ids);
        assert_eq!(content.depth, depth, "{count}");
        content.check().expect("valid");
        let mut level = content.ids;
        for _ in 0..content.depth {
            level = level.iter().flat_map(|id| decode_list(&kept[id]).expect("valid")).collect();
        }
        assert_eq!(level, ids, "{count}");
    }
}

#[test]
fn an_insertion_changes_few_lists() {
    let mut ids = numbered(100_000);
    let (_, before) = list(&ids);
    ids.insert(50_000, ChunkId::from_bytes([1; 32]));
    let (_, after) = list(&ids);
    assert!(after.keys().filter(|id| !before.contains_key(id)).count() <= 3);
}

#[test]
fn list_chunks_are_bounded() {
    assert!(decode_list(&[]).is_err());
    assert!(decode_list(&[0; 33]).is_err());
    assert!(decode_list(&vec![0; LIST_IDS_MAX * 32]).is_ok());
    assert!(decode_list(&vec![0; (LIST_IDS_MAX + 1) * 32]).is_err());
}
