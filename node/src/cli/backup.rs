//! `cairn backup`

use std::{
    ffi::OsString,
    io::IsTerminal,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use cairn_core::durability::{Sla, UnknownSla};
use clap::Args;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

use super::{Context, execute, limits::Limits};
use crate::{
    config::Setting,
    failure::{ExitCode, Failure},
    files::command::CommandStream,
    ops::{BackupArgs, Verb, encode_path},
    vault::stream_input::{StreamInput, StreamItem},
};

/// Bytes read at once from a command.
const BLOCK: usize = 256 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn backup /home/me --exclude '*.o' --exclude-caches --tag daily\n  \
    zcat dump.sql.gz | cairn backup --stdin --stdin-filename dump.sql\n  \
    cairn backup --stdin-filename shop.sql --stdin-from-command -- pg_dump -Fp shop\n\nA command that fails makes no snapshot \
    (exit 7). With --stdin, use `set -o pipefail` or --stdin-from-command.")]
#[command(group(clap::ArgGroup::new("source").required(true).multiple(true).args(["paths", "stdin", "stdin_from_command"])))]
#[command(group(clap::ArgGroup::new("stream").args(["stdin", "stdin_from_command"])))]
pub(super) struct Backup {
    /// Files and folders; with --stdin-from-command, the command and its arguments after `--`
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Back up what comes on stdin
    #[arg(long, conflicts_with = "paths")]
    stdin: bool,
    /// The stream's file name in the snapshot [default: stdin]
    #[arg(long, value_name = "NAME", requires = "stream")]
    stdin_filename: Option<String>,
    /// Back up what the command after `--` prints
    #[arg(long, requires = "paths")]
    stdin_from_command: bool,
    /// Leave out what matches: with a `/` the path, else any name; may be given several times
    #[arg(long, short = 'e', value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Read patterns from a file, one a line; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out folders with a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Stay on each path's file system
    #[arg(long, short = 'x')]
    one_file_system: bool,
    /// Tag for the snapshot; may be given several times, or separated by commas
    #[arg(long, value_delimiter = ',', value_name = "TAG")]
    tag: Vec<String>,
    /// Host name for the snapshot
    #[arg(long, short = 'H')]
    host: Option<String>,
    /// Say what would be done, do nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Read every file again
    #[arg(long, short = 'f')]
    force: bool,
    /// Make no snapshot when nothing changed (exit 8)
    #[arg(long)]
    skip_if_unchanged: bool,
    /// What this vault promises from now on: bronze (99 % of backups like this lose nothing in a year), silver (99.9 %), gold
    /// (99.99 %), platinum (99.999 %), or none: the network's size decides [default: as before; see `cairn plan`]
    #[arg(long, value_name = "SLA", value_parser = sla)]
    sla: Option<String>,
    #[command(flatten)]
    limits: Limits,
}

fn sla(name: &str) -> Result<String, String> {
    if name.eq_ignore_ascii_case("none") || name.parse::<Sla>().is_ok() {
        return Ok(name.to_ascii_lowercase());
    }
    Err(format!("{UnknownSla}, or none"))
}

pub(super) async fn run(context: &Context, backup: Backup) -> Result<ExitCode, Failure> {
    let mut exclude = context.config.owner.exclude.clone().unwrap_or_default();
    exclude.extend(backup.exclude.iter().cloned());
    for file in &backup.exclude_file {
        exclude.extend(patterns(file)?);
    }
    let is_stream = backup.stdin || backup.stdin_from_command;
    if !is_stream {
        check_any_exists(&backup.paths)?;
    }
    let paths = if is_stream { Vec::new() } else { absolute(&backup.paths)? };
    let stdin_filename = is_stream.then(|| backup.stdin_filename.clone().unwrap_or_else(|| "stdin".to_owned()));
    let args = BackupArgs {
        paths,
        stdin_filename,
        exclude,
        exclude_caches: backup.exclude_caches,
        one_file_system: backup.one_file_system,
        tags: backup.tag.clone(),
        host: Setting::flag(backup.host.clone()).or(context.config.owner.host.clone()).get(),
        force: backup.force,
        dry_run: backup.dry_run,
        skip_if_unchanged: backup.skip_if_unchanged,
        sla: Setting::flag(backup.sla.clone()).or(context.config.owner.sla.clone()).get(),
        limit_up: backup.limits.up()?,
        limit_down: backup.limits.down()?,
    };
    let verb = Verb::Backup(args);
    if backup.stdin_from_command {
        execute::verb_with_input(context, verb, |cancel| command_input(&backup.paths, cancel)).await
    } else if backup.stdin {
        let begin = |_| {
            if std::io::stdin().is_terminal() && !context.global.quiet {
                super::render::note("reading from the terminal; Ctrl-D ends it");
            }
            let failed =
                |e: std::io::Error| Failure::new(ExitCode::Failed, "STDIN", "stdin cannot be read").caused_by(&e);
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
            // A pipe holds 64 KiB unless it is told otherwise; what is no pipe says no.
            #[cfg(target_os = "linux")]
            let _ = rustix::pipe::fcntl_setpipe_size(&stdin, 1 << 20);
            StreamInput::from_blocking(std::fs::File::from(stdin)).map_err(failed)
        };
        execute::verb_with_input(context, verb, begin).await
    } else {
        execute::verb(context, verb).await
    }
}

/// A command's output as a stream that fails when the command does; the command dies with `cancel`.
fn command_input(argv: &[OsString], cancel: CancellationToken) -> Result<StreamInput, Failure> {
    let mut stream = CommandStream::spawn(argv).map_err(|e| {
        Failure::new(ExitCode::StreamCommand, "STREAM_COMMAND", "the stream command cannot be run").caused_by(&e)
    })?;
    let (sender, input) = StreamInput::channel();
    tokio::spawn(async move {
        loop {
            let mut block = bytes::BytesMut::with_capacity(BLOCK);
            let read = tokio::select! {
                read = stream.read_buf(&mut block) => read,
                () = cancel.cancelled() => return,
                () = sender.closed() => return,
            };
            let item = match read {
                Ok(0) => StreamItem::End,
                Ok(_) => StreamItem::Bytes(block.freeze()),
                Err(e) => StreamItem::Failed(e.to_string()),
            };
            let last = !matches!(item, StreamItem::Bytes(_));
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    Ok(input)
}

/// Some that are missing are errors on the way (exit 3); when all are, there is nothing to make a snapshot of.
fn check_any_exists(paths: &[OsString]) -> Result<(), Failure> {
    match paths.iter().find_map(|path| Path::new(path).symlink_metadata().err()) {
        Some(e) if paths.iter().all(|path| Path::new(path).symlink_metadata().is_err()) => {
            let named = paths.iter().map(|p| Path::new(p).display().to_string()).collect::<Vec<_>>().join(", ");
            Err(Failure::new(ExitCode::Failed, "NO_SOURCE", format!("none of the paths can be read: {named}"))
                .caused_by(&e)
                .with_hint("no snapshot was made; check how the paths are written"))
        }
        _ => Ok(()),
    }
}

fn absolute(paths: &[OsString]) -> Result<Vec<String>, Failure> {
    let one = |path: &OsString| {
        std::path::absolute(path).map(|p| encode_path(&p)).map_err(|e| {
            Failure::new(ExitCode::Usage, "USAGE", format!("cannot use the path {}", Path::new(path).display()))
                .caused_by(&e)
        })
    };
    paths.iter().map(one).collect()
}

fn patterns(file: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::new(ExitCode::Usage, "EXCLUDE_FILE", format!("cannot read {}", file.display())).caused_by(&e)
    })?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}
