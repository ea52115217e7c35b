//! Networks' caps beside the continents', against brute force.

use super::*;

/// 24 to 40 peers, some of no known network; networks 1 to 3 are everywhere, the others on one continent each.
fn clouds(n: u32, seed: u64) -> Vec<PeerView> {
    (0..n)
        .map(|i| {
            let dice = *blake3::hash(&[seed.to_le_bytes(), u64::from(i).to_le_bytes()].concat()).as_bytes();
            let region = ["EU", "EU", "NA", "AS", "SA"][usize::from(dice[0]) % 5];
            let network = match dice[1] % 12 {
                0 => None,
                everywhere @ 1..=6 => Some(u32::from(everywhere) % 3 + 1),
                own => Some(100 * u32::from(dice[0] % 5 + 1) + u32::from(own)),
            };
            PeerView { network, ..peer(i, &format!("s{seed}d{i}"), region) }
        })
        .collect()
}

type Hold = (Option<String>, Option<u32>);

fn shared(holders: &[&PeerView]) -> Hold {
    let same_continent = holders.iter().all(|v| v.region.continent() == holders[0].region.continent());
    let same_network = holders.iter().all(|v| v.network == holders[0].network);
    let continent = same_continent.then(|| holders[0].region.continent().to_owned());
    (continent, holders[0].network.filter(|_| same_network))
}

/// The most that one continent and one network hold.
fn worst(held: &[Hold]) -> (usize, usize) {
    let most = |count: &dyn Fn(&Hold) -> usize| held.iter().map(count).max().unwrap_or(0);
    let continents = most(&|h| h.0.as_ref().map_or(0, |c| held.iter().filter(|o| o.0.as_ref() == Some(c)).count()));
    let networks = most(&|h| h.1.map_or(0, |n| held.iter().filter(|o| o.1 == Some(n)).count()));
    (continents, networks)
}

/// The least that any choice comes to, above what is allowed; by trying all.
fn least(of: &[BTreeSet<Hold>], held: &mut Vec<Hold>, allowed: (usize, usize), best: &mut (usize, usize)) {
    let (continents, networks) = worst(held);
    let so_far = (continents.max(allowed.0), networks.max(allowed.1));
    // It only gets worse.
    if so_far >= *best {
        return;
    }
    let Some(slot) = of.get(held.len()) else {
        *best = so_far;
        return;
    };
    for hold in slot {
        held.push(hold.clone());
        least(of, held, allowed, best);
        held.pop();
    }
}

#[test]
fn both_caps_against_brute_force() {
    let (mut kept, mut broken) = (0, 0);
    for seed in 0..60u64 {
        let replicas = if seed % 3 == 0 { 2 } else { 1 };
        let peers = clouds(if replicas == 2 { 40 } else { 18 + seed as u32 % 8 }, seed);
        let mut policy = PlacementPolicy::new(CodeParams::DEFAULT, replicas);
        policy.regions.extra_salts = 0;
        let Ok(found) = plan(&peers, &policy, seed) else { continue };
        check(&peers, &policy, &found);
        let classes: Vec<Vec<&PeerView>> = (0..8)
            .map(|slot| peers.iter().filter(|v| colour(&found.ticket, &v.domain).index() == slot).collect())
            .collect();
        let of: Vec<BTreeSet<Hold>> = classes
            .iter()
            .map(|class| match replicas {
                1 => class.iter().map(|v| shared(&[*v])).collect(),
                _ => (0..class.len())
                    .flat_map(|i| (0..i).map(move |j| (i, j)))
                    .map(|(i, j)| shared(&[class[i], class[j]]))
                    .collect(),
            })
            .collect();
        let held: Vec<Hold> = found
            .slots
            .iter()
            .map(|list| {
                let views: Vec<&PeerView> = list[..found.replicas]
                    .iter()
                    .map(|p| peers.iter().find(|v| v.peer == *p).expect("known"))
                    .collect();
                shared(&views)
            })
            .collect();
        let allowed = (3, 2);
        let mut best = (usize::MAX, usize::MAX);
        least(&of, &mut Vec::new(), allowed, &mut best);
        let (continents, networks) = worst(&held);
        let got = (continents.max(allowed.0), networks.max(allowed.1));
        assert_eq!(got, best, "SEP-2, seed {seed}: the least that this salt allows");
        let said: Vec<u8> = found
            .relaxations
            .iter()
            .filter_map(|r| if let Relaxation::NetworkCap { slots, limit: 2, .. } = r { Some(*slots) } else { None })
            .collect();
        assert_eq!(said.iter().max().map_or(2, |s| usize::from(*s)), got.1, "what is broken is said");
        kept += usize::from(got == allowed);
        broken += usize::from(got != allowed);
    }
    assert!(kept > 10 && broken > 3, "both kinds were met: {kept} {broken}");
}

