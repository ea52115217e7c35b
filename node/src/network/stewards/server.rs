//! Has questions answered: reads them within bounds, asks the service, writes the answer.
//!
//! # Invariants
//!
//! - **NET-2** No length that a peer states makes us take memory before it is checked and paid for; a peer that takes all it can
//!   leaves places and memory for others. Enforced in [`Desk::serve`] and [`Desk::pay`]; attacked by `network::tests::stewards`.

use std::{panic::AssertUnwindSafe, sync::Arc};

use cairn_core::steward::wire::{Answer, MESSAGE_MAX, Refusal, Request};
use cairn_proto::{PeerKey, mandate::GROUP_RECORD_MAX, wire::Priority};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, FutureExt as _, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{SHORT_MAX, read_length, write};
use crate::{
    courtesy::Courtesy,
    network::transfer::{
        frame::{self, FrameError, Progress},
        server::{PeerPlaces, ServerLimits},
    },
    stewardship::ports::StewardService,
};

/// Refusals of questions without a place that are written at once. Beyond, streams are dropped: whoever opens so many does not read.
const REFUSING_MAX: usize = 64;
/// The memory budget counts in these, since a semaphore's permits are 32-bit.
const PERMIT_BYTES: usize = 1024;
/// A question in memory: its bytes, and what is made of them, which is no longer.
const READ_FACTOR: usize = 2;

/// Where questions are answered.
pub(crate) struct Desk {
    service: Option<Arc<dyn StewardService>>,
    limits: ServerLimits,
    places: Arc<Semaphore>,
    refusing: Arc<Semaphore>,
    /// For what is no longer than a group's record, and for what is.
    memory: [Arc<Semaphore>; 2],
    maps: Arc<Semaphore>,
    courtesy: Option<Courtesy>,
}

/// A question, or why it is not looked at.
type Heard = Result<Request, Refusal>;

