//! Stripes that lack slots get them filled at the next run: those acknowledged so, those that a check found, and those
//! that this run finds itself by asking the holders of some groups.
//!
//! - **REP-1** As far as it goes with the owner awake: what is noted stays noted, and in the exit code, until it is filled.
//!   Attacked by `tests::healing`.
//! - **SEP-1** Candidates are of the slot's colour in the stripe's own group; the stripe keeps its id and its group.
//! - **SEP-2** A slot is whole when as many holders *of different domains* as there are replicas say that they have it.
//! - **DUR-3** A rebuilt shard is byte-identical: its root is checked by `stripe::rebuild` before it is sent.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_core::stripe::{rebuild, shard_is_right};
use cairn_proto::{
    PeerKey, Slot,
    index::{StripeNo, StripeRow},
    manifest::{GroupRow, HOLDERS_MAX},
    wire::Priority,
};
use tokio_util::sync::CancellationToken;

use super::{
    catalogue::{CatalogueError, Meta},
    failures,
    holdings::{Holdings, names},
    reader::{Reader, StripeSource},
    session::Session,
};
use crate::{
    failure::Failure,
    overlay::{GroupAccess, ShardAddress, ShardPut},
};

/// Stripes completed in one run: more would keep a backup from beginning. 64 stripes are 320 MiB to fetch.
const PER_RUN: usize = 64;
/// Groups whose holders a run asks, the next ones each time: some 2,000 questions, for 320 GiB of data.
const GROUPS_ASKED: usize = 256;
/// In a note: the slot's bytes were read and were wrong, so that its holder's word is not enough.
pub(super) const READ_WRONG: u8 = 0x80;

/// Asks the holders of the groups whose turn it is, and notes what they lack. How many stripes cannot be read now.
pub(super) async fn look(session: &Session) -> Result<usize, Failure> {
    let catalogue = &session.catalogue;
    let rows: Vec<GroupRow> = catalogue.groups().collect::<Result<_, _>>().map_err(failures::catalogue)?;
    let cursor = catalogue.meta(Meta::AskedUpTo).map_err(failures::catalogue)?;
    let cursor = cursor.and_then(|v| Some(u32::from_le_bytes(v.try_into().ok()?))).unwrap_or(0);
    let first = rows.partition_point(|row| row.number <= cursor);
    let turn: Vec<GroupRow> =
        rows[first..].iter().chain(&rows[..first]).filter(|r| r.stripes_used > 0).take(GROUPS_ASKED).cloned().collect();
    let Some(last) = turn.last() else { return Ok(0) };
    let holdings = Holdings::ask(&session.keys, &session.overlay, &turn).await?;
    if !holdings.answered() {
        return Ok(0);
    }
    let asked: BTreeSet<u32> = turn.iter().map(|row| row.number).collect();
    let unreadable = note(session, &holdings, &asked).map_err(failures::catalogue)?;
    let cursor = last.number.to_le_bytes().to_vec();
    catalogue.set_meta(Meta::AskedUpTo, Some(cursor)).map_err(failures::catalogue)?;
    Ok(unreadable)
}

fn note(session: &Session, holdings: &Holdings, asked: &BTreeSet<u32>) -> Result<usize, CatalogueError> {
    let lost = session.catalogue.lost()?;
    let notes: BTreeMap<StripeNo, Vec<u8>> = session.catalogue.shortfalls()?.into_iter().collect();
    let mut unreadable = 0;
    for row in session.catalogue.stripes() {
        let row = row?;
        if !asked.contains(&row.group) || lost.contains(&row.no) {
            continue;
        }
        let absent = holdings.absent(&row);
        unreadable += usize::from(row.present().count() - absent.len() < usize::from(row.used));
        let before = notes.get(&row.no).map_or(&[][..], Vec::as_slice);
        let still = |byte: &u8| {
            *byte & READ_WRONG != 0 || Slot::new(*byte).is_ok_and(|slot| holdings.count(&row, slot) < session.replicas)
        };
        let mut now: BTreeSet<u8> = before.iter().copied().filter(still).collect();
        now.extend(absent.into_iter().filter(|slot| !before.contains(&(slot | READ_WRONG))));
        if !now.iter().eq(before) {
            session.catalogue.set_shortfall(row.no, &now.into_iter().collect::<Vec<_>>())?;
        }
    }
    Ok(unreadable)
}

