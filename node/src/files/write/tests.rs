//! Hostile snapshots, what is there already, and work that breaks off.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use cairn_proto::{
    ChunkId,
    tree::{FileTime, Node, NodeKind},
};

use super::*;
use crate::files::tests::{copy, folder};

fn node(name: &str, kind: NodeKind) -> Node {
    let mut node = Node::new(name.as_bytes().to_vec(), kind);
    node.mode = if kind == NodeKind::Dir { 0o755 } else { 0o644 };
    node.uid = rustix::process::geteuid().as_raw();
    node.gid = rustix::process::getegid().as_raw();
    node.mtime = FileTime { secs: 1_000_000, nanos: 7 };
    node
}

fn file(name: &str, content: &[u8]) -> Node {
    Node { size: content.len() as u64, ..node(name, NodeKind::File) }
}

fn link(name: &str, target: &Path) -> Node {
    use std::os::unix::ffi::OsStrExt;
    Node { link_target: target.as_os_str().as_bytes().to_vec(), ..node(name, NodeKind::Symlink) }
}

fn restorer(target: &Path, options: RestoreOptions) -> Restorer {
    Restorer::new(target, RestoreOptions { no_sync: true, ..options }).expect("target")
}

fn with(overwrite: Overwrite) -> RestoreOptions {
    RestoreOptions { overwrite, ..RestoreOptions::default() }
}

