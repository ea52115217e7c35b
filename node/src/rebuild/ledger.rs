//! The session ledger on disk: written before the first slice of a session goes out.
//!
//! One file, `rebuilds` in the data folder: BLAKE3 of the rest 32 · closed until, u64 LE in ms · the sessions
//! ([`SessionLedger::encode`]). Written whole, beside and renamed, and synced.
//!
//! A file that is missing is a node's first start. One that is damaged may have had anything in it: for as long as what it had would
//! count ([`WINDOW_MS`]) no session is let in, and that is written down too, so that a restart does not end it. What would be at
//! stake otherwise is little, because secrets end with their process and an old session wants an old key; but the ledger is the
//! guard that holds when the others do not.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_core::blind::{Admitted, LedgerRefusal, Session, SessionId, SessionLedger, WINDOW_MS};
use cairn_proto::{DecodeError, Slot, Timestamp};
use tokio::sync::Mutex;

use crate::data_dir::write_private;

/// The file's name in a data folder.
pub const LEDGER_FILE: &str = "rebuilds";

/// Why a session is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The ledger says no.
    #[error(transparent)]
    Refused(#[from] LedgerRefusal),
    /// The ledger was damaged.
    #[error("the session ledger was damaged: no session before {until:?}")]
    Closed {
        /// From then on there may be sessions.
        until: Timestamp,
    },
    /// It could not be written.
    #[error("the session ledger could not be written")]
    NotWritten,
}

/// The ledger of a node.
pub struct Ledger {
    path: Option<PathBuf>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, PartialEq, Eq)]
struct State {
    sessions: SessionLedger,
    closed_until: Timestamp,
}

impl Ledger {
    /// One that is forgotten with the process, for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { path: None, state: Arc::new(Mutex::new(State::closed_until(Timestamp(0)))) }
    }

    /// Reads the ledger of a data folder, or begins one. Blocking.
    ///
    /// # Errors
    /// The file is there and cannot be read, or the word that it is damaged cannot be written.
    pub fn open(folder: &Path, now: Timestamp) -> io::Result<Self> {
        let path = folder.join(LEDGER_FILE);
        let mut state = match fs::read(&path) {
            Ok(bytes) => State::decode(&bytes).or_else(|error| {
                let state = State::closed_until(now.plus_ms(WINDOW_MS));
                tracing::error!(%error, "the session ledger is damaged: this node takes part in no rebuild for 30 days");
                state.write(&path).map(|()| state)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::closed_until(Timestamp(0)),
            Err(error) => return Err(error),
        };
        // What a clock that was wrong wrote into the far future counts from now.
        state.closed_until = state.closed_until.min(now.plus_ms(WINDOW_MS));
        Ok(Self { path: Some(path), state: Arc::new(Mutex::new(state)) })
    }

    /// Sessions that it remembers.
    #[cfg(test)]
    pub(super) async fn sessions(&self) -> usize {
        self.state.lock().await.sessions.len()
    }

    /// Lets us take part in a session, once; durable when this returns.
    pub(super) async fn admit(&self, now: Timestamp, session: Session, slot: Slot) -> Result<Admitted, NotAdmitted> {
        let mut state = self.state.clone().lock_owned().await;
        let path = self.path.clone();
        // The lock goes with the write: whoever gives up waiting must not let a later write be overtaken by this one.
        let written = tokio::task::spawn_blocking(move || {
            if now < state.closed_until {
                return Err(NotAdmitted::Closed { until: state.closed_until });
            }
            let admitted = state.sessions.admit(now, session, slot)?;
            match path.map(|path| state.write(&path)) {
                Some(Err(error)) => {
                    tracing::error!(%error, "the session ledger could not be written");
                    Err(NotAdmitted::NotWritten)
                }
                _ => Ok(admitted),
            }
        });
        written.await.unwrap_or(Err(NotAdmitted::NotWritten))
    }

    /// The first slice of a session is about to move. Whether it may. Not written: on disk it stays open, which counts as much.
    pub(super) async fn begun(&self, id: &SessionId) -> bool {
        self.state.lock().await.sessions.begun(id)
    }

    /// A session is over; when nothing of it moved it counts no more. That is written, but nobody is told when it cannot be: after a
    /// restart it counts again, and costs a place.
    pub(super) async fn over(&self, id: &SessionId) {
        let mut state = self.state.clone().lock_owned().await;
        if !state.sessions.abandoned(id) {
            return;
        }
        let Some(path) = self.path.clone() else { return };
        let written = tokio::task::spawn_blocking(move || state.write(&path));
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "that a session came to nothing could not be written");
        }
    }
}

impl State {
    fn closed_until(closed_until: Timestamp) -> Self {
        Self { sessions: SessionLedger::default(), closed_until }
    }

    fn encode(&self) -> Vec<u8> {
        let body = [&self.closed_until.0.to_le_bytes()[..], &self.sessions.encode()].concat();
        [&blake3::hash(&body).as_bytes()[..], &body].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "session ledger";
        let truncated = DecodeError::Truncated { what, needed: 40, found: bytes.len() };
        let (sum, body) = bytes.split_first_chunk::<32>().ok_or(truncated.clone())?;
        if blake3::hash(body).as_bytes() != sum {
            return Err(DecodeError::NotAuthentic { what });
        }
        let (until, sessions) = body.split_first_chunk::<8>().ok_or(truncated)?;
        Ok(Self { closed_until: Timestamp(u64::from_le_bytes(*until)), sessions: SessionLedger::decode(sessions)? })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, &self.encode()).map_err(|failure| io::Error::other(failure.to_string()))
    }
}
