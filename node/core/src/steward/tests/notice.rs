//! Holders that leave politely, and that lost something: what stewards make of their word.

use super::*;
use crate::steward::{LEAVE_AHEAD_MS, wire::Kept};

impl Village {
    /// Says to every steward that it leaves; what each answers about the group.
    fn says_it_leaves(&mut self, peer: PeerKey, at: Timestamp) -> BTreeSet<Kept> {
        let (group, now) = (self.ticket.id(), self.now);
        let others = self.stewards.iter_mut().filter(|(steward, _)| **steward != peer);
        others.flat_map(|(_, steward)| steward.leaving(peer, at, &[group], now)).collect()
    }

    /// Half a day, in which every order is carried out at once; what was ordered.
    fn half_a_day(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..12 * 15 {
            self.turn();
            for steward in self.stewards.values() {
                let under_way = steward.report(&self.ticket.id(), self.now).expect("watched").under_way;
                assert!(under_way <= AT_ONCE, "{under_way} orders at once");
            }
            while !self.given.is_empty() {
                done.push(self.carry_out());
            }
        }
        done
    }

    fn held_by_two(&self, holder: &PeerKey, at: u8) -> bool {
        let row = &self.report().slots[usize::from(at)];
        row.len() == 2
            && row.iter().any(|(peer, ..)| peer == holder)
            && row.iter().all(|(.., has, wanted)| has == wanted)
    }
}

/// A copy is a third of what a rebuild costs, and nobody is without the slot for a moment.
#[test]
fn what_a_leaving_holder_has_is_copied_to_its_colour_before_its_time() {
    let mut village = Village::new(7);
    village.turns(1);
    let (leaver, at) = (village.holder(2), village.now.plus_ms(24 * HOUR));
    assert_eq!(village.says_it_leaves(leaver, at), [Kept::Needed].into());
    let done = village.half_a_day();
    let mut heirs = BTreeSet::new();
    for action in &done {
        let Action::Copy { slot: of, from, to, .. } = action else { panic!("{action:?}") };
        assert_eq!((*of, *from), (slot(2), leaver));
        heirs.insert(*to);
    }
    assert_eq!((done.len(), heirs.len()), (3, 1), "twenty shards, eight at a time, to one: {done:?}");
    assert!(heirs.iter().all(|heir| *heir != leaver && village.of_colour(2).contains(heir)), "SEP-1");
    assert!(village.now < at && village.held_by_two(&leaver, 2));
    assert_eq!(village.says_it_leaves(leaver, at), [Kept::Elsewhere].into());
    // When it is gone nothing is missing.
    village.turns(13);
    village.away.insert(leaver);
    village.turns(24 * 9);
    assert!(village.given.is_empty(), "{:?}", village.given);
}

#[test]
fn three_that_leave_at_once_make_no_storm_and_lose_nothing() {
    let mut village = Village::new(7);
    village.turns(1);
    let at = village.now.plus_ms(24 * HOUR);
    let leavers = [1, 2, 4].map(|slot| village.holder(slot));
    for leaver in leavers {
        village.says_it_leaves(leaver, at);
    }
    assert_eq!(
        village.report().assessment.state,
        crate::assess::GroupState::Critical,
        "two of five would be left of three"
    );
    let done = village.half_a_day();
    assert!(done.iter().all(|action| matches!(action, Action::Copy { .. })), "{done:?}");
    assert_eq!(done.len(), 9, "each shard once");
    for (leaver, at) in leavers.iter().zip([1, 2, 4]) {
        assert!(village.held_by_two(leaver, at));
    }
}

#[test]
fn who_stays_after_all_is_left_alone() {
    let mut village = Village::new(7);
    village.turns(1);
    let leaver = village.holder(2);
    village.says_it_leaves(leaver, village.now.plus_ms(24 * HOUR));
    let now = village.now;
    village.stewards.values_mut().for_each(|steward| steward.stays(leaver, now));
    assert_eq!(village.half_a_day(), []);
}

