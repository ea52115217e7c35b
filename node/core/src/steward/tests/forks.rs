//! Committees that changed in two ways at once, and owners who leave a new mandate.

use super::*;

fn committee(village: &Village, of: &PeerKey) -> Vec<PeerKey> {
    let report = village.stewards[of].report(&village.ticket.id(), village.now).expect("watched");
    report.stewards.into_iter().map(|(peer, _)| peer).collect()
}

/// What this steward tells of its map.
fn map_of(village: &Village, of: &PeerKey) -> Say {
    village.stewards[of].groups[&village.ticket.id()].map_message()
}

#[test]
fn two_changes_at_once_end_as_one_committee_everywhere() {
    for longer in [false, true] {
        let mut village = Village::new(7);
        let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
        let new = village.of_colour(5)[7..10].to_vec();
        let change = |village: &Village, nonce: u8, old: usize, new: PeerKey| {
            let order = village.order(nonce, Action::Replace { old: peers[old], new });
            village.certificate(&order, peers.iter().copied().take(4))
        };
        let (one, two) = (change(&village, 1, 5, new[0]), change(&village, 2, 6, new[1]));
        let lower = if one.order.id().ok() < two.order.id().ok() { new[0] } else { new[1] };
        village.tell(peers[2], peers[0], Say::Certified { certificate: one });
        village.tell(peers[2], peers[1], Say::Certified { certificate: two });
        assert_ne!(committee(&village, &peers[0]), committee(&village, &peers[1]));
        let mut wins = lower;
        if longer {
            // The first of the village is `order`'s committee: one more change there.
            let third = change(&village, 3, 4, new[2]);
            village.tell(peers[2], peers[0], Say::Certified { certificate: third });
            assert!(committee(&village, &peers[0]).contains(&new[2]));
            wins = new[0];
        }
        let (a, b) = (map_of(&village, &peers[0]), map_of(&village, &peers[1]));
        village.tell(peers[0], peers[1], a);
        village.tell(peers[1], peers[0], b);
        assert_eq!(committee(&village, &peers[0]), committee(&village, &peers[1]));
        assert!(committee(&village, &peers[0]).contains(&wins));
        assert_eq!(map_of(&village, &peers[0]), map_of(&village, &peers[1]));
    }
}

#[test]
fn under_a_new_mandate_old_entries_hold_for_new_stewards_and_orders_go_on() {
    let mut village = Village::new(7);
    village.away.insert(village.holder(2));
    while village.given.is_empty() {
        village.turn();
    }
    village.carry_out();
    while village.given.is_empty() {
        village.turn();
    }
    let group = village.ticket.id();
    let mut named: Vec<PeerKey> = village.stewards.keys().copied().collect();
    let newcomer = village.of_colour(5)[9];
    named[6] = newcomer;
    let record = village.record(&named, 2);
    let now = village.now;
    let giver = named[0];
    for peer in named.iter().take(6) {
        let steward = village.stewards.get_mut(peer).expect("there");
        assert_eq!(steward.adopt(record.clone(), &[], owner(), now), Ok(()));
        assert_eq!(steward.report(&group, now).expect("watched").under_way, 1);
    }
    let budget = Budget::new(Limits::default(), 10 << 20, now);
    let (key, domain) = (village.keys[&newcomer].clone(), village.domain(&newcomer));
    let steward = Steward::new(key, domain, Rhythm::default(), Watch::new(Timers::default()), budget);
    village.stewards.insert(newcomer, steward);
    let whole = village.stewards[&giver].groups[&group].whole();
    village.tell(giver, newcomer, whole);
    let entries = |village: &Village| village.stewards[&newcomer].map_for_owner(&group).expect("watched");
    assert_eq!(
        (entries(&village).entries.len(), entries(&village).past.len()),
        (1, 1),
        "checked by the mandate it rests on"
    );
    // What is under way by the old mandate is carried out and believed, also by who did not know of it.
    village.carry_out();
    let certificate_of = |say: Say| match say {
        Say::Map { entries, .. } => entries,
        other => panic!("{other:?}"),
    };
    for (certificate, sealed) in certificate_of(map_of(&village, &giver)) {
        village.tell(giver, newcomer, Say::Taken { certificate, sealed });
    }
    assert_eq!(entries(&village).entries.len(), 2);
    // It survives a crash.
    let bytes = village.stewards[&newcomer].encode_group(&group).expect("watched");
    let budget = Budget::new(Limits::default(), 10 << 20, now);
    let (key, domain) = (village.keys[&newcomer].clone(), village.domain(&newcomer));
    let mut again = Steward::new(key, domain, Rhythm::default(), Watch::new(Timers::default()), budget);
    assert_eq!(again.resume(&bytes, now), Ok(group));
    assert_eq!(again.map_for_owner(&group), village.stewards[&newcomer].map_for_owner(&group));
    // The owner's next word says who holds it: then nothing rests on the old mandate any more.
    let holder = entries(&village).entries[0].0.order.action.to().expect("of shards");
    let views = village.views.clone();
    let of_slot = village.of_colour(2);
    village.views.retain(|view| view.peer == holder || !of_slot.contains(&view.peer));
    let newer = village.record(&named, 3);
    village.views = views;
    assert_eq!(village.stewards.get_mut(&giver).expect("there").adopt(newer, &[], owner(), now), Ok(()));
    let map = village.stewards[&giver].map_for_owner(&group).expect("watched");
    assert_eq!((map.entries.len(), map.past.len()), (0, 0));
}
