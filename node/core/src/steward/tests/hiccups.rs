//! What is lost on the way, holders that let others down, clocks that go back.

use super::*;

/// The order of the first repair of slot 2, as it was given.
fn given() -> Village {
    let mut village = Village::new(7);
    village.away.insert(village.holder(2));
    while village.given.is_empty() {
        village.turn();
    }
    village
}

fn watched<'a>(village: &'a Village, peer: &PeerKey) -> &'a Watched {
    &village.stewards[peer].groups[&village.ticket.id()]
}

/// A slot's holder says what it has to every steward.
fn says(village: &mut Village, holder: PeerKey, at: u8, has: &Ordinals) {
    let (group, now) = (village.ticket.id(), village.now);
    village.stewards.values_mut().for_each(|steward| steward.reported(holder, group, slot(at), has, now));
}

#[test]
fn an_order_that_was_lost_on_the_way_is_given_again() {
    // Of no emergency, in which another would be asked after a quarter of an hour.
    let mut village = Village::new(7);
    village.turns(1);
    let (leaver, group) = (village.holder(2), village.ticket.id());
    let (at, now) = (village.now.plus_ms(24 * HOUR), village.now);
    village.stewards.values_mut().for_each(|steward| drop(steward.leaving(leaver, at, &[group], now)));
    while village.given.is_empty() {
        village.turn();
    }
    assert!(village.again.is_empty());
    village.turns(1);
    let by: BTreeSet<PeerKey> = village.again.iter().copied().collect();
    assert_eq!(by.len(), 2, "the proposer, and after a turn the next");
    // Six pauses of ten minutes, by looks every eight.
    assert!((4..=2 * 6).contains(&village.again.len()), "{}", village.again.len());
    assert_eq!(village.given.len(), 1, "the same order");
    // Whoever gave it is away: the next does.
    let first = village.again[0];
    village.away.insert(first);
    village.again.clear();
    (0..10).for_each(|_| village.turn());
    assert!(!village.again.is_empty());
    village.away.remove(&first);
    village.carry_out();
    village.again.clear();
    let done = village.orders.len();
    village.turn();
    assert!(village.again.is_empty() && village.orders.len() >= done, "it is taken");
}

/// Only one peer of the colour is left, and it had a bad moment.
#[test]
fn in_a_small_network_one_failure_is_a_pause_and_not_a_day() {
    let mut village = given();
    let Effect::Give { to, credentials, .. } = village.given.remove(0) else { panic!("only these") };
    let others: Vec<PeerKey> = village.of_colour(2).into_iter().filter(|peer| *peer != to).collect();
    village.views.retain(|view| !others.contains(&view.peer));
    village.away.extend(others);
    let (group, order) = (village.ticket.id(), credentials.certificate.order.id().expect("valid"));
    for steward in village.stewards.keys().copied().collect::<Vec<_>>() {
        village.tell(to, steward, Say::Failed { group, order, failure: Failure::Refused });
    }
    village.turns(4);
    let Some(Effect::Give { to: again, .. }) = village.given.first() else {
        panic!("nobody: {:?}", village.report().log)
    };
    assert_eq!(*again, to);
}

#[test]
fn that_nobody_is_there_for_two_slots_is_two_entries() {
    let mut village = Village::new(7);
    let gone: Vec<PeerKey> = [1, 2].into_iter().flat_map(|at| village.of_colour(at)).collect();
    village.views.retain(|view| !gone.contains(&view.peer));
    village.away.extend(gone);
    village.turns(24 * 12);
    for peer in village.stewards.keys() {
        let log = village.stewards[peer].report(&village.ticket.id(), village.now).expect("watched").log;
        let none = log.iter().filter(|entry| matches!(entry.what, What::NoPeer { .. })).count();
        assert_eq!(none, 2, "{log:?}");
    }
    // And what would help is said.
    for (peer, steward) in &village.stewards {
        let stuck = steward.stuck(&village.ticket.id(), village.now, &village.views);
        let why = StuckWhy::Nobody { unfit: 0, colours: 6 };
        assert_eq!(stuck, [1, 2].map(|at| Stuck { slot: slot(at), why }), "{peer:?}");
        assert_eq!(why.likely_with(), Some(17), "five sixths to the seventeenth are below a twentieth");
    }
    // And nobody is probed often for what nobody can do.
    let mut often = 0;
    for _ in 0..15 * 4 {
        village.turn();
        often +=
            village.stewards.values().filter(|steward| steward.concerned().iter().any(|(_, often)| *often)).count();
    }
    assert_eq!(often, 0);
}

