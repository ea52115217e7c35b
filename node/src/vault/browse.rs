//! Looking at snapshots: list, ls, find, diff, dump.

use std::sync::Arc;

use cairn_proto::{
    SnapshotId,
    manifest::SnapshotRecord,
    tree::{ContentRef, Node, NodeKind},
};
use futures::StreamExt as _;
use serde_json::json;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

use super::{
    Vault,
    content_ids::FolderNodes,
    failures,
    pieces::{Ahead, PARTS},
    reader::{ReadError, Reader},
    tar,
    tree_walk::{self, TreeStep, TreeWalk},
};
use crate::{
    failure::{ExitCode, Failure},
    files::filter::Filter,
    ops::{
        DiffArgs, DumpArgs, Event, FindArgs, ItemError, LsArgs, Outcome, SnapshotRow, SnapshotsArgs, VerbResult,
        decode_path, encode_bytes,
    },
    overlay::Overlay,
};

const fn ok(code: ExitCode) -> VerbResult {
    Ok(Outcome { code })
}

async fn row(events: &mpsc::Sender<Event>, kind: &str, row: serde_json::Value) {
    // A listener that is gone ends the verb through its cancel token, not here.
    let _ = events.send(Event::Row { kind: kind.to_owned(), row }).await;
}

async fn summary(events: &mpsc::Sender<Event>, verb: &str, summary: serde_json::Value) {
    let _ = events.send(Event::Summary { verb: verb.to_owned(), summary }).await;
}

/// All snapshots, oldest first.
pub(super) fn all(vault: &Vault) -> Result<Vec<(SnapshotId, SnapshotRecord)>, Failure> {
    let mut list = vault.catalogue.snapshots().map_err(failures::catalogue)?;
    list.sort_by_key(|(id, record)| (record.time, *id));
    Ok(list)
}

/// The snapshot that a prefix of its id, or `latest`, means.
pub(super) fn pick(vault: &Vault, name: &str) -> Result<(SnapshotId, SnapshotRecord), Failure> {
    let list = all(vault)?;
    let missing = |text: String| {
        Failure::new(ExitCode::NotFound, "NO_SNAPSHOT", text).with_hint("`cairn snapshots` lists what there is")
    };
    if name == "latest" {
        return list.into_iter().next_back().ok_or_else(|| missing("this vault has no snapshot yet".to_owned()));
    }
    let lower = name.to_ascii_lowercase();
    let mut found: Vec<_> =
        list.into_iter().filter(|(id, _)| !lower.is_empty() && id.to_string().starts_with(&lower)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(missing(format!("no snapshot begins with {name:?}"))),
        n => Err(missing(format!("{n} snapshots begin with {name:?}; give more digits"))),
    }
}

/// The entry of a snapshot at a percent-encoded path; the root for an empty one.
pub(super) async fn locate(reader: &Reader, root: &ContentRef, path: &str) -> Result<Node, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let path_bytes = decode_path(path);
    let found = tree_walk::find(reader, root, path_bytes.as_os_str().as_bytes()).await;
    found.map_err(|e| failures::read(&e))?.ok_or_else(|| {
        Failure::new(ExitCode::NotFound, "NO_PATH", format!("the snapshot has no {path:?}"))
            .with_hint("`cairn ls SNAPSHOT` lists what is in it")
    })
}

fn reader(vault: &Vault, overlay: Arc<dyn Overlay>) -> Arc<Reader> {
    Arc::new(Reader::new(vault.keys.clone(), overlay, Some(vault.catalogue.clone())))
}

pub(super) async fn snapshots(vault: &Vault, args: SnapshotsArgs, events: &mpsc::Sender<Event>) -> VerbResult {
    let mut count = 0u64;
    for (id, record) in all(vault)? {
        let wanted_tag = args.tag.as_ref().is_none_or(|t| record.tags.contains(t));
        if !wanted_tag || args.host.as_ref().is_some_and(|h| *h != record.hostname) {
            continue;
        }
        count += 1;
        let listed = SnapshotRow {
            id,
            short_id: id.short(),
            time: super::time_text(record.time),
            time_ms: record.time,
            hostname: record.hostname,
            username: record.username,
            paths: record.paths.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect(),
            tags: record.tags,
            total_files: record.total_files,
            total_bytes: record.total_bytes,
        };
        row(events, "snapshot", json!(listed)).await;
    }
    summary(events, "snapshots", json!({ "snapshots": count })).await;
    ok(ExitCode::Success)
}

