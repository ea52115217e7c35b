//! Bad stewards: they answer as if nothing were wrong, so nobody replaces them, and do what harm they can.
//!
//! One is silent when it is asked to sign and gives no order that it was to give. Four times a day it proposes, whosever turn it is, something
//! of its own: a repair for a friend, of the right colour or not, or to put the friend in the place of another steward; with the votes that it
//! gets it does as an honest one would, or keeps the certificate and uses it a month later. What others told it, it says again. And it says that it
//! alone is left of its committee, to put a friend in the place of somebody who is here.

use std::collections::{BTreeMap, VecDeque};

use cairn_core::{
    colour::colour,
    part::Credentials,
    steward::{Effect, Say, wire::GroupMap},
};
use cairn_proto::{
    Action, Certificate, Committee, GroupId, GroupRecord, Mandate, Order, PeerKey, Slot, mandate::half, order::OrderId,
};

use super::{World, peers::Member};
use crate::{checkers::Violation, world::HOUR};

/// What it remembers of what others said.
const HEARD_MAX: usize = 20;
/// Proposals whose votes it waits for.
const OPEN_MAX: usize = 50;
/// How long it keeps a certificate back.
const KEPT_MS: u64 = 30 * 24 * HOUR;

type Votes = BTreeMap<PeerKey, [u8; 64]>;

/// What a bad steward is up to.
#[derive(Default)]
pub(super) struct Malice {
    open: BTreeMap<OrderId, (Order, Votes)>,
    heard: VecDeque<Say>,
    kept: VecDeque<Certificate>,
}

impl Member {
    /// What a bad steward does not do though its part would be to.
    pub(super) fn withholds(&self, effect: &Effect) -> bool {
        let silent = match effect {
            Effect::Give { .. } => true,
            Effect::Tell { say, .. } => matches!(**say, Say::Vote { .. }),
            Effect::Persist(_) | Effect::Forget(_) => false,
        };
        silent && self.malice.is_some()
    }
}

