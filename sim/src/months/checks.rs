//! What must hold in months without the owner, checked by what peers really have.
//!
//! - **SEP-1** Nobody ever accepts two slots of a group, and no steward accepts one: [`Watcher::accepted`], remembering for ever.
//! - **REP-1** No group ever falls below k slots whose bytes somebody who has not left for good has, and no slot stays without a
//!   holder for longer than [`GAP_MS_MAX`] while a peer of its colour is there: `World::check`.
//! - **REP-2** No storm: orders of a group within a day stay below [`ORDERS_A_DAY_MAX`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_core::colour::{self, colour};
use cairn_proto::{GroupId, GroupTicket, PeerKey, Slot, Timestamp, mandate::half, order::OrderId};

use super::{MonthsReport, STRIPES, World, peers::Member};
use crate::{checkers::Violation, world::HOUR};

/// A home machine is presumed gone after seven days; then an order, its failure, another; and a week for a steward that was
/// replaced meanwhile, whose successor has its own doubts first.
pub(super) const GAP_MS_MAX: u64 = 16 * 24 * HOUR;
/// As long as two of seven stewards sign nothing an order takes all the five others at once, of whom homes are asleep for a third of the day.
/// With one copy and cheats among those who could help to rebuild, nothing may come of it before these are found out.
pub(super) const GAP_MS_MAX_IF_HARD: u64 = 60 * 24 * HOUR;
/// Who has been there for so long could have become a steward: a day as a newcomer, and the look for another every twelve hours.
const HEIR_MS: u64 = 72 * HOUR;
/// Sixteen places of a group, all of them renewed in a day, would be a storm.
pub(super) const ORDERS_A_DAY_MAX: usize = 16;

/// Everything that was ever seen.
#[derive(Default)]
pub(super) struct Watcher {
    tickets: BTreeMap<GroupId, GroupTicket>,
    slots: BTreeMap<(GroupId, PeerKey), Slot>,
    orders: BTreeMap<GroupId, VecDeque<Timestamp>>,
    /// Successions that bad stewards made up while others were here.
    pub(super) usurped: BTreeSet<OrderId>,
    /// Groups whose stewards were too few at some time.
    stuck: BTreeSet<GroupId>,
    /// When somebody last watched a group.
    watched: BTreeMap<GroupId, Timestamp>,
    /// Since when a slot has no holder though it could have one.
    empty: BTreeMap<(GroupId, Slot), Timestamp>,
    /// Who has a slot that nobody else may have.
    pub(super) lonely: BTreeMap<(GroupId, Slot), BTreeSet<PeerKey>>,
    /// What newcomers were given of each group within a day.
    pub(super) newcomers: BTreeMap<(GroupId, PeerKey), Vec<(Timestamp, u32)>>,
    /// Nonces of tokens that a holder saw.
    pub(super) asked: BTreeSet<[u8; 32]>,
    /// Other machines of cheats, and whose.
    pub(super) seconds: BTreeMap<usize, usize>,
}

impl Watcher {
    pub(super) fn group(&mut self, group: GroupId, ticket: GroupTicket) {
        self.tickets.insert(group, ticket);
    }

    /// Whether a slot is of this member's colour.
    pub(super) fn may_hold(&self, group: &GroupId, slot: Slot, member: &Member) -> bool {
        self.tickets.get(group).is_some_and(|ticket| colour::may_hold(ticket, &member.domain, slot))
    }

    pub(super) fn accepted(
        &mut self,
        at: Timestamp,
        ticket: &GroupTicket,
        slot: Slot,
        member: &Member,
    ) -> Result<(), Violation> {
        let group = ticket.id();
        let before = *self.slots.entry((group, member.key)).or_insert(slot);
        let own = colour(ticket, &member.domain).index();
        if before != slot || own != slot.index() {
            let what = format!("{} of colour {own} has slots {before} and {slot}", member.key.short());
            return Err(Violation { invariant: "SEP-1", at, what });
        }
        Ok(())
    }

