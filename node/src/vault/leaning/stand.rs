//! What stands for providers in rows, for those who plan: they need no way to reach them.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::PeerKey;

/// What stands for providers in rows, without a way to reach them: for those who plan.
#[derive(Clone, Debug, Default)]
pub(in crate::vault) struct Stand {
    /// Those that can be reached, by place: the key for each slot.
    pub(super) usable: Vec<Vec<PeerKey>>,
    /// Everybody who stands for one, reachable or not: which, in the order of ids.
    pub(super) all: BTreeMap<PeerKey, usize>,
}

impl Stand {
    /// Whether this holder is no peer.
    pub(in crate::vault) fn is_one(&self, holder: &PeerKey) -> bool {
        self.all.contains_key(holder)
    }

    /// How many providers can be reached.
    pub(in crate::vault) fn count(&self) -> usize {
        self.usable.len()
    }

    /// Who stands for a provider in a slot.
    pub(in crate::vault) fn holder(&self, provider: usize, slot: usize) -> Option<PeerKey> {
        self.usable.get(provider)?.get(slot).copied()
    }

    /// The provider that can be reached and that this holder stands for.
    pub(in crate::vault) fn provider_of(&self, holder: &PeerKey) -> Option<usize> {
        self.usable.iter().position(|keys| keys.contains(holder))
    }

    /// By provider that can be reached: the slots that it has or had of a group, by these holders.
    pub(in crate::vault) fn ever<'a>(
        &self,
        holders: impl Iterator<Item = (usize, &'a PeerKey)>,
    ) -> Vec<BTreeSet<usize>> {
        let mut ever = vec![BTreeSet::new(); self.usable.len()];
        for (slot, holder) in holders {
            if let Some(had) = self.provider_of(holder).and_then(|at| ever.get_mut(at)) {
                had.insert(slot);
            }
        }
        ever
    }

    /// Without one, for the rest of a run.
    pub(in crate::vault) fn give_up(&mut self, holder: &PeerKey) {
        if let Some(at) = self.provider_of(holder) {
            self.usable.remove(at);
        }
    }
}
