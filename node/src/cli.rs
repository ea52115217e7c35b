//! The command line: what the verbs are called, and how their results become text, JSON lines and exit codes.
//!
//! One file per verb under `cli/`; each only turns arguments into a [`crate::ops::Verb`] or a call of the library.

use std::{path::PathBuf, process::ExitCode as ProcessExit};

use cairn_core::courtesy::timetable::Timetable;
use cairn_proto::{Domain, Region};
use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::{
    config::FileConfig,
    daemon,
    failure::{ExitCode, Failure},
    fallback::Fallbacks,
    invitation,
    ops::SecretText,
    telemetry::{self, Verbosity},
};

mod audit;
mod backup;
mod debug;
mod demo;
mod execute;
mod init;
mod lab;
mod limits;
mod listing;
mod network;
mod node;
mod peers;
mod plan;
mod recover;
pub mod render;
mod repair;
mod restore;
mod secrets;
mod signals;
mod version;

#[cfg(test)]
mod tests;

/// Peer-to-peer backup: give some disk, get your files kept by others, encrypted; 24 words bring everything back.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Examples:\n  cairn demo                          see it work, nothing is kept\n  \
    cairn init --network network.toml   make a vault\n  cairn backup /home/me               back up a folder\n  \
    cairn restore latest --target /tmp/back\n\nExit codes: 0 done, 1 failed, 2 usage, 3 some sources unreadable, 4 stored below the \
    redundancy target, 5 damage found, 6 data lost, 7 stream command failed, 8 nothing to do, 10 not found, 11 busy, 12 wrong \
    passphrase or phrase, 13 too few peers, 14 no space, 15 refused, 130 SIGINT, 143 SIGTERM")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every verb takes.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Folder with everything of this node or owner [default: $XDG_DATA_HOME/cairn]
    #[arg(long, env = "CAIRN_DATA_DIR", global = true, help_heading = "Global options", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Network file; needed once, then kept in the data folder
    #[arg(long, env = "CAIRN_NETWORK", global = true, help_heading = "Global options", value_name = "FILE")]
    network: Option<PathBuf>,
    /// Invitation or pass for a network by invitation, or @FILE with one; needed once, then kept in the data folder
    #[arg(
        long,
        env = "CAIRN_INVITATION",
        hide_env_values = true,
        global = true,
        help_heading = "Global options",
        value_name = "TEXT"
    )]
    invitation: Option<String>,
    /// Settings (TOML) [default: config.toml in the data folder]
    #[arg(
        long,
        short = 'c',
        env = "CAIRN_CONFIG",
        global = true,
        help_heading = "Global options",
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
    /// File with the vault's passphrase in its first line
    #[arg(long, env = "CAIRN_PASSPHRASE_FILE", global = true, help_heading = "Global options", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Print results and errors only
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
    /// Say more on stderr; twice, three times: even more
    #[arg(long, short, global = true, help_heading = "Global options", action = clap::ArgAction::Count)]
    verbose: u8,
    /// No progress bars and lines
    #[arg(long, global = true, help_heading = "Global options")]
    no_progress: bool,
}

impl Global {
    fn data_dir(&self) -> Result<PathBuf, Failure> {
        self.data_dir.clone().map_or_else(default_data_dir, Ok)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a network, invite into one
    #[command(subcommand)]
    Network(network::Command),
    /// Run a node that keeps shards for others
    #[command(subcommand)]
    Node(node::Command),
    /// Make a vault; prints its 24 words once
    Init(init::Init),
    /// Back up paths, a stream or a command's output
    Backup(backup::Backup),
    /// List snapshots
    Snapshots(listing::Snapshots),
    /// List what is in a snapshot
    Ls(listing::Ls),
    /// Find entries in all snapshots
    Find(listing::Find),
    /// Compare two snapshots
    Diff(listing::Diff),
    /// Write a file of a snapshot to stdout, or a folder as tar
    Dump(restore::Dump),
    /// Write a snapshot's files to a folder
    Restore(restore::Restore),
    /// Verify that every shard is there, and with --read-data that it is right
    Check(listing::Check),
    /// Have holders show random parts of what they keep: does everybody still have it?
    Audit(audit::Audit),
    /// Sizes and counts of the vault
    Stats(listing::Stats),
    /// What the node does and where every group stands
    Status(listing::Status),
    /// Peers known, and what this node thinks of them
    Peers(peers::Peers),
    /// Show what this node would have repaired now for absent owners
    Repair(repair::Repair),
    /// What a promise takes: code, copies, traffic and the chance of loss
    Plan(plan::Plan),
    /// Rebuild a vault on a blank data folder from its 24 words
    Recover(recover::Recover),
    /// Look inside
    #[command(subcommand)]
    Debug(debug::Command),
    /// Run a network of real node processes on this machine, for trials and tests
    #[command(subcommand)]
    Lab(lab::Command),
    /// Show the whole thing with a network of its own: back up, lose peers, lose the machine, recover, compare
    Demo(demo::Demo),
    /// Print the version
    Version(version::Version),
    /// Print a shell's completions
    Completions(version::Completions),
}

impl Command {
    fn is_long(&self) -> bool {
        match self {
            Self::Ls(ls) => ls.long(),
            Self::Find(find) => find.long(),
            _ => false,
        }
    }

