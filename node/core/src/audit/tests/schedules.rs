//! Pace, order, patience of an auditor, and how soon missing shards are found.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{GroupId, Ordinals, PeerKey, Slot, Timestamp};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::peer;
use crate::audit::{
    AUDITS_PER_DAY,
    schedule::{Due, PENDING_MAX, PLACES_MAX, Pace, Schedule, Silence, Target},
};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const START: Timestamp = Timestamp(1_000 * DAY);

fn place(n: u32) -> (GroupId, Slot) {
    (GroupId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()), Slot::new((n % 8) as u8).expect("valid"))
}

fn all() -> Ordinals {
    (0..=255).collect()
}

/// A schedule over one holder with `places` full group slots.
fn schedule(holder: PeerKey, places: u32, auditors: u32) -> Schedule {
    let mut s = Schedule::new();
    for n in 0..places {
        assert!(s.watch(holder, place(n), &all(), auditors, START));
    }
    s
}

/// Runs until `end`, with what becomes of each audit; returns how many there were.
fn run(
    s: &mut Schedule,
    rng: &mut ChaCha8Rng,
    end: Timestamp,
    mut each: impl FnMut(&mut Schedule, Due, Timestamp),
) -> u32 {
    let mut count = 0;
    while let Some(now) = s.poll_timeout().filter(|at| *at < end) {
        while let Some(due) = s.next(now, rng) {
            count += 1;
            each(s, due, now);
        }
    }
    count
}

fn answer(s: &mut Schedule, due: Due, now: Timestamp) {
    s.answered(&due.holder, &due.target, now);
}

#[test]
fn a_day_has_its_audits_whatever_the_holder_has() {
    for (places, auditors) in [(1, 1), (40, 1), (40, 7)] {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut s = schedule(peer(1), places, auditors);
        let days = 10;
        let mut quarters = BTreeMap::<u64, u32>::new();
        let count = run(&mut s, &mut rng, START.plus_ms(days * DAY), |s, due, now| {
            *quarters.entry(now.0 / (DAY / 4)).or_default() += 1;
            answer(s, due, now);
        });
        let wanted = AUDITS_PER_DAY / auditors * 10;
        assert!(count.abs_diff(wanted) < wanted / 20, "{count} of {wanted}");
        assert!(quarters.values().all(|n| n.abs_diff(wanted / 40) < wanted / 80), "spread over the day");
    }
}

#[test]
fn every_shard_has_its_turn_and_none_is_safe_after_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut s = schedule(peer(1), 2, 1);
    let mut seen = BTreeMap::<Target, u32>::new();
    let mut audits = 0;
    while seen.len() < 512 {
        let now = s.poll_timeout().expect("always");
        let Some(due) = s.next(now, &mut rng) else { continue };
        *seen.entry(due.target).or_default() += 1;
        answer(&mut s, due, now);
        audits += 1;
    }
    // Three in four go to those that had no turn: more than 512 audits, as some were asked twice, and fewer than 512 / 0.75.
    assert!((540..683).contains(&audits), "{audits}");
}

#[test]
fn what_was_missed_is_not_made_up_for() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut s = schedule(peer(1), 1, 1);
    let late = START.plus_ms(30 * DAY);
    assert!(s.next(late, &mut rng).is_some());
    assert_eq!(s.next(late, &mut rng), None);
    assert!(s.poll_timeout().is_some_and(|at| at > late));
}

#[test]
fn silence_about_one_is_withholding_and_about_all_is_absence() {
    for (others, wanted) in [(true, Silence::Withheld), (false, Silence::Absent)] {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut s = schedule(peer(1), 1, 1);
        let bad = s.next(START, &mut rng).expect("due").target;
        assert_eq!(s.silent(&peer(1), &bad, START), Silence::Again);
        let (mut asked, mut end) = (vec![], None);
        run(&mut s, &mut rng, START.plus_ms(2 * DAY), |s, due, now| {
            if due.target == bad {
                asked.push((now.0 - START.0) / HOUR);
                let silence = s.silent(&due.holder, &bad, now);
                if silence != Silence::Again && end.is_none() {
                    end = Some((silence, asked.clone()));
                }
            } else if others {
                answer(s, due, now);
            } else {
                s.silent(&due.holder, &due.target, now);
            }
        });
        let (silence, asked) = end.expect("judged");
        assert_eq!(silence, wanted);
        assert_eq!(asked, [1, 5, 21]);
    }
}

