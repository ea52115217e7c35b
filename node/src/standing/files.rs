//! What must survive of it: figures in `standing/`, as stewardship keeps its state, and each proof as a file of its own in `evidence/`.
//!
//! `standing/peers.reputation`: milliseconds of a round (u64), then [`Reputation::encode`]. `evidence/ID.evidence`: the bytes of
//! [`Evidence::encode`] and nothing else, so that anybody can take the file and verify it; it needs no checksum, since a proof that
//! rotted proves nothing and is set aside.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_core::reputation::{CONVICTIONS_MAX, Reputation};
use cairn_proto::{
    StatementId,
    audit::{Evidence, evidence::EVIDENCE_MAX},
};

use super::mind::Mind;
use crate::stewardship::files::{RealDisk, StateFiles};

const FIGURES: &str = "peers.reputation";
const ENDING: &str = "evidence";

/// Where it is kept. All calls block.
#[derive(Clone)]
pub(super) struct Files {
    state: StateFiles,
    evidence: PathBuf,
}

impl Files {
    /// `folder`: the data folder.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let state = StateFiles::open(folder.join("standing"), Arc::new(RealDisk))?;
        let evidence = folder.join("evidence");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&evidence)?;
        Ok(Self { state, evidence })
    }

    pub(super) fn proof_path(&self, id: &StatementId) -> PathBuf {
        self.evidence.join(format!("{id}.{ENDING}"))
    }

    /// Reads all of it into a mind that thinks nothing yet.
    pub(super) fn load(&self, mind: &mut Mind) -> io::Result<()> {
        match self.state.read(FIGURES) {
            Ok(body) => match figures(&body, mind.round_ms) {
                Ok(reputation) => mind.reputation = reputation,
                Err(error) => self.state.set_aside(FIGURES, &error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.state.set_aside(FIGURES, &error),
        }
        let mut left = CONVICTIONS_MAX;
        for entry in fs::read_dir(&self.evidence)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "new") {
                // Half written.
                fs::remove_file(&path)?;
            }
            if path.extension().is_none_or(|e| e != ENDING) {
                continue;
            }
            if left == 0 {
                tracing::warn!(most = CONVICTIONS_MAX, "more proofs than are kept; the rest is left alone");
                break;
            }
            left -= 1;
            let read = read(&path).and_then(|bytes| Evidence::decode(&bytes).map_err(io::Error::other));
            if let Err(error) = read.and_then(|evidence| mind.restore_proof(&evidence).map_err(io::Error::other)) {
                tracing::warn!(path = %path.display(), %error, "a proof proves nothing any more; it is set aside");
                let _ = fs::rename(&path, path.with_extension("evidence.damaged"));
            }
        }
        mind.unwritten.clear();
        // Those that no figures name are to be in them.
        mind.dirty = mind.convictions > 0;
        Ok(())
    }

    /// Writes the figures.
    pub(super) fn save(&self, body: Vec<u8>) -> io::Result<()> {
        self.state.write([(FIGURES.to_owned(), body)]).pop().unwrap_or(Ok(()))
    }

    /// Writes a proof beside and renames: it is there whole, or not at all.
    pub(super) fn keep_proof(&self, id: &StatementId, file: &[u8]) -> io::Result<()> {
        crate::stewardship::files::write_whole(&self.proof_path(id), file)
    }

    /// A verdict that we followed, by the name of whom it excludes: for people to look at, it is never read again.
    pub(super) fn keep_verdict(&self, subject: &cairn_proto::PeerKey, file: &[u8]) -> io::Result<()> {
        crate::stewardship::files::write_whole(&self.evidence.join(format!("{subject}.verdict")), file)
    }

    pub(super) fn remove_proof(&self, id: &StatementId) -> io::Result<()> {
        match fs::remove_file(self.proof_path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn figures(body: &[u8], round_ms: u64) -> Result<Reputation, cairn_proto::DecodeError> {
    let truncated = cairn_proto::DecodeError::Truncated { what: "reputation state", needed: 8, found: body.len() };
    let (counted_with, state) = body.split_first_chunk().ok_or(truncated)?;
    let reputation = Reputation::decode(state)?;
    if u64::from_le_bytes(*counted_with) == round_ms {
        return Ok(reputation);
    }
    tracing::info!("what is thought of peers was counted with other timers; it is learned anew, but for proofs");
    Ok(reputation.only_convictions())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(EVIDENCE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
