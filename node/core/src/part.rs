//! What a peer that is given a part in a repair checks, alone and before anything else: that the owner allowed it, that a
//! quorum of the stewards ordered it, that it is meant, and that it may ever hold this slot.
//!
//! Nobody here trusts the steward that speaks to it. Whatever a whole quorum of bad stewards orders, an honest peer takes no slot
//! but the one of its colour, hands shards only to peers that the order names, and nothing but what the owner signed for.
//!
//! # Invariants
//!
//! - **SEP-1** A new holder's colour in the group is the slot, and it never accepted another one. Enforced by [`may_take`]; no source hands it to another
//!   colour either ([`may_serve`], [`may_help`]); attacked by
//!   `steward::tests::a_quorum_of_liars_gets_nobody_to_take_another_slot`.

mod codec;

pub use codec::{CREDENTIALS_MAX, PASS_MAX};

use std::collections::BTreeSet;

use cairn_proto::{
    Action, Certificate, Committee, DecodeError, Domain, Mandate, Ordinals, PeerKey, SheetRow, Slot, SlotSheet,
    Timestamp, mandate::is_real,
};

use crate::{colour::may_hold, succession};

/// What an order comes with: everything that it takes to check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The owner's leave, as it was signed.
    pub mandate: Vec<u8>,
    /// Stewards that were replaced since, in that order.
    pub changes: Vec<Certificate>,
    /// The order and its signatures.
    pub certificate: Certificate,
}

/// What a steward shows to a holder that it asks what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The owner's leave, as it was signed.
    pub mandate: Vec<u8>,
    /// Stewards that were replaced since, in that order.
    pub changes: Vec<Certificate>,
}

impl Pass {
    /// Of whom [`Pass::may_watch`] needs to know whether they were heard lately: nobody, but for groups whose stewards were nearly all lost at once.
    #[must_use]
    pub fn concerned(&self) -> BTreeSet<PeerKey> {
        concerned(&self.mandate, &self.changes)
    }

    /// The mandate under which `bearer` may ask a holder what it has of the group, and nothing else: it is one of the stewards, who are
    /// named beside it. `heard`: of those [concerned](Pass::concerned), who was heard within a day.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_watch(
        &self,
        bearer: &PeerKey,
        heard: &BTreeSet<PeerKey>,
        now: Timestamp,
    ) -> Result<(Mandate, Vec<PeerKey>), Unfit> {
        // Cheap before dear: for a stranger no signature of a change is looked at.
        let came = |change: &Certificate| change.order.action.stewards().1 == Some(*bearer);
        if !self.changes.iter().any(came) && !Mandate::open(&self.mandate)?.stewards.contains(bearer) {
            return Err(Unfit::NotNamed);
        }
        let committee = committee(&self.mandate, &self.changes, heard)?;
        if !committee.mandate().holds_at(now) {
            return Err(Unfit::Expired);
        }
        if !committee.stewards().contains(bearer) {
            return Err(Unfit::NotNamed);
        }
        Ok((committee.mandate().clone(), committee.stewards().to_vec()))
    }
}

/// The stewards of a mandate after these changes.
fn committee(mandate: &[u8], changes: &[Certificate], heard: &BTreeSet<PeerKey>) -> Result<Committee, DecodeError> {
    succession::follow(&Mandate::open(mandate)?, changes, heard)
}

/// Of whom it must be known whether they were heard lately: stewards that a succession passed over. Nothing is verified, so that it costs nothing.
fn concerned(mandate: &[u8], changes: &[Certificate]) -> BTreeSet<PeerKey> {
    let named = Mandate::named_in(mandate);
    named.map_or_else(|_| BTreeSet::new(), |stewards| succession::concerned(stewards, changes))
}

/// Why a part is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Mandate, changes, certificate or sheet do not hold.
    #[error(transparent)]
    Forged(#[from] DecodeError),
    /// Its time, or the mandate's, is over or has not begun.
    #[error("the order does not stand at this time")]
    Expired,
    /// The order names somebody else.
    #[error("the order gives this peer no such part")]
    NotNamed,
    /// The slot is not this peer's colour.
    #[error("slot {slot} is not this peer's colour in the group")]
    WrongColour {
        /// The slot ordered.
        slot: Slot,
    },
    /// It accepted another slot of the group once.
    #[error("this peer once accepted slot {held} of the group")]
    OtherSlot {
        /// Which.
        held: Slot,
    },
    /// The helpers are not those of which these stripes are made: as many as a stripe has data shards, in slots that it has.
    #[error("these stripes are not rebuilt from so many helpers, or not from these slots")]
    WrongHelpers,
    /// The sheet does not say what these stripes must be.
    #[error("the sheet has no root for what is ordered")]
    NoRoots,
}

/// A part that was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The mandate.
    pub mandate: Mandate,
    /// The stewards of now: who is told.
    pub stewards: Vec<PeerKey>,
    /// What is ordered.
    pub action: Action,
}

impl Credentials {
    /// Of whom [`Credentials::check`] needs to know whether they were heard lately: nobody, but for groups whose stewards were nearly all lost at
    /// once.
    #[must_use]
    pub fn concerned(&self) -> BTreeSet<PeerKey> {
        concerned(&self.mandate, &self.changes)
    }

