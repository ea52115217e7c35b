//! How much a newcomer is given in a day by one who gives.
//!
//! A newcomer's share of a group ([`super::PlacementPolicy::newcomer_places`]) bounds what any one group loses by it; a quota of the day
//! bounds what all groups of an owner do. It is a share of what the newcomer offers, by its standing and by what became of others whom
//! its inviter let in ([`crate::invitations::newcomers_quota`]). As with the share: it binds where a group can stand without newcomers,
//! and a network that is itself young trusts everybody.
//!
//! Pure and bounded. Who gives keeps the counts.
//!
//! - **SEP-4** in part: where enough aged peers are there, a newcomer is chosen for nothing new once it has its quota of the day.
//!   Attacked by `tests` here and by `vault::tests::vetting`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{ByteSize, PeerKey, SHARD_SIZE, Timestamp};

use super::{PlacementPolicy, independent};
use crate::peer_view::{PeerView, PerMille};

/// Newcomers that are counted on one day: more than come to deal with one owner, and 44 KB.
pub const GIVEN_MAX: usize = 1024;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Shards that a newcomer may be given in a day, of what it offers; always one, so that it can show what it is worth.
#[must_use]
pub fn shards_a_day(give: ByteSize, quota: PerMille) -> u32 {
    let bytes = u128::from(give.0) * u128::from(quota) / 1000;
    u32::try_from(bytes / SHARD_SIZE as u128).unwrap_or(u32::MAX).max(1)
}

/// Whether a group can stand without newcomers: then they are held to their quota.
#[must_use]
pub fn binds(fit: &[&PeerView], policy: &PlacementPolicy) -> bool {
    let aged: Vec<&PeerView> = fit.iter().copied().filter(|view| !view.newcomer).collect();
    independent::count(&aged) >= policy.domains_needed()
}

/// What newcomers were given today.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    day: u64,
    shards: BTreeMap<PeerKey, u32>,
}

impl Given {
    /// What was kept: each with its day. Other days than today count no more.
    #[must_use]
    pub fn restored(kept: impl IntoIterator<Item = (PeerKey, u64, u32)>, now: Timestamp) -> Self {
        let day = day(now);
        let today = kept.into_iter().filter(|(_, of, _)| *of == day).map(|(peer, _, shards)| (peer, shards));
        Self { day, shards: today.take(GIVEN_MAX).collect() }
    }

    /// Which day, and what was given on it.
    pub fn kept(&self) -> impl Iterator<Item = (PeerKey, u64, u32)> + '_ {
        self.shards.iter().map(|(peer, shards)| (*peer, self.day, *shards))
    }

    /// A newcomer took a shard.
    pub fn took(&mut self, peer: PeerKey, now: Timestamp) {
        if day(now) != self.day {
            (self.day, self.shards) = (day(now), BTreeMap::new());
        }
        if self.shards.len() < GIVEN_MAX || self.shards.contains_key(&peer) {
            let count = self.shards.entry(peer).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Whether somebody has its quota of the day. Who is no newcomer never has; where more newcomers were given something than are
    /// counted, every other one has.
    #[must_use]
    pub fn is_spent(&self, view: &PeerView, quota: PerMille, now: Timestamp) -> bool {
        if !view.newcomer || day(now) != self.day {
            return false;
        }
        match self.shards.get(&view.peer) {
            Some(shards) => *shards >= shards_a_day(view.give, quota),
            None => self.shards.len() >= GIVEN_MAX,
        }
    }

    /// All who have.
    #[must_use]
    pub fn spent(&self, peers: &[PeerView], quota: impl Fn(&PeerKey) -> PerMille, now: Timestamp) -> BTreeSet<PeerKey> {
        let spent = peers.iter().filter(|view| view.newcomer && self.is_spent(view, quota(&view.peer), now));
        spent.map(|view| view.peer).collect()
    }
}

const fn day(now: Timestamp) -> u64 {
    now.0 / DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::tests::peer;

    const NOW: Timestamp = Timestamp(1000 * DAY_MS + 5);

    fn newcomer(n: u32) -> PeerView {
        PeerView { newcomer: true, give: ByteSize(1000 * SHARD_SIZE as u64), ..peer(n, &format!("v{n}"), "EU/DE/FSN") }
    }

    #[test]
    fn a_quota_is_a_share_of_what_is_offered_and_never_nothing() {
        let gib = ByteSize(1 << 30);
        assert_eq!([10, 20, 1000].map(|quota| shards_a_day(gib, quota)), [10, 20, 1024]);
        assert_eq!((shards_a_day(gib, 0), shards_a_day(ByteSize(0), 1000)), (1, 1));
        assert_eq!(shards_a_day(ByteSize(u64::MAX), 1000), u32::MAX);
    }

    #[test]
    fn a_newcomer_has_its_quota_for_a_day() {
        let (mut given, one) = (Given::default(), newcomer(1));
        for shards in 0..12 {
            assert_eq!(given.is_spent(&one, 10, NOW), shards >= 10, "{shards}");
            given.took(one.peer, NOW);
        }
        assert!(!given.is_spent(&one, 20, NOW) && !given.is_spent(&newcomer(2), 10, NOW));
        let aged = PeerView { newcomer: false, ..one.clone() };
        assert!(!given.is_spent(&aged, 10, NOW), "who aged has none");
        let peers = [one.clone(), newcomer(2), aged];
        assert_eq!(given.spent(&peers, |_| 10, NOW).len(), 1);
        let again = Given::restored(given.kept().collect::<Vec<_>>(), NOW);
        assert_eq!(again, given);
        let tomorrow = NOW.plus_ms(DAY_MS);
        assert!(!given.is_spent(&one, 10, tomorrow));
        assert_eq!(Given::restored(given.kept().collect::<Vec<_>>(), tomorrow).kept().count(), 0);
        given.took(one.peer, tomorrow);
        assert_eq!(given.kept().collect::<Vec<_>>(), [(one.peer, 1001, 1)]);
    }

    #[test]
    fn a_crowd_of_newcomers_is_bounded_and_makes_nobody_forgotten() {
        let mut given = Given::default();
        let first = newcomer(0);
        (0..10).for_each(|_| given.took(first.peer, NOW));
        for n in 1..2000 {
            given.took(newcomer(n).peer, NOW);
        }
        assert_eq!(given.kept().count(), GIVEN_MAX);
        assert!(given.is_spent(&first, 10, NOW) && given.is_spent(&newcomer(5000), 10, NOW));
    }

    #[test]
    fn a_young_network_trusts_everybody() {
        let policy = PlacementPolicy::for_domains(10);
        let needed = policy.domains_needed() as u32;
        let views: Vec<PeerView> =
            (0..12).map(|n| PeerView { newcomer: n >= needed, ..peer(n, &format!("v{n}"), "EU/DE/FSN") }).collect();
        let all: Vec<&PeerView> = views.iter().collect();
        assert!(binds(&all, &policy) && !binds(&all[1..], &policy), "one aged peer less");
    }
}
