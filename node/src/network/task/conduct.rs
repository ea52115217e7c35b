//! What goes round about peers' conduct: gossip of it, proofs for whoever connects, and the door that is shut to liars.

use std::time::Duration;

use cairn_proto::{
    PeerKey, Timestamp,
    message::{ControlRequest, PROOFS_PER_ANSWER_MAX, ProofsWanted, control_request::Ask},
};
use libp2p::{PeerId, gossipsub};
use tokio::time::Instant;

use super::{NetworkTask, dials::Verdict};
use crate::{
    network::{
        clock,
        gossip::OUTSIDE,
        keys::{peer_id, peer_key},
    },
    standing::Heard,
};

/// Who may be heard is looked up this often: a voice counts from a week on, so seconds are soon enough, and a full book takes a
/// millisecond or two.
const SURVEY_EVERY: Duration = Duration::from_secs(5);
/// Messages of ours at a tick, four times a second.
const SAID_AT_ONCE: usize = 4;
/// A peer that comes again is asked for proofs this often: what is new goes round as gossip, but an owner that was here a minute ago may
/// have audited its holders meanwhile, and the question is a digest.
const PROOFS_APART: Duration = Duration::from_secs(60);
/// Peers that were asked within that time; as many as may be connected twice over. Beyond, others tell us the same.
const PROOFS_ASKED_MAX: usize = 2048;
/// Answers taken of one peer in a row: two thousand proofs, eight megabytes; the rest comes from the next.
const PAGES_MAX: u32 = 64;

/// What is remembered of it.
pub(super) struct Conduct {
    survey_at: Instant,
    /// Convictions that were acted on.
    convictions: u64,
    /// When connected peers were last asked for proofs, and how many answers they gave.
    asked: std::collections::HashMap<PeerId, (Instant, u32)>,
}

impl Conduct {
    pub(super) fn new(now: Instant) -> Self {
        Self { survey_at: now, convictions: 0, asked: std::collections::HashMap::new() }
    }
}

impl NetworkTask {
    /// At every tick.
    pub(super) fn mind_conduct(&mut self, instant: Instant, now: Timestamp) {
        if instant >= self.state.conduct.survey_at {
            self.state.conduct.survey_at = instant + SURVEY_EVERY;
            self.standings.survey(self.book.voices(), now);
            self.state.conduct.asked.retain(|_, (at, _)| instant.duration_since(*at) < PROOFS_APART);
        }
        if !self.state.connected.is_empty() {
            self.speak();
        }
        let convictions = self.standings.convictions();
        if std::mem::replace(&mut self.state.conduct.convictions, convictions) != convictions {
            self.shut_out();
        }
    }

    fn speak(&mut self) {
        for _ in 0..SAID_AT_ONCE {
            let Some(message) = self.standings.next_to_say() else { return };
            let topic = self.protocols.evidence.clone();
            match self.swarm.behaviour_mut().gossip.publish(topic, message.clone()) {
                Ok(_) | Err(gossipsub::PublishError::Duplicate) => {}
                Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::AllQueuesFull(_)) => {
                    return self.standings.say_again(message);
                }
                Err(error) => tracing::debug!(%error, "what we have to say of a peer was not gossiped"),
            }
        }
    }

    /// Ends connections to who is proved to have lied. Admission lets no new one in, and [`Self::may_stay`] closes what we make.
    fn shut_out(&mut self) {
        for liar in self.standings.convicted() {
            let Some(id) = peer_id(&liar) else { continue };
            self.swarm.behaviour_mut().kad.remove_peer(&id);
            if self.swarm.is_connected(&id) {
                tracing::info!(peer = %liar.short(), "the connection to a peer that lied is closed");
                let _ = self.swarm.disconnect_peer_id(id);
            }
        }
    }

    /// Whether a connection that was just made is kept. Admission refuses liars that come; where we went to one it is for a shard that it
    /// has, or else some behaviour's walk went there at another peer's word, and the connection is closed again. One that is kept carries
    /// no gossip, which would keep it open for ever.
    pub(super) fn may_stay(&mut self, id: PeerId) -> bool {
        if !peer_key(&id).is_some_and(|key| self.standings.is_convicted(&key)) {
            return true;
        }
        let wanted = self.state.openers.contains_key(&id) || self.state.connected.contains(&id);
        if wanted {
            self.swarm.behaviour_mut().gossip.set_application_score(&id, OUTSIDE);
        } else {
            tracing::debug!(peer = %id, "a connection to a peer that lied is closed: nobody here wants anything of it");
            let _ = self.swarm.disconnect_peer_id(id);
            self.give_up(id, Verdict::None, "it is proved to have lied", clock());
        }
        wanted
    }

    /// A message on the topic of evidence.
    pub(super) fn evidence_gossiped(
        &self,
        message: &gossipsub::Message,
        now: Timestamp,
    ) -> gossipsub::MessageAcceptance {
        let Some(publisher) = message.source.as_ref().and_then(peer_key) else {
            return gossipsub::MessageAcceptance::Reject;
        };
        match self.standings.gossiped(&message.data, publisher, now) {
            Heard::News => gossipsub::MessageAcceptance::Accept,
            Heard::Nothing => gossipsub::MessageAcceptance::Ignore,
            Heard::False => {
                tracing::debug!(publisher = %publisher.short(), "what was gossiped of a peer proves nothing");
                gossipsub::MessageAcceptance::Reject
            }
        }
    }

    /// Whoever connects may have proofs that we missed, as we may have some for it.
    pub(super) fn ask_for_proofs(&mut self, id: PeerId) {
        let asked = &mut self.state.conduct.asked;
        if asked.contains_key(&id) || asked.len() >= PROOFS_ASKED_MAX {
            return;
        }
        asked.insert(id, (Instant::now(), 0));
        self.ask_for_page(&id, Vec::new());
    }

    fn ask_for_page(&mut self, id: &PeerId, after: Vec<u8>) {
        let Some(peer) = peer_key(id) else { return };
        let wanted = ProofsWanted { digest: self.standings.proofs_digest().to_vec(), after };
        self.ask(&peer, Vec::new(), ControlRequest { ask: Some(Ask::Proofs(wanted)) }, None);
    }

    /// Proofs in an answer. They are verified as if anybody had brought them.
    pub(super) fn proofs_came(&mut self, id: &PeerId, proofs: &[Vec<u8>]) {
        let Some((_, pages)) = self.state.conduct.asked.get_mut(id).filter(|_| !proofs.is_empty()) else { return };
        *pages += 1;
        let pages = *pages;
        let mut last: Option<PeerKey> = None;
        for file in proofs.iter().take(PROOFS_PER_ANSWER_MAX) {
            match self.standings.take_proof(file) {
                // In order, so that the next page is another one.
                Some(subject) if last.is_none_or(|last| subject > last) => last = Some(subject),
                _ => return tracing::debug!(peer = %id, "a peer answered with a proof that proves nothing"),
            }
        }
        if let Some(last) = last.filter(|_| proofs.len() >= PROOFS_PER_ANSWER_MAX && pages < PAGES_MAX) {
            self.ask_for_page(id, last.as_bytes().to_vec());
        }
    }

    /// Proofs for somebody who asks.
    pub(super) fn proofs_for(&self, wanted: &ProofsWanted) -> Vec<Vec<u8>> {
        let after = PeerKey::from_slice(&wanted.after).ok();
        self.standings.proofs_for(&wanted.digest, after, PROOFS_PER_ANSWER_MAX)
    }
}
