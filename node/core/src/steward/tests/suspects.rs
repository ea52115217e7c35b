//! Rebuilds that come out wrong: who is suspected, who is left out, and when it is tried again.

use super::{super::suspects, *};

/// Two slots of five are lost, the first order to rebuild one is given.
fn first_order(away: &[u8]) -> Village {
    let mut village = Village::new(7);
    village.turns(1);
    for at in away {
        village.away.insert(village.holder(*at));
    }
    until_given(&mut village);
    village
}

fn until_given(village: &mut Village) {
    for _ in 0..24 * 15 * 10 {
        if !village.given.is_empty() {
            return;
        }
        village.turn();
    }
    panic!("nothing is ordered: {:?}", village.report().log);
}

/// The oldest order: who is to take it, its name, and its helpers.
fn order(village: &Village) -> (PeerKey, OrderId, Vec<PeerKey>) {
    let Effect::Give { to, credentials, .. } = &village.given[0] else { panic!("only these") };
    let order = &credentials.certificate.order;
    let Action::Rebuild { helpers, .. } = &order.action else { panic!("{:?}", order.action) };
    (*to, order.id().expect("valid"), helpers.iter().map(|(_, peer)| *peer).collect())
}

/// The new holder of the oldest order says this of it to everybody.
fn says(village: &mut Village, failure: Failure) -> PeerKey {
    let (to, order, _) = order(village);
    village.given.remove(0);
    say_again(village, to, order, failure);
    to
}

fn say_again(village: &mut Village, from: PeerKey, order: OrderId, failure: Failure) {
    let group = village.ticket.id();
    let all: Vec<PeerKey> = village.stewards.keys().copied().collect();
    all.into_iter().for_each(|steward| village.tell(from, steward, Say::Failed { group, order, failure }));
    village.pump();
}

fn suspicion(village: &Village, peer: &PeerKey) -> Option<usize> {
    let found: BTreeSet<Option<usize>> =
        village.stewards.values().map(|s| s.suspicion(peer).map(|suspicion| suspicion.domains)).collect();
    assert_eq!(found.len(), 1, "all of them heard the same");
    found.into_iter().next().expect("seven")
}

#[test]
fn all_who_have_a_slot_are_named_so_that_a_liar_can_be_left_out() {
    let village = first_order(&[2]);
    let (_, _, helpers) = order(&village);
    assert_eq!(helpers, [0, 1, 3, 4].map(|at| village.holder(at)), "three and one to spare");
    // And it costs what three do.
    let (_, steward) = village.stewards.iter().next().expect("one");
    let group = &steward.groups[&village.ticket.id()];
    let Effect::Give { credentials, .. } = &village.given[0] else { panic!("only these") };
    let action = &credentials.certificate.order.action;
    assert_eq!(group.cost(action), 3 * action.ordinals().len() as u64 * cairn_proto::SHARD_SIZE as u64);
}

#[test]
fn who_is_named_helps_last_and_the_word_lapses() {
    let mut village = first_order(&[2]);
    let (first, _, helpers) = order(&village);
    let liar = helpers[0];
    says(&mut village, Failure::Wrong(Some(liar)));
    assert_eq!(suspicion(&village, &liar), Some(1));
    until_given(&mut village);
    let (second, name, helpers) = order(&village);
    assert_ne!(second, first, "and who said it is another's word worth as much");
    assert!(!helpers.contains(&liar), "three others are there");
    // The order is done, and the word stays: for other slots too.
    village.carry_out();
    assert_eq!(suspicion(&village, &liar), Some(1));
    let (group, now) = (village.ticket.id(), village.now);
    let report = village.stewards.values().next().expect("one").report(&group, now).expect("watched");
    assert_eq!(report.suspects.named.iter().map(|s| s.peer).collect::<Vec<_>>(), [liar]);
    // Whoever carried an order out names whom it had to leave out, and only such.
    say_again(&mut village, second, name, Failure::Wrong(Some(helpers[0])));
    assert_eq!(suspicion(&village, &helpers[0]), Some(1));
    say_again(&mut village, second, name, Failure::Wrong(Some(second)));
    assert_eq!(suspicion(&village, &second), None, "it was no helper");
    say_again(&mut village, first, name, Failure::Wrong(Some(helpers[1])));
    assert_eq!(suspicion(&village, &helpers[1]), None, "by somebody who had no part in it");
    village.given.clear();
    village.now = village.now.plus_ms(Rhythm::default().suspect_ms());
    village.turn();
    assert_eq!(suspicion(&village, &liar), None);
}

