//! What survives a crash, what the owner is told, who is probed and asked.

use proptest::prelude::*;

use super::*;

fn fresh(village: &Village, peer: &PeerKey) -> Steward {
    let budget = Budget::new(Limits::default(), 10 << 20, village.now);
    let watch = Watch::new(Timers::default());
    Steward::new(village.keys[peer].clone(), village.domain(peer), Rhythm::default(), watch, budget)
}

/// One order carried out, one under way, something promised, something lacking, a steward replaced.
fn busy_village() -> Village {
    let mut village = Village::new(7);
    village.away.insert(village.holder(2));
    while village.given.is_empty() {
        village.turn();
    }
    village.carry_out();
    village.away.insert(*village.stewards.keys().next().expect("one"));
    village.turns(30);
    let (holder, group, now) = (village.holder(3), village.ticket.id(), village.now);
    let has: Ordinals = (0..STRIPES).filter(|ordinal| *ordinal != 4).collect();
    for steward in village.stewards.values_mut() {
        steward.reported(holder, group, slot(3), &has, now);
    }
    village.turns(1);
    village
}

#[test]
fn a_steward_that_restarts_knows_what_it_signed_and_what_is_under_way() {
    let village = busy_village();
    let group = village.ticket.id();
    let (peer, before) = village.stewards.iter().find(|(peer, _)| !village.away.contains(*peer)).expect("one");
    let report = before.report(&group, village.now).expect("watched");
    assert!(report.under_way > 0 && report.changes() > 0, "{report:?}");
    assert!(report.log.iter().any(|entry| matches!(entry.what, What::Repaired { .. })));
    let bytes = before.encode_group(&group).expect("watched");
    assert!(bytes.len() <= Steward::STATE_MAX);
    let mut after = fresh(&village, peer);
    assert_eq!(after.resume(&bytes, village.now), Ok(group));
    assert_eq!(after.encode_group(&group), Some(bytes));
    assert!(after.poll().is_none(), "there is nothing to write or say");
    let again = after.report(&group, village.now).expect("watched");
    assert_eq!((&again.log, again.under_way, again.quorum), (&report.log, report.under_way, report.quorum));
    let who = |report: &GroupReport| -> Vec<Vec<(PeerKey, usize, usize)>> {
        report.slots.iter().map(|slot| slot.iter().map(|(peer, _, has, of)| (*peer, *has, *of)).collect()).collect()
    };
    assert_eq!(who(&again), who(&report));
    // It watches the same peers.
    let watched = |steward: &Steward| steward.concerned().into_iter().map(|(peer, _)| peer).collect::<Vec<_>>();
    assert_eq!(watched(&after), watched(before));
    assert!(watched(&after).iter().all(|peer| after.watch().belief(peer, village.now).presence == Presence::Late));
}

/// A crash between the signature and its way out must not make it sign another order for the same thing.
#[test]
fn what_was_signed_binds_after_a_crash() {
    let mut village = Village::new(7);
    village.away.insert(village.holder(2));
    let peer = *village.stewards.keys().next().expect("one");
    let group = village.ticket.id();
    let mut saved = None;
    while saved.is_none() {
        village.now = village.now.plus_ms(4 * 60_000);
        village.hear();
        let (now, views) = (village.now, village.views.clone());
        let steward = village.stewards.get_mut(&peer).expect("there");
        steward.tick(now, &views, &mut village.rng);
        let effects: Vec<Effect> = std::iter::from_fn(|| steward.poll()).collect();
        let proposal = |e: &Effect| matches!(e, Effect::Tell { say, .. } if matches!(**say, Say::Propose { .. }));
        if let Some(at) = effects.iter().position(proposal) {
            assert!(effects[..at].contains(&Effect::Persist(group)), "written before it is said: {effects:?}");
            saved = steward.encode_group(&group);
        }
    }
    let (now, views) = (village.now, village.views.clone());
    let mut steward = fresh(&village, &peer);
    steward.resume(&saved.expect("was proposed"), now).expect("its own");
    for view in &views {
        if !village.away.contains(&view.peer) {
            steward.heard(view.peer, now);
        }
    }
    // Another proposes the same repair, in the very moment.
    let from = *village.stewards.keys().last().expect("seven");
    let order = village.order(1, village.rebuild(village.ranked(2)[0], &[0]));
    let vote = order.sign(&village.keys[&from]).expect("valid");
    steward.told(from, Say::Propose { order, vote }, now, &views);
    assert!(std::iter::from_fn(|| steward.poll()).all(|effect| !matches!(effect, Effect::Tell { .. })));
}

