//! Puts a node together: identity, pinned domain, store, network. The only file that knows all of their interfaces.

use std::{collections::BTreeSet, ffi::OsString, sync::Arc, time::Duration};

use cairn_core::{peer_view::PeerView, region::agree};
use cairn_proto::{ByteSize, Domain, PeerKey, Region, message::Roles, network_file::NetworkFile};
use libp2p::{Multiaddr, multiaddr::Protocol};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio_util::sync::CancellationToken;

use super::{
    NodeSettings,
    front::Front,
    keeper::StoreKeeper,
    repairs::{self, Parts, Rebuilding},
};
use crate::{
    api::{
        NodeStatus, StoreStatus,
        server::{SHARDS_PAGE, ShardPage, ShardPlace},
    },
    audits::auditor::Auditor,
    courtesy::{Courtesy, CourtesyConfig},
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    fallback::Fallbacks,
    files::command::CommandStream,
    geoip::GeoIp,
    holdings::Holdings,
    identity::Identity,
    invitation,
    network::{self, LanMode, NetworkConfig, NetworkHandle},
    ops::SecretText,
    overlay::Overlay,
    standing::{Standings, StandingsConfig, ports::Witness},
    stewardship::{Stewardship, ports::StewardService},
    store::{ShardInfo, Store, StoreConfig},
    vault::{Vault, stream_input::StreamInput},
};

/// How long a node may take to listen on what it was told.
const LISTENING: Duration = Duration::from_secs(10);
/// Without a new address for so long a node has them all.
const SETTLED: Duration = Duration::from_millis(50);
/// Most that is kept free when nobody says otherwise.
const KEEP_FREE_MAX: u64 = 10 << 30;

/// A running node.
pub struct Node {
    dir: DataDir,
    fallback: Fallbacks,
    /// None when only the store was opened.
    online: Option<Online>,
    store: Option<Store>,
    /// Runs when this node stores.
    stewardship: Stewardship,
    /// Audits others when this node stores.
    auditor: Auditor,
    /// What we know of who watches what we hold; at rest when this node does not store.
    holdings: Holdings,
    /// Our part in rebuilds, when this node stores.
    rebuilding: Option<Rebuilding>,
    /// What this node thinks of its peers; none when only the store was opened.
    standings: Option<Standings>,
}

struct Online {
    handle: NetworkHandle,
    courtesy: Courtesy,
    overlay: Arc<dyn Overlay>,
    network: NetworkFile,
    peer: PeerKey,
    domain: Domain,
    region: Region,
    roles: Roles,
}

