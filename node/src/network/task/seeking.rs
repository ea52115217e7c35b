//! Peers that cannot be dialled yet: nobody knows an address of theirs, or the relay that carries them is not connected.
//!
//! libp2p dials a relay by itself and gives up all circuits through it at once when that fails, even because another dial
//! to it is under way. So a circuit that was broken off is tried once more: we dial the relay ourselves, and the circuit as
//! soon as that is connected. Direct addresses failed for good and are left alone: whoever names a victim's address beside a
//! relay that never answers gets one dial there out of us, not one a tick.

use std::{error::Error, iter};

use futures::channel::oneshot;
use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{
        DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::{
    NetworkTask, OPEN_MAX,
    dials::{OwnDial, SOUGHT_FOR, Verdict},
};
use crate::network::{addresses, clock, keys::peer_key};

/// A peer that somebody waits for and that is not dialled now.
#[derive(Debug)]
pub(super) enum Sought {
    /// Nobody knows an address; the advert or a walk's answer is on its way until then.
    Anywhere(Instant),
    /// The circuits to it were broken off.
    Through(Carried),
}

/// A peer whose relays are being dialled.
#[derive(Debug)]
pub(super) struct Carried {
    until: Instant,
    /// Not tried again yet; of the addresses of one dial, which the address book bounds.
    circuits: Vec<Circuit>,
    /// Where it was sought already.
    tried: Vec<Multiaddr>,
    /// What its dials have shown until now, and why the first failed.
    verdict: Verdict,
    why: String,
}

/// A circuit that was broken off before the peer was asked for.
#[derive(Clone, Debug)]
pub(super) struct Circuit {
    relay: PeerId,
    /// Where the relay is, by whoever named the circuit.
    at: Multiaddr,
    /// The whole, without the peer.
    address: Multiaddr,
}

impl NetworkTask {
    /// Whether a peer without an address is worth waiting for a little longer; asks the DHT about it the first time.
    pub(super) fn may_seek(&mut self, id: PeerId) -> bool {
        let now = Instant::now();
        match self.state.sought.get(&id) {
            Some(Sought::Anywhere(until)) => return now < *until,
            Some(Sought::Through(_)) => return true,
            None if self.state.sought.len() >= OPEN_MAX => return false,
            None => {}
        }
        self.state.sought.insert(id, Sought::Anywhere(now + SOUGHT_FOR));
        self.swarm.behaviour_mut().kad.get_closest_peers(id);
        true
    }

    /// Whether we tried this address and wait for a relay now.
    pub(super) fn was_tried(&self, id: &PeerId, address: &Multiaddr) -> bool {
        matches!(self.state.sought.get(id), Some(Sought::Through(carried)) if carried.tried.contains(address))
    }

    /// Takes note of what a dial of a peer showed that waits for its relays, and gives what all of them have shown.
    pub(super) fn shown(&mut self, id: &PeerId, verdict: Verdict) -> Verdict {
        let Some(Sought::Through(carried)) = self.state.sought.get_mut(id) else { return verdict };
        carried.verdict = carried.verdict.max(verdict);
        carried.verdict
    }

    /// Whether the peer still waits for a relay.
    pub(super) fn waits_for_relay(&self, id: &PeerId) -> bool {
        matches!(self.state.sought.get(id), Some(Sought::Through(carried)) if !carried.circuits.is_empty())
    }

    /// Whether circuits that were broken off are worth another try: the first time, and for somebody who waits.
    pub(super) fn may_try_again(&self, id: &PeerId, circuits: &[Circuit]) -> bool {
        let (first, known) = match self.state.sought.get(id) {
            None => (true, false),
            Some(Sought::Anywhere(_)) => (true, true),
            Some(Sought::Through(_)) => (false, true),
        };
        first && !circuits.is_empty() && self.is_wanted(id) && (known || self.state.sought.len() < OPEN_MAX)
    }

    /// Dials the relays of circuits that were broken off, and these again when it is connected.
    pub(super) fn try_again(
        &mut self,
        id: PeerId,
        circuits: Vec<Circuit>,
        dial: &OwnDial,
        verdict: Verdict,
        why: String,
    ) {
        let until = Instant::now() + self.waits.dial;
        let relays: Vec<(PeerId, Multiaddr)> = circuits.iter().map(|c| (c.relay, c.at.clone())).collect();
        let tried = dial.addresses().to_vec();
        self.state.sought.insert(id, Sought::Through(Carried { until, circuits, tried, verdict, why }));
        for (relay, at) in relays {
            if self.swarm.is_connected(&relay) {
                self.relay_connected(relay);
            } else if let Some(key) = peer_key(&relay) {
                self.dial_peer(relay, &key, vec![at]);
            } else {
                self.relay_gone(relay);
            }
        }
    }

    /// A peer is connected: circuits through it are tried.
    pub(super) fn relay_connected(&mut self, relay: PeerId) {
        for (id, circuits) in self.take_circuits(relay) {
            let Some(key) = peer_key(&id) else { continue };
            let addresses: Vec<Multiaddr> = circuits.into_iter().map(|c| c.address).collect();
            let told = self.book.addresses(&key);
            let signed = addresses.iter().filter(|a| told.contains(a)).cloned().collect();
            let dial = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses.clone()).build();
            let connection = dial.connection_id();
            if let Err(error) = self.own_dial(dial, OwnDial::new(id, addresses, signed)) {
                self.outgoing_failed(connection, id, &error, clock());
            }
        }
    }

    /// A peer cannot be reached: nor can those behind it, unless somewhere else.
    pub(super) fn relay_gone(&mut self, relay: PeerId) {
        for (id, _) in self.take_circuits(relay) {
            self.settle(id);
        }
    }

    /// Ends the search for a peer that waits for no relay and for no dial any more.
    fn settle(&mut self, id: PeerId) {
        if self.waits_for_relay(&id) || self.is_dialled(&id) {
            return;
        }
        // By value: whoever comes to it a second time finds nothing.
        if let Some(Sought::Through(carried)) = self.state.sought.remove(&id) {
            self.give_up(id, carried.verdict, &carried.why, clock());
        }
    }

    fn take_circuits(&mut self, relay: PeerId) -> Vec<(PeerId, Vec<Circuit>)> {
        let mut taken = Vec::new();
        for (id, sought) in &mut self.state.sought {
            if let Sought::Through(carried) = sought {
                let circuits: Vec<Circuit> = carried.circuits.extract_if(.., |c| c.relay == relay).collect();
                if !circuits.is_empty() {
                    taken.push((*id, circuits));
                }
            }
        }
        taken
    }

    /// Tries those again who had no address; ends the wait for relays that do not answer.
    pub(super) fn seek(&mut self) {
        let now = Instant::now();
        for id in self.state.sought.keys().copied().collect::<Vec<_>>() {
            if !self.is_wanted(&id) || self.swarm.is_connected(&id) {
                self.state.sought.remove(&id);
                continue;
            }
            match self.state.sought.get_mut(&id) {
                Some(Sought::Anywhere(_)) => {
                    if let Some(key) = peer_key(&id) {
                        self.dial_peer(id, &key, Vec::new());
                    }
                }
                Some(Sought::Through(carried)) if carried.until <= now => {
                    carried.circuits.clear();
                    self.settle(id);
                }
                _ => {}
            }
        }
    }

    fn is_wanted(&self, id: &PeerId) -> bool {
        self.state.openers.contains_key(id) || self.state.askers.contains_key(id)
    }
}

/// The circuits that a dial broke off before the peer was asked for, because there was no way to the relay.
pub(super) fn broken_off(error: &DialError) -> Vec<Circuit> {
    let DialError::Transport(failed) = error else { return Vec::new() };
    let mut circuits = Vec::new();
    for (address, why) in failed {
        let mut causes = iter::successors(why.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
        if !addresses::is_relayed(address) || !causes.any(|cause| cause.is::<oneshot::Canceled>()) {
            continue;
        }
        let carrier = address.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
        if let (at, Some(relay)) = addresses::split_peer(carrier) {
            circuits.push(Circuit { relay, at, address: addresses::split_peer(address.clone()).0 });
        }
    }
    circuits
}
