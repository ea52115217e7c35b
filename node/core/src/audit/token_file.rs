//! A file of tokens: what its owner hands to somebody who is to see that shards are held, and not what is in them.
//!
//! ```text
//! "cairn-audit-tokens" · version 1 · when it was made, u64 · how many shards they were drawn from · count · tokens · checksum 32
//! token: ticket 68 · slot · ordinal · root 32 · count of holders · their keys, 32 each · Token 65
//! ```
//!
//! Numbers in minimal LEB128 but for the time. The checksum is BLAKE3 over all before it. Nothing in the file opens or grants
//! anything: tickets and roots every holder knows, and a digest shows no byte. Whoever has the file can show holders the right answers
//! beforehand; so what it proves, it proves to who trusts its owner and whoever had it.

use cairn_proto::{
    DecodeError, GroupTicket, PeerKey, ShardRoot, Slot, Timestamp,
    group::TICKET_SIZE,
    layout::{Reader, at_most, put_number},
};

use super::{TOKEN_SIZE, Token};

/// Most tokens of a file: at a MiB fetched for each, 64 GiB.
pub const TOKENS_MAX: usize = 65_536;
/// Most holders of a token: those that a row of the owner's can have for a slot.
pub const TOKEN_HOLDERS_MAX: usize = 16;
/// Most bytes of a file.
pub const TOKEN_FILE_MAX: usize = TOKENS_MAX * (LEAST + 32 * TOKEN_HOLDERS_MAX) + 128;

/// Bytes of a token without holders.
const LEAST: usize = TICKET_SIZE + 2 + 32 + 1 + TOKEN_SIZE;
const MAGIC: &[u8; 18] = b"cairn-audit-tokens";
const VERSION: u8 = 1;
const WHAT: &str = "file of audit tokens";
const CHECKSUM: &str = "cairn 2026-11 audit token file v1";

/// One shard and how to ask for it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// What defines the group.
    pub ticket: GroupTicket,
    /// The slot.
    pub slot: Slot,
    /// The stripe of the group.
    pub ordinal: u8,
    /// The shard's root.
    pub root: ShardRoot,
    /// Who held it when the file was made.
    pub holders: Vec<PeerKey>,
    /// The question and its answer.
    pub token: Token,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    /// When it was made.
    pub made: Timestamp,
    /// How many shards its own were drawn from.
    pub shards: u64,
    /// The tokens.
    pub tokens: Vec<Prepared>,
}

impl TokenFile {
    /// The bytes.
    ///
    /// # Errors
    /// More than a file may have.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        at_most(WHAT, TOKENS_MAX, self.tokens.len())?;
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        out.extend_from_slice(&self.made.0.to_le_bytes());
        put_number(&mut out, self.shards);
        put_number(&mut out, self.tokens.len() as u64);
        for prepared in &self.tokens {
            let Prepared { ticket, slot, ordinal, root, holders, token } = prepared;
            at_most(WHAT, TOKEN_HOLDERS_MAX, holders.len())?;
            out.extend_from_slice(&ticket.encode());
            out.extend_from_slice(&[slot.as_u8(), *ordinal]);
            out.extend_from_slice(root.as_bytes());
            // At most sixteen.
            out.push(holders.len() as u8);
            holders.iter().for_each(|holder| out.extend_from_slice(holder.as_bytes()));
            out.extend_from_slice(&token.encode());
        }
        let checksum = blake3::derive_key(CHECKSUM, &out);
        out.extend_from_slice(&checksum);
        Ok(out)
    }

    /// Reads a file of at most [`TOKEN_FILE_MAX`] bytes.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(WHAT, TOKEN_FILE_MAX, bytes.len())?;
        let truncated = DecodeError::Truncated { what: WHAT, needed: MAGIC.len() + 33, found: bytes.len() };
        let (body, checksum) = bytes.split_last_chunk::<32>().ok_or(truncated)?;
        let mut r = Reader::new(WHAT, body);
        if r.array()? != *MAGIC {
            return Err(r.invalid("this is none"));
        }
        r.version(VERSION)?;
        if blake3::derive_key(CHECKSUM, body) != *checksum {
            return Err(r.invalid("its checksum does not match: it was damaged or cut"));
        }
        let made = Timestamp(u64::from_le_bytes(r.array()?));
        let shards = r.u64()?;
        let count = r.count(TOKENS_MAX, LEAST)?;
        let tokens = (0..count).map(|_| Prepared::read(&mut r)).collect::<Result<_, _>>()?;
        r.finish()?;
        Ok(Self { made, shards, tokens })
    }
}

impl Prepared {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ticket = GroupTicket::decode(r.raw(TICKET_SIZE)?)?;
        let slot = Slot::new(r.byte()?)?;
        let ordinal = r.byte()?;
        let root = ShardRoot::from_bytes(r.array()?);
        let count = r.byte()?;
        at_most(WHAT, TOKEN_HOLDERS_MAX, count.into())?;
        let holders = (0..count).map(|_| r.array().map(PeerKey::from_bytes)).collect::<Result<_, _>>()?;
        let token = Token::decode(r.raw(TOKEN_SIZE)?)?;
        Ok(Self { ticket, slot, ordinal, root, holders, token })
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::CodeParams;

    use super::*;

    fn file() -> TokenFile {
        let ticket = GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid");
        let one = |n: u8| Prepared {
            ticket,
            slot: Slot::new(n % 8).expect("valid"),
            ordinal: 200 + n,
            root: ShardRoot::from_bytes([n; 32]),
            holders: (0..n).map(|h| PeerKey::from_bytes([h; 32])).collect(),
            token: Token { nonce: [n ^ 0x55; 32], leaves: 1 + n, expected: [n ^ 0xaa; 32] },
        };
        TokenFile { made: Timestamp(1_234_567), shards: 3000, tokens: (0..3).map(one).collect() }
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_its_format_is_frozen() {
        let bytes = file().encode().expect("valid");
        assert_eq!(TokenFile::decode(&bytes), Ok(file()));
        let lines: Vec<String> =
            bytes.chunks(32).map(|c| c.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect();
        crate::golden::check("audit-token-file.hex", &lines.concat());
    }

    #[test]
    fn what_was_touched_or_cut_is_refused() {
        let bytes = file().encode().expect("valid");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(TokenFile::decode(&bad).is_err(), "byte {at}");
            assert!(TokenFile::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let many = TokenFile { tokens: vec![file().tokens[0].clone(); TOKENS_MAX + 1], ..file() };
        assert!(many.encode().is_err());
        let holders = vec![PeerKey::from_bytes([0; 32]); TOKEN_HOLDERS_MAX + 1];
        let crowded = Prepared { holders, ..file().tokens[0].clone() };
        assert!(TokenFile { tokens: vec![crowded], ..file() }.encode().is_err());
    }
}
