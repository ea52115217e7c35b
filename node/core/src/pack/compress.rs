//! Runs compressed and decompressed: zstd level 1, or as they are when that does not help.

use std::cell::RefCell;

use cairn_proto::{
    ChunkId,
    index::{RUN_RAW_MAX, RunCodec, RunPlace},
};

use zstd::zstd_safe::CParameter;

use super::RawRun;

/// zstd level: 1 is 0.4 GB/s a core at nearly the ratio of 3 (research/crates.md, section 5).
const LEVEL: i32 = 1;
/// Shortest match that is looked for. zstd takes 6 for runs up to 256 KiB and 7 for longer ones; 7 is 5 % faster for both, and
/// stores 1.7 % less of an SQL dump in runs of 256 KiB, 0.7 % more of source code.
const MATCH_MIN: u32 = 7;
/// Runs below this are compressed without trying a sample first.
const SAMPLE_FROM: usize = 64 << 10;
/// A sample is this many pieces of this many bytes, spread over the run.
const SAMPLE_PIECES: usize = 4;
const SAMPLE_PIECE: usize = 4 << 10;
/// Of each piece so many bytes are counted first.
const SAMPLE_COUNTED: usize = 1 << 10;
/// Compression must save at least one part in this many, else the run is stored raw: reading raw is free.
const WORTH: usize = 32;

/// A run as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedRun {
    /// How.
    pub codec: RunCodec,
    /// Bytes before compression.
    pub raw_len: u32,
    /// The stored bytes.
    pub stored: Vec<u8>,
    /// Each chunk's id and length.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl PackedRun {
    /// A chunk as a run of its own, as it lies: for what [`is_alone`] is true of.
    #[must_use]
    pub fn alone(id: ChunkId, chunk: &[u8]) -> Self {
        let raw_len = chunk.len() as u32;
        Self { codec: RunCodec::Raw, raw_len, stored: chunk.to_vec(), chunks: vec![(id, raw_len)] }
    }
}

impl std::fmt::Debug for PackedRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stored, raw, chunks) = (self.stored.len(), self.raw_len, self.chunks.len());
        write!(f, "PackedRun({:?}, {stored} of {raw} bytes, {chunks} chunks)", self.codec)
    }
}

/// Why a run could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadRunError {
    /// Not the number of bytes that the index says.
    #[error("a run of {expected} bytes came with {found}")]
    Length {
        /// What the index says.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// Not a zstd frame, or one that is longer than the index says.
    #[error("a run does not decompress to what the index says")]
    Damaged,
}

thread_local! {
    /// Contexts are large and slow to make; each worker thread keeps its own.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses a run when it helps. Never fails: what cannot be compressed is stored raw.
#[must_use]
pub fn compress(run: RawRun) -> PackedRun {
    let RawRun { raw, chunks } = run;
    let raw_len = raw.len() as u32;
    let small = if promising(&raw) { squeeze(&raw) } else { None };
    match small {
        Some(stored) => PackedRun { codec: RunCodec::Zstd, raw_len, stored, chunks },
        None => PackedRun { codec: RunCodec::Raw, raw_len, stored: raw, chunks },
    }
}

/// Chunks from this size on may be runs of their own: the smallest of a file that has several.
const ALONE_FROM: usize = 256 << 10;

/// Whether a chunk may be stored as it lies, as a run of its own: it is large, and a sample says that compression does not help.
#[must_use]
pub fn is_alone(chunk: &[u8]) -> bool {
    chunk.len() >= ALONE_FROM && !promising(chunk)
}

fn promising(raw: &[u8]) -> bool {
    if raw.len() < SAMPLE_FROM {
        return true;
    }
    let step = (raw.len() - SAMPLE_PIECE) / (SAMPLE_PIECES - 1);
    if uneven((0..SAMPLE_PIECES).flat_map(|i| &raw[i * step..i * step + SAMPLE_COUNTED])) {
        return true;
    }
    let sample: Vec<u8> = (0..SAMPLE_PIECES).flat_map(|i| &raw[i * step..i * step + SAMPLE_PIECE]).copied().collect();
    squeeze(&sample).is_some()
}

/// Whether some values are so much more frequent than others that entropy coding alone will help: two bytes are the same
/// twice as often as by chance. Text and tables are, and need no sample to be compressed.
fn uneven<'a>(bytes: impl Iterator<Item = &'a u8>) -> bool {
    let (mut counts, mut length) = ([0u32; 256], 0u64);
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
        length += 1;
    }
    let same: u64 = counts.iter().map(|count| u64::from(*count).pow(2)).sum();
    same > 2 * (length * length / 256 + length)
}

fn compressor() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    let mut made = zstd::bulk::Compressor::new(LEVEL)?;
    made.set_parameter(CParameter::MinMatch(MATCH_MIN))?;
    Ok(made)
}

/// The compressed bytes when they are worth it.
fn squeeze(raw: &[u8]) -> Option<Vec<u8>> {
    let room = raw.len() - raw.len() / WORTH - 1;
    let mut out: Vec<u8> = Vec::with_capacity(room);
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = compressor().ok();
        }
        slot.as_mut()?.compress_to_buffer(raw, &mut out).ok()
    })?;
    // A vector may have more room than was asked for.
    (out.len() <= room).then_some(out)
}

/// The decompressed bytes of a run. Never makes more than the index says, which is at most [`RUN_RAW_MAX`].
///
/// # Errors
/// [`ReadRunError`].
pub fn read_run(place: &RunPlace, stored: &[u8]) -> Result<Vec<u8>, ReadRunError> {
    let expected = place.stored_len as usize;
    if stored.len() != expected {
        return Err(ReadRunError::Length { expected, found: stored.len() });
    }
    let raw_len = place.raw_len.min(RUN_RAW_MAX) as usize;
    let raw = match place.codec {
        RunCodec::Raw => stored.to_vec(),
        RunCodec::Zstd => DECOMPRESSOR.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = zstd::bulk::Decompressor::new().ok();
            }
            let mut out: Vec<u8> = Vec::with_capacity(raw_len);
            let made = slot.as_mut().map(|d| d.decompress_to_buffer(stored, &mut out));
            if matches!(made, Some(Ok(_))) { Ok(out) } else { Err(ReadRunError::Damaged) }
        })?,
    };
    if raw.len() != place.raw_len as usize { Err(ReadRunError::Damaged) } else { Ok(raw) }
}
