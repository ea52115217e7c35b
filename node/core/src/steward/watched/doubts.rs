//! What a new holder's word says of others, and what it says was spent.

use std::collections::BTreeMap;

use cairn_proto::{Action, PeerKey, SHARD_SIZE, Timestamp, order::OrderId};

use super::{
    super::{message::Failure, suspects::Accused},
    Watched,
    orders::KEEPS_MS,
};
use crate::blind::{RUNS_OF_ORDER, RUNS_OF_STRIPE, STRIPES_AT_ONCE};

/// Searches for a liar that one new holder has in a month: whom it names helps last from then on, so an honest one has few, and one that
/// lies uses up no more of a month than these.
const SEARCHES_EACH: usize = 4;

/// The month that began then, the bytes ordered in it, for whom of the stewards we signed how many of them, and whose searches for a liar are
/// among them, by order. Those are forgotten by a restart: who says one again then is charged again.
#[derive(Clone, Debug)]
pub(super) struct Spent {
    pub(super) began: Timestamp,
    pub(super) bytes: u64,
    pub(super) by: BTreeMap<PeerKey, u64>,
    searched: BTreeMap<OrderId, PeerKey>,
}

impl Spent {
    /// Nothing.
    pub(super) const fn new(began: Timestamp) -> Self {
        Self { began, bytes: 0, by: BTreeMap::new(), searched: BTreeMap::new() }
    }
}

impl Watched {
    /// What a new holder's word says of the helpers of its rebuild, also of one that it carried out: then it names whom it had to leave out.
    pub(in super::super) fn accused(&self, from: &PeerKey, order: &OrderId, why: Failure) -> Option<Accused> {
        let (action, done) = self.rebuilt_by(from, order)?;
        let Action::Rebuild { slot, helpers, .. } = action else { return None };
        match why {
            Failure::Wrong(Some(peer)) => {
                helpers.iter().any(|(_, helper)| *helper == peer).then_some(Accused::One(peer))
            }
            Failure::Wrong(None) if !done => Some(Accused::Among(*slot, helpers.clone())),
            _ => None,
        }
    }

    /// The order that this peer was given, and whether it carried it out.
    fn rebuilt_by(&self, from: &PeerKey, order: &OrderId) -> Option<(&Action, bool)> {
        let done = self.entries.get(order).map(|entry| &entry.certificate);
        let (certificate, done) = match self.find_order(order) {
            Some((_, given, _)) => (&given.certificate, false),
            None => (done?, true),
        };
        (certificate.order.action.to().as_ref() == Some(from)).then_some((&certificate.order.action, done))
    }

    /// A rebuild came out wrong, by its new holder's word: the month is charged with the runs that look for who did that, as many as there
    /// may be, since how many there were nobody else knows. Of an order that fails, what it moved until then is charged too, beside what
    /// [`Watched::failed`] takes off for it. Once for each order; whether it was now.
    pub(in super::super) fn charge_search(
        &mut self,
        from: &PeerKey,
        order: &OrderId,
        why: Failure,
        now: Timestamp,
    ) -> bool {
        let of_ours = self.rebuilt_by(from, order).filter(|_| matches!(why, Failure::Wrong(_)));
        let Some((action @ Action::Rebuild { helpers, .. }, done)) = of_ours else { return false };
        let chain = self.chain_of(action);
        let stripes = action.ordinals().len();
        // Nobody can be left out where all are needed.
        let runs = if helpers.len() > chain { RUNS_OF_ORDER.min(stripes * usize::from(RUNS_OF_STRIPE)) } else { 0 };
        let first = if done { 0 } else { stripes.min(STRIPES_AT_ONCE) };
        let bytes = ((runs + first) * chain * SHARD_SIZE) as u64;
        // Of one that was done long ago nothing new is said.
        let lately = |entry: &super::Entry| now.ms_since(entry.certificate.order.issued) < KEEPS_MS;
        let told = self.spent.searched.contains_key(order) || !self.entries.get(order).is_none_or(lately);
        if told || self.spent.searched.values().filter(|other| *other == from).count() >= SEARCHES_EACH {
            return false;
        }
        self.spent.bytes = self.spent.bytes.saturating_add(bytes);
        self.spent.searched.insert(*order, *from);
        true
    }

    /// Bytes of this month.
    #[cfg(test)]
    pub(in super::super) const fn spent_bytes(&self) -> u64 {
        self.spent.bytes
    }
}
