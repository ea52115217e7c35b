//! Audits as they cross the wire: a signed challenge, a signed answer, and the slices that go beside it.
//!
//! What is signed in an answer are the *hashes* of its slices. So a wrong answer is proved by the one slice that is wrong
//! (`evidence`), and spreading the proof spreads no right byte of a slot to peers of other colours (SEP-1). The challenge
//! names the root it is about and the holder signs the challenge's id: whatever the auditor's reasons, who answers slices to
//! it says "these are of that root". An honest holder checks that before it signs, and says [`Loss`] where it is not so:
//! that is why a wrong answer convicts by itself (TRUST-1).

pub mod evidence;
pub mod spread;
pub mod verdict;

use ed25519_dalek::SigningKey;
use prost::Message as _;
use serde::Serialize;

use crate::{
    DecodeError, GroupId, PeerKey, ShardRoot, Slot, StatementId, Timestamp,
    message::{decode, ordinal, slot},
    signed::SignedBytes,
};

pub use evidence::{Evidence, Opened, SilenceReport};
pub use verdict::{Bench, Matter, Verdict, VerdictError, VerdictKind, Verified, Vote};

/// Bytes of a leaf of BLAKE3's tree.
pub const LEAF_SIZE: usize = 1024;
/// Leaves of a shard.
pub const LEAVES: u64 = (crate::SHARD_SIZE / LEAF_SIZE) as u64;
/// Bytes of one slice: bao's length header, the ten nodes of the path, the leaf.
pub const SLICE_SIZE: usize = 8 + 10 * 64 + LEAF_SIZE;
/// Most slices of one answer: 26 KiB, less than a third of a second on a slow uplink of 1 Mbit/s.
pub const SLICES_MAX: u8 = 16;
/// Slices of an ordinary challenge: 6.5 KiB, 3 MB a day for a holder.
pub const SLICES_DEFAULT: u8 = 4;
/// Most leaves of a digest challenge: its answer is 32 bytes however many they are.
pub const DIGEST_LEAVES_MAX: u8 = 64;
/// Longest time to answer: a home line that wakes up. Also bounds how long an answer may be of use to anybody.
pub const DEADLINE_MAX_MS: u64 = 3600 * 1000;
/// Most bytes of an encoded [`Response`]: all slices in their envelopes, and the signed answer.
pub const RESPONSE_MAX: usize = SLICES_MAX as usize * (SLICE_SIZE + 8) + 2 * STATEMENT_MAX;
/// Most bytes of the body of any statement here: sixteen hashes and some ids.
pub const STATEMENT_MAX: usize = 1024;

const CHALLENGE_CONTEXT: &str = "cairn audit challenge v1";
const ANSWER_CONTEXT: &str = "cairn audit answer v1";

/// How a holder is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// With the slices themselves: only to an auditor of the slot's colour, or to the owner.
    Slices,
    /// With a keyed hash over the chain of leaves: no byte of the shard, so anybody may ask; only who prepared the
    /// challenge when it had the shard can check it.
    Digest,
}

/// "Show me these leaves of that shard." Signed by the auditor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Challenge {
    /// Who asks: the signer.
    pub auditor: PeerKey,
    /// Who is asked.
    pub holder: PeerKey,
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// The shard's root as the auditor knows it from the owner-signed record.
    pub root: ShardRoot,
    /// Fresh random bytes (or those of a prepared token): positions follow from them.
    pub nonce: [u8; 32],
    /// How to answer.
    pub way: Way,
    /// How many leaves.
    pub slices: u8,
    /// The holder's last answer that this auditor got. It is the auditor's receipt: it cannot say later that this answer
    /// never came.
    pub previous: Option<StatementId>,
    /// When it was made.
    pub issued: Timestamp,
    /// Until when an answer counts; at most [`DEADLINE_MAX_MS`] later.
    pub deadline: Timestamp,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChallengeBody {
    #[prost(bytes = "vec", tag = "1")]
    holder: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    group: Vec<u8>,
    #[prost(uint32, tag = "3")]
    slot: u32,
    #[prost(uint32, tag = "4")]
    ordinal: u32,
    #[prost(bytes = "vec", tag = "5")]
    root: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    nonce: Vec<u8>,
    #[prost(uint32, tag = "7")]
    way: u32,
    #[prost(uint32, tag = "8")]
    slices: u32,
    #[prost(bytes = "vec", tag = "9")]
    previous: Vec<u8>,
    #[prost(uint64, tag = "10")]
    issued: u64,
    #[prost(uint64, tag = "11")]
    deadline: u64,
}

