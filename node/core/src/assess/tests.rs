//! Both sides of every trigger.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::liveness::{Class, Timers, Watch};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const RS53: CodeParams = CodeParams::DEFAULT;

fn peer(slot: usize, copy: usize) -> PeerKey {
    let mut key = [3; 32];
    key[0] = slot as u8;
    key[1] = copy as u8;
    PeerKey::from_bytes(key)
}

/// What a fresh watch believes of somebody silent for so long.
fn silent(class: Class, silent_ms: u64) -> Belief {
    let watch = Watch::new(Timers::default());
    let t = *watch.timers();
    let gone = if class == Class::Server { t.server_gone_ms } else { t.home_gone_ms };
    let presence = match silent_ms {
        ms if ms <= t.late_ms => Presence::Here,
        ms if ms <= t.away_ms => Presence::Late,
        ms if ms < gone => Presence::Away,
        _ => Presence::Gone,
    };
    let alive = if presence == Presence::Here { 1.0 } else { watch.model(class).alive(silent_ms) };
    // Nobody is missed, so that the other rules are seen alone.
    Belief { presence, class, alive, silent_ms, usual_ms: u64::MAX, leaving: false }
}

/// The same, of which it is known how long it is used to be away.
fn known(usual_ms: u64, silent_ms: u64) -> Belief {
    Belief { usual_ms, ..home(silent_ms) }
}

fn home(silent_ms: u64) -> Belief {
    silent(Class::Home, silent_ms)
}

fn left() -> Belief {
    Belief { presence: Presence::Left, class: Class::Home, alive: 0.0, silent_ms: 0, usual_ms: HOUR, leaving: true }
}

/// A group with these beliefs by slot; slots not named have `replicas` holders that are here.
fn check(code: CodeParams, replicas: u8, named: &[(usize, &[Belief])]) -> Assessment {
    check_by(&Triggers::default(), code, replicas, named)
}

fn check_by(policy: &Triggers, code: CodeParams, replicas: u8, named: &[(usize, &[Belief])]) -> Assessment {
    let mut beliefs = BTreeMap::new();
    let mut slots = Vec::new();
    for slot in 0..code.slots() {
        let here = vec![home(0); replicas.into()];
        let of = named.iter().find(|(at, _)| *at == slot).map_or(here, |(_, beliefs)| beliefs.to_vec());
        slots.push((0..of.len()).map(|copy| peer(slot, copy)).collect::<Vec<_>>());
        beliefs.extend(of.into_iter().enumerate().map(|(copy, belief)| (peer(slot, copy), belief)));
    }
    assess(code, replicas, &slots, &|peer| beliefs[peer], policy)
}

fn slot(index: usize) -> Slot {
    Slot::new(index as u8).expect("few")
}

fn rebuild(index: usize) -> Need {
    Need::Rebuild { slot: slot(index), missing: 1 }
}

fn copy(index: usize, from: &[usize], missing: u8) -> Need {
    Need::Copy { slot: slot(index), from: from.iter().map(|copy| peer(index, *copy)).collect(), missing }
}

#[test]
fn a_whole_group_needs_nothing() {
    for (code, replicas) in
        [(RS53, 1), (RS53, 2), (CodeParams::LOW_PEER, 2), (CodeParams::new(4, 1).expect("valid"), 1)]
    {
        let found = check(code, replicas, &[]);
        assert_eq!((found.state, found.needs.as_slice()), (GroupState::Healthy, &[][..]), "{code}");
        assert_eq!((usize::from(found.live_slots), found.survival), (code.slots(), 1.0));
        assert_eq!(usize::try_from(found.margin), Ok(code.parity()));
        assert!(found.copies.iter().all(|copies| *copies == f64::from(replicas)));
    }
}

#[test]
fn home_machines_asleep_are_no_emergency_and_no_repair() {
    for replicas in [1, 2] {
        let asleep = vec![home(9 * HOUR); replicas.into()];
        let named: Vec<_> = (0..8).map(|slot| (slot, asleep.as_slice())).collect();
        for silent in [4, 8] {
            let found = check(RS53, replicas, &named[..silent]);
            assert_eq!(found.state, GroupState::Healthy, "{silent} of 8 silent for a night: {found:?}");
            assert_eq!((found.live_slots, usize::from(found.present_slots)), (8, 8 - silent));
        }
    }
}

