//! Who audits a slot, who judges a peer, and how many votes it takes.
//!
//! Drawn by sortition: domains, not peers, ranked by BLAKE3 keyed with the round's beacon, so that a hundred identities of
//! one domain are one lot. Only domains known for a week before the round take part: who sees the beacon cannot come under
//! a name that wins.
//!
//! | domains that may sit | suspect | exclude |
//! |---|---|---|
//! | 21 and more | 5 of 7 | 14 of 21 |
//! | 7 to 20 | 5 of 7 | more than two thirds of all |
//! | 3 to 6 | more than two thirds of all | more than two thirds of all |
//! | 2 | both | nobody is excluded but by proof |
//! | 1 | own judgement only | as above |
//!
//! For a suspicion the domains counted are those of the slot's colour, a ninth of the network: seven of them need some 64
//! domains. For an exclusion all count. With all of a small network on the panel, fewer than a third of its domains cannot
//! exclude anybody. Of a large one a draw may be unlucky: `tests::odds` has the figures, and that is why a verdict without
//! proof yields to first-hand experience ([`crate::reputation`]).

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{
    Domain, GroupId, GroupTicket, PeerKey, Slot, Timestamp,
    audit::{Bench, Matter, VerdictKind},
};
use serde::Serialize;

use crate::colour::may_hold;

/// How long a round of the beacon lasts: a day.
pub const ROUND_MS: u64 = 24 * 3600 * 1000;
/// Known for so long before a round begins, or not drawn in it.
pub const REGISTERED_MS: u64 = 7 * 24 * 3600 * 1000;
/// Auditors of one slot of a group in one round.
pub const AUDITORS: usize = 7;
/// Seats of the panel that excludes, and its quorum.
const EXCLUDE: (usize, usize) = (21, 14);
/// Votes that suspect. With [`AUDITORS`] seats.
const SUSPECT: usize = 5;

/// Seats and votes of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quorum {
    /// Domains that are drawn.
    pub seats: usize,
    /// Votes needed.
    pub votes: usize,
}

/// The panel for a network with so many domains that may sit; `None` when they are too few to decide it.
#[must_use]
pub const fn quorum(kind: VerdictKind, domains: usize) -> Option<Quorum> {
    let (full, least) = match kind {
        VerdictKind::Suspect => (Quorum { seats: AUDITORS, votes: SUSPECT }, 2),
        VerdictKind::Exclude => (Quorum { seats: EXCLUDE.0, votes: EXCLUDE.1 }, 3),
    };
    if domains < least {
        None
    } else if domains >= full.seats {
        Some(full)
    } else {
        Some(Quorum { seats: domains, votes: domains * 2 / 3 + 1 })
    }
}

/// A peer that may be drawn.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Who.
    pub peer: PeerKey,
    /// Its domain as pinned.
    pub domain: Domain,
    /// Since when it is known.
    pub first_seen: Timestamp,
}

/// A round: its number, when it began, and the random bytes that nobody could know before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// When it began.
    pub began: Timestamp,
    /// Its beacon.
    pub beacon: [u8; 32],
}

/// Domains of those who may sit, with their peers. `not`: the domain that is judged or audited. `of`: only of this colour.
fn domains<'a>(
    candidates: &'a [Candidate],
    round: &Round,
    not: &Domain,
    of: Option<(&GroupTicket, Slot)>,
) -> BTreeMap<&'a Domain, BTreeSet<PeerKey>> {
    let mut found: BTreeMap<&Domain, BTreeSet<PeerKey>> = BTreeMap::new();
    for c in candidates {
        let aged = round.began.ms_since(c.first_seen) >= REGISTERED_MS;
        if aged && c.domain != *not && of.is_none_or(|(ticket, slot)| may_hold(ticket, &c.domain, slot)) {
            found.entry(&c.domain).or_default().insert(c.peer);
        }
    }
    found
}

/// Lot of somebody in a round, about something.
fn lot(round: &Round, about: &[&[u8]], who: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&round.beacon);
    hasher.update(&round.number.to_le_bytes());
    for part in about {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    *hasher.update(who).finalize().as_bytes()
}

