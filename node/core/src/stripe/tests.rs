use cairn_proto::index::StripeNo;
use proptest::prelude::*;

use super::*;
use crate::keys::{KeyMode, MasterSeed, VaultKeys};

fn epoch(seed: u8) -> EpochKeys {
    VaultKeys::derive(&MasterSeed::from_entropy([seed; 32])).epoch(KeyMode::Paper, 1)
}

fn bytes(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(b"payload").finalize_xof().fill(&mut out);
    out
}

fn build(codec: &Codec, length: usize) -> (StripeRow, Vec<Option<Bytes>>) {
    let mut payload = StripePayload::new(codec.params());
    assert_eq!(payload.write(&bytes(length)), length);
    let sealed = SealedStripe::build(codec, payload, &epoch(1), StripeId::from_bytes([9; 32])).expect("builds");
    (sealed.row(StripeNo(1), 1, 0), sealed.shards().to_vec())
}

fn hashed(shards: &[Option<Bytes>]) -> Vec<Option<HashedShard>> {
    shards.iter().map(|shard| shard.clone().map(HashedShard::new)).collect()
}

fn codec() -> Codec {
    Codec::new(CodeParams::DEFAULT)
}

#[test]
fn payloads_write_and_read_at_every_border() {
    let mut payload = StripePayload::new(CodeParams::LOW_PEER);
    assert!(payload.is_empty());
    let all = bytes(3 * SHARD_PAYLOAD);
    let mut left = &all[..];
    for part in [1, SHARD_PAYLOAD - 2, 1, 1, SHARD_PAYLOAD, SHARD_PAYLOAD + 100] {
        let taken = payload.write(&left[..part.min(left.len())]);
        left = &left[taken..];
    }
    assert_eq!((payload.len(), payload.room(), payload.used()), (3 * SHARD_PAYLOAD, 0, 3));
    assert_eq!(payload.write(b"more"), 0);
    for (at, length) in [(0, 10), (SHARD_PAYLOAD - 5, 10), (5, 2 * SHARD_PAYLOAD), (3 * SHARD_PAYLOAD, 0)] {
        assert_eq!(payload.read(at, length).as_deref(), Some(&all[at..at + length]));
    }
    assert_eq!(payload.read(3 * SHARD_PAYLOAD, 1), None);
    assert_eq!(payload.read(usize::MAX, 2), None);
}

#[test]
fn short_and_full_stripes_come_back() {
    let codec = codec();
    for length in [1, SHARD_PAYLOAD - 1, SHARD_PAYLOAD, SHARD_PAYLOAD + 1, 5 * SHARD_PAYLOAD] {
        let (row, shards) = build(&codec, length);
        let used = length.div_ceil(SHARD_PAYLOAD);
        assert_eq!(usize::from(row.used), used);
        assert_eq!(shards.iter().flatten().count(), used + 3, "virtual shards are never sent");
        assert!(shards.iter().flatten().all(|s| s.len() == SHARD_SIZE));
        let opened = open_stripe(&codec, &row, hashed(&shards), &epoch(1)).expect("opens");
        assert!(opened.wrong.is_empty());
        assert_eq!(opened.payload.read(0, length).as_deref(), Some(&bytes(length)[..]));
        let parts = opened.payload.into_parts();
        assert_eq!(parts.len(), used);
        assert!(parts.iter().all(|part| part.len() == SHARD_PAYLOAD));
        assert_eq!(parts.concat()[..length], bytes(length));

        let (slot, _) = row.present().next().expect("one at least");
        let one = open_shard(&row, slot, shards[0].as_deref().expect("real"), &epoch(1)).expect("opens");
        assert_eq!(one[..length.min(SHARD_PAYLOAD)], bytes(length)[..length.min(SHARD_PAYLOAD)]);
    }
}

