//! When a node behind a NAT asks which relay to carry connections to it.
//!
//! Pure: the caller says what happened and when (on a clock that never goes back), and gets told whom to ask. One
//! relay carries a node at a time. A relay that went away is replaced at once; what fails is tried again ever more
//! slowly, and those that failed last come last, so that a relay that refuses is not asked in a circle while another
//! would carry us.

use std::collections::BTreeMap;

use cairn_proto::{PeerKey, Timestamp};

/// First and longest pause between two tries, in milliseconds; each failure doubles it.
pub const PAUSE_MS: (u64, u64) = (1_000, 5 * 60 * 1_000);
/// A relay that was asked and neither accepts nor refuses is given up after this: a dial and libp2p's own patience with
/// an answer (60 s) take less.
pub const ANSWER_MS: u64 = 90_000;
/// A relay that carried us for less than this failed; otherwise one that accepts and hangs up would be asked for ever.
pub const STEADY_MS: u64 = 60_000;
/// Relays whose failure is remembered: more than one node ever has to choose from, and a few kilobytes.
pub const FAILED_MAX: usize = 64;

/// How far we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody is asked before this time.
    Idle { not_before: Timestamp },
    /// A relay was asked.
    Asked { carrier: PeerKey, until: Timestamp },
    /// A relay carries us.
    Carried { carrier: PeerKey, since: Timestamp },
}

/// What a node knows of its relays.
#[derive(Clone, Debug)]
pub struct Carriage {
    wanted: bool,
    stage: Stage,
    /// Failures in a row.
    failures: u32,
    /// When each relay failed last.
    failed: BTreeMap<PeerKey, Timestamp>,
}

