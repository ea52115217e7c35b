//! Mass failure and churn.

use super::*;

fn high(world: &World) -> bool {
    world.watch.churn(world.now) != Churn::Normal
}

#[test]
fn one_in_twenty_is_not_a_mass_failure_and_more_is() {
    for (dead, failure) in [(2, false), (5, false), (6, true)] {
        let mut world = World::of(100);
        world.run(3 * HOUR).off(0..dead).run(10 * MINUTE);
        assert_eq!(world.watch.mass_failure(world.now), failure, "{dead} of 100");
        assert_eq!(world.watch.outage(world.now), Outage::None);
    }
    let mut world = World::of(10);
    world.run(3 * HOUR).off(0..2).run(10 * MINUTE);
    assert!(!world.watch.mass_failure(world.now), "two are too few");
}

#[test]
fn a_mass_failure_is_minded_for_six_hours() {
    let mut world = World::of(100);
    world.run(3 * HOUR).off(0..10).run(HOUR);
    assert!(world.watch.mass_failure(world.now));
    world.on(0..10).run(5 * HOUR);
    assert!(world.watch.mass_failure(world.now), "also when they are back");
    world.run(2 * HOUR);
    assert!(!world.watch.mass_failure(world.now));
}

/// Ten of forty machines go off every evening within the hour, after the first days.
#[test]
fn what_is_so_every_evening_is_no_failure() {
    let mut world = World::of(40);
    let mut minded = Vec::new();
    for _ in 0..20 {
        world.run(12 * HOUR);
        for number in 0..10 {
            world.off(number * 4..number * 4 + 1).run(6 * MINUTE);
        }
        world.run(30 * MINUTE);
        minded.push(world.watch.mass_failure(world.now));
        world.run(7 * HOUR).on(0..40).run(3 * HOUR + 30 * MINUTE);
    }
    assert!(minded[0], "who was never absent is missed: {minded:?}");
    assert!(minded[4..].iter().all(|minded| !minded), "but not for long: {minded:?}");
    assert!(!high(&world));
    // The others are as steady as ever: four of them are news on any day.
    for number in [1, 2, 3, 5] {
        world.off(number..number + 1);
    }
    world.run(10 * MINUTE);
    assert!(world.watch.mass_failure(world.now));
}

#[test]
fn departures_as_announced_are_churn_but_no_failure() {
    let mut world = World::of(40);
    world.run(2 * HOUR);
    for number in 0..10 {
        world.watch.leaving(peer(number), world.now, world.now);
    }
    world.off(0..10).run(30 * MINUTE);
    assert!(high(&world));
    assert!(!world.watch.mass_failure(world.now));
    assert_eq!(world.watch.outage(world.now), Outage::None);
}

/// Where everybody goes off for a night, each at another time, it takes more than that.
#[test]
fn a_network_of_sleepers_has_failures_too() {
    let mut world = World::of(48);
    let night = |world: &mut World| {
        for number in 0..48 {
            let back = (number + 32) % 48;
            world.off(number..number + 1).on(back..back + 1).run(30 * MINUTE);
        }
    };
    (0..8).for_each(|_| night(&mut world));
    assert!(!world.watch.mass_failure(world.now) && !high(&world));
    // Sixteen are off, 32 are here; then half of these go within half an hour, and not all at once.
    for number in 0..16 {
        world.off(number..number + 1).run(2 * MINUTE);
    }
    world.run(6 * MINUTE);
    assert!(world.watch.mass_failure(world.now));
}

#[test]
fn churn_comes_down_after_a_quiet_day() {
    let mut world = World::of(100);
    world.run(3 * HOUR).off(0..20).run(30 * MINUTE);
    assert!(!high(&world), "20 % is not more than 20 %");
    world.off(20..21).run(10 * MINUTE);
    let Churn::High { since } = world.watch.churn(world.now) else { panic!("21 % within an hour") };
    assert!(world.now.ms_since(since) <= 10 * MINUTE);
    world.run(23 * HOUR);
    assert_eq!(world.watch.churn(world.now), Churn::High { since });
    world.run(3 * HOUR);
    assert!(!high(&world));
}

#[test]
fn a_third_within_a_day_is_high_churn() {
    let mut world = World::of(100);
    world.run(DAY);
    for hour in 0..31 {
        world.off(hour..hour + 1).run(40 * MINUTE);
        assert_eq!(high(&world), hour == 30, "after {hour}");
    }
}
