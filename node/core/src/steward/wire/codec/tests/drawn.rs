//! Whatever may be said, drawn at random: what the round trips are tried with.

use cairn_proto::{CodeParams, GroupId, Mandate, Powers, SlotSheet, order::ORDER_MS_MAX, signed::SignedBytes};
use proptest::{
    collection::{btree_set, vec},
    option,
    sample::select,
};

use super::*;
use crate::steward::{
    log::What,
    message::{Failure, Past},
};

pub(super) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(super) fn ticket() -> GroupTicket {
    let code = CodeParams::new(2, 1).expect("valid");
    GroupTicket::new(key().verifying_key().to_bytes(), [3; 32], code, 4).expect("valid")
}

pub(super) fn mandate() -> Vec<u8> {
    let mandate = Mandate {
        ticket: ticket(),
        generation: 1,
        stewards: vec![PeerKey::from_bytes([1; 32])],
        replicas: 1,
        powers: Powers::ALL,
        monthly_bytes: 1 << 30,
        issued: Timestamp(10),
        ends: Timestamp(1_000_000),
    };
    mandate.seal(&key()).expect("valid")
}

pub(super) fn record() -> GroupRecord {
    let sheet = |at| {
        let slot = Slot::new(at).expect("small");
        SlotSheet { group: ticket().id(), slot, generation: 1, holders: Vec::new(), rows: Vec::new(), leans: false }
    };
    let sheets = (0..3).map(|at| sheet(at).seal(&key()).expect("valid")).collect();
    GroupRecord::new(mandate(), sheets).expect("whole")
}

pub(super) fn peer() -> impl Strategy<Value = PeerKey> {
    any::<[u8; 32]>().prop_map(PeerKey::from_bytes)
}

pub(super) fn slot() -> impl Strategy<Value = Slot> {
    (0..SLOTS_MAX).prop_map(|at| Slot::new(at).expect("in range"))
}

pub(super) fn ordinals() -> impl Strategy<Value = Ordinals> {
    vec(any::<u8>(), 1..9).prop_map(Ordinals::from_iter)
}

pub(super) fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (slot(), peer(), peer(), ordinals()).prop_map(|(slot, from, to, ordinals)| Action::Copy {
            slot,
            from,
            to,
            ordinals
        }),
        (1..SLOTS_MAX, any::<[u8; 31]>(), ordinals())
            .prop_map(|(helpers, salt, ordinals)| rebuild(helpers, &salt, ordinals)),
        (peer(), peer()).prop_map(|(old, new)| Action::Replace { old, new }),
        peer().prop_map(|old| Action::Retire { old }),
        peer().prop_map(|new| Action::Enlist { new }),
    ]
}

/// Of the last slot by so many of the others.
pub(super) fn rebuild(helpers: u8, salt: &[u8; 31], ordinals: Ordinals) -> Action {
    let peer = |at: u8| {
        let mut key = [at; 32];
        key[1..].copy_from_slice(salt);
        PeerKey::from_bytes(key)
    };
    let slot = |at| Slot::new(at).expect("in range");
    let helpers = (0..helpers).map(|at| (slot(at), peer(at))).collect();
    Action::Rebuild { slot: slot(SLOTS_MAX - 1), to: peer(255), ordinals, helpers }
}

pub(super) fn an_order() -> impl Strategy<Value = Order> {
    let times = (0..1u64 << 50, 1..ORDER_MS_MAX);
    let fields = (any::<[u8; 32]>(), any::<u64>(), any::<([u8; 32], [u8; 16])>(), times, action());
    let order = fields.prop_map(|(group, generation, (committee, nonce), (issued, length), action)| Order {
        group: GroupId::from_bytes(group),
        generation,
        committee,
        nonce,
        issued: Timestamp(issued),
        expires: Timestamp(issued + length),
        urgent: false,
        action,
    });
    order.prop_filter("valid", |order| order.encode().is_ok())
}

