//! Gives each slot one of the choices it has so that no continent and no network holds too many: caps that cross.
//!
//! A network (an autonomous system) mostly lies on one continent. Such caps nest, and a maximum flow decides them exactly:
//! slot to network to continent to sink, by augmenting paths, since every slot brings one unit. A network that is on several
//! continents crosses the continents' caps; with those the question is three-dimensional matching, which no flow decides. So
//! the flow is made without their caps, and where its answer breaks one, one of the slots that share the network has to do
//! without it: branch and bound over these few, exact within [`FLOWS_MAX`] flows and the caps found there kept in any case.
//!
//! Integers and ordered maps only: equal choices give equal answers. Attacked by `tests::brute_force_agrees`.

use std::collections::{BTreeMap, BTreeSet};

/// Flows tried for one pair of caps. A network that crosses is rare and shared by few slots, so one to ten are enough; the
/// bound is for crowds that would make it many, and costs some ten milliseconds at 32 slots of a hundred choices.
const FLOWS_MAX: u32 = 256;

/// What a choice makes its slot depend on alone: a continent, a network, both or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hold<'a> {
    /// The continent on which all its holders stand.
    pub(super) continent: Option<&'a str>,
    /// The network in which all its holders stand.
    pub(super) network: Option<u32>,
}

/// How many slots one continent and one network may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caps {
    pub(super) continent: usize,
    pub(super) network: usize,
}

