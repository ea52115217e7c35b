//! Many at once: mass failure and churn, which change how eagerly is repaired and how much redundancy is asked for.
//!
//! Counted are silences that are news. Desktops that go off every evening would be a mass failure every evening, and churn
//! without end. So who is away more than every other day ([`Seen::sleeps`]) is left out, and of the others what they did
//! until now is expected (its mean and three standard deviations). Nothing is expected of a peer that was never absent, and
//! whoever is presumed gone, or left, counts as churn whatever it is. Where nobody is steady a mass failure takes
//! [`MASS_ALL`] of them.

use cairn_proto::Timestamp;

use super::{
    Churn, Presence, Seen, Timers, Watch,
    outage::{FEWEST, State},
};

/// Shares in hundredths of the peers that were here in the span.
const MASS: f64 = 5.0;
const MASS_ALL: f64 = 30.0;
const CHURN_HOUR: f64 = 20.0;
const CHURN_DAY: f64 = 30.0;

/// What one look at everybody found.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// Within [`Timers::mass_ms`], of the steady ones and of all.
    mass: Span,
    mass_all: Span,
    /// Within the spans of churn, and who was lost in them.
    hour: Span,
    day: Span,
    lost_hour: usize,
    lost_day: usize,
    /// Everybody who was here in the last day.
    here: usize,
}

/// Who was here when a span of time began, and what became of them.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// All of them.
    here: usize,
    /// Fell silent and still are.
    silent: usize,
    /// Absences that as many of these peers have in such a time by what they did so far.
    ordinary: f64,
}

impl Span {
    fn unusual(&self, hundredths: f64) -> bool {
        let beyond = self.silent as f64 - (self.ordinary + 3.0 * self.ordinary.sqrt());
        self.silent >= FEWEST && beyond * 100.0 > hundredths * self.here as f64
    }
}

impl Look {
    fn mass_failure(&self) -> bool {
        self.mass.unusual(MASS) || self.mass_all.unusual(MASS_ALL)
    }

    fn high_churn(&self) -> bool {
        let lost = |lost: usize, hundredths: f64| {
            lost >= FEWEST && lost as f64 * 100.0 > hundredths * (self.here + lost) as f64
        };
        self.hour.unusual(CHURN_HOUR)
            || self.day.unusual(CHURN_DAY)
            || lost(self.lost_hour, CHURN_HOUR)
            || lost(self.lost_day, CHURN_DAY)
    }
}

impl Seen {
    /// Whether it is away more often than every other day, as far as a few absences tell.
    fn sleeps(&self, timers: &Timers) -> bool {
        self.absences >= 3 && self.absences_a_ms(timers) * timers.day_ms as f64 > 0.5
    }
}

impl Watch {
    fn look(&self, now: Timestamp) -> Look {
        let timers = &self.timers;
        let mut look = Look::default();
        for seen in self.peers.values() {
            if let Some(at) = seen.lost_at {
                look.lost_hour += usize::from(now.ms_since(at) <= timers.churn_ms);
                look.lost_day += usize::from(now.ms_since(at) <= timers.day_ms);
                continue;
            }
            if !seen.counts() {
                continue;
            }
            let silent = now.ms_since(seen.last);
            let count = |span: &mut Span, ms: u64| {
                if silent <= ms.saturating_add(timers.late_ms) {
                    span.here += 1;
                    span.silent += usize::from(silent > timers.late_ms);
                    span.ordinary += seen.absences_a_ms(timers) * ms as f64;
                }
            };
            count(&mut look.mass_all, timers.mass_ms);
            if !seen.sleeps(timers) {
                count(&mut look.mass, timers.mass_ms);
                count(&mut look.hour, timers.churn_ms);
                count(&mut look.day, timers.day_ms);
            }
            look.here += usize::from(silent <= timers.day_ms);
        }
        look
    }

