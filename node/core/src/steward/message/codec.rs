//! A message's bytes, as a part of a [`Request`](crate::steward::wire::Request).
//!
//! Layout: kind · fields, numbers in minimal LEB128, `bytes` with their length before them. Kinds: `1` propose: bytes order,
//! vote 64; `2` vote: group 32, order 32, vote 64; `3` certified: bytes certificate; `4` taken: bytes certificate, bytes sealed;
//! `5` failed: group 32, order 32, failure; `6` compare: group 32, generation, digest 32; `7` map: group 32, changes, past, entries;
//! `8` record: bytes record, changes, past, entries; `21` tokens: group 32, option of bytes booklet, option of bytes spare. Failure: `1` refused, `2` missing: peer 32, `3` wrong: option of peer 32. Changes:
//! list of bytes certificate. Past: list of (bytes mandate, changes). Entries: list of (bytes certificate, bytes sealed).
//!
//! Bounded: certificates, sealed words and counts have their own limits, each checked before memory is taken. Entries that do
//! not fit into a message are left out by the sender, the oldest first.

use std::cmp::Reverse;

use cairn_proto::{
    Certificate, DecodeError, GroupId, GroupRecord, Order, PeerKey,
    layout::{Reader, at_most, put_bytes, put_number, put_option},
    mandate::{GROUP_RECORD_MAX, MANDATE_MAX},
    order::{CERTIFICATE_MAX, CHANGES_MAX, ORDER_MAX},
    tokens::BOOKLET_MAX,
};

use super::{Failure, PAST_MAX, Past, Say};
use crate::steward::watched::ENTRIES_MAX;

/// Bytes of a new holder's sealed word: its fixed fields and the shortest and longest time.
const SEALED: (usize, usize) = (227, 236);
/// Fewest bytes of a certificate: an order that retires a steward, and no signature.
const CERTIFICATE_MIN: usize = 88;

/// An order that was carried out, with the new holder's word.
type Entry = (Certificate, Vec<u8>);

impl Failure {
    pub(in crate::steward) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Refused => out.push(1),
            Self::Missing(peer) => {
                out.push(2);
                out.extend_from_slice(peer.as_bytes());
            }
            Self::Wrong(peer) => {
                out.push(3);
                put_option(out, peer.as_ref(), |out, peer| out.extend_from_slice(peer.as_bytes()));
            }
        }
    }

    pub(in crate::steward) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let peer = |r: &mut Reader<'_>| r.array().map(PeerKey::from_bytes);
        Ok(match r.byte()? {
            1 => Self::Refused,
            2 => Self::Missing(peer(r)?),
            3 => Self::Wrong(r.option(peer)?),
            _ => return Err(r.invalid("unknown failure")),
        })
    }
}

impl Say {
    /// Appends the bytes, `limit` at most in all.
    pub(in crate::steward) fn put(&self, out: &mut Vec<u8>, limit: usize) -> Result<(), DecodeError> {
        match self {
            Self::Propose { order, vote } => {
                out.push(1);
                put_bytes(out, &order.encode()?);
                out.extend_from_slice(vote);
            }
            Self::Vote { group, order, vote } => {
                out.push(2);
                out.extend_from_slice(group.as_bytes());
                out.extend_from_slice(order);
                out.extend_from_slice(vote);
            }
            Self::Certified { certificate } => {
                out.push(3);
                put_bytes(out, &certificate.encode()?);
            }
            Self::Taken { certificate, sealed } => {
                out.push(4);
                put_bytes(out, &certificate.encode()?);
                put_bytes(out, sealed);
            }
            Self::Failed { group, order, failure } => {
                out.push(5);
                out.extend_from_slice(group.as_bytes());
                out.extend_from_slice(order);
                failure.put(out);
            }
            Self::Compare { group, generation, digest } => {
                out.push(6);
                out.extend_from_slice(group.as_bytes());
                put_number(out, *generation);
                out.extend_from_slice(digest);
            }
            Self::Map { group, changes, past, entries } => {
                out.push(7);
                out.extend_from_slice(group.as_bytes());
                put_changes(out, changes)?;
                put_past(out, past)?;
                put_entries(out, entries, limit)?;
            }
            Self::Record { record, changes, past, entries } => {
                out.push(8);
                put_bytes(out, &record.encode());
                put_changes(out, changes)?;
                put_past(out, past)?;
                put_entries(out, entries, limit)?;
            }
            Self::Tokens { group, own, spare } => {
                out.push(21);
                out.extend_from_slice(group.as_bytes());
                put_option(out, own.as_ref(), |out, booklet| put_bytes(out, booklet));
                put_option(out, spare.as_ref(), |out, booklet| put_bytes(out, booklet));
            }
        }
        Ok(())
    }

