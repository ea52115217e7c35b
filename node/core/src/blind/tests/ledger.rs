//! The ledger: nothing twice, little of each, bounded, and whole after a restart.

use cairn_proto::Timestamp;
use proptest::prelude::*;

use super::*;

/// A session of one helper whose keys nobody has.
fn cheap(codec: &Codec, lost: usize, ordinal: u8, number: u64) -> Session {
    let key = |role: &str| {
        let mut bytes = *blake3::hash(format!("{role} {number}").as_bytes()).as_bytes();
        bytes[31] &= 0x3f;
        EphemeralKey::from_bytes(bytes).expect("canonical")
    };
    let order = Order {
        group: cairn_proto::GroupId::from_bytes([7; 32]),
        ordinal,
        used: 1,
        lost: slot(lost),
        attempt: 0,
        nonce: *blake3::hash(&number.to_le_bytes()).as_bytes(),
        new_holder: key("new holder"),
        helpers: vec![(slot(0), key("helper"))],
    };
    Session::plan(codec, order).expect("a session")
}

#[test]
fn nothing_comes_twice() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let mut ledger = SessionLedger::default();
    let now = Timestamp(1_000_000);
    let base = order(5, slot(7), &slots(&[0, 1, 2, 3, 4]), 1);
    let of = |order: &Order| Session::plan(&codec, order.clone()).expect("a session");
    assert_eq!(ledger.admit(now, of(&base), slot(5)), Err(LedgerRefusal::NoPart { slot: slot(5) }));
    assert!(ledger.is_empty());
    assert!(ledger.admit(now, of(&base), slot(2)).is_ok());
    assert_eq!(ledger.admit(now, of(&base), slot(2)), Err(LedgerRefusal::UsedBefore));

    let fresh = order(5, slot(7), &slots(&[0, 1, 2, 3, 4]), 2);
    let attempt = Order { attempt: 2, ..base.clone() };
    assert_eq!(ledger.admit(now, of(&attempt), slot(2)), Err(LedgerRefusal::KeySeen { slot: slot(0) }));
    let mut one_key = fresh.clone();
    one_key.helpers[3].1 = base.helpers[1].1;
    assert_eq!(
        ledger.admit(now, of(&one_key), slot(2)),
        Err(LedgerRefusal::KeySeen { slot: slot(3) }),
        "of another slot"
    );
    let holder = Order { new_holder: base.helpers[1].1, ..fresh.clone() };
    assert_eq!(
        ledger.admit(now, of(&holder), slot(2)),
        Err(LedgerRefusal::KeySeen { slot: slot(7) }),
        "in another part"
    );
    let nonce = Order { nonce: base.nonce, ..fresh.clone() };
    assert_eq!(ledger.admit(now, of(&nonce), slot(2)), Err(LedgerRefusal::NonceSeen));
    assert_eq!(ledger.len(), 1, "what was refused leaves nothing");
    assert!(ledger.admit(now, of(&fresh), slot(2)).is_ok());
}

/// One shard of ours serves eight times in 30 days, whatever is rebuilt with it; another one has its own eight.
#[test]
fn a_shard_serves_few_sessions() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let mut ledger = SessionLedger::default();
    let at = |number: u64| Timestamp(1_000_000 + number * 1_000);
    for number in 0..SESSIONS_MAX as u64 {
        assert!(ledger.admit(at(number), cheap(&codec, 5 + number as usize % 3, 0, number), slot(0)).is_ok());
    }
    let until = Timestamp(1_000_000 + WINDOW_MS);
    let more = |number| cheap(&codec, 7, 0, number);
    assert_eq!(ledger.admit(at(9), more(100), slot(0)), Err(LedgerRefusal::TooMany { until }));
    assert!(ledger.admit(at(9), cheap(&codec, 7, 1, 101), slot(0)).is_ok(), "another stripe");
    assert!(ledger.admit(at(9), more(102), slot(7)).is_ok(), "as the new holder");
    let just_before = Timestamp(until.0 - 1);
    assert_eq!(ledger.admit(just_before, more(103), slot(0)), Err(LedgerRefusal::TooMany { until }));
    assert!(ledger.admit(until, more(104), slot(0)).is_ok(), "the oldest is forgotten");
    let until = Timestamp(until.0 + 1_000);
    assert_eq!(ledger.admit(Timestamp(until.0 - 1), more(105), slot(0)), Err(LedgerRefusal::TooMany { until }));
}

