//! Everything that is thought, under one lock: figures, proofs, and what waits to be said or written.
//!
//! Days and weeks of the core are rounds here ([`crate::timers::Timers::round`]): in a trial in which everything is faster, time as
//! the figures see it is too. `Mind::at` translates; everything outside it is the node's own clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cairn_core::{
    audit::{Conviction, convict},
    peer_view::PerMille,
    reputation::{Observed, Reputation, Standing},
};
use cairn_proto::{
    DecodeError, PeerKey, StatementId, Timestamp,
    audit::Evidence,
    network_file::{NetworkFile, solves_puzzle},
};
use ed25519_dalek::SigningKey;

use super::{report::Invited, silences::Silences, talk::Talk};
use crate::network::invitations::Invitations;

pub(super) const DAY_MS: u64 = 24 * 3600 * 1000;
/// Score of a peer that aged and that nothing was seen of: where it begins, above what placement asks for, so that nobody is out
/// because nobody asked it anything yet.
const AGED: PerMille = 800;
/// Above it no newcomer is, and below it placement takes nobody ([`cairn_core::placement`]).
const NEWCOMER: PerMille = 500;

/// What was done with a piece of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Believed {
    /// It convicts somebody who was not convicted.
    News(StatementId),
    /// It was known, or there is no room for another stranger's.
    Known,
}

/// What this node thinks.
pub(super) struct Mind {
    pub(super) me: PeerKey,
    pub(super) key: SigningKey,
    pub(super) network: NetworkFile,
    pub(super) reputation: Reputation,
    /// The proofs, by whom they convict; as many as convictions are kept (4 KB each, so 36 MB when somebody floods us with true ones
    /// against keys of its own, and else a few).
    pub(super) proofs: BTreeMap<PeerKey, Arc<[u8]>>,
    silences: Silences,
    /// What goes round.
    pub(super) talk: Talk,
    /// Key of the lots by which we draw panels: nobody else may foresee who is heard.
    pub(super) lots: [u8; 32],
    /// Verdicts that we followed and that are not on disk yet, by subject; no more than there are figures.
    pub(super) verdicts: BTreeMap<PeerKey, Vec<u8>>,
    /// Milliseconds of a round.
    pub(super) round_ms: u64,
    /// Other domains that are known for longer than a day, the measure of what complaints weigh.
    pub(super) domains: usize,
    /// Proofs that are not on disk yet.
    pub(super) unwritten: BTreeSet<PeerKey>,
    /// Files to be removed: proofs that gave way to others.
    pub(super) gone: Vec<StatementId>,
    /// Changed since it was written.
    pub(super) dirty: bool,
    /// Counts convictions, so that others notice new ones.
    pub(super) convictions: u64,
    /// Who invited whom; none before the network is there.
    pub(super) invitations: Option<Invitations>,
}

impl Mind {
    pub(super) fn new(key: SigningKey, network: NetworkFile, round: Duration, entropy: &[u8; 32]) -> Self {
        Self {
            me: PeerKey::from_bytes(key.verifying_key().to_bytes()),
            key,
            network,
            reputation: Reputation::new(),
            proofs: BTreeMap::new(),
            silences: Silences::default(),
            talk: Talk::default(),
            lots: blake3::derive_key("cairn 2026-11 panel lots v1", entropy),
            verdicts: BTreeMap::new(),
            round_ms: u64::try_from(round.as_millis()).unwrap_or(DAY_MS).max(1),
            domains: 0,
            unwritten: BTreeSet::new(),
            gone: Vec::new(),
            dirty: false,
            convictions: 0,
            invitations: None,
        }
    }

    /// The time as figures see it: a round is a day.
    pub(super) fn at(&self, now: Timestamp) -> Timestamp {
        let days = u128::from(now.0) * u128::from(DAY_MS) / u128::from(self.round_ms);
        Timestamp(u64::try_from(days).unwrap_or(u64::MAX / 2))
    }

