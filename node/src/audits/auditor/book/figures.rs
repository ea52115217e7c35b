//! What audits found, for people: a row of `cairn status`, and what `cairn peers --explain` says is held against whom.

use cairn_proto::{GroupId, PeerKey, Slot, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Book, PARTS};

/// What a node audits, for people: a row of `cairn status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Holders that are audited.
    pub holders: usize,
    /// Shards that they are asked for.
    pub shards: usize,
    /// Right answers of the last day.
    pub good: u64,
    /// Challenges of the last day that were not answered.
    pub silent: u64,
    /// ... that were answered with "not here", wrongly, or kept silent about for a day.
    pub missing: u64,
}

/// Shards of a slot that a holder is sure to have had and did not show when it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Owing {
    /// Of this group ...
    pub group: GroupId,
    /// ... and slot.
    pub slot: Slot,
    /// How many.
    pub shards: usize,
    /// Of those, how many it signed for: to the owner that brought them, or under a repair.
    pub signed: usize,
    /// ... and how many it showed us before.
    pub shown: usize,
}

impl std::fmt::Display for Owing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, slot, shards, signed, shown } = self;
        let shards = if *shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") };
        write!(
            f,
            "did not show {shards} of slot {slot} of group {}: it signed for {signed}, and showed {shown} before",
            group.short()
        )
    }
}

impl Book {
    pub(in super::super) fn status(&self, now: Timestamp) -> AuditStatus {
        let part = now.0 / (self.spans.round_ms / PARTS).max(1);
        let day = self.day.iter().filter(|(at, _)| *at + PARTS > part);
        let sum = |what: usize| day.clone().map(|(_, counts)| counts[what]).sum();
        AuditStatus {
            holders: self.holders().len(),
            shards: self.holdings.values().map(|watching| watching.ordinals().len()).sum(),
            good: sum(0),
            silent: sum(1),
            missing: sum(2),
        }
    }

    /// What is held against a holder. What it never signed for or showed is not among it.
    pub(in super::super) fn owing(&self, holder: &PeerKey, now: Timestamp) -> Vec<Owing> {
        let of_holder = self.holdings.iter().filter(|((.., peer), _)| peer == holder);
        let owing = of_holder.map(|((group, slot, _), watching)| {
            let sure = |ordinal: &u8| watching.surely_had(*ordinal, now);
            let bound = |ordinal: &u8| watching.signed.get(ordinal).is_some_and(|until| now < *until);
            let missing: Vec<u8> = watching.missing.iter().filter(sure).collect();
            let signed = missing.iter().filter(|ordinal| bound(ordinal)).count();
            let shown = missing.iter().filter(|ordinal| watching.had.contains(**ordinal)).count();
            Owing { group: *group, slot: *slot, shards: missing.len(), signed, shown }
        });
        owing.filter(|owing| owing.shards > 0).collect()
    }
}
