//! Takes what witnesses say, one after the other, and writes what changed: proofs at once, figures now and then.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cairn_core::reputation::Observed;
use cairn_proto::{PeerKey, audit::Evidence};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{files::Files, lock, mind::Mind};
use crate::store::Clock;

/// What a witness said.
pub(super) enum Note {
    Saw(PeerKey, Observed),
    Learned(Box<Evidence>),
}

/// Notes counted at once.
const BATCH: usize = 256;
/// Proofs that came over gossip are looked for this often; those of witnesses are written at once.
const GLANCE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    pub(super) mind: Arc<Mutex<Mind>>,
    pub(super) notes: mpsc::Receiver<Note>,
    /// Counts down what is in the mind.
    pub(super) under_way: Arc<AtomicUsize>,
    pub(super) clock: Clock,
    pub(super) files: Option<Files>,
    pub(super) save: Duration,
    pub(super) cancel: CancellationToken,
}

impl Task {
    pub(super) async fn run(mut self) {
        let mut next_save = Instant::now() + self.save;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let goes_on = tokio::select! {
                biased;
                () = self.cancel.cancelled() => false,
                came = self.notes.recv_many(&mut batch, BATCH) => came > 0,
                () = tokio::time::sleep(GLANCE) => true,
            };
            if !goes_on {
                // What was seen before the end counts.
                while let Ok(note) = self.notes.try_recv() {
                    batch.push(note);
                }
            }
            self.take(&mut batch);
            let save = !goes_on || Instant::now() >= next_save;
            if save {
                next_save = Instant::now() + self.save;
            }
            self.write(save).await;
            if !goes_on {
                return;
            }
        }
    }

    fn take(&self, batch: &mut Vec<Note>) {
        let taken = batch.len();
        for note in batch.drain(..) {
            let now = (self.clock)();
            let mut mind = lock(&self.mind);
            match note {
                Note::Saw(peer, seen) => mind.saw(peer, seen, now),
                Note::Learned(evidence) => mind.learned(&evidence, now),
            }
        }
        self.under_way.fetch_sub(taken, Ordering::AcqRel);
    }

    /// Proofs at once; figures when `save` says so.
    async fn write(&self, save: bool) {
        let Some(files) = self.files.clone() else { return lock(&self.mind).forget_files() };
        let mind = Arc::clone(&self.mind);
        let work = {
            let mind = lock(&mind);
            !mind.unwritten.is_empty() || !mind.gone.is_empty() || !mind.verdicts.is_empty() || save && mind.dirty
        };
        if !work {
            return;
        }
        let now = (self.clock)();
        let written = tokio::task::spawn_blocking(move || write(&files, &mind, save, now)).await;
        if let Err(error) = written {
            tracing::error!(%error, "what is thought of peers could not be written, by a broken invariant of ours");
        }
    }
}

fn write(files: &Files, mind: &Mutex<Mind>, save: bool, now: cairn_proto::Timestamp) {
    let (proofs, gone, verdicts, figures) = {
        let mut mind = lock(mind);
        let figures = (save && mind.dirty).then(|| mind.figures(now));
        let verdicts = std::mem::take(&mut mind.verdicts);
        (mind.take_unwritten(), std::mem::take(&mut mind.gone), verdicts, figures)
    };
    for (peer, id, file) in proofs {
        if let Err(error) = files.keep_proof(&id, &file) {
            tracing::warn!(%id, %error, "a proof cannot be written; it is tried again");
            lock(mind).unwritten.insert(peer);
        }
    }
    for (subject, file) in verdicts {
        if let Err(error) = files.keep_verdict(&subject, &file) {
            tracing::warn!(peer = %subject.short(), %error, "a verdict cannot be written; it is followed all the same");
        }
    }
    for id in gone {
        if let Err(error) = files.remove_proof(&id) {
            tracing::warn!(%id, %error, "a proof that gave way cannot be removed");
        }
    }
    if let Some(Err(error)) = figures.map(|figures| files.save(figures)) {
        tracing::warn!(%error, "what is thought of peers cannot be written; it is tried again");
        lock(mind).dirty = true;
    }
}
