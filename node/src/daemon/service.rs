//! Runs verbs on a node: those about the node itself here, all others in the vault.

use std::{collections::BTreeMap, time::Duration};

use cairn_core::{durability::Sla, peer_view::PeerView};
use cairn_proto::{PeerKey, Timestamp, message::Roles};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::AsyncWrite,
    sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc},
};
use tokio_util::sync::CancellationToken;

use super::{Node, assemble, folder};
use crate::{
    api::{
        NodeStatus,
        server::{Call, Service, ShardPage, ShardPlace},
    },
    courtesy::Pause,
    failure::{ExitCode, Failure},
    ops::{Event, Outcome, SecretText, Verb, VerbResult},
    plan::{self, PlanArgs},
    vault::{
        Vault,
        verbs::{Meeting, VaultContext, run_verb},
    },
};

/// How long a verb waits for one that shuts it out of the vault before it gives up.
const VAULT_PATIENCE: Duration = Duration::from_secs(3);

/// Verbs on one node.
pub struct NodeService {
    node: Node,
    daemon: bool,
    /// One backup at a time.
    writer: Mutex<()>,
    /// Shared by verbs that work with the catalogue, alone for what replaces it.
    catalogue: RwLock<()>,
    /// What verbs that need peers wait for; none when somebody was there before.
    meeting: Option<Meeting>,
}

/// What a verb does to the vault.
#[derive(Clone, Copy)]
enum Entry {
    Reader,
    Writer,
    Replacer,
}

