//! The node's libp2p behaviours, each with its limits.
//!
//! Every protocol name that is ours carries the network's id, so that two networks never mix. Admission comes
//! first: what it denies no other behaviour sees.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use cairn_bootstrap::limits::{BOOTSTRAP, RELAY};
use cairn_proto::{message::Roles, network_file::NetworkFile};
use libp2p::{
    StreamProtocol, autonat, connection_limits, dcutr, gossipsub, identify, identity, kad, mdns,
    memory_connection_limits, ping, relay,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};

use super::{
    LanMode, NetworkError,
    admission::Admission,
    control::ControlCodec,
    gossip,
    heads::HeadRecords,
    origins::{InboundLimits, Origins},
    probing::Probing,
    streams::{Kind, Streams},
    waits::Waits,
};
use crate::standing::Standings;

/// Connections of a node that is no bootstrap node: most systems give a process 1024 file descriptors or more, and the store
/// needs some.
const INCOMING_MAX: u32 = 768;
const OUTGOING_MAX: u32 = 512;
const PENDING_MAX: u32 = BOOTSTRAP.incoming_pending_max;
/// Between two questions to the LAN: one packet may be lost, and nobody wants to wait libp2p's five minutes for the next.
const MDNS_EVERY: Duration = Duration::from_secs(30);
/// A direct connection, a relayed one, and two more while both sides dial at once.
const PER_PEER_MAX: u32 = BOOTSTRAP.connections_per_peer_max;
/// New connections are refused from this part of the machine's memory on.
const MEMORY_PART_MAX: f64 = 0.9;
/// Who we are is said again this often; what changes is pushed at once.
const IDENTIFY_EVERY: Duration = HOUR;
/// Questions of one connection that may be open at once.
const CONTROL_STREAMS_MAX: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

/// Names of our protocols in one network.
pub(crate) struct Protocols {
    pub(crate) kad: StreamProtocol,
    pub(crate) control: StreamProtocol,
    /// At the door of a network by invitation.
    pub(crate) pass: StreamProtocol,
    pub(crate) shard: StreamProtocol,
    pub(crate) stewards: StreamProtocol,
    pub(crate) rebuild: StreamProtocol,
    pub(crate) identify: String,
    pub(crate) gossip_prefix: String,
    pub(crate) adverts: gossipsub::IdentTopic,
    pub(crate) evidence: gossipsub::IdentTopic,
}

impl Protocols {
    pub(crate) fn of(network: &NetworkFile) -> Result<Self, NetworkError> {
        let id: String = network.id.to_string().chars().take(16).collect();
        let version = network.protocol;
        let name = |part: &str| {
            StreamProtocol::try_from_owned(format!("/cairn/{id}/{part}/{version}"))
                .map_err(|e| NetworkError::Setup(e.to_string()))
        };
        Ok(Self {
            kad: name("kad")?,
            control: name("control")?,
            pass: name("pass")?,
            shard: name("shard")?,
            stewards: name("stewards")?,
            rebuild: name("rebuild")?,
            identify: format!("/cairn/{id}/{version}"),
            gossip_prefix: format!("/cairn/{id}/gossip"),
            adverts: gossipsub::IdentTopic::new(format!("cairn/{id}/adverts/{version}")),
            evidence: gossipsub::IdentTopic::new(format!("cairn/{id}/evidence/{version}")),
        })
    }
}

/// Everything the Swarm runs. The order matters: admission and limits first.
#[derive(NetworkBehaviour)]
pub(crate) struct NodeBehaviour {
    pub(crate) admission: Admission,
    pub(crate) connections: connection_limits::Behaviour,
    pub(crate) origins: Origins,
    pub(crate) memory: memory_connection_limits::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kad: kad::Behaviour<HeadRecords>,
    pub(crate) gossip: gossip::Behaviour,
    pub(crate) control: request_response::Behaviour<ControlCodec>,
    pub(crate) streams: Streams,
    pub(crate) stewards: Streams,
    pub(crate) rebuilds: Streams,
    pub(crate) relay_client: relay::client::Behaviour,
    pub(crate) dcutr: dcutr::Behaviour,
    pub(crate) relay: Toggle<relay::Behaviour>,
    pub(crate) autonat_client: Toggle<Probing>,
    pub(crate) autonat_server: Toggle<autonat::v2::server::Behaviour>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
}

impl NodeBehaviour {}

/// What decides on the behaviours.
pub(crate) struct Choices<'a> {
    pub(crate) network: &'a NetworkFile,
    pub(crate) protocols: &'a Protocols,
    pub(crate) roles: Roles,
    pub(crate) lan: LanMode,
    pub(crate) port_mapping: bool,
    pub(crate) inbound: InboundLimits,
    pub(crate) waits: Waits,
    pub(crate) ping_every: Duration,
    pub(crate) standings: &'a Standings,
}

/// Incoming connections at a time.
fn incoming_max(roles: Roles) -> u32 {
    if roles.has(Roles::BOOTSTRAP) { BOOTSTRAP.connections_max } else { INCOMING_MAX }
}

impl NodeBehaviour {
    /// The behaviour whose streams speak this protocol.
    pub(crate) const fn streams_of(&mut self, kind: Kind) -> &mut Streams {
        match kind {
            Kind::Shard => &mut self.streams,
            Kind::Stewards => &mut self.stewards,
            Kind::Rebuild => &mut self.rebuilds,
        }
    }

