//! What holders say that they have: one question for each holder of each slot of a group, 32 bytes of answer.
//!
//! # When a slot is short
//!
//! - Nobody says that they have it: at once. This is what a stripe's life is counted by.
//! - Some say so, but fewer than the row gave it to (as many as there are replicas at most): when one answered that it lacks
//!   it, or counts as gone. A holder that is merely silent keeps its place until it is gone: see [`note_silence`].
//!
//! So a machine that sleeps at night, or reboots, costs no copy as long as somebody else has the same slot. A stripe
//! from a time of fewer replicas is not short because the network grew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cairn_core::keys::VaultKeys;
use cairn_proto::{PeerKey, Slot, Timestamp, index::StripeRow, manifest::GroupRow};
use futures::StreamExt as _;

use super::{
    catalogue::{Catalogue, CatalogueError},
    failures,
    groups::access_of,
    news::Answer,
};
use crate::{
    failure::Failure,
    overlay::{Overlay, OverlayError, TransferError},
};

/// Holders asked at once.
const ASKED: usize = 32;
/// How long a holder may be silent before it counts as gone: longer than a weekend. Copies are cheap to want and dear to
/// make, and the slot has another holder that answers.
pub(super) const GONE_AFTER_MS: u64 = 3 * 24 * 3600 * 1000;
/// Noted as the beginning of a silence, once a look that trusted itself found the holder gone.
pub(super) const FOUND_GONE: Timestamp = Timestamp(0);

/// Whether an answer names this ordinal.
pub(super) const fn names(bits: &[u8; 32], ordinal: u8) -> bool {
    bits[(ordinal / 8) as usize] >> (ordinal % 8) & 1 == 1
}

/// What the holders of one slot of a group said.
#[derive(Debug, Default)]
struct Answers {
    /// The ordinals that each holder which answered has.
    has: Vec<[u8; 32]>,
    silent: Vec<PeerKey>,
}

/// The answers. About 100 bytes for each holder of each slot of the groups asked for.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    answers: BTreeMap<(u32, u8), Answers>,
    /// Who left a question unanswered.
    pub(super) silent: BTreeSet<PeerKey>,
    /// Who answered one.
    heard: BTreeSet<PeerKey>,
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
            let answers = this.answers.entry((number, slot.as_u8())).or_default();
            // Fallback storage says nothing about the network, and where it has nothing any more nothing is short for that.
            if overlay.fallback_of(&holder).is_some() {
                match answer {
                    Ok(bits) if bits != [0; 32] => answers.has.push(bits),
                    Ok(_) => {}
                    Err(_) => answers.silent.push(holder),
                }
                continue;
            }
            match answer {
                Ok(bits) => {
                    answers.has.push(bits);
                    this.heard.insert(holder);
                }
                Err(TransferError::ShuttingDown) => return Err(failures::overlay(OverlayError::ShuttingDown)),
                Err(_) => {
                    answers.silent.push(holder);
                    this.silent.insert(holder);
                }
            }
        }
        Ok(this)
    }

    /// Takes in what further holders of a group answered.
    pub(super) fn add(&mut self, group: u32, more: &[Answer]) {
        for (slot, holder, has) in more {
            let answers = self.answers.entry((group, slot.as_u8())).or_default();
            match has {
                Some(bits) => {
                    answers.has.push(*bits);
                    self.heard.insert(*holder);
                }
                None => answers.silent.push(*holder),
            }
        }
    }

    /// Whether a holder of the group left a question about it unanswered.
    pub(super) fn has_silent(&self, group: u32) -> bool {
        let mut slots = self.answers.range((group, 0)..=(group, u8::MAX));
        slots.any(|(_, answers)| !answers.silent.is_empty())
    }

    /// Whether anybody answered at all. When nobody did, it is we who are cut off.
    pub(super) fn answered(&self) -> bool {
        !self.heard.is_empty()
    }

    /// How many holders say that they have a slot of a stripe.
    pub(super) fn count(&self, row: &StripeRow, slot: Slot) -> usize {
        let answers = self.answers.get(&(row.group, slot.as_u8()));
        answers.map_or(0, |all| all.has.iter().filter(|bits| names(bits, row.ordinal)).count())
    }

    /// The slots of a stripe that nobody says to have.
    pub(super) fn absent(&self, row: &StripeRow) -> Vec<u8> {
        row.present().filter(|(slot, _)| self.count(row, *slot) == 0).map(|(slot, _)| slot.as_u8()).collect()
    }

    /// The slots of a stripe that are short (see above): those that nobody has among them.
    pub(super) fn short(&self, row: &StripeRow, replicas: usize, gone: &BTreeSet<PeerKey>) -> Vec<u8> {
        let is_short = |slot: Slot| {
            let count = self.count(row, slot);
            let Some(answers) = self.answers.get(&(row.group, slot.as_u8())) else { return true };
            let given = answers.has.len() + answers.silent.len();
            let excused = answers.silent.iter().filter(|peer| !gone.contains(peer)).count();
            count == 0 || count + excused < replicas.min(given)
        };
        row.present().filter(|(slot, _)| is_short(*slot)).map(|(slot, _)| slot.as_u8()).collect()
    }
}

/// Notes who is silent; who counts as gone: whoever left all questions of two looks unanswered that lie [`GONE_AFTER_MS`]
/// apart, and all between them. `named` is everyone in the groups' rows, and the bound of what is remembered.
///
/// - **REP-2** When more fell silent than answer, we suspect ourselves: nobody is gone, and no silence begins. Whoever an
///   earlier look that trusted itself found gone says nothing about us: those stay named in the rows, and pile up over the
///   years. Attacked by `tests::replicas`.
pub(super) fn note_silence(
    catalogue: &Catalogue,
    holdings: &Holdings,
    named: &BTreeSet<PeerKey>,
    now: Timestamp,
) -> Result<BTreeSet<PeerKey>, CatalogueError> {
    let mut since = catalogue.silent()?;
    since.retain(|peer, _| named.contains(peer) && !holdings.heard.contains(peer));
    let mut gone = BTreeSet::new();
    let silent: Vec<&PeerKey> = holdings.silent.difference(&holdings.heard).collect();
    let fell_silent = silent.iter().filter(|peer| since.get(**peer) != Some(&FOUND_GONE)).count();
    if fell_silent <= holdings.heard.len() {
        for peer in silent {
            let first = since.entry(*peer).or_insert(now);
            if now.ms_since(*first) >= GONE_AFTER_MS {
                *first = FOUND_GONE;
                gone.insert(*peer);
            }
        }
    }
    catalogue.set_silent(&since)?;
    Ok(gone)
}

/// Everyone whom these rows name.
pub(super) fn named(rows: &[GroupRow]) -> BTreeSet<PeerKey> {
    rows.iter().flat_map(|row| row.holders.iter().flatten()).copied().collect()
}
