//! Which leaves a challenge asks for, and the proofs that they belong to the shard.
//!
//! ```text
//! link(0)   = BLAKE3 keyed with the nonce over the root
//! place(j)  = first eight bytes of link(j), little endian, modulo 1024
//! link(j+1) = BLAKE3 keyed with the nonce over link(j) || BLAKE3(slice j)      where slices are asked for
//!             BLAKE3 keyed with the nonce over link(j) || BLAKE3(leaf j)       where a digest is
//! ```
//!
//! A slice is bao's: length, path, leaf; it depends on the place and the shard alone. A digest is the last link of its chain: it goes
//! over leaves, since nobody is shown a path, and bao reckons the tree block by block where a hash uses the processor's vectors.

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

    fn go_on(&mut self, hash: &[u8; 32]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce);
        self.link = *hasher.update(&self.link).update(hash).finalize().as_bytes();
    }
}

/// A shard whose digests are reckoned. Chains that meet at a leaf hash it once: sixty-four tokens ask for each leaf once on average.
struct Digested<'a> {
    shard: &'a [u8],
    root: &'a ShardRoot,
    known: Vec<Option<[u8; 32]>>,
}

impl<'a> Digested<'a> {
    /// `None` when it is no shard.
    fn new(shard: &'a [u8], root: &'a ShardRoot) -> Option<Self> {
        (shard.len() == SHARD_SIZE).then(|| Self { shard, root, known: vec![None; LEAVES as usize] })
    }

    fn digest(&mut self, nonce: &[u8; 32], leaves: u8) -> Option<[u8; 32]> {
        let mut chain = Chain::new(nonce, self.root);
        for _ in 0..leaves {
            let place = chain.place();
            let begin = usize::try_from(offset(place)).ok()?;
            let leaf = self.shard.get(begin..begin + LEAF_SIZE)?;
            let hash = self.known.get_mut(usize::try_from(place).ok()?)?;
            chain.go_on(hash.get_or_insert_with(|| *blake3::hash(leaf).as_bytes()));
        }
        Some(chain.link)
    }

    /// Whether the bytes were the root's all the time. What is signed, or asked with, must be right even where memory is bad: so this is
    /// found out when the digests are made.
    fn was_right(self) -> bool {
        blake3::hash(self.shard) == *self.root.as_bytes()
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
}

/// What a holder finds when it looks; to be signed as it is. `shard` are the bytes that it has under the challenge's root,
/// trash included; `None`: there are none. The whole shard is hashed, so damage anywhere in it is found here and becomes an
/// admission, never a wrong answer.
#[must_use]
pub fn respond(shard: Option<&[u8]>, challenge: &Challenge) -> (Found, Vec<Vec<u8>>) {
    let Some(shard) = shard else { return (Found::NotHere(Loss::Gone), Vec::new()) };
    let found = match challenge.way {
        Way::Slices => slices_of(shard, challenge),
        Way::Digest => digest_of(shard, challenge).map(|digest| (Found::Digest(digest), Vec::new())),
    };
    found.unwrap_or((Found::NotHere(Loss::Damaged), Vec::new()))
}

/// The slices that are asked for, signed as their hashes.
fn slices_of(shard: &[u8], challenge: &Challenge) -> Option<(Found, Vec<Vec<u8>>)> {
    let proved = Proved::new(shard).filter(|proved| proved.root == challenge.root)?;
    let mut chain = Chain::new(&challenge.nonce, &proved.root);
    let (mut hashes, mut slices) = (Vec::new(), Vec::new());
    for _ in 0..challenge.slices {
        let (hash, slice) = proved.proof(chain.place())?;
        chain.go_on(&hash);
        hashes.push(hash);
        slices.push(slice);
    }
    Some((Found::Slices(hashes), slices))
}

fn digest_of(shard: &[u8], challenge: &Challenge) -> Option<[u8; 32]> {
    let mut digested = Digested::new(shard, &challenge.root)?;
    let digest = digested.digest(&challenge.nonce, challenge.slices)?;
    digested.was_right().then_some(digest)
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

/// The right digests of many tokens of the shard with this root. `None` when these are not its bytes, or as [`Token::prepare`]: a token
/// that bad memory made wrong would have an honest holder doubted.
#[must_use]
pub fn digests(
    shard: &[u8],
    root: &ShardRoot,
    nonces: impl IntoIterator<Item = [u8; 32]>,
    leaves: u8,
) -> Option<Vec<[u8; 32]>> {
    if !(1..=DIGEST_LEAVES_MAX).contains(&leaves) {
        return None;
    }
    let mut digested = Digested::new(shard, root)?;
    let digests = nonces.into_iter().map(|nonce| digested.digest(&nonce, leaves)).collect::<Option<_>>()?;
    digested.was_right().then_some(digests)
}

/// Bytes of an encoded [`Token`]: nonce, leaves, digest.
pub const TOKEN_SIZE: usize = 65;

impl Token {
    /// Prepares one. `None` when these bytes are no shard, or `leaves` is none or over [`DIGEST_LEAVES_MAX`].
    #[must_use]
    pub fn prepare(shard: &[u8], nonce: [u8; 32], leaves: u8) -> Option<Self> {
        let root = ShardRoot::from_bytes(*blake3::hash(shard).as_bytes());
        let expected = digests(shard, &root, [nonce], leaves)?.pop()?;
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
        // A digest of leaves that are whole says nothing of one that is not; the hash afterwards does.
        let digest = |shard: &[u8]| digests(shard, &right.root, [[1; 32]], 4);
        assert!(digest(&shard).is_some());
        assert_eq!(digest(&flipped), None);
    }
}
