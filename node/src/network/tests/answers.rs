//! Answers that a requester must heed or must not believe: "come again", a receipt for less; and what a node says of
//! where it is.

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::{
    keeper::{KeeperSpace, ShardKeeper, memory::MemoryKeeper},
    *,
};
use super::nodes::{A_MOMENT, DEADLINE, TCP, client, group_for, holder, listening, shard};
use crate::{
    overlay::{Overlay as _, ShardAddress, TransferError},
    store::{NewShard, StoredShard},
};
use bytes::Bytes;
use cairn_proto::{
    GroupId, Slot, VaultKey,
    message::{ADVERTS_PER_ANSWER_MAX, Advert, ControlAnswer, ControlRequest, HeadRecord, control_request::Ask},
    wire::{Priority, RefusalCode},
};
use ed25519_dalek::SigningKey;
use futures::{FutureExt as _, future::BoxFuture};

/// A keeper that says "too soon" so many times when it should keep a head, and keeps shards for less time than is asked.
#[derive(Default)]
struct Odd {
    keeper: MemoryKeeper,
    too_soon: AtomicU32,
    heads_offered: AtomicU32,
    lease_less_ms: u64,
}

impl ShardKeeper for Odd {
    fn put(&self, shard: NewShard) -> BoxFuture<'_, Result<StoredShard, RefusalCode>> {
        async move {
            let mut stored = self.keeper.put(shard).await?;
            stored.lease_until.0 -= self.lease_less_ms;
            Ok(stored)
        }
        .boxed()
    }

    fn get(
        &self,
        group: GroupId,
        slot: Slot,
        ordinal: u8,
        offset: u32,
        length: u32,
    ) -> BoxFuture<'_, Result<Bytes, RefusalCode>> {
        self.keeper.get(group, slot, ordinal, offset, length)
    }

    fn holding(&self, group: GroupId, slot: Slot) -> BoxFuture<'_, Result<[u8; 32], RefusalCode>> {
        self.keeper.holding(group, slot)
    }

    fn delete(&self, group: GroupId, slot: Slot, ordinal: u8) -> BoxFuture<'_, Result<(), RefusalCode>> {
        self.keeper.delete(group, slot, ordinal)
    }

    fn keep_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<(), RefusalCode>> {
        self.heads_offered.fetch_add(1, Ordering::Relaxed);
        let less = self.too_soon.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match less {
            Ok(_) => std::future::ready(Err(RefusalCode::Busy)).boxed(),
            Err(_) => self.keeper.keep_head(vault, encoded),
        }
    }

    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<Vec<u8>>, RefusalCode>> {
        self.keeper.find_head(vault)
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Vec<u8>>, RefusalCode>> {
        self.keeper.heads()
    }

    fn space(&self) -> KeeperSpace {
        self.keeper.space()
    }
}

/// A holder with such a keeper, and an owner that knows it.
async fn odd_pair(seed: u64, odd: &Arc<Odd>) -> (NetworkHandle, NetworkHandle) {
    let mut config = holder(seed, TCP, &Arc::new(MemoryKeeper::default()), &[]);
    config.store = Some(odd.clone());
    let there = start(config).await.expect("starts");
    let owner = start(client(seed + 1, &listening(&there).await)).await.expect("starts");
    owner.wait_ready(1, DEADLINE).await.expect("finds the holder");
    (there, owner)
}

fn vault_and_head() -> (VaultKey, Vec<u8>) {
    let key = SigningKey::from_bytes(&[79; 32]);
    let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
    (vault, HeadRecord { vault, generation: 0, sequence: 1, sealed: vec![9; 200] }.seal(&key))
}

