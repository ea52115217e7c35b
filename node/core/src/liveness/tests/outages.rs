//! REP-2: whether it is we who are cut off.

use proptest::prelude::*;

use super::*;

fn suspected(world: &World) -> bool {
    world.watch.outage(world.now) != Outage::None
}

/// We are not there for so long, and start again from what we wrote.
fn stopped_for(world: &mut World, ms: u64) {
    let state = world.watch.encode();
    world.now = world.now.plus_ms(ms);
    world.watch = Watch::decode(&state, Timers::default()).expect("own state");
}

fn all(world: &World, peers: u16, presence: Presence) -> bool {
    (0..peers).all(|number| world.belief(number).presence == presence)
}

#[test]
fn who_is_cut_off_for_a_month_takes_nobody_for_gone() {
    let mut world = World::of(40);
    world.run(2 * HOUR);
    let cut = world.now;
    world.off(0..40).run(6 * MINUTE);
    match world.watch.outage(world.now) {
        Outage::Suspected { since, silent: 40, known: 40 } => assert!(cut.ms_since(since) <= MINUTE),
        other => panic!("{other:?}"),
    }
    for _ in 0..30 {
        world.run(DAY);
        assert!(suspected(&world));
        assert!(all(&world, 40, Presence::Away), "silent, not gone");
        assert!(world.belief(0).alive > 0.99 && world.belief(0).silent_ms <= MINUTE, "{:?}", world.belief(0));
    }
    // Back: the first that is heard proves nothing about the others, most of them do, and then the rest is judged from now.
    world.on(0..5).run(20 * MINUTE);
    assert!(suspected(&world));
    world.on(5..35).run(MINUTE);
    assert!(!suspected(&world) && !world.watch.mass_failure(world.now));
    world.run(7 * DAY - HOUR);
    assert_eq!(world.belief(39).presence, Presence::Away);
    world.run(2 * HOUR);
    assert_eq!(world.belief(39).presence, Presence::Gone);
}

#[test]
fn a_machine_in_the_same_house_proves_nothing() {
    let mut world = World::of(40);
    world.run(2 * HOUR).off(1..40).run(30 * DAY);
    assert!(suspected(&world));
    assert!((1..40).all(|number| world.belief(number).presence == Presence::Away));
}

#[test]
fn a_slow_fading_of_everybody_is_an_outage_too() {
    let mut world = World::of(20);
    world.run(HOUR);
    for number in 0..20 {
        world.off(number..number + 1).run(2 * MINUTE);
    }
    world.run(8 * DAY);
    assert!(suspected(&world) && all(&world, 20, Presence::Away));
}

#[test]
fn a_third_that_is_truly_dead_is_believed_after_an_hour() {
    let mut world = World::of(40);
    world.run(2 * HOUR).off(0..14).run(10 * MINUTE);
    assert!(suspected(&world));
    world.run(HOUR);
    assert!(!suspected(&world), "the others were heard all the time");
    assert!(world.watch.mass_failure(world.now), "then it is they, and many");
    world.run(5 * HOUR);
    assert!(world.watch.mass_failure(world.now));
    world.run(2 * HOUR);
    assert!(!world.watch.mass_failure(world.now));
    // An hour was lost, not more.
    world.run(7 * DAY - 6 * HOUR);
    assert!((0..14).all(|number| world.belief(number).presence == Presence::Gone));
    assert!((14..40).all(|number| world.belief(number).presence == Presence::Here));
}

#[test]
fn most_of_them_dead_is_believed_after_a_day() {
    let mut world = World::of(40);
    world.run(2 * HOUR).off(0..30).run(23 * HOUR);
    assert!(suspected(&world));
    world.run(2 * HOUR);
    assert!(!suspected(&world));
    world.run(7 * DAY);
    assert!((0..30).all(|number| world.belief(number).presence == Presence::Gone));
}

#[test]
fn losing_contact_again_starts_the_wait_again() {
    let mut world = World::of(40);
    world.run(2 * HOUR).off(0..14).run(50 * MINUTE);
    world.off(14..40).run(3 * DAY);
    assert!(suspected(&world), "cut off while we waited");
    world.on(14..40).run(30 * MINUTE);
    assert!(suspected(&world));
    world.run(40 * MINUTE);
    assert!(!suspected(&world));
    assert!(world.belief(0).silent_ms < 2 * HOUR, "{:?}", world.belief(0));
}

