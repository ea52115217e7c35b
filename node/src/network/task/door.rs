//! Who stands at the door: a connection counts for nothing before both ends let each other in.

use cairn_proto::Timestamp;
use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

use super::{NetworkTask, dials::Verdict as Dialled};
use crate::network::door::{DoorEvent, Verdict};

impl NetworkTask {
    /// A connection stands. In an open network it is good at once.
    pub(super) fn established(&mut self, connection: ConnectionId, peer: PeerId, remote: &Multiaddr, now: Timestamp) {
        if self.swarm.behaviour().is_waiting(&connection) {
            self.state.waiting.insert(connection, remote.clone());
        } else {
            self.connected(peer, remote, now);
        }
    }

    pub(super) fn door_event(&mut self, event: DoorEvent, now: Timestamp) {
        match event {
            DoorEvent::Inner(event) => self.behaviour_event(event, now),
            DoorEvent::Admitted { connection, peer } => {
                self.state.turned_away = None;
                if let Some(remote) = self.state.waiting.remove(&connection) {
                    self.connected(peer, &remote, now);
                }
            }
            DoorEvent::Refused { peer, verdict, theirs: true } => {
                if verdict != Verdict::Late {
                    if self.state.connected.is_empty() && self.state.turned_away != Some(verdict) {
                        tracing::warn!(%peer, "a peer does not let us in: {verdict}");
                    }
                    self.state.turned_away = Some(verdict);
                }
            }
            DoorEvent::Refused { peer, verdict, theirs: false } => {
                tracing::info!(%peer, "a peer is not let in: {verdict}");
            }
        }
    }

    /// A connection ended. On probation still, whoever waits for the peer waits in vain, unless it is connected otherwise.
    pub(super) fn broke_on_probation(&mut self, connection: ConnectionId, peer: PeerId, now: Timestamp) {
        if self.state.waiting.remove(&connection).is_some() && !self.state.connected.contains(&peer) {
            self.give_up(peer, Dialled::NoWay, "it does not let us in, or has not shown that it may be here", now);
        }
    }
}
