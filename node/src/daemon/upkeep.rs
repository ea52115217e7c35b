//! What a storing node does for its disk unasked: purge the trash whose hold is over, give space back, read every shard.
//!
//! Leases that ended are *not* acted upon yet: nothing renews the lease of a shard that later snapshots still refer to, so
//! ending one would delete what an owner counts on (DUR-5). That comes with the stewards' mandate.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::{holdings::Holdings, store::Store};

/// When what is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Every {
    /// Between two compactions. The trash holds for days, so an hour more or less is nothing.
    pub(super) compact: Duration,
    /// Between two scrubs, and no more often than compactions. Within a week a disk that rots is noticed well before three of eight
    /// slots are gone.
    pub(super) scrub: Duration,
}

/// Works until `cancel` fires. A failure is told in the log and tried again at the next turn.
pub(super) async fn keep_up(store: Store, holdings: Holdings, every: Every, cancel: CancellationToken) {
    let mut turn = tokio::time::interval(every.compact);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once: a node that just started has other things to do.
    turn.tick().await;
    let mut scrubbed: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = turn.tick() => {}
        }
        match store.compact().await {
            Ok(report) => tracing::debug!(?report, "compacted"),
            Err(error) => tracing::warn!(%error, "the store could not be compacted"),
        }
        if scrubbed.is_none_or(|at| at.elapsed() >= every.scrub) {
            scrubbed = Some(Instant::now());
            scrub(&store, &holdings, &cancel).await;
        }
    }
}

/// Reads every shard and says what is wrong, also to those who watch them; a damaged one is never served as good from then on.
async fn scrub(store: &Store, holdings: &Holdings, cancel: &CancellationToken) {
    let scrubbed = store.scrub(cancel).await;
    if let Ok(report) = &scrubbed {
        holdings.scrubbed(report);
    }
    match scrubbed {
        Ok(report) if report.damaged.is_empty() && report.missing.is_empty() => {
            tracing::info!(checked = report.checked, "scrubbed: every shard is sound");
        }
        Ok(report) => tracing::error!(
            checked = report.checked,
            damaged = report.damaged.len(),
            missing = report.missing.len(),
            "scrubbed: this disk lost shards; those who watch them are told and have them brought here again. Look after the disk"
        ),
        Err(error) => tracing::warn!(%error, "the store could not be scrubbed"),
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::{ByteSize, GroupId, ShardRoot, Slot, Timestamp};

    use super::*;
    use crate::store::{NewShard, StoreConfig};

    #[tokio::test]
    async fn a_deleted_shard_is_purged_after_its_hold_and_the_task_ends_when_told() {
        let dir = tempfile::tempdir().expect("temp");
        let mut config = StoreConfig::new(dir.path().join("store"), ByteSize(1 << 30));
        config.keep_free = ByteSize(0);
        config.trash_hold_ms = 0;
        let store = Store::open(config).expect("opens");
        let bytes = vec![7; cairn_proto::SHARD_SIZE];
        let (group, slot) = (GroupId::from_bytes([1; 32]), Slot::new(0).expect("valid"));
        let root = ShardRoot::from_bytes(*blake3::hash(&bytes).as_bytes());
        let shard = NewShard { group, slot, ordinal: 0, root, lease_until: Timestamp(1), bytes: bytes.into() };
        store.put(shard).await.expect("stored");
        store.delete(group, slot, 0).await.expect("deleted");

        let cancel = CancellationToken::new();
        let every = Every { compact: Duration::from_millis(10), scrub: Duration::from_secs(3600) };
        let task = tokio::spawn(keep_up(store.clone(), Holdings::default(), every, cancel.clone()));
        let emptied = async {
            while store.usage().trash_bytes.0 > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), emptied).await.expect("the trash is emptied");
        cancel.cancel();
        task.await.expect("ends");
        store.close().await;
    }
}
