//! Who lies is outside everywhere, by one proof that anybody saw; who cries wolf is not listened to.

use cairn_proto::{
    audit::{Evidence, spread::Spread},
    wire::Priority,
};

use super::super::{keeper::memory::MemoryKeeper, *};
use super::crowds::Speaker;
use super::nodes::{A_MOMENT, DEADLINE, TCP, client, group_for, holder, identity, listening, network, shard};
use crate::{
    overlay::{Overlay as _, ShardAddress},
    standing::{ports::Witness as _, tests::lie_of},
};

pub(super) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let so = async {
        while !done().await {
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    tokio::time::timeout(DEADLINE, so).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn store(seed: u64, door: &[Multiaddr]) -> NetworkConfig {
    holder(seed, TCP, &Arc::new(MemoryKeeper::default()), door)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cheat_whose_proof_one_node_sees_is_outside_at_all() {
    const CHEAT: u64 = 303;
    let first = start(store(300, &[])).await.expect("starts");
    let door = listening(&first).await;
    let mut honest = vec![first];
    for seed in [301, 302] {
        honest.push(start(store(seed, &door)).await.expect("starts"));
    }
    let cheat = start(store(CHEAT, &door)).await.expect("starts");
    let liar = cheat.inner.me;
    let owner = start(client(305, &door)).await.expect("starts");
    for node in honest.iter().chain([&cheat, &owner]) {
        node.wait_ready(3, DEADLINE).await.expect("knows the others");
    }
    let (group, slot) = group_for(&cheat.inner.domain, 3);
    let address = ShardAddress { group, slot, ordinal: 0 };
    owner.put_shard(liar, shard(address.clone(), 9), Priority::Normal).await.expect("stored");
    honest[1].inner.standings.learned(lie_of(identity(CHEAT).signing_key()));
    for node in honest.iter().chain([&owner]) {
        until("convicted", async || node.inner.standings.is_convicted(&liar)).await;
        let peers = node.peers(false).await.expect("runs");
        let view = peers.iter().find(|view| view.peer == liar).expect("was known");
        assert_eq!((view.reputation, view.newcomer), (0, true), "placement takes it nowhere");
    }
    until("everybody hung up", async || cheat.readiness().connected == 0).await;

    // Who goes there all the same, as a walk does at somebody's word, does not stay.
    let lair = listening(&cheat).await[0].clone();
    for node in honest.iter().cycle().take(9) {
        node.dial(lair.clone()).await.expect("dials");
        tokio::time::sleep(A_MOMENT).await;
    }
    until("nobody stayed", async || cheat.readiness().connected == 0).await;

    // Whoever comes later is told, and hears nothing of the cheat besides.
    let late = start(client(304, &door)).await.expect("starts");
    until("told", async || late.inner.standings.is_convicted(&liar)).await;
    late.wait_ready(3, DEADLINE).await.expect("is in");
    // A connection stands for a moment at its own end before it is refused.
    until("its knocking is in vain", async || cheat.readiness().connected == 0).await;

    // What it has of somebody's it may still give back: every byte is checked.
    assert!(owner.inner.standings.is_convicted(&liar));
    let back = owner.get_shard(liar, address.clone(), 0, 0, Priority::High).await.expect("read");
    assert_eq!(back, shard(address, 9).bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_brings_proofs_that_prove_nothing_is_heard_no_more() {
    let node = start(store(310, &[])).await.expect("starts");
    let mut liar = Speaker::connect(311, &node).await;
    let topic = behaviour::Protocols::of(&network()).expect("valid").evidence;
    liar.swarm.behaviour_mut().subscribe(&topic).expect("subscribed");
    for n in 0..3u8 {
        let Evidence::Equivocation { first, mut second } = lie_of(identity(312).signing_key()) else {
            unreachable!("made so")
        };
        second.signature[usize::from(n)] ^= 1;
        let forged = Spread::Evidence(Evidence::Equivocation { first, second }).encode();
        let mut said = false;
        liar.until(async |swarm| {
            said = said || swarm.behaviour_mut().publish(topic.clone(), forged.clone()).is_ok();
            said
        })
        .await;
    }
    let peer = liar.peer();
    liar.until(async |_| {
        let score = node.ask(|reply| Command::Score { peer, reply }).await.expect("runs");
        score.is_some_and(|score| score < gossip::GRAYLIST)
    })
    .await;
    assert!(node.inner.standings.convicted().is_empty());
}
