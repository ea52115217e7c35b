//! Signed statements that peers exchange: adverts, head records ([receipts](crate::receipt) stand for themselves); and the control protocol's
//! messages.

use ed25519_dalek::SigningKey;
use prost::Message as _;
use serde::Serialize;

pub use crate::receipt::{Held, Receipt, Word};
use crate::{
    ByteSize, DecodeError, Domain, NetworkId, PeerKey, Region, Slot, Timestamp, VaultKey, signed::SignedBytes,
};

/// Most addresses in an advert.
pub const ADVERT_ADDRESSES_MAX: usize = 8;
/// Most bytes of one address (text multiaddr) in an advert.
pub const ADDRESS_MAX: usize = 256;
/// Most bytes of an encoded signed advert.
pub const ADVERT_MAX: usize = 4096;
/// Most bytes of an encoded head record: a Kademlia packet holds 16 KiB.
pub const HEAD_RECORD_MAX: usize = 8 * 1024;
/// Most adverts in one answer.
pub const ADVERTS_PER_ANSWER_MAX: usize = 64;
/// What signer, signature and field heads add to an advert in an answer.
const ADVERT_ENVELOPE: usize = 128;
/// Most bytes of a control message either way: [`ADVERTS_PER_ANSWER_MAX`] adverts, each in its envelope.
pub const CONTROL_MAX: usize = ADVERTS_PER_ANSWER_MAX * (ADVERT_MAX + ADVERT_ENVELOPE) + 1024;

/// Most proofs in one answer: 129 KB.
pub const PROOFS_PER_ANSWER_MAX: usize = 32;
const _: () = assert!(PROOFS_PER_ANSWER_MAX * (crate::audit::evidence::EVIDENCE_MAX + 8) <= CONTROL_MAX, "they fit");

const ADVERT_CONTEXT: &str = "cairn advert v1";
const HEAD_CONTEXT: &str = "cairn head v1";

/// What a node does for others, as a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles(u32);

impl Roles {
    /// None: an owner.
    pub const NONE: Self = Self(0);
    /// Keeps shards.
    pub const STORAGE: Self = Self(1);
    /// Carries circuits.
    pub const RELAY: Self = Self(2);
    /// Answers newcomers.
    pub const BOOTSTRAP: Self = Self(4);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in the set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Keeps the bits this version knows.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 7)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The names, in a fixed order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [(Self::STORAGE, "storage"), (Self::RELAY, "relay"), (Self::BOOTSTRAP, "bootstrap")]
            .into_iter()
            .filter_map(|(role, name)| self.has(role).then_some(name))
            .collect()
    }
}

impl Serialize for Roles {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.names())
    }
}

/// What a node says of itself, gossiped and kept by everyone, newest sequence wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advert {
    /// Who speaks: the signer.
    pub peer: PeerKey,
    /// In which network.
    pub network: NetworkId,
    /// Milliseconds since 1970 when it was made; a replay of an older one is ignored.
    pub sequence: Timestamp,
    /// Protocol version.
    pub protocol: u32,
    /// Failure and trust domain, pinned by everyone at first sight.
    pub domain: Domain,
    /// Declared region.
    pub region: Region,
    /// What it does.
    pub roles: Roles,
    /// Space pledged.
    pub give: ByteSize,
    /// Space still free for shards (pledge and disk considered).
    pub free: ByteSize,
    /// Program version, for people.
    pub version: String,
    /// Addresses where it can be dialled, text multiaddrs without `/p2p`.
    pub addresses: Vec<String>,
    /// In a network by invitation, its [pass](crate::pass::Pass), encoded and not verified here; else empty. Whoever hears of a
    /// peer can tell from the advert alone that it was invited, and by whom.
    #[serde(skip)]
    pub pass: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AdvertBody {
    #[prost(bytes = "vec", tag = "1")]
    network: Vec<u8>,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint32, tag = "3")]
    protocol: u32,
    #[prost(string, tag = "4")]
    domain: String,
    #[prost(string, tag = "5")]
    region: String,
    #[prost(uint32, tag = "6")]
    roles: u32,
    #[prost(uint64, tag = "7")]
    give: u64,
    #[prost(uint64, tag = "8")]
    free: u64,
    #[prost(string, tag = "9")]
    version: String,
    #[prost(string, repeated, tag = "10")]
    addresses: Vec<String>,
    #[prost(bytes = "vec", tag = "11")]
    pass: Vec<u8>,
}

