//! What was ordered, and what came of it: the entries of the group's map.

use cairn_proto::{Action, Certificate, Order, Ordinals, PeerKey, Slot, Taken, Timestamp, order::OrderId};

use super::{
    super::{
        Effect, Rhythm,
        log::What,
        message::{Failure, Past},
        subject_of,
    },
    ENTRIES_MAX, Heard, OrderEnd, Pace, Subject, Watched,
    turns::{AVOIDED_MAX, Promise},
};
use crate::{
    liveness::{Presence, Watch},
    part::Credentials,
    peer_view::PeerView,
};

/// Within this of its word a holder is to have what it took: a disk that loses it so soon, twice, is not filled a third time.
pub(super) const KEEPS_MS: u64 = 7 * 24 * 3600 * 1000;
pub(super) const MONTH_MS: u64 = 30 * 24 * 3600 * 1000;

/// What a new holder's word was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Word {
    News,
    /// It is known, or the owner's sheets say the same.
    Known,
    /// It does not hold.
    False,
}

/// An order that was carried out.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) certificate: Certificate,
    pub(super) sealed: Vec<u8>,
    pub(super) taken: Taken,
    /// Bytes of it.
    pub(super) weight: usize,
}

impl Entry {
    pub(super) fn new(certificate: Certificate, sealed: Vec<u8>, taken: Taken) -> Self {
        let weight = certificate.encode().map_or(0, |bytes| bytes.len()) + sealed.len();
        Self { certificate, sealed, taken, weight }
    }
}

/// How long new holders have been silent, by what the network heard: they are nobody's holders yet, and not watched.
pub(in super::super) struct Silence<'a> {
    pub(in super::super) peers: &'a [PeerView],
    pub(in super::super) late_ms: u64,
    pub(in super::super) rhythm: &'a Rhythm,
    pub(in super::super) now: Timestamp,
}

impl Silence<'_> {
    /// In milliseconds, since the order was given at most.
    fn of(&self, given: &UnderWay) -> u64 {
        let order = &given.certificate.order;
        let view = self.peers.iter().find(|view| order.action.to() == Some(view.peer));
        let heard = view.map_or(order.issued, |view| view.last_heard.max(order.issued));
        self.now.ms_since(heard)
    }
}

/// An order that was given.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    pub(super) certificate: Certificate,
    /// Who proposed it, or first told us of it.
    pub(super) by: PeerKey,
    pub(super) pace: Pace,
}

impl Watched {
    /// Whether a quorum of the stewards that it names signed it, who are or were those of the group.
    fn is_good(&self, certificate: &Certificate) -> bool {
        let committee = self.chain.find(&certificate.order.committee);
        committee.is_some_and(|committee| certificate.check(committee).is_ok())
    }

    /// Orders of shards that are known: under way, and carried out.
    pub(in super::super) fn orders(&self) -> impl Iterator<Item = &Order> {
        let carried_out = self.entries.values().map(|entry| &entry.certificate.order);
        carried_out.chain(self.under_way.values().map(|given| &given.certificate.order))
    }

    /// Takes note of an order. Whether it was news.
    pub(in super::super) fn certified(
        &mut self,
        certificate: Certificate,
        from: PeerKey,
        heard: Heard<'_>,
        now: Timestamp,
    ) -> bool {
        let subject = subject_of(&certificate.order.action);
        if certificate.order.action.slot().is_none() {
            // One that is over is believed with a whole chain only: the committee may have gone on without it.
            let done = certificate.stands_at(now) && self.chain.offer_one(&certificate, heard);
            if done {
                self.note_change(&certificate, now);
            }
            return done;
        }
        let (Ok(order), Some(slot), Some(to)) =
            (certificate.order.id(), certificate.order.action.slot(), certificate.order.action.to())
        else {
            return false;
        };
        let known = self.entries.contains_key(&order) || self.under_way.contains_key(&subject);
        if known || !certificate.stands_at(now) || !self.is_good(&certificate) {
            return false;
        }
        let (rebuild, shards) = match &certificate.order.action {
            Action::Rebuild { ordinals, .. } => (true, ordinals.len() as u16),
            Action::Copy { ordinals, .. } => (false, ordinals.len() as u16),
            _ => return false,
        };
        let by =
            self.promised.get(&subject).filter(|promise| promise.order == order).map_or(from, |promise| promise.by);
        self.promised.insert(subject, Promise { order, until: certificate.order.expires, by });
        self.spent.bytes = self.spent.bytes.saturating_add(self.cost(&certificate.order.action));
        self.phase_begins(order, &certificate, rebuild, now);
        self.under_way.insert(subject, UnderWay { certificate, by, pace: Pace::NEW });
        self.note(now, What::Ordered { order, slot: slot.as_u8(), to, rebuild, shards });
        true
    }

