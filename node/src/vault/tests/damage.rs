//! What disks, crashes and people do to the catalogue. Whatever it is: either the catalogue is as it was, or it is noticed and
//! rebuilt from the network.

use std::{collections::BTreeMap, fs, path::Path};

use cairn_proto::{
    ChunkId, VaultKey,
    index::{RunCodec, RunPlace, RunRow, StripeNo},
};
use rand_core::{Rng as _, SeedableRng as _};

use super::*;
use crate::{
    ops::SnapshotsArgs,
    vault::catalogue::{Catalogue, Meta, StripeRecord, guard::Mark},
};

const VAULT: [u8; 32] = [3; 32];

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let there = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy(&entry.path(), &there),
            false => drop(fs::copy(entry.path(), there).expect("copied")),
        }
    }
}

/// The catalogue's folder with its mark.
fn copy_marked(from: &Path, to: &Path) {
    copy(from, to);
    fs::copy(Mark::path(from), Mark::path(to)).expect("copied");
}

fn remove_snapshots(dir: &Path) {
    for entry in fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()) {
        if entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with("snap.")) {
            fs::remove_file(entry).expect("removed");
        }
    }
}

fn close(catalogue: Catalogue, dir: &Path) {
    drop(catalogue);
    Catalogue::wait_closed(dir).expect("closes");
}

/// What is done to one file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    Cut(usize),
    Gone,
}

fn harm(file: &Path, damage: Damage) {
    match damage {
        Damage::Gone => return fs::remove_file(file).expect("removed"),
        Damage::Cut(at) => fs::OpenOptions::new().write(true).open(file).and_then(|f| f.set_len(at as u64)),
        Damage::Flip(at) => fs::read(file).and_then(|mut bytes| {
            bytes[at] ^= 0x41;
            fs::write(file, bytes)
        }),
    }
    .expect("harmed");
}

/// A flip in each of `parts` parts, cuts, and the file's loss.
fn damages(length: usize, parts: usize, random: &mut rand_chacha::ChaCha20Rng) -> Vec<Damage> {
    let part = (length / parts).max(1);
    let mut offset = |at: usize| (at + random.next_u64() as usize % part).min(length - 1);
    let mut all: Vec<_> = (0..length).step_by(part).map(|at| Damage::Flip(offset(at))).collect();
    all.extend((0..length).step_by(part * 3).map(|at| Damage::Cut(offset(at))));
    all.push(Damage::Gone);
    all
}

/// Chunks, runs, files and pending notes in several of sled's segments, some of them written over and over; `half` is
/// called in the middle.
fn fill(catalogue: &Catalogue, half: impl FnOnce()) {
    let mut half = Some(half);
    for no in 1..=80u64 {
        let id =
            |at: u64| ChunkId::from_bytes(*blake3::hash(&[no.to_le_bytes(), at.to_le_bytes()].concat()).as_bytes());
        let chunks = (0..200).map(|at| (id(at), 64)).collect();
        let (stripe, codec) = (StripeNo(no), RunCodec::Raw);
        let place = RunPlace { stripe, offset: 0, stored_len: 200 * 64, next: None, codec, raw_len: 200 * 64 };
        let runs = vec![RunRow { place, chunks }];
        catalogue.record_stripe(&StripeRecord { runs, pending: true, ..StripeRecord::default() }).expect("written");
        let file = |at: u64| (*blake3::hash(&(at + no * 7 % 300).to_le_bytes()).as_bytes(), vec![no as u8; 200]);
        catalogue.set_files(&(0..50).map(file).collect::<Vec<_>>()).expect("written");
        if no % 20 == 0 {
            catalogue.set_meta(Meta::Epochs, Some(no.to_le_bytes().to_vec())).expect("written");
            catalogue.flush().expect("written");
        }
        if no == 40 {
            half.take().expect("once")();
        }
    }
}

