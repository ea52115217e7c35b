//! What new holders do with an order, and what holders lose.

use std::collections::BTreeSet;

use cairn_core::{
    part,
    steward::{Effect, Failure, Say},
};
use cairn_proto::{Action, GroupId, Ordinals, PeerKey, Slot, Taken};

use super::{Event, HOUR, World};
use crate::checkers::Violation;

impl World<'_> {
    /// A new holder does what it was given, as far as it finds it good.
    pub(super) fn carry_out(&mut self, to: usize, from: usize, effect: Effect) -> Result<(), Violation> {
        let Effect::Give { credentials, sheet, previous, .. } = effect else { return Ok(()) };
        if !self.members[to].up {
            return Ok(());
        }
        let order = &credentials.certificate.order;
        let (group, name) = (order.group, order.id().unwrap_or_default());
        if let Some((stewards, say)) = self.done.get(&name).cloned() {
            for steward in stewards {
                self.say(to, steward, say.clone());
            }
            return Ok(());
        }
        let member = &self.members[to];
        let held = member.ledger.get(&group).copied();
        let heard = self.heard_of(to, &credentials);
        let task = part::may_take(&credentials, &sheet, &member.key, &member.domain, held, (&heard, self.now));
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
            task.slot = Slot::new((task.slot.as_u8() + 1) % self.settings.code.slots() as u8).unwrap_or(task.slot);
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
        self.done.insert(name, (stewards.clone(), say.clone()));
        for steward in stewards {
            self.say(to, steward, say.clone());
        }
        Ok(())
    }

    /// Those of whom a check of these needs to know whether they were heard lately, as a peer heard them.
    fn heard_of(&self, at: usize, credentials: &part::Credentials) -> BTreeSet<PeerKey> {
        let concerned = credentials.concerned();
        if concerned.is_empty() {
            return concerned;
        }
        let views = self.views(Some(self.side(at)));
        let lately = views.iter().filter(|view| self.now.ms_since(view.last_heard) < 24 * HOUR).map(|view| view.peer);
        lately.filter(|peer| concerned.contains(peer)).collect()
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
                let heard = self.heard_of(self.index[from], credentials);
                let served = part::may_serve(credentials, from, (me, &self.members[to].domain), (&heard, self.now));
                let fine = served.is_ok_and(|(of, ordinals)| of == slot && ordinals.contains(ordinal));
                if fine { asked(from, slot) } else { Err(*from) }
            }
            Action::Rebuild { helpers, .. } => {
                let mut shards: Vec<Option<Vec<u8>>> = vec![None; self.codec.params().slots()];
                let used = usize::from(self.used(group, ordinal));
                if helpers.len() < used {
                    return Err(self.members[to].key);
                }
                // Those beyond are there for when somebody lies.
                for (of, helper) in &helpers[..used] {
                    let held = self.members[self.index[helper]].ledger.get(&group).copied();
                    let domain = &self.members[to].domain;
                    let heard = self.heard_of(self.index[helper], credentials);
                    let own = part::may_help(credentials, helper, held, domain, (&heard, self.now)).map(|(_, own)| own);
                    if own != Ok(*of) {
                        return Err(*helper);
                    }
                    shards[of.index()] = Some(asked(helper, *of)?);
                }
                let known: Vec<Option<&[u8]>> = shards.iter().map(Option::as_deref).collect();
                let made = self.codec.missing(used, &known, true, |length| vec![0; length]);
                let found = made.ok().and_then(|made| made.into_iter().find(|(at, _)| *at == slot.index()));
                found.map(|(_, bytes)| bytes).ok_or(self.members[to].key)
            }
            _ => Err(self.members[to].key),
        }
    }

    /// A peer's disk loses a shard; its scrub finds that, and it says so to the stewards.
    pub(super) fn rot(&mut self, at: usize) {
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
        if self.settings.polite_percent > 0 {
            self.own_loss(at, group, slot, ordinal);
        }
        self.confess(at);
    }

    /// A peer that lost something tells the stewards that it can reach, until it has all again.
    pub(super) fn confess(&mut self, at: usize) {
        let rotten: Vec<(GroupId, Slot)> = self.members[at].rotten.iter().copied().collect();
        for (group, slot) in rotten {
            let mine = self.members[at].shards.keys().filter(|(g, s, _)| *g == group && *s == slot);
            let has: Ordinals = mine.map(|(_, _, ordinal)| *ordinal).collect();
            if has.len() == self.stripes_of(group, slot).len() {
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
