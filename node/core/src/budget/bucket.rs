//! One token bucket, in whole thousandths of a byte: a rate in bytes a second gives exactly so many of them a millisecond.

use cairn_proto::{Timestamp, wire::Priority};

use super::WaitMs;

/// Bytes a second, and as many at once. Neither is zero, and both stay where a thousandfold fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bytes_per_s: u64,
    burst: u64,
}

impl Rate {
    /// The nearest that is possible.
    #[must_use]
    pub const fn new(bytes_per_s: u64, burst: u64) -> Self {
        const MOST: u64 = 1 << 50;
        const fn within(figure: u64) -> u64 {
            if figure == 0 {
                1
            } else if figure > MOST {
                MOST
            } else {
                figure
            }
        }
        Self { bytes_per_s: within(bytes_per_s), burst: within(burst) }
    }

    /// Bytes a second.
    #[must_use]
    pub const fn bytes_per_s(self) -> u64 {
        self.bytes_per_s
    }

    /// Most bytes at once of this class; the rest stays for what is more urgent.
    pub(crate) const fn open_to(self, class: Priority) -> u64 {
        match class {
            Priority::Critical => self.burst,
            Priority::High | Priority::Normal => self.burst - self.burst / 4,
            Priority::Low => self.burst - self.burst / 2,
        }
    }

    /// Most bytes at once.
    #[must_use]
    pub const fn burst(self) -> u64 {
        self.burst
    }
}

/// Starts full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    rate: Rate,
    /// Thousandths of a byte, at most a thousand times the burst.
    level: u64,
    /// When that was so. Never goes back: a clock that does gives nothing twice.
    at: Timestamp,
}

impl Bucket {
    pub(crate) const fn full(rate: Rate, now: Timestamp) -> Self {
        Self { rate, level: rate.burst * 1000, at: now }
    }

    /// As it was kept: no fuller than it may be, and not ahead of a clock that was set back.
    pub(crate) fn kept(rate: Rate, level: u64, at: Timestamp, now: Timestamp) -> Self {
        Self { rate, level: level.min(rate.burst * 1000), at: at.min(now) }
    }

    /// What is to be kept of it.
    pub(crate) const fn keeping(&self) -> (u64, Timestamp) {
        (self.level, self.at)
    }

    /// Bytes that were taken and have not come back.
    pub(crate) fn taken(&self, now: Timestamp) -> u64 {
        (self.rate.burst * 1000 - self.level(now)).div_ceil(1000)
    }

    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    fn level(&self, now: Timestamp) -> u64 {
        let gathered = now.ms_since(self.at).saturating_mul(self.rate.bytes_per_s);
        self.level.saturating_add(gathered).min(self.rate.burst * 1000)
    }

    fn settle(&mut self, now: Timestamp) {
        self.level = self.level(now);
        self.at = self.at.max(now);
    }

    pub(crate) fn set_rate(&mut self, rate: Rate, now: Timestamp) {
        self.settle(now);
        self.rate = rate;
        self.level = self.level.min(rate.burst * 1000);
    }

    /// How long until so many bytes can be taken and what must stay is left; `None` when that is so.
    pub(crate) fn wait(&self, now: Timestamp, class: Priority, bytes: u64) -> Option<WaitMs> {
        let needed = bytes.saturating_add(self.rate.burst - self.rate.open_to(class));
        if needed > self.rate.burst {
            return Some(WaitMs::NEVER);
        }
        self.until(needed, now)
    }

    fn until(&self, bytes: u64, now: Timestamp) -> Option<WaitMs> {
        let lacking = (bytes * 1000).saturating_sub(self.level(now));
        // A clock that went back has to come back first.
        let behind = self.at.ms_since(now);
        (lacking > 0).then(|| WaitMs(lacking.div_ceil(self.rate.bytes_per_s).saturating_add(behind)))
    }

    /// How long until it is full.
    pub(crate) fn full_in(&self, now: Timestamp) -> WaitMs {
        self.until(self.rate.burst, now).unwrap_or(WaitMs(0))
    }

    /// Takes what [`Bucket::wait`] said is there.
    pub(crate) fn take(&mut self, now: Timestamp, bytes: u64) {
        self.settle(now);
        self.level = self.level.saturating_sub(bytes.saturating_mul(1000));
    }
}
