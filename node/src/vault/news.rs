//! New holders that stewards told of: asked what they have, and taken into the group's row.
//!
//! # Invariants
//!
//! - **SEP-3** Whoever is silent just then, leaves a row for them, and who of them finds no room in it, is remembered, durably, before.
//! - **DUR-3** Who makes room in a full row stands in [`refill`](super::refill): nobody who may have the only copy of something.

use std::{collections::BTreeMap, sync::Arc};

use cairn_proto::{
    PeerKey, Slot,
    manifest::{GroupRow, HOLDERS_MAX},
};
use futures::StreamExt as _;

use super::{
    catalogue::{CatalogueError, Meta},
    learn::Learned,
    refill::{
        asked::{Asked, Ordinals},
        needed,
    },
    session::Session,
};
use crate::overlay::{GroupAccess, Overlay};

/// New holders asked at once.
const ASKED: usize = 16;

/// What a holder of a slot answered; `None` when it did not.
pub(super) type Answer = (Slot, PeerKey, Option<Ordinals>);

/// Asks peers what they have of a group.
pub(super) async fn ask(
    overlay: &Arc<dyn Overlay>,
    access: &Arc<GroupAccess>,
    peers: Vec<(Slot, PeerKey)>,
) -> Vec<Answer> {
    let question =
        |(slot, peer)| async move { (slot, peer, overlay.has_shards(peer, access.clone(), slot).await.ok()) };
    futures::stream::iter(peers.into_iter().map(question)).buffered(ASKED).collect().await
}

/// Asks the new holders of a group, and takes those that have something into its row; what they answered.
pub(super) async fn settle(
    session: &Session,
    row: &mut GroupRow,
    access: &Arc<GroupAccess>,
    learned: &Learned,
) -> Result<Vec<Answer>, CatalogueError> {
    let answers = ask(&session.overlay, access, learned.news(row)).await;
    let mut full: BTreeMap<Slot, Asked> = BTreeMap::new();
    let mut changed = false;
    for (slot, peer, has) in &answers {
        if has.is_none() && session.groups.remember(row, slot.index(), *peer) {
            // It signed that it has something, and may only be asleep: nobody else would know it by the next run.
            session.record_formers()?;
        }
        let Some(has) = has.filter(|has| *has != [0; 32]) else { continue };
        let Some(holders) = row.holders.get(slot.index()).cloned() else { continue };
        let leaver = if holders.len() < HOLDERS_MAX {
            None
        } else {
            if !full.contains_key(slot) {
                full.insert(*slot, said(session, access, *slot, &holders).await);
            }
            let asked = &full[slot];
            let all = needed(session)?.get(&row.number).and_then(|slots| slots.get(slot.index()).copied());
            let covered = || asked.covered(&holders, &has, &all?);
            let Some(at) = asked.useless(&holders).or_else(covered) else {
                // It waits outside, where a refill finds it.
                if session.groups.remember(row, slot.index(), *peer) {
                    session.record_formers()?;
                }
                continue;
            };
            Some(at)
        };
        if let Some(at) = leaver {
            if !session.groups.remember(row, slot.index(), holders[at]) {
                continue;
            }
            session.record_formers()?;
        }
        if let Some(asked) = full.get_mut(slot) {
            asked.has.insert(*peer, has);
        }
        let Some(holders) = row.holders.get_mut(slot.index()) else { continue };
        if let Some(at) = leaver {
            holders.remove(at);
        }
        holders.push(*peer);
        changed = true;
    }
    if changed {
        session.groups.replace_row(row);
        // Until a head says so, nobody else finds the new holders.
        session.catalogue.set_meta(Meta::Moved, Some(vec![1]))?;
        session.catalogue.set_group(row)?;
    }
    Ok(answers)
}

/// What the holders of a full row's slot say.
async fn said(session: &Session, access: &Arc<GroupAccess>, slot: Slot, holders: &[PeerKey]) -> Asked {
    let mut asked = Asked::default();
    for (_, peer, has) in ask(&session.overlay, access, holders.iter().map(|peer| (slot, *peer)).collect()).await {
        // Whoever stands for fallback storage makes room for nobody (SEP-6).
        if session.groups.is_fallback(&peer) {
            continue;
        }
        match has {
            Some(bits) => {
                if bits == [0; 32] {
                    asked.empty.insert(peer);
                }
                asked.has.insert(peer, bits);
            }
            None => {
                asked.silent.insert(peer);
            }
        }
    }
    asked
}
