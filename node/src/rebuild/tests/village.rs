//! A group, its holders as real nodes, and an order to rebuild one of its slots.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use cairn_core::{
    colour::{colour, may_hold},
    erasure::Codec,
    part::{Credentials, Task, may_take},
    stripe::root_of,
};
use cairn_proto::{
    Action, Certificate, CodeParams, Committee, Domain, GroupTicket, Mandate, Order, Ordinals, PeerKey, Powers,
    SHARD_SIZE, SheetRow, Slot, SlotSheet, Timestamp, message::Roles, network_file::NetworkFile,
};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    super::{ledger::Ledger, *},
    lines::{Kind, Lines},
};
use crate::{
    identity::Identity,
    network::{self, ClientPatience, NetworkConfig, NetworkHandle, Waits, clock, keeper::memory::MemoryKeeper},
    store::NewShard,
};

/// For what must happen: so long that only what never happens takes longer, however busy the machine is.
pub(super) const DEADLINE: Duration = Duration::from_secs(180);
/// Longer than a test goes on.
pub(super) const FOR_EVER: Duration = Duration::from_secs(600);

/// Nobody is given up because this machine is busy.
pub(super) const PATIENT: Patience = Patience {
    open: FOR_EVER,
    first: FOR_EVER,
    answer: FOR_EVER,
    stall: FOR_EVER,
    busy: FOR_EVER,
    spare: FOR_EVER,
    silent: FOR_EVER,
    lost: Duration::from_secs(24 * 3600),
};

pub(super) fn slot(index: usize) -> Slot {
    Slot::new(index as u8).expect("a slot")
}

/// What a village is like.
pub(super) struct Plan {
    pub(super) code: CodeParams,
    /// Which slot is lost.
    pub(super) lost: usize,
    /// The order's helpers, by slot, in its order.
    pub(super) helpers: Vec<usize>,
    /// How many data shards each stripe really has, by ordinal.
    pub(super) used: Vec<usize>,
    /// What lines are like, by slot; the new holder's is the lost one.
    pub(super) lines: Box<dyn Fn(usize) -> Kind>,
    /// How patient nodes are, by slot.
    pub(super) patience: Box<dyn Fn(usize) -> Patience>,
    /// Slots whose holders have wrong bytes on their disks.
    pub(super) rotten: Vec<usize>,
}

impl Plan {
    pub(super) fn new(code: CodeParams, lost: usize, helpers: &[usize], used: &[usize]) -> Self {
        Self {
            code,
            lost,
            helpers: helpers.to_vec(),
            used: used.to_vec(),
            lines: Box::new(|_| Kind::default()),
            patience: Box::new(|_| PATIENT),
            rotten: Vec::new(),
        }
    }
}

/// One node.
pub(super) struct Node {
    pub(super) handle: NetworkHandle,
    pub(super) keeper: Arc<MemoryKeeper>,
    pub(super) rebuild: Rebuild,
    pub(super) domain: Domain,
    pub(super) key: SigningKey,
    pub(super) peer: PeerKey,
    pub(super) kind: Kind,
    _stop: tokio_util::sync::DropGuard,
}

/// The group and its nodes, by slot.
pub(super) struct Village {
    pub(super) ticket: GroupTicket,
    pub(super) lost: Slot,
    pub(super) nodes: BTreeMap<usize, Node>,
    pub(super) helpers: Vec<(Slot, PeerKey)>,
    /// By ordinal, then slot.
    pub(super) shards: Vec<Vec<Bytes>>,
    pub(super) sheet: SlotSheet,
}

fn file() -> NetworkFile {
    NetworkFile::create("rebuilds", 0, &SigningKey::from_bytes(&[1; 32])).expect("valid")
}

pub(super) fn authority() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

fn steward() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// An operator whose domain has this colour.
pub(super) fn domain_of(ticket: &GroupTicket, of: Slot) -> Domain {
    let names = (0..).map(|n| Domain::operator(&format!("op{n}")).expect("valid"));
    names.into_iter().find(|domain| may_hold(ticket, domain, of)).expect("one of many")
}

