//! The formulas that are often quoted, with what is wrong with them. Shown beside the solver's answer; nothing follows them.

use super::Sla;

/// Copies by `ceil(log(1 - SLA) / log(p_fail))`: full copies of one object, each gone with chance `p_fail` at one moment.
///
/// Not an answer for a backup: a stripe needs k of n, durability has a time and a repair rate, a backup has many stripes, and
/// failures come together. And it is easily reckoned wrong: `1 - 0.9999` in floating point makes 3 of the exact 2 for 99.99 %
/// and 1 %. `None` unless 0 < `p_fail` < 1.
#[must_use]
pub fn copies(sla: Sla, p_fail: f64) -> Option<u32> {
    let sensible = p_fail > 0.0 && p_fail < 1.0;
    sensible.then(|| (sla.miss().ln() / p_fail.ln() - 1e-9).ceil().max(1.0) as u32)
}

/// Replicas by `base (1 + churn / 0.1) max(1, 100 / peers) + 2`: asks for most where there is least to have, 77 replicas on
/// 20 peers. `churn`: the share of peers that leaves within a month.
#[must_use]
pub fn dynamic(base: u32, churn: f64, peers: u32) -> u32 {
    let scarcity = (100.0 / f64::from(peers.max(1))).max(1.0);
    (f64::from(base) * (1.0 + churn / 0.1) * scarcity).round() as u32 + 2
}

/// Why a formula's answer is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It asks for more places than there are domains.
    CannotBePlaced,
    /// It stores more than the solver's answer, for the same promise.
    Dearer,
    /// What it asks for does not keep the promise.
    TooWeak,
    /// It would do, by chance.
    WouldDo,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CannotBePlaced => "cannot be placed",
            Self::Dearer => "dearer than it takes",
            Self::TooWeak => "too weak",
            Self::WouldDo => "would do, by chance",
        })
    }
}

impl Verdict {
    /// From what full copies mean for the promise.
    #[must_use]
    pub fn of(places: u32, domains: u32, loss: f64, cost: f64, sla: Sla, solved_cost: Option<f64>) -> Self {
        if places > domains {
            Self::CannotBePlaced
        } else if loss > sla.miss() {
            Self::TooWeak
        } else if solved_cost.is_some_and(|solved| cost > solved) {
            Self::Dearer
        } else {
            Self::WouldDo
        }
    }
}
