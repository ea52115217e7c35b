//! Whom a steward asks whether it is there, and which holder what it has: who is next, and never more than a few a minute.
//!
//! Pure: time comes in, names come out.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{GroupId, PeerKey, Slot, Timestamp};

/// Questions of a kind that may be open at the same time.
pub(super) const OPEN_MAX: usize = 16;
/// Probes that may begin within a minute: a dial each, most of them at peers that are away.
const PROBES_A_MINUTE: u32 = 120;
/// Questions for holdings that may begin within a minute: 4096 groups with sixteen holders each, once a day, are 45.
const HOLDINGS_A_MINUTE: u32 = 120;
const MINUTE_MS: u64 = 60_000;

/// One question a time, spread over a minute.
#[derive(Debug)]
struct Pace {
    a_minute: u32,
    minute: (Timestamp, u32),
}

impl Pace {
    const fn new(a_minute: u32) -> Self {
        Self { a_minute, minute: (Timestamp(0), 0) }
    }

    fn left(&mut self, now: Timestamp) -> usize {
        if now.ms_since(self.minute.0) >= MINUTE_MS || now < self.minute.0 {
            self.minute = (now, 0);
        }
        self.a_minute.saturating_sub(self.minute.1) as usize
    }

    const fn used(&mut self, count: u32) {
        self.minute.1 += count;
    }
}

/// Whom to ask whether it is there.
#[derive(Debug)]
pub(super) struct Probes {
    /// When somebody was last asked.
    asked: BTreeMap<PeerKey, Timestamp>,
    open: BTreeSet<PeerKey>,
    pace: Pace,
    often_ms: u64,
    seldom_ms: u64,
    longest_ms: u64,
}

impl Probes {
    /// `often_ms` for peers of groups that need something, `seldom_ms` for the silent among the others, more and more seldom up to
    /// `longest_ms`.
    pub(super) fn new(often_ms: u64, seldom_ms: u64, longest_ms: u64) -> Self {
        let longest_ms = longest_ms.max(seldom_ms);
        let pace = Pace::new(PROBES_A_MINUTE);
        Self { asked: BTreeMap::new(), open: BTreeSet::new(), pace, often_ms, seldom_ms, longest_ms }
    }

    /// Who is to be asked now: of those watched, with the time of their silence and whether a group of theirs needs something. They
    /// count as asked from then on, until [`Probes::answered`].
    pub(super) fn due(&mut self, watched: &BTreeMap<PeerKey, (u64, bool)>, now: Timestamp) -> Vec<PeerKey> {
        self.asked.retain(|peer, _| watched.contains_key(peer));
        let most = self.pace.left(now).min(OPEN_MAX.saturating_sub(self.open.len()));
        let mut due: Vec<(bool, Timestamp, PeerKey)> = watched
            .iter()
            .filter(|(peer, _)| !self.open.contains(*peer))
            .filter_map(|(peer, (silent_ms, often))| {
                let last = self.asked.get(peer).copied().unwrap_or(Timestamp(0));
                // Whoever is silent for a month is hardly back within the next half hour.
                let every = if *often { self.often_ms } else { (silent_ms / 4).clamp(self.seldom_ms, self.longest_ms) };
                (*silent_ms >= every.min(self.seldom_ms) && now.ms_since(last) >= every).then_some((!often, last, *peer))
            })
            .collect();
        due.sort_unstable();
        due.truncate(most);
        self.pace.used(due.len() as u32);
        for (_, _, peer) in &due {
            self.asked.insert(*peer, now);
            self.open.insert(*peer);
        }
        due.into_iter().map(|(_, _, peer)| peer).collect()
    }

    pub(super) fn answered(&mut self, peer: &PeerKey) {
        self.open.remove(peer);
    }
}

/// A holder of a slot.
pub(super) type Holding = (GroupId, Slot, PeerKey);

/// Which holders to ask what they have.
#[derive(Debug)]
pub(super) struct Inventory {
    /// When somebody is asked next.
    next: BTreeMap<Holding, Timestamp>,
    open: BTreeSet<Holding>,
    pace: Pace,
    every_ms: u64,
}

impl Inventory {
    pub(super) fn new(every_ms: u64) -> Self {
        Self {
            next: BTreeMap::new(),
            open: BTreeSet::new(),
            pace: Pace::new(HOLDINGS_A_MINUTE),
            every_ms: every_ms.max(1),
        }
    }

    /// What is watched now. New ones get their place in the period by lot, so that a restart asks nobody all at once.
    pub(super) fn watch(&mut self, holdings: &BTreeSet<Holding>, now: Timestamp) {
        self.next.retain(|holding, _| holdings.contains(holding));
        for holding in holdings {
            let first = || now.plus_ms(lot(holding) % self.every_ms);
            self.next.entry(*holding).or_insert_with(first);
        }
    }

    /// This peer is asked at once in every group, or in one: something was repaired, or it came back.
    pub(super) fn hurry(&mut self, peer: &PeerKey, only: Option<GroupId>, now: Timestamp) {
        for ((group, _, holder), next) in &mut self.next {
            if holder == peer && only.is_none_or(|only| only == *group) {
                *next = now.min(*next);
            }
        }
    }

