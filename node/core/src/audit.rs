//! Audits: to make a peer show that it can still produce the bytes it promised to keep.
//!
//! The claim is "it can produce these bytes within this time", not "they are on its disk" (ADR 0018). A challenge asks for
//! leaves of one shard, each at a place that follows from the one before, so that they cannot be asked for elsewhere all at
//! once. The leaves: `slices` (what is asked, answered, checked), [`panel`] (who may ask, who judges), [`schedule`] (what
//! to ask whom, when), and here who is answered ([`permit`]), and what proves a lie ([`convict`]).
//!
//! # Invariants
//!
//! - **SEP-1** Leaves of slot i go to a peer of colour i, or to one that may read the whole shard anyway; auditors are no
//!   exception. Enforced by [`permit`] at the holder and [`panel::watch`] at the auditor; attacked by
//!   `tests::no_auditor_sees_two_slots`.
//! - **TRUST-1** Only what the subject itself signed convicts it, and an honest holder signs nothing that could.
//!   Enforced by [`convict`] and [`respond`]; attacked by `tests::an_honest_holder_cannot_be_made_to_convict_itself`.

pub mod panel;
pub mod schedule;
mod slices;
pub mod token_file;

use cairn_proto::{
    DecodeError, Domain, GroupTicket, PeerKey, ShardRoot, StatementId, Timestamp,
    audit::{Challenge, Evidence, Found, LEAF_SIZE, Opened, Way, evidence::pair},
    signed::SignedBytes,
};
use serde::Serialize;

use crate::colour::may_hold;

pub use slices::{TOKEN_SIZE, Token, digests, respond};

/// Audits of one holder a day, by all its auditors together, whatever it holds. Of a holder that dropped one byte in a
/// hundred, 459 random challenges find one missing with 99 %; 10 % missing are found with 44.
pub const AUDITS_PER_DAY: u32 = 460;
/// A challenge from further in the future is refused: a clock is wrong, or an answer is to be collected for later.
const CLOCK_SKEW_MS: u64 = 10 * 60 * 1000;

/// Why a holder does not answer. Not signed, and no evidence of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It names another holder or another group.
    #[error("the challenge is not for this holder")]
    NotForMe,
    /// Too late, or too early.
    #[error("the challenge is not valid at this time")]
    Time,
    /// The auditor has another colour, so it may have seen, or may yet see, another slot (SEP-1).
    #[error("the auditor may not see bytes of this slot")]
    Separation,
}

/// Whether to answer. `auditor` is the domain that we pinned for the challenge's signer; `may_read`: it presented a valid
/// grant to read this group here, so it is the owner.
///
/// # Errors
/// [`Refusal`].
pub fn permit(
    challenge: &Challenge,
    me: &PeerKey,
    ticket: &GroupTicket,
    auditor: &Domain,
    may_read: bool,
    now: Timestamp,
) -> Result<(), Refusal> {
    if challenge.holder != *me || challenge.group != ticket.id() {
        return Err(Refusal::NotForMe);
    }
    if now >= challenge.deadline || challenge.issued > now.plus_ms(CLOCK_SKEW_MS) {
        return Err(Refusal::Time);
    }
    let may_see = may_read || may_hold(ticket, auditor, challenge.slot);
    if challenge.way == Way::Slices && !may_see { Err(Refusal::Separation) } else { Ok(()) }
}

/// What an answer amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bytes are there.
    Good,
    /// The holder signed what is not so: this convicts.
    Wrong(Evidence),
    /// The holder says itself that they are not there.
    NotHere(Evidence),
    /// The digest is not the one that the token expects. No proof: only who prepared the token knows whether it is right.
    Mismatch,
}

/// Judges an answer with slices. `root` is the shard's as the owner-signed record has it.
///
/// # Errors
/// [`DecodeError`] for what is no answer to this challenge at all: it counts as silence, not as a wrong answer. That
/// includes slices that are not the ones that were signed.
pub fn verify(
    challenge: &SignedBytes,
    answer: &SignedBytes,
    slices: &[Vec<u8>],
    root: &ShardRoot,
) -> Result<Outcome, DecodeError> {
    let (asked, said) = pair(challenge, answer)?;
    let invalid = |why| DecodeError::Invalid { what: "audit answer", why };
    if asked.root != *root {
        return Err(invalid("the challenge is about another root"));
    }
    let wrong = |at: u8, slice: Vec<u8>| {
        Outcome::Wrong(Evidence::WrongAnswer { challenge: challenge.clone(), answer: answer.clone(), at, slice })
    };
    let hashes = match (&said.found, asked.way) {
        (Found::NotHere(_), _) => {
            return Ok(Outcome::NotHere(Evidence::SelfReport { challenge: challenge.clone(), answer: answer.clone() }));
        }
        (Found::Slices(hashes), Way::Slices) if hashes.len() == usize::from(asked.slices) => hashes,
        (Found::Digest(_), Way::Digest) => return Err(invalid("only a token can check a digest")),
        _ => return Ok(wrong(0, Vec::new())),
    };
    let signed = |(hash, slice): (&[u8; 32], &Vec<u8>)| blake3::hash(slice).as_bytes() == hash;
    if slices.len() != hashes.len() || !hashes.iter().zip(slices).all(signed) {
        return Err(invalid("the slices are not the ones that were signed"));
    }
    let places = slices::places(&asked, hashes);
    let bad = (0u8..).zip(places).zip(slices).find(|((_, place), slice)| !slices::belongs(root, *place, slice));
    Ok(bad.map_or(Outcome::Good, |((at, _), slice)| wrong(at, slice.clone())))
}

