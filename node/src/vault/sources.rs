//! What is backed up, turned into chunks and trees: files and folders, or one stream. Blocking.
//!
//! A file whose size, times, inode and device are those of the last backup is not read again, provided that all of its
//! chunks are in acknowledged stripes, and that it had been at rest when it was read ([`was_at_rest`]).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use cairn_core::chunking::{ChunkProfile, Chunker, READ_ROOM};
use cairn_proto::{
    DecodeError,
    tree::{ContentRef, FileTime, ListBuilder, Node, NodeKind},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ingest::{Figures, Folder, Ingest, IngestError, Lane},
    stream_input::{StreamInput, StreamItem},
};
use crate::{
    files::{
        filter::Filter,
        read::{ContentSink, ReadFailure, Stability, read_file},
        walk::{Entry, Step, Walk, WalkError, WalkOptions},
    },
    ops::{Event, ItemError},
};

/// Files remembered before they are written to the catalogue together.
const FILES_BATCH: usize = 256;
/// Twice the longest tick of Linux' file clock (HZ = 100).
const TICK: Duration = Duration::from_millis(20);
/// The longest tick of a file system that keeps whole seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);
/// In place of a ctime in a remembered file that was not at rest: no file has it.
const NOT_AT_REST: FileTime = FileTime { secs: i64::MIN, nanos: 0 };
/// Hard-linked inodes remembered, so that their second name is not read again.
const LINKS_MAX: usize = 100_000;

/// Why a source could not be turned into a snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// Packing ended.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The walk cannot begin.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A stream broke.
    #[error("the stream failed: {0}")]
    Stream(String),
    /// The stream's file name cannot be one.
    #[error("{0:?} cannot be a file's name in a snapshot")]
    Name(String),
}

impl From<DecodeError> for SourceError {
    fn from(e: DecodeError) -> Self {
        Self::Ingest(e.into())
    }
}

/// What was found in the source.
#[derive(Clone, Debug)]
pub(super) struct Scanned {
    pub(super) root: ContentRef,
    /// The sources themselves, without the folders above them.
    pub(super) tops: Vec<(PathBuf, Node)>,
    pub(super) files_new: u64,
    pub(super) files_changed: u64,
    pub(super) files_unmodified: u64,
    pub(super) dirs: u64,
    pub(super) errors: u64,
    pub(super) total_files: u64,
    pub(super) total_bytes: u64,
}

impl Scanned {
    fn new() -> Self {
        Self {
            root: ContentRef::empty(),
            tops: Vec::new(),
            files_new: 0,
            files_changed: 0,
            files_unmodified: 0,
            dirs: 0,
            errors: 0,
            total_files: 0,
            total_bytes: 0,
        }
    }
}

/// Cuts one content after the other.
struct Content<'a> {
    ingest: &'a mut Ingest,
    chunker: &'a mut Chunker,
    list: ListBuilder,
    cancel: &'a CancellationToken,
    figures: &'a Figures,
}

impl Content<'_> {
    fn end(self) -> Result<ContentRef, IngestError> {
        let Self { ingest, chunker, mut list, .. } = self;
        while let Some(chunk) = chunker.finish() {
            let id = ingest.keep(Lane::Data, chunk)?;
            list.push(id, &mut |list: Vec<u8>| ingest.keep(Lane::Metadata, &list))?;
        }
        list.finish(&mut |list: Vec<u8>| ingest.keep(Lane::Metadata, &list))
    }
}

impl ContentSink for Content<'_> {
    type Error = IngestError;

    fn restart(&mut self) {
        while self.chunker.finish().is_some() {}
        self.list = ListBuilder::new();
    }

    fn room(&mut self) -> &mut [u8] {
        self.chunker.room()
    }

    fn filled(&mut self, bytes: usize) -> Result<(), IngestError> {
        if self.cancel.is_cancelled() {
            return Err(IngestError::Stopped);
        }
        self.figures.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.chunker.filled(bytes);
        let Self { ingest, chunker, list, .. } = self;
        while let Some(chunk) = chunker.next_chunk() {
            let id = ingest.keep(Lane::Data, chunk)?;
            list.push(id, &mut |list: Vec<u8>| ingest.keep(Lane::Metadata, &list))?;
        }
        Ok(())
    }
}

/// What to walk and how.
#[derive(Clone, Debug)]
pub(super) struct FileSource {
    pub(super) paths: Vec<PathBuf>,
    pub(super) options: WalkOptions,
    pub(super) force: bool,
}

