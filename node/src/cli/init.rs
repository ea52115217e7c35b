//! `cairn init`

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Context, render, secrets};
use crate::ops::SecretText;
use crate::{
    api::client::DaemonClient,
    daemon::folder,
    data_dir::DataDir,
    failure::{ExitCode, Failure},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn init --network network.toml\n  \
    CAIRN_PASSPHRASE_FILE=pass cairn init --phrase-file words.txt\n\nThe 24 words are printed once and are stored nowhere. \
    Whoever has them has the data; without them and without this folder, nobody has it.")]
pub(super) struct Init {
    /// Write the 24 words to this new file (0600) instead of printing them
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

/// The file for the words, begun before the vault is made: a folder that cannot be written to must not be found out when
/// the words are drawn. Nothing stands under its name until all of it is on disk.
struct Paper {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl Paper {
    fn begin(path: &Path) -> Result<Self, Failure> {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::new(ExitCode::Refused, "EXISTS", format!("{} is there already", path.display()))
                .with_hint("the phrase is only written to a new file"));
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        // 0600 from the beginning.
        let file = tempfile::NamedTempFile::new_in(folder).map_err(|e| cannot_write(path).caused_by(&e))?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn write(mut self, phrase: &SecretText) -> Result<(), Failure> {
        let failed = |e: &(dyn std::error::Error + 'static)| cannot_write(&self.path).caused_by(e);
        let all = [phrase.expose().as_bytes(), b"\n"];
        let written = all.iter().try_for_each(|part| self.file.write_all(part));
        written.and_then(|()| self.file.as_file().sync_all()).map_err(|e| failed(&e))?;
        let folder = self.file.path().parent().map(Path::to_owned).unwrap_or_default();
        self.file.persist_noclobber(&self.path).map_err(|e| cannot_write(&self.path).caused_by(&e.error))?;
        // The new name must survive a power cut, too; where a folder cannot be synced the file still is.
        let _ = std::fs::File::open(folder).and_then(|d| d.sync_all());
        Ok(())
    }
}

fn cannot_write(path: &Path) -> Failure {
    Failure::new(ExitCode::Failed, "PHRASE_FILE", format!("cannot write the 24 words to {}", path.display()))
}

/// A vault whose words nobody saw must not stay: later backups would look safe and could never be recovered. It is
/// empty, so nothing is lost with it.
fn take_back(dir: &DataDir, failure: Failure) -> Failure {
    match std::fs::remove_dir_all(dir.root().join("vault")) {
        Ok(()) => failure.with_hint("no vault was made; mend this and run `cairn init` again"),
        Err(e) => failure.caused_by(&e).with_hint(format!(
            "the vault in {} has words that nobody knows: remove its folder `vault` and run `cairn init` again",
            dir.root().display()
        )),
    }
}

/// An invitation that is given with the vault's making is used then: whoever made a vault for a network is in it.
async fn settle(context: &Context, dir: &DataDir) -> Result<(), Failure> {
    let Some(given) = context.invitation()? else { return Ok(()) };
    if DaemonClient::find(&dir.socket()).await.is_some() {
        return Ok(());
    }
    let _lock = dir.lock("init")?;
    let network = dir.network(context.network())?;
    folder::settle_invitation(dir, &network, given).await
}

pub(super) async fn run(context: &Context, init: Init) -> Result<ExitCode, Failure> {
    let dir = DataDir::open(&context.data_dir()?)?;
    dir.network(context.network())?;
    settle(context, &dir).await?;
    let paper = init.phrase_file.as_deref().map(Paper::begin).transpose()?;
    let passphrase = secrets::new_passphrase(context)?;
    let phrase = match DaemonClient::find(&dir.socket()).await {
        Some(daemon) => daemon.make_vault(passphrase).await?,
        None => {
            let _lock = dir.lock("init")?;
            folder::make_vault(&dir, passphrase).await?
        }
    };
    let told = match paper {
        Some(paper) => paper.write(&phrase).and_then(|()| tell(context, &init, &dir, None)),
        None => tell(context, &init, &dir, Some(&phrase)),
    };
    told.map_err(|failure| take_back(&dir, failure))?;
    Ok(ExitCode::Success)
}

/// Says what was made; with the words, when they have no file.
fn tell(context: &Context, init: &Init, dir: &DataDir, phrase: Option<&SecretText>) -> Result<(), Failure> {
    let shown = |text: &str| {
        render::try_line(text)
            .map_err(|e| Failure::new(ExitCode::Failed, "OUTPUT", "the 24 words could not be printed").caused_by(&e))
    };
    if context.global.json {
        let mut summary = serde_json::json!({ "data_dir": dir.root().to_string_lossy() });
        if let Some(path) = &init.phrase_file {
            summary["phrase_file"] = path.to_string_lossy().into();
        }
        if let Some(phrase) = phrase {
            summary["phrase"] = phrase.expose().into();
        }
        return shown(&render::json_summary("init", &summary));
    }
    let say = |text: &str| {
        if !context.global.quiet {
            render::note(text);
        }
    };
    say(&format!("vault made in {}", dir.root().display()));
    if let Some(path) = &init.phrase_file {
        say(&format!("the 24 words are in {}", path.display()));
    }
    if let Some(phrase) = phrase {
        say("write these 24 words on paper; they are shown only now:");
        shown(phrase.expose())?;
    }
    Ok(())
}
