//! Helpers that are not there, hang or go, where the order names more than it takes: another one steps in, in a session of its own.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cairn_core::blind::{SLICE_SIZE, Session, invite::Frame, wire::Message};
use cairn_proto::{CodeParams, PeerKey};
use tokio::time::Instant;

use super::{
    super::{Failure, Patience, RebuildNet},
    lines::{Kind, Recorded, Slow, Tape},
    village::{DEADLINE, FOR_EVER, PATIENT, Plan, Village, slot},
};
use crate::network::{clock, keeper::memory::MemoryKeeper};

/// All that live of a stripe of 5+3 that lost slot 0.
const SEVEN: [usize; 7] = [1, 2, 5, 6, 7, 3, 4];
/// The third of the chain.
const THIRD: usize = 5;

fn plan(helpers: &[usize], stripes: usize) -> Plan {
    Plan::new(CodeParams::DEFAULT, 0, helpers, &vec![5; stripes])
}

/// Sessions that a new holder was in.
async fn sessions(village: &Village) -> usize {
    village.new_holder().rebuild.shared.ledger.sessions().await
}

/// Every session that was told to anybody, once for each.
fn told(said: &[Recorded]) -> Vec<(PeerKey, Session)> {
    let mut all = Vec::new();
    for said in said {
        let mut left = said.bytes.as_slice();
        // What is no message ends it: a link goes on with slices.
        while let Some((length, rest)) = left.split_first_chunk::<4>() {
            let Some((body, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else { break };
            match Message::decode(body) {
                Ok(Message::Session(both)) => all.push((said.to, both.0)),
                Ok(_) => {}
                Err(_) => break,
            }
            left = rest;
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_replaced_at_its_invitation() {
    let village = Village::start(plan(&SEVEN, 2)).await;
    for gone in [2, 6] {
        village.nodes[&gone].handle.shutdown().await;
    }
    let order = village.credentials();
    for ordinal in [0, 1] {
        let shard = village.rebuild_under(&order, ordinal).await;
        assert!(shard.as_ref() == Ok(village.lost_shard(ordinal)), "DUR-3, REP-1: {:?}", shard.err());
    }
    assert_eq!(sessions(&village).await, 2, "one a stripe");
    assert!(village.named(&order).await.is_empty(), "TRUST-1: whoever is away lied to nobody");
    // One more, and there are too few.
    let last = &village.nodes[&7];
    last.handle.shutdown().await;
    let failed = village.rebuild_under(&village.credentials(), 0).await;
    let gone: Vec<PeerKey> = [2, 6, 7].iter().map(|at| village.nodes[at].peer).collect();
    assert!(matches!(failed, Err(Failure::Missing(peer)) if gone.contains(&peer)), "{failed:?}");
    assert_eq!(sessions(&village).await, 2, "and nobody was told a session");
}

/// One of them lacks a shard: for that stripe another helps, for the next it may again.
#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_a_shard_is_replaced() {
    use crate::network::keeper::ShardKeeper as _;
    let village = Village::start(Plan::new(CodeParams::LOW_PEER, 4, &[0, 1, 2, 3], &[2, 2])).await;
    village.nodes[&1].keeper.delete(village.ticket.id(), village.helpers[1].0, 0).await.expect("was there");
    let order = village.credentials();
    for ordinal in [0, 1] {
        let shard = village.rebuild_under(&order, ordinal).await;
        assert!(shard.as_ref() == Ok(village.lost_shard(ordinal)), "DUR-3: {:?}", shard.err());
    }
}

/// Nothing that is said to it arrives, and nobody would ever give it up: it is not waited for, and what comes after begins without it.
#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_at_its_invitation_is_not_waited_for() {
    let mut plan = plan(&SEVEN[..6], 3);
    plan.lines = Box::new(|at| {
        let free = Arc::new(Mutex::new(Instant::now()));
        Kind { slow: (at == 2).then_some(Slow { delay: FOR_EVER, rate: None, free }), ..Kind::default() }
    });
    plan.patience =
        Box::new(|at| Patience { spare: if at == 0 { Duration::from_millis(1) } else { FOR_EVER }, ..PATIENT });
    let tape: Tape = Arc::new(Mutex::new(Vec::new()));
    let (its, lines) = (tape.clone(), plan.lines);
    plan.lines = Box::new(move |at| Kind { tape: (at == 0).then(|| its.clone()), ..lines(at) });
    let village = Village::start(plan).await;
    let order = village.credentials();
    for ordinal in [0, 1, 2] {
        let shard = village.rebuild_under(&order, ordinal).await;
        assert!(shard.as_ref() == Ok(village.lost_shard(ordinal)), "DUR-3, REP-1: {:?}", shard.err());
    }
    let said = tape.lock().expect("lock").clone();
    let hanging = village.nodes[&2].peer;
    assert!(told(&said).iter().all(|(to, _)| *to != hanging));
    let best =
        village.new_holder().rebuild.shared.searches.best_of(&order.certificate.order.id().expect("valid")).await;
    assert_eq!(best, [1, 5, 6, 7, 3].map(slot), "what comes next begins without it");
}

/// Its connection is closed and nothing was heard of it: it is asked last, before anybody tried to reach it.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_heard_for_long_is_asked_last() {
    let mut plan = plan(&SEVEN, 1);
    plan.patience = Box::new(|_| Patience { silent: Duration::ZERO, ..PATIENT });
    let village = Village::start(plan).await;
    let (gone, to) = (&village.nodes[&2], village.new_holder());
    for (_, peer) in &village.helpers {
        drop(RebuildNet::open(&to.handle, *peer).await.expect("reached"));
    }
    gone.handle.shutdown().await;
    let noticed = async {
        while RebuildNet::silent(&to.handle, vec![gone.peer], clock()).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, noticed).await.expect("a closed connection is noticed");
    let order = village.credentials();
    let frame = Frame::new(&order, &village.ticket, &village.sheet.rows[0]).expect("an order");
    let shared = &to.rebuild.shared;
    drop(shared.known_of(&frame, order.certificate.order.expires).await);
    let best = shared.searches.best_of(&order.certificate.order.id().expect("valid")).await;
    assert_eq!(best, [1, 5, 6, 7, 3].map(slot));
}

/// It has slices of the sum when it goes. Another session makes the shard, and nothing of the first one is in it: no key, no nonce.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_in_the_middle_is_replaced_in_another_session() {
    let tape: Tape = Arc::new(Mutex::new(Vec::new()));
    let mut plan = plan(&SEVEN, 1);
    let its = tape.clone();
    plan.lines = Box::new(move |at| Kind { tape: [0, 2].contains(&at).then(|| its.clone()), ..Kind::default() });
    let village = Village::start(plan).await;
    let third = &village.nodes[&THIRD];
    third.keeper.gate.acquire_many(MemoryKeeper::GATE as u32).await.expect("open").forget();
    let goes = async {
        let has_slices =
            || tape.lock().expect("lock").iter().any(|said| said.to == third.peer && said.bytes.len() > SLICE_SIZE);
        while !has_slices() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        third.handle.shutdown().await;
    };
    let order = village.credentials();
    let (shard, ()) = tokio::join!(village.rebuild_under(&order, 0), goes);
    assert!(shard.as_ref() == Ok(village.lost_shard(0)), "DUR-3, REP-1: {:?}", shard.err());
    assert_eq!(sessions(&village).await, 2);

    let said = told(&tape.lock().expect("lock"));
    let of = |wanted: bool| {
        let mut of = said.iter().filter(|(_, session)| {
            let chain: Vec<usize> = session.links().iter().map(|link| link.slot.index()).collect();
            chain.contains(&THIRD) == wanted
        });
        let (_, first) = of.next().expect("one at least");
        assert!(of.all(|(_, session)| session == first), "one session with it, and one without");
        first.clone()
    };
    let (broken, made) = (of(true), of(false));
    assert_eq!(made.links().len(), 5);
    assert_ne!((broken.id(), broken.nonce()), (made.id(), made.nonce()));
    let keys =
        |session: &Session| -> BTreeSet<[u8; 32]> { session.parties().map(|(_, key)| *key.as_bytes()).collect() };
    assert!(keys(&broken).is_disjoint(&keys(&made)), "SEP-1: a key of a session that broke serves no other");
    assert_ne!(broken.attempt(), made.attempt());
}

/// However many break off, a stripe has no more sessions than there are spare helpers.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_stripe_are_bounded_by_its_spare_helpers() {
    let mut plan = plan(&SEVEN, 1);
    let breaks = Arc::new(AtomicUsize::new(usize::MAX));
    let its = breaks.clone();
    plan.lines = Box::new(move |at| Kind { breaks: (at != 0).then(|| its.clone()), ..Kind::default() });
    plan.patience =
        Box::new(|at| if at == 0 { Patience { stall: Duration::from_millis(500), ..PATIENT } } else { PATIENT });
    let village = Village::start(plan).await;
    let failed = village.rebuild(0).await;
    assert!(matches!(failed, Err(Failure::Missing(_))), "{failed:?}");
    assert!(breaks.load(Ordering::SeqCst) < usize::MAX);
    assert_eq!(sessions(&village).await, 3, "its own, and one for each of the two to spare");
}

/// A liar and one who is not there, of seven: shards come from the other five, and nobody but the liar is named.
#[tokio::test(flavor = "multi_thread")]
async fn one_lies_and_one_is_gone() {
    let mut plan = plan(&SEVEN, 4);
    plan.lines = Box::new(|at| Kind { garbles: u8::from(at == 6), ..Kind::default() });
    let village = Village::start(plan).await;
    village.nodes[&2].handle.shutdown().await;
    let order = village.credentials();
    let mut came = Vec::new();
    for ordinal in 0..4 {
        let shard = village.rebuild_under(&order, ordinal).await;
        assert!(shard.is_err() || shard.as_ref() == Ok(village.lost_shard(ordinal)), "DUR-3");
        came.push(shard.is_ok());
    }
    assert!(came[2..].iter().all(|came| *came), "REP-1: {came:?}");
    assert_eq!(village.named(&order).await, [6]);
}
