//! The overlay over libp2p: who is there, moving shards, keeping heads. Implements [`crate::overlay::Overlay`].
//!
//! One task ([`task`]) owns the Swarm and everything that it decides on; handles send it commands. Shard streams run
//! in their own tasks ([`transfer`]). Nothing here knows a vault's secrets: it sees sealed shards, sealed heads and
//! the keys that sign grants.
//!
//! `main` must clear `SSLKEYLOGFILE` from the environment before it starts a node: libp2p's TLS (in QUIC) honours
//! it and would write session secrets to a file.

mod addresses;
mod admission;
mod behaviour;
mod book;
mod command;
mod control;
mod door;
mod gather;
mod gossip;
mod heads;
mod hedge;
pub mod invitations;
pub mod keeper;
mod keys;
mod origins;
mod overlay;
mod paces;
mod presence;
mod rebuilds;
mod refusals;
mod scoop;
mod stewards;
mod streams;
mod task;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;
mod waits;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cairn_proto::{
    ByteSize, Domain, PeerKey, Region, Timestamp, message::Roles, network_file::NetworkFile, pass::Pass,
};
use ed25519_dalek::SigningKey;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    quic, tcp, yamux,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use self::door::Verdict;
pub use self::origins::InboundLimits;
pub use self::stewards::StewardLimits;
pub use self::transfer::{link::ClientPatience, server::ServerLimits};
pub use self::waits::Waits;
use self::{
    behaviour::{Choices, NodeBehaviour, Protocols},
    book::PeerBook,
    command::Command,
    door::Door,
    heads::HeadRecords,
    invitations::Invitations,
    keeper::ShardKeeper,
    presence::Presence,
    refusals::{Heedful, Refusals},
    stewards::{Desk, StewardClient},
    task::{NetworkTask, SelfPortrait, State},
    transfer::{client::ShardClient, server::Server, workers::Workers},
};
use crate::{
    courtesy::Courtesy, geoip::GeoIp, identity::Identity, overlay::OverlayError, standing::Standings,
    stewardship::ports::StewardService, store::HEADS_MAX, timers::Timers,
};

/// Commands that may wait for the Swarm's owner; it takes thousands a second, so more means that it is stuck.
const COMMANDS_MAX: usize = 256;
/// A packet this often keeps a quiet QUIC connection: NATs forget UDP after 30 seconds at the earliest (RFC 4787 asks for two
/// minutes). libp2p's five seconds would be a third of an idle node's budget.
const QUIC_ALIVE: Duration = Duration::from_secs(15);
/// A connection without streams stays this long: storage peers are used again and again.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);
/// An advert goes out this often: three times before a silent peer gets no new shards. Gossip brings every advert to every node
/// three or four times, so this is what an idle node's line carries most.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(600);
/// Whoever wants something of a peer has a time-out of its own; pings only clear away connections whose other end vanished without a
/// word, and keep NATs from forgetting them (they keep TCP for minutes at least). Every twenty seconds, they were a quarter of an
/// idle node's traffic.
const PING_EVERY: Duration = Duration::from_secs(150);
/// Heads that may wait to be written down.
const HEADS_WAITING_MAX: usize = 256;

/// What is different where everybody is a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LanMode {
    /// Find neighbours by mDNS.
    pub mdns: bool,
    /// Dial, tell and remember private and loopback addresses.
    pub allow_private: bool,
}

