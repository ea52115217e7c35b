//! Messages of the rebuild protocol: frozen bytes, round trips, and decoders that take anything.

use std::fmt::Write as _;

use cairn_proto::{
    Action, Certificate, GroupTicket, Mandate, Ordinals, PeerKey, Powers, SheetRow, SlotSheet, mandate::MANDATE_MAX,
    order::CERTIFICATE_MAX,
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::{
    blind::{
        invite::{Asked, Frame, Invite},
        wire::{ANSWER_MAX, Break, MESSAGE_MAX, Message, Refusal, SESSION_MESSAGE_MAX},
    },
    part::Credentials,
};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn peer(seed: u8) -> PeerKey {
    PeerKey::from_bytes(key(seed).verifying_key().to_bytes())
}

/// An order to rebuild slot 4 of a 3+2 group by the holders of 0, 1 and 3, of whom 1 and 3 or more have a part in a short stripe.
fn invite(asked: Asked) -> (Invite, Frame) {
    let authority = key(1);
    let ticket = GroupTicket::new(authority.verifying_key().to_bytes(), [2; 32], CodeParams::LOW_PEER, 6);
    let ticket = ticket.expect("valid");
    let mandate = Mandate {
        ticket,
        generation: 3,
        stewards: vec![peer(4)],
        replicas: 2,
        powers: Powers::ALL,
        monthly_bytes: 1 << 30,
        issued: Timestamp(1_000),
        ends: Timestamp(9_000_000),
    };
    let order = cairn_proto::Order {
        group: ticket.id(),
        generation: 3,
        committee: [6; 32],
        nonce: [5; 16],
        issued: Timestamp(2_000),
        expires: Timestamp(3_000_000),
        urgent: false,
        action: Action::Rebuild {
            slot: slot(4),
            to: peer(14),
            ordinals: [0, 7].into_iter().collect::<Ordinals>(),
            helpers: vec![(slot(0), peer(10)), (slot(1), peer(11)), (slot(3), peer(13))],
        },
    };
    let vote = order.sign(&key(4)).expect("valid");
    let row = SheetRow { ordinal: 7, used: 2, root: ShardRoot::from_bytes([8; 32]) };
    let sheet = SlotSheet {
        group: ticket.id(),
        slot: slot(4),
        generation: 1,
        holders: vec![peer(20)],
        rows: vec![row],
        leans: false,
    };
    let change = Certificate::new(
        cairn_proto::Order { action: Action::Enlist { new: peer(21) }, ..order.clone() },
        [(peer(4), [9; 64])],
    );
    let credentials = Credentials {
        mandate: mandate.seal(&authority).expect("valid"),
        changes: vec![change],
        certificate: Certificate::new(order, [(peer(4), vote)]),
    };
    let frame = Frame::new(&credentials, &ticket, &row).expect("something to rebuild");
    (Invite { credentials, sheet: sheet.seal(&authority).expect("valid"), ordinal: 7, asked }, frame)
}

/// One of each.
fn messages() -> Vec<(&'static str, Message)> {
    let (help, frame) = invite(Asked::Help { attempt: 513 });
    let (print, _) = invite(Asked::Print { seed: [3; 32] });
    let codec = Codec::new(CodeParams::LOW_PEER);
    let session = plan(&codec, 2, slot(4), &slots(&[0, 1]), 21);
    let offer = frame.offer(513, slot(0), secret(21, slot(0)).public(), &key(10));
    let id = session.id();
    let shard = vec![1; SHARD_SIZE];
    vec![
        ("help", Message::Invite(Box::new(help))),
        ("print please", Message::Invite(Box::new(print))),
        ("key", Message::Key(offer)),
        ("session", Message::Session(Box::new((session, vec![[6; 64], [7; 64]])))),
        ("ready", Message::Ready),
        ("go", Message::Go),
        ("done", Message::Done),
        ("broken before", Message::Broken(Break::Previous)),
        ("broken after", Message::Broken(Break::Next)),
        ("broken here", Message::Broken(Break::Own)),
        ("busy", Message::No(Refusal::Busy)),
        ("unknown", Message::No(Refusal::Unknown)),
        ("unfit", Message::No(Refusal::Unfit)),
        ("no shard", Message::No(Refusal::NoShard)),
        ("ledger", Message::No(Refusal::Ledger)),
        ("not the session", Message::No(Refusal::Session)),
        ("link", Message::Link(id)),
        ("print", Message::Print(fingerprint(&[5; 32], &shard).expect("a shard"))),
    ]
}

#[test]
fn golden_rebuild_messages() {
    let mut text = String::new();
    for (name, message) in messages() {
        let bytes = message.encode().expect("valid");
        assert_eq!(Message::decode(&bytes), Ok(message), "{name}");
        let hex = bytes.iter().fold(String::new(), |mut out, byte| {
            _ = write!(out, "{byte:02x}");
            out
        });
        _ = writeln!(text, "{name} = {hex}");
    }
    crate::golden::check("rebuild-messages.txt", &text);
}

#[test]
fn every_message_keeps_its_limit() {
    for (name, message) in messages() {
        let bytes = message.encode().expect("valid").len();
        let limit = match message {
            Message::Invite(_) => MESSAGE_MAX,
            Message::Session(_) => SESSION_MESSAGE_MAX,
            _ => ANSWER_MAX,
        };
        assert!(bytes <= limit, "{name}: {bytes}");
    }
    // The longest session: 31 helpers.
    let codec = Codec::new(CodeParams::new(31, 1).expect("valid"));
    let helpers: Vec<Slot> = (0..31).map(slot).collect();
    let session = plan(&codec, 31, slot(31), &helpers, 22);
    let longest = Message::Session(Box::new((session, vec![[1; 64]; 31]))).encode().expect("valid");
    assert!(longest.len() <= SESSION_MESSAGE_MAX && Message::decode(&longest).is_ok());
    assert!(Message::decode(&vec![1; MESSAGE_MAX + 1]).is_err());
}

/// Lengths in a message cannot make us take more than they may.
#[test]
fn announced_lengths_are_bounded() {
    let mut bytes = vec![1, 1];
    bytes.extend_from_slice(&(MANDATE_MAX as u32 + 1).to_le_bytes());
    bytes.resize(MANDATE_MAX + 100, 0);
    assert!(matches!(Message::decode(&bytes), Err(DecodeError::TooLarge { .. })));
    let (help, _) = invite(Asked::Help { attempt: 0 });
    let mandate = help.credentials.mandate.len();
    let mut bytes = Message::Invite(Box::new(help)).encode().expect("valid");
    let count = 2 + 4 + mandate;
    bytes[count + 1..count + 5].copy_from_slice(&(CERTIFICATE_MAX as u32 + 1).to_le_bytes());
    assert!(matches!(Message::decode(&bytes), Err(DecodeError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), Ok(bytes));
        }
    }

    /// Nearly a message: one encoding each, no cut and no addition is one.
    #[test]
    fn a_changed_message_is_another_one_or_none(which in 0usize..18, at: usize, change in 1u8..) {
        let mut bytes = messages().swap_remove(which).1.encode().expect("valid");
        prop_assert!(Message::decode(&bytes[..at % bytes.len()]).is_err());
        prop_assert!(Message::decode(&[&bytes[..], &[change]].concat()).is_err());
        let at = at % bytes.len();
        bytes[at] ^= change;
        if let Ok(other) = Message::decode(&bytes) {
            prop_assert_eq!(other.encode(), Ok(bytes));
        }
    }
}

