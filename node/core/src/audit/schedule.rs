//! What an auditor asks whom, and when: oldest first, by lot among these, spread over the day, and what was not answered again.
//!
//! One shard in four is drawn from all of a holder's and not from those that were not asked for in this turn: else a holder
//! that has just answered for a shard could drop it until the turn ends. What stays silent is asked for again three times
//! within a day, with new nonces (Storj's containment): silence about *some* shards while others are answered is then
//! [`Silence::Withheld`], silence about all is absence. Until then it is drawn for nothing else: a holder of few shards has as
//! long for its four answers as one of many.
//!
//! Pure: the caller says what came of an audit; [`Schedule::next`] says what is next.

use std::collections::BTreeMap;

use cairn_proto::{GroupId, Ordinals, PeerKey, Slot, Timestamp};
use rand_core::CryptoRng;

use super::AUDITS_PER_DAY;

/// Most group slots that are watched in all: at some 150 bytes each 10 MB, and 16 TB of shards.
pub const PLACES_MAX: usize = 65_536;
/// Most audits of one holder that wait for their answer or to be asked again. From then on nothing new is asked: it is away.
pub const PENDING_MAX: usize = 16;
/// When to ask again what was not answered: after one hour of a day, four, sixteen.
const RETRY_HOURS: [u64; 3] = [1, 4, 16];
/// One in so many is drawn from all shards.
const ANY_OF: u64 = 4;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// What a day is: a holder has [`AUDITS_PER_DAY`] in it, and what stays silent is judged within it.
    pub day_ms: u64,
    /// Two new audits of one holder are never closer than half of this, however short the day.
    pub least_gap_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { day_ms: 24 * 3600 * 1000, least_gap_ms: 0 }
    }
}

impl Pace {
    fn gap_ms(&self, auditors: u32) -> u64 {
        (self.day_ms / u64::from((AUDITS_PER_DAY / auditors.max(1)).max(1))).max(self.least_gap_ms)
    }

    fn retry_ms(&self, silent: u8) -> Option<u64> {
        RETRY_HOURS.get(usize::from(silent)).map(|hours| self.day_ms.saturating_mul(*hours) / 24)
    }
}

/// One shard that is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
}

/// An audit that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whom to ask.
    pub holder: PeerKey,
    /// For what.
    pub target: Target,
    /// How often it was not answered before.
    pub silent: u8,
}

/// What silence amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It will be asked again, if it is still watched.
    Again,
    /// Asked four times in vain, while the holder answered others: it has not got it and does not say so.
    Withheld,
    /// Asked four times in vain, and nothing else was answered either: it is away.
    Absent,
}

/// Ordinals of one group slot: which, and which of them were asked for in this turn.
#[derive(Clone, Copy, Debug)]
struct Place {
    ordinals: Ordinals,
    asked: Ordinals,
}

/// What was asked for and not answered yet: on its way, or silent and to be asked for again.
#[derive(Clone, Copy, Debug)]
struct Pending {
    silent: u8,
    again: Timestamp,
    /// When it was first asked in vain.
    since: Timestamp,
}

#[derive(Clone, Debug)]
struct Beat {
    places: BTreeMap<(GroupId, Slot), Place>,
    /// Each of a place that is watched.
    pending: BTreeMap<Target, Pending>,
    next: Timestamp,
    gap_ms: u64,
    last_answer: Option<Timestamp>,
}

/// All audits of one auditor.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    beats: BTreeMap<PeerKey, Beat>,
    places: usize,
    pace: Pace,
}

impl Schedule {
    /// Nothing to do yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing to do yet, at this pace.
    #[must_use]
    pub fn at(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Watches a slot of a group at a holder, with these shards; again, when they are others. `auditors` is how many share this
    /// holder's [`AUDITS_PER_DAY`]. False: the schedule is full, or there is nothing to ask for.
    pub fn watch(
        &mut self,
        holder: PeerKey,
        place: (GroupId, Slot),
        ordinals: &Ordinals,
        auditors: u32,
        now: Timestamp,
    ) -> bool {
        if ordinals.is_empty() {
            return false;
        }
        let known = self.beats.get(&holder).is_some_and(|b| b.places.contains_key(&place));
        if !known && self.places >= PLACES_MAX {
            return false;
        }
        self.places += usize::from(!known);
        let gap_ms = self.pace.gap_ms(auditors);
        let beat = self.beats.entry(holder).or_insert_with(|| Beat {
            places: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: now,
            gap_ms,
            last_answer: None,
        });
        beat.gap_ms = gap_ms;
        let entry = beat.places.entry(place).or_insert(Place { ordinals: *ordinals, asked: Ordinals::default() });
        (entry.ordinals, entry.asked) = (*ordinals, entry.asked.and(ordinals));
        let gone = |target: &Target| (target.group, target.slot) == place && !ordinals.contains(target.ordinal);
        beat.pending.retain(|target, _| !gone(target));
        true
    }

    /// No longer watches it.
    pub fn forget(&mut self, holder: &PeerKey, place: (GroupId, Slot)) {
        let Some(beat) = self.beats.get_mut(holder) else { return };
        self.places -= usize::from(beat.places.remove(&place).is_some());
        beat.pending.retain(|target, _| (target.group, target.slot) != place);
        if beat.places.is_empty() {
            self.beats.remove(holder);
        }
    }

    /// When [`Schedule::next`] has something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.beats.values().map(Beat::wakes).min()
    }

