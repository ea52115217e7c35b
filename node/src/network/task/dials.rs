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

use std::{collections::BTreeSet, error::Error, iter, time::Duration};

use cairn_proto::{PeerKey, Timestamp};
use futures::channel::oneshot;
use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::{NetworkTask, OPEN_MAX};
use crate::network::{
    addresses, clock,
    command::AskError,
    keys::{peer_id, peer_key},
    streams::OpenError,
};

/// A peer that could not be dialled is not dialled again for a shard stream within this time.
const UNREACHABLE_FOR: Duration = Duration::from_secs(10);
/// First and longest pause between two rounds of knocking while nobody is connected.
pub(super) const KNOCK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Known peers to knock at, beside the bootstrap addresses.
const KNOCK_PEERS: usize = 8;
/// Dials of ours to one peer at once: at what it says itself, at an operator's word, and at what two askers heard.
const DIALS_PER_PEER: usize = 4;
/// How long we look for a peer that nobody knows an address of: its advert, or a walk's answer, is on its way.
const SOUGHT_FOR: Duration = Duration::from_millis(1500);

/// A dial of ours.
#[derive(Clone, Debug)]
pub(super) struct OwnDial {
    peer: PeerId,
    /// Where, without those that the behaviours add.
    addresses: Vec<Multiaddr>,
    /// The peer's own word on where it is is among them.
    signed: bool,
    /// A dial at the peer's own addresses failed while this one went on.
    missed: bool,
}

impl OwnDial {
    pub(super) fn new(peer: PeerId, addresses: Vec<Multiaddr>, signed: bool) -> Self {
        Self { peer, addresses, signed, missed: false }
    }
}

impl NetworkTask {
    /// Dials a peer at the addresses of its advert, and wherever somebody says; at what is being tried already not again.
    pub(super) fn dial_peer(&mut self, id: PeerId, peer: &PeerKey, hints: Vec<Multiaddr>) {
        let told = self.book.addresses(peer);
        let under_way: Vec<&OwnDial> = self.state.dials.values().filter(|dial| dial.peer == id).collect();
        let is_first = under_way.is_empty();
        let mut fresh: Vec<Multiaddr> = Vec::new();
        for address in told.iter().chain(&hints).map(|a| addresses::split_peer(a.clone()).0) {
            if !fresh.contains(&address) && !under_way.iter().any(|dial| dial.addresses.contains(&address)) {
                fresh.push(address);
            }
        }
        if !is_first && (fresh.is_empty() || under_way.len() >= DIALS_PER_PEER) {
            return;
        }
        let signed = told.iter().any(|address| fresh.contains(address));
        // Another's dial at bad addresses may be under way, and must not stand in our way.
        let dial = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(fresh.clone());
        let dial = if is_first { dial.extend_addresses_through_behaviour().build() } else { dial.build() };
        let connection = dial.connection_id();
        let Err(error) = self.own_dial(dial, OwnDial::new(id, fresh, signed)) else { return };
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

    /// Whether a dial that broke off at these relays is worth another. libp2p dials the relay by itself and gives up all
    /// circuits through it at once when that fails, even because another dial to it is under way. So we dial it ourselves,
    /// and [`Self::seek`] tries again for as long as that goes on.
    fn may_try_again(&mut self, id: PeerId, relays: &[(PeerId, Multiaddr)]) -> bool {
        let now = Instant::now();
        if let Some(until) = self.state.sought.get(&id) {
            let goes_on = |relay: &PeerId| {
                self.swarm.is_connected(relay) || self.state.dials.values().any(|dial| dial.peer == *relay)
            };
            return now < *until && relays.iter().any(|(relay, _)| goes_on(relay));
        }
        if relays.is_empty() || self.state.sought.len() >= OPEN_MAX {
            return false;
        }
        self.state.sought.insert(id, now + self.waits.dial);
        for (relay, at) in relays {
            if let Some(key) = peer_key(relay).filter(|_| !self.swarm.is_connected(relay)) {
                self.dial_peer(*relay, &key, vec![at.clone()]);
            }
        }
        true
    }

    /// Tries those again who had no address, or whose relay was not there yet.
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
        let broken_off = broken_off_at_relays(error);
        // Our own limits, somebody else at the address, or a relay that was not connected say nothing of the peer.
        let told_of_it = matches!(error, DialError::Transport(_)) && broken_off.is_empty();
        let missed = dial.missed || dial.signed && told_of_it;
        if let Some(other) = self.state.dials.values_mut().find(|other| other.peer == id) {
            // The last one decides.
            other.missed |= missed;
            return;
        }
        if self.may_try_again(id, &broken_off) {
            return;
        }
        self.state.sought.remove(&id);
        let why = error.to_string();
        self.carrier_unreachable(&id, &why);
        for reply in self.state.openers.remove(&id).unwrap_or_default() {
            let _ = reply.send(Err(OpenError::Dial(why.clone())));
        }
        for (_, reply) in self.state.askers.remove(&id).unwrap_or_default() {
            let _ = reply.map(|reply| reply.send(Err(AskError::Unreachable(why.clone()))));
        }
        if missed {
            self.state.unreachable.insert(id, Instant::now() + UNREACHABLE_FOR);
            if let Some(key) = peer_key(&id) {
                self.book.dial_failed(&key, now);
            }
        }
    }

