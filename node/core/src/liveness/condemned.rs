//! Peers that were proved to have lied: whether they answer or not, what they have counts for nothing.

use std::collections::BTreeSet;

use cairn_proto::PeerKey;

use super::{Belief, Class, Presence, Watch};

/// As one that is gone and will not come back: its copies are made again elsewhere, and it is asked for nothing.
pub(super) const fn belief(class: Class, silent_ms: u64) -> Belief {
    Belief { presence: Presence::Gone, class, alive: 0.0, silent_ms, usual_ms: 0, leaving: false }
}

impl Watch {
    /// These, and nobody else, are condemned. Not a part of the state: whoever drives us keeps it. Their own signs of life, and what
    /// silences say about our line, are counted as ever.
    pub fn condemn(&mut self, peers: BTreeSet<PeerKey>) {
        self.condemned = peers;
    }

    /// Whether a peer is.
    #[must_use]
    pub fn is_condemned(&self, peer: &PeerKey) -> bool {
        self.condemned.contains(peer)
    }
}