#[test]
fn servers_silent_for_an_hour_are_an_emergency() {
    let hour: &[Belief] = &[silent(Class::Server, HOUR)];
    let found = check(RS53, 1, &[(2, hour)]);
    assert_eq!((found.state, found.certain_slots), (GroupState::Healthy, 7));
    let found = check(RS53, 1, &[(2, hour), (5, hour)]);
    assert_eq!((found.state, found.certain_slots, found.live_slots), (GroupState::Critical, 6, 8));
    // Late ones are asked first; none that is merely away is waited for.
    assert_eq!(found.needs, [copy(2, &[0], 1), copy(5, &[0], 1)]);
    let away: &[Belief] = &[silent(Class::Server, 2 * HOUR)];
    assert_eq!(check(RS53, 1, &[(2, away), (5, away)]).needs, [rebuild(2), rebuild(5)]);
    let soon: &[Belief] = &[silent(Class::Server, HOUR / 3)];
    assert_eq!(check(RS53, 1, &[(2, soon), (5, soon)]).state, GroupState::Healthy, "perhaps a reboot");
}

#[test]
fn home_machines_silent_for_days_are_an_emergency_at_k_plus_1() {
    let days: &[Belief] = &[home(60 * HOUR)];
    assert_eq!(check(RS53, 1, &[(0, days)]).state, GroupState::Healthy);
    assert_eq!(check(RS53, 1, &[(0, days), (1, days)]).state, GroupState::Critical);
    let less: &[Belief] = &[home(40 * HOUR)];
    assert_eq!(check(RS53, 1, &[(0, less), (1, less)]).state, GroupState::Healthy);
}

#[test]
fn an_hour_of_unusual_silence_is_an_emergency_at_k_plus_1() {
    let soon: &[Belief] = &[known(HOUR, HOUR)];
    let (missed, code) = (&[known(HOUR, HOUR + 1)][..], RS53);
    assert_eq!(check(code, 1, &[(2, soon), (5, soon)]).state, GroupState::Healthy);
    assert_eq!(check(code, 1, &[(2, missed)]).state, GroupState::Healthy);
    let found = check(code, 1, &[(2, missed), (5, missed)]);
    assert_eq!((found.state, found.there_slots, found.certain_slots), (GroupState::Critical, 6, 8));
    assert_eq!(found.needs, [rebuild(2), rebuild(5)]);
    // All that are missed, not only as many as end the emergency.
    let found = check(code, 1, &[(0, missed), (2, missed), (5, missed)]);
    assert_eq!(found.needs, [rebuild(0), rebuild(2), rebuild(5)]);
    // A slot with a second holder is there.
    let one: &[Belief] = &[known(HOUR, 2 * HOUR), home(0)];
    assert_eq!(check(code, 2, &[(2, one), (5, one)]).state, GroupState::Healthy);
    let both: &[Belief] = &[known(HOUR, 2 * HOUR), known(HOUR, 3 * HOUR)];
    assert_eq!(check(code, 2, &[(2, both), (5, both)]).needs, [rebuild(2), rebuild(5)]);
}

#[test]
fn whoever_often_sleeps_so_long_is_not_missed() {
    let night: &[Belief] = &[known(16 * HOUR, 9 * HOUR)];
    let named: Vec<_> = (0..8).map(|slot| (slot, night)).collect();
    for silent in 2..=8 {
        assert_eq!(check(RS53, 1, &named[..silent]).state, GroupState::Healthy, "{silent}");
    }
    let longer: &[Belief] = &[known(16 * HOUR, 17 * HOUR)];
    assert_eq!(check(RS53, 1, &[(2, longer), (5, night)]).state, GroupState::Healthy);
    assert_eq!(check(RS53, 1, &[(2, longer), (5, longer)]).needs, [rebuild(2), rebuild(5)]);
}

