//! Holders that leave politely, or lost something, among stewards who are driven by the daemon's own task.

use std::fs;

use cairn_core::steward::wire::{Answer, Kept, Notice, Refusal, Request};
use cairn_proto::{GroupId, Ordinals};

use super::village::{STRIPES, Village, slot};

const HOUR: u64 = 3_600_000;

/// The plan is on disk before anybody is told, so a crash right after forgets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaving_holder_is_told_when_its_slot_lies_elsewhere_also_after_a_crash() {
    let mut village = Village::settled(1).await;
    let (leaver, steward) = (village.holder(2, 0), village.stewards[0]);
    let (folder, crashed) = (village.dir.path().join("holds"), village.dir.path().join("crashed"));
    village.start(leaver).await;
    let holdings = village.speak(leaver, folder.clone()).await;
    assert_eq!(holdings.leave_status().groups_unwatched, 1, "nobody asked yet");
    village.asks(steward, leaver, 2).await;
    let status = holdings.leave_status();
    assert_eq!((status.groups_unwatched, status.stewards, status.shards_needed), (0, 7, u64::from(STRIPES)));
    assert_eq!(status.rebuild_bytes, (3 * u64::from(STRIPES)) << 20, "k helpers for each");

    let at = village.world.now().plus_ms(5 * HOUR);
    holdings.leave(at);
    assert!(holdings.is_leaving());
    village.until("the stewards know", async |_| holdings.leave_status().groups_told == 1).await;
    fs::create_dir_all(&crashed).expect("made");
    fs::copy(folder.join("holdings.json"), crashed.join("holdings.json")).expect("written before it was said");
    holdings.close().await;
    let holdings = village.speak(leaver, crashed).await;
    assert!(holdings.is_leaving(), "as it was");
    village.until("others have it", async |_| holdings.leave_status().is_done()).await;
    assert!(village.world.now() < at);
    let heir = village.heir().expect("a peer of the colour has both shards");
    assert_ne!(heir, leaver);
    let fetched = village.world.fetched.lock().expect("fetched").clone();
    assert_eq!(
        fetched.iter().filter(|(by, _)| *by == heir).count(),
        usize::from(STRIPES),
        "copied, not rebuilt: {fetched:?}"
    );

    // It stays after all, and the stewards count it again.
    assert!(holdings.stay());
    village.until("everybody knows", async |_| holdings.leave_status().state == "none").await;
    assert!(!holdings.is_leaving() && !holdings.stay());
    holdings.close().await;
}

/// A word about somebody else has nowhere to stand, and one about what the speaker does not hold changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_of_what_is_not_its_own_changes_nothing() {
    let village = Village::settled(2).await;
    let (steward, liar, holder) = (village.stewards[0], village.of_colour(2)[5], village.holder(2, 0));
    let (group, other) = (village.world.ticket.id(), GroupId::from_bytes([0; 32]));
    let at = village.world.now().plus_ms(HOUR);
    let say = async |from, notice| village.handle(steward, from, Request::Notice(notice)).await;
    let leaving = |groups: &[GroupId]| Notice::Leaving { at, groups: groups.to_vec() };
    let lost = |of: u8| Notice::Lost { group, slot: slot(of), ordinals: (0..STRIPES).collect::<Ordinals>() };
    assert_eq!(say(liar, leaving(&[group])).await, Answer::Kept(vec![Kept::Unknown]));
    assert_eq!(say(liar, lost(2)).await, Answer::Refused(Refusal::NotSteward));
    assert_eq!(say(holder, lost(1)).await, Answer::Refused(Refusal::NotSteward), "another's slot");
    for _ in 0..10 {
        village.step().await;
    }
    assert_eq!(village.heir(), None);
    assert!(village.map(steward).await.expect("watched").entries.is_empty());
    // Of its own it is told; the second holder has all of it.
    assert_eq!(say(holder, leaving(&[other, group])).await, Answer::Kept(vec![Kept::Unknown, Kept::Elsewhere]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disk_lost_is_told_and_brought_to_it_again() {
    let mut village = Village::settled(2).await;
    let (holder, group) = (village.holder(2, 0), village.world.ticket.id());
    let folder = village.dir.path().join("holds");
    let holdings = village.speak(holder, folder.clone()).await;
    village.asks(village.stewards[3], holder, 2).await;
    village.world.shelves[&holder].damaged.lock().expect("shelf").insert((2, 1));
    holdings.lost(group, slot(2), [1].into_iter().collect());
    village.until("most stewards took note", async |_| holdings.census().told_groups == 1).await;
    assert_eq!((holdings.census().lost_shards, holdings.census().sums.healed), (1, 0));
    // What is lost is known after a restart too. Only now it takes orders.
    holdings.close().await;
    village.start(holder).await;
    let holdings = village.speak(holder, folder).await;
    village
        .until("it has it again", async |v| v.world.shelves[&holder].damaged.lock().expect("shelf").is_empty())
        .await;
    village.until("and knows it", async |_| holdings.census().lost_groups == 0).await;
    assert_eq!((holdings.census().sums.lost, holdings.census().sums.healed), (1, 1));
    assert_eq!(village.heir(), None, "nobody else took its slot");
    holdings.close().await;
}