/// Compiles the patterns of a backup.
pub(super) fn walk_options(args: &crate::ops::BackupArgs) -> Result<WalkOptions, String> {
    Ok(WalkOptions {
        exclude: Filter::new(&args.exclude).map_err(|e| e.to_string())?,
        exclude_caches: args.exclude_caches,
        exclude_if_present: Vec::new(),
        one_file_system: args.one_file_system,
    })
}

struct Scan<'a> {
    ingest: &'a mut Ingest,
    chunker: Chunker,
    figures: Arc<Figures>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
    force: bool,
    sources: &'a [PathBuf],
    scanned: Scanned,
    remembered: Vec<([u8; 32], Vec<u8>)>,
    /// Large files: their lists of chunks are only sure to be complete once the run is over.
    remembered_late: Vec<([u8; 32], Vec<u8>)>,
    links: HashMap<u64, Node>,
    /// Whether any file was remembered when the run began: none needs to be looked for in a first run.
    any_known: bool,
    folder_key: (PathBuf, [u8; 16]),
}

/// Files that may be remembered once everything is acknowledged.
pub(super) type LateFiles = Vec<([u8; 32], Vec<u8>)>;

/// Walks and packs files and folders.
pub(super) fn scan_files(
    source: &FileSource,
    ingest: &mut Ingest,
    figures: Arc<Figures>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) -> Result<(Scanned, LateFiles), SourceError> {
    let chunker = Chunker::new(ChunkProfile::Files, ingest.keys().chunker_seed());
    let any_known = ingest.catalogue().has_files().map_err(IngestError::from)?;
    let mut scan = Scan {
        ingest,
        chunker,
        figures,
        events,
        cancel,
        force: source.force,
        sources: &source.paths,
        scanned: Scanned::new(),
        remembered: Vec::new(),
        remembered_late: Vec::new(),
        links: HashMap::new(),
        any_known,
        folder_key: (PathBuf::new(), [0; 16]),
    };
    let mut folders = vec![Folder::default()];
    for step in Walk::new(&source.paths, source.options.clone())? {
        if scan.cancel.is_cancelled() {
            return Err(IngestError::Stopped.into());
        }
        match step {
            Step::Enter(_) => folders.push(Folder::default()),
            Step::Leave(mut entry) => {
                let done = folders.pop().unwrap_or_default();
                entry.node.content = done.finish(scan.ingest)?;
                scan.scanned.dirs += 1;
                scan.add(&mut folders, &entry.path, &entry.node)?;
            }
            Step::Leaf(mut entry) => {
                if entry.node.kind != NodeKind::File || scan.file(&mut entry)? {
                    scan.add(&mut folders, &entry.path, &entry.node)?;
                }
            }
            Step::Failed(item) => scan.fail(item),
        }
    }
    let root = folders.pop().unwrap_or_default().finish(scan.ingest)?;
    scan.remember_now()?;
    scan.scanned.root = root;
    Ok((scan.scanned, scan.remembered_late))
}

