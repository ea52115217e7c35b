//! Reads one file for a backup: only its data extents, in order, and never without noticing that it changed.
//!
//! - **FILE-4** A file that is another one by now, or changes while it is read, is reported. Enforced by
//!   [`SourceFile::open`] and [`read_file`]; attacked by `files::tests::read`.

use std::{fs::File, io, os::unix::fs::FileExt};

use cairn_proto::tree::{FileTime, Node};
use rustix::{
    fs::{Advice, FileType, Mode, OFlags, SeekFrom},
    io::Errno,
};

use super::{dir::identity, item_error, meta, walk::Entry};
use crate::ops::ItemError;

/// Bytes read at once: long enough to keep a disk streaming, short beside a run.
pub const READ_BUFFER: usize = 1 << 20;

/// Most holes kept of one file. At up to 20 bytes each that is 320 KiB of a node's 2 MiB; later holes are read as zeros,
/// which compress to nothing.
const HOLES_KEPT: usize = 16_384;

/// Smallest hole kept: below it the zeros cost less than the note about them.
const HOLE_MIN: u64 = 64 << 10;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be opened or looked at.
    #[error("cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// Its name belongs to another file than when it was listed.
    #[error("was replaced by another file since it was listed")]
    Replaced,
    /// Reading failed half-way.
    #[error("cannot be read at byte {offset}: {source}")]
    Read {
        /// Where.
        offset: u64,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl ReadError {
    /// As an item of the report.
    #[must_use]
    pub fn about(&self, entry: &Entry) -> ItemError {
        item_error(&entry.path, "read", self)
    }
}

/// What was seen when the file was opened and must still be so at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    size: u64,
    mtime: FileTime,
    ctime: FileTime,
}

/// An open source file, read from its first data byte to its last.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    seen: Seen,
    holes: Vec<(u64, u64)>,
    next_hole: usize,
    at: u64,
    short: bool,
}

impl SourceFile {
    /// Opens the file that the walk listed, and makes sure that it is the same one.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(entry: &Entry) -> Result<Self, ReadError> {
        let name = entry.c_name().map_err(ReadError::Open)?;
        let dir = entry.dir.fd().map_err(ReadError::Open)?;
        // Not blocking: the name may be a pipe by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match rustix::fs::openat(&dir, &name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may leave the access time alone.
            Err(Errno::PERM) => rustix::fs::openat(&dir, &name, flags, Mode::empty()),
            other => other,
        };
        let fd = match fd {
            Err(Errno::LOOP) => return Err(ReadError::Replaced),
            other => other.map_err(|e| ReadError::Open(e.into()))?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| ReadError::Open(e.into()))?;
        if identity(&stat) != (entry.node.device_id, entry.node.inode)
            || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        {
            return Err(ReadError::Replaced);
        }
        let seen = Self::look(&stat);
        let holes = if allocated(&stat) < seen.size { find_holes(&fd, seen.size) } else { Vec::new() };
        // A hint only.
        let _ = rustix::fs::fadvise(&fd, 0, None, Advice::Sequential);
        Ok(Self { file: fd.into(), seen, holes, next_hole: 0, at: 0, short: false })
    }

    #[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
    fn look(stat: &rustix::fs::Stat) -> Seen {
        Seen { size: stat.st_size as u64, mtime: meta::mtime(stat), ctime: meta::ctime(stat) }
    }

    /// Size when it was opened, holes included. No more is read, however it grows.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.seen.size
    }

    /// Holes, ascending and apart.
    #[must_use]
    pub fn holes(&self) -> &[(u64, u64)] {
        &self.holes
    }

    /// Reads the next data bytes; 0 at the end.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        loop {
            let stop = match self.holes.get(self.next_hole) {
                Some(&(start, len)) if start == self.at => {
                    self.at = start + len;
                    self.next_hole += 1;
                    continue;
                }
                Some(&(start, _)) => start,
                None => self.seen.size,
            };
            let wanted = usize::try_from(stop - self.at).unwrap_or(usize::MAX).min(buffer.len());
            if wanted == 0 || self.short {
                return Ok(0);
            }
            match self.file.read_at(&mut buffer[..wanted], self.at) {
                Ok(0) => {
                    self.short = true;
                    return Ok(0);
                }
                Ok(n) => {
                    self.at += n as u64;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ReadError::Read { offset: self.at, source }),
            }
        }
    }

    /// Ends the reading: puts what was read into the node (size, times, holes) and says whether the file stayed the
    /// same all the while.
    ///
    /// # Errors
    /// When it cannot be looked at any more.
    pub fn finish(mut self, node: &mut Node) -> Result<bool, ReadError> {
        let stat = rustix::fs::fstat(&self.file).map_err(|e| ReadError::Open(e.into()))?;
        let same = Self::look(&stat) == self.seen && !self.short;
        if self.short {
            // It was cut while it was read: the node must fit the bytes that were handed out.
            self.seen.size = self.at;
            self.holes.retain(|(start, len)| start + len <= self.at);
        }
        node.size = self.seen.size;
        node.mtime = self.seen.mtime;
        node.ctime = self.seen.ctime;
        node.holes = self.holes;
        Ok(same)
    }
}

