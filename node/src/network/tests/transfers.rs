//! Shards between an owner and a holder that behave.

use super::super::keeper::memory::MemoryKeeper;
use super::super::*;
use super::nodes::{DEADLINE, Pair, QUIC, TCP, group_for, pair, pair_with, shard};
use crate::overlay::{Overlay as _, ShardAddress, TransferError};
use cairn_proto::wire::{Priority, RefusalCode};

async fn round_trip(listen: &str) {
    let Pair { holder, owner, keeper } = pair(listen).await;
    let (group, slot) = group_for(&holder.inner.domain, 3);
    let at = holder.inner.me;
    let address = |ordinal| ShardAddress { group: group.clone(), slot, ordinal };
    let mut rows = Vec::new();
    for ordinal in [0, 9, 255] {
        let put = shard(address(ordinal), ordinal);
        rows.push((ordinal, put.root, cairn_proto::Timestamp(u64::MAX)));
        let kept = owner.put_shard(at, put.clone(), Priority::Normal).await.expect("stored");
        assert_eq!((kept.receipt.holder, kept.receipt.ordinal, kept.receipt.root), (at, ordinal, put.root));
        assert_eq!(kept.receipt.held, Some(cairn_proto::message::Held::of(&rows)), "and all that it has of the slot");
    }
    let whole = owner.get_shard(at, address(9), 0, 0, Priority::High).await.expect("read");
    assert_eq!(whole, shard(address(9), 9).bytes);
    let part = owner.get_shard(at, address(255), 1000, 24, Priority::Critical).await.expect("read");
    assert_eq!(part.as_ref(), [255; 24]);
    let tail = owner.get_shard(at, address(255), 1_048_570, 0, Priority::High).await.expect("read");
    assert_eq!(tail.len(), 6);

    let mut held = [0u8; 32];
    (held[0], held[1], held[31]) = (1, 2, 128);
    assert_eq!(owner.has_shards(at, group.clone(), slot).await, Ok(held));
    owner.delete_shard(at, address(9)).await.expect("deleted");
    held[1] = 0;
    assert_eq!(owner.has_shards(at, group.clone(), slot).await, Ok(held));
    assert_eq!(keeper.count(), 2);
    let gone = owner.get_shard(at, address(9), 0, 0, Priority::High).await;
    assert_eq!(gone, Err(TransferError::Refused { code: RefusalCode::NotFound, retry_after_ms: 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn put_get_range_has_delete_over_tcp() {
    tokio::time::timeout(DEADLINE, round_trip(TCP)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn put_get_range_has_delete_over_quic() {
    tokio::time::timeout(DEADLINE, round_trip(QUIC)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_put_leaves_the_stream_usable() {
    let Pair { holder, owner, keeper } = pair(TCP).await;
    let (group, slot) = group_for(&holder.inner.domain, 4);
    let at = holder.inner.me;
    let address = |ordinal| ShardAddress { group: group.clone(), slot, ordinal };
    owner.put_shard(at, shard(address(0), 0), Priority::Normal).await.expect("stored");
    let shut = keeper.gate.acquire_many(MemoryKeeper::GATE as u32).await.expect("open");
    for ordinal in 1..=20 {
        let put = owner.put_shard(at, shard(address(ordinal), ordinal), Priority::Normal);
        // Dropped at whatever point 5 ms lead to.
        let _ = tokio::time::timeout(Duration::from_millis(5), put).await;
    }
    drop(shut);
    let put = owner.put_shard(at, shard(address(99), 99), Priority::Normal);
    tokio::time::timeout(DEADLINE, put).await.expect("in time").expect("stored on the same stream");
    let back = owner.get_shard(at, address(99), 0, 0, Priority::Normal).await.expect("read");
    assert_eq!(back, shard(address(99), 99).bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_is_answered_and_waited_out() {
    let tight = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        serving.limits.memory = cairn_proto::SHARD_SIZE;
        serving.limits.memory_wait = Duration::from_millis(20);
    };
    let Pair { holder, owner, keeper } = pair_with(TCP, tight).await;
    let (group, slot) = group_for(&holder.inner.domain, 5);
    let at = holder.inner.me;
    let address = |ordinal| ShardAddress { group: group.clone(), slot, ordinal };
    let puts = (0..12).map(|ordinal| owner.put_shard(at, shard(address(ordinal), ordinal), Priority::Normal));
    let done = tokio::time::timeout(DEADLINE, futures::future::join_all(puts)).await.expect("in time");
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert_eq!(keeper.count(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_ends_when_patience_does() {
    let tight = |serving: &mut NetworkConfig, asking: &mut NetworkConfig| {
        serving.limits.memory = 1024;
        serving.limits.memory_wait = Duration::from_millis(1);
        asking.patience.busy = Duration::from_millis(600);
    };
    let Pair { holder, owner, .. } = pair_with(TCP, tight).await;
    let (group, slot) = group_for(&holder.inner.domain, 6);
    let put = shard(ShardAddress { group, slot, ordinal: 0 }, 1);
    let refused = owner.put_shard(holder.inner.me, put, Priority::Normal).await;
    assert!(matches!(refused, Err(TransferError::Refused { code: RefusalCode::Busy, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_fails_fast() {
    let Pair { holder, owner, .. } = pair(TCP).await;
    let (group, slot) = group_for(&holder.inner.domain, 7);
    let at = holder.inner.me;
    let put = || shard(ShardAddress { group: group.clone(), slot, ordinal: 0 }, 1);
    owner.put_shard(at, put(), Priority::Normal).await.expect("stored");
    holder.shutdown().await;
    // No wait of its own would end within the time that is given here.
    let stranger = PeerKey::from_bytes(*super::nodes::identity(999).peer().as_bytes());
    for (to, what) in [(at, "dead"), (at, "dead a moment ago"), (stranger, "unknown")] {
        let put = tokio::time::timeout(DEADLINE, owner.put_shard(to, put(), Priority::Normal)).await;
        let refused = put.unwrap_or_else(|_| panic!("{what}: waited"));
        assert!(matches!(refused, Err(TransferError::Unreachable(_))), "{what}: {refused:?}");
    }
}
