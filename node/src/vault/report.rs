//! Figures and states: stats, status, peers, why peers were chosen.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use cairn_core::placement::{
    GroupRequest, Owner, PlacementError, PlacementPolicy, Verdict, count_independent, eligible, explain::explain,
    plan_group, set_aside,
};
use cairn_proto::{PeerKey, SHARD_SIZE};
use ed25519_dalek::SigningKey;
use rand_core::SeedableRng as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Vault, browse, failures, fallback,
    leaning::{Leaning, Storage},
    promise::Promise,
    session::StoreError,
};
use crate::{
    failure::{ExitCode, Failure},
    fallback::Fallbacks,
    ops::{Event, Outcome, SecretText, VerbResult},
    overlay::Overlay,
};

async fn row(events: &mpsc::Sender<Event>, kind: &str, row: serde_json::Value) {
    let _ = events.send(Event::Row { kind: kind.to_owned(), row }).await;
}

async fn done(events: &mpsc::Sender<Event>, verb: &str, summary: serde_json::Value) -> VerbResult {
    let _ = events.send(Event::Summary { verb: verb.to_owned(), summary }).await;
    Ok(Outcome { code: ExitCode::Success })
}

/// Sizes and counts, from the catalogue alone.
pub(super) async fn stats(vault: &Vault, events: &mpsc::Sender<Event>) -> VerbResult {
    let catalogue = &vault.catalogue;
    let (mut runs, mut chunks, mut raw, mut stored) = (0u64, 0u64, 0u64, 0u64);
    for run in catalogue.runs() {
        let run = run.map_err(failures::catalogue)?;
        runs += 1;
        chunks += run.chunks.len() as u64;
        raw += u64::from(run.place.raw_len);
        stored += u64::from(run.place.stored_len);
    }
    let (mut stripes, mut shards) = (0u64, 0u64);
    for stripe in catalogue.stripes() {
        let stripe = stripe.map_err(failures::catalogue)?;
        stripes += 1;
        shards += stripe.present().count() as u64;
    }
    let groups = catalogue.groups().count();
    let snapshots = browse::all(vault)?;
    let total: u64 = snapshots.iter().map(|(_, r)| r.total_bytes).sum();
    let files: u64 = snapshots.iter().map(|(_, r)| r.total_files).sum();
    let summary = json!({
        "snapshots_count": snapshots.len(),
        "total_size": total,
        "total_file_count": files,
        "total_uncompressed_size": raw,
        "total_blob_count": chunks,
        "compression_ratio": if stored > 0 { raw as f64 / stored as f64 } else { 1.0 },
        "stored_size": stored,
        "runs": runs,
        "groups": groups,
        "stripes": stripes,
        "shards": shards,
        "shard_bytes": shards * SHARD_SIZE as u64,
        "expansion": if stored > 0 { (shards * SHARD_SIZE as u64) as f64 / stored as f64 } else { 0.0 },
    });
    done(events, "stats", summary).await
}

/// Where every group stands, by what is known of its holders now.
pub(super) async fn status(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    settings: &Fallbacks,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    // By their names alone: whether a provider answers is what a check tells.
    let storage = Arc::new(Storage::open(&vault.keys, &Fallbacks::default(), &vault.providers()?).await);
    let overlay = Leaning::wrap(overlay, storage);
    let named = |name: &str| settings.sections().iter().any(|section| section.name == name);
    let (peers, network) = match overlay.peers(false).await {
        Ok(peers) => (peers, "reachable"),
        Err(_) => (Vec::new(), "unreachable"),
    };
    let alive: BTreeSet<PeerKey> = peers.iter().filter(|p| p.reachable != Some(false)).map(|p| p.peer).collect();
    let (mut groups, mut lowest) = (0u64, None);
    for group in vault.catalogue.groups() {
        let group = group.map_err(failures::catalogue)?;
        groups += 1;
        let leans = |held: &[PeerKey]| fallback::leans_on(held, overlay.as_ref());
        let lives = |held: &&Vec<PeerKey>| held.iter().any(|p| alive.contains(p)) || leans(held).is_some_and(named);
        let live = group.holders.iter().filter(lives).count();
        let leaning: BTreeSet<&str> = group.holders.iter().filter_map(|held| leans(held)).collect();
        let margin = live as i64 - group.code.data() as i64;
        lowest = Some(lowest.map_or(margin, |l: i64| l.min(margin)));
        let holders: Vec<Vec<String>> =
            group.holders.iter().map(|s| s.iter().map(ToString::to_string).collect()).collect();
        let listed = json!({
            "group": group.number,
            "code": group.code.to_string(),
            "stripes": group.stripes_used,
            "sealed": group.sealed,
            "slots": group.code.slots(),
            "slots_live": live,
            "margin": margin,
            "holders": holders,
            "slots_at_fallback": group.holders.iter().filter(|held| leans(held).is_some()).count(),
            "fallback": leaning,
        });
        row(events, "group", listed).await;
    }
    let usage = fallback::usage(&vault.catalogue, overlay.as_ref()).map_err(failures::catalogue)?;
    if let Some(text) = fallback::notice(&usage) {
        let _ = events.send(Event::Notice { id: "FALLBACK_IN_USE".to_owned(), text }).await;
    }
    let snapshots = browse::all(vault)?;
    let counters = vault.catalogue.counters().map_err(failures::catalogue)?;
    let short = vault.catalogue.short().map_err(failures::catalogue)?.len();
    let summary = json!({
        "vault": vault.keys.vault_key().to_string(),
        "locked": false,
        "network": network,
        "peers_known": peers.len(),
        "groups": groups,
        "lowest_margin": lowest,
        "stripes_below_target": short,
        "fallback": fallback::told(&usage),
        "sla": Promise::of(&vault.catalogue).map_err(failures::catalogue)?.map(|promise| promise.sla),
        "snapshots_count": snapshots.len(),
        "latest_snapshot": snapshots.last().map(|(id, _)| id.to_string()),
        "latest_time": snapshots.last().map(|(_, r)| super::time_text(r.time)),
        "generation": counters.generation,
        "sequence": counters.sequence,
    });
    done(events, "status", summary).await
}

