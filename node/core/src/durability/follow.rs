//! From a vault's promise to the shape of its next groups.
//!
//! The solver's answer moves with every figure that it rests on, and a shape that changes with every run helps nobody. So a
//! vault keeps the shape that it has while that keeps the promise and costs little more than the cheapest. When it no longer
//! keeps the promise it is replaced at once; when it has become too dear it is given up by one step of m or r a run, each of
//! which must keep the promise. While peers come and go more than usual ([`Churn`], which has its own hysteresis of a day)
//! shards are kept once more.

use cairn_proto::{Timestamp, message::Roles};
use serde::Serialize;

use super::{Infeasible, Measured, Question, Shape, Solution, evaluate, shapes, solve};
use crate::{liveness::Churn, peer_view::PeerView, placement::PlacementPolicy};

/// How much dearer than the cheapest a shape may be before it is given up: a fifth.
const DEARER_MAX: f64 = 1.2;
/// Copies of a shard at most.
const REPLICAS_MAX: u8 = 3;

/// Peers from which on a share of them says something.
const PEERS_ENOUGH: usize = 20;
const HOUR_MS: u64 = 3600 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// What an owner sees of churn, who is not always there as a steward is: of the peers that store and were known for a day, more
/// than a fifth fell silent within an hour, or three tenths within a day, and were tried in vain since. High for a day after it was
/// last seen; `before`: since when it was, by the owner's memory.
#[must_use]
pub fn churn_seen(peers: &[PeerView], before: Option<Timestamp>, now: Timestamp) -> Churn {
    let storing = || peers.iter().filter(|peer| peer.roles.has(Roles::STORAGE));
    let present = storing().map(|peer| peer.last_heard).max().unwrap_or(now).min(now);
    let known = storing().filter(|peer| present.ms_since(peer.first_seen) >= DAY_MS);
    // Whoever was heard of a moment ago fell silent for nobody; whoever was not tried may be there.
    let silent = |peer: &&PeerView| peer.reachable == Some(false) && present.ms_since(peer.last_heard) > 0;
    let fell = |within: u64| {
        let count = |peer: &&PeerView| silent(peer) && present.ms_since(peer.last_heard) <= within;
        known.clone().filter(count).count()
    };
    let all = known.clone().count();
    if all >= PEERS_ENOUGH && (fell(HOUR_MS) * 5 > all || fell(DAY_MS) * 10 > all * 3) {
        return Churn::High { since: present };
    }
    match before {
        Some(since) if now.ms_since(since) < DAY_MS => Churn::High { since },
        _ => Churn::Normal,
    }
}

/// Why a shape was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is the cheapest that keeps the promise.
    Cheapest,
    /// The groups before have it, it keeps the promise, and it is hardly dearer.
    Kept,
    /// A step from the groups before towards the cheapest.
    Step,
    /// One more copy than that, because peers come and go more than usual.
    Churn,
    /// Nothing keeps the promise; this comes nearest.
    BestReachable,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Followed {
    /// The shape, and what it means.
    pub solution: Solution,
    /// Why this one.
    pub why: Why,
    /// What is missing for the promise.
    pub missing: Option<Infeasible>,
}

impl Followed {
    /// The policy for groups of this shape.
    #[must_use]
    pub fn policy(&self) -> Option<PlacementPolicy> {
        Some(PlacementPolicy::new(self.solution.shape.code()?, self.solution.shape.r))
    }
}

/// The shape of the next groups. `before`: that of the newest group. `None`: there are too few domains for any code that the
/// solver knows; then the network's size alone decides ([`PlacementPolicy::for_domains`]).
#[must_use]
pub fn follow(question: &Question, measured: &Measured, before: Option<Shape>, churn: Churn) -> Option<Followed> {
    let (solution, why, missing) = match solve(question, measured) {
        Ok(cheapest) => {
            let (solution, why) = kept(question, measured, before, cheapest);
            (solution, why, None)
        }
        Err(infeasible) => (infeasible.best?, Why::BestReachable, Some(infeasible)),
    };
    if let Churn::High { .. } = churn
        && let Some(more) = one_copy_more(question, measured, &solution)
    {
        return Some(Followed { solution: more, why: Why::Churn, missing });
    }
    Some(Followed { solution, why, missing })
}