    /// ... and back.
    pub(super) fn real(&self, at: Timestamp) -> Timestamp {
        let ms = u128::from(at.0) * u128::from(self.round_ms) / u128::from(DAY_MS);
        Timestamp(u64::try_from(ms).unwrap_or(u64::MAX / 2))
    }

    /// Counts what was seen first hand.
    pub(super) fn saw(&mut self, peer: PeerKey, seen: Observed, now: Timestamp) {
        if peer == self.me {
            return;
        }
        if seen == Observed::Silent {
            return self.silences.silent(peer, now);
        }
        self.heard(peer, now);
        if seen != Observed::Alive || self.silences.counts_alive(peer, now) {
            self.count(peer, seen, now);
        }
    }

    /// A sign of life that is not counted for the peer, but says that our line works.
    pub(super) fn heard(&mut self, peer: PeerKey, now: Timestamp) {
        for (silent, at) in self.silences.alive(peer, now) {
            self.count(silent, Observed::Silent, at);
        }
    }

    fn count(&mut self, peer: PeerKey, seen: Observed, now: Timestamp) {
        let at = self.at(now);
        self.reputation.observe(peer, seen, at);
        self.dirty = true;
    }

    /// Believes a proof.
    ///
    /// # Errors
    /// It proves nothing, or it is of a key that is no peer of this network.
    pub(super) fn learn_proof(&mut self, evidence: &Evidence) -> Result<Believed, DecodeError> {
        let conviction = convict(evidence)?;
        let subject = *conviction.subject();
        if !solves_puzzle(&self.network.id, &subject, self.network.puzzle_bits) {
            return Err(DecodeError::Invalid {
                what: "evidence",
                why: "it is of a key that is no peer of this network",
            });
        }
        Ok(self.believe(conviction, &evidence.encode()))
    }

    fn believe(&mut self, conviction: Conviction, file: &[u8]) -> Believed {
        let (subject, id) = (*conviction.subject(), *conviction.evidence());
        if subject == self.me || self.is_convicted(&subject) || !self.reputation.convict(conviction) {
            return Believed::Known;
        }
        self.forget_displaced();
        self.proofs.insert(subject, file.into());
        self.unwritten.insert(subject);
        self.dirty = true;
        self.convictions += 1;
        Believed::News(id)
    }

    /// Another stranger's conviction gave way: its proof goes too.
    fn forget_displaced(&mut self) {
        if self.proofs.len() < cairn_core::reputation::CONVICTIONS_MAX {
            return;
        }
        let displaced: Vec<PeerKey> =
            self.proofs.keys().filter(|peer| self.reputation.conviction(peer).is_none()).copied().collect();
        for peer in displaced {
            if let Some(file) = self.proofs.remove(&peer)
                && let Ok(evidence) = Evidence::decode(&file)
            {
                self.gone.push(evidence.id());
            }
            self.unwritten.remove(&peer);
        }
    }

    /// A proof that was kept. One that our figures name was verified when it came.
    pub(super) fn restore_proof(&mut self, evidence: &Evidence) -> Result<(), DecodeError> {
        let (id, file) = (evidence.id(), evidence.encode());
        let known = self.reputation.convictions().find(|conviction| *conviction.evidence() == id);
        match known.map(|conviction| *conviction.subject()) {
            Some(subject) => {
                self.proofs.insert(subject, file.into());
            }
            None => {
                self.learn_proof(evidence)?;
            }
        }
        Ok(())
    }

    /// What a witness has in hand.
    pub(super) fn learned(&mut self, evidence: &Evidence, now: Timestamp) {
        match evidence {
            Evidence::WrongAnswer { .. } | Evidence::Equivocation { .. } => match self.learn_proof(evidence) {
                Ok(Believed::News(id)) => {
                    tracing::warn!(%id, "a peer is proved to have lied; it is outside from now on");
                    self.spread(evidence, now);
                }
                Ok(Believed::Known) => {}
                Err(error) => tracing::warn!(%error, "what was taken for a proof proves nothing"),
            },
            Evidence::Silence { .. } => self.spread(evidence, now),
            // The holder's own word; it counts as what was seen.
            Evidence::SelfReport { .. } => {}
        }
    }

