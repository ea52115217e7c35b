//! Whether a group still stands as far apart as it was placed, once its holders move.
//!
//! A group is spread when it is made ([`super`]), and nothing keeps a peer from moving afterwards. A *clump* is one continent, one
//! network (autonomous system) or one subnet that more slots stand or fall with than its cap allows. A slot stands or falls with a
//! place when all its holders are known to be there: one that is known to be elsewhere, or of which nothing is known, and the slot is
//! not counted. So ignorance makes no clump, and neither is anybody taken to be elsewhere of whom nothing is known.
//!
//! A further holder only ever takes slots out of clumps, since what all holders share gets less with each. So whatever order copies
//! are made in, each one that helps brings the sum of what is over the caps down, and an end is reached; and where no single peer
//! helps, no two of them together do.
//!
//! Decides nothing about who may hold what ([`super::replacements`]) or when a copy is worth it ([`crate::steward`]).

use std::{collections::BTreeMap, fmt};

use cairn_proto::{Domain, Slot};
use serde::Serialize;

use super::RegionCaps;

/// Slots of a group that one subnet may hold alone: SEP-3.
const SUBNET_SLOTS_MAX: u8 = 1;

/// What may fail as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// A continent.
    Region(String),
    /// An autonomous system.
    Network(u32),
    /// A /24 or /48.
    Subnet(Domain),
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(continent) => write!(f, "region {continent}"),
            Self::Network(network) => write!(f, "network AS{network}"),
            Self::Subnet(subnet) => write!(f, "subnet {subnet}"),
        }
    }
}

/// Where a holder is known to be; `None` where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// On which continent.
    pub continent: Option<&'a str>,
    /// In which autonomous system.
    pub network: Option<u32>,
    /// In which /24 or /48.
    pub subnet: Option<&'a Domain>,
}

impl Place<'_> {
    /// Whether it is known to be somewhere else than on this ground.
    #[must_use]
    pub fn is_off(&self, ground: &Ground) -> bool {
        match ground {
            Ground::Region(continent) => self.continent.is_some_and(|own| own != continent),
            Ground::Network(network) => self.network.is_some_and(|own| own != *network),
            Ground::Subnet(subnet) => self.subnet.is_some_and(|own| own != subnet),
        }
    }
}

/// More slots than may be stand or fall with one ground.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clump {
    /// Which.
    pub ground: Ground,
    /// The slots, ascending.
    pub slots: Vec<Slot>,
    /// How many they may be.
    pub limit: u8,
}

impl Clump {
    /// By how many slots it is over its cap.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.slots.len().saturating_sub(usize::from(self.limit))
    }
}

impl fmt::Display for Clump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.slots.len();
        write!(f, "{count} slots stand or fall with {}, and {} may", self.ground, self.limit)
    }
}

