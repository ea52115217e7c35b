//! Who made a root wrong: first the fingerprints of what lies on the helpers' disks, then rebuilds that leave some out in turn.
//!
//! Both need more helpers in the order than the stripe has data shards, so a full stripe of an order with k helpers names nobody.
//! What they give is suspicion (TRUST-1): the stewards leave that peer out of the next order.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::{
    blind::{
        Blame, Fingerprint, Located, Run, SESSIONS_MAX, blame, exclusion_runs, invite::Asked, locate, separating_run,
        wire::Message,
    },
    erasure::Codec,
    steward::message::Failure,
};
use cairn_proto::{PeerKey, Slot};
use futures::future::join_all;

use super::{
    Shared, entropy,
    holder::{Job, Stop},
};

impl Shared {
    /// After a first attempt with these helpers came out wrong: names who did it, or brings the shard where nobody can be named.
    pub(super) async fn find_liar(&self, job: &Job<'_>, first: &[(Slot, PeerKey)]) -> Result<Bytes, Failure> {
        if let Some(slot) = self.by_fingerprints(job).await {
            return Err(Failure::Wrong(job.frame.helper(slot)));
        }
        self.by_exclusion(job, first).await
    }

    async fn by_fingerprints(&self, job: &Job<'_>) -> Option<Slot> {
        let used = usize::from(job.frame.used);
        // Fewer cannot tell: no holder is asked for a byte in vain.
        if job.frame.helpers.len() < used + 2 {
            return None;
        }
        let seed = entropy()?;
        let asked = job.frame.helpers.iter().map(|(slot, peer)| async move {
            match self.ask(job, *peer, Asked::Print { seed }).await {
                Some((_, Message::Print(print))) => Some((*slot, print)),
                _ => None,
            }
        });
        let prints: BTreeMap<Slot, Fingerprint> = join_all(asked).await.into_iter().flatten().collect();
        match locate(&Codec::new(job.frame.code), used, &prints) {
            Ok(Located::Wrong(slot)) => Some(slot),
            found => {
                tracing::debug!(?found, "fingerprints name nobody");
                None
            }
        }
    }

    async fn by_exclusion(&self, job: &Job<'_>, first: &[(Slot, PeerKey)]) -> Result<Bytes, Failure> {
        let survivors: Vec<Slot> = job.frame.helpers.iter().map(|(slot, _)| *slot).collect();
        let needed = usize::from(job.frame.used);
        let Ok(plan) = exclusion_runs(&survivors, needed) else { return Err(Failure::Wrong(None)) };
        let mut runs = vec![Run { helpers: first.iter().map(|(slot, _)| *slot).collect(), succeeded: false }];
        let mut shard = None;
        // The ledgers let no more in, here and at the helpers.
        let mut attempts = 1..SESSIONS_MAX as u16;
        for helpers in plan {
            if runs.iter().any(|run| run.helpers == helpers) {
                continue;
            }
            let Some(attempt) = attempts.next() else { break };
            shard = self.run(job, helpers, attempt, &mut runs).await;
            if shard.is_some() {
                break;
            }
        }
        if let (Blame::OneOf(suspects), Some(attempt)) = (blame(&runs), attempts.next())
            && let Some(helpers) = separating_run(&survivors, &suspects, needed)
        {
            shard = self.run(job, helpers, attempt, &mut runs).await.or(shard);
        }
        let suspects = match blame(&runs) {
            Blame::OneOf(suspects) => suspects,
            Blame::Nobody | Blame::NotOneHelper => Default::default(),
        };
        match (suspects.first(), shard) {
            (Some(only), _) if suspects.len() == 1 => Err(Failure::Wrong(job.frame.helper(*only))),
            (_, Some(shard)) => Ok(shard),
            (_, None) => Err(Failure::Wrong(None)),
        }
    }

    /// One run; one that broke off says nothing.
    async fn run(&self, job: &Job<'_>, helpers: Vec<Slot>, attempt: u16, runs: &mut Vec<Run>) -> Option<Bytes> {
        let chain: Vec<_> = helpers.iter().filter_map(|slot| Some((*slot, job.frame.helper(*slot)?))).collect();
        let shard = match self.attempt(job, &chain, attempt).await {
            Ok(shard) => Some(shard),
            Err(Stop::WrongRoot) => None,
            Err(Stop::Failed(failure)) => {
                tracing::info!(?failure, "an exclusion run broke off");
                return None;
            }
        };
        runs.push(Run { helpers, succeeded: shard.is_some() });
        shard
    }
}
