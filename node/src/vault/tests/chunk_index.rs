//! The index that says where chunks lie is derived: whatever becomes of it, the catalogue's answers stay.

use std::{fs, path::Path};

use cairn_proto::{
    ChunkId, VaultKey,
    index::{RunCodec, RunPlace, RunRow, StripeNo},
};

use tokio::sync::mpsc;

use super::{Owner, ingest};
use crate::vault::{
    Vault,
    catalogue::{Catalogue, CommitRecord, StripeRecord},
};

const RUNS: u64 = 40;

fn key() -> VaultKey {
    VaultKey::from_bytes([5; 32])
}

fn id(stripe: u64, at: u64) -> ChunkId {
    ChunkId::from_bytes(*blake3::hash(&[stripe.to_le_bytes(), at.to_le_bytes()].concat()).as_bytes())
}

/// The runs of a stripe, 30 chunks each.
fn runs(no: u64) -> Vec<RunRow> {
    let run = |at: u64| {
        let (stripe, offset) = (StripeNo(no), at as u32 * 100);
        let place = RunPlace { stripe, offset, stored_len: 30, next: None, codec: RunCodec::Raw, raw_len: 30 };
        RunRow { place, chunks: (at * 30..at * 30 + 30).map(|at| (id(no, at), 1)).collect() }
    };
    (0..RUNS).map(run).collect()
}

fn record(catalogue: &Catalogue, no: u64) {
    let record = StripeRecord { runs: runs(no), pending: true, ..StripeRecord::default() };
    catalogue.record_stripe(&record).expect("written");
}

fn open(dir: &Path) -> Catalogue {
    Catalogue::wait_closed(dir).expect("closes");
    Catalogue::open(dir, &key()).expect("opens")
}

fn has_all(catalogue: &Catalogue, stripes: std::ops::RangeInclusive<u64>) {
    for no in stripes {
        for at in (0..RUNS * 30).step_by(7) {
            assert!(catalogue.has_chunk(&id(no, at)).expect("readable"), "{no} {at}");
            let run = catalogue.find_chunk(&id(no, at)).expect("readable").expect("there");
            assert_eq!((run.place.stripe, u64::from(run.place.offset)), (StripeNo(no), at / 30 * 100));
        }
    }
    assert!(!catalogue.has_chunk(&id(99, 0)).expect("readable"));
    assert!(catalogue.find_chunk(&id(99, 0)).expect("readable").is_none());
    catalogue.verify().expect("whole");
}

#[test]
fn an_index_that_is_lost_torn_or_old_costs_no_chunk() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (place, old) = (dir.path().join("c"), dir.path().join("old"));
    let index = place.join("chunks");
    let replace = |by: &Path| {
        fs::remove_dir_all(&index).expect("removed");
        fs::create_dir(&index).expect("made");
        for file in fs::read_dir(by).expect("there").map(|e| e.expect("readable")) {
            fs::copy(file.path(), index.join(file.file_name())).expect("copied");
        }
    };
    let catalogue = Catalogue::open(&place, &key()).expect("made");
    record(&catalogue, 1);
    catalogue.flush().expect("written");
    fs::create_dir(&old).expect("made");
    for file in fs::read_dir(&index).expect("saved").map(|e| e.expect("readable")) {
        fs::copy(file.path(), old.join(file.file_name())).expect("copied");
    }
    has_all(&catalogue, 1..=1);
    record(&catalogue, 2);
    drop(catalogue);
    // Recorded, and the index not saved before the end: as after a kill.
    has_all(&open(&place), 1..=2);
    fs::remove_dir_all(&index).expect("removed");
    has_all(&open(&place), 1..=2);
    replace(&old);
    has_all(&open(&place), 1..=2);
    // A block that was altered shows when it is read.
    let file = fs::read_dir(&index).expect("there").map(|e| e.expect("readable").path());
    let file = file.max_by_key(|path| fs::metadata(path).expect("there").len()).expect("a file");
    let mut bytes = fs::read(&file).expect("there");
    bytes[100] ^= 1;
    fs::write(&file, bytes).expect("written");
    let catalogue = open(&place);
    has_all(&catalogue, 1..=2);
    // Nor does one that goes while it is open.
    fs::remove_dir_all(&index).expect("removed");
    record(&catalogue, 3);
    catalogue.flush().expect("made anew");
    has_all(&catalogue, 1..=3);
    drop(catalogue);
    let before = fs::read(index.join("list")).expect("saved");
    has_all(&open(&place), 1..=3);
    assert_eq!(fs::read(index.join("list")).expect("there"), before, "what is whole is not made anew");
}

