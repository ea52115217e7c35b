//! Every group is left with stewards once its snapshot is listed, and what they did not hear they hear next time.

use cairn_core::steward::wire::Refusal;
use cairn_proto::{
    GroupId, GroupRecord, PeerKey, Timestamp,
    mandate::{STEWARDS_MAX, quorum},
    manifest::GroupRow,
};

use super::{memory_overlay::Manner, memory_overlay::stewards::Stewarding, *};
use crate::vault::{
    catalogue::{Catalogue, watch::Registration},
    groups::access_of,
    holdings::GONE_AFTER_MS,
};

/// So many that the stewards' colour has more than seven: twenty, give or take.
const PEERS: u8 = 180;

fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

fn row(owner: &Owner) -> GroupRow {
    catalogue(owner).group(1).expect("readable").expect("there")
}

fn group(owner: &Owner, row: &GroupRow) -> GroupId {
    access_of(&Vault::open(&owner.data, None).expect("opens").keys, row).expect("ours").ticket.id()
}

fn registration(owner: &Owner) -> Registration {
    catalogue(owner).registration(1).expect("readable").expect("registered")
}

/// What the stewards of the first group have.
fn records(owner: &Owner) -> Vec<(PeerKey, GroupRecord)> {
    owner.overlay.records(group(owner, &row(owner)))
}

/// The record of the newest mandate, and that all its stewards have it.
#[track_caller]
fn the_record(owner: &Owner) -> GroupRecord {
    let all = records(owner);
    let newest = all.iter().map(|(_, record)| record).max_by_key(|record| record.mandate.generation).expect("one");
    for steward in &newest.mandate.stewards {
        let (_, has) = all.iter().find(|(peer, _)| peer == steward).expect("every steward has a record");
        assert!(has == newest, "{} has another record", steward.short());
    }
    newest.clone()
}

async fn watched() -> Owner {
    let owner = Owner::new(PEERS);
    owner.write("a", &noise(1, 9 << 20));
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(!ran.notices().contains(&"FEW_STEWARDS"), "{:?}", ran.notices());
    owner
}

