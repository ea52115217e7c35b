//! What stewards know: who holds what of a group now, and what happened to it while its owner was away.
//!
//! A healthy vault never asks. A verb asks about a group once, when a holder of it does not answer or lacks what it should have:
//! first the stewards that the group was left with, then, as on a blank machine, those who may be it by rank; and whoever these say
//! is a steward too. Reading goes on meanwhile and waits for the answers only before it would give a stripe up; before it does, those
//! who left the question open are asked once more.
//!
//! A steward that does not answer costs a verb a question's time (5 s, a sixteenth of that when many do not) once, and once more when
//! stripes are given up: a group of which nobody is there is given up after some 20 s, and the next ones, whose stewards are known to
//! be silent by then, at once.
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
        wire::{GroupMap, Refusal},
    },
};
use cairn_proto::{GroupTicket, Mandate, PeerKey, Slot, manifest::GroupRow};
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinSet,
    time::Instant,
};

use super::catalogue::Catalogue;
use crate::overlay::{GroupAccess, MAPS_AT_ONCE, Overlay, StewardError, TransferError};

/// Questions under way at once, over all groups.
const QUESTIONS: usize = MAPS_AT_ONCE;
/// How long a question may take that the network does not end itself: it waits behind other verbs', or the steward is busy.
const LONGEST: Duration = Duration::from_secs(15);
/// How long the others are waited for when most of the stewards gave answers that hold. One alone may leave things out.
const GRACE: Duration = Duration::from_secs(1);
/// What a question costs a steward's credit that it did not answer ...
const FAILED: u8 = 4;
/// ... and one that may never have reached it. Below: the credit for the first time that a group is asked about, and with the second.
const DELAYED: u8 = 1;
const CREDIT: [u8; 2] = [FAILED, 2 * FAILED];
/// Peers asked about one group: those by rank, and the stewards of a few mandates with those who took their places.
const ASKED_MAX: usize = 48;
/// Peers asked that may be stewards by their rank: the seven, and some who took the places of lost ones.
const BY_RANK: usize = 16;
/// New holders of a slot that are looked at, the latest ones: more than a row has room for twice.
const NEWS_PER_SLOT: usize = 8;

/// The newest mandate that stewards go by.
#[derive(Clone, Debug)]
pub(super) struct Newest {
    pub(super) generation: u64,
    /// Whether half of them made each change, how often they changed themselves, and who they are after that.
    changes: (bool, usize),
    pub(super) stewards: Vec<PeerKey>,
    /// All that are or were stewards under it, and how many the mandate names.
    all: BTreeSet<PeerKey>,
    named: usize,
}

/// What was learned of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    /// New holders by time, each order once.
    pub(super) arrivals: Vec<Arrival>,
    /// What happened, by time, as every steward that answered tells it.
    pub(super) log: Vec<Happening>,
    /// Stewards whose answer holds.
    told: BTreeSet<PeerKey>,
    /// Who was asked, and whose answer did not come.
    asked: BTreeSet<PeerKey>,
    open: BTreeSet<PeerKey>,
    /// What they go by.
    pub(super) newest: Option<Newest>,
}

impl Learned {
    /// Whether any steward gave an answer that holds.
    pub(super) fn is_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// Whether somebody who may know did not answer.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes in what a steward said; whom it names as stewards.
    fn add(&mut self, steward: PeerKey, history: History, changes: usize) -> Vec<PeerKey> {
        self.told.insert(steward);
        self.arrivals.extend(history.arrivals);
        self.log.extend(history.log);
        let History { mandate, stewards, succession, .. } = history;
        // Where half of a committee goes on, nobody's word counts that it was the last.
        let changes = (!succession, changes);
        let named: Vec<PeerKey> = mandate.stewards.iter().chain(&stewards).copied().collect();
        let (generation, count) = (mandate.generation, mandate.stewards.len());
        match &mut self.newest {
            Some(known) if known.generation == generation => {
                known.all.extend(&named);
                if changes > known.changes {
                    (known.changes, known.stewards) = (changes, stewards);
                }
            }
            Some(known) if known.generation > generation => {}
            _ => {
                let all = named.iter().copied().collect();
                self.newest = Some(Newest { generation, changes, stewards, all, named: count });
            }
        }
        named
    }

