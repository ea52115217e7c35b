//! The one task that owns the steward: waits for what comes in and for the time, has a round done on a thread of its own
//! ([`super::round`]), sends what comes of it, and asks peers whether they are there and what they have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cairn_core::{
    peer_view::PeerView,
    reputation::Observed,
    steward::{
        Say, TokenAnswer, TokenQuestion,
        wire::{Answer, Duty, Refusal, Request},
    },
};
use cairn_proto::{Domain, GroupId, Ordinals, PeerKey, SlotSheet, Timestamp, order::OrderId};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    exchange::{Input, Outcome, Watched},
    outbox::{Given, Outbox},
    ports::{StewardNet, WatchPass},
    probes::{Holding, Inventory, Probes},
    round::Keeper,
};
use crate::{overlay::TransferError, store::Clock, timers::Timers};

/// Inputs of one round: enough that a burst is synced to disk once, few enough that answers do not wait long.
const BATCH: usize = 64;
/// How long one question to a peer may take, dialling included.
const PATIENCE: Duration = Duration::from_secs(30);
/// The network answers from memory who is known.
const PEERS_PATIENCE: Duration = Duration::from_secs(5);
/// Shortest wait between two rounds that nothing but the time asks for.
const BREATH: Duration = Duration::from_millis(20);
/// Peers that are asked for a group of which our state is damaged; its other stewards come by themselves later.
const ASKED_FOR_LOST: usize = 64;
/// Lost groups that are asked for at a beat: each of those peers is asked for all of them, and little may wait for one peer.
const LOST_AT_ONCE: usize = 8;

/// What a question to a peer came to.
enum Answered {
    Probe(PeerKey, bool),
    Holding(Holding, Option<Ordinals>),
    /// What became of an order that was to be brought to its new holder.
    Given(GroupId, OrderId, Option<Given>),
    /// Whether an auditor took a duty.
    Duty(PeerKey, Holding, bool),
    /// What a holder made of a question with a token.
    Token(Holding, TokenAnswer),
}

/// What drives the steward.
pub(super) struct Driver {
    pub(super) keeper: Option<Box<Keeper>>,
    pub(super) net: Arc<dyn StewardNet>,
    pub(super) outbox: Outbox,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) me: PeerView,
    pub(super) timers: Timers,
    pub(super) clock: Clock,
    /// Whether we may be cut off ourselves, for whoever judges others.
    pub(super) cut_off: Arc<AtomicBool>,
    /// Groups whose state was damaged: asked for once, when somebody is known.
    pub(super) lost: Vec<cairn_proto::GroupId>,
    pub(super) cancel: CancellationToken,
}

/// How we look to ourselves: part of what placement ranks, which leaves our own domain out.
pub(super) fn own_view(me: PeerKey, domain: Domain, now: Timestamp) -> PeerView {
    PeerView {
        peer: me,
        domain,
        subnet: None,
        subnet_seen: false,
        region: cairn_proto::Region::unknown(),
        region_basis: cairn_core::region::Basis::Unsaid,
        network: None,
        roles: cairn_proto::message::Roles::STORAGE,
        protocol: cairn_proto::PROTOCOL_VERSION,
        give: cairn_proto::ByteSize(0),
        free: cairn_proto::ByteSize(0),
        first_seen: now,
        last_heard: now,
        reachable: Some(true),
        rtt_ms: None,
        loss: 0,
        reputation: 0,
        newcomer: false,
    }
}

/// When a peer was heard, if that is news: `last` as the network has it now, `before` as it had it the last time.
fn sign_of_life(before: Option<Timestamp>, last: Timestamp, now: Timestamp, late_ms: u64) -> Option<Timestamp> {
    // The network's clock is ours, so what lies ahead is of before our clock was set back: life when it changes, and only then.
    let moved = before.map_or(last <= now, |before| before != last);
    let at = last.min(now);
    // One of long ago, as after a restart, is no news: what is believed of the peer may rest on a later one.
    (moved && now.ms_since(at) <= late_ms).then_some(at)
}