/// Where exactly k live and one of them lies nobody can be left out: it is said among whom it is, and when one more returns it is repaired.
#[test]
fn with_exactly_k_it_is_among_them_until_one_more_returns() {
    let mut village = first_order(&[2, 4]);
    let at = |village: &Village| match &village.given[0] {
        Effect::Give { credentials, .. } => credentials.certificate.order.action.slot().expect("a slot"),
        other => panic!("{other:?}"),
    };
    let mut said = BTreeSet::new();
    // For half a day it fails again and again, each time at another new holder.
    let began = village.now;
    while village.now.ms_since(began) < 12 * HOUR {
        village.turn();
        while !village.given.is_empty() {
            let (slot, (_, _, helpers)) = (at(&village), order(&village));
            assert_eq!(helpers.len(), 3, "all that there are");
            said.insert((slot, says(&mut village, Failure::Wrong(None))));
        }
    }
    let report = village.report();
    assert!(report.suspects.named.is_empty());
    let among: Vec<(Slot, usize)> = report.suspects.among.iter().map(|u| (u.slot, u.helpers.len())).collect();
    assert_eq!(among, [(slot(2), 3), (slot(4), 3)]);
    let holders: usize = report.suspects.among.iter().map(|unresolved| unresolved.holders.len()).sum();
    assert_eq!(holders, said.len());
    // One more is there: four helpers, at once and not after half a day's pause.
    let (back, since) = (village.holder(4), village.now);
    village.away.remove(&back);
    until_given(&mut village);
    assert!(village.now.ms_since(since) < HOUR, "{}", village.now.ms_since(since));
    let (_, _, helpers) = order(&village);
    assert_eq!((at(&village), helpers.len()), (slot(2), 4));
    assert!(helpers.contains(&back));
    // It leaves the liar out, and says who it was.
    let (to, name, _) = order(&village);
    village.carry_out();
    say_again(&mut village, to, name, Failure::Wrong(Some(helpers[1])));
    assert_eq!(suspicion(&village, &helpers[1]), Some(1));
    assert!(village.report().suspects.among.iter().all(|unresolved| unresolved.slot != slot(2)), "it is whole");
}

/// Runs that look for who lies use others' lines: the month pays for as many as there may be, once for each order, whatever is said of it.
#[test]
fn what_a_search_for_a_liar_moves_is_charged_to_the_month() {
    const MIB: u64 = 1 << 20;
    let mut village = first_order(&[2]);
    let group = village.ticket.id();
    let spent = |village: &Village| -> u64 {
        let all: BTreeSet<u64> =
            village.stewards.values().map(|steward| steward.groups[&group].spent_bytes()).collect();
        assert_eq!(all.len(), 1, "all of them heard the same: {all:?}");
        all.into_iter().next().expect("seven")
    };
    assert_eq!(spent(&village), 8 * 3 * MIB);
    // Three help and one is to spare. 24 runs, and what the first two stripes moved until then; the other six moved nothing.
    let (first, name, helpers) = order(&village);
    says(&mut village, Failure::Wrong(Some(helpers[0])));
    assert_eq!(spent(&village), (24 + 2) * 3 * MIB);
    say_again(&mut village, first, name, Failure::Wrong(Some(helpers[1])));
    assert_eq!(spent(&village), (24 + 2) * 3 * MIB, "it is over");
    // One that is done, whose liar could not be found out: charged, and nobody is suspected for it.
    let mut village = first_order(&[2]);
    let before = spent(&village);
    let (second, name, helpers) = order(&village);
    village.carry_out();
    let suspects = village.report().suspects;
    let stranger = village.holder(1);
    say_again(&mut village, stranger, name, Failure::Wrong(None));
    say_again(&mut village, second, name, Failure::Refused);
    assert_eq!(spent(&village), before, "by somebody else; and nothing came out wrong");
    for _ in 0..2 {
        say_again(&mut village, second, name, Failure::Wrong(None));
        assert_eq!(spent(&village), before + 24 * 3 * MIB);
        assert_eq!(village.report().suspects, suspects);
    }
    say_again(&mut village, second, name, Failure::Wrong(Some(helpers[0])));
    assert_eq!(spent(&village), before + 24 * 3 * MIB);
    // It counts: what is left of the month is less by it.
    let steward = village.stewards.values().next().expect("seven");
    let mut copy = steward.groups[&group].clone();
    copy.record.mandate.monthly_bytes = 8 << 30;
    assert!(copy.affords(&PeerKey::from_bytes([1; 32]), 1));
    copy.record.mandate.monthly_bytes = before + 24 * 3 * MIB;
    assert!(!copy.affords(&PeerKey::from_bytes([1; 32]), 1));
}

