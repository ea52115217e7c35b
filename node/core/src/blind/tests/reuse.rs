//! Why masks serve once: with the same ones in two sessions a shard comes out, and what stands against that.

use cairn_proto::Timestamp;
use reed_solomon_erasure::galois_8::mul_slice_xor;

use super::{
    taint::{Symbols, coalition},
    *,
};
use crate::blind::masks::{Masks, Pair, Part};

const TAG: u64 = 77;

/// Two sessions that differ in one helper only, with the same keys and nonce. The first of the chain is slot 0.
fn twins(codec: &Codec) -> [Session; 2] {
    [[0, 1, 2, 3, 4], [0, 1, 2, 3, 5]].map(|helpers| plan(codec, 5, slot(7), &slots(&helpers), TAG))
}

/// With masks in common, slot 1, which hears slot 0 twice, and the two that were changed for each other learn S_0. With
/// masks of their own they learn nothing, in each session and in both together.
#[test]
fn masks_in_common_leak_and_fresh_ones_do_not() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let [one, other] = &twins(&codec);
    let members = coalition(&[1, 4, 5]);
    assert!(Symbols::new(&codec, &[(0, one), (0, other)]).leak(&members).is_some());
    assert_eq!(Symbols::new(&codec, &[(0, one), (1, other)]).leak(&members), None);
    // Every coalition but those that have all other parties: together with fresh masks never more than allowed.
    for size in 1..=7 {
        for members in choices(&slots(&[0, 1, 2, 3, 4, 5, 7]), size) {
            assert_eq!(Symbols::new(&codec, &[(0, one), (1, other)]).leak(&members.into_iter().collect()), None);
        }
    }
}

/// The same with bytes: u + u', less the masks that 4 and 5 know, is S_0 times c + c'. With the masks of their own ids it
/// is noise.
#[test]
fn the_difference_of_two_sums_is_a_shard() {
    let stripe = Stripe::new(CodeParams::DEFAULT, 5, SLICE_SIZE);
    let [one, other] = &twins(&stripe.codec);
    let masks = |session: &Session, id: &SessionId, party| {
        Masks::agree(session, id, slot(party), &secret(TAG, slot(party))).expect("agrees")
    };
    let first = |session: &Session, id: &SessionId| {
        let mut helper = Helper::with(session, slot(0), masks(session, id, 0)).expect("a helper");
        let mut out = vec![0; SLICE_SIZE];
        helper.pass(0, None, stripe.shard(slot(0)), &mut out).expect("the first slice");
        out
    };
    let theirs = |session: &Session, id: &SessionId, party: usize, sum: &mut [u8]| {
        let pairs = Part::of(session, slot(party)).expect("a party").pairs;
        let at = pairs.iter().position(|pair| *pair == Pair::new(slot(0), slot(party))).expect("shares one with 0");
        masks(session, id, party).seeds()[at].mask(0, sum);
    };
    let difference = |id: &SessionId, id_other: &SessionId| {
        let mut sum = first(one, id);
        sum.iter_mut().zip(first(other, id_other)).for_each(|(a, b)| *a ^= b);
        theirs(one, id, 4, &mut sum);
        theirs(other, id_other, 5, &mut sum);
        sum
    };
    let factor = one.links()[0].coefficient ^ other.links()[0].coefficient;
    assert_ne!(factor, 0, "else there is nothing to see");
    let mut shard = vec![0; SLICE_SIZE];
    mul_slice_xor(factor, stripe.shard(slot(0)), &mut shard);
    let same = SessionId::from_bytes([1; 32]);
    assert!(difference(&same, &same) == shard, "masks of one id in two sessions");

    assert_ne!(one.id(), other.id());
    let noise = difference(&one.id(), &other.id());
    let equal = noise.iter().zip(&shard).filter(|(a, b)| a == b).count();
    assert!(equal < SLICE_SIZE / 128, "{equal} bytes alike, of which chance gives one in 256");
}

/// And the ledger refuses the second of the two.
#[test]
fn the_ledger_refuses_the_second_session() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let [one, other] = twins(&codec);
    let mut ledger = SessionLedger::default();
    assert!(ledger.admit(Timestamp(5), one, slot(0)).is_ok());
    assert_eq!(ledger.admit(Timestamp(6), other, slot(0)), Err(LedgerRefusal::KeySeen { slot: slot(0) }));
}
