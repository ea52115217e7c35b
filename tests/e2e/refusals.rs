//! Clear ends: too few peers, no vault, wrong arguments, wrong files.

use std::{fs, process::Stdio};

use crate::harness::{Lab, Owner, Running, cairn};

#[test]
fn too_few_peers_say_how_many_more_and_of_which_colours() {
    let lab = Lab::up(3);
    let owner = Owner::init(&lab);
    fs::write(owner.place("file"), b"x").unwrap();
    let refused = owner.backup(&owner.place("file")).expect(13);
    let error = refused.exit_error();
    assert_eq!(error["code"], 13);
    let text = error.to_string();
    assert!(text.contains("more"), "how many more: {text}");
    assert!(text.contains("colour") || text.contains("class"), "of which colour classes: {text}");
    assert!(text.contains("hint"), "what to do: {text}");
    assert_eq!(owner.snapshots().len(), 0);

    lab.command(["down"]).ok();
    owner.backup(&owner.place("file")).expect(13);
}

#[test]
fn without_a_network_or_a_vault_it_says_so() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = cairn(home.path());
        command.args(["--data-dir", "data"]).args(args);
        Running::spawn(command, Stdio::null()).finish()
    };
    let refused = run(&["init", "--json"]);
    assert_eq!(refused.code, Some(10), "{}", refused.stderr);
    assert!(refused.stderr.contains("network"), "{}", refused.stderr);

    let made = run(&["network", "new", "--name", "trial", "--puzzle-bits", "4"]).ok();
    assert!(made.text().contains("trial"), "{}", made.text());
    fs::write(home.path().join("network.toml"), &made.stdout).unwrap();
    run(&["--network", "network.toml", "snapshots"]).expect(10);
    run(&["--network", "network.toml", "backup", "."]).expect(10);

    fs::write(home.path().join("broken.toml"), made.text().replace("trial", "other")).unwrap();
    let broken = run(&["--network", "broken.toml", "init"]);
    assert!(!matches!(broken.code, Some(0) | None), "a changed network file is refused");

    run(&["restore"]).expect(2);
    run(&["no-such-verb"]).expect(2);
    fs::write(home.path().join("config.toml"), "pasphrase = 1\n").unwrap();
    let unknown = run(&["--config", "config.toml", "--network", "network.toml", "snapshots"]);
    assert!(!matches!(unknown.code, Some(0) | None) && unknown.stderr.contains("pasphrase"), "{}", unknown.stderr);
}

/// Words that nobody saw open nothing: no vault may stand behind them.
#[test]
fn a_vault_whose_words_cannot_be_handed_over_is_not_made() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = cairn(home.path());
        command.args(["--data-dir", "data", "--network", "network.toml"]).args(args);
        command
    };
    let finish = |command| Running::spawn(command, Stdio::null()).finish();
    fs::write(home.path().join("network.toml"), finish(run(&["network", "new", "--name", "trial"])).ok().stdout)
        .unwrap();

    finish(run(&["init", "--phrase-file", "no/such/folder/words"])).expect(1);
    fs::write(home.path().join("mine"), b"mine").unwrap();
    finish(run(&["init", "--phrase-file", "mine"])).expect(15);
    assert_eq!(fs::read(home.path().join("mine")).unwrap(), b"mine");
    // The harness reads stdout, so the full disk is given by a shell.
    let mut shell = std::process::Command::new("sh");
    let full = run(&["init"]);
    shell.args(["-c", "exec \"$0\" \"$@\" >/dev/full"]).arg(full.get_program()).args(full.get_args());
    shell.current_dir(home.path()).env_clear().env("HOME", home.path());
    let lost = finish(shell);
    assert_eq!(lost.code, Some(1), "{}", lost.stderr);
    assert!(!home.path().join("data/vault/keyring").exists(), "no vault without its words");

    finish(run(&["init", "--phrase-file", "words"])).ok();
    assert_eq!(fs::read_to_string(home.path().join("words")).unwrap().split_whitespace().count(), 24);
    finish(run(&["init"])).expect(15);
}

#[test]
fn unknown_snapshots_and_paths_are_not_found() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    owner.run(["restore", "latest", "--target", "t"]).expect(10);
    owner.backup_stream("there", b"x").stored();
    owner.run(["ls", "deadbeef"]).expect(10);
    owner.dump("latest", "not-there").expect(10);
    owner.run(["init"]).expect_not_ok();
}

trait ExpectNotOk {
    fn expect_not_ok(self);
}

impl ExpectNotOk for crate::harness::Output {
    #[track_caller]
    fn expect_not_ok(self) {
        assert_ne!(self.code, Some(0), "a second init must not replace a vault: {}", self.text());
    }
}