    /// How many threads drive tasks; none: as many as the machine runs at once.
    ///
    /// A node is a guest on its machine: half of the processors are enough for its connections, and with a thread for each, threads woke
    /// each other for work that one had done sooner. Processor seconds of a backup, per GB and all sides, twelve nodes on two cores, in
    /// turns: 5.0, 4.6, 5.4, 5.4, 4.1 and 4.2 with two threads in each node, 4.2, 4.0, 4.9, 4.3, 4.0 and 4.3 with one. What blocks has
    /// threads of its own.
    fn workers(&self) -> Option<usize> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        matches!(self, Self::Node(node::Command::Run(_))).then_some(processors.div_ceil(2))
    }
}

/// What a verb works with.
struct Context {
    global: Global,
    config: FileConfig,
    cancel: CancellationToken,
    /// `ls -l`.
    long: bool,
}

impl Context {
    /// Asked for only by verbs that need it: `cairn lab` works without a home.
    fn data_dir(&self) -> Result<PathBuf, Failure> {
        self.global.data_dir()
    }

    fn output(&self) -> render::Output {
        render::Output {
            json: self.global.json,
            quiet: self.global.quiet,
            progress: !self.global.no_progress,
            long: self.long,
        }
    }

    fn network(&self) -> Option<&std::path::Path> {
        self.global.network.as_deref().or(self.config.network.as_deref())
    }

    /// What lets us into a network by invitation, when it was given.
    fn invitation(&self) -> Result<Option<SecretText>, Failure> {
        self.global.invitation.as_deref().map(invitation::read_argument).transpose()
    }

    /// Who we are to our own nodes: `CAIRN_DOMAIN`, else the settings file. `node run` has a flag above both.
    fn domain(&self) -> Result<Option<Domain>, Failure> {
        let named = std::env::var("CAIRN_DOMAIN").ok().or_else(|| self.config.node.domain.clone());
        named
            .map(|name| Domain::operator(&name))
            .transpose()
            .map_err(|e| Failure::new(ExitCode::Usage, "USAGE", "cannot use this domain").caused_by(&e))
    }

    /// `[limits]` of the settings.
    fn timetable(&self) -> Result<Timetable, Failure> {
        self.config
            .limits
            .timetable()
            .map_err(|e| Failure::new(ExitCode::Usage, "LIMITS", "cannot use these limits").caused_by(&e))
    }

    /// `[[fallback]]` of the settings.
    fn fallback(&self) -> Result<Fallbacks, Failure> {
        Fallbacks::new(self.config.fallback.clone())
            .map_err(|e| Failure::new(ExitCode::Usage, "FALLBACK", "cannot use this fallback storage").caused_by(&e))
    }

    /// What an owner's short-lived node is told. Where it is matters to it alone: it tells nobody.
    fn client(&self) -> Result<daemon::NodeSettings, Failure> {
        let file = &self.config.node;
        let named = |name: &str, file: Option<&PathBuf>| std::env::var_os(name).map(PathBuf::from).or(file.cloned());
        let region = std::env::var("CAIRN_REGION").ok().or_else(|| file.region.clone());
        let region = region.map_or(Ok(Region::unknown()), Region::new);
        Ok(daemon::NodeSettings {
            domain: self.domain()?,
            region: region
                .map_err(|e| Failure::new(ExitCode::Usage, "USAGE", "cannot use this region").caused_by(&e))?,
            geoip: named("CAIRN_GEOIP", file.geoip.as_ref()),
            geoip_asn: named("CAIRN_GEOIP_ASN", file.geoip_asn.as_ref()),
            timetable: self.timetable()?,
            fallback: self.fallback()?,
            invitation: self.invitation()?,
            ..daemon::NodeSettings::client()
        })
    }