/// How to start a node's network.
pub struct NetworkConfig {
    /// Which network.
    pub network: NetworkFile,
    /// Who we are; must solve the network's puzzle.
    pub identity: Identity,
    /// Our own domain, pinned by the caller.
    pub domain: Domain,
    /// Declared region; where the addresses lie when it is unknown.
    pub region: Region,
    /// What tells where addresses lie.
    pub geoip: Arc<GeoIp>,
    /// What we do for others.
    pub roles: Roles,
    /// Space pledged; a keeper's own figure goes before it.
    pub give: ByteSize,
    /// Where to listen; empty for an owner.
    pub listen: Vec<Multiaddr>,
    /// Addresses that the operator knows to lead here from outside.
    pub external: Vec<Multiaddr>,
    /// Neighbourhood.
    pub lan: LanMode,
    /// Ask the router for a port mapping (UPnP).
    pub port_mapping: bool,
    /// Where shards are kept; none for an owner.
    pub store: Option<Arc<dyn ShardKeeper>>,
    /// Where the peer book is kept; none keeps it in memory.
    pub data_dir: Option<PathBuf>,
    /// Seed for walks and samples, fresh from the OS.
    pub entropy: [u8; 32],
    /// How many may connect from one neighbourhood.
    pub inbound: InboundLimits,
    /// Limits of the serving side.
    pub limits: ServerLimits,
    /// Patience of the asking side.
    pub patience: ClientPatience,
    /// Patience with those who may be gone.
    pub waits: Waits,
    /// Who answers on the stewards' protocol; without one, everybody is told that we are no steward. It may hold a
    /// [`NetworkHandle`] that it was given later; then the network ends with [`NetworkHandle::shutdown`] only.
    pub stewards: Option<Arc<dyn StewardService>>,
    /// What we think of peers; none: it is made anew and kept in memory.
    pub standings: Option<Standings>,
    /// Our pass, in a network by invitation; without one its peers let us in nowhere.
    pub pass: Option<Pass>,
    /// How often we say what we are, whatever happened.
    pub announce_every: Duration,
    /// How often each end of each connection asks whether the other is there.
    pub ping_every: Duration,
    /// How long a peer that served slowly is not looked at again ([`paces`]).
    pub follow_every: Duration,
    /// How the line is used; none uses it as it comes.
    pub courtesy: Option<Courtesy>,
}

impl NetworkConfig {
    /// An owner's node: client only, listening nowhere. Change the fields for anything more.
    #[must_use]
    pub fn client(network: NetworkFile, identity: Identity, domain: Domain, entropy: [u8; 32]) -> Self {
        Self {
            network,
            identity,
            domain,
            region: Region::unknown(),
            geoip: Arc::default(),
            roles: Roles::NONE,
            give: ByteSize(0),
            listen: Vec::new(),
            external: Vec::new(),
            lan: LanMode::default(),
            port_mapping: false,
            store: None,
            data_dir: None,
            entropy,
            inbound: InboundLimits::default(),
            limits: ServerLimits::default(),
            patience: ClientPatience::default(),
            waits: Waits::default(),
            stewards: None,
            standings: None,
            pass: None,
            announce_every: ANNOUNCE_EVERY,
            ping_every: PING_EVERY,
            follow_every: paces::FOLLOWED_APART,
            courtesy: None,
        }
    }
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The identity does not solve the network's puzzle.
    #[error("the identity does not solve the puzzle of network {network}")]
    NotAdmitted {
        /// Name of the network.
        network: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        why: String,
    },
    /// A part of the network could not be set up.
    #[error("cannot set the network up: {0}")]
    Setup(String),
    /// The store could not give the heads that it keeps.
    #[error("the store cannot be read: {0:?}")]
    Store(cairn_proto::wire::RefusalCode),
}

/// How far into the network we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Peers connected.
    pub connected: usize,
    /// Storage peers in the book, connected or not.
    pub storage_peers: usize,
    /// Who met us last did not let us in, and why; nobody has since.
    pub turned_away: Option<Verdict>,
}

/// Where we may be dialled, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reach {
    /// What we listen on, then what leads here from outside, with our peer id.
    pub addresses: Vec<Multiaddr>,
    /// Listeners that were asked for and have no address yet.
    pub pending: usize,
}

/// A running node's network. Clones share it; it ends with the last clone or with [`NetworkHandle::shutdown`].
#[derive(Clone)]
pub struct NetworkHandle {
    inner: Arc<Inner>,
}

struct Inner {
    me: PeerKey,
    /// Signs challenges; zeroized on drop.
    key: SigningKey,
    domain: Domain,
    commands: mpsc::Sender<Command>,
    courtesy: Option<Courtesy>,
    presence: Presence,
    client: ShardClient,
    stewards: StewardClient,
    standings: Standings,
    paces: Arc<paces::Paces>,
    waits: Waits,
    readiness: watch::Receiver<Readiness>,
    reach: watch::Receiver<Reach>,
    shutdown: CancellationToken,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
    walks: std::sync::Mutex<ChaCha20Rng>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What the system said: libp2p's own layers around it say nothing.
fn said(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |e| e.source());
    let last = chain.map(ToString::to_string).filter(|text| !text.trim().is_empty()).last();
    last.unwrap_or_else(|| format!("{error:?}"))
}

