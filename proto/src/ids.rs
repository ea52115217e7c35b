//! Names of things: fixed-length newtypes, hex outside, no default, no id made from another id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::DecodeError;

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes that already are this id.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Takes exactly 32 bytes.
            ///
            /// # Errors
            /// [`DecodeError::Truncated`] when the length is not 32.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, DecodeError> {
                <[u8; 32]>::try_from(bytes).map(Self).map_err(|_| DecodeError::Truncated {
                    what: $what,
                    needed: 32,
                    found: bytes.len(),
                })
            }

            /// The first eight hex digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                self.0.iter().take(4).map(|b| format!("{b:02x}")).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for b in &self.0 {
                    write!(f, "{b:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}..)"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = DecodeError;
            fn from_str(s: &str) -> Result<Self, DecodeError> {
                parse_hex32(s, $what).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

fn parse_hex32(s: &str, what: &'static str) -> Result<[u8; 32], DecodeError> {
    let bytes = s.as_bytes();
    if bytes.len() != 64 {
        return Err(DecodeError::Truncated { what, needed: 64, found: bytes.len() });
    }
    let mut out = [0u8; 32];
    for (byte, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return Err(DecodeError::Invalid { what, why: "not hexadecimal" });
        };
        *byte = (high * 16 + low) as u8;
    }
    Ok(out)
}

id32!(
    /// A peer: its Ed25519 public key (what the libp2p peer id inlines).
    PeerKey, "peer key"
);
id32!(
    /// A network: hash of its signed network file's unchangeable part.
    NetworkId, "network id"
);
id32!(
    /// A placement group: hash of its [`crate::GroupTicket`], so a ticket certifies itself.
    GroupId, "group id"
);
id32!(
    /// A shard's name: BLAKE3 of its 1,048,576 bytes.
    ShardRoot, "shard root"
);
id32!(
    /// A chunk's name: keyed BLAKE3 of its plaintext under the vault's dedupe key.
    ChunkId, "chunk id"
);
id32!(
    /// A snapshot: keyed BLAKE3 of its encoded record.
    SnapshotId, "snapshot id"
);
id32!(
    /// A stripe: 32 random bytes; the stripe's keys are derived from it, so it is never used twice.
    StripeId, "stripe id"
);
id32!(
    /// A signed statement: hash of its context, signer and body, so that others can name what somebody said.
    StatementId, "statement id"
);
id32!(
    /// A vault's Ed25519 verifying key: what its head is signed with and looked up by.
    VaultKey, "vault key"
);

/// Longest domain or region text, in bytes.
pub const LABEL_MAX: usize = 64;

/// A failure and trust domain, canonical text: `op:NAME`, `v4:a.b.c`, `v6:hhhh:hhhh:hhhh` or `id:HEX`.
///
/// Colours are computed from these bytes, so two peers with an equal domain share a colour for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Domain(String);

impl Domain {
    /// Checks canonical text.
    ///
    /// # Errors
    /// Too long, an unknown prefix, or characters outside `[a-zA-Z0-9._:-]`.
    pub fn new(text: impl Into<String>) -> Result<Self, DecodeError> {
        let text = text.into();
        check_label(&text, "domain", b"._:-")?;
        if !["op:", "v4:", "v6:", "id:"].iter().any(|p| text.starts_with(p) && text.len() > p.len()) {
            return Err(DecodeError::Invalid { what: "domain", why: "must start with op:, v4:, v6: or id:" });
        }
        Ok(Self(text))
    }

    /// The domain of a named operator (`--domain NAME`).
    ///
    /// # Errors
    /// As [`Domain::new`].
    pub fn operator(name: &str) -> Result<Self, DecodeError> {
        Self::new(format!("op:{name}"))
    }

    /// The domain of a peer that has nothing better: itself. 32 hex digits of its key.
    #[must_use]
    pub fn of_peer(peer: &PeerKey) -> Self {
        let hex: String = peer.as_bytes().iter().take(16).map(|b| format!("{b:02x}")).collect();
        Self(format!("id:{hex}"))
    }

    /// The domain of a public address: its /24 or /48. `None` for loopback, private, link-local and shared
    /// addresses, which say nothing about who runs a peer.
    #[must_use]
    pub fn of_address(address: std::net::IpAddr) -> Option<Self> {
        match address {
            std::net::IpAddr::V4(a) => {
                let [x, y, z, _] = a.octets();
                let shared = x == 100 && (64..128).contains(&y);
                let special = a.is_loopback() || a.is_private() || a.is_link_local() || a.is_unspecified();
                (!special && !shared && !a.is_multicast() && !a.is_broadcast()).then(|| Self(format!("v4:{x}.{y}.{z}")))
            }
            std::net::IpAddr::V6(a) => {
                if let Some(v4) = a.to_ipv4_mapped() {
                    return Self::of_address(v4.into());
                }
                let s = a.segments();
                let local = a.is_loopback() || a.is_unspecified() || a.is_multicast();
                let private = s[0] & 0xfe00 == 0xfc00 || s[0] & 0xffc0 == 0xfe80;
                (!local && !private).then(|| Self(format!("v6:{:x}:{:x}:{:x}", s[0], s[1], s[2])))
            }
        }
    }

    /// The first address of the subnet that it names; `None` when it names none.
    #[must_use]
    pub fn first_address(&self) -> Option<std::net::IpAddr> {
        if let Some(v4) = self.0.strip_prefix("v4:") {
            return format!("{v4}.0").parse::<std::net::Ipv4Addr>().ok().map(Into::into);
        }
        let v6 = self.0.strip_prefix("v6:")?;
        format!("{v6}::").parse::<std::net::Ipv6Addr>().ok().map(Into::into)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a peer says it is: `continent/country/zone`, for example `EU/DE/FSN`. Fewer parts are allowed;
/// the empty text means unknown. Caps count the first part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Region(String);

impl Region {
    /// Checks the text.
    ///
    /// # Errors
    /// More than three parts, an empty part, too long, or characters outside `[a-zA-Z0-9._-]`.
    pub fn new(text: impl Into<String>) -> Result<Self, DecodeError> {
        let text = text.into();
        if text.is_empty() {
            return Ok(Self(text));
        }
        check_label(&text, "region", b"._-/")?;
        let parts = text.split('/').count();
        if parts > 3 || text.split('/').any(str::is_empty) {
            return Err(DecodeError::Invalid { what: "region", why: "write it as CONTINENT/COUNTRY/ZONE" });
        }
        Ok(Self(text))
    }

    /// A peer that did not say.
    #[must_use]
    pub fn unknown() -> Self {
        Self(String::new())
    }

    /// The first part (continent), what caps count; empty when unknown.
    #[must_use]
    pub fn continent(&self) -> &str {
        self.0.split('/').next().unwrap_or("")
    }

    /// The whole text; empty when unknown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the peer did not say where it is.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Region {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unknown" } else { &self.0 })
    }
}

fn check_label(text: &str, what: &'static str, extra: &[u8]) -> Result<(), DecodeError> {
    if text.len() > LABEL_MAX {
        return Err(DecodeError::TooLarge { what, limit: LABEL_MAX, found: text.len() });
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b)) {
        return Err(DecodeError::Invalid { what, why: "empty, or has a character that is not allowed" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_junk() {
        let id = GroupId::from_bytes([0xa7; 32]);
        assert_eq!(id.to_string().parse::<GroupId>(), Ok(id));
        assert!("a7".parse::<GroupId>().is_err());
        assert!("zz".repeat(32).parse::<GroupId>().is_err());
        assert!("é".repeat(32).parse::<GroupId>().is_err());
    }

    #[test]
    fn private_addresses_have_no_domain() {
        for a in ["127.0.0.1", "10.1.2.3", "192.168.0.9", "100.64.0.1", "::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1"]
        {
            assert_eq!(Domain::of_address(a.parse().expect("address")), None, "{a}");
        }
        let public: std::net::IpAddr = "203.0.114.7".parse().expect("address");
        assert_eq!(Domain::of_address(public).map(|d| d.to_string()), Some("v4:203.0.114".into()));
        for (inside, first) in [("203.0.114.7", "203.0.114.0"), ("2a01:4f8:c2c:9::1", "2a01:4f8:c2c::")] {
            let domain = Domain::of_address(inside.parse().expect("address")).expect("public");
            assert_eq!(domain.first_address(), Some(first.parse().expect("address")));
        }
        for other in ["op:v4", "id:00", "v4:1.2", "v6:1:2:3:4:5:6:7:8:9", "v4:1.2.3.4"] {
            assert_eq!(Domain::new(other).expect("valid").first_address(), None, "{other}");
        }
    }

    #[test]
    fn labels_are_checked() {
        assert!(Region::new("EU/DE/FSN").is_ok());
        assert!(Region::new("EU//FSN").is_err());
        assert!(Region::new("a/b/c/d").is_err());
        assert!(Domain::operator("acme").is_ok());
        assert!(Domain::operator("").is_err());
        assert!(Domain::operator("white space").is_err());
        assert!(Domain::new("x".repeat(65)).is_err());
    }
}
