//! A client without manners: libp2p and frames written by hand, none of the program's own network code.

use std::time::Duration;

use cairn_core::colour;
use cairn_proto::{
    CodeParams, Domain, Grant, GroupTicket, PeerKey, Rights, Slot, Timestamp,
    message::{self, Receipt},
    network_file::{NetworkFile, solves_puzzle},
    signed::SignedBytes,
    wire::{FrameHeader, FrameKind, OpenGroup, Priority, PutShard, RefusalCode, Refused},
};
use ed25519_dalek::SigningKey;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, identity, noise, swarm::SwarmEvent, tcp, yamux};
use prost::Message as _;

const DEADLINE: Duration = Duration::from_secs(30);

/// What a holder says to a put.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Durable, with the receipt checked.
    Stored(Receipt),
    Refused(RefusalCode),
    /// The holder closed the stream.
    Closed,
}

/// A group made by somebody who wants to give one holder two slots of it.
pub struct Group {
    pub ticket: GroupTicket,
    authority: SigningKey,
}

impl Group {
    /// Draws salts until a domain has the colour of a slot (and not of the stewards).
    pub fn with_colour(domain: &Domain, wanted: impl Fn(usize) -> bool) -> Self {
        let authority = SigningKey::from_bytes(&[0x66; 32]);
        let of_salt = |n: u64| {
            let salt = *blake3::hash(&n.to_le_bytes()).as_bytes();
            GroupTicket::new(authority.verifying_key().to_bytes(), salt, CodeParams::DEFAULT, 9).expect("valid")
        };
        let ticket = (0..).map(of_salt).find(|t| wanted(colour::colour(t, domain).index())).expect("endless");
        Self { ticket, authority }
    }

    /// The one slot that a domain may hold, if it is a slot.
    pub fn slot_of(&self, domain: &Domain) -> Option<Slot> {
        self.ticket.code().each_slot().find(|slot| colour::may_hold(&self.ticket, domain, *slot))
    }
}

pub struct Hostile {
    stream: Stream,
    me: PeerKey,
    holder: PeerKey,
    request: u32,
    _door: Door,
}

/// A connection to a node, made as any member of the network can; any protocol may be asked for.
pub struct Door {
    control: libp2p_stream::Control,
    me: PeerKey,
    holder: PeerId,
    swarm: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    /// The connection ends with it: a node lets one peer have few.
    fn drop(&mut self) {
        self.swarm.abort();
    }
}

impl Door {
    pub async fn connect(network: &NetworkFile, address: &str) -> Self {
        let address: Multiaddr = address.parse().expect("an address");
        let holder = address.iter().find_map(|p| match p {
            libp2p::multiaddr::Protocol::P2p(id) => Some(id),
            _ => None,
        });
        let holder = holder.expect("the address ends with the peer id");
        let (keypair, me) = member(network);
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("transport")
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .expect("behaviour")
            .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
            .build();
        swarm.dial(address).expect("dials");
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => break,
                    SwarmEvent::OutgoingConnectionError { error, .. } => panic!("cannot connect: {error}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, connected).await.expect("connects in time");
        let control = swarm.behaviour().new_control();
        let swarm = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self { control, me, holder, swarm }
    }

    /// `None` when the node does not speak it, or the connection is closed.
    pub async fn stream(&self, protocol: &str) -> Option<Stream> {
        let protocol = StreamProtocol::try_from_owned(protocol.to_owned()).expect("a name");
        let mut control = self.control.clone();
        let opened = tokio::time::timeout(DEADLINE, control.open_stream(self.holder, protocol)).await;
        opened.expect("in time").ok()
    }
}

impl Hostile {
    /// Connects to a holder as any member of the network can, and opens the shard protocol.
    pub async fn connect(network: &NetworkFile, address: &str) -> Self {
        let door = Door::connect(network, address).await;
        let id: String = network.id.to_string().chars().take(16).collect();
        let stream = door.stream(&format!("/cairn/{id}/shard/{}", network.protocol)).await.expect("opens");
        Self { stream, me: door.me, holder: key_of(&door.holder), request: 0, _door: door }
    }

