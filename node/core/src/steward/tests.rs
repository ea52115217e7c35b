//! A committee of stewards in one process, every message by hand.

use cairn_proto::{CodeParams, GroupTicket, Mandate, Region, ShardRoot, SlotSheet, Taken, mandate::is_real};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

mod apart;
mod audits;
mod condemned;
mod forks;
mod given_up;
mod hiccups;
mod hostile;
mod leaning;
mod notice;
mod restart;
mod small;
mod succession;
mod suspects;
mod times;
mod tokens;
mod turns;
mod urgent;
mod vetting;
mod village;
mod words;

use self::village::*;
use super::*;
use crate::{
    budget::Limits,
    liveness::{Presence, Timers},
    part::{self, Unfit},
};

#[test]
fn a_lost_slot_is_rebuilt_in_batches_by_one_new_holder() {
    let mut village = Village::new(7);
    village.turns(1);
    assert!(village.given.is_empty(), "nothing is wrong");
    let lost = village.holder(2);
    village.away.insert(lost);
    (0..14).for_each(|_| village.turn());
    assert!(village.given.is_empty(), "a machine may be silent for an hour");
    let mut stripes = 0;
    let mut new = BTreeSet::new();
    for _ in 0..STRIPES {
        for _ in 0..24 * 15 * 8 {
            if village.given.is_empty() && stripes < STRIPES.into() {
                village.turn();
            }
        }
        if village.given.is_empty() {
            break;
        }
        match village.carry_out() {
            Action::Rebuild { slot: at, to, ordinals, helpers } => {
                assert_eq!((at, helpers.len()), (slot(2), 4), "three, and one in case that somebody lies");
                assert!(ordinals.len() <= 8, "8 MiB to each at once: {}", ordinals.len());
                stripes += ordinals.len();
                new.insert(to);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((stripes, new.len()), (STRIPES.into(), 1));
    assert!(new.iter().all(|peer| village.of_colour(2).contains(peer)));
    village.turns(2);
    assert!(village.given.is_empty(), "and that was all");
    let repaired = village.report().log.iter().filter(|entry| matches!(entry.what, What::Repaired { .. })).count();
    assert!(repaired >= 3);
    // Whoever is only missed is not lost: an emergency's spare copy says nothing of how long repairs take.
    for steward in village.stewards.values() {
        let seen = steward.repairs(village.now).figures();
        assert_eq!((seen.repairs, seen.open), (0, 0), "{seen:?}");
    }
    // Who was lost comes back, and counts again.
    village.away.clear();
    village.turns(1);
    assert_eq!(village.report().slots[2].len(), 2);
}

#[test]
fn a_quorum_it_takes() {
    let mut village = Village::new(7);
    let lost = village.holder(1);
    village.away.insert(lost);
    let few: Vec<PeerKey> = village.stewards.keys().copied().take(3).collect();
    village.turns(24 * 7);
    village.given.clear();
    // Four of seven are there, and want it: not enough for shards. They put others in the places of those who are lost.
    village.away.extend(few.iter().copied());
    for _ in 0..3 * 15 {
        village.turn();
        assert!(village.given.is_empty());
    }
    village.turns(24);
    let stewards = village.report().stewards;
    assert!(few.iter().all(|gone| stewards.iter().all(|(peer, _)| peer != gone)), "replaced: {stewards:?}");
}

#[test]
fn one_order_at_a_time_and_none_while_all_the_others_are_silent() {
    let mut village = Village::new(7);
    village.turns(2);
    let me = *village.stewards.keys().next().expect("one");
    // It hears nobody any more.
    village.away.extend(village.keys.keys().copied().filter(|peer| *peer != me));
    village.turns(24 * 9);
    assert!(village.given.is_empty(), "whoever is cut off orders nothing");
    let report = village.report();
    assert!(report.log.iter().all(|entry| !matches!(entry.what, What::Ordered { .. } | What::Stewards { .. })));
}

#[test]
fn no_vote_for_a_peer_of_another_colour() {
    let mut village = Village::new(4);
    village.away.insert(village.holder(2));
    village.turns(24 * 8);
    village.given.clear();
    village.turns(7);
    let (liar, victim) =
        (*village.stewards.keys().next().expect("one"), *village.stewards.keys().last().expect("four"));
    let ask = |village: &mut Village, nonce: u8, to: PeerKey| {
        let order = village.order(nonce, village.rebuild(to, &[0]));
        village.signs(victim, liar, &order)
    };
    let other_colour = village.of_colour(4)[1];
    let of_stewards = village.of_colour(5)[7];
    let holder = village.holder(4);
    assert!(!ask(&mut village, 1, other_colour));
    assert!(!ask(&mut village, 2, of_stewards));
    assert!(!ask(&mut village, 3, holder));
    let right = village.ranked(2)[0];
    assert!(ask(&mut village, 4, right), "and for the right one it signs");
    assert!(!ask(&mut village, 5, right), "once");
}

/// SEP-1 at the receiver: all stewards lie together.
#[test]
fn a_quorum_of_liars_gets_nobody_to_take_another_slot() {
    let village = Village::new(7);
    let to = village.of_colour(4)[1];
    let copy = Action::Copy { slot: slot(2), from: village.holder(2), to, ordinals: [0].into_iter().collect() };
    let order = village.order(9, copy);
    let votes = village.stewards.keys().map(|peer| (*peer, order.sign(&village.keys[peer]).expect("valid")));
    let certificate = Certificate::new(order.clone(), votes);
    let record = village.stewards.values().next().expect("seven").groups[&village.ticket.id()].record.clone();
    let credentials = Credentials {
        mandate: record.sealed_mandate().to_vec(),
        changes: Vec::new(),
        certificate: certificate.clone(),
    };
    let sheet = record.sealed_sheet(slot(2)).expect("there");
    let domain = |peer: PeerKey| village.domain(&peer);
    let none = BTreeSet::new();
    let take = |held, now| part::may_take(&credentials, sheet, &to, &domain(to), held, (&none, now));
    assert_eq!(take(None, village.now), Err(Unfit::WrongColour { slot: slot(2) }));
    // One of the right colour takes it, unless it once had another slot, or the time is over, or it is not named.
    let right = village.of_colour(2)[1];
    let mine = |held, now| part::may_take(&credentials, sheet, &to, &domain(right), held, (&none, now));
    assert!(mine(None, village.now).is_ok() && mine(Some(slot(2)), village.now).is_ok());
    assert_eq!(mine(Some(slot(4)), village.now), Err(Unfit::OtherSlot { held: slot(4) }));
    assert_eq!(mine(None, village.now.plus_ms(HOUR)), Err(Unfit::Expired));
    assert_eq!(
        part::may_take(&credentials, sheet, &right, &domain(right), None, (&none, village.now)),
        Err(Unfit::NotNamed)
    );
    let other_sheet = record.sealed_sheet(slot(3)).expect("there");
    let wrong = part::may_take(&credentials, other_sheet, &to, &domain(right), None, (&none, village.now));
    assert_eq!(wrong, Err(Unfit::NoRoots));
    // The source hands it to nobody else, and nobody else hands out anything.
    let from = village.holder(2);
    let serve =
        |me: &PeerKey, to: &PeerKey, of| part::may_serve(&credentials, me, (to, &domain(of)), (&none, village.now));
    assert!(serve(&from, &to, right).is_ok());
    assert_eq!(serve(&from, &to, to), Err(Unfit::WrongColour { slot: slot(2) }));
    assert_eq!(serve(&from, &right, right), Err(Unfit::NotNamed));
    assert_eq!(serve(&to, &from, right), Err(Unfit::NotNamed));
    assert!(part::may_help(&credentials, &from, Some(slot(2)), &domain(right), (&none, village.now)).is_err());
    // Four of seven are no quorum.
    let few = village.stewards.keys().take(4).map(|peer| (*peer, order.sign(&village.keys[peer]).expect("valid")));
    let forged = Credentials { certificate: Certificate::new(order.clone(), few), ..credentials.clone() };
    assert!(matches!(
        part::may_take(&forged, sheet, &to, &domain(right), None, (&none, village.now)),
        Err(Unfit::Forged(_))
    ));
}

#[test]
fn what_a_holder_says_it_lacks_is_healed_at_that_holder() {
    let mut village = Village::new(5);
    village.turns(1);
    let holder = village.holder(3);
    let has: Ordinals = (0..STRIPES).filter(|ordinal| *ordinal != 4).collect();
    let (group, now) = (village.ticket.id(), village.now);
    for steward in village.stewards.values_mut() {
        steward.reported(holder, group, slot(3), &has, now);
    }
    while village.given.is_empty() {
        village.turn();
    }
    match village.carry_out() {
        Action::Rebuild { slot: at, to, ordinals, .. } => {
            assert_eq!((at, to, ordinals.iter().collect::<Vec<_>>()), (slot(3), holder, vec![4]));
        }
        other => panic!("{other:?}"),
    }
    village.turns(1);
    assert!(village.given.is_empty());
    assert_eq!(village.report().assessment.live_slots, 5);
    // Of a stranger nobody believes that it lacks anything.
    let stranger = village.of_colour(3)[5];
    let now = village.now;
    for steward in village.stewards.values_mut() {
        steward.reported(stranger, group, slot(3), &Ordinals::default(), now);
    }
    assert!(village.report().log.iter().all(|e| !matches!(e.what, What::Lacks { holder, .. } if holder == stranger)));
}

#[test]
fn records_are_taken_up_by_those_whom_they_name() {
    let mut village = Village::new(3);
    let stewards: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let (now, old) = (village.now, village.record(&stewards, 1));
    let newer = village.record(&stewards, 2);
    let others = village.record(&[village.of_colour(5)[7]], 3);
    let steward = village.stewards.get_mut(&stewards[0]).expect("there");
    assert_eq!(steward.adopt(old, &[], owner(), now), Err(Declined::Old));
    assert_eq!(steward.adopt(newer.clone(), &[], owner(), now), Ok(()));
    assert_eq!(steward.adopt(others.clone(), &[], owner(), now), Err(Declined::NotNamed));
    assert_eq!(steward.groups().count(), 0, "the owner chose others");
    assert_eq!(steward.adopt(newer.clone(), &[], owner(), now), Ok(()));
    assert_eq!(steward.adopt(newer.clone(), &[], owner(), newer.mandate.ends), Err(Declined::Expired));
    // At the end of the mandate it lets go.
    let views = village.views.clone();
    steward.tick(newer.mandate.ends, &views, &mut village.rng);
    assert_eq!(steward.groups().count(), 0);
    let presence = steward.watch().belief(&stewards[1], now).presence;
    assert!(presence <= Presence::Late);
}
