//! Who serves slowly gets nothing new, and whoever reads hardly notices; whose line has a limit is not taken for one.

use std::{
    collections::BTreeSet,
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use cairn_proto::PeerKey;
use serde_json::Value;

use crate::{
    cheats::{lines, peer_of, runtime},
    harness::{Lab, Owner, Running, below, until, until_within},
    rogue::Rogue,
    tree,
};

/// A round, which is a day to whoever judges, is ten seconds: the least.
const SCALE: &str = "0.0001";
/// A shard takes a good minute: less than a requester waits, and not for fifteen seconds nothing; and too long also for three that were
/// asked for at once, of which the others are refused.
const TRICKLE: u64 = 15 * 1024;
/// A shard takes ten seconds: twice as fast as the slowest that is nobody's fault.
const LIMIT: &str = "100 KiB/s";
/// Nodes with a line of their own that is so slow.
const LIMITED: std::ops::Range<usize> = 0..4;
/// Twenty seconds to see that a shard does not come, or forty when two were asked for, twice; the rest is for a machine that is busy with
/// other things.
const SLOW_WITHIN: Duration = Duration::from_secs(600);
/// Whoever waited for a shard of the slow one would take longer than that, and for what others rebuild it takes some ten seconds.
const RESTORED_WITHIN: Duration = Duration::from_secs(50);
/// From one restore to the next: until then the slow one sends what nobody wants any more, and takes no question.
const AGAIN_AFTER: Duration = Duration::from_secs(75);
/// Owners that back up until one of them reads from those that this is about: one in four does.
const OWNERS_MAX: usize = 30;

/// What an owner says of a peer.
fn told(owner: &Owner, peer: &PeerKey) -> Value {
    owner.run(["peers", "--explain", &peer.to_string(), "--json"]).ok().summary()
}

/// Prompt and slow shards in what is told.
fn pace(told: &Value) -> (u64, u64) {
    let said = lines(told);
    let Some(line) = said.lines().find(|line| line.starts_with("served quickly")) else { return (0, 0) };
    let figures = line.split("seen: ").nth(1).unwrap_or_else(|| panic!("{line}"));
    let words: Vec<&str> = figures.split(' ').collect();
    match words[..] {
        [prompt, "prompt", "and", slow, "slow", ..] => (prompt.parse().unwrap(), slow.parse().unwrap()),
        _ => panic!("{line}"),
    }
}

/// Who has the slots of the owner's groups: of each group, those that are read first, and the others.
fn holders(owner: &Owner) -> Vec<[BTreeSet<String>; 2]> {
    let groups = owner.run(["status", "--json"]).ok().rows("group");
    let of = |group: &Value| {
        let data = group["slots_live"].as_i64().unwrap() - group["margin"].as_i64().unwrap();
        let (first, rest) = group["holders"].as_array().unwrap().split_at(data as usize);
        [first, rest].map(|slots| {
            let peers = slots.iter().flat_map(|slot| slot.as_array().unwrap());
            peers.map(|peer| peer.as_str().unwrap().to_owned()).collect()
        })
    };
    groups.iter().map(of).collect()
}

#[test]
fn who_serves_slowly_gets_nothing_new_and_a_limited_line_is_not_slow() {
    let limits = format!("[limits]\nup = \"{LIMIT}\"\n");
    let lab = Lab::configured(13, SCALE, |node| if LIMITED.contains(&node) { limits.clone() } else { String::new() });
    let runtime = runtime();
    let rogue = runtime.block_on(Rogue::join_slow(&lab, "trickle", "trickle", SCALE, TRICKLE));
    let slow = rogue.peer();
    let limited: BTreeSet<String> = LIMITED.map(|node| peer_of(&lab, node).to_string()).collect();
    // Who is in a group is drawn for each. Five of its eight must be quick, and one of those read first is not.
    let mut owners = 0;
    let (owner, source, near) = until_within(SLOW_WITHIN, "an owner reads from the slow one and a limited one", || {
        owners += 1;
        assert!(owners <= OWNERS_MAX, "none of {owners} owners");
        let owner = Owner::init(&lab);
        let source = owner.place("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), tree::noise(&format!("slow {owners}"), 8_000_000)).unwrap();
        owner.backup(&source).stored();
        let groups = holders(&owner);
        let [first, rest] = groups.into_iter().find(|[first, _]| first.contains(&slow.to_string()))?;
        let near: BTreeSet<String> = first.intersection(&limited).cloned().collect();
        let quick = first.union(&rest).filter(|peer| !limited.contains(*peer) && **peer != slow.to_string()).count();
        (!near.is_empty() && quick >= first.len()).then_some((owner, source, near))
    });

    // Its own node goes on when a restore is over, so it sees how long a shard takes that nobody waited for.
    fs::write(owner.data_dir().join("config.toml"), format!("[timers]\nscale = {SCALE}\n")).unwrap();
    let run = ["node", "run", "--domain", "reader", "--give", "1GiB", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let node = Running::spawn(owner.command(run), Stdio::null());
    node.wait_for("listening");
    let wanted = tree::describe(&source);
    let (mut restores, mut last) = (0, Instant::now());
    let out = until_within(SLOW_WITHIN, "the owner sees that it is slow, day after day", || {
        if restores == 0 || last.elapsed() > AGAIN_AFTER {
            restores += 1;
            last = Instant::now();
            let (target, began) = (owner.place(&format!("target-{restores}")), Instant::now());
            owner.restore("latest", &target).ok();
            let took = began.elapsed();
            assert!(took < RESTORED_WITHIN, "restore {restores} took {took:?}");
            tree::assert_same(&wanted, &below(&target, &source));
            fs::remove_dir_all(&target).unwrap();
        }
        let told = told(&owner, &slow);
        (told["eligible"] == false).then_some(told)
    });
    let (prompt, late) = pace(&out);
    let said = lines(&out);
    assert!(prompt == 0 && late >= 2, "{said}");
    assert!(said.contains("not eligible") && out["convicted"] == false, "{said}");
    let listed = owner.run(["peers", "--json"]).ok().rows("peer");
    let row = listed.iter().find(|row| row["peer"] == slow.to_string().as_str()).expect("known");
    assert!(row["note"].as_str().is_some_and(|note| note.starts_with("not trusted")), "{row}");

    // The limited ones were asked as often, and nobody blames them.
    for one in &near {
        let told = told(&owner, &one.parse().expect("a key"));
        assert!(pace(&told).1 == 0 && told["eligible"] == true, "{}", lines(&told));
    }
    // What the owner stores from now on goes elsewhere, and so does nothing that is there already.
    let before = rogue.keeper.count();
    fs::write(source.join("more"), tree::noise("more", 8_000_000)).unwrap();
    owner.backup(&source).stored();
    assert_eq!(rogue.keeper.count(), before, "it was given something");
    let target = owner.place("target");
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
    // Nobody else read from it, and nobody takes that owner's word for it.
    let elsewhere = lab.on_node(LIMITED.end, &["peers", "--explain", &slow.to_string(), "--json"]).ok().summary();
    assert!(pace(&elsewhere) == (0, 0) && elsewhere["eligible"] == true, "{elsewhere}");
    until("it is there all the same", || (rogue.handle.readiness().connected > 0).then_some(()));
}
