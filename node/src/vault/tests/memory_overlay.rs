//! A network in memory, with switches for everything that goes wrong: dead peers, liars, lost and rotten shards, lost
//! heads. Holders enforce colours as real ones do, and a recorder proves SEP-1 and SEP-3 over everything ever
//! offered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cairn_core::{
    colour,
    peer_view::{self, PeerView, PerMille},
    steward::wire::GroupMap,
};
use cairn_proto::{
    ByteSize, Domain, GroupId, PROTOCOL_VERSION, PeerKey, Region, ShardRoot, Slot, Timestamp, VaultKey,
    message::{HeadRecord, Held, Receipt, Roles},
    wire::{Priority, RefusalCode},
};
use ed25519_dalek::SigningKey;
use futures::future::BoxFuture;

use crate::overlay::{
    Challenged, GroupAccess, HeadPublished, KeptReceipt, Overlay, OverlayError, ShardAddress, ShardChallenge, ShardPut,
    StewardError, TransferError,
};

mod audits;
pub(super) mod stewards;

type Place = (GroupId, u8, u8);
type Work = Box<dyn FnOnce() + Send>;

/// How a peer misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    Dead,
    /// Accepts and answers, but every byte that it gives back is wrong.
    Liar,
    /// Refuses every put.
    Full,
    /// Everybody takes it for living, and it answers nothing.
    Vanished,
    /// Accepts and answers, but gives nothing back.
    Mute,
    /// Not connected, and a dial to it takes five seconds and is in vain.
    Away,
    /// Connected, and what is read from it comes after a minute.
    Slow,
}

#[derive(Clone)]
struct Peer {
    key: SigningKey,
    domain: Domain,
    /// Its own one, unless a test says otherwise.
    subnet: Domain,
    manner: Manner,
    shards: BTreeMap<Place, (ShardRoot, Bytes)>,
    /// What it says to have and has not.
    dropped: BTreeSet<Place>,
    /// It is new, and so many thousandths of what it offers may be used in a day.
    quota: Option<PerMille>,
}

#[derive(Clone, Default)]
struct World {
    peers: BTreeMap<PeerKey, Peer>,
    head: Option<HeadRecord>,
    /// What was ever offered to whom: domain, or subnet -> group -> slots.
    offered: BTreeMap<(Domain, GroupId), BTreeSet<u8>>,
    keep_no_heads: bool,
    /// Whoever is offered this slot is full, in every group.
    full_slot: Option<u8>,
    /// Receipts are of one shard each, as of earlier versions.
    terse: bool,
    /// Puts refused because the place has other bytes.
    occupied: u64,
    /// How often each peer was offered a shard of a slot.
    offers: BTreeMap<(GroupId, u8, PeerKey), u64>,
    /// What was left with stewards, how they behave, what they say instead of what they know, and how often they were asked.
    left: BTreeMap<(PeerKey, GroupId), stewards::Left>,
    stewarding: BTreeMap<PeerKey, stewards::Stewarding>,
    lies: BTreeMap<(PeerKey, GroupId), GroupMap>,
    /// Whose next question about a group fails.
    stumbling: BTreeSet<(PeerKey, GroupId)>,
    registered: usize,
    tokens: Vec<(GroupId, stewards::LeftTokens)>,
    maps_asked: usize,
    /// Reads begun at peers that are away, or slow.
    waits: usize,
}

/// The network; clones are the same one.
#[derive(Clone)]
pub(super) struct MemoryOverlay {
    world: Arc<Mutex<World>>,
    me: PeerKey,
    domain: Domain,
    sent: Arc<AtomicU64>,
    fetched: Arc<AtomicU64>,
    /// Puts left until a token fires; `u64::MAX`: never.
    fuse: Arc<AtomicU64>,
    /// Puts do not end any more once the token has fired.
    stall: Arc<std::sync::atomic::AtomicBool>,
    fuse_token: Arc<Mutex<Option<tokio_util::sync::CancellationToken>>>,
    /// Done when the next holder is asked what it has.
    on_question: Arc<Mutex<Option<Work>>>,
    halt: Arc<Halt>,
}

