//! Months without the owner: stewards, their orders and those who carry them out, on the daemon's own decisions.
//!
//! An owner puts a few groups of small stripes, of one to five data shards each, among the peers, leaves record and mandate with the stewards, and is gone. Peers
//! come and go by the hour, for good, or rot a little; they crash, also between what they wrote down and what they were about to say,
//! and know then what they wrote ([`cairn_core::steward::Effect::Persist`]); messages are late and get lost; the network is cut in two for a day. What decides is
//! [`cairn_core::steward::Steward`] and [`cairn_core::part`], with real signatures; a shard is [`SHARD`] real bytes, coded, copied,
//! rebuilt and hashed. In the end the owner asks whoever is there and every byte must come back.
//!
//! # Left out, so not shown by a green run
//!
//! - How a rebuild travels: here the new holder is handed the sum that the blinded chain ends in, which
//!   `cairn_core::blind` shows to reveal nothing else.
//! - How an auditor asks: it sees at once what a holder has (`manners`). Of tokens a digest is of the whole shard (`lonely`). Reputation, proofs of lies. Stewards that lie are as bad as `hostile` makes them, two of seven at most.
//! - Clocks that differ, an owner who comes back in between.
//! - Signs of life come by the hour, not by the minute: the liveness timers are [`TIMERS`], coarser than the daemon's.
//! - Peers' stores are as large as need be; lines are as fast as [`TRANSFER_MS`] says.

mod blows;
mod checks;
mod hostile;
mod lonely;
mod manners;
mod owner;
mod peers;
mod repair;
mod report;
mod settings;
#[cfg(test)]
mod tests;
mod vetting;

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    erasure::Codec,
    liveness::Timers,
    peer_view::PeerView,
    steward::{Effect, Say},
};
use cairn_proto::{GroupId, GroupTicket, PeerKey, Slot, Timestamp, order::OrderId};

pub use self::{blows::Blow, lonely::Lonely, report::MonthsReport, settings::Months};
use self::{checks::Watcher, peers::Member};
use crate::{
    checkers::Violation,
    trace::Trace,
    world::{Dice, HOUR},
};

/// Bytes of a shard here.
pub const SHARD: usize = 64;
/// Stripes of a group here.
const STRIPES: u8 = 5;
/// What an order takes to be carried out, from and to.
pub const TRANSFER_MS: (u64, u64) = (60_000, 30 * 60_000);
/// Late after four hours, because signs of life come every two.
pub const TIMERS: Timers = Timers {
    late_ms: 4 * HOUR,
    away_ms: 5 * HOUR,
    server_gone_ms: 24 * HOUR,
    home_gone_ms: 7 * 24 * HOUR,
    own_outage_ms: 4 * HOUR,
    own_outage_hold_ms: 6 * HOUR,
    own_outage_hold_most_ms: 24 * HOUR,
    mass_ms: 5 * HOUR,
    mass_hold_ms: 6 * HOUR,
    churn_ms: 5 * HOUR,
    day_ms: 24 * HOUR,
    churn_calm_ms: 24 * HOUR,
    server_after_ms: 7 * 24 * HOUR,
    server_absence_ms: 5 * HOUR,
    record_ms: 14 * 24 * HOUR,
    home_off_ms: 8 * HOUR,
    server_off_ms: HOUR,
};
/// A steward crashes once in so many hours, about.
const CRASH_HOURS: u32 = 40 * 24;
/// ... and in so many thousandths of the moments between what it wrote and what it was about to say.
const CRASHES_AFTER_WRITE_PER_MILLE: u32 = 20;
/// Everybody's line, bytes a second: 10 Mbit/s.
const UPSTREAM: u64 = 1_250_000;
/// Between two rounds in which everybody online hears of everybody online, and stewards look at their groups.
const ROUND_MS: u64 = 2 * HOUR;

/// When cheats drop what they have: auditors must be known for a week by then.
const CHEATS_AFTER_MS: u64 = 15 * 24 * HOUR;

