//! Spreads a group over continents and networks.
//!
//! A continent *holds* a slot when every chosen replica of it stands there: what goes with the continent. With one
//! replica that is a matching of slots to continents with capacities, solved by augmenting paths (greedy by rank
//! first); with more, a slot is held only when its class has peers of no second continent.
//!
//! Where networks (autonomous systems) are known they have a cap too, and the two may cross: [`assign`](super::assign)
//! decides both at once, the continents' cap first. Where none is known everything is as it was without.
//!
//! - **SEP-2** No continent holds more than m slots when the network can do better.
//!   Enforced by [`choose`] and by the salts that `salt::draw` passes over; attacked by
//!   `tests::regions_are_capped_when_brute_force_finds_a_way`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::Domain;

use super::{
    Relaxation,
    assign::{self, Caps, Hold},
    policy::RegionCaps,
};
use crate::peer_view::PeerView;

/// The fewest slots that some continent must hold, whatever the salt: a lower bound that tells when drawing on
/// cannot help.
pub(super) fn floor(domains: &BTreeMap<&Domain, BTreeSet<&str>>, slots: usize, replicas: usize) -> usize {
    let mut per_continent: BTreeMap<&str, usize> = BTreeMap::new();
    for continents in domains.values() {
        for continent in continents {
            *per_continent.entry(continent).or_insert(0) += 1;
        }
    }
    if replicas == 1 {
        let fits = |cap: usize| per_continent.values().map(|d| cap.min(*d)).sum::<usize>() >= slots;
        return (1..=slots).find(|cap| fits(*cap)).unwrap_or(slots);
    }
    let outside = |continent: &str| domains.values().filter(|set| set.iter().any(|c| *c != continent)).count();
    per_continent.keys().map(|c| slots.saturating_sub(outside(c))).max().unwrap_or(slots)
}

/// The smallest cap that a choice with these continents per slot can keep.
pub(super) fn least_cap(regions: &[BTreeSet<&str>], replicas: usize) -> usize {
    if replicas > 1 {
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for set in regions.iter().filter(|set| set.len() == 1) {
            for continent in set {
                *held.entry(continent).or_insert(0) += 1;
            }
        }
        return held.values().copied().max().unwrap_or(0);
    }
    let wishes: Vec<Vec<&str>> = regions.iter().map(|set| set.iter().copied().collect()).collect();
    (1..=regions.len()).find(|cap| assign(&wishes, *cap).is_some()).unwrap_or(regions.len())
}

/// Gives each slot one of the continents it wishes (most wished first) so that none is used more than `cap` times.
fn assign<'a>(wishes: &[Vec<&'a str>], cap: usize) -> Option<Vec<&'a str>> {
    let mut taken: BTreeMap<&'a str, Vec<usize>> = BTreeMap::new();
    for slot in 0..wishes.len() {
        if !augment(slot, wishes, cap, &mut taken, &mut BTreeSet::new()) {
            return None;
        }
    }
    let mut out = vec![""; wishes.len()];
    for (continent, slots) in taken {
        for slot in slots {
            out[slot] = continent;
        }
    }
    Some(out)
}

/// Finds a continent for `slot`, moving others aside if that makes room. Recursion is bounded by the number of
/// continents, since each is visited once, and that by 32 slots' worth of useful ones times their wishes.
fn augment<'a>(
    slot: usize,
    wishes: &[Vec<&'a str>],
    cap: usize,
    taken: &mut BTreeMap<&'a str, Vec<usize>>,
    visited: &mut BTreeSet<&'a str>,
) -> bool {
    for continent in wishes[slot].iter().copied() {
        if taken.get(continent).map_or(0, Vec::len) < cap {
            taken.entry(continent).or_default().push(slot);
            return true;
        }
    }
    for continent in wishes[slot].iter().copied() {
        if !visited.insert(continent) {
            continue;
        }
        for other in taken.get(continent).cloned().unwrap_or_default() {
            if augment(other, wishes, cap, taken, visited) {
                if let Some(list) = taken.get_mut(continent) {
                    list.retain(|s| *s != other);
                    list.push(slot);
                }
                return true;
            }
        }
    }
    false
}

