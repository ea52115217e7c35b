//! How long repairs took, as each steward counts it (`durability::repairs`).

use super::*;

const DAY: f64 = 24.0 * HOUR as f64;

/// The oldest orders are carried out until the slot has all of its stripes again; when the last one was.
fn until_whole(village: &mut Village, at: u8) -> Timestamp {
    let mut last = village.now;
    for _ in 0..24 * 15 * 10 {
        while !village.given.is_empty() {
            village.carry_out();
            last = village.now;
        }
        let new = |(peer, _, has, wanted): &(PeerKey, _, usize, usize)| has == wanted && !village.away.contains(peer);
        if village.report().slots[usize::from(at)].iter().any(new) {
            return last;
        }
        village.turn();
    }
    panic!("not repaired: {:?}", village.report().log);
}

fn counted(village: &Village) -> Vec<(u32, u32, f64)> {
    let figures = village.stewards.values().map(|steward| steward.repairs(village.now).figures());
    figures.map(|figures| (figures.repairs, figures.open, figures.mean_days * DAY)).collect()
}

/// From the last sign of life of whoever was lost to the look that finds the slot whole.
#[test]
fn a_repair_takes_from_the_last_sign_of_life_until_the_slot_is_whole() {
    let mut village = Village::new(7);
    village.turns(1);
    let silent_since = village.now;
    village.away.insert(village.holder(2));
    // Nobody does as told, until it is gone beyond doubt; orders lapse meanwhile.
    for _ in 0..8 * 24 * 15 {
        village.turn();
        village.given.clear();
        assert!(counted(&village).iter().all(|(repairs, ..)| *repairs == 0));
    }
    let so_far = village.now.ms_since(silent_since) as f64;
    for (_, open, took) in counted(&village) {
        assert_eq!(open, 1, "it is lost and not repaired");
        assert!((took - so_far).abs() <= 2.0 * village.step_ms as f64, "{took} of {so_far}");
    }
    let last = until_whole(&mut village, 2);
    village.turn();
    village.turn();
    let took = last.ms_since(silent_since) as f64;
    for (repairs, open, counted) in counted(&village) {
        assert_eq!((repairs, open), (1, 0));
        assert!((0.0..=2.0 * village.step_ms as f64).contains(&(counted - took)), "{counted} for {took}");
    }
    // Nothing is counted twice, and it survives a restart.
    village.turns(6);
    for steward in village.stewards.values() {
        let kept = steward.repairs(Timestamp(0)).encode();
        let again = crate::durability::repairs::RepairTimes::decode(&kept).expect("its own");
        assert_eq!((again.figures().repairs, again), (1, steward.repairs(village.now)));
    }
}

/// Of a holder that says that it leaves: from when that is known.
#[test]
fn a_departure_takes_from_its_notice() {
    let mut village = Village::new(7);
    village.turns(1);
    let (leaver, group) = (village.holder(2), village.ticket.id());
    let (at, noticed) = (village.now.plus_ms(24 * HOUR), village.now);
    village.stewards.values_mut().for_each(|steward| drop(steward.leaving(leaver, at, &[group], noticed)));
    while village.given.is_empty() {
        village.turn();
    }
    // The new holder takes its time.
    (0..10).for_each(|_| village.turn());
    let last = {
        let mut last = village.now;
        for _ in 0..24 * 15 {
            while !village.given.is_empty() {
                village.carry_out();
                last = village.now;
            }
            village.turn();
        }
        last
    };
    let took = last.ms_since(noticed) as f64;
    assert!(took >= 40.0 * 60_000.0, "{took}");
    for (repairs, open, counted) in counted(&village) {
        assert_eq!((repairs, open), (1, 0));
        assert!((counted - took).abs() <= 2.0 * village.step_ms as f64, "{counted} for {took}");
    }
}
