//! What goes in comes out: bytes, names, times, modes, links, holes.

use std::fs;

use crate::{
    harness::{Lab, Owner, below},
    tree,
};

#[test]
fn a_mixed_tree_comes_back_byte_for_byte() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    tree::build(&source);
    let before = tree::describe(&source);

    owner.backup(&source).ok();
    let snapshots = owner.snapshots();
    assert_eq!(snapshots.len(), 1);
    let files = before.len() as u64;
    assert!(snapshots[0]["total_files"].as_u64().unwrap() <= files);
    assert_eq!(tree::differences(&before, &tree::describe(&source)), [""; 0], "a backup changes nothing");

    let target = owner.place("restored");
    owner.restore("latest", &target).ok();
    tree::assert_same(&before, &below(&target, &source));

    // The short id names it too, a part of it can be had, and patterns choose.
    let short = snapshots[0]["short_id"].as_str().unwrap().to_owned();
    let part = owner.place("part");
    owner.run(["restore", &short, "--target", part.to_str().unwrap(), "--include", "dump.sql"]).ok();
    let wanted = below(&part, &source).join("dump.sql");
    assert_eq!(fs::read(wanted).unwrap(), fs::read(source.join("dump.sql")).unwrap());
    assert!(!below(&part, &source).join("one").exists());

    let path = source.join("sizes/stripe-plus");
    let dumped = owner.dump("latest", path.to_str().unwrap()).ok();
    assert!(dumped.stdout == fs::read(&path).unwrap(), "dump gives the file's bytes");

    // Restoring again over what is there changes nothing and is allowed.
    owner.restore("latest", &target).ok();
    tree::assert_same(&before, &below(&target, &source));

    owner.run(["check", "--read-data", "--json"]).ok();
    lab.stores().assert_separated();
}

#[test]
fn a_second_snapshot_sends_only_what_changed() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    for n in 0..4 {
        fs::write(source.join(format!("big-{n}")), tree::noise(&format!("big {n}"), 6_000_000)).unwrap();
    }
    let first = owner.backup(&source).ok();
    assert!(first.figure("data_added") >= 24_000_000);
    assert!(first.figure("bytes_sent") >= 24_000_000 / 5 * 8, "parity is sent too");

    let again = owner.backup(&source).ok();
    assert_eq!(again.figure("files_new"), 0);
    assert_eq!(again.figure("files_unmodified"), 4);
    assert!(again.figure("data_added") < 100_000, "{}", again.summary());
    assert!(again.figure("bytes_sent") <= 10 << 20, "a commit costs a short stripe or two: {}", again.summary());

    let mut changed = tree::noise("big 2", 6_000_000);
    changed.truncate(3_000_000);
    changed.extend_from_slice(b"a line in the middle");
    changed.extend_from_slice(&tree::noise("big 2", 6_000_000)[3_000_000..]);
    fs::write(source.join("big-2"), &changed).unwrap();
    fs::copy(source.join("big-1"), source.join("copy-of-1")).unwrap();
    let third = owner.backup(&source).stored();
    assert_eq!((third.figure("files_new"), third.figure("files_changed")), (1, 1));
    assert!(third.figure("data_added") < 6_000_000, "only the chunks around the change: {}", third.summary());

    // Every snapshot still is what it was.
    let ids: Vec<_> = owner.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 3);
    let old = owner.place("old");
    owner.restore(&ids[0], &old).ok();
    assert!(fs::read(below(&old, &source).join("big-2")).unwrap() == tree::noise("big 2", 6_000_000));
    assert!(!below(&old, &source).join("copy-of-1").exists());
    let new = owner.place("new");
    owner.restore("latest", &new).ok();
    tree::assert_same(&tree::describe(&source), &below(&new, &source));

    let diff = owner.run(["diff", &ids[0], &ids[2], "--json"]).ok();
    let changes = diff.rows("change");
    let of = |name: &str| changes.iter().any(|c| c["path"].as_str().unwrap().ends_with(name));
    assert!(of("big-2") && of("copy-of-1") && !of("big-3"), "{changes:?}");
}

#[test]
fn excluded_files_stay_out_and_unreadable_ones_are_named() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir_all(source.join("cache")).unwrap();
    fs::write(source.join("keep.txt"), b"keep").unwrap();
    fs::write(source.join("skip.o"), b"skip").unwrap();
    fs::write(source.join("cache/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    fs::write(source.join("cache/junk"), b"junk").unwrap();
    let path = source.to_str().unwrap();
    owner.run(["backup", path, "--exclude", "*.o", "--exclude-caches", "--tag", "tagged"]).stored();
    let listed = owner.run(["ls", "latest", "--json"]).ok();
    let names: Vec<_> = listed.rows("node").iter().map(|n| n["path"].as_str().unwrap().to_owned()).collect();
    let has = |name: &str| names.iter().any(|n| n.ends_with(name));
    assert!(has("keep.txt") && !has("skip.o") && !has("junk"), "{names:?}");
    let found = owner.run(["find", "keep.*", "--json"]).ok();
    assert_eq!(found.rows("match").len(), 1);
    assert_eq!(owner.snapshots()[0]["tags"][0], "tagged");

    // One of two sources is not there: the other is kept, the exit code says so.
    let partial = owner.run(["backup", "--json", path, "/does/not/exist"]).expect(3);
    assert!(partial.failed_items().iter().any(|i| i.contains("/does/not/exist")), "{}", partial.text());
    assert_eq!(owner.snapshots().len(), 2);
}
