//! The index: where every chunk lies. Segments of it are written with each commit and never change.
//!
//! A *stripe row* says what a stripe is made of, a *run row* where a run of chunks lies in the stripes' payloads.

use crate::{
    ChunkId, CodeParams, DecodeError, SHARD_PAYLOAD, ShardRoot, Slot, StripeId,
    code_params::SLOTS_MAX,
    layout::{Reader, at_most, put_number, put_option},
};

#[cfg(test)]
pub(crate) mod tests;

/// Most bytes of an encoded segment: what one run may hold.
pub const SEGMENT_MAX: usize = RUN_RAW_MAX as usize;
/// Where a writer ends a segment and begins the next; a row never is larger than what is left then.
pub const SEGMENT_TARGET: usize = 1 << 20;
/// Most bytes of a run before compression: one chunk of the largest size. What a reader must have room for.
pub const RUN_RAW_MAX: u32 = 4 << 20;
/// Most chunks of a run: 1 MiB of files of one byte would be more, so a run also ends here.
pub const RUN_CHUNKS_MAX: usize = 4096;
/// Most groups of a vault: 268 TB with RS(5,3).
pub const GROUPS_MAX: u32 = 1_000_000;

const WHAT: &str = "index segment";
const VERSION: u8 = 1;

/// A stripe's number in its vault: from 1, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StripeNo(pub u64);

/// What a stripe is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeRow {
    /// Its number.
    pub no: StripeNo,
    /// The number of its group.
    pub group: u32,
    /// Its place in the group.
    pub ordinal: u8,
    /// Number of the epoch whose key sealed it.
    pub epoch: u32,
    /// Its id, which its keys come from.
    pub stripe: StripeId,
    /// Data shards present, at least 1; the data slots from here to k are virtual: all zero, never sent.
    pub used: u8,
    /// One root a slot; `None` exactly for the virtual ones.
    pub roots: Vec<Option<ShardRoot>>,
}

impl StripeRow {
    /// The shape that follows from the row: k is the used and the virtual slots, m the rest.
    ///
    /// # Errors
    /// A row whose parts do not fit together.
    pub fn code(&self) -> Result<CodeParams, DecodeError> {
        let bad = DecodeError::Invalid { what: "stripe row", why: "used and roots do not fit together" };
        at_most("stripe slots", SLOTS_MAX.into(), self.roots.len())?;
        let used = usize::from(self.used);
        let data = used + self.roots.iter().filter(|root| root.is_none()).count();
        let fits = used > 0 && data < self.roots.len();
        if !fits || self.roots.iter().enumerate().any(|(i, root)| root.is_none() != (used..data).contains(&i)) {
            return Err(bad);
        }
        CodeParams::new(data as u8, (self.roots.len() - data) as u8)
    }

    /// Plaintext bytes that lie in it.
    #[must_use]
    pub const fn payload(&self) -> u64 {
        self.used as u64 * SHARD_PAYLOAD as u64
    }

    /// The root of a slot; `None` when there is no such slot or it is virtual.
    #[must_use]
    pub fn root(&self, slot: Slot) -> Option<&ShardRoot> {
        self.roots.get(slot.index())?.as_ref()
    }

    /// Slots that really exist, with their roots.
    pub fn present(&self) -> impl Iterator<Item = (Slot, &ShardRoot)> {
        let rooted = self.roots.iter().zip(0u8..).filter_map(|(root, slot)| Some((slot, root.as_ref()?)));
        rooted.filter_map(|(slot, root)| Some((Slot::new(slot).ok()?, root)))
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let code = self.code()?;
        check_number(self.no)?;
        at_most("group number", GROUPS_MAX as usize, self.group as usize)?;
        put_number(out, self.no.0);
        put_number(out, self.group.into());
        out.push(self.ordinal);
        put_number(out, self.epoch.into());
        out.extend_from_slice(self.stripe.as_bytes());
        out.extend_from_slice(&[code.data() as u8, code.parity() as u8, self.used]);
        for root in self.roots.iter().flatten() {
            out.extend_from_slice(root.as_bytes());
        }
        Ok(())
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let no = read_stripe_no(r)?;
        let group = r.number(GROUPS_MAX.into())? as u32;
        let ordinal = r.byte()?;
        let epoch = r.u32()?;
        let stripe = StripeId::from_bytes(r.array()?);
        let code = CodeParams::new(r.byte()?, r.byte()?)?;
        let used = r.byte()?;
        if used == 0 || usize::from(used) > code.data() {
            return Err(r.invalid("used shards out of range"));
        }
        let mut roots = Vec::with_capacity(code.slots());
        for slot in 0..code.slots() {
            let real = slot < used.into() || slot >= code.data();
            roots.push(if real { Some(ShardRoot::from_bytes(r.array()?)) } else { None });
        }
        Ok(Self { no, group, ordinal, epoch, stripe, used, roots })
    }
}

