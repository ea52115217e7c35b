//! Which stewards watch which group, and what of them we lost and told them so. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{GroupId, Ordinals, PeerKey, Slot, Timestamp, mandate::STEWARDS_MAX};
use serde::{Deserialize, Serialize};

use super::Watchers;

/// Groups whose stewards are remembered: twelve MiB in memory and on disk. A holder of more learns of the others again and again, each
/// time that they ask.
pub(super) const GROUPS_MAX: usize = 16_384;
/// Groups of which losses are told; a disk that lost more is beyond telling, and the stewards ask anyway.
pub(super) const LOSSES_MAX: usize = 16_384;
/// Times that a loss is told before it is left to the stewards' own questions: three days with the pauses.
const TRIES_MAX: u32 = 12;

/// Who watches what. Only groups that we hold get in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Book(BTreeMap<GroupId, Watchers>);

impl Book {
    pub(super) fn of(groups: BTreeMap<GroupId, Watchers>) -> Self {
        let legal = |by: &Watchers| by.stewards.len() <= STEWARDS_MAX;
        Self(groups.into_iter().filter(|(_, by)| legal(by)).take(GROUPS_MAX).collect())
    }

    pub(super) const fn all(&self) -> &BTreeMap<GroupId, Watchers> {
        &self.0
    }

    pub(super) fn get(&self, group: &GroupId) -> Option<&Watchers> {
        self.0.get(group)
    }

    /// Takes note, unless something newer is known; whether it was worth it. When they last asked is kept by a minute.
    pub(super) fn note(&mut self, group: GroupId, mut by: Watchers) -> bool {
        const MINUTE: u64 = 60_000;
        match self.0.get(&group) {
            Some(known) if known.version > by.version => return false,
            None if self.0.len() >= GROUPS_MAX => return false,
            Some(known) => {
                by.asked = by.asked.max_by_time(known.asked);
                by.ordered = by.ordered.max(known.ordered);
                let lately = |new: Timestamp, old: Timestamp| new.ms_since(old) < MINUTE && old.ms_since(new) < MINUTE;
                let same = known.stewards == by.stewards && known.version == by.version && known.ordered == by.ordered;
                if same && matches!((known.asked, by.asked), (Some(old), Some(new)) if lately(new.1, old.1)) {
                    return false;
                }
            }
            None => {}
        }
        self.0.insert(group, by);
        true
    }

    /// Forgets groups of which nothing is held any more.
    pub(super) fn keep(&mut self, held: impl Fn(&GroupId) -> bool) {
        self.0.retain(|group, _| held(group));
    }
}

trait MaxByTime {
    fn max_by_time(self, other: Self) -> Self;
}

impl MaxByTime for Option<(PeerKey, Timestamp)> {
    fn max_by_time(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) if b.1 > a.1 => Some(b),
            (None, other) => other,
            (some, _) => some,
        }
    }
}

/// What we lost of one group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loss {
    pub(super) slot: Slot,
    pub(super) ordinals: Ordinals,
    pub(super) since: Timestamp,
    /// Stewards that took note of all of it.
    pub(super) noted: BTreeSet<PeerKey>,
    tries: u32,
    next: Timestamp,
}

/// All losses that are not healed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Losses {
    of: BTreeMap<GroupId, Loss>,
    pub(super) sums: Sums,
}

/// Shards ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Lost.
    pub lost: u64,
    /// Of those, here again.
    pub healed: u64,
}

impl Loss {
    /// Whether a majority took note.
    pub(super) fn is_told(&self, stewards: &[PeerKey]) -> bool {
        let noted = stewards.iter().filter(|steward| self.noted.contains(steward)).count();
        2 * noted > stewards.len()
    }
}

impl Losses {
    pub(super) const fn all(&self) -> &BTreeMap<GroupId, Loss> {
        &self.of
    }

    /// Lost shards. Whether they were news.
    pub(super) fn add(&mut self, group: GroupId, slot: Slot, lost: &Ordinals, now: Timestamp) -> bool {
        if lost.is_empty() || (self.of.len() >= LOSSES_MAX && !self.of.contains_key(&group)) {
            return false;
        }
        let new = Loss { slot, ordinals: Ordinals::default(), since: now, noted: BTreeSet::new(), tries: 0, next: now };
        let loss = self.of.entry(group).or_insert(new);
        let more = lost.without(&loss.ordinals);
        if more.is_empty() {
            return false;
        }
        self.sums.lost += more.len() as u64;
        loss.ordinals = loss.ordinals.or(&more);
        (loss.since, loss.tries, loss.next) = (now, 0, now);
        loss.noted.clear();
        true
    }

