//! What the Swarm tells us, translated into what we do.

use std::net::IpAddr;

use std::collections::HashMap;

use cairn_proto::{Domain, signed::SignedBytes};
use libp2p::{
    Multiaddr, PeerId, autonat, gossipsub, identify, kad, mdns, ping,
    swarm::{ConnectionError, SwarmEvent, dial_opts::DialOpts},
};
use prost::Message as _;

use super::{ANNOUNCE_SOON, Lookup, NetworkTask, PEERS_PER_PREFIX, Timestamp};
use crate::network::{
    addresses,
    behaviour::NodeBehaviourEvent,
    book::{Came, Learned, NotLearned},
    door::DoorEvent,
    keys::peer_key,
};

impl NetworkTask {
    pub(super) fn swarm_event(&mut self, event: SwarmEvent<DoorEvent>, now: Timestamp) {
        match event {
            SwarmEvent::Behaviour(event) => self.door_event(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.state.dials.remove(&connection_id);
                if endpoint.is_relayed() {
                    self.refusals.spare(peer_id, true);
                }
                self.established(connection_id, peer_id, endpoint.get_remote_address(), now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established: 1.., .. } => {
                self.broke_on_probation(connection_id, peer_id, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established: 0, cause, .. } => {
                self.broke_on_probation(connection_id, peer_id, now);
                self.state.connected.remove(&peer_id);
                self.state.identified.remove(&peer_id);
                if self.state.connected.is_empty() {
                    self.state.discovery.alone();
                }
                self.refusals.spare(peer_id, false);
                let broken = !matches!(cause, None | Some(ConnectionError::KeepAliveTimeout));
                if let Some(key) = peer_key(&peer_id) {
                    self.presence.went(&key);
                    self.book.disconnected(&key, broken, now);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id: Some(peer), error } => {
                self.outgoing_failed(connection_id, peer, &error, now);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => self.listens(listener_id, address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.listens_no_longer(&address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                tracing::info!(?addresses, ?reason, "a listener closed");
                self.listener_closed(listener_id, &addresses);
            }
            // The listener goes on; when it cannot, it closes.
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed"),
            SwarmEvent::ExternalAddrConfirmed { address } => self.reached_at(&address),
            SwarmEvent::ExternalAddrExpired { .. } => {
                self.reachability_changed();
                self.tell_reach();
            }
            _ => {}
        }
    }

    pub(super) fn behaviour_event(&mut self, event: NodeBehaviourEvent, now: Timestamp) {
        match event {
            NodeBehaviourEvent::Control(event) => self.control_event(event, now),
            NodeBehaviourEvent::Streams(inbound) => self.serve(inbound, now),
            NodeBehaviourEvent::Stewards(inbound) => self.asked(inbound, now),
            NodeBehaviourEvent::Rebuilds(inbound) => self.hand_over(inbound),
            NodeBehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::Bootstrap(_),
                stats,
                step,
                ..
            }) => self.bootstrapped(&stats, step.last),
            NodeBehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. }) => {
                self.looked_up(id, result, step.last);
            }
            NodeBehaviourEvent::Kad(kad::Event::InboundRequest {
                request: kad::InboundRequest::PutRecord { source, record: Some(record), .. },
            }) => {
                if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().receive(record, source) {
                    tracing::debug!(%source, %error, "a head from the DHT was refused");
                }
            }
            NodeBehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let verdict = if message.topic == self.protocols.evidence.hash() {
                    self.evidence_gossiped(&message, now)
                } else {
                    self.gossiped(&message, &propagation_source, now)
                };
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                let _ = gossip.report_message_validation_result(&message_id, &propagation_source, verdict);
            }
            NodeBehaviourEvent::Gossip(gossipsub::Event::Subscribed { .. }) if self.state.unheard => {
                self.announce_within(ANNOUNCE_SOON);
            }
            NodeBehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.identified(peer_id, &info);
            }
            NodeBehaviourEvent::Ping(event) => self.pinged(event, now),
            NodeBehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                // One dial a neighbour: a second one would be refused while the first tries an address that leads nowhere.
                let mut neighbours: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
                for (peer, address) in found {
                    neighbours.entry(peer).or_default().push(address);
                }
                for (peer, addresses) in neighbours {
                    let opts = DialOpts::peer_id(peer).addresses(addresses).build();
                    if let Err(error) = self.swarm.dial(opts) {
                        tracing::trace!(%error, "cannot dial a neighbour");
                    }
                }
            }
            NodeBehaviourEvent::AutonatClient(autonat::v2::client::Event { tested_addr, result: Err(_), .. }) => {
                self.not_reached_at(tested_addr);
            }
            _ => {}
        }
    }

    /// The first failure in a row is never told, so this one is the second: nobody is there any more. libp2p leaves the
    /// connection open, and TCP would notice after a quarter of an hour.
    fn pinged(&mut self, ping::Event { peer, connection, result }: ping::Event, now: Timestamp) {
        if let Some(key) = peer_key(&peer) {
            let rtt = result.as_ref().ok().map(|rtt| u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX));
            self.book.pinged(&key, rtt, now);
        }
        if matches!(result, Err(ping::Failure::Timeout | ping::Failure::Other { .. })) {
            tracing::debug!(%peer, "a connection without answers is closed");
            self.swarm.close_connection(connection);
        }
    }

    pub(super) fn connected(&mut self, id: PeerId, remote: &Multiaddr, now: Timestamp) {
        if !self.may_stay(id) {
            return;
        }
        self.state.unreachable.remove(&id);
        self.state.sought.remove(&id);
        self.carrier_connected(&id);
        self.relay_connected(id);
        for (kind, reply) in self.state.openers.remove(&id).unwrap_or_default() {
            self.swarm.behaviour_mut().streams_of(kind).open(id, reply);
        }
        for (request, reply) in self.state.askers.remove(&id).unwrap_or_default() {
            self.send_question(&id, request, reply);
        }
        self.state.connected.insert(id);
        if let Some(key) = peer_key(&id) {
            // A connection that came through a relay names a peer and no address.
            let direct = addresses::ip(remote).is_some() && !addresses::is_relayed(remote);
            let came = if direct { Came::From(addresses::subnet(remote)) } else { Came::Relayed };
            self.presence.came(key);
            self.book.connected(&key, came, now);
        }
    }

    /// A peer of our network, and what it offers. Its adverts are asked for at once, so that a newcomer knows
    /// everyone that its first peers know.
    fn identified(&mut self, peer: PeerId, info: &identify::Info) {
        if info.protocol_version != self.protocols.identify {
            tracing::debug!(%peer, theirs = info.protocol_version, "a peer of another network");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let is_new = self.state.identified.insert(peer);
        if info.protocols.contains(&self.protocols.kad) {
            self.admit_to_routing_table(peer, &info.listen_addrs);
        }
        // Identify comes again and again, also when the peer pleases.
        if is_new && info.protocols.contains(&self.protocols.kad) {
            self.state.discovery.met(self.monotone());
        }
        if is_new && info.protocols.contains(&self.protocols.control) {
            self.greet_with_question(peer);
            self.ask_for_proofs(peer);
        }
    }

    fn admit_to_routing_table(&mut self, peer: PeerId, listening: &[Multiaddr]) {
        let allow_private = self.portrait.lan.allow_private;
        let usable = addresses::choose(listening.iter().cloned(), allow_private);
        let prefix = usable.iter().find_map(prefix);
        let kad = &mut self.swarm.behaviour_mut().kad;
        if let Some(prefix) = prefix
            && !allow_private
        {
            let mut neighbours = 0;
            for bucket in kad.kbuckets() {
                neighbours += bucket
                    .iter()
                    .filter(|e| *e.node.key.preimage() != peer)
                    .filter(|e| e.node.value.iter().any(|a| self::prefix(a).as_ref() == Some(&prefix)))
                    .count();
            }
            if neighbours >= PEERS_PER_PREFIX {
                return;
            }
        }
        for address in usable {
            kad.add_address(&peer, address);
        }
    }

    fn gossiped(
        &mut self,
        message: &gossipsub::Message,
        from: &PeerId,
        now: Timestamp,
    ) -> gossipsub::MessageAcceptance {
        let Ok(signed) = SignedBytes::decode(message.data.as_slice()) else {
            return gossipsub::MessageAcceptance::Reject;
        };
        let author = message.source.as_ref().and_then(peer_key);
        if author.is_none_or(|author| author.as_bytes().as_slice() != signed.signer) {
            return gossipsub::MessageAcceptance::Reject;
        }
        match self.book.learn_gossiped(&signed, peer_key(from).as_ref(), now) {
            Ok(Learned::New | Learned::Newer) => {
                if let Some(id) = message.source {
                    // It lives, and may have said new addresses.
                    self.state.unreachable.remove(&id);
                }
                gossipsub::MessageAcceptance::Accept
            }
            Ok(Learned::Stale | Learned::TooSoon)
            | Err(
                NotLearned::Full
                | NotLearned::Own
                | NotLearned::Ahead
                | NotLearned::Convicted
                | NotLearned::NotInvited(_),
            ) => gossipsub::MessageAcceptance::Ignore,
            Err(error) => {
                tracing::debug!(%error, "a gossiped advert was rejected");
                gossipsub::MessageAcceptance::Reject
            }
        }
    }

    fn looked_up(&mut self, id: kad::QueryId, result: kad::QueryResult, last: bool) {
        if let (Some(Lookup::Get(_, found)), kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(peer)))) =
            (self.state.lookups.get_mut(&id), &result)
        {
            found.push(peer.record.value.clone());
        }
        if !last {
            return;
        }
        match (self.state.lookups.remove(&id), result) {
            (Some(Lookup::Get(reply, found)), _) => {
                let _ = reply.send(found);
            }
            (Some(Lookup::Closest(reply, _)), kad::QueryResult::GetClosestPeers(result)) => {
                let peers = match result {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let allow_private = self.portrait.lan.allow_private;
                let found = peers
                    .into_iter()
                    .filter_map(|peer| Some((peer_key(&peer.peer_id)?, addresses::choose(peer.addrs, allow_private))));
                let _ = reply.send(found.collect());
            }
            (Some(Lookup::Replicate(key)), result) => {
                let near = match result {
                    kad::QueryResult::GetClosestPeers(
                        Ok(kad::GetClosestPeersOk { peers, .. })
                        | Err(kad::GetClosestPeersError::Timeout { peers, .. }),
                    ) => peers,
                    _ => Vec::new(),
                };
                let near: Vec<PeerId> = near.into_iter().map(|peer| peer.peer_id).collect();
                self.pass_on(&key, &near);
            }
            (Some(Lookup::Put(reply)), _) => {
                let _ = reply.send(());
            }
            (Some(Lookup::Closest(..)) | None, _) => {}
        }
    }
}

/// The /24 or /48 of an address, as the text of its domain.
fn prefix(address: &Multiaddr) -> Option<Domain> {
    addresses::ip(address).and_then(|ip: IpAddr| Domain::of_address(ip))
}
