//! Two hundred times half a year, each seed twice; and worlds in which a guard is missing, which the checks must see.

use super::*;

mod blows;
mod lonely;
mod manners;
mod vetting;

/// Runs seeds and adds up what they did; every branch must have been taken by some.
fn seeds(seeds: std::ops::Range<u64>, churn_percent: u32) -> MonthsReport {
    seeds_with(seeds, churn_percent, 0)
}

fn seeds_with(seeds: std::ops::Range<u64>, churn_percent: u32, bad: u32) -> MonthsReport {
    let mut sum = MonthsReport::default();
    let groups = (seeds.end - seeds.start) as u32;
    for seed in seeds {
        let settings = Months { groups: 1, bad, ..Months::new(seed, churn_percent) };
        let outcome = run_twice(&settings);
        assert!(outcome.is_ok(), "FAIL {outcome:?}\nreproduce: {}", settings.command());
        let Ok(report) = outcome else { continue };
        sum.departed += report.departed;
        sum.holders_lost += report.holders_lost;
        sum.urgent += report.urgent;
        sum.orders += report.orders;
        sum.copies += report.copies;
        sum.rebuilds += report.rebuilds;
        sum.failures += report.failures;
        sum.changes += report.changes;
        sum.healed += report.healed;
        sum.crashes += report.crashes;
        sum.forged += report.forged;
        sum.forged_orders += report.forged_orders;
        sum.usurped += report.usurped;
        sum.lost += report.lost;
        sum.below_target += report.below_target;
        sum.unwatched += report.unwatched;
        sum.stuck += report.stuck;
        sum.most_a_day = sum.most_a_day.max(report.most_a_day);
        sum.longest_gap_hours = sum.longest_gap_hours.max(report.longest_gap_hours);
    }
    println!("{churn_percent} % a month, {bad} bad: {sum:?}");
    for (what, count) in [
        ("peers left", sum.departed),
        ("holders were lost", sum.holders_lost),
        ("copies were made", sum.copies),
        ("orders failed", sum.failures),
        ("stewards changed", sum.changes),
        ("shards healed", sum.healed),
        ("stewards crashed", sum.crashes),
    ] {
        assert!(count > 0, "no {what}: {sum:?}");
    }
    assert_eq!(sum.lost, 0);
    // Both are limits of a network as small and as restless as this one; seldom, and never at five in a hundred.
    assert!(sum.unwatched + sum.stuck <= if churn_percent > 10 { 3 } else { 0 }, "{sum:?}");
    // No storm: hardly more orders than there was to do, with what failed, and some for those who came back.
    assert!(sum.orders <= 2 * (sum.holders_lost + sum.healed + sum.failures), "{sum:?}");
    // Hardly any place is empty in the end: what was lost within the last week, or has nobody of its colour.
    // Where bad stewards are too many for the few that are left, nothing is made anew.
    let share = if bad > 0 { 5 } else { 20 };
    assert!(sum.below_target * share <= 16 * groups, "{sum:?}");
    sum
}

#[test]
fn fifty_half_years_at_five_percent() {
    seeds(0..50, 5);
}

#[test]
fn fifty_more_half_years_at_five_percent() {
    seeds(50..100, 5);
}

#[test]
fn fifty_half_years_at_twenty_percent() {
    seeds(100..150, 20);
}

#[test]
fn fifty_more_half_years_at_twenty_percent() {
    let sum = seeds(150..200, 20);
    assert!(sum.rebuilds > 0, "no slot was ever without a copy: {sum:?}");
}

/// One of seven stewards lies, and lets everything fail.
#[test]
fn ten_half_years_with_a_bad_steward() {
    let sum = seeds_with(200..210, 5, 1);
    assert!(sum.forged > 1000 && sum.usurped > 300 && sum.forged_orders * 50 <= sum.forged, "{sum:?}");
}

/// Two of seven do, as many as a quorum of five bears.
#[test]
fn five_half_years_with_two_bad_stewards() {
    let sum = seeds_with(210..215, 5, 2);
    assert!(sum.forged > 2000 && sum.usurped > 600 && sum.forged_orders * 50 <= sum.forged, "{sum:?}");
}

/// What is kept is kept by the stewards: without them most of it is gone.
#[test]
fn asleep_stewards_lose_data() {
    let lost: u32 = (0..4)
        .map(|seed| {
            let settings = Months { asleep: true, groups: 1, ..Months::new(seed, 20) };
            run(&settings).map_or(0, |report| report.lost)
        })
        .sum();
    assert!(lost > 0, "six months at 20 % a month without repair, and nothing was lost");
}

/// The checks see what they are for.
#[test]
fn a_peer_that_takes_any_slot_is_seen() {
    let caught = (0..20).any(|seed| {
        let settings = Months { greedy: true, groups: 1, ..Months::new(seed, 20) };
        run(&settings).is_err_and(|violation| violation.invariant == "SEP-1")
    });
    assert!(caught);
}
