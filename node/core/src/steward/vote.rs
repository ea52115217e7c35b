//! Whether to sign what another steward proposes: only what we would find needed ourselves, and whose every name checks out.

use cairn_proto::{Action, Order, Ordinals, PeerKey, wire::Priority};

use super::{
    plan::{BATCH, Scene, Wanted, wanted},
    subject_of,
    watched::Watched,
};
use crate::liveness::{Outage, Presence};

/// Why we do not sign. Nobody is told: the proposer counts signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// Not a steward's, not signed by it, or of another mandate.
    Stranger,
    /// Issued at another time, or stands for too long.
    Time,
    /// We may be cut off, or many fell silent and the group is not critical.
    Calm,
    /// Another order for the same thing is signed or under way.
    Busy,
    /// We see no need of it.
    NoNeed,
    /// It names somebody who may not, or does not have what it says.
    WrongPeer,
    /// More than the mandate's month has left.
    Budget,
}

pub(super) fn check(
    group: &Watched,
    from: &PeerKey,
    order: &Order,
    vote: &[u8; 64],
    scene: &Scene<'_>,
) -> Result<(), Objection> {
    let (now, rhythm, mandate) = (scene.now, scene.rhythm, &group.record.mandate);
    let stewards = group.committee.stewards();
    let ours = stewards.contains(from) && stewards.contains(&scene.me) && order.generation == mandate.generation;
    if !ours || !mandate.powers.allows(order.action.power()) || !order.is_signed(from, vote) {
        return Err(Objection::Stranger);
    }
    let near = order.issued.ms_since(now) <= rhythm.skew_ms && now.ms_since(order.issued) <= rhythm.skew_ms;
    let short = order.expires.ms_since(order.issued) <= rhythm.order_ms && order.expires <= mandate.ends;
    if !near || !short || order.expires <= now || !mandate.holds_at(now) {
        return Err(Objection::Time);
    }
    if !matches!(scene.watch.outage(now), Outage::None) {
        return Err(Objection::Calm);
    }
    let subject = subject_of(&order.action);
    if !group.is_free(&subject, now) {
        return Err(Objection::Busy);
    }
    let mine = wanted(group, scene, &|asked| *asked == subject).into_iter().find_map(|wanted| match wanted {
        Wanted::Repair(found, planned) if found == subject => Some(planned),
        _ => None,
    });
    let Some(mine) = mine else { return Err(Objection::NoNeed) };
    if scene.critical_only && order.action.slot().is_some() && mine.class != Priority::Critical {
        return Err(Objection::Calm);
    }
    if !names_check_out(group, &order.action, scene) {
        return Err(Objection::WrongPeer);
    }
    if group.affords(group.cost(&order.action)) { Ok(()) } else { Err(Objection::Budget) }
}

/// By our own map: sources and helpers have what they are to give, and the new holder may hold it (SEP-1).
fn names_check_out(group: &Watched, action: &Action, scene: &Scene<'_>) -> bool {
    let none = std::collections::BTreeSet::new();
    let may_take = |slot, to: &PeerKey, ordinals: &Ordinals| {
        // One that holds it already and lacks this, or anybody who may: which of them is the proposer's choice.
        let lacks = ordinals.and(&group.has(slot, to)).is_empty() && ordinals.len() <= BATCH;
        let known = group.holders(slot).contains(to) || scene.new_holders(group, slot, &none).contains(to);
        known && lacks && scene.watch.belief(to, scene.now).presence <= Presence::Late
    };
    match action {
        Action::Copy { slot, from, to, ordinals } => {
            may_take(*slot, to, ordinals) && ordinals.without(&group.has(*slot, from)).is_empty()
        }
        Action::Rebuild { slot, to, ordinals, helpers } => {
            let gives = |(helper, peer): &(cairn_proto::Slot, PeerKey)| {
                let absent = ordinals.without(&group.wanted(*helper));
                let holds = group.holders(*helper).contains(peer);
                holds && ordinals.without(&group.has(*helper, peer).or(&absent)).is_empty()
            };
            let all = ordinals.without(&group.wanted(*slot)).is_empty();
            let enough = helpers.len() == group.record.mandate.ticket.code().data();
            all && enough && helpers.iter().all(gives) && may_take(*slot, to, ordinals)
        }
        Action::Replace { new, .. } | Action::Enlist { new } => scene.new_stewards(group, &none).contains(new),
        // Only when we know nobody either who could take the place.
        Action::Retire { .. } => scene.new_stewards(group, &none).is_empty(),
    }
}
