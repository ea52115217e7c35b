//! Who is connected now, for whoever chooses between peers and need not wait for the network's task.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use cairn_proto::PeerKey;

/// Peers with a connection; bounded as connections are. The network's task writes it, everybody may read it, and by then it may be
/// otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presence(Arc<RwLock<BTreeSet<PeerKey>>>);

impl Presence {
    pub(crate) fn came(&self, peer: PeerKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(peer);
    }

    pub(crate) fn went(&self, peer: &PeerKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    pub(crate) fn has(&self, peer: &PeerKey) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }
}
