//! The stewards' protocol: one question on a stream of its own, one answer.
//!
//! Each way a length of four bytes, little endian, and a message of the core's codec
//! ([`Request`](cairn_core::steward::wire::Request), [`Answer`](cairn_core::steward::wire::Answer)). `server` has what comes in
//! answered, `client` asks, `net` is what stewardship and vaults see of both.
//!
//! A message may have 4 MiB and a node has far less for all of its peers, so lengths are checked and paid for before memory is taken:
//! see [`StewardLimits`].

mod client;
mod net;
mod server;

use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub(crate) use self::{client::StewardClient, server::Desk};
use super::transfer::frame::{self, FrameError, Progress};

/// A message up to this long has its memory with its place. All that stewards say while nothing is repaired is shorter.
const SHORT_MAX: usize = 16 * 1024;

/// Limits of who answers on the stewards' protocol. Tests make them small.
///
/// What peers can make us hold at a time: `at_once` short questions (16 KiB, and as much when read or answered: 2 MiB), `memory` for all that is
/// longer, and `maps` maps while they are made (some 8 MiB each at the very most, kilobytes as a rule). Nothing of it while nobody asks.
#[derive(Clone, Copy, Debug)]
pub struct StewardLimits {
    /// Questions at once, of all peers.
    pub at_once: usize,
    /// ... and of one peer, of which one may be long: all others find places while a few peers take what they can.
    pub per_peer: usize,
    /// Bytes in memory for questions over 16 KiB, read and decoded, and answers over 32 KiB. Half of it is for those no longer than a
    /// group's record can be, some fifty of them as they are, so that one map of the greatest length, for which the other half is,
    /// keeps no owner waiting.
    pub memory: usize,
    /// Maps of groups that are made at once.
    pub maps: usize,
    /// How long the service may take. Then `Busy` is said; what it began it may finish behind it.
    pub service_time: Duration,
}

impl Default for StewardLimits {
    fn default() -> Self {
        Self { at_once: 64, per_peer: 4, memory: 16 * 1024 * 1024, maps: 4, service_time: Duration::from_secs(10) }
    }
}

/// Reads the length of a message, which may have so many bytes.
async fn read_length<R: AsyncRead + Unpin>(io: &mut R, most: usize) -> Result<usize, FrameError> {
    let mut length = [0u8; 4];
    io.read_exact(&mut length).await?;
    let found = u32::from_le_bytes(length) as usize;
    if found > most {
        let what = "stewards' message";
        return Err(cairn_proto::DecodeError::TooLarge { what, limit: most, found }.into());
    }
    Ok(found)
}

/// Writes a message and ends our half of the stream.
async fn write<W: AsyncWrite + Unpin>(io: &mut W, message: &[u8], progress: &Progress) -> Result<(), FrameError> {
    // At most `MESSAGE_MAX`, by its encoder.
    io.write_all(&(message.len() as u32).to_le_bytes()).await?;
    for step in message.chunks(frame::STEP) {
        io.write_all(step).await?;
        progress.mark();
    }
    Ok(io.close().await?)
}
