//! The catalogue: what this machine knows of its vault without asking the network. A cache of what the network holds
//! (rebuilt by `cairn recover`) plus a journal of what the next commit must still write.
//!
//! One sled tree, one-byte prefixes, so that what belongs together is one atomic batch. Each value ends with the CRC32C of
//! key and value: a damaged row is an error that names `cairn recover`, never an answer.
//!
//! # Invariants
//!
//! - **DUR-1** A chunk is in here only when every stripe that its run touches is acknowledged. Enforced by
//!   [`Catalogue::record_stripe`]'s caller, which hands over a run with the last of its stripes.
//! - Whatever is not in a published index segment is marked pending in the same batch that adds it.
//! - **DUR-1** No row is larger than 7 KiB: sled writes pages over 128 KiB, which hold up to 16 rows, to files that it never
//!   syncs, and after a power cut leaves out in silence what they had.
//! - A catalogue that lost rows, or came back from the past, does not open or does not pass [`Catalogue::verify`]: see
//!   [`guard`]. Attacked by `vault::tests::damage`.

mod chunks;
pub(super) mod guard;
pub(super) mod holders;
mod layout;
mod losses;
mod receipts;
mod rows;
mod runs;
pub(super) mod tokens;
pub(super) mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use cairn_proto::{
    DecodeError, SnapshotId, VaultKey,
    head::HeadContent,
    index::{RunPlace, RunRow, StripeNo, StripeRow},
    manifest::{GroupRow, SnapshotRecord},
};
use chunks::Chunks;
use guard::{Change, Class, MANY, Mark, Sums};
use layout::{FILE, RECEIPT, checked, counters_bytes, meta_key};

use crate::sled_folder;

/// Layout version of the rows below.
const FORMAT: u8 = 4;
/// sled's page cache, in bytes: small, because most of a backup never reads a row twice.
const CACHE: u64 = 16 << 20;
/// sled notices that its cache is over its size only after 64 looks at pages of a shard, of which it has 256. Each row of
/// [`LARGE`] bytes or more is looked at so often that the eight or more in a leaf are enough, or three to eight leaves of 50 KiB
/// would stay in each shard: 146 MiB instead of 54 after reading 120 MiB of rows. A look takes half a microsecond.
const LOOKS: usize = 8;
const LARGE: usize = 1 << 10;

/// Why the catalogue could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogueError {
    /// sled failed.
    #[error("the catalogue cannot be read or written: {0}")]
    Database(Arc<str>),
    /// A row is not what was written.
    #[error("the catalogue is damaged: {0}")]
    Damaged(&'static str),
    /// It is of another vault.
    #[error("the catalogue belongs to another vault")]
    OtherVault,
}

impl From<sled_folder::OpenError> for CatalogueError {
    fn from(e: sled_folder::OpenError) -> Self {
        match e {
            sled_folder::OpenError::Sled(e) => e.into(),
            sled_folder::OpenError::Panicked => Self::Damaged("the database cannot make sense of itself"),
        }
    }
}

impl From<sled::Error> for CatalogueError {
    fn from(e: sled::Error) -> Self {
        match e {
            sled::Error::Corruption { .. } => Self::Damaged("the database fails its own checksums"),
            // What sled says of a settings file that was cut or altered, and of pages that name what is not there.
            sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) | sled::Error::CollectionNotFound(_) => {
                Self::Damaged("the database contradicts itself")
            }
            sled::Error::Io(_) => Self::Database(e.to_string().into()),
        }
    }
}

impl From<DecodeError> for CatalogueError {
    fn from(_: DecodeError) -> Self {
        Self::Damaged("a row does not decode")
    }
}

type Result<T, E = CatalogueError> = std::result::Result<T, E>;

/// The catalogue of one vault. Cheap to clone; all clones are one, and so are all that this process opened.
#[derive(Clone)]
pub struct Catalogue {
    tree: sled::Tree,
    db: Arc<Database>,
}

struct Database {
    path: PathBuf,
    sled: sled::Db,
    /// `None` until the rows were first looked at. Held while rows change, so that sums and rows go together.
    state: Mutex<Option<State>>,
    /// `None` until a chunk was first looked for or recorded. Locked before the state, where both are.
    chunks: Mutex<Option<Chunks>>,
}

#[derive(Clone, Copy)]
struct State {
    sums: Sums,
    instance: [u8; 16],
    serial: u64,
}

