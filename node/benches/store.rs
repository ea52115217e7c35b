//! Durable puts against what the same disk does with `fdatasync` alone, in the same run.
//!
//! `cargo bench -p cairn --bench store`. The folder is the system's temporary one (`TMPDIR`): a tmpfs there would measure
//! memory. ADR 0001 has figures.

use std::{fs::File, io::Write, sync::Arc};

use cairn::store::{NewShard, Store, StoreConfig};
use cairn_proto::{ByteSize, GroupId, SHARD_SIZE, ShardRoot, Slot, Timestamp};
use criterion::{Criterion, Throughput};

/// Shards per round: a full batch of the writer.
const ROUND: usize = 32;

fn shards(round: u32) -> Vec<NewShard> {
    (0..ROUND)
        .map(|i| {
            let mut bytes = vec![0; SHARD_SIZE];
            let mut group = [0; 32];
            group[..4].copy_from_slice(&round.to_le_bytes());
            blake3::Hasher::new().update(&group).update(&[i as u8]).finalize_xof().fill(&mut bytes);
            NewShard {
                group: GroupId::from_bytes(group),
                slot: Slot::new(1).expect("below 32"),
                ordinal: i as u8,
                root: ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes()),
                lease_until: Timestamp(u64::MAX),
                bytes: bytes.into(),
            }
        })
        .collect()
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let temp = tempfile::tempdir().expect("temporary folder");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let config = StoreConfig::new(temp.path().join("store"), ByteSize(1 << 40));
    let store = Arc::new(Store::open(config).expect("store"));
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Bytes((ROUND * SHARD_SIZE) as u64));

    let plain = vec![7u8; ROUND * SHARD_SIZE];
    let mut file = File::create(temp.path().join("plain")).expect("file");
    group.bench_function("fdatasync_alone_32_mib", |b| {
        b.iter(|| {
            file.write_all(&plain).expect("write");
            file.sync_data().expect("sync");
        });
    });

    let mut round = 0;
    let mut next = || {
        round += 1;
        shards(round)
    };
    group.bench_function("put_32_at_once", |b| {
        b.iter_batched(
            &mut next,
            |all| {
                runtime.block_on(async {
                    for result in futures::future::join_all(all.into_iter().map(|s| store.put(s))).await {
                        result.expect("stored");
                    }
                });
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.bench_function("put_32_one_by_one", |b| {
        b.iter_batched(
            &mut next,
            |all| {
                runtime.block_on(async {
                    for s in all {
                        store.put(s).await.expect("stored");
                    }
                });
            },
            criterion::BatchSize::PerIteration,
        );
    });
    let known = next();
    runtime.block_on(async {
        for s in &known {
            store.put(s.clone()).await.expect("stored");
        }
    });
    group.bench_function("get_32_from_cache", |b| {
        b.iter(|| {
            runtime.block_on(async {
                for s in &known {
                    store.get(s.group, s.slot, s.ordinal, 0, 0).await.expect("read");
                }
            });
        });
    });
    group.finish();
    runtime.block_on(store.close());
}
