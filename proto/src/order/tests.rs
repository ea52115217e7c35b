use proptest::{collection::vec, prelude::*};

use super::*;
use crate::mandate::{
    Mandate,
    tests::{authority, key_of, mandate, steward, ticket},
};

const NOW: Timestamp = Timestamp(2_000_000);

fn peer(at: u8) -> PeerKey {
    PeerKey::from_bytes([at; 32])
}

fn slot(at: u8) -> Slot {
    Slot::new(at).expect("valid")
}

fn order_of(committee: &Committee, action: Action) -> Order {
    let (group, committee) = (ticket().id(), *committee.id());
    Order {
        group,
        generation: 3,
        committee,
        nonce: [4; 16],
        issued: NOW,
        expires: NOW.plus_ms(60_000),
        urgent: false,
        action,
    }
}

fn order(action: Action) -> Order {
    order_of(&Committee::of(&mandate(7)), action)
}

fn copy() -> Order {
    let ordinals = [0, 1, 255].into_iter().collect();
    order(Action::Copy { slot: slot(2), from: peer(1), to: peer(2), ordinals })
}

fn rebuild() -> Order {
    let helpers = [0, 1, 4].map(|at| (slot(at), peer(at + 10))).to_vec();
    order(Action::Rebuild { slot: slot(3), to: peer(2), ordinals: [7].into_iter().collect(), helpers })
}

fn certificate(order: &Order, voters: impl IntoIterator<Item = u8>) -> Certificate {
    let vote = |at| (key_of(&steward(at)), order.sign(&steward(at)).expect("valid"));
    Certificate::new(order.clone(), voters.into_iter().map(vote))
}

#[test]
fn a_quorum_makes_an_order_good_and_nothing_less_does() {
    let committee = Committee::of(&mandate(7));
    for order in [copy(), rebuild(), order(Action::Replace { old: key_of(&steward(0)), new: peer(7) })] {
        let enough = if order.action.slot().is_some() { 5 } else { 4 };
        let good = certificate(&order, 0..enough);
        let bytes = good.encode().expect("valid");
        assert!(bytes.len() <= CERTIFICATE_MAX);
        assert_eq!(Certificate::decode(&bytes), Ok(good.clone()));
        assert_eq!(good.check(&committee), Ok(()));
        assert!(certificate(&order, 0..enough - 1).check(&committee).is_err(), "one too few");
        assert!(certificate(&order, (0..enough - 1).chain([7])).check(&committee).is_err(), "a stranger among them");
        let vote = |at| (key_of(&steward(at)), order.sign(&steward(at)).expect("valid"));
        let twice = Certificate::new(order.clone(), (0..enough - 1).chain([0]).map(vote));
        assert!(twice.check(&committee).is_err(), "one of them twice");
        let mut other = good.clone();
        other.order.nonce[0] ^= 1;
        assert!(other.check(&committee).is_err(), "signatures of another order");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Certificate::decode(&bad).map_or(true, |read| read.check(&committee).is_err()), "byte {at}");
        }
        assert!(
            good.stands_at(NOW)
                && !good.stands_at(order.expires)
                && !good.stands_at(Timestamp(NOW.0 - 1 - SKEW_MS))
                && good.stands_at(Timestamp(NOW.0 - SKEW_MS))
        );
    }
}

