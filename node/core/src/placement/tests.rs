//! Properties of whole plans, against brute force where the case is small.

use cairn_proto::{ByteSize, CodeParams, Domain, Region, message::Roles};
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, prop_compose, proptest};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn key(i: u32) -> PeerKey {
    PeerKey::from_bytes(*blake3::hash(&i.to_le_bytes()).as_bytes())
}

pub(super) fn peer(i: u32, domain: &str, region: &str) -> PeerView {
    PeerView {
        peer: key(i),
        domain: Domain::operator(domain).expect("valid"),
        subnet: None,
        subnet_seen: false,
        region: Region::new(region).expect("valid"),
        region_basis: crate::region::Basis::Declared,
        network: None,
        roles: Roles::STORAGE,
        protocol: cairn_proto::PROTOCOL_VERSION,
        give: ByteSize(100 << 30),
        free: ByteSize(90 << 30),
        first_seen: Timestamp(0),
        last_heard: NOW,
        reachable: Some(true),
        rtt_ms: Some(20),
        loss: 0,
        reputation: 800,
        newcomer: false,
    }
}

fn fleet(n: u32) -> Vec<PeerView> {
    (0..n).map(|i| peer(i, &format!("d{i}"), ["EU", "NA", "AS", "SA"][i as usize % 4])).collect()
}

fn request<'a>(policy: &'a PlacementPolicy, avoid: &'a BTreeSet<PeerKey>) -> GroupRequest<'a> {
    GroupRequest {
        owner: Owner { peer: key(u32::MAX), domain: Domain::operator("owner").expect("valid") },
        authority: [9; 32],
        policy,
        avoid,
        now: NOW,
        owner_key: Some([5; 32]),
    }
}

fn plan(peers: &[PeerView], policy: &PlacementPolicy, seed: u64) -> Result<GroupPlan, PlacementError> {
    plan_group(peers, &request(policy, &BTreeSet::new()), &mut ChaCha20Rng::seed_from_u64(seed))
}

/// SEP-1 and SEP-2 as far as a plan can break them.
fn check(peers: &[PeerView], policy: &PlacementPolicy, plan: &GroupPlan) {
    let domain = |p: &PeerKey| &peers.iter().find(|v| v.peer == *p).expect("a known peer").domain;
    let mut seen = BTreeSet::new();
    assert_eq!(plan.slots.len(), policy.code.slots());
    for (slot, list) in policy.code.each_slot().zip(&plan.slots) {
        assert!(list.len() >= plan.replicas);
        for p in list {
            assert!(seen.insert(domain(p)), "SEP-1, SEP-2: a domain stands twice in a plan");
            assert!(crate::colour::may_hold(&plan.ticket, domain(p), slot), "SEP-1: wrong colour");
            assert_ne!(domain(p).as_str(), "op:owner", "SEP-1: the owner's own domain");
        }
    }
    for (region, held) in regions_held(peers, plan) {
        let said = plan.relaxations.iter().any(|r| matches!(r, Relaxation::RegionCap { region: r, slots, .. } if *r == region && usize::from(*slots) == held));
        assert_eq!(held > policy.code.parity(), said, "SEP-2: {held} slots in {region}, {:?}", plan.relaxations);
    }
}

fn regions_held(peers: &[PeerView], plan: &GroupPlan) -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    for list in &plan.slots {
        let here: BTreeSet<&str> = list[..plan.replicas]
            .iter()
            .map(|p| peers.iter().find(|v| v.peer == *p).expect("known").region.continent())
            .collect();
        if here.len() == 1 {
            *held.entry(here.first().expect("one").to_string()).or_insert(0) += 1;
        }
    }
    held
}

