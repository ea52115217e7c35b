//! The one writer: a thread that takes commands from a bounded queue, writes what a batch of them needs with one
//! vectored write and one sync, and only then answers (DUR-4).
//!
//! # Invariants
//!
//! - **DUR-4** No answer before the records behind it are synced. Enforced by [`Writer::commit`]; attacked by
//!   `tests::crashes`.
//! - **SEP-1** A shard of a second slot of a group is refused before a byte of it is written, whatever became of the
//!   first. Enforced by [`Writer::plan_put`]; attacked by `tests::life::ledger_outlives..`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, IoSlice},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cairn_proto::{
    ByteSize, GroupId, Slot, Timestamp, VaultKey,
    message::HEAD_RECORD_MAX,
    record::{BLOCKS, Change, KeptHead, Record, RecordKey, SHARD_RECORD, ShardHead, StateChange},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    NewShard, StoreConfig, StoreError, StoredShard,
    compaction::{Pass, Step},
    database::Database,
    disk::{Disk, SegmentFile},
    index::{Index, Place, Row, SEGMENT_START, SMALL, Stage, head_record_len},
};

/// Commands of one commit: 32 shards are 32 MiB, which one sync costs little more than one shard.
pub(super) const BATCH_MAX: usize = 32;
/// Commands that wait: with one batch being written, another being filled; at most 64 MiB of shards in memory.
pub(super) const QUEUE_MAX: usize = BATCH_MAX;
/// Vaults whose heads are kept: 8 KiB each, 32 MiB in memory.
pub const HEADS_MAX: usize = 4096;
/// A vault's head moves at most once in this time: a snapshot takes longer, and each move costs a record and a sync.
const HEAD_EVERY_MS: u64 = 1_000;
/// Moves that may come at once, if fewer came before: an owner's small snapshots in a row.
const HEAD_BURST: u64 = 8;
/// Bytes above the pledge for heads and for state records, which shards never take: all heads at their largest, and beside
/// them a segment (see [`reserve`]) of garbage until compaction has come round.
const HEADS_RESERVE: u64 = HEADS_MAX as u64 * head_record_len(HEAD_RECORD_MAX);

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

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
    Close { reply: oneshot::Sender<()> },
}

/// Records to write, and what to say when they are durable.
struct Staged {
    records: Vec<(Record, Option<Bytes>)>,
    done: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

enum Plan {
    Write(Staged),
    /// Answered already.
    Done,
    /// Depends on what this batch writes.
    Later(Command),
    /// Not a thing for a batch.
    Alone(Command),
}

struct Active {
    number: u32,
    file: Arc<dyn SegmentFile>,
    end: u64,
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
    /// Segments that compaction could not empty because something in them is damaged, with the bytes that counted then: left
    /// until a repair or a purge changes that. As many as there are segments.
    pub(super) unmovable: BTreeMap<u32, u64>,
    /// Until when each vault's recent moves are paid for; see [`HEAD_BURST`]. Only vaults whose heads are kept: at most
    /// [`HEADS_MAX`].
    moves: BTreeMap<VaultKey, Timestamp>,
    /// Bytes of small records since the last compaction that they gave rise to.
    pub(super) small: Arc<AtomicU64>,
}

/// What a batch already claims.
#[derive(Default)]
struct Claims {
    shards: BTreeSet<(GroupId, u8)>,
    ledgers: BTreeMap<GroupId, Slot>,
    /// The newest of each vault.
    heads: BTreeMap<VaultKey, (u32, u64)>,
    new_heads: usize,
    bytes: u64,
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
            if let Command::Close { reply } = first {
                break Some(reply);
            }
            self.serve_batch(first, &mut waiting, &mut queue);
        };
        drop(queue);
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

