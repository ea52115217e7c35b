//! Draws a salt that gives every slot of a new group its peers, by rejection: most draws fail in a small network and
//! the first succeeds in a large one (figures: 32 domains and nine colours, two peers each: one draw in four).
//!
//! Bounded: [`TRIES_MAX`] draws, each one hash per domain.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use cairn_proto::{DecodeError, Domain, GroupTicket, mandate::STEWARDS_MAX};
use rand_core::CryptoRng;

use super::{
    GroupRequest,
    policy::{PlacementPolicy, Strategy},
    spread,
};
use crate::{colour::colour, peer_view::PeerView};

/// Most salts looked at for one group. Eight domains for eight slots of nine colours fit once in 1070 draws and 16
/// domains for 8 x 2 once in 23,000, so a group that can stand is found with a probability above 94 % in the tightest
/// case that a policy asks for; 65,536 draws over 16 domains take about 0.2 s.
pub const TRIES_MAX: u32 = 1 << 16;
/// Draws after the first that fits, for better ones. The owner's own domain is of no slot's colour in one of nine, so 64 that fit have one
/// with all but certainty, and in a network so small that few fit it is left at 0.03 s and the best that was found.
const BETTER_TRIES_MAX: u32 = 1 << 13;
/// Draws made only to tell which classes stay empty when there are too few domains anyway.
const TRIES_TO_EXPLAIN: u32 = 4096;

/// Draws for a group of which some slots go to fallback storage. In a network so small that it comes to that, few domains are
/// coloured for each: 8,192 draws over nine domains take 0.02 s, and with three domains every fourth gives each a slot.
const TRIES_TO_LEAN: u32 = 1 << 13;

/// With so many a group has its quorum though one is away.
const STEWARDS_ENOUGH: usize = 5;
/// Colours reckoned at least, in looking for better draws: in a small network good ones are rare and draws are cheap. With 24 domains some
/// 680 that fit, in under 0.01 s.
const BETTER_WORK: usize = 1 << 14;

/// The salt of the deterministic strategy's given try: anyone who sees the ticket can recompute it.
#[must_use]
pub fn deterministic_salt(authority: &[u8; 32], policy: &PlacementPolicy, attempt: u32) -> [u8; 32] {
    salt_of(authority, policy.code.into(), policy.colours(), attempt)
}

fn salt_of(authority: &[u8; 32], (data, parity): (u8, u8), colours: u8, attempt: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 public salt v1");
    hasher.update(authority).update(&[data, parity, colours]).update(&attempt.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Rechecks that a ticket's salt is one of the deterministic strategy's; the try it came from. `None`: the salt was
/// not drawn in public (randomised, or chosen by somebody).
#[must_use]
pub fn recheck_salt(ticket: &GroupTicket) -> Option<u32> {
    (0..TRIES_MAX).find(|t| salt_of(ticket.authority(), ticket.code().into(), ticket.colours(), *t) == *ticket.salt())
}

/// A ticket that fits, and how many draws it took.
pub(super) struct Draw {
    pub(super) ticket: GroupTicket,
    pub(super) tries: u32,
}

/// The least is best: slots that a region holds alone, stewards up to enough, slots without an heir, whether the owner's domain is of a
/// slot, stewards.
type Merit = (usize, Reverse<usize>, usize, bool, Reverse<usize>);

/// Why no draw fits: what the best one lacked.
pub(super) struct NoDraw {
    pub(super) classes: Vec<u8>,
    pub(super) missing: usize,
}

/// Eligible domains and the continents in which each has peers.
pub(super) type Continents<'a> = BTreeMap<&'a Domain, BTreeSet<&'a str>>;

pub(super) fn continents<'a>(eligible: &[&'a PeerView]) -> Continents<'a> {
    let mut map = Continents::new();
    for view in eligible {
        map.entry(&view.domain).or_default().insert(view.region.continent());
    }
    map
}

/// The ticket of one try.
fn ticket<R: CryptoRng + ?Sized>(
    request: &GroupRequest<'_>,
    strategy: Strategy,
    attempt: u32,
    rng: &mut R,
) -> Result<GroupTicket, DecodeError> {
    let policy = request.policy;
    let mut salt = [0u8; 32];
    match strategy {
        Strategy::Deterministic => salt = deterministic_salt(&request.authority, policy, attempt),
        Strategy::Randomised => rng.fill_bytes(&mut salt),
    }
    GroupTicket::new(request.authority, salt, policy.code, policy.colours())
}