/// Catalogues open in this process: sled locks its folder, and verbs that read must not shut out one another.
static OPEN: Mutex<Vec<Weak<Database>>> = Mutex::new(Vec::new());

/// sled panics on some kinds of damage; that is damage too.
fn unpanicked<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    done.unwrap_or(Err(CatalogueError::Damaged("the database cannot make sense of itself")))
}

fn open_database(dir: &Path) -> Result<Arc<Database>> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|d| d.strong_count() > 0);
    if let Some(found) = open.iter().filter_map(Weak::upgrade).find(|d| d.path == dir) {
        return Ok(found);
    }
    let config =
        sled::Config::new().path(dir).cache_capacity(CACHE).mode(sled::Mode::HighThroughput).flush_every_ms(Some(1000));
    let sled = sled_folder::open(&config)?;
    let database = Arc::new(Database { path: dir.to_owned(), sled, state: Mutex::new(None), chunks: Mutex::new(None) });
    open.push(Arc::downgrade(&database));
    Ok(database)
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalogue(..)")
    }
}

/// Names of single values.
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// Layout version and vault key.
    Identity,
    /// The numbers, see [`Counters`].
    Counters,
    /// A backup is running, or one ended without cleaning up.
    Running,
    /// Content of the last head that was, or may have been, published.
    Head,
    /// Epochs of data keys: number and beginning of each.
    Epochs,
    /// The catalogue came from the network: the next head begins a new generation.
    Recovered,
    /// A repair changed who holds what, and no head says so yet.
    Moved,
    /// The last group whose holders a backup asked what they have.
    AskedUpTo,
    /// Sums over the rows, see [`guard`].
    Sums,
    /// How often this catalogue was made durable, see [`guard`].
    Serial,
    /// How many chunks were ever recorded, see [`chunks`].
    Chunks,
    /// The last group whose stewards a backup asked as it lacked something.
    LearnedUpTo,
    /// What the vault promises, see [`super::promise`].
    Promise,
    /// Providers of fallback storage that the vault used, see [`super::leaning`].
    Providers,
}

/// The vault's running numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Generation of the last head.
    pub generation: u32,
    /// Sequence of the last head; 0 before the first.
    pub sequence: u64,
    /// Next stripe number; counts from 1.
    pub next_stripe: u64,
    /// Next group number; counts from 1.
    pub next_group: u32,
}

/// Everything that one acknowledged stripe adds.
#[derive(Debug, Default)]
pub struct StripeRecord {
    /// The stripe itself.
    pub row: Option<StripeRow>,
    /// Runs that are complete with it.
    pub runs: Vec<RunRow>,
    /// Its group as it stands now.
    pub group: Option<GroupRow>,
    /// Signed receipts by slot, encoded.
    pub receipts: Vec<(u8, Vec<u8>)>,
    /// Slots that nobody acknowledged.
    pub shortfall: Vec<u8>,
    /// Whether the rows wait for a segment (false while recovering: they come from one).
    pub pending: bool,
    /// Whether runs that stand in here already are left out: two segments may have the same.
    pub skip_known: bool,
}

/// Everything that a commit, or an index segment written before one, changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitRecord<'a> {
    /// New snapshots.
    pub snapshots: &'a [(SnapshotId, SnapshotRecord)],
    /// New numbers; `None` when nothing was published.
    pub counters: Option<Counters>,
    /// All segments, oldest first.
    pub segments: &'a [RunPlace],
    /// Stripes whose rows are in a segment now.
    pub stripes: &'a [StripeNo],
    /// Runs whose rows are in a segment now.
    pub runs: &'a [RunPlace],
    /// Groups as they stand now.
    pub groups: &'a [GroupRow],
}

impl Catalogue {
    /// Opens or makes the catalogue of a vault in `dir`.
    ///
    /// # Errors
    /// Damage, another vault's catalogue, or the disk.
    pub fn open(dir: &Path, vault: &VaultKey) -> Result<Self> {
        let db = open_database(dir)?;
        let this = Self { tree: db.sled.open_tree("catalogue")?, db };
        // Whoever comes second to a catalogue that is open finds it looked at.
        let mut state = this.state();
        if state.is_none() {
            *state = Some(unpanicked(|| this.look(dir, vault))?);
        }
        drop(state);
        let found = this.meta(Meta::Identity)?.ok_or(CatalogueError::Damaged("rows without an identity"))?;
        if found.get(1..33) != Some(vault.as_bytes()) { Err(CatalogueError::OtherVault) } else { Ok(this) }
    }

