//! With clocks that are moved by hand: who passes when, what is left behind by whom goes away, pauses, measures.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use cairn_core::courtesy::{
    timetable::{LocalMinute, Row, Speed, Timetable},
    upstream::{ASSUMED, NEEDED},
};
use cairn_proto::{Timestamp, wire::Priority};
use futures::poll;

use super::*;

const KIB: usize = 1024;
/// Bytes a second; half a second's at once, which are two slices.
const RATE: u64 = 64 * KIB as u64;
const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A line that lets pass only when it is told to.
struct Scene {
    up: Arc<Line>,
    down: Arc<Line>,
    ms: Arc<AtomicU64>,
}

impl Scene {
    fn new(up: Option<u64>, patience: Duration) -> Self {
        let ms = Arc::new(AtomicU64::new(0));
        let time = ms.clone();
        let restores = Arc::new(Restores::new(Arc::new(move || Timestamp(time.load(Ordering::Relaxed)))));
        let patience = Patience { defer: patience, piece: patience };
        let (up_line, down) = (Line::new(restores.clone(), patience), Line::new(restores, patience));
        up_line.set_limit(up);
        Self { up: up_line, down, ms }
    }

    fn later(&self, ms: u64) {
        self.ms.fetch_add(ms, Ordering::Relaxed);
        self.up.let_pass();
    }
}

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// What is over sooner than anything else is.
const SOON: Duration = Duration::from_millis(20);

#[tokio::test]
async fn the_most_urgent_pass_first_at_the_rate_of_the_line() {
    let scene = Scene::new(Some(RATE), FOR_EVER);
    scene.up.pass(Priority::Normal, 32 * KIB).await.expect("may pass at once");
    let classes = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    let mut waiting: Vec<(Priority, Pin<Box<_>>)> =
        classes.into_iter().map(|class| (class, Box::pin(scene.up.pass(class, 64 * KIB)))).collect();
    for (_, one) in &mut waiting {
        assert!(poll!(one.as_mut()).is_pending());
    }
    let mut passed = Vec::new();
    for slice in 1..=16u64 {
        scene.later(250);
        for (class, mut one) in std::mem::take(&mut waiting) {
            match poll!(one.as_mut()) {
                std::task::Poll::Ready(ended) => passed.push((slice, class, ended)),
                std::task::Poll::Pending => waiting.push((class, one)),
            }
        }
    }
    // An emergency leaves every second slice to the restore, both every eighth to the backup; nothing is lost to the waiting.
    let order: Vec<Priority> = passed.iter().map(|(_, class, _)| *class).collect();
    assert_eq!(order, [Priority::Critical, Priority::High, Priority::Normal, Priority::Low]);
    assert_eq!(passed.last().map(|(slice, ..)| *slice), Some(16), "256 KiB take four seconds");
}

#[tokio::test]
async fn who_goes_away_leaves_no_trace() {
    let scene = Scene::new(Some(RATE), FOR_EVER);
    scene.up.pass(Priority::Normal, 32 * KIB).await.expect("may pass at once");
    let mut gone = Box::pin(scene.up.pass(Priority::Critical, 10 << 20));
    assert!(poll!(gone.as_mut()).is_pending() && scene.up.waiting() == 1);
    drop(gone);
    assert_eq!(scene.up.waiting(), 0);
    let mut next = Box::pin(scene.up.pass(Priority::Low, 16 * KIB));
    assert!(poll!(next.as_mut()).is_pending());
    scene.later(250);
    assert!(poll!(next.as_mut()).is_ready(), "a slice is a quarter of a second");
}

/// Nobody lets anything pass here, and no time goes by.
#[tokio::test]
async fn a_piece_of_what_has_begun_is_never_silent_for_long() {
    let scene = Scene::new(Some(RATE), SOON);
    scene.up.pass(Priority::Normal, 32 * KIB).await.expect("may pass at once");
    scene.up.pass_piece(Priority::Low, 64 * KIB).await;
    assert_eq!(scene.up.waiting(), 0);
    let restored = scene.down.pass(Priority::High, 1);
    restored.await.expect("no limit");
    let free = Scene::new(None, SOON);
    free.down.pass(Priority::High, 1).await.expect("no limit");
    free.up.pass(Priority::Low, 1 << 20).await.expect("it gave way for long enough");
}

