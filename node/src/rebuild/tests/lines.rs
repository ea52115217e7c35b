//! Streams that are listened to, garbled or slow.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use cairn_proto::{Domain, PeerKey, Timestamp};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, FutureExt as _, future::BoxFuture};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, Sleep},
};

use super::super::*;
use crate::{network::NetworkHandle, overlay::TransferError};

/// Everything that went over a stream one way.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) from: PeerKey,
    pub(super) to: PeerKey,
    pub(super) bytes: Vec<u8>,
}

/// What one listener hears of all streams.
pub(super) type Tape = Arc<Mutex<Vec<Recorded>>>;

/// What a node's lines are like.
#[derive(Clone, Default)]
pub(super) struct Kind {
    /// Where its words are recorded.
    pub(super) tape: Option<Tape>,
    /// One byte of the slices that it sends on is changed by this; zero: none. Two that change it in the same way would make it right again.
    pub(super) garbles: u8,
    /// ... of so many links; none: of all.
    pub(super) lies: Option<Arc<AtomicUsize>>,
    /// So many links to the next break off at their first word.
    pub(super) breaks: Option<Arc<AtomicUsize>>,
    /// What comes in is delayed.
    pub(super) slow: Option<Slow>,
    /// How it is used.
    pub(super) courtesy: Option<Courtesy>,
}

/// How long bytes are under way to a node, and how many come in at a time.
#[derive(Clone)]
pub(super) struct Slow {
    pub(super) delay: Duration,
    /// Bytes a second of all streams together; none: any number.
    pub(super) rate: Option<u64>,
    /// When the line is free again.
    pub(super) free: Arc<Mutex<Instant>>,
}

/// A node's network with lines of a kind.
pub(super) struct Lines {
    pub(super) handle: NetworkHandle,
    pub(super) kind: Kind,
}

impl Lines {
    fn wrap(&self, to: PeerKey, pipe: Pipe, is_opened: bool) -> Pipe {
        self.kind.wrap(self.handle.me_as_peer(), to, pipe, is_opened)
    }
}

impl Kind {
    /// `is_opened`: by us, so that a link begins with our words.
    pub(super) fn wrap(&self, from: PeerKey, to: PeerKey, pipe: Pipe, is_opened: bool) -> Pipe {
        let pipe = match &self.slow {
            Some(slow) => Box::new(Delayed::new(pipe, slow.clone())) as Pipe,
            None => pipe,
        };
        let record = self.tape.as_ref().map(|tape| {
            let mut recorded = tape.lock().expect("lock");
            recorded.push(Recorded { from, to, bytes: Vec::new() });
            (tape.clone(), recorded.len() - 1)
        });
        let breaks = self.breaks.clone().filter(|_| is_opened);
        let (garbles, lies) = (if is_opened { self.garbles } else { 0 }, self.lies.clone());
        Box::new(Tapped { pipe, record, garbles, lies, breaks, sent: 0, is_link: false })
    }
}

impl RebuildNet for Lines {
    fn me(&self) -> PeerKey {
        RebuildNet::me(&self.handle)
    }

    fn open(&self, to: PeerKey) -> BoxFuture<'_, Result<Pipe, TransferError>> {
        async move { Ok(self.wrap(to, RebuildNet::open(&self.handle, to).await?, true)) }.boxed()
    }

    fn pinned_domain(&self, peer: PeerKey) -> BoxFuture<'_, Option<Domain>> {
        self.handle.pinned_domain(peer)
    }

    fn silent(&self, peers: Vec<PeerKey>, since: Timestamp) -> BoxFuture<'_, BTreeSet<PeerKey>> {
        self.handle.silent(peers, since)
    }

    fn courtesy(&self) -> Option<&Courtesy> {
        self.kind.courtesy.as_ref()
    }
}

trait MeAsPeer {
    fn me_as_peer(&self) -> PeerKey;
}

impl MeAsPeer for NetworkHandle {
    fn me_as_peer(&self) -> PeerKey {
        RebuildNet::me(self)
    }
}

/// The byte of a link that is garbled: in the fourth slice.
const GARBLED_AT: usize = 200_000;
/// Where a stream's first message says what it is, and what says that it is a link.
const KIND_AT: usize = 5;
const LINK: u8 = 9;

struct Tapped {
    pipe: Pipe,
    record: Option<(Tape, usize)>,
    garbles: u8,
    lies: Option<Arc<AtomicUsize>>,
    breaks: Option<Arc<AtomicUsize>>,
    sent: usize,
    is_link: bool,
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut bytes = buf.to_vec();
        if self.sent == 0 {
            self.is_link = bytes.get(KIND_AT) == Some(&LINK);
            let one_less = |left: usize| left.checked_sub(1);
            let lies = self.lies.as_ref().filter(|_| self.is_link);
            if lies.is_some_and(|left| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err()) {
                self.garbles = 0;
            }
            let breaks = self.breaks.as_ref().filter(|_| self.is_link);
            if breaks.is_some_and(|left| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        let garbles = self.garbles;
        let at = GARBLED_AT.checked_sub(self.sent).filter(|_| self.is_link);
        if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
            *byte ^= garbles;
        }
        let n = ready!(Pin::new(&mut self.pipe).poll_write(cx, &bytes))?;
        self.sent += n;
        if let Some((tape, place)) = &self.record {
            tape.lock().expect("lock")[*place].bytes.extend_from_slice(&bytes[..n]);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_close(cx)
    }
}

/// Bytes at a time on a delayed line.
const PIECE: usize = 16 * 1024;

/// Reads late, and no faster than the line. It delays what was said, not the opening of streams below it.
struct Delayed {
    write: futures::io::WriteHalf<Pipe>,
    pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    now: Option<(Pin<Box<Sleep>>, Vec<u8>, usize)>,
    reader: AbortHandle,
}

impl Delayed {
    fn new(pipe: Pipe, slow: Slow) -> Self {
        let (mut read, write) = pipe.split();
        let (sender, pieces) = mpsc::channel(256);
        let reader = tokio::spawn(async move {
            let mut buf = vec![0; PIECE];
            while let Ok(n @ 1..) = read.read(&mut buf).await {
                let due = {
                    let mut free = slow.free.lock().expect("lock");
                    let took = slow.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(n as f64 / rate as f64));
                    *free = (*free).max(Instant::now()) + took;
                    *free + slow.delay
                };
                if sender.send((due, buf[..n].to_vec())).await.is_err() {
                    return;
                }
            }
        });
        Self { write, pieces, now: None, reader: reader.abort_handle() }
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl AsyncRead for Delayed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.now.is_none() {
            let Some((due, piece)) = ready!(self.pieces.poll_recv(cx)) else { return Poll::Ready(Ok(0)) };
            self.now = Some((Box::pin(tokio::time::sleep_until(due)), piece, 0));
        }
        let Some((due, piece, at)) = &mut self.now else { unreachable!("it was just put there") };
        ready!(due.as_mut().poll(cx));
        let n = buf.len().min(piece.len() - *at);
        buf[..n].copy_from_slice(&piece[*at..][..n]);
        *at += n;
        if *at == piece.len() {
            self.now = None;
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Delayed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_close(cx)
    }
}
