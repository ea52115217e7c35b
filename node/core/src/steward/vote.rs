//! Whether to sign what another steward proposes: only what we would find needed ourselves, and whose every name checks out.

use cairn_proto::{Action, Order, Ordinals, PeerKey, mandate::is_real, order::SKEW_MS, wire::Priority};

use super::{
    plan::{BATCH, Scene, Wanted, wanted},
    subject_of,
    watched::{Subject, Watched},
};
use crate::liveness::{Outage, Presence};

/// A new holder or steward must be among so many first of our own ranking, and one more for each time that it came to nothing: the proposer's may differ
/// a little from ours, but not choose freely.
const FIRST: usize = 3;

/// Why we do not sign. The proposer is not told, and counts signatures; `cairn status` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// Not a steward's, not signed by it, or of another mandate.
    #[error("it is no steward's, or of another mandate")]
    Stranger,
    /// Of another committee than the one we know.
    #[error("it is of another committee of stewards")]
    OtherCommittee,
    /// Not the proposer's turn.
    #[error("it is not the proposer's turn")]
    Turn,
    /// Issued at another time, or stands for too long.
    #[error("it is of another time, or stands for too long")]
    Time,
    /// We may be cut off, or many fell silent and the group is not critical.
    #[error("many fell silent at once, and it is not critical")]
    Calm,
    /// Another order for the same thing is signed or under way.
    #[error("another order for the same is signed or under way")]
    Busy,
    /// We see no need of it.
    #[error("there is no need of it")]
    NoNeed,
    /// It says that it is urgent, and we see no emergency.
    #[error("it is no emergency")]
    NotUrgent,
    /// It names somebody who may not, or does not have what it says.
    #[error("somebody it names may not have it, or does not")]
    WrongPeer,
    /// More than the mandate's month has left.
    #[error("it is more than its month or its proposer's share of it has left")]
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
    let stewards = group.committee().stewards();
    let ours = group.is_steward(from) && stewards.contains(&scene.me) && order.generation == mandate.generation;
    if !ours || !mandate.powers.allows(order.action.power()) || !order.is_signed(from, vote) {
        return Err(Objection::Stranger);
    }
    if order.committee != *group.committee().id() || !stewards.contains(from) {
        return Err(Objection::OtherCommittee);
    }
    let near = order.issued.ms_since(now) <= SKEW_MS && now.ms_since(order.issued) <= SKEW_MS;
    let short = order.expires.ms_since(order.issued) <= rhythm.order_ms && order.expires <= mandate.ends;
    if !near || !short || order.expires <= now || !mandate.holds_at(now) {
        return Err(Objection::Time);
    }
    if !matches!(scene.watch.outage(now), Outage::None) {
        return Err(Objection::Calm);
    }
    let subject = wanted_as(group, &order.action, scene);
    if !group.is_free(&subject, now) && !group.gives_way(from, &subject) {
        return Err(Objection::Busy);
    }
    if !group.may_be_turn_of(from, &scene.me, &subject, scene.watch, now, rhythm) {
        return Err(Objection::Turn);
    }
    let mine = wanted(group, scene, &|asked| *asked == subject).into_iter().find_map(|wanted| match wanted {
        Wanted::Repair(found, planned) if found == subject => Some(planned),
        _ => None,
    });
    let Some(mine) = mine else { return Err(Objection::NoNeed) };
    if scene.critical_only && order.action.slot().is_some() && mine.class != Priority::Critical {
        return Err(Objection::Calm);
    }
    if order.urgent && mine.class != Priority::Critical {
        return Err(Objection::NotUrgent);
    }
    let fine = match subject {
        Subject::Apart => is_apart(group, &order.action, scene),
        _ => names_check_out(group, &order.action, scene, mine.class == Priority::Critical),
    };
    if !fine {
        return Err(Objection::WrongPeer);
    }
    if group.affords(from, group.cost(&order.action)) { Ok(()) } else { Err(Objection::Budget) }
}

