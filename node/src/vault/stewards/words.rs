//! Which of the holders' receipts go to the stewards: as few as speak for everything that holders have (ADR 0021).
//!
//! Mostly that is one of each holder of a slot, since each says what it has in all. Of one that does not, some go that are drawn by lot.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use cairn_proto::{
    PeerKey, SlotSheet,
    message::Word,
    receipt::{WORDS_MAX, WORDS_OF_HOLDER_MAX},
};
use zeroize::Zeroizing;

/// What holders said, by slot and holder. For a full group whose slots have three holders each: 6144 words, 2 MiB.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeMap<(u8, PeerKey), Vec<Word>>);

impl Said {
    /// Takes a receipt as it was kept, if it is of a holder that these sheets name.
    pub(super) fn add(&mut self, receipt: &[u8], sheets: &[SlotSheet]) {
        let Ok(word) = Word::decode(receipt) else { return };
        let (slot, holder) = (word.receipt.slot, word.receipt.holder);
        if sheets.get(slot.index()).is_some_and(|sheet| sheet.holders.contains(&holder)) {
            self.0.entry((slot.as_u8(), holder)).or_default().push(word);
        }
    }

    /// Those that go. `secret`: whoever has it not does not know which.
    pub(super) fn chosen(self, sheets: &[SlotSheet], secret: &[u8; 32]) -> Vec<Word> {
        let each = (WORDS_MAX / self.0.len().max(1)).min(WORDS_OF_HOLDER_MAX);
        let key = Zeroizing::new(blake3::derive_key("cairn 2026-11 lots of receipts v1", secret));
        let of = self.0.into_iter().filter_map(|((slot, _), words)| Some((sheets.get(usize::from(slot))?, words)));
        of.flat_map(|(sheet, words)| fewest(sheet, words, each, &key)).collect()
    }
}

fn fewest(sheet: &SlotSheet, mut words: Vec<Word>, most: usize, key: &[u8; 32]) -> Vec<Word> {
    let lot = |word: &Word| {
        let (holder, at) = (word.receipt.holder, [sheet.slot.as_u8(), word.receipt.ordinal]);
        *blake3::keyed_hash(key, &[&sheet.group.as_bytes()[..], holder.as_bytes(), &at].concat()).as_bytes()
    };
    let in_all = |word: &Word| word.receipt.held.map_or(1, |held| held.ordinals.len());
    words.sort_by_cached_key(|word| (Reverse(in_all(word)), lot(word), Reverse(word.receipt.stored_at)));
    let mut left: BTreeSet<u8> = sheet.rows.iter().map(|row| row.ordinal).collect();
    let (mut chosen, mut named) = (Vec::new(), BTreeSet::new());
    for word in words {
        if left.is_empty() || chosen.len() >= most {
            break;
        }
        let said = word.receipt.speaks_for(sheet);
        // A record has one word of a holder for a shard, and none of a shard that the sheet has not.
        let named_in_sheet = said.contains_key(&word.receipt.ordinal);
        if named_in_sheet && said.keys().any(|ordinal| left.contains(ordinal)) && named.insert(word.receipt.ordinal) {
            left.retain(|ordinal| !said.contains_key(ordinal));
            chosen.push(word);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use cairn_proto::{
        GroupId, ShardRoot, SheetRow, Slot, Timestamp,
        message::{Held, Receipt},
    };
    use ed25519_dalek::SigningKey;
    use prost::Message as _;

    use super::*;

    fn root(ordinal: u8) -> ShardRoot {
        ShardRoot::from_bytes([ordinal; 32])
    }

    fn key(of: u8) -> SigningKey {
        SigningKey::from_bytes(&[of; 32])
    }

    fn peer(of: u8) -> PeerKey {
        PeerKey::from_bytes(key(of).verifying_key().to_bytes())
    }

    fn sheet() -> SlotSheet {
        let row = |ordinal| SheetRow { ordinal, used: 5, root: root(ordinal) };
        let rows = (0..200).map(row).collect();
        let group = GroupId::from_bytes([1; 32]);
        SlotSheet {
            group,
            slot: Slot::new(0).expect("valid"),
            generation: 1,
            holders: vec![peer(1), peer(2)],
            rows,
            leans: false,
        }
    }

    /// Receipts for each shard, and which of them say up to which they have all.
    fn said(all: &[u8], of: u8) -> Said {
        let (sheet, mut said) = ([sheet()], Said::default());
        for row in &sheet[0].rows {
            let rows: Vec<_> = (0..=row.ordinal).map(|o| (o, root(o), Timestamp(9))).collect();
            let receipt = Receipt {
                holder: peer(of),
                group: sheet[0].group,
                slot: sheet[0].slot,
                ordinal: row.ordinal,
                root: row.root,
                lease_until: Timestamp(9),
                stored_at: Timestamp(1),
                held: all.contains(&row.ordinal).then(|| Held::of(&rows)),
            };
            said.add(&receipt.seal(&key(of)).encode_to_vec(), &sheet);
        }
        said
    }

    fn ordinals(said: Said, secret: u8) -> Vec<u8> {
        said.chosen(&[sheet()], &[secret; 32]).iter().map(|word| word.receipt.ordinal).collect()
    }

    #[test]
    fn one_that_says_all_is_enough_and_of_who_says_nothing_some_are_drawn() {
        assert_eq!(ordinals(said(&[10, 199], 1), 1), [199]);
        let some = ordinals(said(&[10, 150], 1), 1);
        assert_eq!((some[0], some.len()), (150, WORDS_OF_HOLDER_MAX));
        assert!(some[1..].iter().all(|ordinal| *ordinal > 150), "each says something new: {some:?}");
        let drawn = ordinals(said(&[], 1), 1);
        assert_eq!((drawn.len(), drawn.iter().collect::<BTreeSet<_>>().len()), (WORDS_OF_HOLDER_MAX, 32));
        assert_eq!(drawn, ordinals(said(&[], 1), 1), "a record that is sent again is the same");
        assert_ne!(drawn, ordinals(said(&[], 1), 2), "nobody foresees which");
        assert!(ordinals(said(&[199], 3), 1).is_empty(), "who is no holder any more");
    }

    #[test]
    fn what_the_sheet_does_not_have_is_left_out_and_the_rest_still_counts() {
        // A shard of a run that was never listed is part of what it has in all: then its earlier words count.
        let mut sheet = sheet();
        sheet.rows.retain(|row| row.ordinal != 120);
        let chosen = said(&[100, 199], 2).chosen(std::slice::from_ref(&sheet), &[1; 32]);
        assert_eq!(chosen.len(), WORDS_OF_HOLDER_MAX);
        assert!(chosen.iter().any(|word| word.receipt.ordinal == 100 && word.receipt.speaks_for(&sheet).len() == 101));
        assert!(chosen.iter().all(|word| word.receipt.ordinal != 120 && word.verified().is_some()));
        let mut junk = Said::default();
        junk.add(b"no receipt", &[sheet]);
        assert!(junk.0.is_empty());
    }
}
