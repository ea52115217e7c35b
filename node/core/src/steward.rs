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
//! The leaves: [`message`] (what stewards say), `watched` (one group), `plan` (what to order), `vote` (whether to sign), [`log`] (what
//! happened, for the owner).
//!
//! # Invariants
//!
//! - **SEP-1** Plans and votes give a slot to peers of its colour only, and never a byte to a steward. Enforced by `plan::new_holder`
//!   and `vote::check`; attacked by `tests::no_vote_for_a_peer_of_another_colour` and `cairn-sim`'s `months` scenario.
//! - **REP-1** A slot without a live holder gets one, while k slots live, a quorum is there and a peer of the colour is. Enforced by
//!   `plan::needs`; attacked by `cairn-sim`'s `months` scenario.
//! - **REP-2** One order at a time for a slot, [`AT_ONCE`] for a group, within the budgets of the group, the peer and all; nothing
//!   while we may be the ones who are cut off, and only what is critical when many fell silent at once. Enforced by
//!   [`Steward::tick`] for what we propose ourselves; attacked by
//!   `tests::one_order_at_a_time_and_none_while_all_the_others_are_silent` and by the simulator.
//! - What a steward signed is to be on disk before anybody is told ([`Effect::Persist`] comes first): while an order for a thing is
//!   being voted on or under way, it signs no other.
//!
//! # Limits
//!
//! An adversary among the stewards is not held off yet: one of seven can keep the others busy with proposals that it lets fail, use up the
//! month's bytes, or choose every new holder among the peers that may be one; committees that were changed in two ways at once do not
//! find together again by themselves. Groups whose stripes all have fewer data shards than k are not rebuilt (ADR 0016).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_proto::{
    Action, Certificate, DecodeError, GroupId, GroupRecord, Order, Ordinals, PeerKey, Slot, Timestamp,
    order::{CHANGES_MAX, OrderId},
};
use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;

use crate::{
    budget::Budget,
    liveness::{Outage, Presence, Watch},
    part::Credentials,
    peer_view::PeerView,
};

pub mod history;
pub mod log;
pub mod message;
mod plan;
#[cfg(test)]
mod tests;
mod vote;
mod watched;
pub mod wire;

use self::watched::{Subject, Watched};
pub use self::{
    log::{Happening, What},
    message::{Failure, Say},
    plan::PlannedRepair,
    watched::GroupReport,
};

/// Groups that a peer is steward of at most: 70 KiB each of record, so 290 MiB, and up to 2 MiB of map for one whose holders were
/// all replaced many times; a network of a thousand peers with a hundred groups each has 700 a peer.
pub const GROUPS_MAX: usize = 4096;
/// Effects that wait to be polled; the driver polls after every call, so this is a guard.
const EFFECTS_MAX: usize = 65_536;
/// Orders of one group under way at once.
pub const AT_ONCE: usize = 2;

/// How often stewards do what, in milliseconds. All of it scales together for trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two looks at a group.
    pub look_ms: u64,
    /// How much longer each next steward waits before it proposes what those before it did not.
    pub turn_ms: u64,
    /// How long votes are waited for.
    pub vote_ms: u64,
    /// How long an order stands.
    pub order_ms: u64,
    /// After a failure, doubled with each further one up to [`Rhythm::pause_ms_max`].
    pub pause_ms: u64,
    /// The longest of these.
    pub pause_ms_max: u64,
    /// Between two questions to another steward whether its map is the same.
    pub compare_ms: u64,
    /// How far the clocks of two stewards may differ.
    pub skew_ms: u64,
    /// Within this each holder is asked once what it has.
    pub inventory_ms: u64,
    /// Silence after which another steward takes a steward's place, whatever its class: to put one in costs nothing but a message, and
    /// two that are lost before the first is replaced may cost the quorum.
    pub steward_lost_ms: u64,
}

