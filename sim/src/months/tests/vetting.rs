//! Newcomers that may be given little in a day, in networks so small that a slot often has nobody else to go to.

use super::*;

fn worlds(quota: u32, generous: bool) -> MonthsReport {
    let mut sum = MonthsReport::default();
    for seed in 600..608 {
        let settings = Months { peers: 30, groups: 1, days: 90, quota: Some(quota), generous, ..Months::new(seed, 20) };
        let outcome = run_twice(&settings);
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        let Ok(report) = outcome else { continue };
        sum.to_newcomers += report.to_newcomers;
        sum.over_quota += report.over_quota;
        sum.over_quota_urgent += report.over_quota_urgent;
        sum.crashes += report.crashes;
        sum.orders += report.orders;
        sum.lost += report.lost;
        sum.below_target += report.below_target;
        sum.longest_gap_hours = sum.longest_gap_hours.max(report.longest_gap_hours);
    }
    println!("{quota} a day, generous {generous}: {sum:?}");
    assert_eq!(sum.lost, 0);
    assert!(sum.crashes > 10 && sum.to_newcomers > 0, "{sum:?}");
    sum
}

/// A slot has five stripes: with a quota of two a newcomer has it on its third day, unless the group needs it at once.
#[test]
fn no_calm_group_gives_a_newcomer_more_than_its_quota() {
    let sum = worlds(2, false);
    assert_eq!(sum.over_quota, 0, "{sum:?}");
    assert!(sum.below_target * 20 <= 16 * 8, "and hardly a place is empty for it: {sum:?}");
}

/// Where newcomers offer as much as everybody, the same count sees them get whole slots at once.
#[test]
fn without_a_quota_the_count_would_see_it() {
    let sum = worlds(2, true);
    assert!(sum.over_quota > 0, "{sum:?}");
}
