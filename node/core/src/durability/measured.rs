//! What is known of a network, and how sure it is.

use cairn_proto::{Timestamp, message::Roles};
use serde::Serialize;

use super::{MONTH_DAYS, repairs::RepairFigures};
use crate::peer_view::PeerView;

/// Silence after which a peer counts as gone for good: DESIGN's seven days of a home machine.
pub const GONE_AFTER_DAYS: f64 = 7.0;
/// Departures, or peer-days, from which on what was seen says something: with fewer the bound would be above 14 % a month
/// although nobody left.
const DEPARTURES_ENOUGH: u32 = 3;
const PEER_DAYS_ENOUGH: f64 = 600.0;
/// Fewer peers than this say nothing of how many holders are online.
pub const PEERS_ENOUGH: u32 = 20;
const DAY_MS: f64 = 24.0 * 3600.0 * 1000.0;

/// What the solver reckons with. Rates are upper bounds where they were measured, so that little evidence makes it careful.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Permanent departures of a peer a day (λ).
    pub departures_a_day: f64,
    /// Peers taken for gone a day that come back, of each: repaired in vain.
    pub false_alarms_a_day: f64,
    /// Days from a death to full redundancy (θ): noticing, queueing, transferring.
    pub repair_days: f64,
    /// Share of holders that are online at some time within [`Measured::restore_within_hours`].
    pub online_within: f64,
    /// How long a restore may wait for holders.
    pub restore_within_hours: f64,
    /// Different domains that can take shards.
    pub domains: u32,
    /// Common shocks a year: a bad release, a provider that fails.
    pub shocks_a_year: f64,
    /// Share of peers that a shock takes.
    pub shock_share: f64,
}

impl Measured {
    /// What is assumed until it was measured: 5 % of the peers leave in a month, three days to repair, nineteen of twenty
    /// holders seen within a day, a shock of a tenth of all peers every ten years.
    #[must_use]
    pub fn assumed(domains: u32) -> Self {
        Self {
            departures_a_day: departures_of_churn(0.05),
            false_alarms_a_day: 0.0,
            repair_days: 3.0,
            online_within: 0.95,
            restore_within_hours: 24.0,
            domains,
            shocks_a_year: 0.1,
            shock_share: 0.1,
        }
    }
}

impl Measured {
    /// What was seen, and what is assumed where too little was.
    #[must_use]
    pub fn of(observed: &Observed, repairs: &RepairFigures, domains: u32) -> Self {
        let assumed = Self::assumed(domains);
        Self {
            departures_a_day: observed.departures_at_most().unwrap_or(assumed.departures_a_day),
            repair_days: repairs.mean_days_at_most.unwrap_or(assumed.repair_days),
            online_within: observed.online_within_a_day(PEERS_ENOUGH).unwrap_or(assumed.online_within),
            ..assumed
        }
    }
}

/// What one node saw of the peers that store, since it knows each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Observed {
    /// Days that peers were there, all together.
    pub peer_days: f64,
    /// Peers that are gone for good.
    pub departures: u32,
    /// Peers known for a day and not gone ...
    pub known: u32,
    /// ... and those of them that were heard of within a day.
    pub heard: u32,
}

impl Observed {
    /// From everybody known. The newest sign of life of anybody is taken for the present: who was cut off, or switched off,
    /// for a week must not take everybody else for gone.
    #[must_use]
    pub fn of(peers: &[PeerView], now: Timestamp) -> Self {
        let storing = || peers.iter().filter(|peer| peer.roles.has(Roles::STORAGE));
        let present = storing().map(|peer| peer.last_heard).max().unwrap_or(now).min(now);
        let days = |from: Timestamp, to: Timestamp| to.ms_since(from) as f64 / DAY_MS;
        let mut seen = Self::default();
        for peer in storing() {
            seen.peer_days += days(peer.first_seen, peer.last_heard);
            let silent = days(peer.last_heard, present);
            if silent >= GONE_AFTER_DAYS {
                seen.departures += 1;
            } else if days(peer.first_seen, present) >= 1.0 {
                seen.known += 1;
                seen.heard += u32::from(silent < 1.0);
            }
        }
        seen
    }

    /// Upper bound of departures of a peer a day, when enough was seen.
    #[must_use]
    pub fn departures_at_most(&self) -> Option<f64> {
        let enough = self.departures >= DEPARTURES_ENOUGH || self.peer_days >= PEER_DAYS_ENOUGH;
        (enough && self.peer_days > 0.0).then(|| rate_at_most(self.departures, self.peer_days))
    }

    /// Share of peers heard of within a day, when so many are known; two are taken for absent, so that few peers that happen
    /// to be all there promise nothing.
    #[must_use]
    pub fn online_within_a_day(&self, enough: u32) -> Option<f64> {
        (self.known >= enough.max(1)).then(|| f64::from(self.heard) / f64::from(self.known + 2))
    }
}

/// λ from the share of peers that leaves within a month.
#[must_use]
pub fn departures_of_churn(monthly: f64) -> f64 {
    -f64::ln_1p(-monthly.clamp(0.0, 0.999_999)) / MONTH_DAYS
}

/// The reverse.
#[must_use]
pub fn churn_of_departures(a_day: f64) -> f64 {
    -f64::exp_m1(-a_day * MONTH_DAYS)
}

/// Upper bound, 95 % sure, of a rate a day when `events` were seen in so many peer-days; infinite without any: the chi-square
/// quantile `χ²(0.95; 2 (events + 1)) / (2 peer-days)`, three in all peer-days when nothing happened yet.
#[must_use]
pub fn rate_at_most(events: u32, peer_days: f64) -> f64 {
    if peer_days <= 0.0 {
        return f64::INFINITY;
    }
    // The mean of which so few are seen once in twenty times; the chance falls with the mean.
    let (mut low, mut high) = (f64::from(events), 10.0 + 2.0 * f64::from(events));
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if at_most(events, middle) > 0.05 { low = middle } else { high = middle }
    }
    high / peer_days
}

/// Upper bound, 95 % sure, of the mean time to an event when `events` were seen in so many days altogether; infinite without any:
/// `2 days / χ²(0.05; 2 events)`, for times as an exponential clock gives them.
#[must_use]
pub fn mean_at_most(events: u32, days: f64) -> f64 {
    if events == 0 {
        return f64::INFINITY;
    }
    // The mean of which so many are seen once in twenty times; the chance of fewer falls with the mean.
    let (mut low, mut high) = (0.0, f64::from(events));
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if at_most(events - 1, middle) > 0.95 { low = middle } else { high = middle }
    }
    days / low.max(f64::MIN_POSITIVE)
}

/// Chance of at most so many events when `mean` are expected (Poisson).
fn at_most(events: u32, mean: f64) -> f64 {
    // By logarithms: e^-mean alone may be zero in floating point.
    let mut log_term = -mean;
    let mut logs = vec![log_term];
    for i in 1..=events {
        log_term += (mean / f64::from(i)).ln();
        logs.push(log_term);
    }
    logs.into_iter().map(f64::exp).sum()
}
