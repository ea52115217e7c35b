//! Passes: who let whom into a network by invitation, as a chain of signed links from the founder's key to a peer's.
//!
//! Anybody verifies a pass with the network file alone; nobody is asked. An *invitation* is a pass that ends at a bearer's key, with
//! that key's secret beside it, for somebody whose peer key is not known yet: whoever has it closes the chain by signing
//! its own key.
//!
//! ```text
//! pass   = version 1 · links n (1..=8) · network id 32 · n links
//! link   = kind (0 peer, 1 bearer) · depth · uses · invitee 32 · issued 8 · use by 8 · expires 8 · signature 64
//! signed = network id · inviter's key · the link without its signature, under "cairn invitation v1"
//! text   = "cairn-pass-" base32(pass · check 4), or "cairn-invite-" base32(secret 32 · pass · check 4)
//! ```
//!
//! Times are ms since 1970, little endian, 0 for "none". Who signed a link is not written: it is the key that the link before leads
//! to, the founder's for the first.

use std::fmt;

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{DecodeError, NetworkId, PeerKey, Timestamp, network_file::NetworkFile, signed};

#[cfg(test)]
mod tests;
mod text;

pub use self::text::{Invitation, Presented, TEXT_MAX};

/// Most links of a pass. Four invitations to bearers in a row take eight, and a chain of friends of friends that is longer vouches
/// for nobody.
pub const LINKS_MAX: usize = 8;
/// Most times that one invited by the founder may be passed on from hand to hand.
pub const DEPTH_MAX: u8 = 7;
/// Most identities that one bearer's invitation admits.
pub const USES_MAX: u8 = 64;
/// A link dated further ahead than this is refused: clocks differ, but not by more.
pub const AHEAD_MAX_MS: u64 = 3600 * 1000;

const VERSION: u8 = 1;
const HEAD: usize = 2 + 32;
const SAID: usize = 3 + 32 + 3 * 8;
const LINK: usize = SAID + 64;
/// Most bytes of an encoded pass.
pub const PASS_MAX: usize = HEAD + LINKS_MAX * LINK;
const CONTEXT: &str = "cairn invitation v1";
const WHAT: &str = "pass";

/// Whom a link lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// The peer with this key.
    Peer,
    /// Whoever has the secret of this key.
    Bearer,
}

/// What an inviter says of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How often it may be passed on from here: 0 lets nobody else in.
    pub depth: u8,
    /// How many identities a bearer's key admits, 1..=[`USES_MAX`]; 0 for a peer.
    pub uses: u8,
    /// When it was said.
    pub issued: Timestamp,
    /// A bearer's: who closes the chain later than this is not let in. Whoever has the secret dates what it signs, so that
    /// this binds the honest and tells when an invitation was meant for; `expires` binds everybody.
    pub use_by: Option<Timestamp>,
    /// After this nobody is let in by it, also who was before.
    pub expires: Option<Timestamp>,
}

/// One invitation, signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    kind: LinkKind,
    invitee: [u8; 32],
    offer: Offer,
    signature: [u8; 64],
}

/// A chain of invitations: well formed, and no more than that before [`Pass::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Pass {
    network: NetworkId,
    links: Vec<Link>,
}

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// It is no pass at all.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// It is for another network.
    #[error("it is for another network")]
    OtherNetwork,
    /// It lets somebody else in.
    #[error("it was made for another peer")]
    OtherPeer,
    /// Somebody's signature is not theirs.
    #[error("a signature in it does not verify")]
    Forged,
    /// Its time is over.
    #[error("it expired")]
    Expired,
    /// A link is dated in the future.
    #[error("it is dated in the future; is the clock right?")]
    Ahead,
    /// A bearer's link was closed after its time.
    #[error("the invitation was used after its time")]
    UsedLate,
    /// Somebody let in more than it may.
    #[error("it was passed on more often than its inviters allow")]
    TooDeep,
    /// The same key twice.
    #[error("it goes in a circle")]
    Circle,
    /// A bearer's link that nobody closed, or bearers after one another.
    #[error("it ends at a bearer's key: it must be used before it lets anybody in")]
    Open,
    /// The bearer's link admitted as many as it may.
    #[error("the invitation was used by others as often as it may be")]
    UsedUp,
}

/// One step of a verified pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whom it leads to: a peer, or a bearer's key.
    pub key: PeerKey,
    /// For a bearer's key, how many it admits.
    pub bearer: Option<u8>,
}

/// What a verified pass says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who is let in.
    pub peer: PeerKey,
    /// From the founder's first link down to the peer.
    pub steps: Vec<Step>,
    /// How often it may be passed on.
    pub depth: u8,
    /// When the first of its links expires.
    pub expires: Option<Timestamp>,
}

