//! Fallback storage as holders of a vault's groups: one key stands for one slot at one provider, and what is asked of it goes
//! to the provider instead of to the network. So rows, receipts, restores, checks and repairs need to know nothing more.
//!
//! The key is a real one, made from the vault's secret and the provider's id: whoever has the 24 words and reaches the
//! provider has the holder.
//!
//! - **SEC-1** A provider gets sealed objects under names that tell nothing ([`cairn_core::fallback`]).
//! - **DUR-1** An object that is another shard's is never overwritten; one that does not open is.
//! - **TRUST-1** Nothing that a provider does is told to those who judge peers: `overlay`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use cairn_core::{
    audit::respond,
    fallback::{FallbackKeys, OBJECT_SIZE, Place},
    keys::VaultKeys,
};
use cairn_proto::{
    PeerKey, ShardRoot, Slot,
    audit::{Answer, Challenge},
    code_params::SLOTS_MAX,
    head::{PROVIDERS_MAX, ProviderRow},
    message::Receipt,
    wire::RefusalCode,
};
use ed25519_dalek::SigningKey;

use crate::{
    fallback::{FallbackSection, Fallbacks, Provider, ProviderError},
    overlay::{Challenged, GroupAccess, KeptReceipt, ShardAddress, ShardChallenge, ShardPut, TransferError},
    vault::{catalogue::CatalogueError, refill::asked::with},
};

mod overlay;
mod stand;

pub(super) use self::{overlay::Leaning, stand::Stand};

/// One provider that this vault used, or may use.
struct Known {
    row: ProviderRow,
    keys: FallbackKeys,
    /// Why it cannot be asked, when it cannot.
    provider: Result<Provider, String>,
}

/// A provider that was never used: it has no marker yet.
struct Fresh {
    name: String,
    provider: Provider,
}

/// The fallback storage of a vault, as far as it can be reached now.
#[derive(Default)]
pub(super) struct Storage {
    known: Vec<Known>,
    fresh: Vec<Fresh>,
    holders: BTreeMap<PeerKey, (usize, Slot)>,
    /// What is wrong, by provider: what was found at the beginning, or the last thing since.
    troubles: Mutex<BTreeMap<String, String>>,
}

impl Storage {
    /// Opens what the settings name, and knows again what `remembered` says that the vault used.
    pub(super) async fn open(keys: &VaultKeys, settings: &Fallbacks, remembered: &[ProviderRow]) -> Self {
        let mut this = Self::default();
        let opened = futures::future::join_all(settings.sections().iter().cloned().map(open)).await;
        let mut unclear: BTreeMap<String, String> = BTreeMap::new();
        for (section, opened) in settings.sections().iter().zip(opened) {
            let name = section.name.clone();
            match opened {
                Ok((_, Some(id))) if this.known.iter().any(|known| known.row.id == id) => {
                    let twin = this.known.iter().find(|known| known.row.id == id).map_or("", |known| &known.row.name);
                    // SEP-6: two names would have twice the slots.
                    let text = format!("it is the same storage as {twin:?}: name it once");
                    unclear.insert(name, text);
                }
                Ok((provider, Some(id))) => {
                    let row = ProviderRow { id, name };
                    this.known.push(Known { keys: keys.fallback(&id), row, provider: Ok(provider) });
                }
                Ok((_, None)) if remembered.iter().any(|row| row.name == name) => {
                    let text = "it is not what it was: its marker `cairn-provider` is gone. If it is a disk, mount it; if it \
                                is empty for good, give it another name";
                    unclear.insert(name, text.to_owned());
                }
                Ok((provider, None)) => this.fresh.push(Fresh { name, provider }),
                Err(e) => {
                    unclear.insert(name, e.to_string());
                }
            }
        }
        for row in remembered {
            if this.known.iter().any(|known| known.row.id == row.id) {
                continue;
            }
            let why = match unclear.get(&row.name) {
                Some(why) => why.clone(),
                None => "it is not in the settings".to_owned(),
            };
            this.known.push(Known { keys: keys.fallback(&row.id), row: row.clone(), provider: Err(why) });
        }
        this.troubles = Mutex::new(unclear);
        this.index();
        this
    }

