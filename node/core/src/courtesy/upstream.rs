//! What our line carries outwards, by what really went out.
//!
//! Of each day the [`NEEDED`]th of the fastest seconds counts, of the last week's days the second fastest: a few seconds in which
//! buffers swallowed more than went out do not raise it, nor do many in which readers were slow lower it.
//! Only seconds count that were under load from end to end, and began so.

use std::{cmp::Reverse, collections::BTreeMap};

/// Seconds of a day that were as fast.
pub const NEEDED: usize = 30;
/// Days that are remembered.
pub const DAYS: u64 = 7;
/// Less was measured when the line was full of something else, or the others were slow.
pub const LEAST: u64 = 64 * 1024;
/// Taken for granted until something was measured: 10 Mbit/s.
pub const ASSUMED: u64 = 1_250_000;
/// No line is faster, 100 Gbit/s: what says otherwise is a damaged file.
const MOST: u64 = 12_500_000_000;

/// Figures of the last days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// The fastest seconds of each day, slowest first, at most [`NEEDED`].
    days: BTreeMap<u64, Vec<u64>>,
}

impl Upstream {
    /// What was remembered ([`Upstream::seconds`]); whatever is too much of it is left out.
    #[must_use]
    pub fn restore(seconds: impl IntoIterator<Item = (u64, Vec<u64>)>, today: u64) -> Self {
        let mut upstream = Self::default();
        for (day, seconds) in seconds.into_iter().take(DAYS as usize).filter(|(day, _)| *day <= today) {
            seconds.into_iter().take(NEEDED).for_each(|bytes| upstream.insert(day, bytes));
        }
        upstream.forget(today);
        upstream
    }

    /// The fastest seconds of each day, to be remembered.
    pub fn seconds(&self) -> impl Iterator<Item = (u64, &[u64])> {
        self.days.iter().map(|(day, seconds)| (*day, seconds.as_slice()))
    }

    /// A second under load in which so many bytes went out. `day`: since 1970.
    pub fn note(&mut self, day: u64, bytes: u64) {
        self.insert(day, bytes);
        self.forget(day);
    }

    fn insert(&mut self, day: u64, bytes: u64) {
        let seconds = self.days.entry(day).or_default();
        let bytes = bytes.min(MOST);
        if seconds.len() >= NEEDED {
            if seconds.first().is_some_and(|slowest| *slowest >= bytes) {
                return;
            }
            seconds.remove(0);
        }
        let place = seconds.partition_point(|other| *other <= bytes);
        seconds.insert(place, bytes);
    }

    /// Days that are over long ago, and those that a clock that was set back says are yet to come.
    fn forget(&mut self, today: u64) {
        self.days.retain(|day, _| *day <= today && today - day < DAYS);
    }

    /// Bytes a second, if enough was measured.
    #[must_use]
    pub fn measured(&self) -> Option<u64> {
        let mut figures: Vec<u64> =
            self.days.values().filter(|seconds| seconds.len() >= NEEDED).map(|seconds| seconds[0]).collect();
        figures.sort_unstable_by_key(|figure| Reverse(*figure));
        figures.get(usize::from(figures.len() > 2)).map(|figure| (*figure).max(LEAST))
    }

    /// What was measured, or [`ASSUMED`]; no more than a limit that holds.
    #[must_use]
    pub fn usable(&self, limit: Option<u64>) -> u64 {
        self.measured().unwrap_or(ASSUMED).min(limit.unwrap_or(u64::MAX))
    }
}
