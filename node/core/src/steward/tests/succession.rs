//! What those do who outlive more than half of their committee, what a liar makes of that, and what those do who come back.

use cairn_proto::{Committee, mandate::half};

use super::*;
use crate::{steward::message::Past, succession};

fn stewards(village: &Village, of: &PeerKey) -> Vec<PeerKey> {
    let report = village.stewards[of].report(&village.ticket.id(), village.now).expect("watched");
    report.stewards.into_iter().map(|(peer, _)| peer).collect()
}

fn record_and_changes(village: &Village, of: &PeerKey) -> (GroupRecord, Vec<Certificate>) {
    match village.stewards[of].groups[&village.ticket.id()].whole() {
        Say::Record { record, changes, .. } => (*record, changes),
        other => panic!("no record: {other:?}"),
    }
}

/// All but so many of a committee of so many are gone, which has been as large as there are peers of its colour; later there are others.
fn bereft(many: usize, left: usize) -> (Village, Vec<PeerKey>, Vec<PeerKey>) {
    let mut village = Village::new(many);
    village.enlists = true;
    let others: Vec<PeerKey> = village.of_colour(5).split_off(many);
    village.away.extend(others.iter().copied());
    village.turns(26);
    village.away.clear();
    let first: Vec<PeerKey> = village.stewards.keys().copied().collect();
    assert_eq!(first.len(), many);
    let (here, gone) = first.split_at(left);
    village.away.extend(gone);
    (village, here.to_vec(), gone.to_vec())
}

/// Until the committee is one of living stewards, and how many hours that took.
fn until_whole(village: &mut Village, me: &PeerKey) -> u64 {
    for hours in 1..=8 * 24 {
        village.turns(1);
        let now = stewards(village, me);
        if now.iter().filter(|peer| village.away.contains(*peer)).count() == 0
            && now.len() >= 5.min(village.of_colour(5).len())
        {
            return hours;
        }
    }
    panic!("still {} of {:?} gone", village.away.len(), stewards(village, me).len())
}

#[test]
fn whoever_is_left_fills_the_places_and_the_group_is_repaired() {
    for (many, left) in [(7, 1), (7, 3), (5, 1), (5, 2), (4, 1), (3, 1)] {
        let (mut village, here, gone) = bereft(many, left);
        let me = here[0];
        village.turns(47);
        let now = stewards(&village, &me);
        assert_eq!(now.iter().filter(|peer| gone.contains(peer)).count(), gone.len(), "two days are waited for");
        let hours = 47 + until_whole(&mut village, &me);
        assert!(hours <= 4 * 24, "{left} of {many} took {hours} hours");
        // Which of them all know.
        let now = stewards(&village, &me);
        for steward in &now {
            assert_eq!(stewards(&village, steward), now, "{left} of {many}");
        }
        // ... and can order something, which whoever hears none of the lost ones believes.
        village.given.clear();
        village.away.insert(village.holder(2));
        village.turns(3);
        assert!(!village.given.is_empty(), "{left} of {many}");
        assert!(matches!(village.carry_out().slot(), Some(at) if at == slot(2)));
    }
}

#[test]
fn half_of_a_committee_goes_on_without_a_succession() {
    for (many, left) in [(7, 4), (5, 3), (4, 2), (2, 1)] {
        let (mut village, here, _) = bereft(many, left);
        until_whole(&mut village, &here[0]);
        let (record, changes) = record_and_changes(&village, &here[0]);
        let mut committee = Committee::of(&record.mandate);
        for change in &changes {
            assert!(committee.change(change).is_ok(), "{left} of {many}");
        }
    }
}

/// One steward says that it is the last, and puts a friend in the place of another.
fn lie(village: &Village, liar: PeerKey, old: PeerKey, friend: PeerKey) -> Certificate {
    village.certificate(&village.order(9, Action::Replace { old, new: friend }), [liar])
}

