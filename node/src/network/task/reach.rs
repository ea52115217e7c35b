//! Where peers reach us: what we listen on, what leads here from outside, the relay that carries us when nothing does.
//!
//! A routable address that we listen on is told from the start: on a young network nobody could confirm it. AutoNAT looks at
//! it all the same, for a firewall may be in front of it, and when it finds that nobody gets in a relay is asked. The
//! address stays told: the verdict is one peer's word, and dials try it beside the relay. After [`JUDGED_FOR`] another peer is
//! asked ([`probing`](crate::network::probing)): routers and firewalls change.

use std::{collections::BTreeSet, time::Duration};

use cairn_proto::{PeerKey, Timestamp, message::Roles};
use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    multiaddr::Protocol,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use rand_core::Rng as _;
use tokio::time::Instant;

use super::{NetworkTask, adverts::ANNOUNCE_SOON, dials::OwnDial};
use crate::network::{Reach, addresses, clock, keys::peer_id};

/// Refuted addresses remembered beside those that we listen on: a machine that changes networks has a few of each.
const REFUTED_MAX: usize = 64;
/// How long a verdict on our addresses stands. For so long at most a node that is shut out has no relay, or has one that it needs no
/// more; a question costs a dial, and 100 KB at most where the judge sees us elsewhere.
pub(super) const JUDGED_FOR: Duration = Duration::from_secs(3600);
/// The same when an address is back that was refuted: listeners come and go together, and one question is enough.
const JUDGED_SOON: Duration = Duration::from_secs(60);

impl NetworkTask {
    /// A listener got an address.
    pub(super) fn listens(&mut self, listener: ListenerId, address: Multiaddr) {
        if addresses::is_relayed(&address) {
            if self.state.circuit == Some(listener) {
                self.state.carriage.accepted(self.monotone());
            }
        } else {
            // On a LAN nobody could confirm one, and a relay must know its own addresses to make a reservation.
            let lan = self.portrait.lan.allow_private && self.portrait.roles.has(Roles::RELAY);
            if addresses::is_usable(&address, lan) {
                self.swarm.add_external_address(address.clone());
            }
            if addresses::is_usable(&address, false)
                && let Some(autonat) = self.swarm.behaviour_mut().autonat_client.as_mut()
            {
                // The Swarm does not pass on what it counts as external already.
                autonat.ask_about(&address);
            }
            if self.state.refuted.contains(&address) {
                self.state.judge_at = self.state.judge_at.min(Instant::now() + JUDGED_SOON);
            }
        }
        self.state.pending.remove(&listener);
        self.state.listening.insert(address);
        self.tell_reach();
    }

    /// Peers must not go on dialling what is gone.
    pub(super) fn listens_no_longer(&mut self, address: &Multiaddr) {
        self.state.listening.remove(address);
        // What was refuted stays so until it is asked about again.
        if !addresses::is_relayed(address) && !self.portrait.external.contains(address) {
            self.swarm.remove_external_address(address);
            self.reachability_changed();
        }
        self.tell_reach();
    }

    /// A listener ended with all its addresses; a relay that carried us is replaced.
    pub(super) fn listener_closed(&mut self, listener: ListenerId, closed: &[Multiaddr]) {
        for address in closed {
            self.listens_no_longer(address);
        }
        if self.state.pending.remove(&listener) {
            self.tell_reach();
        }
        if self.state.circuit == Some(listener) {
            self.state.circuit = None;
            self.state.carriage.ended(self.monotone());
            self.seek_carrier();
        }
    }

