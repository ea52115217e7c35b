//! A holder that speaks for itself: it knows which stewards watch what it holds, tells them what it lost before they ask, and leaves
//! politely.
//!
//! [`Holdings`] is the door. Who deals with shards says here what it saw ([`Holdings::watched`], [`Holdings::lost`]) and never waits; the
//! operator plans a departure here. Behind it `speaker` speaks to the stewards, `book` has who watches what, `departure` the
//! plan, and all of it is kept in one small file: a lost one is learned again within a day, from the stewards' own questions.
//!
//! The stewards decide; nothing here orders anything.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cairn_proto::{GroupId, Mandate, Ordinals, PeerKey, Slot, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

mod book;
mod departure;
pub mod held;
mod kept;
pub mod report;
mod speaker;
#[cfg(test)]
mod tests;

pub use self::{
    book::Sums,
    departure::{Departure, Phase},
    held::{Held, HeldGroup},
};
use self::{
    book::{Book, Losses},
    departure::Answers,
    report::{Census, LeaveStatus},
    speaker::Speaker,
};
use crate::{
    audits::answer::{LossSink, OwnLoss},
    stewardship::{Stewardship, files::Disk, ports::StewardNet},
    store::{Clock, ScrubReport},
    timers::Timers,
};

/// Who watches a group that we hold something of, by a mandate or an order that was found good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchers {
    /// The stewards.
    pub stewards: Vec<PeerKey>,
    /// The mandate's generation, and changes of stewards since: what is newer replaces what is older.
    pub version: (u64, usize),
    /// Data shards of a stripe: so many others rebuild one of it.
    pub data: u8,
    /// Copies of each shard that the owner asked for.
    pub replicas: u8,
    /// When the mandate is over.
    pub ends: Timestamp,
    /// Which of them asked last what we have, and when.
    pub asked: Option<(PeerKey, Timestamp)>,
    /// When they last gave us shards.
    pub ordered: Option<Timestamp>,
}

impl Watchers {
    /// The stewards of a mandate after so many changes. `asked`: by whom and when, if it was by a question.
    #[must_use]
    pub fn new(mandate: &Mandate, stewards: Vec<PeerKey>, changes: usize, asked: Option<(PeerKey, Timestamp)>) -> Self {
        Self {
            stewards,
            version: (mandate.generation, changes),
            data: mandate.ticket.code().data() as u8,
            replicas: mandate.replicas,
            ends: mandate.ends,
            asked,
            ordered: None,
        }
    }
}

/// What the last scrub found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// When it ended.
    pub at: Timestamp,
    /// Shards read.
    pub checked: u64,
    /// Damaged ones.
    pub damaged: usize,
    /// Missing ones.
    pub missing: usize,
}

/// What it works with.
pub struct HoldingsConfig {
    /// Its folder, made when missing.
    pub folder: PathBuf,
    /// What we hold.
    pub held: Arc<dyn Held>,
    /// How long everything takes.
    pub timers: Timers,
    /// The time.
    pub clock: Clock,
    /// Our own stewardships: their other stewards are told too when we leave.
    pub stewardship: Stewardship,
}

/// A holder's knowledge of its stewards, cheap to clone. Forgets what it is told until [`Holdings::start`].
#[derive(Clone, Default)]
pub struct Holdings(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Asked for each shard that is offered.
    leaving: AtomicBool,
    /// The speaker has something to do.
    wake: Notify,
    /// It did something.
    did: Notify,
    running: OnceLock<Running>,
    cancel: CancellationToken,
}

struct Running {
    held: Arc<dyn Held>,
    clock: Clock,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// All that is known.
#[derive(Default)]
struct State {
    book: Book,
    losses: Losses,
    departure: Option<Departure>,
    answers: Answers,
    scrubbed: Option<Scrubbed>,
    /// When what is on disk was written; a time that is yet to come shows a clock that was set back.
    saved: Option<Timestamp>,
    /// What is on disk is older than this. A plan is written at once, the rest from time to time.
    dirty: bool,
    urgent: bool,
}

impl Holdings {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is kept, and begins to speak. Once: a second call does nothing.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub async fn start(&self, config: HoldingsConfig, net: Arc<dyn StewardNet>) -> io::Result<()> {
        self.start_on(config, net, Arc::new(crate::stewardship::files::RealDisk)).await
    }

