//! Chooses which peers hold which slot of a new group, and says why.
//!
//! Pure: no clock, no I/O, no chance of its own. Equal inputs give equal plans on every machine and in the
//! simulator: decisions use integers and ordered maps only. A group is planned once; from then on its ticket fixes
//! who may ever hold what (see [`crate::colour`]), and only the order of replacements is asked again
//! ([`candidates`]).
//!
//! The leaves: [`policy`] (what must be met), [`eligible`](mod@eligible) (who may), [`salt`] (a salt that gives every slot its peers),
//! `independent` (who counts as somebody else), [`rank`] (who first), `newcomers` (how much they may hold), `spread`
//! (caps of regions and networks, by `assign`), [`replace`](mod@replace) (who takes over), [`clump`] (whether it still stands apart), [`stewards`](stewards()) (who watches), [`explain`](mod@explain) (the same, told).
//!
//! # Invariants
//!
//! - **SEP-1** A plan offers a domain at most one slot, the one of its colour, and nothing to the owner's domain.
//!   Enforced by [`plan_group`] through [`crate::colour::colour`] and [`eligible::eligible`]; attacked by
//!   `tests::no_domain_ever_gets_two_slots` and by `cairn-sim`'s `separation` scenario.
//! - **SEP-2** Candidates of one slot are of different domains; no continent holds more than m slots alone, and no
//!   known autonomous system more than m - 1, when the network can do better, and what cannot is in
//!   [`GroupPlan::relaxations`]. Enforced by `spread`; attacked by
//!   `tests::regions_are_capped_when_brute_force_finds_a_way` and `tests::networks::both_caps_against_brute_force`.

mod assign;
pub mod clump;
pub mod eligible;
pub mod explain;
mod independent;
mod newcomers;
pub mod policy;
pub mod rank;
pub mod replace;
pub mod salt;
mod spread;
mod stewards;
pub mod vetting;

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{GroupTicket, PeerKey, Slot, Timestamp};
use rand_core::CryptoRng;
use serde::Serialize;

pub use eligible::{Owner, Rejection, eligible};
pub use explain::{Candidate, Latency, Verdict, explain, set_aside};
pub use independent::count as count_independent;
pub use policy::{
    PlacementPolicy, PolicyNotice, RegionCaps, Strategy, StrategyChoice, StrategyReason, Thresholds, domains_that_fit,
};
pub use replace::{Replacement, Vacancy, replacements};
pub use stewards::stewards;

use self::{
    rank::{RankKey, Score, Weights},
    salt::{Continents, NoDraw},
};
use crate::{colour::colour, peer_view::PeerView};

/// What a group is wanted for.
#[derive(Clone, Debug)]
pub struct GroupRequest<'a> {
    /// Whose group.
    pub owner: Owner,
    /// The group's Ed25519 authority; part of its ticket.
    pub authority: [u8; 32],
    /// What has to be met.
    pub policy: &'a PlacementPolicy,
    /// Peers that failed in this run: not candidates.
    pub avoid: &'a BTreeSet<PeerKey>,
    /// Now, for staleness.
    pub now: Timestamp,
    /// The owner's secret for the randomised strategy's ranking. Without it the ranking is keyed with the salt.
    pub owner_key: Option<[u8; 32]>,
}

/// Who may hold what in a new group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    /// What defines the group from now on.
    pub ticket: GroupTicket,
    /// Where salt and ranking came from.
    pub strategy: Strategy,
    /// Per slot, candidates of its colour in different domains: the first [`GroupPlan::replicas`] are the choice,
    /// the rest replacements, best first.
    pub slots: Vec<Vec<PeerKey>>,
    /// Holders per slot.
    pub replicas: usize,
    /// What was wanted and could not be had.
    pub relaxations: Vec<Relaxation>,
    /// Salts looked at.
    pub tries: u32,
}

impl GroupPlan {
    /// The chosen holders of a slot; empty for a slot that the code does not have.
    #[must_use]
    pub fn chosen(&self, slot: Slot) -> &[PeerKey] {
        self.slots.get(slot.index()).map_or(&[], |list| &list[..self.replicas.min(list.len())])
    }

    /// The replacements of a slot, best first.
    #[must_use]
    pub fn replacements(&self, slot: Slot) -> &[PeerKey] {
        self.slots.get(slot.index()).map_or(&[], |list| &list[self.replicas.min(list.len())..])
    }
}