    fn note_change(&mut self, change: &Certificate, now: Timestamp) {
        let subject = subject_of(&change.order.action);
        let (old, new) = change.order.action.stewards();
        self.promised.remove(&subject);
        self.patience.remove(&subject);
        // Votes of another committee are worth nothing any more.
        let id = *self.committee().id();
        self.proposals.retain(|_, proposal| proposal.order.committee == id);
        self.note(now, What::Stewards { old, new });
    }

    /// Another steward's changes and older mandates. Whether they were news.
    pub(in super::super) fn learn_changes(
        &mut self,
        changes: &[Certificate],
        past: &[Past],
        heard: Heard<'_>,
        now: Timestamp,
    ) -> bool {
        self.chain.offer_past(past, heard);
        let before = self.chain.changes().to_vec();
        if !self.chain.offer(changes, heard) {
            return false;
        }
        let fresh: Vec<Certificate> =
            self.chain.changes().iter().filter(|change| !before.contains(change)).cloned().collect();
        fresh.iter().for_each(|change| self.note_change(change, now));
        true
    }

    /// Lets go of orders that nobody may begin with any more.
    pub(super) fn lapse(&mut self, now: Timestamp, rhythm: &Rhythm) {
        let over = |order: &UnderWay| !order.certificate.stands_at(now);
        let over: Vec<Subject> = self.under_way.iter().filter(|(_, o)| over(o)).map(|(s, _)| *s).collect();
        for subject in over {
            if let Some(order) = self.under_way.remove(&subject) {
                self.came_to_nothing(subject, &order, None, now, rhythm);
            }
        }
    }

    fn came_to_nothing(
        &mut self,
        subject: Subject,
        order: &UnderWay,
        why: Option<Failure>,
        now: Timestamp,
        rhythm: &Rhythm,
    ) {
        let action = &order.certificate.order.action;
        // What was not moved was not spent; the proposer's own share stays charged with it.
        self.spent.bytes = self.spent.bytes.saturating_sub(self.cost(action));
        if let Ok(order) = order.certificate.order.id() {
            self.note(now, What::Failed { order, why });
            self.phase_ends(&order, OrderEnd::Nothing(why), now);
        }
        self.disappointed(subject, action.to(), Some(order.by), now, rhythm);
    }

    /// Whether the owner's newer sheets say what an entry of an older mandate says.
    fn is_covered(&self, certificate: &Certificate, slot: Slot, holder: &PeerKey) -> bool {
        let sheet = self.record.sheets.get(slot.index());
        certificate.order.generation < self.record.mandate.generation
            && sheet.is_some_and(|sheet| sheet.holders.contains(holder))
    }

    /// What the owner's newer word made superfluous: entries that its sheets have, mandates that nothing rests on.
    pub(in super::super) fn let_go_of_old(&mut self) {
        let covered: Vec<OrderId> = self
            .entries
            .iter()
            .filter(|(_, entry)| self.is_covered(&entry.certificate, entry.taken.slot, &entry.taken.holder))
            .map(|(order, _)| *order)
            .collect();
        covered.iter().for_each(|order| drop(self.entries.remove(order)));
        let entries = self.entries.values().map(|entry| entry.certificate.order.generation);
        let needed: std::collections::BTreeSet<u64> =
            entries.chain(self.under_way.values().map(|order| order.certificate.order.generation)).collect();
        self.chain.keep_past(&|generation| needed.contains(&generation));
    }

