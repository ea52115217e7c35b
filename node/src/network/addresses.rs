//! Which addresses are worth remembering, dialling and telling.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cairn_proto::{Domain, message::ADDRESS_MAX};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// Most addresses kept of one peer.
pub(crate) const ADDRESSES_PER_PEER: usize = 8;

/// The IP that an address starts with, if it does.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether the address goes through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The /24 or /48 that an address stands in: none when it is private, a name, or a relay's.
pub(crate) fn subnet(address: &Multiaddr) -> Option<Domain> {
    if is_relayed(address) { None } else { ip(address).and_then(Domain::of_address) }
}

/// Whether an address is fit to be dialled: routable, or private where that is allowed; a DNS name counts as
/// routable. Unspecified addresses never are.
pub(crate) fn is_usable(address: &Multiaddr, allow_private: bool) -> bool {
    if address.to_vec().len() > ADDRESS_MAX {
        return false;
    }
    match address.iter().next() {
        Some(Protocol::Ip4(Ipv4Addr::UNSPECIFIED)) | None => false,
        Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED)) => false,
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => {
            allow_private || ip(address).is_some_and(|ip| Domain::of_address(ip).is_some())
        }
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => true,
        _ => false,
    }
}

/// Takes `/p2p/ID` off the end, and gives the id.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.pop() {
        Some(Protocol::P2p(peer)) => (address, Some(peer)),
        Some(other) => (address.with(other), None),
        None => (address, None),
    }
}

/// The usable ones, without the peer's id, direct before relayed, loopback last, a few.
pub(crate) fn choose(addresses: impl IntoIterator<Item = Multiaddr>, allow_private: bool) -> Vec<Multiaddr> {
    let mut chosen: Vec<Multiaddr> = Vec::new();
    for address in addresses {
        let (address, _) = split_peer(address);
        if is_usable(&address, allow_private) && !chosen.contains(&address) {
            chosen.push(address);
        }
    }
    chosen.sort_by_key(|a| (is_relayed(a), ip(a).is_some_and(|ip| ip.is_loopback())));
    chosen.truncate(ADDRESSES_PER_PEER);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_for_a_lan() {
        let parse = |a: &str| a.parse::<Multiaddr>().expect("address");
        let all =
            ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1", "/ip4/0.0.0.0/tcp/1"].map(parse);
        assert_eq!(choose(all.clone(), false), [parse("/ip4/8.8.8.8/tcp/1")]);
        let lan = choose(all, true);
        assert_eq!(lan.len(), 3);
        assert_eq!(lan[2], parse("/ip4/127.0.0.1/tcp/1"), "loopback last");
        assert!(is_usable(&parse("/dns4/example.org/tcp/1"), false));
        assert!(!is_usable(&parse("/memory/1"), true));
    }
}
