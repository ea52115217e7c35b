//! Who is there, who will come back, and who will not: what a steward believes of the peers it watches.
//!
//! Failure detection is a posterior, not one timer (DESIGN.md, section 7): five minutes of silence make a peer late, and
//! from there the chance that it ever comes back falls with what its class is used to ([`Model`]). After 24 hours a server
//! and after seven days a home machine is presumed gone; an announced departure counts at its moment. Nobody is struck off:
//! who is heard again is there again.
//!
//! Pure: time comes in, beliefs come out. The beliefs of one steward bind nobody; floating point may differ between two.
//!
//! # Invariants
//!
//! - **REP-2** (its half about ourselves) Time in which we may have been cut off counts against nobody, and a third of all
//!   peers falling silent together is first taken for that. Enforced in [`outage`](Watch::outage) and [`Watch::belief`];
//!   attacked by `tests::outages::*`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{PeerKey, Timestamp};

mod codec;
mod condemned;
mod habits;
mod outage;
mod silences;
mod storms;
mod timers;

#[cfg(test)]
mod tests;

use self::{
    habits::Habits,
    outage::{Episode, Past},
    silences::Silences,
};
pub use self::{habits::Model, timers::Timers};

/// Most peers that one node watches: sixteen holders and seven stewards of each of 2800 groups with no peer in common, in
/// about 12 MiB. Who is over it is not watched, and nothing is believed of it: a stranger must not put out somebody who
/// holds shards; the caller forgets those that no group of its has any more.
pub const WATCHED_MAX: usize = 65_536;

/// What a peer's behaviour says it is. Learned, not declared: begins as [`Class::Home`].
///
/// A server was watched for seven days, was there for 95 % of the time and was not away for more than four hours in the last
/// seven days: a machine that sleeps every night never is, one that is off one night a week neither, one that reboots is. It
/// stays one until it is away for more than 10 % of the time or for so long that it was presumed gone: a day's work
/// on the disks does not undo a year. Wrong in this direction costs one copy too many, in the other a week of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Presumed gone after 24 hours.
    Server,
    /// Presumed gone after seven days.
    Home,
}

/// What a peer's silence amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Heard within 300 s.
    Here,
    /// Silent for longer, or not yet heard at all.
    Late,
    /// Silent for more than an hour.
    Away,
    /// Presumed gone. Its copies count again when it is heard.
    Gone,
    /// The departure that it announced is over.
    Left,
}

/// What is believed of a peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Belief {
    /// Where it is.
    pub presence: Presence,
    /// What it is.
    pub class: Class,
    /// Posterior chance that it will ever come back; 1 while it is here, 0 when it left.
    pub alive: f64,
    /// Since when it is silent, without the time in which we may have been cut off ourselves.
    pub silent_ms: u64,
    /// It said when it leaves for good: until then it serves, and what it has should lie elsewhere by then.
    pub leaving: bool,
    /// Silence up to which it is nothing unusual for this peer: an hour, and twice as long as it was lately away at a time, but
    /// no more than half a day ([`crate::assess`], the emergency).
    pub usual_ms: u64,
}

/// Whether we may be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// No sign of it.
    None,
    /// Many fell silent at once. Repair nothing, judge nobody.
    Suspected {
        /// Since then.
        since: Timestamp,
        /// So many are silent that fell silent then ...
        silent: usize,
        /// ... of so many that were here in the hour before.
        known: usize,
    },
}

/// How much peers come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Churn {
    /// As usual.
    Normal,
    /// More: the solver's r goes up by a step.
    High {
        /// Since then.
        since: Timestamp,
    },
}