    /// Whether most stewards answered, of a mandate that is as new as it should be.
    fn is_enough(&self, generation: u64) -> bool {
        let newest = self.newest.as_ref().filter(|newest| newest.generation >= generation);
        newest.is_some_and(|newest| self.told.intersection(&newest.all).count() > newest.named / 2)
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
    /// Who left questions unanswered in this verb, and what that cost them: at most the peers known.
    deaf: Mutex<BTreeMap<PeerKey, u8>>,
    peers: OnceCell<Vec<PeerView>>,
}

type Cell = Arc<OnceCell<Arc<Learned>>>;

#[derive(Default)]
struct Book {
    cells: BTreeMap<u32, Cell>,
    /// What was learned when those who had not answered were asked again.
    again: BTreeMap<u32, Cell>,
    /// Groups asked about without anybody waiting. They end when this does.
    background: JoinSet<()>,
}

/// Asks stewards, about each group once. Lives for one verb.
pub(super) struct Learner {
    asking: Arc<Asking>,
    catalogue: Option<Catalogue>,
    book: Mutex<Book>,
}

/// What came of a question.
enum Answer {
    /// What the steward said, and how often it says that its fellows changed.
    Told(Box<History>, usize),
    /// It knows nothing, or nothing that holds.
    Nothing,
    /// None came.
    Open,
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

    /// What is known of a group once those who left the first question open were asked again; that is done once.
    pub(super) async fn learn_again(&self, number: u32, access: &Arc<GroupAccess>) -> Arc<Learned> {
        let first = self.learn(number, access).await;
        if !first.is_open() {
            return first;
        }
        let cell = self.book().again.entry(number).or_default().clone();
        let questions = self.questions(number, access);
        cell.get_or_init(|| self.asking.ask_again(&questions, &first)).await.clone()
    }

    /// What is known of a group already.
    pub(super) fn at_hand(&self, number: u32) -> Option<Arc<Learned>> {
        let book = self.book();
        let known = |cells: &BTreeMap<u32, Cell>| cells.get(&number)?.get().cloned();
        known(&book.again).or_else(|| known(&book.cells))
    }
}

impl Asking {
    async fn ask(&self, questions: &Questions) -> Arc<Learned> {
        let mut learned = Learned::default();
        self.wave(questions, questions.known.clone(), &mut learned, CREDIT[0]).await;
        if !learned.is_told() {
            let others = self.by_rank(&questions.access.ticket).await;
            self.wave(questions, others, &mut learned, CREDIT[0]).await;
        }
        learned.tidy();
        Arc::new(learned)
    }

    async fn ask_again(&self, questions: &Questions, before: &Learned) -> Arc<Learned> {
        let mut learned = before.clone();
        let open = std::mem::take(&mut learned.open);
        learned.asked.retain(|peer| !open.contains(peer));
        self.wave(questions, open.into_iter().collect(), &mut learned, CREDIT[1]).await;
        learned.tidy();
        Arc::new(learned)
    }

    /// Asks these, and whom they name, all at once, until they answered or most did and the others had their chance.
    async fn wave(&self, questions: &Questions, mut stewards: Vec<PeerKey>, learned: &mut Learned, credit: u8) {
        let mut running = FuturesUnordered::new();
        let mut end = None;
        loop {
            for steward in stewards.drain(..) {
                if learned.asked.len() < ASKED_MAX && learned.asked.insert(steward) {
                    learned.open.insert(steward);
                    running
                        .push(self.question(steward, &questions.access, credit).map(move |answer| (steward, answer)));
                }
            }
            let next = match end {
                None => running.next().await,
                Some(end) => tokio::time::timeout_at(end, running.next()).await.ok().flatten(),
            };
            let Some((steward, answer)) = next else { return };
            match answer {
                Answer::Told(history, changes) => {
                    learned.open.remove(&steward);
                    stewards = learned.add(steward, *history, changes);
                    if learned.is_enough(questions.generation) {
                        end.get_or_insert_with(|| Instant::now() + GRACE);
                    }
                }
                Answer::Nothing => {
                    learned.open.remove(&steward);
                }
                Answer::Open => {}
            }
        }
    }

