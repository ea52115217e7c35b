//! More than half of a group's stewards are lost at once, and whoever is left goes on.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::{
    departure::without_heir,
    harness::{Lab, Owner, Stores, below, until, until_within},
    tree,
};

/// Two of the stewards' days, the votes, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a node says of a group that it watches.
fn watched(lab: &Lab, node: usize, group: &str) -> Option<Value> {
    let rows = lab.on_node(node, &["status", "--json"]).rows("watched_group");
    rows.into_iter().find(|row| row["group"] == group)
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

/// A holder dies. Whether its slot lies at somebody else then; not, where nobody can take it.
fn is_repaired(lab: &Lab, before: &Stores, group: &str, holder: usize) -> bool {
    let of = |stores: &Stores, node: usize| -> Vec<(u64, u64)> {
        let shards = stores.0[&node].iter().filter(|shard| shard.group.starts_with(group));
        shards.map(|shard| (shard.slot, shard.ordinal)).collect()
    };
    let had = of(before, holder);
    lab.kill(&[holder]);
    until_within(PATIENCE, "its slot lies elsewhere, or nobody can take it", || {
        if without_heir(lab).iter().any(|(of, slot)| of == group && had.iter().any(|(at, _)| at == slot)) {
            return Some(false);
        }
        let now = lab.stores();
        let at = |what: &(u64, u64)| lab.nodes().any(|node| node != holder && of(&now, node).contains(what));
        had.iter().all(at).then_some(true)
    })
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
    // One after the other, as long as the stripes can stand it: not each slot has an heir.
    let holders = lab.nodes().filter(|node| *node != left && !lost.contains(node) && !before.0[node].is_empty());
    let repaired = holders.take(2).any(|holder| is_repaired(&lab, &before, &short, holder));
    assert!(repaired, "of two slots neither had an heir");
    lab.stores().assert_separated();
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}
