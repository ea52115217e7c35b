//! Which sessions a party took part in: none twice, and few with one shard.
//!
//! A key that serves two sessions is the real danger: with equal masks the difference of two sums is a shard times a known
//! number. Three things stand against it. A secret is used up by one session and lost with the process. The masks hang on
//! the session's id, that is on all it says. And this ledger refuses a session whose id, nonce or any key it has met.
//!
//! What is kept are 16-byte tags. Two different things with one tag could only make the ledger refuse too much.

use std::collections::BTreeSet;

use cairn_proto::{DecodeError, Slot, Timestamp};

use super::session::{Session, SessionId};

/// How long a session is remembered, in ms: 30 days. Older ones cannot come back, because their secrets are gone.
pub const WINDOW_MS: u64 = 30 * 24 * 3_600_000;

/// Sessions with one of our shards within [`WINDOW_MS`]: two orders whose root was wrong, each with an attempt and
/// [`super::RUNS_OF_STRIPE`]; what is left is for connections that broke.
pub const SESSIONS_MAX: usize = 16;

/// Sessions remembered at most, for all shards together: 16 GiB of other peers' repairs in 30 days; with 5+3 2.5 MB of bytes
/// and some 6 MB of memory. A full ledger refuses; it forgets nothing early.
pub const LEDGER_MAX: usize = 16_384;

/// Sessions with one of our shards within [`WINDOW_MS`] that were given up before anything of it went out: they cost nothing but a place here, so
/// connections that break use none of [`SESSIONS_MAX`] up, and nobody fills the ledger with one shard.
pub const ABANDONED_MAX: usize = 4 * SESSIONS_MAX;

const VERSION: u8 = 2;
/// Id, nonce, and the keys of 2 to 32 parties.
const TAGS: std::ops::RangeInclusive<usize> = 4..=34;
const TAG: usize = 16;
const HEADER: usize = 8 + TAG + 2;

/// Why a party stays out of a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerRefusal {
    /// This very session.
    #[error("this session was run before")]
    UsedBefore,
    /// A key of a session before: a helper set, a coefficient or the lost slot may have been changed to get at a difference.
    #[error("the key of slot {slot} was used in a session before")]
    KeySeen {
        /// Whose key.
        slot: Slot,
    },
    /// The nonce of a session before.
    #[error("the nonce was used in a session before")]
    NonceSeen,
    /// The shard served in as many sessions as it may.
    #[error("this shard was in {SESSIONS_MAX} sessions within 30 days")]
    TooMany {
        /// When the oldest of them is forgotten.
        until: Timestamp,
    },
    /// No room for one more session of any shard.
    #[error("{LEDGER_MAX} sessions within 30 days: no more")]
    Full,
    /// The slot has no part in the session.
    #[error("slot {slot} has no part in this session")]
    NoPart {
        /// The slot.
        slot: Slot,
    },
}

type Tag = [u8; TAG];

/// A session that the ledger let in, with our slot in it: the only thing that a party is made from.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    session: Session,
    slot: Slot,
}

impl Admitted {
    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn into_parts(self) -> (Session, Slot) {
        (self.session, self.slot)
    }
}

/// How far a session came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Let in; something may go out at any moment.
    Open,
    /// Our first slice went out.
    Begun,
    /// It ended before that.
    Abandoned,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    at: Timestamp,
    stage: Stage,
    /// Which shard of ours: group, ordinal and slot.
    shard: Tag,
    /// Of the id, the nonce, and the keys.
    tags: Vec<Tag>,
}

/// The sessions of the last 30 days of one node. The caller keeps [`SessionLedger::encode`]'s bytes, written before the first
/// slice goes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLedger {
    entries: Vec<Entry>,
    seen: BTreeSet<Tag>,
}

impl SessionLedger {
    /// Lets us take part in a session with our slot, once.
    ///
    /// # Errors
    /// Why not; the ledger is then as before, but for what was too old.
    pub fn admit(&mut self, now: Timestamp, session: Session, slot: Slot) -> Result<Admitted, LedgerRefusal> {
        if session.key_of(slot).is_none() {
            return Err(LedgerRefusal::NoPart { slot });
        }
        self.forget(now);
        let (id, nonce) = (tag(b"id", &[session.id().as_bytes()]), tag(b"nonce", &[session.nonce()]));
        let keys: Vec<(Slot, Tag)> =
            session.parties().map(|(party, key)| (party, tag(b"key", &[key.as_bytes()]))).collect();
        if self.seen.contains(&id) {
            return Err(LedgerRefusal::UsedBefore);
        }
        if let Some((slot, _)) = keys.iter().find(|(_, key)| self.seen.contains(key)) {
            return Err(LedgerRefusal::KeySeen { slot: *slot });
        }
        if self.seen.contains(&nonce) {
            return Err(LedgerRefusal::NonceSeen);
        }
        let shard = tag(b"shard", &[session.group().as_bytes(), &[session.ordinal(), slot.as_u8()]]);
        for (given_up, most) in [(false, SESSIONS_MAX), (true, ABANDONED_MAX)] {
            let of = |entry: &&Entry| entry.shard == shard && (entry.stage == Stage::Abandoned) == given_up;
            let same = || self.entries.iter().filter(of).map(|entry| entry.at);
            if same().count() >= most {
                let oldest = same().min().unwrap_or(now);
                return Err(LedgerRefusal::TooMany { until: oldest.plus_ms(WINDOW_MS) });
            }
        }
        if self.entries.len() >= LEDGER_MAX {
            return Err(LedgerRefusal::Full);
        }
        let tags: Vec<Tag> = [id, nonce].into_iter().chain(keys.into_iter().map(|(_, key)| key)).collect();
        self.seen.extend(&tags);
        self.entries.push(Entry { at: now, stage: Stage::Open, shard, tags });
        Ok(Admitted { session, slot })
    }

