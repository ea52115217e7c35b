//! How a group stands, and what it needs: from who is on record for each slot and what is believed of them.
//!
//! Decides nothing about how much is done when ([`crate::budget`]) and nothing about who gets the new copies
//! ([`crate::placement`]). Nobody is struck off the record: a holder that was presumed gone and is heard again is believed
//! to be here, and counts. What was made meanwhile is a spare copy.
//!
//! Three things call for a repair (research/theory.md, 3.1; DESIGN.md, section 7):
//! 1. a holder is presumed gone or left, or said when it will leave, and its slot has fewer live copies than it should
//!    without it;
//! 2. a slot kept in two copies or more has fewer than 1.5 of them by expectation;
//! 3. the chance that k + 1 slots live is below 1 - ε; the weakest slots are repaired until it is not.
//!
//! # The emergency
//!
//! A group at k + 1 slots or fewer is repaired at once, every slot that is not there. There are two ways to count them:
//! - **certain**: slots with a holder that is alive with a chance of 0.9. That is half an hour of silence for a server and two days for a
//!   home machine whose habits are not known;
//! - **there**: slots with a holder that was heard within the hour, or is silent for no longer than is usual for it
//!   ([`Belief::usual_ms`]). This is what is fast: an hour after the last of n - k - 1 slots fell silent the group is an emergency, whatever its
//!   peers are.
//!
//! Silence alone will not do: of eight home machines that are on half of the time five or fewer are on at 86 % of all moments, and
//! every group would be an emergency every night. So what is asked is whether *this* peer is often away for so long: a
//! machine that slept five hours is missed after ten, one that slept longer after half a day, one that never was away, or of which nothing is
//! known, after one hour. The rule costs a group, besides what is really lost, the first nights of its new holders when several of them fall
//! together, once for each holder; and never more than [`Triggers::spares`] copies of a slot whose holders were heard within a day, nor more than
//! [`Triggers::spares_most`] within the week after which silent ones are presumed gone. Five machines that sleep eight hours each, in one
//! copy, cost one rebuild of each slot on the first day and nothing on the nine after (`steward::tests::urgent`).
//!
//! Once it was an emergency by this it stays one until all slots are there again ([`Triggers::alarm`]), or the first slot to be repaired
//! would end it and the rest would wait for days. A group that has all its slots is no emergency, also with a single parity shard.
//!
//! Who leaves is a source like any other until its time comes, so its departure costs a copy and no rebuild, and it is as alive
//! as anybody here. Only where those who stay have k slots or fewer is the departure of the others an emergency before it happens.
//!
//! Holders are taken to be independent of each other; shocks are the solver's business ([`crate::durability`]).

use cairn_proto::{CodeParams, PeerKey, Slot};

use crate::{
    durability::survival::fewer_than_of,
    liveness::{Belief, Presence},
};

#[cfg(test)]
mod tests;

/// From when on something is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Triggers {
    /// ε: chance of fewer than k + 1 live slots that is put up with. A thousandth: RS(5,3) in one copy with all eight
    /// home machines off for sixteen hours stays below it, one with three silent for three days does not.
    pub miss: f64,
    /// Expected live copies of a slot that should have two or more.
    pub copies_least: f64,
    /// Chance to be alive from which a holder counts in the emergency rule.
    pub certain: f64,
    /// Chance that a holder dies before the next look that helps, for [`Assessment::risk`]: a week at 20 % a month.
    pub death_ahead: f64,
    /// Holders heard within [`Triggers::spare_ms`] that a slot has beyond what it should, from which on the emergency by presence makes no more: what
    /// machines that come and go without any habit can cost. A slot all of whose holders are away for longer than that gets another one.
    pub spares: u8,
    /// The same of all that are not presumed gone, however long they are silent.
    pub spares_most: u8,
    /// Silence after which a holder that is not presumed gone is no reason to wait with another: a day.
    pub spare_ms: u64,
    /// Hundredths of [`Belief::usual_ms`] from which a silence is missed. Less for whoever is asked to sign than for whoever proposes,
    /// since two stewards did not hear the last sign of life at the same time.
    pub missed: u8,
    /// Whether it was an emergency by presence lately: it is one until all slots are there.
    pub alarm: bool,
}

impl Default for Triggers {
    fn default() -> Self {
        Self {
            miss: 1e-3,
            copies_least: 1.5,
            certain: 0.9,
            death_ahead: 0.05,
            spares: 2,
            spares_most: 5,
            spare_ms: 24 * 3_600_000,
            missed: 100,
            alarm: false,
        }
    }
}

/// Who is on record for a slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotView<'a> {
    /// All of them, also those that are gone; one that stands there twice counts once.
    pub holders: &'a [PeerKey],
}

/// What a slot needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    None,
    /// New copies of one that lives.
    Copy {
        /// Of this slot.
        slot: Slot,
        /// Who has it, the likeliest to answer first. They may all be away: then the copy waits for them, since they
        /// are expected back and a rebuild costs k transfers.
        from: Vec<PeerKey>,
        /// How many.
        missing: u8,
    },
    /// New copies out of k other slots: nobody who has it is expected, or none can be waited for.
    Rebuild {
        /// Of this slot.
        slot: Slot,
        /// How many.
        missing: u8,
    },
}