fn kind_name(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Dir => "dir",
        NodeKind::Symlink => "symlink",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::CharDevice => "chardev",
        NodeKind::BlockDevice => "dev",
    }
}

/// As `ls -l` writes them: `drwxr-xr-x`.
fn permissions(node: &Node) -> String {
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Dir => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::CharDevice => 'c',
        NodeKind::BlockDevice => 'b',
    };
    let bit = |mask: u32, letter: char| if node.mode & mask == 0 { '-' } else { letter };
    let execute = |mask: u32, special: u32, set: char| match (node.mode & mask != 0, node.mode & special != 0) {
        (true, true) => set,
        (false, true) => set.to_ascii_uppercase(),
        (true, false) => 'x',
        (false, false) => '-',
    };
    let bits = [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        execute(0o100, 0o4000, 's'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        execute(0o010, 0o2000, 's'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        execute(0o001, 0o1000, 't'),
    ];
    bits.into_iter().collect()
}

fn node_row(node: &Node, path: &[u8]) -> serde_json::Value {
    let ms = node.mtime.secs.saturating_mul(1000).saturating_add(i64::from(node.mtime.nanos / 1_000_000));
    json!({
        "name": String::from_utf8_lossy(&node.name),
        "type": kind_name(node.kind),
        "path": String::from_utf8_lossy(path),
        "path_encoded": encode_bytes(path),
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
        "size": node.size,
        "mode": node.mode,
        "permissions": permissions(node),
        "mtime": jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default(),
        "mtime_nanos": node.mtime.nanos,
        "links": node.links,
        "inode": node.inode,
        "link_target": (node.kind == NodeKind::Symlink).then(|| String::from_utf8_lossy(&node.link_target).into_owned()),
    })
}

async fn item_error(events: &mpsc::Sender<Event>, item: &[u8], error: &ReadError) {
    let item = String::from_utf8_lossy(item).into_owned();
    let error = ItemError { item, during: "fetch".to_owned(), message: error.to_string() };
    let _ = events.send(Event::Error(error)).await;
}

pub(super) async fn ls(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    args: LsArgs,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let (id, record) = pick(vault, &args.snapshot)?;
    let reader = reader(vault, overlay);
    let start = args.path.as_deref().unwrap_or("");
    let root = locate(&reader, &record.root, start).await?;
    let prefix = start_prefix(start);
    let (mut count, mut lost) = (0u64, false);
    if root.kind != NodeKind::Dir {
        row(events, "node", node_row(&root, &prefix)).await;
        count += 1;
    } else {
        let mut walk = TreeWalk::new(&reader, root.content);
        while let Some(step) = walk.next().await {
            match step {
                TreeStep::Enter(node) | TreeStep::Leaf(node) => {
                    let path = [prefix.as_slice(), &walk.path_of(&node.name)].concat();
                    row(events, "node", node_row(&node, &path)).await;
                    count += 1;
                }
                TreeStep::Leave => {}
                TreeStep::Failed(e) => {
                    lost |= e.is_loss();
                    item_error(events, &[prefix.as_slice(), &walk.path_of(b"")].concat(), &e).await;
                }
            }
        }
    }
    summary(events, "ls", json!({ "snapshot_id": id.to_string(), "entries": count })).await;
    ok(if lost { ExitCode::Lost } else { ExitCode::Success })
}

/// The start of a listing as the beginning of absolute paths: no slash at the end.
fn start_prefix(start: &str) -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = decode_path(start).into_os_string().into_vec();
    while bytes.last() == Some(&b'/') {
        bytes.pop();
    }
    if !bytes.is_empty() && bytes[0] != b'/' {
        bytes.insert(0, b'/');
    }
    bytes
}

pub(super) async fn find(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    args: FindArgs,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    use std::os::unix::ffi::OsStrExt as _;
    let filter = Filter::new(&args.patterns).map_err(|e| failures::pattern(&e))?;
    let list = match &args.snapshot {
        Some(name) => vec![pick(vault, name)?],
        None => all(vault)?,
    };
    let reader = reader(vault, overlay);
    let (mut matches, mut lost) = (0u64, false);
    for (id, record) in list {
        let mut walk = TreeWalk::new(&reader, record.root);
        while let Some(step) = walk.next().await {
            match step {
                TreeStep::Enter(node) | TreeStep::Leaf(node) => {
                    let path = walk.path_of(&node.name);
                    if filter.matches(std::path::Path::new(std::ffi::OsStr::from_bytes(&path))) {
                        matches += 1;
                        let mut found = node_row(&node, &path);
                        found["snapshot"] = json!(id.to_string());
                        row(events, "match", found).await;
                    }
                }
                TreeStep::Leave => {}
                TreeStep::Failed(e) => {
                    lost |= e.is_loss();
                    item_error(events, &walk.path_of(b""), &e).await;
                }
            }
        }
    }
    summary(events, "find", json!({ "matches": matches })).await;
    ok(if lost { ExitCode::Lost } else { ExitCode::Success })
}