    /// A slot's sheet is shown to an auditor: of its colour, and none that had another slot.
    pub(super) fn shown(
        &self,
        at: Timestamp,
        ticket: &GroupTicket,
        slot: Slot,
        member: &Member,
    ) -> Result<(), Violation> {
        let had = self.slots.get(&(ticket.id(), member.key)).copied().unwrap_or(slot);
        let own = colour(ticket, &member.domain).index();
        if had != slot || own != slot.index() {
            let what = format!("{} of colour {own}, which had slot {had}, audits slot {slot}", member.key.short());
            return Err(Violation { invariant: "SEP-1", at, what });
        }
        Ok(())
    }

    /// Counts an order; how many there were within a day.
    pub(super) fn ordered(&mut self, group: GroupId, now: Timestamp) -> u32 {
        let orders = self.orders.entry(group).or_default();
        orders.push_back(now);
        while orders.front().is_some_and(|first| now.ms_since(*first) > 24 * HOUR) {
            orders.pop_front();
        }
        orders.len() as u32
    }
}

impl World<'_> {
    /// Whether enough of a group's stewards, as one of them sees them, have not left for good.
    fn can_order(&self, group: GroupId) -> bool {
        let alive = |peer: &PeerKey| !self.members[self.index[peer]].departed;
        (0..self.members.len()).filter(|at| self.watches(*at, group)).any(|at| {
            let report = self.members[at].steward.report(&group, self.now);
            report.is_some_and(|report| {
                let there = report.stewards.iter().filter(|(peer, _)| alive(peer)).count();
                there >= half(report.stewards.len())
            })
        })
    }

    /// Whether those that are left and sign are enough for an order about shards. Of a committee that shrank to five two bad ones are too many.
    fn can_repair(&self, group: GroupId) -> bool {
        let good = |peer: &PeerKey| {
            let member = &self.members[self.index[peer]];
            !member.departed && member.malice.is_none()
        };
        let watchers = (0..self.members.len()).filter(|at| self.watches(*at, group));
        watchers.filter_map(|at| self.members[at].steward.report(&group, self.now)).any(|report| {
            let signers = report.stewards.iter().filter(|(peer, _)| good(peer)).count();
            signers >= report.quorum
        })
    }

    fn watches(&self, at: usize, group: GroupId) -> bool {
        !self.members[at].departed && self.members[at].steward.groups().any(|id| id == group)
    }

    /// Who really has a slot: all of its shards, and not gone for good.
    pub(super) fn holders(&self, group: GroupId, slot: Slot) -> Vec<usize> {
        let stripes = self.stripes_of(group, slot);
        let has = |member: &Member| stripes.iter().all(|stripe| member.shards.contains_key(&(group, slot, *stripe)));
        (0..self.members.len()).filter(|at| has(&self.members[*at])).collect()
    }

    pub(super) fn check(&mut self) -> Result<(), Violation> {
        let bad = |invariant, at, what| Err(Violation { invariant, at, what });
        for group in self.groups.clone() {
            for stripe in 0..STRIPES {
                let alive = self.settings.code.each_slot().filter(|slot| {
                    self.members.iter().any(|member| member.shards.contains_key(&(group, *slot, stripe)))
                });
                let alive = alive.count();
                if alive < usize::from(self.used(group, stripe)) && !self.settings.asleep {
                    let what = format!("stripe {stripe} of group {} has {alive} slots left", group.short());
                    return bad("REP-1", self.now, what);
                }
            }
            let stewards = (0..self.members.len()).filter(|at| self.watches(*at, group)).count();
            if stewards > 0 {
                self.watcher.watched.insert(group, self.now);
            }
            // More than half of them lost within a day: nobody can order anything until whoever is left has filled their places (ADR 0024).
            let stuck = stewards > 0 && !self.can_order(group);
            if stuck {
                self.watcher.stuck.insert(group);
            }
            let helpless = stuck || (self.settings.bad > 0 && !self.can_repair(group));
            for slot in self.settings.code.each_slot() {
                let able = self.members.iter().any(|member| {
                    let ticket = &self.watcher.tickets[&group];
                    member.up && !member.cheats && colour(ticket, &member.domain).index() == slot.index()
                });
                if !self.holders(group, slot).is_empty() || !able || stewards == 0 || helpless {
                    self.watcher.empty.remove(&(group, slot));
                    continue;
                }
                let since = *self.watcher.empty.entry((group, slot)).or_insert(self.now);
                let gap = self.now.ms_since(since);
                self.report.longest_gap_hours = self.report.longest_gap_hours.max(gap / HOUR);
                let most = if self.settings.bad > 1 || self.settings.lonely.is_some() {
                    GAP_MS_MAX_IF_HARD
                } else {
                    GAP_MS_MAX
                };
                if gap > most && !self.settings.asleep {
                    return bad("REP-1", self.now, format!("slot {slot} of group {} has no holder", group.short()));
                }
            }
            let orders = self.watcher.orders.get(&group).map_or(0, VecDeque::len);
            if orders > ORDERS_A_DAY_MAX {
                return bad("REP-2", self.now, format!("{orders} orders within a day for group {}", group.short()));
            }
        }
        Ok(())
    }

    /// The owner is back: every byte comes from whoever is there or will be, and the stewards can tell what happened.
    pub(super) fn finish(mut self) -> Result<MonthsReport, Violation> {
        let bad = |invariant, at, what| Err(Violation { invariant, at, what });
        for group in self.groups.clone() {
            for stripe in 0..STRIPES {
                let shard = |slot: Slot| {
                    self.members.iter().find_map(|member| member.shards.get(&(group, slot, stripe)).cloned())
                };
                let mut shards: Vec<Option<Vec<u8>>> = self.settings.code.each_slot().map(shard).collect();
                let used = usize::from(self.used(group, stripe));
                let restored = self.codec.reconstruct(used, &mut shards, false).is_ok();
                let same = restored && shards.iter().take(used).flatten().eq(self.data[&(group, stripe)].iter());
                if !same && !self.settings.asleep {
                    return bad("DUR-2", self.now, format!("stripe {stripe} of group {} is lost", group.short()));
                }
                self.report.lost += u32::from(!same);
            }
            for slot in self.settings.code.each_slot() {
                self.report.below_target +=
                    u32::from(self.holders(group, slot).len() < usize::from(self.settings.copies));
            }
            let stewards: BTreeSet<usize> = (0..self.members.len()).filter(|at| self.watches(*at, group)).collect();
            self.check_usurped(group)?;
            self.report.unwatched += u32::from(stewards.is_empty());
            self.report.stuck_in_the_end += u32::from(!stewards.is_empty() && !self.can_order(group));
            // In a network as small as this the stewards' colour may run empty. While somebody is there, nobody is let go unseen.
            let last = self.watcher.watched.get(&group).copied().unwrap_or(Timestamp(0));
            let ticket = &self.watcher.tickets[&group];
            let heir = self.members.iter().any(|member| {
                let aged = member.joined.plus_ms(HEIR_MS) <= last;
                aged && !member.departed && colour(ticket, &member.domain).index() == self.settings.code.slots()
            });
            if stewards.is_empty() && heir && !self.settings.asleep {
                return bad("REP-1", self.now, format!("nobody watches group {} any more", group.short()));
            }
            let told = stewards.iter().filter_map(|at| self.members[*at].steward.report(&group, self.now));
            let told: Vec<_> = told.collect();
            if told.iter().any(|report| !report.log.is_sorted_by_key(|entry| entry.at)) {
                return bad("LOG-1", self.now, format!("what happened to group {} is out of order", group.short()));
            }
            self.report.changes += told.iter().map(|report| report.changes()).max().unwrap_or(0);
        }
        if self.settings.cheats > 0 {
            self.check_manners()?;
            self.check_lonely()?;
        }
        self.report.stuck = self.watcher.stuck.len() as u32;
        self.report.trace = self.trace.digest();
        self.report.events = self.trace.lines();
        Ok(self.report)
    }
}
