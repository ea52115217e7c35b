//! What one core does with 64 MiB: each step alone, and source to shards. `cargo bench -p cairn-core`.

#![allow(missing_docs, reason = "criterion_group! makes a public function without them")]

use std::hint::black_box;

use cairn_core::{
    chunking::{ChunkProfile, Chunker},
    erasure::Codec,
    keys::{EpochKeys, KeyMode, MasterSeed, VaultKeys},
    pack::{Packer, RunBuilder, StripeNumbers, compress},
    stripe::{SealedStripe, StripePayload, open_stripe, root_of},
};
use cairn_proto::{CodeParams, SHARD_SIZE, StripeId, index::StripeNo};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const SOURCE: usize = 64 << 20;

/// Noise, or text with three symbols, which compresses about five to one.
fn source(noisy: bool) -> Vec<u8> {
    let mut out = vec![0; SOURCE];
    blake3::Hasher::new().update(b"bench").finalize_xof().fill(&mut out);
    if !noisy {
        out.iter_mut().for_each(|b| *b = b'a' + *b % 3);
    }
    out
}

fn keys() -> (VaultKeys, EpochKeys) {
    let keys = VaultKeys::derive(&MasterSeed::from_entropy([1; 32]));
    let epoch = keys.epoch(KeyMode::Paper, 1);
    (keys, epoch)
}

/// Everything between reading and sending; returns the bytes to be sent.
fn pipeline(source: &[u8], keys: &VaultKeys, epoch: &EpochKeys, codec: &Codec) -> usize {
    let mut chunker = Chunker::new(ChunkProfile::Files, keys.chunker_seed());
    let mut runs = RunBuilder::new(ChunkProfile::Files);
    let mut packer = Packer::new(codec.params()).expect("wide enough");
    let mut numbers = StripeNumbers::from_next(StripeNo(1));
    let mut stripes = Vec::new();
    let mut sent = 0;
    let mut parts = source.chunks(1 << 20);
    loop {
        let part = parts.next();
        chunker.push(part.unwrap_or_default());
        while let Some(chunk) = if part.is_some() { chunker.next_chunk() } else { chunker.finish() } {
            if let Some(run) = runs.push(keys.chunk_id(chunk), chunk).expect("in bounds") {
                stripes.append(&mut packer.push(compress(run), &mut numbers).expect("in bounds").1.stripes);
            }
        }
        if part.is_none() {
            if let Some(run) = runs.finish() {
                stripes.append(&mut packer.push(compress(run), &mut numbers).expect("in bounds").1.stripes);
            }
            stripes.extend(packer.finish());
        }
        for filled in stripes.drain(..) {
            let id = StripeId::from_bytes(*blake3::hash(&filled.no.0.to_le_bytes()).as_bytes());
            let sealed = SealedStripe::build(codec, filled.payload, epoch, id).expect("builds");
            sent += sealed.shards().iter().flatten().map(bytes::Bytes::len).sum::<usize>();
        }
        if part.is_none() {
            return sent;
        }
    }
}

fn steps(c: &mut Criterion) {
    let (keys, epoch) = keys();
    let codec = Codec::new(CodeParams::DEFAULT);
    let noise = source(true);
    let mut group = c.benchmark_group("step");
    group.sample_size(10).throughput(Throughput::Bytes(SOURCE as u64));
    group.bench_function("cut", |b| {
        b.iter(|| {
            let mut chunker = Chunker::new(ChunkProfile::Files, 7);
            let mut chunks = 0;
            for part in noise.chunks(1 << 20) {
                chunker.push(part);
                while let Some(chunk) = chunker.next_chunk() {
                    chunks += black_box(chunk).len();
                }
            }
            chunks
        });
    });
    group.bench_function("chunk ids", |b| {
        b.iter(|| noise.chunks(1 << 20).map(|chunk| keys.chunk_id(chunk)).fold(0, |sum, id| sum ^ id.as_bytes()[0]));
    });
    let data: Vec<_> = noise.chunks(SHARD_SIZE).take(5).collect();
    group.throughput(Throughput::Bytes(5 * SHARD_SIZE as u64));
    group.bench_function("parity", |b| b.iter(|| codec.parity(&data).expect("a stripe")));
    group.bench_function("roots", |b| b.iter(|| data.iter().map(|shard| root_of(shard)).collect::<Vec<_>>()));

    let payload = || {
        let mut payload = StripePayload::new(codec.params());
        payload.write(&noise);
        payload
    };
    let stripe = StripeId::from_bytes([9; 32]);
    group.bench_function("seal, code and hash a stripe", |b| {
        b.iter_batched(
            payload,
            |payload| SealedStripe::build(&codec, payload, &epoch, stripe).expect("builds"),
            BatchSize::LargeInput,
        );
    });
    let sealed = SealedStripe::build(&codec, payload(), &epoch, stripe).expect("builds");
    let row = sealed.row(StripeNo(1), 1, 0);
    for (name, lost) in [("open a whole stripe", 0), ("open a stripe without three shards", 3)] {
        let mut shards = sealed.shards().to_vec();
        shards.iter_mut().take(lost).for_each(|shard| *shard = None);
        group.bench_function(name, |b| {
            b.iter_batched(
                || shards.clone(),
                |shards| open_stripe(&codec, &row, shards, &epoch).expect("opens"),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn whole(c: &mut Criterion) {
    let (keys, epoch) = keys();
    let codec = Codec::new(CodeParams::DEFAULT);
    let mut group = c.benchmark_group("source to shards");
    group.sample_size(10).throughput(Throughput::Bytes(SOURCE as u64));
    for (name, noisy) in [("noise", true), ("text", false)] {
        let source = source(noisy);
        group.bench_function(name, |b| b.iter(|| pipeline(&source, &keys, &epoch, &codec)));
    }
    group.finish();
}

criterion_group!(benches, steps, whole);
criterion_main!(benches);
