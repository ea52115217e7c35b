//! A plan to leave, and what stewards answer about it. Pure.

use std::collections::BTreeMap;

use cairn_core::steward::wire::Kept;
use cairn_proto::{GroupId, PeerKey, Timestamp, mandate::quorum};
use serde::{Deserialize, Serialize};

use super::Watchers;

/// Times that stewards are told that we stay, each a pause after the last; those who did not hear it see it an hour after the time.
pub(super) const STAYING_TRIES: u32 = 6;

/// A plan to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// From when on this node is gone for good.
    pub at: Timestamp,
    /// When it was planned.
    pub since: Timestamp,
    /// How far it is.
    pub phase: Phase,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The stewards know, and have the shards taken over.
    Leaving,
    /// Nothing is lost any more by going.
    Done,
    /// The time came before that.
    Over,
    /// It was called off, and the stewards are told.
    Staying {
        /// How often.
        tries: u32,
    },
}

impl Departure {
    /// Whether shards are refused because of it.
    #[must_use]
    pub const fn takes_nothing(&self) -> bool {
        !matches!(self.phase, Phase::Staying { .. })
    }

    /// Where it stands after a round of questions in which everything was found elsewhere, or not.
    pub(super) fn after_round(&mut self, all_elsewhere: bool, now: Timestamp) -> bool {
        let next = match self.phase {
            Phase::Staying { .. } => return false,
            _ if all_elsewhere => Phase::Done,
            _ if now >= self.at => Phase::Over,
            _ => Phase::Leaving,
        };
        std::mem::replace(&mut self.phase, next) != next
    }
}

/// What is known of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// Nobody is known to watch it: it cannot be moved.
    Unwatched,
    /// Too few of its stewards answered.
    Unheard,
    /// Too few say that others have it.
    Needed,
    /// A quorum says so.
    Elsewhere,
}

/// What stewards answered, the last time that each was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    of: BTreeMap<GroupId, BTreeMap<PeerKey, Kept>>,
    /// Rounds of questions so far.
    pub(super) rounds: u64,
}

impl Answers {
    pub(super) fn note(&mut self, group: GroupId, by: PeerKey, kept: Kept) {
        self.of.entry(group).or_default().insert(by, kept);
    }

    /// Keeps to groups that are held, and to their stewards.
    pub(super) fn keep(&mut self, watchers: impl Fn(&GroupId) -> Option<Vec<PeerKey>>) {
        self.of.retain(|group, answers| {
            let stewards = watchers(group).unwrap_or_default();
            answers.retain(|peer, _| stewards.contains(peer));
            !answers.is_empty()
        });
    }

    /// Stewards of this group that know of the departure.
    pub(super) fn heard(&self, group: &GroupId) -> usize {
        let knows = |kept: &&Kept| **kept != Kept::Unknown;
        self.of.get(group).map_or(0, |answers| answers.values().filter(knows).count())
    }

    /// One liar neither keeps us nor lets us go: a quorum of those who order repairs must say that others have it.
    pub(super) fn verdict(&self, group: &GroupId, by: Option<&Watchers>, now: Timestamp) -> Verdict {
        let Some(by) = by.filter(|by| !by.stewards.is_empty() && by.ends > now) else { return Verdict::Unwatched };
        let needed = quorum(by.stewards.len());
        let answers = self.of.get(group);
        let count = |is: &dyn Fn(Kept) -> bool| {
            let of = |steward: &PeerKey| answers.and_then(|answers| answers.get(steward)).copied();
            by.stewards.iter().filter_map(of).filter(|kept| is(*kept)).count()
        };
        if count(&|kept| kept == Kept::Elsewhere) >= needed {
            Verdict::Elsewhere
        } else if count(&|kept| kept != Kept::Unknown) >= needed {
            Verdict::Needed
        } else {
            Verdict::Unheard
        }
    }
}
