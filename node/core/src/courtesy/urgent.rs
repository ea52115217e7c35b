//! How much of what stewards call urgent goes before other work: a quorum's word is enough for a while, and not for ever.
//!
//! Whoever makes up a group of its own has a quorum of its own, so what one group, and all of them, may have is bounded. What is beyond
//! is not refused: it goes on as background work.
//!
//! # Invariants
//!
//! - In no span of time do urgent orders of a group, or of all groups, move more first than their rate times the span, and their burst.
//!   Enforced by the buckets of [`crate::budget`]; attacked by `tests::no_day_has_more_than_its_share`. Also over crashes: no more than
//!   [`AHEAD`] goes first beyond what is on disk, and whoever starts again takes all of that for gone; attacked by
//!   `tests::a_crash_loop_gets_no_more_than_anybody`.
//!
//! Layout, local: version u8 = 1 · level · at (all) · level · at (what crashes may have cost) · count · each group's: group 32 · level · at, numbers
//! in minimal LEB128, ascending.

use std::collections::BTreeMap;

use cairn_proto::{
    DecodeError, GroupId, SHARD_SIZE, Timestamp,
    layout::{Reader, at_most, put_number},
    wire::Priority,
};

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

/// Bytes that may go first beyond what is on disk: half a second of a gigabit line, while it is written each second. Each restart costs as
/// much.
pub const AHEAD: u64 = 64 * SHARD;
/// Most bytes of what is kept.
pub const ENCODED_MAX: usize = 64 + GROUPS_MAX * 52;

const WHAT: &str = "urgent bytes";
const VERSION: u8 = 1;

/// What is left for urgent orders.
#[derive(Clone, Debug)]
pub struct Urgent {
    all: Bucket,
    /// What may have gone first of any group just before a crash.
    lost: Bucket,
    /// Bytes that went first and are not on disk; none where nothing is kept.
    unsaved: Option<u64>,
    groups: BTreeMap<GroupId, Bucket>,
}

