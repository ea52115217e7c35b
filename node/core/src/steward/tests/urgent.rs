//! The emergency by presence: how long from the last sign of life to the last shard, by default timers and by a trial's; and what machines
//! that sleep every night cost.

use super::*;
use crate::assess::GroupState;

const MINUTE: u64 = 60_000;

/// What a node has at a scale of a thousandth, where least values hold (`node/src/timers.rs`).
fn trial() -> (Timers, Rhythm) {
    let scaled = Timers::default().scaled(0.001);
    let timers = Timers { late_ms: 6000, away_ms: 6000, own_outage_hold_ms: 3600, mass_ms: 3600, ..scaled };
    (timers, Rhythm { vote_ms: 3000, order_ms: 30_000, ..Rhythm::default().scaled(0.001) })
}

/// Seven stewards with these timers, who all were there for a while.
fn timed(timers: Timers, rhythm: Rhythm, step_ms: u64) -> Village {
    let mut village = Village::new(7);
    village.step_ms = step_ms;
    let now = village.now;
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let record = village.record(&peers, 1);
    for peer in peers {
        let budget = Budget::new(Limits::default(), 10 << 20, now);
        let (key, domain) = (village.keys[&peer].clone(), village.domain(&peer));
        let mut steward = Steward::new(key, domain, rhythm, Watch::new(timers), budget);
        steward.adopt(record.clone(), &[], owner(), now).expect("named");
        village.stewards.insert(peer, steward);
    }
    (0..20).for_each(|_| village.turn());
    village
}

/// From the moment on at which these are last heard: when the first order was given, and when all is there again.
fn emergency(village: &mut Village, gone: &[PeerKey], most_ms: u64) -> (u64, u64) {
    let start = village.now;
    village.away.extend(gone.iter().copied());
    let mut first = None;
    loop {
        village.turn();
        let after = village.now.ms_since(start);
        assert!(after <= most_ms, "{first:?} {:?} {:?}", village.report().assessment, village.report().log);
        if !village.given.is_empty() {
            first = first.or(Some(after));
            // A transfer takes as long as until the next look.
            while !village.given.is_empty() {
                village.carry_out();
            }
        }
        if let Some(first) = first.filter(|_| village.report().assessment.state == GroupState::Healthy) {
            return (first, after);
        }
    }
}

#[test]
fn a_silent_slot_at_k_plus_1_is_ordered_within_minutes_of_its_hour_and_whole_within_another() {
    let mut village = timed(Timers::default(), Rhythm::default(), MINUTE);
    let gone = village.holder(2);
    let (first, whole) = emergency(&mut village, &[gone], 2 * HOUR);
    println!("default timers, one slot: first order after {} min, whole after {} min", first / MINUTE, whole / MINUTE);
    // An hour, a look, a minute of the test's own.
    assert!((HOUR..=HOUR + 6 * MINUTE).contains(&first), "{first}");
    assert!(whole <= HOUR + 15 * MINUTE, "{whole}");
    // All that is missing, when as much as possible falls silent at once.
    let mut village = timed(Timers::default(), Rhythm::default(), MINUTE);
    let gone = [village.holder(1), village.holder(2)];
    let (first, whole) = emergency(&mut village, &gone, 2 * HOUR);
    println!("default timers, two slots: first order after {} min, whole after {} min", first / MINUTE, whole / MINUTE);
    assert!(first <= HOUR + 6 * MINUTE && whole <= HOUR + 15 * MINUTE, "{first} {whole}");
}

#[test]
fn a_steward_that_died_after_the_holder_costs_a_short_turn_each_time() {
    for first_steward in [true, false] {
        let mut village = timed(Timers::default(), Rhythm::default(), MINUTE);
        let subject = Subject::Slot(2);
        let group = village.ticket.id();
        let any = village.stewards.values().next().expect("seven");
        let of = |peer: &PeerKey| any.groups[&group].standing(peer, &subject);
        let first = *village.stewards.keys().min_by_key(|peer| of(peer)).expect("seven");
        let last = *village.stewards.keys().max_by_key(|peer| of(peer)).expect("seven");
        // It is still taken for late when the hour is over.
        village.away.insert(village.holder(2));
        (0..50).for_each(|_| village.turn());
        let gone = if first_steward { first } else { last };
        let (first, whole) = emergency(&mut village, &[gone], 2 * HOUR);
        println!("a steward dies too ({first_steward}): {} min, whole {} min", first / MINUTE, whole / MINUTE);
        assert!(first <= 20 * MINUTE && whole <= 35 * MINUTE, "{first} {whole}");
    }
}

