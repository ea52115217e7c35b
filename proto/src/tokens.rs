//! Tokens that an owner leaves to one steward: questions to a holder whose right answers were reckoned when the owner had the shards.
//!
//! A steward may see no leaf of a slot. With a token it has a holder reckon a digest over leaves that the token's nonce chooses, and
//! compares: it learns whether the holder has the shard, and nothing of the shard. Each is good for one question, for whoever answered
//! it may keep the answer and drop the shard; so each steward has tokens of its own, and no two stewards ever share one.
//!
//! A wrong answer proves nothing to anybody else: only the owner knows whether the token is right. What the signature shows is that the
//! group's owner made it, so that no other steward can have an honest holder doubted with tokens that it made up.

use ed25519_dalek::SigningKey;

use crate::{
    DecodeError, GroupId, GroupTicket, PeerKey, STRIPES_PER_GROUP_MAX, ShardRoot, Slot,
    code_params::SLOTS_MAX,
    layout::{Reader, at_most, put_number, put_option},
    mandate::{signed_with, split},
};

/// Leaves that a token's question asks for. Who keeps nothing of a shard fails at the first, who keeps nine tenths at one of sixteen with
/// 81 %; and with four times as many, who makes tokens would take four times as long.
pub const TOKEN_LEAVES: u8 = 16;

/// Most tokens of one slot in a booklet: one a fortnight for the thirteen months of a mandate are 28, so there is room for a group that
/// grows under it.
pub const TOKENS_OF_SLOT_MAX: usize = 96;
/// Bytes of a token.
pub const TOKEN_ROW: usize = 1 + 8 + 32 + 16;
/// Most bytes of a booklet, its signature included: 172 KiB for a code of 32 slots. One of eight slots, all of them lonely, and a full group
/// has 27.
pub const BOOKLET_MAX: usize = 64 + 33 + 64 + SLOTS_MAX as usize * (4 + TOKENS_OF_SLOT_MAX * TOKEN_ROW);

const BOOKLET: &str = "cairn token booklet v1";
const VERSION: u8 = 1;

/// One question for a shard, and how its right answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The stripe of the group.
    pub ordinal: u8,
    /// How the shard's root begins: a token of a shard that is there no more is no token of the one that took its place.
    pub root: [u8; 8],
    /// What to ask with. Secret until then.
    pub nonce: [u8; 32],
    /// How the right digest begins; whoever guesses is right once in 2^128.
    pub digest: [u8; 16],
}

impl TokenRow {
    /// Whether it was made for this shard.
    #[must_use]
    pub fn is_of(&self, root: &ShardRoot) -> bool {
        root.as_bytes().starts_with(&self.root)
    }
}

/// The tokens of one steward for one group.
///
/// Layout: version `1` · group 32 · option of steward 32 · slots (count; slot, tokens (count; ordinal, root 8, nonce 32, digest 16)) · Ed25519 signature of the
/// group's authority 64. Slots and, in each, nonces ascend. Counts in minimal LEB128.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booklet {
    /// The group.
    pub group: GroupId,
    /// Who is to use it, and nobody else takes it; none for one that is kept for a steward that others put in.
    pub steward: Option<PeerKey>,
    /// Tokens by slot; no slot without any.
    pub slots: Vec<(Slot, Vec<TokenRow>)>,
}

impl Booklet {
    /// Signs with the group's authority.
    ///
    /// # Errors
    /// More tokens than a slot may have, or out of order.
    pub fn seal(&self, authority: &SigningKey) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = vec![VERSION];
        out.extend_from_slice(self.group.as_bytes());
        put_option(&mut out, self.steward, |out, steward| out.extend_from_slice(steward.as_bytes()));
        put_number(&mut out, self.slots.len() as u64);
        for (slot, tokens) in &self.slots {
            out.push(slot.as_u8());
            put_number(&mut out, tokens.len() as u64);
            tokens.iter().for_each(|token| token.put(&mut out));
        }
        Ok(signed_with(BOOKLET, out, authority))
    }

    /// Checks everything: its owner made it for this group.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn open(bytes: &[u8], ticket: &GroupTicket) -> Result<Self, DecodeError> {
        at_most(BOOKLET, BOOKLET_MAX, bytes.len())?;
        let (body, signature) = split(BOOKLET, bytes)?;
        crate::signed::verify(BOOKLET, body, ticket.authority(), signature)?;
        let mut r = Reader::new(BOOKLET, body);
        r.version(VERSION)?;
        let group = GroupId::from_bytes(r.array()?);
        let steward = r.option(|r| r.array().map(PeerKey::from_bytes))?;
        let count = r.count(SLOTS_MAX.into(), 2 + TOKEN_ROW)?;
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let slot = Slot::new(r.byte()?)?;
            let tokens = r.count(TOKENS_OF_SLOT_MAX, TOKEN_ROW)?;
            slots.push((slot, (0..tokens).map(|_| TokenRow::read(&mut r)).collect::<Result<_, _>>()?));
        }
        r.finish()?;
        let booklet = Self { group, steward, slots };
        let inside = booklet.slots.iter().all(|(slot, _)| slot.index() < ticket.code().slots());
        if booklet.group != ticket.id() || !inside {
            return Err(DecodeError::Invalid { what: BOOKLET, why: "is not of this group" });
        }
        booklet.check()?;
        Ok(booklet)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: BOOKLET, why });
        if !self.slots.is_sorted_by(|(a, _), (b, _)| a.as_u8() < b.as_u8()) {
            return bad("slots out of order");
        }
        for (_, tokens) in &self.slots {
            at_most(BOOKLET, TOKENS_OF_SLOT_MAX, tokens.len())?;
            if tokens.is_empty() || !tokens.is_sorted_by(|a, b| a.nonce < b.nonce) {
                return bad("a slot without tokens, or tokens out of order");
            }
        }
        Ok(())
    }
}

