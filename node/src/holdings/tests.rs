//! What is learned of watchers, from whom, and what a damaged file costs.

use std::{collections::BTreeMap, fs, sync::atomic::AtomicU64};

use cairn_core::{
    peer_view::PeerView,
    steward::wire::{Answer, Request},
};
use futures::{FutureExt as _, future::BoxFuture};

use super::*;
use crate::{overlay::TransferError, stewardship::ports::WatchPass};

/// Nobody answers.
struct Silent;

impl StewardNet for Silent {
    fn me(&self) -> PeerKey {
        PeerKey::from_bytes([0; 32])
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerView>> {
        std::future::ready(Vec::new()).boxed()
    }

    fn probe(&self, _: PeerKey) -> BoxFuture<'_, Result<(), TransferError>> {
        std::future::ready(Err(TransferError::TimedOut)).boxed()
    }

    fn request(&self, _: PeerKey, _: Request) -> BoxFuture<'_, Result<Answer, TransferError>> {
        std::future::ready(Err(TransferError::TimedOut)).boxed()
    }

    fn holding(&self, _: PeerKey, _: WatchPass, _: Slot) -> BoxFuture<'_, Result<Ordinals, TransferError>> {
        std::future::ready(Err(TransferError::TimedOut)).boxed()
    }

    fn fetch(
        &self,
        _: PeerKey,
        _: Arc<cairn_core::part::Credentials>,
        _: u8,
    ) -> BoxFuture<'_, Result<bytes::Bytes, TransferError>> {
        std::future::ready(Err(TransferError::TimedOut)).boxed()
    }
}

/// Two shards of one group.
struct One;

const HELD: GroupId = GroupId::from_bytes([1; 32]);

impl Held for One {
    fn slot(&self, group: GroupId) -> Option<Slot> {
        Slot::new(3).ok().filter(|_| group == HELD)
    }

    fn sound(&self, _: GroupId, _: Slot) -> Ordinals {
        [0, 1].into_iter().collect()
    }

    fn groups(&self) -> Vec<HeldGroup> {
        let (slot, sound) = (Slot::new(3).expect("valid"), [0, 1].into_iter().collect());
        vec![HeldGroup { group: HELD, slot, sound, damaged: Ordinals::default() }]
    }
}

fn watchers(version: (u64, usize), first: u8) -> Watchers {
    let stewards: Vec<PeerKey> = (first..first + 7).map(|at| PeerKey::from_bytes([at; 32])).collect();
    let asked = Some((stewards[0], Timestamp(5)));
    Watchers { stewards, version, data: 5, replicas: 1, ends: Timestamp(u64::MAX), asked, ordered: None }
}

async fn start(folder: &std::path::Path, now: u64) -> Holdings {
    let holdings = Holdings::default();
    let now = Arc::new(AtomicU64::new(now));
    let config = HoldingsConfig {
        folder: folder.to_owned(),
        held: Arc::new(One),
        timers: Timers::default(),
        clock: Arc::new(move || Timestamp(now.load(Ordering::SeqCst))),
        stewardship: Stewardship::default(),
    };
    holdings.start(config, Arc::new(Silent)).await.expect("starts");
    holdings
}

#[tokio::test]
async fn what_is_learned_is_of_held_groups_and_the_newest_and_survives() {
    let dir = tempfile::tempdir().expect("temp");
    let holdings = start(dir.path(), 1000).await;
    let known = |holdings: &Holdings| holdings.state().book.get(&HELD).map(|by| (by.version, by.stewards[0]));
    holdings.watched(GroupId::from_bytes([2; 32]), watchers((9, 0), 50));
    assert_eq!(holdings.state().book.all().len(), 0, "anybody can make up a group");
    holdings.watched(HELD, watchers((2, 1), 10));
    // A steward that was replaced shows what once was true.
    holdings.watched(HELD, watchers((2, 0), 30));
    holdings.watched(HELD, watchers((1, 9), 30));
    let newest = Some(((2, 1), PeerKey::from_bytes([10; 32])));
    assert_eq!(known(&holdings), newest);
    holdings.close().await;
    let again = start(dir.path(), 400).await;
    assert_eq!(known(&again), newest);
    assert_eq!(again.census().clock_back_ms, 600, "what was written was written later");
    again.close().await;
    // A file that rotted is set aside; what it said is learned again.
    let file = dir.path().join("holdings.json");
    let mut bytes = fs::read(&file).expect("written");
    *bytes.last_mut().expect("some") ^= 1;
    fs::write(&file, bytes).expect("rotten");
    let anew = start(dir.path(), 2000).await;
    assert_eq!(known(&anew), None);
    assert!(dir.path().join("holdings.json.damaged").exists());
    anew.watched(HELD, watchers((1, 0), 30));
    assert!(known(&anew).is_some());
    anew.close().await;
}