/// DUR-2: three of eight lost is nothing; four are a clear error.
#[test]
fn losses_up_to_parity_are_made_good() {
    let codec = codec();
    let (row, whole) = build(&codec, 5 * SHARD_PAYLOAD);
    for lost in [vec![0, 1, 2], vec![0, 4, 7], vec![5, 6, 7], vec![2, 3, 4]] {
        let mut shards = whole.clone();
        for slot in &lost {
            shards[*slot] = None;
        }
        let opened = open_stripe(&codec, &row, hashed(&shards), &epoch(1)).expect("opens");
        assert_eq!(opened.payload.read(0, 5 * SHARD_PAYLOAD), Some(bytes(5 * SHARD_PAYLOAD)));
        let rebuilt = rebuild(&codec, &row, hashed(&shards)).expect("rebuilds");
        assert_eq!(rebuilt, whole, "DUR-3");
    }
    let mut shards = whole;
    for slot in [0, 2, 5, 7] {
        shards[slot] = None;
    }
    let stripe = row.stripe;
    let error = open_stripe(&codec, &row, hashed(&shards), &epoch(1)).expect_err("four lost");
    assert_eq!(error, StripeError::TooFew { stripe, good: 4, needed: 5, bad: 0 });
    assert_eq!(rebuild(&codec, &row, hashed(&shards)).expect_err("four lost"), error);
}

/// DUR-2: the same from shards that were proven one by one, in any order; what is not this stripe's is no help.
#[test]
fn proven_shards_open_and_rebuild() {
    let codec = codec();
    for length in [1, 2 * SHARD_PAYLOAD, 5 * SHARD_PAYLOAD] {
        let (row, whole) = build(&codec, length);
        let used = usize::from(row.used);
        let prove = |slot: usize| {
            let bytes = whole[slot].clone().expect("real");
            ProvenShard::new(&row, Slot::new(slot as u8).expect("in range"), bytes, &epoch(1)).expect("right")
        };
        for lost in [vec![], vec![0], vec![0, 4, 7], vec![5, 6, 7], vec![1, 2, 3]] {
            let real = (0..8).rev().filter(|slot| whole[*slot].is_some() && !lost.contains(slot));
            let shards: Vec<ProvenShard> = real.map(prove).collect();
            let parts = open_proven(&codec, &row, shards, &epoch(1)).expect("opens");
            assert_eq!(parts.len(), used);
            assert_eq!(parts.concat()[..length], bytes(length), "without {lost:?}");
        }
        let mut other = row.clone();
        other.stripe = StripeId::from_bytes([8; 32]);
        let strange = vec![prove(5), prove(6), prove(7)];
        let error = open_proven(&codec, &other, strange, &epoch(1)).err();
        assert_eq!(error, Some(StripeError::TooFew { stripe: other.stripe, good: 0, needed: used, bad: 0 }));
    }
    let (row, whole) = build(&codec, 5 * SHARD_PAYLOAD);
    for (slot, from) in [(0u8, 1), (0, 5), (5, 0), (5, 6), (8, 5)] {
        let slot = Slot::new(slot).expect("in range");
        let proven = ProvenShard::new(&row, slot, whole[from].clone().expect("real"), &epoch(1));
        assert_eq!(proven.expect_err("not this slot's"), StripeError::WrongBytes { stripe: row.stripe, slot });
    }
}

#[test]
fn a_short_stripe_needs_only_its_own_data_shards() {
    let codec = codec();
    let (row, whole) = build(&codec, 2 * SHARD_PAYLOAD);
    let mut shards = whole.clone();
    for slot in [0, 1, 6] {
        shards[slot] = None;
    }
    let opened = open_stripe(&codec, &row, hashed(&shards), &epoch(1)).expect("two parity shards are enough");
    assert_eq!(opened.payload.read(0, 2 * SHARD_PAYLOAD), Some(bytes(2 * SHARD_PAYLOAD)));
    assert_eq!(rebuild(&codec, &row, hashed(&shards)).expect("rebuilds"), whole);
    shards[7] = None;
    let error = open_stripe(&codec, &row, hashed(&shards), &epoch(1)).expect_err("one is not");
    assert_eq!(error, StripeError::TooFew { stripe: row.stripe, good: 1, needed: 2, bad: 0 });
}

