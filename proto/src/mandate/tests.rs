use proptest::{collection::vec, prelude::*};

use super::*;

pub(crate) fn authority() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

pub(crate) fn ticket() -> GroupTicket {
    let key = authority().verifying_key().to_bytes();
    GroupTicket::new(key, [3; 32], CodeParams::LOW_PEER, 6).expect("valid")
}

pub(crate) fn steward(at: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + at; 32])
}

pub(crate) fn key_of(key: &SigningKey) -> PeerKey {
    PeerKey::from_bytes(key.verifying_key().to_bytes())
}

pub(crate) fn mandate(stewards: u8) -> Mandate {
    Mandate {
        ticket: ticket(),
        generation: 3,
        stewards: (0..stewards).map(|at| key_of(&steward(at))).collect(),
        replicas: 1,
        powers: Powers::ALL,
        monthly_bytes: 10 << 30,
        issued: Timestamp(1_000_000),
        ends: Timestamp(1_000_000 + MANDATE_MS_MAX),
    }
}

fn sheet(slot: u8) -> SlotSheet {
    let slot = Slot::new(slot).expect("valid");
    // Of three data shards, stripe 1 has two: its third is virtual.
    let rows: &[(u8, u8)] = if slot.index() == 2 { &[(0, 3)] } else { &[(0, 3), (1, 2)] };
    let root = |ordinal: u8| ShardRoot::from_bytes([slot.as_u8() * 16 + ordinal; 32]);
    let rows = rows.iter().map(|(ordinal, used)| SheetRow { ordinal: *ordinal, used: *used, root: root(*ordinal) });
    let holders = vec![PeerKey::from_bytes([slot.as_u8() + 1; 32])];
    SlotSheet { group: ticket().id(), slot, generation: 7, holders, rows: rows.collect(), leans: false }
}

fn record() -> GroupRecord {
    let sheets = (0..5).map(|slot| sheet(slot).seal(&authority()).expect("valid")).collect();
    GroupRecord::new(mandate(5).seal(&authority()).expect("valid"), sheets).expect("whole")
}

#[test]
fn what_was_signed_opens_and_nothing_else() {
    let sealed = mandate(7).seal(&authority()).expect("valid");
    assert!(sealed.len() <= MANDATE_MAX);
    assert_eq!(Mandate::open(&sealed), Ok(mandate(7)));
    let page = sheet(1).seal(&authority()).expect("valid");
    assert_eq!(SlotSheet::open(&page, &ticket()), Ok(sheet(1)));
    let other = GroupTicket::new(*ticket().authority(), [4; 32], CodeParams::LOW_PEER, 6).expect("valid");
    assert!(SlotSheet::open(&page, &other).is_err(), "of another group of the same authority");
    let forged = mandate(7).seal(&steward(0)).expect("encodes");
    assert!(Mandate::open(&forged).is_err(), "by somebody else");
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(Mandate::open(&bad).is_err(), "mandate, byte {at}");
        assert!(Mandate::open(&sealed[..at]).is_err(), "mandate, cut at {at}");
    }
    for at in 0..page.len() {
        let mut bad = page.clone();
        bad[at] ^= 1;
        assert!(SlotSheet::open(&bad, &ticket()).is_err(), "sheet, byte {at}");
    }
}

#[test]
fn a_mandate_that_breaks_a_rule_cannot_be_signed() {
    let refused = |change: fn(&mut Mandate)| {
        let mut bad = mandate(5);
        change(&mut bad);
        assert!(bad.seal(&authority()).is_err(), "{bad:?}");
    };
    refused(|m| m.stewards.clear());
    refused(|m| m.stewards.extend((20..23).map(|at| PeerKey::from_bytes([at; 32]))));
    refused(|m| m.stewards[0] = m.stewards[1]);
    refused(|m| m.replicas = 0);
    refused(|m| m.replicas = REPLICAS_MAX + 1);
    refused(|m| m.ends = m.issued);
    refused(|m| m.ends = m.issued.plus_ms(MANDATE_MS_MAX + 1));
    refused(|m| m.powers = Powers(16));
}

