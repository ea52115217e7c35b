//! Puts a node's network together: transports, the Swarm, the peer book as it was left, the task that owns them all.

use std::{collections::HashSet, num::NonZeroU8, path::PathBuf, sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    quic, tcp, yamux,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Inner, NetworkConfig, NetworkHandle, Reach, Readiness, addresses,
    behaviour::{Choices, NodeBehaviour, Protocols},
    book::{self, PeerBook},
    clock,
    door::Door,
    heads::HeadRecords,
    invitations::Invitations,
    keeper::ShardKeeper,
    keys, paces,
    presence::Presence,
    refusals::{Heedful, Refusals},
    stewards::{Desk, StewardClient},
    task::{self, NetworkTask, SelfPortrait, State},
    tls,
    transfer::{client::ShardClient, server::Server, workers::Workers},
};
use crate::{standing::Standings, store::HEADS_MAX, timers::Timers};

/// Commands that may wait for the Swarm's owner; it takes thousands a second, so more means that it is stuck.
const COMMANDS_MAX: usize = 256;
/// A packet this often keeps a quiet QUIC connection: NATs forget UDP after 30 seconds at the earliest (RFC 4787 asks for two
/// minutes). libp2p's five seconds would be a third of an idle node's budget.
const QUIC_ALIVE: Duration = Duration::from_secs(15);
/// A connection without streams stays this long: storage peers are used again and again.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);
/// Addresses of one peer that are tried at once among neighbours: all of an advert, and as many again by hearsay.
const DIALLED_AT_ONCE: NonZeroU8 = NonZeroU8::MIN.saturating_add(15);
/// Heads that may wait to be written down.
const HEADS_WAITING_MAX: usize = 256;

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
            known_to_store: config.known_to_store,
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
        .with_swarm_config(|c| {
            let c = c.with_idle_connection_timeout(IDLE_CONNECTION);
            // Among neighbours QUIC waits for TCP (`refusals`); libp2p's own order has TCP wait 30 ms for a QUIC address beside it,
            // at the beginning of each verb.
            if config.lan.allow_private { c.with_dial_concurrency_factor(DIALLED_AT_ONCE) } else { c.with_smart_dial() }
        })
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
