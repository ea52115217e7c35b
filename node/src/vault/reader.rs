//! Chunks by id, from whoever still holds their shards.
//!
//! Reads the one shard that a chunk lies in when its holder answers; else gathers any `used` good shards of the stripe and
//! rebuilds. Slow holders are hedged: after the [`Window`]'s patience another slot is asked too. Recently opened stripes,
//! shards and runs are kept, a bounded number of each, and several readers of one of them share one fetch.
//!
//! # Invariants
//!
//! - **DUR-2** Shards are checked by their seal or against their roots, chunks against their keyed ids; what does not match
//!   counts as missing. Enforced by [`Reader::piece`] and `stripe::{open_shard, open_proven}`; attacked by liars and rot in
//!   `tests`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cairn_core::{
    erasure::Codec,
    keys::{EpochKeys, KeyMode, VaultKeys},
    pack::read_run,
    stripe::{ProvenShard, StripeError, open_proven, open_shard},
};
use cairn_proto::{
    ChunkId, CodeParams, PeerKey, Slot,
    index::{RunCodec, RunPlace, RunRow, StripeNo, StripeRow},
    manifest::GroupRow,
    wire::Priority,
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    catalogue::{Catalogue, CatalogueError},
    groups::access_of,
    kept::Kept,
    learn::Learner,
    parts::Parts,
    pieces::Piece,
    window::Window,
};
use crate::overlay::{GroupAccess, Overlay};

mod gather;

/// Opened shards that are kept: 16 MiB. Pieces fetched ahead keep what they lie in themselves.
const SHARDS_KEPT: usize = 16;
/// Rebuilt stripes that are kept, 5 MiB each: more than what is fetched ahead touches, or they would be rebuilt twice. Those
/// that are also among the shards kept share their memory.
const STRIPES_KEPT: usize = 7;
/// Stripes that are rebuilt at once: each has up to ten shards in memory.
const REBUILDS: usize = 4;
/// After so many rebuilt stripes a verb is taken for one that reads much.
const WHOLE_AFTER: u64 = 2;
/// Threads that hash, open, decompress and rebuild at most; on small machines one more than it has cores. With one for each
/// run under way, their stacks, heaps and contexts took more memory than what they worked on.
const JOBS: usize = 8;
/// A raw run of this many bytes or more stays in the shards that it came in. A smaller one is copied out, or a piece of a few
/// KiB would keep a whole shard in memory.
const UNCOPIED_FROM: u32 = 512 << 10;
/// Decompressed runs of data that are kept: 16, typically 1 MiB and at most 4.
const RUNS_KEPT: usize = 16;
/// Decompressed runs of trees and lists that are kept, typically 256 KiB. Apart from those of data: a list is needed again
/// when the data that it names has been read, which would have driven it out.
const METADATA_RUNS_KEPT: usize = 32;

/// Why a chunk could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody knows this chunk.
    #[error("chunk {} is not in the catalogue", .0.short())]
    UnknownChunk(ChunkId),
    /// The catalogue has no row for a stripe or group that it names.
    #[error("the catalogue has no {0}")]
    UnknownRow(String),
    /// Fewer good shards than it takes.
    #[error("stripe {no} is lost for now: {good} of {needed} shards could be had")]
    Lost {
        /// The stripe's number.
        no: u64,
        /// Good shards found.
        good: usize,
        /// Good shards needed.
        needed: usize,
    },
    /// The bytes are not the chunk's: the index is wrong, or the stripe was made wrong.
    #[error("chunk {} does not match its id", .0.short())]
    WrongChunk(ChunkId),
    /// A run, list or tree does not decode.
    #[error("damaged content: {0}")]
    Damaged(String),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A worker died.
    #[error("a worker stopped unexpectedly")]
    Worker,
}

