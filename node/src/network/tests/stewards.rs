//! The stewards' protocol between nodes: questions, refusals, and peers that take all that they can.

use std::sync::Mutex;

use cairn_core::{
    peer_view::PeerView,
    steward::{
        Say,
        wire::{Answer, GroupMap, MESSAGE_MAX, Refusal, Request},
    },
};
use cairn_proto::{Grant, GroupId, PeerKey, Rights};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future::BoxFuture};
use libp2p::Stream;
use tokio::sync::Semaphore;

use super::super::*;
use super::nodes::{A_MOMENT, DEADLINE, Pair, QUIC, TCP, client, group_for, listening, pair, pair_with};
use crate::{
    overlay::{Overlay as _, StewardError, TransferError},
    stewardship::ports::{StewardNet, StewardService},
};

/// Notes what comes and answers as told; a comparison waits for the gate.
struct Told {
    answer: Mutex<Answer>,
    heard: Mutex<Vec<(PeerKey, Request)>>,
    gate: Semaphore,
    waiting: watch::Sender<usize>,
}

impl Told {
    fn new(answer: Answer) -> Arc<Self> {
        let (waiting, _) = watch::channel(0);
        Arc::new(Self { answer: answer.into(), heard: Mutex::default(), gate: Semaphore::new(0), waiting })
    }

    fn says(&self, answer: Answer) {
        *self.answer.lock().expect("lock") = answer;
    }

    fn heard(&self) -> Vec<(PeerKey, Request)> {
        self.heard.lock().expect("lock").clone()
    }

    /// Until so many questions wait for the gate.
    async fn are_waiting(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        let enough = waiting.wait_for(|now| *now >= count);
        tokio::time::timeout(DEADLINE, enough).await.expect("in time").expect("open");
    }
}

impl StewardService for Told {
    fn handle(&self, from: PeerKey, request: Request) -> BoxFuture<'_, Answer> {
        async move {
            self.heard.lock().expect("lock").push((from, request.clone()));
            if matches!(&request, Request::Say(say) if matches!(**say, Say::Compare { .. })) {
                self.waiting.send_modify(|count| *count += 1);
                let _open = self.gate.acquire().await;
            }
            self.answer.lock().expect("lock").clone()
        }
        .boxed()
    }
}

fn compare() -> Request {
    let group = GroupId::from_bytes([1; 32]);
    Request::Say(Box::new(Say::Compare { group, generation: 1, digest: [2; 32] }))
}

fn record(bytes: usize) -> Request {
    Request::Register { record: vec![7; bytes] }
}

fn map() -> GroupMap {
    let (changes, past, entries) = (Vec::new(), Vec::new(), Vec::new());
    GroupMap { mandate: vec![1; 300], sheets: vec![1; 8], changes, past, entries, log: Vec::new() }
}

async fn raw(node: &NetworkHandle, to: PeerKey) -> Stream {
    streams::open(&node.inner.commands, to, streams::Kind::Stewards, DEADLINE).await.expect("opened")
}

/// May find the stream closed already, which [`rest`] tells.
async fn send(io: &mut Stream, length: u32, bytes: &[u8]) {
    let _ = io.write_all(&[&length.to_le_bytes(), bytes].concat()).await;
    let _ = io.flush().await;
}

/// What comes until the stream ends, in time.
async fn rest(mut io: Stream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(DEADLINE, io.read_to_end(&mut bytes)).await;
    assert!(end.is_ok(), "NET-2: the stream ends");
    Answer::decode(bytes.get(4..)?).ok()
}

