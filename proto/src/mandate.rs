//! What an owner leaves behind so that a group lives while the owner is away: the mandate (who may do what), one sheet for
//! each slot (who holds it, what it must be), and both together, the group record that stewards keep.
//!
//! Everything is signed with the group's own authority, which its ticket names: whoever has the ticket can check all of it alone,
//! and nothing here names the owner. A new holder is shown the mandate and the sheet of its own slot and no other.
//!
//! - **SEP-1** A sheet is of one slot; a steward's record has all sheets, hashes and peers only, never a byte of a shard.

use ed25519_dalek::SigningKey;

use crate::{
    CodeParams, DecodeError, GroupId, GroupTicket, PeerKey, STRIPES_PER_GROUP_MAX, ShardRoot, Slot, Timestamp,
    group::TICKET_SIZE,
    layout::{Reader, at_most, put_bytes, put_number},
    manifest::HOLDERS_MAX,
    receipt::{WORDS_MAX, WORDS_OF_HOLDER_MAX, WORDS_SIZE_MAX, Word},
    signed,
};

/// Stewards of a group at most: seven watch it, and none of them matters alone.
pub const STEWARDS_MAX: usize = 7;
/// The longest that a mandate may last: thirteen months, so that whoever comes back once a year renews it in time.
pub const MANDATE_MS_MAX: u64 = 396 * 24 * 3600 * 1000;
/// Copies of a shard that a mandate may ask for.
pub const REPLICAS_MAX: u8 = 5;
/// Most bytes of an encoded mandate, its signature included.
pub const MANDATE_MAX: usize = 512;
/// Most bytes of an encoded sheet, its signature included: [`STRIPES_PER_GROUP_MAX`] roots and [`HOLDERS_MAX`] holders.
pub const SHEET_MAX: usize = 64 + 64 + 32 * HOLDERS_MAX + 34 * STRIPES_PER_GROUP_MAX;
/// Most bytes of an encoded group record, 461 KiB: every slot full, as many words as there may be. A usual one has 75.
pub const GROUP_RECORD_MAX: usize = 16 + MANDATE_MAX + 32 * (SHEET_MAX + 3) + 8 + WORDS_SIZE_MAX;

const SIGNATURE: usize = 64;
const MANDATE: &str = "cairn mandate v1";
const SHEET: &str = "cairn slot sheet v1";
const VERSION: u8 = 1;
/// Begins what holders signed for; records without it have nothing there.
const WORDS: u8 = 20;

/// What stewards may order, as a bit set. Reading, deleting and changing the code have no bit: nobody can be given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Powers(u8);

