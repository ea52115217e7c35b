//! When fallback storage is in use, how that is told, and how it ends.
//!
//! A slot leans on a provider as long as whoever stands for it is the first of its holders. Each backup gives what it can of
//! such slots to peers of their colour, and deletes the objects once a head says who has them now.
//!
//! - **DUR-1** An object is deleted only when the newest head that peers keep names a peer that has the shard and showed some:
//!   enforced by [`sweep`]; attacked by `tests::fallback`.
//! - **SEP-6** Whoever stands for a provider stays in the row, with nothing: so it is known for ever which slots it had.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_core::stripe::shard_is_right;
use cairn_proto::{
    PeerKey, Slot,
    head::ProviderRow,
    index::StripeRow,
    manifest::{GroupRow, HOLDERS_MAX},
    wire::Priority,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Vault,
    catalogue::{Catalogue, CatalogueError, Meta},
    failures,
    groups::access_of,
    holdings::names,
    leaning::{Storage, decode, encode},
    refill::{self, asked::Ordinals},
    session::Session,
};
use crate::{
    failure::Failure,
    fallback::Fallbacks,
    overlay::{GroupAccess, Overlay, ShardAddress, ShardPut},
};

/// Shards that a run moves to peers: 256 MiB down and up.
const MOVED_MAX: usize = 256;
/// How long a run moves shards, and how long it deletes what was moved: a provider that makes us wait must not keep a
/// backup from its end. The rest is the next run's.
pub(super) const TIME: Duration = Duration::from_secs(120);
/// Slots at providers that a run looks at, beginning with another one each time.
const SLOTS_ASKED: usize = 512;

/// What lies at one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    groups: BTreeSet<u32>,
    slots: u64,
    shards: u64,
}

impl Vault {
    /// The providers that this vault used.
    pub(super) fn providers(&self) -> Result<Vec<ProviderRow>, Failure> {
        let bytes = self.catalogue.meta(Meta::Providers).map_err(failures::catalogue)?.unwrap_or_default();
        decode(&bytes).map_err(failures::catalogue)
    }

    /// The vault's fallback storage, as the settings and the catalogue name it. A run that writes makes providers of those
    /// that were never used, and has them on record before anything is put there.
    pub(super) async fn storage(&self, settings: &Fallbacks, writes: bool) -> Result<Storage, Failure> {
        let remembered = self.providers()?;
        if remembered.is_empty() && (!writes || settings.sections().is_empty()) {
            return Ok(Storage::default());
        }
        let mut storage = Storage::open(&self.keys, settings, &remembered).await;
        if writes {
            storage.introduce(&self.keys).await;
            let rows = storage.rows();
            if rows != remembered {
                self.catalogue.set_meta(Meta::Providers, Some(encode(&rows))).map_err(failures::catalogue)?;
                self.catalogue.flush().map_err(failures::catalogue)?;
            }
        }
        Ok(storage)
    }
}

/// The provider that a slot leans on.
pub(super) fn leans_on<'a>(held: &[PeerKey], overlay: &'a dyn Overlay) -> Option<&'a str> {
    overlay.fallback_of(held.first()?)
}

/// What lies where, by provider, as the catalogue knows it.
pub(super) fn usage(catalogue: &Catalogue, overlay: &dyn Overlay) -> Result<BTreeMap<String, Usage>, CatalogueError> {
    let mut found: BTreeMap<String, Usage> = BTreeMap::new();
    let mut slots: BTreeMap<u32, Vec<(usize, String)>> = BTreeMap::new();
    for row in catalogue.groups() {
        let row = row?;
        for (slot, held) in row.holders.iter().enumerate().filter(|_| row.stripes_used > 0) {
            if let Some(name) = leans_on(held, overlay) {
                let one = found.entry(name.to_owned()).or_default();
                one.groups.insert(row.number);
                one.slots += 1;
                slots.entry(row.number).or_default().push((slot, name.to_owned()));
            }
        }
    }
    if slots.is_empty() {
        return Ok(found);
    }
    for row in catalogue.stripes() {
        let row = row?;
        for (slot, name) in slots.get(&row.group).into_iter().flatten() {
            if row.roots.get(*slot).is_some_and(Option::is_some)
                && let Some(one) = found.get_mut(name)
            {
                one.shards += 1;
            }
        }
    }
    found.retain(|_, one| one.shards > 0);
    Ok(found)
}

/// The same for programs.
pub(super) fn told(usage: &BTreeMap<String, Usage>) -> Value {
    let one = |(name, one): (&String, &Usage)| json!({ "provider": name, "groups": one.groups.len(), "slots": one.slots, "shards": one.shards });
    usage.iter().map(one).collect()
}

