//! Bounded numbers of something: in all, and for each peer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cairn_proto::PeerKey;

/// How many there may be. The map has an entry for each peer that has a place, so no more than there are places.
pub(super) struct Places {
    most: usize,
    each: usize,
    taken: Arc<Mutex<HashMap<PeerKey, usize>>>,
}

/// A place, given back when dropped.
pub(super) struct Place {
    peer: PeerKey,
    taken: Arc<Mutex<HashMap<PeerKey, usize>>>,
}

fn lock(taken: &Mutex<HashMap<PeerKey, usize>>) -> MutexGuard<'_, HashMap<PeerKey, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub(super) fn new(most: usize, each: usize) -> Self {
        Self { most, each, taken: Arc::default() }
    }

    /// A place for the peer, if there is one.
    pub(super) fn take(&self, peer: PeerKey) -> Option<Place> {
        if lock(&self.taken).values().sum::<usize>() >= self.most { None } else { self.take_beyond(peer) }
    }

    /// A place for a peer whose number is bounded otherwise, if it has not too many itself.
    pub(super) fn take_beyond(&self, peer: PeerKey) -> Option<Place> {
        let mut taken = lock(&self.taken);
        if taken.get(&peer).is_some_and(|its| *its >= self.each) {
            return None;
        }
        *taken.entry(peer).or_default() += 1;
        drop(taken);
        Some(Place { peer, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(its) = taken.get_mut(&self.peer) {
            *its -= 1;
            if *its == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Places::new(3, 2);
        let peer = |n| PeerKey::from_bytes([n; 32]);
        let (first, second) = (places.take(peer(1)), places.take(peer(1)));
        assert!(first.is_some() && second.is_some());
        assert!(places.take(peer(1)).is_none(), "two of one peer");
        let third = places.take(peer(2));
        assert!(third.is_some() && places.take(peer(3)).is_none(), "three in all");
        let (one, two) = (places.take_beyond(peer(4)), places.take_beyond(peer(4)));
        assert!(one.is_some() && two.is_some() && places.take_beyond(peer(4)).is_none(), "beyond that, each its own");
        drop((one, two));
        drop(first);
        assert!(places.take(peer(1)).is_some());
        drop((second, third));
        assert!(lock(&places.taken).is_empty());
    }
}
