//! Stewardships of a whole network in memory, driven by the daemon's own task; and each of them alone, against crashes and strangers.

mod village;

use std::sync::{Arc, atomic::Ordering};

use cairn_core::steward::{
    Failure, Say, What,
    wire::{Answer, Refusal, Request},
};
use cairn_proto::{Action, PeerKey};

use self::village::{STRIPES, Village, slot};
use super::ports::StewardService as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vanished_holder_is_replaced_by_a_copy() {
    let village = Village::settled(2).await;
    for _ in 0..4 {
        village.step().await;
    }
    assert_eq!(village.heir(), None, "nothing is wrong");
    village.world.away.lock().expect("away").insert(village.holder(2, 0));
    village.until("a peer of the colour has both shards", async |v| v.heir().is_some()).await;
    let heir = village.heir().expect("just seen");
    for steward in village.stewards.clone() {
        village
            .until("every steward's map has it", async |v| {
                let map = v.map(steward).await.expect("watched");
                let repaired = |what: &What| matches!(what, What::Repaired { holder, .. } if *holder == heir);
                !map.entries.is_empty() && map.log.iter().any(|entry| repaired(&entry.what))
            })
            .await;
    }
    let steward = village.world.running.lock().expect("running")[&village.stewards[0]].clone();
    let status = steward.report().await;
    assert_eq!((status.len(), status[0].live_slots, status[0].slots, status[0].quorum), (1, 5, 5, 5), "{status:?}");
    assert!(status[0].last.iter().any(|line| line.contains("has 2 shards of slot 2")), "{status:?}");
    assert_eq!(status[0].under_way, Vec::<String>::new());
    // The order's files are gone with it.
    let folder = village.folder(&heir);
    let orders = move || std::fs::read_dir(&folder).expect("there").flatten().any(|f| f.path().extension().is_some_and(|e| e == "order"));
    village.until("the order is forgotten", async |_| !orders()).await;
}
