//! What holders signed for goes to the stewards: whoever drops it is named by auditors that never saw it.

use cairn_core::steward::{wire::care::WORDS_MAX, words::signed_for};
use cairn_proto::{GroupRecord, PeerKey, SlotSheet, Timestamp, message::Word, receipt::WORDS_OF_HOLDER_MAX};

use super::{healing::forget_holders, memory_overlay::now, *};
use crate::vault::groups::access_of;

/// The newest record of the first group that any steward has.
fn newest(owner: &Owner) -> GroupRecord {
    let vault = Vault::open(&owner.data, None).expect("opens");
    let row = vault.catalogue.group(1).expect("readable").expect("there");
    let id = access_of(&vault.keys, &row).expect("ours").ticket.id();
    let records = owner.overlay.records(id).into_iter().map(|(_, record)| record);
    let age = |record: &GroupRecord| (record.mandate.generation, record.sheets[0].generation);
    records.max_by_key(age).expect("a steward has one")
}

/// The words of a holder of a slot, as a duty brings them, and how many shards of the sheet they prove.
fn proved(record: &GroupRecord, sheet: &SlotSheet, holder: &PeerKey, at: Timestamp) -> (usize, usize) {
    let own = |word: &&Word| word.receipt.slot == sheet.slot && word.receipt.holder == *holder;
    let words: Vec<Vec<u8>> = record.words().iter().filter(own).map(Word::encode).collect();
    assert!(words.len() <= WORDS_MAX);
    (words.len(), signed_for(&words, sheet, holder, at).len())
}

/// Every holder that has all of its slot is bound by so many words at most.
fn check(record: &GroupRecord, most: usize) {
    assert_eq!(GroupRecord::decode(&record.encode()).as_ref(), Ok(record));
    for sheet in record.sheets.iter().filter(|sheet| !sheet.rows.is_empty()) {
        for holder in &sheet.holders {
            let (words, shards) = proved(record, sheet, holder, now());
            assert!((1..=most).contains(&words), "{words} words of {} in slot {}", holder.short(), sheet.slot);
            assert_eq!(shards, sheet.rows.len(), "{} in slot {}", holder.short(), sheet.slot);
            let after = now().plus_ms(395 * 24 * 3_600_000);
            assert_eq!(proved(record, sheet, holder, after).1, 0, "not for longer than its lease, less a day");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_of_each_holder_speaks_for_all_that_it_has_of_a_slot() {
    let owner = Owner::new(180);
    owner.write("a", &noise(1, 30 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let first = newest(&owner);
    let rows = first.sheets[0].rows.len();
    assert!(rows >= 5, "{rows}");
    check(&first, 2);
    // The group grows, and its holders sign for what is new with what was there.
    owner.write("b", &noise(2, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let more = newest(&owner);
    assert!(more.sheets[0].rows.len() > rows);
    check(&more, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_that_sign_for_each_shard_alone_are_bound_as_well() {
    let owner = Owner::new(180);
    owner.overlay.set_terse();
    owner.write("a", &noise(1, 30 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let record = newest(&owner);
    check(&record, record.sheets[0].rows.len().min(WORDS_OF_HOLDER_MAX));
    assert!(record.words().iter().all(|word| word.receipt.held.is_none() && word.verified().is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_slot_later_signs_for_it_too() {
    let owner = Owner::new(180);
    owner.write("a", &noise(1, 9 << 20));
    owner.backup().await.expect(ExitCode::Success);
    let before = newest(&owner);
    let signed_last = before.words().iter().map(|word| word.receipt.stored_at).max().expect("some");
    forget_holders(&owner, 0);
    owner.backup().await.expect(ExitCode::Success);
    let after = newest(&owner);
    // Besides these the row names some that nobody knows.
    let there = owner.overlay.holders_of_slot(0);
    let new: Vec<&PeerKey> = after.sheets[0].holders.iter().filter(|holder| there.contains(holder)).collect();
    assert!(!new.is_empty(), "somebody took the slot");
    for holder in new {
        let (words, shards) = proved(&after, &after.sheets[0], holder, now());
        assert!((1..=2).contains(&words) && shards == after.sheets[0].rows.len(), "{words} words for {shards}");
        let own = after.words().iter().filter(|word| word.receipt.holder == *holder);
        assert!(own.clone().all(|word| word.receipt.stored_at > signed_last), "of what it was given now");
    }
}
