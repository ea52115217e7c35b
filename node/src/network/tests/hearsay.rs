//! What others say or make us do must not decide what we think of a peer.

use super::super::{book, keeper::memory::MemoryKeeper, *};
use super::nodes::{DEADLINE, client, holder, identity, network};
use crate::overlay::Overlay as _;
use cairn_proto::{PROTOCOL_VERSION, message::Advert};
use libp2p::multiaddr::Protocol;
use tokio::net::TcpListener;

/// An owner whose peer book has a peer that says it is at these addresses.
async fn owner_that_knows(seed: u64, peer: &Identity, addresses: Vec<String>) -> NetworkHandle {
    let folder = tempfile::tempdir().expect("folder");
    let domain = Domain::of_peer(&peer.peer());
    let advert = Advert {
        peer: peer.peer(),
        network: network().id,
        sequence: clock(),
        protocol: PROTOCOL_VERSION,
        domain,
        region: Region::unknown(),
        roles: Roles::STORAGE,
        give: ByteSize(1),
        free: ByteSize(1),
        version: "1".into(),
        addresses,
    };
    let mut book = PeerBook::new(network(), PeerKey::from_bytes([0; 32]), true, &[1; 32]);
    book.learn(&advert.seal(peer.signing_key()), None, clock()).expect("taken");
    book::write_file(folder.path(), &book.take_unwritten().expect("changed")).expect("written");
    let mut config = client(seed, &[]);
    config.data_dir = Some(folder.path().to_path_buf());
    start(config).await.expect("starts")
}

async fn reachable(owner: &NetworkHandle) -> Option<bool> {
    owner.peers(false).await.expect("runs")[0].reachable
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_at_an_address_that_others_named_says_nothing_of_the_peer() {
    let victim = identity(61);
    let owner = owner_that_knows(62, &victim, Vec::new()).await;
    // Accepts and drops: a dial that fails, as Kademlia makes them at whatever it was told.
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let id = keys::peer_id(&victim.peer()).expect("valid");
    let port = trap.local_addr().expect("bound").port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("address");
    // A second dial to a peer begins only when the first has failed.
    for _ in 0..2 {
        let accepted = async {
            loop {
                owner.dial(address.clone().with(Protocol::P2p(id))).await.expect("running");
                if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(50), trap.accept()).await {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, accepted).await.expect("dials");
    }
    assert_eq!(reachable(&owner).await, None, "NET-6");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_at_the_peers_own_addresses_does() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
    let peer = identity(63);
    let owner = owner_that_knows(64, &peer, vec![format!("/ip4/127.0.0.1/tcp/{gone}")]).await;
    let (reply, opened) = oneshot::channel();
    owner.inner.commands.send(Command::OpenStream { peer: peer.peer(), reply }).await.expect("running");
    assert!(opened.await.expect("answered").is_err());
    assert_eq!(reachable(&owner).await, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_of_anothers_doing_does_not_stand_in_the_way() {
    let keeper = Arc::new(MemoryKeeper::default());
    let there = start(holder(65, super::nodes::TCP, &keeper, &[])).await.expect("starts");
    let at = super::nodes::listening(&there).await;
    let (plain, id) = addresses::split_peer(at[0].clone());
    // Accepts and says nothing, so that the dial hangs.
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = trap.local_addr().expect("bound").port();
    let owner = {
        let mut config = client(66, &[]);
        let id = id.expect("named");
        // The bootstrap address is dialled first, by the knock, and hangs.
        config.network.bootstrap = vec![format!("/ip4/127.0.0.1/tcp/{port}/p2p/{id}")];
        start(config).await.expect("starts")
    };
    let hanging = tokio::time::timeout(DEADLINE, trap.accept()).await.expect("dials").expect("accepts");
    let request =
        cairn_proto::message::ControlRequest { ask: Some(cairn_proto::message::control_request::Ask::Adverts(1)) };
    let peer = there.inner.me;
    let ask = owner.ask(|reply| Command::Ask { peer, addresses: vec![plain], request, reply });
    let answer = tokio::time::timeout(DIAL_TIMEOUT / 2, ask).await.expect("does not wait for the hanging dial");
    assert!(answer.expect("running").is_ok());
    drop(hanging);
}