/// Most of them are dead, and we are off at night: a day of hearing the others takes two of ours, and is no reason to wait for ever.
#[test]
fn who_sleeps_believes_it_after_a_day_of_contact() {
    let mut world = World::of(40);
    world.run(2 * HOUR).off(0..30).run(6 * MINUTE);
    let mut awake = 0;
    for _ in 0..3 {
        for _ in 0..16 {
            world.run(HOUR);
            awake += u64::from(suspected(&world));
        }
        world.off(30..40);
        world.now = world.now.plus_ms(8 * HOUR);
        world.on(30..40);
    }
    assert!((23..=25).contains(&awake), "{awake}");
    world.run(2 * HOUR);
    assert!(!suspected(&world), "nor after the next night");
    // One who has a glimpse of them now and then does not believe it for that: each time it is an hour without a break.
    let mut world = World::of(40);
    world.run(2 * HOUR).off(0..30).run(6 * MINUTE);
    for _ in 0..60 {
        world.off(30..40).run(HOUR);
        world.on(30..40).run(50 * MINUTE);
        assert!(suspected(&world));
    }
}

#[test]
fn few_or_scattered_silences_raise_no_suspicion() {
    let mut world = World::of(40);
    world.run(2 * HOUR).off(0..12).run(10 * MINUTE);
    assert!(!suspected(&world), "30 % is not more than 30 %");
    let mut world = World::of(4);
    world.run(2 * HOUR).off(0..2).run(10 * MINUTE);
    assert!(!suspected(&world), "two are too few");
    let mut world = World::of(40);
    world.run(2 * HOUR);
    for number in 0..20 {
        world.off(number..number + 1).run(10 * MINUTE);
        assert!(!suspected(&world), "half of them, but one after the other");
    }
}

/// A coalition of 40 % that falls silent for ten minutes of every twenty keeps us from repairing for an hour a day or so.
#[test]
fn flapping_does_not_keep_us_from_repairing() {
    let mut world = World::of(40);
    world.run(2 * HOUR);
    let mut minutes = 0;
    for _ in 0..3 * 72 {
        for on in [false, true] {
            if on {
                world.on(0..16)
            } else {
                world.off(0..16)
            };
            for _ in 0..10 {
                world.run(MINUTE);
                minutes += u64::from(suspected(&world));
            }
        }
    }
    assert!((1..=3 * 60).contains(&minutes), "{minutes} minutes of three days");
}

#[test]
fn time_that_we_slept_counts_against_nobody() {
    let mut world = World::of(10);
    world.run(2 * HOUR);
    stopped_for(&mut world, 60 * DAY);
    assert!(suspected(&world));
    world.on.clear();
    world.on(0..7).run(2 * HOUR);
    assert!(!suspected(&world));
    assert_eq!(world.belief(9).presence, Presence::Away);
    assert!(world.belief(9).silent_ms < 3 * HOUR);
}

/// Whom we were told of first when we started again is judged from then on, and not owed the weeks in which we were not there.
#[test]
fn who_is_watched_since_a_restart_is_judged_from_then_on() {
    let mut world = World::of(10);
    world.run(2 * HOUR);
    stopped_for(&mut world, 17 * DAY);
    world.watch.expect(peer(20), world.now);
    assert_eq!(world.belief(20).silent_ms, 0);
    world.run(3 * DAY);
    let silent = world.belief(20).silent_ms;
    assert!((3 * DAY - 2 * HOUR..=3 * DAY).contains(&silent), "{silent}");
    world.run(5 * DAY);
    assert_eq!(world.belief(20).presence, Presence::Gone);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever came and went before: cut off from everybody, for however long, nobody becomes gone by it; and whoever is
    /// heard while we are connected is here.
    #[test]
    fn no_cut_makes_anybody_gone(
        peers in 3u16..30,
        before in prop::collection::vec((0u16..30, any::<bool>(), 1u64..40), 0..20),
        cut_hours in 1u64..2000,
    ) {
        let mut world = World::of(peers);
        world.run(90 * MINUTE);
        for (number, on, minutes) in before {
            let number = number % peers;
            if on { world.on(number..number + 1) } else { world.off(number..number + 1) };
            world.run(minutes * MINUTE);
        }
        // Three at least are here when it happens; with fewer nothing can be told.
        world.on(0..3).run(6 * MINUTE);
        let gone = |world: &World| (0..peers).filter(|n| world.belief(*n).presence == Presence::Gone).count();
        let before = gone(&world);
        let on = world.on.clone();
        world.on.clear();
        world.now = world.now.plus_ms(cut_hours * HOUR);
        prop_assert!(suspected(&world));
        prop_assert_eq!(gone(&world), before);
        world.on = on;
        for _ in 0..10 {
            world.run(MINUTE);
            prop_assert_eq!(gone(&world), before);
        }
        for number in world.on.keys() {
            prop_assert_eq!(world.belief(*number).presence, Presence::Here);
        }
    }
}
