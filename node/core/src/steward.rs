//! A steward: watches groups of absent owners, and with the others of the group orders repairs.
//!
//! Sans-IO: signs of life, answers, messages and time come in ([`Steward::heard`], [`Steward::told`], [`Steward::tick`] ...), what is to be
//! done comes out of [`Steward::poll`]. The daemon and the simulator drive the same type. One steward alone orders nothing: it
//! proposes, others look for themselves and sign, and a quorum's signatures are the order ([`Certificate`]); whoever is given a
//! part in it checks all of that again ([`crate::part`]).
//!
//! The map of a group only grows: an entry is a certificate and the new holder's signed word, so two stewards that
//! disagree exchange entries and agree, and two that repair the same slot make a copy too many. Nobody is struck from it for
//! being silent: a holder that returns counts again.
//!
//! The leaves: [`message`] (what stewards say), `talk` (what they make of it), `watched` (one group), `plan` (what to order), `vote` (whether
//! to sign), `audits` (who looks for us whether holders have what they say), `tokens` (how we ask those whom nobody else can audit),
//! [`log`] (what happened, for the owner), `keeping` (what is kept, asked and told besides), `notice` (what holders say of themselves),
//! `condemned` (who counts no more), `places` (where peers are, and since when), `suspects` (who may have sent wrong bytes), `vetting` (what newcomers
//! were given in a day), `succession` (what those do who outlive the others), `crowd` (who concerns which group),
//! [`wire`] (what travels).
//!
//! # Invariants
//!
//! - **SEP-1** Plans and votes give a slot to peers of its colour only, and never a byte to a steward. Enforced by `plan::new_holder`
//!   and `vote::check`; attacked by `tests::no_vote_for_a_peer_of_another_colour` and `cairn-sim`'s `months` scenario.
//! - **REP-1** A slot without a live holder gets one, while k slots live, a quorum is there and a peer of the colour is. Enforced by
//!   `plan::needs`; attacked by `cairn-sim`'s `months` scenario.
//! - **REP-2** One order at a time for a slot (of two that were proposed at once both may come to be, when neither proposer hears of the other's in time;
//!   one whose new holder does not answer is given up, and what comes of it is a spare copy; the pauses
//!   between them leave at most [`SPARES_MAX`] in the time that an order stands), [`AT_ONCE`] for a group (in an emergency as many as it has parity slots), within the budgets of the group, the peer and all; nothing
//!   while we may be the ones who are cut off, and only what is critical when many fell silent at once. Enforced by
//!   [`Steward::tick`] for what we propose ourselves; attacked by
//!   `tests::one_order_at_a_time_and_none_while_all_the_others_are_silent` and by the simulator.
//! - What a steward signed is to be on disk before anybody is told ([`Effect::Persist`] comes first): while an order for a thing is
//!   under way it signs no other, and while one is being voted on only that of a steward whose turn comes before.
//! - A bad steward keeps nobody busy: out of turn, or after it let a subject down, nobody signs for it; a month's bytes are signed
//!   for it to a quarter at most by each. Enforced by `vote::check`; attacked by `tests::turns::*` and by the simulator.
//!
//! # Limits
//!
//! A new steward that has no room for the group does not say so, and is taken for one. Entries under a fifth mandate back, and those signed by a committee
//! that did not come to count, are not taken up by stewards that come later (ADR 0016).

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{
    Action, Certificate, Domain, GroupId, GroupRecord, Order, Ordinals, PeerKey, Slot, Timestamp, order::OrderId,
    wire::Priority,
};
use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;

use crate::{
    budget::Budget,
    colour::colour,
    durability::repairs::RepairTimes,
    liveness::{Outage, Watch},
    part::Credentials,
    peer_view::PeerView,
};

mod audits;
mod condemned;
mod crowd;
pub mod history;
mod keeping;
pub mod log;
pub mod message;
mod notice;
mod places;
mod plan;
mod queue;
mod rhythm;
mod stuck;
mod succession;
mod suspects;
mod talk;
#[cfg(test)]
mod tests;
mod tokens;
mod vetting;
mod vote;
mod watched;
pub mod wire;
pub mod words;

use self::{
    crowd::Crowd,
    places::Places,
    queue::Effects,
    succession::Ears,
    suspects::Suspects,
    vetting::Vetting,
    watched::{Silence, Watched},
};
pub use self::{
    keeping::Inventory,
    log::{Happening, What},
    message::{Failure, Past, Say},
    notice::LEAVE_AHEAD_MS,
    plan::PlannedRepair,
    rhythm::Rhythm,
    stuck::{Stuck, StuckWhy},
    suspects::{SuspectReport, Suspicion, Unresolved},
    tokens::{TokenAnswer, TokenQuestion},
    vote::Objection,
    watched::{AuditReport, GroupReport, OrderEnd, Refused, RepairPhases, Subject, TokenReport, Wait},
};

