//! What a blinded rebuild costs each party, for one shard of a 5+3 stripe, and what a fingerprint costs.
//!
//! `cargo bench -p cairn-core --bench blind`. Agreeing on masks is a bench of its own; the others begin after it.

#![allow(missing_docs, reason = "criterion_group! makes a public function without them")]

use std::hint::black_box;

use cairn_core::{
    blind::{
        Admitted, EphemeralSecret, Helper, NewHolder, Order, SLICE_SIZE, Session, SessionLedger, fingerprint, locate,
    },
    erasure::Codec,
    stripe::root_of,
};
use cairn_proto::{CodeParams, GroupId, SHARD_SIZE, Slot, Timestamp};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// The node's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOST: u8 = 7;

fn slot(index: u8) -> Slot {
    Slot::new(index).expect("a slot")
}

fn secret(index: u8) -> EphemeralSecret {
    EphemeralSecret::from_entropy(*blake3::hash(&[index]).as_bytes())
}

fn shard(index: u8) -> Vec<u8> {
    let mut out = vec![0; SHARD_SIZE];
    blake3::Hasher::new().update(&[index]).finalize_xof().fill(&mut out);
    out
}

/// A party of the one session of these benches, each time with an empty ledger.
fn admitted(codec: &Codec, party: u8) -> Admitted {
    let order = Order {
        group: GroupId::from_bytes([1; 32]),
        ordinal: 0,
        used: 5,
        lost: slot(LOST),
        attempt: 0,
        nonce: [2; 32],
        new_holder: secret(LOST).public(),
        helpers: (0..5).map(|i| (slot(i), secret(i).public())).collect(),
    };
    let session = Session::plan(codec, order).expect("a session");
    SessionLedger::default().admit(Timestamp(0), session, slot(party)).expect("admitted")
}

fn parties(c: &mut Criterion) {
    let codec = Codec::new(CodeParams::DEFAULT);
    let (own, incoming) = (shard(1), shard(100));
    let helper = || Helper::new(admitted(&codec, 1), &codec, secret(1)).expect("a helper");
    let new_holder =
        || NewHolder::new(admitted(&codec, LOST), &codec, secret(LOST), root_of(&incoming)).expect("a new holder");
    let mut group = c.benchmark_group("blind");
    group.sample_size(20);
    group.bench_function("agree", |b| b.iter(|| black_box(helper())));
    group.throughput(Throughput::Bytes(SHARD_SIZE as u64));
    group.bench_function("helper", |b| {
        let mut out = vec![0; SLICE_SIZE];
        b.iter_batched(
            helper,
            |mut helper| {
                let slices = incoming.chunks(SLICE_SIZE).zip(own.chunks(SLICE_SIZE));
                for (slice, (incoming, own)) in slices.enumerate() {
                    helper.pass(slice, Some(incoming), own, &mut out).expect("passes");
                }
                black_box(out[0])
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("new holder", |b| {
        b.iter_batched(
            new_holder,
            |mut holder| {
                for (slice, incoming) in incoming.chunks(SLICE_SIZE).enumerate() {
                    holder.take(slice, incoming).expect("takes");
                }
                // The root does not fit: what it is made from is no sum of this session. It is hashed all the same.
                holder.finish().is_err()
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("fingerprint", |b| b.iter(|| fingerprint(&[3; 32], &own)));
    group.finish();
}

fn liar(c: &mut Criterion) {
    let codec = Codec::new(CodeParams::DEFAULT);
    let data: Vec<Vec<u8>> = (0..5).map(shard).collect();
    let parity = codec.parity(&data).expect("a stripe");
    let shards = (0u8..).zip(data.iter().chain(&parity)).skip(1);
    let mut prints: std::collections::BTreeMap<_, _> =
        shards.filter_map(|(i, shard)| Some((slot(i), fingerprint(&[3; 32], shard)?))).collect();
    prints.insert(slot(3), fingerprint(&[3; 32], &shard(99)).expect("a shard"));
    c.bench_function("blind/locate", |b| b.iter(|| locate(&codec, 5, &prints).expect("a stripe")));
}

criterion_group!(benches, parties, liar);
criterion_main!(benches);
