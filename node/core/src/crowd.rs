//! Who stays in a peer book of limited size, and who goes, when more claim to exist than fit.
//!
//! Identities cost a puzzle each and adverts nothing, so a crowd can be made. What it cannot make is proof: a direct
//! connection from an address of its own, shards that it holds for us, time. Decides on one newcomer at a time; never
//! keeps anything, the caller's book is the state.
//!
//! # Invariants
//!
//! - **BOOK-2** A peer that proved itself is never put out by one that did not, and one subnet has at most
//!   [`Shares::proven`] such peers. Enforced by [`admit`] and [`may_prove`]; attacked by
//!   `tests::no_flood_puts_out_the_proven`.
//! - **BOOK-3** Peers that only hearsay speaks of take at most [`Shares::domain`] entries under one domain and
//!   [`Shares::subnet`] under one subnet, and once the book is full, whoever brought more than [`Shares::source`] of
//!   them pays for it out of these. Enforced by [`admit`]; attacked by `tests::a_crowd_of_few_origins_stays_small`
//!   and `tests::one_talkative_source_cannot_take_the_book`.
//!
//! Within a set, the one with the highest lot goes, and that may be the newcomer itself. A lot is a keyed hash of the
//! peer ([`lot`]), so what stays is an even sample of the *identities* heard of: to repeat them, or to come first, or
//! last, gains nothing (Brahms, Bortnikov et al. 2009).

use cairn_proto::{Domain, PeerKey, Timestamp};

/// How long a direct connection proves something. A month without one, and the address may be anybody's.
const MET_FOR_MS: u64 = 30 * DAY_MS;
/// How long a transfer that went well does: the longest a mandate lasts, as shards stay that long.
const SERVED_FOR_MS: u64 = 400 * DAY_MS;
/// From this age on a peer of which we only heard is put out after those that are younger.
const LONG_SEEN_MS: u64 = 7 * DAY_MS;
/// Hearsay that fell silent for so long goes first. Adverts come every minute.
const SILENT_MS: u64 = DAY_MS;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// What a book holds, and how much of it one origin may have. An entry more than a share is not an attack, so
/// nobody is punished: the origin's own entries compete for its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Entries in all.
    pub entries: usize,
    /// Under one domain: names are free, and all its peers have one colour anyway, so more serve nobody.
    pub domain: usize,
    /// Under one /24 or /48.
    pub subnet: usize,
    /// Proven ones under one /24 or /48.
    pub proven: usize,
    /// Hearsay that one source brought, in a full book.
    pub source: usize,
}

impl Shares {
    /// A sixteenth for a domain, a 64th for a subnet, a 256th proven in a subnet, a quarter for a source.
    #[must_use]
    pub const fn of(entries: usize) -> Self {
        Self { entries, domain: entries / 16, subnet: entries / 64, proven: entries / 256, source: entries / 4 }
    }
}

/// What speaks for a peer beside its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Proof {
    /// Directly connected now.
    pub present: bool,
    /// When it last was, and its subnet had a place among the proven.
    pub met: Option<Timestamp>,
    /// When it last took or gave a shard as asked.
    pub served: Option<Timestamp>,
}

impl Proof {
    /// Whether it still counts.
    #[must_use]
    pub fn counts(&self, now: Timestamp) -> bool {
        let within = |at: Option<Timestamp>, ms| at.is_some_and(|at| now.ms_since(at) <= ms);
        self.present || within(self.met, MET_FOR_MS) || within(self.served, SERVED_FOR_MS)
    }
}

/// One entry, or one that would be.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Who.
    pub peer: PeerKey,
    /// Its lot, by [`lot`].
    pub lot: u64,
    /// Its pinned domain.
    pub domain: &'a Domain,
    /// Its /24 or /48: seen, or else told; none for a private address or one that is not known.
    pub subnet: Option<&'a Domain>,
    /// Who brought it, by [`source`].
    pub source: Option<Source>,
    /// What speaks for it.
    pub proof: Proof,
    /// Whether it stores.
    pub stores: bool,
    /// When we first heard of it.
    pub first_seen: Timestamp,
    /// When last.
    pub last_heard: Timestamp,
}

/// Who brought hearsay: a number, so that four thousand are counted quickly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(u64);

/// The source that a peer is: its subnet, or where that is not known its own id as a domain.
#[must_use]
pub fn source(key: &[u8; 32], origin: &Domain) -> Source {
    Source(first_u64(key, origin.as_str().as_bytes()))
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// There is room.
    Room,
    /// It comes in the place of this one.
    Instead(PeerKey),
    /// It stays outside.
    Refused,
}