enum Event {
    Round,
    Up(usize),
    Down(usize),
    Depart(usize),
    Join,
    Blow(Blow, u32),
    Cheat,
    Company,
    Rest,
    Back(usize),
    Rot(usize),
    Crash(usize),
    Deliver { to: usize, from: usize, say: Box<Say> },
    Given { to: usize, from: usize, effect: Box<Effect> },
    Done { to: usize, from: usize, effect: Box<Effect> },
}

struct World<'a> {
    settings: &'a Months,
    now: Timestamp,
    dice: Dice,
    queue: BTreeMap<(Timestamp, u64), Event>,
    scheduled: u64,
    members: Vec<Member>,
    index: BTreeMap<PeerKey, usize>,
    groups: Vec<GroupId>,
    /// The data shards of each stripe, as many as it has.
    data: BTreeMap<(GroupId, u8), Vec<Vec<u8>>>,
    /// Each slot's sheet, as the owner sealed it; bad stewards keep copies.
    sheets: BTreeMap<(GroupId, Option<Slot>), Vec<u8>>,
    codec: Codec,
    watcher: Watcher,
    /// Orders that were given.
    given: BTreeSet<OrderId>,
    /// What new holders said of theirs, and to whom.
    done: BTreeMap<OrderId, (Vec<usize>, Say)>,
    trace: Trace,
    report: MonthsReport,
}

/// Runs one seed to its end.
///
/// # Errors
/// The first [`Violation`].
pub fn run(settings: &Months) -> Result<MonthsReport, Violation> {
    let mut world = World::new(settings)?;
    let end = Timestamp(u64::from(settings.days) * 24 * HOUR);
    while let Some(((at, _), event)) = world.queue.pop_first() {
        if at > end {
            break;
        }
        world.now = at;
        world.apply(event)?;
    }
    world.now = end;
    world.finish()
}

/// Runs a seed twice and compares the traces.
///
/// # Errors
/// The first [`crate::Failure`].
pub fn run_twice(settings: &Months) -> Result<MonthsReport, crate::Failure> {
    let first = run(settings).map_err(crate::Failure::Violation)?;
    let second = run(settings).map_err(crate::Failure::Violation)?;
    if first == second {
        Ok(first)
    } else {
        Err(crate::Failure::NotDeterministic { first: first.trace, second: second.trace })
    }
}

