//! How long repairs take, as a steward saw them: from the last sign of life of whoever was lost to the slot whole again.
//!
//! What the solver wants of it is θ, the mean time of a repair, and it wants it from above: with few repairs seen the bound lies far
//! above their mean. Repairs that are not done count with the time that they have taken so far, or the slow ones, which are still
//! open, would be the ones that nobody counts.
//!
//! Layout: version u8 = 1 · repairs · their milliseconds · [`SPANS`] counts, in minimal LEB128.

use cairn_proto::{
    DecodeError,
    layout::{Reader, put_number},
};
use serde::Serialize;

use super::measured::mean_at_most;

/// Repairs from which on what was seen says something: with ten the bound is 1.8 times their mean, with three it would be 3.7 times.
pub const REPAIRS_ENOUGH: u32 = 10;
/// From so many on half of them are forgotten, the old and the new alike: a network changes.
const REPAIRS_KEPT: u32 = 2048;
/// Spans of a histogram, each twice the one before: up to a minute, two, four ... the last has all beyond 182 days.
const SPANS: usize = 20;
const MINUTE_MS: u64 = 60_000;
const DAY_MS: f64 = 24.0 * 3_600_000.0;
/// Longest that is counted of one, ten years: no sum comes near any limit.
const LONGEST_MS: u64 = 10 * 365 * 24 * 3_600_000;
const WHAT: &str = "times of repair";
const VERSION: u8 = 1;

/// What was seen of repairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairTimes {
    count: u32,
    sum_ms: u64,
    spans: [u32; SPANS],
    /// Milliseconds so far of those that are not done.
    open_ms: u64,
    open: u32,
}

/// The same for people and for the solver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RepairFigures {
    /// Repairs that were seen from beginning to end.
    pub repairs: u32,
    /// Those that are not done.
    pub open: u32,
    /// Mean days, those that are not done included as far as they are.
    pub mean_days: f64,
    /// What the mean is at most, 95 % sure; none when too few were seen to tell.
    pub mean_days_at_most: Option<f64>,
    /// Nineteen of twenty took no longer than so many days; none when too few were seen.
    pub most_days: Option<f64>,
}

impl RepairTimes {
    /// One was done, after so long.
    pub fn note(&mut self, took_ms: u64) {
        let took_ms = took_ms.min(LONGEST_MS);
        if self.count >= REPAIRS_KEPT {
            self.spans.iter_mut().for_each(|count| *count /= 2);
            let left: u32 = self.spans.iter().sum();
            self.sum_ms = (u128::from(self.sum_ms) * u128::from(left) / u128::from(self.count)) as u64;
            self.count = left;
        }
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(took_ms);
        self.spans[span_of(took_ms)] += 1;
    }

    /// With these that are not done yet: how long each has taken so far.
    #[must_use]
    pub fn with_open(mut self, so_far_ms: impl IntoIterator<Item = u64>) -> Self {
        (self.open, self.open_ms) = (0, 0);
        for ms in so_far_ms {
            self.open = self.open.saturating_add(1);
            self.open_ms = self.open_ms.saturating_add(ms.min(LONGEST_MS));
        }
        self
    }

    /// What follows.
    #[must_use]
    pub fn figures(&self) -> RepairFigures {
        let days = self.sum_ms.saturating_add(self.open_ms) as f64 / DAY_MS;
        let enough = self.count >= REPAIRS_ENOUGH;
        RepairFigures {
            repairs: self.count,
            open: self.open,
            mean_days: days / f64::from(self.count.max(1)),
            mean_days_at_most: enough.then(|| mean_at_most(self.count, days)),
            most_days: enough.then(|| self.most_ms() as f64 / DAY_MS),
        }
    }

    /// Nineteen of twenty that were done took no longer, by the end of the span that they are in.
    fn most_ms(&self) -> u64 {
        let mut beyond = self.count;
        for (at, count) in self.spans.iter().enumerate() {
            beyond -= (*count).min(beyond);
            if at < SPANS - 1 && u64::from(beyond) * 20 <= u64::from(self.count) {
                return MINUTE_MS << at;
            }
        }
        LONGEST_MS
    }