/// What differs between two entries: `M` content, `T` kind, `U` metadata; restic's letters.
fn modifier(a: &Node, b: &Node) -> Option<&'static str> {
    let meta = |n: &Node| (n.mode, n.uid, n.gid, n.mtime, n.xattrs.clone());
    if a.kind != b.kind {
        return Some("T");
    }
    let content = (a.size, &a.content, &a.link_target, a.rdev, &a.holes)
        != (b.size, &b.content, &b.link_target, b.rdev, &b.holes);
    match () {
        () if a.kind != NodeKind::Dir && content => Some("M"),
        () if meta(a) != meta(b) => Some("U"),
        () => None,
    }
}

/// One side of a diff's figures, with restic's keys.
#[derive(Default, serde::Serialize)]
struct DiffCount {
    files: u64,
    dirs: u64,
    others: u64,
    bytes: u64,
}

impl DiffCount {
    fn count(&mut self, node: &Node) {
        match node.kind {
            NodeKind::File => (self.files, self.bytes) = (self.files + 1, self.bytes + node.size),
            NodeKind::Dir => self.dirs += 1,
            _ => self.others += 1,
        }
    }
}

pub(super) async fn diff(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    args: DiffArgs,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let (from, a) = pick(vault, &args.from)?;
    let (to, b) = pick(vault, &args.to)?;
    let reader = reader(vault, overlay);
    let (mut added, mut removed) = (DiffCount::default(), DiffCount::default());
    let (mut changed, mut changed_files) = (0u64, 0u64);
    let mut open = vec![(Some(a.root), Some(b.root), Vec::new())];
    while let Some((left, right, path)) = open.pop() {
        if left == right {
            continue;
        }
        let mut left = FolderNodes::new(&left.unwrap_or(ContentRef::empty()));
        let mut right = FolderNodes::new(&right.unwrap_or(ContentRef::empty()));
        let next =
            async |nodes: &mut FolderNodes| nodes.next(&reader).await.transpose().map_err(|e| failures::read(&e));
        let (mut first_left, mut first_right) = (next(&mut left).await?, next(&mut right).await?);
        loop {
            let order = match (&first_left, &first_right) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(l), Some(r)) => l.name.cmp(&r.name),
            };
            let l = if order.is_le() { std::mem::replace(&mut first_left, next(&mut left).await?) } else { None };
            let r = if order.is_ge() { std::mem::replace(&mut first_right, next(&mut right).await?) } else { None };
            let Some(name) = l.as_ref().or(r.as_ref()).map(|n| n.name.clone()) else { break };
            let here = [path.as_slice(), b"/", &name].concat();
            let letter = match (&l, &r) {
                (Some(l), Some(r)) => modifier(l, r),
                (None, _) => Some("+"),
                (_, None) => Some("-"),
            };
            if let Some(letter) = letter {
                match (letter, &l, &r) {
                    ("+", _, Some(node)) => added.count(node),
                    ("-", Some(node), _) => removed.count(node),
                    ("M", ..) => (changed, changed_files) = (changed + 1, changed_files + 1),
                    _ => changed += 1,
                }
                let text = String::from_utf8_lossy(&here);
                row(events, "change", json!({ "path": text, "path_encoded": encode_bytes(&here), "modifier": letter }))
                    .await;
            }
            let folder = |n: Option<Node>| n.filter(|n| n.kind == NodeKind::Dir).map(|n| n.content);
            let (l, r) = (folder(l), folder(r));
            if l.is_some() || r.is_some() {
                open.push((l, r, here));
            }
        }
    }
    let figures = json!({
        "source_snapshot": from.to_string(),
        "target_snapshot": to.to_string(),
        "added": added,
        "removed": removed,
        "changed": changed,
        "changed_files": changed_files,
    });
    summary(events, "diff", figures).await;
    ok(ExitCode::Success)
}

