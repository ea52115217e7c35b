//! Targets over the pure core's own formats: sessions of a blinded rebuild, and what a node remembers from one start to the next.
//!
//! A state that was taken must also be of use: nothing that is asked of it, at any time of any clock, may panic, and what it
//! became is again a state.

use std::sync::LazyLock;

use cairn_core::{
    audit::Conviction,
    blind::{
        EphemeralSecret, Helper, LEDGER_MAX, LedgerRefusal, NewHolder, Order, SESSION_SIZE_MAX, Session, SessionLedger,
        wire::{MESSAGE_MAX, Message},
    },
    courtesy::urgent::{ENCODED_MAX, Urgent},
    durability::repairs::RepairTimes,
    erasure::Codec,
    liveness::{Timers, WATCHED_MAX, Watch},
    reputation::{Class, Complaint, Observed, Reputation, STATE_MAX},
};
use cairn_proto::{CodeParams, Domain, GroupId, PeerKey, SHARD_SIZE, ShardRoot, Slot, Timestamp, audit::Verified};

use super::{Target, audits};

pub(super) fn all() -> Vec<Target> {
    vec![
        Target { name: "rebuild-session", seeds: || sessions().iter().map(Session::encode).collect(), run: session },
        Target { name: "rebuild-message", seeds: messages, run: message },
        Target { name: "session-ledger", seeds: || vec![a_ledger().encode()], run: ledger },
        Target { name: "repair-times", seeds: || vec![a_few_repairs().encode()], run: repair_times },
        Target { name: "urgent-bytes", seeds: || vec![some_urgent()], run: urgent },
        Target { name: "liveness-state", seeds: || LIVENESS.clone(), run: liveness },
        Target {
            name: "reputation-state",
            seeds: || vec![a_reputation().encode(), of_one().encode()],
            run: reputation,
        },
    ]
}

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
/// When the seeds were made.
const START: Timestamp = Timestamp(1_700_000_000_000);
/// Now, and clocks that are wrong.
const CLOCKS: [Timestamp; 4] = [START, Timestamp(START.0 + 40 * DAY), Timestamp(u64::MAX), Timestamp(0)];

fn slot(at: u8) -> Slot {
    Slot::new(at).expect("in range")
}

fn peer(number: u8) -> PeerKey {
    PeerKey::from_bytes([number; 32])
}

/// Two groups that had something.
fn some_urgent() -> Vec<u8> {
    let mut urgent = Urgent::kept(START);
    urgent.saved(u64::MAX);
    for group in [1, 2] {
        let _ = urgent.class(GroupId::from_bytes([group; 32]), SHARD_SIZE as u64, START);
    }
    urgent.to_save(START).expect("news").0
}

fn urgent(bytes: &[u8]) {
    for now in CLOCKS {
        let Ok(mut urgent) = Urgent::decode(bytes, now) else { continue };
        let (kept, new) = urgent.to_save(now).expect("what a restart costs");
        assert!(kept.len() <= ENCODED_MAX && Urgent::decode(&kept, now).is_ok());
        urgent.saved(new);
        for at in CLOCKS {
            let _ = urgent.class(GroupId::from_bytes([1; 32]), SHARD_SIZE as u64, at);
        }
    }
}

fn secret(of: Slot) -> EphemeralSecret {
    EphemeralSecret::from_entropy([of.as_u8() + 1; 32])
}

/// The order that a session comes from.
fn order(session: &Session) -> Order {
    Order {
        group: *session.group(),
        ordinal: session.ordinal(),
        used: session.used(),
        lost: session.lost(),
        attempt: session.attempt(),
        nonce: *session.nonce(),
        new_holder: *session.key_of(session.lost()).expect("has a part"),
        helpers: session.links().iter().map(|link| (link.slot, link.key)).collect(),
    }
}

fn plan(code: CodeParams, lost: u8, helpers: &[u8], nonce: u8) -> Session {
    let order = Order {
        group: GroupId::from_bytes([3; 32]),
        ordinal: 7,
        used: helpers.len() as u8,
        lost: slot(lost),
        attempt: 1,
        nonce: [nonce; 32],
        new_holder: secret(slot(lost)).public(),
        helpers: helpers.iter().map(|at| (slot(*at), secret(slot(*at)).public())).collect(),
    };
    Session::plan(&Codec::new(code), order).expect("a rebuild")
}

fn sessions() -> [Session; 3] {
    let small = CodeParams::new(2, 1).expect("valid");
    [
        plan(CodeParams::DEFAULT, 6, &[7, 0, 3, 1, 4], 1),
        plan(CodeParams::DEFAULT, 1, &[7, 0], 2),
        plan(small, 0, &[2, 1], 3),
    ]
}

