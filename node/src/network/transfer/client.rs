//! The requester's side: which link to use, opening groups on it, waiting out `Busy`, checking what comes back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cairn_core::part::Credentials;
use cairn_proto::{
    Action, Grant, GroupId, PeerKey, Rights, SHARD_SIZE, Slot, Timestamp,
    message::{self, Receipt},
    signed::SignedBytes,
    wire::{
        DeleteShard, FrameKind, GetShard, HasAnswer, HasShards, OpenGroup, Priority, PutShard, RefusalCode, Refused,
    },
};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};

use super::{
    frame::Frame,
    link::{ClientPatience, Link, LinkError, Opening},
    server::Lane,
};
use crate::{
    courtesy::{Courtesy, Line},
    network::{
        clock,
        command::Command,
        paces::Question,
        streams::{self, Kind, RECONNECT_PAUSE},
    },
    overlay::{GroupAccess, KeptReceipt, ShardAddress, ShardPut, TransferError},
};

/// A grant is good for a day ...
const GRANT_MS: u64 = 24 * 3600 * 1000;
/// ... and from a little before now, because clocks differ.
const GRANT_EARLY_MS: u64 = 5 * 60 * 1000;
/// Shortest and longest wait between two tries at a busy holder, whatever it says.
const BUSY_WAIT: (u64, u64) = (20, 5_000);
/// Links that are remembered; beyond, closed ones are swept. Two for each of some thousand peers.
const LINKS_SWEEP: usize = 2048;

/// Where a lane's link is or will be; whoever dials holds the lock.
type LinkPlace = Arc<tokio::sync::Mutex<Option<Link>>>;

/// Moves shards to and from holders.
pub(crate) struct ShardClient {
    me: PeerKey,
    commands: mpsc::Sender<Command>,
    links: Mutex<HashMap<(PeerKey, Lane), LinkPlace>>,
    patience: ClientPatience,
    courtesy: Option<Courtesy>,
}

/// One request, before it has a link.
struct Request<'a> {
    to: PeerKey,
    group: Access<'a>,
    kind: FrameKind,
    priority: Priority,
    head: Vec<u8>,
    payload: Bytes,
    answer: FrameKind,
}

