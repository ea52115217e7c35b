//! What an advert must be to be taken, and what is noted of it.
//!
//! - **BOOK-1** A peer's domain is the one of its first advert: [`PeerBook::learn`] never changes it.

use cairn_core::crowd::{self, Admission, Source};
use cairn_proto::{
    DecodeError, Domain, PeerKey, Timestamp, message::Advert, network_file::solves_puzzle, pass::PassError,
    signed::SignedBytes,
};

use super::{Came, Known, PeerBook, SHARES, known::told_subnet, outcomes::Outcomes};

/// An advert dated further ahead than this is refused: clocks differ, but not by more.
pub(super) const AHEAD_MAX_MS: u64 = 3600 * 1000;

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

impl PeerBook {
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
    pub(super) fn check(&self, signed: &SignedBytes, now: Timestamp) -> Result<Advert, NotLearned> {
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

    pub(super) fn known(&self, advert: Advert, signed: SignedBytes, now: Timestamp) -> Known {
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
}
