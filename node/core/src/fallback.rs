//! What an owner gives to fallback storage (a bucket, a WebDAV server, a folder) when the network has nobody for a slot: how
//! much of a group one provider may have, what its objects are called, and how a shard is sealed once more for it.
//!
//! A provider is no peer: it has no colour, and somebody who reads all of it reads every slot that lies there. So
//!
//! - **SEP-6** At one provider lie at most min(k - 1, m) slots of a group, ever: it cannot read, and losing it loses nothing.
//!   Slots that left count. Enforced by [`share_out`]; attacked by `tests::no_provider_ever_has_more_than_its_cap`.
//! - **SEC-1** An object's name is a keyed hash, its size is always the same, and what is in it is sealed under a key of its
//!   own: group, slot, stripe and root cannot be read from it. Attacked by `tests::names_and_bytes_tell_nothing`.
//! - **SEC-2** Each object is sealed under a key that is made with 32 random bytes and used once.

use std::{collections::BTreeSet, fmt};

use cairn_proto::{CodeParams, GroupId, SEAL_OVERHEAD, SHARD_SIZE, Slot};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::{
    gcm::{Cipher, NONCE},
    keys::Secret,
};

#[cfg(test)]
mod tests;

/// Bytes of every object: mark, salt, a sealed shard, the tag.
pub const OBJECT_SIZE: usize = MARK.len() + SALT + SHARD_SIZE + SEAL_OVERHEAD;
/// What an object begins with: format and version.
const MARK: &[u8; 8] = b"cairnfb\x01";
const SALT: usize = 32;

/// How many slots of a group one provider may ever have.
#[must_use]
pub fn most_at_one(code: CodeParams) -> usize {
    code.data().saturating_sub(1).min(code.parity())
}

/// How many more slots these providers may have together. `ever`: by provider, the slots of the group that it has or had.
#[must_use]
pub fn room(code: CodeParams, ever: &[BTreeSet<usize>]) -> usize {
    ever.iter().map(|had| most_at_one(code).saturating_sub(had.len())).sum()
}

/// Gives each of these slots a provider, by its place in `ever`; `None` where they have no room for all. A slot goes back
/// to where it was, any other to whoever has fewest slots of the group.
#[must_use]
pub fn share_out(code: CodeParams, ever: &[BTreeSet<usize>], slots: &[usize]) -> Option<Vec<usize>> {
    let most = most_at_one(code);
    let mut ever = ever.to_vec();
    let mut given = Vec::with_capacity(slots.len());
    for slot in slots {
        let back = ever.iter().position(|had| had.contains(slot));
        let emptiest = || {
            let free = ever.iter().enumerate().filter(|(_, had)| had.len() < most);
            free.min_by_key(|(at, had)| (had.len(), *at)).map(|(at, _)| at)
        };
        let at = back.or_else(emptiest)?;
        ever.get_mut(at)?.insert(*slot);
        given.push(at);
    }
    Some(given)
}

/// Which shard an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The group.
    pub group: GroupId,
    /// Position in the stripe.
    pub slot: Slot,
    /// Stripe of the group.
    pub ordinal: u8,
}

/// Why an object is not the shard that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It was cut, or never was one.
    #[error("an object has {OBJECT_SIZE} bytes, this one has {found}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// It begins as no object that this program knows.
    #[error("not an object of this program, or of a later version")]
    Mark,
    /// It was changed, or lies in another's place.
    #[error("does not open: it was changed, or lies where another one belongs")]
    NotAuthentic,
}

/// The keys of a vault for one provider.
pub struct FallbackKeys {
    secret: Secret,
}

impl fmt::Debug for FallbackKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FallbackKeys(..)")
    }
}

impl FallbackKeys {
    pub(crate) const fn new(secret: Secret) -> Self {
        Self { secret }
    }

    /// The key that stands for the provider in a group's row: one for each slot, since no peer stands in two.
    #[must_use]
    pub fn holder(&self, slot: Slot) -> SigningKey {
        SigningKey::from_bytes(&self.secret.derive("cairn 2026-11 fallback holder v1", &[slot.as_u8()]).0)
    }

    /// The folder of a slot of a group.
    #[must_use]
    pub fn folder(&self, group: &GroupId, slot: Slot) -> String {
        let named = [&group.as_bytes()[..], &[slot.as_u8()]].concat();
        hex(&self.secret.derive("cairn 2026-11 fallback folder v1", &named).0)
    }

    /// An object's name in its folder.
    #[must_use]
    pub fn name(&self, place: &Place) -> String {
        hex(&self.secret.derive("cairn 2026-11 fallback object v1", &place.bytes()).0)
    }

    /// Seals a shard once more. `salt`: random, never used before.
    ///
    /// # Errors
    /// [`ObjectError::Length`] when it is no shard.
    pub fn seal(&self, place: &Place, salt: [u8; SALT], shard: &[u8]) -> Result<Vec<u8>, ObjectError> {
        if shard.len() != SHARD_SIZE {
            return Err(ObjectError::Length { found: shard.len() });
        }
        let mut object = Vec::with_capacity(OBJECT_SIZE);
        object.extend_from_slice(MARK);
        object.extend_from_slice(&salt);
        object.extend_from_slice(shard);
        let sealed = self.cipher(place, &salt)?.seal([0; NONCE], &place.bytes(), &mut object[MARK.len() + SALT..]);
        object.extend_from_slice(&sealed.map_err(|_| ObjectError::NotAuthentic)?);
        Ok(object)
    }

    /// The shard that lies in an object.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn open(&self, place: &Place, object: &[u8]) -> Result<Vec<u8>, ObjectError> {
        if object.len() != OBJECT_SIZE {
            return Err(ObjectError::Length { found: object.len() });
        }
        let (mark, rest) = object.split_at(MARK.len());
        let Some((salt, sealed)) = rest.split_first_chunk::<SALT>().filter(|_| mark == MARK) else {
            return Err(ObjectError::Mark);
        };
        let mut shard = sealed.to_vec();
        let opened = self.cipher(place, salt)?.open([0; NONCE], &place.bytes(), &mut shard);
        opened.map_err(|_| ObjectError::NotAuthentic)?;
        shard.truncate(SHARD_SIZE);
        Ok(shard)
    }

    fn cipher(&self, place: &Place, salt: &[u8; SALT]) -> Result<Cipher, ObjectError> {
        let named = [&place.bytes()[..], salt].concat();
        let key = Zeroizing::new(self.secret.derive("cairn 2026-11 fallback object key v1", &named).0);
        Cipher::new(&key).map_err(|_| ObjectError::NotAuthentic)
    }
}

impl Place {
    fn bytes(&self) -> [u8; 34] {
        let mut out = [0; 34];
        out[..32].copy_from_slice(self.group.as_bytes());
        out[32] = self.slot.as_u8();
        out[33] = self.ordinal;
        out
    }
}

/// 128 bits are enough for names that nobody may choose.
fn hex(hash: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    hash[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
