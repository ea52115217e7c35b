//! A group's stewards: the mandate's, with the changes since. Half of them change it; where more than half are lost, those who are left do
//! ([`Committee::succeed`]).

use super::{Action, CHANGES_MAX, Certificate, CommitteeId, OrderId};
use crate::{
    DecodeError, PeerKey,
    mandate::{Mandate, STEWARDS_MAX, half, quorum},
};

/// Who are the stewards now, or were once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committee {
    mandate: Mandate,
    stewards: Vec<PeerKey>,
    changes: usize,
    id: CommitteeId,
}

impl Committee {
    /// Those of the mandate.
    #[must_use]
    pub fn of(mandate: &Mandate) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 committee v1");
        hasher.update(mandate.ticket.id().as_bytes());
        for number in [mandate.generation, mandate.issued.0, mandate.ends.0] {
            hasher.update(&number.to_le_bytes());
        }
        for steward in &mandate.stewards {
            hasher.update(steward.as_bytes());
        }
        let id = *hasher.finalize().as_bytes();
        Self { stewards: mandate.stewards.clone(), mandate: mandate.clone(), changes: 0, id }
    }

    /// Its name: equal for equal mandates and equal changes, in this order.
    #[must_use]
    pub const fn id(&self) -> &CommitteeId {
        &self.id
    }

    /// The name of the committee that an order would make of this one.
    #[must_use]
    pub fn id_after(&self, order: &OrderId) -> CommitteeId {
        blake3::derive_key("cairn 2026-11 committee change v1", &[self.id, *order].concat())
    }

    /// How often it changed since the mandate.
    #[must_use]
    pub const fn changes(&self) -> usize {
        self.changes
    }

    /// The mandate that they have.
    #[must_use]
    pub const fn mandate(&self) -> &Mandate {
        &self.mandate
    }

    /// Who they are, in order of rank.
    #[must_use]
    pub fn stewards(&self) -> &[PeerKey] {
        &self.stewards
    }

    /// How many signatures an order about shards takes.
    #[must_use]
    pub fn quorum(&self) -> usize {
        quorum(self.stewards.len())
    }

    /// How many signatures this takes.
    #[must_use]
    pub fn needed(&self, action: &Action) -> usize {
        if action.slot().is_some() { self.quorum() } else { half(self.stewards.len()) }
    }

    /// Whether a steward goes by fewer signatures than half of them: a *succession*, ordered by those who were left.
    #[must_use]
    pub fn is_succession(&self, change: &Certificate) -> bool {
        change.order.action.stewards().0.is_some() && change.votes.len() < half(self.stewards.len())
    }

    /// The stewards that did not sign this, by the signatures that it lists.
    pub fn unsigned(&self, change: &Certificate) -> impl Iterator<Item = &PeerKey> {
        let signed = |peer: &PeerKey| change.votes.iter().any(|(voter, _)| voter == peer);
        self.stewards.iter().filter(move |peer| !signed(peer))
    }

    /// Lets stewards go and come as half of them ordered.
    ///
    /// # Errors
    /// A certificate that does not hold, is of another committee, orders something else, or would leave nobody or too many.
    pub fn change(&mut self, certificate: &Certificate) -> Result<(), DecodeError> {
        self.change_by(certificate, half(self.stewards.len()))
    }

    /// As [`Committee::change`], and by succession too, where everybody who is said to have signed did. That alone does not say that it counts: whoever
    /// still hears so many of the others that they could have made a change is not to believe it.
    ///
    /// # Errors
    /// As [`Committee::change`].
    pub fn succeed(&mut self, certificate: &Certificate) -> Result<(), DecodeError> {
        let all = certificate.votes.len().max(1);
        let needed = if self.is_succession(certificate) { all } else { half(self.stewards.len()) };
        self.change_by(certificate, needed)
    }

    fn change_by(&mut self, certificate: &Certificate, needed: usize) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: "change of stewards", why });
        let (old, new) = certificate.order.action.stewards();
        if old.is_none() && new.is_none() {
            return bad("is another order");
        }
        let has = |peer: Option<PeerKey>| peer.is_some_and(|peer| self.stewards.contains(&peer));
        certificate.check_by(self, needed)?;
        if has(new) || (old.is_some() && !has(old)) {
            return bad("names the wrong peers");
        }
        if self.changes == CHANGES_MAX {
            return bad("one too many");
        }
        let mut stewards = self.stewards.clone();
        match (old.and_then(|old| stewards.iter().position(|steward| *steward == old)), new) {
            (Some(at), Some(new)) => stewards[at] = new,
            (Some(at), None) => drop(stewards.remove(at)),
            (None, Some(new)) => stewards.push(new),
            (None, None) => {}
        }
        if stewards.is_empty() || stewards.len() > STEWARDS_MAX {
            return bad("leaves nobody, or too many");
        }
        self.id = self.id_after(&certificate.order.id()?);
        self.stewards = stewards;
        self.changes += 1;
        Ok(())
    }
}