/// How a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupState {
    /// Needs nothing.
    Healthy,
    /// Something is missing.
    Degraded,
    /// At most k + 1 slots are certain or there, and not all; or that was so and not all are there again; or at most k without those who
    /// leave.
    Critical,
    /// Fewer than k slots have a holder that is not presumed gone: nothing can be rebuilt until somebody returns. What still
    /// lives is copied.
    Lost,
}

/// All that is to be said of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// Slots with a holder that is not presumed gone.
    pub live_slots: u8,
    /// Slots with one that is alive with a chance of [`Triggers::certain`].
    pub certain_slots: u8,
    /// Slots with one that is here or just late.
    pub present_slots: u8,
    /// Slots with one that is not missed: heard within the hour, or away for no longer than is usual for it.
    pub there_slots: u8,
    /// Whether so few are there that it is an emergency.
    pub too_few_there: bool,
    /// Live slots beyond k; negative when lost.
    pub margin: i16,
    /// Expected live copies, by slot.
    pub copies: Vec<f64>,
    /// Chance that at least k slots are alive, those presumed gone included by their own chance.
    pub survival: f64,
    /// One minus that, exact however small.
    pub loss: f64,
    /// Chance of fewer than k when every holder may die too with [`Triggers::death_ahead`]: what groups are ranked by. While k
    /// holders are here `loss` is zero, whether three more are or none.
    pub risk: f64,
    /// In a word.
    pub state: GroupState,
    /// What to do, weakest slot first.
    pub needs: Vec<Need>,
}

/// One slot's figures.
struct Standing {
    slot: Slot,
    /// Not presumed gone, likeliest to answer first.
    live: Vec<(PeerKey, Belief)>,
    /// How many of them did not say that they leave.
    staying: usize,
    /// Expected live copies.
    copies: f64,
    /// Chance that nobody who has it comes back ...
    dead: f64,
    /// ... or stays.
    dead_ahead: f64,
}

impl SlotView<'_> {
    fn standing(&self, slot: Slot, belief: &dyn Fn(&PeerKey) -> Belief, policy: &Triggers) -> Standing {
        let mut holders = self.holders.to_vec();
        holders.sort_unstable();
        holders.dedup();
        let all: Vec<_> = holders.into_iter().map(|peer| (peer, belief(&peer))).collect();
        let chance = |belief: &Belief| belief.alive.clamp(0.0, 1.0);
        let copies = all.iter().map(|(_, belief)| chance(belief)).sum();
        let dead = all.iter().map(|(_, belief)| 1.0 - chance(belief)).product();
        let stays = 1.0 - policy.death_ahead.clamp(0.0, 1.0);
        let ahead = |belief: &Belief| if belief.leaving { 0.0 } else { chance(belief) * stays };
        let dead_ahead = all.iter().map(|(_, belief)| 1.0 - ahead(belief)).product();
        let mut live: Vec<_> =
            all.into_iter().filter(|(_, b)| !matches!(b.presence, Presence::Gone | Presence::Left)).collect();
        live.sort_by(|(a, x), (b, y)| x.presence.cmp(&y.presence).then(y.alive.total_cmp(&x.alive)).then(a.cmp(b)));
        let staying = live.iter().filter(|(_, belief)| !belief.leaving).count();
        Standing { slot, live, staying, copies, dead, dead_ahead }
    }
}

impl Standing {
    fn certain(&self, policy: &Triggers) -> bool {
        self.live.iter().any(|(_, belief)| belief.alive >= policy.certain)
    }

    /// Whether somebody who has it is not missed.
    fn there(&self, policy: &Triggers) -> bool {
        let missed = |belief: &Belief| belief.usual_ms.saturating_mul(policy.missed.into()) / 100;
        self.live.iter().any(|(_, belief)| belief.silent_ms <= missed(belief))
    }

    /// Whether one more of it is what a lost one could cost, and no copy of machines that come and go.
    fn has_room(&self, replicas: u8, policy: &Triggers) -> bool {
        let lately = policy.spare_ms.saturating_mul(policy.missed.into()) / 100;
        let lately = self.live.iter().filter(|(_, belief)| belief.silent_ms < lately).count();
        let most = |spares: u8| usize::from(replicas) + usize::from(spares);
        lately < most(policy.spares) && self.live.len() < most(policy.spares_most)
    }

    /// Those that would answer now.
    fn present(&self) -> impl Iterator<Item = &PeerKey> {
        self.live
            .iter()
            .filter(|(_, belief)| matches!(belief.presence, Presence::Here | Presence::Late))
            .map(|(peer, _)| peer)
    }

    fn is_here(&self, peer: &PeerKey) -> bool {
        self.live.iter().any(|(other, belief)| other == peer && belief.presence == Presence::Here)
    }

