//! Polite departures, own losses and cheats among honest holders: nobody else pays for it.

use super::*;

fn world(seed: u64) -> Months {
    Months { days: 70, cut_on_day: None, polite_percent: 70, cheats: 3, ..Months::new(seed, 10) }
}

#[test]
fn those_who_say_so_leave_safely_and_cheats_are_found_out() {
    let mut sum = MonthsReport::default();
    for seed in 400..403 {
        let outcome = run_twice(&world(seed));
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        let Ok(report) = outcome else { continue };
        sum.lost += report.lost;
        sum.polite += report.polite;
        sum.polite_safe += report.polite_safe;
        sum.own_losses += report.own_losses;
        sum.healed += report.healed;
        sum.audits += report.audits;
        sum.dropped += report.dropped;
        sum.found_out += report.found_out;
        sum.remade += report.remade;
        sum.below_target += report.below_target;
        sum.most_a_day = sum.most_a_day.max(report.most_a_day);
    }
    println!("{sum:?}");
    assert_eq!(sum.lost, 0);
    assert!(sum.polite > 3 && sum.own_losses > 10 && sum.healed > 3 && sum.audits > 1000, "{sum:?}");
    // A day is enough for most: only where nobody of the colour is there, or stewards sleep, is it not.
    assert!(sum.polite_safe * 2 > sum.polite, "{sum:?}");
    assert!(sum.dropped > 5 && sum.found_out > 5, "{sum:?}");
    assert!(sum.remade * 5 >= sum.dropped * 4, "{sum:?}");
    assert!(sum.most_a_day as usize <= super::super::checks::ORDERS_A_DAY_MAX, "{sum:?}");
}

/// Without auditors nobody finds a cheat out: what it dropped is missing in the end. So the check sees it.
#[test]
fn without_auditors_cheats_go_on() {
    let found: u32 = (400..403)
        .map(|seed| {
            let settings = Months { unaudited: true, ..world(seed) };
            run(&settings).map_or(0, |report| report.found_out)
        })
        .sum();
    assert_eq!(found, 0);
}