/// The shape before, a step from it, or the cheapest.
fn kept(question: &Question, measured: &Measured, before: Option<Shape>, cheapest: Solution) -> (Solution, Why) {
    let possible = shapes(question, measured);
    let keeps = |shape: Shape| {
        let solution = possible.contains(&shape).then(|| evaluate(shape, question, measured).ok())??;
        solution.keeps(question).then_some(solution)
    };
    let Some(now) = before.filter(|shape| *shape != cheapest.shape).and_then(keeps) else {
        return (cheapest, Why::Cheapest);
    };
    if now.cost() <= cheapest.cost() * DEARER_MAX {
        return (now, Why::Kept);
    }
    let Shape { k, m, r } = now.shape;
    let towards = |from: u8, to: u8| if to > from { from + 1 } else { from.saturating_sub(u8::from(to < from)) };
    let steps = [Shape { k, m: towards(m, cheapest.shape.m), r }, Shape { k, m, r: towards(r, cheapest.shape.r) }];
    let cheaper = steps.into_iter().filter_map(keeps).filter(|step| step.cost() < now.cost());
    match cheaper.min_by(|a, b| a.cost().total_cmp(&b.cost())) {
        Some(step) if step.shape != cheapest.shape => (step, Why::Step),
        // No single step is cheaper and keeps the promise.
        _ => (cheapest, Why::Cheapest),
    }
}

