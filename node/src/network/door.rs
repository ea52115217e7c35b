//! The door of a network by invitation: a connection on which the other side has not shown its pass is good for that and nothing else.
//!
//! Around all other behaviours. Their handlers are made as ever and lie still until both sides let each other in: until
//! then we offer one protocol, `pass`, on which each end shows its own and is told a verdict of one byte. What the other
//! behaviours want to say meanwhile waits in their handlers, within their own bounds. In an open network the door stands open
//! from the start and nothing is said.
//!
//! # Invariants
//!
//! - **ADM-2** In a network by invitation, whoever has not shown a pass that verifies is answered on no protocol but the one on which
//!   it may show it, and is hung up on after [`PROBATION`]. Enforced by [`handler::Gated`]; attacked by
//!   `network::tests::door`.

mod handler;
mod verdict;

use std::{
    collections::{HashSet, VecDeque},
    ops::{Deref, DerefMut},
    task::{Context, Poll},
    time::Duration,
};

use either::Either;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use self::handler::{Gated, News};
pub use self::verdict::Verdict;
use super::{
    behaviour::NodeBehaviour, behaviour::NodeBehaviourEvent, invitations::Invitations, keys::peer_key, woken::Woken,
};

/// How long a connection may stand without both having shown their passes: two round trips and a few signatures, also on a slow line.
pub(crate) const PROBATION: Duration = Duration::from_secs(15);

/// What the Swarm tells.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one comes a thousand times as often as the others")]
pub(crate) enum DoorEvent {
    /// One of the behaviours within.
    Inner(NodeBehaviourEvent),
    /// Both sides of a connection let each other in.
    Admitted { connection: ConnectionId, peer: PeerId },
    /// They did not, and the connection ends. `theirs`: it was we who were turned away.
    Refused { peer: PeerId, verdict: Verdict, theirs: bool },
}

/// The behaviours behind the door.
pub(crate) struct Door {
    inner: NodeBehaviour,
    invitations: Invitations,
    protocol: StreamProtocol,
    /// Connections on probation; the connection limits bound them.
    waiting: HashSet<ConnectionId>,
    /// At most two for each connection.
    events: VecDeque<ToSwarm<DoorEvent, THandlerInEvent<Door>>>,
}

impl Door {
    pub(crate) fn new(inner: NodeBehaviour, invitations: Invitations, protocol: StreamProtocol) -> Self {
        Self { inner, invitations, protocol, waiting: HashSet::new(), events: VecDeque::new() }
    }

    /// Whether nothing goes over this connection yet.
    pub(crate) fn is_waiting(&self, connection: &ConnectionId) -> bool {
        self.waiting.contains(connection)
    }

    fn gate(&mut self, connection: ConnectionId, peer: &PeerId, inner: THandler<NodeBehaviour>) -> THandler<Self> {
        // Admission denied whoever has no key of ours.
        match peer_key(peer).filter(|_| self.invitations.required()) {
            Some(key) => {
                self.waiting.insert(connection);
                Woken::new(Gated::shut(inner, key, self.invitations.clone(), self.protocol.clone()))
            }
            None => Woken::new(Gated::open(inner)),
        }
    }
}

impl Deref for Door {
    type Target = NodeBehaviour;

    fn deref(&self) -> &NodeBehaviour {
        &self.inner
    }
}

impl DerefMut for Door {
    fn deref_mut(&mut self) -> &mut NodeBehaviour {
        &mut self.inner
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = Woken<Gated<THandler<NodeBehaviour>>>;
    type ToSwarm = DoorEvent;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.gate(connection, &peer, inner))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(self.gate(connection, &peer, inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event {
            self.waiting.remove(&closed.connection_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let (verdict, theirs) = match event {
            Either::Right(inner) => return self.inner.on_connection_handler_event(peer, connection, inner),
            Either::Left(News::Open) => {
                self.waiting.remove(&connection);
                return self.events.push_back(ToSwarm::GenerateEvent(DoorEvent::Admitted { connection, peer }));
            }
            Either::Left(News::Refused(verdict)) => (verdict, false),
            Either::Left(News::TurnedAway(verdict)) => (verdict, true),
        };
        let refused = DoorEvent::Refused { peer, verdict, theirs };
        self.events.push_back(ToSwarm::GenerateEvent(refused));
        let connection = CloseConnection::One(connection);
        self.events.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.inner.poll(cx).map(|event| event.map_out(DoorEvent::Inner))
    }
}
