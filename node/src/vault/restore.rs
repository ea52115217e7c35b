//! A snapshot back onto a disk.
//!
//! Three stages: a blocking thread walks the tree and places entries; an async stage fetches ahead, in order, as far as
//! [`Ahead`] has room; another blocking thread writes. A file whose chunks cannot be had is named and dropped whole; the
//! rest goes on.
//!
//! Memory: what [`Ahead`] holds, the reader's caches (about 70 MiB), the shards on their way (24 MiB), what the reader's
//! threads work on (a few MiB each), and of the chunk ids of the file in work what `content_ids` holds.
//!
//! - **DUR-2** Only verified chunks reach a file, and a file takes its place only when it is complete.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use cairn_proto::tree::{ContentRef, Node};
use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Vault, browse, failures,
    pieces::{Ahead, Held, PARTS},
    reader::{ReadError, Reader},
    tree_walk::{TreeStep, TreeWalk},
};
use crate::{
    failure::{ExitCode, Failure},
    files::{
        filter::Filter,
        write::{Descend, FileSink, Placed, RestoreOptions, RestoreReport, Restorer},
    },
    ops::{Event, ItemError, Outcome, Progress, RestoreArgs, VerbResult, decode_path},
    overlay::Overlay,
};

/// Files handed from stage to stage at once: to wake another thread for each small one costs more than the file.
const BATCH: usize = 64;
/// Batches of files placed ahead of the fetcher. A file that waits is its entry, without a descriptor.
const BATCHES_AHEAD: usize = 8;
/// Batches of parts fetched ahead of the writer; what is in them is counted by [`Ahead`].
const PARTS_BATCHES: usize = 4;

struct Job {
    sink: Box<FileSink>,
    content: ContentRef,
}

enum Part {
    Begin(Box<FileSink>),
    Data(Result<Held, ReadError>),
    End,
}

#[derive(Default)]
struct Tally {
    lost: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Tally {
    fn read_failed(&self, events: &mpsc::Sender<Event>, item: String, error: &ReadError) {
        if error.is_loss() { &self.lost } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
        let item = ItemError { item, during: "fetch".to_owned(), message: error.to_string() };
        let _ = events.blocking_send(Event::Error(item));
    }

    fn write_failed(&self, events: &mpsc::Sender<Event>, item: ItemError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let _ = events.blocking_send(Event::Error(item));
    }
}

/// Runs a restore.
pub(super) async fn restore(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    args: RestoreArgs,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) -> VerbResult {
    let started = Instant::now();
    let usage = |text: String| Failure::new(ExitCode::Usage, "USAGE", text);
    let filter = |patterns: &[String]| Filter::new(patterns).map_err(|e| failures::pattern(&e));
    let options = RestoreOptions {
        overwrite: args.overwrite.as_deref().unwrap_or("if-changed").parse().map_err(usage)?,
        include: filter(&args.include)?,
        exclude: filter(&args.exclude)?,
        verify: args.verify,
        dry_run: args.dry_run,
        no_sync: false,
    };
    let target = decode_path(&args.target);
    if !target.is_absolute() {
        return Err(usage("the target must be an absolute path".to_owned()));
    }
    let (name, below) = args.snapshot.split_once(':').unwrap_or((&args.snapshot, ""));
    let (id, record) = browse::pick(vault, name)?;
    let reader = Arc::new(Reader::new(vault.keys.clone(), overlay, Some(vault.catalogue.clone())));
    let root = browse::locate(&reader, &record.root, below).await?;

    // Whoever drops this verb does not wait for its threads, so they must be told.
    let stop = cancel.child_token();
    let _told = stop.clone().drop_guard();
    let tally = Arc::new(Tally::default());
    let (jobs, queue) = mpsc::channel::<Vec<Job>>(BATCHES_AHEAD);
    let (parts, written) = mpsc::channel::<Vec<Part>>(PARTS_BATCHES);
    let placing = {
        let (reader, events, cancel, tally) = (reader.clone(), events.clone(), stop.clone(), tally.clone());
        tokio::task::spawn_blocking(move || place_all(&reader, root, target, options, &jobs, &events, &cancel, &tally))
    };
    let writing = {
        let (events, tally) = (events.clone(), tally.clone());
        tokio::task::spawn_blocking(move || write_all(written, &events, &tally))
    };
    let fetched = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(failures::restore_interrupted()),
        () = fetch_all(&reader, queue, parts) => Ok(()),
        () = progress(&events, &tally, &reader, started, record.total_files, record.total_bytes) => Ok(()),
    };
    writing.await.map_err(|e| failures::bug("RESTORE", &e))?;
    let restorer = placing.await.map_err(|e| failures::bug("RESTORE", &e))??;
    let disk = restorer.disk();
    let ending = {
        let (events, tally) = (events.clone(), tally.clone());
        tokio::task::spawn_blocking(move || {
            let (report, errors) = restorer.finish();
            for item in errors {
                tally.write_failed(&events, item);
            }
            report
        })
    };
    let report: RestoreReport = ending.await.map_err(|e| failures::bug("RESTORE", &e))?;
    fetched?;
    if disk.is_full() {
        return Err(failures::target_full(report.files));
    }
    let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let summary = serde_json::json!({
        "snapshot_id": id.to_string(),
        "total_files": record.total_files,
        "files_restored": report.files,
        "files_skipped": report.left,
        "dirs_restored": report.folders,
        "others_restored": report.others,
        "links_restored": report.links,
        "total_bytes": record.total_bytes,
        "bytes_restored": report.bytes,
        "bytes_fetched": reader.bytes_fetched(),
        "wrong_shards": reader.wrong_shards(),
        "owners_kept": report.owners_kept,
        "files_lost": load(&tally.lost),
        "errors": load(&tally.failed) + load(&tally.lost),
        "seconds_elapsed": started.elapsed().as_secs_f64(),
        "dry_run": args.dry_run,
    });
    let _ = events.send(Event::Summary { verb: "restore".to_owned(), summary }).await;
    let code = match () {
        () if load(&tally.lost) > 0 => ExitCode::Lost,
        () if load(&tally.failed) > 0 => ExitCode::Partial,
        () => ExitCode::Success,
    };
    Ok(Outcome { code })
}

