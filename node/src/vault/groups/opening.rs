//! How a group comes into a run: left over from an earlier one, as far as its holders live, or planned anew.

use std::{collections::BTreeSet, sync::Arc};

use cairn_core::placement::{self, GroupRequest, PlacementError, PlacementPolicy};
use cairn_proto::{
    PeerKey, STRIPES_PER_GROUP_MAX,
    manifest::{GroupRow, HOLDERS_MAX},
};
use rand_core::SeedableRng as _;

use super::{Book, Groups, Open, PlaceError, access_of, lean, vetting};
use crate::{overlay::GroupAccess, vault::placing::relaxed};

impl Groups {
    /// Takes over a group of an earlier run. It is sealed unless enough of its holders are here.
    pub(super) fn adopt(&self, mut row: GroupRow) {
        let mut book = self.book();
        let replicas = usize::from(book.policy.replicas);
        let alive: BTreeSet<PeerKey> = book
            .peers
            .iter()
            .filter(|p| placement::eligible(p, &self.owner, &book.policy, self.now).is_ok())
            .map(|p| p.peer)
            .collect();
        let leaning = self.leaning_slots(&book, &row);
        let whole = row.holders.iter().enumerate().all(|(at, slot)| {
            slot.iter().filter(|p| alive.contains(p)).count() >= replicas || leaning.contains_key(&at)
        });
        if row.sealed || row.code != book.policy.code || !whole {
            row.sealed = true;
        }
        let Ok(access) = access_of(&self.keys, &row) else { return };
        let here = |at: usize, slot: &Vec<PeerKey>| match leaning.get(&at) {
            Some(holder) => vec![*holder],
            None => slot.iter().filter(|p| alive.contains(p)).copied().collect(),
        };
        let ranked = row.holders.iter().enumerate().map(|(at, slot)| here(at, slot)).collect();
        let kept = row.holders.iter().enumerate().flat_map(|(at, slot)| slot.iter().map(move |p| (at, *p))).collect();
        book.groups.insert(row.number, Open { row, access: Arc::new(access), ranked, in_flight: 0, kept });
    }

    /// Makes sure that there is a group to begin with, so that a network that is too small is noticed before anything is
    /// read.
    pub(in crate::vault) fn ready(&self) -> Result<(), PlaceError> {
        let mut book = self.book();
        let open =
            book.groups.values().any(|g| !g.row.sealed && usize::from(g.row.stripes_used) < STRIPES_PER_GROUP_MAX);
        if open { Ok(()) } else { self.open_group(&mut book).map(|_| ()) }
    }

    /// Plans a group, leaning on fallback storage where the network has nobody; its number.
    pub(super) fn open_group(&self, book: &mut Book) -> Result<u32, PlaceError> {
        let number = book.next_number;
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|e| PlaceError::Random(e.to_string()))?;
        let mut rng = rand_chacha::ChaCha20Rng::from_seed(seed);
        let authority = self.keys.group_authority(number);
        let mut request = self.request((&book.policy, &book.avoid), authority.verifying_key().to_bytes(), number);
        // Without newcomers that have their quota of the day, if a group can be had.
        let without = book.vetting.held().map(|held| held | &book.avoid);
        let vetted = without.as_ref().and_then(|without| {
            request.avoid = without;
            placement::plan_group(&book.peers, &request, &mut rng).ok()
        });
        request.avoid = &book.avoid;
        if without.is_some() && vetted.is_none() {
            book.relaxations.insert(vetting::young());
        }
        let planned = vetted.map_or_else(|| placement::plan_group(&book.peers, &request, &mut rng), Ok);
        let plan = match planned {
            Err(error @ PlacementError::TooFewPeers { .. }) => lean::plan(book, &request, error, &mut rng)?,
            planned => planned?,
        };
        for relaxation in &plan.relaxations {
            book.relaxations.insert(relaxed(relaxation));
        }
        let row = GroupRow {
            number,
            salt: *plan.ticket.salt(),
            code: plan.ticket.code(),
            colours: plan.ticket.colours(),
            holders: plan
                .slots
                .iter()
                .map(|s| s.iter().take(plan.replicas.min(HOLDERS_MAX)).copied().collect())
                .collect(),
            stripes_used: 0,
            sealed: false,
        };
        book.policy.strategy_before = Some(plan.strategy);
        book.first.chose(&row);
        book.next_number = number.checked_add(1).ok_or(PlaceError::NoNumber)?;
        let access = Arc::new(GroupAccess { ticket: plan.ticket, authority });
        let kept = BTreeSet::new();
        book.groups.insert(number, Open { row, access, ranked: plan.slots, in_flight: 0, kept });
        book.opened.push(number);
        Ok(number)
    }

    /// Groups opened since the last call. They must be on record before anything is offered to their holders: a number that
    /// a killed run used and nobody remembers would be given out again, with the same salt and with places that are taken.
    pub(in crate::vault) fn take_opened(&self) -> Vec<GroupRow> {
        let mut book = self.book();
        let opened = std::mem::take(&mut book.opened);
        opened.iter().filter_map(|number| Some(book.groups.get(number)?.row.clone())).collect()
    }

    /// What is asked of placement for a group, with the policy and without those who failed.
    pub(super) fn request<'a>(
        &self,
        (policy, avoid): (&'a PlacementPolicy, &'a BTreeSet<PeerKey>),
        authority: [u8; 32],
        number: u32,
    ) -> GroupRequest<'a> {
        GroupRequest {
            owner: self.owner.clone(),
            authority,
            policy,
            avoid,
            now: self.now,
            owner_key: Some(*self.keys.placement_key(number)),
        }
    }
}
