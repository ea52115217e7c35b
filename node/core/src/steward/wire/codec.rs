//! Bytes of what travels on the stewards' protocol.
//!
//! Request: version `1` · kind · fields. Kinds: `1` say: [`Say`]; `2` give: bytes credentials, bytes sheet, previous 32; `3`
//! register: bytes record; `4` ask: ticket 68, bytes grant; `5` duty, `6` findings, `7` challenge, `8` notice: as in [`super::care`]. Answer: version `1` · kind · fields: `1` done; `2` map: bytes mandate,
//! list of generations, changes, past, list of log entries, entries; `3` refused: `1` busy, `2` not a steward, `3` old, `4` forged, `5` full;
//! `4` audit: bytes response; `5` kept: list of bytes, `0` unknown, `1` needed, `2` elsewhere.
//! Numbers in minimal LEB128; [`Say`], changes, entries and log entries as in [`super::super::message`] and [`super::super::log`].

use cairn_proto::{
    DecodeError, GroupTicket,
    audit::RESPONSE_MAX,
    code_params::SLOTS_MAX,
    group::TICKET_SIZE,
    layout::{Reader, at_most, put_bytes, put_number},
    mandate::{GROUP_RECORD_MAX, MANDATE_MAX, SHEET_MAX},
};

use super::{
    Answer, Duty, Findings, GroupMap, Kept, Notice, Questioned, Refusal, Request,
    care::{AUDIT_ANSWER_MAX, KEPT_ANSWER_MAX, NOTICE_GROUPS_MAX},
};
use crate::{
    part::{CREDENTIALS_MAX, Credentials},
    steward::{
        log::{Happening, LOG_MAX},
        message::{Say, put_changes, put_entries, put_past, read_changes, read_entries, read_past},
    },
};

/// Most bytes of a message: a group's whole map, [`LOG_MAX`] log entries and 2048 carried out orders, each some 2 KiB at most and one
/// with the default code. What does not fit stays with the sender: the oldest orders.
pub const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of an answer that is no map.
pub const SHORT_ANSWER_MAX: usize = 8;
/// Most bytes of a sealed grant; it has 178.
const GRANT_MAX: usize = 256;

const REQUEST: &str = "stewards' request";
const ANSWER: &str = "stewards' answer";
const VERSION: u8 = 1;

impl Request {
    /// The bytes, at most [`MESSAGE_MAX`].
    ///
    /// # Errors
    /// A part over its limit or out of its domain.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = vec![VERSION];
        match self {
            Self::Say(say) => {
                out.push(1);
                say.put(&mut out, MESSAGE_MAX)?;
            }
            Self::Give { credentials, sheet, previous } => {
                out.push(2);
                put_bytes(&mut out, &credentials.encode()?);
                put_bytes(&mut out, sheet);
                out.extend_from_slice(previous);
            }
            Self::Register { record } => {
                out.push(3);
                put_bytes(&mut out, record);
            }
            Self::Ask { ticket, grant } => {
                out.push(4);
                out.extend_from_slice(&ticket.encode());
                put_bytes(&mut out, grant);
            }
            Self::Duty(duty) => {
                out.push(5);
                duty.put(&mut out);
            }
            Self::Findings(findings) => {
                out.push(6);
                findings.put(&mut out);
            }
            Self::Challenge(questioned) => {
                out.push(7);
                questioned.put(&mut out);
            }
            Self::Notice(notice) => {
                out.push(8);
                notice.put(&mut out)?;
            }
        }
        at_most(REQUEST, MESSAGE_MAX, out.len())?;
        Ok(out)
    }

    /// Reads it. Nothing in it may be believed before signatures are checked.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(REQUEST, MESSAGE_MAX, bytes.len())?;
        let mut r = Reader::new(REQUEST, bytes);
        r.version(VERSION)?;
        let request = match r.byte()? {
            1 => Self::Say(Box::new(Say::read(&mut r)?)),
            2 => Self::Give {
                credentials: Box::new(Credentials::decode(r.bytes(CREDENTIALS_MAX)?)?),
                sheet: r.bytes(SHEET_MAX)?.to_vec(),
                previous: r.array()?,
            },
            3 => Self::Register { record: r.bytes(GROUP_RECORD_MAX)?.to_vec() },
            4 => Self::Ask { ticket: GroupTicket::decode(r.raw(TICKET_SIZE)?)?, grant: r.bytes(GRANT_MAX)?.to_vec() },
            5 => Self::Duty(Box::new(Duty::read(&mut r)?)),
            6 => Self::Findings(Box::new(Findings::read(&mut r)?)),
            7 => Self::Challenge(Box::new(Questioned::read(&mut r, GRANT_MAX)?)),
            8 => Self::Notice(Notice::read(&mut r)?),
            _ => return Err(r.invalid("unknown kind")),
        };
        r.finish()?;
        Ok(request)
    }

    /// Most bytes of what may be answered to it.
    #[must_use]
    pub const fn answer_max(&self) -> usize {
        match self {
            Self::Ask { .. } => MESSAGE_MAX,
            Self::Challenge(_) => AUDIT_ANSWER_MAX,
            Self::Notice(notice) if notice.asked() > 0 => KEPT_ANSWER_MAX,
            Self::Say(_)
            | Self::Give { .. }
            | Self::Register { .. }
            | Self::Duty(_)
            | Self::Findings(_)
            | Self::Notice(_) => SHORT_ANSWER_MAX,
        }
    }
}

