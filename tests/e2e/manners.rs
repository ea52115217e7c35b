//! Manners: what a verb does when it is used wrongly, cannot ask, or finds something in its way.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    process::Stdio,
};

use crate::{
    harness::{Lab, Output, Owner, Running, below, cairn},
    tree,
};

/// As [`Owner::run`] by somebody who does not know the passphrase and cannot be asked.
fn without_passphrase(owner: &Owner, args: &[&str], stdin: &str) -> Output {
    let mut command = owner.command(args);
    command.env_remove("CAIRN_PASSPHRASE_FILE");
    fs::write(owner.place("piped"), stdin).unwrap();
    Running::spawn(command, Stdio::from(fs::File::open(owner.place("piped")).unwrap())).finish()
}

#[test]
fn a_locked_vault_has_a_status_and_says_how_to_open_it() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let check = || {
        let status = without_passphrase(&owner, &["status", "--json"], "").ok();
        assert_eq!(status.rows("this_node")[0]["vault"], true);
        assert_eq!(status.summary()["locked"], true);
        let notices = status.rows("notice");
        assert!(notices.iter().any(|n| n["id"] == "VAULT_LOCKED"), "{}", status.text());
        assert!(without_passphrase(&owner, &["status"], "").ok().stderr.contains("CAIRN_PASSPHRASE_FILE"));

        for args in [&["snapshots"] as &[&str], &["backup", "--stdin"], &["dump", "latest", "x"], &["check"]] {
            let refused = without_passphrase(&owner, args, "data that must not be taken for a passphrase\n").expect(12);
            assert!(
                refused.stderr.contains("hint:") && refused.stderr.contains("CAIRN_PASSPHRASE_FILE"),
                "{}",
                refused.stderr
            );
        }
    };
    check();
    assert_eq!(owner.run(["status", "--json"]).ok().summary()["locked"], false);
    // A daemon does not keep the vault open for others.
    let node = Running::spawn(owner.command(["node", "run", "--give", "1GiB", "--no-mdns"]), Stdio::null());
    node.wait_for("listening");
    check();
    fs::write(owner.place("wrong"), "wrong\n").unwrap();
    let mut wrong = owner.command(["status"]);
    wrong.env("CAIRN_PASSPHRASE_FILE", owner.place("wrong"));
    Running::spawn(wrong, Stdio::null()).finish().expect(12);
    assert_eq!(owner.snapshots().len(), 0);
}

#[test]
fn a_slip_in_a_folders_name_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let mut made = cairn(home.path());
    made.args(["network", "new", "--name", "trial", "--puzzle-bits", "1"]);
    fs::write(home.path().join("network.toml"), Running::spawn(made, Stdio::null()).finish().ok().stdout).unwrap();
    let run = |args: &[&str]| {
        let mut command = cairn(home.path());
        command.args(["--data-dir", "nowhere"]).args(args);
        let output = Running::spawn(command, Stdio::null()).finish().expect(10);
        assert!(output.stderr.contains("hint:"), "{}", output.stderr);
        assert!(!home.path().join("nowhere").exists(), "{args:?} made a folder");
    };
    for verb in [&["snapshots"] as &[&str], &["backup", "."], &["status"], &["peers"], &["debug", "store"]] {
        run(verb);
    }
    // Even when it is known which network it would be for.
    for verb in [&["snapshots"] as &[&str], &["backup", "."], &["check"], &["debug", "store"]] {
        run(&[&["--network", "network.toml"], verb].concat());
    }
}

#[test]
fn wrong_use_is_told_to_programs_too() {
    let home = tempfile::tempdir().unwrap();
    for args in [&["restore", "latest", "--json"] as &[&str], &["--json", "frob"], &["--json"], &["backup", "--json"]] {
        let mut command = cairn(home.path());
        command.args(args);
        let error = Running::spawn(command, Stdio::null()).finish().expect(2).exit_error();
        assert_eq!((&error["code"], &error["id"]), (&2.into(), &"USAGE".into()), "{error}");
    }
}

