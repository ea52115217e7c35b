//! A group's record as its stewards get it: the mandate, and a sheet for each slot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_proto::{
    DecodeError, GroupRecord, Mandate, PeerKey, Powers, SHARD_SIZE, STRIPES_PER_GROUP_MAX, ShardRoot, SheetRow,
    SlotSheet, Timestamp,
    index::{StripeNo, StripeRow},
    mandate::{MANDATE_MS_MAX, REPLICAS_MAX},
    manifest::GroupRow,
    order::SKEW_MS,
};

use super::words::Said;
use crate::{
    overlay::GroupAccess,
    vault::catalogue::{Catalogue, CatalogueError, watch::Registration},
};

/// How often a month stewards may move a full group with all its copies. Once is what it takes when every holder goes at the same
/// time; a rebuild moves k times what it gives; and a month in which more is lost than this is not to be met by moving shards.
const FULL_MOVES: u64 = 4;

/// What a group has in it: that which its sheets say.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// Order of stripes does not matter, so that they need not be in memory to be summed up.
    sum: u128,
    stripes: BTreeMap<u8, (StripeNo, u8, Vec<Option<ShardRoot>>)>,
}

impl Contents {
    fn add(&mut self, row: StripeRow, keep: bool) {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 stripe in a sheet v1");
        hasher.update(&[row.ordinal, row.used]);
        for (slot, root) in row.present() {
            hasher.update(&[slot.as_u8()]).update(root.as_bytes());
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(first));
        if keep {
            self.stripes.insert(row.ordinal, (row.no, row.used, row.roots));
        }
    }

