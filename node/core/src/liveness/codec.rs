//! The state of a [`Watch`] as bytes, so that a steward that restarts knows what it knew. Local, never sent.
//!
//! ```text
//! version u8 = 3
//! twice, servers then home machines: peer_ms u64, absences u32, gone u32, offs u32, ln_sum u64, ln_squares u64
//! blind_ms u64, until u64, judged u64, trust_until u64
//! flags u8: 1 episode, 2 its contact, 4 it is partial, 8 mass failure, 16 churn
//! episode: from u64, to u64, known u32, contact u64, contact_ms u64 (none in version 2); mass_last u64; churn: since u64, last u64    (zeros when not flagged)
//! count u32, then each peer in ascending order, 109 bytes:
//!   key 32, flags u8 (1 met, 2 server, 4 long_absence, 8 measured, 16 leaves, 32 lost_at),
//!   last u64, blind_at u64, watched_ms u64, absent_ms u64, absences u32, longest_ms u64,
//!   long_absence u64, measured u64, leaves u64, lost_at u64    (zeros when not flagged)
//! ```
//!
//! Little endian. Steps of time are [`Timers::step_ms`] long: a state is read with the timers that it was written with.

use cairn_proto::{DecodeError, PeerKey, Timestamp};

use super::{Class, Episode, Habits, Past, Seen, Timers, WATCHED_MAX, Watch};

const VERSION: u8 = 3;
/// The one before: without the time of earlier contact.
const BEFORE: u8 = 2;
const WHAT: &str = "state of liveness";
const PEER_BYTES: usize = 109;
/// Everything before the peers.
const HEAD_BYTES: usize = 1 + 2 * 36 + 32 + 1 + 36 + 8 + 16 + 4;

/// Most bytes of a state.
pub(super) const STATE_MAX: usize = HEAD_BYTES + WATCHED_MAX * PEER_BYTES;

impl Watch {
    /// Most bytes that [`Watch::encode`] gives, 6.8 MiB.
    pub const ENCODED_MAX: usize = STATE_MAX;

    /// The whole state.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out(Vec::with_capacity(HEAD_BYTES + self.peers.len() * PEER_BYTES));
        out.0.push(VERSION);
        for habits in &self.habits {
            out.u64(habits.peer_ms);
            out.u32(habits.absences);
            out.u32(habits.gone);
            out.u32(habits.offs);
            out.u64(habits.ln_sum);
            out.u64(habits.ln_squares);
        }
        for figure in [self.past.blind_ms, self.past.until, self.past.judged, self.past.trust_until] {
            out.u64(figure);
        }
        let contact = self.episode.and_then(|episode| episode.contact);
        let partial = self.episode.is_some_and(|episode| episode.partial);
        out.flags([
            self.episode.is_some(),
            contact.is_some(),
            partial,
            self.mass_last.is_some(),
            self.churn.is_some(),
            false,
        ]);
        out.u64(self.episode.map_or(0, |episode| episode.from));
        out.u64(self.episode.map_or(0, |episode| episode.to));
        out.count(self.episode.map_or(0, |episode| episode.known));
        out.time(contact);
        out.u64(self.episode.map_or(0, |episode| episode.contact_ms));
        out.time(self.mass_last);
        out.time(self.churn.map(|(since, _)| since));
        out.time(self.churn.map(|(_, last)| last));
        out.count(self.peers.len());
        for (peer, seen) in &self.peers {
            out.0.extend_from_slice(peer.as_bytes());
            out.flags([
                seen.met,
                seen.class == Class::Server,
                seen.long_absence.is_some(),
                seen.measured.is_some(),
                seen.leaves.is_some(),
                seen.lost_at.is_some(),
            ]);
            for figure in [seen.last.0, seen.blind_at, seen.watched_ms, seen.absent_ms] {
                out.u64(figure);
            }
            out.u32(seen.absences);
            out.u64(seen.longest_ms);
            for at in [seen.long_absence, seen.measured, seen.leaves, seen.lost_at] {
                out.time(at);
            }
        }
        out.0
    }

    /// Reads what [`Watch::encode`] gave under the same timers, also that of the version before.
    ///
    /// # Errors
    /// Another version, more than [`WATCHED_MAX`] peers, peers out of order, unknown flags, figures where none belongs,
    /// bytes too many or too few.
    pub fn decode(bytes: &[u8], timers: Timers) -> Result<Self, DecodeError> {
        if bytes.len() > STATE_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: STATE_MAX, found: bytes.len() });
        }
        let mut read = In { bytes, at: 0 };
        let mut watch = Self::new(timers);
        let [version] = read.array()?;
        if ![VERSION, BEFORE].contains(&version) {
            return invalid("unknown version");
        }
        for habits in &mut watch.habits {
            *habits = Habits {
                peer_ms: read.u64()?,
                absences: read.u32()?,
                gone: read.u32()?,
                offs: read.u32()?,
                ln_sum: read.u64()?,
                ln_squares: read.u64()?,
            };
        }
        watch.past = Past { blind_ms: read.u64()?, until: read.u64()?, judged: read.u64()?, trust_until: read.u64()? };
        read.episode(&mut watch, version)?;
        let count = read.u32()? as usize;
        if count > WATCHED_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: WATCHED_MAX, found: count });
        }
        for _ in 0..count {
            let (peer, seen) = read.peer()?;
            if watch.peers.last_key_value().is_some_and(|(last, _)| *last >= peer) {
                return invalid("peers out of order");
            }
            if seen.counts() {
                watch.silences.add(seen.last);
            }
            watch.peers.insert(peer, seen);
        }
        if read.at != bytes.len() {
            return invalid("bytes after the end");
        }
        Ok(watch)
    }
}

