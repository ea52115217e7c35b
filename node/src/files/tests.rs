//! Reading and the way there and back, on real folders; walking in `walking`.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use cairn_proto::tree::NodeKind;

mod walking;

use super::{
    compare::{Change, CompareOptions, compare},
    filter::Filter,
    read::{ContentSink, ReadError, ReadFailure, Stability, read_file},
    walk::{Entry, Step, Walk, WalkError, WalkOptions},
    write::{Descend, Overwrite, Placed, RestoreOptions, RestoreReport, Restorer},
};
use crate::ops::ItemError;

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
    fs::write(path, bytes).expect("written");
}

fn walk(roots: &[&Path], options: WalkOptions) -> Vec<Step> {
    Walk::new(roots, options).expect("absolute").collect()
}

/// The paths below `root`, `+` for a folder's begin and `-` for its end; failures as `!path`.
fn listing(root: &Path, steps: &[Step]) -> Vec<String> {
    let show = |path: &Path| {
        let below = path.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty());
        below.map(|p| p.to_string_lossy().into_owned())
    };
    let all = steps.iter().filter_map(|step| match step {
        Step::Enter(path) => show(path).map(|p| format!("+{p}")),
        Step::Leave(entry) => show(&entry.path).map(|p| format!("-{p}")),
        Step::Leaf(entry) => show(&entry.path),
        Step::Failed(e) => show(Path::new(&e.item)).map(|p| format!("!{p}")),
    });
    all.collect()
}

struct Collect {
    bytes: Vec<u8>,
    restarts: u32,
    room: Vec<u8>,
    /// Called once for each write.
    meanwhile: Option<Box<dyn FnMut()>>,
}

impl Default for Collect {
    fn default() -> Self {
        Self { bytes: Vec::new(), restarts: 0, room: vec![0; 10_000], meanwhile: None }
    }
}

impl ContentSink for Collect {
    type Error = std::convert::Infallible;

    fn restart(&mut self) {
        self.bytes.clear();
        self.restarts += 1;
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn filled(&mut self, bytes: usize) -> Result<(), Self::Error> {
        self.bytes.extend_from_slice(&self.room[..bytes]);
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile();
        }
        Ok(())
    }
}

fn entry_of(path: &Path) -> Entry {
    let steps = walk(&[path], WalkOptions::default());
    let leaf = steps.into_iter().find_map(|step| match step {
        Step::Leaf(entry) => Some(entry),
        _ => None,
    });
    leaf.expect("the file is listed")
}

/// Backs `source` up and restores it at once below `target`: the whole way without chunks and network.
pub(crate) fn copy(source: &Path, target: &Path, options: RestoreOptions) -> (RestoreReport, Vec<ItemError>) {
    let mut restorer = Restorer::new(target, RestoreOptions { no_sync: true, ..options }).expect("target");
    let mut errors = Vec::new();
    // Folders are entered before their node is known to be complete, so the first pass collects the nodes.
    let steps = walk(&[source], WalkOptions::default());
    let mut open: Vec<usize> = Vec::new();
    let mut nodes = std::collections::HashMap::new();
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Enter(_) => open.push(at),
            Step::Leave(entry) => {
                nodes.insert(open.pop().expect("paired"), entry.node.clone());
            }
            _ => {}
        }
    }
    let mut skipping = 0;
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Enter(_) if skipping > 0 => skipping += 1,
            Step::Leave(_) if skipping > 0 => skipping -= 1,
            _ if skipping > 0 => {}
            Step::Enter(_) => {
                if restorer.enter(&nodes[&at]) == Descend::Skip {
                    skipping = 1;
                }
            }
            Step::Leave(_) => restorer.leave(),
            Step::Failed(e) => errors.push(e),
            Step::Leaf(mut entry) => {
                let mut content = Collect::default();
                if entry.node.kind == NodeKind::File {
                    let read = read_file(&mut entry, &mut content);
                    assert!(matches!(read, Ok(Stability::Stable)), "{read:?}");
                }
                if let Placed::Content(mut sink) = restorer.place(&entry.node) {
                    let done = content.bytes.chunks(70_001).try_for_each(|part| sink.write(part));
                    match done.and_then(|()| sink.finish()) {
                        Ok(warnings) => errors.extend(warnings),
                        Err(e) => errors.push(e),
                    }
                }
            }
        }
    }
    let (report, more) = restorer.finish();
    errors.extend(more);
    (report, errors)
}

