//! What is open on a stream: by a grant, under an order, for a steward that watches.

use std::collections::{HashMap, VecDeque};

use cairn_proto::{GroupId, GroupTicket, Ordinals, Rights, Slot, Timestamp, wire::OPEN_GROUPS_MAX};

use super::passes::Passed;

/// What a request wants of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Put,
    /// The shard of this ordinal.
    Get(u8),
    Has,
    Delete,
}

/// Whose leave a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// The owner's.
    Owner,
    /// A quorum's of the stewards.
    Stewards {
        /// Whether they say that it is an emergency.
        urgent: bool,
    },
}

#[derive(Clone, Copy)]
struct Ordered {
    slot: Slot,
    ordinals: Ordinals,
    until: Timestamp,
    urgent: bool,
}

/// One open group. An order's opening takes nothing from a grant's, nor the other way round: a peer may have both.
pub(super) struct Opened {
    ticket: GroupTicket,
    grant: Option<(Rights, Timestamp)>,
    /// The last order that was shown: there is one at a time for a slot.
    order: Option<Ordered>,
    watch: Option<Timestamp>,
}

impl Opened {
    pub(super) const fn by_grant(&mut self, rights: Rights, expires: Timestamp) {
        self.grant = Some((rights, expires));
    }

    pub(super) const fn by_pass(&mut self, passed: &Passed) {
        match passed {
            Passed::Order { slot, ordinals, until, urgent, .. } => {
                self.order = Some(Ordered { slot: *slot, ordinals: *ordinals, until: *until, urgent: *urgent });
            }
            Passed::Watch { until, .. } => self.watch = Some(*until),
        }
    }

    /// Whether it is, and then by whose leave.
    fn allows(&self, slot: Slot, wish: Wish, now: Timestamp) -> Option<Leave> {
        let right = match wish {
            Wish::Put => Rights::PUT,
            Wish::Get(_) | Wish::Has => Rights::GET,
            Wish::Delete => Rights::DELETE,
        };
        let granted = self.grant.is_some_and(|(rights, expires)| now < expires && rights.allows(right));
        let ordered = self.order.filter(|order| {
            let wanted = matches!(wish, Wish::Get(ordinal) if order.ordinals.contains(ordinal));
            wanted && now < order.until && order.slot == slot
        });
        let watched = wish == Wish::Has && self.watch.is_some_and(|until| now < until);
        match (granted, ordered) {
            (true, _) => Some(Leave::Owner),
            (false, Some(order)) => Some(Leave::Stewards { urgent: order.urgent }),
            (false, None) => watched.then_some(Leave::Stewards { urgent: false }),
        }
    }
}

/// A stream's open groups, at most [`OPEN_GROUPS_MAX`]; the one opened first is forgotten first.
#[derive(Default)]
pub(super) struct Groups {
    open: HashMap<GroupId, Opened>,
    order: VecDeque<GroupId>,
}

impl Groups {
    /// The group of a ticket that was found good, to be opened.
    pub(super) fn open(&mut self, ticket: GroupTicket) -> &mut Opened {
        let id = ticket.id();
        if !self.open.contains_key(&id) {
            self.order.push_back(id);
            if self.order.len() > OPEN_GROUPS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.open.remove(&oldest);
            }
        }
        self.open.entry(id).or_insert(Opened { ticket, grant: None, order: None, watch: None })
    }

    /// The ticket of an open group, when it is open for that, and by whose leave.
    pub(super) fn allows(
        &self,
        group: &GroupId,
        slot: Slot,
        wish: Wish,
        now: Timestamp,
    ) -> Option<(&GroupTicket, Leave)> {
        let opened = self.open.get(group)?;
        opened.allows(slot, wish, now).map(|leave| (&opened.ticket, leave))
    }
}
