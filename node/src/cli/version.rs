//! `cairn version` and `cairn completions`

use cairn_proto::PROTOCOL_VERSION;
use clap::{Args, CommandFactory};

use super::{Cli, Context, render};
use crate::failure::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn version --json")]
pub(super) struct Version {}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn completions bash > /etc/bash_completion.d/cairn")]
pub(super) struct Completions {
    /// Which shell
    shell: clap_complete::Shell,
}

pub(super) fn print(context: &Context) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    render::line(&if context.global.json {
        serde_json::json!({ "message_type": "version", "version": version, "protocol": PROTOCOL_VERSION }).to_string()
    } else {
        format!("cairn {version}, protocol {PROTOCOL_VERSION}")
    });
    ExitCode::Success
}

pub(super) fn completions(args: &Completions) -> ExitCode {
    clap_complete::generate(args.shell, &mut Cli::command(), "cairn", &mut std::io::stdout());
    ExitCode::Success
}
