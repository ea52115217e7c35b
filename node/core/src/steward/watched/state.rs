//! A group's state as bytes, so that a steward that restarts knows what it signed and what is under way. Local, never sent.
//!
//! ```text
//! version u8 = 3
//! record (length, bytes), introducer 32
//! changes (count; length, certificate)
//! past (count; mandate (length, bytes), changes (count; length, certificate))
//! entries (count; length, certificate; length, taken)
//! lacks (count; slot, peer 32, ordinals 32)
//! broken words (count; slot, peer 32, times, last)
//! distrusted (count; slot, peer 32, ordinals 32, until)
//! promised (count; subject, order 32, until, proposer 32)
//! under way (count; length, certificate; proposer 32)
//! patience (count; subject, since, failures, next, avoid (count; peer 32, until), proposers (count; peer 32, failures, last))
//! inventory (count; slot, peer 32, asked)
//! compared, month began, bytes ordered in it, bytes signed for (count; peer 32, bytes)
//! log (count; each as in `steward::log`)
//! tokens (count; slot, ordinal, root 8, nonce 32, digest 16, used u8), asked with them (count; slot, peer 32, due, silence u8, right u8),
//!   spare (option; length, booklet), given to (option; peer 32, times u8, at)
//! ```
//!
//! Numbers in minimal LEB128. A subject is `0` and a slot, `1` and a steward's key, `2`, or `3`. Maps are in the order of their keys.
//!
//! Whoever keeps the bytes keeps a checksum of them: votes of orders are not checked again, only what anyhow is when a record,
//! a change or a holder's word is opened. Bytes that are damaged all the same are refused or give some state; they never panic.
//!
//! Version 2 ended with the log, and is read: its groups have no tokens.
//!
//! Proposals that wait for votes are not in it. What was signed for them is, so nothing is signed twice; they are made
//! again when that is over.

use std::collections::BTreeMap;

use cairn_proto::{
    Certificate, DecodeError, GroupRecord, Ordinals, PeerKey, Slot, Taken, Timestamp,
    layout::{Reader, at_most, put_bytes, put_number, put_option},
    mandate::{GROUP_RECORD_MAX, MANDATE_MAX, STEWARDS_MAX},
    manifest::HOLDERS_MAX,
    order::{CERTIFICATE_MAX, CHANGES_MAX},
    tokens::{BOOKLET_MAX, TOKEN_ROW, TokenRow},
};

use super::{
    super::{
        log::{Happening, LOG_MAX},
        message::{PAST_MAX, Past},
        subject_of,
    },
    ENTRIES_MAX, Entry, Pace, Patience, Promise, Subject, UnderWay, Watched,
    audits::Distrust,
    chain::NOBODY,
    tokens::{Asked, Handed, Kept, POOL_OF_SLOT_MAX, Tokens},
    turns::{AVOIDED_MAX, PROPOSERS_MAX},
};

const WHAT: &str = "steward's group";
const VERSION: u8 = 3;
/// Before there were tokens.
const BEFORE_TOKENS: u8 = 2;
/// Slots, stewards that were lost, one more steward, and a copy apart.
const SUBJECTS_MAX: usize = SLOTS_MAX + STEWARDS_MAX + CHANGES_MAX + 2;
const SLOTS_MAX: usize = cairn_proto::code_params::SLOTS_MAX as usize;
/// Everybody who was ever given something.
const GIVEN_MAX: usize = SLOTS_MAX * HOLDERS_MAX + ENTRIES_MAX;
/// Most bytes of a sealed [`Taken`].
const TAKEN_MAX: usize = 320;
/// Most bytes of a happening.
const HAPPENING_MAX: usize = 96;
/// Stewards for whom something was signed in a month.
const SPENDERS_MAX: usize = STEWARDS_MAX + CHANGES_MAX;
/// Most bytes of a state, 8 MiB; a usual one is some 70 KiB.
pub(in super::super) const STATE_MAX: usize = 64
    + GROUP_RECORD_MAX
    + (CHANGES_MAX + SLOTS_MAX) * (CERTIFICATE_MAX + 4)
    + ENTRIES_MAX * (CERTIFICATE_MAX + TAKEN_MAX + 8)
    + GIVEN_MAX * (65 + 75 + 43 + 48)
    + PAST_MAX * (MANDATE_MAX + CHANGES_MAX * (CERTIFICATE_MAX + 4))
    + SUBJECTS_MAX * (33 + 74)
    + SUBJECTS_MAX * (33 + 26 + (AVOIDED_MAX + PROPOSERS_MAX) * 47)
    + SPENDERS_MAX * 42
    + LOG_MAX * HAPPENING_MAX
    + SLOTS_MAX * POOL_OF_SLOT_MAX * (TOKEN_ROW + 2)
    + GIVEN_MAX * 45
    + BOOKLET_MAX
    + 64;

