//! How much each domain, and all together, may have us read and hash; and what we last answered to whom.
//!
//! Domain names are free, so a quota for each alone bounds nothing, and one for all alone would let whoever makes up a hundred names
//! silence us. Hence both, and apart for three kinds of askers ([`Asker`]): auditors of the slot's colour, who are few; anybody with a
//! token; and who may read the shard anyway. Only a shard that is here costs of what all share: whoever does not know what we hold
//! cannot use it up.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use cairn_core::audit::AUDITS_PER_DAY;
use cairn_proto::{Domain, PeerKey, StatementId, Timestamp, audit::Way};

/// Challenges of one domain a day. All auditors of a holder's group together have [`AUDITS_PER_DAY`]; a domain may audit several
/// groups of ours.
const PER_DOMAIN: u32 = 4 * AUDITS_PER_DAY;
/// ... and at once: a quarter of it.
const DOMAIN_BURST: u32 = AUDITS_PER_DAY;
/// Shards hashed a day for auditors of the slots' colours: at 3 ms and a MiB each 90 s of a core and 29 GB off the disk.
const COLOUR_TOTAL: u32 = 64 * AUDITS_PER_DAY;
/// ... for anybody with a token: 23 s.
const ANYBODY_TOTAL: u32 = 16 * AUDITS_PER_DAY;
/// ... and at once, of either.
const TOTAL_BURST: u32 = 4 * AUDITS_PER_DAY;
/// Between two challenges of one owner's domain. It may read the shard instead, which costs us more.
const OWNER_GAP: Duration = Duration::from_millis(125);
/// ... and of all owners'.
const OWNERS_GAP: Duration = Duration::from_millis(60);
/// ... and at once.
const OWNER_BURST: u32 = 1000;
/// Domains that are remembered for what they asked, of owners and of others each; some 100 bytes each. Then the one that asked least is
/// forgotten, and nothing is lost by it but that it may ask more.
const DOMAINS_MAX: usize = 1024;
/// Auditors whose last answer is remembered: as many as there may be of a large holder.
const AUDITORS_MAX: usize = 1024;

/// Why somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// It may read the shard.
    Owner,
    /// It has the slot's colour.
    Colour,
    /// It sees no byte.
    Anybody,
}

impl Asker {
    pub(super) const fn of(reads: bool, way: Way) -> Self {
        match way {
            _ if reads => Self::Owner,
            Way::Slices => Self::Colour,
            Way::Digest => Self::Anybody,
        }
    }
}

/// So much at a time: one every `gap`, `burst` at once (a bucket that is told by when it will be full again).
#[derive(Clone, Copy, Debug)]
struct Rate {
    gap_us: u64,
    burst: u64,
}

impl Rate {
    fn every(gap: Duration, burst: u32) -> Self {
        Self { gap_us: (gap.as_micros() as u64).max(1), burst: burst.into() }
    }

    fn in_a_day(day: Duration, count: u32, burst: u32) -> Self {
        Self::every(day / count, burst)
    }

    /// Takes one, when there is one. `full_at`, in microseconds: when the bucket is full.
    fn take(self, full_at: &mut u64, now: Timestamp) -> bool {
        let now = now.0.saturating_mul(1000);
        let after = (*full_at).max(now).saturating_add(self.gap_us);
        let may = after - now <= self.gap_us.saturating_mul(self.burst);
        if may {
            *full_at = after;
        }
        may
    }
}

/// The buckets of many domains.
#[derive(Debug)]
struct Domains {
    rate: Rate,
    full_at: BTreeMap<Domain, u64>,
}