impl Member {
    /// Who let it in, the one who did last; none when the founder did.
    #[must_use]
    pub fn inviters(&self) -> Vec<PeerKey> {
        let peers = self.steps.iter().filter(|step| step.bearer.is_none()).map(|step| step.key);
        let mut above: Vec<PeerKey> = peers.filter(|peer| *peer != self.peer).collect();
        above.reverse();
        above
    }

    /// The key of the founder's own link, below which it stands.
    #[must_use]
    pub fn branch(&self) -> PeerKey {
        self.steps.first().map_or(self.peer, |step| step.key)
    }
}

fn time(at: Option<Timestamp>) -> [u8; 8] {
    at.map_or(0, |at| at.0).to_le_bytes()
}

impl Link {
    fn sign(network: &NetworkId, kind: LinkKind, invitee: [u8; 32], offer: Offer, key: &SigningKey) -> Self {
        let mut link = Self { kind, invitee, offer, signature: [0; 64] };
        let inviter = key.verifying_key().to_bytes();
        link.signature = signed::sign(CONTEXT, &link.signed(network, &inviter), key);
        link
    }

    fn said(&self) -> [u8; SAID] {
        let mut out = [0; SAID];
        out[0] = u8::from(self.kind == LinkKind::Bearer);
        out[1] = self.offer.depth;
        out[2] = self.offer.uses;
        out[3..35].copy_from_slice(&self.invitee);
        out[35..43].copy_from_slice(&self.offer.issued.0.to_le_bytes());
        out[43..51].copy_from_slice(&time(self.offer.use_by));
        out[51..59].copy_from_slice(&time(self.offer.expires));
        out
    }

