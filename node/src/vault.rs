//! The owner's side: keys, catalogue, backup, restore, check, recovery. Everything against
//! [`crate::overlay::Overlay`], nothing about how the network does it.
//!
//! # Invariants
//!
//! - **DUR-1** A head is published only when every stripe that it reaches is acknowledged, and a snapshot is listed only
//!   when the head that names it was kept by at least one peer. Enforced by [`commit`](mod@commit); attacked by
//!   `tests::cancelled_anywhere`.
//! - **DUR-2** No wrong byte is ever returned: shards are checked against their root, chunks against their keyed id.
//!   Enforced by [`reader`]; attacked by `tests::liars_and_rot`.
//! - **SEC-1** Names, sizes and chunk boundaries never leave this module in the clear.

mod audit;
mod backup;
mod browse;
pub mod catalogue;
mod check;
mod clumps;
mod commit;
mod content_ids;
mod create;
mod failures;
mod fallback;
mod groups;
mod holdings;
mod ingest;
mod kept;
pub mod keyring;
mod leaning;
mod learn;
mod news;
mod parts;
mod pieces;
mod placing;
mod promise;
pub mod reader;
mod recover;
mod refill;
mod report;
mod restore;
mod session;
mod shortfall;
mod sources;
mod stewards;
pub mod stream_input;
mod tar;
mod told;
mod tree_walk;
mod under_way;
pub mod verbs;
mod window;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_core::{
    keys::{MasterSeed, VaultKeys, generate},
    seal::open_head,
};
use cairn_proto::{Timestamp, head::HeadContent, manifest::EpochRow, message::HeadRecord};
use zeroize::Zeroize as _;

use crate::{
    failure::{ExitCode, Failure},
    ops::SecretText,
    overlay::Overlay,
};
use catalogue::{Catalogue, CatalogueError, Counters, Meta};

#[cfg(test)]
mod tests;

/// A vault of this data folder, open. The caller holds the folder's lock.
#[derive(Clone)]
pub struct Vault {
    keys: Arc<VaultKeys>,
    catalogue: Catalogue,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({})", self.keys.vault_key().short())
    }
}

fn vault_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("vault")
}

impl Vault {
    /// Makes a vault in the data folder: the vault, and its recovery phrase, which is stored nowhere. Blocking.
    ///
    /// # Errors
    /// When there is one already, or the disk fails.
    pub fn init(data_dir: &Path, passphrase: Option<&SecretText>) -> Result<(Self, SecretText), Failure> {
        let mut entropy = [0u8; 32];
        getrandom::fill(&mut entropy).map_err(|e| Failure::new(ExitCode::Failed, "RANDOM", e.to_string()))?;
        let (seed, phrase) = generate(entropy);
        entropy.zeroize();
        create::create(data_dir, &seed, passphrase, &mut |_| Ok(()))?;
        let vault = Self::with_seed(&vault_dir(data_dir), &seed)?;
        Ok((vault, SecretText::new(phrase.as_str().to_owned())))
    }

    /// Opens the data folder's vault. Blocking: the passphrase costs about 50 ms.
    ///
    /// # Errors
    /// No vault, a wrong passphrase (exit 12), a damaged catalogue.
    pub fn open(data_dir: &Path, passphrase: Option<&SecretText>) -> Result<Self, Failure> {
        let dir = vault_dir(data_dir);
        let secret = keyring::open(&dir.join("keyring"), passphrase).map_err(failures::keyring)?;
        // Opening would make an empty one, and the next head would list nothing of what the vault has.
        if !dir.join("catalogue").is_dir() {
            return Err(failures::catalogue(CatalogueError::Damaged("it is missing")));
        }
        Self::with_seed(&dir, &MasterSeed::from_entropy(*secret))
    }

    /// Whether the data folder's vault was made with a passphrase; false when there is none, or it cannot be told.
    #[must_use]
    pub fn needs_passphrase(data_dir: &Path) -> bool {
        keyring::needs_passphrase(&vault_dir(data_dir).join("keyring"))
    }

