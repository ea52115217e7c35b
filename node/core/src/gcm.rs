//! AES-256-GCM over large pieces, by whichever library is the fastest on this processor: AWS-LC where there are AVX-512 and VAES
//! (twice as fast as ring there), else ring (ADR 0025). Found out at run time. The bytes are the same; a test holds them against each other.

use ring::aead;

/// Bytes of a nonce.
pub(crate) const NONCE: usize = 12;
/// Bytes of a tag.
pub(crate) const TAG: usize = 16;

/// It does not open, or is too long; the libraries say no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

/// Whether AWS-LC's kernels for 512-bit vectors run here; they are the fastest there is. What it asks for is what they need.
#[must_use]
pub fn has_wide_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512f")
            && has!("avx512bw")
            && has!("avx512dq")
            && has!("avx512vl")
            && has!("vaes")
            && has!("vpclmulqdq")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// One key, ready for use. ring does not clear its copy: what that key protects lies beside it (ADR 0013).
pub(crate) enum Cipher {
    Ring(Box<aead::LessSafeKey>),
    AwsLc(Box<aws_lc_rs::aead::LessSafeKey>),
}

impl Cipher {
    /// The fastest one here.
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, NotAuthentic> {
        if has_wide_aes() { Self::aws_lc(key) } else { Self::ring(key) }
    }

    fn ring(key: &[u8; 32]) -> Result<Self, NotAuthentic> {
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).map_err(|_| NotAuthentic)?;
        Ok(Self::Ring(Box::new(aead::LessSafeKey::new(key))))
    }

    fn aws_lc(key: &[u8; 32]) -> Result<Self, NotAuthentic> {
        use aws_lc_rs::aead;
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).map_err(|_| NotAuthentic)?;
        Ok(Self::AwsLc(Box::new(aead::LessSafeKey::new(key))))
    }

    /// Encrypts where it lies. A nonce serves once for a key.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE],
        associated: &[u8],
        plain: &mut [u8],
    ) -> Result<[u8; TAG], NotAuthentic> {
        let mut tag = [0; TAG];
        match self {
            Self::Ring(key) => {
                let (nonce, associated) = (aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(associated));
                let made = key.seal_in_place_separate_tag(nonce, associated, plain).map_err(|_| NotAuthentic)?;
                tag.copy_from_slice(made.as_ref());
            }
            Self::AwsLc(key) => {
                use aws_lc_rs::aead;
                let (nonce, associated) = (aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(associated));
                let made = key.seal_in_place_separate_tag(nonce, associated, plain).map_err(|_| NotAuthentic)?;
                tag.copy_from_slice(made.as_ref());
            }
        }
        Ok(tag)
    }

    /// Decrypts where it lies; `sealed` ends with the tag. Its content says nothing when it does not open.
    pub(crate) fn open(&self, nonce: [u8; NONCE], associated: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic> {
        match self {
            Self::Ring(key) => {
                let (nonce, associated) = (aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(associated));
                key.open_in_place(nonce, associated, sealed).map(|_| ()).map_err(|_| NotAuthentic)
            }
            Self::AwsLc(key) => {
                use aws_lc_rs::aead;
                let (nonce, associated) = (aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(associated));
                key.open_in_place(nonce, associated, sealed).map(|_| ()).map_err(|_| NotAuthentic)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_libraries_make_the_same_bytes(
            key: [u8; 32], nonce: [u8; NONCE], associated in prop::collection::vec(any::<u8>(), 0..48),
            plain in prop::collection::vec(any::<u8>(), 0..5000), flip: prop::sample::Index,
        ) {
            let ciphers = [Cipher::ring(&key), Cipher::aws_lc(&key)].map(|cipher| cipher.expect("a key's length"));
            let sealed = ciphers.each_ref().map(|cipher| {
                let mut bytes = plain.clone();
                let tag = cipher.seal(nonce, &associated, &mut bytes).expect("short");
                bytes.extend(tag);
                bytes
            });
            prop_assert_eq!(&sealed[0], &sealed[1]);
            for cipher in &ciphers {
                let mut opened = sealed[0].clone();
                prop_assert_eq!(cipher.open(nonce, &associated, &mut opened), Ok(()));
                prop_assert_eq!(&opened[..plain.len()], &plain[..]);
                let mut damaged = sealed[0].clone();
                let at = flip.index(damaged.len());
                damaged[at] ^= 1;
                prop_assert_eq!(cipher.open(nonce, &associated, &mut damaged), Err(NotAuthentic));
            }
        }
    }
}
