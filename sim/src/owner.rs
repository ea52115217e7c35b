//! An owner: its groups, what it put where, and, when hostile, what it tries.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::placement::{self, GroupRequest, PlacementPolicy, Strategy};
use cairn_proto::{Domain, GroupId, GroupTicket, PeerKey, Slot, Timestamp};

use crate::peer::Peer;

/// A group as its owner remembers it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its ticket.
    pub ticket: GroupTicket,
    /// Where salt and ranking came from.
    pub strategy: Strategy,
    /// Candidates per slot, chosen first.
    pub candidates: Vec<Vec<PeerKey>>,
    /// Wanted holders per shard.
    pub replicas: usize,
    /// Next free ordinal; 256 when full.
    pub next: u16,
    /// Whether new stripes still go here.
    pub open: bool,
    /// Acknowledged: (slot, ordinal) -> holders (index of the fleet).
    pub placed: BTreeMap<(Slot, u8), BTreeSet<usize>>,
}

impl Group {
    /// Everyone who holds or held something of it, by slot.
    #[must_use]
    pub fn holders(&self, peers: &[Peer]) -> Vec<Vec<PeerKey>> {
        let mut by_slot = vec![BTreeSet::new(); self.ticket.code().slots()];
        for ((slot, _), holders) in &self.placed {
            if let Some(held) = by_slot.get_mut(slot.index()) {
                held.extend(holders.iter().map(|h| peers[*h].key));
            }
        }
        by_slot.into_iter().map(|held| held.into_iter().collect()).collect()
    }
}

/// One owner.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its peer.
    pub key: PeerKey,
    /// Its domain; may be one that storage peers share.
    pub domain: Domain,
    /// Whether it attacks.
    pub hostile: bool,
    /// Its groups, oldest first.
    pub groups: Vec<Group>,
    /// Secret of the randomised ranking.
    pub secret: [u8; 32],
}

impl Owner {
    /// The request for this owner's next group, or for replacements in one.
    #[must_use]
    pub fn request<'a>(
        &self,
        authority: [u8; 32],
        policy: &'a PlacementPolicy,
        avoid: &'a BTreeSet<PeerKey>,
        now: Timestamp,
    ) -> GroupRequest<'a> {
        GroupRequest {
            owner: placement::Owner { peer: self.key, domain: self.domain.clone() },
            authority,
            policy,
            avoid,
            now,
            owner_key: Some(self.secret),
        }
    }

    /// The group that takes new stripes.
    #[must_use]
    pub fn open_group(&self) -> Option<usize> {
        self.groups.iter().rposition(|g| g.open && g.next < 256)
    }
}
