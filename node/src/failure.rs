//! How a verb fails: what, why, what to do, and the frozen exit code. The CLI prints it, the API sends it.

use serde::{Deserialize, Serialize};

/// The frozen exit codes. An unknown code means failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum ExitCode {
    /// All done.
    Success = 0,
    /// Failed, for a reason that has no code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Finished, but some sources could not be read.
    Partial = 3,
    /// Stored, but the redundancy target is not reached yet.
    BelowTarget = 4,
    /// Damage was found, and it can be or was repaired.
    Damage = 5,
    /// Damage that cannot be repaired: fewer than k slots of a stripe are left.
    Lost = 6,
    /// The stream command failed; no snapshot was made.
    StreamCommand = 7,
    /// Nothing to do.
    NothingToDo = 8,
    /// No such vault, snapshot or path.
    NotFound = 10,
    /// Another writer works on this data folder.
    Busy = 11,
    /// Wrong passphrase, key or recovery phrase.
    WrongSecret = 12,
    /// The network cannot be reached, or has too few peers.
    TooFewPeers = 13,
    /// No space left, or over quota.
    NoSpace = 14,
    /// Refused: it would delete protected data.
    Refused = 15,
    /// Interrupted by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> Self {
        code as u8
    }
}

impl TryFrom<u8> for ExitCode {
    type Error = String;

    fn try_from(code: u8) -> Result<Self, String> {
        const ALL: [ExitCode; 17] = [
            ExitCode::Success,
            ExitCode::Failed,
            ExitCode::Usage,
            ExitCode::Partial,
            ExitCode::BelowTarget,
            ExitCode::Damage,
            ExitCode::Lost,
            ExitCode::StreamCommand,
            ExitCode::NothingToDo,
            ExitCode::NotFound,
            ExitCode::Busy,
            ExitCode::WrongSecret,
            ExitCode::TooFewPeers,
            ExitCode::NoSpace,
            ExitCode::Refused,
            ExitCode::Interrupted,
            ExitCode::Terminated,
        ];
        ALL.into_iter().find(|c| *c as u8 == code).ok_or_else(|| format!("unknown exit code {code}"))
    }
}

/// A verb that did not succeed, ready for a person or a program. Never holds a secret or a plaintext name of
/// somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Exit code, which is the kind.
    pub code: ExitCode,
    /// Stable name for programs: `WRONG_SECRET`, `TOO_FEW_PEERS` ...
    pub id: String,
    /// What happened, one sentence without a full stop.
    pub message: String,
    /// Why, outermost cause first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What the reader can do; empty when there is nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Whether the same call may succeed later without any change.
    pub retryable: bool,
}

impl Failure {
    /// A failure without cause and hint; add them with the `with_` methods.
    #[must_use]
    pub fn new(code: ExitCode, id: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            id: id.to_owned(),
            message: message.into(),
            causes: Vec::new(),
            hint: String::new(),
            retryable: false,
        }
    }

    /// Adds an error and its sources as causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(e) = next {
            self.causes.push(e.to_string());
            next = e.source();
        }
        self
    }

    /// Says what the reader can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Says that the same call may succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
