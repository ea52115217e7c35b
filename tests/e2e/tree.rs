//! A folder with everything that is hard about folders, and a comparison that shares no code with the program.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

/// Plaintext bytes in one data shard and in one stripe of RS(5,3).
pub const SHARD_PAYLOAD: usize = 1_048_560;
pub const STRIPE_PAYLOAD: usize = 5 * SHARD_PAYLOAD;

/// Bytes that do not compress and differ for each name.
pub fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new_derive_key("cairn e2e noise").update(name.as_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Text that compresses, like an SQL dump.
pub fn dump_text(rows: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for row in 0..rows {
        let tag = blake3::hash(&row.to_le_bytes()).to_hex();
        writeln!(out, "INSERT INTO orders VALUES ({row}, 'customer {}', '{}', {});", row % 977, &tag[..12], row * 31)
            .expect("memory");
    }
    out
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("inside")).expect("makes folders");
    fs::write(path, bytes).expect("writes");
}

fn set_time(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("sets times");
}

/// Builds the mixed tree of the issue below `root`.
pub fn build(root: &Path) {
    write(&root.join("empty"), b"");
    write(&root.join("one"), b"1");
    for (name, at) in [("shard", SHARD_PAYLOAD), ("stripe", STRIPE_PAYLOAD)] {
        for (sign, size) in [("minus", at - 1), ("exact", at), ("plus", at + 1)] {
            write(&root.join(format!("sizes/{name}-{sign}")), &noise(&format!("{name}{sign}"), size));
        }
    }
    write(&root.join("dump.sql"), &dump_text(20_000));
    let twice = noise("twice", 3_000_000);
    write(&root.join("copies/a"), &twice);
    write(&root.join("copies/b"), &twice);

    let mut deep = root.join("deep");
    for level in 0..60 {
        deep.push(format!("level-{level:02}-of-sixty"));
    }
    write(&deep.join("bottom"), b"far down");
    write(&root.join("n".repeat(255)), b"longest name");
    write(&root.join("name with space, 'quotes' and \"more\"\n"), b"shell");
    write(&root.join("ünï¢ode 🪨"), b"stones");
    write(&root.join("percent%41%zz"), b"percent");
    write(&root.join(OsString::from_vec(b"not-utf8-\xff\xfe-\x80".to_vec())), b"bytes");
    write(&root.join(OsString::from_vec(b"dir-\xc3\x28/inner-\xa0".to_vec())), b"bytes below bytes");
    fs::create_dir_all(root.join("empty-folder/empty-too")).expect("makes folders");

    symlink("one", root.join("link")).expect("links");
    symlink("../nowhere/at/all", root.join("dangling")).expect("links");
    symlink(".", root.join("loop")).expect("links");
    symlink(OsString::from_vec(b"target-\xff".to_vec()), root.join("link-bytes")).expect("links");
    fs::create_dir_all(root.join("hard")).expect("makes folders");
    write(&root.join("hard/first"), b"one inode, three names");
    fs::hard_link(root.join("hard/first"), root.join("hard/second")).expect("links");
    fs::hard_link(root.join("hard/first"), root.join("third-elsewhere")).expect("links");
    rustix::fs::mknodat(CWD, root.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o640), 0)
        .expect("makes a pipe");

    let mut sparse = File::create(root.join("sparse")).expect("creates");
    sparse.write_all(b"begin").expect("writes");
    sparse.seek(SeekFrom::Start(8 << 20)).expect("seeks");
    sparse.write_all(&noise("sparse", 10_000)).expect("writes");
    sparse.set_len(32 << 20).expect("grows");
    drop(sparse);
    File::create(root.join("all-hole")).expect("creates").set_len(3 << 20).expect("grows");

    if let Err(e) = xattr::set(root.join("one"), "user.cairn.note", b"kept \xff\x00 as it is") {
        eprintln!("extended attributes are not tested here: {e}");
    }
    for (name, mode) in [("one", 0o600), ("empty", 0o444), ("dump.sql", 0o755), ("hard/first", 0o640)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("sets mode");
    }
    fs::set_permissions(root.join("empty-folder"), fs::Permissions::from_mode(0o1750)).expect("sets mode");
    set_time(&root.join("one"), 1_234_567_890, 123_456_789);
    set_time(&root.join("empty"), 1, 999_999_999);
    set_time(&root.join("link"), 1_000_000_000, 42);
    set_time(&root.join("empty-folder/empty-too"), 946_684_800, 7);
    set_time(&root.join("empty-folder"), 946_684_801, 8);
}

/// One entry as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    size: u64,
    content: Option<String>,
    target: Option<PathBuf>,
    /// First path (in order) of the same inode, when it has several names in the tree.
    same_as: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether most of it takes no space.
    sparse: bool,
}

/// Everything below a folder, the folder itself as the empty path.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&full).expect("lists").map(|e| path.join(e.expect("lists").file_name())));
        }
        found.insert(path, (meta, full));
    }
    let mut first_names: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let entries = found.into_iter().map(|(path, (meta, full))| {
        let kind = meta.file_type();
        let first = first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone());
        let xattrs = xattr::list(&full).into_iter().flatten().filter(|n| n.as_bytes().starts_with(b"user."));
        let entry = Entry {
            kind: match () {
                () if kind.is_dir() => "folder",
                () if kind.is_file() => "file",
                () if kind.is_symlink() => "symlink",
                () if kind.is_fifo() => "pipe",
                () => "other",
            },
            mode: meta.mode() & 0o7777,
            mtime: (meta.mtime(), meta.mtime_nsec()),
            size: if kind.is_file() { meta.len() } else { 0 },
            content: kind.is_file().then(|| hash(&full)),
            target: kind.is_symlink().then(|| fs::read_link(&full).expect("reads")),
            same_as: (meta.nlink() > 1 && !kind.is_dir() && *first != path).then(|| first.clone()),
            xattrs: xattrs
                .map(|n| {
                    let value = xattr::get(&full, &n).ok().flatten().unwrap_or_default();
                    (n.into_vec(), value)
                })
                .collect(),
            sparse: kind.is_file() && meta.len() > 1 << 20 && meta.blocks() * 512 < meta.len() / 2,
        };
        (path, entry)
    });
    entries.collect()
}

fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).expect("reads") {
            0 => return hasher.finalize().to_hex().to_string(),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Differences between two trees, one sentence each; empty when they are the same in every respect.
pub fn differences(expected: &BTreeMap<PathBuf, Entry>, found: &BTreeMap<PathBuf, Entry>) -> Vec<String> {
    let mut differences = Vec::new();
    for (path, want) in expected {
        match found.get(path) {
            None => differences.push(format!("{path:?} is missing")),
            Some(got) if got != want => {
                differences.push(format!("{path:?}\n    expected {want:?}\n    found    {got:?}"))
            }
            Some(_) => {}
        }
    }
    let extra = found.keys().filter(|p| !expected.contains_key(*p));
    differences.extend(extra.map(|p| format!("{p:?} was not there before")));
    differences
}

#[track_caller]
pub fn assert_same(expected: &BTreeMap<PathBuf, Entry>, restored: &Path) {
    let differences = differences(expected, &describe(restored));
    assert!(differences.is_empty(), "{} differences:\n  {}", differences.len(), differences.join("\n  "));
}