/// Starts a node's network: listens, dials bootstrap peers in the background, serves the store.
///
/// # Errors
/// [`NetworkError`].
pub async fn start(config: NetworkConfig) -> Result<NetworkHandle, NetworkError> {
    if !config.identity.solves(&config.network) {
        return Err(NetworkError::NotAdmitted { network: config.network.name });
    }
    let protocols = Protocols::of(&config.network)?;
    let shutdown = CancellationToken::new();
    let heads = heads(config.store.as_ref(), &config.entropy, &shutdown).await?;
    let standings = config.standings.clone().unwrap_or_else(|| {
        let key = config.identity.signing_key().clone();
        Standings::in_memory(key, config.network.clone(), &Timers::default(), Arc::new(clock), &config.entropy)
    });
    let invitations = Invitations::new(config.network.clone(), config.pass.as_ref());
    standings.know(invitations.clone());
    let (mut swarm, refusals) = swarm(&config, &protocols, heads, &standings, &invitations)?;
    let (circuits, direct): (Vec<_>, Vec<_>) = config.listen.into_iter().partition(addresses::is_relayed);
    let mut pending = HashSet::new();
    for address in direct {
        let listener = swarm.listen_on(address.clone());
        pending.insert(listener.map_err(|e| NetworkError::Listen { address, why: said(&e) })?);
    }
    // The task asks for these: relays come and go.
    if let Some(address) = circuits.iter().find(|c| addresses::relay(c).is_none()) {
        let why = "a circuit is /ADDRESS/p2p/RELAY/p2p-circuit".to_owned();
        return Err(NetworkError::Listen { address: address.clone(), why });
    }
    for address in &config.external {
        swarm.add_external_address(address.clone());
    }

    let carried = !circuits.is_empty();
    let identity = Arc::new(config.identity);
    let (me, key) = (identity.peer(), identity.signing_key().clone());
    let (workers, worker_tasks) = Workers::start(config.limits.workers, config.limits.queue);
    let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
    let server = Server::new(
        identity.clone(),
        config.domain.clone(),
        config.store.clone(),
        config.limits,
        workers,
        commands.downgrade(),
        config.courtesy.clone(),
    );
    let gossip_apart = u64::try_from(task::adverts::apart(config.announce_every).as_millis() / 2).unwrap_or(u64::MAX);
    let mut book = PeerBook::new(config.network.clone(), me, config.lan.allow_private, &config.entropy)
        .with_gossip_apart(gossip_apart)
        .with_standings(standings.clone())
        .with_invitations(invitations.clone());
    book.place(config.geoip.clone(), config.region.clone());
    restore(&mut book, config.data_dir.as_ref());

    let (ready, readiness) = watch::channel(Readiness::default());
    let (reaching, reach) = watch::channel(Reach { addresses: Vec::new(), pending: pending.len() + circuits.len() });
    let mut rng = ChaCha20Rng::from_seed(config.entropy);
    let walks = ChaCha20Rng::from_rng(&mut rng);
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let presence = Presence::default();
    let task = NetworkTask {
        swarm,
        presence: presence.clone(),
        refusals,
        commands: command_queue,
        shutdown: shutdown.clone(),
        readiness: ready,
        reach: reaching,
        portrait: SelfPortrait {
            network: config.network,
            identity,
            domain: config.domain.clone(),
            region: config.region,
            geoip: config.geoip,
            roles: config.roles,
            give: config.give,
            lan: config.lan,
            external: config.external,
            circuits,
            pass: invitations.own().to_vec(),
        },
        protocols,
        keeper: config.store,
        courtesy: config.courtesy.clone(),
        server: Arc::new(server),
        desk: Arc::new(Desk::new(config.stewards, config.limits, config.courtesy.clone())),
        announce_every: config.announce_every,
        limits: config.limits,
        waits: config.waits,
        standings: standings.clone(),
        book,
        data_dir: config.data_dir,
        rng,
        ticks,
        state: State::new(pending, carried),
    };
    let task = tokio::spawn(async move {
        task.run().await;
        drop(worker_tasks);
    });
    let inner = Inner {
        me,
        key,
        domain: config.domain,
        courtesy: config.courtesy.clone(),
        presence,
        client: ShardClient::new(me, commands.clone(), config.patience, config.courtesy.clone()),
        stewards: StewardClient::new(commands.clone(), config.patience),
        commands,
        paces: paces::Paces::new(standings.clone(), config.follow_every, shutdown.clone()),
        standings,
        waits: config.waits,
        readiness,
        reach,
        shutdown,
        task: std::sync::Mutex::new(Some(task)),
        walks: std::sync::Mutex::new(walks),
    };
    Ok(NetworkHandle { inner: Arc::new(inner) })
}

