//! The inner loop of cutting: where the next cut is, many places looked at at once.
//!
//! A place is cut where a keyed hash of the bytes before it is small. The hash has two stages. The first, 16 bits of the
//! [`NEAR`] bytes before, is made for every place by plain loops over arrays, which a compiler turns into vector code on
//! any processor: products of 2-byte words, summed over a window that each loop doubles. Where it is below [`RARE`], at one
//! place in 4096, the second decides, 64 bits of the [`FAR`] bytes before. `tests::places_are_those_of_the_definition`
//! holds the loops to the definition written out.
//!
//! A gear hash takes an entry of a table for every byte, which vectors do not help with (ADR 0014).

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes before a place that the first stage is made of.
const NEAR: usize = 32;
/// Bytes before a place that the second stage is made of: twice as many, so that text of few words has enough of them.
const FAR: usize = 64;
/// The first stage lets through what is below this, of 2^16.
const RARE: u16 = 16;
/// Places looked at at once: so few that a cut near the first of them wastes little, so many that those which are made
/// in excess count for little.
const BLOCK: usize = 1024;
/// Places come in two rows, even ones and odd ones, so that the 2-byte words of each row lie side by side.
const ROW: usize = BLOCK / 2;
/// Places that are made in excess in each row: the window's, rounded up to whole vectors.
const EXCESS: usize = 16;
/// Bytes that are read for a block.
const READ: usize = BLOCK + 2 * EXCESS + 8;
/// Places of a row that are looked at one by one when one of them passed; a block's groups of a row are bits of a `u32`.
const GROUP: usize = 32;

type Row = [u16; ROW + EXCESS];

/// How rare cuts are: the second stage is at most `strict` before the intended size, at most `loose` from there on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rarity {
    intended: usize,
    strict: u64,
    loose: u64,
}

impl Rarity {
    /// For chunks of about `intended` bytes, a power of two from 8 KiB on: half as many cuts before it, twice as many
    /// behind it (normalised chunking, FastCDC's level 1).
    pub(super) const fn about(intended: usize) -> Self {
        let left = intended.ilog2() - (u16::BITS - RARE.ilog2());
        Self { intended, strict: u64::MAX >> (left + 1), loose: u64::MAX >> (left - 1) }
    }

    const fn at(self, length: usize) -> u64 {
        if length < self.intended { self.strict } else { self.loose }
    }
}

/// Draws cuts under a key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Cutter {
    key: Key,
    /// The first stage at the places of a block.
    rows: [Row; 2],
}

impl Cutter {
    /// All that is random in it comes from the seed.
    pub(super) fn new(seed: u64) -> Self {
        Self { key: Key::new(seed), rows: [[0; ROW + EXCESS]; 2] }
    }

    /// The length of the chunk that `bytes` begin with: the first place from `at` on, [`FAR`] or more, that is to be cut.
    ///
    /// # Errors
    /// None is: where to go on when there are more bytes. Unless these are `all`, the last places, less than a block, are
    /// left for then.
    pub(super) fn length(&mut self, bytes: &[u8], mut at: usize, rarity: Rarity, all: bool) -> Result<usize, usize> {
        while at <= bytes.len() {
            let left = &bytes[at - NEAR..];
            let groups = if let Some(block) = left.first_chunk() {
                passing(self.key, block, &mut self.rows)
            } else if all {
                let mut padded = [0; READ];
                padded[..left.len()].copy_from_slice(left);
                passing(self.key, &padded, &mut self.rows)
            } else {
                break;
            };
            if groups != 0
                && let Some(length) = self.decide(bytes, at, groups, rarity)
            {
                return Ok(length);
            }
            at += BLOCK;
        }
        Err(at)
    }

