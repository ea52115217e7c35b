//! Checks the text of a bootstrap address without a libp2p dependency, so that a network file can be put together and
//! checked anywhere. Accepts the shapes that a Cairn node listens on and nothing else:
//!
//! `/(ip4|ip6|dns|dns4|dns6)/HOST/tcp/PORT/p2p/PEER`, `.../udp/PORT/quic-v1/p2p/PEER`, `/dnsaddr/HOST/p2p/PEER`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest address text: a 253-character DNS name, a 52-character peer id and the words between fit.
pub const ADDRESS_MAX: usize = 512;

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Over [`ADDRESS_MAX`].
    #[error("it is longer than {ADDRESS_MAX} characters")]
    TooLong,
    /// Not one of the shapes.
    #[error("write it as /ip4/HOST/tcp/PORT/p2p/PEER or /ip4/HOST/udp/PORT/quic-v1/p2p/PEER (also ip6, dns, dnsaddr)")]
    Shape,
    /// The host does not parse.
    #[error("the host is not an address or name of that kind")]
    Host,
    /// An address that means another machine to everyone.
    #[error("the host is unspecified (0.0.0.0 or ::), which nobody can dial")]
    Unspecified,
    /// Not a port that can be dialled.
    #[error("the port must be 1 to 65535")]
    Port,
    /// Not the id of an Ed25519 peer.
    #[error("the peer id must be 52 characters of base58 that start with 12D3Koo")]
    Peer,
}

/// Checks one bootstrap address.
///
/// # Errors
/// [`AddressError`].
pub fn check_address(text: &str) -> Result<(), AddressError> {
    if text.len() > ADDRESS_MAX {
        return Err(AddressError::TooLong);
    }
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["", "dnsaddr", host, "p2p", peer] => check_name(host).and_then(|()| check_peer(peer)),
        ["", kind, host, "tcp", port, "p2p", peer] | ["", kind, host, "udp", port, "quic-v1", "p2p", peer] => {
            check_host(kind, host)?;
            check_port(port)?;
            check_peer(peer)
        }
        _ => Err(AddressError::Shape),
    }
}

fn check_host(kind: &str, host: &str) -> Result<(), AddressError> {
    let unspecified = match kind {
        "ip4" => host.parse::<Ipv4Addr>().map_err(|_| AddressError::Host)?.is_unspecified(),
        "ip6" => host.parse::<Ipv6Addr>().map_err(|_| AddressError::Host)?.is_unspecified(),
        "dns" | "dns4" | "dns6" => return check_name(host),
        _ => return Err(AddressError::Shape),
    };
    if unspecified { Err(AddressError::Unspecified) } else { Ok(()) }
}

fn check_name(host: &str) -> Result<(), AddressError> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) { Ok(()) } else { Err(AddressError::Host) }
}

fn check_port(port: &str) -> Result<(), AddressError> {
    let plain = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if plain => Ok(()),
        _ => Err(AddressError::Port),
    }
}

/// The identity multihash of an Ed25519 key always reads so; a real decode happens when it is dialled.
fn check_peer(peer: &str) -> Result<(), AddressError> {
    let base58 = |b: u8| b.is_ascii_alphanumeric() && !b"0OIl".contains(&b);
    if peer.len() == 52 && peer.starts_with("12D3Koo") && peer.bytes().all(base58) {
        Ok(())
    } else {
        Err(AddressError::Peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn the_shapes_that_nodes_listen_on_pass() {
        for start in [
            "/ip4/203.0.113.7/tcp/4001",
            "/ip4/127.0.0.1/udp/4001/quic-v1",
            "/ip6/2001:db8::1/tcp/1",
            "/dns/boot.example.org/tcp/443",
            "/dns4/boot.example.org/udp/4001/quic-v1",
            "/dnsaddr/boot.example.org",
        ] {
            assert_eq!(check_address(&format!("{start}/p2p/{PEER}")), Ok(()), "{start}");
        }
    }

    #[test]
    fn everything_else_says_what_is_wrong() {
        let check = |text: String, error: AddressError| assert_eq!(check_address(&text), Err(error), "{text}");
        check(String::new(), AddressError::Shape);
        check("/ip4/203.0.113.7/tcp/4001".into(), AddressError::Shape);
        check(format!("/ip4/203.0.113.7/udp/4001/p2p/{PEER}"), AddressError::Shape);
        check(format!("ip4/203.0.113.7/tcp/4001/p2p/{PEER}"), AddressError::Shape);
        check(format!("/ip4/203.0.113.7/tcp/4001/p2p/{PEER}/p2p-circuit"), AddressError::Shape);
        check(format!("/unix/x/tcp/4001/p2p/{PEER}"), AddressError::Shape);
        check(format!("/ip4/203.0.113.999/tcp/4001/p2p/{PEER}"), AddressError::Host);
        check(format!("/ip6/203.0.113.7/tcp/4001/p2p/{PEER}"), AddressError::Host);
        check(format!("/dns/a..b/tcp/4001/p2p/{PEER}"), AddressError::Host);
        check(format!("/ip4/0.0.0.0/tcp/4001/p2p/{PEER}"), AddressError::Unspecified);
        check(format!("/ip4/203.0.113.7/tcp/0/p2p/{PEER}"), AddressError::Port);
        check(format!("/ip4/203.0.113.7/tcp/+80/p2p/{PEER}"), AddressError::Port);
        check(format!("/ip4/203.0.113.7/tcp/65536/p2p/{PEER}"), AddressError::Port);
        check("/ip4/203.0.113.7/tcp/4001/p2p/QmShort".into(), AddressError::Peer);
        check("x".repeat(513), AddressError::TooLong);
    }
}
