//! What parties refuse: slices out of order, wrong keys, wrong sums.

use cairn_proto::GroupId;

use super::*;

const TAG: u64 = 4;

fn codec() -> Codec {
    Codec::new(CodeParams::DEFAULT)
}

fn session(codec: &Codec) -> Session {
    plan(codec, 5, slot(7), &slots(&[4, 3, 2, 1, 0]), TAG)
}

fn helper(codec: &Codec, session: &Session, index: usize) -> Result<Helper, BlindError> {
    Helper::new(admit(session, slot(index)), codec, secret(TAG, slot(index)))
}

fn new_holder(codec: &Codec, session: &Session) -> Result<NewHolder, BlindError> {
    NewHolder::new(admit(session, slot(7)), codec, secret(TAG, slot(7)), ShardRoot::from_bytes([0; 32]))
}

/// Slices in order, each exactly once, of the right length; a refused one changes nothing.
#[test]
fn slices_come_in_order_and_once() {
    let codec = codec();
    let session = session(&codec);
    let (mut first, mut second) =
        (helper(&codec, &session, 4).expect("first"), helper(&codec, &session, 3).expect("ok"));
    let mut holder = new_holder(&codec, &session).expect("new holder");
    let (slice, mut out) = (vec![1; SLICE_SIZE], vec![0; SLICE_SIZE]);
    let wrong = |expected, found| Err(BlindError::Slice { expected, found });

    assert_eq!(first.pass(1, None, &slice, &mut out), wrong(0, 1), "skipped");
    assert_eq!(first.pass(0, Some(&slice), &slice, &mut out), Err(BlindError::Incoming));
    assert_eq!(second.pass(0, None, &slice, &mut out), Err(BlindError::Incoming));
    for short in [0, 1, SLICE_SIZE - 1] {
        let error = Err(BlindError::Length { found: short });
        assert_eq!(first.pass(0, None, &slice[..short], &mut out), error);
        assert_eq!(first.pass(0, None, &slice, &mut out[..short]), error);
        assert_eq!(second.pass(0, Some(&slice[..short]), &slice, &mut out), error);
        assert_eq!(holder.take(0, &slice[..short]), error);
    }
    assert_eq!(holder.take(0, &vec![0; SLICE_SIZE + 1]), Err(BlindError::Length { found: SLICE_SIZE + 1 }));
    assert!(out.iter().all(|byte| *byte == 0), "nothing was written by what was refused");

    for now in 0..SLICES {
        assert_eq!(first.pass(now, None, &slice, &mut out), Ok(()));
        assert_eq!(first.pass(now, None, &slice, &mut out), wrong(now + 1, now), "twice");
        assert_eq!(second.pass(now, Some(&slice), &slice, &mut out), Ok(()));
        assert_eq!(holder.take(now, &slice), Ok(()));
        assert_eq!(holder.take(now, &slice), wrong(now + 1, now), "twice");
    }
    assert_eq!(first.pass(SLICES, None, &slice, &mut out), wrong(SLICES, SLICES), "one too many");
    assert_eq!(holder.take(SLICES, &slice), wrong(SLICES, SLICES), "one too many");

    let mut early = new_holder(&codec, &session).expect("new holder");
    assert_eq!(early.take(0, &slice), Ok(()));
    assert_eq!(early.finish().err(), Some(BlindError::Incomplete { taken: 1 }));
}

/// Whoever has no part, another key or another part gets nowhere.
#[test]
fn only_parties_with_their_own_key() {
    let codec = codec();
    let session = session(&codec);
    let stranger = Helper::new(admit(&session, slot(2)), &codec, secret(TAG + 1, slot(2)));
    assert_eq!(stranger.err(), Some(BlindError::NotOurKey { slot: slot(2) }));
    assert_eq!(helper(&codec, &session, 7).err(), Some(BlindError::NoPart { slot: slot(7) }), "the new holder's slot");
    let holder = NewHolder::new(admit(&session, slot(0)), &codec, secret(TAG, slot(0)), ShardRoot::from_bytes([0; 32]));
    assert_eq!(holder.err(), Some(BlindError::NoPart { slot: slot(0) }));
    let other = Codec::new(CodeParams::LOW_PEER);
    let refused = BlindError::OtherCode { session: codec.params(), ours: other.params() };
    assert_eq!(helper(&other, &session, 0).err(), Some(refused));
}

