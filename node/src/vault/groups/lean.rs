//! Slots that go to fallback storage: those that nobody of their colour can take.
//!
//! - **SEP-6** How much of a group a provider ever had is told by the group's row, which whoever stands for it never leaves, and
//!   by who was offered something and stands outside. Enforced by [`ever`]; attacked by `tests::fallback`.
//! - Never in the place of an eligible peer: a group is planned with peers first, and a slot is given to a provider only when no
//!   candidate of its colour is left.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    fallback::{room, share_out},
    placement::{self, GroupPlan, GroupRequest, PlacementError},
};
use cairn_proto::{
    PeerKey,
    manifest::{GroupRow, HOLDERS_MAX},
};
use rand_core::CryptoRng;

use super::{Book, Groups, OFFERED_MAX, PlaceError};
use crate::vault::leaning::Stand;

/// The fallback storage of a run.
#[derive(Clone, Debug, Default)]
pub(in crate::vault) struct Use {
    /// Who stands for it.
    pub(in crate::vault) stand: Stand,
    /// Whether groups may lean on it: not while we still wait to hear of peers.
    pub(in crate::vault) now: bool,
}

/// By provider, the slots of a group that it has or had.
fn ever(book: &Book, row: &GroupRow) -> Vec<BTreeSet<usize>> {
    let standing = row.holders.iter().enumerate().flat_map(|(slot, held)| held.iter().map(move |h| (slot, h)));
    let formers = book.formers.get(&row.number).into_iter().flatten();
    book.stand.ever(standing.chain(formers.map(|former| (usize::from(former.slot), &former.peer))))
}

/// Plans a group that the network is too small for; `error` says how much.
pub(super) fn plan<R: CryptoRng + ?Sized>(
    book: &Book,
    request: &GroupRequest<'_>,
    error: PlacementError,
    rng: &mut R,
) -> Result<GroupPlan, PlaceError> {
    if !book.lean || book.stand.count() == 0 {
        return Err(error.into());
    }
    let code = request.policy.code;
    let none = vec![BTreeSet::new(); book.stand.count()];
    let room = room(code, &none);
    let mut plan = match placement::plan_leaning(&book.peers, request, room, rng) {
        Ok(plan) => plan,
        Err(PlacementError::TooFewPeers { .. }) => return Err(PlaceError::Leaning { error, room }),
        Err(other) => return Err(other.into()),
    };
    let empty: Vec<usize> = (0..plan.slots.len()).filter(|slot| plan.slots[*slot].is_empty()).collect();
    let given = share_out(code, &none, &empty).unwrap_or_default();
    for (slot, provider) in empty.into_iter().zip(given) {
        plan.slots[slot].extend(book.stand.holder(provider, slot));
    }
    Ok(plan)
}

/// Who stands for fallback storage that takes this slot of a group, since nobody else does; it stands in the row then.
pub(super) fn take_over(book: &mut Book, group: u32, slot: usize, tried: &BTreeSet<PeerKey>) -> Option<PeerKey> {
    let row = &book.groups.get(&group)?.row;
    let holder = free(book, row, slot).filter(|holder| !tried.contains(holder) && !book.avoid.contains(holder))?;
    let held = row.holders.get(slot)?;
    if held.contains(&holder) {
        return Some(holder);
    }
    if held.len() >= HOLDERS_MAX || !book.remember(group, slot, holder, &[], OFFERED_MAX) {
        return None;
    }
    // First in the slot: who is first there has it.
    book.groups.get_mut(&group)?.row.holders.get_mut(slot)?.insert(0, holder);
    Some(holder)
}

/// Who would take a slot of a group.
fn free(book: &Book, row: &GroupRow, slot: usize) -> Option<PeerKey> {
    let given = share_out(row.code, &ever(book, row), &[slot]).filter(|_| book.lean)?;
    book.stand.holder(*given.first()?, slot)
}

impl Groups {
    /// Slots of a group that lean on a provider which can be reached, and of whose colour there is nobody else.
    pub(super) fn leaning_slots(&self, book: &Book, row: &GroupRow) -> BTreeMap<usize, PeerKey> {
        let mut found = BTreeMap::new();
        if !book.lean {
            return found;
        }
        for (slot, held) in row.holders.iter().enumerate() {
            let Some(holder) = held.first().filter(|first| book.stand.provider_of(first).is_some()) else { continue };
            if self.candidates_in(book, row, slot, &BTreeSet::new()).is_empty() {
                found.insert(slot, *holder);
            }
        }
        found
    }

    /// Who stands for fallback storage that may have a copy of a slot of any group, when nobody else can.
    pub(in crate::vault) fn lean_on(&self, row: &GroupRow, slot: usize) -> Option<PeerKey> {
        let book = self.book();
        let holder = free(&book, row, slot).filter(|holder| !book.avoid.contains(holder))?;
        let held = row.holders.get(slot)?;
        (held.contains(&holder) || held.len() < HOLDERS_MAX).then_some(holder)
    }

    /// The network is known now: who fails from here on may be replaced by fallback storage.
    pub(in crate::vault) fn may_lean(&self) {
        self.book().lean = true;
    }

    /// Whether this holder stands for fallback storage.
    pub(in crate::vault) fn is_fallback(&self, holder: &PeerKey) -> bool {
        self.book().stand.is_one(holder)
    }
}
