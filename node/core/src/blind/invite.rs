//! An invitation to help, and what a helper checks of it, of the keys of the others and of the session, alone.
//!
//! The new holder carries everything between the helpers, so nothing that it carries is believed:
//!
//! - *Which shard, for whom*: the order, signed by a quorum; the new holder is whom the transport authenticated.
//! - *How many shards the stripe really has* (`used`): the sheet of the lost slot, signed by the owner. With another number the sum
//!   would be something else than the lost shard: with 1, some helper's own shard.
//! - *The keys of the others*: each is signed by the peer that the order names for that slot. Were they only the new holder's word, it
//!   could make them all itself, tell a helper that these are the others, and take every mask off what the helper sends: the
//!   session's id is of no help against that, because the liar knows it too.
//!
//! With that, telling different helpers different sessions gains nothing. A mask comes from two secrets and the session's id. Of any
//! two honest helpers each used its secret up for one session, the new holder knows neither secret, and so the mask between
//! them is random to it in either session; when the ids differ the two do not cancel, and what comes out is noise.

use std::collections::BTreeSet;

use cairn_proto::{
    Action, CodeParams, DecodeError, Domain, GroupId, GroupTicket, PeerKey, SheetRow, Slot, SlotSheet, Timestamp,
    order::OrderId, signed,
};
use ed25519_dalek::SigningKey;

use super::{masks::EphemeralKey, session::Session, wire::Refusal};
use crate::{
    colour::may_hold,
    part::{Credentials, may_help},
};

const KEY: &str = "cairn rebuild key v1";

/// An order, and what is wanted of one of its helpers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// The order, and all that it takes to check it.
    pub credentials: Credentials,
    /// The lost slot's sheet, sealed.
    pub sheet: Vec<u8>,
    /// Which stripe.
    pub ordinal: u8,
    /// What.
    pub asked: Asked,
}

/// What is wanted of a helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A part in a rebuild.
    Help {
        /// Which attempt.
        attempt: u16,
    },
    /// The fingerprint of its shard under this seed, after a wrong root.
    Print {
        /// Fresh chance.
        seed: [u8; 32],
    },
}

/// A helper's key for one session, signed by its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The key.
    pub key: EphemeralKey,
    /// The signature, for this order, stripe, attempt and slot.
    pub signature: [u8; 64],
}

/// Signatures of the helpers' keys, in the chain's order.
pub type Signatures = Vec<[u8; 64]>;

/// One rebuild of one stripe under one order, as its parties know it before there is a session.
#[derive(Clone, Debug)]
pub struct Frame {
    order: OrderId,
    ticket: GroupTicket,
    group: GroupId,
    /// The new holder.
    pub to: PeerKey,
    /// The slot that is lost.
    pub lost: Slot,
    /// Which stripe.
    pub ordinal: u8,
    /// Data shards that it really has.
    pub used: u8,
    /// Those helpers of the order that have a shard of this stripe: at least `used`.
    pub helpers: Vec<(Slot, PeerKey)>,
    /// The group's code.
    pub code: CodeParams,
}

impl Frame {
    /// Of a checked order and the lost slot's sheet. `None` when there is nothing to rebuild.
    #[must_use]
    pub fn new(credentials: &Credentials, ticket: &GroupTicket, row: &SheetRow) -> Option<Self> {
        let order = &credentials.certificate.order;
        let Action::Rebuild { slot, to, ordinals, helpers } = &order.action else { return None };
        let (code, used) = (ticket.code(), usize::from(row.used));
        let real = |slot: Slot| !(used..code.data()).contains(&slot.index());
        let helpers: Vec<_> = helpers.iter().filter(|(slot, _)| real(*slot)).copied().collect();
        if !ordinals.contains(row.ordinal) || helpers.len() < used || used == 0 {
            return None;
        }
        Some(Self {
            order: order.id().ok()?,
            ticket: *ticket,
            group: ticket.id(),
            to: *to,
            lost: *slot,
            ordinal: row.ordinal,
            used: row.used,
            helpers,
            code,
        })
    }

    /// The order's name.
    #[must_use]
    pub const fn order(&self) -> &OrderId {
        &self.order
    }

    /// The group.
    #[must_use]
    pub const fn group(&self) -> &GroupId {
        &self.group
    }

    /// Who has a slot, by the order.
    #[must_use]
    pub fn helper(&self, slot: Slot) -> Option<PeerKey> {
        self.helpers.iter().find(|(helper, _)| *helper == slot).map(|(_, peer)| *peer)
    }