impl Advert {
    /// Signs with the node's identity; `self.peer` must be that key.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> SignedBytes {
        let body = AdvertBody {
            network: self.network.as_bytes().to_vec(),
            sequence: self.sequence.0,
            protocol: self.protocol,
            domain: self.domain.as_str().to_owned(),
            region: self.region.as_str().to_owned(),
            roles: self.roles.bits(),
            give: self.give.0,
            free: self.free.0,
            version: self.version.clone(),
            addresses: self.addresses.clone(),
            pass: self.pass.clone(),
        };
        SignedBytes::sign(ADVERT_CONTEXT, body.encode_to_vec(), key)
    }

    /// Verifies and checks every field.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn open(signed: &SignedBytes) -> Result<Self, DecodeError> {
        let what = "advert";
        if signed.body.len() > ADVERT_MAX {
            return Err(DecodeError::TooLarge { what, limit: ADVERT_MAX, found: signed.body.len() });
        }
        let peer = PeerKey::from_bytes(signed.verify(ADVERT_CONTEXT)?);
        let body = decode::<AdvertBody>(&signed.body, what)?;
        if body.addresses.len() > ADVERT_ADDRESSES_MAX {
            return Err(DecodeError::TooLarge { what, limit: ADVERT_ADDRESSES_MAX, found: body.addresses.len() });
        }
        if body.pass.len() > crate::pass::PASS_MAX {
            return Err(DecodeError::TooLarge { what, limit: crate::pass::PASS_MAX, found: body.pass.len() });
        }
        if body.version.len() > crate::ids::LABEL_MAX || body.addresses.iter().any(|a| a.len() > ADDRESS_MAX) {
            return Err(DecodeError::Invalid { what, why: "a text is too long" });
        }
        Ok(Self {
            peer,
            network: NetworkId::from_slice(&body.network)?,
            sequence: Timestamp(body.sequence),
            protocol: body.protocol,
            domain: Domain::new(body.domain)?,
            region: Region::new(body.region)?,
            roles: Roles::from_bits(body.roles),
            give: ByteSize(body.give),
            free: ByteSize(body.free),
            version: body.version.chars().filter(|c| !c.is_control()).collect(),
            addresses: body.addresses,
            pass: body.pass,
        })
    }
}

/// A vault's head as strangers keep it: sealed content with a sequence, signed by the vault. Higher
/// `(generation, sequence)` wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadRecord {
    /// Whose head: the signer.
    pub vault: VaultKey,
    /// Raised when a vault is re-keyed or rolled back on purpose.
    pub generation: u32,
    /// Raised by one with every commit.
    pub sequence: u64,
    /// AES-256-GCM: nonce 12 bytes, ciphertext, tag. Only the vault's head key opens it.
    pub sealed: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeadBody {
    #[prost(uint32, tag = "1")]
    generation: u32,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "3")]
    sealed: Vec<u8>,
}

impl HeadRecord {
    /// Signs and encodes; `self.vault` must be the key's public half.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> Vec<u8> {
        let body = HeadBody { generation: self.generation, sequence: self.sequence, sealed: self.sealed.clone() };
        SignedBytes::sign(HEAD_CONTEXT, body.encode_to_vec(), key).encode_to_vec()
    }

    /// Decodes, verifies and checks every field. At most [`HEAD_RECORD_MAX`] bytes.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn open(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "head record";
        if bytes.len() > HEAD_RECORD_MAX {
            return Err(DecodeError::TooLarge { what, limit: HEAD_RECORD_MAX, found: bytes.len() });
        }
        let signed = decode::<SignedBytes>(bytes, what)?;
        let vault = VaultKey::from_bytes(signed.verify(HEAD_CONTEXT)?);
        let body = decode::<HeadBody>(&signed.body, what)?;
        Ok(Self { vault, generation: body.generation, sequence: body.sequence, sealed: body.sealed })
    }

    /// Where the network keeps it: a hash of the vault's key, so that the key alone finds it.
    #[must_use]
    pub fn lookup_key(vault: &VaultKey) -> [u8; 32] {
        blake3::derive_key("cairn 2026-11 head lookup key v1", vault.as_bytes())
    }

    /// Whether this replaces `other`.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.generation, self.sequence) > (other.generation, other.sequence)
    }
}

/// A question on the control protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlRequest {
    /// The question.
    #[prost(oneof = "control_request::Ask", tags = "1, 2, 3, 4")]
    pub ask: Option<control_request::Ask>,
}

/// The questions.
pub mod control_request {
    /// One of the questions.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Ask {
        /// Send adverts you know (your own first), at most this many.
        #[prost(uint32, tag = "1")]
        Adverts(u32),
        /// Keep this encoded [`super::HeadRecord`].
        #[prost(bytes, tag = "2")]
        KeepHead(Vec<u8>),
        /// Send the newest head record you keep for this vault key (32 bytes).
        #[prost(bytes, tag = "3")]
        FindHead(Vec<u8>),
        /// Send proofs of lies that you have and we may lack.
        #[prost(message, tag = "4")]
        Proofs(super::ProofsWanted),
    }
}