    pub(in crate::steward) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let group = |r: &mut Reader<'_>| r.array().map(GroupId::from_bytes);
        Ok(match r.byte()? {
            1 => Self::Propose { order: Order::decode(r.bytes(ORDER_MAX)?)?, vote: r.array()? },
            2 => Self::Vote { group: group(r)?, order: r.array()?, vote: r.array()? },
            3 => Self::Certified { certificate: read_certificate(r)? },
            4 => Self::Taken { certificate: read_certificate(r)?, sealed: read_sealed(r)? },
            5 => Self::Failed { group: group(r)?, order: r.array()?, failure: Failure::read(r)? },
            6 => Self::Compare { group: group(r)?, generation: r.u64()?, digest: r.array()? },
            7 => Self::Map {
                group: group(r)?,
                changes: read_changes(r)?,
                past: read_past(r)?,
                entries: read_entries(r)?,
            },
            8 => Self::Record {
                record: Box::new(GroupRecord::decode(r.bytes(GROUP_RECORD_MAX)?)?),
                changes: read_changes(r)?,
                past: read_past(r)?,
                entries: read_entries(r)?,
            },
            21 => Self::Tokens { group: group(r)?, own: r.option(booklet)?, spare: r.option(booklet)? },
            _ => return Err(r.invalid("unknown kind of saying")),
        })
    }
}

fn booklet(r: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    Ok(r.bytes(BOOKLET_MAX)?.to_vec())
}

fn read_certificate(r: &mut Reader<'_>) -> Result<Certificate, DecodeError> {
    Certificate::decode(r.bytes(CERTIFICATE_MAX)?)
}

fn read_sealed(r: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let sealed = r.bytes(SEALED.1)?;
    if sealed.len() < SEALED.0 {
        return Err(r.invalid("a holder's word that is too short"));
    }
    Ok(sealed.to_vec())
}

/// Appends all of them: a chain with one left out does not hold.
pub(in crate::steward) fn put_changes(out: &mut Vec<u8>, changes: &[Certificate]) -> Result<(), DecodeError> {
    at_most("changes of stewards", CHANGES_MAX, changes.len())?;
    put_number(out, changes.len() as u64);
    for change in changes {
        put_bytes(out, &change.encode()?);
    }
    Ok(())
}

pub(in crate::steward) fn read_changes(r: &mut Reader<'_>) -> Result<Vec<Certificate>, DecodeError> {
    let count = r.count(CHANGES_MAX, CERTIFICATE_MIN)?;
    (0..count).map(|_| read_certificate(r)).collect()
}

/// Appends older mandates, each with all of its changes.
pub(in crate::steward) fn put_past(out: &mut Vec<u8>, past: &[Past]) -> Result<(), DecodeError> {
    at_most("older mandates", PAST_MAX, past.len())?;
    put_number(out, past.len() as u64);
    for past in past {
        put_bytes(out, &past.mandate);
        put_changes(out, &past.changes)?;
    }
    Ok(())
}

pub(in crate::steward) fn read_past(r: &mut Reader<'_>) -> Result<Vec<Past>, DecodeError> {
    // A length and a count: the shortest.
    let count = r.count(PAST_MAX, 2)?;
    (0..count).map(|_| Ok(Past { mandate: r.bytes(MANDATE_MAX)?.to_vec(), changes: read_changes(r)? })).collect()
}

/// Appends as many as leave `out` within `limit`, the newest, in the order in which they come.
pub(in crate::steward) fn put_entries(out: &mut Vec<u8>, entries: &[Entry], limit: usize) -> Result<(), DecodeError> {
    let mut newest: Vec<usize> = (0..entries.len()).collect();
    newest.sort_by_key(|at| Reverse(entries[*at].0.order.issued));
    let mut room = limit.saturating_sub(out.len() + 2);
    let mut fitting = std::collections::BTreeMap::new();
    for at in newest.into_iter().take(ENTRIES_MAX) {
        let (certificate, sealed) = &entries[at];
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, &certificate.encode()?);
        put_bytes(&mut bytes, sealed);
        let Some(left) = room.checked_sub(bytes.len()) else { break };
        room = left;
        fitting.insert(at, bytes);
    }
    put_number(out, fitting.len() as u64);
    fitting.values().for_each(|bytes| out.extend_from_slice(bytes));
    Ok(())
}

pub(in crate::steward) fn read_entries(r: &mut Reader<'_>) -> Result<Vec<Entry>, DecodeError> {
    let count = r.count(ENTRIES_MAX, CERTIFICATE_MIN + SEALED.0)?;
    (0..count).map(|_| Ok((read_certificate(r)?, read_sealed(r)?))).collect()
}