/// Every file of the database, in the three states that it may be found in: closed, killed, and killed the first time.
#[test]
fn no_damaged_catalogue_passes_for_a_whole_one() {
    let dir = tempfile::tempdir().expect("temp dir");
    let [closed, killed, scanned, old] = ["closed", "killed", "scanned", "old"].map(|n| dir.path().join(n));
    let key = VaultKey::from_bytes(VAULT);
    let catalogue = Catalogue::open(&closed, &key).expect("made");
    fill(&catalogue, || copy_marked(&closed, &old));
    copy_marked(&closed, &killed);
    close(catalogue, &closed);
    copy_marked(&closed, &scanned);
    remove_snapshots(&scanned);
    // What a lost row costs is said in the guard; all others count.
    let rows = |c: &Catalogue| {
        c.rows().map(|mut r| {
            r.retain(|key, _| key[0] != b'f');
            r
        })
    };
    let read = |place: &Path| {
        Catalogue::open(place, &key).and_then(|c| {
            c.verify()?;
            rows(&c)
        })
    };
    let whole = read(&killed).expect("whole");
    assert!(whole.len() > 160);

    let mut random = rand_chacha::ChaCha20Rng::seed_from_u64(0x5eed);
    let (place, mut seen) = (dir.path().join("place"), BTreeMap::new());
    let mut check = |name: String, must_fail: bool| {
        let same = match read(&place) {
            Ok(rows) => rows == whole,
            Err(_) => {
                *seen.entry("noticed").or_insert(0) += 1;
                return;
            }
        };
        *seen.entry("as it was").or_insert(0) += 1;
        assert!(same && !must_fail, "{name}: damage passed for a whole catalogue");
    };
    for base in [&closed, &killed, &scanned] {
        for file in fs::read_dir(base).expect("readable").map(|e| e.expect("readable")) {
            let length = file.metadata().expect("there").len() as usize;
            let is_file = file.file_type().expect("known").is_file();
            for damage in if is_file { damages(length, 24, &mut random) } else { Vec::new() } {
                copy_marked(base, &place);
                harm(&place.join(file.file_name()), damage);
                check(format!("{base:?} {:?} {damage:?}", file.file_name()), false);
            }
        }
        copy_marked(base, &place);
        copy(&old, &place);
        check(format!("{base:?} an old copy"), true);
        for file in ["db", "conf"] {
            copy_marked(base, &place);
            fs::copy(old.join(file), place.join(file)).expect("copied");
            check(format!("{base:?} an old {file}"), file == "db");
        }
        copy_marked(base, &place);
        fs::remove_dir_all(&place).expect("removed");
        check(format!("{base:?} no folder"), true);
        for damage in damages(fs::metadata(Mark::path(base)).expect("there").len() as usize, 48, &mut random) {
            copy_marked(base, &place);
            harm(&Mark::path(&place), damage);
            check(format!("{base:?} mark {damage:?}"), true);
        }
    }
    assert!(seen["noticed"] > 200 && seen["as it was"] > 20, "{seen:?}");
    println!("{seen:?}");
}

/// Rows that sled loses without a word: each kind that decisions rest on, removed or set back behind the catalogue's back.
#[test]
fn a_row_that_is_missing_or_old_is_missed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (whole, place) = (dir.path().join("whole"), dir.path().join("place"));
    let key = VaultKey::from_bytes(VAULT);
    let catalogue = Catalogue::open(&whole, &key).expect("made");
    let mut before = BTreeMap::new();
    fill(&catalogue, || before = catalogue.rows().expect("readable"));
    catalogue.set_shortfall(StripeNo(1), &[1]).expect("written");
    catalogue.flush().expect("written");
    let rows = catalogue.rows().expect("readable");
    close(catalogue, &whole);
    // Of each prefix the last row.
    let kinds: BTreeMap<u8, &Vec<u8>> = rows.keys().filter(|k| k[0] != b'f').map(|k| (k[0], k)).collect();
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), b"hmqr");
    let epochs = vec![b'm', Meta::Epochs as u8];
    let removals = kinds.values().map(|key| ((*key).clone(), None)).chain([(epochs.clone(), None)]);
    let mut old = before[&epochs].clone();
    old.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&epochs), &old).to_le_bytes());
    for (row, value) in removals.chain([(epochs.clone(), Some(old))]) {
        copy_marked(&whole, &place);
        {
            let tree = sled::open(&place).expect("opens").open_tree("catalogue").expect("opens");
            let was = match value {
                None => tree.remove(&row),
                Some(value) => tree.insert(&row, value),
            };
            assert!(was.expect("written").is_some());
        }
        Catalogue::wait_closed(&place).expect("closes");
        let opened = Catalogue::open(&place, &key).and_then(|c| c.verify());
        assert!(opened.is_err(), "a row {:?} is not missed", char::from(row[0]));
        Catalogue::wait_closed(&place).expect("closes");
    }
    copy_marked(&whole, &place);
    Catalogue::open(&place, &key).and_then(|c| c.verify()).expect("as it was");
}

