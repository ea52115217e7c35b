//! Whose turn it is, what we signed, and who lets proposals fail.
//!
//! Turns are by lot among those who are there, for each subject anew; whose proposals for it came to nothing comes after
//! all the others, and waits, twice as long with every time. Whoever is asked to sign looks whether it was the proposer's
//! turn by its own reckoning, which may differ by a look and half a turn: so a bad steward keeps the others from a subject for the time of one vote, and then
//! less and less often.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{
    Action, Certificate, Order, PeerKey, SHARD_SIZE, Slot, Timestamp,
    order::{OrderId, SKEW_MS},
};

use super::{
    super::{Rhythm, subject_of},
    Subject, Watched,
};
use crate::liveness::{Presence, Watch};

/// Peers that failed lately and are left alone, for one subject.
pub(super) const AVOIDED_MAX: usize = 32;
/// Stewards whose failures are remembered for a subject: more than a committee has, since it changes meanwhile.
pub(super) const PROPOSERS_MAX: usize = 16;
/// Share of a month's bytes that is signed for one proposer, where there are as many stewards or more. Five honest of seven, of whom an
/// order takes three, then sign less than half a month's bytes for one bad one, and less than all of it for two.
const PROPOSER_SHARE: u64 = 4;

/// In an emergency a failure is followed by so much shorter a pause, and another steward's turn comes so much sooner: two minutes, as long as votes
/// are waited for.
const HURRY: u64 = 5;
/// ... so many times, which by default is an hour of pauses. From then on it is no matter of minutes, and each failure lets proposers choose
/// more freely (`vote`).
const HURRIED_FAILURES: u32 = 4;

/// What we signed last about a subject.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) order: OrderId,
    /// It binds us until then.
    pub(super) until: Timestamp,
    /// Who proposed it.
    pub(super) by: PeerKey,
}

/// A proposal of our own that waits for votes.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) order: Order,
    votes: BTreeMap<PeerKey, [u8; 64]>,
    until: Timestamp,
}

/// How long to wait with a subject, and whom to leave alone.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// Since when it is wanted.
    pub(super) since: Timestamp,
    pub(super) failures: u32,
    /// We propose nothing before.
    pub(super) next: Timestamp,
    pub(super) avoid: BTreeMap<PeerKey, Timestamp>,
    /// Stewards whose proposals came to nothing: how often, and when last.
    pub(super) proposers: BTreeMap<PeerKey, (u32, Timestamp)>,
    /// Nothing could be done when it was our turn last.
    pub(super) vain: bool,
}

impl Patience {
    const fn new(now: Timestamp) -> Self {
        Self { since: now, failures: 0, next: now, avoid: BTreeMap::new(), proposers: BTreeMap::new(), vain: false }
    }

    fn of(&self, steward: &PeerKey) -> (u32, Timestamp) {
        self.proposers.get(steward).copied().unwrap_or((0, Timestamp(0)))
    }
}

impl Watched {
    /// Lets go of what is over. Whether anything was.
    pub(in super::super) fn clear_up(&mut self, me: &PeerKey, now: Timestamp, rhythm: &Rhythm) -> bool {
        let unsigned: Vec<Subject> =
            self.proposals.values().filter(|p| p.until <= now).map(|p| subject_of(&p.order.action)).collect();
        self.proposals.retain(|_, proposal| proposal.until > now);
        for subject in unsigned {
            self.disappointed(subject, None, Some(*me), now, rhythm);
        }
        let before = self.promised.len() + self.under_way.len();
        let over: Vec<(Subject, Promise)> =
            self.promised.iter().filter(|(_, p)| p.until <= now).map(|(s, p)| (*s, p.clone())).collect();
        for (subject, promise) in over {
            self.promised.remove(&subject);
            // Signed, and nothing was heard of it: an order that became one is looked after below.
            if promise.by != *me && !self.under_way.contains_key(&subject) {
                self.blame(subject, promise.by, now);
            }
        }
        self.lapse(now, rhythm);
        if now.ms_since(self.spent.began) >= super::orders::MONTH_MS {
            self.spent = super::Spent::new(now);
        }
        before != self.promised.len() + self.under_way.len()
    }

