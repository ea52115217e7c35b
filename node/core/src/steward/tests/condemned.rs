//! Who was proved to have lied counts no more, however well it answers.

use super::*;

fn condemn(village: &mut Village, liars: &[PeerKey]) {
    let now = village.now;
    for steward in village.stewards.values_mut() {
        steward.condemn(liars.iter().copied().collect(), now);
    }
}

#[test]
fn a_liars_slot_is_made_again_elsewhere_without_it() {
    let mut village = Village::new(7);
    village.turns(1);
    assert!(village.given.is_empty(), "nothing is wanted");
    let liar = village.holder(2);
    condemn(&mut village, &[liar]);
    village.turn();
    let report = village.report();
    assert_eq!(report.assessment.live_slots, 4, "it answers, and what it has does not count: {report:?}");
    let mut made = Ordinals::default();
    while made.len() < usize::from(STRIPES) {
        for _ in 0..24 * 15 {
            if village.given.is_empty() {
                village.turn();
            }
        }
        assert!(!village.given.is_empty(), "{} of {STRIPES} were ordered", made.len());
        let action = village.carry_out();
        let Action::Rebuild { slot: of, to, ordinals, helpers } = action else { panic!("of a liar's: {action:?}") };
        assert!(of == slot(2) && to != liar && helpers.iter().all(|(_, peer)| *peer != liar));
        made = ordinals.iter().chain(made.iter()).collect();
    }
    village.turns(1);
    assert_eq!(village.report().assessment.live_slots, 5);
    // It was a mistake of ours, say: what it has counts again.
    condemn(&mut village, &[]);
    village.turn();
    assert!(village.report().assessment.copies[2] > 1.5);
}

#[test]
fn a_liar_among_the_stewards_is_replaced() {
    let mut village = Village::new(7);
    village.turns(1);
    let liar = *village.stewards.keys().next().expect("some");
    condemn(&mut village, &[liar]);
    village.away.insert(liar);
    village.turns(2);
    let report = village.report();
    assert!(!report.stewards.iter().any(|(peer, ..)| *peer == liar), "{report:?}");
}

/// Who is only distrusted is asked where nobody else has it, and else left out.
#[test]
fn a_distrusted_peer_helps_only_where_it_must() {
    let mut village = Village::new(7);
    let (lost, poor) = (village.holder(2), village.holder(1));
    village.away.insert(lost);
    for view in village.views.iter_mut().filter(|view| view.peer == poor) {
        view.reputation = 499;
    }
    // Until the first order: it stands for hours only.
    for _ in 0..24 * 15 * 8 {
        if village.given.is_empty() {
            village.turn();
        }
    }
    assert!(!village.given.is_empty());
    let Action::Rebuild { helpers, .. } = village.carry_out() else { panic!("nobody has it") };
    assert!(helpers.iter().all(|(_, peer)| *peer != poor), "there are three others");
    village.away.insert(village.holder(0));
    village.given.clear();
    village.turns(24 * 8);
    let named = village.given.iter().any(|effect| {
        let Effect::Give { credentials, .. } = effect else { return false };
        matches!(&credentials.certificate.order.action, Action::Rebuild { helpers, .. } if helpers.iter().any(|(_, peer)| *peer == poor))
    });
    assert!(named, "of four that are left three must");
}