/// A peer's lot in a book with this key, which others must not know.
#[must_use]
pub fn lot(key: &[u8; 32], peer: &PeerKey) -> u64 {
    first_u64(key, peer.as_bytes())
}

fn first_u64(key: &[u8; 32], bytes: &[u8]) -> u64 {
    let mut first = [0u8; 8];
    first.copy_from_slice(&blake3::keyed_hash(key, bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Whether a peer that connected directly from this subnet becomes one of its proven ones. `members` without it.
#[must_use]
pub fn may_prove<'a>(
    members: impl Iterator<Item = Member<'a>>,
    subnet: Option<&Domain>,
    shares: &Shares,
    now: Timestamp,
) -> bool {
    subnet.is_none() || members.filter(|m| m.subnet == subnet && m.proof.counts(now)).count() < shares.proven
}

/// Decides on a newcomer; linear in the members.
#[must_use]
pub fn admit<'a>(
    members: impl Iterator<Item = Member<'a>> + Clone,
    newcomer: &Member<'a>,
    shares: &Shares,
    now: Timestamp,
) -> Admission {
    let crowd = Crowd { members, newcomer, now };
    let domain = |m: &Member<'a>| m.domain == newcomer.domain;
    let subnet = |m: &Member<'a>| newcomer.subnet.is_some() && m.subnet == newcomer.subnet;
    let domain_full = crowd.members.clone().filter(domain).count() >= shares.domain;
    let subnet_full = crowd.members.clone().filter(subnet).count() >= shares.subnet;
    if domain_full || subnet_full {
        // Who makes room must do so in every share that is used up.
        return crowd.compete(|m| (!domain_full || domain(m)) && (!subnet_full || subnet(m)));
    }
    if crowd.members.clone().count() < shares.entries {
        return Admission::Room;
    }
    crowd.squeeze_in(shares)
}

struct Crowd<'c, 'a, I> {
    members: I,
    newcomer: &'c Member<'a>,
    now: Timestamp,
}

impl<'a, I: Iterator<Item = Member<'a>> + Clone> Crowd<'_, 'a, I> {
    fn hearsay(&self) -> impl Iterator<Item = Member<'a>> + Clone {
        let now = self.now;
        self.members.clone().filter(move |m| !m.proof.counts(now))
    }

    /// The book is full.
    fn squeeze_in(&self, shares: &Shares) -> Admission {
        let silent =
            self.hearsay().filter(|m| self.now.ms_since(m.last_heard) > SILENT_MS).min_by_key(|m| m.last_heard);
        if let Some(silent) = silent {
            return Admission::Instead(silent.peer);
        }
        if self.newcomer.stores && self.hearsay().any(|m| !m.stores) {
            return self.compete(|m| !m.stores);
        }
        let mine = |m: &Member<'a>| self.newcomer.source.is_some() && m.source == self.newcomer.source;
        if self.hearsay().filter(mine).count() >= shares.source {
            return self.compete(mine);
        }
        if let Some(loudest) = self.loudest(shares.source) {
            return self.compete(|m| m.source == Some(loudest));
        }
        if self.hearsay().next().is_some() || !self.newcomer.proof.counts(self.now) {
            return self.compete(|_| true);
        }
        // Everybody here has proved itself, and so has the newcomer: for the one not met for longest that holds
        // nothing of ours.
        let oldest = self.members.clone().filter(|m| !m.proof.present && m.proof.served.is_none());
        oldest.min_by_key(|m| m.proof.met).map_or(Admission::Refused, |m| Admission::Instead(m.peer))
    }

    /// The source of more hearsay than its share, the greatest if several.
    fn loudest(&self, share: usize) -> Option<Source> {
        let mut all: Vec<Source> = self.hearsay().filter_map(|m| m.source).collect();
        all.sort_unstable();
        all.chunk_by(|a, b| a == b).filter(|same| same.len() > share).max_by_key(|same| same.len()).map(|same| same[0])
    }

    /// Takes one from a set: the highest lot among the young, else among all, of which we only heard. The newcomer
    /// is in the race when it is of the set, unless it proved itself.
    fn compete(&self, set: impl Fn(&Member<'a>) -> bool) -> Admission {
        let candidates = self.hearsay().filter(|m| set(m));
        let young = candidates.clone().filter(|m| self.now.ms_since(m.first_seen) < LONG_SEEN_MS);
        let highest = young.max_by_key(|m| (m.lot, m.peer)).or_else(|| candidates.max_by_key(|m| (m.lot, m.peer)));
        let races = set(self.newcomer) && !self.newcomer.proof.counts(self.now);
        match highest {
            Some(m) if !races || m.lot > self.newcomer.lot => Admission::Instead(m.peer),
            _ => Admission::Refused,
        }
    }
}

#[cfg(test)]
mod tests;