impl Default for Rhythm {
    fn default() -> Self {
        const MINUTE: u64 = 60 * 1000;
        Self {
            look_ms: 5 * MINUTE,
            turn_ms: 10 * MINUTE,
            vote_ms: 2 * MINUTE,
            order_ms: 6 * 60 * MINUTE,
            pause_ms: 10 * MINUTE,
            pause_ms_max: 12 * 60 * MINUTE,
            compare_ms: 6 * 60 * MINUTE,
            skew_ms: 10 * MINUTE,
            inventory_ms: 24 * 60 * MINUTE,
            steward_lost_ms: 24 * 60 * MINUTE,
        }
    }
}

impl Rhythm {
    /// All of it this many times as long; never zero.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let scale = |ms: u64| ((ms as f64 * factor) as u64).max(1);
        Self {
            look_ms: scale(self.look_ms),
            turn_ms: scale(self.turn_ms),
            vote_ms: scale(self.vote_ms),
            order_ms: scale(self.order_ms),
            pause_ms: scale(self.pause_ms),
            pause_ms_max: scale(self.pause_ms_max),
            compare_ms: scale(self.compare_ms),
            skew_ms: scale(self.skew_ms),
            inventory_ms: scale(self.inventory_ms),
            steward_lost_ms: scale(self.steward_lost_ms),
        }
    }
}

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
    /// No room for another group.
    #[error("this peer watches as many groups as it may")]
    Full,
    /// What came with it does not hold.
    #[error("the record's changes do not hold")]
    Forged,
}

/// A holder that is to be asked what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The group.
    pub group: GroupId,
    /// The slot that it holds.
    pub slot: Slot,
    /// Whom.
    pub holder: PeerKey,
}

/// One peer's stewardships.
pub struct Steward {
    me: PeerKey,
    key: SigningKey,
    rhythm: Rhythm,
    groups: BTreeMap<GroupId, Watched>,
    watch: Watch,
    budget: Budget,
    effects: VecDeque<Effect>,
}

impl std::fmt::Debug for Steward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steward").field("me", &self.me).field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

impl Steward {
    /// Most bytes of a group's state, 6 MiB: one whose holders were all replaced many times. A usual one has 70 KiB.
    pub const STATE_MAX: usize = watched::state::STATE_MAX;

