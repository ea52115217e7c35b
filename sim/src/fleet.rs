//! The event loop: virtual time, one queue, one seed.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::{
    peer_view::PeerView,
    placement::{self, PlacementPolicy, Vacancy},
};
use cairn_proto::{PeerKey, Slot, Timestamp};

use crate::{
    checkers::{self, Separation, Violation},
    owner::{Group, Owner},
    peer::{Peer, Presence, Refusal},
    scenario::Settings,
    trace::Trace,
    world::{self, Dice, HOUR},
};

/// What a run did. A run that did nothing shows nothing, so tests look at these.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Hash of the event log.
    pub trace: String,
    /// Its lines.
    pub events: u64,
    /// Groups made.
    pub groups: u64,
    /// Plans that reported a relaxation.
    pub relaxed: u64,
    /// Times that there were too few peers for a group.
    pub too_few: u64,
    /// Shards accepted.
    pub accepted: u64,
    /// Shards sent again because a holder was gone.
    pub repaired: u64,
    /// Offers refused for colour.
    pub refused_colour: u64,
    /// Offers refused by the ledger.
    pub refused_ledger: u64,
    /// Offers refused for space.
    pub refused_full: u64,
    /// Offers that found nobody.
    pub refused_away: u64,
    /// Slots that hostile owners offered to peers of another colour, or to peers that held another slot.
    pub attacks: u64,
}

enum Event {
    Backup(usize),
    Repair(usize),
    Attack(usize),
    Leave(usize),
    Return(usize),
    Join,
    NewDomain(usize),
    Audit,
}

struct Fleet<'a> {
    settings: &'a Settings,
    now: Timestamp,
    dice: Dice,
    queue: BTreeMap<(Timestamp, u64), Event>,
    scheduled: u64,
    peers: Vec<Peer>,
    index: BTreeMap<PeerKey, usize>,
    owners: Vec<Owner>,
    separation: Separation,
    trace: Trace,
    report: Report,
}

/// Runs one seed to its end.
///
/// # Errors
/// The first [`Violation`].
pub fn run(settings: &Settings) -> Result<Report, Violation> {
    let mut fleet = Fleet::new(settings);
    let end = Timestamp(u64::from(settings.days) * 24 * HOUR);
    while let Some(((at, _), event)) = fleet.queue.pop_first() {
        if at > end {
            break;
        }
        fleet.now = at;
        fleet.apply(event)?;
    }
    fleet.now = end;
    checkers::accounting(end, &fleet.peers, &fleet.owners)?;
    fleet.report.trace = fleet.trace.digest();
    fleet.report.events = fleet.trace.lines();
    Ok(fleet.report)
}