/// Places a file with its content; `Err` says what became of it instead.
fn place(restorer: &mut Restorer, node: &Node, content: &[u8]) -> Result<(), String> {
    match restorer.place(node) {
        Placed::Content(mut sink) => {
            sink.write(content).map_err(|e| e.message)?;
            sink.finish().map(drop).map_err(|e| e.message)
        }
        Placed::Done => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn hostile_names_are_refused() {
    let outer = folder();
    let target = outer.path().join("target");
    let mut restorer = restorer(&target, RestoreOptions::default());
    for name in ["", ".", "..", "a/b", "/etc/passwd", "../escape", "nul\0inside"] {
        for kind in [NodeKind::File, NodeKind::Symlink, NodeKind::Fifo] {
            let placed = restorer.place(&node(name, kind));
            assert!(matches!(placed, Placed::Failed), "{name:?} {kind:?} {placed:?}");
        }
        assert_eq!(restorer.enter(&node(name, NodeKind::Dir)), Descend::Skip, "{name:?}");
    }
    let errors = restorer.take_errors();
    assert_eq!(errors.len(), 28);
    assert!(errors.iter().all(|e| e.message.contains("FILE-2")), "{errors:?}");
    restorer.finish();
    assert_eq!(fs::read_dir(&target).expect("there").count(), 0);
    assert_eq!(fs::read_dir(outer.path()).expect("there").count(), 1);
}

#[test]
fn a_symlink_in_the_way_is_never_traversed() {
    let (outside, target) = (folder(), folder());
    fs::write(outside.path().join("precious"), b"old").expect("written");
    let mut restorer = restorer(target.path(), with(Overwrite::Always));
    // First a symlink that leads out, then a folder and a file through it: the names are the same, so the symlink
    // gives way and what is written lands inside.
    assert!(matches!(restorer.place(&link("door", outside.path())), Placed::Done));
    assert_eq!(restorer.enter(&node("door", NodeKind::Dir)), Descend::Into);
    place(&mut restorer, &file("precious", b"new"), b"new").expect("placed inside");
    restorer.leave();
    // A symlink to a file is replaced, not written through.
    assert!(matches!(restorer.place(&link("file", &outside.path().join("precious"))), Placed::Done));
    place(&mut restorer, &file("file", b"new"), b"new").expect("placed");
    let (_, errors) = restorer.finish();
    assert_eq!(errors, []);
    assert_eq!(fs::read(outside.path().join("precious")).expect("still there"), b"old");
    assert_eq!(fs::read_dir(outside.path()).expect("there").count(), 1);
    assert_eq!(fs::read(target.path().join("door/precious")).expect("inside"), b"new");
    assert!(fs::symlink_metadata(target.path().join("file")).expect("there").is_file());
}

#[test]
fn a_folder_swapped_for_a_symlink_meanwhile_is_not_followed() {
    let (outside, target) = (folder(), folder());
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    assert_eq!(restorer.enter(&node("sub", NodeKind::Dir)), Descend::Into);
    fs::rename(target.path().join("sub"), target.path().join("moved")).expect("moved");
    symlink(outside.path(), target.path().join("sub")).expect("swapped");
    place(&mut restorer, &file("f", b"1"), b"1").expect("goes to the folder that was entered");
    assert_eq!(restorer.enter(&node("deeper", NodeKind::Dir)), Descend::Into);
    restorer.leave();
    restorer.leave();
    assert_eq!(fs::read_dir(outside.path()).expect("there").count(), 0);
    assert!(target.path().join("moved/f").exists());
}

#[test]
fn a_broken_off_file_leaves_the_old_one() {
    let target = folder();
    fs::write(target.path().join("f"), b"old").expect("written");
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    let Placed::Content(mut sink) = restorer.place(&file("f", b"new content")) else { unreachable!("wanted") };
    sink.write(b"new").expect("some");
    drop(sink);
    let Placed::Content(mut sink) = restorer.place(&file("f", b"new content")) else { unreachable!("wanted") };
    sink.write(b"new").expect("some");
    assert!(sink.finish().expect_err("too short").message.contains("8 bytes"));
    let Placed::Content(mut sink) = restorer.place(&file("f", b"new")) else { unreachable!("wanted") };
    assert!(sink.write(b"newer").expect_err("too long").message.contains("longer"));
    drop(sink);
    restorer.finish();
    assert_eq!(fs::read(target.path().join("f")).expect("there"), b"old");
    assert_eq!(fs::read_dir(target.path()).expect("there").count(), 1, "temporary names are gone");
}

#[test]
fn what_a_killed_restore_left_is_removed() {
    let target = folder();
    let stale = target.path().join(".cairn-restore-0123456789abcdef");
    fs::write(&stale, b"half").expect("written");
    fs::write(target.path().join(".cairn-restore-of-my-own"), b"mine").expect("written");
    restorer(target.path(), RestoreOptions::default()).finish();
    assert!(!stale.exists());
    assert!(target.path().join(".cairn-restore-of-my-own").exists());
}

#[test]
fn overwrite_policies() {
    let check = |policy: Overwrite, there_secs: u64, there: &[u8], expected_new: bool| {
        let target = folder();
        let path = target.path().join("f");
        fs::write(&path, there).expect("written");
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(there_secs, 7);
        fs::File::options().write(true).open(&path).and_then(|f| f.set_modified(time)).expect("time");
        let mut restorer = restorer(target.path(), with(policy));
        let placed = place(&mut restorer, &file("f", b"new"), b"new");
        assert_eq!(placed.is_ok(), expected_new, "{policy:?} {there_secs} {placed:?}");
        let now = fs::read(&path).expect("there");
        assert_eq!(now, if expected_new { b"new" } else { there }, "{policy:?} {there_secs}");
        assert_eq!(restorer.finish().0.left, u64::from(!expected_new));
    };
    check(Overwrite::Always, 1_000_000, b"old", true);
    check(Overwrite::IfChanged, 1_000_000, b"old", false);
    check(Overwrite::IfChanged, 1_000_001, b"old", true);
    check(Overwrite::IfChanged, 1_000_000, b"older", true);
    check(Overwrite::IfNewer, 999_999, b"old", true);
    check(Overwrite::IfNewer, 1_000_001, b"old", false);
    check(Overwrite::Never, 1, b"old", false);
}

#[test]
fn an_unchanged_file_gets_its_attributes_back() {
    let target = folder();
    let path = target.path().join("f");
    let mut first = restorer(target.path(), RestoreOptions::default());
    place(&mut first, &file("f", b"new"), b"new").expect("placed");
    first.finish();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    let mut second = restorer(target.path(), RestoreOptions::default());
    assert!(matches!(second.place(&file("f", b"new")), Placed::Left));
    assert_eq!(second.finish().1, []);
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o644);
}

#[test]
fn entries_of_another_kind_give_way_but_full_folders_do_not() {
    let target = folder();
    fs::create_dir_all(target.path().join("full/inner")).expect("made");
    fs::create_dir(target.path().join("empty")).expect("made");
    fs::write(target.path().join("file"), b"x").expect("written");
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    assert!(place(&mut restorer, &file("full", b"1"), b"1").is_err());
    place(&mut restorer, &file("empty", b"1"), b"1").expect("an empty folder gives way");
    assert_eq!(restorer.enter(&node("file", NodeKind::Dir)), Descend::Into);
    restorer.leave();
    let (_, errors) = restorer.finish();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].message.contains("a folder with entries"), "{errors:?}");
    assert!(target.path().join("full/inner").is_dir() && target.path().join("file").is_dir());
    let mut careful = Restorer::new(target.path(), with(Overwrite::Never)).expect("target");
    assert_eq!(careful.enter(&node("empty", NodeKind::Dir)), Descend::Skip);
    assert_eq!(careful.take_errors().len(), 1);
}

