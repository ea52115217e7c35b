//! A session: what all parties of one attempt agree on, its bytes and its id.
//!
//! Layout, version 1: `1` · group 32 · ordinal · k · m · used · lost slot · attempt u16 LE · nonce 32 · new holder's key 32 ·
//! then for each helper, in the chain's order: slot · coefficient · key 32. There are `used` helpers, so the length says
//! nothing new and there is one encoding. The id is the BLAKE3 derive-key hash of these bytes: a session that differs in
//! anything has other masks.

use cairn_proto::{CodeParams, DecodeError, GroupId, Slot};

use super::{BlindError, masks::EphemeralKey};
use crate::erasure::Codec;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 32 + 5 + 2 + 32 + 32;
const LINK: usize = 34;

/// Bytes of the longest session: 31 helpers, because 32 slots are the most that a code has and one of them is lost.
pub const SESSION_SIZE_MAX: usize = HEADER + 31 * LINK;

/// The hash of everything that a session says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As a peer named it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// One helper of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The slot that it holds.
    pub slot: Slot,
    /// What its shard is multiplied with; never zero.
    pub coefficient: u8,
    /// Its key for this session.
    pub key: EphemeralKey,
}

/// What stewards decide about an attempt; [`Session::plan`] adds the coefficients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The group.
    pub group: GroupId,
    /// Which stripe of it.
    pub ordinal: u8,
    /// Data shards that the stripe really has, by the owner-signed record.
    pub used: u8,
    /// The slot to be rebuilt, of which the new holder is.
    pub lost: Slot,
    /// 0 for the first attempt.
    pub attempt: u16,
    /// Fresh from the operating system's generator.
    pub nonce: [u8; 32],
    /// The new holder's key for this session.
    pub new_holder: EphemeralKey,
    /// The helpers in the chain's order, each with its key: `used` of them.
    pub helpers: Vec<(Slot, EphemeralKey)>,
}

/// What all parties of one attempt agree on. Its slots and keys are distinct and its helpers as many as needed; that the
/// coefficients are right, [`super::Helper::new`] and [`super::NewHolder::new`] check with the group's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    group: GroupId,
    ordinal: u8,
    code: CodeParams,
    used: u8,
    lost: Slot,
    attempt: u16,
    nonce: [u8; 32],
    new_holder: EphemeralKey,
    links: Vec<Link>,
}

impl Session {
    /// The session of an order.
    ///
    /// # Errors
    /// [`BlindError::Erasure`] when these slots cannot rebuild that one; [`BlindError::KeyTwice`].
    pub fn plan(codec: &Codec, order: Order) -> Result<Self, BlindError> {
        let slots: Vec<Slot> = order.helpers.iter().map(|(slot, _)| *slot).collect();
        let coefficients = codec.coefficients(order.used.into(), order.lost, &slots)?;
        let links = order.helpers.into_iter().zip(coefficients);
        let session = Self {
            group: order.group,
            ordinal: order.ordinal,
            code: codec.params(),
            used: order.used,
            lost: order.lost,
            attempt: order.attempt,
            nonce: order.nonce,
            new_holder: order.new_holder,
            links: links.map(|((slot, key), coefficient)| Link { slot, coefficient, key }).collect(),
        };
        match session.twice() {
            Some(slot) => Err(BlindError::KeyTwice { slot }),
            None => Ok(session),
        }
    }

    /// The group.
    #[must_use]
    pub const fn group(&self) -> &GroupId {
        &self.group
    }

    /// Which stripe of the group.
    #[must_use]
    pub const fn ordinal(&self) -> u8 {
        self.ordinal
    }

    /// The group's code, as the session says.
    #[must_use]
    pub const fn code(&self) -> CodeParams {
        self.code
    }

    /// Data shards that the stripe really has, as the session says. A helper takes no other number than the owner-signed
    /// record's: with a wrong one the sum is a shard that is nobody's business.
    #[must_use]
    pub const fn used(&self) -> u8 {
        self.used
    }

    /// The slot to be rebuilt: the new holder's.
    #[must_use]
    pub const fn lost(&self) -> Slot {
        self.lost
    }

    /// Which attempt.
    #[must_use]
    pub const fn attempt(&self) -> u16 {
        self.attempt
    }

    /// The session's chance.
    #[must_use]
    pub const fn nonce(&self) -> &[u8; 32] {
        &self.nonce
    }

