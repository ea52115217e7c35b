//! What holders lost comes back with the next backup, by itself: never a green exit over a hole.

use std::collections::BTreeSet;

use cairn_core::placement;
use cairn_proto::{PeerKey, manifest::HOLDERS_MAX};

use super::{memory_overlay::Manner, *};
use crate::vault::catalogue::Catalogue;

/// Every holder of these slots loses all that it has, and stays.
pub(super) fn lose(owner: &Owner, slots: std::ops::Range<u8>) {
    for holder in slots.flat_map(|slot| owner.overlay.holders_of_slot(slot)) {
        owner.overlay.lose_shards(&holder);
    }
}

pub(super) fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_missed_is_filled_by_the_next_backup() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    lose(&owner, 0..3);
    owner.check(false).await.expect(ExitCode::Damage);
    let stripes = catalogue(&owner).stripes().count();
    assert_eq!(catalogue(&owner).shortfalls().expect("readable").len(), stripes, "each is noted");
    owner.backup().await.expect(ExitCode::Success);
    owner.check(true).await.expect(ExitCode::Success);
    lose(&owner, 3..6);
    owner.restore("out").await.expect(ExitCode::Success);
    owner.assert_same("out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_asks_by_itself_what_is_missing() {
    let owner = Owner::new(31);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    lose(&owner, 0..3);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.summary()["stripes_completed"].as_u64() >= Some(1), "{}", ran.summary());
    owner.check(true).await.expect(ExitCode::Success);
    // Four at once are more than anybody can fill: that is said, and goes away when they come back.
    let gone: BTreeSet<PeerKey> = (0..4).flat_map(|slot| owner.overlay.holders_of_slot(slot)).collect();
    gone.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Dead));
    owner.backup().await.expect(ExitCode::BelowTarget);
    gone.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    owner.backup().await.expect(ExitCode::Success);
    owner.check(true).await.expect(ExitCode::Success);
    owner.overlay.assert_separated();
}

/// A note that no question brings back: the holder says that it has the shard, which was read and was wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_that_was_lost_for_a_while_keeps_its_note() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay.holders_of_slot(0).iter().for_each(|peer| owner.overlay.rot(peer));
    owner.check(true).await.expect(ExitCode::Damage);
    let noted = catalogue(&owner).short().expect("readable");
    assert!(!noted.is_empty());
    let away: BTreeSet<PeerKey> = (5..8).chain([0]).flat_map(|slot| owner.overlay.holders_of_slot(slot)).collect();
    away.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Dead));
    owner.check(false).await.expect(ExitCode::Lost);
    assert!(catalogue(&owner).short().expect("readable").is_empty(), "nothing can be done about it now");
    away.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Honest));
    owner.check(false).await.expect(ExitCode::Success);
    assert_eq!(catalogue(&owner).short().expect("readable"), noted);
}

/// A liar says that it has the shard, and takes it again gladly.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_read_wrong_goes_to_somebody_else() {
    let owner = Owner::new(60);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let liars = owner.overlay.holders_of_slot(0);
    liars.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Liar));
    owner.check(true).await.expect(ExitCode::Damage);
    let code = owner.backup().await.code();
    let honest = owner.overlay.holders_of_slot(0).into_iter().filter(|peer| !liars.contains(peer)).count();
    // Whether somebody else has the colour is the salt's choice; a liar alone is no success.
    assert_eq!(code == ExitCode::Success, honest >= liars.len(), "{code:?}, {honest} honest");
    assert!(honest > 0 || code == ExitCode::BelowTarget, "{code:?}");
    owner.overlay.assert_separated();
}

/// Puts four holders that nobody knows into a slot of every group.
pub(super) fn forget_holders(owner: &Owner, slot: u8) {
    let catalogue = catalogue(owner);
    for row in catalogue.groups().collect::<Result<Vec<_>, _>>().expect("readable") {
        let mut row = row;
        row.sealed = true;
        row.holders[usize::from(slot)] =
            (0..HOLDERS_MAX as u8).map(|at| PeerKey::from_bytes([0xd0 + at; 32])).collect();
        catalogue.set_group(&row).expect("written");
    }
    lose(owner, slot..slot + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_holders_all_went_is_given_to_others() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    forget_holders(&owner, 0);
    owner.backup().await.expect(ExitCode::Success);
    owner.check(true).await.expect(ExitCode::Success);
    let rows = catalogue(&owner).groups().collect::<Result<Vec<_>, _>>().expect("readable");
    assert!(rows.iter().flat_map(|row| &row.holders).all(|slot| slot.len() <= HOLDERS_MAX));
}

/// Who holds what stands in the manifest, so a repair is only worth something when a head follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_reaches_the_network_without_a_snapshot() {
    let mut owner = Owner::new(24);
    owner.write("a", &noise(1, 2 << 20));
    owner.backup().await.expect(ExitCode::Success);
    forget_holders(&owner, 0);
    let args = BackupArgs { skip_if_unchanged: true, ..owner.backup_args() };
    let ran = owner.run(Verb::Backup(args)).await.expect(ExitCode::NothingToDo);
    assert!(ran.summary()["stripes_completed"].as_u64() >= Some(1), "{}", ran.summary());
    let here = catalogue(&owner).group(1).expect("readable").expect("there");
    owner.data = owner.dir.path().join("blank");
    owner.recover().await.expect(ExitCode::Success);
    let there = catalogue(&owner).group(1).expect("readable").expect("there");
    assert_eq!(here.holders, there.holders);
    owner.check(true).await.expect(ExitCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_that_never_took_a_shard_do_not_use_up_a_slot() {
    let owner = Owner::new(90);
    let peers = owner.overlay.shared().peers(true).await.expect("known");
    let keys = Vault::open(&owner.data, None).expect("opens").keys;
    let me = placement::Owner { peer: owner.overlay.shared().me(), domain: owner.overlay.shared().my_domain() };
    let groups = groups_of(keys, me, peers, 1);
    let place = groups.take_place(None).expect("a place");
    // The slot with the most peers: ninety in nine colours are more than five somewhere.
    let mut best = 0;
    for slot in 0..8 {
        let mut tried = BTreeSet::new();
        while let Some(peer) = groups.next_holder(place.group, slot, &tried) {
            tried.insert(peer);
            groups.peer_failed(peer);
        }
        best = best.max(tried.len());
    }
    assert!(best > HOLDERS_MAX, "{best} were offered it");
    let row = groups.current(place.group).expect("a row");
    assert!(row.holders.iter().all(|slot| slot.len() <= HOLDERS_MAX));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_known_before_anything_is_in_it() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 40 << 20));
    let cancel = CancellationToken::new();
    owner.overlay.cancel_after(1, cancel.clone());
    owner.overlay.stall_then(true);
    let ctx = VaultContext {
        dir: owner.data.clone(),
        overlay: owner.overlay.shared(),
        witness: None,
        fallback: Default::default(),
        repairs: Default::default(),
        meeting: None,
    };
    let (events, _listener) = mpsc::channel(1024);
    let verb = Verb::Backup(owner.backup_args());
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        _ = run_verb(&ctx, verb, None, None, None, events, CancellationToken::new()) => {}
    }
    owner.overlay.stall_then(false);
    assert_eq!(catalogue(&owner).stripes().count(), 0, "one shard is no stripe");
    assert!(owner.overlay.shard_count() > 0);
    owner.backup().await.expect(ExitCode::Success);
    assert_eq!(owner.overlay.occupied(), 0, "no ordinal was given out twice");
}
