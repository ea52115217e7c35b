//! Newcomers' quota of the day, as stewards keep to it when they choose who takes a slot.

use cairn_proto::{ByteSize, SHARD_SIZE};

use super::*;
use crate::{peer_view::NEWCOMER_MS, steward::vetting::Vetting};

/// So many shards a day are what it may be given, by the share that every newcomer begins with.
fn offers(shards: u64) -> ByteSize {
    ByteSize(100 * shards * SHARD_SIZE as u64)
}

impl Village {
    /// All of a colour that hold nothing of it are newcomers, and may be given so many shards a day.
    fn with_newcomers(at: u8, shards: u64) -> Self {
        let mut village = Self::new(7);
        let (holder, of) = (village.holder(at), village.of_colour(at.into()));
        for view in village.views.iter_mut().filter(|view| of.contains(&view.peer) && view.peer != holder) {
            (view.newcomer, view.reputation) = (true, 500);
            // Below the load at which nobody is given anything, and with room for a whole slot.
            (view.give, view.free) = (offers(shards), offers(shards));
        }
        village.turns(1);
        village
    }

    fn view(&mut self, peer: &PeerKey) -> &mut PeerView {
        self.views.iter_mut().find(|view| view.peer == *peer).expect("known")
    }

    /// The holder of a slot says that it leaves: its slot is wanted elsewhere, and the group is in no danger.
    fn leaves(&mut self, at: u8) {
        let (holder, now) = (self.holder(at), self.now);
        let group = self.ticket.id();
        for steward in self.stewards.values_mut() {
            steward.leaving(holder, now.plus_ms(20 * 24 * HOUR), &[group], now);
        }
    }

    /// So many hours in which every order is carried out at once: shards by new holder.
    fn given_in(&mut self, hours: u64) -> BTreeMap<PeerKey, usize> {
        let mut given = BTreeMap::new();
        for _ in 0..hours * HOUR / self.step_ms {
            self.turn();
            while !self.given.is_empty() {
                let action = self.carry_out();
                *given.entry(action.to().expect("a new holder")).or_default() += action.ordinals().len();
            }
        }
        given
    }

    fn stuck_by_quota(&self) -> usize {
        let of = |steward: &Steward| steward.stuck(&self.ticket.id(), self.now, &self.views);
        let why = Stuck { slot: slot(2), why: StuckWhy::Quota };
        self.stewards.values().filter(|steward| of(steward) == [why]).count()
    }

    /// Every steward starts again, from what it wrote.
    fn restart(&mut self) {
        let (group, now) = (self.ticket.id(), self.now);
        for (peer, steward) in &mut self.stewards {
            let state = steward.encode_group(&group).expect("watched");
            let watch = Watch::decode(&steward.watch().encode(), Timers::default()).expect("its own");
            let domain = self.views.iter().find(|view| view.peer == *peer).expect("known").domain.clone();
            let budget = Budget::new(Limits::default(), 10 << 20, now);
            *steward = Steward::new(self.keys[peer].clone(), domain, Rhythm::default(), watch, budget);
            steward.resume(&state, now).expect("its own");
        }
    }
}

#[test]
fn who_cannot_have_all_of_a_slot_today_comes_after_who_can() {
    for (a_day, newcomer) in [(STRIPES.into(), true), (u64::from(STRIPES) - 1, false)] {
        let mut village = Village::with_newcomers(2, a_day);
        // The last of all is no newcomer.
        let last = *village.ranked(2).last().expect("some");
        let view = village.view(&last);
        (view.newcomer, view.reputation) = (false, 900);
        (view.give, view.free) = (ByteSize(100 << 30), ByteSize(90 << 30));
        village.leaves(2);
        let given = village.given_in(12);
        assert_eq!(given.values().sum::<usize>(), STRIPES.into(), "{given:?}");
        let aged = given.contains_key(&last);
        // Whether it comes first anyhow is its rank's doing.
        let first = village.ranked(2).first() == Some(&last);
        assert!(given.len() == 1 && aged != (newcomer && !first), "{a_day} a day: {given:?}");
    }
}