/// A holder that has everything says that it has nothing, and again whenever it was healed: when it was, and who took the slot instead.
fn lies(alone: bool) -> (Vec<Timestamp>, Option<PeerKey>) {
    let mut village = Village::new(7);
    village.turns(1);
    let liar = village.holder(2);
    if alone {
        let others: Vec<PeerKey> = village.of_colour(2).into_iter().filter(|peer| *peer != liar).collect();
        village.views.retain(|view| !others.contains(&view.peer));
        village.away.extend(others);
    }
    let mut healed = Vec::new();
    says(&mut village, liar, 2, &Ordinals::default());
    for _ in 0..15 * 24 * 5 {
        village.turn();
        if village.given.is_empty() {
            continue;
        }
        let at = village.now;
        match village.carry_out().to() {
            Some(to) if to == liar => {
                healed.push(at);
                says(&mut village, liar, 2, &Ordinals::default());
            }
            other => return (healed, other),
        }
    }
    let (peers, now): (Vec<PeerKey>, _) = (village.stewards.keys().copied().collect(), village.now);
    assert!(peers.iter().all(|peer| watched(&village, peer).breaks_word(slot(2), &liar, now, &Rhythm::default())));
    (healed, None)
}

#[test]
fn who_lacks_what_it_just_took_is_replaced_or_waits_and_is_left_alone_the_second_time() {
    let (healed, other) = lies(false);
    assert!(healed.len() == 1 && other.is_some(), "{healed:?}");
    let (healed, other) = lies(true);
    assert!(healed.len() == 2 && other.is_none(), "{healed:?}");
    assert!(healed[1].ms_since(healed[0]) >= 24 * HOUR, "{healed:?}");
}

/// A steward that has the older sheets of the same mandate, as one that a change put in.
#[test]
fn newer_sheets_reach_a_steward_that_has_older_ones_whoever_asks() {
    for asks_first in [true, false] {
        let mut village = Village::new(2);
        let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
        let (newer, now) = (village.with_newer_sheets(&peers), village.now);
        let knows = usize::from(!asks_first);
        village.stewards.get_mut(&peers[knows]).expect("there").adopt(newer, &[], owner(), now).expect("newer");
        village.pump();
        let sheets = |village: &Village, at: usize| watched(village, &peers[at]).record.sheets[0].generation;
        assert_eq!((sheets(&village, knows), sheets(&village, 1 - knows)), (2, 1));
        village.now = now.plus_ms(7 * HOUR);
        village.hear();
        let (later, views) = (village.now, village.views.clone());
        // Only one of them asks.
        village.stewards.get_mut(&peers[0]).expect("there").tick(later, &views, &mut village.rng);
        village.pump();
        assert_eq!((sheets(&village, 0), sheets(&village, 1)), (2, 2));
        assert_eq!(watched(&village, &peers[0]).digest(), watched(&village, &peers[1]).digest());
    }
}

#[test]
fn two_who_lack_a_group_do_not_ask_each_other_for_ever() {
    let mut village = Village::new(2);
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let group = GroupId::from_bytes([9; 32]);
    let now = village.now;
    village.pump();
    let steward = village.stewards.get_mut(&peers[0]).expect("there");
    steward.told(peers[1], Say::Compare { group, generation: 0, digest: [0; 32] }, now, &[]);
    assert_eq!(steward.poll(), None);
    steward.told(peers[1], Say::Compare { group, generation: 1, digest: [0; 32] }, now, &[]);
    assert!(matches!(steward.poll(), Some(Effect::Tell { .. })), "who has it is asked for it");
}

