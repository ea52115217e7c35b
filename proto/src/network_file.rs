//! The network file: the small signed TOML that says which network this is and where to knock.

use std::fmt;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::{DecodeError, NetworkId, PROTOCOL_VERSION, signed};

/// Most bytes of a network file.
pub const NETWORK_FILE_MAX: usize = 64 * 1024;
/// Most bootstrap addresses in a network file.
pub const BOOTSTRAP_MAX: usize = 64;
/// Most puzzle bits: 2^24 key pairs are some minutes of one core.
pub const PUZZLE_BITS_MAX: u8 = 24;
const CONTEXT: &str = "cairn network file v1";

/// Who may take part, beside solving the puzzle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// Everybody.
    #[default]
    Open,
    /// Whoever has a [pass](crate::pass::Pass): invited by the founder, or by somebody who was.
    Invitation,
}

impl Admission {
    fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

/// Which network, and its unchangeable rules. The id is the hash of name, protocol, puzzle, admission and founder key, so
/// that bootstrap addresses may change without changing the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// What people call it: 1 to 64 of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// The id, hex; checked against the other fields.
    pub id: NetworkId,
    /// Protocol version that its peers speak.
    pub protocol: u32,
    /// Leading zero bits that a peer key's hash must have (S/Kademlia's static puzzle).
    pub puzzle_bits: u8,
    /// Who may take part. Not written for an open network, whose files are older than this field.
    #[serde(default, skip_serializing_if = "Admission::is_open")]
    pub admission: Admission,
    /// Founder's Ed25519 public key, hex.
    pub founder: crate::VaultKey,
    /// Multiaddrs with `/p2p/PEERID` that newcomers dial first.
    #[serde(default)]
    pub bootstrap: Vec<String>,
    /// Founder's signature over the id, hex. Bootstrap addresses are hints and not signed.
    pub signature: String,
}

impl NetworkFile {
    /// Makes and signs a network that is open to everybody.
    ///
    /// # Errors
    /// A bad name or too many puzzle bits.
    pub fn create(name: &str, puzzle_bits: u8, founder: &SigningKey) -> Result<Self, DecodeError> {
        Self::create_with(name, puzzle_bits, Admission::Open, founder)
    }

    /// Makes and signs a network.
    ///
    /// # Errors
    /// A bad name or too many puzzle bits.
    pub fn create_with(
        name: &str,
        puzzle_bits: u8,
        admission: Admission,
        founder: &SigningKey,
    ) -> Result<Self, DecodeError> {
        let key = crate::VaultKey::from_bytes(founder.verifying_key().to_bytes());
        let id = network_id(name, PROTOCOL_VERSION, puzzle_bits, admission, &key);
        let signature = signed::sign(CONTEXT, id.as_bytes(), founder).iter().map(|b| format!("{b:02x}")).collect();
        let file = Self {
            name: name.to_owned(),
            id,
            protocol: PROTOCOL_VERSION,
            puzzle_bits,
            admission,
            founder: key,
            bootstrap: Vec::new(),
            signature,
        };
        file.check()?;
        Ok(file)
    }

    /// Reads and checks TOML text.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str) -> Result<Self, NetworkFileError> {
        if text.len() > NETWORK_FILE_MAX {
            return Err(
                DecodeError::TooLarge { what: "network file", limit: NETWORK_FILE_MAX, found: text.len() }.into()
            );
        }
        let file: Self = toml::from_str(text).map_err(|e| NetworkFileError::Toml(e.message().to_owned()))?;
        file.check()?;
        Ok(file)
    }

    /// Writes TOML text that [`NetworkFile::parse`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    fn check(&self) -> Result<(), DecodeError> {
        let what = "network file";
        let named = !self.name.is_empty()
            && self.name.len() <= crate::ids::LABEL_MAX
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !named {
            return Err(DecodeError::Invalid { what, why: "the name must be 1 to 64 of letters, digits, . _ -" });
        }
        if self.puzzle_bits > PUZZLE_BITS_MAX {
            return Err(DecodeError::TooLarge {
                what: "puzzle bits",
                limit: PUZZLE_BITS_MAX.into(),
                found: self.puzzle_bits.into(),
            });
        }
        if self.bootstrap.len() > BOOTSTRAP_MAX {
            return Err(DecodeError::TooLarge {
                what: "bootstrap addresses",
                limit: BOOTSTRAP_MAX,
                found: self.bootstrap.len(),
            });
        }
        if self.id != network_id(&self.name, self.protocol, self.puzzle_bits, self.admission, &self.founder) {
            return Err(DecodeError::Invalid { what, why: "the id does not belong to these fields" });
        }
        let signature: Option<Vec<u8>> = (self.signature.len() == 128 && self.signature.is_ascii())
            .then(|| (0..64).map(|i| u8::from_str_radix(&self.signature[2 * i..2 * i + 2], 16).ok()).collect())
            .flatten();
        let signature = signature.ok_or(DecodeError::Invalid { what, why: "the signature is not 128 hex digits" })?;
        signed::verify(CONTEXT, self.id.as_bytes(), self.founder.as_bytes(), &signature).map(|_| ())
    }
}

