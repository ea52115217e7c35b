//! What courtesy costs and what it gives: two nodes in one process, a keeper in memory behind the holder, all in one run, in turns.
//!
//! `cargo bench -p cairn --bench courtesy [-- ROUNDS]` prints two ratios, of medians:
//! - a restore through lines without a limit, to one that passes no line at all (what courtesy costs: 1.00);
//! - a restore beside background reads that take all they can, to one alone: with courtesy (at most 1.10) and without.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cairn::{
    courtesy::Courtesy,
    identity::Identity,
    network::{self, NetworkConfig, NetworkHandle, keeper::memory::MemoryKeeper},
    overlay::{GroupAccess, Overlay as _, ShardAddress, ShardPut},
};
use cairn_core::colour::colour;
use cairn_proto::{
    CodeParams, Domain, GroupTicket, SHARD_SIZE, ShardRoot, Slot, Timestamp, message::Roles, network_file::NetworkFile,
    wire::Priority,
};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;

/// Shards of a restore.
const RESTORED: u8 = 128;
/// Under way at a time, of a restore and of background work each.
const IN_FLIGHT: usize = 8;

type Failed = Box<dyn std::error::Error>;

/// A holder, an owner who restores, and somebody who does background work.
struct Scene {
    owner: NetworkHandle,
    other: NetworkHandle,
    holder: NetworkHandle,
    group: Arc<GroupAccess>,
    slot: Slot,
}

impl Scene {
    async fn start(courteous: bool) -> Result<Self, Failed> {
        let mut file = NetworkFile::create("rate", 0, &SigningKey::from_bytes(&[1; 32]))?;
        let domain = Domain::operator("holder")?;
        let mut config = NetworkConfig::client(file.clone(), Identity::from_seed(&[2; 32]), domain.clone(), [2; 32]);
        config.lan.allow_private = true;
        config.roles = Roles::STORAGE;
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
        config.store = Some(Arc::new(MemoryKeeper::default()));
        config.courtesy = courteous.then(Courtesy::free);
        let holder = network::start(config).await?;
        while holder.listen_addresses().await?.is_empty() {
            tokio::task::yield_now().await;
        }
        file.bootstrap = holder.dial_addresses().await?.iter().map(ToString::to_string).collect();
        let client = async |seed: u8| {
            let domain = Domain::operator(&format!("client{seed}"))?;
            let mut config = NetworkConfig::client(file.clone(), Identity::from_seed(&[seed; 32]), domain, [seed; 32]);
            config.lan.allow_private = true;
            config.courtesy = courteous.then(Courtesy::free);
            let client = network::start(config).await?;
            client.wait_ready(1, Duration::from_secs(20)).await?;
            Ok::<_, Failed>(client)
        };
        let (owner, other) = (client(3).await?, client(4).await?);
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
        let scene = Self { owner, other, holder, group, slot };
        let bytes = Bytes::from(vec![7u8; SHARD_SIZE]);
        let root = ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes());
        for ordinal in 0..RESTORED {
            let put = ShardPut {
                address: scene.address(ordinal),
                root,
                lease_until: Timestamp(u64::MAX),
                bytes: bytes.clone(),
            };
            scene.owner.put_shard(scene.holder.me(), put, Priority::Normal).await?;
        }
        Ok(scene)
    }

    fn address(&self, ordinal: u8) -> ShardAddress {
        ShardAddress { group: self.group.clone(), slot: self.slot, ordinal }
    }

    /// Seconds that a restore takes.
    async fn restore(&self) -> Result<f64, Failed> {
        let began = Instant::now();
        let get = |ordinal| self.owner.get_shard(self.holder.me(), self.address(ordinal), 0, 0, Priority::High);
        let mut gets = futures::stream::iter(0..RESTORED).map(get).buffer_unordered(IN_FLIGHT);
        while let Some(got) = gets.next().await {
            got?;
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Reads as copies are read, as fast as it can; how many until dropped.
    async fn background(&self, copied: &std::cell::Cell<u32>) {
        let get = |ordinal| self.other.get_shard(self.holder.me(), self.address(ordinal), 0, 0, Priority::Low);
        let all = (0..RESTORED).cycle();
        let mut gets = futures::stream::iter(all).map(get).buffer_unordered(IN_FLIGHT);
        while gets.next().await.is_some() {
            copied.set(copied.get() + 1);
        }
    }

    /// The same beside background work, and shards of that a second.
    async fn restore_beside(&self) -> Result<(f64, f64), Failed> {
        let copied = std::cell::Cell::new(0);
        let restored = tokio::select! {
            biased;
            () = self.background(&copied) => Err("background work ended".into()),
            restored = self.restore() => restored,
        }?;
        Ok((restored, f64::from(copied.get()) / restored))
    }

    async fn stop(self) {
        self.owner.shutdown().await;
        self.other.shutdown().await;
        self.holder.shutdown().await;
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() -> Result<(), Failed> {
    let rounds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(15usize);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (without, with) = (Scene::start(false).await?, Scene::start(true).await?);
        let (mut plain, mut courteous, mut pushed, mut deferred) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut beside_plain, mut beside_courteous) = (Vec::new(), Vec::new());
        without.restore().await?;
        with.restore().await?;
        for _ in 0..rounds {
            plain.push(without.restore().await?);
            courteous.push(with.restore().await?);
            let (took, copies) = without.restore_beside().await?;
            pushed.push(took);
            beside_plain.push(copies);
            let (took, copies) = with.restore_beside().await?;
            deferred.push(took);
            beside_courteous.push(copies);
        }
        let (plain, courteous) = (median(plain), median(courteous));
        println!(
            "restore of {RESTORED} MiB, median of {rounds}: {plain:.3} s without lines, {courteous:.3} s with: {:.3}",
            courteous / plain
        );
        println!(
            "beside background reads, without courtesy: {:.2} times as long ({:.0} MiB/s copied)",
            median(pushed) / plain,
            median(beside_plain)
        );
        println!(
            "beside background reads, with courtesy: {:.2} times as long ({:.0} MiB/s copied)",
            median(deferred) / courteous,
            median(beside_courteous)
        );
        without.stop().await;
        with.stop().await;
        Ok::<_, Failed>(())
    })
}
