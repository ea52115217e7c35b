//! How long peers of a class stay away and how often, how many never come back, and what a silence says by that.
//!
//! P(alive | silent for t) = (1 - π) S(t) / (π + (1 - π) S(t)): π is the share of departures that are for good, S(t) the
//! chance that an absence lasts longer than t (log-normal). Source: research/theory.md, 3.1.
//!
//! Learned by counting, with a prior that weighs as much as [`PRIOR_ABSENCES`] absences and [`PRIOR_DAYS`] peer-days. Many
//! identities of one hand could teach us long absences to delay repair; so what is learned stays within bounds
//! ([`SIGMA`], a quarter to four times the prior's median), one peer is counted four times a day at most, and
//! [`super::Timers::home_gone_ms`] holds whatever was learned.

use super::{Class, Timers};

/// Absences that the prior of how long weighs.
const PRIOR_ABSENCES: f64 = 20.0;
/// Peer-days that the prior of how often, and of how many for good, weighs: as many as say something, see
/// [`crate::durability::measured`].
const PRIOR_DAYS: f64 = 600.0;
/// Peers that leave for good in a month, before any did: what RS(5,3) in two copies stands.
const PRIOR_CHURN: f64 = 0.20;
/// Spread of the logarithm of absences, as far as it may be learned.
const SIGMA: (f64, f64) = (0.6, 2.0);
/// From here on half of it is forgotten, so that the new counts and no sum grows without end.
const ABSENCES_MAX: u32 = 4096;
const DAYS_MAX: u64 = 65_536;

/// What was counted of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Habits {
    /// Time that its peers were watched, all together.
    pub(super) peer_ms: u64,
    /// Absences begun in it that ended ...
    pub(super) absences: u32,
    /// ... and those that passed for final.
    pub(super) gone: u32,
    /// Absences measured: how many,
    pub(super) offs: u32,
    /// the sum of their logarithms in thousandths,
    pub(super) ln_sum: u64,
    /// and of the squares of these.
    pub(super) ln_squares: u64,
}

impl Habits {
    /// A peer was watched for so long.
    pub(super) fn watched(&mut self, ms: u64, timers: &Timers) {
        self.peer_ms = self.peer_ms.saturating_add(ms);
        if self.peer_ms / timers.day_ms > DAYS_MAX {
            self.peer_ms /= 2;
            self.absences /= 2;
            self.gone /= 2;
        }
    }

    /// A peer came back after so long. `measured`: not too soon after its last.
    pub(super) fn returned(&mut self, ms: u64, measured: bool) {
        self.absences = self.absences.saturating_add(1);
        if !measured {
            return;
        }
        let ln = ((ms.max(1) as f64).ln() * 1000.0) as u64;
        self.offs = self.offs.saturating_add(1);
        self.ln_sum = self.ln_sum.saturating_add(ln);
        self.ln_squares = self.ln_squares.saturating_add(ln * ln);
        if self.offs >= ABSENCES_MAX {
            self.offs /= 2;
            self.ln_sum /= 2;
            self.ln_squares /= 2;
        }
    }

    /// What a silence means for a peer of this class.
    pub(super) fn model(&self, class: Class, timers: &Timers) -> Model {
        let (median, sigma, a_day) = match class {
            Class::Server => (timers.server_off_ms, 1.5, 0.1),
            Class::Home => (timers.home_off_ms, 1.2, 1.0),
        };
        let days = PRIOR_DAYS + self.peer_ms as f64 / timers.day_ms as f64;
        let for_good =
            crate::durability::measured::departures_of_churn(PRIOR_CHURN) * PRIOR_DAYS + f64::from(self.gone);
        let for_now = a_day * PRIOR_DAYS + f64::from(self.absences);
        let ln_prior = (median as f64).ln();
        let n = PRIOR_ABSENCES + f64::from(self.offs);
        let mean = (PRIOR_ABSENCES * ln_prior + self.ln_sum as f64 / 1e3) / n;
        let square = (PRIOR_ABSENCES * (sigma * sigma + ln_prior * ln_prior) + self.ln_squares as f64 / 1e6) / n;
        let quarter = 4f64.ln();
        Model {
            final_share: (for_good / days) / (for_good / days + for_now / days),
            ln_median: mean.clamp(ln_prior - quarter, ln_prior + quarter),
            sigma: (square - mean * mean).max(0.0).sqrt().clamp(SIGMA.0, SIGMA.1),
        }
    }
}

/// A class in three figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// π: share of departures that are for good.
    pub final_share: f64,
    /// Logarithm of the median absence in milliseconds.
    pub ln_median: f64,
    /// Spread of the logarithm.
    pub sigma: f64,
}

impl Model {
    /// Chance that an absence of somebody who comes back lasts longer.
    #[must_use]
    pub fn lasts_longer(&self, silent_ms: u64) -> f64 {
        if silent_ms == 0 {
            return 1.0;
        }
        normal_above(((silent_ms as f64).ln() - self.ln_median) / self.sigma)
    }

    /// Chance that a peer silent for so long ever comes back.
    #[must_use]
    pub fn alive(&self, silent_ms: u64) -> f64 {
        let back = (1.0 - self.final_share) * self.lasts_longer(silent_ms);
        back / (self.final_share + back)
    }
}

/// Chance that a standard normal variable is above `z`: erfc by a Chebyshev fit, relative error below 1.2e-7 everywhere
/// (Press et al., Numerical Recipes, 6.2). The standard library has no error function.
fn normal_above(z: f64) -> f64 {
    const FIT: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let x = (z / std::f64::consts::SQRT_2).abs();
    let t = 1.0 / (1.0 + 0.5 * x);
    let tail = t * (-x * x + FIT.iter().rev().fold(0.0, |acc, c| acc * t + c)).exp();
    if z >= 0.0 { tail / 2.0 } else { 1.0 - tail / 2.0 }
}
