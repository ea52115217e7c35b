//! CRT-1 and CRT-2, timetables against a slow oracle, and what a line is taken to carry.

use std::collections::BTreeMap;

use cairn_proto::{Timestamp, wire::Priority};
use proptest::prelude::*;

use super::{
    WaitMs,
    deference::Deference,
    gate::{Gate, PASSED_OVER_MAX, SLICE, Turn, WAITING_MAX},
    timetable::{DAY, LocalMinute, Row, Speed, Timetable, WEEK},
    upstream::{ASSUMED, DAYS, LEAST, NEEDED, Upstream},
};

const START: Timestamp = Timestamp(1_800_000_000_000);
const MIB: u64 = 1024 * 1024;

/// All that passes now, one slice each.
fn pass_all(gate: &mut Gate, now: Timestamp) -> (Vec<super::gate::Ticket>, Option<WaitMs>) {
    let mut passed = Vec::new();
    loop {
        match gate.grant(now) {
            Turn::Passed(ticket) => passed.push(ticket),
            Turn::Wait(wait) => return (passed, Some(wait)),
            Turn::Nobody => return (passed, None),
        }
    }
}

#[test]
fn without_a_limit_all_pass_the_most_urgent_first() {
    let mut gate = Gate::new(None, START);
    let asked: Vec<_> = [Priority::Low, Priority::High, Priority::Critical, Priority::Normal]
        .map(|class| gate.ask(class, SLICE).expect("room"))
        .into();
    let (passed, wait) = pass_all(&mut gate, START);
    assert_eq!(passed, [asked[2], asked[1], asked[3], asked[0]]);
    assert_eq!((wait, gate.waiting(), gate.is_limited()), (None, 0, false));
}

#[test]
fn what_waits_goes_when_the_limit_is_lifted_and_what_is_cancelled_does_not() {
    let mut gate = Gate::new(Some(64 * 1024), START);
    let first = gate.ask(Priority::Normal, MIB).expect("room");
    let second = gate.ask(Priority::Normal, SLICE).expect("room");
    let (passed, wait) = pass_all(&mut gate, START);
    assert!(passed.is_empty() && wait.is_some(), "a mebibyte takes sixteen seconds");
    gate.cancel(first);
    let later = START.plus_ms(wait.expect("waits").0);
    assert_eq!(pass_all(&mut gate, later).0, [second]);
    let third = gate.ask(Priority::Low, MIB).expect("room");
    gate.set_rate(None, later);
    assert_eq!(pass_all(&mut gate, later), (vec![third], None));
}

#[test]
fn what_came_uninvited_is_waited_for() {
    let mut gate = Gate::new(Some(MIB), START);
    gate.spend(MIB, START);
    gate.ask(Priority::Critical, SLICE).expect("room");
    assert_eq!(gate.grant(START), Turn::Wait(WaitMs(16)), "a slice's time, the bucket is empty");
}

#[test]
fn a_full_gate_takes_nobody() {
    let mut gate = Gate::new(Some(1), START);
    for _ in 0..WAITING_MAX {
        gate.ask(Priority::High, SLICE).expect("room");
    }
    assert_eq!(gate.ask(Priority::Critical, 1), None);
}

#[test]
fn expectations_count_who_is_as_urgent() {
    let mut gate = Gate::new(Some(MIB), START);
    assert_eq!(gate.expected_ms(Priority::Low, MIB), 1000);
    gate.ask(Priority::Normal, MIB).expect("room");
    assert_eq!(gate.expected_ms(Priority::High, MIB), 1000, "backups do not hold a restore up");
    assert_eq!(gate.expected_ms(Priority::Normal, MIB), 2000);
    assert_eq!(Gate::new(None, START).expected_ms(Priority::Low, u64::MAX), 1000, "as good as now");
}

const CLASSES: [Priority; 4] = Priority::ALL;