    fn deaf(&self) -> MutexGuard<'_, BTreeMap<PeerKey, u8>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn question(&self, steward: PeerKey, access: &Arc<GroupAccess>, credit: u8) -> Answer {
        // The semaphore is never closed.
        let _turn = self.questions.acquire().await;
        if self.deaf().get(&steward).is_some_and(|cost| *cost >= credit) {
            return Answer::Open;
        }
        let cost = match tokio::time::timeout(LONGEST, self.overlay.group_map(steward, access.clone())).await {
            Ok(Ok(map)) => {
                let changes = map.changes.len();
                let history = check(map, access.ticket).await;
                return history.map_or(Answer::Nothing, |history| Answer::Told(Box::new(history), changes));
            }
            Ok(Err(StewardError::Refused(Refusal::Busy) | StewardError::Transfer(TransferError::ShuttingDown))) => {
                return Answer::Open;
            }
            Ok(Err(StewardError::Refused(_))) => return Answer::Nothing,
            Ok(Err(StewardError::Transfer(_))) => FAILED,
            // Whether it was asked at all is not known.
            Err(_) => DELAYED,
        };
        tracing::debug!(peer = %steward.short(), "a steward did not answer");
        let mut deaf = self.deaf();
        let sum = deaf.entry(steward).or_default();
        *sum = sum.saturating_add(cost);
        Answer::Open
    }

    /// Peers of the stewards' colour, best first: by turns those that may be one now, and those that were it when all were here. The
    /// silent ones count: a question that they leave open is all that says that somebody may know more.
    async fn by_rank(&self, ticket: &GroupTicket) -> Vec<PeerKey> {
        let known = self.peers.get_or_init(|| async { self.overlay.peers(false).await.unwrap_or_default() }).await;
        let (policy, avoid) = (PlacementPolicy::for_network(known), BTreeSet::new());
        let now = super::now();
        let request = GroupRequest {
            owner: Owner { peer: self.overlay.me(), domain: self.overlay.my_domain() },
            authority: *ticket.authority(),
            policy: &policy,
            avoid: &avoid,
            now,
            owner_key: None,
        };
        let as_if_here = |view: &PeerView| PeerView { reachable: Some(true), last_heard: now, loss: 0, ..view.clone() };
        let once: Vec<PeerView> = known.iter().map(as_if_here).collect();
        let (fit, once) = (placement::stewards(known, &request, ticket), placement::stewards(&once, &request, ticket));
        let mut ranked: Vec<PeerKey> = Vec::new();
        let mut add = |peer: Option<&PeerKey>| ranked.extend(peer.filter(|peer| !ranked.contains(peer)).copied());
        for at in 0..fit.len().max(once.len()) {
            add(fit.get(at));
            add(once.get(at));
        }
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

#[cfg(test)]
mod tests {
    use cairn_core::steward::history::History;
    use cairn_proto::{CodeParams, Powers, Timestamp};

    use super::*;

    fn history(stewards: &[u8], succession: bool) -> History {
        let key = |at: u8| PeerKey::from_bytes([at; 32]);
        let authority = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
        let mandate = Mandate {
            ticket: GroupTicket::new(authority, [5; 32], CodeParams::LOW_PEER, 6).expect("valid"),
            generation: 1,
            stewards: (1..=7).map(key).collect(),
            replicas: 1,
            powers: Powers::ALL,
            monthly_bytes: 0,
            issued: Timestamp(1),
            ends: Timestamp(2),
        };
        let stewards = stewards.iter().map(|at| key(*at)).collect();
        History { mandate, stewards, succession, arrivals: Vec::new(), log: Vec::new(), unfounded: 0 }
    }

    #[test]
    fn where_half_of_a_committee_goes_on_nobodys_word_counts_that_it_was_the_last() {
        let lonely = (history(&[1, 20, 21, 22], true), 6);
        let sound = (history(&[2, 3, 4, 5, 6, 7, 8], false), 1);
        for told in [[&lonely, &sound], [&sound, &lonely]] {
            let mut learned = Learned::default();
            for (at, (history, changes)) in told.into_iter().enumerate() {
                learned.add(PeerKey::from_bytes([at as u8 + 1; 32]), history.clone(), *changes);
            }
            let newest = learned.newest.expect("told");
            assert_eq!(newest.stewards, sound.0.stewards);
        }
        let mut learned = Learned::default();
        learned.add(PeerKey::from_bytes([1; 32]), lonely.0.clone(), lonely.1);
        assert_eq!(learned.newest.expect("told").stewards, lonely.0.stewards, "and where none does, it does");
    }
}
