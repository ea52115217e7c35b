//! What newcomers are given: they offer little, and what stewards order for them within a day is counted.
//!
//! - **SEP-4** in part: a group that is in no danger orders no more for a newcomer within a day than its quota, through crashes, cuts and
//!   lost messages: `tests::vetting`, by [`World::count_newcomer`].

use cairn_core::assess::GroupState;
use cairn_proto::{ByteSize, Order, SHARD_SIZE};

use super::World;
use crate::world::HOUR;

/// How long somebody is a newcomer, and over how long its quota goes.
pub(super) const NEW_MS: u64 = 24 * HOUR;

/// What a newcomer offers that may be given so many shards a day: a hundredth of it.
pub(super) fn offers(shards: u32) -> ByteSize {
    ByteSize(100 * u64::from(shards) * SHARD_SIZE as u64)
}

impl World<'_> {
    /// A new order, by the steward that gives it first.
    pub(super) fn count_newcomer(&mut self, at: usize, order: &Order) {
        let (Some(to), Some(quota)) = (order.action.to(), self.settings.quota) else { return };
        let (group, now) = (order.group, self.now);
        if now.ms_since(self.members[self.index[&to]].joined) >= NEW_MS {
            return;
        }
        let shards = order.action.ordinals().len() as u32;
        let given = self.watcher.newcomers.entry((group, to)).or_default();
        given.retain(|(at, _)| now.ms_since(*at) < NEW_MS);
        given.push((order.issued, shards));
        let all: u32 = given.iter().map(|(_, shards)| shards).sum();
        let state = self.members[at].steward.report(&group, now).map(|report| report.assessment.state);
        let critical = state.is_some_and(|state| state >= GroupState::Critical);
        self.report.to_newcomers += shards;
        if all > quota {
            let of = if critical { &mut self.report.over_quota_urgent } else { &mut self.report.over_quota };
            *of += 1;
        }
    }
}
