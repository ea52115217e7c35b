//! Keys: everything a vault needs, from 24 words. One derivation per purpose, each with its own BLAKE3 context, so
//! that no key can stand in for another.
//!
//! ```text
//! 24 words -> seed -> vault secret -> signing key, head key, dedupe key, chunker seed, group authority(g), placement(g)
//!                                  -> epoch secret(e) -> data key(e) -> stripe key(id) -> shard key(slot)
//! ```
//!
//! - **SEC-2** A shard key belongs to one slot of one stripe id, and a stripe id is 32 random bytes that are never
//!   used twice. Enforced by [`StripeKey::shard_key`] being the only way to a sealing key; attacked by
//!   `tests::every_key_differs`.
//! - **SEC-3** Guarded mode takes the epoch secret from guardians instead of the vault secret: the seam is [`KeyMode`].

use std::fmt;

use cairn_proto::{ChunkId, Slot, SnapshotId, StripeId, VaultKey};
use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::fallback::FallbackKeys;

#[cfg(test)]
mod tests;

/// Words of a recovery phrase.
pub const PHRASE_WORDS: usize = 24;

/// Why a recovery phrase is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Not 24 words.
    #[error("a recovery phrase has 24 words, this one has {found}")]
    WordCount {
        /// Words found.
        found: usize,
    },
    /// A word that is not in the list. The word itself is not repeated: it may be most of a secret.
    #[error("word {position} of the recovery phrase is not in the BIP39 English word list")]
    UnknownWord {
        /// Which word, from 1.
        position: usize,
    },
    /// All words exist, but they do not belong together.
    #[error("the recovery phrase's checksum does not match: a word is wrong, or two changed places")]
    Checksum,
}

/// A 32-byte secret that is wiped when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

impl Secret {
    pub(crate) fn derive(&self, context: &'static str, more: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        hasher.update(more);
        let secret = Self(*hasher.finalize().as_bytes());
        hasher.zeroize();
        secret
    }
}

macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}
redacted!(MasterSeed, VaultKeys, EpochKeys, StripeKey);

/// What the 24 words say: 256 bits.
#[derive(Clone)]
pub struct MasterSeed(Secret);

impl MasterSeed {
    /// Wraps 32 bytes, which must come from the operating system's generator.
    #[must_use]
    pub const fn from_entropy(entropy: [u8; 32]) -> Self {
        Self(Secret(entropy))
    }

    /// Reads a phrase: 24 words of the BIP39 English list, in any case, with any white space between.
    ///
    /// # Errors
    /// Which word is wrong, or that the checksum is.
    pub fn from_phrase(phrase: &str) -> Result<Self, PhraseError> {
        let words = phrase.split_whitespace().count();
        if words != PHRASE_WORDS {
            return Err(PhraseError::WordCount { found: words });
        }
        let lower = Zeroizing::new(phrase.to_lowercase());
        let mnemonic = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &lower).map_err(|e| match e {
            bip39::Error::UnknownWord(index) => PhraseError::UnknownWord { position: index + 1 },
            _ => PhraseError::Checksum,
        })?;
        let (mut bytes, length) = mnemonic.to_entropy_array();
        let mut entropy = [0u8; 32];
        if length != entropy.len() {
            return Err(PhraseError::Checksum);
        }
        entropy.copy_from_slice(&bytes[..32]);
        bytes.zeroize();
        Ok(Self::from_entropy(entropy))
    }

    /// The 24 words, in lower case with single spaces.
    #[must_use]
    pub fn to_phrase(&self) -> Zeroizing<String> {
        let mnemonic = bip39::Mnemonic::from_entropy_in(bip39::Language::English, &self.0.0)
            .expect("BIP39: 32 bytes always make 24 words");
        Zeroizing::new(mnemonic.to_string())
    }

    /// The 32 bytes, for a keyring to seal. Do not copy them anywhere else.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0.0
    }
}

/// A phrase for fresh entropy.
#[must_use]
pub fn generate(entropy: [u8; 32]) -> (MasterSeed, Zeroizing<String>) {
    let seed = MasterSeed::from_entropy(entropy);
    let phrase = seed.to_phrase();
    (seed, phrase)
}

/// Where epoch secrets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMode {
    /// From the vault secret: the phrase alone opens everything.
    Paper,
}

/// A vault's long-lived keys.
#[derive(Clone)]
pub struct VaultKeys {
    secret: Secret,
    head: Secret,
    dedupe: Secret,
    snapshot: Secret,
    signing: SigningKey,
}

