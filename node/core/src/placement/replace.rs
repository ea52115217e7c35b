//! Who takes over a slot of a group that exists, so that the group keeps what its plan kept.
//!
//! Separation is a hard rule here: nobody who is not somebody else than every holder of another slot, past ones
//! included (SEP-1, SEP-3). Caps are an order: whoever breaks none comes first, by rank; then the least break, because
//! a shard in a full region is better than no shard, and it is reported.
//!
//! - **SEP-5** A replacement breaks the newcomers' quota, the region cap or the network cap only when every candidate
//!   would, and then as little as one can, in this order; what it breaks is said. Enforced by [`replacements`]; attacked by
//!   `tests::crowds::a_replacement_keeps_the_caps_when_one_can`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::PeerKey;

use super::{PlacementPolicy, Relaxation, independent};
use crate::peer_view::PeerView;

/// A slot that needs a holder.
#[derive(Clone, Copy, Debug)]
pub struct Vacancy<'a> {
    /// Which slot.
    pub slot: usize,
    /// Everyone who holds or held something of the group, by slot.
    pub holders: &'a [Vec<PeerKey>],
    /// Who keeps the shard in question already, in this slot.
    pub beside: &'a BTreeSet<PeerKey>,
    /// Holders that failed: they still count for separation, no more for spread.
    pub failed: &'a BTreeSet<PeerKey>,
}

/// One who may take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Who.
    pub peer: PeerKey,
    /// What the group loses by it.
    pub relaxations: Vec<Relaxation>,
}

/// Those of `ranked` (best first) who may take the slot over, the ones that keep the caps first. Holders that the slot
/// has already come before everybody: they change nothing.
#[must_use]
pub fn replacements(
    ranked: &[PeerKey],
    vacancy: &Vacancy<'_>,
    peers: &[PeerView],
    policy: &PlacementPolicy,
) -> Vec<Replacement> {
    let views: BTreeMap<PeerKey, &PeerView> = peers.iter().map(|v| (v.peer, v)).collect();
    let mine = vacancy.holders.get(vacancy.slot).map_or(&[][..], Vec::as_slice);
    let others: Vec<PeerKey> = vacancy
        .holders
        .iter()
        .enumerate()
        .filter(|(slot, _)| *slot != vacancy.slot)
        .flat_map(|(_, held)| held.iter().copied())
        .collect();
    let beside: Vec<PeerKey> = vacancy.beside.iter().copied().collect();
    let group = Spread::of(vacancy, &views);
    let mut found: Vec<((bool, Excess), Replacement)> = ranked
        .iter()
        .filter_map(|peer| views.get(peer))
        .map(|view| (mine.contains(&view.peer), *view))
        // Who holds the slot already may go on: more of the same slot parts nothing.
        .filter(|(known, view)| *known || independent::is_another(view, &others, &views))
        .filter(|(_, view)| independent::is_another(view, &beside, &views))
        .map(|(known, view)| {
            let (excess, relaxations) = if known { Default::default() } else { group.with(view, policy) };
            ((!known, excess), Replacement { peer: view.peer, relaxations })
        })
        .collect();
    found.sort_by_key(|(key, _)| *key);
    found.into_iter().map(|(_, replacement)| replacement).collect()
}

/// By how much a group is over newcomers' quota, region cap and network cap; less is better, the first counts most.
type Excess = (usize, usize, usize);

/// How the living holders of a group are spread without the vacancy.
struct Spread<'a> {
    held: BTreeMap<&'a str, usize>,
    networks: BTreeMap<u32, usize>,
    beside: BTreeSet<&'a str>,
    beside_networks: BTreeSet<Option<u32>>,
    newcomers: usize,
}

impl<'a> Spread<'a> {
    fn of(vacancy: &Vacancy<'_>, views: &BTreeMap<PeerKey, &'a PeerView>) -> Self {
        let living = |held: &[PeerKey]| -> Vec<&'a PeerView> {
            let here = held.iter().filter(|p| !vacancy.failed.contains(p)).filter_map(|p| views.get(p).copied());
            here.filter(|v| v.reachable != Some(false)).collect()
        };
        let mut held = BTreeMap::new();
        let mut networks = BTreeMap::new();
        let mut newcomers = 0;
        for (slot, holders) in vacancy.holders.iter().enumerate() {
            let here = living(holders);
            newcomers += here.iter().filter(|v| v.newcomer).count();
            let continents: BTreeSet<&str> = here.iter().map(|v| v.region.continent()).collect();
            if let (1, Some(only), true) = (continents.len(), continents.first(), slot != vacancy.slot) {
                *held.entry(*only).or_insert(0) += 1;
            }
            let shared: BTreeSet<Option<u32>> = here.iter().map(|v| v.network).collect();
            if let (1, Some(Some(only)), true) = (shared.len(), shared.first(), slot != vacancy.slot) {
                *networks.entry(*only).or_insert(0) += 1;
            }
        }
        let beside: Vec<PeerKey> = vacancy.beside.iter().copied().collect();
        let beside = living(&beside);
        let beside_networks = beside.iter().map(|v| v.network).collect();
        let beside = beside.iter().map(|v| v.region.continent()).collect();
        Self { held, networks, beside, beside_networks, newcomers }
    }

    /// By how much the group would be over its quota and its caps with this holder, and how to say it.
    fn with(&self, view: &PeerView, policy: &PlacementPolicy) -> (Excess, Vec<Relaxation>) {
        let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let continent = view.region.continent();
        let alone = self.beside.iter().all(|other| *other == continent);
        let slots = if alone { self.held.get(continent).copied().unwrap_or(0) + 1 } else { 0 };
        let excess = slots.saturating_sub(usize::from(policy.regions.slots_max));
        let network = view.network.filter(|n| self.beside_networks.iter().all(|other| *other == Some(*n)));
        let here = network.map_or(0, |n| self.networks.get(&n).copied().unwrap_or(0) + 1);
        let crowded = here.saturating_sub(usize::from(policy.regions.network_slots_max));
        let (places, quota) = (self.newcomers + 1, policy.newcomer_places());
        let over = if view.newcomer { places.saturating_sub(quota) } else { 0 };
        let mut said = Vec::new();
        if excess > 0 {
            let (slots, limit) = (small(slots), policy.regions.slots_max);
            said.push(Relaxation::RegionCap { region: continent.to_owned(), slots, limit });
        }
        if let (Some(network), true) = (network, crowded > 0) {
            let (slots, limit) = (small(here), policy.regions.network_slots_max);
            said.push(Relaxation::NetworkCap { network, slots, limit });
        }
        if over > 0 {
            said.push(Relaxation::Newcomers { places: small(places), limit: small(quota) });
        }
        ((over, excess, crowded), said)
    }
}
