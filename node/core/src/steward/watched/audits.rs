//! Audits of one group's holders, as one of its stewards has them made: who audits for us, and what we believe of what they found.
//!
//! One auditor is one word: it makes *us* distrust, and what is repaired takes a quorum of stewards, each with an auditor of its own
//! that nobody could choose for it. What is distrusted is asked for again by the next auditor, and what this one is shown counts again.
//!
//! Who audits does not survive a restart: it follows from our key and the round, so it is drawn again, mostly the same. What is
//! distrusted does ([`super::state`]).

use cairn_proto::{Ordinals, PeerKey, Slot, Timestamp, audit::Evidence};

use super::{super::log::What, Watched, tokens::TokenReport};
use crate::{
    audit::{self, panel},
    steward::{Rhythm, wire::Findings},
};

/// Auditors of ours that a holder of a slot has at a time: this round's and the last one's. What stays silent takes an auditor a day to
/// judge, so one that stopped with its round would judge next to nothing.
pub(super) const DRAWN_MAX: usize = 2;
/// Shards that are asked for again while some are distrusted. Whoever shows so many drawn at random gets its name back; whoever dropped a
/// tenth of them passes with less than one in five, and the next round asks again.
const AGAIN: usize = 16;
/// Parts of a round after which one is tried again that did not come to an auditor.
const TRY_AGAIN: u64 = 24;

/// An auditor of ours.
#[derive(Clone, Debug)]
struct Drawn {
    auditor: PeerKey,
    asked: Ordinals,
    shown: Ordinals,
    until: Timestamp,
}

/// How a holder of a slot is audited.
#[derive(Clone, Debug)]
pub(super) struct Audited {
    /// When the next auditor is drawn.
    due: Timestamp,
    /// The round that was drawn last, and how many auditors drawn in it would not do it.
    round: u64,
    declined: usize,
    drawn: Vec<Drawn>,
    /// Nobody else of the slot's colour was there.
    alone: bool,
}

/// Shards that an auditor did not get to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Distrust {
    pub(super) ordinals: Ordinals,
    /// Until when, if nobody sees them.
    pub(super) until: Timestamp,
}

/// What is to be audited now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct ToAudit {
    pub(in super::super) slot: Slot,
    pub(in super::super) holder: PeerKey,
    /// The round's number for this holder.
    pub(in super::super) round: u64,
    /// Auditors that are passed over: they would not do it.
    pub(in super::super) declined: usize,
}

/// How a group's holders are audited, as a steward has it done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// Holders of a slot that have an auditor of ours.
    pub audited: usize,
    /// Slots of which a holder has none, since nobody else of the slot's colour is there, and for which we have no token left: only the
    /// owner can audit it.
    pub owner_only: Vec<Slot>,
    /// Holders that we ask with tokens instead.
    pub by_tokens: Vec<TokenReport>,
    /// Holders that did not show shards to an auditor of ours, and how many.
    pub distrusted: Vec<(Slot, PeerKey, usize)>,
}

/// Rounds begin for each steward and holder at a moment of its own.
fn phase(me: &PeerKey, group: &cairn_proto::GroupId, slot: u8, holder: &PeerKey, period: u64) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 audit phase v1");
    hasher.update(me.as_bytes()).update(group.as_bytes()).update(&[slot]).update(holder.as_bytes());
    let hash = *hasher.finalize().as_bytes();
    hash.first_chunk().map_or(0, |head| u64::from_le_bytes(*head)) % period
}

impl Watched {
    /// What a holder has by its own word.
    pub(in super::super) fn claims(&self, slot: Slot, peer: &PeerKey) -> Ordinals {
        let lacks = self.lacks.get(&(slot.as_u8(), *peer)).copied().unwrap_or_default();
        self.given(slot, peer).without(&lacks)
    }

    pub(super) fn distrust(&self, slot: Slot, peer: &PeerKey) -> Ordinals {
        self.distrusted.get(&(slot.as_u8(), *peer)).map(|distrust| distrust.ordinals).unwrap_or_default()
    }

    /// Whether it says that it has what an auditor did not get to see: it is given nothing, another takes its place.
    pub(in super::super) fn hides(&self, slot: Slot, peer: &PeerKey) -> bool {
        !self.distrust(slot, peer).and(&self.claims(slot, peer)).is_empty()
    }

