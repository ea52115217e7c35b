//! What owners' holders signed for, from the record to the auditor.

use cairn_proto::message::{Held, Receipt, Word};

use super::*;
use crate::steward::{
    wire::{Duty, Request, care::WORDS_MAX},
    words::{CLOCKS_MS, signed_for},
};

const DAY: u64 = 24 * HOUR;

/// A village whose stewards got a record with words.
struct Told {
    village: Village,
    leases: Timestamp,
}

impl Told {
    fn new(words: impl FnOnce(&Self) -> Vec<Word>) -> Self {
        let village = Village::new(7);
        let leases = village.now.plus_ms(30 * DAY);
        let mut told = Self { village, leases };
        let stewards: Vec<PeerKey> = told.village.stewards.keys().copied().collect();
        let record = told.village.with_newer_sheets(&stewards).with_words(words(&told)).expect("of its shards");
        let now = told.village.now;
        for steward in told.village.stewards.values_mut() {
            steward.adopt(record.clone(), &[], owner(), now).expect("newer");
        }
        told.village.pump();
        told
    }

    fn sheet(&self, at: u8) -> SlotSheet {
        self.village.record(&self.village.of_colour(5)[..1], 1).sheets[usize::from(at)].clone()
    }

    fn receipt(&self, at: u8, ordinal: u8) -> Receipt {
        Receipt {
            holder: self.village.holder(at),
            group: self.village.ticket.id(),
            slot: slot(at),
            ordinal,
            root: self.sheet(at).rows[usize::from(ordinal)].root,
            lease_until: self.leases,
            stored_at: self.village.now,
            held: None,
        }
    }

    /// With all that it has, these.
    fn of_all(&self, at: u8, ordinal: u8, all: std::ops::Range<u8>) -> Receipt {
        let rows = &self.sheet(at).rows[usize::from(all.start)..usize::from(all.end)];
        let rows: Vec<_> = rows.iter().map(|row| (row.ordinal, row.root, self.leases)).collect();
        Receipt { held: Some(Held::of(&rows)), ..self.receipt(at, ordinal) }
    }

    fn by_holder(&self, receipt: Receipt) -> Word {
        self.by(&receipt.holder.clone(), receipt)
    }

    fn by(&self, signer: &PeerKey, receipt: Receipt) -> Word {
        let signed = receipt.seal(&self.village.keys[signer]);
        Word { signature: signed.signature.try_into().expect("64"), receipt }
    }

    /// The duties of a day about the holder of a slot, and for how many shards each proves that it signed.
    fn proved(&mut self, at: u8) -> Vec<(Duty, usize)> {
        let (mut proved, holder) = (Vec::new(), self.village.holder(at));
        for _ in 0..24 * 15 {
            self.village.now = self.village.now.plus_ms(4 * 60_000);
            self.village.hear();
            let now = self.village.now;
            for (me, steward) in &mut self.village.stewards {
                let mut views = self.village.views.clone();
                views.retain(|view| view.peer != *me);
                for (_, duty) in steward.audits_due(now, &views, 1000) {
                    if duty.holder == holder {
                        let sheet = SlotSheet::open(&duty.sheet, &duty.ticket).expect("the owner's");
                        let shards = signed_for(&duty.words, &sheet, &duty.holder, now).len();
                        proved.push((duty, shards));
                    }
                }
            }
        }
        assert!(proved.len() >= 7, "of each steward one");
        proved
    }
}

#[test]
fn who_audits_gets_what_the_holder_signed_for_and_it_fits_on_the_wire() {
    let mut told = Told::new(|told| {
        let all = told.by_holder(told.of_all(2, 19, 0..STRIPES));
        let singles = (0..7).map(|ordinal| told.by_holder(told.receipt(1, ordinal)));
        [all].into_iter().chain(singles).collect()
    });
    for (duty, shards) in told.proved(2) {
        assert_eq!((duty.words.len(), shards), (1, usize::from(STRIPES)), "one word for all");
        let request = Request::Duty(Box::new(duty));
        assert_eq!(Request::decode(&request.encode().expect("fits")), Ok(request));
    }
    for (duty, shards) in told.proved(1) {
        assert!((duty.words.len(), shards) == (7, 7) && duty.words.len() <= WORDS_MAX, "what it has proofs of");
    }
    assert!(told.proved(3).iter().all(|(duty, shards)| duty.words.is_empty() && *shards == 0), "nobody's word");
}

