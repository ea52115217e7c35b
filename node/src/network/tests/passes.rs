//! Holders that are opened by an order or a mandate instead of a grant: what opens, and everything that must not.

use bytes::Bytes;
use cairn_core::{
    colour::{colour, may_hold},
    part::{Credentials, Pass},
};
use cairn_proto::{
    Action, Certificate, CodeParams, Committee, GroupTicket, Mandate, Order, Ordinals, PeerKey, Powers, Slot,
    wire::{DeleteShard, FrameKind, GetShard, HasShards, Priority, RefusalCode},
};
use ed25519_dalek::SigningKey;
use prost::Message as _;

use super::super::{keeper::memory::MemoryKeeper, *};
use super::{
    hostile::{answer, raw, refused, write},
    nodes::{A_MOMENT, DEADLINE, Pair, TCP, client, holder, listening, pair, shard},
};
use crate::{
    overlay::{GroupAccess, Overlay as _, ShardAddress, TransferError},
    stewardship::ports::{StewardNet, WatchPass},
};

const HOUR: u64 = 3_600_000;

/// A holder with three shards of a group, its owner, and a peer that may be the next holder of the same slot.
struct Scene {
    source: NetworkHandle,
    owner: NetworkHandle,
    bearer: NetworkHandle,
    group: Arc<GroupAccess>,
    slot: Slot,
    stewards: Vec<SigningKey>,
    /// Who else may watch.
    also: Vec<PeerKey>,
    /// When it began: one mandate for all orders.
    since: Timestamp,
}

fn peer_of(key: &SigningKey) -> PeerKey {
    PeerKey::from_bytes(key.verifying_key().to_bytes())
}

/// A group in which all of these have one slot's colour, and none of those.
fn group_of(alike: &[&Domain], others: &[&Domain]) -> (Arc<GroupAccess>, Slot) {
    let authority = SigningKey::from_bytes(&[61; 32]);
    for lot in 0..=u16::MAX {
        let mut salt = [0; 32];
        salt[..2].copy_from_slice(&lot.to_le_bytes());
        let public = authority.verifying_key().to_bytes();
        let ticket = GroupTicket::new(public, salt, CodeParams::DEFAULT, 9).expect("valid");
        let at = colour(&ticket, alike[0]).index();
        if at >= ticket.code().slots() {
            continue;
        }
        let slot = Slot::new(at as u8).expect("small");
        let may = |domain: &&&Domain| may_hold(&ticket, domain, slot);
        if alike.iter().all(|domain| may(&domain)) && !others.iter().any(|domain| may(&domain)) {
            return (Arc::new(GroupAccess { ticket, authority }), slot);
        }
    }
    unreachable!("one of some hundred salts does")
}

impl Scene {
    async fn new() -> Self {
        let Pair { holder: source, owner, .. } = pair(TCP).await;
        let doors = listening(&source).await;
        let bearer = start(holder(120, TCP, &Arc::new(MemoryKeeper::default()), &doors)).await.expect("starts");
        let (group, slot) = group_of(&[&source.inner.domain, &bearer.inner.domain], &[&owner.inner.domain]);
        let me = bearer.inner.me;
        let known = async {
            while !StewardNet::peers(&source).await.iter().any(|peer| peer.peer == me) {
                tokio::time::sleep(A_MOMENT).await;
            }
        };
        tokio::time::timeout(DEADLINE, known).await.expect("its advert comes");
        for ordinal in 0..3 {
            let address = ShardAddress { group: group.clone(), slot, ordinal };
            owner.put_shard(source.inner.me, shard(address, ordinal), Priority::Normal).await.expect("stored");
        }
        bearer.wait_ready(1, DEADLINE).await.expect("is in");
        let stewards = (1..=3).map(|seed| SigningKey::from_bytes(&[seed; 32])).collect();
        Self { source, owner, bearer, group, slot, stewards, also: Vec::new(), since: clock() }
    }

    fn mandate(&self) -> Mandate {
        let now = self.since;
        Mandate {
            ticket: self.group.ticket,
            generation: 1,
            stewards: self.stewards.iter().map(peer_of).chain(self.also.iter().copied()).collect(),
            replicas: 1,
            powers: Powers::ALL,
            monthly_bytes: 1 << 30,
            issued: Timestamp(now.0 - HOUR),
            ends: now.plus_ms(30 * 24 * HOUR),
        }
    }