#[test]
fn patterns_choose_and_make_only_the_folders_needed() {
    let (source, target) = (folder(), folder());
    for name in ["a/keep.txt", "a/other", "b/other", "c/deep/keep.txt", "whole/x", "whole/y.tmp"] {
        let path = source.path().join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("made");
        fs::write(path, b"x").expect("written");
    }
    let options = RestoreOptions {
        include: Filter::new(&["keep.txt", "whole"]).expect("valid"),
        exclude: Filter::new(&["*.tmp"]).expect("valid"),
        ..RestoreOptions::default()
    };
    let (report, errors) = copy(source.path(), target.path(), options);
    assert_eq!(errors, []);
    assert_eq!(report.files, 3);
    let root = target.path().join(source.path().strip_prefix("/").expect("absolute"));
    assert!(root.join("a/keep.txt").exists() && root.join("c/deep/keep.txt").exists() && root.join("whole/x").exists());
    assert!(!root.join("b").exists() && !root.join("a/other").exists() && !root.join("whole/y.tmp").exists());
    let mtime = |path: &Path| fs::metadata(path).expect("there").modified().expect("time");
    assert_eq!(mtime(&root.join("c")), mtime(&source.path().join("c")), "a folder on the way has its time too");
}

#[test]
fn a_dry_run_writes_nothing() {
    let outer = folder();
    let target = outer.path().join("not there");
    let dry = || RestoreOptions { dry_run: true, ..RestoreOptions::default() };
    let mut restorer = restorer(&target, dry());
    assert_eq!(restorer.enter(&node("d", NodeKind::Dir)), Descend::Into);
    assert!(matches!(restorer.place(&file("f", b"123")), Placed::Would(3)));
    restorer.leave();
    assert!(matches!(restorer.place(&link("l", Path::new("x"))), Placed::Would(0)));
    let (report, errors) = restorer.finish();
    assert_eq!((report.files, report.bytes, report.others, errors.len()), (1, 3, 1, 0));
    assert!(!target.exists());
    // What is there and unchanged is not counted, and stays.
    let mut real = Restorer::new(&target, RestoreOptions::default()).expect("target");
    place(&mut real, &file("f", b"123"), b"123").expect("placed");
    real.finish();
    let mut again = Restorer::new(&target, dry()).expect("target");
    assert!(matches!(again.place(&file("f", b"123")), Placed::Left));
}

#[test]
fn sinks_may_end_after_their_folder() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    assert_eq!(restorer.enter(&Node { mode: 0o555, ..node("d", NodeKind::Dir) }), Descend::Into);
    let hard = |name: &str| Node { hardlink: Some(9), links: 2, ..file(name, b"123") };
    let Placed::Content(mut sink) = restorer.place(&hard("one")) else { unreachable!("wanted") };
    assert!(matches!(restorer.place(&hard("two")), Placed::Done));
    restorer.leave();
    sink.write(b"123").expect("written");
    sink.finish().expect("finished");
    let (report, errors) = restorer.finish();
    assert_eq!((report.links, errors), (1, Vec::new()));
    let (one, two) = (target.path().join("d/one"), target.path().join("d/two"));
    assert_eq!(fs::metadata(one).expect("there").ino(), fs::metadata(two).expect("there").ino());
    let dir = fs::metadata(target.path().join("d")).expect("there");
    assert_eq!((dir.mtime(), dir.mtime_nsec(), dir.mode() & 0o777), (1_000_000, 7, 0o555));
}

/// However many folders there are: those whose sinks are closed do not wait for the end, and those that must wait are right.
#[test]
fn folders_that_wait_for_sinks_do_not_add_up() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    let folders = 3 * LATE_LOOK;
    let mut slow = Vec::new();
    assert_eq!(restorer.enter(&node("all", NodeKind::Dir)), Descend::Into);
    for at in 0..folders {
        assert_eq!(restorer.enter(&node(&format!("d{at}"), NodeKind::Dir)), Descend::Into);
        let Placed::Content(mut sink) = restorer.place(&file("f", b"1")) else { panic!("a file with content") };
        restorer.leave();
        sink.write(b"1").expect("written");
        match at % 100 {
            0 => slow.push(sink),
            _ => drop(sink.finish().expect("finished")),
        }
        assert!(restorer.late.len() <= LATE_LOOK, "{} wait", restorer.late.len());
    }
    restorer.leave();
    assert!(restorer.late.len() > slow.len(), "and the one above all");
    slow.into_iter().for_each(|sink| drop(sink.finish().expect("finished")));
    let (report, errors) = restorer.finish();
    assert_eq!((report.files, errors), (folders as u64, Vec::new()));
    for at in 0..folders {
        let there = fs::metadata(target.path().join(format!("all/d{at}"))).expect("there");
        assert_eq!((there.mtime(), there.mtime_nsec()), (1_000_000, 7), "d{at}");
    }
    assert_eq!(fs::metadata(target.path().join("all")).expect("there").mtime(), 1_000_000);
}

