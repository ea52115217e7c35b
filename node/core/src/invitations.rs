//! Who invited whom: the tree that passes tell of, and what it bounds.
//!
//! A *branch* is everybody below one link of the founder's. The tree bounds and explains; it never judges: whoever invited a liar may have
//! been lied to.
//!
//! - What the peers of one branch say of others weighs together no more than [`branch_voices`], which is less than the third of all
//!   voices that it takes to change anything ([`crate::reputation`]).
//! - When peers below an inviter are proved to have lied, those whom it lets in from then on begin with less
//!   ([`newcomers_quota`]). The inviter itself, and whoever came long ago, lose nothing.
//! - A bearer's link admits so many identities: here those are counted that this node saw ([`Tree::learn`]).
//!
//! Pure and bounded. Passes are verified before they come here ([`cairn_proto::pass::Pass::verify`]).
//!
//! # Invariants
//!
//! - **TRUST-1** in part: no branch alone reaches a third of the voices, and nobody is convicted for whom it invited. Attacked by
//!   `tests` here and `reputation::tests::one_branch_has_no_third`.
//! - **ADM-3** Of those whom one bearer's link lets in, a node that keeps running admits no more than the link says. Enforced by
//!   [`Tree::learn`]; attacked by `tests::a_bearer_lets_in_as_many_as_it_may`.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{PeerKey, Timestamp, pass::Member};

use crate::peer_view::PerMille;

/// Most peers whose place is known: twice a full peer book, since owners have no entry there; 4 MB.
pub const PLACES_MAX: usize = 8192;
/// ... of one branch: whoever may invite can make as many as it has patience for, and must not make the others forgotten.
pub const PLACES_OF_BRANCH_MAX: usize = PLACES_MAX / 8;
/// Bearers' links whose users are counted, in all and of one branch.
pub const BEARERS_MAX: usize = 2048;
/// See [`BEARERS_MAX`].
pub const BEARERS_OF_BRANCH_MAX: usize = BEARERS_MAX / 8;

/// How many voices the peers of one branch have together, of those of so many domains: a quarter, and always one.
#[must_use]
pub const fn branch_voices(domains: usize) -> usize {
    if domains < 8 { 1 } else { domains / 4 }
}

/// How much of what it offers a newcomer may be given, of whose inviter's other invitees so many are proved to have lied: half for
/// each, and always something, so that it can show what it is worth.
#[must_use]
pub fn newcomers_quota(quota: PerMille, convicted: usize) -> PerMille {
    let halvings = u32::try_from(convicted).unwrap_or(u32::MAX);
    quota.checked_shr(halvings).unwrap_or(0).max(quota.min(1))
}

/// The bearer's link that brings somebody was used by as many others as it admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the invitation was used by others as often as it may be")]
pub struct UsedUp;

#[derive(Clone, Debug)]
struct Place {
    member: Member,
    seen: Timestamp,
}

#[derive(Clone, Debug)]
struct Users {
    peers: BTreeSet<PeerKey>,
    seen: Timestamp,
}

/// What is known of who invited whom.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    places: BTreeMap<PeerKey, Place>,
    /// By branch and bearer's key.
    bearers: BTreeMap<(PeerKey, PeerKey), Users>,
}

impl Tree {
    /// Takes note of a verified pass. A peer that comes with another one stands where the newer one says.
    ///
    /// # Errors
    /// A bearer's link in it admitted as many others as it may.
    pub fn learn(&mut self, member: Member, now: Timestamp) -> Result<(), UsedUp> {
        let branch = member.branch();
        let users = |bearer: &PeerKey| self.bearers.get(&(branch, *bearer));
        let below = member.steps.iter().skip(1);
        let through: Vec<(PeerKey, u8, PeerKey)> = member
            .steps
            .iter()
            .zip(below)
            .filter_map(|(step, next)| Some((step.key, step.bearer?, next.key)))
            .collect();
        for (bearer, uses, user) in &through {
            let full = |users: &Users| !users.peers.contains(user) && users.peers.len() >= usize::from(*uses);
            if users(bearer).is_some_and(full) {
                return Err(UsedUp);
            }
        }
        for (bearer, _, user) in through {
            self.count(branch, bearer, user, now);
        }
        let peer = member.peer;
        if self.places.len() >= PLACES_OF_BRANCH_MAX && !self.places.contains_key(&peer) {
            let known = self.places.iter().map(|(peer, place)| (place.member.branch(), place.seen, *peer));
            if let Some(gone) = to_forget(known, branch, PLACES_MAX, PLACES_OF_BRANCH_MAX) {
                self.places.remove(&gone);
            }
        }
        self.places.insert(peer, Place { member, seen: now });
        Ok(())
    }

    fn count(&mut self, branch: PeerKey, bearer: PeerKey, user: PeerKey, now: Timestamp) {
        if self.bearers.len() >= BEARERS_OF_BRANCH_MAX && !self.bearers.contains_key(&(branch, bearer)) {
            let known = self.bearers.iter().map(|(key, users)| (key.0, users.seen, *key));
            if let Some(gone) = to_forget(known, branch, BEARERS_MAX, BEARERS_OF_BRANCH_MAX) {
                self.bearers.remove(&gone);
            }
        }
        let users = self.bearers.entry((branch, bearer)).or_insert_with(|| Users { peers: BTreeSet::new(), seen: now });
        users.seen = now;
        users.peers.insert(user);
    }

    /// Where a peer stands.
    #[must_use]
    pub fn place(&self, peer: &PeerKey) -> Option<&Member> {
        self.places.get(peer).map(|place| &place.member)
    }

    /// Of which branch it is.
    #[must_use]
    pub fn branch(&self, peer: &PeerKey) -> Option<PeerKey> {
        self.place(peer).map(Member::branch)
    }

    /// How many of those whom the inviter of this peer let in, itself or through others, are proved to have lied. None for whom
    /// the founder let in: everybody is below the founder.
    pub fn convicted_beside(&self, peer: &PeerKey, is_convicted: impl Fn(&PeerKey) -> bool) -> usize {
        let Some(inviter) = self.place(peer).and_then(|member| member.inviters().first().copied()) else { return 0 };
        let below = |place: &&Place| place.member.steps.iter().any(|step| step.key == inviter);
        let others = self.places.values().filter(below).map(|place| &place.member.peer);
        others.filter(|other| **other != inviter && is_convicted(other)).count()
    }

    /// How many peers' places are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// What has to go before one more of this branch comes: what was not seen for the longest of this branch when it has its share, and else,
/// when there is no room at all, of the largest.
fn to_forget<K: Copy>(
    known: impl Iterator<Item = (PeerKey, Timestamp, K)>,
    branch: PeerKey,
    all_max: usize,
    branch_max: usize,
) -> Option<K> {
    let mut branches: BTreeMap<PeerKey, (usize, Timestamp, K)> = BTreeMap::new();
    let mut all = 0;
    for (of, seen, key) in known {
        all += 1;
        let (count, oldest, who) = branches.entry(of).or_insert((0, seen, key));
        *count += 1;
        if seen < *oldest {
            (*oldest, *who) = (seen, key);
        }
    }
    let own = branches.get(&branch).filter(|(count, ..)| *count >= branch_max);
    let largest = || branches.values().filter(|_| all >= all_max).max_by_key(|(count, ..)| *count);
    own.or_else(largest).map(|(_, _, key)| *key)
}

#[cfg(test)]
mod tests;
