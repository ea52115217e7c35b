//! One group as a steward sees it: the owner's record, what was repaired since, what is under way.
//!
//! The leaves: `apart` (whether too much of it fell together), `audits` (who looks whether holders have what they say), `chain` (who the
//! stewards are), `compared` (whether they know the same), `doubts` (what new holders say of others), `inventory` (who has what, for the owner and for those who ask), `leaning`
//! (slots in the owner's own storage), `orders` (what was ordered and came of it), `pace` (how orders get on), `phases` (when each came how far), `repairs` (how long they
//! take), `state` (all of it as bytes), `succession` (who was passed over when most were lost), `tokens` (how holders are asked that nobody audits), `turns` (whose turn it is, what was signed), `waits` (what is wanted and what was not signed, for reports), `words` (what holders signed for).

use std::collections::{BTreeMap, VecDeque};

use cairn_proto::{
    Certificate, CodeParams, Committee, DecodeError, GroupId, GroupRecord, Ordinals, PeerKey, STRIPES_PER_GROUP_MAX,
    Slot, Timestamp, mandate::is_real, order::OrderId,
};

use super::{
    BySlot, Rhythm,
    log::{Happening, LOG_MAX, What},
};
use crate::{
    assess::{Assessment, Need, Triggers},
    liveness::{Presence, Watch},
};

mod apart;
mod audits;
mod chain;
mod compared;
mod doubts;
mod inventory;
mod leaning;
mod orders;
mod pace;
mod phases;
mod repairs;
pub(super) mod state;
mod succession;
mod tokens;
mod turns;
mod waits;
mod words;

pub(super) use self::orders::{Silence, Word};
pub(super) use self::tokens::Came;
pub use self::{
    audits::AuditReport,
    inventory::GroupReport,
    phases::{OrderEnd, RepairPhases},
    tokens::TokenReport,
    waits::{Refused, Wait},
};
use self::{
    audits::{Audited, Distrust},
    chain::{Chain, Heard},
    doubts::Spent,
    orders::{Entry, UnderWay},
    pace::Pace,
    repairs::Lacking,
    tokens::Tokens,
    turns::{Patience, Promise, Proposal},
};

/// Carried out orders that are remembered for a group: 64 times a whole slot of 256 stripes, eight at a time; 2 MiB. Beyond, what is
/// repaired is not found again, the log says so, and the owner must look after the group.
pub(super) const ENTRIES_MAX: usize = 2048;

/// A proposer misses a peer when its silence is as long as this, in hundredths, by our own reckoning: two stewards heard it last at moments
/// that are adverts apart, and a vote that fails for that would cost an emergency a pause.
pub(super) const MISSED_TO_SIGN: u8 = 75;

/// What an order is about: there is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A slot of the group.
    Slot(u8),
    /// A steward of it.
    Steward(PeerKey),
    /// One more steward.
    Another,
    /// A copy elsewhere of a slot that stands where too many others do.
    Apart,
}

/// One group.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) record: GroupRecord,
    /// Who brought it, as the transport authenticated it.
    pub(super) introducer: PeerKey,
    pub(super) chain: Chain,
    entries: BTreeMap<OrderId, Entry>,
    /// Of these and the record: who was given what, what each slot should have, and the data shards of each stripe, 0 where there is none.
    given: BTreeMap<(u8, PeerKey), Ordinals>,
    wanted: Vec<Ordinals>,
    used: Vec<u8>,
    /// Holders that soon lacked what they had said they took: how often, and when last.
    broken: BTreeMap<(u8, PeerKey), (u32, Timestamp)>,
    /// What holders said that they lack.
    lacks: BTreeMap<(u8, PeerKey), Ordinals>,
    /// What auditors of ours did not get to see.
    distrusted: BTreeMap<(u8, PeerKey), Distrust>,
    /// Who audits for us; since when we watch, in this life.
    audits: BTreeMap<(u8, PeerKey), Audited>,
    since: Timestamp,
    /// Questions for holders that nobody audits.
    tokens: Tokens,
    /// What we signed.
    promised: BTreeMap<Subject, Promise>,
    proposals: BTreeMap<OrderId, Proposal>,
    under_way: BTreeMap<Subject, UnderWay>,
    /// When we gave a new holder what is under way, last; a steward that starts again gives it again.
    gave: BTreeMap<Subject, Timestamp>,
    /// Bytes of record and entries.
    weight: usize,
    patience: BTreeMap<Subject, Patience>,
    /// Slots that lack a copy. Not kept across a crash: silence tells since when.
    lacking: BTreeMap<u8, Lacking>,
    /// How the last orders went.
    phases: VecDeque<RepairPhases>,
    /// What we did not sign lately.
    refused: VecDeque<Refused>,
    /// Until then an emergency by presence goes on, as long as a slot is missed. Not kept across a crash: whoever starts again judges anew.
    alarm_until: Timestamp,
    /// Whether so few of the stewards are left that they order successions. Not kept across a crash, nor is what follows.
    pub(super) alone: bool,
    /// Stewards that were passed over: when they were told so, last, and how often.
    told: BTreeMap<PeerKey, (Option<Timestamp>, u8)>,
    /// When somebody whom we do not know as a steward said that it is one, last.
    stranger: Option<Timestamp>,
    looked: Option<Timestamp>,
    /// When a map was last compared, and with whose, while the answer is not there.
    compared: Timestamp,
    asked_for_map: Option<PeerKey>,
    /// When holders were last asked what they have, or since when they are known.
    asked: BTreeMap<(u8, PeerKey), Timestamp>,
    spent: Spent,
    log: VecDeque<Happening>,
}

