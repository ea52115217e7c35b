//! How fast shards go from one node to another: two nodes in one process, puts to a keeper that checks and forgets.
//!
//! `cargo run --release --example transfer_rate -- [tcp|quic] [MiB] [in flight]`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cairn::{
    identity::Identity,
    network::{self, NetworkConfig, keeper::memory::MemoryKeeper},
    overlay::{GroupAccess, Overlay as _, ShardAddress, ShardPut},
};
use cairn_core::colour::colour;
use cairn_proto::{
    CodeParams, Domain, GroupTicket, SHARD_SIZE, ShardRoot, Slot, Timestamp, message::Roles, network_file::NetworkFile,
    wire::Priority,
};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let transport = args.next().unwrap_or_else(|| "tcp".into());
    let shards: u32 = args.next().map_or(Ok(1024), |n| n.parse())?;
    let in_flight: usize = args.next().map_or(Ok(8), |n| n.parse())?;
    let listen = if transport == "quic" { "/ip4/127.0.0.1/udp/0/quic-v1" } else { "/ip4/127.0.0.1/tcp/0" };

    let mut file = NetworkFile::create("rate", 0, &SigningKey::from_bytes(&[1; 32]))?;
    let domain = Domain::operator("holder")?;
    let mut config = NetworkConfig::client(file.clone(), Identity::from_seed(&[2; 32]), domain.clone(), [2; 32]);
    config.lan.allow_private = true;
    config.roles = Roles::STORAGE;
    config.listen = vec![listen.parse()?];
    config.store = Some(Arc::new(MemoryKeeper::discarding()));
    let holder = network::start(config).await?;
    while holder.listen_addresses().await?.is_empty() {
        tokio::task::yield_now().await;
    }
    file.bootstrap = holder.dial_addresses().await?.iter().map(ToString::to_string).collect();
    let mut config = NetworkConfig::client(file, Identity::from_seed(&[3; 32]), Domain::operator("owner")?, [3; 32]);
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
    let bytes = Bytes::from(vec![7u8; SHARD_SIZE]);
    let root = ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes());
    let put = |n: u32| {
        let address = ShardAddress { group: group.clone(), slot, ordinal: n as u8 };
        let put = ShardPut { address, root, lease_until: Timestamp(u64::MAX), bytes: bytes.clone() };
        owner.put_shard(holder.me(), put, Priority::Normal)
    };
    put(0).await?;
    let began = Instant::now();
    let mut puts = futures::stream::iter(0..shards).map(put).buffer_unordered(in_flight);
    while let Some(done) = puts.next().await {
        done?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = f64::from(shards) * SHARD_SIZE as f64 / 1e6 / seconds;
    println!("{transport}, {in_flight} in flight: {shards} MiB in {seconds:.2} s, {rate:.0} MB/s");
    drop(puts);
    owner.shutdown().await;
    holder.shutdown().await;
    Ok(())
}
