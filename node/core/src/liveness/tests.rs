//! What silence means: the table, the classes, departures.

use std::collections::BTreeMap;

use super::*;
use crate::durability::measured::departures_of_churn;

mod codec;
mod outages;
mod storms;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Some day.
const START: Timestamp = Timestamp(1_800_000_000_000);

fn peer(number: u16) -> PeerKey {
    let mut key = [7; 32];
    key[..2].copy_from_slice(&number.to_be_bytes());
    PeerKey::from_bytes(key)
}

/// A watch and peers that give a sign of life every minute while they are on.
struct World {
    watch: Watch,
    now: Timestamp,
    /// Peers that are on.
    on: BTreeMap<u16, ()>,
}

impl World {
    fn of(peers: u16) -> Self {
        Self { watch: Watch::new(Timers::default()), now: START, on: (0..peers).map(|number| (number, ())).collect() }
    }

    fn off(&mut self, numbers: std::ops::Range<u16>) -> &mut Self {
        self.on.retain(|number, ()| !numbers.contains(number));
        self
    }

    fn on(&mut self, numbers: std::ops::Range<u16>) -> &mut Self {
        self.on.extend(numbers.map(|number| (number, ())));
        self
    }

    /// Time goes by, a minute each.
    fn run(&mut self, ms: u64) -> &mut Self {
        for _ in 0..ms / MINUTE {
            self.now = self.now.plus_ms(MINUTE);
            for number in self.on.keys() {
                self.watch.heard(peer(*number), self.now);
            }
        }
        self
    }

    fn belief(&self, number: u16) -> Belief {
        self.watch.belief(&peer(number), self.now)
    }
}

/// The figures of research/theory.md 3.1, from its own inputs rather than from ours: 20 % of the peers leave in a month, a
/// home machine goes off once a day for eight hours, a server every ten days for one.
#[test]
fn the_posterior_has_the_figures_of_the_table() {
    let leaves = departures_of_churn(0.20);
    let model = |a_day: f64, median_ms: u64, sigma| Model {
        final_share: leaves / (leaves + a_day),
        ln_median: (median_ms as f64).ln(),
        sigma,
    };
    let home = model(1.0, 8 * HOUR, 1.2);
    let server = model(0.1, HOUR, 1.5);
    for (model, silent, dead) in
        [(home, DAY, 0.04), (home, 3 * DAY, 0.18), (home, 7 * DAY, 0.57), (home, 14 * DAY, 0.89), (server, DAY, 0.81)]
    {
        let found = 1.0 - model.alive(silent);
        assert!((found - dead).abs() <= 0.006, "{silent}: {found} instead of {dead}");
    }
    // Known values of the normal distribution: the median, and 1.959964 standard deviations above it.
    assert!((home.lasts_longer(8 * HOUR) - 0.5).abs() < 1e-6);
    let above = home.lasts_longer((8.0 * HOUR as f64 * (1.2 * 1.959_964_f64).exp()) as u64);
    assert!((above - 0.025).abs() < 1e-6, "{above}");
    assert!(home.lasts_longer(HOUR / 60) > 0.999);
    // What nobody was counted for goes by these very figures.
    let fresh = Watch::new(Timers::default());
    for (class, model) in [(Class::Home, home), (Class::Server, server)] {
        for silent in [HOUR, DAY, 7 * DAY] {
            assert!((fresh.model(class).alive(silent) - model.alive(silent)).abs() < 1e-9);
        }
    }
}

#[test]
fn silence_makes_late_away_and_gone() {
    let mut world = World::of(1);
    world.run(HOUR);
    let at = |ms| world.watch.belief(&peer(0), world.now.plus_ms(ms));
    let mut alive = 1.0;
    for (silent, presence) in [
        (0, Presence::Here),
        (300_000, Presence::Here),
        (300_001, Presence::Late),
        (HOUR, Presence::Late),
        (HOUR + 1, Presence::Away),
        (7 * DAY - 1, Presence::Away),
        (7 * DAY, Presence::Gone),
        (400 * DAY, Presence::Gone),
    ] {
        let belief = at(silent);
        assert_eq!((belief.presence, belief.silent_ms), (presence, silent));
        assert!(belief.alive <= alive && (presence != Presence::Here || belief.alive == 1.0), "{belief:?}");
        alive = belief.alive;
    }
    assert!(alive < 0.01, "{alive}");
    world.now = world.now.plus_ms(400 * DAY);
    world.run(MINUTE);
    assert_eq!(world.belief(0).presence, Presence::Here, "who returns counts again");
}