/// 64 false entries and then a good one, from a steward; and a good one alone from a stranger.
#[test]
fn a_map_of_false_entries_is_left_early_and_a_strangers_unread() {
    let mut village = given();
    let Effect::Give { to, credentials, .. } = village.given.remove(0) else { panic!("only these") };
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let entry = |order: &Order, certificate: &Certificate| {
        let taken = Taken {
            order: order.id().expect("valid"),
            group: order.group,
            slot: slot(2),
            ordinals: [0].into_iter().collect(),
            previous: [0; 32],
            at: village.now,
            holder: to,
        };
        (certificate.clone(), taken.seal(&village.keys[&to]))
    };
    let good = entry(&credentials.certificate.order, &credentials.certificate);
    let bad = |nonce: u8| {
        let order = Order { nonce: [nonce; 16], ..credentials.certificate.order.clone() };
        entry(&order, &village.certificate(&order, [peers[0]]))
    };
    let map = |bad_ones: u8| {
        let entries = (0..bad_ones).map(bad).chain([good.clone()]).collect();
        Say::Map { group: village.ticket.id(), changes: Vec::new(), past: Vec::new(), entries }
    };
    let (many, few) = (map(64), map(63));
    let entries = |village: &Village| watched(village, &peers[1]).entries_to_tell().len();
    village.tell(to, peers[1], few.clone());
    assert_eq!(entries(&village), 0, "no steward's");
    village.tell(peers[0], peers[1], many);
    assert_eq!(entries(&village), 0);
    village.tell(peers[0], peers[1], few);
    assert_eq!(entries(&village), 1);
}

#[test]
fn a_clock_that_is_set_back_stops_nobody() {
    let mut village = given();
    village.given.clear();
    let real = village.now.plus_ms(HOUR);
    // A year ahead, for a look.
    village.now = village.now.plus_ms(100 * 24 * HOUR);
    village.turn();
    let peer = *village.stewards.keys().next().expect("one");
    let ahead = village.stewards[&peer].encode_group(&village.ticket.id()).expect("watched");
    village.now = real;
    village.hear();
    let views = village.views.clone();
    village.stewards.get_mut(&peer).expect("there").tick(real, &views, &mut village.rng);
    let due = |steward: &Steward| steward.next_tick().expect("watches one");
    assert!(due(&village.stewards[&peer]) <= real.plus_ms(HOUR), "it looked");
    // The same after a restart in between.
    let budget = Budget::new(Limits::default(), 10 << 20, real);
    let (key, watch) = (village.keys[&peer].clone(), Watch::new(Timers::default()));
    let mut again = Steward::new(key, village.domain(&peer), Rhythm::default(), watch, budget);
    let group = again.resume(&ahead, real).expect("its own");
    let (free, latest) = again.groups[&group].latest();
    assert!(latest <= real.plus_ms(25 * HOUR) && free <= real.plus_ms(7 * HOUR), "{free:?} {latest:?} {real:?}");
    // And all of them go on.
    village.given.clear();
    village.turns(24 * 2);
    let watch = &village.stewards[&peer].watch;
    let believed = watch.belief(&village.holder(2), village.now);
    assert!(!village.given.is_empty(), "{believed:?} {:?}", village.report().log);
}

#[test]
fn records_and_maps_have_a_bound_in_bytes() {
    let mut village = given();
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let (group, now) = (village.ticket.id(), village.now);
    let weight = watched(&village, &peers[0]).weight();
    assert!(weight > 4_000 && village.stewards[&peers[0]].room(&owner()) == BYTES_OF_ONE_MAX - weight);
    assert_eq!(village.stewards[&peers[0]].room(&peers[1]), BYTES_OF_ONE_MAX);
    // As if the owner's others took all of it.
    let newer = village.with_newer_sheets(&peers);
    let steward = village.stewards.get_mut(&peers[0]).expect("there");
    let full = steward.groups.get_mut(&group).expect("watched");
    full.weigh(0);
    let mut other = full.clone();
    other.weigh(BYTES_OF_ONE_MAX);
    steward.groups.insert(GroupId::from_bytes([3; 32]), other);
    assert_eq!(steward.adopt(newer, &[], owner(), now), Err(Declined::Full));
    village.carry_out();
    assert!(watched(&village, &peers[0]).entries_to_tell().is_empty());
    assert_eq!(watched(&village, &peers[1]).entries_to_tell().len(), 1);
    let log = village.stewards[&peers[0]].report(&group, now).expect("watched").log;
    assert!(log.iter().any(|entry| entry.what == What::MapFull), "and it says so");
}