#[test]
fn who_is_away_is_asked_for_little() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut s = schedule(peer(1), 10, 1);
    let count = run(&mut s, &mut rng, START.plus_ms(10 * DAY), |s, due, now| {
        s.silent(&due.holder, &due.target, now);
    });
    assert!(count < 10 * 5 * PENDING_MAX as u32, "{count} in ten days, and not 4600");
}

#[test]
fn an_audit_that_the_caller_lost_is_asked_again() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut s = schedule(peer(1), 1, 1);
    let first = s.next(START, &mut rng).expect("due");
    s.silent(&peer(1), &first.target, START);
    let mut again = 0;
    run(&mut s, &mut rng, START.plus_ms(4 * DAY), |_, due, _| again += u32::from(due.target == first.target));
    assert!(again >= 3, "{again}");
}

#[test]
fn a_schedule_is_bounded_and_forgets() {
    let (mut s, one) = (Schedule::new(), Ordinals::from_iter([7]));
    let holders = [peer(0), peer(1), peer(2)];
    for n in 0..PLACES_MAX as u32 {
        assert!(s.watch(holders[n as usize % 3], place(n), &one, 1, START));
    }
    assert!(!s.watch(peer(1), place(u32::MAX), &one, 1, START), "full");
    assert!(s.watch(peer(1), place(1), &all(), 1, START), "known");
    s.forget(&peer(1), place(1));
    s.forget(&peer(1), place(1));
    assert!(s.watch(peer(1), place(u32::MAX), &one, 1, START));
    let mut s = schedule(peer(1), 1, 1);
    s.forget(&peer(1), place(0));
    assert_eq!(s.poll_timeout(), None);
    assert_eq!(s.next(START.plus_ms(DAY), &mut ChaCha8Rng::seed_from_u64(7)), None);
}

