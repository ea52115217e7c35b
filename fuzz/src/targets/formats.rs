//! Targets over what a vault writes for itself: trees, index segments, manifests, heads, runs. These layouts are
//! canonical, so whatever decodes must encode to the same bytes.

use cairn_core::pack;
use cairn_proto::{
    ChunkId, CodeParams, GroupId, PeerKey, ShardRoot, Slot, SnapshotId, StripeId, Timestamp, VaultKey,
    head::{FORMAT_VERSION, HeadContent, ProviderRow},
    index::{IndexSegment, RUN_RAW_MAX, RunCodec, RunPlace, RunRow, StripeNo, StripeRow},
    manifest::{EpochRow, GroupRow, Manifest, SnapshotRecord, SourceKind},
    record::{self, Change, KeptHead, Record, RecordKey, ShardHead, StateChange},
    tree::{self, ContentRef, FileTime, Node, NodeKind},
};

use super::Target;

pub(super) fn all() -> Vec<Target> {
    vec![
        Target { name: "tree-node", seeds: node_seeds, run: node },
        Target { name: "tree-chunk", seeds: tree_seeds, run: tree_chunk },
        Target { name: "content-list", seeds: || vec![vec![1; 64]], run: content_list },
        Target { name: "index-segment", seeds: segment_seeds, run: segment },
        Target { name: "manifest", seeds: manifest_seeds, run: manifest },
        Target { name: "snapshot-record", seeds: record_seeds, run: record },
        Target { name: "head-content", seeds: head_seeds, run: head },
        Target { name: "run", seeds: run_seeds, run },
        Target { name: "log-record", seeds: log_seeds, run: log_record },
    ]
}

fn nodes() -> Vec<Node> {
    let mut file = Node::new(b"data\xff.sql".to_vec(), NodeKind::File);
    file.mode = 0o100_644;
    file.user = Some("ada".into());
    file.mtime = FileTime { secs: -3, nanos: 999_999_999 };
    file.size = 1 << 33;
    file.xattrs = vec![(b"user.a".to_vec(), vec![1; 40]), (b"user.b".to_vec(), Vec::new())];
    file.hardlink = Some(7);
    file.holes = vec![(4096, 8192), (1 << 20, 1)];
    file.content = ContentRef { depth: 0, ids: vec![ChunkId::from_bytes([1; 32]), ChunkId::from_bytes([2; 32])] };
    let mut dir = Node::new(b"dir".to_vec(), NodeKind::Dir);
    dir.content = ContentRef { depth: 1, ids: vec![ChunkId::from_bytes([3; 32])] };
    let mut link = Node::new(b"link".to_vec(), NodeKind::Symlink);
    link.link_target = b"../../etc".to_vec();
    let mut device = Node::new(b"tty".to_vec(), NodeKind::CharDevice);
    device.rdev = 1025;
    vec![file, dir, link, device]
}

fn node_seeds() -> Vec<Vec<u8>> {
    nodes().iter().map(|n| n.encode().expect("valid")).collect()
}

fn node(bytes: &[u8]) {
    if let Ok(node) = Node::decode(bytes) {
        assert_eq!(node.encode().as_deref(), Ok(bytes));
        assert!(!node.name.contains(&b'/') && node.name != b".." && !node.name.is_empty());
    }
}

fn tree_seeds() -> Vec<Vec<u8>> {
    let mut writer = tree::TreeWriter::new();
    let mut chunks: Vec<_> = nodes().iter().filter_map(|n| writer.push(n).expect("valid")).collect();
    chunks.extend(writer.finish());
    chunks
}

fn tree_chunk(bytes: &[u8]) {
    let mut last: Option<Vec<u8>> = None;
    for node in tree::decode_nodes(bytes).map_while(Result::ok) {
        assert!(last.is_none_or(|last| last < node.name), "names ascend");
        last = Some(node.name);
    }
}