impl ReadError {
    /// Whether more peers could make it good.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// What rows and keys a stripe is read with.
#[derive(Clone)]
pub(super) struct StripeSource {
    pub(super) row: Arc<StripeRow>,
    pub(super) group: Arc<(GroupRow, Arc<GroupAccess>)>,
    pub(super) codec: Arc<Codec>,
    pub(super) epoch: Arc<EpochKeys>,
}

/// What becomes of a shard's bytes; [`StripeError::WrongBytes`] is their holder's fault.
type Accept<T> = fn(&StripeSource, Slot, Bytes) -> Result<T, StripeError>;

#[derive(Default)]
struct Known {
    stripes: BTreeMap<StripeNo, Arc<StripeRow>>,
    groups: BTreeMap<u32, Arc<(GroupRow, Arc<GroupAccess>)>>,
    codecs: BTreeMap<CodeParams, Arc<Codec>>,
    epochs: BTreeMap<u32, Arc<EpochKeys>>,
    /// Stripes that could not be had in this verb: not asked for again, or every chunk in them would wait anew.
    lost: BTreeMap<StripeNo, (usize, usize)>,
    /// Peers that failed or lied in this verb: asked last.
    suspects: BTreeSet<PeerKey>,
    /// Peers that were not connected when enough others were, and not soon after: not waited for until they are.
    late: BTreeSet<PeerKey>,
    /// Peers that took longer than the line explains in this verb: asked after others, while there are enough.
    slow: BTreeSet<PeerKey>,
    /// Groups all of whose holders were begun to be connected to.
    reached: BTreeSet<u32>,
    /// Peers whose right bytes were noted: once in a verb, or one restore would outweigh all that was seen before.
    thanked: BTreeSet<PeerKey>,
}

type KeptRuns = Kept<(StripeNo, u32), Parts>;

struct Caches {
    shards: Kept<(StripeNo, u8), Bytes>,
    /// The payloads of the data shards of rebuilt stripes.
    stripes: Kept<StripeNo, Arc<[Bytes]>>,
    runs: KeptRuns,
    metadata_runs: KeptRuns,
}

/// Reads a vault. Cheap to share; lives for one verb.
pub struct Reader {
    keys: Arc<VaultKeys>,
    overlay: Arc<dyn Overlay>,
    catalogue: Option<Catalogue>,
    known: Mutex<Known>,
    caches: Mutex<Caches>,
    fetched: AtomicU64,
    wrong_shards: AtomicU64,
    /// Stripes rebuilt so far.
    rebuilt: AtomicU64,
    window: Window,
    rebuilds: Semaphore,
    jobs: Arc<Semaphore>,
    learner: Arc<Learner>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader(..)")
    }
}

impl Reader {
    pub(super) fn new(keys: Arc<VaultKeys>, overlay: Arc<dyn Overlay>, catalogue: Option<Catalogue>) -> Self {
        let caches = Caches {
            shards: Kept::new(SHARDS_KEPT),
            stripes: Kept::new(STRIPES_KEPT),
            runs: Kept::new(RUNS_KEPT),
            metadata_runs: Kept::new(METADATA_RUNS_KEPT),
        };
        let learner = Arc::new(Learner::new(overlay.clone(), catalogue.clone()));
        Self {
            keys,
            overlay,
            catalogue,
            learner,
            known: Mutex::default(),
            caches: Mutex::new(caches),
            fetched: AtomicU64::new(0),
            wrong_shards: AtomicU64::new(0),
            rebuilt: AtomicU64::new(0),
            window: Window::new(),
            rebuilds: Semaphore::new(REBUILDS),
            jobs: Arc::new(Semaphore::new(JOBS.min(1 + std::thread::available_parallelism().map_or(1, usize::from)))),
        }
    }

    /// The same, with what a run asked stewards already.
    pub(super) fn sharing(mut self, learner: Arc<Learner>) -> Self {
        self.learner = learner;
        self
    }

    /// Whoever asks the stewards of this reader's groups.
    pub(super) const fn learner(&self) -> &Arc<Learner> {
        &self.learner
    }

