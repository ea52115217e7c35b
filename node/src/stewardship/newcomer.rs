//! The new holder: what we do when stewards give us shards to keep.
//!
//! Nobody is believed: [`part::may_take`] checks mandate, signatures, our colour and our ledger before a byte is fetched, every shard
//! is checked against the owner's sheet, and our signed word goes out only when all of it is durable. An order is on disk until the
//! stewards have our answer, so a restart goes on where it was; a shard that the store has is not fetched again.
//!
//! # Invariants
//!
//! - **SEP-1** No shard of a slot that is not our colour, or beside another slot. Enforced by [`part::may_take`] and the store's
//!   ledger; attacked by `tests::a_give_for_another_colour_is_refused`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use cairn_core::{
    part::{self, Credentials, Task, Unfit},
    reputation::Observed,
    steward::{
        Failure, Say,
        wire::{Answer, Refusal, Request},
    },
};
use cairn_proto::{Action, Domain, Ordinals, PeerKey, SHARD_SIZE, SheetRow, Taken, Timestamp, order::OrderId};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    files::StateFiles,
    order_file::Given,
    orders::{Book, Known, OPEN_MAX, Place, TELLING_MAX},
    outbox::Outbox,
    ports::{Rebuilder, StewardNet},
    shelf::Shelf,
};
use crate::{
    holdings::Watchers,
    overlay::TransferError,
    signatures,
    store::{Clock, NewShard, StoreError},
};

mod named;

/// Orders that are carried out at the same time: with [`FETCHES`] each, 8 MiB in memory.
const ORDERS: usize = 4;
/// Urgent orders that are carried out beside those: an emergency waits for no background work. 4 MiB more.
const URGENT_ORDERS: usize = 2;
/// How long an order may keep its lane for each of its shards: a mebibyte in this time is 28 kbit/s. What came until then is kept,
/// and the rest is ordered again.
const LANE_A_SHARD: Duration = Duration::from_secs(300);
/// How long a check waits for its turn, before the steward is told to come again.
const TURN: Duration = Duration::from_secs(10);
/// Times that a turn is waited for to look up whom our word is for: five minutes.
const TURNS_MAX: u32 = 30;
/// Shards of one order that are fetched or rebuilt at the same time.
const FETCHES: usize = cairn_core::blind::STRIPES_AT_ONCE;
/// Stripes that an order may have: stewards order eight at a time, and 32 MiB is what one stranger's word may make us fetch.
const STRIPES_MAX: usize = 32;
/// Room that is left in the store for what owners put themselves.
const SPARE: u64 = 16 * SHARD_SIZE as u64;
/// Times that a shard is asked for.
const TRIES: u32 = 3;
/// After an order is over its answer is tried to be brought for so much longer: it stays true, and stewards take it late as well.
const TELL_MS: u64 = 7 * 24 * 3_600_000;

/// What the new holder works with.
pub(super) struct Tools {
    pub(super) key: SigningKey,
    pub(super) domain: Domain,
    pub(super) shelf: Arc<dyn Shelf>,
    pub(super) net: Arc<dyn StewardNet>,
    pub(super) rebuilder: Option<Arc<dyn Rebuilder>>,
    pub(super) files: StateFiles,
    pub(super) outbox: Outbox,
    pub(super) clock: Clock,
    /// Silence after which a steward's place goes to another, in milliseconds.
    pub(super) lost_ms: u64,
    /// Between two tries, doubled each time.
    pub(super) pause: Duration,
    pub(super) pause_max: Duration,
    pub(super) cancel: CancellationToken,
}

/// Carries orders out.
#[derive(Clone)]
pub(super) struct Newcomer(Arc<Inner>);

struct Inner {
    tools: Tools,
    me: PeerKey,
    lanes: Semaphore,
    urgent: Semaphore,
    book: Arc<Book>,
    tracker: TaskTracker,
}

impl Inner {
    fn now(&self) -> Timestamp {
        (self.tools.clock)()
    }

