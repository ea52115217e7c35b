//! What goes out to other peers: bounded in number, bytes and tries, and nobody waits for it.

use std::{sync::Arc, time::Duration};

use cairn_core::steward::{
    Say,
    wire::{Answer, Refusal, Request},
};
use cairn_proto::PeerKey;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::ports::StewardNet;
use crate::overlay::TransferError;

/// Messages that are on their way at the same time, all in all.
const LANES: usize = 32;
/// KiB that wait to be sent or tried again; beyond, a message is lost, which stewards are used to.
const ROOM_KIB: u32 = 64 * 1024;
/// What any message counts for, its task included; so at most 8192 wait.
const LEAST_KIB: u32 = 8;
/// Times that a message is tried.
const TRIES: u32 = 3;
/// How long one try may take: a map of 2 MiB over a slow line.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends messages.
#[derive(Clone)]
pub(super) struct Outbox {
    net: Arc<dyn StewardNet>,
    room: Arc<Semaphore>,
    lanes: Arc<Semaphore>,
    /// Before the second try; four times that before the third.
    pause: Duration,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Outbox {
    pub(super) fn new(net: Arc<dyn StewardNet>, pause: Duration, cancel: CancellationToken) -> Self {
        let (room, lanes) = (Semaphore::new(ROOM_KIB as usize), Semaphore::new(LANES));
        Self { net, room: Arc::new(room), lanes: Arc::new(lanes), pause, tracker: TaskTracker::new(), cancel }
    }

    /// Sends it, or loses it when too much waits.
    pub(super) fn send(&self, to: PeerKey, request: Request) {
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(weight_kib(&request)) else {
            tracing::warn!(peer = %to.short(), "too many messages wait; one is lost");
            return;
        };
        let this = self.clone();
        self.tracker.spawn(async move {
            let sent = this.cancel.clone().run_until_cancelled_owned(this.try_to_send(to, request)).await;
            if let Some(Err(error)) = sent {
                tracing::debug!(peer = %to.short(), %error, "a message was lost");
            }
            drop(room);
        });
    }

    pub(super) fn say(&self, to: PeerKey, say: Say) {
        self.send(to, Request::Say(Box::new(say)));
    }

    async fn try_to_send(&self, to: PeerKey, request: Request) -> Result<(), TransferError> {
        let mut tried = 0;
        loop {
            let answer = self.ask(to, request.clone()).await;
            tried += 1;
            let again = match answer {
                Ok(Answer::Refused(Refusal::Busy)) => true,
                Ok(_) => return Ok(()),
                Err(TransferError::Unreachable(_) | TransferError::TimedOut) => true,
                Err(TransferError::Refused { retry_after_ms, .. }) => retry_after_ms > 0,
                Err(TransferError::Misbehaved(_) | TransferError::ShuttingDown) => false,
            };
            if !again || tried == TRIES {
                return answer.map(|_| ());
            }
            tokio::time::sleep(self.pause * 4u32.pow(tried - 1)).await;
        }
    }

    /// Asks once, when there is a lane.
    pub(super) async fn ask(&self, to: PeerKey, request: Request) -> Result<Answer, TransferError> {
        let Ok(_lane) = self.lanes.acquire().await else { return Err(TransferError::ShuttingDown) };
        tokio::time::timeout(PATIENCE, self.net.request(to, request)).await.unwrap_or(Err(TransferError::TimedOut))
    }

    /// Waits until everything was sent or given up; the token ends that soon.
    pub(super) async fn close(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// About what it takes in memory.
fn weight_kib(request: &Request) -> u32 {
    let certificates = |count: usize| (count * 3 / 2) as u32;
    LEAST_KIB
        + match request {
            Request::Say(say) => match &**say {
                Say::Map { changes, entries, .. } => certificates(changes.len() + entries.len()),
                Say::Record { changes, entries, .. } => 160 + certificates(changes.len() + entries.len()),
                _ => 0,
            },
            Request::Give { credentials, .. } => 16 + certificates(credentials.changes.len()),
            Request::Register { .. } | Request::Ask { .. } => 80,
        }
}