impl Refusal {
    const ALL: [Self; 5] = [Self::Busy, Self::NotSteward, Self::Old, Self::Forged, Self::Full];

    const fn code(self) -> u8 {
        match self {
            Self::Busy => 1,
            Self::NotSteward => 2,
            Self::Old => 3,
            Self::Forged => 4,
            Self::Full => 5,
        }
    }
}

impl Answer {
    /// The bytes, at most [`MESSAGE_MAX`].
    ///
    /// # Errors
    /// A part over its limit or out of its domain.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = vec![VERSION];
        match self {
            Self::Done => out.push(1),
            Self::Map(map) => {
                out.push(2);
                map.put(&mut out)?;
            }
            Self::Refused(why) => out.extend_from_slice(&[3, why.code()]),
            Self::Audit(response) => {
                out.push(4);
                put_bytes(&mut out, response);
            }
            Self::Kept(kept) => {
                at_most(ANSWER, NOTICE_GROUPS_MAX, kept.len())?;
                out.push(5);
                put_number(&mut out, kept.len() as u64);
                out.extend(kept.iter().map(|kept| kept.code()));
            }
        }
        at_most(ANSWER, MESSAGE_MAX, out.len())?;
        Ok(out)
    }

    /// Reads it. Nothing in it may be believed before signatures are checked.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(ANSWER, MESSAGE_MAX, bytes.len())?;
        let mut r = Reader::new(ANSWER, bytes);
        r.version(VERSION)?;
        let answer = match r.byte()? {
            1 => Self::Done,
            2 => Self::Map(Box::new(GroupMap::read(&mut r)?)),
            3 => {
                let code = r.byte()?;
                let why = Refusal::ALL.into_iter().find(|why| why.code() == code);
                Self::Refused(why.ok_or_else(|| r.invalid("unknown refusal"))?)
            }
            4 => Self::Audit(r.bytes(RESPONSE_MAX)?.to_vec()),
            5 => {
                let count = r.count(NOTICE_GROUPS_MAX, 1)?;
                let mut one = || Kept::of(r.byte()?).ok_or_else(|| r.invalid("unknown answer to who leaves"));
                Self::Kept((0..count).map(|_| one()).collect::<Result<_, _>>()?)
            }
            _ => return Err(r.invalid("unknown kind")),
        };
        r.finish()?;
        Ok(answer)
    }
}

impl GroupMap {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        at_most("sheets' generations", SLOTS_MAX.into(), self.sheets.len())?;
        put_bytes(out, &self.mandate);
        put_number(out, self.sheets.len() as u64);
        self.sheets.iter().for_each(|generation| put_number(out, *generation));
        put_changes(out, &self.changes)?;
        put_past(out, &self.past)?;
        // The newest, before the entries, which take what room is left.
        let log = &self.log[self.log.len().saturating_sub(LOG_MAX)..];
        put_number(out, log.len() as u64);
        log.iter().for_each(|entry| entry.put(out));
        put_entries(out, &self.entries, MESSAGE_MAX)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mandate = r.bytes(MANDATE_MAX)?.to_vec();
        let count = r.count(SLOTS_MAX.into(), 1)?;
        let sheets = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
        let changes = read_changes(r)?;
        let past = read_past(r)?;
        // At, kind, slot: the shortest.
        let count = r.count(LOG_MAX, 3)?;
        let log = (0..count).map(|_| Happening::read(r)).collect::<Result<_, _>>()?;
        let entries = read_entries(r)?;
        Ok(Self { mandate, sheets, changes, past, entries, log })
    }
}

#[cfg(test)]
mod tests;
