//! What stewards know: who holds what of a group now, and what happened to it while its owner was away.
//!
//! A healthy vault never asks. A verb asks about a group once, when a holder of it does not answer or lacks what it should have:
//! first the stewards that the group was left with, then, as on a blank machine, those who may be it by rank. Reading goes on
//! meanwhile and waits for the answers only before it would give a stripe up.
//!
//! - **REP-1** What stewards repaired is found by whoever has the keys, with the catalogue or without. Attacked by
//!   `tests::learning`.
//! - **DUR-2** Nothing is believed that is not signed ([`History::check`]), and shards from new holders are checked against their
//!   roots as all others are: a steward that lies can waste a look, no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cairn_core::{
    colour::colour,
    peer_view::PeerView,
    placement::{self, GroupRequest, Owner, PlacementPolicy},
    steward::{
        Happening,
        history::{Arrival, History},
        wire::GroupMap,
    },
};
use cairn_proto::{GroupTicket, Mandate, PeerKey, Slot, manifest::GroupRow};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinSet,
    time::Instant,
};

use super::catalogue::Catalogue;
use crate::overlay::{GroupAccess, Overlay, StewardError, TransferError};

/// Questions under way at once, over all groups: a map has at most 2 MiB, so 32 MiB of what liars send.
const QUESTIONS: usize = 16;
/// How long a steward may take: longer than a dial and a whole map over a slow line.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the others are waited for when one gave an answer that holds and is as new as it should be.
const GRACE: Duration = Duration::from_secs(1);
/// Peers asked that may be stewards by their rank: the seven, and some who took the places of lost ones.
const BY_RANK: usize = 16;
/// New holders of a slot that are looked at, the latest ones: more than a row has room for twice.
const NEWS_PER_SLOT: usize = 8;

/// What was learned of one group.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// New holders by time, each order once.
    pub(super) arrivals: Vec<Arrival>,
    /// What happened, by time, as every steward that answered tells it.
    pub(super) log: Vec<Happening>,
    /// Stewards whose answer holds.
    pub(super) answered: usize,
    /// The newest mandate that they go by, and who are stewards under it now.
    pub(super) newest: Option<(u64, Vec<PeerKey>)>,
}

impl Learned {
    fn add(&mut self, history: History) {
        self.answered += 1;
        self.arrivals.extend(history.arrivals);
        self.log.extend(history.log);
        let generation = history.mandate.generation;
        if self.newest.as_ref().is_none_or(|(known, _)| *known < generation) {
            self.newest = Some((generation, history.stewards));
        }
    }

    fn tidy(&mut self) {
        let mut seen = BTreeSet::new();
        self.arrivals.retain(|arrival| seen.insert(arrival.order));
        self.arrivals.sort_by_key(|arrival| (arrival.at, arrival.order));
        self.log.sort_by_key(|entry| entry.at);
    }

    /// Who took this shard, the latest first.
    pub(super) fn takers(&self, slot: Slot, ordinal: u8) -> impl Iterator<Item = PeerKey> + '_ {
        let took = move |arrival: &&Arrival| arrival.slot == slot && arrival.ordinals.contains(ordinal);
        self.arrivals.iter().rev().filter(took).map(|arrival| arrival.holder)
    }

    /// New holders that a row does not name, the latest first, each at one slot: no honest peer has two (SEP-1).
    pub(super) fn news(&self, row: &GroupRow) -> Vec<(Slot, PeerKey)> {
        let mut seen = BTreeSet::new();
        let mut counts: BTreeMap<Slot, usize> = BTreeMap::new();
        let mut news = Vec::new();
        for arrival in self.arrivals.iter().rev() {
            let known = row.holders.iter().flatten().any(|peer| *peer == arrival.holder);
            let count = counts.entry(arrival.slot).or_default();
            if !known && *count < NEWS_PER_SLOT && seen.insert(arrival.holder) {
                *count += 1;
                news.push((arrival.slot, arrival.holder));
            }
        }
        news
    }
}

/// What asking needs; no catalogue, so that one may be closed while a question is still under way.
struct Asking {
    overlay: Arc<dyn Overlay>,
    questions: Semaphore,
    /// Who left a question unanswered in this verb: at most the peers known.
    deaf: Mutex<BTreeSet<PeerKey>>,
    peers: OnceCell<Vec<PeerView>>,
}

type Cell = Arc<OnceCell<Arc<Learned>>>;

#[derive(Default)]
struct Book {
    cells: BTreeMap<u32, Cell>,
    /// Groups asked about without anybody waiting. They end when this does.
    background: JoinSet<()>,
}

/// Asks stewards, about each group once. Lives for one verb.
pub(super) struct Learner {
    asking: Arc<Asking>,
    catalogue: Option<Catalogue>,
    book: Mutex<Book>,
}

/// Whom to ask about a group.
struct Questions {
    access: Arc<GroupAccess>,
    /// The mandate's stewards and its generation, where they are known.
    known: Vec<PeerKey>,
    generation: u64,
}

