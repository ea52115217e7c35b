//! What a node's network is started with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cairn_proto::{ByteSize, Domain, Region, message::Roles, network_file::NetworkFile, pass::Pass};
use libp2p::Multiaddr;

use super::{ClientPatience, InboundLimits, ServerLimits, Waits, keeper::ShardKeeper, paces};
use crate::{
    courtesy::Courtesy, geoip::GeoIp, identity::Identity, standing::Standings, stewardship::ports::StewardService,
};

/// An advert goes out this often: three times before a silent peer gets no new shards. Gossip brings every advert to every node
/// three or four times, so this is what an idle node's line carries most.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(600);
/// Whoever wants something of a peer has a time-out of its own; pings only clear away connections whose other end vanished without a
/// word, and keep NATs from forgetting them (they keep TCP for minutes at least). Every twenty seconds, they were a quarter of an
/// idle node's traffic.
const PING_EVERY: Duration = Duration::from_secs(150);

/// What is different where everybody is a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LanMode {
    /// Find neighbours by mDNS.
    pub mdns: bool,
    /// Dial, tell and remember private and loopback addresses.
    pub allow_private: bool,
}

/// How to start a node's network.
pub struct NetworkConfig {
    /// Which network.
    pub network: NetworkFile,
    /// Who we are; must solve the network's puzzle.
    pub identity: Identity,
    /// Our own domain, pinned by the caller.
    pub domain: Domain,
    /// Declared region; where the addresses lie when it is unknown.
    pub region: Region,
    /// What tells where addresses lie.
    pub geoip: Arc<GeoIp>,
    /// What we do for others.
    pub roles: Roles,
    /// Whether others may know us as one who stores. While we do not they are told, or our visits would pass for a holder's signs of life.
    pub known_to_store: bool,
    /// Space pledged; a keeper's own figure goes before it.
    pub give: ByteSize,
    /// Where to listen; empty for an owner.
    pub listen: Vec<Multiaddr>,
    /// Addresses that the operator knows to lead here from outside.
    pub external: Vec<Multiaddr>,
    /// Neighbourhood.
    pub lan: LanMode,
    /// Ask the router for a port mapping (UPnP).
    pub port_mapping: bool,
    /// Where shards are kept; none for an owner.
    pub store: Option<Arc<dyn ShardKeeper>>,
    /// Where the peer book is kept; none keeps it in memory.
    pub data_dir: Option<PathBuf>,
    /// Seed for walks and samples, fresh from the OS.
    pub entropy: [u8; 32],
    /// How many may connect from one neighbourhood.
    pub inbound: InboundLimits,
    /// Limits of the serving side.
    pub limits: ServerLimits,
    /// Patience of the asking side.
    pub patience: ClientPatience,
    /// Patience with those who may be gone.
    pub waits: Waits,
    /// Who answers on the stewards' protocol; without one, everybody is told that we are no steward. It may hold a
    /// [`NetworkHandle`](super::NetworkHandle) that it was given later; then the network ends with [`NetworkHandle::shutdown`](super::NetworkHandle::shutdown) only.
    pub stewards: Option<Arc<dyn StewardService>>,
    /// What we think of peers; none: it is made anew and kept in memory.
    pub standings: Option<Standings>,
    /// Our pass, in a network by invitation; without one its peers let us in nowhere.
    pub pass: Option<Pass>,
    /// How often we say what we are, whatever happened.
    pub announce_every: Duration,
    /// How often each end of each connection asks whether the other is there.
    pub ping_every: Duration,
    /// How long a peer that served slowly is not looked at again ([`paces`]).
    pub follow_every: Duration,
    /// How the line is used; none uses it as it comes.
    pub courtesy: Option<Courtesy>,
}

impl NetworkConfig {
    /// An owner's node: client only, listening nowhere. Change the fields for anything more.
    #[must_use]
    pub fn client(network: NetworkFile, identity: Identity, domain: Domain, entropy: [u8; 32]) -> Self {
        Self {
            network,
            identity,
            domain,
            region: Region::unknown(),
            geoip: Arc::default(),
            roles: Roles::NONE,
            known_to_store: false,
            give: ByteSize(0),
            listen: Vec::new(),
            external: Vec::new(),
            lan: LanMode::default(),
            port_mapping: false,
            store: None,
            data_dir: None,
            entropy,
            inbound: InboundLimits::default(),
            limits: ServerLimits::default(),
            patience: ClientPatience::default(),
            waits: Waits::default(),
            stewards: None,
            standings: None,
            pass: None,
            announce_every: ANNOUNCE_EVERY,
            ping_every: PING_EVERY,
            follow_every: paces::FOLLOWED_APART,
            courtesy: None,
        }
    }
}