/// A wish that the network cannot meet. Reported, never hidden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Relaxation {
    /// A continent holds more slots alone than the code can lose.
    RegionCap {
        /// The continent; empty: peers that did not say where they are.
        region: String,
        /// Slots that stand or fall with it.
        slots: u8,
        /// What was allowed.
        limit: u8,
    },
    /// Newcomers hold more of the group than their quota, because there are too few aged peers.
    Newcomers {
        /// Places that newcomers hold.
        places: u8,
        /// What was allowed.
        limit: u8,
    },
    /// A network holds more slots alone than it may.
    NetworkCap {
        /// The autonomous system.
        network: u32,
        /// Slots that stand or fall with it.
        slots: u8,
        /// What was allowed.
        limit: u8,
    },
    /// The group touches fewer continents than wanted.
    FewRegions {
        /// Continents touched.
        found: u8,
        /// Wanted.
        wanted: u8,
    },
}

/// Why no group can be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Not enough independent peers.
    #[error(
        "{eligible_domains} independent peers can take shards and {needed_domains} are needed: {more} more, for {}",
        classes_text(.classes)
    )]
    TooFewPeers {
        /// Different domains among eligible peers.
        eligible_domains: usize,
        /// n x r.
        needed_domains: usize,
        /// How many more independent peers are needed.
        more: usize,
        /// Colour classes (slots) that lacked a peer in the best draw.
        classes: Vec<u8>,
        /// Peers that are known and may not, with the reason.
        rejected: Vec<(PeerKey, Rejection)>,
    },
    /// The policy cannot make a ticket.
    #[error("the placement policy is not possible: {0}")]
    Policy(#[from] cairn_proto::DecodeError),
}

fn classes_text(classes: &[u8]) -> String {
    let list: Vec<String> = classes.iter().map(u8::to_string).collect();
    format!("colour {} {}", if list.len() == 1 { "class" } else { "classes" }, list.join(", "))
}

impl PlacementError {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::TooFewPeers { more, rejected, .. } => {
                let mut text = format!("start or invite {more} more storage peers in other domains");
                if !rejected.is_empty() {
                    text.push_str(&format!(
                        "; {} known peers were refused, `cairn debug placement --explain` says why",
                        rejected.len()
                    ));
                }
                text
            }
            Self::Policy(_) => "check the placement section of the configuration".to_owned(),
        }
    }
}

/// Plans one new group, or says what is missing.
///
/// # Errors
/// [`PlacementError`].
pub fn plan_group<R: CryptoRng + ?Sized>(
    peers: &[PeerView],
    request: &GroupRequest<'_>,
    rng: &mut R,
) -> Result<GroupPlan, PlacementError> {
    let policy = request.policy;
    let race = Race::of(peers, request);
    let (strategy, domains) = (race.strategy, race.domains.len());
    let aged: Vec<&PeerView> = race.fit.iter().copied().filter(|v| !v.newcomer).collect();
    let aged = salt::continents(&aged);
    // Newcomers are held to their quota when a group can stand without them.
    let without = if aged.len() < domains && aged.len() >= policy.domains_needed() {
        salt::draw(&aged, request, strategy, rng)?.ok()
    } else {
        None
    };
    let quota = without.is_some().then(|| policy.newcomer_places());
    let draw = match without {
        Some(draw) => Ok(draw),
        None => salt::draw(&race.domains, request, strategy, rng)?,
    };
    let draw = match draw {
        Ok(draw) => draw,
        Err(none) => {
            let needed = policy.domains_needed();
            let more = needed.checked_sub(domains).filter(|n| *n > 0).unwrap_or(none.missing);
            return Err(race.too_few(needed, more, none));
        }
    };
    let ranking = RankKey::new(strategy, &draw.ticket, request.owner_key.as_ref());
    let mut ranked = rank_classes(&race.fit, request, &draw.ticket, &ranking);
    let replicas = usize::from(policy.replicas.max(1));
    let held_back =
        quota.map(|places| newcomers::hold_back(&mut ranked, replicas, places, draw.ticket.id().as_bytes()[0]));
    let mut relaxations = spread::choose(&mut ranked, replicas, &policy.regions);
    relaxations.extend(newcomers::relaxation(&ranked, replicas, policy));
    for (list, rest) in ranked.iter_mut().zip(held_back.unwrap_or_default()) {
        list.extend(rest);
    }
    let slots = keys(ranked);
    Ok(GroupPlan { ticket: draw.ticket, strategy, slots, replicas, relaxations, tries: draw.tries })
}

/// Plans a group that the network is too small for: as few slots as can be, and at most `room`, stay without a peer, for
/// fallback storage to take ([`crate::fallback`]). One peer a slot; regions are as they come.
///
/// # Errors
/// [`PlacementError::TooFewPeers`] when more slots than `room` would stay empty.
pub fn plan_leaning<R: CryptoRng + ?Sized>(
    peers: &[PeerView],
    request: &GroupRequest<'_>,
    room: usize,
    rng: &mut R,
) -> Result<GroupPlan, PlacementError> {
    let race = Race::of(peers, request);
    let strategy = race.strategy;
    let draw = match salt::draw_leaning(&race.domains, request, (strategy, room), rng)? {
        Ok(draw) => draw,
        Err(none) => {
            let more = none.missing.saturating_sub(room).max(1);
            return Err(race.too_few(request.policy.code.slots(), more, none));
        }
    };
    let ranking = RankKey::new(strategy, &draw.ticket, request.owner_key.as_ref());
    let slots = keys(rank_classes(&race.fit, request, &draw.ticket, &ranking));
    Ok(GroupPlan { ticket: draw.ticket, strategy, slots, replicas: 1, relaxations: Vec::new(), tries: draw.tries })
}