impl Powers {
    /// Copy a shard from a living replica to another peer of its colour.
    pub const COPY: Self = Self(1);
    /// Rebuild a shard, blinded, from k others.
    pub const REBUILD: Self = Self(2);
    /// Put another peer in the place of a lost steward.
    pub const REPLACE: Self = Self(4);
    /// Ask holders to keep shards for longer, as long as the mandate lasts.
    pub const EXTEND: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is allowed.
    #[must_use]
    pub const fn allows(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How many of so many stewards must sign: more than two thirds of four or more, so that two orders always share an honest
/// signer while at most two of seven (one of four) are not; two of three. Of two, one is enough: a group that nobody may
/// repair when one peer is away is worth less than what one peer could waste, and it cannot break separation.
#[must_use]
pub const fn quorum(stewards: usize) -> usize {
    match stewards {
        0 | 1 => stewards,
        2 => 1,
        3 => 2,
        more => 2 * more / 3 + 1,
    }
}

/// How many must sign when stewards themselves change: half of them, so one honest at least where fewer than a third are not. Two lost
/// stewards of four, or three of seven, must not keep the others from putting somebody in their place, or the group is left alone for
/// ever.
#[must_use]
pub const fn half(stewards: usize) -> usize {
    stewards.div_ceil(2)
}

/// The owner's signed leave for the stewards of one group.
///
/// Layout: version `1` · ticket 68 · generation · stewards (count, 32 each) · replicas · powers · bytes a month · issued ·
/// ends, numbers in minimal LEB128 · Ed25519 signature of the group's authority 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mandate {
    /// The group.
    pub ticket: GroupTicket,
    /// The higher one counts.
    pub generation: u64,
    /// Who watches, in order of rank; different peers, 1 to [`STEWARDS_MAX`].
    pub stewards: Vec<PeerKey>,
    /// Holders that every slot is to have.
    pub replicas: u8,
    /// What may be ordered.
    pub powers: Powers,
    /// Bytes that repair may move in thirty days.
    pub monthly_bytes: u64,
    /// When it was given.
    pub issued: Timestamp,
    /// From then on it is worth nothing.
    pub ends: Timestamp,
}

impl Mandate {
    /// Signs with the group's authority, whose public key the ticket must have.
    ///
    /// # Errors
    /// A field out of its domain.
    pub fn seal(&self, authority: &SigningKey) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.ticket.encode());
        put_number(&mut out, self.generation);
        put_number(&mut out, self.stewards.len() as u64);
        for steward in &self.stewards {
            out.extend_from_slice(steward.as_bytes());
        }
        out.extend_from_slice(&[self.replicas, self.powers.0]);
        put_number(&mut out, self.monthly_bytes);
        put_number(&mut out, self.issued.0);
        put_number(&mut out, self.ends.0);
        Ok(signed_with(MANDATE, out, authority))
    }

    /// Checks everything but the time.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn open(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(MANDATE, MANDATE_MAX, bytes.len())?;
        let (body, signature) = split(MANDATE, bytes)?;
        let mandate = Self::read(body)?;
        signed::verify(MANDATE, body, mandate.ticket.authority(), signature)?;
        mandate.check()?;
        Ok(mandate)
    }

    /// The stewards that it names, whoever signed it: for whoever must know of whom it will be asked before it is opened.
    ///
    /// # Errors
    /// Bytes that are no mandate.
    pub fn named_in(bytes: &[u8]) -> Result<Vec<PeerKey>, DecodeError> {
        at_most(MANDATE, MANDATE_MAX, bytes.len())?;
        Ok(Self::read(split(MANDATE, bytes)?.0)?.stewards)
    }

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(MANDATE, body);
        r.version(VERSION)?;
        let ticket = GroupTicket::decode(r.raw(TICKET_SIZE)?)?;
        let generation = r.u64()?;
        let count = r.count(STEWARDS_MAX, 32)?;
        let stewards = (0..count).map(|_| r.array().map(PeerKey::from_bytes)).collect::<Result<_, _>>()?;
        let (replicas, powers, monthly_bytes) = (r.byte()?, Powers(r.byte()?), r.u64()?);
        let (issued, ends) = (Timestamp(r.u64()?), Timestamp(r.u64()?));
        r.finish()?;
        Ok(Self { ticket, generation, stewards, replicas, powers, monthly_bytes, issued, ends })
    }

    fn check(&self) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: MANDATE, why });
        let distinct = self.stewards.iter().enumerate().all(|(at, peer)| !self.stewards[..at].contains(peer));
        if self.stewards.is_empty() || self.stewards.len() > STEWARDS_MAX || !distinct {
            return bad("one to seven different stewards");
        }
        if self.replicas == 0 || self.replicas > REPLICAS_MAX {
            return bad("replicas out of range");
        }
        if !Powers::ALL.allows(self.powers) {
            return bad("unknown power");
        }
        if self.ends <= self.issued || self.ends.ms_since(self.issued) > MANDATE_MS_MAX {
            return bad("lasts longer than a mandate may, or ends before it begins");
        }
        Ok(())
    }

    /// Whether it is good at this time.
    #[must_use]
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.issued <= now && now < self.ends
    }
}