/// Where all are needed nobody is looked for; and one new holder's searches are few in a month, whatever it says.
#[test]
fn a_new_holder_that_lies_uses_little_of_a_month_up() {
    const MIB: u64 = 1 << 20;
    let mut village = first_order(&[2, 4]);
    let group = village.ticket.id();
    let spent = |village: &Village| village.stewards.values().next().expect("seven").groups[&group].spent_bytes();
    let before = spent(&village);
    says(&mut village, Failure::Wrong(None));
    assert_eq!(spent(&village), before - 8 * 3 * MIB + 2 * 3 * MIB, "two stripes' first runs of eight");

    let mut village = first_order(&[2]);
    let Effect::Give { credentials, .. } = &village.given[0] else { panic!("only these") };
    let order = credentials.certificate.order.clone();
    let (to, voters): (_, Vec<PeerKey>) = (order.action.to().expect("one"), village.stewards.keys().copied().collect());
    let many: Vec<Certificate> = (0..9)
        .map(|nonce| village.certificate(&Order { nonce: [nonce; 16], ..order.clone() }, voters.iter().copied()))
        .collect();
    let (now, rhythm) = (village.now, Rhythm::default());
    let (silence, me) = (Silence { peers: &[], late_ms: 0, rhythm: &rhythm, now }, voters[0]);
    let steward = village.stewards.get_mut(&me).expect("there");
    let watched = steward.groups.get_mut(&group).expect("watched");
    watched.give_up(&order.id().expect("valid"), now, &rhythm);
    let mut charged = 0;
    for certificate in many {
        let name = certificate.order.id().expect("valid");
        assert!(watched.certified(certificate, voters[1], &|_| true, now));
        charged += u32::from(watched.charge_search(&to, &name, Failure::Wrong(None), now));
        assert!(watched.failed(&to, &name, Failure::Wrong(None), &silence, now));
    }
    assert_eq!(charged, 4);
    assert_eq!(watched.spent_bytes(), 4 * 26 * 3 * MIB);
    // The next month is another one.
    let later = now.plus_ms(31 * 24 * HOUR);
    watched.clear_up(&me, later, &rhythm);
    assert_eq!(watched.spent_bytes(), 0);
}

/// TRUST-1: a new holder that lies brings nobody out of standing, and is not believed when it names many.
#[test]
fn one_domains_word_costs_no_standing() {
    let mut village = first_order(&[2]);
    let (liar, name, helpers) = order(&village);
    says(&mut village, Failure::Wrong(Some(helpers[0])));
    // The same order once more, and another helper of it: it is over, so that is no word.
    say_again(&mut village, liar, name, Failure::Wrong(Some(helpers[1])));
    assert_eq!((suspicion(&village, &helpers[0]), suspicion(&village, &helpers[1])), (Some(1), None));
    for steward in village.stewards.values_mut() {
        assert_eq!(steward.newly_suspected(), [], "one domain's word");
    }
    // Another domain's, for another order: now it counts, once.
    until_given(&mut village);
    let (second, _, _) = order(&village);
    let (group, views, now) = (village.ticket.id(), village.views.clone(), village.now);
    for steward in village.stewards.values_mut() {
        steward.suspects.note(second, (group, [9; 32]), suspects::Accused::One(helpers[0]), now, &views);
        assert_eq!(steward.newly_suspected(), [helpers[0]]);
        assert_eq!(steward.newly_suspected(), []);
        // A liar goes on, with whom it will: from the third on none of its words counts, and it is left out itself.
        for (at, of) in (1u8..).zip(&helpers[1..3]) {
            steward.suspects.note(liar, (group, [at; 32]), suspects::Accused::One(*of), now, &views);
        }
        assert_eq!(steward.suspicion(&helpers[0]).map(|s| s.domains), Some(1), "the other's word");
        assert_eq!(steward.suspicion(&helpers[1]), None);
        assert!(steward.suspects.is_suspect(&liar) && !steward.suspects.is_suspect(&helpers[1]));
    }
}

#[test]
fn what_is_suspected_is_bounded_and_survives_a_restart() {
    let mut all = suspects::Suspects::default();
    let peer = |at: u32| {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&at.to_be_bytes());
        PeerKey::from_bytes(key)
    };
    let group = |at: u32| cairn_proto::GroupId::from_bytes(*peer(at).as_bytes());
    for at in 0..3000 {
        let now = Timestamp(u64::from(at));
        all.note(peer(at), (group(1), [1; 32]), suspects::Accused::One(peer(at + 1)), now, &[]);
        all.note(peer(5), (group(1), [2; 32]), suspects::Accused::One(peer(at)), now, &[]);
        let helpers = (0..5).map(|slot_at| (slot(slot_at), peer(at + u32::from(slot_at)))).collect();
        all.note(peer(at), (group(at), [1; 32]), suspects::Accused::Among(slot(2), helpers), now, &[]);
        let helpers = vec![(slot(1), peer(at))];
        all.note(peer(at), (group(3000), [1; 32]), suspects::Accused::Among(slot(2), helpers), now, &[]);
    }
    let bytes = all.encode();
    assert!(bytes.len() <= suspects::ENCODED_MAX, "{}", bytes.len());
    let again = suspects::Suspects::decode(&bytes).expect("its own");
    assert_eq!(again.encode(), bytes);
    assert!(again.is_suspect(&peer(2999)) && !again.is_suspect(&peer(100)), "the newest stay");
    for length in [0, 1, 40, bytes.len() - 1] {
        assert!(suspects::Suspects::decode(&bytes[..length]).is_err());
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(suspects::Suspects::decode(&longer).is_err());
    // A clock that was set back leaves nothing ahead; what is old is let go of.
    let mut all = again;
    all.lapse(Timestamp(1000), 500);
    assert!(all.is_suspect(&peer(2999)));
    all.lapse(Timestamp(1500), 500);
    assert!(all.all().is_empty() && all.take_changed());
}
