//! One backup from start to end: who is there, what is open, scan and pack on a blocking thread, stripes in flight,
//! commit.
//!
//! Memory while it runs: [`IN_FLIGHT`] stripes of 8 shards (48 MiB; replicas share their bytes), [`QUEUED`] payloads
//! waiting (5 MiB each) and the packing thread's 20 MiB: about 80 MiB, whatever the size of the source.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use cairn_core::{
    chunking::ChunkProfile,
    durability::{UnknownSla, repairs::RepairFigures},
    keys::KeyMode,
    pack::StripeNumbers,
    placement::{Owner, PlacementError, PlacementPolicy},
};
use cairn_proto::{
    SnapshotId, Timestamp,
    index::StripeNo,
    manifest::{EpochRow, SnapshotRecord, SourceKind},
    tree::ContentRef,
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Vault,
    catalogue::{CatalogueError, Counters, Meta},
    commit::{Commit, HEAD_QUORUM},
    failures, fallback,
    groups::{Groups, PlaceError, Use},
    ingest::{Figures, Ingest, Out},
    leaning::Storage,
    promise::{self, Kept, Promise},
    reader::Reader,
    session::{Session, StoreError, StripeJob},
    sources::{self, FileSource, LateFiles, Scanned, SourceError},
    stewards::{self, Watched},
    stream_input::StreamInput,
    tree_walk,
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{BackupArgs, Event, Outcome, Progress, VerbResult, decode_path},
    overlay::Overlay,
};

mod notices;

/// Stripes in flight: with 8 slots each, 48 transfers keep a dozen peers busy at any round-trip time.
const IN_FLIGHT: usize = 6;
/// Payloads that wait for a free place in flight.
const QUEUED: usize = 2;
/// How long holders are asked to keep shards: 13 months, as long as a steward's mandate.
const LEASE_MS: u64 = 396 * 24 * 3600 * 1000;
/// Looks at a network that seems too small, before that is believed: a node that just came still hears of peers.
const LOOKS: usize = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(700);
/// Between two progress events.
const TICK: Duration = Duration::from_secs(1);