/// More chunks at once than wait in memory, and the newest place of each, though its older neighbours were looked at last.
#[test]
fn many_chunks_at_once_are_all_found_where_they_lie_now() {
    let dir = tempfile::tempdir().expect("temp dir");
    let place = dir.path().join("c");
    let catalogue = Catalogue::open(&place, &key()).expect("made");
    let all: Vec<RunRow> = (1..=70).flat_map(runs).collect();
    catalogue.record_stripe(&StripeRecord { runs: all, ..StripeRecord::default() }).expect("written");
    catalogue.flush().expect("written");
    drop(catalogue);
    let catalogue = open(&place);
    has_all(&catalogue, 1..=70);
    let newer = RunRow { place: RunPlace { stripe: StripeNo(80), ..runs(1)[2].place }, ..runs(1)[2].clone() };
    catalogue.record_stripe(&StripeRecord { runs: vec![newer.clone()], ..StripeRecord::default() }).expect("written");
    for (id, _) in &newer.chunks {
        assert!(catalogue.has_chunk(&runs(1)[1].chunks[0].0).expect("readable"));
        assert!(catalogue.find_chunk(id).expect("readable").as_ref() == Some(&newer));
    }
}

/// Rows have several runs, segments begin and end where they like.
#[test]
fn a_row_waits_until_all_of_its_runs_stand_in_segments() {
    let dir = tempfile::tempdir().expect("temp dir");
    let catalogue = Catalogue::open(&dir.path().join("c"), &key()).expect("made");
    record(&catalogue, 1);
    record(&catalogue, 2);
    let rows = catalogue.rows().expect("readable").keys().filter(|key| key[0] == b'r').count();
    assert!((2..=20).contains(&rows), "{rows} rows for 80 runs");
    let (_, waiting, more) = catalogue.pending(usize::MAX).expect("readable");
    assert!(!more && waiting == [runs(1), runs(2)].concat());
    // All but the last ten runs; then those, too.
    let places: Vec<RunPlace> = waiting.iter().map(|run| run.place).collect();
    let commit = |places: &[RunPlace]| {
        catalogue.finish_commit(&CommitRecord { runs: places, ..CommitRecord::default() }).expect("written");
        catalogue.pending(usize::MAX).expect("readable").1
    };
    let left = commit(&places[..70]);
    assert!(left.len() < 20 && left.ends_with(&waiting[70..]), "{} wait", left.len());
    assert!(commit(&places[60..]).is_empty());
    // A recovery that reads two segments which both have some of the runs keeps each once.
    let again = StripeRecord { runs: waiting[30..60].to_vec(), skip_known: true, ..StripeRecord::default() };
    catalogue.record_stripe(&again).expect("written");
    assert_eq!(catalogue.runs().count(), 80);
    has_all(&catalogue, 1..=2);
}

#[test]
fn runs_of_a_lost_stripe_go_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let catalogue = Catalogue::open(&dir.path().join("c"), &key()).expect("made");
    // Two runs of another stripe that end in this one stand in its first row.
    let mut both = runs(1);
    both[0].place = RunPlace { stripe: StripeNo(2), next: Some(StripeNo(1)), offset: 7, ..both[0].place };
    let record = StripeRecord { runs: both.clone(), pending: true, ..StripeRecord::default() };
    catalogue.record_stripe(&record).expect("written");
    let counters = super::super::catalogue::Counters { next_stripe: 9, ..Default::default() };
    catalogue.set_counters(counters).expect("written");
    assert!(catalogue.has_chunk(&id(1, 3)).expect("readable"));
    // All of the lost run's chunks have a newer place.
    let newer = RunRow { place: RunPlace { stripe: StripeNo(5), next: None, ..both[0].place }, ..both[0].clone() };
    let record = StripeRecord { runs: vec![newer.clone()], pending: true, ..StripeRecord::default() };
    catalogue.set_lost(&[StripeNo(2)].into()).expect("written");
    catalogue.record_stripe(&record).expect("written");
    assert_eq!(catalogue.find_chunk(&id(1, 3)).expect("readable").as_ref(), Some(&newer), "the newest counts");
    assert!(catalogue.retire_lost().expect("written").is_empty());
    let sorted = |mut runs: Vec<RunRow>| {
        runs.sort_by_key(|run| (run.place.stripe, run.place.offset));
        runs
    };
    let left = sorted(catalogue.runs().map(|run| run.expect("readable")).collect());
    assert!(left == [&both[1..], std::slice::from_ref(&newer)].concat());
    assert!(sorted(catalogue.pending(usize::MAX).expect("readable").1) == left);
    assert_eq!(catalogue.find_chunk(&id(1, 3)).expect("readable"), Some(newer));
    assert_eq!(catalogue.find_chunk(&id(1, 40)).expect("readable").as_ref(), Some(&both[1]));
    catalogue.verify().expect("whole");
}

