//! The same decision, told: one row per known peer, in a fixed order, for `cairn debug placement --explain`, the API
//! and the dashboard.

use std::{collections::BTreeMap, fmt};

use cairn_proto::{Domain, PeerKey, Region, Slot};
use serde::Serialize;

use super::{
    GroupPlan, GroupRequest, Rejection,
    independent::{self, Aside},
    rank::RankKey,
    rank_all, sift,
};
use crate::{colour::colour, peer_view::PeerView};

/// One peer and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Who.
    pub peer: PeerKey,
    /// Its pinned domain.
    pub domain: Domain,
    /// Its declared region.
    pub region: Region,
    /// Its colour in this group.
    pub colour: u8,
    /// Place in its colour class, 1 is first; `None` when it was not ranked.
    pub rank: Option<u32>,
    /// What became of it.
    pub verdict: Verdict,
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
        colour: u8::try_from(colour(&plan.ticket, &view.domain).index()).unwrap_or(u8::MAX),
        rank,
        verdict,
    };
    let mut out = Vec::with_capacity(peers.len());
    for (class, list) in rank_all(&fit, request.policy, &plan.ticket, &ranking) {
        let slot = plan.ticket.code().each_slot().find(|s| s.index() == class);
        let last_chosen = slot.and_then(|s| list.iter().rposition(|v| plan.chosen(s).contains(&v.peer)));
        for ((at, view), rank) in list.iter().enumerate().zip(1u32..) {
            let verdict =
                slot.map_or(Verdict::SpareColour, |s| told(plan, s, view, last_chosen.is_some_and(|l| at < l)));
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

fn told(plan: &GroupPlan, slot: Slot, view: &PeerView, before_a_chosen_one: bool) -> Verdict {
    if plan.chosen(slot).contains(&view.peer) {
        return Verdict::Chosen { slot };
    }
    let place = plan.replacements(slot).iter().zip(1u32..).find(|(p, _)| **p == view.peer);
    match place {
        None => Verdict::SameDomain { slot },
        Some((_, position)) if before_a_chosen_one && view.newcomer => Verdict::NewcomerQuota { slot, position },
        Some((_, position)) if before_a_chosen_one => Verdict::CappedRegion { slot, position },
        Some((_, position)) => Verdict::Replacement { slot, position },
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen { slot } => write!(f, "holds slot {slot}"),
            Self::Replacement { slot, position } => write!(f, "replacement {position} of slot {slot}"),
            Self::CappedRegion { slot, position } => {
                write!(f, "its region has enough slots; replacement {position} of slot {slot}")
            }
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
