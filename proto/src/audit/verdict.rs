//! Verdicts: what a panel says of a peer, in one file that anyone can verify.
//!
//! A verdict is votes and nothing else: there is no clerk to trust. Who sits on the panel and how many votes it takes is the
//! reader's own reckoning ([`Bench`], `cairn_core::audit::panel`), never the file's word.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use prost::Message as _;
use serde::Serialize;

use super::{STATEMENT_MAX, verified};
use crate::{
    DecodeError, Domain, GroupId, PeerKey, Slot, StatementId, Timestamp, layout::at_most, message, signed::SignedBytes,
};

pub(super) const VOTE_CONTEXT: &str = "cairn audit vote v1";
const VERSION: u32 = 1;
/// Most votes in a verdict: the largest panel.
pub const VOTES_MAX: usize = 21;
/// Most pieces of evidence that a vote names.
pub const VOTE_EVIDENCE_MAX: usize = 8;
/// Most bytes of an encoded verdict.
pub const VERDICT_MAX: usize = VOTES_MAX * (STATEMENT_MAX + 128) + 256;
/// However small the network: who is excluded is so by at least so many domains.
pub const EXCLUDE_DOMAINS_MIN: usize = 3;

/// What a panel decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// 5 of 7: what it holds is copied; its standing suffers for a week.
    Suspect,
    /// 14 of 21: nothing is placed on it for a month, what it holds is moved.
    Exclude,
}

/// What is voted on: one question, on which each voter has one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Matter {
    /// The peer in question.
    pub subject: PeerKey,
    /// Of what.
    pub kind: VerdictKind,
    /// The round of the beacon that drew the panel.
    pub round: u64,
    /// The group and slot whose auditors decide; none: any domain may be drawn.
    pub place: Option<(GroupId, Slot)>,
}

/// One voter's signed word. An honest voter writes it down before it sends it: a second, different one is a lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Who speaks: the signer.
    pub voter: PeerKey,
    /// On what.
    pub matter: Matter,
    /// Against the subject, or for it.
    pub against: bool,
    /// Ids of the evidence that convinced it.
    pub evidence: Vec<StatementId>,
    /// When.
    pub issued: Timestamp,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MatterBody {
    #[prost(bytes = "vec", tag = "1")]
    subject: Vec<u8>,
    /// 1 suspect, 2 exclude.
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(uint64, tag = "3")]
    round: u64,
    /// Empty: none.
    #[prost(bytes = "vec", tag = "4")]
    group: Vec<u8>,
    #[prost(uint32, tag = "5")]
    slot: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VoteBody {
    #[prost(message, optional, tag = "1")]
    matter: Option<MatterBody>,
    #[prost(bool, tag = "2")]
    against: bool,
    #[prost(bytes = "vec", repeated, tag = "3")]
    evidence: Vec<Vec<u8>>,
    #[prost(uint64, tag = "4")]
    issued: u64,
}

impl Matter {
    fn body(&self) -> MatterBody {
        MatterBody {
            subject: self.subject.as_bytes().to_vec(),
            kind: match self.kind {
                VerdictKind::Suspect => 1,
                VerdictKind::Exclude => 2,
            },
            round: self.round,
            group: self.place.map_or_else(Vec::new, |(group, _)| group.as_bytes().to_vec()),
            slot: self.place.map_or(0, |(_, slot)| slot.as_u8().into()),
        }
    }

    fn read(body: Option<MatterBody>) -> Result<Self, DecodeError> {
        let invalid = |why| DecodeError::Invalid { what: "matter of a vote", why };
        let body = body.ok_or_else(|| invalid("is missing"))?;
        let kind = match body.kind {
            1 => VerdictKind::Suspect,
            2 => VerdictKind::Exclude,
            _ => return Err(invalid("unknown kind")),
        };
        let place = match (body.group.as_slice(), body.slot) {
            ([], 0) => None,
            ([], _) => return Err(invalid("a slot without a group")),
            (group, slot) => Some((GroupId::from_slice(group)?, message::slot(slot)?)),
        };
        Ok(Self { subject: PeerKey::from_slice(&body.subject)?, kind, round: body.round, place })
    }
}

impl Vote {
    /// Signs with the voter's identity; `self.voter` must be that key.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> SignedBytes {
        let body = VoteBody {
            matter: Some(self.matter.body()),
            against: self.against,
            evidence: self.evidence.iter().map(|id| id.as_bytes().to_vec()).collect(),
            issued: self.issued.0,
        };
        SignedBytes::sign(VOTE_CONTEXT, body.encode_to_vec(), key)
    }

    /// Verifies and checks every field.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn open(signed: &SignedBytes) -> Result<Self, DecodeError> {
        let what = "vote";
        let voter = verified(signed, VOTE_CONTEXT, what)?;
        let body = message::decode::<VoteBody>(&signed.body, what)?;
        at_most(what, VOTE_EVIDENCE_MAX, body.evidence.len())?;
        Ok(Self {
            voter,
            matter: Matter::read(body.matter)?,
            against: body.against,
            evidence: body.evidence.iter().map(|id| StatementId::from_slice(id)).collect::<Result<_, _>>()?,
            issued: Timestamp(body.issued),
        })
    }
}

