//! Many peers where few should be: connections from one place, adverts of a crowd, gossip that is not what it says.

use super::super::{keeper::memory::MemoryKeeper, *};
use super::nodes::{DEADLINE, TCP, client, holder, identity, listening, network};
use crate::{identity::Identity, overlay::Overlay as _};
use cairn_proto::{
    ByteSize, Region,
    message::{Advert, Roles},
    signed::SignedBytes,
};
use futures::StreamExt as _;
use libp2p::{Swarm, SwarmBuilder, gossipsub, swarm::SwarmEvent, tcp, yamux};
use prost::Message as _;
use tokio::time::Instant;

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

/// A peer that speaks gossip and nothing else, and says what the test wants.
pub(super) struct Speaker {
    pub(super) swarm: Swarm<gossipsub::Behaviour>,
    identity: Identity,
    topic: gossipsub::IdentTopic,
}

impl Speaker {
    pub(super) async fn connect(seed: u64, to: &NetworkHandle) -> Self {
        let protocols = behaviour::Protocols::of(&network()).expect("valid");
        let identity = identity(seed);
        let keys = keys::transport_keys(&identity).expect("Ed25519");
        let config = gossipsub::ConfigBuilder::default()
            .protocol_id_prefix(protocols.gossip_prefix.clone())
            .validation_mode(gossipsub::ValidationMode::Strict)
            .build()
            .expect("valid");
        let author = gossipsub::MessageAuthenticity::Signed(keys.clone());
        let mut gossip = gossipsub::Behaviour::new(author, config).expect("valid");
        gossip.subscribe(&protocols.adverts).expect("subscribed");
        let mut swarm = SwarmBuilder::with_existing_identity(keys)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), libp2p::noise::Config::new, yamux::Config::default)
            .expect("TCP")
            .with_behaviour(|_| gossip)
            .expect("built")
            .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
            .build();
        swarm.dial(listening(to).await[0].clone()).expect("dials");
        let mut this = Self { swarm, identity, topic: protocols.adverts };
        let heard = async {
            while !matches!(
                this.swarm.select_next_some().await,
                SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })
            ) {}
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("the node speaks gossip");
        this
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
            pass: Vec::new(),
        }
        .seal(self.identity.signing_key())
    }

    fn say(&mut self, signed: &SignedBytes) {
        self.swarm.behaviour_mut().publish(self.topic.clone(), signed.encode_to_vec()).expect("published");
    }

    pub(super) fn peer(&self) -> PeerKey {
        self.identity.peer()
    }

    /// Drives the connection until something is so.
    pub(super) async fn until(&mut self, mut done: impl AsyncFnMut(&mut Swarm<gossipsub::Behaviour>) -> bool) {
        let so = async {
            while !done(&mut self.swarm).await {
                let _ = tokio::time::timeout(Duration::from_millis(20), self.swarm.select_next_some()).await;
            }
        };
        tokio::time::timeout(DEADLINE, so).await.expect("in time");
    }

    /// Says something newer ever again, until the node has taken one, and which.
    async fn is_taken(&mut self, node: &NetworkHandle, from: u64) -> u64 {
        let me = self.identity.peer();
        for sequence in from.. {
            self.say(&self.advert(sequence));
            // What comes sooner than a second after the last is not taken.
            let again = Instant::now() + Duration::from_millis(1100);
            let mut taken = None;
            let is_over = async |_: &mut Swarm<gossipsub::Behaviour>| {
                taken = free(node, &me).await.filter(|free| *free >= from);
                taken.is_some() || Instant::now() >= again
            };
            self.until(is_over).await;
            if let Some(taken) = taken {
                return taken;
            }
        }
        unreachable!("sequences do not end")
    }
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
    let mut slow = Speaker::connect(212, &node).await;
    let taken = slow.is_taken(&node, 1000).await;
    for sequence in 900..920 {
        slow.say(&slow.advert(sequence));
    }
    let mut taken = slow.is_taken(&node, taken + 1).await;

    let mut spoiler = Speaker::connect(213, &node).await;
    let last = spoiler.is_taken(&node, 1000).await;
    for sequence in 2000..2003 {
        let mut forged = spoiler.advert(sequence);
        forged.signature[0] ^= 1;
        spoiler.say(&forged);
    }
    let peer = spoiler.identity.peer();
    let score = async || node.ask(|reply| Command::Score { peer, reply }).await.expect("runs");
    spoiler.until(async |_| score().await.is_some_and(|score| score < gossip::GRAYLIST)).await;
    spoiler.say(&spoiler.advert(3000));

    // Everybody else is still heard, and by the time they are, so would the spoiler have been.
    for _ in 0..2 {
        let drive = async { while spoiler.swarm.next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(1100), drive).await;
        taken = slow.is_taken(&node, taken + 1).await;
    }
    assert!(free(&node, &honest.inner.me).await.is_some());
    assert_eq!(free(&node, &spoiler.identity.peer()).await, Some(last), "NET-4");
}