/// What is known of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// When it was last heard, or is watched since.
    last: Timestamp,
    /// Whether it was ever heard.
    met: bool,
    class: Class,
    /// [`Watch::blind_ms`] when it was last heard.
    blind_at: u64,
    /// Time that it was watched, ...
    watched_ms: u64,
    /// ... that it was absent of this, ...
    absent_ms: u64,
    /// ... and how often. All three are halved when [`Timers::record_ms`] is over.
    absences: u32,
    /// The longest time that it was away and came back from, shortened by a quarter whenever the others are halved.
    longest_ms: u64,
    /// When it came back from its last absence above [`Timers::server_absence_ms`].
    long_absence: Option<Timestamp>,
    /// When the length of an absence of its was last learned from.
    measured: Option<Timestamp>,
    /// The announced moment of its departure.
    leaves: Option<Timestamp>,
    /// Since when it is presumed gone, or left.
    lost_at: Option<Timestamp>,
}

impl Seen {
    const fn new(now: Timestamp, blind_at: u64) -> Self {
        Self {
            last: now,
            met: false,
            class: Class::Home,
            blind_at,
            watched_ms: 0,
            absent_ms: 0,
            absences: 0,
            longest_ms: 0,
            long_absence: None,
            measured: None,
            leaves: None,
            lost_at: None,
        }
    }

    /// Whether its silence says something about the network: it was heard once, and did not announce it.
    const fn counts(&self) -> bool {
        self.met && self.leaves.is_none()
    }

    fn silent_ms(&self, now: Timestamp, blind_ms: u64) -> u64 {
        now.ms_since(self.last).saturating_sub(blind_ms.saturating_sub(self.blind_at))
    }

    fn presence(&self, timers: &Timers, now: Timestamp, blind_ms: u64) -> Presence {
        let gone_ms = match self.class {
            Class::Server => timers.server_gone_ms,
            Class::Home => timers.home_gone_ms,
        };
        // Being here is a fact, whatever we were able to hear; being gone is a judgement.
        let silent = now.ms_since(self.last);
        if self.leaves.is_some_and(|at| now >= at) {
            Presence::Left
        } else if self.silent_ms(now, blind_ms) >= gone_ms {
            Presence::Gone
        } else if silent > timers.away_ms {
            Presence::Away
        } else if silent > timers.late_ms || !self.met {
            Presence::Late
        } else {
            Presence::Here
        }
    }

    /// How often it goes away, by what it did so far; as if it had been watched for a day at least.
    fn absences_a_ms(&self, timers: &Timers) -> f64 {
        f64::from(self.absences) / self.watched_ms.max(timers.day_ms) as f64
    }

    /// Twice as long as it was away lately, since nobody is away for the same time every night; half a day at most, which is a long night, or
    /// whoever once was away for a week would never be missed.
    fn usual_ms(&self, timers: &Timers) -> u64 {
        self.longest_ms.saturating_mul(2).min(timers.day_ms / 2).max(timers.away_ms)
    }

    /// Learns from a time that ended with a sign of life.
    fn learn(&mut self, silent_ms: u64, timers: &Timers, now: Timestamp) {
        self.watched_ms = self.watched_ms.saturating_add(silent_ms);
        if silent_ms > timers.late_ms {
            self.absent_ms = self.absent_ms.saturating_add(silent_ms);
            self.absences = self.absences.saturating_add(1);
            self.longest_ms = self.longest_ms.max(silent_ms);
        }
        if silent_ms > timers.server_absence_ms {
            self.long_absence = Some(now);
        }
        if self.watched_ms > timers.record_ms {
            self.watched_ms /= 2;
            self.absent_ms /= 2;
            self.absences /= 2;
            self.longest_ms -= self.longest_ms / 4;
        }
        let absent = |share: u64| self.absent_ms.saturating_mul(share) > self.watched_ms;
        let long_ago = |at: Timestamp| now.ms_since(at) >= timers.server_after_ms;
        self.class = match self.class {
            Class::Home
                if self.watched_ms >= timers.server_after_ms
                    && !absent(20)
                    && self.long_absence.is_none_or(long_ago) =>
            {
                Class::Server
            }
            Class::Server if absent(10) || silent_ms >= timers.server_gone_ms => Class::Home,
            as_before => as_before,
        };
    }
}

