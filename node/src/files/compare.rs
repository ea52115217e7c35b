//! Says how two folders differ: byte for byte, and in metadata. For tests, and for `cairn demo`, which restores a folder
//! and shows that it is the same.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    fmt,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_proto::tree::{Node, NodeKind};
use rustix::fs::{Mode, OFlags};

use super::{
    dir::Dir,
    meta::{self, Owners},
    read::find_holes,
};

/// Differences listed; more only mean that the folders are not the same at all.
pub const DIFFERENCES_MAX: usize = 1_000;

/// Bytes of each side compared at once.
const BLOCK: usize = 256 << 10;

/// What to compare beside names, kinds, sizes, contents and symlink targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareOptions {
    /// Permission bits.
    pub modes: bool,
    /// Owner and group.
    pub owners: bool,
    /// Modification times of everything but the two top folders.
    pub times: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// That a sparse file on the left is sparse on the right, and which names are one inode.
    pub layout: bool,
}

impl CompareOptions {
    /// All of it.
    pub const FULL: Self = Self { modes: true, owners: true, times: true, xattrs: true, layout: true };
    /// Names, kinds and bytes only.
    pub const CONTENT: Self = Self { modes: false, owners: false, times: false, xattrs: false, layout: false };
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, below the two folders.
    pub path: PathBuf,
    /// What.
    pub change: Change,
}

/// How an entry differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the left side has it.
    OnlyLeft,
    /// Only the right side has it.
    OnlyRight,
    /// The named property, as text for both sides.
    Property {
        /// `kind`, `mode`, `owner`, `mtime`, `size`, `target`, `device`, `xattrs`, `holes`, `hard link`.
        what: &'static str,
        /// Left side.
        left: String,
        /// Right side.
        right: String,
    },
    /// The first byte that differs.
    Content {
        /// Its offset.
        offset: u64,
    },
    /// It could not be compared.
    Unreadable(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.change {
            Change::OnlyLeft => write!(f, "{path}: only on the left"),
            Change::OnlyRight => write!(f, "{path}: only on the right"),
            Change::Property { what, left, right } => write!(f, "{path}: {what} is {left} and {right}"),
            Change::Content { offset } => write!(f, "{path}: the content differs from byte {offset} on"),
            Change::Unreadable(why) => write!(f, "{path}: cannot be compared: {why}"),
        }
    }
}

/// Compares what is in two folders, whatever their depth. An empty list means that they are the same; a list of
/// [`DIFFERENCES_MAX`] may be cut. The top folders' own attributes are not compared.
///
/// # Errors
/// When one of the two cannot be opened.
pub fn compare(left: &Path, right: &Path, options: CompareOptions) -> io::Result<Vec<Difference>> {
    let mut comparison = Comparison {
        options,
        owners: Owners::default(),
        found: Vec::new(),
        first_names: [HashMap::new(), HashMap::new()],
        buffers: [vec![0; BLOCK], vec![0; BLOCK]],
        stack: Vec::new(),
    };
    comparison.folder([Dir::top(left)?, Dir::top(right)?], &PathBuf::new())?;
    while let Some((dirs, name, path)) = comparison.stack.pop() {
        if comparison.found.len() >= DIFFERENCES_MAX {
            break;
        }
        let done = dirs[0]
            .open_child(&name)
            .and_then(|left| Ok([left, dirs[1].open_child(&name)?]))
            .and_then(|children| comparison.folder(children, &path));
        if let Err(e) = done {
            comparison.add(&path, Change::Unreadable(e.to_string()));
        }
    }
    comparison.found.truncate(DIFFERENCES_MAX);
    Ok(comparison.found)
}

struct Comparison {
    options: CompareOptions,
    owners: Owners,
    found: Vec<Difference>,
    /// Of each side: inode to the first path that has it.
    first_names: [HashMap<(u64, u64), PathBuf>; 2],
    buffers: [Vec<u8>; 2],
    /// Pairs of folders still to do: their parents and their name.
    stack: Vec<([Arc<Dir>; 2], CString, PathBuf)>,
}

impl Comparison {
    fn add(&mut self, path: &Path, change: Change) {
        if self.found.len() < DIFFERENCES_MAX {
            self.found.push(Difference { path: path.to_owned(), change });
        }
    }

    fn property(&mut self, path: &Path, what: &'static str, left: impl fmt::Display, right: impl fmt::Display) {
        let (left, right) = (left.to_string(), right.to_string());
        if left != right {
            self.add(path, Change::Property { what, left, right });
        }
    }

