//! One group as a steward sees it: the owner's record, what was repaired since, what is under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_proto::{
    Action, Certificate, Committee, DecodeError, GroupId, GroupRecord, Order, Ordinals, PeerKey, SHARD_SIZE, Slot,
    Taken, Timestamp, order::OrderId,
};

use super::{
    BySlot, Rhythm,
    log::{Happening, LOG_MAX, What},
    message::{Failure, Say},
    subject_of,
    wire::GroupMap,
};
use crate::{
    assess::{Assessment, Triggers, assess},
    liveness::{Belief, Presence, Watch},
};

pub(super) mod state;

/// Carried out orders that are remembered for a group: 64 times a whole slot of 256 stripes, eight at a time; 2 MiB. Beyond, what is
/// repaired is not found again, and the owner must look after the group.
pub(super) const ENTRIES_MAX: usize = 2048;
/// Committees against which a certificate is checked, newest first: enough for orders that were under way while stewards were
/// replaced, few enough that a false certificate costs milliseconds.
const COMMITTEES_MAX: usize = 8;
/// Peers that failed lately and are left alone, for one subject.
const AVOIDED_MAX: usize = 32;
const MONTH_MS: u64 = 30 * 24 * 3600 * 1000;

/// What an order is about: there is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A slot of the group.
    Slot(u8),
    /// A steward of it.
    Steward(PeerKey),
    /// One more steward.
    Another,
}

/// An order that was carried out.
#[derive(Clone, Debug)]
struct Entry {
    certificate: Certificate,
    sealed: Vec<u8>,
    taken: Taken,
}

/// A proposal of our own that waits for votes.
#[derive(Clone, Debug)]
struct Proposal {
    order: Order,
    votes: BTreeMap<PeerKey, [u8; 64]>,
    until: Timestamp,
}

/// How long to wait with a subject, and whom to leave alone.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// Since when it is wanted.
    since: Timestamp,
    failures: u32,
    /// Not before.
    next: Timestamp,
    avoid: BTreeMap<PeerKey, Timestamp>,
}

/// One group.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) record: GroupRecord,
    pub(super) committee: Committee,
    /// Committees before this one, newest last.
    before: VecDeque<Committee>,
    pub(super) changes: Vec<Certificate>,
    entries: BTreeMap<OrderId, Entry>,
    /// Of these and the record: who was given what, and what each slot should have.
    given: BTreeMap<(u8, PeerKey), Ordinals>,
    wanted: Vec<Ordinals>,
    /// What holders said that they lack.
    lacks: BTreeMap<(u8, PeerKey), Ordinals>,
    /// What we signed, and until when it binds us.
    promised: BTreeMap<Subject, (OrderId, Timestamp)>,
    proposals: BTreeMap<OrderId, Proposal>,
    under_way: BTreeMap<Subject, Certificate>,
    patience: BTreeMap<Subject, Patience>,
    looked: Option<Timestamp>,
    compared: Timestamp,
    /// When holders were last asked what they have, or since when they are known.
    asked: BTreeMap<(u8, PeerKey), Timestamp>,
    /// The month that began then, and bytes ordered in it.
    spent: (Timestamp, u64),
    log: VecDeque<Happening>,
}

/// How a group stands.
#[derive(Clone, Debug)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// Its holders by slot: who, what is believed of it, shards that it has, shards that it should have.
    pub slots: Vec<Vec<(PeerKey, Belief, usize, usize)>>,
    /// Its stewards.
    pub stewards: Vec<(PeerKey, Presence)>,
    /// How many of them an order takes.
    pub quorum: usize,
    /// The judgement.
    pub assessment: Assessment,
    /// Orders under way.
    pub under_way: usize,
    /// What happened, oldest first.
    pub log: Vec<Happening>,
}

impl GroupReport {
    /// How often stewards changed.
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.log.iter().filter(|entry| matches!(entry.what, What::Stewards { .. })).count() as u32
    }
}

