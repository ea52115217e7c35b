//! What stewards order, together: an order, the certificate that a quorum of them makes of it, and the new holder's word that it
//! was done.
//!
//! A certificate can be checked by anybody who has the mandate: it names the steward that each signature is of. Stewards change
//! by orders too, so a [`Committee`] is the mandate's list with the changes since, each signed by half of those before. Every
//! order names the committee that gives it ([`Committee::id`], a chain over the changes).
//!
//! The leaves: `committee` (who the stewards are), `ordinals` (which stripes), `taken` (the new holder's word).
//!
//! - **SEP-1** An order gives one slot to one peer, which checks its own colour before it takes a byte; no order can name two.

use ed25519_dalek::SigningKey;

use crate::{
    DecodeError, GroupId, PeerKey, Slot, Timestamp,
    code_params::SLOTS_MAX,
    layout::{Reader, at_most, put_number},
    mandate::{Powers, STEWARDS_MAX},
    signed,
};

mod committee;
mod ordinals;
mod taken;

pub use self::{committee::Committee, ordinals::Ordinals, taken::Taken};

/// Most bytes of an encoded order.
pub const ORDER_MAX: usize = 256 + 34 * SLOTS_MAX as usize;
/// Most bytes of an encoded certificate: an order and seven signatures with their signers.
pub const CERTIFICATE_MAX: usize = ORDER_MAX + 8 + STEWARDS_MAX * 96;
/// The longest that an order may stand: what a group's repair over a slow line takes, and no longer, for a stolen or delayed one
/// moves shards again.
pub const ORDER_MS_MAX: u64 = 48 * 3600 * 1000;
/// How far the clocks of two peers may differ.
pub const SKEW_MS: u64 = 10 * 60 * 1000;
/// Changes of stewards under one mandate at most: two a week for its thirteen months.
pub const CHANGES_MAX: usize = 114;

const ORDER: &str = "cairn order v1";
const VERSION: u8 = 1;
const COPY: u8 = 1;
const REBUILD: u8 = 2;
const URGENT_COPY: u8 = 6;
const URGENT_REBUILD: u8 = 7;
const SIGNATURE: usize = 64;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `to` fetches shards of its colour's slot from `from`, which has them.
    Copy {
        /// The slot.
        slot: Slot,
        /// A holder of it.
        from: PeerKey,
        /// The new holder.
        to: PeerKey,
        /// Which stripes.
        ordinals: Ordinals,
    },
    /// `to` gets shards of its slot rebuilt, blinded, through a chain of holders of other slots, in this order.
    Rebuild {
        /// The slot.
        slot: Slot,
        /// The new holder.
        to: PeerKey,
        /// Which stripes.
        ordinals: Ordinals,
        /// Holders of other slots: as many as each of these stripes has data shards, the first begins; those beyond help only to find out
        /// who makes a root wrong.
        helpers: Vec<(Slot, PeerKey)>,
    },
    /// `new` takes the place of `old` among the stewards.
    Replace {
        /// Who goes.
        old: PeerKey,
        /// Who comes.
        new: PeerKey,
    },
    /// `old` is a steward no more and nobody is there to take the place: those who are left must not lose their quorum with the
    /// next one.
    Retire {
        /// Who goes.
        old: PeerKey,
    },
    /// `new` is a steward too: there were fewer than there may be.
    Enlist {
        /// Who comes.
        new: PeerKey,
    },
}

impl Action {
    /// What the mandate must allow for it.
    #[must_use]
    pub const fn power(&self) -> Powers {
        match self {
            Self::Copy { .. } => Powers::COPY,
            Self::Rebuild { .. } => Powers::REBUILD,
            Self::Replace { .. } | Self::Retire { .. } | Self::Enlist { .. } => Powers::REPLACE,
        }
    }

    /// The slot that it repairs.
    #[must_use]
    pub const fn slot(&self) -> Option<Slot> {
        match self {
            Self::Copy { slot, .. } | Self::Rebuild { slot, .. } => Some(*slot),
            Self::Replace { .. } | Self::Retire { .. } | Self::Enlist { .. } => None,
        }
    }

