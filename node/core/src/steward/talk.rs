//! What a steward makes of what others say.

use std::collections::BTreeSet;

use cairn_proto::{
    Certificate, GroupId, Order, PeerKey, Timestamp,
    order::{CHANGES_MAX, OrderId},
};

use super::{
    Declined, Effect, Say, Steward,
    message::{PAST_MAX, Past},
    plan,
    succession::Ears,
    vote::{self, Objection},
    watched::{ENTRIES_MAX, Silence, Word},
};
use crate::{liveness::Outage, peer_view::PeerView};

/// Entries of a map that may not hold before the rest of it is left: each costs a check of signatures, and an honest steward's that we cannot check
/// are those of a committee that did not come to count, or of a mandate too far back.
const FALSE_MAX: usize = 64;

/// What another steward says of a group's map.
struct MapOf<'a> {
    changes: &'a [Certificate],
    past: &'a [Past],
    entries: Vec<(Certificate, Vec<u8>)>,
}

impl Steward {
    /// Another peer said something. `peers` as in [`Steward::tick`].
    pub fn told(&mut self, from: PeerKey, say: Say, now: Timestamp, peers: &[PeerView]) {
        self.clock(now);
        self.heard(from, now);
        if !self.listens(&from, &say, now) {
            return;
        }
        match say {
            Say::Propose { order, vote } => self.on_proposal(from, &order, vote, now, peers),
            Say::Vote { group, order, vote } => self.on_vote(from, group, order, vote, now, peers),
            Say::Certified { certificate } => drop(self.on_certified(from, certificate, now, peers)),
            Say::Taken { certificate, sealed } => drop(self.on_taken(&certificate, sealed, now)),
            Say::Failed { group, order, failure } => {
                let (rhythm, late_ms) = (self.rhythm, self.watch.timers().late_ms);
                let silence = Silence { peers, late_ms, rhythm: &rhythm, now };
                let accused = self.groups.get(&group).and_then(|g| g.accused(&from, &order, failure));
                let noted = self.groups.get_mut(&group).is_some_and(|g| {
                    let charged = g.charge_search(&from, &order, failure, now);
                    g.failed(&from, &order, failure, &silence, now) || charged
                });
                if noted {
                    self.effects.push(Effect::Persist(group));
                }
                if let Some(accused) = accused {
                    self.suspects.note(from, (group, order), accused, now, peers);
                }
            }
            Say::Compare { group, generation, digest } => self.on_compare(from, group, generation, &digest),
            Say::Tokens { group, own, spare } => self.on_tokens(group, own.as_deref(), spare.as_deref()),
            Say::Map { group, changes, past, entries } => {
                self.on_map(from, group, MapOf { changes: &changes, past: &past, entries }, now, peers)
            }
            Say::Record { record, changes, past, entries } => {
                let group = record.group();
                let ours = self.groups.get(&group).filter(|ours| ours.record.supersedes(&record));
                let (newer, known) = (ours.map(|ours| ours.whole()), self.groups.contains_key(&group));
                // Somebody who does not know yet that our place was given away.
                let age = (record.mandate.generation, changes.len());
                if self.given_away.get(&group).is_some_and(|last| age <= *last) {
                    return;
                }
                // Where ours is as new, there may be more in its map.
                let done = self.adopt_from(*record, &changes, from, now, peers);
                if done.is_ok() || known && done == Err(Declined::Old) {
                    let asked = newer.is_some() && self.groups.get(&group).is_some_and(|ours| ours.has_asked(&from));
                    self.on_map(from, group, MapOf { changes: &changes, past: &past, entries }, now, peers);
                    if let Some(whole) = newer.filter(|_| asked) {
                        self.tell(from, whole);
                    }
                }
            }
        }
    }

