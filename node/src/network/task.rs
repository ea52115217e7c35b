//! The one owner of the Swarm: waits for a step, applies it, never blocks and never awaits while deciding.
//!
//! Shard bytes do not pass here: a stream is handed to the transfer client that asked, or to a task of the transfer
//! server. Everything else is small.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use cairn_core::{carrier::Carriage, discovery::Discovery};
use cairn_proto::{
    ByteSize, Domain, PeerKey, Region, Timestamp,
    message::{ControlAnswer, ControlRequest, Roles},
    network_file::NetworkFile,
    signed::SignedBytes,
};
use futures::{FutureExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    kad,
    request_response::{OutboundRequestId, ResponseChannel},
    swarm::{ConnectionId, SwarmEvent},
};
use rand_chacha::ChaCha20Rng;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, Interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    LanMode, Reach, Readiness,
    behaviour::Protocols,
    book::{BookWriter, PeerBook},
    clock,
    command::{AskError, Command},
    door::{Door, DoorEvent, Verdict},
    keeper::ShardKeeper,
    presence::Presence,
    refusals::Refusals,
    stewards::Desk,
    streams::{InboundStream, Kind, OpenReply},
    transfer::server::{PeerPlaces, Server, ServerLimits},
    waits::Waits,
};
use crate::{geoip::GeoIp, identity::Identity, standing::Standings};

/// The peer book goes to disk at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// Commands taken in a row before the Swarm gets a turn.
const COMMANDS_IN_A_ROW: u32 = 64;
/// Questions and look-ups open at once, of all askers.
const OPEN_MAX: usize = 512;
/// Answers to control questions that wait for the disk at once; beyond, the asker is told to come again.
const ANSWERING_MAX: usize = 64;
/// ... and of one peer's questions.
const ANSWERING_PER_PEER: usize = 4;
/// A peer is asked for adverts unasked at most this often: it may tell us something new of itself at any rate.
const ADVERTS_APART: Duration = Duration::from_secs(60);
/// When it should, in milliseconds.
const ANSWER_RETRY_MS: u64 = 500;
/// A walk in which nobody answered for so long is over: those whom it waits for are most likely gone, and a dial to
/// somebody who is gone takes its whole time-out.
const WALK_STALLED: Duration = Duration::from_secs(2);
/// Peers of one /24 or /48 in the routing table, so that one cheap prefix cannot fill it.
const PEERS_PER_PREFIX: usize = 5;

/// What a node says of itself.
pub(crate) struct SelfPortrait {
    pub(crate) network: NetworkFile,
    pub(crate) identity: Arc<Identity>,
    pub(crate) domain: Domain,
    pub(crate) region: Region,
    pub(crate) geoip: Arc<GeoIp>,
    pub(crate) roles: Roles,
    pub(crate) known_to_store: bool,
    pub(crate) give: ByteSize,
    pub(crate) lan: LanMode,
    /// Addresses that the operator knows to lead here from outside.
    pub(crate) external: Vec<Multiaddr>,
    /// Circuits that the operator told us to listen on.
    pub(crate) circuits: Vec<Multiaddr>,
    /// Our pass, encoded; empty where none is needed.
    pub(crate) pass: Vec<u8>,
}

/// All that can happen.
enum Step {
    Shutdown,
    HandlesGone,
    Command(Command),
    Answered(PeerId, ResponseChannel<ControlAnswer>, ControlAnswer),
    AnswerLost,
    Tick,
    Swarm(Box<SwarmEvent<DoorEvent>>),
}

type AskReply = oneshot::Sender<Result<ControlAnswer, AskError>>;

enum Lookup {
    /// Who is near a head that we pass on.
    Replicate(kad::RecordKey),
    Closest(oneshot::Sender<Vec<(PeerKey, Vec<Multiaddr>)>>, Progress),
    Put(oneshot::Sender<()>),
    Get(oneshot::Sender<Vec<Vec<u8>>>, Vec<Vec<u8>>),
}

/// How many peers have answered a walk, and since when no more did.
struct Progress {
    answers: u32,
    at: Instant,
}

impl Progress {
    /// Takes note of how many have answered by now; whether nobody did for too long. Before the first, nobody is given up.
    fn is_stalled(&mut self, answers: u32, now: Instant) -> bool {
        if answers > self.answers {
            *self = Self { answers, at: now };
        }
        answers > 0 && now.duration_since(self.at) >= WALK_STALLED
    }
}

