//! Helpers that stop.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cairn_core::blind::{SESSIONS_MAX, SLICE_SIZE};
use cairn_proto::CodeParams;

use super::{
    super::{Failure, Patience},
    lines::{Kind, Tape},
    village::{DEADLINE, PATIENT, Plan, Village},
};
use crate::{
    courtesy::{Courtesy, Pause},
    network::keeper::{ShardKeeper as _, memory::MemoryKeeper},
};

const HELPERS: [usize; 5] = [1, 2, 5, 6, 7];
/// The third of the chain.
const THIRD: usize = 5;

/// A village whose third helper cannot read its disk, and what is said on the lines of the second.
async fn stuck(patience: impl Fn(usize) -> Patience + 'static) -> (Village, Tape) {
    let tape: Tape = Arc::new(Mutex::new(Vec::new()));
    let mut plan = Plan::new(CodeParams::DEFAULT, 0, &HELPERS, &[5]);
    plan.patience = Box::new(patience);
    let its = tape.clone();
    plan.lines = Box::new(move |at| Kind { tape: (at == 2).then(|| its.clone()), ..Kind::default() });
    let village = Village::start(plan).await;
    let gate = &village.nodes[&THIRD].keeper.gate;
    gate.acquire_many(MemoryKeeper::GATE as u32).await.expect("open").forget();
    (village, tape)
}

/// It says nothing more, to nobody. Whoever waits for it gives up, and knows whom it waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_is_named_in_bounded_time() {
    let time = Duration::from_secs(10);
    let short = Patience { open: time, first: time, answer: time, stall: time, busy: DEADLINE, ..PATIENT };
    let (village, _tape) = stuck(move |at| if at == THIRD { PATIENT } else { short }).await;
    assert_eq!(village.rebuild(0).await, Err(Failure::Missing(village.nodes[&THIRD].peer)));
}

/// Nobody waits for a deadline: streams end.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_is_named_at_once() {
    let (village, tape) = stuck(|_| PATIENT).await;
    let third = &village.nodes[&THIRD];
    let goes = async {
        let has_slices =
            || tape.lock().expect("lock").iter().any(|said| said.to == third.peer && said.bytes.len() > SLICE_SIZE);
        while !has_slices() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        third.handle.shutdown().await;
    };
    let (rebuilt, ()) = tokio::join!(village.rebuild(0), goes);
    assert_eq!(rebuilt, Err(Failure::Missing(third.peer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_or_has_no_shard_is_named() {
    let village = Village::start(Plan::new(CodeParams::LOW_PEER, 4, &[0, 1, 2], &[3, 3])).await;
    let (first, second) = (&village.nodes[&0], &village.nodes[&1]);
    first.keeper.delete(village.ticket.id(), village.helpers[0].0, 1).await.expect("was there");
    assert_eq!(village.rebuild(1).await, Err(Failure::Missing(first.peer)), "one shard of two is gone");
    assert!(village.rebuild(0).await.is_ok(), "the other is there");
    second.handle.shutdown().await;
    assert_eq!(village.rebuild(0).await, Err(Failure::Missing(second.peer)));
}

/// As often as a shard may serve in a month: what never moved a slice costs none of these, at no helper and not at the new holder.
#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_again_and_again_uses_nobodys_sessions_up() {
    let left = Arc::new(AtomicUsize::new(SESSIONS_MAX));
    let mut plan = Plan::new(CodeParams::LOW_PEER, 4, &[0, 1, 2], &[3]);
    let its = left.clone();
    plan.lines = Box::new(move |at| Kind { breaks: (at == 0).then(|| its.clone()), ..Kind::default() });
    // The second waits in vain for the first.
    let brief = Duration::from_secs(5);
    plan.patience = Box::new(move |_| Patience { open: brief, answer: brief, ..PATIENT });
    let village = Village::start(plan).await;
    while left.load(Ordering::SeqCst) > 0 {
        let all = futures::future::join_all((0..left.load(Ordering::SeqCst)).map(|_| village.rebuild(0))).await;
        assert!(all.iter().all(|one| matches!(one, Err(Failure::Missing(_)))), "{all:?}");
    }
    assert!(village.rebuild(0).await.is_ok());
}

/// CRT-3: it says so, and helps when its pause is over.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_paused_helps_later() {
    let courtesy = Courtesy::free();
    courtesy.set_pause(Some(Pause::UntilResumed)).expect("in memory");
    let mut plan = Plan::new(CodeParams::DEFAULT, 0, &HELPERS, &[5]);
    let its = courtesy.clone();
    plan.lines = Box::new(move |at| Kind { courtesy: (at == THIRD).then(|| its.clone()), ..Kind::default() });
    plan.patience = Box::new(|_| Patience { busy: Duration::ZERO, ..PATIENT });
    let village = Village::start(plan).await;
    assert_eq!(village.rebuild(0).await, Err(Failure::Missing(village.nodes[&THIRD].peer)));
    courtesy.set_pause(None).expect("in memory");
    village.rebuild(0).await.expect("all help");
}
