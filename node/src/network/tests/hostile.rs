//! Peers that do not behave: frames written by hand, junk, silence.

use super::super::{
    keeper::memory::MemoryKeeper,
    transfer::frame::{self, Frame, Progress},
    *,
};
use super::nodes::{DEADLINE, Pair, TCP, group_for, pair, pair_with, shard};
use crate::overlay::{GroupAccess, Overlay as _, ShardAddress};
use bytes::Bytes;
use cairn_proto::{
    Grant, PeerKey, Rights, SHARD_SIZE, Slot, message,
    wire::{DeleteShard, FRAME_HEADER_SIZE, FrameKind, GetShard, OpenGroup, Priority, PutShard, RefusalCode, Refused},
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;
use prost::Message as _;
use rand_core::SeedableRng as _;

/// A raw stream to the holder, without any of the client's manners.
pub(super) async fn raw(node: &NetworkHandle, to: PeerKey) -> Stream {
    let (reply, opened) = oneshot::channel();
    node.inner
        .commands
        .send(Command::OpenStream { peer: to, kind: streams::Kind::Shard, reply })
        .await
        .expect("running");
    opened.await.expect("answered").expect("opened")
}

pub(super) async fn write(io: &mut Stream, kind: FrameKind, request: u32, head: Vec<u8>, payload: Bytes) {
    try_write(io, kind, request, head, payload).await.expect("written");
}

/// Fails when the holder has dropped the stream by then.
async fn try_write(
    io: &mut Stream,
    kind: FrameKind,
    request: u32,
    head: Vec<u8>,
    payload: Bytes,
) -> std::io::Result<()> {
    let frame = Frame { kind, priority: Priority::Normal, request, head, payload };
    frame::write_frame(io, &frame, &Progress::new()).await?;
    io.flush().await
}

/// The next answer: its kind, and the code when it is a refusal. `None` when the stream was closed.
pub(super) async fn answer(io: &mut Stream) -> Option<(FrameKind, Option<RefusalCode>)> {
    let read = async {
        let header = frame::read_header(io, DEADLINE).await.ok()??;
        let head = frame::read_bytes(io, header.head_len.into(), &Progress::new()).await.ok()?;
        frame::drain(io, header.payload_len as usize).await.ok()?;
        let refused = (header.kind == FrameKind::Refused)
            .then(|| message::decode::<Refused>(&head, "refusal").expect("readable").code());
        Some((header.kind, refused))
    };
    tokio::time::timeout(DEADLINE, read).await.expect("an answer or the end, in time")
}

pub(super) fn refused(code: RefusalCode) -> Option<(FrameKind, Option<RefusalCode>)> {
    Some((FrameKind::Refused, Some(code)))
}

fn grant(group: &GroupAccess, holder: PeerKey, bearer: PeerKey, rights: Rights) -> Grant {
    let now = clock();
    Grant { group: group.ticket.id(), holder, bearer, rights, not_before: Timestamp(0), expires: now.plus_ms(60_000) }
}

fn open(group: &GroupAccess, grant: &Grant) -> Vec<u8> {
    let grant = grant.seal(&group.authority).to_vec();
    OpenGroup { ticket: group.ticket.encode().to_vec(), grant }.encode_to_vec()
}

fn put(group: &GroupAccess, slot: Slot, ordinal: u32, bytes: &Bytes) -> Vec<u8> {
    PutShard {
        group: group.ticket.id().as_bytes().to_vec(),
        slot: slot.as_u8().into(),
        ordinal,
        root: blake3::hash(bytes).as_bytes().to_vec(),
        lease_until: u64::MAX,
    }
    .encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_colour_is_refused() {
    let Pair { holder, owner, keeper } = pair(TCP).await;
    let (at, me) = (holder.inner.me, owner.inner.me);
    let (group, mine) = group_for(&holder.inner.domain, 8);
    let bytes = Bytes::from(vec![1u8; SHARD_SIZE]);
    let mut io = raw(&owner, at).await;
    write(&mut io, FrameKind::Open, 1, open(&group, &grant(&group, at, me, Rights::OWNER)), Bytes::new()).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Opened, None)));
    for (request, slot) in (2..).zip(group.ticket.code().each_slot()) {
        let head = put(&group, slot, 0, &bytes);
        write(&mut io, FrameKind::Put, request, head, bytes.clone()).await;
        let expected = if slot == mine { Some((FrameKind::Stored, None)) } else { refused(RefusalCode::WrongColour) };
        assert_eq!(answer(&mut io).await, expected, "slot {slot}");
    }
    let beyond = Slot::new(31).expect("a slot");
    write(&mut io, FrameKind::Put, 99, put(&group, beyond, 0, &bytes), bytes.clone()).await;
    assert_eq!(answer(&mut io).await, refused(RefusalCode::WrongColour));
    assert_eq!(keeper.offered(), [(group.ticket.id(), mine)].into(), "SEP-1: only the one colour got through");

    // Another salt is another group: its id differs, so nothing is smuggled in under the first one's name.
    write(&mut io, FrameKind::Put, 100, put(&group, mine, 0, &Bytes::from_static(b"x")), bytes).await;
    assert_eq!(answer(&mut io).await, refused(RefusalCode::RootMismatch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_another_bearer_opens_nothing() {
    let Pair { holder, owner, keeper } = pair(TCP).await;
    let (at, me) = (holder.inner.me, owner.inner.me);
    let (group, slot) = group_for(&holder.inner.domain, 9);
    let stranger = PeerKey::from_bytes([7; 32]);
    let bytes = Bytes::from(vec![1u8; SHARD_SIZE]);
    let mut io = raw(&owner, at).await;
    let forged = GroupAccess { ticket: group.ticket, authority: ed25519_dalek::SigningKey::from_bytes(&[44; 32]) };
    let stale = Grant { expires: Timestamp(5), ..grant(&group, at, me, Rights::OWNER) };
    let bad = [
        open(&group, &grant(&group, at, stranger, Rights::OWNER)),
        open(&group, &grant(&group, stranger, me, Rights::OWNER)),
        open(&forged, &grant(&group, at, me, Rights::OWNER)),
        open(&group, &stale),
    ];
    for (request, head) in (1..).zip(bad) {
        write(&mut io, FrameKind::Open, request, head, Bytes::new()).await;
        assert_eq!(answer(&mut io).await, refused(RefusalCode::NotAuthorised), "NET-1, grant {request}");
        write(&mut io, FrameKind::Put, 50 + request, put(&group, slot, 0, &bytes), bytes.clone()).await;
        assert_eq!(answer(&mut io).await, refused(RefusalCode::NotAuthorised), "NET-1, put {request}");
    }
    assert!(keeper.offered().is_empty());

    // A right that was not given.
    write(&mut io, FrameKind::Open, 10, open(&group, &grant(&group, at, me, Rights::PUT)), Bytes::new()).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Opened, None)));
    write(&mut io, FrameKind::Put, 11, put(&group, slot, 0, &bytes), bytes.clone()).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Stored, None)));
    let name = group.ticket.id().as_bytes().to_vec();
    let delete = DeleteShard { group: name.clone(), slot: slot.as_u8().into(), ordinal: 0 };
    write(&mut io, FrameKind::Delete, 12, delete.encode_to_vec(), Bytes::new()).await;
    assert_eq!(answer(&mut io).await, refused(RefusalCode::NotAuthorised));
    let get = GetShard { group: name, slot: slot.as_u8().into(), ordinal: 0, offset: 0, length: 0 };
    write(&mut io, FrameKind::Get, 13, get.encode_to_vec(), Bytes::new()).await;
    assert_eq!(answer(&mut io).await, refused(RefusalCode::NotAuthorised));
    assert_eq!(keeper.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_the_stream_and_the_node_still_serves() {
    let quick = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        // Two cases below take as long.
        serving.limits.frame_time = Duration::from_secs(1);
    };
    let Pair { holder, owner, keeper } = pair_with(TCP, quick).await;
    let at = holder.inner.me;
    let (group, slot) = group_for(&holder.inner.domain, 10);

    let mut oversized = [0u8; FRAME_HEADER_SIZE];
    oversized[0] = FrameKind::Put as u8;
    oversized[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut long_head = [0u8; FRAME_HEADER_SIZE];
    long_head[0] = FrameKind::Open as u8;
    long_head[2..4].copy_from_slice(&u16::MAX.to_le_bytes());
    let mut from_a_holder = [0u8; FRAME_HEADER_SIZE];
    from_a_holder[0] = FrameKind::Stored as u8;
    let mut begun = [0u8; FRAME_HEADER_SIZE];
    begun[0] = FrameKind::Put as u8;
    begun[8..12].copy_from_slice(&(SHARD_SIZE as u32).to_le_bytes());
    let junk: [&[u8]; 6] = [
        &[0xff; 64],
        &oversized,
        &long_head,
        &from_a_holder,
        // A frame that never ends: after a head of nothing a shard is due, and one byte of a header.
        &begun,
        &[1],
    ];
    for (case, bytes) in junk.iter().enumerate() {
        let mut io = raw(&owner, at).await;
        io.write_all(bytes).await.expect("written");
        io.flush().await.expect("flushed");
        let mut ended = answer(&mut io).await;
        // A begun put is refused at its head (the group is not open) before the stream is given up.
        while ended.is_some() {
            ended = answer(&mut io).await;
        }
        assert_eq!(ended, None, "case {case}");
    }
    // Random bytes, many times.
    let mut rng = ChaCha20Rng::seed_from_u64(11);
    for _ in 0..32 {
        let mut io = raw(&owner, at).await;
        let mut bytes = vec![0u8; 3000];
        rand_core::Rng::fill_bytes(&mut rng, &mut bytes);
        let _ = io.write_all(&bytes).await;
        let _ = io.flush().await;
        let mut rest = Vec::new();
        let end = tokio::time::timeout(DEADLINE, io.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "NET-2: the stream ends");
    }
    assert_eq!(keeper.count(), 0);
    let put = || shard(ShardAddress { group: group.clone(), slot, ordinal: 0 }, 1);
    // On a busy machine a shard may take longer than that, and begins anew.
    let served = async { while owner.put_shard(at, put(), Priority::Normal).await.is_err() {} };
    tokio::time::timeout(DEADLINE, served).await.expect("still serves");
    assert_eq!(keeper.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_peer_are_few() {
    let Pair { holder, owner, .. } = pair(TCP).await;
    let at = holder.inner.me;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut io = raw(&owner, at).await;
        // Served: a put to a group that is not open is refused.
        write(&mut io, FrameKind::Has, 1, Vec::new(), Bytes::new()).await;
        assert!(answer(&mut io).await.is_some());
        open.push(io);
    }
    let mut fifth = raw(&owner, at).await;
    let _ = fifth.write_all(&[0; 4]).await;
    let _ = fifth.flush().await;
    assert_eq!(answer(&mut fifth).await, None, "dropped unserved");
    drop(open);
    let again = async {
        loop {
            let mut io = raw(&owner, at).await;
            let written = try_write(&mut io, FrameKind::Has, 1, Vec::new(), Bytes::new()).await;
            if written.is_ok() && answer(&mut io).await.is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, again).await.expect("a place is free again");
}

/// Each of them asks for far more than it may hold, and never reads an answer.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_never_read_leave_memory_for_others() {
    const GREEDY: u8 = 4;
    let tight = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        // A quarter for each of four would be all.
        serving.limits.memory = 16 * SHARD_SIZE;
        serving.limits.memory_wait = Duration::from_millis(50);
    };
    let Pair { holder, owner, keeper } = pair_with(TCP, tight).await;
    let at = holder.inner.me;
    let doors = super::nodes::listening(&holder).await;
    let another = async |seed: u64| {
        let mut config = super::nodes::client(seed, &doors);
        config.patience.busy = Duration::from_millis(300);
        let node = start(config).await.expect("starts");
        node.wait_ready(1, DEADLINE).await.expect("is in");
        node
    };
    let mut greedy = Vec::new();
    for n in 0..GREEDY {
        let node = another(110 + u64::from(n)).await;
        let (group, slot) = group_for(&holder.inner.domain, 20 + n);
        let address = ShardAddress { group: group.clone(), slot, ordinal: 0 };
        node.put_shard(at, shard(address.clone(), n), Priority::Normal).await.expect("stored");
        let name = group.ticket.id().as_bytes().to_vec();
        let get = GetShard { group: name, slot: slot.as_u8().into(), ordinal: 0, offset: 0, length: 0 }.encode_to_vec();
        let mut streams = Vec::new();
        // The fourth stream is the one that stored the shard.
        for _ in 0..3 {
            let mut io = raw(&node, at).await;
            let granted = open(&group, &grant(&group, at, node.inner.me, Rights::OWNER));
            write(&mut io, FrameKind::Open, 1, granted, Bytes::new()).await;
            assert_eq!(answer(&mut io).await, Some((FrameKind::Opened, None)));
            for request in 2..10 {
                write(&mut io, FrameKind::Get, request, get.clone(), Bytes::new()).await;
            }
            streams.push(io);
        }
        // It holds what it can get as soon as it is told to wait.
        let full = async { while node.get_shard(at, address.clone(), 0, 0, Priority::Normal).await.is_ok() {} };
        tokio::time::timeout(DEADLINE, full).await.expect("its share is used up");
        greedy.push((node, streams));
    }
    let other = another(102).await;
    let (theirs, slot) = group_for(&holder.inner.domain, 14);
    let put = shard(ShardAddress { group: theirs, slot, ordinal: 0 }, 2);
    other.put_shard(at, put, Priority::Normal).await.expect("there is room for another peer");
    assert_eq!(keeper.count(), usize::from(GREEDY) + 1);
    drop((greedy, owner));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_is_let_go() {
    let tight = |serving: &mut NetworkConfig, _: &mut NetworkConfig| {
        serving.limits.memory = SHARD_SIZE;
        serving.limits.memory_wait = Duration::from_millis(50);
        serving.limits.stall_time = Duration::from_millis(300);
    };
    let Pair { holder, owner, .. } = pair_with(TCP, tight).await;
    let (at, me) = (holder.inner.me, owner.inner.me);
    let (group, slot) = group_for(&holder.inner.domain, 13);
    let address = ShardAddress { group: group.clone(), slot, ordinal: 0 };
    // On a busy machine nothing may move for longer than that, and the shard begins anew.
    let stored = async { while owner.put_shard(at, shard(address.clone(), 1), Priority::Normal).await.is_err() {} };
    tokio::time::timeout(DEADLINE, stored).await.expect("stored");
    let name = group.ticket.id().as_bytes().to_vec();
    let get = GetShard { group: name, slot: slot.as_u8().into(), ordinal: 0, offset: 0, length: 0 }.encode_to_vec();
    let mut io = raw(&owner, at).await;
    write(&mut io, FrameKind::Open, 1, open(&group, &grant(&group, at, me, Rights::OWNER)), Bytes::new()).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Opened, None)));
    write(&mut io, FrameKind::Get, 2, get, Bytes::new()).await;
    // From its first byte on, all memory is in an answer that nobody reads; the time for a whole frame is a minute.
    io.read_exact(&mut [0]).await.expect("an answer begins");
    let read = async { while owner.get_shard(at, address.clone(), 0, 0, Priority::Normal).await.is_err() {} };
    tokio::time::timeout(DEADLINE, read).await.expect("the memory is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_store_says_so() {
    let Pair { holder, owner, .. } = pair(TCP).await;
    let (group, slot) = group_for(&owner.inner.domain, 12);
    let put = shard(ShardAddress { group, slot, ordinal: 0 }, 1);
    let asked = holder.put_shard(owner.inner.me, put, Priority::Normal).await;
    let said = crate::overlay::TransferError::Refused { code: RefusalCode::NotStorage, retry_after_ms: 0 };
    assert_eq!(asked.map(|_| ()), Err(said));
}

