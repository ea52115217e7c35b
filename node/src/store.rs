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
mod config;
mod database;
pub mod disk;
mod error;
pub mod faulty_disk;
mod index;
mod listing;
mod reader;
mod recovery;
mod scan;
mod scrub;
#[cfg(test)]
mod tests;
mod volume;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cairn_proto::{
    GroupId, SHARD_SIZE, ShardRoot, Slot, Timestamp,
    message::HeadRecord,
    record::{KeptHead, RecordKey},
};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use arrival::{Arriving, ShardBytes};
pub use config::{Clock, StoreConfig};
pub use error::StoreError;
pub use index::Usage;
pub use listing::{ShardInfo, ShardRef, ShardState};
pub use recovery::Opened;
pub use scrub::ScrubReport;
pub use writer::HEADS_MAX;

use arrival::Sums;
use compaction::Step;
use disk::{Disk, RealDisk};
use index::{Index, Stage};
use reader::{Expected, read_range};
use writer::{Command, QUEUE_MAX, Reply, Writer};

/// Shards that are read or hashed at the same time: keeps the disk and two or four cores busy; 16 MiB in memory.
const WORKERS: usize = 16;
/// Garbage in a segment, in percent, from which copying the rest is worth it: a byte comes back per byte written.
const DEAD_PERCENT: u64 = 50;
/// The same when a put would be refused for want of space.
const DEAD_PERCENT_IN_NEED: u64 = 10;

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