#[test]
fn in_a_trial_of_a_thousandth_it_takes_seconds() {
    let (timers, rhythm) = trial();
    let mut village = timed(timers, rhythm, 100);
    let gone = [village.holder(1), village.holder(2)];
    let start = village.now;
    let (first, whole) = emergency(&mut village, &gone, 60_000);
    println!("a thousandth: first order after {first} ms, whole after {whole} ms");
    assert!((6000..=7000).contains(&first) && whole <= 9000, "{first} {whole}");
    phases(&village, start);
}

/// Where the time of an emergency's orders went, printed, and in order.
fn phases(village: &Village, start: Timestamp) {
    let report = village.report();
    println!("slot  shards  silent  wanted  proposed  ordered  done, ms after the last sign of life");
    let mut last = BTreeMap::new();
    for order in &report.phases {
        let (silent, wanted) = (order.silent.expect("lost"), order.wanted.expect("wanted"));
        let Some((ended, OrderEnd::Done)) = order.ended else { panic!("{order:?}") };
        let times = [silent, wanted, order.proposed, order.ordered, ended];
        assert!(times.is_sorted(), "{order:?}");
        let [silent, wanted, proposed, ordered, done] = times.map(|at| at.ms_since(start));
        println!(
            "{:4}  {:6}  {silent:6}  {wanted:6}  {proposed:8}  {ordered:7}  {done:4}",
            order.slot.index(),
            order.shards
        );
        // What follows is wanted when what came before was done.
        let before = last.insert(order.slot, ended);
        assert!(before.is_none_or(|before| before <= Timestamp(wanted + start.0)), "{order:?}");
    }
    let shards: u16 = report.phases.iter().map(|order| order.shards).sum();
    assert_eq!(shards, 2 * u16::from(STRIPES), "each shard of both slots once");
}

#[test]
fn phases_of_orders_say_what_came_of_them_and_are_bounded() {
    let mut village = timed(Timers::default(), Rhythm::default(), MINUTE);
    village.away.insert(village.holder(2));
    while village.given.is_empty() {
        village.turn();
    }
    let Effect::Give { credentials, .. } = village.given.remove(0) else { panic!("only these") };
    let (order, group, now) = (credentials.certificate.order.clone(), village.ticket.id(), village.now);
    let (name, rhythm) = (order.id().expect("valid"), Rhythm::default());
    let voters: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let others: Vec<Certificate> = (0..100)
        .map(|nonce| village.certificate(&Order { nonce: [nonce; 16], ..order.clone() }, voters.iter().copied()))
        .collect();
    let watched = village.stewards.get_mut(&voters[0]).expect("there").groups.get_mut(&group).expect("watched");
    watched.give_up(&name, now, &rhythm).expect("under way");
    let steward = &village.stewards[&voters[0]];
    let missing = Failure::Missing(order.action.to().expect("one"));
    let last = steward.report(&group, now).expect("watched").phases.pop().expect("one");
    assert_eq!((last.order, last.ended), (name, Some((now, OrderEnd::Nothing(Some(missing))))));
    let watched = village.stewards.get_mut(&voters[0]).expect("there").groups.get_mut(&group).expect("watched");
    let mut newest = name;
    for certificate in others {
        newest = certificate.order.id().expect("valid");
        assert!(watched.certified(certificate, voters[1], &|_| true, now));
        watched.give_up(&newest, now, &rhythm).expect("under way");
    }
    let phases = village.stewards[&voters[0]].report(&group, now).expect("watched").phases;
    assert_eq!((phases.len(), phases.last().map(|phases| phases.order)), (64, Some(newest)));
}

