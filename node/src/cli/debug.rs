//! `cairn debug store` and `cairn debug placement`

use clap::{Args, Subcommand};

use crate::ops::Verb;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Each shard that this node holds for others
    #[command(after_help = "Examples:\n  cairn debug store --json --data-dir /srv/cairn")]
    Store(Store),
    /// Why each peer was or was not chosen, for a group that would be made now
    #[command(after_help = "Examples:\n  cairn debug placement --explain\n  cairn debug placement --explain --json")]
    Placement(Placement),
}

#[derive(Debug, Args)]
pub(super) struct Store {}

#[derive(Debug, Args)]
pub(super) struct Placement {
    /// Give every peer's figures and the rule that decided (always done; the flag reads better)
    #[arg(long)]
    explain: bool,
}

impl Command {
    pub(super) fn verb(self) -> Verb {
        match self {
            Self::Store(Store {}) => Verb::DebugStore,
            Self::Placement(Placement { explain: _ }) => Verb::DebugPlacement,
        }
    }
}
