//! Bytes of what opens a group at a holder: an order's credentials, a watching steward's pass.
//!
//! Credentials: version `1` · bytes mandate · list of bytes certificate (changes) · bytes certificate. Pass: version `2` · bytes mandate ·
//! list of bytes certificate (changes). Numbers in minimal LEB128.

use cairn_proto::{
    Certificate, DecodeError,
    layout::{Reader, at_most, put_bytes, put_number},
    mandate::{MANDATE_MAX, STEWARDS_MAX},
    order::{CERTIFICATE_MAX, CHANGES_MAX},
};

use super::{Credentials, Pass};

/// Most bytes of a change of stewards: an order that names two peers, and seven signatures.
const CHANGE_MAX: usize = 192 + 96 * STEWARDS_MAX;
/// Most bytes of credentials: mandate, every change that there may be, and one order.
pub const CREDENTIALS_MAX: usize = PASS_MAX + 2 + CERTIFICATE_MAX;
/// Most bytes of a pass: mandate and every change that there may be.
pub const PASS_MAX: usize = 4 + MANDATE_MAX + CHANGES_MAX * (2 + CHANGE_MAX);

const CREDENTIALS: (&str, u8) = ("credentials", 1);
const PASS: (&str, u8) = ("steward's pass", 2);

fn put(version: u8, mandate: &[u8], changes: &[Certificate]) -> Result<Vec<u8>, DecodeError> {
    at_most("changes of stewards", CHANGES_MAX, changes.len())?;
    let mut out = vec![version];
    put_bytes(&mut out, mandate);
    put_number(&mut out, changes.len() as u64);
    for change in changes {
        put_bytes(&mut out, &change.encode()?);
    }
    Ok(out)
}

fn read(r: &mut Reader<'_>, version: u8) -> Result<(Vec<u8>, Vec<Certificate>), DecodeError> {
    r.version(version)?;
    let mandate = r.bytes(MANDATE_MAX)?.to_vec();
    let count = r.count(CHANGES_MAX, 1)?;
    let changes = (0..count).map(|_| Certificate::decode(r.bytes(CHANGE_MAX)?)).collect::<Result<_, _>>()?;
    Ok((mandate, changes))
}

impl Credentials {
    /// The bytes, at most [`CREDENTIALS_MAX`].
    ///
    /// # Errors
    /// A part over its limit or out of its domain.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = put(CREDENTIALS.1, &self.mandate, &self.changes)?;
        put_bytes(&mut out, &self.certificate.encode()?);
        at_most(CREDENTIALS.0, CREDENTIALS_MAX, out.len())?;
        Ok(out)
    }

    /// Reads them; nothing in them may be believed before [`Credentials::check`].
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(CREDENTIALS.0, CREDENTIALS_MAX, bytes.len())?;
        let mut r = Reader::new(CREDENTIALS.0, bytes);
        let (mandate, changes) = read(&mut r, CREDENTIALS.1)?;
        let certificate = Certificate::decode(r.bytes(CERTIFICATE_MAX)?)?;
        r.finish()?;
        Ok(Self { mandate, changes, certificate })
    }
}

impl Pass {
    /// The bytes of a pass of these, at most [`PASS_MAX`].
    ///
    /// # Errors
    /// A part over its limit or out of its domain.
    pub fn encode(mandate: &[u8], changes: &[Certificate]) -> Result<Vec<u8>, DecodeError> {
        let out = put(PASS.1, mandate, changes)?;
        at_most(PASS.0, PASS_MAX, out.len())?;
        Ok(out)
    }

    /// Reads it; nothing in it may be believed before [`Pass::may_watch`].
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(PASS.0, PASS_MAX, bytes.len())?;
        let mut r = Reader::new(PASS.0, bytes);
        let (mandate, changes) = read(&mut r, PASS.1)?;
        r.finish()?;
        Ok(Self { mandate, changes })
    }
}
