//! Streams that peers open to us, handed to tasks of their own, so many for each peer.

use cairn_proto::{Domain, PeerKey, Timestamp};

use super::NetworkTask;
use crate::network::{
    keys::{peer_id, peer_key},
    streams::InboundStream,
    transfer::server::PeerPlaces,
};

impl NetworkTask {
    fn places(&mut self, peer: PeerKey) -> PeerPlaces {
        let limits = self.limits;
        self.state.places.entry(peer).or_insert_with(|| PeerPlaces::new(limits)).clone()
    }

    /// A stream for shards.
    pub(super) fn serve(&mut self, InboundStream { peer, stream }: InboundStream, now: Timestamp) {
        let Some(key) = peer_key(&peer) else { return };
        self.book.heard(&key, now);
        let places = self.places(key);
        let Ok(place) = places.streams.clone().try_acquire_owned() else {
            tracing::debug!(peer = %key.short(), "too many shard streams");
            return;
        };
        let serving = self.server.clone().serve(key, places, stream, self.shutdown.child_token());
        self.state.serving.spawn(async move {
            serving.await;
            drop(place);
        });
    }

    /// A question on the stewards' protocol.
    pub(super) fn asked(&mut self, InboundStream { peer, stream }: InboundStream, now: Timestamp) {
        let Some(key) = peer_key(&peer) else { return };
        self.book.heard(&key, now);
        let places = self.places(key);
        if let Some(serving) = self.desk.clone().serve(key, &places, stream) {
            let stop = self.shutdown.child_token();
            self.state.serving.spawn(async move {
                let _ = stop.run_until_cancelled(serving).await;
            });
        }
    }

    /// What is pinned for a peer. One that is here and not known yet is asked what it is.
    pub(super) fn pinned_domain(&mut self, peer: &PeerKey) -> Option<Domain> {
        let known = self.book.domain(peer).cloned();
        if known.is_none()
            && let Some(id) = peer_id(peer)
            && self.state.connected.contains(&id)
        {
            self.ask_for_adverts(id);
        }
        known
    }

    /// A stream that nobody waits for, or that comes while too many wait, is dropped: the peer comes again.
    pub(super) fn hand_over(&mut self, inbound: InboundStream) {
        let taken = self.state.rebuilds.as_ref().is_some_and(|streams| streams.try_send(inbound).is_ok());
        if !taken {
            tracing::debug!("a rebuild's stream was dropped");
        }
    }
}
