//! Dials that are our own doing, and what their failure says.
//!
//! libp2p's behaviours dial by themselves, Kademlia at whatever address a stranger names. What comes of those dials says
//! nothing of the peer: else anybody could have anybody called unreachable.
//!
//! # Invariants
//!
//! - **TRUST-1** in part: nobody is slandered by addresses that somebody else names.
//! - **NET-6** A peer is noted as unreachable only when a dial of ours failed, to the addresses that it signed itself among
//!   others: a relay that it has found since may be known by hearsay only. Enforced by [`OwnDial::judge`];
//!   attacked by `network::tests::hearsay`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cairn_proto::{PeerKey, Timestamp};
use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::{
    NetworkTask,
    seeking::{Sought, broken_off},
};
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
pub(super) const SOUGHT_FOR: Duration = Duration::from_millis(1500);

/// A dial of ours.
#[derive(Clone, Debug)]
pub(super) struct OwnDial {
    peer: PeerId,
    /// Where, without those that the behaviours add.
    addresses: Vec<Multiaddr>,
    /// Those of them that are the peer's own word on where it is.
    signed: Vec<Multiaddr>,
    /// What other dials to the peer showed that failed while this one went on.
    verdict: Verdict,
}

/// What failed dials say of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// Nothing.
    None,
    /// It was not asked for: its own word named a relay, and that is gone. Not worth another dial for a moment.
    NoWay,
    /// It is not where it says itself.
    Missed,
}

impl OwnDial {
    pub(super) const fn new(peer: PeerId, addresses: Vec<Multiaddr>, signed: Vec<Multiaddr>) -> Self {
        Self { peer, addresses, signed, verdict: Verdict::None }
    }

    pub(super) fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// What its failure says. Our own limits or somebody else at the address say nothing of the peer; nor do circuits
    /// that were broken off at the relay, but then the direct addresses beside them do.
    fn judge(&self, error: &DialError, broken_off: bool) -> Verdict {
        let DialError::Transport(failed) = error else { return Verdict::None };
        let signed = |address: &Multiaddr| self.signed.contains(&addresses::split_peer(address.clone()).0);
        let direct = |address: &Multiaddr| !addresses::is_relayed(address) && signed(address);
        match broken_off {
            false if self.signed.is_empty() => Verdict::None,
            true if !failed.iter().any(|(address, _)| signed(address)) => Verdict::None,
            true if !failed.iter().any(|(address, _)| direct(address)) => Verdict::NoWay,
            _ => Verdict::Missed,
        }
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
            let is_tried =
                under_way.iter().any(|dial| dial.addresses.contains(&address)) || self.was_tried(&id, &address);
            if !fresh.contains(&address) && !is_tried {
                fresh.push(address);
            }
        }
        let waits = !is_first || self.waits_for_relay(&id);
        if waits && (fresh.is_empty() || under_way.len() >= DIALS_PER_PEER) {
            return;
        }
        let signed = fresh.iter().filter(|address| told.contains(address)).cloned().collect();
        // Another's dial at bad addresses may be under way, and must not stand in our way.
        let dial = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(fresh.clone());
        let dial = if is_first { dial.extend_addresses_through_behaviour().build() } else { dial.build() };
        let connection = dial.connection_id();
        let Err(error) = self.own_dial(dial, OwnDial::new(id, fresh, signed)) else { return };
        if matches!(error, DialError::NoAddresses) && self.may_seek(id) {
            self.state.dials.remove(&connection);
            return;
        }
        self.outgoing_failed(connection, id, &error, clock());
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
        let circuits = broken_off(error);
        let mut verdict = dial.judge(error, !circuits.is_empty());
        let again = self.may_try_again(&id, &circuits);
        if !circuits.is_empty() && !again && !matches!(self.state.sought.get(&id), Some(Sought::Through(_))) {
            // Of several dials to a relay libp2p may break off all but one, so that only the second try counts.
            verdict = Verdict::None;
        }
        let verdict = self.shown(&id, verdict.max(dial.verdict));
        // The last one decides.
        let other = self.state.dials.values_mut().find(|other| other.peer == id);
        let is_last = other.map(|other| other.verdict = other.verdict.max(verdict)).is_none();
        if again {
            return self.try_again(id, circuits, &dial, verdict, error.to_string());
        }
        if !is_last || self.waits_for_relay(&id) {
            return;
        }
        self.state.sought.remove(&id);
        self.give_up(id, verdict, &error.to_string(), now);
    }

    pub(super) fn is_dialled(&self, id: &PeerId) -> bool {
        self.state.dials.values().any(|dial| dial.peer == *id)
    }

    /// Tells all who wait for a peer, or for somebody behind it, that it cannot be reached.
    pub(super) fn give_up(&mut self, id: PeerId, verdict: Verdict, why: &str, now: Timestamp) {
        self.carrier_unreachable(&id, why);
        for (_, reply) in self.state.openers.remove(&id).unwrap_or_default() {
            let _ = reply.send(Err(OpenError::Dial(why.to_owned())));
        }
        for (_, reply) in self.state.askers.remove(&id).unwrap_or_default() {
            let _ = reply.map(|reply| reply.send(Err(AskError::Unreachable(why.to_owned()))));
        }
        if verdict >= Verdict::NoWay {
            self.state.unreachable.insert(id, Instant::now() + UNREACHABLE_FOR);
        }
        if verdict == Verdict::Missed
            && let Some(key) = peer_key(&id)
        {
            self.book.dial_failed(&key, now);
        }
        self.relay_gone(id);
    }

    pub(super) fn dial(&mut self, address: Multiaddr) {
        if let Err(error) = self.swarm.dial(address) {
            tracing::debug!(%error, "cannot dial");
        }
    }

    /// One dial with all addresses of a bootstrap peer, and none while the last one goes on: it may be slow because everybody
    /// knocks, and a dial that fails ends what Kademlia asks over another.
    fn knock_at_door(&mut self, door: PeerId, addresses: Vec<Multiaddr>) {
        for address in &addresses {
            self.swarm.behaviour_mut().kad.add_address(&door, address.clone());
        }
        if self.is_dialled(&door) {
            return;
        }
        // Somebody else's dial, at addresses of its own, must not stand in the way.
        let dial = DialOpts::peer_id(door).condition(PeerCondition::Always).addresses(addresses.clone()).build();
        let connection = dial.connection_id();
        if let Err(error) = self.own_dial(dial, OwnDial::new(door, addresses, Vec::new())) {
            self.outgoing_failed(connection, door, &error, clock());
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
        let mut doors: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for text in self.portrait.network.bootstrap.clone() {
            let Ok(address) = text.parse::<Multiaddr>() else { continue };
            match addresses::split_peer(address.clone()) {
                (_, Some(peer)) if peer == me => {}
                (plain, Some(peer)) => doors.entry(peer).or_default().push(plain),
                (_, None) => self.dial(address),
            }
        }
        for (door, addresses) in doors {
            self.knock_at_door(door, addresses);
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