/// A verdict as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// On what.
    pub matter: Matter,
    /// Sealed [`Vote`]s, at most [`VOTES_MAX`].
    pub votes: Vec<SignedBytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VerdictBody {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    matter: Option<MatterBody>,
    #[prost(message, repeated, tag = "3")]
    votes: Vec<SignedBytes>,
}

/// Who may vote, by the reader's own knowledge.
pub trait Bench {
    /// The domain under which this peer sits on the panel of a matter; `None` when it was not drawn, is not known, or is
    /// of the subject's own domain.
    fn seat(&self, matter: &Matter, voter: &PeerKey) -> Option<Domain>;

    /// Votes that the matter takes; `None` when the network is too small to decide it.
    fn quorum(&self, matter: &Matter) -> Option<usize>;
}

/// Why a verdict is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerdictError {
    /// A vote is not what it claims to be.
    #[error("a vote does not verify: {0}")]
    Vote(#[from] DecodeError),
    /// A vote on something else, or for the subject.
    #[error("the vote of {voter} is not a vote against in this matter")]
    Foreign {
        /// Whose.
        voter: PeerKey,
    },
    /// Two votes of one domain.
    #[error("domain {domain} voted twice")]
    TwiceOneDomain {
        /// Which.
        domain: Domain,
    },
    /// The reader's network is too small for such a verdict.
    #[error("too few domains are known to decide this")]
    NoPanel,
    /// Not enough of those who were drawn.
    #[error("{found} of the panel voted and {needed} are needed")]
    TooFewVotes {
        /// The quorum.
        needed: usize,
        /// Votes of peers that were drawn.
        found: usize,
    },
}

/// A verdict that was verified; made by [`Verdict::verify`] alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    matter: Matter,
    votes: usize,
    issued: Timestamp,
}

impl Verified {
    /// On what.
    #[must_use]
    pub const fn matter(&self) -> &Matter {
        &self.matter
    }

    /// Votes that counted, each of another domain.
    #[must_use]
    pub const fn votes(&self) -> usize {
        self.votes
    }

    /// When: the middle one of the times in the votes that counted, so that no single voter makes it old or young.
    #[must_use]
    pub const fn issued(&self) -> Timestamp {
        self.issued
    }
}

impl Verdict {
    /// The file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        VerdictBody { version: VERSION, matter: Some(self.matter.body()), votes: self.votes.clone() }.encode_to_vec()
    }

    /// Reads a file of at most [`VERDICT_MAX`] bytes. Verifies nothing yet.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "verdict";
        at_most(what, VERDICT_MAX, bytes.len())?;
        let body = message::decode::<VerdictBody>(bytes, what)?;
        if body.version != VERSION {
            return Err(DecodeError::Invalid { what, why: "unknown version" });
        }
        at_most(what, VOTES_MAX, body.votes.len())?;
        Ok(Self { matter: Matter::read(body.matter)?, votes: body.votes })
    }

    /// What logs name it by.
    #[must_use]
    pub fn id(&self) -> StatementId {
        StatementId::from_bytes(blake3::derive_key("cairn 2026-11 verdict id v1", &self.encode()))
    }

    /// Verifies every vote and counts those of the panel, one for each domain. Votes of peers that the reader did not
    /// draw are left out and not held against the rest: two readers may know different peers.
    ///
    /// # Errors
    /// [`VerdictError`].
    pub fn verify(&self, bench: &impl Bench) -> Result<Verified, VerdictError> {
        let quorum = bench.quorum(&self.matter).ok_or(VerdictError::NoPanel)?;
        let least = if self.matter.kind == VerdictKind::Exclude { EXCLUDE_DOMAINS_MIN } else { 1 };
        let needed = quorum.max(least);
        at_most("verdict", VOTES_MAX, self.votes.len())?;
        let mut domains = BTreeSet::new();
        let mut times = Vec::new();
        for signed in &self.votes {
            let vote = Vote::open(signed)?;
            if vote.matter != self.matter || !vote.against || vote.voter == self.matter.subject {
                return Err(VerdictError::Foreign { voter: vote.voter });
            }
            let Some(domain) = bench.seat(&self.matter, &vote.voter) else { continue };
            times.push(vote.issued);
            if !domains.insert(domain.clone()) {
                return Err(VerdictError::TwiceOneDomain { domain });
            }
        }
        if domains.len() < needed {
            return Err(VerdictError::TooFewVotes { needed, found: domains.len() });
        }
        times.sort_unstable();
        let issued = times.get((times.len() - 1) / 2).copied().unwrap_or(Timestamp(0));
        Ok(Verified { matter: self.matter, votes: domains.len(), issued })
    }
}
