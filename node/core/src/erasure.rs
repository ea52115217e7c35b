//! Reed-Solomon over ciphertext: parity out of data shards, lost shards out of any k.
//!
//! The matrix is reed-solomon-erasure's (Vandermonde, systematic, over GF(2^8)); `tests::golden_parity` freezes its
//! bytes. The arithmetic on shards is [`matrix`]'s and [`kernel`]'s: one pass over all data shards, with the processor's
//! vectors where it has them.
//!
//! - **DUR-2** Any k of n slots give back the bytes; fewer are an error.
//! - **DUR-3** A rebuilt shard is byte-identical to the lost one, parity included.

use std::fmt;

use cairn_proto::{CodeParams, SHARD_SIZE, Slot};
use reed_solomon_erasure::galois_8::ReedSolomon;

mod kernel;
mod matrix;
#[cfg(test)]
mod tests;

use matrix::Matrix;

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
    /// n rows of k coefficients: what each slot is made of, the identity on top.
    matrix: Matrix,
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
        // The crate keeps its matrix to itself; the code of the unit vectors is the matrix, column by column.
        let unit: Vec<Vec<u8>> = (0..params.data())
            .map(|column| {
                let mut shards: Vec<[u8; 1]> = vec![[0]; params.slots()];
                shards[column] = [1];
                rs.encode(&mut shards).expect("n shards of one byte are a stripe");
                shards.concat()
            })
            .collect();
        let rows = (0..params.slots()).flat_map(|row| unit.iter().map(move |column| column[row]));
        Self { params, matrix: Matrix::new(params.data(), rows.collect()) }
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
        let length = data.first().map_or(0, |shard| shard.as_ref().len());
        let mut parity = vec![vec![0u8; length]; self.params.parity()];
        self.parity_into(data, &mut parity).map(|()| parity)
    }

    /// The same into buffers of the caller's, of the shards' length, one for each parity slot; what was in them is gone.
    ///
    /// # Errors
    /// [`ErasureError::Shape`].
    pub fn parity_into<T, U>(&self, data: &[T], parity: &mut [U]) -> Result<(), ErasureError>
    where
        T: AsRef<[u8]>,
        U: AsMut<[u8]>,
    {
        if data.is_empty() || data.len() > self.params.data() {
            return Err(self.shape("wrong number of data shards"));
        }
        let length = data[0].as_ref().len();
        if length == 0 || data.iter().any(|shard| shard.as_ref().len() != length) {
            return Err(self.shape("shards of different length, or empty"));
        }
        let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(AsMut::as_mut).collect();
        if parity.len() != self.params.parity() || parity.iter().any(|shard| shard.len() != length) {
            return Err(self.shape("parity buffers of another number or length"));
        }
        let used: Vec<usize> = (0..data.len()).collect();
        let rows = self.matrix.select(self.params.data()..self.params.slots()).select_columns(&used);
        let data: Vec<&[u8]> = data.iter().map(AsRef::as_ref).collect();
        rows.multiply(&data, &mut parity);
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
        self.reconstruct_into(used, shards, parity_too, |length| vec![0; length])
    }

    /// The same with buffers from `make`, which is told their length.
    ///
    /// # Errors
    /// [`ErasureError::TooFew`], or [`ErasureError::Shape`].
    pub fn reconstruct_into<T: AsRef<[u8]> + AsMut<[u8]>>(
        &self,
        used: usize,
        shards: &mut [Option<T>],
        parity_too: bool,
        make: impl Fn(usize) -> T,
    ) -> Result<(), ErasureError> {
        let at_hand: Vec<Option<&[u8]>> = shards.iter().map(|shard| shard.as_ref().map(AsRef::as_ref)).collect();
        let made = self.missing(used, &at_hand, parity_too, make)?;
        for (slot, shard) in made {
            shards[slot] = Some(shard);
        }
        Ok(())
    }

    /// What [`Codec::reconstruct_into`] adds, by slot, from shards that stay where they are.
    ///
    /// # Errors
    /// [`ErasureError::TooFew`], or [`ErasureError::Shape`].
    pub fn missing<T: AsMut<[u8]>>(
        &self,
        used: usize,
        shards: &[Option<&[u8]>],
        parity_too: bool,
        make: impl Fn(usize) -> T,
    ) -> Result<Vec<(usize, T)>, ErasureError> {
        let k = self.params.data();
        if shards.len() != self.params.slots() || used == 0 || used > k {
            return Err(self.shape("wrong number of shards"));
        }
        let length = shards.iter().flatten().map(|shard| shard.len()).next().unwrap_or(SHARD_SIZE);
        if length == 0 || shards.iter().flatten().any(|shard| shard.len() != length) {
            return Err(self.shape("shards of different length, or empty"));
        }
        let wanted = if parity_too { shards.len() } else { k };
        let is_virtual = |slot: &usize| (used..k).contains(slot);
        let lost: Vec<usize> = (0..wanted).filter(|slot| shards[*slot].is_none() && !is_virtual(slot)).collect();
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let real = shards.iter().enumerate().filter(|(i, s)| s.is_some() && !is_virtual(i)).count();
        if real < used {
            return Err(ErasureError::TooFew { present: real + (k - used), needed: k });
        }
        // k rows whose shards are known: the data slots that are there, those that are virtual (zero), then parity.
        let known: Vec<usize> =
            (0..shards.len()).filter(|slot| is_virtual(slot) || shards[*slot].is_some()).take(k).collect();
        let back = self.matrix.select(known.iter().copied()).inverse();
        let back = back.ok_or_else(|| self.shape("refused by the codec"))?;
        let sources: Vec<usize> = (0..k).filter(|i| !is_virtual(&known[*i])).collect();
        let recipe = self.matrix.select(lost.iter().copied()).times(&back).select_columns(&sources);
        let inputs: Vec<&[u8]> = sources.iter().filter_map(|i| shards[known[*i]]).collect();
        let mut made: Vec<T> = lost.iter().map(|_| make(length)).collect();
        recipe.multiply(&inputs, &mut made.iter_mut().map(AsMut::as_mut).collect::<Vec<_>>());
        Ok(lost.into_iter().zip(made).collect())
    }

    /// The coefficients with which the shards of `helpers`, in that order, sum up to the shard of `lost`. Helpers are real
    /// slots, as many as the stripe has data shards; the virtual slots `used..k` count as present, and being zero they
    /// are left out. Every coefficient of a code like this one is other than zero.
    ///
    /// # Errors
    /// [`ErasureError::TooFew`], or [`ErasureError::Shape`].
    pub fn coefficients(&self, used: usize, lost: Slot, helpers: &[Slot]) -> Result<Vec<u8>, ErasureError> {
        let k = self.params.data();
        let real = |slot: &Slot| slot.index() < self.params.slots() && !(used..k).contains(&slot.index());
        if used == 0 || used > k || !real(&lost) || !helpers.iter().all(real) {
            return Err(self.shape("a slot that is virtual, or none of the code's"));
        }
        let twice = |(at, slot): (usize, &Slot)| *slot == lost || helpers[..at].contains(slot);
        if helpers.len() > used || helpers.iter().enumerate().any(twice) {
            return Err(self.shape("helpers that come twice, are lost, or are too many"));
        }
        if helpers.len() < used {
            return Err(ErasureError::TooFew { present: helpers.len() + (k - used), needed: k });
        }
        let known = helpers.iter().map(|slot| slot.index()).chain(used..k);
        let back = self.matrix.select(known).inverse().ok_or_else(|| self.shape("refused by the codec"))?;
        Ok(self.matrix.select([lost.index()]).times(&back).row(0)[..used].to_vec())
    }

    /// What a slot is made of: a coefficient for each data slot.
    #[cfg(test)]
    pub(crate) fn row(&self, slot: Slot) -> &[u8] {
        self.matrix.row(slot.index())
    }

    const fn shape(&self, why: &'static str) -> ErasureError {
        ErasureError::Shape { code: self.params, why }
    }
}

/// `outputs[r]` = sum over c of `coefficients[r][c]` times `inputs[c]`, in one pass over the inputs for every four outputs.
/// Coefficients come row after row, one for each input; all slices have one length. What was in the outputs is gone.
pub(crate) fn combine(coefficients: &[u8], inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    if !inputs.is_empty() {
        Matrix::new(inputs.len(), coefficients.to_vec()).multiply(inputs, outputs);
    }
}
