//! Groups of stripes that have fewer data shards than the code: a small backup.

use super::*;
use crate::assess::GroupState;

#[test]
fn a_group_of_short_stripes_is_healthy_and_is_rebuilt_from_as_many_as_it_has() {
    for used in 1..=3u8 {
        let mut village = Village::with_stripes(7, used);
        village.turns(2);
        let report = village.report();
        assert_eq!((report.assessment.state, report.assessment.live_slots), (GroupState::Healthy, 5), "{used}");
        assert_eq!(report.assessment.copies.len(), 5);
        assert!(village.given.is_empty());
        let lost = village.holder(3);
        village.away.insert(lost);
        for _ in 0..24 * 15 * 9 {
            if village.given.is_empty() {
                village.turn();
            }
        }
        match village.carry_out() {
            Action::Rebuild { slot: at, helpers, ordinals, .. } => {
                assert_eq!(
                    (at, helpers.len(), ordinals.len()),
                    (slot(3), usize::from(used) + 1, 8),
                    "and one in case that somebody lies"
                );
                assert!(helpers.iter().all(|(helper, _)| is_real(CodeParams::LOW_PEER, used, *helper)));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Whoever is lost of a slot that no stripe has leaves nothing behind.
#[test]
fn a_slot_that_no_stripe_has_needs_nobody() {
    let mut village = Village::with_stripes(7, 1);
    village.away.extend([village.holder(1), village.holder(2)]);
    village.turns(24 * 9);
    assert!(village.given.is_empty());
    assert_eq!(village.report().assessment.state, GroupState::Healthy);
}

/// The new holder sees when the helpers cannot be those of its stripes: a blinded sum of others would not be its shard.
#[test]
fn a_rebuild_from_too_few_or_from_virtual_slots_is_not_taken() {
    let village = Village::with_stripes(7, 2);
    let record = village.stewards.values().next().expect("seven").groups[&village.ticket.id()].record.clone();
    let to = village.of_colour(3)[1];
    let take = |helpers: &[u8]| {
        let helpers = helpers.iter().map(|at| (slot(*at), village.holder(*at))).collect();
        let action = Action::Rebuild { slot: slot(3), to, ordinals: [0].into_iter().collect(), helpers };
        let certificate = village.certificate(&village.order(1, action), village.stewards.keys().copied());
        let credentials = Credentials { mandate: record.sealed_mandate().to_vec(), changes: Vec::new(), certificate };
        let sheet = record.sealed_sheet(slot(3)).expect("there");
        part::may_take(&credentials, sheet, &to, &village.domain(&to), None, (&BTreeSet::new(), village.now)).map(drop)
    };
    assert_eq!(take(&[0, 4]), Ok(()));
    assert_eq!(take(&[0, 1, 4]), Ok(()), "one to spare");
    assert_eq!(take(&[0, 2]), Err(Unfit::WrongHelpers));
    assert_eq!(take(&[0]), Err(Unfit::WrongHelpers));
}

/// The three with the most stripes have none in common; three others do.
#[test]
fn helpers_are_found_when_there_are_any() {
    let mut village = Village::new(7);
    village.turns(1);
    let (group, now) = (village.ticket.id(), village.now);
    village.away.insert(village.holder(2));
    let has: [(u8, Vec<u8>); 3] = [(0, (0..10).collect()), (1, (10..20).collect()), (4, (0..9).collect())];
    for (at, ordinals) in &has {
        let holder = village.holder(*at);
        let has: Ordinals = ordinals.iter().copied().collect();
        village.stewards.values_mut().for_each(|s| s.reported(holder, group, slot(*at), &has, now));
    }
    // What the others lack is healed first where it can be; of slot 2 the stripes that three have.
    for steward in village.stewards.values_mut() {
        let watched = steward.groups.get(&group).expect("watched");
        let domain = Domain::operator("x").expect("valid");
        let scene = plan::Scene::new(
            (steward.me, &domain),
            now,
            &village.views,
            (&steward.watch, &steward.places),
            &steward.rhythm,
        );
        let all = watched.wanted(slot(2));
        let found = plan::rebuild(watched, &scene, slot(2), steward.me, &all, &BTreeSet::new());
        match found {
            Some(Action::Rebuild { helpers, ordinals, .. }) => {
                assert_eq!(helpers.iter().map(|(at, _)| at.as_u8()).collect::<BTreeSet<_>>(), [0, 3, 4].into());
                assert_eq!(ordinals, (0..8).collect());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A steward whose own line carries a megabit a second has buckets of four MiB: it orders what fits, and the slot gets whole.
#[test]
fn on_a_slow_line_a_slot_is_repaired_in_smaller_parts() {
    let mut village = Village::new(7);
    let now = village.now;
    village.stewards.values_mut().for_each(|steward| steward.set_upstream(125_000, now));
    village.turns(1);
    // No emergency, which would have the whole bucket: a departure.
    let (leaver, at, group) = (village.holder(2), village.now.plus_ms(24 * HOUR), village.ticket.id());
    let now = village.now;
    village.stewards.values_mut().for_each(|steward| drop(steward.leaving(leaver, at, &[group], now)));
    let mut parts = Vec::new();
    for _ in 0..15 * 24 {
        village.turn();
        while !village.given.is_empty() {
            let Action::Copy { ordinals, .. } = village.carry_out() else { panic!("a copy is enough") };
            parts.push(ordinals.len());
        }
    }
    assert_eq!(parts.iter().sum::<usize>(), usize::from(STRIPES), "{parts:?}");
    assert!(parts.iter().all(|part| *part <= 4), "{parts:?}");
}
