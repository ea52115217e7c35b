//! The one task that speaks to our stewards: of what was lost, and of a departure. Asks a few at a time, and never more than once in a
//! while.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cairn_core::steward::wire::{Answer, Notice, Request, care::NOTICE_GROUPS_MAX};
use cairn_proto::{GroupId, PeerKey, Timestamp};
use futures::StreamExt as _;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Departure, Held, HeldGroup, Holdings, Phase, State,
    departure::{STAYING_TRIES, Verdict},
    kept::Kept,
};
use crate::{
    overlay::TransferError,
    stewardship::{Stewardship, files::StateFiles, ports::StewardNet},
    store::Clock,
    timers::Timers,
};

/// Notices on their way at the same time; a dead steward takes its place for as long as [`PATIENCE`].
const AT_ONCE: usize = 16;
/// How long one may take, dialling included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Groups of which losses are told before anything else is looked at.
const LOSSES_AT_ONCE: usize = 64;

/// What speaks.
pub(super) struct Speaker {
    pub(super) holdings: Holdings,
    pub(super) held: Arc<dyn Held>,
    pub(super) timers: Timers,
    pub(super) clock: Clock,
    pub(super) stewardship: Stewardship,
    pub(super) net: Arc<dyn StewardNet>,
    pub(super) files: StateFiles,
}

/// When what is due.
struct Due {
    ask: Instant,
    look: Instant,
    save: Instant,
}

impl Speaker {
    /// Works until the token fires; then what was learned is written down.
    pub(super) async fn run(self, cancel: CancellationToken) {
        let now = Instant::now();
        let mut due = Due { ask: now, look: now, save: now + self.timers.save };
        if cancel.run_until_cancelled(self.find_damage()).await.is_some() {
            while self.wait(&due, &cancel).await && cancel.run_until_cancelled(self.work(&mut due)).await.is_some() {}
        }
        if self.holdings.state().dirty {
            self.save().await;
        }
    }

    async fn wait(&self, due: &Due, cancel: &CancellationToken) -> bool {
        let now = (self.clock)();
        let next = {
            let state = self.holdings.state();
            let told =
                state.losses.next(&state.book).map(|at| Instant::now() + Duration::from_millis(at.ms_since(now)));
            let ask = state.departure.as_ref().map(|_| due.ask);
            let look = (!state.losses.all().is_empty()).then_some(due.look);
            [told, ask, look].into_iter().flatten().fold(due.save, Instant::min)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => false,
            () = self.holdings.0.wake.notified() => true,
            () = sleep_until(next) => true,
        }
    }

    async fn work(&self, due: &mut Due) {
        // A plan that changed is on disk before anybody is told.
        let urgent = std::mem::take(&mut self.holdings.state().urgent);
        if urgent {
            self.save().await;
            due.ask = Instant::now();
        }
        due.look = Instant::now() + self.timers.tell;
        self.heal();
        self.tell_losses().await;
        let departure = self.holdings.state().departure;
        if let Some(departure) = departure.filter(|_| due.ask <= Instant::now()) {
            let left = Duration::from_millis(departure.at.ms_since((self.clock)()));
            let pause = if left.is_zero() { self.timers.leave_ask } else { self.timers.leave_ask.min(left) };
            due.ask = Instant::now() + pause;
            self.round(departure).await;
        }
        if due.save <= Instant::now() {
            due.save = Instant::now() + self.timers.save;
            self.forget_deleted().await;
            if self.holdings.state().dirty {
                self.save().await;
            }
        }
        self.holdings.0.did.notify_waiters();
    }

    async fn groups(&self) -> Vec<HeldGroup> {
        let held = Arc::clone(&self.held);
        tokio::task::spawn_blocking(move || held.groups()).await.unwrap_or_default()
    }

    /// What the store knew to be damaged before we ran; and what is watched and not held any more is forgotten.
    async fn find_damage(&self) {
        let (groups, now) = (self.groups().await, (self.clock)());
        let held: BTreeSet<GroupId> = groups.iter().map(|group| group.group).collect();
        let mut state = self.holdings.state();
        state.book.keep(|group| held.contains(group));
        for group in groups {
            state.dirty |= state.losses.add(group.group, group.slot, &group.damaged, now);
        }
    }

    fn heal(&self) {
        let (now, after_ms) = ((self.clock)(), self.timers.tell.as_millis() as u64);
        let mut state = self.holdings.state();
        let state = &mut *state;
        state.dirty |= state.losses.heal(&state.book, now, after_ms, |group, slot| self.held.sound(group, slot));
    }

    /// What was deleted meanwhile is no loss any more.
    async fn forget_deleted(&self) {
        if self.holdings.state().losses.all().is_empty() {
            return;
        }
        let damaged = self.groups().await.into_iter().map(|group| (group.group, group.damaged)).collect();
        // First what came back since, which counts.
        self.heal();
        let mut state = self.holdings.state();
        state.losses.forget(&damaged, (self.clock)(), self.timers.tell.as_millis() as u64);
        state.dirty = true;
    }

    async fn tell_losses(&self) {
        let (now, pause_ms) = ((self.clock)(), self.timers.tell.as_millis() as u64);
        let lost = {
            let mut state = self.holdings.state();
            let state = &mut *state;
            state.losses.due(&state.book, now, pause_ms, LOSSES_AT_ONCE)
        };
        let notices = lost.into_iter().flat_map(|(group, slot, ordinals, stewards)| {
            stewards.into_iter().map(move |to| (to, Notice::Lost { group, slot, ordinals }))
        });
        self.say(notices, |state, to, notice, answer| {
            if let (Notice::Lost { group, ordinals, .. }, Answer::Done) = (notice, answer) {
                state.losses.noted(group, ordinals, to);
            }
        })
        .await;
    }

