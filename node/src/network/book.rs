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
mod opinions;
mod outcomes;
mod writer;

use std::{collections::BTreeMap, sync::Arc};

use cairn_core::{
    crowd::{self, Admission, Member, Proof, Shares, Source},
    peer_view::{self, PeerView},
    region::{self, Clues},
};
use cairn_proto::{
    DecodeError, Domain, PeerKey, Region, Timestamp,
    message::{Advert, Roles},
    network_file::{NetworkFile, solves_puzzle},
    pass::PassError,
    signed::SignedBytes,
};
use libp2p::Multiaddr;

use self::outcomes::Outcomes;
pub(crate) use self::{
    file::{read_file, write_file},
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
/// An advert dated further ahead than this is refused: clocks differ, but not by more.
const AHEAD_MAX_MS: u64 = 3600 * 1000;
/// A contact older than this says nothing about now.
const CONTACT_MS: u64 = 10 * 60 * 1000;
/// Adverts of one peer that come over gossip closer together than this are not taken and so not forwarded: a peer
/// that signs a thousand a second must not make the whole network carry them. Half of what
/// [`task`](super::task) leaves between two of ours, so that an uneven way costs none.
pub(crate) const GOSSIP_APART_MS: u64 = 1000;

/// Dials that fail closer together than this are one failure: how often we try says nothing of the peer.
const MISSED_APART_MS: u64 = 60 * 1000;

/// What an advert told us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// A peer that we did not know.
    New,
    /// News of a known peer.
    Newer,
    /// Nothing: we have this or a newer one.
    Stale,
    /// News, but too soon after the last.
    TooSoon,
}

/// Why an advert was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotLearned {
    /// It is not what it claims.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// It is about another network or version.
    #[error("another network or protocol version")]
    OtherNetwork,
    /// Its key does not solve the puzzle.
    #[error("the peer does not solve the puzzle")]
    Puzzle,
    /// It is dated too far ahead.
    #[error("it is dated too far ahead")]
    Ahead,
    /// It is about ourselves.
    #[error("it is our own")]
    Own,
    /// It claims to be of the domain of one other peer.
    #[error("it claims another peer's own domain")]
    Domain,
    /// It is of a peer that is proved to have lied.
    #[error("the peer is proved to have lied")]
    Convicted,
    /// It is of a peer that shows no pass that lets it in.
    #[error("the peer is not invited: {0}")]
    NotInvited(PassError),
    /// The book, or this peer's share of it, is full of others.
    #[error("the peer book is full")]
    Full,
}