    /// Watches nothing yet.
    #[must_use]
    pub fn new(key: SigningKey, rhythm: Rhythm, watch: Watch, budget: Budget) -> Self {
        let me = PeerKey::from_bytes(key.verifying_key().to_bytes());
        Self { me, key, rhythm, groups: BTreeMap::new(), watch, budget, effects: VecDeque::new() }
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
        self.groups.values().any(|group| group.concerns(peer))
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A sign of life.
    pub fn heard(&mut self, peer: PeerKey, now: Timestamp) {
        if peer != self.me && self.knows(&peer) {
            self.watch.heard(peer, now);
        }
    }

    /// A peer said when it will leave for good.
    pub fn leaving(&mut self, peer: PeerKey, at: Timestamp, now: Timestamp) {
        if self.knows(&peer) {
            self.watch.leaving(peer, at, now);
        }
    }

    /// An owner's record, or one that another steward hands over. Newer ones replace older ones; what was repaired since stays.
    ///
    /// # Errors
    /// Why it is not taken up.
    pub fn adopt(&mut self, record: GroupRecord, changes: &[Certificate], now: Timestamp) -> Result<(), Declined> {
        let group = record.group();
        if !record.mandate.holds_at(now) {
            return Err(Declined::Expired);
        }
        // Decided before anything is touched: who sends what we have, or what does not hold, changes nothing.
        if self.groups.get(&group).is_some_and(|old| !record.supersedes(&old.record)) {
            return Err(Declined::Old);
        }
        let new = Watched::new(record, changes, now).map_err(|_| Declined::Forged)?;
        if !new.committee.stewards().contains(&self.me) {
            // The owner chose others.
            self.drop_group(&group);
            return Err(Declined::NotNamed);
        }
        if !self.groups.contains_key(&group) && self.groups.len() >= GROUPS_MAX {
            return Err(Declined::Full);
        }
        let strangers: BTreeSet<PeerKey> = new.everybody().filter(|peer| !self.knows(peer)).collect();
        let old = self.groups.remove(&group);
        let known: BTreeSet<PeerKey> = old.iter().flat_map(Watched::everybody).collect();
        self.groups.insert(group, new.with_history_of(old));
        strangers.into_iter().for_each(|peer| self.meet(peer, now));
        self.forget_strangers(known);
        self.push(Effect::Persist(group));
        Ok(())
    }

    /// Watches a group no more, nor those who were watched for it alone.
    fn drop_group(&mut self, group: &GroupId) {
        if let Some(old) = self.groups.remove(group) {
            self.forget_strangers(old.everybody().collect());
            self.push(Effect::Forget(*group));
        }
    }

    fn forget_strangers(&mut self, peers: BTreeSet<PeerKey>) {
        for peer in peers {
            if !self.knows(&peer) {
                self.watch.forget(peer);
            }
        }
    }

    /// A holder answered what it has of its slot; what it lacks is its own word and costs it little.
    pub fn reported(&mut self, holder: PeerKey, group: GroupId, slot: Slot, has: &Ordinals, now: Timestamp) {
        self.heard(holder, now);
        let Some(watched) = self.groups.get_mut(&group) else { return };
        watched.asked(slot, holder, now);
        if watched.report(holder, slot, has, now) {
            self.push(Effect::Persist(group));
        }
    }

    /// What must survive a crash of what is known of a group; for [`Steward::resume`]. At most [`Steward::STATE_MAX`] bytes.
    #[must_use]
    pub fn encode_group(&self, group: &GroupId) -> Option<Vec<u8>> {
        self.groups.get(group).map(Watched::encode)
    }

    /// Watches a group again, from what [`Steward::encode_group`] gave. The caller made sure that the bytes are those that it wrote: the
    /// votes of orders in it are not checked again. A mandate that is over meanwhile is found by the next [`Steward::tick`].
    ///
    /// # Errors
    /// Bytes that no group has; no room.
    pub fn resume(&mut self, bytes: &[u8], now: Timestamp) -> Result<GroupId, DecodeError> {
        let what = "steward's group";
        let group = Watched::decode(bytes, now)?;
        let id = group.record.group();
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&id) {
            return Err(DecodeError::TooLarge { what, limit: GROUPS_MAX, found: GROUPS_MAX + 1 });
        }
        let everybody: BTreeSet<PeerKey> = group.everybody().filter(|peer| *peer != self.me).collect();
        self.groups.insert(id, group);
        // Whom the saved state of liveness has is watched already.
        everybody.into_iter().for_each(|peer| self.watch.expect(peer, now));
        Ok(id)
    }

    /// What this steward knows of a group, for the owner who asks.
    #[must_use]
    pub fn map_for_owner(&self, group: &GroupId) -> Option<wire::GroupMap> {
        self.groups.get(group).map(Watched::map_for_owner)
    }

    /// Everybody whose signs of life matter. With `true` those of groups that need something now or have an order under way, who are
    /// to be probed often.
    #[must_use]
    pub fn concerned(&self) -> Vec<(PeerKey, bool)> {
        let mut all = BTreeMap::new();
        for group in self.groups.values() {
            let busy = group.is_busy();
            for peer in group.everybody().filter(|peer| *peer != self.me) {
                *all.entry(peer).or_insert(false) |= busy;
            }
        }
        all.into_iter().collect()
    }