/// SEP-1: an order whose sum is not the lost shard, such as one shard alone, is refused by every party.
#[test]
fn another_sum_than_the_lost_shard_is_refused() {
    let codec = codec();
    let whole = session(&codec).encode();
    for link in 0..5 {
        let mut bytes = whole.clone();
        let coefficient = bytes.len() - 5 * 34 + link * 34 + 1;
        bytes[coefficient] ^= 0x40;
        match Session::decode(&bytes) {
            Err(_) => assert_eq!(bytes[coefficient], 0, "only zero is refused so early"),
            Ok(forged) => {
                assert_eq!(helper(&codec, &forged, link).err(), Some(BlindError::Coefficients));
                assert_eq!(helper(&codec, &forged, 4 - link).err(), Some(BlindError::Coefficients));
                assert_eq!(new_holder(&codec, &forged).err(), Some(BlindError::Coefficients));
            }
        }
    }
}

/// The keys of low order, for which the shared secret is zero whatever the other secret is.
#[test]
fn a_key_of_low_order_is_refused() {
    let codec = codec();
    let eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let mut order_eight = [0u8; 32];
    for (byte, pair) in order_eight.iter_mut().zip(eight.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    }
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for low in [[0; 32], one, minus_one, order_eight] {
        let key = EphemeralKey::from_bytes(low).expect("canonical");
        let mut bad = order(5, slot(7), &slots(&[4, 3, 2, 1, 0]), TAG);
        bad.helpers[2].1 = key;
        let session = Session::plan(&codec, bad).expect("a session");
        assert_eq!(helper(&codec, &session, 4).err(), Some(BlindError::WeakKey { slot: slot(2) }));
        assert_eq!(new_holder(&codec, &session).err(), Some(BlindError::WeakKey { slot: slot(2) }));
    }
}

/// Sessions that cannot be planned.
#[test]
fn an_order_that_is_no_rebuild_is_refused() {
    let codec = codec();
    let plan = |used, lost, helpers: &[usize]| Session::plan(&codec, order(used, slot(lost), &slots(helpers), TAG));
    assert!(plan(5, 7, &[0, 1, 2, 3, 4]).is_ok());
    for (used, lost, helpers) in [
        (5, 7, vec![0, 1, 2, 3]),
        (5, 7, vec![0, 1, 2, 3, 3]),
        (5, 7, vec![0, 1, 2, 3, 7]),
        (5, 7, vec![0, 1, 2, 3, 4, 5]),
        (5, 8, vec![0, 1, 2, 3, 4]),
        (5, 7, vec![0, 1, 2, 3, 8]),
        (0, 7, vec![]),
        (6, 7, vec![0, 1, 2, 3, 4, 5]),
        (3, 3, vec![0, 1, 2]),
        (3, 7, vec![0, 1, 4]),
    ] {
        let refused = plan(used, lost, &helpers);
        assert!(matches!(refused, Err(BlindError::Erasure(_))), "{used} {lost} {helpers:?}");
    }
    let mut twice = order(5, slot(7), &slots(&[0, 1, 2, 3, 4]), TAG);
    twice.helpers[3].1 = twice.new_holder;
    assert_eq!(Session::plan(&codec, twice).err(), Some(BlindError::KeyTwice { slot: slot(7) }));
    let session = session(&codec);
    assert_eq!((session.group(), session.ordinal(), session.used()), (&GroupId::from_bytes([7; 32]), 3, 5));
    assert_eq!((session.attempt(), session.code()), (1, CodeParams::DEFAULT));
}
