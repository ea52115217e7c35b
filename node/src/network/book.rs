//! The peer book: the newest advert of each peer, the domain pinned at first sight, what was measured.
//!
//! # Invariants
//!
//! - **BOOK-1** A peer's domain is the one of its first advert, for ever; what it claims later changes nothing,
//!   because colours (SEP-1) are computed from it. Enforced by [`PeerBook::learn`]; attacked by `tests` below.
//! - **BOOK-2**, **BOOK-3** (see [`cairn_core::crowd`]): hearsay never puts out who proved itself, and no origin gets
//!   more than its share. The rules are the core's, the facts they need are noted here; attacked by `tests` below.
//! - An advert is taken only from a peer that solves the puzzle, for this network, and newer than the last.

mod file;
mod known;
mod learning;
mod opinions;
mod outcomes;
mod writer;

use std::{collections::BTreeMap, sync::Arc};

use cairn_core::{
    crowd::{self, Shares},
    peer_view::PeerView,
};
use cairn_proto::{Domain, PeerKey, Region, Timestamp, message::Roles, network_file::NetworkFile, signed::SignedBytes};
use libp2p::Multiaddr;

use self::known::Known;
pub(crate) use self::{
    file::{read_file, write_file},
    learning::{Learned, NotLearned},
    writer::BookWriter,
};
use super::{addresses, invitations::Invitations};
use crate::{geoip::GeoIp, standing::Standings};

/// Most peers in the book: a kilobyte or two each, and more than one owner spreads over.
pub(crate) const PEERS_MAX: usize = 4096;
/// How they are shared out.
const SHARES: Shares = Shares::of(PEERS_MAX);
/// A contact that was noted is noted again on disk after this long.
const CONTACT_NOTED_MS: u64 = 3600 * 1000;
/// Adverts of one peer that come over gossip closer together than this are not taken and so not forwarded: a peer
/// that signs a thousand a second must not make the whole network carry them. Half of what
/// [`task`](super::task) leaves between two of ours, so that an uneven way costs none.
pub(crate) const GOSSIP_APART_MS: u64 = 1000;

/// Dials that fail closer together than this are one failure: how often we try says nothing of the peer.
const MISSED_APART_MS: u64 = 60 * 1000;

/// How a peer that is connected now came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Directly, from an address of this /24 or /48; none for a private one.
    From(Option<Domain>),
    /// Through a relay.
    Relayed,
}

/// Everyone we heard of.
pub(crate) struct PeerBook {
    /// Of lots: nobody else may foresee who has to go.
    key: [u8; 32],
    /// Who is connected, known or not yet. Bounded by the connection limits.
    present: BTreeMap<PeerKey, Came>,
    geoip: Arc<GeoIp>,
    /// Where we are ourselves.
    here: Region,
    network: NetworkFile,
    me: PeerKey,
    allow_private: bool,
    peers: BTreeMap<PeerKey, Known>,
    /// How many of `peers` store: asked after every event.
    storing: usize,
    gossip_apart_ms: u64,
    dirty: bool,
    /// Who was invited; none in tests of the book alone.
    invitations: Option<Invitations>,
    /// What is thought of them; none in tests of the book alone.
    standings: Option<Standings>,
}

impl PeerBook {
    /// `entropy` is for lots.
    pub(crate) fn new(network: NetworkFile, me: PeerKey, allow_private: bool, entropy: &[u8; 32]) -> Self {
        let key = blake3::derive_key("cairn 2026-11 peer book lots v1", entropy);
        Self {
            key,
            present: BTreeMap::new(),
            geoip: Arc::default(),
            here: Region::unknown(),
            network,
            me,
            allow_private,
            peers: BTreeMap::new(),
            storing: 0,
            gossip_apart_ms: GOSSIP_APART_MS,
            dirty: false,
            invitations: None,
            standings: None,
        }
    }

    /// For a network that says everything so much more often.
    pub(crate) fn with_gossip_apart(mut self, ms: u64) -> Self {
        self.gossip_apart_ms = ms;
        self
    }

    /// What tells where addresses lie, and where we are. Before anything is learned or restored.
    pub(crate) fn place(&mut self, geoip: Arc<GeoIp>, here: Region) {
        (self.geoip, self.here) = (geoip, here);
    }

    /// Where we are now. What was measured from elsewhere rules nothing out.
    pub(crate) fn stand_in(&mut self, here: Region) {
        if self.here.continent() != here.continent() {
            self.peers.values_mut().for_each(|known| known.least_rtt_ms = None);
        }
        self.here = here;
    }

