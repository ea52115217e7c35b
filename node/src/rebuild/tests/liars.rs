//! Helpers that make the root wrong: the shard comes without them where somebody can be left out, and they are named.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cairn_core::blind::{RUNS_OF_ORDER, RUNS_OF_STRIPE};
use cairn_proto::CodeParams;

use super::{
    super::Failure,
    lines::Kind,
    village::{Plan, Village},
};

/// All that live of a stripe of 5+3 that lost slot 0.
const SEVEN: [usize; 7] = [1, 2, 5, 6, 7, 3, 4];

/// A village in which these helpers change a byte of what they send on.
async fn with_liars(code: CodeParams, lost: usize, helpers: &[usize], used: &[usize], liars: &[usize]) -> Village {
    let mut plan = Plan::new(code, lost, helpers, used);
    let liars = liars.to_vec();
    plan.lines =
        Box::new(move |at| Kind { garbles: if liars.contains(&at) { 1 + at as u8 } else { 0 }, ..Kind::default() });
    Village::start(plan).await
}

/// The first stripe, whatever happens: how often it was run, and who was named.
async fn first_stripe(village: &Village) -> (usize, Vec<usize>) {
    let order = village.credentials();
    let shard = village.rebuild_under(&order, 0).await;
    assert!(shard.as_ref() == Ok(village.lost_shard(0)), "DUR-3, REP-1: {:?}", shard.err());
    (village.new_holder().rebuild.shared.ledger.sessions().await, village.named(&order).await)
}

/// Its disk is right, so fingerprints fit: runs without it find it, wherever in the chain it is.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_garbage_is_left_out_and_named_at_each_place() {
    for liar in &SEVEN[..5] {
        let village = with_liars(CodeParams::DEFAULT, 0, &SEVEN, &[5], &[*liar]).await;
        let (runs, named) = first_stripe(&village).await;
        assert_eq!(named, [*liar]);
        assert!(runs <= 1 + usize::from(RUNS_OF_STRIPE), "{runs}");
    }
    // A stripe that has few data shards, and one helper to spare.
    let village = with_liars(CodeParams::DEFAULT, 0, &[1, 2, 5, 6, 7], &[3], &[5]).await;
    assert_eq!(first_stripe(&village).await.1, [5]);
    let village = with_liars(CodeParams::LOW_PEER, 4, &[0, 1, 3], &[2], &[1]).await;
    assert_eq!(first_stripe(&village).await.1, [1]);
}

/// Nineteen of ten.
#[tokio::test(flavor = "multi_thread")]
async fn liars_of_a_large_code_are_named_too() {
    let code = CodeParams::new(10, 10).expect("valid");
    let helpers: Vec<usize> = (0..20).filter(|at| *at != 12).collect();
    let village = with_liars(code, 12, &helpers, &[10, 10], &[0, 9]).await;
    let order = village.credentials();
    for ordinal in [0, 1] {
        let shard = village.rebuild_under(&order, ordinal).await;
        assert!(shard.as_ref() == Ok(village.lost_shard(ordinal)), "stripe {ordinal}: {:?}", shard.err());
    }
    let named = village.named(&order).await;
    assert!(!named.is_empty() && named.iter().all(|at| [0, 9].contains(at)), "{named:?}");
}

/// What one stripe found out serves the next, and two liars are met within an order's runs.
#[tokio::test(flavor = "multi_thread")]
async fn two_liars_are_met_by_the_stripes_of_an_order_together() {
    let village = with_liars(CodeParams::DEFAULT, 0, &SEVEN, &[5; 4], &[1, 6]).await;
    let order = village.credentials();
    let mut came = Vec::new();
    for ordinal in 0..4 {
        let shard = village.rebuild_under(&order, ordinal).await;
        if let Ok(shard) = &shard {
            assert_eq!(shard, village.lost_shard(ordinal), "DUR-3");
        }
        came.push(shard.is_ok());
    }
    assert!(came[3], "the last one at least: {came:?}");
    let whole = came.iter().position(|came| *came).expect("one");
    assert!(came[whole..].iter().all(|came| *came), "what was found serves the rest: {came:?}");
    let runs = village.new_holder().rebuild.shared.ledger.sessions().await;
    assert!(runs <= RUNS_OF_ORDER + 4, "{runs}");
    let named = village.named(&order).await;
    assert!(!named.is_empty() && named.iter().all(|at| [1, 6].contains(at)), "{named:?}");
}

/// It lies once, and behaves while it is looked for: the shard comes, and nobody else is named for it.
#[tokio::test(flavor = "multi_thread")]
async fn who_behaves_in_the_search_gets_nobody_else_named() {
    let lies = Arc::new(AtomicUsize::new(1));
    let mut plan = Plan::new(CodeParams::DEFAULT, 0, &SEVEN, &[5]);
    let its = lies.clone();
    plan.lines = Box::new(move |at| Kind {
        garbles: u8::from(at == 2),
        lies: (at == 2).then(|| its.clone()),
        ..Kind::default()
    });
    let village = Village::start(plan).await;
    let (runs, named) = first_stripe(&village).await;
    assert_eq!(lies.load(Ordering::SeqCst), 0, "it lied");
    assert_eq!(named, [0; 0]);
    assert!(runs <= 1 + usize::from(RUNS_OF_STRIPE), "{runs}");
}

/// Nobody can be left out of a full stripe by k helpers: nobody is named, and nothing is run in vain.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_named_where_nobody_can_be_left_out() {
    let village = with_liars(CodeParams::LOW_PEER, 4, &[0, 1, 2], &[3], &[1]).await;
    assert_eq!(village.rebuild(0).await, Err(Failure::Wrong(None)));
    assert_eq!(village.new_holder().rebuild.shared.ledger.sessions().await, 1);
    // With one more it is repaired.
    let village = with_liars(CodeParams::LOW_PEER, 4, &[0, 1, 2, 3], &[3], &[1]).await;
    assert_eq!(first_stripe(&village).await.1, [1]);
}

/// Its fingerprint stands out: the first run after that is without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_disk_is_named() {
    for rotten in [2, 5] {
        let mut plan = Plan::new(CodeParams::DEFAULT, 0, &[1, 2, 5, 6, 7], &[3]);
        plan.rotten = vec![rotten];
        let village = Village::start(plan).await;
        let (runs, named) = first_stripe(&village).await;
        assert_eq!(named, [rotten]);
        assert!(runs <= 4, "{runs}");
    }
}
