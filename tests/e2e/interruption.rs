//! Two at once, killed in the middle, interrupted by hand.

use std::{fs, io::Write, process::Stdio};

use rustix::process::Signal;

use crate::{
    harness::{Lab, Owner, Running, until},
    tree,
};

const MIB: usize = 1 << 20;

fn streaming(owner: &Owner) -> Running {
    Running::spawn(owner.command(["backup", "--json", "--stdin", "--stdin-filename", "stream"]), Stdio::piped())
}

#[test]
fn a_second_writer_is_refused_with_who_is_first() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    fs::write(owner.place("file"), b"x").unwrap();
    let mut first = streaming(&owner);
    let mut stdin = first.stdin();
    stdin.write_all(b"begun").unwrap();
    let pid = first.pid().to_string();
    until("the first writer has the lock", || {
        fs::read_to_string(owner.data_dir().join("lock")).ok().filter(|text| text.contains(&pid))
    });

    let second = owner.backup(&owner.place("file")).expect(11);
    let error = second.exit_error();
    assert_eq!(error["code"], 11);
    assert!(error.to_string().contains(&pid), "it says who holds the folder: {error}");
    assert!(first.is_running());
    drop(stdin);
    first.finish().stored();
    owner.backup(&owner.place("file")).stored();
    assert_eq!(owner.snapshots().len(), 2);
}

#[test]
fn a_killed_backup_leaves_nothing_half_listed_and_resumes() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    owner.backup_stream("before", b"the snapshot before").stored();
    let bytes = tree::noise("interrupted stream", 96 * MIB);

    let empty = lab.bytes_on_disk();
    let mut killed = streaming(&owner);
    let mut stdin = killed.stdin();
    stdin.write_all(&bytes[..64 * MIB]).unwrap();
    // 64 MiB are twelve stripes; most of their shards have arrived.
    until("80 MiB are stored", || (lab.bytes_on_disk() >= empty + 80 * MIB as u64).then_some(()));
    killed.signal(Signal::KILL);
    drop(stdin);
    drop(killed);

    let listed = owner.snapshots();
    assert_eq!(listed.len(), 1, "DUR-1: {listed:?}");
    assert_eq!(owner.dump("latest", "before").ok().stdout, b"the snapshot before");

    let whole = 96 * MIB as u64 * 8 / 5;
    let resumed = owner.backup_stream("stream", &bytes).stored();
    let sent = resumed.figure("bytes_sent");
    assert!(sent < whole - 24 * MIB as u64, "what was acknowledged is not sent again: {sent} of {whole}");
    assert!(owner.dump("latest", "stream").ok().stdout == bytes);
    assert_eq!(owner.snapshots().len(), 2);
    lab.stores().assert_separated();
}

#[test]
fn ctrl_c_ends_cleanly() {
    let lab = Lab::shared();
    let owner = Owner::init(&lab);
    let mut running = streaming(&owner);
    let mut stdin = running.stdin();
    stdin.write_all(&tree::noise("ctrl-c", 6 * MIB)).unwrap();
    running.signal(Signal::INT);
    running.finish().expect(130);
    drop(stdin);
    assert_eq!(owner.snapshots().len(), 0);
    owner.backup_stream("stream", b"after").stored();
}

/// Holders are killed while shards are being written to them; what they acknowledged is there when they come back.
#[test]
fn holders_killed_in_mid_write_keep_what_they_acknowledged() {
    let lab = Lab::up(12);
    let owner = Owner::init(&lab);
    owner.backup_stream("before", &tree::noise("before", 3 * MIB)).stored();
    let bytes = tree::noise("holders die", 64 * MIB);
    let empty = lab.bytes_on_disk();
    let mut running = streaming(&owner);
    let mut stdin = running.stdin();
    stdin.write_all(&bytes[..40 * MIB]).unwrap();
    until("24 MiB are stored", || (lab.bytes_on_disk() >= empty + 24 * MIB as u64).then_some(()));
    let victims = [3, 7];
    lab.kill(&victims);
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&bytes[40 * MIB..])));
    let output = running.finish();
    feeder.join().expect("feeder");
    // Whole, or short of slots that no living peer may hold; which of the two is the salts' choice.
    assert!(matches!(output.code, Some(0 | 4)), "{output:?}");
    let bytes = tree::noise("holders die", 64 * MIB);
    assert!(owner.dump("latest", "stream").ok().stdout == bytes, "two of eight slots are dead");

    lab.start(&victims);
    // Nothing that was acknowledged is missing or wrong: what a check may find is what the backup said. On a busy machine
    // somebody may be too slow to answer, which is a reason to ask again and no loss.
    let check = until("everybody answers a check", || {
        let check = owner.run(["check", "--read-data", "--json"]);
        let answered = matches!(check.code, Some(0 | 5 | 6)) && check.figure("holders_unreachable") == 0;
        answered.then_some(check)
    });
    for nothing in ["shards_wrong", "stripes_lost", "index_segments_lost", "files_lost"] {
        assert_eq!(check.figure(nothing), 0, "{nothing}: {check:?}");
    }
    if output.code == Some(0) {
        assert_eq!(check.figure("shards_missing"), 0, "{check:?}");
    }
    assert_eq!(owner.dump("latest", "before").code, Some(10), "latest is the stream");
    assert_eq!(owner.snapshots().len(), 2, "DUR-1");
    lab.stores().assert_separated();
}
