//! Which leaves a challenge asks for, and the proofs that they belong to the shard.
//!
//! ```text
//! link(0)   = BLAKE3 keyed with the nonce over the root
//! place(j)  = first eight bytes of link(j), little endian, modulo 1024
//! link(j+1) = BLAKE3 keyed with the nonce over link(j) || BLAKE3(slice j)
//! ```
//!
//! A slice is bao's: length, path, leaf; it depends on the place and the shard alone. The digest of a chain is its last link.

use std::io::Read as _;

use cairn_proto::{
    DecodeError, SHARD_SIZE, ShardRoot,
    audit::{Challenge, DIGEST_LEAVES_MAX, Found, LEAF_SIZE, LEAVES, Loss, SLICE_SIZE, Way},
};

use super::offset;

/// Bytes of a parent in bao's tree: the chaining values of its halves.
const PARENT: usize = 64;

/// The chain of one challenge.
struct Chain {
    nonce: [u8; 32],
    link: [u8; 32],
}

impl Chain {
    fn new(nonce: &[u8; 32], root: &ShardRoot) -> Self {
        Self { nonce: *nonce, link: *blake3::keyed_hash(nonce, root.as_bytes()).as_bytes() }
    }

    /// Which leaf is asked for now.
    fn place(&self) -> u64 {
        let mut first = [0u8; 8];
        first.copy_from_slice(&self.link[..8]);
        // 1024 divides 2^64: no place is likelier than another.
        u64::from_le_bytes(first) % LEAVES
    }

    fn go_on(&mut self, slice_hash: &[u8; 32]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce);
        self.link = *hasher.update(&self.link).update(slice_hash).finalize().as_bytes();
    }
}

/// The leaves that a signed list of hashes answers to.
pub(super) fn places<'a>(challenge: &Challenge, hashes: &'a [[u8; 32]]) -> impl Iterator<Item = u64> + 'a {
    let mut chain = Chain::new(&challenge.nonce, &challenge.root);
    hashes.iter().map(move |hash| {
        let place = chain.place();
        chain.go_on(hash);
        place
    })
}

/// Whether these bytes are the slice of that leaf of that shard.
pub(super) fn belongs(root: &ShardRoot, place: u64, slice: &[u8]) -> bool {
    // bao checks the length only against the last leaf, so it is checked here.
    if slice.len() != SLICE_SIZE || slice[..8] != (SHARD_SIZE as u64).to_le_bytes() {
        return false;
    }
    let hash = bao::Hash::from_bytes(*root.as_bytes());
    let mut leaf = [0u8; LEAF_SIZE];
    let mut decoder = bao::decode::SliceDecoder::new(slice, &hash, offset(place), LEAF_SIZE as u64);
    decoder.read_exact(&mut leaf).is_ok()
}

/// A shard with its tree: 64 KiB of nodes beside the bytes.
struct Proved<'a> {
    shard: &'a [u8],
    tree: Vec<u8>,
    root: ShardRoot,
}

impl<'a> Proved<'a> {
    /// `None` when it is no shard.
    fn new(shard: &'a [u8]) -> Option<Self> {
        if shard.len() != SHARD_SIZE {
            return None;
        }
        let (tree, hash) = bao::encode::outboard(shard);
        Some(Self { shard, tree, root: ShardRoot::from_bytes(*hash.as_bytes()) })
    }

    /// The slice of a leaf, as bao's extractor writes it: the length, the parents from the root down (`tree` has the length and all parents,
    /// each before its left half, and that before its right one), the leaf.
    fn slice(&self, place: u64) -> Option<Vec<u8>> {
        let mut slice = Vec::with_capacity(SLICE_SIZE);
        slice.extend_from_slice(self.tree.get(..8)?);
        let (mut parent, mut half) = (8, LEAVES / 2);
        while half > 0 {
            slice.extend_from_slice(self.tree.get(parent..parent + PARENT)?);
            // A half of n leaves has n - 1 parents.
            parent += PARENT * if place & half == 0 { 1 } else { half as usize };
            half /= 2;
        }
        let leaf = usize::try_from(offset(place)).ok()?;
        slice.extend_from_slice(self.shard.get(leaf..leaf + LEAF_SIZE)?);
        Some(slice)
    }

    /// A leaf's slice with its hash.
    fn proof(&self, place: u64) -> Option<([u8; 32], Vec<u8>)> {
        // What is signed must be right even where memory is bad: checked as the auditor will.
        let slice = self.slice(place).filter(|slice| belongs(&self.root, place, slice))?;
        Some((*blake3::hash(&slice).as_bytes(), slice))
    }

    /// Walks the chain; hands out each slice with its hash. Returns the last link.
    fn walk(&self, nonce: &[u8; 32], leaves: u8, mut each: impl FnMut([u8; 32], Vec<u8>)) -> Option<[u8; 32]> {
        let mut chain = Chain::new(nonce, &self.root);
        for _ in 0..leaves {
            let (hash, slice) = self.proof(chain.place())?;
            chain.go_on(&hash);
            each(hash, slice);
        }
        Some(chain.link)
    }
}

