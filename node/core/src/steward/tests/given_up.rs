//! Orders whose new holder dies, sleeps or says no.

use super::*;

/// The first order of slot 2: its name and its new holder, which dies with it.
fn dead_on_arrival() -> (Village, OrderId, PeerKey) {
    let mut village = Village::new(7);
    village.turns(1);
    village.away.insert(village.holder(2));
    while village.given.is_empty() {
        village.turn();
    }
    let Effect::Give { to, credentials, .. } = &village.given[0] else { panic!("only these") };
    let (to, order) = (*to, credentials.certificate.order.id().expect("valid"));
    (village, order, to)
}

fn under_way(village: &Village, peer: &PeerKey) -> usize {
    village.stewards[peer].report(&village.ticket.id(), village.now).expect("watched").under_way
}

#[test]
fn a_new_holder_that_dies_with_its_order_costs_minutes_in_an_emergency() {
    let (mut village, _, first) = dead_on_arrival();
    let (began, dead) = (village.now, village.given.remove(0));
    village.away.insert(first);
    while village.given.is_empty() {
        village.turn();
        assert!(village.now.ms_since(began) < HOUR, "{:?}", village.report().log);
    }
    let Effect::Give { to: second, .. } = village.given[0] else { panic!("only these") };
    assert!(second != first && village.of_colour(2).contains(&second));
    while village.report().slots[2].iter().all(|(peer, _, has, wanted)| *peer != second || has < wanted) {
        while !village.given.is_empty() {
            village.carry_out();
        }
        village.turn();
    }
    // The first comes back and goes on: its order stood, so it is a spare copy, and of the slot's colour.
    village.away.remove(&first);
    village.given.push(dead);
    village.carry_out();
    assert!(village.report().slots[2].iter().any(|(peer, ..)| *peer == first));
    // It is completed, since it has a part; that is one slot more, once, and nobody else gets anything.
    village.given.clear();
    let mut more = 0;
    for _ in 0..15 * 6 {
        village.turn();
        while !village.given.is_empty() {
            let Action::Copy { to, ordinals, .. } = village.carry_out() else { panic!("a copy is enough") };
            assert_eq!(to, first);
            more += ordinals.len();
        }
    }
    assert!(more <= usize::from(STRIPES), "{more}");
}

/// The order of slot 2 that stands: whose, and for which stripes.
fn standing(village: &Village) -> (PeerKey, Ordinals) {
    let Effect::Give { to, credentials, .. } = &village.given[0] else { panic!("only these") };
    (*to, credentials.certificate.order.action.ordinals())
}

/// Every steward asks it, and hears that it has the first so many.
fn has(village: &mut Village, to: PeerKey, of: &Ordinals, shards: usize) {
    let (group, now) = (village.ticket.id(), village.now);
    for steward in village.stewards.values_mut() {
        steward.reported(to, group, slot(2), &of.first(shards), now);
    }
}

/// Until another than this one is given the slot; how long that took.
fn until_another(village: &mut Village, first: PeerKey, mut each: impl FnMut(&mut Village, u64)) -> u64 {
    let began = village.now;
    village.given.clear();
    while village.given.is_empty() {
        village.turn();
        let after = village.now.ms_since(began);
        assert!(after < 12 * HOUR, "{:?}", village.report().log);
        each(village, after);
    }
    assert_ne!(standing(village).0, first, "whoever blocked it is left alone");
    village.now.ms_since(began)
}

#[test]
fn a_new_holder_that_is_there_and_does_nothing_costs_minutes_in_an_emergency() {
    let (mut village, _, first) = dead_on_arrival();
    let after = until_another(&mut village, first, |_, _| ());
    assert!((15 * 60_000..HOUR).contains(&after), "{after}");
    assert!(!village.away.contains(&first), "it was there all the time");
    // It is left alone for a while, whoever fails next.
    let second = standing(&village).0;
    until_another(&mut village, second, |_, _| ());
    assert_ne!(standing(&village).0, first);
}

/// Its stewards ask it as often as they must, and each shard that comes is progress.
#[test]
fn an_honest_slow_line_keeps_its_order() {
    let (mut village, _, first) = dead_on_arrival();
    let (_, ordinals) = standing(&village);
    let due = village.stewards.values().next().expect("one").inventory_due(village.now.plus_ms(5 * 60_000), 1);
    assert_eq!(due.iter().map(|due| (due.slot, due.holder)).collect::<Vec<_>>(), [(slot(2), first)]);
    let order = village.given.remove(0);
    // Five minutes each, as slow as a new holder lets a line be.
    let began = village.now;
    while village.now.ms_since(began) < 40 * 60_000 {
        village.turn();
        let shards = (village.now.ms_since(began) / (5 * 60_000)) as usize;
        has(&mut village, first, &ordinals, shards);
        assert!(village.given.is_empty(), "nobody else is asked after {shards} shards");
    }
    village.given.push(order);
    village.carry_out();
    assert!(village.report().slots[2].iter().any(|(peer, ..)| *peer == first));
}

/// Whoever says that it gets on and does not end has as long as the slowest line.
#[test]
fn who_only_pretends_to_get_on_keeps_a_slot_for_an_hour_at_most() {
    let (mut village, _, first) = dead_on_arrival();
    let (_, ordinals) = standing(&village);
    let after = until_another(&mut village, first, |village, after| {
        has(village, first, &ordinals, (after / (10 * 60_000)) as usize);
    });
    assert!((50 * 60_000..80 * 60_000).contains(&after), "{after}");
    // What was said of more than the order has is no progress.
    let (second, ordinals) = standing(&village);
    let all: Ordinals = (0..=u8::MAX).collect();
    has(&mut village, second, &all.without(&ordinals), 200);
    let after = until_another(&mut village, second, |_, _| ());
    assert!(after < HOUR, "{after}");
}

