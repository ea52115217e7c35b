//! Who lies is found by runs that leave some out, whatever its place and however many helpers there are.

use std::collections::BTreeSet;

use super::*;

/// Runs until nothing more is to be learned, `stripes` of an order one after the other; how many runs it took, and how many stripes got
/// their shard.
fn searched(search: &mut Search, stripes: usize, mut fails: impl FnMut(usize, &[Slot]) -> bool) -> (usize, usize) {
    let (mut runs, mut got) = (0, 0);
    for _ in 0..stripes {
        let mut next = Some(search.best());
        let mut whole = false;
        for of_stripe in 0..=usize::from(RUNS_OF_STRIPE) {
            let Some(helpers) = next else { break };
            if of_stripe > 0 && runs >= RUNS_OF_ORDER {
                break;
            }
            let different: BTreeSet<&Slot> = helpers.iter().collect();
            assert_eq!((helpers.len(), different.len()), (search.needed(), search.needed()));
            let failed = fails(runs, &helpers);
            runs += 1;
            whole |= !failed;
            search.ran(helpers, !failed);
            if !search.has_failed() {
                break;
            }
            next = search.next_run();
        }
        got += usize::from(whole);
    }
    (runs, got)
}

fn survivors(count: usize) -> Vec<Slot> {
    (1..=count).map(slot).collect()
}

fn set(all: &[usize]) -> BTreeSet<Slot> {
    all.iter().map(|at| slot(*at)).collect()
}

#[test]
fn each_liar_is_named_and_the_shard_is_there() {
    for (count, needed, most) in [(7, 5, 7), (6, 5, 7), (19, 10, 7), (11, 10, 7), (7, 3, 7), (2, 1, 4), (5, 3, 7)] {
        for liar in survivors(count) {
            let mut search = Search::new(survivors(count), needed);
            let (runs, got) = searched(&mut search, 4, |_, helpers| helpers.contains(&liar));
            assert!(got >= 3, "{needed} of {count}, liar {liar}: {got}");
            let verdict = search.verdict();
            if !search.has_failed() {
                assert_eq!((verdict, runs), (Verdict::Nobody, 4), "it was left out at once");
                continue;
            }
            assert_eq!(verdict, Verdict::Named([liar].into()), "{needed} of {count}");
            assert!(!search.best().contains(&liar), "and is left out of what follows");
            // The first stripe gets its shard and the name where more than one can be left out.
            if count > needed + 1 {
                let mut search = Search::new(survivors(count), needed);
                let (runs, got) = searched(&mut search, 1, |_, helpers| helpers.contains(&liar));
                assert!(got == 1 && runs <= most, "{needed} of {count}, liar {liar}: {runs} runs, {got}");
                assert_eq!(search.verdict(), Verdict::Named([liar].into()));
            }
        }
    }
}

#[test]
fn two_liars_are_met_within_an_orders_runs() {
    for (count, needed) in [(7, 5), (19, 10)] {
        let mut missed = 0;
        for (one, other) in (1..=count).flat_map(|one| (one + 1..=count).map(move |other| (slot(one), slot(other)))) {
            let lies = |helpers: &[Slot]| helpers.contains(&one) || helpers.contains(&other);
            let mut search = Search::new(survivors(count), needed);
            let (_, got) = searched(&mut search, 8, |_, helpers| lies(helpers));
            assert!(got > 0, "{needed} of {count}: {one} and {other}");
            match search.verdict() {
                Verdict::Named(named) => {
                    assert!(named.iter().all(|at| [one, other].contains(at)), "{one}, {other}: {named:?}");
                    missed += 2 - named.len();
                }
                found => assert!(!lies(&survivors(needed)), "{one}, {other}: {found:?}"),
            }
            assert!(!lies(&search.best()), "{one} and {other}");
        }
        assert!(missed <= count, "of {needed} of {count} {missed} were not named");
    }
}

