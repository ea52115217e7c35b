//! Questions that peers ask us, and what our questions brought.

use cairn_proto::{
    VaultKey,
    message::{ControlAnswer, ControlRequest, HeadRecord, control_request::Ask},
    wire::RefusalCode,
};
use libp2p::{
    PeerId, kad,
    request_response::{self, Message, ResponseChannel},
};

use super::{ANSWER_RETRY_MS, ANSWERING_MAX, ANSWERING_PER_PEER, NetworkTask, Timestamp};
use crate::network::{book::Learned, command::AskError, heads::Offered, keys::peer_key};

/// When a vault whose head moved too often may come again: the store lets one a second through.
const HEAD_RETRY_MS: u64 = 1000;

impl NetworkTask {
    pub(super) fn control_event(
        &mut self,
        event: request_response::Event<ControlRequest, ControlAnswer>,
        now: Timestamp,
    ) {
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.heard_of(&peer, now);
                self.question(peer, request, channel);
            }
            request_response::Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                self.heard_of(&peer, now);
                let from = peer_key(&peer);
                for advert in &response.adverts {
                    match self.book.learn(advert, from.as_ref(), now) {
                        Ok(Learned::New) => self.state.discovery.learned(self.monotone()),
                        Ok(_) => {}
                        Err(error) => tracing::trace!(%error, "an advert was not taken"),
                    }
                }
                self.proofs_came(&peer, &response.proofs);
                if let Some(reply) = self.state.asks.remove(&request_id) {
                    let _ = reply.send(Ok(response));
                }
            }
            request_response::Event::OutboundFailure { request_id, error, peer, .. } => {
                // The lost question may have been the one for its adverts: it may be asked again.
                self.state.adverts_asked.remove(&peer);
                if let Some(reply) = self.state.asks.remove(&request_id) {
                    let _ = reply.send(Err(AskError::Unreachable(error.to_string())));
                }
            }
            request_response::Event::InboundFailure { .. } | request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn heard_of(&mut self, peer: &PeerId, now: Timestamp) {
        if let Some(key) = peer_key(peer) {
            self.book.heard(&key, now);
        }
    }

    fn question(&mut self, peer: PeerId, request: ControlRequest, channel: ResponseChannel<ControlAnswer>) {
        match request.ask {
            Some(Ask::Adverts(wanted)) => {
                let adverts = self.some_adverts(wanted);
                self.answer(channel, ControlAnswer { adverts, ..ControlAnswer::default() });
            }
            Some(Ask::Proofs(wanted)) => {
                let proofs = self.proofs_for(&wanted);
                self.answer(channel, ControlAnswer { proofs, ..ControlAnswer::default() });
            }
            Some(Ask::KeepHead(encoded)) => self.keep_head(peer, encoded, channel),
            Some(Ask::FindHead(vault)) => self.find_head(peer, &vault, channel),
            None => self.answer(channel, ControlAnswer::default()),
        }
    }

    /// Whether one more answer of this peer's may wait for the disk.
    fn may_answer(&self, peer: &PeerId) -> bool {
        let its = self.state.answering_whom.get(peer).copied().unwrap_or(0);
        its < ANSWERING_PER_PEER && self.state.answering.len() < ANSWERING_MAX
    }

    /// An answer is ready.
    pub(super) fn answered(&mut self, peer: &PeerId) {
        if let Some(open) = self.state.answering_whom.get_mut(peer) {
            *open -= 1;
            if *open == 0 {
                self.state.answering_whom.remove(peer);
            }
        }
    }

    /// Keeps a head as the DHT does, and says yes only once it is durable.
    fn keep_head(&mut self, peer: PeerId, encoded: Vec<u8>, channel: ResponseChannel<ControlAnswer>) {
        let Some(keeper) = self.keeper.clone() else { return self.answer(channel, ControlAnswer::default()) };
        if !self.may_answer(&peer) {
            return self.answer(channel, ControlAnswer { retry_after_ms: ANSWER_RETRY_MS, ..ControlAnswer::default() });
        }
        let Ok(head) = HeadRecord::open(&encoded) else { return self.answer(channel, ControlAnswer::default()) };
        let key = kad::RecordKey::new(&HeadRecord::lookup_key(&head.vault));
        let heads = self.swarm.behaviour_mut().kad.store_mut();
        match heads.offer(kad::Record::new(key, encoded.clone()), peer) {
            Ok(Offered::Taken | Offered::Known) => {
                *self.state.answering_whom.entry(peer).or_default() += 1;
                self.state.answering.spawn(async move {
                    let kept = keeper.keep_head(head.vault, encoded).await;
                    let retry_after_ms = if kept == Err(RefusalCode::Busy) { HEAD_RETRY_MS } else { 0 };
                    (peer, channel, ControlAnswer { granted: kept.is_ok(), retry_after_ms, ..ControlAnswer::default() })
                });
            }
            Err(_) => self.answer(channel, ControlAnswer::default()),
        }
    }

    fn find_head(&mut self, peer: PeerId, vault: &[u8], channel: ResponseChannel<ControlAnswer>) {
        let found = |head: Vec<u8>| ControlAnswer { granted: !head.is_empty(), head, ..ControlAnswer::default() };
        let Ok(vault) = VaultKey::from_slice(vault) else { return self.answer(channel, ControlAnswer::default()) };
        let kept = self.swarm.behaviour_mut().kad.store_mut().find(&vault).map(<[u8]>::to_vec);
        match (kept, self.keeper.clone()) {
            (Some(head), _) => self.answer(channel, found(head)),
            (None, None) => self.answer(channel, ControlAnswer::default()),
            (None, Some(_)) if !self.may_answer(&peer) => {
                self.answer(channel, ControlAnswer { retry_after_ms: ANSWER_RETRY_MS, ..ControlAnswer::default() });
            }
            (None, Some(keeper)) => {
                *self.state.answering_whom.entry(peer).or_default() += 1;
                self.state.answering.spawn(async move {
                    let head = keeper.find_head(vault).await.ok().flatten().unwrap_or_default();
                    (peer, channel, found(head))
                });
            }
        }
    }
}
