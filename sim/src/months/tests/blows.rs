//! What befalls many at once: a third of all is lost within an hour, a third is cut off for a day, everybody sleeps, hardly anybody is there, a fifth
//! goes in each of six hours. Each seed twice; figures are printed.

use cairn_proto::CodeParams;

use super::*;

/// Runs seeds of one world and adds up what they did.
fn worlds(name: &str, seeds: std::ops::Range<u64>, world: impl Fn(u64) -> Months) -> MonthsReport {
    let mut sum = MonthsReport::default();
    for seed in seeds {
        let outcome = run_twice(&world(seed));
        assert!(outcome.is_ok(), "FAIL {name} seed {seed:#x} {outcome:?}");
        let Ok(report) = outcome else { continue };
        println!("{name} seed={seed:#x} trace={} {report:?}", report.trace);
        sum.departed += report.departed;
        sum.holders_lost += report.holders_lost;
        sum.orders += report.orders;
        sum.copies += report.copies;
        sum.rebuilds += report.rebuilds;
        sum.failures += report.failures;
        sum.healed += report.healed;
        sum.orders_while_cut += report.orders_while_cut;
        sum.urgent += report.urgent;
        sum.urgent_shards += report.urgent_shards;
        sum.frozen += report.frozen;
        sum.frozen_not_urgent += report.frozen_not_urgent;
        sum.lost += report.lost;
        sum.below_target += report.below_target;
        sum.stuck += report.stuck;
        sum.stuck_in_the_end += report.stuck_in_the_end;
        sum.most_a_day = sum.most_a_day.max(report.most_a_day);
        sum.longest_gap_hours = sum.longest_gap_hours.max(report.longest_gap_hours);
    }
    println!("{name}: {sum:?}");
    assert_eq!(sum.lost, 0);
    sum
}

/// A month with two groups, and nothing but what is named.
fn month(seed: u64) -> Months {
    Months { days: 40, cut_on_day: None, ..Months::new(seed, 5) }
}

#[test]
fn a_third_is_lost_within_an_hour() {
    let sum = worlds("mass failure", 300..304, |seed| Months { blow: Some((12, Blow::Lost(30))), ..month(seed) });
    assert!(sum.holders_lost > 10, "{sum:?}");
    // Frozen but for what is critical: hardly anything else is given, such as was signed before it was seen.
    assert!(sum.frozen_not_urgent * 10 <= sum.orders, "{sum:?}");
    // A committee of which one is left goes on.
    assert!(sum.stuck > 0 && sum.stuck_in_the_end == 0, "{sum:?}");
    // Of some colours nobody is left.
    assert!(sum.below_target <= sum.holders_lost / 2, "{sum:?}");
}

#[test]
fn a_third_is_cut_off_for_more_than_a_day() {
    let sum = worlds("partition", 310..314, |seed| Months { cut_on_day: Some(15), cut_parts: 3, ..month(seed) });
    // Whoever is behind the cut counts again when it is mended.
    let ordinary = sum.holders_lost + sum.healed + sum.failures;
    assert!(sum.orders <= 2 * ordinary + sum.orders_while_cut && sum.orders_while_cut <= 16, "{sum:?}");
}

/// Everybody sleeps eight hours a day: what the emergency by presence costs then, with two copies and with one.
#[test]
fn sleepers() {
    for copies in [2, 1] {
        let name = format!("sleepers, {copies} copies");
        let sum = worlds(&name, 320..323, |seed| Months { sleepers: true, copies, ..month(seed) });
        // In forty days, of six groups with five stripes of one to five data shards.
        println!("{name}: {:.2} urgent orders a group and month", f64::from(sum.urgent) / 6.0 * 30.0 / 40.0);
        let ordinary = sum.holders_lost + sum.healed + sum.failures;
        assert!(sum.orders <= 2 * ordinary + 6 * 8 * u32::from(3 - copies), "{sum:?}");
    }
}

/// Eight peers for five slots and the stewards' colour.
#[test]
fn hardly_anybody_is_there() {
    let small = |seed| Months { peers: 8, code: CodeParams::LOW_PEER, copies: 1, churn_percent: 1, ..month(seed) };
    worlds("eight peers", 330..336, small);
}

#[test]
fn a_fifth_goes_in_each_of_six_hours_and_comes_back() {
    let sum = worlds("high churn", 340..344, |seed| Months { blow: Some((12, Blow::Silent(20))), ..month(seed) });
    // Three quarters of all were silent for a day, and it was no storm.
    assert!(
        sum.most_a_day <= 16 && sum.orders <= 2 * (sum.holders_lost + sum.healed + sum.failures) + 8 * 8,
        "{sum:?}"
    );
}
