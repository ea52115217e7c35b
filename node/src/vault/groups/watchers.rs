//! Who may watch a group.
//!
//! - **SEP-1** Peers of the colour that is no slot's, of other domains than the owner's: [`placement::stewards`] sees to both.

use std::collections::BTreeSet;

use cairn_core::placement::{self, GroupRequest};
use cairn_proto::{Domain, PeerKey, mandate::STEWARDS_MAX, manifest::GroupRow};

use super::{Groups, access_of};

impl Groups {
    /// Stewards for a group, at most [`STEWARDS_MAX`]: those of `kept`, then the best of the others but `not`, in domains and
    /// subnets of their own.
    pub(in crate::vault) fn stewards(&self, row: &GroupRow, kept: &[PeerKey], not: &[PeerKey]) -> Vec<PeerKey> {
        let book = self.book();
        let Ok(access) = access_of(&self.keys, row) else { return Vec::new() };
        let request = GroupRequest {
            owner: self.owner.clone(),
            authority: *access.ticket.authority(),
            policy: &book.policy,
            avoid: &book.avoid,
            now: self.now,
            owner_key: None,
        };
        let view = |peer: &PeerKey| book.peers.iter().find(|view| view.peer == *peer);
        let places = |peer: &PeerKey| view(peer).map(|view| [Some(view.domain.clone()), view.subnet.clone()]);
        let mut taken: BTreeSet<Domain> = kept.iter().filter_map(places).flatten().flatten().collect();
        let foreign = |peer: &&PeerKey| {
            **peer != self.owner.peer && view(peer).is_none_or(|view| view.domain != self.owner.domain)
        };
        let mut chosen: Vec<PeerKey> = kept.iter().filter(foreign).copied().take(STEWARDS_MAX).collect();
        for peer in placement::stewards(&book.peers, &request, &access.ticket) {
            let places: Vec<Domain> = places(&peer).into_iter().flatten().flatten().collect();
            let apart = !chosen.contains(&peer) && places.iter().all(|place| !taken.contains(place));
            if chosen.len() < STEWARDS_MAX && apart && !not.contains(&peer) {
                taken.extend(places);
                chosen.push(peer);
            }
        }
        chosen
    }
}
