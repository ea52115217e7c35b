//! Stripes to holders: seal, code, hash on the blocking pool; send to every slot at once; acknowledge; record.
//!
//! # Invariants
//!
//! - **DUR-1** A stripe counts when all its slots are held, or `used + 2` of them: then the group is sealed and what
//!   lacks is remembered. Nothing is recorded before. Enforced by [`Session::store`].
//! - **SEC-2** A stripe that moves to another group gets a new id, so new keys.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cairn_core::{
    erasure::Codec,
    keys::{EpochKeys, VaultKeys},
    stripe::{SealedStripe, StripeError, StripePayload, open_stripe},
};
use cairn_proto::{
    ShardRoot, Slot, StripeId, Timestamp,
    index::{RunRow, StripeNo, StripeRow},
    wire::{Priority, RefusalCode},
};
use futures::future::join_all;
use tokio::task::JoinHandle;

use super::{
    catalogue::{Catalogue, CatalogueError, StripeRecord},
    groups::{Groups, Place, PlaceError},
    learn::Learner,
    promise::Kept,
    stewards::tokens::{Prepared, are_made, prepare},
    under_way::UnderWay,
};
use crate::overlay::{KeptReceipt, Overlay, ShardAddress, ShardPut, TransferError};

/// Groups that a stripe is offered to before the run gives up.
const ATTEMPTS: usize = 4;

/// A full payload on its way out.
#[derive(Debug)]
pub(super) struct StripeJob {
    /// Its number.
    pub(super) no: StripeNo,
    /// Its plaintext.
    pub(super) payload: StripePayload,
    /// Runs that end in it.
    pub(super) runs: Vec<RunRow>,
    /// The group that it should go to, when it still takes stripes.
    pub(super) group: Option<u32>,
}

/// Why a stripe could not be stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// No group to put it into.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// It could not be sealed.
    #[error(transparent)]
    Stripe(#[from] StripeError),
    /// It could not be recorded.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Too few holders took it, in several groups.
    #[error("only {acknowledged} of {needed} shards were taken, in {ATTEMPTS} groups; the last refusal: {last}")]
    NotAcknowledged {
        /// Slots that are held.
        acknowledged: usize,
        /// Slots needed.
        needed: usize,
        /// The last error.
        last: TransferError,
    },
    /// Our own node is going down.
    #[error("this node is going down")]
    ShuttingDown,
    /// A worker died.
    #[error("a worker stopped unexpectedly")]
    Worker,
    /// The operating system gives no randomness.
    #[error("no randomness: {0}")]
    Random(String),
}

#[derive(Default)]
struct Tracker {
    acknowledged: HashSet<StripeNo>,
    waiting: Vec<RunRow>,
}

/// What sending needs. One per run; shared by the stripes in flight.
pub(super) struct Session {
    pub(super) keys: Arc<VaultKeys>,
    pub(super) epoch: Arc<EpochKeys>,
    pub(super) codec: Arc<Codec>,
    pub(super) catalogue: Catalogue,
    pub(super) overlay: Arc<dyn Overlay>,
    pub(super) groups: Groups,
    pub(super) replicas: usize,
    pub(super) lease_until: Timestamp,
    /// What the scan kept and nobody recorded yet.
    pub(super) under_way: Arc<UnderWay>,
    tracker: Mutex<Tracker>,
    /// Slots of each group that have few peers of their colour.
    lonely: Mutex<BTreeMap<u32, Vec<Slot>>>,
    /// Held while it is written who is outside the rows.
    recording: Mutex<()>,
    sent: AtomicU64,
    /// Asks stewards, about each group once in the run.
    pub(super) learner: Arc<Learner>,
    /// Groups from this number on are of this run.
    pub(super) first_group: u32,
    /// What the vault promises, and how far that is kept.
    pub(super) promised: Option<Kept>,
}

impl Session {
    #[allow(clippy::too_many_arguments, reason = "one call, named fields")]
    pub(super) fn new(
        keys: Arc<VaultKeys>,
        epoch: Arc<EpochKeys>,
        catalogue: Catalogue,
        overlay: Arc<dyn Overlay>,
        groups: Groups,
        promised: Option<Kept>,
        lease_until: Timestamp,
    ) -> Self {
        let policy = groups.policy();
        let learner = Arc::new(Learner::new(overlay.clone(), Some(catalogue.clone())));
        // Of a catalogue that cannot be read any group may be old; the run fails elsewhere.
        let first_group = catalogue.counters().map_or(u32::MAX, |counters| counters.next_group);
        Self {
            keys,
            epoch,
            first_group,
            codec: Arc::new(Codec::new(policy.code)),
            catalogue,
            overlay,
            groups,
            replicas: usize::from(policy.replicas.max(1)),
            lease_until,
            under_way: Arc::default(),
            tracker: Mutex::default(),
            lonely: Mutex::default(),
            recording: Mutex::default(),
            sent: AtomicU64::new(0),
            learner,
            promised,
        }
    }

