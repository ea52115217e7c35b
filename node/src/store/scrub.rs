//! Reads all that is here and compares it with what was promised: damage is found before somebody asks for the shard.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    ShardInfo, ShardRef, Store, StoreError,
    reader::{Expected, read_verified},
    writer::Command,
};

/// Shards that a scrub takes note of at a time: a few hundred kilobytes, and the index is locked for a moment only.
const SCRUB_BATCH: usize = 1024;

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// Shards read.
    pub checked: u64,
    /// Shards whose bytes are not what was stored; `get` says so too from now on.
    pub damaged: Vec<ShardRef>,
    /// Shards whose record is not in the log any more, or cannot be read.
    pub missing: Vec<ShardRef>,
    /// It was stopped before the end.
    pub cancelled: bool,
}

impl Store {
    /// Reads every shard, trash included, and compares it with its root. Damage is remembered and listed.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn scrub(&self, cancel: &CancellationToken) -> Result<ScrubReport, StoreError> {
        self.scrub_by(SCRUB_BATCH, cancel).await
    }

    pub(super) async fn scrub_by(&self, batch: usize, cancel: &CancellationToken) -> Result<ScrubReport, StoreError> {
        let mut report = ScrubReport::default();
        let mut after = None;
        loop {
            let some = self.list_after(after, batch);
            let Some(last) = some.last() else { break };
            after = Some((last.group, last.ordinal));
            self.scrub_some(some, cancel, &mut report).await?;
            if report.cancelled {
                break;
            }
        }
        Ok(report)
    }

    async fn scrub_some(
        &self,
        some: Vec<ShardInfo>,
        cancel: &CancellationToken,
        report: &mut ScrubReport,
    ) -> Result<(), StoreError> {
        for info in some {
            if cancel.is_cancelled() {
                report.cancelled = true;
                break;
            }
            let found = {
                let index = self.index();
                index
                    .entry(&info.group, info.ordinal)
                    .copied()
                    .map(|e| (e, index.segments.get(&e.place.segment).map(|s| s.file.clone())))
            };
            // Purged since the list was made.
            let Some((entry, file)) = found else { continue };
            let shard = ShardRef { group: info.group, slot: info.slot, ordinal: info.ordinal };
            let expected = Expected { group: info.group, slot: info.slot, ordinal: info.ordinal, root: entry.root };
            let key = self.0.key.clone();
            let read = match file {
                None => Err(StoreError::NotFound),
                Some(f) => self.work(move || read_verified(f.as_ref(), &key, entry.place.offset, &expected)).await?,
            };
            report.checked += 1;
            match &read {
                Ok(_) => {}
                Err(StoreError::Damaged) => report.damaged.push(shard),
                Err(_) => report.missing.push(shard),
            }
            if read.is_err() != entry.damaged {
                let (place, damaged) = (entry.place, read.is_err());
                let mark = Command::Mark { group: info.group, ordinal: info.ordinal, place, damaged };
                self.0.commands.send(mark).await.map_err(|_| StoreError::Closed)?;
            }
        }
        Ok(())
    }
}