#[test]
fn nobody_believes_who_says_that_it_is_the_last_while_others_are_here() {
    for away in 0..3 {
        let mut village = Village::new(7);
        village.turns(1);
        let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
        // Some truly are away, for long: with the liar and the others there are still enough for a change.
        village.away.extend(peers[1..=away].iter().copied());
        village.turns(30);
        let (liar, witness) = (peers[0], peers[6]);
        let friend = village.of_colour(5)[13];
        let before = stewards(&village, &witness);
        let certificate = lie(&village, liar, before[3], friend);
        village.tell(liar, witness, Say::Certified { certificate: certificate.clone() });
        let (record, mut changes) = record_and_changes(&village, &witness);
        let known = changes.clone();
        changes.push(certificate.clone());
        let (past, entries) = (Vec::<Past>::new(), Vec::new());
        let map = Say::Map { group: village.ticket.id(), changes: changes.clone(), past, entries };
        village.tell(liar, witness, map);
        assert_eq!(stewards(&village, &witness), before, "{away} away");
        // Nor does its friend, if it is honest, nor anybody who is to take a part.
        let (now, views) = (village.now, village.views.clone());
        let watch = Watch::new(Timers::default());
        let budget = Budget::new(Limits::default(), 10 << 20, now);
        let mut new =
            Steward::new(village.keys[&friend].clone(), village.domain(&friend), Rhythm::default(), watch, budget);
        let (past, entries) = (Vec::new(), Vec::new());
        let say = Say::Record { record: Box::new(record.clone()), changes: changes.clone(), past, entries };
        new.told(liar, say, now, &views);
        assert_eq!(new.groups().count(), 0, "{away} away");
        assert!(succession::follow(&record.mandate, &changes, &village.heard()).is_err());
        assert!(succession::follow(&record.mandate, &known, &village.heard()).is_ok());
    }
}

#[test]
fn a_succession_without_a_good_signature_is_none() {
    let (village, here, gone) = bereft(5, 1);
    let friend = village.of_colour(5)[13];
    let order = village.order(9, Action::Replace { old: gone[0], new: friend });
    let (record, _) = record_and_changes(&village, &here[0]);
    let none = BTreeSet::new();
    let follows = |certificate: Certificate| succession::follow(&record.mandate, &[certificate], &none).is_ok();
    assert!(follows(village.certificate(&order, [here[0]])));
    assert!(!follows(village.certificate(&order, [])), "nobody's");
    assert!(!follows(village.certificate(&order, [friend])), "a stranger's");
    let forged = Certificate::new(order.clone(), [(here[0], [7; 64])]);
    assert!(!follows(forged.clone()));
    // Made up to look like half.
    assert!(!follows(forged.with_vote(gone[1], [7; 64]).with_vote(gone[2], [7; 64])));
    // Nobody enlists or orders shards like that.
    assert!(!follows(village.certificate(&village.order(9, Action::Enlist { new: friend }), [here[0]])));
    let mut committee = Committee::of(&record.mandate);
    assert!(committee.change(&village.certificate(&order, [here[0]])).is_err());
    let rebuild = village.certificate(&village.order(9, village.rebuild(friend, &[1])), [here[0]]);
    assert!(rebuild.check(&committee).is_err() && committee.succeed(&rebuild).is_err());
}

#[test]
fn those_who_come_back_sign_for_what_was_done_without_them() {
    let (mut village, here, gone) = bereft(7, 1);
    until_whole(&mut village, &here[0]);
    let now = stewards(&village, &here[0]);
    let (record, changes) = record_and_changes(&village, &here[0]);
    let all: BTreeSet<PeerKey> = village.keys.keys().copied().collect();
    assert!(succession::follow(&record.mandate, &changes, &all).is_err(), "who hears them all now cannot know");
    // The one that was left goes, so nobody is there whom those knew who come back.
    village.away.insert(here[0]);
    village.turns(26);
    let heir = now.iter().find(|peer| **peer != here[0]).copied().expect("others");
    village.away = [here[0]].into();
    village.turns(20);
    let (_, changes) = record_and_changes(&village, &heir);
    assert!(succession::follow(&record.mandate, &changes, &all).is_ok(), "half signed each");
    for peer in &gone {
        let still = village.stewards[peer].groups().count();
        assert_eq!(still > 0, stewards(&village, &heir).contains(peer), "a place that was given away");
    }
}

