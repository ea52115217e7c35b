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
mod config;
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
mod probing;
mod rebuilds;
mod refusals;
mod scoop;
mod start;
mod stewards;
mod streams;
mod task;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;
mod waits;
mod woken;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cairn_proto::{Domain, PeerKey, Timestamp};
use ed25519_dalek::SigningKey;
use libp2p::Multiaddr;
use rand_chacha::ChaCha20Rng;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use self::config::{LanMode, NetworkConfig};
pub use self::door::Verdict;
pub use self::origins::InboundLimits;
pub use self::start::{NetworkError, start};
pub use self::stewards::StewardLimits;
pub use self::transfer::{link::ClientPatience, server::ServerLimits};
pub use self::waits::Waits;
use self::{command::Command, presence::Presence, stewards::StewardClient, transfer::client::ShardClient};
use crate::{courtesy::Courtesy, overlay::OverlayError, standing::Standings};

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
