//! An order that we, the new holder, were given, as bytes: it survives a restart until it is answered.
//!
//! ```text
//! previous 32, then with its length (u32, little endian) each: sheet, mandate, certificate, our word when it is given (else empty),
//! count of changes (u8), each change
//! ```

use cairn_core::part::Credentials;
use cairn_proto::{Certificate, DecodeError, mandate::MANDATE_MAX, order::CHANGES_MAX};

const WHAT: &str = "order under way";

/// What a steward gave us, and what we answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) credentials: Credentials,
    pub(super) sheet: Vec<u8>,
    pub(super) previous: [u8; 32],
    /// Our signed word that we have it, once we do: it is given once, so that all stewards have the same.
    pub(super) sealed: Option<Vec<u8>>,
}

impl Given {
    /// The bytes.
    ///
    /// # Errors
    /// A certificate that cannot be encoded.
    pub(super) fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = self.previous.to_vec();
        put(&mut out, &self.sheet);
        put(&mut out, &self.credentials.mandate);
        put(&mut out, &self.credentials.certificate.encode()?);
        put(&mut out, self.sealed.as_deref().unwrap_or_default());
        let changes = &self.credentials.changes;
        if changes.len() > CHANGES_MAX || self.credentials.mandate.len() > MANDATE_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: CHANGES_MAX, found: changes.len() });
        }
        out.push(changes.len() as u8);
        for change in changes {
            put(&mut out, &change.encode()?);
        }
        Ok(out)
    }

    /// Reads what [`Given::encode`] gave; nothing in it is believed before it is checked again.
    ///
    /// # Errors
    /// The first rule broken.
    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = &mut bytes;
        let mut previous = [0; 32];
        previous.copy_from_slice(take(bytes, 32)?);
        let sheet = block(bytes)?.to_vec();
        let mandate = block(bytes)?.to_vec();
        let certificate = Certificate::decode(block(bytes)?)?;
        let sealed = Some(block(bytes)?.to_vec()).filter(|sealed| !sealed.is_empty());
        let count = usize::from(take(bytes, 1)?[0]);
        let changes = (0..count).map(|_| Certificate::decode(block(bytes)?)).collect::<Result<_, _>>()?;
        if !bytes.is_empty() {
            return Err(DecodeError::Invalid { what: WHAT, why: "bytes after the end" });
        }
        Ok(Self { credentials: Credentials { mandate, changes, certificate }, sheet, previous, sealed })
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // Nothing here is longer than a sheet.
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], DecodeError> {
    let short = DecodeError::Truncated { what: WHAT, needed: count, found: bytes.len() };
    let (first, rest) = bytes.split_at_checked(count).ok_or(short)?;
    *bytes = rest;
    Ok(first)
}

fn block<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let mut length = [0; 4];
    length.copy_from_slice(take(bytes, 4)?);
    take(bytes, u32::from_le_bytes(length) as usize)
}
