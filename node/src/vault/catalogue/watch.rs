//! With which stewards each group was left, and what they confirmed. This machine's alone: a recovery on another one begins
//! without it and gives new mandates, whose generation is higher because a head's sequence only grows.

use std::collections::BTreeMap;

use cairn_proto::{
    PeerKey, Timestamp,
    mandate::{MANDATE_MAX, STEWARDS_MAX},
};

use super::{
    Catalogue, CatalogueError, Result,
    guard::Change,
    layout::{WATCH, watch_key},
};

/// Peers that refused to watch a group and are not asked again; the oldest are forgotten, and may have changed their mind.
pub(in crate::vault) const REFUSED_MAX: usize = 16;
/// Layout of the row. Another one is as good as none: a new mandate is given.
const VERSION: u8 = 2;

/// One steward of a group's mandate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vault) struct Confirmed {
    /// Who.
    pub(in crate::vault) steward: PeerKey,
    /// Which generation of the sheets it confirmed, under this mandate; 0 for none.
    pub(in crate::vault) sheets: u64,
    /// When.
    pub(in crate::vault) at: Timestamp,
    /// Since when it leaves questions unanswered; 0 when it does not.
    pub(in crate::vault) silent_since: Timestamp,
}

/// How a group was left with its stewards.
///
/// Layout: version `2` · sheets' generation u64 · digest 32 · floor u64 · mandate (length u16, bytes) · stewards (count u8; each
/// 32, generation u64, at u64, silent since u64) · refused (count u8; 32 each) · put off u64. Numbers
/// little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::vault) struct Registration {
    /// The mandate, sealed; empty while the first one is put off.
    pub(in crate::vault) mandate: Vec<u8>,
    /// Generation of the sheets that were made last.
    pub(in crate::vault) sheets: u64,
    /// Of what they say.
    pub(in crate::vault) digest: [u8; 32],
    /// The next mandate's generation is higher than this: a steward had a newer one than this machine knew.
    pub(in crate::vault) floor: u64,
    /// The mandate's stewards, in its order.
    pub(in crate::vault) stewards: Vec<Confirmed>,
    /// Who refused, oldest first, at most [`REFUSED_MAX`].
    pub(in crate::vault) refused: Vec<PeerKey>,
    /// Since when a new mandate is put off, for who knows what was done under the old one does not answer; 0 when it is not.
    pub(in crate::vault) put_off: Timestamp,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            mandate: Vec::new(),
            sheets: 0,
            digest: [0; 32],
            floor: 0,
            stewards: Vec::new(),
            refused: Vec::new(),
            put_off: Timestamp(0),
        }
    }
}