impl Challenge {
    /// Signs with the auditor's identity; `self.auditor` must be that key.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> SignedBytes {
        let body = ChallengeBody {
            holder: self.holder.as_bytes().to_vec(),
            group: self.group.as_bytes().to_vec(),
            slot: self.slot.as_u8().into(),
            ordinal: self.ordinal.into(),
            root: self.root.as_bytes().to_vec(),
            nonce: self.nonce.to_vec(),
            way: match self.way {
                Way::Slices => 1,
                Way::Digest => 2,
            },
            slices: self.slices.into(),
            previous: optional(self.previous),
            issued: self.issued.0,
            deadline: self.deadline.0,
        };
        SignedBytes::sign(CHALLENGE_CONTEXT, body.encode_to_vec(), key)
    }

    /// Verifies and checks every field.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn open(signed: &SignedBytes) -> Result<Self, DecodeError> {
        let what = "audit challenge";
        let invalid = |why| DecodeError::Invalid { what, why };
        let auditor = verified(signed, CHALLENGE_CONTEXT, what)?;
        let body = decode::<ChallengeBody>(&signed.body, what)?;
        let (way, most) = match body.way {
            1 => (Way::Slices, SLICES_MAX),
            2 => (Way::Digest, DIGEST_LEAVES_MAX),
            _ => return Err(invalid("unknown way to answer")),
        };
        let slices = u8::try_from(body.slices).ok().filter(|n| (1..=most).contains(n));
        if body.deadline <= body.issued || body.deadline - body.issued > DEADLINE_MAX_MS {
            return Err(invalid("the deadline must be later, by an hour at most"));
        }
        Ok(Self {
            auditor,
            holder: PeerKey::from_slice(&body.holder)?,
            group: GroupId::from_slice(&body.group)?,
            slot: slot(body.slot)?,
            ordinal: ordinal(body.ordinal)?,
            root: ShardRoot::from_slice(&body.root)?,
            nonce: <[u8; 32]>::try_from(body.nonce.as_slice()).map_err(|_| invalid("the nonce must have 32 bytes"))?,
            way,
            slices: slices.ok_or_else(|| invalid("too many slices, or none"))?,
            previous: read_optional(&body.previous)?,
            issued: Timestamp(body.issued),
            deadline: Timestamp(body.deadline),
        })
    }

    /// The id of a sealed challenge: what an answer names it by.
    #[must_use]
    pub fn id(signed: &SignedBytes) -> StatementId {
        signed.id(CHALLENGE_CONTEXT)
    }
}

/// Why a holder says that it has not got a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// There are no such bytes here, and not in the trash either.
    Gone,
    /// There are bytes and they no longer give the root.
    Damaged,
}

/// What a holder found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// BLAKE3 of each slice, in the order of the chain.
    Slices(Vec<[u8; 32]>),
    /// The end of the chain.
    Digest([u8; 32]),
    /// Nothing, and why. Costs little: the network repairs.
    NotHere(Loss),
}

/// A holder's signed word about one challenge. It has no time of its own: asked again, a holder gives the same answer, so
/// two different ones are a lie and not a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Who speaks: the signer.
    pub holder: PeerKey,
    /// Which challenge, see [`Challenge::id`].
    pub challenge: StatementId,
    /// The last answer that it gave this auditor, as far as it remembers. A difference from the challenge's shows that a
    /// message or a memory was lost, and nothing else.
    pub previous: Option<StatementId>,
    /// What it found.
    pub found: Found,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerBody {
    #[prost(bytes = "vec", tag = "1")]
    challenge: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    previous: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    slices: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
    #[prost(uint32, tag = "5")]
    loss: u32,
}