/// Owns the Swarm.
pub(crate) struct NetworkTask {
    pub(crate) swarm: Swarm<Door>,
    pub(crate) presence: Presence,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) readiness: watch::Sender<Readiness>,
    pub(crate) reach: watch::Sender<Reach>,
    pub(crate) portrait: SelfPortrait,
    pub(crate) protocols: Protocols,
    pub(crate) keeper: Option<Arc<dyn ShardKeeper>>,
    pub(crate) courtesy: Option<crate::courtesy::Courtesy>,
    pub(crate) server: Arc<Server>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) announce_every: Duration,
    pub(crate) limits: ServerLimits,
    pub(crate) waits: Waits,
    pub(crate) standings: Standings,
    pub(crate) book: PeerBook,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) ticks: Interval,
    pub(crate) state: State,
}

/// What the task remembers.
pub(crate) struct State {
    announce_at: Instant,
    announced: Option<Instant>,
    /// Nobody was there to hear our last advert.
    unheard: bool,
    discovery: Discovery,
    /// Who answered the walk that is under way.
    walk_answers: u32,
    write_at: Instant,
    knock_at: Instant,
    knock_pause: Duration,
    my_advert: Option<SignedBytes>,
    last_sequence: Timestamp,
    command_streak: u32,
    listening: BTreeSet<Multiaddr>,
    /// Listeners of ours that have no address yet.
    pending: HashSet<ListenerId>,
    started: Instant,
    /// AutoNAT found an address of ours that does not lead here.
    doubted: bool,
    /// ... and which: of those that we listen on, or did.
    refuted: BTreeSet<Multiaddr>,
    carriage: Carriage,
    /// The listener of the reservation that was asked for or stands.
    circuit: Option<ListenerId>,
    /// The relay that is dialled, and the circuit to ask it for.
    awaited: Option<(PeerId, Multiaddr)>,
    /// When our addresses are looked at again.
    judge_at: Instant,
    unreachable: HashMap<PeerId, Instant>,
    openers: HashMap<PeerId, Vec<(Kind, OpenReply)>>,
    /// Where streams of rebuilds go.
    rebuilds: Option<mpsc::Sender<InboundStream>>,
    /// Questions that wait for their peer to be dialled.
    askers: HashMap<PeerId, Vec<(ControlRequest, Option<AskReply>)>>,
    /// Our own dials that are under way; the connection limits bound them.
    dials: HashMap<ConnectionId, OwnDial>,
    /// Peers to be dialled as soon as anybody knows an address of theirs, or their relay is connected.
    sought: HashMap<PeerId, Sought>,
    replication: Replication,
    asks: HashMap<OutboundRequestId, oneshot::Sender<Result<ControlAnswer, AskError>>>,
    lookups: HashMap<kad::QueryId, Lookup>,
    answering: JoinSet<(PeerId, ResponseChannel<ControlAnswer>, ControlAnswer)>,
    /// Whose questions are being answered; no more than `answering`.
    answering_whom: HashMap<PeerId, usize>,
    /// When connected peers were last asked for adverts.
    adverts_asked: HashMap<PeerId, Instant>,
    serving: JoinSet<()>,
    places: HashMap<PeerKey, PeerPlaces>,
    connected: BTreeSet<PeerId>,
    /// Connections on probation, and where they lead; the connection limits bound them.
    waiting: HashMap<ConnectionId, Multiaddr>,
    /// Who met us last did not let us in.
    turned_away: Option<Verdict>,
    /// Of those, whoever has said what it is.
    identified: BTreeSet<PeerId>,
    writing: BookWriter,
    conduct: Conduct,
}

