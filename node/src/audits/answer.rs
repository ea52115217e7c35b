//! The holder's side: shows the leaves that a challenge asks for, or admits that the shard is not here.
//!
//! # Invariants
//!
//! - **SEP-1** Nobody sees a leaf but a peer of the slot's colour, by the domain that we pinned for it, and who has the group's leave
//!   to read it. Enforced by [`permit`]; attacked by `tests::who_may_not_see_the_slot_gets_nothing`.
//! - **TRUST-1** Nothing is signed that could convict us: [`respond`] hashes the whole shard first. Attacked by
//!   `tests::a_flipped_byte_is_an_admission`.
//! - **NET-2** What peers have us read and hash is bounded for each domain and in all ([`quota`]), and its memory by [`WAITING`].

mod quota;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cairn_core::{
    audit::{self, permit, respond},
    steward::wire::{Answer, Questioned, Refusal},
};
use cairn_proto::{
    Domain, Grant, GroupId, PeerKey, Rights, Slot, Timestamp,
    audit::{self as signed, Challenge, Found, Loss, Response, Way},
    wire::RefusalCode,
};
use ed25519_dalek::SigningKey;
use futures::{FutureExt as _, future::BoxFuture};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};

use self::quota::{Asker, Quotas};
use crate::{network::keeper::ShardKeeper, store::Clock};

/// Shards that are hashed at once, in the whole process: one core of a small machine is left for everything else.
const AT_ONCE: usize = 2;
/// Challenges that wait for that, each with a shard's bytes: 16 MiB. Beyond, the auditor is told to come again.
const WAITING: usize = 16;
/// How long one waits at the most; the stewards' protocol has ten seconds for all of it.
const WAIT: Duration = Duration::from_secs(5);

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Who knows which domain is pinned for a peer.
pub trait Domains: Send + Sync + 'static {
    /// As our peer book has it; what the peer says of itself now changes nothing (BOOK-1).
    fn pinned(&self, peer: PeerKey) -> BoxFuture<'_, Option<Domain>>;
}

/// A shard that a challenge found missing or damaged here. Anybody may make up a group and ask for it, so [`Loss::Gone`] may be said of
/// what never was here: whoever acts on it asks the ledger first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLoss {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// What is wrong.
    pub loss: Loss,
}

/// Is told of our own losses. Never blocks; what comes too fast may be dropped, the next scrub finds it again.
pub trait LossSink: Send + Sync + 'static {
    /// A shard is not here any more.
    fn lost(&self, loss: OwnLoss);
}

impl LossSink for mpsc::Sender<OwnLoss> {
    fn lost(&self, loss: OwnLoss) {
        let _ = self.try_send(loss);
    }
}

/// What an answerer works with.
pub struct Setup {
    /// The node's identity.
    pub key: SigningKey,
    /// What it keeps.
    pub keeper: Arc<dyn ShardKeeper>,
    /// The peer book.
    pub domains: Arc<dyn Domains>,
    /// Who is told of shards that are not here.
    pub losses: Option<Arc<dyn LossSink>>,
    /// The time.
    pub clock: Clock,
    /// How long a day takes: what auditors may ask is so much a day.
    pub day: Duration,
}

/// Answers challenges, cheap to clone.
#[derive(Clone)]
pub struct Answerer(Arc<Inner>);

struct Inner {
    setup: Setup,
    me: PeerKey,
    quotas: Mutex<Quotas>,
    waiting: Arc<Semaphore>,
}

impl std::fmt::Debug for Answerer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answerer({})", self.0.me.short())
    }
}

impl Answerer {
    /// Answers from now on.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let me = PeerKey::from_bytes(setup.key.verifying_key().to_bytes());
        let quotas = Mutex::new(Quotas::new(setup.day));
        Self(Arc::new(Inner { setup, me, quotas, waiting: Arc::new(Semaphore::new(WAITING)) }))
    }

    /// What is said to this peer: [`Answer::Audit`], or a refusal, which is not signed and no evidence of anything. `Busy`: come again.
    #[must_use]
    pub fn answer(&self, from: PeerKey, questioned: Questioned) -> BoxFuture<'static, Answer> {
        let inner = Arc::clone(&self.0);
        async move { inner.consider(from, questioned).await.map_or_else(Answer::Refused, Answer::Audit) }.boxed()
    }
}

