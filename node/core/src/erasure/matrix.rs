//! Matrices over GF(2^8) and their product with shards, each shard byte read once.
//!
//! The field is reed-solomon-erasure's (polynomial 0x11d). The product of a byte with a coefficient is the sum of two
//! table entries, one for each half of the byte (Plank, Greenan, Miller: "Screaming Fast Galois Field Arithmetic Using
//! Intel SIMD Instructions", FAST 2013); [`kernel`] does that for 32 bytes at once where the processor can.

use reed_solomon_erasure::galois_8::{div, mul};

use super::kernel::{self, Column};

/// A matrix of coefficients, row after row, with the tables for multiplying by it.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    columns: usize,
    coefficients: Vec<u8>,
}

impl Matrix {
    /// From the coefficients, row after row. `coefficients.len()` is a multiple of `columns`, which is not 0.
    pub(super) fn new(columns: usize, coefficients: Vec<u8>) -> Self {
        debug_assert!(columns > 0 && coefficients.len().is_multiple_of(columns), "rows of one length");
        Self { columns, coefficients }
    }

    /// The matrix that leaves shards as they are.
    pub(super) fn identity(size: usize) -> Self {
        let one = |at: usize| u8::from(at / size == at % size);
        Self::new(size, (0..size * size).map(one).collect())
    }

    pub(super) fn row(&self, row: usize) -> &[u8] {
        &self.coefficients[row * self.columns..][..self.columns]
    }

    /// The matrix made of some rows, in that order.
    pub(super) fn select(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        Self::new(self.columns, rows.into_iter().flat_map(|row| self.row(row)).copied().collect())
    }

    /// The matrix made of some columns, in that order.
    pub(super) fn select_columns(&self, columns: &[usize]) -> Self {
        let rows = self.coefficients.chunks_exact(self.columns);
        Self::new(columns.len(), rows.flat_map(|row| columns.iter().map(|c| row[*c])).collect())
    }

    /// `self` times `right`.
    pub(super) fn times(&self, right: &Self) -> Self {
        let mut product = Vec::with_capacity(self.coefficients.len() / self.columns * right.columns);
        for row in self.coefficients.chunks_exact(self.columns) {
            for column in 0..right.columns {
                product.push((0..self.columns).fold(0, |sum, i| sum ^ mul(row[i], right.row(i)[column])));
            }
        }
        Self::new(right.columns, product)
    }

    /// The inverse of a square matrix by Gauss-Jordan elimination; `None` when there is none.
    pub(super) fn inverse(&self) -> Option<Self> {
        let size = self.columns;
        let mut left: Vec<Vec<u8>> = self.coefficients.chunks_exact(size).map(<[u8]>::to_vec).collect();
        let mut right: Vec<Vec<u8>> =
            Self::identity(size).coefficients.chunks_exact(size).map(<[u8]>::to_vec).collect();
        for pivot in 0..size {
            let found = (pivot..size).find(|row| left[*row][pivot] != 0)?;
            left.swap(pivot, found);
            right.swap(pivot, found);
            let factor = div(1, left[pivot][pivot]);
            for half in [&mut left, &mut right] {
                half[pivot].iter_mut().for_each(|c| *c = mul(*c, factor));
            }
            for row in (0..size).filter(|row| *row != pivot) {
                let factor = left[row][pivot];
                for half in [&mut left, &mut right] {
                    let source = half[pivot].clone();
                    half[row].iter_mut().zip(source).for_each(|(c, s)| *c ^= mul(s, factor));
                }
            }
        }
        Some(Self::new(size, right.concat()))
    }

    /// `outputs` = `self` times `inputs`: as many inputs as columns, as many outputs as rows, all of one length.
    /// What was in the outputs is overwritten.
    pub(super) fn multiply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let rows: Vec<&[u8]> = self.coefficients.chunks_exact(self.columns).collect();
        for (rows, outputs) in rows.chunks(kernel::ROWS_MAX).zip(outputs.chunks_mut(kernel::ROWS_MAX)) {
            match (rows, outputs) {
                ([a], [x]) => kernel::multiply([a].map(columns), inputs, [x]),
                ([a, b], [x, y]) => kernel::multiply([a, b].map(columns), inputs, [x, y]),
                ([a, b, c], [x, y, z]) => kernel::multiply([a, b, c].map(columns), inputs, [x, y, z]),
                ([a, b, c, d], [w, x, y, z]) => kernel::multiply([a, b, c, d].map(columns), inputs, [w, x, y, z]),
                _ => {}
            }
        }
    }
}

fn columns(row: &&[u8]) -> Vec<Column> {
    row.iter().map(|c| Column::new(*c)).collect()
}
