//! Lists what is to be backed up: depth first, the names of a folder sorted by their bytes, as trees want them.
//!
//! - **FILE-1** Symlinks below a source are recorded, never followed, so loops cannot happen. Folders *above* a source
//!   are the user's own words and are followed; they appear as folders.
//! - **FILE-4** What cannot be listed or looked at is one [`Step::Failed`] each, and the walk goes on.
//!
//! The same folders give the same steps. Memory: the names of the folders on the way down, one block for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CString, OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use cairn_proto::tree::{Node, NodeKind};

use super::{
    dir::{Dir, Names},
    filter::Filter,
    item_error,
    meta::{self, Owners},
};
use crate::ops::ItemError;

/// First bytes of a `CACHEDIR.TAG` that counts (bford.info/cachedir).
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
const CACHE_TAG_NAME: &str = "CACHEDIR.TAG";

/// What to leave out.
#[derive(Clone, Debug, Default)]
pub struct WalkOptions {
    /// Entries below a source that match are left out, folders with all that is in them. Sources themselves stay.
    pub exclude: Filter,
    /// Of a folder with a valid `CACHEDIR.TAG` keep only the folder and the tag.
    pub exclude_caches: bool,
    /// Of a folder that has an entry of one of these names keep only the folder and that entry (`.nobackup`).
    pub exclude_if_present: Vec<OsString>,
    /// Stay on the file systems that the sources themselves are on; mount points appear as empty folders.
    pub one_file_system: bool,
}

/// Why a walk cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A source is not absolute: the caller knows the working directory, this module does not.
    #[error("the source path {0:?} is not absolute")]
    NotAbsolute(PathBuf),
    /// The root directory cannot be opened.
    #[error("the root directory cannot be opened: {0}")]
    Root(#[source] io::Error),
}

/// One listed entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Absolute path, for people, patterns and caches. It may be longer than the kernel takes: open through `dir`.
    pub path: PathBuf,
    /// Everything but content and holes.
    pub node: Node,
    /// The folder that it is in.
    pub dir: Arc<Dir>,
}

impl Entry {
    /// The entry's own name.
    ///
    /// # Errors
    /// Never for an entry that a walk made.
    pub fn c_name(&self) -> io::Result<CString> {
        Ok(CString::new(self.node.name.as_slice())?)
    }
}

/// What comes next. Between `Enter` and `Leave` of a folder come the entries in it, so trees can be built from below.
/// What is in `/` comes at the top, with no `Enter` around it.
#[derive(Clone, Debug)]
pub enum Step {
    /// A folder begins: its path.
    Enter(PathBuf),
    /// The folder begun last and not ended yet ends.
    Leave(Entry),
    /// A file, symlink, pipe, socket or device.
    Leaf(Entry),
    /// Something could not be looked at; the walk goes on.
    Failed(ItemError),
}

/// A walk under way.
pub struct Walk {
    options: WalkOptions,
    owners: Owners,
    devices: BTreeSet<u64>,
    stack: Vec<Frame>,
    waiting: Vec<Step>,
}

struct Frame {
    dir: Arc<Dir>,
    path: PathBuf,
    names: Source,
    /// The folder's own entry; none for `/`.
    own: Option<Entry>,
}

/// Where a frame's names come from.
enum Source {
    /// All that is in the folder.
    Listed(Names),
    /// Only the way to the sources.
    Way(std::collections::btree_map::IntoIter<Vec<u8>, Way>),
}

/// The sources as a tree of names.
#[derive(Default)]
struct Way {
    source: bool,
    below: BTreeMap<Vec<u8>, Way>,
}

impl Way {
    fn add(&mut self, path: &Path) {
        let mut at = self;
        for component in path.components() {
            if let Component::Normal(name) = component {
                if at.source {
                    return;
                }
                at = at.below.entry(name.as_bytes().to_vec()).or_default();
            }
        }
        at.source = true;
        at.below.clear();
    }

    /// Every source at or below `path`, for a report about a folder that all of them need.
    fn sources(&self, path: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![(self, path.to_owned())];
        while let Some((way, path)) = open.pop() {
            if way.source {
                found.push(path.clone());
            }
            open.extend(way.below.iter().rev().map(|(name, way)| (way, path.join(OsStr::from_bytes(name)))));
        }
        found
    }
}

/// Takes `.` and `..` out of a path; `..` by asking the file system, because what it means depends on symlinks.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out = std::fs::canonicalize(out.join("..")).unwrap_or_else(|_| {
                    let mut up = out.clone();
                    up.pop();
                    up
                });
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    out
}

impl Walk {
    /// Begins a walk over the sources, which must be absolute. A source inside another is part of that one.
    ///
    /// # Errors
    /// See [`WalkError`]. A source that does not exist is a [`Step::Failed`] instead.
    pub fn new<P: AsRef<Path>>(sources: &[P], options: WalkOptions) -> Result<Self, WalkError> {
        let mut way = Way::default();
        let mut devices = BTreeSet::new();
        for source in sources {
            let source = source.as_ref();
            if !source.is_absolute() {
                return Err(WalkError::NotAbsolute(source.to_owned()));
            }
            let source = plain(source);
            if let Ok(stat) = rustix::fs::lstat(&source) {
                devices.insert(super::dir::identity(&stat).0);
            }
            way.add(&source);
        }
        let top = Dir::top(Path::new("/")).map_err(WalkError::Root)?;
        let mut walk = Self { options, owners: Owners::load(), devices, stack: Vec::new(), waiting: Vec::new() };
        let path = PathBuf::from("/");
        let names = if way.source {
            match walk.list(&top, &path) {
                Ok(names) => Source::Listed(names),
                Err(e) => return Err(WalkError::Root(e)),
            }
        } else {
            Source::Way(way.below.into_iter())
        };
        walk.stack.push(Frame { dir: top, path, names, own: None });
        Ok(walk)
    }

