//! `cairn init`

use std::path::PathBuf;

use clap::Args;

use super::{Context, render, secrets};
use crate::{
    api::client::DaemonClient,
    daemon::assemble,
    data_dir::{DataDir, write_private},
    failure::{ExitCode, Failure},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn init --network network.toml\n  \
    CAIRN_PASSPHRASE_FILE=pass cairn init --phrase-file words.txt\n\nThe 24 words are printed once and are stored nowhere. \
    Whoever has them has the data; without them\nand without this folder, nobody has it.")]
pub(super) struct Init {
    /// Write the 24 words to this new file (0600) instead of printing them
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, init: Init) -> Result<ExitCode, Failure> {
    if let Some(path) = &init.phrase_file
        && path.exists()
    {
        return Err(Failure::new(ExitCode::Refused, "EXISTS", format!("{} is there already", path.display()))
            .with_hint("the phrase is only written to a new file"));
    }
    let dir = DataDir::open(&context.data_dir()?)?;
    dir.network(context.network())?;
    let passphrase = secrets::new_passphrase(context)?;
    let phrase = match DaemonClient::find(&dir.socket()).await {
        Some(daemon) => daemon.make_vault(passphrase).await?,
        None => {
            let _lock = dir.lock("init")?;
            assemble::make_vault(&dir, passphrase).await?
        }
    };
    if let Some(path) = &init.phrase_file {
        write_private(path, format!("{}\n", phrase.expose()).as_bytes())?;
    }
    if context.global.json {
        let mut summary = serde_json::json!({ "data_dir": dir.root().to_string_lossy() });
        match &init.phrase_file {
            Some(path) => summary["phrase_file"] = path.to_string_lossy().into(),
            None => summary["phrase"] = phrase.expose().into(),
        }
        render::line(&serde_json::json!({ "message_type": "summary", "verb": "init", "summary": summary }).to_string());
        return Ok(ExitCode::Success);
    }
    let say = |text: &str| {
        if !context.global.quiet {
            render::note(text);
        }
    };
    say(&format!("vault made in {}", dir.root().display()));
    match &init.phrase_file {
        Some(path) => say(&format!("the 24 words are in {}", path.display())),
        None => {
            say("write these 24 words on paper; they are shown only now:");
            render::line(phrase.expose());
        }
    }
    Ok(ExitCode::Success)
}