pub(super) fn signature() -> impl Strategy<Value = [u8; 64]> {
    any::<([u8; 32], [u8; 32])>().prop_map(|(a, b)| {
        let mut both = [0; 64];
        both[..32].copy_from_slice(&a);
        both[32..].copy_from_slice(&b);
        both
    })
}

pub(super) fn certificate() -> impl Strategy<Value = Certificate> {
    (an_order(), vec((peer(), signature()), 0..8)).prop_map(|(order, votes)| Certificate::new(order, votes))
}

pub(super) fn change() -> impl Strategy<Value = Certificate> {
    certificate().prop_map(|mut change| {
        change.order.action =
            Action::Enlist { new: PeerKey::from_bytes(change.order.nonce.repeat(2).try_into().expect("32")) };
        change
    })
}

pub(super) fn past() -> impl Strategy<Value = Vec<Past>> {
    let one = (vec(any::<u8>(), 0..MANDATE_MAX), vec(change(), 0..3));
    vec(one.prop_map(|(mandate, changes)| Past { mandate, changes }), 0..3)
}

pub(super) fn entries() -> impl Strategy<Value = Vec<(Certificate, Vec<u8>)>> {
    vec((certificate(), vec(any::<u8>(), 227..=236)), 0..4)
}

pub(super) fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![Just(Failure::Refused), peer().prop_map(Failure::Missing), option::of(peer()).prop_map(Failure::Wrong),]
}

pub(super) fn say() -> impl Strategy<Value = Say> {
    let group = || any::<[u8; 32]>().prop_map(GroupId::from_bytes);
    prop_oneof![
        (an_order(), signature()).prop_map(|(order, vote)| Say::Propose { order, vote }),
        (group(), any::<[u8; 32]>(), signature()).prop_map(|(group, order, vote)| Say::Vote { group, order, vote }),
        certificate().prop_map(|certificate| Say::Certified { certificate }),
        (certificate(), vec(any::<u8>(), 227..=236))
            .prop_map(|(certificate, sealed)| Say::Taken { certificate, sealed }),
        (group(), any::<[u8; 32]>(), failure()).prop_map(|(group, order, failure)| Say::Failed {
            group,
            order,
            failure
        }),
        (group(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(group, generation, digest)| Say::Compare {
            group,
            generation,
            digest
        }),
        (group(), vec(change(), 0..4), past(), entries()).prop_map(|(group, changes, past, entries)| Say::Map {
            group,
            changes,
            past,
            entries
        }),
        (group(), option::of(vec(any::<u8>(), 0..600)), option::of(vec(any::<u8>(), 0..600)))
            .prop_map(|(group, own, spare)| Say::Tokens { group, own, spare }),
        (vec(change(), 0..4), past(), entries()).prop_map(|(changes, past, entries)| Say::Record {
            record: Box::new(record()),
            changes,
            past,
            entries
        }),
    ]
}

pub(super) fn credentials() -> impl Strategy<Value = Credentials> {
    (vec(any::<u8>(), 0..MANDATE_MAX), vec(change(), 0..4), certificate())
        .prop_map(|(mandate, changes, certificate)| Credentials { mandate, changes, certificate })
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => say().prop_map(|say| Request::Say(Box::new(say))),
        1 => (credentials(), vec(any::<u8>(), 0..600), any::<[u8; 32]>()).prop_map(|(credentials, sheet, previous)| Request::Give {
            credentials: Box::new(credentials),
            sheet,
            previous,
        }),
        1 => vec(any::<u8>(), 0..600).prop_map(|record| Request::Register { record }),
        1 => vec(any::<u8>(), 0..GRANT_MAX).prop_map(|grant| Request::Ask { ticket: ticket(), grant }),
        4 => care(),
    ]
}

