//! How many inbound connections one neighbourhood of the internet may have here: a /24, a /48.
//!
//! libp2p's own limits count peers and totals; identities cost a puzzle each, so somebody with one machine and many
//! identities could still take every place. Addresses are what a crowd has few of.
//!
//! # Invariants
//!
//! - **NET-3** No /24 or /48 has more than [`InboundLimits::subnet`] inbound connections, handshakes included, so
//!   that one cheap prefix cannot take all places. Enforced by [`Origins`] before the handshake; attacked by `tests`
//!   below and by `network::tests::crowds`.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    task::{Context, Poll},
};

use cairn_proto::Domain;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use super::addresses;

/// Inbound connections, pending and established, of one origin at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundLimits {
    /// Of one public /24 or /48. A house or an office behind one address has a few nodes, each with a TCP and a QUIC
    /// connection; against 768 places in all, 24 such prefixes are needed to take them.
    pub subnet: usize,
    /// Of loopback and private addresses together. Labs of hundreds of nodes live there, and who can reach a private
    /// address is no stranger; a third of the places stays for the rest of the world.
    pub near: usize,
    /// Through relays, where no address is seen.
    pub relayed: usize,
}

impl Default for InboundLimits {
    fn default() -> Self {
        Self { subnet: 32, near: 512, relayed: 256 }
    }
}

/// Where a connection comes from, as far as it counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Subnet(Domain),
    Near,
    Relayed,
}

impl Origin {
    fn of(remote: &Multiaddr) -> Self {
        match addresses::ip(remote) {
            // A connection through a relay names the peer and no address.
            None => Self::Relayed,
            Some(_) if addresses::is_relayed(remote) => Self::Relayed,
            Some(ip) => Domain::of_address(ip).map_or(Self::Near, Self::Subnet),
        }
    }
}

/// Why a connection was denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin} has {limit} inbound connections already")]
pub(crate) struct Crowded {
    origin: String,
    limit: usize,
}

/// Denies the connection that is one too many. Stands behind libp2p's limits on totals, which bound both maps.
#[derive(Debug)]
pub(crate) struct Origins {
    limits: InboundLimits,
    counts: BTreeMap<Origin, usize>,
    open: HashMap<ConnectionId, Origin>,
}

impl Origins {
    pub(crate) fn new(limits: InboundLimits) -> Self {
        Self { limits, counts: BTreeMap::new(), open: HashMap::new() }
    }

    fn enter(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), Crowded> {
        let origin = Origin::of(remote);
        let (limit, name) = match &origin {
            Origin::Subnet(subnet) => (self.limits.subnet, subnet.as_str()),
            Origin::Near => (self.limits.near, "the private and loopback range"),
            Origin::Relayed => (self.limits.relayed, "the range behind relays"),
        };
        let count = self.counts.get(&origin).copied().unwrap_or(0);
        if count >= limit {
            return Err(Crowded { origin: name.to_owned(), limit });
        }
        self.counts.insert(origin.clone(), count + 1);
        self.open.insert(id, origin);
        Ok(())
    }

    fn leave(&mut self, id: ConnectionId) {
        let Some(origin) = self.open.remove(&id) else { return };
        if let Some(count) = self.counts.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&origin);
            }
        }
    }
}

impl NetworkBehaviour for Origins {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.enter(id, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => self.leave(closed.connection_id),
            // Also when another behaviour denied it after us.
            FromSwarm::ListenFailure(failed) => self.leave(failed.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIGHT: InboundLimits = InboundLimits { subnet: 3, near: 5, relayed: 4 };

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("address")
    }

    #[test]
    fn a_prefix_gets_its_share_and_no_more() {
        let mut origins = Origins::new(TIGHT);
        let mut next = 0;
        let mut enter = |origins: &mut Origins, text: &str| {
            next += 1;
            origins.enter(ConnectionId::new_unchecked(next), &address(text))
        };
        for host in 1..=3 {
            enter(&mut origins, &format!("/ip4/8.8.8.{host}/tcp/1")).expect("the first three");
        }
        let refused = enter(&mut origins, "/ip4/8.8.8.200/udp/7/quic-v1").expect_err("NET-3: the fourth of its /24");
        assert_eq!(refused.to_string(), "v4:8.8.8 has 3 inbound connections already");
        enter(&mut origins, "/ip4/8.8.9.1/tcp/1").expect("another /24");
        for host in 1..=3 {
            enter(&mut origins, &format!("/ip6/2001:db8:1:{host}::1/tcp/1")).expect("three of a /48");
        }
        enter(&mut origins, "/ip6/2001:db8:1:9::1/tcp/1").expect_err("NET-3: the fourth of its /48");
        enter(&mut origins, "/ip6/2001:db8:2::1/tcp/1").expect("another /48");
        for text in ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/fd00::1/tcp/1"] {
            enter(&mut origins, text).expect("near");
        }
        enter(&mut origins, "/ip4/192.168.0.7/tcp/1").expect("the fifth that is near");
        enter(&mut origins, "/ip4/192.168.0.8/tcp/1").expect_err("one too many even there");
        let relayed = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        for _ in 0..4 {
            enter(&mut origins, relayed).expect("relayed");
        }
        enter(&mut origins, relayed).expect_err("one too many behind relays");

        origins.leave(ConnectionId::new_unchecked(2));
        origins.leave(ConnectionId::new_unchecked(2));
        assert!(origins.enter(ConnectionId::new_unchecked(1000), &address("/ip4/8.8.8.4/tcp/1")).is_ok());
        assert!(origins.enter(ConnectionId::new_unchecked(1001), &address("/ip4/8.8.8.4/tcp/1")).is_err());
    }

    proptest! {
        /// Whatever comes and goes: counts are what is open, nothing is over its limit, nothing is left behind.
        #[test]
        fn counts_are_what_is_open(steps in proptest::collection::vec((any::<bool>(), 0usize..40, 0u8..4), 0..200)) {
            let mut origins = Origins::new(TIGHT);
            for (come, id, net) in steps {
                let id = ConnectionId::new_unchecked(id);
                let text = ["/ip4/8.8.8.8/tcp/1", "/ip4/9.9.9.9/tcp/1", "/ip4/127.0.0.1/tcp/1", "/dns4/x.org/tcp/1"];
                if come && !origins.open.contains_key(&id) {
                    let _ = origins.enter(id, &address(text[usize::from(net)]));
                } else if !come {
                    origins.leave(id);
                }
                prop_assert_eq!(origins.counts.values().sum::<usize>(), origins.open.len());
                prop_assert!(origins.counts.values().all(|c| (1..=5).contains(c)));
                prop_assert!(origins.counts.iter().all(|(o, c)| !matches!(o, Origin::Subnet(_)) || *c <= 3), "NET-3");
            }
            for id in 0..40 {
                origins.leave(ConnectionId::new_unchecked(id));
            }
            prop_assert!(origins.counts.is_empty());
        }
    }
}
