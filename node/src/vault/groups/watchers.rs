//! Who may watch a group.
//!
//! - **SEP-1** Peers of the colour that is no slot's, of other domains than the owner's: [`placement::stewards`] sees to both.

use std::collections::BTreeSet;

use cairn_core::{
    colour::colour,
    placement::{self, GroupRequest},
};
use cairn_proto::{Domain, PeerKey, Slot, mandate::STEWARDS_MAX, manifest::GroupRow, message::Roles};

use super::{Groups, access_of};

/// Domains of a slot's colour with which somebody is always there to audit: its holder, another one, and one more for when that is away.
const DOMAINS_ENOUGH: usize = 3;

impl Groups {
    /// Slots of a group of this run that stewards may have nobody to audit for: fewer than [`DOMAINS_ENOUGH`] domains that store have
    /// their colour.
    pub(in crate::vault) fn lonely(&self, group: u32) -> Vec<Slot> {
        let book = self.book();
        let Some(open) = book.groups.get(&group) else { return Vec::new() };
        let ticket = &open.access.ticket;
        let mut domains: Vec<BTreeSet<&Domain>> = vec![BTreeSet::new(); ticket.code().slots() + 1];
        let stores = book.peers.iter().filter(|view| view.roles.has(Roles::STORAGE));
        for view in stores.filter(|view| view.domain != self.owner.domain) {
            if let Some(of) =
                domains.get_mut(colour(ticket, &view.domain).index()).filter(|of| of.len() < DOMAINS_ENOUGH)
            {
                of.insert(&view.domain);
            }
        }
        let few = |slot: &Slot| domains.get(slot.index()).is_some_and(|of| of.len() < DOMAINS_ENOUGH);
        ticket.code().each_slot().filter(few).collect()
    }

    /// Stewards for a group, at most [`STEWARDS_MAX`]: those of `kept`, then the best of the others but `not`, in domains and
    /// subnets of their own.
    pub(in crate::vault) fn stewards(&self, row: &GroupRow, kept: &[PeerKey], not: &[PeerKey]) -> Vec<PeerKey> {
        let book = self.book();
        let Ok(access) = access_of(&self.keys, row) else { return Vec::new() };
        let request = self.request((&book.policy, &book.avoid), *access.ticket.authority(), row.number);
        let request = GroupRequest { owner_key: None, ..request };
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