#[test]
fn a_dump_makes_a_whole_new_file_or_none() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    owner.backup_stream("notes", b"the notes").stored();
    let leftovers = || {
        let names = fs::read_dir(owner.home()).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|n| n.as_bytes().starts_with(b"out") || n.as_bytes().starts_with(b".cairn")).count()
    };
    owner.run(["dump", "latest", "no-such-file", "--target", "out"]).expect(10);
    assert_eq!(leftovers(), 0, "a dump that failed leaves nothing");
    owner.run(["dump", "latest", "notes", "--target", "out"]).ok();
    assert_eq!(fs::read(owner.place("out")).unwrap(), b"the notes");
    assert_eq!(fs::metadata(owner.place("out")).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(owner.place("out"), b"mine").unwrap();
    owner.run(["dump", "latest", "notes", "--target", "out"]).expect(15);
    assert_eq!(fs::read(owner.place("out")).unwrap(), b"mine", "what is there stays");
    assert_eq!(leftovers(), 1);
}

#[test]
fn a_restore_into_a_full_folder_replaces_what_it_must_and_nothing_else() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir_all(source.join("docs/old")).unwrap();
    for (name, text) in [("a.txt", "a"), ("docs/b.txt", "b"), ("docs/old/c.log", "c")] {
        fs::write(source.join(name), text).unwrap();
    }
    let odd = OsStr::from_bytes(b"odd-\xff-\n-name");
    fs::write(source.join(odd), "odd").unwrap();
    owner.backup(&source).stored();

    let target = owner.place("target");
    let there = below(&target, &source);
    fs::create_dir_all(there.join("docs")).unwrap();
    fs::write(there.join("mine"), "mine").unwrap();
    fs::write(there.join("a.txt"), "another").unwrap();
    let text = |name: &str| fs::read_to_string(there.join(name)).ok();
    let restore = |args: &[&str]| {
        let target = target.to_str().unwrap();
        owner.run([&["restore", "latest", "--json", "--target", target], args].concat())
    };

    assert_eq!(restore(&["--dry-run"]).ok().summary()["dry_run"], true);
    assert_eq!(text("docs/b.txt"), None, "a dry run writes nothing");
    restore(&["--overwrite", "never", "--exclude", "old"]).ok();
    assert_eq!((text("a.txt").as_deref(), text("docs/b.txt").as_deref()), (Some("another"), Some("b")));
    assert!(!there.join("docs/old").exists(), "excluded");
    restore(&["--include", "*.txt"]).ok();
    assert_eq!((text("a.txt").as_deref(), text("mine").as_deref()), (Some("a"), Some("mine")));
    assert!(!there.join("docs/old/c.log").exists(), "not included");
    assert_eq!(restore(&[]).ok().figure("files_skipped"), 3, "what is there is not fetched again");
    assert_eq!(fs::read(there.join(odd)).unwrap(), b"odd");

    // Names that are no text: people see them escaped on one line, programs get every byte.
    let listed = owner.run(["ls", "-l", "latest"]).ok();
    assert!(listed.text().lines().any(|l| l.starts_with("-rw") && l.contains("odd-") && l.contains("-\\n-name")));
    let rows = owner.run(["ls", "latest", "--json"]).ok().rows("node");
    let row = rows.iter().find(|r| r["name"].as_str().is_some_and(|n| n.starts_with("odd"))).expect("listed");
    assert!(row["path_encoded"].as_str().unwrap().ends_with("odd-%FF-%0A-name"), "{row}");

    fs::write(owner.place("file"), "x").unwrap();
    let refused = owner.run(["restore", "latest", "--target", "file"]).expect(1);
    assert!(refused.stderr.contains("hint:") && refused.stderr.contains("file"), "{}", refused.stderr);
    let bad = owner.run(["find", "[x"]).expect(2);
    assert!(bad.stderr.contains("caused by:") && bad.stderr.contains("hint:"), "{}", bad.stderr);
}

