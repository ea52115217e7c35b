//! The inner loop of coding: up to [`ROWS_MAX`] output shards out of all input shards in one pass.
//!
//! One of two places of `unsafe` in Cairn's own code (the other: `chunking/scan.rs`), measured in `benches/pipeline.rs`: AVX2's
//! byte shuffle looks up 32 products at once. Which loop runs is decided at run time; the portable one is safe, and what compilers turn into
//! vector code on any processor. `tests::kernels_agree` holds them bit-identical to each other and to
//! reed-solomon-erasure.

use reed_solomon_erasure::galois_8::mul;

/// Output shards made in one pass: their sums must stay in registers.
pub(super) const ROWS_MAX: usize = 4;
/// Bytes of each shard that are worked on at once.
const BLOCK: usize = 64;

/// What multiplying by one coefficient takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Products with 0 to 15, then with those times 16.
    nibbles: [u8; 32],
    /// Products with the powers of two.
    bits: [u8; 8],
}

impl Column {
    pub(super) fn new(coefficient: u8) -> Self {
        let nibbles = std::array::from_fn(|i| mul(coefficient, if i < 16 { i as u8 } else { (i as u8 - 16) << 4 }));
        Self { nibbles, bits: std::array::from_fn(|bit| mul(coefficient, 1 << bit)) }
    }
}

/// `outputs[r]` = sum over c of `rows[r][c]` times `inputs[c]`. All shards have one length, each row a column for each
/// input; what is longer is left alone.
pub(super) fn multiply<const R: usize>(rows: [Vec<Column>; R], inputs: &[&[u8]], mut outputs: [&mut [u8]; R]) {
    let length = inputs.iter().map(|s| s.len()).chain(outputs.iter().map(|s| s.len())).min().unwrap_or(0);
    let whole = length - length % BLOCK;
    if !vectors(&rows, inputs, &mut outputs, whole) {
        portable(&rows, inputs, &mut outputs, whole);
    }
    if whole < length {
        // The rest, padded to a block.
        let padded: Vec<[u8; BLOCK]> = inputs
            .iter()
            .map(|shard| {
                let mut block = [0; BLOCK];
                block[..length - whole].copy_from_slice(&shard[whole..length]);
                block
            })
            .collect();
        let padded: Vec<&[u8]> = padded.iter().map(<[u8; BLOCK]>::as_slice).collect();
        let mut sums = [[0u8; BLOCK]; R];
        portable(&rows, &padded, &mut sums.each_mut().map(<[u8; BLOCK]>::as_mut_slice), BLOCK);
        for (output, sum) in outputs.iter_mut().zip(sums) {
            output[whole..length].copy_from_slice(&sum[..length - whole]);
        }
    }
}

/// Any processor: each bit of a byte masks the coefficient's product with that bit.
fn portable<const R: usize>(rows: &[Vec<Column>; R], inputs: &[&[u8]], outputs: &mut [&mut [u8]; R], length: usize) {
    for at in (0..length).step_by(BLOCK) {
        let mut sums = [[0u8; BLOCK]; R];
        for (column, shard) in inputs.iter().enumerate() {
            let block = &shard[at..at + BLOCK];
            for bit in 0..8 {
                let mut mask = [0u8; BLOCK];
                for (mask, byte) in mask.iter_mut().zip(block) {
                    *mask = if byte & (1 << bit) != 0 { 0xff } else { 0 };
                }
                for (sum, row) in sums.iter_mut().zip(rows) {
                    let product = row[column].bits[bit];
                    for (sum, mask) in sum.iter_mut().zip(&mask) {
                        *sum ^= mask & product;
                    }
                }
            }
        }
        for (output, sum) in outputs.iter_mut().zip(&sums) {
            output[at..at + BLOCK].copy_from_slice(sum);
        }
    }
}

/// The processor's own vectors, if it has some that we know; whether it has.
#[cfg(target_arch = "x86_64")]
fn vectors<const R: usize>(
    rows: &[Vec<Column>; R],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]; R],
    length: usize,
) -> bool {
    let there = std::arch::is_x86_feature_detected!("avx2");
    if there {
        #[allow(unsafe_code, reason = "measured: several times the portable loop")]
        // SAFETY: the processor has AVX2, as just found.
        unsafe {
            avx2(rows, inputs, outputs, length);
        }
    }
    there
}

#[cfg(not(target_arch = "x86_64"))]
const fn vectors<const R: usize>(_: &[Vec<Column>; R], _: &[&[u8]], _: &mut [&mut [u8]; R], _: usize) -> bool {
    false
}

