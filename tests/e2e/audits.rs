//! Holders are audited by their owner, and by somebody who has no key of it.

use std::fs;

use crate::{
    harness::{Lab, Owner},
    tree,
};

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
