//! Puts a node together: identity, pinned domain, store, network. The only file that knows all of their interfaces.

use std::{sync::Arc, time::Duration};

use cairn_proto::{ByteSize, Domain, PeerKey, message::Roles, network_file::NetworkFile};

use super::{
    NodeSettings,
    folder::{load_identity, no_store},
    front::Front,
    keeper::StoreKeeper,
    node::{Node, Online},
    repairs::{self, Parts},
    whereabouts::{Whereabouts, lan_mode},
};
use crate::{
    audits::auditor::Auditor,
    courtesy::{Courtesy, CourtesyConfig},
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    fallback::Fallbacks,
    holdings::Holdings,
    invitation,
    network::{self, NetworkConfig, NetworkHandle},
    standing::{Standings, StandingsConfig},
    stewardship::{Stewardship, ports::StewardService},
    store::{Store, StoreConfig},
};

/// How long a node may take to listen on what it was told.
const LISTENING: Duration = Duration::from_secs(10);
/// Without a new address for so long a node has them all.
const SETTLED: Duration = Duration::from_millis(50);
/// Most that is kept free when nobody says otherwise.
const KEEP_FREE_MAX: u64 = 10 << 30;

impl Node {
    /// Starts all that the settings ask for; ready for others when this returns. The caller holds the folder's lock.
    ///
    /// # Errors
    /// The domain is pinned otherwise, or the store or the network cannot be started.
    pub async fn start(dir: DataDir, network: NetworkFile, settings: NodeSettings) -> Result<Self, Failure> {
        let entropy = entropy()?;
        let identity = {
            let (root, network, seed) = (dir.root().to_owned(), network.clone(), self::entropy()?);
            blocking(move || load_identity(&root, &network, seed)).await??
        };
        let peer = identity.peer();
        let pass = {
            let (root, network) = (dir.root().to_owned(), network.clone());
            let given = settings.invitation.clone();
            let now = crate::vault::now();
            let settled = blocking(move || invitation::settle(&root, &network, &peer, given.as_ref(), now)).await?;
            if settings.needs_pass { settled? } else { settled.unwrap_or_default() }
        };
        let Whereabouts { public, region, geoip } = Whereabouts::of(&settings).await?;
        let lan = lan_mode(&network, &settings, public.is_some());
        let stores = settings.roles.has(Roles::STORAGE);
        let domain = domain(&dir, &settings, public, &peer)?;
        let store = if stores { Some(open_store(&dir, settings.give, settings.keep_free).await?) } else { None };
        let mut rebuilding = None;
        let (stewardship, holdings) = (Stewardship::default(), Holdings::default());
        let key = identity.signing_key().clone();
        let auditor = Auditor::default();
        let front = Arc::new(Front::new(stewardship.clone(), auditor.clone()));
        let mut config = NetworkConfig::client(network.clone(), identity, domain.clone(), entropy);
        config.region = settings.region;
        config.geoip = Arc::new(geoip);
        config.roles = settings.roles;
        config.known_to_store = dir.store().exists();
        config.give = settings.give.unwrap_or(ByteSize(0));
        config.listen = settings.listen.clone();
        config.external = settings.external.clone();
        config.lan = lan;
        if let Some(subnet) = settings.inbound_per_subnet {
            config.inbound.subnet = subnet.max(1).into();
        }
        config.port_mapping = stores && lan.mdns;
        let keeper = store.clone().map(|store| Arc::new(StoreKeeper::new(store, holdings.clone())));
        config.store = keeper.clone().map(|keeper| keeper as Arc<dyn network::keeper::ShardKeeper>);
        config.data_dir = Some(dir.root().to_owned());
        config.stewards = stores.then(|| Arc::clone(&front) as Arc<dyn StewardService>);
        let courtesy = Courtesy::start(CourtesyConfig::new(settings.timetable, Some(dir.root().to_owned())));
        config.courtesy = Some(courtesy.clone());
        (config.announce_every, config.ping_every) = (settings.timers.announce, settings.timers.ping);
        config.follow_every = settings.timers.follow;
        config.limits.steward_lost = Duration::from_millis(settings.timers.rhythm.steward_lost_ms);
        let standings = standings(&dir, &network, key.clone(), settings.timers).await?;
        config.standings = Some(standings.clone());
        config.pass = pass;
        let handle = match network::start(config).await {
            Ok(handle) => handle,
            Err(e) => {
                if let Some(store) = &store {
                    store.close().await;
                }
                return Err(Failure::new(ExitCode::Failed, "NETWORK", "the network cannot be started").caused_by(&e));
            }
        };
        if let (Some(store), Some(keeper)) = (&store, keeper) {
            let parts = Parts {
                dir: &dir,
                handle: &handle,
                store,
                keeper,
                holdings: &holdings,
                front: &front,
                auditor: &auditor,
                witness: Arc::new(standings.clone()),
                key,
                domain: &domain,
                timers: settings.timers,
                courtesy: &courtesy,
            };
            match repairs::start(parts, &stewardship).await {
                Ok(started) => rebuilding = Some(started),
                Err(failure) => {
                    handle.shutdown().await;
                    store.close().await;
                    return Err(failure);
                }
            }
        }
        // An owner's verb listens on nothing, and would wait for nothing.
        if !settings.listen.is_empty() {
            listening(&handle).await;
        }
        let online = Online {
            overlay: Arc::new(handle.clone()),
            handle,
            courtesy,
            network,
            peer,
            domain,
            region,
            roles: settings.roles,
        };
        let (online, standings) = (Some(online), Some(standings));
        Ok(Self {
            dir,
            fallback: settings.fallback,
            online,
            store,
            stewardship,
            auditor,
            holdings,
            rebuilding,
            standings,
        })
    }

