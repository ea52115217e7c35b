//! What this node thinks of its peers: who sees something says it here ([`ports::Witness`]), who places shards asks here.
//!
//! The figures are the core's ([`cairn_core::reputation`]); here they are fed, kept and spread. [`Standings`] is the door, cheap to
//! clone; behind it `mind` has everything that is thought, under one lock that is never held while anything waits; `files` keeps it;
//! `task` takes what witnesses say, one after the other, and writes.
//!
//! # Invariants
//!
//! - **TRUST-1** What convicts is a proof that was verified here; whatever else others say comes through `Reputation`, which bounds
//!   it. Enforced in `mind`; attacked by `tests`.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cairn_core::{
    invitations::newcomers_quota,
    peer_view::PerMille,
    reputation::{Observed, Standing},
};
use cairn_proto::{PeerKey, Timestamp, audit::Evidence, network_file::NetworkFile};
use ed25519_dalek::SigningKey;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

mod files;
mod mind;
pub mod ports;
pub mod report;
mod silences;
mod talk;
mod task;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::talk::{Heard, Voice};
use self::{files::Files, mind::Mind, ports::Witness, task::Note};
use crate::{network::invitations::Invitations, store::Clock, timers::Timers};

/// Things seen that wait to be counted: a burst of a restore from many peers; what comes faster is one of many of its kind.
const NOTES_MAX: usize = 4096;

/// How long a node that ends waits until its word is said ...
const SAID_WITHIN: Duration = Duration::from_secs(3);
/// ... looking this often ...
const SAID_LOOK: Duration = Duration::from_millis(10);
/// ... and then until it has left: more than a tick of the network's task.
const SAID_AWAY: Duration = Duration::from_millis(500);

/// What a node's opinions are made with.
pub struct StandingsConfig {
    /// The node's identity, which signs its votes.
    pub key: SigningKey,
    /// Which network: whose key does not solve its puzzle is no peer.
    pub network: NetworkFile,
    /// The node's data folder; none keeps nothing.
    pub folder: Option<PathBuf>,
    /// How long everything takes.
    pub timers: Timers,
    /// The time.
    pub clock: Clock,
    /// Fresh random bytes.
    pub entropy: [u8; 32],
}

/// A node's opinions of its peers.
#[derive(Clone)]
pub struct Standings(Arc<Shared>);

struct Shared {
    mind: Arc<Mutex<Mind>>,
    notes: mpsc::Sender<Note>,
    /// Notes sent and not in the mind yet.
    under_way: Arc<AtomicUsize>,
    clock: Clock,
    files: Option<Files>,
    cancel: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    /// When we said something last.
    spoke: Mutex<Option<Instant>>,
}