/// Peers known now, and whether each may hold shards of ours.
pub(super) async fn peers(overlay: Arc<dyn Overlay>, events: &mpsc::Sender<Event>) -> VerbResult {
    let peers = overlay.peers(true).await.map_err(failures::overlay)?;
    let policy = PlacementPolicy::for_network(&peers);
    let owner = Owner { peer: overlay.me(), domain: overlay.my_domain() };
    let now = super::now();
    let mut fit = Vec::new();
    let mut misplaced = 0;
    for view in &peers {
        let verdict = eligible(view, &owner, &policy, now);
        if verdict.is_ok() {
            fit.push(view);
        }
        let mut listed = json!(view);
        listed["eligible"] = json!(verdict.is_ok());
        listed["why_not"] = json!(verdict.err().map(|r| r.to_string()));
        let contradicted = view.region_basis.is_contradicted();
        misplaced += usize::from(contradicted);
        listed["note"] = json!(if contradicted { view.region_basis.to_string() } else { String::new() });
        row(events, "peer", listed).await;
    }
    done(
        events,
        "peers",
        json!({
            "peers": peers.len(),
            "eligible": fit.len(),
            "eligible_domains": count_independent(&fit),
            "regions_contradicted": misplaced,
        }),
    )
    .await
}

/// Plans a group as a backup would now, and explains every peer's part in it.
pub(super) async fn placement(
    data_dir: &Path,
    overlay: Arc<dyn Overlay>,
    passphrase: Option<SecretText>,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let peers = overlay.peers(true).await.map_err(failures::overlay)?;
    let policy = PlacementPolicy::for_network(&peers);
    let owner = Owner { peer: overlay.me(), domain: overlay.my_domain() };
    let random =
        |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|e| Failure::new(ExitCode::Failed, "RANDOM", e.to_string()));
    let mut seed = [0u8; 32];
    random(&mut seed)?;
    // With a vault: the group that its next backup would open. Without one: any group.
    let dir = data_dir.to_owned();
    let vault = tokio::task::spawn_blocking(move || Vault::open(&dir, passphrase.as_ref()).ok());
    let vault = vault.await.map_err(|e| failures::bug("WORKER", &e))?;
    let (authority, owner_key) = match &vault {
        Some(vault) => {
            let number = vault.catalogue.counters().map_err(failures::catalogue)?.next_group;
            (vault.keys.group_authority(number), Some(*vault.keys.placement_key(number)))
        }
        None => (SigningKey::from_bytes(&seed), None),
    };
    let avoid = BTreeSet::new();
    let request = GroupRequest {
        owner,
        authority: authority.verifying_key().to_bytes(),
        policy: &policy,
        avoid: &avoid,
        now: super::now(),
        owner_key,
    };
    random(&mut seed)?;
    let mut rng = rand_chacha::ChaCha20Rng::from_seed(seed);
    if let Some(notice) = policy.notice {
        let _ = events.send(Event::Notice { id: "POLICY".to_owned(), text: notice.to_string() }).await;
    }
    match plan_group(&peers, &request, &mut rng) {
        Ok(plan) => {
            for candidate in explain(&peers, &request, &plan) {
                let mut listed = json!(candidate);
                listed["why"] = json!(candidate.verdict.to_string());
                listed["latency_text"] = json!(candidate.latency.to_string());
                row(events, "candidate", listed).await;
            }
            let summary = json!({
                "planned": true,
                "code": plan.ticket.code().to_string(),
                "colours": plan.ticket.colours(),
                "replicas": plan.replicas,
                "strategy": plan.strategy,
                "strategy_reason": policy.strategy_of(&peers),
                "relaxations": plan.relaxations,
                "tries": plan.tries,
                "group": plan.ticket.id().to_string(),
            });
            done(events, "debug-placement", summary).await
        }
        Err(PlacementError::TooFewPeers { eligible_domains, needed_domains, more, classes, rejected }) => {
            let refused: BTreeMap<PeerKey, String> = rejected.iter().map(|(p, r)| (*p, r.to_string())).collect();
            let aside: BTreeMap<PeerKey, Verdict> = set_aside(&peers, &request).into_iter().collect();
            for view in &peers {
                let (verdict, why) = match (refused.get(&view.peer), aside.get(&view.peer)) {
                    (Some(reason), _) => (json!({ "rejected": reason }), format!("refused: {reason}")),
                    (None, Some(verdict)) => (json!(verdict), verdict.to_string()),
                    (None, None) => (json!({ "eligible": true }), "eligible".to_owned()),
                };
                let (peer, domain, region) = (view.peer, &view.domain, &view.region);
                let listed =
                    json!({ "peer": peer, "domain": domain, "region": region, "verdict": verdict, "why": why });
                row(events, "candidate", listed).await;
            }
            let error = PlacementError::TooFewPeers { eligible_domains, needed_domains, more, classes, rejected };
            Err(failures::store(&StoreError::Place(error.into())))
        }
        Err(e) => Err(failures::store(&StoreError::Place(e.into()))),
    }
}