    /// Whether so few slots are there that it is an emergency, which then goes on for as long as an order stands, or until all of them are. What was
    /// waited for with its slots is over when it begins: those were other days. Whose proposals came to nothing stays known.
    pub(in super::super) fn note_alarm(&mut self, few: bool, now: Timestamp, rhythm: &Rhythm) {
        if !few {
            return;
        }
        if self.alarm_until <= now {
            let slots = self.patience.iter_mut().filter(|(subject, _)| matches!(subject, Subject::Slot(_)));
            for (_, patience) in slots {
                patience.failures = 0;
                patience.next = patience.next.min(now);
            }
        }
        self.alarm_until = now.plus_ms(rhythm.order_ms);
    }

    /// What stood in the way of a slot may be over: its failures were no proposer's.
    pub(in super::super) fn try_again(&mut self, slot: Slot, now: Timestamp) {
        let subject = self.wanted_as(Subject::Slot(slot.as_u8()));
        if let Some(patience) = self.patience.get_mut(&subject) {
            (patience.failures, patience.next) = (0, patience.next.min(now));
            patience.proposers.clear();
        }
    }

    /// Whether an emergency by presence goes on.
    pub(in super::super) fn alarm(&self, now: Timestamp) -> bool {
        now < self.alarm_until
    }

    fn turn_ms(&self, subject: &Subject, now: Timestamp, rhythm: &Rhythm) -> u64 {
        let hurry = self.alarm(now) && matches!(subject, Subject::Slot(_));
        if hurry { (rhythm.turn_ms / HURRY).max(1) } else { rhythm.turn_ms }
    }

    /// Nobody is there for it: not looked for again for a while.
    pub(in super::super) fn in_vain(&mut self, subject: Subject, now: Timestamp, rhythm: &Rhythm) {
        let patient = matches!(subject, Subject::Another | Subject::Apart);
        let pause = if patient { rhythm.pause_ms_max } else { rhythm.pause_ms };
        let patience = self.patience_with(subject, now);
        (patience.next, patience.vain) = (now.plus_ms(pause), true);
    }

    /// Whether nobody was there for it when it was our turn last.
    pub(in super::super) fn is_vain(&self, subject: &Subject) -> bool {
        self.patience.get(subject).is_some_and(|patience| patience.vain)
    }

    /// Whatever a clock that was ahead wrote is no further ahead than it would be now: nothing is to wait for years.
    pub(in super::super) fn clamp(&mut self, now: Timestamp, rhythm: &Rhythm) {
        let least = |at: &mut Timestamp, most: Timestamp| *at = (*at).min(most);
        self.looked = self.looked.filter(|at| *at <= now);
        self.clamp_audits(now, rhythm);
        self.clamp_lacking(now);
        self.under_way.values_mut().for_each(|given| given.pace.clamp(now));
        least(&mut self.compared, now);
        least(&mut self.alarm_until, now.plus_ms(rhythm.order_ms));
        least(&mut self.spent.began, now);
        self.asked.values_mut().chain(self.gave.values_mut()).for_each(|at| least(at, now));
        self.broken.values_mut().for_each(|(_, at)| least(at, now));
        // As long as an order stands at most, which is what a promise is for.
        let bound = now.plus_ms(rhythm.order_ms.max(2 * rhythm.vote_ms)).plus_ms(SKEW_MS);
        self.promised.values_mut().for_each(|promise| least(&mut promise.until, bound));
        self.proposals.values_mut().for_each(|proposal| least(&mut proposal.until, bound));
        for patience in self.patience.values_mut() {
            least(&mut patience.since, now);
            least(&mut patience.next, now.plus_ms(rhythm.pause_ms_max.max(rhythm.pause_ms)));
            patience.avoid.values_mut().for_each(|until| least(until, now.plus_ms(2 * rhythm.pause_ms_max)));
            patience.proposers.values_mut().for_each(|(_, last)| least(last, now));
        }
    }

