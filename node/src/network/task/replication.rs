//! Heads that we keep are passed on to whoever is near them by now: nodes come and go, owners are away for months.
//!
//! Kademlia's own job is not used, because it remembers every key that a stranger sends, before any filter.

use std::{collections::VecDeque, time::Duration};

use libp2p::{
    PeerId,
    kad::{self, KBucketKey, Quorum, Record, RecordKey, store::RecordStore as _},
};
use tokio::time::Instant;

use super::{Lookup, NetworkTask, OPEN_MAX};

/// From the end of a look-up to the next: all heads that we may keep take a little over an hour.
const APART: Duration = Duration::from_secs(1);

/// Whose turn it is. Bounded by the heads kept.
#[derive(Debug)]
pub(super) struct Replication {
    left: VecDeque<RecordKey>,
    round_at: Instant,
    next_at: Instant,
    /// A look-up is under way.
    busy: bool,
}

impl Replication {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: VecDeque::new(), round_at: now, next_at: now, busy: false }
    }
}

impl NetworkTask {
    /// Begins the next round or the next look-up, if it is time.
    pub(super) fn replicate(&mut self, now: Instant) {
        let state = &mut self.state.replication;
        // A round while nobody is connected would be spent on nobody.
        if self.state.connected.is_empty() || state.busy || now < state.next_at || self.state.lookups.len() >= OPEN_MAX
        {
            return;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        if state.left.is_empty() && now >= state.round_at {
            state.round_at = now + self.limits.replicate_every;
            state.left = kad.store_mut().next_round().into();
        }
        let Some(key) = state.left.pop_front() else { return };
        state.busy = true;
        let query = kad.get_closest_peers(key.to_vec());
        self.state.lookups.insert(query, Lookup::Replicate(key));
    }

    /// Those near a head were found: they get it, unless all of them are nearer than we are, who will see to it.
    pub(super) fn pass_on(&mut self, key: &RecordKey, near: &[PeerId]) {
        self.state.replication.busy = false;
        self.state.replication.next_at = Instant::now() + APART;
        let target = KBucketKey::new(key.clone());
        let distance = |peer: &PeerId| target.distance(&KBucketKey::from(*peer));
        let mine = distance(self.swarm.local_peer_id());
        if near.len() >= kad::K_VALUE.get() && near.iter().all(|peer| distance(peer) < mine) {
            return;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        let Some(record) = kad.store_mut().get(key).map(std::borrow::Cow::into_owned) else { return };
        let record = Record { publisher: None, ..record };
        kad.put_record_to(record, near.iter().copied(), Quorum::One);
    }
}