    fn plan(&mut self, command: Command, claims: &mut Claims, disk_free: u64) -> Plan {
        match command {
            Command::Put { .. } => self.plan_put(command, claims, disk_free),
            Command::Delete { group, slot, ordinal, reply } => {
                if !claims.shards.insert((group, ordinal)) {
                    return Plan::Later(Command::Delete { group, slot, ordinal, reply });
                }
                let index = self.read_index();
                let known = index.groups.get(&group).filter(|g| g.slot == slot);
                match known.and_then(|g| g.shards.get(&ordinal)).map(|e| e.stage) {
                    None => answer(reply, Err(StoreError::NotFound)),
                    Some(Stage::Trash { .. }) => answer(reply, Ok(())),
                    Some(Stage::Live) => {
                        let record = state_of(&index, &group, ordinal, Change::Tombstone, (self.config.clock)(), None);
                        write(record.into_iter().map(|r| (r, None)).collect(), reply, ())
                    }
                }
            }
            Command::Restore { group, ordinal, reply } => {
                if !claims.shards.insert((group, ordinal)) {
                    return Plan::Later(Command::Restore { group, ordinal, reply });
                }
                let index = self.read_index();
                match index.entry(&group, ordinal).map(|e| e.stage) {
                    None => answer(reply, Err(StoreError::NotFound)),
                    Some(Stage::Live) => answer(reply, Ok(())),
                    Some(Stage::Trash { .. }) => {
                        if let Err(full) = self.claim_small(&index, claims, disk_free, SMALL) {
                            return answer(reply, Err(full));
                        }
                        let record = state_of(&index, &group, ordinal, Change::Restored, (self.config.clock)(), None);
                        write(record.into_iter().map(|r| (r, None)).collect(), reply, ())
                    }
                }
            }
            Command::KeepHead { head, reply } => self.plan_head(head, reply, claims, disk_free),
            other => Plan::Alone(other),
        }
    }

    fn plan_head(&mut self, head: KeptHead, reply: Reply<bool>, claims: &mut Claims, disk_free: u64) -> Plan {
        let order = (head.generation, head.sequence);
        let claimed = claims.heads.get(&head.vault).copied();
        if claimed.is_some_and(|newest| newest >= order) {
            // The answer is no, but not before the newer one is durable.
            return Plan::Later(Command::KeepHead { head, reply });
        }
        let index = self.index.clone();
        let index = index.read().unwrap_or_else(PoisonError::into_inner);
        let kept = index.heads.get(&head.vault);
        if kept.is_some_and(|old| old.order() >= order) {
            return answer(reply, Ok(false));
        }
        let moves = kept.is_some() || claimed.is_some();
        if !moves && index.heads.len() + claims.new_heads >= HEADS_MAX {
            return answer(reply, Err(StoreError::HeadsFull { limit: HEADS_MAX }));
        }
        if let Err(full) = self.claim_small(&index, claims, disk_free, head_record_len(head.bytes.len())) {
            return answer(reply, Err(full));
        }
        if moves && !self.may_move(head.vault) {
            return answer(reply, Err(StoreError::HeadTooSoon));
        }
        claims.new_heads += usize::from(!moves);
        claims.heads.insert(head.vault, order);
        write(vec![(Record::Head(head), None)], reply, true)
    }

    /// Whether the vault's head may move now; if so, that is remembered.
    fn may_move(&mut self, vault: VaultKey) -> bool {
        let now = (self.config.clock)();
        let furthest = now.plus_ms(HEAD_BURST * HEAD_EVERY_MS);
        // A clock that was set back makes nobody wait for longer than a turn.
        let paid = self.moves.get(&vault).copied().unwrap_or(now).max(now).min(furthest);
        let next = paid.plus_ms(HEAD_EVERY_MS);
        let may = next <= furthest;
        self.moves.insert(vault, if may { next } else { paid });
        may
    }

    /// Counts a head or a state record against the reserve above the pledge and the disk's free bytes. Deletions and
    /// purges need not ask: there is one of each for a shard that was stored, and they are what makes room.
    fn claim_small(&self, index: &Index, claims: &mut Claims, disk_free: u64, bytes: u64) -> Result<(), StoreError> {
        let limit = ByteSize(self.config.give.0.saturating_add(reserve(&self.config)));
        let free = index.usage(limit, disk_free).free_bytes.0.saturating_sub(claims.bytes);
        if bytes + SEGMENT_START > free {
            return Err(StoreError::NoSpace { needed: ByteSize(bytes), free: ByteSize(free) });
        }
        claims.bytes += bytes + SEGMENT_START;
        Ok(())
    }

