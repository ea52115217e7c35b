//! Slots that should be repaired and cannot be now, and what would help.

use cairn_proto::{GroupId, PeerKey, Slot, Timestamp};

use super::{Steward, plan, watched::Subject};
use crate::{colour::may_hold, peer_view::PeerView};

/// A slot for which nothing can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Which: also the number of the colour that may hold it.
    pub slot: Slot,
    /// Why.
    pub why: StuckWhy,
}

/// Why nothing can be ordered for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StuckWhy {
    /// Nobody may take it.
    Nobody {
        /// Peers of its colour that are known and hold nothing of it: away, without room, too new or not to be relied on.
        unfit: usize,
        /// Colours of the group: one domain of so many has this one.
        colours: u8,
    },
    /// Whoever has what it takes is away.
    Sources,
    /// Who may take it is a newcomer that was given as much as it may have in a day, and the group is not critical.
    Quota,
}

impl StuckWhy {
    /// Domains that have to come so that one of them is of the colour with a chance of 95 in 100.
    #[must_use]
    pub fn likely_with(&self) -> Option<u32> {
        let Self::Nobody { colours, .. } = self else { return None };
        let other = 1.0 - 1.0 / f64::from((*colours).max(2));
        Some((0.05f64.ln() / other.ln()).ceil() as u32)
    }
}

impl Steward {
    /// Slots of a group that should be repaired and for which nothing can be ordered, whoever's turn it is.
    #[must_use]
    pub fn stuck(&self, group: &GroupId, now: Timestamp, peers: &[PeerView]) -> Vec<Stuck> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        let believed = (&self.watch, &self.places);
        let mut scene = plan::Scene::new((self.me, &self.domain), now, peers, believed, &self.rhythm);
        (scene.suspects, scene.vetting) = (Some(&self.suspects), Some(&self.vetting));
        let ticket = group.record.mandate.ticket;
        let wanted = plan::wanted(group, &scene, &|subject| matches!(subject, Subject::Slot(_)));
        let in_vain = wanted.into_iter().filter_map(|wanted| match wanted {
            plan::Wanted::InVain(Subject::Slot(slot)) => Slot::new(slot).ok(),
            _ => None,
        });
        let stuck = in_vain.map(|slot| {
            let heirs = scene.new_holders(group, slot, &std::collections::BTreeSet::new());
            let had: Vec<PeerKey> = group.holders(slot);
            let spent = |peer: &PeerKey| scene.room(group, peer) == Some(0);
            let waits = heirs.iter().all(spent) && heirs.iter().chain(&had).any(spent);
            let of_colour = |view: &&PeerView| may_hold(&ticket, &view.domain, slot) && !had.contains(&view.peer);
            let unfit = peers.iter().filter(of_colour).count();
            // The last colour is the stewards'.
            let colours = ticket.code().slots() as u8 + 1;
            let why = match heirs.is_empty() {
                _ if waits => StuckWhy::Quota,
                true => StuckWhy::Nobody { unfit, colours },
                false => StuckWhy::Sources,
            };
            Stuck { slot, why }
        });
        stuck.collect()
    }
}
