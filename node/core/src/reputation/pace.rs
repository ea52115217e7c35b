//! Who serves slowly: not by the clock alone, because the line may be ours, but beside others who served us at the same time.
//!
//! A shard that came quickly is prompt, whatever others do. One that took long is slow only where several others lately brought theirs in
//! a small part of that time, over the same line of ours. Everything between says nothing, so a home line is not blamed for being
//! one. What is counted is told in `entry`: each day once, for thirty days, and never to others.
//!
//! Pure and bounded.

use std::collections::BTreeMap;

use cairn_proto::{PeerKey, Timestamp};

use super::Observed;

/// A shard in this time is prompt: 2 Mbit/s.
pub const PROMPT_MS: u64 = 4_000;
/// Nobody is slow who is quicker than this: 0.4 Mbit/s. A disk that is worth pledging has ten times that.
pub const SLOW_MS: u64 = 20_000;
/// ... and who does not take so many times as long as others do.
const TIMES: u64 = 8;
/// So many others must have served us lately: one or two may be neighbours.
const OTHERS_LEAST: usize = 3;
/// Lately.
const LATELY_MS: u64 = 10 * 60 * 1000;
/// Peers whose last shard is remembered: more than one restore has under way at a time.
const PEERS_MAX: usize = 64;

/// What the last shards of others took.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    last: BTreeMap<PeerKey, (Timestamp, u64)>,
}

impl Pace {
    /// A shard took so long, or did not come for so long. What that says of the peer, if anything.
    pub fn took(&mut self, peer: PeerKey, ms: u64, came: bool, now: Timestamp) -> Option<Observed> {
        // A clock that was set back makes nobody comparable.
        self.last.retain(|_, (at, _)| now >= *at && now.ms_since(*at) <= LATELY_MS);
        let seen = if came && ms <= PROMPT_MS { Some(Observed::Prompt) } else { self.slow(&peer, ms) };
        if came {
            if self.last.len() >= PEERS_MAX && !self.last.contains_key(&peer) {
                let oldest = self.last.iter().min_by_key(|(_, (at, _))| *at).map(|(peer, _)| *peer);
                oldest.and_then(|oldest| self.last.remove(&oldest));
            }
            self.last.insert(peer, (now, ms));
        }
        seen
    }

    fn slow(&self, peer: &PeerKey, ms: u64) -> Option<Observed> {
        let mut others: Vec<u64> =
            self.last.iter().filter(|(other, _)| *other != peer).map(|(_, (_, ms))| *ms).collect();
        others.sort_unstable();
        let median = *others.get(others.len() / 2).filter(|_| others.len() >= OTHERS_LEAST)?;
        (ms >= SLOW_MS && ms >= TIMES * median).then_some(Observed::Slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reputation::{Class, DAY_MS, Reason, Reputation};

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    fn at(s: u64) -> Timestamp {
        Timestamp(1000 * DAY_MS + s * 1000)
    }

    #[test]
    fn who_is_slow_beside_quick_ones_is_slow() {
        let mut pace = Pace::default();
        assert_eq!(pace.took(peer(1), 60_000, true, at(0)), None, "nobody to compare with");
        for n in 2..4 {
            assert_eq!(pace.took(peer(n), 300, true, at(1)), Some(Observed::Prompt));
        }
        assert_eq!(pace.took(peer(1), 60_000, true, at(2)), None, "two others are too few");
        assert_eq!(pace.took(peer(4), 2_000, true, at(2)), Some(Observed::Prompt));
        assert_eq!(pace.took(peer(1), 60_000, true, at(3)), Some(Observed::Slow));
        assert_eq!(pace.took(peer(1), 60_000, false, at(3)), Some(Observed::Slow), "nor did it come");
        assert_eq!(pace.took(peer(1), SLOW_MS - 1, true, at(3)), None, "a home line");
        assert_eq!(pace.took(peer(1), 200, true, at(4)), Some(Observed::Prompt), "and it heals");
        assert_eq!(pace.took(peer(1), 60_000, true, at(700)), None, "others were quick long ago");
    }

    #[test]
    fn a_line_of_ours_that_is_slow_blames_nobody() {
        let mut pace = Pace::default();
        for round in 0..50 {
            for n in 0..8 {
                assert_eq!(pace.took(peer(n), 25_000 + 9_000 * u64::from(n), true, at(round * 30)), None);
            }
        }
    }

    #[test]
    fn a_crowd_does_not_grow_it() {
        let mut pace = Pace::default();
        for n in 0..1000u64 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            pace.took(PeerKey::from_bytes(bytes), 10, true, at(n / 100));
        }
        assert_eq!(pace.last.len(), PEERS_MAX);
    }

    /// One that is there, answers audits and serves like treacle gets nothing new from the second day on; one bad evening costs nobody its
    /// place, and two months later all is forgotten.
    #[test]
    fn who_serves_slowly_for_days_is_not_eligible_until_it_mends() {
        let (mut book, who) = (Reputation::new(), peer(1));
        book.met(who, Class::Home, at(0));
        let day = |d: u64| at(d * 24 * 3600);
        let seen = |book: &mut Reputation, d: u64, seen| {
            (0..20).for_each(|_| book.observe(who, Observed::Good, day(d)));
            (0..7).for_each(|_| book.observe(who, seen, day(d)));
        };
        (0..5).for_each(|d| seen(&mut book, d, Observed::Prompt));
        seen(&mut book, 5, Observed::Slow);
        assert!(book.standing(&who, 9, day(5)).eligible, "one bad evening");
        (6..14).for_each(|d| seen(&mut book, d, Observed::Slow));
        let out = book.standing(&who, 9, day(13));
        assert!(!out.eligible, "{out:?}");
        assert!(
            out.why.iter().any(|why| matches!(why, Reason::Pace { days: 14, prompt: 35, slow: 63, .. })),
            "{out:?}"
        );
        assert!(out.explain().iter().any(|line| line.contains("63 slow")), "{out:?}");
        assert_eq!(book.distrusted().count(), 0, "slow is no lie: nobody votes for that");
        let kept = Reputation::decode(&book.encode()).expect("our own bytes");
        assert_eq!(kept.standing(&who, 9, day(13)), out);
        // One that was always slow is out on the second day.
        let (mut book, new) = (Reputation::new(), who);
        book.met(new, Class::Home, Timestamp(day(0).0 - 9 * DAY_MS));
        seen(&mut book, 0, Observed::Slow);
        assert!(book.standing(&new, 9, day(0)).eligible);
        seen(&mut book, 1, Observed::Slow);
        assert!(!book.standing(&new, 9, day(1)).eligible);
        // Mended.
        book = kept.clone();
        (14..34).for_each(|d| seen(&mut book, d, Observed::Prompt));
        assert!(book.standing(&who, 9, day(33)).eligible);
        // Never asked again: forgotten.
        assert!(kept.standing(&who, 9, day(60)).why.iter().all(|why| !matches!(why, Reason::Pace { .. })));
    }
}