fn session(bytes: &[u8]) {
    let Ok(session) = Session::decode(bytes) else { return };
    assert_eq!(session.encode(), bytes);
    assert!(bytes.len() <= SESSION_SIZE_MAX);
    let mut ledger = SessionLedger::default();
    let mut admit = |slot| ledger.admit(START, session.clone(), slot);
    let (lost, first) = (session.lost(), session.links()[0].slot);
    let admitted = admit(lost).expect("the first session");
    assert_eq!(admit(first), Err(LedgerRefusal::UsedBefore));
    // SEP-1: with coefficients that do not make the lost shard no party takes part.
    let codec = Codec::new(session.code());
    let right = Session::plan(&codec, order(&session)).as_ref() == Ok(&session);
    let holder = NewHolder::new(admitted, &codec, secret(lost), ShardRoot::from_bytes([0; 32]));
    assert!(right || holder.is_err());
    let admitted = SessionLedger::default().admit(START, session, first).expect("the first session");
    assert!(Helper::new(admitted, &codec, secret(first)).is_err() || right);
}

/// One of each, as they were frozen.
fn messages() -> Vec<Vec<u8>> {
    let frozen = include_str!("../../../node/core/golden/rebuild-messages.txt");
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("text"), 16).expect("hex");
    let hex = frozen.lines().filter_map(|line| line.split_once(" = "));
    hex.map(|(_, hex)| hex.as_bytes().chunks_exact(2).map(byte).collect()).collect()
}

fn message(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    assert!(bytes.len() <= MESSAGE_MAX);
    assert_eq!(message.encode().expect("was read"), bytes);
}

fn a_ledger() -> SessionLedger {
    let mut ledger = SessionLedger::default();
    let [long, _, _] = sessions();
    ledger.admit(START, long, slot(7)).expect("the first session");
    let code = CodeParams::new(12, 4).expect("valid");
    let mut order = order(&plan(code, 12, &[13], 4));
    (order.new_holder, order.helpers[0].1) = (secret(slot(30)).public(), secret(slot(31)).public());
    let short = Session::plan(&Codec::new(code), order).expect("a rebuild");
    ledger.admit(START.plus_ms(DAY), short, slot(13)).expect("another one");
    ledger
}

fn ledger(bytes: &[u8]) {
    let Ok(read) = SessionLedger::decode(bytes) else { return };
    assert_eq!(read.encode(), bytes);
    assert!(read.len() <= LEDGER_MAX);
    for now in CLOCKS {
        let mut ledger = read.clone();
        for session in sessions() {
            let lost = session.lost();
            if ledger.admit(now, session.clone(), lost).is_ok() {
                assert_eq!(ledger.admit(now, session, lost), Err(LedgerRefusal::UsedBefore));
            }
        }
        assert_eq!(SessionLedger::decode(&ledger.encode()), Ok(ledger));
    }
}

/// Two days with a server, one who leaves, one who was never heard; at the end many are silent at once.
static LIVENESS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut watch = Watch::new(Timers::default());
    let steps = |from: u64, to: u64| (from..to).map(|step| START.plus_ms(step * 5 * MINUTE));
    watch.expect(peer(20), START);
    for now in steps(0, 2400) {
        let asleep = (now.0 / (DAY / 3)).is_multiple_of(3);
        (0..12).filter(|number| *number != 5 || !asleep).for_each(|number| watch.heard(peer(number), now));
    }
    let calm = watch.encode();
    let now = START.plus_ms(2400 * 5 * MINUTE);
    watch.leaving(peer(11), now.plus_ms(MINUTE), now);
    for now in steps(2400, 2700) {
        (4..11).for_each(|number| watch.heard(peer(number), now));
    }
    for now in steps(2700, 2703) {
        (8..10).for_each(|number| watch.heard(peer(number), now));
    }
    vec![calm, watch.encode()]
});

fn a_few_repairs() -> RepairTimes {
    let mut repairs = RepairTimes::default();
    (0..12).for_each(|i| repairs.note(MINUTE << i));
    repairs
}

fn repair_times(bytes: &[u8]) {
    let Ok(mut repairs) = RepairTimes::decode(bytes) else { return };
    assert_eq!(repairs.encode(), bytes);
    repairs.note(u64::MAX);
    let figures = repairs.with_open([0, DAY, u64::MAX]).figures();
    assert!(figures.mean_days.is_finite() && figures.mean_days_at_most.is_none_or(|most| most >= figures.mean_days));
    assert!(RepairTimes::decode(&repairs.encode()).is_ok());
}