async fn ask(owner: &NetworkHandle, of: &NetworkHandle, ask: Ask) -> ControlAnswer {
    let (peer, request) = (of.inner.me, ControlRequest { ask: Some(ask) });
    let asked = owner.ask(|reply| Command::Ask { peer, addresses: Vec::new(), request, reply });
    tokio::time::timeout(DEADLINE, asked).await.expect("in time").expect("running").expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_too_soon_is_told_when_to_come_again() {
    let odd = Arc::new(Odd { too_soon: AtomicU32::new(1), ..Odd::default() });
    let (there, owner) = odd_pair(120, &odd).await;
    let (_, head) = vault_and_head();
    let answer = ask(&owner, &there, Ask::KeepHead(head.clone())).await;
    assert_eq!((answer.granted, answer.retry_after_ms), (false, 1000));
    let answer = ask(&owner, &there, Ask::KeepHead(head.clone())).await;
    assert_eq!((answer.granted, answer.retry_after_ms), (true, 0));
    let answer = ask(&owner, &there, Ask::KeepHead(vec![1; 100])).await;
    assert_eq!((answer.granted, answer.retry_after_ms), (false, 0), "junk need not come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_comes_again_when_it_is_told_to() {
    // As often as it comes again. The DHT brings the same head once, before or after.
    let odd = Arc::new(Odd { too_soon: AtomicU32::new(3), ..Odd::default() });
    let (_there, owner) = odd_pair(122, &odd).await;
    let (vault, head) = vault_and_head();
    let published = tokio::time::timeout(DEADLINE, owner.publish_head(vault, head.clone())).await.expect("in time");
    assert_eq!(published.expect("asked").kept_by, 1);
    assert_eq!(odd.keeper.find_head(vault).await, Ok(Some(head)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_does_not_come_again_for_ever() {
    let odd = Arc::new(Odd { too_soon: AtomicU32::new(u32::MAX), ..Odd::default() });
    let (_there, owner) = odd_pair(124, &odd).await;
    let (vault, head) = vault_and_head();
    let published = tokio::time::timeout(DEADLINE, owner.publish_head(vault, head)).await.expect("in time");
    assert_eq!(published.expect("asked").kept_by, 0);
    // Once and three times more, and once by the DHT.
    let offered = odd.heads_offered.load(Ordering::Relaxed);
    assert!((4..=5).contains(&offered), "{offered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_for_less_time_than_was_asked_for_is_refused() {
    for (less, believed) in [(0, true), (1, false)] {
        let odd = Arc::new(Odd { lease_less_ms: less, ..Odd::default() });
        let (there, owner) = odd_pair(126 + 2 * less, &odd).await;
        let (group, slot) = group_for(&there.inner.domain, 3);
        let put = shard(ShardAddress { group, slot, ordinal: 0 }, 1);
        let receipt = owner.put_shard(there.inner.me, put, Priority::Normal);
        let receipt = tokio::time::timeout(DEADLINE, receipt).await.expect("in time");
        assert_eq!(odd.keeper.count(), 1);
        match receipt {
            Ok(_) => assert!(believed),
            Err(TransferError::Misbehaved(why)) => assert!(!believed && why.contains("less time"), "{why}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_the_operator_names_is_told() {
    let outside: Multiaddr = "/ip4/198.51.100.7/tcp/4001".parse().expect("address");
    let mut config = holder(130, TCP, &Arc::new(MemoryKeeper::default()), &[]);
    config.external = vec![outside.clone()];
    let there = start(config).await.expect("starts");
    let owner = start(client(131, &listening(&there).await)).await.expect("starts");
    owner.wait_ready(1, DEADLINE).await.expect("finds the holder");
    let told = async {
        loop {
            let answer = ask(&owner, &there, Ask::Adverts(ADVERTS_PER_ANSWER_MAX as u32)).await;
            let adverts = answer.adverts.iter().map(|signed| Advert::open(signed).expect("valid"));
            if adverts.into_iter().any(|advert| advert.addresses.contains(&outside.to_string())) {
                return;
            }
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("its advert has it");
    let id = keys::peer_id(&there.inner.me).expect("valid");
    assert!(there.reach().borrow().addresses.contains(&outside.with_p2p(id).expect("no id yet")));
}