#[test]
fn nobody_leaves_for_somebody_else_and_nothing_is_said_of_what_one_does_not_hold() {
    let mut village = Village::new(7);
    village.turns(1);
    let (liar, at) = (village.of_colour(2)[5], village.now.plus_ms(HOUR));
    assert_eq!(village.says_it_leaves(liar, at), [Kept::Unknown].into(), "it holds nothing of the group");
    let (unknown, now) = (GroupId::from_bytes([7; 32]), village.now);
    let holder = village.holder(1);
    for steward in village.stewards.values_mut() {
        assert_eq!(steward.leaving(liar, at, &[unknown], now), [Kept::Unknown]);
        assert!(!steward.lost(liar, unknown, slot(2), &(0..STRIPES).collect(), now));
        assert!(!steward.lost(liar, village.ticket.id(), slot(2), &(0..STRIPES).collect(), now));
        assert!(!steward.lost(holder, village.ticket.id(), slot(2), &(0..STRIPES).collect(), now), "another's slot");
        assert_eq!(steward.watch().leaves(&liar), None, "nobody watches it");
    }
    assert_eq!(village.half_a_day(), []);
    // A departure in a hundred years is not one that nobody counts on for so long.
    village.says_it_leaves(holder, village.now.plus_ms(1000 * LEAVE_AHEAD_MS));
    let leaves = village.stewards.values().next().expect("one").watch().leaves(&holder);
    assert_eq!(leaves, Some(village.now.plus_ms(LEAVE_AHEAD_MS)));
}

#[test]
fn a_steward_that_leaves_is_replaced_while_it_is_here() {
    let mut village = Village::new(7);
    village.turns(1);
    let leavers: Vec<PeerKey> = village.stewards.keys().copied().take(3).collect();
    let at = village.now.plus_ms(24 * HOUR);
    for leaver in &leavers {
        village.says_it_leaves(*leaver, at);
    }
    village.turns(6);
    let report = village.stewards.iter().find(|(peer, _)| !leavers.contains(peer)).expect("four").1;
    let stewards = report.report(&village.ticket.id(), village.now).expect("watched").stewards;
    assert!(
        stewards.len() >= 4 && leavers.iter().all(|gone| stewards.iter().all(|(peer, _)| peer != gone)),
        "{stewards:?}"
    );
}

#[test]
fn what_a_holder_lost_is_given_to_it_again_at_once_unless_it_leaves() {
    let mut village = Village::new(5);
    village.turns(1);
    let (holder, group) = (village.holder(3), village.ticket.id());
    let tell = |village: &mut Village, lost: &[u8]| {
        let (lost, now): (Ordinals, _) = (lost.iter().copied().collect(), village.now);
        assert!(village.stewards.values_mut().all(|steward| steward.lost(holder, group, slot(3), &lost, now)));
    };
    tell(&mut village, &[4]);
    tell(&mut village, &[4, 9]);
    let done = village.half_a_day();
    let Some(Action::Rebuild { slot: of, to, ordinals, .. }) = done.first() else { panic!("{done:?}") };
    assert_eq!((done.len(), *of, *to, *ordinals), (1, slot(3), holder, [4, 9].into_iter().collect()));
    assert_eq!(village.report().slots[3].len(), 1, "it keeps its slot");
    // A disk that loses so soon what it was given waits, and another takes the slot.
    tell(&mut village, &[4]);
    let done = village.half_a_day();
    assert!(
        !done.is_empty() && done.iter().all(|action| action.to() != Some(holder)),
        "or it would use up the others' lines: {done:?}"
    );

    let mut village = Village::new(5);
    village.turns(1);
    tell(&mut village, &[4]);
    village.says_it_leaves(holder, village.now.plus_ms(24 * HOUR));
    let done = village.half_a_day();
    assert!(!done.is_empty() && done.iter().all(|action| action.to() != Some(holder)), "{done:?}");
}
