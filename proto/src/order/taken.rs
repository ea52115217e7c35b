//! The new holder's word that an order was carried out.

use ed25519_dalek::SigningKey;

use super::{OrderId, Ordinals, SIGNATURE, VERSION};
use crate::{
    DecodeError, GroupId, PeerKey, Slot, Timestamp,
    layout::{Reader, put_number},
    signed,
};

const TAKEN: &str = "cairn shards taken v1";

/// A new holder's word that it has what an order gave it: the group's map grows by this.
///
/// Layout: version `1` · order's id 32 · group 32 · slot · ordinals 32 · previous entry 32 · taken at · holder 32 · signature 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Under which order.
    pub order: OrderId,
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// What it has of it now, durably.
    pub ordinals: Ordinals,
    /// Hash of the entry of this slot that the holder was told of before, zero for the first: nobody can leave one out unseen.
    pub previous: [u8; 32],
    /// When, by the holder's clock.
    pub at: Timestamp,
    /// Who: the signer.
    pub holder: PeerKey,
}

impl Taken {
    /// Signs with the holder's identity; `self.holder` must be that key.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&[self.order, *self.group.as_bytes()].concat());
        out.push(self.slot.as_u8());
        out.extend_from_slice(&[*self.ordinals.as_bytes(), self.previous].concat());
        put_number(&mut out, self.at.0);
        out.extend_from_slice(self.holder.as_bytes());
        let signature = signed::sign(TAKEN, &out, key);
        out.extend_from_slice(&signature);
        out
    }

    /// Checks fields and signature.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn open(bytes: &[u8]) -> Result<Self, DecodeError> {
        let at = bytes.len().checked_sub(SIGNATURE);
        let at = at.ok_or(DecodeError::Truncated { what: TAKEN, needed: SIGNATURE, found: bytes.len() })?;
        let (body, signature) = bytes.split_at(at);
        let mut r = Reader::new(TAKEN, body);
        r.version(VERSION)?;
        let (order, group, slot) = (r.array()?, GroupId::from_bytes(r.array()?), Slot::new(r.byte()?)?);
        let (ordinals, previous, at) = (Ordinals::from_bytes(r.array()?), r.array()?, Timestamp(r.u64()?));
        let holder = PeerKey::from_bytes(r.array()?);
        r.finish()?;
        signed::verify(TAKEN, body, holder.as_bytes(), signature)?;
        Ok(Self { order, group, slot, ordinals, previous, at, holder })
    }

    /// What the next entry of the slot names as its previous one.
    #[must_use]
    pub fn hash(sealed: &[u8]) -> [u8; 32] {
        blake3::derive_key("cairn 2026-11 map entry v1", sealed)
    }
}