    /// What must survive a restart; open ones are found again.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_number(&mut out, self.count.into());
        put_number(&mut out, self.sum_ms);
        self.spans.iter().for_each(|count| put_number(&mut out, (*count).into()));
        out
    }

    /// Reads what [`RepairTimes::encode`] gave, and nothing else.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(WHAT, bytes);
        r.version(VERSION)?;
        let (count, sum_ms) = (r.number(REPAIRS_KEPT.into())? as u32, r.u64()?);
        let mut spans = [0; SPANS];
        for span in &mut spans {
            *span = r.number(REPAIRS_KEPT.into())? as u32;
        }
        r.finish()?;
        if spans.iter().sum::<u32>() != count || sum_ms > u64::from(count) * LONGEST_MS {
            return Err(DecodeError::Invalid { what: WHAT, why: "counts that do not fit together" });
        }
        Ok(Self { count, sum_ms, spans, ..Self::default() })
    }
}

fn span_of(ms: u64) -> usize {
    (0..SPANS - 1).find(|at| ms <= MINUTE_MS << at).unwrap_or(SPANS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    fn seen(times: impl IntoIterator<Item = u64>) -> RepairTimes {
        let mut seen = RepairTimes::default();
        times.into_iter().for_each(|ms| seen.note(ms));
        seen
    }

    #[test]
    fn few_repairs_say_nothing_and_many_say_it_ever_closer() {
        assert_eq!(RepairTimes::default().figures().mean_days_at_most, None);
        assert_eq!(seen([DAY; 9]).figures().mean_days_at_most, None);
        // χ²(0.05; 20) = 10.851, χ²(0.05; 200) = 168.279: twice the sum over them.
        let ten = seen([DAY; 10]).figures();
        assert!((ten.mean_days_at_most.expect("enough") - 20.0 / 10.851).abs() < 1e-3, "{ten:?}");
        let hundred = seen([DAY; 100]).figures().mean_days_at_most.expect("enough");
        assert!((hundred - 200.0 / 168.279).abs() < 1e-3, "{hundred}");
        assert!((ten.mean_days - 1.0).abs() < 1e-9);
    }

    /// Nine in ten done within the hour, and the tenth is open for a month: it counts with that month.
    #[test]
    fn what_is_not_done_counts_as_far_as_it_is() {
        let done = seen([DAY / 24; 18]);
        let with = done.with_open([30 * DAY, 30 * DAY]).figures();
        assert!(done.figures().mean_days_at_most.expect("enough") < 0.1);
        assert!(with.mean_days_at_most.expect("enough") > 60.0 / 18.0, "{with:?}");
        assert_eq!((with.repairs, with.open), (18, 2));
    }

    #[test]
    fn nineteen_of_twenty_are_within_the_span_that_is_said() {
        let most = |times: Vec<u64>| seen(times).figures().most_days.expect("enough");
        assert!((most([vec![3 * MINUTE_MS; 19], vec![90 * DAY]].concat()) - 4.0 / 1440.0).abs() < 1e-9);
        assert!(most([vec![3 * MINUTE_MS; 18], vec![90 * DAY; 2]].concat()) >= 90.0);
        assert!(most(vec![u64::MAX; 10]) > 3000.0);
    }

    proptest! {
        #[test]
        fn whatever_is_seen_stays_bounded_and_reads_back(times in proptest::collection::vec(any::<u64>(), 0..6000)) {
            let seen = seen(times);
            prop_assert!(seen.count <= REPAIRS_KEPT);
            prop_assert_eq!(seen.spans.iter().sum::<u32>(), seen.count);
            prop_assert_eq!(RepairTimes::decode(&seen.encode()), Ok(seen));
            let figures = seen.figures();
            prop_assert!(figures.mean_days.is_finite());
            prop_assert!(figures.mean_days_at_most.is_none_or(|most| most >= figures.mean_days));
        }

        #[test]
        fn other_bytes_are_refused_or_give_some(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(seen) = RepairTimes::decode(&bytes) {
                prop_assert_eq!(seen.encode(), bytes);
                let _ = seen.figures();
            }
        }
    }
}
