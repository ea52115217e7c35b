//! What must survive of stewardship, as files in `stewardship/` of the data folder: one for each group, one for each order under
//! way, one with what is believed of peers. Not in sled, which does not sync values above 128 KiB (ADR 0019).
//!
//! ```text
//! "CRNSTEW" version u8 = 1, BLAKE3 of name and body, body
//! ```
//!
//! A file is there whole or as it was before: written beside, synced, renamed, the folder synced. One that reads wrong all the same
//! is set aside as `NAME.damaged` and never read again.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

const MAGIC: &[u8; 8] = b"CRNSTEW\x01";
const HEAD: usize = 8 + 32;
/// Most bytes of a file that is read: a group's record, a full map and its log, or everybody's habits, with room to spare.
const FILE_MAX: u64 = 16 << 20;
/// Files that are written and synced at the same time: syncs of one disk overlap, and more than a few gain nothing.
const AT_ONCE: usize = 8;
/// Below so many free bytes on the disk nothing new is begun, so that what goes on can still be written.
pub(crate) const SPARE: u64 = 64 << 20;

/// What the files need of a disk; tests put a failing one in its place.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Writes a new file and makes its bytes durable.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Bytes that may still be written.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
}

/// The real one.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The folder. All calls block. One task writes a name; names of different tasks differ by their ending.
#[derive(Clone)]
pub(crate) struct StateFiles {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
}

/// What was found at a start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Name without the ending, and body.
    pub(crate) whole: Vec<(String, Vec<u8>)>,
    /// Names, without the ending, of those that were set aside.
    pub(crate) damaged: Vec<String>,
}

impl StateFiles {
    /// Makes the folder when it is missing, and removes what was half written.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(folder: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let files = Self { folder, disk };
        for name in files.names()?.iter().filter(|name| name.ends_with(".new")) {
            fs::remove_file(files.folder.join(name))?;
        }
        Ok(files)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// Whether something new may be begun.
    pub(crate) fn has_room(&self) -> bool {
        self.disk.free_bytes(&self.folder).is_ok_and(|free| free >= SPARE)
    }

