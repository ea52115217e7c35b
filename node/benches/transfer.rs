//! How fast shards go from one node to another and back: two nodes in one process, a keeper in memory behind the holder.
//!
//! `cargo bench -p cairn --bench transfer`. What disk, pipeline and other holders cost is not in it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cairn::{
    identity::Identity,
    network::{self, NetworkConfig, NetworkHandle, keeper::memory::MemoryKeeper},
    overlay::{GroupAccess, Overlay as _, ShardAddress, ShardPut},
};
use cairn_core::colour::colour;
use cairn_proto::{
    CodeParams, Domain, GroupTicket, SHARD_SIZE, ShardRoot, Slot, Timestamp, message::Roles, network_file::NetworkFile,
    wire::Priority,
};
use criterion::{Criterion, Throughput};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;

/// Shards a round.
const ROUND: u8 = 64;
/// Shards under way at a time, as a backup has them.
const IN_FLIGHT: usize = 8;

type Failed = Box<dyn std::error::Error>;

/// An owner, a holder, and leave to store there.
struct Pair {
    owner: NetworkHandle,
    holder: NetworkHandle,
    group: Arc<GroupAccess>,
    slot: Slot,
    bytes: Bytes,
}

impl Pair {
    async fn start(listen: &str, keeper: MemoryKeeper) -> Result<Self, Failed> {
        let mut file = NetworkFile::create("rate", 0, &SigningKey::from_bytes(&[1; 32]))?;
        let domain = Domain::operator("holder")?;
        let mut config = NetworkConfig::client(file.clone(), Identity::from_seed(&[2; 32]), domain.clone(), [2; 32]);
        config.lan.allow_private = true;
        config.roles = Roles::STORAGE;
        config.listen = vec![listen.parse()?];
        config.store = Some(Arc::new(keeper));
        let holder = network::start(config).await?;
        while holder.listen_addresses().await?.is_empty() {
            tokio::task::yield_now().await;
        }
        file.bootstrap = holder.dial_addresses().await?.iter().map(ToString::to_string).collect();
        let mut config =
            NetworkConfig::client(file, Identity::from_seed(&[3; 32]), Domain::operator("owner")?, [3; 32]);
        config.lan.allow_private = true;
        let owner = network::start(config).await?;
        owner.wait_ready(1, Duration::from_secs(20)).await?;

        let authority = SigningKey::from_bytes(&[4; 32]);
        let public = authority.verifying_key().to_bytes();
        let (ticket, slot) = (0..=u8::MAX)
            .filter_map(|salt| {
                let ticket = GroupTicket::new(public, [salt; 32], CodeParams::DEFAULT, 9).ok()?;
                let colour = colour(&ticket, &domain).index();
                (colour < ticket.code().slots()).then_some((ticket, Slot::new(colour as u8).ok()?))
            })
            .next()
            .ok_or("no salt fits")?;
        let group = Arc::new(GroupAccess { ticket, authority });
        Ok(Self { owner, holder, group, slot, bytes: Bytes::from(vec![7u8; SHARD_SIZE]) })
    }

    fn address(&self, ordinal: u8) -> ShardAddress {
        ShardAddress { group: self.group.clone(), slot: self.slot, ordinal }
    }

    async fn put_all(&self) {
        let root = ShardRoot::from_bytes(*blake3::hash(&self.bytes).as_bytes());
        let put = |ordinal| {
            let (address, bytes) = (self.address(ordinal), self.bytes.clone());
            let put = ShardPut { address, root, lease_until: Timestamp(u64::MAX), bytes };
            self.owner.put_shard(self.holder.me(), put, Priority::Normal)
        };
        let mut puts = futures::stream::iter(0..ROUND).map(put).buffer_unordered(IN_FLIGHT);
        while let Some(done) = puts.next().await {
            done.expect("kept");
        }
    }

    async fn get_all(&self) {
        let get = |ordinal| self.owner.get_shard(self.holder.me(), self.address(ordinal), 0, 0, Priority::Normal);
        let mut gets = futures::stream::iter(0..ROUND).map(get).buffer_unordered(IN_FLIGHT);
        while let Some(done) = gets.next().await {
            assert_eq!(done.expect("there").len(), SHARD_SIZE);
        }
    }

    async fn stop(self) {
        self.owner.shutdown().await;
        self.holder.shutdown().await;
    }
}

fn main() -> Result<(), Failed> {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let runtime = tokio::runtime::Runtime::new()?;
    let mut group = criterion.benchmark_group("transfer");
    group.throughput(Throughput::Bytes(u64::from(ROUND) * SHARD_SIZE as u64));
    for (transport, listen) in [("tcp", "/ip4/127.0.0.1/tcp/0"), ("quic", "/ip4/127.0.0.1/udp/0/quic-v1")] {
        let pair = runtime.block_on(Pair::start(listen, MemoryKeeper::discarding()))?;
        group.bench_function(format!("put over {transport}"), |b| b.iter(|| runtime.block_on(pair.put_all())));
        runtime.block_on(pair.stop());
        let pair = runtime.block_on(Pair::start(listen, MemoryKeeper::default()))?;
        runtime.block_on(pair.put_all());
        group.bench_function(format!("get over {transport}"), |b| b.iter(|| runtime.block_on(pair.get_all())));
        runtime.block_on(pair.stop());
    }
    group.finish();
    Ok(())
}