    fn plan_put(&self, command: Command, claims: &mut Claims, disk_free: u64) -> Plan {
        let Command::Put { shard, blocks, reply } = command else { return Plan::Done };
        let at = (shard.group, shard.ordinal);
        if claims.shards.contains(&at) || claims.ledgers.get(&shard.group).is_some_and(|s| *s != shard.slot) {
            return Plan::Later(Command::Put { shard, blocks, reply });
        }
        let index = self.read_index();
        let now = (self.config.clock)();
        let group = index.groups.get(&shard.group);
        if let Some(accepted) = group.map(|g| g.slot).filter(|s| *s != shard.slot) {
            return answer(reply, Err(StoreError::LedgerConflict { accepted }));
        }
        if let Some(entry) = index.entry(&shard.group, shard.ordinal) {
            if entry.root != shard.root {
                return answer(reply, Err(StoreError::Occupied));
            }
            if !entry.damaged {
                let lease_until = entry.lease_until.max(shard.lease_until);
                let stored = StoredShard { stored_at: entry.stored_at, lease_until, new: false };
                let change = match entry.stage {
                    Stage::Trash { .. } => Change::Restored,
                    Stage::Live if lease_until > entry.lease_until => Change::Lease,
                    Stage::Live => return answer(reply, Ok(stored)),
                };
                if let Err(full) = self.claim_small(&index, claims, disk_free, SMALL) {
                    return answer(reply, Err(full));
                }
                claims.shards.insert(at);
                let record = state_of(&index, &shard.group, shard.ordinal, change, now, Some(lease_until));
                return write(record.into_iter().map(|r| (r, None)).collect(), reply, stored);
            }
        }
        let mut records = Vec::with_capacity(2);
        let mut bytes = SHARD_RECORD as u64;
        if group.is_none_or(|g| g.ledger_segment.is_none()) && !claims.ledgers.contains_key(&shard.group) {
            records.push((Record::Ledger { group: shard.group, slot: shard.slot }, None));
            bytes += 128;
        }
        let free = index.usage(self.config.give, disk_free).free_bytes.0.saturating_sub(claims.bytes);
        // A segment's own first record may have to be written too.
        if bytes + SEGMENT_START > free {
            let needed = ByteSize(bytes);
            return answer(reply, Err(StoreError::NoSpace { needed, free: ByteSize(free) }));
        }
        claims.bytes += bytes + SEGMENT_START;
        claims.shards.insert(at);
        claims.ledgers.insert(shard.group, shard.slot);
        let stored_at = index.entry(&shard.group, shard.ordinal).map_or(now, |e| e.stored_at);
        // What was promised for the copy that is damaged holds for the new one.
        let promised = index.entry(&shard.group, shard.ordinal).map_or(Timestamp(0), |e| e.lease_until);
        let lease_until = shard.lease_until.max(promised);
        let head = ShardHead {
            group: shard.group,
            slot: shard.slot,
            ordinal: shard.ordinal,
            root: shard.root,
            lease_until,
            stored_at,
            blocks,
        };
        records.push((Record::Shard(head), Some(shard.bytes)));
        write(records, reply, StoredShard { stored_at, lease_until, new: true })
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
            self.record(&[Row::Shard(group, ordinal)]);
        }
    }

    /// Moves shards whose lease and grace are over to the trash; how many.
    fn expire(&mut self, grace_ms: u64) -> Result<u64, StoreError> {
        let now = (self.config.clock)();
        self.change_all(Change::Tombstone, now, |stage, lease| stage == Stage::Live && lease.plus_ms(grace_ms) < now)
    }

    /// Forgets shards whose hold in the trash is over; how many.
    fn purge_trash(&mut self) -> Result<u64, StoreError> {
        let (now, hold) = ((self.config.clock)(), self.config.trash_hold_ms);
        self.change_all(
            Change::Purged,
            now,
            |stage, _| matches!(stage, Stage::Trash { since } if since.plus_ms(hold) <= now),
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

    /// Ends the segment that is being written, so that compaction may empty it.
    pub(super) fn seal_active(&mut self) {
        self.active = None;
    }

    pub(super) fn active_segment(&self) -> Option<u32> {
        self.active.as_ref().map(|a| a.number)
    }

    /// Writes and syncs the records, then takes them into the index and the database. All or, for those who ask,
    /// nothing.
    pub(super) fn commit(&mut self, records: &[(Record, Option<Bytes>)]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let heads: Vec<Vec<u8>> = records.iter().map(|(r, _)| r.encode(&self.key)).collect();
        let active = self.active_with_room()?;
        let (number, file, start) = (active.number, active.file.clone(), active.end);
        let mut slices = Vec::with_capacity(2 * records.len());
        let mut places = Vec::with_capacity(records.len());
        let mut end = start;
        for (head, (_, payload)) in heads.iter().zip(records) {
            places.push(Place { segment: number, offset: end });
            slices.push(IoSlice::new(head));
            end += head.len() as u64;
            if let Some(payload) = payload {
                slices.push(IoSlice::new(payload));
                end += payload.len() as u64;
            }
        }
        if let Err(e) = write_all(file.as_ref(), &mut slices, start) {
            self.undo(&file, start);
            return Err(no_space(&e, end - start).unwrap_or_else(|| StoreError::io("writing to the log")(e)));
        }
        if let Err(e) = file.sync() {
            self.undo(&file, start);
            // The kernel may have dropped pages, and says so once: what follows goes to a new segment.
            self.active = None;
            return Err(no_space(&e, end - start).unwrap_or_else(|| StoreError::io("syncing the log")(e)));
        }
        if let Some(active) = &mut self.active {
            active.end = end;
        }
        let mut rows = Vec::new();
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = index.segments.get_mut(&number) {
            segment.len = end;
        }
        for ((record, _), place) in records.iter().zip(places) {
            rows.extend(index.apply(record, place).unwrap_or_default());
        }
        drop(index);
        self.record(&rows);
        Ok(())
    }

    /// Takes the tail of a failed write away.
    fn undo(&mut self, file: &Arc<dyn SegmentFile>, start: u64) {
        if let Err(e) = file.truncate(start) {
            tracing::error!(error = %e, "a failed write could not be undone: the store only reads until the next start");
            self.read_only = true;
        }
    }

    fn active_with_room(&mut self) -> Result<&mut Active, StoreError> {
        if self.active.as_ref().is_some_and(|a| a.end >= self.config.segment_size.0) {
            self.active = None;
        }
        let active = match self.active.take() {
            Some(active) => active,
            None => self.new_segment()?,
        };
        Ok(self.active.insert(active))
    }

    fn new_segment(&mut self) -> Result<Active, StoreError> {
        let number = self.next_number;
        // Never the same number twice: a file that could not be removed must not be met again.
        self.next_number += 1;
        let name = segment_name(number);
        let start = Record::Segment { number }.encode(&self.key);
        let made = self.disk.create(&name).and_then(|file| {
            write_all(file.as_ref(), &mut [IoSlice::new(&start)], 0)?;
            file.sync()?;
            self.disk.sync_folder()?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                index.add_segment(number, file.clone(), start.len() as u64);
                Ok(Active { number, file, end: start.len() as u64 })
            }
            Err(e) => {
                let _ = self.disk.remove(&name);
                Err(no_space(&e, start.len() as u64).unwrap_or_else(|| StoreError::io("making a segment")(e)))
            }
        }
    }

    /// Tells the database which rows changed. One that fails is not used any more; the next start scans the log.
    pub(super) fn record(&mut self, rows: &[Row]) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some((number, segment)) = index.segments.last_key_value() else { return };
        let up_to = Place { segment: *number, offset: segment.len };
        if let Some(database) = &mut self.database
            && !database.record(&index, rows, up_to)
        {
            tracing::warn!("the store's index failed; the log goes on without it");
            self.database = None;
        }
    }
}

