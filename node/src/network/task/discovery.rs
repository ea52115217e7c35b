//! Looking for others, as [`cairn_core::discovery`] decides.

use cairn_proto::{Timestamp, message::ADVERTS_PER_ANSWER_MAX};
use libp2p::{PeerId, kad};
use rand_core::Rng as _;
use tokio::time::Instant;

use super::{NetworkTask, adverts_please};
use crate::network::keys::peer_key;

impl NetworkTask {
    /// Walks and asks when it is time.
    pub(super) fn look_for_others(&mut self) {
        let now = self.monotone();
        if self.state.discovery.is_walk_due(now) && self.swarm.behaviour_mut().kad.bootstrap().is_err() {
            self.walked(0, now);
        }
        if self.state.discovery.is_question_due(now)
            && let Some(peer) = self.somebody_not_asked()
        {
            self.ask_for_adverts(peer);
        }
    }

    /// A walk, or a part of one, is over.
    pub(super) fn bootstrapped(&mut self, stats: &kad::QueryStats, last: bool) {
        // Each part asks some of the same peers again.
        self.state.walk_answers = self.state.walk_answers.max(stats.num_successes());
        if last {
            let answers = std::mem::take(&mut self.state.walk_answers) as usize;
            tracing::debug!(answers, "a walk to our own place ended");
            self.walked(answers, self.monotone());
        }
    }

    fn walked(&mut self, answers: usize, now: Timestamp) {
        let lot = self.rng.next_u32();
        self.state.discovery.walked(answers, self.book.storage_peers(), lot, now);
    }

    /// Asks a peer that just came what it is and whom it knows; of one that was asked a moment ago, only what it is now: it may have come
    /// back as something else.
    pub(super) fn greet_with_question(&mut self, peer: PeerId) {
        if !self.state.adverts_asked.contains_key(&peer) {
            self.ask_for_adverts(peer);
        } else if let Some(key) = peer_key(&peer) {
            self.ask(&key, Vec::new(), adverts_please(1), None);
        }
    }

    /// Asks a connected peer for adverts, unless it was asked a moment ago.
    pub(super) fn ask_for_adverts(&mut self, peer: PeerId) {
        if let Some(key) = peer_key(&peer)
            && !self.state.adverts_asked.contains_key(&peer)
        {
            self.state.adverts_asked.insert(peer, Instant::now());
            self.ask(&key, Vec::new(), adverts_please(ADVERTS_PER_ANSWER_MAX as u32), None);
        }
    }

    /// A connected peer by lot, of those that were not asked for adverts lately.
    fn somebody_not_asked(&mut self) -> Option<PeerId> {
        let asked = &self.state.adverts_asked;
        let others: Vec<PeerId> = self.state.connected.iter().filter(|p| !asked.contains_key(p)).copied().collect();
        let lot = self.rng.next_u32() as usize;
        others.get(lot.checked_rem(others.len())?).copied()
    }
}
