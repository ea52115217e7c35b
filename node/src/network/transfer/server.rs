//! The holder's side: one task reads a stream's requests, workers serve them, one task writes the answers.
//!
//! # Invariants
//!
//! - **SEP-1** A shard whose slot is not our colour in its group is refused before a byte of it is taken into
//!   memory. Enforced in [`Session::admit`]; attacked by `network::tests::a_wrong_colour_is_refused`.
//! - **NET-1** A request is served only under a grant that the group's authority made out to this holder and to
//!   the peer that the transport authenticated, or under a quorum's order that names both, or a mandate whose steward asks what
//!   is there. Enforced in [`Session::open_group`], [`passes`] and [`Session::admit`]; attacked by
//!   `network::tests::a_grant_of_another_bearer_opens_nothing` and `network::tests::passes`.
//! - **NET-2** No length that a peer states makes us take memory before it is checked and paid for from the
//!   budget. Attacked by `network::tests::garbage_closes_the_stream_and_the_node_still_serves`.

mod groups;
mod limits;
mod manners;
mod passes;
mod receipt;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use bytes::Bytes;
use cairn_core::colour::may_hold;
use cairn_proto::{
    Domain, Grant, GroupId, GroupTicket, PeerKey, SHARD_SIZE, ShardRoot, Slot, Timestamp, message,
    wire::{
        DeleteShard, FrameHeader, FrameKind, GetShard, HasAnswer, HasShards, IN_FLIGHT_MAX, OpenGroup, Priority,
        PutShard, RefusalCode, Refused,
    },
};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub(crate) use self::limits::PeerPlaces;
pub use self::limits::ServerLimits;
use self::{
    groups::{Groups, Leave, Wish},
    limits::{Memory, PERMIT_BYTES},
    manners::Owed,
    passes::{Checks, Passed},
};
use super::{
    frame::{self, Frame, FrameError, Progress},
    workers::Workers,
};
use crate::{
    courtesy::Courtesy,
    identity::Identity,
    network::{clock, command::Command, keeper::ShardKeeper},
    store::{NewShard, ShardBytes},
};

/// Requests of one stream that may be with us at once. Twice what a requester may have open: those it cancelled
/// may still be in work.
const REQUESTS_PER_STREAM: usize = 2 * IN_FLIGHT_MAX;
/// When a requester that was told `Busy` should ask again, in milliseconds.
const BUSY_RETRY_MS: u64 = 250;
/// What all streams share.
pub(crate) struct Server {
    identity: Arc<Identity>,
    domain: Domain,
    keeper: Option<Arc<dyn ShardKeeper>>,
    limits: ServerLimits,
    memory: Arc<Semaphore>,
    workers: Workers,
    checks: Checks,
    courtesy: Option<Courtesy>,
}

impl Server {
    pub(crate) fn new(
        identity: Arc<Identity>,
        domain: Domain,
        keeper: Option<Arc<dyn ShardKeeper>>,
        limits: ServerLimits,
        workers: Workers,
        commands: mpsc::WeakSender<Command>,
        courtesy: Option<Courtesy>,
    ) -> Self {
        let memory = Arc::new(Semaphore::new(limits.memory / PERMIT_BYTES));
        let checks = Checks::new(commands, limits.memory_wait, limits.steward_lost);
        Self { identity, domain, keeper, limits, memory, workers, checks, courtesy }
    }

    /// Serves one stream until it ends, breaks the protocol, idles for too long, or `stop`.
    pub(crate) async fn serve<S>(
        self: Arc<Self>,
        remote: PeerKey,
        places: PeerPlaces,
        stream: S,
        stop: CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut reader, mut writer) = stream.split();
        let (answers, mut queue) = mpsc::channel::<Answer>(REQUESTS_PER_STREAM);
        let (limits, courtesy) = (self.limits, self.courtesy.clone());
        let owed = Arc::new(AtomicU64::new(0));
        let session = Session {
            server: self,
            remote,
            places,
            groups: Groups::default(),
            running: Arc::new(Mutex::new(HashSet::new())),
            slots: Arc::new(Semaphore::new(REQUESTS_PER_STREAM)),
            answers,
            owed,
            progress: Progress::new(),
        };
        let written = Progress::metered(courtesy.as_ref().map(|courtesy| courtesy.meter().clone()));
        let write = async move {
            while let Some(answer) = queue.recv().await {
                manners::write(&mut writer, &answer, courtesy.as_ref(), &limits, &written, || queue.is_empty()).await?;
            }
            Ok::<(), FrameError>(writer.close().await?)
        };
        let read = session.read(&mut reader);
        let ended = tokio::select! {
            ended = read => ended,
            ended = write => ended,
            () = stop.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %remote.short(), %error, "a shard stream ended");
        }
    }
}

