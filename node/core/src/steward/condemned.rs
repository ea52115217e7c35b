//! Peers that were proved to have lied: stewards count nothing that they have, and put others in their places.

use std::collections::BTreeSet;

use cairn_proto::{PeerKey, Timestamp};

use super::Steward;

impl Steward {
    /// These, and nobody else, are condemned: their slots are made again elsewhere, they are named in no order any more, and a
    /// steward among them is replaced. Groups in which one of them has a part are looked at next.
    pub fn condemn(&mut self, peers: BTreeSet<PeerKey>, now: Timestamp) {
        let new: BTreeSet<PeerKey> = peers.into_iter().filter(|peer| *peer != self.me).collect();
        let changed: Vec<PeerKey> = new.iter().filter(|peer| !self.watch.is_condemned(peer)).copied().collect();
        self.watch.condemn(new);
        self.clock(now);
        for group in self.groups.values_mut() {
            if group.everybody().any(|peer| changed.contains(&peer)) {
                group.look_soon();
            }
        }
    }
}
