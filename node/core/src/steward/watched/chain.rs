//! A group's committee: the owner's mandate with every change of stewards since, and which of two such chains counts.
//!
//! Two changes may be made of one committee at the same time, where a network is cut or two propose at once. Of two chains from the same
//! mandate the longer one counts, of equally long ones that with the lower order id where they part: whoever has seen both ends
//! at the same. The other's committees are remembered, so that what they ordered about shards stays good.
//!
//! A certificate that was kept back changes nothing once the committee that signed it has changed twice; before that it may replace the one change
//! that was made instead of it, once.
//!
//! A *succession* ([`crate::succession`]), which fewer than half ordered, is believed by whoever misses the others, once and for all. Where the others were only
//! cut off and made a change of their own, theirs counts.

use std::collections::VecDeque;

use cairn_proto::{
    Certificate, Committee, DecodeError, Mandate, PeerKey,
    order::{CommitteeId, OrderId},
};

use super::super::message::{PAST_MAX, Past};
use crate::succession;

/// Committees of chains that do not count, newest last: those that a network which falls apart for days makes.
const FORKS_MAX: usize = 32;

/// An older mandate and its committees.
#[derive(Clone, Debug)]
struct Older {
    past: Past,
    generation: u64,
    line: Vec<Committee>,
}

#[derive(Clone, Debug)]
pub(in super::super) struct Chain {
    /// The mandate's committee, then one after each change; never empty.
    line: Vec<Committee>,
    changes: Vec<Certificate>,
    forks: VecDeque<Committee>,
    older: Vec<Older>,
}

/// Whether a steward was heard lately.
pub(in super::super) type Heard<'a> = &'a dyn Fn(&PeerKey) -> bool;

/// For what is believed already.
pub(super) const NOBODY: Heard<'static> = &|_| false;

/// The committees that these changes make, as far as they hold and count.
fn follow(from: &Committee, changes: &[Certificate], heard: Heard<'_>) -> Vec<Committee> {
    let mut line: Vec<Committee> = Vec::new();
    for change in changes {
        let last = line.last().unwrap_or(from);
        let mut next = last.clone();
        if !succession::counts(last, change, heard) || next.succeed(change).is_err() {
            break;
        }
        line.push(next);
    }
    line
}

impl Chain {
    pub(super) fn new(mandate: &Mandate, changes: &[Certificate], heard: Heard<'_>) -> Result<Self, DecodeError> {
        let first = Committee::of(mandate);
        let mut line = follow(&first, changes, heard);
        if line.len() != changes.len() {
            return Err(DecodeError::Invalid { what: "changes of stewards", why: "do not hold" });
        }
        line.insert(0, first);
        Ok(Self { line, changes: changes.to_vec(), forks: VecDeque::new(), older: Vec::new() })
    }

    /// Who they are now.
    pub(in super::super) fn now(&self) -> &Committee {
        // `line` begins with the mandate's own.
        &self.line[self.line.len() - 1]
    }

    pub(in super::super) fn changes(&self) -> &[Certificate] {
        &self.changes
    }

    /// The committee of this name, of now or once.
    pub(super) fn find(&self, id: &CommitteeId) -> Option<&Committee> {
        let older = self.older.iter().flat_map(|older| &older.line);
        self.line.iter().rev().chain(&self.forks).chain(older).find(|committee| committee.id() == id)
    }

    /// Whether this peer is a steward, or was one under this mandate.
    pub(super) fn knows(&self, peer: &PeerKey) -> bool {
        self.line.iter().chain(&self.forks).any(|committee| committee.stewards().contains(peer))
    }

    /// The mandate (`None`: the one of now) and the changes that lead to a committee.
    pub(super) fn leading_to(&self, id: &CommitteeId) -> Option<(Option<&[u8]>, &[Certificate])> {
        let at = |line: &[Committee]| line.iter().position(|committee| committee.id() == id);
        if let Some(at) = at(&self.line) {
            return Some((None, &self.changes[..at]));
        }
        let older = self.older.iter().find_map(|older| at(&older.line).map(|at| (older, at)))?;
        Some((Some(&older.0.past.mandate), &older.0.past.changes[..older.1]))
    }

    /// One more change, of the committee of now or of one before. Whether it counts now.
    pub(super) fn offer_one(&mut self, change: &Certificate, heard: Heard<'_>) -> bool {
        let Some(at) = self.line.iter().position(|committee| *committee.id() == change.order.committee) else {
            return false;
        };
        let chain: Vec<Certificate> = self.changes[..at].iter().chain([change]).cloned().collect();
        self.offer(&chain, heard)
    }

