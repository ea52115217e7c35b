//! Pace, order, patience of an auditor, and how soon missing shards are found.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{GroupId, Ordinals, PeerKey, Slot, Timestamp};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng};

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
        // By chance one audit more may have come upon the shard.
        assert!(asked.len() >= 3 && asked[0] <= 1 && *asked.last().expect("some") <= 22, "{asked:?}");
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