impl Watched {
    pub(super) fn new(record: GroupRecord, changes: &[Certificate], now: Timestamp) -> Result<Self, DecodeError> {
        let committee = Committee::of(&record.mandate);
        let generation = record.mandate.generation;
        let mut new = Self {
            record,
            committee,
            before: VecDeque::new(),
            changes: Vec::new(),
            entries: BTreeMap::new(),
            given: BTreeMap::new(),
            wanted: Vec::new(),
            lacks: BTreeMap::new(),
            promised: BTreeMap::new(),
            proposals: BTreeMap::new(),
            under_way: BTreeMap::new(),
            patience: BTreeMap::new(),
            looked: None,
            compared: now,
            asked: BTreeMap::new(),
            spent: (now, 0),
            log: VecDeque::new(),
        };
        for change in changes {
            new.change(change)?;
        }
        new.note(now, What::Adopted { generation });
        new.reckon();
        new.asked = new.given.keys().map(|holder| (*holder, now)).collect();
        Ok(new)
    }

    /// Keeps what was found out under an older record: what was repaired, what is lacking, what we signed.
    pub(super) fn with_history_of(mut self, old: Option<Self>) -> Self {
        if let Some(old) = old {
            let adopted = std::mem::take(&mut self.log);
            self.log = old.log;
            adopted.into_iter().for_each(|entry| self.note(entry.at, entry.what));
            (self.entries, self.lacks, self.promised) = (old.entries, old.lacks, old.promised);
            (self.patience, self.spent) = (old.patience, old.spent);
            self.asked.extend(old.asked);
            self.reckon();
        }
        self
    }

