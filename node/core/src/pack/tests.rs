use std::collections::BTreeMap;

use cairn_proto::index::RunCodec;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::keys::{MasterSeed, VaultKeys};

fn keys() -> VaultKeys {
    VaultKeys::derive(&MasterSeed::from_entropy([1; 32]))
}

/// Noise when `noisy`, else text that compresses.
fn bytes(seed: u64, length: usize, noisy: bool) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    if !noisy {
        out.iter_mut().for_each(|b| *b = b'a' + *b % 3);
    }
    out
}

fn raw_run(seed: u64, length: usize, noisy: bool) -> RawRun {
    let raw = bytes(seed, length, noisy);
    let id = keys().chunk_id(&raw);
    RawRun { chunks: vec![(id, raw.len() as u32)], raw }
}

/// Reads every run back out of the stripes and checks it against what went in, in order.
fn check(packed: &Packed, runs: &[RawRun]) {
    let stripes: BTreeMap<_, _> = packed.stripes.iter().map(|s| (s.no, &s.payload)).collect();
    assert_eq!(stripes.len(), packed.stripes.len(), "a stripe number came twice");
    assert_eq!(packed.rows.len(), runs.len());
    for (row, run) in packed.rows.iter().zip(runs) {
        let next = row.place.next.map(|no| stripes[&no]);
        let stored = gather(&row.place, stripes[&row.place.stripe], next).expect("lies there");
        assert_eq!(read_run(&row.place, &stored).expect("reads"), run.raw);
        assert_eq!(row.chunks, run.chunks);
        for (id, range) in row.ranges() {
            assert_eq!(keys().chunk_id(&run.raw[range]), id);
        }
    }
    let segment = cairn_proto::index::IndexSegment { stripes: vec![], runs: packed.rows.clone() };
    assert!(segment.encode().is_ok(), "rows are valid");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn runs_come_back_from_their_stripes(
        sizes in vec((1usize..2_000_000, any::<bool>()), 1..12), low_peer: bool, metadata: bool,
    ) {
        let code = if low_peer { CodeParams::LOW_PEER } else { CodeParams::DEFAULT };
        let mut numbers = StripeNumbers::from_next(StripeNo(1));
        let mut tail = Packer::new(code)?;
        let mut lane = MetadataLane::new(code);
        let mut packed = Packed::default();
        let runs: Vec<_> = sizes.into_iter().zip(0..).map(|((n, noisy), i)| raw_run(i, n, noisy)).collect();
        for run in &runs {
            let run = compress(run.clone());
            packed.append(if metadata { lane.push(run, &mut numbers)? } else { tail.push(run, &mut numbers)?.1 });
        }
        for run in lane.drain() {
            packed.append(tail.push(run, &mut numbers)?.1);
        }
        packed.stripes.extend(tail.finish());
        check(&packed, &runs);
        prop_assert_eq!(numbers.next(), StripeNo(packed.stripes.len() as u64 + 1));
    }
}

#[test]
fn noise_alone_lies_where_a_run_of_it_would() {
    let (mut numbers, mut others) = (StripeNumbers::from_next(StripeNo(1)), StripeNumbers::from_next(StripeNo(1)));
    let (mut packer, mut other) =
        (Packer::new(CodeParams::DEFAULT).expect("wide"), Packer::new(CodeParams::DEFAULT).expect("wide"));
    // Small ones between them, so that they span stripes at odd places.
    for (seed, size) in [(1, 256 << 10), (2, 700), (3, 4 << 20), (4, 1 << 20), (5, 1_000_001)] {
        let run = raw_run(seed, size, true);
        let (id, raw) = (run.chunks[0].0, run.raw.clone());
        assert_eq!(is_alone(&raw), size >= 256 << 10);
        let (_, wanted) = other.push(compress(run), &mut others).expect("fits");
        let packed = packer.push_alone(id, &raw, &mut numbers).expect("fits");
        assert_eq!(packed.rows, wanted.rows);
        assert!(size < 256 << 10 || PackedRun::alone(id, &raw) == compress(raw_run(seed, size, true)));
        let parts = |packed: Packed| {
            packed.stripes.into_iter().flat_map(|stripe| stripe.payload.into_parts()).collect::<Vec<_>>()
        };
        assert!(parts(packed) == parts(wanted));
    }
    assert!(!is_alone(&bytes(6, 1 << 20, false)), "text");
    assert!(packer.push_alone(keys().chunk_id(b""), b"", &mut numbers).is_err());
}

/// Payload borders: one byte below, at and above, and runs too large for what is left and the next stripe.
#[test]
fn runs_at_the_borders_of_a_stripe() {
    let code = CodeParams::LOW_PEER;
    let payload = code.stripe_payload();
    let most = RUN_RAW_MAX as usize;
    for sizes in [
        vec![payload],
        vec![payload - 1, 1, 1],
        vec![payload + 1],
        vec![most, most, most],
        vec![payload - 1, 2],
        vec![payload - 100, most, 5],
        vec![2 * payload - most, most],
    ] {
        let mut numbers = StripeNumbers::from_next(StripeNo(10));
        let mut packer = Packer::new(code).expect("wide enough");
        let mut packed = Packed::default();
        let runs: Vec<_> = sizes.iter().zip(0..).map(|(n, i)| raw_run(i, *n, true)).collect();
        for run in &runs {
            packed.append(packer.push(compress(run.clone()), &mut numbers).expect("fits").1);
        }
        packed.stripes.extend(packer.finish());
        check(&packed, &runs);
        let total: usize = sizes.iter().sum();
        assert!(packed.stripes.len() <= total.div_ceil(payload) + 1, "{sizes:?}");
    }
}