    /// The stripes of which it moves shards; of each its new holder gets one, and a source or a helper sends one.
    #[must_use]
    pub fn ordinals(&self) -> Ordinals {
        match self {
            Self::Copy { ordinals, .. } | Self::Rebuild { ordinals, .. } => *ordinals,
            Self::Replace { .. } | Self::Retire { .. } | Self::Enlist { .. } => Ordinals::default(),
        }
    }

    /// The steward that goes and the one that comes; none of either when it is about shards.
    #[must_use]
    pub const fn stewards(&self) -> (Option<PeerKey>, Option<PeerKey>) {
        match self {
            Self::Replace { old, new } => (Some(*old), Some(*new)),
            Self::Retire { old } => (Some(*old), None),
            Self::Enlist { new } => (None, Some(*new)),
            Self::Copy { .. } | Self::Rebuild { .. } => (None, None),
        }
    }

    /// The new holder.
    #[must_use]
    pub const fn to(&self) -> Option<PeerKey> {
        match self {
            Self::Copy { to, .. } | Self::Rebuild { to, .. } => Some(*to),
            Self::Replace { .. } | Self::Retire { .. } | Self::Enlist { .. } => None,
        }
    }
}

/// Names a [`Committee`]: its mandate and every change since. BLAKE3.
pub type CommitteeId = [u8; 32];

/// One order of a group's stewards.
///
/// Layout: version `1` · group 32 · mandate's generation · committee 32 · nonce 16 · issued · expires · action (`1` copy: slot, from 32, to 32,
/// ordinals 32; `2` rebuild: slot, to 32, ordinals 32, helpers (count; slot, peer 32); `3` replace: old 32, new 32;
/// `4` retire: old 32; `5` enlist: new 32; `6` and `7` as `1` and `2`, urgent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The group.
    pub group: GroupId,
    /// Which of the owner's mandates it rests on.
    pub generation: u64,
    /// Which committee orders it: a certificate is worth nothing to any other, so one that changes stewards and was kept back is void
    /// once they have changed.
    pub committee: CommitteeId,
    /// By lot: no two orders are the same, though they say the same.
    pub nonce: [u8; 16],
    /// When it was proposed.
    pub issued: Timestamp,
    /// Nobody begins with it from then on.
    pub expires: Timestamp,
    /// The group is near its end, by what everybody who signed it sees: its bytes go before other background work. Of shards only.
    pub urgent: bool,
    /// What.
    pub action: Action,
}

/// An order's name: BLAKE3 of its bytes.
pub type OrderId = [u8; 32];

