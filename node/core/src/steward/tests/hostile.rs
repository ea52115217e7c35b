//! What one bad steward of seven gets signed, and what a stranger gets watched.

use super::*;

/// A slot was lost long ago, nothing is under way for it at the voter, and it is the liar's turn.
fn in_need() -> (Village, PeerKey, PeerKey) {
    let mut village = Village::new(7);
    village.away.insert(village.holder(2));
    village.turns(24);
    let (liar, voter) =
        (*village.stewards.keys().next().expect("one"), *village.stewards.keys().last().expect("seven"));
    let group = village.ticket.id();
    for _ in 0..15 * 24 * 3 {
        village.turn();
        village.given.clear();
        let (steward, now, subject) = (&village.stewards[&voter], village.now, Subject::Slot(2));
        let watched = &steward.groups[&group];
        let turn = watched.may_be_turn_of(&liar, &voter, &subject, &steward.watch, now, &steward.rhythm);
        if turn && watched.is_free(&subject, now) && watched.failures(&subject) > 0 {
            return (village, liar, voter);
        }
    }
    panic!("never its turn")
}

#[test]
fn a_new_holder_is_one_of_the_first_and_not_the_proposers_friend() {
    let (mut village, liar, voter) = in_need();
    let ranked = village.ranked(2);
    assert!(ranked.len() > 8, "{}", ranked.len());
    let friend = *ranked.last().expect("many");
    let of_friend = village.order(1, village.rebuild(friend, &[0]));
    assert!(!village.signs(voter, liar, &of_friend));
    let of_first = village.order(2, village.rebuild(ranked[0], &[0]));
    assert!(village.signs(voter, liar, &of_first));
}

#[test]
fn a_steward_that_is_heard_is_not_replaced_and_one_that_is_not_is_by_one_of_the_first() {
    let mut village = Village::new(7);
    village.turns(1);
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let (liar, voter, old) = (peers[0], peers[6], peers[3]);
    let candidates: Vec<PeerKey> = {
        let steward = &village.stewards[&voter];
        let group = &steward.groups[&village.ticket.id()];
        let domain = village.domain(&voter);
        let scene = plan::Scene::new(
            (voter, &domain),
            village.now,
            &village.views,
            (&steward.watch, &steward.places),
            &steward.rhythm,
        );
        scene.new_stewards(group, &BTreeSet::new())
    };
    assert!(candidates.len() > 4);
    let replace = |village: &Village, nonce, new| village.order(nonce, Action::Replace { old, new });
    let order = replace(&village, 1, candidates[0]);
    assert!(!village.signs(voter, liar, &order), "it is here");
    // The others are silent too, or they would put somebody in its place themselves.
    village.away.extend(peers.iter().copied().filter(|peer| ![liar, voter].contains(peer)));
    village.turns(30);
    let order = replace(&village, 2, *candidates.last().expect("some"));
    assert!(!village.signs(voter, liar, &order), "a friend");
    let order = replace(&village, 3, candidates[0]);
    village.now = village.now.plus_ms(HOUR);
    village.hear();
    let order = Order { issued: village.now, expires: village.now.plus_ms(HOUR), ..order };
    assert!(village.signs(voter, liar, &order));
}

#[test]
fn a_change_that_was_kept_back_is_worth_nothing_later() {
    let mut village = Village::new(7);
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let new = village.of_colour(5)[8];
    let order = village.order(1, Action::Replace { old: peers[6], new });
    let kept = village.certificate(&order, peers.iter().copied().take(4));
    let group = village.ticket.id();
    village.turns(2);
    village.tell(peers[0], peers[1], Say::Certified { certificate: kept });
    let stewards = village.stewards[&peers[1]].report(&group, village.now).expect("watched").stewards;
    assert!(stewards.iter().all(|(peer, _)| *peer != new), "its hour was over");
}

/// The owner of a domain of another colour, and one stranger with very many groups.
#[test]
fn nobody_watches_what_it_may_hold_nor_too_many_groups_of_one() {
    let village = Village::new(3);
    let me = *village.stewards.keys().next().expect("three");
    let now = village.now;
    let fresh = |domain: Domain| {
        let budget = Budget::new(Limits::default(), 10 << 20, now);
        Steward::new(village.keys[&me].clone(), domain, Rhythm::default(), Watch::new(Timers::default()), budget)
    };
    let other = village.domain(&village.of_colour(2)[0]);
    let record = village.stewards[&me].groups[&village.ticket.id()].record.clone();
    assert_eq!(fresh(other).adopt(record, &[], owner(), now), Err(Declined::WrongColour));
    let mut steward = fresh(village.domain(&me));
    let mut adopted = 0;
    let mut salt = 0u64;
    let mut bring = |steward: &mut Steward, from: PeerKey| loop {
        salt += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&salt.to_le_bytes());
        let ticket = GroupTicket::new(authority().verifying_key().to_bytes(), bytes, CodeParams::LOW_PEER, 6);
        let ticket = ticket.expect("valid");
        if colour(&ticket, &village.domain(&me)).index() != 5 {
            continue;
        }
        let mandate = Mandate { ticket, ..Mandate::open(village.record(&[me], 1).sealed_mandate()).expect("signed") };
        let sheet = |at: u8| SlotSheet {
            group: ticket.id(),
            slot: slot(at),
            generation: 1,
            holders: Vec::new(),
            rows: Vec::new(),
            leans: false,
        };
        let sheets = (0..5).map(|at| sheet(at).seal(&authority()).expect("valid")).collect();
        let record = GroupRecord::new(mandate.seal(&authority()).expect("valid"), sheets).expect("whole");
        break steward.adopt(record, &[], from, now);
    };
    while bring(&mut steward, owner()).is_ok() {
        adopted += 1;
        assert!(adopted <= GROUPS_OF_ONE_MAX);
    }
    assert_eq!((adopted, bring(&mut steward, owner())), (GROUPS_OF_ONE_MAX, Err(Declined::Full)));
    assert_eq!(bring(&mut steward, me), Ok(()), "of somebody else there is room");
}