    pub async fn open(&mut self, group: &Group) -> FrameKind {
        let grant = Grant {
            group: group.ticket.id(),
            holder: self.holder,
            bearer: self.me,
            rights: Rights::OWNER,
            not_before: Timestamp(0),
            expires: Timestamp(u64::MAX),
        };
        let head = OpenGroup { ticket: group.ticket.encode().to_vec(), grant: grant.seal(&group.authority).to_vec() };
        self.send(FrameKind::Open, head.encode_to_vec(), &[]).await;
        let (kind, head) = self.answer().await.expect("an answer to open");
        if kind == FrameKind::Refused {
            panic!("open was refused: {:?}", message::decode::<Refused>(&head, "refused").map(|r| r.code()));
        }
        kind
    }

    /// Offers a shard, whatever the rules say.
    pub async fn put(&mut self, group: &Group, slot: Slot, ordinal: u8, bytes: &[u8]) -> Answer {
        let root = blake3::hash(bytes);
        let head = PutShard {
            group: group.ticket.id().as_bytes().to_vec(),
            slot: slot.as_u8().into(),
            ordinal: ordinal.into(),
            root: root.as_bytes().to_vec(),
            lease_until: u64::MAX / 2,
        };
        self.send(FrameKind::Put, head.encode_to_vec(), bytes).await;
        match self.answer().await {
            None => Answer::Closed,
            Some((FrameKind::Stored, head)) => {
                let signed = message::decode::<SignedBytes>(&head, "receipt").expect("a signed receipt");
                let receipt = Receipt::open(&signed).expect("signed by the holder");
                assert_eq!((receipt.holder, receipt.root.as_bytes()), (self.holder, root.as_bytes()));
                Answer::Stored(receipt)
            }
            Some((FrameKind::Refused, head)) => {
                Answer::Refused(message::decode::<Refused>(&head, "refused").expect("readable").code())
            }
            Some((kind, _)) => panic!("{kind:?} is no answer to a put"),
        }
    }

    /// Any bytes at all.
    pub async fn junk(&mut self, bytes: &[u8]) -> bool {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
        self.answer().await.is_none()
    }

    async fn send(&mut self, kind: FrameKind, head: Vec<u8>, payload: &[u8]) {
        self.request += 1;
        let header = FrameHeader {
            kind,
            priority: Priority::Normal,
            head_len: head.len() as u16,
            request: self.request,
            payload_len: payload.len() as u32,
        };
        // A holder that refuses early may close before everything was written.
        let _ = self.stream.write_all(&header.encode()).await;
        let _ = self.stream.write_all(&head).await;
        let _ = self.stream.write_all(payload).await;
        let _ = self.stream.flush().await;
    }

    async fn answer(&mut self) -> Option<(FrameKind, Vec<u8>)> {
        let read = async {
            let mut header = [0; 16];
            self.stream.read_exact(&mut header).await.ok()?;
            let header = FrameHeader::decode(&header).expect("holders speak well");
            let mut head = vec![0; header.head_len.into()];
            self.stream.read_exact(&mut head).await.ok()?;
            Some((header.kind, head))
        };
        tokio::time::timeout(DEADLINE, read).await.expect("an answer or the end, in time")
    }
}

/// An identity that solves the network's puzzle.
fn member(network: &NetworkFile) -> (identity::Keypair, PeerKey) {
    (0u64..)
        .find_map(|n| {
            let mut seed = *blake3::hash(format!("hostile {n}").as_bytes()).as_bytes();
            let key = PeerKey::from_bytes(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
            solves_puzzle(&network.id, &key, network.puzzle_bits)
                .then(|| (identity::Keypair::ed25519_from_bytes(&mut seed).expect("a seed"), key))
        })
        .expect("endless")
}

fn key_of(peer: &PeerId) -> PeerKey {
    // An Ed25519 peer id is the protobuf-encoded public key itself: the key is its last 32 bytes.
    let bytes = peer.to_bytes();
    PeerKey::from_slice(&bytes[bytes.len() - 32..]).expect("32 bytes")
}
