//! Large reads from a socket, from a buffer that is there only while much is coming.
//!
//! rustls asks the socket for 4 KiB at a time, so that a shard would cost 256 system calls. In between, this reads as much as
//! has come. A quiet connection has no buffer, a busy one of [`SCOOP_MAX`].

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// What is read at once: four TLS records.
pub(super) const SCOOP_MAX: usize = 64 << 10;
/// The first read after silence: most messages, and half of a handshake.
const SCOOP_MIN: usize = 2 << 10;

/// A socket with large reads. Writes pass through.
#[derive(Debug)]
pub(super) struct Scoop<S> {
    io: S,
    buffer: Vec<u8>,
    /// What waits in the buffer.
    from: usize,
    to: usize,
    /// Bytes read since nothing was there to read.
    since: usize,
}

impl<S> Scoop<S> {
    pub(super) const fn new(io: S) -> Self {
        Self { io, buffer: Vec::new(), from: 0, to: 0, since: 0 }
    }
}

impl<S: AsyncRead + Unpin> Scoop<S> {
    /// Reads into the empty buffer. One that was filled to the brim is larger the next time; after silence it is small again.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.to == self.buffer.len() {
            let larger = if self.buffer.is_empty() { SCOOP_MIN } else { SCOOP_MAX };
            if self.buffer.len() < larger {
                self.buffer = vec![0; larger];
            }
        }
        (self.from, self.to) = (0, 0);
        match Pin::new(&mut self.io).poll_read(cx, &mut self.buffer) {
            Poll::Ready(Ok(n)) => {
                self.to = n.min(self.buffer.len());
                self.since = self.since.saturating_add(self.to);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => {
                // A transfer pauses again and again and keeps it; a ping lets go of it.
                if self.since < SCOOP_MAX / 8 {
                    self.buffer = Vec::new();
                }
                self.since = 0;
                Poll::Pending
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Scoop<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.from == self.to {
            if bytes.len() >= SCOOP_MAX {
                return Pin::new(&mut self.io).poll_read(cx, bytes);
            }
            ready!(self.poll_fill(cx))?;
        }
        let n = bytes.len().min(self.to - self.from);
        bytes[..n].copy_from_slice(&self.buffer[self.from..self.from + n]);
        self.from += n;
        Poll::Ready(Ok(n))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Scoop<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt as _, task::noop_waker_ref};
    use proptest::prelude::*;

    use super::*;

    /// Gives what is there, in pieces of at most so much, and says "later" when it is told to.
    struct Source {
        bytes: Vec<u8>,
        at: usize,
        /// Sizes of what comes; zero is silence.
        comes: Vec<usize>,
        asked: Vec<usize>,
    }

    impl AsyncRead for Source {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
            self.asked.push(bytes.len());
            let left = self.bytes.len() - self.at;
            let most = if self.comes.is_empty() { left } else { self.comes.remove(0) };
            if most == 0 && left > 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let n = most.min(left).min(bytes.len());
            let at = self.at;
            bytes[..n].copy_from_slice(&self.bytes[at..at + n]);
            self.at += n;
            Poll::Ready(Ok(n))
        }
    }

    fn source(length: usize, comes: Vec<usize>) -> Scoop<Source> {
        let bytes = (0..length).map(|i| (i / 251) as u8).collect();
        Scoop::new(Source { bytes, at: 0, comes, asked: Vec::new() })
    }

    #[test]
    fn a_stream_is_read_in_large_pieces_and_silence_costs_no_buffer() {
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut io = source(1 << 20, vec![usize::MAX; 10].into_iter().chain([0, 40, 0]).collect());
        let mut bytes = [0; 4096];
        let mut got = 0;
        while let Poll::Ready(n) = Pin::new(&mut io).poll_read(&mut cx, &mut bytes) {
            got += n.expect("reads");
        }
        assert_eq!(got, SCOOP_MIN + 9 * SCOOP_MAX);
        assert_eq!(io.io.asked, [&[SCOOP_MIN][..], &[SCOOP_MAX; 10]].concat());
        assert_eq!(io.buffer.len(), SCOOP_MAX, "kept over a pause");
        assert!(Pin::new(&mut io).poll_read(&mut cx, &mut bytes).is_ready(), "something small");
        assert!(Pin::new(&mut io).poll_read(&mut cx, &mut bytes).is_pending());
        assert_eq!(io.buffer.capacity(), 0);
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order(
            length in 0usize..400_000,
            comes in proptest::collection::vec(0usize..100_000, 0..30),
            step in 1usize..100_000,
        ) {
            let mut io = source(length, comes);
            let mut got = Vec::new();
            futures::executor::block_on(async {
                let mut bytes = vec![0; step];
                loop {
                    let n = io.read(&mut bytes).await.expect("reads");
                    if n == 0 {
                        break;
                    }
                    got.extend_from_slice(&bytes[..n]);
                }
            });
            prop_assert!(got == io.io.bytes);
        }
    }
}
