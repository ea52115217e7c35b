//! What a data folder alone is enough for: its identity, its vault, its pass. Nothing here needs the network.

use std::path::Path;

use cairn_proto::network_file::NetworkFile;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::assemble::{blocking, entropy};
use crate::{
    data_dir::DataDir,
    failure::{ExitCode, Failure},
    identity::Identity,
    invitation,
    ops::SecretText,
    vault::Vault,
};

/// A folder that keeps nothing for others.
pub(crate) fn no_store(root: &Path) -> Failure {
    Failure::new(ExitCode::NotFound, "NO_STORE", format!("nothing is stored in {}", root.display()))
        .with_hint("name the data folder of a storing node with --data-dir")
}

/// Makes the vault of a data folder; its recovery phrase.
///
/// # Errors
/// There is one already, or the disk fails.
pub async fn make_vault(dir: &DataDir, passphrase: Option<SecretText>) -> Result<SecretText, Failure> {
    let root = dir.root().to_owned();
    blocking(move || Vault::init(&root, passphrase.as_ref()).map(|(_vault, phrase)| phrase)).await?
}

/// Uses an invitation without a network: it becomes the pass of this folder's identity.
///
/// # Errors
/// There can be no identity, or the invitation cannot be used.
pub async fn settle_invitation(dir: &DataDir, network: &NetworkFile, given: SecretText) -> Result<(), Failure> {
    let (root, network, seed) = (dir.root().to_owned(), network.clone(), entropy()?);
    blocking(move || {
        let identity = load_identity(&root, &network, seed)?;
        invitation::settle(&root, &network, &identity.peer(), Some(&given), crate::vault::now()).map(|_| ())
    })
    .await?
}

/// Solving the puzzle may take minutes of one core.
pub(super) fn load_identity(root: &Path, network: &NetworkFile, seed: [u8; 32]) -> Result<Identity, Failure> {
    Identity::load_or_create(root, network, &mut ChaCha20Rng::from_seed(seed))
        .map_err(|e| Failure::new(ExitCode::Failed, "IDENTITY", "this node has no usable identity").caused_by(&e))
}
