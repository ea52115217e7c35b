//! What the store needs of a disk, so that tests and the simulator can put a failing one in its place.
//!
//! Calls block; the store makes them from its writer thread and from blocking workers only.
//!
//! What lies on whole blocks, in memory and in the file, goes to a real disk and comes from it around the page cache: others' shards do
//! not drive out what the volunteer's own programs read, and it takes a fraction of the processor time (ADR 0026). All else, and all
//! where the file system does not allow it, goes the usual way.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cairn_proto::record::DISK_BLOCK;

/// A file that grows at its end and is read anywhere.
pub trait SegmentFile: Send + Sync + 'static {
    /// Bytes in it.
    ///
    /// # Errors
    /// The system's.
    fn size(&self) -> io::Result<u64>;
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes a part of the slices, as `pwritev` does, and says how many bytes.
    ///
    /// # Errors
    /// The system's; some bytes may have been written all the same.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes everything written so far survive power loss.
    ///
    /// # Errors
    /// The system's; what was written since the last success may be lost.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file off, durably.
    ///
    /// # Errors
    /// The system's.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Nothing is written to it for now: what is open for writing alone may be closed.
    fn finished(&self) {}
}

/// A folder with files. Names have no separators: a disk is one flat folder.
pub trait Disk: Send + Sync + 'static {
    /// Takes the exclusive lock, which the returned value holds.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another has it.
    fn lock(&self) -> io::Result<Box<dyn Send>>;
    /// Names of all files.
    ///
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new file; it survives power loss after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::AlreadyExists`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations and removals survive power loss.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self) -> io::Result<()>;
    /// Bytes that this user may still write on the file system.
    ///
    /// # Errors
    /// The system's.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// The real one: a folder of the file system.
pub struct RealDisk {
    folder: PathBuf,
    lock_file: PathBuf,
}

impl RealDisk {
    /// Makes the folder (0700) when it is missing.
    ///
    /// # Errors
    /// The system's.
    pub fn new(folder: PathBuf, lock_file: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, lock_file })
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.lock_file)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        Ok(Arc::new(RealFile::new(file, path)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Arc::new(RealFile::new(file, path)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile {
    file: File,
    path: PathBuf,
    direct: Mutex<Direct>,
}

/// The same file, open for what goes around the page cache.
enum Direct {
    /// Not yet, or not any more.
    Closed,
    Open(Arc<File>),
    /// The file system does not allow it.
    Refused,
}

impl RealFile {
    const fn new(file: File, path: PathBuf) -> Self {
        Self { file, path, direct: Mutex::new(Direct::Closed) }
    }

    fn direct(&self) -> std::sync::MutexGuard<'_, Direct> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes around the page cache is done with this; `None` when that is not to be had here. A file that is written stays open for
    /// it, one that is only read does not: there are hundreds.
    fn opened(&self, stays: bool) -> Option<Arc<File>> {
        let mut direct = self.direct();
        match &*direct {
            Direct::Open(file) => return Some(file.clone()),
            Direct::Refused => return None,
            Direct::Closed => {}
        }
        match open_direct(&self.path) {
            Ok(file) => {
                let file = Arc::new(file);
                if stays {
                    *direct = Direct::Open(file.clone());
                }
                Some(file)
            }
            // Whatever else it is, too many files for instance, may be over the next time.
            Err(e) => {
                if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) {
                    *direct = Direct::Refused;
                }
                None
            }
        }
    }

    /// Reads or writes whole blocks around the page cache; `None` when that is not to be had here.
    fn around<F>(&self, stays: bool, act: F) -> Option<io::Result<usize>>
    where
        F: FnOnce(&File) -> rustix::io::Result<usize>,
    {
        match act(&*self.opened(stays)?) {
            // Larger blocks than we know of, or a file system that said yes too soon.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => {
                *self.direct() = Direct::Refused;
                None
            }
            done => Some(done.map_err(io::Error::from)),
        }
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed()).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the bytes lie on whole blocks in memory.
fn is_whole(slice: &[u8]) -> bool {
    slice.len().is_multiple_of(DISK_BLOCK) && slice.as_ptr().align_offset(DISK_BLOCK) == 0
}

impl SegmentFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        if is_whole(buf)
            && offset.is_multiple_of(DISK_BLOCK as u64)
            && let Some(Ok(read)) = self.around(false, |file| rustix::io::pread(file, &mut *buf, offset))
        {
            // What lacks is beyond the end, or comes the usual way, as do errors.
            done = read;
        }
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let whole = slices.iter().take_while(|slice| is_whole(slice)).count();
        if whole > 0
            && offset.is_multiple_of(DISK_BLOCK as u64)
            && let Some(written) = self.around(true, |file| rustix::io::pwritev(file, &slices[..whole], offset))
        {
            return written;
        }
        // Up to where a whole one may begin.
        let rest = slices.iter().skip(whole).take_while(|slice| !is_whole(slice)).count();
        Ok(rustix::io::pwritev(&self.file, &slices[..whole + rest], offset)?)
    }

    fn sync(&self) -> io::Result<()> {
        // Of one file: this is also for what went around the page cache.
        self.file.sync_data()
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        self.file.sync_all()
    }

    fn finished(&self) {
        let mut direct = self.direct();
        if matches!(*direct, Direct::Open(_)) {
            *direct = Direct::Closed;
        }
    }
}

/// Writes a small file so that after a crash it is there whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole blocks and others in turns, so that both ways write to one file, side by side.
    #[test]
    fn what_was_written_either_way_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = RealDisk::new(folder.path().join("log"), folder.path().join("lock")).expect("made");
        let file = disk.create("a").expect("made");
        let mut bytes = vec![0; 20 * DISK_BLOCK];
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 7) as u8);
        let from = bytes.as_ptr().align_offset(DISK_BLOCK);
        let all = &bytes[from..from + 19 * DISK_BLOCK];
        // In blocks: a part of one, its rest, whole ones, a part, and what is whole in memory only.
        let ends =
            [100, DISK_BLOCK, 5 * DISK_BLOCK, 6 * DISK_BLOCK, 6 * DISK_BLOCK + 64, 10 * DISK_BLOCK, 19 * DISK_BLOCK];
        let (mut slices, mut begin) = (Vec::new(), 0);
        for end in ends {
            slices.push(IoSlice::new(&all[begin..end]));
            begin = end;
        }
        for offset in [0, 7] {
            let (mut at, mut left) = (offset, &mut slices.clone()[..]);
            let mut writes = 0;
            while !left.is_empty() {
                let n = file.write_at(left, at).expect("written");
                assert!(n > 0);
                (at, writes) = (at + n as u64, writes + 1);
                IoSlice::advance_slices(&mut left, n);
            }
            file.sync().expect("synced");
            let mut back = vec![0; all.len() + 10];
            assert_eq!(file.read_at(&mut back, offset).expect("read"), all.len());
            assert!(back[..all.len()] == *all, "from {offset} on, in {writes} writes");
            // Whole blocks in memory and in the file, more than there are.
            let mut blocks = vec![0; 30 * DISK_BLOCK];
            let from = blocks.as_ptr().align_offset(DISK_BLOCK);
            let blocks = &mut blocks[from..from + 20 * DISK_BLOCK];
            let all_from = |at: usize| [&vec![0; offset as usize][..], all].concat().split_off(at);
            for at in [0, 4 * DISK_BLOCK] {
                let wanted = all_from(at);
                assert_eq!(file.read_at(blocks, at as u64).expect("read"), wanted.len());
                assert!(blocks[..wanted.len()] == wanted, "from {at} on");
            }
            file.finished();
            file.truncate(0).expect("cut off");
        }
        assert_eq!(file.size().expect("known"), 0);
    }
}
