//! What an auditor asks whom, and when: oldest first, by lot among these, spread over the day, and what was not answered again.
//!
//! One shard in four is drawn from all of a holder's and not from those that were not asked for in this turn: else a holder
//! that has just answered for a shard could drop it until the turn ends. What stays silent is asked for again three times
//! within a day, with new nonces (Storj's containment): silence about *some* shards while others are answered is then
//! [`Silence::Withheld`], silence about all is absence.
//!
//! Pure: the caller says what came of an audit; [`Schedule::next`] says what is next.

use std::collections::BTreeMap;

use cairn_proto::{GroupId, PeerKey, Slot, Timestamp};
use rand_core::CryptoRng;

use super::AUDITS_PER_DAY;

/// Most group slots that are watched in all: at some 150 bytes each 10 MB, and 16 TB of shards.
pub const PLACES_MAX: usize = 65_536;
/// Most audits of one holder that wait to be asked again. From then on nothing new is asked: it is away.
pub const PENDING_MAX: usize = 16;
/// When to ask again what was not answered: after one hour, four, sixteen.
const RETRY_MS: [u64; 3] = [3_600_000, 4 * 3_600_000, 16 * 3_600_000];
/// One in so many is drawn from all shards.
const ANY_OF: u64 = 4;
const DAY_MS: u64 = 24 * 3600 * 1000;

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
    /// It will be asked again.
    Again,
    /// Asked four times in vain, while the holder answered others: it has not got it and does not say so.
    Withheld,
    /// Asked four times in vain, and nothing else was answered either: it is away.
    Absent,
}

/// Ordinals of one group slot: how many, and a bit for each that was asked for in this turn.
#[derive(Clone, Copy, Debug)]
struct Place {
    ordinals: u16,
    asked: [u64; 4],
}

impl Place {
    fn was_asked(&self, ordinal: u8) -> bool {
        self.asked[usize::from(ordinal / 64)] & (1 << (ordinal % 64)) != 0
    }

    fn set_asked(&mut self, ordinal: u8) {
        self.asked[usize::from(ordinal / 64)] |= 1 << (ordinal % 64);
    }

    fn open(&self) -> u64 {
        let asked: u32 = self.asked.iter().map(|word| word.count_ones()).sum();
        u64::from(self.ordinals).saturating_sub(asked.into())
    }
}

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
}

impl Schedule {
    /// Nothing to do yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a slot of a group at a holder, with so many shards (1..=256); again, when their number changed. `auditors`
    /// is how many share this holder's [`AUDITS_PER_DAY`]. False: the schedule is full.
    pub fn watch(
        &mut self,
        holder: PeerKey,
        place: (GroupId, Slot),
        ordinals: u16,
        auditors: u32,
        now: Timestamp,
    ) -> bool {
        let known = self.beats.get(&holder).is_some_and(|b| b.places.contains_key(&place));
        if !known && self.places >= PLACES_MAX {
            return false;
        }
        self.places += usize::from(!known);
        let gap_ms = DAY_MS / u64::from((AUDITS_PER_DAY / auditors.max(1)).max(1));
        let beat = self.beats.entry(holder).or_insert_with(|| Beat {
            places: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: now,
            gap_ms,
            last_answer: None,
        });
        beat.gap_ms = gap_ms;
        let entry = beat.places.entry(place).or_insert(Place { ordinals: 0, asked: [0; 4] });
        entry.ordinals = ordinals.clamp(1, 256);
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

    /// What to ask now. Drain until `None`. What was missed while the auditor was away is not made up for.
    pub fn next<R: CryptoRng + ?Sized>(&mut self, now: Timestamp, rng: &mut R) -> Option<Due> {
        let (holder, beat) = self.beats.iter_mut().filter(|(_, b)| b.wakes() <= now).min_by_key(|(_, b)| b.wakes())?;
        let retry = beat.pending.iter_mut().filter(|(_, p)| p.again <= now).min_by_key(|(_, p)| p.again);
        if let Some((target, pending)) = retry {
            // Answered or not, the caller will say; until then it is not due.
            pending.again = now.plus_ms(DAY_MS);
            return Some(Due { holder: *holder, target: *target, silent: pending.silent });
        }
        // Spread: between half a gap and one and a half.
        beat.next = now.plus_ms(beat.gap_ms / 2 + rng.next_u64() % (beat.gap_ms + 1));
        let target = beat.pick(rng)?;
        Some(Due { holder: *holder, target, silent: 0 })
    }

    /// An audit was answered, whatever the answer.
    pub fn answered(&mut self, holder: &PeerKey, target: &Target, now: Timestamp) {
        let Some(beat) = self.beats.get_mut(holder) else { return };
        beat.pending.remove(target);
        beat.last_answer = Some(now);
    }

    /// The deadline passed.
    pub fn silent(&mut self, holder: &PeerKey, target: &Target, now: Timestamp) -> Silence {
        let Some(beat) = self.beats.get_mut(holder) else { return Silence::Absent };
        if beat.pending.len() >= PENDING_MAX && !beat.pending.contains_key(target) {
            return Silence::Absent;
        }
        let pending = beat.pending.entry(*target).or_insert(Pending { silent: 0, again: now, since: now });
        if let Some(pause) = RETRY_MS.get(usize::from(pending.silent)) {
            pending.again = now.plus_ms(*pause);
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
        // A holder that owes many answers is asked for nothing new.
        let fresh = (self.pending.len() < PENDING_MAX).then_some(self.next);
        again.into_iter().chain(fresh).min().unwrap_or(self.next)
    }

    fn pick<R: CryptoRng + ?Sized>(&mut self, rng: &mut R) -> Option<Target> {
        let mut open: u64 = self.places.values().map(Place::open).sum();
        if open == 0 {
            self.places.values_mut().for_each(|place| place.asked = [0; 4]);
            open = self.places.values().map(Place::open).sum();
        }
        let any = rng.next_u64().is_multiple_of(ANY_OF);
        let all: u64 = self.places.values().map(|p| u64::from(p.ordinals)).sum();
        let mut at = rng.next_u64() % if any { all } else { open }.max(1);
        for ((group, slot), place) in &mut self.places {
            let here = if any { u64::from(place.ordinals) } else { place.open() };
            if at >= here {
                at -= here;
                continue;
            }
            let last = u8::try_from(place.ordinals - 1).unwrap_or(u8::MAX);
            let mut candidates = (0..=last).filter(|o| any || !place.was_asked(*o));
            let ordinal = candidates.nth(usize::try_from(at).unwrap_or(0)).unwrap_or(0);
            place.set_asked(ordinal);
            return Some(Target { group: *group, slot: *slot, ordinal });
        }
        None
    }
}