/// As what we want it ourselves: a copy of a slot that lacks nothing may be wanted for the sake of standing apart.
fn wanted_as(group: &Watched, action: &Action, scene: &Scene<'_>) -> Subject {
    let subject = subject_of(action);
    if !matches!(action, Action::Copy { .. }) {
        return subject;
    }
    let open = wanted(group, scene, &|_| false);
    let is = |of: Subject| open.iter().any(|wanted| matches!(wanted, Wanted::Later(found) if *found == of));
    if !is(subject) && is(Subject::Apart) { Subject::Apart } else { subject }
}

/// Whether it is a copy that takes a slot out of a clump as we see them. Which slot is the proposer's choice, and nearly whom: others may know a
/// little less or more of who is where.
fn is_apart(group: &Watched, action: &Action, scene: &Scene<'_>) -> bool {
    let Action::Copy { slot, from, to, ordinals } = action else { return false };
    let clumps = scene.clumps(group);
    let movable = group.movable(&clumps, scene.watch, scene.rhythm, scene.now).contains(slot);
    let most = FIRST + group.failures(&Subject::Apart);
    let heirs = scene.heirs_apart(group, *slot, &clumps);
    let new = movable && heirs.iter().take(most).any(|(_, heir)| heir == to);
    new && ordinals.len() <= BATCH && ordinals.without(&group.has(*slot, from)).is_empty()
}

/// By our own map: sources and helpers have what they are to give, and the new holder may hold it (SEP-1), and so much of it today if the group
/// is not critical (SEP-4).
fn names_check_out(group: &Watched, action: &Action, scene: &Scene<'_>, critical: bool) -> bool {
    let subject = subject_of(action);
    let may_take = |slot, to: &PeerKey, ordinals: &Ordinals| {
        // One that holds it already and lacks this, or one of the first who may.
        let lacks = ordinals.and(&group.has(slot, to)).is_empty() && ordinals.len() <= BATCH;
        let broken = group.breaks_word(slot, to, scene.now, scene.rhythm) || group.hides(slot, to);
        let known = !broken && group.holders(slot).contains(to) || is_among_first(group, &subject, scene, to);
        let room = critical || scene.room(group, to).is_none_or(|room| ordinals.len() <= room as usize);
        known && lacks && room && scene.watch.belief(to, scene.now).presence <= Presence::Late
    };
    match action {
        Action::Copy { slot, from, to, ordinals } => {
            may_take(*slot, to, ordinals) && ordinals.without(&group.has(*slot, from)).is_empty()
        }
        Action::Rebuild { slot, to, ordinals, helpers } => {
            let (used, code) = (ordinals.iter().next().map_or(0, |first| group.used(first)), group.code());
            let gives = |(helper, peer): &(cairn_proto::Slot, PeerKey)| {
                is_real(code, used, *helper) && ordinals.without(&group.has(*helper, peer)).is_empty()
            };
            let all = ordinals.without(&group.wanted(*slot)).is_empty();
            let enough = used > 0 && helpers.len() >= used.into() && group.with_used(ordinals, used) == *ordinals;
            all && enough && helpers.iter().all(gives) && may_take(*slot, to, ordinals)
        }
        Action::Replace { new, .. } | Action::Enlist { new } => is_among_first(group, &subject, scene, new),
        // Only when we know nobody either who could take the place.
        Action::Retire { .. } => scene.new_stewards(group, &std::collections::BTreeSet::new()).is_empty(),
    }
}

/// Whether we would put this peer there, or nearly; with whom we leave alone, or without.
fn is_among_first(group: &Watched, subject: &Subject, scene: &Scene<'_>, peer: &PeerKey) -> bool {
    let most = FIRST + group.failures(subject);
    [group.avoided(subject, scene.now), std::collections::BTreeSet::new()].iter().any(|avoid| {
        let ranked = match subject {
            Subject::Slot(slot) => {
                cairn_proto::Slot::new(*slot).map_or(Vec::new(), |slot| scene.new_holders(group, slot, avoid))
            }
            Subject::Steward(_) | Subject::Another => scene.new_stewards(group, avoid),
            // Of whom is_apart says more.
            Subject::Apart => Vec::new(),
        };
        ranked.iter().take(most).any(|first| first == peer)
    })
}