    /// Whom to ask now, of those who are there. They count as asked, until [`Inventory::answered`].
    pub(super) fn due(&mut self, here: &dyn Fn(&PeerKey) -> bool, now: Timestamp) -> Vec<Holding> {
        let most = self.pace.left(now).min(OPEN_MAX.saturating_sub(self.open.len()));
        let asked = self.next.iter().filter(|(holding, next)| **next <= now && !self.open.contains(*holding));
        let mut due: Vec<(Timestamp, Holding)> =
            asked.filter(|((_, _, peer), _)| here(peer)).map(|(holding, next)| (*next, *holding)).collect();
        due.sort_unstable();
        due.truncate(most);
        self.pace.used(due.len() as u32);
        for (_, holding) in &due {
            self.open.insert(*holding);
            self.next.insert(*holding, now.plus_ms(self.every_ms));
        }
        due.into_iter().map(|(_, holding)| holding).collect()
    }

    pub(super) fn answered(&mut self, holding: &Holding) {
        self.open.remove(holding);
    }
}

/// A number for a holder that has nothing to do with anybody else's.
fn lot((group, slot, peer): &Holding) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 inventory lot v1");
    hasher.update(group.as_bytes()).update(&[slot.as_u8()]).update(peer.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn peer(i: u16) -> PeerKey {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&i.to_be_bytes());
        PeerKey::from_bytes(bytes)
    }

    #[test]
    fn peers_of_a_needy_group_are_asked_often_and_the_others_when_they_are_silent() {
        let mut probes = Probes::new(100_000, HOUR / 2, 24 * HOUR);
        let watched = |silent: u64| [(peer(1), (silent, true)), (peer(2), (silent, false))].into();
        let start = Timestamp(1_000 * HOUR);
        assert_eq!(probes.due(&watched(60_000), start), [], "both were just heard");
        assert_eq!(probes.due(&watched(100_000), start), [peer(1)]);
        assert_eq!(probes.due(&watched(HOUR), start.plus_ms(1000)), [peer(2)], "the first is being asked");
        probes.answered(&peer(1));
        probes.answered(&peer(2));
        assert_eq!(probes.due(&watched(HOUR), start.plus_ms(2000)), [], "just asked");
        assert_eq!(probes.due(&watched(HOUR), start.plus_ms(100_000)), [peer(1)]);
        // Long silent: a quarter of its silence later.
        let long = [(peer(2), (40 * HOUR, false))].into();
        assert_eq!(probes.due(&long, start.plus_ms(9 * HOUR)), []);
        assert_eq!(probes.due(&long, start.plus_ms(11 * HOUR)), [peer(2)]);
    }

    #[test]
    fn a_thousand_silent_peers_are_asked_a_few_at_a_time_and_all_in_the_end() {
        let mut probes = Probes::new(100_000, HOUR / 2, 24 * HOUR);
        let watched: BTreeMap<_, _> = (0..1000).map(|i| (peer(i), (HOUR, false))).collect();
        let mut now = Timestamp(1_000 * HOUR);
        let (mut asked, mut minute) = (BTreeSet::new(), 0);
        for second in 0..20 * 60u64 {
            let due = probes.due(&watched, now);
            assert!(due.len() <= OPEN_MAX);
            minute = if second % 60 == 0 { due.len() } else { minute + due.len() };
            assert!(minute <= PROBES_A_MINUTE as usize, "{minute} in a minute");
            for peer in due {
                assert!(asked.insert(peer), "nobody twice before everybody once");
                probes.answered(&peer);
            }
            now = now.plus_ms(1000);
        }
        assert_eq!(asked.len(), 1000);
    }

    #[test]
    fn holders_are_asked_once_a_period_spread_and_at_once_when_they_come_back() {
        let slot = Slot::new(0).expect("valid");
        let group = |i: u16| GroupId::from_bytes(*peer(i).as_bytes());
        let holdings: BTreeSet<Holding> = (0..200).map(|i| (group(i), slot, peer(i % 20))).collect();
        let mut inventory = Inventory::new(24 * HOUR);
        let start = Timestamp(1_000 * HOUR);
        inventory.watch(&holdings, start);
        let mut asked: BTreeMap<Holding, u32> = BTreeMap::new();
        let mut most = 0;
        for minute in 0..48 * 60u64 {
            let now = start.plus_ms(minute * MINUTE_MS);
            inventory.watch(&holdings, now);
            let due = inventory.due(&|who| *who != peer(3), now);
            most = most.max(due.len());
            for holding in due {
                *asked.entry(holding).or_default() += 1;
                inventory.answered(&holding);
            }
        }
        assert_eq!(asked.len(), 190, "all but those of the one that is away");
        assert!(asked.values().all(|times| (1..=3).contains(times)) && most < 8, "spread: {most} at once");
        // The one that was away comes back.
        let now = start.plus_ms(48 * HOUR);
        inventory.hurry(&peer(3), None, now);
        assert_eq!(inventory.due(&|who| *who == peer(3), now).len(), 10);
    }
}