    /// The names of a source's folder, after the marks in it that leave things out.
    fn list(&mut self, dir: &Dir, path: &Path) -> io::Result<Names> {
        let (mut names, broken_off) = dir.names()?;
        if let Some(e) = broken_off {
            self.fail(path, format_args!("the listing broke off: {e}"));
        }
        if self.options.exclude_caches && names.contains(CACHE_TAG_NAME.as_bytes()) && is_cache_tag(dir) {
            names.keep_only(CACHE_TAG_NAME.as_bytes());
        }
        if let Some(mark) = self.options.exclude_if_present.iter().find(|mark| names.contains(mark.as_bytes())) {
            names.keep_only(mark.as_bytes());
        }
        Ok(names)
    }

    fn fail(&mut self, path: &Path, message: impl std::fmt::Display) {
        self.waiting.push(Step::Failed(item_error(path, "scan", message)));
    }

    /// A name in the folder on top of the stack.
    fn visit(&mut self, dir: Arc<Dir>, path: PathBuf, name: CString, way: Option<Way>) {
        if way.is_none() && self.options.exclude.matches(&path) {
            return;
        }
        let on_the_way = way.as_ref().is_some_and(|way| !way.source);
        let outcome = match on_the_way {
            true => self.enter_on_the_way(&path, &name),
            false => self.look(&dir, &path, &name),
        };
        match outcome {
            Ok(Found::Leaf(node)) => self.waiting.push(Step::Leaf(Entry { path, node, dir })),
            Ok(Found::Folder { child, node, names }) => {
                let names = match way {
                    Some(way) if !way.source => Source::Way(way.below.into_iter()),
                    _ => Source::Listed(names),
                };
                self.waiting.push(Step::Enter(path.clone()));
                let own = Some(Entry { path: path.clone(), node, dir });
                self.stack.push(Frame { dir: child, path, names, own });
            }
            Err(e) => {
                let needed = way.map_or_else(Vec::new, |way| way.sources(&path));
                if needed.is_empty() {
                    self.fail(&path, &e);
                }
                for source in needed {
                    self.fail(&source, &e);
                }
            }
        }
    }

    /// A folder above a source: followed, and opened by its path. These are the user's own words, so they fit into one.
    fn enter_on_the_way(&mut self, path: &Path, name: &CString) -> io::Result<Found> {
        let child = Dir::top(path)?;
        let (node, warning) = meta::node_of_dir(&child, name, &self.owners)?;
        if let Some(e) = warning {
            self.fail(path, e);
        }
        Ok(Found::Folder { child, node, names: Names::default() })
    }

    fn look(&mut self, dir: &Arc<Dir>, path: &Path, name: &CString) -> io::Result<Found> {
        let stat = dir.lstat(name)?;
        if meta::kind(&stat) != Some(NodeKind::Dir) {
            let (node, warning) = meta::node_at(dir, name, &stat, &self.owners)?;
            if let Some(e) = warning {
                self.fail(path, e);
            }
            return Ok(Found::Leaf(node));
        }
        if self.options.one_file_system && !self.devices.contains(&super::dir::identity(&stat).0) {
            // What stands below belongs to another file system; what is mounted there is not even opened.
            let node = meta::from_stat(name, &stat, &self.owners)?;
            return Ok(Found::Folder { child: Arc::clone(dir), node, names: Names::default() });
        }
        let child = dir.open_child(name)?;
        let (node, warning) = meta::node_of_dir(&child, name, &self.owners)?;
        if let Some(e) = warning {
            self.fail(path, e);
        }
        let names = self.list(&child, path)?;
        Ok(Found::Folder { child, node, names })
    }
}

enum Found {
    Leaf(Node),
    Folder { child: Arc<Dir>, node: Node, names: Names },
}

fn is_cache_tag(dir: &Dir) -> bool {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(at) = dir.fd() else { return false };
    let Ok(fd) = rustix::fs::openat(at, CACHE_TAG_NAME, flags, Mode::empty()) else { return false };
    let mut head = [0; CACHE_TAG.len()];
    io::Read::read_exact(&mut std::fs::File::from(fd), &mut head).is_ok() && head == *CACHE_TAG
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if !self.waiting.is_empty() {
                return Some(self.waiting.remove(0));
            }
            let frame = self.stack.last_mut()?;
            let next = match &mut frame.names {
                Source::Listed(names) => names.next().map(|name| (name, None)),
                Source::Way(ways) => {
                    ways.next().and_then(|(name, way)| CString::new(name).ok().map(|name| (name, Some(way))))
                }
            };
            if let Some((name, way)) = next {
                let path = frame.path.join(OsString::from_vec(name.to_bytes().to_vec()));
                let dir = Arc::clone(&frame.dir);
                self.visit(dir, path, name, way);
                continue;
            }
            let own = self.stack.pop().and_then(|frame| frame.own);
            if let Some(own) = own {
                return Some(Step::Leave(own));
            }
        }
    }
}