#[test]
fn a_lying_holder_is_named_and_never_believed() {
    let codec = codec();
    let (row, whole) = build(&codec, 5 * SHARD_PAYLOAD);
    let swapped = {
        let mut shards = whole.clone();
        shards.swap(0, 1);
        shards
    };
    let opened = open_stripe(&codec, &row, hashed(&swapped), &epoch(1)).expect("two wrong of eight");
    assert_eq!(opened.wrong.iter().map(|s| s.index()).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(opened.payload.read(0, 5 * SHARD_PAYLOAD), Some(bytes(5 * SHARD_PAYLOAD)));

    let mut short = whole.clone();
    short[3] = short[3].as_ref().map(|s| s.slice(1..));
    assert_eq!(open_stripe(&codec, &row, hashed(&short), &epoch(1)).expect("opens").wrong.len(), 1);

    let zeros = Bytes::from(vec![0; SHARD_SIZE]);
    let mut many = whole;
    for shard in &mut many[..4] {
        *shard = Some(zeros.clone());
    }
    let error = open_stripe(&codec, &row, hashed(&many), &epoch(1)).expect_err("four wrong");
    assert_eq!(error, StripeError::TooFew { stripe: row.stripe, good: 4, needed: 5, bad: 4 });
}

#[test]
fn other_keys_codes_and_slots_do_not_open() {
    let codec = codec();
    let (row, shards) = build(&codec, 10);
    let opened = open_stripe(&codec, &row, hashed(&shards), &epoch(2));
    assert!(matches!(opened, Err(StripeError::Sealed { .. })));
    let other = Codec::new(CodeParams::LOW_PEER);
    assert!(matches!(open_stripe(&other, &row, hashed(&shards), &epoch(1)), Err(StripeError::Row(_))));
    let slot = |i| Slot::new(i).expect("in range");
    let (data, parity) = (shards[0].as_deref().expect("real"), shards[5].as_deref().expect("real"));
    for (at, shard) in [(0, parity), (1, data), (5, parity), (8, parity), (31, parity), (0, &data[1..]), (0, &[])] {
        let opened = open_shard(&row, slot(at), shard, &epoch(1));
        assert_eq!(opened, Err(StripeError::WrongBytes { stripe: row.stripe, slot: slot(at) }));
    }
    let mut flipped = data.to_vec();
    flipped[4711] ^= 1;
    let opened = open_shard(&row, slot(0), &flipped, &epoch(1));
    assert_eq!(opened, Err(StripeError::WrongBytes { stripe: row.stripe, slot: slot(0) }), "the holder's fault");
    let opened = open_shard(&row, slot(0), data, &epoch(2));
    assert!(matches!(opened, Err(StripeError::Sealed { .. })), "not the holder's fault: {opened:?}");
    let empty = StripePayload::new(CodeParams::DEFAULT);
    assert!(SealedStripe::build(&codec, empty, &epoch(1), row.stripe).is_err());
    let mut wide = StripePayload::new(CodeParams::DEFAULT);
    wide.write(&bytes(4 * SHARD_PAYLOAD));
    assert!(SealedStripe::build(&other, wide, &epoch(1), row.stripe).is_err(), "four data shards are not three");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// DUR-2: one flipped bit in each of three shards changes nothing.
    #[test]
    fn flipped_bits_are_noticed(flips in proptest::collection::vec((0usize..8, 0..SHARD_SIZE, 0u8..8), 1..=3)) {
        let codec = codec();
        let (row, mut shards) = build(&codec, 5 * SHARD_PAYLOAD);
        for (slot, at, bit) in flips {
            let mut bytes = shards[slot].as_ref().expect("real").to_vec();
            bytes[at] ^= 1 << bit;
            shards[slot] = Some(Bytes::from(bytes));
        }
        let opened = open_stripe(&codec, &row, hashed(&shards), &epoch(1)).expect("at most three wrong");
        prop_assert!(opened.payload.read(0, 5 * SHARD_PAYLOAD) == Some(bytes(5 * SHARD_PAYLOAD)));
    }
}

/// Buffers come with what was in them before: nothing of it may reach a shard.
#[test]
fn used_buffers_make_the_same_shards() {
    let codec = codec();
    for length in [1, SHARD_PAYLOAD - 1, SHARD_PAYLOAD, 2 * SHARD_PAYLOAD + 3] {
        let (_, first) = build(&codec, length);
        for filler in [0, 0xaa] {
            // More than are kept, so that whatever is taken has it.
            let dirty: Vec<_> = (0..64).map(|_| ShardBuffer::copy_of(&[filler; SHARD_SIZE])).collect();
            drop(dirty);
            assert_eq!(build(&codec, length).1, first);
        }
    }
}

#[test]
fn golden_roots() {
    let text: String = [1, 3 * SHARD_PAYLOAD + 7]
        .into_iter()
        .flat_map(|length| build(&codec(), length).0.roots.into_iter().enumerate())
        .map(|(slot, root)| format!("{slot} {}\n", root.map_or("virtual".into(), |r| r.to_string())))
        .collect();
    crate::golden::check("roots.txt", &text);
}