fn put_subject(out: &mut Vec<u8>, subject: &Subject) {
    match subject {
        Subject::Slot(slot) => out.extend_from_slice(&[0, *slot]),
        Subject::Steward(peer) => {
            out.push(1);
            out.extend_from_slice(peer.as_bytes());
        }
        Subject::Another => out.push(2),
        Subject::Apart => out.push(3),
    }
}

fn subject(r: &mut Reader<'_>) -> Result<Subject, DecodeError> {
    match r.byte()? {
        0 => Ok(Subject::Slot(Slot::new(r.byte()?)?.as_u8())),
        1 => Ok(Subject::Steward(peer(r)?)),
        2 => Ok(Subject::Another),
        3 => Ok(Subject::Apart),
        _ => Err(r.invalid("unknown subject")),
    }
}

fn peer(r: &mut Reader<'_>) -> Result<PeerKey, DecodeError> {
    r.array().map(PeerKey::from_bytes)
}

fn time(r: &mut Reader<'_>) -> Result<Timestamp, DecodeError> {
    r.u64().map(Timestamp)
}

fn put_certificate(out: &mut Vec<u8>, certificate: &Certificate) {
    // One that was read or made here has an encoding.
    put_bytes(out, &certificate.encode().unwrap_or_default());
}

fn certificate(r: &mut Reader<'_>) -> Result<Certificate, DecodeError> {
    Certificate::decode(r.bytes(CERTIFICATE_MAX)?)
}

fn put_changes(out: &mut Vec<u8>, changes: &[Certificate]) {
    put_number(out, changes.len() as u64);
    changes.iter().for_each(|change| put_certificate(out, change));
}

fn changes(r: &mut Reader<'_>) -> Result<Vec<Certificate>, DecodeError> {
    let count = r.count(CHANGES_MAX, 1)?;
    (0..count).map(|_| certificate(r)).collect()
}

/// A map whose keys ascend, as it was written.
fn map<K: Ord, V>(
    r: &mut Reader<'_>,
    most: usize,
    each: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<(K, V), DecodeError>,
) -> Result<BTreeMap<K, V>, DecodeError> {
    let count = r.count(most, each)?;
    let mut map = BTreeMap::new();
    for _ in 0..count {
        let (key, value) = read(r)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(r.invalid("keys out of order"));
        }
        map.insert(key, value);
    }
    Ok(map)
}

