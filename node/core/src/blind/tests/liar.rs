//! Who sent wrong bytes: by fingerprints, and by leaving some out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::stripe::root_of;

const SEED: [u8; 32] = [3; 32];

/// The fingerprints of a stripe's real slots.
fn prints(stripe: &Stripe) -> BTreeMap<Slot, Fingerprint> {
    stripe.real().into_iter().map(|slot| (slot, fingerprint(&SEED, stripe.shard(slot)).expect("a shard"))).collect()
}

fn noise(number: usize) -> Fingerprint {
    let mut bytes = [0; FINGERPRINT_SIZE];
    bytes.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..FINGERPRINT_SIZE]);
    Fingerprint::from_bytes(bytes)
}

fn without(prints: &BTreeMap<Slot, Fingerprint>, gone: &[Slot]) -> BTreeMap<Slot, Fingerprint> {
    prints.iter().filter(|(slot, _)| !gone.contains(slot)).map(|(slot, print)| (*slot, *print)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// fp(a S + b T) = a fp(S) + b fp(T); and one changed bit anywhere changes it.
    #[test]
    fn fingerprints_are_linear(seed: [u8; 32], a: u8, b: u8, at in 0..SHARD_SIZE, bit in 0u8..8) {
        let stripe = Stripe::new(CodeParams::LOW_PEER, 2, SHARD_SIZE);
        let (s, t) = (stripe.shard(slot(0)), stripe.shard(slot(1)));
        let print = |shard: &[u8]| fingerprint(&seed, shard).expect("a shard");
        let mut sum = vec![0; SHARD_SIZE];
        crate::erasure::combine(&[a, b], &[s, t], &mut [&mut sum]);
        let mut expected = [0; FINGERPRINT_SIZE];
        crate::erasure::combine(&[a, b], &[print(s).as_bytes(), print(t).as_bytes()], &mut [&mut expected]);
        prop_assert_eq!(print(&sum), Fingerprint::from_bytes(expected));
        let mut changed = s.to_vec();
        changed[at] ^= 1 << bit;
        prop_assert_ne!(print(&changed), print(s));
    }
}

#[test]
fn a_fingerprint_hangs_on_its_seed_and_wants_a_shard() {
    let stripe = Stripe::new(CodeParams::LOW_PEER, 1, SHARD_SIZE);
    let shard = stripe.shard(slot(0));
    assert_ne!(fingerprint(&[1; 32], shard), fingerprint(&[2; 32], shard));
    assert_eq!(fingerprint(&[1; 32], &shard[1..]), None);
    assert_eq!(fingerprint(&[1; 32], &[]), None);
    assert_eq!(
        fingerprint(&[1; 32], &vec![0; SHARD_SIZE]),
        Some(Fingerprint::from_bytes([0; 16])),
        "of a virtual slot"
    );
}

/// One wrong shard among the survivors of any loss that leaves k + 2; with k + 1 and with two liars nobody is named.
#[test]
fn the_liar_is_located() {
    for used in [5, 3, 1] {
        let stripe = Stripe::new(CodeParams::DEFAULT, used, SHARD_SIZE);
        let (codec, whole) = (&stripe.codec, prints(&stripe));
        assert_eq!(locate(codec, used, &whole), Ok(Located::AllFit));
        // A shard that is wrong in one byte, as it lies on the liar's disk.
        let mut shard = stripe.shard(slot(0)).to_vec();
        shard[777_777] ^= 1;
        let wrong = fingerprint(&SEED, &shard).expect("a shard");
        let lying = |slot: Slot| if slot.index() == 0 { wrong } else { noise(slot.index()) };
        for lost in stripe.real() {
            let survivors = without(&whole, &[lost]);
            assert_eq!(locate(codec, used, &survivors), Ok(Located::AllFit));
            for liar in survivors.keys() {
                let mut answers = survivors.clone();
                answers.insert(*liar, lying(*liar));
                assert_eq!(locate(codec, used, &answers), Ok(Located::Wrong(*liar)), "lost {lost}");
                for gone in survivors.keys().filter(|gone| *gone != liar) {
                    let fewer = without(&answers, &[*gone]);
                    let (present, needed) = (6, 7);
                    assert_eq!(locate(codec, used, &fewer), Ok(Located::TooFew { present, needed }));
                    assert_eq!(locate(codec, used, &without(&survivors, &[*gone])), Ok(Located::AllFit));
                }
                for second in whole.keys().filter(|second| *second != liar) {
                    let mut two = whole.clone();
                    two.extend([(*liar, lying(*liar)), (*second, lying(*second))]);
                    assert_eq!(locate(codec, used, &two), Ok(Located::Several), "{liar} and {second}");
                }
            }
        }
    }
}

/// Two of k + 4 and more are located.
#[test]
fn two_liars_are_located_where_enough_answer() {
    let stripe = Stripe::new(CodeParams::new(10, 10).expect("valid"), 10, SHARD_SIZE);
    let survivors = without(&prints(&stripe), &[slot(3)]);
    for (one, other) in [(0, 1), (4, 19), (12, 18)] {
        let mut answers = survivors.clone();
        answers.extend([one, other].map(|at| (slot(at), noise(at))));
        assert_eq!(locate(&stripe.codec, 10, &answers), Ok(Located::WrongPair(slot(one), slot(other))));
        let few: Vec<Slot> = (0..20).map(slot).filter(|at| ![one, other].contains(&at.index())).take(7).collect();
        assert_eq!(locate(&stripe.codec, 10, &without(&answers, &few)), Ok(Located::Several), "thirteen or less");
    }
}

#[test]
fn what_cannot_be_compared_is_said() {
    let stripe = Stripe::new(CodeParams::DEFAULT, 5, SHARD_SIZE);
    let (codec, whole) = (&stripe.codec, prints(&stripe));
    let five = without(&whole, &slots(&[0, 1, 2]));
    assert_eq!(locate(codec, 5, &five), Ok(Located::TooFew { present: 5, needed: 7 }), "k always fit");
    assert_eq!(locate(codec, 5, &BTreeMap::new()), Ok(Located::TooFew { present: 0, needed: 7 }));
    assert!(locate(codec, 0, &whole).is_err() && locate(codec, 6, &whole).is_err());
    let mut strange = whole.clone();
    strange.insert(slot(20), noise(1));
    assert!(locate(codec, 5, &strange).is_err(), "a slot that the stripe has not");
    assert!(locate(codec, 4, &whole).is_err(), "a virtual slot that answers");
}

/// The limit that the doc states: two that conspire make a third look wrong when only k + 2 answer, so nobody is convicted.
#[test]
fn two_conspirators_can_frame_a_third() {
    let codec = Codec::new(CodeParams::DEFAULT);
    // A stripe that is zero but for slots 0, 1 and 7, among seven: add what 0 and 1 have of it to theirs.
    let mut known: Vec<Option<&[u8]>> = vec![None; 8];
    let (zero, one) = ([0u8; 1], [1u8; 1]);
    known[0] = Some(&one);
    for slot in [3, 4, 5, 6] {
        known[slot] = Some(&zero);
    }
    let made = codec.missing(5, &known, true, |length| vec![0u8; length]).expect("five of eight");
    let share = |index: usize| made.iter().find(|(slot, _)| *slot == index).map_or(1, |(_, byte)| byte[0]);
    // Slot 2 is lost; all others should say zero.
    let mut answers: BTreeMap<Slot, Fingerprint> =
        [0, 1, 3, 4, 5, 6, 7].map(|index| (slot(index), Fingerprint::from_bytes([0; 16]))).into();
    for liar in [0, 1] {
        answers.insert(slot(liar), Fingerprint::from_bytes([share(liar); 16]));
    }
    assert_ne!(share(1), 0);
    assert_eq!(locate(&codec, 5, &answers), Ok(Located::Wrong(slot(7))), "who is honest");
}

/// With real parties: a helper that sends garbage is found by leaving pairs out, while the fingerprints all fit.
#[test]
fn a_helper_that_sends_garbage_is_found_by_real_runs() {
    let stripe = Stripe::new(CodeParams::DEFAULT, 3, SHARD_SIZE);
    let (lost, liar) = (slot(1), slot(2));
    let survivors: Vec<Slot> = stripe.real().into_iter().filter(|slot| *slot != lost).collect();
    assert_eq!(locate(&stripe.codec, 3, &without(&prints(&stripe), &[lost])), Ok(Located::AllFit));
    let mut search = Search::new(survivors, 3);
    let rebuild = |helpers: &[Slot], tag: u64| {
        let session = plan(&stripe.codec, 3, lost, helpers, tag);
        let mut parties = Parties::new(&stripe.codec, &session, tag, root_of(stripe.shard(lost)));
        for slice in 0..SLICES {
            parties.run(&stripe, slice, |slot, out| out[9] ^= u8::from(slot == liar));
        }
        parties.holder.finish().is_ok()
    };
    let mut next = Some(search.best());
    for tag in 1..=u64::from(RUNS_OF_STRIPE) + 1 {
        let Some(helpers) = next else { break };
        let succeeded = rebuild(&helpers, tag);
        search.ran(helpers, succeeded);
        next = search.next_run();
    }
    assert_eq!(search.verdict(), Verdict::Named(BTreeSet::from([liar])));
}