impl Standings {
    /// Reads what is kept, and begins. Damaged files are set aside; what they said is learned anew, except proofs, which are files
    /// of their own.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub async fn open(config: StandingsConfig) -> io::Result<Self> {
        let StandingsConfig { key, network, folder, timers, clock, entropy } = config;
        let (round, save) = (timers.round, timers.save);
        let mut mind = Mind::new(key, network, round, &entropy);
        let files = match folder {
            None => None,
            Some(folder) => {
                let read = move || {
                    let files = Files::open(&folder)?;
                    files.load(&mut mind)?;
                    Ok::<_, io::Error>((files, mind))
                };
                let (files, read) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
                mind = read;
                Some(files)
            }
        };
        Ok(Self::start(mind, files, save, clock))
    }

    /// One that keeps nothing.
    #[must_use]
    pub fn in_memory(key: SigningKey, network: NetworkFile, timers: &Timers, clock: Clock, entropy: &[u8; 32]) -> Self {
        Self::start(Mind::new(key, network, timers.round, entropy), None, timers.save, clock)
    }

    fn start(mind: Mind, files: Option<Files>, save: Duration, clock: Clock) -> Self {
        let (notes, queue) = mpsc::channel(NOTES_MAX);
        let (mind, cancel) = (Arc::new(Mutex::new(mind)), CancellationToken::new());
        let under_way = Arc::<AtomicUsize>::default();
        let task = task::Task {
            mind: Arc::clone(&mind),
            notes: queue,
            under_way: Arc::clone(&under_way),
            clock: Arc::clone(&clock),
            files: files.clone(),
            save,
            cancel: cancel.clone(),
        };
        let task = Mutex::new(Some(tokio::spawn(task.run())));
        Self(Arc::new(Shared { mind, notes, under_way, clock, files, cancel, task, spoke: Mutex::default() }))
    }

    /// Who invited whom, from now on.
    pub(crate) fn know(&self, invitations: Invitations) {
        self.mind().invitations = Some(invitations);
    }

    fn mind(&self) -> MutexGuard<'_, Mind> {
        lock(&self.0.mind)
    }

    /// What to think of a peer, with every figure; `since`: known since then.
    #[must_use]
    pub fn standing(&self, peer: &PeerKey, since: Timestamp) -> Standing {
        self.mind().standing(peer, since, (self.0.clock)())
    }

    /// The score that placement goes by. `newcomer`: as the book has it.
    #[must_use]
    pub fn score(&self, peer: &PeerKey, since: Timestamp, newcomer: bool, now: Timestamp) -> PerMille {
        self.mind().score(peer, since, newcomer, now)
    }

    /// How much of what it offers a peer may be given in a day while it is new: less, where others whom its inviter let in were proved
    /// to have lied.
    #[must_use]
    pub fn quota(&self, peer: &PeerKey, since: Timestamp) -> PerMille {
        let mut mind = self.mind();
        let quota = mind.standing(peer, since, (self.0.clock)()).quota;
        newcomers_quota(quota, mind.invited(peer).map_or(0, |invited| invited.convicted))
    }

    /// Somebody gave a sign of life that is counted for nobody; it says that our own line works.
    pub(crate) fn heard(&self, peer: PeerKey, now: Timestamp) {
        self.mind().heard(peer, now);
    }

    /// A message of gossip about peers' conduct.
    pub(crate) fn gossiped(&self, bytes: &[u8], publisher: PeerKey, now: Timestamp) -> Heard {
        self.mind().gossiped(bytes, publisher, now)
    }

    /// Everybody in the book who may be heard.
    pub(crate) fn survey(&self, voices: BTreeMap<PeerKey, Voice>, now: Timestamp) {
        self.mind().survey(voices, now);
    }

    /// What we have to say, if anything.
    pub(crate) fn next_to_say(&self) -> Option<Vec<u8>> {
        let message = self.mind().next_to_say()?;
        *self.0.spoke.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Some(message)
    }

    /// Whether something waits to be counted or said.
    fn has_word(&self) -> bool {
        self.0.under_way.load(Ordering::Acquire) > 0 || self.mind().waits_to_be_said()
    }

    /// Whether there was room for it.
    fn note(&self, note: Note) -> bool {
        // Counted before the task can take it.
        self.0.under_way.fetch_add(1, Ordering::AcqRel);
        let taken = self.0.notes.try_send(note).is_ok();
        if !taken {
            self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        }
        taken
    }

    /// Waits until what we have to say of peers went out, a moment at the most: a verb that found out a liar may end at once, and
    /// nobody else would hear of it before its owner comes again.
    pub(crate) async fn said(&self) {
        let all = async {
            while self.has_word() {
                tokio::time::sleep(SAID_LOOK).await;
            }
        };
        let late = tokio::time::timeout(SAID_WITHIN, all).await.is_err();
        if late {
            tracing::warn!("nobody was there to hear what we have to say of peers; who connects to us is told later");
        }
        let spoke = *self.0.spoke.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spoke) = spoke {
            // It is on its way to the sockets.
            tokio::time::sleep_until(spoke + SAID_AWAY).await;
        }
    }

    /// It could not be said: nobody listens yet.
    pub(crate) fn say_again(&self, message: Vec<u8>) {
        self.mind().say_again(message);
    }

    /// How often somebody was convicted since the start.
    pub(crate) fn convictions(&self) -> u64 {
        self.mind().convictions
    }

    /// Of whom we can prove a lie, as a digest.
    pub(crate) fn proofs_digest(&self) -> [u8; 32] {
        self.mind().proofs_digest()
    }

    /// Proofs for somebody who has others than we (`theirs`, a digest), from a place in the key space on.
    pub(crate) fn proofs_for(&self, theirs: &[u8], after: Option<PeerKey>, most: usize) -> Vec<Vec<u8>> {
        let mind = self.mind();
        if theirs == mind.proofs_digest() { Vec::new() } else { mind.proofs_after(after, most) }
    }

    /// A proof that somebody has whom we asked. Whom it convicts, or `None`: it proves nothing.
    pub(crate) fn take_proof(&self, file: &[u8]) -> Option<PeerKey> {
        let evidence = Evidence::decode(file).ok()?;
        let subject = report::accused(&evidence)?;
        // What is known was verified.
        let mut mind = self.mind();
        (mind.is_convicted(&subject) || mind.learn_proof(&evidence).is_ok()).then_some(subject)
    }

    /// All that is thought of a peer, for people. `since`: known since then.
    #[must_use]
    pub fn explain(&self, peer: &PeerKey, since: Timestamp) -> report::Explained {
        let path = self.proof_path(peer);
        let mut mind = self.mind();
        let standing = mind.standing(peer, since, (self.0.clock)());
        let (invited, voted) = (mind.invited(peer), mind.voted(peer));
        report::Explained::new(*peer, &standing, path, |at| mind.real(at)).with_votes(voted).with_inviters(invited)
    }

    /// Whether it is proved to have lied: then it is no peer of ours.
    #[must_use]
    pub fn is_convicted(&self, peer: &PeerKey) -> bool {
        self.mind().is_convicted(peer)
    }

    /// Everybody who is.
    #[must_use]
    pub fn convicted(&self) -> Vec<PeerKey> {
        self.mind().convicted()
    }

    /// Where the proof against a peer is kept, when it is.
    #[must_use]
    pub fn proof_path(&self, peer: &PeerKey) -> Option<PathBuf> {
        let id = self.mind().proof_id(peer)?;
        self.0.files.as_ref().map(|files| files.proof_path(&id))
    }

    /// Ends it: what is thought is written down.
    pub async fn close(&self) {
        self.0.cancel.cancel();
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl std::fmt::Debug for Standings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Standings(..)")
    }
}

impl Witness for Standings {
    fn saw(&self, peer: PeerKey, seen: Observed) {
        // Full: one of thousands of its kind.
        let _ = self.note(Note::Saw(peer, seen));
    }

    fn learned(&self, evidence: Evidence) {
        if !self.note(Note::Learned(Box::new(evidence))) {
            tracing::warn!("a piece of evidence was dropped: too much is seen at once");
        }
    }
}

/// A panic elsewhere leaves figures as they were before or after one event; both are fine.
fn lock(mind: &Mutex<Mind>) -> MutexGuard<'_, Mind> {
    mind.lock().unwrap_or_else(PoisonError::into_inner)
}
