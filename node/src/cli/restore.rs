//! `cairn restore` and `cairn dump`

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{Context, execute};
use crate::{
    failure::{ExitCode, Failure},
    ops::{DumpArgs, RestoreArgs, Verb, encode_path},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn restore latest --target /tmp/back\n  \
    cairn restore 1a2b3c4d:/home/me/photos --target . --include '*.jpg' --overwrite never")]
pub(super) struct Restore {
    /// Snapshot: `latest` or the beginning of its id; `SNAP:/FOLDER` for a part
    #[arg(value_name = "SNAP[:FOLDER]")]
    snapshot: OsString,
    /// Folder to write into; made when missing
    #[arg(long, short, value_name = "DIR")]
    target: PathBuf,
    /// Only what matches; may be given several times
    #[arg(long, short, value_name = "PATTERN")]
    include: Vec<String>,
    /// Not what matches; may be given several times
    #[arg(long, short, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// What to do with files that are there
    #[arg(long, value_enum)]
    overwrite: Option<Overwrite>,
    /// Read back what was written and compare
    #[arg(long)]
    verify: bool,
    /// Say what would be written, write nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Overwrite {
    Always,
    IfChanged,
    IfNewer,
    Never,
}

impl Restore {
    pub(super) fn verb(self) -> Result<Verb, Failure> {
        let target = std::path::absolute(&self.target).map_err(|e| {
            Failure::new(ExitCode::Usage, "USAGE", format!("cannot use the target {}", self.target.display()))
                .caused_by(&e)
        })?;
        let overwrite = self.overwrite.and_then(|o| o.to_possible_value()).map(|v| v.get_name().to_owned());
        Ok(Verb::Restore(RestoreArgs {
            snapshot: encode_path(self.snapshot.as_ref()),
            target: encode_path(&target),
            include: self.include,
            exclude: self.exclude,
            overwrite,
            verify: self.verify,
            dry_run: self.dry_run,
        }))
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cairn dump latest /home/me/notes.txt > notes.txt\n  cairn dump latest shop.sql | psql shop"
)]
pub(super) struct Dump {
    /// Snapshot: `latest`, or the beginning of its id
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// The file in it
    path: OsString,
    /// Write to this new file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    target: Option<PathBuf>,
}

pub(super) async fn dump(context: &Context, dump: Dump) -> Result<ExitCode, Failure> {
    let verb = Verb::Dump(DumpArgs { snapshot: dump.snapshot, path: encode_path(dump.path.as_ref()) });
    let output: Box<dyn tokio::io::AsyncWrite + Send + Unpin> = match &dump.target {
        None => Box::new(tokio::io::stdout()),
        Some(path) => {
            let made = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await;
            Box::new(made.map_err(|e| {
                Failure::new(ExitCode::Failed, "OUTPUT", format!("cannot make {}", path.display())).caused_by(&e)
            })?)
        }
    };
    execute::verb_with_output(context, verb, output).await
}
