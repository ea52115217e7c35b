//! What this node audits for whom, what it saw, and what it has yet to say. Pure: time and lots come in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use cairn_core::{
    audit::schedule::{Due, Pace, Schedule, Silence, Target},
    reputation::Observed,
    steward::{
        wire::{Duty, Findings, Refusal},
        words::signed_for,
    },
};
use cairn_proto::{
    Domain, GroupId, GroupTicket, Ordinals, PeerKey, ShardRoot, Slot, SlotSheet, Timestamp, audit::Evidence,
};
use rand_core::CryptoRng;

mod figures;

pub use self::figures::{AuditStatus, Owing};

/// Slots of groups at holders that are audited at a time: with two auditors a day for each of seven stewards, all that a network with
/// eight slots and holders a peer of each of its thousand groups has one do.
const HOLDINGS_MAX: usize = 8192;
/// Roots of shards that are kept for it, 33 MiB, and until when their holders are bound, 16 MiB: 4096 full slots.
const ROWS_MAX: usize = 1 << 20;
/// Stewards that have us audit the same: a committee, and its successors.
const STEWARDS_EACH: usize = 16;
/// Duties of one domain, of [`HOLDINGS_MAX`] times a few: in a network of few domains each steward has much to be audited.
const OF_DOMAIN_MAX: usize = HOLDINGS_MAX / 4;
/// Fewest auditors that are taken to share a holder, whatever a duty says: nobody has us ask one holder for more than 66 times a day.
const SHARED_LEAST: u8 = 7;
/// Two new challenges of one holder are never closer than half of this, however short a trial's day.
const LEAST_GAP_MS: u64 = 2000;
/// Parts of a day that are counted apart.
const PARTS: u64 = 24;

/// A slot of a group at a holder.
pub(super) type Holding = (GroupId, Slot, PeerKey);

/// What came of a challenge.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// The bytes are there.
    Good,
    /// It says itself that they are not.
    NotHere,
    /// It signed what is not so.
    Wrong(Box<Evidence>),
    /// Nothing that is an answer came in time. `reached`: it was there. The evidence: our word for it.
    Silent { reached: bool, complaint: Option<Box<Evidence>> },
    /// It has too much to do.
    Busy,
    /// It may have been us.
    Blind,
}

/// What is to be said of a peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    pub(super) saw: Vec<Observed>,
    pub(super) learned: Option<Evidence>,
}

/// What was seen since it was last said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    good: u32,
    silent: u32,
    missing: Ordinals,
    shown: Ordinals,
    proof: Option<Vec<u8>>,
}

impl Tally {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What was taken and could not be said, under what was seen since.
    fn put_back(&mut self, older: Self) {
        self.good = self.good.saturating_add(older.good);
        self.silent = self.silent.saturating_add(older.silent);
        self.missing = older.missing.without(&self.shown).or(&self.missing);
        self.shown = older.shown.without(&self.missing).or(&self.shown);
        self.proof = self.proof.take().or(older.proof);
    }
}

/// A steward that has us audit a holding.
#[derive(Clone, Debug)]
struct By {
    domain: Domain,
    until: Timestamp,
    auditors: u8,
    ordinals: Ordinals,
    tally: Tally,
    /// A loss, which it wants to know at once.
    urgent: bool,
    sending: bool,
    /// When it is told next, if there is anything.
    next: Timestamp,
}

#[derive(Clone, Debug)]
struct Watching {
    ticket: GroupTicket,
    generation: u64,
    rows: Arc<[(u8, ShardRoot)]>,
    by: BTreeMap<PeerKey, By>,
    /// What it is sure to have had: what it showed us ...
    had: Ordinals,
    /// ... and what it signed that it took, until when it is bound by that. Anybody may make up a group and name it as a holder, and an owner
    /// may list what it never brought: it would honestly say that it has not got it, and that is held against nobody (TRUST-1).
    signed: BTreeMap<u8, Timestamp>,
    /// What it did not show when it was asked last.
    missing: Ordinals,
    /// When a loss was last held against it.
    blamed: Option<Timestamp>,
}

impl Watching {
    fn ordinals(&self) -> Ordinals {
        let rows: Ordinals = self.rows.iter().map(|(ordinal, _)| *ordinal).collect();
        self.by.values().fold(Ordinals::default(), |all, by| all.or(&by.ordinals)).and(&rows)
    }

    fn surely_had(&self, ordinal: u8, now: Timestamp) -> bool {
        self.had.contains(ordinal) || self.signed.get(&ordinal).is_some_and(|until| now < *until)
    }

