//! What came of requests and pings, by hour, for the last day.

use cairn_proto::Timestamp;

const HOUR_MS: u64 = 3600 * 1000;
/// Fewer outcomes say nothing in thousandths: one failure among twenty would be a peer's whole allowance for a day.
const OUTCOMES_MIN: u64 = 40;

/// Outcomes of requests and pings, by hour, for the last day.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcomes {
    hours: [(u32, u32); 24],
    hour: u64,
}

impl Outcomes {
    pub(super) fn note(&mut self, ok: bool, now: Timestamp) {
        self.turn(now);
        let slot = &mut self.hours[(self.hour % 24) as usize];
        slot.0 += 1;
        slot.1 += u32::from(!ok);
    }

    fn turn(&mut self, now: Timestamp) {
        let hour = now.0 / HOUR_MS;
        let passed = hour.saturating_sub(self.hour).min(24);
        for step in 1..=passed {
            self.hours[((self.hour + step) % 24) as usize] = (0, 0);
        }
        self.hour = self.hour.max(hour);
    }

    /// Outcomes of the last day, and how many of them were failures.
    pub(super) fn all_and_failed(mut self, now: Timestamp) -> (u64, u64) {
        self.turn(now);
        self.hours.iter().fold((0, 0), |(a, f), h| (a + u64::from(h.0), f + u64::from(h.1)))
    }

    pub(super) fn loss(self, now: Timestamp) -> u16 {
        let (all, failed) = self.all_and_failed(now);
        if all < OUTCOMES_MIN { 0 } else { (failed * 1000 / all) as u16 }
    }
}