/// The DHT's record store with what the keeper has, as large as the store's own, and the task that writes new heads down.
async fn heads(
    store: Option<&Arc<dyn ShardKeeper>>,
    entropy: &[u8; 32],
    shutdown: &CancellationToken,
) -> Result<HeadRecords, NetworkError> {
    let Some(keeper) = store.cloned() else { return Ok(HeadRecords::new(None, HEADS_MAX)) };
    let kept = keeper.heads().await.map_err(NetworkError::Store)?;
    let (keep, mut queue) = mpsc::channel(HEADS_WAITING_MAX);
    let mut heads = HeadRecords::new(Some(keep), HEADS_MAX);
    heads.restore(kept, &blake3::derive_key("cairn 2026-11 restored heads lots v1", entropy));
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        while let Some(Some((vault, encoded))) = shutdown.run_until_cancelled(queue.recv()).await {
            if let Err(code) = keeper.keep_head(vault, encoded).await {
                tracing::warn!(?code, "a head from the DHT could not be written down");
            }
        }
    });
    Ok(heads)
}

fn swarm(
    config: &NetworkConfig,
    protocols: &Protocols,
    heads: HeadRecords,
    standings: &Standings,
    invitations: &Invitations,
) -> Result<(Swarm<Door>, Arc<Refusals>), NetworkError> {
    let setup = |e: &dyn std::fmt::Display| NetworkError::Setup(e.to_string());
    let keys = keys::transport_keys(&config.identity).ok_or_else(|| setup(&"the identity is no Ed25519 key"))?;
    let choices = Choices {
        network: &config.network,
        protocols,
        roles: config.roles,
        lan: config.lan,
        port_mapping: config.port_mapping,
        inbound: config.inbound,
        waits: config.waits,
        ping_every: config.ping_every,
        standings,
    };
    let refusals = Refusals::new();
    let swarm = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_other_transport(|keys| transport(keys, &refusals, config.waits.dial))
        .map_err(|e| setup(&e))?
        .with_dns()
        .map_err(|e| setup(&format!("DNS: {e}")))?
        .with_relay_client(tls::Security::new, yamux::Config::default)
        .map_err(|e| setup(&e))?
        .with_behaviour(|keys, relay_client| {
            NodeBehaviour::new(&choices, keys, relay_client, heads)
                .map(|inner| Door::new(inner, invitations.clone(), protocols.pass.clone()))
                .map_err(Into::into)
        })
        .map_err(|e| setup(&e))?
        .with_swarm_config(|c| c.with_smart_dial().with_idle_connection_timeout(IDLE_CONNECTION))
        .with_connection_timeout(config.waits.dial)
        .build();
    Ok((swarm, refusals))
}

