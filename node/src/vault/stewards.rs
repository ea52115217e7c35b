//! Leaves each group with stewards, who repair it while its owner is away: after a head was published, so that a snapshot is
//! listed whether they answer or not (DUR-1).
//!
//! A group's stewards get the mandate and a sheet for each slot. The mandate stays the same bytes until half of its time is over,
//! or until a steward must be replaced: one that refused, or was not heard for [`GONE_AFTER_MS`]. The sheets get a new
//! generation when what they say changed. What was confirmed by whom stands in the catalogue; whatever is not confirmed, for a
//! steward that was away or a run that was killed, is caught up by the next run.
//!
//! - **REP-1** Every group that can be watched is, or the run's report says how many are not. Attacked by `tests::registering`.
//! - **SEP-1** A steward holds nothing of its group: it is of the colour that is no slot's, and no peer of the owner's domain.
//! - **DUR-1** A run waits [`sending::PATIENCE`] longer at most once a steward did not answer.
//!
//! Memory: the rows of [`GROUPS_READ`] groups, 80 KiB each, and [`GROUPS_AT_ONCE`] sealed records of 75, each with 2 MiB of receipts to choose
//! from while it is made.

mod before;
mod records;
mod sending;
pub(super) mod tokens;
mod watched;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use cairn_proto::{Mandate, PeerKey, Timestamp, mandate::STEWARDS_MAX, manifest::GroupRow};
use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use self::watched::Watched;
use self::{records::Contents, sending::Missed, watched::standing};
use super::{
    catalogue::{
        CatalogueError,
        watch::{Confirmed, Registration},
    },
    fallback::leans_on,
    groups::access_of,
    holdings::GONE_AFTER_MS,
    news,
    session::Session,
};
use crate::overlay::GroupAccess;

/// How long a steward may take to make a record durable.
const ANSWER: Duration = Duration::from_secs(4);
/// How long a run registers in any case, when all answer: 1,000 groups are 500 MB of records.
const TIME: Duration = Duration::from_secs(120);
/// Groups registered at once, with up to seven stewards each.
const GROUPS_AT_ONCE: usize = 4;
/// Groups whose stripes are read in one go over all stripes.
const GROUPS_READ: usize = 64;

struct Run<'a> {
    session: &'a Session,
    /// Of the newest head: generations are made of it.
    sequence: u64,
    now: Timestamp,
    /// Whether any steward answered: if none did, it is rather we who are cut off.
    heard: AtomicBool,
    missed: Mutex<Missed>,
}

/// Leaves the vault's groups to their stewards, as far as they answer. What is listed is listed: nothing of this is the backup's
/// failure (DUR-1).
pub(super) async fn leave(session: &Session, now: Timestamp, cancel: &CancellationToken) -> Watched {
    let left = match session.catalogue.counters() {
        Ok(counters) => register(session, counters.sequence, now, cancel).await,
        Err(e) => Err(e),
    };
    left.inspect_err(|e| tracing::warn!(error = %e, "the groups could not be left to their stewards"))
        .unwrap_or_default()
}

/// Brings the stewards of all groups up to date. How things stand then.
async fn register(
    session: &Session,
    sequence: u64,
    now: Timestamp,
    cancel: &CancellationToken,
) -> Result<Watched, CatalogueError> {
    let catalogue = &session.catalogue;
    let mut rows: BTreeMap<u32, GroupRow> = BTreeMap::new();
    for row in catalogue.groups() {
        let row = row?;
        rows.insert(row.number, row);
    }
    let contents = records::contents(catalogue).await?;
    rows.retain(|number, _| contents.contains_key(number));
    let run = Run {
        session,
        sequence,
        now,
        heard: AtomicBool::new(false),
        missed: Mutex::new(Missed { deaf: BTreeSet::new(), more: Vec::new(), end: Instant::now() + TIME }),
    };
    let registrations = catalogue.registrations()?;
    let mut due: Vec<(Timestamp, u32)> = rows
        .values()
        .filter(|row| run.is_due(row, &contents[&row.number], registrations.get(&row.number)))
        .map(|row| {
            let confirmed = registrations.get(&row.number).into_iter().flat_map(|known| &known.stewards);
            (confirmed.map(|one| one.at).min().unwrap_or(Timestamp(0)), row.number)
        })
        .collect();
    due.sort_unstable();
    drop(registrations);
    run.all(&due, &rows, cancel).await?;
    run.note_silence()?;
    catalogue.flush()?;
    Ok(standing(&rows, &catalogue.registrations()?))
}