/// One shard that a slot must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SheetRow {
    /// The stripe of the group.
    pub ordinal: u8,
    /// Data shards that the stripe really has; the others are zero and were never sent.
    pub used: u8,
    /// BLAKE3 of the shard.
    pub root: ShardRoot,
}

/// What one slot of a group must be, and with whom it was put.
///
/// Layout: version `1` · group 32 · slot · generation · holders (count, 32 each) · rows (count; ordinal, used, root 32) · `1` where it leans ·
/// signature 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSheet {
    /// The group.
    pub group: GroupId,
    /// The slot.
    pub slot: Slot,
    /// The higher one counts.
    pub generation: u64,
    /// Who had it when this was signed.
    pub holders: Vec<PeerKey>,
    /// Its shards, by ordinal. A virtual slot of a stripe has none.
    pub rows: Vec<SheetRow>,
    /// Whether the owner keeps them in storage of its own that no steward hears: the slot is not lost, though nobody has it.
    pub leans: bool,
}

impl SlotSheet {
    /// Signs with the group's authority.
    ///
    /// # Errors
    /// A field out of its domain.
    pub fn seal(&self, authority: &SigningKey) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut out = Vec::with_capacity(128 + 34 * self.rows.len());
        out.push(VERSION);
        out.extend_from_slice(self.group.as_bytes());
        out.push(self.slot.as_u8());
        put_number(&mut out, self.generation);
        put_number(&mut out, self.holders.len() as u64);
        for holder in &self.holders {
            out.extend_from_slice(holder.as_bytes());
        }
        put_number(&mut out, self.rows.len() as u64);
        for row in &self.rows {
            out.extend_from_slice(&[row.ordinal, row.used]);
            out.extend_from_slice(row.root.as_bytes());
        }
        if self.leans {
            out.push(1);
        }
        Ok(signed_with(SHEET, out, authority))
    }

    /// Checks everything: it is of this group.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn open(bytes: &[u8], ticket: &GroupTicket) -> Result<Self, DecodeError> {
        at_most(SHEET, SHEET_MAX, bytes.len())?;
        let (body, signature) = split(SHEET, bytes)?;
        signed::verify(SHEET, body, ticket.authority(), signature)?;
        let mut r = Reader::new(SHEET, body);
        r.version(VERSION)?;
        let (group, slot, generation) = (GroupId::from_bytes(r.array()?), Slot::new(r.byte()?)?, r.u64()?);
        let count = r.count(HOLDERS_MAX, 32)?;
        let holders = (0..count).map(|_| r.array().map(PeerKey::from_bytes)).collect::<Result<_, _>>()?;
        let count = r.count(STRIPES_PER_GROUP_MAX, 34)?;
        let row = |r: &mut Reader<'_>| {
            Ok(SheetRow { ordinal: r.byte()?, used: r.byte()?, root: ShardRoot::from_bytes(r.array()?) })
        };
        let rows = (0..count).map(|_| row(&mut r)).collect::<Result<_, DecodeError>>()?;
        let leans = !r.is_empty();
        if leans && !r.flag()? {
            return Err(r.invalid("says that it leans not, which goes without saying"));
        }
        r.finish()?;
        let sheet = Self { group, slot, generation, holders, rows, leans };
        if sheet.group != ticket.id() || !fits(&sheet, ticket.code()) {
            return Err(DecodeError::Invalid { what: SHEET, why: "is not of this group" });
        }
        sheet.check()?;
        Ok(sheet)
    }

    fn check(&self) -> Result<(), DecodeError> {
        at_most(SHEET, HOLDERS_MAX, self.holders.len())?;
        if !self.rows.is_sorted_by(|a, b| a.ordinal < b.ordinal) {
            return Err(DecodeError::Invalid { what: SHEET, why: "rows out of order" });
        }
        Ok(())
    }
}

