//! The peer book: the newest advert of each peer, the domain pinned at first sight, what was measured.
//!
//! # Invariants
//!
//! - **BOOK-1** A peer's domain is the one of its first advert, for ever; what it claims later changes nothing,
//!   because colours (SEP-1) are computed from it. Enforced by [`PeerBook::learn`]; attacked by `tests` below.
//! - An advert is taken only from a peer that solves the puzzle, for this network, and newer than the last.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
};

use cairn_core::peer_view::PeerView;
use cairn_proto::{
    DecodeError, Domain, PeerKey, Timestamp,
    message::{self, Advert, Roles},
    network_file::{NetworkFile, solves_puzzle},
    signed::SignedBytes,
};
use libp2p::Multiaddr;
use prost::Message as _;

use super::addresses;

/// Most peers in the book: a kilobyte or two each, and more than one owner spreads over.
pub(crate) const PEERS_MAX: usize = 4096;
/// An advert dated further ahead than this is refused: clocks differ, but not by more.
const AHEAD_MAX_MS: u64 = 3600 * 1000;
/// A peer is a newcomer for its first day with us.
const NEWCOMER_MS: u64 = 24 * 3600 * 1000;
/// A contact older than this says nothing about now.
const CONTACT_MS: u64 = 10 * 60 * 1000;
/// Adverts of one peer that come over gossip closer together than this are not taken and so not forwarded: a peer
/// that signs a thousand a second must not make the whole network carry them. Half of what
/// [`task`](super::task) leaves between two of ours, so that an uneven way costs none.
const GOSSIP_APART_MS: u64 = 1000;
/// File in the data folder.
const FILE: &str = "peers";
const HOUR_MS: u64 = 3600 * 1000;

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
    /// The book is full of peers heard of more recently.
    #[error("the peer book is full")]
    Full,
}

/// Outcomes of requests and pings, by hour, for the last day.
#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    hours: [(u32, u32); 24],
    hour: u64,
}

impl Outcomes {
    fn note(&mut self, ok: bool, now: Timestamp) {
        self.turn(now);
        let slot = &mut self.hours[(self.hour % 24) as usize];
        slot.0 += 1;
        slot.1 += u32::from(!ok);
    }

    fn turn(&mut self, now: Timestamp) {
        let hour = now.0 / HOUR_MS;
        let passed = hour.saturating_sub(self.hour).min(24);
        for step in 1..=passed {
            self.hours[((self.hour + step) % 24) as usize] = (0, 0);
        }
        self.hour = self.hour.max(hour);
    }

    fn loss(mut self, now: Timestamp) -> u16 {
        self.turn(now);
        let (all, failed) = self.hours.iter().fold((0u64, 0u64), |(a, f), h| (a + u64::from(h.0), f + u64::from(h.1)));
        (failed * 1000).checked_div(all).unwrap_or(0) as u16
    }
}

struct Known {
    domain: Domain,
    advert: Advert,
    signed: SignedBytes,
    first_seen: Timestamp,
    last_heard: Timestamp,
    /// When its last advert came over gossip. What we asked for does not count: we decide how often we ask.
    gossiped: Option<Timestamp>,
    connected: bool,
    contact: Option<(bool, Timestamp)>,
    rtt_ms: Option<u32>,
    outcomes: Outcomes,
}

/// Everyone we heard of.
pub(crate) struct PeerBook {
    network: NetworkFile,
    me: PeerKey,
    allow_private: bool,
    peers: BTreeMap<PeerKey, Known>,
    dirty: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BookFile {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<BookEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BookEntry {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(uint64, tag = "2")]
    first_seen: u64,
    #[prost(uint64, tag = "3")]
    last_heard: u64,
    #[prost(message, optional, tag = "4")]
    advert: Option<SignedBytes>,
}

impl PeerBook {
    pub(crate) fn new(network: NetworkFile, me: PeerKey, allow_private: bool) -> Self {
        Self { network, me, allow_private, peers: BTreeMap::new(), dirty: false }
    }

    /// Takes an advert that we asked for, or says why not.
    pub(crate) fn learn(&mut self, signed: &SignedBytes, now: Timestamp) -> Result<Learned, NotLearned> {
        self.take(signed, now, None)
    }

    /// Takes an advert that came unasked, or says why not.
    pub(crate) fn learn_gossiped(&mut self, signed: &SignedBytes, now: Timestamp) -> Result<Learned, NotLearned> {
        self.take(signed, now, Some(now))
    }