impl Desk {
    pub(crate) fn new(
        service: Option<Arc<dyn StewardService>>,
        limits: ServerLimits,
        courtesy: Option<Courtesy>,
    ) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            service,
            limits,
            places: places(limits.stewards.at_once),
            refusing: places(REFUSING_MAX),
            memory: [0, 1].map(|_| places(limits.stewards.memory / 2 / PERMIT_BYTES)),
            maps: places(limits.stewards.maps),
            courtesy,
        }
    }

    /// What is to be done with a stream that a peer opened, in a task of its own; nothing when not even a refusal has a place.
    pub(crate) fn serve<S>(
        self: Arc<Self>,
        remote: PeerKey,
        places: &PeerPlaces,
        mut stream: S,
    ) -> Option<BoxFuture<'static, ()>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let no = |why, desk: Arc<Self>, mut stream: S| {
            let place = desk.refusing.clone().try_acquire_owned().ok()?;
            let work = async move {
                let _ = desk.refuse(&mut stream, why).await;
                drop(place);
            };
            Some(work.boxed())
        };
        let Some(service) = self.service.clone() else { return no(Refusal::NotSteward, self, stream) };
        let of_peer = places.questions.clone().try_acquire_owned();
        let (Ok(of_peer), Ok(of_all)) = (of_peer, self.places.clone().try_acquire_owned()) else {
            return no(Refusal::Busy, self, stream);
        };
        let long = places.long.clone();
        let work = async move {
            if let Err(error) = self.answer(remote, service, &long, &mut stream).await {
                tracing::debug!(peer = %remote.short(), %error, "a question of stewardship came to nothing");
            }
            drop((of_peer, of_all));
        };
        Some(work.boxed())
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        remote: PeerKey,
        service: Arc<dyn StewardService>,
        long: &Arc<Semaphore>,
        io: &mut S,
    ) -> Result<(), FrameError> {
        let (heard, memory) = self.read(long, io).await?;
        let request = match heard {
            Ok(request) => request,
            Err(why) => return self.say(io, &Answer::Refused(why)).await,
        };
        // What moves shard bytes waits for the end of a pause; words do not, or we would be taken for gone.
        let moves = matches!(request, Request::Give { .. } | Request::Duty(_) | Request::Challenge(_));
        if moves && self.courtesy.as_ref().is_some_and(|courtesy| courtesy.paused_ms().is_some()) {
            return self.say(io, &Answer::Refused(Refusal::Busy)).await;
        }
        let turn = match request {
            Request::Ask { .. } => {
                let turn = tokio::time::timeout(self.limits.memory_wait, self.maps.clone().acquire_owned()).await;
                let Ok(Ok(turn)) = turn else { return self.say(io, &Answer::Refused(Refusal::Busy)).await };
                Some(turn)
            }
            _ => None,
        };
        // A service that panics is as good as one that hangs.
        let asked = AssertUnwindSafe(service.handle(remote, request)).catch_unwind();
        let answered = tokio::time::timeout(self.limits.stewards.service_time, asked).await;
        drop(memory);
        let answer = answered.ok().and_then(Result::ok).unwrap_or(Answer::Refused(Refusal::Busy));
        let encoded = answer.encode();
        let shows_shards = matches!(answer, Answer::Audit(_));
        drop((answer, turn));
        let mut bytes = encoded.inspect_err(|error| tracing::error!(%error, "an answer cannot be sent"))?;
        let paid = self.pay(bytes.len()).await;
        if paid.is_none() {
            bytes = Answer::Refused(Refusal::Busy).encode()?;
        }
        if let Some(courtesy) = self.courtesy.as_ref().filter(|_| shows_shards) {
            courtesy.up().pass_piece(Priority::Low, bytes.len()).await;
        }
        self.write(io, &bytes).await
    }

    /// Reads a question; its memory is ours until it is handled.
    async fn read<R: AsyncRead + Unpin>(
        &self,
        long: &Arc<Semaphore>,
        io: &mut R,
    ) -> Result<(Heard, Option<Memory>), FrameError> {
        let ServerLimits { frame_time, stall_time, .. } = self.limits;
        let progress = Progress::new();
        let length = read_length(io, MESSAGE_MAX);
        let length = frame::moving(frame_time, stall_time, &progress, length).await?;
        let turn = if length > SHORT_MAX { long.clone().acquire_owned().await.ok() } else { None };
        let Some(of_all) = self.pay(READ_FACTOR * length).await else {
            self.drain(io, length).await?;
            return Ok((Err(Refusal::Busy), None));
        };
        let bytes = frame::read_bytes(io, length, &progress);
        let bytes = frame::moving(frame_time, stall_time, &progress, bytes).await?;
        let request = Request::decode(&bytes).map_err(|error| {
            tracing::debug!(%error, "a question of stewardship is not readable");
            Refusal::Forged
        });
        Ok((request, Some(Memory { _of_all: of_all, _turn: turn })))
    }

    /// NET-2: takes memory for what is long, as soon as there is some; nothing when there is none for too long.
    async fn pay(&self, bytes: usize) -> Option<Option<OwnedSemaphorePermit>> {
        if bytes <= READ_FACTOR * SHORT_MAX {
            return Some(None);
        }
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let memory = &self.memory[usize::from(bytes > READ_FACTOR * GROUP_RECORD_MAX)];
        let memory = memory.clone().acquire_many_owned(permits);
        tokio::time::timeout(self.limits.memory_wait, memory).await.ok()?.ok().map(Some)
    }

    /// Says no without having read the question, which is read away: a reset could overtake the answer.
    async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(&self, io: &mut S, why: Refusal) -> Result<(), FrameError> {
        self.say(io, &Answer::Refused(why)).await?;
        let (time, mut scratch) = (self.limits.stall_time, [0u8; 8 * 1024]);
        let rest = async {
            let mut left = MESSAGE_MAX + 4;
            while left > 0 {
                let n = io.read(&mut scratch).await?;
                left = if n == 0 { 0 } else { left.saturating_sub(n) };
            }
            Ok(())
        };
        frame::within(time, rest).await
    }

    async fn drain<R: AsyncRead + Unpin>(&self, io: &mut R, length: usize) -> Result<(), FrameError> {
        frame::within(self.limits.frame_time, frame::drain(io, length)).await
    }

    async fn say<W: AsyncWrite + Unpin>(&self, io: &mut W, answer: &Answer) -> Result<(), FrameError> {
        self.write(io, &answer.encode()?).await
    }

    async fn write<W: AsyncWrite + Unpin>(&self, io: &mut W, bytes: &[u8]) -> Result<(), FrameError> {
        let progress = Progress::new();
        let written = write(io, bytes, &progress);
        frame::moving(self.limits.frame_time, self.limits.stall_time, &progress, written).await
    }
}

/// What a question holds until it is handled.
struct Memory {
    _of_all: Option<OwnedSemaphorePermit>,
    _turn: Option<OwnedSemaphorePermit>,
}
