//! Auditors of stewards: who is drawn, who is believed, and what it takes to lose a slot.

use super::*;
use crate::steward::wire::{Duty, Findings};

const DAY: u64 = 24 * HOUR;

impl Village {
    /// Duties that a steward gives until now.
    fn duties(&mut self, of: &PeerKey) -> Vec<(PeerKey, Duty)> {
        let mut views = self.views.clone();
        views.retain(|view| view.peer != *of);
        let now = self.now;
        self.stewards.get_mut(of).expect("there").audits_due(now, &views, 1000)
    }

    /// A day passes; duties by steward.
    fn a_day_of_duties(&mut self) -> BTreeMap<PeerKey, Vec<(PeerKey, Duty)>> {
        let stewards: Vec<PeerKey> = self.stewards.keys().copied().collect();
        let mut given: BTreeMap<PeerKey, Vec<(PeerKey, Duty)>> = BTreeMap::new();
        for _ in 0..24 * 15 {
            self.now = self.now.plus_ms(4 * 60_000);
            self.hear();
            for steward in &stewards {
                let duties = self.duties(steward);
                given.entry(*steward).or_default().extend(duties);
            }
        }
        given
    }

    fn findings(&self, holder: PeerKey, at: u8, missing: &[u8], shown: &[u8]) -> Findings {
        Findings {
            group: self.ticket.id(),
            slot: slot(at),
            holder,
            good: shown.len() as u32,
            silent: 0,
            missing: missing.iter().copied().collect(),
            shown: shown.iter().copied().collect(),
            proof: None,
        }
    }

    /// So many stewards hear from their own auditors that the holder of slot 2 misses a shard.
    fn accuse(&mut self, stewards: usize) {
        let given = self.a_day_of_duties();
        let holder = self.holder(2);
        let findings = self.findings(holder, 2, &[4], &[]);
        for (steward, duties) in given.iter().take(stewards) {
            let (auditor, _) = duties.iter().find(|(_, duty)| duty.holder == holder).expect("one a day");
            let now = self.now;
            assert!(self.stewards.get_mut(steward).expect("there").found(auditor, &findings, now));
        }
    }
}

#[test]
fn every_holder_gets_an_auditor_a_day_of_its_colour_and_nobody_else_is_believed() {
    let mut village = Village::new(7);
    let given = village.a_day_of_duties();
    let mut auditors = BTreeSet::new();
    for duties in given.values() {
        let holders: BTreeSet<PeerKey> = duties.iter().map(|(_, duty)| duty.holder).collect();
        assert_eq!((duties.len(), holders.len()), (5, 5), "each holder once");
        for (auditor, duty) in duties {
            let sheet = SlotSheet::open(&duty.sheet, &village.ticket).expect("the owner's");
            assert_eq!(colour(&village.ticket, &village.domain(auditor)).index(), sheet.slot.index());
            assert_eq!((duty.ordinals.len(), duty.auditors), (20, 14));
            assert!(*auditor != duty.holder && duty.until <= village.now.plus_ms(2 * DAY));
            auditors.insert((sheet.slot, *auditor));
        }
    }
    assert!(auditors.len() > 15, "each steward draws its own: {}", auditors.len());
    // What it says of another slot, of another holder, or says to another steward, changes nothing.
    let (one, two) = (village.stewards.keys().next().copied(), village.stewards.keys().nth(1).copied());
    let (one, two, holder) = (one.expect("there"), two.expect("there"), village.holder(2));
    let auditor = given[&one].iter().find(|(_, duty)| duty.holder == holder).expect("drawn").0;
    let now = village.now;
    let say = |village: &mut Village, to, from: &PeerKey, findings: &Findings| {
        village.stewards.get_mut(&to).expect("there").found(from, findings, now)
    };
    let good = village.findings(holder, 2, &[4], &[]);
    let drawn_by_two = given[&two].iter().any(|(peer, duty)| *peer == auditor && duty.holder == holder);
    assert_eq!(say(&mut village, two, &auditor, &good), drawn_by_two);
    let elsewhere = village.findings(village.holder(3), 2, &[4], &[]);
    assert!(!say(&mut village, one, &auditor, &elsewhere));
    let of_three = village.findings(village.holder(3), 3, &[4], &[]);
    assert!(!say(&mut village, one, &auditor, &of_three));
    let stranger = village.of_colour(2)[9];
    assert!(stranger == auditor || !say(&mut village, one, &stranger, &good));
    let report = |village: &Village, of: PeerKey| village.stewards[&of].report(&village.ticket.id(), now).expect("one");
    assert_eq!(report(&village, one).audits.distrusted, []);
    assert!(say(&mut village, one, &auditor, &good));
    assert_eq!(report(&village, one).audits.distrusted, [(slot(2), holder, 1)]);
    // Nor what it says two days later.
    village.now = village.now.plus_ms(2 * DAY);
    let (later, now) = (village.findings(holder, 2, &[5], &[]), village.now);
    assert!(!village.stewards.get_mut(&one).expect("there").found(&auditor, &later, now));
}

