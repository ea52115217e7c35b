//! Life without the owner: this node's work as a steward, and the parts that stewards give it as a holder.
//!
//! The decisions are [`cairn_core::steward`]'s and [`cairn_core::part`]'s; here they are driven. [`Stewardship`] is the door: the
//! network asks it ([`StewardService`]), people ask it ([`Stewardship::report`]). Behind it `task` owns the steward and has its rounds
//! done (`round`), `probes` says whom to ask how often, `outbox` sends, `newcomer` takes shards over, `files` keeps all of it.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cairn_core::{
    budget::{Budget, Limits},
    durability::repairs::RepairTimes,
    liveness::Watch,
    steward::{
        GROUPS_MAX, Steward,
        wire::{Answer, Refusal, Request},
    },
};
use cairn_proto::{Domain, GroupId, PeerKey};
use ed25519_dalek::SigningKey;
use futures::{FutureExt as _, future::BoxFuture};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

mod exchange;
pub(crate) mod files;
mod newcomer;
mod order_file;
mod orders;
mod outbox;
pub mod ports;
mod probes;
pub mod report;
mod round;
mod shelf;
mod task;
#[cfg(test)]
mod tests;

pub use self::shelf::Shelf;
use self::{
    exchange::Input,
    files::{Disk, RealDisk, StateFiles},
    newcomer::{Newcomer, Tools},
    order_file::Given,
    outbox::Outbox,
    ports::{Rebuilder, StewardNet, StewardService},
    report::{GroupStatus, PlannedRepairStatus},
    round::{BELIEFS, Keeper, PLACES, REPAIRS, SUSPECTS},
    task::Driver,
};
use crate::{store::Clock, timers::Timers};

/// Questions and messages of peers that wait for the steward; beyond, they are told to come again. The network bounds what each
/// peer may have waiting.
const QUEUE: usize = 256;
/// How long a peer or a person waits for an answer. A round takes milliseconds, one with a full map to check some seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What stewardship works with.
pub struct StewardshipConfig {
    /// Its folder, made when missing.
    pub folder: PathBuf,
    /// The node's identity.
    pub key: SigningKey,
    /// The node's pinned domain.
    pub domain: Domain,
    /// Where a new holder's shards go.
    pub shelf: Arc<dyn Shelf>,
    /// How long everything takes.
    pub timers: Timers,
    /// Bytes a second of our line, as far as is known when it is asked.
    pub upstream: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The time.
    pub clock: Clock,
    /// Fresh random bytes, for orders' nonces.
    pub entropy: [u8; 32],
}

/// A node's stewardship, cheap to clone. Says it is busy until [`Stewardship::start`].
#[derive(Clone)]
pub struct Stewardship(Arc<Shared>);

struct Shared {
    running: OnceLock<Running>,
    cut_off: Arc<AtomicBool>,
    cancel: CancellationToken,
}

struct Running {
    inputs: mpsc::Sender<Input>,
    newcomer: Newcomer,
    outbox: Outbox,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Default for Stewardship {
    fn default() -> Self {
        Self(Arc::new(Shared { running: OnceLock::new(), cut_off: Arc::default(), cancel: CancellationToken::new() }))
    }
}

impl Stewardship {
    /// Reads what is kept, goes on with orders under way, and begins. Once: a second call does nothing.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub async fn start(
        &self,
        config: StewardshipConfig,
        net: Arc<dyn StewardNet>,
        rebuilder: Option<Arc<dyn Rebuilder>>,
    ) -> io::Result<()> {
        self.start_on(config, net, rebuilder, Arc::new(RealDisk)).await
    }

