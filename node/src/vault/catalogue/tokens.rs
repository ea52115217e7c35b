//! Tokens that were made when the shards were at hand, and which steward of a group has which part of them. This machine's alone: a
//! recovery on another one makes new ones of what it stores, and stewards keep those that they have.

use cairn_proto::{PeerKey, Slot};

use super::{
    Catalogue, CatalogueError, Result,
    guard::Change,
    layout::{seats_key, tokens_key},
};
use crate::vault::stewards::tokens::{DIGEST, OF_SHARD_MAX, Prepared, SEATS_OWN};

/// A steward and what it was left: how many shards had tokens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vault) struct Seat {
    /// Who; its place in the list says which tokens are its own.
    pub(in crate::vault) steward: PeerKey,
    /// Shards with tokens when it was left the newest ones; 0 when it was left none.
    pub(in crate::vault) shards: u32,
}

impl Catalogue {
    /// Keeps a stripe's tokens.
    pub(in crate::vault) fn set_tokens(&self, group: u32, ordinal: u8, tokens: &[Prepared]) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        let mut batch = Change::default();
        for Prepared { slot, root, digests, .. } in tokens {
            let mut row = root.to_vec();
            digests.iter().take(OF_SHARD_MAX).for_each(|digest| row.extend_from_slice(digest));
            batch.put(&tokens_key(group, slot.as_u8(), ordinal), row);
        }
        self.apply(batch)
    }

    /// All tokens of a group, by slot and ordinal: some 24 KiB for a full one.
    pub(in crate::vault) fn tokens(&self, group: u32) -> Result<Vec<Prepared>> {
        let mut found = Vec::new();
        for item in self.scan_below(&tokens_key(group, 0, 0)[..5]) {
            let (key, value) = item?;
            let damaged = || CatalogueError::Damaged("a row of tokens");
            let (root, digests) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
            let (digests, rest) = digests.as_chunks::<DIGEST>();
            let [.., slot, ordinal] = key[..] else { return Err(damaged()) };
            let slot = Slot::new(slot).map_err(|_| damaged())?;
            if !rest.is_empty() || digests.len() > OF_SHARD_MAX {
                return Err(damaged());
            }
            found.push(Prepared { slot, ordinal, root: *root, digests: digests.to_vec() });
        }
        Ok(found)
    }

    /// Who has which part of a group's tokens.
    pub(in crate::vault) fn seats(&self, group: u32) -> Result<Vec<Seat>> {
        let row = self.get(&seats_key(group))?.unwrap_or_default();
        let (seats, rest) = row.as_chunks::<36>();
        if !rest.is_empty() {
            return Err(CatalogueError::Damaged("a row of seats"));
        }
        let seat = |bytes: &[u8; 36]| {
            let (mut peer, mut shards) = ([0; 32], [0; 4]);
            peer.copy_from_slice(&bytes[..32]);
            shards.copy_from_slice(&bytes[32..]);
            Seat { steward: PeerKey::from_bytes(peer), shards: u32::from_le_bytes(shards) }
        };
        Ok(seats.iter().map(seat).collect())
    }

    /// Sets it.
    pub(in crate::vault) fn set_seats(&self, group: u32, seats: &[Seat]) -> Result<()> {
        let mut row = Vec::with_capacity(36 * SEATS_OWN);
        for seat in seats.iter().take(SEATS_OWN) {
            row.extend_from_slice(seat.steward.as_bytes());
            row.extend_from_slice(&seat.shards.to_le_bytes());
        }
        let mut batch = Change::default();
        batch.put(&seats_key(group), row);
        self.apply(batch)
    }
}