/// Who may be in a new group, and how its salt is drawn.
struct Race<'a> {
    fit: Vec<&'a PeerView>,
    domains: Continents<'a>,
    rejected: Vec<(PeerKey, Rejection)>,
    strategy: Strategy,
}

impl<'a> Race<'a> {
    fn of(peers: &'a [PeerView], request: &GroupRequest<'_>) -> Self {
        let (fit, rejected) = sift(peers, request);
        let (fit, _) = independent::thin(&fit, &request.authority);
        let domains = salt::continents(&fit);
        Self { fit, domains, rejected, strategy: request.policy.strategy_for(peers) }
    }

    /// No draw gives every slot what it needs.
    fn too_few(self, needed_domains: usize, more: usize, none: NoDraw) -> PlacementError {
        let (eligible_domains, rejected) = (self.domains.len(), self.rejected);
        PlacementError::TooFewPeers { eligible_domains, needed_domains, more, classes: none.classes, rejected }
    }
}

fn keys(ranked: Vec<Vec<&PeerView>>) -> Vec<Vec<PeerKey>> {
    ranked.into_iter().map(|list| list.into_iter().map(|v| v.peer).collect()).collect()
}

/// Ranked candidates per slot of a group that exists: for replacements after its plan is gone, and for repair. By
/// rank alone: [`replacements`] weighs who else holds the group.
#[must_use]
pub fn candidates(
    peers: &[PeerView],
    request: &GroupRequest<'_>,
    ticket: &GroupTicket,
    strategy: Strategy,
) -> Vec<Vec<PeerKey>> {
    let (fit, _) = sift(peers, request);
    let (fit, _) = independent::best_of_domains(&fit);
    let ranking = RankKey::new(strategy, ticket, request.owner_key.as_ref());
    keys(rank_classes(&fit, request, ticket, &ranking))
}

/// Parts peers into those that may be given something and those that may not, both by peer key.
fn sift<'a>(peers: &'a [PeerView], request: &GroupRequest<'_>) -> (Vec<&'a PeerView>, Vec<(PeerKey, Rejection)>) {
    let by_key: BTreeMap<PeerKey, &PeerView> = peers.iter().map(|v| (v.peer, v)).collect();
    let mut fit = Vec::new();
    let mut rejected = Vec::new();
    for (peer, view) in by_key {
        match verdict(view, request) {
            Ok(()) => fit.push(view),
            Err(reason) => rejected.push((peer, reason)),
        }
    }
    (fit, rejected)
}

fn verdict(view: &PeerView, request: &GroupRequest<'_>) -> Result<(), Rejection> {
    eligible(view, &request.owner, request.policy, request.now)?;
    if request.avoid.contains(&view.peer) { Err(Rejection::Avoided) } else { Ok(()) }
}

/// Per slot, the fit peers of its colour, best first, one per domain.
fn rank_classes<'a>(
    fit: &[&'a PeerView],
    request: &GroupRequest<'_>,
    ticket: &GroupTicket,
    ranking: &RankKey,
) -> Vec<Vec<&'a PeerView>> {
    let mut seen = BTreeSet::new();
    let mut slots = vec![Vec::new(); ticket.code().slots()];
    for (class, list) in rank_all(fit, request, ticket, ranking) {
        if let Some(slot) = slots.get_mut(class) {
            slot.extend(list.into_iter().filter(|v| seen.insert(&v.domain)));
        }
    }
    slots
}

/// Every class that has fit peers, ranked; several peers of a domain included.
fn rank_all<'a>(
    fit: &[&'a PeerView],
    request: &GroupRequest<'_>,
    ticket: &GroupTicket,
    ranking: &RankKey,
) -> BTreeMap<usize, Vec<&'a PeerView>> {
    let weights = Weights::new(fit, request.policy, request.now);
    let mut classes: BTreeMap<usize, Vec<(Score, &PeerView)>> = BTreeMap::new();
    for view in fit.iter().copied() {
        let score = ranking.score(&view.peer, weights.capped(view));
        classes.entry(colour(ticket, &view.domain).index()).or_default().push((score, view));
    }
    classes
        .into_iter()
        .map(|(class, mut list)| {
            list.sort_by_key(|(score, view)| (*score, view.peer));
            (class, list.into_iter().map(|(_, view)| view).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests;
