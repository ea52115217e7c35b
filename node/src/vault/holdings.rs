//! What holders say that they have: one question for each holder of each slot of a group, 32 bytes of answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_core::keys::VaultKeys;
use cairn_proto::{PeerKey, Slot, index::StripeRow, manifest::GroupRow};
use futures::StreamExt as _;

use super::{failures, groups::access_of};
use crate::{
    failure::Failure,
    overlay::{Overlay, OverlayError, TransferError},
};

/// Holders asked at once.
const ASKED: usize = 32;

/// Whether an answer names this ordinal.
pub(super) const fn names(bits: &[u8; 32], ordinal: u8) -> bool {
    bits[(ordinal / 8) as usize] >> (ordinal % 8) & 1 == 1
}

/// The answers. About 60 bytes for each holder of each slot of the groups asked for.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// (group, slot) -> the ordinals that each holder which answered has.
    answers: BTreeMap<(u32, u8), Vec<[u8; 32]>>,
    /// Who did not answer.
    pub(super) silent: BTreeSet<PeerKey>,
}

impl Holdings {
    /// Asks every holder of these groups.
    pub(super) async fn ask(keys: &VaultKeys, overlay: &Arc<dyn Overlay>, rows: &[GroupRow]) -> Result<Self, Failure> {
        let mut questions = Vec::new();
        for row in rows {
            let access = Arc::new(access_of(keys, row).map_err(|e| failures::bug("GROUP", &e))?);
            for (slot, holders) in row.code.each_slot().zip(&row.holders) {
                questions.extend(holders.iter().map(|holder| (row.number, slot, *holder, access.clone())));
            }
        }
        let mut this = Self::default();
        let mut answers =
            futures::stream::iter(questions.into_iter().map(|(number, slot, holder, access)| async move {
                (number, slot, holder, overlay.has_shards(holder, access, slot).await)
            }))
            .buffer_unordered(ASKED);
        while let Some((number, slot, holder, answer)) = answers.next().await {
            match answer {
                Ok(bits) => this.answers.entry((number, slot.as_u8())).or_default().push(bits),
                Err(TransferError::ShuttingDown) => return Err(failures::overlay(OverlayError::ShuttingDown)),
                Err(_) => {
                    this.silent.insert(holder);
                }
            }
        }
        Ok(this)
    }

    /// Whether anybody answered at all. When nobody did, it is we who are cut off.
    pub(super) fn answered(&self) -> bool {
        !self.answers.is_empty()
    }

    /// How many holders say that they have a slot of a stripe.
    pub(super) fn count(&self, row: &StripeRow, slot: Slot) -> usize {
        let answers = self.answers.get(&(row.group, slot.as_u8()));
        answers.map_or(0, |all| all.iter().filter(|bits| names(bits, row.ordinal)).count())
    }

    /// The slots of a stripe that nobody says to have.
    pub(super) fn absent(&self, row: &StripeRow) -> Vec<u8> {
        row.present().filter(|(slot, _)| self.count(row, *slot) == 0).map(|(slot, _)| slot.as_u8()).collect()
    }
}
