//! Who is drawn, and verdicts from end to end.

use cairn_proto::audit::{Bench as _, Matter, Verdict, VerdictError, VerdictKind, Vote, verdict::EXCLUDE_DOMAINS_MIN};
use proptest::prelude::*;

use super::{domain, key, peer, ticket};
use crate::audit::panel::{AUDITORS, Candidate, Panel, Quorum, REGISTERED_MS, Round, Watch, quorum, watch};
use crate::colour::may_hold;
use cairn_proto::{Slot, Timestamp};

const BEGAN: Timestamp = Timestamp(REGISTERED_MS * 10);

fn round(number: u64) -> Round {
    Round { number, began: BEGAN, beacon: *blake3::hash(&number.to_le_bytes()).as_bytes() }
}

/// `each` identities in each of `domains` domains, the first peers of all domains first.
fn network(domains: u32, each: u32) -> Vec<Candidate> {
    let make = |i: u32| Candidate { peer: peer(i), domain: domain(i % domains), first_seen: Timestamp(0) };
    (0..domains * each).map(make).collect()
}

#[test]
fn the_table_of_quorums_holds() {
    for domains in 0..200 {
        let (suspect, exclude) = (quorum(VerdictKind::Suspect, domains), quorum(VerdictKind::Exclude, domains));
        for q in [suspect, exclude].into_iter().flatten() {
            assert!(q.votes * 3 >= q.seats * 2 && q.votes <= q.seats && q.seats <= domains, "{domains}: {q:?}");
            assert!(q.seats == 21 || q.votes * 3 > q.seats * 2, "more than two thirds; the panel of 21: two thirds");
        }
        assert_eq!(suspect.is_none(), domains < 2);
        assert_eq!(exclude.is_none(), domains < EXCLUDE_DOMAINS_MIN);
        assert!(exclude.is_none_or(|q| q.votes >= EXCLUDE_DOMAINS_MIN));
    }
    assert_eq!(quorum(VerdictKind::Suspect, 7), Some(Quorum { seats: 7, votes: 5 }));
    assert_eq!(quorum(VerdictKind::Exclude, 64), Some(Quorum { seats: 21, votes: 14 }));
    assert_eq!(quorum(VerdictKind::Exclude, 3), Some(Quorum { seats: 3, votes: 3 }));
    assert_eq!(quorum(VerdictKind::Exclude, 20), Some(Quorum { seats: 20, votes: 14 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn auditors_have_the_colour_of_the_slot(salt: u8, domains in 1u32..80, number: u64, slot in 0u8..8) {
        let (ticket, slot) = (ticket(salt), Slot::new(slot).expect("valid"));
        let all = network(domains, 2);
        let holder = domain(0);
        let fit = (1..domains).filter(|d| may_hold(&ticket, &domain(*d), slot)).count();
        match watch(&all, &round(number), &ticket, slot, &holder) {
            Watch::OwnerOnly => prop_assert_eq!(fit, 0),
            Watch::SameColour { auditors } => {
                prop_assert_eq!(auditors.len(), fit.min(AUDITORS));
                let mut seen = std::collections::BTreeSet::new();
                for auditor in auditors {
                    let of = &all.iter().find(|c| c.peer == auditor).expect("known").domain;
                    prop_assert!(may_hold(&ticket, of, slot), "SEP-1");
                    prop_assert!(*of != holder && seen.insert(of.clone()), "one of each domain, none of the holder's");
                }
            }
        }
    }
}

#[test]
fn a_crowd_of_one_domain_is_one_lot_and_the_young_have_none() {
    let few = network(60, 1);
    let mut crowd = few.clone();
    crowd.extend((1000..2000).map(|i| Candidate { peer: peer(i), domain: domain(7), first_seen: Timestamp(0) }));
    let young = Timestamp(BEGAN.0 - REGISTERED_MS + 1);
    crowd.extend((5000..5500).map(|i| Candidate { peer: peer(i), domain: domain(i), first_seen: young }));
    let matter = |number| Matter { subject: peer(0), kind: VerdictKind::Exclude, round: number, place: None };
    for number in 0..20 {
        let draw = |all: &[Candidate]| Panel::draw(all, &round(number), matter(number), &domain(0), None);
        let (a, b) = (draw(&few), draw(&crowd));
        assert_eq!(a.quorum(), Some(Quorum { seats: 21, votes: 14 }));
        let seats = |p: &Panel| few.iter().filter(|c| p.sits(&c.peer)).count();
        assert_eq!((seats(&a), seats(&b)), (21, 21), "the same domains sit");
        assert!(few.iter().all(|c| a.sits(&c.peer) == b.sits(&c.peer)));
        assert!(!b.sits(&peer(0)), "nobody judges itself");
        assert!((5000..5500).all(|i| !b.sits(&peer(i))), "came to see the beacon");
    }
}

#[test]
fn rounds_draw_others() {
    let all = network(60, 1);
    let panel = |number| {
        let matter = Matter { subject: peer(0), kind: VerdictKind::Exclude, round: number, place: None };
        Panel::draw(&all, &round(number), matter, &domain(0), None)
    };
    let sat = all.iter().filter(|c| (0..20).any(|n| panel(n).sits(&c.peer))).count();
    assert_eq!(sat, 59, "everybody but the subject, sooner or later");
}

#[test]
fn a_panel_is_for_one_matter() {
    let all = network(60, 1);
    let matter = Matter { subject: peer(0), kind: VerdictKind::Exclude, round: 5, place: None };
    let suspect = Matter { kind: VerdictKind::Suspect, ..matter };
    let ticket = ticket(3);
    let foreign = super::ticket(4);
    let place = Some((ticket.id(), Slot::new(2).expect("valid")));
    let draw = |m, t| Panel::draw(&all, &round(5), m, &domain(0), t).quorum().is_some();
    assert!(draw(matter, None));
    assert!(draw(Matter { place, ..suspect }, Some(&ticket)));
    assert!(!draw(suspect, None) && !draw(Matter { place, ..matter }, Some(&ticket)));
    assert!(!draw(Matter { place, ..suspect }, Some(&foreign)), "another group's ticket");
    assert!(!draw(Matter { round: 6, ..matter }, None), "another round");
    let panel = Panel::draw(&all, &round(5), matter, &domain(0), None);
    assert!(panel.quorum().is_some() && panel.seat(&Matter { subject: peer(1), ..matter }, &peer(1)).is_none());
}

#[test]
fn a_verdict_is_worth_the_domains_that_sit() {
    let all = network(60, 2);
    let matter = Matter { subject: peer(0), kind: VerdictKind::Exclude, round: 5, place: None };
    let panel = Panel::draw(&all, &round(5), matter, &domain(0), None);
    let vote = |i: u32| {
        Vote { voter: peer(i), matter, against: true, evidence: vec![], issued: Timestamp(BEGAN.0 + 1) }.seal(&key(i))
    };
    let seated: Vec<u32> = (0..60).filter(|i| panel.sits(&peer(*i))).collect();
    let verdict = |voters: &[u32]| Verdict { matter, votes: voters.iter().map(|i| vote(*i)).collect() };
    let file = verdict(&seated[..14]).encode();
    let read = Verdict::decode(&file).expect("our own file");
    assert_eq!(read.verify(&panel).expect("fourteen").votes(), 14);
    assert!(matches!(verdict(&seated[..13]).verify(&panel), Err(VerdictError::TooFewVotes { needed: 14, found: 13 })));
    // The second identity of a domain that has voted.
    let twin = seated[0] + 60;
    assert!(panel.seat(&matter, &peer(twin)).is_some());
    let padded = [&seated[..13], &[twin]].concat();
    assert!(matches!(verdict(&padded).verify(&panel), Err(VerdictError::TwiceOneDomain { .. })));
    let others: Vec<u32> = (1..60).filter(|i| !seated.contains(i)).collect();
    let strangers = [&seated[..13], &others[..5]].concat();
    assert!(matches!(verdict(&strangers).verify(&panel), Err(VerdictError::TooFewVotes { .. })));
    let mut forged = verdict(&seated[..14]);
    forged.votes[3].signature[5] ^= 1;
    assert!(matches!(forged.verify(&panel), Err(VerdictError::Vote(_))));
}
