//! Dials that are our own doing, and what their failure says.
//!
//! libp2p's behaviours dial by themselves, Kademlia at whatever address a stranger names. What comes of those dials says
//! nothing of the peer: else anybody could have anybody called unreachable.
//!
//! # Invariants
//!
//! - **NET-6** A peer is noted as unreachable only when a dial of ours to the addresses that it signed itself failed.
//!   Enforced by [`NetworkTask::outgoing_failed`]; attacked by `network::tests::hearsay`.

use cairn_proto::{PeerKey, Timestamp};
use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::{NetworkTask, UNREACHABLE_FOR};
use crate::network::{clock, command::AskError, keys::peer_key, streams::OpenError};

/// A dial of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnDial {
    pub(super) peer: PeerId,
    /// All its addresses are the peer's own word.
    pub(super) signed: bool,
}

impl NetworkTask {
    /// Dials a peer at the addresses of its advert. One that has told none is looked for wherever somebody says.
    pub(super) fn dial_peer(&mut self, id: PeerId, peer: &PeerKey, hints: Vec<Multiaddr>) {
        if self.state.dials.values().any(|dial| dial.peer == id) {
            return;
        }
        let told = self.book.addresses(peer);
        let signed = !told.is_empty();
        // Another's dial at bad addresses may be under way, and must not stand in our way.
        let dial = DialOpts::peer_id(id).condition(PeerCondition::Always);
        let dial = if signed {
            dial.addresses(told).build()
        } else {
            dial.addresses(hints).extend_addresses_through_behaviour().build()
        };
        let connection = dial.connection_id();
        if let Err(error) = self.own_dial(dial, OwnDial { peer: id, signed }) {
            self.outgoing_failed(connection, id, &error, clock());
        }
    }

    /// Dials and takes note of it.
    pub(super) fn own_dial(&mut self, dial: DialOpts, own: OwnDial) -> Result<(), DialError> {
        self.state.dials.insert(dial.connection_id(), own);
        // When it cannot even begin no event comes: the caller ends it.
        self.swarm.dial(dial)
    }

    /// A dial failed, whoever began it.
    pub(super) fn outgoing_failed(&mut self, connection: ConnectionId, id: PeerId, error: &DialError, now: Timestamp) {
        let Some(dial) = self.state.dials.remove(&connection) else { return };
        if self.swarm.is_connected(&id) {
            return;
        }
        let why = error.to_string();
        self.carrier_unreachable(&id, &why);
        for reply in self.state.openers.remove(&id).unwrap_or_default() {
            let _ = reply.send(Err(OpenError::Dial(why.clone())));
        }
        for (_, reply) in self.state.askers.remove(&id).unwrap_or_default() {
            let _ = reply.map(|reply| reply.send(Err(AskError::Unreachable(why.clone()))));
        }
        // Our own limits, or somebody else at the address, say nothing of the peer.
        if dial.signed && matches!(error, DialError::Transport(_)) {
            self.state.unreachable.insert(id, Instant::now() + UNREACHABLE_FOR);
            if let Some(key) = peer_key(&id) {
                self.book.dial_failed(&key, now);
            }
        }
    }
}