/// A disk that is smaller than what is restored, in a mount namespace of the command's own.
#[test]
fn a_full_disk_ends_a_restore_with_whole_files_only() {
    let small = std::process::Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"])
        .output();
    if !small.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: this system lets nobody mount a small disk");
        return;
    }
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let (source, target) = (owner.place("source"), owner.place("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("a-small"), "small").unwrap();
    fs::write(source.join("b-large"), tree::noise("large", 12 << 20)).unwrap();
    owner.backup(&source).stored();

    let script = "mount -t tmpfs -o size=6m none target && \"$@\"; code=$?; find target -type f; exit $code";
    let verb = owner.command(["restore", "latest", "--target", "target"]);
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).arg(verb.get_program()).args(verb.get_args());
    command.current_dir(owner.home()).env_clear();
    command.envs(verb.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let ended = Running::spawn(command, Stdio::null()).finish().expect(14);
    assert!(ended.stderr.contains("full") && ended.stderr.contains("hint:"), "{}", ended.stderr);
    let left: Vec<String> = ended.text().lines().map(str::to_owned).collect();
    assert_eq!(left.len(), 1, "the small file, and no half of the large one: {left:?}");
    assert!(left[0].ends_with("a-small"), "{left:?}");

    // With room, the same command goes on.
    owner.restore("latest", &target).ok();
    tree::assert_same(&tree::describe(&source), &below(&target, &source));
}

/// Unpacked by the system's own tar, which knows nothing of us.
#[test]
fn a_folder_is_dumped_as_tar() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    let long = source.join("d".repeat(120)).join("e".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::create_dir(source.join("empty")).unwrap();
    fs::write(long.join("deep"), "deep").unwrap();
    fs::write(source.join("zero"), "").unwrap();
    fs::write(source.join("block"), tree::noise("block", 512)).unwrap();
    fs::write(source.join("large"), tree::noise("tar", 3_000_001)).unwrap();
    fs::write(source.join(OsStr::from_bytes(b"odd-\xff-name")), "odd").unwrap();
    std::os::unix::fs::symlink("x".repeat(150), source.join("link")).unwrap();
    fs::set_permissions(source.join("block"), fs::Permissions::from_mode(0o640)).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    owner.backup(&source).stored();

    owner.run(["dump", "latest", source.to_str().unwrap(), "--target", "all.tar"]).ok();
    fs::create_dir(owner.place("out")).unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.args(["xpf", "all.tar", "-C", "out"]).current_dir(owner.home());
    let unpacked = tar.output().expect("tar is everywhere");
    assert!(unpacked.status.success() && unpacked.stderr.is_empty(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let there = below(&owner.place("out"), &source);
    let same = std::process::Command::new("diff").args(["-r", "--no-dereference"]).args([&source, &there]).output();
    let same = same.expect("diff is everywhere");
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    let meta = |path: &std::path::Path| {
        let m = fs::symlink_metadata(path).unwrap();
        (m.permissions().mode(), m.modified().unwrap())
    };
    assert_eq!(meta(&there.join("block")), meta(&source.join("block")), "mode, and time to the nanosecond");
    owner.run(["dump", "latest", source.join("link").to_str().unwrap()]).expect(10);
}

#[test]
fn flags_stand_over_the_environment_over_the_file() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let source = owner.place("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("keep"), "x").unwrap();
    fs::write(source.join("skip.tmp"), "x").unwrap();
    fs::write(owner.data_dir().join("config.toml"), "[owner]\nhost = \"folder\"\nexclude = [\"*.tmp\"]\n").unwrap();
    fs::write(owner.place("named.toml"), "[owner]\nhost = \"environment\"\n").unwrap();
    fs::write(owner.place("flag.toml"), "[owner]\nhost = \"flag\"\n").unwrap();
    let backup = |config: Option<&str>, args: &[&str]| {
        let mut command = owner.command([&["backup", "--json", source.to_str().unwrap()], args].concat());
        command.envs(config.map(|file| ("CAIRN_CONFIG", owner.place(file))));
        Running::spawn(command, Stdio::null()).finish().stored().figure("total_files_processed")
    };
    assert_eq!(backup(None, &[]), 1, "the file's patterns count");
    assert_eq!(backup(Some("named.toml"), &[]), 2, "the named file stands instead of the folder's");
    backup(Some("named.toml"), &["--config", "flag.toml"]);
    backup(Some("named.toml"), &["--config", "flag.toml", "--host", "own-flag"]);
    let hosts: Vec<_> = owner.snapshots().iter().map(|s| s["hostname"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hosts, ["folder", "environment", "flag", "own-flag"]);
    owner.run(["snapshots", "--config", "no-such-file"]).expect(2);
    // A folder named by a flag is another one than the environment's, and has no vault.
    owner.run(["snapshots", "--data-dir", "other"]).expect(10);
}