/// A new holder that stops after it was told that we are ready uses up nothing of the shard, and not the ledger either.
#[test]
fn what_ended_before_anything_went_out_does_not_count() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let mut ledger = SessionLedger::default();
    let now = Timestamp(1_000_000);
    let mut number = 0;
    let mut next = || {
        number += 1;
        cheap(&codec, 7, 0, number)
    };
    for _ in 0..ABANDONED_MAX - 1 {
        let session = next();
        let id = session.id();
        assert!(ledger.admit(now, session.clone(), slot(0)).is_ok());
        assert!(ledger.abandoned(&id) && !ledger.abandoned(&id) && !ledger.begun(&id), "once");
        assert_eq!(ledger.admit(now, session, slot(0)), Err(LedgerRefusal::UsedBefore), "its keys stay used");
    }
    let mut open = Vec::new();
    for at in 0..SESSIONS_MAX {
        let session = next();
        open.push(session.id());
        assert!(ledger.admit(now, session, slot(0)).is_ok());
        assert!(at % 2 == 0 || ledger.begun(&open[at]));
    }
    let mut ledger = SessionLedger::decode(&ledger.encode()).expect("its own bytes");
    let until = now.plus_ms(WINDOW_MS);
    assert_eq!(ledger.admit(now, next(), slot(0)), Err(LedgerRefusal::TooMany { until }), "open ones count");
    assert!(!ledger.abandoned(&open[1]), "our slice is out");
    assert!(ledger.abandoned(&open[0]) && !ledger.abandoned(&open[0]));
    let as_many = Err(LedgerRefusal::TooMany { until });
    assert_eq!(ledger.admit(now, next(), slot(0)), as_many, "nobody fills the ledger with one shard");
    assert!(ledger.admit(until, next(), slot(0)).is_ok());
}

/// A clock that was wrong once does not lock a shard for years, nor does it make room.
#[test]
fn a_clock_that_jumps_costs_30_days_at_most() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let mut ledger = SessionLedger::default();
    let (now, future) = (1_000_000, 1_000_000 + 70 * 365 * 24 * 3_600_000);
    for number in 0..SESSIONS_MAX as u64 {
        assert!(ledger.admit(Timestamp(future), cheap(&codec, 7, 0, number), slot(0)).is_ok());
    }
    let until = Timestamp(now + WINDOW_MS);
    let refused = Err(LedgerRefusal::TooMany { until });
    assert_eq!(ledger.admit(Timestamp(now), cheap(&codec, 7, 0, 100), slot(0)), refused);
    assert!(ledger.admit(until, cheap(&codec, 7, 0, 101), slot(0)).is_ok());
}

/// A ledger of so many sessions, as bytes.
fn full(sessions: usize) -> Vec<u8> {
    let mut bytes = vec![2];
    for number in 0..sessions as u64 {
        bytes.extend_from_slice(&1_000_000u64.to_le_bytes());
        bytes.extend_from_slice(&[9; 16]);
        bytes.extend_from_slice(&[0, 4]);
        let mut tags = [0; 64];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut tags);
        bytes.extend_from_slice(&tags);
    }
    bytes
}

#[test]
fn a_full_ledger_refuses_and_forgets_nothing_early() {
    let codec = Codec::new(CodeParams::DEFAULT);
    assert!(matches!(SessionLedger::decode(&full(LEDGER_MAX + 1)), Err(cairn_proto::DecodeError::TooLarge { .. })));
    let mut ledger = SessionLedger::decode(&full(LEDGER_MAX)).expect("just full");
    let now = Timestamp(1_000_000);
    assert_eq!(ledger.admit(now, cheap(&codec, 7, 0, 1), slot(0)), Err(LedgerRefusal::Full));
    assert_eq!(ledger.len(), LEDGER_MAX);
    assert!(ledger.admit(now.plus_ms(WINDOW_MS), cheap(&codec, 7, 0, 1), slot(0)).is_ok());
    assert_eq!(ledger.len(), 1);
}

proptest! {
    /// Any bytes are a ledger or are refused, and a ledger has one encoding.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(ledger) = SessionLedger::decode(&bytes) {
            prop_assert_eq!(ledger.encode(), bytes);
        }
    }

    /// After a restart it refuses the same; cut or changed, it is no ledger or another one.
    #[test]
    fn a_ledger_survives_a_restart(count in 1u64..20, cut in 1usize..91, lost in 5usize..8) {
        let codec = Codec::new(CodeParams::DEFAULT);
        let mut ledger = SessionLedger::default();
        for number in 0..count {
            let session = cheap(&codec, lost, number as u8, number);
            prop_assert!(ledger.admit(Timestamp(number), session, slot(0)).is_ok());
        }
        let bytes = ledger.encode();
        let mut back = SessionLedger::decode(&bytes).expect("its own bytes");
        prop_assert_eq!(&back, &ledger);
        for number in 0..count {
            let again = back.admit(Timestamp(count), cheap(&codec, lost, number as u8, number), slot(0));
            prop_assert_eq!(again, Err(LedgerRefusal::UsedBefore));
        }
        // A session is 90 bytes here: less than that is missing.
        prop_assert_eq!(SessionLedger::decode(&bytes[..bytes.len() - cut]).is_ok(), cut == 90);
        let twice = [&bytes[..], &bytes[1..]].concat();
        prop_assert!(SessionLedger::decode(&twice).is_err(), "a key that comes twice");
    }
}
