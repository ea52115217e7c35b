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
//! - **DUR-1** No row is larger than [`ROW_MAX`]: sled writes pages over 128 KiB, which hold up to 16 rows, to files that it
//!   never syncs, and after a power cut leaves out in silence what they had.
//! - A catalogue that lost rows, or came back from the past, does not open or does not pass [`Catalogue::verify`]: see
//!   [`guard`]. Attacked by `vault::tests::damage`.

pub(super) mod guard;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use cairn_proto::{
    ChunkId, DecodeError, SnapshotId, Timestamp, VaultKey,
    head::HeadContent,
    index::{IndexSegment, RunPlace, RunRow, StripeNo, StripeRow},
    manifest::{EpochRow, GroupRow, Manifest, SnapshotRecord},
    tree::Node,
};
use guard::{Change, Class, MANY, Mark, Sums};

/// Layout version of the rows below.
const FORMAT: u8 = 2;
/// Most bytes of a row: what may be larger is split, or not kept at all.
const ROW_MAX: usize = 7 << 10;
/// Rows changed in one batch where all of them are.
const BATCH: usize = 1024;
/// sled's page cache, in bytes: small, because most of a backup never reads a row twice.
const CACHE: u64 = 64 << 20;

const META: u8 = b'm';
const CHUNK: u8 = b'c';
const RUN: u8 = b'r';
const STRIPE: u8 = b's';
const GROUP: u8 = b'g';
const SNAPSHOT: u8 = b'n';
const RECEIPT: u8 = b'e';
const FILE: u8 = b'f';
const SHORTFALL: u8 = b'h';
const LOST: u8 = b'l';
const SEGMENT: u8 = b'i';
const PENDING_STRIPE: u8 = b'p';
const PENDING_RUN: u8 = b'q';

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
}

#[derive(Clone, Copy)]
struct State {
    sums: Sums,
    instance: [u8; 16],
    serial: u64,
}

/// Catalogues open in this process: sled locks its folder, and verbs that read must not shut out one another.
static OPEN: Mutex<Vec<Weak<Database>>> = Mutex::new(Vec::new());

/// How often, and after what pause, a folder is tried that is still locked: sled lets go of it a little after the last
/// handle is gone.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

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
    let mut tries = 0;
    let sled = loop {
        match unpanicked(|| Ok(config.open()))? {
            Err(sled::Error::Io(e)) if tries < LOCK_TRIES && e.to_string().contains("lock") => {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            other => break other?,
        }
    };
    let database = Arc::new(Database { path: dir.to_owned(), sled, state: Mutex::new(None) });
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
    /// Places of index segments that recovery could not read, as a manifest without anything else: never given up, since
    /// their holders may come back.
    Unread,
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
    /// A chunk that has a place already keeps it.
    pub keep_places: bool,
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

fn stripe_key(prefix: u8, no: StripeNo) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&no.0.to_be_bytes());
    key
}

fn run_key(prefix: u8, place: &RunPlace) -> Vec<u8> {
    let mut key = stripe_key(prefix, place.stripe);
    key.extend_from_slice(&place.offset.to_be_bytes());
    key
}

fn id_key(prefix: u8, id: &[u8; 32]) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(id);
    key
}

fn group_key(number: u32) -> Vec<u8> {
    let mut key = vec![GROUP];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn checked<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8]> {
    let (value, sum) =
        value.split_last_chunk::<4>().ok_or(CatalogueError::Damaged("a row is shorter than its checksum"))?;
    if crc32c::crc32c_append(crc32c::crc32c(key), value) != u32::from_le_bytes(*sum) {
        return Err(CatalogueError::Damaged("a row fails its checksum"));
    }
    Ok(value)
}

fn encode_run(row: &RunRow) -> Result<Vec<u8>> {
    Ok(IndexSegment { stripes: vec![], runs: vec![row.clone()] }.encode()?)
}

fn encode_stripe(row: &StripeRow) -> Result<Vec<u8>> {
    Ok(IndexSegment { stripes: vec![row.clone()], runs: vec![] }.encode()?)
}

/// A group row is encoded as a manifest that has nothing else: one encoding, one decoder.
fn encode_group(row: &GroupRow) -> Result<Vec<u8>> {
    let manifest = Manifest {
        groups: vec![row.clone()],
        segments: vec![],
        snapshots: vec![],
        next_stripe: StripeNo(1),
        next_group: row.number.saturating_add(1),
        epochs: vec![EpochRow { number: 1, created: Timestamp(0) }],
    };
    Ok(manifest.encode()?)
}

