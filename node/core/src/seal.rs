//! Sealing: AES-256-GCM over one shard or one head.
//!
//! - **SEC-1** Only what went through here leaves the owner.
//! - **SEC-2** A shard is sealed under a key of its own, so the nonce is twelve zero bytes and is not stored.
//!
//! Shards are sealed by ring or AWS-LC, which are in the binary for TLS and do it in a fraction of the time that aes-gcm takes
//! ([`crate::gcm`]); heads, which are small, by aes-gcm. The bytes are those of the cipher, whoever makes them:
//! `tests::both_implementations_agree`.
//!
//! A head's key lives as long as the vault; its nonce is a keyed hash of what is sealed, so two different heads never
//! share one, even when a crash makes a sequence number come twice.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{AeadInOut, Nonce, Tag},
};
use cairn_proto::{
    SEAL_OVERHEAD, SHARD_PAYLOAD, SHARD_SIZE, Slot, StripeId,
    head::{HEAD_CONTENT_MAX, HEAD_STEP, HeadContent},
    message::HeadRecord,
};

use crate::{
    gcm::{Cipher, NONCE},
    keys::{StripeKey, VaultKeys},
};

#[cfg(test)]
mod tests;

/// Why something could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The buffer is not a shard.
    #[error("a shard has {SHARD_SIZE} bytes, this buffer has {found}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// Other bytes or another key than it was sealed with.
    #[error("does not open: it was changed, or sealed under another key")]
    NotAuthentic,
    /// It opened, but what is inside is malformed.
    #[error("opens, but holds no valid head: {0}")]
    Malformed(#[from] cairn_proto::DecodeError),
}

/// A key seals one shard only (SEC-2).
const ZERO_NONCE: [u8; NONCE] = [0; NONCE];

/// Seals a shard where it lies: [`SHARD_PAYLOAD`] bytes of plaintext, room for the tag behind them.
///
/// # Errors
/// [`SealError::Length`].
pub fn seal_in_place(key: &StripeKey, stripe: &StripeId, slot: Slot, shard: &mut [u8]) -> Result<(), SealError> {
    let found = shard.len();
    if found != SHARD_SIZE {
        return Err(SealError::Length { found });
    }
    let (payload, place) = shard.split_at_mut(SHARD_PAYLOAD);
    let sealed = cipher(key, slot)?.seal(ZERO_NONCE, &associated(stripe, slot), payload);
    place.copy_from_slice(&sealed.map_err(|_| SealError::NotAuthentic)?);
    Ok(())
}

/// Opens a shard where it lies: its first [`SHARD_PAYLOAD`] bytes are plaintext afterwards. When it does not open,
/// the buffer is zeroed, so no caller can go on with what it held.
///
/// # Errors
/// [`SealError::Length`] or [`SealError::NotAuthentic`].
pub fn open_in_place(key: &StripeKey, stripe: &StripeId, slot: Slot, shard: &mut [u8]) -> Result<(), SealError> {
    let found = shard.len();
    if found != SHARD_SIZE {
        return Err(SealError::Length { found });
    }
    if cipher(key, slot)?.open(ZERO_NONCE, &associated(stripe, slot), shard).is_err() {
        shard.fill(0);
        return Err(SealError::NotAuthentic);
    }
    Ok(())
}

/// The cipher of one shard.
fn cipher(key: &StripeKey, slot: Slot) -> Result<Cipher, SealError> {
    Cipher::new(&key.shard_key(slot)).map_err(|_| SealError::NotAuthentic)
}