/// Which proofs are asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProofsWanted {
    /// A digest of whom the asker can prove to have lied; who has the same answers nothing.
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    /// Only those against peers after this key; empty: from the first.
    #[prost(bytes = "vec", tag = "2")]
    pub after: Vec<u8>,
}

/// An answer on the control protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlAnswer {
    /// Adverts, for [`control_request::Ask::Adverts`].
    #[prost(message, repeated, tag = "1")]
    pub adverts: Vec<SignedBytes>,
    /// The head record found, or empty.
    #[prost(bytes = "vec", tag = "2")]
    pub head: Vec<u8>,
    /// Whether the question was granted (a head was kept; a head was found).
    #[prost(bool, tag = "3")]
    pub granted: bool,
    /// The answerer is busy: ask again after this many milliseconds.
    #[prost(uint64, tag = "4")]
    pub retry_after_ms: u64,
    /// Proofs of lies ([`crate::audit::Evidence`], encoded), for [`control_request::Ask::Proofs`]: at most [`PROOFS_PER_ANSWER_MAX`], in
    /// ascending order of whom they convict.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub proofs: Vec<Vec<u8>>,
}

/// Decodes prost bytes; every failure is one [`DecodeError`].
///
/// # Errors
/// [`DecodeError::Invalid`].
pub fn decode<M: prost::Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|_| DecodeError::Invalid { what, why: "not a valid message" })
}

/// Checks a slot that came as a wide number.
///
/// # Errors
/// [`DecodeError::TooLarge`].
pub fn slot(wide: u32) -> Result<Slot, DecodeError> {
    Slot::new(u8::try_from(wide).unwrap_or(u8::MAX))
}

/// Checks an ordinal that came as a wide number.
///
/// # Errors
/// [`DecodeError::TooLarge`].
pub fn ordinal(wide: u32) -> Result<u8, DecodeError> {
    u8::try_from(wide).map_err(|_| DecodeError::TooLarge { what: "ordinal", limit: 255, found: wide as usize })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CodeParams, GroupId, ShardRoot};

    #[test]
    fn adverts_receipts_and_heads_round_trip_and_refuse_tampering() {
        let key = SigningKey::from_bytes(&[9; 32]);
        let me = PeerKey::from_bytes(key.verifying_key().to_bytes());
        let advert = Advert {
            peer: me,
            network: NetworkId::from_bytes([1; 32]),
            sequence: Timestamp(5),
            protocol: 1,
            domain: Domain::of_peer(&me),
            region: Region::new("EU/DE/FSN").expect("valid"),
            roles: Roles::STORAGE.with(Roles::RELAY),
            give: ByteSize(10),
            free: ByteSize(9),
            version: "0.1.0".into(),
            addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
            pass: Vec::new(),
        };
        assert_eq!(Advert::open(&advert.seal(&key)), Ok(advert.clone()));
        let with_pass = Advert { pass: vec![1; crate::pass::PASS_MAX], ..advert.clone() };
        assert_eq!(Advert::open(&with_pass.seal(&key)), Ok(with_pass.clone()));
        let too_long = Advert { pass: vec![1; crate::pass::PASS_MAX + 1], ..advert.clone() };
        assert!(Advert::open(&too_long.seal(&key)).is_err());
        let crowded = Advert { addresses: vec!["/ip4/127.0.0.1/tcp/1".into(); 9], ..advert };
        assert!(Advert::open(&crowded.seal(&key)).is_err());

        let receipt = Receipt {
            holder: me,
            group: GroupId::from_bytes([2; 32]),
            slot: CodeParams::DEFAULT.each_slot().last().expect("eight"),
            ordinal: 255,
            root: ShardRoot::from_bytes([3; 32]),
            lease_until: Timestamp(7),
            stored_at: Timestamp(6),
            held: None,
        };
        let sealed = receipt.seal(&key);
        assert_eq!(Receipt::open(&sealed), Ok(receipt));
        assert!(Advert::open(&sealed).is_err(), "a receipt is no advert");

        let head = HeadRecord {
            vault: VaultKey::from_bytes(*me.as_bytes()),
            generation: 1,
            sequence: 2,
            sealed: vec![4; 100],
        };
        let bytes = head.seal(&key);
        assert_eq!(HeadRecord::open(&bytes), Ok(head));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(HeadRecord::open(&bad).is_err(), "byte {at}");
        }
        assert!(HeadRecord::open(&vec![0; HEAD_RECORD_MAX + 1]).is_err());
    }
}
