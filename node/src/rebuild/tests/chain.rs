//! Chains of parties that behave.

use cairn_proto::CodeParams;
use futures::future::join_all;

use super::village::{Plan, Village};

/// 5+3, three stripes at once: full ones and one of three data shards, which leaves two of the order's helpers out.
#[tokio::test(flavor = "multi_thread")]
async fn five_helpers_rebuild_a_shard() {
    let village = Village::start(Plan::new(CodeParams::DEFAULT, 0, &[7, 2, 5, 1, 6], &[5, 3, 5])).await;
    let rebuilt = join_all([0, 1, 2].map(|ordinal| village.rebuild(ordinal))).await;
    for (ordinal, shard) in (0..).zip(rebuilt) {
        assert!(shard.as_ref() == Ok(village.lost_shard(ordinal)), "DUR-3: stripe {ordinal}: {:?}", shard.err());
    }
}

/// A parity shard, by data shards only; and a stripe with one data shard, whose chain is one helper.
#[tokio::test(flavor = "multi_thread")]
async fn three_helpers_of_a_small_network_do_so_too() {
    let village = Village::start(Plan::new(CodeParams::LOW_PEER, 4, &[0, 1, 2], &[3, 1, 2])).await;
    for ordinal in [0, 1, 2] {
        let shard = village.rebuild(ordinal).await;
        assert!(shard.as_ref() == Ok(village.lost_shard(ordinal)), "DUR-3: stripe {ordinal}: {:?}", shard.err());
    }
}
