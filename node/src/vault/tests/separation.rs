//! Who makes room in a slot's full row: nobody who may have the only copy of something, and nobody who is forgotten for it.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::placement;
use cairn_proto::{
    Domain, GroupTicket, PeerKey, Slot,
    manifest::{GroupRow, HOLDERS_MAX},
};

use super::{
    memory_overlay::{Manner, subnet},
    *,
};
use crate::vault::{
    catalogue::{Catalogue, holders::FORMER_MAX},
    groups::access_of,
};

fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

fn group(owner: &Owner, number: u32) -> GroupRow {
    catalogue(owner).group(number).expect("readable").expect("there")
}

pub(super) fn ticket(owner: &Owner, row: &GroupRow) -> GroupTicket {
    let keys = Vault::open(&owner.data, None).expect("opens").keys;
    access_of(&keys, row).expect("valid").ticket
}

/// Peers that could take a slot and have none of the group.
fn spare(owner: &Owner, row: &GroupRow, slot: u8) -> Vec<PeerKey> {
    let mut found = owner.overlay.coloured(&ticket(owner, row), Slot::new(slot).expect("a slot"));
    found.retain(|peer| row.holders.iter().flatten().all(|holder| holder != peer));
    found
}

/// The slot's first holder and three that nobody knows: the row is full.
fn fill_row(owner: &Owner, row: &mut GroupRow, slot: u8) -> PeerKey {
    let holders = &mut row.holders[usize::from(slot)];
    holders.truncate(1);
    holders.extend((1..HOLDERS_MAX as u8).map(|at| PeerKey::from_bytes([0xd0 + at; 32])));
    row.sealed = true;
    catalogue(owner).set_group(row).expect("written");
    row.holders[usize::from(slot)][0]
}

/// A run that ends after any of its puts leaves nothing where nobody looks for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_holder_stays_until_somebody_else_has_all_that_it_may_have() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 30 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let rows = catalogue(&owner).groups().collect::<Result<Vec<_>, _>>().expect("readable");
    let mut row = rows.into_iter().max_by_key(|row| row.stripes_used).expect("a group");
    let slot = (0..8).max_by_key(|slot| spare(&owner, &row, *slot).len()).expect("a slot");
    assert!(!spare(&owner, &row, slot).is_empty(), "23 peers more than slots are not all of the ninth colour");
    let (number, id) = (row.number, ticket(&owner, &row).id());
    let sleeper = fill_row(&owner, &mut row, slot);
    let stripes = || {
        let all = catalogue(&owner).stripes().collect::<Result<Vec<_>, _>>().expect("readable");
        let mine = all.into_iter().filter(|s| s.group == number && s.roots[usize::from(slot)].is_some());
        mine.map(|s| (s.no, s.ordinal)).collect::<Vec<_>>()
    };
    assert!(stripes().len() >= 2, "one stripe alone would prove nothing");
    owner.overlay.set_manner(&sleeper, Manner::Dead);
    let mut interrupted = 0;
    loop {
        let cancel = CancellationToken::new();
        owner.overlay.cancel_after(1, cancel.clone());
        let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
        let ran = owner.run_with(Verb::Backup(args), None, None, cancel).await;
        let holders = group(&owner, number).holders[usize::from(slot)].clone();
        assert!(holders.len() <= HOLDERS_MAX);
        for (no, ordinal) in stripes() {
            let found = holders.iter().any(|peer| owner.overlay.has(peer, id, slot, ordinal));
            assert!(found, "after {interrupted} runs nobody in the row has stripe {}", no.0);
        }
        if ran.code() != ExitCode::Interrupted || !holders.contains(&sleeper) {
            break;
        }
        interrupted += 1;
        assert!(interrupted < 100, "each run gives one shard at least");
    }
    owner.overlay.cancel_after(u64::MAX, CancellationToken::new());
    owner.backup().await;
    let holders = group(&owner, number).holders[usize::from(slot)].clone();
    assert!(!holders.contains(&sleeper), "in the end somebody else has its place");
    let short = catalogue(&owner).short().expect("readable");
    assert!(stripes().iter().all(|(no, _)| short.iter().all(|(other, _)| other != no)), "{short:?}");
    owner.overlay.assert_separated();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_with_four_silent_holders_is_filled_in_one_run() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 30 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let mut row = group(&owner, 1);
    let slot = (0..8).max_by_key(|slot| spare(&owner, &row, *slot).len()).expect("a slot");
    let sleeper = fill_row(&owner, &mut row, slot);
    owner.overlay.set_manner(&sleeper, Manner::Dead);
    owner.backup().await;
    let stripes = catalogue(&owner).stripes().collect::<Result<Vec<_>, _>>().expect("readable");
    let mine: BTreeSet<_> = stripes.iter().filter(|s| s.group == 1).map(|s| s.no).collect();
    assert!(mine.len() >= 2);
    let short = catalogue(&owner).short().expect("readable");
    assert!(short.iter().all(|(no, _)| !mine.contains(no)), "{short:?}");
    owner.overlay.assert_separated();
}