/// The same through the verbs: a vault goes on as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_catalogue_is_rebuilt_before_anybody_believes_it() {
    let mut owner = Owner::new(24);
    let place = owner.data.join("vault/catalogue");
    let (old, new) = (owner.dir.path().join("old"), owner.dir.path().join("new"));
    owner.write("a", &noise(1, 1 << 20));
    owner.backup().await.expect(ExitCode::Success);
    Catalogue::wait_closed(&place).expect("closes");
    copy(&place, &old);
    owner.write("b", &noise(2, 1 << 20));
    owner.backup().await.expect(ExitCode::Success);
    Catalogue::wait_closed(&place).expect("closes");
    copy_marked(&place, &new);
    let snapshots = owner.run(Verb::Snapshots(SnapshotsArgs::default())).await;
    assert_eq!(snapshots.rows().len(), 2);

    let network = owner.overlay.clone();
    type Harm = fn(&Path, &Path);
    let kinds: [(&str, Harm); 6] = [
        ("the folder is gone", |place, _| fs::remove_dir_all(place).expect("removed")),
        ("the folder is empty", |place, _| {
            fs::remove_dir_all(place).expect("removed");
            fs::create_dir(place).expect("made");
        }),
        ("an old copy", |place, old| copy(old, place)),
        ("the log is cut", |place, _| {
            remove_snapshots(place);
            harm(&place.join("db"), Damage::Cut(1000));
        }),
        ("the log is overwritten", |place, _| {
            let length = fs::metadata(place.join("db")).expect("there").len();
            fs::write(place.join("db"), vec![0x5a; length as usize]).expect("written");
        }),
        ("the mark is gone", |place, _| fs::remove_file(Mark::path(place)).expect("removed")),
    ];
    for (at, (kind, harm)) in kinds.into_iter().enumerate() {
        owner.overlay = network.fork();
        Catalogue::wait_closed(&place).expect("closes");
        copy_marked(&new, &place);
        harm(&place, &old);
        // Whichever verb comes first.
        let verb =
            if at % 2 == 0 { Verb::Backup(owner.backup_args()) } else { Verb::Snapshots(SnapshotsArgs::default()) };
        let ran = owner.run(verb).await.expect(ExitCode::Success);
        let told = ran.events.iter().any(|e| matches!(e, Event::Notice { id, .. } if id == "CATALOGUE_REBUILT"));
        assert!(told, "{kind}");
        owner.backup().await.expect(ExitCode::Success);
        let after = owner.run(Verb::Snapshots(SnapshotsArgs::default())).await;
        assert!(snapshots.rows().iter().all(|row| after.rows().contains(row)), "{kind}");
        // What this machine then wrote can be recovered elsewhere.
        let here = std::mem::replace(&mut owner.data, owner.dir.path().join(format!("blank-{at}")));
        owner.recover().await.expect(ExitCode::Success);
        owner.restore(&format!("out-{at}")).await.expect(ExitCode::Success);
        owner.assert_same(&format!("out-{at}"));
        owner.data = here;
    }

    // Without a network there is nothing to rebuild from: it is an error, and no empty vault.
    owner.overlay = network.fork();
    for peer in owner.overlay.peer_keys() {
        owner.overlay.set_manner(&peer, memory_overlay::Manner::Dead);
    }
    Catalogue::wait_closed(&place).expect("closes");
    copy_marked(&new, &place);
    copy(&old, &place);
    let ran = owner.run(Verb::Snapshots(SnapshotsArgs::default())).await.expect(ExitCode::Failed);
    assert_eq!(ran.failure().id, "CATALOGUE_DAMAGED");
    assert!(ran.failure().hint.contains("cairn recover"), "{:?}", ran.failure());
}

