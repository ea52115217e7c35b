//! What a holder signed for: with it a missing shard counts against its name, whoever asks, and without it for nobody who never saw
//! the shard.
//!
//! There are two kinds of words. A repair's new holder signs what it took ([`Taken`]); an owner's holder signs each shard, and with it all
//! that it has of the slot ([`Receipt`](cairn_proto::message::Receipt)). Both are checked here, by the steward that sends them and again by
//! the auditor that gets them.
//!
//! # Invariants
//!
//! - **TRUST-1** No word counts that its holder did not sign, for another group, slot or root, or once its lease is over. An honest holder
//!   keeps what it signed for until then, whatever anybody has it delete (DUR-5), so it can show it. Enforced by [`signed_for`]; attacked by
//!   `tests::words::*` and by the auditors' `tests::a_receipt_that_is_not_the_holders_own_is_held_against_nobody`.

use std::collections::BTreeMap;

use cairn_proto::{PeerKey, SlotSheet, Taken, Timestamp, message::Word};

use super::wire::care::WORDS_MAX;

/// A receipt counts until so long before its lease is over: the holder's clock may be ahead, and it may drop what was deleted then.
pub const CLOCKS_MS: u64 = 24 * 3600 * 1000;

/// What of a slot a holder signed that it has, by the words that a duty brings, and until when it is bound by that. Each word that is no
/// word of this holder for shards of this sheet says nothing.
#[must_use]
pub fn signed_for(words: &[Vec<u8>], sheet: &SlotSheet, holder: &PeerKey, now: Timestamp) -> BTreeMap<u8, Timestamp> {
    let mut bound = BTreeMap::new();
    let mut note = |ordinal: u8, until: Timestamp| {
        let known = bound.entry(ordinal).or_insert(until);
        *known = until.max(*known);
    };
    for word in words.iter().take(WORDS_MAX) {
        if let Ok(taken) = Taken::open(word) {
            if taken.group == sheet.group && taken.slot == sheet.slot && taken.holder == *holder {
                // For as long as stewards may have it kept.
                taken.ordinals.iter().for_each(|ordinal| note(ordinal, Timestamp(u64::MAX)));
            }
        } else if let Ok(word) = Word::decode(word) {
            of_word(&word, sheet, holder, now).into_iter().for_each(|(ordinal, until)| note(ordinal, until));
        }
    }
    bound
}

/// As [`signed_for`], of a receipt. Its signature is looked at last: it costs the most.
pub(super) fn of_word(word: &Word, sheet: &SlotSheet, holder: &PeerKey, now: Timestamp) -> BTreeMap<u8, Timestamp> {
    let mut of = if word.receipt.holder == *holder { word.receipt.speaks_for(sheet) } else { BTreeMap::new() };
    of.values_mut().for_each(|lease| *lease = Timestamp(lease.0.saturating_sub(CLOCKS_MS)));
    of.retain(|_, until| *until > now);
    if of.is_empty() || word.verified().is_some() { of } else { BTreeMap::new() }
}