#[test]
fn shards_that_five_auditors_did_not_see_are_rebuilt_elsewhere() {
    let mut village = Village::new(7);
    village.accuse(5);
    let holder = village.holder(2);
    for _ in 0..15 * 24 {
        if village.given.is_empty() {
            village.turn();
        }
    }
    match village.carry_out() {
        Action::Rebuild { slot: at, to, helpers, .. } => {
            assert!(at == slot(2) && to != holder && village.of_colour(2).contains(&to));
            assert!(helpers.iter().all(|(_, helper)| *helper != holder));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_slanderers_cost_a_holder_nothing() {
    for slanderers in [1, 2, 4] {
        let mut village = Village::new(7);
        village.accuse(slanderers);
        village.turns(24);
        assert!(village.given.is_empty(), "{slanderers} of seven");
    }
}

#[test]
fn what_is_doubted_is_asked_for_again_and_counts_again_when_it_is_shown_or_a_week_is_over() {
    let mut village = Village::new(1);
    let (holder, me) = (village.holder(2), *village.stewards.keys().next().expect("one"));
    let (group, all): (_, Vec<u8>) = (village.ticket.id(), (0..STRIPES).collect());
    let doubted = |village: &Village| -> usize {
        let report = village.stewards[&me].report(&group, village.now).expect("watched");
        report.audits.distrusted.iter().map(|(.., shards)| shards).sum()
    };
    let drawn = |village: &mut Village| {
        let mut given = village.a_day_of_duties().remove(&me).expect("it");
        given.retain(|(_, duty)| duty.holder == holder);
        given.pop().expect("each day")
    };
    let say = |village: &mut Village, auditor: &PeerKey, missing: &[u8], shown: &[u8]| {
        let (findings, now) = (village.findings(holder, 2, missing, shown), village.now);
        assert!(village.stewards.get_mut(&me).expect("it").found(auditor, &findings, now));
    };
    let (auditor, _) = drawn(&mut village);
    say(&mut village, &auditor, &all, &[]);
    assert_eq!(doubted(&village), usize::from(STRIPES));
    // Its own word does not help, and what was not asked for does not either.
    let (now, has) = (village.now, (0..STRIPES).collect());
    village.stewards.get_mut(&me).expect("it").reported(holder, group, slot(2), &has, now);
    assert_eq!(doubted(&village), usize::from(STRIPES));
    let (auditor, duty) = drawn(&mut village);
    assert_eq!(duty.ordinals.len(), 16, "some of what is doubted, and nothing else");
    let asked: Vec<u8> = duty.ordinals.iter().collect();
    say(&mut village, &auditor, &[], &asked[..5]);
    assert_eq!(doubted(&village), usize::from(STRIPES) - 5);
    say(&mut village, &auditor, &[], &asked[5..]);
    assert_eq!(doubted(&village), 0, "nothing that was asked for is missing");

    let (auditor, duty) = drawn(&mut village);
    assert_eq!(duty.ordinals.len(), usize::from(STRIPES));
    say(&mut village, &auditor, &[3], &[]);
    assert_eq!(doubted(&village), 1);
    // It is known after a restart.
    let state = village.stewards[&me].encode_group(&group).expect("watched");
    let budget = Budget::new(Limits::default(), 10 << 20, village.now);
    let (key, domain) = (village.keys[&me].clone(), village.domain(&me));
    let mut again = Steward::new(key, domain, Rhythm::default(), Watch::new(Timers::default()), budget);
    again.resume(&state, village.now).expect("its own");
    village.stewards.insert(me, again);
    assert_eq!(doubted(&village), 1);
    village.now = village.now.plus_ms(7 * DAY);
    village.hear();
    village.turn();
    assert_eq!(doubted(&village), 0);
}

#[test]
fn an_admitted_loss_is_healed_and_forgiven() {
    let mut village = Village::new(7);
    village.accuse(7);
    let (holder, group, now) = (village.holder(2), village.ticket.id(), village.now);
    let has: Ordinals = (0..STRIPES).filter(|ordinal| *ordinal != 4).collect();
    for steward in village.stewards.values_mut() {
        steward.reported(holder, group, slot(2), &has, now);
    }
    while village.given.is_empty() {
        village.turn();
    }
    match village.carry_out() {
        Action::Rebuild { to, ordinals, .. } => assert_eq!((to, ordinals.len()), (holder, 1)),
        other => panic!("{other:?}"),
    }
    assert!(village.report().audits.distrusted.is_empty());
}

#[test]
fn no_sheet_goes_to_another_colour() {
    let mut village = Village::new(7);
    // A holder of slot 1 that goes by a domain of slot 2's colour now, as the stewards see it.
    let (turncoat, of_two) = (village.holder(1), village.domain(&village.of_colour(2)[3]));
    village.views.retain(|view| view.domain != of_two || view.peer == turncoat);
    let view = village.views.iter_mut().find(|view| view.peer == turncoat).expect("there");
    view.domain = of_two;
    for _ in 0..10 {
        for (auditor, duty) in village.a_day_of_duties().into_values().flatten() {
            let sheet = SlotSheet::open(&duty.sheet, &village.ticket).expect("the owner's");
            let own = colour(&village.ticket, &village.domain(&auditor)).index();
            assert!(own == sheet.slot.index() && auditor != turncoat && auditor != duty.holder);
        }
    }
}

#[test]
fn who_is_new_or_away_or_alone_does_not_audit_and_it_is_said() {
    let mut village = Village::new(3);
    let holder = village.holder(2);
    let others: BTreeSet<PeerKey> = village.of_colour(2).into_iter().filter(|peer| *peer != holder).collect();
    let start = village.now;
    for view in &mut village.views {
        if others.contains(&view.peer) {
            view.first_seen = Timestamp(start.0 - 5 * DAY);
        }
    }
    let to_two = |given: BTreeMap<PeerKey, Vec<(PeerKey, Duty)>>| {
        given.into_values().flatten().filter(|(_, duty)| duty.holder == holder).count()
    };
    let given = village.a_day_of_duties();
    assert_eq!(to_two(given), 0, "known for six days");
    assert_eq!(village.report().audits.owner_only, [slot(2)]);
    village.now = village.now.plus_ms(DAY);
    assert!(to_two(village.a_day_of_duties()) > 0);
    assert!(village.report().audits.owner_only.is_empty());
    village.away.extend(others);
    village.now = village.now.plus_ms(DAY);
    assert_eq!(to_two(village.a_day_of_duties()), 0, "away");
}

#[test]
fn who_will_not_audit_is_passed_over_and_nobody_is_asked_for_ever() {
    let mut village = Village::new(1);
    let (holder, me) = (village.holder(2), *village.stewards.keys().next().expect("one"));
    let group = village.ticket.id();
    let mut asked = Vec::new();
    for _ in 0..2 * 24 * 15 {
        village.now = village.now.plus_ms(4 * 60_000);
        village.hear();
        for (auditor, duty) in village.duties(&me) {
            let sheet = SlotSheet::open(&duty.sheet, &village.ticket).expect("the owner's");
            let now = village.now;
            let steward = village.stewards.get_mut(&me).expect("it");
            steward.audit_declined(&auditor, &group, sheet.slot, &duty.holder, now);
            let findings = Findings { holder: duty.holder, ..village.findings(holder, 2, &[1], &[]) };
            let steward = village.stewards.get_mut(&me).expect("it");
            assert!(!steward.found(&auditor, &Findings { slot: sheet.slot, ..findings }, now), "it would not");
            asked.extend((duty.holder == holder).then_some(auditor));
        }
    }
    let different: BTreeSet<PeerKey> = asked.iter().copied().collect();
    assert!((2..=14).contains(&different.len()) && asked.len() <= 14, "{} {}", different.len(), asked.len());
}

/// That nobody is there for a slot is said once, and again after an auditor missed something of it: that is news as any other.
#[test]
fn that_nobody_is_there_is_said_again_after_shards_were_not_shown() {
    let mut village = Village::new(7);
    let (id, now) = (village.ticket.id(), village.now);
    let first = *village.stewards.keys().next().expect("seven");
    let entries = |village: &mut Village, slot: u8, now| {
        let watched = village.stewards.get_mut(&first).expect("there").groups.get_mut(&id).expect("watched");
        watched.note_no_peer(slot, now);
        let log = village.stewards[&first].report(&id, now).expect("watched").log;
        log.iter().filter(|entry| entry.what == What::NoPeer { slot }).count()
    };
    assert_eq!([1, 1].map(|_| entries(&mut village, 2, now)), [1, 1], "once");
    village.accuse(1);
    let later = village.now;
    assert_eq!([1, 1].map(|_| entries(&mut village, 2, later)), [2, 2]);
    assert_eq!(entries(&mut village, 3, later), 1, "of that slot");
}