async fn progress(
    events: &mpsc::Sender<Event>,
    tally: &Tally,
    reader: &Reader,
    started: Instant,
    files: u64,
    bytes: u64,
) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let done = tally.bytes.load(Ordering::Relaxed);
        let progress = Progress {
            phase: "restore".to_owned(),
            percent_done: (bytes > 0).then(|| (done as f64 / bytes as f64).min(1.0)),
            total_files: files,
            files_done: tally.files.load(Ordering::Relaxed),
            total_bytes: bytes,
            bytes_done: done,
            bytes_sent: reader.bytes_fetched(),
            elapsed_ms: started.elapsed().as_millis() as u64,
            ..Progress::default()
        };
        let _ = events.try_send(Event::Status(progress));
    }
}

/// Blocking: walks the tree, places entries, hands out the files that need content.
#[allow(clippy::too_many_arguments, reason = "a thread's whole world")]
fn place_all(
    reader: &Reader,
    root: Node,
    target: PathBuf,
    options: RestoreOptions,
    jobs: &mpsc::Sender<Vec<Job>>,
    events: &mpsc::Sender<Event>,
    cancel: &CancellationToken,
    tally: &Tally,
) -> Result<Restorer, Failure> {
    let mut restorer = Restorer::new(&target, options).map_err(|e| {
        let mut failure = Failure::new(ExitCode::Failed, "TARGET", e.to_string()).with_hint(
            "name a folder that you may write to, or one that does not exist yet, with --target; nothing was written",
        );
        failure.causes.extend(std::error::Error::source(&e).map(ToString::to_string));
        failure
    })?;
    let runtime = tokio::runtime::Handle::current();
    let single = root.kind != cairn_proto::tree::NodeKind::Dir;
    let mut batch = Vec::with_capacity(BATCH);
    if single {
        place_one(&mut restorer, &root, &mut batch);
    }
    let mut walk = TreeWalk::new(reader, if single { ContentRef::empty() } else { root.content });
    loop {
        let step = runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                step = next_step(walk.next(), &mut batch, jobs) => step,
            }
        });
        match step {
            None => break,
            Some(TreeStep::Enter(node)) => {
                if restorer.enter(&node) == Descend::Skip {
                    walk.skip();
                }
            }
            Some(TreeStep::Leave) => restorer.leave(),
            Some(TreeStep::Leaf(node)) => place_one(&mut restorer, &node, &mut batch),
            Some(TreeStep::Failed(error)) => {
                let path = String::from_utf8_lossy(&walk.path_of(b"")).into_owned();
                tally.read_failed(events, path, &error);
            }
        }
        for item in restorer.take_errors() {
            tally.write_failed(events, item);
        }
        if restorer.disk().is_full() {
            break;
        }
    }
    Ok(restorer)
}

/// The next step of the walk; what was placed goes on first when there is enough of it, or nothing else to do meanwhile.
/// `None` at the end, and when nobody takes the contents any more.
async fn next_step<S, J>(
    next: impl Future<Output = Option<S>>,
    batch: &mut Vec<J>,
    jobs: &mpsc::Sender<Vec<J>>,
) -> Option<S> {
    if batch.len() >= BATCH {
        jobs.send(std::mem::take(batch)).await.ok()?;
    }
    let mut next = std::pin::pin!(next);
    let step = match futures::poll!(next.as_mut()) {
        Poll::Ready(step) => step,
        Poll::Pending if batch.is_empty() => next.await,
        Poll::Pending => {
            // Both at once: what the walk waits for it may be fetching itself, for the fetcher as well, which then takes no batch.
            let (step, sent) = futures::join!(next, jobs.send(std::mem::take(batch)));
            sent.ok()?;
            step
        }
    };
    if step.is_none() && !batch.is_empty() {
        jobs.send(std::mem::take(batch)).await.ok()?;
    }
    step
}

