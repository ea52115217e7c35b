//! One long stream to a holder, requester's side: pairs answers with requests, keeps what is in flight bounded.
//!
//! A writer task takes frames from a bounded queue, a reader task hands answers to whoever waits. A request whose
//! future is dropped is cancelled at the holder and its late answer is read away, so the stream stays usable.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cairn_proto::{
    GroupId,
    wire::{FrameKind, IN_FLIGHT_MAX, OPEN_GROUPS_MAX, Priority},
};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Frame, FrameError, Progress};
use crate::courtesy::Meter;

/// How patient a requester is. Tests make it short.
#[derive(Clone, Copy, Debug)]
pub struct ClientPatience {
    /// No byte moved on the stream for this long while something is asked: the peer is stuck.
    pub progress: Duration,
    /// One request without an answer for this long, however busy the stream is.
    pub request: Duration,
    /// Dial, negotiate and open a stream.
    pub open: Duration,
    /// All waits for `Busy` of one request together.
    pub busy: Duration,
    /// A steward's whole answer about a group, from the dial on: a map over a slow line.
    pub map: Duration,
    /// A stream without requests for this long is closed.
    pub idle: Duration,
}

impl Default for ClientPatience {
    fn default() -> Self {
        Self {
            progress: Duration::from_secs(15),
            request: Duration::from_secs(120),
            open: Duration::from_secs(6),
            busy: Duration::from_secs(60),
            map: Duration::from_secs(5),
            idle: Duration::from_secs(60),
        }
    }
}

/// Frames that may wait for the writer: every request in flight and as many cancellations again and again. When a
/// storm of cancellations fills it, the stream is given up.
const OUTGOING_MAX: usize = 8 * IN_FLIGHT_MAX;
/// Grants are made out for a day; an open group is opened again a little before that.
const REOPEN_AFTER: Duration = Duration::from_secs(23 * 3600);

/// Why a request on a link got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The stream broke; what was asked may or may not have happened.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// Nothing moved for too long.
    #[error("no answer in time")]
    TimedOut,
}

/// A live stream to a holder.
#[derive(Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Frame>,
    patience: ClientPatience,
}

struct Shared {
    waiting: Mutex<Waiting>,
    places: Semaphore,
    next: AtomicU32,
    progress: Progress,
    closed: CancellationToken,
    groups: tokio::sync::Mutex<OpenGroups>,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u32, oneshot::Sender<Frame>>,
    /// Why the stream ended.
    ended: Option<String>,
}

/// A group and by what it was opened: zeros for our own grant, or the hash of an order's or a mandate's bytes.
pub(crate) type Opening = (GroupId, [u8; 32]);

/// What we opened on this stream, in the order that the holder forgets. Whatever the holder forgot sooner is opened again when it
/// says so.
#[derive(Default)]
pub(crate) struct OpenGroups {
    since: HashMap<Opening, Instant>,
    order: VecDeque<Opening>,
}

impl OpenGroups {
    pub(crate) fn is_open(&self, group: &Opening) -> bool {
        self.since.get(group).is_some_and(|since| since.elapsed() < REOPEN_AFTER)
    }

    pub(crate) fn opened(&mut self, group: Opening) {
        if self.since.insert(group, Instant::now()).is_none() {
            self.order.push_back(group);
        }
        if self.order.len() > OPEN_GROUPS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.since.remove(&oldest);
        }
    }

    pub(crate) fn forget(&mut self, group: &Opening) {
        if self.since.remove(group).is_some() {
            self.order.retain(|g| g != group);
        }
    }
}

impl Link {
    /// Starts the two tasks of a fresh stream.
    pub(crate) fn start<S>(stream: S, patience: ClientPatience, meter: Option<Arc<Meter>>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            places: Semaphore::new(IN_FLIGHT_MAX),
            next: AtomicU32::new(1),
            progress: Progress::metered(meter),
            closed: CancellationToken::new(),
            groups: tokio::sync::Mutex::default(),
        });
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let (reader, writer) = stream.split();
        tokio::spawn(drive(shared.clone(), reader, writer, queue, patience));
        Self { shared, outgoing, patience }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    pub(crate) async fn groups(&self) -> tokio::sync::MutexGuard<'_, OpenGroups> {
        self.shared.groups.lock().await
    }

    /// Sends one request and waits for its answer. Dropping the future cancels the request.
    pub(crate) async fn ask(
        &self,
        kind: FrameKind,
        priority: Priority,
        head: Vec<u8>,
        payload: Bytes,
    ) -> Result<Frame, LinkError> {
        let _place = self.shared.places.acquire().await.map_err(|e| LinkError::Broken(e.to_string()))?;
        let request = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut answer) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if let Some(why) = &waiting.ended {
                return Err(LinkError::Broken(why.clone()));
            }
            waiting.answers.insert(request, sender);
        }
        let _guard = CancelOnDrop { link: self, request, priority };
        let asked = Instant::now();
        let frame = Frame { kind, priority, request, head, payload };
        if self.outgoing.send(frame).await.is_err() {
            return Err(LinkError::Broken(self.shared.why()));
        }
        loop {
            let stuck = self.shared.progress.last().max(asked) + self.patience.progress;
            let deadline = stuck.min(asked + self.patience.request);
            tokio::select! {
                answer = &mut answer => return answer.map_err(|_| LinkError::Broken(self.shared.why())),
                () = tokio::time::sleep_until(deadline) => {}
            }
            let stuck = self.shared.progress.last().max(asked) + self.patience.progress;
            if Instant::now() >= stuck.min(asked + self.patience.request) {
                self.shared.end("no answer in time");
                return Err(LinkError::TimedOut);
            }
        }
    }
}

