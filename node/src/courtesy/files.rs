//! What is kept of pauses and of the line's measures: two small files of text in the data folder, replaced whole.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    path::Path,
};

use cairn_core::courtesy::upstream::Upstream;
use serde::{Deserialize, Serialize};

use super::Pause;
use crate::{
    data_dir::write_private,
    failure::{ExitCode, Failure},
};

const PAUSE: &str = "pause.json";
const UPSTREAM: &str = "upstream.json";
/// Most bytes of either: seven days of thirty figures are four kilobytes.
const FILE_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// The fastest seconds by day since 1970.
    days: BTreeMap<u64, Vec<u64>>,
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
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
