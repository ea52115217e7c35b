//! What the kernel says about an entry, as a [`Node`]. Content, and holes, are the reader's part.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use cairn_proto::tree::{FileTime, LINK_TARGET_MAX, Node, NodeKind, OWNER_NAME_MAX, XATTR_NAME_MAX, XATTRS_MAX};
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};

use super::dir::{Dir, identity};

/// Names of users and groups, read once. Only the local files are asked: directory services would need the C library's
/// lookup and may block; numbers are always kept and are what a restore uses.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

/// Longest user or group file read: some organisations have a hundred thousand accounts, at about 80 bytes each.
const OWNER_FILE_MAX: u64 = 32 << 20;

impl Owners {
    /// Reads `/etc/passwd` and `/etc/group`; what cannot be read is empty.
    #[must_use]
    pub fn load() -> Self {
        Self { users: Self::table("/etc/passwd"), groups: Self::table("/etc/group") }
    }

    fn table(path: &str) -> BTreeMap<u32, String> {
        use std::io::Read;
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(path) {
            // A part read is as good as none for the names that are missing.
            let _ = file.take(OWNER_FILE_MAX).read_to_end(&mut text);
        }
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> BTreeMap<u32, String> {
        let mut table = BTreeMap::new();
        for line in text.split(|b| *b == b'\n') {
            let mut fields = line.split(|b| *b == b':');
            let (name, number) = (fields.next(), fields.nth(1));
            let Some(name) = name.and_then(|n| std::str::from_utf8(n).ok()) else { continue };
            let Some(number) = number.and_then(|n| std::str::from_utf8(n).ok()?.parse().ok()) else { continue };
            if !name.is_empty() && name.len() <= OWNER_NAME_MAX {
                table.entry(number).or_insert_with(|| name.to_owned());
            }
        }
        table
    }

    /// A user's name.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<String> {
        self.users.get(&uid).cloned()
    }

    /// A group's name.
    #[must_use]
    pub fn group(&self, gid: u32) -> Option<String> {
        self.groups.get(&gid).cloned()
    }
}

/// The kind of an entry; `None` for kinds that no snapshot knows.
#[must_use]
pub fn kind(stat: &Stat) -> Option<NodeKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Dir,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::BlockDevice => NodeKind::BlockDevice,
        _ => return None,
    })
}

/// Last change of the content.
#[must_use]
#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
pub fn mtime(stat: &Stat) -> FileTime {
    FileTime { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 }
}

/// Last change of the inode.
#[must_use]
#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
pub fn ctime(stat: &Stat) -> FileTime {
    FileTime { secs: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 }
}

/// The number that all names of one inode share. It follows from the inode and not from the order of the walk, so
/// that a new name elsewhere leaves the other nodes of a snapshot as they are.
#[must_use]
pub fn hardlink_key(device: u64, inode: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&device.to_le_bytes());
    bytes[8..].copy_from_slice(&inode.to_le_bytes());
    let hash = blake3::hash(&bytes);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
}

/// The node of an entry from its stat alone: no link target, no extended attributes.
///
/// # Errors
/// When the kind is unknown.
#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
pub fn from_stat(name: &CStr, stat: &Stat, owners: &Owners) -> io::Result<Node> {
    let kind = kind(stat).ok_or_else(|| io::Error::other("an entry of unknown kind"))?;
    let mut node = Node::new(name.to_bytes().to_vec(), kind);
    let (device, inode) = identity(stat);
    node.mode = stat.st_mode as u32 & 0o7777;
    node.uid = stat.st_uid as u32;
    node.gid = stat.st_gid as u32;
    node.user = owners.user(node.uid);
    node.group = owners.group(node.gid);
    node.mtime = mtime(stat);
    node.ctime = ctime(stat);
    node.inode = inode;
    node.device_id = device;
    node.links = stat.st_nlink as u64;
    match kind {
        NodeKind::File => node.size = stat.st_size as u64,
        NodeKind::CharDevice | NodeKind::BlockDevice => node.rdev = stat.st_rdev as u64,
        _ => {}
    }
    if kind != NodeKind::Dir && node.links > 1 {
        node.hardlink = Some(hardlink_key(device, inode));
    }
    Ok(node)
}