/// All peers that somebody watches, at most [`WATCHED_MAX`].
#[derive(Clone, Debug)]
pub struct Watch {
    timers: Timers,
    peers: BTreeMap<PeerKey, Seen>,
    /// What was counted of each [`Class`], in its order.
    habits: [Habits; 2],
    /// When those who count were last heard; made from `peers`.
    silences: Silences,
    /// The step of time in which everybody was last looked at.
    looked: Option<u64>,
    episode: Option<Episode>,
    past: Past,
    /// When a mass failure was last on.
    mass_last: Option<Timestamp>,
    /// Since when churn is high, and when it last was found so.
    churn: Option<(Timestamp, Timestamp)>,
    /// Proved to have lied: nothing that they have counts.
    condemned: BTreeSet<PeerKey>,
}

impl Watch {
    /// Watches nobody yet.
    #[must_use]
    pub fn new(timers: Timers) -> Self {
        Self {
            timers,
            peers: BTreeMap::new(),
            habits: [Habits::default(); 2],
            silences: Silences::new(timers.step_ms()),
            looked: None,
            episode: None,
            past: Past::default(),
            mass_last: None,
            churn: None,
            condemned: BTreeSet::new(),
        }
    }

    /// The figures it goes by.
    #[must_use]
    pub const fn timers(&self) -> &Timers {
        &self.timers
    }

    /// How many are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A sign of life. Begins to watch the peer if there is room.
    pub fn heard(&mut self, peer: PeerKey, now: Timestamp) {
        self.settle(now);
        let blind = self.blind_ms(now);
        let Some(mut seen) = self.entry(peer, now, blind) else { return };
        if seen.counts() {
            self.silences.remove(seen.last);
        }
        if seen.leaves.is_none() {
            self.learn(&mut seen, now, blind);
        } else if seen.leaves.is_some_and(|at| now >= at.plus_ms(self.timers.away_ms)) {
            // Its departure ended an hour ago, and here it is: it came back.
            seen.leaves = None;
            seen.lost_at = None;
        }
        seen.met = true;
        seen.last = now;
        seen.blind_at = blind;
        if seen.counts() {
            self.silences.add(now);
        }
        self.peers.insert(peer, seen);
        self.settle_episode(now);
    }

    fn learn(&mut self, seen: &mut Seen, now: Timestamp, blind: u64) {
        let habits = &mut self.habits[seen.class as usize];
        if seen.lost_at.take().is_some() {
            habits.gone = habits.gone.saturating_sub(1);
        }
        if !seen.met {
            return;
        }
        let silent = seen.silent_ms(now, blind);
        habits.watched(silent, &self.timers);
        if silent > self.timers.late_ms {
            let measured = seen.measured.is_none_or(|at| now.ms_since(at) >= self.timers.day_ms / 4);
            habits.returned(silent, measured);
            if measured {
                seen.measured = Some(now);
            }
        }
        seen.learn(silent, &self.timers, now);
    }

    /// A peer is on record that was perhaps never heard: its silence counts from now. Changes nothing for a known one.
    pub fn expect(&mut self, peer: PeerKey, now: Timestamp) {
        let blind = self.blind_ms(now);
        if let Some(seen) = self.entry(peer, now, blind) {
            self.peers.insert(peer, seen);
        }
    }

    /// One that was never heard since it is watched, for longer than an hour, was last heard by somebody at this time: its silence is as long as that. Changes
    /// nothing for others: whoever begins to watch does not know how often a peer is heard of that it did not ask for.
    pub fn expected_since(&mut self, peer: PeerKey, since: Timestamp, now: Timestamp) {
        let hour = self.timers.away_ms;
        if let Some(seen) = self.peers.get_mut(&peer)
            && !seen.met
            && now.ms_since(seen.last) > hour
        {
            seen.last = seen.last.min(since);
        }
    }

    /// A peer said that it leaves at this moment, which cannot lie in the past. Until then it is judged as ever; from then on
    /// it [`Left`](Presence::Left), unless it is heard an hour later still, or again.
    pub fn leaving(&mut self, peer: PeerKey, at: Timestamp, now: Timestamp) {
        self.settle(now);
        let blind = self.blind_ms(now);
        let Some(mut seen) = self.entry(peer, now, blind) else { return };
        if seen.counts() {
            self.silences.remove(seen.last);
        }
        seen.leaves = Some(at.max(now));
        self.peers.insert(peer, seen);
        self.settle_episode(now);
    }

