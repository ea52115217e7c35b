//! The verbs as values: what a caller asks, what happens meanwhile, how it ends. The CLI runs them in-process or
//! sends them, as JSON, to the daemon of the data folder; both go through the same code and print the same events.

use std::path::PathBuf;

use cairn_proto::{SnapshotId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::failure::{ExitCode, Failure};

/// A text that is wiped when dropped and never printed: passphrases, recovery phrases. It does serialise, because
/// the CLI hands it to the daemon over a Unix socket that only the same user may open.
#[derive(Clone, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Takes ownership of the text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. Do not copy it anywhere.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// A verb with its arguments.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    /// Back up paths or a stream. The stream's bytes come beside the request.
    Backup(BackupArgs),
    /// List snapshots.
    Snapshots(SnapshotsArgs),
    /// List a snapshot's entries.
    Ls(LsArgs),
    /// Find entries by pattern in all snapshots.
    Find(FindArgs),
    /// Compare two snapshots.
    Diff(DiffArgs),
    /// Write one file's bytes to the caller.
    Dump(DumpArgs),
    /// Write a snapshot's entries to a folder.
    Restore(RestoreArgs),
    /// Verify that everything is there, and with `read_data` that it is right.
    Check(CheckArgs),
    /// Have holders show random leaves of what they keep, or make tokens for somebody else who will.
    Audit(AuditArgs),
    /// Have holders show by tokens that they keep what these were made of.
    AuditToken(AuditTokenArgs),
    /// Sizes and counts of the vault.
    Stats,
    /// Where every group stands: holders, margin; what the node does.
    Status,
    /// Peers known.
    Peers,
    /// Why this node thinks of a peer as it does.
    Explain(ExplainArgs),
    /// What this node would order now for the groups that it watches for absent owners. Repair goes on by itself.
    Repair,
    /// Have what this node holds taken over by others before it goes for good.
    Leave(LeaveArgs),
    /// How this node does as a holder, in plain words.
    Health,
    /// This node serves nobody and takes no part in background work for a while.
    Pause(PauseArgs),
    /// ... and does again.
    Resume,
    /// What a promise takes in this network.
    Plan(crate::plan::PlanArgs),
    /// Rebuild the local catalogue from the network with the recovery phrase; makes the vault when there is none.
    Recover(RecoverArgs),
    /// Each shard this node holds.
    DebugStore,
    /// Why each peer was or was not chosen, for a group that would be made now.
    DebugPlacement,
}

/// Arguments of [`Verb::Explain`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExplainArgs {
    /// The beginning of the peer's key, in hex.
    pub peer: String,
}

/// Arguments of [`Verb::Backup`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupArgs {
    /// Absolute paths to back up, as raw bytes would be needed for names that are not UTF-8: the CLI makes them
    /// absolute and sends them percent-encoded (see [`encode_path`]).
    pub paths: Vec<String>,
    /// `Some(name)`: the source is a stream that arrives beside the request, stored under this file name.
    pub stdin_filename: Option<String>,
    /// Patterns to leave out (glob, matched against the absolute path and against the name).
    pub exclude: Vec<String>,
    /// Leave out folders with a valid CACHEDIR.TAG.
    pub exclude_caches: bool,
    /// Stay on the file system of each path.
    pub one_file_system: bool,
    /// Tags for the snapshot.
    pub tags: Vec<String>,
    /// Host name for the snapshot; the machine's when `None`.
    pub host: Option<String>,
    /// Read every file again even when size, time and inode say it is unchanged.
    pub force: bool,
    /// Do everything but send and commit.
    pub dry_run: bool,
    /// Make no snapshot when nothing changed.
    pub skip_if_unchanged: bool,
    /// What the vault promises from now on: an SLA's name, or `none`; what it promised before when `None`.
    pub sla: Option<String>,
    /// Bytes a second that go out at most.
    pub limit_up: Option<u64>,
    /// ... and come in.
    pub limit_down: Option<u64>,
}

