//! One direction of this node's line: who wants to pass waits here for its turn.
//!
//! Without a limit nobody takes a lock, but for restores and for background work, which look at each other once for a piece. With
//! one, all wait in the [`Gate`]; a task of its own lets them pass, so that no waiter's time depends on another's being polled.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cairn_core::courtesy::{
    WaitMs,
    deference::Deference,
    gate::{Gate, SLICE, Ticket, Turn},
};
use cairn_proto::{Timestamp, wire::Priority};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::store::Clock;

/// How long a piece waits at most; tests make it short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Background work that is held back for restores goes all the same after this.
    pub(super) defer: Duration,
    /// A piece with a place in the queue goes all the same after this, and is waited for by those behind it: less than the
    /// fifteen seconds after which a peer thinks that we are gone.
    pub(super) piece: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { defer: Duration::from_secs(5), piece: Duration::from_secs(10) }
    }
}

/// What moves at once without a limit.
const STEP: usize = 64 * 1024;
/// A transfer that would take longer than this is not begun: it is told to come again. A requester gives one two minutes.
const BEGIN_MAX_MS: u64 = 30_000;
/// Longest time after which somebody is told to come again.
const AGAIN_MAX_MS: u64 = 60_000;

/// What went out, and whether something was going out all the time.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    under_way: AtomicUsize,
    rested: AtomicBool,
}

/// Something that is going out, until dropped.
pub struct UnderWay<'a>(&'a Meter);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.rested.store(true, Ordering::Relaxed);
        }
    }
}

impl Meter {
    /// Something begins to go out.
    pub fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// So many bytes went.
    pub fn went(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes since the last time, and whether something was going out all the while.
    pub(super) fn take(&self) -> (u64, bool) {
        let rested = self.rested.swap(false, Ordering::Relaxed) || self.under_way.load(Ordering::Relaxed) == 0;
        (self.bytes.swap(0, Ordering::Relaxed), !rested)
    }
}

/// What both directions know of restores: on either they are what background work gives way to.
pub(super) struct Restores {
    steady: Clock,
    defer: Mutex<Deference>,
}

/// A clock that nobody sets.
pub(super) fn steady() -> Clock {
    let began = Instant::now();
    Arc::new(move || Timestamp(began.elapsed().as_millis() as u64))
}

impl Restores {
    pub(super) fn new(steady: Clock) -> Self {
        let defer = Mutex::new(Deference::new(steady()));
        Self { steady, defer }
    }

    fn now(&self) -> Timestamp {
        (self.steady)()
    }

    fn lock(&self) -> MutexGuard<'_, Deference> {
        self.defer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Gated {
    gate: Gate,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// One direction.
pub struct Line {
    restores: Arc<Restores>,
    patience: Patience,
    limited: AtomicBool,
    gated: Mutex<Gated>,
    changed: Notify,
}

/// Too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded;

impl Line {
    pub(super) fn new(restores: Arc<Restores>, patience: Patience) -> Arc<Self> {
        let gated = Gated { gate: Gate::new(None, restores.now()), waiting: BTreeMap::new() };
        Arc::new(Self {
            restores,
            patience,
            limited: AtomicBool::new(false),
            gated: Mutex::new(gated),
            changed: Notify::new(),
        })
    }

    /// Lets pass whoever's turn it is, as long as it is polled.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let wait = self.let_pass();
            tokio::select! {
                () = self.changed.notified() => {}
                () = pause(wait) => {}
            }
        }
    }

    /// Lets pass whoever's turn is now; when the next one's is.
    pub(super) fn let_pass(&self) -> Option<WaitMs> {
        self.lock().let_pass(self.restores.now())
    }