/// An answer with what it holds until it is written: its place among the stream's requests, and its memory.
struct Answer {
    frame: Frame,
    /// How urgent its payload is to us, whatever the request said.
    class: Priority,
    _slot: OwnedSemaphorePermit,
    _memory: Option<Memory>,
    _owed: Option<Owed>,
}

impl Answer {
    /// One without a payload.
    fn short(frame: Frame, slot: OwnedSemaphorePermit) -> Self {
        Self { frame, class: Priority::High, _slot: slot, _memory: None, _owed: None }
    }
}

/// A refusal and when to ask again, in milliseconds; 0 when that does not help.
struct No(RefusalCode, u64);

impl From<RefusalCode> for No {
    fn from(code: RefusalCode) -> Self {
        let soon = matches!(code, RefusalCode::Busy | RefusalCode::UnknownBearer);
        Self(code, if soon { BUSY_RETRY_MS } else { 0 })
    }
}

/// An admitted request, and how urgent it is to us.
type Admitted = (Task, Priority);

/// What an admitted request will do.
enum Task {
    Put { group: GroupId, slot: Slot, ordinal: u8, root: ShardRoot, lease_until: Timestamp },
    Get { group: GroupId, slot: Slot, ordinal: u8, offset: u32, length: u32 },
    Has { group: GroupId, slot: Slot },
    Delete { group: GroupId, slot: Slot, ordinal: u8 },
}

impl Task {
    /// Bytes of memory that serving it takes.
    fn memory(&self) -> usize {
        match self {
            Self::Put { .. } => SHARD_SIZE,
            Self::Get { offset, length: 0, .. } => SHARD_SIZE.saturating_sub(*offset as usize),
            Self::Get { length, .. } => *length as usize,
            Self::Has { .. } | Self::Delete { .. } => 0,
        }
    }
}

/// One stream's state; only its reader touches it, except for what is shared with running jobs.
struct Session {
    server: Arc<Server>,
    remote: PeerKey,
    places: PeerPlaces,
    groups: Groups,
    /// Requests taken and neither answered nor cancelled.
    running: Arc<Mutex<HashSet<u32>>>,
    /// Places for requests, held until the answer is written.
    slots: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
    /// Bytes of shards that were asked for on this stream and are not written.
    owed: Arc<AtomicU64>,
    progress: Progress,
}

