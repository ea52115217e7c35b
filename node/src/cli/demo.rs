//! `cairn demo`

use std::path::PathBuf;

use clap::Args;

use super::Context;
use crate::{
    demo::{self, DemoPlan},
    failure::{ExitCode, Failure},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cairn demo\n  cairn demo ~/Documents --nodes 24\n  cairn demo ~/photos --keep\n\nNothing leaves \
    this machine and nothing is kept, unless --keep is given."
)]
pub(super) struct Demo {
    /// What to back up [default: a generated mix of files and an SQL dump, about 64 MiB]
    path: Option<PathBuf>,
    /// How many nodes
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(12..=128))]
    nodes: u16,
    /// Keep the folder with everything, and say where it is
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(context: &Context, args: Demo) -> Result<ExitCode, Failure> {
    let path = args
        .path
        .map(std::fs::canonicalize)
        .transpose()
        .map_err(|e| Failure::new(ExitCode::NotFound, "NO_PATH", "cannot find what to back up").caused_by(&e))?;
    let plan = DemoPlan { path, nodes: args.nodes.into(), keep: args.keep };
    demo::run(plan, super::render::DemoScreen::new(context.output()), context.cancel.clone()).await
}
