//! Stripes that lack slots get them filled at the next run: those acknowledged so, those that a check found, and those
//! that this run finds itself by asking the holders of some groups.
//!
//! - **REP-1** As far as it goes with the owner awake: what is noted stays noted, and in the exit code, until it is filled.
//!   Attacked by `tests::healing`. A stripe that is lost keeps its note for the time when it is back.
//! - **REP-2** As far as it goes with the owner awake: what is short is decided in [`holdings`](super::holdings), which waits
//!   for a machine that only sleeps, and a run completes [`PER_RUN`] stripes at most. Attacked by `tests::replicas`.
//! - **SEP-1** Candidates are of the slot's colour in the stripe's own group; the stripe keeps its id and its group.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_proto::{PeerKey, Slot, Timestamp, index::StripeNo, manifest::GroupRow};
use futures::StreamExt as _;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    catalogue::{CatalogueError, Meta},
    failures,
    groups::access_of,
    holdings::{self, Holdings},
    news,
    reader::Reader,
    refill::Refill,
    session::Session,
};
use crate::failure::Failure;

/// Stripes completed in one run: more would keep a backup from beginning. 64 stripes are 320 MiB to fetch.
const PER_RUN: usize = 64;
/// How long a run completes stripes: a few holders that make us wait must not keep a backup from beginning. What is left is
/// the next run's.
pub(super) const TIME: Duration = Duration::from_secs(120);
/// How often a run comes back to the stripes of groups in which an heir entered or failed: each time another one may fail.
const PASSES: usize = 4;
/// Groups whose holders a run asks, the next ones each time: some 2,000 questions, for 320 GiB of data.
const GROUPS_ASKED: usize = 256;
/// Groups whose stewards a run asks, how many at once, and for how long: the rest is the next run's.
const GROUPS_LEARNED: usize = 64;
const GROUPS_AT_ONCE: usize = 8;
const LEARNING: Duration = Duration::from_secs(30);
/// In a note: the slot's bytes were read and were wrong, so that its holder's word is not enough.
pub(super) const READ_WRONG: u8 = 0x80;

/// Asks the holders of the groups whose turn it is, and notes what they lack. How many stripes cannot be read now.
pub(super) async fn look(session: &Session, now: Timestamp) -> Result<usize, Failure> {
    let catalogue = &session.catalogue;
    let rows: Vec<GroupRow> = catalogue.groups().collect::<Result<_, _>>().map_err(failures::catalogue)?;
    let cursor = catalogue.meta(Meta::AskedUpTo).map_err(failures::catalogue)?;
    let cursor = cursor.and_then(|v| Some(u32::from_le_bytes(v.try_into().ok()?))).unwrap_or(0);
    let first = rows.partition_point(|row| row.number <= cursor);
    let turn: Vec<GroupRow> =
        rows[first..].iter().chain(&rows[..first]).filter(|r| r.stripes_used > 0).take(GROUPS_ASKED).cloned().collect();
    let Some(last) = turn.last() else { return Ok(0) };
    let mut holdings = Holdings::ask(&session.keys, &session.overlay, &turn).await?;
    if !holdings.answered() {
        return Ok(0);
    }
    let asked: BTreeSet<u32> = turn.iter().map(|row| row.number).collect();
    let gone = holdings::note_silence(catalogue, &holdings, &holdings::named(&rows), now);
    let gone = gone.map_err(failures::catalogue)?;
    learn(session, &mut holdings, &turn, &gone).await.map_err(failures::catalogue)?;
    let unreadable = note(session, &holdings, &asked, &gone).map_err(failures::catalogue)?;
    let cursor = last.number.to_le_bytes().to_vec();
    catalogue.set_meta(Meta::AskedUpTo, Some(cursor)).map_err(failures::catalogue)?;
    Ok(unreadable)
}

