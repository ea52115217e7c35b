//! How a store works: where it lies, how much it may take, how long deleted shards wait.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use cairn_proto::{ByteSize, Timestamp};

/// Tells the store what time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a store works.
#[derive(Clone)]
pub struct StoreConfig {
    /// The store's folder; what belongs to it lies beside it (`store-volume`).
    pub dir: PathBuf,
    /// The pledge: shards are taken while the log's files stay within it. Above it there is a reserve that only heads and
    /// state records may use (4,096 heads of 8 KiB, and a segment); compaction needs up to a segment more for a moment.
    pub give: ByteSize,
    /// Bytes of the file system that are left to others.
    pub keep_free: ByteSize,
    /// A segment is ended when it has reached this. At most 1 GiB or so: compaction works by segment.
    pub segment_size: ByteSize,
    /// Bytes of log that may be newer than the index's database: a start after a crash reads and checks them, and no more
    /// than them and one commit. Row by row the database would cost as much as hashing the shards does.
    pub index_behind: ByteSize,
    /// How long a shard waits in the trash before its bytes go.
    pub trash_hold_ms: u64,
    /// The time.
    pub clock: Clock,
}

impl StoreConfig {
    /// A store with the usual figures: 256 MiB segments, an index at most 64 MiB behind (a second of a slow disk), seven days
    /// of trash, 1 GiB of the disk left free.
    #[must_use]
    pub fn new(dir: PathBuf, give: ByteSize) -> Self {
        Self {
            dir,
            give,
            keep_free: ByteSize(1 << 30),
            segment_size: ByteSize(256 << 20),
            index_behind: ByteSize(64 << 20),
            trash_hold_ms: 7 * 24 * 3_600_000,
            clock: Arc::new(system_time),
        }
    }
}

fn system_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
