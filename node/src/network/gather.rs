//! Small writes on a connection gathered into large ones.
//!
//! yamux writes a frame as a header of 12 bytes and a body of at most 16 KiB, and flushes after each frame. Straight into TLS
//! that makes two records and two system calls a frame, and a shard costs 128 of them. In between, this collects what is
//! written in one turn of the connection's task: a flush that follows a write is put off until the task has been polled
//! again (it wakes itself), and only then, or when the buffer is full, does anything go down. A lone small frame waits for
//! one turn of the scheduler, not for a timer.
//!
//! Reading has turns too. The connection's task would decrypt for as long as the socket has bytes, megabytes at a time, and
//! whoever reads its streams would find them gone from the processor's cache, where one turn fits.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// Bytes gathered at most: four TLS records, one segment of the loopback device. The buffer grows to it as it is needed, and
/// is held only while something waits: a lone small frame on each of a thousand connections costs no 64 MiB.
pub(super) const GATHER_MAX: usize = 64 << 10;

/// Bytes read before the readers of the streams get their turn: with their copies, what the second cache of a small
/// processor holds.
const TURN: usize = 128 << 10;

/// A connection with gathered writes and with turns in its reads.
#[derive(Debug)]
pub(super) struct Gather<S> {
    io: S,
    buffer: Vec<u8>,
    /// So much of the buffer has gone down.
    sent: usize,
    /// Something was written since the last flush was asked for.
    written: bool,
    /// Bytes read in this turn.
    read: usize,
}

impl<S> Gather<S> {
    pub(super) const fn new(io: S) -> Self {
        Self { io, buffer: Vec::new(), sent: 0, written: false, read: 0 }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        self.buffer.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.buffer.len() == GATHER_MAX {
            ready!(self.drain(cx))?;
        }
        let taken = bytes.len().min(GATHER_MAX - self.buffer.len());
        let needed = self.buffer.len() + taken;
        if needed > self.buffer.capacity() {
            let more = needed.next_power_of_two().min(GATHER_MAX) - self.buffer.len();
            self.buffer.reserve_exact(more);
        }
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.written = true;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.written) && self.buffer.len() < GATHER_MAX {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Kept between large batches; the first small one, a ping at the latest, lets go of it.
        let small = (1..=GATHER_MAX / 2).contains(&self.buffer.len());
        ready!(self.drain(cx))?;
        if small {
            self.buffer = Vec::new();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.read >= TURN {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut self.io).poll_read(cx, bytes) {
            Poll::Ready(Ok(n)) => {
                self.read += n;
                Poll::Ready(Ok(n))
            }
            other => {
                self.read = 0;
                other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncWriteExt as _, task::noop_waker_ref};
    use proptest::prelude::*;

    use super::*;

    /// Takes at most `most` bytes a write, and none each second time.
    #[derive(Default)]
    struct Sink {
        got: Vec<u8>,
        writes: usize,
        flushes: usize,
        most: usize,
        stutters: bool,
        closed: bool,
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            if self.stutters && self.writes.is_multiple_of(2) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.most);
            self.got.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    fn sink() -> Sink {
        Sink { most: usize::MAX, ..Sink::default() }
    }

    #[test]
    fn frames_of_one_turn_go_down_together() {
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut io = Gather::new(sink());
        assert!(Pin::new(&mut io).poll_write(&mut cx, &[1; 12]).is_ready());
        assert!(io.buffer.capacity() <= 64, "no more than is asked: {}", io.buffer.capacity());
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending());
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
        io.io = sink();
        for _ in 0..3 {
            // As yamux does: header, body, flush.
            for part in [&[1u8; 12][..], &[2; 16 << 10]] {
                assert!(Pin::new(&mut io).poll_write(&mut cx, part).is_ready());
            }
            assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending(), "put off");
        }
        assert_eq!(io.io.writes, 0);
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready(), "nothing came since: now it goes");
        assert_eq!((io.io.writes, io.io.got.len(), io.io.flushes), (1, 3 * (12 + (16 << 10)), 1));
        assert_eq!(io.buffer.capacity(), GATHER_MAX, "kept for the next large batch");
        assert!(Pin::new(&mut io).poll_write(&mut cx, &[1; 12]).is_ready());
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_pending());
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
        assert_eq!(io.buffer.capacity(), 0, "a quiet connection holds no buffer");
        // A full buffer waits for nobody.
        let rest = vec![3; GATHER_MAX];
        assert!(Pin::new(&mut io).poll_write(&mut cx, &rest).is_ready());
        assert_eq!(io.buffer.capacity(), GATHER_MAX);
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
        assert_eq!(io.io.writes, 3);
    }

    #[test]
    fn who_waits_for_a_flush_gets_it() {
        // An executor that polls only when woken: the put-off flush must wake its task.
        futures::executor::block_on(async {
            let mut io = Gather::new(sink());
            io.write_all(b"hello").await.expect("writes");
            io.flush().await.expect("flushes");
            assert_eq!(io.io.got, b"hello");
            io.write_all(b" there").await.expect("writes");
            io.close().await.expect("closes");
            assert_eq!(io.io.got, b"hello there");
            assert!(io.io.closed);
        });
    }

    #[test]
    fn an_end_that_takes_nothing_is_an_error() {
        let mut io = Gather::new(Sink { most: 0, ..Sink::default() });
        let done = async { io.write_all(b"x").await.and(io.flush().await) };
        assert_eq!(futures::executor::block_on(done).expect_err("refused").kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn reads_have_turns() {
        let wanted: Vec<u8> = (0..3 * TURN + 77).map(|i| (i / 251) as u8).collect();
        let mut io = Gather::new(futures::io::AllowStdIo::new(&wanted[..]));
        let (mut cx, mut turns, mut got) = (Context::from_waker(noop_waker_ref()), Vec::new(), Vec::new());
        let (mut bytes, mut this_turn) = ([0; 16 << 10], 0);
        loop {
            match Pin::new(&mut io).poll_read(&mut cx, &mut bytes) {
                Poll::Ready(n) => {
                    let n = n.expect("reads");
                    got.extend_from_slice(&bytes[..n]);
                    this_turn += n;
                    if n == 0 {
                        break;
                    }
                }
                Poll::Pending => turns.push(std::mem::take(&mut this_turn)),
            }
        }
        assert_eq!((turns, this_turn), (vec![TURN; 3], 77));
        assert!(got == wanted);
        // An executor that polls only when woken: a turn that ends must wake its task.
        let mut io = Gather::new(futures::io::AllowStdIo::new(&wanted[..]));
        let mut got = Vec::new();
        futures::executor::block_on(futures::AsyncReadExt::read_to_end(&mut io, &mut got)).expect("reads");
        assert!(got == wanted);
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order(
            parts in proptest::collection::vec((0usize..40_000, any::<bool>()), 0..30),
            most in 1usize..100_000,
            stutters: bool,
        ) {
            let mut wanted = Vec::new();
            let mut io = Gather::new(Sink { most, stutters, ..Sink::default() });
            futures::executor::block_on(async {
                for (i, (length, flush)) in parts.into_iter().enumerate() {
                    let part = vec![i as u8; length];
                    io.write_all(&part).await.expect("writes");
                    wanted.extend(part);
                    if flush {
                        io.flush().await.expect("flushes");
                        assert_eq!(io.io.got.len(), wanted.len());
                    }
                }
                io.close().await.expect("closes");
            });
            prop_assert_eq!(&io.io.got, &wanted);
        }
    }
}
