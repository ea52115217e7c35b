//! Reputation on disk: version 2, then entries and convictions, each ascending by peer and of fixed size, little endian.
//!
//! ```text
//! state      = 2 · count u32 · entry* · count u32 · conviction*
//! entry      = peer 32 · class u8 · first seen u64 · last u64 · last bad u64 · events u64 · good u64 · bad u64 ·
//!              reported u64 · ruling suspected · ruling excluded · newest day u32 · 30 x (up u16 · down u16 · shown u16 ·
//!              prompt u16 · slow u16)
//! ruling     = until u64 · votes u8
//! conviction = peer 32 · lie u8 (1 wrong answer, 2 equivocation) · dealt u8 · evidence 32
//! ```
//!
//! Version 1, of which nothing is written any more, has no `prompt` and `slow`; it is read as if both were zero.

use cairn_proto::{DecodeError, PeerKey, StatementId, Timestamp};

use super::{
    CONVICTIONS_MAX, Class, Convicted, ENTRIES_MAX, Reputation,
    entry::{DAYS, Day, Entry, Ruling, UNITS_MAX},
};
use crate::audit::{Conviction, Lie};

const VERSION: u8 = 2;
/// Without who served how quickly.
const VERSION_BEFORE: u8 = 1;
const ENTRY_SIZE: usize = 32 + 1 + 7 * 8 + 2 * 9 + 4 + DAYS * 10;
const CONVICTION_SIZE: usize = 32 + 1 + 1 + 32;
/// Most bytes of an encoded state: 2.2 MB.
pub const STATE_MAX: usize = 1 + 4 + ENTRIES_MAX * ENTRY_SIZE + 4 + CONVICTIONS_MAX * CONVICTION_SIZE;
const WHAT: &str = "reputation state";

impl Reputation {
    /// The bytes to keep. Complaints are not among them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let size = 9 + self.entries.len() * ENTRY_SIZE + self.convicted.len() * CONVICTION_SIZE;
        let mut out = Vec::with_capacity(size);
        out.push(VERSION);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for (peer, e) in &self.entries {
            out.extend_from_slice(peer.as_bytes());
            out.push(match e.class {
                Class::Server => 1,
                Class::Home => 2,
            });
            for number in [e.first_seen.0, e.last.0, e.last_bad.0, e.events, e.good, e.bad, e.reported] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for ruling in [e.suspected, e.excluded] {
                out.extend_from_slice(&ruling.until.0.to_le_bytes());
                out.push(ruling.votes);
            }
            out.extend_from_slice(&e.today.to_le_bytes());
            for day in e.days {
                for count in [day.up, day.down, day.shown, day.prompt, day.slow] {
                    out.extend_from_slice(&count.to_le_bytes());
                }
            }
        }
        out.extend_from_slice(&(self.convicted.len() as u32).to_le_bytes());
        for (peer, c) in &self.convicted {
            out.extend_from_slice(peer.as_bytes());
            out.push(match c.conviction.lie() {
                Lie::WrongAnswer => 1,
                Lie::Equivocation => 2,
            });
            out.push(c.dealt.into());
            out.extend_from_slice(c.conviction.evidence().as_bytes());
        }
        out
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Reputation::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader(bytes);
        let paced = match r.u8()? {
            VERSION => true,
            VERSION_BEFORE => false,
            _ => return Err(invalid("unknown version")),
        };
        let mut state = Self::new();
        for _ in 0..r.count(ENTRIES_MAX)? {
            let peer = PeerKey::from_bytes(r.take()?);
            if state.entries.last_key_value().is_some_and(|(last, _)| *last >= peer) {
                return Err(invalid("peers are not ascending"));
            }
            state.entries.insert(peer, r.entry(paced)?);
        }
        for _ in 0..r.count(CONVICTIONS_MAX)? {
            let peer = PeerKey::from_bytes(r.take()?);
            if state.convicted.last_key_value().is_some_and(|(last, _)| *last >= peer) {
                return Err(invalid("peers are not ascending"));
            }
            let lie = match r.u8()? {
                1 => Lie::WrongAnswer,
                2 => Lie::Equivocation,
                _ => return Err(invalid("unknown lie")),
            };
            let dealt = match r.u8()? {
                0 => false,
                1 => true,
                _ => return Err(invalid("a flag is neither 0 nor 1")),
            };
            let evidence = StatementId::from_bytes(r.take()?);
            state.convicted.insert(peer, Convicted { conviction: Conviction::restored(peer, lie, evidence), dealt });
        }
        if r.0.is_empty() { Ok(state) } else { Err(invalid("bytes after the end")) }
    }
}

const fn invalid(why: &'static str) -> DecodeError {
    DecodeError::Invalid { what: WHAT, why }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let short = DecodeError::Truncated { what: WHAT, needed: N, found: self.0.len() };
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.take().map(u64::from_le_bytes)
    }

    fn count(&mut self, limit: usize) -> Result<usize, DecodeError> {
        let found = self.u32()? as usize;
        if found > limit { Err(DecodeError::TooLarge { what: WHAT, limit, found }) } else { Ok(found) }
    }

    fn ruling(&mut self) -> Result<Ruling, DecodeError> {
        Ok(Ruling { until: Timestamp(self.u64()?), votes: self.u8()? })
    }

    fn entry(&mut self, paced: bool) -> Result<Entry, DecodeError> {
        let class = match self.u8()? {
            1 => Class::Server,
            2 => Class::Home,
            _ => return Err(invalid("unknown class")),
        };
        let mut entry = Entry {
            class,
            first_seen: Timestamp(self.u64()?),
            last: Timestamp(self.u64()?),
            last_bad: Timestamp(self.u64()?),
            events: self.u64()?,
            good: self.u64()?,
            bad: self.u64()?,
            reported: self.u64()?,
            suspected: self.ruling()?,
            excluded: self.ruling()?,
            today: self.u32()?,
            days: [Day::default(); DAYS],
        };
        // Arithmetic relies on it.
        if entry.good.max(entry.bad).max(entry.reported) > UNITS_MAX || entry.today == u32::MAX {
            return Err(invalid("a figure that cannot come about"));
        }
        for day in &mut entry.days {
            *day = Day { up: self.u16()?, down: self.u16()?, shown: self.u16()?, ..Day::default() };
            if paced {
                (day.prompt, day.slow) = (self.u16()?, self.u16()?);
            }
        }
        Ok(entry)
    }
}
