//! The orders of a new holder: which have a place, which are being told, which are done.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cairn_core::steward::Say;
use cairn_proto::{PeerKey, order::OrderId};
use tokio_util::sync::CancellationToken;

/// Orders that wait or are carried out; who comes then is told to come again. At a hundred KiB each this is little memory.
pub(super) const OPEN_MAX: usize = 32;
/// ... that one peer gave: a stranger who makes up groups of our colour leaves places to others. A steward who has more for us comes
/// again.
pub(super) const OPEN_EACH: usize = 4;
/// ... of groups of one authority; owners have another for each group, and a group has one order at a time for a slot.
pub(super) const OPEN_AUTHORITY: usize = 6;
/// Orders that were carried out and whose stewards do not all know it yet. The oldest is given up for one more: the stewards ask us
/// what we have anyway, and an order that was answered keeps no place from one that is not.
pub(super) const TELLING_MAX: usize = 64;
/// Orders that were carried out and are remembered, for stewards who give them again: a few a day for each of hundreds of groups.
const DONE_MAX: usize = 1024;

/// All of them.
#[derive(Default)]
pub(super) struct Book(Mutex<Orders>);

#[derive(Default)]
struct Orders {
    /// Waiting or carried out now.
    open: BTreeMap<OrderId, Open>,
    /// Carried out, and being told; oldest first. At most [`TELLING_MAX`].
    telling: VecDeque<(OrderId, CancellationToken)>,
    /// Carried out, with what was said; oldest first. At most [`DONE_MAX`].
    done: VecDeque<(OrderId, Say)>,
}

/// Whose an open order is, as far as it is known.
struct Open {
    /// Who gave it; unknown after a restart.
    giver: Option<PeerKey>,
    /// Of its group, once its signatures were checked.
    authority: Option<[u8; 32]>,
}

/// An order's place among the open ones, given back when dropped.
pub(super) struct Place {
    book: Arc<Book>,
    pub(super) order: OrderId,
}

/// What is known of an order.
pub(super) enum Known {
    No,
    /// It waits, is carried out or told.
    Open,
    /// It was carried out, and this was said.
    Done(Box<Say>),
}

impl Drop for Place {
    fn drop(&mut self) {
        self.book.lock().open.remove(&self.order);
    }
}

impl Place {
    /// Notes whose group it is; whether there are not too many of it.
    pub(super) fn is_of(&self, authority: &[u8; 32]) -> bool {
        let mut orders = self.book.lock();
        let its = orders.open.values().filter(|open| open.authority.as_ref() == Some(authority)).count();
        if let Some(open) = orders.open.get_mut(&self.order) {
            open.authority = Some(*authority);
        }
        its < OPEN_AUTHORITY
    }
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for an order, unless it has one or there is none.
    pub(super) fn enter(self: &Arc<Self>, order: OrderId, giver: Option<PeerKey>) -> Option<Place> {
        let mut orders = self.lock();
        let its = orders.open.values().filter(|open| giver.is_some() && open.giver == giver).count();
        if orders.open.len() >= OPEN_MAX || its >= OPEN_EACH || orders.open.contains_key(&order) {
            return None;
        }
        orders.open.insert(order, Open { giver, authority: None });
        Some(Place { book: Arc::clone(self), order })
    }

    pub(super) fn known(&self, order: &OrderId) -> Known {
        let orders = self.lock();
        if orders.open.contains_key(order) || orders.telling.iter().any(|(telling, _)| telling == order) {
            return Known::Open;
        }
        let done = orders.done.iter().find(|(done, _)| done == order);
        done.map_or(Known::No, |(_, say)| Known::Done(Box::new(say.clone())))
    }

    /// It was carried out and is being told, until `given_up` fires.
    pub(super) fn telling(&self, order: OrderId, say: Say, given_up: CancellationToken) {
        let mut orders = self.lock();
        if orders.done.len() == DONE_MAX {
            orders.done.pop_front();
        }
        orders.done.push_back((order, say));
        if orders.telling.len() == TELLING_MAX
            && let Some((_, oldest)) = orders.telling.pop_front()
        {
            oldest.cancel();
        }
        orders.telling.push_back((order, given_up));
    }

    pub(super) fn told(&self, order: &OrderId) {
        self.lock().telling.retain(|(telling, _)| telling != order);
    }
}
