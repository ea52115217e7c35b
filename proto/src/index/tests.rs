use proptest::{collection::vec, option, prelude::*};

use super::*;

pub(crate) fn stripe_row() -> impl Strategy<Value = StripeRow> {
    (1u8..16, 1u8..16, any::<u8>(), 1u64..1 << 40, 0..=GROUPS_MAX, any::<(u8, u32, [u8; 32])>()).prop_map(
        |(data, parity, used, no, group, (ordinal, epoch, seed))| {
            let used = used % data + 1;
            let root = |slot: u8| {
                let real = slot < used || slot >= data;
                real.then(|| ShardRoot::from_bytes([slot; 32]))
            };
            let roots = (0..data + parity).map(root).collect();
            StripeRow { no: StripeNo(no), group, ordinal, epoch, stripe: StripeId::from_bytes(seed), used, roots }
        },
    )
}

pub(crate) fn place() -> impl Strategy<Value = RunPlace> {
    (1u64..1000, 0..5 * SHARD_PAYLOAD as u32, 1..=RUN_RAW_MAX, option::of(1001u64..2000), any::<u32>()).prop_map(
        |(stripe, offset, stored_len, next, more)| {
            let raw_len = (stored_len + more % 1000).min(RUN_RAW_MAX);
            let codec = if raw_len == stored_len { RunCodec::Raw } else { RunCodec::Zstd };
            RunPlace { stripe: StripeNo(stripe), offset, stored_len, next: next.map(StripeNo), codec, raw_len }
        },
    )
}

fn run_row() -> impl Strategy<Value = RunRow> {
    (place(), vec((any::<[u8; 32]>(), 1u32..100_000), 1..20)).prop_map(|(mut place, chunks)| {
        let chunks: Vec<_> = chunks.into_iter().map(|(id, len)| (ChunkId::from_bytes(id), len)).collect();
        place.raw_len = chunks.iter().map(|(_, len)| len).sum();
        place.stored_len = place.stored_len.min(place.raw_len);
        place.codec = if place.raw_len == place.stored_len { RunCodec::Raw } else { RunCodec::Zstd };
        RunRow { place, chunks }
    })
}

proptest! {
    #[test]
    fn segments_round_trip(stripes in vec(stripe_row(), 0..8), runs in vec(run_row(), 0..8)) {
        let segment = IndexSegment { stripes, runs };
        prop_assert_eq!(IndexSegment::decode(&segment.encode()?), Ok(segment));
    }

    #[test]
    fn a_segment_that_decodes_has_one_encoding(
        stripes in vec(stripe_row(), 0..3), runs in vec(run_row(), 1..3), at: prop::sample::Index, bit in 0u8..8,
    ) {
        let mut bytes = IndexSegment { stripes, runs }.encode()?;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = IndexSegment::decode(&bytes) {
            prop_assert_eq!(other.encode()?, bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = IndexSegment::decode(&bytes);
        let _ = IndexSegment::decode(&[&[VERSION], &bytes[..]].concat());
    }

    #[test]
    fn rows_know_their_code(row in stripe_row()) {
        let code = row.code()?;
        prop_assert_eq!(code.slots(), row.roots.len());
        prop_assert_eq!(row.present().count(), usize::from(row.used) + code.parity());
    }

    #[test]
    fn a_place_splits_where_its_stripe_ends(mut place in place(), used in 1u64..6) {
        let payload = used * SHARD_PAYLOAD as u64;
        let end = u64::from(place.offset) + u64::from(place.stored_len);
        place.next = (end > payload).then_some(StripeNo(5000));
        match place.split(payload) {
            Ok((here, rest)) => {
                prop_assert_eq!(here + rest, place.stored_len);
                prop_assert!(u64::from(place.offset) + u64::from(here) <= payload);
                prop_assert_eq!(rest > 0, end > payload);
            }
            Err(_) => prop_assert!(u64::from(place.offset) >= payload),
        }
        place.next = if end > payload { None } else { Some(StripeNo(5000)) };
        prop_assert!(place.split(payload).is_err());
    }
}

#[test]
fn slots_of_a_range_are_exact() {
    let payload = SHARD_PAYLOAD as u32;
    assert_eq!(RunPlace::slots_of(0, 1), 0..1);
    assert_eq!(RunPlace::slots_of(0, payload), 0..1);
    assert_eq!(RunPlace::slots_of(0, payload + 1), 0..2);
    assert_eq!(RunPlace::slots_of(payload - 1, 2), 0..2);
    assert_eq!(RunPlace::slots_of(4 * payload, payload), 4..5);
}

#[test]
fn rows_that_break_a_rule_are_refused() {
    let root = Some(ShardRoot::from_bytes([1; 32]));
    let row = |used: u8, roots: Vec<Option<ShardRoot>>| StripeRow {
        no: StripeNo(1),
        group: 1,
        ordinal: 0,
        epoch: 1,
        stripe: StripeId::from_bytes([2; 32]),
        used,
        roots,
    };
    assert_eq!(row(1, vec![root, None, None, root]).code(), CodeParams::new(3, 1));
    for bad in [
        row(0, vec![None, root]),
        row(1, vec![root]),
        row(1, vec![None, root, root]),
        row(2, vec![root, None, root]),
        row(1, vec![root, None]),
        row(1, vec![root; 33]),
        StripeRow { no: StripeNo(0), ..row(1, vec![root; 2]) },
    ] {
        assert!(IndexSegment { stripes: vec![bad], runs: vec![] }.encode().is_err());
    }
    let place =
        RunPlace { stripe: StripeNo(1), offset: 0, stored_len: 10, next: None, codec: RunCodec::Raw, raw_len: 10 };
    let chunks = vec![(ChunkId::from_bytes([0; 32]), 10)];
    let good = RunRow { place, chunks };
    assert!(IndexSegment { stripes: vec![], runs: vec![good.clone()] }.encode().is_ok());
    for bad in [
        RunPlace { stripe: StripeNo(0), ..place },
        RunPlace { next: Some(StripeNo(1)), ..place },
        RunPlace { stored_len: 0, ..place },
        RunPlace { stored_len: 11, codec: RunCodec::Zstd, ..place },
        RunPlace { raw_len: 11, ..place },
        RunPlace { raw_len: RUN_RAW_MAX + 1, codec: RunCodec::Zstd, ..place },
        RunPlace { offset: u32::MAX, ..place },
    ] {
        let row = RunRow { place: bad, ..good.clone() };
        assert!(IndexSegment { stripes: vec![], runs: vec![row] }.encode().is_err(), "{bad:?}");
    }
}

#[test]
fn rows_are_split_into_segments_that_fit() {
    let place =
        RunPlace { stripe: StripeNo(1), offset: 0, stored_len: 4096, next: None, codec: RunCodec::Raw, raw_len: 4096 };
    let row = RunRow { place, chunks: vec![(ChunkId::from_bytes([9; 32]), 1); RUN_CHUNKS_MAX] };
    let rows = vec![row; 100];
    let segments = IndexSegment::split(Vec::new(), rows.clone());
    assert!(segments.len() > 10);
    assert!(segments.iter().all(|s| s.encode().expect("fits").len() <= SEGMENT_MAX));
    assert_eq!(segments.into_iter().flat_map(|s| s.runs).collect::<Vec<_>>(), rows);
    assert!(IndexSegment::split(Vec::new(), Vec::new()).is_empty());
}