const fn invalid<T>(why: &'static str) -> Result<T, DecodeError> {
    Err(DecodeError::Invalid { what: WHAT, why })
}

struct Out(Vec<u8>);

impl Out {
    fn u64(&mut self, figure: u64) {
        self.0.extend_from_slice(&figure.to_le_bytes());
    }

    fn u32(&mut self, figure: u32) {
        self.0.extend_from_slice(&figure.to_le_bytes());
    }

    /// A number of peers.
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn time(&mut self, at: Option<Timestamp>) {
        self.u64(at.map_or(0, |at| at.0));
    }

    fn flags(&mut self, flags: [bool; 6]) {
        self.0.push(flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit).sum());
    }
}

struct In<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl In<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let short = DecodeError::Truncated { what: WHAT, needed: self.at + N, found: self.bytes.len() };
        let slice = self.bytes.get(self.at..self.at + N).ok_or(short.clone())?;
        self.at += N;
        slice.try_into().map_err(|_| short)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn time(&mut self, there: bool) -> Result<Option<Timestamp>, DecodeError> {
        match (there, self.u64()?) {
            (true, at) => Ok(Some(Timestamp(at))),
            (false, 0) => Ok(None),
            (false, _) => invalid("a figure where none belongs"),
        }
    }

    /// The lowest `known` bits; the others must not be set.
    fn flags(&mut self, known: u32) -> Result<[bool; 6], DecodeError> {
        let [byte] = self.array()?;
        if u32::from(byte) >> known != 0 {
            return invalid("unknown flags");
        }
        Ok(std::array::from_fn(|bit| byte >> bit & 1 == 1))
    }

    fn episode(&mut self, watch: &mut Watch, version: u8) -> Result<(), DecodeError> {
        let [there, contact, partial, mass, churn, _] = self.flags(5)?;
        let (from, to, known) = (self.u64()?, self.u64()?, self.u32()? as usize);
        let contact_since = self.time(contact)?;
        let contact_ms = if version == BEFORE { 0 } else { self.u64()? };
        if there {
            watch.episode = Some(Episode { from, to, known, contact: contact_since, contact_ms, partial });
        } else if contact || partial || (from, to, known, contact_ms) != (0, 0, 0, 0) {
            return invalid("a figure where none belongs");
        }
        watch.mass_last = self.time(mass)?;
        watch.churn = self.time(churn)?.zip(self.time(churn)?);
        Ok(())
    }

    fn peer(&mut self) -> Result<(PeerKey, Seen), DecodeError> {
        let peer = PeerKey::from_bytes(self.array()?);
        let [met, server, long_absence, measured, leaves, lost] = self.flags(6)?;
        let seen = Seen {
            met,
            class: if server { Class::Server } else { Class::Home },
            last: Timestamp(self.u64()?),
            blind_at: self.u64()?,
            watched_ms: self.u64()?,
            absent_ms: self.u64()?,
            absences: self.u32()?,
            longest_ms: self.u64()?,
            long_absence: self.time(long_absence)?,
            measured: self.time(measured)?,
            leaves: self.time(leaves)?,
            lost_at: self.time(lost)?,
        };
        if seen.absent_ms > seen.watched_ms {
            return invalid("absent for longer than watched");
        }
        Ok((peer, seen))
    }
}
