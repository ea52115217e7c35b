//! A verb with a daemon on its data folder, and one without, do the same.

use std::{fs, process::Stdio};

use rustix::process::Signal;

use crate::{
    harness::{Lab, Owner, Running, below},
    tree,
};

#[test]
fn verbs_talk_to_the_daemon_of_their_folder() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), tree::noise("daemon", 3_000_000)).unwrap();
    owner.backup(&source).stored();

    let node = owner.command([
        "node",
        "run",
        "--domain",
        "the-owner",
        "--region",
        "EU/DE/FSN",
        "--give",
        "1GiB",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ]);
    let node = Running::spawn(node, Stdio::null());
    let said = node.wait_for("\n");
    assert!(said.starts_with("listening /ip4/127.0.0.1/tcp/") && said.contains("/p2p/"), "{said:?}");

    // Through the daemon: listing, backup of paths and streams, dump of bytes, restore, a failing command, a busy no-one.
    assert_eq!(owner.snapshots().len(), 1);
    fs::write(source.join("second"), b"more").unwrap();
    owner.backup(&source).stored();
    let bytes = tree::dump_text(30_000);
    owner.backup_stream("piped.sql", &bytes).stored();
    assert!(owner.dump("latest", "piped.sql").ok().stdout == bytes);
    owner
        .run(["backup", "--stdin-from-command", "--stdin-filename", "f", "--", "sh", "-c", "echo a; exit 9"])
        .expect(7);
    let ids: Vec<_> = owner.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 3);
    let target = owner.place("restored");
    owner.restore(&ids[1], &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
    owner.run(["status", "--json"]).ok().json();

    // A second daemon on the folder is refused, a changed domain too.
    owner.run(["node", "run"]).expect(11);
    node.signal(Signal::TERM);
    let ended = node.finish();
    assert!(matches!(ended.code, Some(0 | 143)), "SIGTERM ends it cleanly: {:?} {}", ended.code, ended.stderr);
    let moved = owner.run(["node", "run", "--domain", "somewhere-else"]);
    assert_ne!(moved.code, Some(0));
    assert!(moved.stderr.contains("domain"), "{}", moved.stderr);
    assert_eq!(owner.snapshots().len(), 3, "and without the daemon everything still is there");
}

#[test]
fn an_external_address_is_told_wherever_it_was_named() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let outside = "/ip4/198.51.100.7/tcp/4001";
    let run = ["node", "run", "--give", "1GiB", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let told = |node: std::process::Command| {
        let node = Running::spawn(node, Stdio::null());
        node.wait_for(&format!("listening {outside}/p2p/"));
        let status = owner.run(["status", "--json"]).ok().rows("this_node").remove(0);
        let addresses: Vec<_> = status["addresses"].as_array().unwrap().iter().filter_map(|a| a.as_str()).collect();
        assert!(addresses.iter().any(|a| a.starts_with(&format!("{outside}/p2p/"))), "{addresses:?}");
        assert!(addresses.iter().any(|a| a.starts_with("/ip4/127.0.0.1/tcp/")), "{addresses:?}");
        node.signal(Signal::TERM);
        node.finish();
    };
    told(owner.command(run.iter().chain(&["--external", outside])));
    let mut node = owner.command(run);
    node.env("CAIRN_EXTERNAL", outside);
    told(node);
    fs::write(owner.data_dir().join("config.toml"), format!("[node]\nexternal = [\"{outside}\"]\n")).unwrap();
    told(owner.command(run));
}