/// Arguments of [`Verb::Leave`]. Without any: go on with the plan that there is, or leave in a day.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaveArgs {
    /// Leave in so many milliseconds.
    pub in_ms: Option<u64>,
    /// Leave at once, whatever it costs the others.
    pub now: bool,
    /// Stay after all.
    pub cancel: bool,
    /// What `now` costs the others is known.
    pub yes: bool,
}

/// Arguments of [`Verb::Pause`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PauseArgs {
    /// For so many milliseconds; until it is told to resume when `None`.
    pub for_ms: Option<u64>,
}

/// Arguments of [`Verb::Snapshots`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotsArgs {
    /// Only with this tag.
    pub tag: Option<String>,
    /// Only of this host.
    pub host: Option<String>,
}

/// Arguments of [`Verb::Ls`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LsArgs {
    /// Snapshot id prefix or `latest`.
    pub snapshot: String,
    /// Folder or file inside, percent-encoded; everything when `None`.
    pub path: Option<String>,
}

/// Arguments of [`Verb::Find`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindArgs {
    /// Globs matched against names and whole paths.
    pub patterns: Vec<String>,
    /// Only in this snapshot.
    pub snapshot: Option<String>,
}

/// Arguments of [`Verb::Diff`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffArgs {
    /// Older snapshot.
    pub from: String,
    /// Newer snapshot.
    pub to: String,
}

/// Arguments of [`Verb::Dump`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpArgs {
    /// Snapshot id prefix or `latest`.
    pub snapshot: String,
    /// The file, percent-encoded.
    pub path: String,
}

/// Arguments of [`Verb::Restore`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreArgs {
    /// Snapshot id prefix or `latest`, optionally `:SUBFOLDER` (percent-encoded).
    pub snapshot: String,
    /// Folder to write into, percent-encoded absolute path; made when missing.
    pub target: String,
    /// Only what matches one of these.
    pub include: Vec<String>,
    /// Not what matches one of these.
    pub exclude: Vec<String>,
    /// `always`, `if-changed` (default), `if-newer`, `never`.
    pub overwrite: Option<String>,
    /// Read back what was written and compare.
    pub verify: bool,
    /// Say what would be written, write nothing.
    pub dry_run: bool,
    /// Bytes a second that go out at most.
    pub limit_up: Option<u64>,
    /// ... and come in.
    pub limit_down: Option<u64>,
}

/// Arguments of [`Verb::Check`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckArgs {
    /// Fetch and verify every stripe.
    pub read_data: bool,
    /// Fetch and verify this part of the stripes: `10%`, `1/5` or a size.
    pub read_data_subset: Option<String>,
}

/// Arguments of [`Verb::Audit`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditArgs {
    /// Snapshot id prefix or `latest`, which it also is when `None`.
    pub snapshot: Option<String>,
    /// All that the vault has, snapshot or not.
    pub all: bool,
    /// Shards to ask for at each holder; tokens to make.
    pub samples: Option<u32>,
    /// Ask each holder for every shard.
    pub full_slots: bool,
    /// Make tokens into this new file (percent-encoded absolute path) and ask nobody.
    pub make_token: Option<String>,
}

/// Arguments of [`Verb::AuditToken`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditTokenArgs {
    /// The file, percent-encoded absolute path.
    pub file: String,
    /// How many tokens to use; all that are left when `None`.
    pub samples: Option<u32>,
}

/// Arguments of [`Verb::Recover`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverArgs {
    /// The 24 words.
    pub phrase: SecretText,
}

