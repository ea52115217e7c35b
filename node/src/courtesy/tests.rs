//! With a clock of its own: who passes when, what is left behind by whom goes away, pauses, measures.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU16, AtomicU64, Ordering},
};
use std::time::Duration;

use cairn_core::courtesy::{
    timetable::{LocalMinute, Row, Speed, Timetable},
    upstream::{ASSUMED, NEEDED},
};
use cairn_proto::{Timestamp, wire::Priority};
use tokio::time::Instant;

use super::*;

const KIB: usize = 1024;
/// Bytes a second, and a quarter of it at once.
const RATE: u64 = 64 * KIB as u64;

fn limited(up: Option<u64>) -> Courtesy {
    let table = Timetable::new(up.map_or(Speed::Free, Speed::Limited), Speed::Free, Vec::new());
    Courtesy::start(CourtesyConfig::new(table, None))
}

/// Starts one that passes, and notes when it did.
fn passes(
    courtesy: &Courtesy,
    class: Priority,
    bytes: usize,
    done: &Arc<Mutex<Vec<Priority>>>,
) -> tokio::task::JoinHandle<()> {
    let (courtesy, done) = (courtesy.clone(), done.clone());
    tokio::spawn(async move {
        courtesy.up().pass(class, bytes).await.expect("room");
        done.lock().expect("lock").push(class);
    })
}

