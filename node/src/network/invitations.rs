//! Passes: ours, and those that others showed. Shared by the door, the peer book and what we think of peers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cairn_core::invitations::{PLACES_MAX, Tree};
use cairn_proto::{
    PeerKey, Timestamp,
    network_file::{Admission, NetworkFile},
    pass::{Member, Pass, PassError},
};

/// What we know of who was invited. Clones share it.
#[derive(Clone)]
pub struct Invitations(Arc<Shared>);

struct Shared {
    network: NetworkFile,
    own: Vec<u8>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    tree: Tree,
    /// Hashes of passes that were verified, so that a pass that comes with every advert costs its signatures once. At most
    /// [`PLACES_MAX`].
    verified: BTreeMap<PeerKey, [u8; 32]>,
}

impl Invitations {
    /// `own`: the pass that we show; none where none is needed.
    #[must_use]
    pub fn new(network: NetworkFile, own: Option<&Pass>) -> Self {
        let own = own.map(Pass::encode).unwrap_or_default();
        Self(Arc::new(Shared { network, own, known: Mutex::default() }))
    }

    /// Whether one needs a pass here.
    #[must_use]
    pub fn required(&self) -> bool {
        self.0.network.admission == Admission::Invitation
    }

    /// The pass that we show, encoded; empty when we have none.
    #[must_use]
    pub fn own(&self) -> &[u8] {
        &self.0.own
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the pass that a peer shows lets it in. It is remembered.
    ///
    /// # Errors
    /// Why it does not.
    pub fn admit(&self, peer: &PeerKey, pass: &[u8], now: Timestamp) -> Result<(), PassError> {
        let hash = *blake3::hash(pass).as_bytes();
        {
            let known = self.known();
            let lasts = |member: &Member| member.expires.is_none_or(|at| at > now);
            if known.verified.get(peer) == Some(&hash) && known.tree.place(peer).is_some_and(lasts) {
                return Ok(());
            }
        }
        let pass = Pass::decode(pass)?;
        if pass.holder() != *peer {
            return Err(PassError::OtherPeer);
        }
        let member = pass.verify(&self.0.network, now)?;
        let mut known = self.known();
        known.tree.learn(member, now).map_err(|_| PassError::UsedUp)?;
        if known.verified.len() >= PLACES_MAX {
            // They are verified again, that is all.
            known.verified.clear();
        }
        known.verified.insert(*peer, hash);
        Ok(())
    }

    /// Of which branch of the tree a peer is.
    #[must_use]
    pub fn branch(&self, peer: &PeerKey) -> Option<PeerKey> {
        self.known().tree.branch(peer)
    }

    /// Who let a peer in, the one who did last; none: nothing is known of it. Empty: the founder did.
    #[must_use]
    pub fn inviters(&self, peer: &PeerKey) -> Option<Vec<PeerKey>> {
        self.known().tree.place(peer).map(Member::inviters)
    }

    /// See [`Tree::convicted_beside`].
    #[must_use]
    pub fn convicted_beside(&self, peer: &PeerKey, is_convicted: impl Fn(&PeerKey) -> bool) -> usize {
        self.known().tree.convicted_beside(peer, is_convicted)
    }
}

impl std::fmt::Debug for Invitations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitations({} known)", self.known().tree.len())
    }
}