/// Judges an answer with a digest, with the token that was prepared when the shard was at hand.
///
/// # Errors
/// As [`verify`]; also when the challenge is not the token's.
pub fn verify_digest(
    challenge: &SignedBytes,
    answer: &SignedBytes,
    token: &Token,
    root: &ShardRoot,
) -> Result<Outcome, DecodeError> {
    let (asked, _) = pair(challenge, answer)?;
    if (asked.nonce, asked.slices, &asked.root) != (token.nonce, token.leaves, root) {
        return Err(DecodeError::Invalid { what: "audit answer", why: "the challenge is not the token's" });
    }
    verify_digest_by(challenge, answer, &token.expected)
}

/// The same for who kept of the right digest how it begins, and made the challenge itself.
///
/// # Errors
/// As [`verify`]; also when the challenge asks for no digest.
pub fn verify_digest_by(
    challenge: &SignedBytes,
    answer: &SignedBytes,
    expected: &[u8],
) -> Result<Outcome, DecodeError> {
    let (asked, said) = pair(challenge, answer)?;
    if asked.way != Way::Digest || expected.is_empty() {
        return Err(DecodeError::Invalid { what: "audit answer", why: "the challenge asks for no digest" });
    }
    match said.found {
        Found::Digest(digest) if digest.starts_with(expected) => Ok(Outcome::Good),
        Found::Digest(_) | Found::Slices(_) => Ok(Outcome::Mismatch),
        Found::NotHere(_) => {
            Ok(Outcome::NotHere(Evidence::SelfReport { challenge: challenge.clone(), answer: answer.clone() }))
        }
    }
}

/// What somebody was proved to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// It signed slices that are not of the shard.
    WrongAnswer,
    /// It signed two words that cannot both be true.
    Equivocation,
}

/// A proved lie; made by [`convict`] alone, so nothing else can exclude for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Conviction {
    subject: PeerKey,
    lie: Lie,
    evidence: StatementId,
}

impl Conviction {
    /// Who lied.
    #[must_use]
    pub const fn subject(&self) -> &PeerKey {
        &self.subject
    }

    /// How.
    #[must_use]
    pub const fn lie(&self) -> Lie {
        self.lie
    }

    /// Which file proves it.
    #[must_use]
    pub const fn evidence(&self) -> &StatementId {
        &self.evidence
    }

    /// From our own state, where only convictions were written.
    pub(crate) const fn restored(subject: PeerKey, lie: Lie, evidence: StatementId) -> Self {
        Self { subject, lie, evidence }
    }
}

/// Verifies a proof from its file alone: no record, no clock, nobody's word.
///
/// # Errors
/// [`DecodeError`] when it does not prove anything; silence and self-reports never do.
pub fn convict(evidence: &Evidence) -> Result<Conviction, DecodeError> {
    let nothing = |why| DecodeError::Invalid { what: "evidence", why };
    let (subject, lie) = match evidence.open()? {
        Opened::Equivocation { signer } => (signer, Lie::Equivocation),
        Opened::WrongAnswer { challenge, answer, at, slice } => {
            prove_wrong(&challenge, &answer.found, at, &slice).map_err(nothing)?;
            (answer.holder, Lie::WrongAnswer)
        }
        Opened::Silence { .. } => return Err(nothing("silence proves nothing")),
        Opened::SelfReport { .. } => return Err(nothing("an admission is no lie")),
    };
    Ok(Conviction { subject, lie, evidence: evidence.id() })
}

fn prove_wrong(challenge: &Challenge, found: &Found, at: u8, slice: &[u8]) -> Result<(), &'static str> {
    let hashes = match (found, challenge.way) {
        (Found::NotHere(_), _) => return Err("an admission is no lie"),
        (Found::Digest(_), Way::Digest) => return Err("a digest proves nothing to others"),
        (Found::Slices(hashes), Way::Slices) if hashes.len() == usize::from(challenge.slices) => hashes,
        // Signed, and of another kind or number than was asked. One lie, one file.
        _ if at == 0 && slice.is_empty() => return Ok(()),
        _ => return Err("a slice that proves nothing"),
    };
    let hash = hashes.get(usize::from(at)).ok_or("there is no such slice")?;
    if blake3::hash(slice).as_bytes() != hash {
        return Err("the slice is not the one that was signed");
    }
    let place = slices::places(challenge, hashes).nth(usize::from(at)).ok_or("there is no such slice")?;
    if slices::belongs(&challenge.root, place, slice) { Err("the slice is right") } else { Ok(()) }
}

/// Where a leaf begins in its shard.
const fn offset(place: u64) -> u64 {
    place * LEAF_SIZE as u64
}

#[cfg(test)]
mod tests;