#[tokio::test]
async fn background_work_gives_way_to_a_restore_and_to_nothing_else() {
    let scene = Scene::new(None, FOR_EVER);
    assert!(scene.up.passes_now(Priority::Low, 1 << 20), "nothing is restored");
    // The restore comes in, what gives way goes out.
    assert!(scene.down.passes_now(Priority::High, 1 << 20));
    assert!(scene.up.passes_now(Priority::Low, 64 * KIB), "a sixteenth");
    assert!(!scene.up.passes_now(Priority::Low, 64 * KIB));
    assert!(scene.up.passes_now(Priority::Normal, 1 << 20) && scene.up.passes_now(Priority::Critical, 1 << 20));
    let mut background = Box::pin(scene.up.pass(Priority::Low, 64 * KIB));
    assert!(poll!(background.as_mut()).is_pending());
    scene.later(251);
    background.await.expect("the restore is over");

    let scene = Scene::new(Some(1 << 30), FOR_EVER);
    scene.up.pass(Priority::High, 16 * KIB).await.expect("within the limit");
    let mut background = Box::pin(scene.up.pass(Priority::Low, 64 * KIB));
    assert!(poll!(background.as_mut()).is_pending(), "a limit that is above what the line carries changes nothing");
}

#[tokio::test]
async fn a_busy_line_begins_nothing_more_and_says_when() {
    let scene = Scene::new(Some(RATE), FOR_EVER);
    let mebibyte = 1 << 20;
    let up = &scene.up;
    assert_eq!(up.may_begin(Priority::Low, 0, 100 * mebibyte), Ok(()), "nobody is before it");
    assert_eq!(up.may_begin(Priority::High, mebibyte / 2, mebibyte), Ok(()));
    assert_eq!(up.may_begin(Priority::High, mebibyte, mebibyte), Err(2000), "32 s of 30");
    assert_eq!(scene.down.may_begin(Priority::Low, u64::MAX, mebibyte), Ok(()), "no limit");
    let mut others: Vec<_> = (0..3).map(|_| Box::pin(up.pass(Priority::Normal, mebibyte as usize))).collect();
    for other in &mut others {
        assert!(poll!(other.as_mut()).is_pending());
    }
    assert_eq!(up.may_begin(Priority::High, 0, mebibyte), Ok(()), "backups do not hold a restore up");
    assert_eq!(up.may_begin(Priority::Low, 0, mebibyte), Err(34_000), "four share the line");
}

#[tokio::test]
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
    // It would take four hours.
    let mut waits = Box::pin(courtesy.up().pass(Priority::Low, 1 << 30));
    assert!(poll!(waits.as_mut()).is_pending());
    minute.store(60, Ordering::Relaxed);
    courtesy.inner.look_at_table();
    waits.await.expect("passes");
    let status = courtesy.status();
    assert_eq!((status.limit_up, status.timetable_row), (None, None));
    assert_eq!((courtesy.upstream(), status.upstream_measured), (ASSUMED, false));
}

#[tokio::test]
async fn a_pause_outlives_a_restart_and_ends_by_itself_or_by_hand() {
    let folder = tempfile::tempdir().expect("folder");
    let now = Arc::new(AtomicU64::new(NOW.0));
    let start = || {
        let time = now.clone();
        let clock: Clock = Arc::new(move || Timestamp(time.load(Ordering::Relaxed)));
        let config = CourtesyConfig::new(Timetable::free(), Some(folder.path().to_owned()));
        Courtesy::start(CourtesyConfig { clock, ..config })
    };
    let courtesy = start();
    assert_eq!(courtesy.paused_ms(), None);
    courtesy.resumed().await;
    courtesy.set_pause(Some(Pause::lasting(Some(7_200_000), NOW))).expect("written");
    assert_eq!(courtesy.paused_ms(), Some(AGAIN_MAX_MS));
    drop(courtesy);

    let courtesy = start();
    let status = courtesy.status();
    assert_eq!((status.paused, status.paused_until), (true, Some(NOW.plus_ms(7_200_000))));
    let mut pauses = courtesy.pauses();
    now.fetch_add(7_200_000, Ordering::Relaxed);
    courtesy.resumed().await;
    pauses.wait_for(Option::is_none).await.expect("the end is told");
    assert!(!courtesy.status().paused);
    drop(courtesy);
    assert!(!start().status().paused, "an old pause is none");

    let courtesy = start();
    courtesy.set_pause(Some(Pause::lasting(None, NOW))).expect("written");
    assert!(start().status().paused);
    courtesy.set_pause(None).expect("removed");
    assert!(!start().status().paused);
    std::fs::write(folder.path().join("pause.json"), b"\"unt").expect("written");
    let status = start().status();
    assert_eq!((status.paused, status.paused_until), (true, None), "one that is not readable was one");
}

