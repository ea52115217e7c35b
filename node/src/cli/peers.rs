//! `cairn peers`: who is known, what is thought of one, what a file proves.

use std::{io::Read as _, path::PathBuf};

use clap::Args;

use super::{Context, execute, render};
use crate::{
    failure::{ExitCode, Failure},
    ops::{ExplainArgs, Verb},
    standing::report::{self, FILE_MAX},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn peers\n  cairn peers --json\n  cairn peers --explain 1a2b3c4d\n  \
    cairn peers --verify ~/.local/share/cairn/evidence/ID.evidence\n\n\
    What this node thinks of a peer is its own: first of all what it saw itself, then proofs, and a little of what many others say. \
    A proof is a file that anybody can check; whoever is proved to have lied is outside, everywhere and for good.")]
pub(super) struct Peers {
    /// Say why this node thinks of a peer as it does: every figure, and the proof when there is one
    #[arg(long, value_name = "ID")]
    explain: Option<String>,
    /// Check a file of evidence or a verdict by itself, and say what it proves of whom; needs no network
    #[arg(long, value_name = "FILE", conflicts_with = "explain")]
    verify: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, peers: Peers) -> Result<ExitCode, Failure> {
    match (peers.explain, peers.verify) {
        (Some(peer), _) => execute::verb(context, Verb::Explain(ExplainArgs { peer })).await,
        (None, Some(file)) => verify(context, &file),
        (None, None) => execute::verb(context, Verb::Peers).await,
    }
}

/// 0 when it proves a lie, 1 when it does not.
fn verify(context: &Context, path: &std::path::Path) -> Result<ExitCode, Failure> {
    let unreadable = |e: &std::io::Error| {
        Failure::new(ExitCode::NotFound, "EVIDENCE", format!("cannot read {}", path.display())).caused_by(e)
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| unreadable(&e))?;
    file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
    let checked = report::check(&bytes);
    render::end(context.output(), "verify", &serde_json::to_value(&checked).unwrap_or_default());
    Ok(if checked.proves { ExitCode::Success } else { ExitCode::Failed })
}
