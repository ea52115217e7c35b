//! What a holder keeps for others: shards, the ledger of slots, leases, vault heads, the trash.
//!
//! Append-only segment files of self-describing records are the truth ([`cairn_proto::record`]); an index in memory
//! answers, and sled keeps it so that a start need not read the log (ADR 0001). One thread writes; reads go
//! straight to the files. A [`Store`] is cheap to clone; the last clone that goes away ends the writer.
//!
//! # Invariants
//!
//! - **DUR-4** What was answered survives kill -9 and power loss. Enforced by `writer::Writer::commit`; attacked by
//!   `tests::crashes`.
//! - **DUR-5** Bytes go only after a deletion or an ended lease, the hold in the trash, and the end of the lease that a receipt promised: so
//!   what was signed for can be shown to any auditor, whatever its owner had deleted (TRUST-1). The trash is looked into before
//!   "not found" is said. Enforced by [`Store::get`] and `writer::Writer::purge_trash`; attacked by `tests::life::trash_is_served..`.
//! - **SEP-1** The ledger: one slot of a group, for ever. See `writer` and `index`.

mod arrival;
mod compaction;
mod database;
pub mod disk;
mod error;
pub mod faulty_disk;
mod index;
mod reader;
mod recovery;
mod scan;
#[cfg(test)]
mod tests;
mod volume;
mod writer;

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use cairn_proto::{
    ByteSize, GroupId, SHARD_SIZE, ShardRoot, Slot, Timestamp, VaultKey,
    message::HeadRecord,
    record::{KeptHead, RecordKey},
};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use arrival::{Arriving, ShardBytes};
pub use error::StoreError;
pub use index::Usage;
pub use recovery::Opened;
pub use writer::HEADS_MAX;

use arrival::Sums;
use compaction::Step;
use disk::{Disk, RealDisk};
use index::{Entry, Index, Stage};
use reader::{Expected, read_range, read_verified};
use writer::{Command, QUEUE_MAX, Reply, Writer};

/// Shards that are read or hashed at the same time: keeps the disk and two or four cores busy; 16 MiB in memory.
const WORKERS: usize = 16;
/// Shards that a scrub takes note of at a time: a few hundred kilobytes, and the index is locked for a moment only.
const SCRUB_BATCH: usize = 1024;
/// Garbage in a segment, in percent, from which copying the rest is worth it: a byte comes back per byte written.
const DEAD_PERCENT: u64 = 50;
/// The same when a put would be refused for want of space.
const DEAD_PERCENT_IN_NEED: u64 = 10;

/// Tells the store what time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a store works.
#[derive(Clone)]
pub struct StoreConfig {
    /// The store's folder; what belongs to it lies beside it (`store-volume`).
    pub dir: PathBuf,
    /// The pledge: shards are taken while the log's files stay within it. Above it there is a reserve that only heads and
    /// state records may use (4,096 heads of 8 KiB, and a segment); compaction needs up to a segment more for a moment.
    pub give: ByteSize,
    /// Bytes of the file system that are left to others.
    pub keep_free: ByteSize,
    /// A segment is ended when it has reached this. At most 1 GiB or so: compaction works by segment.
    pub segment_size: ByteSize,
    /// Bytes of log that may be newer than the index's database: a start after a crash reads and checks them, and no more
    /// than them and one commit. Row by row the database would cost as much as hashing the shards does.
    pub index_behind: ByteSize,
    /// How long a shard waits in the trash before its bytes go.
    pub trash_hold_ms: u64,
    /// The time.
    pub clock: Clock,
}

impl StoreConfig {
    /// A store with the usual figures: 256 MiB segments, an index at most 64 MiB behind (a second of a slow disk), seven days
    /// of trash, 1 GiB of the disk left free.
    #[must_use]
    pub fn new(dir: PathBuf, give: ByteSize) -> Self {
        Self {
            dir,
            give,
            keep_free: ByteSize(1 << 30),
            segment_size: ByteSize(256 << 20),
            index_behind: ByteSize(64 << 20),
            trash_hold_ms: 7 * 24 * 3_600_000,
            clock: Arc::new(system_time),
        }
    }
}