/// `length` is a multiple of [`BLOCK`]; every slice has that many bytes, checked by slicing.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code, reason = "loads and stores of vectors take pointers")]
fn avx2<const R: usize>(rows: &[Vec<Column>; R], inputs: &[&[u8]], outputs: &mut [&mut [u8]; R], length: usize) {
    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_set1_epi8,
        _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256,
    };
    const HALF: usize = BLOCK / 2;
    let low = _mm256_set1_epi8(0x0f);
    let halves =
        |vector: __m256i| (_mm256_and_si256(vector, low), _mm256_and_si256(_mm256_srli_epi64::<4>(vector), low));
    for at in (0..length).step_by(BLOCK) {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for (column, shard) in inputs.iter().enumerate() {
            let block = &shard[at..at + BLOCK];
            // SAFETY: both loads lie in `block`, which has BLOCK = 64 bytes; unaligned loads.
            let (first, second) = unsafe {
                (_mm256_loadu_si256(block.as_ptr().cast()), _mm256_loadu_si256(block[HALF..].as_ptr().cast()))
            };
            let (first, second) = (halves(first), halves(second));
            for (sum, row) in sums.iter_mut().zip(rows) {
                let table = &row[column].nibbles;
                // SAFETY: both loads lie in `nibbles`, which has 32 bytes; unaligned loads.
                let (lows, highs) =
                    unsafe { (_mm_loadu_si128(table.as_ptr().cast()), _mm_loadu_si128(table[16..].as_ptr().cast())) };
                let (lows, highs) = (_mm256_broadcastsi128_si256(lows), _mm256_broadcastsi128_si256(highs));
                for (sum, (low, high)) in sum.iter_mut().zip([first, second]) {
                    let product = _mm256_xor_si256(_mm256_shuffle_epi8(lows, low), _mm256_shuffle_epi8(highs, high));
                    *sum = _mm256_xor_si256(*sum, product);
                }
            }
        }
        for (output, sum) in outputs.iter_mut().zip(sums) {
            let block = &mut output[at..at + BLOCK];
            // SAFETY: both stores lie in `block`, which has BLOCK = 64 bytes; unaligned stores.
            unsafe {
                _mm256_storeu_si256(block.as_mut_ptr().cast(), sum[0]);
                _mm256_storeu_si256(block[HALF..].as_mut_ptr().cast(), sum[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// The vectors, the portable loop and the crate's own arithmetic give the same bytes.
        #[test]
        fn kernels_agree(
            coefficients in prop::array::uniform3(prop::collection::vec(any::<u8>(), 7)),
            length in 0usize..400, seed: u64,
        ) {
            let mut bytes = vec![0; 7 * length];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
            let inputs: Vec<&[u8]> = (0..7).map(|i| &bytes[i * length..][..length]).collect();
            let rows = coefficients.clone().map(|row| row.into_iter().map(Column::new).collect::<Vec<_>>());
            let mut expected = vec![vec![0u8; length]; 3];
            for (row, sum) in coefficients.iter().zip(&mut expected) {
                for (coefficient, input) in row.iter().zip(&inputs) {
                    reed_solomon_erasure::galois_8::mul_slice_xor(*coefficient, input, sum);
                }
            }
            let mut made = vec![vec![0xa5u8; length]; 3];
            if let [x, y, z] = made.as_mut_slice() {
                multiply(rows.clone(), &inputs, [x, y, z].map(Vec::as_mut_slice));
            }
            prop_assert_eq!(&made, &expected);
            let whole = length - length % BLOCK;
            let mut made = [vec![0xa5u8; length], vec![0xa5u8; length], vec![0xa5u8; length]];
            portable(&rows, &inputs, &mut made.each_mut().map(Vec::as_mut_slice), whole);
            for (made, expected) in made.iter().zip(&expected) {
                prop_assert_eq!(&made[..whole], &expected[..whole]);
                prop_assert!(made[whole..].iter().all(|b| *b == 0xa5));
            }
        }
    }

    /// Every product of two bytes.
    #[test]
    fn all_products() {
        let bytes: Vec<u8> = (0..=255).collect();
        for coefficient in 0..=255 {
            let expected: Vec<u8> = bytes.iter().map(|b| mul(coefficient, *b)).collect();
            let mut made = [0; 256];
            multiply([vec![Column::new(coefficient)]], &[&bytes], [&mut made]);
            assert_eq!(made[..], expected, "{coefficient}");
        }
    }
}
