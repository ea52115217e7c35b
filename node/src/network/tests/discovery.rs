//! Nodes whose first contact comes late, or loses what was said: they find the others all the same (NET-7).

use super::super::{control::ControlCodec, keeper::memory::MemoryKeeper, *};
use super::conduct::until;
use super::crowds::Speaker;
use super::nodes::{DEADLINE, TCP, client, holder, identity, listening, network};
use crate::overlay::Overlay as _;
use cairn_proto::{
    ByteSize, Region,
    message::{Advert, ControlAnswer, Roles},
    signed::SignedBytes,
};
use futures::StreamExt as _;
use libp2p::{
    SwarmBuilder, gossipsub, identify,
    multiaddr::Protocol,
    request_response::{self, Message, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};

/// Peers of a crowd: more than gossip's mesh of one node (12) and than one bucket of the DHT (20).
const CROWD: u64 = 30;

async fn start_holder(seed: u64, bootstrap: &[Multiaddr]) -> NetworkHandle {
    start(holder(seed, TCP, &Arc::new(MemoryKeeper::default()), bootstrap)).await.expect("starts")
}

async fn is_connected_to(node: &NetworkHandle, peers: usize) {
    let mut readiness = node.inner.readiness.clone();
    let connected = readiness.wait_for(|r| r.connected >= peers);
    let result = tokio::time::timeout(DEADLINE, connected).await.map(|r| r.map(|r| *r).expect("running"));
    assert!(result.is_ok(), "NET-7: {:?}, {peers} wanted", node.readiness());
}

/// In front of a port: hangs up on the first few, then passes on.
async fn slow_door(to: &Multiaddr, hang_ups: usize) -> Multiaddr {
    let port = to.iter().find_map(|part| if let Protocol::Tcp(port) = part { Some(port) } else { None });
    let port = port.expect("TCP");
    let door = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let here = door.local_addr().expect("bound").port();
    tokio::spawn(async move {
        for _ in 0..hang_ups {
            drop(door.accept().await);
        }
        while let Ok((mut inside, _)) = door.accept().await {
            tokio::spawn(async move {
                let mut outside = TcpStream::connect(("127.0.0.1", port)).await?;
                tokio::io::copy_bidirectional(&mut inside, &mut outside).await
            });
        }
    });
    let here = to.iter().map(|part| if let Protocol::Tcp(_) = part { Protocol::Tcp(here) } else { part });
    here.collect()
}

/// By then the walk that a new bootstrap address starts has ended without an answer, and libp2p's next is minutes away.
#[tokio::test(flavor = "multi_thread")]
async fn who_gets_in_late_still_walks_to_everybody() {
    let hub = start_holder(300, &[]).await;
    let door = listening(&hub).await;
    let mut others = Vec::new();
    for seed in 301..304 {
        others.push(start_holder(seed, &door).await);
    }
    is_connected_to(&hub, others.len()).await;
    let slow = slow_door(&door[0], 4).await;
    let late = start_holder(304, &[slow]).await;
    is_connected_to(&late, 1 + others.len()).await;
}

#[derive(NetworkBehaviour)]
struct Talk {
    identify: identify::Behaviour,
    control: request_response::Behaviour<ControlCodec>,
}

fn advert(seed: u64) -> SignedBytes {
    let identity = identity(seed);
    Advert {
        peer: identity.peer(),
        network: network().id,
        sequence: Timestamp(1),
        protocol: network().protocol,
        domain: Domain::operator(&format!("told-{seed}")).expect("valid"),
        region: Region::unknown(),
        roles: Roles::STORAGE,
        give: ByteSize(1 << 40),
        free: ByteSize(1 << 40),
        version: "1".into(),
        addresses: Vec::new(),
        pass: Vec::new(),
    }
    .seal(identity.signing_key())
}

/// A peer that speaks of others when asked, and nothing else; the first questions get lost with it.
async fn forgetful(seed: u64, mut lost: usize, tells: Vec<SignedBytes>) -> Multiaddr {
    let protocols = behaviour::Protocols::of(&network()).expect("valid");
    let keys = keys::transport_keys(&identity(seed)).expect("Ed25519");
    let mut swarm = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), libp2p::noise::Config::new, yamux::Config::default)
        .expect("TCP")
        .with_behaviour(|keys| Talk {
            identify: identify::Behaviour::new(identify::Config::new(protocols.identify.clone(), keys.public())),
            control: request_response::Behaviour::new(
                [(protocols.control.clone(), ProtocolSupport::Full)],
                request_response::Config::default(),
            ),
        })
        .expect("built")
        .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
        .build();
    swarm.listen_on(TCP.parse().expect("address")).expect("listens");
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address.with_p2p(*swarm.local_peer_id()).expect("its own");
        }
    };
    tokio::spawn(async move {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(TalkEvent::Control(request_response::Event::Message {
                message: Message::Request { channel, .. },
                ..
            })) = event
            {
                if lost > 0 {
                    lost -= 1;
                    continue;
                }
                let answer = ControlAnswer { adverts: tells.clone(), ..ControlAnswer::default() };
                let _ = swarm.behaviour_mut().control.send_response(channel, answer);
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_was_lost_is_asked_again() {
    let door = forgetful(310, 2, (311..314).map(advert).collect()).await;
    let node = start(client(314, &[door])).await.expect("starts");
    node.wait_ready(3, DEADLINE).await.expect("NET-7: was told after all");
}

/// Half a second after its start a node speaks of itself, and if nobody is there yet it does so when somebody comes, not a
/// minute later.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_alone_speaks_when_somebody_listens() {
    let node = start_holder(320, &[]).await;
    listening(&node).await;
    // Longer than that; on a slow machine the test only sees less.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut listener = Speaker::connect(321, &node).await;
    let heard = async {
        loop {
            if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) =
                listener.swarm.select_next_some().await
            {
                let signed = SignedBytes::decode(message.data.as_slice()).expect("an advert");
                break Advert::open(&signed).expect("an advert").peer;
            }
        }
    };
    // Well within the minute.
    let heard = tokio::time::timeout(Duration::from_secs(45), heard).await;
    assert_eq!(heard.expect("NET-7: speaks in time"), node.inner.me);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_at_once_finds_itself() {
    let hub = start_holder(330, &[]).await;
    let door = listening(&hub).await;
    let mut crowd = vec![hub];
    for seed in 331..330 + CROWD {
        crowd.push(start_holder(seed, &door).await);
    }
    for node in &crowd {
        node.wait_ready(crowd.len() - 1, DEADLINE).await.expect("knows all others");
    }
    for node in &crowd {
        assert_eq!(node.peers(false).await.expect("runs").len(), crowd.len() - 1);
    }
}

/// A verb on a stopped node's folder joins in its name: others must not take that for the holder's return.
#[tokio::test(flavor = "multi_thread")]
async fn who_stores_no_more_says_so() {
    let other = start_holder(340, &[]).await;
    let door = listening(&other).await;
    let roles_of = async |peer: PeerKey| {
        let known = other.peers(false).await.expect("runs");
        known.iter().find(|view| view.peer == peer).map(|view| view.roles)
    };
    let stores = start_holder(341, &door).await;
    let peer = stores.inner.me;
    until("known as a holder", async || roles_of(peer).await.is_some_and(|roles| roles.has(Roles::STORAGE))).await;
    stores.shutdown().await;

    let visits = start(NetworkConfig { known_to_store: true, ..client(341, &door) }).await.expect("starts");
    assert_eq!(visits.inner.me, peer);
    until("known as no holder", async || roles_of(peer).await == Some(Roles::NONE)).await;
    visits.shutdown().await;

    let back = start_holder(341, &door).await;
    until("a holder again", async || roles_of(peer).await.is_some_and(|roles| roles.has(Roles::STORAGE))).await;
    // An owner who never stored stays unknown.
    let owner = start(client(342, &door)).await.expect("starts");
    owner.wait_ready(2, DEADLINE).await.expect("knows them");
    assert_eq!(roles_of(owner.inner.me).await, None);
    back.shutdown().await;
}
