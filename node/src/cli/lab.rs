//! `cairn lab ..`

use std::path::PathBuf;

use cairn_proto::ByteSize;
use clap::{Args, Subcommand};

use super::{Context, network, render};
use crate::{
    failure::{ExitCode, Failure},
    lab::{Lab, NodeState, Plan},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make and start a network; returns when all nodes have found each other
    #[command(after_help = "Examples:\n  cairn lab up --nodes 12 --dir /tmp/lab\n  \
        CAIRN_NETWORK=/tmp/lab/network.toml cairn init --data-dir /tmp/me")]
    Up(Up),
    /// Each node: index, pid, up or down, addresses, data folder
    #[command(after_help = "Examples:\n  cairn lab status --dir /tmp/lab --json")]
    Status(Dir),
    /// Kill nodes (SIGKILL)
    #[command(after_help = "Examples:\n  cairn lab kill 3 5 --dir /tmp/lab")]
    Kill(Nodes),
    /// Stop nodes cleanly (SIGTERM)
    #[command(after_help = "Examples:\n  cairn lab stop 3 5 --dir /tmp/lab")]
    Stop(Nodes),
    /// Start nodes again
    #[command(after_help = "Examples:\n  cairn lab start 3 5 --dir /tmp/lab")]
    Start(Nodes),
    /// Stop all nodes; their folders stay
    #[command(after_help = "Examples:\n  cairn lab down --dir /tmp/lab && rm -r /tmp/lab")]
    Down(Dir),
}

#[derive(Debug, Args)]
pub(super) struct Dir {
    /// The lab's folder [default: the lab that was last brought up with this data folder]
    #[arg(long, env = "CAIRN_LAB_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    dir: Dir,
    /// How many nodes
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=256))]
    nodes: u16,
    /// Regions, given to the nodes in turn
    #[arg(long, value_delimiter = ',', value_name = "REGION", default_values_t = crate::lab::REGIONS.map(String::from))]
    regions: Vec<String>,
    /// Space that each node gives
    #[arg(long, default_value = "20GiB", value_name = "SIZE")]
    give: ByteSize,
    /// The network's puzzle
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=24))]
    puzzle_bits: u8,
}

/// Nodes of a lab.
#[derive(Debug, Args)]
pub(super) struct Nodes {
    /// Which nodes, by index
    #[arg(required = true, value_name = "I")]
    nodes: Vec<usize>,
    #[command(flatten)]
    dir: Dir,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    let work = dispatch(context, command);
    tokio::select! {
        result = work => result,
        () = context.cancel.cancelled() => Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted")
            .with_hint("`cairn lab down` stops what was started")),
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(up) => {
            let dir = match up.dir.dir {
                Some(dir) => dir,
                None => context.data_dir()?.join("lab"),
            };
            let founder = network::founder_key()?;
            let network = network::make("lab", up.puzzle_bits, &founder, Vec::new())?;
            let plan = Plan { nodes: up.nodes.into(), regions: up.regions, give: up.give };
            let lab = Lab::up(&dir, network, &plan).await?;
            if let Ok(data_dir) = context.data_dir() {
                remember(&data_dir, lab.dir());
            }
            report(context, &lab);
        }
        Command::Status(dir) => {
            let lab = find(context, dir)?;
            status(context, &lab);
        }
        Command::Kill(some) => {
            let mut lab = find(context, some.dir)?;
            lab.kill(&some.nodes).await?;
            report(context, &lab);
        }
        Command::Stop(some) => {
            let mut lab = find(context, some.dir)?;
            lab.stop(&some.nodes).await?;
            report(context, &lab);
        }
        Command::Start(some) => {
            let mut lab = find(context, some.dir)?;
            lab.start(&some.nodes).await?;
            report(context, &lab);
        }
        Command::Down(dir) => {
            let mut lab = find(context, dir)?;
            lab.down().await?;
            report(context, &lab);
        }
    }
    Ok(ExitCode::Success)
}

fn find(context: &Context, dir: Dir) -> Result<Lab, Failure> {
    let dir = match dir.dir {
        Some(dir) => dir,
        None => {
            let data_dir = context.data_dir()?;
            std::fs::read_to_string(data_dir.join("last-lab"))
                .map_or_else(|_| data_dir.join("lab"), |t| t.trim().into())
        }
    };
    Lab::open(&dir)
}

/// So that `cairn lab status` needs no `--dir`. Only a comfort: when it cannot be written, nothing is lost.
fn remember(data_dir: &std::path::Path, lab: &std::path::Path) {
    if data_dir.is_dir() {
        let _ = std::fs::write(data_dir.join("last-lab"), format!("{}\n", lab.display()));
    }
}

fn report(context: &Context, lab: &Lab) {
    let states = lab.status();
    let up = states.iter().filter(|n| n.state == NodeState::Up).count();
    let summary =
        serde_json::json!({ "nodes": states.len(), "up": up, "dir": lab.dir(), "network": lab.network_path() });
    render::end(context.output(), "lab", &summary);
}

/// As JSON it is one array: a lab has few nodes, and what reads it wants all of them.
fn status(context: &Context, lab: &Lab) {
    let states = lab.status();
    if context.global.json {
        render::line(&serde_json::to_string(&states).unwrap_or_default());
        return;
    }
    let rows: Vec<_> = states.iter().map(|node| serde_json::to_value(node).unwrap_or_default()).collect();
    render::table("lab_node", &rows);
}
