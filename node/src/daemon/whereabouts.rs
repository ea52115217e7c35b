//! Where a node is: what its addresses, the operator and the operator's files say, and how much of it is neighbourhood.

use std::net::IpAddr;

use cairn_core::region::agree;
use cairn_proto::{Domain, Region, network_file::NetworkFile};
use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{NodeSettings, assemble::blocking};
use crate::{
    failure::{ExitCode, Failure},
    geoip::GeoIp,
    network::LanMode,
};

/// Where a node is.
pub(super) struct Whereabouts {
    /// The domain that its public address gives, when it has one.
    pub(super) public: Option<Domain>,
    /// Declared, or where its address lies.
    pub(super) region: Region,
    /// What tells where addresses lie.
    pub(super) geoip: GeoIp,
}

impl Whereabouts {
    /// As far as the settings tell.
    pub(super) async fn of(settings: &NodeSettings) -> Result<Self, Failure> {
        let told: Vec<_> = settings.external.iter().chain(&settings.listen).cloned().collect();
        let public = public_domain(&told);
        let files = (settings.geoip.clone(), settings.geoip_asn.clone());
        let geoip = blocking(move || GeoIp::open(files.0.as_deref(), files.1.as_deref()))
            .await?
            .map_err(|e| Failure::new(ExitCode::Usage, "GEOIP", "the GeoIP file cannot be used").caused_by(&e))?;
        let located = public.as_ref().and_then(|subnet| geoip.region(subnet));
        if let Some(located) = located.as_ref().filter(|l| !settings.region.is_unknown() && !agree(&settings.region, l))
        {
            tracing::warn!(declared = %settings.region, %located, "peers with a GeoIP file will not take us to be where we say");
        }
        let region = Some(settings.region.clone()).filter(|r| !r.is_unknown()).or(located).unwrap_or(Region::unknown());
        Ok(Self { public, region, geoip })
    }
}

/// Whether every bootstrap peer is on this machine: then there is nobody else to be found.
pub(super) fn is_of_this_machine(network: &NetworkFile) -> bool {
    !network.bootstrap.is_empty() && network.bootstrap.iter().filter_map(|a| a.parse().ok()).all(|a| is_loopback(&a))
}

/// How a node deals with its neighbourhood.
pub(super) fn lan_mode(network: &NetworkFile, settings: &NodeSettings, at_public: bool) -> LanMode {
    let mut neighbours = network.bootstrap.iter().filter_map(|a| a.parse().ok()).chain(settings.listen.iter().cloned());
    LanMode {
        mdns: settings.mdns && !is_of_this_machine(network),
        // Without a door the neighbourhood is all there is, unless this is the door.
        allow_private: neighbours.any(|a| is_private(&a)) || (network.bootstrap.is_empty() && !at_public),
    }
}

/// The domain that a public listening address gives; for one that means every interface, the address that this
/// machine would send from.
fn public_domain(listen: &[Multiaddr]) -> Option<Domain> {
    listen.iter().filter_map(ip).find_map(|listening| {
        let address = if listening.is_unspecified() { sending_address(listening)? } else { listening };
        Domain::of_address(address)
    })
}

/// Asks the routing table; connecting a UDP socket sends nothing. The far ends are documentation addresses (RFC 5737,
/// RFC 3849).
fn sending_address(unspecified: IpAddr) -> Option<IpAddr> {
    let far = if unspecified.is_ipv4() { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let socket = std::net::UdpSocket::bind((unspecified, 0)).ok()?;
    socket.connect(far).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

/// An address of this machine or its neighbourhood. The unspecified address says neither.
fn is_private(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| !ip.is_unspecified() && Domain::of_address(ip).is_none())
}