    /// Proofs to be written; they count as written.
    pub(super) fn take_unwritten(&mut self) -> Vec<(PeerKey, StatementId, Arc<[u8]>)> {
        let of = |peer: &PeerKey| {
            let id = self.proof_id(peer)?;
            Some((*peer, id, Arc::clone(self.proofs.get(peer)?)))
        };
        let taken = self.unwritten.iter().filter_map(of).collect();
        self.unwritten.clear();
        taken
    }

    /// Nothing is written: nothing waits for it.
    pub(super) fn forget_files(&mut self) {
        self.unwritten.clear();
        self.gone.clear();
        self.verdicts.clear();
    }

    /// The figures as they are kept; they count as written.
    pub(super) fn figures(&mut self, now: Timestamp) -> Vec<u8> {
        let at = self.at(now);
        self.reputation.classify(at);
        self.dirty = false;
        let mut body = self.round_ms.to_le_bytes().to_vec();
        body.extend_from_slice(&self.reputation.encode());
        body
    }

    pub(super) fn is_convicted(&self, peer: &PeerKey) -> bool {
        self.reputation.conviction(peer).is_some()
    }

    pub(super) fn convicted(&self) -> Vec<PeerKey> {
        self.reputation.convictions().map(|conviction| *conviction.subject()).collect()
    }

    /// A digest of whom we can prove to have lied, by which two nodes see that neither lacks anything.
    pub(super) fn proofs_digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 proofs digest v1");
        self.proofs.keys().for_each(|peer| {
            hasher.update(peer.as_bytes());
        });
        *hasher.finalize().as_bytes()
    }

    /// Proofs against peers after this one, in the order of their keys.
    pub(super) fn proofs_after(&self, after: Option<PeerKey>, most: usize) -> Vec<Vec<u8>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.proofs.range((from, Unbounded)).take(most).map(|(_, file)| file.to_vec()).collect()
    }

    pub(super) fn proof_id(&self, peer: &PeerKey) -> Option<StatementId> {
        self.reputation.conviction(peer).filter(|_| self.proofs.contains_key(peer)).map(|c| *c.evidence())
    }

    /// Of which branch of the invitation tree a peer is.
    pub(super) fn branch(&self, peer: &PeerKey) -> Option<PeerKey> {
        self.invitations.as_ref().and_then(|invitations| invitations.branch(peer))
    }

    /// Who let a peer in, when this network asks for it and it is known.
    pub(super) fn invited(&self, peer: &PeerKey) -> Option<Invited> {
        let invitations = self.invitations.as_ref().filter(|invitations| invitations.required())?;
        let by = invitations.inviters(peer)?;
        Some(Invited { by, convicted: invitations.convicted_beside(peer, |other| self.is_convicted(other)) })
    }

    /// With every figure. `since` and `now` by the node's clock.
    pub(super) fn standing(&mut self, peer: &PeerKey, since: Timestamp, now: Timestamp) -> Standing {
        let (since, now) = (self.at(since), self.at(now));
        self.reputation.known_since(peer, since);
        self.reputation.standing(peer, self.domains, now)
    }

    /// What placement goes by. Whoever is not eligible is below every limit; of those who are, a newcomer begins where it always did,
    /// and so does a peer that aged and that nothing was seen of.
    pub(super) fn score(&mut self, peer: &PeerKey, since: Timestamp, newcomer: bool, now: Timestamp) -> PerMille {
        let standing = self.standing(peer, since, now);
        if !standing.eligible {
            standing.score.min(NEWCOMER - 1)
        } else if newcomer {
            standing.score.min(NEWCOMER)
        } else if !self.reputation.has_met(peer) {
            AGED
        } else {
            standing.score
        }
    }
}
