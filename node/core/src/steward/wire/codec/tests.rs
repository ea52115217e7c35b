//! Round trips, bounds and frozen bytes of everything that travels between stewards, holders and owners.

use std::fmt::Write as _;

use cairn_proto::{
    Action, Certificate, GroupRecord, Order, Ordinals, PeerKey, Slot, Taken, Timestamp, order::CHANGES_MAX,
    signed::SignedBytes, wire::FRAME_PASS_MAX,
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

mod drawn;

use self::drawn::*;
use super::*;
use crate::{
    part::{CREDENTIALS_MAX, PASS_MAX, Pass},
    steward::{
        log::What,
        message::{Failure, Past},
    },
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_what_is_read(request in request(), answer in answer(), entry in happening()) {
        prop_assert_eq!(Request::decode(&request.encode().expect("within bounds")), Ok(request.clone()));
        let bytes = answer.encode().expect("within bounds");
        let short = matches!(answer, Answer::Done | Answer::Refused(_));
        prop_assert!(!short || bytes.len() <= SHORT_ANSWER_MAX);
        prop_assert_eq!(Answer::decode(&bytes), Ok(answer));
        prop_assert!(entry.encode().len() <= Happening::ENCODED_MAX);
        prop_assert_eq!(Happening::decode(&entry.encode()), Ok(entry));
        if let Request::Give { credentials, .. } = request {
            let Credentials { mandate, changes, .. } = &*credentials;
            let pass = Pass::decode(&Pass::encode(mandate, changes).expect("within bounds")).expect("as sent");
            prop_assert_eq!((&pass.mandate, &pass.changes), (mandate, changes));
            prop_assert!(Pass::decode(&credentials.encode().expect("within bounds")).is_err(), "not one for the other");
        }
    }

    /// Whatever is read has no other bytes: what a digest or a cache says of it holds.
    #[test]
    fn a_changed_byte_is_refused_or_means_something_else(
        request in request(),
        answer in answer(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let flip = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        let (question, reply) = (request.encode().expect("valid"), answer.encode().expect("valid"));
        prop_assert!(Request::decode(&question[..cut.index(question.len())]).is_err());
        prop_assert!(Answer::decode(&reply[..cut.index(reply.len())]).is_err());
        let (question, reply) = (flip(question), flip(reply));
        if let Ok(read) = Request::decode(&question) {
            prop_assert_eq!(read.encode(), Ok(question));
        }
        if let Ok(read) = Answer::decode(&reply) {
            prop_assert_eq!(read.encode(), Ok(reply));
        }
    }
}

fn certificate_of(issued: u64, action: Action, votes: u8) -> Certificate {
    let (issued, expires) = (Timestamp(issued), Timestamp(issued + 1));
    let order = Order {
        group: ticket().id(),
        generation: 1,
        committee: [4; 32],
        nonce: [5; 16],
        issued,
        expires,
        urgent: false,
        action,
    };
    Certificate::new(order, (0..votes).map(|at| (PeerKey::from_bytes([at; 32]), [at; 64])))
}

fn sealed(at: u64) -> Vec<u8> {
    let holder = PeerKey::from_bytes(key().verifying_key().to_bytes());
    let (slot, at) = (Slot::new(1).expect("small"), Timestamp(at));
    let (group, ordinals) = (ticket().id(), Ordinals::from_iter([3]));
    Taken { order: [8; 32], group, slot, ordinals, previous: [0; 32], at, holder }.seal(&key())
}

#[test]
fn of_a_map_that_is_too_large_the_newest_entries_are_sent() {
    let all = Ordinals::from_iter(0..=255);
    let most = crate::steward::watched::ENTRIES_MAX as u64;
    // The largest that there are, newest in the middle.
    let age = |at: u64| (at + most / 2) % most;
    let entry = |at| (certificate_of(1 << 40 | age(at), rebuild(31, &[9; 31], all), 7), sealed(1));
    let entries: Vec<_> = (0..most).map(entry).collect();
    let map = GroupMap {
        mandate: mandate(),
        sheets: vec![1; 3],
        changes: Vec::new(),
        past: Vec::new(),
        entries,
        log: Vec::new(),
    };
    let bytes = Answer::Map(Box::new(map.clone())).encode().expect("as much as fits");
    assert!((MESSAGE_MAX - 4096..=MESSAGE_MAX).contains(&bytes.len()), "{} bytes", bytes.len());
    let Ok(Answer::Map(read)) = Answer::decode(&bytes) else { panic!("a map") };
    let oldest = read.entries.iter().map(|(certificate, _)| certificate.order.issued).min().expect("some");
    let newer: Vec<_> = map.entries.into_iter().filter(|(c, _)| c.order.issued >= oldest).collect();
    assert!(newer.len() > 1000);
    assert!(read.entries == newer, "all of the newest, in their order");
}

#[test]
fn bounds_are_those_of_the_largest_and_smallest_there_are() {
    let new = PeerKey::from_bytes([1; 32]);
    let mut change = certificate_of(u64::MAX - 1, Action::Replace { old: PeerKey::from_bytes([2; 32]), new }, 7);
    change.order.generation = u64::MAX;
    let mut longest = certificate_of(u64::MAX - 1, rebuild(31, &[9; 31], Ordinals::from_iter([1])), 7);
    longest.order.generation = u64::MAX;
    let full = Credentials { mandate: vec![1; MANDATE_MAX], changes: vec![change; CHANGES_MAX], certificate: longest };
    let bytes = full.encode().expect("within bounds");
    assert!(bytes.len() <= CREDENTIALS_MAX && Credentials::decode(&bytes) == Ok(full.clone()));
    let pass = Pass::encode(&full.mandate, &full.changes).expect("within bounds");
    assert!(pass.len() <= PASS_MAX && Pass::decode(&pass).is_ok());
    const { assert!(PASS_MAX < CREDENTIALS_MAX && CREDENTIALS_MAX <= FRAME_PASS_MAX, "one frame carries either") };
    let more = Credentials { changes: vec![full.changes[0].clone(); CHANGES_MAX + 1], ..full };
    assert!(more.encode().is_err());

    for at in [0, u64::MAX] {
        let entries = vec![(certificate_of(0, Action::Retire { old: new }, 0), sealed(at))];
        let say =
            Request::Say(Box::new(Say::Map { group: ticket().id(), changes: Vec::new(), past: Vec::new(), entries }));
        assert_eq!(Request::decode(&say.encode().expect("valid")), Ok(say), "the shortest and the longest entry");
    }
}

#[test]
fn lengths_and_counts_beyond_their_limits_take_no_memory() {
    // A map of as many entries as a number can say, and a record of as many bytes.
    for (kind, head) in [(7u8, 33usize), (8, 0)] {
        let mut bytes = vec![1, 1, kind];
        bytes.extend(std::iter::repeat_n(0, head));
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0x7f]);
        bytes.extend([0; 64]);
        assert!(Request::decode(&bytes).is_err(), "kind {kind}");
    }
    assert!(Request::decode(&vec![0; MESSAGE_MAX + 1]).is_err());
    assert!(Answer::decode(&vec![0; MESSAGE_MAX + 1]).is_err());
}