    /// Looks at everybody, once a step of time: who is lost, and whether many are.
    pub(super) fn scan(&mut self, now: Timestamp) {
        let blind = self.blind_ms(now);
        let mut gone = [0; 2];
        for seen in self.peers.values_mut().filter(|seen| seen.lost_at.is_none()) {
            match seen.presence(&self.timers, now, blind) {
                Presence::Gone => {
                    gone[seen.class as usize] += 1;
                    seen.lost_at = Some(now);
                }
                Presence::Left => seen.lost_at = seen.leaves,
                Presence::Here | Presence::Late | Presence::Away => {}
            }
        }
        for (habits, gone) in self.habits.iter_mut().zip(gone) {
            habits.gone = habits.gone.saturating_add(gone);
        }
        let look = self.look(now);
        if look.mass_failure() {
            self.mass_last = Some(now);
        }
        if look.high_churn() {
            let since = self.high_churn(now).unwrap_or(now);
            self.churn = Some((since, now));
        }
    }

    /// Whoever was heard in what is the future now, was heard before our clock was set right. Nor can we have been blind until then: a clock that
    /// was ahead by weeks made all others silent for weeks, which passed for an outage of our own, and would be taken off the silence
    /// of whoever is silent now. What else was put down then is as of now.
    pub(super) fn mend_clock(&mut self, now: Timestamp) {
        let limit = now.plus_ms(self.timers.away_ms);
        let least = |at: &mut Timestamp| *at = (*at).min(now);
        let past = &mut self.past;
        if past.until > limit.0 {
            // Blind time of before may go with it: rather that than blind for weeks to come.
            past.blind_ms = past.blind_ms.saturating_sub(past.until - now.0);
            past.until = now.0;
        }
        let step = self.silences.step(now);
        if self.silences.begin(past.judged) > limit {
            past.judged = step;
        }
        past.trust_until = past.trust_until.min(now.plus_ms(self.timers.own_outage_hold_most_ms).0);
        self.episode = self.episode.filter(|episode| episode.from <= step);
        self.episode.iter_mut().filter_map(|episode| episode.contact.as_mut()).for_each(least);
        self.mass_last.iter_mut().for_each(least);
        self.churn.iter_mut().for_each(|(since, last)| [since, last].into_iter().for_each(least));
        for seen in self.peers.values_mut() {
            if seen.last > limit {
                if seen.counts() {
                    self.silences.remove(seen.last);
                    self.silences.add(now);
                }
                seen.last = now;
            }
            let times = [&mut seen.long_absence, &mut seen.measured, &mut seen.lost_at];
            times.into_iter().flatten().for_each(least);
        }
        // With the time in which we were not there at all: whoever is watched since would be owed that too, and be silent for nothing as long.
        let blind = self.blind_ms(now);
        for seen in self.peers.values_mut() {
            seen.blind_at = seen.blind_at.min(blind);
        }
    }

    fn high_churn(&self, now: Timestamp) -> Option<Timestamp> {
        self.churn.filter(|(_, last)| now < last.plus_ms(self.timers.churn_calm_ms)).map(|(since, _)| since)
    }

    /// A look, unless this step's was put down already or nothing can be seen.
    fn fresh_look(&self, now: Timestamp) -> Option<Look> {
        let looked = self.looked == Some(self.silences.step(now));
        (!looked && self.state(now) == State::Calm).then(|| self.look(now))
    }

    /// Whether more than 5 % and at least three of the peers that were here fell silent within an hour, or did so within the
    /// last six: eager repair would only add to it, and half of them may be back before it is done.
    #[must_use]
    pub fn mass_failure(&self, now: Timestamp) -> bool {
        let held = |at: Timestamp| now < at.plus_ms(self.timers.mass_hold_ms);
        let proven = match self.state(now) {
            State::Over { at, returned: false, .. } => held(at),
            _ => false,
        };
        proven || self.mass_last.is_some_and(held) || self.fresh_look(now).is_some_and(|look| look.mass_failure())
    }

    /// Whether peers come and go more than usual: above 20 % within an hour or 30 % within a day, until a day was quiet.
    #[must_use]
    pub fn churn(&self, now: Timestamp) -> Churn {
        let fresh = || {
            let look = self.fresh_look(now)?;
            (look.high_churn()).then_some(now)
        };
        self.high_churn(now).or_else(fresh).map_or(Churn::Normal, |since| Churn::High { since })
    }
}
