//! How much repair there is at a time: token buckets of each group, of each peer and of ourselves; and which group comes
//! first.
//!
//! Overload slows repair down and never does anything else: storms are how other networks lost data
//! (research/networks.md, section 6, rows 5 and 6).
//!
//! # Invariants
//!
//! - **REP-2** Within any span of time a bucket lets through at most its rate times the span, and its burst; what is let
//!   through is taken from all buckets concerned, or from none. While we may be cut off ourselves nothing is let through, in
//!   a mass failure nothing but [`Priority::Critical`]. Enforced by [`Budget::take`]; attacked by
//!   `tests::no_window_gets_more_than_its_share` and `tests::all_buckets_or_none`.

use std::{cmp::Reverse, collections::BTreeMap};

use cairn_proto::{GroupId, PeerKey, SHARD_SIZE, Timestamp, wire::Priority};

use crate::{
    assess::{Assessment, GroupState, Need},
    liveness::Outage,
};

pub(crate) mod bucket;
#[cfg(test)]
mod tests;

use bucket::Bucket;
pub use bucket::Rate;

/// Groups and peers whose buckets are not full. A full bucket is as good as none and is dropped when there is no room, so
/// these bound only what goes on at a time, in about 5 MiB; beyond it has to wait until one is full again.
pub const GROUPS_MAX: usize = 16_384;
/// As above.
pub const PEERS_MAX: usize = 16_384;
/// After so long something refused for what is going on in the network is asked for again.
const LOOK_AGAIN: WaitMs = WaitMs(60_000);
/// Share of our measured upstream that repair may use, in hundredths.
const UPSTREAM_SHARE: u64 = 30;
/// Upstream taken for granted: less was measured when the line was full of something else, and repair must not stop for it.
const UPSTREAM_LEAST: u64 = 64 * 1024;
/// A burst of ourselves: what the rate gives in so many seconds.
const BURST_SECONDS: u64 = 60;
/// Smallest burst. Half of it is open to [`Priority::Low`], and a shard must fit in.
const BURST_LEAST: u64 = 4 * SHARD_SIZE as u64;

/// Try again in so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitMs(pub u64);

impl WaitMs {
    /// It is more than this bucket ever holds: ask for less at a time.
    pub const NEVER: Self = Self(u64::MAX);
}

/// What goes on in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing special.
    Fair,
    /// Many failed at once: only what cannot wait.
    MassFailure,
    /// It may be we who are cut off: nothing.
    OwnOutage,
}

impl Weather {
    /// By what [`crate::liveness::Watch`] says.
    #[must_use]
    pub const fn of(outage: &Outage, mass_failure: bool) -> Self {
        match (outage, mass_failure) {
            (Outage::Suspected { .. }, _) => Self::OwnOutage,
            (Outage::None, true) => Self::MassFailure,
            (Outage::None, false) => Self::Fair,
        }
    }

    const fn lets(self, class: Priority) -> bool {
        match self {
            Self::Fair => true,
            Self::MassFailure => matches!(class, Priority::Critical),
            Self::OwnOutage => false,
        }
    }
}

/// Rates of one group and of one peer; our own follows from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of a group: 2 MiB a second rebuild three lost slots of 256 stripes in seven minutes, well within the hour of the
    /// emergency path.
    pub group: Rate,
    /// Of a peer: 1 MiB a second, so that a holder's line is not filled by the repair of others.
    pub peer: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { group: Rate::new(2 * MIB, 64 * MIB), peer: Rate::new(MIB, 32 * MIB) }
    }
}

/// All buckets.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: Limits,
    ours: Bucket,
    groups: BTreeMap<GroupId, Bucket>,
    peers: BTreeMap<PeerKey, Bucket>,
}

impl Budget {
    /// Full buckets. `upstream`: bytes a second, measured.
    #[must_use]
    pub fn new(limits: Limits, upstream: u64, now: Timestamp) -> Self {
        let limits = Limits { group: at_least(limits.group), peer: at_least(limits.peer) };
        Self { limits, ours: Bucket::full(our_rate(upstream), now), groups: BTreeMap::new(), peers: BTreeMap::new() }
    }

    /// The upstream was measured again. What was gathered stays, as far as the new burst has room for it.
    pub fn set_upstream(&mut self, upstream: u64, now: Timestamp) {
        self.ours.set_rate(our_rate(upstream), now);
    }

    /// Most bytes that [`Budget::take`] ever lets through at once in this class: whoever has more to move asks for a part of it at a time,
    /// and each bucket's burst stays what REP-2 says it is. Two shards at least.
    #[must_use]
    pub fn most_at_once(&self, class: Priority) -> u64 {
        let rates = [self.ours.rate(), self.limits.group, self.limits.peer];
        rates.into_iter().map(|rate| rate.open_to(class)).min().unwrap_or(0)
    }