    /// The first cut among the places of a block, whose first is `at`, in the groups that have a bit.
    fn decide(&self, bytes: &[u8], at: usize, mut groups: u32, rarity: Rarity) -> Option<usize> {
        while groups != 0 {
            let group = groups.trailing_zeros() as usize;
            groups &= groups - 1;
            for i in group * GROUP..(group + 1) * GROUP {
                for (odd, row) in self.rows.iter().enumerate() {
                    let length = at + 2 * i + odd;
                    if row[i] < RARE
                        && let Some(window) = bytes.get(length - FAR..length).and_then(<[u8]>::first_chunk)
                        && self.key.second(window) <= rarity.at(length)
                    {
                        return Some(length);
                    }
                }
            }
        }
        None
    }
}

/// What the hash is keyed with.
#[derive(Clone, Copy, Zeroize)]
struct Key {
    words: [u16; 4],
    joins: [u16; 2],
    longs: [u64; 9],
}

impl Key {
    fn new(seed: u64) -> Self {
        let mut drawn = [0u8; 84];
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 cut hash v1");
        hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut drawn);
        let word = |i: usize| u16::from_le_bytes(std::array::from_fn(|byte| drawn[2 * i + byte]));
        let long = |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| drawn[12 + 8 * i + byte]));
        let key = Self {
            words: std::array::from_fn(word),
            // Odd, so that no bit of a sum is lost.
            joins: std::array::from_fn(|i| word(4 + i) | 1),
            longs: std::array::from_fn(long),
        };
        drawn.zeroize();
        key
    }

    /// The first stage of four words, 8 bytes.
    #[inline(always)]
    const fn part(&self, words: [u16; 4]) -> u16 {
        let [a, b, c, d] = words;
        let left = a.wrapping_add(self.words[0]).wrapping_mul(b.wrapping_add(self.words[1]));
        let right = c.wrapping_add(self.words[2]).wrapping_mul(d.wrapping_add(self.words[3]));
        left.wrapping_add(right)
    }

    /// The first stage of a window from those of its halves: of 16 bytes, then of 32.
    #[inline(always)]
    const fn join(&self, step: usize, left: u16, right: u16) -> u16 {
        left.wrapping_mul(self.joins[step]).wrapping_add(right)
    }

    /// The second stage.
    fn second(&self, window: &[u8; FAR]) -> u64 {
        let long = |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| window[8 * i + byte])) ^ self.longs[i];
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let sum = (0..4).fold(0u64, |sum, i| sum.rotate_left(17).wrapping_add(fold(long(2 * i), long(2 * i + 1))));
        fold(sum, self.longs[8] | 1)
    }
}

/// Makes the first stage of a block's places; the groups with one that passes, a bit for each.
fn passing(key: Key, bytes: &[u8; READ], rows: &mut [Row; 2]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[allow(unsafe_code, reason = "measured: half of the time that the baseline's vectors take")]
        // SAFETY: the processor has AVX2, as just found; nothing else about the function is unsafe.
        return unsafe { passing_avx2(key, bytes, rows) };
    }
    passing_anywhere(key, bytes, rows)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn passing_avx2(key: Key, bytes: &[u8; READ], rows: &mut [Row; 2]) -> u32 {
    passing_anywhere(key, bytes, rows)
}

/// The same, compiled for the processor of whatever it is inlined into.
#[inline(always)]
fn passing_anywhere(key: Key, bytes: &[u8; READ], [even, odd]: &mut [Row; 2]) -> u32 {
    let [from_first, from_second] = [bytes.first_chunk(), bytes.last_chunk()];
    match (from_first, from_second) {
        (Some(first), Some(second)) => passing_in_row(key, first, even) | passing_in_row(key, second, odd),
        _ => 0,
    }
}

