//! Who concerns which group: asked at every sign of life, so it is looked up and not searched for.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{GroupId, PeerKey, Timestamp};

use crate::liveness::Watch;

/// Holders and stewards of all groups, without ourselves.
#[derive(Default)]
pub(super) struct Crowd {
    /// In how many groups.
    counts: BTreeMap<PeerKey, u32>,
    of: BTreeMap<GroupId, BTreeSet<PeerKey>>,
}

impl Crowd {
    pub(super) fn knows(&self, peer: &PeerKey) -> bool {
        self.counts.contains_key(peer)
    }

    /// A group's people are these now; empty when it is watched no more. Begins to watch who is new, and forgets who concerns
    /// no group any more. `anew`: what was known of a stranger is old, since nobody listened for it.
    pub(super) fn set(
        &mut self,
        group: GroupId,
        people: BTreeSet<PeerKey>,
        watch: &mut Watch,
        anew: bool,
        now: Timestamp,
    ) {
        let before = self.of.remove(&group).unwrap_or_default();
        for peer in people.difference(&before) {
            let count = self.counts.entry(*peer).or_insert(0);
            *count += 1;
            if *count == 1 {
                if anew {
                    watch.forget(*peer);
                }
                watch.expect(*peer, now);
            }
        }
        for peer in before.difference(&people) {
            let left = self.counts.get(peer).map_or(0, |count| count - 1);
            if left == 0 {
                self.counts.remove(peer);
                watch.forget(*peer);
            } else {
                self.counts.insert(*peer, left);
            }
        }
        if !people.is_empty() {
            self.of.insert(group, people);
        }
    }
}
