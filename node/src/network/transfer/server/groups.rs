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

/// One open group. An order's opening takes nothing from a grant's, nor the other way round: a peer may have both.
pub(super) struct Opened {
    ticket: GroupTicket,
    grant: Option<(Rights, Timestamp)>,
    /// The last order that was shown: there is one at a time for a slot.
    order: Option<(Slot, Ordinals, Timestamp)>,
    watch: Option<Timestamp>,
}

impl Opened {
    pub(super) const fn by_grant(&mut self, rights: Rights, expires: Timestamp) {
        self.grant = Some((rights, expires));
    }

    pub(super) const fn by_pass(&mut self, passed: &Passed) {
        match passed {
            Passed::Order { slot, ordinals, until, .. } => self.order = Some((*slot, *ordinals, *until)),
            Passed::Watch { until, .. } => self.watch = Some(*until),
        }
    }

    /// Whether it is, and then whether by its owner's grant.
    fn allows(&self, slot: Slot, wish: Wish, now: Timestamp) -> Option<bool> {
        let right = match wish {
            Wish::Put => Rights::PUT,
            Wish::Get(_) | Wish::Has => Rights::GET,
            Wish::Delete => Rights::DELETE,
        };
        let granted = self.grant.is_some_and(|(rights, expires)| now < expires && rights.allows(right));
        let ordered = self.order.is_some_and(|(of, ordinals, until)| {
            now < until && of == slot && matches!(wish, Wish::Get(ordinal) if ordinals.contains(ordinal))
        });
        let watched = wish == Wish::Has && self.watch.is_some_and(|until| now < until);
        (granted || ordered || watched).then_some(granted)
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

    /// The ticket of an open group, when it is open for that, and whether it is by its owner's grant.
    pub(super) fn allows(
        &self,
        group: &GroupId,
        slot: Slot,
        wish: Wish,
        now: Timestamp,
    ) -> Option<(&GroupTicket, bool)> {
        let opened = self.open.get(group)?;
        opened.allows(slot, wish, now).map(|by_owner| (&opened.ticket, by_owner))
    }
}
