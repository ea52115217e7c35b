//! Streams: standard input and a command's output.

use std::fs;

use crate::{
    harness::{Lab, Owner},
    tree,
};

#[test]
fn a_stream_comes_back() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let mut bytes = tree::dump_text(60_000);
    bytes.extend_from_slice(&tree::noise("blob in a dump", 2_000_000));
    let first = owner.backup_stream("shop.sql", &bytes).stored();
    assert!(owner.dump("latest", "shop.sql").ok().stdout == bytes);

    // A row in the middle of tomorrow's dump costs a few small chunks.
    let middle = bytes.len() / 3;
    bytes.splice(middle..middle, b"INSERT INTO orders VALUES ('one more');\n".iter().copied());
    let second = owner.backup_stream("shop.sql", &bytes).stored();
    assert!(second.figure("data_added") < first.figure("data_added") / 10, "{}", second.summary());
    assert!(owner.dump("latest", "shop.sql").ok().stdout == bytes);

    let target = owner.place("restored");
    owner.restore("latest", &target).ok();
    assert!(fs::read(target.join("shop.sql")).unwrap() == bytes);
    assert_eq!(owner.snapshots().len(), 2);
}

#[test]
fn a_failing_command_makes_no_snapshot() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let command = |script: &str| {
        let name = ["backup", "--json", "--stdin-filename", "out.sql", "--stdin-from-command", "--"];
        owner.run(name.into_iter().chain(["sh", "-c", script]))
    };
    let good = command("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
    good.stored();
    let dumped = owner.dump("latest", "out.sql").ok().text();
    assert!(dumped.starts_with("line 0\n") && dumped.ends_with("line 2999\n"));

    for script in ["echo half; echo 'disk on fire' >&2; exit 3", "echo half; kill -9 $$", "exit 1"] {
        let failed = command(script).expect(7);
        assert_eq!(failed.exit_error()["code"], 7, "{}", failed.stderr);
    }
    assert!(command("echo half; echo 'disk on fire' >&2; exit 3").stderr.contains("disk on fire"));
    assert_ne!(owner.run(["backup", "--stdin-from-command", "--", "/no/such/command"]).code, Some(0));
    assert_eq!(owner.snapshots().len(), 1, "only the good one is listed");
    assert_eq!(owner.dump("latest", "out.sql").ok().text(), dumped);
}
