//! `cairn-sim`: one seed, or many, of one scenario. Exit code 1 at the first violation.

use std::process::ExitCode;

use cairn_sim::{Scenario, Settings, run_twice};
use clap::Parser;

/// Simulates a fleet of peers on Cairn's own placement code.
#[derive(Parser)]
#[command(name = "cairn-sim", version)]
struct Args {
    /// separation or churn
    #[arg(long, default_value = "separation")]
    scenario: Scenario,
    /// Draws everything; 0x.. or decimal
    #[arg(long, default_value = "0x5eed", value_parser = seed)]
    seed: u64,
    /// Run this many seeds, from --seed on
    #[arg(long, default_value_t = 1)]
    seeds: u32,
    /// Storage peers at the start
    #[arg(long, default_value_t = 200)]
    nodes: u32,
    /// Virtual days
    #[arg(long, default_value_t = 30)]
    days: u32,
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

fn main() -> ExitCode {
    let args = Args::parse();
    for at in 0..u64::from(args.seeds) {
        let settings = Settings::new(args.scenario, args.seed.wrapping_add(at), args.nodes, args.days);
        let Settings { seed, nodes, days, scenario, .. } = &settings;
        println!("SEED={seed:#x} commit={} scenario={scenario} nodes={nodes} days={days}", args.commit);
        let outcome = run_twice(&settings);
        match &outcome {
            Ok(r) => println!("ok {r:?}"),
            Err(failure) => println!("FAIL {failure}"),
        }
        println!("SEED={seed:#x} commit={} reproduce: {}", args.commit, settings.command());
        if outcome.is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
