//! What is known of holders beyond the groups' rows: who left a row or waits to enter one, and who does not answer.
//!
//! Both are this machine's alone: a recovery on another one begins without them, and one here takes the first over if the
//! old catalogue can be read.

use std::collections::BTreeMap;

use cairn_core::placement::vetting::Given;
use cairn_proto::{Domain, PeerKey, Timestamp};

use super::{
    Catalogue, CatalogueError, Result,
    guard::Change,
    layout::{FORMER, GIVEN, SILENT, former_key, id_key},
};

/// Most entries of [`Former`] for a group: with the longest names they fill a row. When they are used up nobody leaves a
/// row any more, because separation comes before redundancy.
pub(in crate::vault) const FORMER_MAX: usize = 64;

/// Of those, how many newcomers and replacements may use up. The others are for those who leave a row, so that nobody who
/// takes offers and keeps nothing can bring a group's repair to an end.
pub(in crate::vault) const OFFERED_MAX: usize = 48;

/// Somebody who has, had or may have shards of a slot and does not stand in the group's row: it left it, or waits to enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::vault) struct Former {
    /// Which slot.
    pub(in crate::vault) slot: u8,
    /// Who. Its domain is not needed: all peers of a domain have the one colour of this slot.
    pub(in crate::vault) peer: PeerKey,
    /// Where it stood; `None` where that was not known.
    pub(in crate::vault) subnet: Option<Domain>,
}

impl Former {
    fn put(&self, out: &mut Vec<u8>) {
        let subnet = self.subnet.as_ref().map_or("", Domain::as_str);
        out.push(self.slot);
        out.extend_from_slice(self.peer.as_bytes());
        // A domain has at most 64 bytes.
        out.push(subnet.len() as u8);
        out.extend_from_slice(subnet.as_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (slot, rest) = bytes.split_first()?;
        let (peer, rest) = rest.split_first_chunk::<32>()?;
        let (length, rest) = rest.split_first()?;
        let (subnet, rest) = rest.split_at_checked(usize::from(*length))?;
        *bytes = rest;
        let subnet = std::str::from_utf8(subnet).ok()?;
        let subnet = if subnet.is_empty() { None } else { Some(Domain::new(subnet).ok()?) };
        Some(Self { slot: *slot, peer: PeerKey::from_bytes(*peer), subnet })
    }
}

impl Catalogue {
    /// Who is outside the rows, by group.
    pub(in crate::vault) fn formers(&self) -> Result<BTreeMap<u32, Vec<Former>>> {
        self.scan(FORMER)
            .map(|item| {
                let (key, value) = item?;
                let bad = CatalogueError::Damaged("a row of former holders");
                let group: [u8; 4] = key[1..].try_into().map_err(|_| bad.clone())?;
                let (mut left, mut found) = (&value[..], Vec::new());
                while !left.is_empty() {
                    found.push(Former::take(&mut left).ok_or(bad.clone())?);
                }
                Ok((u32::from_be_bytes(group), found))
            })
            .collect()
    }

    /// Replaces who is outside a group's row.
    pub(in crate::vault) fn set_formers(&self, group: u32, formers: &[Former]) -> Result<()> {
        let mut value = Vec::new();
        formers.iter().take(FORMER_MAX).for_each(|former| former.put(&mut value));
        let mut batch = Change::default();
        batch.put(&former_key(group), value);
        self.apply(batch)
    }

    /// What newcomers were given today.
    pub(in crate::vault) fn given(&self, now: Timestamp) -> Result<Given> {
        Ok(Given::restored(self.given_rows()?, now))
    }

    fn given_rows(&self) -> Result<Vec<(PeerKey, u64, u32)>> {
        self.scan(GIVEN)
            .map(|item| {
                let (key, value) = item?;
                let bad = CatalogueError::Damaged("a row of what a newcomer was given");
                let peer: [u8; 32] = key[1..].try_into().map_err(|_| bad.clone())?;
                let (day, shards) = value.split_first_chunk::<8>().ok_or(bad.clone())?;
                let shards: [u8; 4] = shards.try_into().map_err(|_| bad)?;
                Ok((PeerKey::from_bytes(peer), u64::from_le_bytes(*day), u32::from_le_bytes(shards)))
            })
            .collect()
    }

    /// Replaces it, atomically.
    pub(in crate::vault) fn set_given(&self, given: &Given) -> Result<()> {
        let before: BTreeMap<PeerKey, (u64, u32)> =
            self.given_rows()?.into_iter().map(|(peer, day, shards)| (peer, (day, shards))).collect();
        let after: BTreeMap<PeerKey, (u64, u32)> =
            given.kept().map(|(peer, day, shards)| (peer, (day, shards))).collect();
        let mut batch = Change::default();
        for peer in before.keys().filter(|peer| !after.contains_key(peer)) {
            batch.remove(id_key(GIVEN, peer.as_bytes()));
        }
        for (peer, (day, shards)) in after.iter().filter(|(peer, now)| before.get(peer) != Some(now)) {
            let value = [&day.to_le_bytes()[..], &shards.to_le_bytes()].concat();
            batch.put(&id_key(GIVEN, peer.as_bytes()), value);
        }
        self.apply(batch)
    }

    /// Holders that did not answer when they were last asked, with the time of the first question that they did not answer,
    /// or [`FOUND_GONE`](crate::vault::holdings::FOUND_GONE).
    pub(in crate::vault) fn silent(&self) -> Result<BTreeMap<PeerKey, Timestamp>> {
        self.scan(SILENT)
            .map(|item| {
                let (key, value) = item?;
                let bad = |_| CatalogueError::Damaged("a row of a silent holder");
                let peer: [u8; 32] = key[1..].try_into().map_err(bad)?;
                let since: [u8; 8] = value[..].try_into().map_err(bad)?;
                Ok((PeerKey::from_bytes(peer), Timestamp(u64::from_le_bytes(since))))
            })
            .collect()
    }

    /// Replaces who is silent since when, atomically.
    pub(in crate::vault) fn set_silent(&self, silent: &BTreeMap<PeerKey, Timestamp>) -> Result<()> {
        let before = self.silent()?;
        let mut batch = Change::default();
        for peer in before.keys().filter(|peer| !silent.contains_key(peer)) {
            batch.remove(id_key(SILENT, peer.as_bytes()));
        }
        for (peer, since) in silent.iter().filter(|(peer, since)| before.get(peer) != Some(since)) {
            batch.put(&id_key(SILENT, peer.as_bytes()), since.0.to_le_bytes().to_vec());
        }
        self.apply(batch)
    }
}