/// Runs a backup.
pub(super) async fn backup(
    vault: &Vault,
    (overlay, storage): (Arc<dyn Overlay>, Arc<Storage>),
    (args, repairs): (BackupArgs, RepairFigures),
    input: Option<StreamInput>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) -> VerbResult {
    let started = Instant::now();
    let now = super::now();
    // A name, tag or path that no snapshot can have is refused before anything is sent.
    record(&args, now)
        .encode()
        .map_err(|e| Failure::new(ExitCode::Usage, "USAGE", format!("no snapshot can be named so: {e}")))?;
    let source = Source::new(&args, input)?;
    let counters = vault.check_network_head(&overlay).await?;
    let promise = promised(vault, &args)?.map(|promise| (promise, repairs));
    let session = Arc::new(open_session(vault, (overlay, &storage), now, counters, promise, &events, &cancel).await?);
    if let Some(kept) = session.promised.as_ref().filter(|_| !args.dry_run) {
        kept.promise.remember(&vault.catalogue).map_err(failures::catalogue)?;
    }
    let (unreadable, repaired, moved_back) = match args.dry_run {
        true => (0, 0, 0),
        false => {
            let unreadable = tokio::select! {
                () = cancel.cancelled() => return Err(failures::interrupted()),
                looked = super::shortfall::look(&session, now) => looked?,
            };
            let repaired = super::shortfall::complete(&session, &cancel, super::shortfall::TIME).await;
            (unreadable, repaired, fallback::move_back(&session, &cancel, fallback::TIME).await)
        }
    };

    let figures = Arc::new(Figures::default());
    let (sender, queue) = mpsc::channel(QUEUED);
    let (highest_stripe, _) = vault.catalogue.highest_numbers().map_err(failures::catalogue)?;
    let numbers = StripeNumbers::from_next(StripeNo(counters.next_stripe.max(highest_stripe + 1)));
    let out = match args.dry_run {
        true => {
            drop(sender);
            Out::Nowhere
        }
        false => Out::Senders(sender),
    };
    let ingest = Ingest::new(
        vault.keys.clone(),
        vault.catalogue.clone(),
        session.groups.policy().code,
        source.profile(),
        numbers,
        out,
        figures.clone(),
    )
    .map_err(|e| failures::bug("PACK", &e))?
    .sharing(session.under_way.clone());
    vault.catalogue.set_meta(Meta::Running, Some(vec![1])).map_err(failures::catalogue)?;
    vault.catalogue.flush().map_err(failures::catalogue)?;

    // Whoever drops this verb does not wait for the scanning thread, so it must be told.
    let stop = cancel.child_token();
    let _told = stop.clone().drop_guard();
    let scanning = {
        let (figures, events, stop) = (figures.clone(), events.clone(), stop.clone());
        tokio::task::spawn_blocking(move || scan(source, ingest, figures, events, stop, now))
    };
    let sending = send_all(&session, queue, &figures, &events, &cancel, started).await;
    if sending.is_err() {
        stop.cancel();
    }
    let scanned = scanning.await.map_err(|e| failures::bug("SCAN", &e))?;
    let ended = finish(vault, &session, &args, sending, scanned, &events, &cancel, counters, now).await;
    // Numbers of stripes that were on their way are burnt; the rows say so.
    let groups = session.groups.rows();
    for row in groups {
        vault.catalogue.set_group(&row).map_err(failures::catalogue)?;
    }
    session.record_given().map_err(failures::catalogue)?;
    vault.catalogue.set_meta(Meta::Running, None).map_err(failures::catalogue)?;
    vault.catalogue.flush().map_err(failures::catalogue)?;

    let done = ended?;
    let watched = if args.dry_run { Watched::default() } else { stewards::leave(&session, now, &cancel).await };
    let swept = if args.dry_run { 0 } else { fallback::sweep(&session, &cancel, fallback::TIME).await };
    let leans = fallback::usage(&vault.catalogue, session.overlay.as_ref()).map_err(failures::catalogue)?;
    notices::tell_leaning(&storage, &leans, &events).await;
    let stripes_lost = notices::tell(&session, &watched, unreadable, done.stripes_lost, &events).await?;
    let scanned = &done.scanned;
    // Of all runs, not of this one alone: what an earlier run left short is short.
    let below_target = vault.catalogue.short().map_err(failures::catalogue)?.len();
    let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let summary = serde_json::json!({
        "files_new": scanned.files_new,
        "files_changed": scanned.files_changed,
        "files_unmodified": scanned.files_unmodified,
        "dirs_new": scanned.dirs,
        "data_blobs": load(&figures.data_chunks),
        "tree_blobs": load(&figures.tree_chunks),
        "data_added": load(&figures.added),
        "data_added_packed": load(&figures.stored),
        "bytes_sent": session.bytes_sent(),
        "total_files_processed": scanned.total_files,
        "total_bytes_processed": scanned.total_bytes,
        "backup_start_ms": now.0,
        "backup_start": super::time_text(now),
        "backup_end": super::time_text(super::now()),
        "total_duration": started.elapsed().as_secs_f64(),
        "snapshot_id": done.snapshot.map(|id| id.to_string()),
        "dry_run": args.dry_run,
        "errors": scanned.errors,
        "stripes_below_target": below_target,
        "stripes_completed": repaired,
        "stripes_unreadable": unreadable,
        "stripes_lost": stripes_lost,
        "head_kept_by": done.head_kept_by,
        "groups": watched.groups,
        "groups_watched": watched.watched,
        "stewards_fewest": watched.fewest,
        "stewards_most": watched.most,
        "fallback": fallback::told(&leans),
        "fallback_moved_to_peers": moved_back,
        "fallback_deleted": swept,
        "placement": { "first_attempt": session.groups.first_attempt() },
        "sla": session.promised.as_ref().map(Kept::told),
    });
    let _ = events.send(Event::Summary { verb: "backup".to_owned(), summary }).await;
    let code = match () {
        () if scanned.errors > 0 => ExitCode::Partial,
        () if below_target > 0 || done.head_kept_by.is_some_and(|n| n < HEAD_QUORUM) => ExitCode::BelowTarget,
        () if done.unchanged => ExitCode::NothingToDo,
        () => ExitCode::Success,
    };
    Ok(Outcome { code })
}

enum Source {
    Files(FileSource),
    Stream { name: String, input: StreamInput },
}

