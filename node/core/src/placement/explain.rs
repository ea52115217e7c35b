//! The same decision, told: one row per known peer, in a fixed order, for `cairn debug placement --explain`, the API
//! and the dashboard.

use std::{collections::BTreeMap, fmt};

use cairn_proto::{Domain, PeerKey, Region, Slot};
use serde::Serialize;

use super::{
    GroupPlan, GroupRequest, PlacementPolicy, RegionCaps, Rejection,
    assign::Hold,
    independent::{self, Aside},
    rank::RankKey,
    rank_all, sift, spread,
};
use crate::{colour::colour, peer_view::PeerView};

/// One peer and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Who.
    pub peer: PeerKey,
    /// Its pinned domain.
    pub domain: Domain,
    /// Where it is taken to be.
    pub region: Region,
    /// Its autonomous system, where known.
    pub network: Option<u32>,
    /// What its distance does for its rank: a preference, never a rule.
    pub latency: Latency,
    /// Its colour in this group.
    pub colour: u8,
    /// Place in its colour class, 1 is first; `None` when it was not ranked.
    pub rank: Option<u32>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What a peer's distance does for its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "latency", rename_all = "snake_case")]
pub enum Latency {
    /// Near enough: full weight.
    Preferred {
        /// Round trip.
        rtt_ms: u32,
        /// Must be below.
        limit_ms: u32,
    },
    /// Too far to be preferred: half the weight.
    Beyond {
        /// Round trip.
        rtt_ms: u32,
        /// Must be below.
        limit_ms: u32,
    },
    /// Never measured: three quarters of the weight.
    Unmeasured {
        /// Must be below.
        limit_ms: u32,
    },
}

impl Latency {
    pub(super) fn of(view: &PeerView, policy: &PlacementPolicy) -> Self {
        let limit_ms = policy.rtt_preferred_ms;
        match view.rtt_ms {
            Some(rtt_ms) if rtt_ms < limit_ms => Self::Preferred { rtt_ms, limit_ms },
            Some(rtt_ms) => Self::Beyond { rtt_ms, limit_ms },
            None => Self::Unmeasured { limit_ms },
        }
    }

    /// Its part of the weight, in quarters.
    pub(super) const fn quarters(self) -> u64 {
        match self {
            Self::Preferred { .. } => 4,
            Self::Unmeasured { .. } => 3,
            Self::Beyond { .. } => 2,
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preferred { rtt_ms, limit_ms } => write!(f, "{rtt_ms} ms away (below {limit_ms} ms is preferred)"),
            Self::Beyond { rtt_ms, limit_ms } => {
                write!(f, "{rtt_ms} ms away, half the weight (below {limit_ms} ms is preferred)")
            }
            Self::Unmeasured { limit_ms } => {
                write!(f, "never measured, three quarters of the weight (below {limit_ms} ms is preferred)")
            }
        }
    }
}

/// What became of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Holds the slot.
    Chosen {
        /// The slot.
        slot: Slot,
    },
    /// Takes over when a chosen one fails.
    Replacement {
        /// The slot.
        slot: Slot,
        /// 1 is asked first.
        position: u32,
    },
    /// Ranked before a chosen one, but its region had enough; a replacement all the same.
    CappedRegion {
        /// The slot.
        slot: Slot,
        /// As for a replacement.
        position: u32,
        /// Other slots that its region holds alone.
        held: u8,
        /// How many one may.
        limit: u8,
    },
    /// The same with its autonomous system.
    CappedNetwork {
        /// The slot.
        slot: Slot,
        /// As for a replacement.
        position: u32,
        /// The autonomous system.
        network: u32,
        /// Other slots that it holds alone.
        held: u8,
        /// How many one may.
        limit: u8,
    },
    /// Another peer of its domain ranks before it.
    SameDomain {
        /// The slot.
        slot: Slot,
    },
    /// Ranked before a chosen one, but newcomers have their share of the group; a replacement all the same.
    NewcomerQuota {
        /// The slot.
        slot: Slot,
        /// As for a replacement.
        position: u32,
    },
    /// Its domain has peers that are known for longer, or stand where the domain's name says; they come first.
    LesserClaim,
    /// Another domain speaks for its subnet in this group.
    SameSubnet {
        /// The subnet.
        subnet: Domain,
        /// The domain that speaks.
        speaker: Domain,
    },
    /// Its colour is the stewards' or a spare one: never a holder in this group.
    SpareColour,
    /// Not eligible.
    Rejected {
        /// Why.
        reason: Rejection,
    },
}