    /// What to ask now. Drain until `None`. What was missed while the auditor was away is not made up for. What came of it is said by
    /// [`Schedule::answered`], [`Schedule::silent`] or [`Schedule::unheard`]; a day later it is taken for lost and asked again.
    pub fn next<R: CryptoRng + ?Sized>(&mut self, now: Timestamp, rng: &mut R) -> Option<Due> {
        let (holder, beat) = self.beats.iter_mut().filter(|(_, b)| b.wakes() <= now).min_by_key(|(_, b)| b.wakes())?;
        let retry = beat.pending.iter_mut().filter(|(_, p)| p.again <= now).min_by_key(|(_, p)| p.again);
        if let Some((target, pending)) = retry {
            // Answered or not, the caller will say; until then it is not due.
            pending.again = now.plus_ms(self.pace.day_ms);
            return Some(Due { holder: *holder, target: *target, silent: pending.silent });
        }
        // Spread: between half a gap and one and a half.
        beat.next = now.plus_ms(beat.gap_ms / 2 + rng.next_u64() % (beat.gap_ms + 1));
        let target = beat.pick(rng)?;
        let again = now.plus_ms(self.pace.day_ms);
        beat.pending.insert(target, Pending { silent: 0, again, since: now });
        Some(Due { holder: *holder, target, silent: 0 })
    }

    /// An audit was answered, whatever the answer.
    pub fn answered(&mut self, holder: &PeerKey, target: &Target, now: Timestamp) {
        let Some(beat) = self.beats.get_mut(holder) else { return };
        beat.pending.remove(target);
        beat.last_answer = Some(now);
    }

    /// What came of an audit says nothing of the holder. What was silent before waits as long as it did for this one.
    pub fn unheard(&mut self, holder: &PeerKey, target: &Target, now: Timestamp) {
        let Some(beat) = self.beats.get_mut(holder) else { return };
        let Some(pending) = beat.pending.get_mut(target) else { return };
        match pending.silent.checked_sub(1).and_then(|before| self.pace.retry_ms(before)) {
            Some(pause) => pending.again = now.plus_ms(pause),
            None => {
                beat.pending.remove(target);
            }
        }
    }

    /// The deadline passed.
    pub fn silent(&mut self, holder: &PeerKey, target: &Target, now: Timestamp) -> Silence {
        // What is watched no more has nobody who waits for it.
        let Some(beat) = self.beats.get_mut(holder) else { return Silence::Again };
        let Some(pending) = beat.pending.get_mut(target) else { return Silence::Again };
        if pending.silent == 0 {
            pending.since = now;
        }
        if let Some(pause) = self.pace.retry_ms(pending.silent) {
            pending.again = now.plus_ms(pause);
            pending.silent += 1;
            return Silence::Again;
        }
        let others = beat.last_answer.is_some_and(|at| at > pending.since);
        beat.pending.remove(target);
        if others { Silence::Withheld } else { Silence::Absent }
    }
}

impl Beat {
    fn wakes(&self) -> Timestamp {
        let again = self.pending.values().map(|p| p.again).min();
        // A holder that owes many answers, or for all that it has, is asked for nothing new.
        let fresh = (self.pending.len() < PENDING_MAX && self.has_free()).then_some(self.next);
        again.into_iter().chain(fresh).min().unwrap_or(self.next)
    }

    /// Whether there is a shard that is not pending.
    fn has_free(&self) -> bool {
        let mut all = 0;
        self.places.values().any(|place| {
            all += place.ordinals.len();
            all > self.pending.len()
        })
    }

    fn pick<R: CryptoRng + ?Sized>(&mut self, rng: &mut R) -> Option<Target> {
        let mut waits: BTreeMap<(GroupId, Slot), Ordinals> = BTreeMap::new();
        for target in self.pending.keys() {
            waits.entry((target.group, target.slot)).or_default().insert(target.ordinal);
        }
        let waits = |at: &(GroupId, Slot)| waits.get(at).copied().unwrap_or_default();
        let free = |at: &(GroupId, Slot), place: &Place| place.ordinals.without(&waits(at));
        let open = |at: &(GroupId, Slot), place: &Place| free(at, place).without(&place.asked);
        let count = |set: Ordinals| set.len() as u64;
        let mut left: u64 = self.places.iter().map(|(at, place)| count(open(at, place))).sum();
        if left == 0 {
            // Another turn; what is pending was just asked for.
            self.places.iter_mut().for_each(|(at, place)| place.asked = waits(at));
            left = self.places.iter().map(|(at, place)| count(open(at, place))).sum();
        }
        let any = rng.next_u64().is_multiple_of(ANY_OF);
        let all: u64 = self.places.iter().map(|(at, place)| count(free(at, place))).sum();
        let mut nth = rng.next_u64() % if any { all } else { left }.max(1);
        for (at, place) in &mut self.places {
            let candidates = if any { free(at, place) } else { open(at, place) };
            let here = count(candidates);
            if nth >= here {
                nth -= here;
                continue;
            }
            let ordinal = candidates.iter().nth(usize::try_from(nth).unwrap_or(0))?;
            place.asked.insert(ordinal);
            return Some(Target { group: at.0, slot: at.1, ordinal });
        }
        None
    }
}