fn encode_segments(segments: &[RunPlace]) -> Result<Vec<u8>> {
    let manifest = Manifest {
        groups: vec![],
        segments: segments.to_vec(),
        snapshots: vec![],
        next_stripe: StripeNo(u64::MAX),
        next_group: 1,
        epochs: vec![EpochRow { number: 1, created: Timestamp(0) }],
    };
    Ok(manifest.encode()?)
}

fn decode_group(bytes: &[u8]) -> Result<GroupRow> {
    Manifest::decode(bytes)?.groups.pop().ok_or(CatalogueError::Damaged("a group row is empty"))
}

fn touches(place: &RunPlace, stripes: &BTreeSet<StripeNo>) -> bool {
    stripes.contains(&place.stripe) || place.next.is_some_and(|no| stripes.contains(&no))
}

fn segment_key(at: usize) -> Vec<u8> {
    let mut key = vec![SEGMENT];
    key.extend_from_slice(&(at as u32).to_be_bytes());
    key
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
            }
        }
        let same = sums.of(class) == expected.of(class);
        if same { Ok(()) } else { Err(CatalogueError::Damaged("rows are missing")) }
    }

    /// Reads every row that a backup rests on and makes sure that none is missing. Blocking; one to three seconds
    /// for a million chunks.
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
        let batch = change.batch(&self.tree, &mut sums)?;
        self.tree.apply_batch(batch)?;
        state.sums = sums;
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
        self.flush_state(state.as_mut().ok_or(CatalogueError::Damaged("it was not looked at"))?)
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
        for _ in 0..LOCK_TRIES {
            let Ok(file) = std::fs::File::open(dir.join("db")) else { return Ok(()) };
            if file.try_lock().is_ok() {
                return Ok(());
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(CatalogueError::Database("it is still open".into()))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.tree.get(key)? {
            None => Ok(None),
            Some(value) => Ok(Some(checked(key, &value)?.to_vec())),
        }
    }

    fn scan(&self, prefix: u8) -> impl Iterator<Item = Result<(sled::IVec, Vec<u8>)>> {
        self.tree.scan_prefix([prefix]).map(|item| {
            let (key, value) = item?;
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

    /// Whether the chunk lies in acknowledged stripes.
    ///
    /// # Errors
    /// The disk.
    pub fn has_chunk(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.tree.contains_key(id_key(CHUNK, id.as_bytes()))?)
    }

    /// The run that a chunk lies in.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn find_chunk(&self, id: &ChunkId) -> Result<Option<RunRow>> {
        let Some(place) = self.get(&id_key(CHUNK, id.as_bytes()))? else { return Ok(None) };
        let mut key = vec![RUN];
        key.extend_from_slice(&place);
        let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a chunk without its run"))?;
        let row = IndexSegment::decode(&bytes)?.runs.pop();
        row.map(Some).ok_or(CatalogueError::Damaged("a run row is empty"))
    }

    /// A stripe.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn stripe(&self, no: StripeNo) -> Result<Option<StripeRow>> {
        let Some(bytes) = self.get(&stripe_key(STRIPE, no))? else { return Ok(None) };
        Ok(IndexSegment::decode(&bytes)?.stripes.pop())
    }

    /// The highest stripe number and group number on record; 0 where there is none.
    ///
    /// # Errors
    /// The disk.
    pub fn highest_numbers(&self) -> Result<(u64, u32)> {
        let stripe = self.tree.scan_prefix([STRIPE]).keys().next_back().transpose()?;
        let group = self.tree.scan_prefix([GROUP]).keys().next_back().transpose()?;
        let stripe = stripe.and_then(|k| Some(u64::from_be_bytes(k.get(1..9)?.try_into().ok()?)));
        let group = group.and_then(|k| Some(u32::from_be_bytes(k.get(1..5)?.try_into().ok()?)));
        Ok((stripe.unwrap_or(0), group.unwrap_or(0)))
    }

    /// Every stripe, in order of number.
    pub fn stripes(&self) -> impl Iterator<Item = Result<StripeRow>> {
        self.scan(STRIPE).map(|item| {
            IndexSegment::decode(&item?.1)?.stripes.pop().ok_or(CatalogueError::Damaged("a stripe row is empty"))
        })
    }

    /// Every run, in order of place.
    pub fn runs(&self) -> impl Iterator<Item = Result<RunRow>> {
        self.scan(RUN)
            .map(|item| IndexSegment::decode(&item?.1)?.runs.pop().ok_or(CatalogueError::Damaged("a run row is empty")))
    }

    /// A group.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn group(&self, number: u32) -> Result<Option<GroupRow>> {
        self.get(&group_key(number))?.map(|bytes| decode_group(&bytes)).transpose()
    }

    /// Every group, in order of number.
    pub fn groups(&self) -> impl Iterator<Item = Result<GroupRow>> {
        self.scan(GROUP).map(|item| decode_group(&item?.1))
    }

    /// Adds or replaces a group.
    ///
    /// # Errors
    /// The disk.
    pub fn set_group(&self, row: &GroupRow) -> Result<()> {
        let mut batch = Change::default();
        batch.put(&group_key(row.number), encode_group(row)?);
        self.apply(batch)?;
        Ok(())
    }

    /// Adds an acknowledged stripe with all that is complete with it, atomically.
    ///
    /// # Errors
    /// The disk.
    pub fn record_stripe(&self, record: &StripeRecord) -> Result<()> {
        let mut batch = Change::default();
        if let Some(row) = &record.row {
            batch.put(&stripe_key(STRIPE, row.no), encode_stripe(row)?);
            if record.pending {
                batch.put(&stripe_key(PENDING_STRIPE, row.no), Vec::new());
            }
            for (slot, signed) in &record.receipts {
                let mut key = stripe_key(RECEIPT, row.no);
                key.push(*slot);
                batch.put(&key, signed.clone());
            }
            if !record.shortfall.is_empty() {
                batch.put(&stripe_key(SHORTFALL, row.no), record.shortfall.clone());
            }
        }
        if let Some(group) = &record.group {
            batch.put(&group_key(group.number), encode_group(group)?);
        }
        for run in &record.runs {
            let key = run_key(RUN, &run.place);
            for (id, _) in &run.chunks {
                if !(record.keep_places && self.has_chunk(id)?) {
                    batch.put(&id_key(CHUNK, id.as_bytes()), key[1..].to_vec());
                }
            }
            batch.put(&key, encode_run(run)?);
            if record.pending {
                batch.put(&run_key(PENDING_RUN, &run.place), Vec::new());
            }
        }
        self.apply(batch)?;
        Ok(())
    }

    /// Rows that no published segment has: stripes, then runs, in order, until they take `limit` bytes. The last value
    /// tells whether there are more.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn pending(&self, limit: usize) -> Result<(Vec<StripeRow>, Vec<RunRow>, bool)> {
        let (mut stripes, mut runs, mut taken) = (Vec::new(), Vec::new(), 0);
        for item in self.tree.scan_prefix([PENDING_STRIPE]).keys() {
            if taken >= limit {
                return Ok((stripes, runs, true));
            }
            let mut key = item?.to_vec();
            key[0] = STRIPE;
            let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a pending stripe is missing"))?;
            taken += bytes.len();
            stripes.extend(IndexSegment::decode(&bytes)?.stripes);
        }
        for item in self.tree.scan_prefix([PENDING_RUN]).keys() {
            if taken >= limit {
                return Ok((stripes, runs, true));
            }
            let mut key = item?.to_vec();
            key[0] = RUN;
            let bytes = self.get(&key)?.ok_or(CatalogueError::Damaged("a pending run is missing"))?;
            taken += bytes.len();
            runs.extend(IndexSegment::decode(&bytes)?.runs);
        }
        Ok((stripes, runs, false))
    }

    /// Snapshots, by id.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, SnapshotRecord)>> {
        let mut found: Vec<(SnapshotId, Vec<u8>)> = Vec::new();
        for item in self.scan(SNAPSHOT) {
            let (key, part) = item?;
            let id = key.get(1..33).ok_or(CatalogueError::Damaged("a snapshot's key"))?;
            let id = SnapshotId::from_slice(id)?;
            match found.last_mut() {
                Some((last, value)) if *last == id => value.extend_from_slice(&part),
                _ => found.push((id, part)),
            }
        }
        found.into_iter().map(|(id, value)| Ok((id, SnapshotRecord::decode(&value)?))).collect()
    }

    /// Ends a commit, atomically: snapshots, numbers, where the segments lie, and which rows they have.
    ///
    /// # Errors
    /// The disk.
    pub fn finish_commit(&self, commit: &CommitRecord<'_>) -> Result<()> {
        let mut batch = Change::default();
        for (id, record) in commit.snapshots {
            for (part, at) in record.encode()?.chunks(ROW_MAX).zip(0u16..) {
                let mut key = id_key(SNAPSHOT, id.as_bytes());
                key.extend_from_slice(&at.to_be_bytes());
                batch.put(&key, part.to_vec());
            }
        }
        if let Some(counters) = commit.counters {
            batch.put(&meta_key(Meta::Counters), counters_bytes(counters));
        }
        let before = self.segments()?;
        for (at, place) in commit.segments.iter().enumerate() {
            if before.get(at) != Some(place) {
                batch.put(&segment_key(at), encode_segments(std::slice::from_ref(place))?);
            }
        }
        for at in commit.segments.len()..before.len() {
            batch.remove(segment_key(at));
        }
        for no in commit.stripes {
            batch.remove(stripe_key(PENDING_STRIPE, *no));
        }
        for place in commit.runs {
            batch.remove(run_key(PENDING_RUN, place));
        }
        for group in commit.groups {
            batch.put(&group_key(group.number), encode_group(group)?);
        }
        self.apply(batch)?;
        self.flush()
    }

    /// Where the index segments lie that were written so far, oldest first.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn segments(&self) -> Result<Vec<RunPlace>> {
        self.scan(SEGMENT)
            .map(|item| {
                Manifest::decode(&item?.1)?.segments.pop().ok_or(CatalogueError::Damaged("a segment row is empty"))
            })
            .collect()
    }

    /// Index segments that recovery could not read.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn unread_segments(&self) -> Result<Vec<RunPlace>> {
        Ok(self.meta(Meta::Unread)?.map(|bytes| Manifest::decode(&bytes)).transpose()?.map_or(vec![], |m| m.segments))
    }

    /// Remembers which index segments recovery could not read: as many as fit into a row, oldest first.
    ///
    /// # Errors
    /// The disk.
    pub fn set_unread_segments(&self, segments: &[RunPlace]) -> Result<()> {
        // A place takes at most 32 bytes.
        let segments = &segments[..segments.len().min(ROW_MAX / 64)];
        self.set_meta(Meta::Unread, Some(encode_segments(segments)?))
    }

    /// Marks every stripe and run as in no segment, so that the next commit writes the whole index anew.
    ///
    /// # Errors
    /// The disk.
    pub fn pend_all(&self) -> Result<()> {
        for (rows, pending) in [(STRIPE, PENDING_STRIPE), (RUN, PENDING_RUN)] {
            let (mut batch, mut count) = (Change::default(), 0);
            for key in self.tree.scan_prefix([rows]).keys() {
                let mut key = key?.to_vec();
                key[0] = pending;
                batch.put(&key, Vec::new());
                count += 1;
                if count % BATCH == 0 {
                    self.apply(std::mem::take(&mut batch))?;
                }
            }
            self.apply(batch)?;
        }
        Ok(())
    }

    /// What was known of a file when it was last read, by a keyed hash of its path.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn file(&self, path: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        self.get(&id_key(FILE, path))
    }

    /// Remembers files, atomically.
    ///
    /// # Errors
    /// The disk.
    pub fn set_files(&self, files: &[([u8; 32], Vec<u8>)]) -> Result<()> {
        let mut batch = Change::default();
        for (path, value) in files {
            match value.len() <= ROW_MAX {
                true => batch.put(&id_key(FILE, path), value.clone()),
                // It is read again next time.
                false => batch.remove(id_key(FILE, path)),
            }
        }
        self.apply(batch)?;
        Ok(())
    }

    /// Stripes that lack slots, with the slots.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn shortfalls(&self) -> Result<Vec<(StripeNo, Vec<u8>)>> {
        self.scan(SHORTFALL)
            .map(|item| {
                let (key, value) = item?;
                let no: [u8; 8] = key[1..].try_into().map_err(|_| CatalogueError::Damaged("a shortfall key"))?;
                Ok((StripeNo(u64::from_be_bytes(no)), value))
            })
            .collect()
    }

    /// Stripes that the last check found lost: chunks in them do not count as had.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn lost(&self) -> Result<BTreeSet<StripeNo>> {
        self.scan(LOST)
            .map(|item| {
                let no: [u8; 8] =
                    item?.0[1..].try_into().map_err(|_| CatalogueError::Damaged("a lost stripe's key"))?;
                Ok(StripeNo(u64::from_be_bytes(no)))
            })
            .collect()
    }

    /// Replaces the set of lost stripes, atomically. When it grows, files whose content stands behind lists are forgotten:
    /// nobody knows without the lists whether they have chunks in it, so they are read again, once.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn set_lost(&self, lost: &BTreeSet<StripeNo>) -> Result<()> {
        let mut batch = Change::default();
        let before = self.lost()?;
        for no in before.difference(lost) {
            batch.remove(stripe_key(LOST, *no));
        }
        for no in lost {
            batch.put(&stripe_key(LOST, *no), Vec::new());
            // What cannot be read cannot be completed.
            batch.remove(stripe_key(SHORTFALL, *no));
        }
        if !lost.is_subset(&before) {
            for item in self.scan(FILE) {
                let (key, value) = item?;
                if Node::decode(&value).is_ok_and(|node| node.content.depth > 0) {
                    batch.remove(key.to_vec());
                }
            }
        }
        self.apply(batch)?;
        self.flush()
    }

    /// The lost stripes that something still needs: a chunk that has no newer place, an index segment, the manifest of the
    /// last head.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn needed(&self, lost: &BTreeSet<StripeNo>) -> Result<BTreeSet<StripeNo>> {
        let mut needed = BTreeSet::new();
        if lost.is_empty() {
            return Ok(needed);
        }
        let mut need = |place: &RunPlace| needed.extend([Some(place.stripe), place.next].into_iter().flatten());
        let head = self.meta(Meta::Head)?.map(|bytes| HeadContent::decode(&bytes)).transpose()?;
        self.segments()?.iter().chain(head.iter().flat_map(|head| &head.manifest)).for_each(&mut need);
        for run in self.runs() {
            let run = run?;
            if touches(&run.place, lost) {
                let place = &run_key(RUN, &run.place)[1..];
                for (id, _) in &run.chunks {
                    if self.get(&id_key(CHUNK, id.as_bytes()))?.as_deref() == Some(place) {
                        need(&run.place);
                        break;
                    }
                }
            }
        }
        needed.retain(|no| lost.contains(no));
        Ok(needed)
    }

    /// Whether the next head must not go on from the last one: its manifest or an index segment lies in a lost stripe.
    /// Segments that were never read do not count, nobody can write them anew.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn index_is_lost(&self) -> Result<bool> {
        let (lost, unread) = (self.lost()?, self.unread_segments()?);
        let head = self.meta(Meta::Head)?.map(|bytes| HeadContent::decode(&bytes)).transpose()?;
        let manifest = head.iter().flat_map(|head| &head.manifest);
        Ok(self.segments()?.iter().filter(|at| !unread.contains(at)).chain(manifest).any(|at| touches(at, &lost)))
    }

    /// Forgets the lost stripes that nothing needs any more; those that are left. No backup may be at work: what needs its
    /// stripes may not stand yet.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn retire_lost(&self) -> Result<BTreeSet<StripeNo>> {
        let lost = self.lost()?;
        let mut needed = self.needed(&lost)?;
        // A number that no head knows as used would be given out again.
        let next = self.counters()?.next_stripe;
        needed.extend(lost.iter().filter(|no| no.0 >= next));
        let gone: BTreeSet<StripeNo> = lost.difference(&needed).copied().collect();
        if gone.is_empty() {
            return Ok(needed);
        }
        for run in self.runs() {
            let place = run?.place;
            if touches(&place, &gone) {
                let mut batch = Change::default();
                batch.remove(run_key(RUN, &place));
                batch.remove(run_key(PENDING_RUN, &place));
                self.apply(batch)?;
            }
        }
        for no in gone {
            let mut batch = Change::default();
            for prefix in [STRIPE, PENDING_STRIPE, SHORTFALL, LOST] {
                batch.remove(stripe_key(prefix, no));
            }
            for key in self.tree.scan_prefix(stripe_key(RECEIPT, no)).keys() {
                batch.remove(key?.to_vec());
            }
            self.apply(batch)?;
        }
        self.flush()?;
        Ok(needed)
    }

    /// Which slots a stripe lacks.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn shortfall(&self, no: StripeNo) -> Result<Vec<u8>> {
        Ok(self.get(&stripe_key(SHORTFALL, no))?.unwrap_or_default())
    }

    /// Sets which slots a stripe lacks; none removes the note.
    ///
    /// # Errors
    /// The disk.
    pub fn set_shortfall(&self, no: StripeNo, slots: &[u8]) -> Result<()> {
        let mut batch = Change::default();
        let key = stripe_key(SHORTFALL, no);
        if slots.is_empty() {
            batch.remove(key);
        } else {
            batch.put(&key, slots.to_vec());
        }
        self.apply(batch)?;
        Ok(())
    }
}

fn meta_key(name: Meta) -> [u8; 2] {
    [META, name as u8]
}

fn counters_bytes(c: Counters) -> Vec<u8> {
    let mut v = Vec::with_capacity(24);
    v.extend_from_slice(&c.sequence.to_le_bytes());
    v.extend_from_slice(&c.next_stripe.to_le_bytes());
    v.extend_from_slice(&((u64::from(c.generation) << 32) | u64::from(c.next_group)).to_le_bytes());
    v
}
