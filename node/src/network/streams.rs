//! Raw streams, for shards, for the stewards' protocol and for rebuilds, each a behaviour of its own: opens one to a connected peer, hands over those that peers open to us.
//!
//! Ours instead of libp2p-stream 0.5.0-alpha, whose accept channel drops streams, whose dialling can hang and which
//! may choose a relayed connection where a direct one stands. Here nothing dials: the node's task does, and asks
//! for a stream once connected.
//!
//! A stream that lives keeps its connection alive; dropping it resets it.

use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll},
    time::Duration,
};

use cairn_proto::{PeerKey, wire::RefusalCode};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use crate::overlay::TransferError;

/// Pause before a broken stream is opened again.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Tries to open a stream: each connection lost meanwhile costs one, and two peers have two or three at most.
const OPEN_TRIES: usize = 3;

/// Which protocol a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Frames of shards.
    Shard,
    /// One question of stewardship and its answer.
    Stewards,
    /// A rebuild.
    Rebuild,
}

/// Opens a stream, dialling if need be. Two connections to one peer are soon made one, and a stream that was asked for on the
/// other falls with it; then the one that stands is asked.
pub(crate) async fn open(
    commands: &mpsc::Sender<Command>,
    to: PeerKey,
    kind: Kind,
    within: Duration,
) -> Result<Stream, TransferError> {
    let opened = tokio::time::timeout(within, try_open(commands, to, kind)).await;
    opened.unwrap_or_else(|_| Err(TransferError::Unreachable("no stream in time".into())))
}

async fn try_open(commands: &mpsc::Sender<Command>, to: PeerKey, kind: Kind) -> Result<Stream, TransferError> {
    let mut why = String::new();
    for _ in 0..OPEN_TRIES {
        let (reply, opened) = oneshot::channel();
        let asked = commands.send(Command::OpenStream { peer: to, kind, reply }).await;
        asked.map_err(|_| TransferError::ShuttingDown)?;
        match opened.await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(OpenError::Unsupported)) => {
                return Err(TransferError::Refused { code: RefusalCode::NotStorage, retry_after_ms: 0 });
            }
            Ok(Err(error @ (OpenError::Broken(_) | OpenError::NotConnected))) => why = error.to_string(),
            Ok(Err(error)) => return Err(TransferError::Unreachable(error.to_string())),
            Err(_) if commands.is_closed() => return Err(TransferError::ShuttingDown),
            Err(_) => why = "the connection closed while a stream was opened".into(),
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    Err(TransferError::Unreachable(why))
}

/// Why no stream was opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// No connection stands.
    #[error("not connected")]
    NotConnected,
    /// The dial failed, or failed a moment ago.
    #[error("{0}")]
    Dial(String),
    /// The peer does not speak this protocol of this network.
    #[error("the peer does not speak this protocol")]
    Unsupported,
    /// The connection broke or the negotiation took too long.
    #[error("the stream could not be negotiated: {0}")]
    Broken(String),
    /// Too many streams wait to be opened.
    #[error("too many dials are waiting")]
    Overloaded,
}

/// Where an opened stream, or the reason why not, goes.
pub(crate) type OpenReply = oneshot::Sender<Result<Stream, OpenError>>;

/// A stream that a peer opened to us.
#[derive(Debug)]
pub(crate) struct InboundStream {
    pub(crate) peer: PeerId,
    pub(crate) stream: Stream,
}

struct Connection {
    id: ConnectionId,
    relayed: bool,
}

/// The behaviour.
pub(crate) struct Streams {
    protocol: StreamProtocol,
    connections: HashMap<PeerId, Vec<Connection>>,
    events: VecDeque<ToSwarm<InboundStream, OpenReply>>,
}

/// Inbound streams that may wait for the owner at once; it only spawns, so a longer queue means an attack.
const INBOUND_WAITING_MAX: usize = 256;

impl Streams {
    pub(crate) fn new(protocol: StreamProtocol) -> Self {
        Self { protocol, connections: HashMap::new(), events: VecDeque::new() }
    }

    /// Opens a stream on a direct connection, or else on a relayed one. The caller limits how many it asks for.
    pub(crate) fn open(&mut self, peer: PeerId, reply: OpenReply) {
        let connections = self.connections.get(&peer).map(Vec::as_slice).unwrap_or_default();
        let Some(best) = connections.iter().min_by_key(|c| c.relayed) else {
            let _ = reply.send(Err(OpenError::NotConnected));
            return;
        };
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(best.id),
            event: reply,
        });
    }

    fn handler(&self) -> StreamHandler {
        StreamHandler { protocol: self.protocol.clone(), requested: VecDeque::new(), arrived: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = StreamHandler;
    type ToSwarm = InboundStream;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => self
                .connections
                .entry(e.peer_id)
                .or_default()
                .push(Connection { id: e.connection_id, relayed: e.endpoint.is_relayed() }),
            FromSwarm::ConnectionClosed(e) => {
                if let Some(connections) = self.connections.get_mut(&e.peer_id) {
                    connections.retain(|c| c.id != e.connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&e.peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, stream: THandlerOutEvent<Self>) {
        if self.events.len() < INBOUND_WAITING_MAX {
            self.events.push_back(ToSwarm::GenerateEvent(InboundStream { peer, stream }));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

/// One connection's part.
pub(crate) struct StreamHandler {
    protocol: StreamProtocol,
    requested: VecDeque<OpenReply>,
    arrived: VecDeque<Stream>,
}

impl ConnectionHandler for StreamHandler {
    type FromBehaviour = OpenReply;
    type ToBehaviour = Stream;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, ()> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn on_behaviour_event(&mut self, reply: OpenReply) {
        self.requested.push_back(reply);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), OpenReply>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                self.arrived.push_back(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: reply }) => {
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: reply }) => {
                let _ = reply.send(Err(match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Timeout => OpenError::Broken("timed out".into()),
                    StreamUpgradeError::Io(e) => OpenError::Broken(e.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, OpenReply, Self::ToBehaviour>> {
        if let Some(stream) = self.arrived.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        if let Some(reply) = self.requested.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), reply),
            });
        }
        Poll::Pending
    }
}
