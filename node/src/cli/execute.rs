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
    /// Finding peers takes seconds; nobody who interrupts wants to wait for them.
    async fn find(context: &Context, verb: &Verb) -> Result<Self, Failure> {
        tokio::select! {
            place = Self::look(context, verb) => place,
            () = context.cancel.cancelled() => {
                Err(Failure::new(ExitCode::Interrupted, "INTERRUPTED", "interrupted before anything was done"))
            }
        }
    }

    async fn look(context: &Context, verb: &Verb) -> Result<Self, Failure> {
        let dir = DataDir::open(&context.data_dir()?)?;
        if let Some(daemon) = DaemonClient::find(&dir.socket()).await {
            return Ok(Self::Daemon(daemon));
        }
        if needs_vault(verb) && !dir.has_vault() {
            return Err(Failure::new(
                ExitCode::NotFound,
                "NO_VAULT",
                format!("there is no vault in {}", dir.root().display()),
            )
            .with_hint("`cairn init` makes one, `cairn recover` brings one back from its 24 words"));
        }
        let node = daemon::LocalNode::start(dir, context.network(), context.domain()?, verb).await?;
        Ok(Self::Here(Box::new(node)))
    }

    async fn run(&self, call: Call) -> crate::ops::VerbResult {
        match self {
            Self::Daemon(daemon) => daemon.run(call).await,
            Self::Here(node) => node.service().run(call).await,
        }
    }

    async fn close(self) {
        if let Self::Here(node) = self {
            node.close().await;
        }
    }
}

fn needs_vault(verb: &Verb) -> bool {
    !matches!(verb, Verb::Recover(_) | Verb::Peers | Verb::Status | Verb::DebugStore | Verb::DebugPlacement)
}

/// A verb without streams.
pub(super) async fn verb(context: &Context, verb: Verb) -> Result<ExitCode, Failure> {
    let passphrase = secrets::passphrase(context)?;
    verb_with_passphrase(context, verb, passphrase).await
}

/// A verb with a passphrase that is known already.
pub(super) async fn verb_with_passphrase(
    context: &Context,
    verb: Verb,
    passphrase: Option<SecretText>,
) -> Result<ExitCode, Failure> {
    let place = Place::find(context, &verb).await?;
    let ask = passphrase.is_none() && (needs_vault(&verb) || matches!(verb, Verb::Status));
    let mut result = run(context, &place, Io { verb: verb.clone(), passphrase, input: None, output: None }).await;
    if ask
        && matches!(&result, Err(f) if f.code == ExitCode::WrongSecret)
        && let Some(typed) = secrets::ask_passphrase()?
    {
        result = run(context, &place, Io { verb, passphrase: Some(typed), input: None, output: None }).await;
    }
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
    let passphrase = secrets::passphrase(context)?;
    let place = Place::find(context, &verb).await?;
    let result = match begin(context.cancel.clone()) {
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
    let passphrase = secrets::passphrase(context)?;
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