#[test]
fn an_emergency_ends_when_all_are_there_and_costs_no_more_than_its_spares() {
    let missed: &[Belief] = &[known(HOUR, 2 * HOUR)];
    let alarm = Triggers { alarm: true, ..Triggers::default() };
    let found = check_by(&alarm, RS53, 1, &[(2, missed)]);
    assert_eq!((found.state, found.too_few_there, found.needs), (GroupState::Critical, false, vec![rebuild(2)]));
    assert_eq!(check_by(&alarm, RS53, 1, &[]).state, GroupState::Healthy);
    // One that signs misses sooner.
    let nearly: &[Belief] = &[known(HOUR, HOUR * 4 / 5)];
    let early = Triggers { missed: 75, ..Triggers::default() };
    assert_eq!(check(RS53, 1, &[(2, nearly), (5, nearly)]).state, GroupState::Healthy);
    assert_eq!(check_by(&early, RS53, 1, &[(2, nearly), (5, nearly)]).needs, [rebuild(2), rebuild(5)]);
    // Three that came and went for one: no fourth by this rule.
    let three = vec![known(HOUR, 2 * HOUR); 3];
    let found = check(RS53, 1, &[(2, &three), (5, &three[..2])]);
    assert_eq!((found.state, found.needs), (GroupState::Critical, vec![rebuild(5)]));
    // But one of those who are away for days is no copy of a machine that comes and goes; six of them are as many as there may be.
    let mut away = three.clone();
    away[0] = known(HOUR, 25 * HOUR);
    let six = vec![known(HOUR, 30 * HOUR); 6];
    let found = check(RS53, 1, &[(2, &away), (4, &six), (5, &six[..5])]);
    assert_eq!(found.state, GroupState::Critical);
    let mut slots: Vec<Need> = found.needs;
    slots.sort_by_key(|need| format!("{need:?}"));
    assert_eq!(slots, [rebuild(2), rebuild(5)]);
    // One that signs goes by a little less.
    away[0] = known(HOUR, 20 * HOUR);
    assert_eq!(check(RS53, 1, &[(2, &away), (5, &three)]).needs, []);
    assert_eq!(check_by(&early, RS53, 1, &[(2, &away), (5, &three)]).needs, [rebuild(2)]);
}

#[test]
fn whoever_is_presumed_gone_or_left_is_replaced() {
    for gone in [home(7 * DAY), left(), silent(Class::Server, DAY)] {
        let found = check(RS53, 1, &[(3, &[gone])]);
        assert_eq!((found.state, found.live_slots, found.margin), (GroupState::Degraded, 7, 2));
        assert_eq!(found.needs, [rebuild(3)]);
        // A replica lives: it is copied. It sleeps: it is waited for. It is doubtful too: no waiting.
        let found = check(RS53, 2, &[(3, &[gone, home(0)])]);
        assert_eq!((found.state, found.live_slots, found.needs), (GroupState::Degraded, 8, vec![copy(3, &[1], 1)]));
        assert_eq!(check(RS53, 2, &[(3, &[gone, home(9 * HOUR)])]).needs, [copy(3, &[1], 1)]);
        assert_eq!(check(RS53, 2, &[(3, &[gone, home(5 * DAY)])]).needs, [rebuild(3)]);
        // Both: two are missing. Replaced already: nothing is, and it may come back as a spare.
        assert_eq!(check(RS53, 2, &[(3, &[gone, left()])]).needs, [Need::Rebuild { slot: slot(3), missing: 2 }]);
        assert_eq!(check(RS53, 2, &[(3, &[gone, home(0), home(0)])]).state, GroupState::Healthy);
    }
}

#[test]
fn a_thin_slot_gets_another_copy() {
    let thin = home(5 * DAY);
    assert!(thin.alive > 0.5 && thin.alive < 0.75);
    let found = check(RS53, 2, &[(3, &[thin, thin])]);
    assert_eq!((found.state, found.needs), (GroupState::Degraded, vec![rebuild(3)]));
    assert!(found.copies[3] < 1.5);
    assert_eq!(check(RS53, 2, &[(3, &[home(0), thin])]).state, GroupState::Healthy);
    assert_eq!(check(RS53, 1, &[(3, &[thin])]).state, GroupState::Healthy, "of one copy three are expendable");
}

#[test]
fn the_weakest_are_repaired_until_the_group_is_strong_enough() {
    let (weak, weaker) = (home(20 * HOUR), home(44 * HOUR));
    // All eight are doubtful, none beyond 0.9: a single figure does not show it, their number does.
    assert!(weaker.alive > 0.9);
    let named: Vec<(usize, &[Belief])> =
        (0..8).map(|slot| (slot, std::slice::from_ref(if slot < 5 { &weak } else { &weaker }))).collect();
    let found = check(RS53, 1, &named);
    assert_eq!((found.state, found.certain_slots), (GroupState::Degraded, 8));
    let slot_of = |need: &Need| match need {
        Need::Copy { slot, .. } | Need::Rebuild { slot, .. } => slot.index(),
        Need::None => panic!("needs something"),
    };
    let slots: Vec<_> = found.needs.iter().map(slot_of).collect();
    assert_eq!(slots, [5, 6, 7][..slots.len()]);
    assert!(!slots.is_empty());
}