/// What the task has at hand between two rounds.
struct State {
    peers: Arc<Vec<PeerView>>,
    heard: std::collections::BTreeMap<PeerKey, Timestamp>,
    /// Who is proved to have lied, as the steward knows it.
    convicted: std::collections::BTreeSet<PeerKey>,
    watched: Watched,
    probes: Probes,
    inventory: Inventory,
    duties: Inventory,
    tokens: Inventory,
    asking: JoinSet<Answered>,
    next_beat: Instant,
    next_save: Instant,
    /// When the steward wants to look again.
    next_look: Option<Timestamp>,
}

impl State {
    /// Whether a peer stores, as far as is known: one that nothing is known of is taken to.
    fn stores(&self, peer: &PeerKey) -> bool {
        self.peers.iter().find(|view| view.peer == *peer).is_none_or(PeerView::stores)
    }
}

impl Driver {
    /// Works until the token fires; then what is believed of peers is written down.
    pub(super) async fn run(mut self) {
        let started = (self.clock)();
        let ms = |duration: Duration| duration.as_millis() as u64;
        let longest = self.timers.rhythm.inventory_ms;
        let mut state = State {
            peers: Arc::new(Vec::new()),
            heard: std::collections::BTreeMap::new(),
            convicted: std::collections::BTreeSet::new(),
            watched: Watched::new(),
            probes: Probes::new(
                ms(self.timers.probe),
                ms(self.timers.probe_silent),
                longest,
                self.timers.liveness.home_gone_ms / 8,
            ),
            inventory: Inventory::new(),
            duties: Inventory::new(),
            tokens: Inventory::new(),
            asking: JoinSet::new(),
            next_beat: Instant::now(),
            next_save: Instant::now() + self.timers.save,
            next_look: Some(started),
        };
        let mut batch = Vec::new();
        while self.wait(&mut state, &mut batch).await {
            let inputs = self.gather(&mut state, std::mem::take(&mut batch)).await;
            let Some(outcome) = self.round(&state, inputs).await else { return };
            self.act(&mut state, outcome);
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = tokio::task::spawn_blocking(move || keeper.save_beliefs()).await;
        }
    }

