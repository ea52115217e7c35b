//! From 24 words and a network to a working vault: phrase -> keys -> head -> tail -> manifest -> segments -> catalogue.
//!
//! The new catalogue is built beside the old one and takes its place when it is complete. All groups are sealed: nobody
//! knows which ordinals the lost machine gave out after its last commit.
//!
//! The same rebuilds a catalogue that was found damaged, without the words: the keyring has the keys.

use std::{path::Path, sync::Arc};

use cairn_core::{
    keys::{MasterSeed, VaultKeys},
    seal::open_head,
};
use cairn_proto::{
    head::HeadContent,
    index::{IndexSegment, StripeNo},
    manifest::Manifest,
    message::HeadRecord,
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Vault,
    catalogue::{Catalogue, CatalogueError, CommitRecord, Counters, Meta, StripeRecord, guard::Mark},
    failures, fallback,
    keyring::{self, KeyringError},
    leaning::{Leaning, Storage, encode},
    reader::{ReadError, Reader},
    vault_dir,
    verbs::VaultContext,
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{Event, ItemError, Outcome, Progress, RecoverArgs, SecretText, VerbResult},
};

/// Runs a recovery.
pub(super) async fn recover(
    ctx: &VaultContext,
    args: RecoverArgs,
    passphrase: Option<SecretText>,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let seed = MasterSeed::from_phrase(args.phrase.expose()).map_err(|e| {
        Failure::new(ExitCode::WrongSecret, "WRONG_PHRASE", "this is not a recovery phrase")
            .caused_by(&e)
            .with_hint("a recovery phrase has 24 words of the BIP39 English list; check spelling and order")
    })?;
    let (summary, unread) = reinstate(ctx, &seed, passphrase.as_ref(), Why::Asked, events).await?;
    if unread > 0 {
        let text = "parts of the index could not be read; what they name comes back with their holders: run `cairn recover` \
                    again then. A backup stores anew what is still here";
        let _ = events.send(Event::Notice { id: "INDEX_LOST".to_owned(), text: text.to_owned() }).await;
    }
    let _ = events.send(Event::Summary { verb: "recover".to_owned(), summary }).await;
    Ok(Outcome { code: if unread > 0 { ExitCode::Lost } else { ExitCode::Success } })
}

/// Rebuilds a catalogue that was found damaged, with the keys that the keyring has.
pub(super) async fn heal(
    ctx: &VaultContext,
    passphrase: Option<SecretText>,
    events: &mpsc::Sender<Event>,
) -> Result<(), Failure> {
    let (file, given) = (vault_dir(&ctx.dir).join("keyring"), passphrase.clone());
    let opened = tokio::task::spawn_blocking(move || keyring::open(&file, given.as_ref())).await;
    let secret = opened.map_err(|e| failures::bug("OPEN", &e))?.map_err(failures::keyring)?;
    let seed = MasterSeed::from_entropy(*secret);
    reinstate(ctx, &seed, passphrase.as_ref(), Why::Damage, events).await?;
    let text = "the local catalogue was damaged and has been rebuilt from the network".to_owned();
    let _ = events.send(Event::Notice { id: "CATALOGUE_REBUILT".to_owned(), text }).await;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Somebody asked for it, with the phrase.
    Asked,
    /// The catalogue is damaged.
    Damage,
}