    fn folder(&mut self, dirs: [Arc<Dir>; 2], path: &Path) -> io::Result<()> {
        let listed = [dirs[0].names()?, dirs[1].names()?];
        for (_, broken_off) in &listed {
            if let Some(e) = broken_off {
                self.add(path, Change::Unreadable(e.to_string()));
            }
        }
        let [(left, _), (mut right, _)] = listed;
        let mut folders = Vec::new();
        let mut seen = 0;
        for name in left {
            let below = path.join(OsStr::from_bytes(name.to_bytes()));
            if !right.contains(name.to_bytes()) {
                self.add(&below, Change::OnlyLeft);
                continue;
            }
            seen += 1;
            match self.entry(&dirs, &name, &below) {
                Ok(true) => folders.push((dirs.clone(), name, below)),
                Ok(false) => {}
                Err(e) => self.add(&below, Change::Unreadable(e.to_string())),
            }
        }
        if right.remaining() > seen {
            let (left, _) = dirs[0].names()?;
            right.retain(|name| !left.contains(name));
            for name in right {
                self.add(&path.join(OsStr::from_bytes(name.to_bytes())), Change::OnlyRight);
            }
        }
        self.stack.extend(folders.into_iter().rev());
        Ok(())
    }

    /// Compares one name; `true` when both are folders.
    fn entry(&mut self, dirs: &[Arc<Dir>; 2], name: &CStr, path: &Path) -> io::Result<bool> {
        let (left, right) = (self.node(&dirs[0], name)?, self.node(&dirs[1], name)?);
        if left.kind != right.kind {
            self.property(path, "kind", format!("{:?}", left.kind), format!("{:?}", right.kind));
            return Ok(false);
        }
        if self.options.modes && left.kind != NodeKind::Symlink {
            self.property(path, "mode", format!("{:04o}", left.mode), format!("{:04o}", right.mode));
        }
        if self.options.owners {
            self.property(path, "owner", format!("{}:{}", left.uid, left.gid), format!("{}:{}", right.uid, right.gid));
        }
        if self.options.times {
            let text = |n: &Node| format!("{}.{:09}", n.mtime.secs, n.mtime.nanos);
            self.property(path, "mtime", text(&left), text(&right));
        }
        if self.options.xattrs {
            self.property(path, "xattrs", xattr_text(&left), xattr_text(&right));
        }
        self.property(path, "target", left.link_target.escape_ascii(), right.link_target.escape_ascii());
        self.property(path, "device", left.rdev, right.rdev);
        if self.options.layout && left.kind != NodeKind::Dir {
            let first = [self.first_name(0, &left, path), self.first_name(1, &right, path)];
            self.property(path, "hard link", first[0].display(), first[1].display());
        }
        if left.kind == NodeKind::File {
            self.property(path, "size", left.size, right.size);
            if left.size == right.size {
                self.content(dirs, name, path)?;
            }
        }
        Ok(left.kind == NodeKind::Dir)
    }

    fn node(&self, dir: &Dir, name: &CStr) -> io::Result<Node> {
        let stat = dir.lstat(name)?;
        let (node, warning) = meta::node_at(dir, name, &stat, &self.owners)?;
        match warning {
            Some(e) if self.options.xattrs => Err(e),
            _ => Ok(node),
        }
    }

    fn first_name(&mut self, side: usize, node: &Node, path: &Path) -> PathBuf {
        if node.links < 2 {
            return path.to_owned();
        }
        self.first_names[side].entry((node.device_id, node.inode)).or_insert_with(|| path.to_owned()).clone()
    }

    fn content(&mut self, dirs: &[Arc<Dir>; 2], name: &CStr, path: &Path) -> io::Result<()> {
        let open = |dir: &Dir| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(dir.fd()?, name, flags, Mode::empty()).map_err(io::Error::from)
        };
        let (left, right) = (open(&dirs[0])?, open(&dirs[1])?);
        if self.options.layout {
            let size = rustix::fs::fstat(&left)?.st_size.try_into().unwrap_or(0);
            let empty = |fd| find_holes(fd, size).iter().map(|(_, len)| len).sum::<u64>();
            let (had, has) = (empty(&left), empty(&right));
            // Where holes begin and end is the file system's choice; that they are gone is not.
            if has < had / 2 {
                let text = |bytes| format!("{bytes} bytes");
                self.property(path, "holes", text(had), text(has));
            }
        }
        let (left, right) = (File::from(left), File::from(right));
        let mut at = 0;
        loop {
            let [a, b] = &mut self.buffers;
            let (read_left, read_right) = (fill(&left, a, at)?, fill(&right, b, at)?);
            let (a, b) = (&a[..read_left], &b[..read_right]);
            if a != b {
                let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                self.add(path, Change::Content { offset: at + same as u64 });
                return Ok(());
            }
            if read_left == 0 {
                return Ok(());
            }
            at += read_left as u64;
        }
    }
}

fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn xattr_text(node: &Node) -> String {
    let pairs = node.xattrs.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()));
    format!("[{}]", pairs.collect::<Vec<_>>().join(", "))
}
