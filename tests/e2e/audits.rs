//! Holders are audited by their owner, and by somebody who has no key of it.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::{
    cheats::{explained, runtime},
    harness::{Lab, Owner, until_within},
    rogue::{Audited, Rogue},
    tree,
};

/// A day is half a minute, and nobody is known for long enough to audit for stewards.
const SCALE: &str = "0.0003";
/// Questions with tokens are twenty seconds apart, and five stewards have to see it.
const FOUND_WITHIN: Duration = Duration::from_secs(180);
/// Owners that back up until the rogue has a slot of one of them: three in four groups have it.
const OWNERS_MAX: usize = 20;

#[test]
fn what_a_damaged_disk_lost_is_found_without_reading_it_back() {
    let lab = Lab::up(12);
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("audited", 20_000_000)).unwrap();
    owner.backup(&source).ok();

    let all = owner.run(["audit", "--all", "--full-slots", "--json"]).ok();
    let shards = all.figure("shards");
    assert!(shards >= 32 && all.figure("right") == shards, "{}", all.text());
    assert_eq!(["missing", "wrong", "silent"].map(|key| all.figure(key)), [0; 3]);
    owner.run(["audit", "--samples", "2", "--json"]).ok();

    let file = owner.place("proof.tokens");
    let file = file.to_str().expect("text");
    owner.run(["audit", "--all", "--make-token", file, "--samples", "1000", "--json"]).ok();
    let third = Owner::blank(&lab.network_file());
    let shown = third.run(["audit", "--token", file, "--samples", "10", "--json"]).ok();
    assert_eq!((shown.figure("right"), shown.figure("left")), (10, shards - 10));

    // A disk loses bytes while its node is away: one at least of some shard in each segment.
    let stores = lab.stores();
    let victim = lab.nodes().max_by_key(|n| stores.0[n].len()).expect("twelve nodes");
    lab.stop(&[victim]);
    for entry in fs::read_dir(lab.node_dir(victim).join("store/segments")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // Every shard's record is a little over a MiB.
        bytes.iter_mut().skip(500_000).step_by(1_000_000).for_each(|byte| *byte ^= 0x10);
        fs::write(&path, bytes).unwrap();
    }
    lab.start(&[victim]);
    let found = owner.run(["audit", "--all", "--full-slots", "--json"]).expect(5);
    let missing = found.figure("missing");
    assert!(missing >= 1 && found.figure("wrong") == 0, "{}", found.text());
    assert_eq!(found.figure("right") + missing + found.figure("silent"), shards);
    let shown = third.run(["audit", "--token", file, "--json"]).expect(5);
    assert_eq!(shown.figure("used_before"), 10);
    assert!(shown.figure("missing") >= 1 && shown.figure("mismatch") == 0, "{}", shown.text());
    let again = third.run(["audit", "--token", file, "--json"]).expect(15);
    assert_eq!(again.exit_error()["id"], "TOKENS_USED");
}

/// Nobody may audit it, so the owner's tokens are all that finds it out: stewards use them up one by one, believe it while it has what
/// they ask for, and doubt it when it signs digests of nothing. What one of them thinks costs nobody its name.
#[test]
fn tokens_find_who_dropped_a_slot_that_nobody_can_audit() {
    // All tokens of a slot within forty seconds, and no two questions closer than a round of audits.
    let lab = Lab::timed(10, SCALE, "tokens = 1\naudit = 1\n");
    let runtime = runtime();
    let rogue = runtime.block_on(Rogue::join(&lab, "lonely", "lonely", Audited::Drops, SCALE));
    let cheat = rogue.peer();
    let mut owners = Vec::new();
    let (group, slot) = until_within(FOUND_WITHIN, "a steward asks the rogue with a token", || {
        if rogue.keeper.count() == 0 && owners.len() < OWNERS_MAX {
            let owner = Owner::init(&lab);
            owner.backup_stream("file", &tree::noise(&format!("tokens {}", owners.len()), 3_000_000)).stored();
            owners.push(owner);
        }
        rogue.digested().pop_first()
    });
    let (short, place) = (group.short(), u64::from(slot.as_u8()));
    // What each steward says of the group; one that names the rogue's slot among those that it asks for with tokens, as (used, left).
    let watched = |node: usize| {
        let rows = lab.on_node(node, &["status", "--json"]).ok().rows("watched_group");
        rows.into_iter().find(|row| row["group"] == short.as_str())
    };
    let tokens = |row: &Value| {
        let rows = row["by_tokens"].as_array().expect("a list").clone();
        let its = rows.into_iter().find(|tokens| tokens["slot"] == place && tokens["holder"] == cheat.short().as_str());
        its.map(|tokens| (tokens["used"].as_u64().expect("used"), tokens["left"].as_u64().expect("left")))
    };
    let (node, before) = until_within(FOUND_WITHIN, "a steward says how many it used", || {
        let of = |node: usize| Some((node, tokens(&watched(node)?)?));
        lab.nodes().filter_map(of).find(|(_, (used, left))| *used > 0 && *left > 0)
    });
    let after = until_within(FOUND_WITHIN, "it uses another one", || {
        tokens(&watched(node)?).filter(|(used, _)| *used > before.0)
    });
    assert_eq!(after.0 + after.1, before.0 + before.1, "what was used is not left: {before:?} {after:?}");
    let doubts = |row: &Value| row["not_shown"].as_array().expect("a list").clone();
    for row in lab.nodes().filter_map(watched) {
        assert!(doubts(&row).is_empty(), "so far it has all that it was asked for: {row}");
    }

    rogue.makes_up(group);
    let named = format!("{} of slot {place}: ", cheat.short());
    until_within(FOUND_WITHIN, "so many stewards as an order takes doubt it", || {
        let rows: Vec<Value> = lab.nodes().filter_map(watched).collect();
        let quorum = rows.iter().filter_map(|row| row["quorum"].as_u64()).max()?;
        let names = |row: &Value| doubts(row).iter().any(|name| name.as_str().is_some_and(|n| n.starts_with(&named)));
        (rows.iter().filter(|row| names(row)).count() as u64 >= quorum).then_some(())
    });
    for row in lab.nodes().filter_map(watched) {
        let others = doubts(&row).iter().filter(|name| !name.as_str().is_some_and(|n| n.starts_with(&named))).count();
        assert_eq!(others, 0, "nobody else is doubted: {row}");
    }
    for node in lab.nodes() {
        let told = explained(&lab, node, &cheat).expect("known");
        assert!(told["convicted"] == false && told["owing"].is_null(), "tokens prove nothing to others: {told}");
    }
}
