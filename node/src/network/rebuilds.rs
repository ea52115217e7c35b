//! Streams of rebuilds: what [`crate::rebuild`] needs of the network.

use std::collections::BTreeSet;

use cairn_core::peer_view::PeerView;
use cairn_proto::{Domain, PeerKey, Timestamp};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;

use super::{
    NetworkHandle,
    command::Command,
    keys::peer_key,
    streams::{self, InboundStream, Kind},
};
use crate::{
    courtesy::Courtesy,
    overlay::{OverlayError, TransferError},
    rebuild::{Arrival, Pipe, RebuildNet},
};

/// Streams that may wait for the task that answers them; it only spawns, so more mean an attack.
const WAITING_MAX: usize = 64;

impl NetworkHandle {
    /// Streams of rebuilds that peers open to us, from now on. Whoever asks last gets them; without anybody they are dropped.
    ///
    /// # Errors
    /// [`OverlayError::ShuttingDown`].
    pub async fn rebuild_arrivals(&self) -> Result<BoxStream<'static, Arrival>, OverlayError> {
        let (streams, arriving) = mpsc::channel(WAITING_MAX);
        let told = self.inner.commands.send(Command::AcceptRebuilds { streams }).await;
        told.map_err(|_| OverlayError::ShuttingDown)?;
        let arrivals = stream::unfold(arriving, |mut arriving| async move {
            loop {
                let InboundStream { peer, stream } = arriving.recv().await?;
                // Only peers with such keys are admitted.
                if let Some(from) = peer_key(&peer) {
                    return Some((Arrival { from, pipe: Box::new(stream) as Pipe }, arriving));
                }
            }
        });
        Ok(arrivals.boxed())
    }
}

impl RebuildNet for NetworkHandle {
    fn courtesy(&self) -> Option<&Courtesy> {
        self.inner.courtesy.as_ref()
    }

    fn me(&self) -> PeerKey {
        self.inner.me
    }

    fn open(&self, to: PeerKey) -> BoxFuture<'_, Result<Pipe, TransferError>> {
        async move {
            let stream = streams::open(&self.inner.commands, to, Kind::Rebuild, self.inner.waits.question).await?;
            Ok(Box::new(stream) as Pipe)
        }
        .boxed()
    }

    fn silent(&self, peers: Vec<PeerKey>, since: Timestamp) -> BoxFuture<'_, BTreeSet<PeerKey>> {
        async move {
            let known: Vec<PeerView> = self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default();
            let heard: BTreeSet<PeerKey> =
                known.iter().filter(|view| view.stores() && view.last_heard >= since).map(|view| view.peer).collect();
            let there = |peer: &PeerKey| heard.contains(peer) || self.inner.presence.has(peer);
            peers.into_iter().filter(|peer| !there(peer)).collect()
        }
        .boxed()
    }

    fn pinned_domain(&self, peer: PeerKey) -> BoxFuture<'_, Option<Domain>> {
        async move { self.ask(|reply| Command::PinnedDomain { peer, reply }).await.ok().flatten() }.boxed()
    }
}
