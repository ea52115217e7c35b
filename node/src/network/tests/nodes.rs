//! Nodes finding each other, and what is built of them.

use super::super::keeper::memory::MemoryKeeper;
use super::super::*;
use crate::{
    identity::Identity,
    overlay::{GroupAccess, Overlay as _, ShardAddress, ShardPut},
};
use bytes::Bytes;
use cairn_core::colour::colour;
use cairn_proto::{
    CodeParams, GroupTicket, SHARD_SIZE, ShardRoot, Slot, VaultKey,
    message::{HeadRecord, Roles},
    network_file::NetworkFile,
};
use ed25519_dalek::SigningKey;
use rand_core::SeedableRng as _;

/// For what must happen: so long that only what never happens takes longer, however busy the machine is.
pub(super) const DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at what nobody tells.
pub(super) const A_MOMENT: Duration = Duration::from_millis(50);
/// Longer than a test goes on: a wait that only its own end would end fails the test.
pub(super) const FOR_EVER: Duration = Duration::from_secs(600);
pub(super) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(super) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const BITS: u8 = 4;

pub(super) fn network() -> NetworkFile {
    NetworkFile::create("test", BITS, &SigningKey::from_bytes(&[1; 32])).expect("valid")
}

pub(super) fn identity(seed: u64) -> Identity {
    Identity::generate(&network(), &mut ChaCha20Rng::seed_from_u64(seed))
}

/// A client's configuration; seeds give keys, domains and entropy.
pub(super) fn client(seed: u64, bootstrap: &[Multiaddr]) -> NetworkConfig {
    let mut file = network();
    file.bootstrap = bootstrap.iter().map(ToString::to_string).collect();
    let domain = Domain::operator(&format!("op{seed}")).expect("valid");
    let mut config = NetworkConfig::client(file, identity(seed), domain, [seed as u8; 32]);
    config.lan.allow_private = true;
    // Nobody is given up because this machine is busy. Those who are gone refuse at once.
    config.waits = Waits {
        dial: FOR_EVER,
        question: FOR_EVER,
        lookup: FOR_EVER,
        walk: FOR_EVER,
        head: FOR_EVER,
        dht: FOR_EVER,
        late: DEADLINE,
    };
    config.patience = ClientPatience {
        progress: DEADLINE,
        request: FOR_EVER,
        open: FOR_EVER,
        busy: DEADLINE,
        map: FOR_EVER,
        ..ClientPatience::default()
    };
    config.limits.stall_time = DEADLINE;
    config.limits.frame_time = FOR_EVER;
    config
}

/// A storage node's.
pub(super) fn holder(seed: u64, listen: &str, keeper: &Arc<MemoryKeeper>, bootstrap: &[Multiaddr]) -> NetworkConfig {
    let mut config = client(seed, bootstrap);
    config.roles = Roles::STORAGE.with(Roles::RELAY).with(Roles::BOOTSTRAP);
    config.listen = vec![listen.parse().expect("address")];
    config.store = Some(keeper.clone());
    config
}

pub(super) async fn listening(node: &NetworkHandle) -> Vec<Multiaddr> {
    let mut reach = node.reach();
    let settled = reach.wait_for(|reach| reach.pending == 0 && !reach.addresses.is_empty());
    tokio::time::timeout(DEADLINE, settled).await.expect("listens in time").expect("running");
    node.dial_addresses().await.expect("running")
}

/// A storage node and a client that knows it.
pub(super) struct Pair {
    pub(super) holder: NetworkHandle,
    pub(super) keeper: Arc<MemoryKeeper>,
    pub(super) owner: NetworkHandle,
}

pub(super) async fn pair_with(listen: &str, change: impl FnOnce(&mut NetworkConfig, &mut NetworkConfig)) -> Pair {
    let keeper = Arc::new(MemoryKeeper::default());
    let mut serving = holder(100, listen, &keeper, &[]);
    let mut asking = client(101, &[]);
    change(&mut serving, &mut asking);
    let holder = start(serving).await.expect("starts");
    asking.network.bootstrap = listening(&holder).await.iter().map(ToString::to_string).collect();
    let owner = start(asking).await.expect("starts");
    owner.wait_ready(1, DEADLINE).await.expect("finds the holder");
    Pair { holder, keeper, owner }
}