/// Draws until every slot's class has a domain for each replica, then a little longer if regions can be spread
/// better than the draw does, the stewards' class is short of domains, a slot has nobody who could take it over when its holder dies, or the
/// owner's own domain is of a slot's colour:
/// stewards do not know whose group it is, and could give that slot to another peer of the owner's domain (SEP-1, second sentence;
/// best effort, for a domain's colour cannot be chosen).
pub(super) fn draw<R: CryptoRng + ?Sized>(
    domains: &Continents<'_>,
    request: &GroupRequest<'_>,
    strategy: Strategy,
    rng: &mut R,
) -> Result<Result<Draw, NoDraw>, DecodeError> {
    let policy = request.policy;
    let replicas = usize::from(policy.replicas.max(1));
    let slots = policy.code.slots();
    let possible = domains.len() >= policy.domains_needed();
    let acceptable = usize::from(policy.regions.slots_max).max(spread::floor(domains, slots, replicas));
    let mut fitting: Option<(Merit, Draw)> = None;
    let mut last = TRIES_MAX;
    let mut extra = match policy.regions.extra_salts as usize {
        0 => 0,
        extra => extra.max(BETTER_WORK / domains.len().max(1)),
    };
    let mut best_miss = NoDraw { classes: Vec::new(), missing: usize::MAX };
    for attempt in 0..if possible { TRIES_MAX } else { TRIES_TO_EXPLAIN } {
        if attempt > last {
            break;
        }
        let ticket = ticket(request, strategy, attempt, rng)?;
        let mut counts = vec![0usize; usize::from(ticket.colours())];
        let classes: Vec<usize> = domains.keys().map(|d| colour(&ticket, d).index()).collect();
        for class in &classes {
            counts[*class] += 1;
        }
        let missing: usize = counts.iter().take(slots).map(|c| replicas.saturating_sub(*c)).sum();
        if missing > 0 {
            if missing < best_miss.missing {
                let short = (0u8..).zip(&counts).take(slots).filter(|(_, c)| **c < replicas).map(|(class, _)| class);
                best_miss = NoDraw { classes: short.collect(), missing };
            }
            continue;
        }
        let mut regions = vec![BTreeSet::new(); slots];
        for (class, set) in classes.iter().zip(domains.values()) {
            if let Some(region) = regions.get_mut(*class) {
                region.extend(set.iter().copied());
            }
        }
        let held = spread::least_cap(&regions, replicas);
        let draw = Draw { ticket, tries: attempt + 1 };
        // Regions come first: who watches can be replaced. Five stewards are worth more than heirs and the owner's colour, seven less.
        let stewards = counts[slots].min(STEWARDS_MAX);
        let own_slot = colour(&ticket, &request.owner.domain).index() < slots;
        let without_heir = counts.iter().take(slots).filter(|count| **count <= replicas).count();
        if held <= acceptable && stewards == STEWARDS_MAX && without_heir == 0 && !own_slot {
            return Ok(Ok(draw));
        }
        let enough = Reverse(stewards.min(STEWARDS_ENOUGH));
        let merit = (held.max(acceptable), enough, without_heir, own_slot, Reverse(stewards));
        if fitting.as_ref().is_none_or(|(other, _)| merit < *other) {
            fitting = Some((merit, draw));
        }
        last = last.min(attempt.saturating_add(BETTER_TRIES_MAX));
        if extra == 0 {
            break;
        }
        extra -= 1;
    }
    Ok(match fitting {
        Some((_, draw)) => Ok(draw),
        None => Err(best_miss),
    })
}

/// The least is best: empty slots, whether the owner's domain is of a slot, stewards.
type LeaningMerit = (usize, bool, Reverse<usize>);

/// Draws for as few empty slots as can be, at most `room`, one peer each: of those draws first one in which the owner's own
/// domain is of no slot's colour, then one with more stewards.
pub(super) fn draw_leaning<R: CryptoRng + ?Sized>(
    domains: &Continents<'_>,
    request: &GroupRequest<'_>,
    (strategy, room): (Strategy, usize),
    rng: &mut R,
) -> Result<Result<Draw, NoDraw>, DecodeError> {
    let slots = request.policy.code.slots();
    let fewest = slots.saturating_sub(domains.len());
    let mut best: Option<(LeaningMerit, Vec<u8>, Draw)> = None;
    for attempt in 0..TRIES_TO_LEAN {
        let ticket = ticket(request, strategy, attempt, rng)?;
        let mut counts = vec![0usize; usize::from(ticket.colours())];
        for domain in domains.keys() {
            counts[colour(&ticket, domain).index()] += 1;
        }
        let empty: Vec<u8> =
            (0u8..).zip(&counts).take(slots).filter(|(_, n)| **n == 0).map(|(class, _)| class).collect();
        let own_slot = colour(&ticket, &request.owner.domain).index() < slots;
        let merit = (empty.len(), own_slot, Reverse(counts[slots].min(STEWARDS_MAX)));
        if best.as_ref().is_none_or(|(other, ..)| merit < *other) {
            best = Some((merit, empty, Draw { ticket, tries: attempt + 1 }));
        }
        // With every domain in a slot of its own there is none for stewards.
        if best.as_ref().is_some_and(|((empty, own, _), ..)| *empty == fewest && !own) {
            break;
        }
    }
    Ok(match best {
        Some((_, empty, draw)) if empty.len() <= room => Ok(draw),
        Some((_, empty, _)) => Err(NoDraw { missing: empty.len(), classes: empty }),
        None => Err(NoDraw { missing: slots, classes: Vec::new() }),
    })
}