    fn passphrase_file(&self) -> Option<&std::path::Path> {
        self.global.passphrase_file.as_deref().or(self.config.owner.passphrase_file.as_deref())
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ProcessExit {
    stay_small();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            if e.use_stderr() && json_is_asked_for(std::env::args_os()) {
                render::failure(&usage(&e), true);
            } else {
                let _ = e.print();
            }
            return ProcessExit::from(if e.use_stderr() { u8::from(ExitCode::Usage) } else { 0 });
        }
    };
    let json = cli.global.json;
    match start(cli) {
        Ok(code) => ProcessExit::from(u8::from(code)),
        Err(failure) => {
            render::failure(&failure, json);
            ProcessExit::from(u8::from(failure.code))
        }
    }
}

/// Without huge pages, which the allocator asks for: an idle node is 47 instead of 74 MiB without them, an owner with a stream of
/// 2 GiB 235 instead of 290, and neither is slower.
fn stay_small() {
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!("huge pages stay: {e}");
    }
}

/// Whether whoever wrote this command line wants JSON, for a line that cannot be parsed. What comes after `--` belongs
/// to another command.
fn json_is_asked_for(args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

/// A command line that cannot be parsed, for programs.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let message: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).collect();
    let message = message.join(" ").replace("For more information, try '--help'.", "");
    Failure::new(ExitCode::Usage, "USAGE", message.trim_start_matches("error:").trim())
        .with_hint("`--help` shows what the verb takes, with examples")
}

fn start(cli: Cli) -> Result<ExitCode, Failure> {
    // TLS libraries write session keys to the file that this variable names, ours (QUIC) among them. Unsetting it is
    // `unsafe` in a process that may have threads, so refusing is the honest way.
    if std::env::var_os("SSLKEYLOGFILE").is_some() {
        return Err(Failure::new(
            ExitCode::Refused,
            "SSLKEYLOGFILE",
            "SSLKEYLOGFILE is set, so session keys would be logged",
        )
        .with_hint("run `env -u SSLKEYLOGFILE cairn ..`"));
    }
    let verbosity = Verbosity { verbose: cli.global.verbose, quiet: cli.global.quiet, json: cli.global.json };
    telemetry::start(verbosity);
    let data_dir = cli.global.data_dir().ok();
    let config = FileConfig::load(cli.global.config.as_deref(), data_dir.as_deref())?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = cli.command.workers() {
        runtime.worker_threads(workers);
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|e| Failure::new(ExitCode::Failed, "RUNTIME", "cannot start").caused_by(&e))?;
    let long = cli.command.is_long();
    let context = Context { global: cli.global, config, cancel: CancellationToken::new(), long };
    let result = runtime.block_on(async {
        let signals = signals::watch(context.cancel.clone());
        let result = run(&context, cli.command).await;
        signals.translate(result)
    });
    // Blocking work that cannot be cancelled (a read from a terminal) must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn run(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Network(c) => network::run(context, &c),
        Command::Node(c) => node::run(context, c).await,
        Command::Init(c) => init::run(context, c).await,
        Command::Backup(c) => backup::run(context, c).await,
        Command::Snapshots(c) => execute::verb(context, c.verb()).await,
        Command::Ls(c) => execute::verb(context, c.verb()).await,
        Command::Find(c) => execute::verb(context, c.verb()).await,
        Command::Diff(c) => execute::verb(context, c.verb()).await,
        Command::Dump(c) => restore::dump(context, c).await,
        Command::Restore(c) => execute::verb(context, c.verb()?).await,
        Command::Check(c) => execute::verb(context, c.verb()).await,
        Command::Audit(c) => execute::verb(context, c.verb()?).await,
        Command::Stats(_) => execute::verb(context, crate::ops::Verb::Stats).await,
        Command::Status(_) => execute::verb(context, crate::ops::Verb::Status).await,
        Command::Peers(c) => peers::run(context, c).await,
        Command::Repair(c) => repair::run(context, &c).await,
        Command::Plan(c) => plan::run(context, c).await,
        Command::Recover(c) => recover::run(context, c).await,
        Command::Debug(c) => execute::verb(context, c.verb()).await,
        Command::Lab(c) => lab::run(context, c).await,
        Command::Demo(c) => demo::run(context, c).await,
        Command::Version(_) => Ok(version::print(context)),
        Command::Completions(c) => Ok(version::completions(&c)),
    }
}

fn default_data_dir() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local").join("share")))
        .map(|base| base.join("cairn"))
        .ok_or_else(|| {
            Failure::new(ExitCode::Usage, "DATA_DIR", "neither XDG_DATA_HOME nor HOME says where the data folder is")
                .with_hint("name it with --data-dir or CAIRN_DATA_DIR")
        })
}
