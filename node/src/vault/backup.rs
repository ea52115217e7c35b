//! One backup from start to end: who is there, what is open, scan and pack on a blocking thread, stripes in flight,
//! commit.
//!
//! Memory while it runs: [`IN_FLIGHT`] stripes of 8 shards (48 MiB; replicas share their bytes), [`QUEUED`] payloads
//! waiting (5 MiB each) and the packing thread's 20 MiB: about 80 MiB, whatever the size of the source.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use cairn_core::{chunking::ChunkProfile, durability::repairs::RepairFigures, pack::StripeNumbers};
use cairn_proto::{Timestamp, index::StripeNo};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Vault,
    catalogue::Meta,
    commit::HEAD_QUORUM,
    failures, fallback,
    ingest::{Figures, Ingest, Out},
    leaning::Storage,
    promise::Kept,
    session::{Session, StoreError, StripeJob},
    sources::{self, FileSource, LateFiles, Scanned, SourceError},
    stewards::{self, Watched},
    stream_input::StreamInput,
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{BackupArgs, Event, Outcome, Progress, VerbResult, decode_path},
    overlay::Overlay,
};

mod ending;
mod notices;
mod opening;

pub(super) use opening::open_session;

use ending::{finish, record};
use opening::promised;

/// Stripes in flight: with 8 slots each, 48 transfers keep a dozen peers busy at any round-trip time.
const IN_FLIGHT: usize = 6;
/// Payloads that wait for a free place in flight.
const QUEUED: usize = 2;
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
