//! The verbs that read and list: snapshots, ls, find, diff, check, stats, status.

use std::ffi::OsString;

use clap::Args;

use crate::ops::{self, CheckArgs, DiffArgs, FindArgs, LsArgs, SnapshotsArgs, Verb};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn snapshots\n  cairn snapshots --tag daily --json")]
pub(super) struct Snapshots {
    /// Only with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only of this host
    #[arg(long, short = 'H')]
    host: Option<String>,
}

impl Snapshots {
    pub(super) fn verb(self) -> Verb {
        Verb::Snapshots(SnapshotsArgs { tag: self.tag, host: self.host })
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cairn ls latest\n  cairn ls -l latest /home/me\n  cairn ls 1a2b3c4d /home/me/photos"
)]
pub(super) struct Ls {
    /// Snapshot: `latest`, or the beginning of its id
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// Folder or file inside
    path: Option<OsString>,
    /// Show mode, owner, size and time
    #[arg(long, short)]
    long: bool,
}

impl Ls {
    pub(super) fn long(&self) -> bool {
        self.long
    }

    pub(super) fn verb(self) -> Verb {
        Verb::Ls(LsArgs { snapshot: self.snapshot, path: self.path.map(|p| ops::encode_path(p.as_ref())) })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn find '*.sql'\n  cairn find --snapshot latest '/home/*/notes*'")]
pub(super) struct Find {
    /// What to look for: globs for names, or with `/` for whole paths
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Only in this snapshot
    #[arg(long, short, value_name = "SNAP")]
    snapshot: Option<String>,
    /// Show mode, owner, size and time
    #[arg(long, short)]
    long: bool,
}

impl Find {
    pub(super) fn long(&self) -> bool {
        self.long
    }

    pub(super) fn verb(self) -> Verb {
        Verb::Find(FindArgs { patterns: self.patterns, snapshot: self.snapshot })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn diff 1a2b3c4d latest")]
pub(super) struct Diff {
    /// Older snapshot
    from: String,
    /// Newer snapshot
    to: String,
}

impl Diff {
    pub(super) fn verb(self) -> Verb {
        Verb::Diff(DiffArgs { from: self.from, to: self.to })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn check\n  cairn check --read-data\n  cairn check --read-data-subset 10%")]
pub(super) struct Check {
    /// Fetch and verify everything
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Fetch and verify a part: `10%`, `1/5` (the first of five) or a size as `500MB`
    #[arg(long, value_name = "PART")]
    read_data_subset: Option<String>,
}

impl Check {
    pub(super) fn verb(self) -> Verb {
        Verb::Check(CheckArgs { read_data: self.read_data, read_data_subset: self.read_data_subset })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn stats\n  cairn stats --json")]
pub(super) struct Stats {}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn status\n  cairn status --data-dir /srv/cairn --json")]
pub(super) struct Status {}
