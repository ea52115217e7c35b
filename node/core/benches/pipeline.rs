//! What a core does with 64 MiB between reading and sending: each step alone, and all of them on one and two threads.
//!
//! `cargo bench -p cairn-core`. `scripts/bench` reads the figures by the names of the benches: the groups `step KIND` and
//! `pipeline KIND`, each with the throughput of user data, so that the steps' times add up to what the whole should take.

#![allow(missing_docs, reason = "criterion_group! makes a public function without them")]

use std::hint::black_box;

use bytes::Bytes;
use cairn_core::{
    chunking::{ChunkProfile, Chunker},
    erasure::Codec,
    keys::{EpochKeys, KeyMode, MasterSeed, VaultKeys},
    pack::{FilledStripe, PackedRun, Packer, RawRun, RunBuilder, StripeNumbers, compress},
    seal::seal_in_place,
    stripe::{HashedShard, SealedStripe, StripePayload, open_stripe, root_of},
};
use cairn_proto::{ChunkId, CodeParams, SHARD_SIZE, StripeId, index::StripeNo};
use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

/// The node's own: a tenth and more of the pipeline hangs on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SOURCE: usize = 64 << 20;
/// The source's bytes come in parts of this size, as the node reads them.
const PART: usize = 1 << 20;
/// Mixed data changes its kind after this many bytes.
const STRETCH: usize = 4 << 20;
const KINDS: [&str; 3] = ["random", "mixed", "text"];

fn random(size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    blake3::Hasher::new().update(b"bench").finalize_xof().fill(&mut out);
    out
}

/// Rows of a dump; each has 16 hexadecimal digits that do not compress.
fn text(size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 256);
    let mut number = 0u64;
    while out.len() < size {
        let chance = *blake3::hash(&number.to_le_bytes()).as_bytes();
        let word = |i: usize| {
            ["paid", "sent", "open", "late", "parcel", "house", "again", "river"][usize::from(chance[i] % 8)]
        };
        let mark = u64::from_le_bytes(chance[..8].try_into().expect("eight bytes"));
        let (cents, day) = (u16::from_le_bytes([chance[8], chance[9]]), 1 + chance[10] % 28);
        let row = format!(
            "INSERT INTO orders VALUES ({number}, '{mark:016x}', {cents}, '2026-11-{day:02}', '{} {} {}');\n",
            word(11),
            word(12),
            word(13)
        );
        out.extend_from_slice(row.as_bytes());
        number += 1;
    }
    out.truncate(size);
    out
}

fn source(kind: &str) -> Vec<u8> {
    match kind {
        "random" => random(SOURCE),
        "text" => text(SOURCE),
        _ => {
            let (noise, rows) = (random(SOURCE / 2), text(SOURCE / 2));
            noise.chunks(STRETCH).zip(rows.chunks(STRETCH)).flat_map(|(a, b)| [a, b]).flatten().copied().collect()
        }
    }
}

/// What all runs share.
struct Lab {
    keys: VaultKeys,
    epoch: EpochKeys,
    codec: Codec,
}

impl Lab {
    fn new() -> Self {
        let keys = VaultKeys::derive(&MasterSeed::from_entropy([1; 32]));
        let epoch = keys.epoch(KeyMode::Paper, 1);
        Self { keys, epoch, codec: Codec::new(CodeParams::DEFAULT) }
    }

    /// Calls `take` with every chunk.
    fn cut(&self, source: &[u8], mut take: impl FnMut(&[u8])) {
        let mut chunker = Chunker::new(ChunkProfile::Files, self.keys.chunker_seed());
        for part in source.chunks(PART) {
            chunker.push(part);
            while let Some(chunk) = chunker.next_chunk() {
                take(chunk);
            }
        }
        while let Some(chunk) = chunker.finish() {
            take(chunk);
        }
    }

    fn stripes(&self, runs: impl IntoIterator<Item = PackedRun>, mut take: impl FnMut(FilledStripe)) {
        let mut packer = Packer::new(self.codec.params()).expect("wide enough");
        let mut numbers = StripeNumbers::from_next(StripeNo(1));
        for run in runs {
            packer.push(run, &mut numbers).expect("in bounds").1.stripes.into_iter().for_each(&mut take);
        }
        packer.finish().into_iter().for_each(take);
    }

    fn build(&self, filled: FilledStripe) -> SealedStripe {
        SealedStripe::build(&self.codec, filled.payload, &self.epoch, stripe_id(filled.no)).expect("builds")
    }

    /// Everything between reading and sending; returns the bytes to be sent.
    fn pipeline(&self, source: &[u8]) -> usize {
        let mut runs = RunBuilder::new(ChunkProfile::Files);
        let mut packer = Packer::new(self.codec.params()).expect("wide enough");
        let mut numbers = StripeNumbers::from_next(StripeNo(1));
        let mut sent = 0;
        let mut place = |run: RawRun| {
            let stripes = packer.push(compress(run), &mut numbers).expect("in bounds").1.stripes;
            sent += stripes.into_iter().map(|filled| shard_bytes(&self.build(filled))).sum::<usize>();
        };
        self.cut(source, |chunk| {
            runs.push(self.keys.chunk_id(chunk), chunk).expect("in bounds").into_iter().for_each(&mut place);
        });
        runs.finish().into_iter().for_each(place);
        sent + packer.finish().map_or(0, |filled| shard_bytes(&self.build(filled)))
    }
}

fn stripe_id(no: StripeNo) -> StripeId {
    StripeId::from_bytes(*blake3::hash(&no.0.to_le_bytes()).as_bytes())
}

