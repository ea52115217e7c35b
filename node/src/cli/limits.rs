//! `--limit-up` and `--limit-down` of verbs that move shards.

use clap::Args;

use crate::{
    courtesy::limits,
    failure::{ExitCode, Failure},
};

#[derive(Clone, Debug, Default, Args)]
pub(super) struct Limits {
    /// Send no faster: `2 MiB/s`; a plain number is in KiB/s
    #[arg(long, visible_alias = "limit-upload", value_name = "RATE")]
    limit_up: Option<String>,
    /// Fetch no faster
    #[arg(long, visible_alias = "limit-download", value_name = "RATE")]
    limit_down: Option<String>,
}

impl Limits {
    /// Bytes a second.
    pub(super) fn up(&self) -> Result<Option<u64>, Failure> {
        read("--limit-up", self.limit_up.as_deref())
    }

    /// Bytes a second.
    pub(super) fn down(&self) -> Result<Option<u64>, Failure> {
        read("--limit-down", self.limit_down.as_deref())
    }
}

fn read(name: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let speed = limits::flag(name, text);
    let speed = speed.map_err(|e| Failure::new(ExitCode::Usage, "USAGE", "cannot use this limit").caused_by(&e))?;
    Ok(speed.limit())
}