    fn copy(&self) -> Order {
        let action = Action::Copy {
            slot: self.slot,
            from: self.source.inner.me,
            to: self.bearer.inner.me,
            ordinals: Ordinals::from_iter([0, 1]),
        };
        self.order(action)
    }

    fn order(&self, action: Action) -> Order {
        let now = clock();
        let group = self.group.ticket.id();
        let committee = *Committee::of(&self.mandate()).id();
        Order {
            group,
            generation: 1,
            committee,
            nonce: [5; 16],
            issued: now,
            expires: now.plus_ms(HOUR),
            urgent: false,
            action,
        }
    }

    fn signed(&self, order: Order, by: &[SigningKey]) -> Certificate {
        let votes: Vec<_> = by.iter().map(|key| (peer_of(key), order.sign(key).expect("valid"))).collect();
        Certificate::new(order, votes)
    }

    /// An order of two of the three, which is a quorum.
    fn credentials(&self, order: Order) -> Credentials {
        let mandate = self.mandate().seal(&self.group.authority).expect("valid");
        Credentials { mandate, changes: Vec::new(), certificate: self.signed(order, &self.stewards[..2]) }
    }

    fn get(&self, slot: Slot, ordinal: u8) -> Vec<u8> {
        let (group, ordinal) = (self.group.ticket.id().as_bytes().to_vec(), ordinal.into());
        GetShard { group, slot: slot.as_u8().into(), ordinal, offset: 0, length: 0 }.encode_to_vec()
    }

    fn has(&self, slot: Slot) -> Vec<u8> {
        let group = self.group.ticket.id().as_bytes().to_vec();
        HasShards { group, slot: slot.as_u8().into() }.encode_to_vec()
    }

    fn delete(&self, ordinal: u8) -> Vec<u8> {
        let (group, ordinal) = (self.group.ticket.id().as_bytes().to_vec(), ordinal.into());
        DeleteShard { group, slot: self.slot.as_u8().into(), ordinal }.encode_to_vec()
    }

    fn another_slot(&self) -> Slot {
        Slot::new((self.slot.as_u8() + 1) % 8).expect("small")
    }
}

