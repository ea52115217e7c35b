use proptest::prelude::*;

use super::*;

fn shard(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn stripe(codec: &Codec, used: usize, length: usize) -> Vec<Option<Vec<u8>>> {
    let params = codec.params();
    let data: Vec<_> = (0..used as u64).map(|i| shard(i, length)).collect();
    let parity = codec.parity(&data).expect("a stripe");
    let gap = vec![None; params.data() - used];
    data.into_iter().map(Some).chain(gap).chain(parity.into_iter().map(Some)).collect()
}

/// Frozen parity: a kernel that replaces the crate's must give these very bytes.
#[test]
fn golden_parity() {
    let mut text = String::new();
    for (data, parity) in [(5, 3), (3, 2), (1, 1), (10, 4), (29, 3)] {
        let codec = Codec::new(CodeParams::new(data, parity).expect("valid"));
        for used in [1, usize::from(data)] {
            for (slot, made) in stripe(&codec, used, 48).iter().enumerate().skip(data.into()) {
                let hex: String = made.iter().flatten().map(|b| format!("{b:02x}")).collect();
                text += &format!("RS({data},{parity}) used {used} slot {slot} {hex}\n");
            }
        }
    }
    crate::golden::check("parity.txt", &text);
}

/// DUR-2, DUR-3: every choice of k out of n, exhaustively, full and short stripes.
#[test]
fn any_k_of_n_rebuild_every_byte() {
    for params in [CodeParams::DEFAULT, CodeParams::LOW_PEER, CodeParams::new(2, 4).expect("valid")] {
        let codec = Codec::new(params);
        for used in 1..=params.data() {
            let whole = stripe(&codec, used, 100);
            let real = |i: usize| !(used..params.data()).contains(&i);
            for kept in 0u32..1 << params.slots() {
                let keeps = |i: usize| kept & (1 << i) != 0;
                if (used..params.data()).any(keeps) {
                    continue;
                }
                let mut shards: Vec<_> =
                    whole.iter().enumerate().map(|(i, s)| if keeps(i) { s.clone() } else { None }).collect();
                let present = shards.iter().flatten().count();
                let data_lost = (0..used).any(|i| !keeps(i));
                let done = codec.reconstruct(used, &mut shards, true);
                if present >= used {
                    assert_eq!(done, Ok(()));
                    assert_eq!(shards, whole, "{params} used {used} kept {kept:b}");
                } else {
                    let lost = present + (params.data() - used);
                    assert_eq!(done, Err(ErasureError::TooFew { present: lost, needed: params.data() }));
                }
                if data_lost && present >= used {
                    let mut shards: Vec<_> =
                        (0..params.slots()).map(|i| if keeps(i) { whole[i].clone() } else { None }).collect();
                    assert_eq!(codec.reconstruct(used, &mut shards, false), Ok(()));
                    assert!((0..used).filter(|i| real(*i)).all(|i| shards[i] == whole[i]));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn other_shapes_rebuild_too(
        data in 1u8..17, parity in 1u8..16, used in 1usize..17, length in 1usize..200, seed: u64,
    ) {
        let codec = Codec::new(CodeParams::new(data, parity)?);
        let used = used.min(data.into());
        let whole = stripe(&codec, used, length);
        let mut shards = whole.clone();
        let mut at = seed;
        for _ in 0..parity {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let slot = (at >> 33) as usize % shards.len();
            shards[slot] = None;
        }
        prop_assert_eq!(codec.reconstruct(used, &mut shards, true), Ok(()));
        prop_assert_eq!(shards, whole);
    }
}

#[test]
fn what_is_no_stripe_is_refused() {
    let codec = Codec::new(CodeParams::LOW_PEER);
    assert!(codec.parity::<Vec<u8>>(&[]).is_err());
    assert!(codec.parity(&[vec![1], vec![2, 3]]).is_err());
    assert!(codec.parity(&vec![vec![1]; 4]).is_err());
    assert!(codec.parity(&[Vec::new()]).is_err());
    assert!(codec.reconstruct(3, &mut vec![None; 4], false).is_err());
    assert!(codec.reconstruct(0, &mut vec![None; 5], false).is_err());
    assert!(codec.reconstruct(4, &mut vec![None; 5], false).is_err());
    assert!(codec.reconstruct(1, &mut [Some(vec![1]), None, None, Some(vec![1, 2]), None], false).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// A lost slot is the sum that the coefficients say, from any helpers, in any order, data and parity, and no helper is
    /// idle.
    #[test]
    fn coefficients_make_the_lost_shard(data in 1u8..17, parity in 1u8..16, used in 1usize..17, seed: u64) {
        let codec = Codec::new(CodeParams::new(data, parity)?);
        let used = used.min(data.into());
        let whole = stripe(&codec, used, 70);
        let mut left: Vec<usize> = (0..whole.len()).filter(|slot| whole[*slot].is_some()).collect();
        let mut at = seed;
        let mut chosen = Vec::new();
        for _ in 0..=used {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chosen.push(left.swap_remove((at >> 33) as usize % left.len()));
        }
        let slots: Vec<Slot> = chosen.iter().map(|slot| Slot::new(*slot as u8)).collect::<Result<_, _>>()?;
        let coefficients = codec.coefficients(used, slots[0], &slots[1..])?;
        prop_assert!(coefficients.len() == used && coefficients.iter().all(|c| *c != 0));
        let mut sum = vec![0u8; 70];
        for (coefficient, slot) in coefficients.iter().zip(&chosen[1..]) {
            let shard = whole[*slot].as_deref().unwrap_or_default();
            reed_solomon_erasure::galois_8::mul_slice_xor(*coefficient, shard, &mut sum);
        }
        prop_assert_eq!(Some(&sum), whole[chosen[0]].as_ref());
        // The kernel's sum is the same, into a buffer that had something in it.
        let inputs: Vec<&[u8]> = chosen[1..].iter().filter_map(|slot| whole[*slot].as_deref()).collect();
        let mut kernel = vec![0xa5; 70];
        combine(&coefficients, &inputs, &mut [&mut kernel]);
        prop_assert_eq!(kernel, sum);
    }
}

#[test]
fn what_cannot_help_has_no_coefficients() {
    let codec = Codec::new(CodeParams::DEFAULT);
    let of = |used, lost: u8, helpers: &[u8]| {
        let helpers: Vec<Slot> = helpers.iter().map(|slot| Slot::new(*slot).expect("a slot")).collect();
        codec.coefficients(used, Slot::new(lost).expect("a slot"), &helpers)
    };
    assert!(of(5, 0, &[1, 2, 3, 4, 5]).is_ok());
    assert!(of(2, 0, &[1, 7]).is_ok());
    assert_eq!(of(5, 0, &[1, 2, 3]), Err(ErasureError::TooFew { present: 3, needed: 5 }));
    assert_eq!(of(3, 0, &[1]), Err(ErasureError::TooFew { present: 3, needed: 5 }));
    for (used, lost, helpers) in [
        (5, 0, &[0, 1, 2, 3, 4][..]),
        (5, 0, &[1, 1, 2, 3, 4]),
        (5, 0, &[1, 2, 3, 4, 5, 6]),
        (5, 8, &[0, 1, 2, 3, 4]),
        (5, 0, &[1, 2, 3, 4, 8]),
        (2, 0, &[1, 2]),
        (2, 4, &[0, 1]),
        (0, 0, &[]),
        (6, 0, &[1, 2, 3, 4, 5, 6]),
    ] {
        assert!(matches!(of(used, lost, helpers), Err(ErasureError::Shape { .. })), "{used} {lost} {helpers:?}");
    }
}
