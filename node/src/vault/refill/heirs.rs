//! Heirs, and peers that failed.
//!
//! An heir is the one newcomer that a full row's slot is given to, stripe after stripe, until it has all that it needs to
//! take a place. There is one at a time, so that several that have parts never wait for each other. One that does not take
//! a stripe loses its claim for the rest of the run, and the next one gets them all.
//!
//! # Invariants
//!
//! - **DUR-3** An heir's word evicts nobody: what it says to have from earlier runs is [probed](proves) before it is the
//!   heir, and the rest it took in this run with a receipt.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_core::stripe::shard_is_right;
use cairn_proto::{PeerKey, Slot, index::StripeRow, wire::Priority};

use super::{Session, asked::Ordinals, names};
use crate::overlay::{GroupAccess, ShardAddress};

/// Newcomers that may be offered a slot in one run without one of them taking it: each stays remembered, and a group has a
/// bounded number of places for that.
pub(super) const NEW_OFFERS: usize = 2;
/// Of the shards that an heir says to have, how many are read.
const PROBES: usize = 3;
/// Questions of a run that a holder may leave unanswered before it is asked no more. One may be bad luck, and to count as
/// silent costs another copy.
const MISSES: u8 = 2;

/// Who gets a full row's slot.
#[derive(Clone, Debug)]
pub(super) struct Heir {
    pub(super) peer: PeerKey,
    /// What it has.
    pub(super) has: Ordinals,
}

/// Who is not asked again in this run: each may cost as long as the overlay is patient. Bounded by the peers known.
#[derive(Debug, Default)]
pub(super) struct Failed {
    /// Unanswered questions since the last answer.
    misses: BTreeMap<PeerKey, u8>,
    /// They did not take what they were offered.
    refused: BTreeSet<PeerKey>,
}

impl Failed {
    pub(super) fn answered(&mut self, peer: PeerKey, answered: bool) {
        if answered {
            self.misses.remove(&peer);
        } else {
            let misses = self.misses.entry(peer).or_default();
            *misses = misses.saturating_add(1);
        }
    }

    pub(super) fn refused(&mut self, peer: PeerKey) {
        self.refused.insert(peer);
    }

    pub(super) fn is_deaf(&self, peer: &PeerKey) -> bool {
        self.misses.get(peer).is_some_and(|misses| *misses >= MISSES)
    }

    /// A newcomer gets no second chance.
    pub(super) fn may_be_offered(&self, peer: &PeerKey, holder: bool) -> bool {
        !self.refused.contains(peer) && if holder { !self.is_deaf(peer) } else { !self.misses.contains_key(peer) }
    }
}

/// Whether a peer gives the right bytes of a shard; `None` when it gives none.
pub(super) async fn gives(
    session: &Session,
    access: &Arc<GroupAccess>,
    row: &Arc<StripeRow>,
    slot: Slot,
    peer: PeerKey,
) -> Option<bool> {
    let address = ShardAddress { group: access.clone(), slot, ordinal: row.ordinal };
    let bytes = session.overlay.get_shard(peer, address, 0, 0, Priority::Low).await.ok()?;
    let row = row.clone();
    Some(tokio::task::spawn_blocking(move || shard_is_right(&row, slot, &bytes)).await.unwrap_or(false))
}

/// Reads some of the shards of a slot that a peer says to have, chosen at random.
pub(in crate::vault) async fn proves(
    session: &Session,
    group: u32,
    access: &Arc<GroupAccess>,
    slot: Slot,
    peer: PeerKey,
    has: &Ordinals,
) -> bool {
    let claimed = |row: &StripeRow| row.group == group && names(has, row.ordinal) && row.root(slot).is_some();
    let mut rows: Vec<StripeRow> = session.catalogue.stripes().filter_map(Result::ok).filter(claimed).collect();
    // Nothing that it can be asked for.
    let mut right = false;
    for _ in 0..PROBES.min(rows.len()) {
        let mut random = [0; 8];
        if getrandom::fill(&mut random).is_err() {
            return false;
        }
        let at = u64::from_le_bytes(random) % rows.len() as u64;
        let row = Arc::new(rows.swap_remove(at as usize));
        right = gives(session, access, &row, slot, peer).await == Some(true);
        if !right {
            return false;
        }
    }
    right
}
