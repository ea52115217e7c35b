//! Starts a storing node's part in repairs: as steward, as new holder, as helper in rebuilds, as holder that speaks for itself; its
//! answers to audits, and its own of others.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cairn_proto::Domain;
use ed25519_dalek::SigningKey;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{assemble::entropy, front::Front, keeper::StoreKeeper};
use crate::{
    audits::{
        answer::{self, Answerer},
        auditor::{Auditor, AuditorConfig},
    },
    courtesy::Courtesy,
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    holdings::{Holdings, HoldingsConfig},
    network::{NetworkHandle, keeper::ShardKeeper},
    rebuild::{Patience, Rebuild, Setup, ledger::Ledger},
    standing::ports::Witness,
    stewardship::{Stewardship, StewardshipConfig},
    store::Store,
    timers::Timers,
};

/// What a node's part in repairs is made from.
pub(super) struct Parts<'a> {
    pub(super) dir: &'a DataDir,
    pub(super) handle: &'a NetworkHandle,
    pub(super) store: &'a Store,
    pub(super) keeper: Arc<StoreKeeper>,
    pub(super) holdings: &'a Holdings,
    pub(super) front: &'a Front,
    pub(super) auditor: &'a Auditor,
    /// Is told what audits see of peers.
    pub(super) witness: Arc<dyn Witness>,
    pub(super) key: SigningKey,
    pub(super) domain: &'a Domain,
    pub(super) timers: Timers,
    pub(super) courtesy: &'a Courtesy,
}

/// Our part in rebuilds, as it runs.
pub(super) struct Rebuilding {
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Rebuilding {
    /// Ends it, and waits for that: nothing reads the store or speaks any more.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

/// Starts all of it. Stewardship ends with its own close, the part in rebuilds with what is returned; after a failure nothing runs.
///
/// # Errors
/// What is kept of it cannot be read.
pub(super) async fn start(parts: Parts<'_>, stewardship: &Stewardship) -> Result<Rebuilding, Failure> {
    let unusable = |what: &std::path::Path, e: &io::Error| {
        let text = format!("cannot use {}", what.display());
        Failure::new(ExitCode::Failed, "STEWARDSHIP", text).caused_by(e)
    };
    let Parts { dir, handle, store, keeper, holdings, front, auditor, witness, key, domain, timers, courtesy } = parts;
    let shards: Arc<dyn ShardKeeper> = Arc::clone(&keeper) as _;
    let line = courtesy.clone();
    let (entropy, of_audits) = (entropy()?, entropy()?);
    front.answers(Answerer::new(answer::Setup {
        key: key.clone(),
        keeper: Arc::clone(&shards),
        domains: Arc::new(handle.clone()),
        losses: Some(Arc::new(holdings.clone())),
        clock: Arc::new(crate::vault::now),
        // The round that audits are counted by.
        day: Duration::from_millis(timers.rhythm.audit_ms),
    }));
    let silent = Duration::from_millis(timers.liveness.late_ms);
    let lost = Duration::from_millis(timers.rhythm.steward_lost_ms);
    let patience = Patience { silent, lost, ..Patience::default() };
    let rebuilds = rebuilds(dir, handle, shards, key.clone(), patience).await;
    let (rebuild, rebuilding) = rebuilds.map_err(|e| unusable(dir.root(), &e))?;
    let watching = stewardship.clone();
    let audits = AuditorConfig {
        key: key.clone(),
        domain: domain.clone(),
        timers,
        clock: Arc::new(crate::vault::now),
        entropy: of_audits,
        cut_off: Arc::new(move || watching.cut_off()),
    };
    let config = StewardshipConfig {
        folder: dir.stewardship(),
        key,
        domain: domain.clone(),
        shelf: keeper,
        timers,
        upstream: Arc::new(move || line.upstream()),
        clock: Arc::new(crate::vault::now),
        entropy,
    };
    let started = stewardship.start(config, Arc::new(handle.clone()), Some(Arc::new(rebuild))).await;
    if let Err(error) = started {
        stewardship.close().await;
        rebuilding.close().await;
        return Err(unusable(&dir.stewardship(), &error));
    }
    let config = HoldingsConfig {
        folder: dir.holdings(),
        held: Arc::new(store.clone()),
        timers,
        clock: Arc::new(crate::vault::now),
        stewardship: stewardship.clone(),
    };
    if let Err(error) = holdings.start(config, Arc::new(handle.clone())).await {
        stewardship.close().await;
        rebuilding.close().await;
        return Err(unusable(&dir.holdings(), &error));
    }
    front.tells(Arc::clone(&witness));
    auditor.start(audits, Arc::new(handle.clone()), witness);
    Ok(rebuilding)
}

/// Our part in rebuilds, as helper from now on, as new holder when stewardship asks.
async fn rebuilds(
    dir: &DataDir,
    handle: &NetworkHandle,
    keeper: Arc<dyn ShardKeeper>,
    key: SigningKey,
    patience: Patience,
) -> io::Result<(Rebuild, Rebuilding)> {
    let folder = dir.root().to_owned();
    let ledger = tokio::task::spawn_blocking(move || Ledger::open(&folder, crate::vault::now())).await;
    let ledger = ledger.map_err(io::Error::other)??;
    let net = Arc::new(handle.clone());
    let rebuild = Rebuild::new(Setup { net, keeper, key, ledger, patience });
    let arrivals = handle.rebuild_arrivals().await.map_err(io::Error::other)?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(rebuild.clone().serve(arrivals, stop.clone()));
    Ok((rebuild, Rebuilding { stop, task: Mutex::new(Some(task)) }))
}