/// What all of these are known to stand on.
fn shared(holders: &[Place<'_>]) -> Vec<Ground> {
    let Some(first) = holders.first() else { return Vec::new() };
    let all = |same: &dyn Fn(&Place<'_>) -> bool| holders.iter().all(same);
    let continent = first.continent.filter(|own| all(&|place| place.continent == Some(*own)));
    let network = first.network.filter(|own| all(&|place| place.network == Some(*own)));
    let subnet = first.subnet.filter(|own| all(&|place| place.subnet == Some(*own)));
    let region = continent.map(|continent| Ground::Region(continent.to_owned()));
    let subnet = subnet.map(|subnet| Ground::Subnet(subnet.clone()));
    region.into_iter().chain(network.map(Ground::Network)).chain(subnet).collect()
}

/// The clumps of a group, worst first: by how much they are over, then regions before networks before subnets. `slots`: where those
/// stand who hold each slot, of slots that somebody holds.
#[must_use]
pub fn clumps(slots: &[(Slot, Vec<Place<'_>>)], caps: &RegionCaps) -> Vec<Clump> {
    let mut grounds: BTreeMap<Ground, Vec<Slot>> = BTreeMap::new();
    for (slot, holders) in slots {
        for ground in shared(holders) {
            grounds.entry(ground).or_default().push(*slot);
        }
    }
    let limit = |ground: &Ground| match ground {
        Ground::Region(_) => caps.slots_max.max(1),
        Ground::Network(_) => caps.network_slots_max.max(1),
        Ground::Subnet(_) => SUBNET_SLOTS_MAX,
    };
    let clump = |(ground, slots): (Ground, Vec<Slot>)| Clump { limit: limit(&ground), ground, slots };
    let mut found: Vec<Clump> = grounds.into_iter().map(clump).filter(|clump| clump.excess() > 0).collect();
    found.iter_mut().for_each(|clump| clump.slots.sort_unstable());
    found.sort_by(|a, b| b.excess().cmp(&a.excess()).then_with(|| a.ground.cmp(&b.ground)));
    found
}

/// Of how many clumps a holder that stands there would take the slot out.
#[must_use]
pub fn relieved(slot: Slot, heir: Place<'_>, clumps: &[Clump]) -> usize {
    clumps.iter().filter(|clump| clump.slots.contains(&slot) && heir.is_off(&clump.ground)).count()
}

#[cfg(test)]
mod tests {
    use cairn_proto::CodeParams;
    use proptest::prelude::*;

    use super::*;
    use crate::placement::PlacementPolicy;

    const CONTINENTS: [&str; 4] = ["AS", "EU", "NA", "SA"];

    fn caps() -> RegionCaps {
        PlacementPolicy::new(CodeParams::DEFAULT, 1).regions
    }

    fn slot(at: usize) -> Slot {
        Slot::new(at as u8).expect("valid")
    }

    fn on(continent: &str) -> Place<'_> {
        Place { continent: Some(continent), ..Place::default() }
    }

    #[test]
    fn four_slots_on_a_continent_are_a_clump_and_three_are_none() {
        let of = |count: usize| -> Vec<(Slot, Vec<Place<'static>>)> {
            (0..8).map(|at| (slot(at), vec![on(if at < count { "EU" } else { CONTINENTS[at % 2 * 2] })])).collect()
        };
        assert!(clumps(&of(3), &caps()).is_empty());
        let found = clumps(&of(4), &caps());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].ground.clone(), found[0].excess()), (Ground::Region("EU".into()), 1));
        assert_eq!(found[0].to_string(), "4 slots stand or fall with region EU, and 3 may");
        assert_eq!(relieved(slot(3), on("NA"), &found), 1);
        assert_eq!(relieved(slot(3), on("EU"), &found), 0, "it stands there too");
        assert_eq!(relieved(slot(4), on("NA"), &found), 0, "the slot does not");
        assert_eq!(relieved(slot(3), Place::default(), &found), 0, "nobody knows where");
    }

    /// One known or unknown elsewhere, and the slot does not fall with the rest.
    #[test]
    fn one_holder_outside_is_enough_and_ignorance_makes_no_clump() {
        let unknown = Place::default();
        let mut slots: Vec<(Slot, Vec<Place<'_>>)> = (0..4).map(|at| (slot(at), vec![on("EU"), on("EU")])).collect();
        assert_eq!(clumps(&slots, &caps()).len(), 1);
        slots[0].1.push(on("NA"));
        assert!(clumps(&slots, &caps()).is_empty());
        slots[0].1.pop();
        slots[0].1.push(unknown);
        assert!(clumps(&slots, &caps()).is_empty());
        assert!(clumps(&[(slot(0), vec![unknown]), (slot(1), vec![unknown])], &caps()).is_empty());
        assert!(clumps(&[(slot(0), Vec::new())], &caps()).is_empty());
    }

    #[test]
    fn two_slots_of_a_subnet_and_three_of_a_network_are_clumps() {
        let subnet = Domain::operator("s").expect("valid");
        let near = Place { subnet: Some(&subnet), network: Some(7), ..Place::default() };
        let far = Place { network: Some(7), ..Place::default() };
        let slots = [(slot(0), vec![near]), (slot(1), vec![near]), (slot(2), vec![far])];
        let found: Vec<Ground> = clumps(&slots, &caps()).into_iter().map(|clump| clump.ground).collect();
        assert_eq!(found, [Ground::Network(7), Ground::Subnet(subnet)]);
    }

    proptest! {
        /// Any heir that helps brings the sum down by as much as is said, or more where not all of its place is known, and makes no new
        /// clump: so it ends, and as soon as nobody helps alone, nobody does.
        #[test]
        fn a_further_holder_takes_away_what_is_said_and_adds_nothing(
            draw in proptest::collection::vec(
                proptest::collection::vec((0usize..4, 0u32..4, any::<bool>()), 1..3), 1..9),
            heirs in proptest::collection::vec((0usize..8, 0usize..4, 0u32..4, any::<bool>()), 1..24),
        ) {
            let place = |continent: usize, network: u32, known: bool| Place {
                continent: known.then_some(CONTINENTS[continent]),
                network: (network > 0).then_some(network),
                subnet: None,
            };
            let mut slots: Vec<(Slot, Vec<Place<'_>>)> = draw.iter().enumerate()
                .map(|(at, holders)| (slot(at), holders.iter().map(|(c, n, k)| place(*c, *n, *k)).collect()))
                .collect();
            let sum = |found: &[Clump]| found.iter().map(Clump::excess).sum::<usize>();
            let before = sum(&clumps(&slots, &caps()));
            let mut copies = 0;
            for (at, continent, network, known) in heirs {
                let at = at % slots.len();
                let (found, heir) = (clumps(&slots, &caps()), place(continent, network, known));
                let helps = relieved(slot(at), heir, &found);
                slots[at].1.push(heir);
                let after = clumps(&slots, &caps());
                if helps > 0 {
                    copies += 1;
                    prop_assert!(sum(&after) + helps <= sum(&found));
                } else {
                    // One of whom nothing is known may only make it look better.
                    prop_assert!(sum(&after) <= sum(&found));
                }
            }
            prop_assert!(copies <= before);
        }
    }
}
