//! Starts a storing node's part in repairs: as steward, as new holder, as helper in rebuilds.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use cairn_proto::Domain;
use ed25519_dalek::SigningKey;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::assemble::entropy;
use crate::{
    courtesy::Courtesy,
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    network::{NetworkHandle, keeper::ShardKeeper},
    rebuild::{Patience, Rebuild, Setup, ledger::Ledger},
    stewardship::{Stewardship, StewardshipConfig},
    store::Store,
    timers::Timers,
};

/// What a node's part in repairs is made from.
pub(super) struct Parts<'a> {
    pub(super) dir: &'a DataDir,
    pub(super) handle: &'a NetworkHandle,
    pub(super) store: &'a Store,
    pub(super) keeper: Arc<dyn ShardKeeper>,
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
    let Parts { dir, handle, store, keeper, key, domain, timers, courtesy } = parts;
    let line = courtesy.clone();
    let entropy = entropy()?;
    let rebuilds = rebuilds(dir, handle, keeper, key.clone()).await;
    let (rebuild, rebuilding) = rebuilds.map_err(|e| unusable(dir.root(), &e))?;
    let config = StewardshipConfig {
        folder: dir.stewardship(),
        key,
        domain: domain.clone(),
        shelf: Arc::new(store.clone()),
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
    Ok(rebuilding)
}

/// Our part in rebuilds, as helper from now on, as new holder when stewardship asks.
async fn rebuilds(
    dir: &DataDir,
    handle: &NetworkHandle,
    keeper: Arc<dyn ShardKeeper>,
    key: SigningKey,
) -> io::Result<(Rebuild, Rebuilding)> {
    let folder = dir.root().to_owned();
    let ledger = tokio::task::spawn_blocking(move || Ledger::open(&folder, crate::vault::now())).await;
    let ledger = ledger.map_err(io::Error::other)??;
    let net = Arc::new(handle.clone());
    let rebuild = Rebuild::new(Setup { net, keeper, key, ledger, patience: Patience::default() });
    let arrivals = handle.rebuild_arrivals().await.map_err(io::Error::other)?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(rebuild.clone().serve(arrivals, stop.clone()));
    Ok((rebuild, Rebuilding { stop, task: Mutex::new(Some(task)) }))
}
