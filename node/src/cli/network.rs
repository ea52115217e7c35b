//! `cairn network new`

use std::io::Write;

use cairn_proto::network_file::NetworkFile;
use clap::{Args, Subcommand};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::Context;
use crate::failure::{ExitCode, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new network and print its network file
    #[command(after_help = "Examples:\n  cairn network new --name home > network.toml\n  \
        cairn network new --name club --puzzle-bits 20 --founder-key-file founder.key \\\n      \
        --bootstrap /dns/boot.example.org/tcp/4001/p2p/12D3.. > network.toml")]
    New(New),
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// What people call it: letters, digits, . _ -
    #[arg(long)]
    name: String,
    /// Leading zero bits that a peer's key must have: the price of joining (2^B key pairs)
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u8).range(0..=24))]
    puzzle_bits: u8,
    /// Address with /p2p/PEERID that newcomers dial first; may be given several times, and edited later
    #[arg(long, value_name = "MULTIADDR")]
    bootstrap: Vec<libp2p::Multiaddr>,
    /// Write the founder's secret key here (0600); without it, the key is forgotten and the file can never be re-issued
    #[arg(long, value_name = "FILE")]
    founder_key_file: Option<std::path::PathBuf>,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<ExitCode, Failure> {
    let Command::New(new) = command;
    let founder = founder_key()?;
    let network = make(&new.name, new.puzzle_bits, &founder, new.bootstrap.iter().map(ToString::to_string).collect())?;
    if let Some(path) = &new.founder_key_file {
        let hex: Zeroizing<String> = Zeroizing::new(founder.to_bytes().iter().map(|b| format!("{b:02x}")).collect());
        crate::data_dir::write_private(path, hex.as_bytes())?;
    }
    let text = if context.global.json {
        serde_json::to_string(&network).unwrap_or_default() + "\n"
    } else {
        network.to_toml()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Failure::new(ExitCode::Failed, "OUTPUT", "cannot write the network file").caused_by(&e))?;
    Ok(ExitCode::Success)
}

/// A fresh founder key.
pub(crate) fn founder_key() -> Result<SigningKey, Failure> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut())
        .map_err(|e| Failure::new(ExitCode::Failed, "ENTROPY", "the system gives no random bytes").caused_by(&e))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// A signed network file.
pub(crate) fn make(
    name: &str,
    puzzle_bits: u8,
    founder: &SigningKey,
    bootstrap: Vec<String>,
) -> Result<NetworkFile, Failure> {
    let mut network = NetworkFile::create(name, puzzle_bits, founder)
        .map_err(|e| Failure::new(ExitCode::Usage, "NETWORK_FILE", "cannot make this network").caused_by(&e))?;
    network.bootstrap = bootstrap;
    Ok(network)
}
