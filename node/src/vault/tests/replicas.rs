//! Where shards are kept twice: the loss of one copy is noticed, a holder that only sleeps costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{PeerKey, Timestamp};

use super::{memory_overlay::Manner, *};
use crate::vault::{
    catalogue::Catalogue,
    holdings::{FOUND_GONE, GONE_AFTER_MS},
};

/// A vault with two copies of each shard, and a holder of one of them.
async fn kept_twice() -> (Owner, PeerKey) {
    let owner = Owner::new(60);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let row = catalogue(&owner).group(1).expect("readable").expect("there");
    assert!(row.holders.iter().all(|slot| slot.len() == 2), "sixty domains make two replicas");
    let holder = row.holders[7][0];
    (owner, holder)
}

fn catalogue(owner: &Owner) -> Catalogue {
    Vault::open(&owner.data, None).expect("opens").catalogue
}

/// Every silence begins that much earlier.
fn pass(owner: &Owner, ms: u64) {
    let catalogue = catalogue(owner);
    let mut silent = catalogue.silent().expect("readable");
    silent.values_mut().for_each(|since| since.0 = since.0.saturating_sub(ms));
    catalogue.set_silent(&silent).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_copy_of_two_is_noticed_and_made_again() {
    let (owner, holder) = kept_twice().await;
    owner.overlay.lose_shards(&holder);
    let ran = owner.check(false).await.expect(ExitCode::Damage);
    assert!(ran.summary()["stripes_below_target"].as_u64() >= Some(1), "{}", ran.summary());
    assert_eq!(ran.summary()["shards_missing"], 0, "the other one has them");
    // A backup notices by itself.
    let (owner, holder) = kept_twice().await;
    let stored = owner.overlay.shard_count();
    owner.overlay.lose_shards(&holder);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert!(ran.summary()["stripes_completed"].as_u64() >= Some(1), "{}", ran.summary());
    assert!(owner.overlay.shard_count() >= stored);
    owner.check(true).await.expect(ExitCode::Success);
    owner.overlay.assert_separated();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_copy_counts_until_it_is_silent_for_long() {
    let (owner, holder) = kept_twice().await;
    owner.overlay.set_manner(&holder, Manner::Dead);
    // However often somebody looks.
    for _ in 0..3 {
        owner.check(false).await.expect(ExitCode::Success);
        assert_eq!(owner.backup().await.expect(ExitCode::Success).summary()["stripes_completed"], 0);
    }
    pass(&owner, GONE_AFTER_MS / 2);
    owner.check(false).await.expect(ExitCode::Success);
    // It was there in between: what counts begins anew.
    owner.overlay.set_manner(&holder, Manner::Honest);
    owner.check(false).await.expect(ExitCode::Success);
    owner.overlay.set_manner(&holder, Manner::Dead);
    owner.check(false).await.expect(ExitCode::Success);
    pass(&owner, GONE_AFTER_MS / 2);
    owner.check(false).await.expect(ExitCode::Success);
    pass(&owner, GONE_AFTER_MS / 2);
    owner.check(false).await.expect(ExitCode::Damage);
    let silent = catalogue(&owner).silent().expect("readable");
    assert_eq!(silent.get(&holder), Some(&FOUND_GONE), "it is not weighed against those that answer any more");
    // One look after a long time is no second one.
    owner.overlay.set_manner(&holder, Manner::Honest);
    owner.backup().await.expect(ExitCode::Success);
    assert!(catalogue(&owner).silent().expect("readable").is_empty());
    assert!(catalogue(&owner).short().expect("readable").is_empty(), "it is back, and so are its copies");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_few_suspects_itself() {
    let (owner, _) = kept_twice().await;
    let row = catalogue(&owner).group(1).expect("readable").expect("there");
    let mut away = row.holders.iter().map(|slot| slot[0]).collect::<Vec<_>>();
    away.push(row.holders[7][1]);
    away.iter().for_each(|peer| owner.overlay.set_manner(peer, Manner::Dead));
    // Groups beside this one may have more holders that answer: of those, only as many as make a majority silent.
    let open = catalogue(&owner);
    let named = open.groups().flat_map(|row| row.expect("readable").holders).flatten();
    let mut others: BTreeSet<PeerKey> = named.filter(|peer| !away.contains(peer)).collect();
    drop(open);
    while others.len() >= away.len() {
        let peer =
            *others.iter().find(|peer| !row.holders.iter().flatten().any(|p| p == *peer)).expect("of another group");
        others.remove(&peer);
        away.push(peer);
        owner.overlay.set_manner(&peer, Manner::Dead);
    }
    owner.check(false).await;
    assert!(catalogue(&owner).silent().expect("readable").is_empty(), "no silence begins");
    // Nor does one count that began before.
    let long_ago = away.iter().map(|peer| (*peer, Timestamp(1))).collect::<BTreeMap<_, _>>();
    catalogue(&owner).set_silent(&long_ago).expect("written");
    owner.check(false).await;
    let short = catalogue(&owner).short().expect("readable");
    let group = |no| catalogue(&owner).stripe(no).expect("readable").expect("there").group;
    let of_this: Vec<_> = short.into_iter().filter(|(no, _)| group(*no) == 1).collect();
    assert!(!of_this.is_empty() && of_this.iter().all(|(_, slots)| slots == &[7]), "{of_this:?}");
    // Those that were found gone while most answered say nothing about us: they may be the greater part.
    let found_gone = away.iter().map(|peer| (*peer, FOUND_GONE)).collect::<BTreeMap<_, _>>();
    catalogue(&owner).set_silent(&found_gone).expect("written");
    owner.check(false).await;
    let short = catalogue(&owner).short().expect("readable");
    let of_this: Vec<_> = short.into_iter().filter(|(no, _)| group(*no) == 1).collect();
    assert!(of_this.iter().any(|(_, slots)| slots.len() > 1), "{of_this:?}");
}

/// Everything would be copied at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_grows_makes_nothing_short() {
    let owner = Owner::new(24);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay.add_peers(24..60);
    owner.check(false).await.expect(ExitCode::Success);
    let ran = owner.backup().await.expect(ExitCode::Success);
    assert_eq!(ran.summary()["stripes_completed"], 0);
    let rows = catalogue(&owner).groups().collect::<Result<Vec<_>, _>>().expect("readable");
    assert!(rows.iter().any(|row| row.holders[0].len() == 2), "new groups have two");
}

fn promising(owner: &Owner, sla: &str) -> BackupArgs {
    BackupArgs { sla: Some(sla.to_owned()), ..owner.backup_args() }
}

async fn backed_up(owner: &Owner, args: BackupArgs) -> serde_json::Value {
    owner.run(Verb::Backup(args)).await.expect(ExitCode::Success).summary().clone()
}

fn newest(owner: &Owner) -> (String, usize) {
    let rows: Vec<_> = catalogue(owner).groups().collect::<Result<_, _>>().expect("readable");
    let row = rows.iter().max_by_key(|row| row.number).expect("one");
    (row.code.to_string(), row.holders[0].len())
}

/// The promise decides the shape of the next groups, stays until another is named, and older groups keep theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_keeps_what_it_promised() {
    let mut owner = Owner::new(60);
    owner.write("a", &noise(1, 1 << 20));
    let plain = backed_up(&owner, owner.backup_args()).await;
    assert!(plain["sla"].is_null());
    let first = newest(&owner);
    // What is tried is not promised.
    backed_up(&owner, BackupArgs { dry_run: true, ..promising(&owner, "gold") }).await;
    owner.write("b", &noise(2, 1 << 20));
    let unasked = backed_up(&owner, owner.backup_args()).await;
    assert!(unasked["sla"].is_null() && newest(&owner) == first, "{unasked}");

    owner.write("c", &noise(3, 1 << 20));
    let gold = backed_up(&owner, promising(&owner, "gold")).await;
    let (code, replicas) = newest(&owner);
    assert_eq!(gold["sla"]["name"], "gold");
    let shape = gold["sla"]["shape"].as_str().expect("a shape");
    assert_ne!((code.clone(), replicas), first, "sixty domains give more than the default: {shape}");
    let rows: Vec<_> = catalogue(&owner).groups().collect::<Result<_, _>>().expect("readable");
    assert!(rows.iter().any(|row| (row.code.to_string(), row.holders[0].len()) == first), "older groups stay");

    owner.write("d", &noise(4, 1 << 20));
    let again = backed_up(&owner, owner.backup_args()).await;
    assert_eq!((&again["sla"]["name"], &again["sla"]["shape"]), (&gold["sla"]["name"], &gold["sla"]["shape"]));
    assert_eq!(newest(&owner), (code, replicas));
    owner.check(true).await.expect(ExitCode::Success);
    owner.overlay.assert_separated();

    // A node that saw how slow repairs are goes by it.
    let mut seen = cairn_core::durability::repairs::RepairTimes::default();
    (0..100).for_each(|_| seen.note(200 * 24 * 3_600_000));
    owner.repairs = seen.figures();
    owner.write("e", &noise(5, 1 << 20));
    let slow = backed_up(&owner, owner.backup_args()).await;
    let by = |ran: &serde_json::Value| ran["sla"]["repair_time"].as_str().expect("said").to_owned();
    assert_eq!((by(&again), by(&slow)), ("assumed".to_owned(), "measured".to_owned()));
    let loss = |ran: &serde_json::Value| ran["sla"]["loss_a_year"].as_f64().expect("reckoned");
    let grown = slow["sla"]["shape"] != again["sla"]["shape"];
    assert!(grown || loss(&slow) > loss(&again), "{slow} {again}");

    owner.write("f", &noise(6, 1 << 20));
    assert!(backed_up(&owner, promising(&owner, "none")).await["sla"].is_null());
    assert_eq!(newest(&owner), first);
    let refused = owner.run(Verb::Backup(promising(&owner, "diamond"))).await;
    assert_eq!(refused.code(), ExitCode::Usage);
}