impl Watched {
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_bytes(&mut out, &self.record.encode());
        out.extend_from_slice(self.introducer.as_bytes());
        put_changes(&mut out, self.chain.changes());
        let past = self.chain.past();
        put_number(&mut out, past.len() as u64);
        for past in &past {
            put_bytes(&mut out, &past.mandate);
            put_changes(&mut out, &past.changes);
        }
        put_number(&mut out, self.entries.len() as u64);
        for entry in self.entries.values() {
            put_certificate(&mut out, &entry.certificate);
            put_bytes(&mut out, &entry.sealed);
        }
        put_number(&mut out, self.lacks.len() as u64);
        for ((slot, peer), lacks) in &self.lacks {
            out.push(*slot);
            out.extend_from_slice(&[*peer.as_bytes(), *lacks.as_bytes()].concat());
        }
        put_number(&mut out, self.broken.len() as u64);
        for ((slot, peer), (times, last)) in &self.broken {
            out.push(*slot);
            out.extend_from_slice(peer.as_bytes());
            put_number(&mut out, (*times).into());
            put_number(&mut out, last.0);
        }
        put_number(&mut out, self.distrusted.len() as u64);
        for ((slot, peer), distrust) in &self.distrusted {
            out.push(*slot);
            out.extend_from_slice(&[*peer.as_bytes(), *distrust.ordinals.as_bytes()].concat());
            put_number(&mut out, distrust.until.0);
        }
        put_number(&mut out, self.promised.len() as u64);
        for (subject, promise) in &self.promised {
            put_subject(&mut out, subject);
            out.extend_from_slice(&promise.order);
            put_number(&mut out, promise.until.0);
            out.extend_from_slice(promise.by.as_bytes());
        }
        put_number(&mut out, self.under_way.len() as u64);
        for given in self.under_way.values() {
            put_certificate(&mut out, &given.certificate);
            out.extend_from_slice(given.by.as_bytes());
        }
        put_number(&mut out, self.patience.len() as u64);
        for (subject, patience) in &self.patience {
            put_subject(&mut out, subject);
            put_number(&mut out, patience.since.0);
            put_number(&mut out, patience.failures.into());
            put_number(&mut out, patience.next.0);
            put_number(&mut out, patience.avoid.len() as u64);
            for (peer, until) in &patience.avoid {
                out.extend_from_slice(peer.as_bytes());
                put_number(&mut out, until.0);
            }
            put_number(&mut out, patience.proposers.len() as u64);
            for (peer, (failures, last)) in &patience.proposers {
                out.extend_from_slice(peer.as_bytes());
                put_number(&mut out, (*failures).into());
                put_number(&mut out, last.0);
            }
        }
        put_number(&mut out, self.asked.len() as u64);
        for ((slot, peer), at) in &self.asked {
            out.push(*slot);
            out.extend_from_slice(peer.as_bytes());
            put_number(&mut out, at.0);
        }
        for number in [self.compared.0, self.spent.began.0, self.spent.bytes] {
            put_number(&mut out, number);
        }
        put_number(&mut out, self.spent.by.len() as u64);
        for (peer, bytes) in &self.spent.by {
            out.extend_from_slice(peer.as_bytes());
            put_number(&mut out, *bytes);
        }
        put_number(&mut out, self.log.len() as u64);
        self.log.iter().for_each(|entry| entry.put(&mut out));
        self.tokens.put(&mut out);
        out
    }

    /// Reads what [`Watched::encode`] gave.
    pub(in super::super) fn decode(bytes: &[u8], now: Timestamp) -> Result<Self, DecodeError> {
        at_most(WHAT, STATE_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        let old = bytes.first() == Some(&BEFORE_TOKENS);
        r.version(if old { BEFORE_TOKENS } else { VERSION })?;
        let record = GroupRecord::decode(r.bytes(GROUP_RECORD_MAX)?)?;
        let introducer = peer(&mut r)?;
        let mut group = Self::new(record, introducer, &changes(&mut r)?, NOBODY, now)?;
        let count = r.count(PAST_MAX, 2)?;
        let past = |r: &mut Reader<'_>| Ok(Past { mandate: r.bytes(MANDATE_MAX)?.to_vec(), changes: changes(r)? });
        let past = (0..count).map(|_| past(&mut r)).collect::<Result<Vec<_>, DecodeError>>()?;
        group.chain.offer_past(&past, NOBODY);
        if group.chain.past() != past {
            return Err(r.invalid("mandates that are not older ones of the group"));
        }
        group.entries = map(&mut r, ENTRIES_MAX, 2, |r| {
            let certificate = certificate(r)?;
            let sealed = r.bytes(TAKEN_MAX)?.to_vec();
            let taken = Taken::open(&sealed)?;
            let id = certificate.order.id()?;
            let same = taken.order == id && certificate.order.action.slot() == Some(taken.slot);
            if !same || certificate.order.action.to() != Some(taken.holder) {
                return Err(r.invalid("an entry of another order"));
            }
            Ok((id, Entry::new(certificate, sealed, taken)))
        })?;
        group.lacks = map(&mut r, GIVEN_MAX, 65, |r| Ok(((r.byte()?, peer(r)?), Ordinals::from_bytes(r.array()?))))?;
        group.broken = map(&mut r, GIVEN_MAX, 35, |r| Ok(((r.byte()?, peer(r)?), (r.u32()?, time(r)?))))?;
        group.distrusted = map(&mut r, GIVEN_MAX, 66, |r| {
            let key = (r.byte()?, peer(r)?);
            Ok((key, Distrust { ordinals: Ordinals::from_bytes(r.array()?), until: time(r)? }))
        })?;
        group.promised = map(&mut r, SUBJECTS_MAX, 34, |r| {
            Ok((subject(r)?, Promise { order: r.array()?, until: time(r)?, by: peer(r)? }))
        })?;
        group.under_way = map(&mut r, SUBJECTS_MAX, 1, |r| {
            let certificate = certificate(r)?;
            match certificate.order.action.slot() {
                Some(_) => {
                    Ok((subject_of(&certificate.order.action), UnderWay { certificate, by: peer(r)?, pace: Pace::NEW }))
                }
                None => Err(r.invalid("a change of stewards is never under way")),
            }
        })?;
        group.patience = map(&mut r, SUBJECTS_MAX, 5, |r| {
            let (subject, since, failures, next) = (subject(r)?, time(r)?, r.u32()?, time(r)?);
            let avoid = map(r, AVOIDED_MAX, 33, |r| Ok((peer(r)?, time(r)?)))?;
            let proposers = map(r, PROPOSERS_MAX, 34, |r| Ok((peer(r)?, (r.u32()?, time(r)?))))?;
            Ok((subject, Patience { since, failures, next, avoid, proposers, vain: false }))
        })?;
        group.asked = map(&mut r, GIVEN_MAX, 34, |r| Ok(((r.byte()?, peer(r)?), time(r)?)))?;
        group.compared = time(&mut r)?.min(now);
        (group.spent.began, group.spent.bytes) = (time(&mut r)?, r.u64()?);
        group.spent.by = map(&mut r, SPENDERS_MAX, 33, |r| Ok((peer(r)?, r.u64()?)))?;
        let count = r.count(LOG_MAX, 2)?;
        group.log = (0..count).map(|_| Happening::read(&mut r)).collect::<Result<_, _>>()?;
        if !old {
            group.tokens = Tokens::read(&mut r)?;
        }
        r.finish()?;
        group.reckon();
        Ok(group)
    }
}

