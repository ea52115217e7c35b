//! How much of what stewards call urgent goes before other work: a quorum's word is enough for a while, and not for ever.
//!
//! Whoever makes up a group of its own has a quorum of its own, so what one group, and all of them, may have is bounded. What is beyond
//! is not refused: it goes on as background work.
//!
//! # Invariants
//!
//! - In no span of time do urgent orders of a group, or of all groups, move more first than their rate times the span, and their burst.
//!   Enforced by the buckets of [`crate::budget`]; attacked by `tests::no_day_has_more_than_its_share`.

use std::collections::BTreeMap;

use cairn_proto::{GroupId, SHARD_SIZE, Timestamp, wire::Priority};

use crate::budget::{Rate, WaitMs, bucket::Bucket};

const SHARD: u64 = SHARD_SIZE as u64;
const DAY_S: u64 = 24 * 3600;
/// Of one group at once, and again within a day: three whole slots of 256 stripes, which is all that a code like RS(5,3) can lose, and what
/// a helper then sends.
pub const OF_GROUP: u64 = 3 * 256 * SHARD;
/// Of all groups, in the same way: sixteen such groups, or hundreds of usual ones.
pub const OF_ALL: u64 = 16 * OF_GROUP;
/// Groups whose buckets are not full: more than [`OF_ALL`] lets through in a day at eight stripes an order.
pub const GROUPS_MAX: usize = 2048;

/// What is left for urgent orders.
#[derive(Clone, Debug)]
pub struct Urgent {
    all: Bucket,
    groups: BTreeMap<GroupId, Bucket>,
}

impl Urgent {
    /// All of it.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { all: Bucket::full(rate(OF_ALL), now), groups: BTreeMap::new() }
    }

    /// How so many bytes go that an urgent order of this group moves; they are counted if they go first.
    pub fn class(&mut self, group: GroupId, bytes: u64, now: Timestamp) -> Priority {
        let mut of_group = self.groups.get(&group).copied().unwrap_or_else(|| Bucket::full(rate(OF_GROUP), now));
        let waits = |bucket: &Bucket| bucket.wait(now, Priority::Critical, bytes).is_some();
        if waits(&self.all) || waits(&of_group) || !self.has_room(&group, now) {
            return Priority::Low;
        }
        self.all.take(now, bytes);
        of_group.take(now, bytes);
        self.groups.insert(group, of_group);
        Priority::Critical
    }

    /// A full bucket is as good as none.
    fn has_room(&mut self, group: &GroupId, now: Timestamp) -> bool {
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(group) {
            self.groups.retain(|_, bucket| bucket.full_in(now) > WaitMs(0));
        }
        self.groups.len() < GROUPS_MAX || self.groups.contains_key(group)
    }
}

fn rate(burst: u64) -> Rate {
    Rate::new(burst / DAY_S, burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const HOUR: u64 = 3_600_000;

    fn group(number: u32) -> GroupId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        GroupId::from_bytes(id)
    }

    /// Shards of these groups that go first when everybody asks for as much as it can for three days.
    fn first(groups: u32) -> (u64, u64) {
        let mut urgent = Urgent::new(NOW);
        let (mut all, mut of_one) = (0, 0);
        for hour in 0..72 {
            for number in 0..groups {
                while urgent.class(group(number), SHARD, NOW.plus_ms(hour * HOUR)) == Priority::Critical {
                    all += SHARD;
                    of_one += if number == 0 { SHARD } else { 0 };
                }
            }
        }
        (all, of_one)
    }

    #[test]
    fn no_day_has_more_than_its_share() {
        let (all, of_one) = first(1);
        assert_eq!(all, of_one);
        assert!((3 * OF_GROUP..=4 * OF_GROUP).contains(&all), "at once, and once a day after: {all}");
        let (all, of_one) = first(100);
        assert!(of_one <= 4 * OF_GROUP && all <= 4 * OF_ALL, "{of_one} {all}");
    }

    #[test]
    fn an_emergency_of_a_large_group_goes_first_whole_and_what_is_made_up_does_not() {
        let mut urgent = Urgent::new(NOW);
        assert!((0..3 * 256).all(|_| urgent.class(group(1), SHARD, NOW) == Priority::Critical));
        assert_eq!(urgent.class(group(1), SHARD, NOW), Priority::Low);
        assert_eq!(urgent.class(group(2), SHARD, NOW), Priority::Critical, "another's");
        // Groups by the thousand take no more memory than there is, nor anything from who is known.
        for number in 3..10_000 {
            urgent.class(group(number), SHARD, NOW);
        }
        assert_eq!(urgent.groups.len(), GROUPS_MAX);
        assert_eq!(urgent.class(group(2), SHARD, NOW), Priority::Critical);
        assert_eq!(urgent.class(group(9_999), SHARD, NOW), Priority::Low);
        // Days later they are full again, and forgotten.
        assert_eq!(urgent.class(group(9_999), SHARD, NOW.plus_ms(48 * HOUR)), Priority::Critical);
        assert_eq!(urgent.groups.len(), 1);
    }
}
