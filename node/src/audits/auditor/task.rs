//! The task that asks and reports: waits until something is due, has a few challenges and reports under way, takes note of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cairn_core::{
    audit::schedule::Due,
    steward::wire::{Answer, Refusal, Request},
};
use cairn_proto::{PeerKey, StatementId, Timestamp};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Shared, Snapshot,
    ask::{Asked, Asker},
    book::{Holding, Seen, Sent, findings},
};
use crate::standing::ports::Witness;

/// Challenges that are open at a time: each waits for its deadline when nobody answers.
const OPEN_MAX: usize = 64;
/// ... of them on their way: audits are never what fills a line.
pub(super) const LANES: usize = 4;
/// Challenges that may begin within a minute.
const A_MINUTE: u32 = 240;
/// Reports under way at a time.
const REPORTS_MAX: usize = 4;
/// How long a report may take, dialling included.
const PATIENCE: Duration = Duration::from_secs(30);
/// The network answers from memory who is known.
const PEERS_PATIENCE: Duration = Duration::from_secs(5);
/// Shortest wait.
const BREATH: Duration = Duration::from_millis(10);

/// What drives audits.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) asker: Asker,
    pub(super) witness: Arc<dyn Witness>,
    pub(super) rng: ChaCha20Rng,
    /// Longest wait, and how old what is known of peers may be.
    pub(super) beat: Duration,
    /// Silence of everybody after which it is us who hear nothing.
    pub(super) late_ms: u64,
}

enum Done {
    Asked(Due, Asked),
    Said(Holding, PeerKey, Sent),
}

#[derive(Default)]
struct State {
    open: usize,
    saying: usize,
    last: BTreeMap<PeerKey, StatementId>,
    minute: Option<(Instant, u32)>,
    looked: Option<Instant>,
}

impl Task {
    pub(super) async fn run(mut self) {
        let (mut state, mut work) = (State::default(), JoinSet::new());
        let cancel = self.shared.cancel.clone();
        loop {
            if state.looked.is_none_or(|at| at.elapsed() >= self.beat) {
                self.look(&mut state).await;
            }
            self.begin(&mut state, &mut work);
            let wait = self.wait();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(done) = work.join_next(), if !work.is_empty() => self.finish(&mut state, done.ok()),
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Who is there, and of which domain.
    async fn look(&self, state: &mut State) {
        state.looked = Some(Instant::now());
        let Ok(peers) = timeout(PEERS_PATIENCE, self.asker.net.peers()).await else { return };
        let now = (self.asker.clock)();
        let heard = peers.iter().any(|view| now.ms_since(view.last_heard) <= self.late_ms);
        let domains = peers.into_iter().map(|view| (view.peer, view.domain)).collect();
        *self.shared.peers() = Snapshot { domains };
        // Whom nobody says anything to has no line.
        self.shared.deaf.store(!heard, Ordering::Relaxed);
        let mut book = self.shared.book();
        book.expire(now);
        drop(book);
    }

    fn blind(&self) -> bool {
        self.shared.deaf.load(Ordering::Relaxed) || (self.shared.cut_off)()
    }

    fn wait(&self) -> Duration {
        let now = (self.asker.clock)();
        let next = self.shared.book().next_challenge();
        next.map_or(self.beat, |at| Duration::from_millis(at.ms_since(now))).clamp(BREATH, self.beat.max(BREATH))
    }

    fn begin(&mut self, state: &mut State, work: &mut JoinSet<Done>) {
        let now = (self.asker.clock)();
        // The guard lives for a statement each time: nothing waits with it.
        let reports = self.shared.book().reports(now, REPORTS_MAX - state.saying);
        for (holding, steward, tally) in reports {
            state.saying += 1;
            let net = Arc::clone(&self.asker.net);
            work.spawn(async move {
                let request = Request::Findings(Box::new(findings(holding, &tally)));
                let said = timeout(PATIENCE, net.request(steward, request)).await;
                let sent = match said {
                    Ok(Ok(Answer::Done)) => Sent::Taken,
                    // It drew another, or watches the group no more.
                    Ok(Ok(Answer::Refused(Refusal::NotSteward))) => Sent::Unwanted,
                    _ => Sent::Again(tally),
                };
                Done::Said(holding, steward, sent)
            });
        }
        if self.blind() {
            return;
        }
        while state.open < OPEN_MAX && paced(state) {
            let Some((due, ticket, root)) = self.shared.book().due(now, &mut self.rng) else { return };
            if let Some(minute) = &mut state.minute {
                minute.1 += 1;
            }
            state.open += 1;
            let mut nonce = [0; 32];
            self.rng.fill_bytes(&mut nonce);
            let (asker, previous) = (self.asker.clone(), state.last.get(&due.holder).copied());
            work.spawn(async move { Done::Asked(due, asker.ask(due, ticket, root, nonce, previous).await) });
        }
    }

    fn finish(&self, state: &mut State, done: Option<Done>) {
        let now = (self.asker.clock)();
        match done {
            Some(Done::Asked(due, asked)) => self.asked(state, due, asked, now),
            Some(Done::Said(holding, steward, sent)) => {
                state.saying = state.saying.saturating_sub(1);
                self.shared.book().reported(&holding, &steward, sent, now);
            }
            None => tracing::error!("an audit ended by a broken invariant of ours"),
        }
    }

    fn asked(&self, state: &mut State, due: Due, (seen, answer): Asked, now: Timestamp) {
        state.open = state.open.saturating_sub(1);
        if let Some(answer) = answer {
            // As many as holders that are audited.
            let known = self.shared.book().holders();
            state.last.retain(|holder, _| known.contains(holder));
            state.last.insert(due.holder, answer);
        }
        let silent = matches!(seen, Seen::Silent { .. } | Seen::Busy);
        let seen = if silent && self.blind() { Seen::Blind } else { seen };
        let told = self.shared.book().settle(&due.holder, &due.target, seen, now);
        told.saw.into_iter().for_each(|saw| self.witness.saw(due.holder, saw));
        if let Some(evidence) = told.learned {
            self.witness.learned(evidence);
        }
    }
}

/// Whether another may begin within this minute.
fn paced(state: &mut State) -> bool {
    let minute = state.minute.get_or_insert((Instant::now(), 0));
    if minute.0.elapsed() >= Duration::from_secs(60) {
        *minute = (Instant::now(), 0);
    }
    minute.1 < A_MINUTE
}