impl Source {
    fn new(args: &BackupArgs, input: Option<StreamInput>) -> Result<Self, Failure> {
        let usage = |text: &str| Failure::new(ExitCode::Usage, "USAGE", text);
        if let Some(name) = &args.stdin_filename {
            let input = input.ok_or_else(|| usage("a stream backup needs a stream"))?;
            return Ok(Self::Stream { name: name.clone(), input });
        }
        if args.paths.is_empty() {
            return Err(usage("nothing to back up: name at least one path"));
        }
        let options = sources::walk_options(args).map_err(|e| usage(&e))?;
        let paths = args.paths.iter().map(|p| decode_path(p)).collect();
        Ok(Self::Files(FileSource { paths, options, force: args.force }))
    }

    const fn profile(&self) -> ChunkProfile {
        match self {
            Self::Files(_) => ChunkProfile::Files,
            Self::Stream { .. } => ChunkProfile::Stream,
        }
    }
}

/// What the vault promises from this run on: what is named now, or what was named once; `none` takes it back.
fn promised(vault: &Vault, args: &BackupArgs) -> Result<Option<Promise>, Failure> {
    let before = Promise::of(&vault.catalogue).map_err(failures::catalogue)?;
    let Some(named) = args.sla.as_deref() else { return Ok(before) };
    if named.eq_ignore_ascii_case(promise::NONE) {
        if !args.dry_run {
            vault.catalogue.set_meta(Meta::Promise, None).map_err(failures::catalogue)?;
        }
        return Ok(None);
    }
    let sla = named.parse().map_err(|e: UnknownSla| {
        Failure::new(ExitCode::Usage, "SLA", format!("{named:?} is no promise that a vault can make"))
            .caused_by(&e)
            .with_hint("none takes a promise back")
    })?;
    Ok(Some(before.filter(|before| before.sla == sla).unwrap_or(Promise::new(sla))))
}