/// TRUST-1: it lies once and behaves whenever it is looked for, or every other time; nobody is named for it who never helped without it.
#[test]
fn who_behaves_at_times_gets_nobody_named() {
    for liar in survivors(5) {
        let mut search = Search::new(survivors(7), 5);
        let (_, got) = searched(&mut search, 1, |run, helpers| run == 0 && helpers.contains(&liar));
        assert_eq!(got, 1);
        let Verdict::Among(among) = search.verdict() else { panic!("{:?}", search.verdict()) };
        assert!(among.contains(&liar), "{among:?}");
    }
}

#[test]
fn where_nobody_can_be_left_out_it_is_among_all() {
    let mut search = Search::new(survivors(5), 5);
    let (runs, got) = searched(&mut search, 1, |_, helpers| helpers.contains(&slot(3)));
    assert_eq!((runs, got), (1, 0));
    assert_eq!(search.verdict(), Verdict::Among(set(&[1, 2, 3, 4, 5])));
    // Somebody that helps no more is no survivor.
    let mut search = Search::new(survivors(6), 5);
    search.ran(survivors(5), false);
    assert!(search.next_run().is_some());
    search.left(slot(6));
    assert_eq!(search.next_run(), None);
    assert_eq!(Search::new(survivors(3), 0).next_run(), None);
    assert_eq!(Search::new([1, 1, 2, 3].map(slot), 3).next_run(), None, "three, one of them twice");
}

/// Whose fingerprint is wrong is left out first, and named by one failed run.
#[test]
fn a_wrong_fingerprint_shortens_it() {
    for liar in survivors(5) {
        let mut search = Search::new(survivors(7), 5);
        search.ran(survivors(5), false);
        search.mark(liar);
        let next = search.next_run().expect("two can be left out");
        assert!(!next.contains(&liar));
        search.ran(next, true);
        let (runs, _) = searched(&mut search, 1, |_, helpers| helpers.contains(&liar));
        assert_eq!(search.verdict(), Verdict::Named([liar].into()));
        assert!(runs <= 4, "{runs}");
    }
}

/// Whoever is not there is replaced by the next one, and by nobody who may have lied.
#[test]
fn who_does_not_answer_is_replaced_by_those_who_are_left() {
    let mut search = Search::new(survivors(7), 5);
    assert_eq!((search.best(), search.spares()), (slots(&[1, 2, 3, 4, 5]), slots(&[6, 7])));
    search.put_last(slot(2));
    assert_eq!((search.best(), search.spares()), (slots(&[1, 3, 4, 5, 6]), slots(&[7, 2])));
    search.put_last(slot(9));
    assert_eq!(search.spares(), slots(&[7, 2]), "who is no survivor is none");
    // It is still there when the others do not suffice.
    (1..=7).filter(|at| *at != 2).for_each(|at| search.put_last(slot(at)));
    assert_eq!(search.best()[0], slot(2));

    // A root came out wrong: none of those who may have done it steps in for whoever is not there.
    let mut search = Search::new(survivors(7), 5);
    search.ran(survivors(5), false);
    assert_eq!(search.spares(), [], "one of five, and the two others are needed");
    let without = search.next_run().expect("two can be left out");
    search.ran(without.clone(), true);
    assert_eq!(search.best(), without, "cleared");
    assert_eq!(search.spares(), [], "the two who were left out may have done it");
    let mut search = Search::new(survivors(7), 3);
    search.ran(slots(&[1, 2, 3]), false);
    search.ran(slots(&[4, 5, 6]), true);
    assert_eq!(search.spares(), slots(&[7]));
    search.mark(slot(7));
    assert_eq!(search.spares(), []);
    // The order of the survivors says nothing of who lies.
    let mut search = Search::new(survivors(7), 5);
    search.put_last(slot(1));
    let (runs, got) = searched(&mut search, 4, |_, helpers| helpers.contains(&slot(3)));
    assert!(runs > 4 && got >= 3, "{runs} {got}");
    assert_eq!(search.verdict(), Verdict::Named([slot(3)].into()));
}