impl Urgent {
    /// All of it.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let (all, lost) = (Bucket::full(rate(OF_ALL), now), Bucket::full(rate(OF_GROUP), now));
        Self { all, lost, unsaved: None, groups: BTreeMap::new() }
    }

    /// All of it, and it will be kept from now on: nothing goes first before [`Urgent::saved`] says that it can be.
    #[must_use]
    pub fn kept(now: Timestamp) -> Self {
        Self { unsaved: Some(AHEAD), ..Self::new(now) }
    }

    /// Nothing of it, as after a day's worth: what was kept cannot be read.
    #[must_use]
    pub fn spent(now: Timestamp) -> Self {
        let mut spent = Self::kept(now);
        spent.all.take(now, OF_ALL);
        spent.lost.take(now, OF_GROUP);
        spent
    }

    /// Goes on from what [`Urgent::to_save`] gave. What may have gone first after that counts as gone, of all groups and of each.
    ///
    /// # Errors
    /// Bytes that it never gave.
    pub fn decode(bytes: &[u8], now: Timestamp) -> Result<Self, DecodeError> {
        at_most(WHAT, ENCODED_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        r.version(VERSION)?;
        let bucket = |r: &mut Reader<'_>, burst| Ok(Bucket::kept(rate(burst), r.u64()?, Timestamp(r.u64()?), now));
        let mut read = Self::kept(now);
        read.all = bucket(&mut r, OF_ALL)?;
        read.lost = bucket(&mut r, OF_GROUP)?;
        for _ in 0..r.count(GROUPS_MAX, 34)? {
            let group = GroupId::from_bytes(r.array()?);
            if read.groups.last_key_value().is_some_and(|(last, _)| *last >= group) {
                return Err(r.invalid("groups out of order"));
            }
            let its = bucket(&mut r, OF_GROUP)?;
            read.groups.insert(group, its);
        }
        r.finish()?;
        read.all.take(now, AHEAD);
        read.lost.take(now, AHEAD);
        Ok(read)
    }

    /// What is to be kept, and how many bytes of it are new; none where nothing is.
    #[must_use]
    pub fn to_save(&self, now: Timestamp) -> Option<(Vec<u8>, u64)> {
        let unsaved = self.unsaved.filter(|unsaved| *unsaved > 0)?;
        let mut out = vec![VERSION];
        let put = |out: &mut Vec<u8>, bucket: &Bucket| {
            let (level, at) = bucket.keeping();
            put_number(out, level);
            put_number(out, at.0);
        };
        put(&mut out, &self.all);
        put(&mut out, &self.lost);
        let groups: Vec<_> = self.groups.iter().filter(|(_, bucket)| bucket.full_in(now) > WaitMs(0)).collect();
        put_number(&mut out, groups.len() as u64);
        for (group, bucket) in groups {
            out.extend_from_slice(group.as_bytes());
            put(&mut out, bucket);
        }
        Some((out, unsaved))
    }

    /// So many of them are on disk, as [`Urgent::to_save`] gave them.
    pub fn saved(&mut self, bytes: u64) {
        self.unsaved = self.unsaved.map(|unsaved| unsaved.saturating_sub(bytes));
    }

    /// How so many bytes go that an urgent order of this group moves; they are counted if they go first.
    pub fn class(&mut self, group: GroupId, bytes: u64, now: Timestamp) -> Priority {
        let mut of_group = self.groups.get(&group).copied().unwrap_or_else(|| Bucket::full(rate(OF_GROUP), now));
        let waits = |bucket: &Bucket| bucket.wait(now, Priority::Critical, bytes).is_some();
        // As if each group were the one that crashes took for.
        let left = OF_GROUP.saturating_sub(of_group.taken(now)).saturating_sub(self.lost.taken(now));
        let unsaved = self.unsaved.is_some_and(|unsaved| unsaved.saturating_add(bytes) > AHEAD);
        if unsaved || left < bytes || waits(&self.all) || waits(&of_group) || !self.has_room(&group, now) {
            return Priority::Low;
        }
        self.all.take(now, bytes);
        of_group.take(now, bytes);
        self.unsaved = self.unsaved.map(|unsaved| unsaved.saturating_add(bytes));
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

    fn restarted(urgent: &Urgent, now: Timestamp) -> Urgent {
        let (bytes, new) = urgent.to_save(now).expect("something is new");
        assert!(bytes.len() <= ENCODED_MAX);
        let mut again = Urgent::decode(&bytes, now).expect("its own");
        assert_eq!(again.class(group(1), SHARD, now), Priority::Low, "not before that is on disk");
        let (_, reserve) = again.to_save(now).expect("the charge");
        again.saved(reserve);
        assert!(new > 0);
        again
    }

    /// What is written last before each crash is all that is known; whatever went after it was counted before.
    #[test]
    fn a_crash_loop_gets_no_more_than_anybody() {
        let mut urgent = Urgent::kept(NOW);
        assert_eq!(urgent.class(group(1), SHARD, NOW), Priority::Low, "nothing goes first before it can be kept");
        urgent.saved(AHEAD);
        let (mut all, mut of_one, mut lives) = (0, 0, 0);
        while lives < 400 {
            // On disk as it begins; then as much as goes, of one group and of others, and it dies.
            let first = Urgent { unsaved: Some(1), ..urgent.clone() };
            for number in 1..4 {
                while urgent.class(group(number), SHARD, NOW) == Priority::Critical {
                    all += SHARD;
                    of_one += if number == 1 { SHARD } else { 0 };
                }
            }
            urgent = restarted(&first, NOW);
            lives += 1;
        }
        assert!(all <= OF_ALL && of_one <= OF_GROUP && of_one > 0, "{all} {of_one}");
        // Who is saved as it goes has all of it, less what each restart costs.
        let mut urgent = Urgent::kept(NOW);
        let mut of_one = 0;
        loop {
            let (_, new) = urgent.to_save(NOW).unwrap_or((Vec::new(), 0));
            urgent.saved(new);
            if urgent.class(group(1), SHARD, NOW) == Priority::Low {
                break;
            }
            of_one += SHARD;
            if of_one == OF_GROUP / 2 {
                urgent = restarted(&urgent, NOW);
            }
        }
        assert_eq!(of_one, OF_GROUP - AHEAD);
        // A day later it is as it was; a clock that went back gives nothing, and waits for nothing.
        let later = NOW.plus_ms(25 * HOUR);
        assert_eq!(urgent.class(group(1), SHARD, later), Priority::Critical);
        let mut back = restarted(&urgent, NOW);
        assert_eq!(back.class(group(1), SHARD, NOW.plus_ms(25 * HOUR)), Priority::Critical);
    }

    #[test]
    fn what_was_not_kept_so_is_refused() {
        let mut urgent = Urgent::kept(NOW);
        urgent.saved(AHEAD);
        assert!((1..9).all(|number| urgent.class(group(number), SHARD, NOW) == Priority::Critical));
        let (bytes, _) = urgent.to_save(NOW).expect("news");
        for length in 0..bytes.len() {
            assert!(Urgent::decode(&bytes[..length], NOW).is_err(), "{length}");
        }
        assert!(Urgent::decode(&[&bytes[..], &[0]].concat(), NOW).is_err());
        let mut spent = Urgent::spent(NOW);
        spent.saved(AHEAD);
        assert_eq!(spent.class(group(1), SHARD, NOW), Priority::Low);
        assert_eq!(spent.class(group(1), SHARD, NOW.plus_ms(2 * HOUR)), Priority::Critical);
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