/// Knows the peers, takes over the groups that are left open.
pub(super) async fn open_session(
    vault: &Vault,
    (overlay, storage): (Arc<dyn Overlay>, &Storage),
    now: Timestamp,
    counters: Counters,
    promise: Option<(Promise, RepairFigures)>,
    events: &mpsc::Sender<Event>,
    cancel: &CancellationToken,
) -> Result<Session, Failure> {
    let mut peers = overlay.peers(true).await.map_err(failures::overlay)?;
    let (stripes, highest_group) = vault.catalogue.highest_numbers().map_err(failures::catalogue)?;
    let crashed = vault.catalogue.meta(Meta::Running).map_err(failures::catalogue)?.is_some();
    let mut left = Vec::new();
    for row in vault.catalogue.groups() {
        let mut row = row.map_err(failures::catalogue)?;
        match (row.sealed, crashed) {
            (true, _) => {}
            (false, false) => left.push(row),
            (false, true) => {
                // Nobody knows which ordinals a run gave out that did not end: its groups take no more.
                row.sealed = true;
                vault.catalogue.set_group(&row).map_err(failures::catalogue)?;
            }
        }
    }
    let owner = Owner { peer: overlay.me(), domain: overlay.my_domain() };
    let next_group = counters.next_group.max(highest_group + 1);
    let mut looks = LOOKS;
    let (groups, promised) = loop {
        let promised = promise.map(|(promise, repairs)| promise.follow(&peers, stripes, &repairs, now));
        let policy = promised.as_ref().map_or_else(|| PlacementPolicy::for_network(&peers), |kept| kept.policy(&peers));
        let (keys, owner) = (vault.keys.clone(), owner.clone());
        // Peers of which we have not heard yet come before fallback storage.
        let leaning = Use { stand: storage.stand(), now: looks == 1 };
        let groups = Groups::new(keys, owner, peers.clone(), now, left.clone(), next_group, policy, leaning);
        groups.vet(vault.catalogue.given(now).map_err(failures::catalogue)?, overlay.as_ref());
        match groups.ready() {
            Ok(()) => {
                groups.may_lean();
                break (groups, promised);
            }
            Err(PlaceError::Placement(PlacementError::TooFewPeers { .. })) if looks > 1 => {
                looks -= 1;
                tokio::select! {
                    () = cancel.cancelled() => return Err(failures::interrupted()),
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                peers = overlay.peers(true).await.map_err(failures::overlay)?;
            }
            Err(e) => return Err(failures::store(&StoreError::Place(e))),
        }
    };
    if let Some((id, text)) = promised.as_ref().and_then(Kept::notice) {
        let _ = events.send(Event::Notice { id: id.to_owned(), text }).await;
    }
    if let Some(notice) = groups.policy().notice {
        let id = match notice {
            cairn_core::placement::PolicyNotice::LowPeer { .. } => "LOW_PEER_MODE",
            cairn_core::placement::PolicyNotice::SingleReplica { .. } => "SINGLE_REPLICA",
        };
        let _ = events.send(Event::Notice { id: id.to_owned(), text: notice.to_string() }).await;
    }
    groups.learn_formers(vault.catalogue.formers().map_err(failures::catalogue)?);
    let epoch = vault.epochs()?.last().map_or(1, |e| e.number);
    let epoch = Arc::new(vault.keys.epoch(KeyMode::Paper, epoch));
    let lease_until = now.plus_ms(LEASE_MS);
    Ok(Session::new(vault.keys.clone(), epoch, vault.catalogue.clone(), overlay, groups, promised, lease_until))
}

type ScanResult = (Ingest, Result<(Scanned, LateFiles), SourceError>);

fn scan(
    source: Source,
    mut ingest: Ingest,
    figures: Arc<Figures>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    now: Timestamp,
) -> ScanResult {
    let result = match source {
        Source::Files(files) => sources::scan_files(&files, &mut ingest, figures, events, stop),
        Source::Stream { name, input } => {
            sources::scan_stream(&name, input, &mut ingest, &figures, &stop, now).map(|s| (s, Vec::new()))
        }
    };
    let result = result.and_then(|done| {
        ingest.settle()?;
        Ok(done)
    });
    ingest.release_senders();
    (ingest, result)
}

/// Stores stripes as they come, [`IN_FLIGHT`] at once, until the queue ends. Dropping it drops what is in flight.
async fn send_all(
    session: &Arc<Session>,
    mut queue: mpsc::Receiver<StripeJob>,
    figures: &Figures,
    events: &mpsc::Sender<Event>,
    cancel: &CancellationToken,
    started: Instant,
) -> Result<(), Failure> {
    let mut in_flight = FuturesUnordered::new();
    let mut open = true;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(failures::interrupted()),
            Some(done) = in_flight.next(), if !in_flight.is_empty() => {
                let done: Result<_, StoreError> = done;
                done.map_err(|e| failures::store(&e))?;
            }
            job = queue.recv(), if open && in_flight.len() < IN_FLIGHT => match job {
                Some(job) => in_flight.push(session.store(job)),
                None => open = false,
            },
            _ = tick.tick() => {
                let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
                let current = figures.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let progress = Progress {
                    phase: "backup".to_owned(),
                    files_done: load(&figures.files),
                    bytes_done: load(&figures.bytes),
                    bytes_sent: session.bytes_sent(),
                    current: Some(current).filter(|c| !c.is_empty()),
                    elapsed_ms: started.elapsed().as_millis() as u64,
                    ..Progress::default()
                };
                // A slow reader misses a tick, no more.
                let _ = events.try_send(Event::Status(progress));
            }
            else => return Ok(()),
        }
        if !open && in_flight.is_empty() {
            return Ok(());
        }
    }
}

struct Done {
    scanned: Scanned,
    snapshot: Option<SnapshotId>,
    unchanged: bool,
    head_kept_by: Option<usize>,
    /// Known when a commit counted them.
    stripes_lost: Option<usize>,
}