    fn root(&self, ordinal: u8) -> Option<ShardRoot> {
        let at = self.rows.binary_search_by_key(&ordinal, |(ordinal, _)| *ordinal).ok()?;
        self.rows.get(at).map(|(_, root)| *root)
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    /// A round of audits.
    pub(super) round_ms: u64,
    /// Between two reports to a steward without news of a loss, ...
    pub(super) report_ms: u64,
    /// ... and with such, or after one was not taken.
    pub(super) soon_ms: u64,
}

/// How much is taken on. Tests make them small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) holdings: usize,
    pub(super) rows: usize,
    pub(super) stewards_each: usize,
    pub(super) of_domain: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { holdings: HOLDINGS_MAX, rows: ROWS_MAX, stewards_each: STEWARDS_EACH, of_domain: OF_DOMAIN_MAX }
    }
}

/// All audits of this node.
pub(super) struct Book {
    me: PeerKey,
    spans: Spans,
    limits: Limits,
    schedule: Schedule,
    holdings: BTreeMap<Holding, Watching>,
    /// Since when a holder says that it is busy, and nothing else.
    busy: BTreeMap<PeerKey, Timestamp>,
    day: VecDeque<(u64, [u64; 3])>,
}

impl Book {
    pub(super) fn new(me: PeerKey, spans: Spans, limits: Limits) -> Self {
        let schedule = Schedule::at(Pace { day_ms: spans.round_ms, least_gap_ms: LEAST_GAP_MS });
        let (holdings, busy, day) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { me, spans, limits, schedule, holdings, busy, day }
    }

    /// Whether there is room for a steward's duty, before anything of it is checked.
    pub(super) fn has_room(&self, from: &PeerKey, domain: &Domain, holding: &Holding) -> bool {
        let known = self.holdings.get(holding);
        if known.is_some_and(|watching| watching.by.contains_key(from)) {
            return true;
        }
        let duties = self.holdings.values().flat_map(|watching| watching.by.values());
        duties.filter(|by| by.domain == *domain).count() < self.limits.of_domain
            && known.map_or(self.holdings.len() < self.limits.holdings, |watching| {
                watching.by.len() < self.limits.stewards_each
            })
    }

