//! Tokens for stewards: made of each shard that few others could audit while it is at hand, and given to one steward each.
//!
//! A group's tokens are dealt to [`SEATS`] seats. A steward that a mandate names has one for as long as the group lives, and nobody gets
//! it after that steward; with it comes a spare one, for a peer that the others put in while the owner is away. So no two stewards ever ask
//! with the same token, and each has some of every part of the group.
//!
//! Nonces follow from the group's authority, so only digests are kept: 16 bytes a token. Whoever has a full group of eight lonely slots has
//! 24 KiB of them, and a steward gets twice 6 KiB beside a record of 70.
//!
//! - **TRUST-1** A token is of the bytes that were sent, whose root the sheet has; hashed against it when they are made, so that bad memory
//!   here has no honest holder doubted. Attacked by `tests::tokens::what_stewards_are_left_is_what_honest_holders_answer`.

use std::collections::BTreeMap;

use cairn_core::audit;
use cairn_proto::{
    PeerKey, ShardRoot, Slot,
    tokens::{Booklet, TOKEN_LEAVES, TOKENS_OF_SLOT_MAX, TokenRow},
};
use futures::future::join_all;
use zeroize::Zeroizing;

use super::{ANSWER, Run};
use crate::{
    overlay::GroupAccess,
    vault::catalogue::{CatalogueError, tokens::Seat, watch::Registration},
};

/// Seats of a group, and so parts that its tokens are dealt to.
const SEATS: usize = 16;
/// Of those, stewards that the owner names: seven and three in whose place it names others. Whoever comes after them has none.
pub(in crate::vault) const SEATS_OWN: usize = 10;
/// The others are spare: of the first six, one each.
const SEATS_SPARE: usize = SEATS - SEATS_OWN;
/// Bytes of a digest that are kept.
pub(in crate::vault) const DIGEST: usize = 16;
/// Most tokens of one shard.
pub(in crate::vault) const OF_SHARD_MAX: usize = 4 * SEATS;

/// One stripe in so many has tokens beside a group's first: each costs a hash of its shards, and a backup should not feel it.
const ONE_IN: u8 = 32;

/// How many tokens are made of a shard: of a group's first stripe four for each seat, or nobody could fall silent three times in a row;
/// then one for each seat, of stripes that are drawn by a lot which holders cannot know. A full group has some twelve for a slot and seat:
/// with seven stewards one question in five days.
fn of_shard(seed: &[u8; 32], ordinal: u8) -> usize {
    let drawn = blake3::keyed_hash(seed, &[b's', ordinal]).as_bytes()[0].is_multiple_of(ONE_IN);
    match ordinal {
        0 => OF_SHARD_MAX,
        _ if drawn => SEATS,
        _ => 0,
    }
}

/// The tokens of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::vault) struct Prepared {
    pub(in crate::vault) slot: Slot,
    pub(in crate::vault) ordinal: u8,
    /// How its root begins.
    pub(in crate::vault) root: [u8; 8],
    /// How the right digests begin, by number.
    pub(in crate::vault) digests: Vec<[u8; DIGEST]>,
}

/// Secret until it is asked with; another one for each shard that ever lies there.
fn nonce(seed: &[u8; 32], slot: Slot, ordinal: u8, root: &[u8; 8], number: usize) -> [u8; 32] {
    // At most sixty-four of a shard.
    let place = [slot.as_u8(), ordinal, number as u8];
    *blake3::keyed_hash(seed, &[&place[..], root].concat()).as_bytes()
}

fn seed(access: &GroupAccess) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key("cairn 2026-11 token nonces v1", access.authority.as_bytes()))
}

/// Whether any are made of a stripe's shards.
pub(in crate::vault) fn are_made(access: &GroupAccess, ordinal: u8) -> bool {
    of_shard(&seed(access), ordinal) > 0
}