#[tokio::test(start_paused = true)]
async fn the_most_urgent_pass_first_at_the_rate_of_the_line() {
    let courtesy = limited(Some(RATE));
    let done = Arc::default();
    // What may pass at once is used up.
    courtesy.up().pass(Priority::Normal, 32 * KIB).await.expect("room");
    let began = Instant::now();
    let all = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical]
        .map(|class| passes(&courtesy, class, 64 * KIB, &done));
    for one in all {
        one.await.expect("passes");
    }
    let order = done.lock().expect("lock").clone();
    assert_eq!(order, [Priority::Critical, Priority::High, Priority::Normal, Priority::Low]);
    let took = began.elapsed();
    assert!((Duration::from_millis(3990)..Duration::from_millis(4300)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_no_trace() {
    let courtesy = limited(Some(RATE));
    courtesy.up().pass(Priority::Normal, 32 * KIB).await.expect("room");
    let gone = tokio::time::timeout(Duration::from_millis(100), courtesy.up().pass(Priority::Critical, 10 << 20)).await;
    assert!(gone.is_err() && courtesy.up().waiting() == 0);
    let began = Instant::now();
    courtesy.up().pass(Priority::Low, 16 * KIB).await.expect("room");
    assert!(began.elapsed() <= Duration::from_millis(350), "a slice is a quarter of a second: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_piece_of_what_has_begun_is_never_silent_for_long() {
    let courtesy = limited(Some(RATE));
    let urgent = {
        let courtesy = courtesy.clone();
        tokio::spawn(async move { courtesy.up().pass(Priority::Critical, 1 << 30).await })
    };
    tokio::task::yield_now().await;
    let began = Instant::now();
    // Sixteen slices of others before each of the four.
    courtesy.up().pass_piece(Priority::Low, 64 * KIB).await;
    assert_eq!(began.elapsed(), line::PIECE_WAIT_MAX);
    urgent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lifted_lets_all_pass() {
    let minute = Arc::new(AtomicU16::new(0));
    let row = Row { days: 0x7f, from: 0, to: 60, up: Some(Speed::Limited(RATE)), down: None };
    let clock = minute.clone();
    let local: LocalTime = Arc::new(move || LocalMinute::new(0, clock.load(Ordering::Relaxed)));
    let timetable = Timetable::new(Speed::Free, Speed::Limited(2 * RATE), vec![row]);
    let courtesy = Courtesy::start(CourtesyConfig { local, ..CourtesyConfig::new(timetable, None) });
    let status = courtesy.status();
    assert_eq!((status.limit_up, status.limit_down), (Some(RATE), Some(2 * RATE)));
    assert_eq!((status.timetable_row, status.changes_in_minutes), (Some(0), Some(60)));
    assert_eq!(courtesy.upstream(), RATE, "no more than may be used");
    let done = Arc::default();
    let waits = passes(&courtesy, Priority::Low, 1 << 30, &done);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waits.is_finished());
    minute.store(60, Ordering::Relaxed);
    waits.await.expect("passes");
    let status = courtesy.status();
    assert_eq!((status.limit_up, status.timetable_row), (None, None));
    assert_eq!((courtesy.upstream(), status.upstream_measured), (ASSUMED, false));
}

#[tokio::test(start_paused = true)]
async fn background_work_gives_way_to_a_restore_and_no_longer_than_that() {
    let courtesy = Courtesy::free();
    let began = Instant::now();
    courtesy.up().pass(Priority::Low, 1 << 20).await.expect("room");
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing is restored");
    // The restore is this node's own, and what gives way goes out.
    courtesy.down().pass(Priority::High, 1).await.expect("room");
    courtesy.up().pass(Priority::Normal, 1 << 20).await.expect("room");
    assert_eq!(began.elapsed(), Duration::ZERO, "a backup is not held back");
    courtesy.up().pass(Priority::Low, 1 << 20).await.expect("room");
    let waited = began.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_millis(300)).contains(&waited), "{waited:?}");
    let restore = {
        let courtesy = courtesy.clone();
        tokio::spawn(async move {
            loop {
                courtesy.down().pass(Priority::High, 1).await.expect("room");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    courtesy.up().pass(Priority::Low, 1 << 20).await.expect("room");
    assert!(began.elapsed() >= Duration::from_secs(4) && began.elapsed() <= line::DEFER_MAX, "{:?}", began.elapsed());
    restore.abort();
}

#[tokio::test(start_paused = true)]
async fn a_busy_line_begins_nothing_more_and_says_when() {
    let courtesy = limited(Some(RATE));
    let mebibyte = 1 << 20;
    assert_eq!(courtesy.up().may_begin(Priority::Low, 0, 100 * mebibyte), Ok(()), "nobody is before it");
    assert_eq!(courtesy.up().may_begin(Priority::High, mebibyte, mebibyte / 2), Ok(()));
    assert_eq!(courtesy.up().may_begin(Priority::High, mebibyte, mebibyte), Err(2000), "32 s of 30");
    assert_eq!(courtesy.down().may_begin(Priority::Low, u64::MAX, mebibyte), Ok(()), "no limit");
    let done = Arc::default();
    let others: Vec<_> = (0..3).map(|_| passes(&courtesy, Priority::Normal, mebibyte as usize, &done)).collect();
    tokio::task::yield_now().await;
    assert_eq!(courtesy.up().may_begin(Priority::High, 0, mebibyte), Ok(()), "backups do not hold a restore up");
    assert_eq!(courtesy.up().may_begin(Priority::Low, 0, mebibyte), Err(34_000), "four share the line");
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_pause_outlives_a_restart_and_ends_by_itself_or_by_hand() {
    let folder = tempfile::tempdir().expect("folder");
    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let start = || {
        let time = now.clone();
        let clock: Clock = Arc::new(move || Timestamp(time.load(Ordering::Relaxed)));
        let config = CourtesyConfig::new(Timetable::free(), Some(folder.path().to_owned()));
        Courtesy::start(CourtesyConfig { clock, ..config })
    };
    let courtesy = start();
    assert_eq!(courtesy.paused_ms(), None);
    courtesy.resumed().await;
    let until = Timestamp(1_800_000_000_000 + 7_200_000);
    courtesy.set_pause(Some(Pause::lasting(Some(7_200_000), Timestamp(1_800_000_000_000)))).expect("written");
    assert_eq!(courtesy.paused_ms(), Some(AGAIN_MAX_MS));
    drop(courtesy);

    let courtesy = start();
    let status = courtesy.status();
    assert_eq!((status.paused, status.paused_until), (true, Some(until)));
    let mut pauses = courtesy.pauses();
    now.fetch_add(7_200_000, Ordering::Relaxed);
    courtesy.resumed().await;
    pauses.wait_for(Option::is_none).await.expect("the end is told");
    assert!(!courtesy.status().paused);
    drop(courtesy);
    assert!(!start().status().paused, "an old pause is none");

    let courtesy = start();
    courtesy.set_pause(Some(Pause::lasting(None, Timestamp(0)))).expect("written");
    assert!(start().status().paused);
    courtesy.set_pause(None).expect("removed");
    assert!(!start().status().paused);
    std::fs::write(folder.path().join("pause.json"), b"\"unt").expect("written");
    assert_eq!(
        (start().status().paused, start().status().paused_until),
        (true, None),
        "one that is not readable was one"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_line_carried_is_measured_and_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let start = || Courtesy::start(CourtesyConfig::new(Timetable::free(), Some(folder.path().to_owned())));
    let courtesy = start();
    // Ten steps a second, with something under way all the time; then a pause in every second.
    let load = async |seconds: usize, rests: bool| {
        let mut under_way = Some(courtesy.meter().begin());
        for _ in 0..seconds * 10 {
            courtesy.meter().went(30 * KIB);
            tokio::time::sleep(Duration::from_millis(100)).await;
            if rests {
                under_way = None;
                under_way.get_or_insert_with(|| courtesy.meter().begin());
            }
        }
        drop(under_way);
    };
    load(2 * NEEDED, true).await;
    assert!(!courtesy.status().upstream_measured, "no second was full");
    load(2 * NEEDED, false).await;
    let status = courtesy.status();
    assert!(status.upstream_measured && status.upstream.abs_diff(300 * KIB as u64) <= 30 * KIB as u64, "{status:?}");
    let kept = folder.path().join("upstream.json");
    // It is written by another thread.
    while !kept.exists() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(start().status().upstream, status.upstream);
    std::fs::write(kept, b"{\"days\":{\"1\":[-4]}}").expect("written");
    assert!(!start().status().upstream_measured);
}
