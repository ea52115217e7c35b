//! Keys and masks: what two parties of a session share, and nobody else can make.
//!
//! ```text
//! X25519(mine, theirs) + session id + pair of slots -> pair seed -> slice seed(i) -> ChaCha20 -> mask of slice i
//! ```
//!
//! A seed of its own for each slice makes slices independent of each other, and lets a party open one slice of a dispute
//! to an auditor without giving away the rest.

use std::{fmt, hint::black_box};

use cairn_proto::{DecodeError, Slot};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    BlindError,
    session::{Session, SessionId},
};

/// Mask bytes made at once: stays in the first cache.
const STRETCH: usize = 4096;

/// A party's secret for one session. Making a [`super::Helper`] or a [`super::NewHolder`] uses it up, it cannot be copied or
/// written down, and a party that restarts has it no more: the session is then over, and the next one has new keys.
pub struct EphemeralSecret(StaticSecret);

impl EphemeralSecret {
    /// From 32 bytes of the operating system's generator, used for nothing else.
    #[must_use]
    pub fn from_entropy(mut entropy: [u8; 32]) -> Self {
        let secret = StaticSecret::from(entropy);
        entropy.zeroize();
        Self(secret)
    }

    /// The public half, for the session.
    #[must_use]
    pub fn public(&self) -> EphemeralKey {
        EphemeralKey(PublicKey::from(&self.0).to_bytes())
    }
}

impl fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EphemeralSecret(..)")
    }
}

/// An X25519 public key in its only canonical form, so that one key has one name in a ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EphemeralKey([u8; 32]);

impl EphemeralKey {
    /// Checks that the number is below the field's prime, 2^255 - 19.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for another spelling of a key.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, DecodeError> {
        let beyond = bytes[31] == 0x7f && bytes[1..31].iter().all(|b| *b == 0xff) && bytes[0] >= 0xed;
        if bytes[31] > 0x7f || beyond {
            return Err(DecodeError::Invalid { what: "ephemeral key", why: "not in its canonical form" });
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EphemeralKey({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Two parties, the lower slot first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair(Slot, Slot);

impl Pair {
    pub(super) fn new(one: Slot, other: Slot) -> Self {
        Self(one.min(other), one.max(other))
    }

    /// The other one.
    fn beside(self, party: Slot) -> Slot {
        if self.0 == party { self.1 } else { self.0 }
    }

    /// Whether this party knows the mask.
    #[cfg(test)]
    pub(super) fn has(self, party: Slot) -> bool {
        self.0 == party || self.1 == party
    }
}

/// What a party adds to the sum that passes through it. What the parties do and what `tests::taint` proves come from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// What its own shard is multiplied with; `None` for the new holder.
    pub(super) coefficient: Option<u8>,
    /// Whom it shares a mask with: every other party.
    pub(super) pairs: Vec<Pair>,
}

impl Part {
    /// The part of a slot, if it has one.
    pub(super) fn of(session: &Session, slot: Slot) -> Option<Self> {
        let helper = session.links().iter().find(|link| link.slot == slot);
        if helper.is_none() && slot != session.lost() {
            return None;
        }
        let others = session.parties().map(|(other, _)| other).filter(|other| *other != slot);
        Some(Self {
            coefficient: helper.map(|link| link.coefficient),
            pairs: others.map(|other| Pair::new(slot, other)).collect(),
        })
    }
}

/// What two parties share in one session.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct PairSeed([u8; 32]);

impl PairSeed {
    /// `None` when the other key is of low order, so that the shared secret is zero whatever ours is.
    fn agree(secret: &EphemeralSecret, theirs: &EphemeralKey, session: &SessionId, pair: Pair) -> Option<Self> {
        let shared = secret.0.diffie_hellman(&PublicKey::from(theirs.0));
        if !shared.was_contributory() {
            return None;
        }
        let parts = [&shared.as_bytes()[..], session.as_bytes(), &[pair.0.as_u8(), pair.1.as_u8()]];
        Some(Self(*derive("cairn 2026-11 blinded rebuild pair seed v1", &parts)))
    }

    /// Adds the mask of a slice.
    pub(super) fn mask(&self, slice: usize, out: &mut [u8]) {
        let parts = [&self.0[..], &(slice as u64).to_le_bytes()];
        let seed = derive("cairn 2026-11 blinded rebuild slice seed v1", &parts);
        let mut stream = ChaCha20Rng::from_seed(*seed);
        let mut mask = Zeroizing::new([0u8; STRETCH]);
        for part in out.chunks_mut(STRETCH) {
            let mask = &mut mask[..part.len()];
            stream.fill_bytes(mask);
            part.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= *mask);
        }
        // The generator cannot be wiped, but it can be written over.
        stream = ChaCha20Rng::from_seed([0; 32]);
        black_box(&mut stream);
    }
}

/// All masks of one party in one session.
pub(super) struct Masks(Vec<PairSeed>);

impl Masks {
    /// Agrees with every other party. `id` is the session's, but where a test shows what another one would do.
    pub(super) fn agree(
        session: &Session,
        id: &SessionId,
        slot: Slot,
        secret: &EphemeralSecret,
    ) -> Result<Self, BlindError> {
        if session.key_of(slot) != Some(&secret.public()) {
            return Err(BlindError::NotOurKey { slot });
        }
        let pairs = Part::of(session, slot).map(|part| part.pairs).unwrap_or_default();
        // At its whole length from the start: a list that grows leaves copies behind.
        let mut seeds = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let slot = pair.beside(slot);
            let key = session.key_of(slot).ok_or(BlindError::NoPart { slot })?;
            seeds.push(PairSeed::agree(secret, key, id, pair).ok_or(BlindError::WeakKey { slot })?);
        }
        Ok(Self(seeds))
    }

    /// Adds the masks of a slice, one for each other party.
    pub(super) fn add(&self, slice: usize, out: &mut [u8]) {
        self.0.iter().for_each(|seed| seed.mask(slice, out));
    }

    #[cfg(test)]
    pub(super) fn seeds(&self) -> &[PairSeed] {
        &self.0
    }
}

/// A hash that leaves nothing of itself behind.
fn derive(context: &'static str, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    parts.iter().for_each(|part| _ = hasher.update(part));
    let mut hash = hasher.finalize();
    hasher.zeroize();
    let derived = Zeroizing::new(*hash.as_bytes());
    hash.zeroize();
    derived
}