    fn index(&mut self) {
        self.known.sort_by_key(|known| known.row.id);
        self.holders.clear();
        for (at, known) in self.known.iter().enumerate() {
            for slot in (0..SLOTS_MAX).filter_map(|slot| Slot::new(slot).ok()) {
                self.holders.insert(key_of(&known.keys.holder(slot)), (at, slot));
            }
        }
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the markers of providers that were never used: from now on they can be. That is also how it is known that
    /// they let us write. What is remembered must be on record before anything is put there.
    pub(super) async fn introduce(&mut self, keys: &VaultKeys) {
        for Fresh { name, provider } in std::mem::take(&mut self.fresh) {
            let mut id = [0u8; 32];
            let drawn = getrandom::fill(&mut id).map_err(|e| ProviderError::Marker(e.to_string()));
            let introduced = match drawn {
                Ok(()) => provider.introduce(id).await,
                Err(e) => Err(e),
            };
            match introduced {
                Ok(id) if self.known.iter().any(|known| known.row.id == id) => {
                    self.troubles().insert(name, "it is the same storage as another one: name it once".to_owned());
                }
                Ok(id) if self.known.len() < PROVIDERS_MAX => {
                    let row = ProviderRow { id, name };
                    self.known.push(Known { keys: keys.fallback(&id), row, provider: Ok(provider) });
                }
                Ok(_) => {
                    self.troubles().insert(name, format!("the vault used {PROVIDERS_MAX} others, no more are known"));
                }
                Err(e) => {
                    self.troubles().insert(name, e.to_string());
                }
            }
        }
        self.index();
    }

    /// All that this vault used, for the catalogue and the head.
    pub(super) fn rows(&self) -> Vec<ProviderRow> {
        self.known.iter().map(|known| known.row.clone()).collect()
    }

    /// Names that are in use of those given, and why their provider cannot be reached; nothing where it can.
    pub(super) fn out_of_reach(&self) -> impl Iterator<Item = (&str, &str)> {
        self.known.iter().filter_map(|known| Some((known.row.name.as_str(), known.provider.as_ref().err()?.as_str())))
    }

    /// What is wrong with providers and was not told yet.
    pub(super) fn news(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.troubles()).into_iter().collect()
    }

    pub(super) fn stand(&self) -> Stand {
        let mut stand = Stand::default();
        for known in &self.known {
            let keys = (0..SLOTS_MAX).filter_map(|slot| Some(key_of(&known.keys.holder(Slot::new(slot).ok()?))));
            if known.provider.is_ok() {
                stand.usable.push(keys.collect());
            }
        }
        stand.all = self.holders.iter().map(|(holder, (at, _))| (*holder, *at)).collect();
        stand
    }

    /// The name of the provider that a holder stands for.
    pub(super) fn name_of(&self, holder: &PeerKey) -> Option<&str> {
        let (at, _) = self.holders.get(holder)?;
        Some(&self.known.get(*at)?.row.name)
    }

    fn at(&self, holder: &PeerKey) -> Option<(&Known, Slot)> {
        let (at, slot) = self.holders.get(holder)?;
        Some((self.known.get(*at)?, *slot))
    }

    fn failed(&self, known: &Known, error: &ProviderError) -> TransferError {
        tracing::debug!(provider = %known.row.name, %error, "fallback storage failed");
        if *error != ProviderError::GivenUp {
            self.troubles().insert(known.row.name.clone(), error.to_string());
        }
        match error {
            ProviderError::Full(_) => refused(RefusalCode::NoSpace),
            other => TransferError::Unreachable(format!("fallback storage {:?}: {other}", known.row.name)),
        }
    }

