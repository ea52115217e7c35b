//! The auditor's side: stewards have us ask holders of our colour for leaves, and we tell each what we found for it.
//!
//! We trust no steward: what we ask for is the owner's sheet, and what is missing is held against a holder only where it is sure to have
//! had something. Nothing of it survives a restart: stewards give their duties anew each round, and what was not told yet is found again.
//! The leaves: `book` (what is audited for whom, what was seen), `ask` (one challenge), `task` (does it).
//!
//! # Invariants
//!
//! - **SEP-1** We audit no slot but that of our own colour. Enforced by [`Auditor::duty`]; attacked by `tests::another_colour_is_refused`.
//! - **TRUST-1** Whoever makes up a group, or has us ask for what a holder never got, does its name no harm. Enforced by
//!   [`book::Book::settle`]; attacked by `tests::what_a_holder_never_had_is_not_held_against_it`.
//! - **NET-2** What strangers have us keep and ask is bounded, for each domain and in all. Enforced by [`book::Book::take`]; attacked by
//!   `tests::no_domain_fills_the_book`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use cairn_core::{
    colour::may_hold,
    steward::wire::{Answer, Duty, Refusal},
};
use cairn_proto::{Domain, PeerKey, SlotSheet};
use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

mod ask;
mod book;
mod task;
#[cfg(test)]
mod tests;

pub use self::book::{AuditStatus, Owing};
use self::{
    ask::Asker,
    book::{Book, Limits, Spans},
    task::Task,
};
use crate::{standing::ports::Witness, stewardship::ports::StewardNet, store::Clock, timers::Timers};

/// Parts of a report's time after which a loss is told, or what was not taken is told again.
const SOON: u64 = 240;

/// What an auditor works with.
pub struct AuditorConfig {
    /// The node's identity.
    pub key: SigningKey,
    /// The node's pinned domain.
    pub domain: Domain,
    /// How long everything takes.
    pub timers: Timers,
    /// The time.
    pub clock: Clock,
    /// Fresh random bytes: what is asked for, nobody foresees.
    pub entropy: [u8; 32],
    /// Whether we may be cut off ourselves: then nobody is judged.
    pub cut_off: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// A node's audits of others, cheap to clone. Says it is busy until [`Auditor::start`].
#[derive(Clone, Default)]
pub struct Auditor(Arc<OnceLock<Running>>);

struct Running {
    shared: Arc<Shared>,
    domain: Domain,
    clock: Clock,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Domains of the peers that we know.
#[derive(Default)]
struct Snapshot {
    domains: BTreeMap<PeerKey, Domain>,
}

struct Shared {
    book: Mutex<Book>,
    peers: Mutex<Snapshot>,
    /// Nobody at all was heard lately.
    deaf: AtomicBool,
    cut_off: Arc<dyn Fn() -> bool + Send + Sync>,
    wake: Notify,
    cancel: CancellationToken,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Snapshot> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Auditor {
    /// Begins. Once: a second call does nothing.
    pub fn start(&self, config: AuditorConfig, net: Arc<dyn StewardNet>, witness: Arc<dyn Witness>) {
        let AuditorConfig { key, domain, timers, clock, entropy, cut_off } = config;
        let report_ms = timers.audit_report.as_millis() as u64;
        let spans = Spans { round_ms: timers.rhythm.audit_ms, report_ms, soon_ms: (report_ms / SOON).max(1) };
        let patience_ms = timers.audit_answer.as_millis() as u64;
        let shared = Arc::new(Shared {
            book: Mutex::new(Book::new(net.me(), spans, Limits::default())),
            peers: Mutex::default(),
            deaf: AtomicBool::new(true),
            cut_off,
            wake: Notify::new(),
            cancel: CancellationToken::new(),
        });
        let asker = Asker {
            net,
            key,
            clock: Arc::clone(&clock),
            lanes: Arc::new(Semaphore::new(task::LANES)),
            patience_ms,
            pause: (timers.audit_answer / 5).min(timers.probe).max(Duration::from_millis(10)),
        };
        let task = Task {
            shared: Arc::clone(&shared),
            asker,
            witness,
            rng: ChaCha20Rng::from_seed(entropy),
            beat: timers.probe,
            late_ms: timers.liveness.late_ms,
        };
        let running = Running { shared, domain, clock, task: Mutex::new(None) };
        if self.0.set(running).is_ok()
            && let Some(running) = self.0.get()
        {
            let task = tokio::spawn(task.run());
            *running.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
    }

    /// A steward has us audit a holder.
    #[must_use]
    pub fn duty(&self, from: PeerKey, duty: &Duty) -> Answer {
        match self.consider(from, duty) {
            Ok(()) => Answer::Done,
            Err(why) => Answer::Refused(why),
        }
    }

    /// In the order of their costs.
    fn consider(&self, from: PeerKey, duty: &Duty) -> Result<(), Refusal> {
        let running = self.0.get().filter(|running| !running.shared.cancel.is_cancelled()).ok_or(Refusal::Busy)?;
        let shared = &running.shared;
        // Whom we do not know has nothing done here.
        let domain = shared.peers().domains.get(&from).cloned().ok_or(Refusal::Busy)?;
        let Duty { ticket, sheet, holder, .. } = duty;
        let slot = ticket.code().each_slot().find(|slot| may_hold(ticket, &running.domain, *slot));
        let slot = slot.ok_or(Refusal::Forged)?;
        if !shared.book().has_room(&from, &domain, &(ticket.id(), slot, *holder)) {
            return Err(Refusal::Busy);
        }
        let sheet = SlotSheet::open(sheet, ticket).map_err(|_| Refusal::Forged)?;
        // SEP-1: the holder would not show it anyway.
        if sheet.slot != slot {
            return Err(Refusal::Forged);
        }
        shared.book().take(from, domain, duty, &sheet, (running.clock)())?;
        shared.wake.notify_one();
        Ok(())
    }

    /// What is audited, and what came of it.
    #[must_use]
    pub fn status(&self) -> AuditStatus {
        self.0.get().map_or_else(AuditStatus::default, |running| running.shared.book().status((running.clock)()))
    }

    /// What a holder is sure to have had and did not show us when it was asked last: what we hold against it.
    #[must_use]
    pub fn owing(&self, holder: &PeerKey) -> Vec<Owing> {
        self.0.get().map_or_else(Vec::new, |running| running.shared.book().owing(holder, (running.clock)()))
    }

    /// Ends it; what was not told is found again by others.
    pub async fn close(&self) {
        let Some(running) = self.0.get() else { return };
        running.shared.cancel.cancel();
        let task = running.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}