impl Domains {
    fn take(&mut self, domain: &Domain, now: Timestamp) -> bool {
        if let Some(full_at) = self.full_at.get_mut(domain) {
            return self.rate.take(full_at, now);
        }
        if self.full_at.len() >= DOMAINS_MAX {
            let least = self.full_at.iter().min_by_key(|(_, full_at)| **full_at).map(|(domain, _)| domain.clone());
            least.and_then(|domain| self.full_at.remove(&domain));
        }
        let full_at = self.full_at.entry(domain.clone()).or_insert(0);
        self.rate.take(full_at, now)
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Quotas {
    owners: Domains,
    others: Domains,
    totals: [(Rate, u64); 3],
    last: BTreeMap<PeerKey, StatementId>,
    order: VecDeque<PeerKey>,
}

impl Quotas {
    pub(super) fn new(day: Duration) -> Self {
        let domains = |rate| Domains { rate, full_at: BTreeMap::new() };
        Self {
            owners: domains(Rate::every(OWNER_GAP, OWNER_BURST)),
            others: domains(Rate::in_a_day(day, PER_DOMAIN, DOMAIN_BURST)),
            totals: [
                (Rate::every(OWNERS_GAP, OWNER_BURST), 0),
                (Rate::in_a_day(day, COLOUR_TOTAL, TOTAL_BURST), 0),
                (Rate::in_a_day(day, ANYBODY_TOTAL, TOTAL_BURST), 0),
            ],
            last: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Takes a question of this domain's.
    pub(super) fn may_ask(&mut self, domain: &Domain, reads: bool, now: Timestamp) -> bool {
        let domains = if reads { &mut self.owners } else { &mut self.others };
        domains.take(domain, now)
    }

    /// Takes a shard that is read and hashed, of what all share.
    pub(super) fn may_hash(&mut self, asker: Asker, now: Timestamp) -> bool {
        let (rate, full_at) = &mut self.totals[asker as usize];
        rate.take(full_at, now)
    }

    /// Our last answer to this auditor, as far as we remember.
    pub(super) fn previous(&self, auditor: &PeerKey) -> Option<StatementId> {
        self.last.get(auditor).copied()
    }

    pub(super) fn answered(&mut self, auditor: PeerKey, answer: StatementId) {
        if self.last.insert(auditor, answer).is_some() {
            return;
        }
        self.order.push_back(auditor);
        if self.order.len() > AUDITORS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn domain(n: usize) -> Domain {
        Domain::operator(&format!("d{n}")).expect("valid")
    }

    fn asks(quotas: &mut Quotas, domain: &Domain, reads: bool, now: u64) -> usize {
        (0..10_000).take_while(|_| quotas.may_ask(domain, reads, Timestamp(now))).count()
    }

    #[test]
    fn a_domain_has_its_share_and_no_more_and_gets_it_again() {
        let mut quotas = Quotas::new(DAY);
        let day = DAY.as_millis() as u64;
        assert_eq!(asks(&mut quotas, &domain(1), false, day), 460);
        assert_eq!(asks(&mut quotas, &domain(1), false, day), 0);
        assert_eq!(asks(&mut quotas, &domain(2), false, day), 460, "another has its own");
        assert_eq!(asks(&mut quotas, &domain(1), true, day), 1000, "and so has who may read");
        assert_eq!(asks(&mut quotas, &domain(1), false, day + day / 4), 460);
        assert_eq!(asks(&mut quotas, &domain(1), false, day), 0, "a clock that goes back gives nothing");
        assert!(asks(&mut quotas, &domain(1), true, day + 1000) <= 8);
    }

    #[test]
    fn whoever_makes_up_names_frees_none_that_asked_more() {
        let mut quotas = Quotas::new(DAY);
        assert_eq!(asks(&mut quotas, &domain(0), false, 1), 460);
        for n in 1..3 * DOMAINS_MAX {
            assert!(quotas.may_ask(&domain(n), false, Timestamp(1)));
        }
        assert_eq!(quotas.others.full_at.len(), DOMAINS_MAX);
        assert_eq!(asks(&mut quotas, &domain(0), false, 1), 0, "it is remembered");
    }

    #[test]
    fn who_needs_no_colour_cannot_use_up_what_auditors_have() {
        let mut quotas = Quotas::new(DAY);
        let hashed = (0..10_000).take_while(|_| quotas.may_hash(Asker::Anybody, Timestamp(5))).count();
        assert_eq!(hashed, TOTAL_BURST as usize);
        assert!(quotas.may_hash(Asker::Colour, Timestamp(5)) && quotas.may_hash(Asker::Owner, Timestamp(5)));
    }

    #[test]
    fn so_many_last_answers_are_remembered() {
        let mut quotas = Quotas::new(DAY);
        let peer = |n: usize| PeerKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
        for n in 0..2 * AUDITORS_MAX {
            quotas.answered(peer(n), StatementId::from_bytes([n as u8; 32]));
            quotas.answered(peer(n), StatementId::from_bytes([9; 32]));
        }
        assert_eq!((quotas.last.len(), quotas.order.len()), (AUDITORS_MAX, AUDITORS_MAX));
        let newest = quotas.previous(&peer(2 * AUDITORS_MAX - 1));
        assert_eq!((newest, quotas.previous(&peer(0))), (Some(StatementId::from_bytes([9; 32])), None));
    }
}
