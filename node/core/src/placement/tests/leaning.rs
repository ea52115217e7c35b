//! Groups of networks that are too small for them, with fallback storage for the rest.

use proptest::prelude::any;

use super::*;
use crate::fallback::{most_at_one, room, share_out};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// No eligible peer stands back for a provider, none gets a slot that is not of its colour, and what stays empty fits.
    #[test]
    fn as_few_slots_as_can_be_stay_empty(count in 0u32..9, providers in 0usize..4, seed in any::<u64>(), public in any::<bool>()) {
        let peers = fleet(count);
        let mut policy = PlacementPolicy::for_domains(count as usize);
        policy.strategy = StrategyChoice::Always(if public { Strategy::Deterministic } else { Strategy::Randomised });
        let slots = policy.code.slots();
        let ever = vec![BTreeSet::new(); providers];
        let avoid = BTreeSet::new();
        let asked = GroupRequest { authority: [seed as u8; 32], ..request(&policy, &avoid) };
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let fewest = slots.saturating_sub(count as usize);
        let space = room(policy.code, &ever);
        match plan_leaning(&peers, &asked, space, &mut rng) {
            Ok(plan) => {
                let empty: Vec<usize> = (0..slots).filter(|slot| plan.slots[*slot].is_empty()).collect();
                prop_assert_eq!(empty.len(), fewest, "a peer that has no slot though one is empty");
                let given = share_out(policy.code, &ever, &empty).expect("room for what it left");
                for provider in 0..providers {
                    let has = given.iter().filter(|at| **at == provider).count();
                    prop_assert!(has <= most_at_one(policy.code), "SEP-6");
                }
                for (slot, list) in plan.slots.iter().enumerate() {
                    for holder in list {
                        let view = peers.iter().find(|v| v.peer == *holder).expect("known");
                        prop_assert_eq!(colour(&plan.ticket, &view.domain).index(), slot, "SEP-1");
                    }
                }
                prop_assert_eq!(plan.replicas, 1);
            }
            Err(PlacementError::TooFewPeers { more, classes, .. }) => {
                prop_assert!(fewest > space, "{fewest} empty slots have room in {space}");
                prop_assert_eq!((more, classes.len()), (fewest - space, fewest));
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn equal_inputs_give_equal_plans() {
    let (peers, avoid) = (fleet(3), BTreeSet::new());
    let policy = PlacementPolicy::for_domains(3);
    let plan = || plan_leaning(&peers, &request(&policy, &avoid), 2, &mut ChaCha20Rng::seed_from_u64(7));
    assert_eq!(plan().expect("room"), plan().expect("room"));
}