    /// Another steward's chain from the same mandate, as far as it holds. Whether it counts now.
    pub(super) fn offer(&mut self, chain: &[Certificate], heard: Heard<'_>) -> bool {
        let same = chain.iter().zip(&self.changes).take_while(|(theirs, ours)| theirs.order == ours.order).count();
        self.strengthen(&chain[..same]);
        let fresh = follow(&self.line[same], &chain[same..], heard);
        let length = same + fresh.len();
        let id = |change: Option<&Certificate>| change.and_then(|change| change.order.id().ok());
        let (ours, theirs) = (self.changes.get(same), chain[..length].get(same));
        let few = |change: &Certificate| self.line[same].is_succession(change);
        let counts = match (ours.map(few), theirs.map(few)) {
            // What half of a committee made of it counts before what those made who missed that half.
            (Some(ours), Some(theirs)) if ours != theirs => ours,
            _ => match length.cmp(&self.changes.len()) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal => length > same && id(theirs) < id(ours),
                std::cmp::Ordering::Less => false,
            },
        };
        if !counts {
            fresh.into_iter().for_each(|committee| self.remember(committee));
            return false;
        }
        let lost = self.line.split_off(same + 1);
        lost.into_iter().for_each(|committee| self.remember(committee));
        self.line.extend(fresh);
        // Signatures that were looked at stay ours where the orders are the same.
        self.changes.truncate(same);
        self.changes.extend_from_slice(&chain[same..length]);
        true
    }

    /// Takes over signatures with which half signed what is a succession here.
    fn strengthen(&mut self, same: &[Certificate]) {
        for ((committee, ours), theirs) in self.line.iter().zip(&mut self.changes).zip(same) {
            let stronger = committee.is_succession(ours) && !committee.is_succession(theirs);
            if stronger && committee.clone().change(theirs).is_ok() {
                *ours = theirs.clone();
            }
        }
    }

    /// The changes that fewer than half signed, each with the committee of which it was made.
    pub(in super::super) fn successions(&self) -> impl Iterator<Item = (&Committee, &Certificate)> {
        self.line.iter().zip(&self.changes).filter(|(committee, change)| committee.is_succession(change))
    }

    /// Where another's chain goes on beyond ours: each change whose signatures hold, with the committee before and after it, believed or not.
    pub(super) fn beyond(&self, chain: &[Certificate]) -> Vec<(Committee, Certificate, Committee)> {
        let same = chain.iter().zip(&self.changes).take_while(|(theirs, ours)| theirs.order == ours.order).count();
        let after = follow(&self.line[same], &chain[same..], NOBODY);
        let before: Vec<Committee> = std::iter::once(&self.line[same]).chain(&after).cloned().collect();
        let steps = before.into_iter().zip(chain[same..].iter().cloned()).zip(after);
        steps.map(|((before, change), after)| (before, change, after)).collect()
    }

    /// The signature of a steward that a succession passed over and that came back. Whether it was news.
    pub(super) fn endorse(&mut self, from: &PeerKey, order: &OrderId, signature: [u8; 64]) -> bool {
        let Some(at) = self.changes.iter().position(|change| change.order.id().as_ref() == Ok(order)) else {
            return false;
        };
        let (committee, change) = (&self.line[at], &self.changes[at]);
        let passed = committee.is_succession(change) && committee.unsigned(change).any(|peer| peer == from);
        if !passed || !change.order.is_signed(from, &signature) {
            return false;
        }
        self.changes[at] = change.clone().with_vote(*from, signature);
        true
    }

    fn remember(&mut self, fork: Committee) {
        if self.forks.contains(&fork) {
            return;
        }
        if self.forks.len() == FORKS_MAX {
            self.forks.pop_front();
        }
        self.forks.push_back(fork);
    }

    /// Keeps the mandate before this one, and those before it, for what rests on them.
    pub(super) fn after(mut self, old: Self, mandate: &[u8]) -> Self {
        if old.line[0] == self.line[0] {
            self.offer(&old.changes, NOBODY);
            (self.forks, self.older) = (old.forks, old.older);
            return self;
        }
        self.older = old.older;
        let generation = old.line[0].mandate().generation;
        let past = Past { mandate: mandate.to_vec(), changes: old.changes };
        // An owner that left two mandates of one generation has what rests on the first be forgotten.
        if generation < self.line[0].mandate().generation {
            self.older.push(Older { past, generation, line: old.line });
        }
        self.forks = old.forks;
        self
    }

    /// Takes up older mandates of the same group that are not known.
    pub(super) fn offer_past(&mut self, past: &[Past], heard: Heard<'_>) {
        let ours = self.line[0].mandate().clone();
        for past in past.iter().take(PAST_MAX) {
            let Ok(mandate) = Mandate::open(&past.mandate) else { continue };
            let first = Committee::of(&mandate);
            let older = mandate.ticket == ours.ticket && mandate.generation < ours.generation;
            if !older || self.older.len() >= 2 * PAST_MAX {
                continue;
            }
            match self.older.iter_mut().find(|known| known.line[0] == first) {
                Some(known) if known.past.changes.len() >= past.changes.len() => {}
                known => {
                    let mut line = follow(&first, &past.changes, heard);
                    let changes = past.changes[..line.len()].to_vec();
                    line.insert(0, first);
                    let past = Past { mandate: past.mandate.clone(), changes };
                    let new = Older { past, generation: mandate.generation, line };
                    match known {
                        Some(known) => *known = new,
                        None => self.older.push(new),
                    }
                }
            }
        }
        self.older.sort_by_key(|older| older.generation);
    }

    /// Lets go of older mandates that nothing rests on, and of the oldest beyond [`PAST_MAX`].
    pub(super) fn keep_past(&mut self, needed: &dyn Fn(u64) -> bool) {
        self.older.retain(|older| needed(older.generation));
        let over = self.older.len().saturating_sub(PAST_MAX);
        self.older.drain(..over);
    }

    pub(super) fn past(&self) -> Vec<Past> {
        self.older.iter().map(|older| older.past.clone()).collect()
    }
}
