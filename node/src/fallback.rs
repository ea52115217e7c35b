//! Fallback storage: a bucket, a WebDAV server or a folder that an owner names in the settings, for slots that the network
//! has nobody for (`node/docs/adr/0022-fallback-storage.md`).
//!
//! Here is what a provider is and how it is reached; how much of a group it may have, and what its objects look like, is
//! [`cairn_core::fallback`]; when it is used is the vault's business (`vault/leaning.rs`).
//!
//! - **SEC-1** Nothing but sealed objects of one size under names that tell nothing goes to a provider.
//! - Secrets come from files alone, which nobody else may read; they are never logged and never shown. What the libraries
//!   below copy of them is theirs.

mod http;
pub mod provider;
mod settings;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

pub use provider::{Provider, ProviderError};
pub use settings::{FallbackSection, KEYS, SettingsError};

/// Most providers in the settings: with low-peer mode's cap of two slots, three carry a whole group.
pub const PROVIDERS_MAX: usize = 4;

/// The owner's fallback storage, as the settings name it.
#[derive(Clone, Debug, Default)]
pub struct Fallbacks {
    sections: Arc<[FallbackSection]>,
}

impl Fallbacks {
    /// Checks the sections against each other and each alone.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn new(sections: Vec<FallbackSection>) -> Result<Self, SettingsError> {
        if sections.len() > PROVIDERS_MAX {
            return Err(SettingsError::TooMany { found: sections.len() });
        }
        for (at, section) in sections.iter().enumerate() {
            section.check()?;
            if sections[..at].iter().any(|other| other.name == section.name) {
                return Err(SettingsError::Twice { name: section.name.clone() });
            }
        }
        Ok(Self { sections: sections.into() })
    }

    /// What is named.
    #[must_use]
    pub fn sections(&self) -> &[FallbackSection] {
        &self.sections
    }
}
