//! Says of most chunks that are new that they are, without a look at the disk: a blocked Bloom filter in memory.

/// Bits of a line, which is what a processor fetches at once.
const LINE_BITS: u32 = 512;
/// Keys for which a line is meant: eight bits each, one wrong answer in some forty.
const KEYS_PER_LINE: u64 = 64;
/// Lines at first: 128 KiB, good for 131,072 chunks (a gigabyte of a stream).
const LINES_FIRST: usize = 1 << 11;
/// Lines at most: 32 MiB, good for 33 million chunks (some 300 GB of streams, 30 TB of files). Beyond, the answers get worse:
/// twice as many chunks are one in five wrong, four times as many every other one, and each wrong one costs as many reads of
/// 4 KiB as there are index files.
const LINES_MAX: usize = 1 << 19;

type Line = [u64; 8];

/// Never denies what was put in.
#[derive(Debug)]
pub(super) struct Filter {
    lines: Vec<Line>,
    keys: u64,
}

impl Filter {
    /// An empty one for about that many keys.
    pub(super) fn for_keys(keys: u64) -> Self {
        let lines = usize::try_from(keys.div_ceil(KEYS_PER_LINE)).unwrap_or(usize::MAX);
        let lines = lines.clamp(LINES_FIRST, LINES_MAX).next_power_of_two();
        Self { lines: vec![[0; 8]; lines], keys: 0 }
    }

    /// Whether it has more keys than it is meant for, and a larger one may be made.
    pub(super) const fn is_full(&self) -> bool {
        self.keys > self.lines.len() as u64 * KEYS_PER_LINE && self.lines.len() < LINES_MAX
    }

    /// The line of a key, and its six bits in it. Keys are parts of keyed hashes, so they need little mixing.
    const fn place(&self, key: u64) -> (usize, Line) {
        let line = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.lines.len() - 1);
        let mut mixed = (key ^ (key >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut bits = [0; 8];
        let mut left = 6;
        while left > 0 {
            let bit = (mixed >> 55) as u32 % LINE_BITS;
            bits[(bit / 64) as usize] |= 1 << (bit % 64);
            mixed <<= 9;
            left -= 1;
        }
        (line, bits)
    }

    pub(super) fn insert(&mut self, key: u64) {
        let (line, bits) = self.place(key);
        self.lines[line].iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
        self.keys += 1;
    }

    pub(super) fn may_have(&self, key: u64) -> bool {
        let (line, bits) = self.place(key);
        self.lines[line].iter().zip(bits).all(|(word, bits)| word & bits == bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..8]);
        u64::from_be_bytes(bytes) >> 8
    }

    #[test]
    fn it_denies_nothing_that_it_has_and_most_that_it_has_not() {
        let mut filter = Filter::for_keys(1);
        let mut n = 0;
        while !filter.is_full() {
            filter.insert(key(n));
            n += 1;
        }
        assert_eq!(n, 1 + LINES_FIRST as u64 * KEYS_PER_LINE);
        assert!((0..n).all(|n| filter.may_have(key(n))));
        let wrong = (n..2 * n).filter(|n| filter.may_have(key(*n))).count() as u64;
        assert!(wrong * 25 < n, "{wrong} of {n}");
        assert!(!Filter::for_keys(n).is_full());
        assert_eq!(Filter::for_keys(n).lines.len(), 2 * LINES_FIRST);
        assert_eq!(Filter::for_keys(u64::MAX).lines.len(), LINES_MAX, "its memory has a bound");
    }
}
