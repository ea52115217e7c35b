//! What a run tells of its placement: what had to be relaxed, by which strategy, and how often the first choice held.
//!
//! First choice: the holders that a plan chose for the groups that this run opened. One that took its first shard counts
//! as a success; one that failed before it took anything, and was replaced, does not. Whoever was asked for nothing says
//! nothing.

use std::collections::BTreeSet;

use cairn_core::{
    keys::VaultKeys,
    placement::{Relaxation, Strategy, salt::recheck_salt},
};
use cairn_proto::{PeerKey, manifest::GroupRow};
use serde::Serialize;

use super::groups::access_of;

/// Share of first choices that should take their shard, in thousandths (DESIGN, section 3).
const TARGET: u64 = 950;
/// First choices from which on a share says something: one of sixteen that fails must not raise an alarm.
const ENOUGH: u64 = 40;

/// How the first choices of this run did.
#[derive(Debug, Default)]
pub(super) struct FirstAttempts {
    /// Group, slot and peer of those that nobody knows yet. Bounded by the places of the run's groups, which are in memory.
    waiting: BTreeSet<(u32, usize, PeerKey)>,
    asked: u64,
    took: u64,
}

/// The same, told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct FirstAttempt {
    /// First-choice holders that were asked.
    asked: u64,
    /// Those of them that took their shard.
    took: u64,
    /// Their share, 0..=1; nothing when nobody was asked.
    share: Option<f64>,
    /// What it should be at least.
    target: f64,
}

impl FirstAttempts {
    /// A group was opened with these holders.
    pub(super) fn chose(&mut self, row: &GroupRow) {
        for (slot, holders) in row.holders.iter().enumerate() {
            self.waiting.extend(holders.iter().map(|peer| (row.number, slot, *peer)));
        }
    }

    /// A holder took a shard.
    pub(super) fn took(&mut self, group: u32, slot: usize, peer: PeerKey) {
        if self.waiting.remove(&(group, slot, peer)) {
            self.asked += 1;
            self.took += 1;
        }
    }

    /// A peer failed, so it is replaced wherever it was chosen.
    pub(super) fn failed(&mut self, peer: PeerKey) {
        let before = self.waiting.len();
        self.waiting.retain(|(.., chosen)| *chosen != peer);
        self.asked += (before - self.waiting.len()) as u64;
    }

    pub(super) fn report(&self) -> FirstAttempt {
        let share = (self.asked > 0).then(|| self.took as f64 / self.asked as f64);
        FirstAttempt { asked: self.asked, took: self.took, share, target: TARGET as f64 / 1000.0 }
    }

    /// What the owner should know when the target is missed.
    pub(super) fn notice(&self) -> Option<Relaxed> {
        let missed = self.asked >= ENOUGH && self.took * 1000 < self.asked * TARGET;
        missed.then(|| {
            let text = format!(
                "{} of {} holders that were asked first took their shard, {} % should: many peers that look alive are gone. \
                 The others were replaced",
                self.took,
                self.asked,
                TARGET / 10
            );
            ("FIRST_ATTEMPT", text)
        })
    }
}

/// By which strategy the newest of these groups was placed: its salt tells.
pub(super) fn strategy_before(keys: &VaultKeys, rows: &[GroupRow]) -> Option<Strategy> {
    let newest = rows.iter().max_by_key(|row| row.number)?;
    let ticket = access_of(keys, newest).ok()?.ticket;
    Some(if recheck_salt(&ticket).is_some() { Strategy::Deterministic } else { Strategy::Randomised })
}

/// Something that was wanted and could not be had: the notice's id and its sentence.
pub(super) type Relaxed = (&'static str, String);

pub(super) fn relaxed(relaxation: &Relaxation) -> Relaxed {
    match relaxation {
        Relaxation::RegionCap { region, slots, limit } => {
            let region = if region.is_empty() { "an unnamed region" } else { region };
            let text = format!("{region} holds {slots} slots of a group alone, more than the {limit} that may be lost");
            ("REGIONS_RELAXED", text)
        }
        Relaxation::NetworkCap { network, slots, limit } => {
            let text = format!("the network AS{network} holds {slots} slots of a group alone, {limit} are allowed");
            ("NETWORKS_RELAXED", text)
        }
        Relaxation::FewRegions { found, wanted } => {
            ("REGIONS_RELAXED", format!("shards are spread over {found} regions, {wanted} are wanted"))
        }
        Relaxation::Newcomers { places, limit } => {
            let text = format!(
                "{places} holders of a group have been known for less than a day; they are taken because there are too \
                 few older peers, else they would hold {limit} places at most"
            );
            ("NEWCOMERS", text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::CodeParams;

    fn key(i: u8) -> PeerKey {
        PeerKey::from_bytes([i; 32])
    }

    fn row(number: u32, holders: &[&[u8]]) -> GroupRow {
        let holders = holders.iter().map(|slot| slot.iter().map(|i| key(*i)).collect()).collect();
        GroupRow {
            number,
            salt: [0; 32],
            code: CodeParams::LOW_PEER,
            colours: 6,
            holders,
            stripes_used: 0,
            sealed: false,
        }
    }

    #[test]
    fn the_first_choice_counts_once_and_a_replacement_never() {
        let mut first = FirstAttempts::default();
        assert_eq!((first.report().share, first.notice()), (None, None));
        first.chose(&row(1, &[&[1, 2], &[3]]));
        first.chose(&row(2, &[&[1], &[4]]));
        first.took(1, 0, key(1));
        first.took(1, 0, key(1));
        // It took a shard and failed with a later one: the choice held there, and does not in the other group.
        first.failed(key(1));
        first.failed(key(1));
        first.took(2, 0, key(9));
        first.failed(key(3));
        first.took(1, 1, key(3));
        let report = first.report();
        assert_eq!((report.asked, report.took, report.share), (3, 1, Some(1.0 / 3.0)));
        assert_eq!(first.waiting.len(), 2, "2 and 4 were never asked");
        assert_eq!(first.notice(), None, "three are too few to tell");
    }

    #[test]
    fn a_missed_target_is_said() {
        let some = |took| FirstAttempts { waiting: BTreeSet::new(), asked: 100, took };
        assert_eq!(some(95).notice(), None);
        let (id, text) = some(94).notice().expect("missed");
        assert_eq!(id, "FIRST_ATTEMPT");
        assert!(text.starts_with("94 of 100 holders that were asked first took their shard, 95 % should"), "{text}");
    }
}