impl Learner {
    pub(super) fn new(overlay: Arc<dyn Overlay>, catalogue: Option<Catalogue>) -> Self {
        let asking =
            Asking { overlay, questions: Semaphore::new(QUESTIONS), deaf: Mutex::default(), peers: OnceCell::new() };
        Self { asking: Arc::new(asking), catalogue, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn questions(&self, number: u32, access: &Arc<GroupAccess>) -> Questions {
        let registration = self.catalogue.as_ref().and_then(|c| c.registration(number).ok().flatten());
        let mandate = registration.and_then(|row| Mandate::open(&row.mandate).ok());
        let (known, generation) = mandate.map_or((Vec::new(), 0), |mandate| (mandate.stewards, mandate.generation));
        Questions { access: access.clone(), known, generation }
    }

    /// Asks about a group, unless it was asked about before, and waits for nothing.
    pub(super) fn begin(&self, number: u32, access: &Arc<GroupAccess>) {
        let mut book = self.book();
        while book.background.try_join_next().is_some() {}
        if book.cells.contains_key(&number) {
            return;
        }
        let cell = Cell::default();
        book.cells.insert(number, cell.clone());
        let (asking, questions) = (self.asking.clone(), self.questions(number, access));
        book.background.spawn(async move {
            cell.get_or_init(|| asking.ask(&questions)).await;
        });
    }

    /// What is known of a group: it was asked about once, or is now.
    pub(super) async fn learn(&self, number: u32, access: &Arc<GroupAccess>) -> Arc<Learned> {
        let cell = self.book().cells.entry(number).or_default().clone();
        let questions = self.questions(number, access);
        cell.get_or_init(|| self.asking.ask(&questions)).await.clone()
    }

    /// What is known of a group already.
    pub(super) fn at_hand(&self, number: u32) -> Option<Arc<Learned>> {
        self.book().cells.get(&number)?.get().cloned()
    }
}

impl Asking {
    async fn ask(&self, questions: &Questions) -> Arc<Learned> {
        let mut learned = Learned::default();
        self.wave(questions, &questions.known, &mut learned).await;
        if learned.answered == 0 {
            let mut others = self.by_rank(&questions.access.ticket).await;
            others.retain(|peer| !questions.known.contains(peer));
            self.wave(questions, &others, &mut learned).await;
        }
        learned.tidy();
        Arc::new(learned)
    }

    /// Asks these, all at once, until they answered or one did well and the others had their chance.
    async fn wave(&self, questions: &Questions, stewards: &[PeerKey], learned: &mut Learned) {
        let mut asked: FuturesUnordered<_> =
            stewards.iter().map(|steward| self.question(*steward, &questions.access)).collect();
        let mut end = None;
        loop {
            let next = match end {
                None => asked.next().await,
                Some(end) => tokio::time::timeout_at(end, asked.next()).await.ok().flatten(),
            };
            let Some(answer) = next else { return };
            let Some(history) = answer else { continue };
            if history.mandate.generation >= questions.generation {
                end.get_or_insert_with(|| Instant::now() + GRACE);
            }
            learned.add(history);
        }
    }

    fn deaf(&self) -> MutexGuard<'_, BTreeSet<PeerKey>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn question(&self, steward: PeerKey, access: &Arc<GroupAccess>) -> Option<History> {
        // The semaphore is never closed.
        let _turn = self.questions.acquire().await;
        if self.deaf().contains(&steward) {
            return None;
        }
        match tokio::time::timeout(ANSWER, self.overlay.group_map(steward, access.clone())).await {
            Ok(Ok(map)) => check(map, access.ticket).await,
            Ok(Err(StewardError::Refused(_) | StewardError::Transfer(TransferError::ShuttingDown))) => None,
            Ok(Err(StewardError::Transfer(_))) | Err(_) => {
                tracing::debug!(peer = %steward.short(), "a steward did not answer");
                self.deaf().insert(steward);
                None
            }
        }
    }

    /// Peers of the stewards' colour, best first: those that may be one now, then the others, who may have been.
    async fn by_rank(&self, ticket: &GroupTicket) -> Vec<PeerKey> {
        let known = self.peers.get_or_init(|| async { self.overlay.peers(false).await.unwrap_or_default() }).await;
        let (policy, avoid) = (PlacementPolicy::for_network(known), BTreeSet::new());
        let request = GroupRequest {
            owner: Owner { peer: self.overlay.me(), domain: self.overlay.my_domain() },
            authority: *ticket.authority(),
            policy: &policy,
            avoid: &avoid,
            now: super::now(),
            owner_key: None,
        };
        let mut ranked = placement::stewards(known, &request, ticket);
        let class = ticket.code().slots();
        let coloured = known.iter().filter(|view| colour(ticket, &view.domain).index() == class);
        let others: Vec<PeerKey> = coloured.map(|view| view.peer).filter(|peer| !ranked.contains(peer)).collect();
        ranked.extend(others);
        ranked.truncate(BY_RANK);
        ranked
    }
}

/// Checks what a steward said.
pub(super) async fn check(map: Box<GroupMap>, ticket: GroupTicket) -> Option<History> {
    let checked = tokio::task::spawn_blocking(move || History::check(&map, &ticket)).await.ok()?;
    checked.inspect_err(|e| tracing::warn!(error = %e, "a steward told something that does not hold")).ok()
}