impl Online {
    fn addresses(&self) -> Vec<String> {
        self.handle.reach().borrow().addresses.iter().map(ToString::to_string).collect()
    }
}

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
        let told: Vec<_> = settings.external.iter().chain(&settings.listen).cloned().collect();
        let public = public_domain(&told);
        let at_public = public.is_some();
        let geoip = {
            let files = (settings.geoip.clone(), settings.geoip_asn.clone());
            blocking(move || GeoIp::open(files.0.as_deref(), files.1.as_deref()))
                .await?
                .map_err(|e| Failure::new(ExitCode::Usage, "GEOIP", "the GeoIP file cannot be used").caused_by(&e))?
        };
        let located = public.as_ref().and_then(|subnet| geoip.region(subnet));
        if let Some(located) = located.as_ref().filter(|l| !settings.region.is_unknown() && !agree(&settings.region, l))
        {
            tracing::warn!(declared = %settings.region, %located, "peers with a GeoIP file will not take us to be where we say");
        }
        let region = Some(settings.region.clone()).filter(|r| !r.is_unknown()).or(located).unwrap_or(Region::unknown());
        let stores = settings.roles.has(Roles::STORAGE);
        let fallback = || public.unwrap_or_else(|| Domain::of_peer(&peer));
        let domain =
            if stores { dir.pin_domain(settings.domain, fallback) } else { dir.domain(settings.domain, fallback) }?;
        if stores && domain.as_str().starts_with("id:") && domain != Domain::of_peer(&peer) {
            return Err(Failure::new(
                ExitCode::Failed,
                "DOMAIN_PINNED",
                format!("this node's domain is {domain}, which is that of another identity"),
            )
            .with_hint(
                "the identity was lost or replaced, and peers would refuse it; start with an empty data folder",
            ));
        }
        let store = if stores { Some(open_store(&dir, settings.give, settings.keep_free).await?) } else { None };
        let neighbours = network.bootstrap.iter().filter_map(|a| a.parse().ok()).chain(settings.listen.iter().cloned());
        let all_loopback = !network.bootstrap.is_empty()
            && network.bootstrap.iter().filter_map(|a| a.parse().ok()).all(|a| is_loopback(&a));
        let mut rebuilding = None;
        let (stewardship, holdings) = (Stewardship::default(), Holdings::default());
        let key = identity.signing_key().clone();
        let auditor = Auditor::default();
        let front = Arc::new(Front::new(stewardship.clone(), auditor.clone()));
        let mut config = NetworkConfig::client(network.clone(), identity, domain.clone(), entropy);
        config.region = settings.region;
        config.geoip = Arc::new(geoip);
        config.roles = settings.roles;
        config.give = settings.give.unwrap_or(ByteSize(0));
        config.listen = settings.listen.clone();
        config.external = settings.external.clone();
        // On a network that lives on this machine there is nobody else to be found.
        config.lan = LanMode {
            mdns: settings.mdns && !all_loopback,
            // Without a door the neighbourhood is all there is, unless this is the door.
            allow_private: neighbours.into_iter().any(|a| is_private(&a))
                || (network.bootstrap.is_empty() && !at_public),
        };
        if let Some(subnet) = settings.inbound_per_subnet {
            config.inbound.subnet = subnet.max(1).into();
        }
        config.port_mapping = stores && settings.mdns && !all_loopback;
        let keeper = store.clone().map(|store| Arc::new(StoreKeeper::new(store, holdings.clone())));
        config.store = keeper.clone().map(|keeper| keeper as Arc<dyn network::keeper::ShardKeeper>);
        config.data_dir = Some(dir.root().to_owned());
        config.stewards = stores.then(|| Arc::clone(&front) as Arc<dyn StewardService>);
        let courtesy = Courtesy::start(CourtesyConfig::new(settings.timetable, Some(dir.root().to_owned())));
        config.courtesy = Some(courtesy.clone());
        (config.announce_every, config.ping_every) = (settings.timers.announce, settings.timers.ping);
        config.follow_every = settings.timers.follow;
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
        listening(&handle).await;
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

    /// The data folder.
    #[must_use]
    pub fn dir(&self) -> &DataDir {
        &self.dir
    }

    fn online(&self) -> Result<&Online, Failure> {
        self.online.as_ref().ok_or_else(|| Failure::new(ExitCode::Failed, "OFFLINE", "this needs the network"))
    }

    /// The network.
    ///
    /// # Errors
    /// Only the store was opened.
    pub fn overlay(&self) -> Result<Arc<dyn Overlay>, Failure> {
        Ok(Arc::clone(&self.online()?.overlay))
    }

    /// Waits until somebody of the network is found, or the time is over: what follows will say it better.
    pub async fn meet(&self, within: Duration) {
        if let Some(online) = &self.online {
            let _ = online.handle.wait_ready(1, within).await;
        }
    }

    /// Why nobody lets us in, when somebody said so and nobody else is there.
    #[must_use]
    pub fn turned_away(&self) -> Option<Failure> {
        let readiness = self.online.as_ref()?.handle.readiness();
        let verdict = readiness.turned_away.filter(|_| readiness.connected == 0)?;
        let text = format!("the peers of this network do not let us in: {verdict}");
        Some(Failure::new(ExitCode::Refused, "TURNED_AWAY", text).with_hint(
            "ask whoever invited you for a new invitation, and give it with --invitation or CAIRN_INVITATION; check this \
             machine's clock",
        ))
    }

    /// Addresses with `/p2p/`, as they are now.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.online.as_ref().map(Online::addresses).unwrap_or_default()
    }

    /// Calls for each address that the node has and for each that it gets, until it ends.
    pub async fn follow_addresses(&self, mut listening: impl FnMut(&str)) {
        let Some(online) = &self.online else { return std::future::pending().await };
        let mut reach = online.handle.reach();
        let mut known = BTreeSet::new();
        loop {
            reach.mark_unchanged();
            let now: BTreeSet<String> = online.addresses().into_iter().collect();
            now.difference(&known).for_each(|address| listening(address));
            known = now;
            if reach.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Own key, in hex; empty when only the store was opened.
    #[must_use]
    pub fn peer(&self) -> String {
        self.online.as_ref().map(|o| o.peer.to_string()).unwrap_or_default()
    }

    /// The store, when this node keeps shards.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Who takes note of what is seen of peers.
    #[must_use]
    pub fn witness(&self) -> Option<Arc<dyn Witness>> {
        self.standings.clone().map(|standings| Arc::new(standings) as Arc<dyn Witness>)
    }

    /// Where the owner's verbs put what the network has nobody for.
    #[must_use]
    pub fn fallback(&self) -> Fallbacks {
        self.fallback.clone()
    }

    /// How this node uses its line.
    ///
    /// # Errors
    /// Only the store was opened.
    pub fn courtesy(&self) -> Result<&Courtesy, Failure> {
        Ok(&self.online()?.courtesy)
    }

    /// Says to the network again what we offer.
    pub async fn announce(&self) {
        if let Some(online) = &self.online {
            // A node that goes down has nothing to say.
            let _ = online.handle.announce().await;
        }
    }

    /// This node's work as a steward; at rest when it does not store.
    #[must_use]
    pub const fn stewardship(&self) -> &Stewardship {
        &self.stewardship
    }

    /// This node's audits of others; at rest when it does not store.
    #[must_use]
    pub const fn auditor(&self) -> &Auditor {
        &self.auditor
    }

    /// What is known of who watches what this node holds; at rest when it does not store.
    #[must_use]
    pub const fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    /// What this node thinks of its peers; none when only the store was opened.
    #[must_use]
    pub const fn standings(&self) -> Option<&Standings> {
        self.standings.as_ref()
    }

    /// Ends all that speaks (the holder's word, stewardship, audits), then the network, then the store: nothing may arrive at a store that is
    /// closed.
    pub async fn close(&self) {
        self.holdings.close().await;
        self.stewardship.close().await;
        self.auditor.close().await;
        if let Some(rebuilding) = &self.rebuilding {
            rebuilding.close().await;
        }
        if let Some(online) = &self.online {
            if let Some(standings) = &self.standings
                && online.handle.readiness().connected > 0
            {
                standings.said().await;
            }
            online.handle.shutdown().await;
        }
        if let Some(standings) = &self.standings {
            standings.close().await;
        }
        if let Some(store) = &self.store {
            store.close().await;
        }
    }

    /// Shards held, from a place on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn shards(&self, after: Option<ShardPlace>) -> Result<ShardPage, Failure> {
        let Some(store) = self.store.clone() else { return Ok(ShardPage::default()) };
        let shards = blocking(move || store.list_after(after, SHARDS_PAGE)).await?;
        let next = shards.last().filter(|_| shards.len() >= SHARDS_PAGE).map(|last| (last.group, last.ordinal));
        Ok(ShardPage { rows: shards.iter().map(shard_row).collect(), next })
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// Only the store was opened.
    pub fn status(&self, daemon: bool, peers: &[PeerView]) -> Result<NodeStatus, Failure> {
        let online = self.online()?;
        Ok(NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            daemon,
            peer: online.peer,
            network: online.network.name.clone(),
            network_id: online.network.id,
            domain: online.domain.clone(),
            region: online.region.clone(),
            roles: online.roles.names().iter().map(ToString::to_string).collect(),
            addresses: online.addresses(),
            storage_peers: peers.iter().filter(|p| p.roles.has(Roles::STORAGE)).count(),
            peers: peers.len(),
            store: self.store.as_ref().map(|store| {
                let usage = store.usage();
                StoreStatus {
                    pledged_bytes: usage.pledged,
                    live_bytes: usage.live_bytes,
                    trash_bytes: usage.trash_bytes,
                    record_bytes: usage.record_bytes,
                    dead_bytes: usage.dead_bytes,
                    disk_bytes: usage.disk_bytes,
                    free_bytes: usage.free_bytes,
                    shards: usage.shards,
                }
            }),
            vault: self.dir.has_vault(),
            courtesy: Some(online.courtesy.status()),
        })
    }
}