prop_compose! {
    fn any_peer()(
        i in 0u32..10_000, domain in 0u32..60, region in 0usize..6, storage in 0u8..10, reachable in 0u8..10,
        loss in 0u16..60, reputation in 650u16..1000, newcomer: bool, free in 0u64..100, rtt in 0u32..300,
    ) -> PeerView {
        PeerView {
            roles: if storage == 0 { Roles::RELAY } else { Roles::STORAGE },
            reachable: match reachable { 0 => Some(false), 1 => None, _ => Some(true) },
            free: ByteSize(free << 30),
            rtt_ms: (rtt > 50).then_some(rtt),
            loss, reputation, newcomer,
            ..peer(i, &if domain == 0 { "owner".into() } else { format!("d{domain}") },
                   ["EU/DE", "EU/FR", "NA/US", "AS/JP", "SA/BR", ""][region])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_domain_ever_gets_two_slots(
        peers in proptest::collection::btree_map(0u32..1000, any_peer(), 0..140), seed: u64, replicas in 1u8..3
    ) {
        let peers: Vec<PeerView> = peers.into_iter().map(|(i, v)| PeerView { peer: key(i), ..v }).collect();
        let policy = PlacementPolicy::new(CodeParams::DEFAULT, replicas);
        match plan(&peers, &policy, seed) {
            Ok(found) => {
                check(&peers, &policy, &found);
                prop_assert_eq!(plan(&peers, &policy, seed), Ok(found.clone()));
                let reversed: Vec<PeerView> = peers.iter().rev().cloned().collect();
                prop_assert_eq!(plan(&reversed, &policy, seed), Ok(found.clone()));
                let rows = explain(&peers, &request(&policy, &BTreeSet::new()), &found);
                prop_assert_eq!(rows.len(), peers.len());
                let chosen = rows.iter().filter(|r| matches!(r.verdict, Verdict::Chosen { .. })).count();
                prop_assert_eq!(chosen, 8 * usize::from(replicas));
            }
            Err(PlacementError::TooFewPeers { more, classes, eligible_domains, needed_domains, .. }) => {
                prop_assert!(more > 0 && !classes.is_empty());
                prop_assert!(eligible_domains < needed_domains + 16, "{} domains must do", eligible_domains);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// A departure changes the order of nobody else, and only the slot of the one who left.
    #[test]
    fn moves_are_minimal(n in 40u32..80, gone in 0usize..40, seed: u64) {
        let mut peers = fleet(n);
        let policy = PlacementPolicy::new(CodeParams::DEFAULT, 2);
        let before = plan(&peers, &policy, seed).expect("enough peers");
        let all = candidates(&peers, &request(&policy, &BTreeSet::new()), &before.ticket, before.strategy);
        let left = peers.remove(gone).peer;
        let after = candidates(&peers, &request(&policy, &BTreeSet::new()), &before.ticket, before.strategy);
        for (old, new) in all.iter().zip(&after) {
            let expected: Vec<PeerKey> = old.iter().copied().filter(|p| *p != left).collect();
            prop_assert_eq!(&expected, new);
        }
    }
}

#[test]
fn the_owners_domain_is_never_chosen() {
    let mut peers = fleet(12);
    let policy = PlacementPolicy::for_network(&peers);
    for i in 100..140 {
        peers.push(peer(i, "owner", "EU"));
    }
    peers.push(PeerView { peer: key(u32::MAX), ..peer(0, "elsewhere", "EU") });
    for seed in 0..20 {
        let found = plan(&peers, &policy, seed).expect("twelve others");
        check(&peers, &policy, &found);
        assert!(found.slots.iter().flatten().all(|p| *p != key(u32::MAX)));
    }
}

/// Whether some choice of one peer a slot keeps the cap, by trying all.
fn spreadable(peers: &[PeerView], ticket: &GroupTicket, slot: usize, cap: usize, used: &mut Vec<&str>) -> bool {
    if slot == ticket.code().slots() {
        return true;
    }
    for v in peers.iter().filter(|v| colour(ticket, &v.domain).index() == slot) {
        let continent = v.region.continent();
        if used.iter().filter(|u| **u == continent).count() < cap {
            let mut next: Vec<&str> = used.clone();
            next.push(peers.iter().find(|o| o.peer == v.peer).expect("itself").region.continent());
            if spreadable(peers, ticket, slot + 1, cap, &mut next) {
                return true;
            }
        }
    }
    false
}

#[test]
fn regions_are_capped_when_brute_force_finds_a_way() {
    for seed in 0..40u64 {
        let shift = (seed % 5) as usize;
        let peers: Vec<PeerView> = (0..16)
            .map(|i| peer(i, &format!("s{seed}d{i}"), ["EU", "EU", "EU", "NA", "AS"][(i as usize * 3 + shift) % 5]))
            .collect();
        let mut policy = PlacementPolicy::new(CodeParams::DEFAULT, 1);
        policy.regions.extra_salts = (seed % 2) as u32 * 64;
        let found = plan(&peers, &policy, seed).expect("sixteen domains for eight slots");
        check(&peers, &policy, &found);
        let worst = regions_held(&peers, &found).into_values().max().unwrap_or(0);
        let possible = (1..=8).find(|cap| spreadable(&peers, &found.ticket, 0, *cap, &mut vec![])).expect("at 8");
        assert_eq!(worst.max(3), possible.max(3), "the least cap of m or more that this salt allows");
        if policy.regions.extra_salts > 0 {
            assert!(worst <= 3, "other salts do better: {:?}", found.relaxations);
        }
    }
}

#[test]
fn two_replicas_stand_on_two_continents() {
    let peers = fleet(64);
    let policy = PlacementPolicy::for_network(&peers);
    assert_eq!((policy.replicas, policy.notice), (2, None));
    for seed in 0..20 {
        let found = plan(&peers, &policy, seed).expect("plenty");
        check(&peers, &policy, &found);
        assert!(found.relaxations.is_empty(), "{:?}", found.relaxations);
    }
}

#[test]
fn one_region_is_reported_not_hidden() {
    let peers: Vec<PeerView> = (0..12).map(|i| peer(i, &format!("d{i}"), "")).collect();
    let found = plan(&peers, &PlacementPolicy::for_network(&peers), 1).expect("twelve domains");
    assert_eq!(
        found.relaxations,
        [
            Relaxation::RegionCap { region: String::new(), slots: 8, limit: 3 },
            Relaxation::FewRegions { found: 1, wanted: 3 }
        ]
    );
}

#[test]
fn the_shape_follows_the_size() {
    let shape = |n| {
        let p = PlacementPolicy::for_network(&fleet(n));
        (p.code, p.replicas, p.notice)
    };
    assert_eq!(shape(9), (CodeParams::LOW_PEER, 1, Some(PolicyNotice::LowPeer { domains: 9 })));
    assert_eq!(shape(10), (CodeParams::DEFAULT, 1, Some(PolicyNotice::SingleReplica { domains: 10 })));
    assert_eq!(shape(31), (CodeParams::DEFAULT, 1, Some(PolicyNotice::SingleReplica { domains: 31 })));
    assert_eq!(shape(32), (CodeParams::DEFAULT, 2, None));
    let mut one_operator = fleet(40);
    one_operator.iter_mut().for_each(|p| p.domain = Domain::operator("big").expect("valid"));
    assert_eq!(PlacementPolicy::for_network(&one_operator).notice, Some(PolicyNotice::LowPeer { domains: 1 }));
}

/// Each size at which a shape begins, with no peer to spare, can place every group that it is asked for.
#[test]
fn the_tightest_networks_still_stand() {
    for n in [5u32, 6, 9, 10, 12, 32] {
        let peers = fleet(n);
        let policy = PlacementPolicy::for_network(&peers);
        for seed in 0..8 {
            let found = plan(&peers, &policy, seed).expect("every size from five on");
            check(&peers, &policy, &found);
        }
    }
}

#[test]
fn too_few_says_how_many_and_which_classes() {
    let mut peers = fleet(6);
    peers[5].loss = 80;
    peers[4].reachable = Some(false);
    let policy = PlacementPolicy::for_network(&peers);
    let error = plan(&peers, &policy, 1).expect_err("four for five slots");
    let PlacementError::TooFewPeers { eligible_domains, needed_domains, more, classes, rejected } = &error else {
        unreachable!("{error}")
    };
    assert_eq!((*eligible_domains, *needed_domains, *more, classes.len()), (4, 5, 1, 1));
    let reasons: BTreeMap<PeerKey, String> = rejected.iter().map(|(p, r)| (*p, r.to_string())).collect();
    assert_eq!(reasons[&key(5)], "lost 8.0 % of requests (must be below 5.0 %)");
    assert_eq!(reasons[&key(4)], "cannot be reached");
    assert_eq!(
        error.to_string(),
        format!("4 independent peers can take shards and 5 are needed: 1 more, for colour class {}", classes[0])
    );
    assert!(error.advice().contains("start or invite 1 more storage peer"), "{}", error.advice());

    let nobody = plan(&[], &policy, 1).expect_err("nobody");
    assert!(matches!(nobody, PlacementError::TooFewPeers { more: 5, ref classes, .. } if classes.len() == 5));
}

#[test]
fn every_rule_names_its_figure_and_limit() {
    let base = peer(1, "d", "EU");
    let policy = PlacementPolicy::new(CodeParams::DEFAULT, 1);
    let owner = Owner { peer: key(7), domain: Domain::operator("owner").expect("valid") };
    let says = |change: &dyn Fn(&mut PeerView)| {
        let mut view = base.clone();
        change(&mut view);
        eligible(&view, &owner, &policy, NOW).map_err(|r| r.to_string())
    };
    assert_eq!(says(&|_| {}), Ok(()));
    let refused = |change: &dyn Fn(&mut PeerView), text: &str| assert_eq!(says(change), Err(text.to_owned()));
    refused(&|v| v.peer = key(7), "is this node itself");
    refused(&|v| v.domain = Domain::operator("owner").expect("valid"), "is of the owner's own domain op:owner");
    refused(&|v| v.roles = Roles::RELAY, "does not store");
    refused(&|v| v.protocol = 9, "speaks protocol 9, not 1");
    refused(&|v| v.reachable = Some(false), "cannot be reached");
    let silent = |v: &mut PeerView| {
        v.reachable = None;
        v.last_heard = Timestamp(NOW.0 - 1_801_000);
    };
    refused(&silent, "silent for 1801 s (limit 1800 s)");
    refused(&|v| v.free = ByteSize((2 << 20) - 1), "has 2.0 MiB free, needs 2.0 MiB");
    refused(&|v| v.free = ByteSize(30 << 30), "would be 70.1 % full (limit 70.0 %)");
    refused(&|v| v.give = ByteSize(0), "would be 100.0 % full (limit 70.0 %)");
    refused(&|v| v.loss = 50, "lost 5.0 % of requests (must be below 5.0 %)");
    refused(&|v| v.reputation = 700, "reputation 0.700 (needs more than 0.700)");
    let bad_newcomer = |v: &mut PeerView| {
        v.newcomer = true;
        v.reputation = 499;
    };
    refused(&bad_newcomer, "newcomer, reputation 0.499 (needs at least 0.500)");
    assert_eq!(
        says(&|v| {
            v.newcomer = true;
            v.reputation = 500;
        }),
        Ok(())
    );
}

#[test]
fn peers_that_failed_in_this_run_are_avoided() {
    let peers = fleet(20);
    let policy = PlacementPolicy::for_network(&peers);
    let avoid: BTreeSet<PeerKey> = (0..6).map(key).collect();
    let found =
        plan_group(&peers, &request(&policy, &avoid), &mut ChaCha20Rng::seed_from_u64(1)).expect("fourteen are left");
    assert!(found.slots.iter().flatten().all(|p| !avoid.contains(p)));
    let rows = explain(&peers, &request(&policy, &avoid), &found);
    let refused = rows.iter().filter(|r| r.verdict == Verdict::Rejected { reason: Rejection::Avoided }).count();
    assert_eq!(refused, 6);
}

#[test]
fn the_strategy_follows_reachability() {
    let mut peers = fleet(20);
    let policy = PlacementPolicy::for_network(&peers);
    let found = plan(&peers, &policy, 1).expect("plenty");
    assert_eq!(found.strategy, Strategy::Deterministic);
    assert_eq!(salt::recheck_salt(&found.ticket), Some(found.tries - 1).filter(|_| found.relaxations.is_empty()));
    assert_eq!(plan(&peers, &policy, 2), Ok(found), "no chance in the deterministic strategy");

    peers.iter_mut().take(4).for_each(|p| p.reachable = None);
    assert_eq!(policy.strategy_for(&peers), Strategy::Randomised, "80 % is not more than 80 %");
    let mut going_on = policy.clone();
    going_on.strategy_before = Some(Strategy::Deterministic);
    let reason = StrategyReason { strategy: Strategy::Deterministic, known: 20, answering: 16, limit: 750 };
    assert_eq!(going_on.strategy_of(&peers), reason, "it is not given up for one peer");
    peers[4].reachable = Some(false);
    assert_eq!(going_on.strategy_for(&peers), Strategy::Randomised, "75 % is not more than 75 %");
    going_on.strategy_before = Some(Strategy::Randomised);
    peers[4].reachable = Some(true);
    assert_eq!(going_on.strategy_for(&peers), Strategy::Randomised, "nor taken up again for one");
    let a = plan(&peers, &policy, 1).expect("plenty");
    let b = plan(&peers, &policy, 2).expect("plenty");
    assert_ne!(a.ticket, b.ticket);
    assert_eq!(salt::recheck_salt(&a.ticket), None);
}

/// The order inside a colour is the owner's secret in the randomised strategy.
#[test]
fn another_owner_key_ranks_otherwise() {
    let peers = fleet(200);
    let mut policy = PlacementPolicy::for_network(&peers);
    policy.strategy = StrategyChoice::Always(Strategy::Randomised);
    let none = BTreeSet::new();
    let one = GroupRequest { owner_key: Some([1; 32]), ..request(&policy, &none) };
    let two = GroupRequest { owner_key: Some([2; 32]), ..request(&policy, &none) };
    let a = plan_group(&peers, &one, &mut ChaCha20Rng::seed_from_u64(3)).expect("plenty");
    let b = plan_group(&peers, &two, &mut ChaCha20Rng::seed_from_u64(3)).expect("plenty");
    assert_eq!(a.ticket, b.ticket);
    assert_ne!(a.slots, b.slots);
}

/// A hundred peers of one operator draw no more than the cap allows one domain.
#[test]
fn a_crowd_of_one_operator_gains_nothing() {
    let mut peers = fleet(60);
    for i in 1000..1100 {
        peers.push(peer(i, "crowd", "EU"));
    }
    let policy = PlacementPolicy::for_network(&peers);
    let crowd: BTreeSet<PeerKey> = (1000..1100).map(key).collect();
    let none = BTreeSet::new();
    let groups = 300;
    let mut held = 0;
    for g in 0..groups {
        let mut authority = [0; 32];
        authority[0] = (g % 256) as u8;
        authority[1] = (g / 256) as u8;
        let asked = GroupRequest { authority, ..request(&policy, &none) };
        let found = plan_group(&peers, &asked, &mut ChaCha20Rng::seed_from_u64(1)).expect("plenty");
        held += policy.code.each_slot().flat_map(|s| found.chosen(s).to_vec()).filter(|p| crowd.contains(p)).count();
    }
    // An equal share would be 16 of 61; the cap, total / 32 and total here 61 domains' and a crowd's worth, allows a
    // few times that and never a place in every group.
    assert!(held < groups * 3 / 4, "held in {held} of {groups} groups");
}

/// The whole decision, frozen: another machine or a later version must choose the same.
#[test]
fn a_plan_is_frozen() {
    let found = plan(&fleet(40), &PlacementPolicy::for_network(&fleet(40)), 1).expect("plenty");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&found.ticket.encode());
    for list in &found.slots {
        list.iter().for_each(|p| {
            hasher.update(p.as_bytes());
        });
        hasher.update(&[0xff]);
    }
    assert_eq!((found.tries, &hasher.finalize().to_hex()[..16]), (78, "7d5d82aca02622e8"));
}

mod crowds;
mod first_attempts;
mod leaning;
mod networks;
