//! Field layout that trees, index segments, manifests, heads and a steward's state share: minimal LEB128 numbers,
//! length-prefixed bytes, raw 32-byte ids.
//!
//! Canonical: a value has exactly one encoding and the reader refuses every other one, so equal metadata gives
//! equal chunks. Bounded: a count is checked against its limit *and* against the bytes that are left before
//! anything is allocated, so a decoder never needs more than a small multiple of its input.

use crate::DecodeError;

/// Appends the fewest seven-bit groups, lowest first.
pub fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number with a sign: 0, -1, 1, -2 ... become 0, 1, 2, 3 ...
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_number(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends 0 for `None`, 1 and the value for `Some`.
pub fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put(out, value);
        }
    }
}

/// Reads fields off the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Of what it is, for the errors.
    #[must_use]
    pub const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, left: bytes }
    }

    /// Whether all was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The error that a field is out of its domain.
    #[must_use]
    pub const fn invalid(&self, why: &'static str) -> DecodeError {
        DecodeError::Invalid { what: self.what, why }
    }

    /// So many bytes as they are.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.left.split_at_checked(length) else {
            return Err(DecodeError::Truncated { what: self.what, needed: length, found: self.left.len() });
        };
        self.left = rest;
        Ok(head)
    }

    /// One byte.
    ///
    /// # Errors
    /// None is left.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        self.raw(1).map(|b| b[0])
    }

    /// So many bytes, copied.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0u8; N];
        out.copy_from_slice(self.raw(N)?);
        Ok(out)
    }

    /// A number at most `limit`, in its shortest form.
    ///
    /// # Errors
    /// Another form, more than the limit, or the bytes end.
    pub fn number(&mut self, limit: u64) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                return Err(self.invalid("a number over 64 bits"));
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift != 0 {
                    return Err(self.invalid("a number that is not in its shortest form"));
                }
                if value > limit {
                    let (limit, found) = (clamp(limit), clamp(value));
                    return Err(DecodeError::TooLarge { what: self.what, limit, found });
                }
                return Ok(value);
            }
        }
        Err(self.invalid("a number over 64 bits"))
    }

    /// A number with a sign.
    ///
    /// # Errors
    /// As [`Reader::number`].
    pub fn signed(&mut self) -> Result<i64, DecodeError> {
        let wide = self.number(u64::MAX)?;
        Ok((wide >> 1) as i64 ^ -((wide & 1) as i64))
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// As [`Reader::number`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.number(u32::MAX.into())? as u32)
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// As [`Reader::number`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.number(u64::MAX)
    }

    /// How many items follow, when each takes at least `each` bytes.
    ///
    /// # Errors
    /// More than the limit, or than the bytes that are left have room for.
    pub fn count(&mut self, limit: usize, each: usize) -> Result<usize, DecodeError> {
        let count = clamp(self.number(limit as u64)?);
        let needed = count.saturating_mul(each.max(1));
        if needed > self.left.len() {
            return Err(DecodeError::Truncated { what: self.what, needed, found: self.left.len() });
        }
        Ok(count)
    }

    /// A length up to `limit` and so many bytes.
    ///
    /// # Errors
    /// More than the limit, or fewer are left.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.count(limit, 1)?;
        self.raw(length)
    }

    /// As [`Reader::bytes`], in UTF-8.
    ///
    /// # Errors
    /// As that, or it is no text.
    pub fn text(&mut self, limit: usize) -> Result<String, DecodeError> {
        let bytes = self.bytes(limit)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.invalid("a text that is not UTF-8"))?;
        Ok(text.to_owned())
    }

    /// 0 or 1.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.invalid("a flag that is neither 0 nor 1")),
        }
    }

    /// A flag, and a value when it is set.
    ///
    /// # Errors
    /// No flag, or what `read` finds.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// The one version that is known.
    ///
    /// # Errors
    /// Another.
    pub fn version(&mut self, known: u8) -> Result<(), DecodeError> {
        if self.byte()? != known {
            return Err(self.invalid("unknown version"));
        }
        Ok(())
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// Something is.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.left.is_empty() { Ok(()) } else { Err(self.invalid("bytes after the end")) }
    }
}

/// Refuses a value over its limit, for encoders.
///
/// # Errors
/// It is over.
pub fn at_most(what: &'static str, limit: usize, found: usize) -> Result<(), DecodeError> {
    if found > limit { Err(DecodeError::TooLarge { what, limit, found }) } else { Ok(()) }
}

fn clamp(wide: u64) -> usize {
    usize::try_from(wide).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_number(&mut out, value);
            put_signed(&mut out, signed);
            let mut reader = Reader::new("test", &out);
            prop_assert_eq!(reader.u64(), Ok(value));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn a_number_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new("test", &bytes);
            if let Ok(value) = reader.u64() {
                let mut out = Vec::new();
                put_number(&mut out, value);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - reader.left.len()]);
            }
        }
    }

    #[test]
    fn counts_are_checked_against_what_is_left() {
        let mut out = Vec::new();
        put_number(&mut out, 1_000_000);
        out.extend_from_slice(&[0; 100]);
        assert!(Reader::new("test", &out).count(2_000_000, 32).is_err());
        assert!(Reader::new("test", &out).count(10, 0).is_err());
    }
}
