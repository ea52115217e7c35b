//! What holders said of one slot of one stripe, and who makes room in its row for that.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{PeerKey, manifest::HOLDERS_MAX};

/// The ordinals of a group that somebody has of a slot.
pub(in crate::vault) type Ordinals = [u8; 32];

pub(in crate::vault) const fn with(mut bits: Ordinals, ordinal: u8) -> Ordinals {
    bits[(ordinal / 8) as usize] |= 1 << (ordinal % 8);
    bits
}

/// What the holders of one slot say of one stripe.
#[derive(Debug, Default)]
pub(in crate::vault) struct Asked {
    pub(in crate::vault) holding: BTreeSet<PeerKey>,
    /// They say that they have nothing of this slot at all.
    pub(in crate::vault) empty: BTreeSet<PeerKey>,
    pub(in crate::vault) silent: BTreeSet<PeerKey>,
    /// They say that they have it, and give other bytes.
    pub(in crate::vault) wrong: BTreeSet<PeerKey>,
    /// All that those have who answered.
    pub(in crate::vault) has: BTreeMap<PeerKey, Ordinals>,
}

impl Asked {
    /// Who in a full row makes room without a newcomer having anything.
    pub(in crate::vault) fn useless(&self, holders: &[PeerKey]) -> Option<usize> {
        holders.iter().position(|peer| self.empty.contains(peer) && !self.holding.contains(peer))
    }

    /// Who in a full row makes room for a newcomer that has these ordinals: a liar first, then a silent one, when for all
    /// that the slot is needed for somebody else answers.
    pub(in crate::vault) fn covered(
        &self,
        holders: &[PeerKey],
        newcomer: &Ordinals,
        needed: &Ordinals,
    ) -> Option<usize> {
        let others = |leaver: &PeerKey| {
            let mut union = *newcomer;
            let answering = self.has.iter().filter(|(peer, _)| *peer != leaver && !self.wrong.contains(peer));
            answering.for_each(|(_, bits)| union.iter_mut().zip(bits).for_each(|(all, more)| *all |= more));
            union
        };
        let covers = |all: &Ordinals| needed.iter().zip(all).all(|(needed, there)| needed & !there == 0);
        let leaves = |set: &BTreeSet<PeerKey>, peer: &PeerKey| {
            set.contains(peer) && !self.holding.contains(peer) && covers(&others(peer))
        };
        [&self.wrong, &self.silent].into_iter().find_map(|set| holders.iter().position(|peer| leaves(set, peer)))
    }

    /// Whether nobody enters the row before somebody else leaves it.
    pub(in crate::vault) fn is_full(&self, holders: &[PeerKey]) -> bool {
        holders.len() >= HOLDERS_MAX && self.useless(holders).is_none()
    }

    pub(in crate::vault) fn may_leave(&self, holders: &[PeerKey]) -> bool {
        holders.iter().any(|peer| self.wrong.contains(peer) || self.silent.contains(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn peer(at: u8) -> PeerKey {
        PeerKey::from_bytes([at; 32])
    }

    fn bits(ordinals: &[u8]) -> Ordinals {
        ordinals.iter().copied().fold([0; 32], with)
    }

    #[test]
    fn who_may_have_the_only_copy_of_something_stays_in_the_row() {
        let row = [peer(1), peer(2), peer(3), peer(4)];
        let mut asked = Asked { silent: [peer(1)].into(), wrong: [peer(2)].into(), ..Asked::default() };
        asked.has = [(peer(2), bits(&[0, 1, 2, 255])), (peer(3), bits(&[0, 1])), (peer(4), bits(&[0]))].into();
        let needed = bits(&[0, 1, 2, 255]);
        assert_eq!(asked.covered(&row, &bits(&[2]), &needed), None, "255 is nobody else's whose word counts");
        assert_eq!(asked.covered(&row, &bits(&[2, 255]), &needed), Some(1), "a liar goes first");
        asked.wrong.clear();
        assert_eq!(asked.covered(&row, &bits(&[2]), &needed), Some(0), "the others have what the silent one may have");
        assert_eq!(asked.covered(&row, &bits(&[2]), &bits(&[0, 1, 2, 7, 255])), None);
        assert_eq!(asked.useless(&row), None, "nobody said to have nothing");
        asked.empty = [peer(4)].into();
        assert_eq!(asked.useless(&row), Some(3));
        asked.holding = [peer(4), peer(1)].into();
        assert_eq!(asked.useless(&row), None, "it took something meanwhile");
        assert_eq!(asked.covered(&row, &bits(&[2]), &needed), None, "it was heard meanwhile");
    }
}
