//! A node that is paused answers and moves nothing (CRT-3); what is served passes its line.

use cairn_core::courtesy::timetable::{Speed, Timetable};
use cairn_proto::wire::{Priority, RefusalCode};

use super::nodes::{A_MOMENT, DEADLINE, Pair, TCP, group_for, pair_with, shard};
use crate::{
    courtesy::{Courtesy, CourtesyConfig, Pause},
    overlay::{Overlay as _, ShardAddress, TransferError},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_says_when_to_come_again_and_what_it_has() {
    let courtesy = Courtesy::free();
    let of_holder = courtesy.clone();
    let Pair { holder, keeper, owner } = pair_with(TCP, move |serving, _| serving.courtesy = Some(of_holder)).await;
    let at = holder.inner.me;
    let (group, slot) = group_for(&holder.inner.domain, 3);
    let address = |ordinal| ShardAddress { group: group.clone(), slot, ordinal };
    let put = |ordinal| owner.put_shard(at, shard(address(ordinal), ordinal), Priority::Normal);
    let get = || owner.get_shard(at, address(0), 0, 0, Priority::High);
    put(0).await.expect("stored");
    let offered = async |free: fn(u64) -> bool| {
        let heard = async {
            while !owner.peers(false).await.expect("runs").iter().any(|peer| peer.peer == at && free(peer.free.0)) {
                holder.announce().await.expect("runs");
                tokio::time::sleep(A_MOMENT).await;
            }
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("heard");
    };
    offered(|free| free > 0).await;

    courtesy.set_pause(Some(Pause::UntilResumed)).expect("in memory");
    let busy = |answer: Result<(), TransferError>| {
        let Err(TransferError::Refused { code, retry_after_ms }) = answer else { panic!("{answer:?}") };
        assert_eq!((code, retry_after_ms), (RefusalCode::Busy, 15 * 60 * 1000));
    };
    // Whoever hears so long a time does not wait: others may have it.
    busy(put(1).await.map(|_| ()));
    busy(get().await.map(|_| ()));
    busy(owner.delete_shard(at, address(0)).await);
    let mut held = [0; 32];
    held[0] = 1;
    assert_eq!(owner.has_shards(at, group.clone(), slot).await, Ok(held), "it is not gone");
    offered(|free| free == 0).await;
    assert_eq!(keeper.count(), 1);

    courtesy.set_pause(None).expect("in memory");
    put(1).await.expect("stored");
    get().await.expect("read");
    offered(|free| free > 0).await;
}

/// Every byte is right, and all of them were counted, on a line so slow that shards go in many steps.
#[tokio::test(flavor = "multi_thread")]
async fn shards_pass_limited_lines_whole() {
    let limited = |bytes_per_s| {
        let table = Timetable::new(Speed::Limited(bytes_per_s), Speed::Limited(bytes_per_s), Vec::new());
        Courtesy::start(CourtesyConfig::new(table, None))
    };
    let Pair { holder, owner, .. } = pair_with(TCP, |serving, asking| {
        (serving.courtesy, asking.courtesy) = (Some(limited(8 << 20)), Some(limited(16 << 20)));
    })
    .await;
    let (group, slot) = group_for(&holder.inner.domain, 3);
    let began = tokio::time::Instant::now();
    let at = holder.inner.me;
    let each = (0..4u8).map(|ordinal| {
        let (owner, address) = (&owner, ShardAddress { group: group.clone(), slot, ordinal });
        async move {
            let put = shard(address.clone(), ordinal);
            let bytes = put.bytes.clone();
            owner.put_shard(at, put, Priority::Normal).await.expect("stored");
            assert_eq!(owner.get_shard(at, address, 0, 0, Priority::High).await.expect("read"), bytes);
        }
    });
    tokio::time::timeout(DEADLINE, futures::future::join_all(each)).await.expect("in time");
    // Four mebibytes in and four out, of which 2 MiB each way may pass at once, at 8 MiB a second: no less however fast the machine.
    assert!(began.elapsed() >= std::time::Duration::from_millis(250), "{:?}", began.elapsed());
}