    /// A proposal or an order came to nothing, perhaps by the doing of a holder.
    pub(in super::super) fn disappointed(
        &mut self,
        subject: Subject,
        holder: Option<PeerKey>,
        proposer: Option<PeerKey>,
        now: Timestamp,
        rhythm: &Rhythm,
    ) {
        let subject = self.wanted_as(subject);
        let urgent = self.alarm(now) && matches!(subject, Subject::Slot(_));
        let patience = self.patience_with(subject, now);
        patience.failures = patience.failures.saturating_add(1);
        let hurry = if urgent && patience.failures <= HURRIED_FAILURES { HURRY } else { 1 };
        patience.vain = false;
        patience.next = now.plus_ms(rhythm.pause_after(patience.failures) / hurry);
        patience.avoid.retain(|_, until| *until > now);
        if let Some(peer) = holder
            && patience.avoid.len() < AVOIDED_MAX
        {
            patience.avoid.insert(peer, now.plus_ms(2 * rhythm.pause_ms_max));
        }
        if let Some(proposer) = proposer {
            self.blame(subject, proposer, now);
        }
    }

    fn blame(&mut self, subject: Subject, proposer: PeerKey, now: Timestamp) {
        let subject = self.wanted_as(subject);
        let patience = self.patience_with(subject, now);
        if patience.proposers.len() < PROPOSERS_MAX || patience.proposers.contains_key(&proposer) {
            let times = patience.of(&proposer).0.saturating_add(1);
            patience.proposers.insert(proposer, (times, now));
        }
    }

    /// As what a slot is wanted: one that lacks nothing is ordered for the sake of standing apart.
    pub(super) fn wanted_as(&self, subject: Subject) -> Subject {
        let own = self.patience.contains_key(&subject) || !matches!(subject, Subject::Slot(_));
        if own || !self.patience.contains_key(&Subject::Apart) { subject } else { Subject::Apart }
    }

    /// The patience with a subject that is wanted.
    pub(super) fn patience_with(&mut self, subject: Subject, now: Timestamp) -> &mut Patience {
        self.patience.entry(subject).or_insert_with(|| Patience::new(now))
    }