/// Stops the network at its n-th step: from then on no request ends any more.
struct Halt {
    /// Steps left; `u64::MAX`: never.
    steps: AtomicU64,
    /// Tells whoever waits for it.
    reached: tokio::sync::Notify,
    /// Draws how often a step lets others go first; 0: once each time.
    jitter: AtomicU64,
}

impl Default for Halt {
    fn default() -> Self {
        Self { steps: AtomicU64::new(u64::MAX), reached: tokio::sync::Notify::new(), jitter: AtomicU64::new(0) }
    }
}

impl MemoryOverlay {
    /// Reads that were begun at peers that are away, or slow.
    pub(super) fn waits(&self) -> usize {
        self.world().waits
    }

    /// A network of `count` honest peers in domains of their own.
    pub(super) fn new(count: u8) -> Self {
        let this = Self {
            world: Arc::default(),
            me: PeerKey::from_bytes([0xee; 32]),
            domain: Domain::operator("owner").expect("valid"),
            sent: Arc::default(),
            fetched: Arc::default(),
            fuse: Arc::new(AtomicU64::new(u64::MAX)),
            stall: Arc::default(),
            fuse_token: Arc::default(),
            on_question: Arc::default(),
            halt: Arc::default(),
        };
        this.add_peers(0..count);
        this
    }

    /// Adds honest peers in domains and subnets of their own.
    pub(super) fn add_peers(&self, numbers: std::ops::Range<u8>) {
        for i in numbers {
            let key = SigningKey::from_bytes(&[i + 1; 32]);
            let peer = PeerKey::from_bytes(key.verifying_key().to_bytes());
            let domain = Domain::operator(&format!("d{i}")).expect("valid");
            let (shards, dropped) = (BTreeMap::new(), BTreeSet::new());
            let peer_there =
                Peer { key, domain, subnet: subnet(i), manner: Manner::Honest, shards, dropped, quota: None };
            self.world().peers.insert(peer, peer_there);
        }
    }

    /// Moves a peer to the subnet of another.
    pub(super) fn move_to_subnet_of(&self, peer: &PeerKey, other: &PeerKey) {
        let mut world = self.world();
        let subnet = world.peers[other].subnet.clone();
        world.peers.get_mut(peer).expect("known peer").subnet = subnet;
    }

    /// Peers that may hold a slot of a group.
    pub(super) fn coloured(&self, ticket: &cairn_proto::GroupTicket, slot: Slot) -> Vec<PeerKey> {
        let world = self.world();
        let may = |p: &Peer| colour::may_hold(ticket, &p.domain, slot);
        world.peers.iter().filter(|(_, p)| may(p)).map(|(k, _)| *k).collect()
    }

    /// Whether a peer has that shard in its store, dead or not.
    pub(super) fn has(&self, peer: &PeerKey, group: GroupId, slot: u8, ordinal: u8) -> bool {
        self.world().peers.get(peer).is_some_and(|p| p.shards.contains_key(&(group, slot, ordinal)))
    }

    /// Every shard of a stripe in these slots is lost.
    pub(super) fn lose_stripe(&self, group: GroupId, ordinal: u8, slots: std::ops::Range<u8>) {
        for peer in self.world().peers.values_mut() {
            peer.shards.retain(|(g, s, o), _| *g != group || *o != ordinal || !slots.contains(s));
        }
    }

    /// Another peer gets what one has of a slot at these ordinals.
    pub(super) fn copy_shards(&self, from: &PeerKey, to: &PeerKey, group: GroupId, slot: u8, ordinals: &[u8]) {
        let mut world = self.world();
        let wanted = |place: &Place| place.0 == group && place.1 == slot && ordinals.contains(&place.2);
        let shards = world.peers[from].shards.iter().filter(|(place, _)| wanted(place));
        let shards: Vec<_> = shards.map(|(place, shard)| (*place, shard.clone())).collect();
        assert_eq!(shards.len(), ordinals.len(), "it has them");
        world.peers.get_mut(to).expect("known peer").shards.extend(shards);
    }