    /// Up to so many holders that are here and are to be asked now what they have of a slot; the answer goes to [`Steward::reported`].
    /// Each is named once in [`Rhythm::inventory_ms`] when [`Steward::asked`] is called for it.
    #[must_use]
    pub fn inventory_due(&self, now: Timestamp, most: usize) -> Vec<Inventory> {
        let of = |(group, watched): (&GroupId, &Watched)| {
            let group = *group;
            let due = watched.to_ask(&self.me, now, self.rhythm.inventory_ms);
            due.into_iter().map(move |(slot, holder)| Inventory { group, slot, holder })
        };
        let here = |due: &Inventory| self.watch.belief(&due.holder, now).presence == Presence::Here;
        self.groups.iter().flat_map(of).filter(here).take(most).collect()
    }

    /// A holder is being asked what it has: whether it answers or not, it is not named again in this period.
    pub fn asked(&mut self, due: &Inventory, now: Timestamp) {
        if let Some(group) = self.groups.get_mut(&due.group) {
            group.asked(due.slot, due.holder, now);
        }
    }

    /// The mandate and the changes of stewards since, as a holder wants to see them before it says what it has.
    #[must_use]
    pub fn pass(&self, group: &GroupId) -> Option<(&[u8], &[Certificate])> {
        self.groups.get(group).map(|group| (group.record.sealed_mandate(), &group.changes[..]))
    }