/// Groups that a peer is steward of at most: 75 KiB each of record, so 310 MiB, and up to 2 MiB of map for one whose holders were
/// all replaced many times; a network of a thousand peers with a hundred groups each has 700 a peer.
pub const GROUPS_MAX: usize = 4096;
/// Groups that one peer may have brought, of those: an owner with a thousand groups has a hundred at each peer of a network of fifty, and a
/// stranger fills nobody.
pub const GROUPS_OF_ONE_MAX: usize = GROUPS_MAX / 8;
/// Bytes of all groups' records and maps: all that [`GROUPS_MAX`] usual records take, and 200 MiB of maps.
pub const BYTES_MAX: usize = 512 << 20;
/// Bytes of those that one peer brought.
pub const BYTES_OF_ONE_MAX: usize = BYTES_MAX / 16;
/// Orders of one group under way at once; in an emergency by presence as many as its code has parity slots, if that is more.
pub const AT_ONCE: usize = 2;

/// Orders of one slot at most within [`Rhythm::order_ms`], when each new holder dies with its order in an emergency: a pause after each, five
/// times shorter for the first four and doubled each time, is 4, 8, 16, 32, 320 minutes.
pub const SPARES_MAX: usize = 6;

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The group's state changed and must be durable, as [`Steward::encode_group`] gives it, before the next effect.
    Persist(GroupId),
    /// The group is watched no more: its state may go.
    Forget(GroupId),
    /// Say this to another peer.
    Tell {
        /// To whom.
        to: PeerKey,
        /// What.
        say: Box<Say>,
    },
    /// Give a new holder its order, with all that it takes to check it; it answers with [`Say::Taken`] or [`Say::Failed`].
    Give {
        /// The new holder.
        to: PeerKey,
        /// The order.
        credentials: Box<Credentials>,
        /// Its slot's sheet, sealed.
        sheet: Vec<u8>,
        /// Hash of the slot's newest map entry.
        previous: [u8; 32],
    },
}

/// Why a record is not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// The mandate does not name us.
    #[error("this peer is no steward of the group")]
    NotNamed,
    /// The mandate is over.
    #[error("the mandate is over, or has not begun")]
    Expired,
    /// Something newer is here.
    #[error("a newer record of the group is here")]
    Old,
    /// No room for another group, or for another of whoever brings it: in number or in bytes.
    #[error("this peer watches as many groups as it may, in all or for this peer")]
    Full,
    /// Our domain is not of the colour that holds nothing of the group, whatever the mandate says.
    #[error("this peer's domain is not of the stewards' colour in the group")]
    WrongColour,
    /// What came with it does not hold.
    #[error("the record's changes do not hold")]
    Forged,
}

/// One peer's stewardships.
pub struct Steward {
    me: PeerKey,
    domain: Domain,
    key: SigningKey,
    rhythm: Rhythm,
    groups: BTreeMap<GroupId, Watched>,
    crowd: Crowd,
    watch: Watch,
    places: Places,
    repairs: RepairTimes,
    suspects: Suspects,
    vetting: Vetting,
    ears: Ears,
    /// Groups in which our place was given to another: the mandate's generation, and how many changes had been made. Not kept across a crash.
    given_away: BTreeMap<GroupId, (u64, usize)>,
    budget: Budget,
    effects: Effects,
    /// The time that we were told last.
    now: Timestamp,
    /// Since when we run, and look at who is there.
    began: Option<Timestamp>,
}

impl std::fmt::Debug for Steward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steward").field("me", &self.me).field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

impl Steward {
    /// Watches nothing yet. `domain`: our own, as others pinned it.
    #[must_use]
    pub fn new(key: SigningKey, domain: Domain, rhythm: Rhythm, watch: Watch, budget: Budget) -> Self {
        let me = PeerKey::from_bytes(key.verifying_key().to_bytes());
        let (groups, crowd, effects) = (BTreeMap::new(), Crowd::default(), Effects::default());
        let (places, repairs, suspects) = (Places::default(), RepairTimes::default(), Suspects::default());
        let (vetting, ears) = (Vetting::new(watch.timers().day_ms), Ears::default());
        let now = Timestamp(0);
        Self {
            me,
            domain,
            key,
            rhythm,
            groups,
            crowd,
            watch,
            places,
            repairs,
            suspects,
            vetting,
            ears,
            given_away: BTreeMap::new(),
            budget,
            effects,
            now,
            began: None,
        }
    }