impl Carriage {
    /// `wanted`: whether a relay is needed from the start.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Self { wanted, stage: Stage::Idle { not_before: Timestamp(0) }, failures: 0, failed: BTreeMap::new() }
    }

    /// Nobody reaches us without a relay, or somebody does after all. A relay that carries us goes on.
    pub fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// The relay that is asked or carries us.
    #[must_use]
    pub fn carrier(&self) -> Option<PeerKey> {
        match self.stage {
            Stage::Idle { .. } => None,
            Stage::Asked { carrier, .. } | Stage::Carried { carrier, .. } => Some(carrier),
        }
    }

    /// Whether the relay that was asked has taken too long; the caller then says [`Self::ended`].
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        matches!(self.stage, Stage::Asked { until, .. } if now >= until)
    }

    /// Whether somebody is to be asked now.
    #[must_use]
    pub fn is_seeking(&self, now: Timestamp) -> bool {
        self.wanted && matches!(self.stage, Stage::Idle { not_before } if now >= not_before)
    }

    /// Whom to ask now, if anybody: of `carriers`, best first, those that never failed before those that failed
    /// longest ago.
    pub fn choose(&mut self, carriers: &[PeerKey], now: Timestamp) -> Option<PeerKey> {
        if !self.is_seeking(now) {
            return None;
        }
        // The first of equals: `min_by_key` keeps the caller's order.
        let carrier = *carriers.iter().min_by_key(|c| self.failed.get(c).copied().unwrap_or(Timestamp(0)))?;
        self.stage = Stage::Asked { carrier, until: now.plus_ms(ANSWER_MS) };
        Some(carrier)
    }

    /// The relay carries us.
    pub fn accepted(&mut self, now: Timestamp) {
        if let Stage::Asked { carrier, .. } = self.stage {
            self.stage = Stage::Carried { carrier, since: now };
            self.failed.remove(&carrier);
        }
    }

    /// The relay refused, was not reached, or carries us no longer.
    pub fn ended(&mut self, now: Timestamp) {
        let (carrier, steady) = match self.stage {
            Stage::Idle { .. } => return,
            Stage::Asked { carrier, .. } => (carrier, false),
            Stage::Carried { carrier, since } => {
                // What carried us must be replaced, even when nobody says again that we are not reached without.
                self.wanted = true;
                (carrier, now.ms_since(since) >= STEADY_MS)
            }
        };
        let pause = if steady {
            self.failures = 0;
            0
        } else {
            let pause = PAUSE_MS.0.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MS.1);
            self.failures = self.failures.saturating_add(1);
            pause
        };
        self.stage = Stage::Idle { not_before: now.plus_ms(pause) };
        self.failed.insert(carrier, now);
        if self.failed.len() > FAILED_MAX
            && let Some(oldest) = self.failed.iter().min_by_key(|(_, at)| **at).map(|(peer, _)| *peer)
        {
            self.failed.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    #[test]
    fn a_lost_relay_is_replaced_at_once_and_asked_again_last() {
        let mut carriage = Carriage::new(true);
        let all = [peer(1), peer(2)];
        assert_eq!(carriage.choose(&all, Timestamp(10)), Some(peer(1)));
        assert_eq!(carriage.choose(&all, Timestamp(10)), None, "one at a time");
        carriage.accepted(Timestamp(10));
        assert_eq!(carriage.choose(&all, Timestamp(20)), None, "it carries us");
        carriage.ended(Timestamp(10 + STEADY_MS));
        assert_eq!(carriage.choose(&all, Timestamp(10 + STEADY_MS)), Some(peer(2)));
        carriage.accepted(Timestamp(100_000));
        carriage.ended(Timestamp(200_000));
        assert_eq!(carriage.choose(&all, Timestamp(200_000)), Some(peer(1)), "failed longer ago");
    }

    /// When a relay is asked within an hour, if each answer is this.
    fn tries(answer: impl Fn(&mut Carriage, Timestamp)) -> Vec<u64> {
        let mut carriage = Carriage::new(true);
        let mut tries = Vec::new();
        for now in (0..3_600_000).step_by(250) {
            if carriage.choose(&[peer(1)], Timestamp(now)).is_some() {
                tries.push(now);
                answer(&mut carriage, Timestamp(now));
            }
        }
        tries
    }

    #[test]
    fn refusals_and_relays_that_hang_up_are_met_with_ever_longer_pauses() {
        let refused = tries(|carriage, now| carriage.ended(now));
        assert_eq!(refused[..4], [0, 1_000, 3_000, 7_000]);
        assert!(refused.len() <= 9 + 12, "an hour of refusals: {} tries", refused.len());
        let hung_up = tries(|carriage, now| {
            carriage.accepted(now);
            carriage.ended(now);
        });
        assert_eq!(hung_up, refused);
    }

    #[test]
    fn a_steady_relay_forgives_earlier_failures() {
        let mut carriage = Carriage::new(true);
        for now in [0, 1_000, 3_000] {
            assert_eq!(carriage.choose(&[peer(1)], Timestamp(now)), Some(peer(1)));
            carriage.ended(Timestamp(now));
        }
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(6_999)), None);
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(7_000)), Some(peer(1)));
        carriage.accepted(Timestamp(7_000));
        let lost = 7_000 + STEADY_MS;
        carriage.ended(Timestamp(lost));
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(lost)), Some(peer(1)));
        carriage.ended(Timestamp(lost));
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(lost + 999)), None);
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(lost + 1_000)), Some(peer(1)));
    }

    #[test]
    fn silence_is_overdue_and_memory_is_bounded() {
        let mut carriage = Carriage::new(true);
        assert_eq!(carriage.choose(&[peer(7)], Timestamp(5)), Some(peer(7)));
        assert!(!carriage.is_overdue(Timestamp(5 + ANSWER_MS - 1)));
        assert!(carriage.is_overdue(Timestamp(5 + ANSWER_MS)));
        carriage.accepted(Timestamp(6));
        assert!(!carriage.is_overdue(Timestamp(u64::MAX)), "it answered");

        let mut carriage = Carriage::new(true);
        for n in 0..=u8::MAX {
            let now = Timestamp(u64::from(n) * PAUSE_MS.1);
            assert_eq!(carriage.choose(&[peer(n)], now), Some(peer(n)));
            carriage.ended(now);
        }
        assert_eq!(carriage.failed.len(), FAILED_MAX);
        assert!(carriage.failed.contains_key(&peer(u8::MAX)), "the oldest are forgotten");
    }

    #[test]
    fn who_is_reached_directly_asks_nobody() {
        let mut carriage = Carriage::new(false);
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(0)), None);
        carriage.want(true);
        assert_eq!(carriage.choose(&[], Timestamp(0)), None, "nobody to ask");
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(0)), Some(peer(1)));
        carriage.want(false);
        carriage.ended(Timestamp(1));
        assert_eq!(carriage.choose(&[peer(1)], Timestamp(u64::MAX)), None);
    }
}