/// The same with one more copy, when there are places for it.
fn one_copy_more(question: &Question, measured: &Measured, than: &Solution) -> Option<Solution> {
    let more = Shape { r: than.shape.r + 1, ..than.shape };
    let fits = more.r <= REPLICAS_MAX && shapes(question, measured).contains(&more);
    fits.then(|| evaluate(more, question, measured).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durability::{Missing, Sla, measured::departures_of_churn, tests::storing_peer};

    const TB: u64 = 1_000_000_000_000;

    fn network(churn: f64, domains: u32) -> Measured {
        Measured {
            departures_a_day: departures_of_churn(churn),
            repair_days: 1.0,
            online_within: 0.999,
            ..Measured::assumed(domains)
        }
    }

    fn shape(k: u8, m: u8, r: u8) -> Shape {
        Shape { k, m, r }
    }

    fn next(measured: &Measured, before: Option<Shape>) -> (Shape, Why) {
        let followed = follow(&Question::new(Sla::Gold, TB), measured, before, Churn::Normal).expect("a shape");
        (followed.solution.shape, followed.why)
    }

    #[test]
    fn the_first_group_gets_the_cheapest() {
        let calm = network(0.05, 200);
        let cheapest = solve(&Question::new(Sla::Gold, TB), &calm).expect("feasible").shape;
        assert_eq!(next(&calm, None), (cheapest, Why::Cheapest));
        assert_eq!(next(&calm, Some(cheapest)), (cheapest, Why::Cheapest));
        let followed = follow(&Question::new(Sla::Gold, TB), &calm, None, Churn::Normal).expect("a shape");
        let policy = followed.policy().expect("a code");
        assert_eq!((Some(policy.code), policy.replicas), (cheapest.code(), cheapest.r));
    }

    /// The same figures a little up and down: the shape stays.
    #[test]
    fn a_shape_that_is_good_enough_stays() {
        let calm = network(0.05, 200);
        let cheapest = solve(&Question::new(Sla::Gold, TB), &calm).expect("feasible").shape;
        let dearer = shape(5, cheapest.m + 1, cheapest.r);
        assert_eq!(next(&calm, Some(dearer)), (dearer, Why::Kept));
        let weaker = shape(5, cheapest.m - 1, cheapest.r);
        assert_eq!(
            next(&calm, Some(weaker)),
            (cheapest, Why::Cheapest),
            "a promise that is not kept is mended at once"
        );
    }

    /// Far too dear: down step by step, each of which keeps the promise.
    #[test]
    fn what_is_too_dear_is_given_up_by_steps() {
        let calm = network(0.05, 200);
        let question = Question::new(Sla::Gold, TB);
        let mut now = shape(5, 12, 2);
        let mut seen = vec![now];
        for _ in 0..20 {
            let (then, why) = next(&calm, Some(now));
            if then == now {
                assert!(matches!(why, Why::Kept | Why::Cheapest));
                break;
            }
            let steps = then.m.abs_diff(now.m) + then.r.abs_diff(now.r);
            assert!(steps == 1 || why == Why::Cheapest, "{now} to {then}");
            assert!(evaluate(then, &question, &calm).expect("a shape").keeps(&question), "{then}");
            now = then;
            seen.push(now);
        }
        assert!(seen.len() > 3, "{seen:?}");
        let cheapest = solve(&question, &calm).expect("feasible");
        assert!(evaluate(now, &question, &calm).expect("a shape").cost() <= cheapest.cost() * DEARER_MAX, "{seen:?}");
    }

    #[test]
    fn churn_brings_one_more_copy_where_there_is_room() {
        let question = Question::new(Sla::Gold, TB);
        let high = Churn::High { since: Timestamp(0) };
        let wide = network(0.05, 400);
        let calm = follow(&question, &wide, None, Churn::Normal).expect("a shape").solution.shape;
        let stirred = follow(&question, &wide, None, high).expect("a shape");
        assert_eq!((stirred.solution.shape, stirred.why), (shape(5, calm.m, calm.r + 1), Why::Churn));
        let narrow = network(0.05, 18);
        let stirred = follow(&question, &narrow, None, high).expect("a shape");
        assert_ne!(stirred.why, Why::Churn, "no places for it");
    }

    #[test]
    fn an_owner_sees_that_many_fell_silent_and_remembers_it_for_a_day() {
        let now = Timestamp(100 * DAY_MS);
        let peer = |at: u8, silent_ms: u64, reachable| {
            let view = storing_peer(at, Timestamp(0), Timestamp(now.0 - silent_ms));
            PeerView { reachable, ..view }
        };
        let some = |gone: u8, silent_ms, reachable| -> Vec<PeerView> {
            let lives = (gone..100).map(|at| peer(at, 0, Some(true)));
            (0..gone).map(|at| peer(at, silent_ms, reachable)).chain(lives).collect()
        };
        let high = |peers: &[PeerView]| churn_seen(peers, None, now) != Churn::Normal;
        assert!(high(&some(21, HOUR_MS / 2, Some(false))) && !high(&some(20, HOUR_MS / 2, Some(false))));
        assert!(!high(&some(21, HOUR_MS / 2, None)), "nobody tried them");
        assert!(high(&some(31, 5 * HOUR_MS, Some(false))) && !high(&some(30, 5 * HOUR_MS, Some(false))));
        assert!(!high(&some(60, 30 * HOUR_MS, Some(false))), "that was before");
        assert!(!high(&some(8, HOUR_MS / 2, Some(false))[..15]), "too few to tell");
        let calm = some(0, 0, None);
        let since = Timestamp(now.0 - 23 * HOUR_MS);
        assert_eq!(churn_seen(&calm, Some(since), now), Churn::High { since });
        assert_eq!(churn_seen(&calm, Some(Timestamp(now.0 - DAY_MS)), now), Churn::Normal);
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        let followed =
            follow(&Question::new(Sla::Platinum, TB), &network(0.2, 14), None, Churn::Normal).expect("a code");
        assert_eq!(followed.why, Why::BestReachable);
        let missing = followed.missing.expect("said").missing;
        assert!(missing.iter().any(|m| matches!(m, Missing::Domains { have: 14, .. })), "{missing:?}");
        assert_eq!(follow(&Question::new(Sla::Gold, TB), &network(0.05, 8), None, Churn::Normal), None);
    }
}