    /// What our line carries was measured again, in bytes a second.
    pub fn set_upstream(&mut self, upstream: u64, now: Timestamp) {
        self.budget.set_upstream(upstream, now);
    }

    /// Notes what time it is; whether it went back, what was to wait is set right.
    fn clock(&mut self, now: Timestamp) {
        if now < self.now {
            let rhythm = self.rhythm;
            self.groups.values_mut().for_each(|group| group.clamp(now, &rhythm));
            self.places.clamp(now);
            self.vetting.clamp(now);
        }
        self.now = now;
    }

    /// Bytes that the groups of whoever brought them may still grow by.
    fn room(&self, introducer: &PeerKey) -> usize {
        let (mut all, mut own) = (0usize, 0usize);
        for group in self.groups.values() {
            all = all.saturating_add(group.weight());
            if group.introducer == *introducer {
                own = own.saturating_add(group.weight());
            }
        }
        BYTES_MAX.saturating_sub(all).min(BYTES_OF_ONE_MAX.saturating_sub(own))
    }

    /// Who it is.
    #[must_use]
    pub const fn me(&self) -> PeerKey {
        self.me
    }

    /// What it believes of peers.
    #[must_use]
    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The groups that it watches.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    /// Whether it watches this peer: a holder or steward of one of its groups.
    #[must_use]
    pub fn knows(&self, peer: &PeerKey) -> bool {
        self.crowd.knows(peer)
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop()
    }

