//! What an owner believes of a steward's word about a group: what is signed, and nothing else.
//!
//! The mandate must be the owner's own, changes of stewards must follow from it one by one, and each new holder must have been
//! ordered by enough of those who were stewards about then, and say itself that it took the shards. What a lying steward can do is
//! to leave things out; to make things up it takes a quorum, and then the shards are still checked against the owner's roots.
//!
//! The log is no more than the steward's word: it is shown, and nothing is decided by it.

use std::collections::BTreeSet;

use cairn_proto::{
    Action, Certificate, Committee, DecodeError, GroupTicket, Mandate, Ordinals, PeerKey, Slot, Taken, Timestamp,
    order::{CHANGES_MAX, OrderId},
};

use super::{
    log::{Happening, LOG_MAX},
    watched::ENTRIES_MAX,
    wire::GroupMap,
};

/// Entries that do not hold, after which the rest is not looked at: a false one costs up to 56 signatures, so 0.2 s in all.
const FALSE_MAX: usize = 64;
/// Committees that a certificate may be of: the one in office when it was issued, and those next to it, because not every
/// steward hears of a change at once.
const COMMITTEES_TRIED: usize = 8;

/// A holder that came while the owner was away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Under which order.
    pub order: OrderId,
    /// The slot.
    pub slot: Slot,
    /// Who: it signed that it has them.
    pub holder: PeerKey,
    /// What it took.
    pub ordinals: Ordinals,
    /// When, by its own clock.
    pub at: Timestamp,
}

/// What of a steward's word holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The mandate that it goes by.
    pub mandate: Mandate,
    /// The stewards of now.
    pub stewards: Vec<PeerKey>,
    /// New holders, by the time at which they took their shards.
    pub arrivals: Vec<Arrival>,
    /// What it says that happened. Nothing in it is signed.
    pub log: Vec<Happening>,
    /// Entries that did not hold.
    pub unfounded: usize,
}

impl History {
    /// Checks what a steward said of the group that has this ticket. A worker's work: it checks thousands of signatures where
    /// thousands of repairs were.
    ///
    /// # Errors
    /// A mandate that is not the owner's for this group, changes that do not follow from it, or more than a steward keeps.
    pub fn check(map: &GroupMap, ticket: &GroupTicket) -> Result<Self, DecodeError> {
        let bad = |why| DecodeError::Invalid { what: "group map", why };
        if map.changes.len() > CHANGES_MAX || map.entries.len() > ENTRIES_MAX || map.log.len() > LOG_MAX {
            return Err(bad("is longer than a steward's"));
        }
        let mandate = Mandate::open(&map.mandate)?;
        if mandate.ticket != *ticket {
            return Err(bad("is of another group"));
        }
        let mut committee = Committee::of(&mandate);
        let mut committees = vec![(mandate.issued, committee.clone())];
        for change in &map.changes {
            committee.change(change)?;
            committees.push((change.order.issued, committee.clone()));
        }
        let (mut arrivals, mut unfounded, mut seen) = (Vec::new(), 0, BTreeSet::new());
        for (certificate, sealed) in &map.entries {
            // From under an older mandate, which the owner knew the end of when it made this one.
            if certificate.order.generation < mandate.generation {
                continue;
            }
            match arrival(certificate, sealed, ticket, &committees) {
                Some(arrival) if seen.insert(arrival.order) => arrivals.push(arrival),
                Some(_) => {}
                None => unfounded += 1,
            }
            if unfounded == FALSE_MAX {
                break;
            }
        }
        arrivals.sort_by_key(|arrival| (arrival.at, arrival.order));
        Ok(Self { mandate, stewards: committee.stewards().to_vec(), arrivals, log: map.log.clone(), unfounded })
    }
}

/// What an entry says, if it holds.
fn arrival(
    certificate: &Certificate,
    sealed: &[u8],
    ticket: &GroupTicket,
    committees: &[(Timestamp, Committee)],
) -> Option<Arrival> {
    let (Action::Copy { slot, to, ordinals: ordered, .. } | Action::Rebuild { slot, to, ordinals: ordered, .. }) =
        &certificate.order.action
    else {
        return None;
    };
    let order = certificate.order.id().ok()?;
    let taken = Taken::open(sealed).ok()?;
    let same = taken.order == order && taken.group == ticket.id() && taken.slot == *slot && taken.holder == *to;
    if !same || taken.ordinals.is_empty() || !taken.ordinals.without(ordered).is_empty() {
        return None;
    }
    let in_office = committees.partition_point(|(since, _)| *since <= certificate.order.issued).saturating_sub(1);
    let mut near: Vec<usize> = (0..committees.len()).collect();
    near.sort_by_key(|at| at.abs_diff(in_office));
    let good = near.iter().take(COMMITTEES_TRIED).any(|at| certificate.check(&committees[*at].1).is_ok());
    good.then_some(Arrival { order, slot: *slot, holder: *to, ordinals: taken.ordinals, at: taken.at })
}

#[cfg(test)]
mod tests;