#[test]
fn words_are_known_after_a_restart_and_by_who_is_put_in_later() {
    let mut told = Told::new(|told| vec![told.by_holder(told.of_all(2, 0, 0..STRIPES))]);
    let (group, village) = (told.village.ticket.id(), &mut told.village);
    let peers: Vec<PeerKey> = village.stewards.keys().copied().collect();
    for me in peers {
        let state = village.stewards[&me].encode_group(&group).expect("watched");
        let budget = Budget::new(Limits::default(), 10 << 20, village.now);
        let (key, domain) = (village.keys[&me].clone(), village.domain(&me));
        let mut again = Steward::new(key, domain, Rhythm::default(), Watch::new(Timers::default()), budget);
        again.resume(&state, village.now).expect("its own");
        village.stewards.insert(me, again);
    }
    assert!(told.proved(2).iter().all(|(_, shards)| *shards == usize::from(STRIPES)));
}

#[test]
fn an_owner_cannot_make_up_what_a_holder_signed() {
    // By another, of what it never said, and of shards that the sheet does not have: none of it goes to an auditor.
    let mut told = Told::new(|told| {
        let (other, mut changed) = (told.village.holder(3), told.by_holder(told.receipt(2, 1)));
        changed.receipt.ordinal = 2;
        changed.receipt.root = told.sheet(2).rows[2].root;
        let of_other_slot = told.by_holder(Receipt { holder: told.village.holder(2), ..told.receipt(1, 5) });
        let moved = Receipt { slot: slot(2), root: told.sheet(2).rows[5].root, ..of_other_slot.receipt };
        vec![
            told.by(&other, told.receipt(2, 0)),
            changed,
            Word { receipt: moved, ..of_other_slot },
            told.by(&other, told.of_all(2, 9, 0..STRIPES)),
        ]
    });
    assert!(told.proved(2).iter().all(|(duty, shards)| duty.words.is_empty() && *shards == 0));
}

#[test]
fn a_bad_steward_cannot_make_a_duty_that_binds_an_honest_holder() {
    let told = Told::new(|_| Vec::new());
    let (sheet, holder, now) = (told.sheet(2), told.village.holder(2), told.village.now);
    let bound =
        |word: Word, sheet: &SlotSheet, holder: &PeerKey| signed_for(&[word.encode()], sheet, holder, now).len();
    let all = told.by_holder(told.of_all(2, 4, 0..STRIPES));
    assert_eq!(bound(all, &sheet, &holder), usize::from(STRIPES));
    assert_eq!(bound(all, &sheet, &told.village.holder(3)), 0, "of another holder");
    assert_eq!(bound(all, &told.sheet(3), &holder), 0, "of another slot");
    let of_other = SlotSheet { group: GroupId::from_bytes([4; 32]), ..sheet.clone() };
    assert_eq!(bound(all, &of_other, &holder), 0, "of another group");
    let mut rewritten = sheet.clone();
    rewritten.rows.iter_mut().for_each(|row| row.root = ShardRoot::from_bytes([222; 32]));
    assert_eq!(bound(all, &rewritten, &holder), 0, "the owner put others there");
    let mut longer = all;
    longer.receipt.lease_until = Timestamp(u64::MAX);
    assert_eq!(bound(longer, &sheet, &holder), 0, "nobody lengthens its lease");
    // Two that say the same, junk and one too many change nothing.
    let mut words = vec![vec![0; 40], all.encode(), all.encode(), Vec::new()];
    assert_eq!(signed_for(&words, &sheet, &holder, now).len(), usize::from(STRIPES));
    words.splice(0..0, (0..WORDS_MAX).map(|_| vec![1]));
    assert_eq!(signed_for(&words, &sheet, &holder, now).len(), 0);
}

#[test]
fn a_word_binds_no_longer_than_its_lease() {
    let mut told = Told::new(|told| vec![told.by_holder(told.of_all(2, 4, 0..STRIPES))]);
    let (sheet, holder) = (told.sheet(2), told.village.holder(2));
    let word = [told.by_holder(told.of_all(2, 4, 0..STRIPES)).encode()];
    let last = Timestamp(told.leases.0 - CLOCKS_MS);
    assert_eq!(signed_for(&word, &sheet, &holder, Timestamp(last.0 - 1)).get(&7), Some(&last));
    assert!(signed_for(&word, &sheet, &holder, last).is_empty(), "it may drop what was deleted from then on");
    // One shard whose lease was shorter shortens it for what is said of all, not for itself.
    let mut short = told.of_all(2, 4, 0..STRIPES);
    short.held = short.held.map(|held| Held { lease_until: Timestamp(1), ..held });
    let short = [told.by_holder(short).encode()];
    let ordinals: Vec<u8> = signed_for(&short, &sheet, &holder, told.village.now).into_keys().collect();
    assert_eq!(ordinals, [4]);
    told.village.now = last;
    assert!(told.proved(2).iter().all(|(duty, _)| duty.words.is_empty()), "nor is it sent any more");
}
