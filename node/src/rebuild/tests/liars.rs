//! Helpers that make the root wrong.

use cairn_proto::CodeParams;

use super::{
    super::Failure,
    lines::Kind,
    village::{Plan, Village},
};

/// A village in which one helper changes a byte of what it sends on.
async fn garbled(code: CodeParams, lost: usize, helpers: &[usize], used: usize, liar: usize) -> (Village, Failure) {
    let mut plan = Plan::new(code, lost, helpers, &[used]);
    plan.lines = Box::new(move |at| Kind { garbles: at == liar, ..Kind::default() });
    let village = Village::start(plan).await;
    let failure = village.rebuild(0).await.expect_err("DUR-3: the root is wrong");
    (village, failure)
}

/// Its disk is right, so fingerprints fit: runs without it find it.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_garbage_is_named() {
    for liar in [2, 5] {
        let (village, failure) = garbled(CodeParams::DEFAULT, 0, &[1, 2, 5, 6, 7], 3, liar).await;
        assert_eq!(failure, Failure::Wrong(Some(village.nodes[&liar].peer)));
    }
    let (village, failure) = garbled(CodeParams::LOW_PEER, 4, &[0, 1, 3], 2, 1).await;
    assert_eq!(failure, Failure::Wrong(Some(village.nodes[&1].peer)));
}

/// Nobody can be left out of a full stripe by k helpers: nobody is named.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_named_where_nobody_can_be_left_out() {
    let (_, failure) = garbled(CodeParams::LOW_PEER, 4, &[0, 1, 2], 3, 1).await;
    assert_eq!(failure, Failure::Wrong(None));
}

/// Its fingerprint stands out. Each helper was in one session only: nothing was run again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_disk_is_named() {
    let mut plan = Plan::new(CodeParams::DEFAULT, 0, &[1, 2, 5, 6, 7], &[3]);
    plan.rotten = vec![5];
    let village = Village::start(plan).await;
    assert_eq!(village.rebuild(0).await, Err(Failure::Wrong(Some(village.nodes[&5].peer))));
    assert_eq!(village.new_holder().rebuild.shared.ledger.sessions().await, 1);
}
