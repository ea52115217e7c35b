//! Months without the owner: stewards, their orders and those who carry them out, on the daemon's own decisions.
//!
//! An owner puts a few groups of small stripes among the peers, leaves record and mandate with the stewards, and is gone. Peers
//! come and go by the hour, for good, or rot a little; they crash, also between what they wrote down and what they were about to say,
//! and know then what they wrote ([`cairn_core::steward::Effect::Persist`]); messages are late and get lost; the network is cut in two for a day. What decides is
//! [`cairn_core::steward::Steward`] and [`cairn_core::part`], with real signatures; a shard is [`SHARD`] real bytes, coded, copied,
//! rebuilt and hashed. In the end the owner asks whoever is there and every byte must come back.
//!
//! # Left out, so not shown by a green run
//!
//! - How a rebuild travels: here the new holder is handed the sum that the blinded chain ends in, which
//!   `cairn_core::blind` shows to reveal nothing else.
//! - Anybody who lies: stewards and holders do as told, or are away. Audits.
//! - Clocks that differ, an owner who comes back in between. Groups have three stripes, none of them short.
//! - Signs of life come by the hour, not by the minute: the liveness timers are [`TIMERS`], coarser than the daemon's.
//! - Peers' stores are as large as need be; lines are as fast as [`TRANSFER_MS`] says.

mod checks;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    erasure::Codec,
    liveness::Timers,
    part,
    peer_view::PeerView,
    placement::{self, GroupRequest, Owner, PlacementPolicy},
    steward::{Effect, Failure, Say},
};
use cairn_proto::{
    Action, CodeParams, GroupId, GroupRecord, GroupTicket, Mandate, Ordinals, PeerKey, Powers, ShardRoot, SheetRow,
    Slot, SlotSheet, Taken, Timestamp,
    mandate::{MANDATE_MS_MAX, STEWARDS_MAX},
    manifest::HOLDERS_MAX,
};
use ed25519_dalek::SigningKey;
use rand_core::Rng as _;

use self::{checks::Watcher, peers::Member};
use crate::{
    checkers::Violation,
    trace::Trace,
    world::{Dice, HOUR},
};

/// Bytes of a shard here.
pub const SHARD: usize = 64;
/// Stripes of a group here.
const STRIPES: u8 = 3;
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

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Months {
    /// Draws everything.
    pub seed: u64,
    /// Peers, kept up by newcomers.
    pub peers: u32,
    /// Days.
    pub days: u32,
    /// Hundredths of the peers that leave for good in a month.
    pub churn_percent: u32,
    /// The owner's groups.
    pub groups: u32,
    /// Thousandths of messages that are lost.
    pub lost_per_mille: u32,
    /// The day on which the network is cut in two for 30 hours.
    pub cut_on_day: Option<u32>,
    /// Whether stewards do nothing, to show that something is needed of them.
    pub asleep: bool,
    /// Whether new holders take the slot behind the one that they are given, to show that the checks would see it.
    pub greedy: bool,
}

impl Months {
    /// 48 peers, 180 days, two groups.
    #[must_use]
    pub const fn new(seed: u64, churn_percent: u32) -> Self {
        let cut_on_day = Some(60);
        let (asleep, greedy) = (false, false);
        Self { seed, peers: 48, days: 180, churn_percent, groups: 2, lost_per_mille: 10, cut_on_day, asleep, greedy }
    }

