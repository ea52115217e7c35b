//! Peers that cheat: nodes inside the test's own process that do all else as it should be, and a voice that says anything to everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cairn::{
    courtesy::{Courtesy, CourtesyConfig},
    identity::Identity,
    network::{
        self, NetworkConfig, NetworkHandle,
        keeper::{ShardKeeper as _, memory::MemoryKeeper},
    },
    standing::{Standings, ports::Witness as _},
    stewardship::ports::StewardService,
    timers::Timers,
};
use cairn_core::{
    audit::respond,
    courtesy::timetable::{Speed, Timetable},
    reputation::Observed,
    steward::wire::{Answer, Questioned, Refusal, Request},
};
use cairn_proto::{
    ByteSize, CodeParams, Domain, GroupId, GroupTicket, PeerKey, Region, ShardRoot, Slot, Timestamp,
    audit::{
        Answer as AuditAnswer, Challenge, Evidence, Found, Matter, Response, SLICE_SIZE, SilenceReport, VerdictKind,
        Vote, Way, spread::Spread,
    },
    message::{Advert, Roles},
    network_file::NetworkFile,
    signed::SignedBytes,
    wire::RefusalCode,
};
use ed25519_dalek::SigningKey;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, gossipsub, identity, noise, swarm::SwarmEvent, tcp, yamux};
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::{harness::Lab, separation::network_of};

const DEADLINE: Duration = Duration::from_secs(60);
/// How long somebody is tried to be heard.
const SAID_WITHIN: Duration = Duration::from_secs(2);

pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_millis() as u64)
}

/// An identity for each name.
pub fn identity(network: &NetworkFile, name: &str) -> Identity {
    let seed = *blake3::hash(name.as_bytes()).as_bytes();
    Identity::generate(network, &mut ChaCha20Rng::from_seed(seed))
}

/// What a rogue says when it is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audited {
    /// It signs slices of something else.
    Lies,
    /// Nothing that can be used, though it is there.
    Hides,
    /// What it has it shows; of what it dropped ([`Rogue::drops`]) it says nothing.
    Drops,
}

struct Desk {
    key: SigningKey,
    how: Audited,
    keeper: Arc<MemoryKeeper>,
    /// All that it has once it dropped something.
    kept: Mutex<BTreeMap<(GroupId, u8), Bytes>>,
    /// Slots of which peers of their colour asked it for leaves.
    audited: Mutex<BTreeSet<(GroupId, Slot)>>,
    /// ... and of which stewards asked for a digest.
    digested: Mutex<BTreeSet<(GroupId, Slot)>>,
    /// Groups of which it has nothing and signs digests that it made up.
    made_up: Mutex<BTreeSet<GroupId>>,
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    fn lies(&self, asked: &Questioned) -> Answer {
        let challenge = Challenge::open(&asked.challenge).expect("auditors sign");
        let slices = vec![vec![0x5a; SLICE_SIZE]; usize::from(challenge.slices)];
        let found = Found::Slices(slices.iter().map(|slice| *blake3::hash(slice).as_bytes()).collect());
        self.signed(asked, found, slices)
    }

    async fn shows(&self, questioned: &Questioned) -> Answer {
        let challenge = Challenge::open(&questioned.challenge).expect("auditors sign");
        let Challenge { group, slot, ordinal, way, .. } = challenge;
        let asked = if way == Way::Slices { &self.audited } else { &self.digested };
        locked(asked).insert((group, slot));
        if way == Way::Digest && locked(&self.made_up).contains(&group) {
            return self.signed(questioned, Found::Digest([0x5a; 32]), Vec::new());
        }
        let kept = locked(&self.kept).get(&(group, ordinal)).cloned();
        let bytes = match kept {
            Some(bytes) => Some(bytes),
            None => self.keeper.get(group, slot, ordinal, 0, 0).await.ok(),
        };
        // To sign that it is gone would be an admission.
        let Some(bytes) = bytes else { return Answer::Refused(Refusal::Forged) };
        let (found, slices) = respond(Some(&bytes), &challenge);
        self.signed(questioned, found, slices)
    }

    fn signed(&self, asked: &Questioned, found: Found, slices: Vec<Vec<u8>>) -> Answer {
        let holder = PeerKey::from_bytes(self.key.verifying_key().to_bytes());
        let answer = AuditAnswer { holder, challenge: Challenge::id(&asked.challenge), previous: None, found };
        Answer::Audit(Response { answer: Some(answer.seal(&self.key)), slices }.encode_to_vec())
    }
}

impl StewardService for Desk {
    fn handle(&self, _: PeerKey, request: Request) -> BoxFuture<'_, Answer> {
        async move {
            match (request, self.how) {
                (Request::Challenge(asked), Audited::Lies) => self.lies(&asked),
                (Request::Challenge(_), Audited::Hides) => Answer::Refused(Refusal::Forged),
                (Request::Challenge(asked), Audited::Drops) => self.shows(&asked).await,
                _ => Answer::Refused(Refusal::NotSteward),
            }
        }
        .boxed()
    }
}

