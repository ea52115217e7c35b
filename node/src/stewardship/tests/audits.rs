//! Auditing without the owner, end to end in memory: stewards draw auditors, these ask holders, what they find changes what is ordered.

use std::sync::{Arc, Mutex};

use cairn_core::{
    colour::may_hold,
    reputation::{Observed, Reputation},
    steward::wire::{Answer, Duty, Findings, Refusal, Request},
};
use cairn_proto::{PeerKey, SlotSheet, Timestamp, audit::Evidence};

use super::village::{Lie, Opinions, Village, slot};

/// Everybody of slot 2's colour audits, but its first holder, which dropped so many of its two shards and says that it has them.
async fn with_a_liar(lie: Lie, dropped: u8) -> (Village, PeerKey, Arc<Opinions>) {
    let village = Village::settled(2).await;
    let (liar, opinions) = (village.holder(2, 0), Arc::new(Opinions::default()));
    let of_two = village.of_colour(2);
    of_two.iter().filter(|peer| **peer != liar).for_each(|peer| village.audits(*peer, &opinions));
    village.world.liars.lock().expect("liars").insert(liar, lie);
    village.world.shelves[&liar].shards.lock().expect("shelf").retain(|(_, ordinal), _| *ordinal >= dropped);
    (village, liar, opinions)
}

/// Receipts as the holders signed them, and each auditor with an opinion of its own. The first holder of slot 2 dropped so many of its two
/// shards before anybody saw them.
async fn who_signed_and_dropped(lie: Lie, dropped: u8) -> (Village, PeerKey, Vec<Arc<Opinions>>) {
    let village = Village::new(2).with_receipts(|village, receipt| village.signed_by(&receipt.holder.clone(), receipt));
    let village = village.settle().await;
    let (cheat, mut minds) = (village.holder(2, 0), Vec::new());
    for peer in village.of_colour(2).into_iter().filter(|peer| *peer != cheat) {
        let mind = Arc::default();
        village.audits(peer, &mind);
        minds.push(mind);
    }
    village.world.liars.lock().expect("liars").insert(cheat, lie);
    village.world.shelves[&cheat].shards.lock().expect("shelf").retain(|(_, ordinal), _| *ordinal >= dropped);
    (village, cheat, minds)
}

fn against(minds: &[Arc<Opinions>], peer: PeerKey, blame: Observed) -> usize {
    minds.iter().filter(|mind| mind.saw.lock().expect("saw").contains(&(peer, blame))).count()
}

/// Whether an auditor would still give it a shard, by what it saw itself.
fn is_fine(mind: &Opinions, peer: PeerKey) -> bool {
    let (mut figures, now) = (Reputation::new(), Timestamp(1_000 * 24 * 3_600_000));
    figures.known_since(&peer, Timestamp(0));
    let saw = mind.saw.lock().expect("saw");
    saw.iter().filter(|(of, _)| *of == peer).for_each(|(_, seen)| figures.observe(peer, *seen, now));
    figures.standing(&peer, 90, now).eligible
}

