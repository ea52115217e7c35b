//! The surface that scripts rely on: help, JSON, exit codes, the lab.

use std::{fs, process::Stdio};

use serde_json::Value;

use crate::harness::{Lab, Output, Owner, Running, cairn, until};

/// Every verb that there is.
const VERBS: [&[&str]; 37] = [
    &["network", "new"],
    &["network", "invite"],
    &["node", "run"],
    &["node", "leave"],
    &["node", "health"],
    &["node", "pause"],
    &["node", "resume"],
    &["init"],
    &["backup"],
    &["snapshots"],
    &["ls"],
    &["find"],
    &["diff"],
    &["dump"],
    &["restore"],
    &["check"],
    &["audit"],
    &["stats"],
    &["status"],
    &["peers"],
    &["repair"],
    &["plan"],
    &["recover"],
    &["debug", "store"],
    &["debug", "placement"],
    &["lab", "up"],
    &["lab", "status"],
    &["lab", "kill"],
    &["lab", "stop"],
    &["lab", "start"],
    &["lab", "down"],
    &["demo"],
    &["version"],
    &["completions"],
    &["network"],
    &["debug"],
    &["lab"],
];

fn plain(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = cairn(home.path());
    command.args(args);
    Running::spawn(command, Stdio::null()).finish()
}

#[test]
fn the_help_of_every_verb_shows_an_example() {
    for verb in VERBS {
        let help = plain(&[verb, &["--help"]].concat()).ok().text();
        assert!(help.contains("Usage:"), "{verb:?}: {help}");
        let is_group = ["network", "debug", "lab"].contains(&verb[verb.len() - 1]);
        let example = help.to_lowercase().split("example").nth(1).is_some_and(|rest| rest.contains("cairn "));
        assert!(example || is_group, "{verb:?} has no example: {help}");
    }
    // And no verb is missing above.
    let all = plain(&["--help"]).ok().text();
    let commands = all.split("Commands:").nth(1).unwrap_or_default().split("Options:").next().unwrap_or_default();
    for line in commands.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        assert!(name == "help" || VERBS.iter().any(|v| v[0] == name), "{name} is not tested here");
    }
}

#[test]
fn version_and_completions_are_there() {
    assert!(plain(&["version"]).ok().text().contains(env!("CARGO_PKG_VERSION")));
    let version = plain(&["version", "--json"]).ok();
    assert!(version.json().iter().any(|v| v.to_string().contains(env!("CARGO_PKG_VERSION"))));
    for shell in ["bash", "zsh", "fish"] {
        assert!(plain(&["completions", shell]).ok().text().contains("cairn"));
    }
}

#[test]
fn the_output_of_every_verb_is_json_when_asked() {
    let lab = Lab::shared();
    let owner = Owner::blank(&lab.network_file());
    let init = owner.run(["init", "--json"]).ok();
    let phrase = init.summary()["phrase"].as_str().expect("the words").to_owned();
    assert_eq!(phrase.split(' ').count(), 24);

    fs::create_dir(owner.place("source")).unwrap();
    fs::write(owner.place("source").join("file.txt"), b"text").unwrap();
    let source = owner.place("source").to_str().unwrap().to_owned();
    let file = format!("{source}/file.txt");
    let first = owner.run(["backup", "--json", &source]).stored();
    for key in [
        "files_new",
        "files_changed",
        "files_unmodified",
        "data_added",
        "total_files_processed",
        "total_bytes_processed",
        "total_duration",
        "snapshot_id",
        "bytes_sent",
    ] {
        assert!(!first.summary()[key].is_null(), "backup's summary has {key}: {}", first.summary());
    }
    owner.run(["backup", "--json", &source]).stored();
    owner.run(["backup", "--json", "--dry-run", &source]).ok().json();
    owner.run(["backup", "--json", "--skip-if-unchanged", &source]).expect(8).json();
    let snapshots = owner.snapshots();
    assert_eq!(snapshots.len(), 2, "neither a dry run nor an unchanged source makes one");
    for key in ["id", "short_id", "time", "hostname", "username", "paths", "tags"] {
        assert!(!snapshots[0][key].is_null(), "a snapshot has {key}: {}", snapshots[0]);
    }
    let (a, b) = (snapshots[0]["id"].as_str().unwrap(), snapshots[1]["id"].as_str().unwrap());
    let target = owner.place("t").to_str().unwrap().to_owned();
    // A folder that is no node's has no store to look into; it says so instead of showing an empty one.
    assert_eq!(owner.run(["debug", "store", "--json"]).expect(10).exit_error()["id"], "NO_STORE");
    let node = lab.node_dir(0).to_str().unwrap().to_owned();
    let verbs: [&[&str]; 15] = [
        &["snapshots"],
        &["ls", "latest"],
        &["ls", "latest", &source],
        &["find", "*.txt"],
        &["diff", a, b],
        &["restore", "latest", "--target", &target],
        &["check"],
        &["check", "--read-data-subset", "50%"],
        &["stats"],
        &["status"],
        &["peers"],
        &[
            "plan",
            "--sla",
            "silver",
            "--size",
            "1GB",
            "--churn",
            "1%",
            "--repair-time",
            "6h",
            "--online",
            "100%",
            "--shock",
            "0%",
        ],
        &["debug", "store", "--data-dir", &node],
        &["debug", "placement", "--explain"],
        &["network", "new", "--name", "x", "--puzzle-bits", "1"],
    ];
    for verb in verbs {
        let output = owner.run(verb.iter().copied().chain(["--json"])).ok();
        if verb[0] != "network" {
            let lines = output.json();
            let typed = |v: &Value| v["message_type"].is_string();
            assert!(lines.iter().all(typed), "{verb:?}: every object says what it is: {}", output.text());
        }
    }
    assert!(owner.run(["peers", "--json"]).ok().rows("peer").len() >= 12);
    let candidates = owner.run(["debug", "placement", "--explain", "--json"]).ok().rows("candidate");
    assert!(candidates.len() >= 12, "each peer was or was not chosen, and why");
    assert!(owner.run(["dump", "latest", &file]).ok().stdout == b"text");
    for failing in [
        &["ls", "00000000"] as &[&str],
        &["dump", "latest", "/none"],
        &["restore", "latest:/none", "--target", &target],
    ] {
        let failed = owner.run(failing.iter().copied().chain(["--json"])).expect(10);
        let error = failed.exit_error();
        assert_eq!(error["code"], 10);
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["id"].is_string(), "{error}");
    }
    // The same for people: what went wrong, and what to do.
    let failed = owner.run(["ls", "00000000"]).expect(10);
    assert!(failed.stderr.contains("error:") && failed.stderr.contains("hint:"), "{}", failed.stderr);
    for text in [&["snapshots"] as &[&str], &["stats"], &["status"], &["peers"], &["debug", "placement", "--explain"]] {
        assert!(!owner.run(text).ok().text().trim().is_empty(), "{text:?} says something to people");
    }
}

