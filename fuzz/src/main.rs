//! `cairn-fuzz [--seconds N] [--seed S] [--target NAME] [--list]`: runs every target for its share of the time.

use std::{
    panic,
    process::ExitCode,
    time::{Duration, Instant},
};

use cairn_fuzz::{mutate, targets};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Slowest that one input of at most 64 KiB may be: far over any decoder's honest time, far under a stalled node.
const INPUT_TIME_MAX: Duration = Duration::from_secs(2);
/// Most memory that the whole run may have used: every decoder states a limit far below.
const PEAK_KIB_MAX: u64 = 768 * 1024;

struct Options {
    seconds: u64,
    seed: u64,
    target: Option<String>,
}

fn options() -> Result<Option<Options>, String> {
    let mut options = Options { seconds: 30, seed: 0x5eed, target: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--list" {
            for t in targets::all() {
                println!("{}", t.name);
            }
            return Ok(None);
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || {
            let digits = value.strip_prefix("0x");
            digits
                .map_or_else(|| value.parse(), |hex| u64::from_str_radix(hex, 16))
                .map_err(|e| format!("{value}: {e}"))
        };
        match arg.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--target" => options.target = Some(value),
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}\nusage: cairn-fuzz [--seconds N] [--seed S] [--target NAME] [--list]");
            return ExitCode::from(2);
        }
    };
    let chosen: Vec<_> =
        targets::all().into_iter().filter(|t| options.target.as_deref().is_none_or(|name| t.name == name)).collect();
    if chosen.is_empty() {
        eprintln!("error: no such target");
        return ExitCode::from(2);
    }
    println!("SEED={:#x} seconds={} targets={}", options.seed, options.seconds, chosen.len());
    let share = Duration::from_millis(options.seconds * 1000 / chosen.len() as u64);
    let failed = chosen.iter().filter(|t| !attack(t, &options, share)).count();
    if let Some(kib) = peak_kib() {
        println!("peak memory {} MiB", kib / 1024);
        if kib > PEAK_KIB_MAX {
            println!("FAIL a decoder took more than {} MiB", PEAK_KIB_MAX / 1024);
            return ExitCode::FAILURE;
        }
    }
    println!("fuzz result: {}. {} targets, {failed} failed", if failed == 0 { "ok" } else { "FAILED" }, chosen.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn attack(target: &targets::Target, options: &Options, share: Duration) -> bool {
    let name_hash = target.name.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ name_hash);
    let corpus = (target.seeds)();
    let begun = Instant::now();
    let mut inputs = 0u64;
    let mut next = corpus.clone().into_iter();
    while begun.elapsed() < share || inputs < corpus.len() as u64 {
        let input = next.next().unwrap_or_else(|| mutate::input(&mut rng, &corpus));
        let at = Instant::now();
        let held = panic::catch_unwind(|| (target.run)(&input)).is_ok();
        inputs += 1;
        if !held || at.elapsed() > INPUT_TIME_MAX {
            println!("FAIL {} input {inputs}, {:?}, {} bytes: {}", target.name, at.elapsed(), input.len(), hex(&input));
            println!("reproduce: scripts/fuzz {} {:#x} {}", options.seconds.max(60), options.seed, target.name);
            return false;
        }
    }
    println!("{:<24} {inputs:>9} inputs", target.name);
    true
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}
