//! The door of a network by invitation: who is let in, who is not, and what the others get to see.

use std::collections::BTreeSet;

use cairn_proto::{
    ByteSize, Region,
    message::Roles,
    network_file::{Admission, NetworkFile},
    pass::{Invitation, LinkKind, Offer, Pass},
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, swarm::SwarmEvent, tcp, yamux};
use rand_core::SeedableRng as _;
use zeroize::Zeroizing;

use super::super::{
    book::{NotLearned, PeerBook},
    invitations::Invitations,
    keeper::memory::MemoryKeeper,
    *,
};
use super::nodes::{DEADLINE, QUIC, TCP, client, holder, listening};
use crate::{identity::Identity, overlay::Overlay as _};

const DAY: u64 = 24 * 3600 * 1000;

fn founder() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn club() -> NetworkFile {
    NetworkFile::create_with("club", 2, Admission::Invitation, &founder()).expect("valid")
}

fn member(seed: u64) -> Identity {
    Identity::generate(&club(), &mut ChaCha20Rng::seed_from_u64(seed))
}

fn offer(depth: u8) -> Offer {
    Offer { depth, uses: 0, issued: clock(), use_by: None, expires: None }
}

/// From the founder, for the member of this seed.
fn invited_with(seed: u64, offer: Offer) -> Pass {
    let key = *member(seed).peer().as_bytes();
    Pass::found(&club(), &founder(), LinkKind::Peer, key, offer).expect("valid")
}

fn invited(seed: u64) -> Pass {
    invited_with(seed, offer(2))
}

fn joining(mut config: NetworkConfig, seed: u64, pass: Option<Pass>) -> NetworkConfig {
    let bootstrap = std::mem::take(&mut config.network.bootstrap);
    config.network = NetworkFile { bootstrap, ..club() };
    config.identity = member(seed);
    config.pass = pass;
    config
}

async fn storing(seed: u64, listen: &str, door: &[Multiaddr], pass: Option<Pass>) -> NetworkHandle {
    let config = holder(seed, listen, &Arc::new(MemoryKeeper::default()), door);
    start(joining(config, seed, pass)).await.expect("starts")
}