    /// Whether it is our turn to propose something about a subject that is wanted.
    pub(in super::super) fn is_our_turn(
        &mut self,
        me: &PeerKey,
        subject: Subject,
        watch: &Watch,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> bool {
        let patience = self.patience_with(subject, now).clone();
        self.turn_of(me, &subject, &patience, watch, now, rhythm) <= now && self.is_free(&subject, now)
    }

    /// When it is our turn. Counted anew after each failure, or all would try again at the same time.
    pub(super) fn turn_of(
        &self,
        me: &PeerKey,
        subject: &Subject,
        patience: &Patience,
        watch: &Watch,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Timestamp {
        let place = self.place(me, me, subject, watch, now);
        patience.since.max(patience.next).plus_ms(place * self.turn_ms(subject, now, rhythm))
    }

    /// Whether it may be another steward's turn, by clocks and beliefs that differ a little from ours.
    pub(in super::super) fn may_be_turn_of(
        &self,
        from: &PeerKey,
        me: &PeerKey,
        subject: &Subject,
        watch: &Watch,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> bool {
        let place = self.place(from, me, subject, watch, now);
        let (since, (failures, last)) =
            self.patience.get(subject).map_or((now, (0, Timestamp(0))), |patience| (patience.since, patience.of(from)));
        let turn_ms = self.turn_ms(subject, now, rhythm);
        let by_then = now.plus_ms(rhythm.look_ms).plus_ms(turn_ms / 2);
        let held = failures > 0 && last.plus_ms(rhythm.pause_after(failures)) > by_then;
        !held && since.max(last).plus_ms(place * turn_ms) <= by_then
    }

    /// Forgets the patience with what is not wanted any more.
    pub(in super::super) fn wanted_now(&mut self, subjects: &BTreeSet<Subject>) {
        self.patience.retain(|subject, _| subjects.contains(subject));
    }

    pub(in super::super) fn avoided(&self, subject: &Subject, now: Timestamp) -> BTreeSet<PeerKey> {
        let patience = self.patience.get(subject);
        let avoid = patience.into_iter().flat_map(|patience| &patience.avoid);
        avoid.filter(|(_, until)| **until > now).map(|(peer, _)| *peer).collect()
    }

    /// How often something about it came to nothing.
    pub(in super::super) fn failures(&self, subject: &Subject) -> usize {
        self.patience.get(subject).map_or(0, |patience| patience.failures as usize)
    }

    /// Whether nothing about this subject is under way, and nothing that we signed.
    pub(in super::super) fn is_free(&self, subject: &Subject, now: Timestamp) -> bool {
        let bound = |promise: &Promise| promise.until > now;
        if *subject == Subject::Apart {
            // What is least urgent waits until nothing else about any slot is under way.
            let slot = |of: &Subject| matches!(of, Subject::Slot(_));
            let signed = self.promised.iter().any(|(of, promise)| slot(of) && bound(promise));
            return !signed && !self.under_way.keys().any(slot);
        }
        !self.under_way.contains_key(subject) && !self.promised.get(subject).is_some_and(bound)
    }

    /// Whether it is free but for proposals, and this steward comes before all who made those that we signed, ourselves among them: several
    /// who proposed at once would wait for each other, each with the signatures of some. What we signed stands all the same; where it becomes an
    /// order too, and neither proposer heard of the other's in time, the slot gets a copy too many.
    pub(in super::super) fn gives_way(&self, from: &PeerKey, subject: &Subject) -> bool {
        let apart = *subject == Subject::Apart;
        let meant = |of: &Subject| of == subject || apart && matches!(of, Subject::Slot(_));
        let comes_before =
            |(_, promise): (&Subject, &Promise)| self.standing(from, subject) < self.standing(&promise.by, subject);
        !self.under_way.keys().any(meant) && self.promised.iter().filter(|(of, _)| meant(of)).all(comes_before)
    }

    /// Orders of slots under way.
    pub(in super::super) fn busy(&self) -> usize {
        let slots = |subject: &&Subject| matches!(subject, Subject::Slot(_));
        let proposed = self.proposals.values().filter(|p| p.order.action.slot().is_some()).count();
        self.under_way.keys().filter(slots).count() + proposed
    }

    /// How often a steward let this subject down, and its lot for it; the lowest of those who are there is first.
    pub(in super::super) fn standing(&self, steward: &PeerKey, subject: &Subject) -> (u32, [u8; 32]) {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 steward's turn v1");
        hasher.update(self.group().as_bytes()).update(steward.as_bytes());
        match subject {
            Subject::Slot(slot) => hasher.update(&[*slot]),
            Subject::Steward(peer) => hasher.update(peer.as_bytes()),
            Subject::Another => hasher.update(b"another"),
            Subject::Apart => hasher.update(b"apart"),
        };
        let failures = self.patience.get(subject).map_or(0, |patience| patience.of(steward).0);
        (failures, *hasher.finalize().as_bytes())
    }

    /// Which place a steward has among those that are there, for this subject.
    fn place(&self, of: &PeerKey, me: &PeerKey, subject: &Subject, watch: &Watch, now: Timestamp) -> u64 {
        let standing = self.standing(of, subject);
        let there = |peer: &&PeerKey| **peer == *me || watch.belief(peer, now).presence <= Presence::Late;
        let before = |peer: &&PeerKey| **peer != *of && self.standing(peer, subject) < standing;
        self.committee().stewards().iter().filter(there).filter(before).count() as u64
    }

    pub(in super::super) fn propose(
        &mut self,
        name: OrderId,
        order: Order,
        me: PeerKey,
        vote: [u8; 64],
        until: Timestamp,
    ) {
        self.promise(&order, name, me, until);
        self.proposals.insert(name, Proposal { order, votes: [(me, vote)].into(), until });
    }

    /// Notes what we signed, in the place of what we proposed ourselves. It binds us until then, or longer once it is an order.
    pub(in super::super) fn promise(&mut self, order: &Order, name: OrderId, by: PeerKey, until: Timestamp) {
        let subject = subject_of(&order.action);
        self.proposals.retain(|_, proposal| subject_of(&proposal.order.action) != subject);
        self.promised.insert(subject, Promise { order: name, until, by });
        let wanted = self.wanted_as(subject);
        if let Some(patience) = self.patience.get_mut(&wanted) {
            patience.vain = false;
        }
        let bytes = self.cost(&order.action);
        let spent = self.spent.by.entry(by).or_insert(0);
        *spent = spent.saturating_add(bytes);
    }

    /// Takes a vote for a proposal of ours; whether it is one.
    pub(in super::super) fn vote(&mut self, from: &PeerKey, order: &OrderId, vote: [u8; 64]) -> bool {
        let known = self.committee().stewards().contains(from);
        let Some(proposal) = self.proposals.get_mut(order).filter(|_| known) else { return false };
        if proposal.votes.contains_key(from) || !proposal.order.is_signed(from, &vote) {
            return false;
        }
        proposal.votes.insert(*from, vote);
        true
    }

    /// The certificate of a proposal that has enough votes, which is none from then on.
    pub(in super::super) fn certify(&mut self, name: &OrderId) -> Option<Certificate> {
        let needed = self.committee().needed(&self.proposals.get(name)?.order.action);
        self.certify_by(name, needed)
    }

    /// The same where so many votes are enough.
    pub(in super::super) fn certify_by(&mut self, name: &OrderId, needed: usize) -> Option<Certificate> {
        let enough = self.proposals.get(name)?.votes.len() >= needed;
        let proposal = if enough { self.proposals.remove(name)? } else { return None };
        Some(Certificate::new(proposal.order, proposal.votes))
    }

    /// Proposals of ours whose votes were waited for in vain.
    pub(super) fn in_vain_until(&self, now: Timestamp) -> impl Iterator<Item = (OrderId, &Order)> {
        self.proposals.iter().filter(move |(_, p)| p.until <= now).map(|(name, p)| (*name, &p.order))
    }

    /// Whatever came to nothing is tried again at once: it was nobody's fault.
    pub(in super::super) fn try_all_again(&mut self, now: Timestamp) {
        for patience in self.patience.values_mut() {
            (patience.failures, patience.next) = (0, patience.next.min(now));
            patience.proposers.clear();
        }
    }

    /// Bytes that an action moves in all.
    pub(in super::super) fn cost(&self, action: &Action) -> u64 {
        let shard = SHARD_SIZE as u64;
        match action {
            Action::Copy { ordinals, .. } => ordinals.len() as u64 * shard,
            Action::Rebuild { ordinals, .. } => (ordinals.len() * self.chain_of(action)) as u64 * shard,
            _ => 0,
        }
    }

    /// How many of a rebuild's helpers send, when nobody lies.
    pub(in super::super) fn chain_of(&self, action: &Action) -> usize {
        let Action::Rebuild { ordinals, helpers, .. } = action else { return 0 };
        let used = ordinals.iter().next().map_or(0, |first| usize::from(self.used(first)));
        // Of a stripe that is not known any more as many as there are.
        if used == 0 { helpers.len() } else { used.min(helpers.len()) }
    }

    /// Whether the mandate still allows so many bytes this month, and the proposer has not had its share of them.
    pub(in super::super) fn affords(&self, proposer: &PeerKey, bytes: u64) -> bool {
        let month = self.record.mandate.monthly_bytes;
        let share = month / PROPOSER_SHARE.min(self.committee().stewards().len() as u64).max(1);
        let signed = self.spent.by.get(proposer).copied().unwrap_or(0);
        self.spent.bytes.saturating_add(bytes) <= month && signed.saturating_add(bytes) <= share
    }
}
