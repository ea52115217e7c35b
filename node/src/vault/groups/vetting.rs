//! Newcomers' quota of the day, as a run keeps to it.
//!
//! Counted is what a newcomer took. Once it has its quota, its groups take no new stripes and no new group chooses it, as long as a
//! group can stand without newcomers at all; what was under way then still goes there. A network that is too young for that goes on,
//! and the owner is told.
//!
//! - **SEP-4** in part, see [`cairn_core::placement::vetting`]. Attacked by `vault::tests::vetting`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    peer_view::{PeerView, PerMille},
    placement::{
        self,
        vetting::{Given, binds},
    },
};
use cairn_proto::PeerKey;

use super::{Book, Groups};
use crate::{overlay::Overlay, vault::placing::Relaxed};

/// What a run knows of newcomers.
#[derive(Debug, Default)]
pub(super) struct Vetting {
    given: Given,
    /// By what share of what it offers each newcomer is held.
    quotas: BTreeMap<PeerKey, PerMille>,
    /// Whether the network has enough older peers.
    binds: bool,
    /// Who has its quota.
    pub(super) spent: BTreeSet<PeerKey>,
}

impl Vetting {
    /// Whom to choose for nothing new.
    pub(super) fn held(&self) -> Option<&BTreeSet<PeerKey>> {
        (self.binds && !self.spent.is_empty()).then_some(&self.spent)
    }
}

impl Groups {
    /// What was given before this run, and how much each newcomer may be given. Before anything is placed.
    pub(in crate::vault) fn vet(&self, given: Given, overlay: &dyn Overlay) {
        let mut book = self.book();
        let Book { peers, policy, vetting, groups, .. } = &mut *book;
        let fit: Vec<&PeerView> =
            peers.iter().filter(|view| placement::eligible(view, &self.owner, policy, self.now).is_ok()).collect();
        vetting.binds = binds(&fit, policy);
        let newcomers = peers.iter().filter(|view| view.newcomer);
        vetting.quotas = newcomers.map(|view| (view.peer, overlay.quota(&view.peer, view.first_seen))).collect();
        vetting.spent = given.spent(peers, |peer| vetting.quotas.get(peer).copied().unwrap_or(1000), self.now);
        vetting.given = given;
        if let Some(held) = vetting.held() {
            for open in groups.values_mut() {
                open.row.sealed |= open.row.holders.iter().flatten().any(|peer| held.contains(peer));
            }
        }
    }

    /// What newcomers were given, to be kept.
    pub(in crate::vault) fn given(&self) -> Given {
        self.book().vetting.given.clone()
    }
}

impl Book {
    /// Somebody took a shard.
    pub(super) fn vetted(&mut self, peer: PeerKey, now: cairn_proto::Timestamp) {
        let Self { vetting, groups, peers, relaxations, .. } = self;
        let Some(quota) = vetting.quotas.get(&peer) else { return };
        vetting.given.took(peer, now);
        let spent = peers.iter().find(|view| view.peer == peer).is_some_and(|v| vetting.given.is_spent(v, *quota, now));
        if !spent || !vetting.spent.insert(peer) {
            return;
        }
        if vetting.binds {
            for open in groups.values_mut().filter(|open| open.row.holders.iter().flatten().any(|held| *held == peer)) {
                open.row.sealed = true;
            }
        } else {
            relaxations.insert(young());
        }
    }
}

/// What the owner is told when newcomers get more than their quota.
pub(super) fn young() -> Relaxed {
    let text = "newcomers are given more in a day than their quota: too few peers are known for longer than a day for a group without \
                them";
    ("NEWCOMERS_QUOTA", text.to_owned())
}