/// File name of a segment.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:08}.seg")
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

/// Bytes above the pledge that heads and state records may take.
fn reserve(config: &StoreConfig) -> u64 {
    HEADS_RESERVE + config.segment_size.0
}

/// Bytes of a record that is not a shard.
fn small_len(record: &Record) -> u64 {
    match record {
        Record::Shard(_) => 0,
        Record::Head(kept) => head_record_len(kept.bytes.len()),
        _ => SMALL,
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) -> Plan {
    // Who does not wait any more need not be told.
    let _ = reply.send(result);
    Plan::Done
}

fn write<T: Send + 'static>(records: Vec<(Record, Option<Bytes>)>, reply: Reply<T>, value: T) -> Plan {
    let done = Box::new(move |result: Result<(), StoreError>| {
        let _ = reply.send(result.map(|()| value));
    });
    Plan::Write(Staged { records, done })
}

fn write_all(file: &dyn SegmentFile, mut slices: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    while !slices.is_empty() {
        // Linux takes at most 1024 slices at once.
        let some = slices.len().min(1024);
        match file.write_at(&slices[..some], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                IoSlice::advance_slices(&mut slices, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn no_space(error: &io::Error, needed: u64) -> Option<StoreError> {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        .then_some(StoreError::NoSpace { needed: ByteSize(needed), free: ByteSize(0) })
}
