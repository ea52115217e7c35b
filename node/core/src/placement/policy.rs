//! What a placement has to meet: the code, the replicas, the caps and the thresholds of eligibility.
//!
//! Decides which shape fits a network of a given size. Never looks at a single peer's fitness (that is
//! [`super::eligible()`]) and never chooses one.

use std::fmt;

use cairn_proto::{CodeParams, PROTOCOL_VERSION, message::Roles};
use serde::Serialize;

use crate::peer_view::{PeerView, PerMille};

/// Below this many storage domains the network is run in low-peer mode.
pub const LOW_PEER_BELOW: usize = 10;
/// From this many storage domains on, every shard gets a second replica: with 32 domains and nine colours a salt
/// that gives every class two domains turns up every fourth draw; with 24 every thirty-third.
pub const TWO_REPLICAS_FROM: usize = 32;

/// Where the salt and the ranking come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Salt from the group's authority and a try counter, ranking keyed with the salt: anyone can recheck.
    Deterministic,
    /// Salt from a CSPRNG, ranking keyed with a secret of the owner: what the owner measured stays private.
    Randomised,
}

/// Which strategy a policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyChoice {
    /// Deterministic while more than [`PlacementPolicy::deterministic_above`] of the known peers answer; once it is,
    /// until no more than [`PlacementPolicy::deterministic_until`] do.
    ByReachability,
    /// Always this one.
    Always(Strategy),
}

/// Hard limits of a peer's fitness. Every refusal names the limit it broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    /// Protocol version to speak, exactly.
    pub protocol: u32,
    /// Shards that must fit into the free space, and that the load is reckoned with.
    pub shards_expected: u32,
    /// Load of the pledge after `shards_expected` more shards, at most.
    pub load_max: PerMille,
    /// Loss of 24 h that is already too much.
    pub loss_below: PerMille,
    /// Standing that a peer with history must exceed.
    pub reputation_above: PerMille,
    /// Standing that a newcomer within its quota must at least have: where everyone starts, so that a newcomer with
    /// one bad mark waits.
    pub newcomer_reputation_min: PerMille,
    /// Longest silence, in milliseconds, of a peer that no connection vouches for.
    pub silence_ms_max: u64,
    /// Silence of such a peer, in milliseconds, that its adverts do not explain: it is asked when there is nobody better.
    pub silence_ms_doubtful: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            shards_expected: 2,
            load_max: 700,
            loss_below: 50,
            reputation_above: 700,
            newcomer_reputation_min: 500,
            // Six times the 300 s after which silence counts as late: adverts travel by gossip, and one that was lost
            // must not empty the candidate list.
            silence_ms_max: 30 * 60 * 1000,
            // An advert goes out every ten minutes; half as long again for gossip that takes its time.
            silence_ms_doubtful: 15 * 60 * 1000,
        }
    }
}

/// Spread over regions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionCaps {
    /// Slots that one continent may hold alone; m by default, so that losing it leaves k.
    pub slots_max: u8,
    /// Slots that one network (autonomous system), where it is known, may hold alone; m - 1 by default, so that losing it
    /// together with one more peer leaves k.
    pub network_slots_max: u8,
    /// Continents that a group should touch where the network has them.
    pub regions_wanted: u8,
    /// Further salts to look at when the first fitting one breaks `slots_max` although the network could do better.
    /// 0: regions are relaxed.
    pub extra_salts: u32,
}

/// What one group's placement has to meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacementPolicy {
    /// The erasure code.
    pub code: CodeParams,
    /// Colours beyond n + 1, in reserve for a later, longer code.
    pub spare_colours: u8,
    /// Copies of each shard, in different domains; at least 1.
    pub replicas: u8,
    /// Which strategy.
    pub strategy: StrategyChoice,
    /// Share of known peers that must be reachable for the deterministic strategy: more than this.
    pub deterministic_above: PerMille,
    /// ... and below which it is given up again, so that a few peers that come and go do not change it with every group.
    pub deterministic_until: PerMille,
    /// The strategy of the group before; `None` when nobody remembers.
    pub strategy_before: Option<Strategy>,
    /// Hard eligibility.
    pub thresholds: Thresholds,
    /// Region caps.
    pub regions: RegionCaps,
    /// Share of a group's places (slots x replicas) that newcomers may hold while there are enough aged peers.
    pub newcomer_share: PerMille,
    /// Round-trip time up to which a peer is preferred, in milliseconds.
    pub rtt_preferred_ms: u32,
    /// What the user must be told each time about this policy.
    pub notice: Option<PolicyNotice>,
}

/// Why a policy is weaker than the full one; shown to the user at each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyNotice {
    /// Fewer than ten storage domains: RS(3,2), regions relaxed.
    LowPeer {
        /// Different domains among peers that can take shards.
        domains: usize,
    },
    /// Fewer than 32 storage domains: one copy of each shard.
    SingleReplica {
        /// Different domains among peers that can take shards.
        domains: usize,
    },
}