    /// A departure was called off, which is a sign of life too.
    pub fn stays(&mut self, peer: PeerKey, now: Timestamp) {
        if let Some(seen) = self.peers.get_mut(&peer)
            && seen.leaves.take().is_some()
        {
            seen.lost_at = None;
            if seen.met {
                self.silences.add(seen.last);
            }
        }
        self.heard(peer, now);
    }

    /// When a peer said it leaves; also after that, as long as it was not heard again.
    #[must_use]
    pub fn leaves(&self, peer: &PeerKey) -> Option<Timestamp> {
        self.peers.get(peer)?.leaves
    }

    /// No longer watches a peer.
    pub fn forget(&mut self, peer: PeerKey) {
        if let Some(seen) = self.peers.remove(&peer)
            && seen.counts()
        {
            self.silences.remove(seen.last);
        }
    }

    /// What is believed of a peer. Of one that is not watched nothing is: it is never presumed gone, see [`Watch::expect`].
    #[must_use]
    pub fn belief(&self, peer: &PeerKey, now: Timestamp) -> Belief {
        let blind = self.blind_ms(now);
        let seen = self.peers.get(peer).copied().unwrap_or(Seen::new(now, blind));
        let presence = seen.presence(&self.timers, now, blind);
        let silent_ms = seen.silent_ms(now, blind);
        if self.condemned.contains(peer) {
            return condemned::belief(seen.class, silent_ms);
        }
        let alive = match presence {
            Presence::Here => 1.0,
            Presence::Left => 0.0,
            Presence::Late | Presence::Away | Presence::Gone => self.model(seen.class).alive(silent_ms),
        };
        let (usual_ms, leaving) = (seen.usual_ms(&self.timers), seen.leaves.is_some());
        Belief { presence, class: seen.class, alive, silent_ms, usual_ms, leaving }
    }

    /// Whether a peer was heard within so long, time in which we were blind left out. One that was never heard was not.
    #[must_use]
    pub fn heard_within(&self, peer: &PeerKey, ms: u64, now: Timestamp) -> bool {
        let blind = self.blind_ms(now);
        self.peers.get(peer).is_some_and(|seen| seen.met && seen.silent_ms(now, blind) < ms)
    }

    /// Whether it was ever heard since it is watched.
    #[must_use]
    pub fn met(&self, peer: &PeerKey) -> bool {
        self.peers.get(peer).is_some_and(|seen| seen.met)
    }

    /// When anybody was last heard, to a step; `None` before that.
    #[must_use]
    pub fn last_contact(&self) -> Option<Timestamp> {
        self.silences.newest(u64::MAX).map(|step| self.silences.begin(step))
    }

    /// What silence means in a class, by all that was counted.
    #[must_use]
    pub fn model(&self, class: Class) -> Model {
        self.habits[class as usize].model(class, &self.timers)
    }

    /// Looks at everybody when time went on; every sign of life does it too. For a caller that hears little.
    pub fn settle(&mut self, now: Timestamp) {
        let step = self.silences.step(now);
        if self.looked == Some(step) {
            return;
        }
        let ahead = step.saturating_add(self.silences.steps(self.timers.away_ms));
        if self.looked.is_none_or(|looked| looked > ahead) {
            self.mend_clock(now);
        }
        self.keep_state(now);
        if self.episode.is_none() {
            self.scan(now);
        }
        self.looked = Some(step);
    }

    fn settle_episode(&mut self, now: Timestamp) {
        if self.episode.is_some() {
            self.keep_state(now);
        }
    }

    fn entry(&self, peer: PeerKey, now: Timestamp, blind: u64) -> Option<Seen> {
        let room = self.peers.len() < WATCHED_MAX;
        self.peers.get(&peer).copied().or_else(|| room.then(|| Seen::new(now, blind)))
    }
}