    /// A new holder's word. `room`: bytes that the map may grow by.
    pub(in super::super) fn taken(
        &mut self,
        certificate: &Certificate,
        sealed: Vec<u8>,
        room: usize,
        now: Timestamp,
    ) -> Word {
        let Ok(order) = certificate.order.id() else { return Word::False };
        if self.entries.contains_key(&order) {
            return Word::Known;
        }
        let Ok(taken) = Taken::open(&sealed) else { return Word::False };
        let (Action::Copy { slot, to, ordinals, .. } | Action::Rebuild { slot, to, ordinals, .. }) =
            &certificate.order.action
        else {
            return Word::False;
        };
        let same = taken.order == order && taken.group == self.group() && taken.slot == *slot && taken.holder == *to;
        let part = !taken.ordinals.is_empty() && taken.ordinals.without(ordinals).is_empty();
        let subject = Subject::Slot(slot.as_u8());
        // One that is under way was found good when it began.
        let given = self.under_way.get(&subject).filter(|given| given.certificate.order == certificate.order);
        let given = given.map(|given| given.certificate.clone());
        let covered = self.is_covered(certificate, *slot, to) && given.is_none();
        if !same || !part {
            return Word::False;
        }
        if covered {
            return Word::Known;
        }
        if given.is_none() && !self.is_good(certificate) {
            return Word::False;
        }
        if given.is_some() {
            self.under_way.remove(&subject);
        } else if now.ms_since(certificate.order.issued) < MONTH_MS {
            // Nobody told us of it before.
            self.spent.bytes = self.spent.bytes.saturating_add(self.cost(&certificate.order.action));
        }
        if self.promised.get(&subject).is_some_and(|promise| promise.order == order) {
            self.promised.remove(&subject);
        }
        let holder = taken.holder;
        let key = (slot.as_u8(), holder);
        if let Some(lacks) = self.lacks.remove(&key) {
            self.mended(key, &lacks.and(&taken.ordinals));
            let lacks = lacks.without(&taken.ordinals);
            if !lacks.is_empty() {
                self.lacks.insert(key, lacks);
            }
        }
        let shards = taken.ordinals.len() as u16;
        self.note(now, What::Repaired { order, slot: slot.as_u8(), holder, shards });
        self.phase_ends(&order, OrderEnd::Done, now);
        self.patience.remove(&subject);
        if let Some(lacking) = self.lacking.get_mut(&slot.as_u8()) {
            lacking.given = true;
        }
        self.looked = None;
        // The signatures that were looked at are kept, whoever's came with the word.
        let entry = Entry::new(given.unwrap_or_else(|| certificate.clone()), sealed, taken);
        if self.entries.len() >= ENTRIES_MAX || entry.weight > room {
            if !self.log.iter().any(|entry| entry.what == What::MapFull) {
                self.note(now, What::MapFull);
            }
            return Word::News;
        }
        let taken = &entry.taken;
        // It was told of an entry that we have not: somebody has more of the map than we.
        let of_slot = self.entries.values().filter(|entry| entry.taken.slot == taken.slot);
        let known = taken.previous == [0; 32] || of_slot.into_iter().any(|e| Taken::hash(&e.sealed) == taken.previous);
        if !known {
            self.compared = Timestamp(0);
        }
        self.entries.insert(order, entry);
        self.reckon();
        self.asked.insert(key, now);
        Word::News
    }

    /// A holder lacks these since now: when it said lately that it took them, healing it is a way to use up others' lines and month.
    pub(super) fn keeps_word(
        &mut self,
        slot: Slot,
        holder: PeerKey,
        lacks: &Ordinals,
        now: Timestamp,
        rhythm: &Rhythm,
    ) {
        let lately = |taken: &Taken| {
            let own = taken.slot == slot && taken.holder == holder;
            own && now.ms_since(taken.at) < KEEPS_MS && !taken.ordinals.and(lacks).is_empty()
        };
        if self.entries.values().any(|entry| lately(&entry.taken)) {
            let times = self.broken.get(&(slot.as_u8(), holder)).map_or(0, |(times, _)| *times);
            self.broken.insert((slot.as_u8(), holder), (times.saturating_add(1), now));
            self.disappointed(Subject::Slot(slot.as_u8()), Some(holder), None, now, rhythm);
        }
    }

    /// Whether a holder is not to be healed now: once it waits, the second time another takes its place.
    pub(in super::super) fn breaks_word(&self, slot: Slot, holder: &PeerKey, now: Timestamp, rhythm: &Rhythm) -> bool {
        self.broken.get(&(slot.as_u8(), *holder)).is_some_and(|(times, last)| {
            let pause = if *times > 1 { MONTH_MS } else { 2 * rhythm.pause_ms_max };
            now.ms_since(*last) < pause
        })
    }