async fn again(owner: &Owner) -> Ran {
    let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
    owner.run(Verb::Backup(args)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_leaves_each_group_with_its_stewards() {
    let owner = watched().await;
    let vault = Vault::open(&owner.data, None).expect("opens");
    let stripes: Vec<_> = vault.catalogue.stripes().collect::<Result<_, _>>().expect("readable");
    let mut groups = 0;
    for row in vault.catalogue.groups().map(|row| row.expect("readable")).filter(|row| row.stripes_used > 0) {
        groups += 1;
        let id = group(&owner, &row);
        let records = owner.overlay.records(id);
        assert_eq!(records.len(), STEWARDS_MAX);
        for (steward, record) in &records {
            assert!(*record == records[0].1, "all have the same");
            assert!(record.mandate.stewards.contains(steward));
            assert!(row.holders.iter().flatten().all(|holder| holder != steward), "SEP-1");
        }
        for sheet in &records[0].1.sheets {
            assert_eq!(sheet.holders, row.holders[sheet.slot.index()]);
            let of = stripes.iter().filter(|stripe| stripe.group == row.number && stripe.root(sheet.slot).is_some());
            assert_eq!(sheet.rows.len(), of.count());
            for shard in &sheet.rows {
                let stored = owner.overlay.root(&sheet.holders[0], id, sheet.slot.as_u8(), shard.ordinal);
                assert_eq!(stored, Some(shard.root), "slot {} of stripe {}", sheet.slot, shard.ordinal);
            }
        }
    }
    let ran = again(&owner).await.expect(ExitCode::NothingToDo);
    assert_eq!((&ran.summary()["groups"], &ran.summary()["groups_watched"]), (&groups.into(), &groups.into()));
    assert_eq!(ran.summary()["stewards_fewest"], STEWARDS_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_grows_gets_new_sheets_under_the_same_mandate() {
    let owner = watched().await;
    let before = the_record(&owner);
    owner.overlay.take_registered();
    again(&owner).await.expect(ExitCode::NothingToDo);
    assert_eq!(owner.overlay.take_registered(), 0, "nothing changed");
    owner.write("b", &noise(2, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let after = the_record(&owner);
    assert_eq!(after.sealed_mandate(), before.sealed_mandate());
    for (new, old) in after.sheets.iter().zip(&before.sheets) {
        assert!(new.generation > old.generation);
        assert!(new.rows.len() > old.rows.len() && new.rows.starts_with(&old.rows), "with the stripes of earlier runs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stewards_that_do_not_answer_are_caught_up_and_delay_nothing() {
    let owner = watched().await;
    let stewards = the_record(&owner).mandate.stewards;
    owner.overlay.set_manner(&stewards[0], Manner::Dead);
    owner.overlay.set_stewarding(&stewards[1], Some(Stewarding::Hangs));
    owner.write("b", &noise(2, 9 << 20));
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert_eq!(ran.summary()["stewards_fewest"], STEWARDS_MAX - 2, "{}", ran.summary());
    assert!(!ran.notices().contains(&"FEW_STEWARDS"), "five of seven are a quorum");
    let silent = |one: &&crate::vault::catalogue::watch::Confirmed| one.silent_since > Timestamp(0);
    assert_eq!(registration(&owner).stewards.iter().filter(silent).count(), 2);
    owner.overlay.set_manner(&stewards[0], Manner::Honest);
    owner.overlay.set_stewarding(&stewards[1], None);
    again(&owner).await.expect(ExitCode::NothingToDo);
    the_record(&owner);
    assert!(registration(&owner).stewards.iter().all(|one| one.silent_since == Timestamp(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_stands_without_stewards_and_says_so() {
    let owner = Owner::new(PEERS);
    owner.write("a", &noise(1, 2 << 20));
    owner.overlay.set_all_stewarding(Some(Stewarding::Refuses(Refusal::Busy)));
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.notices().contains(&"FEW_STEWARDS"), "{:?}", ran.notices());
    assert_eq!(ran.summary()["groups_watched"], 0);
    assert!(records(&owner).is_empty());
    // One that is not there is no more than one that does not want to.
    owner.overlay.set_all_stewarding(Some(Stewarding::Hangs));
    owner.backup().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
    owner.overlay.set_all_stewarding(None);
    let ran = again(&owner).await.expect(ExitCode::NothingToDo);
    assert!(!ran.notices().contains(&"FEW_STEWARDS"), "{:?}", ran.notices());
    the_record(&owner);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_or_is_gone_for_long_is_replaced_under_a_new_generation() {
    let owner = watched().await;
    let before = the_record(&owner).mandate;
    let (refuser, sleeper) = (before.stewards[2], before.stewards[5]);
    owner.overlay.set_stewarding(&refuser, Some(Stewarding::Refuses(Refusal::Full)));
    owner.overlay.set_manner(&sleeper, Manner::Vanished);
    owner.write("b", &noise(2, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    again(&owner).await.expect(ExitCode::NothingToDo);
    owner.overlay.set_manner(&sleeper, Manner::Honest);
    again(&owner).await.expect(ExitCode::NothingToDo);
    let second = the_record(&owner).mandate;
    assert!(second.generation > before.generation);
    assert!(!second.stewards.contains(&refuser));
    assert_eq!(second.stewards.len(), STEWARDS_MAX);
    assert!(second.stewards.contains(&sleeper), "a night is not for long");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steward_that_is_silent_for_days_is_replaced() {
    let owner = watched().await;
    let before = the_record(&owner).mandate;
    let sleeper = before.stewards[5];
    owner.overlay.set_manner(&sleeper, Manner::Vanished);
    let pass = |ms: u64| {
        let mut known = registration(&owner);
        for one in known.stewards.iter_mut().filter(|one| one.silent_since > Timestamp(0)) {
            one.silent_since.0 -= ms;
        }
        catalogue(&owner).set_registration(1, &known).expect("written");
    };
    owner.write("b", &noise(2, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    pass(GONE_AFTER_MS / 2);
    again(&owner).await.expect(ExitCode::NothingToDo);
    let (_, record) = &records(&owner)[0];
    assert_eq!(record.mandate.generation, before.generation, "not yet");
    pass(GONE_AFTER_MS / 2);
    again(&owner).await.expect(ExitCode::NothingToDo);
    let after = the_record(&owner).mandate;
    assert!(after.generation > before.generation && !after.stewards.contains(&sleeper));
    assert_eq!(after.stewards.iter().filter(|one| before.stewards.contains(one)).count(), STEWARDS_MAX - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mandates_only_grow_in_generation() {
    let mut owner = watched().await;
    owner.write("b", &noise(2, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let before = the_record(&owner);
    // A blank machine knows of no mandate.
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    assert_eq!(catalogue(&owner).registration(1).expect("readable"), None);
    owner.write("c", &noise(3, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let after = the_record(&owner);
    assert!(after.mandate.generation > before.mandate.generation);
    // A steward has a newer one than this machine knows: whoever restored an old folder.
    let known = registration(&owner);
    let old = Registration { mandate: before.sealed_mandate().to_vec(), digest: [0; 32], ..known };
    let stale = |one: &mut crate::vault::catalogue::watch::Confirmed| one.sheets = 0;
    let mut old = Registration { sheets: 1, ..old };
    old.stewards.iter_mut().for_each(stale);
    catalogue(&owner).set_registration(1, &old).expect("written");
    again(&owner).await.expect(ExitCode::NothingToDo);
    let ran = again(&owner).await.expect(ExitCode::NothingToDo);
    assert!(the_record(&owner).mandate.generation > after.mandate.generation);
    assert!(!ran.notices().contains(&"FEW_STEWARDS"), "{:?}", ran.notices());
}

/// Whoever has the old mandate tells what was done under it, if it is asked first.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovered_machine_makes_no_mandate_while_the_old_stewards_are_silent() {
    let mut owner = watched().await;
    let before = the_record(&owner).mandate;
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    for steward in &before.stewards {
        owner.overlay.set_manner(steward, Manner::Vanished);
    }
    let ran = again(&owner).await.expect(ExitCode::NothingToDo);
    assert!(ran.notices().contains(&"FEW_STEWARDS"), "{:?}", ran.notices());
    assert_eq!(records(&owner).len(), STEWARDS_MAX, "nobody new was asked to watch it");
    for steward in &before.stewards {
        owner.overlay.set_manner(steward, Manner::Honest);
    }
    again(&owner).await.expect(ExitCode::NothingToDo);
    let after = the_record(&owner).mandate;
    assert!(after.generation > before.generation);
    assert_eq!(after.stewards, before.stewards, "who watches over it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn stewards_that_others_put_in_get_new_sheets() {
    let owner = watched().await;
    let before = the_record(&owner);
    let row = row(&owner);
    let ticket = access_of(&Vault::open(&owner.data, None).expect("opens").keys, &row).expect("ours").ticket;
    let old = before.mandate.stewards[3];
    let new = owner.overlay.steward_to_be(&ticket, &before.mandate.stewards.iter().copied().collect());
    owner.overlay.replace_steward(ticket.id(), &old, &new);
    owner.overlay.set_manner(&old, Manner::Dead);
    owner.write("b", &noise(2, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let all = records(&owner);
    let (_, record) = all.iter().find(|(peer, _)| *peer == new).expect("it has one");
    assert_eq!(record.sealed_mandate(), before.sealed_mandate());
    assert!(record.sheets[0].generation > before.sheets[0].generation);
}

/// A run that was killed before it noted what was confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_steward_has_already_is_confirmed() {
    let owner = watched().await;
    let before = registration(&owner);
    let mut forgot = before.clone();
    forgot.stewards.iter_mut().for_each(|one| one.sheets = 0);
    catalogue(&owner).set_registration(1, &forgot).expect("written");
    let ran = again(&owner).await.expect(ExitCode::NothingToDo);
    assert_eq!(ran.summary()["stewards_fewest"], STEWARDS_MAX);
    let after = registration(&owner);
    assert_eq!((after.mandate, after.sheets, after.floor), (before.mandate, before.sheets, 0));
}

/// How many stewards a small network has is the salt's choice; what is said of them is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_network_is_watched_by_whom_it_has() {
    for _ in 0..4 {
        let owner = Owner::new(12);
        owner.write("a", &noise(1, 1 << 20));
        let ran = owner.backup().await.expect(ExitCode::Success);
        let stewards = records(&owner).len();
        assert_eq!(ran.notices().contains(&"FEW_STEWARDS"), stewards == 0, "{stewards}: {}", ran.summary());
        assert_eq!(ran.summary()["stewards_most"], stewards);
        let known = records(&owner).first().map_or(0, |(_, record)| quorum(record.mandate.stewards.len()));
        assert!(stewards >= known);
        owner.restore("out").await.expect(ExitCode::Success);
        owner.assert_same("out");
    }
}

/// They may be gone for good; then new ones are named.
#[tokio::test(flavor = "multi_thread")]
async fn a_mandate_is_not_put_off_for_ever() {
    let mut owner = watched().await;
    let before = the_record(&owner).mandate;
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    for steward in &before.stewards {
        owner.overlay.set_manner(steward, Manner::Dead);
    }
    again(&owner).await.expect(ExitCode::NothingToDo);
    let mut known = registration(&owner);
    assert!(known.mandate.is_empty() && known.put_off > Timestamp(0));
    known.put_off.0 -= GONE_AFTER_MS;
    catalogue(&owner).set_registration(1, &known).expect("written");
    again(&owner).await.expect(ExitCode::NothingToDo);
    let after = registration(&owner);
    assert!(!after.mandate.is_empty() && after.put_off == Timestamp(0));
    assert!(records(&owner).iter().any(|(_, record)| record.mandate.generation > before.generation));
}
