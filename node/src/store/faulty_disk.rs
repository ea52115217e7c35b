//! A disk in memory that fails as asked, for tests and the simulator.
//!
//! It keeps, beside what a program reads back, what a power cut would leave: synced bytes stay, of unsynced ones any sectors
//! may; files whose folder was not synced may be gone, removed ones may be back. Everything random comes
//! from the seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::disk::{Disk, SegmentFile};

/// What goes wrong at one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write takes a part of the bytes and says so.
    ShortWrite,
    /// A write takes a part of the bytes, then the disk is full.
    NoSpace,
    /// The operation fails with EIO; a write may have taken a part of the bytes.
    Broken,
    /// A sync says that it worked and did nothing.
    LostSync,
    /// The power goes in the middle of the operation, as in [`FaultyDisk::crash`].
    PowerCut,
}

/// Bytes that a power cut keeps or loses as one.
const SECTOR: usize = 512;
/// Bytes compared at a time; a multiple of [`SECTOR`].
const STRIDE: usize = 64 * 1024;

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk(Arc<Mutex<State>>);

struct State {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    /// Files that a power cut leaves, by name.
    durable: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: BTreeMap<u64, Fault>,
    operations: u64,
    syncs: u64,
    free: u64,
    locked: bool,
    /// From a power cut until somebody opens the disk again: whoever still runs is not there any more.
    dead: bool,
    random: u64,
    /// Raised by a power cut: handles from before it are dead.
    epoch: u64,
}

/// A file as programs see it, and as a power cut leaves it at least.
#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

impl FaultyDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            durable: BTreeMap::new(),
            faults: BTreeMap::new(),
            operations: 0,
            syncs: 0,
            free: u64::MAX,
            locked: false,
            dead: false,
            random: seed,
            epoch: 0,
        })))
    }

    /// Lets the n-th operation from now fail; writes, syncs, truncations, creations and removals count.
    pub fn fail(&self, in_operations: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.operations + in_operations;
        state.faults.insert(at, fault);
    }

    /// Operations so far: what [`Self::fail`] counts by.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Forgets the faults that have not happened.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// What [`Disk::free_bytes`] says.
    pub fn set_free(&self, bytes: u64) {
        self.state().free = bytes;
    }

    /// The power goes: unsynced bytes are kept or lost by chance, all handles are dead, the lock is free.
    pub fn crash(&self) {
        self.state().crash();
    }

    /// Changes the bytes of a file behind everybody's back. `None` when there is no such file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        let file = self.state().files.get(name)?.clone();
        let mut bytes = file.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut bytes.now);
        bytes.synced = bytes.now.clone();
        Some(())
    }

    /// A disk with the same bytes and no common fate, as after a clean unmount.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let copy = Self::new(seed);
        let files: BTreeMap<_, _> = self
            .state()
            .files
            .iter()
            .map(|(name, file)| {
                let now = file.lock().unwrap_or_else(PoisonError::into_inner).now.clone();
                (name.clone(), Arc::new(Mutex::new(Content { now: now.clone(), synced: now })))
            })
            .collect();
        let mut state = copy.state();
        state.files = files.clone();
        state.durable = files;
        drop(state);
        copy
    }

    /// The disk, unless the power went and nobody has opened it since.
    fn living(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.dead { Err(broken()) } else { Ok(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// splitmix64: enough for chance, and nothing else is asked of it.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn crash(&mut self) {
        self.epoch += 1;
        self.locked = false;
        self.dead = true;
        self.faults.clear();
        let names: BTreeSet<String> = self.files.keys().chain(self.durable.keys()).cloned().collect();
        let mut after = BTreeMap::new();
        for name in names {
            let (now, durable) = (self.files.get(&name).cloned(), self.durable.get(&name).cloned());
            // In both: the file stays. In one: the folder was not synced since, so it is there by chance.
            let keep_now = self.chance();
            let file = match (now, durable) {
                (Some(now), Some(_)) => now,
                (Some(now), None) if keep_now => now,
                (None, Some(durable)) if keep_now => durable,
                _ => continue,
            };
            let file = file.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let left = self.tear(&file);
            after.insert(name, Arc::new(Mutex::new(Content { now: left.clone(), synced: left })));
        }
        self.files = after.clone();
        self.durable = after;
    }

    fn operation(&mut self) -> Option<Fault> {
        self.operations += 1;
        let at = self.operations;
        self.faults.remove(&at)
    }

    /// What is left of a file: a length between the two, and of each sector that differs the old or the new bytes.
    fn tear(&mut self, file: &Content) -> Vec<u8> {
        let (short, long) = (file.synced.len().min(file.now.len()), file.synced.len().max(file.now.len()));
        let all = self.chance();
        let len = if all { file.now.len() } else { short + (self.next() % (long - short + 1) as u64) as usize };
        // Most of a file was synced long ago and is the same in both: it is compared in one go.
        let same = (0..short).step_by(STRIDE).find(|at| {
            let end = (at + STRIDE).min(short);
            file.synced[*at..end] != file.now[*at..end]
        });
        let same = same.unwrap_or(short / SECTOR * SECTOR);
        let mut out = vec![0; len];
        out[..same].copy_from_slice(&file.now[..same]);
        for (i, sector) in out[same..].chunks_mut(SECTOR).enumerate() {
            let at = same + i * SECTOR;
            let old = file.synced.get(at..(at + sector.len()).min(file.synced.len())).unwrap_or(&[]);
            let new = file.now.get(at..(at + sector.len()).min(file.now.len())).unwrap_or(&[]);
            let chosen = if old == new || self.chance() { new } else { old };
            sector[..chosen.len()].copy_from_slice(chosen);
        }
        out
    }
}

impl Disk for FaultyDisk {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let mut state = self.state();
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.dead = false;
        Ok(Box::new(Unlock { disk: self.clone(), epoch: state.epoch }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let mut state = self.living()?;
        let fault = state.operation();
        if fault == Some(Fault::PowerCut) {
            state.files.entry(name.to_owned()).or_default();
            state.crash();
            return Err(broken());
        }
        fault_of(fault)?;
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(Mutex::new(Content::default()));
        state.files.insert(name.to_owned(), file.clone());
        Ok(Arc::new(FaultyFile { disk: self.clone(), file, epoch: state.epoch }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let state = self.state();
        let file = state.files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), file, epoch: state.epoch }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.living()?;
        let fault = state.operation();
        let cut = fault == Some(Fault::PowerCut);
        if !cut {
            fault_of(fault)?;
        }
        let removed = state.files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into());
        if cut {
            state.crash();
            return Err(broken());
        }
        removed
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.living()?;
        match state.operation() {
            Some(Fault::LostSync) => return Ok(()),
            Some(Fault::PowerCut) => {
                state.crash();
                return Err(broken());
            }
            other => fault_of(other)?,
        }
        state.durable = state.files.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().free)
    }
}