/// The node of the entry `name` of `dir`, and what could not be read of it.
///
/// # Errors
/// When it cannot be looked at at all.
pub fn node_at(dir: &Dir, name: &CStr, stat: &Stat, owners: &Owners) -> io::Result<(Node, Option<io::Error>)> {
    let mut node = from_stat(name, stat, owners)?;
    if node.kind == NodeKind::Symlink {
        let target = rustix::fs::readlinkat(dir.fd()?, name, Vec::new())?.into_bytes();
        if target.len() > LINK_TARGET_MAX {
            return Err(io::Error::other("a symlink target beyond all limits"));
        }
        node.size = target.len() as u64;
        node.link_target = target;
    }
    let warning = match xattrs_at(dir, name) {
        Ok(xattrs) => {
            node.xattrs = xattrs;
            None
        }
        Err(e) => Some(e),
    };
    Ok((node, warning))
}

/// The node of an open directory, and what could not be read of it.
///
/// # Errors
/// When it cannot be looked at at all.
pub fn node_of_dir(dir: &Dir, name: &CStr, owners: &Owners) -> io::Result<(Node, Option<io::Error>)> {
    let mut node = from_stat(name, &dir.stat()?, owners)?;
    let warning = match xattrs_of(dir.fd()?) {
        Ok(xattrs) => {
            node.xattrs = xattrs;
            None
        }
        Err(e) => Some(e),
    };
    Ok((node, warning))
}

/// Extended attributes, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Extended attributes of an entry that is not open, never of what a symlink points to. Needs `/proc`.
///
/// # Errors
/// When they exist and cannot be read; a file system without any has none.
pub fn xattrs_at(dir: &Dir, name: &CStr) -> io::Result<Xattrs> {
    let (_fd, path) = dir.proc_path(name)?;
    let path = CString::new(path)?;
    gather(
        |buffer| rustix::fs::llistxattr(&*path, buffer),
        |attribute, buffer| rustix::fs::lgetxattr(&*path, attribute, buffer),
    )
}

/// Extended attributes of an open file or directory.
///
/// # Errors
/// When they exist and cannot be read; a file system without any has none.
pub fn xattrs_of(fd: impl AsFd) -> io::Result<Xattrs> {
    gather(
        |buffer| rustix::fs::flistxattr(fd.as_fd(), buffer),
        |attribute, buffer| rustix::fs::fgetxattr(fd.as_fd(), attribute, buffer),
    )
}

/// Linux' limit for a list of names and for one value.
const XATTR_SIZE_MAX: usize = 64 << 10;

fn gather(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    let names = match fill(&list) {
        Ok(names) => names,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(e) => return Err(xattr_error(e)),
    };
    let mut found = Xattrs::new();
    let mut total = 0;
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if name.is_empty() || name.to_bytes().len() > XATTR_NAME_MAX {
            continue;
        }
        let value = match fill(|buffer| get(name, buffer)) {
            Ok(value) => value,
            // Removed meanwhile, or one that only another user may see.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(e) => return Err(xattr_error(e)),
        };
        total += name.to_bytes().len() + value.len();
        if total > XATTRS_MAX {
            return Err(io::Error::other("extended attributes of more than a MiB"));
        }
        found.push((name.to_bytes().to_vec(), value));
    }
    found.sort_unstable();
    found.dedup_by(|a, b| a.0 == b.0);
    Ok(found)
}

fn fill(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match call(&mut small) {
        Ok(len) => Ok(small[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_SIZE_MAX];
            let len = call(&mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

fn xattr_error(errno: Errno) -> io::Error {
    let e = io::Error::from(errno);
    io::Error::new(e.kind(), format!("its extended attributes cannot be read: {e}"))
}

/// A path's last component as a C string; the kernel's names have no NUL, a person's may.
///
/// # Errors
/// When there is a NUL inside.
pub fn c_name(name: &std::ffi::OsStr) -> io::Result<CString> {
    Ok(CString::new(name.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_files_are_read_line_by_line() {
        let table =
            Owners::parse(b"root:x:0:0:root:/root:/bin/sh\nbroken\n:x:5:\nu:x:notanumber:\nalice:x:1000:1000\n");
        assert_eq!(table.len(), 2);
        assert_eq!(table[&1000], "alice");
        assert_eq!(table[&0], "root");
    }

    #[test]
    fn hard_link_keys_tell_devices_and_inodes_apart() {
        assert_ne!(hardlink_key(1, 2), hardlink_key(2, 1));
        assert_eq!(hardlink_key(7, 9), hardlink_key(7, 9));
    }
}