impl State {
    /// `pending`: what we are about to listen on; `carried`: a relay is needed from the start.
    pub(crate) fn new(pending: HashSet<ListenerId>, carried: bool) -> Self {
        let now = Instant::now();
        Self {
            announce_at: now + ANNOUNCE_SOON,
            announced: None,
            unheard: false,
            discovery: Discovery::new(Timestamp(0)),
            walk_answers: 0,
            write_at: now + WRITE_EVERY,
            knock_at: now,
            knock_pause: KNOCK.0,
            my_advert: None,
            last_sequence: Timestamp(0),
            command_streak: 0,
            listening: BTreeSet::new(),
            pending,
            started: now,
            doubted: false,
            refuted: BTreeSet::new(),
            carriage: Carriage::new(carried),
            circuit: None,
            awaited: None,
            judge_at: now + reach::JUDGED_FOR,
            unreachable: HashMap::new(),
            openers: HashMap::new(),
            rebuilds: None,
            askers: HashMap::new(),
            dials: HashMap::new(),
            sought: HashMap::new(),
            replication: Replication::new(now),
            asks: HashMap::new(),
            lookups: HashMap::new(),
            answering: JoinSet::new(),
            answering_whom: HashMap::new(),
            adverts_asked: HashMap::new(),
            serving: JoinSet::new(),
            places: HashMap::new(),
            connected: BTreeSet::new(),
            waiting: HashMap::new(),
            turned_away: None,
            identified: BTreeSet::new(),
            writing: BookWriter::default(),
            conduct: Conduct::new(now),
        }
    }
}

impl NetworkTask {
    pub(crate) async fn run(mut self) {
        loop {
            let step = self.next_step().await;
            if !self.apply(step, clock()) {
                break;
            }
        }
        self.end().await;
    }