/// Gives each slot one of its choices (most wished first), by index, within the caps; `None`: there is no way, or none was
/// found in time.
pub(super) fn assign(choices: &[Vec<Hold<'_>>], caps: Caps) -> Option<Vec<usize>> {
    let crossing = crossing(choices);
    let mut flows = FLOWS_MAX;
    search(choices, caps, &crossing, &mut BTreeSet::new(), &mut flows)
}

/// Networks whose cap does not nest in one continent's.
fn crossing(choices: &[Vec<Hold<'_>>]) -> BTreeSet<u32> {
    let mut first = BTreeMap::new();
    let mut crossing = BTreeSet::new();
    for hold in choices.iter().flatten() {
        if let Some(network) = hold.network
            && *first.entry(network).or_insert(hold.continent) != hold.continent
        {
            crossing.insert(network);
        }
    }
    crossing
}

/// Depth: each level forbids one more pair of slot and network, and each costs a flow.
fn search(
    choices: &[Vec<Hold<'_>>],
    caps: Caps,
    crossing: &BTreeSet<u32>,
    forbidden: &mut BTreeSet<(usize, u32)>,
    flows: &mut u32,
) -> Option<Vec<usize>> {
    *flows = flows.checked_sub(1)?;
    let found = flow(choices, caps, crossing, forbidden)?;
    let mut users: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (slot, (choice, of)) in found.iter().zip(choices).enumerate() {
        if let Some(network) = of.get(*choice).and_then(|hold| hold.network).filter(|n| crossing.contains(n)) {
            users.entry(network).or_default().push(slot);
        }
    }
    let Some((network, slots)) = users.into_iter().find(|(_, slots)| slots.len() > caps.network) else {
        return Some(found);
    };
    // Of any cap + 1 slots that share it, one must not.
    for slot in slots.into_iter().take(caps.network + 1) {
        forbidden.insert((slot, network));
        let found = search(choices, caps, crossing, forbidden, flows);
        forbidden.remove(&(slot, network));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// One unit's way.
struct Edge {
    to: usize,
    room: usize,
}

/// The residual graph: edge `i ^ 1` is edge `i` backwards.
#[derive(Default)]
struct Graph {
    edges: Vec<Edge>,
    out: Vec<Vec<usize>>,
}

impl Graph {
    fn node(&mut self) -> usize {
        self.out.push(Vec::new());
        self.out.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, room: usize) -> usize {
        let at = self.edges.len();
        self.edges.extend([Edge { to, room }, Edge { to: from, room: 0 }]);
        self.out[from].push(at);
        self.out[to].push(at + 1);
        at
    }

    /// Sends one unit from a node to the sink, moving others aside if that makes room. Each node is visited once.
    fn send(&mut self, from: usize, sink: usize, seen: &mut [bool]) -> bool {
        if from == sink {
            return true;
        }
        seen[from] = true;
        for at in self.out[from].clone() {
            let Edge { to, room } = self.edges[at];
            if room > 0 && !seen[to] && self.send(to, sink, seen) {
                self.edges[at].room -= 1;
                self.edges[at ^ 1].room += 1;
                return true;
            }
        }
        false
    }

    /// Sends one unit along an edge when nobody has to move for it.
    fn send_straight(&mut self, first: usize, sink: usize) -> bool {
        let mut way = vec![first];
        let mut at = self.edges[first].to;
        while at != sink {
            // Forward edges have even numbers, and no node behind a slot has two.
            let Some(next) = self.out[at].iter().copied().find(|e| e % 2 == 0) else { return false };
            way.push(next);
            at = self.edges[next].to;
        }
        let free = way.iter().all(|e| self.edges[*e].room > 0);
        for e in way.into_iter().filter(|_| free) {
            self.edges[e].room -= 1;
            self.edges[e ^ 1].room += 1;
        }
        free
    }
}

/// A maximum flow under the caps that nest; each slot's choice when all get one.
fn flow(
    choices: &[Vec<Hold<'_>>],
    caps: Caps,
    crossing: &BTreeSet<u32>,
    forbidden: &BTreeSet<(usize, u32)>,
) -> Option<Vec<usize>> {
    let mut graph = Graph::default();
    let sink = graph.node();
    let mut continents: BTreeMap<&str, usize> = BTreeMap::new();
    let mut networks: BTreeMap<u32, usize> = BTreeMap::new();
    let mut ways: Vec<Vec<(usize, usize)>> = Vec::with_capacity(choices.len());
    let slots: Vec<usize> = choices.iter().map(|_| graph.node()).collect();
    for (slot, of) in choices.iter().enumerate() {
        let mut out = Vec::with_capacity(of.len());
        for (choice, hold) in of.iter().enumerate() {
            if hold.network.is_some_and(|network| forbidden.contains(&(slot, network))) {
                continue;
            }
            let to = match hold.continent {
                None => sink,
                Some(continent) => match continents.get(continent) {
                    Some(node) => *node,
                    None => {
                        let node = graph.node();
                        graph.edge(node, sink, caps.continent);
                        continents.insert(continent, node);
                        node
                    }
                },
            };
            let to = match hold.network.filter(|network| !crossing.contains(network)) {
                None => to,
                Some(network) => match networks.get(&network) {
                    Some(node) => *node,
                    None => {
                        let node = graph.node();
                        graph.edge(node, to, caps.network);
                        networks.insert(network, node);
                        node
                    }
                },
            };
            out.push((choice, graph.edge(slots[slot], to, 1)));
        }
        ways.push(out);
    }
    for (slot, out) in ways.iter().enumerate() {
        let straight = out.iter().any(|(_, edge)| graph.send_straight(*edge, sink));
        let mut seen = vec![false; graph.out.len()];
        if !straight && !graph.send(slots[slot], sink, &mut seen) {
            return None;
        }
    }
    let taken = |out: &Vec<(usize, usize)>| out.iter().find(|(_, edge)| graph.edges[*edge].room == 0).map(|w| w.0);
    ways.iter().map(taken).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTINENTS: [&str; 3] = ["AS", "EU", "NA"];

    fn within(choices: &[Vec<Hold<'_>>], found: &[usize], caps: Caps) -> bool {
        let held: Vec<Hold<'_>> = found.iter().zip(choices).map(|(at, of)| of[*at]).collect();
        let of_continent = |c| held.iter().filter(|h| h.continent == Some(c)).count() <= caps.continent;
        let of_network = |n| held.iter().filter(|h| h.network == Some(n)).count() <= caps.network;
        CONTINENTS.into_iter().all(of_continent) && (0..16).all(of_network)
    }

    fn brute_force(choices: &[Vec<Hold<'_>>], found: &mut Vec<usize>, caps: Caps) -> bool {
        let Some(of) = choices.get(found.len()) else { return within(choices, found, caps) };
        (0..of.len()).any(|at| {
            found.push(at);
            let way = within(&choices[..found.len()], found, caps) && brute_force(choices, found, caps);
            found.pop();
            way
        })
    }

    /// One choice out of a number; `nested`: each network on one continent.
    fn hold(n: u8, nested: bool) -> Hold<'static> {
        let network = Some(u32::from(n % 8)).filter(|network| *network > 0);
        let continent = match (nested, network) {
            (true, Some(network)) => Some(CONTINENTS[network as usize % 3]),
            _ => (n as usize / 8 % 4).checked_sub(1).map(|at| CONTINENTS[at]),
        };
        Hold { continent, network }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn brute_force_agrees(
            numbers in proptest::collection::vec(proptest::collection::vec(0u8..32, 1..6), 1..7),
            continent in 1usize..4, network in 1usize..3, nested: bool,
        ) {
            let choices: Vec<Vec<Hold<'_>>> =
                numbers.iter().map(|of| of.iter().map(|n| hold(*n, nested)).collect()).collect();
            let caps = Caps { continent, network };
            prop_assert!(!nested || crossing(&choices).is_empty());
            let found = assign(&choices, caps);
            prop_assert_eq!(found.is_some(), brute_force(&choices, &mut Vec::new(), caps));
            if let Some(found) = found {
                prop_assert!(within(&choices, &found, caps), "{:?}", found);
            }
        }
    }

    /// Taking the first that fits, slot by slot, does not find it; and a flow alone would take network 1 twice.
    #[test]
    fn caps_that_cross_take_a_search() {
        let at = |continent, network| Hold { continent: Some(continent), network: Some(network) };
        let choices = [vec![at("EU", 1), at("NA", 2)], vec![at("NA", 1), at("EU", 3)], vec![at("AS", 1)]];
        let caps = Caps { continent: 1, network: 1 };
        assert_eq!(assign(&choices, caps), Some(vec![1, 1, 0]));
        assert_eq!(assign(&choices[..2], caps), Some(vec![1, 1]), "network 1 twice is one too many");
        assert_eq!(assign(&choices, Caps { continent: 1, network: 0 }), None);
    }

    /// A crowd that makes the question hard costs no more than its bound.
    #[test]
    fn a_crowd_of_networks_ends_in_time() {
        let wide: Vec<Vec<Hold<'_>>> = (0..32usize)
            .map(|slot| {
                let of = (0..64u32)
                    .map(|n| Hold { continent: Some(CONTINENTS[(slot + n as usize) % 3]), network: Some(n % 16) });
                of.collect()
            })
            .collect();
        // 32 slots, 16 networks, one each: there is no way.
        assert_eq!(assign(&wide, Caps { continent: 32, network: 1 }), None);
        let found = assign(&wide, Caps { continent: 11, network: 2 });
        assert!(found.is_none_or(|found| within(&wide, &found, Caps { continent: 11, network: 2 })));
    }
}