    /// Until something came in or is due; `false` when it is time to end.
    async fn wait(&mut self, state: &mut State, batch: &mut Vec<Input>) -> bool {
        let look = state.next_look.map(|at| Duration::from_millis(at.ms_since((self.clock)())).max(BREATH));
        let look = look.map_or(state.next_beat, |left| Instant::now() + left);
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => false,
            Some(answered) = state.asking.join_next(), if !state.asking.is_empty() => {
                self.take_answer(state, answered.ok(), batch);
                true
            }
            came = self.inputs.recv_many(batch, BATCH) => came > 0,
            () = sleep_until(state.next_beat.min(look)) => true,
        }
    }

    fn take_answer(&self, state: &mut State, answered: Option<Answered>, batch: &mut Vec<Input>) {
        let now = (self.clock)();
        match answered {
            Some(Answered::Probe(peer, there)) => {
                state.probes.answered(&peer);
                if there && state.stores(&peer) {
                    batch.push(Input::Heard { peer, at: now });
                }
            }
            Some(Answered::Holding((group, slot, holder), has)) => {
                state.inventory.answered(&(group, slot, holder));
                if let Some(has) = has {
                    batch.push(Input::Reported { holder, group, slot, has });
                }
            }
            Some(Answered::Given(group, order, Some(given @ (Given::Undelivered | Given::Refused)))) => {
                batch.push(Input::Undelivered { group, order, said_no: given == Given::Refused });
            }
            Some(Answered::Given(..)) => {}
            Some(Answered::Duty(auditor, holding, took)) => {
                state.duties.answered(&holding);
                if !took {
                    batch.push(Input::Declined { auditor, holding });
                }
            }
            Some(Answered::Token(holding, answer)) => {
                state.tokens.answered(&holding);
                batch.push(Input::Token { holding, answer });
            }
            None => tracing::error!("a question to a peer ended by a broken invariant of ours"),
        }
    }

    /// What came in, and what the beat adds: who was heard, whom to ask.
    async fn gather(&mut self, state: &mut State, mut inputs: Vec<Input>) -> Vec<Input> {
        if Instant::now() >= state.next_beat {
            // Five times within the silence that makes late, as heartbeats are; and no slower than looks and probes.
            let late = Duration::from_millis(self.timers.liveness.late_ms);
            let look = Duration::from_millis(self.timers.rhythm.look_ms);
            let beat = (late / 5).min(self.timers.probe).min(look).max(BREATH);
            state.next_beat = Instant::now() + beat;
            inputs.extend(self.listen(state).await);
            let convicted: std::collections::BTreeSet<PeerKey> = self.net.convicted().into_iter().collect();
            if state.convicted != convicted {
                state.convicted.clone_from(&convicted);
                inputs.push(Input::Convicted(convicted));
            }
            let now = (self.clock)();
            let (ask, duties) = (state.inventory.room(now), state.duties.room(now));
            inputs.push(Input::Survey { ask, duties, tokens: state.tokens.room(now) });
        }
        if Instant::now() >= state.next_save {
            state.next_save = Instant::now() + self.timers.save;
            inputs.push(Input::Save);
        }
        inputs
    }

    /// Signs of life that the network had since the last time, oldest first.
    async fn listen(&self, state: &mut State) -> Vec<Input> {
        let now = (self.clock)();
        let Ok(mut peers) = timeout(PEERS_PATIENCE, self.net.peers()).await else { return Vec::new() };
        let mut heard: Vec<(Timestamp, PeerKey)> = Vec::new();
        for view in &peers {
            let before = state.heard.insert(view.peer, view.last_heard);
            let at = sign_of_life(before, view.last_heard, now, self.timers.liveness.late_ms);
            if let Some(at) = at.filter(|_| view.stores()) {
                heard.push((at, view.peer));
            }
        }
        if peers.len() < state.heard.len() {
            let known: std::collections::BTreeSet<PeerKey> = peers.iter().map(|view| view.peer).collect();
            state.heard.retain(|peer, _| known.contains(peer));
        }
        peers.retain(|view| view.peer != self.me.peer);
        peers.push(PeerView { last_heard: now, ..self.me.clone() });
        state.peers = Arc::new(peers);
        heard.sort_unstable();
        heard.into_iter().map(|(at, peer)| Input::Heard { peer, at }).collect()
    }

    async fn round(&mut self, state: &State, inputs: Vec<Input>) -> Option<Outcome> {
        let (mut keeper, peers, now) = (self.keeper.take()?, Arc::clone(&state.peers), (self.clock)());
        let done = tokio::task::spawn_blocking(move || {
            let outcome = keeper.round(inputs, &peers, now);
            (keeper, outcome)
        });
        match done.await {
            Ok((keeper, outcome)) => {
                self.keeper = Some(keeper);
                Some(outcome)
            }
            Err(error) => {
                tracing::error!(%error, "stewardship ended by a broken invariant of its own; the node goes on without it");
                None
            }
        }
    }

    fn act(&mut self, state: &mut State, outcome: Outcome) {
        for (to, say) in outcome.tell {
            self.outbox.say(to, say);
        }
        for give in outcome.give {
            let (credentials, sheet, previous) = (give.credentials, give.sheet, give.previous);
            let order = &credentials.certificate.order;
            let (group, name) = (order.group, order.id());
            let given = self.outbox.give(give.to, Request::Give { credentials, sheet, previous });
            // As many as the outbox has room for.
            let Ok(order) = name else { continue };
            state.asking.spawn(async move { Answered::Given(group, order, given.await.ok()) });
        }
        if let Some(witness) = self.net.witness() {
            outcome.suspected.iter().for_each(|peer| witness.saw(*peer, Observed::Suspected));
        }
        self.cut_off.store(outcome.cut_off, Ordering::Relaxed);
        for (auditor, duty) in outcome.duties {
            self.give_duty(state, auditor, duty);
        }
        for token in outcome.tokens {
            self.ask_with_token(state, token);
        }
        state.next_look = outcome.next;
        if let Some(watched) = outcome.watched {
            state.watched = watched;
            let now = (self.clock)();
            for peer in state.probes.due(&state.watched, now) {
                self.probe(state, peer);
            }
            self.ask_for_lost(state);
        }
        for (holding, pass) in outcome.ask {
            if state.inventory.begin(holding) {
                self.ask_holding(state, holding, pass);
            }
        }
    }

    fn probe(&self, state: &mut State, peer: PeerKey) {
        let net = Arc::clone(&self.net);
        state.asking.spawn(async move {
            let there = timeout(PATIENCE, net.probe(peer)).await.unwrap_or(Err(TransferError::TimedOut)).is_ok();
            Answered::Probe(peer, there)
        });
    }

    fn ask_holding(&self, state: &mut State, holding: Holding, pass: WatchPass) {
        let net = Arc::clone(&self.net);
        state.asking.spawn(async move {
            let (_, slot, holder) = holding;
            let has = timeout(PATIENCE, net.holding(holder, pass, slot)).await;
            Answered::Holding(holding, has.ok().and_then(Result::ok))
        });
    }

    fn give_duty(&self, state: &mut State, auditor: PeerKey, duty: Duty) {
        // It is the owner's own sheet, checked when it was taken up.
        let Ok(sheet) = SlotSheet::open(&duty.sheet, &duty.ticket) else { return };
        let holding = (sheet.group, sheet.slot, duty.holder);
        state.duties.begin(holding);
        let net = Arc::clone(&self.net);
        state.asking.spawn(async move {
            let given = timeout(PATIENCE, net.request(auditor, Request::Duty(Box::new(duty)))).await;
            Answered::Duty(auditor, holding, matches!(given, Ok(Ok(Answer::Done))))
        });
    }

    /// The same question until its deadline: what a holder kept of it is of no use for another one.
    fn ask_with_token(&self, state: &mut State, token: TokenQuestion) {
        let holding = (token.group, token.slot, token.holder);
        state.tokens.begin(holding);
        let (net, clock) = (Arc::clone(&self.net), Arc::clone(&self.clock));
        let pause = (self.timers.audit_answer / 5).min(self.timers.probe).max(Duration::from_millis(10));
        state.asking.spawn(async move { Answered::Token(holding, answer_to(&*net, &clock, token, pause).await) });
    }

    /// Groups of which our state is damaged: whoever stewards them sends their record when it hears that we have none.
    fn ask_for_lost(&mut self, state: &State) {
        let others: Vec<PeerKey> = state
            .peers
            .iter()
            .map(|view| view.peer)
            .filter(|peer| *peer != self.me.peer)
            .take(ASKED_FOR_LOST)
            .collect();
        if others.is_empty() {
            return;
        }
        let now = self.lost.len().min(LOST_AT_ONCE);
        for group in self.lost.drain(..now) {
            for to in &others {
                self.outbox.say(*to, Say::Compare { group, generation: 0, digest: [0; 32] });
            }
        }
    }
}