    /// Which slot a peer has, by the order.
    #[must_use]
    pub fn slot_of(&self, peer: &PeerKey) -> Option<Slot> {
        self.helpers.iter().find(|(_, helper)| helper == peer).map(|(slot, _)| *slot)
    }

    /// SEP-1: whether a peer of this domain can be a holder of a slot. Helpers that are none would be somebody's puppets, there to take
    /// masks off.
    #[must_use]
    pub fn may_hold(&self, slot: Slot, domain: &Domain) -> bool {
        may_hold(&self.ticket, domain, slot)
    }

    /// A helper's key for an attempt, signed by it.
    #[must_use]
    pub fn offer(&self, attempt: u16, slot: Slot, key: EphemeralKey, identity: &SigningKey) -> Offer {
        Offer { key, signature: signed::sign(KEY, &self.body(attempt, slot, &key), identity) }
    }

    /// Whether a key was signed by the peer that has the slot.
    #[must_use]
    pub fn is_offered(&self, attempt: u16, slot: Slot, key: &EphemeralKey, signature: &[u8; 64]) -> bool {
        let body = self.body(attempt, slot, key);
        self.helper(slot).is_some_and(|peer| signed::verify(KEY, &body, peer.as_bytes(), signature).is_ok())
    }

    /// Order 32 · ordinal · attempt u16 LE · slot · key 32.
    fn body(&self, attempt: u16, slot: Slot, key: &EphemeralKey) -> Vec<u8> {
        let mut body = self.order.to_vec();
        body.push(self.ordinal);
        body.extend_from_slice(&attempt.to_le_bytes());
        body.push(slot.as_u8());
        body.extend_from_slice(key.as_bytes());
        body
    }
}

/// An invitation that a helper found good.
#[derive(Clone, Debug)]
pub struct Invited {
    /// What is rebuilt.
    pub frame: Frame,
    /// The helper's own slot.
    pub own: Slot,
}

impl Invited {
    /// Whether `me` may help `bearer`, whom the transport authenticated and whose pinned domain this is. `held` is the slot of the group
    /// that `me` has, by its own ledger; `heard` as in [`Credentials::check`](crate::part::Credentials::check).
    ///
    /// # Errors
    /// [`Refusal::Unfit`], or [`Refusal::NoShard`] where the stripe has no shard in our slot.
    pub fn open(
        invite: &Invite,
        me: &PeerKey,
        held: Option<Slot>,
        (bearer, domain): (&PeerKey, &Domain),
        (heard, now): (&BTreeSet<PeerKey>, Timestamp),
    ) -> Result<Self, Refusal> {
        let unfit = |_: DecodeError| Refusal::Unfit;
        let (part, own) = may_help(&invite.credentials, me, held, domain, (heard, now)).map_err(|_| Refusal::Unfit)?;
        let sheet = SlotSheet::open(&invite.sheet, &part.mandate.ticket).map_err(unfit)?;
        let row = sheet.rows.iter().find(|row| row.ordinal == invite.ordinal).ok_or(Refusal::Unfit)?;
        let frame = Frame::new(&invite.credentials, &part.mandate.ticket, row).ok_or(Refusal::Unfit)?;
        if frame.to != *bearer || frame.lost != sheet.slot {
            return Err(Refusal::Unfit);
        }
        if frame.helper(own) != Some(*me) {
            return Err(Refusal::NoShard);
        }
        Ok(Self { frame, own })
    }

    /// Whether a session is the one that we were invited to, every helper of it is the order's, and every key is its helper's own.
    /// The coefficients are checked by [`super::Helper::new`], our own key too.
    ///
    /// # Errors
    /// [`Refusal::Session`].
    pub fn check(&self, attempt: u16, session: &Session, signatures: &Signatures) -> Result<(), Refusal> {
        let frame = &self.frame;
        let says = (session.group(), session.ordinal(), session.code(), session.used(), session.lost());
        let is = (&frame.group, frame.ordinal, frame.code, frame.used, frame.lost);
        let theirs = session.links().iter().zip(signatures);
        let signed = session.links().len() == signatures.len()
            && theirs.into_iter().all(|(link, signature)| frame.is_offered(attempt, link.slot, &link.key, signature));
        let has_us = session.links().iter().any(|link| link.slot == self.own);
        if says == is && session.attempt() == attempt && signed && has_us { Ok(()) } else { Err(Refusal::Session) }
    }
}
