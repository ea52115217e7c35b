//! One direction of a limited line: a token bucket, and queues by class before it.
//!
//! # Invariants
//!
//! - **CRT-1** Within any span of time no more passes than the rate times the span, and the burst. Enforced by the bucket of
//!   [`crate::budget`]; attacked by `courtesy::tests::no_window_gets_more_than_its_rate`.
//! - **CRT-2** A more urgent class goes first, but none waits for ever: the head of a class goes after at most
//!   [`PASSED_OVER_MAX`] slices of more urgent ones, and one of each less urgent class that is due at that time. Enforced by
//!   [`Gate::grant`]; attacked by `courtesy::tests::urgent_first_and_nobody_starves`.

use std::collections::VecDeque;

use cairn_proto::{Timestamp, wire::Priority};

use crate::budget::{Rate, WaitMs, bucket::Bucket};

/// What goes through at a time: on the slowest line that may be set (32 KiB a second) that is half a second, so that an urgent
/// one never waits longer for what has begun.
pub const SLICE: u64 = 16 * 1024;
/// Slices of more urgent classes that a class lets pass while it waits: a restore leaves every second slice to an emergency at
/// most, backups get every eighth of a busy line and background work every sixteenth, which is what a restore is slowed by.
pub const PASSED_OVER_MAX: [u32; Priority::ALL.len()] = [0, 1, 7, 15];
/// Who may wait at once: some ten for each of some hundred peers. Whoever comes then is told to come again.
pub const WAITING_MAX: usize = 2048;

/// Something that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// All of this has passed.
    Passed(Ticket),
    /// Nobody's before so long.
    Wait(WaitMs),
    /// Nobody waits.
    Nobody,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    left: u64,
}

/// A line with a limit, or without one.
#[derive(Clone, Debug)]
pub struct Gate {
    bucket: Option<Bucket>,
    bytes_per_s: u64,
    queues: [VecDeque<Waiting>; Priority::ALL.len()],
    /// Slices of more urgent classes that went since this one's last.
    passed_over: [u32; Priority::ALL.len()],
    next: u64,
}

/// A quarter of a second at once, so that what was not used a moment ago is not lost; two slices at least.
fn rate(bytes_per_s: u64) -> Rate {
    Rate::new(bytes_per_s, (bytes_per_s / 4).max(2 * SLICE))
}

impl Gate {
    /// So many bytes a second; `None` is no limit.
    #[must_use]
    pub fn new(bytes_per_s: Option<u64>, now: Timestamp) -> Self {
        let bucket = bytes_per_s.map(|limit| Bucket::full(rate(limit), now));
        let bytes_per_s = bytes_per_s.unwrap_or(u64::MAX);
        Self { bucket, bytes_per_s, queues: Default::default(), passed_over: [0; 4], next: 0 }
    }

    /// Another limit from now on. Who waits goes on waiting.
    pub fn set_rate(&mut self, bytes_per_s: Option<u64>, now: Timestamp) {
        self.bytes_per_s = bytes_per_s.unwrap_or(u64::MAX);
        match (&mut self.bucket, bytes_per_s) {
            (Some(bucket), Some(limit)) => bucket.set_rate(rate(limit), now),
            (bucket, limit) => *bucket = limit.map(|limit| Bucket::full(rate(limit), now)),
        }
    }

    /// Whether there is a limit.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.bucket.is_some()
    }

    /// Takes a place; `None` when [`WAITING_MAX`] wait already.
    pub fn ask(&mut self, class: Priority, bytes: u64) -> Option<Ticket> {
        if self.queues.iter().map(VecDeque::len).sum::<usize>() >= WAITING_MAX {
            return None;
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.queues[class as usize].push_back(Waiting { ticket, left: bytes });
        Some(ticket)
    }

    /// Gives a place up. What has passed has passed.
    pub fn cancel(&mut self, ticket: Ticket) {
        for (queue, passed_over) in self.queues.iter_mut().zip(&mut self.passed_over) {
            queue.retain(|waiting| waiting.ticket != ticket);
            if queue.is_empty() {
                *passed_over = 0;
            }
        }
    }

    /// Something passed that did not ask, as what came in before it was refused: the others wait for it.
    pub fn spend(&mut self, bytes: u64, now: Timestamp) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now, bytes);
        }
    }

    /// Lets pass what may pass now, up to the first ticket of which all has passed; call again until nobody's turn is now.
    pub fn grant(&mut self, now: Timestamp) -> Turn {
        while let Some(class) = self.choose() {
            let Some(head) = self.queues[class].front_mut() else { break };
            let slice = head.left.min(SLICE);
            if let Some(bucket) = &mut self.bucket {
                if let Some(wait) = bucket.wait(now, Priority::Critical, slice) {
                    return Turn::Wait(wait);
                }
                bucket.take(now, slice);
            }
            head.left -= slice;
            let (ticket, left) = (head.ticket, head.left);
            if left == 0 {
                self.queues[class].pop_front();
            }
            self.passed_over[class] = 0;
            for less_urgent in class + 1..self.queues.len() {
                if !self.queues[less_urgent].is_empty() {
                    self.passed_over[less_urgent] += 1;
                }
            }
            if left == 0 {
                return Turn::Passed(ticket);
            }
        }
        Turn::Nobody
    }

    /// The least urgent class that was passed over often enough, or else the most urgent one.
    fn choose(&self) -> Option<usize> {
        let waits = |class: &usize| !self.queues[*class].is_empty();
        let due = |class: &usize| *class > 0 && self.passed_over[*class] >= PASSED_OVER_MAX[*class];
        let classes = || (0..self.queues.len()).filter(waits);
        classes().rev().find(due).or_else(|| classes().next())
    }

    /// About how long so many bytes more take of somebody who shares the line with all that wait and are as urgent or more.
    #[must_use]
    pub fn expected_ms(&self, class: Priority, bytes: u64) -> u64 {
        let waiting: usize = self.queues.iter().take(class as usize + 1).map(VecDeque::len).sum();
        let shared = u128::from(bytes) * (waiting as u128 + 1) * 1000;
        u64::try_from(shared / u128::from(self.bytes_per_s.max(1))).unwrap_or(u64::MAX)
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }
}