/// A key is its helper's for one order, stripe, attempt and slot.
#[test]
fn an_offered_key_fits_one_place() {
    let (_, frame) = invite(Asked::Help { attempt: 1 });
    // Slot 2 is virtual in a stripe of two, and nobody's in this order; the order's three helpers are all real.
    assert_eq!(frame.helpers.len(), 3);
    let public = secret(1, slot(0)).public();
    let offer = frame.offer(1, slot(0), public, &key(10));
    assert!(frame.is_offered(1, slot(0), &public, &offer.signature));
    assert!(!frame.is_offered(2, slot(0), &public, &offer.signature), "another attempt");
    assert!(!frame.is_offered(1, slot(1), &public, &offer.signature), "another slot");
    assert!(!frame.is_offered(1, slot(2), &public, &offer.signature), "nobody's slot");
    assert!(!frame.is_offered(1, slot(0), &secret(2, slot(0)).public(), &offer.signature), "another key");
    let mut other = frame.clone();
    other.ordinal = 0;
    assert!(!other.is_offered(1, slot(0), &public, &offer.signature), "another stripe");
    assert!(!frame.is_offered(1, slot(0), &public, &frame.offer(1, slot(0), public, &key(11)).signature), "another's");
}

/// Holders of virtual slots have no part; a stripe that keeps too few others is not rebuilt.
#[test]
fn only_real_helpers_count() {
    let (invite, _) = invite(Asked::Help { attempt: 1 });
    let ticket = Mandate::open(&invite.credentials.mandate).expect("valid").ticket;
    let row = |ordinal, used| SheetRow { ordinal, used, root: ShardRoot::from_bytes([8; 32]) };
    let of = |used| Frame::new(&invite.credentials, &ticket, &row(7, used));
    let slots = |frame: Frame| frame.helpers.iter().map(|(slot, _)| slot.index()).collect::<Vec<_>>();
    assert_eq!(of(3).map(slots), Some(vec![0, 1, 3]));
    assert_eq!(of(1).map(slots), Some(vec![0, 3]), "slot 1 is virtual");
    assert!(Frame::new(&invite.credentials, &ticket, &row(1, 3)).is_none(), "not ordered");
    assert!(of(0).is_none());
}
