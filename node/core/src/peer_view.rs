//! What a node knows of another peer when it decides: declared (advert), pinned (domain) and measured values.

use cairn_proto::{ByteSize, Domain, PeerKey, Region, Timestamp, message::Roles};
use serde::Serialize;

use crate::region::Basis;

/// A ratio in thousandths, 0..=1000: reputation, loss, load. Decisions use integers, never floats.
pub type PerMille = u16;

/// One peer as the decider sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerView {
    /// Who.
    pub peer: PeerKey,
    /// Its domain as pinned at first sight (not as it claims today).
    pub domain: Domain,
    /// The /24 or /48 that it was seen at, or else says it is at; `None` at a private address, or where none is known.
    pub subnet: Option<Domain>,
    /// Whether it was seen there: a direct connection stood to an address of that subnet.
    pub subnet_seen: bool,
    /// Where it is taken to be; unknown when what it says cannot be.
    pub region: Region,
    /// Why it is taken to be there.
    pub region_basis: Basis,
    /// The autonomous system of the address that it was seen at, when the operator gave a file that tells.
    pub network: Option<u32>,
    /// What it does.
    pub roles: Roles,
    /// Protocol version.
    pub protocol: u32,
    /// Space pledged.
    pub give: ByteSize,
    /// Space free for shards, as last advertised.
    pub free: ByteSize,
    /// Since when it is known.
    pub first_seen: Timestamp,
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
    /// Whether it is still within the newcomer's quota: known for less than a day, or at no address that could be
    /// checked.
    pub newcomer: bool,
}

impl PeerView {
    /// Whether it keeps shards for others now. One that did may run as its owner's client alone, and is no holder or steward while it does.
    #[must_use]
    pub fn stores(&self) -> bool {
        self.roles.has(Roles::STORAGE)
    }

    /// Whether it was heard at work within so many milliseconds: a sign of life of whoever stores no more is none of a holder's or steward's.
    #[must_use]
    pub fn at_work_within(&self, ms: u64, now: Timestamp) -> bool {
        self.stores() && now.ms_since(self.last_heard) < ms
    }
}

/// A peer is a newcomer for its first day with us: longer than it takes to look at a salt and come back under a name of
/// the right colour.
pub const NEWCOMER_MS: u64 = 24 * 3600 * 1000;
/// Standing of a newcomer, and the good and all outcomes that an aged peer starts with, so that one failure among few
/// requests does not undo it: 0.8, above the 0.7 that placement asks for.
const NEWCOMER_REPUTATION: PerMille = 500;
const PRIOR: (u64, u64) = (8, 10);

/// Where everybody begins: standing and newcomer's mark of a peer that only dealing with it lately tells of. A node goes by
/// [`crate::reputation`] and takes the mark alone from here.
/// `outcomes`: of requests and pings lately, all and failed.
#[must_use]
pub fn standing(first_seen: Timestamp, now: Timestamp, address_known: bool, outcomes: (u64, u64)) -> (PerMille, bool) {
    if now.ms_since(first_seen) < NEWCOMER_MS || !address_known {
        return (NEWCOMER_REPUTATION, true);
    }
    let (all, failed) = outcomes;
    let good = PRIOR.0 + all.saturating_sub(failed);
    (PerMille::try_from(good * 1000 / (PRIOR.1 + all)).unwrap_or(1000), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Thresholds;

    #[test]
    fn who_stores_no_more_is_not_at_work() {
        let heard = Timestamp(1000);
        let view = PeerView {
            peer: PeerKey::from_bytes([1; 32]),
            domain: Domain::operator("shed").expect("valid"),
            subnet: None,
            subnet_seen: false,
            region: Region::unknown(),
            region_basis: Basis::Unsaid,
            network: None,
            roles: Roles::STORAGE,
            protocol: 1,
            give: ByteSize(0),
            free: ByteSize(0),
            first_seen: heard,
            last_heard: heard,
            reachable: Some(true),
            rtt_ms: None,
            loss: 0,
            reputation: 900,
            newcomer: false,
        };
        assert!(view.at_work_within(10, Timestamp(1009)) && !view.at_work_within(10, Timestamp(1010)));
        for roles in [Roles::NONE, Roles::RELAY] {
            assert!(!PeerView { roles, ..view.clone() }.at_work_within(10, heard));
        }
    }

    #[test]
    fn a_peer_that_aged_is_trusted_until_it_fails() {
        let limits = Thresholds::default();
        let day = Timestamp(NEWCOMER_MS);
        assert_eq!(standing(Timestamp(0), Timestamp(NEWCOMER_MS - 1), true, (100, 0)), (500, true));
        assert_eq!(standing(Timestamp(0), day, false, (100, 0)), (500, true), "at no address that can be checked");
        let (fresh, newcomer) = standing(Timestamp(0), day, true, (0, 0));
        assert!(!newcomer && fresh > limits.reputation_above, "a day must not cost a peer its place: {fresh}");
        assert!(standing(Timestamp(0), day, true, (1000, 10)).0 > limits.reputation_above);
        assert!(standing(Timestamp(0), day, true, (10, 5)).0 <= limits.reputation_above);
    }
}
