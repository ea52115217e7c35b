//! Transfers that are dropped at their n-th await, for n = 1, 2, ... until they come to their end first: the holder has what it
//! acknowledged, and neither side keeps a permit, a place or a lock of a request that nobody waits for any more.

use super::super::*;
use super::nodes::{DEADLINE, Pair, QUIC, TCP, group_for, pair_with, shard};
use crate::{
    cancel_at::CancelAt,
    overlay::{GroupAccess, Overlay as _, ShardAddress},
};
use cairn_proto::{SHARD_SIZE, Slot, wire::Priority};

/// Rounds over all awaits: what is dropped in one finds the link as the one before left it.
const ROUNDS: u64 = 12;

/// What a round drops, and whether it came to its end.
async fn dropped(owner: &NetworkHandle, at: PeerKey, group: &Arc<GroupAccess>, slot: Slot, round: u64, n: u64) -> bool {
    let address = |ordinal| ShardAddress { group: group.clone(), slot, ordinal };
    let fill = (round * 16 + n) as u8;
    match round % 4 {
        0 => {
            let put = owner.put_shard(at, shard(address(fill), fill), Priority::Normal);
            CancelAt::new(n, put).await.map(|r| r.map(|_| ()).expect("stored")).is_some()
        }
        1 => {
            let get = owner.get_shard(at, address(0), 0, 0, Priority::High);
            let got = CancelAt::new(n, get).await;
            got.map(|r| assert_eq!(r.expect("read"), shard(address(0), 0).bytes)).is_some()
        }
        2 => {
            let has = owner.has_shards(at, group.clone(), slot);
            CancelAt::new(n, has).await.map(|r| assert_eq!(r.expect("told")[0] & 1, 1)).is_some()
        }
        // Four at once on the same stream, dropped together.
        _ => {
            let puts = (0..4u8).map(|i| owner.put_shard(at, shard(address(100 + i), i), Priority::Normal));
            let all = CancelAt::new(n, futures::future::join_all(puts)).await;
            all.map(|all| assert!(all.iter().all(Result::is_ok), "{all:?}")).is_some()
        }
    }
}

async fn at_every_await(listen: &str) {
    // Room for one shard, and no patience: one permit that stays behind, and nothing goes any more.
    let tight = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        serving.limits.memory = SHARD_SIZE;
        serving.limits.memory_wait = Duration::from_millis(20);
    };
    let Pair { holder, owner, keeper } = pair_with(listen, tight).await;
    let at = holder.inner.me;
    let mut drops = 0;
    for round in 0..ROUNDS {
        // A group that the link has not opened yet, so that opening it is dropped too.
        let (group, slot) = group_for(&holder.inner.domain, 50 + round as u8);
        let first = shard(ShardAddress { group: group.clone(), slot, ordinal: 0 }, 0);
        if round % 4 != 0 {
            let put = tokio::time::timeout(DEADLINE, owner.put_shard(at, first.clone(), Priority::Normal)).await;
            put.unwrap_or_else(|_| panic!("SEED={round}: the first put hangs")).expect("stored");
        }
        for n in 1.. {
            assert!(n < 500, "SEED={round}: no transfer has so many awaits");
            let ended = tokio::time::timeout(DEADLINE, dropped(&owner, at, &group, slot, round, n)).await;
            if ended.unwrap_or_else(|_| panic!("SEED={round} n={n}: it hangs")) {
                break;
            }
            drops += 1;
        }
        let count = keeper.count();
        let put = tokio::time::timeout(DEADLINE, owner.put_shard(at, first.clone(), Priority::Normal)).await;
        put.unwrap_or_else(|_| panic!("SEED={round}: the next put hangs")).expect("stored");
        let back = owner.get_shard(at, first.address.clone(), 0, 0, Priority::High).await.expect("read");
        assert_eq!(back, first.bytes, "SEED={round}");
        assert!(keeper.count() >= count, "SEED={round}: an acknowledged shard is gone");
    }
    println!("scenario=transfer_cancelled drops={drops}");
    assert!(drops >= 2 * ROUNDS, "{drops} drops are too few");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_may_be_dropped_at_any_await_over_tcp() {
    at_every_await(TCP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_may_be_dropped_at_any_await_over_quic() {
    at_every_await(QUIC).await;
}
