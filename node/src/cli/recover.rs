//! `cairn recover`

use std::path::PathBuf;

use clap::Args;

use super::{Context, execute, secrets};
use crate::{
    failure::{ExitCode, Failure},
    ops::{RecoverArgs, Verb},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn recover --network network.toml\n  \
    CAIRN_RECOVERY_PHRASE_FILE=words.txt cairn recover --data-dir /srv/cairn --network network.toml\n\nA blank folder, the \
    network file and the 24 words are all that is needed; afterwards every snapshot is there.")]
pub(super) struct Recover {
    /// File with the 24 words; asked for without it
    #[arg(long, env = "CAIRN_RECOVERY_PHRASE_FILE", value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, recover: Recover) -> Result<ExitCode, Failure> {
    let phrase = secrets::phrase(recover.phrase_file.as_deref())?;
    // Said here already, so that a slip of the pen costs no look-up in the network.
    if bip39::Mnemonic::parse_normalized(phrase.expose()).map(|m| m.word_count()) != Ok(24) {
        return Err(Failure::new(ExitCode::WrongSecret, "WRONG_PHRASE", "these are not the 24 words of a vault")
            .with_hint("check their spelling and order: the last word is a checksum of the others"));
    }
    let passphrase = secrets::new_passphrase(context)?;
    execute::verb_with_passphrase(context, Verb::Recover(RecoverArgs { phrase }), passphrase).await
}