    /// `heard`: as [`Credentials::check`] takes it.
    fn may_take(&self, given: &Given, heard: &BTreeSet<PeerKey>) -> Result<Task, Unfit> {
        let group = given.credentials.certificate.order.group;
        let held = self.tools.shelf.accepted_slot(group);
        part::may_take(&given.credentials, &given.sheet, &self.me, &self.tools.domain, held, (heard, self.now()))
    }

    /// Those of them whom the network heard within a day.
    async fn heard(&self, concerned: BTreeSet<PeerKey>) -> BTreeSet<PeerKey> {
        if concerned.is_empty() {
            return concerned;
        }
        let (now, lost_ms) = (self.now(), self.tools.lost_ms);
        let known = self.tools.net.peers().await;
        let lately = known.iter().filter(|view| view.at_work_within(lost_ms, now)).map(|view| view.peer);
        lately.filter(|peer| concerned.contains(peer)).collect()
    }
}

fn file(order: &OrderId) -> String {
    let hex: String = order.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.order")
}

impl Newcomer {
    pub(super) fn new(tools: Tools) -> Self {
        let me = PeerKey::from_bytes(tools.key.verifying_key().to_bytes());
        let (lanes, urgent) = (Semaphore::new(ORDERS), Semaphore::new(URGENT_ORDERS));
        Self(Arc::new(Inner { tools, me, lanes, urgent, book: Arc::default(), tracker: TaskTracker::new() }))
    }

