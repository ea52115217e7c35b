//! Whom a rebuild asks: as many holders of other slots as it takes, and all others that have it too, for when one lies.

use std::collections::BTreeSet;

use cairn_proto::{Action, Ordinals, PeerKey, Slot, mandate::is_real};

use super::{super::watched::Watched, BATCH, Scene};

/// Stripes with equally many data shards, and at least as many holders of other slots as these have, each of which has all of them. When there
/// are such holders for any stripe, this finds some. Those beyond are named for when one lies: rebuilds without it, and nothing else.
pub(in super::super) fn rebuild(
    group: &Watched,
    scene: &Scene<'_>,
    slot: Slot,
    to: PeerKey,
    ordinals: &Ordinals,
    avoid: &BTreeSet<PeerKey>,
) -> Option<Action> {
    let mut others: Vec<(Slot, PeerKey, Ordinals)> = group
        .code()
        .each_slot()
        .filter(|other| *other != slot)
        .flat_map(|other| {
            let here = scene.here(group.holders(other).into_iter().filter(|peer| *peer != to && !avoid.contains(peer)));
            here.into_iter().map(move |peer| (other, peer))
        })
        .map(|(other, peer)| (other, peer, group.has(other, &peer).and(ordinals)))
        .collect();
    others.sort_by_key(|(_, peer, _)| scene.doubts(peer));
    ordinals.iter().find_map(|first| {
        let used = group.used(first);
        let mut common = group.with_used(ordinals, used);
        let mut helpers: Vec<(Slot, PeerKey)> = Vec::new();
        while helpers.len() < usize::from(used) {
            let free = others.iter().filter(|(other, _, has)| {
                let apart = helpers.iter().all(|(slot, _)| slot != other);
                apart && has.contains(first) && is_real(group.code(), used, *other)
            });
            // Whoever keeps most stripes in common; of equals the first, which is the likeliest to stay.
            let sure = |peer: &PeerKey| std::cmp::Reverse(scene.doubts(peer));
            let best = free.rev().max_by_key(|(_, peer, has)| (sure(peer), has.and(&common).len()))?;
            common = common.and(&best.2);
            helpers.push((best.0, best.1));
        }
        let ordinals = common.first(BATCH);
        for (other, peer, has) in &others {
            let apart = helpers.iter().all(|(slot, helper)| slot != other && helper != peer);
            if apart && ordinals.without(has).is_empty() && is_real(group.code(), used, *other) {
                helpers.push((*other, *peer));
            }
        }
        // A stripe without data shards is none.
        (used > 0).then_some(Action::Rebuild { slot, to, ordinals, helpers })
    })
}

/// Whose lines a repair uses, when nobody lies.
pub(super) fn burdened(group: &Watched, action: &Action) -> Vec<PeerKey> {
    match action {
        Action::Copy { from, to, .. } => vec![*from, *to],
        Action::Rebuild { to, helpers, .. } => {
            let chain = helpers.iter().take(group.chain_of(action)).map(|(_, peer)| *peer);
            chain.chain([*to]).collect()
        }
        _ => Vec::new(),
    }
}
