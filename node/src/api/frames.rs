//! Frames for bodies that carry a stream: one byte kind, four bytes length (little endian), the payload.
//!
//! A stream is complete only when its [`Frame::End`] came. A body that just stops, because a pipe broke or a client
//! was killed, is a failed stream and never becomes a snapshot.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use zeroize::Zeroize as _;

use super::secret::{self, SecretBytes};

/// Most bytes of a frame's payload. Senders cut their data to it; a longer one is refused before it is read.
pub const FRAME_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of a line: a row that repeats a request of the greatest size, some times over for its keys and escapes.
pub const LINE_MAX: usize = 4 * super::REQUEST_MAX;
const HEAD: usize = 5;
/// The kind of a request, which may hold a passphrase.
const REQUEST: u8 = 0;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// JSON of a [`super::VerbRequest`]; the first frame of an upload.
    Request(SecretBytes),
    /// Bytes of the stream.
    Data(Bytes),
    /// The stream is complete.
    End,
    /// The stream failed; why.
    Failed(String),
    /// JSON of an event.
    Event(Bytes),
    /// JSON of a [`super::FinalLine`]; the last frame of a download.
    Outcome(Bytes),
}

/// Bytes that are no frames.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that does not exist.
    #[error("unknown kind of frame: {0}")]
    UnknownKind(u8),
    /// Over [`FRAME_MAX`].
    #[error("a frame of {0} bytes is over the limit")]
    TooLong(usize),
}

impl Frame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Request(b) => (REQUEST, b),
            Self::Data(b) => (1, b),
            Self::End => (2, &[]),
            Self::Failed(why) => (3, why.as_bytes()),
            Self::Event(b) => (4, b),
            Self::Outcome(b) => (5, b),
        };
        let payload = &payload[..payload.len().min(FRAME_MAX)];
        if kind == REQUEST {
            let mut out = SecretBytes::default();
            out.push(&[kind]);
            out.push(&(payload.len() as u32).to_le_bytes());
            out.push(payload);
            return out.into();
        }
        let mut out = BytesMut::with_capacity(HEAD + payload.len());
        out.put_u8(kind);
        out.put_u32_le(payload.len() as u32);
        out.put_slice(payload);
        out.freeze()
    }
}

/// Cuts pieces of a body, as they come, into frames. What it holds of a request is wiped when it grows and when it goes.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.reserve(piece.len());
        self.buffer.extend_from_slice(piece);
    }

    fn reserve(&mut self, more: usize) {
        let needed = self.buffer.len() + more;
        if !self.is_request() {
            self.buffer.reserve(more);
        } else if needed > self.buffer.capacity() {
            self.buffer = secret::moved(&mut self.buffer, needed.next_power_of_two());
        }
    }

    fn is_request(&self) -> bool {
        self.buffer.first() == Some(&REQUEST)
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no frames; nothing after them can be trusted.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.len() < HEAD {
            return Ok(None);
        }
        let kind = self.buffer[0];
        if kind > 5 {
            return Err(FrameError::UnknownKind(kind));
        }
        let length = u32::from_le_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        if length > FRAME_MAX {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < HEAD + length {
            self.reserve(HEAD + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        if kind == REQUEST {
            return Ok(Some(Frame::Request(SecretBytes::take_from(&mut self.buffer, length))));
        }
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(match kind {
            1 => Frame::Data(payload),
            2 => Frame::End,
            3 => Frame::Failed(String::from_utf8_lossy(&payload).into_owned()),
            4 => Frame::Event(payload),
            _ => Frame::Outcome(payload),
        }))
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        if self.is_request() {
            self.buffer.as_mut().zeroize();
        }
    }
}

/// Cuts pieces of a body into lines, for answers in JSON lines.
#[derive(Debug, Default)]
pub struct LineReader {
    buffer: BytesMut,
    /// So many bytes at its beginning hold no line break: a long line is looked through once, not once for each piece.
    seen: usize,
}

impl LineReader {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next line that is not empty (empty ones only keep the connection alive); `None` when more bytes are needed.
    ///
    /// # Errors
    /// A line over [`LINE_MAX`]; nothing after it can be trusted.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let Some(end) = self.buffer.iter().skip(self.seen).position(|b| *b == b'\n') else {
                self.seen = self.buffer.len();
                return if self.seen > LINE_MAX { Err(FrameError::TooLong(self.seen)) } else { Ok(None) };
            };
            let line = self.buffer.split_to(self.seen + end).freeze();
            self.buffer.advance(1);
            self.seen = 0;
            match line.len() {
                0 => {}
                long if long > LINE_MAX => return Err(FrameError::TooLong(long)),
                _ => return Ok(Some(line)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(frames: &[Frame], cut: usize) -> Result<Vec<Frame>, FrameError> {
        let bytes: Vec<u8> = frames.iter().flat_map(|f| f.encode().to_vec()).collect();
        let mut reader = FrameReader::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(cut) {
            reader.push(piece);
            while let Some(frame) = reader.next_frame()? {
                out.push(frame);
            }
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(data: Vec<Vec<u8>>, cut in 1usize..40, why: String) {
            let mut frames: Vec<Frame> = data.into_iter().map(|d| Frame::Data(d.into())).collect();
            frames.push(Frame::Failed(why.clone()));
            frames.push(Frame::Request(why.into_bytes().into()));
            frames.push(Frame::End);
            prop_assert_eq!(all(&frames, cut), Ok(frames));
        }

        #[test]
        fn junk_never_panics(bytes: Vec<u8>) {
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut reader = FrameReader::default();
        reader.push(&[1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reader.next_frame(), Err(FrameError::TooLong(0xffff_ffff)));
        let mut reader = FrameReader::default();
        reader.push(&[9, 0, 0, 0, 0]);
        assert_eq!(reader.next_frame(), Err(FrameError::UnknownKind(9)));
    }

    #[test]
    fn empty_lines_are_skipped() {
        let mut reader = LineReader::default();
        reader.push(b"\n\nab");
        let mut next = |piece: &[u8]| {
            reader.push(piece);
            reader.next_line().map(|line| line.map(|l| l.to_vec()))
        };
        assert_eq!(next(b""), Ok(None));
        assert_eq!(next(b"c\n\nd\n"), Ok(Some(b"abc".to_vec())));
        assert_eq!(next(b""), Ok(Some(b"d".to_vec())));
        assert_eq!(next(b""), Ok(None));
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let piece = vec![b'x'; 1 << 20];
        let mut reader = LineReader::default();
        let pieces = (0..1000).find(|_| {
            reader.push(&piece);
            reader.next_line() != Ok(None)
        });
        assert_eq!(pieces, Some(LINE_MAX >> 20), "one piece over the limit");
        assert!(matches!(reader.next_line(), Err(FrameError::TooLong(_))));
    }
}
