//! What stewards repaired while the owner was away is found by whoever has the keys, and nothing that they make up is believed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cairn_proto::{
    PeerKey, Slot,
    manifest::{GroupRow, HOLDERS_MAX},
};

use super::{
    memory_overlay::{
        Manner,
        stewards::{Lie, Stewarding},
    },
    *,
};
use crate::{
    overlay::GroupAccess,
    vault::{catalogue::Catalogue, groups::access_of},
};

/// So many that each colour has more than a slot's holders: twenty, give or take.
const PEERS: u8 = 180;

fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

fn rows(owner: &Owner) -> Vec<GroupRow> {
    let rows = catalogue(owner).groups().collect::<Result<Vec<_>, _>>().expect("readable");
    rows.into_iter().filter(|row| row.stripes_used > 0).collect()
}

fn access(owner: &Owner, row: &GroupRow) -> Arc<GroupAccess> {
    Arc::new(access_of(&Vault::open(&owner.data, None).expect("opens").keys, row).expect("ours"))
}

fn slot(at: u8) -> Slot {
    Slot::new(at).expect("valid")
}

async fn backed_up() -> Owner {
    let owner = Owner::new(PEERS);
    owner.write("a", &noise(1, 14 << 20));
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert_eq!(ran.summary()["groups"], ran.summary()["groups_watched"]);
    owner
}

fn holders(row: &GroupRow) -> BTreeSet<PeerKey> {
    row.holders.iter().flatten().copied().collect()
}

fn kill(owner: &Owner, row: &GroupRow, slots: std::ops::Range<usize>) {
    row.holders[slots].iter().flatten().for_each(|peer| owner.overlay.set_manner(peer, Manner::Dead));
}