    /// Goes on with orders that a restart interrupted. Blocking.
    pub(super) fn resume(&self) {
        let files = &self.0.tools.files;
        let found = match files.load("order", OPEN_MAX + TELLING_MAX) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "orders under way cannot be read");
                return;
            }
        };
        for (name, body) in found.whole {
            let name = format!("{name}.order");
            let given = Given::decode(&body)
                .ok()
                .filter(|g| g.credentials.certificate.order.id().is_ok_and(|o| file(&o) == name));
            let Some(given) = given else {
                files.set_aside(&name, &"what it says is no order");
                continue;
            };
            let order = given.credentials.certificate.order.id().unwrap_or_default();
            // A word that was given is still brought.
            if let Some(sealed) = given.sealed.clone() {
                self.0.tracker.spawn(self.clone().bring(order, given.credentials, sealed, None));
                continue;
            }
            let Some(place) = self.0.book.enter(order, None) else { continue };
            // What was believed when it came is believed.
            match self.0.may_take(&given, &BTreeSet::new()) {
                Ok(task) => self.begin(place, given, task),
                Err(why) => {
                    tracing::info!(%why, "an order that was under way is not gone on with");
                    let _ = files.remove(&[name]);
                }
            }
        }
    }

    /// A steward gives us an order. Answered as soon as it is on disk; what it takes goes on behind.
    pub(super) async fn give(&self, from: PeerKey, given: Given) -> Answer {
        let order = &given.credentials.certificate.order;
        let Ok(name) = order.id() else { return Answer::Refused(Refusal::Forged) };
        // Before anything that costs something.
        if order.action.to() != Some(self.0.me) {
            return Answer::Refused(Refusal::Forged);
        }
        match self.0.book.known(&name) {
            Known::No => {}
            Known::Open => return Answer::Done,
            Known::Done(say) => {
                // It did not hear of it.
                self.0.tools.outbox.say(from, *say);
                return Answer::Done;
            }
        }
        let Some(place) = self.0.book.enter(name, Some(from)) else { return Answer::Refused(Refusal::Busy) };
        let (this, heard) = (self.clone(), self.0.heard(given.credentials.concerned()).await);
        match signatures::in_turn(TURN, move || this.check(place, given, &heard)).await {
            Some(Ok((place, given, task))) => {
                self.begin(place, given, task);
                Answer::Done
            }
            Some(Err(refusal)) => Answer::Refused(refusal),
            None => Answer::Refused(Refusal::Busy),
        }
    }

    /// Blocking: signatures, and the disk.
    fn check(&self, place: Place, given: Given, heard: &BTreeSet<PeerKey>) -> Result<(Place, Given, Task), Refusal> {
        let tools = &self.0.tools;
        let task = match self.0.may_take(&given, heard) {
            Ok(task) => task,
            Err(why) => {
                tracing::info!(group = %given.credentials.certificate.order.group.short(), %why, "an order is refused");
                // A quorum did order it, so the others are told at once that nothing will come of it.
                if let Ok(part) = given.credentials.check(heard, self.0.now()) {
                    self.refuse(&given, &part.stewards);
                }
                return Err(Refusal::Forged);
            }
        };
        if !place.is_of(task.part.mandate.ticket.authority()) {
            return Err(Refusal::Busy);
        }
        let bytes = (task.rows.len() * SHARD_SIZE) as u64;
        if task.rows.len() > STRIPES_MAX || tools.shelf.room() < bytes + SPARE || !tools.files.has_room() {
            self.refuse(&given, &task.part.stewards);
            return Err(Refusal::Full);
        }
        let body = given.encode().map_err(|_| Refusal::Forged)?;
        match tools.files.write([(file(&place.order), body)]).pop() {
            Some(Ok(())) => Ok((place, given, task)),
            failed => {
                tracing::warn!(?failed, "an order cannot be written down, so it is refused");
                self.refuse(&given, &task.part.stewards);
                Err(Refusal::Full)
            }
        }
    }

    fn refuse(&self, given: &Given, stewards: &[PeerKey]) {
        self.failed(given, stewards, Failure::Refused);
    }

    fn failed(&self, given: &Given, stewards: &[PeerKey], failure: Failure) {
        let order = &given.credentials.certificate.order;
        let Ok(name) = order.id() else { return };
        for steward in stewards {
            self.0.tools.outbox.say(*steward, Say::Failed { group: order.group, order: name, failure });
        }
    }

    fn begin(&self, place: Place, given: Given, task: Task) {
        self.0.tracker.spawn(self.clone().carry_out(place, given, task));
    }

    async fn carry_out(self, place: Place, mut given: Given, task: Task) {
        // What is left when the node goes down is on disk.
        let took = self.0.tools.cancel.run_until_cancelled(self.take(&given, Arc::new(task))).await;
        match took.unwrap_or(Took::GoingDown) {
            Took::Some(taken) => {
                let sealed = taken.seal(&self.0.tools.key);
                given.sealed = Some(sealed.clone());
                if !self.keep(&place, &given).await {
                    // Said all the same: after a crash it would be signed again with another time, and stewards take either.
                    tracing::warn!("our word on an order could not be written down");
                }
                self.bring(place.order, given.credentials, sealed, Some(place)).await;
            }
            Took::None(failure, stewards) => {
                self.failed(&given, &stewards, failure);
                self.forget(&place.order).await;
            }
            Took::GoingDown => {}
        }
    }

    /// Brings our word on an order to its stewards. Its place is for others then.
    async fn bring(self, order: OrderId, credentials: Credentials, sealed: Vec<u8>, place: Option<Place>) {
        let say = Say::Taken { certificate: credentials.certificate.clone(), sealed };
        let given_up = self.0.tools.cancel.child_token();
        self.0.book.telling(order, say.clone(), given_up.clone());
        drop(place);
        let told = given_up.run_until_cancelled(self.tell(&credentials, say)).await;
        if told.is_some() {
            self.name_liars(&order, &credentials).await;
        }
        if told.is_some() || !self.0.tools.cancel.is_cancelled() {
            self.0.book.told(&order);
            self.forget(&order).await;
        }
    }

    async fn keep(&self, place: &Place, given: &Given) -> bool {
        let (files, name, body) = (self.0.tools.files.clone(), file(&place.order), given.encode());
        let Ok(body) = body else { return false };
        let written = tokio::task::spawn_blocking(move || files.write([(name, body)])).await;
        written.is_ok_and(|mut written| written.pop().is_some_and(|one| one.is_ok()))
    }

    async fn forget(&self, order: &OrderId) {
        let (files, name) = (self.0.tools.files.clone(), file(order));
        let removed = tokio::task::spawn_blocking(move || files.remove(&[name])).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "an order that was answered cannot be removed; it is answered again at the next start");
        }
    }

    /// Gets all shards that are not here yet. Some are better than none: the rest is ordered again.
    async fn take(&self, given: &Given, task: Arc<Task>) -> Took {
        let inner = &self.0;
        let order = &given.credentials.certificate.order;
        let left = || Duration::from_millis(order.expires.ms_since(inner.now()));
        let turn = async {
            inner.tools.net.ready().await;
            let beside =
                async { if order.urgent { inner.urgent.acquire().await } else { std::future::pending().await } };
            tokio::select! {
                lane = inner.lanes.acquire() => lane,
                lane = beside => lane,
            }
        };
        let Ok(lane) = tokio::time::timeout(left(), turn).await else {
            tracing::info!(group = %order.group.short(), "an order was over before it was its turn");
            return Took::None(Failure::Refused, task.part.stewards.clone());
        };
        let Ok(_lane) = lane else { return Took::GoingDown };
        let credentials = Arc::new(given.credentials.clone());
        // At least two shards, so that one line's slow start does not count.
        let left = left().min(LANE_A_SHARD * task.rows.len().max(2) as u32);
        let mut took = Ordinals::default();
        let mut failure = None;
        let mut going_down = false;
        let rows = futures::stream::iter(task.rows.clone())
            .map(|row| {
                let (credentials, task) = (Arc::clone(&credentials), Arc::clone(&task));
                async move { (row.ordinal, self.take_one(credentials, task, row).await) }
            })
            .buffer_unordered(FETCHES);
        let all = async {
            futures::pin_mut!(rows);
            while let Some((ordinal, one)) = rows.next().await {
                match one {
                    Ok(()) => took.insert(ordinal),
                    Err(Stopped::GoingDown) => going_down = true,
                    Err(Stopped::Failed(why)) => {
                        // Whoever does not have one or lies once is not asked for seven more.
                        failure = Some(why);
                        break;
                    }
                }
            }
        };
        let in_time = tokio::time::timeout(left, all).await.is_ok();
        if going_down {
            return Took::GoingDown;
        }
        if took.is_empty() {
            let late = (!in_time).then_some(Failure::Missing(source(&task.part.action).unwrap_or(inner.me)));
            let failure = failure.or(late).unwrap_or(Failure::Refused);
            tracing::info!(group = %order.group.short(), ?failure, "an order came to nothing");
            return Took::None(failure, task.part.stewards.clone());
        }
        let by = Watchers::new(&task.part.mandate, task.part.stewards.clone(), credentials.changes.len(), None);
        let watchers = Watchers { ordered: Some(inner.now()), ..by };
        inner.tools.shelf.watched(order.group, watchers);
        let (slot, order_id) = (task.slot, order.id().unwrap_or_default());
        tracing::info!(group = %order.group.short(), %slot, shards = took.len(), "took over shards of a group");
        Took::Some(Taken {
            order: order_id,
            group: order.group,
            slot,
            ordinals: took,
            previous: given.previous,
            at: inner.now(),
            holder: inner.me,
        })
    }

    async fn take_one(&self, credentials: Arc<Credentials>, task: Arc<Task>, row: SheetRow) -> Result<(), Stopped> {
        let tools = &self.0.tools;
        let group = credentials.certificate.order.group;
        if tools.shelf.has(group, task.slot, row.ordinal, &row.root) {
            return Ok(());
        }
        // It may have been paused meanwhile.
        tools.net.ready().await;
        let from = source(&task.part.action);
        let bytes = match from {
            Some(from) => self.copy(from, &credentials, row.ordinal).await?,
            None => {
                let rebuilder = tools.rebuilder.as_ref().ok_or(Stopped::Failed(Failure::Refused))?;
                let rebuilt = rebuilder.rebuild(credentials, Arc::clone(&task), row.ordinal).await;
                rebuilt.map_err(Stopped::Failed)?
            }
        };
        let hashed = bytes.clone();
        let root = tokio::task::spawn_blocking(move || *blake3::hash(&hashed).as_bytes()).await;
        if bytes.len() != SHARD_SIZE || !root.is_ok_and(|root| root == *row.root.as_bytes()) {
            // What helpers of a rebuild sent is masked, so who of them sent wrong bytes is a suspicion and nobody's experience.
            if let Some((from, witness)) = from.zip(tools.net.witness()) {
                witness.saw(from, Observed::BadBytes);
            }
            return Err(Stopped::Failed(Failure::Wrong(from)));
        }
        let lease_until = task.part.mandate.ends;
        let (slot, ordinal, root) = (task.slot, row.ordinal, row.root);
        let shard = NewShard { group, slot, ordinal, root, lease_until, bytes: bytes.into() };
        tools.shelf.put(shard).await.map_err(|error| match error {
            StoreError::Closed => Stopped::GoingDown,
            error => {
                tracing::warn!(%error, "a shard that stewards gave us cannot be stored");
                Stopped::Failed(Failure::Refused)
            }
        })
    }

    async fn copy(&self, from: PeerKey, credentials: &Arc<Credentials>, ordinal: u8) -> Result<Bytes, Stopped> {
        let tools = &self.0.tools;
        for tried in 1.. {
            let again = match tools.net.fetch(from, Arc::clone(credentials), ordinal).await {
                Ok(bytes) => return Ok(bytes),
                Err(TransferError::ShuttingDown) => return Err(Stopped::GoingDown),
                Err(TransferError::Misbehaved(_)) => return Err(Stopped::Failed(Failure::Wrong(Some(from)))),
                Err(TransferError::Unreachable(_) | TransferError::TimedOut) => true,
                Err(TransferError::Refused { retry_after_ms, .. }) => retry_after_ms > 0,
            };
            if !again || tried == TRIES {
                break;
            }
            tokio::time::sleep(tools.pause * 2u32.pow(tried - 1)).await;
        }
        Err(Stopped::Failed(Failure::Missing(from)))
    }

    /// Brings our word to all stewards: each a few times, and until one at least has it. They tell each other.
    async fn tell(&self, credentials: &Credentials, say: Say) {
        let tools = &self.0.tools;
        let order = &credentials.certificate.order;
        let mut waiting = self.stewards(credentials).await;
        let (mut heard, mut round) = (false, 0u32);
        while !waiting.is_empty() {
            let asked = waiting.iter().map(|steward| {
                let request = Request::Say(Box::new(say.clone()));
                async { (*steward, tools.outbox.ask(*steward, request).await) }
            });
            for (steward, answer) in futures::future::join_all(asked).await {
                let (done, over) = match answer {
                    Ok(Answer::Done) => (true, true),
                    Ok(Answer::Refused(Refusal::Busy | Refusal::Full)) => (false, false),
                    Ok(_) => (false, true),
                    Err(_) => (false, false),
                };
                heard |= done;
                if over {
                    waiting.retain(|other| *other != steward);
                }
            }
            round += 1;
            if (heard && round >= TRIES) || self.0.now() >= order.expires.plus_ms(TELL_MS) {
                return;
            }
            if !waiting.is_empty() {
                tokio::time::sleep((tools.pause * 2u32.pow(round.min(16))).min(tools.pause_max)).await;
            }
        }
    }

    /// The stewards of now, whatever the time: what was done under an order stays done.
    async fn stewards(&self, credentials: &Credentials) -> Vec<PeerKey> {
        let issued = credentials.certificate.order.issued;
        for _ in 0..TURNS_MAX {
            let credentials = credentials.clone();
            if let Some(part) = signatures::in_turn(TURN, move || credentials.check(&BTreeSet::new(), issued)).await {
                return part.map(|part| part.stewards).unwrap_or_default();
            }
        }
        Vec::new()
    }

    /// Waits for what goes on; the token ends it soon.
    pub(super) async fn close(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
        self.0.tools.outbox.close().await;
    }
}

/// The one peer that a copy comes from; none for a rebuild.
const fn source(action: &Action) -> Option<PeerKey> {
    match action {
        Action::Copy { from, .. } => Some(*from),
        _ => None,
    }
}

/// Why a shard did not come.
enum Stopped {
    Failed(Failure),
    GoingDown,
}

/// What came of an order.
enum Took {
    Some(Taken),
    None(Failure, Vec<PeerKey>),
    GoingDown,
}