fn shard_bytes(sealed: &SealedStripe) -> usize {
    sealed.shards().iter().flatten().map(Bytes::len).sum()
}

fn gathered(chunks: &[(ChunkId, Vec<u8>)]) -> Vec<RawRun> {
    let mut builder = RunBuilder::new(ChunkProfile::Files);
    let mut runs = Vec::new();
    for (id, chunk) in chunks {
        runs.extend(builder.push(*id, chunk).expect("in bounds"));
    }
    runs.extend(builder.finish());
    runs
}

/// Each step with what the step before it gives for the same source. A step that consumes its input gets a copy, made
/// outside of the measured time.
fn steps(c: &mut Criterion) {
    let lab = Lab::new();
    for kind in KINDS {
        let source = source(kind);
        let mut chunks = Vec::new();
        lab.cut(&source, |chunk| chunks.push((lab.keys.chunk_id(chunk), chunk.to_vec())));
        let runs = gathered(&chunks);
        let packed: Vec<PackedRun> = runs.iter().cloned().map(compress).collect();
        let mut sealed = Vec::new();
        lab.stripes(packed.iter().cloned(), |filled| sealed.push(lab.build(filled)));
        let data: Vec<Vec<Bytes>> = sealed
            .iter()
            .map(|s| s.shards()[..lab.codec.params().data()].iter().flatten().cloned().collect())
            .collect();

        let mut group = c.benchmark_group(format!("step {kind}"));
        group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(SOURCE as u64));
        group.warm_up_time(std::time::Duration::from_secs(1)).measurement_time(std::time::Duration::from_secs(3));
        group.bench_function("cut", |b| b.iter(|| lab.cut(&source, |chunk| _ = black_box(chunk))));
        group.bench_function("name", |b| {
            b.iter(|| {
                chunks.iter().map(|(_, chunk)| lab.keys.chunk_id(chunk)).fold(0, |sum, id| sum ^ id.as_bytes()[0])
            });
        });
        group.bench_function("compress", |b| {
            let each = |runs: Vec<RawRun>| runs.into_iter().map(compress).map(|run| run.stored.len()).sum::<usize>();
            b.iter_batched(|| runs.clone(), each, BatchSize::PerIteration);
        });
        group.bench_function("pack", |b| {
            let lay = |packed: Vec<PackedRun>| {
                black_box(gathered(&chunks));
                lab.stripes(packed, |filled| _ = black_box(filled.payload.len()));
            };
            b.iter_batched(|| packed.clone(), lay, BatchSize::PerIteration);
        });
        group.bench_function("seal", |b| {
            let copies =
                || data.iter().map(|stripe| stripe.iter().map(|s| s.to_vec()).collect()).collect::<Vec<Vec<_>>>();
            let seal = |stripes: Vec<Vec<Vec<u8>>>| {
                for (no, mut shards) in (1..).zip(stripes) {
                    let id = stripe_id(StripeNo(no));
                    let key = lab.epoch.stripe_key(&id);
                    for (slot, shard) in lab.codec.params().each_slot().zip(&mut shards) {
                        seal_in_place(&key, &id, slot, shard).expect("a shard's length");
                    }
                }
            };
            b.iter_batched(copies, seal, BatchSize::PerIteration);
        });
        group.bench_function("code", |b| {
            b.iter(|| data.iter().map(|stripe| lab.codec.parity(stripe).expect("a stripe").len()).sum::<usize>());
        });
        group.bench_function("hash", |b| {
            let roots = |s: &SealedStripe| {
                s.shards().iter().flatten().map(|shard| root_of(shard).as_bytes()[0]).fold(0, |a, x| a ^ x)
            };
            b.iter(|| sealed.iter().map(roots).fold(0, |a, x| a ^ x));
        });
        group.finish();
    }
}

/// Source to shards; on two threads each has a source of its own.
fn whole(c: &mut Criterion) {
    let lab = Lab::new();
    for kind in KINDS {
        let source = source(kind);
        let mut group = c.benchmark_group(format!("pipeline {kind}"));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(std::time::Duration::from_secs(1)).measurement_time(std::time::Duration::from_secs(4));
        for threads in [1, 2] {
            group.throughput(Throughput::Bytes(threads * SOURCE as u64));
            group.bench_function(format!("{threads} threads"), |b| {
                b.iter(|| {
                    std::thread::scope(|scope| {
                        for _ in 0..threads {
                            scope.spawn(|| black_box(lab.pipeline(&source)));
                        }
                    });
                });
            });
        }
        group.finish();
    }
}

/// The way back: a stripe opened, with all of its data shards and without three of them.
fn back(c: &mut Criterion) {
    let lab = Lab::new();
    let mut payload = StripePayload::new(lab.codec.params());
    payload.write(&random(lab.codec.params().stripe_payload()));
    let sealed = lab.build(FilledStripe { no: StripeNo(1), payload });
    let row = sealed.row(StripeNo(1), 1, 0);
    let mut group = c.benchmark_group("restore");
    group.sample_size(10).throughput(Throughput::Bytes((lab.codec.params().data() * SHARD_SIZE) as u64));
    for (name, lost) in [("open a whole stripe", 0), ("open a stripe without three shards", 3)] {
        let mut shards = sealed.shards().to_vec();
        shards.iter_mut().take(lost).for_each(|shard| *shard = None);
        group.bench_function(name, |b| {
            b.iter_batched(
                || shards.clone(),
                |shards| {
                    let hashed = shards.into_iter().map(|shard| shard.map(HashedShard::new)).collect();
                    open_stripe(&lab.codec, &row, hashed, &lab.epoch).expect("opens")
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, steps, whole, back);
criterion_main!(benches);
