//! A network in memory: peers of every colour, a group with two holders a slot (or one), seven stewards who run, and everybody who may
//! take slot 2 over. Time is the test's: [`Village::step`] moves it and waits until everybody took note.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cairn_core::{
    colour::colour,
    erasure::Codec,
    liveness,
    part::{self, Credentials, Task},
    peer_view::PeerView,
    steward::{Failure, Rhythm, Say, wire::GroupMap},
};
use cairn_proto::{
    Action, Certificate, CodeParams, Committee, Domain, Grant, GroupRecord, GroupTicket, Mandate, Order, Ordinals,
    Powers, Region, Rights, SHARD_SIZE, ShardRoot, SheetRow, Slot, SlotSheet, Timestamp, mandate::MANDATE_MS_MAX,
    message::Roles, wire::RefusalCode,
};

use super::super::{files::tests::TestDisk, *};
use crate::{
    audits::auditor::Auditor,
    holdings::{Held, HeldGroup, Holdings, HoldingsConfig, Watchers},
    overlay::TransferError,
    rebuild::{Arrival, Rebuild},
    stewardship::ports::WatchPass,
    store::{NewShard, StoreError},
};

mod audits;
mod shelf;
mod streams;
mod world;

pub(super) use self::{
    audits::{Lie, Opinions},
    shelf::MemShelf,
    world::World,
};
use self::{
    shelf::{MemHeld, Oracle},
    world::Link,
};

const HOUR: u64 = 3_600_000;
/// Stripes of the group.
pub(super) const STRIPES: u8 = 2;
/// Time of one step: well within every timer below.
const STEP_MS: u64 = 30_000;
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn slot(at: u8) -> Slot {
    Slot::new(at).expect("valid")
}

/// The whole of it.
pub(super) struct Village {
    pub(super) world: Arc<World>,
    pub(super) stewards: Vec<PeerKey>,
    pub(super) record: GroupRecord,
    pub(super) dir: tempfile::TempDir,
    pub(super) disks: BTreeMap<PeerKey, Arc<TestDisk>>,
    /// Of those who rebuild as nodes do; the others look shards up.
    rebuilds: BTreeMap<PeerKey, Rebuild>,
    data: Arc<BTreeMap<(u8, u8), Bytes>>,
}

pub(super) fn authority() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

/// The shards of each stripe, by slot.
fn coded() -> Vec<Vec<Bytes>> {
    let stripe = |ordinal: u8| {
        let mut shards: Vec<Vec<u8>> = (0..3u8).map(|at| vec![at * 16 + ordinal; SHARD_SIZE]).collect();
        let parity = Codec::new(CodeParams::LOW_PEER).parity(&shards).expect("a stripe");
        shards.extend(parity);
        shards.into_iter().map(Bytes::from).collect()
    };
    (0..STRIPES).map(stripe).collect()
}

impl Village {
    /// With so many holders a slot; nobody runs yet.
    pub(super) fn new(replicas: u8) -> Self {
        Self::at(Timestamp(1_000 * HOUR), replicas)
    }