/// Of each group the holders of slots 0 and 1 were replaced, all by others, and with those of 2 and 3 they are gone: four slots are
/// left of eight, and it takes five. The new holders.
fn away(owner: &Owner) -> BTreeSet<PeerKey> {
    let mut new = BTreeSet::new();
    for row in rows(owner) {
        let ticket = access(owner, &row).ticket;
        let mut known = holders(&row);
        for at in 0..2 {
            for old in &row.holders[usize::from(at)] {
                let to = owner.overlay.newcomer(&ticket, slot(at), &known);
                owner.overlay.repair(ticket.id(), slot(at), old, &to);
                known.insert(to);
                new.insert(to);
            }
        }
        kill(owner, &row, 0..4);
    }
    // One that holds for another group as well may be among the dead.
    new.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_finds_the_holders_that_stewards_chose() {
    let owner = backed_up().await;
    owner.overlay.take_maps_asked();
    owner.restore("healthy").await.expect(ExitCode::Success);
    assert_eq!(owner.overlay.take_maps_asked(), 0, "a healthy restore asks no steward");
    away(&owner);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    let asked = owner.overlay.take_maps_asked();
    assert!((1..=7 * rows(&owner).len()).contains(&asked), "each group's stewards once: {asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_machine_finds_them_too() {
    let mut owner = backed_up().await;
    away(&owner);
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.check(true).await.expect(ExitCode::Damage);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_backup_takes_them_into_its_rows_and_does_not_repair_again() {
    let mut owner = backed_up().await;
    let before = rows(&owner);
    let new = away(&owner);
    for row in &before {
        row.holders[2..4].iter().flatten().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    }
    let group = access(&owner, &before[0]).ticket.id();
    owner.overlay.take_offers(group, 0);
    let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
    let ran = owner.run(Verb::Backup(args)).await.expect(ExitCode::NothingToDo);
    assert_eq!(ran.summary()["stripes_completed"], 0, "{}", ran.summary());
    assert!(owner.overlay.take_offers(group, 0).is_empty(), "nobody was given what stewards gave away already");
    for (row, old) in rows(&owner).iter().zip(&before) {
        assert!(row.holders[..2].iter().all(|slot| slot.iter().any(|peer| new.contains(peer))), "{row:?}");
        assert_eq!(row.holders[2..], old.holders[2..]);
    }
    // From here on the head says it: nobody needs a steward for that.
    owner.overlay.set_all_stewarding(Some(Stewarding::Hangs));
    kill(&owner, &before[0], 2..4);
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_what_happened_once_and_in_order() {
    let owner = backed_up().await;
    let ran = owner.check(false).await.expect(ExitCode::Success);
    assert!(ran.rows().is_empty(), "nothing happened: {:?}", ran.rows());
    let new = away(&owner);
    for row in rows(&owner) {
        row.holders[2..4].iter().flatten().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    }
    let ran = owner.check(true).await.expect(ExitCode::Success);
    let told = ran.rows();
    let repairs: Vec<_> = told.iter().filter(|row| row["what"] == "repaired").collect();
    assert_eq!(repairs.len(), told.len(), "{told:?}");
    let count: usize = rows(&owner).iter().map(|row| row.holders[0].len() + row.holders[1].len()).sum();
    assert_eq!((repairs.len(), &ran.summary()["happenings"]), (count, &count.into()), "seven stewards tell of each");
    for row in repairs {
        let peer = new.iter().find(|peer| row["peer"] == peer.to_string()).expect("a new holder");
        let text = row["text"].as_str().expect("a text");
        assert!(text.ends_with(&format!("shards copied to {}", peer.short())), "{text}");
    }
    let times: Vec<_> = told.iter().map(|row| (row["group"].as_u64(), row["time_ms"].as_u64())).collect();
    assert!(times.is_sorted(), "{times:?}");
    // It changed nothing.
    assert!(rows(&owner).iter().all(|row| holders(row).is_disjoint(&new)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_stewards_make_up_is_believed() {
    for lie in [Lie::Few, Lie::Strangers, Lie::OtherGroup, Lie::OtherHand] {
        let owner = backed_up().await;
        let (mut liars, before) = (BTreeSet::new(), rows(&owner));
        for row in &before {
            let ticket = access(&owner, row).ticket;
            let mut entries = Vec::new();
            for at in 0..2 {
                let (from, to) =
                    (row.holders[at as usize][0], owner.overlay.newcomer(&ticket, slot(at), &holders(row)));
                entries.push(owner.overlay.order(ticket.id(), slot(at), &from, &to, lie));
                // It has them all the same: a believer would restore.
                let ordinals: Vec<u8> =
                    (0..=u8::MAX).filter(|ordinal| owner.overlay.has(&from, ticket.id(), at, *ordinal)).collect();
                owner.overlay.copy_shards(&from, &to, ticket.id(), at, &ordinals);
                liars.insert(to);
            }
            for (steward, _) in owner.overlay.records(ticket.id()) {
                let mut map = owner.overlay.map(&steward, ticket.id());
                map.entries.clone_from(&entries);
                owner.overlay.tell(&steward, ticket.id(), map);
            }
            kill(&owner, row, 0..4);
        }
        // Nobody else gives them anything either.
        liars.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Full));
        owner.restore("out").await.expect(ExitCode::Lost);
        owner.backup().await;
        let after = rows(&owner).into_iter().filter(|row| before.iter().any(|old| old.number == row.number));
        after.for_each(|row| assert!(holders(&row).is_disjoint(&liars), "{lie:?}: {row:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_of_another_owner_is_not_believed() {
    let owner = backed_up().await;
    let other = backed_up().await;
    let row = rows(&owner).swap_remove(0);
    let (id, foreign) = (access(&owner, &row).ticket.id(), access(&other, &rows(&other)[0]).ticket.id());
    let (theirs, _) = other.overlay.records(foreign).swap_remove(0);
    for (steward, _) in owner.overlay.records(id) {
        owner.overlay.tell(&steward, id, other.overlay.map(&theirs, foreign));
    }
    kill(&owner, &row, 0..1);
    let ran = owner.check(false).await;
    assert!(ran.rows().is_empty(), "{:?}", ran.rows());
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

/// Of each group one steward is quick, and what it says leaves all repairs out; the others take their time.
#[tokio::test(flavor = "multi_thread")]
async fn a_quick_steward_that_leaves_things_out_silences_nobody() {
    let mut owner = backed_up().await;
    away(&owner);
    owner.overlay.set_all_stewarding(Some(Stewarding::Slow(2)));
    let mut quick = BTreeSet::new();
    for row in rows(&owner) {
        let id = access(&owner, &row).ticket.id();
        let records = owner.overlay.records(id);
        let (steward, _) = records.iter().find(|(peer, _)| !quick.contains(peer)).expect("one of its own");
        let mut map = owner.overlay.map(steward, id);
        map.entries.clear();
        owner.overlay.tell(steward, id, map);
        owner.overlay.set_stewarding(steward, None);
        quick.insert(*steward);
    }
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("again").await.expect(ExitCode::Success);
    owner.assert_same("again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_a_question_open_is_asked_once_more_before_anything_is_given_up() {
    let owner = backed_up().await;
    away(&owner);
    for row in rows(&owner) {
        owner.overlay.stumble(access(&owner, &row).ticket.id());
    }
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

/// Only the one that the others put in tells of repairs.
#[tokio::test(flavor = "multi_thread")]
async fn stewards_that_others_put_in_are_asked_too() {
    let owner = backed_up().await;
    for row in rows(&owner) {
        let ticket = access(&owner, &row).ticket;
        let stewards: BTreeSet<PeerKey> =
            owner.overlay.records(ticket.id()).into_iter().map(|(steward, _)| steward).collect();
        let new = owner.overlay.steward_to_be(&ticket, &stewards);
        let old = *stewards.first().expect("one");
        owner.overlay.replace_steward(ticket.id(), &old, &new);
    }
    away(&owner);
    for row in rows(&owner) {
        let id = access(&owner, &row).ticket.id();
        for (steward, record) in owner.overlay.records(id) {
            if record.mandate.stewards.contains(&steward) {
                let mut map = owner.overlay.map(&steward, id);
                map.entries.clear();
                owner.overlay.tell(&steward, id, map);
            }
        }
    }
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

/// Far more than a verb may take, for a slow machine.
const LONG: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn stewards_that_hang_hang_nothing() {
    let owner = backed_up().await;
    away(&owner);
    owner.overlay.set_all_stewarding(Some(Stewarding::Hangs));
    let lost = tokio::time::timeout(LONG, owner.restore("out")).await.expect("it ends");
    lost.expect(ExitCode::Lost);
    tokio::time::timeout(LONG, owner.check(false)).await.expect("it ends").expect(ExitCode::Lost);
    tokio::time::timeout(LONG, owner.backup()).await.expect("it ends");
    // Two of the seven are enough to be told.
    for row in rows(&owner) {
        for (steward, _) in owner.overlay.records(access(&owner, &row).ticket.id()).iter().take(2) {
            owner.overlay.set_stewarding(steward, None);
        }
    }
    tokio::time::timeout(LONG, owner.restore("out")).await.expect("it ends").expect(ExitCode::Success);
    owner.assert_same("out");
}

/// A row is full of holders that went long ago; the one that stewards chose takes the place of one of them.
#[tokio::test(flavor = "multi_thread")]
async fn silent_former_holders_make_room() {
    let owner = backed_up().await;
    let mut row = rows(&owner).swap_remove(0);
    let ticket = access(&owner, &row).ticket;
    let to = owner.overlay.newcomer(&ticket, slot(0), &holders(&row));
    owner.overlay.repair(ticket.id(), slot(0), &row.holders[0][0], &to);
    for peer in &row.holders[0] {
        owner.overlay.lose_shards(peer);
        owner.overlay.set_manner(peer, Manner::Dead);
    }
    row.holders[0] = (0..HOLDERS_MAX as u8).map(|at| PeerKey::from_bytes([0xd0 + at; 32])).collect();
    row.sealed = true;
    catalogue(&owner).set_group(&row).expect("written");
    let ghosts = row.holders[0].clone();
    owner.backup().await;
    let now = rows(&owner).swap_remove(0);
    assert!(now.holders[0].contains(&to), "{now:?}");
    assert!(now.holders[0].len() <= HOLDERS_MAX);
    let left: Vec<_> = ghosts.iter().filter(|ghost| !now.holders[0].contains(ghost)).collect();
    let formers = catalogue(&owner).formers().expect("readable").remove(&now.number).expect("some left");
    assert!(left.iter().all(|ghost| formers.iter().any(|former| former.peer == **ghost)), "SEP-3");
    owner.check(true).await.expect(ExitCode::Success);
    owner.overlay.assert_separated();
}

/// Nobody can check by a new mandate what was done under the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_mandate_is_given_after_what_happened_under_the_old_one_was_learned() {
    let owner = backed_up().await;
    let row = rows(&owner).swap_remove(0);
    let ticket = access(&owner, &row).ticket;
    let to = owner.overlay.newcomer(&ticket, slot(0), &holders(&row));
    owner.overlay.repair(ticket.id(), slot(0), &row.holders[0][0], &to);
    // Nothing is short, so nobody asks, until a new mandate is due.
    owner.overlay.take_maps_asked();
    owner.backup().await.expect(ExitCode::Success);
    assert_eq!(owner.overlay.take_maps_asked(), 0);
    let mut known = catalogue(&owner).registration(row.number).expect("readable").expect("registered");
    known.floor = 1 << 40;
    known.stewards.iter_mut().for_each(|one| one.sheets = 1);
    catalogue(&owner).set_registration(row.number, &known).expect("written");
    owner.backup().await.expect(ExitCode::Success);
    let now = rows(&owner).swap_remove(0);
    assert!(now.holders[0].contains(&to), "{now:?}");
    let (_, record) = owner.overlay.records(ticket.id()).swap_remove(0);
    assert!(record.mandate.generation > 1 << 40);
    assert!(record.sheets[0].holders.contains(&to), "the new sheet names it");
}