    /// The helpers in the chain's order.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Every party: the helpers in the chain's order, then the new holder, under the slot that it is to hold.
    pub fn parties(&self) -> impl Iterator<Item = (Slot, &EphemeralKey)> {
        let helpers = self.links.iter().map(|link| (link.slot, &link.key));
        helpers.chain([(self.lost, &self.new_holder)])
    }

    /// The key of a party.
    #[must_use]
    pub fn key_of(&self, slot: Slot) -> Option<&EphemeralKey> {
        self.parties().find(|(party, _)| *party == slot).map(|(_, key)| key)
    }

    /// The id: changes with every bit.
    #[must_use]
    pub fn id(&self) -> SessionId {
        SessionId(blake3::derive_key("cairn 2026-11 blinded rebuild session v1", &self.encode()))
    }

    /// The only encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + LINK * self.links.len());
        out.push(VERSION);
        out.extend_from_slice(self.group.as_bytes());
        let (data, parity) = self.code.into();
        out.extend_from_slice(&[self.ordinal, data, parity, self.used, self.lost.as_u8()]);
        out.extend_from_slice(&self.attempt.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(self.new_holder.as_bytes());
        for link in &self.links {
            out.extend_from_slice(&[link.slot.as_u8(), link.coefficient]);
            out.extend_from_slice(link.key.as_bytes());
        }
        out
    }

    /// Reads a session, whoever sent it: at most [`SESSION_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// What is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "rebuild session";
        let invalid = |why| DecodeError::Invalid { what: WHAT, why };
        let found = bytes.len();
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(DecodeError::Truncated { what: WHAT, needed: HEADER, found });
        };
        if header[0] != VERSION {
            return Err(invalid("unknown version"));
        }
        let (data, parity, used) = (header[34], header[35], header[36]);
        let code = CodeParams::new(data, parity)?;
        if used == 0 || used > data {
            return Err(invalid("more data shards than the code has, or none"));
        }
        let whole = HEADER + usize::from(used) * LINK;
        if found != whole {
            return Err(if found < whole {
                DecodeError::Truncated { what: WHAT, needed: whole, found }
            } else {
                DecodeError::TooLarge { what: WHAT, limit: whole, found }
            });
        }
        let real = |slot: Slot| slot.index() < code.slots() && !(used.into()..code.data()).contains(&slot.index());
        let lost = Slot::new(header[37])?;
        let mut links = Vec::with_capacity(used.into());
        for link in rest.chunks_exact(LINK) {
            let slot = Slot::new(link[0])?;
            if link[1] == 0 || !real(slot) || slot == lost || links.iter().any(|other: &Link| other.slot == slot) {
                return Err(invalid("a helper that cannot help, or comes twice"));
            }
            links.push(Link { slot, coefficient: link[1], key: EphemeralKey::from_bytes(array(&link[2..]))? });
        }
        let session = Self {
            group: GroupId::from_bytes(array(&header[1..33])),
            ordinal: header[33],
            code,
            used,
            lost,
            attempt: u16::from_le_bytes([header[38], header[39]]),
            nonce: array(&header[40..72]),
            new_holder: EphemeralKey::from_bytes(array(&header[72..]))?,
            links,
        };
        if !real(lost) || session.twice().is_some() {
            return Err(invalid("nothing to rebuild, or a key that comes twice"));
        }
        Ok(session)
    }

    /// SEP-1: that the sum is the lost shard and nothing else. A session with other coefficients would bring the new holder
    /// a shard, or a sum of shards, that is not its own.
    pub(super) fn check(&self, codec: &Codec) -> Result<(), BlindError> {
        if codec.params() != self.code {
            return Err(BlindError::OtherCode { session: self.code, ours: codec.params() });
        }
        let slots: Vec<Slot> = self.links.iter().map(|link| link.slot).collect();
        let right = codec.coefficients(self.used.into(), self.lost, &slots)?;
        if right.iter().ne(self.links.iter().map(|link| &link.coefficient)) {
            return Err(BlindError::Coefficients);
        }
        Ok(())
    }

    /// Whose key is somebody else's too.
    fn twice(&self) -> Option<Slot> {
        let keys: Vec<_> = self.parties().collect();
        let again = keys.iter().enumerate().find(|(at, (_, key))| keys[..*at].iter().any(|(_, other)| other == key));
        again.map(|(_, (slot, _))| *slot)
    }
}

/// The first 32 bytes, of a slice that has them.
fn array(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(&bytes[..32]);
    out
}