#[test]
fn the_phrase_is_printed_once_on_a_line_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = cairn(home.path());
        command.args(["--data-dir", "data"]).args(args);
        Running::spawn(command, Stdio::null()).finish()
    };
    fs::write(home.path().join("n.toml"), run(&["network", "new", "--name", "x", "--puzzle-bits", "1"]).ok().stdout)
        .unwrap();
    let said = run(&["--network", "n.toml", "init"]).ok();
    let lines: Vec<_> = said.text().lines().filter(|l| l.split(' ').count() == 24).map(str::to_owned).collect();
    assert_eq!(lines.len(), 1, "{}", said.text());
    assert!(!said.stderr.contains(&lines[0]), "once");
    let word = lines[0].split(' ').next_back().unwrap();
    assert!(lines[0].chars().all(|c| c.is_ascii_lowercase() || c == ' ') && word.len() >= 3);
    // And nowhere on the disk.
    for entry in ["data/vault/keyring", "data/network.toml"] {
        let content = fs::read(home.path().join(entry)).unwrap();
        assert!(!String::from_utf8_lossy(&content).contains(&lines[0]));
    }
}

#[test]
fn a_lab_starts_stops_and_finds_itself_again() {
    let lab = Lab::up(4);
    for (index, node) in lab.status().iter().enumerate() {
        assert_eq!(node["index"], index);
        assert_eq!(node["state"], "up");
        assert!(node["pid"].as_u64().is_some_and(|pid| pid > 1), "{node}");
        assert!(!node["addresses"].as_array().expect("addresses").is_empty(), "{node}");
        assert_eq!(node["data_dir"].as_str().map(std::path::Path::new), Some(lab.node_dir(index).as_path()));
    }
    // The first is the bootstrap: without it the others still know each other, and with it back so does everyone.
    lab.kill(&[0]);
    lab.stop(&[2]);
    lab.start(&[0, 2]);
    let mut peers = cairn(lab.path());
    peers.args(["peers", "--json", "--data-dir"]).arg(lab.node_dir(3));
    let peers = Running::spawn(peers, Stdio::null()).finish().ok().rows("peer");
    assert!(peers.len() >= 3, "{peers:?}");
    // A port that somebody has for a moment is waited for.
    lab.stop(&[2]);
    let port: u16 = lab.tcp_address(2).split('/').nth(4).and_then(|p| p.parse().ok()).expect("/ip4/A/tcp/PORT");
    let taken = until("the port is free", || std::net::TcpListener::bind(("127.0.0.1", port)).ok());
    std::thread::scope(|scope| {
        let started = scope.spawn(|| lab.start(&[2]));
        until("the node finds its port taken", || {
            let log = fs::read_to_string(lab.node_dir(2).join("log")).unwrap();
            log.contains("Address already in use").then_some(())
        });
        drop(taken);
        started.join().expect("starts all the same");
    });
    lab.command(["down"]).ok();
    assert!(lab.status().iter().all(|n| n["state"] == "down"));
}