    /// Messages that were left out because nobody polled; what must be written never is.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.effects.dropped()
    }

    /// A sign of life.
    pub fn heard(&mut self, peer: PeerKey, now: Timestamp) {
        if peer != self.me && self.knows(&peer) {
            self.ears.note(&self.watch, &self.rhythm, now);
            self.watch.heard(peer, now);
        }
    }

    /// An owner's record, or one that another steward hands over; `from` brings it, as the transport authenticated it. Newer ones replace older
    /// ones; what was repaired since and is under way stays.
    ///
    /// # Errors
    /// Why it is not taken up.
    pub fn adopt(
        &mut self,
        record: GroupRecord,
        changes: &[Certificate],
        from: PeerKey,
        now: Timestamp,
    ) -> Result<(), Declined> {
        self.adopt_from(record, changes, from, now, &[])
    }

    /// As [`Steward::adopt`]; `peers` as in [`Steward::tick`].
    fn adopt_from(
        &mut self,
        record: GroupRecord,
        changes: &[Certificate],
        from: PeerKey,
        now: Timestamp,
        peers: &[PeerView],
    ) -> Result<(), Declined> {
        let group = record.group();
        if !record.mandate.holds_at(now) {
            return Err(Declined::Expired);
        }
        // Decided before anything is touched: who sends what we have, or what does not hold, changes nothing.
        if self.groups.get(&group).is_some_and(|old| !record.supersedes(&old.record)) {
            return Err(Declined::Old);
        }
        let ticket = record.mandate.ticket;
        let new =
            Watched::new(record, from, changes, &Ears::heard(&self.me, &self.watch, peers, &self.rhythm, now), now)
                .map_err(|_| Declined::Forged)?;
        if !new.committee().stewards().contains(&self.me) {
            // The owner chose others.
            self.drop_group(&group, now);
            return Err(Declined::NotNamed);
        }
        if colour(&ticket, &self.domain).index() != ticket.code().slots() {
            return Err(Declined::WrongColour);
        }
        let brought = self.groups.values().filter(|group| group.introducer == from).count();
        let many = self.groups.len() >= GROUPS_MAX || brought >= GROUPS_OF_ONE_MAX;
        let (old, introducer) = match self.groups.get(&group) {
            // What was repaired stays, and the old record goes.
            Some(old) => (old.record_weight(), old.introducer),
            None if many => return Err(Declined::Full),
            None => (0, from),
        };
        if new.weight() > self.room(&introducer).saturating_add(old) {
            return Err(Declined::Full);
        }
        let old = self.groups.remove(&group);
        self.groups.insert(group, new.with_history_of(old));
        self.given_away.remove(&group);
        self.count_people(&group, true, now);
        self.effects.push(Effect::Persist(group));
        Ok(())
    }

    /// Watches a group no more, nor those who were watched for it alone.
    fn drop_group(&mut self, group: &GroupId, now: Timestamp) {
        if self.groups.remove(group).is_some() {
            self.crowd.set(*group, BTreeSet::new(), &mut self.watch, true, now);
            self.suspects.forget(group);
            self.effects.push(Effect::Forget(*group));
        }
    }

    /// Whom a group concerns may have changed.
    fn count_people(&mut self, group: &GroupId, anew: bool, now: Timestamp) {
        let Some(watched) = self.groups.get(group) else { return };
        let people = watched.everybody().filter(|peer| *peer != self.me).collect();
        self.crowd.set(*group, people, &mut self.watch, anew, now);
    }

    /// A holder answered what it has of its slot; what it lacks is its own word and costs it little.
    pub fn reported(&mut self, holder: PeerKey, group: GroupId, slot: Slot, has: &Ordinals, now: Timestamp) {
        self.clock(now);
        self.heard(holder, now);
        let rhythm = self.rhythm;
        let Some(watched) = self.groups.get_mut(&group) else { return };
        watched.asked(slot, holder, now);
        watched.gets_on(slot, &holder, has, now);
        if watched.report(holder, slot, has, now, &rhythm) {
            self.effects.push(Effect::Persist(group));
        }
    }

    /// Looks at the groups that are due. `peers`: everybody known, for new holders and stewards.
    pub fn tick<R: CryptoRng + ?Sized>(&mut self, now: Timestamp, peers: &[PeerView], rng: &mut R) {
        self.clock(now);
        self.watch.settle(now);
        self.learn_of_strangers(now, peers);
        self.suspects.lapse(now, self.rhythm.suspect_ms());
        self.places.note(peers, |peer| self.crowd.knows(peer), now, self.rhythm.look_ms);
        let due: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| group.is_due(now, &self.rhythm)).map(|(id, _)| *id).collect();
        if !due.is_empty() {
            self.vetting.settle(peers, now);
        }
        for id in due {
            self.look(id, now, peers, rng);
        }
    }

    /// When [`Steward::tick`] has something to do next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Timestamp> {
        self.groups.values().map(|group| group.next_look(&self.rhythm)).min()
    }

    fn look<R: CryptoRng + ?Sized>(&mut self, id: GroupId, now: Timestamp, peers: &[PeerView], rng: &mut R) {
        self.succeed(id, now, peers);
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.looked(now);
        // A clock that is behind is no end.
        let ours = group.committee().stewards().contains(&self.me);
        if now >= group.record.mandate.ends || !ours {
            let age = (group.record.mandate.generation, group.committee().changes());
            self.drop_group(&id, now);
            if !ours && self.given_away.len() < GROUPS_MAX {
                self.given_away.insert(id, age);
            }
            return;
        }
        let mut persist = group.clear_up(&self.me, now, &self.rhythm) | group.trust_again(now);
        let mut say = Vec::new();
        // Whoever may be cut off itself has nothing to say of others.
        let cut_off = !matches!(self.watch.outage(now), Outage::None);
        let silence = Silence { peers, late_ms: self.watch.timers().late_ms, rhythm: &self.rhythm, now };
        let mut deserted = if cut_off { Vec::new() } else { group.deserted(&self.me, &silence, &self.watch, now) };
        if !cut_off {
            let stalled = group.stalled(&self.me, &self.watch, now, &self.rhythm);
            deserted.extend(stalled.into_iter().filter(|order| !deserted.contains(order)).collect::<Vec<_>>());
        }
        for order in deserted {
            persist = true;
            say.extend(given_up(group, &self.me, order, now, &self.rhythm));
        }
        let again = group.give_again(&self.me, &self.watch, now, &self.rhythm);
        // With one helper more somebody who lies can be left out.
        let helpers = |slot: Slot| group.helpers_here(slot, &self.watch, now);
        let again_slots = self.suspects.worth_another_try(&id, &helpers);
        again_slots.into_iter().for_each(|slot| group.try_again(slot, now));
        let generation = group.record.mandate.generation;
        if let Some((to, digest)) = group.compare_with(&self.me, now, &self.rhythm, &self.watch) {
            say.push((to, Say::Compare { group: id, generation, digest }));
        }
        if !cut_off && let Some(handed) = group.hand_over(&self.me, &self.watch, now, &self.rhythm) {
            persist = true;
            say.push(handed);
        }
        let mut alone = Vec::new();
        if !cut_off {
            let believed = (&self.watch, &self.places);
            let mut scene = plan::Scene::new((self.me, &self.domain), now, peers, believed, &self.rhythm);
            (scene.suspects, scene.vetting) = (Some(&self.suspects), Some(&self.vetting));
            for planned in plan::orders(group, &scene, &mut self.budget, &mut self.repairs) {
                let mut nonce = [0; 16];
                rng.fill_bytes(&mut nonce);
                // What others did not see as an emergency is proposed as anything else the next time.
                let agreed = group.failures(&subject_of(&planned.action)).is_multiple_of(2);
                let is_slot = planned.action.slot().is_some();
                let order = Order {
                    group: id,
                    generation,
                    committee: *group.committee().id(),
                    nonce,
                    issued: now,
                    expires: now.plus_ms(self.rhythm.order_ms).min(group.record.mandate.ends),
                    urgent: is_slot && agreed && planned.class == Priority::Critical,
                    action: planned.action,
                };
                let (Ok(vote), Ok(name)) = (order.sign(&self.key), order.id()) else { continue };
                let until = now.plus_ms(self.rhythm.vote_ms);
                self.vetting.sign(&order, name, until, now);
                group.propose(name, order.clone(), self.me, vote, until);
                persist = true;
                for to in group.committee().stewards().iter().filter(|to| **to != self.me) {
                    say.push((*to, Say::Propose { order: order.clone(), vote }));
                }
                if group.committee().needed(&order.action) == 1 {
                    alone.push(name);
                }
            }
        }
        if persist {
            self.effects.push(Effect::Persist(id));
        }
        again.into_iter().for_each(|give| self.effects.push(give));
        say.into_iter().for_each(|(to, what)| self.tell(to, what));
        // A committee of one has voted.
        alone.iter().for_each(|name| self.count(id, name, now, peers));
    }

    /// An order of ours could not be brought to its new holder: it cannot be reached, is busy whenever it is asked, or `said_no`. The slot
    /// waits for it no longer than it must.
    pub fn undelivered(&mut self, id: GroupId, order: OrderId, said_no: bool, now: Timestamp, peers: &[PeerView]) {
        self.clock(now);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let silence = Silence { peers, late_ms: self.watch.timers().late_ms, rhythm: &self.rhythm, now };
        let given_up_now = matches!(self.watch.outage(now), Outage::None)
            && group.is_undelivered(&self.me, &order, said_no, &silence, &self.watch, now);
        if given_up_now {
            let say = given_up(group, &self.me, order, now, &self.rhythm);
            self.effects.push(Effect::Persist(id));
            say.into_iter().for_each(|(to, what)| self.tell(to, what));
        }
    }

    /// Who holds what of a group, how it stands, and what happened, in order.
    #[must_use]
    pub fn report(&self, group: &GroupId, now: Timestamp) -> Option<GroupReport> {
        let noted = (&self.places, &self.suspects);
        self.groups.get(group).map(|group| group.report_of(&self.me, &self.watch, noted, &self.rhythm, now))
    }

    /// What would be ordered for a group now, if it were our turn; nothing is taken from a budget.
    #[must_use]
    pub fn dry_run(&self, group: &GroupId, now: Timestamp, peers: &[PeerView]) -> Vec<PlannedRepair> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        let believed = (&self.watch, &self.places);
        let mut scene = plan::Scene::new((self.me, &self.domain), now, peers, believed, &self.rhythm);
        (scene.suspects, scene.vetting) = (Some(&self.suspects), Some(&self.vetting));
        plan::needs(group, &scene)
    }
}

/// Gives an order up, and what is said of that to the others: until they hear it they sign no other for its slot.
fn given_up(group: &mut Watched, me: &PeerKey, order: OrderId, now: Timestamp, rhythm: &Rhythm) -> Vec<(PeerKey, Say)> {
    let Some(to) = group.give_up(&order, now, rhythm) else { return Vec::new() };
    let say = Say::Failed { group: group.record.group(), order, failure: Failure::Missing(to) };
    group.committee().stewards().iter().filter(|other| *other != me).map(|other| (*other, say.clone())).collect()
}

/// Peers by slot.
type BySlot = Vec<BTreeSet<PeerKey>>;

/// What a promise or an order is about.
fn subject_of(action: &Action) -> Subject {
    match action {
        Action::Copy { slot, .. } | Action::Rebuild { slot, .. } => Subject::Slot(slot.as_u8()),
        Action::Replace { old, .. } | Action::Retire { old } => Subject::Steward(*old),
        Action::Enlist { .. } => Subject::Another,
    }
}