    /// How the missing copies are made.
    fn need(&self, missing: u8, state: GroupState, policy: &Triggers) -> Need {
        let slot = self.slot;
        if missing == 0 {
            return Need::None;
        }
        // Whoever is missed, and late by our clock, is as good as away: one that signs sees it like the one that proposes.
        let there = self.there(policy);
        let answers = |peer: &&PeerKey| there || self.is_here(peer);
        let present: Vec<PeerKey> = self.present().filter(answers).copied().collect();
        if !present.is_empty() {
            return Need::Copy { slot, from: present, missing };
        }
        // Nobody answers now. Of a lost group nothing can be rebuilt, so whoever may come back is waited for.
        let wait = match state {
            GroupState::Lost => !self.live.is_empty(),
            GroupState::Critical => false,
            GroupState::Healthy | GroupState::Degraded => self.certain(policy),
        };
        match (wait, state) {
            (true, _) => Need::Copy { slot, from: self.live.iter().map(|(peer, _)| *peer).collect(), missing },
            (false, GroupState::Lost) => Need::None,
            (false, _) => Need::Rebuild { slot, missing },
        }
    }
}

/// How a group stands. `slots`: who is on record, by slot; a slot beyond the list has nobody, one beyond the code is ignored.
#[must_use]
pub fn assess(
    code: CodeParams,
    replicas: u8,
    slots: &[Vec<PeerKey>],
    belief: &dyn Fn(&PeerKey) -> Belief,
    policy: &Triggers,
) -> Assessment {
    let k = code.data();
    let holders = |slot: Slot| slots.get(slot.index()).map_or(&[][..], Vec::as_slice);
    let all: Vec<Standing> =
        code.each_slot().map(|slot| SlotView { holders: holders(slot) }.standing(slot, belief, policy)).collect();
    let count = |is: &dyn Fn(&Standing) -> bool| all.iter().filter(|slot| is(slot)).count();
    let live = count(&|slot| !slot.live.is_empty());
    let certain = count(&|slot| slot.certain(policy));
    let staying = count(&|slot| slot.staying > 0);
    let there = count(&|slot| slot.there(policy));
    let few = |slots: usize| slots <= k + 1 && slots < code.slots();
    let missed = few(there) || policy.alarm && there < code.slots();
    let emergency = (few(certain) || staying <= k && staying < live, missed);
    let missing = missing(k, replicas, &all, policy, emergency);
    let state = if live < k {
        GroupState::Lost
    } else if emergency.0 || emergency.1 {
        GroupState::Critical
    } else if missing.iter().any(|missing| *missing > 0) {
        GroupState::Degraded
    } else {
        GroupState::Healthy
    };
    let dead: Vec<f64> = all.iter().map(|slot| slot.dead).collect();
    let loss = fewer_than_of(k, &dead);
    let ahead: Vec<f64> = all.iter().map(|slot| slot.dead_ahead).collect();
    let needs = weakest_first(&all).map(|at| all[at].need(missing[at], state, policy));
    Assessment {
        live_slots: small(live),
        certain_slots: small(certain),
        present_slots: small(count(&|slot| slot.present().next().is_some())),
        there_slots: small(there),
        too_few_there: few(there),
        margin: i16::from(small(live)) - i16::from(small(k)),
        copies: all.iter().map(|slot| slot.copies).collect(),
        survival: 1.0 - loss,
        loss,
        risk: fewer_than_of(k, &ahead),
        state,
        needs: needs.filter(|need| *need != Need::None).collect(),
    }
}

/// How many new copies each slot should get. Whether it is an emergency: for what is not certain, for what is not there.
fn missing(k: usize, replicas: u8, all: &[Standing], policy: &Triggers, emergency: (bool, bool)) -> Vec<u8> {
    let replicas = replicas.max(1);
    let mut missing: Vec<u8> = all
        .iter()
        .map(|slot| {
            let gone = replicas.saturating_sub(small(slot.staying));
            let thin = replicas >= 2 && slot.copies < policy.copies_least;
            let urgent = emergency.0 && !slot.certain(policy);
            let missed = emergency.1 && !slot.there(policy) && slot.has_room(replicas, policy);
            gone.max(u8::from(thin || urgent || missed))
        })
        .collect();
    // What is repaired will be there; of the rest the weakest are added while the group is too weak.
    let mut dead: Vec<f64> =
        all.iter().zip(&missing).map(|(slot, missing)| if *missing > 0 { 0.0 } else { slot.dead }).collect();
    for at in weakest_first(all) {
        if fewer_than_of(k + 1, &dead) <= policy.miss {
            break;
        }
        if dead[at] > 0.0 {
            dead[at] = 0.0;
            missing[at] = 1;
        }
    }
    missing
}

fn weakest_first(all: &[Standing]) -> impl Iterator<Item = usize> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| all[*b].dead.total_cmp(&all[*a].dead).then(a.cmp(b)));
    order.into_iter()
}

/// Slots and copies are few: 32 slots at most.
fn small(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}