/// Moves the choice of each slot to the front of its ranked list, keeping the caps as well as the lists allow, and
/// says what could not be kept.
pub(super) fn choose(ranked: &mut [Vec<&PeerView>], replicas: usize, caps: &RegionCaps) -> Vec<Relaxation> {
    let slots_max = usize::from(caps.slots_max);
    if ranked.iter().flatten().any(|v| v.network.is_some()) {
        choose_across(ranked, replicas, caps);
    } else if replicas == 1 {
        let wishes: Vec<Vec<&str>> = ranked.iter().map(|list| by_first_seen(list)).collect();
        let found = (slots_max.max(1)..=ranked.len()).find_map(|cap| assign(&wishes, cap));
        for (list, continent) in ranked.iter_mut().zip(found.unwrap_or_default()) {
            if let Some(at) = list.iter().position(|v| v.region.continent() == continent) {
                list[..=at].rotate_right(1);
            }
        }
    } else {
        for list in ranked.iter_mut() {
            for place in 1..replicas.min(list.len()) {
                let (chosen, rest) = list.split_at(place);
                let new = |v: &&PeerView| chosen.iter().all(|c| c.region.continent() != v.region.continent());
                if let Some(at) = rest.iter().position(new) {
                    list[place..=place + at].rotate_right(1);
                }
            }
        }
    }
    relaxations(ranked, replicas, caps)
}

/// With both caps at once: of the choices that break the continents' cap least, one that breaks the networks' least.
fn choose_across(ranked: &mut [Vec<&PeerView>], replicas: usize, caps: &RegionCaps) {
    let slots = ranked.len();
    let offers: Vec<Vec<(Hold<'_>, Vec<usize>)>> = ranked.iter().map(|list| offers(list, replicas)).collect();
    let holds: Vec<Vec<Hold<'_>>> = offers.iter().map(|of| of.iter().map(|(hold, _)| *hold).collect()).collect();
    let solve = |continent, network| assign::assign(&holds, Caps { continent, network });
    let from = |cap: u8| usize::from(cap).clamp(1, slots.max(1))..=slots;
    // No network has more slots than there are: with that cap the continents' alone is decided.
    let continent = from(caps.slots_max).find(|cap| solve(*cap, slots).is_some()).unwrap_or(slots);
    let found = from(caps.network_slots_max).find_map(|cap| solve(continent, cap)).unwrap_or_default();
    for ((list, of), choice) in ranked.iter_mut().zip(&offers).zip(found) {
        let Some((_, places)) = of.get(choice) else { continue };
        for (front, at) in places.iter().enumerate() {
            // In the order of rank, so that those before it have moved on by one already where they stood behind it.
            list[front..=*at].rotate_right(1);
        }
    }
}

/// What a slot may be made to depend on, most wished first, each with the places in the list that make it so (ascending).
/// With replicas that is what depends on least, since such a slot takes no room from another; else what ranks first.
fn offers<'a>(list: &[&'a PeerView], replicas: usize) -> Vec<(Hold<'a>, Vec<usize>)> {
    let mut found: Vec<(Hold<'a>, Vec<usize>)> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut note = |places: Vec<usize>| {
        let hold = held_by(places.iter().filter_map(|at| list.get(*at).copied()));
        let free = hold == Hold { continent: None, network: None };
        if seen.insert(hold) {
            found.push((hold, places));
        }
        free
    };
    if replicas == 1 {
        (0..list.len()).for_each(|at| {
            note(vec![at]);
        });
        return found;
    }
    // Of peers that stand alike the first ones say it all.
    let mut alike: BTreeMap<(&str, Option<u32>), usize> = BTreeMap::new();
    let telling: Vec<usize> = list
        .iter()
        .enumerate()
        .filter(|(_, v)| {
            let count = alike.entry((v.region.continent(), v.network)).or_insert(0);
            *count += 1;
            *count <= replicas
        })
        .map(|(at, _)| at)
        .collect();
    for (i, first) in telling.iter().enumerate() {
        for second in &telling[i + 1..] {
            if note(filled(list, *first, *second, replicas)) {
                // Nothing is better.
                return found.split_off(found.len() - 1);
            }
        }
    }
    if telling.len() < 2 {
        note((0..replicas.min(list.len())).collect());
    }
    found.sort_by_key(|(hold, _)| usize::from(hold.continent.is_some()) + usize::from(hold.network.is_some()));
    found
}

