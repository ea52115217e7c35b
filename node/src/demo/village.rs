//! The demo's network: many nodes in this process, and a look into all their stores.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use cairn_proto::{ByteSize, Domain, Region, message::Roles, network_file::NetworkFile};

use crate::{
    daemon::{Node, NodeSettings},
    data_dir::{DataDir, WriterLock},
    failure::{ExitCode, Failure},
    lab::REGIONS,
};

/// All nodes together know each other by then, or something is wrong.
const KNOWN: Duration = Duration::from_secs(120);

/// Nodes that stand in the network file.
const DOORS: usize = 2 * super::LOSSES;

/// A node of the network, while it lives.
struct Resident {
    node: Node,
    region: Region,
    domain: Domain,
    _lock: WriterLock,
}

/// The network.
#[derive(Default)]
pub(super) struct Village {
    network: Option<NetworkFile>,
    residents: BTreeMap<usize, Resident>,
}

impl Village {
    /// Starts all nodes and waits until they know each other.
    pub(super) async fn found(&mut self, root: &Path, nodes: usize) -> Result<(), Failure> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed)
            .map_err(|e| Failure::new(ExitCode::Failed, "ENTROPY", "the system gives no random bytes").caused_by(&e))?;
        let founder = ed25519_dalek::SigningKey::from_bytes(&seed);
        let mut network = NetworkFile::create("demo", 4, &founder)
            .map_err(|e| Failure::new(ExitCode::Failed, "NETWORK_FILE", "cannot make a network").caused_by(&e))?;
        let first = Resident::start(root, 0, &network).await?;
        network.bootstrap = first.node.addresses();
        self.residents.insert(0, first);
        let others = (1..nodes).map(|index| Resident::start(root, index, &network));
        let started = futures::future::join_all(others).await;
        for (index, resident) in (1..nodes).zip(started) {
            self.residents.insert(index, resident?);
        }
        // More doors than holders that will go away, so that the owner finds one open afterwards.
        network.bootstrap = self.residents.values().take(DOORS).flat_map(|r| r.node.addresses()).collect();
        self.network = Some(network);
        self.all_know_all().await
    }

    async fn all_know_all(&self) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + KNOWN;
        let others = self.residents.len() - 1;
        for (index, resident) in &self.residents {
            loop {
                let known = resident.node.overlay()?.peers(false).await.map_or(0, |p| p.len());
                if known >= others {
                    break;
                }
                if tokio::time::Instant::now() >= deadline {
                    let message = format!("node {index} found only {known} of {others} others");
                    return Err(Failure::new(ExitCode::TooFewPeers, "DEMO", message));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// The network file. Empty only before [`Village::found`], which nobody asks.
    pub(super) fn network(&self) -> &NetworkFile {
        self.network.as_ref().unwrap_or_else(|| unreachable!("DEMO: the network was founded first"))
    }

    /// Stops a node.
    pub(super) async fn stop(&mut self, index: usize) {
        if let Some(resident) = self.residents.remove(&index) {
            resident.node.close().await;
        }
    }

    /// Stops all.
    pub(super) async fn close(&mut self) {
        let residents = std::mem::take(&mut self.residents);
        futures::future::join_all(residents.values().map(|r| r.node.close())).await;
    }

    /// Looks into every store.
    pub(super) async fn shard_map(&self) -> Result<ShardMap, Failure> {
        let mut map = ShardMap::default();
        for (index, resident) in &self.residents {
            let mut rows = Vec::new();
            let mut after = None;
            loop {
                let page = resident.node.shards(after).await?;
                rows.extend(page.rows);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            for row in rows {
                let (Some(group), Some(slot), Some(ordinal)) =
                    (row["group"].as_str(), row["slot"].as_u64(), row["ordinal"].as_u64())
                else {
                    continue;
                };
                let stripe = map.stripes.entry((group.to_owned(), ordinal)).or_default();
                stripe.push(Holder {
                    slot,
                    node: *index,
                    peer: resident.node.peer(),
                    domain: resident.domain.to_string(),
                    region: resident.region.to_string(),
                });
            }
        }
        Ok(map)
    }
}

impl Resident {
    async fn start(root: &Path, index: usize, network: &NetworkFile) -> Result<Self, Failure> {
        let wrong = |e: &(dyn std::error::Error + 'static)| {
            Failure::new(ExitCode::Failed, "DEMO", format!("cannot start node {index}")).caused_by(e)
        };
        let region = Region::new(REGIONS[index % REGIONS.len()]).map_err(|e| wrong(&e))?;
        let domain = Domain::operator(&format!("demo-{index:02}")).map_err(|e| wrong(&e))?;
        let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
        let roles = if index == 0 { Roles::STORAGE.with(Roles::BOOTSTRAP) } else { Roles::STORAGE };
        let settings = NodeSettings {
            roles,
            listen: listen.iter().filter_map(|a| a.parse().ok()).collect(),
            region: region.clone(),
            geoip: None,
            geoip_asn: None,
            domain: Some(domain.clone()),
            give: Some(ByteSize(64 << 30)),
            keep_free: Some(ByteSize(64 << 20)),
            mdns: false,
            inbound_per_subnet: None,
            external: Vec::new(),
            timers: crate::timers::Timers::default(),
            timetable: cairn_core::courtesy::timetable::Timetable::free(),
            fallback: crate::fallback::Fallbacks::default(),
            invitation: None,
            needs_pass: true,
        };
        let dir = DataDir::open(&root.join(format!("node-{index:02}")))?;
        let lock = dir.lock("demo")?;
        let node = Node::start(dir, network.clone(), settings).await?;
        Ok(Self { node, region, domain, _lock: lock })
    }
}

/// One shard's place.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) slot: u64,
    pub(super) node: usize,
    pub(super) peer: String,
    pub(super) domain: String,
    pub(super) region: String,
}

/// Which node holds what.
#[derive(Debug, Default)]
pub(super) struct ShardMap {
    stripes: BTreeMap<(String, u64), Vec<Holder>>,
}

/// One stripe and its holders, in the order of slots.
pub(super) struct Stripe {
    group: String,
    pub(super) holders: Vec<Holder>,
}

impl Stripe {
    pub(super) fn group_short(&self) -> &str {
        &self.group[..8.min(self.group.len())]
    }
}

impl ShardMap {
    pub(super) fn shards(&self) -> usize {
        self.stripes.values().map(Vec::len).sum()
    }

    pub(super) fn groups(&self) -> usize {
        self.stripes.keys().map(|(group, _)| group).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn holders(&self) -> usize {
        self.stripes.values().flatten().map(|h| h.node).collect::<BTreeSet<_>>().len()
    }

    /// **SEP-1**, checked over all stores.
    pub(super) fn check_separation(&self) -> Result<(), Failure> {
        let mut slots = BTreeMap::new();
        for ((group, _), holders) in &self.stripes {
            for holder in holders {
                let first = *slots.entry((group, holder.node)).or_insert(holder.slot);
                if first != holder.slot {
                    let message = format!(
                        "SEP-1 is broken: node {} holds slots {first} and {} of a group",
                        holder.node, holder.slot
                    );
                    return Err(Failure::new(ExitCode::Failed, "SEP_1", message));
                }
            }
        }
        Ok(())
    }

    /// The stripe with the most slots, all of its shards there.
    pub(super) fn example_stripe(&self) -> Option<Stripe> {
        let ((group, _), holders) = self.stripes.iter().max_by_key(|(_, holders)| holders.len())?;
        let mut holders = holders.clone();
        holders.sort_by_key(|h| h.slot);
        Some(Stripe { group: group.clone(), holders })
    }
}
