//! `cairn demo`: a whole network in one process, and what happens to a backup in it, told in plain words.
//!
//! Nothing is simulated: real transports on loopback, real stores in a temporary folder, the same verbs that the CLI
//! runs. It ends with an error when a single byte differs.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use cairn_proto::ByteSize;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::render::DemoScreen,
    failure::{ExitCode, Failure},
    files::compare::{self, CompareOptions},
    ops::{BackupArgs, RecoverArgs, RestoreArgs, Verb, encode_path},
};

mod data;
mod owner;
mod village;

use owner::Owner;
use village::Village;

/// Holders that are stopped: as many as the code has parity shards.
const LOSSES: usize = 3;

/// What to show.
#[derive(Clone, Debug)]
pub struct DemoPlan {
    /// What is backed up; made up when `None`.
    pub path: Option<PathBuf>,
    /// Nodes of the network.
    pub nodes: usize,
    /// Whether the folder with everything stays.
    pub keep: bool,
}

/// Tells the story.
pub(crate) async fn run(
    plan: DemoPlan,
    mut screen: DemoScreen,
    cancel: CancellationToken,
) -> Result<ExitCode, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("cairn-demo-")
        .tempdir()
        .map_err(|e| Failure::new(ExitCode::Failed, "TEMP_DIR", "cannot make a temporary folder").caused_by(&e))?;
    let root = folder.path().to_owned();
    let mut village = Village::default();
    let story = tell(&plan, &root, &mut village, &mut screen, &cancel);
    let result = tokio::select! {
        result = story => result,
        () = cancelled_for_long(&cancel) => Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted")),
    };
    village.close().await;
    if plan.keep {
        let kept = folder.keep();
        screen.say(&format!("everything is kept in {}", kept.display()));
    }
    result
}

/// Verbs end by themselves when cancelled; this ends what does not.
async fn cancelled_for_long(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
}