impl Order {
    /// The bytes that stewards sign.
    ///
    /// # Errors
    /// A field out of its domain.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = vec![VERSION];
        out.extend_from_slice(self.group.as_bytes());
        put_number(&mut out, self.generation);
        out.extend_from_slice(&self.committee);
        out.extend_from_slice(&self.nonce);
        put_number(&mut out, self.issued.0);
        put_number(&mut out, self.expires.0);
        match &self.action {
            Action::Copy { slot, from, to, ordinals } => {
                out.extend_from_slice(&[if self.urgent { URGENT_COPY } else { COPY }, slot.as_u8()]);
                out.extend_from_slice(&[*from.as_bytes(), *to.as_bytes(), *ordinals.as_bytes()].concat());
            }
            Action::Rebuild { slot, to, ordinals, helpers } => {
                out.extend_from_slice(&[if self.urgent { URGENT_REBUILD } else { REBUILD }, slot.as_u8()]);
                out.extend_from_slice(&[*to.as_bytes(), *ordinals.as_bytes()].concat());
                put_number(&mut out, helpers.len() as u64);
                for (slot, peer) in helpers {
                    out.push(slot.as_u8());
                    out.extend_from_slice(peer.as_bytes());
                }
            }
            Action::Replace { old, new } => {
                out.push(3);
                out.extend_from_slice(&[*old.as_bytes(), *new.as_bytes()].concat());
            }
            Action::Retire { old } => {
                out.push(4);
                out.extend_from_slice(old.as_bytes());
            }
            Action::Enlist { new } => {
                out.push(5);
                out.extend_from_slice(new.as_bytes());
            }
        }
        Ok(out)
    }

    /// Checks every field; signatures are the certificate's.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(ORDER, ORDER_MAX, bytes.len())?;
        let mut r = Reader::new(ORDER, bytes);
        let order = Self::read(&mut r)?;
        r.finish()?;
        Ok(order)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.version(VERSION)?;
        let (group, generation) = (GroupId::from_bytes(r.array()?), r.u64()?);
        let (committee, nonce) = (r.array()?, r.array()?);
        let (issued, expires) = (Timestamp(r.u64()?), Timestamp(r.u64()?));
        let peer = |r: &mut Reader<'_>| r.array().map(PeerKey::from_bytes);
        let kind = r.byte()?;
        let action = match kind {
            COPY | URGENT_COPY => {
                let (slot, from, to) = (Slot::new(r.byte()?)?, peer(r)?, peer(r)?);
                Action::Copy { slot, from, to, ordinals: Ordinals::from_bytes(r.array()?) }
            }
            REBUILD | URGENT_REBUILD => {
                let (slot, to, ordinals) = (Slot::new(r.byte()?)?, peer(r)?, Ordinals::from_bytes(r.array()?));
                let count = r.count(SLOTS_MAX.into(), 33)?;
                let helpers = (0..count).map(|_| Ok((Slot::new(r.byte()?)?, peer(r)?)));
                Action::Rebuild { slot, to, ordinals, helpers: helpers.collect::<Result<_, DecodeError>>()? }
            }
            3 => Action::Replace { old: peer(r)?, new: peer(r)? },
            4 => Action::Retire { old: peer(r)? },
            5 => Action::Enlist { new: peer(r)? },
            _ => return Err(r.invalid("unknown action")),
        };
        let urgent = matches!(kind, URGENT_COPY | URGENT_REBUILD);
        let order = Self { group, generation, committee, nonce, issued, expires, urgent, action };
        order.check()?;
        Ok(order)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: ORDER, why });
        if self.expires <= self.issued || self.expires.ms_since(self.issued) > ORDER_MS_MAX {
            return bad("stands for longer than an order may, or ends before it begins");
        }
        if self.urgent && self.action.slot().is_none() {
            return bad("moves no shard and is urgent");
        }
        match &self.action {
            Action::Copy { from, to, ordinals, .. } if from == to || ordinals.is_empty() => bad("copies nothing"),
            Action::Rebuild { slot, to, ordinals, helpers } => {
                let others = helpers.iter().enumerate().all(|(at, (helper, peer))| {
                    let apart = |(slot, other): &(Slot, PeerKey)| slot != helper && other != peer;
                    helper != slot && peer != to && helpers[..at].iter().all(apart)
                });
                match !others || helpers.is_empty() || ordinals.is_empty() {
                    true => bad("rebuilds nothing, or somebody has two parts in it"),
                    false => Ok(()),
                }
            }
            Action::Replace { old, new } if old == new => bad("replaces nobody"),
            _ => Ok(()),
        }
    }

    /// Its name.
    ///
    /// # Errors
    /// As [`Order::encode`].
    pub fn id(&self) -> Result<OrderId, DecodeError> {
        Ok(order_id(&self.encode()?))
    }

    /// A steward's signature.
    ///
    /// # Errors
    /// As [`Order::encode`].
    pub fn sign(&self, steward: &SigningKey) -> Result<[u8; 64], DecodeError> {
        Ok(signed::sign(ORDER, &self.encode()?, steward))
    }

    /// Whether this is that steward's signature.
    #[must_use]
    pub fn is_signed(&self, steward: &PeerKey, signature: &[u8; 64]) -> bool {
        let body = self.encode();
        body.is_ok_and(|body| signed::verify(ORDER, &body, steward.as_bytes(), signature).is_ok())
    }
}

fn order_id(bytes: &[u8]) -> OrderId {
    blake3::derive_key("cairn 2026-11 order id v1", bytes)
}

/// An order with the signatures of a quorum.
///
/// Layout: order (length, bytes) · votes (count; steward 32, signature 64), by steward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The order.
    pub order: Order,
    votes: Vec<(PeerKey, [u8; 64])>,
}