#[test]
fn a_hard_link_whose_first_name_failed_gets_its_own_content() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    let hard = |name: &str, id: u8| {
        let mut node = Node { hardlink: Some(9), links: 3, ..file(name, b"123") };
        node.content.ids.push(ChunkId::from_bytes([id; 32]));
        node
    };
    let Placed::Content(sink) = restorer.place(&hard("one", 1)) else { unreachable!("wanted") };
    drop(sink);
    place(&mut restorer, &hard("two", 1), b"123").expect("its own");
    assert!(matches!(restorer.place(&hard("three", 1)), Placed::Done));
    // The same key with other content is another file, whatever the snapshot says.
    place(&mut restorer, &hard("four", 2), b"456").expect("its own");
    let (report, errors) = restorer.finish();
    assert_eq!((report.links, errors), (1, Vec::new()));
    let ino = |name: &str| fs::metadata(target.path().join(name)).expect("there").ino();
    assert_eq!(ino("two"), ino("three"));
    assert_ne!(ino("two"), ino("four"));
    assert!(!target.path().join("one").exists());
}

/// A name that was made while the source was being read: one more than the inode had when it was looked at.
#[test]
fn a_hard_link_made_meanwhile_is_restored_too() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    let hard = |name: &str| Node { hardlink: Some(9), links: 2, ..file(name, b"123") };
    let Placed::Content(mut sink) = restorer.place(&hard("one")) else { unreachable!("wanted") };
    for name in ["two", "three"] {
        assert!(matches!(restorer.place(&hard(name)), Placed::Done));
    }
    sink.write(b"123").expect("written");
    sink.finish().expect("finished");
    let (report, errors) = restorer.finish();
    assert_eq!((report.links, errors), (2, Vec::new()));
    let ino = |name: &str| fs::metadata(target.path().join(name)).expect("there").ino();
    assert_eq!((ino("one"), ino("one")), (ino("two"), ino("three")));
}

#[test]
fn set_id_bits_go_when_the_owner_cannot_be_set() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    // All ones is no owner that anybody can set, not even root.
    let node = Node { uid: u32::MAX, mode: 0o6755, ..file("f", b"1") };
    place(&mut restorer, &node, b"1").expect("placed");
    let (report, errors) = restorer.finish();
    assert_eq!((report.owners_kept, errors), (1, Vec::new()));
    assert_eq!(fs::metadata(target.path().join("f")).expect("there").mode() & 0o7777, 0o755);
}

#[test]
fn holes_that_lie_are_refused() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    for holes in [vec![(0, 0)], vec![(0, 4)], vec![(1, u64::MAX)], vec![(2, 1), (0, 1)], vec![(0, 2), (1, 1)]] {
        let node = Node { holes: holes.clone(), ..file("f", b"123") };
        assert!(matches!(restorer.place(&node), Placed::Failed), "{holes:?}");
    }
    assert_eq!(fs::read_dir(target.path()).expect("there").count(), 0);
}

/// The target is the folder that was opened, whatever its name means later.
#[test]
fn a_target_swapped_for_a_symlink_meanwhile_is_not_followed() {
    let (outside, home) = (folder(), folder());
    let target = home.path().join("target");
    let mut restorer = restorer(&target, RestoreOptions::default());
    fs::rename(&target, home.path().join("moved")).expect("moved");
    symlink(outside.path(), &target).expect("swapped");
    place(&mut restorer, &file("f", b"1"), b"1").expect("goes to the folder that was opened");
    assert_eq!(restorer.enter(&node("sub", NodeKind::Dir)), Descend::Into);
    restorer.leave();
    let (_, errors) = restorer.finish();
    assert_eq!(errors, []);
    assert_eq!(fs::read_dir(outside.path()).expect("there").count(), 0);
    assert!(home.path().join("moved/f").exists() && home.path().join("moved/sub").is_dir());
}