    /// Bytes of shards fetched so far.
    #[must_use]
    pub fn bytes_fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Shards that came with wrong bytes so far.
    #[must_use]
    pub fn wrong_shards(&self) -> u64 {
        self.wrong_shards.load(Ordering::Relaxed)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caches(&self) -> std::sync::MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Teaches rows that are not in the catalogue (recovery).
    pub(super) fn learn(&self, stripes: &[StripeRow], groups: &[GroupRow]) -> Result<(), ReadError> {
        let mut known = self.known();
        for row in stripes {
            known.stripes.insert(row.no, Arc::new(row.clone()));
        }
        for row in groups {
            let access = access_of(&self.keys, row).map_err(|e| ReadError::Damaged(e.to_string()))?;
            known.groups.insert(row.number, Arc::new((row.clone(), Arc::new(access))));
        }
        Ok(())
    }

    /// Rows and keys of a stripe.
    pub(super) fn source(&self, no: StripeNo) -> Result<StripeSource, ReadError> {
        let mut known = self.known();
        let row = match known.stripes.get(&no) {
            Some(row) => row.clone(),
            None => {
                let found = self.catalogue.as_ref().map(|c| c.stripe(no)).transpose()?.flatten();
                Arc::new(found.ok_or_else(|| ReadError::UnknownRow(format!("stripe {}", no.0)))?)
            }
        };
        let group = match known.groups.get(&row.group) {
            Some(group) => group.clone(),
            None => {
                let found = self.catalogue.as_ref().map(|c| c.group(row.group)).transpose()?.flatten();
                let found = found.ok_or_else(|| ReadError::UnknownRow(format!("group {}", row.group)))?;
                let access = access_of(&self.keys, &found).map_err(|e| ReadError::Damaged(e.to_string()))?;
                let group = Arc::new((found, Arc::new(access)));
                known.groups.insert(row.group, group.clone());
                group
            }
        };
        let code = row.code().map_err(|e| ReadError::Damaged(e.to_string()))?;
        let codec = known.codecs.entry(code).or_insert_with(|| Arc::new(Codec::new(code))).clone();
        let number = row.epoch;
        let epoch =
            known.epochs.entry(number).or_insert_with(|| Arc::new(self.keys.epoch(KeyMode::Paper, number))).clone();
        Ok(StripeSource { row, group, codec, epoch })
    }

    /// Runs a piece of work on a thread of its own, no more than [`JOBS`] at once, also when whoever wants it goes away.
    async fn work<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, ReadError> {
        let turn = self.jobs.clone().acquire_owned().await.map_err(|_| ReadError::Worker)?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            job()
        });
        done.await.map_err(|_| ReadError::Worker)
    }

    /// The bytes of consecutive chunks of a file, each checked against its id.
    ///
    /// # Errors
    /// [`ReadError`]; never a wrong byte.
    pub(super) async fn piece(&self, piece: &Piece) -> Result<Parts, ReadError> {
        self.reach(piece.parts().0.stripe)?;
        let run = self.run_in(piece.parts().0, |caches| &mut caches.runs).await?;
        self.cut(&run, piece)
    }

    /// The same at once, when its run is in memory.
    pub(super) fn piece_at_hand(&self, piece: &Piece) -> Option<Result<Parts, ReadError>> {
        let place = piece.parts().0;
        let run = self.caches().runs.made(&(place.stripe, place.offset))?;
        Some(self.cut(&run, piece))
    }

    fn cut(&self, run: &Parts, piece: &Piece) -> Result<Parts, ReadError> {
        let (_, range, chunks) = piece.parts();
        let outside = || ReadError::Damaged("a piece outside its run".into());
        let bytes = run.slice(range).ok_or_else(outside)?;
        let mut at = 0;
        for (id, length) in chunks {
            let chunk = bytes.slice(at..at + *length as usize).ok_or_else(outside)?;
            if self.keys.chunk_id_of(chunk.iter().map(|part| &part[..])) != *id {
                return Err(ReadError::WrongChunk(*id));
            }
            at += *length as usize;
        }
        Ok(bytes)
    }

    /// The bytes of a chunk of a tree or a list.
    ///
    /// # Errors
    /// As [`Reader::piece`].
    pub async fn metadata(&self, id: ChunkId) -> Result<Bytes, ReadError> {
        let row = self.find(id)?;
        let run = self.run(&row.place).await?;
        let range = row.ranges().find(|(found, _)| *found == id).map(|(_, range)| range);
        let range = range.filter(|r| r.end <= run.len()).ok_or(ReadError::WrongChunk(id))?;
        let bytes = run.slice(range);
        if self.keys.chunk_id(&bytes) != id {
            return Err(ReadError::WrongChunk(id));
        }
        Ok(bytes)
    }

    /// The row of the run that a chunk lies in.
    pub(super) fn find(&self, id: ChunkId) -> Result<RunRow, ReadError> {
        let catalogue = self.catalogue.as_ref().ok_or(ReadError::UnknownChunk(id))?;
        catalogue.find_chunk(&id)?.ok_or(ReadError::UnknownChunk(id))
    }

    /// A run's bytes, decompressed. Only its chunks' ids, or its decoder, can tell whether they are right.
    pub(super) async fn run(&self, place: &RunPlace) -> Result<Bytes, ReadError> {
        Ok(self.run_in(place, |caches| &mut caches.metadata_runs).await?.joined())
    }

    async fn run_in(&self, place: &RunPlace, kept: fn(&mut Caches) -> &mut KeptRuns) -> Result<Parts, ReadError> {
        let cell = kept(&mut self.caches()).cell((place.stripe, place.offset));
        let make = || async {
            let (payload, next) = (self.source(place.stripe)?.row.payload(), place.next);
            let (first, rest) = place.split(payload).map_err(|e| ReadError::Damaged(e.to_string()))?;
            let mut stored = Parts::default();
            self.gather(place.stripe, place.offset, first, &mut stored).await?;
            if let Some(next) = next {
                self.gather(next, 0, rest, &mut stored).await?;
            }
            let place = *place;
            if place.codec == RunCodec::Raw && place.raw_len == place.stored_len && place.raw_len >= UNCOPIED_FROM {
                return Ok(stored);
            }
            let raw = self.work(move || read_run(&place, &stored.joined())).await?;
            raw.map(|raw| Bytes::from(raw).into()).map_err(|e| ReadError::Damaged(e.to_string()))
        };
        cell.get_or_try_init(make).await.cloned()
    }

    async fn gather(&self, no: StripeNo, offset: u32, length: u32, out: &mut Parts) -> Result<(), ReadError> {
        const PAYLOAD: usize = cairn_proto::SHARD_PAYLOAD;
        let slots = RunPlace::slots_of(offset, length);
        let shards = futures::future::join_all(slots.clone().map(|slot| self.data_shard(no, slot as u8))).await;
        for (slot, shard) in slots.zip(shards) {
            let shard = shard?;
            let begin = (offset as usize).saturating_sub(slot * PAYLOAD).min(PAYLOAD);
            let end = (offset as usize + length as usize - slot * PAYLOAD).min(PAYLOAD);
            if end > shard.len() {
                return Err(ReadError::Damaged("a run outside its stripe".into()));
            }
            out.push(shard.slice(begin..end));
        }
        Ok(())
    }

    /// Plaintext of one data shard.
    async fn data_shard(&self, no: StripeNo, slot: u8) -> Result<Bytes, ReadError> {
        let cell = self.caches().shards.cell((no, slot));
        let make = || async {
            let source = self.source(no)?;
            let slot = Slot::new(slot).map_err(|e| ReadError::Damaged(e.to_string()))?;
            let at_hand = self.caches().stripes.made(&no).is_some();
            if !at_hand
                && self.has_trusted_holder(&source, slot)
                && !self.is_passed_over(&source, slot)
                && !self.is_better_whole(&source)
                && let Some(plain) = self.fetch_soon(&source, slot).await
            {
                return plain.map_err(|e| ReadError::Damaged(e.to_string()));
            }
            let rebuilt = self.caches().stripes.cell(no);
            let parts = rebuilt.get_or_try_init(|| self.rebuild(no)).await?;
            parts.get(slot.index()).cloned().ok_or_else(|| ReadError::Damaged("a slot outside its stripe".into()))
        };
        cell.get_or_try_init(make).await.cloned()
    }

    /// Whether the stripe should be had whole at once: a data shard of it must be rebuilt anyway, and this verb reads so much
    /// that it will want that one too. Shards fetched one by one before the rebuild would be fetched twice.
    fn is_better_whole(&self, source: &StripeSource) -> bool {
        self.rebuilt.load(Ordering::Relaxed) >= WHOLE_AFTER
            && (0..source.row.used)
                .filter_map(|slot| Slot::new(slot).ok())
                .any(|slot| !self.has_trusted_holder(source, slot) || self.is_passed_over(source, slot))
    }

    /// The plaintext of one data shard, given up when it takes longer than the line explains, or when its holders are not connected
    /// a moment after enough others are: a dial to somebody who is gone takes many times as long as a shard. Waiting for a turn does
    /// not count.
    async fn fetch_soon(&self, source: &StripeSource, slot: Slot) -> Option<Result<Bytes, StripeError>> {
        let accept =
            |source: &StripeSource, slot: Slot, bytes: Bytes| open_shard(&source.row, slot, &bytes, &source.epoch);
        let mut turn = self.window.turn().await;
        // What was hoped of its holders may have come to nothing while this waited.
        if !self.has_trusted_holder(source, slot) || self.is_passed_over(source, slot) {
            return None;
        }
        let (began, may_be_late) = (Instant::now(), !self.is_at_hand(source, slot));
        if may_be_late {
            // Nobody else would be found to be nearer, and who is gone would be waited for alone.
            self.reach_group(source);
        }
        let is_late = || !self.is_at_hand(source, slot) && self.are_others_at_hand(source);
        let late = async {
            if may_be_late {
                self.window.late(began, is_late).await;
            } else {
                std::future::pending().await
            }
        };
        let plain = tokio::select! {
            biased;
            plain = self.ask(source, slot, Priority::High, accept) => plain,
            () = late => {
                self.note_late(source, slot);
                None
            }
            () = tokio::time::sleep(self.window.patience()) => {
                self.note_slow(source, slot);
                None
            }
        };
        if plain.is_some() {
            turn.came();
        }
        plain
    }

    async fn rebuild(&self, no: StripeNo) -> Result<Arc<[Bytes]>, ReadError> {
        if let Some((good, needed)) = self.known().lost.get(&no).copied() {
            return Err(ReadError::Lost { no: no.0, good, needed });
        }
        // The semaphore is never closed.
        let _turn = self.rebuilds.acquire().await;
        let source = self.source(no)?;
        let needed = usize::from(source.row.used);
        let accept =
            |source: &StripeSource, slot: Slot, bytes: Bytes| ProvenShard::new(&source.row, slot, bytes, &source.epoch);
        let shards = self.gather_slots(&source, needed, Priority::High, accept).await;
        let damaged = |e: StripeError| ReadError::Damaged(e.to_string());
        let shards: Vec<ProvenShard> = shards.into_iter().flatten().collect::<Result<_, _>>().map_err(damaged)?;
        if shards.len() < needed {
            self.known().lost.insert(no, (shards.len(), needed));
            return Err(ReadError::Lost { no: no.0, good: shards.len(), needed });
        }
        let opened = self.work(move || open_proven(&source.codec, &source.row, shards, &source.epoch)).await?;
        self.rebuilt.fetch_add(1, Ordering::Relaxed);
        opened.map(Into::into).map_err(damaged)
    }
}