#[test]
fn a_record_is_whole_or_refused() {
    let whole = record();
    assert_eq!(GroupRecord::decode(&whole.encode()), Ok(whole.clone()));
    let sealed: Vec<Vec<u8>> = (0..5).map(|slot| sheet(slot).seal(&authority()).expect("valid")).collect();
    let of = |sheets: Vec<Vec<u8>>| GroupRecord::new(whole.sealed_mandate().to_vec(), sheets);
    assert!(of(sealed[..4].to_vec()).is_err(), "a slot is missing");
    assert!(of(sealed.iter().rev().cloned().collect()).is_err(), "out of order");
    let mut liar = sheet(0);
    liar.rows[1].used = 1;
    let liar = [vec![liar.seal(&authority()).expect("valid")], sealed[1..].to_vec()].concat();
    assert!(of(liar).is_err(), "two slots that say different things of a stripe");
    let mut virtual_shard = sheet(2);
    virtual_shard.rows.push(SheetRow { ordinal: 1, used: 2, root: ShardRoot::from_bytes([0; 32]) });
    let sealed_virtual = virtual_shard.seal(&authority()).expect("encodes");
    assert!(SlotSheet::open(&sealed_virtual, &ticket()).is_err(), "a shard where there is none");
    let mut lacking = sheet(4);
    lacking.rows.remove(1);
    let lacking = [sealed[..4].to_vec(), vec![lacking.seal(&authority()).expect("valid")]].concat();
    assert!(of(lacking).is_err(), "a stripe without its last shard");
    let mut newer = sheet(0);
    newer.generation += 1;
    let newer = of([vec![newer.seal(&authority()).expect("valid")], sealed[1..].to_vec()].concat()).expect("whole");
    assert!(newer.supersedes(&whole) && !whole.supersedes(&newer) && !whole.supersedes(&whole));
}

#[test]
fn quorums_overlap_where_they_can() {
    for stewards in 1..=STEWARDS_MAX {
        let quorum = quorum(stewards);
        assert!(quorum >= 1 && quorum <= stewards);
        if stewards >= 4 {
            // Two quorums share more than may be bad.
            let bad = (stewards - 1) / 3;
            assert!(2 * quorum - stewards > bad && quorum <= stewards - bad, "{quorum} of {stewards}");
        }
    }
    assert_eq!(quorum(7), 5);
}

#[test]
fn the_largest_fits() {
    let code = CodeParams::new(20, 12).expect("valid");
    let ticket = GroupTicket::new(*ticket().authority(), [3; 32], code, 33).expect("valid");
    let full = |slot: Slot| SlotSheet {
        group: ticket.id(),
        slot,
        generation: u64::MAX,
        holders: (0..HOLDERS_MAX as u8).map(|at| PeerKey::from_bytes([at; 32])).collect(),
        rows: (0..=255).map(|ordinal| SheetRow { ordinal, used: 20, root: ShardRoot::from_bytes([1; 32]) }).collect(),
        leans: true,
    };
    let sheets: Vec<Vec<u8>> = code.each_slot().map(|slot| full(slot).seal(&authority()).expect("fits")).collect();
    assert!(sheets.iter().all(|sheet| sheet.len() <= SHEET_MAX), "{}", sheets[0].len());
    let mandate = Mandate { ticket, issued: Timestamp(u64::MAX - 9), ends: Timestamp(u64::MAX), ..mandate(7) };
    let mandate = mandate.seal(&authority()).expect("fits");
    let record = GroupRecord::new(mandate, sheets).expect("whole");
    assert!(record.encode().len() <= GROUP_RECORD_MAX);
    assert_eq!(GroupRecord::decode(&record.encode()), Ok(record));
}

proptest! {
    #[test]
    fn any_bytes_open_or_are_refused(bytes in vec(any::<u8>(), 0..600), at: prop::sample::Index, bit in 0..8u8) {
        let _ = (Mandate::open(&bytes), SlotSheet::open(&bytes, &ticket()), GroupRecord::decode(&bytes));
        let mut record = record().encode();
        let at = at.index(record.len());
        record[at] ^= 1 << bit;
        prop_assert!(GroupRecord::decode(&record).is_err());
    }
}
