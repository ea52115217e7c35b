//! Whether it is ourselves who are cut off (REP-2).
//!
//! Many who fall silent within five minutes have one cause. Until shown otherwise that is our own link, and time in which
//! we are blind counts against nobody: all silences stand still, also those begun earlier, since who came back meanwhile
//! would not have been heard.
//!
//! When does it end?
//! - They are heard again: at once, when no more than the share that raised the suspicion is missing. Those still
//!   missing are judged by their silence after this.
//! - The others are heard, but these stay silent: after an hour we believe it, after a day when it is more than half of all.
//!   Then they count as silent from that moment, and a mass failure is on. The hour is one without a break, or who is cut off again and
//!   again would believe it; the day is of all the hours that the others were heard, or a machine that is off at night never would, and
//!   stay blind for as long as it sleeps.
//! - Hardly anybody is heard: never. "Hardly anybody" is a tenth of those known before, or fewer than three of a dozen: a
//!   machine in the same house is heard while the street is dark. Where nine of ten are truly dead there is next to
//!   nothing left to repair: 5 of 8 slots live then in 0.04 % of the groups, in 0.8 % of those with two copies.
//!
//! Who runs a third of all peers could fall silent on purpose, again and again, to keep us from repairing. So a suspicion
//! that was raised while others were heard is not raised again for a day.
//!
//! Limit: among one or two known peers nothing can be told apart, and their silence counts.

use cairn_proto::Timestamp;

use super::{Outage, Timers, Watch, silences::Silences};

/// Share of those here lately, in hundredths, and number, above which silence is suspicious.
const SHARE: usize = 30;
pub(super) const FEWEST: usize = 3;

/// A suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Episode {
    /// First step of the time in which they fell silent ...
    pub(super) from: u64,
    /// ... and the last.
    pub(super) to: u64,
    /// How many had been here within the hour before.
    pub(super) known: usize,
    /// Since when enough of the others are heard without a break, ...
    pub(super) contact: Option<Timestamp>,
    /// ... and how long they were before that, in all.
    pub(super) contact_ms: u64,
    /// Whether enough of them always were.
    pub(super) partial: bool,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Calm,
    Blind(Episode),
    Over { episode: Episode, at: Timestamp, returned: bool },
}

/// What remains of all episodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// Time that we were blind, in all.
    pub(super) blind_ms: u64,
    /// Until when we last were.
    pub(super) until: u64,
    /// Silences up to this step were judged.
    pub(super) judged: u64,
    /// No suspicion while others are heard before this.
    pub(super) trust_until: u64,
}

fn many(silent: usize, known: usize) -> bool {
    silent >= FEWEST && silent * 100 > known * SHARE
}

/// Whether enough are heard to say that we are not cut off.
fn contact(silences: &Silences, timers: &Timers, known: usize, now: Timestamp) -> bool {
    let present = silences.since(silences.step(Timestamp(now.0.saturating_sub(timers.late_ms))));
    present >= (known / 4).clamp(1, FEWEST).max(known.div_ceil(10))
}

/// A suspicion that no episode stands for yet. Those still here less than being late ago are not silent.
fn detect(silences: &Silences, timers: &Timers, past: &Past, now: Timestamp) -> Option<Episode> {
    let late = silences.step(Timestamp(now.0.saturating_sub(timers.late_ms)));
    let to = silences.newest(late.checked_sub(1)?)?;
    let hour = silences.steps(timers.away_ms);
    let first = to.saturating_sub(hour).max(past.judged.saturating_add(1));
    // The rest of them become late within the minutes after the first, and belong to it.
    let episode = |from: u64, until: u64| {
        let known = silences.since(from.saturating_sub(hour));
        let heard = contact(silences, timers, known, now);
        let held_back = heard && now.0 < past.trust_until;
        let silent = silences.between(from, until.min(to));
        (many(silent, known) && !held_back)
            .then_some((silent, Episode { from, to: until, known, contact: None, contact_ms: 0, partial: heard }))
    };
    // Nobody at all is heard: however slowly that came, it is we.
    let nobody = (silences.since(late) == 0).then(|| episode(silences.used(first, to).next()?, to)).flatten();
    let window = silences.steps(timers.own_outage_ms);
    let clusters = silences.used(first, to).filter_map(|from| episode(from, from.saturating_add(window)));
    nobody.or_else(|| clusters.max_by_key(|(silent, episode)| (*silent, episode.to))).map(|(_, episode)| episode)
}

impl Watch {
    /// Where it stands now, whether or not somebody was heard since.
    pub(super) fn state(&self, now: Timestamp) -> State {
        let silences = &self.silences;
        let looked = self.looked == Some(silences.step(now));
        let fresh = || if looked { None } else { detect(silences, &self.timers, &self.past, now) };
        let Some(mut episode) = self.episode.or_else(fresh) else { return State::Calm };
        let silent = silences.between(episode.from, episode.to);
        if !many(silent, episode.known) {
            return State::Over { episode, at: now, returned: true };
        }
        if !contact(silences, &self.timers, episode.known, now) {
            if let Some(since) = episode.contact.take() {
                // Until the last of them was heard.
                let until = silences.newest(silences.step(now)).map_or(0, |step| silences.begin(step).0);
                episode.contact_ms = episode.contact_ms.saturating_add(until.saturating_sub(since.0));
            }
            episode.partial = false;
            return State::Blind(episode);
        }
        let since = *episode.contact.get_or_insert(now);
        let most = silent * 2 > episode.known;
        let least = self.timers.own_outage_hold_ms;
        let day = self.timers.own_outage_hold_most_ms;
        let hold = if most { day.saturating_sub(episode.contact_ms).max(least) } else { least };
        let at = since.plus_ms(hold);
        if now >= at { State::Over { episode, at, returned: false } } else { State::Blind(episode) }
    }

    /// Time that we were blind until now, in all.
    pub(super) fn blind_ms(&self, now: Timestamp) -> u64 {
        self.past.blind_ms.saturating_add(match self.state(now) {
            State::Calm => 0,
            State::Blind(episode) => self.blind_in(&episode, now),
            State::Over { episode, at, .. } => self.blind_in(&episode, at),
        })
    }

    pub(super) fn blind_in(&self, episode: &Episode, at: Timestamp) -> u64 {
        at.0.saturating_sub(self.silences.begin(episode.from).0.max(self.past.until))
    }

    /// Puts down where it stands, so that it is not forgotten when the silent come back.
    pub(super) fn keep_state(&mut self, now: Timestamp) {
        match self.state(now) {
            State::Calm => {}
            State::Blind(episode) => self.episode = Some(episode),
            State::Over { episode, at, returned } => {
                self.past.blind_ms = self.past.blind_ms.saturating_add(self.blind_in(&episode, at));
                self.past.until = self.past.until.max(at.0);
                self.past.judged = self.past.judged.max(episode.to);
                if episode.partial {
                    self.past.trust_until = at.plus_ms(self.timers.own_outage_hold_most_ms).0;
                }
                if !returned {
                    self.mass_last = Some(at);
                }
                self.episode = None;
            }
        }
    }

    /// Whether we are cut off, as far as can be told.
    #[must_use]
    pub fn outage(&self, now: Timestamp) -> Outage {
        match self.state(now) {
            State::Blind(episode) => Outage::Suspected {
                since: self.silences.begin(episode.from),
                silent: self.silences.between(episode.from, episode.to),
                known: episode.known,
            },
            State::Calm | State::Over { .. } => Outage::None,
        }
    }
}