async fn is_replaced(village: &Village, liar: PeerKey) {
    village.until("another has the slot", async |v| v.heir().is_some()).await;
    assert_ne!(village.heir(), Some(liar));
    let word = |line: &String| line.starts_with(&liar.short());
    let mut doubting = 0;
    for steward in &village.stewards {
        let running = village.world.running.lock().expect("running")[steward].clone();
        doubting += usize::from(running.report().await[0].not_shown.iter().any(word));
    }
    assert!(doubting >= 5, "an order takes five: {doubting}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_tells_stewards_one_thing_and_auditors_another_is_replaced() {
    let (village, liar, _) = with_a_liar(Lie::Admits, 2).await;
    is_replaced(&village, liar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_keeps_silent_about_what_it_dropped_is_replaced() {
    let (village, liar, opinions) = with_a_liar(Lie::Hides, 1).await;
    is_replaced(&village, liar).await;
    let saw = opinions.saw.lock().expect("saw");
    assert!(saw.contains(&(liar, Observed::Good)));
    // Its owner brought it what it hides and no receipt, so no steward has its word for that: it loses the slot and not its name.
    assert!(!saw.contains(&(liar, Observed::Withheld)));
    let good = |peer: &PeerKey| *peer == liar || *peer == village.holder(2, 1);
    assert!(saw.iter().all(|(peer, _)| good(peer) || village.heir() == Some(*peer)), "nobody else is judged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dropped_what_its_owner_brought_before_anybody_saw_it_loses_its_name_at_five_auditors() {
    let (village, cheat, minds) = who_signed_and_dropped(Lie::Hides, 1).await;
    is_replaced(&village, cheat).await;
    village.until("five know it", async |_| against(&minds, cheat, Observed::Withheld) >= 5).await;
    let honest = village.holder(2, 1);
    for mind in &minds {
        let blames = mind.saw.lock().expect("saw").contains(&(cheat, Observed::Withheld));
        assert_eq!(is_fine(mind, cheat), !blames, "once is enough");
        assert!(is_fine(mind, honest));
    }
    for blame in [Observed::Withheld, Observed::NotHere] {
        assert_eq!(against(&minds, honest, blame), 0, "it signed the same and shows it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dropped_everything_and_says_so_when_asked_is_blamed_by_who_never_saw_it() {
    let (village, cheat, minds) = who_signed_and_dropped(Lie::Admits, 2).await;
    is_replaced(&village, cheat).await;
    village.until("five know it", async |_| against(&minds, cheat, Observed::NotHere) >= 5).await;
    assert_eq!(against(&minds, village.holder(2, 1), Observed::NotHere), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_that_an_owner_made_up_are_held_against_nobody() {
    // Each is signed by the other holder of its slot.
    let village = Village::new(2).with_receipts(|village, receipt| {
        let holders = village.record.sheets[receipt.slot.index()].holders.clone();
        let other = holders.into_iter().find(|peer| *peer != receipt.holder).expect("two");
        village.signed_by(&other, receipt)
    });
    let village = village.settle().await;
    let (honest, opinions) = (village.holder(2, 0), Arc::new(Opinions::default()));
    let of_two = village.of_colour(2);
    of_two.iter().filter(|peer| **peer != honest).for_each(|peer| village.audits(*peer, &opinions));
    // It never got anything, and says so.
    village.world.liars.lock().expect("liars").insert(honest, Lie::Admits);
    village.world.shelves[&honest].shards.lock().expect("shelf").clear();
    is_replaced(&village, honest).await;
    let saw = opinions.saw.lock().expect("saw");
    assert!(!saw.iter().any(|(peer, seen)| *peer == honest && !matches!(seen, Observed::Good | Observed::Silent)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_signs_what_it_has_not_got_is_replaced_and_proved_a_liar() {
    let (village, liar, opinions) = with_a_liar(Lie::Signs, 2).await;
    is_replaced(&village, liar).await;
    let learned = opinions.learned.lock().expect("learned");
    let proves = |evidence: &Evidence| cairn_core::audit::convict(evidence).is_ok_and(|lie| *lie.subject() == liar);
    assert!(learned.iter().any(proves));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_holder_keeps_its_slot_whatever_two_auditors_and_strangers_say() {
    let village = Village::settled(2).await;
    let opinions = Arc::new(Opinions::default());
    village.of_colour(2).into_iter().for_each(|peer| village.audits(peer, &opinions));
    let duties: Arc<Mutex<Vec<(PeerKey, PeerKey, Duty)>>> = Arc::default();
    let noted = Arc::clone(&duties);
    *village.world.spy.lock().expect("spy") = Some(Box::new(move |from, to, request| {
        if let Request::Duty(duty) = request {
            noted.lock().expect("duties").push((*from, *to, (**duty).clone()));
        }
    }));
    let honest = village.holder(2, 0);
    let drawn = |steward: &PeerKey| {
        let duties = duties.lock().expect("duties");
        duties.iter().find(|(from, _, duty)| from == steward && duty.holder == honest).map(|(_, auditor, _)| *auditor)
    };
    let slanderers = [village.stewards[0], village.stewards[1]];
    village.until("two have drawn", async |_| slanderers.iter().all(|steward| drawn(steward).is_some())).await;
    let findings = |slot_of: u8| {
        Request::Findings(Box::new(Findings {
            group: village.world.ticket.id(),
            slot: slot(slot_of),
            holder: honest,
            good: 0,
            silent: 9,
            missing: [0, 1].into_iter().collect(),
            shown: [].into_iter().collect(),
            proof: None,
        }))
    };
    for steward in &slanderers {
        let auditor = drawn(steward).expect("just seen");
        assert_eq!(village.handle(*steward, auditor, findings(2)).await, Answer::Done);
        assert_eq!(village.handle(*steward, auditor, findings(3)).await, Answer::Refused(Refusal::NotSteward));
    }
    // Whom nobody drew is not heard by anybody, whoever it is.
    for steward in &village.stewards {
        for stranger in [village.holder(3, 0), village.stewards[2]] {
            let answer = village.handle(*steward, stranger, findings(2)).await;
            assert_eq!(answer, Answer::Refused(Refusal::NotSteward));
        }
    }
    let doubts = async |steward: &PeerKey| {
        let running = village.world.running.lock().expect("running")[steward].clone();
        running.report().await[0].not_shown.len()
    };
    assert_eq!((doubts(&slanderers[0]).await, doubts(&village.stewards[2]).await), (1, 0));
    for _ in 0..90 {
        village.step().await;
    }
    assert_eq!(village.heir(), None, "two of seven");
    assert!(village.world.fetched.lock().expect("fetched").is_empty());
    let saw = opinions.saw.lock().expect("saw");
    // On a machine that is too busy to answer somebody may have been silent.
    let fine = |seen: &Observed| matches!(seen, Observed::Good | Observed::Silent);
    assert!(saw.contains(&(honest, Observed::Good)) && saw.iter().all(|(_, seen)| fine(seen)));
    // SEP-1, over all that was sent.
    let duties = duties.lock().expect("duties");
    for (_, auditor, duty) in duties.iter() {
        let sheet = SlotSheet::open(&duty.sheet, &duty.ticket).expect("the owner's");
        assert!(may_hold(&duty.ticket, &village.world.domains[auditor], sheet.slot));
    }
}
