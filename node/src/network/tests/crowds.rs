//! Many peers where few should be: connections from one place, adverts of a crowd, gossip that is not what it says.

use super::super::{keeper::memory::MemoryKeeper, *};
use super::nodes::{A_MOMENT, DEADLINE, FOR_EVER, TCP, client, holder, identity, listening, network};
use crate::overlay::Overlay as _;
use cairn_proto::{message::Advert, signed::SignedBytes};
use futures::StreamExt as _;
use libp2p::{gossipsub, swarm::SwarmEvent};
use prost::Message as _;

/// Loopback's own limit stands in for a /24's: the behaviour is the same, the addresses are what a test has.
#[tokio::test(flavor = "multi_thread")]
async fn one_place_cannot_take_all_connections() {
    let mut config = holder(200, TCP, &Arc::new(MemoryKeeper::default()), &[]);
    config.inbound.near = 2;
    let node = start(config).await.expect("starts");
    let door = listening(&node).await;
    let first = start(client(201, &door)).await.expect("starts");
    let second = start(client(202, &door)).await.expect("starts");
    for admitted in [&first, &second] {
        admitted.wait_ready(0, DEADLINE).await.expect("one of the first two");
    }
    let third = start(client(203, &door)).await.expect("starts");
    let refused = third.wait_ready(0, Duration::from_secs(3)).await;
    assert!(refused.is_err(), "NET-3: {refused:?}");
    assert_eq!(node.readiness().connected, 2);

    first.shutdown().await;
    third.wait_ready(0, DEADLINE).await.expect("a place is free again");
}

/// A peer that speaks gossip and nothing else, and says what the test wants. Its connection lives in a task of its own.
struct Speaker {
    identity: Identity,
    says: mpsc::Sender<Vec<u8>>,
}

impl Speaker {
    async fn connect(seed: u64, to: &NetworkHandle) -> Self {
        let protocols = behaviour::Protocols::of(&network()).expect("valid");
        let identity = identity(seed);
        let keys = keys::transport_keys(&identity).expect("Ed25519");
        let config = gossipsub::ConfigBuilder::default()
            .protocol_id_prefix(protocols.gossip_prefix.clone())
            .validation_mode(gossipsub::ValidationMode::Strict)
            .build()
            .expect("valid");
        let author = gossipsub::MessageAuthenticity::Signed(keys.clone());
        let mut gossip: gossipsub::Behaviour = gossipsub::Behaviour::new(author, config).expect("valid");
        gossip.subscribe(&protocols.adverts).expect("subscribed");
        let mut swarm = SwarmBuilder::with_existing_identity(keys)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), libp2p::noise::Config::new, yamux::Config::default)
            .expect("TCP")
            .with_behaviour(|_| gossip)
            .expect("built")
            .with_swarm_config(|c| c.with_idle_connection_timeout(FOR_EVER))
            .with_connection_timeout(FOR_EVER)
            .build();
        let door = listening(to).await.remove(0);
        swarm.dial(door.clone()).expect("dials");
        let heard = async {
            while !matches!(swarm.select_next_some().await, SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. }))
            {
            }
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("the node speaks gossip");
        let (says, mut said) = mpsc::channel::<Vec<u8>>(64);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    bytes = said.recv() => {
                        let Some(bytes) = bytes else { return };
                        // Lost when the connection is; then it is said again.
                        let _ = swarm.behaviour_mut().publish(protocols.adverts.clone(), bytes);
                    }
                    event = swarm.select_next_some() => {
                        if let SwarmEvent::ConnectionClosed { .. } = event {
                            swarm.dial(door.clone()).expect("dials");
                        }
                    }
                }
            }
        });
        Self { identity, says }
    }

    fn advert(&self, sequence: u64) -> SignedBytes {
        Advert {
            peer: self.identity.peer(),
            network: network().id,
            sequence: Timestamp(sequence),
            protocol: network().protocol,
            domain: Domain::operator("speaker").expect("valid"),
            region: Region::unknown(),
            roles: Roles::STORAGE,
            give: ByteSize(1 << 40),
            // So that the one that was taken can be told from the others.
            free: ByteSize(sequence),
            version: "1".into(),
            addresses: Vec::new(),
        }
        .seal(self.identity.signing_key())
    }

    async fn say(&self, signed: &SignedBytes) {
        self.says.send(signed.encode_to_vec()).await.expect("speaks");
    }

    /// Says adverts from this one on until the node has taken one; which. Gossip may lose what is said once.
    async fn is_taken(&self, node: &NetworkHandle, from: u64) -> u64 {
        let taken = async {
            let mut sequence = from;
            loop {
                self.say(&self.advert(sequence)).await;
                sequence += 1;
                let heard = async {
                    loop {
                        match free(node, &self.identity.peer()).await {
                            Some(taken) if taken >= from => return taken,
                            _ => tokio::time::sleep(A_MOMENT).await,
                        }
                    }
                };
                if let Ok(taken) = tokio::time::timeout(Duration::from_secs(2), heard).await {
                    return taken;
                }
            }
        };
        tokio::time::timeout(DEADLINE, taken).await.expect("taken in time")
    }
}

/// Longer than two adverts of one peer must lie apart, from when the first was taken.
async fn apart() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

async fn free(node: &NetworkHandle, of: &PeerKey) -> Option<u64> {
    let peers = node.peers(false).await.expect("runs");
    peers.iter().find(|p| p.peer == *of).map(|p| p.free.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_spoils_gossip_is_heard_no_more() {
    let node = start(holder(210, TCP, &Arc::new(MemoryKeeper::default()), &[])).await.expect("starts");
    let door = listening(&node).await;
    let honest = start(holder(211, TCP, &Arc::new(MemoryKeeper::default()), &door)).await.expect("starts");
    honest.wait_ready(1, DEADLINE).await.expect("is in");

    // Old and repeated news is no offence.
    let slow = Speaker::connect(212, &node).await;
    let mut news = slow.is_taken(&node, 1000).await;
    for sequence in 900..920 {
        slow.say(&slow.advert(sequence)).await;
    }
    apart().await;
    news = slow.is_taken(&node, news + 1).await;

    let spoiler = Speaker::connect(213, &node).await;
    let mut last = spoiler.is_taken(&node, 1000).await;
    let spoilt = async {
        // Twice in a row nothing of it was heard although it had news. A forgery may be lost, and is repeated.
        let (mut unheard, mut sequence) = (0, 1_000_000);
        while unheard < 2 {
            for forged in sequence..sequence + 3 {
                let mut forged = spoiler.advert(forged);
                forged.signature[0] ^= 1;
                spoiler.say(&forged).await;
            }
            apart().await;
            spoiler.say(&spoiler.advert(sequence + 3)).await;
            sequence += 1000;
            // Everybody else is still heard, and by the time they are, so would the spoiler have been.
            for _ in 0..2 {
                apart().await;
                news = slow.is_taken(&node, news + 1).await;
            }
            let now = free(&node, &spoiler.identity.peer()).await.expect("known");
            unheard = if now == last { unheard + 1 } else { 0 };
            last = now;
        }
    };
    tokio::time::timeout(DEADLINE, spoilt).await.expect("NET-4");
    assert!(free(&node, &honest.inner.me).await.is_some());
}
