//! What must hold, checked independently of the code that is to keep it.
//!
//! - **SEP-1** No peer ever accepts two slots of one group, and no domain does: [`Separation::accepted`], at every
//!   accepted byte, remembering for ever. Own peers never hold: same place.
//! - **SEP-2** Holders of one slot differ in domain; region caps hold or are reported: [`plan`].
//! - **Accounting** used = sum of what is held, never above the pledge; what was acknowledged is there:
//!   [`accounting`], once a day.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use cairn_core::placement::{GroupPlan, PlacementPolicy, Relaxation};
use cairn_proto::{Domain, GroupId, PeerKey, SHARD_SIZE, Slot, Timestamp};

use crate::{owner::Owner, peer::Peer, world::HOUR};

/// A broken invariant: which, when, how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's id.
    pub invariant: &'static str,
    /// Virtual time.
    pub at: Timestamp,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.at.0 / HOUR;
        write!(f, "{} at {}d{:02}h: {}", self.invariant, hours / 24, hours % 24, self.what)
    }
}

/// Everything that was ever accepted by anyone.
#[derive(Default)]
pub struct Separation {
    by_peer: BTreeMap<(GroupId, PeerKey), Slot>,
    by_domain: BTreeMap<(GroupId, Domain), Slot>,
}

impl Separation {
    /// Takes note of an accepted shard.
    ///
    /// # Errors
    /// SEP-1.
    pub fn accepted(&mut self, at: Timestamp, group: GroupId, slot: Slot, peer: &Peer) -> Result<(), Violation> {
        let wrong = |who: String, before: Slot| Violation {
            invariant: "SEP-1",
            at,
            what: format!("{who} holds slots {before} and {slot} of group {}", group.short()),
        };
        let before = *self.by_peer.entry((group, peer.key)).or_insert(slot);
        if before != slot {
            return Err(wrong(format!("peer {}", peer.key.short()), before));
        }
        let before = *self.by_domain.entry((group, peer.own.clone())).or_insert(slot);
        if before != slot {
            return Err(wrong(format!("domain {}", peer.own), before));
        }
        Ok(())
    }
}

/// Checks a new plan by its outcome.
///
/// # Errors
/// SEP-1 for own peers and doubled domains, SEP-2 for caps that were hidden.
pub fn plan(
    at: Timestamp,
    owner: &Owner,
    plan: &GroupPlan,
    policy: &PlacementPolicy,
    peers: &[Peer],
    index: &BTreeMap<PeerKey, usize>,
) -> Result<(), Violation> {
    let bad = |invariant, what| Err(Violation { invariant, at, what });
    let mut domains = BTreeSet::new();
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    for list in &plan.slots {
        if list.len() < plan.replicas {
            return bad("SEP-2", format!("a slot has {} of {} replicas", list.len(), plan.replicas));
        }
        for key in list {
            let peer = &peers[index[key]];
            if peer.pinned == owner.domain {
                return bad("SEP-1", format!("the owner's own peer {} was chosen", key.short()));
            }
            if !domains.insert(&peer.pinned) {
                return bad("SEP-2", format!("domain {} stands twice in one plan", peer.pinned));
            }
        }
        let regions: BTreeSet<&str> =
            list[..plan.replicas].iter().map(|k| peers[index[k]].region.continent()).collect();
        if let (1, Some(only)) = (regions.len(), regions.first()) {
            *held.entry(only).or_insert(0) += 1;
        }
    }
    for (region, slots) in held {
        let said = plan.relaxations.iter().any(|r| matches!(r, Relaxation::RegionCap { region: r, .. } if r == region));
        if (slots > policy.code.parity()) != said {
            return bad("SEP-2", format!("region '{region}' holds {slots} slots; reported: {said}"));
        }
    }
    Ok(())
}

/// Adds everything up.
///
/// # Errors
/// ACCOUNT, or DUR-5 for a shard that is gone though its holder never was.
pub fn accounting(at: Timestamp, peers: &[Peer], owners: &[Owner]) -> Result<(), Violation> {
    let bad = |invariant, what| Err(Violation { invariant, at, what });
    for peer in peers {
        let shards: usize = peer.held.values().map(BTreeSet::len).sum();
        let bytes = (shards * SHARD_SIZE) as u64;
        if bytes != peer.used || peer.used > peer.give.0 {
            return bad(
                "ACCOUNT",
                format!("peer {}: holds {bytes}, counts {}, pledged {}", peer.key.short(), peer.used, peer.give.0),
            );
        }
        for (group, slot) in peer.held.keys() {
            if peer.ledger.get(group) != Some(slot) {
                return bad("ACCOUNT", format!("peer {} holds what its ledger does not know", peer.key.short()));
            }
        }
    }
    for group in owners.iter().flat_map(|o| &o.groups) {
        for ((slot, ordinal), holders) in &group.placed {
            for holder in holders {
                let there = peers[*holder].held.get(&(group.id, *slot)).is_some_and(|o| o.contains(ordinal));
                if !there {
                    return bad("DUR-5", format!("an acknowledged shard of group {} is gone", group.id.short()));
                }
            }
        }
    }
    Ok(())
}
