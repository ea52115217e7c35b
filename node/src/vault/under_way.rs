//! Chunks between the scan, which keeps them, and the catalogue, which has them once their stripes are acknowledged: one
//! that comes again meanwhile is known all the same.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cairn_proto::{ChunkId, index::RunRow};

/// Shared by the scan and the senders. As large as what is under way between them, which the pipeline bounds.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<HashSet<ChunkId>>);

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, HashSet<ChunkId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the chunk is on its way. One that is not may have been recorded just now: ask here first, then the catalogue.
    pub(super) fn has(&self, id: &ChunkId) -> bool {
        self.lock().contains(id)
    }

    /// A chunk sets off.
    pub(super) fn insert(&self, id: ChunkId) {
        self.lock().insert(id);
    }

    /// How many are on their way.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// The catalogue has these now.
    pub(super) fn arrived(&self, runs: &[RunRow]) {
        let mut there = self.lock();
        for (id, _) in runs.iter().flat_map(|run| &run.chunks) {
            there.remove(id);
        }
    }
}