impl Registration {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.sheets.to_le_bytes());
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&self.floor.to_le_bytes());
        // A mandate has at most MANDATE_MAX bytes.
        out.extend_from_slice(&(self.mandate.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.mandate);
        out.push(self.stewards.len().min(STEWARDS_MAX) as u8);
        for one in self.stewards.iter().take(STEWARDS_MAX) {
            out.extend_from_slice(one.steward.as_bytes());
            [one.sheets, one.at.0, one.silent_since.0].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        let refused = &self.refused[self.refused.len().saturating_sub(REFUSED_MAX)..];
        out.push(refused.len() as u8);
        refused.iter().for_each(|peer| out.extend_from_slice(peer.as_bytes()));
        out.extend_from_slice(&self.put_off.0.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut left = bytes;
        (take::<1>(&mut left)? == [VERSION]).then_some(())?;
        let sheets = number(&mut left)?;
        let digest = take(&mut left)?;
        let floor = number(&mut left)?;
        let length = usize::from(u16::from_le_bytes(take(&mut left)?));
        let (mandate, rest) = left.split_at_checked(length).filter(|_| length <= MANDATE_MAX)?;
        left = rest;
        let [count] = take(&mut left)?;
        let mut stewards = Vec::new();
        for _ in 0..usize::from(count).min(STEWARDS_MAX) {
            let steward = PeerKey::from_bytes(take(&mut left)?);
            let (sheets, at) = (number(&mut left)?, Timestamp(number(&mut left)?));
            stewards.push(Confirmed { steward, sheets, at, silent_since: Timestamp(number(&mut left)?) });
        }
        let [count] = take(&mut left)?;
        let refused = (0..count).map(|_| take(&mut left).map(PeerKey::from_bytes)).collect::<Option<_>>()?;
        let (mandate, put_off) = (mandate.to_vec(), Timestamp(number(&mut left)?));
        left.is_empty().then_some(Self { mandate, sheets, digest, floor, stewards, refused, put_off })
    }

    /// How many have confirmed the newest sheets.
    pub(in crate::vault) fn confirmed(&self) -> usize {
        self.stewards.iter().filter(|one| one.sheets >= self.sheets).count()
    }

    /// Somebody will not watch it.
    pub(in crate::vault) fn refuse(&mut self, peer: PeerKey) {
        if !self.refused.contains(&peer) {
            self.refused.push(peer);
        }
        let over = self.refused.len().saturating_sub(REFUSED_MAX);
        self.refused.drain(..over);
    }
}

fn take<const N: usize>(left: &mut &[u8]) -> Option<[u8; N]> {
    let (found, rest) = left.split_first_chunk::<N>()?;
    *left = rest;
    Some(*found)
}

fn number(left: &mut &[u8]) -> Option<u64> {
    take(left).map(u64::from_le_bytes)
}

impl Catalogue {
    /// How a group was left with its stewards; `None` when it was not.
    pub(in crate::vault) fn registration(&self, group: u32) -> Result<Option<Registration>> {
        Ok(self.get(&watch_key(group))?.and_then(|bytes| Registration::decode(&bytes)))
    }

    /// The same of all groups: 1 KiB each at most.
    pub(in crate::vault) fn registrations(&self) -> Result<BTreeMap<u32, Registration>> {
        let mut found = BTreeMap::new();
        for item in self.scan(WATCH) {
            let (key, value) = item?;
            let group: [u8; 4] = key[1..].try_into().map_err(|_| CatalogueError::Damaged("a key of stewards"))?;
            found.extend(Registration::decode(&value).map(|row| (u32::from_be_bytes(group), row)));
        }
        Ok(found)
    }

    /// Sets it.
    pub(in crate::vault) fn set_registration(&self, group: u32, row: &Registration) -> Result<()> {
        let mut batch = Change::default();
        batch.put(&watch_key(group), row.encode());
        self.apply(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_as_it_was_written_and_no_other_does() {
        let one = |at: u8| Confirmed {
            steward: PeerKey::from_bytes([at; 32]),
            sheets: u64::from(at) << 40,
            at: Timestamp(7),
            silent_since: Timestamp(at.into()),
        };
        let mut row = Registration {
            mandate: vec![3; MANDATE_MAX],
            sheets: 9 << 40,
            digest: [8; 32],
            floor: u64::MAX,
            stewards: (1..=7).map(one).collect(),
            refused: Vec::new(),
            put_off: Timestamp(5),
        };
        (0..20).for_each(|at| row.refuse(PeerKey::from_bytes([at; 32])));
        row.refuse(PeerKey::from_bytes([19; 32]));
        assert_eq!(row.refused.len(), REFUSED_MAX);
        assert_eq!(row.refused.first(), Some(&PeerKey::from_bytes([4; 32])), "the oldest went");
        assert_eq!(row.confirmed(), 0);
        let bytes = row.encode();
        assert!(bytes.len() <= super::super::layout::ROW_MAX);
        assert_eq!(Registration::decode(&bytes), Some(row));
        (0..bytes.len()).for_each(|end| assert_eq!(Registration::decode(&bytes[..end]), None, "{end}"));
        let other = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(Registration::decode(&other), None, "another layout");
    }
}
