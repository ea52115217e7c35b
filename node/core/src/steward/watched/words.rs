//! The words of a holder that a steward has: from what it had repaired, and from the owner's record.

use cairn_proto::{Ordinals, PeerKey, Slot, Timestamp};

use super::{Watched, orders::Entry};
use crate::steward::{wire::care::WORDS_MAX, words::of_word};

impl Watched {
    /// What a holder signed that it took of these, in as few words as they fit in: of repairs newest first, then those that the owner
    /// brought, and none that says nothing new.
    pub(in super::super) fn words_of(
        &self,
        slot: Slot,
        holder: &PeerKey,
        of: &Ordinals,
        now: Timestamp,
    ) -> Vec<Vec<u8>> {
        let own = |entry: &&Entry| entry.taken.slot == slot && entry.taken.holder == *holder;
        let mut own: Vec<&Entry> = self.entries.values().filter(own).collect();
        own.sort_by_key(|entry| std::cmp::Reverse(entry.taken.at));
        let (mut left, mut words) = (*of, Vec::new());
        let says = |left: &mut Ordinals, said: &Ordinals| {
            let new = !said.and(left).is_empty();
            *left = left.without(said);
            new
        };
        for entry in own {
            if words.len() < WORDS_MAX && says(&mut left, &entry.taken.ordinals) {
                words.push(entry.sealed.clone());
            }
        }
        let Some(sheet) = self.record.sheets.get(slot.index()) else { return words };
        for word in self.record.words().iter().filter(|word| word.receipt.slot == slot) {
            if words.len() >= WORDS_MAX || left.is_empty() {
                break;
            }
            let said = of_word(word, sheet, holder, now).into_keys().collect();
            if says(&mut left, &said) {
                words.push(word.encode());
            }
        }
        words
    }
}