pub(super) async fn dump(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    args: DumpArgs,
    output: Option<&mut (dyn AsyncWrite + Send + Unpin)>,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let output = output.ok_or_else(|| Failure::new(ExitCode::Usage, "USAGE", "dump needs somewhere to write to"))?;
    let (id, record) = pick(vault, &args.snapshot)?;
    let reader = reader(vault, overlay);
    let node = locate(&reader, &record.root, &args.path).await?;
    let bytes = match node.kind {
        NodeKind::File => copy(&reader, &node, output).await?,
        NodeKind::Dir => archive(&reader, node, &start_prefix(&args.path), output, events).await?,
        _ => {
            let text = format!("{:?} is neither a file nor a folder", args.path);
            return Err(
                Failure::new(ExitCode::NotFound, "NOT_A_FILE", text).with_hint("`cairn restore` brings it back")
            );
        }
    };
    output.flush().await.map_err(|e| output_broke(&e))?;
    summary(events, "dump", json!({ "snapshot_id": id.to_string(), "bytes": bytes })).await;
    ok(ExitCode::Success)
}

fn output_broke(error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::Failed, "OUTPUT", "cannot write the output").caused_by(error)
}

/// Writes a folder as tar. What cannot be read ends it: half an archive that looks whole would be worse than none.
async fn archive(
    reader: &Arc<Reader>,
    root: Node,
    prefix: &[u8],
    output: &mut (dyn AsyncWrite + Send + Unpin),
    events: &mpsc::Sender<Event>,
) -> Result<u64, Failure> {
    let mut bytes = 0;
    let mut walk = TreeWalk::new(reader, root.content);
    while let Some(step) = walk.next().await {
        let node = match step {
            TreeStep::Enter(node) | TreeStep::Leaf(node) => node,
            TreeStep::Leave => continue,
            TreeStep::Failed(e) => return Err(failures::read(&e)),
        };
        let path = [prefix, &walk.path_of(&node.name)].concat();
        let Some(head) = tar::head(&node, &path) else {
            let text = format!("tar knows no sockets: {} is left out", String::from_utf8_lossy(&path));
            let _ = events.send(Event::Notice { id: "NOT_IN_TAR".to_owned(), text }).await;
            continue;
        };
        output.write_all(&head).await.map_err(|e| output_broke(&e))?;
        bytes += head.len() as u64;
        if node.kind == NodeKind::File {
            let size = copy(reader, &node, output).await?;
            let padding = tar::padding(size);
            output.write_all(&tar::END[..padding]).await.map_err(|e| output_broke(&e))?;
            bytes += size + padding as u64;
        }
    }
    output.write_all(&tar::END).await.map_err(|e| output_broke(&e))?;
    Ok(bytes + tar::END.len() as u64)
}

/// Writes a file's bytes, holes as zeros; how many they were, which is what its entry says.
async fn copy(reader: &Arc<Reader>, node: &Node, output: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<u64, Failure> {
    let broken = |e: std::io::Error| output_broke(&e);
    let mut pieces = std::pin::pin!(Ahead::new(reader.clone()).fetches(&node.content).buffered(PARTS));
    let mut holes = node.holes.iter().copied().peekable();
    let mut at = 0u64;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| failures::read(&e))?;
        for mut left in piece.bytes.iter().map(|part| &part[..]) {
            while !left.is_empty() {
                while let Some((_, length)) = holes.next_if(|(start, _)| *start == at) {
                    zeros(output, length).await.map_err(broken)?;
                    at += length;
                }
                let room = holes.peek().map_or(left.len() as u64, |(start, _)| start - at).min(left.len() as u64);
                let (now, later) = left.split_at(room as usize);
                output.write_all(now).await.map_err(broken)?;
                at += room;
                left = later;
            }
        }
    }
    for (_, length) in holes {
        zeros(output, length).await.map_err(broken)?;
        at += length;
    }
    if at != node.size {
        let text = format!("its content has {at} bytes, its entry says {}", node.size);
        return Err(failures::read(&ReadError::Damaged(text)));
    }
    Ok(at)
}

async fn zeros(output: &mut (dyn AsyncWrite + Send + Unpin), mut length: u64) -> std::io::Result<()> {
    static BLOCK: [u8; 65536] = [0; 65536];
    while length > 0 {
        let now = length.min(BLOCK.len() as u64);
        output.write_all(&BLOCK[..now as usize]).await?;
        length -= now;
    }
    Ok(())
}
