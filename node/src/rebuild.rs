//! The blinded rebuild between real peers: the chain of [`cairn_core::blind`] over streams of its own protocol.
//!
//! ```text
//! new holder ── Invite ──► each helper      order, owner's sheet; the helper checks them alone
//!            ◄── Key ────                   fresh, signed by the helper's identity
//!            ── Session ─►                  all keys and signatures; checked, and written into the ledger durably
//!            ◄── Ready ──
//!            ── Go ──────►
//! helper 1 ── Link, 16 slices ──► helper 2 ── ... ──► new holder
//! ```
//!
//! - [`helper`] answers invitations; [`holder`] is the [`Rebuilder`] that stewardship asks; [`wrong`] finds out who made a root wrong.
//! - [`team`] is who helps in a session and who steps in, [`ledger`] the session ledger on disk, [`links`] brings streams between helpers to their session, [`places`] are the bounds.
//!
//! Several stripes of an order are several sessions; [`IN_FLIGHT`] run at once at a new holder, so that the chain is busy while the
//! next session's keys are agreed on.
//!
//! # Invariants
//!
//! - **SEP-1** No byte of a shard goes over a stream unmasked. A helper serves only a new holder whose domain, as pinned here, has the
//!   colour of the lost slot, and adds masks with keys only that the ordered peers signed. Enforced by
//!   [`cairn_core::blind::invite`]; attacked by `tests::refused` and `tests::taint`.
//! - **DUR-3** Only bytes with the owner-signed root leave [`Rebuilder::rebuild`].
//! - Every wait has a deadline ([`Patience`]), so a chain that stalls ends everywhere; memory of a session is two slices and
//!   what is read of the own shard, the shard itself at the new holder.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cairn_core::{
    blind::{SLICE_SIZE, wire::Message},
    steward::message::Failure,
};
use cairn_proto::{Domain, PeerKey, SHARD_SIZE, Timestamp, order::OrderId, wire::Priority};
use ed25519_dalek::SigningKey;
use futures::{AsyncRead, AsyncWrite, FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    courtesy::{Courtesy, Line},
    network::keeper::ShardKeeper,
    overlay::TransferError,
    stewardship::ports::Rebuilder,
};

mod helper;
mod holder;
pub mod ledger;
mod links;
mod pipe;
mod places;
mod team;
#[cfg(test)]
mod tests;
mod wrong;

use self::{
    helper::Prints,
    ledger::Ledger,
    links::Links,
    places::{Place, Places},
    wrong::Searches,
};

/// Sessions that a new holder runs at once: some move slices while the keys of others are agreed on. A session spends some seven round
/// trips beside its slices, so on a fast line far away two would leave the chain idle for half of the time.
pub const IN_FLIGHT: usize = 4;
/// Sessions of urgent orders that run beside those: an emergency does not wait for background work on a slow line.
const URGENT_IN_FLIGHT: usize = 2;
/// Sessions that a node helps in at once: with two slices and what is read each, 3 MiB.
const HELPED_AT_ONCE: usize = 16;
/// ... for one new holder: what it has in flight. One that is over and not yet noticed to be is met by asking again.
const HELPED_PER_PEER: usize = IN_FLIGHT;
/// Inbound streams at once that have not said yet what they are.
const FRESH_AT_ONCE: usize = 64;
/// ... of one peer. Peers that a session here waits for have these whatever others take.
const FRESH_PER_PEER: usize = 4;
/// Invitations at once: those that are helped, and those that are told no.
const INVITED_AT_ONCE: usize = 64;
/// ... of one peer.
const INVITED_PER_PEER: usize = 2 * HELPED_PER_PEER;

/// Both ways of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream to a peer that the transport authenticated.
pub type Pipe = Box<dyn Duplex>;

/// A stream that a peer opened to us.
pub struct Arrival {
    /// Who.
    pub from: PeerKey,
    /// The stream.
    pub pipe: Pipe,
}

