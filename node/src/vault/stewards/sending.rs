//! Tells stewards what they should know, and remembers who did not answer.

use std::{
    collections::BTreeSet,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use cairn_core::steward::wire::Refusal;
use cairn_proto::{Mandate, PeerKey, Timestamp, manifest::GroupRow};
use futures::future::join_all;
use tokio::time::Instant;

use super::{
    ANSWER, Run,
    records::{self, Contents},
};
use crate::{
    overlay::{GroupAccess, StewardError, TransferError},
    vault::{
        catalogue::{
            CatalogueError,
            watch::{Confirmed, Registration},
        },
        learn,
    },
};

/// How much longer a run goes on once a steward did not answer.
const PATIENCE: Duration = Duration::from_secs(6);

/// What went unanswered in a run.
pub(super) struct Missed {
    /// Who did not answer: not asked again in this run.
    pub(super) deaf: BTreeSet<PeerKey>,
    /// Which of the groups' stewards that left without the record: seven for each group at most.
    pub(super) more: Vec<(u32, PeerKey)>,
    /// When the run ends, done or not.
    pub(super) end: Instant,
}

impl Run<'_> {
    /// Sends the record to the stewards that have not confirmed it, all at once; then to those whom they put in, if these
    /// have not got it in an earlier run (`fresh`).
    pub(super) async fn send(
        &self,
        row: &GroupRow,
        access: &Arc<GroupAccess>,
        contents: Contents,
        registration: &mut Registration,
        fresh: bool,
    ) -> Result<(), CatalogueError> {
        let lacks = |one: &&Confirmed| one.sheets < registration.sheets && !registration.refused.contains(&one.steward);
        let lacking = registration.stewards.iter().filter(lacks).map(|one| one.steward);
        let (deaf, lacking): (Vec<PeerKey>, Vec<PeerKey>) = {
            let known = self.missed();
            lacking.partition(|peer| known.deaf.contains(peer))
        };
        self.missed().more.extend(deaf.into_iter().map(|peer| (row.number, peer)));
        if lacking.is_empty() {
            return Ok(());
        }
        let (row, leaning) = (self.peers_only(row), self.leaning(row));
        let record = records::record(&self.session.catalogue, &row, access, contents, registration, leaning).await?;
        let answers = lacking.iter().map(|steward| {
            let record = record.clone();
            async move {
                let asked = self.session.overlay.register_group(*steward, record);
                (*steward, tokio::time::timeout(ANSWER, asked).await)
            }
        });
        for (steward, answer) in join_all(answers).await {
            let there = match answer {
                Ok(Ok(())) => true,
                Ok(Err(StewardError::Refused(Refusal::Old))) => self.is_there(steward, access, registration).await,
                Ok(Err(StewardError::Refused(why))) => {
                    tracing::info!(peer = %steward.short(), ?why, "a peer does not watch a group");
                    if why != Refusal::Busy {
                        registration.refuse(steward);
                    }
                    false
                }
                Ok(Err(StewardError::Transfer(TransferError::ShuttingDown))) => return Ok(()),
                Ok(Err(StewardError::Transfer(_))) | Err(_) => {
                    tracing::debug!(peer = %steward.short(), "a steward did not answer");
                    self.miss(row.number, steward);
                    continue;
                }
            };
            self.heard.store(true, Ordering::Relaxed);
            if let Some(one) = registration.stewards.iter_mut().find(|one| one.steward == steward) {
                one.silent_since = Timestamp(0);
                if there {
                    (one.sheets, one.at) = (registration.sheets, self.now);
                }
            }
        }
        if fresh {
            let put_in = self.put_in(row.number, access, registration).await;
            let told = put_in.iter().map(|steward| {
                let asked = self.session.overlay.register_group(*steward, record.clone());
                tokio::time::timeout(ANSWER, asked)
            });
            // Nothing hangs on it: the others tell them too, and the next mandate names them.
            for (steward, answer) in put_in.iter().zip(join_all(told).await) {
                tracing::debug!(peer = %steward.short(), there = matches!(answer, Ok(Ok(()))), "a steward that others put in");
            }
        }
        Ok(())
    }

    /// Whether a steward that says that it has something as new has this very mandate and these sheets: a run was killed before it
    /// noted that. If it has a newer mandate, the next one is above it.
    async fn is_there(&self, steward: PeerKey, access: &Arc<GroupAccess>, registration: &mut Registration) -> bool {
        let asked = self.session.overlay.group_map(steward, access.clone());
        let Ok(Ok(map)) = tokio::time::timeout(ANSWER, asked).await else { return false };
        let same = map.mandate == registration.mandate && map.sheets.iter().all(|at| *at >= registration.sheets);
        let Some(history) = learn::check(map, access.ticket).await else { return false };
        let ours = Mandate::open(&registration.mandate).map_or(0, |mandate| mandate.generation);
        if !same && history.mandate.generation >= ours {
            registration.floor = registration.floor.max(history.mandate.generation);
        }
        same
    }

    pub(super) fn missed(&self) -> MutexGuard<'_, Missed> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn miss(&self, group: u32, steward: PeerKey) {
        let mut missed = self.missed();
        missed.more.push((group, steward));
        missed.deaf.insert(steward);
        missed.end = missed.end.min(Instant::now() + PATIENCE);
    }

    /// Notes since when stewards are silent, unless all were.
    pub(super) fn note_silence(&self) -> Result<(), CatalogueError> {
        if !self.heard.load(Ordering::Relaxed) {
            return Ok(());
        }
        let missed = std::mem::take(&mut self.missed().more);
        for (group, steward) in missed {
            let Some(mut known) = self.session.catalogue.registration(group)? else { continue };
            let one = known.stewards.iter_mut().find(|one| one.steward == steward);
            if let Some(one) = one.filter(|one| one.silent_since == Timestamp(0)) {
                one.silent_since = self.now;
                self.session.catalogue.set_registration(group, &known)?;
            }
        }
        Ok(())
    }
}
