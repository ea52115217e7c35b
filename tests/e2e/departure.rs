//! A holder leaves politely.

use std::fs;

use crate::{
    harness::{Lab, Owner, below, until},
    tree,
};

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
    let leaver = lab.nodes().max_by_key(|node| before.0[node].len()).expect("nodes");
    let nobody = lab.on_node(leaver, &["node", "leave", "--cancel"]);
    nobody.expect(8);
    until("its stewards are known to it", || {
        let health = lab.on_node(leaver, &["node", "health", "--json"]).summary();
        (health["groups"].as_u64() > Some(0) && health["watched"] == health["groups"]).then_some(())
    });
    // To go at once is not done by a slip.
    lab.on_node(leaver, &["node", "leave", "--now"]).expect(15);
    let left = lab.on_node(leaver, &["node", "leave", "--in", "10m", "--json"]).ok();
    assert_eq!(left.summary()["state"], "done");
    lab.stop(&[leaver]);
    let after = lab.stores();
    after.assert_separated();
    let held_elsewhere = |group: &str, ordinal: u64, slot: u64| {
        let same = |shard: &crate::harness::StoredShard| {
            shard.group == group && shard.ordinal == ordinal && shard.slot == slot
        };
        after.0.iter().any(|(node, shards)| *node != leaver && shards.iter().any(same))
    };
    for shard in &before.0[&leaver] {
        assert!(held_elsewhere(&shard.group, shard.ordinal, shard.slot), "{shard:?} went with it");
    }
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}