/// What rebuilds need of the network.
pub trait RebuildNet: Send + Sync + 'static {
    /// Our own key.
    fn me(&self) -> PeerKey;

    /// Opens a stream, dialling if need be.
    fn open(&self, to: PeerKey) -> BoxFuture<'_, Result<Pipe, TransferError>>;

    /// A peer's domain as it was pinned when it was first heard of.
    fn pinned_domain(&self, peer: PeerKey) -> BoxFuture<'_, Option<Domain>>;

    /// Those of these peers that we are not connected to and that nothing was heard of since then. Nobody, where that is not known.
    fn silent(&self, _peers: Vec<PeerKey>, _since: Timestamp) -> BoxFuture<'_, BTreeSet<PeerKey>> {
        std::future::ready(BTreeSet::new()).boxed()
    }

    /// How our line is used; none uses it as it comes.
    fn courtesy(&self) -> Option<&Courtesy> {
        None
    }
}

/// How long parties wait for each other.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To dial a peer and open a stream.
    pub open: Duration,
    /// For the first word on a stream that somebody opened to us.
    pub first: Duration,
    /// For an answer that takes checks and a write to disk.
    pub answer: Duration,
    /// For one more slice, or for the word that one was taken: 17 kbit/s are enough.
    pub stall: Duration,
    /// All waits together for helpers that say that they are busy.
    pub busy: Duration,
    /// For helpers' answers to invitations, before spare ones are invited beside them: more than a dial and a few checks take on a line that
    /// is far away. Who answers later is only not needed.
    pub spare: Duration,
    /// Silence after which a helper to whom there is no connection is asked last: what stewards call late.
    pub silent: Duration,
    /// Silence after which a steward's place goes to another.
    pub lost: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(20),
            first: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            busy: Duration::from_secs(60),
            spare: Duration::from_secs(2),
            silent: Duration::from_mins(30),
            lost: Duration::from_hours(24),
        }
    }
}

/// What a node's part in rebuilds is made from.
pub struct Setup {
    /// The network.
    pub net: Arc<dyn RebuildNet>,
    /// Where our shards are.
    pub keeper: Arc<dyn ShardKeeper>,
    /// Our identity: it signs the keys that we help with.
    pub key: SigningKey,
    /// The session ledger, opened.
    pub ledger: Ledger,
    /// How long to wait.
    pub patience: Patience,
}

/// A node's part in rebuilds, as helper and as new holder. Clones share it.
#[derive(Clone)]
pub struct Rebuild {
    shared: Arc<Shared>,
}

/// What all sessions of a node share.
struct Shared {
    net: Arc<dyn RebuildNet>,
    keeper: Arc<dyn ShardKeeper>,
    key: SigningKey,
    ledger: Ledger,
    patience: Patience,
    links: Links,
    fresh: Places,
    invited: Places,
    helped: Places,
    prints: Prints,
    searches: Searches,
    in_flight: Semaphore,
    urgent: Semaphore,
}

impl Rebuild {
    /// Nothing happens before [`Rebuild::serve`] or [`Rebuilder::rebuild`].
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let Setup { net, keeper, key, ledger, patience } = setup;
        let shared = Shared {
            net,
            keeper,
            key,
            ledger,
            patience,
            links: Links::default(),
            fresh: Places::new(FRESH_AT_ONCE, FRESH_PER_PEER),
            invited: Places::new(INVITED_AT_ONCE, INVITED_PER_PEER),
            helped: Places::new(HELPED_AT_ONCE, HELPED_PER_PEER),
            prints: Prints::default(),
            searches: Searches::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
            urgent: Semaphore::new(URGENT_IN_FLIGHT),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Answers what peers open to us ([`crate::network::NetworkHandle::rebuild_arrivals`]) until `stop` or until no more can come.
    /// A node that runs no [`Rebuild::serve`] gets no links either, so it cannot be a new holder.
    pub async fn serve(self, mut arrivals: BoxStream<'static, Arrival>, stop: CancellationToken) {
        let mut serving = JoinSet::new();
        loop {
            let arrival = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = serving.join_next() => continue,
                arrival = arrivals.next() => arrival,
            };
            let Some(Arrival { from, pipe }) = arrival else { break };
            let Some(fresh) = self.shared.admit(from) else {
                tracing::debug!(peer = %from.short(), "too many rebuild streams");
                continue;
            };
            let shared = self.shared.clone();
            serving.spawn(async move { shared.answer(from, pipe, fresh).await });
        }
        serving.shutdown().await;
    }
}

