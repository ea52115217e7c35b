//! Whose turn it is by another's reckoning, and what becomes of those who let the others wait.

use super::*;

const SUBJECT: Subject = Subject::Slot(2);

/// The stewards that somebody would sign for now.
fn may_propose(village: &Village, me: &PeerKey, now: Timestamp) -> Vec<PeerKey> {
    let steward = &village.stewards[me];
    let group = &steward.groups[&village.ticket.id()];
    let rhythm = Rhythm::default();
    let may = |from: &&PeerKey| group.may_be_turn_of(from, me, &SUBJECT, &steward.watch, now, &rhythm);
    village.stewards.keys().filter(may).copied().collect()
}

#[test]
fn out_of_turn_nobody_signs_and_after_a_while_for_anybody() {
    let mut village = Village::new(7);
    let me = *village.stewards.keys().next().expect("one");
    let start = village.now;
    let group = village.ticket.id();
    let steward = village.stewards.get_mut(&me).expect("there");
    // It is wanted from now on.
    let watched = steward.groups.get_mut(&group).expect("watched");
    watched.is_our_turn(&me, SUBJECT, &steward.watch, start, &Rhythm::default());
    assert_eq!(may_propose(&village, &me, start).len(), 2, "the first, and the next by a clock that is ahead");
    let later = |turns: u64| start.plus_ms(turns * 600_000);
    assert_eq!(may_propose(&village, &me, later(2)).len(), 4);
    assert_eq!(may_propose(&village, &me, later(6)).len(), 7);
}

#[test]
fn who_lets_a_proposal_fail_comes_last_and_waits_longer_each_time() {
    let mut village = Village::new(7);
    village.away.insert(village.holder(2));
    let me = *village.stewards.keys().next().expect("one");
    let mut now = village.now;
    let group = village.ticket.id();
    let first = may_propose(&village, &me, now);
    let bad = *first.iter().find(|peer| **peer != me).expect("two of them");
    let rhythm = Rhythm::default();
    let mut waits = Vec::new();
    for round in 0..5u8 {
        let order = village.order(round, village.rebuild(village.ranked(2)[0], &[0]));
        let steward = village.stewards.get_mut(&me).expect("there");
        let watched = steward.groups.get_mut(&group).expect("watched");
        let until = now.plus_ms(240_000);
        watched.promise(&order, order.id().expect("valid"), bad, until);
        assert!(!watched.is_free(&SUBJECT, now) && watched.is_free(&SUBJECT, until));
        watched.clear_up(&me, until, &rhythm);
        now = until;
        let failed = now;
        assert!(!may_propose(&village, &me, now).contains(&bad) && !may_propose(&village, &me, now).is_empty());
        while !may_propose(&village, &me, now).contains(&bad) {
            now = now.plus_ms(60_000);
        }
        waits.push(now.ms_since(failed));
    }
    // The first wait is for the turns of all others.
    assert!(waits[1..].is_sorted() && waits[4] > 4 * waits[1] && waits[4] > 4 * HOUR, "{waits:?}");
}

/// A slot is lost, and wanted for so long that it is everybody's turn; nobody proposed, so nothing was signed. Who may have it, and the stewards in
/// the order of their lots.
fn lost_for_hours(village: &mut Village) -> (PeerKey, Vec<PeerKey>) {
    let lost = village.holder(2);
    village.away.insert(lost);
    let group = village.ticket.id();
    let mut standing: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let first = standing[0];
    // Three hours.
    for _ in 0..36 {
        village.now = village.now.plus_ms(5 * 60_000);
        let now = village.now;
        for steward in village.stewards.values_mut() {
            let everybody: Vec<PeerKey> =
                village.views.iter().map(|view| view.peer).filter(|peer| *peer != lost).collect();
            everybody.into_iter().for_each(|peer| steward.heard(peer, now));
            let watched = steward.groups.get_mut(&group).expect("watched");
            watched.is_our_turn(&first, SUBJECT, &steward.watch, now, &Rhythm::default());
        }
    }
    village.views.iter_mut().for_each(|view| view.last_heard = village.now);
    let any = &village.stewards[&first].groups[&group];
    standing.sort_by_key(|peer| any.standing(peer, &SUBJECT));
    (village.ranked(2)[0], standing)
}

