//! A running node: what it is made of, what it says of itself, how it ends.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cairn_core::peer_view::PeerView;
use cairn_proto::{Domain, PeerKey, Region, message::Roles, network_file::NetworkFile};
use futures::FutureExt as _;

use super::{assemble::blocking, repairs::Rebuilding};
use crate::{
    api::{
        NodeStatus, StoreStatus,
        server::{SHARDS_PAGE, ShardPage, ShardPlace},
    },
    audits::auditor::Auditor,
    courtesy::Courtesy,
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    fallback::Fallbacks,
    holdings::Holdings,
    network::NetworkHandle,
    overlay::Overlay,
    standing::{Standings, ports::Witness},
    stewardship::Stewardship,
    store::{ShardInfo, Store},
    vault::verbs::Meeting,
};

/// A running node.
pub struct Node {
    pub(super) dir: DataDir,
    pub(super) fallback: Fallbacks,
    /// None when only the store was opened.
    pub(super) online: Option<Online>,
    pub(super) store: Option<Store>,
    /// Runs when this node stores.
    pub(super) stewardship: Stewardship,
    /// Audits others when this node stores.
    pub(super) auditor: Auditor,
    /// What we know of who watches what we hold; at rest when this node does not store.
    pub(super) holdings: Holdings,
    /// Our part in rebuilds, when this node stores.
    pub(super) rebuilding: Option<Rebuilding>,
    /// What this node thinks of its peers; none when only the store was opened.
    pub(super) standings: Option<Standings>,
}

pub(super) struct Online {
    pub(super) handle: NetworkHandle,
    pub(super) courtesy: Courtesy,
    pub(super) overlay: Arc<dyn Overlay>,
    pub(super) network: NetworkFile,
    pub(super) peer: PeerKey,
    pub(super) domain: Domain,
    pub(super) region: Region,
    pub(super) roles: Roles,
}

impl Online {
    fn addresses(&self) -> Vec<String> {
        self.handle.reach().borrow().addresses.iter().map(ToString::to_string).collect()
    }
}

impl Node {
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

    /// Waits until somebody of the network is found, or the time is over: what follows will say that better. An error when nobody
    /// lets us in, somebody said so, and nobody else is there.
    pub fn meeting(&self, within: Duration) -> Meeting {
        let handle = self.online.as_ref().map(|online| online.handle.clone());
        let meeting = async move {
            let Some(handle) = handle else { return Ok(()) };
            let _ = handle.wait_ready(1, within).await;
            let readiness = handle.readiness();
            let Some(verdict) = readiness.turned_away.filter(|_| readiness.connected == 0) else { return Ok(()) };
            let text = format!("the peers of this network do not let us in: {verdict}");
            Err(Failure::new(ExitCode::Refused, "TURNED_AWAY", text).with_hint(
                "ask whoever invited you for a new invitation, and give it with --invitation or CAIRN_INVITATION; check this \
                 machine's clock",
            ))
        };
        meeting.boxed().shared()
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

fn shard_row(shard: &ShardInfo) -> serde_json::Value {
    let mut row = serde_json::to_value(shard).unwrap_or_default();
    row["slot"] = shard.slot.index().into();
    let lease = i64::try_from(shard.lease_until.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    row["lease"] = lease.map_or_else(|| "for ever".to_owned(), |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).into();
    row
}
