//! What travels on the rebuild protocol, beside the slices themselves.
//!
//! ```text
//! new holder -> helper   Invite          helper -> new holder   Key | No
//! new holder -> helper   Session         helper -> new holder   Ready | No
//! new holder -> helper   Go              helper -> new holder   Done | Broken
//! helper -> next one     Link, slices    next one -> helper     a byte for each slice
//! new holder -> helper   Invite (print)  helper -> new holder   Print | No
//! ```
//!
//! Layout: version `1` · kind · fields. Numbers are u8, u16 LE or u32 LE; bytes of any length have a u32 before them. A message has
//! one encoding, and nothing is taken into memory that its length does not cover.

use cairn_proto::{
    Certificate, DecodeError,
    mandate::{MANDATE_MAX, SHEET_MAX},
    order::{CERTIFICATE_MAX, CHANGES_MAX},
};

use super::{
    EphemeralKey, FINGERPRINT_SIZE, Fingerprint, SESSION_SIZE_MAX, Session, SessionId,
    invite::{Asked, Invite, Offer, Signatures},
};
use crate::part::Credentials;

/// Most bytes of any message: an invitation with every change of stewards that there can be.
pub const MESSAGE_MAX: usize = 64 + MANDATE_MAX + SHEET_MAX + (CHANGES_MAX + 1) * (CERTIFICATE_MAX + 4);
/// Most bytes of a session with its keys' signatures.
pub const SESSION_MESSAGE_MAX: usize = 16 + SESSION_SIZE_MAX + 31 * 64;
/// Most bytes of an answer, and of everything else that is short.
pub const ANSWER_MAX: usize = 128;

const VERSION: u8 = 1;
const WHAT: &str = "rebuild message";

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// An order, and what is wanted of its helper.
    Invite(Box<Invite>),
    /// The helper's fresh key, signed.
    Key(Offer),
    /// What all parties of the attempt agree on, with the signatures of the helpers' keys in the chain's order.
    Session(Box<(Session, Signatures)>),
    /// The session is in the ledger, durably.
    Ready,
    /// Every helper is ready.
    Go,
    /// Every slice was passed on, and the next one has it.
    Done,
    /// The helper stopped.
    Broken(Break),
    /// No.
    No(Refusal),
    /// What follows is this session's slices.
    Link(SessionId),
    /// A shard's fingerprint.
    Print(Fingerprint),
}

/// Where a chain broke, by the word of the helper that stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Nothing came from the one before, or it stopped coming.
    Previous,
    /// The next one could not be reached, or stopped taking.
    Next,
    /// At the helper itself: its shard could not be read.
    Own,
}

/// Why a helper does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It helps as many as it can: come again.
    Busy,
    /// It does not know the new holder yet, so not its domain: come again.
    Unknown,
    /// The order, or what came with it, does not hold here.
    Unfit,
    /// It does not have that shard.
    NoShard,
    /// Its ledger says that this session, or one more, is not to be.
    Ledger,
    /// The session is not what was agreed.
    Session,
}

impl Refusal {
    /// Whether asking again after a while may help.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Busy | Self::Unknown)
    }
}

impl Message {
    /// The only encoding.
    ///
    /// # Errors
    /// An order with a field out of its domain.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = vec![VERSION];
        match self {
            Self::Invite(invite) => put_invite(&mut out, invite)?,
            Self::Key(offer) => {
                out.push(2);
                out.extend_from_slice(offer.key.as_bytes());
                out.extend_from_slice(&offer.signature);
            }
            Self::Session(both) => {
                out.push(3);
                put_bytes(&mut out, &both.0.encode());
                both.1.iter().for_each(|signature| out.extend_from_slice(signature));
            }
            Self::Ready => out.push(4),
            Self::Go => out.push(5),
            Self::Done => out.push(6),
            Self::Broken(at) => out.extend_from_slice(&[7, *at as u8]),
            Self::No(why) => out.extend_from_slice(&[8, *why as u8]),
            Self::Link(id) => {
                out.push(9);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Print(print) => {
                out.push(10);
                out.extend_from_slice(print.as_bytes());
            }
        }
        Ok(out)
    }

