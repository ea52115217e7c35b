//! Packing: chunks into runs, runs into the payloads of stripes, and back.
//!
//! A run is some consecutive chunks of a source, compressed together. Runs lie one behind the other in a stripe's
//! payload; one may begin in a stripe and end in the next. Data goes through a [`Packer`]; metadata waits in a
//! [`MetadataLane`] until it fills a stripe, and what is left at a commit joins the tail, so that a small snapshot
//! costs one short stripe.

use cairn_proto::{
    ChunkId, CodeParams, DecodeError,
    index::{RUN_RAW_MAX, RunCodec, RunPlace, RunRow, StripeNo},
};

use crate::{chunking::ChunkProfile, stripe::StripePayload};

mod compress;

#[cfg(test)]
mod tests;

pub use compress::{PackedRun, ReadRunError, compress, is_alone, read_run};

/// Why something could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A chunk, or a run, of a size that no run may have.
    #[error("{found} bytes cannot be a run: 1 to {RUN_RAW_MAX} can")]
    RunSize {
        /// Bytes found.
        found: usize,
    },
    /// The code's stripes are too small for the largest run.
    #[error("{code} is too narrow: two stripes must have room for a run of {RUN_RAW_MAX} bytes, so 3 data shards")]
    CodeTooNarrow {
        /// The code.
        code: CodeParams,
    },
}

/// Chunks gathered for one run, not compressed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawRun {
    /// The chunks' bytes, one behind the other.
    pub raw: Vec<u8>,
    /// Each chunk's id and length; empty for an index segment or a part of the manifest.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl RawRun {
    /// A run without chunks, for an index segment; see [`blobs`] for longer ones.
    ///
    /// # Errors
    /// [`PackError::RunSize`].
    pub fn blob(raw: Vec<u8>) -> Result<Self, PackError> {
        check_size(raw.len())?;
        Ok(Self { raw, chunks: Vec::new() })
    }
}

/// Cuts an encoded manifest into runs of at most [`RUN_RAW_MAX`] bytes.
#[must_use]
pub fn blobs(raw: &[u8]) -> Vec<RawRun> {
    raw.chunks(RUN_RAW_MAX as usize).map(|part| RawRun { raw: part.to_vec(), chunks: Vec::new() }).collect()
}

/// Chunks of a run that is written, far fewer than a reader takes: an owner keeps each run as one row, and a row of 7 KiB is
/// what its database keeps safe.
pub const RUN_CHUNKS: usize = 200;

/// Gathers consecutive chunks into runs.
#[derive(Debug)]
pub struct RunBuilder {
    target: usize,
    open: RawRun,
}

impl RunBuilder {
    /// Runs as the profile wants them.
    #[must_use]
    pub fn new(profile: ChunkProfile) -> Self {
        Self { target: profile.run_target(), open: RawRun::default() }
    }

    /// Adds a chunk; returns the run before it when the chunk does not fit into that any more.
    ///
    /// # Errors
    /// [`PackError::RunSize`] for an empty chunk or one over [`RUN_RAW_MAX`].
    pub fn push(&mut self, id: ChunkId, chunk: &[u8]) -> Result<Option<RawRun>, PackError> {
        check_size(chunk.len())?;
        let full = self.open.raw.len() + chunk.len() > self.target || self.open.chunks.len() == RUN_CHUNKS;
        let done = if full { self.finish() } else { None };
        if self.open.raw.capacity() == 0 {
            self.open.raw.reserve_exact(self.target.max(chunk.len()));
        }
        self.open.raw.extend_from_slice(chunk);
        self.open.chunks.push((id, chunk.len() as u32));
        Ok(done)
    }

    /// The run that is open, when there is one. Call it where neighbours end, for instance between sources.
    pub fn finish(&mut self) -> Option<RawRun> {
        let open = std::mem::take(&mut self.open);
        (!open.chunks.is_empty()).then_some(open)
    }
}

/// Gives out stripe numbers; one for all lanes of a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeNumbers {
    next: StripeNo,
}

impl StripeNumbers {
    /// Goes on from the manifest's first free number.
    #[must_use]
    pub const fn from_next(next: StripeNo) -> Self {
        Self { next }
    }

    /// The first number not given out yet: for the manifest.
    #[must_use]
    pub const fn next(&self) -> StripeNo {
        self.next
    }

    fn take(&mut self) -> StripeNo {
        let no = self.next;
        self.next = StripeNo(no.0 + 1);
        no
    }
}

/// A payload that is complete.
#[derive(Debug)]
pub struct FilledStripe {
    /// Its number.
    pub no: StripeNo,
    /// Its bytes.
    pub payload: StripePayload,
}

/// What a step of packing gave.
#[derive(Debug, Default)]
pub struct Packed {
    /// Rows of the runs that have a place now. A run without chunks has a row without chunks.
    pub rows: Vec<RunRow>,
    /// Stripes that are complete.
    pub stripes: Vec<FilledStripe>,
}

impl Packed {
    /// Adds what another step gave.
    pub fn append(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.stripes.append(&mut other.stripes);
    }
}

/// Lays runs into stripes, one behind the other.
///
/// Memory: one stripe's payload, two for the moment when a run spans them.
#[derive(Debug)]
pub struct Packer {
    code: CodeParams,
    open: Option<FilledStripe>,
}

