//! Peers that are gone must not cost everybody who asks for them a whole time-out.

use super::super::keeper::memory::MemoryKeeper;
use super::super::*;
use super::nodes::{A_MOMENT, DEADLINE, QUIC, TCP, client, group_for, holder, listening, shard};
use crate::overlay::{Overlay as _, ShardAddress, TransferError};
use cairn_proto::{VaultKey, message::HeadRecord, wire::Priority};
use ed25519_dalek::SigningKey;
use libp2p::multiaddr::Protocol;

/// A holder on TCP and QUIC.
async fn both(seed: u64, bootstrap: &[Multiaddr]) -> (NetworkHandle, Arc<MemoryKeeper>) {
    let keeper = Arc::new(MemoryKeeper::default());
    let mut config = holder(seed, TCP, &keeper, bootstrap);
    config.listen.push(QUIC.parse().expect("address"));
    let node = start(config).await.expect("starts");
    assert_eq!(listening(&node).await.len(), 2);
    (node, keeper)
}

/// An owner that knows these addresses of the holders.
async fn owner_of(seed: u64, holders: usize, door: &[Multiaddr]) -> NetworkHandle {
    known_to(client(seed, door), holders).await
}

async fn known_to(owner: NetworkConfig, holders: usize) -> NetworkHandle {
    let owner = start(owner).await.expect("starts");
    owner.wait_ready(holders, DEADLINE).await.expect("knows the holders");
    owner
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_dial_ends_long_before_quic_gives_up() {
    let (door, _) = both(91, &[]).await;
    let doors = listening(&door).await;
    let (holder, _) = both(92, &doors).await;
    let owner = owner_of(93, 2, &doors).await;
    let (group, slot) = group_for(&holder.inner.domain, 3);
    let put = |ordinal| {
        let put = shard(ShardAddress { group: group.clone(), slot, ordinal }, ordinal);
        owner.put_shard(holder.inner.me, put, Priority::Normal)
    };
    let sent = async {
        while put(0).await.is_err() {
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    tokio::time::timeout(DEADLINE, sent).await.expect("stored while it is there");
    holder.shutdown().await;
    // QUIC itself would not give up in this time.
    let put = tokio::time::timeout(DEADLINE, put(1)).await.expect("the refusal ends it");
    assert!(matches!(put, Err(TransferError::Unreachable(_))), "{put:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_is_given_its_time_when_tcp_alone_is_refused() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
    let keeper = Arc::new(MemoryKeeper::default());
    let mut config = holder(94, QUIC, &keeper, &[]);
    config.external = vec![format!("/ip4/127.0.0.1/tcp/{}", dead.port()).parse().expect("address")];
    let holder = start(config).await.expect("starts");
    let mut doors = listening(&holder).await;
    let id = keys::peer_id(&holder.inner.me).expect("valid");
    doors.insert(0, format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", dead.port()).parse().expect("address"));
    let owner = owner_of(95, 1, &doors).await;
    let (group, slot) = group_for(&holder.inner.domain, 3);
    let put = shard(ShardAddress { group, slot, ordinal: 1 }, 1);
    let put = owner.put_shard(holder.inner.me, put, Priority::Normal);
    tokio::time::timeout(DEADLINE, put).await.expect("in time").expect("stored");
}

/// Takes the node's TCP ports over: dials are accepted by the system and never answered.
async fn fall_silent(node: &NetworkHandle) -> Vec<std::net::TcpListener> {
    let ports = listening(node).await;
    node.shutdown().await;
    let port = |a: &Multiaddr| a.iter().find_map(|p| if let Protocol::Tcp(port) = p { Some(port) } else { None });
    let mut taken = Vec::new();
    for port in ports.iter().filter_map(port) {
        // Another test's dial may have the port for a moment.
        let bind = async || loop {
            match std::net::TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        taken.push(tokio::time::timeout(DEADLINE, bind()).await.expect("free again"));
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_has_is_said_to_be_in_use() {
    let first = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = first.local_addr().expect("bound").port();
    let config = holder(96, &format!("/ip4/127.0.0.1/tcp/{port}"), &Arc::new(MemoryKeeper::default()), &[]);
    let why = start(config).await.err().expect("taken").to_string();
    assert!(why.contains("in use"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_do_not_hold_up_the_newest_head() {
    let (first, _) = both(101, &[]).await;
    let door = listening(&first).await;
    let mut nodes = vec![first];
    for seed in 102..=106 {
        nodes.push(both(seed, &door).await.0);
    }
    for node in &nodes {
        node.wait_ready(5, DEADLINE).await.expect("knows the others");
    }
    let key = SigningKey::from_bytes(&[78; 32]);
    let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
    let head = HeadRecord { vault, generation: 1, sequence: 7, sealed: vec![9; 200] };
    let publisher = owner_of(107, 6, &door).await;
    assert_eq!(publisher.publish_head(vault, head.seal(&key)).await.expect("published").kept_by, 6);
    publisher.shutdown().await;

    let silent = [fall_silent(&nodes[4]).await, fall_silent(&nodes[5]).await];
    assert!(silent.iter().all(|listeners| !listeners.is_empty()));
    // Dials to them, and every wait for them, would go on for longer than the test.
    let mut finder = client(108, &door);
    finder.waits.late = Waits::default().late;
    let finder = known_to(finder, 6).await;
    let walk = tokio::time::timeout(DEADLINE, finder.peers(true));
    walk.await.expect("a walk does not wait for them").expect("walks");
    let find = tokio::time::timeout(DEADLINE, finder.find_head(vault));
    assert_eq!(find.await.expect("a look-up does not wait for them"), Ok(Some(head)));
}