#[test]
fn the_owner_is_told_what_the_mandate_what_changed_and_who_took_what() {
    let village = busy_village();
    let group = village.ticket.id();
    let (_, steward) = village.stewards.iter().find(|(peer, _)| !village.away.contains(*peer)).expect("one");
    let map = steward.map_for_owner(&group).expect("watched");
    let mandate = Mandate::open(&map.mandate).expect("as it was signed");
    let mut committee = cairn_proto::Committee::of(&mandate);
    assert!(!map.changes.is_empty());
    map.changes.iter().for_each(|change| committee.succeed(change).expect("holds"));
    assert_eq!(map.sheets, vec![1; 5]);
    let taken: Vec<Taken> = map.entries.iter().map(|(_, sealed)| Taken::open(sealed).expect("signed")).collect();
    assert!(taken.iter().any(|taken| taken.slot == slot(2)));
    assert!(map.log.len() > 3);
    assert_eq!(steward.map_for_owner(&GroupId::from_bytes([1; 32])), None);
}

#[test]
fn groups_in_need_are_probed_often_and_healthy_ones_are_not() {
    let mut village = Village::new(7);
    village.turns(1);
    let peer = *village.stewards.keys().next().expect("one");
    let concerned = |village: &Village| village.stewards[&peer].concerned();
    let all = concerned(&village);
    assert_eq!(all.len(), 5 + 6, "five holders, six other stewards");
    assert!(all.iter().all(|(peer, often)| !often && village.keys.contains_key(peer)));
    let lost = village.holder(2);
    village.away.insert(lost);
    let in_need = (0..24 * 15 * 8).any(|_| {
        village.turn();
        concerned(&village).iter().all(|(_, often)| *often)
    });
    assert!(in_need);
}

#[test]
fn each_holder_is_asked_once_a_day_at_its_own_time() {
    let mut village = Village::new(7);
    let peer = *village.stewards.keys().next().expect("one");
    let mut asked: BTreeMap<PeerKey, Vec<Timestamp>> = BTreeMap::new();
    for _ in 0..3 * 24 * 15 {
        village.turn();
        let now = village.now;
        let steward = village.stewards.get_mut(&peer).expect("there");
        let due = steward.inventory_due(now, 3);
        assert!(due.len() <= 3);
        for one in due {
            steward.asked(&one, now);
            asked.entry(one.holder).or_default().push(now);
        }
        assert!(steward.inventory_due(now, 1).is_empty());
    }
    let moments: BTreeSet<u64> = asked.values().map(|at| at[0].0).collect();
    assert!(asked.len() == 5 && moments.len() > 2, "{asked:?}");
    for times in asked.values() {
        assert_eq!(times.len(), 3, "{times:?}");
        assert!(times.windows(2).all(|two| two[1].ms_since(two[0]).abs_diff(24 * HOUR) <= HOUR), "{times:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_states_are_refused_or_are_some_state(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        static STATE: std::sync::LazyLock<(Vec<u8>, Timestamp)> = std::sync::LazyLock::new(|| {
            let village = busy_village();
            let steward = village.stewards.values().last().expect("one");
            (steward.encode_group(&village.ticket.id()).expect("watched"), village.now)
        });
        let (bytes, now) = &*STATE;
        let village = Village::new(1);
        let peer = *village.stewards.keys().next().expect("one");
        let mut bad = bytes.clone();
        let at = at.index(bad.len());
        bad[at] = byte;
        let mut steward = fresh(&village, &peer);
        if let Ok(group) = steward.resume(&bad, *now) {
            // It has one meaning (who is on record for nothing is left out), and can be gone on with.
            let first = steward.encode_group(&group).expect("watched");
            prop_assert!(first.len() <= bad.len());
            prop_assert!(steward.resume(&first, *now).is_ok());
            prop_assert!(steward.encode_group(&group).expect("watched") == first);
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            steward.tick(*now, &village.views, &mut rng);
            steward.tick(Timestamp(u64::MAX), &village.views, &mut rng);
        }
        prop_assert!(steward.resume(&bytes[..cut.index(bytes.len())], *now).is_err());
    }
}