/// Where `copy` put the source.
fn below(target: &Path, source: &Path) -> PathBuf {
    target.join(source.strip_prefix("/").expect("absolute"))
}

fn assert_same(left: &Path, right: &Path) {
    let found = compare(left, right, CompareOptions::FULL).expect("compared");
    assert!(found.is_empty(), "{}", found.iter().map(|d| format!("{d}\n")).collect::<String>());
}

#[test]
fn a_changing_file_is_read_again_and_then_reported() {
    let dir = folder();
    let path = dir.path().join("log");
    put(&path, &[1; 5_000]);
    let append = |path: PathBuf, mut times: u32| {
        Box::new(move || {
            if times > 0 {
                times -= 1;
                fs::OpenOptions::new().append(true).open(&path).expect("open").write_all(b"more").expect("written");
            }
        })
    };
    let mut entry = entry_of(&path);
    let mut once = Collect { meanwhile: Some(append(path.clone(), 1)), ..Collect::default() };
    assert!(matches!(read_file(&mut entry, &mut once), Ok(Stability::Stable)));
    assert_eq!((once.restarts, once.bytes.len(), entry.node.size), (1, 5_004, 5_004));

    let mut always = Collect { meanwhile: Some(append(path.clone(), u32::MAX)), ..Collect::default() };
    let outcome = read_file(&mut entry, &mut always);
    assert!(matches!(outcome, Ok(Stability::Changed(_))), "{outcome:?}");
    assert_eq!(always.bytes.len() as u64, entry.node.size);

    // Cut while it is read: the node fits the bytes that came.
    let cut = {
        let path = path.clone();
        Box::new(move || fs::OpenOptions::new().write(true).open(&path).expect("open").set_len(100).expect("cut"))
    };
    let mut cut = Collect { meanwhile: Some(cut), room: vec![0; 1_000], ..Collect::default() };
    assert!(read_file(&mut entry, &mut cut).is_ok());
    assert_eq!(cut.bytes.len() as u64, entry.node.size);
}