impl Run<'_> {
    fn is_due(&self, row: &GroupRow, contents: &Contents, known: Option<&Registration>) -> bool {
        let Some(known) = known else { return true };
        known.digest != contents.digest(&self.peers_only(row), &self.leaning(row))
            || known.confirmed() < known.stewards.len()
            || self.choose(row, Some(known)).is_some()
    }

    /// The row as stewards see it: whoever stands for fallback storage is nobody whom they could hear.
    fn peers_only(&self, row: &GroupRow) -> GroupRow {
        let mut row = row.clone();
        for held in &mut row.holders {
            held.retain(|holder| self.session.overlay.fallback_of(holder).is_none());
        }
        row
    }

    /// Slots that lean on fallback storage: that and no more is what stewards are told of it.
    fn leaning(&self, row: &GroupRow) -> BTreeSet<usize> {
        let leans = |held: &Vec<PeerKey>| leans_on(held, self.session.overlay.as_ref()).is_some();
        row.holders.iter().enumerate().filter(|(_, held)| leans(held)).map(|(slot, _)| slot).collect()
    }

    fn is_silent(&self, one: &Confirmed) -> bool {
        one.silent_since > Timestamp(0) && self.now.ms_since(one.silent_since) >= GONE_AFTER_MS
    }

    /// The stewards of a new mandate, when one is due; none when there is nobody.
    fn choose(&self, row: &GroupRow, known: Option<&Registration>) -> Option<Vec<PeerKey>> {
        let groups = &self.session.groups;
        let mandate = known.and_then(|known| Mandate::open(&known.mandate).ok());
        let (Some(known), Some(mandate)) = (known, mandate) else { return Some(groups.stewards(row, &[], &[])) };
        let refused = |one: &Confirmed| known.refused.contains(&one.steward);
        let (leaving, kept): (Vec<&Confirmed>, Vec<&Confirmed>) =
            known.stewards.iter().partition(|one| refused(one) || self.is_silent(one));
        let renew = mandate.ends.ms_since(self.now) < mandate.ends.ms_since(mandate.issued) / 2
            || known.floor >= mandate.generation;
        if leaving.is_empty() && kept.len() == STEWARDS_MAX && !renew {
            return None;
        }
        let kept: Vec<PeerKey> = kept.iter().map(|one| one.steward).collect();
        let mut not: Vec<PeerKey> = leaving.iter().map(|one| one.steward).collect();
        not.extend(&known.refused);
        let mut chosen = groups.stewards(row, &kept, &not);
        // Nobody is there in the place of one that is only silent.
        let silent = leaving.iter().filter(|one| !refused(one)).map(|one| one.steward);
        chosen.extend(silent.take(STEWARDS_MAX.saturating_sub(chosen.len())));
        let same = chosen.len() == mandate.stewards.len() && chosen.iter().all(|one| mandate.stewards.contains(one));
        (renew || !same).then_some(chosen)
    }

    async fn all(
        &self,
        due: &[(Timestamp, u32)],
        rows: &BTreeMap<u32, GroupRow>,
        cancel: &CancellationToken,
    ) -> Result<(), CatalogueError> {
        for part in due.chunks(GROUPS_READ) {
            let numbers: BTreeSet<u32> = part.iter().map(|(_, number)| *number).collect();
            let mut read = records::rows(&self.session.catalogue, numbers).await?;
            let work: Vec<_> = part
                .iter()
                .filter_map(|(_, number)| Some((rows.get(number)?.clone(), read.remove(number)?)))
                .map(|(row, contents)| self.group(row, contents))
                .collect();
            let mut work = futures::stream::iter(work).buffer_unordered(GROUPS_AT_ONCE);
            loop {
                let end = self.missed().end;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Ok(()),
                    () = tokio::time::sleep_until(end) => {
                        tracing::info!("stewards take long to answer: the rest is left for the next run");
                        return Ok(());
                    }
                    done = work.next() => match done {
                        Some(Ok(())) => {}
                        Some(Err(e)) => tracing::warn!(error = %e, "a group could not be left to its stewards"),
                        None => break,
                    },
                }
            }
        }
        Ok(())
    }

    /// Brings the stewards of one group up to date.
    async fn group(&self, mut row: GroupRow, contents: Contents) -> Result<(), CatalogueError> {
        let (number, catalogue) = (row.number, &self.session.catalogue);
        let access = Arc::new(access_of(&self.session.keys, &row)?);
        let known = catalogue.registration(number)?;
        let mut registration = match (self.choose(&row, known.as_ref()), known) {
            (None, None) => return Ok(()),
            (None, Some(known)) => known,
            (Some(mut chosen), mut known) => {
                if chosen.is_empty() {
                    if let Some(known) = known.as_mut().filter(|known| !known.refused.is_empty()) {
                        // Whoever refused may have changed its mind by the next run.
                        known.refused.clear();
                        catalogue.set_registration(number, known)?;
                    }
                    return Ok(());
                }
                let left = known.as_ref().is_some_and(|known| known.stewards.iter().any(|one| one.sheets > 0));
                // A recovered machine does not know with whom it left what it had before.
                let forgotten = known.as_ref().is_none_or(|known| known.mandate.is_empty())
                    && row.number < self.session.first_group;
                let mut made = true;
                if forgotten {
                    // The head's number did not grow since: a mandate of it would be no newer than the forgotten one.
                    let known = known.get_or_insert_with(Registration::default);
                    known.floor = known.floor.max(self.sequence);
                }
                if left || forgotten {
                    match self.before(number, &access, &mut known).await? {
                        Some(learned) => {
                            news::settle(self.session, &mut row, &access, &learned).await?;
                            chosen = self.of_now(&row, known.as_ref(), &learned).unwrap_or(chosen);
                            if let (Some(known), Some(newest)) = (known.as_mut(), &learned.newest) {
                                known.floor = known.floor.max(newest.generation);
                            }
                        }
                        None => made = false,
                    }
                }
                match known {
                    Some(known) if !made && !known.mandate.is_empty() => known,
                    _ if !made => return Ok(()),
                    known => {
                        let made = self.mandate(&row, &access, known, chosen)?;
                        catalogue.set_registration(number, &made)?;
                        made
                    }
                }
            }
        };
        let digest = contents.digest(&self.peers_only(&row), &self.leaning(&row));
        let fresh = registration.digest != digest;
        if fresh {
            registration.sheets = self.sequence.max(registration.sheets + 1);
            registration.digest = digest;
            catalogue.set_registration(number, &registration)?;
        }
        let unheard = registration.confirmed() == 0;
        self.send(&row, &access, contents, &mut registration, fresh || unheard).await?;
        catalogue.set_registration(number, &registration)?;
        self.leave_tokens(number, &access, &registration).await
    }

    /// A new mandate: a generation above all that this machine knows of.
    fn mandate(
        &self,
        row: &GroupRow,
        access: &GroupAccess,
        known: Option<Registration>,
        chosen: Vec<PeerKey>,
    ) -> Result<Registration, CatalogueError> {
        let before = known.as_ref().and_then(|known| Mandate::open(&known.mandate).ok());
        let floor = known.as_ref().map_or(0, |known| known.floor);
        let above = before.map_or(0, |mandate| mandate.generation).max(floor).saturating_add(1);
        let generation = self.sequence.max(above);
        let mandate = records::mandate(
            &self.peers_only(row),
            access,
            generation,
            chosen.clone(),
            self.session.replicas,
            self.now,
        )?;
        let new = |steward| Confirmed { steward, sheets: 0, at: Timestamp(0), silent_since: Timestamp(0) };
        let silence = |steward: &PeerKey| {
            let before = known.iter().flat_map(|known| &known.stewards).find(|one| one.steward == *steward);
            before.map_or(Timestamp(0), |one| one.silent_since)
        };
        let stewards =
            chosen.iter().map(|steward| Confirmed { silent_since: silence(steward), ..new(*steward) }).collect();
        Ok(Registration {
            mandate,
            sheets: known.as_ref().map_or(0, |known| known.sheets),
            digest: [0; 32],
            floor,
            stewards,
            refused: known.map(|known| known.refused).unwrap_or_default(),
            put_off: Timestamp(0),
        })
    }
}