fn no(code: RefusalCode) -> TransferError {
    TransferError::Refused { code, retry_after_ms: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_opens_its_shards_to_its_bearer_and_nothing_else() {
    let scene = Scene::new().await;
    let at = scene.source.inner.me;
    let credentials = Arc::new(scene.credentials(scene.copy()));
    for ordinal in [0, 1] {
        let address = ShardAddress { group: scene.group.clone(), slot: scene.slot, ordinal };
        let copied = scene.bearer.fetch(at, credentials.clone(), ordinal).await.expect("as ordered");
        assert!(copied == shard(address, ordinal).bytes, "shard {ordinal}");
    }
    let third = scene.bearer.fetch(at, credentials.clone(), 2).await;
    assert_eq!(third.map(|bytes| bytes.len()), Err(no(RefusalCode::NotAuthorised)), "an ordinal that was not ordered");

    let mut io = raw(&scene.bearer, at).await;
    let pass = Bytes::from(credentials.encode().expect("valid"));
    write(&mut io, FrameKind::OpenOrder, 1, Vec::new(), pass).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Opened, None)));
    let wrong = [
        (FrameKind::Get, scene.get(scene.another_slot(), 0)),
        (FrameKind::Get, scene.get(scene.slot, 2)),
        (FrameKind::Has, scene.has(scene.slot)),
        (FrameKind::Delete, scene.delete(0)),
    ];
    for (request, (kind, head)) in (2..).zip(wrong) {
        write(&mut io, kind, request, head, Bytes::new()).await;
        assert_eq!(answer(&mut io).await, refused(RefusalCode::NotAuthorised), "{kind:?}, request {request}");
    }
    write(&mut io, FrameKind::Get, 9, scene.get(scene.slot, 1), Bytes::new()).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Data, None)), "and the stream is still good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_order_opens_nothing() {
    use RefusalCode::{BadRequest, NotAuthorised, WrongColour};
    let scene = Scene::new().await;
    let (at, stranger) = (scene.source.inner.me, PeerKey::from_bytes([9; 32]));
    let Action::Copy { slot, from, to, ordinals } = scene.copy().action else { unreachable!("a copy") };
    let under = |action| scene.credentials(scene.order(action)).encode().expect("valid");
    let by = |keys: &[SigningKey]| {
        let credentials = scene.credentials(scene.copy());
        Credentials { certificate: scene.signed(scene.copy(), keys), ..credentials }.encode().expect("valid")
    };
    let at_time = |issued: u64, expires: u64| {
        let order = Order { issued: Timestamp(issued), expires: Timestamp(expires), ..scene.copy() };
        scene.credentials(order).encode().expect("valid")
    };
    let now = clock().0;
    let good = scene.credentials(scene.copy());
    let forged = Mandate { stewards: vec![stranger], ..scene.mandate() }.seal(&SigningKey::from_bytes(&[8; 32]));
    let helpers = vec![(scene.another_slot(), from)];
    let mut torn = good.encode().expect("valid");
    torn.truncate(torn.len() - 1);
    let wrong = [
        ("another bearer", NotAuthorised, under(Action::Copy { slot, from, to: stranger, ordinals })),
        ("another holder", NotAuthorised, under(Action::Copy { slot, from: stranger, to, ordinals })),
        ("another slot", WrongColour, under(Action::Copy { slot: scene.another_slot(), from, to, ordinals })),
        ("a rebuild", NotAuthorised, under(Action::Rebuild { slot, to, ordinals, helpers })),
        ("a change of stewards", NotAuthorised, under(Action::Replace { old: from, new: to })),
        ("one of three", NotAuthorised, by(&scene.stewards[..1])),
        ("nobody", NotAuthorised, by(&[])),
        ("strangers", NotAuthorised, by(&[SigningKey::from_bytes(&[44; 32]), SigningKey::from_bytes(&[45; 32])])),
        ("expired", NotAuthorised, at_time(now - HOUR / 2, now - 1)),
        ("not begun", NotAuthorised, at_time(now + HOUR, now + 2 * HOUR)),
        (
            "another mandate",
            NotAuthorised,
            Credentials { mandate: forged.expect("valid"), ..good.clone() }.encode().expect("valid"),
        ),
        ("torn", BadRequest, torn),
        ("nothing", BadRequest, Vec::new()),
        ("a pass", BadRequest, Pass::encode(&good.mandate, &[]).expect("valid")),
    ];
    let mut io = raw(&scene.bearer, at).await;
    for (request, (what, code, pass)) in (1..).zip(wrong) {
        write(&mut io, FrameKind::OpenOrder, 2 * request, Vec::new(), pass.into()).await;
        assert_eq!(answer(&mut io).await, refused(code), "SEP-1, NET-1: {what}");
        write(&mut io, FrameKind::Get, 2 * request + 1, scene.get(slot, 0), Bytes::new()).await;
        assert_eq!(answer(&mut io).await, refused(NotAuthorised), "no byte moves: {what}");
    }

    // What is good for one is not good for another who shows it.
    let mut theirs = raw(&scene.owner, at).await;
    let pass = Bytes::from(good.encode().expect("valid"));
    write(&mut theirs, FrameKind::OpenOrder, 1, Vec::new(), pass.clone()).await;
    assert_eq!(answer(&mut theirs).await, refused(NotAuthorised), "shown by another");
    write(&mut io, FrameKind::OpenOrder, 99, Vec::new(), pass).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Opened, None)), "and it is good");
}

/// A whole quorum orders what would give one peer two slots: the bearer's colour, as the holder knows it, is what counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_of_another_colour_gets_nothing() {
    let mut scene = Scene::new().await;
    let (group, slot) = group_of(&[&scene.source.inner.domain], &[&scene.bearer.inner.domain]);
    (scene.group, scene.slot) = (group, slot);
    let address = ShardAddress { group: scene.group.clone(), slot, ordinal: 0 };
    let at = scene.source.inner.me;
    scene.owner.put_shard(at, shard(address, 7), Priority::Normal).await.expect("stored");
    let credentials = Arc::new(scene.credentials(scene.copy()));
    let fetched = scene.bearer.fetch(at, credentials, 0).await.map(|bytes| bytes.len());
    assert_eq!(fetched, Err(no(RefusalCode::WrongColour)), "SEP-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_ends_when_it_ends() {
    let scene = Scene::new().await;
    let now = clock();
    let order = Order { expires: now.plus_ms(1500), ..scene.copy() };
    let credentials = Arc::new(scene.credentials(order));
    let until = async {
        loop {
            if let Err(error) = scene.bearer.fetch(scene.source.inner.me, credentials.clone(), 0).await {
                return error;
            }
        }
    };
    let ended = tokio::time::timeout(DEADLINE, until).await.expect("in time");
    assert_eq!(ended, no(RefusalCode::NotAuthorised));
    assert!(clock() >= now.plus_ms(1500), "not before");
}

