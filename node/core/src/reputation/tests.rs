//! Figures, bounds and disk format of reputation; `tests/adversary.rs` has the attacks.

mod adversary;

use cairn_proto::{
    CodeParams, GroupTicket, Slot, StatementId,
    audit::{Answer, Challenge, Evidence, Found, Matter, Verdict, Vote, Way},
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::audit::{
    Lie, convict,
    panel::{Candidate, Panel, Round},
};

const START: Timestamp = Timestamp(1_000 * DAY_MS);
const HOUR: u64 = 3_600_000;

fn key(n: u32) -> SigningKey {
    let mut bytes = [0x7e; 32];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    SigningKey::from_bytes(&bytes)
}

fn peer(n: u32) -> PeerKey {
    PeerKey::from_bytes(key(n).verifying_key().to_bytes())
}

fn domain(n: u32) -> Domain {
    Domain::operator(&format!("o{n}")).expect("valid")
}

fn at(hours: u64) -> Timestamp {
    START.plus_ms(hours * HOUR)
}

/// A peer that has served us well for `days`, thirty times a day.
fn served(book: &mut Reputation, who: PeerKey, class: Class, days: u64) {
    book.met(who, class, START);
    for hour in 0..days * 24 {
        book.observe(who, Observed::Good, at(hour));
        book.observe(who, Observed::Alive, at(hour));
    }
}

/// Two different answers of peer `n` to one challenge.
fn lie(n: u32) -> Evidence {
    let challenge = Challenge {
        auditor: peer(0),
        holder: peer(n),
        group: GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid").id(),
        slot: Slot::new(0).expect("valid"),
        ordinal: 0,
        root: cairn_proto::ShardRoot::from_bytes([0; 32]),
        nonce: [0; 32],
        way: Way::Slices,
        slices: 1,
        previous: None,
        issued: Timestamp(1),
        deadline: Timestamp(2),
    }
    .seal(&key(0));
    let said = |seed: u8| {
        let found = Found::Slices(vec![[seed; 32]]);
        Answer { holder: peer(n), challenge: Challenge::id(&challenge), previous: None, found }.seal(&key(n))
    };
    Evidence::Equivocation { first: said(1), second: said(2) }
}

#[test]
fn a_day_of_service_makes_a_peer_eligible_and_failures_undo_it() {
    let mut book = Reputation::new();
    let stranger = book.standing(&peer(1), 50, START);
    assert_eq!((stranger.score, stranger.eligible, stranger.quota), (500, true, 10));
    served(&mut book, peer(1), Class::Server, 1);
    let young = book.standing(&peer(1), 50, at(23));
    assert_eq!((young.score, young.eligible), (500, true), "a newcomer, within its quota");
    let aged = book.standing(&peer(1), 50, at(24));
    assert!(aged.eligible && aged.score > 850, "{aged:?}");
    for hour in 24..24 * 9 {
        book.observe(peer(1), Observed::Silent, at(hour));
    }
    let gone = book.standing(&peer(1), 50, at(24 * 9));
    assert!(!gone.eligible && gone.score < 500, "{gone:?}");
}

#[test]
fn availability_is_measured_by_what_was_promised() {
    let mut book = Reputation::new();
    for (who, class) in [(peer(1), Class::Home), (peer(2), Class::Server)] {
        book.met(who, class, START);
        for hour in 0..24 * 20 {
            let seen = if hour % 24 < 15 { Observed::Good } else { Observed::Silent };
            book.observe(who, seen, at(hour));
        }
    }
    let (home, server) = (book.standing(&peer(1), 50, at(480)), book.standing(&peer(2), 50, at(480)));
    assert_eq!(home.score, 1000, "15 hours of 24 are what a home machine promises");
    assert!(!server.eligible, "{server:?}");
}

#[test]
fn one_that_holds_much_loses_no_more_by_one_bad_hour() {
    let mut book = Reputation::new();
    for (who, audits) in [(peer(1), 2), (peer(2), 200)] {
        book.met(who, Class::Server, START);
        for hour in 0..24 * 10 {
            for _ in 0..audits {
                book.observe(who, if hour == 100 { Observed::Silent } else { Observed::Alive }, at(hour));
            }
        }
    }
    let scores = [1, 2].map(|n| book.standing(&peer(n), 50, at(240)).score);
    assert_eq!(scores[0], scores[1]);
}

#[test]
fn an_own_report_costs_little_and_a_disk_is_one_accident() {
    let mut book = Reputation::new();
    served(&mut book, peer(1), Class::Server, 30);
    let before = book.standing(&peer(1), 50, at(720)).score;
    let clumsy = peer(1);
    for _ in 0..100_000 {
        book.observe(clumsy, Observed::Reported, at(720));
    }
    let after = book.standing(&peer(1), 50, at(720));
    assert!(after.eligible && before - after.score <= 10, "{before} {}", after.score);
    // The same, found out by auditors.
    served(&mut book, peer(2), Class::Server, 30);
    for _ in 0..100 {
        book.observe(peer(2), Observed::NotHere, at(720));
    }
    assert!(!book.standing(&peer(2), 50, at(720)).eligible, "who says it only when asked is not so lucky");
    let healed = peer(2);
    for hour in 720..720 + 24 * 40 {
        for _ in 0..20 {
            book.observe(healed, Observed::Good, at(hour));
        }
    }
    assert!(book.standing(&peer(2), 50, at(1680)).eligible, "and heals");
}

#[test]
fn a_quota_doubles_with_clean_months() {
    let mut book = Reputation::new();
    book.met(peer(1), Class::Home, START);
    let quota = |book: &Reputation, days: u64| book.standing(&peer(1), 50, at(24 * days)).quota;
    assert_eq!(
        [0, 29, 30, 60, 90, 180, 209, 210, 4000].map(|d| quota(&book, d)),
        [10, 10, 20, 40, 80, 640, 640, 1000, 1000]
    );
    book.observe(peer(1), Observed::BadBytes, at(24 * 100));
    assert_eq!(quota(&book, 101), 10, "begins anew");
}

#[test]
fn a_proof_is_for_good_and_survives_the_disk() {
    let mut book = Reputation::new();
    served(&mut book, peer(1), Class::Server, 30);
    assert!(book.convict(convict(&lie(1)).expect("a proof")));
    served(&mut book, peer(1), Class::Server, 400);
    let read = Reputation::decode(&book.encode()).expect("our own bytes");
    let standing = read.standing(&peer(1), 50, at(24 * 400));
    assert_eq!((standing.score, standing.eligible), (0, false));
    assert_eq!(standing.why, [Reason::Convicted { lie: Lie::Equivocation, evidence: lie(1).id() }]);
}

#[test]
fn every_figure_is_told() {
    let mut book = Reputation::new();
    served(&mut book, peer(1), Class::Home, 3);
    for n in 2..22 {
        served(&mut book, peer(n), Class::Server, 3);
        book.hear(&complaint(n, n, 1, 1), at(72));
    }
    book.observe(peer(1), Observed::NotHere, at(72));
    book.observe(peer(1), Observed::Reported, at(72));
    let lines = book.standing(&peer(1), 30, at(72)).explain().join("\n") + "\n";
    book.convict(convict(&lie(1)).expect("a proof"));
    let convicted = book.standing(&peer(1), 30, at(72)).explain().join("\n") + "\n";
    let stranger = book.standing(&peer(99), 30, at(72)).explain().join("\n") + "\n";
    let mut suspect = Reputation::new();
    suspect.met(peer(5), Class::Server, START);
    let entry = suspect.entries.get_mut(&peer(5)).expect("met");
    entry.suspected = entry::Ruling { until: at(100), votes: 5 };
    entry.excluded = entry::Ruling { until: at(500), votes: 14 };
    let ruled = suspect.standing(&peer(5), 30, at(72)).explain().join("\n") + "\n";
    crate::golden::check("reputation-explained.txt", &[lines, convicted, stranger, ruled].join("\n"));
}

#[test]
fn the_state_is_frozen_and_bounded() {
    let mut book = Reputation::new();
    served(&mut book, peer(1), Class::Home, 2);
    served(&mut book, peer(2), Class::Server, 33);
    book.observe(peer(2), Observed::Withheld, at(800));
    book.observe(peer(2), Observed::Reported, at(800));
    book.convict(convict(&lie(3)).expect("a proof"));
    let bytes = book.encode();
    let hex: Vec<String> = bytes.chunks(48).map(|l| l.iter().map(|b| format!("{b:02x}")).collect()).collect();
    crate::golden::check("reputation-state.hex", &(hex.join("\n") + "\n"));
    let read = Reputation::decode(&bytes).expect("our own bytes");
    assert_eq!((&read.entries, &read.convicted), (&book.entries, &book.convicted));
    for length in 0..bytes.len() {
        assert!(Reputation::decode(&bytes[..length]).is_err(), "cut at {length}");
    }
    assert!(Reputation::decode(&[&bytes[..], &[0]].concat()).is_err());
    for count in [ENTRIES_MAX as u32 + 1, u32::MAX] {
        let mut many = bytes.clone();
        many[1..5].copy_from_slice(&count.to_le_bytes());
        assert!(Reputation::decode(&many).is_err());
    }
}

#[test]
fn the_state_before_pace_is_read() {
    let mut book = Reputation::new();
    served(&mut book, peer(1), Class::Home, 2);
    book.convict(convict(&lie(3)).expect("a proof"));
    let mut bytes = book.encode();
    bytes[0] = 1;
    let days = 5 + 32 + 1 + 7 * 8 + 2 * 9 + 4;
    let older: Vec<u8> = bytes[days..days + 300].chunks(10).flat_map(|day| day[..6].to_vec()).collect();
    bytes.splice(days..days + 300, older);
    let read = Reputation::decode(&bytes).expect("version 1");
    assert_eq!((&read.entries, &read.convicted), (&book.entries, &book.convicted));
    for version in [0, 3, 255] {
        bytes[0] = version;
        assert!(Reputation::decode(&bytes).is_err());
    }
}

#[test]
fn a_flood_of_strangers_puts_out_nobody_who_matters() {
    let mut book = Reputation::new();
    served(&mut book, peer(1), Class::Server, 3);
    book.met(peer(2), Class::Server, START);
    for _ in 0..20 {
        book.observe(peer(2), Observed::BadBytes, at(1));
    }
    served(&mut book, peer(3), Class::Server, 3);
    book.convict(convict(&lie(3)).expect("a proof"));
    let stranger = |n: u32| PeerKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    for n in 0..ENTRIES_MAX as u32 * 2 {
        // More than the cheat has done.
        (0..25).for_each(|_| book.observe(stranger(n), Observed::Alive, at(80)));
    }
    assert_eq!(book.entries.len(), ENTRIES_MAX);
    assert!(book.standing(&peer(1), 50, at(80)).score > 850);
    assert!(!book.standing(&peer(2), 50, at(80)).eligible, "a bad name is not washed off");
    for n in 0..CONVICTIONS_MAX as u32 + 10 {
        book.convict(Conviction::restored(stranger(n), Lie::WrongAnswer, StatementId::from_bytes([0; 32])));
    }
    assert_eq!(book.convicted.len(), CONVICTIONS_MAX);
    assert!(!book.standing(&peer(3), 50, at(80)).eligible);
    assert!(book.convict(convict(&lie(1)).expect("a proof")), "one that we dealt with has room");
    assert!(book.encode().len() <= STATE_MAX);
    assert!(Reputation::decode(&book.encode()).is_ok());
}

fn complaint(reporter: u32, of_domain: u32, subject: u32, subject_domain: u32) -> Complaint {
    Complaint {
        reporter: peer(reporter),
        reporter_domain: domain(of_domain),
        subject: peer(subject),
        subject_domain: domain(subject_domain),
        branch: None,
    }
}

fn observed() -> impl Strategy<Value = Observed> {
    proptest::sample::select(vec![
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
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_figures_stay_in_their_bounds(
        events in proptest::collection::vec((observed(), 0u64..100), 0..400),
    ) {
        let mut book = Reputation::new();
        book.met(peer(1), Class::Home, START);
        let (mut now, who) = (0, peer(1));
        for (seen, hours) in events {
            now += hours;
            let before = book.standing(&who, 9, at(now));
            book.observe(who, seen, at(now));
            let after = book.standing(&who, 9, at(now));
            prop_assert!(after.score <= 1000 && after.quota <= 1000);
            if matches!(seen, Observed::Withheld | Observed::Mismatch | Observed::BadBytes) {
                prop_assert!(after.quota <= before.quota);
            }
        }
        let read = Reputation::decode(&book.encode()).expect("our own bytes");
        prop_assert_eq!(&read.entries, &book.entries);
    }

    #[test]
    fn no_bytes_make_the_state_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200), one: bool) {
        let mut bytes = bytes;
        if one && bytes.len() > 5 {
            bytes[0] = 1;
            bytes[1..5].copy_from_slice(&2u32.to_le_bytes());
        }
        if let Ok(mut book) = Reputation::decode(&bytes) {
            let peers: Vec<_> = book.entries.keys().copied().collect();
            for peer in peers {
                book.observe(peer, Observed::Good, at(1));
                let _ = book.standing(&peer, 3, at(2)).explain();
            }
        }
    }

    /// Every field of an entry may be junk: what was decoded must be safe to reckon with.
    #[test]
    fn junk_in_an_entry_is_refused_or_harmless(junk in proptest::collection::vec(any::<u8>(), 250), seen in observed(), hours in 0u64..10_000) {
        let mut book = Reputation::new();
        book.met(peer(1), Class::Home, START);
        let mut bytes = book.encode();
        let end = bytes.len() - 4;
        for (to, from) in bytes[38..end].iter_mut().zip(&junk) {
            // Half of the bytes, so that many pass the checks.
            if from % 2 == 0 {
                *to = from.wrapping_mul(31);
            }
        }
        if let Ok(mut book) = Reputation::decode(&bytes) {
            book.observe(peer(1), seen, at(hours));
            let _ = book.standing(&peer(1), 3, at(hours)).explain();
        }
    }
}