impl Watched {
    pub(super) fn new(
        record: GroupRecord,
        introducer: PeerKey,
        changes: &[Certificate],
        heard: Heard<'_>,
        now: Timestamp,
    ) -> Result<Self, DecodeError> {
        let chain = Chain::new(&record.mandate, changes, heard)?;
        let generation = record.mandate.generation;
        let mut new = Self {
            record,
            introducer,
            chain,
            entries: BTreeMap::new(),
            given: BTreeMap::new(),
            wanted: Vec::new(),
            used: Vec::new(),
            broken: BTreeMap::new(),
            lacks: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            audits: BTreeMap::new(),
            since: now,
            tokens: Tokens::default(),
            promised: BTreeMap::new(),
            proposals: BTreeMap::new(),
            under_way: BTreeMap::new(),
            gave: BTreeMap::new(),
            weight: 0,
            patience: BTreeMap::new(),
            lacking: BTreeMap::new(),
            phases: VecDeque::new(),
            refused: VecDeque::new(),
            alarm_until: Timestamp(0),
            alone: false,
            told: BTreeMap::new(),
            stranger: None,
            looked: None,
            compared: now,
            asked_for_map: None,
            asked: BTreeMap::new(),
            spent: Spent::new(now),
            log: VecDeque::new(),
        };
        new.note(now, What::Adopted { generation });
        new.reckon();
        new.asked = new.given.keys().map(|holder| (*holder, now)).collect();
        Ok(new)
    }

