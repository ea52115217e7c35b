//! Who counts as somebody else: one voice for each domain and each subnet.
//!
//! A domain is a name that a peer gave itself, pinned at first sight. It may join peers that stand far apart; it never
//! parts what one /24 or /48 joins, because names are free and addresses are not. So in each group one domain speaks
//! for a subnet, drawn with the group's authority, which nobody can foresee; the subnet's other domains sit this group
//! out. Peers at private addresses have no subnet: there the name, or the peer's own id, is all there is.
//!
//! - **SEP-3** No two slots of a group are given to one /24 or /48, whatever names its peers go by, and no newcomer
//!   takes the word from a peer that has aged. Enforced by [`thin`] and by [`super::replace`]; attacked by
//!   `tests::crowds::one_subnet_gets_one_slot_whatever_it_calls_itself`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{Domain, PeerKey};

use crate::peer_view::PeerView;

/// Why a fit peer is not in the race for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Aside {
    /// Its domain has peers that are known for longer, or stand where the domain's name says.
    OfItsDomain,
    /// Another domain speaks for its subnet.
    OfItsSubnet {
        /// The subnet.
        subnet: Domain,
        /// Who speaks.
        speaker: Domain,
    },
}

/// The fit peers that may race in a group of this authority, and those that may not. The order is kept.
pub(super) fn thin<'a>(fit: &[&'a PeerView], authority: &[u8; 32]) -> (Vec<&'a PeerView>, Vec<(&'a PeerView, Aside)>) {
    let (fit, mut aside) = best_of_domains(fit);
    let speakers = speakers(&fit, authority);
    let mut racing = Vec::with_capacity(fit.len());
    for view in fit {
        match view.subnet.as_ref().and_then(|subnet| Some((subnet, *speakers.get(subnet)?))) {
            Some((subnet, speaker)) if *speaker != view.domain => {
                aside.push((view, Aside::OfItsSubnet { subnet: subnet.clone(), speaker: speaker.clone() }));
            }
            _ => racing.push(view),
        }
    }
    (racing, aside)
}

/// How many independent peers these are: different domains, one for each subnet.
#[must_use]
pub fn count(fit: &[&PeerView]) -> usize {
    thin(fit, &[0; 32]).0.iter().map(|v| &v.domain).collect::<BTreeSet<_>>().len()
}

/// Of each domain the peers with the best claim to it: a name must not be taken over by those who come later, or by
/// those who use another subnet's.
pub(super) fn best_of_domains<'a>(fit: &[&'a PeerView]) -> (Vec<&'a PeerView>, Vec<(&'a PeerView, Aside)>) {
    let mut best: BTreeMap<&Domain, (bool, bool)> = BTreeMap::new();
    for view in fit {
        let claim = claim(view);
        let entry = best.entry(&view.domain).or_insert(claim);
        *entry = claim.min(*entry);
    }
    let (racing, aside): (Vec<_>, Vec<_>) = fit.iter().copied().partition(|v| best.get(&v.domain) == Some(&claim(v)));
    (racing, aside.into_iter().map(|v| (v, Aside::OfItsDomain)).collect())
}

/// Smaller is better.
fn claim(view: &PeerView) -> (bool, bool) {
    (view.newcomer, borrowed(view))
}

/// Whether the domain is the name of a subnet that the peer does not stand in. Of the same family only: a peer may
/// have one address of each.
fn borrowed(view: &PeerView) -> bool {
    let named = view.domain.as_str().get(..3);
    view.subnet.as_ref().is_some_and(|s| named == s.as_str().get(..3) && *s != view.domain)
}

/// Who speaks for each subnet that more than one domain claims: an aged peer's domain before a newcomer's, one that
/// was seen there before one that says so, then by hash.
fn speakers<'a>(fit: &[&'a PeerView], authority: &[u8; 32]) -> BTreeMap<&'a Domain, &'a Domain> {
    let key = blake3::derive_key("cairn 2026-11 speaker of a subnet v1", authority);
    let mut first = BTreeMap::new();
    for view in fit {
        let Some(subnet) = &view.subnet else { continue };
        let hash = *blake3::keyed_hash(&key, view.domain.as_str().as_bytes()).as_bytes();
        let place = (view.newcomer, !view.subnet_seen, hash, &view.domain);
        let best = first.entry(subnet).or_insert(place);
        if place < *best {
            *best = place;
        }
    }
    first.into_iter().map(|(subnet, (.., domain))| (subnet, domain)).collect()
}

/// Whether a peer is somebody else than all of `others`; `views` has those that are known.
pub(super) fn is_another(view: &PeerView, others: &[PeerKey], views: &BTreeMap<PeerKey, &PeerView>) -> bool {
    others.iter().all(|other| {
        *other != view.peer
            && views
                .get(other)
                .is_none_or(|o| o.domain != view.domain && (view.subnet.is_none() || o.subnet != view.subnet))
    })
}