/// Where nobody else has the colour, a domain whose machine died is its own heir when it comes back empty, under another name; and not
/// before the machine is gone.
#[test]
fn a_domain_that_comes_back_empty_takes_its_own_slot_again() {
    let mut village = timed(Timers::default(), Rhythm::default(), MINUTE);
    let (gone, code) = (village.holder(2), village.ticket.code());
    let others: Vec<PeerKey> = village.of_colour(2).into_iter().filter(|peer| *peer != gone).collect();
    village.views.retain(|view| !others.contains(&view.peer));
    let domain = village.domain(&gone);
    village.settle(200);
    let again = village.views.last_mut().expect("settled");
    again.domain = domain;
    let again = again.peer;
    village.turns(3);
    assert!(village.given.is_empty(), "a replica of the same domain is worth nothing while the first is there");
    let (first, _) = emergency(&mut village, &[gone], 2 * HOUR);
    assert!(first <= HOUR + 6 * MINUTE, "{first}");
    let (_, steward) = village.stewards.iter().next().expect("seven");
    let group = &steward.groups[&village.ticket.id()];
    assert!(group.holders(slot(2)).contains(&again));
    assert!(code.each_slot().filter(|at| *at != slot(2)).all(|at| !group.holders(at).contains(&again)), "SEP-1");
}

/// In an emergency a committee that has fewer than an order takes puts others into the places of those who are silent for half a day; else it
/// waits for a whole one.
#[test]
fn a_critical_group_does_not_wait_a_day_for_stewards_without_whom_nothing_is_repaired() {
    for (lost, silent, after) in [(true, 3, 12 * HOUR), (true, 2, 24 * HOUR), (false, 3, 24 * HOUR)] {
        let mut village = timed(Timers::default(), Rhythm::default(), 4 * MINUTE);
        let start = village.now;
        // A slot that nobody can take stays missing.
        let gone = village.holder(2);
        let others: Vec<PeerKey> = village.of_colour(2).into_iter().filter(|peer| *peer != gone).collect();
        village.views.retain(|view| !others.contains(&view.peer));
        if lost {
            village.away.insert(gone);
        }
        let old: Vec<PeerKey> = village.stewards.keys().copied().take(silent).collect();
        village.away.extend(old.iter().copied());
        let still_there = |village: &Village| {
            let (_, steward) = village.stewards.iter().next_back().expect("seven");
            let report = steward.report(&village.ticket.id(), village.now).expect("watched");
            old.iter().filter(|peer| report.stewards.iter().any(|(there, _)| there == *peer)).count()
        };
        while still_there(&village) == silent {
            village.turn();
            assert!(village.now.ms_since(start) <= after + 2 * HOUR, "{lost} {silent}");
        }
        let took = village.now.ms_since(start);
        assert!((after - HOUR..=after + 2 * HOUR).contains(&took), "{lost} {silent}: {took}");
    }
}

/// What waited for half a day since it failed on other days does not wait in an emergency.
#[test]
fn an_old_pause_is_over_when_an_emergency_begins() {
    let mut village = Village::new(7);
    let (group, now, subject, rhythm) = (village.ticket.id(), village.now, Subject::Slot(2), Rhythm::default());
    let any = &village.stewards.values().next().expect("seven").groups[&group];
    let me = *village.stewards.keys().min_by_key(|peer| any.standing(peer, &subject)).expect("seven");
    let steward = village.stewards.get_mut(&me).expect("there");
    let watched = steward.groups.get_mut(&group).expect("watched");
    (0..8).for_each(|_| watched.disappointed(subject, None, None, now, &rhythm));
    let later = now.plus_ms(2 * HOUR);
    assert!(!watched.is_our_turn(&me, subject, &steward.watch, later, &rhythm));
    watched.note_alarm(true, later, &rhythm);
    assert!(watched.is_our_turn(&me, subject, &steward.watch, later, &rhythm));
    // While it lasts one failure is a short pause, and many are long ones.
    let waits: Vec<bool> = (0..6)
        .map(|_| {
            watched.disappointed(subject, None, None, later, &rhythm);
            !watched.is_our_turn(&me, subject, &steward.watch, later.plus_ms(HOUR), &rhythm)
        })
        .collect();
    assert_eq!(waits, [false, false, false, false, true, true]);
}

