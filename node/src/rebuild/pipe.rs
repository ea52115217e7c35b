//! Messages and slices on a stream, each with a deadline.

use std::{io, time::Duration};

use cairn_core::blind::{SLICE_SIZE, SLICES, wire::Message};
use cairn_proto::DecodeError;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Pipe;

/// Slices that may be under way to the next party without its word that it took them. 512 KiB fill 40 Mbit/s at 100 ms round trip;
/// a stream takes more without a reader, so only the word shows that somebody still takes.
const WINDOW: usize = 8;
/// Bytes a second that a first message comes with at least, 64 kbit/s: an invitation may have hundreds of KiB.
const LEAST_RATE: u64 = 8 * 1024;
/// The word.
const TAKEN: u8 = 1;

/// Why a stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum PipeError {
    /// It ended or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not what belongs there.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Nothing in time.
    #[error("nothing came, or nothing was taken, in time")]
    TimedOut,
}

async fn within<T>(time: Duration, work: impl Future<Output = Result<T, PipeError>>) -> Result<T, PipeError> {
    tokio::time::timeout(time, work).await.unwrap_or(Err(PipeError::TimedOut))
}

/// Sends a message: its length, u32 LE, and its bytes.
pub(super) async fn send(pipe: &mut Pipe, message: &Message, time: Duration) -> Result<(), PipeError> {
    let body = message.encode()?;
    let mut bytes = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    within(time, async {
        pipe.write_all(&bytes).await?;
        Ok(pipe.flush().await?)
    })
    .await
}

/// Takes a message of at most so many bytes; memory grows with what comes, not with what is announced.
pub(super) async fn receive(pipe: &mut Pipe, limit: usize, time: Duration) -> Result<Message, PipeError> {
    within(time, async {
        let length = length(pipe, limit).await?;
        body(pipe, length).await
    })
    .await
}

/// The first message of a stream that somebody opened: begun within `time`, and as much again and [`LEAST_RATE`] for what it has.
pub(super) async fn first(pipe: &mut Pipe, limit: usize, time: Duration) -> Result<Message, PipeError> {
    let length = within(time, length(pipe, limit)).await?;
    within(time + Duration::from_secs(length as u64 / LEAST_RATE), body(pipe, length)).await
}

async fn length(pipe: &mut Pipe, limit: usize) -> Result<usize, PipeError> {
    let mut length = [0; 4];
    pipe.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(DecodeError::TooLarge { what: "rebuild message", limit, found: length }.into());
    }
    Ok(length)
}

async fn body(pipe: &mut Pipe, length: usize) -> Result<Message, PipeError> {
    let mut bytes = Vec::new();
    if (&mut *pipe).take(length as u64).read_to_end(&mut bytes).await? < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Message::decode(&bytes)?)
}

/// Waits until the other side ends a stream on which it has nothing more to say.
pub(super) async fn ended(pipe: &mut Pipe) {
    let _ = pipe.read(&mut [0]).await;
}

/// Slices from the one before.
pub(super) struct Incoming(pub(super) Pipe);

impl Incoming {
    /// The next slice, and our word that it came.
    pub(super) async fn slice(&mut self, into: &mut [u8], time: Duration) -> Result<(), PipeError> {
        within(time, async {
            self.0.read_exact(into).await?;
            self.0.write_all(&[TAKEN]).await?;
            Ok(self.0.flush().await?)
        })
        .await
    }

    /// Ends it in order, so that the last word arrives. Nobody waits for it longer than that.
    pub(super) async fn finish(mut self, time: Duration) {
        let _ = within(time, async { Ok(self.0.close().await?) }).await;
    }
}

/// Slices to the next one.
pub(super) struct Outgoing {
    pipe: Pipe,
    sent: usize,
    taken: usize,
}

impl Outgoing {
    pub(super) const fn new(pipe: Pipe) -> Self {
        Self { pipe, sent: 0, taken: 0 }
    }

    /// Sends the next slice.
    pub(super) async fn slice(&mut self, bytes: &[u8], time: Duration) -> Result<(), PipeError> {
        debug_assert!(bytes.len() == SLICE_SIZE && self.sent < SLICES);
        while self.sent - self.taken >= WINDOW {
            self.word(time).await?;
        }
        within(time, async {
            self.pipe.write_all(bytes).await?;
            Ok(self.pipe.flush().await?)
        })
        .await?;
        self.sent += 1;
        Ok(())
    }

    /// Waits until all was taken.
    pub(super) async fn finish(mut self, time: Duration) -> Result<(), PipeError> {
        while self.taken < self.sent {
            self.word(time).await?;
        }
        Ok(())
    }

    async fn word(&mut self, time: Duration) -> Result<(), PipeError> {
        within(time, async {
            let mut word = [0];
            self.pipe.read_exact(&mut word).await?;
            if word != [TAKEN] {
                return Err(DecodeError::Invalid { what: "word of a slice", why: "another byte" }.into());
            }
            Ok(())
        })
        .await?;
        self.taken += 1;
        Ok(())
    }
}
