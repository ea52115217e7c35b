//! Maps that are true, and all ways to lie in one.

use cairn_proto::{
    Action, CodeParams, Order, Powers,
    mandate::{MANDATE_MS_MAX, quorum},
};
use ed25519_dalek::SigningKey;

use super::*;
use crate::steward::{log::What, message::Past};

const HOUR: u64 = 3_600_000;
const BEGIN: u64 = 1_000 * HOUR;

fn key(at: u8) -> SigningKey {
    SigningKey::from_bytes(&[at; 32])
}

fn peer(at: u8) -> PeerKey {
    PeerKey::from_bytes(key(at).verifying_key().to_bytes())
}

fn ticket_of(authority: &SigningKey) -> GroupTicket {
    GroupTicket::new(authority.verifying_key().to_bytes(), [5; 32], CodeParams::DEFAULT, 9).expect("valid")
}

fn ticket() -> GroupTicket {
    ticket_of(&key(200))
}

fn slot(at: u8) -> Slot {
    Slot::new(at).expect("valid")
}

/// Stewards 1..=7, by this authority.
fn mandate(authority: &SigningKey, generation: u64) -> Vec<u8> {
    let mandate = Mandate {
        ticket: ticket_of(authority),
        generation,
        stewards: (1..=7).map(peer).collect(),
        replicas: 1,
        powers: Powers::ALL,
        monthly_bytes: 1 << 33,
        issued: Timestamp(BEGIN),
        ends: Timestamp(BEGIN).plus_ms(MANDATE_MS_MAX),
    };
    mandate.seal(authority).expect("valid")
}

fn order(action: Action, hour: u64) -> Order {
    let issued = Timestamp(BEGIN + hour * HOUR);
    Order {
        group: ticket().id(),
        generation: 1,
        committee: *Committee::of(&Mandate::open(&mandate(&key(200), 1)).expect("valid")).id(),
        nonce: [hour as u8; 16],
        issued,
        expires: issued.plus_ms(6 * HOUR),
        urgent: false,
        action,
    }
}

fn signed(order: Order, by: impl IntoIterator<Item = u8>) -> Certificate {
    let votes: Vec<_> = by.into_iter().map(|at| (peer(at), order.sign(&key(at)).expect("valid"))).collect();
    Certificate::new(order, votes)
}

fn copy_to(to: u8, hour: u64) -> Order {
    order(Action::Copy { slot: slot(3), from: peer(50), to: peer(to), ordinals: [1, 2, 9].into_iter().collect() }, hour)
}

fn taken(certificate: &Certificate, change: impl FnOnce(&mut Taken), signer: u8) -> Vec<u8> {
    let mut taken = Taken {
        order: certificate.order.id().expect("valid"),
        group: certificate.order.group,
        slot: slot(3),
        ordinals: [1, 9].into_iter().collect(),
        previous: [0; 32],
        at: certificate.order.issued.plus_ms(HOUR),
        holder: certificate.order.action.to().expect("a new holder"),
    };
    change(&mut taken);
    taken.seal(&key(signer))
}

/// A repair to peer 60 by stewards 1..=5.
fn repair() -> (Certificate, Vec<u8>) {
    let certificate = signed(copy_to(60, 10), 1..=5);
    let sealed = taken(&certificate, |_| {}, 60);
    (certificate, sealed)
}

fn map(entries: Vec<(Certificate, Vec<u8>)>) -> GroupMap {
    GroupMap {
        mandate: mandate(&key(200), 1),
        sheets: vec![1; 8],
        changes: Vec::new(),
        past: Vec::new(),
        entries,
        log: Vec::new(),
    }
}

fn arrived(map: &GroupMap) -> Vec<PeerKey> {
    let history = History::check(map, &ticket()).expect("a map");
    history.arrivals.iter().map(|arrival| arrival.holder).collect()
}

#[test]
fn what_a_quorum_ordered_and_the_holder_took_is_believed() {
    let mut honest = map(vec![repair(), repair()]);
    honest.log.push(Happening { at: Timestamp(1), what: What::NoPeer { slot: 1 } });
    let history = History::check(&honest, &ticket()).expect("a map");
    let [arrival] = &history.arrivals[..] else { panic!("one arrival: {:?}", history.arrivals) };
    assert_eq!((arrival.slot, arrival.holder), (slot(3), peer(60)));
    assert_eq!(arrival.ordinals, [1, 9].into_iter().collect(), "what it took, not what was ordered");
    assert_eq!((history.unfounded, history.log.len(), history.stewards.len()), (0, 1, 7));
}

