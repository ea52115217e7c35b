//! `cairn restore` and `cairn dump`

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{Context, execute, limits::Limits};
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
    #[arg(long, value_enum, value_name = "WHEN")]
    overwrite: Option<Overwrite>,
    /// Read back what was written and compare
    #[arg(long)]
    verify: bool,
    /// Say what would be written, write nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    #[command(flatten)]
    limits: Limits,
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
            limit_up: self.limits.up()?,
            limit_down: self.limits.down()?,
        }))
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cairn dump latest /home/me/notes.txt > notes.txt\n  cairn dump latest shop.sql | psql shop\n  \
    cairn dump latest /home/me/photos | tar x"
)]
pub(super) struct Dump {
    /// Snapshot: `latest`, or the beginning of its id
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// The file in it, or a folder, which is written as tar
    path: OsString,
    /// Write to this new file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    target: Option<PathBuf>,
}

pub(super) async fn dump(context: &Context, dump: Dump) -> Result<ExitCode, Failure> {
    let verb = Verb::Dump(DumpArgs { snapshot: dump.snapshot, path: encode_path(dump.path.as_ref()) });
    let Some(path) = &dump.target else {
        return execute::verb_with_output(context, verb, Box::new(tokio::io::stdout())).await;
    };
    let out = NewFile::begin(path)?;
    let code = execute::verb_with_output(context, verb, out.writer()?).await?;
    out.keep()?;
    Ok(code)
}

/// A file that stands under its name only when it is whole, and never in the place of another.
struct NewFile {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl NewFile {
    fn begin(path: &Path) -> Result<Self, Failure> {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::new(ExitCode::Refused, "EXISTS", format!("{} is there already", path.display()))
                .with_hint("only a new file is written to; send stdout to one that may be replaced"));
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let file = tempfile::Builder::new().prefix(".cairn-dump-").tempfile_in(folder);
        Ok(Self { path: path.to_owned(), file: file.map_err(|e| cannot_write(path, &e))? })
    }

    fn writer(&self) -> Result<Box<dyn tokio::io::AsyncWrite + Send + Unpin>, Failure> {
        let file = self.file.reopen().map_err(|e| cannot_write(&self.path, &e))?;
        Ok(Box::new(tokio::fs::File::from_std(file)))
    }

    fn keep(self) -> Result<(), Failure> {
        self.file.as_file().sync_all().map_err(|e| cannot_write(&self.path, &e))?;
        self.file.persist_noclobber(&self.path).map_err(|e| cannot_write(&self.path, &e.error))?;
        Ok(())
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::Failed, "OUTPUT", format!("cannot write {}", path.display())).caused_by(error)
}