struct Unlock {
    disk: FaultyDisk,
    epoch: u64,
}

impl Drop for Unlock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.epoch == self.epoch {
            state.locked = false;
        }
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    file: Arc<Mutex<Content>>,
    epoch: u64,
}

impl FaultyFile {
    /// Counts an operation; a handle from before a power cut is broken.
    fn operation(&self) -> io::Result<(Option<Fault>, u64)> {
        let mut state = self.disk.state();
        if state.epoch != self.epoch {
            return Err(broken());
        }
        Ok((state.operation(), state.next()))
    }

    fn power_cut(&self) -> io::Error {
        self.disk.crash();
        broken()
    }

    fn bytes(&self) -> MutexGuard<'_, Content> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SegmentFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes().now.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.disk.state().epoch != self.epoch {
            return Err(broken());
        }
        let bytes = self.bytes();
        let from = bytes.now.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or(&[]);
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let (fault, random) = self.operation()?;
        let mut all: Vec<u8> = Vec::with_capacity(slices.iter().map(|s| s.len()).sum());
        slices.iter().for_each(|s| all.extend_from_slice(s));
        let asked = all.len();
        let part = matches!(fault, Some(Fault::ShortWrite | Fault::NoSpace | Fault::Broken | Fault::PowerCut));
        if part && asked > 1 {
            all.truncate((random % (asked as u64 - 1)) as usize + 1);
        }
        let mut bytes = self.bytes();
        let (from, to) = (offset as usize, offset as usize + all.len());
        if bytes.now.len() == from {
            // As nearly always; filling up with zeros first takes as long as all the rest in an unoptimised build.
            bytes.now.extend_from_slice(&all);
        } else {
            if bytes.now.len() < to {
                bytes.now.resize(to, 0);
            }
            bytes.now[from..to].copy_from_slice(&all);
        }
        drop(bytes);
        match fault {
            Some(Fault::ShortWrite) => Ok(all.len()),
            Some(Fault::PowerCut) => Err(self.power_cut()),
            other => fault_of(other).map(|()| all.len()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let fault = self.operation()?.0;
        self.disk.state().syncs += 1;
        match fault {
            Some(Fault::LostSync) => return Ok(()),
            Some(Fault::PowerCut) => return Err(self.power_cut()),
            other => fault_of(other)?,
        }
        let mut bytes = self.bytes();
        // What is synced already is not copied again: files only grow, or are cut.
        let known = bytes.synced.len().min(bytes.now.len());
        let grown = bytes.now[known..].to_vec();
        bytes.synced.truncate(known);
        bytes.synced.extend(grown);
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let fault = self.operation()?.0;
        if fault != Some(Fault::PowerCut) {
            fault_of(fault)?;
        }
        let mut bytes = self.bytes();
        bytes.now.resize(size as usize, 0);
        if fault == Some(Fault::PowerCut) {
            drop(bytes);
            return Err(self.power_cut());
        }
        bytes.synced = bytes.now.clone();
        Ok(())
    }
}

fn fault_of(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
        Some(Fault::Broken | Fault::PowerCut) => Err(broken()),
        _ => Ok(()),
    }
}

fn broken() -> io::Error {
    io::Error::from(rustix::io::Errno::IO)
}