/// Completes what it can; how many stripes are whole now. Failure to do so is not the backup's failure: the notes stay.
pub(super) async fn complete(session: &Session, cancel: &CancellationToken) -> usize {
    let Ok(short) = session.catalogue.shortfalls() else { return 0 };
    if short.is_empty() {
        return 0;
    }
    let reader = Reader::new(session.keys.clone(), session.overlay.clone(), Some(session.catalogue.clone()));
    let mut done = 0;
    for (no, slots) in in_turn(&reader, short) {
        let left = tokio::select! {
            () = cancel.cancelled() => return done,
            left = complete_one(session, &reader, no, &slots) => left,
        };
        let left = left.unwrap_or(slots);
        done += usize::from(left.is_empty());
        if let Err(e) = session.catalogue.set_shortfall(no, &left) {
            tracing::warn!(error = %e, "a completed stripe could not be noted");
        }
    }
    done
}

/// Which stripes this run works on: those in most danger for one half; any for the other, since the first ones may be
/// those that nobody can complete.
fn in_turn(reader: &Reader, mut short: Vec<(StripeNo, Vec<u8>)>) -> Vec<(StripeNo, Vec<u8>)> {
    if short.len() <= PER_RUN {
        return short;
    }
    let mut random = [0u8; 8];
    if getrandom::fill(&mut random).is_ok() {
        let at = u64::from_le_bytes(random) % short.len() as u64;
        short.rotate_left(at as usize);
    }
    let danger = |no: StripeNo, lacking: usize| {
        let row = reader.source(no).ok().map(|source| source.row);
        let spare = row.map_or(0, |row| row.present().count() - usize::from(row.used));
        // More than can be spared: it cannot be read now.
        if lacking > spare { 0 } else { lacking }
    };
    let mut urgent: Vec<usize> = (0..short.len()).collect();
    urgent.sort_by_cached_key(|at| Reverse(danger(short[*at].0, short[*at].1.len())));
    let urgent: BTreeSet<usize> = urgent.into_iter().take(PER_RUN / 2).collect();
    let (first, rest): (Vec<_>, Vec<_>) = short.into_iter().enumerate().partition(|(at, _)| urgent.contains(at));
    first.into_iter().chain(rest).take(PER_RUN).map(|(_, stripe)| stripe).collect()
}

/// What the holders of one slot say of one stripe.
#[derive(Default)]
struct Asked {
    holding: BTreeSet<PeerKey>,
    /// They say that they have nothing of this slot at all.
    empty: BTreeSet<PeerKey>,
    silent: BTreeSet<PeerKey>,
    /// They say that they have it, and give other bytes.
    wrong: BTreeSet<PeerKey>,
}

impl Asked {
    /// Who makes room for another holder in a full row: whoever is sure to have nothing first. A silent one may still have
    /// shards of other stripes; those lack the slot as much as this one and have a holder that answers again.
    fn to_replace(&self, holders: &[PeerKey]) -> Option<usize> {
        [&self.empty, &self.silent, &self.wrong]
            .into_iter()
            .find_map(|set| holders.iter().position(|peer| set.contains(peer) && !self.holding.contains(peer)))
    }
}

