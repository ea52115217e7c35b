//! The shape of the erasure code, and the sizes that follow from it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::DecodeError;

/// Bytes of every shard, data or parity: exactly 1 MiB.
pub const SHARD_SIZE: usize = 1_048_576;

/// Bytes that sealing adds to a data shard: the AES-256-GCM tag. The nonce is not stored, because a shard key
/// seals one shard only (SEC-2).
pub const SEAL_OVERHEAD: usize = 16;

/// Plaintext bytes in one data shard.
pub const SHARD_PAYLOAD: usize = SHARD_SIZE - SEAL_OVERHEAD;

/// Most stripes that share one placement group; an ordinal is one byte.
pub const STRIPES_PER_GROUP_MAX: usize = 256;

/// Most slots (data + parity) of a stripe: what a shard row and a head record have room for.
pub const SLOTS_MAX: u8 = 32;

/// Erasure code shape. Invariant: `data >= 1`, `parity >= 1`, `data + parity <= 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct CodeParams {
    data: u8,
    parity: u8,
}

impl CodeParams {
    /// RS(5,3), the default.
    pub const DEFAULT: Self = Self { data: 5, parity: 3 };

    /// RS(3,2), for networks of fewer than ten peers.
    pub const LOW_PEER: Self = Self { data: 3, parity: 2 };

    /// Checks the shape.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] when the invariant does not hold.
    pub fn new(data: u8, parity: u8) -> Result<Self, DecodeError> {
        if data == 0 || parity == 0 || data.saturating_add(parity) > SLOTS_MAX {
            return Err(DecodeError::Invalid {
                what: "code parameters",
                why: "data and parity must be at least 1 and at most 32 together",
            });
        }
        Ok(Self { data, parity })
    }

    /// k: data shards of a stripe.
    #[must_use]
    pub const fn data(self) -> usize {
        self.data as usize
    }

    /// m: parity shards of a stripe.
    #[must_use]
    pub const fn parity(self) -> usize {
        self.parity as usize
    }

    /// n = k + m: slots of a stripe.
    #[must_use]
    pub const fn slots(self) -> usize {
        self.data as usize + self.parity as usize
    }

    /// Plaintext bytes in one stripe: k shard payloads.
    #[must_use]
    pub const fn stripe_payload(self) -> usize {
        self.data() * SHARD_PAYLOAD
    }

    /// Every slot, in order.
    pub fn each_slot(self) -> impl Iterator<Item = Slot> {
        (0..self.data + self.parity).map(Slot)
    }
}

impl fmt::Display for CodeParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RS({},{})", self.data, self.parity)
    }
}

impl TryFrom<(u8, u8)> for CodeParams {
    type Error = DecodeError;
    fn try_from((data, parity): (u8, u8)) -> Result<Self, DecodeError> {
        Self::new(data, parity)
    }
}

impl From<CodeParams> for (u8, u8) {
    fn from(c: CodeParams) -> Self {
        (c.data, c.parity)
    }
}

/// Position of a shard in its stripe, 0..k+m-1; below 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Slot(u8);

impl Slot {
    /// Checks the bound.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] from 32 on.
    pub fn new(index: u8) -> Result<Self, DecodeError> {
        if index >= SLOTS_MAX {
            return Err(DecodeError::TooLarge { what: "slot", limit: SLOTS_MAX as usize - 1, found: index.into() });
        }
        Ok(Self(index))
    }

    /// As an array index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// As the byte that is written.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u8> for Slot {
    type Error = DecodeError;
    fn try_from(index: u8) -> Result<Self, DecodeError> {
        Self::new(index)
    }
}

impl From<Slot> for u8 {
    fn from(s: Slot) -> Self {
        s.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked() {
        assert!(CodeParams::new(0, 3).is_err());
        assert!(CodeParams::new(5, 0).is_err());
        assert!(CodeParams::new(200, 100).is_err());
        assert_eq!(CodeParams::DEFAULT.stripe_payload(), 5_242_800);
        assert_eq!(CodeParams::DEFAULT.each_slot().count(), 8);
        assert!(Slot::new(32).is_err());
    }
}
