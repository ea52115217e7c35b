//! Fifty small fleets, each twice; and fleets without a guard, which the checkers must catch.

use cairn_sim::{Failure, Sabotage, Scenario, Settings, run, run_twice};

#[test]
fn fifty_seeds_keep_every_invariant() {
    let mut sum = cairn_sim::Report::default();
    for seed in 0..50 {
        let scenario = if seed % 5 == 4 { Scenario::Churn } else { Scenario::Separation };
        let settings = Settings::new(scenario, seed, 8 + 2 * seed as u32, 10);
        let outcome = run_twice(&settings);
        assert!(outcome.is_ok(), "FAIL {outcome:?}\nreproduce: {}", settings.command());
        let Ok(report) = outcome else { continue };
        sum.groups += report.groups;
        sum.accepted += report.accepted;
        sum.repaired += report.repaired;
        sum.attacks += report.attacks;
        sum.refused_colour += report.refused_colour;
        sum.refused_ledger += report.refused_ledger;
        sum.refused_full += report.refused_full;
        sum.refused_away += report.refused_away;
        sum.too_few += report.too_few;
        sum.relaxed += report.relaxed;
    }
    // Every branch was taken, or the run shows nothing.
    for (what, count) in [
        ("groups", sum.groups),
        ("accepted", sum.accepted),
        ("repaired", sum.repaired),
        ("attacks", sum.attacks),
        ("refused for colour", sum.refused_colour),
        ("refused by the ledger", sum.refused_ledger),
        ("refused for space", sum.refused_full),
        ("away", sum.refused_away),
        ("too few", sum.too_few),
        ("relaxed", sum.relaxed),
    ] {
        assert!(count > 0, "no {what} in fifty seeds: {sum:?}");
    }
}

fn caught(sabotage: Sabotage) -> bool {
    (0..20).any(|seed| {
        let settings = Settings { sabotage, ..Settings::new(Scenario::Separation, seed, 40, 20) };
        run(&settings).is_err_and(|v| v.invariant == "SEP-1")
    })
}

#[test]
fn without_the_colour_check_separation_breaks_and_is_seen() {
    assert!(caught(Sabotage::NoColourCheck));
}

#[test]
fn without_the_ledger_a_changed_domain_breaks_separation_and_is_seen() {
    assert!(caught(Sabotage::NoLedger));
}

#[test]
fn a_failure_says_when_and_what() {
    let settings = Settings { sabotage: Sabotage::NoColourCheck, ..Settings::new(Scenario::Separation, 1, 40, 20) };
    let text = run_twice(&settings).map_err(|e| match e {
        Failure::Violation(v) => v.to_string(),
        other => other.to_string(),
    });
    assert!(text.is_err_and(|t| t.starts_with("SEP-1 at ") && t.contains("holds slots")));
}

#[test]
fn a_network_takes_backups_on_its_first_second_and_hundredth_day() {
    let groups = |days| {
        let settings = Settings::new(Scenario::Separation, 5, 60, days);
        run(&settings).map(|report| report.groups).unwrap_or_default()
    };
    // The clock ages the peers; those that stay are newcomers on the first day only.
    let made: Vec<u64> = [1, 2, 3, 99, 100].into_iter().map(groups).collect();
    assert!(made.is_sorted_by(|a, b| a < b), "groups by then: {made:?}");
}
