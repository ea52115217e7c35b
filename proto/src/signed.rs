//! Signed statements: a body kept as the very bytes that were signed, the signer's key, the signature.
//!
//! Keeping the bytes avoids a canonical encoding. Each kind of statement has its own context text, so that a
//! signature under one kind can never be shown as another.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};

use crate::{DecodeError, StatementId};

/// Largest body of a signed statement, in bytes: a head record is the largest and has 8 KiB.
pub const SIGNED_BODY_MAX: usize = 8 * 1024;

/// A statement as it travels. Nothing in `body` may be believed before [`SignedBytes::verify`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SignedBytes {
    /// The encoded statement, at most [`SIGNED_BODY_MAX`] bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub body: Vec<u8>,
    /// Ed25519 public key of the signer, 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub signer: Vec<u8>,
    /// Ed25519 signature, 64 bytes, over `context || 0x00 || body`.
    #[prost(bytes = "vec", tag = "3")]
    pub signature: Vec<u8>,
}

impl SignedBytes {
    /// Signs `body` under `context`.
    #[must_use]
    pub fn sign(context: &str, body: Vec<u8>, key: &SigningKey) -> Self {
        let signature = key.sign(&message(context, &body));
        Self { body, signer: key.verifying_key().to_bytes().to_vec(), signature: signature.to_bytes().to_vec() }
    }

    /// What others name this statement by. The signature is not part of it: a second signature over the same words by
    /// the same signer says nothing new.
    #[must_use]
    pub fn id(&self, context: &'static str) -> StatementId {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 statement id v1");
        hasher.update(context.as_bytes()).update(&[0]).update(&self.signer).update(&self.body);
        StatementId::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Checks size and signature; returns the signer's key.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`], or [`DecodeError::NotAuthentic`] for anything that does not verify.
    pub fn verify(&self, context: &'static str) -> Result<[u8; 32], DecodeError> {
        if self.body.len() > SIGNED_BODY_MAX {
            return Err(DecodeError::TooLarge { what: context, limit: SIGNED_BODY_MAX, found: self.body.len() });
        }
        verify(context, &self.body, &self.signer, &self.signature)
    }
}

/// Verifies a detached signature over `context || 0x00 || body`; returns the signer's key.
///
/// # Errors
/// [`DecodeError::NotAuthentic`].
pub fn verify(context: &'static str, body: &[u8], signer: &[u8], signature: &[u8]) -> Result<[u8; 32], DecodeError> {
    let bad = DecodeError::NotAuthentic { what: context };
    let signer: [u8; 32] = signer.try_into().map_err(|_| bad.clone())?;
    let signature = Signature::from_slice(signature).map_err(|_| bad.clone())?;
    let key = VerifyingKey::from_bytes(&signer).map_err(|_| bad.clone())?;
    key.verify(&message(context, body), &signature).map_err(|_| bad)?;
    Ok(signer)
}

/// Signs `body` under `context`, detached.
#[must_use]
pub fn sign(context: &str, body: &[u8], key: &SigningKey) -> [u8; 64] {
    key.sign(&message(context, body)).to_bytes()
}

fn message(context: &str, body: &[u8]) -> Vec<u8> {
    let mut m = Vec::with_capacity(context.len() + 1 + body.len());
    m.extend_from_slice(context.as_bytes());
    m.push(0);
    m.extend_from_slice(body);
    m
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_bound_to_context_body_and_key() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let good = SignedBytes::sign("a", b"hello".to_vec(), &key);
        assert_eq!(good.verify("a"), Ok(key.verifying_key().to_bytes()));
        assert!(good.verify("b").is_err());
        for field in 0..3 {
            let mut bad = good.clone();
            match field {
                0 => bad.body[0] ^= 1,
                1 => bad.signer[0] ^= 1,
                _ => bad.signature[0] ^= 1,
            }
            assert!(bad.verify("a").is_err(), "field {field}");
        }
    }
}
