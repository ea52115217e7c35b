//! Since when a slot lacks a copy, and how long it took until it was whole again.

use std::collections::BTreeSet;

use cairn_proto::{Slot, Timestamp};

use super::{Subject, Watched};
use crate::liveness::{Presence, Watch};

/// A slot that lacks a copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lacking {
    /// The last sign of life of whoever was lost last, or when we learned of it.
    since: Timestamp,
    /// Whether somebody was given something of it meanwhile: otherwise it was never lost.
    pub(super) given: bool,
}

impl Watched {
    /// These are wanted now. How long each repair took that is done with it, in milliseconds; one a slot at most.
    pub(in super::super) fn note_lacking(
        &mut self,
        open: &BTreeSet<Subject>,
        watch: &Watch,
        now: Timestamp,
    ) -> Vec<u64> {
        let mut took = Vec::new();
        self.lacking.retain(|slot, lacking| {
            let open = open.contains(&Subject::Slot(*slot));
            if !open && lacking.given {
                took.push(now.ms_since(lacking.since));
            }
            open
        });
        for subject in open {
            let Subject::Slot(at) = subject else { continue };
            if let Ok(slot) = Slot::new(*at)
                && !self.lacking.contains_key(at)
                && let Some(since) = self.lacks_since(slot, watch, now)
            {
                self.lacking.insert(*at, Lacking { since, given: false });
            }
        }
        took
    }

    /// Since when the slot has fewer whole copies than it should; `None` when it has them, and is given more for another reason.
    fn lacks_since(&self, slot: Slot, watch: &Watch, now: Timestamp) -> Option<Timestamp> {
        let holders = self.holders(slot);
        let beliefs: Vec<_> = holders.iter().map(|peer| (peer, watch.belief(peer, now))).collect();
        let whole = |peer| self.wanted(slot).without(&self.has(slot, peer)).is_empty();
        let stay = beliefs.iter().filter(|(peer, b)| b.presence < Presence::Gone && !b.leaving && whole(peer));
        if stay.count() >= usize::from(self.record.mandate.replicas.max(1)) {
            return None;
        }
        let gone = beliefs.iter().filter(|(_, belief)| belief.presence >= Presence::Gone);
        let silent = gone.map(|(_, belief)| belief.silent_ms).min().unwrap_or(0);
        Some(Timestamp(now.0.saturating_sub(silent)))
    }

    /// How long each repair has taken so far that is not done.
    pub(in super::super) fn lacking_for(&self, now: Timestamp) -> impl Iterator<Item = u64> + '_ {
        self.lacking.values().map(move |lacking| now.ms_since(lacking.since))
    }

    /// After the clock went back.
    pub(super) fn clamp_lacking(&mut self, now: Timestamp) {
        self.lacking.values_mut().for_each(|lacking| lacking.since = lacking.since.min(now));
    }
}
