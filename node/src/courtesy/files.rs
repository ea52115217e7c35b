//! What is kept of pauses, of the line's measures and of what went first for urgent repairs: small files in the data folder, replaced whole.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    path::Path,
};

use cairn_core::courtesy::{
    upstream::Upstream,
    urgent::{self, Urgent},
};
use cairn_proto::Timestamp;
use serde::{Deserialize, Serialize};

use super::Pause;
use crate::{
    data_dir::write_private,
    failure::{ExitCode, Failure},
};

const PAUSE: &str = "pause.json";
const UPSTREAM: &str = "upstream.json";
const URGENT: &str = "urgent.bin";
/// Most bytes of the first two: seven days of thirty figures are four kilobytes.
const FILE_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// The fastest seconds by day since 1970.
    days: BTreeMap<u64, Vec<u64>>,
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    read_most(path, FILE_MAX)
}

fn read_most(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The pause that was asked for. One that is not readable was one.
pub(super) fn read_pause(folder: &Path) -> Option<Pause> {
    let bytes = match read(&folder.join(PAUSE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        read => read.unwrap_or_default(),
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "{PAUSE} is not readable: this node stays paused until it is told to resume");
        Some(Pause::UntilResumed)
    })
}

/// Durable when this returns.
pub(super) fn write_pause(folder: &Path, pause: Option<Pause>) -> Result<(), Failure> {
    let path = folder.join(PAUSE);
    if pause.is_some() {
        return write_private(&path, &serde_json::to_vec(&pause).unwrap_or_default());
    }
    let removed = std::fs::remove_file(&path).and_then(|()| std::fs::File::open(folder)?.sync_all());
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let text = format!("cannot remove {}", path.display());
            Err(Failure::new(ExitCode::Failed, "DATA_DIR", text).caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// What was measured; nothing when it is not readable.
pub(super) fn read_upstream(folder: &Path, today: u64) -> Upstream {
    let bytes = match read(&folder.join(UPSTREAM)) {
        Ok(bytes) => bytes,
        Err(_) => return Upstream::default(),
    };
    match serde_json::from_slice::<Measured>(&bytes) {
        Ok(measured) => Upstream::restore(measured.days, today),
        Err(error) => {
            tracing::warn!(%error, "{UPSTREAM} is not readable: what the line carries is measured anew");
            Upstream::default()
        }
    }
}

pub(super) fn write_upstream(folder: &Path, upstream: &Upstream) -> Result<(), Failure> {
    let days = upstream.seconds().map(|(day, seconds)| (day, seconds.to_vec())).collect();
    write_private(&folder.join(UPSTREAM), &serde_json::to_vec(&Measured { days }).unwrap_or_default())
}

/// What is left for urgent repairs, with what a crash may have cost written down before any of it goes; where that cannot be, nothing goes
/// first until it can. A file that is not readable was a whole day's.
pub(super) fn resume_urgent(folder: &Path, now: Timestamp) -> Urgent {
    let path = folder.join(URGENT);
    let mut left = match read_most(&path, urgent::ENCODED_MAX as u64 + 1) {
        Ok(bytes) => Urgent::decode(&bytes, now).unwrap_or_else(|error| {
            tracing::warn!(%error, "{URGENT} is not readable: urgent repairs go as background work until a day's share is there again");
            Urgent::spent(now)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Urgent::kept(now),
        Err(_) => Urgent::spent(now),
    };
    if let Some((bytes, new)) = left.to_save(now) {
        match write_private(&path, &bytes) {
            Ok(()) => left.saved(new),
            Err(error) => {
                tracing::warn!(%error, "{URGENT} cannot be written; urgent repairs go as background work until it can")
            }
        }
    }
    left
}

pub(super) fn write_urgent(folder: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_private(&folder.join(URGENT), bytes)
}
