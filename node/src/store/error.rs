//! How the store says no, and what a person can do about it.

use std::{io, path::PathBuf, sync::Arc};

use cairn_proto::{ByteSize, DecodeError, Slot};

use crate::failure::{ExitCode, Failure};

/// Why the store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes are not the shard that was announced.
    #[error("the bytes do not hash to the root stated")]
    RootMismatch,
    /// A shard has exactly 1,048,576 bytes.
    #[error("a shard has 1048576 bytes, not {found}")]
    WrongLength {
        /// Bytes given.
        found: usize,
    },
    /// Shards are immutable, and another one has this place (perhaps in the trash).
    #[error("this place of the group holds another shard")]
    Occupied,
    /// SEP-1: another slot of the group was accepted here once.
    #[error("slot {accepted} of this group was accepted here; another one never will be")]
    LedgerConflict {
        /// The slot in the ledger.
        accepted: Slot,
    },
    /// The pledge or the disk is full.
    #[error("no space: {needed} needed, {free} free")]
    NoSpace {
        /// Bytes the request needs.
        needed: ByteSize,
        /// Bytes that may still be used.
        free: ByteSize,
    },
    /// Neither live nor in the trash.
    #[error("no such shard")]
    NotFound,
    /// The shard's bytes on this disk are not what was stored.
    #[error("the shard is damaged on disk")]
    Damaged,
    /// Offset and length reach outside the shard.
    #[error("the range reaches outside the shard")]
    RangeOutside,
    /// A head record that does not verify.
    #[error("the head record is not valid")]
    HeadInvalid(#[source] DecodeError),
    /// As many vaults' heads are kept as there is room for.
    #[error("no room for another vault's head: {limit} are kept")]
    HeadsFull {
        /// The limit.
        limit: usize,
    },
    /// The vault's head has moved too often of late.
    #[error("this vault's head has moved too often; one a second is kept")]
    HeadTooSoon,
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
    /// Another process has the store open.
    #[error("the store in {dir} is in use by another process")]
    Locked {
        /// The store's folder.
        dir: PathBuf,
    },
    /// The data folder knows this store, the folder does not have it.
    #[error("{dir} is not the store that belongs to this data folder ({why})")]
    WrongVolume {
        /// The store's folder.
        dir: PathBuf,
        /// What is different.
        why: &'static str,
    },
    /// An earlier write failed in a way that could not be undone; only reading goes on until the next start.
    #[error("the store reads only, because an earlier write failed and could not be undone")]
    ReadOnly,
    /// The disk failed.
    #[error("the disk failed while {during}")]
    Io {
        /// What was being done.
        during: &'static str,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
}

impl StoreError {
    /// An `io::Error` with what was being done, for `map_err`.
    pub(super) fn io(during: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { during, source: Arc::new(source) }
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        let (code, id, hint) = match &e {
            StoreError::NoSpace { .. } => {
                (ExitCode::NoSpace, "STORE_NO_SPACE", "raise `give`, free disk space, or wait for the trash")
            }
            StoreError::NotFound => (ExitCode::NotFound, "STORE_NOT_FOUND", ""),
            StoreError::Damaged => (ExitCode::Damage, "STORE_DAMAGED", "it is repaired from the other slots"),
            StoreError::Locked { .. } => (ExitCode::Busy, "STORE_LOCKED", "stop the other process first"),
            StoreError::WrongVolume { .. } => (
                ExitCode::Failed,
                "STORE_WRONG_VOLUME",
                "an empty mount? mount the right disk; if the store is really gone, remove `store-volume` beside it",
            ),
            StoreError::ReadOnly | StoreError::Io { .. } => {
                (ExitCode::Failed, "STORE_DISK_FAILED", "look at the disk and the system's log, then start again")
            }
            _ => (ExitCode::Failed, "STORE_REFUSED", ""),
        };
        let failure = Self::new(code, id, e.to_string()).with_hint(hint);
        match std::error::Error::source(&e) {
            Some(cause) => failure.caused_by(cause),
            None => failure,
        }
    }
}
