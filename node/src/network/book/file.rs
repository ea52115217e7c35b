//! The book's file: a checksum and one message. Lost or damaged, it is begun anew; the network is found again.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use cairn_proto::{DecodeError, Domain, Timestamp, message, signed::SignedBytes};
use prost::Message as _;

use super::{Known, PEERS_MAX, PeerBook};

/// File in the data folder.
const FILE: &str = "peers";

#[derive(Clone, PartialEq, prost::Message)]
struct BookFile {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<BookEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BookEntry {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(uint64, tag = "2")]
    first_seen: u64,
    #[prost(uint64, tag = "3")]
    last_heard: u64,
    #[prost(message, optional, tag = "4")]
    advert: Option<SignedBytes>,
    /// Times of the last direct connection and of the last transfer that went well; 0: never.
    #[prost(uint64, tag = "5")]
    met: u64,
    #[prost(uint64, tag = "6")]
    served: u64,
    /// The /24 or /48 that it was seen at; empty: none.
    #[prost(string, tag = "7")]
    subnet: String,
}

impl PeerBook {
    /// The file's bytes when something changed since the last call.
    pub(crate) fn take_unwritten(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let entry = |k: &Known| BookEntry {
            domain: k.domain.as_str().to_owned(),
            first_seen: k.first_seen.0,
            last_heard: k.last_heard.0,
            advert: Some(k.signed.clone()),
            met: k.met.map_or(0, |at| at.0),
            served: k.served.map_or(0, |at| at.0),
            subnet: k.subnet_seen.as_ref().map_or_else(String::new, |d| d.as_str().to_owned()),
        };
        let body = BookFile { entries: self.peers.values().map(entry).collect() }.encode_to_vec();
        Some([blake3::hash(&body).as_bytes().as_slice(), &body].concat())
    }

    /// Reads the file's bytes back. Entries that do not hold are left out.
    pub(crate) fn restore(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), DecodeError> {
        let what = "peer book";
        let (sum, body) =
            bytes.split_at_checked(32).ok_or(DecodeError::Truncated { what, needed: 32, found: bytes.len() })?;
        if blake3::hash(body).as_bytes() != sum {
            return Err(DecodeError::NotAuthentic { what });
        }
        for entry in message::decode::<BookFile>(body, what)?.entries.into_iter().take(PEERS_MAX) {
            let Some(signed) = entry.advert else { continue };
            let (Ok(domain), Ok(advert)) = (Domain::new(entry.domain), self.check(&signed, now)) else { continue };
            if self.peers.contains_key(&advert.peer) {
                continue;
            }
            let time = |ms: u64| (ms > 0).then_some(Timestamp(ms));
            let mut known = Known {
                domain,
                first_seen: Timestamp(entry.first_seen),
                last_heard: Timestamp(entry.last_heard),
                met: time(entry.met),
                served: time(entry.served),
                subnet_seen: Domain::new(entry.subnet).ok(),
                ..self.known(advert, signed, now)
            };
            known.locate(&self.geoip);
            self.storing += usize::from(known.stores());
            self.peers.insert(known.advert.peer, known);
        }
        self.dirty = false;
        Ok(())
    }
}

/// Reads the book's file; nothing when there is none.
pub(crate) fn read_file(folder: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(folder.join(FILE)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes the book's file beside and renames. Blocking.
pub(crate) fn write_file(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    // A name of its own: an earlier write may still be under way.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let beside = folder.join(format!("peers.new.{}", WRITES.fetch_add(1, Ordering::Relaxed)));
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, folder.join(FILE))?;
    // Where a folder can be opened; the rename is not durable before.
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}