    /// Peers and whoever runs this node are told where it is now.
    pub(super) fn tell_reach(&mut self) {
        self.announce_within(ANNOUNCE_SOON);
        let me = *self.swarm.local_peer_id();
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in self.state.listening.iter().chain(self.swarm.external_addresses()) {
            // A circuit ends with our id already.
            if let Ok(address) = address.clone().with_p2p(me)
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
        let carried = self.state.listening.iter().any(addresses::is_relayed);
        let circuits = if carried { 0 } else { self.portrait.circuits.len() };
        let reach = Reach { addresses, pending: self.state.pending.len() + circuits };
        self.reach.send_if_modified(|old| std::mem::replace(old, reach.clone()) != reach);
    }

    /// AutoNAT asked somebody to come to this address, in vain.
    pub(super) fn not_reached_at(&mut self, address: Multiaddr) {
        tracing::debug!(%address, "not reachable from outside");
        self.state.doubted = true;
        let external = self.swarm.external_addresses().any(|known| *known == address);
        note_refuted(&mut self.state.refuted, &self.state.listening, external, address);
        self.reachability_changed();
    }

    /// Somebody got in at this address.
    pub(super) fn reached_at(&mut self, address: &Multiaddr) {
        self.state.refuted.remove(address);
        self.reachability_changed();
        self.tell_reach();
    }

    /// Has our addresses looked at again when that was long ago.
    pub(super) fn judge_anew(&mut self, now: Instant) {
        if now < self.state.judge_at {
            return;
        }
        self.state.judge_at = now + JUDGED_FOR;
        let known = self.state.listening.iter().chain(self.swarm.external_addresses());
        let ours = known.filter(|address| !addresses::is_relayed(address) && addresses::is_usable(address, false));
        let ours: BTreeSet<Multiaddr> = ours.cloned().collect();
        let Some(autonat) = self.swarm.behaviour_mut().autonat_client.as_mut() else { return };
        autonat.forget();
        ours.iter().for_each(|address| autonat.ask_about(address));
        // Only whoever is connected anew says that it judges.
        let mut judges = self.book.views(Timestamp(0));
        judges.retain(|p| p.roles.has(Roles::STORAGE) && p.reachable == Some(true));
        let at = (self.rng.next_u32() as usize).checked_rem(judges.len());
        let Some((judge, id)) = at.and_then(|at| judges.get(at)).and_then(|p| Some((p.peer, peer_id(&p.peer)?))) else {
            return;
        };
        let direct = self.book.addresses(&judge).into_iter().filter(|address| !addresses::is_relayed(address));
        let there: Vec<Multiaddr> = direct.map(|address| addresses::split_peer(address).0).collect();
        // It may be connected already: a second connection needs a port of its own.
        let dial = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(there.clone());
        let dial = dial.allocate_new_port().build();
        let connection = dial.connection_id();
        if let Err(error) = self.own_dial(dial, OwnDial::new(id, there, Vec::new())) {
            self.outgoing_failed(connection, id, &error, clock());
        }
    }

    /// Somebody found out whether we are reached from outside. An operator's word that a relay is needed stands, and so does
    /// one that an address leads here.
    pub(super) fn reachability_changed(&mut self) {
        let (lan, told) = (self.portrait.lan.allow_private, &self.portrait.external);
        let needed = self.state.doubted
            && self.portrait.roles.has(Roles::STORAGE)
            && !is_reached(self.swarm.external_addresses(), &self.state.refuted, told, lan);
        self.state.carriage.want(needed || !self.portrait.circuits.is_empty());
        self.seek_carrier();
    }

    /// Asks a relay to carry connections to us, until DCUtR makes them direct, if one is wanted and it is time.
    pub(super) fn seek_carrier(&mut self) {
        let now = self.monotone();
        if self.state.carriage.is_overdue(now) {
            // Its listener may still come to something; then peers are told that address too.
            self.state.circuit = None;
            self.state.awaited = None;
            self.state.carriage.ended(now);
        }
        if !self.state.carriage.is_seeking(now) {
            return;
        }
        let carriers = self.carriers();
        let keys: Vec<PeerKey> = carriers.iter().map(|(key, _)| *key).collect();
        let chosen = self.state.carriage.choose(&keys, now);
        let Some((_, circuit)) = carriers.into_iter().find(|(key, _)| Some(*key) == chosen) else { return };
        // libp2p would dial by itself, but fails at once while another dial to the relay is under way.
        let Some(id) = chosen.as_ref().and_then(peer_id) else { return };
        if self.swarm.is_connected(&id) {
            return self.reserve(circuit);
        }
        let (direct, _) = addresses::split_peer(circuit.iter().take_while(|p| *p != Protocol::P2pCircuit).collect());
        let at = vec![direct];
        let dial = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(at.clone()).build();
        let connection = dial.connection_id();
        self.state.awaited = Some((id, circuit));
        // The address may be an operator's; a failure then says nothing of the peer.
        if let Err(error) = self.own_dial(dial, OwnDial::new(id, at, Vec::new())) {
            self.outgoing_failed(connection, id, &error, clock());
        }
    }

    /// A peer connected; perhaps the relay that we wait for.
    pub(super) fn carrier_connected(&mut self, id: &PeerId) {
        if let Some((_, circuit)) = self.state.awaited.take_if(|(relay, _)| relay == id) {
            self.reserve(circuit);
        }
    }

    /// A peer cannot be dialled; perhaps the relay that we wait for.
    pub(super) fn carrier_unreachable(&mut self, id: &PeerId, why: &str) {
        if self.state.awaited.take_if(|(relay, _)| relay == id).is_some() {
            tracing::debug!(relay = %id, why, "a relay cannot be reached");
            self.state.carriage.ended(self.monotone());
        }
    }

    fn reserve(&mut self, circuit: Multiaddr) {
        match self.swarm.listen_on(circuit) {
            Ok(listener) => self.state.circuit = Some(listener),
            Err(error) => {
                tracing::debug!(%error, "no reservation at a relay");
                self.state.carriage.ended(self.monotone());
            }
        }
    }

    /// Who may carry us, and the circuit to ask for: those that the operator named, then relays of the book, connected
    /// ones first, from anywhere in their list on, so that not all nodes crowd at one.
    fn carriers(&mut self) -> Vec<(PeerKey, Multiaddr)> {
        let mut relays = self.book.views(Timestamp(0));
        relays.retain(|p| p.roles.has(Roles::RELAY));
        let first = (self.rng.next_u32() as usize).checked_rem(relays.len()).unwrap_or(0);
        relays.rotate_left(first);
        relays.sort_by_key(|p| p.reachable != Some(true));
        let named = self.portrait.circuits.iter().filter_map(|c| Some((addresses::relay(c)?, c.clone())));
        let mut carriers: Vec<(PeerKey, Multiaddr)> = named.collect();
        for relay in relays {
            let Some(id) = peer_id(&relay.peer) else { continue };
            let direct = self.book.addresses(&relay.peer).into_iter().find(|a| !addresses::is_relayed(a));
            carriers.extend(direct.map(|a| (relay.peer, a.with(Protocol::P2p(id)).with(Protocol::P2pCircuit))));
        }
        carriers
    }

    /// A clock that never goes back, for decisions about pauses.
    pub(super) fn monotone(&self) -> Timestamp {
        Timestamp(u64::try_from(self.state.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Takes note of an address of ours that leads nowhere: of one that we listen on, or that is `external`. Any other becomes external
/// only if somebody gets in there.
fn note_refuted(
    refuted: &mut BTreeSet<Multiaddr>,
    listening: &BTreeSet<Multiaddr>,
    external: bool,
    address: Multiaddr,
) {
    if !listening.contains(&address) && !external {
        return;
    }
    if refuted.len() >= REFUTED_MAX {
        refuted.retain(|old| listening.contains(old));
    }
    refuted.insert(address);
}

/// Whether peers get in at one of our addresses without a relay, for all we know: at one that the operator named, or one
/// that nobody refuted. A neighbour finds our private address good, which helps nobody else.
fn is_reached<'a>(
    mut external: impl Iterator<Item = &'a Multiaddr>,
    refuted: &BTreeSet<Multiaddr>,
    told: &[Multiaddr],
    lan: bool,
) -> bool {
    external.any(|address| {
        let refuted = refuted.contains(address) && !told.contains(address);
        !addresses::is_relayed(address) && addresses::is_usable(address, lan) && !refuted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuted_addresses_outlive_their_listener_and_are_few() {
        let nth = |i: usize| format!("/ip4/8.8.8.8/tcp/{i}").parse::<Multiaddr>().expect("address");
        let (mut refuted, one) = (BTreeSet::new(), |i| BTreeSet::from([nth(0), nth(i)]));
        note_refuted(&mut refuted, &one(0), false, nth(1));
        assert!(refuted.is_empty(), "none of ours");
        note_refuted(&mut refuted, &one(0), true, nth(1));
        assert!(refuted.remove(&nth(1)), "somebody got in there once");
        for i in 0..10 * REFUTED_MAX {
            note_refuted(&mut refuted, &one(i), false, nth(i));
            assert!(refuted.contains(&nth(0)) && refuted.contains(&nth(i)) && refuted.len() <= REFUTED_MAX);
            assert!(i == 0 || refuted.contains(&nth(i - 1)) || refuted.len() == 2, "{i}");
        }
    }

    #[test]
    fn a_refuted_address_reaches_nobody_unless_the_operator_knows_better() {
        let parse = |a: &str| a.parse::<Multiaddr>().expect("address");
        let (tcp, quic) = (parse("/ip4/8.8.8.8/tcp/1"), parse("/ip4/8.8.8.8/udp/1/quic-v1"));
        let circuit = parse("/ip4/8.8.4.4/tcp/1/p2p-circuit");
        let all = [circuit, parse("/ip4/10.0.0.1/tcp/1"), tcp.clone(), quic.clone()];
        let reached = |refuted: &[&Multiaddr], told: &[Multiaddr]| {
            is_reached(all.iter(), &refuted.iter().copied().cloned().collect(), told, false)
        };
        assert!(reached(&[], &[]));
        assert!(reached(&[&tcp], &[]), "the other may lead here");
        assert!(!reached(&[&tcp, &quic], &[]), "a circuit and a private address do not count");
        assert!(reached(&[&tcp, &quic], std::slice::from_ref(&tcp)), "the operator's word");
    }
}
