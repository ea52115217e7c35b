//! Sets what an entry is beside its content: owner, extended attributes, mode, time, in this order, since a change of
//! owner clears mode bits and capabilities, and every one of them may touch the next.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicU64, Ordering},
};

use cairn_proto::tree::{Node, NodeKind};
use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags},
    io::Errno,
};

use crate::files::dir::Dir;

/// Set-user-id and set-group-id: they mean the owner, so they go when the owner could not be set.
const SET_ID_BITS: u32 = 0o6000;

/// What this process may do about owners, and how often it could not.
#[derive(Debug)]
pub(super) struct Ownership {
    root: bool,
    kept: AtomicU64,
}

impl Ownership {
    pub(super) fn of_this_process() -> Self {
        Self { root: rustix::process::geteuid().is_root(), kept: AtomicU64::new(0) }
    }

    /// Entries whose owner or group stayed that of this process.
    pub(super) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Sets the attributes of an open file or folder. What fails does not hinder the rest.
    pub(super) fn apply_to_fd(&self, fd: impl AsFd, node: &Node) -> Result<(), Vec<io::Error>> {
        let fd = fd.as_fd();
        let mut failed = Failed::default();
        let stat = failed.keep("looked at", rustix::fs::fstat(fd));
        let owned = self.own(node, stat.as_ref(), &mut failed, |uid, gid| rustix::fs::fchown(fd, uid, gid));
        self.set_xattrs(node, &mut failed, |name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()));
        failed.keep("given its mode", rustix::fs::fchmod(fd, mode(node, owned)));
        failed.keep("given its time", rustix::fs::futimens(fd, &times(node)));
        failed.into_result()
    }

    /// Sets the attributes of an entry by its name, never those of what a symlink points to.
    pub(super) fn apply_to_name(&self, dir: &Dir, name: &CStr, node: &Node) -> Result<(), Vec<io::Error>> {
        let mut failed = Failed::default();
        let Ok(at) = dir.fd_once() else { return Err(vec![io::Error::other("its folder is gone")]) };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = failed.keep("looked at", rustix::fs::statat(&at, name, flags));
        let owned =
            self.own(node, stat.as_ref(), &mut failed, |uid, gid| rustix::fs::chownat(&at, name, uid, gid, flags));
        if !node.xattrs.is_empty()
            && let Ok((_fd, path)) = dir.proc_path(name)
        {
            self.set_xattrs(node, &mut failed, |attribute, value| {
                rustix::fs::lsetxattr(path.as_slice(), attribute, value, XattrFlags::empty())
            });
        }
        if node.kind != NodeKind::Symlink {
            let set = set_mode(&at, name, mode(node, owned));
            failed.keep("given its mode", set);
        }
        failed.keep("given its time", rustix::fs::utimensat(&at, name, &times(node), flags));
        failed.into_result()
    }

    /// Whether the entry belongs to whom it should now.
    fn own(
        &self,
        node: &Node,
        stat: Option<&Stat>,
        failed: &mut Failed,
        chown: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> bool {
        if stat.is_some_and(|stat| (stat.st_uid, stat.st_gid) == (node.uid, node.gid)) {
            return true;
        }
        // All ones is the system's word for "leave it".
        if node.uid != u32::MAX && node.gid != u32::MAX {
            let (uid, gid) = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
            match chown(uid, gid) {
                Ok(()) => return true,
                Err(Errno::PERM | Errno::INVAL) => {
                    // A member of the group may at least give it to the group.
                    let _ = chown(None, gid);
                }
                Err(e) => failed.add("given its owner", e),
            }
        }
        self.kept.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn set_xattrs(&self, node: &Node, failed: &mut Failed, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) {
        for (name, value) in &node.xattrs {
            // Only root may set these; without root they are the system's to make anew (labels, capabilities).
            let for_root = name.starts_with(b"security.") || name.starts_with(b"trusted.");
            match set(name, value) {
                Err(_) if for_root && !self.root => {}
                result => {
                    failed.keep("given its extended attributes", result);
                }
            }
        }
    }
}

#[derive(Default)]
struct Failed(Vec<io::Error>);

impl Failed {
    fn add(&mut self, what: &str, errno: Errno) {
        let e = io::Error::from(errno);
        self.0.push(io::Error::new(e.kind(), format!("it could not be {what}: {e}")));
    }

    fn keep<T>(&mut self, what: &str, result: rustix::io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                self.add(what, e);
                None
            }
        }
    }

    fn into_result(self) -> Result<(), Vec<io::Error>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

fn mode(node: &Node, owned: bool) -> Mode {
    let bits = node.mode & 0o7777;
    Mode::from_raw_mode(if owned { bits } else { bits & !SET_ID_BITS })
}

fn times(node: &Node) -> Timestamps {
    let mtime = Timespec { tv_sec: node.mtime.secs, tv_nsec: node.mtime.nanos.into() };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: mtime }
}

/// Sets the mode of a name that is no symlink. Linux has no call that does so without following one; the path of a
/// descriptor is exact.
pub(super) fn set_mode(at: impl AsFd, name: &CStr, mode: Mode) -> rustix::io::Result<()> {
    let fd = rustix::fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmodat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), mode, AtFlags::empty())
}

/// Makes a symlink, pipe, socket or device under a new name.
pub(super) fn make_other(dir: &Dir, name: &CStr, node: &Node) -> io::Result<()> {
    let at = dir.fd()?;
    let file_type = match node.kind {
        NodeKind::Symlink => return Ok(rustix::fs::symlinkat(node.link_target.as_slice(), at, name)?),
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharacterDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
        NodeKind::File | NodeKind::Dir => return Err(io::Error::other("not an entry of a special kind")),
    };
    rustix::fs::mknodat(at, name, file_type, Mode::RUSR | Mode::WUSR, node.rdev).map_err(|e| match e {
        Errno::PERM => io::Error::new(io::ErrorKind::PermissionDenied, "only root may make a device"),
        e => e.into(),
    })
}
