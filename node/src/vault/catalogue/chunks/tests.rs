//! The index alone: what goes in comes out, across files and openings, and what is not whole is not believed.

use cairn_proto::index::RunCodec;

use super::*;

const INSTANCE: [u8; 16] = [7; 16];

fn id(n: u64) -> ChunkId {
    ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// A row of 1,000 chunks, from `no` thousand on.
fn row(no: u64) -> (RowKey, RunRow) {
    let place =
        RunPlace { stripe: StripeNo(no), offset: 9, stored_len: 1, next: None, codec: RunCodec::Raw, raw_len: 1000 };
    (RowKey::from(&place), RunRow { place, chunks: (no * 1000..(no + 1) * 1000).map(|n| (id(n), 1)).collect() })
}

fn fill(index: &mut Chunks, rows: std::ops::Range<u64>) {
    for no in rows {
        let (key, run) = row(no);
        index.insert(key, &[run]).expect("written");
        index.recorded += 1000;
        assert!(index.waiting.len() < WAITING_MAX, "what waits in memory has a bound");
    }
}

fn places(index: &mut Chunks, n: u64) -> Vec<u64> {
    index.candidates(&id(n)).expect("readable").iter().map(|key| key.stripe.0).collect()
}

fn file_count(dir: &Path) -> usize {
    fs::read_dir(dir).expect("there").count()
}

#[test]
fn everything_is_found_in_few_files() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("chunks");
    let mut index = Chunks::anew(path.clone(), INSTANCE).expect("made");
    fill(&mut index, 1..300);
    index.expect_new().expect("readable");
    fill(&mut index, 300..700);
    // Sizes at least double from one to the next: 699,000 entries beside what waits.
    assert!(index.files.len() <= 4, "{} files", index.files.len());
    assert!(index.files.is_sorted_by(|a, b| a.entries >= 2 * b.entries));
    // The same again is one entry, another place is a second.
    let (_, run) = row(5);
    index.insert(RowKey { stripe: StripeNo(900), offset: 1 }, std::slice::from_ref(&run)).expect("written");
    index.insert(row(5).0, &[run]).expect("written");
    for _ in 0..2 {
        for no in (1..700).step_by(13) {
            assert_eq!(places(&mut index, no * 1000 + no % 1000), [no]);
        }
        assert_eq!(places(&mut index, 5123), [5, 900]);
        assert!((800_000..801_000).all(|n| places(&mut index, n).is_empty()));
        index.save().expect("written");
        assert_eq!(file_count(&path), index.files.len() + 1, "files that were merged are gone");
        fs::write(path.join("00000001"), b"left by a crash").expect("written");
        let recorded = index.recorded;
        drop(index);
        index = Chunks::open(path.clone(), INSTANCE, recorded).expect("whole");
        assert_eq!(file_count(&path), index.files.len() + 1, "and what a crash left");
    }
}

#[test]
fn an_index_of_another_moment_or_catalogue_is_not_used() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("chunks");
    let open = |instance, recorded| Chunks::open(path.clone(), instance, recorded);
    assert!(open(INSTANCE, 0).is_none());
    let mut index = Chunks::anew(path.clone(), INSTANCE).expect("made");
    fill(&mut index, 1..10);
    assert!(open(INSTANCE, 9000).is_none() && open(INSTANCE, 0).is_none(), "not saved yet");
    index.save().expect("written");
    assert!(open(INSTANCE, 9000).is_some());
    assert!(open(INSTANCE, 8000).is_none() && open(INSTANCE, 10_000).is_none());
    assert!(open([8; 16], 9000).is_none());
}

#[test]
fn no_byte_can_change_unnoticed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("chunks");
    let mut index = Chunks::anew(path.clone(), INSTANCE).expect("made");
    fill(&mut index, 1..4);
    index.save().expect("written");
    let all = || -> io::Result<Vec<Vec<RowKey>>> {
        let mut index = Chunks::open(path.clone(), INSTANCE, 3000).ok_or_else(sorted::broken)?;
        (1000..4000).step_by(97).map(|n| index.candidates(&id(n))).collect()
    };
    let whole = all().expect("whole");
    for file in ["list", "00000001"].map(|name| path.join(name)) {
        let bytes = fs::read(&file).expect("there");
        let (mut noticed, step) = (0, 1 + bytes.len() / 150);
        for at in (0..bytes.len()).step_by(step) {
            let mut harmed = bytes.clone();
            harmed[at] ^= 0x10;
            fs::write(&file, &harmed).expect("written");
            match all() {
                Err(e) => noticed += usize::from(is_broken(&e)),
                Ok(found) => assert_eq!(found, whole, "byte {at} of {file:?}"),
            }
            fs::write(&file, &bytes[..at]).expect("written");
            assert!(all().is_err(), "{file:?} cut at {at}");
        }
        assert!(noticed * step * 2 > bytes.len(), "{noticed} in {file:?}");
        fs::write(&file, &bytes).expect("written");
    }
    assert_eq!(all().expect("whole"), whole);
}

#[test]
fn what_was_looked_at_is_bounded_and_may_be_old() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut index = Chunks::anew(dir.path().join("chunks"), INSTANCE).expect("made");
    for no in 1..100 {
        index.remember(&[row(no).1]);
        assert!(index.recent(&id(no * 1000)));
        assert!(index.recent.len() <= RECENT_MAX);
    }
    index.careful = true;
    assert!(!index.recent(&id(99_000)), "where it lies decides");
}
