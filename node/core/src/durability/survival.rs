//! Chances at one moment: enough slots are there, or not.

use super::Shape;

/// Chance that a stripe cannot be had when each holder is there with this chance: fewer than k slots have a copy.
#[must_use]
pub fn unavailable(shape: Shape, online: f64) -> f64 {
    // The chance of the rare thing is reckoned with, not one minus that of the common one: it may be 1e-32.
    let absent = (1.0 - online.clamp(0.0, 1.0)).powi(shape.r.into());
    fewer_than(shape.k.into(), shape.slots(), absent)
}

/// Chance that a group loses a stripe when each peer dies at once with this chance.
#[must_use]
pub fn shock_loss(shape: Shape, share: f64) -> f64 {
    fewer_than(shape.k.into(), shape.slots(), share.clamp(0.0, 1.0).powi(shape.r.into()))
}

/// Chance that a stripe is lost after a time in which nothing was repaired.
#[must_use]
pub fn unrepaired_loss(shape: Shape, departures_a_day: f64, days: f64) -> f64 {
    let dead = -f64::exp_m1(-departures_a_day * days);
    fewer_than(shape.k.into(), shape.slots(), dead.powi(shape.r.into()))
}

/// Chance of fewer than `k` good ones of `n`, each bad with this chance: a sum of positive terms, exact however small.
#[must_use]
pub fn fewer_than(k: u32, n: u32, bad: f64) -> f64 {
    (0..k.min(n + 1)).map(|good| binomial(n, good) * (1.0 - bad).powi(good as i32) * bad.powi((n - good) as i32)).sum()
}

/// The same when each is bad with a chance of its own (Poisson binomial), by adding one after the other: O(n k).
#[must_use]
pub fn fewer_than_of(k: usize, bad: &[f64]) -> f64 {
    // `chance[g]`: exactly g good ones so far; those with k or more are no longer of interest.
    let mut chance = vec![0.0; k];
    if let Some(none) = chance.first_mut() {
        *none = 1.0;
    }
    for bad in bad.iter().map(|bad| bad.clamp(0.0, 1.0)) {
        for good in (0..k).rev() {
            let fresh = if good == 0 { 0.0 } else { chance[good - 1] * (1.0 - bad) };
            chance[good] = chance[good] * bad + fresh;
        }
    }
    chance.iter().sum()
}

/// n over k.
#[must_use]
pub fn binomial(n: u32, k: u32) -> f64 {
    (0..k.min(n.saturating_sub(k))).fold(1.0, |acc, i| acc * f64::from(n - i) / f64::from(i + 1))
}