#[test]
fn a_newcomer_that_has_its_quota_of_the_day_waits_for_the_next() {
    let mut village = Village::with_newcomers(2, 7);
    let heirs = village.of_colour(2).len() - 1;
    // One alone, so that nobody else takes it over.
    let (one, holder) = (village.ranked(2)[0], village.holder(2));
    let others: Vec<PeerKey> =
        village.of_colour(2).into_iter().filter(|peer| *peer != one && *peer != holder).collect();
    village.views.retain(|view| !others.contains(&view.peer));
    village.away.extend(others);
    assert!(heirs > 1);
    village.leaves(2);
    let given = village.given_in(12);
    assert_eq!(given, [(one, 7)].into(), "as much as it may have in a day");
    assert_eq!(village.stuck_by_quota(), 7, "and everybody says why");
    // A crash, or ten of them, change nothing.
    for _ in 0..10 {
        village.restart();
        village.hear();
        village.leaves(2);
        assert_eq!(village.given_in(1), BTreeMap::new());
    }
    let mut all = 7;
    for day in 1..4 {
        village.given_in(1);
        let given = village.given_in(23);
        let more = given.get(&one).copied().unwrap_or_default();
        assert!(more <= 7, "day {day}: {given:?}");
        all += more;
    }
    let report = village.report();
    let has = report.slots[2].iter().find(|(peer, ..)| *peer == one).map(|(.., has, _)| *has);
    assert_eq!(has, Some(STRIPES.into()), "it goes on by and by: {all}");
    assert_eq!(village.stuck_by_quota(), 0);
}

#[test]
fn in_an_emergency_a_newcomer_alone_is_given_all() {
    let mut village = Village::with_newcomers(2, 7);
    let lost = village.holder(2);
    village.away.insert(lost);
    let mut beyond = 0;
    let given = {
        let mut given: BTreeMap<PeerKey, usize> = BTreeMap::new();
        for _ in 0..12 * 15 {
            village.turn();
            for steward in village.stewards.values() {
                let plan = steward.dry_run(&village.ticket.id(), village.now, &village.views);
                beyond += plan.iter().filter(|plan| plan.beyond_quota).count();
            }
            while !village.given.is_empty() {
                let action = village.carry_out();
                *given.entry(action.to().expect("somebody")).or_default() += action.ordinals().len();
            }
        }
        given
    };
    assert_eq!(given.values().sum::<usize>(), STRIPES.into(), "{given:?}");
    assert!(given.len() == 1 && beyond > 0, "and that is said: {given:?}, {beyond}");
}

#[test]
fn a_young_network_trusts_everybody() {
    let mut village = Village::with_newcomers(2, 1);
    // Of five slots' worth of older domains one is missing.
    let needed: BTreeSet<PeerKey> = (0..5).map(|at| village.holder(at)).skip(1).collect();
    for view in village.views.iter_mut().filter(|view| !needed.contains(&view.peer)) {
        (view.newcomer, view.reputation) = (true, 500);
    }
    village.leaves(2);
    let given = village.given_in(12);
    assert_eq!((given.len(), given.values().sum::<usize>()), (1, STRIPES.into()), "{given:?}");
}

#[test]
fn nobody_signs_for_a_newcomer_that_others_gave_enough() {
    let mut village = Village::with_newcomers(2, 10);
    village.leaves(2);
    // Until it is their turn, by everybody's clock.
    let until = village.now.plus_ms(2 * HOUR);
    while village.given.is_empty() && village.now < until {
        village.turn();
    }
    let Some(Effect::Give { to, .. }) = village.given.first() else { panic!("ordered") };
    let (to, from, voter) =
        (*to, *village.stewards.keys().next().expect("one"), *village.stewards.keys().last().expect("seven"));
    // As if this were another group of these stewards: what was ordered counts, whoever ordered it.
    let rooms = |village: &Village, of: &PeerKey| {
        let group = GroupId::from_bytes([3; 32]);
        village.stewards[of].vetting.rooms(&village.views, &group, village.now)[&to]
    };
    assert!(village.stewards.keys().all(|steward| rooms(&village, steward) == 2), "eight of ten");
    // Half of it, where others that its inviter let in lied.
    let heard = village.stewards.get_mut(&from).expect("there");
    assert!(heard.has_given(&to) && !heard.has_given(&from));
    heard.set_quotas([(to, 9)].into());
    assert_eq!(rooms(&village, &from), 1);
    village.stewards.get_mut(&from).expect("there").set_quotas(BTreeMap::new());
    // A proposal that would go over it is not signed, and what is within it is.
    let mut order = village.order(1, village.rebuild(to, &[0, 1, 2]));
    order.group = GroupId::from_bytes([4; 32]);
    let steward = village.stewards.get_mut(&voter).expect("there");
    steward.vetting.sign(&order, [1; 32], village.now.plus_ms(HOUR), village.now);
    assert_eq!(rooms(&village, &voter), 0, "signed for another group, and no order yet");
    let later = village.now.plus_ms(HOUR);
    assert_eq!(village.stewards[&voter].vetting.rooms(&village.views, &GroupId::from_bytes([3; 32]), later)[&to], 2);
    let scene_says = |village: &Village, of: &PeerKey, shards: usize| {
        let steward = &village.stewards[of];
        let (group, domain) = (&steward.groups[&village.ticket.id()], village.domain(of));
        let believed = (&steward.watch, &steward.places);
        let mut scene = plan::Scene::new((*of, &domain), village.now, &village.views, believed, &steward.rhythm);
        scene.vetting = Some(&steward.vetting);
        scene.room(group, &to).is_none_or(|room| shards <= room as usize)
    };
    assert!(scene_says(&village, &from, 2) && !scene_says(&village, &from, 3));
    assert!(!scene_says(&village, &voter, 1));
}

