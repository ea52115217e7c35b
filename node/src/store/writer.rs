//! The one writer: a thread that takes commands from a bounded queue, writes what a batch of them needs with one
//! vectored write and one sync, and only then answers (DUR-4). What a command does to the log is decided in [`plan`]; [`log`]
//! writes it.
//!
//! # Invariants
//!
//! - **DUR-4** No answer before the records behind it are synced. Enforced by [`Writer::commit`] in [`log`]; attacked by
//!   `tests::crashes`.
//! - **SEP-1** A shard of a second slot of a group is refused before a byte of it is written, whatever became of the
//!   first. Enforced in [`plan`]; attacked by `tests::life::ledger_outlives..`.

mod log;
mod plan;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cairn_proto::{
    GroupId, Slot, Timestamp, VaultKey,
    record::{BLOCKS, Change, KeptHead, Record, RecordKey, StateChange},
};
use log::Active;
pub(super) use log::segment_name;
use plan::{Claims, Plan, small_len};
use tokio::sync::{mpsc, oneshot};

use super::{
    NewShard, StoreConfig, StoreError, StoredShard,
    compaction::{Pass, Step},
    database::Database,
    disk::Disk,
    index::{Index, Place, Row, Stage},
};

/// Commands of one commit: 32 shards are 32 MiB, which one sync costs little more than one shard.
pub(super) const BATCH_MAX: usize = 32;
/// Commands that wait: with one batch being written, another being filled; at most 64 MiB of shards in memory.
pub(super) const QUEUE_MAX: usize = BATCH_MAX;
/// Changed rows that wait for the database at most, however little log they stand for: a batch of sled's lies in memory, with
/// heads of 8 KiB some 16 MiB.
pub(super) const ROWS_MAX: usize = 2048;
/// Vaults whose heads are kept: 8 KiB each, 32 MiB in memory.
pub const HEADS_MAX: usize = 4096;
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked. A store that is closed `killed`, in tests, tells the database nothing any more.
pub(super) enum Command {
    Put { shard: NewShard, blocks: [u32; BLOCKS], reply: Reply<StoredShard> },
    Delete { group: GroupId, slot: Slot, ordinal: u8, reply: Reply<()> },
    Restore { group: GroupId, ordinal: u8, reply: Reply<()> },
    KeepHead { head: KeptHead, reply: Reply<bool> },
    Mark { group: GroupId, ordinal: u8, place: Place, damaged: bool },
    Expire { grace_ms: u64, reply: Reply<u64> },
    PurgeTrash { reply: Reply<u64> },
    PlanCompaction { least_dead_percent: u64, reply: Reply<Vec<u32>> },
    CompactStep { segment: u32, from: u64, reply: Reply<Step> },
    Close { killed: bool, reply: oneshot::Sender<()> },
}

pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) key: RecordKey,
    pub(super) config: StoreConfig,
    pub(super) index: Arc<RwLock<Index>>,
    pub(super) database: Option<Database>,
    active: Option<Active>,
    read_only: bool,
    next_number: u32,
    /// Rows that changed since the database was last told: at most [`ROWS_MAX`] and those of one commit.
    pending: Vec<Row>,
    /// Bytes of log since then: at most [`StoreConfig::index_behind`] and one commit.
    behind: u64,
    /// Segments that compaction could not empty because something in them is damaged, with the bytes that counted then: left
    /// until a repair or a purge changes that. As many as there are segments.
    pub(super) unmovable: BTreeMap<u32, u64>,
    /// Until when each vault's recent moves are paid for; see `plan`. Only vaults whose heads are kept: at most
    /// [`HEADS_MAX`].
    moves: BTreeMap<VaultKey, Timestamp>,
    /// Bytes of small records since the last compaction that they gave rise to.
    pub(super) small: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        key: RecordKey,
        config: StoreConfig,
        index: Arc<RwLock<Index>>,
        database: Option<Database>,
        append_to: Option<u32>,
    ) -> Self {
        let guard = index.read().unwrap_or_else(PoisonError::into_inner);
        let next_number = guard.segments.keys().next_back().map_or(1, |n| n + 1);
        let active = append_to.and_then(|number| {
            let segment = guard.segments.get(&number)?;
            Some(Active { number, file: segment.file.clone(), end: segment.len })
        });
        drop(guard);
        Self {
            disk,
            key,
            config,
            index,
            database,
            active,
            read_only: false,
            next_number,
            pending: Vec::new(),
            behind: 0,
            unmovable: BTreeMap::new(),
            moves: BTreeMap::new(),
            small: Arc::default(),
        }
    }

    /// Serves commands until told to close or until nobody is left to ask.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>, lock: Box<dyn Send>) {
        let mut waiting = VecDeque::new();
        let closed = loop {
            let Some(first) = waiting.pop_front().or_else(|| queue.blocking_recv()) else { break None };
            if let Command::Close { killed, reply } = first {
                if let Some(database) = self.database.take_if(|_| killed) {
                    database.flush();
                }
                break Some(reply);
            }
            self.serve_batch(first, &mut waiting, &mut queue);
        };
        drop(queue);
        self.tell_database();
        if let Some(database) = self.database.take() {
            database.flush();
        }
        // The lock goes last, and before the answer: who closed may open again.
        drop(self);
        drop(lock);
        if let Some(reply) = closed {
            let _ = reply.send(());
        }
    }

    /// Fills one batch from `waiting` and the queue, commits it, answers. Commands that depend on what the batch writes
    /// are `waiting` afterwards, in their order; at most [`BATCH_MAX`] and one, since filling ends there.
    fn serve_batch(&mut self, first: Command, waiting: &mut VecDeque<Command>, queue: &mut mpsc::Receiver<Command>) {
        let mut claims = Claims::default();
        let mut staged = Vec::new();
        let mut next = Some(first);
        let mut aside = Vec::new();
        // One question to the file system per batch.
        let disk_free = self.disk_free();
        while let Some(command) = next.take() {
            if matches!(command, Command::Close { .. }) {
                // Back to `run`, which ends with it when what waits is done.
                aside.push(command);
                break;
            }
            match self.plan(command, &mut claims, disk_free) {
                Plan::Write(s) => staged.push(s),
                Plan::Done => {}
                Plan::Later(command) => aside.push(command),
                Plan::Alone(command) if staged.is_empty() => {
                    self.serve_alone(command);
                    break;
                }
                Plan::Alone(command) => {
                    aside.push(command);
                    break;
                }
            }
            if staged.len() < BATCH_MAX && aside.len() < BATCH_MAX {
                next = waiting.pop_front().or_else(|| queue.try_recv().ok());
            }
        }
        for command in aside.into_iter().rev() {
            waiting.push_front(command);
        }
        let mut records = Vec::new();
        let mut answers = Vec::new();
        for s in staged {
            records.extend(s.records);
            answers.push(s.done);
        }
        let result = self.commit(&records);
        if result.is_ok() {
            let small: u64 = records.iter().map(|(r, _)| small_len(r)).sum();
            self.small.fetch_add(small, Ordering::Relaxed);
        }
        for done in answers {
            done(result.clone());
        }
    }

    /// What may still be written to the disk with the keep-free limit respected.
    pub(super) fn disk_free(&self) -> u64 {
        self.disk.free_bytes().unwrap_or(0).saturating_sub(self.config.keep_free.0)
    }

    pub(super) fn read_index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_alone(&mut self, command: Command) {
        match command {
            Command::Mark { group, ordinal, place, damaged } => self.mark(group, ordinal, place, damaged),
            Command::Expire { grace_ms, reply } => {
                let _ = reply.send(self.expire(grace_ms));
            }
            Command::PurgeTrash { reply } => {
                let _ = reply.send(self.purge_trash());
            }
            Command::PlanCompaction { least_dead_percent, reply } => {
                let _ = reply.send(Ok(self.plan_compaction(least_dead_percent)));
            }
            Command::CompactStep { segment, from, reply } => {
                let _ = reply.send(Pass::step(self, segment, from));
            }
            Command::Put { .. }
            | Command::Delete { .. }
            | Command::Restore { .. }
            | Command::KeepHead { .. }
            | Command::Close { .. } => debug_assert!(false, "planned as a part of a batch"),
        }
    }

    /// Remembers what a reader found at `place`; another copy that the shard has by now is not meant.
    pub(super) fn mark(&mut self, group: GroupId, ordinal: u8, place: Place, damaged: bool) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let entry = index.entry_mut(&group, ordinal).filter(|e| e.place == place);
        let changed = entry.is_some_and(|e| std::mem::replace(&mut e.damaged, damaged) != damaged);
        drop(index);
        if changed {
            // The log does not have it: it goes at once.
            self.pending.push(Row::Shard(group, ordinal));
            self.tell_database();
        }
    }

    /// Moves shards whose lease and grace are over to the trash; how many.
    fn expire(&mut self, grace_ms: u64) -> Result<u64, StoreError> {
        let now = (self.config.clock)();
        self.change_all(Change::Tombstone, now, |stage, lease| stage == Stage::Live && lease.plus_ms(grace_ms) < now)
    }

    /// Forgets shards whose hold in the trash is over, and whose lease: whoever asks for a shard that it signed for gets to see it until
    /// then, even where its owner had it deleted to have it blamed (DUR-5). How many.
    fn purge_trash(&mut self) -> Result<u64, StoreError> {
        let (now, hold) = ((self.config.clock)(), self.config.trash_hold_ms);
        self.change_all(
            Change::Purged,
            now,
            |stage, lease| matches!(stage, Stage::Trash { since } if since.plus_ms(hold) <= now && lease <= now),
        )
    }

    fn change_all(
        &mut self,
        change: Change,
        now: Timestamp,
        which: impl Fn(Stage, Timestamp) -> bool,
    ) -> Result<u64, StoreError> {
        let index = self.read_index();
        let records: Vec<_> = index
            .groups
            .iter()
            .flat_map(|(id, g)| g.shards.iter().map(move |(o, e)| (*id, *o, e)))
            .filter(|(_, _, e)| which(e.stage, e.lease_until))
            .filter_map(|(id, o, _)| Some((state_of(&index, &id, o, change, now, None)?, None)))
            .collect();
        drop(index);
        // Commits stay small, so that puts do not wait long.
        for part in records.chunks(1024) {
            self.commit(part)?;
        }
        Ok(records.len() as u64)
    }

    /// Remembers which rows a commit of so many bytes changed. The database hears of them with the next ones: a batch of its
    /// own for each commit costs a holder a twelfth of its time, and what it does not know yet a start reads from the log.
    pub(super) fn changed(&mut self, rows: impl IntoIterator<Item = Row>, bytes: u64) {
        if self.database.is_none() {
            return;
        }
        self.pending.extend(rows);
        self.behind += bytes;
        if self.behind >= self.config.index_behind.0 || self.pending.len() >= ROWS_MAX {
            self.tell_database();
        }
    }

    /// Tells the database which rows changed, and up to where it knows the log now. One that fails is not used any more;
    /// the next start scans the log.
    pub(super) fn tell_database(&mut self) {
        let rows = std::mem::take(&mut self.pending);
        self.behind = 0;
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some((number, segment)) = index.segments.last_key_value() else { return };
        let up_to = Place { segment: *number, offset: segment.len };
        if let Some(database) = &mut self.database
            && !database.record(&index, &rows, up_to)
        {
            tracing::warn!("the store's index failed; the log goes on without it");
            self.database = None;
        }
    }
}

/// A shard's state as it stands, with `change` applied.
pub(super) fn state_of(
    index: &Index,
    group: &GroupId,
    ordinal: u8,
    change: Change,
    at: Timestamp,
    lease: Option<Timestamp>,
) -> Option<Record> {
    let known = index.groups.get(group)?;
    let entry = known.shards.get(&ordinal)?;
    Some(Record::State(StateChange {
        change,
        group: *group,
        slot: known.slot,
        ordinal,
        root: entry.root,
        lease_until: lease.unwrap_or(entry.lease_until),
        at,
        // Copies that a crash tore may lie in any segment up to the newest: the record of a purge outlives them all.
        segment: match change {
            Change::Purged => index.segments.keys().next_back().copied().unwrap_or(entry.place.segment),
            _ => entry.place.segment,
        },
    }))
}