#[test]
fn nothing_less_adds_anybody() {
    let (certificate, sealed) = repair();
    assert_eq!(quorum(7), 5);
    let few = signed(copy_to(60, 10), 1..=4);
    let strangers = signed(copy_to(60, 10), [1, 2, 3, 4, 8, 9]);
    let mut elsewhere = copy_to(60, 10);
    elsewhere.group = ticket_of(&key(201)).id();
    let elsewhere = signed(elsewhere, 1..=7);
    let lies = [
        (few.clone(), taken(&few, |_| {}, 60)),
        (strangers.clone(), taken(&strangers, |_| {}, 60)),
        (elsewhere.clone(), taken(&elsewhere, |_| {}, 60)),
        (elsewhere.clone(), taken(&elsewhere, |taken| taken.group = ticket().id(), 60)),
        // The holder's word: signed by another, of another, of another slot, of what was not ordered, of nothing.
        (certificate.clone(), taken(&certificate, |_| {}, 61)),
        (certificate.clone(), taken(&certificate, |taken| taken.holder = peer(61), 61)),
        (certificate.clone(), taken(&certificate, |taken| taken.slot = slot(4), 60)),
        (certificate.clone(), taken(&certificate, |taken| taken.ordinals.insert(3), 60)),
        (certificate.clone(), taken(&certificate, |taken| taken.ordinals = Ordinals::default(), 60)),
        (certificate.clone(), taken(&certificate, |taken| taken.order = [0; 32], 60)),
        (certificate, sealed[1..].to_vec()),
        // An order that gives nobody shards.
        (signed(order(Action::Retire { old: peer(7) }, 10), 1..=7), sealed),
    ];
    for (at, lie) in lies.iter().enumerate() {
        let history = History::check(&map(vec![lie.clone()]), &ticket()).expect("a map");
        assert!(history.arrivals.is_empty() && history.unfounded == 1, "lie {at}: {history:?}");
    }
    assert_eq!(arrived(&map(lies.into_iter().chain([repair()]).collect())), [peer(60)], "a true one among them");
}

#[test]
fn a_map_of_another_owner_or_group_is_none() {
    let mut other = map(vec![repair()]);
    other.mandate = mandate(&key(201), 1);
    assert!(History::check(&other, &ticket()).is_err(), "another authority's ticket");
    let mut forged = map(vec![repair()]);
    let last = forged.mandate.len() - 1;
    forged.mandate[last] ^= 1;
    assert!(History::check(&forged, &ticket()).is_err());
    let mut long = map(Vec::new());
    long.log = vec![Happening { at: Timestamp(1), what: What::NoPeer { slot: 1 } }; LOG_MAX + 1];
    assert!(History::check(&long, &ticket()).is_err());
}

#[test]
fn stewards_that_came_later_count_once_their_coming_is_proved() {
    let replaces = signed(order(Action::Replace { old: peer(1), new: peer(8) }, 5), 2..=6);
    let mut committee = Committee::of(&Mandate::open(&mandate(&key(200), 1)).expect("valid"));
    committee.change(&replaces).expect("holds");
    let later = signed(Order { committee: *committee.id(), ..copy_to(60, 10) }, [2, 3, 4, 5, 8]);
    let entry = (later.clone(), taken(&later, |_| {}, 60));
    let mut known = map(vec![entry]);
    assert!(arrived(&known).is_empty(), "8 is nobody yet");
    known.changes = vec![replaces.clone()];
    assert_eq!(arrived(&known), [peer(60)]);
    // What the first ones ordered before stands.
    known.entries.push({
        let certificate = signed(copy_to(61, 2), 1..=5);
        (certificate.clone(), taken(&certificate, |_| {}, 61))
    });
    assert_eq!(arrived(&known), [peer(61), peer(60)], "by time");
    let nobodys = Certificate::new(replaces.order.clone(), [(peer(2), [7; 64])]);
    known.changes = vec![nobodys];
    assert!(History::check(&known, &ticket()).is_err(), "a change that nobody signed");
    // The owner was away and cannot tell who was left: what such a steward says of shards is looked at.
    known.changes = vec![signed(replaces.order, [2, 3])];
    assert!(History::check(&known, &ticket()).is_ok_and(|history| history.stewards.contains(&peer(8))));
}

#[test]
fn entries_from_under_an_older_mandate_count_when_that_is_shown() {
    let mut renewed = map(vec![repair()]);
    renewed.mandate = mandate(&key(200), 2);
    let history = History::check(&renewed, &ticket()).expect("a map");
    assert_eq!((history.arrivals.len(), history.unfounded), (0, 0));
    renewed.past = vec![Past { mandate: mandate(&key(200), 1), changes: Vec::new() }];
    assert_eq!(arrived(&renewed), [peer(60)]);
    renewed.past[0].mandate = mandate(&key(201), 1);
    assert!(History::check(&renewed, &ticket()).is_err(), "another owner's");
}

#[test]
fn a_liar_does_not_keep_us_checking() {
    let few = signed(copy_to(60, 10), 1..=4);
    let lie = (few.clone(), taken(&few, |_| {}, 60));
    let entries: Vec<_> = std::iter::repeat_n(lie, FALSE_MAX).chain([repair()]).collect();
    let history = History::check(&map(entries), &ticket()).expect("a map");
    assert_eq!((history.arrivals.len(), history.unfounded), (0, FALSE_MAX), "the rest is not looked at");
}