    /// The command that repeats this run.
    #[must_use]
    pub fn command(&self) -> String {
        format!(
            "cargo run -p cairn-sim -- --scenario months --seed {:#x} --nodes {} --days {} --churn {} --groups {}",
            self.seed, self.peers, self.days, self.churn_percent, self.groups
        )
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MonthsReport {
    /// Hash of the event log.
    pub trace: String,
    /// Its lines.
    pub events: u64,
    /// Peers that left for good.
    pub departed: u32,
    /// Holders among them, a slot each.
    pub holders_lost: u32,
    /// Orders that were certified.
    pub orders: u32,
    /// ... of these copies carried out,
    pub copies: u32,
    /// rebuilds carried out,
    pub rebuilds: u32,
    /// and failures told.
    pub failures: u32,
    /// Changes of stewards.
    pub changes: u32,
    /// Stewards that crashed and were started again from what they had written.
    pub crashes: u32,
    /// Shards that rotted and were healed.
    pub healed: u32,
    /// Most orders certified within a day, in a group.
    pub most_a_day: u32,
    /// Orders certified while the network was cut.
    pub orders_while_cut: u32,
    /// Stripes that are lost in the end; none, unless the stewards sleep.
    pub lost: u32,
    /// Groups that lost more than half of their stewards before these could be replaced.
    pub stuck: u32,
    /// Groups that nobody watches in the end: the stewards' colour ran empty.
    pub unwatched: u32,
    /// Slots below target in the end.
    pub below_target: u32,
    /// Longest that a slot had no live holder while somebody of its colour was there, in hours.
    pub longest_gap_hours: u64,
}

enum Event {
    Round,
    Up(usize),
    Down(usize),
    Depart(usize),
    Join,
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
    data: BTreeMap<(GroupId, u8), Vec<Vec<u8>>>,
    codec: Codec,
    watcher: Watcher,
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
            codec: Codec::new(CodeParams::DEFAULT),
            watcher: Watcher::default(),
            trace: Trace::new(),
            report: MonthsReport::default(),
        };
        for _ in 0..settings.peers {
            world.join(Timestamp(0));
        }
        for number in 0..settings.groups {
            world.place(number)?;
        }
        world.after(ROUND_MS, Event::Round);
        Ok(world)
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now.plus_ms(ms), self.scheduled), event);
    }

    fn join(&mut self, since: Timestamp) {
        let at = self.members.len();
        let member = Member::draw(at as u32, since, &mut self.dice, self.now);
        self.index.insert(member.key, at);
        let wait = member.next_change(&mut self.dice);
        self.members.push(member);
        self.after(wait, Event::Down(at));
        let life = self.dice.exponential_hours(30 * 24 * 100, self.settings.churn_percent);
        self.after(life, Event::Depart(at));
        let rot = self.dice.around_hours(120 * 24);
        self.after(rot, Event::Rot(at));
        let crash = self.dice.around_hours(CRASH_HOURS);
        self.after(crash, Event::Crash(at));
    }

    /// The owner makes a group, puts stripes into it and leaves record and mandate with its stewards.
    fn place(&mut self, number: u32) -> Result<(), Violation> {
        let bad = |what: String| Violation { invariant: "REP-1", at: Timestamp(0), what };
        let views = self.views(None);
        let policy = PlacementPolicy::new(CodeParams::DEFAULT, 2);
        let mut secret = crate::world::key("authority", number);
        secret[..8].copy_from_slice(&self.settings.seed.to_le_bytes());
        let authority = SigningKey::from_bytes(&secret);
        let owner = Owner { peer: PeerKey::from_bytes([255; 32]), domain: crate::world::operator("the-owner") };
        let avoid = BTreeSet::new();
        let request = GroupRequest {
            owner,
            authority: authority.verifying_key().to_bytes(),
            policy: &policy,
            avoid: &avoid,
            now: self.now,
            owner_key: Some([number as u8; 32]),
        };
        let plan = placement::plan_group(&views, &request, self.dice.rng());
        let plan = plan.map_err(|e| bad(format!("no group: {e}")))?;
        let mut stewards = placement::stewards(&views, &request, &plan.ticket);
        stewards.truncate(STEWARDS_MAX);
        let group = plan.ticket.id();
        let mut rows: Vec<Vec<SheetRow>> = plan.slots.iter().map(|_| Vec::new()).collect();
        for ordinal in 0..STRIPES {
            let shards = self.stripe(group, ordinal);
            for slot in CodeParams::DEFAULT.each_slot() {
                let bytes = &shards[slot.index()];
                let root = ShardRoot::from_bytes(*blake3::hash(bytes).as_bytes());
                rows[slot.index()].push(SheetRow { ordinal, used: 5, root });
                for holder in plan.chosen(slot) {
                    self.store(self.index[holder], &plan.ticket, slot, ordinal, bytes.clone())?;
                }
            }
        }
        let mandate = Mandate {
            ticket: plan.ticket,
            generation: 1,
            stewards: stewards.clone(),
            replicas: 2,
            powers: Powers::ALL,
            monthly_bytes: 64 << 30,
            issued: self.now,
            ends: self.now.plus_ms(MANDATE_MS_MAX),
        };
        let sheet = |slot: Slot| {
            let holders = plan.chosen(slot).iter().take(HOLDERS_MAX).copied().collect();
            let rows = rows[slot.index()].clone();
            SlotSheet { group, slot, generation: 1, holders, rows }.seal(&authority)
        };
        let sheets = CodeParams::DEFAULT.each_slot().map(sheet).collect::<Result<Vec<_>, _>>();
        let record = sheets.and_then(|sheets| GroupRecord::new(mandate.seal(&authority)?, sheets));
        let record = record.map_err(|e| bad(e.to_string()))?;
        self.trace.line(self.now, format_args!("group {} with {} stewards", group.short(), stewards.len()));
        for steward in stewards {
            let at = self.index[&steward];
            let now = self.now;
            self.members[at].steward.adopt(record.clone(), &[], now).map_err(|e| bad(e.to_string()))?;
            self.effects(at)?;
        }
        self.watcher.group(group, plan.ticket);
        self.groups.push(group);
        Ok(())
    }

    fn stripe(&mut self, group: GroupId, ordinal: u8) -> Vec<Vec<u8>> {
        let mut data: Vec<Vec<u8>> = Vec::new();
        for _ in 0..self.codec.params().data() {
            let mut bytes = vec![0; SHARD];
            self.dice.rng().fill_bytes(&mut bytes);
            data.push(bytes);
        }
        let parity = self.codec.parity(&data).unwrap_or_default();
        self.data.insert((group, ordinal), data.clone());
        data.extend(parity);
        data
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
        member.shards.insert((ticket.id(), slot, ordinal), bytes);
        Ok(())
    }

    fn is_cut(&self) -> bool {
        let day = 24 * HOUR;
        let from = self.settings.cut_on_day.map(|on| u64::from(on) * day);
        from.is_some_and(|from| self.now.0 >= from && self.now.0 < from + 30 * HOUR)
    }

    /// Whether a message can go from one to the other now.
    fn reach(&self, from: usize, to: usize) -> bool {
        let side = |at: usize| at % 2;
        self.members[from].up && self.members[to].up && (!self.is_cut() || side(from) == side(to))
    }

    /// How everybody that can be heard there looks to a peer of that side.
    fn views(&self, side: Option<usize>) -> Vec<PeerView> {
        let seen = |(at, member): (usize, &Member)| {
            let heard = member.up && (!self.is_cut() || side.is_none_or(|side| at % 2 == side));
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
                    member.up = matches!(event, Event::Up(_));
                    let wait = member.next_change(&mut self.dice);
                    let next = if self.members[at].up { Event::Down(at) } else { Event::Up(at) };
                    self.after(wait, next);
                }
            }
            Event::Depart(at) => {
                let held = self.members[at].shards.keys().map(|(group, slot, _)| (*group, *slot));
                let slots = held.collect::<BTreeSet<_>>().len() as u32;
                self.members[at].depart();
                self.report.departed += 1;
                self.report.holders_lost += slots;
                self.trace.line(self.now, format_args!("{at} departs with {slots} slots"));
                let wait = self.dice.around_hours(24);
                self.after(wait, Event::Join);
            }
            Event::Join => self.join(self.now),
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
        for at in up.iter().copied() {
            self.confess(at);
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
            let (now, side) = (self.now, at % 2);
            heard.into_iter().for_each(|peer| self.members[at].steward.heard(peer, now));
            self.members[at].steward.tick(now, &views[side], self.dice.rng());
            self.effects(at)?;
            // Now and then what is believed of peers is written too; a crash loses what was learned since.
            if self.dice.per_mille(50) {
                self.members[at].watched = self.members[at].steward.watch().encode();
            }
        }
        self.check()
    }

    fn deliver(&mut self, to: usize, from: usize, say: Say) -> Result<(), Violation> {
        let views = self.views(Some(to % 2));
        let from = self.members[from].key;
        let now = self.now;
        self.members[to].steward.told(from, say, now, &views);
        self.effects(to)
    }

    /// Does what a steward wants done.
    fn effects(&mut self, at: usize) -> Result<(), Violation> {
        while let Some(effect) = self.members[at].steward.poll() {
            match effect {
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
                Effect::Give { to, ref credentials, .. } => {
                    let to = self.index[&to];
                    let action = &credentials.certificate.order.action;
                    self.trace.line(self.now, format_args!("{at} orders {}", peers::told(action)));
                    self.report.orders += 1;
                    self.report.orders_while_cut += u32::from(self.is_cut());
                    let most = self.watcher.ordered(credentials.certificate.order.group, self.now);
                    self.report.most_a_day = self.report.most_a_day.max(most);
                    let wait = 50 + u64::from(self.dice.below(2000));
                    self.after(wait, Event::Given { to, from: at, effect: Box::new(effect) });
                }
            }
        }
        Ok(())
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

    /// A new holder does what it was given, as far as it finds it good.
    fn carry_out(&mut self, to: usize, from: usize, effect: Effect) -> Result<(), Violation> {
        let Effect::Give { credentials, sheet, previous, .. } = effect else { return Ok(()) };
        if !self.members[to].up {
            return Ok(());
        }
        let order = &credentials.certificate.order;
        let (group, name) = (order.group, order.id().unwrap_or_default());
        let member = &self.members[to];
        let held = member.ledger.get(&group).copied();
        let task = part::may_take(&credentials, &sheet, &member.key, &member.domain, held, self.now);
        let task = match task {
            Ok(task) => task,
            Err(why) => {
                self.trace.line(self.now, format_args!("{to} refuses: {why}"));
                self.say(to, from, Say::Failed { group, order: name, failure: Failure::Refused });
                return Ok(());
            }
        };
        let mut task = task;
        if self.settings.greedy {
            task.slot = Slot::new((task.slot.as_u8() + 1) % 8).unwrap_or(task.slot);
        }
        let stewards: Vec<usize> = task.part.stewards.iter().map(|peer| self.index[peer]).collect();
        let mut took = Ordinals::default();
        let mut failure = None;
        for row in &task.rows {
            match self.fetch(to, &credentials, task.slot, row.ordinal, &task.part.action) {
                Ok(bytes) if self.settings.greedy || blake3::hash(&bytes).as_bytes() == row.root.as_bytes() => {
                    self.store(to, &task.part.mandate.ticket, task.slot, row.ordinal, bytes)?;
                    took.insert(row.ordinal);
                }
                Ok(_) => failure = Some(Failure::Wrong(None)),
                Err(missing) => failure = Some(Failure::Missing(missing)),
            }
        }
        let say = if took.is_empty() {
            self.report.failures += 1;
            Say::Failed { group, order: name, failure: failure.unwrap_or(Failure::Refused) }
        } else {
            let heals = held.is_some();
            match &task.part.action {
                _ if heals => self.report.healed += took.len() as u32,
                Action::Copy { .. } => self.report.copies += 1,
                _ => self.report.rebuilds += 1,
            }
            let (slot, holder) = (task.slot, self.members[to].key);
            let taken = Taken { order: name, group, slot, ordinals: took, previous, at: self.now, holder };
            let sealed = taken.seal(&self.members[to].identity);
            Say::Taken { certificate: credentials.certificate.clone(), sealed }
        };
        self.trace.line(self.now, format_args!("{to} has {} of slot {}", took.len(), task.slot));
        for steward in stewards {
            self.say(to, steward, say.clone());
        }
        Ok(())
    }

    /// A shard's bytes by an order: from the peer that has it, or as the sum of what helpers have. Who was missing otherwise.
    fn fetch(
        &self,
        to: usize,
        credentials: &part::Credentials,
        slot: Slot,
        ordinal: u8,
        action: &Action,
    ) -> Result<Vec<u8>, PeerKey> {
        let group = credentials.certificate.order.group;
        let asked = |peer: &PeerKey, of: Slot| -> Result<Vec<u8>, PeerKey> {
            let at = self.index[peer];
            let bytes = self.members[at].shards.get(&(group, of, ordinal)).filter(|_| self.reach(at, to));
            bytes.cloned().ok_or(*peer)
        };
        match action {
            Action::Copy { from, to: me, .. } => {
                let served = part::may_serve(credentials, from, (me, &self.members[to].domain), self.now);
                let fine = served.is_ok_and(|(of, ordinals)| of == slot && ordinals.contains(ordinal));
                if fine { asked(from, slot) } else { Err(*from) }
            }
            Action::Rebuild { helpers, .. } => {
                let mut shards: Vec<Option<Vec<u8>>> = vec![None; self.codec.params().slots()];
                for (of, helper) in helpers {
                    let held = self.members[self.index[helper]].ledger.get(&group).copied();
                    let domain = &self.members[to].domain;
                    let own = part::may_help(credentials, helper, held, domain, self.now).map(|(_, own)| own);
                    if own != Ok(*of) {
                        return Err(*helper);
                    }
                    shards[of.index()] = Some(asked(helper, *of)?);
                }
                let known: Vec<Option<&[u8]>> = shards.iter().map(Option::as_deref).collect();
                let made = self.codec.missing(self.codec.params().data(), &known, true, |length| vec![0; length]);
                let found = made.ok().and_then(|made| made.into_iter().find(|(at, _)| *at == slot.index()));
                found.map(|(_, bytes)| bytes).ok_or(self.members[to].key)
            }
            _ => Err(self.members[to].key),
        }
    }

    /// A peer's disk loses a shard; its scrub finds that, and it says so to the stewards.
    fn rot(&mut self, at: usize) {
        let wait = self.dice.around_hours(120 * 24);
        self.after(wait, Event::Rot(at));
        let held: Vec<(GroupId, Slot, u8)> = self.members[at].shards.keys().copied().collect();
        if !self.members[at].up || held.is_empty() {
            return;
        }
        let (group, slot, ordinal) = held[self.dice.below(held.len() as u32) as usize];
        self.members[at].shards.remove(&(group, slot, ordinal));
        self.members[at].rotten.insert((group, slot));
        self.trace.line(self.now, format_args!("{at} lost stripe {ordinal} of slot {slot}"));
        self.confess(at);
    }

    /// A peer that lost something tells the stewards that it can reach, until it has all again.
    fn confess(&mut self, at: usize) {
        let rotten: Vec<(GroupId, Slot)> = self.members[at].rotten.iter().copied().collect();
        for (group, slot) in rotten {
            let mine = self.members[at].shards.keys().filter(|(g, s, _)| *g == group && *s == slot);
            let has: Ordinals = mine.map(|(_, _, ordinal)| *ordinal).collect();
            if has.len() == usize::from(STRIPES) {
                self.members[at].rotten.remove(&(group, slot));
            }
            let (key, now) = (self.members[at].key, self.now);
            for to in 0..self.members.len() {
                if self.reach(at, to) && self.members[to].steward.groups().any(|id| id == group) {
                    self.members[to].steward.reported(key, group, slot, &has, now);
                }
            }
        }
    }
}
