//! What an owner believes of a steward's word about a group: what is signed, and nothing else.
//!
//! The mandates must be the owner's own, changes of stewards must follow from them one by one, and each new holder must have been
//! ordered by enough of the committee that its order names, and say itself that it took the shards. What a lying steward can do is
//! to leave things out; to make things up it takes a quorum, or one that says it is the last, and then the shards are still checked against the owner's roots.
//!
//! The log is no more than the steward's word: it is shown, and nothing is decided by it.

use std::collections::BTreeSet;

use cairn_proto::{
    Action, Certificate, Committee, DecodeError, GroupTicket, Mandate, Ordinals, PeerKey, Slot, Taken, Timestamp,
    order::{CHANGES_MAX, OrderId},
};

use super::{
    log::{Happening, LOG_MAX},
    message::PAST_MAX,
    watched::ENTRIES_MAX,
    wire::GroupMap,
};

/// Entries that do not hold, after which the rest is not looked at: a false one costs up to 56 signatures, so 0.2 s in all.
const FALSE_MAX: usize = 64;

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
    /// Whether that rests on the word of fewer than half of a committee ([`crate::succession`]).
    pub succession: bool,
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
        let lists = map.past.iter().map(|past| past.changes.len()).chain([map.changes.len()]);
        let long = map.past.len() > PAST_MAX || lists.max().unwrap_or(0) > CHANGES_MAX;
        if long || map.entries.len() > ENTRIES_MAX || map.log.len() > LOG_MAX {
            return Err(bad("is longer than a steward's"));
        }
        let mandate = Mandate::open(&map.mandate)?;
        if mandate.ticket != *ticket {
            return Err(bad("is of another group"));
        }
        let mut committees = follow(&mandate, &map.changes)?;
        let stewards = committees.last().map_or(&[][..], Committee::stewards).to_vec();
        let succession = committees.iter().zip(&map.changes).any(|(committee, change)| committee.is_succession(change));
        for past in &map.past {
            let older = Mandate::open(&past.mandate)?;
            if older.ticket != *ticket || older.generation >= mandate.generation {
                return Err(bad("has an older mandate that is none"));
            }
            committees.extend(follow(&older, &past.changes)?);
        }
        let (mut arrivals, mut unfounded, mut seen) = (Vec::new(), 0, BTreeSet::new());
        for (certificate, sealed) in &map.entries {
            // Of a committee of which the steward shows nothing: nobody could tell, and nothing is looked at.
            let Some(committee) = committees.iter().find(|known| *known.id() == certificate.order.committee) else {
                continue;
            };
            match arrival(certificate, sealed, ticket, committee) {
                Some(arrival) if seen.insert(arrival.order) => arrivals.push(arrival),
                Some(_) => {}
                None => unfounded += 1,
            }
            if unfounded == FALSE_MAX {
                break;
            }
        }
        arrivals.sort_by_key(|arrival| (arrival.at, arrival.order));
        Ok(Self { mandate, stewards, succession, arrivals, log: map.log.clone(), unfounded })
    }
}

/// The mandate's committee and one after each change.
fn follow(mandate: &Mandate, changes: &[Certificate]) -> Result<Vec<Committee>, DecodeError> {
    let mut committee = Committee::of(mandate);
    let mut line = vec![committee.clone()];
    for change in changes {
        // The owner was away and can say of nobody that it was here; a steward that outlived the others tells the truth, or makes up holders whose
        // shards are then checked.
        committee.succeed(change)?;
        line.push(committee.clone());
    }
    Ok(line)
}

/// What an entry says, if it holds.
fn arrival(certificate: &Certificate, sealed: &[u8], ticket: &GroupTicket, committee: &Committee) -> Option<Arrival> {
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
    let good = certificate.check(committee).is_ok();
    good.then_some(Arrival { order, slot: *slot, holder: *to, ordinals: taken.ordinals, at: taken.at })
}

#[cfg(test)]
mod tests;