impl TokenRow {
    /// Appends the bytes to what it is a part of.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.ordinal);
        out.extend_from_slice(&self.root);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.digest);
    }

    /// Reads one off the front of what it is a part of.
    ///
    /// # Errors
    /// The bytes end before it does.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { ordinal: r.byte()?, root: r.array()?, nonce: r.array()?, digest: r.array()? })
    }
}

// An ordinal is a byte: each is one of a group's.
const _: () = assert!(STRIPES_PER_GROUP_MAX == 256);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodeParams;

    fn ticket() -> (GroupTicket, SigningKey) {
        let authority = SigningKey::from_bytes(&[9; 32]);
        let ticket = GroupTicket::new(authority.verifying_key().to_bytes(), [3; 32], CodeParams::DEFAULT, 9);
        (ticket.expect("valid"), authority)
    }

    fn token(nonce: u8) -> TokenRow {
        TokenRow { ordinal: 255 - nonce, root: [nonce; 8], nonce: [nonce; 32], digest: [nonce; 16] }
    }

    fn booklet(group: GroupId, tokens: u8) -> Booklet {
        let of = |slot: u8| (Slot::new(slot).expect("valid"), (0..tokens).map(token).collect());
        Booklet { group, steward: Some(PeerKey::from_bytes([6; 32])), slots: [0, 3, 7].map(of).into() }
    }

    #[test]
    fn a_booklet_reads_as_it_was_signed_and_only_for_its_group() {
        let (ticket, authority) = ticket();
        let booklet = booklet(ticket.id(), 5);
        let sealed = booklet.seal(&authority).expect("valid");
        assert_eq!(sealed.len(), 1 + 32 + 33 + 1 + 3 * (2 + 5 * TOKEN_ROW) + 64);
        assert_eq!(Booklet::open(&sealed, &ticket), Ok(booklet.clone()));
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(Booklet::open(&bad, &ticket).is_err(), "byte {at}");
            assert!(Booklet::open(&sealed[..at], &ticket).is_err(), "cut at {at}");
        }
        let other = GroupTicket::new(*ticket.authority(), [4; 32], ticket.code(), 9).expect("valid");
        assert!(Booklet::open(&sealed, &other).is_err(), "another group of the same owner");
        let forged = booklet.seal(&SigningKey::from_bytes(&[8; 32])).expect("valid");
        assert!(Booklet::open(&forged, &ticket).is_err(), "anybody else's");
    }

    #[test]
    fn what_has_too_many_or_the_same_twice_is_no_booklet() {
        let (ticket, authority) = ticket();
        assert!(booklet(ticket.id(), TOKENS_OF_SLOT_MAX as u8).seal(&authority).is_ok());
        assert!(booklet(ticket.id(), TOKENS_OF_SLOT_MAX as u8 + 1).seal(&authority).is_err());
        assert!(booklet(ticket.id(), 0).seal(&authority).is_err());
        let mut twice = booklet(ticket.id(), 3);
        twice.slots[1].1[1] = twice.slots[1].1[0];
        assert!(twice.seal(&authority).is_err(), "one token, one question");
        twice = booklet(ticket.id(), 3);
        twice.slots.swap(0, 1);
        assert!(twice.seal(&authority).is_err());
        // Signed all the same, by an owner that follows no rule: a slot that the code does not have.
        let mut beyond = booklet(ticket.id(), 1);
        beyond.slots[2].0 = Slot::new(8).expect("a slot");
        let sealed = beyond.seal(&authority).expect("valid as such");
        assert!(Booklet::open(&sealed, &ticket).is_err());
    }
}
