use super::*;
use crate::{
    GroupRecord, SheetRow,
    mandate::{
        GROUP_RECORD_MAX,
        tests::{authority, key_of, mandate, steward, ticket},
    },
};

const STRIPES: u8 = 40;

fn root(slot: u8, ordinal: u8) -> ShardRoot {
    ShardRoot::from_bytes([slot.wrapping_mul(64).wrapping_add(ordinal); 32])
}

fn sheet(slot: u8) -> SlotSheet {
    let row = |ordinal| SheetRow { ordinal, used: 3, root: root(slot, ordinal) };
    let holders = vec![key_of(&steward(30 + slot)), key_of(&steward(40 + slot))];
    let slot = Slot::new(slot).expect("valid");
    SlotSheet {
        group: ticket().id(),
        slot,
        generation: 1,
        holders,
        rows: (0..STRIPES).map(row).collect(),
        leans: false,
    }
}

fn record() -> GroupRecord {
    let sheets = (0..5).map(|slot| sheet(slot).seal(&authority()).expect("valid")).collect();
    GroupRecord::new(mandate(5).seal(&authority()).expect("valid"), sheets).expect("whole")
}

fn held(slot: u8, ordinals: std::ops::Range<u8>) -> Held {
    let rows: Vec<_> = ordinals.map(|o| (o, root(slot, o), Timestamp(900 + u64::from(o)))).collect();
    Held::of(&rows)
}

/// Of the second holder of a slot.
fn receipt(slot: u8, ordinal: u8, held: Option<Held>) -> Receipt {
    Receipt {
        holder: key_of(&steward(40 + slot)),
        group: ticket().id(),
        slot: Slot::new(slot).expect("valid"),
        ordinal,
        root: root(slot, ordinal),
        lease_until: Timestamp(5_000),
        stored_at: Timestamp(50),
        held,
    }
}

fn word(slot: u8, ordinal: u8, held: Option<Held>) -> Word {
    Word::of(&receipt(slot, ordinal, held).seal(&steward(40 + slot))).expect("a receipt")
}

#[test]
fn a_receipt_speaks_for_what_its_holder_said_and_for_nothing_else() {
    let one = receipt(2, 7, None);
    assert_eq!(one.speaks_for(&sheet(2)), BTreeMap::from([(7, Timestamp(5_000))]));
    assert_eq!(one.speaks_for(&sheet(1)), BTreeMap::new(), "another slot");
    let of_all = receipt(2, 7, Some(held(2, 3..20)));
    let said = of_all.speaks_for(&sheet(2));
    assert_eq!(said.keys().copied().collect::<Vec<_>>(), (3..20).collect::<Vec<_>>());
    assert_eq!((said[&3], said[&7]), (Timestamp(903), Timestamp(5_000)), "the rest for as long as the shortest lease");
    // Sheets that say another thing: of another group, with another shard, without one of those that it has.
    let of_other_group = SlotSheet { group: GroupId::from_bytes([1; 32]), ..sheet(2) };
    assert_eq!(of_all.speaks_for(&of_other_group), BTreeMap::new());
    let mut moved = sheet(2);
    moved.rows[5].root = root(9, 9);
    assert_eq!(of_all.speaks_for(&moved).keys().copied().collect::<Vec<_>>(), [7]);
    moved.rows[7].root = root(9, 9);
    assert_eq!(of_all.speaks_for(&moved), BTreeMap::new());
    let mut fewer = sheet(2);
    fewer.rows.remove(19);
    assert_eq!(of_all.speaks_for(&fewer).keys().copied().collect::<Vec<_>>(), [7]);
    let mut more = sheet(2);
    more.rows.push(SheetRow { ordinal: 200, used: 3, root: root(9, 9) });
    assert_eq!(of_all.speaks_for(&more).len(), 17, "what came later changes nothing");
    assert!(
        Receipt::open(&receipt(2, 2, Some(held(2, 3..20))).seal(&steward(42))).is_err(),
        "without the shard itself"
    );
}

#[test]
fn a_word_is_believed_only_as_its_holder_signed_it() {
    let good = word(1, 4, Some(held(1, 0..10)));
    assert_eq!(good.verified(), Some(&receipt(1, 4, Some(held(1, 0..10)))));
    assert_eq!(Word::decode(&good.encode()), Ok(good));
    let changed = |change: fn(&mut Receipt)| {
        let mut bad = good;
        change(&mut bad.receipt);
        assert_eq!(bad.verified(), None, "{bad:?}");
    };
    changed(|r| r.holder = key_of(&steward(31)));
    changed(|r| r.group = GroupId::from_bytes([1; 32]));
    changed(|r| r.slot = Slot::new(2).expect("valid"));
    changed(|r| r.ordinal = 5);
    changed(|r| r.root = root(1, 5));
    changed(|r| r.lease_until = Timestamp(9_000));
    changed(|r| r.stored_at = Timestamp(1));
    changed(|r| r.held = None);
    changed(|r| r.held = Some(held(1, 0..11)));
    let other = Word::of(&receipt(1, 4, None).seal(&steward(31))).expect("reads");
    assert_eq!(
        (other.receipt.holder, other.verified().is_some()),
        (key_of(&steward(31)), true),
        "it speaks for itself"
    );
    let bytes = good.encode();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Word::decode(&bad).ok().and_then(|word| word.verified().copied()).is_none(), "byte {at}");
        assert!(Word::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_record_brings_words_of_its_shards_and_no_others() {
    let words: Vec<Word> = vec![word(3, 9, None), word(0, 39, Some(held(0, 0..40))), word(3, 2, Some(held(3, 2..5)))];
    let with = record().with_words(words.clone()).expect("of its shards");
    assert_eq!(with.words(), [words[1], words[2], words[0]], "in one order");
    assert_eq!(GroupRecord::decode(&with.encode()), Ok(with.clone()));
    assert!(with.words().iter().all(|word| word.verified().is_some()));
    assert_eq!(GroupRecord::decode(&record().encode()), Ok(record()), "none, as before");
    assert_eq!(record().with_words(Vec::new()), Ok(record()));
    let bytes = with.encode();
    assert!(bytes.starts_with(&record().encode()), "what was there before is there still");
    for at in record().encode().len()..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let read = GroupRecord::decode(&bad);
        assert!(read.is_err() || read.is_ok_and(|read| read.encode() == bad && read != with), "byte {at}");
        assert!(at == record().encode().len() || GroupRecord::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    let refused = |word: Word| assert!(record().with_words(vec![word]).is_err(), "{word:?}");
    refused(word(1, STRIPES, None));
    refused(Word { receipt: Receipt { root: root(9, 9), ..receipt(1, 3, None) }, ..word(1, 3, None) });
    refused(Word { receipt: Receipt { holder: key_of(&steward(9)), ..receipt(1, 3, None) }, ..word(1, 3, None) });
    refused(Word {
        receipt: Receipt { group: GroupId::from_bytes([1; 32]), ..receipt(1, 3, None) },
        ..word(1, 3, None)
    });
    assert!(record().with_words(vec![word(1, 3, None); 2]).is_err(), "twice");
    let many = |count: u8| (0..count).map(|at| word(1, at, Some(held(1, 0..40)))).collect::<Vec<_>>();
    assert!(record().with_words(many(33)).is_err(), "too many of one");
    let most = record().with_words(many(32)).expect("as many as may be");
    assert!(most.encode().len() - record().encode().len() <= 32 * (WORD_SIZE_MAX - 15));
    const { assert!(GROUP_RECORD_MAX < 480 << 10) };
}