    fn lock(&self) -> MutexGuard<'_, Gated> {
        self.gated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_limit(&self, bytes_per_s: Option<u64>) {
        self.lock().gate.set_rate(bytes_per_s, self.restores.now());
        self.limited.store(bytes_per_s.is_some(), Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// How much should pass at a time: small on a limited line, so that others get their turn.
    #[must_use]
    pub fn step(&self) -> usize {
        if self.limited.load(Ordering::Relaxed) { SLICE as usize } else { STEP }
    }

    /// Whether so many bytes may pass at once; then they count as passed.
    #[must_use]
    pub fn passes_now(&self, class: Priority, bytes: usize) -> bool {
        if self.limited.load(Ordering::Relaxed) {
            return false;
        }
        match class {
            Priority::High => {
                let now = self.restores.now();
                self.restores.lock().restored(bytes as u64, now);
                true
            }
            Priority::Low => {
                let now = self.restores.now();
                self.restores.lock().may_pass(bytes as u64, now).is_ok()
            }
            Priority::Critical | Priority::Normal => true,
        }
    }

    /// Waits until so many bytes may pass. Whoever goes away meanwhile leaves no trace.
    ///
    /// # Errors
    /// Too many wait already.
    pub async fn pass(&self, class: Priority, bytes: usize) -> Result<(), Crowded> {
        if class == Priority::Low {
            self.give_way(bytes).await;
        }
        if self.limited.load(Ordering::Relaxed) {
            self.in_turn(class, bytes).await?;
        }
        if class == Priority::High {
            let now = self.restores.now();
            self.restores.lock().restored(bytes as u64, now);
        }
        Ok(())
    }

    /// One step of a transfer that has begun, or a slice of a rebuild: within ten seconds in any case, because the other side
    /// takes longer silence for death. What goes before its turn is waited for by the others.
    pub async fn pass_piece(&self, class: Priority, bytes: usize) {
        let passed = tokio::time::timeout(self.patience.piece, self.pass(class, bytes)).await;
        if !matches!(passed, Ok(Ok(()))) {
            self.spend(bytes);
        }
    }

    /// Background work beside restores, for so long at most.
    async fn give_way(&self, bytes: usize) {
        let until = Instant::now() + self.patience.defer;
        while Instant::now() < until {
            let now = self.restores.now();
            let Err(WaitMs(wait)) = self.restores.lock().may_pass(bytes as u64, now) else { return };
            let wait = (Instant::now() + Duration::from_millis(wait)).min(until);
            tokio::time::sleep_until(wait).await;
        }
    }

    async fn in_turn(&self, class: Priority, bytes: usize) -> Result<(), Crowded> {
        let (ticket, passed) = {
            let mut gated = self.lock();
            let ticket = gated.gate.ask(class, bytes as u64).ok_or(Crowded)?;
            let (sender, mut passed) = oneshot::channel();
            gated.waiting.insert(ticket, sender);
            gated.let_pass(self.restores.now());
            if passed.try_recv().is_ok() {
                return Ok(());
            }
            (ticket, passed)
        };
        let _place = Place { line: self, ticket };
        self.changed.notify_one();
        // The other end is dropped with the place only.
        let _ = passed.await;
        Ok(())
    }

    /// What passed without asking.
    pub fn spend(&self, bytes: usize) {
        if self.limited.load(Ordering::Relaxed) {
            self.lock().gate.spend(bytes as u64, self.restores.now());
        }
    }

    /// Whether a transfer may begin, of somebody who has `owed` bytes of others before it; else when it should come again, in
    /// milliseconds. What nobody is before is always begun.
    ///
    /// # Errors
    /// When to ask again.
    pub fn may_begin(&self, class: Priority, owed: u64, bytes: u64) -> Result<(), u64> {
        if !self.limited.load(Ordering::Relaxed) {
            return Ok(());
        }
        let gated = self.lock();
        if owed == 0 && gated.gate.waiting() == 0 {
            return Ok(());
        }
        match gated.gate.expected_ms(class, owed.saturating_add(bytes)) {
            ..=BEGIN_MAX_MS => Ok(()),
            expected => Err((expected - BEGIN_MAX_MS).clamp(1000, AGAIN_MAX_MS)),
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }
}

impl Gated {
    /// Until when nobody's turn comes; `None` when nobody waits.
    fn let_pass(&mut self, now: Timestamp) -> Option<WaitMs> {
        loop {
            match self.gate.grant(now) {
                Turn::Passed(ticket) => {
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        let _ = waiting.send(());
                    }
                }
                Turn::Wait(wait) => return Some(wait),
                Turn::Nobody => return None,
            }
        }
    }
}

async fn pause(wait: Option<WaitMs>) {
    match wait {
        Some(WaitMs(ms)) => tokio::time::sleep(Duration::from_millis(ms.max(1))).await,
        None => std::future::pending().await,
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    line: &'a Line,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut gated = self.line.lock();
        if gated.waiting.remove(&self.ticket).is_some() {
            gated.gate.cancel(self.ticket);
            drop(gated);
            // Whoever was behind it may go sooner.
            self.line.changed.notify_one();
        }
    }
}