fn liveness(bytes: &[u8]) {
    // A setting may change from one start to the next, so a state may be read with other timers than its own.
    for timers in [Timers::default(), Timers::default().scaled(1e-9)] {
        let Ok(read) = Watch::decode(bytes, timers) else { continue };
        assert_eq!(read.encode(), bytes);
        assert!(read.len() <= WATCHED_MAX && bytes.len() <= Watch::ENCODED_MAX);
        for now in CLOCKS {
            let mut watch = read.clone();
            for number in 0..22 {
                let peer = peer(number);
                let belief = watch.belief(&peer, now);
                assert!((0.0..=1.0).contains(&belief.alive), "{belief:?}");
                let _ = (watch.outage(now), watch.mass_failure(now), watch.churn(now));
                match number % 6 {
                    0 => watch.leaving(peer, START, now),
                    1 => watch.stays(peer, now),
                    2 => watch.forget(peer),
                    _ => watch.heard(peer, now),
                }
            }
            watch.settle(now.plus_ms(DAY));
            let after = watch.encode();
            assert_eq!(Watch::decode(&after, timers).map(|again| again.encode()), Ok(after));
        }
    }
}

const SEEN: [Observed; 10] = [
    Observed::Good,
    Observed::Alive,
    Observed::Silent,
    Observed::NotHere,
    Observed::Reported,
    Observed::Withheld,
    Observed::Mismatch,
    Observed::BadBytes,
    Observed::Prompt,
    Observed::Slow,
];

fn complaint(reporter: u8, subject: u8) -> Complaint {
    let domain = |number: u8| Domain::of_peer(&peer(number));
    Complaint {
        reporter: peer(reporter),
        reporter_domain: domain(reporter),
        subject: peer(subject),
        subject_domain: domain(subject),
        branch: Some(peer(reporter % 4)),
    }
}

/// What others prove and decide, verified once.
static WORD: LazyLock<(Conviction, [Verified; 2])> = LazyLock::new(|| (audits::conviction(), audits::verified()));

fn a_reputation() -> Reputation {
    let mut state = Reputation::new();
    state.met(peer(1), Class::Server, START);
    for (number, seen) in (1..).zip(SEEN) {
        (0..30).for_each(|day| state.observe(peer(number), seen, START.plus_ms(day * DAY)));
    }
    WORD.1.iter().for_each(|verdict| _ = state.follow(verdict, START));
    state.convict(WORD.0);
    state
}

/// The fewest bytes, so that a change hits a figure.
fn of_one() -> Reputation {
    let mut state = Reputation::new();
    state.observe(peer(1), Observed::Good, START);
    state
}

fn reputation(bytes: &[u8]) {
    let Ok(read) = Reputation::decode(bytes) else { return };
    // The version before is read and not written.
    assert!(read.encode() == bytes || bytes[0] == 1);
    assert!(read.encode().len() <= STATE_MAX);
    for now in CLOCKS {
        let mut state = read.clone();
        for number in 1..10 {
            let peer = peer(number);
            state.hear(&complaint(number, number % 9 + 1), now);
            let standing = state.standing(&peer, 3, now);
            assert!(standing.score <= 1000 && standing.quota <= 1000, "{standing:?}");
            SEEN.iter().for_each(|seen| state.observe(peer, *seen, now));
        }
        WORD.1.iter().for_each(|verdict| _ = state.follow(verdict, now));
        state.convict(WORD.0);
        let after = state.encode();
        assert_eq!(Reputation::decode(&after).map(|again| again.encode()), Ok(after));
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::liveness::Outage;

    use super::*;

    /// Each seed must be a state in which something happened, or its target attacks nothing.
    #[test]
    fn the_seeds_are_states() {
        for session in sessions() {
            let codec = Codec::new(session.code());
            let (lost, bytes) = (session.lost(), session.encode());
            let admitted = SessionLedger::default().admit(START, session, lost).expect("admitted");
            assert!(NewHolder::new(admitted, &codec, secret(lost), ShardRoot::from_bytes([0; 32])).is_ok());
            assert!(Session::decode(&bytes).is_ok());
        }
        assert_eq!(SessionLedger::decode(&a_ledger().encode()).map(|ledger| ledger.len()), Ok(2));
        let watches: Vec<Watch> =
            LIVENESS.iter().map(|bytes| Watch::decode(bytes, Timers::default()).expect("a state")).collect();
        assert_eq!(watches[0].outage(START.plus_ms(2399 * 5 * MINUTE)), Outage::None);
        assert_ne!(watches[1].outage(START.plus_ms(2702 * 5 * MINUTE)), Outage::None);
        assert!(a_few_repairs().figures().mean_days_at_most.is_some());
        let state = Reputation::decode(&a_reputation().encode()).expect("a state");
        assert_eq!(state.convictions().count(), 1);
    }
}