    /// How often each peer was offered a shard of this slot since the last call.
    pub(super) fn take_offers(&self, group: GroupId, slot: u8) -> BTreeMap<PeerKey, u64> {
        let offers = std::mem::take(&mut self.world().offers).into_iter();
        offers.filter(|((g, s, _), _)| (*g, *s) == (group, slot)).map(|((.., peer), times)| (peer, times)).collect()
    }

    /// Does something when the next holder is asked what it has.
    pub(super) fn on_question(&self, work: impl FnOnce() + Send + 'static) {
        *self.on_question.lock().expect("lock") = Some(Box::new(work));
    }

    /// The same network from here on apart.
    pub(super) fn fork(&self) -> Self {
        let world = self.world().clone();
        Self { world: Arc::new(Mutex::new(world)), ..self.clone() }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics inside")
    }

    pub(super) fn shared(&self) -> Arc<dyn Overlay> {
        Arc::new(self.clone())
    }

    pub(super) fn peer_keys(&self) -> Vec<PeerKey> {
        self.world().peers.keys().copied().collect()
    }

    pub(super) fn set_manner(&self, peer: &PeerKey, manner: Manner) {
        self.world().peers.get_mut(peer).expect("known peer").manner = manner;
    }

    /// Bytes of shards sent since the last call.
    /// It is new, and so many thousandths of what it offers may be used in a day; one shard at the least.
    pub(super) fn set_newcomer(&self, peer: &PeerKey, quota: PerMille) {
        self.world().peers.get_mut(peer).expect("known peer").quota = Some(quota);
    }

    pub(super) fn shards_of(&self, peer: &PeerKey) -> usize {
        self.world().peers[peer].shards.len()
    }

    pub(super) fn take_sent(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }

    /// Bytes of shards fetched since the last call.
    pub(super) fn take_fetched(&self) -> u64 {
        self.fetched.swap(0, Ordering::SeqCst)
    }

    /// Fires the token when that many puts have been done.
    pub(super) fn cancel_after(&self, puts: u64, token: tokio_util::sync::CancellationToken) {
        *self.fuse_token.lock().expect("lock") = Some(token);
        self.fuse.store(puts, Ordering::SeqCst);
    }

    /// Whether puts hang once the token has fired.
    pub(super) fn stall_then(&self, on: bool) {
        self.stall.store(on, Ordering::SeqCst);
    }

    /// Lets every request hang from the n-th step on (a request on its way out, or its answer on its way back), and ends when
    /// that step is reached.
    pub(super) async fn halt_at(&self, step: u64) {
        self.halt.steps.store(step, Ordering::SeqCst);
        self.halt.reached.notified().await;
    }

    /// The network goes on.
    pub(super) fn go_on(&self) {
        self.halt.steps.store(u64::MAX, Ordering::SeqCst);
    }

    /// From now on requests overtake each other as this seed draws.
    pub(super) fn jitter(&self, seed: u64) {
        self.halt.jitter.store(seed | 1, Ordering::SeqCst);
    }