    pub(super) fn dial(&mut self, address: Multiaddr) {
        if let Err(error) = self.swarm.dial(address) {
            tracing::debug!(%error, "cannot dial");
        }
    }

    /// Dials bootstrap addresses and recent peers for as long as nobody is connected, ever more slowly.
    pub(super) fn knock(&mut self, now: Instant) {
        if !self.state.connected.is_empty() {
            self.state.knock_pause = KNOCK.0;
            self.state.knock_at = now + KNOCK.0;
            return;
        }
        self.state.knock_at = now + self.state.knock_pause;
        self.state.knock_pause = (self.state.knock_pause * 2).min(KNOCK.1);
        let me = *self.swarm.local_peer_id();
        for text in self.portrait.network.bootstrap.clone() {
            let Ok(address) = text.parse::<Multiaddr>() else { continue };
            let (plain, peer) = addresses::split_peer(address.clone());
            match peer {
                Some(peer) if peer == me => continue,
                Some(peer) => {
                    self.swarm.behaviour_mut().kad.add_address(&peer, plain);
                }
                None => {}
            }
            self.dial(address);
        }
        // One entry an address, so the same neighbour comes several times.
        let neighbours: BTreeSet<PeerId> = self
            .swarm
            .behaviour()
            .mdns
            .as_ref()
            .map_or_else(BTreeSet::new, |m| m.discovered_nodes().copied().collect());
        for id in neighbours.into_iter().take(KNOCK_PEERS) {
            // The behaviour knows its addresses.
            if let Err(error) = self.swarm.dial(id) {
                tracing::trace!(%error, "cannot dial a neighbour");
            }
        }
        for peer in self.book.recent(KNOCK_PEERS) {
            let Some(id) = peer_id(&peer) else { continue };
            self.dial_peer(id, &peer, Vec::new());
        }
    }
}

/// The relays, with their addresses, at which a dial was broken off before the peer was asked for.
fn broken_off_at_relays(error: &DialError) -> Vec<(PeerId, Multiaddr)> {
    let DialError::Transport(failed) = error else { return Vec::new() };
    let mut relays: Vec<(PeerId, Multiaddr)> = Vec::new();
    for (address, why) in failed {
        let mut causes = iter::successors(why.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
        if !addresses::is_relayed(address) || !causes.any(|cause| cause.is::<oneshot::Canceled>()) {
            continue;
        }
        let carrier = address.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
        if let (at, Some(relay)) = addresses::split_peer(carrier)
            && !relays.iter().any(|(known, _)| *known == relay)
        {
            relays.push((relay, at));
        }
    }
    relays
}