#[test]
fn all_kinds_of_entries_come_back_the_same() {
    let (source, target) = (folder(), folder());
    let at = |name: &str| source.path().join(name);
    put(&at("empty"), b"");
    put(&at("small"), b"hello");
    put(&at("large"), &(0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    put(&source.path().join(OsStr::from_bytes(b"not \xff\xfe utf8 \n")), b"x");
    put(&source.path().join(OsString::from_vec(vec![b'n'; 255])), b"long name");
    fs::create_dir(at("empty folder")).expect("made");
    symlink("nowhere at all", at("dangling")).expect("made");
    symlink("small", at("link")).expect("made");
    fs::hard_link(at("small"), at("zz second name")).expect("linked");
    put(&at("sub/third"), b"");
    fs::hard_link(at("small"), at("sub/third name")).expect("linked");
    fs::hard_link(at("dangling"), at("sub/dangling too")).expect("linked");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
    fs::set_permissions(at("small"), fs::Permissions::from_mode(0o4751)).expect("mode");
    fs::set_permissions(at("empty folder"), fs::Permissions::from_mode(0o500)).expect("mode");
    let old = std::time::UNIX_EPOCH - std::time::Duration::new(5, 999_999_999);
    fs::File::open(at("large")).and_then(|f| f.set_modified(old)).expect("a time before 1970");
    fs::File::open(at("sub")).and_then(|f| f.set_modified(old)).expect("a folder's time");
    match rustix::fs::setxattr(at("large"), "user.cairn", b"v\0w", rustix::fs::XattrFlags::empty()) {
        Ok(()) => {}
        Err(e) => eprintln!("skipped the extended attributes: the file system of the temporary folder says {e}"),
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(at("large"), Some(12_345), Some(54_321)).expect("owner");
        std::os::unix::fs::lchown(at("link"), Some(12_345), Some(54_321)).expect("owner");
    } else {
        eprintln!("skipped foreign owners: not root");
    }
    for verify in [true, false] {
        let (report, errors) = copy(source.path(), target.path(), RestoreOptions { verify, ..Default::default() });
        assert_eq!(errors, []);
        assert_same(source.path(), &below(target.path(), source.path()));
        assert_eq!((report.links, report.files) == (3, 6), verify, "{report:?}");
    }
}

#[test]
fn devices_come_back_or_are_reported() {
    let (source, target) = (folder(), folder());
    let dev = rustix::fs::makedev(1, 3);
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        source.path().join("null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        dev,
    );
    if let Err(e) = made {
        eprintln!("skipped: making a device says {e}");
        return;
    }
    let (_, errors) = copy(source.path(), target.path(), RestoreOptions::default());
    assert_eq!(errors, []);
    assert_same(source.path(), &below(target.path(), source.path()));
}

#[test]
fn sparse_files_stay_sparse() {
    let (source, target) = (folder(), folder());
    let make = |name: &str, size: u64, data: &[u64]| {
        let file = fs::File::create(source.path().join(name)).expect("made");
        file.set_len(size).expect("sized");
        for &at in data {
            file.write_all_at(&[7; 8192], at).expect("written");
        }
        file.sync_all().expect("synced");
    };
    make("middle", 64 << 20, &[10 << 20, 40 << 20]);
    make("all hole", 32 << 20, &[]);
    make("begins with data", 8 << 20, &[0]);
    make("ends with data", (8 << 20) + 8192, &[8 << 20]);
    let (report, errors) = copy(source.path(), target.path(), RestoreOptions { verify: true, ..Default::default() });
    assert_eq!(errors, []);
    assert_same(source.path(), &below(target.path(), source.path()));
    let blocks = fs::metadata(source.path().join("middle")).expect("there").blocks();
    if blocks * 512 > 32 << 20 {
        eprintln!("skipped the sizes: this file system keeps no holes");
    } else {
        assert!(report.bytes < 1 << 20, "holes were written: {report:?}");
    }
}

#[test]
fn a_thousand_levels_go_there_and_back() {
    let (source, target) = (folder(), folder());
    // Longer than PATH_MAX by far, so it is made step by step.
    let name = c"a-folder-name-of-thirty-letters";
    let mut dir = super::dir::Dir::top(source.path()).expect("open");
    for _ in 0..1_000 {
        rustix::fs::mkdirat(dir.fd().expect("fd"), name, rustix::fs::Mode::RWXU).expect("made");
        dir = dir.open_child(name).expect("opened");
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(dir.fd().expect("fd"), c"deep", flags, rustix::fs::Mode::from_raw_mode(0o600))
        .expect("file");
    fs::File::from(file).write_all(b"treasure").expect("written");
    drop(dir);
    let before = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let (report, errors) = copy(source.path(), target.path(), RestoreOptions::default());
    assert_eq!(errors, []);
    assert_eq!(report.files, 1);
    assert!(report.folders >= 1_000);
    assert_same(source.path(), &below(target.path(), source.path()));
    let after = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // Other tests run beside this one, so only a leak per level counts.
    assert!(after < before + 500, "{before} descriptors before, {after} after");
}

#[test]
fn the_comparison_sees_each_kind_of_difference() {
    let (a, b) = (folder(), folder());
    for side in [a.path(), b.path()] {
        for name in ["same", "bytes", "size", "mode", "time", "sub/kind"] {
            put(&side.join(name), b"12345678");
        }
        symlink(if side == a.path() { "x" } else { "y" }, side.join("target")).expect("made");
    }
    put(&a.path().join("left"), b"");
    put(&b.path().join("right"), b"");
    put(&b.path().join("bytes"), b"12345x78");
    put(&b.path().join("size"), b"1");
    fs::set_permissions(b.path().join("mode"), fs::Permissions::from_mode(0o600)).expect("mode");
    fs::set_permissions(a.path().join("mode"), fs::Permissions::from_mode(0o644)).expect("mode");
    fs::remove_file(b.path().join("sub/kind")).expect("removed");
    fs::create_dir(b.path().join("sub/kind")).expect("made");
    let options = CompareOptions { modes: true, ..CompareOptions::CONTENT };
    let found = compare(a.path(), b.path(), options).expect("compared");
    let text: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "bytes: the content differs from byte 5 on",
            "left: only on the left",
            "mode: mode is 0644 and 0600",
            "size: size is 8 and 1",
            "target: target is x and y",
            "right: only on the right",
            "sub/kind: kind is File and Dir",
        ]
    );
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1, 1);
    fs::File::open(b.path().join("time")).and_then(|f| f.set_modified(old)).expect("time");
    let found = compare(a.path(), b.path(), CompareOptions::FULL).expect("compared");
    let time = found.iter().any(|d| {
        d.path == Path::new("time")
            && matches!(&d.change, Change::Property { what: "mtime", right, .. } if right == "1.000000001")
    });
    assert!(time, "{found:?}");
}

#[test]
fn overwrite_policies_are_words() {
    assert_eq!("if-newer".parse(), Ok(Overwrite::IfNewer));
    assert!("sometimes".parse::<Overwrite>().is_err());
}
