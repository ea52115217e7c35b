//! Who may watch a group: peers of the colour that holds nothing, best first.
//!
//! - **SEP-1** A steward never holds a shard of its group: it is of colour n, which is no slot's. Enforced by [`stewards`] here and
//!   by [`crate::colour::may_hold`] at every holder; attacked by `steward::tests` and `cairn-sim`'s `months` scenario.

use std::collections::BTreeSet;

use cairn_proto::{GroupTicket, PeerKey};

use super::{GroupRequest, RankKey, Strategy, independent, rank_all, sift};
use crate::peer_view::PeerView;

/// Candidates for a group's stewards in different domains and subnets, best first: public rank in colour n, newcomers after
/// those who have aged. The first [`cairn_proto::mandate::STEWARDS_MAX`] are the choice.
#[must_use]
pub fn stewards(peers: &[PeerView], request: &GroupRequest<'_>, ticket: &GroupTicket) -> Vec<PeerKey> {
    let (fit, _) = sift(peers, request);
    let (fit, _) = independent::thin(&fit, &request.authority);
    let ranking = RankKey::new(Strategy::Deterministic, ticket, None);
    let mut classes = rank_all(&fit, request, ticket, &ranking);
    let mut ranked = classes.remove(&ticket.code().slots()).unwrap_or_default();
    ranked.sort_by_key(|view| view.newcomer);
    let mut seen = BTreeSet::new();
    ranked.into_iter().filter(|view| seen.insert(&view.domain)).map(|view| view.peer).collect()
}