/// What the door says to an owner with this pass.
async fn told(seed: u64, door: &[Multiaddr], pass: Option<Pass>) -> Verdict {
    let node = start(joining(client(seed, door), seed, pass)).await.expect("starts");
    let mut readiness = node.inner.readiness.clone();
    let said = readiness.wait_for(|r| r.turned_away.is_some() || r.connected > 0);
    let said = *tokio::time::timeout(DEADLINE, said).await.expect("in time").expect("runs");
    node.shutdown().await;
    said.turned_away.unwrap_or(Verdict::Admitted)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_whom_they_invite_get_in_and_nobody_else() {
    let first = storing(400, TCP, &[], Some(invited(400))).await;
    let door = listening(&first).await;
    // Invited by the first, by a text.
    let bearing = Offer { uses: 1, ..offer(1) };
    let secret = Zeroizing::new([9; 32]);
    let key = member(400).signing_key().clone();
    let chain = invited(400).extend(&key, LinkKind::Bearer, Invitation::key_of(&secret), bearing).expect("may");
    let invitation = Invitation::new(chain, secret).expect("belong together");
    let pass = invitation.accept(&member(401).peer(), clock()).expect("closed");
    let second = storing(401, TCP, &door, Some(pass)).await;
    first.wait_ready(1, DEADLINE).await.expect("knows the second");
    second.wait_ready(1, DEADLINE).await.expect("knows the first");
    let invitations = first.inner.standings.explain(&second.inner.me, clock());
    assert!(invitations.lines.iter().any(|line| line.contains(&first.inner.me.to_string())), "{:?}", invitations.lines);

    let owner = start(joining(client(402, &door), 402, Some(invited(402)))).await.expect("starts");
    owner.wait_ready(2, DEADLINE).await.expect("hears of both");
    let peers: BTreeSet<_> = owner.peers(true).await.expect("runs").into_iter().map(|view| view.peer).collect();
    assert_eq!(peers, [first.inner.me, second.inner.me].into());

    // The text was good for one.
    let again = invitation.accept(&member(403).peer(), clock()).expect("closed");
    assert_eq!(told(403, &door, Some(again)).await, Verdict::UsedUp);

    // A node that stores and that nobody invited: nobody hears of it.
    let stranger = storing(404, TCP, &door, None).await;
    let mut readiness = stranger.inner.readiness.clone();
    let refused = readiness.wait_for(|r| r.turned_away.is_some());
    let refused = *tokio::time::timeout(DEADLINE, refused).await.expect("in time").expect("runs");
    assert_eq!((refused.turned_away, refused.connected, refused.storage_peers), (Some(Verdict::NoPass), 0, 0));
    for node in [&first, &second, &owner] {
        let known = node.peers(false).await.expect("runs");
        assert!(known.iter().all(|view| view.peer != stranger.inner.me), "ADM-2");
    }
    assert_eq!(stranger.peers(false).await.expect("runs"), vec![], "nor does it hear of anybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_false_pass_is_refused_with_its_reason() {
    for listen in [TCP, QUIC] {
        let node = storing(410, listen, &[], Some(invited(410))).await;
        let door = listening(&node).await;
        assert_eq!(told(411, &door, None).await, Verdict::NoPass, "{listen}");
        assert_eq!(told(412, &door, Some(invited(412))).await, Verdict::Admitted, "{listen}");
    }
    let node = storing(420, TCP, &[], Some(invited(420))).await;
    let door = listening(&node).await;
    let now = clock();
    assert_eq!(told(421, &door, Some(invited(420))).await, Verdict::OtherPeer, "stolen");
    let over = Offer { issued: Timestamp(now.0 - 2 * DAY), expires: Some(Timestamp(now.0 - DAY)), ..offer(0) };
    assert_eq!(told(422, &door, Some(invited_with(422, over))).await, Verdict::Expired);
    let ahead = Offer { issued: now.plus_ms(DAY), ..offer(0) };
    assert_eq!(told(423, &door, Some(invited_with(423, ahead))).await, Verdict::Ahead);
    let foreign = NetworkFile::create_with("other", 2, Admission::Invitation, &founder()).expect("valid");
    let key = *member(424).peer().as_bytes();
    let foreign = Pass::found(&foreign, &founder(), LinkKind::Peer, key, offer(0)).expect("valid");
    assert_eq!(told(424, &door, Some(foreign)).await, Verdict::OtherNetwork);
    let mut bytes = invited(425).encode();
    // The signature's last byte.
    *bytes.last_mut().expect("not empty") ^= 1;
    assert_eq!(told(425, &door, Some(Pass::decode(&bytes).expect("well formed"))).await, Verdict::False);
    let key = member(420).signing_key().clone();
    let to = *member(426).peer().as_bytes();
    let below = invited_with(420, offer(1)).extend(&key, LinkKind::Peer, to, offer(0)).expect("may");
    let circle = invited(427)
        .extend(member(427).signing_key(), LinkKind::Peer, *member(428).peer().as_bytes(), offer(1))
        .and_then(|pass| {
            pass.extend(member(428).signing_key(), LinkKind::Peer, *member(427).peer().as_bytes(), offer(0))
        })
        .expect("whoever has both keys can write it");
    assert_eq!(told(427, &door, Some(circle)).await, Verdict::NotAllowed);
    assert_eq!(told(426, &door, Some(below)).await, Verdict::Admitted, "who is invited by a member");
    assert_eq!(node.readiness().storage_peers, 0);
}

/// A peer of the network's own puzzle that is connected to a node and speaks whatever it likes.
async fn stranger(
    seed: u64,
    node: &NetworkHandle,
) -> (Swarm<libp2p_stream::Behaviour>, PeerId, libp2p_stream::Control) {
    let keys = keys::transport_keys(&member(seed)).expect("Ed25519");
    let mut swarm = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), libp2p::noise::Config::new, yamux::Config::default)
        .expect("TCP")
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .expect("built")
        .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
        .build();
    let control = swarm.behaviour().new_control();
    swarm.dial(listening(node).await[0].clone()).expect("dials");
    while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    (swarm, keys::peer_id(&node.inner.me).expect("valid"), control)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_answered_on_the_doors_protocol_alone() {
    let node = storing(430, TCP, &[], Some(invited(430))).await;
    let protocols = behaviour::Protocols::of(&club()).expect("valid");
    let (mut swarm, id, mut control) = stranger(431, &node).await;
    let (ended, mut end) = mpsc::channel(1);
    let driver = tokio::spawn(async move {
        loop {
            if let SwarmEvent::ConnectionClosed { .. } = swarm.select_next_some().await {
                let _ = ended.send(()).await;
            }
        }
    });
    let gossip =
        |version| StreamProtocol::try_from_owned(format!("{}/{version}", protocols.gossip_prefix)).expect("valid");
    let known = [
        protocols.kad.clone(),
        protocols.control.clone(),
        protocols.shard.clone(),
        protocols.stewards.clone(),
        protocols.rebuild.clone(),
        gossip("1.0.0"),
        gossip("1.1.0"),
        StreamProtocol::new("/ipfs/id/1.0.0"),
        StreamProtocol::new("/ipfs/id/push/1.0.0"),
        StreamProtocol::new("/ipfs/ping/1.0.0"),
        StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop"),
        StreamProtocol::new("/libp2p/dcutr"),
    ];
    for protocol in known {
        let opened = control.open_stream(id, protocol.clone()).await;
        let refused = matches!(opened, Err(libp2p_stream::OpenStreamError::UnsupportedProtocol(_)));
        assert!(refused, "ADM-2: {protocol} was answered: {opened:?}");
    }
    let mut stream = control.open_stream(id, protocols.pass.clone()).await.expect("the door");
    stream.write_all(&[0, 0]).await.expect("written");
    stream.flush().await.expect("written");
    let mut verdict = [0];
    stream.read_exact(&mut verdict).await.expect("a verdict");
    assert_eq!(Verdict::from_byte(verdict[0]), Verdict::NoPass);
    drop(stream);
    tokio::time::timeout(DEADLINE, end.recv()).await.expect("hung up").expect("runs");
    assert_eq!(node.readiness().connected, 0);
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_silent_at_the_door_is_hung_up_on_and_long_passes_are_not_read() {
    let node = storing(440, TCP, &[], Some(invited(440))).await;
    let protocols = behaviour::Protocols::of(&club()).expect("valid");
    for shows_too_much in [false, true] {
        let (mut swarm, id, mut control) = stranger(441 + u64::from(shows_too_much), &node).await;
        let pass = protocols.pass.clone();
        let shows = tokio::spawn(async move {
            if shows_too_much {
                let mut stream = control.open_stream(id, pass).await.expect("the door");
                let _ = stream.write_all(&[0xff; 70_000]).await;
                std::future::pending::<()>().await;
            }
        });
        let closed = async { while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {} };
        tokio::time::timeout(DEADLINE, closed).await.expect("hung up");
        shows.abort();
    }
}

/// Adverts that others bring say by themselves whether their peer was invited.
#[tokio::test]
async fn the_book_takes_only_who_is_invited() {
    let me = member(450);
    let invitations = Invitations::new(club(), Some(&invited(450)));
    let mut book = PeerBook::new(club(), me.peer(), true, &[1; 32]).with_invitations(invitations);
    let advert = |seed: u64, pass: Vec<u8>| {
        let peer = member(seed);
        let advert = cairn_proto::message::Advert {
            peer: peer.peer(),
            network: club().id,
            sequence: clock(),
            protocol: cairn_proto::PROTOCOL_VERSION,
            domain: Domain::of_peer(&peer.peer()),
            region: Region::unknown(),
            roles: Roles::STORAGE,
            give: ByteSize(1),
            free: ByteSize(1),
            version: "1".into(),
            addresses: vec![],
            pass,
        };
        advert.seal(peer.signing_key())
    };
    let mut refused = |seed, pass| match book.learn(&advert(seed, pass), None, clock()) {
        Err(NotLearned::NotInvited(why)) => why.to_string(),
        other => format!("{other:?}"),
    };
    assert!(refused(451, vec![]).contains("bytes where"), "{}", refused(451, vec![]));
    assert!(refused(451, invited(450).encode()).contains("another peer"));
    assert!(refused(451, invited(451).encode()).contains("New"), "and who is, is taken");
}
