//! Fingerprints: 16 bytes of a shard that add up like shards do, so that a wrong one among k + 2 is found.
//!
//! `fp(S) = A S`, with A of 16 x 1,048,576 coefficients drawn from a fresh 32-byte seed. A is four folds: 256 equal parts of
//! what there is go through a random 16 x 256 matrix and become 16, until 16 bytes are left. Each fold takes two different
//! inputs to the same output with a chance of 2^-128, so two shards share a fingerprint with less than 2^-125 if they were
//! fixed before the seed. Being linear, fingerprints of a stripe's shards are a stripe of 16-byte shards.
//!
//! One fingerprint tells 16 bytes of a shard to whoever has the seed; with 65,536 seeds the shard is told. Whoever asks a
//! holder for them, or answers, must count them.

use std::{collections::BTreeMap, fmt};

use cairn_proto::{SHARD_SIZE, Slot};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::erasure::{Codec, ErasureError, combine};

/// Bytes of a fingerprint.
pub const FINGERPRINT_SIZE: usize = 16;

/// Parts that one fold makes into [`FINGERPRINT_SIZE`].
const PARTS: usize = 256;

/// What is left of a shard by a random linear map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; FINGERPRINT_SIZE]);

impl Fingerprint {
    /// As it came from a holder: any 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; FINGERPRINT_SIZE]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; FINGERPRINT_SIZE] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// The fingerprint of a shard under a seed that nobody knew when the shard was stored; `None` when this is no shard.
#[must_use]
pub fn fingerprint(seed: &[u8; 32], shard: &[u8]) -> Option<Fingerprint> {
    if shard.len() != SHARD_SIZE {
        return None;
    }
    let mut chance = ChaCha20Rng::from_seed(blake3::derive_key("cairn 2026-11 rebuild shard fingerprint v1", seed));
    let mut left = fold(&mut chance, shard);
    while left.len() > FINGERPRINT_SIZE {
        left = fold(&mut chance, &left);
    }
    left.try_into().ok().map(Fingerprint)
}

/// 256 parts become 16, so a shard's 2^20 bytes become 2^16, 2^12, 2^8 and 2^4.
fn fold(chance: &mut ChaCha20Rng, bytes: &[u8]) -> Vec<u8> {
    let mut coefficients = [0u8; FINGERPRINT_SIZE * PARTS];
    chance.fill_bytes(&mut coefficients);
    let part = bytes.len() / PARTS;
    let mut sums = vec![0u8; FINGERPRINT_SIZE * part];
    let inputs: Vec<&[u8]> = bytes.chunks_exact(part).collect();
    combine(&coefficients, &inputs, &mut sums.chunks_exact_mut(part).collect::<Vec<_>>());
    sums
}

/// What the fingerprints of a stripe say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// They fit together: whoever sent wrong bytes stores the right ones.
    AllFit,
    /// All but this one fit together.
    Wrong(Slot),
    /// All but these two do, of k + 4 at least.
    WrongPair(Slot, Slot),
    /// With fewer than k + 2 that do not fit nobody can say whose is wrong; with no more than k they always fit.
    TooFew {
        /// Fingerprints there, virtual slots counted.
        present: usize,
        /// k + 2.
        needed: usize,
    },
    /// They do not fit, and no single one explains it.
    Several,
}

/// Finds the wrong shard among the fingerprints of a stripe's real slots, all under one seed.
///
/// It assumes that at most one is wrong, or two of k + 4. More that conspire, or two of fewer, can make a third look wrong; and who
/// fingerprints the right shard may still send other bytes. So the answer costs standing, it convicts nobody (TRUST-1).
///
/// # Errors
/// [`ErasureError::Shape`] for slots that the stripe has not.
pub fn locate(codec: &Codec, used: usize, fingerprints: &BTreeMap<Slot, Fingerprint>) -> Result<Located, ErasureError> {
    let (code, k) = (codec.params(), codec.params().data());
    if used == 0 || used > k {
        return Err(ErasureError::Shape { code, why: "more data shards than the code has, or none" });
    }
    let (present, needed) = (fingerprints.len() + (k - used), k + 2);
    let fit = present > k && fits(codec, used, fingerprints, &[])?;
    if fit {
        return Ok(Located::AllFit);
    }
    if present < needed {
        return Ok(Located::TooFew { present, needed });
    }
    // Two answers are impossible: both stripes would agree in k slots, so be one, and then nothing would be wrong.
    for slot in fingerprints.keys() {
        if fits(codec, used, fingerprints, &[*slot])? {
            return Ok(Located::Wrong(*slot));
        }
    }
    if present < k + 4 {
        return Ok(Located::Several);
    }
    let slots: Vec<Slot> = fingerprints.keys().copied().collect();
    for (at, one) in slots.iter().enumerate() {
        for other in &slots[at + 1..] {
            if fits(codec, used, fingerprints, &[*one, *other])? {
                return Ok(Located::WrongPair(*one, *other));
            }
        }
    }
    Ok(Located::Several)
}

/// Whether the fingerprints, but for these, are of one stripe: the first k give the others.
fn fits(
    codec: &Codec,
    used: usize,
    fingerprints: &BTreeMap<Slot, Fingerprint>,
    without: &[Slot],
) -> Result<bool, ErasureError> {
    let slots: Vec<Slot> = fingerprints.keys().copied().filter(|slot| !without.contains(slot)).collect();
    let (from, to) = slots.split_at(used.min(slots.len()));
    for lost in to {
        let coefficients = codec.coefficients(used, *lost, from)?;
        let inputs: Vec<&[u8]> =
            from.iter().filter_map(|slot| fingerprints.get(slot)).map(|known| known.0.as_slice()).collect();
        let mut expected = [0u8; FINGERPRINT_SIZE];
        combine(&coefficients, &inputs, &mut [&mut expected]);
        if fingerprints.get(lost).is_none_or(|found| found.0 != expected) {
            return Ok(false);
        }
    }
    Ok(true)
}