/// A node of a lab's network in this process: it stores, and cheats as it is told.
pub struct Rogue {
    pub handle: NetworkHandle,
    pub keeper: Arc<MemoryKeeper>,
    pub standings: Standings,
    pub key: SigningKey,
    desk: Arc<Desk>,
}

impl Rogue {
    /// Starts it, and waits until it knows the lab.
    pub async fn join(lab: &Lab, name: &str, domain: &str, how: Audited, scale: &str) -> Self {
        Self::join_with(lab, name, domain, how, scale, None).await
    }

    /// One that says the truth in audits and gives to all who read so many bytes in a second, fewer than the program can be told to.
    pub async fn join_slow(lab: &Lab, name: &str, domain: &str, scale: &str, bytes_a_second: u64) -> Self {
        let timetable = Timetable::new(Speed::Limited(bytes_a_second), Speed::Free, Vec::new());
        let line = Courtesy::start(CourtesyConfig::new(timetable, None));
        Self::join_with(lab, name, domain, Audited::Drops, scale, Some(line)).await
    }

    async fn join_with(lab: &Lab, name: &str, domain: &str, how: Audited, scale: &str, line: Option<Courtesy>) -> Self {
        let network = network_of(lab);
        let identity = identity(&network, name);
        let key = identity.signing_key().clone();
        let timers = Timers::new(&Default::default(), scale.parse().ok()).expect("valid");
        let clock: Arc<dyn Fn() -> Timestamp + Send + Sync> = Arc::new(now);
        let standings = Standings::in_memory(key.clone(), network.clone(), &timers, clock, &[7; 32]);
        let keeper = Arc::new(MemoryKeeper::default());
        let entropy = *blake3::hash(name.as_bytes()).as_bytes();
        let desk = Arc::new(Desk {
            key: key.clone(),
            how,
            keeper: keeper.clone(),
            kept: Mutex::default(),
            audited: Mutex::default(),
            digested: Mutex::default(),
            made_up: Mutex::default(),
        });
        let mut config = NetworkConfig::client(network, identity, Domain::operator(domain).expect("valid"), entropy);
        config.roles = Roles::STORAGE;
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")];
        config.lan.allow_private = true;
        config.store = Some(keeper.clone());
        config.stewards = Some(desk.clone());
        config.standings = Some(standings.clone());
        config.courtesy = line;
        (config.announce_every, config.ping_every) = (timers.announce, timers.ping);
        let handle = network::start(config).await.expect("starts");
        handle.wait_ready(lab.nodes().len(), DEADLINE).await.expect("knows the lab");
        Self { handle, keeper, standings, key, desk }
    }

    pub fn peer(&self) -> PeerKey {
        PeerKey::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// Slots of groups of which it was asked for leaves by who may see them.
    pub fn audited(&self) -> BTreeSet<(GroupId, Slot)> {
        locked(&self.desk.audited).clone()
    }

    /// Slots of groups of which stewards asked it for digests, with tokens of the owner's.
    pub fn digested(&self) -> BTreeSet<(GroupId, Slot)> {
        locked(&self.desk.digested).clone()
    }

    /// From now on it signs digests of that group that it made up, as who dropped all of it may. It goes on to claim all.
    pub fn makes_up(&self, group: GroupId) {
        locked(&self.desk.made_up).insert(group);
    }

    /// Drops all but the first shard that it has of a group, and gives nothing to who reads. It goes on to claim all. Gives what it dropped.
    pub async fn drops(&self, group: GroupId) -> BTreeSet<u8> {
        let (mut kept, mut dropped) = (BTreeMap::new(), BTreeSet::new());
        for (of, slot) in self.keeper.offered() {
            for (n, (ordinal, ..)) in self.keeper.rows(of, slot).into_iter().enumerate() {
                if of == group && n > 0 {
                    dropped.insert(ordinal);
                } else {
                    let bytes = self.keeper.get(of, slot, ordinal, 0, 0).await.expect("it is there");
                    kept.insert((of, ordinal), bytes);
                }
            }
        }
        *locked(&self.desk.kept) = kept;
        self.keeper.reading_fails(Some(RefusalCode::NotFound));
        dropped
    }

    /// Complains of a peer that it never asked anything, and believes of it what makes a node vote.
    pub fn slanders(&self, victim: &PeerKey) {
        let issued = Timestamp(now().0 - 10_000);
        let challenge = Challenge {
            auditor: self.peer(),
            holder: *victim,
            group: GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid").id(),
            slot: Slot::new(0).expect("valid"),
            ordinal: 0,
            root: ShardRoot::from_bytes([0; 32]),
            nonce: [0; 32],
            way: Way::Slices,
            slices: 1,
            previous: None,
            issued,
            deadline: issued.plus_ms(5_000),
        }
        .seal(&self.key);
        let report = SilenceReport { reporter: self.peer(), challenge: Challenge::id(&challenge), at: now() };
        self.standings.learned(Evidence::Silence { challenge, report: report.seal(&self.key) });
        self.standings.saw(*victim, Observed::BadBytes);
    }
}

/// A peer that speaks gossip and nothing else.
pub struct Crier {
    swarm: Swarm<gossipsub::Behaviour>,
    adverts: gossipsub::IdentTopic,
    evidence: gossipsub::IdentTopic,
    network: NetworkFile,
}

/// The advert of somebody who offers room and is at no address.
pub fn advert(network: &NetworkFile, identity: &Identity, domain: &str) -> SignedBytes {
    Advert {
        peer: identity.peer(),
        network: network.id,
        sequence: now(),
        protocol: network.protocol,
        domain: Domain::operator(domain).expect("valid"),
        region: Region::unknown(),
        roles: Roles::STORAGE,
        give: ByteSize(1 << 40),
        free: ByteSize(1 << 40),
        version: "1".into(),
        addresses: Vec::new(),
        pass: Vec::new(),
    }
    .seal(identity.signing_key())
}

impl Crier {
    /// Connects to a node of a lab, and waits until it listens to gossip.
    pub async fn connect(lab: &Lab, node: usize, name: &str) -> Self {
        Self::dial(network_of(lab), &lab.tcp_address(node), name).await
    }

