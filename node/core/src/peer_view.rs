//! What a node knows of another peer when it decides: declared (advert), pinned (domain) and measured values.

use cairn_proto::{ByteSize, Domain, PeerKey, Region, Timestamp, message::Roles};
use serde::Serialize;

/// A ratio in thousandths, 0..=1000: reputation, loss, load. Decisions use integers, never floats.
pub type PerMille = u16;

/// One peer as the decider sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerView {
    /// Who.
    pub peer: PeerKey,
    /// Its domain as pinned at first sight (not as it claims today).
    pub domain: Domain,
    /// Declared region.
    pub region: Region,
    /// What it does.
    pub roles: Roles,
    /// Protocol version.
    pub protocol: u32,
    /// Space pledged.
    pub give: ByteSize,
    /// Space free for shards, as last advertised.
    pub free: ByteSize,
    /// When it was last heard of (advert or traffic).
    pub last_heard: Timestamp,
    /// Whether a connection stands or a dial succeeded lately; `None` when never tried.
    pub reachable: Option<bool>,
    /// Round-trip time in milliseconds, when measured.
    pub rtt_ms: Option<u32>,
    /// Failed requests and pings of the last 24 h, in thousandths.
    pub loss: PerMille,
    /// Standing, in thousandths; 500 for a newcomer.
    pub reputation: PerMille,
    /// Whether it is still within the newcomer's quota (too little history to judge).
    pub newcomer: bool,
}
