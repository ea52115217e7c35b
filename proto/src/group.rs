//! Placement groups as other peers see them: the ticket that names one, and the grant that opens it.

use ed25519_dalek::SigningKey;

use crate::{CodeParams, DecodeError, GroupId, PeerKey, Timestamp, signed};

/// What defines a group for ever. Its hash is the group's id, so nobody can present the same group with another
/// salt, code or authority (SEP-1 depends on it).
///
/// Layout, 68 bytes: version `1` · authority 32 · salt 32 · k · m · C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupTicket {
    authority: [u8; 32],
    salt: [u8; 32],
    code: CodeParams,
    colours: u8,
}

/// Bytes of an encoded [`GroupTicket`].
pub const TICKET_SIZE: usize = 68;
const TICKET_VERSION: u8 = 1;

impl GroupTicket {
    /// A ticket for a new group. `authority` is the Ed25519 key whose grants holders will accept; `colours` is C.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] when C leaves no colour for stewards (C must exceed k + m).
    pub fn new(authority: [u8; 32], salt: [u8; 32], code: CodeParams, colours: u8) -> Result<Self, DecodeError> {
        if usize::from(colours) <= code.slots() {
            return Err(DecodeError::Invalid { what: "group ticket", why: "colours must exceed data + parity" });
        }
        Ok(Self { authority, salt, code, colours })
    }

    /// The group's id: BLAKE3 derive-key hash of the encoded ticket.
    #[must_use]
    pub fn id(&self) -> GroupId {
        GroupId::from_bytes(blake3::derive_key("cairn 2026-11 group id v1", &self.encode()))
    }

    /// Ed25519 public key that signs this group's grants.
    #[must_use]
    pub const fn authority(&self) -> &[u8; 32] {
        &self.authority
    }

    /// What colours are keyed with.
    #[must_use]
    pub const fn salt(&self) -> &[u8; 32] {
        &self.salt
    }

    /// The erasure code of every stripe in the group.
    #[must_use]
    pub const fn code(&self) -> CodeParams {
        self.code
    }

    /// C: number of colour classes, more than k + m.
    #[must_use]
    pub const fn colours(&self) -> u8 {
        self.colours
    }

    /// The 68 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; TICKET_SIZE] {
        let mut out = [0u8; TICKET_SIZE];
        out[0] = TICKET_VERSION;
        out[1..33].copy_from_slice(&self.authority);
        out[33..65].copy_from_slice(&self.salt);
        let (data, parity) = self.code.into();
        out[65..].copy_from_slice(&[data, parity, self.colours]);
        out
    }

    /// Reads the 68 bytes.
    ///
    /// # Errors
    /// Wrong length, unknown version, or values outside their domain.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "group ticket";
        let bytes: &[u8; TICKET_SIZE] =
            bytes.try_into().map_err(|_| DecodeError::Truncated { what, needed: TICKET_SIZE, found: bytes.len() })?;
        if bytes[0] != TICKET_VERSION {
            return Err(DecodeError::Invalid { what, why: "unknown version" });
        }
        let mut authority = [0u8; 32];
        authority.copy_from_slice(&bytes[1..33]);
        let mut salt = [0u8; 32];
        salt.copy_from_slice(&bytes[33..65]);
        Self::new(authority, salt, CodeParams::new(bytes[65], bytes[66])?, bytes[67])
    }
}

/// What a grant allows, as a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Store shards.
    pub const PUT: Self = Self(1);
    /// Read shards and ask whether they are there.
    pub const GET: Self = Self(2);
    /// Move shards to the trash.
    pub const DELETE: Self = Self(4);
    /// Everything an owner may do.
    pub const OWNER: Self = Self(7);

    /// Whether all of `other` is allowed.
    #[must_use]
    pub const fn allows(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The group authority's leave for one bearer at one holder, until a time. The bearer's key is the one that the
/// transport authenticated, so a stolen grant opens nothing.
///
/// Layout, 178 bytes: version `1` · group 32 · holder 32 · bearer 32 · rights · not-before u64 LE ms ·
/// expires u64 LE ms · Ed25519 signature 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The group it opens.
    pub group: GroupId,
    /// The only peer that may honour it.
    pub holder: PeerKey,
    /// The only peer that may present it.
    pub bearer: PeerKey,
    /// What it allows.
    pub rights: Rights,
    /// Not valid before; set to a little before now, for clocks that differ.
    pub not_before: Timestamp,
    /// Not valid from then on.
    pub expires: Timestamp,
}

const GRANT_BODY: usize = 1 + 32 * 3 + 1 + 8 + 8;
/// Bytes of an encoded, signed [`Grant`].
pub const GRANT_SIZE: usize = GRANT_BODY + 64;
const GRANT_CONTEXT: &str = "cairn grant v1";

