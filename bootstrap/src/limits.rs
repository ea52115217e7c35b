//! Limits of the relay and bootstrap roles, each with its reason. The node's swarm takes them from here.

use std::time::Duration;

/// What a relay lets through. libp2p's defaults (128 KiB and 2 minutes a circuit) are made for hole punching; a
/// shard is 1 MiB, so with them no shard would ever cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Peers that may hold a reservation at a time. A reservation costs one idle connection and a table row.
    pub reservations_max: usize,
    /// Reservations of one peer (a peer may come by several addresses).
    pub reservations_per_peer_max: usize,
    /// How long a reservation stands before it is renewed.
    pub reservation_duration: Duration,
    /// Circuits open at a time. Each may keep two 64 KiB copy buffers and moves at most the relay's own bandwidth.
    pub circuits_max: usize,
    /// Circuits from one peer: an owner needs one to each holder behind a NAT, and a default group alone has eight.
    pub circuits_per_peer_max: usize,
    /// Circuits that one peer may ask for in an hour; libp2p's thirty are used up by one backup among many holders.
    pub circuits_per_peer_an_hour: u32,
    /// ... and all peers of one address together.
    pub circuits_per_ip_an_hour: u32,
    /// How long one circuit may live: long enough for `circuit_bytes_max` at 75 kB/s, the upstream of a slow line.
    pub circuit_duration: Duration,
    /// Bytes one circuit may carry in each direction: one slot of a full group (256 stripes of 1 MiB).
    pub circuit_bytes_max: u64,
}

/// The limits of a relay that carries shards.
pub const RELAY: RelayLimits = RelayLimits {
    reservations_max: 512,
    reservations_per_peer_max: 4,
    reservation_duration: Duration::from_secs(60 * 60),
    circuits_max: 256,
    circuits_per_peer_max: 64,
    circuits_per_peer_an_hour: 512,
    circuits_per_ip_an_hour: 2048,
    circuit_duration: Duration::from_secs(60 * 60),
    circuit_bytes_max: 256 * 1024 * 1024 + RELAY_FRAMING_BYTES,
};

/// Frames, grants and the inner security layer on top of 256 MiB of shards: under 1 % of it.
pub const RELAY_FRAMING_BYTES: u64 = 2 * 1024 * 1024;

/// What a bootstrap node bears. It answers many newcomers briefly and keeps few of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootstrapLimits {
    /// Connections established at a time, all peers together. On TCP each holds 32 KiB for reading and, while its peer does
    /// not read, 64 KiB to be encrypted and 64 KiB to be sent, beside yamux's streams: 160 MiB of all at worst, and a
    /// quarter of that when they are quiet.
    pub connections_max: u32,
    /// Connections of one peer: TCP and QUIC at once, and an old one that has not timed out yet.
    pub connections_per_peer_max: u32,
    /// Incoming connections still in their handshake: bounds what unauthenticated strangers cost.
    pub incoming_pending_max: u32,
}

/// The limits of a bootstrap node.
pub const BOOTSTRAP: BootstrapLimits =
    BootstrapLimits { connections_max: 1024, connections_per_peer_max: 4, incoming_pending_max: 128 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_carries_one_slot_of_a_full_group() {
        let shards = (cairn_proto::STRIPES_PER_GROUP_MAX * cairn_proto::SHARD_SIZE) as u64;
        assert!(RELAY.circuit_bytes_max > shards + shards / 200);
        let rate = RELAY.circuit_bytes_max / RELAY.circuit_duration.as_secs();
        assert!(rate <= 76_000, "a slow line must get it through: {rate} B/s");
    }
}
