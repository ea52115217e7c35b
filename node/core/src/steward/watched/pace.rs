//! New holders that are there and do not get on with their orders: asked what they have so far, and given up when that does not grow.
//!
//! Who only waits, or does nothing on purpose, would keep a slot from all others for as long as an order stands. A slow line is not that: an
//! order has few stripes, and each shard that comes is progress.

use cairn_proto::{Ordinals, PeerKey, Slot, Timestamp, order::OrderId};

use super::{
    super::{Rhythm, subject_of},
    Subject, UnderWay, Watched,
};
use crate::liveness::Watch;

/// In an emergency a shard is to come within three halves of a turn, a quarter of an hour: at 28 kbit/s, two at a time, the first two take
/// ten minutes.
const IDLE_URGENT_HALVES: u64 = 3;
/// ... and each takes half a turn at most in the end, five minutes, which is what an honest new holder gives itself; a turn more for what it
/// had to finish before.
const SHARD_TURNS: u64 = 2;
/// Otherwise a shard is to come within this part of the time that an order stands, two hours: it may have others to carry out first.
const IDLE_PART: u64 = 3;
/// Whatever the rhythm of a trial: disks, lines and checks of signatures have their own.
const IDLE_LEAST_MS: u64 = 180_000;
/// ... for each shard of an order.
const SHARD_LEAST_MS: u64 = 60_000;
/// Shards that an order counts for at least.
const SHARDS_LEAST: u64 = 2;

/// How an order gets on. Not kept across a restart: who starts again gives everybody as much time again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Shards of it that its new holder had when it was asked, and since when so many.
    shards: usize,
    since: Timestamp,
    /// When it was asked last.
    asked: Timestamp,
}

impl Pace {
    /// Nothing was heard of it.
    pub(super) const NEW: Self = Self { shards: 0, since: Timestamp(0), asked: Timestamp(0) };

    pub(super) fn clamp(&mut self, now: Timestamp) {
        (self.since, self.asked) = (self.since.min(now), self.asked.min(now));
    }
}

impl Watched {
    /// New holders that are to be asked how far they are.
    pub(in super::super) fn newcomers_to_ask(&self, now: Timestamp, rhythm: &Rhythm) -> Vec<(Slot, PeerKey)> {
        let due = |given: &&UnderWay| {
            now.ms_since(given.pace.asked.max(given.certificate.order.issued)) >= rhythm.turn_ms / 2
        };
        let under_way = self.under_way.values().filter(due);
        under_way
            .filter_map(|given| given.certificate.order.action.slot().zip(given.certificate.order.action.to()))
            .collect()
    }

    fn given_to(&mut self, slot: Slot, holder: &PeerKey) -> Option<&mut UnderWay> {
        let given = self.under_way.get_mut(&Subject::Slot(slot.as_u8()))?;
        (given.certificate.order.action.to() == Some(*holder)).then_some(given)
    }

    /// A new holder is being asked, whether it answers or not.
    pub(in super::super) fn asked_newcomer(&mut self, slot: Slot, holder: &PeerKey, now: Timestamp) {
        if let Some(given) = self.given_to(slot, holder) {
            given.pace.asked = now;
        }
    }

    /// What it has of the slot.
    pub(in super::super) fn gets_on(&mut self, slot: Slot, holder: &PeerKey, has: &Ordinals, now: Timestamp) {
        if let Some(given) = self.given_to(slot, holder) {
            let shards = has.and(&given.certificate.order.action.ordinals()).len();
            if shards > given.pace.shards {
                (given.pace.shards, given.pace.since) = (shards, now);
            }
        }
    }

    /// Whether an order has stood still, or stood, for longer than any line needs; `times` as long.
    fn is_stalled(&self, given: &UnderWay, times: u64, now: Timestamp, rhythm: &Rhythm) -> bool {
        let order = &given.certificate.order;
        let began = order.issued.max(self.since);
        let idle = now.ms_since(given.pace.since.max(began));
        let shards = (order.action.ordinals().len() as u64).max(SHARDS_LEAST);
        let (most_idle, most) = if self.alarm(now) {
            (rhythm.turn_ms * IDLE_URGENT_HALVES / 2, rhythm.turn_ms + shards * (rhythm.turn_ms / SHARD_TURNS))
        } else {
            (rhythm.order_ms / IDLE_PART, rhythm.order_ms)
        };
        let (most_idle, most) = (most_idle.max(IDLE_LEAST_MS), most.max(IDLE_LEAST_MS + shards * SHARD_LEAST_MS));
        idle > times * most_idle || now.ms_since(began) > times * most
    }

    /// Orders whose new holder is there and does not get on: what their proposer gives up, or whoever comes after it; any other when it
    /// goes on for twice as long.
    pub(in super::super) fn stalled(
        &self,
        me: &PeerKey,
        watch: &Watch,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Vec<OrderId> {
        let over = |subject: &Subject, given: &UnderWay| {
            let ours = given.by == *me || self.is_heir(me, &given.by, subject, watch, now);
            self.is_stalled(given, if ours { 1 } else { 2 }, now, rhythm)
        };
        let over = self.under_way.iter().filter(|(subject, given)| over(subject, given));
        over.filter_map(|(_, given)| given.certificate.order.id().ok()).collect()
    }

    /// Whether we see it too that an order does not get on, when another steward says so.
    pub(super) fn seems_stalled(&self, given: &UnderWay, now: Timestamp, rhythm: &Rhythm) -> bool {
        debug_assert!(self.under_way.contains_key(&subject_of(&given.certificate.order.action)));
        self.is_stalled(given, 1, now, rhythm)
    }
}