/// Asks the stewards of groups that are short who holds what now, so that owner and stewards do not both repair them.
async fn learn(
    session: &Session,
    holdings: &mut Holdings,
    turn: &[GroupRow],
    gone: &BTreeSet<PeerKey>,
) -> Result<(), CatalogueError> {
    let asked: BTreeSet<u32> = turn.iter().map(|row| row.number).collect();
    let mut short = BTreeSet::new();
    for row in session.catalogue.stripes() {
        let row = row?;
        let known = !asked.contains(&row.group) || short.contains(&row.group);
        if !known && !holdings.short(&row, session.replicas, gone).is_empty() {
            short.insert(row.group);
        }
    }
    let cursor = session.catalogue.meta(Meta::LearnedUpTo)?;
    let cursor = cursor.and_then(|v| Some(u32::from_le_bytes(v.try_into().ok()?))).unwrap_or(0);
    // Those after the last one of the run before come first: with more of them than a run asks about, each has its turn.
    let (later, first): (Vec<_>, Vec<_>) =
        turn.iter().filter(|row| short.contains(&row.number)).partition(|row| row.number <= cursor);
    let turn: Vec<&GroupRow> = first.into_iter().chain(later).take(GROUPS_LEARNED).collect();
    if let Some(last) = turn.last() {
        session.catalogue.set_meta(Meta::LearnedUpTo, Some(last.number.to_le_bytes().to_vec()))?;
    }
    let turn = turn.into_iter();
    let questions = turn.map(|row| async move {
        let access = Arc::new(access_of(&session.keys, row)?);
        let learned = session.learner.learn(row.number, &access).await;
        Ok::<_, CatalogueError>((row.clone(), access, learned))
    });
    let mut questions = futures::stream::iter(questions.collect::<Vec<_>>()).buffer_unordered(GROUPS_AT_ONCE);
    let end = Instant::now() + LEARNING;
    while let Ok(Some(learned)) = tokio::time::timeout_at(end, questions.next()).await {
        let (mut row, access, learned) = learned?;
        let answers = news::settle(session, &mut row, &access, &learned).await?;
        holdings.add(row.number, &answers);
    }
    Ok(())
}

fn note(
    session: &Session,
    holdings: &Holdings,
    asked: &BTreeSet<u32>,
    gone: &BTreeSet<PeerKey>,
) -> Result<usize, CatalogueError> {
    let lost = session.catalogue.lost()?;
    let notes: BTreeMap<StripeNo, Vec<u8>> = session.catalogue.shortfalls()?.into_iter().collect();
    let mut unreadable = 0;
    for row in session.catalogue.stripes() {
        let row = row?;
        if !asked.contains(&row.group) || lost.contains(&row.no) {
            continue;
        }
        let absent = holdings.absent(&row).len();
        unreadable += usize::from(row.present().count() - absent < usize::from(row.used));
        let before = notes.get(&row.no).map_or(&[][..], Vec::as_slice);
        let still = |byte: &u8| {
            *byte & READ_WRONG != 0 || Slot::new(*byte).is_ok_and(|slot| holdings.count(&row, slot) < session.replicas)
        };
        let mut now: BTreeSet<u8> = before.iter().copied().filter(still).collect();
        let short = holdings.short(&row, session.replicas, gone);
        now.extend(short.into_iter().filter(|slot| !before.contains(&(slot | READ_WRONG))));
        if !now.iter().eq(before) {
            session.catalogue.set_shortfall(row.no, &now.into_iter().collect::<Vec<_>>())?;
        }
    }
    Ok(unreadable)
}

/// Completes what it can in this time; how many stripes are whole now. Failure to do so is not the backup's failure: the
/// notes stay.
pub(super) async fn complete(session: &Session, cancel: &CancellationToken, time: Duration) -> usize {
    let end = Instant::now() + time;
    let Ok(short) = session.catalogue.short() else { return 0 };
    if short.is_empty() {
        return 0;
    }
    let reader = Reader::new(session.keys.clone(), session.overlay.clone(), Some(session.catalogue.clone()))
        .sharing(session.learner.clone());
    let mut refill = Refill::new(session, &reader);
    let mut done = 0;
    let mut turn = in_turn(&reader, short);
    for _ in 0..PASSES {
        for (no, slots) in &mut turn {
            let left = tokio::select! {
                biased;
                () = cancel.cancelled() => return done,
                () = tokio::time::sleep_until(end) => {
                    tracing::info!("completing stripes took long: the rest is left for the next run");
                    return done;
                }
                left = refill.stripe(*no, slots) => left,
            };
            if let Some(left) = left {
                *slots = left;
            }
            done += usize::from(slots.is_empty());
            if let Err(e) = session.catalogue.set_shortfall(*no, slots) {
                tracing::warn!(error = %e, "a completed stripe could not be noted");
            }
        }
        // Whoever took a place with the last of a group's stripes made the earlier ones whole as well, and what an heir had
        // that failed goes to the next one: those are asked about once more.
        let moved = std::mem::take(&mut refill.moved);
        let again = |no: StripeNo| reader.source(no).is_ok_and(|source| moved.contains(&source.row.group));
        turn.retain(|(no, slots)| !slots.is_empty() && again(*no));
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
