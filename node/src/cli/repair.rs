//! `cairn repair`

use clap::Args;

use super::{Context, execute};
use crate::{
    failure::{ExitCode, Failure},
    ops::Verb,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cairn repair --dry-run\n  cairn repair --dry-run --data-dir /srv/cairn --json\n\n\
    A node that gives space also watches groups of others, as one of their stewards. When holders are lost it orders repairs by \
    itself, together with the other stewards and while the owners sleep; nobody has to call for it."
)]
pub(super) struct Repair {
    /// Say what would be ordered now, order nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, repair: &Repair) -> Result<ExitCode, Failure> {
    if !repair.dry_run {
        return Err(Failure::new(ExitCode::Usage, "USAGE", "repair goes on by itself, there is nothing to start")
            .with_hint("`cairn repair --dry-run` shows what is next, `cairn status` how the watched groups stand"));
    }
    execute::verb(context, Verb::Repair).await
}
