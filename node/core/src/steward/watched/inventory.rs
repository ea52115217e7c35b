//! Who has what of a group: for the owner, for reports, and whom to ask next.

use cairn_proto::{Certificate, GroupId, PeerKey, Slot, Timestamp};

use super::{
    super::{
        Rhythm,
        log::{Happening, What},
        places::Places,
        suspects::{SuspectReport, Suspects},
        wire::GroupMap,
    },
    Subject, Watched,
    audits::AuditReport,
    phases::RepairPhases,
    turns::Patience,
    waits::{Refused, Wait},
};
use crate::{
    assess::Assessment,
    liveness::{Belief, Presence, Watch},
    placement::clump::Clump,
};

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
    /// Where more of its slots stand than may.
    pub clumps: Vec<Clump>,
    /// How its holders are audited.
    pub audits: AuditReport,
    /// Slots that the owner keeps in storage of its own, and that no peer has.
    pub leaning: Vec<Slot>,
    /// Who of its people may have sent wrong bytes.
    pub suspects: SuspectReport,
    /// How its last orders went, oldest first.
    pub phases: Vec<RepairPhases>,
    /// What it wants done that is not ordered.
    pub waits: Vec<Wait>,
    /// What it did not sign lately, oldest first.
    pub refused: Vec<Refused>,
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
    pub(in super::super) fn report_of(
        &self,
        me: &PeerKey,
        watch: &Watch,
        (places, suspects): (&Places, &Suspects),
        rhythm: &Rhythm,
        now: Timestamp,
    ) -> GroupReport {
        let row = |slot: Slot| {
            let holders = self.holders(slot).into_iter();
            let holder =
                |peer: PeerKey| (peer, watch.belief(&peer, now), self.has(slot, &peer).len(), self.wanted(slot).len());
            holders.map(holder).collect()
        };
        let stewards = self.committee().stewards().iter();
        GroupReport {
            group: self.group(),
            slots: self.code().each_slot().map(row).collect(),
            stewards: stewards.map(|peer| (*peer, watch.belief(peer, now).presence)).collect(),
            quorum: self.committee().quorum(),
            assessment: self.assess(watch, now),
            under_way: self.under_way.len(),
            clumps: self.clumps(watch, places, rhythm, now),
            audits: self.audit_report(now),
            leaning: self.leaning(),
            suspects: suspects.report(&self.group(), self.everybody()),
            phases: self.phases.iter().cloned().collect(),
            waits: self.waits(me, watch, rhythm, now),
            refused: self.refused().iter().copied().collect(),
            log: self.log.iter().cloned().collect(),
        }
    }

    /// Holders that are to be asked what they have: each once in a period, at a moment of its own that follows from `me` and its key,
    /// so that neither a steward asks all of them nor all stewards ask one at the same time.
    pub(in super::super) fn to_ask(&self, me: &PeerKey, now: Timestamp, period_ms: u64) -> Vec<(Slot, PeerKey)> {
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
        let slots = self.code().each_slot().filter(|slot| !self.wanted(*slot).is_empty());
        let all = slots.flat_map(|slot| self.holders(slot).into_iter().map(move |peer| (slot, peer)));
        all.filter(|(slot, peer)| peer != me && due(slot.as_u8(), peer)).collect()
    }

    /// A holder is being asked, or answered.
    pub(in super::super) fn asked(&mut self, slot: Slot, holder: PeerKey, now: Timestamp) {
        let key = (slot.as_u8(), holder);
        if self.given.contains_key(&key) {
            self.asked.insert(key, now);
        }
    }

    /// Whether something is to be done now for which one must know who is there: not while all that is wanted waits, or is nothing that anybody
    /// could do.
    pub(in super::super) fn is_busy(&self, now: Timestamp) -> bool {
        let wants = |(subject, patience): (&Subject, &Patience)| {
            !matches!(subject, Subject::Another | Subject::Apart) && !patience.vain && patience.next <= now
        };
        !self.under_way.is_empty() || !self.proposals.is_empty() || self.patience.iter().any(wants)
    }

    pub(in super::super) fn entries_to_tell(&self) -> Vec<(Certificate, Vec<u8>)> {
        self.entries.values().map(|entry| (entry.certificate.clone(), entry.sealed.clone())).collect()
    }

    pub(in super::super) fn map_for_owner(&self) -> GroupMap {
        GroupMap {
            mandate: self.record.sealed_mandate().to_vec(),
            sheets: self.record.sheets.iter().map(|sheet| sheet.generation).collect(),
            changes: self.chain.changes().to_vec(),
            past: self.chain.past(),
            entries: self.entries_to_tell(),
            log: self.log.iter().cloned().collect(),
        }
    }
}
