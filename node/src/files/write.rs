//! Restores entries below a target folder.
//!
//! The caller walks a snapshot depth first and says [`Restorer::enter`], [`Restorer::place`], [`Restorer::leave`]; the
//! content of a file goes into the [`FileSink`] that `place` gives. A sink may be filled and finished on another thread
//! while the restorer goes on.
//!
//! # Invariants
//!
//! - **FILE-1**, **FILE-2** Nothing is written outside the target. Names are checked here again, every folder is opened
//!   by one name below its parent's descriptor, never through a symlink, and new entries are made under a name of our
//!   own before they are renamed. Enforced by `c_name` and [`Dir`]; attacked by `tests::hostile_names_are_refused` and
//!   `tests::a_symlink_in_the_way_is_never_traversed`.
//! - **FILE-3** An existing file is never half overwritten: content goes to a temporary name in the same folder and
//!   takes the place in one rename. Attacked by `tests::a_broken_off_file_leaves_the_old_one`.
//!
//! A process that is killed leaves temporary names `.cairn-restore-*` behind; the next restore into that folder removes
//! them as it enters.

mod attributes;
mod links;
mod place;
mod sink;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    ffi::{CStr, CString, OsStr},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cairn_proto::tree::Node;
use rustix::fs::AtFlags;

pub use self::sink::FileSink;
use self::{attributes::Ownership, links::Links};
use super::{dir::Dir, filter::Filter, item_error};
use crate::ops::ItemError;

/// What happens to an entry that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// It is written again.
    Always,
    /// It is left when type, size and modification time are the snapshot's; only its attributes are set.
    #[default]
    IfChanged,
    /// It is replaced when the snapshot's modification time is later.
    IfNewer,
    /// It is left, whatever it is.
    Never,
}

impl FromStr for Overwrite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "always" => Self::Always,
            "if-changed" => Self::IfChanged,
            "if-newer" => Self::IfNewer,
            "never" => Self::Never,
            _ => return Err(format!("{text:?} is none of always, if-changed, if-newer, never")),
        })
    }
}

/// How to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// What happens to entries that are there already.
    pub overwrite: Overwrite,
    /// Take only entries that match, with all that is below them; everything when empty.
    pub include: Filter,
    /// Leave out entries that match, with all that is below them.
    pub exclude: Filter,
    /// Read each written file back from the disk before it takes its place. Files that were left are not read.
    pub verify: bool,
    /// Write nothing, only say what would be written.
    pub dry_run: bool,
    /// Do not wait for the disk at the end. For tests and scratch restores.
    pub no_sync: bool,
}

/// Why a restore cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target folder cannot be made or opened.
    #[error("the target folder {} cannot be used", path.display())]
    Target {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Whether the caller goes into a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descend {
    /// Its entries come next, then [`Restorer::leave`].
    Into,
    /// Nothing in it is wanted, or it could not be made (see [`Restorer::take_errors`]): no `leave`.
    Skip,
}

/// What became of an entry that is no folder.
#[derive(Debug)]
pub enum Placed {
    /// It stands: a symlink, pipe, device, hard link or empty file.
    Done,
    /// It was left as it is by the overwrite policy, or is unchanged.
    Left,
    /// A pattern leaves it out.
    Unwanted,
    /// It could not be made (see [`Restorer::take_errors`]).
    Failed,
    /// Its content is wanted: write all of it, then [`FileSink::finish`].
    Content(Box<FileSink>),
    /// Dry run: this many bytes of content would be fetched.
    Would(u64),
}

/// What was done, in numbers. Folders that were there count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Files written, empty ones included.
    pub files: u64,
    /// Bytes of content written; holes do not count.
    pub bytes: u64,
    /// Folders.
    pub folders: u64,
    /// Symlinks, pipes, sockets, devices.
    pub others: u64,
    /// Further names of files.
    pub links: u64,
    /// Entries left as they were.
    pub left: u64,
    /// Entries whose owner or group could not be set, because that is for root only. They belong to who restores, and
    /// lost their set-user-id and set-group-id bits.
    pub owners_kept: u64,
}

/// Counters and settings that sinks on other threads share with the restorer.
#[derive(Debug)]
struct Shared {
    ownership: Ownership,
    links: Links,
    files: AtomicU64,
    bytes: AtomicU64,
    verify: bool,
    disk: Disk,
}

/// Whether the target's disk has said that it is full: nothing that follows would fit.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<AtomicBool>);