    /// Says all of it, a few at a time, and has each answer noted.
    async fn say(
        &self,
        notices: impl IntoIterator<Item = (PeerKey, Notice)>,
        mut note: impl FnMut(&mut State, PeerKey, &Notice, Answer),
    ) {
        let asked = futures::stream::iter(notices)
            .map(|(to, notice)| async move {
                let asked = self.net.request(to, Request::Notice(notice.clone()));
                let answer = timeout(PATIENCE, asked).await.unwrap_or(Err(TransferError::TimedOut));
                (to, notice, answer)
            })
            .buffer_unordered(AT_ONCE);
        futures::pin_mut!(asked);
        while let Some((to, notice, answer)) = asked.next().await {
            match answer {
                Ok(answer) => note(&mut self.holdings.state(), to, &notice, answer),
                Err(error) => tracing::debug!(peer = %to.short(), %error, "a steward did not hear a notice"),
            }
        }
    }

    /// One round of telling every steward that we leave, or stay.
    async fn round(&self, departure: Departure) {
        let groups = self.groups().await;
        let mut to = self.whom_to_tell(&groups).await;
        to.remove(&self.net.me());
        match departure.phase {
            Phase::Staying { .. } => self.say_we_stay(departure, to.into_keys().collect()).await,
            _ => self.ask(departure, &groups, to).await,
        }
    }

    /// The stewards of what we hold, each with its groups in ascending order, and the other stewards of what we watch.
    async fn whom_to_tell(&self, groups: &[HeldGroup]) -> BTreeMap<PeerKey, Vec<GroupId>> {
        let fellows = self.stewardship.fellows().await;
        let mut to: BTreeMap<PeerKey, Vec<GroupId>> = fellows.into_iter().map(|peer| (peer, Vec::new())).collect();
        let state = self.holdings.state();
        for group in groups {
            let stewards = state.book.get(&group.group).map_or(&[][..], |by| &by.stewards);
            stewards.iter().for_each(|steward| to.entry(*steward).or_default().push(group.group));
        }
        to
    }

    async fn ask(&self, departure: Departure, groups: &[HeldGroup], to: BTreeMap<PeerKey, Vec<GroupId>>) {
        let leaving = |groups: &[GroupId]| Notice::Leaving { at: departure.at, groups: groups.to_vec() };
        let notices = to.into_iter().flat_map(|(to, groups)| {
            let few: Vec<Notice> = match &groups[..] {
                [] => vec![leaving(&[])],
                some => some.chunks(NOTICE_GROUPS_MAX).map(leaving).collect(),
            };
            few.into_iter().map(move |notice| (to, notice))
        });
        self.say(notices, |state, to, notice, answer| {
            if let (Notice::Leaving { groups, .. }, Answer::Kept(kept)) = (notice, answer)
                && kept.len() == groups.len()
            {
                groups.iter().zip(kept).for_each(|(group, kept)| state.answers.note(*group, to, kept));
            }
        })
        .await;
        self.judge(departure, groups, (self.clock)());
    }

    fn judge(&self, asked: Departure, groups: &[HeldGroup], now: Timestamp) {
        let mut state = self.holdings.state();
        let state = &mut *state;
        let held: BTreeSet<GroupId> = groups.iter().map(|group| group.group).collect();
        let of = |group: &GroupId| state.book.get(group).filter(|_| held.contains(group)).map(|by| by.stewards.clone());
        state.answers.keep(of);
        state.answers.rounds += 1;
        let elsewhere =
            |group: &GroupId| state.answers.verdict(group, state.book.get(group), now) == Verdict::Elsewhere;
        let all = held.iter().all(elsewhere);
        // Another plan was made meanwhile: this round was not about it.
        let same = |plan: &&mut Departure| plan.at == asked.at && plan.takes_nothing();
        if let Some(plan) = state.departure.as_mut().filter(same)
            && plan.after_round(all, now)
        {
            tracing::info!(phase = ?plan.phase, groups = groups.len(), "this node's departure");
            (state.dirty, state.urgent) = (true, true);
        }
    }

    async fn say_we_stay(&self, departure: Departure, to: Vec<PeerKey>) {
        let (wanted, mut heard) = (to.len(), 0);
        self.say(to.into_iter().map(|to| (to, Notice::Staying)), |_, _, _, answer| {
            heard += usize::from(answer == Answer::Done);
        })
        .await;
        let mut state = self.holdings.state();
        if state.departure != Some(departure) {
            return;
        }
        let Phase::Staying { tries } = departure.phase else { return };
        let over = heard == wanted || tries + 1 >= STAYING_TRIES;
        state.departure = (!over).then_some(Departure { phase: Phase::Staying { tries: tries + 1 }, ..departure });
        state.dirty = true;
    }

    async fn save(&self) {
        let kept = {
            let mut state = self.holdings.state();
            state.dirty = false;
            let now = (self.clock)();
            state.saved = Some(now);
            Kept::of(&state, now)
        };
        let files = self.files.clone();
        let written = tokio::task::spawn_blocking(move || kept.write(&files)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "what is known of our stewards and our plans cannot be written; it is tried again");
            self.holdings.state().dirty = true;
        }
    }
}
