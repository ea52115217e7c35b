//! `cairn-sim`: one seed, or many, of one scenario. Exit code 1 at the first violation.

use std::process::ExitCode;

use cairn_sim::{Scenario, Settings, months, months::Months, run_twice};
use clap::Parser;

/// Simulates a fleet of peers on Cairn's own placement code.
#[derive(Parser)]
#[command(name = "cairn-sim", version)]
struct Args {
    /// separation, churn, or months (without the owner)
    #[arg(long, default_value = "separation")]
    scenario: World,
    /// Draws everything; 0x.. or decimal
    #[arg(long, default_value = "0x5eed", value_parser = seed)]
    seed: u64,
    /// Run this many seeds, from --seed on
    #[arg(long, default_value_t = 1)]
    seeds: u32,
    /// Storage peers at the start; 200, and 48 for months
    #[arg(long)]
    nodes: Option<u32>,
    /// Virtual days; 30, and 180 for months
    #[arg(long)]
    days: Option<u32>,
    /// Of months: peers in a hundred that leave for good in a month
    #[arg(long, default_value_t = 5)]
    churn: u32,
    /// Of months: the owner's groups
    #[arg(long, default_value_t = 2)]
    groups: u32,
    /// Of months: bad stewards of each group
    #[arg(long, default_value_t = 0)]
    bad: u32,
    /// Printed with the result, for logs
    #[arg(long, env = "CAIRN_COMMIT", default_value = "unknown")]
    commit: String,
}

fn seed(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|e| e.to_string())
}

#[derive(Clone, Copy)]
enum World {
    Fleet(Scenario),
    Months,
}

impl std::str::FromStr for World {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "months" {
            return Ok(Self::Months);
        }
        text.parse().map(Self::Fleet).map_err(|e| format!("{e}, months"))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    for at in 0..u64::from(args.seeds) {
        let seed = args.seed.wrapping_add(at);
        let (head, command, outcome) = match args.scenario {
            World::Fleet(scenario) => {
                let settings = Settings::new(scenario, seed, args.nodes.unwrap_or(200), args.days.unwrap_or(30));
                let head = format!("scenario={scenario} nodes={} days={}", settings.nodes, settings.days);
                (head, settings.command(), run_twice(&settings).map(|report| format!("{report:?}")))
            }
            World::Months => {
                let usual = Months::new(seed, args.churn);
                let (peers, days) = (args.nodes.unwrap_or(usual.peers), args.days.unwrap_or(usual.days));
                let settings = Months { peers, days, groups: args.groups, bad: args.bad, ..usual };
                let head = format!("scenario=months nodes={peers} days={days} churn={}%", args.churn);
                (head, settings.command(), months::run_twice(&settings).map(|report| format!("{report:?}")))
            }
        };
        println!("SEED={seed:#x} commit={} {head}", args.commit);
        match &outcome {
            Ok(report) => println!("ok {report}"),
            Err(failure) => println!("FAIL {failure}"),
        }
        println!("SEED={seed:#x} commit={} reproduce: {command}", args.commit);
        if outcome.is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