impl<'a> Fleet<'a> {
    fn new(settings: &'a Settings) -> Self {
        let mut fleet = Self {
            settings,
            now: Timestamp(0),
            dice: Dice::new(settings.seed),
            queue: BTreeMap::new(),
            scheduled: 0,
            peers: Vec::new(),
            index: BTreeMap::new(),
            owners: Vec::new(),
            separation: Separation::default(),
            trace: Trace::new(),
            report: Report::default(),
        };
        for _ in 0..settings.nodes {
            fleet.join();
        }
        for i in 0..(settings.nodes / 50).max(4) {
            fleet.add_owner(i);
        }
        fleet.after(24 * HOUR, Event::Audit);
        fleet.after(HOUR, Event::Join);
        fleet
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now.plus_ms(ms), self.scheduled), event);
    }

    fn operators(&self) -> u32 {
        (self.settings.nodes / 20).max(2)
    }

    fn join(&mut self) {
        let at = self.peers.len();
        let peer = world::draw_peer(at as u32, self.operators(), self.now, &mut self.dice);
        self.index.insert(peer.key, at);
        self.peers.push(peer);
        let wait = self.dice.around_hours(self.settings.hours_between_departures());
        self.after(wait, Event::Leave(at));
    }

    fn add_owner(&mut self, i: u32) {
        let own_storage = self.dice.per_mille(300);
        let operator = self.dice.below(self.operators());
        let one_in = self.settings.hostile_one_in();
        let at = self.owners.len();
        self.owners.push(Owner {
            key: PeerKey::from_bytes(world::key("owner", i)),
            domain: world::operator(&if own_storage { format!("op{operator}") } else { format!("owner{i}") }),
            hostile: one_in > 0 && i.is_multiple_of(one_in),
            groups: Vec::new(),
            secret: world::key("secret", i),
        });
        let wait = self.dice.around_hours(12);
        self.after(wait, Event::Backup(at));
        self.after(wait + HOUR, Event::Repair(at));
        if self.owners[at].hostile {
            self.after(wait + 2 * HOUR, Event::Attack(at));
        }
    }

    fn apply(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Backup(owner) => {
                self.backup(owner)?;
                let wait = self.dice.around_hours(24);
                self.after(wait, Event::Backup(owner));
            }
            Event::Repair(owner) => {
                self.repair(owner)?;
                self.after(24 * HOUR, Event::Repair(owner));
            }
            Event::Attack(owner) => {
                self.attack(owner)?;
                let wait = self.dice.around_hours(6);
                self.after(wait, Event::Attack(owner));
            }
            Event::Leave(peer) => self.leave(peer),
            Event::Return(peer) => {
                self.peers[peer].presence = Presence::Up;
                self.trace.line(self.now, format_args!("return {peer}"));
                let wait = self.dice.around_hours(self.settings.hours_between_departures());
                self.after(wait, Event::Leave(peer));
            }
            Event::Join => {
                self.join();
                self.trace.line(self.now, format_args!("join {}", self.peers.len() - 1));
                // As many come as leave for good: one departure in thirty.
                let mean = (self.settings.hours_between_departures() * 30 / self.settings.nodes.max(1)).max(1);
                let wait = self.dice.around_hours(mean);
                self.after(wait, Event::Join);
            }
            Event::NewDomain(peer) => {
                let operator = self.dice.below(self.operators());
                self.peers[peer].own = world::operator(&format!("op{operator}"));
                self.trace.line(self.now, format_args!("domain {peer} op{operator}"));
            }
            Event::Audit => {
                checkers::accounting(self.now, &self.peers, &self.owners)?;
                self.after(24 * HOUR, Event::Audit);
            }
        }
        Ok(())
    }

    fn leave(&mut self, peer: usize) {
        let for_good = self.dice.below(30) == 0;
        self.trace.line(self.now, format_args!("leave {peer} {for_good}"));
        if for_good {
            self.peers[peer].presence = Presence::Gone(self.now);
            return;
        }
        self.peers[peer].presence = Presence::Down(self.now);
        let away = self.dice.around_hours(8);
        self.after(away, Event::Return(peer));
        if self.settings.hostile_one_in() > 0 && self.dice.per_mille(50) {
            // A mixed-up credential: its colours change, its ledger does not forget.
            self.after(away, Event::NewDomain(peer));
        }
    }

    fn views(&self) -> Vec<PeerView> {
        // Others forget a peer that was not heard of for a week.
        let forgotten = |p: &&Peer| !matches!(p.presence, Presence::Gone(t) if self.now.ms_since(t) > 7 * 24 * HOUR);
        self.peers.iter().filter(forgotten).map(|p| world::view(p, self.now)).collect()
    }

    fn backup(&mut self, owner: usize) -> Result<(), Violation> {
        let stripes = 1 + self.dice.below(12);
        // A run in three starts a new group, so that many groups are planned in worlds of many states.
        let keeps = self.dice.below(3) != 0;
        for group in &mut self.owners[owner].groups {
            group.open &= keeps;
        }
        let mut avoid = BTreeSet::new();
        for _ in 0..stripes {
            // One more group than a stripe needs: each failed one avoids at least one more peer, so this ends.
            for _ in 0..4 {
                let Some(group) = self.group_for(owner, &avoid)? else { return Ok(()) };
                if self.put_stripe(owner, group, &mut avoid)? {
                    break;
                }
                self.owners[owner].groups[group].open = false;
            }
        }
        Ok(())
    }

    fn group_for(&mut self, owner: usize, avoid: &BTreeSet<PeerKey>) -> Result<Option<usize>, Violation> {
        if let Some(open) = self.owners[owner].open_group() {
            return Ok(Some(open));
        }
        let views = self.views();
        let policy = PlacementPolicy::for_network(&views);
        let number = self.owners[owner].groups.len() as u32;
        let authority = world::key(&format!("authority {owner}"), number);
        let request = self.owners[owner].request(authority, &policy, avoid, self.now);
        let plan = match placement::plan_group(&views, &request, self.dice.rng()) {
            Ok(plan) => plan,
            Err(error) => {
                self.report.too_few += 1;
                self.trace.line(self.now, format_args!("none {owner} {error}"));
                return Ok(None);
            }
        };
        checkers::plan(self.now, &self.owners[owner], &plan, &policy, &self.peers, &self.index)?;
        self.report.groups += 1;
        self.report.relaxed += u64::from(!plan.relaxations.is_empty());
        let id = plan.ticket.id();
        self.trace.line(self.now, format_args!("group {owner} {id} {:?} {:?}", plan.strategy, plan.slots));
        let groups = &mut self.owners[owner].groups;
        groups.push(Group {
            id,
            ticket: plan.ticket,
            strategy: plan.strategy,
            candidates: plan.slots,
            replicas: plan.replicas,
            next: 0,
            open: true,
            placed: BTreeMap::new(),
        });
        Ok(Some(groups.len() - 1))
    }

    /// Whether every slot of a new stripe found its holders. Those that did keep what they have.
    fn put_stripe(&mut self, owner: usize, group: usize, avoid: &mut BTreeSet<PeerKey>) -> Result<bool, Violation> {
        let g = &mut self.owners[owner].groups[group];
        let ordinal = u8::try_from(g.next).unwrap_or(u8::MAX);
        g.next += 1;
        let (code, replicas) = (g.ticket.code(), g.replicas);
        let mut whole = true;
        for slot in code.each_slot() {
            let list = self.owners[owner].groups[group].candidates[slot.index()].clone();
            whole &= self.fill(owner, group, slot, ordinal, replicas, &list, avoid)? == 0;
        }
        Ok(whole)
    }

    /// Offers a shard down the list until it has its replicas; how many are still missing.
    #[allow(clippy::too_many_arguments)]
    fn fill(
        &mut self,
        owner: usize,
        group: usize,
        slot: Slot,
        ordinal: u8,
        mut missing: usize,
        list: &[PeerKey],
        avoid: &mut BTreeSet<PeerKey>,
    ) -> Result<usize, Violation> {
        for key in list {
            if missing == 0 {
                break;
            }
            if avoid.contains(key) {
                continue;
            }
            let peer = self.index[key];
            if self.offer(owner, group, slot, ordinal, peer)? {
                missing -= 1;
            } else {
                avoid.insert(*key);
            }
        }
        Ok(missing)
    }

    fn offer(&mut self, owner: usize, group: usize, slot: Slot, ordinal: u8, peer: usize) -> Result<bool, Violation> {
        let g = &mut self.owners[owner].groups[group];
        let answer = self.peers[peer].offer(&g.ticket, slot, ordinal, self.settings.sabotage);
        self.trace.line(self.now, format_args!("offer {} {slot} {ordinal} {peer} {answer:?}", g.id.short()));
        match answer {
            Ok(()) => {
                self.report.accepted += 1;
                g.placed.entry((slot, ordinal)).or_default().insert(peer);
                self.separation.accepted(self.now, g.id, slot, &self.peers[peer])?;
            }
            Err(Refusal::Colour) => self.report.refused_colour += 1,
            Err(Refusal::Ledger) => self.report.refused_ledger += 1,
            Err(Refusal::Full) => self.report.refused_full += 1,
            Err(Refusal::Away) => self.report.refused_away += 1,
        }
        Ok(answer.is_ok())
    }

    /// Puts a new copy wherever a holder is gone for good, by the ranking of today.
    fn repair(&mut self, owner: usize) -> Result<(), Violation> {
        let views = self.views();
        let policy = PlacementPolicy::for_network(&views);
        let mut avoid = BTreeSet::new();
        for group in 0..self.owners[owner].groups.len() {
            let g = &self.owners[owner].groups[group];
            let lost: Vec<(Slot, u8, usize, Vec<usize>)> = g
                .placed
                .iter()
                .map(|((slot, ordinal), holders)| {
                    let (gone, here): (Vec<usize>, Vec<usize>) =
                        holders.iter().partition(|h| self.peers[**h].is_gone());
                    (*slot, *ordinal, gone, here)
                })
                .filter(|(.., gone, here)| !gone.is_empty() && here.len() < g.replicas)
                .map(|(slot, ordinal, _, here)| (slot, ordinal, g.replicas - here.len(), here))
                .collect();
            if lost.is_empty() {
                continue;
            }
            let request = self.owners[owner].request(*g.ticket.authority(), &policy, &avoid, self.now);
            let ranked = placement::candidates(&views, &request, &g.ticket, g.strategy);
            for (slot, ordinal, missing, here) in lost {
                let holders = self.owners[owner].groups[group].holders(&self.peers);
                let beside = here.iter().map(|h| self.peers[*h].key).collect();
                let vacancy = Vacancy { slot: slot.index(), holders: &holders, beside: &beside, failed: &avoid };
                let order = placement::replacements(&ranked[slot.index()], &vacancy, &views, &policy);
                let list: Vec<PeerKey> = order.into_iter().map(|r| r.peer).collect();
                let left = self.fill(owner, group, slot, ordinal, missing, &list, &mut avoid)?;
                self.report.repaired += (missing - left) as u64;
            }
        }
        Ok(())
    }

    /// A hostile owner offers every slot of one of its groups to one peer, best a peer that holds one already.
    fn attack(&mut self, owner: usize) -> Result<(), Violation> {
        let groups = self.owners[owner].groups.len() as u32;
        if groups == 0 {
            return Ok(());
        }
        let group = self.dice.below(groups) as usize;
        let g = &self.owners[owner].groups[group];
        let holders: BTreeSet<usize> = g.placed.values().flatten().copied().collect();
        let code = g.ticket.code();
        let stranger = self.dice.below(self.peers.len() as u32) as usize;
        let at = self.dice.below(holders.len() as u32) as usize;
        let targets = [holders.into_iter().nth(at), Some(stranger)];
        for peer in targets.into_iter().flatten() {
            for slot in code.each_slot() {
                self.report.attacks += 1;
                // The ordinals from 200 on are left to attacks: a stripe that was never acknowledged.
                let ordinal = 200 + self.dice.below(50) as u8;
                self.offer(owner, group, slot, ordinal, peer)?;
            }
        }
        Ok(())
    }
}