    /// Reads a message, whoever sent it. Nothing in it is checked but its form.
    ///
    /// # Errors
    /// What is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: MESSAGE_MAX, found: bytes.len() });
        }
        let mut left = Left(bytes);
        if left.byte()? != VERSION {
            return Err(invalid("unknown version"));
        }
        let message = match left.byte()? {
            1 => Self::Invite(Box::new(left.invite()?)),
            2 => Self::Key(Offer { key: EphemeralKey::from_bytes(left.array()?)?, signature: left.array()? }),
            3 => {
                let session = Session::decode(left.bytes(SESSION_SIZE_MAX)?)?;
                let signatures = session.links().iter().map(|_| left.array()).collect::<Result<_, _>>()?;
                Self::Session(Box::new((session, signatures)))
            }
            4 => Self::Ready,
            5 => Self::Go,
            6 => Self::Done,
            7 => Self::Broken(left.one_of(&[Break::Previous, Break::Next, Break::Own])?),
            8 => Self::No(left.one_of(&[
                Refusal::Busy,
                Refusal::Unknown,
                Refusal::Unfit,
                Refusal::NoShard,
                Refusal::Ledger,
                Refusal::Session,
            ])?),
            9 => Self::Link(SessionId::from_bytes(left.array()?)),
            10 => Self::Print(Fingerprint::from_bytes(left.array::<FINGERPRINT_SIZE>()?)),
            _ => return Err(invalid("unknown kind")),
        };
        if left.0.is_empty() { Ok(message) } else { Err(invalid("more than one message")) }
    }
}

fn put_invite(out: &mut Vec<u8>, invite: &Invite) -> Result<(), DecodeError> {
    out.push(1);
    put_bytes(out, &invite.credentials.mandate);
    let changes = &invite.credentials.changes;
    out.push(u8::try_from(changes.len()).map_err(|_| invalid("more changes of stewards than there may be"))?);
    for certificate in changes.iter().chain([&invite.credentials.certificate]) {
        put_bytes(out, &certificate.encode()?);
    }
    put_bytes(out, &invite.sheet);
    out.push(invite.ordinal);
    match &invite.asked {
        Asked::Help { attempt } => {
            out.push(0);
            out.extend_from_slice(&attempt.to_le_bytes());
        }
        Asked::Print { seed } => {
            out.push(1);
            out.extend_from_slice(seed);
        }
    }
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

const fn invalid(why: &'static str) -> DecodeError {
    DecodeError::Invalid { what: WHAT, why }
}

/// What is left to be read.
struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn raw(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let found = self.0.len();
        let truncated = DecodeError::Truncated { what: WHAT, needed: length, found };
        let (head, rest) = self.0.split_at_checked(length).ok_or(truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.raw(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn bytes(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let found = u32::from_le_bytes(self.array()?) as usize;
        if found > limit {
            return Err(DecodeError::TooLarge { what: WHAT, limit, found });
        }
        self.raw(found)
    }

    /// The value of an enumeration that has this number.
    fn one_of<T: Copy>(&mut self, values: &[T]) -> Result<T, DecodeError> {
        values.get(usize::from(self.byte()?)).copied().ok_or_else(|| invalid("unknown reason"))
    }

    fn invite(&mut self) -> Result<Invite, DecodeError> {
        let mandate = self.bytes(MANDATE_MAX)?.to_vec();
        let count = usize::from(self.byte()?);
        if count > CHANGES_MAX {
            return Err(invalid("more changes of stewards than there may be"));
        }
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(Certificate::decode(self.bytes(CERTIFICATE_MAX)?)?);
        }
        let certificate = Certificate::decode(self.bytes(CERTIFICATE_MAX)?)?;
        let credentials = Credentials { mandate, changes, certificate };
        let (sheet, ordinal) = (self.bytes(SHEET_MAX)?.to_vec(), self.byte()?);
        let asked = match self.byte()? {
            0 => Asked::Help { attempt: u16::from_le_bytes(self.array()?) },
            1 => Asked::Print { seed: self.array()? },
            _ => return Err(invalid("unknown wish")),
        };
        Ok(Invite { credentials, sheet, ordinal, asked })
    }
}