/// How a run's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RunCodec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// Where a run lies: `stored_len` bytes from `offset` of a stripe's payload on, and, when that stripe ends before
/// the run does, the rest from the beginning of `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunPlace {
    /// The stripe that it begins in.
    pub stripe: StripeNo,
    /// First byte, counted in the plaintext payload of the stripe.
    pub offset: u32,
    /// Bytes as stored, at least 1.
    pub stored_len: u32,
    /// The stripe that it ends in, when that is another one.
    pub next: Option<StripeNo>,
    /// How it is stored.
    pub codec: RunCodec,
    /// Bytes when decompressed, 1..=[`RUN_RAW_MAX`].
    pub raw_len: u32,
}

/// Largest payload of any code, for the bound on offsets.
const PAYLOAD_MAX: u64 = SLOTS_MAX as u64 * SHARD_PAYLOAD as u64;

impl RunPlace {
    /// Bytes in the first stripe, which has `payload` bytes ([`StripeRow::payload`]), and in the next.
    ///
    /// # Errors
    /// A place that does not lie in such a stripe.
    pub fn split(&self, payload: u64) -> Result<(u32, u32), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: "run place", why });
        let Some(room) = payload.checked_sub(self.offset.into()).filter(|room| *room > 0) else {
            return bad("begins behind the end of its stripe");
        };
        let first = u64::from(self.stored_len).min(room) as u32;
        let rest = self.stored_len - first;
        if (rest > 0) != self.next.is_some() {
            return bad("spans two stripes without naming both, or names one too many");
        }
        Ok((first, rest))
    }

    /// The data slots of its stripe that bytes `offset..offset + length` of the payload lie in.
    #[must_use]
    pub const fn slots_of(offset: u32, length: u32) -> std::ops::Range<usize> {
        let first = offset as usize / SHARD_PAYLOAD;
        first..(offset as usize + length as usize).div_ceil(SHARD_PAYLOAD)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let bad = |why| Err(DecodeError::Invalid { what: "run place", why });
        check_number(self.stripe)?;
        if let Some(next) = self.next {
            check_number(next)?;
            if next == self.stripe {
                return bad("spans from a stripe to itself");
            }
        }
        if self.stored_len == 0 || self.raw_len == 0 || self.raw_len > RUN_RAW_MAX || self.stored_len > self.raw_len {
            return bad("lengths out of range");
        }
        if self.codec == RunCodec::Raw && self.stored_len != self.raw_len {
            return bad("stored raw with another length");
        }
        if u64::from(self.offset) >= PAYLOAD_MAX {
            return bad("offset out of range");
        }
        Ok(())
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.check()?;
        put_number(out, self.stripe.0);
        put_number(out, self.offset.into());
        put_number(out, self.stored_len.into());
        put_option(out, self.next, |out, next| put_number(out, next.0));
        out.push(self.codec as u8);
        put_number(out, self.raw_len.into());
        Ok(())
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (stripe, offset, stored_len) = (read_stripe_no(r)?, r.u32()?, r.u32()?);
        let next = r.option(read_stripe_no)?;
        let codec = if r.flag()? { RunCodec::Zstd } else { RunCodec::Raw };
        let place = Self { stripe, offset, stored_len, next, codec, raw_len: r.u32()? };
        place.check()?;
        Ok(place)
    }
}

