//! How the last repairs went, phase by phase: for whoever wants to know where the time goes. Not kept across a restart.

use cairn_proto::{Certificate, PeerKey, Slot, Timestamp, order::OrderId};

use super::{
    super::{message::Failure, subject_of},
    Watched,
};
use crate::liveness::{Presence, Watch};

/// Orders of a group that are remembered: more than an emergency has under way or done between two looks of whoever watches.
pub(super) const PHASES_MAX: usize = 64;

/// One order, and when this steward saw it come how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairPhases {
    /// Which order.
    pub order: OrderId,
    /// The slot.
    pub slot: Slot,
    /// The new holder.
    pub to: PeerKey,
    /// Whether from other slots.
    pub rebuild: bool,
    /// How many shards.
    pub shards: u16,
    /// The last sign of life of those who have the slot; none where somebody is here.
    pub silent: Option<Timestamp>,
    /// Since when this steward wanted it, or as much of it as the order before left; none where it did not.
    pub wanted: Option<Timestamp>,
    /// When it was proposed, by its proposer's clock.
    pub proposed: Timestamp,
    /// When a quorum had signed it, as this steward learned.
    pub ordered: Timestamp,
    /// When it was over, and how.
    pub ended: Option<(Timestamp, OrderEnd)>,
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderEnd {
    /// Its new holder has what it took.
    Done,
    /// Nothing; `None`: nothing was heard until it was over.
    Nothing(Option<Failure>),
}

impl Watched {
    /// An order is under way.
    pub(super) fn phase_begins(&mut self, order: OrderId, certificate: &Certificate, rebuild: bool, now: Timestamp) {
        let action = &certificate.order.action;
        let (Some(slot), Some(to)) = (action.slot(), action.to()) else { return };
        let wanted = self.patience.get(&self.wanted_as(subject_of(action))).map(|patience| patience.since);
        let (shards, proposed) = (action.ordinals().len() as u16, certificate.order.issued);
        if self.phases.len() == PHASES_MAX {
            self.phases.pop_front();
        }
        let (silent, ordered, ended) = (None, now, None);
        self.phases.push_back(RepairPhases {
            order,
            slot,
            to,
            rebuild,
            shards,
            silent,
            wanted,
            proposed,
            ordered,
            ended,
        });
    }

    /// The last order's slot was silent since then, unless somebody who has all of it is here.
    pub(in super::super) fn phase_silent(&mut self, watch: &Watch, now: Timestamp) {
        let Some(slot) = self.phases.back().map(|phases| phases.slot) else { return };
        let beliefs = self.whole_holders(slot).into_iter().map(|peer| watch.belief(&peer, now));
        let last = beliefs.min_by_key(|belief| belief.silent_ms).filter(|belief| belief.presence > Presence::Here);
        if let Some(phases) = self.phases.back_mut() {
            phases.silent = last.map(|belief| Timestamp(now.0.saturating_sub(belief.silent_ms)));
        }
    }

    /// It is over. A new holder's word comes after that of whoever gave it up.
    pub(super) fn phase_ends(&mut self, order: &OrderId, came: OrderEnd, now: Timestamp) {
        if let Some(phases) = self.phases.iter_mut().rev().find(|phases| phases.order == *order) {
            phases.ended = Some((now, came));
        }
    }
}