impl Certificate {
    /// With these signatures, which are not looked at yet.
    #[must_use]
    pub fn new(order: Order, votes: impl IntoIterator<Item = (PeerKey, [u8; 64])>) -> Self {
        let votes: std::collections::BTreeMap<PeerKey, [u8; 64]> = votes.into_iter().collect();
        Self { order, votes: votes.into_iter().take(STEWARDS_MAX).collect() }
    }

    /// Whether a quorum of these stewards signed it, and their mandate allows it. The time is the caller's to check
    /// ([`Certificate::stands_at`]): what was done under an order stays done.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, committee: &Committee) -> Result<(), DecodeError> {
        self.check_by(committee, committee.needed(&self.order.action))
    }

    /// Whether so many of these stewards signed it.
    fn check_by(&self, committee: &Committee, needed: usize) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: ORDER, why });
        let mandate = committee.mandate();
        if self.order.group != mandate.ticket.id() || self.order.generation != mandate.generation {
            return bad("rests on another mandate");
        }
        if self.order.committee != *committee.id() {
            return bad("is of another committee");
        }
        if !mandate.powers.allows(self.order.action.power()) {
            return bad("is more than the mandate allows");
        }
        if !mandate.holds_at(self.order.issued) || self.order.expires > mandate.ends {
            return bad("is not within the mandate's time");
        }
        let code = mandate.ticket.code();
        if self.order.action.slot().is_some_and(|slot| slot.index() >= code.slots()) {
            return bad("is of a slot that the code does not have");
        }
        if let Action::Rebuild { helpers, .. } = &self.order.action
            && helpers.iter().any(|(slot, _)| slot.index() >= code.slots())
        {
            return bad("has helpers that the code does not have");
        }
        let body = self.order.encode()?;
        let good = |(steward, signature): &&(PeerKey, [u8; 64])| {
            committee.stewards().contains(steward)
                && signed::verify(ORDER, &body, steward.as_bytes(), signature).is_ok()
        };
        if self.votes.iter().filter(good).count() < needed {
            return Err(DecodeError::NotAuthentic { what: ORDER });
        }
        Ok(())
    }

    /// With one signature more, which is not looked at.
    #[must_use]
    pub fn with_vote(self, steward: PeerKey, signature: [u8; 64]) -> Self {
        Self::new(self.order, self.votes.into_iter().chain([(steward, signature)]))
    }

    /// Those who are said to have signed it.
    pub fn signers(&self) -> impl Iterator<Item = &PeerKey> {
        self.votes.iter().map(|(steward, _)| steward)
    }

    /// Whether somebody may begin with it at this time, by a clock that may be [`SKEW_MS`] behind.
    #[must_use]
    pub fn stands_at(&self, now: Timestamp) -> bool {
        self.order.issued.ms_since(now) <= SKEW_MS && now < self.order.expires
    }

    /// The bytes, at most [`CERTIFICATE_MAX`].
    ///
    /// # Errors
    /// As [`Order::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let order = self.order.encode()?;
        let mut out = Vec::with_capacity(order.len() + 96 * self.votes.len() + 4);
        crate::layout::put_bytes(&mut out, &order);
        put_number(&mut out, self.votes.len() as u64);
        for (steward, signature) in &self.votes {
            out.extend_from_slice(steward.as_bytes());
            out.extend_from_slice(signature);
        }
        Ok(out)
    }

    /// Reads it; nothing in it may be believed before [`Certificate::check`].
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "certificate";
        at_most(what, CERTIFICATE_MAX, bytes.len())?;
        let mut r = Reader::new(what, bytes);
        let order = Order::decode(r.bytes(ORDER_MAX)?)?;
        let count = r.count(STEWARDS_MAX, 32 + SIGNATURE)?;
        let vote = |_| Ok((PeerKey::from_bytes(r.array()?), r.array()?));
        let votes = (0..count).map(vote).collect::<Result<Vec<_>, DecodeError>>()?;
        if !votes.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(DecodeError::Invalid { what, why: "votes out of order" });
        }
        r.finish()?;
        Ok(Self { order, votes })
    }
}

#[cfg(test)]
mod tests;