    pub(crate) fn new(
        choices: &Choices<'_>,
        keys: &identity::Keypair,
        relay_client: relay::client::Behaviour,
        heads: HeadRecords,
    ) -> Result<Self, NetworkError> {
        let me = keys.public().to_peer_id();
        let Choices { network, protocols, roles, lan, port_mapping, inbound, waits, ping_every, standings } = choices;
        let public = !lan.allow_private;
        let carries = roles.has(Roles::RELAY);
        let server = roles.has(Roles::STORAGE) || roles.has(Roles::BOOTSTRAP) || carries;
        let mdns = if lan.mdns {
            let config = mdns::Config { query_interval: MDNS_EVERY, ..mdns::Config::default() };
            let mdns = mdns::tokio::Behaviour::new(config, me);
            Some(mdns.map_err(|e| NetworkError::Setup(format!("mDNS: {e}")))?)
        } else {
            None
        };
        let control = request_response::Config::default()
            .with_request_timeout(waits.question)
            .with_max_concurrent_streams(CONTROL_STREAMS_MAX);
        Ok(Self {
            admission: Admission::new(network.id, network.puzzle_bits, (*standings).clone()),
            connections: connection_limits::Behaviour::new(
                connection_limits::ConnectionLimits::default()
                    .with_max_pending_incoming(Some(PENDING_MAX))
                    .with_max_pending_outgoing(Some(PENDING_MAX))
                    .with_max_established_incoming(Some(incoming_max(*roles)))
                    .with_max_established_outgoing(Some(OUTGOING_MAX))
                    .with_max_established_per_peer(Some(PER_PEER_MAX)),
            ),
            origins: Origins::new(*inbound),
            memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_PART_MAX),
            identify: identify::Behaviour::new(
                identify::Config::new(protocols.identify.clone(), keys.public())
                    .with_agent_version(format!("cairn/{}", env!("CARGO_PKG_VERSION")))
                    .with_interval(IDENTIFY_EVERY)
                    .with_push_listen_addr_updates(true)
                    .with_hide_listen_addrs(public),
            ),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(*ping_every)),
            kad: kademlia(protocols, me, heads, server, waits),
            gossip: gossip::behaviour(protocols, keys, lan)?,
            control: request_response::Behaviour::new([(protocols.control.clone(), ProtocolSupport::Full)], control),
            streams: Streams::new(protocols.shard.clone()),
            stewards: Streams::new(protocols.stewards.clone()),
            rebuilds: Streams::new(protocols.rebuild.clone()),
            relay_client,
            dcutr: dcutr::Behaviour::new(me),
            relay: carries.then(|| relay_server(me, lan.allow_private)).into(),
            // On a LAN there is nothing to find out, and private addresses would be probed for ever.
            autonat_client: (public && server).then(Probing::default).into(),
            autonat_server: (public && server).then(autonat::v2::server::Behaviour::default).into(),
            mdns: mdns.into(),
            upnp: port_mapping.then(upnp::tokio::Behaviour::default).into(),
        })
    }
}

fn kademlia_config(protocols: &Protocols, waits: &Waits) -> kad::Config {
    let mut config = kad::Config::new(protocols.kad.clone());
    config
        .disjoint_query_paths(true)
        .set_parallelism(NonZeroUsize::new(4).unwrap_or(kad::K_VALUE))
        .set_query_timeout(waits.lookup)
        // Heads live until a newer one comes; storage peers replicate them every hour, owners need not be there.
        .set_record_ttl(None)
        .set_publication_interval(None)
        // ... by the task: libp2p's job remembers the key of every record that anyone sends, before any filter.
        .set_replication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        // Heads come to the task with their source, which counts them.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // The task walks by itself: libp2p repeats a walk that nobody answered after the whole interval only.
        .set_periodic_bootstrap_interval(None)
        // Only identify's findings come into the routing table, filtered.
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    config
}

fn kademlia(
    protocols: &Protocols,
    me: libp2p::PeerId,
    heads: HeadRecords,
    server: bool,
    waits: &Waits,
) -> kad::Behaviour<HeadRecords> {
    let mut kad = kad::Behaviour::with_config(me, heads, kademlia_config(protocols, waits));
    // Automatic mode would wait for a confirmed external address, which a LAN never has.
    kad.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}

fn relay_server(me: libp2p::PeerId, always: bool) -> relay::Behaviour {
    let at_least_one = |limit| NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN);
    let config = relay::Config {
        max_reservations: RELAY.reservations_max,
        max_reservations_per_peer: RELAY.reservations_per_peer_max,
        reservation_duration: RELAY.reservation_duration,
        max_circuits: RELAY.circuits_max,
        max_circuits_per_peer: RELAY.circuits_per_peer_max,
        max_circuit_bytes: RELAY.circuit_bytes_max,
        max_circuit_duration: RELAY.circuit_duration,
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    }
    .circuit_src_per_peer(at_least_one(RELAY.circuits_per_peer_an_hour), HOUR)
    .circuit_src_per_ip(at_least_one(RELAY.circuits_per_ip_an_hour), HOUR);
    let mut relay = relay::Behaviour::new(me, config);
    if always {
        relay.set_status(Some(relay::Status::Enable));
    }
    relay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kademlia_keeps_no_list_of_keys_that_strangers_send() {
        let network = NetworkFile::create("kad", 0, &ed25519_dalek::SigningKey::from_bytes(&[1; 32])).expect("valid");
        let config = format!("{:?}", kademlia_config(&Protocols::of(&network).expect("valid"), &Waits::default()));
        // Either interval would make a job, which takes note of keys without a bound.
        assert!(config.contains("record_replication_interval: None"), "{config}");
        assert!(config.contains("record_publication_interval: None"), "{config}");
    }
}
