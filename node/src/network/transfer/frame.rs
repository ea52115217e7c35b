//! Frames on a stream: read with lengths checked before memory is taken, written without copying the payload.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cairn_core::shard_buffer::ShardBuffer;
use cairn_proto::{
    DecodeError, SHARD_SIZE,
    wire::{FRAME_HEADER_SIZE, FrameHeader, FrameKind, Priority},
};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::{
    courtesy::Meter,
    store::{Arriving, ShardBytes},
};

/// Bytes moved between two marks of progress: small enough that 15 s of silence means something on a slow line.
pub(crate) const STEP: usize = 64 * 1024;

/// A frame in memory.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) priority: Priority,
    pub(crate) request: u32,
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Bytes,
}

impl Frame {
    pub(crate) fn header(&self) -> FrameHeader {
        FrameHeader {
            kind: self.kind,
            priority: self.priority,
            head_len: u16::try_from(self.head.len()).unwrap_or(u16::MAX),
            request: self.request,
            payload_len: u32::try_from(self.payload.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream ended or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no frame of the protocol.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A frame was begun and not finished in time.
    #[error("a frame was begun and not finished in time")]
    Stalled,
}

/// When bytes last moved on a stream. Shared by its reader, its writer and those who wait for answers.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    last_ms: AtomicU64,
    /// Counts the payloads that are written.
    meter: Option<Arc<Meter>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self::metered(None)
    }

    /// What is written counts as what our line carries.
    pub(crate) fn metered(meter: Option<Arc<Meter>>) -> Self {
        Self { start: Instant::now(), last_ms: AtomicU64::new(0), meter }
    }

    pub(crate) fn mark(&self) {
        self.last_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The last time that bytes moved.
    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// Reads and checks a header. `Ok(None)` when the stream ends between frames.
pub(crate) async fn read_header<R: AsyncRead + Unpin>(
    io: &mut R,
    frame_time: Duration,
) -> Result<Option<FrameHeader>, FrameError> {
    let mut bytes = [0u8; FRAME_HEADER_SIZE];
    if io.read(&mut bytes[..1]).await? == 0 {
        return Ok(None);
    }
    within(frame_time, async { Ok(io.read_exact(&mut bytes[1..]).await?) }).await?;
    Ok(Some(FrameHeader::decode(&bytes)?))
}

/// Reads exactly `length` bytes. The caller has checked the length and holds the memory permit.
pub(crate) async fn read_bytes<R: AsyncRead + Unpin>(
    io: &mut R,
    length: usize,
    progress: &Progress,
) -> Result<Bytes, FrameError> {
    if length == SHARD_SIZE {
        let mut buffer = ShardBuffer::take();
        fill(io, &mut buffer, progress).await?;
        return Ok(buffer.freeze());
    }
    let mut bytes = vec![0u8; length];
    fill(io, &mut bytes, progress).await?;
    Ok(bytes.into())
}

/// Reads one shard; its sums are taken as it comes. The caller holds the memory permit.
pub(crate) async fn read_shard<R: AsyncRead + Unpin>(
    io: &mut R,
    progress: &Progress,
) -> Result<ShardBytes, FrameError> {
    let mut arriving = Arriving::default();
    loop {
        let rest = arriving.rest();
        if rest.is_empty() {
            break;
        }
        let n = io.read(rest).await?;
        if n == 0 {
            break;
        }
        progress.mark();
        arriving.came(n);
    }
    Ok(arriving.finish().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?)
}

async fn fill<R: AsyncRead + Unpin>(io: &mut R, mut rest: &mut [u8], progress: &Progress) -> Result<(), FrameError> {
    while !rest.is_empty() {
        let n = io.read(rest).await?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        progress.mark();
        rest = &mut rest[n..];
    }
    Ok(())
}

/// Reads `length` bytes away, to stay in step after a refusal, with a small buffer whatever the length.
pub(crate) async fn drain<R: AsyncRead + Unpin>(io: &mut R, length: usize) -> Result<(), FrameError> {
    let mut scratch = [0u8; 8 * 1024];
    let mut left = length;
    while left > 0 {
        let want = left.min(scratch.len());
        let n = io.read(&mut scratch[..want]).await?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        left -= n;
    }
    Ok(())
}

/// Writes a frame; the caller flushes when it has nothing more to write.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    io: &mut W,
    frame: &Frame,
    progress: &Progress,
) -> io::Result<()> {
    write_front(io, frame, progress).await?;
    write_payload(io, &frame.payload, progress).await
}

/// Writes what stands before a frame's payload.
pub(crate) async fn write_front<W: AsyncWrite + Unpin>(
    io: &mut W,
    frame: &Frame,
    progress: &Progress,
) -> io::Result<()> {
    let mut front = Vec::with_capacity(FRAME_HEADER_SIZE + frame.head.len());
    front.extend_from_slice(&frame.header().encode());
    front.extend_from_slice(&frame.head);
    io.write_all(&front).await?;
    progress.mark();
    Ok(())
}

/// Writes a payload, or a part of it.
pub(crate) async fn write_payload<W: AsyncWrite + Unpin>(
    io: &mut W,
    payload: &[u8],
    progress: &Progress,
) -> io::Result<()> {
    let _under_way = progress.meter.as_ref().filter(|_| !payload.is_empty()).map(|meter| meter.begin());
    for step in payload.chunks(STEP) {
        io.write_all(step).await?;
        progress.mark();
        if let Some(meter) = &progress.meter {
            meter.went(step.len());
        }
    }
    Ok(())
}

/// Gives a part of a frame so much time.
pub(crate) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, FrameError> {
    tokio::time::timeout(time, work).await.unwrap_or(Err(FrameError::Stalled))
}

/// Gives a part of a frame so much time in all, and ends it earlier when no byte moves for `stall`.
pub(crate) async fn moving<T>(
    time: Duration,
    stall: Duration,
    progress: &Progress,
    work: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, FrameError> {
    progress.mark();
    let stalled = async {
        loop {
            let until = progress.last() + stall;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    };
    tokio::select! {
        biased;
        done = within(time, work) => done,
        () = stalled => Err(FrameError::Stalled),
    }
}
