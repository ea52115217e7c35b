//! What stewards did and who they are now, learned before the owner goes on.
//!
//! - **REP-1** Nobody is told to go by a new mandate before it was asked what it did under the old one, as long as that may be known.

use std::{sync::Arc, time::Duration};

use cairn_proto::{Mandate, PeerKey, Timestamp, manifest::GroupRow};

use super::{ANSWER, Run};
use crate::{
    overlay::GroupAccess,
    vault::{
        catalogue::{CatalogueError, watch::Registration},
        holdings::GONE_AFTER_MS,
        learn::Learned,
    },
};

/// How long stewards are asked before a group gets a new mandate.
const LEARNING: Duration = Duration::from_secs(20);

impl Run<'_> {
    /// What stewards know of a group that is to get a new mandate. `None` when that has to wait, as none of them answers and an older
    /// one may still hold: whoever has it would be told to go by the new one before it told what it did. It waits until the old one
    /// is over, or for [`GONE_AFTER_MS`], which is for how long the owner takes a peer for asleep.
    pub(super) async fn before(
        &self,
        number: u32,
        access: &Arc<GroupAccess>,
        known: &mut Option<Registration>,
    ) -> Result<Option<Arc<Learned>>, CatalogueError> {
        let since = known.as_ref().map_or(Timestamp(0), |known| known.put_off);
        let waited = since > Timestamp(0) && self.now.ms_since(since) >= GONE_AFTER_MS;
        let time = if waited { ANSWER } else { LEARNING };
        let learned = tokio::time::timeout(time, self.session.learner.learn(number, access)).await.ok();
        let mandate = known.as_ref().and_then(|known| Mandate::open(&known.mandate).ok());
        let over = mandate.is_some_and(|mandate| mandate.ends <= self.now);
        let silent = learned.as_ref().is_none_or(|learned| !learned.is_told() && learned.is_open());
        if waited || over || !silent {
            return Ok(Some(learned.unwrap_or_default()));
        }
        let known = known.get_or_insert_with(Registration::default);
        if since == Timestamp(0) {
            known.put_off = self.now;
            self.session.catalogue.set_registration(number, known)?;
        }
        tracing::info!(group = number, "no steward answers: a new mandate is put off");
        Ok(None)
    }

    /// Stewards that changed themselves while the owner was away stay as they are.
    pub(super) fn of_now(
        &self,
        row: &GroupRow,
        known: Option<&Registration>,
        learned: &Learned,
    ) -> Option<Vec<PeerKey>> {
        let newest = learned.newest.as_ref()?;
        let ours = known.and_then(|known| Mandate::open(&known.mandate).ok());
        if ours.is_some_and(|mandate| mandate.generation > newest.generation) {
            return None;
        }
        let silent = known.into_iter().flat_map(|known| &known.stewards).filter(|one| self.is_silent(one));
        let refused = known.into_iter().flat_map(|known| &known.refused);
        let not: Vec<PeerKey> = silent.map(|one| one.steward).chain(refused.copied()).collect();
        let kept: Vec<PeerKey> = newest.stewards.iter().filter(|peer| !not.contains(peer)).copied().collect();
        Some(self.session.groups.stewards(row, &kept, &not)).filter(|chosen| !chosen.is_empty())
    }

    /// Those who are stewards under this mandate and are not named in it: the others put them in. Asked for where one that is
    /// named has not confirmed; otherwise as far as it is known.
    pub(super) async fn put_in(
        &self,
        number: u32,
        access: &Arc<GroupAccess>,
        registration: &Registration,
    ) -> Vec<PeerKey> {
        let learner = &self.session.learner;
        let learned = if registration.confirmed() < registration.stewards.len() {
            tokio::time::timeout(ANSWER, learner.learn(number, access)).await.ok()
        } else {
            learner.at_hand(number)
        };
        let Some(newest) = learned.as_ref().and_then(|learned| learned.newest.as_ref()) else { return Vec::new() };
        let ours = Mandate::open(&registration.mandate).map_or(0, |mandate| mandate.generation);
        let named = |peer: &PeerKey| registration.stewards.iter().any(|one| one.steward == *peer);
        let new = newest.stewards.iter().filter(|peer| newest.generation == ours && !named(peer));
        new.filter(|peer| !self.missed().deaf.contains(peer)).copied().collect()
    }
}