/// What a requester must bear from a holder; on a pipe, with an answerer written by hand.
mod holders {
    use super::*;
    use crate::network::transfer::link::{Link, LinkError};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

    type Pipe = Compat<tokio::io::DuplexStream>;

    fn link() -> (Link, Pipe) {
        link_with(ClientPatience { progress: DEADLINE, request: DEADLINE, ..ClientPatience::default() })
    }

    fn link_with(patience: ClientPatience) -> (Link, Pipe) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        (Link::start(ours.compat(), patience, None), theirs.compat())
    }

    #[tokio::test]
    async fn silence_times_out_and_ends_the_link() {
        let impatient = ClientPatience { progress: Duration::from_millis(200), ..ClientPatience::default() };
        let (link, _theirs) = link_with(impatient);
        let asked = link.ask(FrameKind::Has, Priority::High, Vec::new(), Bytes::new()).await;
        assert!(matches!(asked, Err(LinkError::TimedOut)), "{asked:?}");
        assert!(link.is_closed());
    }

    #[tokio::test]
    async fn junk_and_endings_break_the_link() {
        for junk in [[0xffu8; 16].as_slice(), &[]] {
            let (link, mut theirs) = link();
            theirs.write_all(junk).await.expect("written");
            drop(theirs);
            let asked = link.ask(FrameKind::Has, Priority::High, Vec::new(), Bytes::new()).await;
            assert!(matches!(asked, Err(LinkError::Broken(_))), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn a_late_answer_to_a_cancelled_request_is_read_away() {
        let (link, mut theirs) = link();
        let mut kinds = Vec::new();
        tokio::select! {
            _ = link.ask(FrameKind::Get, Priority::High, Vec::new(), Bytes::new()) => panic!("nobody answered"),
            // Dropped when the holder has it.
            header = frame::read_header(&mut theirs, DEADLINE) => {
                let header = header.expect("read").expect("a frame");
                kinds.push((header.kind, header.request));
            }
        }
        let holder = async {
            let mut last = 0;
            for _ in 0..2 {
                let header = frame::read_header(&mut theirs, DEADLINE).await.expect("read").expect("a frame");
                kinds.push((header.kind, header.request));
                last = header.request;
            }
            let payload = Bytes::from(vec![9u8; 100_000]);
            for request in [1, last] {
                let frame = Frame {
                    kind: FrameKind::Data,
                    priority: Priority::High,
                    request,
                    head: Vec::new(),
                    payload: payload.slice(..if request == 1 { 100_000 } else { 5 }),
                };
                frame::write_frame(&mut theirs, &frame, &Progress::new()).await.expect("written");
                theirs.flush().await.expect("flushed");
            }
            kinds
        };
        let asked = link.ask(FrameKind::Get, Priority::High, Vec::new(), Bytes::new());
        let (answer, kinds) = tokio::join!(asked, holder);
        assert_eq!(answer.expect("answered").payload.len(), 5);
        assert_eq!(kinds, [(FrameKind::Get, 1), (FrameKind::Cancel, 1), (FrameKind::Get, 2)]);
    }
}

#[test]
fn the_memory_keeper_is_a_fair_stand_in() {
    // The ledger's second guard, which the network must never need.
    let keeper = MemoryKeeper::default();
    let (group, slot) = group_for(&Domain::operator("x").expect("valid"), 1);
    let other = group.ticket.code().each_slot().find(|s| *s != slot).expect("eight slots");
    let offer = |slot| {
        let put = shard(ShardAddress { group: group.clone(), slot, ordinal: 0 }, 1);
        crate::store::NewShard {
            group: group.ticket.id(),
            slot,
            ordinal: 0,
            root: put.root,
            lease_until: put.lease_until,
            bytes: put.bytes.into(),
        }
    };
    use futures::FutureExt as _;
    use keeper::ShardKeeper as _;
    assert!(keeper.put(offer(slot)).now_or_never().expect("ready").is_ok());
    assert_eq!(keeper.put(offer(other)).now_or_never(), Some(Err(RefusalCode::LedgerConflict)));
}
