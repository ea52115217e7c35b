//! What a node asks of its figures, and tells them, besides what it saw.

use cairn_proto::{PeerKey, Timestamp};

use super::{Class, Reputation, entry::INTEGRITY_LEAST};
use crate::{audit::Conviction, peer_view::PerMille};

/// Days seen from which a peer may be taken for a server, and the share of them that it must have been there; below the second one
/// it is one no more. As the liveness watch has it ([`crate::liveness::Class`]).
const SERVER: (u64, PerMille, PerMille) = (7, 950, 900);

impl Reputation {
    /// Who is proved to have lied, by name.
    #[must_use]
    pub fn conviction(&self, peer: &PeerKey) -> Option<&Conviction> {
        self.convicted.get(peer).map(|c| &c.conviction)
    }

    /// Whether anything was ever seen of it.
    #[must_use]
    pub fn has_met(&self, peer: &PeerKey) -> bool {
        self.entries.contains_key(peer)
    }

    /// Others knew it longer than we have figures of it: a peer that we deal with for the first time is no newcomer for that.
    pub fn known_since(&mut self, peer: &PeerKey, since: Timestamp) {
        if let Some(entry) = self.entries.get_mut(peer)
            && since < entry.first_seen
        {
            if entry.last_bad == entry.first_seen {
                entry.last_bad = since;
            }
            entry.first_seen = since;
        }
    }

    /// Whom our own eyes tell not to trust: too many of the things that it kept or said were not so.
    pub fn distrusted(&self) -> impl Iterator<Item = PeerKey> + '_ {
        let of = |(peer, entry): (&PeerKey, &super::Entry)| (entry.integrity() < INTEGRITY_LEAST).then_some(*peer);
        self.entries.iter().filter_map(of)
    }

    /// Learns from the days seen who is a server and who a home machine.
    pub fn classify(&mut self, now: Timestamp) {
        let (days_least, from, until) = SERVER;
        for entry in self.entries.values_mut() {
            let (share, days) = entry.seen_share(now);
            entry.class = match entry.class {
                Class::Home if days >= days_least && share >= from => Class::Server,
                Class::Server if days > 0 && share < until => Class::Home,
                as_before => as_before,
            };
        }
    }

    /// What is left when days are counted otherwise than they were: the proofs alone.
    #[must_use]
    pub fn only_convictions(self) -> Self {
        Self { convicted: self.convicted, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reputation::{DAY_MS, Observed};

    const START: Timestamp = Timestamp(1000 * DAY_MS);

    #[test]
    fn who_is_known_for_long_is_no_newcomer_when_we_first_deal_with_it() {
        let (mut book, who) = (Reputation::new(), PeerKey::from_bytes([1; 32]));
        let now = START.plus_ms(40 * DAY_MS);
        book.observe(who, Observed::Alive, now);
        assert_eq!(book.standing(&who, 5, now).score, 500);
        book.known_since(&who, START);
        let standing = book.standing(&who, 5, now);
        assert!(standing.eligible && standing.score > 700, "{standing:?}");
        assert_eq!(standing.quota, 20, "forty clean days");
        book.known_since(&who, now);
        assert_eq!(book.standing(&who, 5, now), standing, "nobody gets younger");
        book.observe(who, Observed::BadBytes, now);
        book.known_since(&who, Timestamp(0));
        assert_eq!(book.standing(&who, 5, now).quota, 10, "what was bad stays bad");
        assert_eq!(book.distrusted().collect::<Vec<_>>(), [who]);
    }

    #[test]
    fn a_class_is_learned_and_unlearned() {
        let (mut book, who) = (Reputation::new(), PeerKey::from_bytes([1; 32]));
        let class = |book: &Reputation| book.entries[&who].class;
        let mut now = START;
        for (days, up_hours, learned) in [(5, 24, Class::Home), (3, 24, Class::Server), (20, 12, Class::Home)] {
            for hour in 0..days * 24 {
                now = now.plus_ms(DAY_MS / 24);
                let seen = if hour % 24 < up_hours { Observed::Alive } else { Observed::Silent };
                book.observe(who, seen, now);
            }
            book.classify(now);
            assert_eq!(class(&book), learned, "after {days} more days");
        }
    }
}