    /// Looks at the groups that are due. `peers`: everybody known, for new holders and stewards.
    pub fn tick<R: CryptoRng + ?Sized>(&mut self, now: Timestamp, peers: &[PeerView], rng: &mut R) {
        self.watch.settle(now);
        let due: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| group.is_due(now, &self.rhythm)).map(|(id, _)| *id).collect();
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
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.looked(now);
        // A clock that is behind is no end.
        if now >= group.record.mandate.ends || !group.committee.stewards().contains(&self.me) {
            self.drop_group(&id);
            return;
        }
        let mut persist = group.clear_up(now, &self.rhythm);
        let mut say = Vec::new();
        if let Some((to, digest)) = group.compare_with(&self.me, now, &self.rhythm, &self.watch) {
            say.push((to, Say::Compare { group: id, generation: group.record.mandate.generation, digest }));
        }
        // Whoever may be cut off itself has nothing to say of others.
        if matches!(self.watch.outage(now), Outage::None) {
            let critical_only = self.watch.mass_failure(now);
            let scene =
                plan::Scene { me: self.me, now, peers, watch: &self.watch, rhythm: &self.rhythm, critical_only };
            let planned = plan::orders(group, &scene, &mut self.budget);
            for planned in planned {
                let mut nonce = [0; 16];
                rng.fill_bytes(&mut nonce);
                let order = Order {
                    group: id,
                    generation: group.record.mandate.generation,
                    nonce,
                    issued: now,
                    expires: now.plus_ms(self.rhythm.order_ms).min(group.record.mandate.ends),
                    action: planned.action,
                };
                let (Ok(vote), Ok(name)) = (order.sign(&self.key), order.id()) else { continue };
                group.propose(name, order.clone(), self.me, vote, now, &self.rhythm);
                persist = true;
                for to in group.committee.stewards().iter().filter(|to| **to != self.me) {
                    say.push((*to, Say::Propose { order: order.clone(), vote }));
                }
                if group.committee.needed(&order.action) == 1 {
                    say.push((self.me, Say::Vote { group: id, order: name, vote }));
                }
            }
        }
        if persist {
            self.push(Effect::Persist(id));
        }
        for (to, what) in say {
            // A committee of one has voted.
            match what {
                Say::Vote { order, .. } if to == self.me => self.count(id, &order, now),
                what => self.push(Effect::Tell { to, say: Box::new(what) }),
            }
        }
    }

    /// Another peer said something. `peers` as in [`Steward::tick`].
    pub fn told(&mut self, from: PeerKey, say: Say, now: Timestamp, peers: &[PeerView]) {
        self.heard(from, now);
        if !self.listens(&from, &say) {
            return;
        }
        match say {
            Say::Propose { order, vote } => self.on_proposal(from, order, vote, now, peers),
            Say::Vote { group, order, vote } => self.on_vote(from, group, order, vote, now),
            Say::Certified { certificate } => self.on_certified(certificate, now),
            Say::Taken { certificate, sealed } => self.on_taken(&certificate, sealed, now),
            Say::Failed { group, order, failure } => {
                let key = self.groups.get_mut(&group).and_then(|g| g.failed(&from, &order, failure, now, &self.rhythm));
                if key.is_some() {
                    self.push(Effect::Persist(group));
                }
            }
            Say::Compare { group, generation, digest } => self.on_compare(from, group, generation, &digest),
            Say::Map { group, changes, entries } => self.on_map(group, changes, entries, now),
            Say::Record { record, changes, entries } => {
                let group = record.group();
                if self.adopt(*record, &changes, now).is_ok() {
                    self.on_map(group, changes, entries, now);
                }
            }
        }
    }

    /// Whether somebody is listened to: certificates are dear to check, so only those whom they concern may bring them.
    fn listens(&self, from: &PeerKey, say: &Say) -> bool {
        let is_steward = |group: &GroupId| self.groups.get(group).is_some_and(|group| group.is_steward(from));
        match say {
            Say::Certified { certificate } => is_steward(&certificate.order.group),
            Say::Taken { certificate, .. } => {
                certificate.order.action.to() == Some(*from) || is_steward(&certificate.order.group)
            }
            Say::Map { group, changes, entries } => {
                let few = changes.len() <= CHANGES_MAX && entries.len() <= watched::ENTRIES_MAX;
                is_steward(group) && few
            }
            // Of a group that is not known, from its owner or another steward: everything in it is checked.
            Say::Record { record, changes, entries } => {
                let few = changes.len() <= CHANGES_MAX && entries.len() <= watched::ENTRIES_MAX;
                few && (is_steward(&record.group()) || !self.groups.contains_key(&record.group()))
            }
            Say::Propose { .. } | Say::Vote { .. } | Say::Failed { .. } | Say::Compare { .. } => true,
        }
    }

    fn on_proposal(&mut self, from: PeerKey, order: Order, vote: [u8; 64], now: Timestamp, peers: &[PeerView]) {
        let id = order.group;
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.is_steward(&from) && order.is_signed(&from, &vote) {
            group.give_way(&self.me, &from, &subject_of(&order.action));
        }
        let scene = plan::Scene {
            me: self.me,
            now,
            peers,
            watch: &self.watch,
            rhythm: &self.rhythm,
            critical_only: self.watch.mass_failure(now),
        };
        let fine = vote::check(group, &from, &order, &vote, &scene);
        let (Ok(()), Ok(name), Ok(mine)) = (fine, order.id(), order.sign(&self.key)) else { return };
        group.promise(&order, name, now.plus_ms(2 * self.rhythm.vote_ms));
        self.push(Effect::Persist(id));
        self.push(Effect::Tell { to: from, say: Box::new(Say::Vote { group: id, order: name, vote: mine }) });
    }

    fn on_vote(&mut self, from: PeerKey, id: GroupId, order: OrderId, vote: [u8; 64], now: Timestamp) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.vote(&from, &order, vote) {
            self.count(id, &order, now);
        }
    }

    /// Makes an order of a proposal that enough have signed.
    fn count(&mut self, id: GroupId, name: &OrderId, now: Timestamp) {
        let Some(certificate) = self.groups.get_mut(&id).and_then(|group| group.certify(name)) else { return };
        self.on_certified(certificate.clone(), now);
        let Some(group) = self.groups.get(&id) else { return };
        let others: Vec<PeerKey> = group.committee.stewards().iter().copied().filter(|to| *to != self.me).collect();
        let slot = certificate.order.action.slot();
        let mut effects = Vec::new();
        for to in others {
            effects.push(Effect::Tell { to, say: Box::new(Say::Certified { certificate: certificate.clone() }) });
        }
        if let (Some(to), Some(slot)) = (certificate.order.action.to(), slot) {
            let credentials = Credentials {
                mandate: group.record.sealed_mandate().to_vec(),
                changes: group.changes.clone(),
                certificate: certificate.clone(),
            };
            let sheet = group.record.sealed_sheet(slot).unwrap_or_default().to_vec();
            let previous = group.newest_entry(slot);
            effects.push(Effect::Give { to, credentials: Box::new(credentials), sheet, previous });
        }
        if let (_, Some(new)) = certificate.order.action.stewards() {
            effects.push(Effect::Tell { to: new, say: Box::new(group.whole()) });
        }
        effects.into_iter().for_each(|effect| self.push(effect));
    }

    fn on_certified(&mut self, certificate: Certificate, now: Timestamp) {
        let id = certificate.order.group;
        let action = &certificate.order.action;
        let newcomer = action.stewards().1;
        let stranger = newcomer.filter(|peer| !self.knows(peer));
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.certified(certificate, now) {
            stranger.into_iter().for_each(|peer| self.meet(peer, now));
            self.push(Effect::Persist(id));
        }
    }

    /// Begins to watch a peer. What was known of one that concerned no group is old: nobody listened for it since.
    fn meet(&mut self, peer: PeerKey, now: Timestamp) {
        if peer != self.me {
            self.watch.forget(peer);
            self.watch.expect(peer, now);
        }
    }

    fn on_taken(&mut self, certificate: &Certificate, sealed: Vec<u8>, now: Timestamp) {
        let id = certificate.order.group;
        let stranger = certificate.order.action.to().filter(|peer| !self.knows(peer));
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.taken(certificate, sealed, now) {
            stranger.into_iter().for_each(|peer| self.meet(peer, now));
            self.push(Effect::Persist(id));
        }
    }

    fn on_compare(&mut self, from: PeerKey, id: GroupId, generation: u64, digest: &[u8; 32]) {
        let Some(group) = self.groups.get(&id) else {
            // We were made a steward and never got the record.
            let say = Box::new(Say::Compare { group: id, generation: 0, digest: [0; 32] });
            return self.push(Effect::Tell { to: from, say });
        };
        if !group.is_steward(&from) {
            return;
        }
        let say = if generation > group.record.mandate.generation {
            Some(Say::Compare { group: id, generation: group.record.mandate.generation, digest: group.digest() })
        } else if generation < group.record.mandate.generation {
            Some(group.whole())
        } else {
            (group.digest() != *digest).then(|| group.map_message())
        };
        if let Some(say) = say {
            self.push(Effect::Tell { to: from, say: Box::new(say) });
        }
    }

    fn on_map(&mut self, id: GroupId, changes: Vec<Certificate>, entries: Vec<(Certificate, Vec<u8>)>, now: Timestamp) {
        for change in changes {
            self.on_certified(change, now);
        }
        for (certificate, sealed) in entries {
            if certificate.order.group == id {
                self.on_taken(&certificate, sealed, now);
            }
        }
    }

    /// Who holds what of a group, how it stands, and what happened, in order.
    #[must_use]
    pub fn report(&self, group: &GroupId, now: Timestamp) -> Option<GroupReport> {
        self.groups.get(group).map(|group| group.report_of(&self.watch, now))
    }

    /// What would be ordered for a group now, if it were our turn; nothing is taken from a budget.
    #[must_use]
    pub fn dry_run(&self, group: &GroupId, now: Timestamp, peers: &[PeerView]) -> Vec<PlannedRepair> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        let scene = plan::Scene {
            me: self.me,
            now,
            peers,
            watch: &self.watch,
            rhythm: &self.rhythm,
            critical_only: self.watch.mass_failure(now),
        };
        plan::needs(group, &scene)
    }

    fn push(&mut self, effect: Effect) {
        if self.effects.len() < EFFECTS_MAX {
            self.effects.push_back(effect);
        }
    }
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