impl World<'_> {
    /// The harm of one round.
    pub(super) fn mischief(&mut self, at: usize) {
        if self.members[at].malice.is_none() {
            return;
        }
        for group in self.members[at].steward.groups().collect::<Vec<_>>() {
            if self.dice.per_mille(300) {
                self.propose_for_a_friend(at, group);
            }
            if self.dice.per_mille(100) {
                self.usurp(at, group);
            }
        }
        let others: Vec<usize> = (0..self.members.len()).filter(|to| *to != at && self.members[*to].up).collect();
        let Some(to) = others.get(self.dice.below(others.len() as u32) as usize).copied() else { return };
        let now = self.now;
        let malice = self.members[at].malice.get_or_insert_default();
        let mut said: Vec<Say> = malice.heard.pop_front().into_iter().collect();
        if malice.kept.front().is_some_and(|kept| now.ms_since(kept.order.issued) > KEPT_MS) {
            said.extend(malice.kept.pop_front().map(|certificate| Say::Certified { certificate }));
        }
        said.into_iter().for_each(|say| self.say(at, to, say));
    }

    /// The map of a group and its committee, as this steward knows them.
    fn committee_of(&self, at: usize, group: GroupId) -> Option<(GroupMap, Committee)> {
        let map = self.members[at].steward.map_for_owner(&group)?;
        let mut committee = Committee::of(&Mandate::open(&map.mandate).ok()?);
        map.changes.iter().try_for_each(|change| committee.succeed(change)).ok()?;
        Some((map, committee))
    }

    fn made_up(&mut self, committee: &Committee, action: Action) -> Order {
        Order {
            group: committee.mandate().ticket.id(),
            generation: committee.mandate().generation,
            committee: *committee.id(),
            nonce: u128::from(self.dice.below(u32::MAX)).to_le_bytes(),
            issued: self.now,
            expires: self.now.plus_ms(6 * HOUR),
            urgent: false,
            action,
        }
    }

    fn propose_for_a_friend(&mut self, at: usize, group: GroupId) {
        let Some((_, committee)) = self.committee_of(at, group) else { return };
        let Some(action) = self.harmful(at, group, committee.mandate(), &committee) else { return };
        let order = self.made_up(&committee, action);
        let member = &mut self.members[at];
        let (Ok(name), Ok(vote)) = (order.id(), order.sign(&member.identity)) else { return };
        let (me, malice) = (member.key, member.malice.get_or_insert_default());
        if malice.open.len() == OPEN_MAX {
            malice.open.pop_first();
        }
        malice.open.insert(name, (order.clone(), [(me, vote)].into()));
        self.report.forged += 1;
        for to in committee.stewards().iter().filter(|to| **to != me) {
            self.say(at, self.index[to], Say::Propose { order: order.clone(), vote });
        }
    }

    /// Says that it alone is left of the committee, while others are here: to them, and to a friend that is to be a steward in the place of one.
    fn usurp(&mut self, at: usize, group: GroupId) {
        let Some((map, committee)) = self.committee_of(at, group) else { return };
        let mandate = committee.mandate();
        let me = self.members[at].key;
        let (stewards, class) = (committee.stewards().to_vec(), mandate.ticket.code().slots());
        let here = |peer: &PeerKey| *peer != me && self.reach(at, self.index[peer]);
        let others: Vec<PeerKey> = stewards.iter().copied().filter(here).collect();
        // With fewer it would be the truth, or become it within the day; behind a cut that lasts for longer, to all who are there with it.
        if others.len() < half(stewards.len()) {
            return;
        }
        let fits = |member: &&Member| {
            let right = colour(&mandate.ticket, &member.domain).index() == class;
            right && member.up && !stewards.contains(&member.key)
        };
        let friends: Vec<PeerKey> = self.members.iter().filter(fits).map(|member| member.key).collect();
        if friends.is_empty() {
            return;
        }
        let friend = friends[self.dice.below(friends.len() as u32) as usize];
        let old = others[self.dice.below(others.len() as u32) as usize];
        let order = self.made_up(&committee, Action::Replace { old, new: friend });
        let (Ok(name), Ok(vote)) = (order.id(), order.sign(&self.members[at].identity)) else { return };
        let certificate = Certificate::new(order, [(me, vote)]);
        if !committee.is_succession(&certificate) {
            return;
        }
        self.report.usurped += 1;
        self.watcher.usurped.insert(name);
        for to in &others {
            self.say(at, self.index[to], Say::Certified { certificate: certificate.clone() });
        }
        let sheets = self.settings.code.each_slot().map(|slot| self.sheets.get(&(group, Some(slot))).cloned());
        let record = sheets.collect::<Option<Vec<_>>>().and_then(|sheets| GroupRecord::new(map.mandate, sheets).ok());
        if let Some(record) = record.map(Box::new) {
            let changes = [map.changes, vec![certificate]].concat();
            let say = Say::Record { record, changes, past: Vec::new(), entries: Vec::new() };
            self.say(at, self.index[&friend], say);
        }
    }

    /// Whether a steward goes by a committee that somebody made up.
    pub(super) fn check_usurped(&self, group: GroupId) -> Result<(), Violation> {
        let believes = |member: &Member| {
            let map = member.steward.map_for_owner(&group);
            let usurped = |change: &Certificate| change.order.id().is_ok_and(|id| self.watcher.usurped.contains(&id));
            map.is_some_and(|map| map.changes.iter().any(usurped))
        };
        if self.members.iter().any(|member| member.malice.is_none() && believes(member)) {
            let what = format!("one steward made a committee for group {}", group.short());
            return Err(Violation { invariant: "TRUST-1", at: self.now, what });
        }
        Ok(())
    }

    fn harmful(&mut self, at: usize, group: GroupId, mandate: &Mandate, committee: &Committee) -> Option<Action> {
        let report = self.members[at].steward.report(&group, self.now)?;
        let slot = Slot::new(self.dice.below(8) as u8).ok()?;
        let right = self.dice.per_mille(750);
        let replaces = self.dice.per_mille(300);
        let class = if replaces { mandate.ticket.code().slots() } else { slot.index() };
        let friends: Vec<PeerKey> = self
            .members
            .iter()
            .filter(|member| member.up && (colour(&mandate.ticket, &member.domain).index() == class) == right)
            .map(|member| member.key)
            .collect();
        let friend = *friends.get(self.dice.below(friends.len() as u32) as usize)?;
        if replaces {
            let stewards = committee.stewards();
            let old = stewards[self.dice.below(stewards.len() as u32) as usize];
            return Some(Action::Replace { old, new: friend }).filter(|_| old != friend);
        }
        let ordinals = self.stripes_of(group, slot).into_iter().take(1).collect();
        let from = report.slots.get(slot.index())?.iter().map(|(peer, ..)| *peer).find(|from| *from != friend)?;
        Some(Action::Copy { slot, from, to: friend, ordinals })
    }

    /// A bad steward hears something; perhaps the vote that was missing.
    pub(super) fn overheard(&mut self, at: usize, from: PeerKey, say: &Say) {
        let key = self.members[at].key;
        let Some(malice) = &mut self.members[at].malice else { return };
        if malice.heard.len() == HEARD_MAX {
            malice.heard.pop_front();
        }
        malice.heard.push_back(say.clone());
        let Say::Vote { group, order, vote } = say else { return };
        let Some((proposed, votes)) = malice.open.get_mut(order) else { return };
        votes.insert(from, *vote);
        let (proposed, votes) = (proposed.clone(), votes.clone());
        let certificate = Certificate::new(proposed, votes);
        let steward = &self.members[at].steward;
        let Some(map) = steward.map_for_owner(group) else { return };
        let Ok(mandate) = Mandate::open(&map.mandate) else { return };
        let mut committee = Committee::of(&mandate);
        let fine = map.changes.iter().all(|change| committee.succeed(change).is_ok());
        if !fine || certificate.check(&committee).is_err() {
            return;
        }
        self.report.forged_orders += 1;
        self.trace.line(self.now, format_args!("{at} has signatures for its friend"));
        if let Some(malice) = &mut self.members[at].malice {
            malice.open.remove(order);
        }
        match certificate.order.action.to() {
            Some(to) => {
                let sheet = self.sheets.get(&(*group, certificate.order.action.slot())).cloned().unwrap_or_default();
                let credentials = Credentials { mandate: map.mandate, changes: map.changes, certificate };
                let credentials = Box::new(credentials);
                self.give(at, Effect::Give { to, credentials, sheet, previous: [7; 32] });
            }
            None if self.dice.per_mille(500) => {
                for to in committee.stewards().iter().filter(|to| **to != key) {
                    self.say(at, self.index[to], Say::Certified { certificate: certificate.clone() });
                }
            }
            None => {
                if let Some(malice) = &mut self.members[at].malice {
                    malice.kept.push_back(certificate);
                    malice.kept.truncate(HEARD_MAX);
                }
            }
        }
    }
}