pub(super) async fn start_node(
    seed: u64,
    domain: &Domain,
    keeper: &Arc<MemoryKeeper>,
    door: &[String],
) -> (NetworkHandle, SigningKey) {
    let mut network = file();
    network.bootstrap = door.to_vec();
    let identity = Identity::from_seed(blake3::hash(&seed.to_le_bytes()).as_bytes());
    let key = identity.signing_key().clone();
    let mut config = NetworkConfig::client(network, identity, domain.clone(), [seed as u8; 32]);
    config.lan.allow_private = true;
    config.roles = Roles::STORAGE.with(Roles::BOOTSTRAP);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("address")];
    config.store = Some(keeper.clone());
    config.waits = Waits {
        dial: FOR_EVER,
        question: FOR_EVER,
        lookup: FOR_EVER,
        walk: FOR_EVER,
        head: FOR_EVER,
        dht: FOR_EVER,
        late: DEADLINE,
    };
    config.patience = ClientPatience {
        progress: DEADLINE,
        request: FOR_EVER,
        open: FOR_EVER,
        busy: DEADLINE,
        ..ClientPatience::default()
    };
    let node = network::start(config).await.expect("starts");
    let mut reach = node.reach();
    let settled = reach.wait_for(|reach| reach.pending == 0 && !reach.addresses.is_empty());
    tokio::time::timeout(DEADLINE, settled).await.expect("listens in time").expect("running");
    (node, key)
}

impl Village {
    pub(super) async fn start(plan: Plan) -> Self {
        let public = authority().verifying_key().to_bytes();
        let colours = plan.code.slots() as u8 + 1;
        let ticket = GroupTicket::new(public, [5; 32], plan.code, colours).expect("valid");
        let codec = Codec::new(plan.code);
        let shards: Vec<Vec<Bytes>> =
            plan.used.iter().enumerate().map(|(at, used)| stripe(&codec, at, *used)).collect();
        let mut nodes = BTreeMap::new();
        let mut door: Vec<String> = Vec::new();
        for at in plan.helpers.iter().copied().chain([plan.lost]) {
            let (domain, keeper) = (domain_of(&ticket, slot(at)), Arc::new(MemoryKeeper::default()));
            let (handle, key) = start_node(at as u64 + 10, &domain, &keeper, &door).await;
            if door.is_empty() {
                door = handle.dial_addresses().await.expect("running").iter().map(ToString::to_string).collect();
            }
            for (ordinal, (stripe, used)) in shards.iter().zip(&plan.used).enumerate() {
                if at == plan.lost || (*used..plan.code.data()).contains(&at) {
                    continue;
                }
                let mut bytes = stripe[at].to_vec();
                bytes[70_000] ^= u8::from(plan.rotten.contains(&at));
                let shard = NewShard {
                    group: ticket.id(),
                    slot: slot(at),
                    ordinal: ordinal as u8,
                    root: root_of(&bytes),
                    lease_until: clock().plus_ms(1_000_000),
                    bytes: bytes.into(),
                };
                keeper.put(shard).await.expect("stored");
            }
            let kind = (plan.lines)(at);
            let net = Lines { handle: handle.clone(), kind: kind.clone() };
            let rebuild = Rebuild::new(Setup {
                net: Arc::new(net),
                keeper: keeper.clone(),
                key: key.clone(),
                ledger: Ledger::in_memory(),
                patience: (plan.patience)(at),
            });
            let (me, its) = (RebuildNet::me(&handle), kind.clone());
            let arrivals = handle
                .rebuild_arrivals()
                .await
                .expect("running")
                .map(move |Arrival { from, pipe }| Arrival { from, pipe: its.wrap(me, from, pipe, false) });
            let stop = CancellationToken::new();
            tokio::spawn(rebuild.clone().serve(arrivals.boxed(), stop.clone()));
            let peer = RebuildNet::me(&handle);
            let node = Node { handle, keeper, rebuild, domain, key, peer, kind, _stop: stop.drop_guard() };
            nodes.insert(at, node);
        }
        for node in nodes.values() {
            node.handle.wait_ready(plan.helpers.len(), DEADLINE).await.expect("knows the others");
        }
        let rows = shards.iter().zip(&plan.used).enumerate();
        let rows = rows.map(|(ordinal, (stripe, used))| SheetRow {
            ordinal: ordinal as u8,
            used: *used as u8,
            root: root_of(&stripe[plan.lost]),
        });
        let lost = slot(plan.lost);
        let sheet = SlotSheet {
            group: ticket.id(),
            slot: lost,
            generation: 1,
            holders: Vec::new(),
            rows: rows.collect(),
            leans: false,
        };
        let helpers = plan.helpers.iter().map(|at| (slot(*at), nodes[at].peer)).collect();
        Self { ticket, lost, nodes, helpers, shards, sheet }
    }

