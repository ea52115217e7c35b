//! Reed-Solomon over ciphertext: parity out of data shards, lost shards out of any k.
//!
//! The matrix is reed-solomon-erasure's (Vandermonde, systematic, over GF(2^8)); `tests::golden_parity` freezes its
//! bytes, so that another kernel may replace [`accumulate`], the one place that does the arithmetic of encoding.
//!
//! - **DUR-2** Any k of n slots give back the bytes; fewer are an error.
//! - **DUR-3** A rebuilt shard is byte-identical to the lost one, parity included.

use std::fmt;

use cairn_proto::{CodeParams, SHARD_SIZE};
use reed_solomon_erasure::galois_8::ReedSolomon;

#[cfg(test)]
mod tests;

/// Why shards could not be coded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    /// Fewer than k.
    #[error("{present} shards of a stripe are there, {needed} are needed")]
    TooFew {
        /// Shards present, virtual ones counted.
        present: usize,
        /// k.
        needed: usize,
    },
    /// The caller brought something that is not a stripe.
    #[error("not the shards of a {code} stripe: {why}")]
    Shape {
        /// The code.
        code: CodeParams,
        /// What does not fit.
        why: &'static str,
    },
}

/// An erasure code, ready to use. Making one costs a matrix inversion: keep it.
pub struct Codec {
    params: CodeParams,
    rs: ReedSolomon,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codec({})", self.params)
    }
}

impl Codec {
    /// The codec of a shape.
    #[must_use]
    pub fn new(params: CodeParams) -> Self {
        let rs = ReedSolomon::new(params.data(), params.parity())
            .expect("CodeParams: 1 <= k, 1 <= m and k + m <= 32 is a valid code over GF(2^8)");
        Self { params, rs }
    }

    /// Its shape.
    #[must_use]
    pub const fn params(&self) -> CodeParams {
        self.params
    }

    /// The parity shards of 1..=k data shards; data shards that are missing at the end are virtual, all zero.
    ///
    /// # Errors
    /// [`ErasureError::Shape`].
    pub fn parity<T: AsRef<[u8]>>(&self, data: &[T]) -> Result<Vec<Vec<u8>>, ErasureError> {
        if data.is_empty() || data.len() > self.params.data() {
            return Err(self.shape("wrong number of data shards"));
        }
        let length = data[0].as_ref().len();
        if length == 0 || data.iter().any(|shard| shard.as_ref().len() != length) {
            return Err(self.shape("shards of different length, or empty"));
        }
        let mut parity = vec![vec![0u8; length]; self.params.parity()];
        accumulate(&self.rs, data, &mut parity).map_err(|_| self.shape("refused by the codec"))?;
        Ok(parity)
    }

    /// Fills `shards[used + virtual ..]`, the parity slots, of a full set of n buffers in which the data slots are
    /// done; those from `used` to k are virtual and not looked at.
    ///
    /// # Errors
    /// [`ErasureError::Shape`].
    pub fn encode(&self, used: usize, shards: &mut [Vec<u8>]) -> Result<(), ErasureError> {
        if shards.len() != self.params.slots() || used == 0 || used > self.params.data() {
            return Err(self.shape("wrong number of shards"));
        }
        let (data, parity) = shards.split_at_mut(self.params.data());
        for (slot, made) in parity.iter_mut().zip(self.parity(&data[..used])?) {
            *slot = made;
        }
        Ok(())
    }

    /// Rebuilds every missing data slot, and with `parity_too` every missing parity slot. Slots `used..k` are
    /// virtual: they need not be there and are left as they are.
    ///
    /// # Errors
    /// [`ErasureError::TooFew`], or [`ErasureError::Shape`].
    pub fn reconstruct(
        &self,
        used: usize,
        shards: &mut [Option<Vec<u8>>],
        parity_too: bool,
    ) -> Result<(), ErasureError> {
        let k = self.params.data();
        if shards.len() != self.params.slots() || used == 0 || used > k {
            return Err(self.shape("wrong number of shards"));
        }
        let length = shards.iter().flatten().map(Vec::len).next().unwrap_or(SHARD_SIZE);
        if length == 0 || shards.iter().flatten().any(|shard| shard.len() != length) {
            return Err(self.shape("shards of different length, or empty"));
        }
        let wanted = if parity_too { shards.len() } else { k };
        let missing = |shards: &[Option<Vec<u8>>]| {
            shards[..wanted].iter().enumerate().any(|(i, s)| s.is_none() && !(used..k).contains(&i))
        };
        if !missing(shards) {
            return Ok(());
        }
        let real = shards.iter().enumerate().filter(|(i, s)| s.is_some() && !(used..k).contains(i)).count();
        if real < used {
            return Err(ErasureError::TooFew { present: real + (k - used), needed: k });
        }
        for shard in &mut shards[used..k] {
            *shard = Some(vec![0; length]);
        }
        let done = if parity_too { self.rs.reconstruct(shards) } else { self.rs.reconstruct_data(shards) };
        for shard in &mut shards[used..k] {
            *shard = None;
        }
        done.map_err(|_| self.shape("refused by the codec"))
    }

    const fn shape(&self, why: &'static str) -> ErasureError {
        ErasureError::Shape { code: self.params, why }
    }
}

/// Adds each data shard's contribution to the parity shards, which are zero before. The seam for a SIMD kernel.
fn accumulate<T: AsRef<[u8]>>(
    rs: &ReedSolomon,
    data: &[T],
    parity: &mut [Vec<u8>],
) -> Result<(), reed_solomon_erasure::Error> {
    for (slot, shard) in data.iter().enumerate() {
        rs.encode_single_sep(slot, shard.as_ref(), parity)?;
    }
    Ok(())
}