/// Who slept five hours is missed after ten, and who once was away for days after half a day.
#[test]
fn what_is_usual_is_half_a_day_at_most() {
    for (away, usual) in [(MINUTE, HOUR), (5 * HOUR, 10 * HOUR), (9 * HOUR, 12 * HOUR), (4 * DAY, 12 * HOUR)] {
        let mut world = World::of(1);
        world.run(HOUR);
        world.now = world.now.plus_ms(away);
        world.run(MINUTE);
        let found = world.belief(0).usual_ms;
        // It was last heard up to a minute before.
        assert!((usual..=usual + 2 * MINUTE).contains(&found), "{away} {found}");
        assert!(found <= 12 * HOUR, "{away} {found}");
    }
}

#[test]
fn a_peer_on_record_that_never_spoke_is_judged_from_then_on() {
    let mut watch = Watch::new(Timers::default());
    watch.expect(peer(1), START);
    assert_eq!(watch.belief(&peer(1), START).presence, Presence::Late);
    assert_eq!(watch.belief(&peer(1), START.plus_ms(7 * DAY)).presence, Presence::Gone);
    let stranger = watch.belief(&peer(2), START.plus_ms(7 * DAY));
    assert_eq!((stranger.presence, stranger.silent_ms), (Presence::Late, 0), "nothing is held against a stranger");
    // That many are on record at once and silent from the first moment is no outage.
    (0..20).for_each(|number| watch.expect(peer(number), START));
    assert_eq!(watch.outage(START.plus_ms(HOUR)), Outage::None);
}

#[test]
fn a_server_is_who_behaves_like_one() {
    let class_after = |days: u64, off_from: u64, off_ms: u64, each: u64| {
        let mut world = World::of(5);
        for day in 0..days {
            if day % each == off_from {
                world.off(0..1).run(off_ms).on(0..1).run(DAY - off_ms);
            } else {
                world.run(DAY);
            }
        }
        world.belief(0).class
    };
    assert_eq!(class_after(6, 99, 0, 100), Class::Home, "too early to tell");
    assert_eq!(class_after(8, 99, 0, 100), Class::Server);
    assert_eq!(class_after(8, 0, HOUR, 1), Class::Server, "an hour of updates each day: 95.8 %");
    assert_eq!(class_after(16, 0, 8 * HOUR, 1), Class::Home, "off at night");
    assert_eq!(class_after(14, 5, 8 * HOUR, 7), Class::Home, "off one night a week: 95.2 %, but off at night");
    assert_eq!(class_after(12, 10, 8 * HOUR, 20), Class::Server, "a day of work does not undo it");
}

#[test]
fn a_server_that_was_presumed_gone_begins_again() {
    let mut world = World::of(5);
    world.run(8 * DAY).off(0..1).run(DAY + HOUR);
    assert_eq!((world.belief(0).class, world.belief(0).presence), (Class::Server, Presence::Gone));
    world.on(0..1).run(HOUR);
    assert_eq!((world.belief(0).class, world.belief(0).presence), (Class::Home, Presence::Here));
    world.run(6 * DAY);
    assert_eq!(world.belief(0).class, Class::Home);
    world.run(9 * DAY);
    assert_eq!(world.belief(0).class, Class::Server);
}