    fn signed(&self, network: &NetworkId, inviter: &[u8; 32]) -> Vec<u8> {
        [network.as_bytes().as_slice(), inviter, &self.said()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let invalid = |why| DecodeError::Invalid { what: WHAT, why };
        let (said, signature) = bytes.split_at_checked(SAID).ok_or_else(|| invalid("a link is cut short"))?;
        let signature = signature.try_into().map_err(|_| invalid("a link is cut short"))?;
        let number = |at: usize| -> u64 {
            let mut eight = [0; 8];
            eight.copy_from_slice(&said[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let at = |ms: u64| (ms != 0).then_some(Timestamp(ms));
        let kind = match said[0] {
            0 => LinkKind::Peer,
            1 => LinkKind::Bearer,
            _ => return Err(invalid("a link of an unknown kind")),
        };
        let mut invitee = [0; 32];
        invitee.copy_from_slice(&said[3..35]);
        let (issued, use_by, expires) = (Timestamp(number(35)), at(number(43)), at(number(51)));
        let offer = Offer { depth: said[1], uses: said[2], issued, use_by, expires };
        check(kind, &offer)?;
        Ok(Self { kind, invitee, offer, signature })
    }
}

/// What a link may say whoever signs it.
fn check(kind: LinkKind, offer: &Offer) -> Result<(), DecodeError> {
    let why = match kind {
        _ if offer.depth > DEPTH_MAX => "a link may be passed on too often",
        LinkKind::Peer if offer.uses != 0 || offer.use_by.is_some() => "a peer's link counts uses",
        LinkKind::Bearer if !(1..=USES_MAX).contains(&offer.uses) => "a bearer's link admits nobody, or too many",
        _ => return Ok(()),
    };
    Err(DecodeError::Invalid { what: WHAT, why })
}

impl Pass {
    /// The founder's first link.
    ///
    /// # Errors
    /// The offer is out of bounds.
    pub fn found(
        network: &NetworkFile,
        founder: &SigningKey,
        kind: LinkKind,
        invitee: [u8; 32],
        offer: Offer,
    ) -> Result<Self, PassError> {
        check(kind, &offer)?;
        if founder.verifying_key().to_bytes() != *network.founder.as_bytes() {
            return Err(PassError::Forged);
        }
        let link = Link::sign(&network.id, kind, invitee, offer, founder);
        Ok(Self { network: network.id, links: vec![link] })
    }

    /// One link more, signed by whom the last one leads to.
    ///
    /// # Errors
    /// The offer is out of bounds, the key is not whom the last link leads to, or the chain is as long or as deep as it may be.
    pub fn extend(&self, key: &SigningKey, kind: LinkKind, invitee: [u8; 32], offer: Offer) -> Result<Self, PassError> {
        check(kind, &offer)?;
        let last = self.links.last().ok_or(PassError::Open)?;
        if key.verifying_key().to_bytes() != last.invitee {
            return Err(PassError::Forged);
        }
        let deep = match last.kind {
            LinkKind::Peer => offer.depth >= last.offer.depth,
            LinkKind::Bearer => offer.depth > last.offer.depth,
        };
        if deep || self.links.len() >= LINKS_MAX {
            return Err(PassError::TooDeep);
        }
        let mut links = self.links.clone();
        links.push(Link::sign(&self.network, kind, invitee, offer, key));
        Ok(Self { network: self.network, links })
    }

    /// Whom it leads to.
    #[must_use]
    pub fn holder(&self) -> PeerKey {
        PeerKey::from_bytes(self.links.last().map_or([0; 32], |link| link.invitee))
    }

    /// For which network.
    #[must_use]
    pub const fn network(&self) -> &NetworkId {
        &self.network
    }

    /// Whether one's chain begins as the other's does.
    #[must_use]
    pub fn continues(&self, other: &Self) -> bool {
        self.network == other.network && self.links.starts_with(&other.links)
    }

    /// How many links may still be added.
    #[must_use]
    pub fn room(&self) -> usize {
        LINKS_MAX.saturating_sub(self.links.len())
    }

    /// How often its holder may pass it on.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.links.last().map_or(0, |link| link.offer.depth)
    }

    /// Follows the chain from the founder down. Costs a signature a link, at most [`LINKS_MAX`].
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn verify(&self, network: &NetworkFile, now: Timestamp) -> Result<Member, PassError> {
        let member = self.follow(network, now)?;
        if self.links.last().is_none_or(|last| last.kind == LinkKind::Bearer) {
            return Err(PassError::Open);
        }
        Ok(member)
    }

    /// Also for a chain that ends at a bearer's key.
    fn follow(&self, network: &NetworkFile, now: Timestamp) -> Result<Member, PassError> {
        if self.network != network.id {
            return Err(PassError::OtherNetwork);
        }
        let mut inviter = *network.founder.as_bytes();
        let mut seen = vec![inviter];
        // The bearer's offer, when the link before is a bearer's.
        let mut bearer: Option<&Offer> = None;
        let mut depth = DEPTH_MAX + 1;
        let mut steps = Vec::with_capacity(self.links.len());
        let mut expires: Option<Timestamp> = None;
        for link in &self.links {
            let offer = &link.offer;
            // What is cheap comes first.
            if seen.contains(&link.invitee) {
                return Err(PassError::Circle);
            }
            if offer.issued > now.plus_ms(AHEAD_MAX_MS) {
                return Err(PassError::Ahead);
            }
            if offer.expires.is_some_and(|at| at <= now) {
                return Err(PassError::Expired);
            }
            match bearer {
                Some(_) if link.kind == LinkKind::Bearer => return Err(PassError::Open),
                Some(by) if by.use_by.is_some_and(|at| offer.issued > at) => return Err(PassError::UsedLate),
                Some(by) if offer.depth > by.depth => return Err(PassError::TooDeep),
                None if offer.depth >= depth => return Err(PassError::TooDeep),
                _ => {}
            }
            signed::verify(CONTEXT, &link.signed(&self.network, &inviter), &inviter, &link.signature)
                .map_err(|_| PassError::Forged)?;
            seen.push(link.invitee);
            (inviter, depth) = (link.invitee, offer.depth);
            bearer = (link.kind == LinkKind::Bearer).then_some(offer);
            expires = expires.into_iter().chain(offer.expires).min();
            steps.push(Step { key: PeerKey::from_bytes(link.invitee), bearer: bearer.map(|by| by.uses) });
        }
        Ok(Member { peer: self.holder(), steps, depth, expires })
    }

    /// At most [`PASS_MAX`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.links.len() * LINK);
        out.push(VERSION);
        out.push(u8::try_from(self.links.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(self.network.as_bytes());
        for link in &self.links {
            out.extend_from_slice(&link.said());
            out.extend_from_slice(&link.signature);
        }
        out
    }

    /// Reads what [`Pass::encode`] wrote, and nothing else. No signature is looked at.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > PASS_MAX {
            return Err(DecodeError::TooLarge { what: WHAT, limit: PASS_MAX, found: bytes.len() });
        }
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(DecodeError::Truncated {
            what: WHAT,
            needed: HEAD,
            found: bytes.len(),
        })?;
        let invalid = |why| DecodeError::Invalid { what: WHAT, why };
        if head[0] != VERSION {
            return Err(invalid("an unknown version"));
        }
        let count = usize::from(head[1]);
        if !(1..=LINKS_MAX).contains(&count) {
            return Err(invalid("it has no links, or too many"));
        }
        if rest.len() != count * LINK {
            return Err(DecodeError::Truncated { what: WHAT, needed: HEAD + count * LINK, found: bytes.len() });
        }
        let links = rest.chunks_exact(LINK).map(Link::decode).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { network: NetworkId::from_slice(&head[2..])?, links })
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pass({} links to {})", self.links.len(), self.holder().short())
    }
}

/// A bearer's key pair. Wiped when dropped.
fn bearer_key(secret: &Zeroizing<[u8; 32]>) -> SigningKey {
    let mut copy = **secret;
    let key = SigningKey::from_bytes(&copy);
    copy.zeroize();
    key
}
