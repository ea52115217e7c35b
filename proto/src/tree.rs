//! Trees: what a snapshot knows about files and folders, and how long contents are listed.
//!
//! A folder's content is the concatenation of its nodes, each behind its length, sorted by name, cut into metadata
//! chunks between nodes. Where to cut follows from each node's own name and size, so a changed entry changes its
//! own chunk and no other. A snapshot's root is the content of a nameless folder.
//!
//! Restoring trusts nothing here: names that could leave the target folder do not decode.

mod content;
mod writer;

#[cfg(test)]
mod tests;

pub use content::{ContentRef, INLINE_IDS_MAX, LIST_DEPTH_MAX, LIST_IDS_MAX, ListBuilder, decode_list};
pub use writer::{NodeIter, TREE_CHUNK_MAX, TreeWriter, decode_nodes};

use crate::{
    DecodeError,
    layout::{Reader, at_most, put_bytes, put_number, put_option, put_signed},
};

/// Longest entry name in bytes: 16 times what any common file system allows.
pub const NAME_MAX: usize = 4096;
/// Longest symlink target in bytes; Linux allows 4,095, other systems up to 65,535.
pub const LINK_TARGET_MAX: usize = 65_536;
/// Most bytes of all extended attributes of a node, names and values: 16 times what ext4 keeps for one.
pub const XATTRS_MAX: usize = 1 << 20;
/// Longest extended attribute name: Linux' `XATTR_NAME_MAX`.
pub const XATTR_NAME_MAX: usize = 255;
/// Longest user or group name in bytes.
pub const OWNER_NAME_MAX: usize = 256;
/// Most holes of a sparse file; past it the smallest holes are backed up as zeros.
pub const HOLES_MAX: usize = 65_536;
/// Most bytes of an encoded node: xattrs, holes and content each have room.
pub const NODE_MAX: usize = 2 << 20;

const WHAT: &str = "tree node";
const VERSION: u8 = 1;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum NodeKind {
    /// Regular file.
    File = 1,
    /// Folder.
    Dir = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Unix socket.
    Socket = 5,
    /// Character device.
    CharDevice = 6,
    /// Block device.
    BlockDevice = 7,
}

impl NodeKind {
    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::File,
            2 => Self::Dir,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::CharDevice,
            7 => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// A file system's time: seconds since 1970 and nanoseconds below 1,000,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Whole seconds, before 1970 negative.
    pub secs: i64,
    /// Nanoseconds that come on top.
    pub nanos: u32,
}

/// One entry of a folder. Fields are public because [`Node::encode`] and [`Node::decode`] check all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name in its folder: raw bytes, 1..=4096, no `/`, no NUL, not `.` or `..`.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits (the low 12 bits of `st_mode`; other bits may be there and are kept).
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Owner's name, when the system knew one.
    pub user: Option<String>,
    /// Group's name, when the system knew one.
    pub group: Option<String>,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Last change of the inode; only for noticing changes, never restored.
    pub ctime: FileTime,
    /// Size in bytes, holes included.
    pub size: u64,
    /// Inode number.
    pub inode: u64,
    /// Device that the inode is on.
    pub device_id: u64,
    /// Hard links to the inode.
    pub links: u64,
    /// Target; only symlinks have one.
    pub link_target: Vec<u8>,
    /// Device number; only devices have one.
    pub rdev: u64,
    /// Extended attributes, name and value; encoded in the order of their names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The same number on all names of one inode within a snapshot; `None` when there is one name.
    pub hardlink: Option<u64>,
    /// Holes of a sparse file, (offset, length), ascending and apart. The content then is the data between them,
    /// one extent behind the other.
    pub holes: Vec<(u64, u64)>,
    /// Where the bytes (of a file) or the entries (of a folder) are.
    pub content: ContentRef,
}

impl Node {
    /// An entry with everything else zero, empty or `None`.
    #[must_use]
    pub fn new(name: Vec<u8>, kind: NodeKind) -> Self {
        Self {
            name,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            size: 0,
            inode: 0,
            device_id: 0,
            links: 1,
            link_target: Vec::new(),
            rdev: 0,
            xattrs: Vec::new(),
            hardlink: None,
            holes: Vec::new(),
            content: ContentRef::empty(),
        }
    }