proptest! {
    /// CRT-1.
    #[test]
    fn no_window_gets_more_than_its_rate(
        rate in 16 * 1024u64..8 * MIB,
        steps in proptest::collection::vec((0u64..400, 0usize..4, 1u64..300_000), 1..60),
    ) {
        let mut gate = Gate::new(Some(rate), START);
        let (mut now, mut asked, mut passed) = (START, BTreeMap::new(), Vec::new());
        for (wait, class, bytes) in steps {
            now = now.plus_ms(wait);
            let ticket = gate.ask(CLASSES[class], bytes).expect("room");
            asked.insert(ticket, bytes);
            passed.extend(pass_all(&mut gate, now).0.into_iter().map(|ticket| (now, ticket)));
        }
        let burst = (rate / 4).max(2 * SLICE);
        for from in 0..passed.len() {
            let mut sum = 0u64;
            // The first of a window may have begun before it: it counts with its last slice at least.
            for (at, ticket) in &passed[from + 1..] {
                sum += asked[ticket];
                let most = burst + at.ms_since(passed[from].0) * rate / 1000 + 1;
                // Up to one ticket of each class had begun before the window.
                let begun: u64 = 4 * 300_000;
                prop_assert!(sum <= most + begun, "{sum} of {most}");
            }
        }
        // From the start on nothing had begun: exact.
        let mut sum = 0u64;
        for (at, ticket) in &passed {
            sum += asked[ticket];
            prop_assert!(sum <= burst + at.ms_since(START) * rate / 1000);
        }
    }

    /// CRT-2: every class has endless demand, in any order of arrival.
    #[test]
    fn urgent_first_and_nobody_starves(present in proptest::collection::vec(any::<[bool; 4]>(), 200)) {
        let mut gate = Gate::new(None, START);
        let (mut waiting, mut since) = ([0usize; 4], [0u32; 4]);
        let mut class_of = BTreeMap::new();
        for arrivals in present {
            for class in 0..4 {
                if arrivals[class] && waiting[class] < 3 {
                    class_of.insert(gate.ask(CLASSES[class], SLICE).expect("room"), class);
                    waiting[class] += 1;
                }
            }
            let Turn::Passed(ticket) = gate.grant(START) else { continue };
            let went = class_of[&ticket];
            let due = (went + 1..4).any(|class| waiting[class] > 0 && since[class] >= PASSED_OVER_MAX[class]);
            prop_assert!(!due, "{went} went before one that was due");
            if since[went] < PASSED_OVER_MAX[went] {
                let first = (0..4).find(|class| waiting[*class] > 0);
                prop_assert_eq!(first, Some(went), "the most urgent one goes");
            }
            waiting[went] -= 1;
            since[went] = 0;
            for class in 0..4 {
                if waiting[class] == 0 {
                    since[class] = 0;
                } else if class > went {
                    since[class] += 1;
                }
                let less_urgent = 3 - class as u32;
                prop_assert!(since[class] <= PASSED_OVER_MAX[class] + less_urgent);
            }
        }
    }

    /// Beside restores that want the whole line, background work gets a sixteenth.
    #[test]
    fn a_restore_leaves_a_sixteenth(rounds in 160usize..800) {
        let mut gate = Gate::new(None, START);
        let mut low = 0;
        for _ in 0..rounds {
            gate.ask(Priority::High, SLICE).expect("room");
            let background = gate.ask(Priority::Low, SLICE).expect("room");
            low += usize::from(gate.grant(START) == Turn::Passed(background));
            gate.cancel(background);
            // The place in the class's turn is kept by another that waits.
            gate.ask(Priority::Low, SLICE).expect("room");
        }
        prop_assert!(low <= rounds / 16 + 1, "{low} of {rounds}");
    }

    /// Against a look at every minute.
    #[test]
    fn a_timetable_says_what_its_first_row_says(
        rows in proptest::collection::vec((1u8..128, 0..DAY, 0..=DAY, 0u8..3), 0..5),
        at in 0..WEEK,
    ) {
        let rows: Vec<Row> = rows.into_iter().enumerate().filter(|(_, (_, from, to, _))| from != to)
            .map(|(n, (days, from, to, which))| {
                let speed = Some(Speed::Limited(n as u64 + 1));
                let (up, down) = (speed.filter(|_| which != 1), speed.filter(|_| which != 2));
                Row { days, from, to, up, down }
            }).collect();
        let slow = |minute: u16| {
            let covers = |row: &Row| {
                let length = (row.to + DAY - row.from - 1) % DAY + 1;
                (0..7).filter(|day| row.days >> day & 1 == 1)
                    .any(|day| (minute + WEEK - (day * DAY + row.from)) % WEEK < length)
            };
            let of = |pick: fn(&Row) -> Option<Speed>| {
                rows.iter().filter(|row| covers(row)).find_map(pick).unwrap_or(Speed::Free)
            };
            (of(|row| row.up), of(|row| row.down))
        };
        let table = Timetable::new(Speed::Free, Speed::Free, rows.clone());
        let minute = |at: u16| LocalMinute::new(at % WEEK / DAY, at % DAY);
        let now = table.at(minute(at));
        prop_assert_eq!((now.up, now.down), slow(at));
        let changes = (1..=WEEK).find(|wait| slow((at + wait) % WEEK) != slow(at));
        prop_assert_eq!(table.changes_in(minute(at)), changes);
    }
}

