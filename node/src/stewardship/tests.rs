//! Stewardships of a whole network in memory, driven by the daemon's own task; and each of them alone, against crashes, full disks and
//! strangers.

mod audits;
mod departures;
mod tokens;
mod village;

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use cairn_core::steward::{
    Failure, Say, What,
    wire::{Answer, Refusal, Request},
};
use cairn_proto::{Action, Order, PeerKey, Timestamp, order::OrderId};

use self::village::{STRIPES, Village};
use super::orders::{OPEN_AUTHORITY, OPEN_EACH, OPEN_MAX, TELLING_MAX};

fn files(folder: &std::path::Path, ending: &str) -> usize {
    let has = |file: &fs::DirEntry| file.path().extension().is_some_and(|e| e == ending);
    fs::read_dir(folder).expect("there").flatten().filter(has).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vanished_holder_is_replaced_by_a_copy() {
    let village = Village::settled(2).await;
    for _ in 0..4 {
        village.step().await;
    }
    assert_eq!(village.heir(), None, "nothing is wrong");
    let silent_since = village.world.now();
    village.world.away.lock().expect("away").insert(village.holder(2, 0));
    village.until("a peer of the colour has both shards", async |v| v.heir().is_some()).await;
    let (heir, whole) = (village.heir().expect("just seen"), village.world.now());
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
    // From its last sign of life to the slot whole again, by each steward's own count and once; a minute either way is the looks'.
    for peer in &village.stewards {
        let steward = village.world.running.lock().expect("running")[peer].clone();
        village.until("the repair is counted", async |_| steward.repairs().await.figures().repairs > 0).await;
        let (figures, now) = (steward.repairs().await.figures(), village.world.now());
        let took = (figures.mean_days * 24.0 * 3_600_000.0) as u64;
        assert_eq!((figures.repairs, figures.open), (1, 0));
        assert!(took + 60_000 >= whole.ms_since(silent_since), "{took} of {}", whole.ms_since(silent_since));
        assert!(took <= now.ms_since(silent_since) + 60_000, "{took} of {}", now.ms_since(silent_since));
    }
    let folder = village.folder(&heir);
    village.until("the order is forgotten", async |_| files(&folder, "order") == 0).await;
}

/// Whoever asks something on a stopped node's folder is heard in its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_not_there_because_its_owner_is() {
    let village = Village::settled(2).await;
    let holder = village.holder(2, 0);
    village.world.visiting.lock().expect("visiting").insert(holder);
    village.world.away.lock().expect("away").insert(holder);
    village.until("a peer of the colour has both shards", async |v| v.heir().is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_without_a_holder_is_rebuilt_and_the_plan_says_so_before() {
    let village = Village::settled(1).await;
    village.world.away.lock().expect("away").insert(village.holder(2, 0));
    let mut plans: Vec<super::PlannedRepairStatus> = Vec::new();
    // All are asked as soon as the time is another: by the end of a step it may be done.
    for _ in 0..720 {
        if village.heir().is_some() {
            break;
        }
        village.pass_time();
        for peer in &village.stewards {
            let steward = village.world.running.lock().expect("running")[peer].clone();
            plans.extend(steward.dry_run().await);
        }
        village.beats().await;
    }
    assert!(village.heir().is_some(), "never: somebody has both shards of the slot");
    let plan = plans.iter().find(|plan| plan.action == "rebuild").expect("planned before it was done");
    assert_eq!((plan.slot, plan.from.len(), plan.shards, plan.bytes.0), (Some(2), 3, 2, 6 << 20), "{plan:?}");
}

/// The new holder has its shards without one of the helpers: all stewards hear who that was, say so, and know it after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_left_out_of_a_rebuild_is_remembered() {
    let mut village = Village::settled(1).await;
    let liar = village.holder(3, 0);
    *village.world.left_out.lock().expect("left out") = Some([liar].into());
    village.world.away.lock().expect("away").insert(village.holder(2, 0));
    village.until("somebody has both shards of the slot", async |v| v.heir().is_some()).await;
    let suspects = async |village: &Village, peer: &PeerKey| {
        let steward = village.world.running.lock().expect("running")[peer].clone();
        let told = steward.report().await.into_iter().flat_map(|group| group.suspected).collect::<Vec<_>>();
        (told, steward.suspicion(liar).await)
    };
    for peer in village.stewards.clone() {
        village.until("it heard of it", async |village| suspects(village, &peer).await.1.is_some()).await;
        let (told, _) = suspects(&village, &peer).await;
        assert!(
            told.len() == 1 && told[0].contains(&liar.short()) && told[0].contains("a new holder says"),
            "{told:?}"
        );
    }
    let peer = village.stewards[0];
    village.stop(&peer).await;
    assert!(village.folder(&peer).join("suspects.watch").exists());
    village.start(peer).await;
    let (told, said) = suspects(&village, &peer).await;
    assert!(told.len() == 1 && said.is_some(), "{told:?}");
    // A damaged list is set aside, and nobody is suspected.
    village.stop(&peer).await;
    fs::write(village.folder(&peer).join("suspects.watch"), b"no list").expect("written");
    village.start(peer).await;
    assert_eq!(suspects(&village, &peer).await, (Vec::new(), None));
}

/// An order names all who were there when it was voted on. One of its chain dies before it can help: the one to spare steps in, the order is
/// carried out, and no second one is asked for. Streams and keys are those of nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_dies_after_the_vote_costs_no_second_one() {
    // Who helps looks at the real clock, and an order stands for hours.
    let now = Timestamp(crate::network::clock().0 - 2 * 3_600_000);
    let mut village = Village::at(now, 1);
    village.rebuild_over_streams().await;
    let village = village.settle().await;
    let (dies, world) = (village.holder(0, 0), Arc::clone(&village.world));
    let ordered: Arc<Mutex<Option<Action>>> = Arc::default();
    let its = Arc::clone(&ordered);
    *village.world.spy.lock().expect("spy") = Some(Box::new(move |_, _, request| {
        if let Request::Give { credentials, .. } = request {
            world.away.lock().expect("away").insert(dies);
            its.lock().expect("ordered").get_or_insert(credentials.certificate.order.action.clone());
        }
    }));
    village.world.away.lock().expect("away").insert(village.holder(2, 0));
    village.until("an order is given", async |_| ordered.lock().expect("ordered").is_some()).await;
    // From now on time stands still, so nobody could order anything else.
    let whole = async {
        while village.heir().is_none() {
            village.beats().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), whole).await.expect("REP-1: it is carried out without who died");
    let action = ordered.lock().expect("ordered").take().expect("given");
    let Action::Rebuild { helpers, ordinals, .. } = action else { panic!("{action:?}") };
    assert!(helpers[..3].iter().any(|(_, peer)| *peer == dies), "it was to help");
    assert_eq!((helpers.len(), ordinals.len()), (4, usize::from(STRIPES)));
    let said = village.world.said.lock().expect("said");
    let failed = said.iter().filter(|(.., say)| matches!(say, Say::Failed { .. })).count();
    let orders: BTreeSet<OrderId> = said
        .iter()
        .filter_map(|(.., say)| match say {
            Say::Certified { certificate } => Some(certificate.order.id().expect("valid")),
            _ => None,
        })
        .collect();
    assert_eq!((failed, orders.len()), (0, 1), "one vote");
}

