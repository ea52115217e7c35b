//! Directories by descriptor. Every name below a starting folder is reached with one `openat` per step and
//! `O_NOFOLLOW`, so that paths longer than `PATH_MAX` work and no symlink is ever traversed.
//!
//! # Invariants
//!
//! - **FILE-1** Below the top no path of more than one component is handed to the kernel, and no symlink is followed.
//!   Enforced by [`Dir::open_child`]; attacked by `files::write::tests::a_symlink_in_the_way_is_never_traversed`.
//!
//! A chain of thousands of levels must not hold thousands of descriptors: [`Dir::open_child`] parks the ancestor that
//! lies [`OPEN_LEVELS`] above, and [`Dir::fd`] walks down again from the nearest open ancestor when it is needed.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

/// Levels whose descriptors stay open at once. Small beside the usual limit of 1,024 descriptors, of which the network
/// needs many; large enough that ordinary trees never reopen anything.
pub const OPEN_LEVELS: u32 = 48;

/// Topmost levels that are never parked, so that a walk down from an open ancestor always has a start.
const KEEP_LEVELS: u32 = 4;

/// Deepest level below a starting folder. A path of that depth cannot be typed (`PATH_MAX` is 4,096 bytes, so 2,048
/// components), yet programs make them; the bound keeps a hostile tree from growing the stack of open folders.
pub const DEPTH_MAX: u32 = 8_192;

/// An open directory and how to get it back. Cheap to share; the descriptor is closed with the last owner.
pub struct Dir {
    parent: Option<Arc<Dir>>,
    name: CString,
    id: (u64, u64),
    depth: u32,
    fd: Mutex<Option<Arc<OwnedFd>>>,
}