async fn reinstate(
    ctx: &VaultContext,
    seed: &MasterSeed,
    passphrase: Option<&SecretText>,
    why: Why,
    events: &mpsc::Sender<Event>,
) -> Result<(serde_json::Value, usize), Failure> {
    let overlay = &ctx.overlay;
    let keys = Arc::new(VaultKeys::derive(seed));
    let known = overlay.peers(true).await.map_err(failures::overlay)?;
    let record = overlay.find_head(keys.vault_key()).await.map_err(failures::overlay)?.ok_or_else(|| {
        Failure::new(
            ExitCode::WrongSecret,
            "NO_HEAD",
            format!("none of the {} peers known has anything for this recovery phrase", known.len()),
        )
        .with_hint(
            "the phrase is of another vault, the network file is of another network, or nothing was backed up yet",
        )
    })?;
    let head = open_head(&keys, &record)
        .map_err(|e| Failure::new(ExitCode::Failed, "HEAD", "the vault's head does not open").caused_by(&e))?;
    let dir = vault_dir(&ctx.dir);
    let final_place = dir.join("catalogue");
    refuse_open(&final_place)?;
    let local_unread = if why == Why::Asked { look_at_local(&final_place, &keys, &record)? } else { None };
    refuse_older(&final_place, &record, why)?;
    let keyring = look_at_keyring(&dir, seed, passphrase)?;

    let fresh = dir.join("catalogue.new");
    let failed =
        |e: std::io::Error| Failure::new(ExitCode::Failed, "VAULT_DIR", "cannot write the catalogue").caused_by(&e);
    // What an attempt that died left over.
    remove(&fresh).map_err(failed)?;
    let catalogue = Catalogue::open(&fresh, &keys.vault_key()).map_err(failures::catalogue)?;
    // What is rebuilt already tells where the rest lies: no second list of all stripes in memory.
    let storage = Arc::new(Storage::open(&keys, &ctx.fallback, &head.providers).await);
    let leaning = Leaning::wrap(overlay.clone(), storage.clone());
    let reader = Reader::new(keys.clone(), leaning, Some(catalogue.clone()));
    let vault = Vault { keys, catalogue };
    vault.catalogue.set_meta(Meta::Providers, Some(encode(&head.providers))).map_err(failures::catalogue)?;
    let (manifest, unread) =
        rebuild(&vault, &reader, &record, &head, events).await.map_err(|e| out_of_reach(e, &head, &storage))?;
    if let Some(text) = fallback::missing(&manifest.groups, &storage) {
        let _ = events.send(Event::Notice { id: "FALLBACK_MISSING".to_owned(), text }).await;
    }
    let (bytes_fetched, wrong_shards) = (reader.bytes_fetched(), reader.wrong_shards());
    keep_formers(&final_place, &vault).map_err(failures::catalogue)?;
    drop((vault, reader));
    let summary = json!({
        "snapshots": manifest.snapshots.len(),
        "groups": manifest.groups.len(),
        "index_segments": manifest.segments.len(),
        "index_segments_lost": unread,
        "generation": record.generation,
        "sequence": record.sequence,
        "bytes_fetched": bytes_fetched,
        "wrong_shards": wrong_shards,
    });
    refuse_open(&final_place)?;
    let both = [fresh.clone(), final_place.clone()];
    let waited = tokio::task::spawn_blocking(move || both.iter().try_for_each(|dir| Catalogue::wait_closed(dir))).await;
    waited.map_err(|e| failures::bug("OPEN", &e))?.map_err(failures::catalogue)?;
    if unread > 0 && why == Why::Damage {
        // Nobody asked for half a catalogue.
        remove(&fresh).map_err(failed)?;
        let text =
            format!("the local catalogue is damaged, and {unread} parts of the index cannot be read from the network");
        return Err(Failure::new(ExitCode::Lost, "INDEX_LOST", text)
            .with_hint("try again when more holders are there, or run `cairn recover` to go on without what they name")
            .retryable());
    }
    // A catalogue of the same state that knows as much as the network gives now, or more, is the better one.
    if unread > 0 && local_unread.is_some_and(|known| known <= unread) {
        remove(&fresh).map_err(failed)?;
        install_keyring(&dir, keyring, seed, passphrase)?;
        return Ok((summary, unread));
    }
    // The old one goes when the new one stands: what ends this in between leaves at least one of them. Between a
    // catalogue and the other's mark it looks damaged, which is mended by doing this again.
    let old = dir.join("catalogue.old");
    if final_place.exists() {
        remove(&old).map_err(failed)?;
        std::fs::rename(&final_place, &old).map_err(failed)?;
    }
    std::fs::rename(&fresh, &final_place).map_err(failed)?;
    std::fs::rename(Mark::path(&fresh), Mark::path(&final_place)).map_err(failed)?;
    std::fs::File::open(&dir).and_then(|d| d.sync_all()).map_err(failed)?;
    install_keyring(&dir, keyring, seed, passphrase)?;
    remove(&old).map_err(failed)?;
    Ok((summary, unread))
}

/// What cannot be read may lie at fallback storage that nobody named on this machine.
fn out_of_reach(failure: Failure, head: &HeadContent, storage: &Storage) -> Failure {
    match fallback::missing(&head.groups, storage) {
        Some(text) => {
            let mut failure = failure.with_hint("name the fallback storage in `[[fallback]]` as before, and try again");
            failure.causes.push(text);
            failure
        }
        None => failure,
    }
}

fn other_vault() -> Failure {
    Failure::new(ExitCode::Refused, "OTHER_VAULT", "this data folder has another vault")
        .with_hint("recover into an empty data folder")
}

