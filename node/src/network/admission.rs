//! Who may connect: only peers whose key solves the network's static puzzle, and that are not proved to have lied. We ourselves may still
//! go to one that lied: an owner may need the very shard that it has, and checks every byte.
//!
//! # Invariants
//!
//! - **ADM-1** No work is done for a peer whose key does not solve the puzzle: the connection is denied before any
//!   other behaviour makes a handler for it. Enforced here, first field of the node's behaviour; attacked by
//!   `network::tests::a_peer_without_the_puzzle_is_refused`.
//! - **TRUST-1** Who is outside is so by a proof that was verified here, and by nothing else. Attacked by
//!   `network::tests::conduct::*`.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use cairn_proto::{NetworkId, network_file::solves_puzzle};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use super::keys::peer_key;
use crate::standing::Standings;

/// Denies strangers.
#[derive(Debug)]
pub(crate) struct Admission {
    network: NetworkId,
    puzzle_bits: u8,
    standings: Standings,
}

/// Why a connection was denied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// Its key is not an Ed25519 one.
    #[error("the peer's key is not an Ed25519 key")]
    KeyKind,
    /// Its key does not solve the puzzle.
    #[error("the peer's key does not solve the network's puzzle")]
    Puzzle,
    /// It is proved to have lied.
    #[error("the peer is proved to have lied")]
    Convicted,
}

impl Admission {
    pub(crate) fn new(network: NetworkId, puzzle_bits: u8, standings: Standings) -> Self {
        Self { network, puzzle_bits, standings }
    }

    fn check(&self, peer: &PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        let key = peer_key(peer).ok_or_else(|| ConnectionDenied::new(NotAdmitted::KeyKind))?;
        if !solves_puzzle(&self.network, &key, self.puzzle_bits) {
            return Err(ConnectionDenied::new(NotAdmitted::Puzzle));
        }
        Ok(dummy::ConnectionHandler)
    }

    /// Who comes to us, besides.
    fn check_visitor(&self, peer: &PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        let handler = self.check(peer)?;
        if peer_key(peer).is_some_and(|key| self.standings.is_convicted(&key)) {
            return Err(ConnectionDenied::new(NotAdmitted::Convicted));
        }
        Ok(handler)
    }
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_visitor(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