pub(super) async fn pair(listen: &str) -> Pair {
    pair_with(listen, |_, _| {}).await
}

/// A group in which `holder`'s domain has the colour of a slot, and that slot.
pub(super) fn group_for(domain: &Domain, seed: u8) -> (Arc<GroupAccess>, Slot) {
    let authority = SigningKey::from_bytes(&[seed; 32]);
    for salt in 0..=u8::MAX {
        let public = authority.verifying_key().to_bytes();
        let ticket = GroupTicket::new(public, [salt; 32], CodeParams::DEFAULT, 9).expect("valid");
        let colour = colour(&ticket, domain).index();
        if colour < ticket.code().slots() {
            let slot = Slot::new(colour as u8).expect("small");
            return (Arc::new(GroupAccess { ticket, authority }), slot);
        }
    }
    unreachable!("256 salts, one in nine is a steward's")
}

pub(super) fn shard(address: ShardAddress, fill: u8) -> ShardPut {
    let bytes = Bytes::from(vec![fill; SHARD_SIZE]);
    let root = ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes());
    ShardPut { address, root, lease_until: clock().plus_ms(1_000_000), bytes }
}

fn unsolved() -> Identity {
    let keys = (0..=u8::MAX).map(|seed| Identity::from_seed(&[seed; 32]));
    keys.into_iter().find(|identity| !identity.solves(&network())).expect("fifteen of sixteen do not")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_book_finds_the_network_again() {
    let folder = tempfile::tempdir().expect("folder");
    let keeper = Arc::new(MemoryKeeper::default());
    let first = start(holder(41, TCP, &keeper, &[])).await.expect("starts");
    let door = listening(&first).await;
    let owner = |bootstrap: &[Multiaddr]| {
        let mut config = client(42, bootstrap);
        config.data_dir = Some(folder.path().to_path_buf());
        start(config)
    };
    let before = owner(&door).await.expect("starts");
    before.wait_ready(1, DEADLINE).await.expect("is in");
    // An advert with addresses, which may come after the first.
    let told = async {
        while !before.peers(true).await.expect("runs").iter().any(|p| p.free.0 > 0) {
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("in time");
    before.shutdown().await;
    let after = owner(&[]).await.expect("starts");
    after.wait_ready(1, DEADLINE).await.expect("knows the way without a bootstrap address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_passes_a_relay() {
    let mut config = holder(51, TCP, &Arc::new(MemoryKeeper::default()), &[]);
    config.store = None;
    config.roles = Roles::RELAY.with(Roles::BOOTSTRAP);
    let relay = start(config).await.expect("starts");
    let door = listening(&relay).await;

    let keeper = Arc::new(MemoryKeeper::default());
    let circuit = door[0].clone().with(libp2p::multiaddr::Protocol::P2pCircuit).to_string();
    let hidden = start(holder(52, &circuit, &keeper, &door)).await.expect("starts");
    hidden.wait_ready(0, DEADLINE).await.expect("is in");
    listening(&hidden).await;
    let owner = start(client(53, &door)).await.expect("starts");
    owner.wait_ready(1, DEADLINE).await.expect("hears of the hidden one");
    let (group, slot) = group_for(&hidden.inner.domain, 3);
    let put = |ordinal| {
        let put = shard(ShardAddress { group: group.clone(), slot, ordinal }, ordinal);
        owner.put_shard(hidden.inner.me, put, cairn_proto::wire::Priority::Normal)
    };
    let sent = async {
        // Its advert with the circuit's address may still be under way.
        while let Err(crate::overlay::TransferError::Unreachable(_)) = put(0).await {
            tokio::time::sleep(A_MOMENT).await;
        }
        for ordinal in 1..3 {
            put(ordinal).await.expect("through");
        }
    };
    tokio::time::timeout(DEADLINE, sent).await.expect("in time");
    assert_eq!(keeper.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_commands_does_not_starve_the_swarm() {
    let Pair { holder, owner, .. } = pair(TCP).await;
    let flood: Vec<_> = (0..16)
        .map(|_| {
            let owner = owner.clone();
            tokio::spawn(async move { while owner.listen_addresses().await.is_ok() {} })
        })
        .collect();
    let (group, slot) = group_for(&holder.inner.domain, 3);
    let put = shard(ShardAddress { group, slot, ordinal: 0 }, 1);
    let stored = owner.put_shard(holder.inner.me, put, cairn_proto::wire::Priority::Normal);
    tokio::time::timeout(DEADLINE, stored).await.expect("in time").expect("stored");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn six_nodes_find_each_other_through_one_bootstrap() {
    let first_keeper = Arc::new(MemoryKeeper::default());
    let first = start(holder(1, TCP, &first_keeper, &[])).await.expect("starts");
    let door = listening(&first).await;
    let mut nodes = vec![first];
    for seed in 2..=6 {
        let listen = if seed % 2 == 0 { TCP } else { QUIC };
        nodes.push(start(holder(seed, listen, &Arc::new(MemoryKeeper::default()), &door)).await.expect("starts"));
    }
    for node in &nodes {
        node.wait_ready(5, DEADLINE).await.expect("knows the five others");
    }
    let newcomer = start(client(7, &door)).await.expect("starts");
    newcomer.wait_ready(1, DEADLINE).await.expect("is in");
    let know_all = async {
        while newcomer.peers(true).await.expect("walks").len() < 6 {
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    tokio::time::timeout(DEADLINE, know_all).await.expect("a walk finds everyone");
    let domains: std::collections::BTreeSet<Domain> =
        newcomer.peers(false).await.expect("runs").into_iter().map(|p| p.domain).collect();
    assert_eq!(domains.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_the_puzzle_is_refused() {
    let pair = pair(TCP).await;
    let door = listening(&pair.holder).await;
    // A stranger who lowers the bits has another network id, so its protocols differ too; this one lies about the
    // bits only, after the file was checked.
    let mut config = client(9, &door);
    config.network.puzzle_bits = 0;
    config.identity = unsolved();
    let stranger = start(config).await.expect("starts");
    let refused = stranger.wait_ready(1, Duration::from_secs(3)).await;
    assert!(refused.is_err(), "ADM-1: {refused:?}");
    assert_eq!(stranger.readiness().storage_peers, 0, "learned nothing");
    assert_eq!(pair.holder.readiness().connected, 1, "only the admitted owner");

    let mut config = client(9, &door);
    config.identity = unsolved();
    assert!(matches!(start(config).await, Err(NetworkError::NotAdmitted { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_outlives_its_publisher() {
    let keepers: Vec<_> = (0..4).map(|_| Arc::new(MemoryKeeper::default())).collect();
    let first = start(holder(21, TCP, &keepers[0], &[])).await.expect("starts");
    let door = listening(&first).await;
    let mut nodes = vec![first];
    for (seed, keeper) in (22..).zip(&keepers[1..]) {
        nodes.push(start(holder(seed, TCP, keeper, &door)).await.expect("starts"));
    }
    for node in &nodes {
        node.wait_ready(3, DEADLINE).await.expect("knows the others");
    }
    let key = SigningKey::from_bytes(&[77; 32]);
    let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
    let head = |sequence| HeadRecord { vault, generation: 1, sequence, sealed: vec![9; 200] };

    let publisher = start(client(30, &door)).await.expect("starts");
    publisher.wait_ready(4, DEADLINE).await.expect("is in");
    for sequence in [1, 2] {
        let published = publisher.publish_head(vault, head(sequence).seal(&key)).await.expect("published");
        assert_eq!(published.kept_by, 4);
    }
    publisher.shutdown().await;

    // An older head does not come back, whoever sends it.
    let reader = start(client(31, &door)).await.expect("starts");
    reader.wait_ready(4, DEADLINE).await.expect("is in");
    let replayed = reader.publish_head(vault, head(1).seal(&key)).await.expect("asked");
    assert_eq!(replayed.kept_by, 0);
    let finder = start(client(32, &door)).await.expect("starts");
    finder.wait_ready(4, DEADLINE).await.expect("is in");
    assert_eq!(finder.find_head(vault).await, Ok(Some(head(2))));
    let nobody = VaultKey::from_bytes([5; 32]);
    assert_eq!(finder.find_head(nobody).await, Ok(None));
}
