//! Stripes that were acknowledged with slots lacking get them filled at the next run.
//!
//! - **SEP-1** Candidates are of the slot's colour in the stripe's own group; the stripe keeps its id and its group.
//! - **DUR-3** A rebuilt shard is byte-identical: its root is checked by `stripe::rebuild` before it is sent.

use cairn_core::stripe::rebuild;
use cairn_proto::{Slot, index::StripeNo, wire::Priority};
use tokio_util::sync::CancellationToken;

use super::{reader::Reader, session::Session};
use crate::overlay::{ShardAddress, ShardPut};

/// Stripes completed in one run: more would keep a backup from beginning. 64 stripes are 320 MiB to fetch.
const PER_RUN: usize = 64;

/// Completes what it can; how many stripes are whole now. Failure to do so is not the backup's failure.
pub(super) async fn complete(session: &Session, cancel: &CancellationToken) -> usize {
    let Ok(short) = session.catalogue.shortfalls() else { return 0 };
    if short.is_empty() {
        return 0;
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
    let shards = reader.fetch_some(&source, source.row.used.into(), Priority::Low).await;
    let (codec, row) = (source.codec.clone(), source.row.clone());
    let shards = tokio::task::spawn_blocking(move || rebuild(&codec, &row, shards)).await.ok()?.ok()?;
    let mut left = Vec::new();
    for byte in slots {
        let slot = Slot::new(*byte).ok()?;
        let bytes = shards.get(slot.index())?.clone()?;
        let root = *source.row.root(slot)?;
        let group = session.groups.current(source.row.group).unwrap_or_else(|| source.group.0.clone());
        let mut kept = false;
        for peer in session.groups.candidates(&group, slot.index()) {
            let known = group.holders[slot.index()].contains(&peer);
            if !known && group.holders[slot.index()].len() >= cairn_proto::manifest::HOLDERS_MAX {
                continue;
            }
            let address = ShardAddress { group: source.group.1.clone(), slot, ordinal: source.row.ordinal };
            let put = ShardPut { address, root, lease_until: session.lease_until, bytes: bytes.clone() };
            match session.overlay.put_shard(peer, put, Priority::Low).await {
                Ok(_) => {
                    if !known {
                        let mut row = group.clone();
                        row.holders[slot.index()].push(peer);
                        session.groups.replace_row(&row);
                        session.catalogue.set_group(&row).ok()?;
                    }
                    kept = true;
                    break;
                }
                Err(e) => tracing::debug!(peer = %peer.short(), error = %e, "a holder did not take a missing shard"),
            }
        }
        if !kept {
            left.push(*byte);
        }
    }
    Some(left)
}