fn content_list(bytes: &[u8]) {
    if let Ok(ids) = tree::decode_list(bytes) {
        assert_eq!(ids.len() * 32, bytes.len());
    }
}

fn stripe_row(no: u64, used: u8) -> StripeRow {
    let real = |slot: u8| (slot < used || slot >= 5).then(|| ShardRoot::from_bytes([slot; 32]));
    StripeRow {
        no: StripeNo(no),
        group: 1,
        ordinal: no as u8,
        epoch: 1,
        stripe: StripeId::from_bytes([8; 32]),
        used,
        roots: (0..8).map(real).collect(),
    }
}

fn place(codec: RunCodec, stored_len: u32, raw_len: u32) -> RunPlace {
    RunPlace { stripe: StripeNo(1), offset: 100, stored_len, next: None, codec, raw_len }
}

fn segment_seeds() -> Vec<Vec<u8>> {
    let chunks = vec![(ChunkId::from_bytes([1; 32]), 60), (ChunkId::from_bytes([2; 32]), 40)];
    let run = RunRow { place: place(RunCodec::Zstd, 80, 100), chunks };
    let two = RunRow { place: RunPlace { next: Some(StripeNo(2)), ..run.place }, ..run.clone() };
    vec![
        IndexSegment { stripes: vec![stripe_row(1, 5), stripe_row(2, 1)], runs: vec![run, two] }
            .encode()
            .expect("valid"),
    ]
}

fn segment(bytes: &[u8]) {
    if let Ok(segment) = IndexSegment::decode(bytes) {
        assert_eq!(segment.encode().as_deref(), Ok(bytes));
        for row in &segment.runs {
            let _ = row.place.split(5 * 1_048_560);
            assert!(row.ranges().all(|(_, r)| r.end <= row.place.raw_len as usize));
        }
        for row in &segment.stripes {
            assert!(row.present().count() <= row.roots.len());
        }
    }
}

fn group_row() -> GroupRow {
    GroupRow {
        number: 1,
        salt: [5; 32],
        code: CodeParams::DEFAULT,
        colours: 9,
        holders: (0..8u8)
            .map(|slot| vec![PeerKey::from_bytes([slot; 32]), PeerKey::from_bytes([slot + 100; 32])])
            .collect(),
        stripes_used: 3,
        sealed: true,
    }
}

fn snapshot() -> SnapshotRecord {
    SnapshotRecord {
        time: Timestamp(1 << 40),
        hostname: "box".into(),
        username: "ada".into(),
        uid: 1000,
        gid: 1000,
        paths: vec![b"/home/\xff".to_vec()],
        tags: vec!["daily".into()],
        source: SourceKind::Files,
        root: ContentRef { depth: 0, ids: vec![ChunkId::from_bytes([1; 32])] },
        total_files: 3,
        total_bytes: 4,
        data_added: 5,
        program: "cairn 0.1.0".into(),
        parent: Some(SnapshotId::from_bytes([9; 32])),
    }
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let manifest = Manifest {
        groups: vec![group_row()],
        segments: vec![place(RunCodec::Raw, 100, 100)],
        snapshots: vec![(SnapshotId::from_bytes([3; 32]), snapshot())],
        next_stripe: StripeNo(4),
        next_group: 2,
        epochs: vec![EpochRow { number: 1, created: Timestamp(1 << 40) }],
    };
    vec![manifest.encode().expect("valid")]
}

fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode().as_deref(), Ok(bytes));
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    vec![snapshot().encode().expect("valid")]
}

fn record(bytes: &[u8]) {
    if let Ok(record) = SnapshotRecord::decode(bytes) {
        assert_eq!(record.encode().as_deref(), Ok(bytes));
    }
}

