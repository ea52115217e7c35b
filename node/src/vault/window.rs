//! How many shards a reader asks for at once, and how long one may take: both follow what the line shows.
//!
//! A fixed number is wrong on most lines: on a fast one it leaves the line idle between answers, on a slow one every shard
//! takes so long beside the others that it looks as if its holder slept, and asking others as well makes it longer still. So
//! it begins small and grows by one with each shard that came quickly, and shrinks with each that did not (additive both
//! ways: holders differ, and one slow one must not halve what the others give).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// Shards asked for at first, and always: 4 MiB in [`PATIENCE`] is a line of 11 Mbit/s.
const FIRST: usize = 4;
/// Shards asked for at most: 24 MiB on their way.
const MOST: usize = 24;
/// How long a holder may take before another slot is asked as well, when nothing is known of the line.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a holder that is not connected may take, while enough others are and nothing is known of the line: three round trips of a
/// dial, within a continent.
const SOON: Duration = Duration::from_millis(150);
/// The same at least when it is known: a dial on a busy machine. Else four times what a shard takes, since a stripe can be had from
/// those who are there in about that time.
const SOON_MIN: Duration = Duration::from_millis(30);
/// However slow the line is, nobody is waited for longer.
const PATIENCE_MAX: Duration = Duration::from_secs(30);
/// A shard that came in this time came quickly.
const QUICK: Duration = Duration::from_millis(1200);

/// The window of one reader.
#[derive(Debug)]
pub(super) struct Window {
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    size: usize,
    /// What a shard takes of late: an eighth of the newest, seven of what was.
    typical: Duration,
}

impl State {
    const fn new() -> Self {
        Self { size: FIRST, typical: Duration::ZERO }
    }

    /// After a shard took this long; whether it came.
    fn after(self, took: Duration, came: bool) -> Self {
        let size = match came && took <= QUICK {
            true => (self.size + 1).min(MOST),
            false if took > QUICK => self.size.saturating_sub(1).max(FIRST),
            false => self.size,
        };
        // A refusal says nothing of the line, a time-out that it is at least so slow.
        let says = came || took > QUICK;
        let typical = match self.typical {
            known if !says => known,
            Duration::ZERO => took,
            known => (7 * known + took) / 8,
        };
        Self { size, typical }
    }

    fn patience(self) -> Duration {
        (3 * self.typical).clamp(PATIENCE, PATIENCE_MAX)
    }

    fn soon(self) -> Duration {
        match self.typical {
            Duration::ZERO => SOON,
            known => (4 * known).clamp(SOON_MIN, PATIENCE),
        }
    }
}

/// The right to fetch one shard.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    window: &'a Window,
    permit: Option<SemaphorePermit<'a>>,
    began: Instant,
    came: bool,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self { permits: Semaphore::const_new(FIRST), state: Mutex::new(State::new()) }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) -> Turn<'_> {
        // The semaphore is never closed.
        let permit = self.permits.acquire().await.ok();
        Turn { window: self, permit, began: Instant::now(), came: false }
    }

    /// How long a shard may take before another slot is asked as well.
    pub(super) fn patience(&self) -> Duration {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).patience()
    }

    /// Ends when a holder that must be dialled first has taken too long since `began`, if `is_late` says so: that others need not be.
    /// What the line and the dials show meanwhile counts.
    pub(super) async fn late(&self, began: Instant, is_late: impl Fn() -> bool) {
        loop {
            let soon = self.state.lock().unwrap_or_else(PoisonError::into_inner).soon();
            let left = soon.saturating_sub(began.elapsed());
            if left.is_zero() && is_late() {
                return;
            }
            let step = if left.is_zero() { SOON_MIN / 3 } else { left.min(SOON_MIN) };
            tokio::time::sleep(step).await;
        }
    }
}

impl Turn<'_> {
    /// The shard came.
    pub(super) const fn came(&mut self) {
        self.came = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.window.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.size;
        *state = state.after(self.began.elapsed(), self.came);
        match state.size {
            size if size > before => self.window.permits.add_permits(1),
            // One permit less: this one does not go back.
            size if size < before => drop(self.permit.take().map(SemaphorePermit::forget)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_fast_line_opens_it_and_a_slow_one_closes_it() {
        let mut state = State::new();
        assert_eq!((state.patience(), state.soon()), (PATIENCE, SOON));
        for _ in 0..100 {
            state = state.after(20 * MS, true);
        }
        assert_eq!((state.size, state.patience()), (MOST, PATIENCE));
        assert_eq!(
            (state.soon(), state.after(MS, true).after(MS, true).soon()),
            (80 * MS, Duration::from_nanos(62_187_500))
        );
        // Refusals say nothing.
        assert_eq!(state.after(MS, false), state);
        for _ in 0..100 {
            state = state.after(4000 * MS, true);
        }
        assert_eq!(state.size, FIRST);
        assert!(state.patience() > 11_000 * MS && state.patience() <= 12_000 * MS, "{:?}", state.patience());
        assert_eq!(state.soon(), PATIENCE, "rebuilding costs more than waiting on such a line");
        for _ in 0..100 {
            state = state.after(60_000 * MS, false);
        }
        assert_eq!((state.size, state.patience()), (FIRST, PATIENCE_MAX));
    }

    #[tokio::test]
    async fn who_is_dialled_is_waited_for_as_long_as_others_are_not_there() {
        let window = Window::new();
        assert_eq!(window.state.lock().expect("lock").soon(), SOON);
        *window.state.lock().expect("lock") = State::new().after(MS, true);
        let (began, asked) = (Instant::now(), std::cell::Cell::new(0));
        let third = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        window.late(began, third).await;
        assert_eq!(asked.get(), 3);
        assert!(began.elapsed() >= SOON_MIN + 2 * SOON_MIN / 3, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn permits_follow_the_size() {
        let window = Window::new();
        let mut turns = Vec::new();
        for _ in 0..FIRST {
            turns.push(window.turn().await);
        }
        assert!(tokio::time::timeout(MS, window.turn()).await.is_err(), "no more than that");
        for mut turn in turns.drain(..) {
            turn.came();
        }
        assert_eq!(window.permits.available_permits(), 2 * FIRST);
        for _ in 0..2 * FIRST {
            turns.push(window.turn().await);
        }
        // Long ago, and dropped without a word, as by a time-out.
        turns.iter_mut().for_each(|turn| turn.began -= 5000 * MS);
        turns.clear();
        assert_eq!(window.permits.available_permits(), FIRST);
        assert!(window.patience() > PATIENCE);
    }
}