/// sled alone would keep all of these rows. In a process of its own: nobody else's memory counts then.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_rows_that_are_read() {
    const CHILD: &str = "CAIRN_TEST_CATALOGUE_MEMORY";
    const STRIPES: u64 = 40;
    const RUNS: u64 = 320;
    let name = "vault::tests::chunk_index::memory_does_not_grow_with_the_rows_that_are_read";
    let rows = |no: u64| -> Vec<RunRow> {
        let run = |at: u64| {
            let (stripe, offset) = (StripeNo(no), at as u32 * 200);
            let place = RunPlace { stripe, offset, stored_len: 180, next: None, codec: RunCodec::Raw, raw_len: 180 };
            RunRow { place, chunks: (at * 180..at * 180 + 180).map(|at| (id(no, at), 1)).collect() }
        };
        (0..RUNS).map(run).collect()
    };
    let Some(place) = std::env::var_os(CHILD) else {
        let dir = tempfile::tempdir().expect("temp dir");
        let place = dir.path().join("c");
        let catalogue = Catalogue::open(&place, &key()).expect("made");
        for no in 1..=STRIPES {
            let record = StripeRecord { runs: rows(no), ..StripeRecord::default() };
            catalogue.record_stripe(&record).expect("written");
        }
        catalogue.flush().expect("written");
        drop(catalogue);
        Catalogue::wait_closed(&place).expect("closes");
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"));
        let done = child.args([name, "--exact", "--nocapture"]).env(CHILD, &place).output().expect("runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        return;
    };
    let memory = || {
        let status = fs::read_to_string("/proc/self/status").expect("on Linux");
        let line = status.lines().find(|line| line.starts_with("RssAnon")).expect("there");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") >> 10
    };
    let catalogue = Catalogue::open(Path::new(&place), &key()).expect("opens");
    let before = memory();
    for no in 1..=STRIPES {
        for at in (0..RUNS * 180).step_by(90) {
            assert!(catalogue.find_chunk(&id(no, at)).expect("readable").is_some());
        }
    }
    let read = memory();
    catalogue.verify().expect("whole");
    let verified = memory();
    println!("{before} MiB, after reading 79 MiB of rows {read}, after adding them up {verified}");
    assert!(read < before + 40 && verified < before + 50, "{before} MiB, then {read}, then {verified}");
}

/// That everything recorded leaves it is asserted by each commit.
#[test]
fn a_chunk_is_kept_once_on_its_way_and_when_it_arrived() {
    use crate::vault::ingest::{Lane, Out};
    let owner = Owner::new(1);
    let vault = Vault::open(&owner.data, None).expect("opens");
    let (sender, _receiver) = mpsc::channel(1);
    let under_way = std::sync::Arc::default();
    let mut ingest = ingest(&vault, Out::Senders(sender)).sharing(std::sync::Arc::clone(&under_way));
    let mut keep = |n: u128| {
        ingest.keep(Lane::Data, &n.to_le_bytes()).expect("kept");
        ingest.bytes_added() / 16
    };
    for n in 0..20_000 {
        assert_eq!(keep(n), n as u64 + 1);
        assert_eq!(keep(n / 2), n as u64 + 1);
    }
    assert_eq!(under_way.len(), 20_000);
    ingest.settle().expect("placed");
    let runs = ingest.open_rows();
    let record = StripeRecord { runs, ..StripeRecord::default() };
    vault.catalogue.record_stripe(&record).expect("written");
    under_way.arrived(&record.runs);
    assert_eq!(under_way.len(), 0);
    let mut keep = |n: u128| {
        ingest.keep(Lane::Data, &n.to_le_bytes()).expect("kept");
        ingest.bytes_added() / 16
    };
    assert!((0..20_000).all(|n| keep(n) == 20_000));
    assert_eq!(keep(20_000), 20_001);
}
