//! The figures that liveness goes by, in one place, so that one factor shortens them all for a trial.

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// Milliseconds each. The defaults are DESIGN's, section 7, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Silence from which a peer is late: five heartbeats.
    pub late_ms: u64,
    /// Silence from which it is away.
    pub away_ms: u64,
    /// Silence after which a server is presumed gone.
    pub server_gone_ms: u64,
    /// Silence after which a home machine is.
    pub home_gone_ms: u64,
    /// Others falling silent within so short a time have one cause, and the nearest is our own link.
    pub own_outage_ms: u64,
    /// How long we go on suspecting ourselves while most of the others are heard.
    pub own_outage_hold_ms: u64,
    /// The same when more than half stay silent, and how long a suspicion that was wrong is not raised again.
    pub own_outage_hold_most_ms: u64,
    /// Within which so many failures are one mass failure.
    pub mass_ms: u64,
    /// How long that is still minded after it was last so.
    pub mass_hold_ms: u64,
    /// The short span of churn: DESIGN's hour.
    pub churn_ms: u64,
    /// A day: the long span of churn, and what rates are by.
    pub day_ms: u64,
    /// Quiet time after which churn is normal again.
    pub churn_calm_ms: u64,
    /// How long a peer is watched before it can be a server.
    pub server_after_ms: u64,
    /// Absence that no server-to-be has: shorter than a night.
    pub server_absence_ms: u64,
    /// Time after which half of what a peer did is forgotten.
    pub record_ms: u64,
    /// Median absence of a home machine, before any was counted.
    pub home_off_ms: u64,
    /// The same of a server.
    pub server_off_ms: u64,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            late_ms: 300 * SECOND,
            away_ms: HOUR,
            server_gone_ms: DAY,
            home_gone_ms: 7 * DAY,
            own_outage_ms: 300 * SECOND,
            own_outage_hold_ms: HOUR,
            own_outage_hold_most_ms: DAY,
            mass_ms: HOUR,
            mass_hold_ms: 6 * HOUR,
            churn_ms: HOUR,
            day_ms: DAY,
            churn_calm_ms: DAY,
            server_after_ms: 7 * DAY,
            server_absence_ms: 4 * HOUR,
            record_ms: 14 * DAY,
            home_off_ms: 8 * HOUR,
            server_off_ms: HOUR,
        }
    }
}

impl Timers {
    /// All of them times `factor` (`CAIRN_TIMERS_SCALE`). None becomes zero, and a factor that is no positive number
    /// changes nothing: a wrong setting must not make everybody gone at once.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        if !(factor.is_finite() && factor > 0.0) {
            return self;
        }
        let by = |ms: u64| ((ms as f64 * factor) as u64).max(1);
        Self {
            late_ms: by(self.late_ms),
            away_ms: by(self.away_ms),
            server_gone_ms: by(self.server_gone_ms),
            home_gone_ms: by(self.home_gone_ms),
            own_outage_ms: by(self.own_outage_ms),
            own_outage_hold_ms: by(self.own_outage_hold_ms),
            own_outage_hold_most_ms: by(self.own_outage_hold_most_ms),
            mass_ms: by(self.mass_ms),
            mass_hold_ms: by(self.mass_hold_ms),
            churn_ms: by(self.churn_ms),
            day_ms: by(self.day_ms),
            churn_calm_ms: by(self.churn_calm_ms),
            server_after_ms: by(self.server_after_ms),
            server_absence_ms: by(self.server_absence_ms),
            record_ms: by(self.record_ms),
            home_off_ms: by(self.home_off_ms),
            server_off_ms: by(self.server_off_ms),
        }
    }

    /// Width of the steps in which silences are counted: a fifth of being late, a heartbeat.
    pub(super) const fn step_ms(&self) -> u64 {
        if self.late_ms < 5 { 1 } else { self.late_ms / 5 }
    }
}