impl fmt::Display for PolicyNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LowPeer { domains } => write!(
                f,
                "low-peer mode: only {domains} independent peers can take shards, so stripes are RS(3,2) and regions \
                 are not spread; recruit peers until there are {LOW_PEER_BELOW}"
            ),
            Self::SingleReplica { domains } => write!(
                f,
                "{domains} independent peers can take shards, so each shard is kept once; from {TWO_REPLICAS_FROM} \
                 on it is kept twice"
            ),
        }
    }
}

/// How many independent peers the default thresholds let take shards, whoever the owner is.
#[must_use]
pub fn domains_that_fit(peers: &[PeerView]) -> usize {
    let limits = Thresholds::default();
    let fit: Vec<&PeerView> = peers.iter().filter(|p| super::eligible::fit(p, &limits).is_ok()).collect();
    super::independent::count(&fit)
}

impl PlacementPolicy {
    /// A policy of this shape with the default thresholds and caps.
    #[must_use]
    pub fn new(code: CodeParams, replicas: u8) -> Self {
        Self {
            code,
            spare_colours: 0,
            replicas: replicas.max(1),
            strategy: StrategyChoice::ByReachability,
            deterministic_above: 800,
            deterministic_until: 750,
            strategy_before: None,
            thresholds: Thresholds::default(),
            regions: RegionCaps {
                slots_max: u8::try_from(code.parity()).unwrap_or(u8::MAX),
                network_slots_max: u8::try_from(code.parity().saturating_sub(1).max(1)).unwrap_or(u8::MAX),
                regions_wanted: 3,
                extra_salts: 64,
            },
            newcomer_share: 125,
            rtt_preferred_ms: 100,
            notice: None,
        }
    }

    /// The policy that fits the network as these views show it: by the number of different domains, one for each
    /// subnet, among peers that the default thresholds let take shards, whoever the owner is. Full or failing peers do not count, so a network
    /// that is short of room falls back to fewer replicas before it refuses.
    #[must_use]
    pub fn for_network(peers: &[PeerView]) -> Self {
        Self::for_domains(domains_that_fit(peers))
    }

    /// The policy for a network of this many storage domains.
    #[must_use]
    pub fn for_domains(domains: usize) -> Self {
        if domains < LOW_PEER_BELOW {
            let mut policy = Self::new(CodeParams::LOW_PEER, 1);
            policy.regions.extra_salts = 0;
            policy.notice = Some(PolicyNotice::LowPeer { domains });
            policy
        } else if domains < TWO_REPLICAS_FROM {
            let mut policy = Self::new(CodeParams::DEFAULT, 1);
            policy.notice = Some(PolicyNotice::SingleReplica { domains });
            policy
        } else {
            Self::new(CodeParams::DEFAULT, 2)
        }
    }

    /// C: slots, one class of stewards, the spare ones.
    #[must_use]
    pub fn colours(&self) -> u8 {
        // n <= 32, so only an absurd number of spare colours saturates; still a legal C.
        u8::try_from(self.code.slots() + 1).unwrap_or(u8::MAX).saturating_add(self.spare_colours)
    }

    /// n x r: the fewest eligible domains with which a group can stand.
    #[must_use]
    pub fn domains_needed(&self) -> usize {
        self.code.slots() * usize::from(self.replicas.max(1))
    }

    /// Places that newcomers may hold in a group; always one, so that they can show what they are worth.
    #[must_use]
    pub fn newcomer_places(&self) -> usize {
        (self.domains_needed() * usize::from(self.newcomer_share) / 1000).max(1)
    }

    /// The strategy that the state of the network asks for.
    #[must_use]
    pub fn strategy_for(&self, peers: &[PeerView]) -> Strategy {
        self.strategy_of(peers).strategy
    }

    /// The same with the figures that it rests on.
    #[must_use]
    pub fn strategy_of(&self, peers: &[PeerView]) -> StrategyReason {
        let stores = |p: &&PeerView| p.roles.has(Roles::STORAGE);
        let known = peers.iter().filter(stores).count();
        let answering = peers.iter().filter(stores).filter(|p| p.reachable == Some(true)).count();
        let limit = match self.strategy_before {
            Some(Strategy::Deterministic) => self.deterministic_until.min(self.deterministic_above),
            Some(Strategy::Randomised) | None => self.deterministic_above,
        };
        let strategy = match self.strategy {
            StrategyChoice::Always(strategy) => strategy,
            StrategyChoice::ByReachability if answering * 1000 > known * usize::from(limit) => Strategy::Deterministic,
            StrategyChoice::ByReachability => Strategy::Randomised,
        };
        StrategyReason { strategy, known, answering, limit }
    }
}

/// Why a strategy is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StrategyReason {
    /// Which.
    pub strategy: Strategy,
    /// Storage peers that are known ...
    pub known: usize,
    /// ... and those of them that answer.
    pub answering: usize,
    /// Share of these, in thousandths, above which it is the deterministic one.
    pub limit: PerMille,
}
