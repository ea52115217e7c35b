//! Evidence of how a peer behaved, as one file that says all there is to say.
//!
//! Two classes. *Proofs*, [`Evidence::WrongAnswer`] and [`Evidence::Equivocation`], consist of the subject's own signatures:
//! whoever has the file can verify it and needs to trust nobody. The rest is somebody's word ([`Evidence::Silence`]) or the
//! subject's own admission ([`Evidence::SelfReport`]) and never more than reversible.
//!
//! - **TRUST-1** Nothing here can be made about a peer that did not sign two different things or something untrue.
//!   Enforced by [`Evidence::open`] and, for slices, by `cairn_core::audit::convict`; attacked by
//!   `cairn_core::audit::tests`.

use ed25519_dalek::SigningKey;
use prost::Message as _;

use super::{Answer, Challenge, Found, SLICE_SIZE, STATEMENT_MAX, Vote, verdict::VOTE_CONTEXT, verified};
use crate::{DecodeError, PeerKey, StatementId, Timestamp, layout::at_most, message::decode, signed::SignedBytes};

const SILENCE_CONTEXT: &str = "cairn audit silence v1";
const VERSION: u32 = 1;
/// Most bytes of an encoded [`Evidence`]: two statements in their envelopes and one slice.
pub const EVIDENCE_MAX: usize = 2 * (STATEMENT_MAX + 128) + SLICE_SIZE + 64;

/// A file that tells against somebody. Nothing in it may be believed before [`Evidence::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The holder signed slices that are not of the root it was asked for.
    WrongAnswer {
        /// The sealed [`Challenge`].
        challenge: SignedBytes,
        /// The sealed [`Answer`].
        answer: SignedBytes,
        /// Which slice is wrong.
        at: u8,
        /// That slice; empty when what the answer lacks is wrong and not a slice.
        slice: Vec<u8>,
    },
    /// One signer, one question, two different words: two answers to one challenge, or two votes in one matter.
    Equivocation {
        /// One of them.
        first: SignedBytes,
        /// The other.
        second: SignedBytes,
    },
    /// A reporter says that a challenge was not answered. Proves nothing alone.
    Silence {
        /// The sealed [`Challenge`].
        challenge: SignedBytes,
        /// The sealed [`SilenceReport`].
        report: SignedBytes,
    },
    /// The holder says itself that it has not got the shard.
    SelfReport {
        /// The sealed [`Challenge`].
        challenge: SignedBytes,
        /// The sealed [`Answer`].
        answer: SignedBytes,
    },
}

/// Evidence whose signatures hold and whose parts belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The parts of a wrong answer. The slice is not yet looked at.
    WrongAnswer {
        /// The challenge.
        challenge: Challenge,
        /// The answer to it.
        answer: Answer,
        /// Which slice is said to be wrong.
        at: u8,
        /// That slice.
        slice: Vec<u8>,
    },
    /// Proved: the signer of both.
    Equivocation {
        /// Who said two things.
        signer: PeerKey,
    },
    /// Said, not proved.
    Silence {
        /// What was not answered.
        challenge: Challenge,
        /// By whose word.
        report: SilenceReport,
    },
    /// Admitted.
    SelfReport {
        /// What was asked.
        challenge: Challenge,
        /// What was said.
        answer: Answer,
    },
}

/// An auditor's word that nothing came before the deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilenceReport {
    /// Who says so: the signer.
    pub reporter: PeerKey,
    /// Of which challenge.
    pub challenge: StatementId,
    /// When.
    pub at: Timestamp,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SilenceBody {
    #[prost(bytes = "vec", tag = "1")]
    challenge: Vec<u8>,
    #[prost(uint64, tag = "2")]
    at: u64,
}

impl SilenceReport {
    /// Signs with the reporter's identity; `self.reporter` must be that key.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> SignedBytes {
        let body = SilenceBody { challenge: self.challenge.as_bytes().to_vec(), at: self.at.0 };
        SignedBytes::sign(SILENCE_CONTEXT, body.encode_to_vec(), key)
    }

    /// Verifies and checks every field.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn open(signed: &SignedBytes) -> Result<Self, DecodeError> {
        let what = "silence report";
        let reporter = verified(signed, SILENCE_CONTEXT, what)?;
        let body = decode::<SilenceBody>(&signed.body, what)?;
        Ok(Self { reporter, challenge: StatementId::from_slice(&body.challenge)?, at: Timestamp(body.at) })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct EvidenceBody {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// 1 wrong answer, 2 equivocation, 3 silence, 4 self-report.
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(message, optional, tag = "3")]
    first: Option<SignedBytes>,
    #[prost(message, optional, tag = "4")]
    second: Option<SignedBytes>,
    #[prost(uint32, tag = "5")]
    at: u32,
    #[prost(bytes = "vec", tag = "6")]
    slice: Vec<u8>,
}

