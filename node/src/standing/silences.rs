//! Which silences and signs of life count: not how often somebody looked, nor what our own line did.
//!
//! A peer that is dialled every minute while it is off, and pinged every two while it is there, would seem to be off more than it is;
//! so of each kind one counts within ten minutes. And who cannot be reached may be there while we are not: a silence counts once
//! somebody else is heard soon after it.

use std::collections::BTreeMap;

use cairn_proto::{PeerKey, Timestamp};

/// Of each kind one event of a peer counts within this time.
const SLOT_MS: u64 = 10 * 60 * 1000;
/// Somebody else must be heard within this time after a silence: half of what lies between two pings, and a line that was cut stays
/// cut for longer, or it does not matter.
const CONFIRMED_MS: u64 = 75 * 1000;
/// Peers looked at, as many as have figures.
const PEERS_MAX: usize = cairn_core::reputation::ENTRIES_MAX;

/// See the module's text. Times as the node's clock has them.
#[derive(Debug, Default)]
pub(super) struct Silences {
    /// Since when a silence waits for somebody else to be heard.
    waiting: BTreeMap<PeerKey, Timestamp>,
    /// In which slot somebody was last counted as silent, and as alive.
    counted: BTreeMap<PeerKey, [u64; 2]>,
}

impl Silences {
    /// Somebody was heard; whose silences that confirms, and when they were.
    pub(super) fn alive(&mut self, peer: PeerKey, now: Timestamp) -> Vec<(PeerKey, Timestamp)> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let mut confirmed = Vec::new();
        let kept = self.waiting.remove(&peer);
        for (silent, at) in std::mem::take(&mut self.waiting) {
            // A clock that was set back confirms nothing.
            if now >= at && now.ms_since(at) <= CONFIRMED_MS && self.counts(silent, 0, at) {
                confirmed.push((silent, at));
            }
        }
        // Its own silence is another's to confirm; that it is heard now does not undo it.
        if let Some(at) = kept.filter(|at| now.ms_since(*at) <= CONFIRMED_MS) {
            self.waiting.insert(peer, at);
        }
        confirmed
    }

    /// Somebody did not answer.
    pub(super) fn silent(&mut self, peer: PeerKey, now: Timestamp) {
        if self.waiting.len() >= PEERS_MAX {
            self.waiting.retain(|_, at| now >= *at && now.ms_since(*at) <= CONFIRMED_MS);
        }
        if self.waiting.len() < PEERS_MAX {
            self.waiting.insert(peer, now);
        }
    }

    /// Whether a sign of life is the first of its slot.
    pub(super) fn counts_alive(&mut self, peer: PeerKey, now: Timestamp) -> bool {
        self.counts(peer, 1, now)
    }

    fn counts(&mut self, peer: PeerKey, kind: usize, at: Timestamp) -> bool {
        // Zero is never.
        let slot = at.0 / SLOT_MS + 1;
        if self.counted.len() >= PEERS_MAX && !self.counted.contains_key(&peer) {
            self.counted.retain(|_, slots| slots.contains(&slot));
            if self.counted.len() >= PEERS_MAX {
                return false;
            }
        }
        let last = &mut self.counted.entry(peer).or_default()[kind];
        let first = *last != slot;
        *last = slot;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    #[test]
    fn a_silence_counts_when_somebody_else_is_heard_soon_after() {
        let mut silences = Silences::default();
        let at = |s: u64| Timestamp(s * 1000);
        silences.silent(peer(1), at(100));
        assert_eq!(silences.alive(peer(1), at(101)), [], "not its own");
        assert_eq!(silences.alive(peer(2), at(102)), [(peer(1), at(100))]);
        assert_eq!(silences.alive(peer(3), at(103)), [], "once");
        silences.silent(peer(1), at(110));
        assert_eq!(silences.alive(peer(2), at(111)), [], "one in ten minutes");
    }

    #[test]
    fn a_line_that_is_cut_says_nothing_of_anybody() {
        let mut silences = Silences::default();
        for minute in 0..600 {
            for n in 1..5 {
                silences.silent(peer(n), Timestamp(minute * 60_000));
            }
        }
        // All of them are back with the line; the last minute of it is what others' silences look like.
        let back = Timestamp(600 * 60_000 + 30_000);
        let counted: usize = (1..5).map(|n| silences.alive(peer(n), back).len()).sum();
        assert_eq!(counted, 0);
    }

    #[test]
    fn how_often_somebody_looks_says_nothing() {
        let mut silences = Silences::default();
        let (mut up, mut down) = (0, 0);
        // Half of the day it is there and pinged every two minutes, half of the day it is off and dialled ten times a minute.
        for step in 0..24 * 600u64 {
            let now = Timestamp(step * 6000);
            if step < 12 * 600 {
                if step % 20 == 0 {
                    up += usize::from(silences.counts_alive(peer(1), now));
                }
            } else {
                silences.silent(peer(1), now);
            }
            down += silences.alive(peer(2), now).len();
        }
        assert_eq!((up, down), (72, 72));
    }

    #[test]
    fn a_crowd_does_not_grow_it() {
        let mut silences = Silences::default();
        for n in 0..3 * PEERS_MAX as u64 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            let who = PeerKey::from_bytes(bytes);
            silences.silent(who, Timestamp(n));
            silences.counts_alive(who, Timestamp(n));
        }
        assert!(silences.waiting.len() <= PEERS_MAX && silences.counted.len() <= PEERS_MAX);
    }
}
