//! How much the serving side gives to all, and to one peer.

use std::{sync::Arc, time::Duration};

use cairn_proto::SHARD_SIZE;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::network::{stewards::StewardLimits, transfer::workers};

/// Limits of the serving side. Tests make them small.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Shard bytes in memory for all streams together. 64 MiB: 64 shards, twice what a group commit takes. One peer
    /// gets a quarter.
    pub memory: usize,
    /// A begun frame must be complete within this time.
    pub frame_time: Duration,
    /// A begun frame of which no byte moves for this long ends its stream: what it holds in memory is others' share.
    pub stall_time: Duration,
    /// A stream without any frame for this long is closed.
    pub idle_time: Duration,
    /// How long a request waits for memory before it is told `Busy`.
    pub memory_wait: Duration,
    /// Jobs at once.
    pub workers: usize,
    /// Jobs waiting.
    pub queue: usize,
    /// Streams of one peer at once: its two lanes, and two more while a broken connection is not yet noticed.
    pub streams_per_peer: usize,
    /// From one round of passing kept heads on to the next.
    pub replicate_every: Duration,
    /// Silence after which a steward's place goes to another; whoever is heard within it is not to be passed over.
    pub steward_lost: Duration,
    /// What the stewards' protocol adds.
    pub stewards: StewardLimits,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            memory: 64 * SHARD_SIZE,
            frame_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(300),
            memory_wait: Duration::from_secs(2),
            workers: workers::WORKERS,
            queue: workers::QUEUE_MAX,
            streams_per_peer: 4,
            replicate_every: Duration::from_secs(3600),
            steward_lost: Duration::from_secs(24 * 3600),
            stewards: StewardLimits::default(),
        }
    }
}

/// The memory budget counts in these, since a semaphore's permits are 32-bit.
pub(super) const PERMIT_BYTES: usize = 1024;

impl ServerLimits {
    /// Most memory for all streams of one peer: a quarter, so that one that never reads its answers leaves room for
    /// others; 16 shards are all that its two lanes may have asked for. Never less than the one shard that it needs.
    fn memory_per_peer(&self) -> usize {
        (self.memory / 4).max(SHARD_SIZE)
    }
}

/// Long questions of one peer at once: another one waits for the first.
const LONG_PER_PEER: usize = 1;

/// What one peer may take, shared by its streams.
#[derive(Clone)]
pub(crate) struct PeerPlaces {
    pub(crate) streams: Arc<Semaphore>,
    /// Of its questions on the stewards' protocol.
    pub(crate) questions: Arc<Semaphore>,
    /// ... and of those that are long.
    pub(crate) long: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    limits: ServerLimits,
}

impl PeerPlaces {
    pub(crate) fn new(limits: ServerLimits) -> Self {
        let streams = Arc::new(Semaphore::new(limits.streams_per_peer));
        let memory = Arc::new(Semaphore::new(limits.memory_per_peer() / PERMIT_BYTES));
        let questions = Arc::new(Semaphore::new(limits.stewards.per_peer));
        Self { streams, questions, long: Arc::new(Semaphore::new(LONG_PER_PEER)), memory, limits }
    }

    /// A peer that holds something takes more only while that leaves as much free as it then holds: n that take all they
    /// can leave one part of n + 1 to whoever comes next (Choudhury and Hahne, "Dynamic queue length thresholds for
    /// shared-memory packet switches", 1998).
    pub(super) fn may_take(&self, permits: usize, free: usize) -> bool {
        let held = (self.limits.memory_per_peer() / PERMIT_BYTES).saturating_sub(self.memory.available_permits());
        held == 0 || held + 2 * permits <= free
    }

    /// Nothing is taken. Jobs outlive their stream, so memory counts too: else a peer that comes and goes would get
    /// a new budget each time.
    pub(crate) fn is_idle(&self) -> bool {
        self.streams.available_permits() >= self.limits.streams_per_peer
            && self.questions.available_permits() >= self.limits.stewards.per_peer
            && self.long.available_permits() >= LONG_PER_PEER
            && self.memory.available_permits() >= self.limits.memory_per_peer() / PERMIT_BYTES
    }
}

/// Memory of one request: of its peer's budget, and of everybody's.
pub(super) struct Memory {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl PeerPlaces {
    /// Takes so many permits of the peer's budget, then of everybody's.
    pub(super) async fn take(&self, permits: u32, all: &Arc<Semaphore>) -> Result<Memory, AcquireError> {
        let of_peer = self.memory.clone().acquire_many_owned(permits).await?;
        let of_all = all.clone().acquire_many_owned(permits).await?;
        Ok(Memory { _of_peer: of_peer, _of_all: of_all })
    }
}