    /// Makes sure that the catalogue is the one that was left here, or makes a new one where there was none.
    fn look(&self, dir: &Path, vault: &VaultKey) -> Result<State> {
        let mark = Mark::read(dir)?;
        let Some(identity) = self.meta(Meta::Identity)? else {
            if mark.is_some() || !self.tree.is_empty() {
                return Err(CatalogueError::Damaged("it is empty, and was not"));
            }
            let mut instance = [0; 16];
            getrandom::fill(&mut instance).map_err(|e| CatalogueError::Database(e.to_string().into()))?;
            let mut state = State { sums: Sums::default(), instance, serial: 0 };
            let mut change = Change::default();
            change.put(&meta_key(Meta::Identity), [&[FORMAT][..], vault.as_bytes(), &instance].concat());
            self.tree.apply_batch(change.batch(&self.tree, &mut state.sums)?)?;
            self.flush_state(&mut state)?;
            return Ok(state);
        };
        if identity.first() != Some(&FORMAT) || identity.len() != 49 {
            return Err(CatalogueError::Damaged("another layout version"));
        }
        let mark = mark.ok_or(CatalogueError::Damaged("its mark is missing"))?;
        let serial = self.meta(Meta::Serial)?.and_then(|v| Some(u64::from_le_bytes(v.try_into().ok()?)));
        let serial = serial.ok_or(CatalogueError::Damaged("its serial number is missing"))?;
        if identity[33..] != mark.instance {
            return Err(CatalogueError::Damaged("it is not the one that was here"));
        }
        if serial < mark.serial {
            return Err(CatalogueError::Damaged("it is older than it was"));
        }
        let sums = self.meta(Meta::Sums)?.ok_or(CatalogueError::Damaged("its sums are missing"))?;
        let state = State { sums: Sums::decode(&sums)?, instance: mark.instance, serial };
        let few = (0..=u8::MAX).filter(|prefix| !MANY.contains(prefix) && ![FILE, RECEIPT].contains(prefix));
        self.add_up(few, Class::Few, &state.sums)?;
        Ok(state)
    }

    fn add_up(&self, prefixes: impl Iterator<Item = u8>, class: Class, expected: &Sums) -> Result<()> {
        let mut sums = Sums::default();
        for prefix in prefixes {
            for item in self.tree.scan_prefix([prefix]) {
                let (key, value) = item?;
                checked(&key, &value)?;
                sums.add(&key, &value);
                self.looked_at(&key, value.len())?;
            }
        }
        let same = sums.of(class) == expected.of(class);
        if same { Ok(()) } else { Err(CatalogueError::Damaged("rows are missing")) }
    }