    /// Whether somebody is listened to: certificates are dear to check, so only those whom they concern may bring them.
    fn listens(&mut self, from: &PeerKey, say: &Say, now: Timestamp) -> bool {
        let is_steward = |group: &GroupId| self.groups.get(group).is_some_and(|group| group.is_steward(from));
        let few = |changes: &[Certificate], past: &[Past], entries: usize| {
            let past = past.len() <= PAST_MAX && past.iter().all(|past| past.changes.len() <= CHANGES_MAX);
            past && changes.len() <= CHANGES_MAX && entries <= ENTRIES_MAX
        };
        match say {
            Say::Certified { certificate } => is_steward(&certificate.order.group),
            Say::Taken { certificate, .. } => {
                certificate.order.action.to() == Some(*from) || is_steward(&certificate.order.group)
            }
            Say::Map { group, changes, past, entries } => is_steward(group) && few(changes, past, entries.len()),
            // Of a group that is not known, from its owner or another steward: everything in it is checked.
            Say::Record { record, changes, past, entries } => {
                let group = record.group();
                let fine = few(changes, past, entries.len());
                let known = is_steward(&group);
                let rhythm = self.rhythm;
                let ours = self.groups.get_mut(&group);
                fine && (known || ours.is_none_or(|ours| ours.may_have_come(from, changes, now, &rhythm)))
            }
            Say::Propose { .. } | Say::Vote { .. } | Say::Failed { .. } | Say::Compare { .. } => true,
            // Its owner signed it, and for us.
            Say::Tokens { .. } => true,
        }
    }

    fn on_proposal(&mut self, from: PeerKey, order: &Order, vote: [u8; 64], now: Timestamp, peers: &[PeerView]) {
        let id = order.group;
        let Some(group) = self.groups.get_mut(&id) else { return };
        let believed = (&self.watch, &self.places);
        let mut scene = plan::Scene::new((self.me, &self.domain), now, peers, believed, &self.rhythm);
        (scene.to_sign, scene.suspects, scene.vetting) = (true, Some(&self.suspects), Some(&self.vetting));
        // Whoever may be cut off itself sees no emergencies.
        if matches!(self.watch.outage(now), Outage::None) {
            group.note_alarm(group.assess_to_sign(&self.watch, now).too_few_there, now, &self.rhythm);
        }
        match vote::check(group, &from, order, &vote, &scene) {
            Ok(()) => {
                let (Ok(name), Ok(mine)) = (order.id(), order.sign(&self.key)) else { return };
                let until = now.plus_ms(2 * self.rhythm.vote_ms);
                self.vetting.sign(order, name, until, now);
                group.promise(order, name, from, until);
                self.effects.push(Effect::Persist(id));
                self.tell(from, Say::Vote { group: id, order: name, vote: mine });
            }
            Err(why) => {
                group.note_refused(from, order, why, now);
                let generation = group.record.mandate.generation;
                let compares = why == Objection::OtherCommittee;
                if let Some(digest) = compares.then(|| group.compare_soon(from, now, &self.rhythm)).flatten() {
                    self.tell(from, Say::Compare { group: id, generation, digest });
                }
            }
        }
    }

    fn on_vote(
        &mut self,
        from: PeerKey,
        id: GroupId,
        order: OrderId,
        vote: [u8; 64],
        now: Timestamp,
        peers: &[PeerView],
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.vote(&from, &order, vote) {
            self.count(id, &order, now, peers);
        } else if group.endorse(&from, &order, vote) {
            self.effects.push(Effect::Persist(id));
        }
    }

    /// Makes an order of a proposal that enough have signed.
    pub(super) fn count(&mut self, id: GroupId, name: &OrderId, now: Timestamp, peers: &[PeerView]) {
        if let Some(certificate) = self.groups.get_mut(&id).and_then(|group| group.certify(name)) {
            self.ordered(id, certificate, now, peers);
        }
    }

    /// An order of ours is one now.
    pub(super) fn ordered(&mut self, id: GroupId, certificate: Certificate, now: Timestamp, peers: &[PeerView]) {
        // It may have come too late: another one is under way, or the committee is another.
        if !self.on_certified(self.me, certificate.clone(), now, peers) {
            return;
        }
        let Some(group) = self.groups.get(&id) else { return };
        let others = group.committee().stewards().iter().filter(|to| **to != self.me);
        let mut effects: Vec<Effect> = others
            .map(|to| Effect::Tell { to: *to, say: Box::new(Say::Certified { certificate: certificate.clone() }) })
            .collect();
        effects.extend(group.give(&certificate));
        if let (_, Some(new)) = certificate.order.action.stewards() {
            effects.push(Effect::Tell { to: new, say: Box::new(group.whole()) });
        }
        effects.into_iter().for_each(|effect| self.effects.push(effect));
        if let Some(group) = self.groups.get_mut(&id) {
            group.gave(&certificate, now);
        }
    }

