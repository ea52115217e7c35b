//! A node as a whole: lock, domain, store, network, control API; started in that order and ended in the reverse.
//!
//! - [`run`] is `cairn node run`.
//! - [`LocalNode`] is the short-lived client behind a verb when no daemon runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cairn_core::courtesy::timetable::Timetable;
use cairn_proto::{ByteSize, Domain, Region, message::Roles, network_file::NetworkFile};
use libp2p::Multiaddr;
use tokio_util::sync::CancellationToken;

use crate::{
    api::server,
    data_dir::{DataDir, WriterLock},
    failure::Failure,
    fallback::Fallbacks,
    ops::{SecretText, Verb},
    timers::Timers,
};

mod assemble;
pub mod folder;
mod front;
mod health;
mod keeper;
mod leaving;
mod node;
mod repairs;
pub mod service;
mod upkeep;
mod whereabouts;

pub use node::Node;
pub use service::NodeService;

/// How long a verb waits for the first peer. Dialling takes a second or two; who is not there then is not there.
const MEET: Duration = Duration::from_secs(12);

/// What a node is told.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// What it does for others; none for an owner's client.
    pub roles: Roles,
    /// Where it listens.
    pub listen: Vec<Multiaddr>,
    /// Where it says it is.
    pub region: Region,
    /// File that tells which country an address is in.
    pub geoip: Option<PathBuf>,
    /// File that tells which autonomous system it is of.
    pub geoip_asn: Option<PathBuf>,
    /// Its domain, when named; pinned at first start.
    pub domain: Option<Domain>,
    /// Space given; a share of the disk when not named.
    pub give: Option<ByteSize>,
    /// Space never touched; a share of the disk when not named.
    pub keep_free: Option<ByteSize>,
    /// Whether peers on the local network are looked for.
    pub mdns: bool,
    /// Inbound connections that one /24 or /48 may have here.
    pub inbound_per_subnet: Option<u16>,
    /// Addresses that lead here from outside.
    pub external: Vec<Multiaddr>,
    /// How long everything takes to be noticed and done.
    pub timers: Timers,
    /// How fast the line may be used, by day and hour.
    pub timetable: Timetable,
    /// Where the owner's verbs put what the network has nobody for.
    pub fallback: Fallbacks,
    /// What lets this node into a network by invitation; needed once, then our pass is kept.
    pub invitation: Option<SecretText>,
    /// Whether it is of no use where peers do not let it in; what reads only what is here is of use all the same.
    pub needs_pass: bool,
}

impl NodeSettings {
    /// An owner's short-lived client.
    #[must_use]
    pub fn client() -> Self {
        Self {
            roles: Roles::NONE,
            listen: Vec::new(),
            region: Region::unknown(),
            geoip: None,
            geoip_asn: None,
            domain: None,
            give: None,
            keep_free: None,
            mdns: true,
            inbound_per_subnet: None,
            external: Vec::new(),
            timers: Timers::default(),
            timetable: Timetable::free(),
            fallback: Fallbacks::default(),
            invitation: None,
            needs_pass: true,
        }
    }
}

/// TCP and QUIC on any port.
#[must_use]
pub fn default_listen() -> Vec<Multiaddr> {
    ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"].iter().filter_map(|a| a.parse().ok()).collect()
}

/// Runs a node until `cancel` fires. `listening` is called for each address when the node is ready for others, and
/// for each that it gets later.
///
/// # Errors
/// The folder is in use, the domain is another, the store or the network cannot be started.
pub async fn run(
    dir: DataDir,
    network: NetworkFile,
    settings: NodeSettings,
    cancel: CancellationToken,
    listening: impl FnMut(&str),
) -> Result<(), Failure> {
    let lock = dir.lock("node run")?;
    health::note_start();
    let every = upkeep::Every { compact: settings.timers.compact, scrub: settings.timers.scrub };
    // A puzzle, or a store that is read from its log, may take minutes; both are safe to be left in the middle.
    let node = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(()),
        node = Node::start(dir, network, settings) => node?,
    };
    let service = Arc::new(NodeService::new(node, true));
    let socket = server::bind(service.node().dir().socket());
    let result = match socket {
        Ok(socket) => {
            let stop = CancellationToken::new();
            let api =
                tokio::spawn(server::serve(socket, Arc::clone(&service) as Arc<dyn server::Service>, stop.clone()));
            let upkeep = service.node().store().map(|store| {
                tokio::spawn(upkeep::keep_up(
                    store.clone(),
                    service.node().holdings().clone(),
                    every,
                    stop.child_token(),
                ))
            });
            tokio::select! {
                () = cancel.cancelled() => {}
                () = service.node().follow_addresses(listening) => {}
                () = service.follow_pauses() => {}
            }
            tracing::info!("going down");
            stop.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(25), api).await;
            if let Some(upkeep) = upkeep {
                // It may be in the middle of a scrub; the store's own close waits for what is being written.
                upkeep.abort();
            }
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    service.node().close().await;
    drop(lock);
    result
}

/// A verb's own node, under the data folder's lock.
pub struct LocalNode {
    service: NodeService,
    _lock: WriterLock,
}

impl LocalNode {
    /// Takes the lock and starts what the verb needs; the settings are those of a [client](NodeSettings::client).
    ///
    /// # Errors
    /// The folder is in use, there is no network file, or the network does not start.
    pub async fn start(
        dir: DataDir,
        network: Option<&Path>,
        settings: NodeSettings,
        verb: &Verb,
    ) -> Result<Self, Failure> {
        let lock = dir.lock(purpose(verb))?;
        let node = if matches!(verb, Verb::DebugStore) {
            Node::store_only(dir).await?
        } else {
            let network = dir.network(network)?;
            let settings = NodeSettings { needs_pass: uses_peers(verb), ..settings };
            // An owner's own nodes never hold the owner's groups, wherever a verb runs.
            Node::start(dir, network, settings).await?
        };
        let meeting = uses_peers(verb).then(|| node.meeting(MEET));
        Ok(Self { service: NodeService::new(node, false).meeting(meeting), _lock: lock })
    }

    /// What runs verbs.
    #[must_use]
    pub fn service(&self) -> &NodeService {
        &self.service
    }

    /// Ends the node.
    pub async fn close(self) {
        self.service.node().close().await;
    }
}

/// The others answer from the catalogue; a network that is away must not slow them.
fn uses_peers(verb: &Verb) -> bool {
    !matches!(verb, Verb::Snapshots(_) | Verb::Stats | Verb::DebugStore | Verb::Repair | Verb::Leave(_) | Verb::Health)
}

fn purpose(verb: &Verb) -> &'static str {
    match verb {
        Verb::Backup(_) => "backup",
        Verb::Snapshots(_) => "snapshots",
        Verb::Ls(_) => "ls",
        Verb::Find(_) => "find",
        Verb::Diff(_) => "diff",
        Verb::Dump(_) => "dump",
        Verb::Restore(_) => "restore",
        Verb::Check(_) => "check",
        Verb::Audit(_) | Verb::AuditToken(_) => "audit",
        Verb::Stats => "stats",
        Verb::Status => "status",
        Verb::Peers | Verb::Explain(_) => "peers",
        Verb::Plan(_) => "plan",
        Verb::Recover(_) => "recover",
        Verb::Repair => "repair",
        Verb::Leave(_) => "node leave",
        Verb::Health => "node health",
        Verb::Pause(_) => "node pause",
        Verb::Resume => "node resume",
        Verb::DebugStore => "debug store",
        Verb::DebugPlacement => "debug placement",
    }
}