    /// The same by its address.
    pub async fn dial(network: NetworkFile, address: &str, name: &str) -> Self {
        let id: String = network.id.to_string().chars().take(16).collect();
        let version = network.protocol;
        let topic = |part: &str| gossipsub::IdentTopic::new(format!("cairn/{id}/{part}/{version}"));
        let (adverts, evidence) = (topic("adverts"), topic("evidence"));
        let mut secret = identity(&network, name).signing_key().to_bytes();
        let keys = identity::Keypair::ed25519_from_bytes(&mut secret).expect("a seed");
        let config = gossipsub::ConfigBuilder::default()
            .protocol_id_prefix(format!("/cairn/{id}/gossip"))
            .validation_mode(gossipsub::ValidationMode::Strict)
            .build()
            .expect("valid");
        let author = gossipsub::MessageAuthenticity::Signed(keys.clone());
        let mut gossip = gossipsub::Behaviour::new(author, config).expect("valid");
        gossip.subscribe(&adverts).expect("subscribed");
        gossip.subscribe(&evidence).expect("subscribed");
        let mut swarm = SwarmBuilder::with_existing_identity(keys)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .expect("TCP")
            .with_behaviour(|_| gossip)
            .expect("built")
            .with_swarm_config(|c| c.with_idle_connection_timeout(DEADLINE))
            .build();
        let address: Multiaddr = address.parse().expect("an address");
        swarm.dial(address).expect("dials");
        let mut this = Self { swarm, adverts, evidence, network };
        let mut topics = 0;
        let heard = async {
            while topics < 2 {
                let event = this.swarm.select_next_some().await;
                topics += usize::from(matches!(event, SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })));
            }
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("the node speaks gossip");
        this
    }

    pub fn network(&self) -> &NetworkFile {
        &self.network
    }

    /// To nobody, once the node hung up; what follows of it is what a test waits for.
    async fn say(&mut self, topic: gossipsub::IdentTopic, bytes: Vec<u8>) {
        let deadline = Instant::now() + SAID_WITHIN;
        while self.swarm.behaviour_mut().publish(topic.clone(), bytes.clone()).is_err() && Instant::now() < deadline {
            self.listen(Duration::from_millis(50)).await;
        }
        self.listen(Duration::from_millis(5)).await;
    }

    /// Drives the connection for a while.
    pub async fn listen(&mut self, time: Duration) {
        let all = async {
            loop {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(time, all).await;
    }

    /// Says its own advert: nobody takes one in another's name.
    pub async fn advertise(&mut self, advert: &SignedBytes) {
        self.say(self.adverts.clone(), advert.encode_to_vec()).await;
    }

    /// A vote of this identity to exclude a peer, or not to, in a round.
    pub async fn vote(&mut self, voter: &Identity, subject: PeerKey, against: bool, round: u64) {
        let matter = Matter { subject, kind: VerdictKind::Exclude, round, place: None };
        let vote = Vote { voter: voter.peer(), matter, against, evidence: Vec::new(), issued: now() };
        self.say(self.evidence.clone(), Spread::Vote(vote.seal(voter.signing_key())).encode()).await;
    }
}
