//! Frozen bytes, and decoders that take anything.

use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::blind::masks::Masks;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        _ = write!(out, "{byte:02x}");
        out
    })
}

/// Parties of other versions must get the same session, the same masks, the same fingerprints.
#[test]
fn golden_blind() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let session = plan(&codec, 5, slot(6), &slots(&[7, 0, 3, 1, 4]), 11);
    let short = plan(&codec, 2, slot(1), &slots(&[7, 0]), 12);
    let mut text = String::new();
    for (name, session) in [("session", &session), ("short session", &short)] {
        text += &format!("{name} = {}\n{name} id = {}\n", hex(&session.encode()), hex(session.id().as_bytes()));
    }
    let masks = Masks::agree(&session, &session.id(), slot(7), &secret(11, slot(7))).expect("agrees");
    for slice in [0, 1, SLICES - 1] {
        let mut all = vec![0; SLICE_SIZE];
        masks.add(slice, &mut all);
        let hash = blake3::hash(&all);
        text += &format!("masks of slot 7, slice {slice} = {}.. {hash}\n", hex(&all[..16]));
    }
    let mut shard = vec![0; SHARD_SIZE];
    blake3::Hasher::new().update(b"golden").finalize_xof().fill(&mut shard);
    let print = fingerprint(&[5; 32], &shard).expect("a shard");
    text += &format!("fingerprint = {}\n", hex(print.as_bytes()));
    let mut ledger = SessionLedger::default();
    for (at, session) in [(1_700_000_000_000, session), (1_700_000_000_001, short)] {
        assert!(ledger.admit(cairn_proto::Timestamp(at), session, slot(7)).is_ok());
    }
    text += &format!("ledger = {}\n", hex(&ledger.encode()));
    crate::golden::check("blind.txt", &text);
}

/// A session with everything by chance, for its bytes.
fn any_session() -> impl Strategy<Value = Session> {
    (1u8..29, 1u8..4, any::<u64>(), any::<u8>()).prop_map(|(data, parity, seed, short)| {
        let codec = Codec::new(CodeParams::new(data, parity).expect("valid"));
        let used = usize::from(data - short % data);
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut helpers = sample(&real(&codec, used), used + 1, &mut chance);
        let lost = helpers.pop().expect("one more");
        let mut bytes = || {
            let mut out = [0; 32];
            chance.fill_bytes(&mut out);
            out[31] &= 0x3f;
            out
        };
        let key = |bytes| EphemeralKey::from_bytes(bytes).expect("canonical");
        let order = Order {
            group: cairn_proto::GroupId::from_bytes(bytes()),
            ordinal: bytes()[0],
            used: used as u8,
            lost,
            attempt: u16::from_le_bytes([bytes()[0], bytes()[1]]),
            nonce: bytes(),
            new_holder: key(bytes()),
            helpers: helpers.into_iter().map(|slot| (slot, key(bytes()))).collect(),
        };
        Session::plan(&codec, order).expect("a session")
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_session_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        if let Ok(session) = Session::decode(&bytes) {
            prop_assert_eq!(session.encode(), bytes);
        }
    }

    #[test]
    fn sessions_round_trip(session in any_session()) {
        let bytes = session.encode();
        prop_assert!(bytes.len() <= SESSION_SIZE_MAX);
        prop_assert_eq!(Session::decode(&bytes), Ok(session));
    }

    /// Nearly a session: each changed byte makes it another one with another id, or none; each cut and each addition none.
    #[test]
    fn a_changed_session_is_another_one(session in any_session(), at: usize, change in 1u8..) {
        let mut bytes = session.encode();
        prop_assert!(Session::decode(&bytes[..at % bytes.len()]).is_err());
        let longer = [&bytes[..], &[change]].concat();
        prop_assert!(Session::decode(&longer).is_err());
        let at = at % bytes.len();
        bytes[at] ^= change;
        if let Ok(other) = Session::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
            prop_assert_ne!(other.id(), session.id());
        }
    }
}

/// One key, one name: X25519 would take others for the same.
#[test]
fn keys_have_one_spelling() {
    let mut prime = [0xff; 32];
    (prime[0], prime[31]) = (0xed, 0x7f);
    let below = |by: u8| {
        let mut bytes = prime;
        bytes[0] -= by;
        bytes
    };
    assert!(EphemeralKey::from_bytes(prime).is_err(), "the prime, which is zero again");
    assert!(EphemeralKey::from_bytes([0xff; 32]).is_err());
    assert!(EphemeralKey::from_bytes(below(1)).is_ok());
    let mut high_bit = *secret(1, slot(1)).public().as_bytes();
    assert!(EphemeralKey::from_bytes(high_bit).is_ok());
    high_bit[31] |= 0x80;
    assert!(EphemeralKey::from_bytes(high_bit).is_err(), "a bit that X25519 ignores");
}