/// The colour of somebody who never said what it is cannot be known.
#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_that_is_not_known_is_told_so() {
    let mut scene = Scene::new().await;
    let mut config = client(121, &listening(&scene.source).await);
    config.patience.busy = Duration::from_millis(600);
    scene.bearer = start(config).await.expect("starts");
    scene.bearer.wait_ready(1, DEADLINE).await.expect("is in");
    let credentials = Arc::new(scene.credentials(scene.copy()));
    let refused = scene.bearer.fetch(scene.source.inner.me, credentials, 0).await.map(|bytes| bytes.len());
    assert!(
        matches!(refused, Err(TransferError::Refused { code: RefusalCode::UnknownBearer, retry_after_ms: 1.. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steward_may_ask_what_is_there_and_get_nothing() {
    let mut scene = Scene::new().await;
    let (at, me) = (scene.source.inner.me, scene.bearer.inner.me);
    scene.also = vec![me];
    let mandate: Arc<[u8]> = scene.mandate().seal(&scene.group.authority).expect("valid").into();
    let pass = |changes: Vec<Certificate>| WatchPass { mandate: mandate.clone(), changes: changes.into() };
    let held = scene.bearer.holding(at, pass(Vec::new()), scene.slot).await;
    assert_eq!(held, Ok(Ordinals::from_iter([0, 1, 2])));
    let beside = scene.bearer.holding(at, pass(Vec::new()), scene.another_slot()).await;
    assert_eq!(beside, Err(no(RefusalCode::WrongColour)));
    let stranger = scene.owner.holding(at, pass(Vec::new()), scene.slot).await;
    assert_eq!(stranger, Err(no(RefusalCode::NotAuthorised)), "whoever is no steward");

    let mut io = raw(&scene.bearer, at).await;
    let shown = Bytes::from(Pass::encode(&mandate, &[]).expect("valid"));
    write(&mut io, FrameKind::OpenWatch, 1, Vec::new(), shown).await;
    assert_eq!(answer(&mut io).await, Some((FrameKind::Opened, None)));
    for (request, (kind, head)) in
        (2..).zip([(FrameKind::Get, scene.get(scene.slot, 0)), (FrameKind::Delete, scene.delete(0))])
    {
        write(&mut io, kind, request, head, Bytes::new()).await;
        assert_eq!(answer(&mut io).await, refused(RefusalCode::NotAuthorised), "SEP-1: {kind:?}");
    }

    // Half of four put another in its place: the one that came may ask, the one that went may not.
    let new = scene.owner.inner.me;
    let change = scene.signed(scene.order(Action::Replace { old: me, new }), &scene.stewards[..2]);
    assert_eq!(scene.owner.holding(at, pass(vec![change.clone()]), scene.slot).await, held);
    let gone = scene.bearer.holding(at, pass(vec![change]), scene.slot).await;
    assert_eq!(gone, Err(no(RefusalCode::NotAuthorised)), "a steward that was replaced");
    let unsigned = scene.signed(scene.order(Action::Replace { old: me, new }), &scene.stewards[..1]);
    let lone = scene.owner.holding(at, pass(vec![unsigned]), scene.slot).await;
    assert_eq!(lone, Err(no(RefusalCode::NotAuthorised)), "one of four is not half");

    let over = Mandate { issued: Timestamp(1), ends: Timestamp(2), ..scene.mandate() };
    let over = over.seal(&scene.group.authority).expect("valid").into();
    let ended = scene.bearer.holding(at, WatchPass { mandate: over, changes: Vec::new().into() }, scene.slot).await;
    assert_eq!(ended, Err(no(RefusalCode::NotAuthorised)), "a mandate that is over");
}