impl std::fmt::Debug for Dir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dir").field("name", &self.name).field("depth", &self.depth).finish_non_exhaustive()
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens a starting folder. Symlinks in this path are followed: a person wrote it.
    ///
    /// # Errors
    /// When it cannot be opened as a directory.
    pub fn top(path: &Path) -> io::Result<Arc<Self>> {
        Self::from_fd(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
    }

    /// A starting folder that is open already.
    ///
    /// # Errors
    /// When its identity cannot be read.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Arc<Self>> {
        let id = identity(&rustix::fs::fstat(&fd)?);
        Ok(Arc::new(Self { parent: None, name: CString::default(), id, depth: 0, fd: Mutex::new(Some(Arc::new(fd))) }))
    }

    /// Opens the directory `name` in this one, never through a symlink.
    ///
    /// # Errors
    /// `ELOOP` or `ENOTDIR` when it is no directory, and whatever `openat` says.
    pub fn open_child(self: &Arc<Self>, name: &CStr) -> io::Result<Arc<Self>> {
        if self.depth >= DEPTH_MAX {
            return Err(io::Error::other(format!("more than {DEPTH_MAX} levels deep")));
        }
        let fd = rustix::fs::openat(self.fd()?, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        let id = identity(&rustix::fs::fstat(&fd)?);
        if let Some(far) = self.ancestor(OPEN_LEVELS)
            && far.depth >= KEEP_LEVELS
        {
            far.park();
        }
        Ok(Arc::new(Self {
            parent: Some(Arc::clone(self)),
            name: name.to_owned(),
            id,
            depth: self.depth + 1,
            fd: Mutex::new(Some(Arc::new(fd))),
        }))
    }

    /// The descriptor, opened again when it was parked.
    ///
    /// # Errors
    /// When the directory is gone, or something else has its name now.
    pub fn fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.walk_down(OPEN_LEVELS as usize / 2)
    }

    /// As [`Dir::fd`], but what had to be opened for it is closed again after use. For folders that were left, of which
    /// there may be many.
    ///
    /// # Errors
    /// As [`Dir::fd`].
    pub fn fd_once(&self) -> io::Result<Arc<OwnedFd>> {
        self.walk_down(0)
    }

    fn walk_down(&self, keep: usize) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = self.open_fd() {
            return Ok(fd);
        }
        let mut missing = vec![self];
        let mut at = loop {
            let top = missing[missing.len() - 1];
            let Some(parent) = top.parent.as_deref() else {
                return Err(io::Error::other("FILE-1: the starting folder was closed"));
            };
            if let Some(fd) = parent.open_fd() {
                break fd;
            }
            missing.push(parent);
        };
        // The levels just above will be wanted next, on the way up: keep them, so that leaving a deep chain costs one
        // walk per half window and not one per level.
        while let Some(dir) = missing.pop() {
            let fd = rustix::fs::openat(&at, &dir.name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            if identity(&rustix::fs::fstat(&fd)?) != dir.id {
                return Err(io::Error::other("the folder was moved or replaced meanwhile"));
            }
            at = Arc::new(fd);
            if missing.len() < keep {
                *dir.slot() = Some(Arc::clone(&at));
            }
        }
        Ok(at)
    }

    /// Closes the descriptor until it is needed again. The starting folder stays open.
    pub fn park(&self) {
        if self.parent.is_some() {
            *self.slot() = None;
        }
    }

    /// `lstat` of a name in this directory.
    ///
    /// # Errors
    /// Whatever `fstatat` says.
    pub fn lstat(&self, name: &CStr) -> io::Result<Stat> {
        Ok(rustix::fs::statat(self.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// `fstat` of the directory itself.
    ///
    /// # Errors
    /// Whatever `fstat` says.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self.fd()?)?)
    }

    /// Device and inode, as they were when it was opened.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Levels below the starting folder.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The names in this directory, sorted by their bytes, without `.` and `..`; and the error that ended the listing
    /// early, if one did. All names of one directory are held in memory, in one block: about 25 MiB for a million.
    ///
    /// # Errors
    /// When the listing cannot even begin.
    pub fn names(&self) -> io::Result<(Names, Option<io::Error>)> {
        let mut names = Names::default();
        let mut failed = None;
        for entry in rustix::fs::Dir::read_from(self.fd()?)? {
            match entry {
                Ok(entry) => names.push(entry.file_name().to_bytes()),
                Err(e) => {
                    failed = Some(e.into());
                    break;
                }
            }
        }
        names.sort();
        Ok((names, failed))
    }

    /// A path by which calls without an `at` form (extended attributes) reach a name here: short whatever the depth.
    ///
    /// # Errors
    /// When the directory cannot be opened again.
    pub fn proc_path(&self, name: &CStr) -> io::Result<(Arc<OwnedFd>, Vec<u8>)> {
        use std::os::fd::AsRawFd;
        let fd = self.fd_once()?;
        let mut path = format!("/proc/self/fd/{}/", fd.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        Ok((fd, path))
    }

    fn ancestor(&self, levels: u32) -> Option<&Dir> {
        let mut at = self;
        for _ in 0..levels {
            at = at.parent.as_deref()?;
        }
        Some(at)
    }

    fn open_fd(&self) -> Option<Arc<OwnedFd>> {
        self.slot().clone()
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dir {
    /// Lets go of the ancestors one by one: the derived drop would recurse once per level.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut dir) = next.and_then(Arc::into_inner) {
            next = dir.parent.take();
        }
    }
}

/// Device and inode of a stat.
#[must_use]
#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
pub fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// Sorted names in one block of memory.
#[derive(Default, Debug)]
pub struct Names {
    bytes: Vec<u8>,
    places: Vec<(usize, u16)>,
    next: usize,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        let Ok(len) = u16::try_from(name.len()) else { return };
        if name != b"." && name != b".." {
            self.places.push((self.bytes.len(), len));
            self.bytes.extend_from_slice(name);
        }
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.places.sort_unstable_by_key(|&(at, len)| &bytes[at..at + usize::from(len)]);
    }

    /// Names not taken yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.places.len() - self.next
    }

    /// Whether `name` is among them.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        let at = |&(at, len): &(usize, u16)| &self.bytes[at..at + usize::from(len)];
        self.places.binary_search_by(|place| at(place).cmp(name)).is_ok()
    }

    /// Keeps only `name`.
    pub fn keep_only(&mut self, name: &[u8]) {
        let bytes = &self.bytes;
        self.places.retain(|&(at, len)| &bytes[at..at + usize::from(len)] == name);
    }

    /// Keeps the names that `wanted` says yes to.
    pub fn retain(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) {
        let bytes = &self.bytes;
        self.places.retain(|&(at, len)| wanted(&bytes[at..at + usize::from(len)]));
    }
}

impl Iterator for Names {
    type Item = CString;

    fn next(&mut self) -> Option<CString> {
        let &(at, len) = self.places.get(self.next)?;
        self.next += 1;
        // A name from the kernel has no NUL inside.
        CString::new(&self.bytes[at..at + usize::from(len)]).ok()
    }
}