    /// Keeps what was found out under an older record: what was repaired, what is lacking, what we signed and what is under way. Orders of the
    /// older mandate stand as long as they say; what rests on it can still be checked.
    pub(super) fn with_history_of(mut self, old: Option<Self>) -> Self {
        if let Some(old) = old {
            let adopted = std::mem::take(&mut self.log);
            self.log = old.log;
            adopted.into_iter().for_each(|entry| self.note(entry.at, entry.what));
            self.chain = self.chain.after(old.chain, old.record.sealed_mandate());
            (self.lacks, self.promised, self.under_way) = (old.lacks, old.promised, old.under_way);
            (self.broken, self.gave, self.alarm_until) = (old.broken, old.gave, old.alarm_until);
            (self.distrusted, self.audits, self.since) = (old.distrusted, old.audits, old.since);
            self.tokens = old.tokens;
            // Whoever the owner names is no heir: what was given is gone, and what it brings next is for other heirs.
            if self.tokens.handed.is_some() && self.record.mandate.generation != old.record.mandate.generation {
                (self.tokens.spare, self.tokens.handed) = (None, None);
            }
            (self.patience, self.spent, self.introducer) = (old.patience, old.spent, old.introducer);
            (self.lacking, self.phases, self.refused) = (old.lacking, old.phases, old.refused);
            self.entries = old.entries;
            self.asked.extend(old.asked);
            self.let_go_of_old();
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

    pub(super) fn note_no_peer(&mut self, slot: u8, now: Timestamp) {
        // Once, not at every look, until something else of this slot is worth an entry.
        let about = |what: &What| match what {
            What::Lacks { slot, .. }
            | What::NotShown { slot, .. }
            | What::Ordered { slot, .. }
            | What::Repaired { slot, .. } => Some((*slot, false)),
            What::NoPeer { slot } => Some((*slot, true)),
            _ => None,
        };
        let last = self.log.iter().rev().filter_map(|entry| about(&entry.what)).find(|(of, _)| *of == slot);
        if last.is_none_or(|(_, known)| !known) {
            self.note(now, What::NoPeer { slot });
        }
    }

    fn group(&self) -> GroupId {
        self.record.group()
    }

    pub(super) const fn code(&self) -> CodeParams {
        self.record.mandate.ticket.code()
    }

    pub(super) fn committee(&self) -> &Committee {
        self.chain.now()
    }

    /// Makes what is looked up at every look from record and entries.
    fn reckon(&mut self) {
        let rows = |slot: Slot| self.record.sheets.get(slot.index()).map(|sheet| &sheet.rows[..]).unwrap_or_default();
        let slots = self.code().each_slot();
        self.wanted = slots.map(|slot| rows(slot).iter().map(|row| row.ordinal).collect()).collect();
        self.used = vec![0; STRIPES_PER_GROUP_MAX];
        for row in self.record.sheets.iter().flat_map(|sheet| &sheet.rows) {
            self.used[usize::from(row.ordinal)] = row.used;
        }
        self.given.clear();
        for (sheet, wanted) in self.record.sheets.iter().zip(&self.wanted) {
            let slot = sheet.slot.as_u8();
            self.given.extend(sheet.holders.iter().map(|peer| ((slot, *peer), *wanted)));
        }
        for Entry { taken, .. } in self.entries.values() {
            let given = self.given.entry((taken.slot.as_u8(), taken.holder)).or_default();
            *given = given.or(&taken.ordinals);
        }
        let sheets: usize =
            self.code().each_slot().filter_map(|slot| self.record.sealed_sheet(slot)).map(<[u8]>::len).sum();
        let entries: usize = self.entries.values().map(|entry| entry.weight).sum();
        let words = size_of_val(self.record.words());
        self.weight = self.record.sealed_mandate().len() + sheets + words + entries;
        self.asked.retain(|holder, _| self.given.contains_key(holder));
        self.lacks.retain(|holder, _| self.given.contains_key(holder));
        self.broken.retain(|holder, _| self.given.contains_key(holder));
        self.distrusted.retain(|holder, _| self.given.contains_key(holder));
        self.audits.retain(|holder, _| self.given.contains_key(holder));
        self.settle_tokens();
    }

    /// Bytes of what its record and its map take.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    /// As if it were so large.
    #[cfg(test)]
    pub(super) const fn weigh(&mut self, bytes: usize) {
        self.weight = bytes;
    }

    /// How far ahead it is bound, and waits.
    #[cfg(test)]
    pub(super) fn latest(&self) -> (Timestamp, Timestamp) {
        let bound = self.promised.values().map(|promise| promise.until).max().unwrap_or(self.compared);
        let waits = self.patience.values().map(|patience| patience.next).chain(self.asked.values().copied());
        (bound, waits.chain([self.compared, self.spent.began]).max().unwrap_or(self.compared))
    }

    /// Bytes of its record alone.
    pub(super) fn record_weight(&self) -> usize {
        self.weight.saturating_sub(self.entries.values().map(|entry| entry.weight).sum::<usize>())
    }

    /// Which stripes a slot has shards of.
    pub(super) fn wanted(&self, slot: Slot) -> Ordinals {
        self.wanted.get(slot.index()).copied().unwrap_or_default()
    }

    /// Data shards of a stripe: as many others rebuild one of it. Zero when there is no such stripe.
    pub(super) fn used(&self, ordinal: u8) -> u8 {
        self.used.get(usize::from(ordinal)).copied().unwrap_or_default()
    }

    /// Which of them this peer was given.
    fn given(&self, slot: Slot, peer: &PeerKey) -> Ordinals {
        self.given.get(&(slot.as_u8(), *peer)).copied().unwrap_or_default()
    }

    /// Which of them it should still have, as far as it said nothing else and no auditor of ours looked in vain.
    pub(super) fn has(&self, slot: Slot, peer: &PeerKey) -> Ordinals {
        self.claims(slot, peer).without(&self.distrust(slot, peer))
    }

    /// Everybody on record for a slot, those with the most shards first.
    pub(super) fn holders(&self, slot: Slot) -> Vec<PeerKey> {
        let (first, last) = (PeerKey::from_bytes([0; 32]), PeerKey::from_bytes([255; 32]));
        let at = slot.as_u8();
        let mut all: Vec<PeerKey> = self.given.range((at, first)..=(at, last)).map(|((_, peer), _)| *peer).collect();
        all.sort_by_key(|peer| std::cmp::Reverse(self.has(slot, peer).len()));
        all
    }

    /// Holders of other slots that are here and have something: who may help to rebuild it.
    pub(super) fn helpers_here(&self, slot: Slot, watch: &Watch, now: Timestamp) -> Vec<PeerKey> {
        let others = self.code().each_slot().filter(|other| *other != slot);
        let has = others.flat_map(|other| self.holders(other).into_iter().map(move |peer| (other, peer)));
        let has = has.filter(|(other, peer)| !self.has(*other, peer).is_empty()).map(|(_, peer)| peer);
        has.filter(|peer| watch.belief(peer, now).presence == Presence::Here).collect()
    }

    /// Who counts as a holder: has all that the slot should have.
    fn whole_holders(&self, slot: Slot) -> Vec<PeerKey> {
        let whole = |peer: &PeerKey| self.wanted(slot).without(&self.has(slot, peer)).is_empty();
        self.holders(slot).into_iter().filter(whole).collect()
    }

    /// Everybody who was ever given something, by slot.
    pub(super) fn ever(&self) -> BySlot {
        self.code().each_slot().map(|slot| self.holders(slot).into_iter().collect()).collect()
    }

    pub(super) fn everybody(&self) -> impl Iterator<Item = PeerKey> + '_ {
        let passed_over = self.chain.successions().flat_map(|(committee, change)| committee.unsigned(change));
        let stewards = self.committee().stewards().iter().chain(passed_over).chain(self.told.keys());
        self.given.keys().map(|(_, peer)| *peer).chain(stewards.copied())
    }

    /// Whether this peer is a steward of the group, or was one under this mandate.
    pub(super) fn is_steward(&self, peer: &PeerKey) -> bool {
        self.chain.knows(peer)
    }

    /// How it stands. Slots that no stripe uses are zero everywhere and cannot be lost: the group is judged as one of the code
    /// that is left without them, and they are counted as living.
    pub(super) fn assess(&self, watch: &Watch, now: Timestamp) -> Assessment {
        self.assess_by(&self.triggers(watch, now), watch, now)
    }

    /// Slots that the owner keeps where no steward hears of them, and that no peer has whole.
    pub(super) fn leaning(&self) -> Vec<Slot> {
        let leans = self.record.sheets.iter().filter(|sheet| sheet.leans && !sheet.rows.is_empty());
        leans.map(|sheet| sheet.slot).filter(|slot| self.whole_holders(*slot).is_empty()).collect()
    }

    /// The same for whoever is asked to sign.
    pub(super) fn assess_to_sign(&self, watch: &Watch, now: Timestamp) -> Assessment {
        self.assess_by(&Triggers { missed: MISSED_TO_SIGN, ..self.triggers(watch, now) }, watch, now)
    }

    fn triggers(&self, watch: &Watch, now: Timestamp) -> Triggers {
        Triggers { alarm: now < self.alarm_until, spare_ms: watch.timers().day_ms, ..Triggers::default() }
    }

    fn assess_by(&self, policy: &Triggers, watch: &Watch, now: Timestamp) -> Assessment {
        let (code, replicas) = (self.code(), self.record.mandate.replicas);
        let used = self.used.iter().copied().max().unwrap_or(0);
        let (real, none): (Vec<Slot>, Vec<Slot>) = code.each_slot().partition(|slot| is_real(code, used, *slot));
        let smaller = CodeParams::new(used, code.parity() as u8).unwrap_or(code);
        let slots: Vec<Vec<PeerKey>> = real.iter().map(|slot| self.whole_holders(*slot)).collect();
        let belief = |peer: &PeerKey| watch.belief(peer, now);
        let name = |slot: Slot| real.get(slot.index()).copied().unwrap_or(slot);
        let mut found = leaning::assess_leaning(smaller, replicas, slots, &belief, policy, &|slot| {
            self.record.sheets.get(name(slot).index()).is_some_and(|sheet| sheet.leans)
        });
        for need in &mut found.needs {
            match need {
                Need::Copy { slot, .. } | Need::Rebuild { slot, .. } => *slot = name(*slot),
                Need::None => {}
            }
        }
        none.iter().for_each(|slot| found.copies.insert(slot.index().min(found.copies.len()), replicas.into()));
        let more = none.len() as u8;
        found.live_slots += more;
        found.certain_slots += more;
        found.present_slots += more;
        found.there_slots += more;
        found
    }

    /// A holder's own word. Whether it was news.
    pub(super) fn report(
        &mut self,
        holder: PeerKey,
        slot: Slot,
        has: &Ordinals,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> bool {
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
            self.keeps_word(slot, holder, &lacks.without(&known), now, rhythm);
        }
        self.looked = None;
        true
    }

    pub(super) fn is_due(&self, now: Timestamp, rhythm: &Rhythm) -> bool {
        self.next_look(rhythm) <= now || self.looked.is_some_and(|at| at > now)
    }

    pub(super) fn next_look(&self, rhythm: &Rhythm) -> Timestamp {
        self.looked.map_or(Timestamp(0), |at| at.plus_ms(rhythm.look_ms))
    }

    pub(super) const fn looked(&mut self, now: Timestamp) {
        self.looked = Some(now);
    }

    /// Something changed about those who have a part in it.
    pub(super) const fn look_soon(&mut self) {
        self.looked = None;
    }
}
