//! A holder leaves politely, and one takes a pause.

use std::{collections::BTreeSet, fs};

use crate::{
    harness::{Lab, Owner, StoredShard, Stores, below, until},
    tree,
};

/// What came of a departure that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    Done,
    /// The stewards say that nobody can take a slot of it.
    NoHeir,
}

/// Slots of groups, by the group's short id, that stewards say nobody is there to take.
pub fn without_heir(lab: &Lab) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    for node in lab.nodes() {
        for group in lab.on_node(node, &["status", "--json"]).rows("watched_group") {
            let slots = group["stuck"].as_array().expect("a list").clone();
            let slots = slots.iter().filter(|stuck| stuck["nobody"] == true);
            let name = group["group"].as_str().expect("a name").to_owned();
            found.extend(slots.map(|stuck| (name.clone(), stuck["slot"].as_u64().expect("a slot"))));
        }
    }
    found
}

fn leave(lab: &Lab, leaver: usize, before: &Stores) -> Came {
    let mut view = lab.begin_on_node(leaver, &["node", "leave", "--in", "10m", "--json"]);
    let its = |(group, slot): &(String, u64)| {
        before.0[&leaver].iter().any(|shard| shard.group.starts_with(group.as_str()) && shard.slot == *slot)
    };
    let came = until("everything lies elsewhere, or nobody can take it", || {
        if !view.is_running() {
            return Some(Came::Done);
        }
        without_heir(lab).iter().any(its).then_some(Came::NoHeir)
    });
    if came == Came::Done {
        assert_eq!(view.finish().ok().summary()["state"], "done");
    } else {
        drop(view);
        lab.on_node(leaver, &["node", "leave", "--cancel"]).ok();
    }
    came
}

/// What it held lies elsewhere before it goes; then nobody misses it.
#[test]
fn a_holder_that_leaves_is_not_missed() {
    // A day is half a minute: within it every steward asks once what a holder has.
    let lab = Lab::hurried(18, "0.0003");
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("departure", 6_000_000)).unwrap();
    owner.backup(&source).stored();
    let before = lab.stores();
    let mut holders: Vec<usize> = lab.nodes().filter(|node| !before.0[node].is_empty()).collect();
    holders.sort_by_key(|node| std::cmp::Reverse(before.0[node].len()));
    lab.on_node(holders[0], &["node", "leave", "--cancel"]).expect(8);
    for holder in &holders {
        until("its stewards are known to it", || {
            let health = lab.on_node(*holder, &["node", "health", "--json"]).summary();
            (health["groups"].as_u64() > Some(0) && health["watched"] == health["groups"]).then_some(())
        });
    }
    // To go at once is not done by a slip.
    lab.on_node(holders[0], &["node", "leave", "--now"]).expect(15);
    // Two peers of each colour are the rule among eighteen, so some holder has an heir for each of its slots.
    let leaver = holders.iter().copied().find(|holder| leave(&lab, *holder, &before) == Came::Done);
    let leaver = leaver.expect("one of the holders can go");
    lab.stop(&[leaver]);
    let after = lab.stores();
    after.assert_separated();
    let elsewhere = |gone: &StoredShard| {
        let same =
            |shard: &StoredShard| (&shard.group, shard.ordinal, shard.slot) == (&gone.group, gone.ordinal, gone.slot);
        after.0.iter().any(|(node, shards)| *node != leaver && shards.iter().any(same))
    };
    for shard in &before.0[&leaver] {
        assert!(elsewhere(shard), "{shard:?} went with it");
    }

    // Another takes a pause: it says so and until when, and the owner gets everything all the same.
    let resting = *holders.iter().find(|holder| **holder != leaver).expect("several");
    let paused = lab.on_node(resting, &["node", "pause", "--for", "1h", "--json"]).ok().summary();
    assert!(paused["paused"] == true && paused["until_ms"].as_u64() > Some(0) && paused["node_runs"] == true);
    let courtesy = || lab.on_node(resting, &["status", "--json"]).rows("this_node")[0]["courtesy"].clone();
    assert!(courtesy()["paused"] == true && courtesy()["paused_until"].as_u64() == paused["until_ms"].as_u64());
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
    // Nothing but its own end ends it, also when the node starts anew.
    lab.stop(&[resting]);
    lab.start(&[resting]);
    assert_eq!(courtesy()["paused"], true);
    assert_eq!(lab.on_node(resting, &["node", "resume", "--json"]).ok().summary()["paused"], false);
    assert_eq!(courtesy()["paused"], false);
}