/// The right to do it, until dropped.
enum Turn<'a> {
    Reader { _catalogue: RwLockReadGuard<'a, ()> },
    Writer { _writer: MutexGuard<'a, ()>, _catalogue: RwLockReadGuard<'a, ()> },
    Replacer { _catalogue: RwLockWriteGuard<'a, ()> },
}

/// Slots of watched groups that `cairn status` says one by one that nobody can take.
const STUCK_TOLD: usize = 8;

impl NodeService {
    /// Wraps a running node.
    #[must_use]
    pub fn new(node: Node, daemon: bool) -> Self {
        Self { node, daemon, writer: Mutex::new(()), catalogue: RwLock::new(()), meeting: None }
    }

    /// With a wait for the network that has only begun.
    #[must_use]
    pub fn meeting(self, meeting: Option<Meeting>) -> Self {
        Self { meeting, ..self }
    }

    /// Ends when the network is there, or will not be.
    ///
    /// # Errors
    /// It turns us away, or `cancel` fired.
    pub async fn met(&self, cancel: &CancellationToken) -> Result<(), Failure> {
        let Some(meeting) = self.meeting.clone() else { return Ok(()) };
        tokio::select! {
            met = meeting => met,
            () = cancel.cancelled() => {
                Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted before anything was done"))
            }
        }
    }

    /// The node itself.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    async fn enter_vault(&self, how: Entry) -> Result<Turn<'_>, Failure> {
        let turn = async {
            match how {
                Entry::Reader => Turn::Reader { _catalogue: self.catalogue.read().await },
                Entry::Writer => {
                    let writer = self.writer.lock().await;
                    Turn::Writer { _writer: writer, _catalogue: self.catalogue.read().await }
                }
                Entry::Replacer => Turn::Replacer { _catalogue: self.catalogue.write().await },
            }
        };
        tokio::time::timeout(VAULT_PATIENCE, turn).await.map_err(|_| {
            Failure::new(ExitCode::Busy, "BUSY", "another verb works on this vault")
                .with_hint("wait for it to end")
                .retryable()
        })
    }

    async fn run_call(&self, call: Call) -> VerbResult {
        if matches!(
            call.verb,
            Verb::Peers | Verb::Explain(_) | Verb::Status | Verb::Plan(_) | Verb::Pause(_) | Verb::Resume
        ) {
            self.met(&call.cancel).await?;
        }
        match &call.verb {
            Verb::DebugStore => self.debug_store(&call.events).await,
            Verb::Peers => self.list_peers(&call.events).await,
            Verb::Explain(args) => self.explain(&args.peer, &call.events).await,
            Verb::Status => self.describe(call).await,
            Verb::Repair => self.plan_repair(&call.events).await,
            Verb::Leave(args) => self.leave(*args, &call.events, &call.cancel).await,
            Verb::Health => self.health(&call.events).await,
            Verb::Pause(args) => self.pause(Some(Pause::lasting(args.for_ms, crate::vault::now())), &call.events).await,
            Verb::Resume => self.pause(None, &call.events).await,
            Verb::Plan(args) => self.plan(args.clone(), &call.events).await,
            _ => self.in_vault(call).await,
        }
    }

    /// The verb runs on a thread of its own. Its future is `Send` and could be spawned; but between two awaits it reads and
    /// syncs the catalogue, adds up its rows and walks folders, and the runtime's few threads carry the swarm.
    async fn in_vault(&self, call: Call) -> VerbResult {
        let Call { verb, passphrase, input, mut output, events, cancel } = call;
        let how = match &verb {
            Verb::Recover(_) => Entry::Replacer,
            Verb::Backup(_) => Entry::Writer,
            _ => Entry::Reader,
        };
        let _turn = self.enter_vault(how).await?;
        let context = VaultContext {
            dir: self.node.dir().root().to_owned(),
            overlay: self.node.overlay()?,
            witness: self.node.witness(),
            fallback: self.node.fallback(),
            repairs: self.node.stewardship().repairs().await.figures(),
            meeting: self.meeting.clone(),
        };
        // Whoever drops this future does not wait for the thread, so the thread must be told.
        let cancel = cancel.child_token();
        let _told = cancel.clone().drop_guard();
        let runtime = tokio::runtime::Handle::current();
        let thread = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let output: Option<&mut (dyn AsyncWrite + Send + Unpin)> = match &mut output {
                    Some(output) => Some(output.as_mut()),
                    None => None,
                };
                run_verb(&context, verb, passphrase, input, output, events, cancel).await
            })
        });
        thread.await.unwrap_or_else(|e| {
            Err(Failure::new(ExitCode::Failed, "PANIC", "the verb broke an invariant of its own")
                .caused_by(&e)
                .with_hint("this is a bug; nothing half done is listed"))
        })
    }

    async fn debug_store(&self, events: &mpsc::Sender<Event>) -> VerbResult {
        let (mut count, mut bytes) = (0u64, 0u64);
        let mut after = None;
        loop {
            let page = self.node.shards(after).await?;
            for row in page.rows {
                count += 1;
                bytes += row["bytes"].as_u64().unwrap_or(0);
                send(events, Event::Row { kind: "shard".into(), row }).await;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let summary = serde_json::json!({ "shards": count, "bytes": bytes });
        send(events, Event::Summary { verb: "debug-store".into(), summary }).await;
        Ok(Outcome { code: ExitCode::Success })
    }

    pub(super) async fn known_peers(&self, refresh: bool) -> Result<Vec<PeerView>, Failure> {
        let overlay = self.node.overlay()?;
        overlay.peers(refresh).await.map_err(|e| {
            Failure::new(ExitCode::TooFewPeers, "NO_PEERS", "the network cannot be reached")
                .caused_by(&e)
                .with_hint("check the bootstrap addresses in the network file and the connection of this machine")
                .retryable()
        })
    }

    /// With what this node knows of its network; `--domains` reckons without one, in the CLI alone.
    async fn plan(&self, args: PlanArgs, events: &mpsc::Sender<Event>) -> VerbResult {
        let sla: Sla =
            args.sla.parse().map_err(|e| Failure::new(ExitCode::Usage, "USAGE", "cannot plan").caused_by(&e))?;
        let peers = self.known_peers(true).await?;
        let repairs = self.node.stewardship().repairs().await.figures();
        let reckon = move || plan::plan(&args, sla, Some(&peers), &repairs, crate::vault::now());
        let reckoned = tokio::task::spawn_blocking(reckon).await;
        let reckoned = reckoned.map_err(|e| Failure::new(ExitCode::Failed, "PANIC", "cannot reckon").caused_by(&e))?;
        for (kind, row) in reckoned.rows {
            send(events, Event::Row { kind: kind.into(), row }).await;
        }
        send(events, Event::Summary { verb: "plan".into(), summary: reckoned.summary }).await;
        Ok(Outcome { code: reckoned.code })
    }

    async fn list_peers(&self, events: &mpsc::Sender<Event>) -> VerbResult {
        let peers = self.known_peers(true).await?;
        let storage = peers.iter().filter(|p| p.roles.has(Roles::STORAGE)).count();
        for peer in &peers {
            let mut row = peer_row(peer);
            row["note"] = self.noted(peer).into();
            send(events, Event::Row { kind: "peer".into(), row }).await;
        }
        let contradicted = peers.iter().filter(|peer| peer.region_basis.is_contradicted()).count();
        let summary =
            serde_json::json!({ "peers": peers.len(), "storage": storage, "regions_contradicted": contradicted });
        send(events, Event::Summary { verb: "peers".into(), summary }).await;
        Ok(Outcome { code: ExitCode::Success })
    }

    /// What is thought of a peer, in a word or two.
    fn thought(&self, peer: &PeerView) -> String {
        let convicted = self.node.standings().is_some_and(|standings| standings.is_convicted(&peer.peer));
        let score = format!("{}.{:03}", peer.reputation / 1000, peer.reputation % 1000);
        match peer {
            _ if convicted => "outside: proved to have lied".into(),
            PeerView { reputation: ..500, .. } => format!("not trusted, {score}"),
            PeerView { newcomer: true, .. } => "newcomer".into(),
            _ => score,
        }
    }

    /// The same, with where it is when that is not what it says.
    fn noted(&self, peer: &PeerView) -> String {
        let thought = self.thought(peer);
        match &peer.region_basis {
            basis if basis.is_contradicted() => format!("{thought}; {basis}"),
            _ => thought,
        }
    }

    /// Every figure of a peer that is named by the beginning of its key.
    async fn explain(&self, beginning: &str, events: &mpsc::Sender<Event>) -> VerbResult {
        let unknown = |why: &str| {
            Failure::new(ExitCode::NotFound, "NO_PEER", format!("{why} {beginning}"))
                .with_hint("`cairn peers --json` lists whole keys; the beginning of one is enough")
        };
        let standings = self.node.standings().ok_or_else(|| unknown("nothing is thought of"))?;
        let beginning = beginning.to_ascii_lowercase();
        let mut known: BTreeMap<PeerKey, Timestamp> =
            self.known_peers(false).await?.iter().map(|peer| (peer.peer, peer.first_seen)).collect();
        // Who is outside may be in no book any more.
        for liar in standings.convicted() {
            known.entry(liar).or_insert(crate::vault::now());
        }
        let mut named =
            known.iter().filter(|(peer, _)| !beginning.is_empty() && peer.to_string().starts_with(&beginning));
        let (peer, since) = named.next().ok_or_else(|| unknown("no peer is known whose key begins with"))?;
        if named.next().is_some() {
            return Err(unknown("more than one peer's key begins with"));
        }
        let mut explained = standings.explain(peer, *since).with_audits(self.node.auditor().owing(peer));
        explained.lines.extend(self.node.stewardship().suspicion(*peer).await);
        let summary = serde_json::to_value(&explained).unwrap_or_default();
        send(events, Event::Summary { verb: "explain".into(), summary }).await;
        Ok(Outcome { code: ExitCode::Success })
    }

    /// The node's own row, then the vault's groups when there is one that is open to the caller. Nobody is asked for a
    /// passphrase: how the node does is no secret of the vault.
    async fn describe(&self, call: Call) -> VerbResult {
        let status = self.node_status(false).await?;
        let row = serde_json::to_value(&status).unwrap_or_default();
        let events = call.events.clone();
        send(&events, Event::Row { kind: "this_node".into(), row }).await;
        self.describe_watched(&events).await;
        let audits = self.node.auditor().status();
        if audits.holders > 0 {
            let row = serde_json::to_value(audits).unwrap_or_default();
            send(&events, Event::Row { kind: "auditing".into(), row }).await;
        }
        let locked = call.passphrase.is_none() && Vault::needs_passphrase(self.node.dir().root());
        if status.vault && !locked {
            return self.in_vault(call).await;
        }
        if locked {
            let text = "the vault is locked: name its passphrase file with CAIRN_PASSPHRASE_FILE to see its groups";
            send(&events, Event::Notice { id: "VAULT_LOCKED".into(), text: text.into() }).await;
        }
        let summary = serde_json::json!({ "vault": null, "locked": locked, "peers_known": status.peers });
        send(&events, Event::Summary { verb: "status".into(), summary }).await;
        Ok(Outcome { code: ExitCode::Success })
    }

    /// Groups that this node watches for absent owners; nothing is said when there are none.
    async fn describe_watched(&self, events: &mpsc::Sender<Event>) {
        let groups = self.node.stewardship().report().await;
        if groups.is_empty() {
            return;
        }
        let healthy = groups.iter().filter(|group| group.state == "healthy").count();
        let audited = groups.iter().filter(|group| group.audited == "yes").count();
        let row = serde_json::json!({ "groups": groups.len(), "healthy": healthy, "audited": audited });
        send(events, Event::Row { kind: "watching".into(), row }).await;
        let mut stuck = 0;
        for group in groups {
            let row = serde_json::to_value(&group).unwrap_or_default();
            send(events, Event::Row { kind: "watched_group".into(), row }).await;
            for slot in group.stuck.iter().filter(|slot| slot.nobody) {
                stuck += 1;
                if stuck <= STUCK_TOLD {
                    let text = format!("slot {} of group {} waits: {}", slot.slot, group.group, slot.text);
                    send(events, Event::Notice { id: "SLOT_WITHOUT_HEIR".into(), text }).await;
                }
            }
        }
        if stuck > STUCK_TOLD {
            let text = format!("{} more slots wait for peers of their colour", stuck - STUCK_TOLD);
            send(events, Event::Notice { id: "SLOT_WITHOUT_HEIR".into(), text }).await;
        }
    }

    async fn plan_repair(&self, events: &mpsc::Sender<Event>) -> VerbResult {
        let stewardship = self.node.stewardship();
        let (groups, planned) = (stewardship.report().await.len(), stewardship.dry_run().await);
        for repair in &planned {
            let row = serde_json::to_value(repair).unwrap_or_default();
            send(events, Event::Row { kind: "planned_repair".into(), row }).await;
        }
        let bytes: u64 = planned.iter().map(|repair| repair.bytes.0).sum();
        let stuck = planned.iter().filter(|repair| repair.action == "none").count();
        let steps = planned.len() - stuck;
        let summary = serde_json::json!({ "groups": groups, "planned": steps, "stuck": stuck, "bytes": bytes });
        send(events, Event::Summary { verb: "repair".into(), summary }).await;
        Ok(Outcome { code: ExitCode::Success })
    }

    /// On disk when it is said, and the others hear of it soon. Its end is told by [`NodeService::follow_pauses`].
    async fn pause(&self, pause: Option<Pause>, events: &mpsc::Sender<Event>) -> VerbResult {
        let courtesy = self.node.courtesy()?.clone();
        assemble::blocking(move || courtesy.set_pause(pause)).await??;
        send(events, Event::Summary { verb: "pause".into(), summary: pause_summary(pause, true) }).await;
        Ok(Outcome { code: ExitCode::Success })
    }

    /// Tells the others of every pause and of its end, for as long as the node runs.
    pub(super) async fn follow_pauses(&self) {
        let Ok(courtesy) = self.node.courtesy() else { return std::future::pending().await };
        let mut pauses = courtesy.pauses();
        while pauses.changed().await.is_ok() {
            self.node.announce().await;
        }
        std::future::pending().await
    }

    async fn node_status(&self, refresh: bool) -> Result<NodeStatus, Failure> {
        // A node without peers still has a status.
        let peers = self.known_peers(refresh).await.unwrap_or_default();
        self.node.status(self.daemon, &peers)
    }
}

impl Service for NodeService {
    fn run(&self, call: Call) -> BoxFuture<'_, VerbResult> {
        self.run_call(call).boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<NodeStatus, Failure>> {
        self.node_status(false).boxed()
    }

    fn peers(&self) -> BoxFuture<'_, Result<Vec<serde_json::Value>, Failure>> {
        async { Ok(self.known_peers(false).await.unwrap_or_default().iter().map(peer_row).collect()) }.boxed()
    }

    fn shards(&self, after: Option<ShardPlace>) -> BoxFuture<'_, Result<ShardPage, Failure>> {
        self.node.shards(after).boxed()
    }

    fn make_vault(&self, passphrase: Option<SecretText>) -> BoxFuture<'_, Result<SecretText, Failure>> {
        async move {
            let _turn = self.enter_vault(Entry::Replacer).await?;
            folder::make_vault(self.node.dir(), passphrase).await
        }
        .boxed()
    }
}

/// What `node pause` and `node resume` end with.
pub(crate) fn pause_summary(pause: Option<Pause>, runs: bool) -> serde_json::Value {
    let until = match pause {
        Some(Pause::Until(end)) => Some(end.0),
        _ => None,
    };
    serde_json::json!({ "paused": pause.is_some(), "until_ms": until, "node_runs": runs })
}

fn peer_row(peer: &PeerView) -> serde_json::Value {
    let mut row = serde_json::to_value(peer).unwrap_or_default();
    row["roles"] = peer.roles.names().into();
    row
}

/// A caller that no longer listens does not stop a verb; it cancels it through the token.
pub(super) async fn send(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.send(event).await;
}