#[test]
fn an_order_beyond_its_mandate_is_refused() {
    let refused = |order: Order, committee: &Committee| {
        assert!(certificate(&order, 0..7).check(committee).is_err(), "{order:?}");
    };
    let all = Committee::of(&mandate(7));
    refused(Order { group: GroupId::from_bytes([1; 32]), ..copy() }, &all);
    refused(Order { generation: 2, ..copy() }, &all);
    let before = Timestamp(mandate(7).issued.0 - 1);
    refused(Order { issued: before, expires: NOW, ..copy() }, &all);
    let end = mandate(7).ends;
    refused(Order { issued: Timestamp(end.0 - 1), expires: end.plus_ms(1), ..copy() }, &all);
    let no_copies = Committee::of(&Mandate { powers: Powers::REBUILD.with(Powers::REPLACE), ..mandate(7) });
    refused(copy(), &no_copies);
    assert_eq!(certificate(&rebuild(), 0..7).check(&no_copies), Ok(()));
    let ordinals = Ordinals::from_iter([1]);
    refused(order(Action::Copy { slot: slot(5), from: peer(1), to: peer(2), ordinals }), &all);
    let helpers = [0, 1, 2, 5].map(|at| (slot(at), peer(at + 10))).to_vec();
    refused(order(Action::Rebuild { slot: slot(3), to: peer(2), ordinals, helpers }), &all);
    // More than a rebuild takes: they are there to find a liar.
    let helpers = [0, 1, 2, 4].map(|at| (slot(at), peer(at + 10))).to_vec();
    let more = order(Action::Rebuild { slot: slot(3), to: peer(2), ordinals, helpers });
    assert_eq!(certificate(&more, 0..5).check(&all), Ok(()));
}

#[test]
fn nobody_has_two_parts_in_an_order() {
    let ordinals = Ordinals::from_iter([1]);
    let bad = |action| assert!(order(action).encode().is_err());
    bad(Action::Copy { slot: slot(0), from: peer(1), to: peer(1), ordinals });
    bad(Action::Copy { slot: slot(0), from: peer(1), to: peer(2), ordinals: Ordinals::default() });
    let rebuild = |helpers: &[(u8, u8)]| {
        let helpers = helpers.iter().map(|(at, who)| (slot(*at), peer(*who))).collect();
        Action::Rebuild { slot: slot(3), to: peer(2), ordinals, helpers }
    };
    bad(rebuild(&[]));
    bad(rebuild(&[(0, 10), (1, 10)]));
    bad(rebuild(&[(0, 10), (0, 11)]));
    bad(rebuild(&[(0, 10), (1, 2)]));
    bad(rebuild(&[(0, 10), (3, 11)]));
    bad(Action::Replace { old: peer(1), new: peer(1) });
    let long = Order { expires: NOW.plus_ms(ORDER_MS_MAX + 1), ..copy() };
    assert!(long.encode().is_err());
}

#[test]
fn how_urgent_an_order_is_only_its_signers_say() {
    let committee = Committee::of(&mandate(7));
    for calm in [copy(), rebuild()] {
        let urgent = Order { urgent: true, ..calm.clone() };
        let bytes = urgent.encode().expect("valid");
        assert_eq!(Order::decode(&bytes), Ok(urgent.clone()));
        assert!(!Order::decode(&calm.encode().expect("valid")).expect("valid").urgent, "as it always was");
        assert_eq!(certificate(&urgent, 0..5).check(&committee), Ok(()));
        let mut raised = certificate(&calm, 0..7);
        raised.order.urgent = true;
        assert!(raised.check(&committee).is_err(), "nobody signed that");
        let mut lowered = certificate(&urgent, 0..7);
        lowered.order.urgent = false;
        assert!(lowered.check(&committee).is_err());
    }
    let replaced = order(Action::Replace { old: key_of(&steward(0)), new: peer(7) });
    assert!(Order { urgent: true, ..replaced }.encode().is_err(), "no shard moves");
}

/// Has it changed by those signers, with an order of its own.
fn changed(committee: &mut Committee, action: Action, signers: &[u8]) -> Result<(), DecodeError> {
    committee.change(&certificate(&order_of(committee, action), signers.iter().copied()))
}

fn replace(old: u8, new: u8) -> Action {
    Action::Replace { old: key_of(&steward(old)), new: key_of(&steward(new)) }
}