impl Session {
    async fn read<R: AsyncRead + Unpin>(mut self, io: &mut R) -> Result<(), FrameError> {
        let limits = self.server.limits;
        loop {
            let next = frame::read_header(io, limits.frame_time);
            let Ok(header) = tokio::time::timeout(limits.idle_time, next).await else { return Ok(()) };
            let Some(header) = header? else { return Ok(()) };
            let head = frame::read_bytes(io, header.head_len.into(), &self.progress);
            let head = frame::within(limits.frame_time, head).await?;
            if header.kind == FrameKind::Cancel {
                self.running().remove(&header.request);
                continue;
            }
            // Waits only while our own answers pile up unread: back-pressure on this stream alone.
            let Ok(slot) = self.slots.clone().acquire_owned().await else { return Ok(()) };
            if header.kind == FrameKind::Open {
                let frame = match self.open_group(&head, clock()) {
                    Ok(()) => answer(&header, FrameKind::Opened, Vec::new()),
                    Err(no) => refusal(&header, no),
                };
                self.send(Answer::short(frame, slot)).await;
                continue;
            }
            if matches!(header.kind, FrameKind::OpenOrder | FrameKind::OpenWatch) {
                let frame = match self.open_by_pass(&header, io).await? {
                    Ok(()) => answer(&header, FrameKind::Opened, Vec::new()),
                    Err(no) => refusal(&header, no),
                };
                self.send(Answer::short(frame, slot)).await;
                continue;
            }
            let admitted = match self.admit(&header, &head, clock())? {
                Ok((task, class)) => self.accept(task, class).await,
                Err(no) => Err(no),
            };
            let payload_len = header.payload_len as usize;
            match admitted {
                Ok(((task, class), memory)) => {
                    let payload = async {
                        match task {
                            // Admitted only with a shard's length.
                            Task::Put { .. } => frame::read_shard(io, &self.progress).await,
                            _ => frame::read_bytes(io, payload_len, &self.progress).await.map(Into::into),
                        }
                    };
                    let payload = frame::moving(limits.frame_time, limits.stall_time, &self.progress, payload).await?;
                    self.start(header, (task, class), payload, slot, memory).await?;
                }
                Err(no) => {
                    frame::within(limits.frame_time, frame::drain(io, payload_len)).await?;
                    self.uninvited(payload_len);
                    self.send(Answer::short(refusal(&header, no), slot)).await;
                }
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel has a place for every slot, so this never waits; it fails only when the writer is gone.
    async fn send(&self, answer: Answer) {
        let _ = self.answers.send(answer).await;
    }

    /// NET-1: the ticket certifies itself, the grant is the authority's, for us, and for the authenticated peer.
    fn open_group(&mut self, head: &[u8], now: Timestamp) -> Result<(), No> {
        let open: OpenGroup = message::decode(head, "open").map_err(|_| RefusalCode::BadRequest)?;
        let ticket = GroupTicket::decode(&open.ticket).map_err(|_| RefusalCode::BadRequest)?;
        let grant = Grant::open(&open.grant, &ticket, now).map_err(|_| RefusalCode::NotAuthorised)?;
        if grant.holder != self.server.identity.peer() || grant.bearer != self.remote {
            return Err(RefusalCode::NotAuthorised.into());
        }
        self.groups.open(ticket).by_grant(grant.rights, grant.expires);
        Ok(())
    }

    /// Reads what the group is to be opened by, paid for like any payload, and has it checked beside the Swarm's and the streams'
    /// tasks. The outer error closes the stream.
    async fn open_by_pass<R: AsyncRead + Unpin>(
        &mut self,
        header: &FrameHeader,
        io: &mut R,
    ) -> Result<Result<(), No>, FrameError> {
        let (limits, length) = (self.server.limits, header.payload_len as usize);
        let paid = match self.server.keeper {
            Some(_) => self.pay(length).await,
            None => Err(RefusalCode::NotStorage.into()),
        };
        let memory = match paid {
            Ok(memory) => memory,
            Err(no) => {
                frame::within(limits.frame_time, frame::drain(io, length)).await?;
                return Ok(Err(no));
            }
        };
        let payload = frame::read_bytes(io, length, &self.progress);
        let payload = frame::moving(limits.frame_time, limits.stall_time, &self.progress, payload).await?;
        let opened = self.server.checks.open(header.kind, &payload, self.server.identity.peer(), self.remote, clock());
        let opened = opened.await;
        drop(memory);
        if let (Ok(Passed::Watch { ticket, watchers, .. }), Some(keeper)) = (&opened, &self.server.keeper) {
            keeper.watched(ticket.id(), (**watchers).clone());
        }
        Ok(opened.map(|pass| self.groups.open(*pass.ticket()).by_pass(&pass)).map_err(No::from))
    }

    /// Decides on a request from its head alone. The outer error closes the stream.
    fn admit(&self, header: &FrameHeader, head: &[u8], now: Timestamp) -> Result<Result<Admitted, No>, FrameError> {
        let broken = |why| FrameError::Malformed(cairn_proto::DecodeError::Invalid { what: "request", why });
        if self.running().contains(&header.request) {
            return Err(broken("its number is in use"));
        }
        let parsed = match header.kind {
            FrameKind::Put => {
                let put = self.admit_put(head, header.payload_len as usize, now);
                put.map(|task| (task, header.priority.max(Priority::Normal)))
            }
            FrameKind::Get => {
                let get = self.admit_get(head, now);
                get.map(|(task, leave)| {
                    let class = self.reading(header.priority, &task, leave);
                    (task, class)
                })
            }
            FrameKind::Has => self.admit_has(head, now).map(|task| (task, Priority::High)),
            FrameKind::Delete => self.admit_delete(head, now).map(|task| (task, Priority::Normal)),
            _ => return Err(broken("only a holder sends this")),
        };
        Ok(parsed)
    }

    fn admit_put(&self, head: &[u8], payload_len: usize, now: Timestamp) -> Result<Task, No> {
        let put: PutShard = message::decode(head, "put").map_err(|_| RefusalCode::BadRequest)?;
        let (group, slot, _) = self.allowed(&put.group, put.slot, Wish::Put, now)?;
        let ordinal = message::ordinal(put.ordinal).map_err(|_| RefusalCode::BadRequest)?;
        let root = ShardRoot::from_slice(&put.root).map_err(|_| RefusalCode::BadRequest)?;
        if payload_len != SHARD_SIZE {
            return Err(RefusalCode::BadRequest.into());
        }
        Ok(Task::Put { group, slot, ordinal, root, lease_until: Timestamp(put.lease_until) })
    }

    fn admit_get(&self, head: &[u8], now: Timestamp) -> Result<(Task, Leave), No> {
        let get: GetShard = message::decode(head, "get").map_err(|_| RefusalCode::BadRequest)?;
        let ordinal = message::ordinal(get.ordinal).map_err(|_| RefusalCode::BadRequest)?;
        let (group, slot, leave) = self.allowed(&get.group, get.slot, Wish::Get(ordinal), now)?;
        let end = u64::from(get.offset) + u64::from(get.length);
        if get.offset as usize >= SHARD_SIZE || end > SHARD_SIZE as u64 {
            return Err(RefusalCode::BadRequest.into());
        }
        Ok((Task::Get { group, slot, ordinal, offset: get.offset, length: get.length }, leave))
    }

    fn admit_has(&self, head: &[u8], now: Timestamp) -> Result<Task, No> {
        let has: HasShards = message::decode(head, "has").map_err(|_| RefusalCode::BadRequest)?;
        let (group, slot, _) = self.allowed(&has.group, has.slot, Wish::Has, now)?;
        Ok(Task::Has { group, slot })
    }

    fn admit_delete(&self, head: &[u8], now: Timestamp) -> Result<Task, No> {
        let delete: DeleteShard = message::decode(head, "delete").map_err(|_| RefusalCode::BadRequest)?;
        let (group, slot, _) = self.allowed(&delete.group, delete.slot, Wish::Delete, now)?;
        let ordinal = message::ordinal(delete.ordinal).map_err(|_| RefusalCode::BadRequest)?;
        Ok(Task::Delete { group, slot, ordinal })
    }

    /// The group is open for that, and the slot is our colour (SEP-1); also by whose leave.
    fn allowed(&self, group: &[u8], slot: u32, wish: Wish, now: Timestamp) -> Result<(GroupId, Slot, Leave), No> {
        if self.server.keeper.is_none() {
            return Err(RefusalCode::NotStorage.into());
        }
        let group = GroupId::from_slice(group).map_err(|_| RefusalCode::BadRequest)?;
        let slot = message::slot(slot).map_err(|_| RefusalCode::BadRequest)?;
        let (ticket, leave) = self.groups.allows(&group, slot, wish, now).ok_or(RefusalCode::NotAuthorised)?;
        if !may_hold(ticket, &self.server.domain, slot) {
            return Err(RefusalCode::WrongColour.into());
        }
        Ok((group, slot, leave))
    }

    /// NET-2: takes memory from the peer's budget, then from everybody's, or says `Busy`.
    async fn pay(&self, bytes: usize) -> Result<Option<Memory>, No> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        if permits == 0 {
            return Ok(None);
        }
        if !self.places.may_take(permits as usize, self.server.memory.available_permits()) {
            return Err(RefusalCode::Busy.into());
        }
        let memory = self.places.take(permits, &self.server.memory);
        match tokio::time::timeout(self.server.limits.memory_wait, memory).await {
            Ok(Ok(memory)) => Ok(Some(memory)),
            Ok(Err(_)) | Err(_) => Err(RefusalCode::Busy.into()),
        }
    }

    /// Hands an admitted request to the workers.
    async fn start(
        &self,
        header: FrameHeader,
        (task, class): Admitted,
        payload: ShardBytes,
        slot: OwnedSemaphorePermit,
        memory: Option<Memory>,
    ) -> Result<(), FrameError> {
        self.running().insert(header.request);
        let server = self.server.clone();
        let running = self.running.clone();
        let answers = self.answers.clone();
        let owed = matches!(task, Task::Get { .. }).then(|| Owed::new(&self.owed, task.memory()));
        let job = async move {
            let is_running = || running.lock().unwrap_or_else(PoisonError::into_inner).contains(&header.request);
            if !is_running() {
                return;
            }
            let frame = server.execute(&header, task, payload).await;
            if !running.lock().unwrap_or_else(PoisonError::into_inner).remove(&header.request) {
                return;
            }
            // Only shard bytes are paid for: a refusal or a receipt that is never read must not hold a shard's room.
            let memory = memory.filter(|_| !frame.payload.is_empty());
            let _ = answers.try_send(Answer { frame, class, _slot: slot, _memory: memory, _owed: owed });
        };
        if !self.server.workers.submit(class, job.boxed()) {
            self.running().remove(&header.request);
            if let Ok(slot) = self.slots.clone().acquire_owned().await {
                self.send(Answer::short(refusal(&header, RefusalCode::Busy.into()), slot)).await;
            }
        }
        Ok(())
    }
}

impl Server {
    async fn execute(&self, header: &FrameHeader, task: Task, payload: ShardBytes) -> Frame {
        let Some(keeper) = &self.keeper else { return refusal(header, RefusalCode::NotStorage.into()) };
        let done = match task {
            Task::Put { group, slot, ordinal, root, lease_until } => {
                let offered = NewShard { group, slot, ordinal, root, lease_until, bytes: payload };
                keeper.put(offered).await.map(|kept| {
                    let receipt = self.receipt(keeper.as_ref(), (group, slot, ordinal, root), &kept);
                    answer(header, FrameKind::Stored, receipt)
                })
            }
            Task::Get { group, slot, ordinal, offset, length } => keeper
                .get(group, slot, ordinal, offset, length)
                .await
                .map(|payload| Frame { payload, ..answer(header, FrameKind::Data, Vec::new()) }),
            Task::Has { group, slot } => keeper.holding(group, slot).await.map(|ordinals| {
                answer(header, FrameKind::Holding, HasAnswer { ordinals: ordinals.to_vec() }.encode_to_vec())
            }),
            Task::Delete { group, slot, ordinal } => {
                keeper.delete(group, slot, ordinal).await.map(|()| answer(header, FrameKind::Deleted, Vec::new()))
            }
        };
        done.unwrap_or_else(|code| refusal(header, code.into()))
    }
}

fn answer(request: &FrameHeader, kind: FrameKind, head: Vec<u8>) -> Frame {
    Frame { kind, priority: request.priority, request: request.request, head, payload: Bytes::new() }
}

fn refusal(request: &FrameHeader, No(code, retry_after_ms): No) -> Frame {
    answer(request, FrameKind::Refused, Refused { code: code as i32, retry_after_ms }.encode_to_vec())
}

/// Which of a node's two streams to a peer carries a priority: reads and repairs never wait behind bulk writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Critical and high.
    Urgent,
    /// Normal and low.
    Bulk,
}

impl From<Priority> for Lane {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Critical | Priority::High => Self::Urgent,
            Priority::Normal | Priority::Low => Self::Bulk,
        }
    }
}