    /// Who proposed an order that is under way.
    #[cfg(test)]
    pub(in super::super) fn proposer_of(&self, order: &OrderId) -> Option<PeerKey> {
        self.find_order(order).map(|(_, given, _)| given.by)
    }

    pub(super) fn find_order(&self, order: &OrderId) -> Option<(Subject, &UnderWay, PeerKey)> {
        let is_this = |given: &UnderWay| given.certificate.order.id().as_ref() == Ok(order);
        let (subject, given) = self.under_way.iter().find(|(_, given)| is_this(given))?;
        Some((*subject, given, given.certificate.order.action.to()?))
    }

    /// Orders whose new holder has been silent for so long that another should get its slot: an hour, or in an emergency until it is
    /// late. What it fetched is a spare copy when it comes back.
    pub(in super::super) fn deserted(
        &self,
        me: &PeerKey,
        silence: &Silence<'_>,
        watch: &Watch,
        now: Timestamp,
    ) -> Vec<OrderId> {
        let timers = watch.timers();
        let most = if self.alarm(now) { timers.late_ms } else { timers.away_ms };
        let gone = |subject: &Subject, given: &UnderWay| {
            silence.of(given) > most && (given.by == *me || self.is_heir(me, &given.by, subject, watch, now))
        };
        let gone = self.under_way.iter().filter(|(subject, given)| gone(subject, given));
        gone.filter_map(|(_, given)| given.certificate.order.id().ok()).collect()
    }

    /// Whether an order that could not be brought to its new holder is given up by us: at once where that said no or in an emergency, else
    /// when another steward has had the time to bring it.
    pub(in super::super) fn is_undelivered(
        &self,
        me: &PeerKey,
        order: &OrderId,
        said_no: bool,
        silence: &Silence<'_>,
        watch: &Watch,
        now: Timestamp,
    ) -> bool {
        self.find_order(order).is_some_and(|(subject, given, _)| {
            let tried = given.certificate.order.issued.plus_ms(silence.rhythm.turn_ms) <= now;
            let ours = given.by == *me || self.is_heir(me, &given.by, &subject, watch, now);
            ours && (said_no || tried || self.alarm(now) || silence.of(given) > watch.timers().late_ms)
        })
    }

    /// Lets go of an order whose new holder does not answer; who that was. The slot is free for another, after a pause that is longer with
    /// each.
    pub(in super::super) fn give_up(&mut self, order: &OrderId, now: Timestamp, rhythm: &Rhythm) -> Option<PeerKey> {
        let (subject, _, to) = self.find_order(order)?;
        let given = self.under_way.remove(&subject)?;
        self.promised.remove(&subject);
        self.came_to_nothing(subject, &given, Some(Failure::Missing(to)), now, rhythm);
        Some(to)
    }

    /// Somebody's word that an order came to nothing: the new holder's own, or that it does not answer, by the order's proposer, or by another
    /// steward where we miss the new holder too. Whether that was so.
    pub(in super::super) fn failed(
        &mut self,
        from: &PeerKey,
        order: &OrderId,
        why: Failure,
        silence: &Silence<'_>,
        now: Timestamp,
    ) -> bool {
        let rhythm = silence.rhythm;
        let Some((_, given, to)) = self.find_order(order) else { return false };
        if *from != to && why == Failure::Missing(to) {
            let missed = silence.of(given) > silence.late_ms || self.seems_stalled(given, now, rhythm);
            let steward = self.committee().stewards().contains(from) && missed;
            return (given.by == *from || steward) && self.give_up(order, now, rhythm).is_some();
        }
        if to != *from {
            return false;
        }
        let Some(subject) = self.find_order(order).map(|(subject, ..)| subject) else { return false };
        let Some(given) = self.under_way.remove(&subject) else { return false };
        self.promised.remove(&subject);
        let action = given.certificate.order.action.clone();
        // The new holder may be the one to blame itself.
        self.came_to_nothing(subject, &given, Some(why), now, rhythm);
        // It may only speak ill of those whom the order names.
        let named = |peer: &PeerKey| match &action {
            Action::Copy { from, .. } => from == peer,
            Action::Rebuild { helpers, .. } => helpers.iter().any(|(_, helper)| helper == peer),
            _ => false,
        };
        let blamed = match why {
            Failure::Refused | Failure::Wrong(None) => Some(*from),
            Failure::Missing(peer) | Failure::Wrong(Some(peer)) => Some(peer).filter(named),
        };
        let wanted = self.wanted_as(subject);
        if let Some(patience) = self.patience.get_mut(&wanted)
            && let Some(peer) = blamed.filter(|_| patience.avoid.len() < AVOIDED_MAX)
        {
            patience.avoid.insert(peer, now.plus_ms(rhythm.pause_ms_max));
        }
        true
    }