    /// Checks and encodes, without the length in front.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut xattrs: Vec<_> = self.xattrs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
        xattrs.sort_unstable();
        self.check(&xattrs)?;
        let mut out = Vec::with_capacity(160 + self.content.ids.len() * 32);
        out.push(VERSION);
        out.push(self.kind as u8);
        put_bytes(&mut out, &self.name);
        for number in [self.mode, self.uid, self.gid] {
            put_number(&mut out, number.into());
        }
        for owner in [&self.user, &self.group] {
            put_option(&mut out, owner.as_ref(), |out, name| put_bytes(out, name.as_bytes()));
        }
        for time in [self.mtime, self.ctime] {
            put_signed(&mut out, time.secs);
            put_number(&mut out, time.nanos.into());
        }
        for number in [self.size, self.inode, self.device_id, self.links] {
            put_number(&mut out, number);
        }
        put_bytes(&mut out, &self.link_target);
        put_number(&mut out, self.rdev);
        put_number(&mut out, xattrs.len() as u64);
        for (name, value) in xattrs {
            put_bytes(&mut out, name);
            put_bytes(&mut out, value);
        }
        put_option(&mut out, self.hardlink, put_number);
        put_number(&mut out, self.holes.len() as u64);
        for (offset, length) in &self.holes {
            put_number(&mut out, *offset);
            put_number(&mut out, *length);
        }
        self.content.put(&mut out);
        at_most(WHAT, NODE_MAX, out.len())?;
        Ok(out)
    }

    /// Decodes what [`Node::encode`] gave.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, NODE_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        r.version(VERSION)?;
        let kind = NodeKind::from_u8(r.byte()?).ok_or(r.invalid("unknown kind"))?;
        let name = r.bytes(NAME_MAX)?.to_vec();
        let (mode, uid, gid) = (r.u32()?, r.u32()?, r.u32()?);
        let user = r.option(|r| r.text(OWNER_NAME_MAX))?;
        let group = r.option(|r| r.text(OWNER_NAME_MAX))?;
        let mtime = FileTime { secs: r.signed()?, nanos: r.u32()? };
        let ctime = FileTime { secs: r.signed()?, nanos: r.u32()? };
        let (size, inode, device_id, links) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let link_target = r.bytes(LINK_TARGET_MAX)?.to_vec();
        let rdev = r.u64()?;
        let mut xattrs = Vec::new();
        for _ in 0..r.count(XATTRS_MAX, 3)? {
            xattrs.push((r.bytes(XATTR_NAME_MAX)?.to_vec(), r.bytes(XATTRS_MAX)?.to_vec()));
        }
        let hardlink = r.option(Reader::u64)?;
        let mut holes = Vec::new();
        for _ in 0..r.count(HOLES_MAX, 2)? {
            holes.push((r.u64()?, r.u64()?));
        }
        let content = ContentRef::read(&mut r)?;
        r.finish()?;
        let node = Self {
            name,
            kind,
            mode,
            uid,
            gid,
            user,
            group,
            mtime,
            ctime,
            size,
            inode,
            device_id,
            links,
            link_target,
            rdev,
            xattrs,
            hardlink,
            holes,
            content,
        };
        let borrowed: Vec<_> = node.xattrs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
        node.check(&borrowed)?;
        Ok(node)
    }

    fn check(&self, xattrs: &[(&[u8], &[u8])]) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: WHAT, why });
        at_most("entry name", NAME_MAX, self.name.len())?;
        if matches!(self.name.as_slice(), b"" | b"." | b"..") || self.name.iter().any(|b| matches!(b, b'/' | 0)) {
            return bad("a name that is empty, . or .., or has a slash or NUL in it");
        }
        for owner in [&self.user, &self.group].into_iter().flatten() {
            at_most("owner name", OWNER_NAME_MAX, owner.len())?;
        }
        if self.mtime.nanos >= 1_000_000_000 || self.ctime.nanos >= 1_000_000_000 {
            return bad("a time with a second or more of nanoseconds");
        }
        at_most("link target", LINK_TARGET_MAX, self.link_target.len())?;
        if self.kind != NodeKind::Symlink && !self.link_target.is_empty() {
            return bad("a link target on something else than a symlink");
        }
        let mut total = 0usize;
        for (name, value) in xattrs {
            at_most("xattr name", XATTR_NAME_MAX, name.len())?;
            total = total.saturating_add(name.len()).saturating_add(value.len());
            if name.is_empty() || name.contains(&0) {
                return bad("an extended attribute without a proper name");
            }
        }
        at_most("xattrs", XATTRS_MAX, total)?;
        if !xattrs.is_sorted_by(|a, b| a.0 < b.0) {
            return bad("extended attributes out of order or twice");
        }
        at_most("holes", HOLES_MAX, self.holes.len())?;
        let mut end = None;
        for (offset, length) in &self.holes {
            let stop = offset.checked_add(*length).filter(|stop| *length > 0 && *stop <= self.size);
            if end.is_some_and(|end| *offset <= end) || stop.is_none() {
                return bad("holes that are empty, touch, are out of order or lie outside the file");
            }
            end = stop;
        }
        if self.kind != NodeKind::File && !self.holes.is_empty() {
            return bad("holes in something else than a file");
        }
        if !matches!(self.kind, NodeKind::File | NodeKind::Dir) && !self.content.ids.is_empty() {
            return bad("content on something else than a file or a folder");
        }
        self.content.check()
    }
}