/// All five sleep eight hours a night, each at its own time: the first nights cost what is missed, and none after that anything.
#[test]
fn machines_that_sleep_every_night_cost_their_first_nights_only() {
    let mut village = timed(Timers::default(), Rhythm::default(), 4 * MINUTE);
    let start = village.now;
    let sleepers: Vec<PeerKey> = (0..5).map(|at| village.holder(at)).collect();
    let mut nights = vec![0usize; 10];
    while village.now.ms_since(start) < 10 * 24 * HOUR {
        let hour = village.now.ms_since(start) / HOUR % 24;
        for (at, peer) in (0u64..).zip(&sleepers) {
            // Two at a time are off, nearly always.
            let asleep = (hour + 24 - at * 5) % 24 < 8;
            if asleep {
                village.away.insert(*peer)
            } else {
                village.away.remove(peer)
            };
        }
        village.turn();
        while !village.given.is_empty() {
            let moved = match village.carry_out() {
                Action::Rebuild { ordinals, helpers, .. } => ordinals.len() * helpers.len().min(3),
                Action::Copy { ordinals, .. } => ordinals.len(),
                _ => 0,
            };
            nights[(village.now.ms_since(start) / (24 * HOUR)).min(9) as usize] += moved;
        }
    }
    println!("shards moved on each day for five sleepers of a group of {STRIPES} stripes: {nights:?}");
    let all: usize = nights.iter().sum();
    // Each slot once, from three: no more than the group was worth thrice.
    assert!(all > 0 && all <= 5 * 3 * usize::from(STRIPES), "{nights:?}");
    assert_eq!(nights[2..].iter().sum::<usize>(), 0, "{nights:?}");
}

/// How urgent it is stands in the order, under the signatures of those who see it so.
#[test]
fn an_emergencys_orders_say_so_and_nobody_signs_that_a_quiet_one_is() {
    let mut village = timed(Timers::default(), Rhythm::default(), MINUTE);
    village.away.insert(village.holder(2));
    while village.given.is_empty() {
        village.turn();
    }
    let Effect::Give { credentials, .. } = &village.given[0] else { panic!("only these") };
    assert!(credentials.certificate.order.urgent);

    // One that leaves is to be copied, and no emergency.
    let mut village = Village::new(7);
    village.turns(1);
    let (leaver, at, now, group) =
        (village.holder(2), village.now.plus_ms(24 * HOUR), village.now, village.ticket.id());
    village.stewards.values_mut().for_each(|steward| drop(steward.leaving(leaver, at, &[group], now)));
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let to = village.ranked(2)[0];
    let copy = Action::Copy { slot: slot(2), from: leaver, to, ordinals: [0].into_iter().collect() };
    // Everybody has noted that it is wanted, and it is nobody's turn yet.
    let mut calm = village.order(1, copy);
    let mut voters = 0;
    for (voter, liar) in peers.iter().zip(peers.iter().cycle().skip(1)) {
        calm.nonce[1] += 1;
        let raised = Order { urgent: true, ..calm.clone() };
        assert!(!village.signs(*voter, *liar, &raised), "urgent, by whom?");
        voters += usize::from(village.signs(*voter, *liar, &calm));
    }
    assert!(voters > 0, "as it is, those whose turn may be are signed for");
}

/// What a quorum does not see as an emergency is done all the same.
#[test]
fn an_order_that_nobody_else_finds_urgent_is_proposed_again_without_that() {
    let mut village = timed(Timers::default(), Rhythm::default(), MINUTE);
    let group = village.ticket.id();
    village.away.insert(village.holder(2));
    while village.given.is_empty() {
        village.turn();
    }
    let (now, rhythm) = (village.now, Rhythm::default());
    let Effect::Give { credentials, .. } = village.given.remove(0) else { panic!("only these") };
    let order = credentials.certificate.order.id().expect("valid");
    for steward in village.stewards.values_mut() {
        let watched = steward.groups.get_mut(&group).expect("watched");
        watched.give_up(&order, now, &rhythm).expect("under way");
        assert_eq!(watched.failures(&Subject::Slot(2)), 1);
    }
    while village.given.is_empty() {
        village.turn();
    }
    let Effect::Give { credentials, .. } = &village.given[0] else { panic!("only these") };
    assert!(!credentials.certificate.order.urgent);
}