impl Shared {
    /// A place for a stream that did not say yet what it is.
    fn admit(&self, from: PeerKey) -> Option<Place> {
        // Links of sessions come although strangers open all streams that there may be.
        if self.links.expects(&from) { self.fresh.take_beyond(from) } else { self.fresh.take(from) }
    }

    /// One inbound stream, to its end; a link goes to the session that waits for it.
    async fn answer(&self, from: PeerKey, mut pipe: Pipe, fresh: Place) {
        let said = pipe::first(&mut pipe, cairn_core::blind::wire::MESSAGE_MAX, self.patience.first).await;
        drop(fresh);
        match said {
            Ok(Message::Link(id)) => self.links.hand_over(id, from, pipe),
            Ok(Message::Invite(invite)) => {
                let Some(_place) = self.invited.take(from) else {
                    tracing::debug!(peer = %from.short(), "too many invitations");
                    return;
                };
                self.invited(from, pipe, *invite).await;
            }
            Ok(_) => tracing::debug!(peer = %from.short(), "a rebuild stream began with something else"),
            Err(error) => tracing::debug!(peer = %from.short(), %error, "a rebuild stream ended"),
        }
    }

    /// How a session of this order goes: background work, unless its signers say that it is urgent and it may go first.
    fn class_of(&self, order: &cairn_proto::Order) -> Priority {
        match self.net.courtesy() {
            Some(courtesy) => courtesy.class_of(&order.group, order.urgent),
            None if order.urgent => Priority::Critical,
            None => Priority::Low,
        }
    }

    /// Waits for its turn with a slice of a rebuild.
    async fn pass_slice(&self, line: fn(&Courtesy) -> &Line, class: Priority) {
        if let Some(courtesy) = self.net.courtesy() {
            line(courtesy).pass_piece(class, SLICE_SIZE).await;
        }
    }

    /// Whether another session may begin: not while we are paused, nor while our line has enough to do.
    fn may_begin(&self, line: fn(&Courtesy) -> &Line, class: Priority) -> bool {
        self.net.courtesy().is_none_or(|courtesy| {
            courtesy.paused_ms().is_none() && line(courtesy).may_begin(class, 0, SHARD_SIZE as u64).is_ok()
        })
    }

    /// A stream to a peer, in time.
    async fn open(&self, to: PeerKey) -> Result<Pipe, TransferError> {
        tokio::time::timeout(self.patience.open, self.net.open(to)).await.unwrap_or(Err(TransferError::TimedOut))
    }
}

impl Rebuilder for Rebuild {
    fn rebuild(
        &self,
        credentials: Arc<cairn_core::part::Credentials>,
        task: Arc<cairn_core::part::Task>,
        ordinal: u8,
    ) -> BoxFuture<'_, Result<bytes::Bytes, Failure>> {
        async move { self.shared.rebuild(&credentials, &task, ordinal).await }.boxed()
    }

    fn named<'a>(&'a self, order: &'a OrderId) -> BoxFuture<'a, Option<BTreeSet<PeerKey>>> {
        self.shared.searches.named(order).boxed()
    }
}

/// From the operating system's generator; `None` when it has none.
fn entropy() -> Option<[u8; 32]> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).ok().map(|()| random)
}