/// Makes the tokens of a shard. `None` for what is no shard, and where none are made.
pub(in crate::vault) fn prepare(
    access: &GroupAccess,
    slot: Slot,
    ordinal: u8,
    root: &ShardRoot,
    bytes: &[u8],
) -> Option<Prepared> {
    let (seed, mut head) = (seed(access), [0; 8]);
    head.copy_from_slice(&root.as_bytes()[..8]);
    let count = of_shard(&seed, ordinal);
    let nonces = (0..count).map(|number| nonce(&seed, slot, ordinal, &head, number));
    let digests = if count == 0 { return None } else { audit::digests(bytes, root, nonces, TOKEN_LEAVES)? };
    let begins = |digest: [u8; 32]| digest.first_chunk().copied();
    Some(Prepared { slot, ordinal, root: head, digests: digests.into_iter().filter_map(begins).collect() })
}

/// Whose a token is.
const fn seat_of(ordinal: u8, number: usize) -> usize {
    (2 * ordinal as usize + number) % SEATS
}

/// The booklet of a seat; `None` when there is nothing in it.
fn booklet(access: &GroupAccess, all: &[Prepared], seat: usize, steward: Option<PeerKey>) -> Option<Booklet> {
    let seed = seed(access);
    let mut slots: BTreeMap<u8, (Slot, Vec<TokenRow>)> = BTreeMap::new();
    for Prepared { slot, ordinal, root, digests } in all {
        let (_, rows) = slots.entry(slot.as_u8()).or_insert_with(|| (*slot, Vec::new()));
        for (number, digest) in digests.iter().enumerate().filter(|(number, _)| seat_of(*ordinal, *number) == seat) {
            if rows.len() < TOKENS_OF_SLOT_MAX {
                let nonce = nonce(&seed, *slot, *ordinal, root, number);
                rows.push(TokenRow { ordinal: *ordinal, root: *root, nonce, digest: *digest });
            }
        }
    }
    let mut slots: Vec<(Slot, Vec<TokenRow>)> = slots.into_values().filter(|(_, rows)| !rows.is_empty()).collect();
    slots.iter_mut().for_each(|(_, rows)| rows.sort_unstable_by_key(|row| row.nonce));
    (!slots.is_empty()).then(|| Booklet { group: access.ticket.id(), steward, slots })
}