    fn take(
        &mut self,
        signed: &SignedBytes,
        now: Timestamp,
        gossiped: Option<Timestamp>,
    ) -> Result<Learned, NotLearned> {
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
        if advert.sequence > now.plus_ms(AHEAD_MAX_MS) {
            return Err(NotLearned::Ahead);
        }
        if let Some(known) = self.peers.get_mut(&advert.peer) {
            if advert.sequence <= known.advert.sequence {
                return Ok(Learned::Stale);
            }
            // A clock that was set back must not silence the peer until it has caught up.
            let last = known.gossiped.filter(|last| gossiped.is_some() && *last <= now);
            if last.is_some_and(|last| now.ms_since(last) < GOSSIP_APART_MS) {
                return Ok(Learned::TooSoon);
            }
            known.gossiped = gossiped.or(known.gossiped);
            known.advert = advert;
            known.signed = signed.clone();
            known.last_heard = now;
            self.dirty = true;
            return Ok(Learned::Newer);
        }
        if self.peers.len() >= PEERS_MAX {
            self.make_room(&advert)?;
        }
        self.peers.insert(
            advert.peer,
            Known {
                domain: advert.domain.clone(),
                advert,
                signed: signed.clone(),
                first_seen: now,
                last_heard: now,
                gossiped,
                connected: false,
                contact: None,
                rtt_ms: None,
                outcomes: Outcomes::default(),
            },
        );
        self.dirty = true;
        Ok(Learned::New)
    }

    /// Forgets the peer without a role, or else the one not heard of for longest, unless that was today.
    fn make_room(&mut self, newcomer: &Advert) -> Result<(), NotLearned> {
        let worst = self
            .peers
            .values()
            .filter(|k| !k.connected)
            .min_by_key(|k| (k.advert.roles.has(Roles::STORAGE), k.last_heard))
            .filter(|k| {
                let lesser = newcomer.roles.has(Roles::STORAGE) && !k.advert.roles.has(Roles::STORAGE);
                lesser || newcomer.sequence.ms_since(k.last_heard) > NEWCOMER_MS
            })
            .map(|k| k.advert.peer);
        let worst = worst.ok_or(NotLearned::Full)?;
        self.peers.remove(&worst);
        Ok(())
    }

    pub(crate) fn connected(&mut self, peer: &PeerKey, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.connected = true;
            known.contact = Some((true, now));
            known.last_heard = now;
        }
    }

    /// `broken`: the connection did not end by agreement.
    pub(crate) fn disconnected(&mut self, peer: &PeerKey, broken: bool, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.connected = false;
            known.contact = (!broken).then_some((true, now));
        }
    }

    pub(crate) fn dial_failed(&mut self, peer: &PeerKey, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.contact = Some((false, now));
            known.outcomes.note(false, now);
        }
    }

    pub(crate) fn pinged(&mut self, peer: &PeerKey, rtt_ms: Option<u32>, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.rtt_ms = rtt_ms.or(known.rtt_ms);
            known.outcomes.note(rtt_ms.is_some(), now);
            if rtt_ms.is_some() {
                known.last_heard = now;
            }
        }
    }

    pub(crate) fn served(&mut self, peer: &PeerKey, served: bool, now: Timestamp) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.outcomes.note(served, now);
        }
    }

    /// Addresses to dial a peer at.
    pub(crate) fn addresses(&self, peer: &PeerKey) -> Vec<Multiaddr> {
        let told = self.peers.get(peer).map(|k| k.advert.addresses.as_slice()).unwrap_or_default();
        addresses::choose(told.iter().filter_map(|a| a.parse().ok()), self.allow_private)
    }

    pub(crate) fn storage_peers(&self) -> usize {
        self.peers.values().filter(|k| k.advert.roles.has(Roles::STORAGE)).count()
    }

    /// Adverts for somebody who asks, from a place in the key space on: storage peers first.
    pub(crate) fn sample(&self, from: &PeerKey, limit: usize) -> Vec<SignedBytes> {
        let around = self.peers.range(*from..).chain(self.peers.range(..*from)).map(|(_, k)| k);
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
        self.peers.values().map(|known| known.view(now)).collect()
    }

    /// The file's bytes when something changed since the last call.
    pub(crate) fn take_unwritten(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let entry = |k: &Known| BookEntry {
            domain: k.domain.as_str().to_owned(),
            first_seen: k.first_seen.0,
            last_heard: k.last_heard.0,
            advert: Some(k.signed.clone()),
        };
        let body = BookFile { entries: self.peers.values().map(entry).collect() }.encode_to_vec();
        Some([blake3::hash(&body).as_bytes().as_slice(), &body].concat())
    }

    /// Reads the file's bytes back. Entries that do not hold are left out.
    pub(crate) fn restore(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), DecodeError> {
        let what = "peer book";
        let (sum, body) =
            bytes.split_at_checked(32).ok_or(DecodeError::Truncated { what, needed: 32, found: bytes.len() })?;
        if blake3::hash(body).as_bytes() != sum {
            return Err(DecodeError::NotAuthentic { what });
        }
        for entry in message::decode::<BookFile>(body, what)?.entries.into_iter().take(PEERS_MAX) {
            let Some(signed) = entry.advert else { continue };
            let (Ok(domain), Ok(Learned::New)) = (Domain::new(entry.domain), self.learn(&signed, now)) else {
                continue;
            };
            if let Ok(advert) = Advert::open(&signed)
                && let Some(known) = self.peers.get_mut(&advert.peer)
            {
                known.domain = domain;
                known.first_seen = Timestamp(entry.first_seen);
                known.last_heard = Timestamp(entry.last_heard);
            }
        }
        self.dirty = false;
        Ok(())
    }
}

