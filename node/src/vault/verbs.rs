//! The door of the vault: one verb in, events meanwhile, one result out.

use std::{path::PathBuf, sync::Arc};

use tokio::{io::AsyncWrite, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::stream_input::StreamInput;
use crate::{
    failure::{ExitCode, Failure},
    ops::{Event, SecretText, Verb, VerbResult},
    overlay::Overlay,
};

/// What every verb works with.
#[derive(Clone)]
pub struct VaultContext {
    /// The data folder; the vault lives in `vault/` inside. The caller holds the folder's lock.
    pub dir: PathBuf,
    /// The network.
    pub overlay: Arc<dyn Overlay>,
}

/// Runs one verb to its end. `passphrase` opens the keyring (`None`: the vault was made without one); `input` is the
/// stream of a stream backup; `output` takes the bytes of [`Verb::Dump`]. When `cancel` fires, the verb ends soon with
/// [`ExitCode::Interrupted`] and leaves nothing half listed. `Verb::DebugStore` is not answered here.
///
/// # Errors
/// The verb's [`Failure`].
pub async fn run_verb(
    ctx: &VaultContext,
    verb: Verb,
    passphrase: Option<SecretText>,
    input: Option<StreamInput>,
    output: Option<&mut (dyn AsyncWrite + Send + Unpin)>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) -> VerbResult {
    let _ = (ctx, verb, passphrase, input, output, events, cancel);
    Err(Failure::new(ExitCode::Failed, "NOT_BUILT", "this verb is not built yet"))
}