#[tokio::test]
async fn what_the_line_carried_is_measured_and_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let start = || Courtesy::start(CourtesyConfig::new(Timetable::free(), Some(folder.path().to_owned())));
    let courtesy = start();
    let (inner, meter) = (&courtesy.inner, courtesy.meter());
    let today = crate::vault::now();
    let second = |loaded_before: &mut bool, bytes| {
        meter.went(bytes);
        inner.count_second(loaded_before, today)
    };
    let mut before = false;
    for _ in 0..2 * NEEDED {
        drop(meter.begin());
        let _under_way = meter.begin();
        assert!(!second(&mut before, 300 * KIB), "there was nothing to do for a moment");
    }
    assert!(!courtesy.status().upstream_measured);
    drop(meter.begin());
    second(&mut before, 0);
    let under_way = meter.begin();
    second(&mut before, 90_000 * KIB);
    let counted = (0..2 * NEEDED).filter(|_| second(&mut before, 300 * KIB)).count();
    assert!(counted >= 2 * NEEDED - 1, "{counted}");
    drop(under_way);
    assert!(!second(&mut before, 900 * KIB), "it ended in the middle of it");
    let status = courtesy.status();
    assert_eq!((status.upstream_measured, status.upstream), (true, 300 * KIB as u64), "what buffers took is left out");
    inner.save().await;
    assert_eq!(start().status().upstream, 300 * KIB as u64);
    std::fs::write(folder.path().join("upstream.json"), b"{\"days\":{\"1\":[-4]}}").expect("written");
    assert!(!start().status().upstream_measured);
}

/// A quorum's word is enough for as much as a group may have first, and its owner's word or another group's changes nothing of that.
#[tokio::test]
async fn what_stewards_call_urgent_goes_first_for_as_much_as_a_group_may_have() {
    let courtesy = Courtesy::free();
    let (one, other) = (GroupId::from_bytes([1; 32]), GroupId::from_bytes([2; 32]));
    assert_eq!(courtesy.class_of(&one, false), Priority::Low);
    let first = (0..10_000).take_while(|_| courtesy.class_of(&one, true) == Priority::Critical).count();
    assert!((768..800).contains(&first), "three whole slots: {first}");
    assert_eq!(courtesy.class_of(&other, true), Priority::Critical);
}

/// A node that crashes again and again gets no more of it than one that runs, and one whose file is damaged nothing for a while.
#[tokio::test]
async fn what_went_first_is_remembered_over_crashes() {
    let folder = tempfile::tempdir().expect("folder");
    let start = || {
        let config = CourtesyConfig::new(Timetable::free(), Some(folder.path().to_owned()));
        Courtesy::start(CourtesyConfig { clock: Arc::new(|| Timestamp(1_800_000_000_000)), ..config })
    };
    let group = GroupId::from_bytes([1; 32]);
    let first = || {
        let courtesy = start();
        (0..10_000).take_while(|_| courtesy.class_of(&group, true) == Priority::Critical).count()
    };
    let lives: Vec<usize> = (0..30).map(|_| first()).collect();
    assert_eq!(lives[0], 64, "what may go before it is on disk: {lives:?}");
    let all: usize = lives.iter().sum();
    assert!((128..=768).contains(&all) && lives[29] == 0, "{lives:?}");
    std::fs::write(folder.path().join("urgent.bin"), b"no file of ours").expect("written");
    assert_eq!(first(), 0);
    std::fs::remove_file(folder.path().join("urgent.bin")).expect("there");
    assert_eq!(first(), 64, "a fresh one");
}
