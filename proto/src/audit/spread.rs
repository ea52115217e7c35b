//! What goes round a network about a peer's conduct: a proof, a complaint or a vote, one to a message of gossip.
//!
//! Whoever brings it need not be whoever said it, so the same words must have one spelling: a message that could be spelled
//! otherwise is refused, or one proof would go round as many.

use prost::Message as _;

use super::{Evidence, STATEMENT_MAX, evidence::EVIDENCE_MAX};
use crate::{DecodeError, layout::at_most, message::decode, signed::SignedBytes};

/// Most bytes of an encoded [`Spread`]: the kind and a piece of evidence, or a vote in its envelope.
pub const SPREAD_MAX: usize = 1 + EVIDENCE_MAX;
const _: () = assert!(STATEMENT_MAX + 128 <= EVIDENCE_MAX, "a vote is shorter");

/// One message. Nothing in it is verified yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Spread {
    /// A proof, or a complaint ([`Evidence::Silence`]).
    Evidence(Evidence),
    /// A sealed [`super::Vote`].
    Vote(SignedBytes),
}

const WHAT: &str = "evidence gossip";

impl Spread {
    /// `1 · evidence` or `2 · vote`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Evidence(evidence) => (1, evidence.encode()),
            Self::Vote(vote) => (2, vote.encode_to_vec()),
        };
        [&[kind], body.as_slice()].concat()
    }

    /// Reads at most [`SPREAD_MAX`] bytes, in the one spelling that [`Spread::encode`] gives.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, SPREAD_MAX, bytes.len())?;
        let spread = match bytes.split_first() {
            Some((1, body)) => Self::Evidence(Evidence::decode(body)?),
            Some((2, body)) => {
                let vote = decode::<SignedBytes>(body, WHAT)?;
                at_most(WHAT, STATEMENT_MAX, vote.body.len())?;
                Self::Vote(vote)
            }
            Some(_) => return Err(DecodeError::Invalid { what: WHAT, why: "unknown kind" }),
            None => return Err(DecodeError::Truncated { what: WHAT, needed: 1, found: 0 }),
        };
        if spread.encode() != bytes {
            return Err(DecodeError::Invalid { what: WHAT, why: "spelled in another way" });
        }
        Ok(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_one_spelling() {
        let statement = |fill| SignedBytes { body: vec![fill; 9], signer: vec![8; 32], signature: vec![9; 64] };
        let evidence = Evidence::Silence { challenge: statement(1), report: statement(2) };
        for (kind, spread) in [(1, Spread::Evidence(evidence)), (2, Spread::Vote(statement(3)))] {
            let bytes = spread.encode();
            assert_eq!(bytes[0], kind);
            assert_eq!(Spread::decode(&bytes), Ok(spread));
            // A field that nobody knows, which protobuf skips.
            let padded = [&bytes[..], &[0xf8, 0x07, 0x01]].concat();
            assert!(Spread::decode(&padded).is_err(), "kind {kind}");
        }
        assert!(Spread::decode(&[]).is_err() && Spread::decode(&[3]).is_err());
        assert!(Spread::decode(&[2; SPREAD_MAX + 1]).is_err());
        let long = Spread::Vote(SignedBytes { body: vec![0; STATEMENT_MAX + 1], ..statement(0) });
        assert!(Spread::decode(&long.encode()).is_err());
    }
}