impl Disk {
    /// Whether it is.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn heed(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A restore under way. Blocking throughout; one thread drives it.
#[derive(Debug)]
pub struct Restorer {
    options: RestoreOptions,
    shared: Arc<Shared>,
    /// `None` in a dry run when there is no target yet.
    top: Option<Arc<Dir>>,
    stack: Vec<Level>,
    /// Folders left while sinks were still open in them: their times are set when there are `late_look` of them, or at the end.
    late: Vec<(Arc<Dir>, Node, PathBuf)>,
    late_look: usize,
    errors: VecDeque<ItemError>,
    lost_errors: u64,
    report: RestoreReport,
}

/// A folder that the caller is in.
#[derive(Debug)]
struct Level {
    node: Node,
    /// Path in the snapshot, for patterns and reports.
    path: PathBuf,
    /// Everything below is wanted.
    included: bool,
    /// Made when the first wanted entry comes; at once when `included`.
    dir: Option<Arc<Dir>>,
    /// It could not be made: said once, then everything below is skipped.
    broken: bool,
}

/// Errors kept until the caller takes them; a caller that never does loses the rest but not their number.
const ERRORS_MAX: usize = 10_000;

/// Folders that were left and stay open for the sinks in them. Beside the [`super::dir::OPEN_LEVELS`] of the way down, and
/// small as they are.
const LATE_OPEN: usize = 96;
/// Folders that were left and wait, before those are ended whose sinks are closed by now: 1,024 are a megabyte. What must wait is
/// twice as many at most: as many folders as the caller has sinks open in, and those of files whose other names are not known yet.
const LATE_LOOK: usize = 1024;

/// Temporary names begin so.
const TEMPORARY: &str = ".cairn-restore-";

impl Restorer {
    /// Begins a restore into `target`, which is made when it is missing (not in a dry run). Symlinks in the path of
    /// the target itself are followed: it is the user's own word.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn new(target: &Path, options: RestoreOptions) -> Result<Self, RestoreError> {
        let failed = |source| RestoreError::Target { path: target.to_owned(), source };
        let top = if options.dry_run {
            Dir::top(target).ok()
        } else {
            std::fs::create_dir_all(target).map_err(failed)?;
            Some(Dir::top(target).map_err(failed)?)
        };
        let shared = Arc::new(Shared {
            ownership: Ownership::of_this_process(),
            links: Links::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            verify: options.verify,
            disk: Disk::default(),
        });
        if let Some(top) = top.as_ref().filter(|_| !options.dry_run) {
            sweep(top);
        }
        Ok(Self {
            options,
            shared,
            top,
            stack: Vec::new(),
            late: Vec::new(),
            late_look: LATE_LOOK,
            errors: VecDeque::new(),
            lost_errors: 0,
            report: RestoreReport::default(),
        })
    }

    /// Goes into a folder of the snapshot. Its final attributes are set when it is left.
    pub fn enter(&mut self, node: &Node) -> Descend {
        let path = self.path_of(node);
        let (parent_included, parent_broken) =
            self.stack.last().map_or((self.options.include.is_empty(), false), |l| (l.included, l.broken));
        if parent_broken || self.options.exclude.matches(&path) {
            return Descend::Skip;
        }
        let included = parent_included || self.options.include.matches(&path);
        // The caller does not need content references here, and a deep tree would hold many.
        let mut slim = node.clone();
        slim.content.ids = Vec::new();
        self.stack.push(Level { node: slim, path, included, dir: None, broken: false });
        if included && self.folder().is_none() && !self.options.dry_run {
            self.stack.pop();
            return Descend::Skip;
        }
        Descend::Into
    }

    /// Ends the folder entered last.
    pub fn leave(&mut self) {
        let Some(level) = self.stack.pop() else { return };
        let Some(dir) = level.dir else { return };
        if self.options.dry_run {
            return;
        }
        // Ours, and perhaps one that waits for a second name of a file. More means that sinks are open in it, whose
        // renames would change its time again.
        if Arc::strong_count(&dir) > 1 {
            self.late.push((dir, level.node, level.path));
            // The sinks of the last few will want it soon; to open it for each would cost more than their files.
            if let Some((dir, ..)) = self.late.len().checked_sub(LATE_OPEN).and_then(|at| self.late.get(at)) {
                dir.park();
            }
            if self.late.len() >= self.late_look {
                self.end_late();
            }
        } else {
            self.finish_folder(&dir, &level.node, &level.path);
        }
    }

    /// Ends the folders that waited and in which nothing is open any more. Children came before their parents, whom they hold.
    fn end_late(&mut self) {
        for (dir, node, path) in std::mem::take(&mut self.late) {
            if Arc::strong_count(&dir) > 1 {
                self.late.push((dir, node, path));
            } else {
                self.finish_folder(&dir, &node, &path);
            }
        }
        let parked = self.late.len().saturating_sub(LATE_OPEN);
        self.late.iter().take(parked).for_each(|(dir, ..)| dir.park());
        // Not at every folder from now on, when many have to wait.
        self.late_look = LATE_LOOK.max(2 * self.late.len());
    }