    /// A request goes out, or its answer comes back.
    async fn step(&self) {
        let count = |n: u64| Some(if n == u64::MAX { n } else { n.saturating_sub(1) });
        let left = self.halt.steps.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).unwrap_or_default();
        if left <= 1 {
            self.halt.reached.notify_waiters();
            std::future::pending::<()>().await;
        }
        let drawn = |n: u64| {
            if n == 0 { n } else { n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) }
        };
        let random =
            self.halt.jitter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| Some(drawn(n))).unwrap_or_default();
        for _ in 0..=(random >> 33) % 4 {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn keep_no_heads(&self, on: bool) {
        self.world().keep_no_heads = on;
    }

    /// From now on every holder of this slot refuses puts; with `None` nobody does.
    pub(super) fn fill_slot(&self, slot: Option<u8>) {
        self.world().full_slot = slot;
    }

    pub(super) fn lose_head(&self) {
        self.world().head = None;
    }

    /// Peers that hold shards of a slot, over all groups.
    pub(super) fn holders_of_slot(&self, slot: u8) -> Vec<PeerKey> {
        let world = self.world();
        let holds = |p: &Peer| p.shards.keys().any(|(_, s, _)| *s == slot);
        world.peers.iter().filter(|(_, p)| holds(p)).map(|(k, _)| *k).collect()
    }

    /// Flips a byte in every shard of a peer.
    pub(super) fn rot(&self, peer: &PeerKey) {
        for (_, bytes) in self.world().peers.get_mut(peer).expect("known peer").shards.values_mut() {
            let mut bad = bytes.to_vec();
            bad[12_345] ^= 1;
            *bytes = bad.into();
        }
    }

    /// Loses every shard of a peer.
    pub(super) fn lose_shards(&self, peer: &PeerKey) {
        self.world().peers.get_mut(peer).expect("known peer").shards.clear();
    }

    /// From now on receipts say nothing of what else their holder has.
    pub(super) fn set_terse(&self) {
        self.world().terse = true;
    }

    /// Puts refused so far because the place has other bytes.
    pub(super) fn occupied(&self) -> u64 {
        self.world().occupied
    }

    pub(super) fn shard_count(&self) -> usize {
        self.world().peers.values().map(|p| p.shards.len()).sum()
    }

    /// SEP-1, SEP-3: no domain and no subnet was ever offered two slots of one group, and the owner's own domain nothing.
    pub(super) fn assert_separated(&self) {
        for ((domain, group), slots) in &self.world().offered {
            assert!(slots.len() == 1, "SEP-1, SEP-3: {domain} was offered {slots:?} of group {}", group.short());
            assert!(*domain != self.domain, "SEP-1: the owner's own domain was offered a shard");
        }
    }

    fn view(key: PeerKey, peer: &Peer, at: usize) -> PeerView {
        const REGIONS: [&str; 4] = ["EU/DE/FSN", "EU/FI/HEL", "US/VA/ASH", "AP/SG/SIN"];
        let (reputation, newcomer) = peer_view::standing(Timestamp(0), now(), true, (0, 0));
        PeerView {
            peer: key,
            domain: peer.domain.clone(),
            subnet: Some(peer.subnet.clone()),
            subnet_seen: true,
            region: Region::new(REGIONS[at % REGIONS.len()]).expect("valid"),
            region_basis: cairn_core::region::Basis::Declared,
            network: None,
            roles: Roles::STORAGE,
            protocol: PROTOCOL_VERSION,
            give: ByteSize(1 << 40),
            free: ByteSize(1 << 40),
            first_seen: Timestamp(0),
            last_heard: now(),
            reachable: Some(peer.manner != Manner::Dead),
            rtt_ms: Some(1),
            loss: 0,
            reputation,
            newcomer: newcomer || peer.quota.is_some(),
        }
    }

    fn access<T>(
        &self,
        peer: PeerKey,
        work: impl FnOnce(&mut Peer) -> Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        let mut world = self.world();
        let found = world.peers.get_mut(&peer).ok_or(TransferError::Unreachable("unknown".to_owned()))?;
        if matches!(found.manner, Manner::Dead | Manner::Vanished) {
            return Err(TransferError::Unreachable("dead".to_owned()));
        }
        work(found)
    }
}

/// A /24 for each number.
pub(super) fn subnet(number: u8) -> Domain {
    Domain::of_address(std::net::Ipv4Addr::new(198, number, 7, 1).into()).expect("public")
}

pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_millis() as u64)
}

fn refused(code: RefusalCode) -> TransferError {
    TransferError::Refused { code, retry_after_ms: 0 }
}

impl Overlay for MemoryOverlay {
    fn me(&self) -> PeerKey {
        self.me
    }

    fn my_domain(&self) -> Domain {
        self.domain.clone()
    }

    fn quota(&self, peer: &PeerKey, _: Timestamp) -> PerMille {
        self.world().peers[peer].quota.unwrap_or(1000)
    }