/// SEP-3 over time: who had a slot and left its row still had it.
#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_had_a_slot_gets_no_other_one() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let mut row = group(&owner, 1);
    // The stripe may be a short one: some of its slots are virtual.
    let stripe = catalogue(&owner).stripes().next().expect("one").expect("readable");
    let mut slots: Vec<u8> = stripe.present().map(|(slot, _)| slot.as_u8()).collect();
    slots.sort_by_key(|slot| std::cmp::Reverse(spare(&owner, &row, *slot).len()));
    let (first, second) = (slots[0], slots[1]);
    let neighbour = *spare(&owner, &row, second).first().expect("23 peers more than slots");
    assert!(!spare(&owner, &row, first).is_empty());
    let left = fill_row(&owner, &mut row, first);
    owner.overlay.move_to_subnet_of(&neighbour, &left);
    // It lost everything and takes nothing more, so it leaves the row.
    owner.overlay.lose_shards(&left);
    owner.overlay.set_manner(&left, Manner::Full);
    owner.backup().await;
    assert!(!group(&owner, 1).holders[usize::from(first)].contains(&left), "it made room");
    // A new catalogue does not make us forget.
    owner.recover().await.expect(ExitCode::Success);
    // The other slot's holder loses its shards as well, and of its colour only the neighbour has room.
    for peer in owner.overlay.coloured(&ticket(&owner, &row), Slot::new(second).expect("a slot")) {
        if peer != neighbour {
            owner.overlay.set_manner(&peer, Manner::Full);
        }
    }
    owner.overlay.lose_shards(&row.holders[usize::from(second)][0]);
    owner.backup().await.expect(ExitCode::BelowTarget);
    owner.overlay.assert_separated();
    let short = catalogue(&owner).short().expect("readable");
    assert!(short.iter().any(|(no, lacking)| *no == stripe.no && lacking.contains(&second)), "{short:?}");
}

/// Offered is offered, even if it was never acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn who_failed_before_it_took_anything_is_remembered() {
    let owner = Owner::new(240);
    let mut peers = owner.overlay.shared().peers(true).await.expect("known");
    // Two in each subnet; one of them speaks for it.
    for (at, view) in peers.iter_mut().enumerate() {
        view.subnet = Some(subnet((at / 2) as u8));
    }
    let subnets: BTreeMap<PeerKey, Domain> =
        peers.iter().filter_map(|view| Some((view.peer, view.subnet.clone()?))).collect();
    let keys = Vault::open(&owner.data, None).expect("opens").keys;
    let me = placement::Owner { peer: owner.overlay.shared().me(), domain: owner.overlay.shared().my_domain() };
    let groups = groups_of(keys.clone(), me.clone(), peers.clone(), 1);
    let place = groups.take_place(None).expect("a place");
    let mut offered: BTreeMap<u8, BTreeSet<PeerKey>> = BTreeMap::new();
    for slot in 0..8u8 {
        let mut tried = BTreeSet::new();
        while let Some(peer) = groups.next_holder(place.group, slot.into(), &tried) {
            tried.insert(peer);
            groups.peer_failed(peer);
        }
        offered.insert(slot, tried);
    }
    let row = groups.current(place.group).expect("a row");
    let unrecorded = groups.unrecorded_formers();
    assert_eq!(groups.unrecorded_formers(), unrecorded, "a write that failed is made up for");
    let formers: BTreeMap<_, _> = unrecorded.iter().cloned().collect();
    let remembered = &formers[&place.group];
    let in_row = row.holders.iter().map(Vec::len).sum::<usize>();
    let known = |slot: usize, peer: &PeerKey| remembered.iter().any(|f| usize::from(f.slot) == slot && f.peer == *peer);
    let replaced = row.holders.iter().enumerate().filter(|(slot, held)| held.last().is_some_and(|p| known(*slot, p)));
    assert!(replaced.count() > 0, "who is to enter a row is remembered before a row says so");
    let all = offered.values().map(BTreeSet::len).sum::<usize>();
    assert!(all > in_row, "some had to leave");
    assert!(remembered.len() <= FORMER_MAX && all <= in_row + remembered.len(), "{all} {in_row} {}", remembered.len());
    // The next run, which knows the catalogue's rows only.
    catalogue(&owner).set_formers(place.group, remembered).expect("written");
    let older = vec![(place.group, remembered[1..].to_vec())];
    groups.formers_recorded(&older);
    assert_eq!(groups.unrecorded_formers(), unrecorded, "the list grew since");
    groups.formers_recorded(&unrecorded);
    assert!(groups.unrecorded_formers().is_empty());
    let later = groups_of(keys, me, peers, 2);
    later.learn_formers(catalogue(&owner).formers().expect("readable"));
    let mut found = 0;
    for slot in 0..8u8 {
        let elsewhere: BTreeSet<_> =
            offered.iter().filter(|(at, _)| **at != slot).flat_map(|(_, o)| o).map(|p| &subnets[p]).collect();
        let candidates = later.candidates(&row, slot.into(), &BTreeSet::new());
        found += candidates.len();
        assert!(candidates.iter().all(|peer| !elsewhere.contains(&subnets[peer])), "slot {slot}");
    }
    assert!(found > 0, "others are left");
}