/// Tells what became of every known peer in this plan; by slot, then rank, then the others by peer key. `peers` and
/// `request` are those that the plan was made from.
#[must_use]
pub fn explain(peers: &[PeerView], request: &GroupRequest<'_>, plan: &GroupPlan) -> Vec<Candidate> {
    let (fit, rejected) = sift(peers, request);
    let (fit, aside) = independent::thin(&fit, plan.ticket.authority());
    let ranking = RankKey::new(plan.strategy, &plan.ticket, request.owner_key.as_ref());
    let views: BTreeMap<PeerKey, &PeerView> = peers.iter().map(|v| (v.peer, v)).collect();
    let row = |view: &PeerView, rank: Option<u32>, verdict: Verdict| Candidate {
        peer: view.peer,
        domain: view.domain.clone(),
        region: view.region.clone(),
        network: view.network,
        latency: Latency::of(view, request.policy),
        colour: u8::try_from(colour(&plan.ticket, &view.domain).index()).unwrap_or(u8::MAX),
        rank,
        verdict,
    };
    let chosen: Vec<Vec<&PeerView>> = plan
        .slots
        .iter()
        .map(|list| list.iter().take(plan.replicas).filter_map(|p| views.get(p).copied()).collect())
        .collect();
    let spread = Spread { caps: &request.policy.regions, holds: spread::holds(&chosen, plan.replicas) };
    let mut out = Vec::with_capacity(peers.len());
    for (class, list) in rank_all(&fit, request, &plan.ticket, &ranking) {
        let slot = plan.ticket.code().each_slot().find(|s| s.index() == class);
        let last_chosen = slot.and_then(|s| list.iter().rposition(|v| plan.chosen(s).contains(&v.peer)));
        for ((at, view), rank) in list.iter().enumerate().zip(1u32..) {
            let verdict = slot
                .map_or(Verdict::SpareColour, |s| told(plan, &spread, s, view, last_chosen.is_some_and(|l| at < l)));
            out.push(row(view, Some(rank), verdict));
        }
    }
    for (view, why) in aside {
        out.push(row(view, None, why.into()));
    }
    for (peer, reason) in rejected {
        if let Some(view) = views.get(&peer) {
            out.push(row(view, None, Verdict::Rejected { reason }));
        }
    }
    out
}

/// Peers that are fit and still not in the race for a group of the request's authority, with the reason: what there is
/// to tell when no plan can be made.
#[must_use]
pub fn set_aside(peers: &[PeerView], request: &GroupRequest<'_>) -> Vec<(PeerKey, Verdict)> {
    let (fit, _) = sift(peers, request);
    let (_, aside) = independent::thin(&fit, &request.authority);
    aside.into_iter().map(|(view, why)| (view.peer, why.into())).collect()
}

impl From<Aside> for Verdict {
    fn from(aside: Aside) -> Self {
        match aside {
            Aside::OfItsDomain => Self::LesserClaim,
            Aside::OfItsSubnet { subnet, speaker } => Self::SameSubnet { subnet, speaker },
        }
    }
}

/// What the chosen ones make each slot depend on, and how much of that is allowed.
struct Spread<'a> {
    caps: &'a RegionCaps,
    holds: Vec<Hold<'a>>,
}

impl Spread<'_> {
    /// Which cap keeps this peer out of a slot that a lesser ranked one has.
    fn capped(&self, slot: Slot, view: &PeerView, position: u32) -> Verdict {
        let others = || self.holds.iter().enumerate().filter(|(at, _)| *at != slot.index()).map(|(_, hold)| hold);
        let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let held = small(others().filter(|hold| hold.continent == Some(view.region.continent())).count());
        let limit = self.caps.slots_max;
        let in_network = view.network.map(|n| (n, small(others().filter(|hold| hold.network == Some(n)).count())));
        match in_network {
            Some((network, of)) if held < limit && of >= self.caps.network_slots_max => {
                Verdict::CappedNetwork { slot, position, network, held: of, limit: self.caps.network_slots_max }
            }
            _ => Verdict::CappedRegion { slot, position, held, limit },
        }
    }
}

fn told(plan: &GroupPlan, spread: &Spread<'_>, slot: Slot, view: &PeerView, before_a_chosen_one: bool) -> Verdict {
    if plan.chosen(slot).contains(&view.peer) {
        return Verdict::Chosen { slot };
    }
    let place = plan.replacements(slot).iter().zip(1u32..).find(|(p, _)| **p == view.peer);
    match place {
        None => Verdict::SameDomain { slot },
        Some((_, position)) if before_a_chosen_one && view.newcomer => Verdict::NewcomerQuota { slot, position },
        Some((_, position)) if before_a_chosen_one => spread.capped(slot, view, position),
        Some((_, position)) => Verdict::Replacement { slot, position },
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen { slot } => write!(f, "holds slot {slot}"),
            Self::Replacement { slot, position } => write!(f, "replacement {position} of slot {slot}"),
            Self::CappedRegion { slot, position, held, limit } => write!(
                f,
                "its region has enough slots ({held} others, limit {limit}); replacement {position} of slot {slot}"
            ),
            Self::CappedNetwork { slot, position, network, held, limit } => write!(
                f,
                "its network AS{network} has enough slots ({held} others, limit {limit}); replacement {position} of \
                 slot {slot}"
            ),
            Self::SameDomain { slot } => write!(f, "another peer of its domain ranks before it for slot {slot}"),
            Self::NewcomerQuota { slot, position } => write!(
                f,
                "a newcomer (known for less than a day, or at no address that can be checked), and newcomers have \
                 their share of this group; replacement {position} of slot {slot}"
            ),
            Self::LesserClaim => f.write_str("other peers of its domain have the better claim to its name"),
            Self::SameSubnet { subnet, speaker } => {
                write!(f, "stands in {subnet}, for which {speaker} speaks in this group")
            }
            Self::SpareColour => f.write_str("its colour holds no shards in this group"),
            Self::Rejected { reason } => write!(f, "refused: {reason}"),
        }
    }
}