impl Known {
    fn view(&self, now: Timestamp) -> PeerView {
        let lately = self.contact.filter(|(_, at)| now.ms_since(*at) < CONTACT_MS).map(|(ok, _)| ok);
        PeerView {
            peer: self.advert.peer,
            domain: self.domain.clone(),
            region: self.advert.region.clone(),
            roles: self.advert.roles,
            protocol: self.advert.protocol,
            give: self.advert.give,
            free: self.advert.free,
            last_heard: self.last_heard,
            reachable: if self.connected { Some(true) } else { lately },
            rtt_ms: self.rtt_ms,
            loss: self.outcomes.loss(now),
            reputation: 500,
            newcomer: now.ms_since(self.first_seen) < NEWCOMER_MS,
        }
    }
}

/// Reads the book's file; nothing when there is none.
pub(crate) fn read_file(folder: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(folder.join(FILE)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes the book's file beside and renames. Blocking.
pub(crate) fn write_file(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join("peers.new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::{ByteSize, Region};
    use ed25519_dalek::SigningKey;

    fn network() -> NetworkFile {
        NetworkFile::create("book", 0, &SigningKey::from_bytes(&[1; 32])).expect("valid")
    }

    fn advert(seed: u8, sequence: u64, domain: &str) -> SignedBytes {
        let key = SigningKey::from_bytes(&[seed; 32]);
        Advert {
            peer: PeerKey::from_bytes(key.verifying_key().to_bytes()),
            network: network().id,
            sequence: Timestamp(sequence),
            protocol: network().protocol,
            domain: Domain::operator(domain).expect("valid"),
            region: Region::new("EU").expect("valid"),
            roles: Roles::STORAGE,
            give: ByteSize(10),
            free: ByteSize(5),
            version: "1".into(),
            addresses: vec!["/ip4/127.0.0.1/tcp/9".into(), "junk".into()],
        }
        .seal(&key)
    }

    fn book() -> PeerBook {
        PeerBook::new(network(), PeerKey::from_bytes([0; 32]), true)
    }

    #[test]
    fn the_first_domain_stays_and_the_newest_advert_wins() {
        let mut book = book();
        let now = Timestamp(1000);
        assert_eq!(book.learn(&advert(2, 10, "first"), now), Ok(Learned::New));
        assert_eq!(book.learn(&advert(2, 9, "older"), now), Ok(Learned::Stale));
        assert_eq!(book.learn(&advert(2, 11, "second"), now), Ok(Learned::Newer));
        let view = &book.views(now)[0];
        assert_eq!(view.domain.as_str(), "op:first", "BOOK-1");

        let bytes = book.take_unwritten().expect("changed");
        let mut again = self::book();
        again.restore(&bytes, now).expect("valid");
        assert_eq!(again.views(now)[0].domain.as_str(), "op:first", "BOOK-1 survives a restart");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(self::book().restore(&bad, now).is_err(), "byte {at}");
        }
        assert_eq!(book.learn(&advert(3, 2000 + AHEAD_MAX_MS, "later"), now), Err(NotLearned::Ahead));
    }

    #[test]
    fn a_flood_of_adverts_is_not_forwarded() {
        let mut book = book();
        let at = Timestamp;
        assert_eq!(book.learn(&advert(2, 10, "a"), at(5000)), Ok(Learned::New));
        assert_eq!(book.learn_gossiped(&advert(2, 11, "a"), at(5001)), Ok(Learned::Newer), "the first over gossip");
        for sequence in 12..20 {
            let flood = book.learn_gossiped(&advert(2, sequence, "a"), at(5001 + sequence));
            assert_eq!(flood, Ok(Learned::TooSoon));
        }
        assert_eq!(book.learn_gossiped(&advert(3, 12, "b"), at(5100)), Ok(Learned::New), "another peer");
        assert_eq!(book.learn(&advert(2, 12, "a"), at(5100)), Ok(Learned::Newer), "asked for");
        assert_eq!(book.learn_gossiped(&advert(2, 21, "a"), at(6001)), Ok(Learned::Newer));
        assert_eq!(book.learn_gossiped(&advert(2, 22, "a"), at(100)), Ok(Learned::Newer), "our clock went back");
    }

    #[test]
    fn strangers_are_not_learned() {
        let mut hard = network();
        hard.puzzle_bits = 24;
        let mut book = PeerBook::new(hard, PeerKey::from_bytes([0; 32]), true);
        assert_eq!(book.learn(&advert(2, 1, "a"), Timestamp(1)), Err(NotLearned::Puzzle));
        let mut book = self::book();
        let mut forged = advert(2, 1, "a");
        forged.body[3] ^= 1;
        assert!(matches!(book.learn(&forged, Timestamp(1)), Err(NotLearned::Invalid(_))));
    }

    #[test]
    fn loss_is_of_the_last_day() {
        let mut outcomes = Outcomes::default();
        let at = |hour: u64| Timestamp(hour * HOUR_MS);
        outcomes.note(false, at(100));
        outcomes.note(true, at(101));
        assert_eq!(outcomes.loss(at(101)), 500);
        assert_eq!(outcomes.loss(at(124)), 0, "the failure is more than a day old");
        assert_eq!(outcomes.loss(at(500)), 0);
    }
}
