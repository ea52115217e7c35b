//! A stripe's life as a Markov chain: copies die, repair makes them again, until fewer than k slots have any.
//!
//! State: how many slots have 0, 1, ... r live copies. A copy dies at rate λ; a slot that lacks j copies gets one at rate j / θ.
//! The mean time until a stripe is lost comes from the chain that begins anew whenever it is: the rate at which that happens
//! (its stationary flow into loss) is the reciprocal of the mean time, exactly (renewal reward). The stationary distribution
//! is found by the elimination of Grassmann, Taksar & Heyman (Operations Research 33, 1985), which never subtracts: chances
//! of 1e-120 keep all their digits.

use std::collections::BTreeMap;

use super::Shape;

/// Chance that a stripe is lost within `days`: `1 - exp(-days / MTTDL)`.
#[must_use]
pub fn loss_within(shape: Shape, departures_a_day: f64, repair_days: f64, days: f64) -> f64 {
    -f64::exp_m1(-days * loss_rate(shape, departures_a_day, repair_days))
}

/// Losses of a stripe a day: the reciprocal of its mean time to loss. Zero when nobody ever leaves.
#[must_use]
pub fn loss_rate(shape: Shape, departures_a_day: f64, repair_days: f64) -> f64 {
    if departures_a_day <= 0.0 {
        return 0.0;
    }
    let states = States::of(shape);
    let repair = 1.0 / repair_days.max(1e-6);
    let mut rates = Rates::new(states.all.len(), states.reach());
    let mut lost = vec![0.0; states.all.len()];
    for (from, counts) in states.all.iter().enumerate() {
        for alive in 0..counts.len() {
            let slots = f64::from(counts[alive]);
            if slots > 0.0 && alive > 0 {
                let death = slots * alive as f64 * departures_a_day;
                match states.moved(counts, alive, alive - 1) {
                    Some(to) => rates.add(from, to, death),
                    None => {
                        lost[from] += death;
                        // And all begins anew.
                        rates.add(from, 0, death);
                    }
                }
            }
            if slots > 0.0
                && alive < usize::from(shape.r)
                && let Some(to) = states.moved(counts, alive, alive + 1)
            {
                rates.add(from, to, slots * (usize::from(shape.r) - alive) as f64 * repair);
            }
        }
    }
    let stationary = rates.stationary();
    stationary.iter().zip(&lost).map(|(share, rate)| share * rate).sum::<f64>() / stationary.iter().sum::<f64>()
}

/// The states in which at least k slots live, the healthiest first: ordered by how many slots are dead, then by how many have
/// one copy, and so on, so that a step leads to a state that is near.
struct States {
    all: Vec<Vec<u16>>,
    at: BTreeMap<Vec<u16>, usize>,
}

impl States {
    fn of(shape: Shape) -> Self {
        let mut all = Vec::new();
        // Of two u8.
        let n = shape.slots() as u16;
        fill(&mut vec![0; usize::from(shape.r) + 1], 0, n, &mut all);
        all.retain(|counts| counts[0] <= u16::from(shape.m));
        all.sort();
        let at = all.iter().cloned().enumerate().map(|(i, counts)| (counts, i)).collect();
        Self { all, at }
    }

    /// Where one slot more has `to` instead of `from` copies; `None` when too few live then.
    fn moved(&self, counts: &[u16], from: usize, to: usize) -> Option<usize> {
        let mut counts = counts.to_vec();
        counts[from] -= 1;
        counts[to] += 1;
        self.at.get(&counts).copied()
    }

    /// The longest step.
    fn reach(&self) -> usize {
        let longest = |(from, counts): (usize, &Vec<u16>)| {
            let steps = (0..counts.len() - 1).flat_map(|a| [(a, a + 1), (a + 1, a)]).filter(|(a, _)| counts[*a] > 0);
            steps.filter_map(|(a, b)| self.moved(counts, a, b)).map(|to| to.abs_diff(from)).max().unwrap_or(0)
        };
        self.all.iter().enumerate().map(longest).max().unwrap_or(0)
    }
}

/// Every way to spread `left` slots over the places from `at` on.
fn fill(counts: &mut Vec<u16>, at: usize, left: u16, all: &mut Vec<Vec<u16>>) {
    if at + 1 == counts.len() {
        counts[at] = left;
        all.push(counts.clone());
        return;
    }
    for here in 0..=left {
        counts[at] = here;
        fill(counts, at + 1, left - here, all);
    }
}

/// Rates between states that are at most `reach` apart, and to state 0 from anywhere.
struct Rates {
    reach: usize,
    near: Vec<f64>,
    anew: Vec<f64>,
}

impl Rates {
    fn new(states: usize, reach: usize) -> Self {
        Self { reach, near: vec![0.0; states * (2 * reach + 1)], anew: vec![0.0; states] }
    }

    fn place(&self, from: usize, to: usize) -> usize {
        from * (2 * self.reach + 1) + self.reach + to - from
    }

    /// State 0 has a column of its own: elimination fills it from far away.
    fn add(&mut self, from: usize, to: usize, rate: f64) {
        if to == 0 {
            self.anew[from] += rate;
        } else {
            let place = self.place(from, to);
            self.near[place] += rate;
        }
    }

    fn get(&self, from: usize, to: usize) -> f64 {
        if to == 0 { self.anew[from] } else { self.near[self.place(from, to)] }
    }

    /// Shares of time in each state, up to a common factor.
    fn stationary(mut self) -> Vec<f64> {
        let states = self.anew.len();
        for last in (1..states).rev() {
            let begin = last.saturating_sub(self.reach);
            let out: f64 = self.anew[last] + (begin.max(1)..last).map(|to| self.get(last, to)).sum::<f64>();
            for from in begin..last {
                let place = self.place(from, last);
                if self.near[place] == 0.0 {
                    continue;
                }
                self.near[place] /= out;
                let share = self.near[place];
                self.anew[from] += share * self.anew[last];
                for to in begin.max(1)..last {
                    let rate = self.near[self.place(last, to)];
                    let place = self.place(from, to);
                    self.near[place] += share * rate;
                }
            }
        }
        let mut stationary = vec![1.0; states.min(1)];
        for state in 1..states {
            let begin = state.saturating_sub(self.reach);
            stationary.push((begin..state).map(|from| stationary[from] * self.get(from, state)).sum());
        }
        stationary
    }
}
