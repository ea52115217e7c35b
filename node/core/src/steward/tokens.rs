//! Questions with tokens: what a steward asks holders that nobody else of their colour can audit, and what it makes of the answers.
//!
//! The owner made the tokens when it had the shards ([`cairn_proto::tokens`]). A steward asks at a slow pace, so that they last as long as
//! its mandate, and it never sees a byte: what it gets is a digest.
//!
//! # Invariants
//!
//! - **SEP-1** What is asked for is a digest ([`Way::Digest`]), never a leaf. Enforced by [`Steward::tokens_due`]; attacked by
//!   `tests::tokens::no_question_asks_for_a_leaf`.
//! - **TRUST-1** A wrong answer concerns the steward that got it; it is told to nobody. Enforced by the quorum of orders; attacked by
//!   `tests::tokens::four_stewards_that_lie_cost_a_holder_nothing`.

use cairn_proto::{
    GroupId, PeerKey, Slot, Timestamp,
    audit::{Challenge, Response, Way},
    tokens::TOKEN_LEAVES,
};

use super::{
    Effect, Steward,
    watched::Came,
    wire::{Answer, Questioned, Refusal},
};
use crate::{
    audit::verify_digest_by,
    liveness::{Outage, Presence},
};

/// A question for a holder.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenQuestion {
    /// The group.
    pub group: GroupId,
    /// Its slot.
    pub slot: Slot,
    /// Whom.
    pub holder: PeerKey,
    /// Until when an answer counts.
    pub deadline: Timestamp,
    /// What.
    pub question: Questioned,
}

/// What a question led to, as the transport has it.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenAnswer {
    /// It answered so.
    Said(Answer),
    /// It was reached and did not answer.
    Silent,
    /// It could not be reached.
    Unreached,
}

impl Steward {
    /// Tokens of a group, from its owner or from a steward that kept them for us.
    pub(super) fn on_tokens(&mut self, group: GroupId, own: Option<&[u8]>, spare: Option<&[u8]>) {
        let me = self.me;
        if self.groups.get_mut(&group).is_some_and(|watched| watched.learn_tokens(&me, own, spare)) {
            self.effects.push(Effect::Persist(group));
        }
    }

    /// Up to so many questions to holders that are here. Their tokens are used from now on, and that must be durable before they are
    /// asked ([`Effect::Persist`]); what came of each goes to [`Steward::token_answered`]. `patience_ms`: how long a holder may take.
    pub fn tokens_due(&mut self, now: Timestamp, most: usize, patience_ms: u64) -> Vec<TokenQuestion> {
        self.clock(now);
        if most == 0 || !matches!(self.watch.outage(now), Outage::None) {
            return Vec::new();
        }
        let mut due: Vec<(GroupId, Slot, PeerKey)> = Vec::new();
        for (group, watched) in &self.groups {
            let here = |holder: &PeerKey| self.watch.belief(holder, now).presence == Presence::Here;
            let of = watched.to_ask_with_tokens(now).into_iter().filter(|(_, holder)| here(holder));
            due.extend(of.map(|(slot, holder)| (*group, slot, holder)).take(most - due.len()));
            if due.len() >= most {
                break;
            }
        }
        let (me, rhythm) = (self.me, self.rhythm);
        let mut questions = Vec::with_capacity(due.len());
        for (group, slot, holder) in due {
            let Some(watched) = self.groups.get_mut(&group) else { continue };
            let Some((token, root)) = watched.take_token(slot, &holder, now, &rhythm) else { continue };
            let deadline = now.plus_ms(patience_ms);
            let challenge = Challenge {
                auditor: me,
                holder,
                group,
                slot,
                ordinal: token.ordinal,
                root,
                nonce: token.nonce,
                way: Way::Digest,
                slices: TOKEN_LEAVES,
                previous: None,
                issued: now,
                deadline,
            };
            let challenge = challenge.seal(&self.key);
            watched.asked_with(slot, &holder, challenge.clone(), token);
            let question = Questioned { ticket: watched.ticket(), grant: None, challenge };
            questions.push(TokenQuestion { group, slot, holder, deadline, question });
            self.effects.push(Effect::Persist(group));
        }
        questions
    }

    /// A question that was never sent: its token can be used another time.
    pub fn token_unasked(&mut self, question: &TokenQuestion) {
        let TokenQuestion { holder, group, slot, .. } = *question;
        let now = self.now;
        self.token_answered(holder, group, slot, &TokenAnswer::Unreached, now);
    }

    /// What came of a question of [`Steward::tokens_due`]; of any other nothing follows.
    pub fn token_answered(
        &mut self,
        holder: PeerKey,
        group: GroupId,
        slot: Slot,
        answer: &TokenAnswer,
        now: Timestamp,
    ) {
        self.clock(now);
        // Whoever may be cut off itself has nothing to say of others.
        let blind = !matches!(self.watch.outage(now), Outage::None);
        let rhythm = self.rhythm;
        let Some(watched) = self.groups.get_mut(&group) else { return };
        let Some((challenge, digest)) = watched.open_question(slot, &holder) else { return };
        let came = match answer {
            TokenAnswer::Said(Answer::Audit(bytes)) => {
                let judged = Response::read(bytes).and_then(|(said, _)| verify_digest_by(challenge, &said, &digest));
                // What is no answer to this question, as one to an older one is: it was there and did not answer.
                judged.map_or(Came::Silent, Came::Judged)
            }
            TokenAnswer::Said(Answer::Refused(Refusal::Busy)) => Came::Busy,
            TokenAnswer::Said(_) | TokenAnswer::Silent => Came::Silent,
            TokenAnswer::Unreached => Came::Unreached,
        };
        let came = if blind && matches!(came, Came::Silent | Came::Busy) { Came::Blind } else { came };
        let heard = !matches!(came, Came::Unreached | Came::Blind);
        if watched.token_came(slot, &holder, &came, now, &rhythm) {
            self.effects.push(Effect::Persist(group));
        }
        if heard && matches!(answer, TokenAnswer::Said(_)) {
            self.heard(holder, now);
        }
    }
}