/// What keeps holders honest.
pub(super) fn care() -> impl Strategy<Value = Request> {
    let places = || (slot(), peer(), any::<[u8; 32]>().prop_map(Ordinals::from_bytes));
    let group = || any::<[u8; 32]>().prop_map(GroupId::from_bytes);
    prop_oneof![
        (vec(any::<u8>(), 0..600), places(), 1..=u8::MAX, any::<u64>(), vec(vec(any::<u8>(), 0..200), 0..3)).prop_map(
            |(sheet, (_, holder, ordinals), auditors, until, words)| {
                let until = Timestamp(until);
                Request::Duty(Box::new(Duty { ticket: ticket(), sheet, holder, ordinals, auditors, until, words }))
            }
        ),
        (group(), places(), any::<(u32, u32)>(), option::of(vec(any::<u8>(), 0..600))).prop_map(
            |(group, (slot, holder, missing), (good, silent), proof)| {
                Request::Findings(Box::new(Findings {
                    group,
                    slot,
                    holder,
                    good,
                    silent,
                    missing,
                    shown: Ordinals::from_iter([u8::from(good > silent)]),
                    proof,
                }))
            }
        ),
        (option::of(vec(any::<u8>(), 0..GRANT_MAX)), vec(any::<u8>(), 0..300), signature()).prop_map(
            |(grant, body, signature)| {
                let challenge = SignedBytes { body, signer: vec![3; 32], signature: signature.to_vec() };
                Request::Challenge(Box::new(Questioned { ticket: ticket(), grant, challenge }))
            }
        ),
        (group(), places()).prop_map(|(group, (slot, _, ordinals))| Request::Notice(Notice::Lost {
            group,
            slot,
            ordinals
        })),
        (any::<u64>(), btree_set(group(), 0..9)).prop_map(|(at, groups)| {
            Request::Notice(Notice::Leaving { at: Timestamp(at), groups: groups.into_iter().collect() })
        }),
        Just(Request::Notice(Notice::Staying)),
    ]
}

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    let at = || (0..SLOTS_MAX, peer(), any::<u16>());
    let what = prop_oneof![
        any::<u64>().prop_map(|generation| What::Adopted { generation }),
        at().prop_map(|(slot, holder, shards)| What::Lacks { slot, holder, shards }),
        (any::<[u8; 32]>(), at(), any::<bool>()).prop_map(|(order, (slot, to, shards), rebuild)| What::Ordered {
            order,
            slot,
            to,
            rebuild,
            shards
        }),
        (any::<[u8; 32]>(), at()).prop_map(|(order, (slot, holder, shards))| What::Repaired {
            order,
            slot,
            holder,
            shards
        }),
        (any::<[u8; 32]>(), option::of(failure())).prop_map(|(order, why)| What::Failed { order, why }),
        (option::of(peer()), option::of(peer())).prop_map(|(old, new)| What::Stewards { old, new }),
        (0..SLOTS_MAX).prop_map(|slot| What::NoPeer { slot }),
        Just(What::MapFull),
        (0..SLOTS_MAX, peer(), any::<u16>()).prop_map(|(slot, holder, shards)| What::NotShown { slot, holder, shards }),
    ];
    (any::<u64>(), what).prop_map(|(at, what)| Happening { at: Timestamp(at), what })
}

pub(super) fn answer() -> impl Strategy<Value = Answer> {
    let map = (
        vec(any::<u8>(), 0..MANDATE_MAX),
        vec(any::<u64>(), 0..33),
        vec(change(), 0..4),
        past(),
        entries(),
        vec(happening(), 0..9),
    );
    prop_oneof![
        1 => Just(Answer::Done),
        1 => select(&Refusal::ALL[..]).prop_map(Answer::Refused),
        1 => vec(any::<u8>(), 0..900).prop_map(Answer::Audit),
        1 => vec(select(&[Kept::Unknown, Kept::Needed, Kept::Elsewhere][..]), 0..9).prop_map(Answer::Kept),
        4 => map.prop_map(|(mandate, sheets, changes, past, entries, log)| {
            Answer::Map(Box::new(GroupMap { mandate, sheets, changes, past, entries, log }))
        }),
    ]
}