/// What a holder finds when it looks; to be signed as it is. `shard` are the bytes that it has under the challenge's root,
/// trash included; `None`: there are none. The whole shard is hashed, so damage anywhere in it is found here and becomes an
/// admission, never a wrong answer.
#[must_use]
pub fn respond(shard: Option<&[u8]>, challenge: &Challenge) -> (Found, Vec<Vec<u8>>) {
    let Some(shard) = shard else { return (Found::NotHere(Loss::Gone), Vec::new()) };
    let damaged = (Found::NotHere(Loss::Damaged), Vec::new());
    let Some(proved) = Proved::new(shard).filter(|p| p.root == challenge.root) else { return damaged };
    let (mut hashes, mut slices) = (Vec::new(), Vec::new());
    let walked = proved.walk(&challenge.nonce, challenge.slices, |hash, slice| {
        if challenge.way == Way::Slices {
            hashes.push(hash);
            slices.push(slice);
        }
    });
    match (walked, challenge.way) {
        (None, _) => damaged,
        (Some(_), Way::Slices) => (Found::Slices(hashes), slices),
        (Some(link), Way::Digest) => (Found::Digest(link), Vec::new()),
    }
}

/// A challenge prepared by who had the shard, for who may not see it: stewards in networks where nobody of the slot's
/// colour is there to audit. Good for one challenge: a holder may keep the answer and drop the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What to ask with. Secret until then.
    pub nonce: [u8; 32],
    /// How many leaves.
    pub leaves: u8,
    /// The right digest.
    pub expected: [u8; 32],
}

/// The right digests of many tokens of one shard, its tree reckoned once. `None` as [`Token::prepare`]. Each slice is checked as a
/// holder's are: a token that bad memory made wrong would have an honest holder doubted.
#[must_use]
pub fn digests(shard: &[u8], nonces: impl IntoIterator<Item = [u8; 32]>, leaves: u8) -> Option<Vec<[u8; 32]>> {
    if !(1..=DIGEST_LEAVES_MAX).contains(&leaves) {
        return None;
    }
    let proved = Proved::new(shard)?;
    // Sixty-four tokens ask for each leaf once on average: what was reckoned and checked for one is not for the next.
    let mut known = vec![None; LEAVES as usize];
    let digest = |nonce: [u8; 32]| {
        let mut chain = Chain::new(&nonce, &proved.root);
        for _ in 0..leaves {
            let place = chain.place();
            let entry = known.get_mut(usize::try_from(place).ok()?)?;
            let hash = match *entry {
                Some(hash) => hash,
                None => *entry.insert(proved.proof(place)?.0),
            };
            chain.go_on(&hash);
        }
        Some(chain.link)
    };
    nonces.into_iter().map(digest).collect()
}

/// Bytes of an encoded [`Token`]: nonce, leaves, digest.
pub const TOKEN_SIZE: usize = 65;

impl Token {
    /// Prepares one. `None` when these bytes are no shard, or `leaves` is none or over [`DIGEST_LEAVES_MAX`].
    #[must_use]
    pub fn prepare(shard: &[u8], nonce: [u8; 32], leaves: u8) -> Option<Self> {
        if !(1..=DIGEST_LEAVES_MAX).contains(&leaves) {
            return None;
        }
        let expected = Proved::new(shard)?.walk(&nonce, leaves, |_, _| ())?;
        Some(Self { nonce, leaves, expected })
    }

    /// The 65 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; TOKEN_SIZE] {
        let mut out = [0u8; TOKEN_SIZE];
        out[..32].copy_from_slice(&self.nonce);
        out[32] = self.leaves;
        out[33..].copy_from_slice(&self.expected);
        out
    }

    /// Reads the 65 bytes.
    ///
    /// # Errors
    /// Another length, or a number of leaves that cannot be asked for.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "audit token";
        let bytes: &[u8; TOKEN_SIZE] =
            bytes.try_into().map_err(|_| DecodeError::Truncated { what, needed: TOKEN_SIZE, found: bytes.len() })?;
        if !(1..=DIGEST_LEAVES_MAX).contains(&bytes[32]) {
            return Err(DecodeError::Invalid { what, why: "too many leaves, or none" });
        }
        let (mut nonce, mut expected) = ([0u8; 32], [0u8; 32]);
        nonce.copy_from_slice(&bytes[..32]);
        expected.copy_from_slice(&bytes[33..]);
        Ok(Self { nonce, leaves: bytes[32], expected })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn slices_are_those_that_bao_extracts() {
        let mut shard = vec![0; SHARD_SIZE];
        blake3::Hasher::new().update(b"slices").finalize_xof().fill(&mut shard);
        let proved = Proved::new(&shard).expect("a shard");
        for place in 0..LEAVES {
            let (bytes, tree) = (Cursor::new(&shard), Cursor::new(&proved.tree));
            let mut theirs = Vec::new();
            let mut extractor = bao::encode::SliceExtractor::new_outboard(bytes, tree, offset(place), LEAF_SIZE as u64);
            extractor.read_to_end(&mut theirs).expect("in memory");
            assert_eq!(proved.slice(place), Some(theirs), "leaf {place}");
        }
        assert_eq!(proved.slice(LEAVES), None);
    }

    #[test]
    fn damage_is_found_before_anything_is_made_of_it() {
        let shard = vec![7; SHARD_SIZE];
        let right = Proved::new(&shard).expect("a shard");
        let mut flipped = shard.clone();
        flipped[5 * LEAF_SIZE] ^= 1;
        let leaf = Proved { shard: &flipped, tree: right.tree.clone(), root: right.root };
        assert!(leaf.proof(5).is_none() && leaf.proof(6).is_some());
        let mut tree = right.tree.clone();
        tree[8] ^= 1;
        let parent = Proved { shard: &shard, tree, root: right.root };
        assert!((0..LEAVES).all(|place| parent.proof(place).is_none()));
    }
}