/// What opens the group for a request.
#[derive(Clone, Copy)]
enum Access<'a> {
    /// A grant of our own.
    Own(&'a GroupAccess),
    /// What others signed: the frame's kind and its payload, with the payload's hash.
    Shown { group: GroupId, kind: FrameKind, pass: &'a Bytes, hash: [u8; 32] },
}

impl<'a> Access<'a> {
    fn shown(group: GroupId, kind: FrameKind, pass: &'a Bytes) -> Self {
        Self::Shown { group, kind, pass, hash: *blake3::hash(pass).as_bytes() }
    }

    fn opening(&self) -> Opening {
        match self {
            Self::Own(access) => (access.ticket.id(), [0; 32]),
            Self::Shown { group, hash, .. } => (*group, *hash),
        }
    }
}

impl ShardClient {
    pub(crate) fn new(
        me: PeerKey,
        commands: mpsc::Sender<Command>,
        patience: ClientPatience,
        courtesy: Option<Courtesy>,
    ) -> Self {
        Self { me, commands, links: Mutex::default(), patience, courtesy }
    }

    /// Waits until so much may be moved. Before a request is made, so that nobody takes our own wait for the other's silence.
    async fn pass(&self, line: fn(&Courtesy) -> &Line, class: Priority, bytes: usize) -> Result<(), TransferError> {
        match &self.courtesy {
            Some(courtesy) => line(courtesy).pass(class, bytes).await.map_err(|_| TransferError::TimedOut),
            None => Ok(()),
        }
    }

    pub(crate) async fn put(
        &self,
        to: PeerKey,
        put: ShardPut,
        priority: Priority,
    ) -> Result<KeptReceipt, TransferError> {
        if put.bytes.len() != SHARD_SIZE {
            return Err(TransferError::Refused { code: RefusalCode::BadRequest, retry_after_ms: 0 });
        }
        let ShardAddress { group, slot, ordinal } = &put.address;
        let head = PutShard {
            group: group.ticket.id().as_bytes().to_vec(),
            slot: slot.as_u8().into(),
            ordinal: (*ordinal).into(),
            root: put.root.as_bytes().to_vec(),
            lease_until: put.lease_until.0,
        };
        let request = Request {
            to,
            group: Access::Own(group),
            kind: FrameKind::Put,
            priority,
            head: head.encode_to_vec(),
            payload: put.bytes.clone(),
            answer: FrameKind::Stored,
        };
        self.pass(Courtesy::up, priority.max(Priority::Normal), SHARD_SIZE).await?;
        let frame = self.ask(&request).await?;
        kept(&frame.head, to, &put)
    }

    /// Bytes of a shard from `offset` on; `length` 0: to the end.
    pub(crate) const fn bytes_of(offset: u32, length: u32) -> usize {
        if length == 0 { SHARD_SIZE.saturating_sub(offset as usize) } else { length as usize }
    }

    /// `question` is told when it goes out, and when the peer does not have it any more.
    pub(crate) async fn get(
        &self,
        from: PeerKey,
        address: ShardAddress,
        offset: u32,
        length: u32,
        priority: Priority,
        question: Option<&Question>,
    ) -> Result<Bytes, TransferError> {
        let head = GetShard {
            group: address.group.ticket.id().as_bytes().to_vec(),
            slot: address.slot.as_u8().into(),
            ordinal: address.ordinal.into(),
            offset,
            length,
        };
        let request = Request {
            to: from,
            group: Access::Own(&address.group),
            kind: FrameKind::Get,
            priority,
            head: head.encode_to_vec(),
            payload: Bytes::new(),
            answer: FrameKind::Data,
        };
        let expected = Self::bytes_of(offset, length);
        self.pass(Courtesy::down, priority.max(Priority::High), expected).await?;
        let frame = self.ask_noting(&request, question).await?;
        if frame.payload.len() != expected {
            return Err(TransferError::Misbehaved(format!("{} bytes instead of {expected}", frame.payload.len())));
        }
        Ok(frame.payload)
    }

    pub(crate) async fn has(
        &self,
        at: PeerKey,
        group: Arc<GroupAccess>,
        slot: Slot,
    ) -> Result<[u8; 32], TransferError> {
        let head = HasShards { group: group.ticket.id().as_bytes().to_vec(), slot: slot.as_u8().into() };
        let request = Request {
            to: at,
            group: Access::Own(&group),
            kind: FrameKind::Has,
            priority: Priority::High,
            head: head.encode_to_vec(),
            payload: Bytes::new(),
            answer: FrameKind::Holding,
        };
        held(&self.ask(&request).await?)
    }

    /// One whole shard of what an order copies, by the new holder that it names.
    pub(crate) async fn fetch(
        &self,
        from: PeerKey,
        credentials: &Credentials,
        ordinal: u8,
    ) -> Result<Bytes, TransferError> {
        let slot = match &credentials.certificate.order.action {
            Action::Copy { slot, .. } => *slot,
            _ => return Err(not_sendable()),
        };
        let group = credentials.certificate.order.group;
        let pass = Bytes::from(credentials.encode().map_err(|_| not_sendable())?);
        let head = GetShard {
            group: group.as_bytes().to_vec(),
            slot: slot.as_u8().into(),
            ordinal: ordinal.into(),
            offset: 0,
            length: 0,
        };
        let urgent = credentials.certificate.order.urgent;
        let priority = match &self.courtesy {
            Some(courtesy) => courtesy.class_of(&group, urgent),
            None if urgent => Priority::Critical,
            None => Priority::Low,
        };
        let request = Request {
            to: from,
            group: Access::shown(group, FrameKind::OpenOrder, &pass),
            kind: FrameKind::Get,
            priority,
            head: head.encode_to_vec(),
            payload: Bytes::new(),
            answer: FrameKind::Data,
        };
        self.pass(Courtesy::down, request.priority, SHARD_SIZE).await?;
        let frame = self.ask(&request).await?;
        if frame.payload.len() != SHARD_SIZE {
            return Err(TransferError::Misbehaved(format!("{} bytes instead of a shard", frame.payload.len())));
        }
        Ok(frame.payload)
    }

    /// What a holder has of a slot, asked by a steward with an encoded [`cairn_core::part::Pass`].
    pub(crate) async fn watched(
        &self,
        at: PeerKey,
        group: GroupId,
        pass: Bytes,
        slot: Slot,
    ) -> Result<[u8; 32], TransferError> {
        let head = HasShards { group: group.as_bytes().to_vec(), slot: slot.as_u8().into() };
        let request = Request {
            to: at,
            group: Access::shown(group, FrameKind::OpenWatch, &pass),
            kind: FrameKind::Has,
            priority: Priority::Normal,
            head: head.encode_to_vec(),
            payload: Bytes::new(),
            answer: FrameKind::Holding,
        };
        held(&self.ask(&request).await?)
    }

    pub(crate) async fn delete(&self, at: PeerKey, address: ShardAddress) -> Result<(), TransferError> {
        let head = DeleteShard {
            group: address.group.ticket.id().as_bytes().to_vec(),
            slot: address.slot.as_u8().into(),
            ordinal: address.ordinal.into(),
        };
        let request = Request {
            to: at,
            group: Access::Own(&address.group),
            kind: FrameKind::Delete,
            priority: Priority::Normal,
            head: head.encode_to_vec(),
            payload: Bytes::new(),
            answer: FrameKind::Deleted,
        };
        self.ask(&request).await.map(|_| ())
    }

    async fn ask(&self, request: &Request<'_>) -> Result<Frame, TransferError> {
        self.ask_noting(request, None).await
    }

    /// Asks, waits out `Busy` and that we are not known yet within patience, and tells the peer book how it went.
    async fn ask_noting(&self, request: &Request<'_>, question: Option<&Question>) -> Result<Frame, TransferError> {
        let give_up = Instant::now() + self.patience.busy;
        let result = loop {
            question.inspect(|question| question.goes_out());
            let result = self.ask_once(request).await;
            let Err(TransferError::Refused { code: RefusalCode::Busy | RefusalCode::UnknownBearer, retry_after_ms }) =
                &result
            else {
                break result;
            };
            question.inspect(|question| question.refused());
            let said = Duration::from_millis(*retry_after_ms);
            let pause = said.clamp(Duration::from_millis(BUSY_WAIT.0), Duration::from_millis(BUSY_WAIT.1));
            // Whoever is paused says so at once, and others have it too.
            if Instant::now() + pause.max(said) > give_up {
                break result;
            }
            tokio::time::sleep(pause).await;
        };
        let served = matches!(result, Ok(_) | Err(TransferError::Refused { .. }));
        // Only a statistic: when the owner is busy it is not worth waiting for.
        let _ = self.commands.try_send(Command::Served { peer: request.to, served });
        result
    }

    /// One try, with one fresh link when the stream broke and one fresh opening when the holder forgot the group.
    async fn ask_once(&self, request: &Request<'_>) -> Result<Frame, TransferError> {
        let mut reopened = false;
        let mut reconnected = false;
        loop {
            let link = self.link(request.to, request.priority.into()).await?;
            let asked = async {
                if let Err(refused) = self.open_group(&link, request).await? {
                    return Ok(Err(refused));
                }
                let frame =
                    link.ask(request.kind, request.priority, request.head.clone(), request.payload.clone()).await?;
                Ok::<_, LinkError>(expect(frame, request.answer))
            };
            match asked.await {
                Ok(Err(TransferError::Refused { code: RefusalCode::NotAuthorised, .. })) if !reopened => {
                    reopened = true;
                    link.groups().await.forget(&request.group.opening());
                }
                Ok(done) => return done,
                Err(LinkError::TimedOut) => return Err(TransferError::TimedOut),
                Err(LinkError::Broken(_)) if !reconnected => {
                    reconnected = true;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                Err(LinkError::Broken(why)) => return Err(TransferError::Unreachable(why)),
            }
        }
    }

    /// Shows ticket and grant, or what others signed, once on each stream.
    async fn open_group(&self, link: &Link, request: &Request<'_>) -> Result<Result<(), TransferError>, LinkError> {
        let opening = request.group.opening();
        let mut groups = link.groups().await;
        if groups.is_open(&opening) {
            return Ok(Ok(()));
        }
        let (kind, head, payload) = match request.group {
            Access::Own(access) => {
                let grant = grant(access, request.to, self.me, Rights::OWNER, clock());
                let open = OpenGroup { ticket: access.ticket.encode().to_vec(), grant };
                (FrameKind::Open, open.encode_to_vec(), Bytes::new())
            }
            Access::Shown { kind, pass, .. } => (kind, Vec::new(), pass.clone()),
        };
        let frame = link.ask(kind, request.priority, head, payload).await?;
        match expect(frame, FrameKind::Opened) {
            Ok(_) => groups.opened(opening),
            Err(error) => return Ok(Err(error)),
        }
        Ok(Ok(()))
    }

    /// The live link of a lane, or a new one. Those who want the same lane wait for one dial.
    async fn link(&self, to: PeerKey, lane: Lane) -> Result<Link, TransferError> {
        let place = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            if links.len() >= LINKS_SWEEP {
                links.retain(|_, link| Arc::strong_count(link) > 1 || link.try_lock().is_ok_and(|l| is_live(&l)));
            }
            links.entry((to, lane)).or_default().clone()
        };
        let mut place = place.lock().await;
        if let Some(link) = place.as_ref()
            && !link.is_closed()
        {
            return Ok(link.clone());
        }
        let stream = streams::open(&self.commands, to, Kind::Shard, self.patience.open).await?;
        let meter = self.courtesy.as_ref().map(|courtesy| courtesy.meter().clone());
        Ok(place.insert(Link::start(stream, self.patience, meter)).clone())
    }
}

/// A group's leave for us at a peer, made out by its owner.
pub(crate) fn grant(access: &GroupAccess, holder: PeerKey, bearer: PeerKey, rights: Rights, now: Timestamp) -> Vec<u8> {
    let grant = Grant {
        group: access.ticket.id(),
        holder,
        bearer,
        rights,
        not_before: Timestamp(now.0.saturating_sub(GRANT_EARLY_MS)),
        expires: now.plus_ms(GRANT_MS),
    };
    grant.seal(&access.authority).to_vec()
}

/// What we were given by others and cannot pass on.
fn not_sendable() -> TransferError {
    TransferError::Refused { code: RefusalCode::BadRequest, retry_after_ms: 0 }
}

fn held(frame: &Frame) -> Result<[u8; 32], TransferError> {
    message::decode::<HasAnswer>(&frame.head, "holding")
        .ok()
        .and_then(|answer| answer.ordinals.try_into().ok())
        .ok_or_else(|| TransferError::Misbehaved("its list of shards is not readable".into()))
}

/// What a holder says it keeps, when that is what it was given and it has signed so.
fn kept(receipt: &[u8], holder: PeerKey, put: &ShardPut) -> Result<KeptReceipt, TransferError> {
    let lied = |why: &str| TransferError::Misbehaved(why.to_owned());
    let signed = SignedBytes::decode(receipt).map_err(|_| lied("its receipt is not readable"))?;
    let receipt = Receipt::open(&signed).map_err(|e| lied(&e.to_string()))?;
    let says = (receipt.holder, receipt.group, receipt.slot, receipt.ordinal, receipt.root);
    let ShardAddress { group, slot, ordinal } = &put.address;
    if says != (holder, group.ticket.id(), *slot, *ordinal, put.root) {
        return Err(lied("its receipt is for something else"));
    }
    if receipt.lease_until < put.lease_until {
        return Err(lied("its receipt promises less time than was asked for"));
    }
    Ok(KeptReceipt { receipt, signed })
}

fn is_live(link: &Option<Link>) -> bool {
    link.as_ref().is_some_and(|l| !l.is_closed())
}

/// Turns a refusal into an error and anything unexpected into an accusation.
fn expect(frame: Frame, kind: FrameKind) -> Result<Frame, TransferError> {
    if frame.kind == kind {
        return Ok(frame);
    }
    if frame.kind != FrameKind::Refused {
        return Err(TransferError::Misbehaved(format!("{:?} where {kind:?} was due", frame.kind)));
    }
    let refused: Refused =
        message::decode(&frame.head, "refusal").map_err(|e| TransferError::Misbehaved(e.to_string()))?;
    Err(TransferError::Refused { code: refused.code(), retry_after_ms: refused.retry_after_ms })
}

#[cfg(test)]
mod tests;
