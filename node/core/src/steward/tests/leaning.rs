//! Slots that lie in storage of the owner's own.

use super::*;
use crate::assess::GroupState;

/// Stewards of a group whose last slot leans.
fn leaning() -> Village {
    let mut village = Village::new(7);
    village.leaning.insert(4);
    let stewards: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let (record, now) = (village.with_newer_sheets(&stewards), village.now);
    for steward in village.stewards.values_mut() {
        steward.adopt(record.clone(), &[], owner(), now).expect("newer");
    }
    village
}

#[test]
fn a_slot_that_leans_is_neither_lost_nor_rebuilt() {
    let mut village = leaning();
    village.turns(24 * 3);
    assert!(village.given.is_empty(), "{:?}", village.given);
    let report = village.report();
    assert_eq!((report.assessment.state, report.assessment.live_slots), (GroupState::Healthy, 5));
    assert_eq!(report.leaning, [slot(4)]);
    let (_, steward) = village.stewards.iter().next().expect("one");
    let (group, now) = (village.ticket.id(), village.now);
    assert!(steward.dry_run(&group, now, &village.views).is_empty());
    assert!(steward.stuck(&group, now, &village.views).is_empty());
    // It survives a restart.
    let kept = steward.encode_group(&group).expect("watched");
    let budget = Budget::new(Limits::default(), 10 << 20, now);
    let key = village.keys[&steward.me()].clone();
    let watch = Watch::new(Timers::default());
    let mut again = Steward::new(key, village.domain(&steward.me()), Rhythm::default(), watch, budget);
    again.resume(&kept, now).expect("its own");
    assert_eq!(again.report(&group, now).expect("watched").leaning, [slot(4)]);
}

/// One that nobody has and that does not lean is an emergency: what is said of it matters.
#[test]
fn a_slot_that_nobody_has_is_an_emergency() {
    let mut village = leaning();
    let stewards: Vec<PeerKey> = village.stewards.keys().copied().collect();
    village.leaning.clear();
    let mandate = village.record_of(&stewards, 1, 3);
    let sheets: Vec<Vec<u8>> = (0..5)
        .map(|at| {
            let mut sheet = mandate.sheets[at].clone();
            if at == 4 {
                sheet.holders.clear();
            }
            sheet.seal(&authority()).expect("valid")
        })
        .collect();
    let record = GroupRecord::new(mandate.sealed_mandate().to_vec(), sheets).expect("whole");
    let now = village.now;
    for steward in village.stewards.values_mut() {
        steward.adopt(record.clone(), &[], owner(), now).expect("newer");
    }
    village.turns(2);
    assert!(!village.given.is_empty());
}

/// Near k even so: then both are made again from peers.
#[test]
fn a_group_near_k_is_rebuilt_where_it_leans_too() {
    let mut village = leaning();
    village.turns(1);
    village.away.insert(village.holder(2));
    let mut slots = BTreeSet::new();
    for _ in 0..24 * 15 * 2 {
        while !village.given.is_empty() {
            match village.carry_out() {
                Action::Rebuild { slot, helpers, .. } => {
                    assert!(helpers.len() >= 3);
                    slots.insert(slot.as_u8());
                }
                Action::Copy { slot, .. } => drop(slots.insert(slot.as_u8())),
                other => panic!("{other:?}"),
            }
        }
        village.turn();
    }
    assert_eq!(slots, [2, 4].into());
    let report = village.report();
    assert!(report.leaning.is_empty(), "peers have it now");
    assert_eq!(report.assessment.live_slots, 5);
    // Whoever was missed comes back: nothing more is to be done.
    village.away.clear();
    village.turns(24);
    village.given.clear();
    village.turns(24);
    assert!(village.given.is_empty());
}

/// Of fewer than k peers nothing can be made; the group is not lost for that.
#[test]
fn with_fewer_than_k_peers_it_is_critical_and_waits() {
    let mut village = leaning();
    village.turns(1);
    for at in [2, 3] {
        village.away.insert(village.holder(at));
    }
    village.turns(24 * 9);
    let report = village.report();
    assert_eq!((report.assessment.state, report.assessment.live_slots), (GroupState::Critical, 3));
    assert!(village.given.is_empty(), "two peers are no three: {:?}", village.given);
}