impl Grant {
    fn body(&self) -> [u8; GRANT_BODY] {
        let mut out = [0u8; GRANT_BODY];
        out[0] = 1;
        out[1..33].copy_from_slice(self.group.as_bytes());
        out[33..65].copy_from_slice(self.holder.as_bytes());
        out[65..97].copy_from_slice(self.bearer.as_bytes());
        out[97] = self.rights.0;
        out[98..106].copy_from_slice(&self.not_before.0.to_le_bytes());
        out[106..114].copy_from_slice(&self.expires.0.to_le_bytes());
        out
    }

    /// Signs with the group authority's key.
    #[must_use]
    pub fn seal(&self, authority: &SigningKey) -> [u8; GRANT_SIZE] {
        let body = self.body();
        let mut out = [0u8; GRANT_SIZE];
        out[..GRANT_BODY].copy_from_slice(&body);
        out[GRANT_BODY..].copy_from_slice(&signed::sign(GRANT_CONTEXT, &body, authority));
        out
    }

    /// Checks length, group, signature of the ticket's authority, and time; not holder and bearer, which only the
    /// caller knows.
    ///
    /// # Errors
    /// [`DecodeError`] naming what does not hold.
    pub fn open(bytes: &[u8], ticket: &GroupTicket, now: Timestamp) -> Result<Self, DecodeError> {
        let what = "grant";
        let bytes: &[u8; GRANT_SIZE] =
            bytes.try_into().map_err(|_| DecodeError::Truncated { what, needed: GRANT_SIZE, found: bytes.len() })?;
        let (body, signature) = bytes.split_at(GRANT_BODY);
        if body[0] != 1 {
            return Err(DecodeError::Invalid { what, why: "unknown version" });
        }
        let number = |at: usize| {
            let mut b = [0u8; 8];
            b.copy_from_slice(&body[at..at + 8]);
            Timestamp(u64::from_le_bytes(b))
        };
        let grant = Self {
            group: GroupId::from_slice(&body[1..33])?,
            holder: PeerKey::from_slice(&body[33..65])?,
            bearer: PeerKey::from_slice(&body[65..97])?,
            rights: Rights(body[97]),
            not_before: number(98),
            expires: number(106),
        };
        if grant.rights.0 & !Rights::OWNER.0 != 0 {
            return Err(DecodeError::Invalid { what, why: "unknown right" });
        }
        if grant.group != ticket.id() {
            return Err(DecodeError::Invalid { what, why: "is for another group" });
        }
        signed::verify(GRANT_CONTEXT, body, ticket.authority(), signature)?;
        if now < grant.not_before || now >= grant.expires {
            return Err(DecodeError::Invalid { what, why: "not valid at this time" });
        }
        Ok(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(key: &SigningKey) -> GroupTicket {
        GroupTicket::new(key.verifying_key().to_bytes(), [3; 32], CodeParams::DEFAULT, 9).expect("valid")
    }

    #[test]
    fn a_ticket_certifies_itself() {
        let t = ticket(&SigningKey::from_bytes(&[1; 32]));
        assert_eq!(GroupTicket::decode(&t.encode()), Ok(t));
        for at in 0..TICKET_SIZE {
            let mut other = t.encode();
            other[at] ^= 1;
            if let Ok(o) = GroupTicket::decode(&other) {
                assert_ne!(o.id(), t.id(), "byte {at}");
            }
        }
        assert!(GroupTicket::new([0; 32], [0; 32], CodeParams::DEFAULT, 8).is_err());
    }

    #[test]
    fn a_grant_opens_only_what_it_says() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let t = ticket(&key);
        let grant = Grant {
            group: t.id(),
            holder: PeerKey::from_bytes([4; 32]),
            bearer: PeerKey::from_bytes([5; 32]),
            rights: Rights::OWNER,
            not_before: Timestamp(10),
            expires: Timestamp(20),
        };
        let sealed = grant.seal(&key);
        assert_eq!(Grant::open(&sealed, &t, Timestamp(15)), Ok(grant.clone()));
        assert!(Grant::open(&sealed, &t, Timestamp(9)).is_err());
        assert!(Grant::open(&sealed, &t, Timestamp(20)).is_err());
        for at in 0..GRANT_SIZE {
            let mut bad = sealed;
            bad[at] ^= 1;
            assert!(Grant::open(&bad, &t, Timestamp(15)).is_err(), "byte {at}");
        }
        let stranger = SigningKey::from_bytes(&[2; 32]);
        assert!(Grant::open(&grant.seal(&stranger), &t, Timestamp(15)).is_err());
    }
}