#[allow(clippy::too_many_arguments, reason = "the run's loose ends come together here")]
async fn finish(
    vault: &Vault,
    session: &Session,
    args: &BackupArgs,
    sending: Result<(), Failure>,
    scanned: ScanResult,
    events: &mpsc::Sender<Event>,
    cancel: &CancellationToken,
    counters: Counters,
    now: Timestamp,
) -> Result<Done, Failure> {
    let (mut ingest, scanned) = scanned;
    sending?;
    let (scanned, late) = scanned.map_err(|e| failures::source(&e, cancel))?;
    if cancel.is_cancelled() {
        return Err(failures::interrupted());
    }
    let mine = |record: &SnapshotRecord| record.hostname == hostname(args) && record.paths == source_paths(args);
    let mut snapshots = vault.catalogue.snapshots().map_err(failures::catalogue)?;
    snapshots.retain(|(_, record)| mine(record));
    let parent = snapshots.into_iter().max_by_key(|(_, record)| record.time);
    let unchanged = match &parent {
        Some((_, parent)) if args.skip_if_unchanged => is_unchanged(vault, session, args, parent, &scanned).await,
        _ => false,
    };
    // Where a repair put shards stands in no head yet, what lay in lost stripes was stored anew, or one of them has a part of
    // the index: a head is due all the same.
    let knows_losses = ingest.knows_losses();
    let due = |vault: &Vault| -> Result<bool, CatalogueError> {
        Ok(vault.catalogue.meta(Meta::Moved)?.is_some() || knows_losses || vault.catalogue.index_is_lost()?)
    };
    if args.dry_run || unchanged && !due(vault).map_err(failures::catalogue)? {
        return Ok(Done { scanned, snapshot: None, unchanged, head_kept_by: None, stripes_lost: None });
    }
    let record = SnapshotRecord {
        root: scanned.root.clone(),
        total_files: scanned.total_files,
        total_bytes: scanned.total_bytes,
        data_added: ingest.bytes_added(),
        parent: parent.map(|(id, _)| id),
        ..record(args, now)
    };
    let encoded = record.encode().map_err(|e| failures::bug("SNAPSHOT", &e))?;
    let id = vault.keys.snapshot_id(&encoded);
    let snapshots = if unchanged { Vec::new() } else { vec![(id, record)] };
    let _ = events.try_send(Event::Status(Progress { phase: "commit".to_owned(), ..Progress::default() }));
    let epochs: Vec<EpochRow> = vault.epochs()?;
    let commit = Commit { session, ingest: &mut ingest, snapshots, counters, epochs, now };
    let committed = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(failures::interrupted()),
        done = commit.run() => done.map_err(|e| failures::commit(&e))?,
    };
    // A check may have found more lost meanwhile: then nobody knows whether these are whole.
    if vault.catalogue.lost().map_err(failures::catalogue)?.is_subset(ingest.lost()) {
        vault.catalogue.set_files(&late).map_err(failures::catalogue)?;
    }
    Ok(Done {
        scanned,
        snapshot: (!unchanged).then_some(id),
        unchanged,
        head_kept_by: Some(committed.head_kept_by),
        stripes_lost: Some(committed.stripes_lost),
    })
}

/// The snapshot's record, without what only the scan can tell.
fn record(args: &BackupArgs, now: Timestamp) -> SnapshotRecord {
    SnapshotRecord {
        time: now,
        hostname: hostname(args),
        username: username(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        paths: source_paths(args),
        tags: args.tags.clone(),
        source: if args.stdin_filename.is_some() { SourceKind::Stream } else { SourceKind::Files },
        root: ContentRef::empty(),
        total_files: 0,
        total_bytes: 0,
        data_added: 0,
        program: format!("cairn {}", env!("CARGO_PKG_VERSION")),
        parent: None,
    }
}

/// Whether the sources are as the parent has them. The folders above them do not count: their times change with their
/// other entries.
async fn is_unchanged(
    vault: &Vault,
    session: &Session,
    args: &BackupArgs,
    parent: &SnapshotRecord,
    scanned: &Scanned,
) -> bool {
    if parent.root == scanned.root {
        return true;
    }
    if scanned.errors > 0 || args.paths.is_empty() || scanned.tops.len() != args.paths.len() {
        return false;
    }
    let reader = Reader::new(vault.keys.clone(), session.overlay.clone(), Some(vault.catalogue.clone()));
    for (path, node) in &scanned.tops {
        use std::os::unix::ffi::OsStrExt as _;
        let before = tree_walk::find(&reader, &parent.root, path.as_os_str().as_bytes()).await;
        if !matches!(before, Ok(Some(before)) if before == *node) {
            return false;
        }
    }
    true
}

fn hostname(args: &BackupArgs) -> String {
    args.host.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

fn source_paths(args: &BackupArgs) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;
    match &args.stdin_filename {
        Some(name) => vec![name.as_bytes().to_vec()],
        None => args.paths.iter().map(|p| decode_path(p).into_os_string().into_vec()).collect(),
    }
}

fn username() -> String {
    let owners = crate::files::meta::Owners::load();
    let uid = rustix::process::getuid().as_raw();
    owners.user(uid).unwrap_or_else(|| uid.to_string())
}
