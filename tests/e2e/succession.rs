//! More than half of a group's stewards are lost at once, and whoever is left goes on.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::Value;

use crate::{
    harness::{Lab, Owner, Stores, below, until, until_within},
    tree,
};

/// Two of the stewards' days, the votes, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a node that runs says of a group that it watches. Of one that is dead nobody may ask: `cairn status` would join the network in its name.
fn watched(lab: &Lab, node: usize, group: &str) -> Option<Value> {
    let rows = lab.on_node(node, &["status", "--json"]).rows("watched_group");
    rows.into_iter().find(|row| row["group"] == group)
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

/// Slots of a group that its steward says nobody is there to take.
fn without_heir(lab: &Lab, steward: usize, group: &str) -> BTreeSet<u64> {
    let row = watched(lab, steward, group).expect("watched");
    let stuck = row["stuck"].as_array().expect("a list").iter().filter(|stuck| stuck["nobody"] == true);
    stuck.map(|stuck| number(stuck, "slot")).collect()
}

/// One steward of a committee is left. After two days (52 s here) it fills the others' places, or gives up those that nobody can take; then
/// what is lost is repaired, and every byte comes back.
#[test]
fn a_group_lives_as_long_as_one_of_its_stewards() {
    let lab = Lab::hurried(24, "0.0003");
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("succession", 3_000_000)).unwrap();
    owner.backup(&source).stored();
    let before = lab.stores();
    let name = before.0.values().flatten().next().expect("stored").group.clone();
    let group = |node: usize| {
        let rows = lab.on_node(node, &["status", "--json"]).rows("watched_group");
        rows.into_iter().find(|row| row["group"].as_str().is_some_and(|short| name.starts_with(short)))
    };
    let stewards: Vec<usize> = lab.nodes().filter(|node| group(*node).is_some()).collect();
    assert!(stewards.len() >= 3, "{stewards:?}");
    let short = group(stewards[0]).expect("watched")["group"].as_str().expect("a name").to_owned();
    until("its stewards know each other", || {
        let seen = watched(&lab, stewards[0], &short)?;
        (number(&seen, "stewards_here") == stewards.len() as u64).then_some(())
    });
    let (left, lost) = (stewards[0], &stewards[1..]);
    lab.kill(lost);
    let alone = until("it is alone", || {
        let seen = watched(&lab, left, &short)?;
        (number(&seen, "stewards_here") == 1).then_some(seen)
    });
    assert!(number(&alone, "quorum") > 1, "{alone}");
    until_within(PATIENCE, "those who are here are enough", || {
        let seen = watched(&lab, left, &short)?;
        let (here, all) = (number(&seen, "stewards_here"), number(&seen, "stewards"));
        (here >= number(&seen, "quorum") && here == all).then_some(())
    });
    // Two holders at once leave k + 1 slots, and that is repaired at once, but for slots that nobody else may have.
    let of_group = |stores: &Stores, node: usize| -> BTreeSet<(u64, u64)> {
        let shards = stores.0[&node].iter().filter(|shard| shard.group == name);
        shards.map(|shard| (shard.slot, shard.ordinal)).collect()
    };
    let holders: Vec<usize> = lab.nodes().filter(|node| !of_group(&before, *node).is_empty()).take(2).collect();
    lab.kill(&holders);
    let had: BTreeSet<(u64, u64)> = holders.iter().flat_map(|holder| of_group(&before, *holder)).collect();
    let repaired = until_within(PATIENCE, "each slot lies elsewhere, or nobody can take it", || {
        let stuck = without_heir(&lab, left, &short);
        let now = lab.stores();
        let living = lab.nodes().filter(|node| !holders.contains(node));
        let have: BTreeSet<(u64, u64)> = living.flat_map(|node| of_group(&now, node)).collect();
        let open = had.iter().any(|shard| !have.contains(shard) && !stuck.contains(&shard.0));
        (!open).then(|| had.intersection(&have).count())
    });
    assert!(repaired > 0, "of two slots neither had an heir");
    lab.stores().assert_separated();
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}
