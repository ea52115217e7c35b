//! One peer of the book: what it said, where it was seen, what was measured; and how others see that.

use cairn_core::{
    crowd::{Member, Proof, Source},
    peer_view::{self, PeerView},
    region::{self, Clues},
};
use cairn_proto::{
    Domain, Region, Timestamp,
    message::{Advert, Roles},
    signed::SignedBytes,
};
use libp2p::Multiaddr;

use super::{PeerBook, outcomes::Outcomes};
use crate::{geoip::GeoIp, network::addresses};

/// A contact older than this says nothing about now.
const CONTACT_MS: u64 = 10 * 60 * 1000;

/// One peer, as far as we know it.
pub(super) struct Known {
    pub(super) domain: Domain,
    pub(super) advert: Advert,
    pub(super) signed: SignedBytes,
    pub(super) first_seen: Timestamp,
    pub(super) last_heard: Timestamp,
    /// When its last advert came over gossip. What we asked for does not count: we decide how often we ask.
    pub(super) gossiped: Option<Timestamp>,
    /// Who told us first.
    pub(super) source: Option<Source>,
    pub(super) lot: u64,
    /// The /24 or /48 that it was last directly connected from, and the one it tells.
    pub(super) subnet_seen: Option<Domain>,
    pub(super) subnet_told: Option<Domain>,
    /// Region and autonomous system of the one that it was seen at, as far as the operator's files tell.
    pub(super) located: Option<Region>,
    pub(super) network: Option<u32>,
    pub(super) met: Option<Timestamp>,
    pub(super) served: Option<Timestamp>,
    pub(super) connected: bool,
    pub(super) contact: Option<(bool, Timestamp)>,
    pub(super) rtt_ms: Option<u32>,
    /// The shortest since it said where it is and was seen there.
    pub(super) least_rtt_ms: Option<u32>,
    pub(super) outcomes: Outcomes,
    /// When a failed dial last counted.
    pub(super) missed: Option<Timestamp>,
}

impl Known {
    pub(super) fn stores(&self) -> bool {
        self.advert.roles.has(Roles::STORAGE)
    }

    pub(super) fn subnet(&self) -> Option<&Domain> {
        self.subnet_seen.as_ref().or(self.subnet_told.as_ref())
    }

    pub(super) fn member(&self) -> Member<'_> {
        Member {
            peer: self.advert.peer,
            lot: self.lot,
            domain: &self.domain,
            subnet: self.subnet(),
            source: self.source,
            proof: Proof { present: self.connected && self.met.is_some(), met: self.met, served: self.served },
            stores: self.advert.roles.has(Roles::STORAGE),
            first_seen: self.first_seen,
            last_heard: self.last_heard,
        }
    }

    /// Looks up where it was seen. What it tells of its addresses counts for nothing here.
    pub(super) fn locate(&mut self, geoip: &GeoIp) {
        self.located = self.subnet_seen.as_ref().and_then(|subnet| geoip.region(subnet));
        self.network = self.subnet_seen.as_ref().and_then(|subnet| geoip.network(subnet));
    }

    pub(super) fn view(&self, book: &PeerBook, now: Timestamp) -> PeerView {
        let subnet = self.subnet().cloned();
        // Where private addresses are allowed, one need not be public to count as known.
        let placed = book.allow_private || subnet.is_some();
        let (region, region_basis) = region::judge(Clues {
            declared: &self.advert.region,
            located: self.located.as_ref(),
            least_rtt_ms: self.least_rtt_ms,
            here: &book.here,
        });
        let (begun, newcomer) = peer_view::standing(self.first_seen, now, placed, self.outcomes.all_and_failed(now));
        let peer = &self.advert.peer;
        let thought = book.standings.as_ref().map(|s| s.score(peer, self.first_seen, newcomer, now));
        let reputation = thought.unwrap_or(begun);
        // Who was heard of since a dial failed is back, perhaps: whoever dialled it while it was away must not be the only one that does
        // without it.
        let holds = |(ok, at): &(bool, Timestamp)| now.ms_since(*at) < CONTACT_MS && (*ok || self.last_heard <= *at);
        let lately = self.contact.filter(holds).map(|(ok, _)| ok);
        PeerView {
            peer: self.advert.peer,
            domain: self.domain.clone(),
            subnet_seen: self.subnet_seen.is_some(),
            subnet,
            region,
            region_basis,
            network: self.network,
            roles: self.advert.roles,
            protocol: self.advert.protocol,
            give: self.advert.give,
            free: self.advert.free,
            first_seen: self.first_seen,
            last_heard: self.last_heard,
            reachable: if self.connected { Some(true) } else { lately },
            rtt_ms: self.rtt_ms,
            loss: self.outcomes.loss(now),
            reputation,
            newcomer,
        }
    }
}

/// The /24 or /48 of the first public address that an advert tells, IPv4 before IPv6.
pub(super) fn told_subnet(advert: &Advert) -> Option<Domain> {
    let parsed = advert.addresses.iter().filter_map(|a| a.parse::<Multiaddr>().ok());
    parsed.filter_map(|a| addresses::subnet(&a)).min_by_key(|subnet| subnet.as_str().starts_with("v6"))
}