/// TCP with TLS (Noise for those who do not speak it) and Yamux; and QUIC, which heeds TCP's refusals.
fn transport(
    keys: &libp2p::identity::Keypair,
    refusals: &Arc<Refusals>,
    handshake: Duration,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Box<dyn std::error::Error + Send + Sync>> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = Heedful::telling(tcp, refusals, |e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        .upgrade(Version::V1Lazy)
        .authenticate(tls::Security::new(keys)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut quic = quic::Config::new(keys);
    quic.handshake_timeout = handshake;
    // Nor must it end as idle before.
    let idle = u32::try_from(handshake.as_millis()).unwrap_or(u32::MAX);
    quic.max_idle_timeout = quic.max_idle_timeout.max(idle).max(3 * QUIC_ALIVE.as_millis() as u32);
    quic.keep_alive_interval = QUIC_ALIVE;
    let quic = quic::tokio::Transport::new(quic);
    let quic = Heedful::heeding(quic, refusals, || quic::Error::HandshakeTimedOut)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed())
}

/// A damaged or unreadable peer book is a loss of comfort, not of data: the network is found again.
fn restore(book: &mut PeerBook, folder: Option<&PathBuf>) {
    let Some(folder) = folder else { return };
    match book::read_file(folder) {
        Ok(Some(bytes)) => {
            if let Err(error) = book.restore(&bytes, clock()) {
                tracing::warn!(%error, "the peer book is damaged and begun anew");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the peer book cannot be read"),
    }
}

/// The wall clock, once for each step at the edge.
pub(crate) fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl NetworkHandle {
    /// Where the node listens by now.
    ///
    /// # Errors
    /// [`OverlayError::ShuttingDown`].
    pub async fn listen_addresses(&self) -> Result<Vec<Multiaddr>, OverlayError> {
        self.ask(|reply| Command::ListenAddresses { reply }).await
    }

    /// Our addresses with our peer id, as they stand in a network file.
    ///
    /// # Errors
    /// [`OverlayError::ShuttingDown`].
    pub async fn dial_addresses(&self) -> Result<Vec<Multiaddr>, OverlayError> {
        let id = keys::peer_id(&self.inner.me).ok_or(OverlayError::ShuttingDown)?;
        let listening = self.listen_addresses().await?;
        // A circuit ends with our id already.
        Ok(listening.into_iter().filter_map(|a| a.with_p2p(id).ok()).collect())
    }

    /// Where we may be dialled from now on; every change is told.
    #[must_use]
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.inner.reach.clone()
    }

    /// Dials an address now, beside what the node does by itself.
    ///
    /// # Errors
    /// [`OverlayError::ShuttingDown`].
    pub async fn dial(&self, address: Multiaddr) -> Result<(), OverlayError> {
        self.inner.commands.send(Command::Dial { address }).await.map_err(|_| OverlayError::ShuttingDown)
    }

    /// Says again what we are, for example after the store's space changed much.
    ///
    /// # Errors
    /// [`OverlayError::ShuttingDown`].
    pub async fn announce(&self) -> Result<(), OverlayError> {
        self.inner.commands.send(Command::Announce).await.map_err(|_| OverlayError::ShuttingDown)
    }

    /// How far into the network we are now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        *self.inner.readiness.borrow()
    }

    /// Waits until a peer is connected and so many storage peers are known.
    ///
    /// # Errors
    /// [`OverlayError::NoPeers`] when that takes longer than `within`.
    pub async fn wait_ready(&self, storage_peers: usize, within: Duration) -> Result<Readiness, OverlayError> {
        let mut readiness = self.inner.readiness.clone();
        let ready = readiness.wait_for(|r| r.connected > 0 && r.storage_peers >= storage_peers);
        match tokio::time::timeout(within, ready).await {
            Ok(Ok(ready)) => Ok(*ready),
            Ok(Err(_)) => Err(OverlayError::ShuttingDown),
            Err(_) => {
                let now = self.readiness();
                Err(OverlayError::NoPeers(format!(
                    "{} connected, {} storage peers known of {storage_peers} wanted",
                    now.connected, now.storage_peers
                )))
            }
        }
    }

    /// Closes connections, writes the peer book and waits for both.
    pub async fn shutdown(&self) {
        self.inner.shutdown.cancel();
        let task = self.inner.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    /// One command with an answer.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, OverlayError> {
        let (reply, answer) = oneshot::channel();
        self.inner.commands.send(command(reply)).await.map_err(|_| OverlayError::ShuttingDown)?;
        answer.await.map_err(|_| OverlayError::ShuttingDown)
    }
}
