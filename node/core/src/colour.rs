//! Colours: the one slot that a peer may ever hold in a group.
//!
//! # Invariants
//!
//! - **SEP-1** A peer of colour `i < n` may be offered slot `i` of the group and nothing else, for ever.
//!   Enforced by [`may_hold`] at the sender (placement) and at the receiver (before it accepts one byte);
//!   attacked by `tests::a_domain_has_one_colour_for_ever` and by the hostile client in `tests/e2e`.

use cairn_proto::{Domain, GroupTicket, Slot};

/// A colour class of a group, `0..C`. Classes below n are slots; class n is the stewards'; the rest are spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Colour(u8);

impl Colour {
    /// The class number, `0..C`.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The colour of a domain in a group: `floor(C * PRF64(salt, domain) / 2^64)`, PRF64 the first eight bytes,
/// little endian, of BLAKE3 keyed with the salt over the domain's canonical text. Integer arithmetic only, so
/// every machine computes the same.
#[must_use]
pub fn colour(ticket: &GroupTicket, domain: &Domain) -> Colour {
    let hash = blake3::keyed_hash(ticket.salt(), domain.as_str().as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    let product = u128::from(u64::from_le_bytes(first)) * u128::from(ticket.colours());
    Colour((product >> 64) as u8)
}

/// Whether a peer of this domain may ever hold this slot of the group.
#[must_use]
pub fn may_hold(ticket: &GroupTicket, domain: &Domain, slot: Slot) -> bool {
    slot.index() < ticket.code().slots() && colour(ticket, domain).index() == slot.index()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::CodeParams;
    use proptest::prelude::*;

    fn ticket(salt: [u8; 32]) -> GroupTicket {
        GroupTicket::new([0; 32], salt, CodeParams::DEFAULT, 9).expect("valid")
    }

    proptest! {
        #[test]
        fn a_domain_has_one_colour_for_ever(salt: [u8; 32], name in "[a-z]{1,12}") {
            let t = ticket(salt);
            let domain = Domain::operator(&name).expect("valid");
            let slots = t.code().each_slot().filter(|s| may_hold(&t, &domain, *s)).count();
            prop_assert!(slots <= 1);
            prop_assert!(colour(&t, &domain).index() < 9);
            prop_assert_eq!(colour(&t, &domain), colour(&t, &domain));
        }
    }

    #[test]
    fn colours_are_even() {
        let t = ticket([7; 32]);
        let mut counts = [0u32; 9];
        for i in 0..9000 {
            counts[colour(&t, &Domain::operator(&format!("o{i}")).expect("valid")).index()] += 1;
        }
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }
}
