//! One peer's figures: what is counted, how it is forgotten, what follows from it.

use cairn_proto::Timestamp;

use super::{Class, DAY_MS, NEWCOMER_MS, Observed, QUOTA_FIRST, Reason, SUSPECT_MS};
use crate::peer_view::PerMille;

/// One event, in the unit that integrity is kept in.
pub(super) const UNIT: u64 = 1_000_000;
/// More cannot come about: a thousand events of ten units, twice.
pub(super) const UNITS_MAX: u64 = 20_000 * UNIT;
/// Each event takes a thousandth of all before it: the memory of integrity is a thousand events.
const FORGET: u64 = 1000;
/// A peer starts with this many good events, so that one mishap among few does not undo it.
const PRIOR_UNITS: u64 = 100;
/// Below this integrity nothing is placed, whatever the rest: two in a hundred.
pub(super) const INTEGRITY_LEAST: PerMille = 980;
/// Most that reports of its own cost a peer in a day: a disk that died is one accident.
const REPORTED_DAY_MAX: u64 = 5 * UNIT;
/// Days that availability looks back.
pub(super) const DAYS: usize = 30;
/// Days, and what they were like, that availability starts with.
const PRIOR_DAYS: u64 = 4;
const PRIOR_DAY: u64 = 800;
/// Good answers within a week that make us believe our own eyes, and the share of all that they must be.
const VOUCH_ANSWERS: u64 = 20;
const VOUCH_SHARE: u64 = 950;

/// What happened in one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Day {
    /// It was there.
    pub(super) up: u16,
    /// It was not.
    pub(super) down: u16,
    /// It showed bytes.
    pub(super) shown: u16,
    /// Shards that it served quickly ...
    pub(super) prompt: u16,
    /// ... and slowly.
    pub(super) slow: u16,
}

/// A verdict, for as long as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) until: Timestamp,
    pub(super) votes: u8,
}

impl Ruling {
    const NONE: Self = Self { until: Timestamp(0), votes: 0 };