    fn note(&mut self, at: Timestamp, what: What) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(Happening { at, what });
    }

    fn group(&self) -> GroupId {
        self.record.group()
    }

    /// Makes what is looked up at every look from record and entries.
    fn reckon(&mut self) {
        let slots = self.record.mandate.ticket.code().each_slot();
        let rows = |slot: Slot| self.record.sheets.get(slot.index()).map(|sheet| &sheet.rows[..]).unwrap_or_default();
        self.wanted = slots.map(|slot| rows(slot).iter().map(|row| row.ordinal).collect()).collect();
        self.given.clear();
        for (sheet, wanted) in self.record.sheets.iter().zip(&self.wanted) {
            let slot = sheet.slot.as_u8();
            self.given.extend(sheet.holders.iter().map(|peer| ((slot, *peer), *wanted)));
        }
        for Entry { taken, .. } in self.entries.values() {
            let given = self.given.entry((taken.slot.as_u8(), taken.holder)).or_default();
            *given = given.or(&taken.ordinals);
        }
        self.asked.retain(|holder, _| self.given.contains_key(holder));
    }

    /// Which stripes a slot has shards of.
    pub(super) fn wanted(&self, slot: Slot) -> Ordinals {
        self.wanted.get(slot.index()).copied().unwrap_or_default()
    }

    /// Which of them this peer was given.
    fn given(&self, slot: Slot, peer: &PeerKey) -> Ordinals {
        self.given.get(&(slot.as_u8(), *peer)).copied().unwrap_or_default()
    }

    /// Which of them it should still have, as far as it said nothing else.
    pub(super) fn has(&self, slot: Slot, peer: &PeerKey) -> Ordinals {
        let lacks = self.lacks.get(&(slot.as_u8(), *peer)).copied().unwrap_or_default();
        self.given(slot, peer).without(&lacks)
    }

    /// Everybody on record for a slot, those with the most shards first.
    pub(super) fn holders(&self, slot: Slot) -> Vec<PeerKey> {
        let (first, last) = (PeerKey::from_bytes([0; 32]), PeerKey::from_bytes([255; 32]));
        let at = slot.as_u8();
        let mut all: Vec<PeerKey> = self.given.range((at, first)..=(at, last)).map(|((_, peer), _)| *peer).collect();
        all.sort_by_key(|peer| std::cmp::Reverse(self.has(slot, peer).len()));
        all
    }

    /// Who counts as a holder: has all that the slot should have.
    pub(super) fn whole_holders(&self) -> Vec<Vec<PeerKey>> {
        let code = self.record.mandate.ticket.code();
        let whole = |slot: Slot, peer: &PeerKey| self.wanted(slot).without(&self.has(slot, peer)).is_empty();
        code.each_slot().map(|slot| self.holders(slot).into_iter().filter(|p| whole(slot, p)).collect()).collect()
    }

    /// Everybody who was ever given something, by slot.
    pub(super) fn ever(&self) -> BySlot {
        self.record.mandate.ticket.code().each_slot().map(|slot| self.holders(slot).into_iter().collect()).collect()
    }

    pub(super) fn everybody(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.given.keys().map(|(_, peer)| *peer).chain(self.committee.stewards().iter().copied())
    }

    /// Whether this peer is a steward of the group, or was one lately or at first.
    pub(super) fn is_steward(&self, peer: &PeerKey) -> bool {
        let now = std::iter::once(&self.committee).chain(&self.before);
        now.into_iter().any(|c| c.stewards().contains(peer)) || self.record.mandate.stewards.contains(peer)
    }

    pub(super) fn concerns(&self, peer: &PeerKey) -> bool {
        let slots = 0..self.wanted.len() as u8;
        slots.into_iter().any(|slot| self.given.contains_key(&(slot, *peer)))
            || self.committee.stewards().contains(peer)
    }

    pub(super) fn assess(&self, watch: &Watch, now: Timestamp) -> Assessment {
        let mandate = &self.record.mandate;
        let belief = |peer: &PeerKey| watch.belief(peer, now);
        assess(mandate.ticket.code(), mandate.replicas, &self.whole_holders(), &belief, &Triggers::default())
    }

    /// A holder's own word. Whether it was news.
    pub(super) fn report(&mut self, holder: PeerKey, slot: Slot, has: &Ordinals, now: Timestamp) -> bool {
        let lacks = self.given(slot, &holder).without(has);
        let key = (slot.as_u8(), holder);
        let known = self.lacks.get(&key).copied().unwrap_or_default();
        if lacks == known || self.given(slot, &holder).is_empty() {
            return false;
        }
        if lacks.is_empty() {
            self.lacks.remove(&key);
        } else {
            self.lacks.insert(key, lacks);
            self.note(now, What::Lacks { slot: slot.as_u8(), holder, shards: lacks.len() as u16 });
        }
        self.looked = None;
        true
    }

    pub(super) fn is_due(&self, now: Timestamp, rhythm: &Rhythm) -> bool {
        self.next_look(rhythm) <= now
    }

    pub(super) fn next_look(&self, rhythm: &Rhythm) -> Timestamp {
        self.looked.map_or(Timestamp(0), |at| at.plus_ms(rhythm.look_ms))
    }

    pub(super) const fn looked(&mut self, now: Timestamp) {
        self.looked = Some(now);
    }

    /// Lets go of what is over. Whether anything was.
    pub(super) fn clear_up(&mut self, now: Timestamp, rhythm: &Rhythm) -> bool {
        let unsigned: Vec<Subject> =
            self.proposals.values().filter(|p| p.until <= now).map(|p| subject_of(&p.order.action)).collect();
        self.proposals.retain(|_, proposal| proposal.until > now);
        for subject in unsigned {
            self.disappointed(subject, None, now, rhythm);
        }
        let before = self.promised.len() + self.under_way.len();
        self.promised.retain(|_, (_, until)| *until > now);
        let over: Vec<(Subject, OrderId)> = self
            .under_way
            .iter()
            .filter(|(_, certificate)| !certificate.stands_at(now))
            .filter_map(|(subject, certificate)| Some((*subject, certificate.order.id().ok()?)))
            .collect();
        for (subject, order) in over {
            let to = self.under_way.remove(&subject).and_then(|certificate| certificate.order.action.to());
            self.note(now, What::Failed { order, why: None });
            self.disappointed(subject, to, now, rhythm);
        }
        if now.ms_since(self.spent.0) >= MONTH_MS {
            self.spent = (now, 0);
        }
        before != self.promised.len() + self.under_way.len()
    }

    /// Nobody is there for it: not looked for again for a while.
    pub(super) fn in_vain(&mut self, subject: Subject, now: Timestamp, rhythm: &Rhythm) {
        let pause = if subject == Subject::Another { rhythm.pause_ms_max } else { rhythm.pause_ms };
        self.patience_with(subject, now).next = now.plus_ms(pause);
    }

    fn disappointed(&mut self, subject: Subject, by: Option<PeerKey>, now: Timestamp, rhythm: &Rhythm) {
        let patience = self.patience_with(subject, now);
        patience.failures = patience.failures.saturating_add(1);
        let pause = rhythm.pause_ms.saturating_mul(1 << patience.failures.min(16)).min(rhythm.pause_ms_max);
        patience.next = now.plus_ms(pause);
        patience.avoid.retain(|_, until| *until > now);
        if let Some(peer) = by
            && patience.avoid.len() < AVOIDED_MAX
        {
            patience.avoid.insert(peer, now.plus_ms(2 * rhythm.pause_ms_max));
        }
    }

    /// The patience with a subject that is wanted.
    fn patience_with(&mut self, subject: Subject, now: Timestamp) -> &mut Patience {
        let new = || Patience { since: now, failures: 0, next: now, avoid: BTreeMap::new() };
        self.patience.entry(subject).or_insert_with(new)
    }

    /// Whether it is our turn with a subject that is wanted, and nothing about it is under way.
    pub(super) fn is_our_turn(
        &mut self,
        me: &PeerKey,
        subject: Subject,
        watch: &Watch,
        now: Timestamp,
        turn_ms: u64,
    ) -> bool {
        let place = self.place(me, &subject, watch, now);
        let patience = self.patience_with(subject, now);
        // Counted anew after each failure, or all would try again at the same time.
        let turn = patience.since.max(patience.next).plus_ms(place * turn_ms) <= now;
        turn && self.is_free(&subject, now)
    }

    /// Forgets the patience with what is not wanted any more.
    pub(super) fn wanted_now(&mut self, subjects: &BTreeSet<Subject>) {
        self.patience.retain(|subject, _| subjects.contains(subject));
    }

    pub(super) fn avoided(&self, subject: &Subject, now: Timestamp) -> BTreeSet<PeerKey> {
        let patience = self.patience.get(subject);
        let avoid = patience.into_iter().flat_map(|patience| &patience.avoid);
        avoid.filter(|(_, until)| **until > now).map(|(peer, _)| *peer).collect()
    }

    /// Whether nothing about this subject is under way, and nothing that we signed.
    pub(super) fn is_free(&self, subject: &Subject, now: Timestamp) -> bool {
        !self.under_way.contains_key(subject) && self.promised.get(subject).is_none_or(|(_, until)| *until <= now)
    }

    /// Orders of slots under way.
    pub(super) fn busy(&self) -> usize {
        let slots = |subject: &&Subject| matches!(subject, Subject::Slot(_));
        let proposed = self.proposals.values().filter(|p| p.order.action.slot().is_some()).count();
        self.under_way.keys().filter(slots).count() + proposed
    }

    /// A steward's lot for a subject; the lowest of those who are there is first.
    fn lot(&self, steward: &PeerKey, subject: &Subject) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 steward's turn v1");
        hasher.update(self.group().as_bytes()).update(steward.as_bytes());
        match subject {
            Subject::Slot(slot) => hasher.update(&[*slot]),
            Subject::Steward(peer) => hasher.update(peer.as_bytes()),
            Subject::Another => hasher.update(b"another"),
        };
        *hasher.finalize().as_bytes()
    }

    /// Which place we have among the stewards that are there, for this subject.
    fn place(&self, me: &PeerKey, subject: &Subject, watch: &Watch, now: Timestamp) -> u64 {
        let mine = self.lot(me, subject);
        let there = |steward: &&PeerKey| **steward != *me && watch.belief(steward, now).presence <= Presence::Late;
        let before = |steward: &&PeerKey| self.lot(steward, subject) < mine;
        self.committee.stewards().iter().filter(there).filter(before).count() as u64
    }

    /// Gives way with a proposal of our own to a steward that comes first, or two who proposed at once would wait for each other.
    pub(super) fn give_way(&mut self, me: &PeerKey, from: &PeerKey, subject: &Subject) {
        let ours = |proposal: &Proposal| subject_of(&proposal.order.action) == *subject;
        if self.proposals.values().any(ours) && self.lot(from, subject) < self.lot(me, subject) {
            self.proposals.retain(|_, proposal| !ours(proposal));
            self.promised.remove(subject);
        }
    }

    pub(super) fn propose(
        &mut self,
        name: OrderId,
        order: Order,
        me: PeerKey,
        vote: [u8; 64],
        now: Timestamp,
        rhythm: &Rhythm,
    ) {
        self.promise(&order, name, now.plus_ms(rhythm.vote_ms));
        let until = now.plus_ms(rhythm.vote_ms);
        self.proposals.insert(name, Proposal { order, votes: [(me, vote)].into(), until });
    }

    /// Notes what we signed. It binds us until then, or longer once it is an order.
    pub(super) fn promise(&mut self, order: &Order, name: OrderId, until: Timestamp) {
        self.promised.insert(subject_of(&order.action), (name, until));
    }

    /// Takes a vote for a proposal of ours; whether it is one.
    pub(super) fn vote(&mut self, from: &PeerKey, order: &OrderId, vote: [u8; 64]) -> bool {
        let known = self.committee.stewards().contains(from);
        let Some(proposal) = self.proposals.get_mut(order).filter(|_| known) else { return false };
        if proposal.votes.contains_key(from) || !proposal.order.is_signed(from, &vote) {
            return false;
        }
        proposal.votes.insert(*from, vote);
        true
    }

    /// The certificate of a proposal that has enough votes, which is none from then on.
    pub(super) fn certify(&mut self, name: &OrderId) -> Option<Certificate> {
        let proposal = self.proposals.get(name)?;
        let enough = proposal.votes.len() >= self.committee.needed(&proposal.order.action);
        let proposal = if enough { self.proposals.remove(name)? } else { return None };
        Some(Certificate::new(proposal.order, proposal.votes))
    }

    fn change(&mut self, certificate: &Certificate) -> Result<bool, DecodeError> {
        // Each once: who was put in somebody's place and lost it again would otherwise come back with every map that is told.
        if self.changes.iter().any(|known| known.order == certificate.order) {
            return Ok(false);
        }
        let before = self.committee.clone();
        self.committee.change(certificate)?;
        if self.committee == before {
            return Ok(false);
        }
        if self.before.len() == COMMITTEES_MAX {
            self.before.pop_front();
        }
        self.before.push_back(before);
        self.changes.push(certificate.clone());
        Ok(true)
    }

    /// Whether a quorum of stewards that were in office lately signed it.
    fn is_good(&self, certificate: &Certificate) -> bool {
        std::iter::once(&self.committee).chain(self.before.iter().rev()).any(|c| certificate.check(c).is_ok())
    }

    /// Takes note of an order. Whether it was news.
    pub(super) fn certified(&mut self, certificate: Certificate, now: Timestamp) -> bool {
        let subject = subject_of(&certificate.order.action);
        let (old, new) = certificate.order.action.stewards();
        if old.is_some() || new.is_some() {
            let done = self.change(&certificate).unwrap_or(false);
            if done {
                self.promised.remove(&subject);
                self.patience.remove(&subject);
                self.note(now, What::Stewards { old, new });
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
        let (rebuild, ordinals) = match &certificate.order.action {
            Action::Rebuild { ordinals, .. } => (true, *ordinals),
            Action::Copy { ordinals, .. } => (false, *ordinals),
            _ => return false,
        };
        self.promised.insert(subject, (order, certificate.order.expires));
        self.spent.1 = self.spent.1.saturating_add(self.cost(&certificate.order.action));
        self.under_way.insert(subject, certificate);
        let shards = ordinals.len() as u16;
        self.note(now, What::Ordered { order, slot: slot.as_u8(), to, rebuild, shards });
        true
    }

    /// Bytes that an action moves in all.
    pub(super) fn cost(&self, action: &Action) -> u64 {
        let shard = SHARD_SIZE as u64;
        match action {
            Action::Copy { ordinals, .. } => ordinals.len() as u64 * shard,
            Action::Rebuild { ordinals, helpers, .. } => (ordinals.len() * helpers.len()) as u64 * shard,
            _ => 0,
        }
    }

    /// Whether the mandate still allows so many bytes this month.
    pub(super) const fn affords(&self, bytes: u64) -> bool {
        self.spent.1.saturating_add(bytes) <= self.record.mandate.monthly_bytes
    }

    /// A new holder's word. Whether it was news.
    pub(super) fn taken(&mut self, certificate: &Certificate, sealed: Vec<u8>, now: Timestamp) -> bool {
        let Ok(order) = certificate.order.id() else { return false };
        if self.entries.contains_key(&order) {
            return false;
        }
        let Ok(taken) = Taken::open(&sealed) else { return false };
        let (Action::Copy { slot, to, ordinals, .. } | Action::Rebuild { slot, to, ordinals, .. }) =
            &certificate.order.action
        else {
            return false;
        };
        let same = taken.order == order && taken.group == self.group() && taken.slot == *slot && taken.holder == *to;
        let part = !taken.ordinals.is_empty() && taken.ordinals.without(ordinals).is_empty();
        let subject = Subject::Slot(slot.as_u8());
        // One that is under way was found good when it began.
        let under_way = self.under_way.get(&subject) == Some(certificate);
        if !same || !part || !(under_way || self.is_good(certificate)) {
            return false;
        }
        let is_this = |c: &Certificate| c.order == certificate.order;
        if self.under_way.get(&subject).is_some_and(is_this) {
            self.under_way.remove(&subject);
        }
        if self.promised.get(&subject).is_some_and(|(promised, _)| *promised == order) {
            self.promised.remove(&subject);
        }
        let holder = taken.holder;
        let key = (slot.as_u8(), holder);
        if let Some(lacks) = self.lacks.remove(&key).map(|lacks| lacks.without(&taken.ordinals))
            && !lacks.is_empty()
        {
            self.lacks.insert(key, lacks);
        }
        let shards = taken.ordinals.len() as u16;
        self.note(now, What::Repaired { order, slot: slot.as_u8(), holder, shards });
        self.patience.remove(&subject);
        self.looked = None;
        if self.entries.len() >= ENTRIES_MAX {
            return true;
        }
        self.entries.insert(order, Entry { certificate: certificate.clone(), sealed, taken });
        self.reckon();
        self.asked.insert(key, now);
        self.looked = None;
        true
    }

    /// A new holder's word that it came to nothing. The subject, when that was so.
    pub(super) fn failed(
        &mut self,
        from: &PeerKey,
        order: &OrderId,
        why: Failure,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Option<Subject> {
        let found = self.under_way.iter().find(|(_, certificate)| certificate.order.id().as_ref() == Ok(order))?;
        let (subject, action) = (*found.0, found.1.order.action.clone());
        if action.to() != Some(*from) {
            return None;
        }
        self.under_way.remove(&subject);
        self.promised.remove(&subject);
        self.note(now, What::Failed { order: *order, why: Some(why) });
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
        // It may be the one to blame itself.
        self.disappointed(subject, Some(*from), now, rhythm);
        if let Some(patience) = self.patience.get_mut(&subject)
            && let Some(peer) = blamed.filter(|_| patience.avoid.len() < AVOIDED_MAX)
        {
            patience.avoid.insert(peer, now.plus_ms(rhythm.pause_ms_max));
        }
        Some(subject)
    }

    /// The hash of the slot's newest entry, zero when there is none.
    pub(super) fn newest_entry(&self, slot: Slot) -> [u8; 32] {
        let of = self.entries.values().filter(|entry| entry.taken.slot == slot);
        of.max_by_key(|entry| (entry.taken.at, entry.taken.order)).map_or([0; 32], |entry| Taken::hash(&entry.sealed))
    }

    /// Of stewards and entries: equal maps have equal ones.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 group map digest v1");
        let stewards: BTreeSet<&PeerKey> = self.committee.stewards().iter().collect();
        for steward in stewards {
            hasher.update(steward.as_bytes());
        }
        for (order, entry) in &self.entries {
            hasher.update(order).update(&Taken::hash(&entry.sealed));
        }
        *hasher.finalize().as_bytes()
    }

    /// Another steward whose map is to be compared with ours, when it is time.
    pub(super) fn compare_with(
        &mut self,
        me: &PeerKey,
        now: Timestamp,
        rhythm: &Rhythm,
        watch: &Watch,
    ) -> Option<(PeerKey, [u8; 32])> {
        if now.ms_since(self.compared) < rhythm.compare_ms {
            return None;
        }
        self.compared = now;
        let there = |peer: &&PeerKey| **peer != *me && watch.belief(peer, now).presence <= Presence::Late;
        let others: Vec<PeerKey> = self.committee.stewards().iter().filter(there).copied().collect();
        let at = (now.0 / rhythm.compare_ms.max(1)) as usize % others.len().max(1);
        others.get(at).map(|peer| (*peer, self.digest()))
    }

    fn entries_to_tell(&self) -> Vec<(Certificate, Vec<u8>)> {
        self.entries.values().map(|entry| (entry.certificate.clone(), entry.sealed.clone())).collect()
    }

    pub(super) fn map_message(&self) -> Say {
        Say::Map { group: self.group(), changes: self.changes.clone(), entries: self.entries_to_tell() }
    }

    pub(super) fn whole(&self) -> Say {
        let record = Box::new(self.record.clone());
        Say::Record { record, changes: self.changes.clone(), entries: self.entries_to_tell() }
    }

    /// Holders that are to be asked what they have: each once in a period, at a moment of its own that follows from `me` and its key,
    /// so that neither a steward asks all of them nor all stewards ask one at the same time.
    pub(super) fn to_ask(&self, me: &PeerKey, now: Timestamp, period_ms: u64) -> Vec<(Slot, PeerKey)> {
        let period = period_ms.max(1);
        let phase = |slot: u8, peer: &PeerKey| {
            let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 inventory phase v1");
            hasher.update(me.as_bytes()).update(self.group().as_bytes()).update(&[slot]).update(peer.as_bytes());
            let hash = *hasher.finalize().as_bytes();
            hash.first_chunk().map_or(0, |head| u64::from_le_bytes(*head)) % period
        };
        let due = |slot: u8, peer: &PeerKey| {
            let rest = period - phase(slot, peer);
            let moment = |at: Timestamp| at.0.saturating_add(rest) / period;
            self.asked.get(&(slot, *peer)).is_none_or(|at| *at > now || moment(*at) < moment(now))
        };
        let slots = self.record.mandate.ticket.code().each_slot();
        let all = slots.flat_map(|slot| self.holders(slot).into_iter().map(move |peer| (slot, peer)));
        all.filter(|(slot, peer)| peer != me && due(slot.as_u8(), peer)).collect()
    }

    /// A holder is being asked, or answered.
    pub(super) fn asked(&mut self, slot: Slot, holder: PeerKey, now: Timestamp) {
        let key = (slot.as_u8(), holder);
        if self.given.contains_key(&key) {
            self.asked.insert(key, now);
        }
    }

    /// Whether it needs something now, or has something under way.
    pub(super) fn is_busy(&self) -> bool {
        let wants = |subject: &Subject| *subject != Subject::Another;
        !self.under_way.is_empty() || !self.proposals.is_empty() || self.patience.keys().any(wants)
    }

    pub(super) fn map_for_owner(&self) -> GroupMap {
        GroupMap {
            mandate: self.record.sealed_mandate().to_vec(),
            sheets: self.record.sheets.iter().map(|sheet| sheet.generation).collect(),
            changes: self.changes.clone(),
            entries: self.entries_to_tell(),
            log: self.log.iter().cloned().collect(),
        }
    }

    pub(super) fn report_of(&self, watch: &Watch, now: Timestamp) -> GroupReport {
        let row = |slot: Slot| {
            let holders = self.holders(slot).into_iter();
            let holder =
                |peer: PeerKey| (peer, watch.belief(&peer, now), self.has(slot, &peer).len(), self.wanted(slot).len());
            holders.map(holder).collect()
        };
        let stewards = self.committee.stewards().iter();
        GroupReport {
            group: self.group(),
            slots: self.record.mandate.ticket.code().each_slot().map(row).collect(),
            stewards: stewards.map(|peer| (*peer, watch.belief(peer, now).presence)).collect(),
            quorum: self.committee.quorum(),
            assessment: self.assess(watch, now),
            under_way: self.under_way.len(),
            log: self.log.iter().cloned().collect(),
        }
    }

    pub(super) fn note_no_peer(&mut self, slot: u8, now: Timestamp) {
        // Once, not at every look.
        if !matches!(self.log.back(), Some(Happening { what: What::NoPeer { slot: known }, .. }) if *known == slot) {
            self.note(now, What::NoPeer { slot });
        }
    }
}
