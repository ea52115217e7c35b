//! What a run says at its end, and what it must not leave unsaid.

use cairn_proto::{
    ShardRoot, StripeId,
    index::{StripeNo, StripeRow},
};

use super::*;
use crate::vault::{catalogue::StripeRecord, groups::access_of};

/// Stored anew is not enough: until a head names the new places, only this machine knows them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_anew_is_published_though_nothing_changed() {
    let mut owner = Owner::new(24);
    owner.write("a", &noise(1, 14 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let vault = Vault::open(&owner.data, None).expect("opens");
    // The first stripe has data alone; index and manifest are in the last.
    let stripe = vault.catalogue.stripe(StripeNo(1)).expect("readable").expect("there");
    let row = vault.catalogue.group(stripe.group).expect("readable").expect("there");
    let id = access_of(&vault.keys, &row).expect("valid").ticket.id();
    drop(vault);
    owner.overlay.lose_stripe(id, stripe.ordinal, 0..4);
    owner.check(false).await.expect(ExitCode::Lost);
    let index_is_lost = Vault::open(&owner.data, None).expect("opens").catalogue.index_is_lost().expect("readable");
    assert!(!index_is_lost, "else a head were due anyway");
    let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
    let ran = owner.run(Verb::Backup(args)).await.expect(ExitCode::NothingToDo);
    assert_eq!(ran.summary()["snapshot_id"], serde_json::Value::Null);
    // Only the network's word counts on a blank machine.
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_do_does_not_hide_what_is_short() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.overlay.fill_slot(Some(0));
    owner.backup().await.expect(ExitCode::BelowTarget);
    let again = || Verb::Backup(BackupArgs { skip_if_unchanged: true, ..owner.backup_args() });
    let ran = owner.run(again()).await.expect(ExitCode::BelowTarget);
    assert_eq!(ran.summary()["snapshot_id"], serde_json::Value::Null, "nothing changed");
    owner.overlay.fill_slot(None);
    let ran = owner.run(again()).await.expect(ExitCode::NothingToDo);
    assert_eq!(ran.summary()["stripes_below_target"], 0);
}

/// Nobody was asked about a stripe that came while holders were asked, so nothing is said of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_judges_only_what_it_asked_about() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let catalogue = Vault::open(&owner.data, None).expect("opens").catalogue;
    let before = catalogue.stripes().count() as u64;
    let number = catalogue.groups().next().expect("one").expect("readable").number;
    let row = StripeRow {
        no: StripeNo(1 << 20),
        group: number,
        ordinal: 200,
        epoch: 1,
        stripe: StripeId::from_bytes([7; 32]),
        used: 5,
        roots: (0..8).map(|at| Some(ShardRoot::from_bytes([at; 32]))).collect(),
    };
    let beside = catalogue.clone();
    owner.overlay.on_question(move || {
        let record = StripeRecord { row: Some(row), pending: true, ..StripeRecord::default() };
        beside.record_stripe(&record).expect("written");
    });
    let ran = owner.check(false).await.expect(ExitCode::Success);
    assert_eq!(ran.summary()["stripes"], before);
    assert_eq!(catalogue.stripes().count() as u64, before + 1, "it came meanwhile");
    assert!(catalogue.lost().expect("readable").is_empty() && catalogue.shortfalls().expect("readable").is_empty());
    // The next one was not told of it while it asked, and judges it.
    owner.check(false).await.expect(ExitCode::Lost);
}
