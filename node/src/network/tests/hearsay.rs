//! What others say or make us do must not decide what we think of a peer.

use super::super::{
    book::{self, PeerBook},
    keeper::memory::MemoryKeeper,
    *,
};
use super::super::{command::AskError, streams::OpenError};
use super::nodes::{DEADLINE, client, holder, identity, network};
use crate::{
    identity::Identity,
    overlay::{Overlay as _, OverlayError},
};
use cairn_proto::{
    ByteSize, PROTOCOL_VERSION, Region,
    message::{Advert, ControlAnswer, ControlRequest, Roles, control_request::Ask},
};
use libp2p::multiaddr::Protocol;
use tokio::net::TcpListener;

/// An owner whose peer book has a peer that says it is at these addresses.
async fn owner_that_knows(seed: u64, peer: &Identity, addresses: Vec<String>) -> NetworkHandle {
    owner_that_knows_all(seed, &[(peer, addresses)]).await
}

async fn owner_that_knows_all(seed: u64, peers: &[(&Identity, Vec<String>)]) -> NetworkHandle {
    let folder = tempfile::tempdir().expect("folder");
    let mut book = PeerBook::new(network(), PeerKey::from_bytes([0; 32]), true, &[1; 32]);
    for (peer, addresses) in peers {
        book.learn(&advert(peer, addresses.clone()), None, clock()).expect("taken");
    }
    book::write_file(folder.path(), &book.take_unwritten().expect("changed")).expect("written");
    let mut config = client(seed, &[]);
    config.data_dir = Some(folder.path().to_path_buf());
    start(config).await.expect("starts")
}

fn advert(peer: &Identity, addresses: Vec<String>) -> cairn_proto::signed::SignedBytes {
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
        pass: Vec::new(),
    };
    advert.seal(peer.signing_key())
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
    owner
        .inner
        .commands
        .send(Command::OpenStream { peer: peer.peer(), kind: streams::Kind::Shard, reply })
        .await
        .expect("running");
    assert!(opened.await.expect("answered").is_err());
    assert_eq!(reachable(&owner).await, Some(false));
}

async fn open(owner: &NetworkHandle, peer: &Identity) -> oneshot::Receiver<Result<libp2p::Stream, OpenError>> {
    let (reply, opened) = oneshot::channel();
    owner
        .inner
        .commands
        .send(Command::OpenStream { peer: peer.peer(), kind: streams::Kind::Shard, reply })
        .await
        .expect("running");
    opened
}

/// A port where nobody is any more.
async fn gone() -> String {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
    format!("/ip4/127.0.0.1/tcp/{port}")
}

