//! What a steward wants done and from when on it proposes it, and what it did not sign: for whoever wants to know why nothing happens. Refusals
//! are not kept across a restart.

use std::collections::VecDeque;

use cairn_proto::{Order, PeerKey, Timestamp};

use super::{
    super::{Rhythm, subject_of, vote::Objection},
    Subject, Watched,
};
use crate::liveness::Watch;

/// Refusals of a group that are remembered: one of each slot and steward, about.
const REFUSED_MAX: usize = 16;

/// Something that is wanted and not ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What.
    pub about: Subject,
    /// Since when.
    pub since: Timestamp,
    /// From when on this steward proposes it, after those before it in turn and after the pauses that failures leave.
    pub turn: Timestamp,
    /// How often something about it came to nothing.
    pub failures: u32,
    /// Nobody was there for it when it was this steward's turn last.
    pub nobody: bool,
}

/// A proposal that this steward did not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When.
    pub at: Timestamp,
    /// Whose.
    pub from: PeerKey,
    /// About what.
    pub about: Subject,
    /// Why.
    pub why: Objection,
}

impl Watched {
    /// Notes that a proposal is not signed. Not of strangers, or whoever likes could fill it.
    pub(in super::super) fn note_refused(&mut self, from: PeerKey, order: &Order, why: Objection, now: Timestamp) {
        if why == Objection::Stranger {
            return;
        }
        if self.refused.len() == REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back(Refused { at: now, from, about: subject_of(&order.action), why });
    }

    /// What was not signed lately, oldest first.
    pub(super) const fn refused(&self) -> &VecDeque<Refused> {
        &self.refused
    }

    /// What is wanted, and when it is our turn.
    pub(super) fn waits(&self, me: &PeerKey, watch: &Watch, rhythm: &Rhythm, now: Timestamp) -> Vec<Wait> {
        let wait = |(about, patience): (&Subject, &super::Patience)| Wait {
            about: *about,
            since: patience.since,
            turn: self.turn_of(me, about, patience, watch, now, rhythm),
            failures: patience.failures,
            nobody: patience.vain,
        };
        self.patience.iter().map(wait).collect()
    }
}