impl Packer {
    /// A packer for stripes of this code.
    ///
    /// # Errors
    /// [`PackError::CodeTooNarrow`] for fewer than three data shards.
    pub const fn new(code: CodeParams) -> Result<Self, PackError> {
        if 2 * code.stripe_payload() < RUN_RAW_MAX as usize {
            return Err(PackError::CodeTooNarrow { code });
        }
        Ok(Self { code, open: None })
    }

    /// Bytes that still fit into the open stripe; a whole payload when none is open.
    #[must_use]
    pub fn room(&self) -> usize {
        self.open.as_ref().map_or(self.code.stripe_payload(), |open| open.payload.room())
    }

    /// Takes a run: its place, and the stripes that it completed.
    ///
    /// # Errors
    /// [`PackError::RunSize`].
    pub fn push(&mut self, run: PackedRun, numbers: &mut StripeNumbers) -> Result<(RunPlace, Packed), PackError> {
        let PackedRun { codec, raw_len, stored, chunks } = run;
        self.write(&stored, (codec, raw_len), chunks, numbers)
    }

    /// Takes a chunk as a run of its own, as it lies: for what [`is_alone`] is true of.
    ///
    /// # Errors
    /// [`PackError::RunSize`].
    pub fn push_alone(&mut self, id: ChunkId, chunk: &[u8], numbers: &mut StripeNumbers) -> Result<Packed, PackError> {
        check_size(chunk.len())?;
        let raw_len = chunk.len() as u32;
        let (_, packed) = self.write(chunk, (RunCodec::Raw, raw_len), vec![(id, raw_len)], numbers)?;
        Ok(packed)
    }

    fn write(
        &mut self,
        stored: &[u8],
        (codec, raw_len): (RunCodec, u32),
        chunks: Vec<(ChunkId, u32)>,
        numbers: &mut StripeNumbers,
    ) -> Result<(RunPlace, Packed), PackError> {
        let size = stored.len();
        check_size(size)?;
        let mut packed = Packed::default();
        if size > self.room() + self.code.stripe_payload() {
            packed.stripes.extend(self.open.take());
        }
        let mut open = self.open.take().unwrap_or_else(|| self.begin(numbers));
        let (stripe, offset) = (open.no, open.payload.len() as u32);
        let written = open.payload.write(stored);
        let mut next = None;
        if written < size {
            packed.stripes.push(open);
            open = self.begin(numbers);
            next = Some(open.no);
            open.payload.write(&stored[written..]);
        }
        if open.payload.room() == 0 {
            packed.stripes.push(open);
        } else {
            self.open = Some(open);
        }
        let place = RunPlace { stripe, offset, stored_len: size as u32, next, codec, raw_len };
        packed.rows.push(RunRow { place, chunks });
        Ok((place, packed))
    }

    /// The last stripe, with as many data shards as it needs.
    pub const fn finish(&mut self) -> Option<FilledStripe> {
        self.open.take()
    }

    fn begin(&self, numbers: &mut StripeNumbers) -> FilledStripe {
        FilledStripe { no: numbers.take(), payload: StripePayload::new(self.code) }
    }
}

/// Metadata runs waiting for a stripe of their own. They get a place only when they fill one or when the lane is
/// drained, so that the remainder can join the tail.
///
/// Memory: one stripe's payload.
#[derive(Debug)]
pub struct MetadataLane {
    code: CodeParams,
    waiting: Vec<PackedRun>,
    bytes: usize,
}

impl MetadataLane {
    /// A lane for stripes of this code.
    #[must_use]
    pub const fn new(code: CodeParams) -> Self {
        Self { code, waiting: Vec::new(), bytes: 0 }
    }

    /// Takes a run. When it does not fit beside those that wait, they become a stripe; none of them spans.
    ///
    /// # Errors
    /// [`PackError::RunSize`].
    pub fn push(&mut self, run: PackedRun, numbers: &mut StripeNumbers) -> Result<Packed, PackError> {
        check_size(run.stored.len())?;
        let mut packed = Packed::default();
        if self.bytes + run.stored.len() > self.code.stripe_payload() {
            let mut packer = Packer::new(self.code)?;
            for waiting in self.drain() {
                packed.append(packer.push(waiting, numbers)?.1);
            }
            packed.stripes.extend(packer.finish());
        }
        self.bytes += run.stored.len();
        self.waiting.push(run);
        Ok(packed)
    }

    /// All that waits, for the tail.
    pub fn drain(&mut self) -> Vec<PackedRun> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}

const fn check_size(found: usize) -> Result<(), PackError> {
    if found == 0 || found > RUN_RAW_MAX as usize { Err(PackError::RunSize { found }) } else { Ok(()) }
}

/// A place's bytes from the payloads it lies in: `first` from `offset` on, then the beginning of `next`.
///
/// # Errors
/// A place that does not lie in these payloads.
pub fn gather(place: &RunPlace, first: &StripePayload, next: Option<&StripePayload>) -> Result<Vec<u8>, DecodeError> {
    let bad = DecodeError::Invalid { what: "run place", why: "does not lie in its stripes" };
    let (here, rest) = place.split(first.len() as u64)?;
    let mut stored = first.read(place.offset as usize, here as usize).ok_or(bad.clone())?;
    if rest > 0 {
        stored.extend_from_slice(&next.and_then(|next| next.read(0, rest as usize)).ok_or(bad)?);
    }
    Ok(stored)
}