    /// Bytes of shards acknowledged so far, replicas counted.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stores one stripe and records it with the runs that are complete with it.
    pub(super) async fn store(&self, job: StripeJob) -> Result<StripeRow, StoreError> {
        let mut payload = job.payload;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let place = self.groups.take_place(job.group)?;
            self.record_opened()?;
            let sealed = self.seal(payload).await?;
            let row = sealed.row(job.no, place.group, place.ordinal);
            let tokens = self.begin_tokens(&sealed, &place);
            let outcome = self.send(&sealed, &place).await?;
            if outcome.acknowledged >= outcome.needed {
                let recorded = self.record(row, &place, job.runs, outcome);
                // After the record, which waits for nothing that it does not need; and before the window has room for another stripe,
                // so that no more shards are held for tokens than are under way. A run killed in between has none of this stripe.
                if recorded.is_ok() {
                    self.keep_tokens(&place, tokens).await;
                }
                return recorded;
            }
            self.groups.seal(place.group);
            self.groups.release(place.group);
            last = Some((outcome.acknowledged, outcome.needed, outcome.last));
            payload = self.unseal(&sealed, row).await?;
        }
        let (acknowledged, needed, error) = last.unwrap_or((0, 0, None));
        let last = error.unwrap_or(TransferError::TimedOut);
        Err(StoreError::NotAcknowledged { acknowledged, needed, last })
    }

    fn record_opened(&self) -> Result<(), StoreError> {
        let opened = self.groups.take_opened();
        for row in &opened {
            self.catalogue.set_group(row)?;
        }
        if !opened.is_empty() {
            // A killed run forgets no more than what it gave in its last groups.
            self.record_given()?;
            self.catalogue.flush()?;
        }
        Ok(())
    }

    /// What newcomers were given today is kept for the next run.
    pub(super) fn record_given(&self) -> Result<(), CatalogueError> {
        self.catalogue.set_given(&self.groups.given())
    }

    /// Who left a row, or is to enter one, must be on record before the next one is offered anything.
    pub(super) fn record_formers(&self) -> Result<(), CatalogueError> {
        // Whoever finds nothing to write must not go on while somebody else's write is under way.
        let _turn = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let formers = self.groups.unrecorded_formers();
        if formers.is_empty() {
            return Ok(());
        }
        for (group, formers) in &formers {
            self.catalogue.set_formers(*group, formers)?;
        }
        self.catalogue.flush()?;
        self.groups.formers_recorded(&formers);
        Ok(())
    }

    /// Notes what a holder signed that took a shard of a stripe that is on record. Without it a loss is not held
    /// against its name until it was seen: nothing else hangs on it.
    pub(super) fn keep_receipt(&self, no: StripeNo, slot: Slot, kept: &KeptReceipt) {
        use prost::Message as _;
        if let Err(e) = self.catalogue.add_receipt(no, slot.as_u8(), kept.signed.encode_to_vec()) {
            tracing::warn!(error = %e, "a holder's receipt could not be noted");
        }
    }

    async fn seal(&self, payload: StripePayload) -> Result<SealedStripe, StoreError> {
        let (codec, epoch) = (self.codec.clone(), self.epoch.clone());
        let mut id = [0u8; 32];
        getrandom::fill(&mut id).map_err(|e| StoreError::Random(e.to_string()))?;
        let work = move || SealedStripe::build(&codec, payload, &epoch, StripeId::from_bytes(id));
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Worker)??)
    }

    /// Tokens for the shards of slots that stewards may have nobody to audit for: reckoned while the shards are on their way. `None` for most
    /// stripes, of which none are made.
    fn begin_tokens(&self, sealed: &SealedStripe, place: &Place) -> Option<JoinHandle<Vec<Prepared>>> {
        if !are_made(&place.access, place.ordinal) {
            return None;
        }
        let lonely = {
            let mut known = self.lonely.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(place.group).or_insert_with(|| self.groups.lonely(place.group)).clone()
        };
        let shard = |slot: &Slot| {
            let (bytes, root) = (sealed.shards().get(slot.index())?, sealed.roots().get(slot.index())?);
            Some((*slot, bytes.clone()?, (*root)?))
        };
        let shards: Vec<(Slot, Bytes, ShardRoot)> = lonely.iter().filter_map(shard).collect();
        if shards.is_empty() {
            return None;
        }
        let (access, ordinal) = (place.access.clone(), place.ordinal);
        let work = move || {
            let of = |(slot, bytes, root): &(Slot, Bytes, ShardRoot)| prepare(&access, *slot, ordinal, root, bytes);
            shards.iter().filter_map(of).collect()
        };
        Some(tokio::task::spawn_blocking(work))
    }

    /// Without them a slot is audited less, and nothing else.
    async fn keep_tokens(&self, place: &Place, tokens: Option<JoinHandle<Vec<Prepared>>>) {
        let Some(tokens) = tokens else { return };
        let tokens = tokens.await.unwrap_or_default();
        if let Err(e) = self.catalogue.set_tokens(place.group, place.ordinal, &tokens) {
            tracing::warn!(error = %e, "tokens to audit a stripe with could not be kept");
        }
    }

    async fn unseal(&self, sealed: &SealedStripe, row: StripeRow) -> Result<StripePayload, StoreError> {
        let (codec, epoch, shards) = (self.codec.clone(), self.epoch.clone(), sealed.hashed());
        let work = move || open_stripe(&codec, &row, shards, &epoch);
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Worker)??.payload)
    }

    async fn send(&self, sealed: &SealedStripe, place: &Place) -> Result<Sent, StoreError> {
        let slots: Vec<(Slot, Bytes, ShardRoot)> = (0u8..)
            .zip(sealed.shards().iter().zip(sealed.roots()))
            .filter_map(|(slot, (bytes, root))| Some((Slot::new(slot).ok()?, bytes.clone()?, (*root)?)))
            .collect();
        let results =
            join_all(slots.iter().map(|(slot, bytes, root)| self.send_slot(place, *slot, *root, bytes.clone()))).await;
        let mut outcome = Sent {
            acknowledged: 0,
            needed: (usize::from(sealed.used()) + 2).min(slots.len()),
            receipts: Vec::new(),
            lacking: Vec::new(),
            last: None,
        };
        for ((slot, _, _), (receipts, error)) in slots.iter().zip(results) {
            outcome.acknowledged += usize::from(!receipts.is_empty());
            if receipts.len() < self.replicas {
                outcome.lacking.push(slot.as_u8());
            }
            outcome.receipts.extend(receipts.into_iter().map(|r| (slot.as_u8(), r)));
            if error == Some(TransferError::ShuttingDown) {
                return Err(StoreError::ShuttingDown);
            }
            outcome.last = error.or(outcome.last);
        }
        Ok(outcome)
    }

    /// Gives one shard to as many holders as there are replicas, replacing those that fail.
    async fn send_slot(
        &self,
        place: &Place,
        slot: Slot,
        root: ShardRoot,
        bytes: Bytes,
    ) -> (Vec<KeptReceipt>, Option<TransferError>) {
        let tried = Mutex::new(BTreeSet::new());
        let next = || {
            let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
            let peer = self.groups.next_holder(place.group, slot.index(), &tried)?;
            tried.insert(peer);
            if let Err(e) = self.record_formers() {
                tracing::warn!(error = %e, "who left a group's row could not be noted");
                return None;
            }
            Some(peer)
        };
        let one = || async {
            let mut last = None;
            while let Some(peer) = next() {
                let address = ShardAddress { group: place.access.clone(), slot, ordinal: place.ordinal };
                let put = ShardPut { address, root, lease_until: self.lease_until, bytes: bytes.clone() };
                match self.overlay.put_shard(peer, put, Priority::Normal).await {
                    Ok(_) if !self.groups.took(place.group, slot.index(), peer) => {}
                    Ok(kept) => {
                        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        return Ok(kept);
                    }
                    Err(TransferError::ShuttingDown) => return Err(Some(TransferError::ShuttingDown)),
                    Err(e @ TransferError::Refused { code: RefusalCode::Occupied, .. }) => {
                        // The ordinal was given out in a run that nobody remembers: not this holder's fault.
                        self.groups.seal(place.group);
                        return Err(Some(e));
                    }
                    Err(e) => {
                        tracing::debug!(peer = %peer.short(), error = %e, "a holder did not take a shard");
                        self.groups.peer_failed(peer);
                        last = Some(e);
                    }
                }
            }
            Err(last)
        };
        let (mut receipts, mut error) = (Vec::new(), None);
        for result in join_all((0..self.replicas).map(|_| one())).await {
            match result {
                Ok(kept) => receipts.push(kept),
                Err(e) => error = e.or(error),
            }
        }
        (receipts, error)
    }

    fn record(&self, row: StripeRow, place: &Place, runs: Vec<RunRow>, outcome: Sent) -> Result<StripeRow, StoreError> {
        if !outcome.lacking.is_empty() {
            self.groups.seal(place.group);
        }
        // The lock is held over the write, so that a later state of the group never lies under an earlier one.
        let mut tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        let group = self.groups.release(place.group);
        tracker.acknowledged.insert(row.no);
        tracker.waiting.extend(runs);
        let Tracker { acknowledged, waiting } = &mut *tracker;
        let there = |run: &RunRow| {
            acknowledged.contains(&run.place.stripe) && run.place.next.is_none_or(|no| acknowledged.contains(&no))
        };
        let ready: Vec<RunRow> = waiting.extract_if(.., |run| there(run)).collect();
        use prost::Message as _;
        let record = StripeRecord {
            row: Some(row.clone()),
            runs: ready,
            group,
            receipts: outcome.receipts.iter().map(|(s, r)| (*s, r.signed.encode_to_vec())).collect(),
            shortfall: outcome.lacking,
            pending: true,
            skip_known: false,
        };
        self.catalogue.record_stripe(&record)?;
        // Afterwards, so that each chunk is always known to one of the two.
        self.under_way.arrived(&record.runs);
        Ok(row)
    }
}

struct Sent {
    acknowledged: usize,
    needed: usize,
    receipts: Vec<(u8, KeptReceipt)>,
    lacking: Vec<u8>,
    last: Option<TransferError>,
}