fn system_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A shard to be stored.
#[derive(Clone, Debug)]
pub struct NewShard {
    /// The group.
    pub group: GroupId,
    /// The slot; the caller has checked that it is this peer's colour.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// BLAKE3 of `bytes`.
    pub root: ShardRoot,
    /// Until when it must be kept.
    pub lease_until: Timestamp,
    /// Exactly [`SHARD_SIZE`] bytes.
    pub bytes: ShardBytes,
}

/// A shard that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredShard {
    /// When it was first stored.
    pub stored_at: Timestamp,
    /// Until when it is kept: what was asked, or longer when that was promised before.
    pub lease_until: Timestamp,
    /// Whether bytes were written, or the shard was here already.
    pub new: bool,
}

/// Live, or waiting for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// Kept under its lease.
    Live,
    /// Deleted or expired; served and restored when somebody asks for it before the hold is over.
    Trash,
}

/// A shard in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardInfo {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// Its name.
    pub root: ShardRoot,
    /// Its size.
    pub bytes: ByteSize,
    /// Until when it is kept.
    pub lease_until: Timestamp,
    /// Live or in the trash.
    pub state: ShardState,
    /// Its bytes did not match when they were last read.
    pub damaged: bool,
}

/// Which shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ShardRef {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// Shards read.
    pub checked: u64,
    /// Shards whose bytes are not what was stored; `get` says so too from now on.
    pub damaged: Vec<ShardRef>,
    /// Shards whose record is not in the log any more, or cannot be read.
    pub missing: Vec<ShardRef>,
    /// It was stopped before the end.
    pub cancelled: bool,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CompactionReport {
    /// Shards whose hold in the trash was over.
    pub purged: u64,
    /// Segments removed.
    pub segments: u64,
    /// Bytes of the removed segments, before what was copied out of them.
    pub removed_bytes: u64,
    /// Sparse segments that stay, because something in them is damaged.
    pub kept: u64,
}

/// A handle to the store.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    config: StoreConfig,
    disk: Arc<dyn Disk>,
    key: RecordKey,
    index: Arc<RwLock<Index>>,
    commands: mpsc::Sender<Command>,
    workers: Semaphore,
    compaction: Arc<tokio::sync::Mutex<()>>,
    /// Bytes of small records since the last compaction that they gave rise to.
    small: Arc<AtomicU64>,
    opened: Opened,
}

