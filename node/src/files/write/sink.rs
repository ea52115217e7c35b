//! Takes one file's content and puts the whole file in its place at the end, or nothing.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use cairn_proto::tree::Node;
use rustix::fs::{Advice, Mode, OFlags};

use super::{Disk, Shared, rename, temporary_name};
use crate::{
    files::{dir::Dir, item_error},
    ops::ItemError,
};

/// Bytes read back at once when verifying.
const VERIFY_BUFFER: usize = 256 << 10;

/// A file being restored. Dropped without [`FileSink::finish`], it leaves no trace and what was there stays (FILE-3).
#[derive(Debug)]
pub struct FileSink {
    shared: Arc<Shared>,
    dir: Arc<Dir>,
    name: CString,
    node: Node,
    path: PathBuf,
    /// Made with the first bytes, so that files that wait for theirs hold no descriptor.
    open: Option<Temporary>,
    data: u64,
    written: u64,
    at: u64,
    next_hole: usize,
    hasher: Option<Box<blake3::Hasher>>,
    sync: bool,
    finished: bool,
}

#[derive(Debug)]
struct Temporary {
    name: CString,
    file: File,
}

/// Bytes of content that a file's node has beside its holes.
pub(super) fn data_len(node: &Node) -> io::Result<u64> {
    let broken = || io::Error::other("refused, holes that do not fit into the file");
    let (mut end, mut empty) = (0u64, 0u64);
    for &(start, len) in &node.holes {
        if start < end || len == 0 {
            return Err(broken());
        }
        end = start.checked_add(len).ok_or_else(broken)?;
        empty += len;
    }
    if end > node.size {
        return Err(broken());
    }
    Ok(node.size - empty)
}

impl FileSink {
    pub(super) fn create(
        shared: Arc<Shared>,
        dir: Arc<Dir>,
        name: CString,
        mut node: Node,
        path: PathBuf,
        sync: bool,
    ) -> io::Result<Self> {
        let data = data_len(&node)?;
        let hasher = shared.verify.then(Box::default);
        // What it consists of is the caller's business, but tells names of one inode from those that only say so.
        if node.hardlink.is_none() {
            node.content.ids = Vec::new();
        }
        Ok(Self {
            shared,
            dir,
            name,
            node,
            path,
            open: None,
            data,
            written: 0,
            at: 0,
            next_hole: 0,
            hasher,
            sync,
            finished: false,
        })
    }

    /// Path in the snapshot.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Bytes that are still wanted.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.data - self.written
    }

    /// The next bytes of the content: data extents one behind the other, holes left out.
    ///
    /// # Errors
    /// The item that failed; drop the sink then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ItemError> {
        self.put(bytes).map_err(|e| self.failed(&e))
    }

    /// Puts the file in its place. What is returned are attributes that could not be set; the content stands.
    ///
    /// # Errors
    /// The item that failed: what was there before still stands.
    pub fn finish(mut self) -> Result<Vec<ItemError>, ItemError> {
        match self.complete() {
            Ok(warnings) => Ok(warnings.into_iter().map(|e| item_error(&self.path, "write", e)).collect()),
            Err(e) => Err(self.failed(&e)),
        }
    }

    /// Tells when the disk is full.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.shared.disk.clone()
    }

    fn failed(&self, error: &io::Error) -> ItemError {
        self.shared.disk.heed(error);
        item_error(&self.path, "write", error)
    }

    fn file(&mut self) -> io::Result<&File> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let name = temporary_name()?;
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(self.dir.fd_once()?, &name, flags, Mode::RUSR | Mode::WUSR)?;
                Temporary { name, file: file.into() }
            }
        };
        Ok(&self.open.insert(open).file)
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.missing() {
            return Err(io::Error::other("its content is longer than its size"));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        while !bytes.is_empty() {
            let stop = match self.node.holes.get(self.next_hole) {
                Some(&(start, len)) if start == self.at => {
                    self.at = start + len;
                    self.next_hole += 1;
                    continue;
                }
                Some(&(start, _)) => start,
                None => self.node.size,
            };
            let take = usize::try_from(stop - self.at).unwrap_or(usize::MAX).min(bytes.len());
            let at = self.at;
            self.file()?.write_all_at(&bytes[..take], at)?;
            self.at += take as u64;
            self.written += take as u64;
            bytes = &bytes[take..];
        }
        Ok(())
    }

    fn complete(&mut self) -> io::Result<Vec<io::Error>> {
        if self.missing() > 0 {
            let missing = self.missing();
            return Err(io::Error::other(format!("{missing} bytes of its content are missing")));
        }
        let size = self.node.size;
        let has_holes = !self.node.holes.is_empty();
        let file = self.file()?;
        if has_holes {
            // Makes the last hole; the others are where nothing was written.
            file.set_len(size)?;
        }
        if self.hasher.is_some() {
            self.verify()?;
        } else if self.sync {
            self.file()?.sync_data()?;
        }
        let mut warnings = Vec::new();
        if let Some(open) = &self.open {
            warnings = self.shared.ownership.apply_to_fd(&open.file, &self.node).err().unwrap_or_default();
            rename(&self.dir, &open.name, &self.name)?;
        }
        self.open = None;
        self.finished = true;
        self.shared.links.stands(&self.node, &self.dir, &self.name);
        self.shared.files.fetch_add(1, Ordering::Relaxed);
        self.shared.bytes.fetch_add(self.written, Ordering::Relaxed);
        Ok(warnings)
    }

    /// Reads the data extents back, from the disk as far as the system lets us, and compares.
    fn verify(&mut self) -> io::Result<()> {
        let Some(Temporary { file, .. }) = &self.open else { return Ok(()) };
        file.sync_data()?;
        // A hint: without it the bytes come from memory.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        if file.metadata()?.len() != self.node.size {
            return Err(io::Error::other("its size on the disk is wrong"));
        }
        let mut back = blake3::Hasher::new();
        let mut buffer = vec![0; VERIFY_BUFFER];
        let mut at = 0;
        let end = (self.node.size, 0);
        for &(start, len) in self.node.holes.iter().chain(std::iter::once(&end)) {
            while at < start {
                let take = usize::try_from(start - at).unwrap_or(usize::MAX).min(buffer.len());
                file.read_exact_at(&mut buffer[..take], at)?;
                back.update(&buffer[..take]);
                at += take as u64;
            }
            at = start + len;
        }
        if self.hasher.take().is_some_and(|written| written.finalize() != back.finalize()) {
            return Err(io::Error::other("what the disk gives back is not what was written"));
        }
        Ok(())
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.links.failed(&self.node);
        }
        if let Some(open) = &self.open
            && let Ok(fd) = self.dir.fd_once()
        {
            let _ = rustix::fs::unlinkat(fd, &open.name, rustix::fs::AtFlags::empty());
        }
    }
}