    /// Places an entry that is no folder.
    pub fn place(&mut self, node: &Node) -> Placed {
        let path = self.path_of(node);
        let included = self.stack.last().map_or(self.options.include.is_empty(), |l| l.included);
        if self.options.exclude.matches(&path) || !(included || self.options.include.matches(&path)) {
            return Placed::Unwanted;
        }
        match self.try_place(node, &path) {
            Ok(placed) => placed,
            Err(e) => {
                self.shared.disk.heed(&e);
                self.report_error(item_error(&path, "write", e));
                Placed::Failed
            }
        }
    }

    /// Tells when the disk is full.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.shared.disk.clone()
    }

    /// The entries that failed since the last call. Sinks return theirs themselves.
    pub fn take_errors(&mut self) -> Vec<ItemError> {
        self.errors.drain(..).collect()
    }

    /// Ends the restore: makes the hard links and folder times that had to wait, and waits for the disk. Call it when
    /// all sinks are finished. The errors are those that [`Restorer::take_errors`] would still give.
    pub fn finish(mut self) -> (RestoreReport, Vec<ItemError>) {
        while !self.stack.is_empty() {
            self.leave();
        }
        for link in self.shared.links.take_waiting() {
            match self.link(&link) {
                Ok(()) => self.report.links += 1,
                Err(e) => self.report_error(item_error(&link.path, "write", e)),
            }
        }
        for (dir, node, path) in std::mem::take(&mut self.late) {
            self.finish_folder(&dir, &node, &path);
        }
        if !self.options.no_sync
            && !self.options.dry_run
            && let Some(top) = &self.top
            && let Err(e) = top.fd().and_then(|fd| Ok(rustix::fs::syncfs(fd)?))
        {
            let e = item_error(Path::new("/"), "write", format_args!("the disk did not confirm: {e}"));
            self.report_error(e);
        }
        if self.lost_errors > 0 {
            let message = format!("{} more entries failed", self.lost_errors);
            self.errors.push_back(item_error(Path::new("/"), "write", message));
        }
        self.report.files += self.shared.files.load(Ordering::Relaxed);
        self.report.bytes += self.shared.bytes.load(Ordering::Relaxed);
        self.report.owners_kept = self.shared.ownership.kept();
        let errors = self.take_errors();
        (self.report, errors)
    }

    fn path_of(&self, node: &Node) -> PathBuf {
        let parent = self.stack.last().map_or(Path::new("/"), |l| l.path.as_path());
        // A name with a slash is refused later; here it must not become another path in a report.
        match node.name.contains(&b'/') {
            true => parent.join(OsStr::from_bytes(&node.name).to_string_lossy().replace('/', "\u{2215}")),
            false => parent.join(OsStr::from_bytes(&node.name)),
        }
    }

    fn report_error(&mut self, error: ItemError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push_back(error);
        } else {
            self.lost_errors += 1;
        }
    }
}

/// FILE-2: a name that stays in its folder. The decoder checks too; this is the last guard before the kernel.
fn c_name(node: &Node) -> io::Result<CString> {
    let name = node.name.as_slice();
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(io::Error::other("FILE-2: refused, a name that could leave the target folder"));
    }
    CString::new(name).map_err(|_| io::Error::other("FILE-2: refused, a name with a NUL in it"))
}

/// A name that nothing has: counted up from a random one.
fn temporary_name() -> io::Result<CString> {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = match NEXT.get() {
        Some(next) => next,
        None => {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            NEXT.get_or_init(|| AtomicU64::new(u64::from_le_bytes(random)))
        }
    };
    Ok(CString::new(format!("{TEMPORARY}{:016x}", next.fetch_add(1, Ordering::Relaxed)))?)
}

fn rename(dir: &Dir, from: &CStr, to: &CStr) -> io::Result<()> {
    let fd = dir.fd_once()?;
    rustix::fs::renameat(&fd, from, &fd, to).map_err(|e| {
        let _ = rustix::fs::unlinkat(&fd, from, AtFlags::empty());
        e.into()
    })
}

/// Removes what a killed restore left in a folder. Best effort: what stays is only untidy.
fn sweep(dir: &Dir) {
    let Ok((names, _)) = dir.names() else { return };
    for name in names {
        let stale = name.to_bytes().starts_with(TEMPORARY.as_bytes()) && name.to_bytes().len() == TEMPORARY.len() + 16;
        if stale && let Ok(fd) = dir.fd() {
            let _ = rustix::fs::unlinkat(fd, &name, AtFlags::empty());
        }
    }
}