/// A folder that keeps nothing for others.
pub(crate) fn no_store(root: &std::path::Path) -> Failure {
    Failure::new(ExitCode::NotFound, "NO_STORE", format!("nothing is stored in {}", root.display()))
        .with_hint("name the data folder of a storing node with --data-dir")
}

/// Makes the vault of a data folder; its recovery phrase.
///
/// # Errors
/// There is one already, or the disk fails.
pub async fn make_vault(dir: &DataDir, passphrase: Option<SecretText>) -> Result<SecretText, Failure> {
    let root = dir.root().to_owned();
    blocking(move || Vault::init(&root, passphrase.as_ref()).map(|(_vault, phrase)| phrase)).await?
}

/// A command's output as a stream that fails when the command does; the command dies with `cancel`.
///
/// # Errors
/// The command cannot be started.
pub fn command_input(argv: &[OsString], cancel: CancellationToken) -> Result<StreamInput, Failure> {
    use crate::vault::stream_input::StreamItem;
    use tokio::io::AsyncReadExt;

    /// Bytes read at once.
    const BLOCK: usize = 256 * 1024;
    let mut stream = CommandStream::spawn(argv).map_err(|e| {
        Failure::new(ExitCode::StreamCommand, "STREAM_COMMAND", "the stream command cannot be run").caused_by(&e)
    })?;
    let (sender, input) = StreamInput::channel();
    tokio::spawn(async move {
        loop {
            let mut block = bytes::BytesMut::with_capacity(BLOCK);
            let read = tokio::select! {
                read = stream.read_buf(&mut block) => read,
                () = cancel.cancelled() => return,
                () = sender.closed() => return,
            };
            let item = match read {
                Ok(0) => StreamItem::End,
                Ok(_) => StreamItem::Bytes(block.freeze()),
                Err(e) => StreamItem::Failed(e.to_string()),
            };
            let last = !matches!(item, StreamItem::Bytes(_));
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    Ok(input)
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

/// Uses an invitation without a network: it becomes the pass of this folder's identity.
///
/// # Errors
/// There can be no identity, or the invitation cannot be used.
pub async fn settle_invitation(dir: &DataDir, network: &NetworkFile, given: SecretText) -> Result<(), Failure> {
    let (root, network, seed) = (dir.root().to_owned(), network.clone(), entropy()?);
    blocking(move || {
        let identity = load_identity(&root, &network, seed)?;
        invitation::settle(&root, &network, &identity.peer(), Some(&given), crate::vault::now()).map(|_| ())
    })
    .await?
}

/// Solving the puzzle may take minutes of one core.
fn load_identity(root: &std::path::Path, network: &NetworkFile, seed: [u8; 32]) -> Result<Identity, Failure> {
    Identity::load_or_create(root, network, &mut ChaCha20Rng::from_seed(seed))
        .map_err(|e| Failure::new(ExitCode::Failed, "IDENTITY", "this node has no usable identity").caused_by(&e))
}

fn shard_row(shard: &ShardInfo) -> serde_json::Value {
    let mut row = serde_json::to_value(shard).unwrap_or_default();
    row["slot"] = shard.slot.index().into();
    let lease = i64::try_from(shard.lease_until.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    row["lease"] = lease.map_or_else(|| "for ever".to_owned(), |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).into();
    row
}

/// The domain that a public listening address gives; for one that means every interface, the address that this
/// machine would send from.
fn public_domain(listen: &[Multiaddr]) -> Option<Domain> {
    listen.iter().filter_map(ip).find_map(|listening| {
        let address = if listening.is_unspecified() { sending_address(listening)? } else { listening };
        Domain::of_address(address)
    })
}

/// Asks the routing table; connecting a UDP socket sends nothing. The far ends are documentation addresses (RFC 5737,
/// RFC 3849).
fn sending_address(unspecified: std::net::IpAddr) -> Option<std::net::IpAddr> {
    let far = if unspecified.is_ipv4() { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let socket = std::net::UdpSocket::bind((unspecified, 0)).ok()?;
    socket.connect(far).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

fn ip(address: &Multiaddr) -> Option<std::net::IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

/// An address of this machine or its neighbourhood. The unspecified address says neither.
fn is_private(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| !ip.is_unspecified() && Domain::of_address(ip).is_none())
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
