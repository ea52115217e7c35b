//! Masks cancel: the new holder gets the lost shard, byte for byte, or an error.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    blind::masks::{Masks, Pair, Part},
    stripe::root_of,
};

/// The first slice of a rebuild.
fn rebuilds(stripe: &Stripe, lost: Slot, helpers: &[Slot], tag: u64) {
    let session = plan(&stripe.codec, stripe.used, lost, helpers, tag);
    let mut parties = Parties::new(&stripe.codec, &session, tag, root_of(stripe.shard(lost)));
    parties.run(stripe, 0, |_, _| {});
    assert!(parties.holder.so_far() == stripe.shard(lost), "lost {lost} from {helpers:?}, used {}", stripe.used);
}

/// Every lost slot from every helper set of 5+3, data and parity, full stripes and all that have virtual slots. The chain
/// turns round from set to set, so every slot comes first, last and between.
#[test]
fn every_helper_set_of_5_3() {
    let mut tag = 0;
    for used in 1..=5 {
        let stripe = Stripe::new(CodeParams::DEFAULT, used, SLICE_SIZE);
        for lost in stripe.real() {
            let others: Vec<Slot> = stripe.real().into_iter().filter(|slot| *slot != lost).collect();
            for mut helpers in choices(&others, used) {
                tag += 1;
                helpers.rotate_left(tag as usize % used);
                rebuilds(&stripe, lost, &helpers, tag);
            }
        }
    }
    assert_eq!(tag, 8 * 21 + 7 * 15 + 6 * 10 + 5 * 6 + 4 * 3);
}

/// Every lost slot of 10+10, from helper sets of chance in an order of chance; full stripes and short ones.
#[test]
fn sampled_helper_sets_of_10_10() {
    const SEED: u64 = 0x5eed_1010;
    println!("SEED={SEED:#x}");
    let mut chance = ChaCha8Rng::seed_from_u64(SEED);
    let code = CodeParams::new(10, 10).expect("valid");
    for (used, sets) in [(10, 3), (9, 1), (4, 1), (1, 1)] {
        let stripe = Stripe::new(code, used, SLICE_SIZE);
        for lost in stripe.real() {
            let others: Vec<Slot> = stripe.real().into_iter().filter(|slot| *slot != lost).collect();
            for _ in 0..sets {
                let helpers = sample(&others, used, &mut chance);
                rebuilds(&stripe, lost, &helpers, chance.next_u64());
            }
        }
    }
}

/// DUR-3: whole shards, a data slot, a parity slot and a slot of a short stripe.
#[test]
fn a_whole_shard_comes_back() {
    for (used, lost, helpers) in
        [(5, 0, vec![7, 2, 1, 6, 4]), (5, 6, vec![0, 1, 2, 3, 4]), (2, 5, vec![6, 1]), (1, 0, vec![7])]
    {
        let stripe = Stripe::new(CodeParams::DEFAULT, used, SHARD_SIZE);
        let (lost, helpers) = (slot(lost), slots(&helpers));
        let session = plan(&stripe.codec, used, lost, &helpers, 1);
        let mut parties = Parties::new(&stripe.codec, &session, 1, root_of(stripe.shard(lost)));
        for slice in 0..SLICES {
            assert!(!parties.holder.is_done());
            parties.run(&stripe, slice, |_, _| {});
        }
        assert!(parties.holder.is_done() && parties.helpers.iter().all(|(_, helper)| helper.is_done()));
        let shard = parties.holder.finish().expect("the right root");
        assert!(*shard == *stripe.shard(lost), "lost {lost}");
    }
}

/// Every pair has a mask of its own for every slice, and both of the pair have the same.
#[test]
fn every_mask_differs_but_for_its_two_owners() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let session = plan(&codec, 5, slot(7), &slots(&[0, 1, 2, 3, 4]), 5);
    let mut found: BTreeMap<[u8; 32], Vec<(Pair, usize)>> = BTreeMap::new();
    for (party, _) in session.parties() {
        let masks = Masks::agree(&session, &session.id(), party, &secret(5, party)).expect("agrees");
        let pairs = Part::of(&session, party).expect("a party").pairs;
        assert!(pairs.len() == 5 && masks.seeds().len() == 5);
        for (seed, pair) in masks.seeds().iter().zip(pairs) {
            for slice in 0..SLICES {
                let mut start = [0; 32];
                seed.mask(slice, &mut start);
                found.entry(start).or_default().push((pair, slice));
            }
        }
    }
    assert_eq!(found.len(), 15 * SLICES);
    assert!(found.values().all(|owners| owners.len() == 2 && owners[0] == owners[1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// One changed bit of one slice of one helper: an error, never a byte. The same without it: the shard.
    #[test]
    fn a_corrupted_slice_is_a_root_error(
        liar in 0usize..3, slice in 0..SLICES, at in 0..SLICE_SIZE, bit in 0u8..8, lies: bool,
    ) {
        let stripe = Stripe::new(CodeParams::DEFAULT, 3, SHARD_SIZE);
        let helpers = slots(&[1, 7, 2]);
        let (lost, liar) = (slot(5), helpers[liar]);
        let session = plan(&stripe.codec, 3, lost, &helpers, 9);
        let expected = root_of(stripe.shard(lost));
        let mut parties = Parties::new(&stripe.codec, &session, 9, expected);
        for now in 0..SLICES {
            parties.run(&stripe, now, |slot, out| {
                if lies && slot == liar && now == slice {
                    out[at] ^= 1 << bit;
                }
            });
        }
        match parties.holder.finish() {
            Ok(shard) => prop_assert!(!lies && *shard == *stripe.shard(lost)),
            Err(BlindError::WrongRoot { expected: wanted, found }) => {
                prop_assert!(lies && wanted == expected && found != expected);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