#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
fn allocated(stat: &rustix::fs::Stat) -> u64 {
    (stat.st_blocks as u64).saturating_mul(512)
}

/// The holes of a file. A file system that knows none says that all is data; an error means the same here, for then
/// the zeros are read.
pub(crate) fn find_holes(fd: &std::os::fd::OwnedFd, size: u64) -> Vec<(u64, u64)> {
    let mut holes: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size && holes.len() < HOLES_KEPT {
        let Ok(hole) = rustix::fs::seek(fd, SeekFrom::Hole(at)) else { break };
        if hole >= size {
            break;
        }
        let data = match rustix::fs::seek(fd, SeekFrom::Data(hole)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(_) => break,
        };
        if data <= hole {
            break;
        }
        if data - hole >= HOLE_MIN {
            holes.push((hole, data - hole));
        }
        at = data;
    }
    holes
}

/// Takes a file's content as it is read.
pub trait ContentSink {
    /// Why it cannot take more; ends the reading.
    type Error;

    /// The file changed while it was read: forget what came so far, it comes again from the start.
    fn restart(&mut self);

    /// Where the next bytes go; never empty.
    fn room(&mut self) -> &mut [u8];

    /// So many bytes are in [`Self::room`] now, not all of which need have been used.
    ///
    /// # Errors
    /// Ends the reading.
    fn filled(&mut self, bytes: usize) -> Result<(), Self::Error>;
}

/// Why [`read_file`] ended early.
#[derive(Debug)]
pub enum ReadFailure<E> {
    /// The file: report it and go on with the next.
    Source(ReadError),
    /// The sink: the whole work ends.
    Sink(E),
}

/// Whether the file held still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stability {
    /// It did; perhaps only the second time.
    Stable,
    /// It changed during both readings. What was read the second time was kept; here is what to report.
    Changed(ItemError),
}

/// Reads a listed file into `sink` and completes the entry's node (size, times, holes). A file that changes meanwhile is
/// read a second time, then kept as it came.
///
/// # Errors
/// See [`ReadFailure`].
pub fn read_file<S: ContentSink>(entry: &mut Entry, sink: &mut S) -> Result<Stability, ReadFailure<S::Error>> {
    let mut first = true;
    loop {
        let mut file = SourceFile::open(entry).map_err(ReadFailure::Source)?;
        loop {
            let room = sink.room();
            let piece = room.len().min(READ_BUFFER);
            match file.read(&mut room[..piece]).map_err(ReadFailure::Source)? {
                0 => break,
                n => sink.filled(n).map_err(ReadFailure::Sink)?,
            }
        }
        if file.finish(&mut entry.node).map_err(ReadFailure::Source)? {
            return Ok(Stability::Stable);
        }
        if !first {
            return Ok(Stability::Changed(item_error(&entry.path, "read", "changed while it was read")));
        }
        first = false;
        sink.restart();
    }
}