/// Where nobody's network is known, or everybody has one alone, nothing is decided otherwise.
#[test]
fn networks_of_one_change_nothing() {
    for seed in 0..10 {
        for n in [14, 40] {
            let without = fleet(n);
            let policy = PlacementPolicy::for_network(&without);
            let alone: Vec<PeerView> =
                (1u32..).zip(without.clone()).map(|(i, p)| PeerView { network: Some(i), ..p }).collect();
            let (a, b) = (plan(&without, &policy, seed).expect("plenty"), plan(&alone, &policy, seed).expect("plenty"));
            assert_eq!((&a.ticket, &a.relaxations), (&b.ticket, &b.relaxations));
            for (x, y) in a.slots.iter().zip(&b.slots) {
                assert_eq!(x[..a.replicas], y[..a.replicas]);
            }
        }
    }
}

#[test]
fn one_network_everywhere_is_reported_and_told() {
    let mut peers = fleet(40);
    peers.iter_mut().for_each(|p| p.network = Some(16509));
    let policy = PlacementPolicy::new(CodeParams::DEFAULT, 1);
    let found = plan(&peers, &policy, 1).expect("forty");
    assert_eq!(found.relaxations, [Relaxation::NetworkCap { network: 16509, slots: 8, limit: 2 }]);

    // With a few elsewhere the cloud gets its two slots, and those of it that rank first are told why they have not more.
    for p in peers.iter_mut().step_by(3) {
        p.network = None;
    }
    let found = plan(&peers, &policy, 1).expect("forty");
    let rows = explain(&peers, &request(&policy, &BTreeSet::new()), &found);
    let capped: Vec<&Candidate> =
        rows.iter().filter(|r| matches!(r.verdict, Verdict::CappedNetwork { network: 16509, .. })).collect();
    assert!(!capped.is_empty() && found.relaxations.is_empty(), "{:?}", found.relaxations);
    let text = capped[0].verdict.to_string();
    assert!(text.starts_with("its network AS16509 has enough slots (2 others, limit 2)"), "{text}");
    assert_eq!(capped[0].latency, Latency::Preferred { rtt_ms: 20, limit_ms: 100 });
}

/// SEP-5 with networks: who takes over is of another network while there is one, and what cannot be kept is said.
#[test]
fn a_replacement_keeps_the_networks_apart() {
    let mut peers = fleet(40);
    for (i, p) in peers.iter_mut().enumerate() {
        p.network = Some(if i % 2 == 0 { 7 } else { 1000 + i as u32 });
    }
    let policy = PlacementPolicy::new(CodeParams::DEFAULT, 1);
    let mut met = 0;
    for seed in 0..8 {
        let mut policy = policy.clone();
        policy.strategy = StrategyChoice::Always(Strategy::Randomised);
        let found = plan(&peers, &policy, seed).expect("forty");
        let holders: Vec<Vec<PeerKey>> = found.slots.iter().map(|s| s[..1].to_vec()).collect();
        let of = |p: &PeerKey| peers.iter().find(|v| v.peer == *p).expect("known").network;
        let cloud = holders.iter().flatten().filter(|p| of(p) == Some(7)).count();
        for slot in 0..8 {
            let failed: BTreeSet<PeerKey> = holders[slot].iter().copied().collect();
            let without = cloud - usize::from(of(&holders[slot][0]) == Some(7));
            let beside = BTreeSet::new();
            let vacancy = Vacancy { slot, holders: &holders, beside: &beside, failed: &failed };
            let ranked: Vec<PeerKey> = found.slots[slot][1..].to_vec();
            for next in replacements(&ranked, &vacancy, &peers, &policy) {
                let over = Relaxation::NetworkCap { network: 7, slots: without as u8 + 1, limit: 2 };
                let breaks = of(&next.peer) == Some(7) && without >= 2;
                assert_eq!(next.relaxations.contains(&over), breaks, "SEP-5");
                met += usize::from(breaks);
            }
            let order = replacements(&ranked, &vacancy, &peers, &policy);
            assert!(order.is_sorted_by_key(|r| r.relaxations.len()), "{order:?}");
        }
    }
    assert!(met > 0, "the cap was met");
}