    /// Everybody who hides something of any slot.
    pub(in super::super) fn hiders(&self) -> impl Iterator<Item = PeerKey> + '_ {
        let hides = |(at, peer): &(u8, PeerKey)| Slot::new(*at).is_ok_and(|slot| self.hides(slot, peer));
        self.distrusted.keys().filter(move |key| hides(key)).map(|(_, peer)| *peer)
    }

    fn round(&self, me: &PeerKey, slot: u8, holder: &PeerKey, at: Timestamp, rhythm: &Rhythm) -> (u64, Timestamp) {
        let period = rhythm.audit_ms.max(1);
        let rest = period - phase(me, &self.group(), slot, holder, period);
        let round = at.0.saturating_add(rest) / period;
        (round, Timestamp(round.saturating_add(1).saturating_mul(period).saturating_sub(rest)))
    }

    /// Holders that are to get an auditor now: each once in a round.
    pub(in super::super) fn to_audit(&self, me: &PeerKey, now: Timestamp, rhythm: &Rhythm) -> Vec<ToAudit> {
        let due = |slot: Slot, holder: PeerKey| {
            let audited = self.audits.get(&(slot.as_u8(), holder));
            let round = |at| self.round(me, slot.as_u8(), &holder, at, rhythm);
            let (number, _) = round(now);
            let due = audited.map_or_else(|| round(self.since).1, |audited| audited.due);
            let declined = audited.filter(|audited| audited.round == number).map_or(0, |audited| audited.declined);
            (due <= now).then_some(ToAudit { slot, holder, round: number, declined })
        };
        let slots = self.code().each_slot().filter(|slot| !self.wanted(*slot).is_empty());
        let all = slots.flat_map(|slot| self.holders(slot).into_iter().map(move |holder| (slot, holder)));
        let all = all.filter(|(slot, holder)| holder != me && !self.claims(*slot, holder).is_empty());
        all.filter_map(|(slot, holder)| due(slot, holder)).collect()
    }

    /// Notes who audits from now on, and what; `None`: there is nobody.
    pub(in super::super) fn audited_by(
        &mut self,
        me: &PeerKey,
        what: &ToAudit,
        auditor: Option<(PeerKey, Ordinals)>,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Timestamp {
        let key = (what.slot.as_u8(), what.holder);
        let (round, next) = self.round(me, key.0, &key.1, now, rhythm);
        let until = now.plus_ms(2 * rhythm.audit_ms);
        let drawn = Vec::with_capacity(DRAWN_MAX);
        let new = Audited { due: next, round, declined: 0, drawn, alone: false };
        let audited = self.audits.entry(key).or_insert(new);
        audited.drawn.retain(|drawn| drawn.until > now);
        (audited.round, audited.declined, audited.due) = (round, what.declined, next);
        match auditor {
            Some((auditor, asked)) => {
                audited.alone = false;
                // One that was drawn again goes on, with what it is asked now.
                audited.drawn.retain(|drawn| drawn.auditor != auditor);
                let over = (audited.drawn.len() + 1).saturating_sub(DRAWN_MAX);
                audited.drawn.drain(..over);
                audited.drawn.push(Drawn { auditor, asked, shown: Ordinals::default(), until });
            }
            None => {
                audited.alone = what.declined == 0;
                audited.due = next.min(now.plus_ms(rhythm.audit_ms / TRY_AGAIN));
                audited.declined = 0;
            }
        }
        until
    }

    /// An auditor would not do it, or was not reached: the next by lot is asked.
    pub(in super::super) fn audit_declined(
        &mut self,
        slot: Slot,
        holder: &PeerKey,
        auditor: &PeerKey,
        now: Timestamp,
        rhythm: &Rhythm,
    ) {
        let Some(audited) = self.audits.get_mut(&(slot.as_u8(), *holder)) else { return };
        let before = audited.drawn.len();
        audited.drawn.retain(|drawn| drawn.auditor != *auditor);
        if audited.drawn.len() < before && audited.declined + 1 < panel::AUDITORS {
            audited.declined += 1;
            audited.due = audited.due.min(now.plus_ms(rhythm.audit_ms / TRY_AGAIN));
        }
    }

    /// What an auditor is to ask for: what the holder says it has, or some of what is distrusted of it while anything is. `lot` orders
    /// these: nobody knows beforehand which are asked for.
    pub(in super::super) fn to_be_shown(&self, slot: Slot, holder: &PeerKey, lot: impl Fn(u8) -> [u8; 32]) -> Ordinals {
        let claims = self.claims(slot, holder).and(&self.wanted(slot));
        let doubted = claims.and(&self.distrust(slot, holder));
        if doubted.is_empty() {
            return claims;
        }
        let mut lots: Vec<([u8; 32], u8)> = doubted.iter().map(|ordinal| (lot(ordinal), ordinal)).collect();
        lots.sort_unstable();
        lots.into_iter().take(AGAIN).map(|(_, ordinal)| ordinal).collect()
    }

    /// What an auditor found. `None`: it is none of ours. Else whether it changes what we believe.
    pub(in super::super) fn found(
        &mut self,
        from: &PeerKey,
        findings: &Findings,
        now: Timestamp,
        rhythm: &Rhythm,
    ) -> Option<bool> {
        let Findings { slot, holder, .. } = *findings;
        let key = (slot.as_u8(), holder);
        let drawn = self.audits.get_mut(&key)?.drawn.iter_mut().find(|d| d.auditor == *from && d.until > now)?;
        let lied = findings.proof.as_ref().and_then(|proof| Evidence::decode(proof).ok());
        let lied = lied.and_then(|proof| audit::convict(&proof).ok()).is_some_and(|lie| *lie.subject() == holder);
        let missing = if lied { drawn.asked } else { findings.missing.and(&drawn.asked) };
        let shown = findings.shown.and(&drawn.asked).without(&missing);
        drawn.shown = drawn.shown.or(&shown).without(&missing);
        // All that it was asked for, so no more of it is doubted than of anybody.
        let cleared = drawn.shown == drawn.asked;
        let known = self.distrust(slot, &holder);
        let mut doubted = known.without(&shown).or(&missing);
        if cleared {
            doubted = Ordinals::default();
        }
        let fresh = missing.without(&known);
        if !fresh.is_empty() {
            self.note(now, What::NotShown { slot: key.0, holder, shards: fresh.len() as u16 });
        }
        if doubted == known && missing.is_empty() {
            return Some(false);
        }
        if doubted.is_empty() {
            self.distrusted.remove(&key);
        } else {
            let until = now.plus_ms(rhythm.distrust_ms);
            let entry = self.distrusted.entry(key).or_insert(Distrust { ordinals: doubted, until });
            entry.ordinals = doubted;
            if !missing.is_empty() {
                entry.until = until;
            }
        }
        self.looked = None;
        Some(true)
    }

    /// A holder took again what it had said it lacked: that much of what is distrusted was true, and is mended.
    pub(super) fn mended(&mut self, key: (u8, PeerKey), ordinals: &Ordinals) {
        if let Some(distrust) = self.distrusted.get_mut(&key) {
            distrust.ordinals = distrust.ordinals.without(ordinals);
            if distrust.ordinals.is_empty() {
                self.distrusted.remove(&key);
            }
        }
    }

    /// Lets go of what was distrusted for long enough. Whether there was any.
    pub(in super::super) fn trust_again(&mut self, now: Timestamp) -> bool {
        let before = self.distrusted.len();
        self.distrusted.retain(|_, distrust| distrust.until > now);
        before != self.distrusted.len()
    }

    /// After the clock went back.
    pub(super) fn clamp_audits(&mut self, now: Timestamp, rhythm: &Rhythm) {
        self.since = self.since.min(now);
        for audited in self.audits.values_mut() {
            audited.due = audited.due.min(now.plus_ms(rhythm.audit_ms));
            audited.drawn.iter_mut().for_each(|d| d.until = d.until.min(now.plus_ms(2 * rhythm.audit_ms)));
        }
        let slots: Vec<u8> = self.distrusted.keys().map(|(slot, _)| *slot).collect();
        let lasts: Vec<u64> = slots.iter().map(|slot| self.doubt_ms(*slot, rhythm)).collect();
        for (distrust, lasts) in self.distrusted.values_mut().zip(lasts) {
            distrust.until = distrust.until.min(now.plus_ms(lasts));
        }
        self.clamp_tokens(now, rhythm);
    }

    /// Holders for which nobody of their colour was there when an auditor was to be drawn.
    pub(super) fn alone(&self, now: Timestamp) -> impl Iterator<Item = (u8, PeerKey)> + '_ {
        let none = move |audited: &Audited| audited.alone && audited.drawn.iter().all(|drawn| drawn.until <= now);
        self.audits.iter().filter(move |(_, audited)| none(audited)).map(|(key, _)| *key)
    }

    pub(super) fn audit_report(&self, now: Timestamp) -> AuditReport {
        let slot = |at: u8| Slot::new(at).ok();
        let has_auditor = |audited: &&Audited| audited.drawn.iter().any(|drawn| drawn.until > now);
        let (by_tokens, none): (Vec<_>, Vec<_>) =
            self.token_report(now).into_iter().partition(|report| report.left > 0);
        let mut owner_only: Vec<Slot> = none.into_iter().map(|report| report.slot).collect();
        owner_only.dedup();
        let doubted =
            |((at, peer), distrust): (&(u8, PeerKey), &Distrust)| Some((slot(*at)?, *peer, distrust.ordinals.len()));
        AuditReport {
            audited: self.audits.values().filter(has_auditor).count(),
            owner_only,
            by_tokens,
            distrusted: self.distrusted.iter().filter_map(doubted).collect(),
        }
    }
}
