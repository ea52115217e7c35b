//! Which addresses are worth remembering, dialling and telling.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cairn_proto::{Domain, PeerKey, message::ADDRESS_MAX};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::keys::peer_key;

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

/// The relay of a circuit that we may listen on: `/…/p2p/RELAY/p2p-circuit`.
pub(crate) fn relay(circuit: &Multiaddr) -> Option<PeerKey> {
    let mut address = circuit.clone();
    if address.pop()? != Protocol::P2pCircuit {
        return None;
    }
    let (relay, peer) = split_peer(address);
    peer_key(&peer?).filter(|_| !relay.is_empty() && !is_relayed(&relay))
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

    #[test]
    fn a_circuit_names_its_relay() {
        let id = crate::network::keys::peer_id(&PeerKey::from_bytes(
            ed25519_dalek::SigningKey::from_bytes(&[4; 32]).verifying_key().to_bytes(),
        ));
        let id = id.expect("a valid key");
        let relay = |text: String| relay(&text.parse().expect("address"));
        assert_eq!(relay(format!("/ip4/127.0.0.1/tcp/1/p2p/{id}/p2p-circuit")), peer_key(&id));
        for wrong in
            ["/ip4/127.0.0.1/tcp/1/p2p-circuit".into(), format!("/p2p/{id}/p2p-circuit"), "/p2p-circuit".into()]
        {
            assert_eq!(relay(wrong), None);
        }
        assert_eq!(relay(format!("/ip4/127.0.0.1/tcp/1/p2p/{id}/p2p-circuit/p2p/{id}")), None, "a way to somebody");
    }
}