async fn served(listen: &str) {
    let told = Told::new(Answer::Done);
    let service = told.clone();
    let Pair { holder, owner, .. } = pair_with(listen, |serving, _| serving.stewards = Some(service)).await;
    let (at, me) = (holder.inner.me, owner.inner.me);
    assert_eq!(owner.register_group(at, vec![7; 70_000]).await, Ok(()));
    assert_eq!(told.heard(), [(me, record(70_000))], "and who asked is whom the transport knows");

    told.says(Answer::Map(Box::new(map())));
    let (group, _) = group_for(&holder.inner.domain, 3);
    assert_eq!(owner.group_map(at, group.clone()).await, Ok(Box::new(map())));
    let asked = told.heard().pop();
    let Some((_, Request::Ask { ticket, grant })) = asked else { panic!("{asked:?}") };
    assert_eq!(ticket, group.ticket);
    let grant = Grant::open(&grant, &ticket, clock()).expect("good now");
    assert_eq!((grant.holder, grant.bearer, grant.rights), (at, me, Rights::GET));
    let wrong = owner.register_group(at, vec![1]).await;
    assert!(matches!(wrong, Err(StewardError::Transfer(_))), "a map is no answer to that: {wrong:?}");

    told.says(Answer::Refused(Refusal::Old));
    assert_eq!(owner.register_group(at, vec![1]).await, Err(StewardError::Refused(Refusal::Old)));
    assert_eq!(owner.group_map(at, group).await, Err(StewardError::Refused(Refusal::Old)));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_over_tcp() {
    tokio::time::timeout(DEADLINE, served(TCP)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_over_quic() {
    tokio::time::timeout(DEADLINE, served(QUIC)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_service_says_that_it_is_no_steward() {
    let Pair { holder, owner, .. } = pair(TCP).await;
    let at = holder.inner.me;
    let no = Ok(Answer::Refused(Refusal::NotSteward));
    assert_eq!(owner.request(at, compare()).await, no);
    assert_eq!(owner.request(at, record(280_000)).await, no, "also when it is not read");
    assert_eq!(owner.register_group(at, vec![1]).await, Err(StewardError::Refused(Refusal::NotSteward)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_no_question_is_refused() {
    let told = Told::new(Answer::Done);
    let service = told.clone();
    let Pair { holder, owner, .. } = pair_with(TCP, |serving, _| serving.stewards = Some(service)).await;
    let at = holder.inner.me;
    for length in [MESSAGE_MAX as u32 + 1, u32::MAX] {
        let mut io = raw(&owner, at).await;
        send(&mut io, length, &[]).await;
        assert_eq!(rest(io).await, None, "a length of {length}");
    }
    for bytes in [&[][..], &[0xff; 40], &[1, 9], &[1, 1, 7], &record(3).encode().expect("valid")[..5]] {
        let mut io = raw(&owner, at).await;
        send(&mut io, bytes.len() as u32, bytes).await;
        assert_eq!(rest(io).await, Some(Answer::Refused(Refusal::Forged)), "{bytes:?}");
    }
    assert!(told.heard().is_empty(), "none of it got to the service");
    assert_eq!(owner.request(at, record(3)).await, Ok(Answer::Done), "still serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_and_never_finished_is_let_go() {
    let told = Told::new(Answer::Done);
    let service = told.clone();
    let quick = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        serving.stewards = Some(service);
        serving.limits.frame_time = Duration::from_secs(2);
        serving.limits.stewards.at_once = 2;
        serving.limits.stewards.per_peer = 2;
    };
    let Pair { holder, owner, .. } = pair_with(TCP, quick).await;
    let at = holder.inner.me;
    let (mut silent, mut dripping) = (raw(&owner, at).await, raw(&owner, at).await);
    let _ = silent.write_all(&[9]).await;
    let _ = silent.flush().await;
    send(&mut dripping, 1000, &[1]).await;
    let drip = async {
        // A byte now and then, which is progress.
        while dripping.write_all(&[1]).await.is_ok() && dripping.flush().await.is_ok() {
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    tokio::time::timeout(DEADLINE, drip).await.expect("it is cut off");
    assert_eq!(rest(silent).await, None);
    let again = async { while owner.request(at, record(3)).await != Ok(Answer::Done) {} };
    tokio::time::timeout(DEADLINE, again).await.expect("their places are free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_is_not_waited_for() {
    let told = Told::new(Answer::Done);
    let service = told.clone();
    let quick = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        serving.stewards = Some(service);
        serving.limits.stewards.service_time = Duration::from_millis(300);
    };
    let Pair { holder, owner, .. } = pair_with(TCP, quick).await;
    let at = holder.inner.me;
    for _ in 0..6 {
        let hangs = owner.request(at, compare()).await;
        assert_eq!(hangs, Ok(Answer::Refused(Refusal::Busy)), "a place is free again each time");
    }
    assert_eq!(told.heard().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_that_floods_leaves_places_for_others() {
    let told = Told::new(Answer::Done);
    let service = told.clone();
    let few = |serving: &mut NetworkConfig, asking: &mut NetworkConfig| {
        serving.stewards = Some(service);
        serving.limits.stewards.at_once = 4;
        serving.limits.stewards.per_peer = 3;
        serving.limits.stewards.service_time = DEADLINE;
        asking.patience.busy = Duration::from_millis(400);
    };
    let Pair { holder, owner, .. } = pair_with(TCP, few).await;
    let at = holder.inner.me;
    let floods: Vec<_> = (0..12)
        .map(|_| {
            let owner = owner.clone();
            tokio::spawn(async move { owner.request(at, compare()).await })
        })
        .collect();
    told.are_waiting(3).await;
    let more = owner.register_group(at, vec![1]).await;
    assert_eq!(more, Err(StewardError::Refused(Refusal::Busy)), "its own places are taken, for all of its patience");
    let other = start(client(131, &listening(&holder).await)).await.expect("starts");
    other.wait_ready(1, DEADLINE).await.expect("is in");
    assert_eq!(other.register_group(at, vec![1]).await, Ok(()), "another peer finds one");
    told.gate.add_permits(100);
    let (mut done, mut busy) = (0, 0);
    for flood in floods {
        match flood.await.expect("ran") {
            Ok(Answer::Done) => done += 1,
            Ok(Answer::Refused(Refusal::Busy)) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((done, busy), (3, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_questions_are_paid_for_and_short_ones_pass_them() {
    let told = Told::new(Answer::Done);
    let service = told.clone();
    let tight = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        serving.stewards = Some(service);
        serving.limits.stewards.memory = 256 * 1024;
        serving.limits.memory_wait = Duration::from_millis(100);
    };
    let Pair { holder, owner, .. } = pair_with(TCP, tight).await;
    let at = holder.inner.me;
    assert_eq!(owner.request(at, record(200_000)).await, Ok(Answer::Refused(Refusal::Busy)), "more than there is");
    // Half of it is for what is this short. Another takes that, and holds it.
    let greedy = start(client(132, &listening(&holder).await)).await.expect("starts");
    greedy.wait_ready(1, DEADLINE).await.expect("is in");
    let mut held = raw(&greedy, at).await;
    send(&mut held, 60_000, &[1; 100]).await;
    let full = async { while owner.request(at, record(50_000)).await == Ok(Answer::Done) {} };
    tokio::time::timeout(DEADLINE, full).await.expect("no memory for a second one");
    assert_eq!(owner.request(at, record(10_000)).await, Ok(Answer::Done), "a short one needs none");
    drop(held);
    let freed = async { while owner.request(at, record(50_000)).await != Ok(Answer::Done) {} };
    tokio::time::timeout(DEADLINE, freed).await.expect("what was held is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_breaks_its_bounds_is_none() {
    let told = Told::new(Answer::Map(Box::new(GroupMap { mandate: vec![1; 70_000], ..map() })));
    let service = told.clone();
    let Pair { holder, owner, .. } = pair_with(TCP, |serving, _| serving.stewards = Some(service)).await;
    let (group, _) = group_for(&holder.inner.domain, 3);
    let lied = owner.group_map(holder.inner.me, group).await;
    assert!(matches!(lied, Err(StewardError::Transfer(TransferError::Misbehaved(_)))), "{lied:?}");
}

async fn view(node: &NetworkHandle, of: PeerKey) -> PeerView {
    let views = StewardNet::peers(node).await;
    views.into_iter().find(|view| view.peer == of).expect("known")
}

/// Until a peer was heard after that.
async fn heard_after(node: &NetworkHandle, of: PeerKey, at: Timestamp, mut by: impl AsyncFnMut()) {
    let moved = async {
        while view(node, of).await.last_heard <= at {
            by().await;
        }
    };
    tokio::time::timeout(DEADLINE, moved).await.expect("heard in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_answers_and_probes_are_signs_of_life() {
    let told = Told::new(Answer::Done);
    let service = told.clone();
    let never = |serving: &mut NetworkConfig, asking: &mut NetworkConfig| {
        serving.stewards = Some(service);
        for config in [serving, asking] {
            (config.announce_every, config.ping_every) = (2 * DEADLINE, 2 * DEADLINE);
        }
    };
    let Pair { holder, owner, .. } = pair_with(TCP, never).await;
    let at = holder.inner.me;
    heard_after(&owner, at, clock(), async || owner.probe(at).await.expect("there")).await;
    heard_after(&owner, at, clock(), async || drop(owner.request(at, record(1)).await.expect("answers"))).await;
    holder.shutdown().await;
    let gone = async { while owner.probe(at).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, gone).await.expect("noticed");
    assert!(matches!(owner.probe(at).await, Err(TransferError::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn adverts_and_pings_come_as_often_as_is_said() {
    for pings in [false, true] {
        let often = |serving: &mut NetworkConfig, asking: &mut NetworkConfig| {
            for config in [serving, asking] {
                (config.announce_every, config.ping_every) = (2 * DEADLINE, 2 * DEADLINE);
                let every = if pings { &mut config.ping_every } else { &mut config.announce_every };
                *every = Duration::from_millis(500);
            }
        };
        let Pair { holder, owner, .. } = pair_with(TCP, often).await;
        for _ in 0..3 {
            let now = clock();
            heard_after(&owner, holder.inner.me, now, async || tokio::time::sleep(A_MOMENT).await).await;
        }
    }
}