/// Another vault's catalogue is not to be replaced. When this one's has the very state that the network shows, how many
/// index segments it lacks itself. One that does not open is no reason to stop: recovery is there to replace it.
fn look_at_local(place: &Path, keys: &VaultKeys, record: &HeadRecord) -> Result<Option<usize>, Failure> {
    if !place.is_dir() {
        return Ok(None);
    }
    let local = Catalogue::open(place, &keys.vault_key()).and_then(|local| {
        local.verify()?;
        Ok((local.counters()?, local.unread_segments()?.len()))
    });
    match local {
        Err(CatalogueError::OtherVault) => Err(other_vault()),
        Ok((c, unread)) if (c.generation, c.sequence) == (record.generation, record.sequence) => Ok(Some(unread)),
        _ => Ok(None),
    }
}

/// Takes over what only the old catalogue knows, if it can be read: who had a slot and stands in no row (SEP-3), and what each
/// group's stewards confirmed.
fn keep_formers(place: &Path, fresh: &Vault) -> Result<(), CatalogueError> {
    if !place.is_dir() {
        return Ok(());
    }
    let local = Catalogue::open(place, &fresh.keys.vault_key());
    let Ok((formers, registrations)) = local.and_then(|local| Ok((local.formers()?, local.registrations()?))) else {
        return Ok(());
    };
    for (group, formers) in &formers {
        fresh.catalogue.set_formers(*group, formers)?;
    }
    // A mandate that is known need not be replaced by another one.
    for (group, known) in &registrations {
        fresh.catalogue.set_registration(*group, known)?;
    }
    fresh.catalogue.flush()
}

fn refuse_open(place: &Path) -> Result<(), Failure> {
    if !Catalogue::is_open(place) {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Busy, "BUSY", "another verb works on this vault")
        .with_hint("wait for it to end")
        .retryable())
}