    async fn start_on(&self, config: HoldingsConfig, net: Arc<dyn StewardNet>, disk: Arc<dyn Disk>) -> io::Result<()> {
        let HoldingsConfig { folder, held, timers, clock, stewardship } = config;
        let files =
            tokio::task::spawn_blocking(move || kept::Kept::open(folder, disk)).await.map_err(io::Error::other)??;
        {
            let mut state = self.state();
            if let Some(kept) = files.1 {
                kept.into_state(&mut state);
            }
            let leaving = state.departure.as_ref().is_some_and(Departure::takes_nothing);
            self.0.leaving.store(leaving, Ordering::SeqCst);
        }
        let running = Running { held: Arc::clone(&held), clock: Arc::clone(&clock), task: Mutex::new(None) };
        if self.0.running.set(running).is_err() {
            return Ok(());
        }
        let speaker = Speaker { holdings: self.clone(), held, timers, clock, stewardship, net, files: files.0 };
        let task = tokio::spawn(speaker.run(self.0.cancel.clone()));
        if let Some(running) = self.0.running.get() {
            *running.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        Ok(())
    }

    /// Ends it; what was learned is written down.
    pub async fn close(&self) {
        self.0.cancel.cancel();
        let Some(running) = self.0.running.get() else { return };
        let task = running.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    /// Whether this node takes no shards any more, because it leaves.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::SeqCst)
    }

    /// Stewards showed that they watch a group. Nothing is noted of groups of which we hold nothing: anybody can make up those.
    pub fn watched(&self, group: GroupId, by: Watchers) {
        let Some(running) = self.0.running.get() else { return };
        if running.held.slot(group).is_none() {
            return;
        }
        let mut state = self.state();
        let news = state.book.note(group, by);
        state.dirty |= news;
        let wanted = news && state.losses.waits_for(&group);
        drop(state);
        if wanted {
            self.0.wake.notify_one();
        }
    }

    /// A read found this shard damaged or gone, or an auditor was told so.
    pub fn lost(&self, group: GroupId, slot: Slot, ordinals: Ordinals) {
        let Some(running) = self.0.running.get() else { return };
        let now = (running.clock)();
        let mut state = self.state();
        if state.losses.add(group, slot, &ordinals, now) {
            state.dirty = true;
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// A scrub ended.
    pub fn scrubbed(&self, report: &ScrubReport) {
        let Some(running) = self.0.running.get() else { return };
        let (at, damaged, missing) = ((running.clock)(), report.damaged.len(), report.missing.len());
        {
            let mut state = self.state();
            state.scrubbed = Some(Scrubbed { at, checked: report.checked, damaged, missing });
            state.dirty = true;
        }
        for shard in report.damaged.iter().chain(&report.missing) {
            self.lost(shard.group, shard.slot, [shard.ordinal].into_iter().collect());
        }
    }

    /// Begins or changes a departure. Stands until [`Holdings::stay`], also after a restart.
    pub fn leave(&self, at: Timestamp) {
        let now = self.0.running.get().map_or(at, |running| (running.clock)());
        let mut state = self.state();
        state.departure = Some(Departure { at, since: now, phase: Phase::Leaving });
        state.answers = Answers::default();
        self.changed_plan(state);
    }

    /// Calls the departure off. Whether there was one.
    pub fn stay(&self) -> bool {
        let mut state = self.state();
        let Some(departure) = state.departure.as_mut().filter(|departure| departure.takes_nothing()) else {
            return false;
        };
        departure.phase = Phase::Staying { tries: 0 };
        self.changed_plan(state);
        true
    }

    fn changed_plan(&self, mut state: MutexGuard<'_, State>) {
        (state.dirty, state.urgent) = (true, true);
        let leaving = state.departure.as_ref().is_some_and(Departure::takes_nothing);
        self.0.leaving.store(leaving, Ordering::SeqCst);
        drop(state);
        self.0.wake.notify_one();
    }

    /// How the departure goes, or what one would cost. Blocking: looks at all that is held.
    #[must_use]
    pub fn leave_status(&self) -> LeaveStatus {
        let Some(running) = self.0.running.get() else { return LeaveStatus::default() };
        let groups = running.held.groups();
        let state = self.state();
        LeaveStatus::new(&groups, &state, (running.clock)())
    }

    /// What is known of how stewards see this node. Blocking, as above.
    #[must_use]
    pub fn census(&self) -> Census {
        let Some(running) = self.0.running.get() else { return Census::default() };
        let (groups, now) = (running.held.groups(), (running.clock)());
        let state = self.state();
        Census::new(&groups, &state, now)
    }

    /// Waits until the speaker did something more; who looks first and then waits may miss one, so nobody waits for long.
    pub async fn did_something(&self) {
        self.0.did.notified().await;
    }
}

/// What an audit made us find out about ourselves. Anybody can ask for what we never had.
impl LossSink for Holdings {
    fn lost(&self, loss: OwnLoss) {
        if self.0.running.get().is_none_or(|running| running.held.slot(loss.group) != Some(loss.slot)) {
            return;
        }
        Self::lost(self, loss.group, loss.slot, [loss.ordinal].into_iter().collect());
    }
}
