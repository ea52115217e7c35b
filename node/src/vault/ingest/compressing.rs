//! Runs under compression: on a few threads at once, and out in the order in which they went in, so that where a run lies
//! does not depend on which thread was faster.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use cairn_core::pack::{PackedRun, RawRun, compress};
use cairn_proto::ChunkId;
use tokio::sync::oneshot::{self, Receiver, error::TryRecvError};

use super::{IngestError, Lane};

/// Bytes under compression before the scan waits for the oldest run: eight runs of files, thirty-two of a stream.
pub(super) const WAITING_MAX: usize = 8 << 20;

/// Threads at most: beyond, the scan is slower than they are.
const THREADS_MAX: usize = 8;

/// Runs in the queue to the threads: with more, of which each is tiny, the scan waits.
const RUNS_MAX: usize = 64;

type Work = (RawRun, oneshot::Sender<PackedRun>);

/// The queue, and its threads once there is work; they end with it.
#[derive(Default)]
pub(super) struct Compressing {
    queue: VecDeque<(Lane, usize, Receiver<PackedRun>)>,
    bytes: usize,
    work: Option<mpsc::SyncSender<Work>>,
}

impl Compressing {
    /// Hands a run to a thread; when none can be had it is compressed here.
    pub(super) fn push(&mut self, lane: Lane, run: RawRun) {
        let size = run.raw.len();
        let (sender, receiver) = oneshot::channel();
        let work = self.work.get_or_insert_with(threads);
        if let Err(mpsc::SendError((run, sender))) = work.send((run, sender)) {
            // The receiver is ours and still there.
            let _ = sender.send(compress(run));
        }
        self.bytes += size;
        self.queue.push_back((lane, size, receiver));
    }

    /// Puts a chunk that is stored as it lies behind the runs that wait.
    pub(super) fn push_alone(&mut self, lane: Lane, id: ChunkId, chunk: &[u8]) {
        let (sender, receiver) = oneshot::channel();
        // The receiver is ours and still there.
        let _ = sender.send(PackedRun::alone(id, chunk));
        self.bytes += chunk.len();
        self.queue.push_back((lane, chunk.len(), receiver));
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The oldest run, when it is done or more waits than may.
    pub(super) fn due(&mut self) -> Result<Option<(Lane, PackedRun)>, IngestError> {
        if self.bytes > WAITING_MAX {
            return self.next();
        }
        let Some((lane, size, receiver)) = self.queue.front_mut() else { return Ok(None) };
        match receiver.try_recv() {
            Ok(run) => {
                let lane = *lane;
                self.bytes -= *size;
                self.queue.pop_front();
                Ok(Some((lane, run)))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Closed) => Err(IngestError::Compressor),
        }
    }

    /// The oldest run, waited for: not to be called on a thread that drives tasks.
    pub(super) fn next(&mut self) -> Result<Option<(Lane, PackedRun)>, IngestError> {
        let Some((lane, size, receiver)) = self.queue.pop_front() else { return Ok(None) };
        self.bytes -= size;
        receiver.blocking_recv().map(|run| Some((lane, run))).map_err(|_| IngestError::Compressor)
    }
}

/// As many threads as the machine runs at once; none when the system gives none.
fn threads() -> mpsc::SyncSender<Work> {
    let (sender, receiver) = mpsc::sync_channel::<Work>(RUNS_MAX);
    let receiver = Arc::new(Mutex::new(receiver));
    let count = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    for _ in 0..count {
        let receiver = Arc::clone(&receiver);
        let body = move || {
            loop {
                let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((run, done)) = next else { return };
                // Whoever asked may have gone meanwhile.
                let _ = done.send(compress(run));
            }
        };
        if let Err(e) = thread::Builder::new().name("cairn-compress".to_owned()).spawn(body) {
            tracing::warn!("no thread to compress with: {e}");
        }
    }
    sender
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(of: u8, bytes: usize) -> RawRun {
        RawRun { raw: vec![of; bytes], chunks: Vec::new() }
    }

    #[test]
    fn runs_come_out_in_order_and_few_wait() {
        let mut queue = Compressing::default();
        let mut out = Vec::new();
        for i in 0..40u8 {
            // The first of each pair takes far longer than the second.
            let size = if i % 2 == 0 { 3 << 20 } else { 10 };
            queue.push(if i % 3 == 0 { Lane::Metadata } else { Lane::Data }, run(i, size));
            while let Some(done) = queue.due().expect("no thread dies") {
                out.push(done);
            }
            assert!(queue.bytes <= WAITING_MAX, "{} bytes wait", queue.bytes);
        }
        while let Some(done) = queue.next().expect("no thread dies") {
            out.push(done);
        }
        assert_eq!(queue.bytes, 0);
        for (i, (lane, packed)) in (0..40u8).zip(&out) {
            let size = if i % 2 == 0 { 3 << 20 } else { 10 };
            assert_eq!(packed, &compress(run(i, size)));
            assert_eq!(*lane, if i % 3 == 0 { Lane::Metadata } else { Lane::Data });
        }
        assert_eq!(out.len(), 40);
    }

    #[test]
    fn what_is_stored_as_it_lies_waits_for_those_before_it() {
        let mut queue = Compressing::default();
        let id = ChunkId::from_bytes([7; 32]);
        queue.push(Lane::Data, run(1, 3 << 20));
        for of in 2..9u8 {
            queue.push_alone(Lane::Data, id, &vec![of; 1 << 20]);
        }
        assert!(!queue.is_empty());
        let first = queue.due().expect("no thread dies");
        let first = first.unwrap_or_else(|| queue.next().expect("no thread dies").expect("it waits"));
        assert_eq!(first.1, compress(run(1, 3 << 20)));
        for of in 2..9u8 {
            let (_, packed) = queue.due().expect("no thread dies").expect("it needs no thread");
            assert_eq!(packed, PackedRun::alone(id, &vec![of; 1 << 20]));
        }
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn without_a_thread_it_works_as_well() {
        let (nobody, _) = mpsc::sync_channel(1);
        let mut queue = Compressing { work: Some(nobody), ..Compressing::default() };
        queue.push(Lane::Data, run(1, 100_000));
        let (_, packed) = queue.due().expect("no thread dies").expect("done at once");
        assert_eq!(packed, compress(run(1, 100_000)));
    }

    #[test]
    fn a_thread_that_dies_is_an_error() {
        let mut queue = Compressing::default();
        let (sender, receiver) = oneshot::channel();
        drop(sender);
        let (sender, second) = oneshot::channel();
        drop(sender);
        queue.queue.extend([(Lane::Data, 0, receiver), (Lane::Data, 0, second)]);
        assert!(matches!(queue.due(), Err(IngestError::Compressor)));
        queue.queue.pop_front();
        assert!(matches!(queue.next(), Err(IngestError::Compressor)));
    }
}