    /// Whether it was news.
    fn on_certified(&mut self, from: PeerKey, certificate: Certificate, now: Timestamp, peers: &[PeerView]) -> bool {
        let id = certificate.order.group;
        let Some(group) = self.groups.get_mut(&id) else { return false };
        let change = certificate.order.action.slot().is_none();
        let order = certificate.order.clone();
        let news =
            group.certified(certificate, from, &Ears::heard(&self.me, &self.watch, peers, &self.rhythm, now), now);
        if news {
            self.vetting.ordered(&order, now, now);
            if change {
                self.count_people(&id, true, now);
            } else {
                group.phase_silent(&self.watch, now);
            }
            self.effects.push(Effect::Persist(id));
        }
        news
    }

    fn on_taken(&mut self, certificate: &Certificate, sealed: Vec<u8>, now: Timestamp) -> Word {
        let id = certificate.order.group;
        let Some(introducer) = self.groups.get(&id).map(|group| group.introducer) else { return Word::Known };
        let room = self.room(&introducer);
        let Some(group) = self.groups.get_mut(&id) else { return Word::Known };
        let word = group.taken(certificate, sealed, room, now);
        if word == Word::News {
            // One that nobody told us of before.
            self.vetting.ordered(&certificate.order, certificate.order.issued, now);
            if let Some(slot) = certificate.order.action.slot() {
                self.suspects.settled(&id, slot);
            }
            self.count_people(&id, true, now);
            self.effects.push(Effect::Persist(id));
        }
        word
    }

    fn on_compare(&mut self, from: PeerKey, id: GroupId, generation: u64, digest: &[u8; 32]) {
        let Some(group) = self.groups.get(&id) else {
            // We were made a steward and never got the record. Who asks like this has it no more than we.
            if generation > 0 {
                self.tell(from, Say::Compare { group: id, generation: 0, digest: [0; 32] });
            }
            return;
        };
        if !group.is_steward(&from) {
            return;
        }
        let ours = group.record.mandate.generation;
        let say = match generation.cmp(&ours) {
            std::cmp::Ordering::Greater => Say::Compare { group: id, generation: ours, digest: group.digest() },
            std::cmp::Ordering::Less => group.whole(),
            std::cmp::Ordering::Equal if group.digest() == *digest => return,
            // Which of us has the newer ones it sees when it has ours; it answers with its own then.
            std::cmp::Ordering::Equal if !group.has_sheets_of(digest) => group.whole(),
            std::cmp::Ordering::Equal => group.map_message(),
        };
        self.tell(from, say);
    }

    fn on_map(
        &mut self,
        from: PeerKey,
        id: GroupId,
        MapOf { changes, past, entries }: MapOf<'_>,
        now: Timestamp,
        peers: &[PeerView],
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.learn_changes(changes, past, &Ears::heard(&self.me, &self.watch, peers, &self.rhythm, now), now) {
            self.count_people(&id, true, now);
            self.effects.push(Effect::Persist(id));
        } else {
            self.endorse(&id, changes);
        }
        // Whoever came by a succession that we do not believe.
        if !self.groups.get(&id).is_some_and(|group| group.is_steward(&from)) {
            return;
        }
        let theirs: BTreeSet<OrderId> = entries.iter().filter_map(|(order, _)| order.order.id().ok()).collect();
        let mut wrong = 0;
        for (certificate, sealed) in entries {
            let word =
                if certificate.order.group == id { self.on_taken(&certificate, sealed, now) } else { Word::False };
            wrong += usize::from(word == Word::False);
            if wrong >= FALSE_MAX {
                break;
            }
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.let_go_of_old();
        // Once, and only to whom we asked: two who cannot agree do not go on for ever.
        if group.answer_to(&from, changes.len(), &theirs) {
            let map = group.map_message();
            self.tell(from, map);
        }
    }

    pub(super) fn tell(&mut self, to: PeerKey, say: Say) {
        self.effects.push(Effect::Tell { to, say: Box::new(say) });
    }
}