/// What happens while a verb runs. Serialises as restic's JSON lines do: one object with `message_type`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum Event {
    /// Progress, at most about once a second.
    Status(Progress),
    /// A source entry that could not be read or a target that could not be written; the work goes on.
    Error(ItemError),
    /// Something the user should know and nothing failed (low-peer mode, relaxed regions ...).
    Notice {
        /// Stable name for programs.
        id: String,
        /// One sentence.
        text: String,
    },
    /// One row of a listing verb (snapshots, ls, find, diff, peers, debug), or of what a check was told: `kind` says which.
    Row {
        /// `snapshot`, `node`, `match`, `change`, `peer`, `shard`, `candidate`, `group`, `happening`, `this_node`, `watching`,
        /// `auditing`, `watched_group`, `planned_repair`, `leave`, `health`.
        kind: String,
        /// The row; its keys are restic's where restic has the verb.
        row: serde_json::Value,
    },
    /// The last event of a verb that did not fail; keys are restic's where restic has the verb.
    Summary {
        /// Which verb ended.
        verb: String,
        /// The figures.
        summary: serde_json::Value,
    },
}

/// Progress of long work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What is going on: `scan`, `backup`, `commit`, `fetch`, `restore`, `check`, `recover`.
    pub phase: String,
    /// 0..=1, when the total is known.
    pub percent_done: Option<f64>,
    /// Files known in all.
    pub total_files: u64,
    /// Files finished.
    pub files_done: u64,
    /// Bytes known in all.
    pub total_bytes: u64,
    /// Bytes finished.
    pub bytes_done: u64,
    /// Bytes that went over the network.
    pub bytes_sent: u64,
    /// What is being worked on, for people (lossy text).
    pub current: Option<String>,
    /// Milliseconds since the verb began.
    pub elapsed_ms: u64,
}

/// One entry that failed while the rest goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemError {
    /// Which entry (lossy text).
    pub item: String,
    /// What was being done: `scan`, `read`, `write`, `fetch`.
    pub during: String,
    /// What happened.
    pub message: String,
}

/// How a verb that ran to its end ended: exit 0, 3, 4, 5, 6 or 8, never a [`Failure`]'s code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code to end with.
    pub code: ExitCode,
}

/// A verb's result.
pub type VerbResult = Result<Outcome, Failure>;

/// A snapshot as listings show it; restic's keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// Full id.
    pub id: SnapshotId,
    /// First eight hex digits.
    pub short_id: String,
    /// When it was begun.
    pub time: String,
    /// The same, ms since 1970.
    pub time_ms: Timestamp,
    /// Machine.
    pub hostname: String,
    /// User who ran it.
    pub username: String,
    /// What was backed up (lossy text).
    pub paths: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Files in it.
    pub total_files: u64,
    /// Bytes in it.
    pub total_bytes: u64,
}

/// Percent-encodes a path for JSON: every byte outside printable ASCII, and `%`, becomes `%HH`. Loses nothing.
#[must_use]
pub fn encode_path(path: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    encode_bytes(path.as_os_str().as_bytes())
}

/// As [`encode_path`], for raw bytes.
#[must_use]
pub fn encode_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        if (0x20..0x7f).contains(&b) && b != b'%' {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// Reverses [`encode_path`]. A `%` that is not followed by two hex digits stands for itself.
#[must_use]
pub fn decode_path(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|p| std::str::from_utf8(p).ok());
        match (bytes[at], pair.filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))) {
            (b'%', Some(pair)) => {
                out.push(u8::from_str_radix(pair, 16).unwrap_or(b'%'));
                at += 3;
            }
            (b, _) => {
                out.push(b);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_path_survives_the_trip(bytes: Vec<u8>) {
            use std::os::unix::ffi::OsStringExt;
            let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
            prop_assert_eq!(decode_path(&encode_path(&path)), path);
        }
    }

    #[test]
    fn verbs_travel_as_json() {
        let verb = Verb::Backup(BackupArgs { paths: vec!["/home".into()], ..BackupArgs::default() });
        let text = serde_json::to_string(&verb).expect("serialises");
        assert!(text.contains("\"verb\":\"backup\""), "{text}");
        assert!(matches!(serde_json::from_str(&text), Ok(Verb::Backup(a)) if a.paths == ["/home"]));
    }
}