    /// Reads every row that a backup rests on and makes sure that none is missing. Blocking; reads some 35
    /// bytes for each chunk.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn verify(&self) -> Result<()> {
        let state = self.state();
        let state = state.as_ref().ok_or(CatalogueError::Damaged("it was not looked at"))?;
        unpanicked(|| self.add_up(MANY.into_iter(), Class::Many, &state.sums))
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        // A panic elsewhere leaves it as the last batch did.
        self.db.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, change: Change) -> Result<()> {
        let mut state = self.state();
        let state = state.as_mut().ok_or(CatalogueError::Damaged("it was not looked at"))?;
        let mut sums = state.sums;
        let large = change.rows_from(LARGE);
        let batch = change.batch(&self.tree, &mut sums)?;
        self.tree.apply_batch(batch)?;
        state.sums = sums;
        // What is written is written: a look that fails says so to whoever reads.
        large.iter().for_each(|key| drop(self.looked_at(key, LARGE)));
        Ok(())
    }

    /// Whether this process has the catalogue of that folder open.
    #[must_use]
    pub fn is_open(dir: &Path) -> bool {
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(Weak::upgrade).any(|d| d.path == dir)
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// The disk.
    pub fn flush(&self) -> Result<()> {
        let mut state = self.state();
        self.flush_state(state.as_mut().ok_or(CatalogueError::Damaged("it was not looked at"))?)?;
        drop(state);
        self.save_chunks();
        Ok(())
    }

    fn flush_state(&self, state: &mut State) -> Result<()> {
        let serial = state.serial + 1;
        let mut change = Change::default();
        change.put(&meta_key(Meta::Serial), serial.to_le_bytes().to_vec());
        self.tree.apply_batch(change.batch(&self.tree, &mut state.sums)?)?;
        self.db.sled.flush()?;
        state.serial = serial;
        // After the rows: a mark that is behind is no damage.
        let (generation, sequence) = self.newest_head()?;
        Mark { instance: state.instance, serial, generation, sequence }.write(&self.db.path)
    }

    /// Generation and sequence of the newest head that was signed here, kept by a peer or not.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn newest_head(&self) -> Result<(u32, u64)> {
        let counters = self.counters()?;
        let signed = self.meta(Meta::Head)?.and_then(|bytes| HeadContent::decode(&bytes).ok());
        let signed = signed.map_or((0, 0), |head| (head.generation, head.sequence));
        Ok(signed.max((counters.generation, counters.sequence)))
    }

    /// Waits until nobody has the folder of a catalogue open any more: sled writes into it for a moment after its last
    /// handle is gone, and must not do so into another catalogue that took the place.
    ///
    /// # Errors
    /// It stays open.
    pub(super) fn wait_closed(dir: &Path) -> Result<()> {
        for _ in 0..sled_folder::LOCK_TRIES {
            let Ok(file) = std::fs::File::open(dir.join("db")) else { return Ok(()) };
            if file.try_lock().is_ok() {
                return Ok(());
            }
            std::thread::sleep(sled_folder::LOCK_PAUSE);
        }
        Err(CatalogueError::Database("it is still open".into()))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(value) = self.tree.get(key)? else { return Ok(None) };
        self.looked_at(key, value.len())?;
        Ok(Some(checked(key, &value)?.to_vec()))
    }

    /// Keeps the cache near its size after a row was read or written, see [`LOOKS`].
    fn looked_at(&self, key: &[u8], size: usize) -> Result<()> {
        if size >= LARGE {
            for _ in 0..LOOKS {
                self.tree.get(key)?;
            }
        }
        Ok(())
    }

    fn scan(&self, prefix: u8) -> impl Iterator<Item = Result<(sled::IVec, Vec<u8>)>> {
        self.scan_below(&[prefix])
    }

    fn scan_below<'a>(&'a self, prefix: &[u8]) -> impl Iterator<Item = Result<(sled::IVec, Vec<u8>)>> + use<'a> {
        self.tree.scan_prefix(prefix).map(|item| {
            let (key, value) = item?;
            self.looked_at(&key, value.len())?;
            let value = checked(&key, &value)?.to_vec();
            Ok((key, value))
        })
    }

    /// All rows, for comparing.
    #[cfg(test)]
    pub(super) fn rows(&self) -> Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>> {
        let row = |item: Result<(sled::IVec, sled::IVec), sled::Error>| {
            let (key, value) = item?;
            Ok((key.to_vec(), checked(&key, &value)?.to_vec()))
        };
        self.tree.iter().map(row).collect()
    }

    /// A single value.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn meta(&self, name: Meta) -> Result<Option<Vec<u8>>> {
        self.get(&meta_key(name))
    }

    /// Sets or removes a single value.
    ///
    /// # Errors
    /// The disk.
    pub fn set_meta(&self, name: Meta, value: Option<Vec<u8>>) -> Result<()> {
        let mut batch = Change::default();
        match value {
            Some(value) => batch.put(&meta_key(name), value),
            None => batch.remove(meta_key(name)),
        }
        self.apply(batch)?;
        Ok(())
    }

    /// The running numbers.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn counters(&self) -> Result<Counters> {
        let Some(v) = self.meta(Meta::Counters)? else {
            return Ok(Counters { generation: 0, sequence: 0, next_stripe: 1, next_group: 1 });
        };
        let bad = CatalogueError::Damaged("counters");
        let v: [u8; 24] = v.try_into().map_err(|_| bad)?;
        let wide = |at: usize| {
            let mut b = [0u8; 8];
            b.copy_from_slice(&v[at..at + 8]);
            u64::from_le_bytes(b)
        };
        Ok(Counters {
            generation: (wide(16) >> 32) as u32,
            sequence: wide(0),
            next_stripe: wide(8),
            next_group: wide(16) as u32,
        })
    }

    /// Sets the running numbers.
    ///
    /// # Errors
    /// The disk.
    pub fn set_counters(&self, c: Counters) -> Result<()> {
        self.set_meta(Meta::Counters, Some(counters_bytes(c)))
    }
}