/// Whether a stripe with so many data shards has a shard in this slot: the others of the first k are zero and were never sent.
#[must_use]
pub fn is_real(code: CodeParams, used: u8, slot: Slot) -> bool {
    slot.index() < usize::from(used) || (code.data()..code.slots()).contains(&slot.index())
}

/// Whether slot and rows are possible under this code: a virtual slot has no shard.
fn fits(sheet: &SlotSheet, code: CodeParams) -> bool {
    let real = |used: u8| (1..=code.data()).contains(&usize::from(used)) && is_real(code, used, sheet.slot);
    sheet.slot.index() < code.slots() && sheet.rows.iter().all(|row| real(row.used))
}

/// What a steward keeps of a group: the mandate and every slot's sheet, as they were signed.
///
/// Layout: version `1` · mandate (length, bytes) · sheets (count, each length and bytes), by slot · nothing, or parts, each its tag (ascending)
/// and length: `20` what holders signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The mandate, opened.
    pub mandate: Mandate,
    /// A sheet for every slot, opened, by slot.
    pub sheets: Vec<SlotSheet>,
    sealed_mandate: Vec<u8>,
    sealed_sheets: Vec<Vec<u8>>,
    words: Vec<Word>,
}

impl GroupRecord {
    /// Puts together what was sealed.
    ///
    /// # Errors
    /// As [`GroupRecord::decode`].
    pub fn new(mandate: Vec<u8>, sheets: Vec<Vec<u8>>) -> Result<Self, DecodeError> {
        let what = "group record";
        let opened = Mandate::open(&mandate)?;
        let slots = opened.ticket.code().slots();
        let mut open = Vec::with_capacity(slots);
        for (at, sheet) in sheets.iter().enumerate() {
            let sheet = SlotSheet::open(sheet, &opened.ticket)?;
            if sheet.slot.index() != at {
                return Err(DecodeError::Invalid { what, why: "sheets out of order" });
            }
            open.push(sheet);
        }
        if open.len() != slots {
            return Err(DecodeError::Invalid { what, why: "a sheet for every slot" });
        }
        // A stripe has as many data shards as it has, whichever of its slots is asked.
        let mut used = [0u8; STRIPES_PER_GROUP_MAX];
        for row in open.iter().flat_map(|sheet| &sheet.rows) {
            let known = &mut used[usize::from(row.ordinal)];
            if *known != 0 && *known != row.used {
                return Err(DecodeError::Invalid { what, why: "sheets that contradict each other" });
            }
            *known = row.used;
        }
        // ... and a shard in each slot that is real for it: a steward could not tell a lost one from one that never was.
        let has = |sheet: &SlotSheet, ordinal: u8| sheet.rows.binary_search_by_key(&ordinal, |row| row.ordinal).is_ok();
        for (ordinal, used) in (0..=u8::MAX).zip(used).filter(|(_, used)| *used != 0) {
            let real = |sheet: &&SlotSheet| is_real(opened.ticket.code(), used, sheet.slot);
            if !open.iter().filter(real).all(|sheet| has(sheet, ordinal)) {
                return Err(DecodeError::Invalid { what, why: "a stripe without one of its shards" });
            }
        }
        Ok(Self { mandate: opened, sheets: open, sealed_mandate: mandate, sealed_sheets: sheets, words: Vec::new() })
    }