/// What a holder says to a question with a token, asked until its deadline.
async fn answer_to(net: &dyn StewardNet, clock: &Clock, token: TokenQuestion, pause: Duration) -> TokenAnswer {
    const BUSY: Answer = Answer::Refused(Refusal::Busy);
    let began = clock();
    let mut last = TokenAnswer::Unreached;
    loop {
        let request = Request::Challenge(Box::new(token.question.clone()));
        match timeout(PATIENCE, net.request(token.holder, request)).await.unwrap_or(Err(TransferError::TimedOut)) {
            Ok(Answer::Audit(bytes)) => return TokenAnswer::Said(Answer::Audit(bytes)),
            Ok(answer) if answer == BUSY => last = TokenAnswer::Said(answer),
            // We are going down: nothing follows from what was not asked to its end.
            Err(TransferError::ShuttingDown) => return TokenAnswer::Unreached,
            // What it saw before it went counts.
            Err(TransferError::Unreachable(_)) => {}
            Ok(_) | Err(_) => last = TokenAnswer::Silent,
        }
        tokio::time::sleep(pause).await;
        let now = clock();
        // A clock that was set back makes nobody wait for ever.
        if now >= token.deadline || now < began {
            return last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_live_for_ever() {
        let (early, now, ahead) = (Timestamp(500), Timestamp(1000), Timestamp(9000));
        let heard = |before, last, now| sign_of_life(before, last, now, 600);
        assert_eq!(heard(None, early, now), Some(early));
        assert_eq!(heard(Some(early), early, now), None, "nothing new");
        assert_eq!(heard(Some(early), now, now), Some(now));
        assert_eq!(heard(None, Timestamp(100), now), None, "long ago");
        assert_eq!(heard(None, ahead, now), None);
        assert_eq!(heard(Some(ahead), ahead, Timestamp(1001)), None, "at no beat");
        assert_eq!(heard(Some(ahead), Timestamp(9001), now), Some(now), "heard again, by the old count");
        assert_eq!(heard(Some(ahead), now, now), Some(now), "heard again, by the new one");
    }
}
