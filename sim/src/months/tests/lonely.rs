//! Slots of whose colour only their holder is there: what cheats drop of them is found out with tokens, and by nothing else.

use super::*;

/// Nobody audits, so whatever is found out is found out with tokens, also when company is there.
fn world(seed: u64, tokens: bool, company: Option<u32>) -> Months {
    let lonely = Some(Lonely { slots: 4, tokens, company });
    let one = Months { peers: 36, groups: 1, copies: 1, cheats: 2, unaudited: true, ..Months::new(seed, 1) };
    Months { days: company.map_or(45, |days| days + 18), cut_on_day: None, lonely, ..one }
}

fn worlds(tokens: bool, company: Option<u32>) -> MonthsReport {
    let mut sum = MonthsReport::default();
    for seed in SEEDS {
        let outcome = run_twice(&world(seed, tokens, company));
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        let Ok(report) = outcome else { continue };
        println!("seed={seed} {report:?}");
        assert!(report.dropped > 0, "nobody cheats: {report:?}");
        sum.lost += report.lost;
        sum.questions += report.questions;
        sum.rests += report.rests;
        sum.dropped += report.dropped;
        sum.found_out += report.found_out;
        sum.by_quorum += report.by_quorum;
        sum.nowhere += report.nowhere;
        sum.remade += report.remade;
        sum.nobody += report.nobody;
    }
    assert!(sum.rests > 10 && sum.lost == 0, "{sum:?}");
    sum
}

const SEEDS: std::ops::Range<u64> = 500..505;

#[test]
fn cheats_that_nobody_can_audit_are_found_out_with_tokens() {
    let sum = worlds(true, None);
    assert!(sum.questions > 100, "{sum:?}");
    assert_eq!(
        (sum.found_out, sum.by_quorum, sum.nowhere, sum.nobody, sum.remade),
        (sum.dropped, sum.dropped, sum.dropped, sum.dropped, 0)
    );
}

#[test]
fn what_they_dropped_is_made_again_when_somebody_of_the_colour_comes() {
    let sum = worlds(true, Some(38));
    // Of some colours there is nobody in so small a world.
    assert_eq!((sum.found_out, sum.remade + sum.nobody), (sum.dropped, sum.dropped), "{sum:?}");
    assert!(sum.remade >= 5, "{sum:?}");
}

/// The same worlds, and the checks see that nobody is found out.
#[test]
fn without_tokens_they_go_on() {
    let sum = worlds(false, None);
    assert_eq!((sum.questions, sum.found_out, sum.by_quorum, sum.nowhere, sum.remade), (0, 0, 0, 0, 0));
    let missed = SEEDS.filter(|seed| {
        let outcome = run(&world(*seed, false, Some(38)));
        outcome.is_err_and(|violation| violation.invariant == "REP-1" && violation.what.contains("a cheat dropped"))
    });
    assert_eq!(missed.count(), SEEDS.count(), "somebody could take what is nowhere");
}