    /// Waits, decides nothing. Local work first; a flood of commands still leaves the Swarm its turns.
    async fn next_step(&mut self) -> Step {
        if self.state.command_streak >= COMMANDS_IN_A_ROW {
            self.state.command_streak = 0;
            if let Some(event) = self.swarm.select_next_some().now_or_never() {
                return Step::Swarm(Box::new(event));
            }
        }
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Step::Shutdown,
            Some(done) = self.state.answering.join_next() => {
                done.map_or(Step::AnswerLost, |(peer, channel, answer)| Step::Answered(peer, channel, answer))
            }
            command = self.commands.recv() => command.map_or(Step::HandlesGone, Step::Command),
            _ = self.ticks.tick() => Step::Tick,
            event = self.swarm.select_next_some() => Step::Swarm(Box::new(event)),
        }
    }

    /// Decides; `false` ends the task.
    fn apply(&mut self, step: Step, now: Timestamp) -> bool {
        match step {
            Step::Shutdown | Step::HandlesGone => return false,
            Step::Command(command) => {
                self.state.command_streak += 1;
                self.command(command, now);
            }
            Step::Answered(peer, channel, answer) => {
                self.answered(&peer);
                self.answer(channel, answer);
            }
            // The question's channel is gone with the task; the asker is told by the stream's end. Whose it was is
            // gone too, so that all begin anew: the limit of all holds.
            Step::AnswerLost => self.state.answering_whom.clear(),
            Step::Tick => self.tick(now),
            Step::Swarm(event) => {
                self.state.command_streak = 0;
                self.swarm_event(*event, now);
            }
        }
        let ready = Readiness {
            connected: self.state.connected.len(),
            storage_peers: self.book.storage_peers(),
            turned_away: self.state.turned_away,
        };
        self.readiness.send_if_modified(|old| std::mem::replace(old, ready) != ready);
        true
    }

    /// Closes connections, so that peers notice at once instead of after QUIC's idle time; writes the book.
    async fn end(mut self) {
        self.state.serving.abort_all();
        for peer in std::mem::take(&mut self.state.connected) {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closing = async {
            while self.swarm.connected_peers().next().is_some() {
                let _ = self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
        if let Some(folder) = self.data_dir.clone() {
            self.state.writing.finish(folder, || self.book.take_unwritten()).await;
        }
    }

    fn command(&mut self, command: Command, now: Timestamp) {
        match command {
            Command::OpenStream { peer, kind, reply } => self.open_stream(&peer, kind, reply),
            Command::AcceptRebuilds { streams } => self.state.rebuilds = Some(streams),
            Command::PinnedDomain { peer, reply } => {
                let _ = reply.send(self.pinned_domain(&peer));
            }
            Command::Ask { peer, addresses, request, reply } => self.ask(&peer, addresses, request, Some(reply)),
            Command::Closest { target, reply } => {
                let kad = &mut self.swarm.behaviour_mut().kad;
                if self.state.lookups.len() < OPEN_MAX {
                    let query = kad.get_closest_peers(target);
                    self.state
                        .lookups
                        .insert(query, Lookup::Closest(reply, Progress { answers: 0, at: Instant::now() }));
                }
            }
            Command::PutRecord { key, value, reply } => self.put_record(key, value, reply),
            Command::GetRecord { key, reply } => {
                if self.state.lookups.len() < OPEN_MAX {
                    let query = self.swarm.behaviour_mut().kad.get_record(kad::RecordKey::new(&key));
                    self.state.lookups.insert(query, Lookup::Get(reply, Vec::new()));
                }
            }
            Command::Peers { reply } => {
                let _ = reply.send(self.book.views(now));
            }
            Command::Served { peer, served } => self.book.served(&peer, served, now),
            Command::ListenAddresses { reply } => {
                let _ = reply.send(self.state.listening.iter().cloned().collect());
            }
            Command::Reach { peer } => self.reach(&peer),
            Command::Dial { address } => self.dial(address),
            Command::Announce => self.announce_within(Duration::ZERO),
            #[cfg(test)]
            Command::Score { peer, reply } => {
                let id = crate::network::keys::peer_id(&peer);
                let _ = reply.send(id.and_then(|id| self.swarm.behaviour().gossip.peer_score(&id)));
            }
        }
    }

    fn put_record(&mut self, key: [u8; 32], value: Vec<u8>, reply: oneshot::Sender<()>) {
        if self.state.lookups.len() >= OPEN_MAX {
            return;
        }
        let record = kad::Record::new(kad::RecordKey::new(&key), value);
        // Quorum "all" does not mean that all must: it makes the query go on to everyone near.
        match self.swarm.behaviour_mut().kad.put_record(record, kad::Quorum::All) {
            Ok(query) => {
                self.state.lookups.insert(query, Lookup::Put(reply));
            }
            Err(error) => tracing::debug!(%error, "our own record store refused a head"),
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let instant = Instant::now();
        if instant >= self.state.announce_at {
            self.announce(now);
        }
        if instant >= self.state.write_at {
            self.state.write_at = instant + WRITE_EVERY;
            if let Some(folder) = self.data_dir.clone() {
                self.state.writing.begin(folder, || self.book.take_unwritten());
            }
        }
        if instant >= self.state.knock_at {
            self.knock(instant);
        }
        self.mind_conduct(instant, now);
        self.seek();
        self.look_for_others();
        self.seek_carrier();
        self.judge_anew(instant);
        self.replicate(instant);
        self.end_stalled_walks(instant);
        self.state.unreachable.retain(|_, until| *until > instant);
        self.state.adverts_asked.retain(|_, at| instant.duration_since(*at) < ADVERTS_APART);
        self.state.places.retain(|_, places| !places.is_idle());
        while self.state.serving.try_join_next().is_some() {}
    }

    /// What a walk found until then is good; it is repeated for as long as it finds more.
    fn end_stalled_walks(&mut self, now: Instant) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        for (id, lookup) in &mut self.state.lookups {
            let (Lookup::Closest(_, progress), Some(mut query)) = (lookup, kad.query_mut(id)) else { continue };
            if progress.is_stalled(query.stats().num_successes(), now) {
                query.finish();
            }
        }
    }

    fn answer(&mut self, channel: ResponseChannel<ControlAnswer>, answer: ControlAnswer) {
        // The asker may have gone.
        let _ = self.swarm.behaviour_mut().control.send_response(channel, answer);
    }
}

pub(crate) mod adverts;
mod asking;
mod conduct;
mod control;
mod dials;
mod discovery;
mod door;
mod events;
mod reach;
mod replication;
mod seeking;
mod serving;

use self::{
    adverts::{ANNOUNCE_SOON, adverts_please},
    conduct::Conduct,
    dials::{KNOCK, OwnDial},
    replication::Replication,
    seeking::Sought,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_stalled_when_answers_stop_coming() {
        let begin = Instant::now();
        let mut progress = Progress { answers: 0, at: begin };
        assert!(!progress.is_stalled(0, begin + 10 * WALK_STALLED), "the first may take long");
        assert!(!progress.is_stalled(2, begin + 10 * WALK_STALLED));
        assert!(!progress.is_stalled(3, begin + 11 * WALK_STALLED), "one more came");
        assert!(!progress.is_stalled(3, begin + 11 * WALK_STALLED + WALK_STALLED / 2));
        assert!(progress.is_stalled(3, begin + 12 * WALK_STALLED));
    }
}
