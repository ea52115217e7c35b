//! Auditors of a steward's own: whom it draws, what it has them do, whom it believes.
//!
//! Nobody can know beforehand whom a steward draws: the lots hang on its secret key. So a holder cannot choose its auditors, and
//! whoever owns many names gets no more audits than its share of the colour's domains. What an auditor says concerns the steward that
//! drew it and nobody else.
//!
//! # Invariants
//!
//! - **SEP-1** A slot's sheet goes to peers of its colour that never had another slot of the group, as far as we know. Enforced by
//!   [`Steward::audits_due`]; attacked by `tests::audits::no_sheet_goes_to_another_colour`.
//! - **TRUST-1** Two auditors that slander cost a holder nothing while five stewards of seven see no need. Enforced by the quorum of
//!   orders; attacked by `tests::audits::two_slanderers_cost_a_holder_nothing`.

use std::collections::BTreeSet;

use cairn_proto::{GroupId, PeerKey, Slot, Timestamp, message::Roles};

use super::{
    Effect, Steward,
    watched::Watched,
    wire::{Duty, Findings},
};
use crate::{
    audit::panel::{self, Candidate, Round, Watch},
    colour::may_hold,
    liveness::{Outage, Presence},
    peer_view::PeerView,
    placement::PlacementPolicy,
};

/// Stewards whose auditors may be at one holder at the same time: each goes on for two rounds.
const ROUNDS_AT_ONCE: usize = 2;

impl Steward {
    /// Duties for up to so many auditors, drawn now; whoever takes none is to be told of with [`Steward::audit_declined`]. Nothing while
    /// we may be cut off ourselves.
    pub fn audits_due(&mut self, now: Timestamp, peers: &[PeerView], most: usize) -> Vec<(PeerKey, Duty)> {
        self.clock(now);
        if most == 0 || !matches!(self.watch.outage(now), Outage::None) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (group, watched) in &self.groups {
            if due.len() >= most {
                break;
            }
            let here = |peer: &PeerKey| self.watch.belief(peer, now).presence < Presence::Gone;
            let all = watched.to_audit(&self.me, now, &self.rhythm);
            let of = all.into_iter().filter(|what| here(&what.holder)).take(most - due.len());
            due.extend(of.map(|what| (*group, what)));
        }
        if due.is_empty() {
            return Vec::new();
        }
        let candidates = self.candidates(now, peers);
        let mut duties = Vec::new();
        for (group, what) in due {
            let shared = self.shared_by(&what.holder);
            let Some(watched) = self.groups.get(&group) else { continue };
            let lots = self.lots(&what.holder, what.round, now);
            let domain = peers.iter().find(|view| view.peer == what.holder).map(|view| &view.domain);
            // Whose domain we do not know has nobody drawn: it may be the auditor's own.
            let drawn = domain.map(|domain| draw(watched, &candidates, &lots, what.slot, domain));
            let auditor = drawn.into_iter().flatten().nth(what.declined);
            let asked = watched.to_be_shown(what.slot, &what.holder, |ordinal| {
                *blake3::keyed_hash(&lots.beacon, &[&lots.number.to_le_bytes()[..], &[ordinal]].concat()).as_bytes()
            });
            let (rhythm, me) = (self.rhythm, self.me);
            let Some(watched) = self.groups.get_mut(&group) else { continue };
            let until = watched.audited_by(&me, &what, auditor.map(|auditor| (auditor, asked)), now, &rhythm);
            let (Some(auditor), Some(sheet)) = (auditor, watched.record.sealed_sheet(what.slot)) else { continue };
            let duty = Duty {
                ticket: watched.record.mandate.ticket,
                sheet: sheet.to_vec(),
                holder: what.holder,
                ordinals: asked,
                auditors: shared,
                until,
                words: watched.words_of(what.slot, &what.holder, &asked, now),
            };
            duties.push((auditor, duty));
        }
        duties
    }

    /// An auditor that was drawn would not do it, or was not reached.
    pub fn audit_declined(&mut self, auditor: &PeerKey, group: &GroupId, slot: Slot, holder: &PeerKey, now: Timestamp) {
        self.clock(now);
        let rhythm = self.rhythm;
        if let Some(watched) = self.groups.get_mut(group) {
            watched.audit_declined(slot, holder, auditor, now, &rhythm);
        }
    }

    /// What an auditor found. False: we did not draw it for this, and it changes nothing.
    pub fn found(&mut self, from: &PeerKey, findings: &Findings, now: Timestamp) -> bool {
        self.clock(now);
        let rhythm = self.rhythm;
        let Some(watched) = self.groups.get_mut(&findings.group) else { return false };
        let found = watched.found(from, findings, now, &rhythm);
        if found == Some(true) {
            self.effects.push(Effect::Persist(findings.group));
        }
        found.is_some()
    }

    /// Peers that store, are here, and are known for long enough.
    fn candidates(&self, now: Timestamp, peers: &[PeerView]) -> Vec<Candidate> {
        let silence = |watched: &Watched| {
            PlacementPolicy::new(watched.code(), watched.record.mandate.replicas).thresholds.silence_ms_max
        };
        let silence = self.groups.values().next().map_or(0, silence).max(2 * self.rhythm.look_ms);
        let fit = |view: &&PeerView| {
            let known = now.ms_since(view.first_seen) >= self.rhythm.registered_ms;
            known && view.roles.has(Roles::STORAGE) && now.ms_since(view.last_heard) <= silence && view.peer != self.me
        };
        // How long they are known was just looked at, by the timers of a trial perhaps.
        let candidate =
            |view: &PeerView| Candidate { peer: view.peer, domain: view.domain.clone(), first_seen: Timestamp(0) };
        peers.iter().filter(fit).map(candidate).collect()
    }

    /// Our own lots for a holder in a round.
    fn lots(&self, holder: &PeerKey, number: u64, began: Timestamp) -> Round {
        let secret = blake3::derive_key("cairn 2026-11 audit beacon v1", self.key.as_bytes());
        Round { number, began, beacon: *blake3::keyed_hash(&secret, holder.as_bytes()).as_bytes() }
    }

    /// How many auditors share a holder's audits, as far as we know: those of all stewards of the groups of ours that it is in.
    fn shared_by(&self, holder: &PeerKey) -> u8 {
        let concerned = self.groups.values().filter(|group| group.everybody().any(|peer| peer == *holder));
        let auditors: usize = concerned.map(|group| ROUNDS_AT_ONCE * group.committee().stewards().len()).sum();
        u8::try_from(auditors.max(1)).unwrap_or(u8::MAX)
    }
}

/// SEP-1: who may audit a slot at a holder, in the order of the lots.
fn draw(
    group: &Watched,
    candidates: &[Candidate],
    lots: &Round,
    slot: Slot,
    holder: &cairn_proto::Domain,
) -> Vec<PeerKey> {
    let ticket = &group.record.mandate.ticket;
    let others = group.ever().into_iter().zip(ticket.code().each_slot()).filter(|(_, at)| *at != slot);
    let seen: BTreeSet<PeerKey> = others.flat_map(|(peers, _)| peers).collect();
    let of_colour = candidates.iter().filter(|c| may_hold(ticket, &c.domain, slot) && !seen.contains(&c.peer));
    let of_colour: Vec<Candidate> = of_colour.cloned().collect();
    match panel::watch(&of_colour, lots, ticket, slot, holder) {
        Watch::SameColour { auditors } => auditors,
        Watch::OwnerOnly => Vec::new(),
    }
}