#[test]
fn small_metadata_joins_the_tail() {
    let mut numbers = StripeNumbers::from_next(StripeNo(1));
    let mut data = Packer::new(CodeParams::DEFAULT).expect("wide enough");
    let mut lane = MetadataLane::new(CodeParams::DEFAULT);
    let runs = [raw_run(0, 1000, true), raw_run(1, 500, true)];
    let mut packed = data.push(compress(runs[0].clone()), &mut numbers).expect("fits").1;
    assert!(lane.push(compress(runs[1].clone()), &mut numbers).expect("fits").rows.is_empty());
    for run in lane.drain() {
        packed.append(data.push(run, &mut numbers).expect("fits").1);
    }
    packed.stripes.extend(data.finish());
    check(&packed, &runs);
    assert_eq!(packed.stripes.len(), 1);
    assert_eq!(packed.stripes[0].payload.used(), 1, "one short stripe");
}

#[test]
fn builders_end_runs_at_their_target() {
    let mut builder = RunBuilder::new(ChunkProfile::Stream);
    let mut runs = Vec::new();
    for i in 0..100 {
        let chunk = bytes(i, 10_000, true);
        runs.extend(builder.push(keys().chunk_id(&chunk), &chunk).expect("fits"));
    }
    runs.extend(builder.finish());
    assert!(builder.finish().is_none());
    assert!(runs.iter().all(|run| run.raw.len() <= 256 << 10));
    assert_eq!(runs.iter().map(|run| run.chunks.len()).sum::<usize>(), 100);

    let mut builder = RunBuilder::new(ChunkProfile::Files);
    let large = vec![1u8; RUN_RAW_MAX as usize];
    let id = keys().chunk_id(&large);
    assert_eq!(builder.push(id, &[1; 10]), Ok(None));
    assert_eq!(builder.push(id, &large).expect("alone in its run").map(|run| run.raw.len()), Some(10));
    assert!(builder.push(id, &[]).is_err());
    assert!(builder.push(id, &[large, vec![1]].concat()).is_err());
    let mut builder = RunBuilder::new(ChunkProfile::Files);
    let tiny: usize = (0..10_000).filter_map(|_| builder.push(id, &[1]).expect("fits")).map(|r| r.chunks.len()).sum();
    assert_eq!(tiny, 49 * RUN_CHUNKS);
}

/// Values that are all as frequent as each other may still repeat: the sample tells them from noise.
#[test]
fn even_bytes_that_repeat_are_compressed() {
    let once = bytes(31, 1000, true);
    let raw: Vec<u8> = once.iter().copied().cycle().take(300_000).collect();
    let packed = compress(RawRun::blob(raw).expect("a run"));
    assert!(packed.codec == RunCodec::Zstd && packed.stored.len() < 10_000, "{packed:?}");
}

#[test]
fn noise_is_stored_raw_and_text_is_not() {
    for length in [1, 100, 65_536, 1 << 20] {
        assert_eq!(compress(raw_run(1, length, true)).codec, RunCodec::Raw, "{length}");
    }
    for length in [1000, 65_536, 1 << 20] {
        let packed = compress(raw_run(1, length, false));
        assert_eq!(packed.codec, RunCodec::Zstd, "{length}");
        assert!(packed.stored.len() < length / 2);
    }
}

#[test]
fn a_run_never_decompresses_to_more_than_the_index_says() {
    let packed = compress(RawRun::blob(vec![0; RUN_RAW_MAX as usize]).expect("fits"));
    let place = |raw_len| RunPlace {
        stripe: StripeNo(1),
        offset: 0,
        stored_len: packed.stored.len() as u32,
        next: None,
        codec: packed.codec,
        raw_len,
    };
    assert!(packed.stored.len() < 1000, "a small bomb");
    assert!(read_run(&place(RUN_RAW_MAX), &packed.stored).is_ok());
    for raw_len in [1, 1000, RUN_RAW_MAX - 1, u32::MAX] {
        assert_eq!(read_run(&place(raw_len), &packed.stored), Err(ReadRunError::Damaged), "{raw_len}");
    }
    let short = packed.stored[1..].to_vec();
    assert!(matches!(read_run(&place(RUN_RAW_MAX), &short), Err(ReadRunError::Length { .. })));
}

proptest! {
    #[test]
    fn damaged_runs_never_panic(mut stored in vec(any::<u8>(), 1..300), raw_len in 1..RUN_RAW_MAX, magic: bool) {
        if magic && stored.len() > 4 {
            stored[..4].copy_from_slice(&0xFD2F_B528u32.to_le_bytes());
        }
        let stored_len = stored.len() as u32;
        let place = RunPlace { stripe: StripeNo(1), offset: 0, stored_len, next: None, codec: RunCodec::Zstd, raw_len };
        if let Ok(raw) = read_run(&place, &stored) {
            prop_assert_eq!(raw.len(), raw_len as usize);
        }
    }
}

#[test]
fn limits_are_said() {
    assert!(Packer::new(CodeParams::new(2, 1).expect("valid")).is_err());
    assert!(RawRun::blob(vec![]).is_err());
    assert!(RawRun::blob(vec![0; RUN_RAW_MAX as usize + 1]).is_err());
    let parts = blobs(&vec![7; RUN_RAW_MAX as usize + 1]);
    assert_eq!(parts.iter().map(|p| p.raw.len()).collect::<Vec<_>>(), [RUN_RAW_MAX as usize, 1]);
}
