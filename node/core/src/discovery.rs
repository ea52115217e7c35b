//! When a node looks for others: walks through the DHT towards its own place, and questions for adverts.
//!
//! Gossip tells everybody of everybody, but only whom it reaches, and a first contact may come late or break off. So both
//! are repeated until something came of them, then rarely. Pure: the caller says what happened and when, on a clock that
//! never goes back.
//!
//! # Invariants
//!
//! - **NET-7** Who has a connection finds its way on from there, however late that came and whatever was lost on it: a walk
//!   that nobody answered is repeated, questions go on. Enforced here and in the node's `network::task::discovery`; attacked by
//!   `tests` below and by `network::tests::discovery`.

use cairn_proto::Timestamp;

/// A walk begins so long after we met somebody: others may be about to be met, and one walk serves for all.
pub const WALK_SOON_MS: u64 = 500;
/// First and longest pause between walks that too few answered, from begin to begin; each doubles it.
pub const WALK_PAUSE_MS: (u64, u64) = (2_000, 60_000);
/// After the first walk that was answered, a quarter more or less by lot, so that nodes that were started together do not walk
/// together for ever: when a whole network starts, the first walks find those who were up already.
pub const WALK_AGAIN_MS: u64 = 30 * 1000;
/// Between later ones. Each visits some twenty peers a bucket, a megabyte to and fro: every five minutes they were half of what
/// an idle node sent, every two hours, by reckoning, still half of what it may. Kademlia's own refresh is hourly; here adverts and questions
/// tell of newcomers too.
pub const WALK_EVERY_MS: u64 = 6 * 3600 * 1000;
/// A walk that fewer answered is repeated soon, unless there are no more: who was answered by its bootstrap node alone has
/// no way on when that is gone, and nobody has taken note of it.
pub const ENOUGH: usize = 8;
/// A walk that has not ended by then is not waited for: its look-ups have ended by their own time-outs.
pub const WALK_LOST_MS: u64 = 2 * 60 * 1000;
/// First and longest pause between two questions for adverts, whoever is asked. News and new acquaintances bring it back to
/// the first, each question doubles it: who knows everybody asks once an hour.
pub const ASK_PAUSE_MS: (u64, u64) = (1_000, 3600 * 1000);

/// What became of looking for others until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Whether a walk was ever answered by enough.
    found: bool,
    /// When the walk that is under way began.
    walking: Option<Timestamp>,
    /// When the last one did.
    walk_begun: Option<Timestamp>,
    walk_at: Timestamp,
    walk_pause: u64,
    ask_at: Timestamp,
    ask_pause: u64,
}