/// The same for people; nothing when none is in use.
pub(super) fn notice(usage: &BTreeMap<String, Usage>) -> Option<String> {
    if usage.is_empty() {
        return None;
    }
    let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let one = |(name, one): (&String, &Usage)| {
        format!("{} of {} at {name}", count(one.shards, "shard"), count(one.groups.len() as u64, "group"))
    };
    let list: Vec<String> = usage.iter().map(one).collect();
    Some(format!(
        "fallback storage is in use: {}. The network has nobody for them; when peers of their colours come, the next backup \
         moves them there and deletes them here",
        list.join(", ")
    ))
}

/// A slot that whoever stands for a provider is a holder of, and what it has there.
struct There {
    row: GroupRow,
    access: Arc<GroupAccess>,
    slot: Slot,
    provider: PeerKey,
    has: Ordinals,
    /// What the slot is needed for, of that.
    needed: Ordinals,
}

fn both(a: &Ordinals, b: &Ordinals) -> Ordinals {
    std::array::from_fn(|at| a[at] & b[at])
}

fn covers(has: &Ordinals, needed: &Ordinals) -> bool {
    has.iter().zip(needed).all(|(has, needed)| needed & !has == 0)
}

/// What lies at providers, slot by slot.
async fn there(session: &Session) -> Result<Vec<There>, CatalogueError> {
    let mut found = Vec::new();
    for row in session.catalogue.groups() {
        let row = row?;
        for (slot, held) in row.code.each_slot().zip(&row.holders) {
            let providers = held.iter().filter(|holder| session.groups.is_fallback(holder));
            found.extend(providers.map(|provider| (row.clone(), slot, *provider)));
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut random = [0u8; 8];
    if getrandom::fill(&mut random).is_ok() {
        let at = u64::from_le_bytes(random) % found.len() as u64;
        found.rotate_left(at as usize);
    }
    let needed = refill::needed(session)?;
    let mut there = Vec::new();
    for (row, slot, provider) in found.into_iter().take(SLOTS_ASKED) {
        let access = Arc::new(access_of(&session.keys, &row)?);
        let Ok(has) = session.overlay.has_shards(provider, access.clone(), slot).await else { continue };
        let all = needed.get(&row.number).and_then(|slots| slots.get(slot.index())).copied().unwrap_or_default();
        if has != [0; 32] {
            there.push(There { needed: both(&has, &all), row, access, slot, provider, has });
        }
    }
    Ok(there)
}

/// Gives peers what lies at providers, as far as there are peers; how many shards.
pub(super) async fn move_back(session: &Session, cancel: &CancellationToken, time: Duration) -> usize {
    let moving = async {
        let mut moved = 0;
        for one in there(session).await? {
            moved += move_slot(session, one, MOVED_MAX.saturating_sub(moved)).await?;
        }
        Ok::<_, CatalogueError>(moved)
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => 0,
        moved = tokio::time::timeout_at(Instant::now() + time, moving) => match moved {
            Ok(Ok(moved)) => moved,
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "what lies at fallback storage could not be given to peers");
                0
            }
            Err(_) => {
                tracing::info!("moving shards from fallback storage took long: the rest is left for the next run");
                0
            }
        },
    }
}

async fn move_slot(session: &Session, there: There, most: usize) -> Result<usize, CatalogueError> {
    let There { row, access, slot, provider, needed, .. } = there;
    // This run may have changed it meanwhile.
    let Some(mut row) = session.groups.current(row.number).or(session.catalogue.group(row.number)?) else {
        return Ok(0);
    };
    let at = slot.index();
    let Some(held) = row.holders.get(at).cloned() else { return Ok(0) };
    let Some(peer) = session.groups.candidates(&row, at, &BTreeSet::new()).first().copied() else { return Ok(0) };
    let known = held.contains(&peer);
    if !known && held.len() >= HOLDERS_MAX {
        return Ok(0);
    }
    let Ok(mut has) = session.overlay.has_shards(peer, access.clone(), slot).await else { return Ok(0) };
    if !known {
        // It is on record before it is offered anything (SEP-3).
        if !session.groups.remember_offer(&row, at, peer) || session.record_formers().is_err() {
            return Ok(0);
        }
    }
    let mut moved = 0;
    for stripe in stripes(session, row.number, &needed, &has)?.into_iter().take(most) {
        let address = ShardAddress { group: access.clone(), slot, ordinal: stripe.ordinal };
        let got = session.overlay.get_shard(provider, address.clone(), 0, 0, Priority::Low).await;
        let (Ok(bytes), Some(root)) = (got, stripe.root(slot).copied()) else { continue };
        let (checked, ordinal, no) = (bytes.clone(), stripe.ordinal, stripe.no);
        let right = tokio::task::spawn_blocking(move || shard_is_right(&stripe, slot, &checked)).await;
        if !right.unwrap_or(false) {
            continue;
        }
        let put = ShardPut { address, root, lease_until: session.lease_until, bytes };
        match session.overlay.put_shard(peer, put, Priority::Low).await {
            Ok(kept) => session.keep_receipt(no, slot, &kept),
            Err(error) => {
                tracing::debug!(peer = %peer.short(), %error, "a peer did not take what lies at fallback storage");
                break;
            }
        }
        has = refill::asked::with(has, ordinal);
        moved += 1;
    }
    let whole = covers(&has, &needed);
    if moved == 0 && (!known || !whole) {
        return Ok(0);
    }
    let Some(held) = row.holders.get_mut(at) else { return Ok(moved) };
    let before = held.clone();
    held.retain(|holder| *holder != peer);
    // Who is first has it all.
    let place = if whole { 0 } else { held.len() };
    held.insert(place, peer);
    if *held != before {
        session.groups.replace_row(&row);
        // Until a head says so, nobody else finds the new holder.
        session.catalogue.set_meta(Meta::Moved, Some(vec![1]))?;
        session.catalogue.set_group(&row)?;
    }
    Ok(moved)
}