/// The network shows less than this folder knew: going back would sign a sequence twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_catalogue_is_not_rebuilt_from_an_older_head() {
    let mut owner = Owner::new(24);
    owner.write("a", &noise(1, 1 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let before = owner.overlay.fork();
    owner.write("b", &noise(2, 1 << 20));
    owner.backup().await.expect(ExitCode::Success);
    owner.overlay = before;
    fs::remove_dir_all(owner.data.join("vault/catalogue")).expect("removed");
    let ran = owner.backup().await.expect(ExitCode::Refused);
    assert_eq!(ran.failure().id, "OLDER_HEAD");
}

/// sled puts what does not fit into a page into files that it never syncs.
#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_too_large_for_a_page() {
    use crate::vault::catalogue::CommitRecord;
    use cairn_core::{chunking::ChunkProfile, pack::RunBuilder};
    use cairn_proto::{
        SnapshotId, Timestamp,
        manifest::{PATHS_MAX, SnapshotRecord, SourceKind},
        tree::ContentRef,
    };
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("catalogue");
    let catalogue = Catalogue::open(&path, &VaultKey::from_bytes([1; 32])).expect("opens");
    let mut builder = RunBuilder::new(ChunkProfile::Files);
    let id = |n: u32| ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let mut raw: Vec<_> = (0..12_000u32).filter_map(|n| builder.push(id(n), &[1]).expect("fits")).collect();
    raw.extend(builder.finish());
    let place = |at: u32, raw_len: usize| RunPlace {
        stripe: StripeNo(1),
        offset: at,
        stored_len: 1,
        next: None,
        codec: RunCodec::Zstd,
        raw_len: raw_len as u32,
    };
    let runs: Vec<_> = raw
        .into_iter()
        .zip(0u32..)
        .map(|(run, at)| RunRow { place: place(at, run.chunks.len()), chunks: run.chunks })
        .collect();
    let record = SnapshotRecord {
        time: Timestamp(1),
        hostname: "h".to_owned(),
        username: "u".to_owned(),
        uid: 1,
        gid: 1,
        paths: (0..PATHS_MAX).map(|n| format!("/some/where/{n}").into_bytes()).collect(),
        tags: Vec::new(),
        source: SourceKind::Files,
        root: ContentRef::empty(),
        total_files: 1,
        total_bytes: 1,
        data_added: 1,
        program: "p".to_owned(),
        parent: None,
    };
    let snapshots: Vec<_> = (0..20u8).map(|n| (SnapshotId::from_bytes([n; 32]), record.clone())).collect();
    let segments: Vec<_> = (0..20_000).map(|at| place(at, 1)).collect();
    for _ in 0..20 {
        catalogue.record_stripe(&StripeRecord { runs: runs.clone(), ..StripeRecord::default() }).expect("written");
        catalogue.set_files(&[([1; 32], vec![7; 40_000])]).expect("written");
        let commit = CommitRecord { snapshots: &snapshots, segments: &segments, ..CommitRecord::default() };
        catalogue.finish_commit(&commit).expect("written");
    }
    let blobs = fs::read_dir(path.join("blobs")).expect("there").count();
    assert_eq!(blobs, 0);
    assert_eq!(catalogue.segments().expect("readable"), segments);
    assert_eq!(catalogue.snapshots().expect("readable"), snapshots);
    assert_eq!(catalogue.runs().count(), runs.len());
    let fewer = CommitRecord { segments: &segments[..3], ..CommitRecord::default() };
    catalogue.finish_commit(&fewer).expect("written");
    assert_eq!(catalogue.segments().expect("readable"), segments[..3]);
}
