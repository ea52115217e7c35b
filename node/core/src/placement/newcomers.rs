//! How much of a group newcomers may hold.
//!
//! Who sees a group's salt can look for a name of the right colour and appear under it the next minute. So a peer
//! counts for little until it has aged: as long as there are enough aged peers, newcomers get
//! [`PlacementPolicy::newcomer_places`] of a group. A network that is itself young has no aged peers; there everybody
//! counts, and the plan says so ([`Relaxation::Newcomers`]).
//!
//! - **SEP-4** With enough aged peers for a group, newcomers hold no more of it than their quota, at its making and by
//!   replacement. Enforced by [`hold_back`] and [`super::replace`]; attacked by
//!   `tests::crowds::newcomers_hold_their_quota_and_no_more`.

use super::{PlacementPolicy, Relaxation};
use crate::peer_view::PeerView;

/// Takes the newcomers that must not be chosen out of the ranked lists, and gives them back slot by slot. Which slots
/// are open to one is by rank, beginning at a slot of the group's own.
pub(super) fn hold_back<'a>(
    ranked: &mut [Vec<&'a PeerView>],
    replicas: usize,
    mut places: usize,
    begin: u8,
) -> Vec<Vec<&'a PeerView>> {
    let slots = ranked.len();
    let mut held_back = vec![Vec::new(); slots];
    for at in 0..slots {
        let slot = (at + usize::from(begin)) % slots;
        let would_hold = ranked[slot].iter().take(replicas).any(|v| v.newcomer);
        let mut open = places > 0 && would_hold;
        places -= usize::from(open);
        let (chosen_from, rest) =
            ranked[slot].drain(..).partition(|v: &&PeerView| !v.newcomer || std::mem::take(&mut open));
        ranked[slot] = chosen_from;
        held_back[slot] = rest;
    }
    held_back
}

/// What to say when the chosen ones are newcomers beyond the quota.
pub(super) fn relaxation(ranked: &[Vec<&PeerView>], replicas: usize, policy: &PlacementPolicy) -> Option<Relaxation> {
    let places = ranked.iter().flat_map(|list| list.iter().take(replicas)).filter(|v| v.newcomer).count();
    let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let limit = policy.newcomer_places();
    (places > limit).then(|| Relaxation::Newcomers { places: small(places), limit: small(limit) })
}