/// Removes a catalogue's folder, and its mark, if there are any.
fn remove(dir: &Path) -> std::io::Result<()> {
    for removed in [std::fs::remove_dir_all(dir), std::fs::remove_file(Mark::path(dir))] {
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// A catalogue that knew a newer state than the network shows now must not be lost to an older one: the next head would
/// not be the newest. The mark tells what it knew, however damaged it is. Whoever removes the folder and asks for a
/// recovery means it.
fn refuse_older(place: &Path, record: &HeadRecord, why: Why) -> Result<(), Failure> {
    if !place.is_dir() && why == Why::Asked {
        return Ok(());
    }
    match Mark::read(place) {
        Ok(Some(mark)) if (mark.generation, mark.sequence) > (record.generation, record.sequence) => Err(Failure::new(
            ExitCode::Refused,
            "OLDER_HEAD",
            format!(
                "the network shows an older state of this vault (sequence {}) than this folder had (sequence {})",
                record.sequence, mark.sequence
            ),
        )
        .with_hint(
            "peers with the newer state are not reachable; to do without it, delete the folder `vault/catalogue` and run \
             `cairn recover`",
        )),
        // No mark, or one that is damaged too, forbids nothing.
        _ => Ok(()),
    }
}

/// What is to be done about the keyring when the catalogue stands.
enum KeyringWork {
    /// It is this vault's.
    Nothing,
    /// There is none.
    Make,
    /// It does not open and is kept beside: whoever has the phrase may set a new passphrase.
    Replace,
}

fn look_at_keyring(dir: &Path, seed: &MasterSeed, passphrase: Option<&SecretText>) -> Result<KeyringWork, Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed =
        |e: std::io::Error| Failure::new(ExitCode::Failed, "VAULT_DIR", "cannot make the vault's folder").caused_by(&e);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    match keyring::open(&dir.join("keyring"), passphrase) {
        Ok(secret) if *secret == *seed.expose() => Ok(KeyringWork::Nothing),
        Ok(_) => Err(other_vault()),
        Err(KeyringError::Missing) => Ok(KeyringWork::Make),
        Err(KeyringError::WrongPassphrase | KeyringError::Damaged(_)) => Ok(KeyringWork::Replace),
        // Replacing it now would leave one that opens to everybody.
        Err(e @ KeyringError::PassphraseNeeded) => Err(failures::keyring(e).with_hint(
            "the vault here has a passphrase: give it, or a new one, which the recovery phrase allows to set",
        )),
        Err(e) => Err(failures::keyring(e)),
    }
}

fn install_keyring(
    dir: &Path,
    work: KeyringWork,
    seed: &MasterSeed,
    passphrase: Option<&SecretText>,
) -> Result<(), Failure> {
    let file = dir.join("keyring");
    match work {
        KeyringWork::Nothing => return Ok(()),
        KeyringWork::Make => {}
        KeyringWork::Replace => {
            let aside = dir.join(format!("keyring.{}", super::now().0));
            std::fs::rename(&file, aside)
                .map_err(|e| Failure::new(ExitCode::Failed, "VAULT_DIR", "cannot write the keyring").caused_by(&e))?;
        }
    }
    keyring::create(&file, seed.expose(), passphrase).map_err(failures::keyring)
}

async fn rebuild(
    vault: &Vault,
    reader: &Reader,
    record: &HeadRecord,
    head: &HeadContent,
    events: &mpsc::Sender<Event>,
) -> Result<(Manifest, usize), Failure> {
    let read = |e: ReadError| failures::read(&e);
    let damaged = |e: cairn_proto::DecodeError| read(ReadError::Damaged(e.to_string()));
    reader.learn(&head.tail, &head.groups).map_err(read)?;
    let mut encoded = Vec::new();
    for place in &head.manifest {
        encoded.extend_from_slice(&reader.run(place).await.map_err(read)?);
    }
    let mut manifest = Manifest::decode(&encoded).map_err(damaged)?;
    // The head's rows of the tail's groups are newer than the manifest's.
    manifest.groups.retain(|g| head.groups.iter().all(|newer| newer.number != g.number));
    manifest.groups.extend(head.groups.iter().cloned());
    manifest.groups.sort_by_key(|g| g.number);
    reader.learn(&[], &manifest.groups).map_err(read)?;
    for group in &mut manifest.groups {
        group.sealed = true;
    }
    let total = manifest.segments.len();
    let mut unread = Vec::new();
    for (done, place) in manifest.segments.iter().rev().enumerate() {
        let found = match reader.run(place).await {
            Ok(bytes) => IndexSegment::decode(&bytes).map_err(|e| ReadError::Damaged(e.to_string())),
            Err(e) => Err(e),
        };
        match found {
            Ok(segment) => add(vault, segment)?,
            Err(e @ (ReadError::Catalogue(_) | ReadError::Worker)) => return Err(read(e)),
            // A stripe whose row a lost segment had is as good as lost.
            Err(e) => {
                unread.push(*place);
                let item = ItemError {
                    item: format!("index segment {} of {total}", total - done),
                    during: "fetch".to_owned(),
                    message: e.to_string(),
                };
                let _ = events.send(Event::Error(item)).await;
            }
        }
        let progress = Progress {
            phase: "recover".to_owned(),
            percent_done: Some((done + 1) as f64 / total.max(1) as f64),
            bytes_sent: reader.bytes_fetched(),
            ..Progress::default()
        };
        let _ = events.try_send(Event::Status(progress));
    }
    for row in &head.tail {
        // In no segment yet: the next commit must write them.
        let record = StripeRecord { row: Some(row.clone()), pending: true, ..StripeRecord::default() };
        vault.catalogue.record_stripe(&record).map_err(failures::catalogue)?;
    }
    vault.set_epochs(&manifest.epochs)?;
    vault.catalogue.set_meta(Meta::Head, Some(head.encode().map_err(damaged)?)).map_err(failures::catalogue)?;
    vault.catalogue.set_meta(Meta::Recovered, Some(vec![1])).map_err(failures::catalogue)?;
    let tail_end = head.tail.iter().map(|row| row.no.0 + 1).max().unwrap_or(1);
    let groups_end = manifest.groups.last().map_or(1, |g| g.number + 1);
    let counters = Counters {
        generation: record.generation,
        sequence: record.sequence,
        next_stripe: manifest.next_stripe.max(StripeNo(tail_end)).0,
        next_group: manifest.next_group.max(groups_end),
    };
    let commit = CommitRecord {
        snapshots: &manifest.snapshots,
        counters: Some(counters),
        segments: &manifest.segments,
        groups: &manifest.groups,
        ..CommitRecord::default()
    };
    vault.catalogue.finish_commit(&commit).map_err(failures::catalogue)?;
    unread.reverse();
    if !unread.is_empty() {
        vault.catalogue.set_unread_segments(&unread).map_err(failures::catalogue)?;
        vault.catalogue.flush().map_err(failures::catalogue)?;
    }
    Ok((manifest, unread.len()))
}

fn add(vault: &Vault, segment: IndexSegment) -> Result<(), Failure> {
    for row in segment.stripes {
        let record = StripeRecord { row: Some(row), ..StripeRecord::default() };
        vault.catalogue.record_stripe(&record).map_err(failures::catalogue)?;
    }
    let record = StripeRecord { runs: segment.runs, skip_known: true, ..StripeRecord::default() };
    vault.catalogue.record_stripe(&record).map_err(failures::catalogue)
}