impl Answer {
    /// Signs with the holder's identity; `self.holder` must be that key.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> SignedBytes {
        let mut body = AnswerBody {
            challenge: self.challenge.as_bytes().to_vec(),
            previous: optional(self.previous),
            ..AnswerBody::default()
        };
        match &self.found {
            Found::Slices(hashes) => body.slices = hashes.iter().map(|h| h.to_vec()).collect(),
            Found::Digest(digest) => body.digest = digest.to_vec(),
            Found::NotHere(Loss::Gone) => body.loss = 1,
            Found::NotHere(Loss::Damaged) => body.loss = 2,
        }
        SignedBytes::sign(ANSWER_CONTEXT, body.encode_to_vec(), key)
    }

    /// Verifies and checks every field.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn open(signed: &SignedBytes) -> Result<Self, DecodeError> {
        let what = "audit answer";
        let invalid = |why| DecodeError::Invalid { what, why };
        let holder = verified(signed, ANSWER_CONTEXT, what)?;
        let body = decode::<AnswerBody>(&signed.body, what)?;
        let hash = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(|_| invalid("a hash must have 32 bytes"));
        if body.slices.len() > usize::from(SLICES_MAX) {
            return Err(DecodeError::TooLarge { what, limit: SLICES_MAX.into(), found: body.slices.len() });
        }
        let found = match (body.slices.is_empty(), body.digest.is_empty(), body.loss) {
            (false, true, 0) => Found::Slices(body.slices.iter().map(|s| hash(s)).collect::<Result<_, _>>()?),
            (true, false, 0) => Found::Digest(hash(&body.digest)?),
            (true, true, 1) => Found::NotHere(Loss::Gone),
            (true, true, 2) => Found::NotHere(Loss::Damaged),
            _ => return Err(invalid("must say exactly one thing")),
        };
        Ok(Self {
            holder,
            challenge: StatementId::from_slice(&body.challenge)?,
            previous: read_optional(&body.previous)?,
            found,
        })
    }

    /// The id of a sealed answer: what the next challenge names it by.
    #[must_use]
    pub fn id(signed: &SignedBytes) -> StatementId {
        signed.id(ANSWER_CONTEXT)
    }
}

/// An answer on the wire: what is signed, and the slices beside it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Response {
    /// The sealed [`Answer`].
    #[prost(message, optional, tag = "1")]
    pub answer: Option<SignedBytes>,
    /// [`SLICE_SIZE`] bytes each.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub slices: Vec<Vec<u8>>,
}

impl Response {
    /// Reads at most [`RESPONSE_MAX`] bytes, with at most [`SLICES_MAX`] slices of [`SLICE_SIZE`] bytes.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn read(bytes: &[u8]) -> Result<(SignedBytes, Vec<Vec<u8>>), DecodeError> {
        let what = "audit response";
        crate::layout::at_most(what, RESPONSE_MAX, bytes.len())?;
        let response = decode::<Self>(bytes, what)?;
        crate::layout::at_most(what, SLICES_MAX.into(), response.slices.len())?;
        if response.slices.iter().any(|s| s.len() != SLICE_SIZE) {
            return Err(DecodeError::Invalid { what, why: "a slice has another size" });
        }
        let answer = response.answer.ok_or(DecodeError::Invalid { what, why: "has no answer" })?;
        Ok((answer, response.slices))
    }
}

/// Bounds first, then the signature.
fn verified(signed: &SignedBytes, context: &'static str, what: &'static str) -> Result<PeerKey, DecodeError> {
    crate::layout::at_most(what, STATEMENT_MAX, signed.body.len())?;
    signed.verify(context).map(PeerKey::from_bytes)
}

fn optional(id: Option<StatementId>) -> Vec<u8> {
    id.map_or_else(Vec::new, |id| id.as_bytes().to_vec())
}

fn read_optional(bytes: &[u8]) -> Result<Option<StatementId>, DecodeError> {
    if bytes.is_empty() { Ok(None) } else { StatementId::from_slice(bytes).map(Some) }
}

#[cfg(test)]
mod tests;