    async fn start_on(
        &self,
        config: StewardshipConfig,
        net: Arc<dyn StewardNet>,
        rebuilder: Option<Arc<dyn Rebuilder>>,
        disk: Arc<dyn Disk>,
    ) -> io::Result<()> {
        let StewardshipConfig { folder, key, domain, shelf, timers, upstream, clock, entropy } = config;
        let (steward_key, late_ms, rhythm) = (key.clone(), timers.liveness.late_ms, timers.rhythm);
        let answer_ms = timers.audit_answer.as_millis() as u64;
        let now = clock();
        let own = domain.clone();
        let of = Arc::clone(&net);
        let quota = Arc::new(move |peer: &PeerKey, since| of.quota(peer, since));
        let read = move || {
            let files = StateFiles::open(folder, disk)?;
            let watch = beliefs(&files, &timers);
            let budget = Budget::new(Limits::default(), upstream(), now);
            let mut steward = Steward::new(steward_key, own, rhythm, watch, budget);
            let lost = resume(&mut steward, &files, now)?;
            let rng = ChaCha20Rng::from_seed(entropy);
            let keeper = Keeper {
                steward,
                files: files.clone(),
                rng,
                unsaved: Default::default(),
                late_ms,
                returned: Default::default(),
                hurried: Default::default(),
                strangers: Default::default(),
                upstream,
                quota,
                answer_ms,
            };
            Ok::<_, io::Error>((keeper, files, lost))
        };
        let (keeper, files, lost) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        let me = keeper.steward.me();
        if me != net.me() {
            return Err(io::Error::other("the network goes by another identity"));
        }
        // Between tries: 12 s first, and in proportion in a trial.
        let pause = (timers.probe / 8).max(Duration::from_millis(10));
        let pause_max = Duration::from_millis(rhythm.pause_ms_max).min(Duration::from_secs(30 * 60));
        let cancel = self.0.cancel.clone();
        let outbox = Outbox::new(Arc::clone(&net), outbox::LANES, pause, cancel.clone());
        let of_holder = Outbox::new(Arc::clone(&net), outbox::HOLDER_LANES, pause, cancel.clone());
        let newcomer = Newcomer::new(Tools {
            key,
            domain: domain.clone(),
            shelf,
            net: Arc::clone(&net),
            rebuilder,
            files,
            outbox: of_holder,
            clock: Arc::clone(&clock),
            lost_ms: rhythm.steward_lost_ms,
            pause,
            pause_max: pause_max.max(pause),
            cancel: cancel.clone(),
        });
        let (inputs, queue) = mpsc::channel(QUEUE);
        let driver = Driver {
            keeper: Some(Box::new(keeper)),
            net,
            outbox: outbox.clone(),
            inputs: queue,
            me: task::own_view(me, domain, now),
            timers,
            clock,
            cut_off: Arc::clone(&self.0.cut_off),
            lost,
            cancel,
        };
        let running = Running { inputs, newcomer: newcomer.clone(), outbox, task: Mutex::new(None) };
        if self.0.running.set(running).is_err() {
            return Ok(());
        }
        let resuming = newcomer.clone();
        tokio::task::spawn_blocking(move || resuming.resume()).await.map_err(io::Error::other)?;
        let task = tokio::spawn(driver.run());
        if let Some(running) = self.0.running.get() {
            *running.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        Ok(())
    }

    /// How each group stands that this node watches for an absent owner. Empty when it is not running.
    pub async fn report(&self) -> Vec<GroupStatus> {
        let reports = self.look(Input::Stand).await.unwrap_or_default();
        reports.iter().map(|(report, stuck)| report::group_status(report, stuck)).collect()
    }

    /// Whether many of those whom it watches fell silent at once, so that it may be us who are cut off.
    #[must_use]
    pub fn cut_off(&self) -> bool {
        self.0.cut_off.load(Ordering::Relaxed)
    }

    /// The other stewards of all groups that this node watches.
    pub async fn fellows(&self) -> std::collections::BTreeSet<PeerKey> {
        let reports = self.look(Input::Report).await.unwrap_or_default();
        reports.into_iter().flat_map(|report| report.stewards).map(|(steward, _)| steward).collect()
    }

    /// How long repairs took that this node saw as a steward; nothing when it is not running.
    pub async fn repairs(&self) -> RepairTimes {
        self.look(Input::Repairs).await.unwrap_or_default()
    }

    /// What new holders say of a peer that helped them, in words; none when nobody says anything.
    pub async fn suspicion(&self, peer: PeerKey) -> Option<String> {
        let suspicion = self.look(|answer| Input::Suspicion(peer, answer)).await.flatten()?;
        Some(report::suspicion(&suspicion))
    }

    /// What would be ordered now, if it were this steward's turn.
    pub async fn dry_run(&self) -> Vec<PlannedRepairStatus> {
        let Some((weather, plans)) = self.look(Input::Plan).await else { return Vec::new() };
        let of = |(group, plans, stuck): &(_, Vec<_>, Vec<_>)| -> Vec<PlannedRepairStatus> {
            let planned = plans.iter().map(|plan| report::planned(group, plan, weather));
            planned.chain(stuck.iter().map(|stuck| report::not_planned(group, stuck))).collect()
        };
        plans.iter().flat_map(of).collect()
    }

    async fn look<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let running = self.0.running.get()?;
        let (answer, answered) = oneshot::channel();
        let looked = async {
            running.inputs.send(ask(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, looked).await.ok()?
    }

    /// Ends it: what is under way is on disk, and what waits to be said is lost.
    pub async fn close(&self) {
        self.0.cancel.cancel();
        let Some(running) = self.0.running.get() else { return };
        let task = running.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
        running.newcomer.close().await;
        running.outbox.close().await;
    }
}

impl StewardService for Stewardship {
    fn handle(&self, from: PeerKey, request: Request) -> BoxFuture<'_, Answer> {
        const BUSY: Answer = Answer::Refused(Refusal::Busy);
        async move {
            let Some(running) = self.0.running.get() else { return BUSY };
            if self.0.cancel.is_cancelled() {
                return BUSY;
            }
            if let Request::Give { credentials, sheet, previous } = request {
                let given = Given { credentials: *credentials, sheet, previous, sealed: None };
                return running.newcomer.give(from, given).await;
            }
            let (answer, answered) = oneshot::channel();
            if running.inputs.try_send(Input::Asked { from, request, answer }).is_err() {
                return BUSY;
            }
            tokio::time::timeout(PATIENCE, answered).await.ok().and_then(Result::ok).unwrap_or(BUSY)
        }
        .boxed()
    }
}

/// What was believed of peers, if it was counted with the timers of now.
fn beliefs(files: &StateFiles, timers: &Timers) -> Watch {
    let body = match files.read(BELIEFS) {
        Ok(body) => body,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                files.set_aside(BELIEFS, &error);
            }
            return Watch::new(timers.liveness);
        }
    };
    let Some((late_ms, watch)) = body.split_first_chunk() else { return Watch::new(timers.liveness) };
    if u64::from_le_bytes(*late_ms) != timers.liveness.late_ms {
        tracing::info!("what was believed of peers was counted with other timers; it is learned anew");
        return Watch::new(timers.liveness);
    }
    Watch::decode(watch, timers.liveness).unwrap_or_else(|error| {
        files.set_aside(BELIEFS, &error);
        Watch::new(timers.liveness)
    })
}