    /// Checks mandate, stewards, signatures and time. `heard`: of those [concerned](Credentials::concerned), who was heard within a day.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, heard: &BTreeSet<PeerKey>, now: Timestamp) -> Result<Part, Unfit> {
        let committee = committee(&self.mandate, &self.changes, heard)?;
        let mandate = committee.mandate().clone();
        self.certificate.check(&committee)?;
        if !mandate.holds_at(now) || !self.certificate.stands_at(now) {
            return Err(Unfit::Expired);
        }
        let stewards = committee.stewards().to_vec();
        Ok(Part { mandate, stewards, action: self.certificate.order.action.clone() })
    }
}

/// What a new holder is about to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The part.
    pub part: Part,
    /// The slot: this peer's colour.
    pub slot: Slot,
    /// The shards, each with the root that it must have.
    pub rows: Vec<SheetRow>,
    /// The slot's sheet, as the owner signed it: helpers of a rebuild are shown it.
    pub sheet: Vec<u8>,
}

/// Whether `me` may take what is ordered. `held` is the slot of the group that it accepted once, by its own ledger; `heard` as in
/// [`Credentials::check`].
///
/// # Errors
/// Why not.
pub fn may_take(
    credentials: &Credentials,
    sheet: &[u8],
    me: &PeerKey,
    my_domain: &Domain,
    held: Option<Slot>,
    (heard, now): (&BTreeSet<PeerKey>, Timestamp),
) -> Result<Task, Unfit> {
    let part = credentials.check(heard, now)?;
    let (slot, ordinals) = match &part.action {
        Action::Copy { slot, to, ordinals, .. } | Action::Rebuild { slot, to, ordinals, .. } if to == me => {
            (*slot, *ordinals)
        }
        _ => return Err(Unfit::NotNamed),
    };
    if !may_hold(&part.mandate.ticket, my_domain, slot) {
        return Err(Unfit::WrongColour { slot });
    }
    if let Some(held) = held.filter(|held| *held != slot) {
        return Err(Unfit::OtherSlot { held });
    }
    let (sealed, sheet) = (sheet.to_vec(), SlotSheet::open(sheet, &part.mandate.ticket)?);
    let rows: Vec<SheetRow> = sheet.rows.into_iter().filter(|row| ordinals.contains(row.ordinal)).collect();
    if sheet.slot != slot || rows.len() != ordinals.len() {
        return Err(Unfit::NoRoots);
    }
    if let Action::Rebuild { helpers, .. } = &part.action {
        let code = part.mandate.ticket.code();
        // As many as a stripe really has, of slots that it really has; more than that find out who lies.
        let enough = |row: &SheetRow| {
            let real = helpers.iter().filter(|(helper, _)| is_real(code, row.used, *helper)).count();
            real >= usize::from(row.used)
        };
        if !rows.iter().all(enough) {
            return Err(Unfit::WrongHelpers);
        }
    }
    Ok(Task { part, slot, rows, sheet: sealed })
}

/// What `me`, a holder, hands to `bearer`, whose pinned domain this is, under a copy: nothing to a peer of another colour, whoever
/// ordered it.
///
/// # Errors
/// Why nothing.
pub fn may_serve(
    credentials: &Credentials,
    me: &PeerKey,
    (bearer, domain): (&PeerKey, &Domain),
    (heard, now): (&BTreeSet<PeerKey>, Timestamp),
) -> Result<(Slot, Ordinals), Unfit> {
    let part = credentials.check(heard, now)?;
    match part.action {
        Action::Copy { slot, from, to, ordinals } if from == *me && to == *bearer => {
            if may_hold(&part.mandate.ticket, domain, slot) {
                Ok((slot, ordinals))
            } else {
                Err(Unfit::WrongColour { slot })
            }
        }
        _ => Err(Unfit::NotNamed),
    }
}

/// The slot of its own with which `me`, a holder, helps in a rebuild for the new holder, whose pinned domain this is. `held` is the
/// slot of the group that `me` has, by its own ledger.
///
/// # Errors
/// Why not.
pub fn may_help(
    credentials: &Credentials,
    me: &PeerKey,
    held: Option<Slot>,
    new_holder: &Domain,
    (heard, now): (&BTreeSet<PeerKey>, Timestamp),
) -> Result<(Part, Slot), Unfit> {
    let part = credentials.check(heard, now)?;
    let Action::Rebuild { slot, helpers, .. } = &part.action else { return Err(Unfit::NotNamed) };
    let slot = *slot;
    if !may_hold(&part.mandate.ticket, new_holder, slot) {
        return Err(Unfit::WrongColour { slot });
    }
    let own = helpers.iter().find(|(_, peer)| peer == me).map(|(own, _)| *own).ok_or(Unfit::NotNamed)?;
    match held {
        Some(held) if held == own => Ok((part, own)),
        Some(held) => Err(Unfit::OtherSlot { held }),
        None => Err(Unfit::NotNamed),
    }
}