impl Store {
    /// Opens or makes the store. Blocks while the log is read.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::WrongVolume`], [`StoreError::Io`].
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let io = StoreError::io("opening the store");
        if volume::memory_of(&config.dir).exists() {
            // Before anything is made: an empty mount point is to stay as it is.
            volume::identify(&config.dir, false)?;
        }
        let disk: Arc<dyn Disk> =
            Arc::new(RealDisk::new(config.dir.join("segments"), config.dir.join("lock")).map_err(&io)?);
        let lock = lock(disk.as_ref(), &config.dir)?;
        let has_segments = !recovery::segment_numbers(disk.as_ref()).map_err(&io)?.is_empty();
        let id = volume::identify(&config.dir, has_segments)?;
        let database = config.dir.join("index");
        Self::start(config, disk, lock, &id, Some(&database))
    }

    /// Opens a store on any disk: for tests and simulation. The volume id is the caller's business.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(
        config: StoreConfig,
        disk: Arc<dyn Disk>,
        volume: &[u8; 32],
        database: Option<&Path>,
    ) -> Result<Self, StoreError> {
        let lock = lock(disk.as_ref(), &config.dir)?;
        Self::start(config, disk, lock, volume, database)
    }

    fn start(
        config: StoreConfig,
        disk: Arc<dyn Disk>,
        lock: Box<dyn Send>,
        volume: &[u8; 32],
        database: Option<&Path>,
    ) -> Result<Self, StoreError> {
        let key = RecordKey::of_volume(volume);
        let found = recovery::recover(&disk, &key, database)?;
        let index = Arc::new(RwLock::new(found.index));
        let mut writer =
            Writer::new(disk.clone(), key.clone(), config.clone(), index.clone(), found.database, found.append_to);
        let small = writer.small.clone();
        let ledgers: Vec<_> = found.lost_ledgers.into_iter().map(|r| (r, None)).collect();
        if let Err(error) = writer.commit(&ledgers) {
            // Their shards say the same as long as they are there; the next start tries again.
            tracing::warn!(%error, "lost ledger entries could not be written again");
        }
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("cairn-store".to_owned())
            .spawn(move || writer.run(queue, lock))
            .map_err(StoreError::io("starting the writer"))?;
        let shared = Shared {
            config,
            disk,
            key,
            index,
            commands,
            workers: Semaphore::new(WORKERS),
            compaction: Arc::default(),
            small,
            opened: found.opened,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// What opening found.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.0.opened
    }

    /// Stores a shard; durable on return. The same shard again extends its lease, and brings it back from the trash.
    ///
    /// # Errors
    /// [`StoreError::LedgerConflict`], [`StoreError::Occupied`], [`StoreError::RootMismatch`],
    /// [`StoreError::WrongLength`], [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::ReadOnly`],
    /// [`StoreError::Closed`].
    pub async fn put(&self, shard: NewShard) -> Result<StoredShard, StoreError> {
        let bytes = &*shard.bytes;
        if bytes.len() != SHARD_SIZE {
            return Err(StoreError::WrongLength { found: bytes.len() });
        }
        let Sums { root, blocks } = match shard.bytes.sums() {
            Some(sums) => sums,
            None => {
                let bytes = bytes.clone();
                self.work(move || ShardBytes::sum(&bytes)).await?
            }
        };
        if root != *shard.root.as_bytes() {
            return Err(StoreError::RootMismatch);
        }
        self.ask_for_room(|reply| Command::Put { shard: shard.clone(), blocks, reply }).await
    }

    /// Bytes of a shard from `offset` on; `length` 0 means to the end. A shard in the trash is served and restored.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], [`StoreError::RangeOutside`], [`StoreError::Io`].
    pub async fn get(
        &self,
        group: GroupId,
        slot: Slot,
        ordinal: u8,
        offset: u32,
        length: u32,
    ) -> Result<Bytes, StoreError> {
        let (bytes, stage) = self.read(group, slot, ordinal, offset as usize, length as usize).await?;
        if stage != Stage::Live
            && let Err(error) = self.ask_for_room(|reply| Command::Restore { group, ordinal, reply }).await
        {
            tracing::warn!(%error, "a shard was served from the trash and could not be restored");
        }
        Ok(bytes)
    }

    /// The whole shard for who only wants to know that it is there: from the trash too, where it stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], [`StoreError::Io`].
    pub async fn look(&self, group: GroupId, slot: Slot, ordinal: u8) -> Result<Bytes, StoreError> {
        self.read(group, slot, ordinal, 0, 0).await.map(|(bytes, _)| bytes)
    }

    async fn read(
        &self,
        group: GroupId,
        slot: Slot,
        ordinal: u8,
        offset: usize,
        mut length: usize,
    ) -> Result<(Bytes, Stage), StoreError> {
        if offset >= SHARD_SIZE || length > SHARD_SIZE - offset {
            return Err(StoreError::RangeOutside);
        }
        if length == 0 {
            length = SHARD_SIZE - offset;
        }
        let (entry, file) = {
            let index = self.index();
            let entry = index.groups.get(&group).filter(|g| g.slot == slot).and_then(|g| g.shards.get(&ordinal));
            let entry = *entry.ok_or(StoreError::NotFound)?;
            let segment = index.segments.get(&entry.place.segment).ok_or(StoreError::Damaged)?;
            (entry, segment.file.clone())
        };
        let expected = Expected { group, slot, ordinal, root: entry.root };
        let key = self.0.key.clone();
        let read =
            self.work(move || read_range(file.as_ref(), &key, entry.place.offset, &expected, offset, length)).await?;
        match read {
            Err(StoreError::Damaged | StoreError::NotFound) => {
                // A full queue is no reason to keep the reader waiting: the next read or scrub finds it again.
                let _ = self.0.commands.try_send(Command::Mark { group, ordinal, place: entry.place, damaged: true });
                Err(StoreError::Damaged)
            }
            read => read.map(|bytes| (bytes, entry.stage)),
        }
    }

    /// Which stripes of the group have a sound, live shard here: bit `ordinal % 8` of byte `ordinal / 8`. The trash does
    /// not count, so that nobody relies on a shard whose end is set.
    #[must_use]
    pub fn holding(&self, group: GroupId, slot: Slot) -> [u8; 32] {
        let mut bitmap = [0; 32];
        if let Some(known) = self.index().groups.get(&group).filter(|g| g.slot == slot) {
            for (ordinal, _) in known.shards.iter().filter(|(_, e)| e.stage == Stage::Live && !e.damaged) {
                bitmap[usize::from(ordinal / 8)] |= 1 << (ordinal % 8);
            }
        }
        bitmap
    }

    /// The same shards with their roots and leases, by ordinal.
    #[must_use]
    pub fn rows(&self, group: GroupId, slot: Slot) -> Vec<(u8, ShardRoot, Timestamp)> {
        let index = self.index();
        let shards = index.groups.get(&group).filter(|g| g.slot == slot).into_iter().flat_map(|g| &g.shards);
        let sound = shards.filter(|(_, e)| e.stage == Stage::Live && !e.damaged);
        sound.map(|(ordinal, e)| (*ordinal, e.root, e.lease_until)).collect()
    }

    /// Whether this very shard is here, live and not known to be damaged.
    #[must_use]
    pub fn has_sound(&self, group: GroupId, slot: Slot, ordinal: u8, root: &ShardRoot) -> bool {
        let index = self.index();
        let entry = index.groups.get(&group).filter(|g| g.slot == slot).and_then(|g| g.shards.get(&ordinal));
        entry.is_some_and(|e| e.root == *root && e.stage == Stage::Live && !e.damaged)
    }

    /// The one slot of the group that was ever accepted here (SEP-1), deleted shards included.
    #[must_use]
    pub fn accepted_slot(&self, group: GroupId) -> Option<Slot> {
        self.index().groups.get(&group).map(|g| g.slot)
    }

    /// Moves a shard to the trash. Once more is no error.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Io`], [`StoreError::ReadOnly`], [`StoreError::Closed`].
    pub async fn delete(&self, group: GroupId, slot: Slot, ordinal: u8) -> Result<(), StoreError> {
        self.ask(|reply| Command::Delete { group, slot, ordinal, reply }).await
    }

    /// Moves shards to the trash whose lease ended more than `grace_ms` ago; how many.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::ReadOnly`], [`StoreError::Closed`].
    pub async fn expire(&self, grace_ms: u64) -> Result<u64, StoreError> {
        self.ask(|reply| Command::Expire { grace_ms, reply }).await
    }

    /// Keeps a vault's head when it is newer than the one that is kept; durable on return. `false` when it is not.
    ///
    /// # Errors
    /// [`StoreError::HeadInvalid`], [`StoreError::HeadsFull`] (the heads kept are never driven out by new ones: who
    /// makes up vaults must not push out those that exist), [`StoreError::HeadTooSoon`], [`StoreError::NoSpace`],
    /// [`StoreError::Io`], [`StoreError::Closed`].
    pub async fn keep_head(&self, encoded: Vec<u8>) -> Result<bool, StoreError> {
        let record = HeadRecord::open(&encoded).map_err(StoreError::HeadInvalid)?;
        let head =
            KeptHead { vault: record.vault, generation: record.generation, sequence: record.sequence, bytes: encoded };
        self.ask_for_room(|reply| Command::KeepHead { head: head.clone(), reply }).await
    }

    /// The newest head kept for a vault, encoded.
    #[must_use]
    pub fn find_head(&self, vault: &VaultKey) -> Option<Vec<u8>> {
        self.index().heads.get(vault).map(|h| h.kept.bytes.clone())
    }

    /// All heads kept, encoded.
    #[must_use]
    pub fn heads(&self) -> Vec<(VaultKey, Vec<u8>)> {
        self.index().heads.iter().map(|(v, h)| (*v, h.kept.bytes.clone())).collect()
    }

    /// Every shard here, in order.
    #[must_use]
    pub fn list(&self) -> Vec<ShardInfo> {
        self.list_after(None, usize::MAX)
    }

    /// At most so many shards, in order, after this stripe of this group.
    #[must_use]
    pub fn list_after(&self, after: Option<(GroupId, u8)>, limit: usize) -> Vec<ShardInfo> {
        let info = |group: &GroupId, slot, ordinal: &u8, e: &Entry| ShardInfo {
            group: *group,
            slot,
            ordinal: *ordinal,
            root: e.root,
            bytes: ByteSize(SHARD_SIZE as u64),
            lease_until: e.lease_until,
            state: if e.stage == Stage::Live { ShardState::Live } else { ShardState::Trash },
            damaged: e.damaged,
        };
        let index = self.index();
        let from = after.map_or(Bound::Unbounded, |(group, _)| Bound::Included(group));
        index
            .groups
            .range((from, Bound::Unbounded))
            .flat_map(|(g, known)| {
                let from = match after {
                    Some((group, ordinal)) if group == *g => Bound::Excluded(ordinal),
                    _ => Bound::Unbounded,
                };
                known.shards.range((from, Bound::Unbounded)).map(move |(o, e)| info(g, known.slot, o, e))
            })
            .take(limit)
            .collect()
    }

    /// Bytes by what they are for.
    #[must_use]
    pub fn usage(&self) -> Usage {
        // A disk that cannot say has no room.
        let free = self.0.disk.free_bytes().unwrap_or(0).saturating_sub(self.0.config.keep_free.0);
        self.index().usage(self.0.config.give, free)
    }

    /// Reads every shard, trash included, and compares it with its root. Damage is remembered and listed.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn scrub(&self, cancel: &CancellationToken) -> Result<ScrubReport, StoreError> {
        self.scrub_by(SCRUB_BATCH, cancel).await
    }

    async fn scrub_by(&self, batch: usize, cancel: &CancellationToken) -> Result<ScrubReport, StoreError> {
        let mut report = ScrubReport::default();
        let mut after = None;
        loop {
            let some = self.list_after(after, batch);
            let Some(last) = some.last() else { break };
            after = Some((last.group, last.ordinal));
            self.scrub_some(some, cancel, &mut report).await?;
            if report.cancelled {
                break;
            }
        }
        Ok(report)
    }

    async fn scrub_some(
        &self,
        some: Vec<ShardInfo>,
        cancel: &CancellationToken,
        report: &mut ScrubReport,
    ) -> Result<(), StoreError> {
        for info in some {
            if cancel.is_cancelled() {
                report.cancelled = true;
                break;
            }
            let found = {
                let index = self.index();
                index
                    .entry(&info.group, info.ordinal)
                    .copied()
                    .map(|e| (e, index.segments.get(&e.place.segment).map(|s| s.file.clone())))
            };
            // Purged since the list was made.
            let Some((entry, file)) = found else { continue };
            let shard = ShardRef { group: info.group, slot: info.slot, ordinal: info.ordinal };
            let expected = Expected { group: info.group, slot: info.slot, ordinal: info.ordinal, root: entry.root };
            let key = self.0.key.clone();
            let read = match file {
                None => Err(StoreError::NotFound),
                Some(f) => self.work(move || read_verified(f.as_ref(), &key, entry.place.offset, &expected)).await?,
            };
            report.checked += 1;
            match &read {
                Ok(_) => {}
                Err(StoreError::Damaged) => report.damaged.push(shard),
                Err(_) => report.missing.push(shard),
            }
            if read.is_err() != entry.damaged {
                let (place, damaged) = (entry.place, read.is_err());
                let mark = Command::Mark { group: info.group, ordinal: info.ordinal, place, damaged };
                self.0.commands.send(mark).await.map_err(|_| StoreError::Closed)?;
            }
        }
        Ok(())
    }

    /// Ends holds in the trash that are over, and gives the space of sparse segments back.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] (copies need room), [`StoreError::Io`], [`StoreError::ReadOnly`], [`StoreError::Closed`].
    pub async fn compact(&self) -> Result<CompactionReport, StoreError> {
        self.compact_from(DEAD_PERCENT).await
    }

    async fn compact_from(&self, least_dead_percent: u64) -> Result<CompactionReport, StoreError> {
        let _one = self.0.compaction.lock().await;
        self.compact_alone(least_dead_percent).await
    }

    /// The caller has the lock of compaction.
    async fn compact_alone(&self, least_dead_percent: u64) -> Result<CompactionReport, StoreError> {
        let purged = self.ask(|reply| Command::PurgeTrash { reply }).await?;
        let mut report = CompactionReport { purged, ..CompactionReport::default() };
        for segment in self.ask(|reply| Command::PlanCompaction { least_dead_percent, reply }).await? {
            let mut from = 0;
            loop {
                match self.ask(|reply| Command::CompactStep { segment, from, reply }).await? {
                    Step::More(next) => from = next,
                    Step::Removed(bytes) => {
                        report.segments += 1;
                        report.removed_bytes += bytes;
                        break;
                    }
                    Step::Kept => {
                        report.kept += 1;
                        break;
                    }
                }
            }
        }
        Ok(report)
    }

    /// Ends the writer after what is queued, and lets go of the lock. All handles say [`StoreError::Closed`] from now on to
    /// what writes.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.0.commands.send(Command::Close { killed: false, reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.0.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::ask`]; when there is no space but garbage, that is collected first. Heads and state records that
    /// strangers can make us write without end are garbage soon: after a segment of them, a compaction begins.
    async fn ask_for_room<T>(&self, command: impl Fn(Reply<T>) -> Command) -> Result<T, StoreError> {
        let result = match self.ask(&command).await {
            Err(StoreError::NoSpace { needed, .. }) if self.usage().dead_bytes >= needed => {
                self.compact_from(DEAD_PERCENT_IN_NEED).await?;
                self.ask(command).await
            }
            other => other,
        };
        if self.0.small.load(Ordering::Relaxed) >= self.0.config.segment_size.0
            && let Ok(one) = self.0.compaction.clone().try_lock_owned()
        {
            self.0.small.store(0, Ordering::Relaxed);
            let store = self.clone();
            tokio::spawn(async move {
                let _one = one;
                match store.compact_alone(DEAD_PERCENT).await {
                    Ok(report) => tracing::debug!(?report, "compacted after many small records"),
                    Err(error) => tracing::warn!(%error, "the store could not be compacted"),
                }
            });
        }
        result
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(command(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs work on a blocking thread, a few at a time.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
        let _permit = self.0.workers.acquire().await.map_err(|_| StoreError::Closed)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send>, StoreError> {
    disk.lock().map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => StoreError::Locked { dir: dir.to_owned() },
        _ => StoreError::io("locking the store")(e),
    })
}
