//! Passes and invitations as one line of text, for mails and terminals.

use std::fmt;

use zeroize::Zeroizing;

use super::{LinkKind, Member, Offer, PASS_MAX, Pass, PassError, bearer_key};
use crate::{DecodeError, PeerKey, Timestamp, network_file::NetworkFile};

const PASS: &str = "cairn-pass-";
const INVITE: &str = "cairn-invite-";
/// RFC 4648's base32 in small letters: no letter that is taken for a digit, and one double click takes all of it.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const CHECK: usize = 4;
/// Most characters of a text that is looked at.
pub const TEXT_MAX: usize = INVITE.len() + (32 + PASS_MAX + CHECK) * 8 / 5 + 8;
const WHAT: &str = "invitation";

/// A chain that ends at a bearer's key, and that key's secret: whoever has it may close it. Never shown but by
/// [`Invitation::to_text`].
#[derive(Clone)]
pub struct Invitation {
    chain: Pass,
    secret: Zeroizing<[u8; 32]>,
}

/// What somebody got who was invited.
#[derive(Clone, Debug)]
pub enum Presented {
    /// To be closed.
    Invitation(Invitation),
    /// A pass for one peer.
    Pass(Pass),
}

impl Presented {
    /// Reads either text; blanks and line breaks that a mail put into it do not matter, nor do capitals.
    ///
    /// # Errors
    /// It is neither, or a character is wrong.
    pub fn parse(text: &str) -> Result<Self, DecodeError> {
        if text.len() > 2 * TEXT_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: 2 * TEXT_MAX, found: text.len() });
        }
        let invalid = |why| DecodeError::Invalid { what: WHAT, why };
        let plain: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect());
        let neither = || invalid("it begins neither with cairn-invite- nor with cairn-pass-");
        if let Some(digits) = plain.strip_prefix(INVITE) {
            let bytes = unwrapped(digits)?;
            let (secret, chain) = bytes.split_at_checked(32).ok_or_else(|| invalid("it is cut short"))?;
            let mut own = Zeroizing::new([0; 32]);
            own.copy_from_slice(secret);
            return Invitation::new(Pass::decode(chain)?, own).map(Self::Invitation);
        }
        let digits = plain.strip_prefix(PASS).ok_or_else(neither)?;
        Pass::decode(&unwrapped(digits)?).map(Self::Pass)
    }
}

impl Pass {
    /// One line of text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = PASS.to_owned();
        wrap(&self.encode(), &mut text);
        text
    }
}

impl Invitation {
    /// A chain and the secret of the bearer's key that it ends at.
    ///
    /// # Errors
    /// They do not belong together.
    pub fn new(chain: Pass, secret: Zeroizing<[u8; 32]>) -> Result<Self, DecodeError> {
        let ends = chain.links.last().is_some_and(|last| last.kind == LinkKind::Bearer);
        let own = bearer_key(&secret).verifying_key().to_bytes() == *chain.holder().as_bytes();
        if !ends || !own {
            return Err(DecodeError::Invalid {
                what: WHAT,
                why: "the secret is not of the key that the chain ends at",
            });
        }
        Ok(Self { chain, secret })
    }

    /// The bearer's public key of a secret.
    #[must_use]
    pub fn key_of(secret: &Zeroizing<[u8; 32]>) -> [u8; 32] {
        bearer_key(secret).verifying_key().to_bytes()
    }

    /// The chain down to the bearer's key.
    #[must_use]
    pub const fn chain(&self) -> &Pass {
        &self.chain
    }

    /// What it would say of whoever uses it.
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    pub fn verify(&self, network: &NetworkFile, now: Timestamp) -> Result<Member, PassError> {
        let member = self.chain.follow(network, now)?;
        let use_by = self.chain.links.last().and_then(|last| last.offer.use_by);
        if use_by.is_some_and(|at| at < now) { Err(PassError::UsedLate) } else { Ok(member) }
    }

    /// Closes the chain at this peer.
    ///
    /// # Errors
    /// The chain is as long as it may be.
    pub fn accept(&self, peer: &PeerKey, now: Timestamp) -> Result<Pass, PassError> {
        let offer = Offer { depth: self.chain.depth(), uses: 0, issued: now, use_by: None, expires: None };
        self.chain.extend(&bearer_key(&self.secret), LinkKind::Peer, *peer.as_bytes(), offer)
    }

    /// One line of text. Whoever reads it may use it.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let chain = self.chain.encode();
        let mut bytes = Zeroizing::new(Vec::with_capacity(32 + chain.len()));
        bytes.extend_from_slice(self.secret.as_slice());
        bytes.extend_from_slice(&chain);
        // Room from the start: what a growing string leaves behind is not wiped.
        let mut text = Zeroizing::new(String::with_capacity(TEXT_MAX));
        text.push_str(INVITE);
        wrap(&bytes, &mut text);
        text
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invitation({:?})", self.chain)
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let hash = blake3::derive_key("cairn 2026-11 invitation text v1", bytes);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Bytes and their check, five bits a character.
fn wrap(bytes: &[u8], out: &mut String) {
    let (mut held, mut bits) = (0u32, 0);
    let mut push = |value: u32| out.push(char::from(DIGITS[(value & 31) as usize]));
    for byte in bytes.iter().chain(&check(bytes)) {
        held = ((held << 8) | u32::from(*byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(held >> bits);
        }
    }
    if bits > 0 {
        push(held << (5 - bits));
    }
}

fn unwrapped(digits: &str) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
    let invalid = |why| DecodeError::Invalid { what: WHAT, why };
    if digits.len() > TEXT_MAX {
        return Err(DecodeError::TooLarge { what: WHAT, limit: TEXT_MAX, found: digits.len() });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() * 5 / 8 + 1));
    let (mut held, mut bits) = (0u32, 0);
    for digit in digits.bytes() {
        let value = DIGITS.iter().position(|d| *d == digit).and_then(|at| u32::try_from(at).ok());
        held = ((held << 5) | value.ok_or_else(|| invalid("a character is wrong"))?) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(((held >> bits) & 0xff) as u8);
        }
    }
    // One text for each invitation: what is left over is less than a character, and nothing.
    if bits >= 5 || held & ((1 << bits) - 1) != 0 {
        return Err(invalid("a character is wrong, or one is missing"));
    }
    let body = bytes.len().checked_sub(CHECK).ok_or_else(|| invalid("it is cut short"))?;
    if check(&bytes[..body]) != bytes[body..] {
        return Err(invalid("a character is wrong, or one is missing"));
    }
    bytes.truncate(body);
    Ok(bytes)
}