    /// Lets a transfer through, or says when to ask again. `peers`: everybody it burdens beside us; each is charged
    /// once.
    ///
    /// The less urgent, the more it leaves in each bucket: [`Priority::Critical`] may empty it, [`Priority::High`] and
    /// [`Priority::Normal`] leave a quarter of the burst, [`Priority::Low`] half, so that an emergency does not wait for what
    /// rebalancing used up.
    ///
    /// # Errors
    /// The longest wait of any bucket concerned. Nothing was taken then.
    pub fn take(
        &mut self,
        now: Timestamp,
        weather: Weather,
        class: Priority,
        group: GroupId,
        peers: &[PeerKey],
        bytes: u64,
    ) -> Result<(), WaitMs> {
        if !weather.lets(class) {
            return Err(LOOK_AGAIN);
        }
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        peers.dedup();
        let mut wait = self.ours.wait(now, class, bytes);
        wait = wait.max(wait_in(&self.groups, &group, self.limits.group, now, class, bytes));
        for peer in &peers {
            wait = wait.max(wait_in(&self.peers, peer, self.limits.peer, now, class, bytes));
        }
        wait = wait.max(make_room(&mut self.groups, GROUPS_MAX, &[group], now));
        wait = wait.max(make_room(&mut self.peers, PEERS_MAX, &peers, now));
        if let Some(wait) = wait {
            return Err(wait);
        }
        self.ours.take(now, bytes);
        self.groups.entry(group).or_insert_with(|| Bucket::full(self.limits.group, now)).take(now, bytes);
        for peer in peers {
            self.peers.entry(peer).or_insert_with(|| Bucket::full(self.limits.peer, now)).take(now, bytes);
        }
        Ok(())
    }
}

fn our_rate(upstream: u64) -> Rate {
    let rate = upstream.max(UPSTREAM_LEAST) / 100 * UPSTREAM_SHARE;
    at_least(Rate::new(rate, rate.saturating_mul(BURST_SECONDS)))
}

fn at_least(rate: Rate) -> Rate {
    Rate::new(rate.bytes_per_s(), rate.burst().max(BURST_LEAST))
}

fn wait_in<K: Ord>(
    buckets: &BTreeMap<K, Bucket>,
    key: &K,
    rate: Rate,
    now: Timestamp,
    class: Priority,
    bytes: u64,
) -> Option<WaitMs> {
    buckets.get(key).copied().unwrap_or_else(|| Bucket::full(rate, now)).wait(now, class, bytes)
}

/// Drops full buckets when there is no room for those that these need; or says how long until another is full.
fn make_room<K: Ord>(buckets: &mut BTreeMap<K, Bucket>, most: usize, keys: &[K], now: Timestamp) -> Option<WaitMs> {
    let fits = |buckets: &BTreeMap<K, Bucket>| {
        buckets.len() + keys.iter().filter(|key| !buckets.contains_key(key)).count() <= most
    };
    if keys.len() > most {
        return Some(WaitMs::NEVER);
    }
    if fits(buckets) {
        return None;
    }
    buckets.retain(|_, bucket| bucket.full_in(now) > WaitMs(0));
    if fits(buckets) { None } else { buckets.values().map(|bucket| bucket.full_in(now)).min() }
}

/// Which group comes first; the least is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    /// Its class, which the transfers have too.
    pub class: Priority,
    /// Then the likeliest to be lost: a chance as the bits of a float that is not negative, whose order is its own.
    risk: Reverse<u64>,
    /// Then any order, the same for everybody.
    group: GroupId,
}

/// How urgent a group is: critical when it stands at k + 1 or below or is lost, as what is left of it must be copied; high
/// when a slot has nobody to copy from; normal when copies are missing; low when it is healthy. Within a class by
/// [`Assessment::risk`], the lowest expected survival first.
#[must_use]
pub fn priority(assessment: &Assessment, group: GroupId) -> Urgency {
    let class = match assessment.state {
        GroupState::Critical | GroupState::Lost => Priority::Critical,
        GroupState::Degraded if assessment.needs.iter().any(|need| matches!(need, Need::Rebuild { .. })) => {
            Priority::High
        }
        GroupState::Degraded => Priority::Normal,
        GroupState::Healthy => Priority::Low,
    };
    // `max` also takes what is no number for zero.
    Urgency { class, risk: Reverse(assessment.risk.max(0.0).to_bits()), group }
}
