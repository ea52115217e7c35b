//! When a silent steward's place goes to another: the fewer are left, the sooner.

use super::*;

fn stewards(village: &Village) -> BTreeSet<PeerKey> {
    village.report().stewards.iter().map(|(peer, _)| *peer).collect()
}

/// So many of its stewards fall silent for good.
fn fall_silent(village: &mut Village, many: usize) -> Vec<PeerKey> {
    let gone: Vec<PeerKey> = village.stewards.keys().rev().take(many).copied().collect();
    village.away.extend(gone.iter().copied());
    gone
}

#[test]
fn with_many_left_a_day_is_waited_for() {
    let mut village = Village::new(7);
    village.turns(1);
    let gone = fall_silent(&mut village, 1);
    village.turns(22);
    assert!(stewards(&village).contains(&gone[0]), "six of seven are here, and a change takes four");
    village.turns(4);
    assert!(!stewards(&village).contains(&gone[0]));
}

#[test]
fn with_no_more_left_than_it_takes_an_hour_is() {
    let mut village = Village::new(7);
    village.turns(1);
    let gone = fall_silent(&mut village, 3);
    let seated = |village: &Village| gone.iter().filter(|peer| stewards(village).contains(peer)).count();
    village.turns(3);
    assert_eq!((stewards(&village).len(), seated(&village)), (7, 2), "four were left, and a change takes four");
    village.turns(18);
    assert_eq!(seated(&village), 2, "now there is one to spare");
    village.turns(8);
    assert_eq!((stewards(&village).len(), seated(&village)), (7, 0));
}

#[test]
fn whoever_is_often_away_so_long_keeps_its_place_for_longer() {
    let mut village = Village::new(7);
    village.turns(1);
    let gone = fall_silent(&mut village, 2);
    let seated = |village: &Village| gone.iter().filter(|peer| stewards(village).contains(peer)).count();
    village.turns(5);
    village.away.clear();
    village.turns(1);
    let gone = fall_silent(&mut village, 3);
    let newcomer = gone.last().copied().into_iter().collect::<Vec<_>>();
    village.turns(3);
    assert_eq!(seated(&village), 2, "they are away again, and not for long");
    assert!(!stewards(&village).contains(&newcomer[0]), "the third never was");
}

#[test]
fn nobody_retires_within_the_day() {
    let mut village = Village::new(7);
    village.turns(1);
    let gone = fall_silent(&mut village, 3);
    let seated = |village: &Village| gone.iter().filter(|peer| stewards(village).contains(peer)).count();
    let others: Vec<PeerKey> =
        village.of_colour(5).into_iter().filter(|peer| !village.stewards.contains_key(peer)).collect();
    village.away.extend(others);
    village.turns(20);
    assert_eq!(seated(&village), 3, "nobody is there to take the places");
    village.turns(20);
    assert_eq!(seated(&village), 0);
}