    /// At another time.
    pub(super) fn at(now: Timestamp, replicas: u8) -> Self {
        let public = authority().verifying_key().to_bytes();
        let ticket = GroupTicket::new(public, [5; 32], CodeParams::LOW_PEER, 6).expect("valid");
        let (mut keys, mut domains, mut shelves) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for i in 0..90u8 {
            let key = SigningKey::from_bytes(&[i + 1; 32]);
            let peer = PeerKey::from_bytes(key.verifying_key().to_bytes());
            keys.insert(peer, key);
            domains.insert(peer, Domain::operator(&format!("d{i}")).expect("valid"));
            shelves.insert(peer, Arc::new(MemShelf::default()));
        }
        let world = Arc::new(World {
            ticket,
            keys,
            domains,
            shelves,
            running: Mutex::default(),
            holdings: Mutex::default(),
            now: AtomicU64::new(now.0),
            beats: Mutex::default(),
            last_heard: Mutex::default(),
            away: Mutex::default(),
            visiting: Mutex::default(),
            mute: Mutex::default(),
            said: Mutex::default(),
            fetched: Mutex::default(),
            stuck_from: AtomicU64::new(u64::MAX),
            liars: Mutex::default(),
            auditors: Mutex::default(),
            left_out: Mutex::default(),
            arrivals: Mutex::default(),
            spy: Mutex::default(),
        });
        let of_colour = |class: usize| -> Vec<PeerKey> {
            let is = |(_, domain): &(&PeerKey, &Domain)| colour(&ticket, domain).index() == class;
            world.domains.iter().filter(is).map(|(peer, _)| *peer).collect()
        };
        let stewards: Vec<PeerKey> = of_colour(5).into_iter().take(7).collect();
        let (mut data, stripes) = (BTreeMap::new(), coded());
        let mut sheets = Vec::new();
        for at in 0..5u8 {
            let mut rows = Vec::new();
            let holders: Vec<PeerKey> = of_colour(at.into()).into_iter().take(replicas.into()).collect();
            for ordinal in 0..STRIPES {
                let bytes = stripes[usize::from(ordinal)][usize::from(at)].clone();
                let root = ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes());
                rows.push(SheetRow { ordinal, used: 3, root });
                for holder in &holders {
                    let mut shards = world.shelves[holder].shards.lock().expect("shelf");
                    shards.insert((at, ordinal), (root, bytes.clone()));
                }
                data.insert((at, ordinal), bytes);
            }
            let sheet = SlotSheet { group: ticket.id(), slot: slot(at), generation: 1, holders, rows, leans: false };
            sheets.push(sheet.seal(&authority()).expect("valid"));
        }
        let issued = Timestamp(world.now().0 - HOUR);
        let mandate = Mandate {
            ticket,
            generation: 1,
            stewards: stewards.clone(),
            replicas,
            powers: Powers::ALL,
            monthly_bytes: 1 << 30,
            issued,
            ends: issued.plus_ms(MANDATE_MS_MAX),
        };
        let record = GroupRecord::new(mandate.seal(&authority()).expect("valid"), sheets).expect("whole");
        let dir = tempfile::tempdir().expect("temp");
        let (disks, rebuilds) = (BTreeMap::new(), BTreeMap::new());
        Self { world, stewards, record, dir, disks, rebuilds, data: Arc::new(data) }
    }

    /// With stewards who have the record, and everybody running who may take slot 2 over.
    pub(super) async fn settled(replicas: u8) -> Self {
        Self::new(replicas).settle().await
    }

    pub(super) async fn settle(mut self) -> Self {
        let village = &mut self;
        let replicas = village.record.sheets[2].holders.len();
        let heirs: Vec<PeerKey> = village.of_colour(2).into_iter().skip(replicas).collect();
        for peer in village.stewards.clone().into_iter().chain(heirs) {
            village.start(peer).await;
        }
        let record = village.record.encode();
        for steward in village.stewards.clone() {
            let answer = village.handle(steward, village.holder(0, 0), Request::Register { record: record.clone() });
            assert_eq!(answer.await, Answer::Done);
        }
        self
    }

    pub(super) fn of_colour(&self, class: usize) -> Vec<PeerKey> {
        let is = |(_, domain): &(&PeerKey, &Domain)| colour(&self.world.ticket, domain).index() == class;
        self.world.domains.iter().filter(is).map(|(peer, _)| *peer).collect()
    }

    /// The first holders of a slot.
    pub(super) fn holder(&self, at: u8, which: usize) -> PeerKey {
        self.of_colour(at.into())[which]
    }

    pub(super) fn folder(&self, peer: &PeerKey) -> PathBuf {
        self.dir.path().join(peer.short())
    }

    pub(super) fn timers() -> Timers {
        const MINUTE: u64 = 60_000;
        let real = Duration::from_millis(20);
        Timers {
            liveness: liveness::Timers {
                late_ms: 2 * MINUTE,
                away_ms: 4 * MINUTE,
                server_gone_ms: 8 * MINUTE,
                home_gone_ms: 10 * MINUTE,
                own_outage_ms: 2 * MINUTE,
                ..liveness::Timers::default()
            },
            rhythm: Rhythm {
                look_ms: MINUTE / 2,
                turn_ms: MINUTE / 2,
                vote_ms: 4 * MINUTE,
                pause_ms: MINUTE,
                pause_ms_max: 2 * MINUTE,
                compare_ms: 5 * MINUTE,
                audit_ms: 60 * MINUTE,
                tokens_ms: 10 * 60 * MINUTE,
                ..Rhythm::default()
            },
            audit_answer: Duration::from_mins(5),
            audit_report: Duration::from_mins(10),
            // These are of the runtime's clock.
            probe: real,
            tell: real,
            leave_ask: real,
            save: real,
            ..Timers::default()
        }
    }

    pub(super) async fn start(&mut self, peer: PeerKey) -> Stewardship {
        let folder = self.folder(&peer);
        self.start_in(peer, folder).await
    }

    pub(super) async fn start_in(&mut self, peer: PeerKey, folder: PathBuf) -> Stewardship {
        let (world, stewardship) = (Arc::clone(&self.world), Stewardship::default());
        let clock = Arc::clone(&world);
        let config = StewardshipConfig {
            folder,
            key: world.keys[&peer].clone(),
            domain: world.domains[&peer].clone(),
            shelf: Arc::clone(&world.shelves[&peer]) as Arc<dyn Shelf>,
            timers: Self::timers(),
            upstream: Arc::new(|| 100 << 20),
            clock: Arc::new(move || clock.now()),
            entropy: *peer.as_bytes(),
        };
        let disk = Arc::clone(self.disks.entry(peer).or_default());
        let net = Arc::new(Link { world: Arc::clone(&world), me: peer, beats: true });
        let rebuilder: Arc<dyn Rebuilder> = match self.rebuilds.get(&peer) {
            Some(rebuild) => Arc::new(rebuild.clone()),
            None => Arc::new(Oracle(Arc::clone(&self.data), Arc::clone(&world))),
        };
        stewardship.start_on(config, net, Some(rebuilder), disk).await.expect("starts");
        world.running.lock().expect("running").insert(peer, stewardship.clone());
        stewardship
    }

    /// A holder begins to speak for itself.
    pub(super) async fn speak(&mut self, peer: PeerKey, folder: PathBuf) -> Holdings {
        let (world, holdings) = (Arc::clone(&self.world), Holdings::default());
        let stewardship = world.running.lock().expect("running").get(&peer).cloned().unwrap_or_default();
        let clock = Arc::clone(&world);
        let config = HoldingsConfig {
            folder,
            held: Arc::new(MemHeld(Arc::clone(&world.shelves[&peer]), world.ticket.id())),
            timers: Self::timers(),
            clock: Arc::new(move || clock.now()),
            stewardship,
        };
        holdings
            .start(config, Arc::new(Link { world: Arc::clone(&world), me: peer, beats: false }))
            .await
            .expect("starts");
        world.holdings.lock().expect("holdings").insert(peer, holdings.clone());
        holdings
    }

    /// A steward asks a holder what it has.
    pub(super) async fn asks(&self, steward: PeerKey, holder: PeerKey, of: u8) {
        let link = Link { world: Arc::clone(&self.world), me: steward, beats: false };
        let pass = WatchPass { mandate: Arc::from(self.record.sealed_mandate()), changes: Arc::from(Vec::new()) };
        link.holding(holder, pass, slot(of)).await.expect("reached");
    }

    /// Ends one as a crash does: nothing more is written or said.
    pub(super) async fn stop(&self, peer: &PeerKey) {
        let stopped = self.world.running.lock().expect("running").remove(peer);
        stopped.expect("runs").close().await;
    }

    pub(super) async fn handle(&self, at: PeerKey, from: PeerKey, request: Request) -> Answer {
        let stewardship = self.world.running.lock().expect("running")[&at].clone();
        stewardship.handle(from, request).await
    }

    /// What a steward tells the owner.
    pub(super) async fn map(&self, steward: PeerKey) -> Option<Box<GroupMap>> {
        let owner = self.holder(0, 0);
        let now = self.world.now();
        let grant = Grant {
            group: self.world.ticket.id(),
            holder: steward,
            bearer: owner,
            rights: Rights::GET,
            not_before: Timestamp(now.0 - HOUR),
            expires: now.plus_ms(HOUR),
        };
        let grant = grant.seal(&authority()).to_vec();
        let asked = self.handle(steward, owner, Request::Ask { ticket: self.world.ticket, grant }).await;
        if let Answer::Map(map) = asked { Some(map) } else { None }
    }

    /// Half a minute passes, and everybody takes note of it.
    pub(super) async fn step(&self) {
        self.pass_time();
        self.beats().await;
    }

    /// The clock goes on by a step; nobody has looked at it yet.
    pub(super) fn pass_time(&self) {
        self.world.now.fetch_add(STEP_MS, Ordering::SeqCst);
    }

    /// Everybody who runs, or audits, had two beats: the second began after this was called, and what the first led to has been done.
    pub(super) async fn beats(&self) {
        let mut running: Vec<(PeerKey, bool)> = Vec::new();
        running.extend(self.world.running.lock().expect("running").keys().map(|peer| (*peer, true)));
        running.extend(self.world.auditors.lock().expect("auditors").keys().map(|peer| (*peer, false)));
        let beats =
            |peer: &(PeerKey, bool)| self.world.beats.lock().expect("beats").get(peer).copied().unwrap_or_default();
        let before: Vec<u64> = running.iter().map(beats).collect();
        let all = async {
            while !running.iter().zip(&before).all(|(peer, before)| beats(peer) >= before + 2) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("everybody goes on");
    }

    /// Steps until it is so, for at most a day of this world: on a busy machine an answer misses its deadline in it now and then, and what is
    /// asked again is asked hours later.
    pub(super) async fn until(&self, what: &str, mut so: impl AsyncFnMut(&Self) -> bool) {
        for _ in 0..2880 {
            if so(self).await {
                return;
            }
            self.step().await;
        }
        panic!("never: {what}");
    }

    /// Who has both shards of slot 2 and did not at first.
    pub(super) fn heir(&self) -> Option<PeerKey> {
        let first = self.record.sheets[2].holders.clone();
        let has_all =
            |peer: &PeerKey| self.world.shelves[peer].shards.lock().expect("shelf").len() == usize::from(STRIPES);
        self.of_colour(2).into_iter().find(|peer| !first.contains(peer) && has_all(peer))
    }

    /// An order of all stewards.
    pub(super) fn ordered(&self, nonce: u8, action: Action) -> (Certificate, Request) {
        let now = self.world.now();
        let order = Order {
            group: self.world.ticket.id(),
            generation: 1,
            committee: *Committee::of(&self.record.mandate).id(),
            nonce: [nonce; 16],
            issued: now,
            expires: now.plus_ms(HOUR),
            urgent: false,
            action,
        };
        let votes = self.stewards.iter().map(|peer| (*peer, order.sign(&self.world.keys[peer]).expect("valid")));
        let certificate = Certificate::new(order.clone(), votes);
        let at = order.action.slot().expect("about shards");
        let credentials = Credentials {
            mandate: self.record.sealed_mandate().to_vec(),
            changes: Vec::new(),
            certificate: certificate.clone(),
        };
        let sheet = self.record.sealed_sheet(at).expect("there").to_vec();
        (certificate, Request::Give { credentials: Box::new(credentials), sheet, previous: [0; 32] })
    }

    /// A copy of slot 2 from its second holder.
    pub(super) fn copy_to(&self, to: PeerKey) -> Action {
        Action::Copy { slot: slot(2), from: self.holder(2, 1), to, ordinals: (0..STRIPES).collect() }
    }

    /// The record with a newer mandate.
    pub(super) fn newer_record(&self) -> Vec<u8> {
        let mandate = Mandate { generation: 2, ..self.record.mandate.clone() }.seal(&authority()).expect("valid");
        let sheets = (0..5).map(|at| self.record.sealed_sheet(slot(at)).expect("there").to_vec()).collect();
        GroupRecord::new(mandate, sheets).expect("whole").encode()
    }

    /// Everything that a peer tried to say so far.
    pub(super) fn said_by(&self, who: &PeerKey) -> Vec<Say> {
        let said = self.world.said.lock().expect("said");
        said.iter().filter(|(from, ..)| from == who).map(|(.., say)| say.clone()).collect()
    }

    pub(super) async fn stop_all(&self) {
        let running: Vec<PeerKey> = self.world.running.lock().expect("running").keys().copied().collect();
        for peer in running {
            self.stop(&peer).await;
        }
    }
}
