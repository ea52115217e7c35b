//! Makes a file of tokens for somebody who is to see that the shards are held and not what is in them.

use std::{path::Path, sync::Arc, time::Instant};

use cairn_core::audit::{
    Token,
    token_file::{Prepared, TOKEN_HOLDERS_MAX, TOKENS_MAX, TokenFile},
};
use cairn_proto::{PeerKey, audit::DIGEST_LEAVES_MAX, wire::Priority};
use futures::StreamExt as _;
use rand_core::Rng as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Target, cannot_write, random, targets, write_new};
use crate::{
    failure::{ExitCode, Failure},
    ops::{AuditArgs, Event, ItemError, Outcome, Progress, VerbResult, decode_path},
    overlay::{Overlay, OverlayError, ShardAddress, TransferError},
    vault::{Vault, failures, now, reader::Reader},
};

/// Tokens of a file when nobody says how many: a MiB is fetched for each.
const TOKENS: u32 = 50;
/// Shards fetched at once.
const FETCHED: usize = 4;

/// Fetches a sample of a snapshot's shards and writes the tokens.
pub(in crate::vault) async fn make_token(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    args: AuditArgs,
    file: &str,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let started = Instant::now();
    let path = decode_path(file);
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(ExitCode::Refused, "EXISTS", format!("{} is there already", path.display()))
            .with_hint("tokens are written to a new file only"));
    }
    let count = args.samples.unwrap_or(TOKENS);
    if count == 0 || count as usize > TOKENS_MAX {
        return Err(Failure::new(ExitCode::Usage, "USAGE", format!("a file has 1 to {TOKENS_MAX} tokens")));
    }
    let reader = Reader::new(vault.keys.clone(), overlay.clone(), Some(vault.catalogue.clone()));
    let mut rng = random()?;
    let chosen = targets::choose(vault, &reader, &overlay, args.snapshot.as_deref(), args.all, events).await?;
    let (sample, shards) = chosen.sample(vault, count.into(), &mut rng)?;
    let planned = sample.len();
    let fetches = sample.into_iter().map(|(target, holders)| {
        let mut nonce = [0u8; 32];
        rng.fill_bytes(&mut nonce);
        let overlay = overlay.clone();
        async move {
            let prepared = prepare(&overlay, &target, &holders, nonce).await;
            (target, prepared)
        }
    });
    let mut prepared = futures::stream::iter(fetches.collect::<Vec<_>>()).buffered(FETCHED);
    let (mut tokens, mut failed) = (Vec::with_capacity(planned), 0u64);
    while let Some((target, token)) = prepared.next().await {
        match token? {
            Some(token) => tokens.push(token),
            None => {
                failed += 1;
                let (group, slot) = (target.access.ticket.id(), target.slot.index());
                let item = format!("group {} slot {slot} stripe {}", group.short(), target.ordinal);
                let message = "cannot be had from anybody now, so there is no token for it".to_owned();
                let _ = events.send(Event::Error(ItemError { item, during: "fetch".to_owned(), message })).await;
            }
        }
        let progress = Progress {
            phase: "fetch".to_owned(),
            percent_done: Some((tokens.len() as u64 + failed) as f64 / planned.max(1) as f64),
            bytes_sent: (tokens.len() * cairn_proto::SHARD_SIZE) as u64,
            elapsed_ms: started.elapsed().as_millis() as u64,
            ..Progress::default()
        };
        let _ = events.try_send(Event::Status(progress));
    }
    if tokens.is_empty() {
        return Err(Failure::new(ExitCode::TooFewPeers, "NO_SHARDS", "no shard could be had, so there are no tokens")
            .retryable());
    }
    let made = tokens.len();
    let bytes = TokenFile { made: now(), shards, tokens }.encode().map_err(|e| failures::bug("TOKENS", &e))?;
    let there = path.clone();
    let written = tokio::task::spawn_blocking(move || {
        let folder = there.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        write_new(folder, &there, &bytes)
    });
    written.await.map_err(|e| failures::bug("TOKENS", &e))?.map_err(|e| cannot_write(&path, &e))?;
    let summary = json!({
        "snapshot": chosen.snapshot,
        "file": path.to_string_lossy(),
        "tokens": made,
        "shards": shards,
        "failed": failed,
        "bytes_fetched": made * cairn_proto::SHARD_SIZE,
        "total_duration": started.elapsed().as_secs_f64(),
    });
    let _ = events.send(Event::Summary { verb: "audit-make-token".to_owned(), summary }).await;
    Ok(Outcome { code: if failed > 0 { ExitCode::BelowTarget } else { ExitCode::Success } })
}

/// A token for a shard that one of its holders gives; `None`: none does.
async fn prepare(
    overlay: &Arc<dyn Overlay>,
    target: &Target,
    holders: &[PeerKey],
    nonce: [u8; 32],
) -> Result<Option<Prepared>, Failure> {
    for holder in holders {
        let address = ShardAddress { group: target.access.clone(), slot: target.slot, ordinal: target.ordinal };
        let bytes = match overlay.get_shard(*holder, address, 0, 0, Priority::Low).await {
            Ok(bytes) => bytes,
            Err(TransferError::ShuttingDown) => return Err(failures::overlay(OverlayError::ShuttingDown)),
            Err(_) => continue,
        };
        let root = target.root;
        let work = move || {
            let right = blake3::hash(&bytes).as_bytes() == root.as_bytes();
            right.then(|| Token::prepare(&bytes, nonce, DIGEST_LEAVES_MAX)).flatten()
        };
        let token = tokio::task::spawn_blocking(work).await.map_err(|e| failures::bug("TOKENS", &e))?;
        if let Some(token) = token {
            return Ok(Some(Prepared {
                ticket: target.access.ticket,
                slot: target.slot,
                ordinal: target.ordinal,
                root,
                holders: holders.iter().take(TOKEN_HOLDERS_MAX).copied().collect(),
                token,
            }));
        }
    }
    Ok(None)
}
