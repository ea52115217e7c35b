//! Dials that are our own doing, and what their failure says.
//!
//! libp2p's behaviours dial by themselves, Kademlia at whatever address a stranger names. What comes of those dials says
//! nothing of the peer: else anybody could have anybody called unreachable.
//!
//! # Invariants
//!
//! - **TRUST-1** in part: nobody is slandered by addresses that somebody else names.
//! - **NET-6** A peer is noted as unreachable only when a dial of ours failed, to the addresses that it signed itself among
//!   others: a relay that it has found since may be known by hearsay only. Enforced by [`NetworkTask::outgoing_failed`];
//!   attacked by `network::tests::hearsay`.

use std::time::Duration;

use cairn_proto::{PeerKey, Timestamp};
use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::{NetworkTask, OPEN_MAX, UNREACHABLE_FOR};
use crate::network::{clock, command::AskError, keys::peer_key, streams::OpenError};

/// How long we look for a peer that nobody knows an address of: its advert, or a walk's answer, is on its way.
const SOUGHT_FOR: Duration = Duration::from_millis(1500);

/// A dial of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnDial {
    pub(super) peer: PeerId,
    /// The peer's own word on where it is was among its addresses.
    pub(super) signed: bool,
}

impl NetworkTask {
    /// Dials a peer at the addresses of its advert, and wherever somebody says.
    pub(super) fn dial_peer(&mut self, id: PeerId, peer: &PeerKey, hints: Vec<Multiaddr>) {
        if self.state.dials.values().any(|dial| dial.peer == id) {
            return;
        }
        let told = self.book.addresses(peer);
        let signed = !told.is_empty();
        // Another's dial at bad addresses may be under way, and must not stand in our way.
        let dial = DialOpts::peer_id(id).condition(PeerCondition::Always);
        let addresses = told.into_iter().chain(hints).collect();
        let dial = dial.addresses(addresses).extend_addresses_through_behaviour().build();
        let connection = dial.connection_id();
        let Err(error) = self.own_dial(dial, OwnDial { peer: id, signed }) else { return };
        if matches!(error, DialError::NoAddresses) && self.may_seek(id) {
            self.state.dials.remove(&connection);
            return;
        }
        self.state.sought.remove(&id);
        self.outgoing_failed(connection, id, &error, clock());
    }

    /// Whether a peer without an address is worth waiting for a little longer; asks the DHT about it the first time.
    fn may_seek(&mut self, id: PeerId) -> bool {
        let now = Instant::now();
        if let Some(until) = self.state.sought.get(&id) {
            return now < *until;
        }
        if self.state.sought.len() >= OPEN_MAX {
            return false;
        }
        self.state.sought.insert(id, now + SOUGHT_FOR);
        self.swarm.behaviour_mut().kad.get_closest_peers(id);
        true
    }

    /// Tries those again who had no address.
    pub(super) fn seek(&mut self) {
        for id in self.state.sought.keys().copied().collect::<Vec<_>>() {
            let wanted = self.state.openers.contains_key(&id) || self.state.askers.contains_key(&id);
            match peer_key(&id).filter(|_| wanted && !self.swarm.is_connected(&id)) {
                Some(key) => self.dial_peer(id, &key, Vec::new()),
                None => drop(self.state.sought.remove(&id)),
            }
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
