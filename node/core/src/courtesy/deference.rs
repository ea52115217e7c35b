//! Background work gives way to restores on a line without a limit: nobody knows what such a line carries, so what restores leave
//! cannot be reckoned; but what background work takes can be kept a small part of what restores get.

use cairn_proto::Timestamp;

use crate::budget::WaitMs;

/// Restores go on as long as no longer than this passed since the last of their bytes: between two shards over a long line.
const GOING_ON_MS: u64 = 250;
/// Background work may pass one byte for so many of restores: a sixteenth, as on a limited line.
const ONE_IN: u64 = 15;
/// ... and so many bytes a second in any case, so that whoever reads slowly for ever stops no repair: a shard in 16 seconds.
const TRICKLE: u64 = 64 * 1024;
/// What may be saved up: half a second of a line of 16 MB a second, as restores come in bursts.
const CREDIT_MAX: u64 = 512 * 1024;

/// When restores passed here, and what background work may pass beside them.
#[derive(Clone, Copy, Debug)]
pub struct Deference {
    restored_at: Option<Timestamp>,
    /// Thousandths of a byte.
    credit: u64,
    /// Up to when the trickle is counted.
    at: Timestamp,
}

impl Deference {
    /// Nothing was restored yet.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { restored_at: None, credit: 0, at: now }
    }

    fn add(&mut self, thousandths: u64) {
        self.credit = self.credit.saturating_add(thousandths).min(CREDIT_MAX * 1000);
    }

    /// So many bytes of a restore pass now.
    pub fn restored(&mut self, bytes: u64, now: Timestamp) {
        if !self.goes_on(now) {
            // What was saved up before belongs to another time.
            (self.credit, self.at) = (0, now);
        }
        self.restored_at = Some(now);
        self.add((bytes * 1000) / ONE_IN);
    }

    fn goes_on(&self, now: Timestamp) -> bool {
        self.restored_at.is_some_and(|at| now.ms_since(at) <= GOING_ON_MS)
    }

    /// Whether so many bytes of background work may pass now; else how long until that can be so, if no more is restored.
    ///
    /// # Errors
    /// When to ask again.
    pub fn may_pass(&mut self, bytes: u64, now: Timestamp) -> Result<(), WaitMs> {
        let Some(restored_at) = self.restored_at.filter(|_| self.goes_on(now)) else { return Ok(()) };
        self.add(now.ms_since(self.at) * TRICKLE);
        self.at = self.at.max(now);
        // More than can be saved up goes when that is full.
        let needed = bytes.min(CREDIT_MAX) * 1000;
        if self.credit >= needed {
            self.credit -= needed;
            return Ok(());
        }
        let trickled = (needed - self.credit).div_ceil(TRICKLE);
        let over = (GOING_ON_MS + 1).saturating_sub(now.ms_since(restored_at));
        Err(WaitMs(trickled.min(over).max(1)))
    }
}