#[test]
fn signatures_that_came_later_reach_those_who_did_not_hear_of_them() {
    let (mut village, here, gone) = bereft(7, 1);
    until_whole(&mut village, &here[0]);
    let now = stewards(&village, &here[0]);
    let (strong, weak) = (now[0], now[1]);
    let group = village.ticket.id();
    let (record, changes) = record_and_changes(&village, &strong);
    for change in &changes {
        let order = change.order.id().expect("valid");
        for peer in &gone {
            let vote = change.order.sign(&village.keys[peer]).expect("valid");
            // Not from where its signature is looked for: only who was passed over may come later.
            village.away.clear();
            village.tell(*peer, strong, Say::Vote { group, order, vote });
            village.tell(*peer, strong, Say::Vote { group, order, vote: [7; 64] });
        }
    }
    let all: BTreeSet<PeerKey> = village.keys.keys().copied().collect();
    let holds = |village: &Village, of: &PeerKey| {
        let (_, changes) = record_and_changes(village, of);
        succession::follow(&record.mandate, &changes, &all).is_ok()
    };
    assert_eq!((holds(&village, &strong), holds(&village, &weak)), (true, false));
    let digest = |village: &Village, of: &PeerKey| village.stewards[of].groups[&group].digest();
    assert_ne!(digest(&village, &strong), digest(&village, &weak), "they find out");
    let map = village.stewards[&strong].groups[&group].map_message();
    village.tell(strong, weak, map);
    assert!(holds(&village, &weak));
    assert_eq!(digest(&village, &strong), digest(&village, &weak));
}

/// Whoever slept signs for what was made meanwhile, and goes by it only with half of the others.
#[test]
fn one_that_slept_does_not_leave_its_place_to_whoever_waited_for_that() {
    let mut village = Village::new(7);
    village.turns(1);
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let (liar, sleeper, friend) = (peers[0], peers[6], village.of_colour(5)[13]);
    for (slept, made, signs) in [(72, 60, true), (72, 30, false), (30, 25, false)] {
        let woke = village.now.plus_ms(slept * HOUR);
        village.now = village.now.plus_ms(made * HOUR);
        let certificate = lie(&village, liar, peers[3], friend);
        village.now = woke;
        village.hear();
        village.stewards.values_mut().for_each(|steward| while steward.poll().is_some() {});
        let (record, mut changes) = record_and_changes(&village, &sleeper);
        let before = stewards(&village, &sleeper);
        changes.push(certificate);
        let (past, entries) = (Vec::new(), Vec::new());
        village.tell(friend, sleeper, Say::Record { record: Box::new(record), changes, past, entries });
        assert_eq!(stewards(&village, &sleeper), before);
        let steward = village.stewards.get_mut(&sleeper).expect("there");
        let said: Vec<Effect> = std::iter::from_fn(|| steward.poll()).collect();
        let voted = |effect: &Effect| matches!(effect, Effect::Tell { say, .. } if matches!(**say, Say::Vote { .. }));
        assert_eq!(said.iter().any(voted), signs, "slept {slept} hours, made after {made}");
    }
}

#[test]
fn what_half_of_a_committee_made_counts_before_what_those_made_who_missed_it() {
    let (mut village, here, gone) = bereft(7, 1);
    until_whole(&mut village, &here[0]);
    let (record, long) = record_and_changes(&village, &here[0]);
    // The others were only cut off from it: six of seven replaced it.
    let first = Committee::of(&record.mandate);
    let order = Order {
        committee: *first.id(),
        issued: record.mandate.issued.plus_ms(2 * HOUR),
        expires: record.mandate.issued.plus_ms(3 * HOUR),
        ..village.order(8, Action::Replace { old: here[0], new: village.of_colour(5)[13] })
    };
    let change = village.certificate(&order, gone.iter().copied());
    let group = village.ticket.id();
    let all = |_: &PeerKey| true;
    let ours = &mut village.stewards.get_mut(&here[0]).expect("there").groups.get_mut(&group).expect("watched");
    assert!(ours.learn_changes(std::slice::from_ref(&change), &[], &all, village.now));
    assert!(!ours.learn_changes(&long, &[], &|_| false, village.now), "and not back");
    assert_eq!(ours.committee().stewards().len(), 7);
    assert!(!ours.committee().stewards().contains(&here[0]) && half(7) == 4);
}