    /// Whether something of this group is lost, and told to nobody yet.
    pub(super) fn waits_for(&self, group: &GroupId) -> bool {
        self.of.get(group).is_some_and(|loss| loss.noted.is_empty())
    }

    /// Up to so many groups that are to be told of now, each with whom; then they count as tried. Those whose stewards nobody knows wait
    /// until one asks.
    pub(super) fn due(
        &mut self,
        book: &Book,
        now: Timestamp,
        pause_ms: u64,
        most: usize,
    ) -> Vec<(GroupId, Slot, Ordinals, Vec<PeerKey>)> {
        let mut due = Vec::new();
        for (group, loss) in &mut self.of {
            let Some(by) = book.get(group) else { continue };
            // A clock that was set back must not make us silent.
            let waits = loss.next > now && loss.next.ms_since(now) <= pause_ms << TRIES_MAX;
            if loss.tries >= TRIES_MAX || waits || loss.is_told(&by.stewards) {
                continue;
            }
            let to = by.stewards.iter().filter(|steward| !loss.noted.contains(steward)).copied().collect();
            due.push((*group, loss.slot, loss.ordinals, to));
            loss.next = now.plus_ms(pause_ms << loss.tries);
            loss.tries += 1;
            if due.len() == most {
                break;
            }
        }
        due
    }

    /// When somebody is to be told next.
    pub(super) fn next(&self, book: &Book) -> Option<Timestamp> {
        let open = |(group, loss): (&GroupId, &Loss)| {
            let by = book.get(group)?;
            (loss.tries < TRIES_MAX && !loss.is_told(&by.stewards)).then_some(loss.next)
        };
        self.of.iter().filter_map(open).min()
    }

    /// A steward took note of these.
    pub(super) fn noted(&mut self, group: &GroupId, ordinals: &Ordinals, by: PeerKey) {
        if let Some(loss) = self.of.get_mut(group).filter(|loss| loss.ordinals.without(ordinals).is_empty()) {
            loss.noted.insert(by);
        }
    }

    /// Takes note of what is here again. Looked at only when it was told or some time went by: the store marks what is damaged a moment
    /// after it says so. Whether something changed.
    pub(super) fn heal(
        &mut self,
        book: &Book,
        now: Timestamp,
        after_ms: u64,
        sound: impl Fn(GroupId, Slot) -> Ordinals,
    ) -> bool {
        let before = self.sums.healed;
        for (group, loss) in &mut self.of {
            let told = book.get(group).is_some_and(|by| loss.is_told(&by.stewards));
            if told || now.ms_since(loss.since) >= after_ms {
                let here = sound(*group, loss.slot).and(&loss.ordinals);
                loss.ordinals = loss.ordinals.without(&here);
                self.sums.healed += here.len() as u64;
            }
        }
        self.of.retain(|_, loss| !loss.ordinals.is_empty());
        before != self.sums.healed
    }

    /// Forgets what is neither here nor damaged any more: its owner deleted it, or its time in the trash is over.
    pub(super) fn forget(&mut self, damaged: &BTreeMap<GroupId, Ordinals>, now: Timestamp, after_ms: u64) {
        for (group, loss) in &mut self.of {
            if now.ms_since(loss.since) >= after_ms {
                loss.ordinals = loss.ordinals.and(&damaged.get(group).copied().unwrap_or_default());
            }
        }
        self.of.retain(|_, loss| !loss.ordinals.is_empty());
    }

    /// Those of the file: they are told once more.
    pub(super) fn of(losses: BTreeMap<GroupId, (Slot, Vec<u8>, Timestamp)>, sums: Sums) -> Self {
        let loss = |(group, (slot, ordinals, since)): (GroupId, (Slot, Vec<u8>, Timestamp))| {
            let ordinals = ordinals.into_iter().collect();
            (group, Loss { slot, ordinals, since, noted: BTreeSet::new(), tries: 0, next: Timestamp(0) })
        };
        Self { of: losses.into_iter().take(LOSSES_MAX).map(loss).collect(), sums }
    }
}
