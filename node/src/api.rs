//! The control API: HTTP with JSON on a Unix socket that only the same user may open. A verb that the CLI sends here
//! is the very value that it would run itself; its events come back as they happen, its end as the last line.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /v1/healthz` | | `{"ok":true}` |
//! | `GET /v1/status` | | [`NodeStatus`] |
//! | `GET /v1/peers` | | array of peers |
//! | `GET /v1/store` | | array of shards |
//! | `POST /v1/vault` | [`NewVault`] | [`NewVaultAnswer`] |
//! | `POST /v1/verbs` | [`VerbRequest`] | JSON lines: events, then a [`FinalLine`] |
//! | `POST /v1/streams` | [`frames`]: request, data.., end or failed | as verbs |
//! | `POST /v1/dump` | [`VerbRequest`] | [`frames`]: data, events, outcome |
//!
//! What may hold a passphrase or the words is wiped where it is ours to wipe ([`secret`]). Lists of shards are made as they
//! are read (`listing`).
//!
//! A client that goes away cancels its verb. Connections, bodies, the time a request takes to arrive, concurrent verbs,
//! frames and lines are bounded (`connections`, [`server`], [`frames`]).

use cairn_proto::{ByteSize, Domain, NetworkId, PeerKey, Region};
use serde::{Deserialize, Serialize};

use crate::{
    courtesy::CourtesyStatus,
    failure::{ExitCode, Failure},
    ops::{Event, Outcome, SecretText, Verb, VerbResult},
};

pub mod client;
mod connections;
pub mod frames;
mod listing;
pub mod secret;
pub mod server;

#[cfg(test)]
mod tests;

/// Most bytes of a JSON request: tens of thousands of paths and patterns.
pub const REQUEST_MAX: usize = 4 * 1024 * 1024;
/// Verbs that run at one time; more are told to come back. Far above what people type, low enough to bound memory.
pub const VERBS_MAX: usize = 32;

/// A verb for the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerbRequest {
    /// The verb.
    pub request: Verb,
    /// What opens the vault; absent for a vault without a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<SecretText>,
}

/// Asks the daemon to make the vault of its data folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVault {
    /// What shall open it; absent for none.
    pub passphrase: Option<SecretText>,
}

/// The new vault's recovery phrase. It exists nowhere else.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewVaultAnswer {
    /// The 24 words.
    pub phrase: SecretText,
}

/// How a verb ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum FinalLine {
    /// It ran to its end.
    Outcome {
        /// The exit code to end with.
        code: ExitCode,
    },
    /// It failed.
    ExitError(Failure),
}

impl From<VerbResult> for FinalLine {
    fn from(result: VerbResult) -> Self {
        match result {
            Ok(outcome) => Self::Outcome { code: outcome.code },
            Err(failure) => Self::ExitError(failure),
        }
    }
}

impl From<FinalLine> for VerbResult {
    fn from(line: FinalLine) -> Self {
        match line {
            FinalLine::Outcome { code } => Ok(Outcome { code }),
            FinalLine::ExitError(failure) => Err(failure),
        }
    }
}

/// One line of a verb's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The last one.
    Final(FinalLine),
    /// Any before it.
    Event(Event),
}

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Version of the program.
    pub version: String,
    /// Process.
    pub pid: u32,
    /// Whether this is a daemon that serves others, or a verb's own short-lived client.
    pub daemon: bool,
    /// Own key.
    pub peer: PeerKey,
    /// Name of the network.
    pub network: String,
    /// Id of the network.
    pub network_id: NetworkId,
    /// Own domain.
    pub domain: Domain,
    /// Own region.
    pub region: Region,
    /// What the node does.
    pub roles: Vec<String>,
    /// Addresses with `/p2p/`, that others can dial.
    pub addresses: Vec<String>,
    /// Peers known that store.
    pub storage_peers: usize,
    /// Peers known.
    pub peers: usize,
    /// The store; absent when nothing is stored here.
    pub store: Option<StoreStatus>,
    /// Whether the data folder has a vault.
    pub vault: bool,
    /// How it uses its line.
    #[serde(default)]
    pub courtesy: Option<CourtesyStatus>,
}

/// Exact figures of the store.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Space pledged.
    pub pledged_bytes: ByteSize,
    /// Shards that are kept.
    pub live_bytes: ByteSize,
    /// Shards deleted, still in the trash.
    pub trash_bytes: ByteSize,
    /// Ledgers, leases and other records.
    pub record_bytes: ByteSize,
    /// Space in the log that compaction can give back.
    pub dead_bytes: ByteSize,
    /// All files of the store.
    pub disk_bytes: ByteSize,
    /// What may still be stored.
    pub free_bytes: ByteSize,
    /// Shards kept.
    pub shards: u64,
}

/// A path of a Unix socket that fits: the kernel takes 107 bytes, and data folders can lie deep. A longer one goes by
/// a handle of its folder, which must stay open as long as the path is in use.
pub(crate) fn socket_path(path: &std::path::Path) -> std::io::Result<(std::path::PathBuf, Option<std::fs::File>)> {
    use std::os::{fd::AsRawFd, unix::ffi::OsStrExt};
    const SUN_PATH_MAX: usize = 100;
    if path.as_os_str().as_bytes().len() <= SUN_PATH_MAX {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let folder = std::fs::File::open(folder)?;
    let short = std::path::PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((short, Some(folder)))
}
