//! The holder's worker pool: a bounded queue for each priority, the most urgent first.
//!
//! A fixed number of tasks take jobs; a job waits for the disk, so tasks and not threads. A full queue refuses at
//! once and the requester is told `Busy`. One job in [`FAIR_TURN`] is taken from the least urgent queue that has
//! one, so that backups never stop entirely while restores run.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use cairn_proto::wire::Priority;
use futures::{FutureExt as _, future::BoxFuture};
use tokio::{sync::Semaphore, task::JoinSet};

/// Jobs that run at once: enough to fill the store's group commit (32) from half as many writers and readers each.
pub(crate) const WORKERS: usize = 32;
/// Jobs that may wait, all priorities together. Memory is bounded by permits, this bounds latency: some seconds of
/// a slow disk.
pub(crate) const QUEUE_MAX: usize = 512;
/// Every so manieth job comes from the least urgent queue.
const FAIR_TURN: u64 = 8;

type Job = BoxFuture<'static, ()>;

struct Queues {
    jobs: [VecDeque<Job>; Priority::ALL.len()],
    waiting: usize,
    taken: u64,
}

/// Handle to the queue; the tasks end with the [`JoinSet`] that [`Workers::start`] returns.
#[derive(Clone)]
pub(crate) struct Workers {
    queues: Arc<Mutex<Queues>>,
    ready: Arc<Semaphore>,
    capacity: usize,
}

impl Workers {
    pub(crate) fn start(workers: usize, capacity: usize) -> (Self, JoinSet<()>) {
        let pool = Self {
            queues: Arc::new(Mutex::new(Queues {
                jobs: std::array::from_fn(|_| VecDeque::new()),
                waiting: 0,
                taken: 0,
            })),
            ready: Arc::new(Semaphore::new(0)),
            capacity,
        };
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(pool.clone().work());
        }
        (pool, tasks)
    }

    /// Queues a job; `false` when the queue is full.
    pub(crate) fn submit(&self, priority: Priority, job: Job) -> bool {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.waiting >= self.capacity {
            return false;
        }
        queues.waiting += 1;
        queues.jobs[priority as usize].push_back(job);
        drop(queues);
        self.ready.add_permits(1);
        true
    }

    async fn work(self) {
        while let Ok(permit) = self.ready.acquire().await {
            permit.forget();
            let Some(job) = self.take() else { continue };
            if AssertUnwindSafe(job).catch_unwind().await.is_err() {
                tracing::error!("a shard job panicked; its request gets no answer");
            }
        }
    }

    fn take(&self) -> Option<Job> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.taken += 1;
        let fair = queues.taken.is_multiple_of(FAIR_TURN);
        let job = if fair {
            queues.jobs.iter_mut().rev().find_map(VecDeque::pop_front)
        } else {
            queues.jobs.iter_mut().find_map(VecDeque::pop_front)
        };
        if job.is_some() {
            queues.waiting -= 1;
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urgent_jobs_go_first_and_a_full_queue_refuses() {
        let (pool, _tasks) = Workers::start(0, 3);
        let order = Arc::new(Mutex::new(Vec::new()));
        for priority in [Priority::Low, Priority::Normal, Priority::Critical] {
            let order = order.clone();
            assert!(pool.submit(priority, async move { order.lock().expect("lock").push(priority) }.boxed()));
        }
        assert!(!pool.submit(Priority::Critical, async {}.boxed()), "full");
        while let Some(job) = pool.take() {
            job.await;
        }
        assert_eq!(*order.lock().expect("lock"), [Priority::Critical, Priority::Normal, Priority::Low]);
    }
}
