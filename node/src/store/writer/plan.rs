//! What a command does to the log, decided from the index and from what its batch already does; nothing is written here.
//!
//! # Invariants
//!
//! - **SEP-1** A shard of a second slot of a group is refused before a byte of it is written, whatever became of the
//!   first. Enforced by [`Writer::plan_put`]; attacked by `tests::life::ledger_outlives..`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use bytes::Bytes;
use cairn_proto::{
    ByteSize, GroupId, Slot, Timestamp, VaultKey,
    message::HEAD_RECORD_MAX,
    record::{Change, KeptHead, Record, SHARD_RECORD, ShardHead},
};

use super::{
    super::{
        StoreConfig, StoreError, StoredShard,
        index::{Index, SEGMENT_START, SMALL, Stage, head_record_len},
    },
    Command, HEADS_MAX, Reply, Writer, state_of,
};

/// A vault's head moves at most once in this time: a snapshot takes longer, and each move costs a record and a sync.
const HEAD_EVERY_MS: u64 = 1_000;
/// Moves that may come at once, if fewer came before: an owner's small snapshots in a row.
const HEAD_BURST: u64 = 8;
/// Bytes above the pledge for heads and for state records, which shards never take: all heads at their largest, and beside
/// them a segment (see [`reserve`]) of garbage until compaction has come round.
const HEADS_RESERVE: u64 = HEADS_MAX as u64 * head_record_len(HEAD_RECORD_MAX);

/// Records to write, and what to say when they are durable.
pub(super) struct Staged {
    pub(super) records: Vec<(Record, Option<Bytes>)>,
    pub(super) done: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

pub(super) enum Plan {
    Write(Staged),
    /// Answered already.
    Done,
    /// Depends on what this batch writes.
    Later(Command),
    /// Not a thing for a batch.
    Alone(Command),
}

/// What a batch already claims.
#[derive(Default)]
pub(super) struct Claims {
    shards: BTreeSet<(GroupId, u8)>,
    ledgers: BTreeMap<GroupId, Slot>,
    /// The newest of each vault.
    heads: BTreeMap<VaultKey, (u32, u64)>,
    new_heads: usize,
    bytes: u64,
}

impl Writer {
    /// What a command needs, with what the batch claims already; `disk_free` is asked once a batch.
    pub(super) fn plan(&mut self, command: Command, claims: &mut Claims, disk_free: u64) -> Plan {
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
        records.push((Record::Shard(head), Some(shard.bytes.into_bytes())));
        write(records, reply, StoredShard { stored_at, lease_until, new: true })
    }
}

/// Bytes above the pledge that heads and state records may take.
fn reserve(config: &StoreConfig) -> u64 {
    HEADS_RESERVE + config.segment_size.0
}

/// Bytes of a record that is not a shard.
pub(super) fn small_len(record: &Record) -> u64 {
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
