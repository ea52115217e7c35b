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

/// How a watched peer is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// For how long.
    pub(super) ms: u64,
    /// A group of its needs something or has something under way.
    pub(super) often: bool,
    /// It is presumed gone.
    pub(super) gone: bool,
}

/// Whom to ask whether it is there.
#[derive(Debug)]
pub(super) struct Probes {
    /// When somebody was last asked, and how many times since it is presumed gone.
    asked: BTreeMap<PeerKey, (Timestamp, u32)>,
    open: BTreeSet<PeerKey>,
    pace: Pace,
    often_ms: u64,
    seldom_ms: u64,
    longest_ms: u64,
    gone_ms: u64,
}

impl Probes {
    /// `often_ms` for peers of groups that need something, `seldom_ms` for the silent among the others, more and more seldom up to
    /// `longest_ms`. Who is gone is asked at doubled pauses up to `gone_ms`, even when its group is busy: a group that cannot be
    /// repaired stays busy for months.
    pub(super) fn new(often_ms: u64, seldom_ms: u64, longest_ms: u64, gone_ms: u64) -> Self {
        let longest_ms = longest_ms.max(seldom_ms);
        let pace = Pace::new(PROBES_A_MINUTE);
        let gone_ms = gone_ms.max(often_ms);
        Self { asked: BTreeMap::new(), open: BTreeSet::new(), pace, often_ms, seldom_ms, longest_ms, gone_ms }
    }

    /// Who is to be asked now: of those watched, with the time of their silence and whether a group of theirs needs something. They
    /// count as asked from then on, until [`Probes::answered`].
    pub(super) fn due(&mut self, watched: &BTreeMap<PeerKey, Silence>, now: Timestamp) -> Vec<PeerKey> {
        self.asked.retain(|peer, _| watched.contains_key(peer));
        let most = self.pace.left(now).min(OPEN_MAX.saturating_sub(self.open.len()));
        let mut due: Vec<(bool, Timestamp, PeerKey)> = watched
            .iter()
            .filter(|(peer, _)| !self.open.contains(*peer))
            .filter_map(|(peer, Silence { ms, often, gone })| {
                let (last, times) = self.asked.get(peer).copied().unwrap_or((Timestamp(0), 0));
                let every = match (often, gone) {
                    (true, true) => self.often_ms.saturating_mul(1 << times.min(32)).min(self.gone_ms),
                    (true, false) => self.often_ms,
                    // Whoever is silent for a month is hardly back within the next half hour.
                    (false, _) => (ms / 4).clamp(self.seldom_ms, self.longest_ms),
                };
                // A time that is yet to come is of a clock that was set back.
                let due = last > now || now.ms_since(last) >= every;
                (*ms >= every.min(self.seldom_ms) && due).then_some((!often, last, *peer))
            })
            .collect();
        due.sort_unstable();
        due.truncate(most);
        self.pace.used(due.len() as u32);
        for (_, _, peer) in &due {
            let gone = watched.get(peer).is_some_and(|silence| silence.gone);
            let times = self.asked.get(peer).map_or(0, |(_, times)| *times);
            self.asked.insert(*peer, (now, if gone { times.saturating_add(1) } else { 0 }));
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

/// How many holders may be asked what they have. Who is next, the steward knows.
#[derive(Debug)]
pub(super) struct Inventory {
    open: BTreeSet<Holding>,
    pace: Pace,
}

impl Inventory {
    pub(super) const fn new() -> Self {
        Self { open: BTreeSet::new(), pace: Pace::new(HOLDINGS_A_MINUTE) }
    }

    /// So many more may be asked now.
    pub(super) fn room(&mut self, now: Timestamp) -> usize {
        self.pace.left(now).min(OPEN_MAX.saturating_sub(self.open.len()))
    }

    /// Somebody is being asked; whether nobody asks the same already.
    pub(super) fn begin(&mut self, holding: Holding) -> bool {
        self.pace.used(1);
        self.open.insert(holding)
    }

    pub(super) fn answered(&mut self, holding: &Holding) {
        self.open.remove(holding);
    }
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
        let mut probes = Probes::new(100_000, HOUR / 2, 24 * HOUR, 21 * HOUR);
        let watched = |ms: u64| {
            let silence = |often| Silence { ms, often, gone: false };
            [(peer(1), silence(true)), (peer(2), silence(false))].into()
        };
        let start = Timestamp(1_000 * HOUR);
        assert_eq!(probes.due(&watched(60_000), start), [], "both were just heard");
        assert_eq!(probes.due(&watched(100_000), start), [peer(1)]);
        assert_eq!(probes.due(&watched(HOUR), start.plus_ms(1000)), [peer(2)], "the first is being asked");
        probes.answered(&peer(1));
        probes.answered(&peer(2));
        assert_eq!(probes.due(&watched(HOUR), start.plus_ms(2000)), [], "just asked");
        assert_eq!(probes.due(&watched(HOUR), start.plus_ms(100_000)), [peer(1)]);
        // Long silent: a quarter of its silence later.
        let long = [(peer(2), Silence { ms: 40 * HOUR, often: false, gone: false })].into();
        assert_eq!(probes.due(&long, start.plus_ms(9 * HOUR)), []);
        assert_eq!(probes.due(&long, start.plus_ms(11 * HOUR)), [peer(2)]);
    }

    #[test]
    fn who_is_gone_is_asked_more_and_more_seldom_and_after_a_clock_was_set_back_at_once() {
        let mut probes = Probes::new(100_000, HOUR / 2, 24 * HOUR, 21 * HOUR);
        let watched = [(peer(1), Silence { ms: 200 * HOUR, often: true, gone: true })].into();
        let (start, mut times) = (Timestamp(1_000 * HOUR), Vec::new());
        for minute in 0..10 * 24 * 60 {
            if !probes.due(&watched, start.plus_ms(minute * MINUTE_MS)).is_empty() {
                times.push(minute);
                probes.answered(&peer(1));
            }
        }
        let pauses: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(times.len() < 25 && pauses[0] <= 4, "{times:?}");
        assert!(pauses.is_sorted() && pauses.last() == Some(&(21 * 60)), "{pauses:?}");
        assert_eq!(probes.due(&watched, start), [peer(1)]);
    }

    #[test]
    fn a_thousand_silent_peers_are_asked_a_few_at_a_time_and_all_in_the_end() {
        let mut probes = Probes::new(100_000, HOUR / 2, 24 * HOUR, 21 * HOUR);
        let watched: BTreeMap<_, _> =
            (0..1000).map(|i| (peer(i), Silence { ms: HOUR, often: false, gone: false })).collect();
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
    fn holders_are_asked_a_few_at_a_time_and_so_many_a_minute() {
        let slot = Slot::new(0).expect("valid");
        let holding = |i: u16| (GroupId::from_bytes([1; 32]), slot, peer(i));
        let mut inventory = Inventory::new();
        let now = Timestamp(1_000 * HOUR);
        assert_eq!(inventory.room(now), OPEN_MAX);
        assert!(inventory.begin(holding(0)) && !inventory.begin(holding(0)));
        assert_eq!(inventory.room(now), OPEN_MAX - 1);
        for i in 0..HOLDINGS_A_MINUTE as u16 - 2 {
            inventory.begin(holding(i));
            inventory.answered(&holding(i));
        }
        assert_eq!(inventory.room(now), 0, "the minute is used up");
        assert_eq!(inventory.room(now.plus_ms(MINUTE_MS)), OPEN_MAX);
    }
}