impl Run<'_> {
    /// Leaves tokens to the stewards that have the newest sheets, as far as they have not got these tokens yet. Nothing hangs on it: what
    /// one does not take is brought with the group's next change.
    pub(super) async fn leave_tokens(
        &self,
        group: u32,
        access: &GroupAccess,
        registration: &Registration,
    ) -> Result<(), CatalogueError> {
        let catalogue = &self.session.catalogue;
        let (all, mut seats) = (catalogue.tokens(group)?, catalogue.seats(group)?);
        let shards = all.len() as u32;
        let confirmed = registration.stewards.iter().filter(|one| one.sheets >= registration.sheets);
        let deaf = self.missed().deaf.clone();
        let mut due: Vec<usize> = Vec::new();
        for one in confirmed.filter(|one| shards > 0 && !deaf.contains(&one.steward)) {
            let at = seats.iter().position(|seat| seat.steward == one.steward).unwrap_or_else(|| {
                seats.push(Seat { steward: one.steward, shards: 0 });
                seats.len() - 1
            });
            if at < SEATS_OWN && seats[at].shards != shards {
                due.push(at);
            }
        }
        seats.truncate(SEATS_OWN);
        if due.is_empty() {
            return Ok(());
        }
        // On record before anybody has one: nobody else ever gets this seat's.
        catalogue.set_seats(group, &seats)?;
        catalogue.flush()?;
        let left = due.into_iter().filter_map(|at| {
            let steward = seats.get(at)?.steward;
            let own = booklet(access, &all, at, Some(steward))?.seal(&access.authority).ok()?;
            let spare = (at < SEATS_SPARE).then(|| booklet(access, &all, SEATS_OWN + at, None)).flatten();
            let spare = spare.and_then(|spare| spare.seal(&access.authority).ok());
            let asked = self.session.overlay.leave_tokens(steward, access.ticket.id(), own, spare);
            Some(async move { (at, tokio::time::timeout(ANSWER, asked).await) })
        });
        for (at, answer) in join_all(left.collect::<Vec<_>>()).await {
            match (answer, seats.get_mut(at)) {
                (Ok(Ok(())), Some(seat)) => seat.shards = shards,
                (Err(_), Some(seat)) => self.miss(group, seat.steward),
                (answer, _) => tracing::info!(group, ?answer, "a steward did not take tokens"),
            }
        }
        catalogue.set_seats(group, &seats)
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::{CodeParams, GroupTicket, SHARD_SIZE};
    use ed25519_dalek::SigningKey;

    use super::*;

    fn access() -> GroupAccess {
        let authority = SigningKey::from_bytes(&[9; 32]);
        let ticket = GroupTicket::new(authority.verifying_key().to_bytes(), [3; 32], CodeParams::DEFAULT, 9);
        GroupAccess { ticket: ticket.expect("valid"), authority }
    }

    fn all(stripes: u16) -> Vec<Prepared> {
        let seed = seed(&access());
        let of = |slot: u8, ordinal: u8| Prepared {
            slot: Slot::new(slot).expect("valid"),
            ordinal,
            root: [ordinal; 8],
            digests: vec![[slot; DIGEST]; of_shard(&seed, ordinal)],
        };
        let of = &of;
        (0..8).flat_map(|slot| (0..stripes).map(move |ordinal| of(slot, ordinal as u8))).collect()
    }

    #[test]
    fn every_token_has_one_seat_and_every_seat_its_part() {
        let access = access();
        for (stripes, least) in [(1, 4), (2, 4), (20, 4), (256, 5)] {
            let all = all(stripes);
            let booklets: Vec<Booklet> =
                (0..SEATS).map(|seat| booklet(&access, &all, seat, None).expect("something")).collect();
            let mut nonces = std::collections::BTreeSet::new();
            for booklet in &booklets {
                assert_eq!(booklet.slots.len(), 8);
                for (slot, rows) in &booklet.slots {
                    assert!((least..=TOKENS_OF_SLOT_MAX).contains(&rows.len()), "{stripes}: {}", rows.len());
                    assert!(rows.iter().all(|row| nonces.insert((slot.as_u8(), row.nonce))), "no two have the same");
                }
                booklet.seal(&access.authority).expect("fits");
            }
            assert_eq!(nonces.len(), all.iter().map(|shard| shard.digests.len()).sum::<usize>());
        }
        assert_eq!(booklet(&access, &[], 0, None), None);
    }

    #[test]
    fn a_shard_of_another_root_has_other_nonces() {
        let (access, slot) = (access(), Slot::new(3).expect("valid"));
        let shard = |at: u8| vec![at; SHARD_SIZE];
        let root = |at: u8| cairn_core::stripe::root_of(&shard(at));
        let made = |at: u8| prepare(&access, slot, 0, &root(at), &shard(at)).expect("a shard");
        assert_eq!(made(1), made(1));
        assert_eq!(made(1).digests.len(), OF_SHARD_MAX);
        assert_ne!(made(1).digests, made(2).digests);
        assert_eq!(prepare(&access, slot, 0, &root(1), &shard(1)[1..]), None);
        assert_eq!(prepare(&access, slot, 0, &root(1), &shard(2)), None, "bad memory, or another shard");
        let lot = |authority: u8| {
            let access = GroupAccess { ticket: access.ticket, authority: SigningKey::from_bytes(&[authority; 32]) };
            assert!(are_made(&access, 0), "of the first always");
            (1..=255).filter(|ordinal| are_made(&access, *ordinal)).collect::<Vec<u8>>()
        };
        let one = lot(9);
        let made = |ordinal: &u8| prepare(&access, slot, *ordinal, &root(1), &shard(1)).is_some();
        assert!(one.iter().take(2).all(made) && (1..=255).filter(|ordinal| !one.contains(ordinal)).all(|o| !made(&o)));
        assert_ne!(lot(1), lot(2), "nobody else knows which stripes are asked for");
        let drawn: usize = (0..64).map(|authority| lot(authority).len()).sum();
        assert!((6 * 64..11 * 64).contains(&drawn), "{drawn}");
    }
}