/// A vote on an order for a slot that lacks something, of a group that is in no danger.
#[test]
fn a_vote_is_withheld_for_more_than_there_is_room_for() {
    for (given, signs) in [(0, true), (10, false)] {
        let mut village = Village::with_newcomers(2, 10);
        village.leaves(2);
        let (voter, now) = (*village.stewards.keys().last().expect("seven"), village.now);
        // What it alone knows of: orders of groups that the others do not watch.
        let heirs: Vec<PeerKey> = village.ranked(2);
        for (n, heir) in (0u8..).zip(&heirs) {
            for at in 0..given {
                let ordinal = [at].into_iter().collect();
                let action = Action::Copy { slot: slot(2), from: village.holder(2), to: *heir, ordinals: ordinal };
                let mut order = Order { group: GroupId::from_bytes([9; 32]), ..village.order(at, action) };
                order.nonce[15] = n;
                village.stewards.get_mut(&voter).expect("there").vetting.ordered(&order, now, now);
            }
        }
        let mut votes = 0;
        let until = now.plus_ms(4 * HOUR);
        while village.now < until {
            village.now = village.now.plus_ms(village.step_ms);
            village.hear();
            for proposer in village.stewards.keys().copied().filter(|peer| *peer != voter).collect::<Vec<_>>() {
                let (now, mut views) = (village.now, village.views.clone());
                views.retain(|view| view.peer != proposer);
                village.stewards.get_mut(&proposer).expect("there").tick(now, &views, &mut village.rng);
                let mut said = Vec::new();
                while let Some(effect) = village.stewards.get_mut(&proposer).expect("there").poll() {
                    if let Effect::Tell { to, say } = effect {
                        said.push((to, *say));
                    }
                }
                for (_, say) in said.into_iter().filter(|(to, _)| *to == voter) {
                    village.tell(proposer, voter, say);
                }
                while let Some(effect) = village.stewards.get_mut(&voter).expect("there").poll() {
                    votes +=
                        usize::from(matches!(&effect, Effect::Tell { say, .. } if matches!(**say, Say::Vote { .. })));
                }
            }
        }
        assert_eq!(votes > 0, signs, "{given} given before: {votes} votes");
    }
}

#[test]
fn what_is_counted_is_bounded_and_no_clock_makes_it_last() {
    let village = Village::new(7);
    let (to, now) = (village.of_colour(2)[3], village.now);
    let mut views = village.views.clone();
    let view = views.iter_mut().find(|view| view.peer == to).expect("known");
    (view.newcomer, view.give) = (true, offers(10));
    let (group, day) = (village.ticket.id(), NEWCOMER_MS);
    let mut vetting = Vetting::new(day);
    let order = |n: u32| {
        let mut order = village.order(0, village.rebuild(to, &[0]));
        order.group = GroupId::from_bytes([1; 32]);
        order.nonce[..4].copy_from_slice(&n.to_le_bytes());
        order
    };
    let room = |vetting: &Vetting, at| vetting.rooms(&views, &group, at)[&to];
    for n in 0..4 {
        vetting.ordered(&order(n), now, now);
        vetting.ordered(&order(n), now, now);
    }
    assert_eq!(room(&vetting, now), 6, "each once");
    vetting.ordered(&order(9), Timestamp(now.0 - day), now);
    assert_eq!(room(&vetting, now), 6, "a day ago");
    vetting.sign(&order(5), [5; 32], now.plus_ms(HOUR), now);
    vetting.sign(&order(6), [6; 32], now.plus_ms(HOUR), now);
    assert_eq!(room(&vetting, now), 5, "one of two for the same slot");
    assert_eq!(room(&vetting, now.plus_ms(HOUR)), 6);
    assert_eq!([day - 1, day].map(|ms| room(&vetting, now.plus_ms(ms))), [6, 10]);
    // The clock was a month ahead.
    let before = Timestamp(now.0 - 30 * day);
    vetting.clamp(before);
    assert_eq!([day - 1, day].map(|ms| room(&vetting, before.plus_ms(ms))), [6, 10]);
    let aged: Vec<PeerView> = village.views.clone();
    vetting.settle(&aged, before);
    assert_eq!(room(&vetting, before), 10, "of who is a newcomer no more nothing is counted");
    (0..20_000).for_each(|n| vetting.ordered(&order(n), now, now));
    assert_eq!(room(&vetting, now), 0);
    let other = PeerView { newcomer: true, give: offers(10), ..village.views[0].clone() };
    assert_eq!(vetting.rooms(&[other], &group, now).into_values().collect::<Vec<_>>(), [0], "nor for others");
}