/// Loops that are this plain become vector code; look at it (`perf annotate`) when you change them.
#[inline(always)]
fn passing_in_row(key: Key, bytes: &[u8; READ - 1], sums: &mut Row) -> u32 {
    for (i, sum) in sums.iter_mut().enumerate() {
        let word = |j: usize| u16::from_le_bytes([bytes[2 * (i + j)], bytes[2 * (i + j) + 1]]);
        *sum = key.part([word(0), word(1), word(2), word(3)]);
    }
    for i in 0..ROW + EXCESS - 8 {
        sums[i] = key.join(0, sums[i], sums[i + 4]);
    }
    let mut groups = 0;
    for group in 0..ROW / GROUP {
        let mut least = u16::MAX;
        for i in group * GROUP..(group + 1) * GROUP {
            sums[i] = key.join(1, sums[i], sums[i + 8]);
            least = least.min(sums[i]);
        }
        groups |= u32::from(least < RARE) << group;
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, as it stands in SPEC.md.
    fn defined(key: &Key, bytes: &[u8], least: usize, rarity: Rarity) -> Option<usize> {
        let first = |window: &[u8]| {
            let word = |at: usize| u32::from(u16::from_le_bytes([window[at], window[at + 1]]));
            let [a, b, c, d] = key.words.map(u32::from);
            let [x, y] = key.joins.map(u32::from);
            let low = |sum: u32| sum & 0xffff;
            let of_8 = |at: usize| {
                let left = low(low(word(at) + a).wrapping_mul(low(word(at + 2) + b)));
                low(left + low(low(word(at + 4) + c).wrapping_mul(low(word(at + 6) + d))))
            };
            let of_16 = |at: usize| low(low(of_8(at) * x) + of_8(at + 8));
            low(low(of_16(0).wrapping_mul(y)) + of_16(16))
        };
        let is_cut = |length: usize| {
            let far = bytes[length - FAR..length].first_chunk().expect("so many");
            first(&bytes[length - NEAR..length]) < u32::from(RARE)
                && key.second(far) <= if length < rarity.intended { rarity.strict } else { rarity.loose }
        };
        (least..=bytes.len()).find(|length| is_cut(*length))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// With the processor's vectors and without, at any alignment and length; half of the sources of few symbols.
        #[test]
        fn places_are_those_of_the_definition(
            seed: u64, skip in 0usize..64, length in 0usize..20_000, least in FAR..3000, share: u8, few: bool,
        ) {
            let mut source = vec![0; skip + length];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut source);
            if few {
                source.iter_mut().for_each(|byte| *byte = b" ab"[usize::from(*byte % 3)]);
            }
            let bytes = &source[skip..];
            let rarity = Rarity { intended: 8192, strict: u64::MAX >> 1, loose: u64::MAX };
            let mut cutter = Cutter::new(seed);
            let expected = defined(&cutter.key, bytes, least, rarity);
            prop_assert_eq!(cutter.length(bytes, least, rarity, true).ok(), expected);
            // In two goes.
            let part = bytes.len() * usize::from(share) / 255;
            let found = cutter.length(&bytes[..part], least, rarity, false);
            let found = found.or_else(|at| cutter.length(bytes, at, rarity, true));
            prop_assert_eq!(found.ok(), expected);

            if let Some(block) = bytes.first_chunk() {
                let mut rows = [[0; ROW + EXCESS]; 2];
                let portable = passing_anywhere(cutter.key, block, &mut rows);
                prop_assert_eq!(passing(cutter.key, block, &mut cutter.rows), portable);
                prop_assert!(cutter.rows.iter().zip(&rows).all(|(a, b)| a[..ROW] == b[..ROW]));
            }
        }
    }

    #[test]
    fn cuts_are_as_rare_as_they_are_meant_to_be() {
        let mut source = vec![0; 8 << 20];
        blake3::Hasher::new().update(b"rare").finalize_xof().fill(&mut source);
        for (seed, intended) in [(1, 8 << 10), (2, 8 << 10), (3, 64 << 10)] {
            let mut cutter = Cutter::new(seed);
            let (mut at, mut cuts) = (0, 0);
            while at < source.len() {
                let rarity = Rarity { intended: usize::MAX, ..Rarity::about(intended) };
                at += cutter.length(&source[at..], FAR, rarity, true).unwrap_or(source.len());
                cuts += 1;
            }
            let expected = source.len() / (2 * intended + FAR);
            let root = expected.isqrt();
            assert!(cuts + 5 * root > expected && cuts < expected + 5 * root, "{cuts} cuts, {expected} expected");
        }
    }
}