#[test]
fn stewards_are_replaced_by_those_who_are_there() {
    let mut committee = Committee::of(&mandate(7));
    changed(&mut committee, replace(0, 10), &[1, 2, 3, 4, 5]).expect("five of seven");
    assert!(
        committee.stewards().contains(&key_of(&steward(10))) && !committee.stewards().contains(&key_of(&steward(0)))
    );
    assert!(changed(&mut committee, replace(1, 11), &[0, 2, 3, 4]).is_err() && committee.changes() == 1, "no vote");
    assert!(changed(&mut committee, replace(1, 2), &[2, 3, 4, 5, 6]).is_err(), "is one already");
    changed(&mut committee, replace(1, 11), &[10, 2, 3, 4, 5]).expect("the new one has");
    assert!(changed(&mut committee, copy().action, &[2, 3, 4, 5, 6]).is_err(), "no replacement");
    for at in 0..CHANGES_MAX {
        let (old, new) = if at % 2 == 0 { (11, 12) } else { (12, 11) };
        let done = changed(&mut committee, replace(old, new), &[10, 2, 3, 4, 5]);
        assert_eq!(done.is_ok(), at + 2 < CHANGES_MAX, "{at}");
        if done.is_err() {
            break;
        }
    }
    assert_eq!(committee.stewards().len(), 7);
}

/// Those who are left change a committee too, and it can be seen that they were few.
#[test]
fn a_succession_is_what_fewer_than_half_signed_and_all_of_them_did() {
    let committee = Committee::of(&mandate(7));
    let signed = |action: Action, by: &[u8]| certificate(&order_of(&committee, action), by.iter().copied());
    let retire = Action::Retire { old: key_of(&steward(0)) };
    for (action, stewards) in [(replace(0, 10), 7), (retire, 6)] {
        for by in 1..=7u8 {
            let change = signed(action.clone(), &(0..by).collect::<Vec<_>>());
            assert_eq!(committee.is_succession(&change), by < 4, "{by}");
            assert_eq!(committee.unsigned(&change).count(), 7 - usize::from(by));
            assert_eq!(committee.clone().change(&change).is_ok(), by >= 4, "{by}");
            let mut after = committee.clone();
            after.succeed(&change).expect("all signed");
            assert_eq!((after.stewards().len(), after.changes()), (stewards, 1));
        }
    }
    let few = signed(replace(0, 10), &[1, 2]);
    let refused = |change: &Certificate| committee.clone().succeed(change).is_err();
    assert!(refused(&Certificate::new(few.order.clone(), [])), "nobody's");
    assert!(refused(&few.clone().with_vote(key_of(&steward(3)), [7; 64])), "one of the signatures is none");
    let padded = few.clone().with_vote(key_of(&steward(3)), [7; 64]).with_vote(key_of(&steward(4)), [7; 64]);
    assert!(!committee.is_succession(&padded) && refused(&padded), "nor does it pass for one of half");
    assert!(refused(&signed(replace(0, 10), &[1, 20])), "a stranger's");
    let enlist = Action::Enlist { new: key_of(&steward(10)) };
    let none = Committee::of(&mandate(5));
    let enlisting = certificate(&order_of(&none, enlist), [0, 1]);
    assert!(!none.is_succession(&enlisting) && none.clone().succeed(&enlisting).is_err(), "nobody goes");
    let shards = signed(copy().action, &[1, 2]);
    assert!(!committee.is_succession(&shards) && refused(&shards) && shards.check(&committee).is_err());
    // Whoever signs later makes it a change of half.
    let order = few.order.clone();
    let vote = |at: u8| (key_of(&steward(at)), order.sign(&steward(at)).expect("valid"));
    let later = [3, 4].into_iter().map(vote).fold(few, |change, (peer, vote)| change.with_vote(peer, vote));
    assert!(!committee.is_succession(&later) && committee.clone().change(&later).is_ok());
    assert_eq!(later.signers().count(), 4);
}