/// What is in the way may be another name of a file outside: that file keeps its bytes.
#[test]
fn a_hard_link_to_a_file_outside_is_replaced_and_not_written_through() {
    let (outside, target) = (folder(), folder());
    let precious = outside.path().join("precious");
    fs::write(&precious, b"old").expect("written");
    for name in ["f", "empty", "first"] {
        fs::hard_link(&precious, target.path().join(name)).expect("linked");
    }
    let mut restorer = restorer(target.path(), with(Overwrite::Always));
    place(&mut restorer, &file("f", b"new"), b"new").expect("placed");
    place(&mut restorer, &file("empty", b""), b"").expect("placed");
    // Names of one inode in the snapshot are linked to what was restored, not to what was there.
    let hard = |name: &str| Node { hardlink: Some(9), links: 2, ..file(name, b"123") };
    place(&mut restorer, &hard("first"), b"123").expect("placed");
    assert!(matches!(restorer.place(&hard("second")), Placed::Done));
    let (report, errors) = restorer.finish();
    assert_eq!((report.links, errors), (1, Vec::new()));
    assert_eq!(fs::read(&precious).expect("there"), b"old");
    assert_eq!(fs::metadata(&precious).expect("there").nlink(), 1, "nothing below the target names it any more");
    assert_eq!(fs::read(target.path().join("second")).expect("there"), b"123");
}

#[test]
fn names_longer_than_the_system_takes_are_named_and_the_rest_goes_on() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    let longest = "n".repeat(255);
    place(&mut restorer, &file(&longest, b"1"), b"1").expect("255 bytes fit");
    let long = "n".repeat(256);
    let refused = place(&mut restorer, &file(&long, b"1"), b"1").expect_err("256 do not");
    assert!(!refused.is_empty());
    assert_eq!(restorer.enter(&node(&long, NodeKind::Dir)), Descend::Skip);
    place(&mut restorer, &file("after", b"2"), b"2").expect("goes on");
    let (report, errors) = restorer.finish();
    assert_eq!(report.files, 2);
    assert!(!errors.is_empty());
    let names: Vec<_> = fs::read_dir(target.path()).expect("there").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names.len(), 2, "no temporary name stays: {names:?}");
}

/// No file system takes attributes of a namespace that does not exist.
#[test]
fn attributes_that_the_file_system_refuses_are_named_and_the_content_stands() {
    let target = folder();
    let mut restorer = restorer(target.path(), RestoreOptions::default());
    let node = Node { xattrs: vec![(b"nonsense.a".to_vec(), b"v".to_vec())], mode: 0o640, ..file("f", b"1") };
    let Placed::Content(mut sink) = restorer.place(&node) else { unreachable!("wanted") };
    sink.write(b"1").expect("written");
    let warnings = sink.finish().expect("the content stands");
    assert!(warnings.iter().any(|w| w.message.contains("extended attributes")), "{warnings:?}");
    restorer.finish();
    let there = fs::metadata(target.path().join("f")).expect("there");
    assert_eq!((there.mode() & 0o777, there.mtime()), (0o640, 1_000_000), "the other attributes are set");
}

#[test]
fn only_a_full_disk_counts_as_one() {
    let disk = Disk::default();
    for other in [rustix::io::Errno::FBIG, rustix::io::Errno::PERM, rustix::io::Errno::IO, rustix::io::Errno::ROFS] {
        disk.heed(&other.into());
        assert!(!disk.is_full(), "{other}");
    }
    for full in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
        let disk = Disk::default();
        disk.heed(&full.into());
        assert!(disk.is_full(), "{full}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn any_holes_and_any_pieces_give_the_same_file(
        extents in proptest::collection::vec((1u64..200_000, proptest::bool::ANY), 0..8),
        piece in 1usize..90_000,
    ) {
        let target = folder();
        let (mut whole, mut data, mut holes) = (Vec::new(), Vec::new(), Vec::new());
        let mut after_hole = false;
        for (at, &(len, hole)) in extents.iter().enumerate() {
            let hole = hole && !after_hole;
            after_hole = hole;
            if hole {
                holes.push((whole.len() as u64, len));
                whole.resize(whole.len() + len as usize, 0);
            } else {
                let bytes: Vec<u8> = (0..len).map(|i| (i as usize * 31 + at + 1) as u8).collect();
                data.extend_from_slice(&bytes);
                whole.extend_from_slice(&bytes);
            }
        }
        let node = Node { holes, ..file("f", &whole) };
        let mut restorer = restorer(target.path(), RestoreOptions { verify: true, ..RestoreOptions::default() });
        match restorer.place(&node) {
            Placed::Content(mut sink) => {
                for piece in data.chunks(piece) {
                    sink.write(piece).expect("written");
                }
                proptest::prop_assert_eq!(sink.finish(), Ok(Vec::new()));
            }
            other => proptest::prop_assert!(data.is_empty() && matches!(other, Placed::Done)),
        }
        proptest::prop_assert!(fs::read(target.path().join("f")).expect("there") == whole);
    }
}