fn head_seeds() -> Vec<Vec<u8>> {
    let head = HeadContent {
        format: FORMAT_VERSION,
        sequence: 3,
        generation: 1,
        created: Timestamp(1 << 40),
        epoch: 1,
        groups: vec![group_row()],
        tail: vec![stripe_row(1, 2)],
        manifest: vec![place(RunCodec::Zstd, 80, 100)],
        providers: Vec::new(),
    };
    let leaning = HeadContent { providers: vec![ProviderRow { id: [7; 32], name: "nas".to_owned() }], ..head.clone() };
    vec![head.encode().expect("valid"), leaning.encode().expect("valid")]
}

fn head(bytes: &[u8]) {
    if let Ok(head) = HeadContent::decode(bytes) {
        assert_eq!(head.encode().as_deref(), Ok(bytes));
    }
}

/// Byte 0: codec; bytes 1..5: the length that the index claims; the rest: what is stored.
fn run_seeds() -> Vec<Vec<u8>> {
    let raw = pack::RawRun::blob(b"abcdefgh".repeat(5000)).expect("valid");
    let packed = pack::compress(raw);
    let mut seed = vec![packed.codec as u8];
    seed.extend_from_slice(&packed.raw_len.to_le_bytes());
    seed.extend_from_slice(&packed.stored);
    vec![seed]
}

fn run(bytes: &[u8]) {
    let Some((head, stored)) = bytes.split_first_chunk::<5>() else { return };
    let codec = if head[0] == 1 { RunCodec::Zstd } else { RunCodec::Raw };
    let raw_len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let claimed = place(codec, stored.len() as u32, raw_len);
    if let Ok(raw) = pack::read_run(&claimed, stored) {
        assert_eq!(raw.len(), raw_len as usize);
        assert!(raw.len() <= RUN_RAW_MAX as usize);
    }
}

const VOLUME: [u8; 32] = [7; 32];

fn log_records() -> Vec<Record> {
    let (group, slot) = (GroupId::from_bytes([1; 32]), Slot::new(3).expect("valid"));
    let (root, lease_until) = (ShardRoot::from_bytes([2; 32]), Timestamp(1 << 41));
    let state = StateChange {
        change: Change::Tombstone,
        group,
        slot,
        ordinal: 4,
        root,
        lease_until,
        at: Timestamp(1 << 40),
        segment: 5,
    };
    vec![
        Record::Segment { number: 9 },
        Record::Space { length: 192 },
        Record::Shard(ShardHead {
            group,
            slot,
            ordinal: 4,
            root,
            lease_until,
            stored_at: Timestamp(1 << 40),
            blocks: [6; record::BLOCKS],
        }),
        Record::Ledger { group, slot },
        Record::State(state),
        Record::Head(KeptHead {
            vault: VaultKey::from_bytes([8; 32]),
            generation: 1,
            sequence: 2,
            bytes: vec![3; 500],
        }),
    ]
}

fn log_seeds() -> Vec<Vec<u8>> {
    log_records().iter().map(|r| r.encode(&RecordKey::of_volume(&VOLUME))).collect()
}

fn log_record(bytes: &[u8]) {
    let key = RecordKey::of_volume(&VOLUME);
    // As a stranger's shard would be: without the store's key nothing but a true record passes.
    if let Ok((record, length)) = Record::decode(bytes, &key) {
        assert!(log_records().contains(&record), "a forged record passed");
        assert_eq!(record.encode(&key), bytes[..length]);
    }
    // As damage that happens to check out would be: the body's own rules.
    let Some(body_len) = bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize) else {
        return;
    };
    let end = record::FIXED.saturating_add(body_len);
    if body_len > record::BODY_MAX || bytes.len() < end {
        return;
    }
    let mut sealed = bytes.to_vec();
    let mut check = blake3::Hasher::new_keyed(&blake3::derive_key("cairn 2026-11 store record check v1", &VOLUME));
    check.update(&sealed[..16]).update(&sealed[record::FIXED..end]);
    sealed[16..32].copy_from_slice(&check.finalize().as_bytes()[..16]);
    if let Ok((record, length)) = Record::decode(&sealed, &key) {
        assert_eq!(record.encode(&key), sealed[..length]);
    }
}