struct CancelOnDrop<'a> {
    link: &'a Link,
    request: u32,
    priority: Priority,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.link.shared.waiting().answers.remove(&self.request).is_none() {
            return;
        }
        let cancel = Frame {
            kind: FrameKind::Cancel,
            priority: self.priority,
            request: self.request,
            head: Vec::new(),
            payload: Bytes::new(),
        };
        if self.link.outgoing.try_send(cancel).is_err() {
            self.link.shared.end("too many cancelled requests");
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why(&self) -> String {
        self.waiting().ended.clone().unwrap_or_else(|| "it ended".to_owned())
    }

    /// Marks the stream as ended; the first reason stays. Everyone who waits learns of it.
    fn end(&self, why: &str) {
        let mut waiting = self.waiting();
        waiting.ended.get_or_insert_with(|| why.to_owned());
        waiting.answers.clear();
        drop(waiting);
        self.closed.cancel();
    }
}

async fn drive<R, W>(
    shared: Arc<Shared>,
    mut reader: R,
    mut writer: W,
    queue: mpsc::Receiver<Frame>,
    patience: ClientPatience,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let ended = tokio::select! {
        e = read_answers(&shared, &mut reader, patience) => e.map(|()| "the peer closed the stream"),
        e = write_requests(&shared, &mut writer, queue, patience) => e.map(|()| "idle"),
        () = shared.closed.cancelled() => Ok("given up"),
    };
    match ended {
        Ok(why) => shared.end(why),
        Err(error) => shared.end(&error.to_string()),
    }
}

async fn read_answers<R: AsyncRead + Unpin>(
    shared: &Shared,
    io: &mut R,
    patience: ClientPatience,
) -> Result<(), FrameError> {
    while let Some(header) = frame::read_header(io, patience.progress).await? {
        shared.progress.mark();
        let head = frame::read_bytes(io, header.head_len.into(), &shared.progress);
        let head = frame::within(patience.progress, head).await?;
        let payload_len = header.payload_len as usize;
        let wanted = shared.waiting().answers.contains_key(&header.request);
        if !wanted {
            // The answer to a cancelled request.
            frame::within(patience.request, frame::drain(io, payload_len)).await?;
            continue;
        }
        let payload = frame::read_bytes(io, payload_len, &shared.progress);
        let payload = frame::within(patience.request, payload).await?;
        let waiter = shared.waiting().answers.remove(&header.request);
        if let Some(waiter) = waiter {
            let frame = Frame {
                kind: header.kind,
                priority: header.priority,
                request: header.request,
                head: head.into(),
                payload,
            };
            let _ = waiter.send(frame);
        }
    }
    Ok(())
}

async fn write_requests<W: AsyncWrite + Unpin>(
    shared: &Shared,
    io: &mut W,
    mut queue: mpsc::Receiver<Frame>,
    patience: ClientPatience,
) -> Result<(), FrameError> {
    // Requests cancelled before they were written: neither they nor their cancellation need to go out.
    let mut unsent: HashSet<u32> = HashSet::new();
    loop {
        let frame = match tokio::time::timeout(patience.idle, queue.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) if shared.waiting().answers.is_empty() => break,
            Err(_) => continue,
        };
        if frame.kind == FrameKind::Cancel {
            if unsent.remove(&frame.request) {
                continue;
            }
        } else if !shared.waiting().answers.contains_key(&frame.request) {
            unsent.insert(frame.request);
            continue;
        }
        frame::write_frame(io, &frame, &shared.progress).await?;
        if queue.is_empty() {
            io.flush().await?;
        }
    }
    Ok(io.close().await?)
}
