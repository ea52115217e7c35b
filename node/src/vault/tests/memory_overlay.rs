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
use cairn_core::{colour, peer_view::PerMille, steward::wire::GroupMap};
use cairn_proto::{Domain, GroupId, PeerKey, ShardRoot, Slot, Timestamp, message::HeadRecord};
use ed25519_dalek::SigningKey;

use crate::overlay::Overlay;

mod answers;
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
    /// Not connected, and honest as soon as anybody dials it.
    Asleep,
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

    /// A dial to a peer: whoever slept does so no more.
    fn dial(&self, peer: &PeerKey) {
        if let Some(peer) = self.world().peers.get_mut(peer).filter(|peer| peer.manner == Manner::Asleep) {
            peer.manner = Manner::Honest;
        }
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

    /// It is new, and so many thousandths of what it offers may be used in a day; one shard at the least.
    pub(super) fn set_newcomer(&self, peer: &PeerKey, quota: PerMille) {
        self.world().peers.get_mut(peer).expect("known peer").quota = Some(quota);
    }

    pub(super) fn shards_of(&self, peer: &PeerKey) -> usize {
        self.world().peers[peer].shards.len()
    }

    /// Bytes of shards sent since the last call.
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
}

/// A /24 for each number.
pub(super) fn subnet(number: u8) -> Domain {
    Domain::of_address(std::net::Ipv4Addr::new(198, number, 7, 1).into()).expect("public")
}

pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_millis() as u64)
}
