//! Runs a verb: with the daemon of the data folder when one answers, else here, under the folder's lock, with a
//! client-only node. Events are shown as they come; the result is the same both ways.

use tokio::{io::AsyncWrite, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{Context, render::Renderer, secrets};
use crate::{
    api::{
        client::DaemonClient,
        server::{Call, Service},
    },
    daemon,
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    ops::{SecretText, Verb},
    vault::stream_input::StreamInput,
};

/// Events on their way to the screen.
const EVENTS: usize = 256;

/// Where a verb runs.
enum Place {
    Daemon(DaemonClient),
    Here(Box<daemon::LocalNode>),
}

impl Place {
    /// Starting a node may take seconds; nobody who interrupts wants to wait for it.
    async fn find(context: &Context, verb: &Verb) -> Result<Self, Failure> {
        tokio::select! {
            place = Self::look(context, verb) => place,
            () = context.cancel.cancelled() => {
                Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted before anything was done"))
            }
        }
    }

    async fn look(context: &Context, verb: &Verb) -> Result<Self, Failure> {
        let dir = open_dir(context, verb)?;
        if let Some(daemon) = DaemonClient::find(&dir.socket()).await {
            return Ok(Self::Daemon(daemon));
        }
        if needs_daemon(verb) {
            return Err(no_daemon(dir.root()));
        }
        if needs_vault(verb) && !dir.has_vault() {
            return Err(no_vault(dir.root()));
        }
        let node = daemon::LocalNode::start(dir, context.network(), context.client()?, verb).await?;
        Ok(Self::Here(Box::new(node)))
    }

    async fn run(&self, call: Call) -> crate::ops::VerbResult {
        match self {
            Self::Daemon(daemon) => daemon.run(call).await,
            Self::Here(node) => node.service().run(call).await,
        }
    }

    /// Ends when there is a network to work with. A daemon has one.
    async fn met(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Daemon(_) => Ok(()),
            Self::Here(node) => node.service().met(&context.cancel).await,
        }
    }

    async fn close(self) {
        if let Self::Here(node) = self {
            node.close().await;
        }
    }
}

/// About what a daemon does: without one there is nothing to say.
fn needs_daemon(verb: &Verb) -> bool {
    matches!(verb, Verb::Repair | Verb::Leave(_) | Verb::Health)
}

fn needs_vault(verb: &Verb) -> bool {
    !matches!(
        verb,
        Verb::Recover(_)
            | Verb::AuditToken(_)
            | Verb::Peers
            | Verb::Explain(_)
            | Verb::Plan(_)
            | Verb::Status
            | Verb::Repair
            | Verb::Leave(_)
            | Verb::Health
            | Verb::Pause(_)
            | Verb::Resume
            | Verb::DebugStore
            | Verb::DebugPlacement
    )
}

/// The data folder. Only what has something to put into one makes it: a slip in its name must not leave a folder.
fn open_dir(context: &Context, verb: &Verb) -> Result<DataDir, Failure> {
    let root = context.data_dir()?;
    match DataDir::find(&root)? {
        Some(dir) => Ok(dir),
        None if needs_vault(verb) => Err(no_vault(&root)),
        None if needs_daemon(verb) || matches!(verb, Verb::DebugStore) => Err(crate::daemon::folder::no_store(&root)),
        None if context.network().is_none() => Err(crate::data_dir::no_network()),
        None => DataDir::open(&root),
    }
}

fn no_daemon(root: &std::path::Path) -> Failure {
    let text = format!("no daemon runs on {}, so nothing is watched or held here", root.display());
    Failure::new(ExitCode::NotFound, "NO_DAEMON", text).with_hint("`cairn node run` runs one")
}

fn no_vault(root: &std::path::Path) -> Failure {
    Failure::new(ExitCode::NotFound, "NO_VAULT", format!("there is no vault in {}", root.display())).with_hint(
        "`cairn init` makes one, `cairn recover` brings one back from its 24 words; --data-dir or CAIRN_DATA_DIR names \
         another folder",
    )
}

/// The passphrase: from its file, else asked for when the vault has one. Before anything else is begun, so that no
/// stream is read and no peer is looked for in vain.
fn passphrase(context: &Context, verb: &Verb) -> Result<Option<SecretText>, Failure> {
    if let Some(given) = secrets::passphrase(context)? {
        return Ok(Some(given));
    }
    let dir = if needs_vault(verb) { DataDir::find(&context.data_dir()?)? } else { None };
    match dir {
        Some(dir) if crate::vault::Vault::needs_passphrase(dir.root()) => secrets::ask_passphrase().map(Some),
        _ => Ok(None),
    }
}

/// A verb without streams.
pub(super) async fn verb(context: &Context, verb: Verb) -> Result<ExitCode, Failure> {
    let passphrase = passphrase(context, &verb)?;
    verb_with_passphrase(context, verb, passphrase).await
}

/// A verb with a passphrase that is known already.
pub(super) async fn verb_with_passphrase(
    context: &Context,
    verb: Verb,
    passphrase: Option<SecretText>,
) -> Result<ExitCode, Failure> {
    let place = Place::find(context, &verb).await?;
    let result = run(context, &place, Io { verb, passphrase, input: None, output: None }).await;
    place.close().await;
    result
}

/// A verb that reads a stream. The stream is only begun when everything else stands, so that a command is not run
/// for nothing.
pub(super) async fn verb_with_input(
    context: &Context,
    verb: Verb,
    begin: impl FnOnce(CancellationToken) -> Result<StreamInput, Failure>,
) -> Result<ExitCode, Failure> {
    let passphrase = passphrase(context, &verb)?;
    let place = Place::find(context, &verb).await?;
    let result = match place.met(context).await.and_then(|()| begin(context.cancel.clone())) {
        Ok(input) => run(context, &place, Io { verb, passphrase, input: Some(input), output: None }).await,
        Err(failure) => Err(failure),
    };
    place.close().await;
    result
}

/// A verb that writes bytes.
pub(super) async fn verb_with_output(
    context: &Context,
    verb: Verb,
    output: Box<dyn AsyncWrite + Send + Unpin>,
) -> Result<ExitCode, Failure> {
    let passphrase = passphrase(context, &verb)?;
    let place = Place::find(context, &verb).await?;
    let result = run(context, &place, Io { verb, passphrase, input: None, output: Some(output) }).await;
    place.close().await;
    result
}

struct Io {
    verb: Verb,
    passphrase: Option<SecretText>,
    input: Option<StreamInput>,
    output: Option<Box<dyn AsyncWrite + Send + Unpin>>,
}

async fn run(context: &Context, place: &Place, io: Io) -> Result<ExitCode, Failure> {
    let (events, mut happened) = mpsc::channel(EVENTS);
    // Bytes go to stdout then, so everything else goes to stderr.
    let mut renderer = Renderer::new(context.output(), io.output.is_some());
    let call = Call {
        verb: io.verb,
        passphrase: io.passphrase,
        input: io.input,
        output: io.output,
        events,
        cancel: context.cancel.clone(),
    };
    let show = async {
        while let Some(event) = happened.recv().await {
            renderer.show(&event);
        }
        renderer.finish();
    };
    let (result, ()) = tokio::join!(place.run(call), show);
    result.map(|outcome| outcome.code)
}