    pub(super) fn new_holder(&self) -> &Node {
        &self.nodes[&self.lost.index()]
    }

    /// An order for the new holder, good from now for an hour.
    pub(super) fn credentials(&self) -> Credentials {
        let ordinals: Ordinals = (0..self.shards.len() as u8).collect();
        let action =
            Action::Rebuild { slot: self.lost, to: self.new_holder().peer, ordinals, helpers: self.helpers.clone() };
        self.order(action, clock())
    }

    pub(super) fn order(&self, action: Action, issued: Timestamp) -> Credentials {
        let hour = 3_600_000;
        let issued_before = Timestamp(clock().0 - 24 * hour);
        let mandate = Mandate {
            ticket: self.ticket,
            generation: 1,
            stewards: vec![PeerKey::from_bytes(steward().verifying_key().to_bytes())],
            replicas: 1,
            powers: Powers::ALL,
            monthly_bytes: 1 << 30,
            issued: issued_before,
            ends: issued_before.plus_ms(300 * 24 * hour),
        };
        let order = Order {
            group: self.ticket.id(),
            generation: 1,
            committee: *Committee::of(&mandate).id(),
            nonce: [6; 16],
            issued,
            expires: issued.plus_ms(hour),
            urgent: false,
            action,
        };
        let vote = order.sign(&steward()).expect("valid");
        let certificate = Certificate::new(order, [(mandate.stewards[0], vote)]);
        Credentials { mandate: mandate.seal(&authority()).expect("valid"), changes: Vec::new(), certificate }
    }

    pub(super) fn sealed_sheet(&self) -> Vec<u8> {
        self.sheet.seal(&authority()).expect("valid")
    }

    pub(super) fn task(&self, credentials: &Credentials) -> Task {
        let to = self.new_holder();
        may_take(credentials, &self.sealed_sheet(), &to.peer, &to.domain, None, (&BTreeSet::new(), clock()))
            .expect("its own colour")
    }

    /// What the new holder gets.
    pub(super) async fn rebuild(&self, ordinal: u8) -> Result<Bytes, Failure> {
        self.rebuild_under(&self.credentials(), ordinal).await
    }

    /// The same under one order of several stripes.
    pub(super) async fn rebuild_under(&self, credentials: &Credentials, ordinal: u8) -> Result<Bytes, Failure> {
        let task = Arc::new(self.task(credentials));
        let rebuilt = self.new_holder().rebuild.rebuild(Arc::new(credentials.clone()), task, ordinal);
        tokio::time::timeout(DEADLINE, rebuilt).await.expect("in time")
    }

    /// Slots of whose holders the new holder says, after an order, that they lied.
    pub(super) async fn named(&self, credentials: &Credentials) -> Vec<usize> {
        let order = credentials.certificate.order.id().expect("valid");
        let named = self.new_holder().rebuild.named(&order).await.unwrap_or_default();
        let is_named = |(at, node): (&usize, &Node)| named.contains(&node.peer).then_some(*at);
        self.nodes.iter().filter_map(is_named).collect()
    }

    /// The shard that was lost.
    pub(super) fn lost_shard(&self, ordinal: u8) -> &Bytes {
        &self.shards[usize::from(ordinal)][self.lost.index()]
    }
}

/// A stripe of chance: every slot's shard, virtual ones zero.
fn stripe(codec: &Codec, at: usize, used: usize) -> Vec<Bytes> {
    let mut shards: Vec<Vec<u8>> = (0..used)
        .map(|shard| {
            let mut bytes = vec![0; SHARD_SIZE];
            blake3::Hasher::new().update(&[at as u8, shard as u8]).finalize_xof().fill(&mut bytes);
            bytes
        })
        .collect();
    let parity = codec.parity(&shards).expect("a stripe");
    shards.resize(codec.params().data(), vec![0; SHARD_SIZE]);
    shards.extend(parity);
    shards.into_iter().map(Bytes::from).collect()
}

#[test]
fn domains_have_the_colours_that_tests_want() {
    let public = authority().verifying_key().to_bytes();
    let ticket = GroupTicket::new(public, [5; 32], CodeParams::DEFAULT, 9).expect("valid");
    for of in 0..8 {
        assert_eq!(colour(&ticket, &domain_of(&ticket, slot(of))).index(), of);
    }
}