    /// Opens nothing but the store, to look into it.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub async fn store_only(dir: DataDir) -> Result<Self, Failure> {
        if !dir.store().exists() {
            return Err(no_store(dir.root()));
        }
        // Nothing is written, so no pledge is needed.
        let store = open_store(&dir, Some(ByteSize(u64::MAX / 2)), Some(ByteSize(0))).await?;
        let (stewardship, auditor, holdings) = (Stewardship::default(), Auditor::default(), Holdings::default());
        let (online, rebuilding, standings) = (None, None, None);
        Ok(Self {
            dir,
            fallback: Fallbacks::default(),
            online,
            store: Some(store),
            stewardship,
            auditor,
            holdings,
            rebuilding,
            standings,
        })
    }
}

/// The node's domain: pinned once it stores, or else its own word, its public address, itself.
fn domain(dir: &DataDir, settings: &NodeSettings, public: Option<Domain>, peer: &PeerKey) -> Result<Domain, Failure> {
    let (named, fallback) = (settings.domain.clone(), || public.unwrap_or_else(|| Domain::of_peer(peer)));
    if !settings.roles.has(Roles::STORAGE) {
        return dir.domain(named, fallback);
    }
    let domain = dir.pin_domain(named, fallback)?;
    if domain.as_str().starts_with("id:") && domain != Domain::of_peer(peer) {
        let text = format!("this node's domain is {domain}, which is that of another identity");
        return Err(Failure::new(ExitCode::Failed, "DOMAIN_PINNED", text).with_hint(
            "the identity was lost or replaced, and peers would refuse it; start with an empty data folder",
        ));
    }
    Ok(domain)
}

async fn standings(
    dir: &DataDir,
    network: &NetworkFile,
    key: ed25519_dalek::SigningKey,
    timers: crate::timers::Timers,
) -> Result<Standings, Failure> {
    let config = StandingsConfig {
        key,
        network: network.clone(),
        folder: Some(dir.root().to_owned()),
        timers,
        clock: Arc::new(crate::vault::now),
        entropy: entropy()?,
    };
    Standings::open(config).await.map_err(|e| {
        Failure::new(ExitCode::Failed, "STANDING", "what this node thinks of its peers cannot be read").caused_by(&e)
    })
}

async fn open_store(dir: &DataDir, give: Option<ByteSize>, keep_free: Option<ByteSize>) -> Result<Store, Failure> {
    let path = dir.store();
    let root = dir.root().to_owned();
    blocking(move || {
        let disk = rustix::fs::statvfs(&root);
        let (total, free) = disk.map_or((0, 0), |d| (d.f_blocks * d.f_frsize, d.f_bavail * d.f_frsize));
        let mut config = StoreConfig::new(path, give.unwrap_or(ByteSize(free / 5)));
        config.keep_free = keep_free.unwrap_or(ByteSize((total / 20).min(KEEP_FREE_MAX)));
        Store::open(config)
    })
    .await?
    .map_err(Failure::from)
}

/// Waits until every listener has an address and no more come: one that listens everywhere gets one for each interface,
/// one after the other. Some never get one (no IPv6 here, a relay that is away), so not for ever; what comes later is
/// told as well.
async fn listening(handle: &NetworkHandle) {
    let mut reach = handle.reach();
    let settled = async {
        while reach.wait_for(|reach| reach.pending == 0).await.is_ok() {
            reach.mark_unchanged();
            if !matches!(tokio::time::timeout(SETTLED, reach.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LISTENING, settled).await;
}

pub(super) fn entropy() -> Result<[u8; 32], Failure> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| Failure::new(ExitCode::Failed, "ENTROPY", "the system gives no random bytes").caused_by(&e))?;
    Ok(seed)
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::new(ExitCode::Failed, "WORKER", "a worker thread died").caused_by(&e))
}