    /// What its new holder is to be given.
    pub(in super::super) fn give(&self, certificate: &Certificate) -> Option<Effect> {
        let (to, slot) = (certificate.order.action.to()?, certificate.order.action.slot()?);
        let credentials = Box::new(self.credentials(certificate.clone())?);
        let sheet = self.record.sealed_sheet(slot).unwrap_or_default().to_vec();
        Some(Effect::Give { to, credentials, sheet, previous: self.newest_entry(slot) })
    }

    pub(in super::super) fn gave(&mut self, certificate: &Certificate, now: Timestamp) {
        let subject = subject_of(&certificate.order.action);
        if self.under_way.contains_key(&subject) {
            self.gave.insert(subject, now);
        }
    }

    /// Orders that are to be given once more: nobody knows whether one arrived, and a new holder answers twice what it was given twice.
    /// Whoever proposed it does so, and from a turn later on the first of the others too.
    pub(in super::super) fn give_again(
        &mut self,
        me: &PeerKey,
        watch: &Watch,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Vec<Effect> {
        self.gave.retain(|subject, _| self.under_way.contains_key(subject));
        let due = |subject: &Subject, given: &UnderWay| {
            let lately = self.gave.get(subject).is_some_and(|at| *at <= now && now.ms_since(*at) < rhythm.pause_ms);
            let late = given.certificate.order.issued.plus_ms(rhythm.turn_ms) <= now;
            !lately && (given.by == *me || late && self.is_next(me, &given.by, subject, watch, now))
        };
        let due: Vec<Certificate> =
            self.under_way.iter().filter(|(s, o)| due(s, o)).map(|(_, order)| order.certificate.clone()).collect();
        due.iter().for_each(|certificate| self.gave(certificate, now));
        due.iter().filter_map(|certificate| self.give(certificate)).collect()
    }

    /// Whether we look after an order of a proposer that is not there.
    pub(super) fn is_heir(&self, me: &PeerKey, by: &PeerKey, subject: &Subject, watch: &Watch, now: Timestamp) -> bool {
        watch.belief(by, now).presence > Presence::Late && self.is_next(me, by, subject, watch, now)
    }

    /// Whether we come first for a subject among the others that are there.
    fn is_next(&self, me: &PeerKey, by: &PeerKey, subject: &Subject, watch: &Watch, now: Timestamp) -> bool {
        let there = |peer: &&PeerKey| **peer == *me || watch.belief(peer, now).presence <= Presence::Late;
        let others = self.committee().stewards().iter().filter(there).filter(|peer| *peer != by);
        others.min_by_key(|peer| self.standing(peer, subject)) == Some(me)
    }

    /// The hash of the slot's newest entry, zero when there is none.
    pub(in super::super) fn newest_entry(&self, slot: Slot) -> [u8; 32] {
        let of = self.entries.values().filter(|entry| entry.taken.slot == slot);
        of.max_by_key(|entry| (entry.taken.at, entry.taken.order)).map_or([0; 32], |entry| Taken::hash(&entry.sealed))
    }

    /// What a holder needs to check an order of this group, alone.
    pub(in super::super) fn credentials(&self, certificate: Certificate) -> Option<Credentials> {
        let (mandate, changes) = self.chain.leading_to(&certificate.order.committee)?;
        let mandate = mandate.unwrap_or(self.record.sealed_mandate()).to_vec();
        Some(Credentials { mandate, changes: changes.to_vec(), certificate })
    }

    /// Of these stripes, those with so many data shards.
    pub(in super::super) fn with_used(&self, ordinals: &Ordinals, used: u8) -> Ordinals {
        ordinals.iter().filter(|ordinal| self.used(*ordinal) == used).collect()
    }
}