#[test]
fn what_a_class_does_is_learned() {
    let mut world = World::of(20);
    let before = world.watch.model(Class::Home);
    // Half of them off for twelve hours each day, in turns, so that nothing else is the matter.
    for _ in 0..30 {
        for half in 0..2 {
            for number in 0..10 {
                world.off(number..number + 1).on(number + 10..number + 11);
                if half == 1 {
                    world.on(number..number + 1).off(number + 10..number + 11);
                }
                world.run(72 * MINUTE);
            }
        }
    }
    let after = world.watch.model(Class::Home);
    let hours = |model: Model| model.ln_median.exp() / HOUR as f64;
    assert!((hours(before) - 8.0).abs() < 1e-6);
    assert!(hours(after) > 11.0 && hours(after) < 12.5, "{after:?}");
    assert!(after.sigma < before.sigma && after.final_share < before.final_share, "{after:?}");
}

#[test]
fn an_announced_departure_counts_at_its_moment() {
    let mut world = World::of(4);
    world.run(HOUR);
    let at = world.now.plus_ms(2 * HOUR);
    world.watch.leaving(peer(0), at, world.now);
    world.watch.leaving(peer(1), Timestamp(0), world.now);
    assert_eq!(world.watch.leaves(&peer(0)), Some(at));
    assert_eq!(world.belief(1).presence, Presence::Left, "at once, but not earlier");
    assert_eq!(world.watch.leaves(&peer(1)), Some(world.now));
    world.off(1..2).run(2 * HOUR - MINUTE);
    assert_eq!((world.belief(0).presence, world.belief(0).alive), (Presence::Here, 1.0));
    world.run(MINUTE);
    assert_eq!((world.belief(0).presence, world.belief(0).alive), (Presence::Left, 0.0));
    // Still there an hour later, or back a month later: it counts again.
    world.run(30 * MINUTE);
    assert_eq!(world.belief(0).presence, Presence::Left);
    world.run(30 * MINUTE).on(1..2).run(MINUTE);
    assert_eq!((world.belief(0).presence, world.belief(1).presence), (Presence::Here, Presence::Here));
    assert_eq!(world.watch.leaves(&peer(0)), None);
    // Called off.
    world.watch.leaving(peer(2), world.now.plus_ms(HOUR), world.now);
    world.watch.stays(peer(2), world.now);
    world.run(2 * HOUR);
    assert_eq!(world.belief(2).presence, Presence::Here);
    world.watch.forget(peer(2));
    assert_eq!(world.watch.len(), 3);
}

#[test]
fn a_full_watch_takes_nobody_else() {
    let mut watch = Watch::new(Timers::default());
    for number in 0..=u16::MAX {
        watch.expect(peer(number), START);
    }
    let stranger = PeerKey::from_bytes([9; 32]);
    watch.heard(stranger, START);
    assert_eq!(watch.len(), WATCHED_MAX);
    assert_eq!(watch.belief(&stranger, START).presence, Presence::Late);
    watch.forget(peer(0));
    watch.heard(stranger, START);
    assert_eq!(watch.belief(&stranger, START).presence, Presence::Here);
}

#[test]
fn timers_scale_together_and_never_to_nothing() {
    let trial = Timers::default().scaled(0.001);
    assert_eq!((trial.late_ms, trial.home_gone_ms, trial.day_ms), (300, 604_800, 86_400));
    let none = Timers::default().scaled(1e-30);
    assert_eq!((none.late_ms, none.step_ms(), none.mass_hold_ms), (1, 1, 1));
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(Timers::default().scaled(wrong), Timers::default());
    }
    // The belief after a scaled time is the one of the full time.
    let (mut full, mut small) = (Watch::new(Timers::default()), Watch::new(trial));
    full.heard(peer(1), START);
    small.heard(peer(1), START);
    for silent in [HOUR, DAY, 5 * DAY] {
        let found = small.belief(&peer(1), START.plus_ms(silent / 1000));
        let wanted = full.belief(&peer(1), START.plus_ms(silent));
        assert_eq!(found.presence, wanted.presence);
        assert!((found.alive - wanted.alive).abs() < 1e-6);
    }
}

#[test]
fn a_clock_that_was_ahead_hides_nobody() {
    let mut world = World::of(6);
    world.run(HOUR);
    world.watch.heard(peer(0), world.now.plus_ms(300 * DAY));
    world.off(0..1).run(8 * DAY);
    assert_eq!(world.belief(0).presence, Presence::Gone);
}