fn circuit(at: &str, relay: &Identity) -> String {
    format!("{at}/p2p/{}/p2p-circuit", keys::peer_id(&relay.peer()).expect("valid"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_with_its_relay_is_dialled_once() {
    let (peer, hidden, relay) = (identity(71), identity(72), identity(73));
    let through = circuit(&gone().await, &relay);
    let both = [(&peer, vec![gone().await, through.clone()]), (&hidden, vec![through])];
    let owner = owner_that_knows_all(74, &both).await;
    let reachable = async |of: &Identity| {
        let peers = owner.peers(false).await.expect("runs");
        peers.into_iter().find(|p| p.peer == of.peer()).expect("known").reachable
    };
    for peer in [&peer, &hidden] {
        let failed = async || {
            let opened = open(&owner, peer).await;
            match tokio::time::timeout(DEADLINE, opened).await.expect("ends").expect("answered") {
                Err(OpenError::Dial(why)) => why,
                other => panic!("{:?}", other.err()),
            }
        };
        failed().await;
        // Nobody is dialled again in the next moment; a busy machine may let that go by.
        let mut again = Vec::new();
        while !again.iter().any(|why: &String| why.contains("a moment ago")) && again.len() < 10 {
            again.push(failed().await);
        }
        assert!(again.len() < 10, "{again:?}");
    }
    assert_eq!(reachable(&peer).await, Some(false), "its own address leads nowhere");
    assert_eq!(reachable(&hidden).await, None, "a relay's end says nothing of whom it carries");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_does_not_answer_makes_nobody_dial_a_third_again_and_again() {
    let [victim, refusing, silent] = [
        TcpListener::bind("127.0.0.1:0").await,
        TcpListener::bind("127.0.0.1:0").await,
        TcpListener::bind("127.0.0.1:0").await,
    ]
    .map(|bound| bound.expect("binds"));
    let at = |trap: &TcpListener| format!("/ip4/127.0.0.1/tcp/{}", trap.local_addr().expect("bound").port());
    let (peer, relay) = (identity(75), identity(76));
    // libp2p's own dial to the relay fails where the circuit says that it is, ours hangs where the relay says so.
    let named = vec![at(&victim), circuit(&at(&refusing), &relay)];
    let owner = owner_that_knows_all(77, &[(&peer, named), (&relay, vec![at(&silent)])]).await;
    tokio::spawn(async move { while refusing.accept().await.is_ok() {} });
    let dials = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting = dials.clone();
    tokio::spawn(async move {
        while victim.accept().await.is_ok() {
            counting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let before = dials.load(std::sync::atomic::Ordering::SeqCst);
    let mut opened = open(&owner, &peer).await;
    // Twelve ticks, while the relay's listener takes the dials and says nothing.
    let early = tokio::time::timeout(Duration::from_secs(3), &mut opened).await;
    assert!(early.is_err(), "it waits for the relay");
    drop(silent);
    assert!(
        tokio::time::timeout(DEADLINE, opened).await.expect("ends with the relay's dial").expect("answered").is_err()
    );
    let dials = dials.load(std::sync::atomic::Ordering::SeqCst) - before;
    // One for this, and those of the knocking that nobody asked for: more and more seldom, none while we wait.
    assert!(dials <= 6, "{dials} dials");
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
    let mut door = format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().expect("address");
    door.push(Protocol::P2p(id.expect("named")));
    let owner = {
        let mut config = client(66, &[]);
        // The bootstrap address is dialled first, by the knock, and hangs.
        config.network.bootstrap = vec![door.to_string()];
        start(config).await.expect("starts")
    };
    let hanging = tokio::time::timeout(DEADLINE, trap.accept()).await.expect("dials").expect("accepts");
    let ask = adverts_of(&owner, there.inner.me, plain);
    let answer = tokio::time::timeout(DEADLINE, ask).await.expect("does not wait for the hanging dial");
    assert!(answer.expect("running").is_ok());
    drop(hanging);
}

/// Asks a peer that is told to be somewhere.
async fn adverts_of(
    owner: &NetworkHandle,
    peer: PeerKey,
    told: Multiaddr,
) -> Result<Result<ControlAnswer, AskError>, OverlayError> {
    let request = ControlRequest { ask: Some(Ask::Adverts(1)) };
    owner.ask(|reply| Command::Ask { peer, addresses: vec![told], request, reply }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_asker_heard_is_tried_while_our_own_dial_elsewhere_hangs() {
    let there = start(holder(67, super::nodes::TCP, &Arc::new(MemoryKeeper::default()), &[])).await.expect("starts");
    let (plain, id) = addresses::split_peer(super::nodes::listening(&there).await[0].clone());
    // Both accept and say nothing.
    let [first, second] = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
    let (first, second) = (first.expect("binds"), second.expect("binds"));
    let at = |trap: &TcpListener| -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{}", trap.local_addr().expect("bound").port()).parse().expect("address")
    };
    // The operator named a relay, at an address where it is no more: that dial is our own, and hangs.
    let circuit = at(&first).with(Protocol::P2p(id.expect("named"))).with(Protocol::P2pCircuit).to_string();
    let node = start(holder(68, &circuit, &Arc::new(MemoryKeeper::default()), &[])).await.expect("starts");
    let hanging = tokio::time::timeout(DEADLINE, first.accept()).await.expect("dials").expect("accepts");

    let peer = there.inner.me;
    let early = tokio::spawn({
        let (node, told) = (node.clone(), at(&second));
        async move { adverts_of(&node, peer, told).await }
    });
    let hanging_too =
        tokio::time::timeout(DEADLINE, second.accept()).await.expect("dials there, too").expect("accepts");
    // One of them fails. That says nothing while the other goes on.
    drop((first, hanging));
    let answer = tokio::time::timeout(DEADLINE, adverts_of(&node, peer, plain)).await.expect("tries the third place");
    assert!(answer.expect("running").is_ok());
    let early = tokio::time::timeout(DEADLINE, early).await.expect("answered over the same connection");
    assert!(early.expect("no panic").expect("running").is_ok());
    drop(hanging_too);
}