    pub(super) fn stands(&self, now: Timestamp) -> Option<u8> {
        (self.until > now).then_some(self.votes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) class: Class,
    pub(super) first_seen: Timestamp,
    /// Of the last event.
    pub(super) last: Timestamp,
    /// When something happened last that is not an accident.
    pub(super) last_bad: Timestamp,
    /// First-hand events, all.
    pub(super) events: u64,
    /// Integrity, in [`UNIT`]s.
    pub(super) good: u64,
    pub(super) bad: u64,
    /// What reports cost on `today`.
    pub(super) reported: u64,
    pub(super) suspected: Ruling,
    pub(super) excluded: Ruling,
    /// The newest day in `days`, counted from 1970; a day stands at its number modulo [`DAYS`].
    pub(super) today: u32,
    pub(super) days: [Day; DAYS],
}

impl Entry {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            class: Class::Home,
            first_seen: now,
            last: now,
            last_bad: now,
            events: 0,
            good: PRIOR_UNITS * UNIT,
            bad: 0,
            reported: 0,
            suspected: Ruling::NONE,
            excluded: Ruling::NONE,
            today: day(now),
            days: [Day::default(); DAYS],
        }
    }

    pub(super) fn count(&mut self, seen: Observed, now: Timestamp) {
        self.turn(now);
        self.events = self.events.saturating_add(1);
        self.last = self.last.max(now);
        match seen {
            Observed::Good => self.learn(UNIT, 0),
            Observed::NotHere => self.learn(0, UNIT / 4),
            Observed::Reported => {
                let cost = (UNIT / 20).min(REPORTED_DAY_MAX.saturating_sub(self.reported));
                self.reported += cost;
                // An accident is not a thousand events: what went before is not forgotten over it.
                self.bad = (self.bad + cost).min(UNITS_MAX);
            }
            // Four challenges were not answered, one after the other.
            Observed::Withheld => self.learn(0, 4 * UNIT),
            Observed::Mismatch | Observed::Suspected => self.learn(0, UNIT),
            Observed::BadBytes => self.learn(0, 10 * UNIT),
            Observed::Alive | Observed::Silent | Observed::Prompt | Observed::Slow => {}
        }
        if matches!(seen, Observed::Withheld | Observed::Mismatch | Observed::BadBytes) {
            self.last_bad = self.last_bad.max(now);
        }
        let today = &mut self.days[self.today as usize % DAYS];
        match seen {
            Observed::Silent => today.down = today.down.saturating_add(1),
            Observed::Good | Observed::Alive => today.up = today.up.saturating_add(1),
            Observed::Prompt => today.prompt = today.prompt.saturating_add(1),
            Observed::Slow => today.slow = today.slow.saturating_add(1),
            // Answers, and nothing that was of use: who could report its way up would.
            _ => {}
        }
        if seen == Observed::Good {
            today.shown = today.shown.saturating_add(1);
        }
    }

    fn learn(&mut self, good: u64, bad: u64) {
        self.good = self.good - self.good / FORGET + good;
        self.bad = self.bad - self.bad / FORGET + bad;
    }

    /// Begins a new day. A clock that goes back changes nothing.
    fn turn(&mut self, now: Timestamp) {
        let today = day(now);
        if today <= self.today {
            return;
        }
        for past in (self.today + 1..=today).rev().take(DAYS) {
            self.days[past as usize % DAYS] = Day::default();
        }
        self.today = today;
        self.reported = 0;
    }

    /// Days of the last `span`, by their age.
    fn recent(&self, now: Timestamp, span: u32) -> impl Iterator<Item = Day> {
        let today = day(now).max(self.today);
        let first = (today + 1).saturating_sub(span.min(DAYS as u32));
        (first..=self.today).map(|d| self.days[d as usize % DAYS])
    }

    pub(super) fn integrity(&self) -> PerMille {
        permille(self.good, self.good + self.bad)
    }

    /// The mean of the days on which anything was seen, each the same whatever the number of audits: one that holds much is
    /// asked much, and must not lose more by one bad hour.
    fn availability(&self, now: Timestamp) -> (PerMille, u64) {
        let seen = self.recent(now, DAYS as u32).filter(|d| d.up > 0 || d.down > 0);
        let share = |d: Day| u64::from(permille(d.up.into(), u64::from(d.up) + u64::from(d.down)));
        let (days, sum) = seen.fold((0, 0), |(n, sum), d| (n + 1, sum + share(d)));
        (permille(PRIOR_DAYS * PRIOR_DAY + sum, (PRIOR_DAYS + days) * 1000), days)
    }

    /// The share of the time that it was there on the days on which it was looked for, without the days that everybody starts with;
    /// and how many they are.
    pub(super) fn seen_share(&self, now: Timestamp) -> (PerMille, u64) {
        let (with_prior, days) = self.availability(now);
        let sum = (u64::from(with_prior) * (PRIOR_DAYS + days)).saturating_sub(PRIOR_DAYS * PRIOR_DAY);
        (permille(sum, days * 1000), days)
    }

    const fn promised(&self) -> u64 {
        match self.class {
            Class::Server => 950,
            Class::Home => 600,
        }
    }

    fn kept(&self, now: Timestamp) -> u64 {
        (u64::from(self.availability(now).0) * 1000 / self.promised()).min(1000)
    }

    /// How quickly it served: the mean of the days on which it served us, each the same whatever was read on it, with as many good ones
    /// before them as availability starts with. One bad evening is 0.8, two and nothing else are below 0.7.
    fn pace(&self, now: Timestamp) -> (PerMille, u64) {
        let served = self.recent(now, DAYS as u32).filter(|d| d.prompt > 0 || d.slow > 0);
        let share = |d: Day| u64::from(permille(d.prompt.into(), u64::from(d.prompt) + u64::from(d.slow)));
        let (days, sum) = served.fold((0, 0), |(n, sum), d| (n + 1, sum + share(d)));
        (permille(PRIOR_DAYS * 1000 + sum, (PRIOR_DAYS + days) * 1000), days)
    }

    pub(super) fn pace_reason(&self, now: Timestamp) -> Option<Reason> {
        let (score, days) = self.pace(now);
        let sum = |part: fn(&Day) -> u16| self.recent(now, DAYS as u32).map(|d| u64::from(part(&d))).sum();
        let of = |days| Reason::Pace { score, days, prompt: sum(|d| d.prompt), slow: sum(|d| d.slow) };
        (days > 0).then(|| of(days))
    }

    /// All of them together, by what we saw ourselves.
    pub(super) fn first_hand(&self, now: Timestamp) -> PerMille {
        let kept = self.kept(now) * u64::from(self.integrity()) / 1000;
        PerMille::try_from(kept * u64::from(self.pace(now).0) / 1000).unwrap_or(1000)
    }

    /// How much of what it offers may be used.
    pub(super) fn quota(&self, now: Timestamp) -> PerMille {
        let clean = now.ms_since(self.last_bad) / (30 * DAY_MS);
        PerMille::try_from(u64::from(QUOTA_FIRST) << clean.min(7)).unwrap_or(1000).min(1000)
    }

    /// What a complaint of this peer weighs, in thousandths of a voice; `None`: it has none.
    pub(super) fn weight(&self, now: Timestamp) -> Option<PerMille> {
        let aged = now.ms_since(self.first_seen) >= NEWCOMER_MS;
        let excluded = self.excluded.stands(now).is_some();
        (aged && !excluded && self.integrity() >= INTEGRITY_LEAST).then(|| self.first_hand(now))
    }

    /// Whether we saw enough ourselves, lately, to believe our eyes and not others' word.
    pub(super) fn vouched(&self, now: Timestamp) -> Option<Reason> {
        let week = u32::try_from(SUSPECT_MS / DAY_MS).unwrap_or(7);
        let sum = |part: fn(&Day) -> u16| self.recent(now, week).map(|d| u64::from(part(&d))).sum::<u64>();
        let (shown, silent) = (sum(|d| d.shown), sum(|d| d.down));
        let share = u64::from(permille(shown, shown + silent));
        let clean = self.integrity() >= INTEGRITY_LEAST && now.ms_since(self.last_bad) >= NEWCOMER_MS;
        (shown >= VOUCH_ANSWERS && share >= VOUCH_SHARE && clean).then_some(Reason::OwnEyes { shown, silent })
    }

    /// Whether to forget it would be a favour.
    pub(super) fn bad_name(&self, now: Timestamp) -> bool {
        let ruled = self.suspected.stands(now).is_some() || self.excluded.stands(now).is_some();
        ruled || self.integrity() < INTEGRITY_LEAST
    }

    pub(super) fn integrity_reason(&self) -> Reason {
        let hundredths = |units: u64| units / (UNIT / 100);
        let (good, bad) = (hundredths(self.good), hundredths(self.bad));
        Reason::Integrity { score: self.integrity(), good, bad, least: INTEGRITY_LEAST }
    }

    pub(super) fn availability_reason(&self, now: Timestamp) -> Reason {
        let (share, days) = self.availability(now);
        let kept = PerMille::try_from(self.kept(now)).unwrap_or(1000);
        let promised = PerMille::try_from(self.promised()).unwrap_or(1000);
        Reason::Availability { share, days, class: self.class, promised, kept }
    }
}

fn day(at: Timestamp) -> u32 {
    u32::try_from(at.0 / DAY_MS).unwrap_or(u32::MAX - 1)
}

fn permille(part: u64, all: u64) -> PerMille {
    part.saturating_mul(1000).checked_div(all).and_then(|p| PerMille::try_from(p).ok()).unwrap_or(1000).min(1000)
}
