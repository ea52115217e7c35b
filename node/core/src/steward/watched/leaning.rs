//! Slots that lie in storage of the owner's own (`node/docs/adr/0022-fallback-storage.md`): nobody whom a steward hears has them, and they are not
//! lost. They count as living while the group is well, so that nothing is ordered for them; a group that is near k even so is
//! rebuilt with peers wherever no peer is, since of the owner's storage a rebuild gets nothing.

use cairn_proto::{CodeParams, PeerKey, Slot};

use crate::{
    assess::{Assessment, GroupState, Need, Triggers, assess},
    liveness::{Belief, Class, Presence},
};

/// Stands for the storage: no peer's key, since it is no point of the curve that anybody has the secret of.
const STORAGE: PeerKey = PeerKey::from_bytes([0xff; 32]);

/// What is believed of it: the owner said that it is there.
const THERE: Belief = Belief {
    presence: Presence::Here,
    class: Class::Server,
    alive: 1.0,
    silent_ms: 0,
    leaving: false,
    usual_ms: 3_600_000,
};

/// [`assess`], of a group some of whose slots lean. `slots`: peers that have a slot whole.
pub(super) fn assess_leaning(
    code: CodeParams,
    replicas: u8,
    slots: Vec<Vec<PeerKey>>,
    belief: &dyn Fn(&PeerKey) -> Belief,
    policy: &Triggers,
    leans: &dyn Fn(Slot) -> bool,
) -> Assessment {
    let leaning: Vec<Slot> = code.each_slot().filter(|slot| leans(*slot)).collect();
    if leaning.is_empty() {
        return assess(code, replicas, &slots, belief, policy);
    }
    let mut with = slots.clone();
    for slot in &leaning {
        if let Some(held) = with.get_mut(slot.index()) {
            held.push(STORAGE);
        }
    }
    let believed = |peer: &PeerKey| if *peer == STORAGE { THERE } else { belief(peer) };
    let mut found = assess(code, replicas, &with, &believed, policy);
    if found.state >= GroupState::Critical {
        // What can be made from peers alone is; of fewer than k of them nothing can.
        let peers = assess(code, replicas, &slots, belief, policy);
        if peers.state != GroupState::Lost {
            found.needs = peers.needs;
            return found;
        }
    }
    // The owner moves it to peers when it backs up; a copy of it can be made by nobody else.
    let alone = |slot: &Slot| leaning.contains(slot) && slots.get(slot.index()).is_none_or(Vec::is_empty);
    found.needs.retain(|need| match need {
        Need::Copy { slot, .. } | Need::Rebuild { slot, .. } => !alone(slot),
        Need::None => false,
    });
    for need in &mut found.needs {
        if let Need::Copy { from, .. } = need {
            from.retain(|peer| *peer != STORAGE);
        }
    }
    found
}