#[test]
fn one_liar_neither_keeps_a_holder_nor_lets_it_go() {
    use cairn_core::steward::wire::Kept;
    use departure::Verdict;
    let (by, mut answers, now) = (watchers((1, 0), 10), Answers::default(), Timestamp(1));
    let verdict = |answers: &Answers| answers.verdict(&HELD, Some(&by), now);
    assert_eq!(answers.verdict(&HELD, None, now), Verdict::Unwatched);
    assert_eq!(verdict(&answers), Verdict::Unheard);
    for (at, steward) in by.stewards.iter().enumerate() {
        answers.note(HELD, *steward, if at == 0 { Kept::Needed } else { Kept::Elsewhere });
        let expected = if at < 4 {
            Verdict::Unheard
        } else if at < 5 {
            Verdict::Needed
        } else {
            Verdict::Elsewhere
        };
        assert_eq!(verdict(&answers), expected, "{at}");
    }
    // Whoever is no steward does not count.
    let mut strangers = Answers::default();
    (50..90).for_each(|at| strangers.note(HELD, PeerKey::from_bytes([at; 32]), Kept::Elsewhere));
    assert_eq!(verdict(&strangers), Verdict::Unheard);
    strangers.keep(|_| Some(by.stewards.clone()));
    assert_eq!(strangers.heard(&HELD), 0);
}

#[test]
fn losses_are_told_until_a_majority_took_note_and_no_longer() {
    let slot = Slot::new(3).expect("valid");
    let by = watchers((1, 0), 10);
    let stewards = by.stewards.clone();
    let (mut losses, mut book) = (Losses::default(), Book::default());
    let lost: Ordinals = [4, 7].into_iter().collect();
    assert!(losses.add(HELD, slot, &lost, Timestamp(0)) && !losses.add(HELD, slot, &lost, Timestamp(1)));
    assert_eq!(losses.due(&book, Timestamp(0), 10, 9).len(), 0, "nobody is known to watch it");
    book.note(HELD, by);
    let due = losses.due(&book, Timestamp(0), 10, 9);
    assert_eq!(due, [(HELD, slot, lost, stewards.clone())]);
    assert_eq!(losses.due(&book, Timestamp(5), 10, 9).len(), 0, "a pause");
    stewards[..4].iter().for_each(|steward| losses.noted(&HELD, &lost, *steward));
    assert_eq!(losses.due(&book, Timestamp(500), 10, 9).len(), 0, "told");
    assert_eq!(losses.next(&book), None);
    // More of it is told to all of them again.
    assert!(losses.add(HELD, slot, &[9].into_iter().collect(), Timestamp(600)));
    assert_eq!(losses.due(&book, Timestamp(600), 10, 9)[0].3.len(), 7);
    assert!(!losses.heal(&book, Timestamp(601), 10, |_, _| lost), "the store may not have marked it yet");
    assert!(losses.heal(&book, Timestamp(700), 10, |_, _| lost));
    assert_eq!((losses.all()[&HELD].ordinals.len(), losses.sums), (1, Sums { lost: 3, healed: 2 }));
    // What was deleted is no loss.
    let mut deleted = losses.clone();
    deleted.forget(&BTreeMap::new(), Timestamp(605), 10);
    assert_eq!(deleted, losses);
    deleted.forget(&BTreeMap::new(), Timestamp(700), 10);
    assert!(deleted.all().is_empty());
    // Nobody answers: it ends.
    let (mut now, mut times) = (Timestamp(700), 0);
    while let Some(next) = losses.next(&book) {
        now = now.max(next);
        times += losses.due(&book, now, 10, 9).len();
        assert!(times < 100);
    }
    assert_eq!(losses.due(&book, now.plus_ms(1 << 40), 10, 9).len(), 0);
    // Of a file that somebody wrote no more than there may be is taken.
    let many: BTreeMap<GroupId, Watchers> =
        (0..20u8).map(|at| (GroupId::from_bytes([at; 32]), watchers((1, 0), at))).collect();
    assert_eq!(Book::of(many).all().len(), 20);
}