#[test]
fn the_bytes_are_frozen() {
    let peer = PeerKey::from_bytes([2; 32]);
    let copy = Action::Copy {
        slot: Slot::new(1).expect("small"),
        from: PeerKey::from_bytes([1; 32]),
        to: peer,
        ordinals: Ordinals::from_iter([3]),
    };
    let (order, change) = (certificate_of(20, copy, 2), certificate_of(15, Action::Enlist { new: peer }, 1));
    let (group, name) = (ticket().id(), order.order.id().expect("valid"));
    let entries = vec![(order.clone(), sealed(30))];
    let past = vec![Past { mandate: vec![1, 2], changes: vec![change.clone()] }];
    let say = [
        Say::Propose { order: order.order.clone(), vote: [4; 64] },
        Say::Vote { group, order: name, vote: [4; 64] },
        Say::Certified { certificate: order.clone() },
        Say::Taken { certificate: order.clone(), sealed: sealed(30) },
        Say::Failed { group, order: name, failure: Failure::Wrong(Some(peer)) },
        Say::Compare { group, generation: 300, digest: [6; 32] },
        Say::Map { group, changes: vec![change.clone()], past: past.clone(), entries: entries.clone() },
        Say::Record {
            record: Box::new(record()),
            changes: vec![change.clone()],
            past: past.clone(),
            entries: entries.clone(),
        },
        Say::Tokens { group, own: Some(vec![7; 5]), spare: None },
    ];
    let credentials = Credentials { mandate: mandate(), changes: vec![change.clone()], certificate: order };
    let pass = Pass::encode(&mandate(), std::slice::from_ref(&change)).expect("valid");
    let others = [
        Request::Give { credentials: Box::new(credentials), sheet: vec![1, 2], previous: [9; 32] },
        Request::Register { record: vec![1, 2, 3] },
        Request::Ask { ticket: ticket(), grant: vec![4; 5] },
    ];
    let (slot, ordinals) = (Slot::new(1).expect("small"), Ordinals::from_iter([3]));
    let until = Timestamp(300);
    let duty =
        Duty { ticket: ticket(), sheet: vec![1, 2], holder: peer, ordinals, auditors: 7, until, words: Vec::new() };
    let findings = Findings {
        group,
        slot,
        holder: peer,
        good: 300,
        silent: 1,
        missing: ordinals,
        shown: Ordinals::from_iter([4]),
        proof: Some(vec![5; 3]),
    };
    let challenge = SignedBytes { body: vec![1; 4], signer: vec![2; 32], signature: vec![3; 64] };
    let care = [
        Request::Duty(Box::new(Duty { words: vec![sealed(9), vec![4; 2]], ..duty.clone() })),
        Request::Duty(Box::new(duty)),
        Request::Findings(Box::new(findings)),
        Request::Challenge(Box::new(Questioned { ticket: ticket(), grant: Some(vec![4; 5]), challenge })),
        Request::Notice(Notice::Lost { group, slot, ordinals }),
        Request::Notice(Notice::Leaving { at: until, groups: vec![group] }),
        Request::Notice(Notice::Staying),
    ];
    let what = [
        What::Adopted { generation: 300 },
        What::Lacks { slot: 1, holder: peer, shards: 256 },
        What::Ordered { order: name, slot: 1, to: peer, rebuild: true, shards: 1 },
        What::Repaired { order: name, slot: 1, holder: peer, shards: 1 },
        What::Failed { order: name, why: Some(Failure::Missing(peer)) },
        What::Failed { order: name, why: Some(Failure::Refused) },
        What::Failed { order: name, why: None },
        What::Stewards { old: None, new: Some(peer) },
        What::NoPeer { slot: 2 },
        What::MapFull,
        What::NotShown { slot: 1, holder: peer, shards: 2 },
    ];
    let log = what.map(|what| Happening { at: Timestamp(1000), what }).to_vec();
    let map = GroupMap { mandate: mandate(), sheets: vec![1, 2, 300], changes: vec![change], past, entries, log };
    let mut text = String::new();
    let mut line = |name: &str, bytes: &[u8]| {
        write!(text, "{name} ").expect("to memory");
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("to memory"));
        text.push('\n');
    };
    for request in say.map(|say| Request::Say(Box::new(say))).iter().chain(&others).chain(&care) {
        line("request", &request.encode().expect("valid"));
    }
    line("pass", &pass);
    let refusals = Refusal::ALL.map(Answer::Refused);
    let of_care = [Answer::Audit(vec![6; 4]), Answer::Kept(vec![Kept::Unknown, Kept::Needed, Kept::Elsewhere])];
    for answer in [Answer::Done, Answer::Map(Box::new(map))].iter().chain(&refusals).chain(&of_care) {
        line("answer", &answer.encode().expect("valid"));
    }
    crate::golden::check("steward-wire.txt", &text);
}