fn place_one(restorer: &mut Restorer, node: &Node, batch: &mut Vec<Job>) {
    if let Placed::Content(sink) = restorer.place(node) {
        batch.push(Job { sink, content: node.content.clone() });
    }
}

/// Fetches what the placed files need and hands it to the writer.
async fn fetch_all(reader: &Arc<Reader>, queue: mpsc::Receiver<Vec<Job>>, parts: mpsc::Sender<Vec<Part>>) {
    let mut ahead = parts_ahead(reader.clone(), queue).ready_chunks(BATCH);
    while let Some(batch) = ahead.next().await {
        if parts.send(batch).await.is_err() {
            return;
        }
    }
}

/// Turns files into parts, fetched ahead, order kept; dropping the stream ends the fetches.
fn parts_ahead(reader: Arc<Reader>, mut queue: mpsc::Receiver<Vec<Job>>) -> BoxStream<'static, Part> {
    let ready = |part: Part| futures::stream::iter([futures::future::ready(part).boxed()]);
    let files = futures::stream::poll_fn(move |cx| queue.poll_recv(cx));
    let ahead = Ahead::new(reader);
    let parts_of = move |job: Job| {
        let data = ahead.fetches(&job.content).map(|fetch| fetch.map(Part::Data).boxed());
        ready(Part::Begin(job.sink)).chain(data).chain(ready(Part::End)).boxed()
    };
    files.flat_map(futures::stream::iter).flat_map(parts_of).buffered(PARTS).boxed()
}

/// Blocking: writes what comes, file after file. Ends early when the disk is full, and the other stages with it.
fn write_all(mut parts: mpsc::Receiver<Vec<Part>>, events: &mpsc::Sender<Event>, tally: &Tally) {
    let mut open: Option<Box<FileSink>> = None;
    for part in std::iter::from_fn(|| parts.blocking_recv()).flatten() {
        match part {
            Part::Begin(sink) => open = Some(sink),
            Part::Data(Ok(held)) => {
                if let Some(sink) = &mut open {
                    tally.bytes.fetch_add(held.bytes.len() as u64, Ordering::Relaxed);
                    if let Err(item) = held.bytes.iter().try_for_each(|part| sink.write(part)) {
                        let disk = sink.disk();
                        open = None;
                        tally.write_failed(events, item);
                        if disk.is_full() {
                            return;
                        }
                    }
                }
            }
            Part::Data(Err(error)) => {
                if let Some(sink) = open.take() {
                    tally.read_failed(events, sink.path().to_string_lossy().into_owned(), &error);
                }
            }
            Part::End => {
                if let Some(sink) = open.take() {
                    let disk = sink.disk();
                    match sink.finish() {
                        Ok(warnings) => {
                            tally.files.fetch_add(1, Ordering::Relaxed);
                            for item in warnings {
                                tally.write_failed(events, item);
                            }
                        }
                        Err(item) => tally.write_failed(events, item),
                    }
                    if disk.is_full() {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the fetcher waits for may be what the walk is fetching: the walk goes on while its batch finds no room.
    #[tokio::test]
    async fn a_full_queue_does_not_stop_the_walk() {
        let (jobs, mut queue) = mpsc::channel(1);
        jobs.send(vec![1]).await.expect("room");
        let fetched = tokio::sync::Notify::new();
        let walk = async {
            tokio::task::yield_now().await;
            fetched.notify_one();
            Some("step")
        };
        let fetcher = async {
            fetched.notified().await;
            (queue.recv().await, queue.recv().await)
        };
        let mut batch = vec![2, 3];
        let both = async { tokio::join!(next_step(walk, &mut batch, &jobs), fetcher) };
        let both = tokio::time::timeout(Duration::from_secs(60), both).await.expect("no deadlock");
        assert_eq!(both, (Some("step"), (Some(vec![1]), Some(vec![2, 3]))));
        assert!(batch.is_empty());
    }

    #[tokio::test]
    async fn what_was_placed_goes_on_at_the_end() {
        let (jobs, mut queue) = mpsc::channel(2);
        let mut batch = vec![7; BATCH - 1];
        assert_eq!(next_step(std::future::ready(Some(1)), &mut batch, &jobs).await, Some(1));
        assert!(queue.try_recv().is_err(), "more may come");
        assert_eq!(next_step(std::future::ready(None::<i32>), &mut batch, &jobs).await, None);
        assert_eq!(queue.try_recv().map(|batch| batch.len()), Ok(BATCH - 1));
        drop(queue);
        let mut batch = vec![7; BATCH];
        assert_eq!(next_step(std::future::ready(Some(1)), &mut batch, &jobs).await, None, "nobody takes it");
    }
}