/// Stripes of a group that are in `needed` and not in `has`.
fn stripes(session: &Session, group: u32, needed: &Ordinals, has: &Ordinals) -> Result<Vec<StripeRow>, CatalogueError> {
    let mut found = Vec::new();
    for row in session.catalogue.stripes() {
        let row = row?;
        if row.group == group && names(needed, row.ordinal) && !names(has, row.ordinal) {
            found.push(row);
        }
    }
    Ok(found)
}

/// Deletes what peers have now, after a head that names them was kept; how many objects. One that stays is found again.
pub(super) async fn sweep(session: &Session, cancel: &CancellationToken, time: Duration) -> usize {
    // A row that no head has yet: whoever recovers would look for the shards here.
    if !matches!(session.catalogue.meta(Meta::Moved), Ok(None)) {
        return 0;
    }
    let sweeping = async {
        let mut deleted = 0;
        for one in there(session).await? {
            deleted += sweep_slot(session, one).await;
        }
        Ok::<_, CatalogueError>(deleted)
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => 0,
        swept = tokio::time::timeout_at(Instant::now() + time, sweeping) => {
            swept.ok().and_then(Result::ok).unwrap_or_default()
        }
    }
}

async fn sweep_slot(session: &Session, there: There) -> usize {
    let There { row, access, slot, provider, has, needed } = there;
    let Some(peer) = row.holders.get(slot.index()).and_then(|held| held.first()) else { return 0 };
    if session.groups.is_fallback(peer) {
        return 0;
    }
    let Ok(theirs) = session.overlay.has_shards(*peer, access.clone(), slot).await else { return 0 };
    // Its word is not enough.
    if !covers(&theirs, &needed)
        || !refill::proves(session, row.number, &access, slot, *peer, &both(&theirs, &has)).await
    {
        return 0;
    }
    let mut deleted = 0;
    for ordinal in (0..=u8::MAX).filter(|ordinal| names(&both(&theirs, &has), *ordinal)) {
        let address = ShardAddress { group: access.clone(), slot, ordinal };
        match session.overlay.delete_shard(provider, address).await {
            Ok(()) => deleted += 1,
            Err(error) => {
                tracing::debug!(%error, "fallback storage did not delete a shard: the next run asks again");
                break;
            }
        }
    }
    deleted
}

/// What the head says of providers: none before any was used.
pub(super) fn in_head(catalogue: &Catalogue) -> Result<Vec<ProviderRow>, CatalogueError> {
    decode(&catalogue.meta(Meta::Providers)?.unwrap_or_default())
}

/// Which of these groups' slots lie where we do not reach, in words: which provider is missing, and how much lies there.
pub(super) fn missing(groups: &[GroupRow], storage: &Storage) -> Option<String> {
    let lying = |name: &str| {
        let slots = groups
            .iter()
            .flat_map(|row| &row.holders)
            .filter(|held| held.first().is_some_and(|first| storage.name_of(first) == Some(name)));
        slots.count()
    };
    let list: Vec<String> = storage
        .out_of_reach()
        .map(|(name, why)| (name, why, lying(name)))
        .filter(|(.., slots)| *slots > 0)
        .map(|(name, why, slots)| format!("{slots} slots lie at fallback storage {name:?}: {why}"))
        .collect();
    (!list.is_empty()).then(|| list.join("; "))
}