/// What a vote binds to is on disk before the vote goes out: the crash is at the very moment at which it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_still_binds_after_a_crash() {
    let mut village = Village::settled(2).await;
    let fresh = village.dir.path().join("fresh");
    let crashed = village.dir.path().join("crashed");
    let folders: Vec<_> = village.stewards.iter().map(|peer| (*peer, village.folder(peer))).collect();
    let group_file = format!("{}.group", village.world.ticket.id());
    for (peer, folder) in &folders {
        fs::create_dir_all(fresh.join(peer.short())).expect("made");
        fs::copy(folder.join(&group_file), fresh.join(peer.short()).join(&group_file)).expect("registered is durable");
    }
    type Seen = Arc<Mutex<(Vec<Order>, Option<(PeerKey, PeerKey, Order)>)>>;
    let seen: Seen = Arc::default();
    let (noted, to_folder, file) = (Arc::clone(&seen), crashed.clone(), group_file.clone());
    *village.world.spy.lock().expect("spy") = Some(Box::new(move |from, to, request| {
        let Request::Say(say) = request else { return };
        let mut seen = noted.lock().expect("seen");
        match &**say {
            Say::Propose { order, .. } if order.action.slot().is_some() => seen.0.push(order.clone()),
            Say::Vote { order, .. } if seen.1.is_none() => {
                let Some(voted) = seen.0.iter().find(|o| o.id().as_ref() == Ok(order)).cloned() else { return };
                let (_, folder) = folders.iter().find(|(peer, _)| peer == from).expect("a steward");
                fs::create_dir_all(&to_folder).expect("made");
                for name in [&file, super::round::BELIEFS] {
                    fs::copy(folder.join(name), to_folder.join(name)).expect("there");
                }
                seen.1 = Some((*from, *to, voted));
            }
            _ => {}
        }
    }));
    village.world.away.lock().expect("away").insert(village.holder(2, 0));
    village.until("somebody votes for a copy", async |_| seen.lock().expect("seen").1.is_some()).await;
    village.stop_all().await;
    let (voter, proposer, voted) = seen.lock().expect("seen").1.clone().expect("just seen");

    // The same thing is proposed once more, as another order.
    let order =
        Order { nonce: [99; 16], issued: village.world.now(), expires: village.world.now().plus_ms(60_000), ..voted };
    let name = order.id().expect("valid");
    let vote = order.sign(&village.world.keys[&proposer]).expect("valid");
    let propose = Request::Say(Box::new(Say::Propose { order, vote }));
    let votes =
        |v: &Village| v.said_by(&voter).iter().any(|say| matches!(say, Say::Vote { order, .. } if *order == name));
    village.start_in(voter, crashed.clone()).await;
    assert_eq!(village.handle(voter, proposer, propose.clone()).await, Answer::Done);
    village.beats().await;
    assert!(!votes(&village), "it signed another order for this slot");
    village.stop(&voter).await;

    // With the state of before the vote it would have signed.
    fs::copy(fresh.join(voter.short()).join(&group_file), crashed.join(&group_file)).expect("copied");
    village.start_in(voter, crashed).await;
    assert_eq!(village.handle(voter, proposer, propose).await, Answer::Done);
    while !votes(&village) {
        village.beats().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_holder_goes_on_after_a_restart_and_gives_its_word_once() {
    let mut village = Village::new(2);
    let heir = village.of_colour(2)[4];
    village.start(heir).await;
    village.world.stuck_from.store(1, Ordering::SeqCst);
    let (_, give) = village.ordered(1, village.copy_to(heir));
    assert_eq!(village.handle(heir, village.stewards[0], give.clone()).await, Answer::Done);
    assert_eq!(
        village.handle(heir, village.stewards[1], give.clone()).await,
        Answer::Done,
        "once more is no other order"
    );
    let held = |v: &Village| v.world.shelves[&heir].shards.lock().expect("shelf").len();
    while held(&village) < 1 {
        village.beats().await;
    }
    village.stop(&heir).await;
    assert_eq!(files(&village.folder(&heir), "order"), 1);

    village.world.stuck_from.store(u64::MAX, Ordering::SeqCst);
    village.start(heir).await;
    let words = |v: &Village| -> Vec<Vec<u8>> {
        let sealed = |say| if let Say::Taken { sealed, .. } = say { Some(sealed) } else { None };
        v.said_by(&heir).into_iter().filter_map(sealed).collect()
    };
    while words(&village).len() < 7 {
        village.step().await;
    }
    assert_eq!(*village.world.fetched.lock().expect("fetched"), [(heir, 0), (heir, 1)], "each shard once");
    // No steward ran, so the word is kept, and is the same after another restart at another time.
    village.stop(&heir).await;
    assert_eq!(files(&village.folder(&heir), "order"), 1);
    village.step().await;
    village.start(heir).await;
    let before = words(&village).len();
    while words(&village).len() < before + 7 {
        village.step().await;
    }
    assert_eq!(words(&village).into_iter().collect::<BTreeSet<_>>().len(), 1);
    // A steward hears it in the end, and the order is forgotten.
    village.start(village.stewards[0]).await;
    let record = village.record.encode();
    let registered = village.handle(village.stewards[0], heir, Request::Register { record }).await;
    assert_eq!(registered, Answer::Done);
    let folder = village.folder(&heir);
    village.until("the order is forgotten", async |_| files(&folder, "order") == 0).await;
    assert_eq!(village.map(village.stewards[0]).await.expect("watched").entries.len(), 1);
    // And a steward that gives it again is told again.
    assert_eq!(village.handle(heir, village.stewards[2], give).await, Answer::Done);
    assert_eq!(village.world.fetched.lock().expect("fetched").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_give_for_another_colour_is_refused() {
    let mut village = Village::new(2);
    let other = village.of_colour(4)[3];
    village.start(other).await;
    let (_, give) = village.ordered(1, village.copy_to(other));
    let answer = village.handle(other, village.stewards[0], give).await;
    assert_eq!(answer, Answer::Refused(Refusal::Forged));
    let refused = |say: &Say| matches!(say, Say::Failed { failure: Failure::Refused, .. });
    village
        .until("the stewards are told", async |v| v.said_by(&other).iter().filter(|say| refused(say)).count() >= 7)
        .await;
    assert!(village.world.shelves[&other].shards.lock().expect("shelf").is_empty());
    assert!(village.world.fetched.lock().expect("fetched").is_empty());
    assert_eq!(files(&village.folder(&other), "order"), 0);
    // Nor is one that is for somebody else, or that no quorum signed, or that has no room.
    let heir = village.of_colour(2)[4];
    let (_, elsewhere) = village.ordered(2, village.copy_to(heir));
    assert_eq!(village.handle(other, village.stewards[0], elsewhere.clone()).await, Answer::Refused(Refusal::Forged));
    village.start(heir).await;
    village.world.shelves[&heir].full.store(true, Ordering::SeqCst);
    assert_eq!(village.handle(heir, village.stewards[0], elsewhere).await, Answer::Refused(Refusal::Full));
    village.world.shelves[&heir].full.store(false, Ordering::SeqCst);
    village.stewards.truncate(4);
    let (_, unsigned) = village.ordered(3, village.copy_to(heir));
    assert_eq!(village.handle(heir, village.stewards[0], unsigned).await, Answer::Refused(Refusal::Forged));
    assert!(village.world.shelves[&heir].shards.lock().expect("shelf").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_lies_is_named_and_nothing_is_kept() {
    let mut village = Village::new(2);
    let (heir, liar) = (village.of_colour(2)[4], village.holder(2, 1));
    for (_, bytes) in village.world.shelves[&liar].shards.lock().expect("shelf").values_mut() {
        *bytes = vec![0; bytes.len()].into();
    }
    village.start(heir).await;
    let (_, give) = village.ordered(1, village.copy_to(heir));
    assert_eq!(village.handle(heir, village.stewards[0], give).await, Answer::Done);
    let named = |say: &Say| matches!(say, Say::Failed { failure: Failure::Wrong(Some(who)), .. } if *who == liar);
    village.until("the liar is named", async |v| v.said_by(&heir).iter().any(named)).await;
    assert!(village.world.shelves[&heir].shards.lock().expect("shelf").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_group_is_learned_again_from_the_others() {
    let mut village = Village::settled(2).await;
    let steward = village.stewards[2];
    village.stop(&steward).await;
    let path = village.folder(&steward).join(format!("{}.group", village.world.ticket.id()));
    let mut bytes = fs::read(&path).expect("durable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("rotten");
    village.start(steward).await;
    village.until("it has the record again", async |v| v.map(steward).await.is_some()).await;
    assert_eq!(files(&village.folder(&steward), "damaged"), 1);
    village.until("and on disk", async |_| path.exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_a_steward_is_silent_and_takes_no_more_groups() {
    let village = Village::settled(2).await;
    let (steward, owner) = (village.stewards[1], village.holder(0, 0));
    let disk = Arc::clone(&village.disks[&steward]);
    disk.full.store(true, Ordering::SeqCst);
    village.beats().await;
    village.world.said.lock().expect("said").clear();
    village.world.away.lock().expect("away").insert(village.holder(2, 0));
    village.until("the others repair", async |v| v.heir().is_some()).await;
    let binding = |say: &Say| matches!(say, Say::Vote { .. } | Say::Propose { .. });
    assert!(!village.said_by(&steward).iter().any(binding), "what it cannot write down it does not say");
    let newer = Request::Register { record: village.newer_record() };
    assert_eq!(village.handle(steward, owner, newer.clone()).await, Answer::Refused(Refusal::Full));
    assert_eq!(files(&village.folder(&steward), "group"), 1, "what was there is there");

    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(village.handle(steward, owner, newer).await, Answer::Done, "it is here already, and durable now");
    let file = village.folder(&steward).join(format!("{}.group", village.world.ticket.id()));
    let newest = |what: &What| matches!(what, What::Adopted { generation: 2 });
    village.stop(&steward).await;
    let mut village = village;
    assert!(file.exists());
    village.start(steward).await;
    let map = village.map(steward).await.expect("watched");
    assert!(map.log.iter().any(|entry| newest(&entry.what)));
}

/// On one thread: all of them have asked before the first is answered.
#[tokio::test]
async fn strangers_make_it_neither_grow_nor_stop() {
    let mut village = Village::new(2);
    let (bystander, heir) = (village.of_colour(5)[7], village.of_colour(2)[4]);
    village.start(bystander).await;
    village.start(heir).await;
    let stranger = village.holder(0, 1);
    let record = village.record.encode();
    let group = village.world.ticket.id();
    let kinds: [Box<dyn Fn(u32) -> Request>; 4] = [
        Box::new(|i| Request::Register { record: i.to_le_bytes().repeat(20_000) }),
        Box::new(|_| Request::Register { record: record.clone() }),
        Box::new(|_| Request::Say(Box::new(Say::Compare { group, generation: 0, digest: [0; 32] }))),
        Box::new(|i| Request::Ask { ticket: village.world.ticket, grant: vec![i as u8; 178] }),
    ];
    let asked = (0..2000u32).map(|i| village.handle(bystander, stranger, kinds[i as usize % 4](i)));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Refused(_))));
    // The queue is bounded: of so many at once some are told to come again, and the rest is judged.
    let count = |why: Refusal| answers.iter().filter(|answer| **answer == Answer::Refused(why)).count();
    assert_eq!((count(Refusal::Busy), count(Refusal::Forged)), (2000 - super::QUEUE, super::QUEUE / 2));
    assert_eq!(files(&village.folder(&bystander), "group"), 0);
    assert!(village.said_by(&bystander).is_empty(), "and it says nothing to anybody");

    // One that may come from a steward is answered, once a minute, whatever groups a stranger makes up.
    let compare = |i: u8| {
        let group = cairn_proto::GroupId::from_bytes([i; 32]);
        Request::Say(Box::new(Say::Compare { group, generation: 1, digest: [0; 32] }))
    };
    assert_eq!(village.handle(bystander, stranger, compare(0)).await, Answer::Done);
    for i in 1..100 {
        assert_eq!(village.handle(bystander, stranger, compare(i)).await, Answer::Refused(Refusal::Busy));
    }
    let other = village.holder(0, 0);
    assert_eq!(village.handle(bystander, other, compare(0)).await, Answer::Done);
    village.until("both are answered", async |v| v.said_by(&bystander).len() >= 2).await;
    for _ in 0..2 {
        village.step().await;
    }
    assert_eq!(village.handle(bystander, stranger, compare(1)).await, Answer::Done, "a minute later");

    // Orders that hang: a few of one peer, a few of one authority.
    village.world.stuck_from.store(0, Ordering::SeqCst);
    let mut given = 0;
    for giver in [stranger, other] {
        let mut answers = Vec::new();
        for _ in 0..10u8 {
            given += 1;
            let (_, give) = village.ordered(given, village.copy_to(heir));
            answers.push(village.handle(heir, giver, give).await);
        }
        let taken = answers.iter().filter(|answer| **answer == Answer::Done).count();
        assert_eq!(taken, if giver == stranger { OPEN_EACH } else { OPEN_AUTHORITY - OPEN_EACH });
        assert_eq!(answers.last(), Some(&Answer::Refused(Refusal::Busy)));
    }
    assert_eq!(files(&village.folder(&heir), "order"), OPEN_AUTHORITY);
}

/// Nobody hears our word, as when a stranger made the stewards up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_were_carried_out_keep_no_place() {
    let mut village = Village::new(2);
    let (heir, giver) = (village.of_colour(2)[4], village.holder(0, 1));
    village.start(heir).await;
    for nonce in 0..(TELLING_MAX + OPEN_MAX) as u8 {
        village
            .until("it is taken", async |v| {
                let (_, give) = v.ordered(nonce, v.copy_to(heir));
                v.handle(heir, giver, give).await == Answer::Done
            })
            .await;
    }
    let folder = village.folder(&heir);
    village.until("the oldest are given up", async |_| files(&folder, "order") == TELLING_MAX).await;
    // The rest is still brought after a restart.
    village.stop(&heir).await;
    village.world.said.lock().expect("said").clear();
    village.start(heir).await;
    let told = |v: &Village| -> BTreeSet<Vec<u8>> {
        let sealed = |say| if let Say::Taken { sealed, .. } = say { Some(sealed) } else { None };
        v.said_by(&heir).into_iter().filter_map(sealed).collect()
    };
    village.until("all are brought", async |v| told(v).len() == TELLING_MAX).await;
}

/// Done is what a new holder stops telling at, so it is not said of what a crash could lose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_that_is_not_on_disk_is_not_done() {
    let village = Village::settled(2).await;
    let (steward, heir) = (village.stewards[1], village.of_colour(2)[4]);
    let (certificate, _) = village.ordered(1, village.copy_to(heir));
    let taken = cairn_proto::Taken {
        order: certificate.order.id().expect("valid"),
        group: certificate.order.group,
        slot: village::slot(2),
        ordinals: (0..village::STRIPES).collect(),
        previous: [0; 32],
        at: village.world.now(),
        holder: heir,
    };
    let sealed = taken.seal(&village.world.keys[&heir]);
    let word = Request::Say(Box::new(Say::Taken { certificate, sealed }));
    let disk = Arc::clone(&village.disks[&steward]);
    disk.full.store(true, Ordering::SeqCst);
    assert_eq!(village.handle(steward, heir, word.clone()).await, Answer::Refused(Refusal::Full));
    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(village.handle(steward, heir, word).await, Answer::Done);
    assert_eq!(village.map(steward).await.expect("watched").entries.len(), 1);
}