    /// To be called before our first slice of a session goes out: from then on it counts, whatever becomes of it. Whether the session is known
    /// and was open; otherwise nothing may go out.
    pub fn begun(&mut self, id: &SessionId) -> bool {
        self.set(id, Stage::Begun)
    }

    /// A session ended before anything of our shard went out: it does not count towards [`SESSIONS_MAX`] any more. Its id, nonce and
    /// keys stay used. Whether that was news: of one that has begun it is nothing.
    pub fn abandoned(&mut self, id: &SessionId) -> bool {
        self.set(id, Stage::Abandoned)
    }

    fn set(&mut self, id: &SessionId, stage: Stage) -> bool {
        let id = tag(b"id", &[id.as_bytes()]);
        // The id's tag comes first.
        let open = |entry: &&mut Entry| entry.tags.first() == Some(&id) && entry.stage == Stage::Open;
        self.entries.iter_mut().find(open).map(|entry| entry.stage = stage).is_some()
    }

    /// Sessions remembered.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops what is too old. What a clock that was wrong wrote into the future counts from now.
    fn forget(&mut self, now: Timestamp) {
        let seen = &mut self.seen;
        self.entries.retain_mut(|entry| {
            entry.at = entry.at.min(now);
            let young = now.ms_since(entry.at) < WINDOW_MS;
            if !young {
                entry.tags.iter().for_each(|tag| _ = seen.remove(tag));
            }
            young
        });
    }

    /// Version `2`, then for each session: time u64 LE in ms · shard's tag 16 · `0` open, `1` begun, `2` given up · number of tags · tags, 16 each.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for entry in &self.entries {
            out.extend_from_slice(&entry.at.0.to_le_bytes());
            out.extend_from_slice(&entry.shard);
            out.extend_from_slice(&[entry.stage as u8, entry.tags.len() as u8]);
            out.extend(entry.tags.iter().flatten());
        }
        out
    }

    /// Reads what [`SessionLedger::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong. A ledger that does not read is no reason to begin a new one: without it every session is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "session ledger";
        let invalid = |why| DecodeError::Invalid { what: WHAT, why };
        let truncated = |needed, found| DecodeError::Truncated { what: WHAT, needed, found };
        let Some((&VERSION, mut left)) = bytes.split_first() else {
            return Err(invalid("empty, or an unknown version"));
        };
        let mut ledger = Self::default();
        while !left.is_empty() {
            let Some((header, rest)) = left.split_first_chunk::<HEADER>() else {
                return Err(truncated(HEADER, left.len()));
            };
            let ((at, shard), count) = ((&header[..8], &header[8..8 + TAG]), usize::from(header[HEADER - 1]));
            let stage = match header[HEADER - 2] {
                0 => Stage::Open,
                1 => Stage::Begun,
                2 => Stage::Abandoned,
                _ => return Err(invalid("an unknown stage of a session")),
            };
            if !TAGS.contains(&count) {
                return Err(invalid("a session of too few or too many parties"));
            }
            let Some((tags, rest)) = rest.split_at_checked(count * TAG) else {
                return Err(truncated(count * TAG, rest.len()));
            };
            if ledger.entries.len() >= LEDGER_MAX {
                return Err(DecodeError::TooLarge { what: WHAT, limit: LEDGER_MAX, found: LEDGER_MAX + 1 });
            }
            let tags: Vec<Tag> = tags.chunks_exact(TAG).map(array).collect();
            if !tags.iter().all(|tag| ledger.seen.insert(*tag)) {
                return Err(invalid("a session, a nonce or a key that comes twice"));
            }
            let at = Timestamp(u64::from_le_bytes(array(at)));
            ledger.entries.push(Entry { at, stage, shard: array(shard), tags });
            left = rest;
        }
        Ok(ledger)
    }
}

/// What stands for an id, a nonce, a key or a shard in the ledger.
fn tag(kind: &[u8], parts: &[&[u8]]) -> Tag {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 rebuild ledger tag v1");
    // Kinds are of different content, and none is the beginning of another.
    hasher.update(kind);
    parts.iter().for_each(|part| _ = hasher.update(part));
    array(&hasher.finalize().as_bytes()[..TAG])
}

/// Of a slice that has exactly so many bytes.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}
