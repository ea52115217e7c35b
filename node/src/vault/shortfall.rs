//! Stripes that were acknowledged with slots lacking get them filled at the next run.
//!
//! - **SEP-1** Candidates are of the slot's colour in the stripe's own group; the stripe keeps its id and its group.
//! - **SEP-2** A slot is whole when as many holders *of different domains* as there are replicas say that they have it.
//! - **DUR-3** A rebuilt shard is byte-identical: its root is checked by `stripe::rebuild` before it is sent.

use std::{collections::BTreeSet, sync::Arc};

use cairn_core::stripe::rebuild;
use cairn_proto::{PeerKey, Slot, index::StripeNo, wire::Priority};
use tokio_util::sync::CancellationToken;

use super::{reader::Reader, session::Session};
use crate::overlay::{GroupAccess, ShardAddress, ShardPut};

/// Stripes completed in one run: more would keep a backup from beginning. 64 stripes are 320 MiB to fetch.
const PER_RUN: usize = 64;

/// Completes what it can; how many stripes are whole now. Failure to do so is not the backup's failure.
pub(super) async fn complete(session: &Session, cancel: &CancellationToken) -> usize {
    let Ok(mut short) = session.catalogue.shortfalls() else { return 0 };
    if short.is_empty() {
        return 0;
    }
    // Another share each time: the first ones may be those that nobody can complete.
    let mut random = [0u8; 8];
    if short.len() > PER_RUN && getrandom::fill(&mut random).is_ok() {
        let at = u64::from_le_bytes(random) % short.len() as u64;
        short.rotate_left(at as usize);
    }
    let reader = Reader::new(session.keys.clone(), session.overlay.clone(), Some(session.catalogue.clone()));
    let mut done = 0;
    for (no, slots) in short.into_iter().take(PER_RUN) {
        let left = tokio::select! {
            () = cancel.cancelled() => return done,
            left = complete_one(session, &reader, no, &slots) => left,
        };
        let left = left.unwrap_or(slots);
        done += usize::from(left.is_empty());
        if let Err(e) = session.catalogue.set_shortfall(no, &left) {
            tracing::warn!(error = %e, "a completed stripe could not be noted");
        }
    }
    done
}

/// The slots that are still lacking; `None` when the stripe could not be read.
async fn complete_one(session: &Session, reader: &Reader, no: StripeNo, slots: &[u8]) -> Option<Vec<u8>> {
    let source = reader.source(no).ok()?;
    let (number, access, ordinal) = (source.row.group, source.group.1.clone(), source.row.ordinal);
    // The reader's row is as old as the reader: what this run added to the group is here.
    let mut group = match session.groups.current(number) {
        Some(group) => group,
        None => session.catalogue.group(number).ok()??,
    };
    let mut lacking = Vec::new();
    for byte in slots {
        let slot = Slot::new(*byte).ok()?;
        let holding = who_has(session, group.holders.get(slot.index())?, &access, slot, ordinal).await;
        if holding.len() < session.replicas {
            lacking.push((slot, holding));
        }
    }
    if lacking.is_empty() {
        return Some(Vec::new());
    }
    let shards = reader.fetch_some(&source, source.row.used.into(), Priority::Low).await;
    let (codec, row) = (source.codec.clone(), source.row.clone());
    let shards = tokio::task::spawn_blocking(move || rebuild(&codec, &row, shards)).await.ok()?.ok()?;
    let mut left = Vec::new();
    for (slot, mut holding) in lacking {
        let bytes = shards.get(slot.index())?.clone()?;
        let root = *source.row.root(slot)?;
        for peer in session.groups.candidates(&group, slot.index(), &holding) {
            if holding.len() >= session.replicas {
                break;
            }
            let holders = group.holders.get(slot.index())?;
            let known = holders.contains(&peer);
            if !known && holders.len() >= cairn_proto::manifest::HOLDERS_MAX {
                continue;
            }
            let address = ShardAddress { group: access.clone(), slot, ordinal };
            let put = ShardPut { address, root, lease_until: session.lease_until, bytes: bytes.clone() };
            match session.overlay.put_shard(peer, put, Priority::Low).await {
                Ok(_) => {
                    holding.insert(peer);
                    if !known {
                        group.holders.get_mut(slot.index())?.push(peer);
                        session.groups.replace_row(&group);
                        session.catalogue.set_group(&group).ok()?;
                    }
                }
                Err(e) => tracing::debug!(peer = %peer.short(), error = %e, "a holder did not take a missing shard"),
            }
        }
        if holding.len() < session.replicas {
            left.push(slot.as_u8());
        }
    }
    Some(left)
}

/// The holders that say that they have the shard. One that does not answer counts as without: a put to it is repeated,
/// which costs nothing when it has the shard after all.
async fn who_has(
    session: &Session,
    holders: &[PeerKey],
    access: &Arc<GroupAccess>,
    slot: Slot,
    ordinal: u8,
) -> BTreeSet<PeerKey> {
    let asked = holders.iter().map(|peer| async move {
        let bits = session.overlay.has_shards(*peer, access.clone(), slot).await.ok()?;
        (bits[usize::from(ordinal / 8)] >> (ordinal % 8) & 1 == 1).then_some(*peer)
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}