struct Known {
    domain: Domain,
    advert: Advert,
    signed: SignedBytes,
    first_seen: Timestamp,
    last_heard: Timestamp,
    /// When its last advert came over gossip. What we asked for does not count: we decide how often we ask.
    gossiped: Option<Timestamp>,
    /// Who told us first.
    source: Option<Source>,
    lot: u64,
    /// The /24 or /48 that it was last directly connected from, and the one it tells.
    subnet_seen: Option<Domain>,
    subnet_told: Option<Domain>,
    /// Region and autonomous system of the one that it was seen at, as far as the operator's files tell.
    located: Option<Region>,
    network: Option<u32>,
    met: Option<Timestamp>,
    served: Option<Timestamp>,
    connected: bool,
    contact: Option<(bool, Timestamp)>,
    rtt_ms: Option<u32>,
    /// The shortest since it said where it is and was seen there.
    least_rtt_ms: Option<u32>,
    outcomes: Outcomes,
    /// When a failed dial last counted.
    missed: Option<Timestamp>,
}

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

    /// Takes an advert that we asked `from` for, or says why not.
    pub(crate) fn learn(
        &mut self,
        signed: &SignedBytes,
        from: Option<&PeerKey>,
        now: Timestamp,
    ) -> Result<Learned, NotLearned> {
        self.take(signed, from, now, None)
    }

    /// Takes an advert that came unasked, or says why not.
    pub(crate) fn learn_gossiped(
        &mut self,
        signed: &SignedBytes,
        from: Option<&PeerKey>,
        now: Timestamp,
    ) -> Result<Learned, NotLearned> {
        self.take(signed, from, now, Some(now))
    }

    /// What an advert must be whoever brings it.
    fn check(&self, signed: &SignedBytes, now: Timestamp) -> Result<Advert, NotLearned> {
        let advert = Advert::open(signed)?;
        if advert.peer == self.me {
            return Err(NotLearned::Own);
        }
        if advert.network != self.network.id || advert.protocol != self.network.protocol {
            return Err(NotLearned::OtherNetwork);
        }
        if !solves_puzzle(&self.network.id, &advert.peer, self.network.puzzle_bits) {
            return Err(NotLearned::Puzzle);
        }
        if self.is_convicted(&advert.peer) {
            return Err(NotLearned::Convicted);
        }
        if advert.sequence > now.plus_ms(AHEAD_MAX_MS) {
            return Err(NotLearned::Ahead);
        }
        if advert.domain.as_str().starts_with("id:") && advert.domain != Domain::of_peer(&advert.peer) {
            return Err(NotLearned::Domain);
        }
        // Last, since it may cost eight signatures.
        if let Some(invitations) = self.invitations.as_ref().filter(|invitations| invitations.required()) {
            invitations.admit(&advert.peer, &advert.pass, now).map_err(NotLearned::NotInvited)?;
        }
        Ok(advert)
    }

    fn take(
        &mut self,
        signed: &SignedBytes,
        from: Option<&PeerKey>,
        now: Timestamp,
        gossiped: Option<Timestamp>,
    ) -> Result<Learned, NotLearned> {
        // Most of what comes is known already, and a comparison is cheaper than a signature.
        let known = PeerKey::from_slice(&signed.signer).ok().and_then(|key| self.peers.get(&key));
        if known.is_some_and(|known| known.signed == *signed) {
            return Ok(Learned::Stale);
        }
        let advert = self.check(signed, now)?;
        // Its own word, or one that is under way now. What others had in their books says when it was written.
        let live = gossiped.is_some() || from == Some(&advert.peer);
        let heard = if live { now } else { advert.sequence.min(now) };
        if live {
            self.tell_heard(&advert.peer, now);
        }
        if let Some(known) = self.peers.get_mut(&advert.peer) {
            if advert.sequence <= known.advert.sequence {
                return Ok(Learned::Stale);
            }
            // A clock that was set back must not silence the peer until it has caught up.
            let last = known.gossiped.filter(|last| gossiped.is_some() && *last <= now);
            if last.is_some_and(|last| now.ms_since(last) < self.gossip_apart_ms) {
                return Ok(Learned::TooSoon);
            }
            known.gossiped = gossiped.or(known.gossiped);
            known.subnet_told = told_subnet(&advert);
            self.storing -= usize::from(known.stores());
            if known.advert.region.continent() != advert.region.continent() {
                known.least_rtt_ms = None;
            }
            known.advert = advert;
            self.storing += usize::from(known.stores());
            known.signed = signed.clone();
            known.last_heard = known.last_heard.max(heard);
            self.dirty = true;
            return Ok(Learned::Newer);
        }
        let mut known = self.known(advert, signed.clone(), now);
        known.last_heard = heard;
        known.gossiped = gossiped;
        known.source = from.map(|peer| self.source(peer));
        self.greet(&mut known, now);
        let members = self.peers.values().map(Known::member);
        match crowd::admit(members, &known.member(), &SHARES, now) {
            Admission::Room => {}
            Admission::Instead(gone) => {
                if let Some(gone) = self.peers.remove(&gone) {
                    self.storing -= usize::from(gone.stores());
                }
            }
            Admission::Refused => return Err(NotLearned::Full),
        }
        self.storing += usize::from(known.stores());
        self.peers.insert(known.advert.peer, known);
        self.dirty = true;
        Ok(Learned::New)
    }

    fn known(&self, advert: Advert, signed: SignedBytes, now: Timestamp) -> Known {
        Known {
            domain: advert.domain.clone(),
            lot: crowd::lot(&self.key, &advert.peer),
            subnet_told: told_subnet(&advert),
            advert,
            signed,
            first_seen: now,
            last_heard: now,
            gossiped: None,
            source: None,
            subnet_seen: None,
            located: None,
            network: None,
            met: None,
            served: None,
            connected: false,
            contact: None,
            rtt_ms: None,
            least_rtt_ms: None,
            outcomes: Outcomes::default(),
            missed: None,
        }
    }

    /// Whom hearsay from this peer is put down to: its subnet, so that many identities at one place are one source.
    fn source(&self, peer: &PeerKey) -> Source {
        match self.present.get(peer) {
            Some(Came::From(Some(subnet))) => crowd::source(&self.key, subnet),
            _ => crowd::source(&self.key, &Domain::of_peer(peer)),
        }
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

/// The /24 or /48 of the first public address that an advert tells, IPv4 before IPv6.
fn told_subnet(advert: &Advert) -> Option<Domain> {
    let parsed = advert.addresses.iter().filter_map(|a| a.parse::<Multiaddr>().ok());
    parsed.filter_map(|a| addresses::subnet(&a)).min_by_key(|subnet| subnet.as_str().starts_with("v6"))
}

impl Known {
    fn stores(&self) -> bool {
        self.advert.roles.has(Roles::STORAGE)
    }

    fn subnet(&self) -> Option<&Domain> {
        self.subnet_seen.as_ref().or(self.subnet_told.as_ref())
    }

    fn member(&self) -> Member<'_> {
        Member {
            peer: self.advert.peer,
            lot: self.lot,
            domain: &self.domain,
            subnet: self.subnet(),
            source: self.source,
            proof: Proof { present: self.connected && self.met.is_some(), met: self.met, served: self.served },
            stores: self.advert.roles.has(Roles::STORAGE),
            first_seen: self.first_seen,
            last_heard: self.last_heard,
        }
    }

    /// Looks up where it was seen. What it tells of its addresses counts for nothing here.
    fn locate(&mut self, geoip: &GeoIp) {
        self.located = self.subnet_seen.as_ref().and_then(|subnet| geoip.region(subnet));
        self.network = self.subnet_seen.as_ref().and_then(|subnet| geoip.network(subnet));
    }

    fn view(&self, book: &PeerBook, now: Timestamp) -> PeerView {
        let subnet = self.subnet().cloned();
        // Where private addresses are allowed, one need not be public to count as known.
        let placed = book.allow_private || subnet.is_some();
        let (region, region_basis) = region::judge(Clues {
            declared: &self.advert.region,
            located: self.located.as_ref(),
            least_rtt_ms: self.least_rtt_ms,
            here: &book.here,
        });
        let (begun, newcomer) = peer_view::standing(self.first_seen, now, placed, self.outcomes.all_and_failed(now));
        let peer = &self.advert.peer;
        let thought = book.standings.as_ref().map(|s| s.score(peer, self.first_seen, newcomer, now));
        let reputation = thought.unwrap_or(begun);
        let lately = self.contact.filter(|(_, at)| now.ms_since(*at) < CONTACT_MS).map(|(ok, _)| ok);
        PeerView {
            peer: self.advert.peer,
            domain: self.domain.clone(),
            subnet_seen: self.subnet_seen.is_some(),
            subnet,
            region,
            region_basis,
            network: self.network,
            roles: self.advert.roles,
            protocol: self.advert.protocol,
            give: self.advert.give,
            free: self.advert.free,
            first_seen: self.first_seen,
            last_heard: self.last_heard,
            reachable: if self.connected { Some(true) } else { lately },
            rtt_ms: self.rtt_ms,
            loss: self.outcomes.loss(now),
            reputation,
            newcomer,
        }
    }
}

#[cfg(test)]
mod tests;