    /// Takes a duty over. The sheet is the owner's, of this ticket, and ours to see: the caller looked.
    pub(super) fn take(
        &mut self,
        from: PeerKey,
        domain: Domain,
        duty: &Duty,
        sheet: &SlotSheet,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let holding = (sheet.group, sheet.slot, duty.holder);
        let until = duty.until.min(now.plus_ms(2 * self.spans.round_ms));
        let rows: Ordinals = sheet.rows.iter().map(|row| row.ordinal).collect();
        let ordinals = duty.ordinals.and(&rows);
        if until <= now {
            return Err(Refusal::Old);
        }
        if ordinals.is_empty() || duty.holder == self.me {
            return Err(Refusal::Forged);
        }
        let known = self.holdings.get(&holding);
        if known.is_some_and(|watching| watching.generation > sheet.generation) {
            return Err(Refusal::Old);
        }
        let newer = known.is_none_or(|watching| watching.generation < sheet.generation);
        let kept: usize = self.holdings.values().map(|watching| watching.rows.len()).sum();
        if !self.has_room(&from, &domain, &holding) || (newer && kept + sheet.rows.len() > self.limits.rows) {
            return Err(Refusal::Busy);
        }
        let of_sheet = || sheet.rows.iter().map(|row| (row.ordinal, row.root)).collect::<Arc<[_]>>();
        let watching = self.holdings.entry(holding).or_insert_with(|| Watching {
            ticket: duty.ticket,
            generation: sheet.generation,
            rows: of_sheet(),
            by: BTreeMap::new(),
            had: Ordinals::default(),
            signed: BTreeMap::new(),
            missing: Ordinals::default(),
            blamed: None,
        });
        if watching.generation < sheet.generation {
            (watching.generation, watching.rows) = (sheet.generation, of_sheet());
            // Of other shards, maybe; whoever has it audited says again what is signed of these.
            watching.signed.clear();
        }
        for (ordinal, until) in signed_for(&duty.words, sheet, &duty.holder, now) {
            let known = watching.signed.entry(ordinal).or_insert(until);
            *known = until.max(*known);
        }
        let next = now.plus_ms(self.spans.report_ms);
        let by = watching.by.entry(from).or_insert_with(|| By {
            domain,
            until,
            auditors: duty.auditors,
            ordinals,
            tally: Tally::default(),
            urgent: false,
            sending: false,
            next,
        });
        (by.until, by.auditors, by.ordinals) = (until, duty.auditors, ordinals);
        if !self.reckon(&holding, now) {
            self.holdings.remove(&holding);
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// Has the schedule ask for what is wanted of a holding. Whether it can.
    fn reckon(&mut self, holding: &Holding, now: Timestamp) -> bool {
        let (group, slot, holder) = *holding;
        let Some(watching) = self.holdings.get(holding) else { return false };
        let of_holder = self.holdings.iter().filter(|((.., peer), _)| *peer == holder);
        let shared = of_holder.flat_map(|(_, watching)| watching.by.values().map(|by| by.auditors)).min();
        let shared = shared.unwrap_or(u8::MAX).max(SHARED_LEAST);
        self.schedule.watch(holder, (group, slot), &watching.ordinals(), shared.into(), now)
    }

    /// Lets go of duties that are over and have nothing more to say.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let patience = 2 * self.spans.report_ms;
        let mut changed: BTreeSet<Holding> = BTreeSet::new();
        for (holding, watching) in &mut self.holdings {
            let before = watching.by.len();
            watching.by.retain(|_, by| {
                let said = by.tally.is_empty() && !by.sending;
                by.until > now || !(said || by.until.plus_ms(patience) <= now)
            });
            if watching.by.len() < before {
                changed.insert(*holding);
            }
        }
        for holding in changed {
            if self.holdings.get(&holding).is_some_and(|watching| watching.by.is_empty()) {
                self.holdings.remove(&holding);
                self.schedule.forget(&holding.2, (holding.0, holding.1));
            } else {
                self.reckon(&holding, now);
            }
        }
        let holders = self.holders();
        self.busy.retain(|holder, _| holders.contains(holder));
    }

    /// When a challenge is due.
    pub(super) fn next_challenge(&self) -> Option<Timestamp> {
        self.schedule.poll_timeout()
    }

    /// Everybody who is audited.
    pub(super) fn holders(&self) -> BTreeSet<PeerKey> {
        self.holdings.keys().map(|(.., holder)| *holder).collect()
    }

    /// What is to be asked for now: of which group, and what it must be.
    pub(super) fn due<R: CryptoRng + ?Sized>(
        &mut self,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<(Due, GroupTicket, ShardRoot)> {
        loop {
            let due = self.schedule.next(now, rng)?;
            let watching = self.holdings.get(&(due.target.group, due.target.slot, due.holder));
            let live = watching.filter(|watching| watching.by.values().any(|by| by.until > now));
            if let Some((ticket, root)) = live.and_then(|w| Some((w.ticket, w.root(due.target.ordinal)?))) {
                return Some((due, ticket, root));
            }
            self.schedule.unheard(&due.holder, &due.target, now);
        }
    }

    /// Takes note of what came of a challenge; what is to be said of the holder.
    pub(super) fn settle(&mut self, holder: &PeerKey, target: &Target, seen: Seen, now: Timestamp) -> Told {
        let mut told = Told::default();
        let seen = match seen {
            Seen::Blind => {
                self.schedule.unheard(holder, target, now);
                return told;
            }
            // Whoever is busy for as long as a round does not answer at all.
            Seen::Busy => {
                let since = *self.busy.entry(*holder).or_insert(now);
                if now.ms_since(since) < self.spans.round_ms {
                    self.schedule.unheard(holder, target, now);
                    return told;
                }
                Seen::Silent { reached: true, complaint: None }
            }
            seen => seen,
        };
        let (mut lost, mut proof) = (false, None);
        match &seen {
            Seen::Good | Seen::NotHere | Seen::Wrong(_) => {
                self.busy.remove(holder);
                self.schedule.answered(holder, target, now);
            }
            Seen::Silent { .. } | Seen::Busy | Seen::Blind => {}
        }
        let mut blame = None;
        match seen {
            Seen::Good => told.saw.push(Observed::Good),
            Seen::NotHere => (lost, blame) = (true, Some(Observed::NotHere)),
            Seen::Wrong(evidence) => {
                (lost, proof) = (true, Some(evidence.encode()));
                told.learned = Some(*evidence);
            }
            Seen::Silent { reached, complaint } => {
                told.saw.push(Observed::Silent);
                match self.schedule.silent(holder, target, now) {
                    Silence::Again => {}
                    Silence::Withheld => (lost, blame) = (true, Some(Observed::Withheld)),
                    // It was there all the time and showed nothing to anybody: then it has nothing to show.
                    Silence::Absent => lost = reached,
                }
                if lost {
                    told.learned = complaint.map(|complaint| *complaint);
                }
            }
            Seen::Busy | Seen::Blind => return told,
        }
        let good = told.saw.first() == Some(&Observed::Good);
        self.count(
            if good {
                0
            } else if lost {
                2
            } else {
                1
            },
            now,
        );
        let Some(watching) = self.holdings.get_mut(&(target.group, target.slot, *holder)) else { return told };
        if good {
            watching.had.insert(target.ordinal);
        }
        // One a round: whoever owns a group may have had it delete what its sheet still lists.
        let fresh = watching.blamed.is_none_or(|at| at > now || now.ms_since(at) >= self.spans.round_ms);
        if let Some(blame) = blame.filter(|_| watching.surely_had(target.ordinal, now) && fresh) {
            watching.blamed = Some(now);
            told.saw.push(blame);
        }
        let ordinal = Ordinals::from_iter([target.ordinal]);
        match (good, lost) {
            (true, _) => watching.missing = watching.missing.without(&ordinal),
            (_, true) => watching.missing = watching.missing.or(&ordinal),
            (false, false) => {}
        }
        for by in watching.by.values_mut().filter(|by| by.ordinals.contains(target.ordinal)) {
            let tally = &mut by.tally;
            if good {
                tally.good = tally.good.saturating_add(1);
                tally.shown = tally.shown.or(&ordinal);
                tally.missing = tally.missing.without(&ordinal);
            } else if lost {
                tally.missing = tally.missing.or(&ordinal);
                tally.shown = tally.shown.without(&ordinal);
                by.urgent = true;
            } else {
                tally.silent = tally.silent.saturating_add(1);
            }
            if proof.is_some() {
                tally.proof = proof.clone();
            }
            if by.urgent {
                by.next = by.next.min(now.plus_ms(self.spans.soon_ms));
            }
        }
        told
    }

    /// Up to so many stewards that are to be told something now.
    pub(super) fn reports(&mut self, now: Timestamp, most: usize) -> Vec<(Holding, PeerKey, Tally)> {
        let mut out = Vec::new();
        let (report_ms, round_ms) = (self.spans.report_ms, self.spans.round_ms);
        let all = self.holdings.iter_mut().flat_map(|(at, watching)| watching.by.iter_mut().map(move |by| (*at, by)));
        for (holding, (steward, by)) in all {
            // The last word is said when the duty is over; a time far ahead is of a clock that was set back.
            let due = by.next <= now || by.until <= now || by.next > now.plus_ms(round_ms.max(report_ms));
            if out.len() < most && !by.sending && !by.tally.is_empty() && due {
                (by.sending, by.urgent) = (true, false);
                by.next = now.plus_ms(report_ms);
                out.push((holding, *steward, std::mem::take(&mut by.tally)));
            }
        }
        out
    }

    /// What became of a report: taken, to be said again, or of no interest to that steward any more.
    pub(super) fn reported(&mut self, holding: &Holding, steward: &PeerKey, sent: Sent, now: Timestamp) {
        let Some(watching) = self.holdings.get_mut(holding) else { return };
        let Some(by) = watching.by.get_mut(steward) else { return };
        by.sending = false;
        match sent {
            Sent::Taken => {}
            Sent::Again(tally) => {
                by.tally.put_back(tally);
                by.next = now.plus_ms(self.spans.soon_ms);
            }
            Sent::Unwanted => (by.until, by.tally) = (Timestamp(0), Tally::default()),
        }
    }

    fn count(&mut self, what: usize, now: Timestamp) {
        let part = now.0 / (self.spans.round_ms / PARTS).max(1);
        if self.day.back().is_none_or(|(last, _)| *last != part) {
            self.day.push_back((part, [0; 3]));
        }
        while self.day.len() as u64 > PARTS {
            self.day.pop_front();
        }
        if let Some((_, counts)) = self.day.back_mut() {
            counts[what] += 1;
        }
    }
}

/// How a report fared.
#[derive(Debug)]
pub(super) enum Sent {
    Taken,
    Again(Tally),
    Unwanted,
}

/// As it travels.
pub(super) fn findings((group, slot, holder): Holding, tally: &Tally) -> Findings {
    let Tally { good, silent, missing, shown, proof } = tally.clone();
    Findings { group, slot, holder, good, silent, missing, shown, proof }
}
