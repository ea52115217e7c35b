//! How what is served passes our line: how urgent a request is to us, whether it begins now, and its payload step by step.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cairn_proto::wire::{Priority, RefusalCode};
use futures::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::{Admitted, Answer, Leave, Memory, No, ServerLimits, Session, Task};
use crate::{
    courtesy::Courtesy,
    network::transfer::frame::{self, FrameError, Progress},
};

/// How long a write waits for its turn before a byte of it is taken; then its sender is told to come again. It thinks that we are
/// gone after fifteen seconds.
const TURN: Duration = Duration::from_secs(8);

/// How urgent a read is. A request may say that it is less so, not more: an owner's is a restore at most. What a quorum ordered is
/// background work unless they signed that the group is near its end, and `first` lets it go first.
fn reading(said: Priority, leave: Leave, first: impl FnOnce() -> Priority) -> Priority {
    match (leave, said) {
        (Leave::Owner, said) => said.max(Priority::High),
        (Leave::Stewards { urgent: true }, Priority::Critical) => first(),
        (Leave::Stewards { .. }, _) => Priority::Low,
    }
}

/// Bytes that were asked for on a stream, until they are written or given up.
pub(super) struct Owed {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Owed {
    pub(super) fn new(all: &Arc<AtomicU64>, bytes: usize) -> Self {
        let bytes = bytes as u64;
        all.fetch_add(bytes, Ordering::Relaxed);
        Self { all: all.clone(), bytes }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Session {
    /// How urgent a read is to us.
    pub(super) fn reading(&self, said: Priority, task: &Task, leave: Leave) -> Priority {
        reading(said, leave, || match (&self.server.courtesy, task) {
            (Some(courtesy), Task::Get { group, .. }) => courtesy.class_of(group, true),
            _ => Priority::Critical,
        })
    }

    /// Has a request begin, with the memory that it takes; or says when it should come again.
    pub(super) async fn accept(&self, task: Task, class: Priority) -> Result<(Admitted, Option<Memory>), No> {
        let busy = |again_ms| No(RefusalCode::Busy, again_ms);
        if let Some(courtesy) = &self.server.courtesy {
            // What is here may be known all the same: a node that is paused is not gone.
            let moves = !matches!(task, Task::Has { .. });
            if let Some(again_ms) = courtesy.paused_ms().filter(|_| moves) {
                return Err(busy(again_ms));
            }
            match task {
                Task::Get { .. } => {
                    let owed = self.owed.load(Ordering::Relaxed);
                    courtesy.up().may_begin(class, owed, task.memory() as u64).map_err(busy)?;
                }
                Task::Put { .. } => {
                    courtesy.down().may_begin(class, 0, task.memory() as u64).map_err(busy)?;
                    let passed = courtesy.down().pass(class, task.memory());
                    if !matches!(tokio::time::timeout(TURN, passed).await, Ok(Ok(()))) {
                        return Err(busy(TURN.as_millis() as u64));
                    }
                }
                Task::Has { .. } | Task::Delete { .. } => {}
            }
        }
        let memory = self.pay(task.memory()).await?;
        Ok(((task, class), memory))
    }

    /// A payload that was refused came all the same.
    pub(super) fn uninvited(&self, bytes: usize) {
        if let Some(courtesy) = &self.server.courtesy {
            courtesy.down().spend(bytes);
        }
    }
}

/// Writes an answer. Its payload waits for its turn step by step; that time is ours and counts against nobody, while a reader that
/// takes its time holds nothing but what it was given already.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    io: &mut W,
    answer: &Answer,
    courtesy: Option<&Courtesy>,
    limits: &ServerLimits,
    written: &Progress,
    is_last: impl Fn() -> bool + Send,
) -> Result<(), FrameError> {
    let payload = &answer.frame.payload;
    let line = courtesy.map(Courtesy::up).filter(|_| !payload.is_empty());
    let Some(line) = line.filter(|line| !line.passes_now(answer.class, payload.len())) else {
        let whole = async {
            frame::write_frame(io, &answer.frame, written).await?;
            if is_last() {
                io.flush().await?;
            }
            Ok(())
        };
        return frame::moving(limits.frame_time, limits.stall_time, written, whole).await;
    };
    let mut time = limits.frame_time;
    let mut rest = payload.as_ref();
    let mut front = true;
    while !rest.is_empty() {
        let (step, after) = rest.split_at(rest.len().min(line.step()));
        line.pass_piece(answer.class, step.len()).await;
        let began = Instant::now();
        let work = async {
            if front {
                frame::write_front(io, &answer.frame, written).await?;
            }
            frame::write_payload(io, step, written).await?;
            // It must not wait here for the next step's turn.
            io.flush().await?;
            Ok(())
        };
        frame::moving(time, limits.stall_time, written, work).await?;
        time = time.saturating_sub(began.elapsed());
        (front, rest) = (false, after);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_core::courtesy::timetable::{Speed, Timetable};
    use cairn_proto::{SHARD_SIZE, wire::FrameKind};
    use tokio::sync::Semaphore;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;
    use crate::{courtesy::CourtesyConfig, network::transfer::frame::Frame};

    async fn served(class: Priority) -> Answer {
        let places = Arc::new(Semaphore::new(1));
        let payload = Bytes::from(vec![7; SHARD_SIZE]);
        let frame = Frame { kind: FrameKind::Data, priority: class, request: 1, head: Vec::new(), payload };
        let slot = places.acquire_owned().await.expect("a place");
        Answer { frame, class, _slot: slot, _memory: None, _owed: None }
    }

    #[test]
    fn nobody_says_that_he_is_more_urgent_than_he_is() {
        let by = |leave, first| Priority::ALL.map(|said| reading(said, leave, || first));
        let (urgent, calm) = (Leave::Stewards { urgent: true }, Leave::Stewards { urgent: false });
        let by_owner = by(Leave::Owner, Priority::Critical);
        assert_eq!(by_owner, [Priority::High, Priority::High, Priority::Normal, Priority::Low]);
        let by_order = by(urgent, Priority::Critical);
        assert_eq!(by_order, [Priority::Critical, Priority::Low, Priority::Low, Priority::Low]);
        assert_eq!(by(calm, Priority::Critical), [Priority::Low; 4], "no quorum signed that it is urgent");
        assert_eq!(by(urgent, Priority::Low), [Priority::Low; 4], "it had what may go first");
    }

    /// One who does not read has had the few bytes that a stream takes, and no place before others.
    #[tokio::test]
    async fn whoever_reads_nothing_holds_nothing() {
        let table = Timetable::new(Speed::Limited(16 << 20), Speed::Free, Vec::new());
        let courtesy = Courtesy::start(CourtesyConfig::new(table, None));
        let for_ever = Duration::from_secs(600);
        let limits = ServerLimits { frame_time: for_ever, stall_time: for_ever, ..ServerLimits::default() };
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let deaf = {
            let courtesy = courtesy.clone();
            tokio::spawn(async move {
                let (mut ours, answer) = (ours.compat(), served(Priority::Critical).await);
                write(&mut ours, &answer, Some(&courtesy), &limits, &Progress::new(), || true).await
            })
        };
        tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut [0; 8]).await.expect("it has begun");
        let (ours, mut reader) = tokio::io::duplex(1024);
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut all).await.map(|_| all)
        });
        let (mut ours, answer) = (ours.compat(), served(Priority::Low).await);
        write(&mut ours, &answer, Some(&courtesy), &limits, &Progress::new(), || true).await.expect("written");
        drop(ours);
        let read = read.await.expect("reads").expect("all");
        assert!(read.len() > SHARD_SIZE && read.ends_with(&answer.frame.payload));
        assert!(!deaf.is_finished(), "and the deaf one still has not read");
        assert_eq!(courtesy.up().waiting(), 0);
        deaf.abort();
    }
}