    /// With what holders signed that they took. Nobody's signature is looked at: a word counts for who verifies it.
    ///
    /// # Errors
    /// More than a record may have, one of no shard or holder of the sheets, or two for one shard.
    pub fn with_words(mut self, words: Vec<Word>) -> Result<Self, DecodeError> {
        let what = "words of a group record";
        at_most(what, WORDS_MAX, words.len())?;
        let strange = DecodeError::Invalid { what, why: "of a shard or holder that no sheet has" };
        let places = words.into_iter().map(|word| Some((word.place(&self.sheets)?, word)));
        let mut placed = places.collect::<Option<Vec<_>>>().ok_or(strange)?;
        placed.sort_unstable_by_key(|(place, _)| *place);
        if !placed.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(DecodeError::Invalid { what, why: "two for one shard" });
        }
        for of_one in placed.chunk_by(|(a, _), (b, _)| (a.0, a.1) == (b.0, b.1)) {
            at_most(what, WORDS_OF_HOLDER_MAX, of_one.len())?;
        }
        self.words = placed.into_iter().map(|(_, word)| word).collect();
        Ok(self)
    }

    /// What holders signed that they took, as far as the owner brought it; not verified.
    #[must_use]
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// The mandate as it was signed, for others to check.
    #[must_use]
    pub fn sealed_mandate(&self) -> &[u8] {
        &self.sealed_mandate
    }

    /// A slot's sheet as it was signed.
    #[must_use]
    pub fn sealed_sheet(&self, slot: Slot) -> Option<&[u8]> {
        self.sealed_sheets.get(slot.index()).map(Vec::as_slice)
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.mandate.ticket.id()
    }

    /// Whether it says more than another of the same group: a newer mandate, or the same and newer sheets.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        let age = |record: &Self| {
            let sheets: Vec<u64> = record.sheets.iter().map(|sheet| sheet.generation).collect();
            (record.mandate.generation, sheets)
        };
        self.group() == other.group() && age(self) > age(other)
    }

    /// The bytes, at most [`GROUP_RECORD_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_bytes(&mut out, &self.sealed_mandate);
        put_number(&mut out, self.sealed_sheets.len() as u64);
        for sheet in &self.sealed_sheets {
            put_bytes(&mut out, sheet);
        }
        if !self.words.is_empty() {
            let mut part = Vec::new();
            put_number(&mut part, self.words.len() as u64);
            // Each has a place: it was put there by that.
            let placed = self.words.iter().filter_map(|word| Some((word.place(&self.sheets)?, word)));
            placed.for_each(|(place, word)| word.put(place, &mut part));
            out.push(WORDS);
            put_bytes(&mut out, &part);
        }
        out
    }

    /// Checks every signature and that the parts fit together.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "group record";
        at_most(what, GROUP_RECORD_MAX, bytes.len())?;
        let mut r = Reader::new(what, bytes);
        r.version(VERSION)?;
        let mandate = r.bytes(MANDATE_MAX)?.to_vec();
        let count = r.count(crate::code_params::SLOTS_MAX.into(), SIGNATURE)?;
        let sheets = (0..count).map(|_| r.bytes(SHEET_MAX).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        let mut record = Self::new(mandate, sheets)?;
        if !r.is_empty() {
            if r.byte()? != WORDS {
                return Err(r.invalid("an unknown part"));
            }
            record = record.with_part_of_words(r.bytes(WORDS_SIZE_MAX)?)?;
        }
        r.finish()?;
        Ok(record)
    }

    fn with_part_of_words(self, part: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new("words of a group record", part);
        let count = r.count(WORDS_MAX, 3 + 3 + SIGNATURE)?;
        let words = (0..count).map(|_| Word::take(&mut r, &self.sheets)).collect::<Result<Vec<_>, _>>()?;
        let place = |word: &Word| word.place(&self.sheets);
        if words.is_empty() || !words.is_sorted_by(|a, b| place(a) < place(b)) {
            return Err(r.invalid("none, or out of order"));
        }
        r.finish()?;
        self.with_words(words)
    }
}

pub(crate) fn signed_with(context: &str, mut body: Vec<u8>, key: &SigningKey) -> Vec<u8> {
    let signature = signed::sign(context, &body, key);
    body.extend_from_slice(&signature);
    body
}

pub(crate) fn split<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    let at = bytes.len().checked_sub(SIGNATURE);
    let at = at.ok_or(DecodeError::Truncated { what, needed: SIGNATURE, found: bytes.len() })?;
    Ok(bytes.split_at(at))
}

#[cfg(test)]
pub(crate) mod tests;