impl Inner {
    fn quotas(&self) -> std::sync::MutexGuard<'_, Quotas> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the order of their costs: a look at the question, at the peer book, at the quota; then signatures, then the disk.
    async fn consider(&self, from: PeerKey, questioned: Questioned) -> Result<Vec<u8>, Refusal> {
        let Questioned { ticket, grant, challenge: sealed } = questioned;
        if sealed.signer != from.as_bytes() {
            return Err(Refusal::Forged);
        }
        let pinned = self.setup.domains.pinned(from).await;
        let is_known = pinned.is_some();
        // Whoever only uses the network says nothing of itself: it counts as a domain of its own, which is nobody's colour below.
        let domain = pinned.unwrap_or_else(|| Domain::of_peer(&from));
        let now = (self.setup.clock)();
        let reads = grant.is_some();
        if !self.quotas().may_ask(&domain, reads, now) {
            return Err(Refusal::Busy);
        }
        let challenge = Challenge::open(&sealed).map_err(|_| Refusal::Forged)?;
        // An owner shows its leave, and a digest shows nobody a byte. Who goes by its colour, and is not known yet, is by and by.
        if !is_known && !reads && challenge.way == Way::Slices {
            return Err(Refusal::Busy);
        }
        let may_read = match grant {
            Some(grant) => self.is_leave(&grant, &ticket, from, now).then_some(true).ok_or(Refusal::Forged)?,
            None => false,
        };
        permit(&challenge, &self.me, &ticket, &domain, may_read, now).map_err(|why| match why {
            audit::Refusal::Time => Refusal::Old,
            audit::Refusal::NotForMe | audit::Refusal::Separation => Refusal::Forged,
        })?;
        let place = self.waiting.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let (found, slices) = match self.look(&challenge).await? {
            Err(loss) => (Found::NotHere(loss), Vec::new()),
            Ok(shard) => {
                let asker = Asker::of(reads, challenge.way);
                if !self.quotas().may_hash(asker, now) {
                    return Err(Refusal::Busy);
                }
                hash(challenge.clone(), shard).await?
            }
        };
        drop(place);
        let previous = self.quotas().previous(&from);
        let answer = signed::Answer { holder: self.me, challenge: Challenge::id(&sealed), previous, found };
        let answer = answer.seal(&self.setup.key);
        self.quotas().answered(from, signed::Answer::id(&answer));
        Ok(Response { answer: Some(answer), slices }.encode_to_vec())
    }

    /// The group's leave for this peer to read it here (NET-1).
    fn is_leave(&self, grant: &[u8], ticket: &cairn_proto::GroupTicket, bearer: PeerKey, now: Timestamp) -> bool {
        Grant::open(grant, ticket, now)
            .is_ok_and(|grant| grant.holder == self.me && grant.bearer == bearer && grant.rights.allows(Rights::GET))
    }

    /// The shard's bytes, sound as they were stored, or what is wrong with it.
    async fn look(&self, challenge: &Challenge) -> Result<Result<Bytes, Loss>, Refusal> {
        let Challenge { group, slot, ordinal, .. } = *challenge;
        let loss = match self.setup.keeper.look(group, slot, ordinal).await {
            Ok(bytes) => return Ok(Ok(bytes)),
            Err(RefusalCode::NotFound) => Loss::Gone,
            Err(RefusalCode::Damaged) => Loss::Damaged,
            // The disk is slow, or failed for now: that is not said with a signature.
            Err(_) => return Err(Refusal::Busy),
        };
        if let Some(losses) = &self.setup.losses {
            losses.lost(OwnLoss { group, slot, ordinal, loss });
        }
        Ok(Err(loss))
    }
}

/// On a thread of its own, in turn.
async fn hash(challenge: Challenge, shard: Bytes) -> Result<(Found, Vec<Vec<u8>>), Refusal> {
    let turn = tokio::time::timeout(WAIT, TURNS.acquire()).await.map_err(|_| Refusal::Busy)?;
    let turn = turn.map_err(|_| Refusal::Busy)?;
    // The turn ends with the work, not with whoever does not wait for it.
    let worked = tokio::task::spawn_blocking(move || {
        let responded = respond(Some(&shard), &challenge);
        drop(turn);
        responded
    });
    worked.await.map_err(|_| Refusal::Busy)
}