    /// Notes of a peer that is connected now what that says.
    fn greet(&self, known: &mut Known, now: Timestamp) {
        let Some(came) = self.present.get(&known.advert.peer) else { return };
        known.connected = true;
        known.contact = Some((true, now));
        known.last_heard = now;
        if let Came::From(subnet) = came {
            if known.subnet_seen != *subnet {
                known.least_rtt_ms = None;
            }
            known.subnet_seen.clone_from(subnet);
            known.locate(&self.geoip);
            let others = self.peers.values().filter(|k| k.advert.peer != known.advert.peer).map(Known::member);
            if known.met.is_some() || crowd::may_prove(others, subnet.as_ref(), &SHARES, now) {
                known.met = Some(now);
            }
        }
    }

    /// A connection to the peer stands; a direct one counts for more than one through a relay, whichever came first.
    pub(crate) fn connected(&mut self, peer: &PeerKey, came: Came, now: Timestamp) {
        let relayed = came == Came::Relayed;
        if !relayed || !self.present.contains_key(peer) {
            self.present.insert(*peer, came);
        }
        if let Some(mut known) = self.peers.remove(peer) {
            let before = known.met;
            self.greet(&mut known, now);
            self.dirty |= known.met != before && before.is_none_or(|at| now.ms_since(at) > CONTACT_NOTED_MS);
            self.peers.insert(*peer, known);
        }
    }

    /// The last connection ended; `broken`: not by agreement.
    pub(crate) fn disconnected(&mut self, peer: &PeerKey, broken: bool, now: Timestamp) {
        self.present.remove(peer);
        if let Some(known) = self.peers.get_mut(peer) {
            known.connected = false;
            known.contact = (!broken).then_some((true, now));
        }
    }

    pub(crate) fn dial_failed(&mut self, peer: &PeerKey, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.contact = Some((false, now));
            if known.missed.is_none_or(|last| now < last || now.ms_since(last) >= MISSED_APART_MS) {
                known.missed = Some(now);
                known.outcomes.note(false, now);
                self.tell(peer, false);
            }
        }
    }

    pub(crate) fn pinged(&mut self, peer: &PeerKey, rtt_ms: Option<u32>, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.rtt_ms = rtt_ms.or(known.rtt_ms);
            known.least_rtt_ms = known.least_rtt_ms.into_iter().chain(rtt_ms).min();
            known.outcomes.note(rtt_ms.is_some(), now);
            if rtt_ms.is_some() {
                known.last_heard = now;
            }
            self.tell(peer, rtt_ms.is_some());
        }
    }

    pub(crate) fn served(&mut self, peer: &PeerKey, served: bool, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.outcomes.note(served, now);
            if served {
                self.dirty |= known.served.is_none_or(|at| now.ms_since(at) > CONTACT_NOTED_MS);
                known.served = Some(now);
                known.last_heard = now;
            }
            self.tell(peer, served);
        }
    }

    /// A sign of life: a question or an answer.
    pub(crate) fn heard(&mut self, peer: &PeerKey, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.last_heard = now;
            self.tell(peer, true);
        }
    }

    /// What is pinned for a peer.
    pub(crate) fn domain(&self, peer: &PeerKey) -> Option<&Domain> {
        self.peers.get(peer).map(|known| &known.domain)
    }

    /// Addresses to dial a peer at.
    pub(crate) fn addresses(&self, peer: &PeerKey) -> Vec<Multiaddr> {
        let told = self.peers.get(peer).map(|k| k.advert.addresses.as_slice()).unwrap_or_default();
        addresses::choose(told.iter().filter_map(|a| a.parse().ok()), self.allow_private)
    }

    pub(crate) fn storage_peers(&self) -> usize {
        self.storing
    }

    /// Adverts for somebody who asks, from a place in the key space on: storage peers first.
    pub(crate) fn sample(&self, from: &PeerKey, limit: usize) -> Vec<SignedBytes> {
        let around = self.peers.range(*from..).chain(self.peers.range(..*from)).map(|(_, k)| k);
        let around = around.filter(|known| !self.is_convicted(&known.advert.peer));
        let (storage, others): (Vec<_>, Vec<_>) = around.partition(|k| k.advert.roles.has(Roles::STORAGE));
        storage.into_iter().chain(others).take(limit).map(|k| k.signed.clone()).collect()
    }

    /// Peers that may be dialled to get back into the network, most recently heard of first.
    pub(crate) fn recent(&self, limit: usize) -> Vec<PeerKey> {
        let mut all: Vec<&Known> = self.peers.values().filter(|k| !k.connected).collect();
        all.sort_by_key(|k| std::cmp::Reverse(k.last_heard));
        all.into_iter().take(limit).map(|k| k.advert.peer).collect()
    }

    pub(crate) fn views(&self, now: Timestamp) -> Vec<PeerView> {
        self.peers.values().map(|known| known.view(self, now)).collect()
    }
}

#[cfg(test)]
mod tests;