async fn tell(
    plan: &DemoPlan,
    root: &Path,
    village: &mut Village,
    screen: &mut DemoScreen,
    cancel: &CancellationToken,
) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    screen.step(&format!("A network of {} strangers", plan.nodes));
    village.found(root, plan.nodes).await?;
    screen.say(&format!(
        "{} nodes run in this process, each with its own key, store and operator; they found each other in {:.1} s",
        plan.nodes,
        begun.elapsed().as_secs_f64()
    ));

    screen.step("Something worth keeping");
    let source = match &plan.path {
        Some(path) => path.clone(),
        None => data::generate(&root.join("data"))?,
    };
    screen.say(&format!("source: {}", source.display()));

    screen.step("A vault, and a backup");
    let home = root.join("owner");
    let (owner, phrase) = Owner::new(&home, village.network()).await?;
    screen.say("24 words were drawn; they are all that must survive");
    let at = Instant::now();
    let backup = Verb::Backup(BackupArgs { paths: vec![encode_path(&source)], ..BackupArgs::default() });
    let backed_up = owner.run(backup, screen, cancel).await?;
    let backup_s = at.elapsed().as_secs_f64();
    let bytes = backed_up["total_bytes_processed"].as_u64().unwrap_or(0);
    let files = backed_up["total_files_processed"].as_u64().unwrap_or(0);
    let sent = backed_up["bytes_sent"].as_u64().unwrap_or(0);
    screen.say(&format!(
        "{files} files, {} were read; {} went out, sealed and coded 5+3, in {backup_s:.1} s ({}/s)",
        ByteSize(bytes),
        ByteSize(sent),
        rate(bytes, backup_s)
    ));

    screen.step("Where the shards went");
    let map = village.shard_map().await?;
    map.check_separation()?;
    screen.say(&format!(
        "{} shards of {} groups lie at {} peers; over all stores, no peer holds two slots of a group (SEP-1)",
        map.shards(),
        map.groups(),
        map.holders()
    ));
    let stripe =
        map.example_stripe().ok_or_else(|| Failure::new(ExitCode::Failed, "DEMO", "no shard arrived anywhere"))?;
    screen.say(&format!("one stripe of group {} as an example:", stripe.group_short()));
    for holder in &stripe.holders {
        let row = serde_json::json!({ "slot": holder.slot, "peer": holder.peer, "domain": holder.domain, "region": holder.region });
        let what = if holder.slot < 5 { "data  " } else { "parity" };
        let text = format!(
            "slot {} ({what})  ->  node {:>2}  {}  {}",
            holder.slot,
            holder.node,
            &holder.peer[..8],
            holder.region
        );
        screen.row("holder", &row, &text);
    }

    screen.step(&format!("Misfortune: {LOSSES} of its holders go away, and the owner's machine burns down"));
    for holder in stripe.holders.iter().take(LOSSES) {
        village.stop(holder.node).await;
        screen.say(&format!("node {} (slot {}) is gone", holder.node, holder.slot));
    }
    owner.close().await;
    std::fs::remove_dir_all(&home)
        .map_err(|e| Failure::new(ExitCode::Failed, "DEMO", "cannot wipe the owner's folder").caused_by(&e))?;
    screen.say("the owner's folder is wiped: no keys, no catalogue, nothing but the 24 words and the network file");

    screen.step("A blank machine and 24 words");
    let at = Instant::now();
    let owner = Owner::blank(&home, village.network()).await?;
    owner.run(Verb::Recover(RecoverArgs { phrase }), screen, cancel).await?;
    let recover_s = at.elapsed().as_secs_f64();
    screen.say(&format!("the vault is back after {recover_s:.1} s"));
    let target = root.join("restored");
    let at = Instant::now();
    let restore = RestoreArgs { snapshot: "latest".into(), target: encode_path(&target), ..RestoreArgs::default() };
    owner.run(Verb::Restore(restore), screen, cancel).await?;
    let restore_s = at.elapsed().as_secs_f64();
    screen.say(&format!("everything was restored in {restore_s:.1} s ({}/s)", rate(bytes, restore_s)));
    owner.close().await;

    screen.step("Every byte");
    let differences = differences(&source, &target, plan.path.is_none()).await?;
    let summary = serde_json::json!({
        "identical": differences.is_empty(),
        "nodes": plan.nodes,
        "nodes_stopped": LOSSES,
        "total_files_processed": files,
        "total_bytes_processed": bytes,
        "bytes_sent": sent,
        "shards": map.shards(),
        "groups": map.groups(),
        "backup_seconds": backup_s,
        "recover_seconds": recover_s,
        "restore_seconds": restore_s,
        "total_seconds": begun.elapsed().as_secs_f64(),
    });
    if differences.is_empty() {
        screen.summary(
            &summary,
            &[
                format!("all {files} files are identical: every byte, name, mode and time"),
                String::new(),
                format!(
                    "backed up    {:>10}  {backup_s:>6.1} s  {:>10}/s",
                    ByteSize(bytes).to_string(),
                    rate(bytes, backup_s)
                ),
                format!(
                    "sent         {:>10}  in {} shards, {} groups",
                    ByteSize(sent).to_string(),
                    map.shards(),
                    map.groups()
                ),
                format!("recovered    {:>10}  {recover_s:>6.1} s  from 24 words", "the vault"),
                format!(
                    "restored     {:>10}  {restore_s:>6.1} s  {:>10}/s",
                    ByteSize(bytes).to_string(),
                    rate(bytes, restore_s)
                ),
                format!("lost         {:>10}  of {} nodes, and the owner's machine", LOSSES, plan.nodes),
            ],
        );
        return Ok(ExitCode::Success);
    }
    screen.summary(&summary, &[]);
    let mut failure = Failure::new(
        ExitCode::Damage,
        "DIFFERENT",
        format!("{} entries differ between what was backed up and what came back", differences.len()),
    );
    failure.causes.extend(differences.into_iter().take(20));
    Err(failure)
}

fn rate(bytes: u64, seconds: f64) -> ByteSize {
    ByteSize((bytes as f64 / seconds.max(0.001)) as u64)
}

/// The restored tree lies below the target under the source's whole path.
async fn differences(source: &Path, target: &Path, ours: bool) -> Result<Vec<String>, Failure> {
    let restored = target.join(source.strip_prefix("/").unwrap_or(source));
    let source = source.to_owned();
    // Whether a hole stays a hole is the file system's affair, and only root gives files to others; what we made
    // ourselves has neither excuse.
    let strict = CompareOptions::FULL;
    let owners = rustix::process::geteuid().is_root();
    let options = if ours { strict } else { CompareOptions { layout: false, owners, ..strict } };
    let compared = tokio::task::spawn_blocking(move || compare::compare(&source, &restored, options)).await;
    let failed = |e: &(dyn std::error::Error + 'static)| {
        Failure::new(ExitCode::Failed, "COMPARE", "cannot compare the two trees").caused_by(e)
    };
    let found = compared.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    Ok(found.iter().map(ToString::to_string).collect())
}