    fn reach<'a>(&self, known: &'a Known) -> Result<&'a Provider, TransferError> {
        let unreachable = |why: &String| {
            TransferError::Unreachable(format!("fallback storage {:?} cannot be used: {why}", known.row.name))
        };
        known.provider.as_ref().map_err(unreachable)
    }

    async fn get(&self, holder: &PeerKey, place: Place) -> Result<Bytes, TransferError> {
        let (known, slot) = self.at(holder).ok_or(refused(RefusalCode::NotFound))?;
        if slot != place.slot {
            return Err(refused(RefusalCode::NotFound));
        }
        let (folder, name) = (known.keys.folder(&place.group, slot), known.keys.name(&place));
        let object = self.reach(known)?.get(&folder, &name).await.map_err(|e| self.failed(known, &e))?;
        let object = object.ok_or(refused(RefusalCode::NotFound))?;
        known.keys.open(&place, &object).map(Bytes::from).map_err(|e| {
            let text = format!("an object is damaged ({e})");
            self.troubles().insert(known.row.name.clone(), text);
            TransferError::Misbehaved(format!("fallback storage {:?}: {e}", known.row.name))
        })
    }

    async fn put(&self, holder: PeerKey, put: ShardPut) -> Result<KeptReceipt, TransferError> {
        let (known, slot) = self.at(&holder).ok_or(refused(RefusalCode::NotFound))?;
        let place = place(&put.address);
        if slot != place.slot {
            return Err(refused(RefusalCode::WrongColour));
        }
        match self.get(&holder, place).await {
            Ok(there) if root_of(&there) == put.root => {}
            // The ordinal was given out in a run that nobody remembers.
            Ok(_) => return Err(refused(RefusalCode::Occupied)),
            Err(TransferError::Refused { code: RefusalCode::NotFound, .. } | TransferError::Misbehaved(_)) => {
                let mut salt = [0u8; 32];
                getrandom::fill(&mut salt).map_err(|e| TransferError::Misbehaved(e.to_string()))?;
                let object = known.keys.seal(&place, salt, &put.bytes);
                let object = object.map_err(|e| TransferError::Misbehaved(e.to_string()))?;
                let (folder, name) = (known.keys.folder(&place.group, slot), known.keys.name(&place));
                self.reach(known)?.put(&folder, &name, object).await.map_err(|e| self.failed(known, &e))?;
            }
            Err(e) => return Err(e),
        }
        let receipt = Receipt {
            holder,
            group: place.group,
            slot,
            ordinal: place.ordinal,
            root: put.root,
            lease_until: put.lease_until,
            stored_at: super::now(),
            held: None,
        };
        Ok(KeptReceipt { signed: receipt.seal(&known.keys.holder(slot)), receipt })
    }

    async fn has(&self, holder: &PeerKey, group: &GroupAccess, slot: Slot) -> Result<[u8; 32], TransferError> {
        let (known, own) = self.at(holder).ok_or(refused(RefusalCode::NotFound))?;
        if own != slot {
            return Ok([0; 32]);
        }
        let id = group.ticket.id();
        let there = self.reach(known)?.list(&known.keys.folder(&id, slot)).await;
        let there = there.map_err(|e| self.failed(known, &e))?;
        if there.is_empty() {
            return Ok([0; 32]);
        }
        let whole = |ordinal: &u8| {
            let name = known.keys.name(&Place { group: id, slot, ordinal: *ordinal });
            there.get(&name) == Some(&(OBJECT_SIZE as u64))
        };
        Ok((0..=u8::MAX).filter(whole).fold([0; 32], with))
    }

    async fn delete(&self, holder: &PeerKey, place: Place) -> Result<(), TransferError> {
        let (known, slot) = self.at(holder).ok_or(refused(RefusalCode::NotFound))?;
        let (folder, name) = (known.keys.folder(&place.group, slot), known.keys.name(&place));
        self.reach(known)?.delete(&folder, &name).await.map_err(|e| self.failed(known, &e))
    }

    /// Answers as a holder does, from the object as it is: what an audit of a provider says is what was read of it.
    async fn challenge(&self, holder: PeerKey, about: ShardChallenge) -> Result<Challenged, TransferError> {
        let (known, slot) = self.at(&holder).ok_or(refused(RefusalCode::NotFound))?;
        let bytes = match self.get(&holder, Place { group: about.ticket.id(), slot, ordinal: about.ordinal }).await {
            Ok(bytes) => Some(bytes),
            Err(TransferError::Refused { code: RefusalCode::NotFound, .. } | TransferError::Misbehaved(_)) => None,
            Err(e) => return Err(e),
        };
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|e| TransferError::Misbehaved(e.to_string()))?;
        let challenge = about.seal(holder, &SigningKey::from_bytes(&seed), super::now());
        let opened = Challenge::open(&challenge).map_err(|e| TransferError::Misbehaved(e.to_string()))?;
        let signer = known.keys.holder(slot);
        let answer = tokio::task::spawn_blocking(move || {
            let bytes = bytes.filter(|bytes| root_of(bytes) == opened.root);
            let (found, slices) = respond(bytes.as_deref(), &opened);
            let id = Challenge::id(&challenge);
            let answer = Answer { holder, challenge: id, previous: about.previous, found }.seal(&signer);
            Challenged { answer, challenge, slices }
        });
        answer.await.map_err(|_| TransferError::ShuttingDown)
    }
}

async fn open(section: FallbackSection) -> Result<(Provider, Option<[u8; 32]>), ProviderError> {
    let work = tokio::task::spawn_blocking(move || Provider::open(&section));
    let provider = work.await.map_err(|e| ProviderError::Settings(e.to_string()))??;
    let id = provider.id().await?;
    Ok((provider, id))
}

fn key_of(signer: &SigningKey) -> PeerKey {
    PeerKey::from_bytes(signer.verifying_key().to_bytes())
}

fn root_of(bytes: &[u8]) -> ShardRoot {
    ShardRoot::from_bytes(*blake3::hash(bytes).as_bytes())
}

fn place(address: &ShardAddress) -> Place {
    Place { group: address.group.ticket.id(), slot: address.slot, ordinal: address.ordinal }
}

const fn refused(code: RefusalCode) -> TransferError {
    TransferError::Refused { code, retry_after_ms: 0 }
}

/// Providers as the catalogue keeps them.
pub(super) fn encode(rows: &[ProviderRow]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        out.extend_from_slice(&row.id);
        // At most 32 bytes.
        out.push(row.name.len() as u8);
        out.extend_from_slice(row.name.as_bytes());
    }
    out
}

/// What [`encode`] made.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Vec<ProviderRow>, CatalogueError> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let row = bytes.split_first_chunk::<32>().and_then(|(id, rest)| {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            bytes = rest;
            Some(ProviderRow { id: *id, name: std::str::from_utf8(name).ok()?.to_owned() })
        });
        rows.push(row.ok_or(CatalogueError::Damaged("the list of fallback storage"))?);
    }
    Ok(rows)
}