/// Seals and signs a head: the record to be published.
///
/// # Errors
/// [`SealError::Malformed`] when the content breaks a rule or is too large.
pub fn seal_head(keys: &VaultKeys, content: &HeadContent) -> Result<Vec<u8>, SealError> {
    let encoded = content.encode()?;
    let mut plain = (encoded.len() as u16).to_le_bytes().to_vec();
    plain.extend_from_slice(&encoded);
    plain.resize(plain.len().next_multiple_of(HEAD_STEP), 0);
    let associated = head_associated(keys, content.generation, content.sequence);
    let nonce = head_nonce(keys, &associated, &plain);
    let tag = encrypt(keys.head_key(), &nonce, &associated, &mut plain)?;
    let sealed = [&nonce[..], &plain, &tag].concat();
    let record =
        HeadRecord { vault: keys.vault_key(), generation: content.generation, sequence: content.sequence, sealed };
    Ok(record.seal(keys.signing()))
}

/// Opens a head record, whose signature was checked by [`HeadRecord::open`].
///
/// # Errors
/// Another vault's, changed, or not a head inside.
pub fn open_head(keys: &VaultKeys, record: &HeadRecord) -> Result<HeadContent, SealError> {
    let bad = SealError::NotAuthentic;
    let length = record.sealed.len();
    if record.vault != keys.vault_key() || length < NONCE + SEAL_OVERHEAD {
        return Err(bad);
    }
    let (nonce, rest) = record.sealed.split_at(NONCE);
    let (plain, tag) = rest.split_at(rest.len() - SEAL_OVERHEAD);
    let mut plain = plain.to_vec();
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| bad.clone())?;
    let tag: [u8; SEAL_OVERHEAD] = tag.try_into().map_err(|_| bad.clone())?;
    let associated = head_associated(keys, record.generation, record.sequence);
    decrypt(keys.head_key(), &nonce, &associated, &mut plain, &tag)?;
    let content = plain.split_first_chunk::<2>().and_then(|(length, rest)| {
        let length = usize::from(u16::from_le_bytes(*length));
        rest.get(..length.min(HEAD_CONTENT_MAX + 1))
    });
    let content = HeadContent::decode(content.ok_or(bad.clone())?)?;
    if (content.generation, content.sequence) != (record.generation, record.sequence) {
        return Err(bad);
    }
    Ok(content)
}

fn associated(stripe: &StripeId, slot: Slot) -> [u8; 33] {
    let mut out = [0u8; 33];
    out[..32].copy_from_slice(stripe.as_bytes());
    out[32] = slot.as_u8();
    out
}

fn head_associated(keys: &VaultKeys, generation: u32, sequence: u64) -> [u8; 44] {
    let mut out = [0u8; 44];
    out[..32].copy_from_slice(keys.vault_key().as_bytes());
    out[32..36].copy_from_slice(&generation.to_le_bytes());
    out[36..].copy_from_slice(&sequence.to_le_bytes());
    out
}

fn head_nonce(keys: &VaultKeys, associated: &[u8], plain: &[u8]) -> [u8; NONCE] {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 head nonce v1");
    hasher.update(keys.head_key());
    hasher.update(associated);
    hasher.update(plain);
    let mut nonce = [0u8; NONCE];
    nonce.copy_from_slice(&hasher.finalize().as_bytes()[..NONCE]);
    nonce
}

fn encrypt(key: &[u8; 32], nonce: &[u8; NONCE], aad: &[u8], buffer: &mut [u8]) -> Result<[u8; 16], SealError> {
    let cipher = Aes256Gcm::new(key.into());
    let nonce: &Nonce<Aes256Gcm> = nonce.into();
    let tag = cipher.encrypt_inout_detached(nonce, aad, buffer.into()).map_err(|_| SealError::NotAuthentic)?;
    Ok(tag.into())
}

fn decrypt(
    key: &[u8; 32],
    nonce: &[u8; NONCE],
    aad: &[u8],
    buffer: &mut [u8],
    tag: &[u8; 16],
) -> Result<(), SealError> {
    let cipher = Aes256Gcm::new(key.into());
    let nonce: &Nonce<Aes256Gcm> = nonce.into();
    let tag: &Tag<Aes256Gcm> = tag.into();
    cipher.decrypt_inout_detached(nonce, aad, buffer.into(), tag).map_err(|_| SealError::NotAuthentic)
}