impl Tokens {
    fn put(&self, out: &mut Vec<u8>) {
        put_number(out, self.pool.len() as u64);
        for kept in self.pool.values() {
            out.push(kept.slot);
            kept.row.put(out);
            out.push(kept.used.into());
        }
        put_number(out, self.asked.len() as u64);
        for ((slot, peer), asked) in &self.asked {
            out.push(*slot);
            out.extend_from_slice(peer.as_bytes());
            put_number(out, asked.due.0);
            out.extend_from_slice(&[asked.silence, asked.right]);
        }
        put_option(out, self.spare.as_ref(), |out, spare| put_bytes(out, spare));
        put_option(out, self.handed, |out, handed| {
            out.extend_from_slice(handed.to.as_bytes());
            out.push(handed.times);
            put_number(out, handed.at.0);
        });
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pool = map(r, SLOTS_MAX * POOL_OF_SLOT_MAX, TOKEN_ROW + 2, |r| {
            let (slot, row) = (Slot::new(r.byte()?)?.as_u8(), TokenRow::read(r)?);
            Ok((row.nonce, Kept { slot, row, used: r.flag()? }))
        })?;
        let asked = map(r, GIVEN_MAX, 36, |r| {
            let key = (r.byte()?, peer(r)?);
            Ok((key, Asked::new(time(r)?, r.byte()?, r.byte()?)))
        })?;
        let spare = r.option(|r| Ok(r.bytes(BOOKLET_MAX)?.to_vec()))?;
        let handed = r.option(|r| Ok(Handed { to: peer(r)?, times: r.byte()?, at: time(r)? }))?;
        Ok(Self { pool, asked, spare, handed })
    }
}