/// The proposer blocks it too: the others see for themselves.
#[test]
fn an_order_that_stands_still_is_given_up_by_each_when_its_proposer_does_not() {
    let (mut village, order, first) = dead_on_arrival();
    let group = village.ticket.id();
    let by = village.stewards.values().find_map(|steward| steward.groups[&group].proposer_of(&order)).expect("one");
    let stubborn = village.stewards.remove(&by).expect("there");
    let after = until_another(&mut village, first, |_, _| ());
    assert!(after < 2 * HOUR, "{after}");
    drop(stubborn);
}

/// A slot's loss that is no emergency: the hour is waited for, and no more.
#[test]
fn without_an_emergency_a_silent_new_holder_is_waited_for_an_hour() {
    let mut village = Village::new(7);
    village.turns(1);
    let (leaver, group) = (village.holder(2), village.ticket.id());
    let (at, now) = (village.now.plus_ms(24 * HOUR), village.now);
    village.stewards.values_mut().for_each(|steward| drop(steward.leaving(leaver, at, &[group], now)));
    while village.given.is_empty() {
        village.turn();
    }
    let Effect::Give { to, ref credentials, .. } = village.given.remove(0) else { panic!("only these") };
    assert!(!credentials.certificate.order.urgent);
    let began = village.now;
    village.away.insert(to);
    while village.given.is_empty() {
        village.turn();
    }
    let after = village.now.ms_since(began);
    assert!((HOUR..2 * HOUR).contains(&after), "{after}");
}

/// ... and one that is there and does nothing for two.
#[test]
fn without_an_emergency_a_new_holder_that_stands_still_is_waited_for_two_hours() {
    let mut village = Village::new(7);
    village.turns(1);
    let (leaver, group) = (village.holder(2), village.ticket.id());
    let (at, now) = (village.now.plus_ms(24 * HOUR), village.now);
    village.stewards.values_mut().for_each(|steward| drop(steward.leaving(leaver, at, &[group], now)));
    while village.given.is_empty() {
        village.turn();
    }
    let (to, _) = standing(&village);
    let after = until_another(&mut village, to, |_, _| ());
    assert!((2 * HOUR..3 * HOUR).contains(&after), "{after}");
}

/// REP-2: whoever kills each new holder gets spare copies made, a few, and not one with every look.
#[test]
fn new_holders_that_all_die_make_no_storm() {
    let (mut village, ..) = dead_on_arrival();
    let began = village.now;
    let mut times = Vec::new();
    let mut holders = BTreeSet::new();
    while village.now.ms_since(began) < 24 * HOUR {
        for effect in std::mem::take(&mut village.given) {
            let Effect::Give { to, .. } = effect else { panic!("only these") };
            times.push(village.now);
            assert!(holders.insert(to), "whoever let it down is left alone");
            village.away.insert(to);
        }
        village.turn();
    }
    assert!(times.len() > 3, "{times:?}");
    let order_ms = Rhythm::default().order_ms;
    for first in &times {
        let at_once = times.iter().filter(|at| *at >= first && at.ms_since(*first) < order_ms).count();
        assert!(at_once <= SPARES_MAX, "{at_once} orders of one slot stand at once");
    }
}

#[test]
fn who_says_no_is_followed_by_another_though_its_word_was_lost() {
    let (mut village, order, first) = dead_on_arrival();
    village.given.clear();
    let began = village.now;
    let by = *village
        .stewards
        .keys()
        .find(|peer| {
            let group = &village.stewards[peer].groups[&village.ticket.id()];
            group.proposer_of(&order) == Some(**peer)
        })
        .expect("one of them");
    let (group, now, views) = (village.ticket.id(), village.now, village.views.clone());
    // Whoever did not propose it has no say in it.
    let other = *village.stewards.keys().find(|peer| **peer != by).expect("seven");
    village.stewards.get_mut(&other).expect("there").undelivered(group, order, true, now, &views);
    assert_eq!(under_way(&village, &other), 1);
    village.stewards.get_mut(&by).expect("there").undelivered(group, order, true, now, &views);
    village.pump();
    for peer in village.stewards.keys() {
        assert_eq!(under_way(&village, peer), 0, "all of them heard it");
    }
    while village.given.is_empty() {
        village.turn();
        assert!(village.now.ms_since(began) < HOUR);
    }
    let Effect::Give { to, .. } = village.given[0] else { panic!("only these") };
    assert_ne!(to, first);
}

#[test]
fn nobody_has_another_stewards_order_given_up_by_slander() {
    let (mut village, order, to) = dead_on_arrival();
    let group = village.ticket.id();
    let proposer = village.stewards.values().find_map(|steward| steward.groups[&group].proposer_of(&order));
    let peers: Vec<PeerKey> = village.stewards.keys().copied().filter(|peer| Some(*peer) != proposer).collect();
    let stranger = village.of_colour(1)[3];
    let slander = Say::Failed { group, order, failure: Failure::Missing(to) };
    for liar in [peers[0], stranger] {
        village.tell(liar, peers[1], slander.clone());
        assert_eq!(under_way(&village, &peers[1]), 1);
    }
    // The same word is true when nobody hears the new holder.
    village.away.insert(to);
    village.now = village.now.plus_ms(6 * 60_000);
    village.hear();
    village.tell(stranger, peers[1], slander.clone());
    assert_eq!(under_way(&village, &peers[1]), 1);
    village.tell(peers[0], peers[1], slander);
    assert_eq!(under_way(&village, &peers[1]), 0);
}