#[test]
fn working_hours_end_in_the_evening_and_nights_after_midnight() {
    let work = Row { days: 0b001_1111, from: 8 * 60, to: 18 * 60, up: Some(Speed::Limited(500)), down: None };
    let nights = Row { days: 0b111_1111, from: 22 * 60, to: 6 * 60, up: Some(Speed::Free), down: None };
    let table = Timetable::new(Speed::Limited(2000), Speed::Free, vec![work, nights]);
    let at = |weekday: u16, hour: u16| table.at(LocalMinute::new(weekday, hour * 60));
    assert_eq!((at(0, 9).up, at(0, 9).row), (Speed::Limited(500), Some(0)));
    assert_eq!((at(0, 18).up, at(0, 18).row), (Speed::Limited(2000), None));
    assert_eq!((at(5, 9).up, at(6, 3).up, at(0, 5).up), (Speed::Limited(2000), Speed::Free, Speed::Free));
    assert_eq!(table.changes_in(LocalMinute::new(0, 9 * 60)), Some(9 * 60));
    assert_eq!(Timetable::free().changes_in(LocalMinute::new(0, 0)), None);
}

#[test]
fn background_work_gives_way_to_restores_and_never_stops() {
    let mut defer = Deference::new(START);
    assert_eq!(defer.may_pass(MIB, START), Ok(()), "nothing is restored");
    defer.restored(MIB, START);
    let now = START.plus_ms(1);
    assert_eq!(defer.may_pass(64 * 1024, now), Ok(()), "a sixteenth of what was restored");
    let Err(WaitMs(wait)) = defer.may_pass(64 * 1024, now) else { panic!("not twice") };
    assert!((1..=251).contains(&wait), "{wait}");
    assert_eq!(defer.may_pass(MIB, START.plus_ms(260)), Ok(()), "the restore is over");

    // Somebody reads a little for ever: the trickle goes on.
    let (mut defer, mut background, mut now) = (Deference::new(START), 0, START);
    while now < START.plus_ms(60_000) {
        defer.restored(1, now);
        background += defer.may_pass(SLICE, now).map_or(0, |()| SLICE);
        now = now.plus_ms(20);
    }
    let trickle = 60 * 64 * 1024;
    assert!((trickle - 2 * SLICE..=trickle + 2 * SLICE).contains(&background), "{background}");

    // Restores take all they can: background work gets a sixteenth of all, and the trickle.
    let (mut defer, mut restored, mut background, mut now) = (Deference::new(START), 0, 0, START);
    while now < START.plus_ms(60_000) {
        defer.restored(MIB / 10, now);
        restored += MIB / 10;
        while defer.may_pass(SLICE, now).is_ok() {
            background += SLICE;
        }
        now = now.plus_ms(10);
    }
    assert!(background <= restored / 15 + trickle + 512 * 1024, "{background} beside {restored}");
    assert!(background >= restored / 16, "{background} beside {restored}");
}

#[test]
fn an_upstream_is_what_many_seconds_of_two_days_carried() {
    let mut line = Upstream::default();
    assert_eq!((line.measured(), line.usable(None), line.usable(Some(9))), (None, ASSUMED, 9));
    for _ in 0..NEEDED - 1 {
        line.note(100, 50 * MIB);
    }
    assert_eq!(line.measured(), None, "buffers may have swallowed so much");
    for _ in 0..1000 {
        line.note(100, 2 * MIB);
    }
    assert_eq!(line.measured(), Some(2 * MIB), "slow readers do not lower it");
    let mut faster = Upstream::default();
    (1..=100).for_each(|n| faster.note(100, n * MIB));
    assert_eq!(faster.measured(), Some(71 * MIB), "the thirtieth of a hundred");
    for day in [101, 102] {
        (0..NEEDED as u64).for_each(|n| line.note(day, day * MIB + n));
    }
    assert_eq!(line.measured(), Some(101 * MIB), "the second fastest of three days");
    line.note(103 + DAYS, 1);
    assert_eq!(line.measured(), None, "a week later");
    (0..NEEDED).for_each(|_| line.note(103 + DAYS, 1));
    assert_eq!(line.measured(), Some(LEAST));
}

proptest! {
    /// What is kept is small whatever was measured, and comes back as it was.
    #[test]
    fn an_upstream_comes_back_and_stays_small(seconds in proptest::collection::vec((0u64..20, any::<u64>()), 0..2000)) {
        let mut line = Upstream::default();
        let mut today = 0;
        for (day, bytes) in seconds {
            line.note(day, bytes);
            today = day;
        }
        prop_assert!(line.seconds().count() <= DAYS as usize);
        prop_assert!(line.seconds().all(|(_, seconds)| seconds.len() <= NEEDED && seconds.is_sorted()));
        let kept: Vec<(u64, Vec<u64>)> = line.seconds().map(|(day, seconds)| (day, seconds.to_vec())).collect();
        prop_assert_eq!(Upstream::restore(kept, today), line);
    }
}