    fn peers(&self, _refresh: bool) -> BoxFuture<'_, Result<Vec<PeerView>, OverlayError>> {
        Box::pin(async move {
            self.step().await;
            let views: Vec<_> =
                self.world().peers.iter().enumerate().map(|(at, (key, peer))| Self::view(*key, peer, at)).collect();
            if views.is_empty() { Err(OverlayError::NoPeers("nobody".to_owned())) } else { Ok(views) }
        })
    }

    fn is_connected(&self, peer: &PeerKey) -> bool {
        self.world().peers.get(peer).is_some_and(|peer| peer.manner != Manner::Away)
    }

    fn put_shard(
        &self,
        to: PeerKey,
        put: ShardPut,
        _priority: Priority,
    ) -> BoxFuture<'_, Result<KeptReceipt, TransferError>> {
        Box::pin(async move {
            self.step().await;
            let ticket = put.address.group.ticket;
            let (group, slot, ordinal) = (ticket.id(), put.address.slot, put.address.ordinal);
            assert_eq!(put.bytes.len(), cairn_proto::SHARD_SIZE);
            assert_eq!(put.root.as_bytes(), blake3::hash(&put.bytes).as_bytes());
            {
                let mut world = self.world();
                *world.offers.entry((group, slot.as_u8(), to)).or_default() += 1;
                let peer = world.peers.get(&to).expect("puts go to known peers");
                for who in [peer.domain.clone(), peer.subnet.clone()] {
                    world.offered.entry((who, group)).or_default().insert(slot.as_u8());
                }
            }
            let full = self.world().full_slot == Some(slot.as_u8());
            let terse = self.world().terse;
            let receipt = self.access(to, |peer| {
                if !colour::may_hold(&ticket, &peer.domain, slot) {
                    return Err(refused(RefusalCode::WrongColour));
                }
                if full || peer.manner == Manner::Full {
                    return Err(refused(RefusalCode::NoSpace));
                }
                let kept =
                    peer.shards.entry((group, slot.as_u8(), ordinal)).or_insert_with(|| (put.root, put.bytes.clone()));
                if kept.0 != put.root {
                    return Err(refused(RefusalCode::Occupied));
                }
                let own = peer.shards.iter().filter(|((of, at, _), _)| (*of, *at) == (group, slot.as_u8()));
                let all: Vec<_> = own.map(|((.., ordinal), (root, _))| (*ordinal, *root, put.lease_until)).collect();
                let receipt = Receipt {
                    holder: to,
                    group,
                    slot,
                    ordinal,
                    root: put.root,
                    lease_until: put.lease_until,
                    stored_at: now(),
                    held: (!terse).then(|| Held::of(&all)),
                };
                Ok(KeptReceipt { receipt, signed: receipt.seal(&peer.key) })
            });
            if matches!(receipt, Err(TransferError::Refused { code: RefusalCode::Occupied, .. })) {
                self.world().occupied += 1;
            }
            let receipt = receipt?;
            // The receipt is on its way: whoever gives up here has a shard there and does not know it.
            self.step().await;
            self.sent.fetch_add(put.bytes.len() as u64, Ordering::SeqCst);
            if self.fuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                Some(if n == u64::MAX { n } else { n.saturating_sub(1) })
            }) == Ok(1)
                && let Some(token) = &*self.fuse_token.lock().expect("lock")
            {
                token.cancel();
            }
            if self.stall.load(Ordering::SeqCst) && self.fuse.load(Ordering::SeqCst) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(receipt)
        })
    }

    fn get_shard(
        &self,
        from: PeerKey,
        address: ShardAddress,
        offset: u32,
        length: u32,
        _priority: Priority,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        Box::pin(async move {
            self.step().await;
            let place = (address.group.ticket.id(), address.slot.as_u8(), address.ordinal);
            if !self.is_connected(&from) {
                self.world().waits += 1;
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                return Err(TransferError::Unreachable("a dial in vain".to_owned()));
            }
            if self.world().peers.get(&from).is_some_and(|peer| peer.manner == Manner::Slow) {
                self.world().waits += 1;
                tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            }
            let bytes = self.access(from, |peer| {
                if peer.manner == Manner::Mute {
                    return Err(refused(RefusalCode::Busy));
                }
                let (_, bytes) = peer.shards.get(&place).ok_or(refused(RefusalCode::NotFound))?;
                let end = if length == 0 { bytes.len() } else { (offset + length) as usize };
                let mut part = bytes.slice(offset as usize..end);
                if peer.manner == Manner::Liar {
                    part = part.iter().map(|b| b ^ 0x55).collect::<Vec<_>>().into();
                }
                Ok(part)
            })?;
            self.fetched.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            Ok(bytes)
        })
    }

    fn has_shards(
        &self,
        at: PeerKey,
        group: Arc<GroupAccess>,
        slot: Slot,
    ) -> BoxFuture<'_, Result<[u8; 32], TransferError>> {
        Box::pin(async move {
            self.step().await;
            let id = group.ticket.id();
            if let Some(work) = self.on_question.lock().expect("lock").take() {
                work();
            }
            self.access(at, |peer| {
                let mut bits = [0u8; 32];
                for (_, _, ordinal) in
                    peer.shards.keys().chain(&peer.dropped).filter(|(g, s, _)| *g == id && *s == slot.as_u8())
                {
                    bits[usize::from(*ordinal / 8)] |= 1 << (ordinal % 8);
                }
                Ok(bits)
            })
        })
    }

    fn delete_shard(&self, at: PeerKey, address: ShardAddress) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(async move {
            let place = (address.group.ticket.id(), address.slot.as_u8(), address.ordinal);
            self.access(at, |peer| peer.shards.remove(&place).map(|_| ()).ok_or(refused(RefusalCode::NotFound)))
        })
    }

    fn challenge(&self, at: PeerKey, about: ShardChallenge) -> BoxFuture<'_, Result<Challenged, TransferError>> {
        Box::pin(self.holder_answers(at, about))
    }

    fn register_group(&self, steward: PeerKey, record: Vec<u8>) -> BoxFuture<'_, Result<(), StewardError>> {
        Box::pin(self.steward_takes(steward, record))
    }

    fn leave_tokens(
        &self,
        steward: PeerKey,
        group: GroupId,
        own: Vec<u8>,
        spare: Option<Vec<u8>>,
    ) -> BoxFuture<'_, Result<(), StewardError>> {
        Box::pin(self.steward_takes_tokens(steward, group, own, spare))
    }

    fn group_map(
        &self,
        steward: PeerKey,
        group: Arc<GroupAccess>,
    ) -> BoxFuture<'_, Result<Box<GroupMap>, StewardError>> {
        Box::pin(self.steward_tells(steward, group.ticket.id()))
    }

    fn publish_head(&self, vault: VaultKey, encoded: Vec<u8>) -> BoxFuture<'_, Result<HeadPublished, OverlayError>> {
        Box::pin(async move {
            self.step().await;
            let record = HeadRecord::open(&encoded).expect("a head that verifies");
            assert_eq!(record.vault, vault);
            let alive = {
                let mut world = self.world();
                if world.keep_no_heads {
                    return Ok(HeadPublished { kept_by: 0 });
                }
                let alive = world.peers.values().filter(|p| p.manner != Manner::Dead).count();
                if alive == 0 {
                    return Err(OverlayError::NoPeers("all dead".to_owned()));
                }
                if world.head.as_ref().is_none_or(|old| record.supersedes(old)) {
                    world.head = Some(record);
                }
                alive
            };
            self.step().await;
            Ok(HeadPublished { kept_by: alive.min(20) })
        })
    }

    fn find_head(&self, vault: VaultKey) -> BoxFuture<'_, Result<Option<HeadRecord>, OverlayError>> {
        Box::pin(async move {
            self.step().await;
            let world = self.world();
            if world.peers.values().all(|p| p.manner == Manner::Dead) {
                return Err(OverlayError::NoPeers("all dead".to_owned()));
            }
            Ok(world.head.clone().filter(|h| h.vault == vault))
        })
    }
}