    /// Every file with this ending, at most so many.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn load(&self, ending: &str, most: usize) -> io::Result<Found> {
        let mut found = Found::default();
        for name in self.names()? {
            let Some(stem) = name.strip_suffix(ending).and_then(|stem| stem.strip_suffix('.')) else { continue };
            if found.whole.len() >= most {
                tracing::warn!(most, ending, "more files of state than there may be; the rest is left alone");
                break;
            }
            match self.read(&name) {
                Ok(body) => found.whole.push((stem.to_owned(), body)),
                Err(error) => {
                    self.set_aside(&name, &error);
                    found.damaged.push(stem.to_owned());
                }
            }
        }
        Ok(found)
    }

    /// One file's body.
    ///
    /// # Errors
    /// It is not there, or not what was written.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.folder.join(name))?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if bytes.len() < HEAD || &bytes[..8] != MAGIC {
            return wrong("not a file of ours, or of another version");
        }
        let body = bytes.split_off(HEAD);
        if bytes[8..] != sum(name, &body) { wrong("the checksum is wrong") } else { Ok(body) }
    }

    /// Puts a damaged file where it is not read again, for a person to look at.
    pub(crate) fn set_aside(&self, name: &str, error: &dyn std::fmt::Display) {
        tracing::warn!(name, %error, "a file of state is damaged; it is set aside and learned again");
        let aside = self.folder.join(format!("{name}.damaged"));
        if let Err(error) = fs::rename(self.folder.join(name), aside) {
            tracing::warn!(name, %error, "it could not be set aside");
        }
    }

    /// Writes files, each whole or not at all; durable where `Ok` is returned, in the same order. No more than [`AT_ONCE`] are taken
    /// of `files` before they are written.
    pub(crate) fn write(&self, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<io::Result<()>> {
        let mut files = files.into_iter();
        let mut done: Vec<io::Result<()>> = Vec::new();
        loop {
            let batch: Vec<(String, Vec<u8>)> = files.by_ref().take(AT_ONCE).collect();
            if batch.is_empty() {
                break;
            }
            let written = std::thread::scope(|scope| {
                let writing: Vec<_> =
                    batch.iter().map(|(name, body)| scope.spawn(move || self.write_one(name, body))).collect();
                writing.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))).collect()
            });
            let written: Vec<io::Result<()>> = written;
            done.extend(written);
        }
        if done.iter().any(Result::is_ok)
            && let Err(error) = self.sync_folder()
        {
            let kind = error.kind();
            done.iter_mut().filter(|one| one.is_ok()).for_each(|one| *one = Err(kind.into()));
        }
        done
    }

    fn write_one(&self, name: &str, body: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&sum(name, body));
        bytes.extend_from_slice(body);
        let beside = self.folder.join(format!("{name}.new"));
        let written = self.disk.write(&beside, &bytes).and_then(|()| fs::rename(&beside, self.folder.join(name)));
        if written.is_err() {
            // What is half there takes room on a disk that may be full.
            let _ = fs::remove_file(&beside);
        }
        written
    }

    /// Removes files; one that is not there is no error.
    ///
    /// # Errors
    /// The system's first.
    pub(crate) fn remove(&self, names: &[String]) -> io::Result<()> {
        for name in names {
            match fs::remove_file(self.folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if names.is_empty() { Ok(()) } else { self.sync_folder() }
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// Writes a file of its own kind, whole or not at all: beside, synced, renamed, the folder synced. Nobody else writes that path.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let written = RealDisk.write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// With the name, so that no file is taken for another.
fn sum(name: &str, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 stewardship file v1");
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(body);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// A disk that is full when it is told to be.
    #[derive(Default)]
    pub(crate) struct TestDisk {
        pub(crate) full: AtomicBool,
        writes: AtomicUsize,
    }

    impl Disk for TestDisk {
        fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            if self.full.load(Ordering::SeqCst) {
                // Half of it got there, as on a real one.
                fs::write(path, &bytes[..bytes.len() / 2])?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            fs::write(path, bytes)?;
            self.writes.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
            Ok(if self.full.load(Ordering::SeqCst) { 0 } else { u64::MAX })
        }
    }

    fn open(dir: &tempfile::TempDir) -> (StateFiles, Arc<TestDisk>) {
        let disk = Arc::new(TestDisk::default());
        (StateFiles::open(dir.path().join("stewardship"), disk.clone()).expect("opens"), disk)
    }

    fn all_ok(results: Vec<io::Result<()>>) {
        results.into_iter().for_each(|one| one.expect("written"));
    }

    #[test]
    fn many_are_written_at_once_and_read_back() {
        let dir = tempfile::tempdir().expect("temp");
        let files = StateFiles::open(dir.path().join("s"), Arc::new(RealDisk)).expect("opens");
        let many: Vec<_> = (0..20u8).map(|i| (format!("{i:02}.group"), vec![i; 1000 + usize::from(i)])).collect();
        all_ok(files.write(many));
        all_ok(files.write([("x.order".to_owned(), vec![1])]));
        let found = files.load("group", 100).expect("read");
        assert_eq!(found.whole.len(), 20);
        assert_eq!(found.whole[7], ("07".to_owned(), vec![7; 1007]));
        files.remove(&["07.group".to_owned(), "no.group".to_owned()]).expect("removed");
        assert_eq!(files.load("group", 100).expect("read").whole.len(), 19);
    }

    #[test]
    fn a_few_are_in_memory_at_a_time() {
        let dir = tempfile::tempdir().expect("temp");
        let (files, disk) = open(&dir);
        let made = (0..100usize).map(|i| {
            assert!(i < disk.writes.load(Ordering::SeqCst) + AT_ONCE, "{i} made");
            (format!("{i:02}.group"), vec![1])
        });
        all_ok(files.write(made));
        assert_eq!(files.load("group", 200).expect("read").whole.len(), 100);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_one_under_a_wrong_name_too() {
        let dir = tempfile::tempdir().expect("temp");
        let (files, _) = open(&dir);
        all_ok(files.write(["a", "b", "c", "d"].map(|n| (format!("{n}.group"), b"state".to_vec()))));
        let at = |name: &str| dir.path().join("stewardship").join(name);
        let mut torn = fs::read(at("a.group")).expect("read");
        torn.pop();
        fs::write(at("a.group"), torn).expect("torn");
        let mut rotten = fs::read(at("b.group")).expect("read");
        *rotten.last_mut().expect("some") ^= 1;
        fs::write(at("b.group"), rotten).expect("rotten");
        fs::copy(at("d.group"), at("c.group")).expect("swapped");
        let found = files.load("group", 100).expect("read");
        assert_eq!(found.whole, [("d".to_owned(), b"state".to_vec())]);
        assert_eq!(found.damaged, ["a", "b", "c"]);
        assert!(files.load("group", 100).expect("read").damaged.is_empty(), "once");
    }

    #[test]
    fn a_full_disk_keeps_what_was_there() {
        let dir = tempfile::tempdir().expect("temp");
        let (files, disk) = open(&dir);
        all_ok(files.write([("a.group".to_owned(), b"old".to_vec())]));
        disk.full.store(true, Ordering::SeqCst);
        assert!(!files.has_room());
        let wrote = files.write([("a.group".to_owned(), b"new".to_vec()), ("b.group".to_owned(), b"new".to_vec())]);
        assert!(wrote.iter().all(Result::is_err));
        let (again, _) = open(&dir);
        assert_eq!(again.load("group", 9).expect("read").whole, [("a".to_owned(), b"old".to_vec())]);
        assert_eq!(again.names().expect("read"), ["a.group"], "nothing half written is left");
    }
}