/// Whether a peer key solves the network's static puzzle: its keyed hash starts with `bits` zero bits. Checking
/// costs one hash, so it is done before anything else for a peer.
#[must_use]
pub fn solves_puzzle(network: &NetworkId, peer: &crate::PeerKey, bits: u8) -> bool {
    let hash = blake3::keyed_hash(network.as_bytes(), peer.as_bytes());
    let zeros =
        hash.as_bytes().iter().try_fold(0u32, |n, b| if *b == 0 { Ok(n + 8) } else { Err(n + b.leading_zeros()) });
    zeros.unwrap_or_else(|n| n) >= u32::from(bits)
}

fn network_id(
    name: &str,
    protocol: u32,
    puzzle_bits: u8,
    admission: Admission,
    founder: &crate::VaultKey,
) -> NetworkId {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 network id v1");
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(&protocol.to_le_bytes());
    hasher.update(&[puzzle_bits]);
    hasher.update(founder.as_bytes());
    // Nothing for an open network: its id is what it was before there was another kind.
    if admission == Admission::Invitation {
        hasher.update(b"by invitation");
    }
    NetworkId::from_bytes(*hasher.finalize().as_bytes())
}

/// Why a network file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkFileError {
    /// Not TOML, or a field is missing, unknown or of the wrong type.
    Toml(String),
    /// A field's value is wrong.
    Field(DecodeError),
}

impl fmt::Display for NetworkFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toml(message) => f.write_str(message),
            Self::Field(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NetworkFileError {}

impl From<DecodeError> for NetworkFileError {
    fn from(error: DecodeError) -> Self {
        Self::Field(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `home` with eight bits and the founder of these tests, from before there was another admission.
    const OPEN_ID: &str = "53946ba562b668fc9fae1f6f0355c23d1dd5d90144be9d1c8a77a3d8835522ce";

    #[test]
    fn a_file_round_trips_and_refuses_changes() {
        let mut file = NetworkFile::create("home", 8, &SigningKey::from_bytes(&[5; 32])).expect("valid");
        file.bootstrap.push("/ip4/127.0.0.1/tcp/4001".into());
        let text = file.to_toml();
        assert_eq!(NetworkFile::parse(&text), Ok(file));
        assert!(NetworkFile::parse(&text.replace("puzzle_bits = 8", "puzzle_bits = 0")).is_err());
        assert!(NetworkFile::parse(&text.replace("home", "work")).is_err());
        assert!(NetworkFile::parse("garbage").is_err());
        assert!(NetworkFile::create("a b", 8, &SigningKey::from_bytes(&[5; 32])).is_err());
    }

    #[test]
    fn admission_is_part_of_the_id_and_an_open_network_is_what_it_always_was() {
        let founder = SigningKey::from_bytes(&[5; 32]);
        let open = NetworkFile::create("home", 8, &founder).expect("valid");
        assert_eq!(open.id.to_string(), OPEN_ID, "the id of open networks is frozen");
        assert!(!open.to_toml().contains("admission"));
        let closed = NetworkFile::create_with("home", 8, Admission::Invitation, &founder).expect("valid");
        assert_ne!(open.id, closed.id);
        let text = closed.to_toml();
        assert!(text.contains("admission = \"invitation\""), "{text}");
        assert_eq!(NetworkFile::parse(&text), Ok(closed));
        assert!(NetworkFile::parse(&text.replace("\"invitation\"", "\"open\"")).is_err(), "nobody opens it by hand");
        assert!(NetworkFile::parse(&text.replace("\"invitation\"", "\"closed\"")).is_err());
    }

    #[test]
    fn the_puzzle_counts_leading_zero_bits() {
        let network = NetworkId::from_bytes([1; 32]);
        let solved = (0..4096u32).filter(|i| {
            let mut key = [0u8; 32];
            key[..4].copy_from_slice(&i.to_le_bytes());
            solves_puzzle(&network, &crate::PeerKey::from_bytes(key), 4)
        });
        let count = solved.count();
        assert!((150..370).contains(&count), "about 1 in 16 of 4096, got {count}");
    }
}
