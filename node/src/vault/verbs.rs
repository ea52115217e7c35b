//! The door of the vault: one verb in, events meanwhile, one result out.

use std::{path::PathBuf, sync::Arc};

use cairn_core::durability::repairs::RepairFigures;
use cairn_proto::manifest::GroupRow;
use futures::future::{BoxFuture, Shared};
use tokio::{io::AsyncWrite, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Vault, audit, backup, browse, check, failures, fallback,
    leaning::{Leaning, Storage},
    recover, report, restore,
    stream_input::StreamInput,
};
use crate::{
    audits::tokens,
    courtesy::verb::Limited,
    failure::{ExitCode, Failure},
    fallback::Fallbacks,
    ops::{Event, SecretText, Verb, VerbResult},
    overlay::Overlay,
    standing::ports::Witness,
};

/// What every verb works with.
#[derive(Clone)]
pub struct VaultContext {
    /// The data folder; the vault lives in `vault/` inside. The caller holds the folder's lock.
    pub dir: PathBuf,
    /// The network.
    pub overlay: Arc<dyn Overlay>,
    /// Who takes note of how holders answered, when the node has somebody who does.
    pub witness: Option<Arc<dyn Witness>>,
    /// Where to put what the network has nobody for.
    pub fallback: Fallbacks,
    /// How long repairs took that this node saw as a steward.
    pub repairs: RepairFigures,
    /// Somebody of the network is there, or it is said why not; none where nothing is waited for. It goes on while the vault is
    /// opened: both take some fifty milliseconds, and each verb has them.
    pub meeting: Option<Meeting>,
}

/// A wait for the network's first peer; an error when the network turns us away.
pub type Meeting = Shared<BoxFuture<'static, Result<(), Failure>>>;

impl VaultContext {
    async fn met(&self) -> Result<(), Failure> {
        match &self.meeting {
            Some(meeting) => meeting.clone().await,
            None => Ok(()),
        }
    }
}

/// Runs one verb to its end. `passphrase` opens the keyring (`None`: the vault was made without one); `input` is the
/// stream of a stream backup; `output` takes the bytes of [`Verb::Dump`]. When `cancel` fires, the verb ends soon with
/// [`ExitCode::Interrupted`] and leaves nothing half listed. `Verb::DebugStore` is not answered here.
///
/// # Errors
/// The verb's [`Failure`].
pub async fn run_verb(
    ctx: &VaultContext,
    verb: Verb,
    passphrase: Option<SecretText>,
    input: Option<StreamInput>,
    output: Option<&mut (dyn AsyncWrite + Send + Unpin)>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) -> VerbResult {
    let (limit_up, limit_down) = match &verb {
        Verb::Backup(args) => (args.limit_up, args.limit_down),
        Verb::Restore(args) => (args.limit_up, args.limit_down),
        _ => (None, None),
    };
    let limited = |overlay| Limited::wrap(overlay, limit_up, limit_down);
    // Work that has no checkpoint of its own is dropped where it stands: it changes nothing.
    let until = |cancel: CancellationToken| async move {
        cancel.cancelled().await;
        Err(failures::reading_interrupted())
    };
    match verb {
        Verb::Backup(args) => {
            let vault = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(failures::interrupted()),
                vault = open(ctx, passphrase, Depth::All, &events) => vault?,
            };
            let (overlay, storage) = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(failures::interrupted()),
                reached = lean(ctx, &vault, !args.dry_run, &events) => reached?,
            };
            let (beside, notices) = (Arc::clone(&storage), events.clone());
            let done =
                backup::backup(&vault, (limited(overlay), storage), (args, ctx.repairs), input, events, cancel).await;
            if done.is_err() {
                // That too few peers are there is half of the reason.
                tell_failed(&beside, &notices).await;
            }
            done
        }
        Verb::Restore(args) => {
            let vault = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(failures::interrupted()),
                vault = open(ctx, passphrase, Depth::Few, &events) => vault?,
            };
            let (overlay, _) = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(failures::interrupted()),
                reached = lean(ctx, &vault, false, &events) => reached?,
            };
            restore::restore(&vault, limited(overlay), args, events, cancel).await
        }
        Verb::DebugStore => Err(Failure::new(ExitCode::Usage, "USAGE", "only a running node has a store")),
        verb => tokio::select! {
            biased;
            ended = until(cancel.clone()) => ended,
            done = run_reading(ctx, verb, passphrase, output, &events) => done,
        },
    }
}

