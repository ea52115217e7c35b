//! Bytes that may hold a passphrase or the 24 words on their way through the control socket.
//!
//! What is ours is wiped when it is dropped, and when it moves to grow. What is not ours cannot be: hyper's buffers for
//! reading and writing, the kernel's of the socket, and what serde_json holds of a text with escapes while it reads it.

use bytes::{BufMut as _, Bytes, BytesMut};
use zeroize::{Zeroize as _, Zeroizing};

/// A buffer's bytes in one with more room; they are wiped where they were.
pub(super) fn moved(buffer: &mut BytesMut, capacity: usize) -> BytesMut {
    let mut grown = BytesMut::with_capacity(capacity.max(buffer.len()));
    grown.put_slice(buffer);
    buffer.as_mut().zeroize();
    grown
}

/// Bytes that leave no copy behind.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// A value's JSON.
    ///
    /// # Errors
    /// The value cannot be written as JSON.
    pub fn json(value: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        let mut this = Self::default();
        serde_json::to_writer(&mut this, value).map(|()| this)
    }

    /// Takes the first bytes of a buffer out of it, and wipes them there.
    pub(super) fn take_from(buffer: &mut BytesMut, length: usize) -> Self {
        Self::moved_out_of(&mut buffer.split_to(length))
    }

    fn moved_out_of(bytes: &mut [u8]) -> Self {
        let this = Self::from(bytes.to_vec());
        bytes.zeroize();
        this
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let needed = self.0.len() + piece.len();
        if needed > self.0.capacity() {
            let mut grown = Vec::with_capacity(needed.next_power_of_two());
            grown.put_slice(&self.0);
            // The old one is wiped as it goes.
            self.0 = Zeroizing::new(grown);
        }
        self.0.put_slice(piece);
    }
}

impl std::ops::Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

/// Wiped when the last handle of the result is dropped.
impl From<SecretBytes> for Bytes {
    fn from(secret: SecretBytes) -> Self {
        Self::from_owner(secret)
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretBytes({})", self.0.len())
    }
}

impl std::io::Write for SecretBytes {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        self.push(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_of_a_buffer_is_wiped_there() {
        let mut bytes = *b"secretrest";
        let secret = SecretBytes::moved_out_of(&mut bytes[..6]);
        assert_eq!((&*secret, &bytes), (&b"secret"[..], b"\0\0\0\0\0\0rest"));
        let mut buffer = BytesMut::from(&b"secretrest"[..]);
        assert_eq!(SecretBytes::take_from(&mut buffer, 6), secret);
        assert_eq!(*buffer, b"rest"[..]);
        let grown = moved(&mut buffer, 100);
        assert_eq!((&*grown, &*buffer), (&b"rest"[..], &b"\0\0\0\0"[..]));
        assert!(grown.capacity() >= 100);
    }

    #[test]
    fn it_grows_without_losing_anything() {
        let mut secret = SecretBytes::default();
        let whole: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        whole.chunks(777).for_each(|piece| secret.push(piece));
        assert_eq!(*secret, whole[..]);
        assert_eq!(format!("{secret:?}"), "SecretBytes(100000)");
        let text = crate::ops::SecretText::new("tea, \"milk\"".into());
        assert_eq!(&*SecretBytes::json(&text).expect("JSON"), br#""tea, \"milk\"""#);
    }
}