#[test]
fn a_lost_group_is_copied_not_rebuilt_and_comes_back() {
    let gone: &[Belief] = &[home(30 * DAY), left()];
    let named: Vec<_> = (0..4).map(|slot| (slot, gone)).collect();
    let half: &[Belief] = &[left(), home(0)];
    let asleep: &[Belief] = &[left(), home(2 * HOUR)];
    let mut lost = named.clone();
    lost.extend([(4, half), (5, asleep)]);
    let found = check(RS53, 2, &lost);
    assert_eq!((found.state, found.live_slots, found.margin), (GroupState::Lost, 4, -1));
    assert_eq!(found.needs, [copy(5, &[1], 1), copy(4, &[1], 1)]);
    assert!(found.survival < 0.5);
    // One returns: k are there, and all that is missing is made.
    let back: &[Belief] = &[home(0), left()];
    lost[0] = (0, back);
    let found = check(RS53, 2, &lost);
    assert_eq!((found.state, found.live_slots, found.margin), (GroupState::Critical, 5, 0));
    assert_eq!(found.needs.iter().filter(|need| matches!(need, Need::Rebuild { missing: 2, .. })).count(), 3);
}

#[test]
fn odd_records_are_read_as_they_are() {
    let here = |_: &PeerKey| home(0);
    let policy = Triggers::default();
    let nobody = assess(RS53, 2, &[], &here, &policy);
    assert_eq!((nobody.state, nobody.live_slots, nobody.needs.len(), nobody.survival), (GroupState::Lost, 0, 0, 0.0));
    // The same peer twice is one copy; slots beyond the code do not exist; no copies wanted means one.
    let mut slots = vec![vec![peer(0, 0); 2]; 40];
    let found = assess(RS53, 2, &slots, &here, &policy);
    assert_eq!((found.live_slots, found.copies.len(), found.needs.len()), (8, 8, 8));
    slots.truncate(8);
    assert_eq!(assess(RS53, 0, &slots, &here, &policy).state, GroupState::Healthy);
}

proptest! {
    /// Against brute force over who is alive; more copies never make it worse; what is needed is what is missing.
    #[test]
    fn figures_are_those_of_brute_force(
        k in 1u8..4, m in 1u8..4, replicas in 1u8..3,
        hours in prop::collection::vec(prop::collection::vec((0u64..400, any::<bool>()), 0..3), 6),
    ) {
        let code = CodeParams::new(k, m).expect("valid");
        let beliefs: Vec<Vec<Belief>> = hours[..code.slots()]
            .iter()
            .map(|of| of.iter().map(|(h, server)| silent(if *server { Class::Server } else { Class::Home }, h * HOUR)).collect())
            .collect();
        let named: Vec<_> = beliefs.iter().enumerate().map(|(slot, of)| (slot, of.as_slice())).collect();
        let found = check(code, replicas, &named);

        let slot_alive: Vec<f64> = beliefs.iter().map(|of| 1.0 - of.iter().map(|b| 1.0 - b.alive).product::<f64>()).collect();
        let mut survival = 0.0;
        for alive in 0u32..1 << code.slots() {
            if alive.count_ones() >= u32::from(k) {
                survival += (0..code.slots())
                    .map(|s| if alive >> s & 1 == 1 { slot_alive[s] } else { 1.0 - slot_alive[s] })
                    .product::<f64>();
            }
        }
        prop_assert!((found.survival - survival).abs() < 1e-9, "{} {}", found.survival, survival);

        let live_of = |of: &[Belief]| of.iter().filter(|b| b.presence < Presence::Gone).count();
        let live = beliefs.iter().filter(|of| live_of(of) > 0).count();
        prop_assert_eq!(usize::from(found.live_slots), live);
        prop_assert_eq!(found.state == GroupState::Lost, live < usize::from(k));
        prop_assert!(found.needs.is_empty() || found.state != GroupState::Healthy);
        for (slot, of) in beliefs.iter().enumerate() {
            let wanted = usize::from(replicas).saturating_sub(live_of(of));
            let found_missing = found.needs.iter().find_map(|need| match need {
                Need::Copy { slot: s, missing, from } if s.index() == slot => {
                    assert!(!from.is_empty());
                    Some(usize::from(*missing))
                }
                Need::Rebuild { slot: s, missing } if s.index() == slot => Some(usize::from(*missing)),
                _ => None,
            });
            let hopeless = found.state == GroupState::Lost && live_of(of) == 0;
            prop_assert!(hopeless || found_missing.unwrap_or(0) >= wanted, "{slot}: {found:?}");
        }

        let mut more = beliefs.clone();
        more[0].push(home(0));
        let named: Vec<_> = more.iter().enumerate().map(|(slot, of)| (slot, of.as_slice())).collect();
        let better = check(code, replicas, &named);
        prop_assert!(better.survival >= found.survival - 1e-12 && better.live_slots >= found.live_slots);
        prop_assert!(better.state <= found.state);
    }
}