impl VaultKeys {
    /// Derives them all.
    #[must_use]
    pub fn derive(seed: &MasterSeed) -> Self {
        let secret = seed.0.derive("cairn 2026-11 vault secret v1", b"");
        let signing = secret.derive("cairn 2026-11 vault signing key v1", b"");
        Self {
            head: secret.derive("cairn 2026-11 head key v1", b""),
            dedupe: secret.derive("cairn 2026-11 dedupe key v1", b""),
            snapshot: secret.derive("cairn 2026-11 snapshot id key v1", b""),
            signing: SigningKey::from_bytes(&signing.0),
            secret,
        }
    }

    /// Signs heads; its public half names the vault.
    #[must_use]
    pub const fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The vault's public name.
    #[must_use]
    pub fn vault_key(&self) -> VaultKey {
        VaultKey::from_bytes(self.signing.verifying_key().to_bytes())
    }

    /// A chunk's id. Keyed, so that nobody without the vault can tell whether a known file is in it.
    #[must_use]
    pub fn chunk_id(&self, chunk: &[u8]) -> ChunkId {
        ChunkId::from_bytes(*blake3::keyed_hash(&self.dedupe.0, chunk).as_bytes())
    }

    /// The same of a chunk that lies in several parts.
    #[must_use]
    pub fn chunk_id_of<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> ChunkId {
        let mut hasher = blake3::Hasher::new_keyed(&self.dedupe.0);
        for part in parts {
            hasher.update(part);
        }
        ChunkId::from_bytes(*hasher.finalize().as_bytes())
    }

    /// The id of an encoded snapshot record.
    #[must_use]
    pub fn snapshot_id(&self, record: &[u8]) -> SnapshotId {
        SnapshotId::from_bytes(*blake3::keyed_hash(&self.snapshot.0, record).as_bytes())
    }

    /// What cut points are drawn with; see [`crate::chunking`].
    #[must_use]
    pub fn chunker_seed(&self) -> u64 {
        let drawn = self.secret.derive("cairn 2026-11 chunker seed v1", b"");
        let mut first = [0u8; 8];
        first.copy_from_slice(&drawn.0[..8]);
        u64::from_le_bytes(first)
    }

    /// The key that signs a group's grants. Groups of one vault cannot be linked by it.
    #[must_use]
    pub fn group_authority(&self, number: u32) -> SigningKey {
        SigningKey::from_bytes(&self.secret.derive("cairn 2026-11 group authority v1", &number.to_le_bytes()).0)
    }

    /// The key of a group's owner-keyed ranking of peers.
    #[must_use]
    pub fn placement_key(&self, number: u32) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.derive("cairn 2026-11 placement key v1", &number.to_le_bytes()).0)
    }

    /// The keys for one provider of fallback storage, by its id.
    #[must_use]
    pub fn fallback(&self, provider: &[u8; 32]) -> FallbackKeys {
        FallbackKeys::new(self.secret.derive("cairn 2026-11 fallback secret v1", provider))
    }

    /// The keys of an epoch.
    #[must_use]
    pub fn epoch(&self, mode: KeyMode, number: u32) -> EpochKeys {
        let secret = match mode {
            KeyMode::Paper => self.secret.derive("cairn 2026-11 paper epoch secret v1", &number.to_le_bytes()),
        };
        let mut both = Zeroizing::new([0u8; 64]);
        both[..32].copy_from_slice(&self.secret.0);
        both[32..].copy_from_slice(&secret.0);
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 epoch data key v1");
        hasher.update(&both[..]);
        let data = Secret(*hasher.finalize().as_bytes());
        hasher.zeroize();
        EpochKeys { number, data }
    }

    pub(crate) const fn head_key(&self) -> &[u8; 32] {
        &self.head.0
    }
}

/// The keys of one epoch: what its stripes are sealed with.
#[derive(Clone)]
pub struct EpochKeys {
    number: u32,
    data: Secret,
}

impl EpochKeys {
    /// The epoch's number.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The key that a stripe's shard keys come from.
    #[must_use]
    pub fn stripe_key(&self, stripe: &StripeId) -> StripeKey {
        StripeKey(self.data.derive("cairn 2026-11 stripe key v1", stripe.as_bytes()))
    }
}

/// The key of one stripe.
#[derive(Clone)]
pub struct StripeKey(Secret);

impl StripeKey {
    /// The key that seals the shard in one slot, and nothing else (SEC-2).
    #[must_use]
    pub fn shard_key(&self, slot: Slot) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.derive("cairn 2026-11 shard key v1", &[slot.as_u8()]).0)
    }
}