/// One proposal at a time is signed, and why another was not its own people can see.
#[test]
fn what_was_not_signed_is_told() {
    let mut village = Village::new(7);
    let (to, standing) = lost_for_hours(&mut village);
    let (second, third, voter) = (standing[1], standing[2], standing[5]);
    let order = |village: &Village, nonce| village.order(nonce, village.rebuild(to, &[0]));
    let (b, c) = (order(&village, 2), order(&village, 3));
    assert!(village.signs(voter, second, &b));
    assert!(!village.signs(voter, second, &c), "one of each at a time");
    assert!(!village.signs(voter, third, &c), "who comes after it waits");
    // Why it did not, its own people can see; what strangers say leaves nothing.
    let stranger = village.holder(4);
    assert!(!village.signs(voter, stranger, &c));
    let report = village.stewards[&voter].report(&village.ticket.id(), village.now).expect("watched");
    let refused: Vec<(PeerKey, Objection)> = report.refused.iter().map(|refused| (refused.from, refused.why)).collect();
    assert_eq!(refused, [(second, Objection::Busy), (third, Objection::Busy)]);
    for _ in 0..100 {
        assert!(!village.signs(voter, second, &c));
    }
    let report = village.stewards[&voter].report(&village.ticket.id(), village.now).expect("watched");
    assert_eq!(report.refused.len(), 16);
    let waits: Vec<Subject> = report.waits.iter().map(|wait| wait.about).collect();
    assert!(waits.contains(&SUBJECT), "{waits:?}");
}

/// Several propose at once, each with the signatures of some: who comes first gets those of all, and nobody after it gets one more.
#[test]
fn who_comes_first_is_signed_for_also_after_another() {
    let mut village = Village::new(7);
    let (to, standing) = lost_for_hours(&mut village);
    let (first, second, third, voter) = (standing[0], standing[1], standing[2], standing[5]);
    let order = |village: &Village, nonce| village.order(nonce, village.rebuild(to, &[0]));
    let (a, b, c) = (order(&village, 1), order(&village, 2), order(&village, 3));
    assert!(village.signs(voter, second, &b));
    assert!(!village.signs(voter, second, &c), "one of each at a time");
    assert!(!village.signs(voter, third, &c), "who comes after it waits");
    assert!(village.signs(voter, first, &a), "who comes before it does not");
    assert!(!village.signs(voter, second, &c), "and that stands");
    // What is under way already stands against everybody.
    let other = standing[6];
    assert!(village.signs(other, second, &b));
    let certificate = village.certificate(&b, standing.iter().copied().take(5));
    let now = village.now;
    let watched =
        village.stewards.get_mut(&other).expect("there").groups.get_mut(&village.ticket.id()).expect("watched");
    assert!(watched.certified(certificate, second, &|_| true, now));
    assert!(!village.signs(other, first, &a));
}

#[test]
fn a_months_bytes_are_not_one_stewards_to_use_up() {
    let mut village = Village::new(7);
    let group = village.ticket.id();
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let order = village.order(1, village.rebuild(village.ranked(2)[0], &[0, 1, 2, 3, 4, 5, 6, 7]));
    let now = village.now;
    let watched = village.stewards.get_mut(&peers[0]).expect("there").groups.get_mut(&group).expect("watched");
    let bytes = watched.cost(&order.action);
    let mut signed = 0;
    while watched.affords(&peers[1], bytes) {
        watched.promise(&order, order.id().expect("valid"), peers[1], now);
        signed += bytes;
    }
    assert!(signed <= (1 << 30) / 4 && signed > (1 << 30) / 5);
    assert!(watched.affords(&peers[2], bytes));
    // What became of an order and then came to nothing is not spent, and blames who proposed it.
    let certificate = village.certificate(&order, peers.iter().copied().take(5));
    let to = order.action.to().expect("of shards");
    let watched = village.stewards.get_mut(&peers[0]).expect("there").groups.get_mut(&group).expect("watched");
    let count = |watched: &watched::Watched| {
        let mut most = 0;
        let mut copy = watched.clone();
        while copy.affords(&peers[3], bytes) && most < 100 {
            copy.promise(&order, [9; 32], peers[3], now);
            most += 1;
        }
        most
    };
    let before = count(watched);
    assert!(watched.certified(certificate, peers[1], &|_| true, now));
    let rhythm = Rhythm::default();
    let silence = Silence { peers: &[], late_ms: 0, rhythm: &rhythm, now };
    assert!(watched.failed(&to, &order.id().expect("valid"), Failure::Refused, &silence, now));
    assert_eq!((count(watched), watched.busy()), (before, 0));
    let report = village.stewards[&peers[0]].report(&group, now).expect("watched");
    assert!(matches!(report.log.last().expect("some").what, What::Failed { why: Some(Failure::Refused), .. }));
}