    fn with_seed(dir: &Path, seed: &MasterSeed) -> Result<Self, Failure> {
        let keys = Arc::new(VaultKeys::derive(seed));
        let catalogue = Catalogue::open(&dir.join("catalogue"), &keys.vault_key()).map_err(failures::catalogue)?;
        Ok(Self { keys, catalogue })
    }

    fn epochs(&self) -> Result<Vec<EpochRow>, Failure> {
        let bytes = self.catalogue.meta(Meta::Epochs).map_err(failures::catalogue)?.unwrap_or_default();
        let row = |c: &[u8]| {
            let (mut number, mut created) = ([0u8; 4], [0u8; 8]);
            number.copy_from_slice(&c[..4]);
            created.copy_from_slice(&c[4..]);
            EpochRow { number: u32::from_le_bytes(number), created: Timestamp(u64::from_le_bytes(created)) }
        };
        let rows: Vec<EpochRow> = bytes.chunks_exact(12).map(row).collect();
        Ok(if rows.is_empty() { vec![EpochRow { number: 1, created: Timestamp(0) }] } else { rows })
    }

    fn set_epochs(&self, rows: &[EpochRow]) -> Result<(), Failure> {
        let mut bytes = Vec::with_capacity(rows.len() * 12);
        for row in rows {
            bytes.extend_from_slice(&row.number.to_le_bytes());
            bytes.extend_from_slice(&row.created.0.to_le_bytes());
        }
        self.catalogue.set_meta(Meta::Epochs, Some(bytes)).map_err(failures::catalogue)
    }

    /// Makes sure that no other machine wrote since: the network's head must not be newer than what the catalogue knows.
    async fn check_network_head(&self, overlay: &Arc<dyn Overlay>) -> Result<Counters, Failure> {
        let mut counters = self.catalogue.counters().map_err(failures::catalogue)?;
        let mine = self.catalogue.meta(Meta::Head).map_err(failures::catalogue)?;
        let signed = mine.as_deref().and_then(|bytes| HeadContent::decode(bytes).ok());
        let signed = signed.map(|head| (head.generation, head.sequence));
        // A number that was signed once is never signed again, kept by a peer or not: two heads with one number would
        // both be the newest.
        (counters.generation, counters.sequence) = self.catalogue.newest_head().map_err(failures::catalogue)?;
        let found = overlay.find_head(self.keys.vault_key()).await.map_err(failures::overlay)?;
        let known = (counters.generation, counters.sequence);
        let foreign = |r: &HeadRecord| match (r.generation, r.sequence) {
            at if at > known => true,
            at if Some(at) == signed => {
                let content = open_head(&self.keys, r).ok().and_then(|c| c.encode().ok());
                content.is_some() && content != mine
            }
            _ => false,
        };
        let Some(record) = found.filter(foreign) else {
            // A new generation, so that a machine which still has the old catalogue notices.
            let recovered = self.catalogue.meta(Meta::Recovered).map_err(failures::catalogue)?.is_some();
            counters.generation += u32::from(recovered);
            return Ok(counters);
        };
        Err(Failure::new(
            ExitCode::Failed,
            "NEWER_HEAD",
            format!(
                "the network has a newer state of this vault (sequence {}) than this folder knows (sequence {})",
                record.sequence, counters.sequence
            ),
        )
        .with_hint("another machine wrote to the vault; run `cairn recover` here to catch up"))
    }
}

/// Milliseconds since 1970, taken once at the edge of each verb.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| d.as_millis() as u64))
}

/// RFC 3339 in the local time zone, as restic prints it.
fn time_text(time: Timestamp) -> String {
    let stamp = jiff::Timestamp::from_millisecond(i64::try_from(time.0).unwrap_or(i64::MAX));
    stamp.map_or_else(|_| time.0.to_string(), |t| t.to_string())
}