    /// Of all that sheets made now would say. It is the same as long as nothing changes, and stands in the catalogue.
    pub(super) fn digest(&self, row: &GroupRow, leaning: &BTreeSet<usize>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 sheets of a group v1");
        hasher.update(&self.sum.to_le_bytes());
        for holders in &row.holders {
            hasher.update(&(holders.len() as u64).to_le_bytes());
            for peer in holders {
                hasher.update(peer.as_bytes());
            }
        }
        // Nothing where none does, as it always was.
        for slot in leaning {
            hasher.update(&(*slot as u64).to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// What each group has in it, to be compared: some bytes a group. Groups without a stripe are left out.
pub(super) async fn contents(catalogue: &Catalogue) -> Result<BTreeMap<u32, Contents>, CatalogueError> {
    read(catalogue, None).await
}

/// What these groups have in them, to be sent: 80 KiB for each.
pub(super) async fn rows(
    catalogue: &Catalogue,
    groups: BTreeSet<u32>,
) -> Result<BTreeMap<u32, Contents>, CatalogueError> {
    read(catalogue, Some(groups)).await
}

async fn read(catalogue: &Catalogue, only: Option<BTreeSet<u32>>) -> Result<BTreeMap<u32, Contents>, CatalogueError> {
    let catalogue = catalogue.clone();
    let work = move || {
        let mut found: BTreeMap<u32, Contents> = BTreeMap::new();
        for row in catalogue.stripes() {
            let row = row?;
            if only.as_ref().is_none_or(|only| only.contains(&row.group)) {
                found.entry(row.group).or_default().add(row, only.is_some());
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| worker())?
}

fn worker() -> CatalogueError {
    CatalogueError::Database("a worker stopped unexpectedly".into())
}

/// Copies of each shard that the group was made for: every slot was given to as many at first, and is to no fewer since.
fn replicas(row: &GroupRow, most: usize) -> u8 {
    let given = row.holders.iter().map(Vec::len).min().unwrap_or(1);
    given.min(most).clamp(1, REPLICAS_MAX.into()) as u8
}

/// A mandate of all powers, as long as one may be.
pub(super) fn mandate(
    row: &GroupRow,
    access: &GroupAccess,
    generation: u64,
    stewards: Vec<PeerKey>,
    replicas_wanted: usize,
    now: Timestamp,
) -> Result<Vec<u8>, DecodeError> {
    let replicas = replicas(row, replicas_wanted);
    let full = (STRIPES_PER_GROUP_MAX * row.code.slots() * SHARD_SIZE) as u64 * u64::from(replicas);
    // For clocks that are behind ours.
    let issued = Timestamp(now.0.saturating_sub(SKEW_MS));
    let mandate = Mandate {
        ticket: access.ticket,
        generation,
        stewards,
        replicas,
        powers: Powers::ALL,
        monthly_bytes: FULL_MOVES * full,
        issued,
        ends: issued.plus_ms(MANDATE_MS_MAX),
    };
    mandate.seal(&access.authority)
}

/// The record, sealed: a sheet of the registration's generation for each slot, under its mandate; and what holders signed for.
pub(super) async fn record(
    catalogue: &Catalogue,
    row: &GroupRow,
    access: &Arc<GroupAccess>,
    contents: Contents,
    registration: &Registration,
    leaning: BTreeSet<usize>,
) -> Result<Vec<u8>, CatalogueError> {
    let (catalogue, row, access) = (catalogue.clone(), row.clone(), access.clone());
    let (mandate, generation) = (registration.mandate.clone(), registration.sheets);
    let work = move || -> Result<Vec<u8>, CatalogueError> {
        let mut sheets = Vec::with_capacity(row.holders.len());
        for (slot, holders) in row.code.each_slot().zip(&row.holders) {
            let rows = contents.stripes.iter().filter_map(|(ordinal, (_, used, roots))| {
                let root = (*roots.get(slot.index())?)?;
                Some(SheetRow { ordinal: *ordinal, used: *used, root })
            });
            let rows = rows.collect();
            let (group, leans) = (access.ticket.id(), leaning.contains(&slot.index()));
            let sheet = SlotSheet { group, slot, generation, holders: holders.clone(), rows, leans };
            sheets.push(sheet.seal(&access.authority)?);
        }
        let (record, mut said) = (GroupRecord::new(mandate, sheets)?, Said::default());
        for (no, ..) in contents.stripes.values() {
            catalogue.receipts(*no)?.iter().for_each(|(_, receipt)| said.add(receipt, &record.sheets));
        }
        let words = said.chosen(&record.sheets, access.authority.as_bytes());
        Ok(record.with_words(words)?.encode())
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| worker())?
}

#[cfg(test)]
mod tests {
    use cairn_proto::{CodeParams, StripeId, VaultKey};
    use ed25519_dalek::SigningKey;

    use super::*;

    fn group() -> (GroupRow, Arc<GroupAccess>) {
        let authority = SigningKey::from_bytes(&[9; 32]);
        let holders = (0..8u8).map(|slot| vec![PeerKey::from_bytes([slot; 32]), PeerKey::from_bytes([50 + slot; 32])]);
        let row = GroupRow {
            number: 1,
            salt: [3; 32],
            code: CodeParams::DEFAULT,
            colours: 9,
            holders: holders.collect(),
            stripes_used: 2,
            sealed: false,
        };
        let ticket = cairn_proto::GroupTicket::new(authority.verifying_key().to_bytes(), row.salt, row.code, 9);
        (row, Arc::new(GroupAccess { ticket: ticket.expect("valid"), authority }))
    }

    /// A stripe of so many data shards.
    fn stripe(ordinal: u8, used: u8) -> StripeRow {
        let root = |slot: u8| (slot < used || slot >= 5).then(|| ShardRoot::from_bytes([slot * 16 + ordinal; 32]));
        StripeRow {
            no: StripeNo(ordinal.into()),
            group: 1,
            ordinal,
            epoch: 1,
            stripe: StripeId::from_bytes([1; 32]),
            used,
            roots: (0..8).map(root).collect(),
        }
    }

    fn contents(stripes: &[StripeRow]) -> Contents {
        let mut all = Contents::default();
        stripes.iter().for_each(|row| all.add(row.clone(), true));
        all
    }

    #[test]
    fn a_digest_is_of_what_sheets_say_and_of_nothing_else() {
        let (row, _) = group();
        let (a, b) = (stripe(0, 5), stripe(1, 2));
        let both = contents(&[a.clone(), b.clone()]).digest(&row, &BTreeSet::new());
        assert_eq!(both, contents(&[b.clone(), a.clone()]).digest(&row, &BTreeSet::new()));
        let renumbered = StripeRow { no: StripeNo(77), ..b.clone() };
        assert_eq!(
            both,
            contents(&[a.clone(), renumbered]).digest(&row, &BTreeSet::new()),
            "its number stands in no sheet"
        );
        assert_ne!(both, contents(std::slice::from_ref(&a)).digest(&row, &BTreeSet::new()));
        assert_ne!(both, contents(&[a.clone(), stripe(2, 2)]).digest(&row, &BTreeSet::new()));
        let mut moved = row.clone();
        moved.holders[3].pop();
        assert_ne!(both, contents(&[a.clone(), b.clone()]).digest(&row, &BTreeSet::from([1])), "one leans");
        assert_ne!(both, contents(&[a, b]).digest(&moved, &BTreeSet::new()));
    }

    #[tokio::test]
    async fn a_record_says_what_the_catalogue_does() {
        let (row, access) = group();
        let stewards: Vec<PeerKey> = (100..107).map(|at| PeerKey::from_bytes([at; 32])).collect();
        let now = Timestamp(1 << 40);
        let sealed = mandate(&row, &access, 5, stewards.clone(), 3, now).expect("valid");
        assert_eq!(sealed, mandate(&row, &access, 5, stewards.clone(), 3, now).expect("valid"), "the same bytes");
        let known = Registration { mandate: sealed, sheets: 6, ..Registration::default() };
        let stripes = [stripe(0, 5), stripe(7, 2)];
        let dir = tempfile::tempdir().expect("temp");
        let catalogue = Catalogue::open(&dir.path().join("c"), &VaultKey::from_bytes([1; 32])).expect("made");
        let leaning = BTreeSet::from([1]);
        let record = record(&catalogue, &row, &access, contents(&stripes), &known, leaning).await.expect("sealed");
        let record = GroupRecord::decode(&record).expect("a record");
        assert_eq!((record.mandate.stewards.clone(), record.mandate.replicas), (stewards, 2));
        assert!(record.mandate.holds_at(now) && record.mandate.holds_at(Timestamp(now.0 - SKEW_MS)));
        assert_eq!(record.mandate.monthly_bytes, 4 * 2 * 256 * 8 * (1 << 20));
        for sheet in &record.sheets {
            assert_eq!((sheet.generation, &sheet.holders), (6, &row.holders[sheet.slot.index()]));
            let wanted: Vec<SheetRow> = stripes
                .iter()
                .filter_map(|row| {
                    let root = *row.root(sheet.slot)?;
                    Some(SheetRow { ordinal: row.ordinal, used: row.used, root })
                })
                .collect();
            assert_eq!(sheet.rows, wanted, "a virtual slot has none");
            assert_eq!(sheet.leans, sheet.slot.index() == 1);
        }
        assert!(record.words().is_empty(), "nobody signed for anything");
    }
}
