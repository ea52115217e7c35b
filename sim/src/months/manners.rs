//! Holders with manners and holders without: those who say when they leave and what they lost, those who drop what they keep and answer
//! as if they had it, and the auditors that stewards draw to find these out.
//!
//! An auditor here sees at once what a real one needs a day of unanswered challenges for; it is up or it is asked again. What it reports
//! goes through [`cairn_core::steward::Steward::found`], whom it is drawn from through [`cairn_core::steward::Steward::audits_due`].

use std::collections::BTreeSet;

use cairn_core::{
    peer_view::PeerView,
    steward::wire::{Duty, Findings, Kept},
};
use cairn_proto::{GroupId, Ordinals, PeerKey, Slot, SlotSheet};

use super::{Event, World};
use crate::{checkers::Violation, world::HOUR};

/// A departure is said a day ahead, and it is an hour until the peer is gone.
const NOTICE_MS: u64 = 25 * HOUR;
/// Duties of a steward in a round of two hours.
const DUTIES: usize = 4;

impl World<'_> {
    /// Whether a peer that leaves says so first, and has not yet: then it goes on for a day.
    pub(super) fn leaves_politely(&mut self, at: usize) -> bool {
        let polite = self.settings.polite_percent > 0 && self.dice.per_mille(10 * self.settings.polite_percent);
        if !polite || self.members[at].departed || self.members[at].leaves.is_some() {
            return false;
        }
        let when = self.now.plus_ms(NOTICE_MS);
        self.members[at].leaves = Some(when);
        self.trace.line(self.now, format_args!("{at} says that it leaves"));
        self.say_farewell(at);
        self.after(NOTICE_MS, Event::Depart(at));
        true
    }

    /// Tells every steward that it reaches when it leaves. Whether all of them say that others have what it has.
    pub(super) fn say_farewell(&mut self, at: usize) -> bool {
        let Some(when) = self.members[at].leaves else { return false };
        let groups: Vec<GroupId> = self.members[at].ledger.keys().copied().collect();
        let (key, now) = (self.members[at].key, self.now);
        let mut elsewhere = !groups.is_empty();
        for to in 0..self.members.len() {
            if to != at && self.reach(at, to) && self.members[to].steward.groups().next().is_some() {
                let kept = self.members[to].steward.leaving(key, when, &groups, now);
                elsewhere &= !kept.contains(&Kept::Needed);
            }
        }
        elsewhere
    }

    /// Counts a departure that was announced, as it happens.
    pub(super) fn count_farewell(&mut self, at: usize) {
        if self.members[at].leaves.is_some() && !self.members[at].ledger.is_empty() && self.members[at].up {
            self.report.polite += 1;
            self.report.polite_safe += u32::from(self.say_farewell(at));
        }
    }

    /// A holder tells the stewards that it reaches what its scrub found lost.
    pub(super) fn own_loss(&mut self, at: usize, group: GroupId, slot: Slot, ordinal: u8) {
        let (key, now) = (self.members[at].key, self.now);
        let lost: Ordinals = std::iter::once(ordinal).collect();
        for to in 0..self.members.len() {
            if self.reach(at, to) && self.members[to].steward.groups().any(|id| id == group) {
                self.report.own_losses += u32::from(self.members[to].steward.lost(key, group, slot, &lost, now));
            }
        }
    }

    /// Some holders drop all that they have, and go on answering.
    pub(super) fn turn_cheats(&mut self, count: u32) {
        let holders: Vec<usize> = (0..self.members.len())
            .filter(|at| !self.members[*at].departed && !self.members[*at].shards.is_empty())
            .filter(|at| self.settings.lonely.is_none() || self.has_lonely(&self.members[*at].key))
            .collect();
        for _ in 0..count.min(holders.len() as u32) {
            let at = holders[self.dice.below(holders.len() as u32) as usize];
            let member = &mut self.members[at];
            if !std::mem::replace(&mut member.cheats, true) {
                let held = std::mem::take(&mut member.shards);
                member.dropped = held.into_keys().map(|(group, slot, _)| (group, slot)).collect();
                member.rotten.clear();
                self.trace.line(self.now, format_args!("{at} drops what it has"));
                if self.settings.lonely.is_some() {
                    self.bring_another(at);
                }
            }
        }
    }

    /// A steward's auditors do their duty.
    pub(super) fn audits(&mut self, at: usize, views: &[PeerView]) -> Result<(), Violation> {
        // Who has no auditor follows from having looked for one.
        if self.settings.cheats == 0 || (self.settings.unaudited && self.settings.lonely.is_none()) {
            return Ok(());
        }
        let now = self.now;
        for (auditor, duty) in self.members[at].steward.audits_due(now, views, DUTIES) {
            if self.settings.unaudited {
                continue;
            }
            let Some(findings) = self.audit(at, &auditor, &duty)? else { continue };
            self.report.audits += 1;
            self.members[at].steward.found(&auditor, &findings, now);
        }
        self.effects(at)
    }

    /// What an auditor finds; nothing when it or the holder cannot be reached, which says nothing of either.
    fn audit(&mut self, steward: usize, auditor: &PeerKey, duty: &Duty) -> Result<Option<Findings>, Violation> {
        let (group, now) = (duty.ticket.id(), self.now);
        let sheet = SlotSheet::open(&duty.sheet, &duty.ticket);
        let slot = sheet.map_err(|e| Violation { invariant: "SEP-1", at: now, what: e.to_string() })?.slot;
        let (by, holder) = (self.index[auditor], self.index[&duty.holder]);
        // The sheet goes to peers of the slot's colour alone, and never to one that had another slot.
        let member = &self.members[by];
        self.watcher.shown(now, &duty.ticket, slot, member)?;
        if !self.reach(steward, by) {
            self.members[steward].steward.audit_declined(auditor, &group, slot, &duty.holder, now);
            return Ok(None);
        }
        if !self.reach(by, holder) {
            return Ok(None);
        }
        let has = |ordinal: &u8| self.members[holder].shards.contains_key(&(group, slot, *ordinal));
        let shown: Ordinals = duty.ordinals.iter().filter(has).collect();
        let missing = duty.ordinals.without(&shown);
        let (good, silent) = (shown.len() as u32, missing.len() as u32);
        Ok(Some(Findings { group, slot, holder: duty.holder, good, silent, missing, shown, proof: None }))
    }

    /// What cheats dropped is elsewhere in the end, and nobody honest is doubted.
    pub(super) fn check_manners(&mut self) -> Result<(), Violation> {
        let cheats: BTreeSet<PeerKey> = self.members.iter().filter(|m| m.cheats).map(|m| m.key).collect();
        let dropped: BTreeSet<(GroupId, Slot)> = self.members.iter().flat_map(|m| m.dropped.iter().copied()).collect();
        for (group, slot) in dropped {
            self.report.dropped += 1;
            let holders = self.holders(group, slot).len();
            self.report.remade += u32::from(holders >= usize::from(self.settings.copies));
            let nobody = self.settings.lonely.is_some() && holders == 0 && !self.has_company(&group, slot);
            self.report.nobody += u32::from(nobody);
            if holders == 0 && !nobody {
                let what = format!("what a cheat dropped of slot {slot} of group {} is nowhere", group.short());
                return Err(Violation { invariant: "REP-1", at: self.now, what });
            }
        }
        let mut doubted = BTreeSet::new();
        for at in (0..self.members.len()).filter(|at| !self.members[*at].departed) {
            self.honest_are_not_doubted(at)?;
            doubted.extend(self.doubted_by(at));
        }
        self.report.found_out += doubted.iter().filter(|(.., peer)| cheats.contains(peer)).count() as u32;
        Ok(())
    }
}