impl Discovery {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            found: false,
            walking: None,
            walk_begun: None,
            walk_at: now.plus_ms(WALK_EVERY_MS),
            walk_pause: WALK_PAUSE_MS.0,
            ask_at: now.plus_ms(ASK_PAUSE_MS.0),
            ask_pause: ASK_PAUSE_MS.0,
        }
    }

    /// Somebody who takes part in the DHT is connected.
    pub fn met(&mut self, now: Timestamp) {
        if !self.found {
            let soon = now.plus_ms(WALK_SOON_MS).max(self.walk_begun.map_or(now, |b| b.plus_ms(self.walk_pause)));
            self.walk_at = self.walk_at.min(soon);
        }
        self.ask_soon(now);
    }

    /// Nobody is connected any more: the network has to be found again.
    pub const fn alone(&mut self) {
        self.found = false;
        self.walk_pause = WALK_PAUSE_MS.0;
    }

    /// Adverts of peers came that we did not know.
    pub fn learned(&mut self, now: Timestamp) {
        self.ask_soon(now);
    }

    /// Whether a walk begins now; it does when this says so.
    pub fn is_walk_due(&mut self, now: Timestamp) -> bool {
        let busy = self.walking.is_some_and(|since| now.ms_since(since) < WALK_LOST_MS);
        if busy || now < self.walk_at {
            return false;
        }
        self.walking = Some(now);
        self.walk_begun = Some(now);
        self.walk_at = now.plus_ms(self.walk_pause);
        self.walk_pause = (self.walk_pause * 2).min(WALK_PAUSE_MS.1);
        true
    }

    /// A walk ended: how many answered it, and how many peers we know of. `lot`: any number.
    pub fn walked(&mut self, answers: usize, known: usize, lot: u32, now: Timestamp) {
        self.walking = None;
        if answers < known.clamp(1, ENOUGH) {
            return;
        }
        let pause = if self.found { WALK_EVERY_MS } else { WALK_AGAIN_MS };
        self.found = true;
        self.walk_pause = WALK_PAUSE_MS.0;
        self.walk_at = now.plus_ms(pause * 3 / 4 + u64::from(lot) % (pause / 2));
    }

    /// Whether somebody is asked for adverts now; whoever is connected is, when this says so.
    pub fn is_question_due(&mut self, now: Timestamp) -> bool {
        if now < self.ask_at {
            return false;
        }
        self.ask_at = now.plus_ms(self.ask_pause);
        self.ask_pause = (self.ask_pause * 2).min(ASK_PAUSE_MS.1);
        true
    }

    fn ask_soon(&mut self, now: Timestamp) {
        self.ask_pause = ASK_PAUSE_MS.0;
        self.ask_at = self.ask_at.min(now.plus_ms(ASK_PAUSE_MS.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a walk begins within a time, by the second.
    fn walks(
        discovery: &mut Discovery,
        seconds: std::ops::Range<u64>,
        mut end: impl FnMut(&mut Discovery, Timestamp),
    ) -> Vec<u64> {
        let mut begun = Vec::new();
        for second in seconds {
            let now = Timestamp(second * 1000);
            if discovery.is_walk_due(now) {
                begun.push(second);
                end(discovery, now);
            }
        }
        begun
    }

    /// NET-7: the first walk of a late-comer, and every one that nobody answered, is repeated; not in a storm.
    #[test]
    fn a_walk_that_nobody_answered_is_repeated() {
        let mut discovery = Discovery::new(Timestamp(0));
        assert_eq!(walks(&mut discovery, 0..100, |_, _| ()), [0u64; 0], "there is nobody to ask");
        discovery.met(Timestamp(100_000));
        let in_vain = walks(&mut discovery, 100..400, |d, now| d.walked(0, 0, 0, now));
        assert_eq!(in_vain, [101, 103, 107, 115, 131, 163, 223, 283, 343]);
        // The lot is the middle of both.
        let middle = |d: &Discovery| if d.found { WALK_EVERY_MS / 4 } else { WALK_AGAIN_MS / 4 };
        let answered = walks(&mut discovery, 400..60_000, |d, now| d.walked(1, 1, middle(d) as u32, now));
        assert_eq!(answered, [403, 433, 22_033, 43_633]);
        discovery.met(Timestamp(60_000_000));
        assert!(
            !discovery.is_walk_due(Timestamp(60_010_000)),
            "whoever found the network does not walk for each newcomer"
        );
        discovery.alone();
        discovery.met(Timestamp(60_100_000));
        assert!(discovery.is_walk_due(Timestamp(60_101_000)), "but again after it was lost");
    }

    /// NET-7: one bootstrap node's answer is no network, unless there is nobody else.
    #[test]
    fn a_walk_that_few_answered_is_repeated() {
        for (answers, known, again) in [(1, 1, false), (1, 63, true), (3, 3, false), (7, 63, true), (8, 63, false)] {
            let mut discovery = Discovery::new(Timestamp(0));
            discovery.met(Timestamp(0));
            assert!(discovery.is_walk_due(Timestamp(1000)));
            discovery.walked(answers, known, 0, Timestamp(2000));
            discovery.met(Timestamp(2000));
            assert!(!discovery.is_walk_due(Timestamp(2900)), "not one for each acquaintance");
            assert_eq!(discovery.is_walk_due(Timestamp(10_000)), again, "{answers} of {known}");
        }
    }

    #[test]
    fn a_walk_is_under_way_once_and_not_for_ever() {
        let mut discovery = Discovery::new(Timestamp(0));
        discovery.met(Timestamp(0));
        assert_eq!(walks(&mut discovery, 0..300, |_, _| ()), [1, 121, 241], "one that never ends");
    }

    #[test]
    fn nodes_that_start_together_walk_apart() {
        let next = |lot| {
            let mut discovery = Discovery::new(Timestamp(0));
            discovery.walked(20, 50, 0, Timestamp(0));
            discovery.walked(20, 50, lot, Timestamp(0));
            walks(&mut discovery, 0..30_000, |_, _| ())[0]
        };
        let times: Vec<u64> = (0..8u32).map(|i| next(i.wrapping_mul(0x9e37_79b9))).collect();
        assert!(times.iter().all(|t| (16_200..=27_000).contains(t)), "{times:?}");
        let different: std::collections::BTreeSet<_> = times.iter().collect();
        assert_eq!(different.len(), times.len(), "{times:?}");
    }

    /// NET-7: a question may be lost; another follows, soon while there is news, then ever more slowly.
    #[test]
    fn questions_go_on_and_slow_down() {
        let mut discovery = Discovery::new(Timestamp(0));
        let asked = |discovery: &mut Discovery, seconds: std::ops::Range<u64>| {
            seconds.filter(|s| discovery.is_question_due(Timestamp(s * 1000))).collect::<Vec<_>>()
        };
        assert_eq!(asked(&mut discovery, 0..200), [1, 2, 4, 8, 16, 32, 64, 128]);
        discovery.learned(Timestamp(200_000));
        assert_eq!(asked(&mut discovery, 200..210), [201, 202, 204, 208]);
        discovery.met(Timestamp(210_000));
        let later = asked(&mut discovery, 210..20_000);
        assert_eq!(later[..3], [211, 212, 214]);
        assert_eq!(later[later.len() - 1] - later[later.len() - 2], 3600, "once an hour: {later:?}");
    }
}