/// The slots that are still lacking; `None` when the stripe could not be read.
async fn complete_one(session: &Session, reader: &Reader, no: StripeNo, slots: &[u8]) -> Option<Vec<u8>> {
    let source = reader.source(no).ok()?;
    let (number, access, ordinal) = (source.row.group, source.group.1.clone(), source.row.ordinal);
    // The reader's row is as old as the reader: what this run added to the group is here.
    let mut group = match session.groups.current(number) {
        Some(group) => group,
        None => session.catalogue.group(number).ok()??,
    };
    let mut lacking = Vec::new();
    for byte in slots {
        let slot = Slot::new(byte & !READ_WRONG).ok()?;
        let mut asked = who_has(session, group.holders.get(slot.index())?, &access, slot, ordinal).await;
        if byte & READ_WRONG != 0 {
            verify(session, &source, slot, &mut asked).await;
        }
        if asked.holding.len() < session.replicas {
            lacking.push((*byte, slot, asked));
        }
    }
    if lacking.is_empty() {
        return Some(Vec::new());
    }
    let shards = reader.fetch_some(&source, source.row.used.into(), Priority::Low).await;
    let (codec, row) = (source.codec.clone(), source.row.clone());
    let shards = tokio::task::spawn_blocking(move || rebuild(&codec, &row, shards)).await.ok()?.ok()?;
    let mut left = Vec::new();
    for (byte, slot, mut asked) in lacking {
        let bytes = shards.get(slot.index())?.clone()?;
        let root = *source.row.root(slot)?;
        for peer in session.groups.candidates(&group, slot.index(), &asked.holding) {
            if asked.holding.len() >= session.replicas {
                break;
            }
            if asked.wrong.contains(&peer) {
                continue;
            }
            let holders = group.holders.get(slot.index())?;
            let known = holders.contains(&peer);
            let full = holders.len() >= HOLDERS_MAX;
            let replaced = asked.to_replace(holders);
            if !known && full && replaced.is_none() {
                continue;
            }
            let address = ShardAddress { group: access.clone(), slot, ordinal };
            let put = ShardPut { address, root, lease_until: session.lease_until, bytes: bytes.clone() };
            match session.overlay.put_shard(peer, put, Priority::Low).await {
                Ok(_) => {
                    asked.holding.insert(peer);
                    if !known {
                        let holders = group.holders.get_mut(slot.index())?;
                        if let Some(at) = replaced.filter(|_| full) {
                            holders.remove(at);
                        }
                        holders.push(peer);
                        session.groups.replace_row(&group);
                        // Until a head says so, nobody else finds the new holder.
                        session.catalogue.set_meta(Meta::Moved, Some(vec![1])).ok()?;
                        session.catalogue.set_group(&group).ok()?;
                    }
                }
                Err(e) => tracing::debug!(peer = %peer.short(), error = %e, "a holder did not take a missing shard"),
            }
        }
        if asked.holding.len() < session.replicas {
            left.push(byte);
        }
    }
    Some(left)
}

/// Who says that they have the shard. One that does not answer counts as without: a put to it is repeated, which costs
/// nothing when it has the shard after all.
async fn who_has(session: &Session, holders: &[PeerKey], access: &Arc<GroupAccess>, slot: Slot, ordinal: u8) -> Asked {
    let questions = holders
        .iter()
        .map(|peer| async move { (*peer, session.overlay.has_shards(*peer, access.clone(), slot).await.ok()) });
    let mut asked = Asked::default();
    for (peer, answer) in futures::future::join_all(questions).await {
        match answer {
            Some(bits) if names(&bits, ordinal) => asked.holding.insert(peer),
            Some([0, rest @ ..]) if rest == [0; 31] => asked.empty.insert(peer),
            Some(_) => false,
            None => asked.silent.insert(peer),
        };
    }
    asked
}

/// Reads the shard from everybody who says to have it.
async fn verify(session: &Session, source: &StripeSource, slot: Slot, asked: &mut Asked) {
    for peer in asked.holding.clone() {
        let address = ShardAddress { group: source.group.1.clone(), slot, ordinal: source.row.ordinal };
        let right = match session.overlay.get_shard(peer, address, 0, 0, Priority::Low).await {
            Ok(bytes) => {
                let row: Arc<StripeRow> = source.row.clone();
                tokio::task::spawn_blocking(move || shard_is_right(&row, slot, &bytes)).await.unwrap_or(false)
            }
            // It takes a shard that it found damaged again: no liar.
            Err(_) => {
                asked.holding.remove(&peer);
                continue;
            }
        };
        if !right {
            asked.holding.remove(&peer);
            asked.wrong.insert(peer);
        }
    }
}