/// Whoever collects signatures and keeps the certificate back has nothing once the committee changed, and nothing twice.
#[test]
fn a_certificate_is_good_for_the_committee_that_signed_it_and_no_other() {
    let first = Committee::of(&mandate(7));
    let kept = certificate(&order_of(&first, replace(3, 20)), 0..7);
    let shards = certificate(&copy(), 0..7);
    let mut now = first.clone();
    changed(&mut now, replace(0, 10), &[1, 2, 3, 4]).expect("four of seven");
    assert_ne!(now.id(), first.id());
    assert!(now.clone().change(&kept).is_err() && first.clone().change(&kept).is_ok());
    assert!(shards.check(&now).is_err() && shards.check(&first).is_ok());
    // There and back is not the same again, or old certificates would hold again.
    let there = first.clone();
    let mut back = there;
    changed(&mut back, replace(0, 10), &[1, 2, 3, 4]).expect("four");
    changed(&mut back, replace(10, 0), &[1, 2, 3, 4]).expect("four");
    assert_eq!(back.stewards(), first.stewards());
    assert!(shards.check(&back).is_err());
    let id = now.id_after(&kept.order.id().expect("valid"));
    assert_ne!(id, first.id_after(&kept.order.id().expect("valid")), "a chain");
}

#[test]
fn stewards_that_nobody_can_replace_retire_one_by_one_and_others_enlist() {
    let mut committee = Committee::of(&mandate(5));
    let retire = |old: u8| Action::Retire { old: key_of(&steward(old)) };
    let enlist = |new: u8| Action::Enlist { new: key_of(&steward(new)) };
    assert!(changed(&mut committee, retire(0), &[1, 2]).is_err(), "two of five");
    changed(&mut committee, retire(0), &[2, 3, 4]).expect("three of five, though two are lost");
    assert!(changed(&mut committee, retire(0), &[2, 3, 4]).is_err(), "is none any more");
    changed(&mut committee, retire(1), &[2, 3, 4]).expect("three of four");
    changed(&mut committee, retire(2), &[3, 4]).expect("two of three");
    changed(&mut committee, retire(3), &[4]).expect("one of two");
    assert!(changed(&mut committee, retire(4), &[4]).is_err(), "the last one stays");
    assert_eq!((committee.stewards().len(), committee.quorum()), (1, 1));
    for new in 10..16 {
        let signers: Vec<u8> = [4].into_iter().chain(10..new).collect();
        changed(&mut committee, enlist(new), &signers).expect("all of them");
    }
    assert!(changed(&mut committee, enlist(16), &[4, 10, 11, 12, 13, 14, 15]).is_err(), "an eighth");
    assert_eq!((committee.stewards().len(), committee.quorum()), (7, 5));
}

#[test]
fn a_holders_word_is_bound_to_holder_and_content() {
    let holder = steward(50);
    let taken = Taken {
        order: [1; 32],
        group: ticket().id(),
        slot: slot(2),
        ordinals: [3, 4].into_iter().collect(),
        previous: [0; 32],
        at: NOW,
        holder: key_of(&holder),
    };
    let sealed = taken.seal(&holder);
    assert_eq!(Taken::open(&sealed), Ok(taken.clone()));
    assert!(Taken::open(&taken.seal(&authority())).is_err(), "signed by another");
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(Taken::open(&bad).is_err(), "byte {at}");
    }
}

#[test]
fn sets_of_stripes() {
    let (a, b): (Ordinals, Ordinals) = ([0, 7, 8, 255].into_iter().collect(), [7, 9].into_iter().collect());
    assert_eq!(a.iter().collect::<Vec<_>>(), [0, 7, 8, 255]);
    assert_eq!((a.len(), a.and(&b).len(), a.or(&b).len(), a.without(&b).len()), (4, 1, 5, 3));
    assert_eq!((a.first(2).iter().collect::<Vec<_>>(), a.first(9)), (vec![0, 7], a));
    assert!(!a.is_empty() && Ordinals::default().is_empty() && !a.contains(9));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Taken::open(&bytes);
        if let Ok(order) = Order::decode(&bytes) {
            prop_assert_eq!(order.encode(), Ok(bytes.clone()));
        }
        if let Ok(certificate) = Certificate::decode(&bytes) {
            prop_assert_eq!(certificate.encode(), Ok(bytes));
        }
    }

    #[test]
    fn a_changed_order_is_another_or_none(at: prop::sample::Index, bit in 0..8u8) {
        let mut bytes = rebuild().encode().expect("valid");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Order::decode(&bytes) {
            prop_assert_ne!(other.id(), rebuild().id());
            prop_assert_eq!(other.encode(), Ok(bytes));
        }
    }
}