/// When each shard was asked for in vain, of a holder that shows the others; and what was made of it.
fn silences(
    s: &mut Schedule,
    holder: PeerKey,
    deadline_ms: u64,
    end: Timestamp,
    bad: &dyn Fn(&Target) -> bool,
    rng: &mut ChaCha8Rng,
) -> BTreeMap<Target, Vec<(u64, Option<Silence>)>> {
    let mut seen = BTreeMap::<Target, Vec<(u64, Option<Silence>)>>::new();
    let mut open = BTreeSet::<(Timestamp, Target)>::new();
    loop {
        let due = s.poll_timeout().expect("always");
        let now = open.first().map_or(due, |(at, _)| due.min(*at));
        if now >= end {
            return seen;
        }
        while let Some((at, target)) = open.first().filter(|(at, _)| *at <= now).copied() {
            open.remove(&(at, target));
            let silence = s.silent(&holder, &target, now);
            seen.get_mut(&target).and_then(|all| all.last_mut()).expect("asked").1 = Some(silence);
        }
        let mut any = due > now;
        while let Some(due) = s.next(now, rng) {
            any = true;
            if bad(&due.target) {
                let asked = seen.entry(due.target).or_default();
                assert!(asked.last().is_none_or(|(_, silence)| silence.is_some()), "it is on its way");
                asked.push((now.0 - START.0, None));
                open.insert((now.plus_ms(deadline_ms), due.target));
            } else {
                s.answered(&holder, &due.target, now);
            }
        }
        // `poll_timeout` says neither too early a time, at which there is nothing, nor one that is over.
        assert!(any, "it spins");
        assert!(s.poll_timeout().is_some_and(|at| at > now), "it has no more");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However few shards there are, and however long an answer is waited for: four looks at each that is silent, after the pauses
    /// that the day has, and then the word for it.
    #[test]
    fn four_looks_at_a_shard_are_spread_over_a_day(
        seed: u64,
        shards in prop_oneof![1u32..6, 6u32..600],
        silent_of in 1u32..5,
        auditors in prop_oneof![Just(1u32), Just(14)],
        deadline_ms in prop_oneof![Just(0u64), Just(600_000), Just(2 * HOUR), Just(10 * HOUR)],
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut s = Schedule::new();
        for n in 0..shards.div_ceil(256) {
            let here: Ordinals = (0..(shards - n * 256).min(256)).map(|ordinal| ordinal as u8).collect();
            prop_assert!(s.watch(peer(1), place(n), &here, auditors, START));
        }
        let bad = |target: &Target| u32::from(target.ordinal) % silent_of == 0;
        let some_good = shards > 1 && silent_of > 1;
        let end = START.plus_ms(8 * DAY);
        let seen = silences(&mut s, peer(1), deadline_ms, end, &bad, &mut rng);
        prop_assert!(!seen.is_empty() || shards > 5);
        for (target, asked) in seen {
            for looks in asked.chunks(4) {
                for (two, pause) in looks.windows(2).zip([1, 4, 16]) {
                    prop_assert_eq!(two[1].0 - two[0].0, deadline_ms + pause * HOUR, "{:?} {:?}", target, asked);
                    prop_assert_eq!(two[0].1, Some(Silence::Again));
                }
                if let [.., (_, Some(judged))] = looks && looks.len() == 4 {
                    prop_assert!(matches!(judged, Silence::Withheld | Silence::Absent));
                    // Whoever has something to show shows it within a day, unless it owes for too much.
                    prop_assert!(some_good || *judged == Silence::Absent, "{:?}", judged);
                    prop_assert!(!some_good || shards > 5 || *judged == Silence::Withheld, "{:?}", judged);
                }
            }
        }
    }
}

#[test]
fn when_all_is_pending_nothing_new_is_asked() {
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let mut s = Schedule::new();
    assert!(s.watch(peer(1), place(1), &Ordinals::from_iter([5, 9]), 1, START));
    assert!(s.watch(peer(2), place(2), &all(), 1, START));
    // Both are on their way.
    let mut asked = Vec::new();
    while asked.len() < 2 {
        let now = s.poll_timeout().expect("always");
        let Some(due) = s.next(now, &mut rng) else { continue };
        if due.holder == peer(1) { asked.push(due.target) } else { s.answered(&due.holder, &due.target, now) }
    }
    asked.sort_unstable();
    assert_eq!(asked.iter().map(|target| target.ordinal).collect::<Vec<_>>(), [5, 9]);
    let silent = START.plus_ms(HOUR);
    run(&mut s, &mut rng, silent, |s, due, now| {
        assert_eq!(due.holder, peer(2), "nothing of it is left to ask for");
        answer(s, due, now);
    });
    s.forget(&peer(2), place(2));
    assert_eq!(s.poll_timeout().map(|at| at.0 >= START.0 + DAY), Some(true), "lost, if nobody says anything");
    assert_eq!(s.next(silent, &mut rng), None);
    for target in &asked {
        assert_eq!(s.silent(&peer(1), target, silent), Silence::Again);
    }
    assert_eq!(s.poll_timeout(), Some(silent.plus_ms(HOUR)));
    assert_eq!(s.next(silent.plus_ms(HOUR - 1), &mut rng), None);
    // One is asked again and answered: it is free.
    let now = silent.plus_ms(HOUR);
    let due = s.next(now, &mut rng).expect("due");
    assert_eq!(due.silent, 1);
    s.answered(&peer(1), &due.target, now);
    let other = s.next(now, &mut rng).expect("the other one");
    assert_ne!(other.target, due.target);
    s.unheard(&peer(1), &other.target, now);
    let fresh = s.next(now, &mut rng).expect("what is free");
    assert_eq!((fresh.target, fresh.silent), (due.target, 0));
    // What says nothing of the holder changes nothing: it waits as long as before, and what was never silent is free.
    s.unheard(&peer(1), &fresh.target, now);
    let next = s.poll_timeout().expect("always");
    assert!(next > now && next < now.plus_ms(HOUR), "what is free has its turn");
    s.forget(&peer(1), place(1));
    assert_eq!(s.silent(&peer(1), &other.target, now), Silence::Again, "nobody asks any more");
    assert!(s.watch(peer(1), place(1), &Ordinals::from_iter([other.target.ordinal]), 1, now));
    assert_eq!(s.next(now, &mut rng).map(|due| due.silent), Some(0));
    // Its silence came after it was no more asked for: nothing is written down.
    assert!(s.watch(peer(1), place(1), &Ordinals::from_iter([77]), 1, now));
    assert_eq!(s.silent(&peer(1), &other.target, now), Silence::Again);
    let later = s.poll_timeout().expect("always");
    assert_eq!(s.next(later, &mut rng).map(|due| due.target.ordinal), Some(77));
}

/// What a repair brought has gaps, and a round that asks for less forgets the rest.
#[test]
fn only_what_is_there_is_asked_for() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut s = Schedule::new();
    let mut run_with = |ordinals: &[u8]| {
        let wanted: Ordinals = ordinals.iter().copied().collect();
        assert!(s.watch(peer(1), place(1), &wanted, 1, START));
        let mut seen = Ordinals::default();
        for _ in 0..40 {
            let now = s.poll_timeout().expect("always");
            if let Some(due) = s.next(now, &mut rng) {
                seen.insert(due.target.ordinal);
                s.silent(&due.holder, &due.target, now);
            }
        }
        assert!(!seen.is_empty() && seen.without(&wanted).is_empty(), "{seen:?}");
    };
    run_with(&[3, 200, 255]);
    run_with(&[200]);
    assert!(!s.watch(peer(2), place(1), &Ordinals::default(), 1, START), "nothing to ask for");
}