fn drawn<'a>(
    domains: &BTreeMap<&'a Domain, BTreeSet<PeerKey>>,
    round: &Round,
    about: &[&[u8]],
    seats: usize,
) -> Vec<&'a Domain> {
    let mut lots: Vec<_> = domains.keys().map(|d| (lot(round, about, d.as_str().as_bytes()), *d)).collect();
    lots.sort_unstable();
    lots.truncate(seats);
    lots.into_iter().map(|(_, d)| d).collect()
}

/// Who watches a slot of a group in a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Watch {
    /// Peers of the slot's colour, each of another domain, at most [`AUDITORS`]: they ask for slices.
    SameColour {
        /// In the order of their lots.
        auditors: Vec<PeerKey>,
    },
    /// Nobody of that colour is there but the holder. Then no one but the owner may see a leaf: stewards ask for digests
    /// with what tokens the owner left, the owner for slices when it is awake, and else the slot is not audited.
    OwnerOnly,
}

/// Draws the auditors of a slot. In a group with two replicas the other replica's holder is always a candidate.
#[must_use]
pub fn watch(candidates: &[Candidate], round: &Round, ticket: &GroupTicket, slot: Slot, holder: &Domain) -> Watch {
    let group = ticket.id();
    let about: [&[u8]; 2] = [group.as_bytes(), &[slot.as_u8()]];
    let domains = domains(candidates, round, holder, Some((ticket, slot)));
    let speaker = |d: &Domain| domains.get(d)?.iter().copied().min_by_key(|p| lot(round, &about, p.as_bytes()));
    let auditors: Vec<PeerKey> = drawn(&domains, round, &about, AUDITORS).into_iter().filter_map(speaker).collect();
    if auditors.is_empty() { Watch::OwnerOnly } else { Watch::SameColour { auditors } }
}

/// The panel of one matter as this node reckons it.
#[derive(Clone, Debug)]
pub struct Panel {
    matter: Matter,
    quorum: Option<Quorum>,
    seats: BTreeMap<PeerKey, Domain>,
}

impl Panel {
    /// Draws it. `ticket` is the group's that the matter names; a suspicion without one, an exclusion with one, and any
    /// matter of another round have no panel.
    #[must_use]
    pub fn draw(
        candidates: &[Candidate],
        round: &Round,
        matter: Matter,
        subject: &Domain,
        ticket: Option<&GroupTicket>,
    ) -> Self {
        let none = Self { matter, quorum: None, seats: BTreeMap::new() };
        let of = match (matter.kind, matter.place, ticket) {
            (VerdictKind::Suspect, Some((group, slot)), Some(ticket)) if ticket.id() == group => Some((ticket, slot)),
            (VerdictKind::Exclude, None, None) => None,
            _ => return none,
        };
        if matter.round != round.number {
            return none;
        }
        let domains = domains(candidates, round, subject, of);
        let Some(quorum) = quorum(matter.kind, domains.len()) else { return none };
        // A suspicion is judged by whoever audits the slot in this round; both draws are about the same.
        let place: (GroupId, [u8; 1]);
        let about: Vec<&[u8]> = if let Some((group, slot)) = matter.place {
            place = (group, [slot.as_u8()]);
            vec![place.0.as_bytes(), &place.1]
        } else {
            vec![matter.subject.as_bytes()]
        };
        let drawn = drawn(&domains, round, &about, quorum.seats);
        let seat = |d: &Domain| domains.get(d).into_iter().flatten().map(|p| (*p, d.clone())).collect::<Vec<_>>();
        Self { matter, quorum: Some(quorum), seats: drawn.into_iter().flat_map(seat).collect() }
    }

    /// Seats and votes; `None`: nobody can decide this here.
    #[must_use]
    pub const fn quorum(&self) -> Option<Quorum> {
        self.quorum
    }

    /// Whether this peer may vote.
    #[must_use]
    pub fn sits(&self, peer: &PeerKey) -> bool {
        self.seats.contains_key(peer)
    }
}

impl Bench for Panel {
    fn seat(&self, matter: &Matter, voter: &PeerKey) -> Option<Domain> {
        if *matter == self.matter { self.seats.get(voter).cloned() } else { None }
    }

    fn quorum(&self, matter: &Matter) -> Option<usize> {
        if *matter == self.matter { self.quorum.map(|q| q.votes) } else { None }
    }
}
