//! Whether a change of stewards that fewer than half of a committee ordered counts.
//!
//! Half of a committee changes it. Where more than half are lost within a day nobody could do so any more, and the group would be left
//! alone until its owner returns. So whoever is left may order a *succession* ([`Committee::succeed`]): what says that it counts is not its
//! signatures, but that those who did not sign are silent. Each who is shown one looks for itself: with those who signed and those whom it
//! heard lately there must be fewer than a proper change takes, and the one who goes must not be among them.
//!
//! What one steward that lies can make of that: successions of a committee whose others are here, which nobody believes who hears them.
//!
//! # Invariants
//!
//! - **TRUST-1** A steward alone puts nobody in the place of stewards who are heard. Enforced by [`counts`]; attacked by
//!   `steward::tests::succession::*`.

use std::collections::BTreeSet;

use cairn_proto::{Certificate, Committee, DecodeError, Mandate, PeerKey, mandate::half};

/// Whether this change of a committee counts for whoever heard these of its stewards lately. One that half signed does, whoever is heard.
/// Signatures are [`Committee::succeed`]'s to look at.
#[must_use]
pub fn counts(committee: &Committee, change: &Certificate, heard: &dyn Fn(&PeerKey) -> bool) -> bool {
    if !committee.is_succession(change) {
        return true;
    }
    let stewards = committee.stewards().len();
    let silent = committee.unsigned(change).filter(|peer| !heard(peer)).count();
    let goes = change.order.action.stewards().0;
    stewards - silent < half(stewards) && goes.is_some_and(|old| !heard(&old))
}

/// The stewards of a mandate after these changes, for whoever heard these peers lately.
///
/// # Errors
/// A change that does not follow, or a succession of a committee that is heard.
pub fn follow(mandate: &Mandate, changes: &[Certificate], heard: &BTreeSet<PeerKey>) -> Result<Committee, DecodeError> {
    let mut committee = Committee::of(mandate);
    for change in changes {
        if !counts(&committee, change, &|peer| heard.contains(peer)) {
            return Err(DecodeError::Invalid { what: "succession of stewards", why: "those who went are here" });
        }
        committee.succeed(change)?;
    }
    Ok(committee)
}

/// Those of whom [`follow`] needs to know whether they were heard: nobody, where half signed each change. `stewards`: the mandate's. No signature is
/// looked at.
#[must_use]
pub fn concerned(mut stewards: Vec<PeerKey>, changes: &[Certificate]) -> BTreeSet<PeerKey> {
    let mut concerned = BTreeSet::new();
    for change in changes {
        let (old, new) = change.order.action.stewards();
        if old.is_some() && change.signers().count() < half(stewards.len()) {
            concerned.extend(stewards.iter().copied());
        }
        stewards.retain(|peer| Some(*peer) != old);
        stewards.extend(new);
    }
    concerned
}