#[test]
fn a_short_day_has_no_more_audits_than_a_machine_can_stand() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut s = Schedule::at(Pace { day_ms: 10_000, least_gap_ms: 1000 });
    assert!(s.watch(peer(1), place(1), &all(), 1, START));
    let count = run(&mut s, &mut rng, START.plus_ms(100_000), answer);
    assert!((80..=120).contains(&count), "{count}");
}

/// So many in a thousand of the shards of twenty places.
fn drop_some(rng: &mut ChaCha8Rng, in_thousand: u64) -> BTreeSet<Target> {
    let target = |(group, slot), ordinal| Target { group, slot, ordinal };
    let mut all: Vec<_> = (0..20).map(place).flat_map(|place| (0..=255).map(move |o| target(place, o))).collect();
    let count = in_thousand as usize * all.len() / 1000;
    for at in 0..count {
        let other = at + rng.next_u64() as usize % (all.len() - at);
        all.swap(at, other);
    }
    all.into_iter().take(count).collect()
}

/// With 5120 shards, audits until the first missing one: the mean within a tenth of 1/f, and 99 % within ln(100)/f or so.
#[test]
fn missing_shards_are_found_as_reckoned() {
    for (in_thousand, mean_audits, most_audits) in [(10u64, 100.0, 459), (100, 10.0, 44), (1000, 1.0, 1)] {
        let (mut sum, mut late, trials) = (0u32, 0u32, 400u64);
        for seed in 0..trials {
            let mut rng = ChaCha8Rng::seed_from_u64(0xa0d1 + seed);
            let mut s = schedule(peer(1), 20, 1);
            let missing = drop_some(&mut rng, in_thousand);
            let (mut audits, mut found) = (0, false);
            while !found {
                let now = s.poll_timeout().expect("always");
                let Some(due) = s.next(now, &mut rng) else { continue };
                audits += 1;
                found = missing.contains(&due.target);
                answer(&mut s, due, now);
            }
            sum += audits;
            late += u32::from(audits > most_audits);
        }
        let mean = f64::from(sum) / trials as f64;
        let text =
            format!("{in_thousand} in a thousand: mean {mean:.1} audits, {late} of {trials} later than {most_audits}");
        println!("{text}");
        assert!((mean / mean_audits - 1.0).abs() < 0.12, "{text}");
        assert!(late <= 10, "{text}");
    }
}