async fn run_reading(
    ctx: &VaultContext,
    verb: Verb,
    passphrase: Option<SecretText>,
    output: Option<&mut (dyn AsyncWrite + Send + Unpin)>,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let overlay = ctx.overlay.clone();
    if matches!(verb, Verb::Recover(_) | Verb::Peers | Verb::AuditToken(_) | Verb::DebugPlacement) {
        ctx.met().await?;
    }
    match verb {
        Verb::Recover(args) => return recover::recover(ctx, args, passphrase, events).await,
        Verb::Peers => return report::peers(overlay, events).await,
        Verb::AuditToken(args) => return tokens::audit(overlay, ctx.witness.clone(), args, events).await,
        Verb::DebugPlacement => return report::placement(&ctx.dir, overlay, passphrase, events).await,
        _ => {}
    }
    let depth = if matches!(verb, Verb::Check(_) | Verb::Audit(_)) { Depth::All } else { Depth::Few };
    let vault = open(ctx, passphrase, depth, events).await?;
    let overlay = match verb {
        // They ask nobody for anything that may lie there.
        Verb::Snapshots(_) | Verb::Stats | Verb::Status => overlay,
        _ => lean(ctx, &vault, false, events).await?.0,
    };
    match verb {
        Verb::Snapshots(args) => browse::snapshots(&vault, args, events).await,
        Verb::Ls(args) => browse::ls(&vault, overlay, args, events).await,
        Verb::Find(args) => browse::find(&vault, overlay, args, events).await,
        Verb::Diff(args) => browse::diff(&vault, overlay, args, events).await,
        Verb::Dump(args) => browse::dump(&vault, overlay, args, output, events).await,
        Verb::Check(args) => check::check(&vault, overlay, args, events).await,
        Verb::Audit(mut args) => match args.make_token.take() {
            Some(file) => audit::make_token(&vault, overlay, args, &file, events).await,
            None => audit::audit(&vault, overlay, ctx.witness.clone(), &ctx.dir, args, events).await,
        },
        Verb::Stats => report::stats(&vault, events).await,
        Verb::Status => report::status(&vault, overlay, &ctx.fallback, events).await,
        Verb::Backup(_)
        | Verb::Restore(_)
        | Verb::Recover(_)
        | Verb::AuditToken(_)
        | Verb::Peers
        | Verb::Explain(_)
        | Verb::Repair
        | Verb::Leave(_)
        | Verb::Health
        | Verb::Pause(_)
        | Verb::Resume
        | Verb::Plan(_)
        | Verb::DebugStore
        | Verb::DebugPlacement => Err(Failure::new(ExitCode::Usage, "USAGE", "this verb is answered elsewhere")),
    }
}

/// Tells what failed at fallback storage in a run that could not go on.
async fn tell_failed(storage: &Storage, events: &mpsc::Sender<Event>) {
    for (name, why) in storage.news() {
        let text = format!("fallback storage {name:?} failed: {why}");
        let _ = events.send(Event::Notice { id: "FALLBACK_UNUSABLE".to_owned(), text }).await;
    }
}

/// The network with the vault's fallback storage among the holders. What of it cannot be used is told.
async fn lean(
    ctx: &VaultContext,
    vault: &Vault,
    writes: bool,
    events: &mpsc::Sender<Event>,
) -> Result<(Arc<dyn Overlay>, Arc<Storage>), Failure> {
    let storage = Arc::new(vault.storage(&ctx.fallback, writes).await?);
    for (name, why) in storage.news() {
        let text = format!("fallback storage {name:?} cannot be used: {why}");
        let _ = events.send(Event::Notice { id: "FALLBACK_UNUSABLE".to_owned(), text }).await;
    }
    if storage.out_of_reach().next().is_some() {
        let rows: Vec<GroupRow> = vault.catalogue.groups().collect::<Result<_, _>>().map_err(failures::catalogue)?;
        if let Some(text) = fallback::missing(&rows, &storage) {
            let _ = events.send(Event::Notice { id: "FALLBACK_MISSING".to_owned(), text }).await;
        }
    }
    Ok((Leaning::wrap(ctx.overlay.clone(), storage.clone()), storage))
}

/// Held by whoever rebuilds a damaged catalogue; those who come meanwhile find it mended.
static HEALING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How much of the catalogue is looked at before a verb believes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// What is looked at in any case. A row that is missed later is an error then.
    Few,
    /// Every row: the verb decides on what is not there.
    All,
}

/// Opens the vault, while the network is found. A damaged catalogue is rebuilt from the network first; when that cannot be done, the
/// damage is told.
async fn open(
    ctx: &VaultContext,
    passphrase: Option<SecretText>,
    depth: Depth,
    events: &mpsc::Sender<Event>,
) -> Result<Vault, Failure> {
    let damage = match open_as_it_is(ctx, passphrase.clone(), depth).await {
        Err(failure) if failure.id == failures::CATALOGUE_DAMAGED => failure,
        Ok(vault) => return ctx.met().await.map(|()| vault),
        // A wrong passphrase is told at once.
        Err(failure) => return Err(failure),
    };
    ctx.met().await?;
    // One at a time, in this process; another one has the folder's lock against it.
    let _turn = HEALING.lock().await;
    match open_as_it_is(ctx, passphrase.clone(), depth).await {
        Err(failure) if failure.id == failures::CATALOGUE_DAMAGED => {}
        healed => return healed,
    }
    match recover::heal(ctx, passphrase.clone(), events).await {
        Ok(()) => open_as_it_is(ctx, passphrase, depth).await,
        Err(why) if why.id == "OLDER_HEAD" => Err(why),
        Err(why) => {
            tracing::warn!(error = %why.message, "a damaged catalogue could not be rebuilt");
            Err(damage)
        }
    }
}

async fn open_as_it_is(ctx: &VaultContext, passphrase: Option<SecretText>, depth: Depth) -> Result<Vault, Failure> {
    let dir = ctx.dir.clone();
    let work = move || {
        let vault = Vault::open(&dir, passphrase.as_ref())?;
        if depth == Depth::All {
            vault.catalogue.verify().map_err(failures::catalogue)?;
        }
        Ok(vault)
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| failures::bug("OPEN", &e))?
}

#[cfg(test)]
fn _run_verb_can_be_spawned(ctx: &VaultContext, verb: Verb, events: mpsc::Sender<Event>) {
    fn is_send(_: impl Send) {}
    is_send(run_verb(ctx, verb, None, None, None, events, CancellationToken::new()));
}
