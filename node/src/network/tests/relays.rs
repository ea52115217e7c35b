//! Nodes that nobody reaches without a relay.

use super::super::keeper::memory::MemoryKeeper;
use super::super::*;
use super::nodes::{A_MOMENT, DEADLINE, TCP, client, group_for, holder, listening, shard};
use crate::overlay::{Overlay as _, ShardAddress, TransferError};
use cairn_proto::{message::Roles, wire::Priority};
use libp2p::multiaddr::Protocol;

async fn relay(seed: u64) -> NetworkHandle {
    let mut config = holder(seed, TCP, &Arc::new(MemoryKeeper::default()), &[]);
    config.store = None;
    config.roles = Roles::RELAY.with(Roles::BOOTSTRAP);
    start(config).await.expect("starts")
}

fn id(node: &NetworkHandle) -> libp2p::PeerId {
    keys::peer_id(&node.inner.me).expect("a valid key")
}

/// Waits until the node's addresses are such.
async fn until_addresses(node: &NetworkHandle, what: &str, such: impl Fn(&[Multiaddr]) -> bool) {
    let mut last = Vec::new();
    let wait = async {
        loop {
            last = node.dial_addresses().await.expect("runs");
            if such(&last) {
                return;
            }
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, wait).await;
    assert!(in_time.is_ok(), "{what}, but: {last:?}");
}

/// A shard gets there; the holder's advert with the circuit's address may still be under way.
async fn put(owner: &NetworkHandle, to: &NetworkHandle, ordinal: u8) {
    let (group, slot) = group_for(&to.inner.domain, 3);
    let sent = async {
        loop {
            let put = shard(ShardAddress { group: group.clone(), slot, ordinal }, ordinal);
            match owner.put_shard(to.inner.me, put, Priority::Normal).await {
                Err(TransferError::Unreachable(_) | TransferError::TimedOut) => tokio::time::sleep(A_MOMENT).await,
                done => return done.expect("stored"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, sent).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_relay_is_replaced_and_shards_go_on() {
    let (first, second) = (relay(61).await, relay(62).await);
    let doors = [listening(&first).await, listening(&second).await].concat();
    let keeper = Arc::new(MemoryKeeper::default());
    let circuit = doors[0].clone().with(Protocol::P2pCircuit).to_string();
    let hidden = start(holder(63, &circuit, &keeper, &doors)).await.expect("starts");
    let through = |relay: libp2p::PeerId| {
        move |all: &[Multiaddr]| !all.is_empty() && all.iter().all(|a| a.iter().any(|p| p == Protocol::P2p(relay)))
    };
    until_addresses(&hidden, "the relay that was named", through(id(&first))).await;
    let owner = start(client(64, &doors)).await.expect("starts");
    owner.wait_ready(1, DEADLINE).await.expect("hears of the hidden one");
    put(&owner, &hidden, 1).await;

    first.shutdown().await;
    until_addresses(&hidden, "the other relay, and nothing of the lost one", through(id(&second))).await;
    put(&owner, &hidden, 2).await;
    assert_eq!(keeper.count(), 2);
    // Peers are told, so that they do not go on dialling the lost one.
    let stranger = start(client(65, &doors[1..])).await.expect("starts");
    stranger.wait_ready(1, DEADLINE).await.expect("hears of the hidden one");
    put(&stranger, &hidden, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_comes_late_is_found() {
    let keeper = Arc::new(MemoryKeeper::default());
    let absent = relay(71).await;
    let door = listening(&absent).await;
    absent.shutdown().await;
    let circuit = door[0].clone().with(Protocol::P2pCircuit).to_string();
    let hidden = start(holder(73, &circuit, &keeper, &door)).await.expect("starts although its relay is away");
    let again = async {
        loop {
            let mut config = holder(71, &addresses::split_peer(door[0].clone()).0.to_string(), &keeper, &[]);
            config.store = None;
            config.roles = Roles::RELAY.with(Roles::BOOTSTRAP);
            // Another test's dial may have the port for a moment.
            match start(config).await {
                Ok(late) => return late,
                Err(_) => tokio::time::sleep(A_MOMENT).await,
            }
        }
    };
    let late = tokio::time::timeout(DEADLINE, again).await.expect("starts again at its old place");
    until_addresses(&hidden, "the relay that came late", |all| !all.is_empty()).await;
    late.shutdown().await;
    until_addresses(&hidden, "nothing while nobody carries it", <[Multiaddr]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_without_a_relay_is_refused_at_the_start() {
    let config = holder(81, "/ip4/127.0.0.1/tcp/1/p2p-circuit", &Arc::new(MemoryKeeper::default()), &[]);
    assert!(matches!(start(config).await, Err(NetworkError::Listen { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_behind_one_relay_are_reached_at_once_by_who_has_just_started() {
    let relay = relay(140).await;
    let door = listening(&relay).await;
    let circuit = door[0].clone().with(Protocol::P2pCircuit).to_string();
    let mut hidden = Vec::new();
    for seed in 141..=144 {
        let node = start(holder(seed, &circuit, &Arc::new(MemoryKeeper::default()), &door)).await.expect("starts");
        until_addresses(&node, "a circuit", |all| !all.is_empty()).await;
        hidden.push(node);
    }
    let folder = tempfile::tempdir().expect("folder");
    let owner = async |bootstrap: &[Multiaddr]| {
        let mut config = client(145, bootstrap);
        config.data_dir = Some(folder.path().to_path_buf());
        start(config).await.expect("starts")
    };
    let before = owner(&door).await;
    before.wait_ready(4, DEADLINE).await.expect("hears of all");
    for (ordinal, node) in (0..).zip(&hidden) {
        put(&before, node, ordinal).await;
    }
    before.shutdown().await;

    // It knows all of them, and is connected to nobody: four dials want the same relay at the same moment.
    let after = owner(&[]).await;
    let puts = hidden.iter().map(async |node| {
        let (group, slot) = group_for(&node.inner.domain, 3);
        let put = shard(ShardAddress { group, slot, ordinal: 100 }, 100);
        after.put_shard(node.inner.me, put, Priority::Normal).await
    });
    let done = tokio::time::timeout(DEADLINE, futures::future::join_all(puts)).await.expect("in time");
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}