/// Where peers were and since when; what cannot be read is learned anew, and nobody is moved apart until it is.
fn places(steward: &mut Steward, files: &StateFiles, now: cairn_proto::Timestamp) {
    match files.read(PLACES) {
        Ok(body) => {
            if let Err(error) = steward.resume_places(&body, now) {
                files.set_aside(PLACES, &error);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => files.set_aside(PLACES, &error),
    }
}

/// Who may have sent wrong bytes; when that cannot be read, nobody is suspected.
fn suspects(steward: &mut Steward, files: &StateFiles, now: cairn_proto::Timestamp) {
    match files.read(SUSPECTS) {
        Ok(body) => {
            if let Err(error) = steward.resume_suspects(&body, now) {
                files.set_aside(SUSPECTS, &error);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => files.set_aside(SUSPECTS, &error),
    }
}

/// How long repairs took that were seen before; counted anew when that cannot be read.
fn repairs(files: &StateFiles) -> RepairTimes {
    let seen = match files.read(REPAIRS) {
        Ok(body) => RepairTimes::decode(&body).map_err(|error| files.set_aside(REPAIRS, &error)).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            files.set_aside(REPAIRS, &error);
            None
        }
    };
    seen.unwrap_or_default()
}

/// Watches the groups again that were watched; those whose state is damaged are to be asked for.
fn resume(steward: &mut Steward, files: &StateFiles, now: cairn_proto::Timestamp) -> io::Result<Vec<GroupId>> {
    places(steward, files, now);
    steward.resume_repairs(repairs(files));
    suspects(steward, files, now);
    let found = files.load("group", GROUPS_MAX)?;
    let mut lost = found.damaged;
    for (name, state) in found.whole {
        match steward.resume(&state, now) {
            // The checksum is of the name too, so it is this group.
            Ok(_) => {}
            Err(error) => {
                files.set_aside(&format!("{name}.group"), &error);
                lost.push(name);
            }
        }
    }
    Ok(lost.iter().filter_map(|name| name.parse().ok()).collect())
}