impl Scan<'_> {
    fn fail(&mut self, item: ItemError) {
        self.scanned.errors += 1;
        // A reader that is gone does not stop the work.
        let _ = self.events.blocking_send(Event::Error(item));
    }

    /// Puts a node into the folder that is open.
    fn add(&mut self, folders: &mut [Folder], path: &Path, node: &Node) -> Result<(), SourceError> {
        let Some(folder) = folders.last_mut() else { return Ok(()) };
        if self.sources.iter().any(|s| s == path) {
            self.scanned.tops.push((path.to_owned(), node.clone()));
        }
        match folder.push(node, self.ingest) {
            Err(IngestError::Format(e)) => {
                let message = format!("cannot be recorded: {e}");
                self.fail(ItemError { item: path.to_string_lossy().into_owned(), during: "scan".to_owned(), message });
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Completes a file's node; false when it could not be read.
    fn file(&mut self, entry: &mut Entry) -> Result<bool, SourceError> {
        *self.figures.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            entry.path.to_string_lossy().into_owned();
        let key = self.path_key(&entry.path);
        let before = match self.any_known {
            true => self.ingest.catalogue().file(&key).map_err(IngestError::from)?,
            false => None,
        };
        let before = before.and_then(|bytes| Node::decode(&bytes).ok());
        let linked = entry.node.hardlink.and_then(|k| self.links.get(&k)).cloned();
        let known = linked.or_else(|| before.clone().filter(|_| !self.force));
        if let Some(known) = known.filter(|known| is_same(known, &entry.node))
            && self.ingest.has_content(&known.content)?
        {
            entry.node.content = known.content;
            entry.node.holes = known.holes;
            self.figures.bytes.fetch_add(entry.node.size, Ordering::Relaxed);
            self.scanned.files_unmodified += 1;
            self.count(entry);
            return Ok(true);
        }
        let mut content = Content {
            ingest: self.ingest,
            chunker: &mut self.chunker,
            list: ListBuilder::new(),
            cancel: &self.cancel,
            figures: &self.figures,
        };
        let began = file_time(SystemTime::now());
        match read_file(entry, &mut content) {
            Ok(stability) => {
                entry.node.content = content.end()?;
                let changed = match stability {
                    Stability::Stable => false,
                    Stability::Changed(item) => {
                        self.fail(item);
                        true
                    }
                };
                *if before.is_some() { &mut self.scanned.files_changed } else { &mut self.scanned.files_new } += 1;
                if !changed {
                    self.remember(key, &entry.node, began)?;
                }
                self.count(entry);
                Ok(true)
            }
            Err(ReadFailure::Source(e)) => {
                content.restart();
                self.fail(e.about(entry));
                Ok(false)
            }
            Err(ReadFailure::Sink(e)) => Err(e.into()),
        }
    }

    fn count(&mut self, entry: &Entry) {
        self.scanned.total_files += 1;
        self.scanned.total_bytes += entry.node.size;
        self.figures.files.fetch_add(1, Ordering::Relaxed);
    }

    fn remember(&mut self, key: [u8; 32], node: &Node, began: FileTime) -> Result<(), SourceError> {
        if let Some(link) = node.hardlink
            && self.links.len() < LINKS_MAX
        {
            self.links.insert(link, node.clone());
        }
        // Kept all the same, so that the next run counts it as changed and not as new.
        let ctime = if was_at_rest(node, began) { node.ctime } else { NOT_AT_REST };
        let slim = Node { xattrs: Vec::new(), ctime, ..node.clone() };
        let encoded = slim.encode()?;
        if node.content.depth > 0 {
            self.remembered_late.push((key, encoded));
            return Ok(());
        }
        self.remembered.push((key, encoded));
        if self.remembered.len() >= FILES_BATCH { self.remember_now() } else { Ok(()) }
    }

    /// Two keyed hashes: of the folder, so that its files are neighbours in the catalogue, and of the whole path.
    fn path_key(&mut self, path: &Path) -> [u8; 32] {
        use std::os::unix::ffi::OsStrExt as _;
        let keys = self.ingest.keys();
        let hash = |what: &[u8], path: &Path| keys.chunk_id(&[what, path.as_os_str().as_bytes()].concat());
        let folder = path.parent().unwrap_or(path);
        if self.folder_key.0 != folder {
            let mut half = [0; 16];
            half.copy_from_slice(&hash(b"folder\0", folder).as_bytes()[..16]);
            self.folder_key = (folder.to_owned(), half);
        }
        let mut key = *hash(b"path\0", path).as_bytes();
        key[..16].copy_from_slice(&self.folder_key.1);
        key
    }

    fn remember_now(&mut self) -> Result<(), SourceError> {
        self.ingest.catalogue().set_files(&self.remembered).map_err(IngestError::from)?;
        self.remembered.clear();
        Ok(())
    }
}

fn is_same(a: &Node, b: &Node) -> bool {
    let key = |n: &Node| (n.kind, n.size, n.mtime, n.ctime, n.inode, n.device_id);
    a.ctime != NOT_AT_REST && key(a) == key(b)
}

fn file_time(time: SystemTime) -> FileTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    FileTime { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

/// Whether every change after `began`, when reading began, must show in the file's times.
///
/// A write stamps both times with the file system's clock, which stands still for one tick: a write in the same tick as
/// the one before it leaves times, size and inode as they were, and the file would be taken for unchanged for ever (git
/// calls such an entry racily clean). So the times seen are only trusted when they were at least a tick old as reading
/// began; a later write then gets a later tick. Linux stamps with its coarse clock, a tick of 1 to 10 ms: [`TICK`] is twice
/// that. A time without a fraction of a second comes from a file system that keeps none (FAT: two seconds, ext3 and HFS+:
/// one), or from a thousandth of chance, which costs one more reading.
///
/// Both times count, since some file systems have no real ctime. A time in the future is never old enough:
/// such a file is read each time, and deduplication keeps it from being sent. Not noticed: a server's clock that lags ours
/// by more than a tick while the file is being written.
fn was_at_rest(node: &Node, began: FileTime) -> bool {
    let nanos = |t: FileTime| i128::from(t.secs) * 1_000_000_000 + i128::from(t.nanos);
    [node.mtime, node.ctime].into_iter().all(|time| {
        let tick = if time.nanos == 0 { COARSE_TICK } else { TICK };
        nanos(time) + tick.as_nanos() as i128 <= nanos(began)
    })
}

/// Packs one stream as one file.
pub(super) fn scan_stream(
    name: &str,
    mut input: StreamInput,
    ingest: &mut Ingest,
    figures: &Figures,
    cancel: &CancellationToken,
    now: cairn_proto::Timestamp,
) -> Result<Scanned, SourceError> {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    let bad = || SourceError::Name(name.to_owned());
    let (file, above) = parts.split_last().ok_or_else(bad)?;
    let time = FileTime { secs: (now.0 / 1000) as i64, nanos: (now.0 % 1000) as u32 * 1_000_000 };
    let owned = |name: &str, kind, mode| {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Node { mode, uid, gid, mtime: time, ctime: time, ..Node::new(name.as_bytes().to_vec(), kind) }
    };
    let mut chunker = Chunker::new(ChunkProfile::Stream, ingest.keys().chunker_seed());
    let mut content = Content { ingest, chunker: &mut chunker, list: ListBuilder::new(), cancel, figures };
    let runtime = tokio::runtime::Handle::current();
    let mut size = 0u64;
    loop {
        let item = runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                item = input.next() => Some(item),
            }
        });
        match item {
            None => return Err(IngestError::Stopped.into()),
            Some(StreamItem::Bytes(bytes)) => {
                size += bytes.len() as u64;
                for part in bytes.chunks(READ_ROOM) {
                    content.room()[..part.len()].copy_from_slice(part);
                    content.filled(part.len())?;
                }
            }
            Some(StreamItem::End) => break,
            Some(StreamItem::Failed(why)) => return Err(SourceError::Stream(why)),
        }
    }
    let mut node = owned(file, NodeKind::File, 0o600);
    node.size = size;
    node.content = content.end()?;
    for part in above.iter().rev() {
        let mut folder = Folder::default();
        folder.push(&node, ingest)?;
        node = owned(part, NodeKind::Dir, 0o700);
        node.content = folder.finish(ingest)?;
    }
    let mut root = Folder::default();
    root.push(&node, ingest).map_err(|e| if matches!(e, IngestError::Format(_)) { bad() } else { e.into() })?;
    figures.files.fetch_add(1, Ordering::Relaxed);
    let root = root.finish(ingest)?;
    Ok(Scanned { root, files_new: 1, total_files: 1, total_bytes: size, dirs: above.len() as u64, ..Scanned::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_at_rest_are_trusted() {
        let second = 1_000_000_000i64;
        let at = |ns: i64| FileTime { secs: ns.div_euclid(second), nanos: ns.rem_euclid(second) as u32 };
        let file =
            |mtime, ctime| Node { mtime: at(mtime), ctime: at(ctime), ..Node::new(b"f".to_vec(), NodeKind::File) };
        let began = 100 * second + 7;
        let ms = 1_000_000;
        let rest = |mtime: i64, ctime: i64| was_at_rest(&file(mtime, ctime), at(began));
        assert!(rest(began - 20 * ms, began - 20 * ms), "a tick old");
        assert!(!rest(began - 20 * ms, began - 19 * ms), "changed in this very tick");
        assert!(!rest(began - 19 * ms, began - 20 * ms), "the same where only mtime counts");
        assert!(!rest(began, began) && !rest(began + second, began - second), "now, or in the future");
        assert!(!rest(99 * second, 99 * second), "whole seconds: two of them make a tick");
        assert!(rest(98 * second, 98 * second));
        assert!(rest(98 * second, began - 20 * ms), "an mtime set by hand does not coarsen the ctime");
        assert!(rest(-5, -5), "before 1970");
        let known = Node { ctime: NOT_AT_REST, ..file(0, 0) };
        assert!(!is_same(&known, &known), "even by its own mark");
        assert!(Node::decode(&known.encode().expect("a row")).is_ok_and(|n| n == known));
    }
}