impl<'a> World<'a> {
    fn new(settings: &'a Months) -> Result<Self, Violation> {
        let mut world = Self {
            settings,
            // Everybody is a day old when the owner comes.
            now: Timestamp(25 * HOUR),
            dice: Dice::new(settings.seed),
            queue: BTreeMap::new(),
            scheduled: 0,
            members: Vec::new(),
            index: BTreeMap::new(),
            groups: Vec::new(),
            data: BTreeMap::new(),
            sheets: BTreeMap::new(),
            codec: Codec::new(settings.code),
            watcher: Watcher::default(),
            given: BTreeSet::new(),
            done: BTreeMap::new(),
            trace: Trace::new(),
            report: MonthsReport::default(),
        };
        for _ in 0..settings.peers {
            world.join(Timestamp(0));
        }
        for number in 0..settings.groups {
            world.place(number)?;
        }
        world.isolate();
        world.after(ROUND_MS, Event::Round);
        if let Some((day, blow)) = settings.blow {
            world.after(u64::from(day) * 24 * HOUR, Event::Blow(blow, 0));
        }
        if settings.cheats > 0 {
            world.after(CHEATS_AFTER_MS, Event::Cheat);
        }
        Ok(world)
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now.plus_ms(ms), self.scheduled), event);
    }

    fn join(&mut self, since: Timestamp) {
        let at = self.members.len();
        let mut member = Member::draw(at as u32, since, &mut self.dice, self.now);
        member.server &= !self.settings.sleepers;
        member.sleeps = self.settings.sleepers;
        member.offers = self.settings.quota.filter(|_| !self.settings.generous).map(vetting::offers);
        self.index.insert(member.key, at);
        let wait = member.next_change(&mut self.dice);
        self.members.push(member);
        self.keep_away(at);
        self.after(wait, Event::Down(at));
        let life = self.dice.exponential_hours(30 * 24 * 100, self.settings.churn_percent);
        self.after(life, Event::Depart(at));
        let rot = self.dice.around_hours(120 * 24);
        self.after(rot, Event::Rot(at));
        let crash = self.dice.around_hours(CRASH_HOURS);
        self.after(crash, Event::Crash(at));
    }

    /// A peer keeps a shard; the watcher sees it.
    fn store(
        &mut self,
        at: usize,
        ticket: &GroupTicket,
        slot: Slot,
        ordinal: u8,
        bytes: Vec<u8>,
    ) -> Result<(), Violation> {
        let member = &mut self.members[at];
        self.watcher.accepted(self.now, ticket, slot, member)?;
        member.ledger.insert(ticket.id(), slot);
        if !member.cheats {
            member.shards.insert((ticket.id(), slot, ordinal), bytes);
        }
        Ok(())
    }

    fn is_cut(&self) -> bool {
        let day = 24 * HOUR;
        let from = self.settings.cut_on_day.map(|on| u64::from(on) * day);
        from.is_some_and(|from| self.now.0 >= from && self.now.0 < from + 30 * HOUR)
    }

    /// Whether a message can go from one to the other now.
    fn reach(&self, from: usize, to: usize) -> bool {
        self.members[from].up && self.members[to].up && (!self.is_cut() || self.side(from) == self.side(to))
    }

    /// On which side of a cut.
    fn side(&self, at: usize) -> usize {
        usize::from(!at.is_multiple_of(usize::from(self.settings.cut_parts.max(1))))
    }

    /// How everybody that can be heard there looks to a peer of that side.
    fn views(&self, side: Option<usize>) -> Vec<PeerView> {
        let seen = |(at, member): (usize, &Member)| {
            let heard = member.up && (!self.is_cut() || side.is_none_or(|side| self.side(at) == side));
            member.view(self.now, heard)
        };
        self.members.iter().enumerate().filter(|(_, member)| !member.departed).map(seen).collect()
    }

    fn apply(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Round => {
                self.after(ROUND_MS, Event::Round);
                self.round()?;
            }
            Event::Up(at) | Event::Down(at) => {
                let member = &mut self.members[at];
                if !member.departed {
                    let always = member.cheats && self.settings.lonely.is_some();
                    member.up = (always || matches!(event, Event::Up(_))) && self.now >= member.silent_until;
                    let wait = member.next_change(&mut self.dice);
                    let next = if matches!(event, Event::Up(_)) { Event::Down(at) } else { Event::Up(at) };
                    self.after(wait, next);
                }
            }
            Event::Depart(at) => {
                let held = self.members[at].shards.keys().map(|(group, slot, _)| (*group, *slot));
                let slots = held.collect::<BTreeSet<_>>().len() as u32;
                if self.members[at].departed || self.leaves_politely(at) {
                    return Ok(());
                }
                self.count_farewell(at);
                self.members[at].depart();
                self.report.departed += 1;
                self.report.holders_lost += slots;
                self.trace.line(self.now, format_args!("{at} departs with {slots} slots"));
                let wait = self.dice.around_hours(24);
                self.after(wait, Event::Join);
            }
            Event::Join => self.join(self.now),
            Event::Blow(blow, hour) => self.blow(blow, hour),
            Event::Cheat => self.turn_cheats(self.settings.cheats),
            Event::Company => self.company(),
            Event::Rest => self.rest(),
            Event::Back(at) => self.members[at].up = !self.members[at].departed,
            Event::Rot(at) => self.rot(at),
            Event::Crash(at) => {
                let wait = self.dice.around_hours(CRASH_HOURS);
                self.after(wait, Event::Crash(at));
                self.crash(at)?;
            }
            Event::Deliver { to, from, say } => {
                if self.reach(from, to) {
                    self.deliver(to, from, *say)?;
                }
            }
            Event::Given { to, from, effect } => {
                if self.reach(from, to) {
                    let span = TRANSFER_MS.1 - TRANSFER_MS.0;
                    let wait = TRANSFER_MS.0 + u64::from(self.dice.below(span as u32));
                    self.after(wait, Event::Done { to, from, effect });
                }
            }
            Event::Done { to, from, effect } => self.carry_out(to, from, *effect)?,
        }
        Ok(())
    }

    fn round(&mut self) -> Result<(), Violation> {
        let views = [self.views(Some(0)), self.views(Some(1))];
        let up: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].up).collect();
        if !self.is_cut() {
            up.iter().for_each(|at| self.members[*at].last_up = self.now);
        }
        for at in up.iter().copied() {
            self.confess(at);
            self.say_farewell(at);
        }
        for at in up.iter().copied().filter(|_| !self.settings.asleep) {
            if self.members[at].steward.groups().next().is_none() {
                continue;
            }
            let heard: Vec<PeerKey> = up
                .iter()
                .filter(|other| **other != at && self.reach(**other, at))
                .map(|other| self.members[*other].key)
                .collect();
            let (now, side) = (self.now, self.side(at));
            heard.into_iter().for_each(|peer| self.members[at].steward.heard(peer, now));
            self.members[at].steward.tick(now, &views[side], self.dice.rng());
            self.effects(at)?;
            self.audits(at, &views[side])?;
            self.ask_with_tokens(at)?;
            self.mischief(at);
            // What is believed of peers is written too; a crash loses what was learned since. The daemon writes it every five minutes, here
            // it is every other look: four hours.
            if self.dice.per_mille(500) {
                self.members[at].watched = self.members[at].steward.watch().encode();
            }
        }
        self.check()
    }

    fn deliver(&mut self, to: usize, from: usize, say: Say) -> Result<(), Violation> {
        let views = self.views(Some(self.side(to)));
        let from = self.members[from].key;
        let now = self.now;
        self.overheard(to, from, &say);
        self.members[to].steward.told(from, say, now, &views);
        self.effects(to)
    }

    /// Does what a steward wants done.
    fn effects(&mut self, at: usize) -> Result<(), Violation> {
        while let Some(effect) = self.members[at].steward.poll() {
            match effect {
                _ if self.members[at].withholds(&effect) => {}
                Effect::Persist(group) => {
                    self.members[at].write(group);
                    // Written, and nobody was told.
                    if self.dice.per_mille(CRASHES_AFTER_WRITE_PER_MILLE) {
                        return self.crash(at);
                    }
                }
                Effect::Forget(group) => drop(self.members[at].disk.remove(&group)),
                Effect::Tell { to, say } => {
                    let to = self.index[&to];
                    self.say(at, to, *say);
                }
                Effect::Give { .. } => self.give(at, effect),
            }
        }
        Ok(())
    }

    fn give(&mut self, at: usize, effect: Effect) {
        let Effect::Give { to, credentials, .. } = &effect else { return };
        let (to, order) = (self.index[to], &credentials.certificate.order);
        // What was lost on the way is given again, and is the same order.
        if self.given.insert(order.id().unwrap_or_default()) {
            self.trace.line(self.now, format_args!("{at} orders {}", peers::told(&order.action)));
            self.report.orders += 1;
            self.report.orders_while_cut += u32::from(self.is_cut());
            self.count_urgent(at, order);
            self.count_newcomer(at, order);
            let most = self.watcher.ordered(order.group, self.now);
            self.report.most_a_day = self.report.most_a_day.max(most);
        }
        let wait = 50 + u64::from(self.dice.below(2000));
        self.after(wait, Event::Given { to, from: at, effect: Box::new(effect) });
    }

    /// A steward is started again from what it wrote.
    fn crash(&mut self, at: usize) -> Result<(), Violation> {
        let (now, member) = (self.now, &mut self.members[at]);
        if member.departed || member.disk.is_empty() {
            return Ok(());
        }
        self.report.crashes += 1;
        self.trace.line(now, format_args!("{at} crashes"));
        member.restart(now).map_err(|e| Violation { invariant: "CRASH-1", at: now, what: e.to_string() })
    }

    fn say(&mut self, from: usize, to: usize, say: Say) {
        if !self.dice.per_mille(self.settings.lost_per_mille) {
            let wait = 50 + u64::from(self.dice.below(2000));
            self.after(wait, Event::Deliver { to, from, say: Box::new(say) });
        }
    }
}