/// Two places and as many more as there are replicas: first whoever ends what the slot depends on, then by rank.
fn filled(list: &[&PeerView], first: usize, second: usize, replicas: usize) -> Vec<usize> {
    let mut places = vec![first, second];
    while places.len() < replicas.min(list.len()) {
        let hold = held_by(places.iter().map(|at| list[*at]));
        let free = || (0..list.len()).filter(|at| !places.contains(at));
        let ends = |at: &usize| held_by([list[*at]].into_iter().chain(places.iter().map(|p| list[*p]))) != hold;
        let Some(next) = free().find(ends).or_else(|| free().next()) else { break };
        places.push(next);
    }
    places.sort_unstable();
    places
}

/// What all of these share.
fn held_by<'a>(holders: impl Iterator<Item = &'a PeerView>) -> Hold<'a> {
    let mut shared: Option<Hold<'a>> = None;
    for view in holders {
        let own = Hold { continent: Some(view.region.continent()), network: view.network };
        shared = Some(match shared {
            None => own,
            Some(hold) => Hold {
                continent: hold.continent.filter(|c| Some(*c) == own.continent),
                network: hold.network.filter(|n| Some(*n) == own.network),
            },
        });
    }
    shared.unwrap_or(Hold { continent: None, network: None })
}

fn by_first_seen<'a>(list: &[&'a PeerView]) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    list.iter().map(|v| v.region.continent()).filter(|c| seen.insert(*c)).collect()
}

/// What each slot of a choice depends on.
pub(super) fn holds<'a>(ranked: &[Vec<&'a PeerView>], replicas: usize) -> Vec<Hold<'a>> {
    ranked.iter().map(|list| held_by(list.iter().take(replicas).copied())).collect()
}

fn relaxations(ranked: &[Vec<&PeerView>], replicas: usize, caps: &RegionCaps) -> Vec<Relaxation> {
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    let mut networks: BTreeMap<u32, usize> = BTreeMap::new();
    for hold in holds(ranked, replicas) {
        if let Some(continent) = hold.continent {
            *held.entry(continent).or_insert(0) += 1;
        }
        if let Some(network) = hold.network {
            *networks.entry(network).or_insert(0) += 1;
        }
    }
    let touched: BTreeSet<&str> =
        ranked.iter().flat_map(|list| list.iter().take(replicas)).map(|v| v.region.continent()).collect();
    let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let limit = caps.slots_max;
    let mut out: Vec<Relaxation> = held
        .into_iter()
        .filter(|(_, slots)| *slots > usize::from(limit))
        .map(|(region, slots)| Relaxation::RegionCap { region: region.to_owned(), slots: small(slots), limit })
        .collect();
    let limit = caps.network_slots_max;
    let over = networks.into_iter().filter(|(_, slots)| *slots > usize::from(limit));
    out.extend(over.map(|(network, slots)| Relaxation::NetworkCap { network, slots: small(slots), limit }));
    if touched.len() < usize::from(caps.regions_wanted) {
        out.push(Relaxation::FewRegions { found: small(touched.len()), wanted: caps.regions_wanted });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTINENTS: [&str; 4] = ["AS", "EU", "NA", "SA"];

    fn brute_force(wishes: &[Vec<&str>], cap: usize, used: &mut BTreeMap<String, usize>) -> bool {
        let Some((first, rest)) = wishes.split_first() else { return true };
        first.iter().any(|c| {
            if used.get(*c).copied().unwrap_or(0) >= cap {
                return false;
            }
            *used.entry((*c).to_owned()).or_insert(0) += 1;
            let found = brute_force(rest, cap, used);
            *used.entry((*c).to_owned()).or_insert(0) -= 1;
            found
        })
    }

    proptest! {
        #[test]
        fn a_matching_is_found_exactly_when_brute_force_finds_one(
            masks in proptest::collection::vec(1u8..16, 1..8), cap in 1usize..4
        ) {
            let wishes: Vec<Vec<&str>> = masks
                .iter()
                .map(|m| (0..4).filter(|b| m >> b & 1 == 1).map(|b| CONTINENTS[b]).collect())
                .collect();
            let found = assign(&wishes, cap);
            prop_assert_eq!(found.is_some(), brute_force(&wishes, cap, &mut BTreeMap::new()));
            if let Some(out) = found {
                for (w, c) in wishes.iter().zip(&out) {
                    prop_assert!(w.contains(c));
                }
                for c in CONTINENTS {
                    prop_assert!(out.iter().filter(|o| **o == c).count() <= cap);
                }
            }
        }
    }
}