/// A run and the chunks in it, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// Where it lies.
    pub place: RunPlace,
    /// Each chunk's id and length; the lengths add up to the run's raw length.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl RunRow {
    /// Each chunk's id and where it lies in the decompressed run.
    pub fn ranges(&self) -> impl Iterator<Item = (ChunkId, std::ops::Range<usize>)> {
        self.chunks.iter().scan(0usize, |end, (id, length)| {
            let start = *end;
            *end += *length as usize;
            Some((*id, start..*end))
        })
    }

    fn check(&self) -> Result<(), DecodeError> {
        at_most("chunks of a run", RUN_CHUNKS_MAX, self.chunks.len())?;
        let total: u64 = self.chunks.iter().map(|(_, length)| u64::from(*length)).sum();
        if self.chunks.iter().any(|(_, length)| *length == 0) || total != self.place.raw_len.into() {
            return Err(DecodeError::Invalid { what: "run row", why: "chunk lengths do not add up to the run's" });
        }
        Ok(())
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.check()?;
        self.place.put(out)?;
        put_number(out, self.chunks.len() as u64);
        for (id, length) in &self.chunks {
            out.extend_from_slice(id.as_bytes());
            put_number(out, (*length).into());
        }
        Ok(())
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let place = RunPlace::read(r)?;
        let count = r.count(RUN_CHUNKS_MAX, 33)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            chunks.push((ChunkId::from_bytes(r.array()?), r.u32()?));
        }
        let row = Self { place, chunks };
        row.check()?;
        Ok(row)
    }
}

/// A part of the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexSegment {
    /// Stripes, in any order.
    pub stripes: Vec<StripeRow>,
    /// Runs, in any order.
    pub runs: Vec<RunRow>,
}

impl IndexSegment {
    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.stripes.is_empty() && self.runs.is_empty()
    }

    /// Checks and encodes.
    ///
    /// # Errors
    /// A row that breaks a rule, or more than [`SEGMENT_MAX`] bytes.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = vec![VERSION];
        put_number(&mut out, self.stripes.len() as u64);
        for row in &self.stripes {
            row.put(&mut out)?;
        }
        put_number(&mut out, self.runs.len() as u64);
        for row in &self.runs {
            row.put(&mut out)?;
        }
        at_most(WHAT, SEGMENT_MAX, out.len())?;
        Ok(out)
    }

    /// Decodes what [`IndexSegment::encode`] gave.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, SEGMENT_MAX, bytes.len())?;
        let mut r = Reader::new(WHAT, bytes);
        r.version(VERSION)?;
        let mut segment = Self::default();
        for _ in 0..r.count(SEGMENT_MAX, 32 * 3)? {
            segment.stripes.push(StripeRow::read(&mut r)?);
        }
        for _ in 0..r.count(SEGMENT_MAX, 8)? {
            segment.runs.push(RunRow::read(&mut r)?);
        }
        r.finish()?;
        Ok(segment)
    }

    /// Splits rows into segments of about [`SEGMENT_TARGET`] bytes, in order.
    #[must_use]
    pub fn split(stripes: Vec<StripeRow>, runs: Vec<RunRow>) -> Vec<Self> {
        let mut done = Vec::new();
        let mut open = Self::default();
        let mut size = 0;
        for row in stripes {
            size += 64 + row.roots.len() * 32;
            open.stripes.push(row);
            close(&mut open, &mut size, &mut done);
        }
        for row in runs {
            size += 32 + row.chunks.len() * 37;
            open.runs.push(row);
            close(&mut open, &mut size, &mut done);
        }
        if !open.is_empty() {
            done.push(open);
        }
        done
    }
}

fn close(open: &mut IndexSegment, size: &mut usize, done: &mut Vec<IndexSegment>) {
    if *size >= SEGMENT_TARGET {
        *size = 0;
        done.push(std::mem::take(open));
    }
}

fn check_number(no: StripeNo) -> Result<(), DecodeError> {
    if no.0 == 0 { Err(DecodeError::Invalid { what: "stripe number", why: "counts from 1" }) } else { Ok(()) }
}

fn read_stripe_no(r: &mut Reader<'_>) -> Result<StripeNo, DecodeError> {
    let no = StripeNo(r.u64()?);
    check_number(no)?;
    Ok(no)
}
