//! Streams and questions: to whoever is connected at once, to others when a dial of ours has succeeded.

use cairn_proto::{PeerKey, message::ControlRequest};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::{AskReply, NetworkTask, OPEN_MAX};
use crate::network::{
    command::AskError,
    keys::peer_id,
    streams::{Kind, OpenError, OpenReply},
};

/// Requests for streams that wait for one peer to be dialled: the two lanes, a few times over, and as many questions to a steward.
const OPENERS_PER_PEER: usize = 32;

impl NetworkTask {
    pub(super) fn open_stream(&mut self, peer: &PeerKey, kind: Kind, reply: OpenReply) {
        let Some(id) = peer_id(peer) else {
            let _ = reply.send(Err(OpenError::Dial("its key is not valid".into())));
            return;
        };
        // A shard that it has may be the very one that its owner lacks, and every byte is checked; nothing else is asked of it.
        if kind != Kind::Shard && self.standings.is_convicted(peer) {
            let _ = reply.send(Err(OpenError::Dial("it is proved to have lied".into())));
            return;
        }
        if self.swarm.is_connected(&id) {
            self.swarm.behaviour_mut().streams_of(kind).open(id, reply);
            return;
        }
        if self.state.unreachable.get(&id).is_some_and(|until| Instant::now() < *until) {
            let _ = reply.send(Err(OpenError::Dial("it could not be reached a moment ago".into())));
            return;
        }
        let waiting = self.state.openers.entry(id).or_default();
        waiting.retain(|(_, reply)| !reply.is_closed());
        if waiting.len() >= OPENERS_PER_PEER {
            let _ = reply.send(Err(OpenError::Overloaded));
            return;
        }
        waiting.push((kind, reply));
        self.dial_peer(id, peer, Vec::new());
    }

    /// Connects to whoever will be asked soon, unless it could not be reached a moment ago.
    pub(super) fn reach(&mut self, peer: &PeerKey) {
        let Some(id) = peer_id(peer).filter(|id| !self.swarm.is_connected(id)) else { return };
        if self.state.unreachable.get(&id).is_none_or(|until| Instant::now() >= *until) {
            self.dial_peer(id, peer, Vec::new());
        }
    }

    pub(super) fn ask(
        &mut self,
        peer: &PeerKey,
        hints: Vec<Multiaddr>,
        request: ControlRequest,
        reply: Option<AskReply>,
    ) {
        let id = match self.may_ask(peer) {
            Ok(id) => id,
            Err(error) => {
                let _ = reply.map(|reply| reply.send(Err(error)));
                return;
            }
        };
        if self.swarm.is_connected(&id) {
            return self.send_question(&id, request, reply);
        }
        // Not left to libp2p, which gives the question up when anybody's dial to the peer fails.
        self.state.askers.entry(id).or_default().push((request, reply));
        self.dial_peer(id, peer, hints);
    }

    pub(super) fn send_question(&mut self, id: &PeerId, request: ControlRequest, reply: Option<AskReply>) {
        let question = self.swarm.behaviour_mut().control.send_request(id, request);
        if let Some(reply) = reply {
            self.state.asks.insert(question, reply);
        }
    }

    fn may_ask(&self, peer: &PeerKey) -> Result<PeerId, AskError> {
        let id = peer_id(peer).ok_or_else(|| AskError::Unreachable("its key is not valid".into()))?;
        if self.state.asks.len() + self.state.askers.values().map(Vec::len).sum::<usize>() >= OPEN_MAX {
            return Err(AskError::Overloaded);
        }
        if self.standings.is_convicted(peer) {
            return Err(AskError::Unreachable("it is proved to have lied".into()));
        }
        let failed = self.state.unreachable.get(&id).is_some_and(|until| Instant::now() < *until);
        if failed && !self.swarm.is_connected(&id) {
            return Err(AskError::Unreachable("it could not be reached a moment ago".into()));
        }
        Ok(id)
    }
}