impl Evidence {
    /// The file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, first, second) = match self {
            Self::WrongAnswer { challenge, answer, .. } => (1, challenge, answer),
            Self::Equivocation { first, second } => (2, first, second),
            Self::Silence { challenge, report } => (3, challenge, report),
            Self::SelfReport { challenge, answer } => (4, challenge, answer),
        };
        let (at, slice) = match self {
            Self::WrongAnswer { at, slice, .. } => ((*at).into(), slice.clone()),
            _ => (0, Vec::new()),
        };
        let (first, second) = (Some(first.clone()), Some(second.clone()));
        EvidenceBody { version: VERSION, kind, first, second, at, slice }.encode_to_vec()
    }

    /// Reads a file of at most [`EVIDENCE_MAX`] bytes. Verifies nothing yet.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "evidence";
        let invalid = |why| DecodeError::Invalid { what, why };
        at_most(what, EVIDENCE_MAX, bytes.len())?;
        let body = decode::<EvidenceBody>(bytes, what)?;
        if body.version != VERSION {
            return Err(invalid("unknown version"));
        }
        let (Some(first), Some(second)) = (body.first, body.second) else {
            return Err(invalid("a statement is missing"));
        };
        match body.kind {
            1 => {
                at_most(what, SLICE_SIZE, body.slice.len())?;
                let at = u8::try_from(body.at).map_err(|_| invalid("no such slice"))?;
                Ok(Self::WrongAnswer { challenge: first, answer: second, at, slice: body.slice })
            }
            2 => Ok(Self::Equivocation { first, second }),
            3 => Ok(Self::Silence { challenge: first, report: second }),
            4 => Ok(Self::SelfReport { challenge: first, answer: second }),
            _ => Err(invalid("unknown kind")),
        }
    }

    /// What votes and logs name it by.
    #[must_use]
    pub fn id(&self) -> StatementId {
        StatementId::from_bytes(blake3::derive_key("cairn 2026-11 evidence id v1", &self.encode()))
    }

    /// Verifies every signature, and that the parts are by whom and about what they must be.
    ///
    /// # Errors
    /// [`DecodeError`] naming what does not hold.
    pub fn open(&self) -> Result<Opened, DecodeError> {
        match self {
            Self::WrongAnswer { challenge, answer, at, slice } => {
                let (challenge, answer) = pair(challenge, answer)?;
                Ok(Opened::WrongAnswer { challenge, answer, at: *at, slice: slice.clone() })
            }
            Self::Equivocation { first, second } => equivocation(first, second),
            Self::Silence { challenge: signed, report } => {
                let (challenge, report) = (Challenge::open(signed)?, SilenceReport::open(report)?);
                if report.challenge != Challenge::id(signed) || report.reporter != challenge.auditor {
                    return Err(unfit("only the auditor can say that its challenge was not answered"));
                }
                if report.at < challenge.deadline {
                    return Err(unfit("the deadline had not passed"));
                }
                Ok(Opened::Silence { challenge, report })
            }
            Self::SelfReport { challenge, answer } => {
                let (challenge, answer) = pair(challenge, answer)?;
                if !matches!(answer.found, Found::NotHere(_)) {
                    return Err(unfit("the answer admits nothing"));
                }
                Ok(Opened::SelfReport { challenge, answer })
            }
        }
    }
}

const fn unfit(why: &'static str) -> DecodeError {
    DecodeError::Invalid { what: "evidence", why }
}

/// Opens a challenge and the answer to it; nothing else passes.
///
/// # Errors
/// [`DecodeError`], also when the answer is to another challenge or by another peer.
pub fn pair(challenge: &SignedBytes, answer: &SignedBytes) -> Result<(Challenge, Answer), DecodeError> {
    let id = Challenge::id(challenge);
    let (challenge, answer) = (Challenge::open(challenge)?, Answer::open(answer)?);
    if answer.challenge != id {
        return Err(unfit("the answer is to another challenge"));
    }
    if answer.holder != challenge.holder {
        return Err(unfit("the answer is by another peer than was asked"));
    }
    Ok((challenge, answer))
}

/// A loss and a good answer to one challenge are no lie: a disk may break, or be mended, between two askings.
fn equivocation(first: &SignedBytes, second: &SignedBytes) -> Result<Opened, DecodeError> {
    if first.signer != second.signer {
        return Err(unfit("two signers"));
    }
    let lie = if verified(first, VOTE_CONTEXT, "vote").is_ok() {
        let (a, b) = (Vote::open(first)?, Vote::open(second)?);
        a.matter == b.matter && a.against != b.against
    } else {
        let (a, b) = (Answer::open(first)?, Answer::open(second)?);
        let bytes = |found: &Found| !matches!(found, Found::NotHere(_));
        a.challenge == b.challenge && a.found != b.found && bytes(&a.found) && bytes(&b.found)
    };
    if !lie {
        return Err(unfit("both statements can be true"));
    }
    Ok(Opened::Equivocation { signer: PeerKey::from_slice(&first.signer)? })
}
