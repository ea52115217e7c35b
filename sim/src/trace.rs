//! The event log's hash: equal seeds give equal logs, or the simulation is not worth its name.

use cairn_proto::Timestamp;

/// Hashes each line of the event log as it is written; the lines themselves are not kept.
pub struct Trace {
    hasher: blake3::Hasher,
    lines: u64,
}

impl Trace {
    /// An empty log.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), lines: 0 }
    }

    /// Adds a line; with `CAIRN_SIM_LOG` set it is also printed to stderr, with the hour, for whoever looks into a seed.
    pub fn line(&mut self, at: Timestamp, text: fmt::Arguments<'_>) {
        self.lines += 1;
        if std::env::var_os("CAIRN_SIM_LOG").is_some() {
            eprintln!("{:>6.1} {text}", at.0 as f64 / 3_600_000.0);
        }
        self.hasher.update(format!("{} {text}\n", at.0).as_bytes());
    }

    /// Lines so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Hash of all lines, 16 hex digits.
    #[must_use]
    pub fn digest(&self) -> String {
        self.hasher.finalize().to_hex()[..16].to_owned()
    }
}

use std::fmt;
