//! What newcomers were given within a day by the groups that this steward watches, and how much more of each it signs for.
//!
//! An owner holds newcomers to a quota of the day ([`crate::placement::vetting`]), and so does a steward: it counts all that it signed
//! for or saw ordered, of all its groups, whoever proposed it. An order takes a quorum and each of it signs by its own count, so that S
//! stewards, q of whom it takes, give one newcomer S / q quotas a day at most, however many groups they watch.
//!
//! The newcomer itself is not asked to keep to it: one that is honest is bounded by its room and its line anyhow, and one that is not
//! would not.
//!
//! What was ordered is counted again from the groups' own states after a crash ([`Vetting::resume`]). Forgotten by it is what was signed
//! and did not become an order yet, which binds for two votes' time, and orders that came to nothing; so who crashes again and again
//! signs for more only by what nobody made an order of.
//!
//! - **SEP-4** in part: where a group can stand without newcomers, a newcomer that has its quota of the day is given nothing more, unless
//!   the group is critical and nobody else is there. Enforced by `plan::repair_without` and `vote::check`; attacked by `tests::vetting`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{GroupId, Order, PeerKey, Slot, Timestamp, order::OrderId};

use super::{Steward, watched::Watched};
use crate::{
    peer_view::{PeerView, PerMille},
    placement::vetting::shards_a_day,
    reputation::QUOTA_FIRST,
};

/// Orders of a day that are counted, 2 MB: with eight shards each more than all newcomers of a large network may have in it. Beyond, no newcomer
/// is given anything where the quota binds.
const ORDERS_MAX: usize = 16_384;
/// Signatures for what is no order yet: one for each slot at a time, of as many as are voted on at once after the loss of a large peer.
const SIGNED_MAX: usize = 4096;

/// What we signed for and is no order yet.
#[derive(Clone, Copy, Debug)]
struct Signed {
    order: OrderId,
    to: PeerKey,
    shards: u32,
    until: Timestamp,
}

/// What newcomers were given.
#[derive(Clone, Debug)]
pub(super) struct Vetting {
    day_ms: u64,
    ordered: BTreeMap<PeerKey, BTreeMap<OrderId, (Timestamp, u32)>>,
    count: usize,
    signed: BTreeMap<(GroupId, Slot), Signed>,
    quotas: BTreeMap<PeerKey, PerMille>,
}

impl Vetting {
    pub(super) fn new(day_ms: u64) -> Self {
        let (ordered, signed, quotas) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { day_ms, ordered, count: 0, signed, quotas }
    }

    /// We sign an order; it counts until then, or for a day once it is one. In the place of what we signed for that slot before.
    pub(super) fn sign(&mut self, order: &Order, name: OrderId, until: Timestamp, now: Timestamp) {
        let Some((to, slot, shards)) = parts(order) else { return };
        if self.signed.len() >= SIGNED_MAX {
            self.signed.retain(|_, signed| signed.until > now);
        }
        if self.signed.len() < SIGNED_MAX || self.signed.contains_key(&(order.group, slot)) {
            self.signed.insert((order.group, slot), Signed { order: name, to, shards, until });
        }
    }

    /// It is an order since then.
    pub(super) fn ordered(&mut self, order: &Order, at: Timestamp, now: Timestamp) {
        let (Some((to, slot, shards)), Ok(name)) = (parts(order), order.id()) else { return };
        let key = (order.group, slot);
        if self.signed.get(&key).is_some_and(|signed| signed.order == name) {
            self.signed.remove(&key);
        }
        let at = at.min(now);
        if now.ms_since(at) >= self.day_ms || self.count >= ORDERS_MAX {
            return;
        }
        let orders = self.ordered.entry(to).or_default();
        self.count += usize::from(orders.insert(name, (at, shards)).is_none());
    }

    /// Counts what a group's state tells of, after a start.
    pub(super) fn resume(&mut self, group: &Watched, now: Timestamp) {
        group.orders().for_each(|order| self.ordered(order, order.issued, now));
    }

    /// Lets go of what is a day old, and of peers that are newcomers no more.
    pub(super) fn settle(&mut self, peers: &[PeerView], now: Timestamp) {
        let aged: BTreeSet<&PeerKey> = peers.iter().filter(|view| !view.newcomer).map(|view| &view.peer).collect();
        let day_ms = self.day_ms;
        self.ordered.retain(|peer, orders| {
            orders.retain(|_, (at, _)| now.ms_since(*at) < day_ms);
            !orders.is_empty() && !aged.contains(peer)
        });
        self.count = self.ordered.values().map(BTreeMap::len).sum();
        self.signed.retain(|_, signed| signed.until > now);
    }

    /// After the clock went back: nothing counts for longer than a day from now.
    pub(super) fn clamp(&mut self, now: Timestamp) {
        self.ordered.values_mut().flat_map(BTreeMap::values_mut).for_each(|(at, _)| *at = (*at).min(now));
        self.signed.retain(|_, signed| signed.until.ms_since(now) < self.day_ms);
    }

    /// Shards that each newcomer may still be given now for a group; what is signed for that one itself is in the place of what it would
    /// be given.
    pub(super) fn rooms(&self, peers: &[PeerView], group: &GroupId, now: Timestamp) -> BTreeMap<PeerKey, u32> {
        let full = self.count >= ORDERS_MAX || self.signed.len() >= SIGNED_MAX;
        let mut given: BTreeMap<PeerKey, u32> = BTreeMap::new();
        let mut count = |peer: &PeerKey, shards: u32| {
            let all = given.entry(*peer).or_default();
            *all = all.saturating_add(shards);
        };
        for (peer, orders) in &self.ordered {
            let today = orders.values().filter(|(at, _)| now.ms_since(*at) < self.day_ms);
            today.for_each(|(_, shards)| count(peer, *shards));
        }
        let open = self.signed.iter().filter(|((of, _), signed)| of != group && signed.until > now);
        open.for_each(|(_, signed)| count(&signed.to, signed.shards));
        let room = |view: &PeerView| {
            let quota = self.quotas.get(&view.peer).copied().unwrap_or(QUOTA_FIRST);
            let had = given.get(&view.peer).copied().unwrap_or_default();
            if full { 0 } else { shards_a_day(view.give, quota).saturating_sub(had) }
        };
        peers.iter().filter(|view| view.newcomer).map(|view| (view.peer, room(view))).collect()
    }
}

/// Who gets how much of which slot.
fn parts(order: &Order) -> Option<(PeerKey, Slot, u32)> {
    let shards = u32::try_from(order.action.ordinals().len()).unwrap_or(u32::MAX);
    Some((order.action.to()?, order.action.slot()?, shards))
}

impl Steward {
    /// Whether a newcomer was given something within a day, as far as this steward knows: for others [`Steward::set_quotas`] hardly matters.
    #[must_use]
    pub fn has_given(&self, peer: &PeerKey) -> bool {
        self.vetting.ordered.contains_key(peer) || self.vetting.signed.values().any(|signed| signed.to == *peer)
    }

    /// By what share of what it offers a newcomer is held, in the place of what was said before; whom it does not name by
    /// [`QUOTA_FIRST`].
    pub fn set_quotas(&mut self, quotas: BTreeMap<PeerKey, PerMille>) {
        self.vetting.quotas = quotas;
    }
}
