//! The session ledger on disk.

use std::fs;

use cairn_core::{
    blind::{EphemeralSecret, LedgerRefusal, Order, Session, WINDOW_MS},
    erasure::Codec,
};
use cairn_proto::{CodeParams, GroupId, Timestamp};

use super::{
    super::ledger::{LEDGER_FILE, Ledger, NotAdmitted},
    village::slot,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn session(tag: u8) -> Session {
    let key = |party: u8| EphemeralSecret::from_entropy([16 * tag + party; 32]).public();
    let order = Order {
        group: GroupId::from_bytes([tag; 32]),
        ordinal: 0,
        used: 2,
        lost: slot(4),
        attempt: 0,
        nonce: [tag; 32],
        new_holder: key(4),
        helpers: vec![(slot(0), key(0)), (slot(1), key(1))],
    };
    Session::plan(&Codec::new(CodeParams::LOW_PEER), order).expect("a session")
}

/// `Ok` as nothing: what was admitted is of no interest here.
async fn admit(ledger: &Ledger, now: Timestamp, tag: u8) -> Result<(), NotAdmitted> {
    ledger.admit(now, session(tag), slot(0)).await.map(|_| ())
}

#[tokio::test]
async fn a_restart_lets_no_session_in_again() {
    let folder = tempfile::tempdir().expect("folder");
    let ledger = Ledger::open(folder.path(), NOW).expect("first start");
    assert_eq!(admit(&ledger, NOW, 1).await, Ok(()));
    drop(ledger);
    let ledger = Ledger::open(folder.path(), NOW).expect("reads");
    assert_eq!(admit(&ledger, NOW, 1).await, Err(NotAdmitted::Refused(LedgerRefusal::UsedBefore)));
    assert_eq!(admit(&ledger, NOW, 2).await, Ok(()));
}

#[tokio::test]
async fn what_cannot_be_written_down_does_not_begin() {
    let folder = tempfile::tempdir().expect("folder");
    let ledger = Ledger::open(&folder.path().join("gone"), NOW).expect("none is there");
    assert_eq!(admit(&ledger, NOW, 1).await, Err(NotAdmitted::NotWritten));
}

#[tokio::test]
async fn a_damaged_ledger_lets_nothing_in_for_as_long_as_it_would_have_counted() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join(LEDGER_FILE);
    let ledger = Ledger::open(folder.path(), NOW).expect("first start");
    assert_eq!(admit(&ledger, NOW, 1).await, Ok(()));
    let whole = fs::read(&file).expect("written");
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 1], &whole[..10], &[]] {
        fs::write(&file, damaged).expect("damaged");
        let until = NOW.plus_ms(WINDOW_MS);
        drop(Ledger::open(folder.path(), NOW).expect("opens"));
        // A restart changes nothing of it, nor does a clock that was ahead for a while.
        let ledger = Ledger::open(folder.path(), NOW.plus_ms(5)).expect("opens");
        assert_eq!(admit(&ledger, NOW.plus_ms(5), 2).await, Err(NotAdmitted::Closed { until }));
        assert_eq!(admit(&ledger, until, 2).await, Ok(()));
    }
}
