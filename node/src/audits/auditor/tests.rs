//! Duties of friends and strangers, and what is held against whom.

use std::collections::BTreeSet;

use cairn_core::{
    audit::schedule::Due, colour::colour, part::Credentials, peer_view::PeerView, reputation::Observed,
    steward::wire::Request,
};
use cairn_proto::{
    CodeParams, GroupTicket, Ordinals, ShardRoot, SheetRow, Slot, Taken, Timestamp,
    audit::Evidence,
    message::{Held, Receipt, Roles},
};
use futures::{FutureExt as _, future::BoxFuture};
use prost::Message as _;
use rand_chacha::ChaCha8Rng;

use super::{
    book::{Seen, Sent, findings},
    *,
};
use crate::{overlay::TransferError, stewardship::ports::WatchPass};

const HOUR: u64 = 3_600_000;
const NOW: Timestamp = Timestamp(1_000 * HOUR);
const FEW: Limits = Limits { holdings: 64, rows: 100, stewards_each: 4, of_domain: 16 };
const SPANS: Spans = Spans { round_ms: 24 * HOUR, report_ms: 4 * HOUR, soon_ms: 60_000 };

fn peer(at: u16) -> PeerKey {
    let mut key = [9; 32];
    key[..2].copy_from_slice(&at.to_le_bytes());
    PeerKey::from_bytes(key)
}

fn domain(at: u16) -> Domain {
    Domain::operator(&format!("d{at}")).expect("valid")
}

fn authority() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

fn ticket(salt: u16) -> GroupTicket {
    let mut salts = [5; 32];
    salts[..2].copy_from_slice(&salt.to_le_bytes());
    GroupTicket::new(authority().verifying_key().to_bytes(), salts, CodeParams::LOW_PEER, 6).expect("valid")
}

fn sheet(ticket: &GroupTicket, slot: u8, generation: u64) -> SlotSheet {
    let row = |ordinal| SheetRow { ordinal, used: 3, root: ShardRoot::from_bytes([ordinal; 32]) };
    let slot = Slot::new(slot).expect("valid");
    SlotSheet {
        group: ticket.id(),
        slot,
        generation,
        holders: vec![peer(2)],
        rows: (0..4).map(row).collect(),
        leans: false,
    }
}

fn duty(ticket: GroupTicket, sheet: &SlotSheet) -> Duty {
    let sheet = sheet.seal(&authority()).expect("valid");
    let ordinals = (0..4).collect();
    Duty { ticket, sheet, holder: peer(2), ordinals, auditors: 7, until: NOW.plus_ms(48 * HOUR), words: Vec::new() }
}

fn holder_key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

fn key_of(key: &SigningKey) -> PeerKey {
    PeerKey::from_bytes(key.verifying_key().to_bytes())
}

/// What the owner of this key signed that it took of slot 2 of a group.
fn word(key: &SigningKey, salt: u16, ordinals: &[u8]) -> Vec<u8> {
    let taken = Taken {
        order: [1; 32],
        group: ticket(salt).id(),
        slot: Slot::new(2).expect("valid"),
        ordinals: ordinals.iter().copied().collect(),
        previous: [0; 32],
        at: NOW,
        holder: key_of(key),
    };
    taken.seal(key)
}

fn book_with_words(words: &[Vec<u8>]) -> Book {
    let mut book = Book::new(peer(1), SPANS, Limits::default());
    let (ticket, holder) = (ticket(0), key_of(&holder_key()));
    let sheet = sheet(&ticket, 2, 1);
    let duty = Duty { holder, words: words.to_vec(), ..duty(ticket, &sheet) };
    book.take(peer(3), domain(3), &duty, &sheet, NOW).expect("taken");
    book
}

/// Asks for what is due until `end`, with what comes of each.
fn run(book: &mut Book, end: Timestamp, mut seen: impl FnMut(&Due) -> Seen) -> Vec<Observed> {
    let (mut rng, mut all) = (ChaCha8Rng::seed_from_u64(1), Vec::new());
    while let Some(now) = book.next_challenge().filter(|at| *at < end) {
        while let Some((due, ..)) = book.due(now, &mut rng) {
            let outcome = seen(&due);
            all.extend(book.settle(&due.holder, &due.target, outcome, now).saw);
        }
    }
    all
}

fn book_with_a_duty() -> Book {
    let mut book = Book::new(peer(1), SPANS, Limits::default());
    let ticket = ticket(0);
    let sheet = sheet(&ticket, 2, 1);
    book.take(peer(3), domain(3), &duty(ticket, &sheet), &sheet, NOW).expect("taken");
    book
}

#[test]
fn a_loss_is_told_soon_and_the_rest_by_and_by() {
    let mut book = book_with_a_duty();
    assert!(book.reports(NOW, 9).is_empty(), "nothing yet");
    run(&mut book, NOW.plus_ms(3 * HOUR), |_| Seen::Good);
    assert!(book.reports(NOW.plus_ms(3 * HOUR), 9).is_empty(), "good news wait");
    let now = NOW.plus_ms(4 * HOUR);
    let told = book.reports(now, 9);
    let [(holding, steward, tally)] = &told[..] else { panic!("{told:?}") };
    let said = findings(*holding, tally);
    assert!(said.good >= 4 && said.missing.is_empty() && !said.shown.is_empty(), "{said:?}");
    assert!(book.reports(now, 9).is_empty(), "it is under way");
    // It did not arrive; meanwhile a shard is found missing that was there.
    let lost = said.shown.iter().next().expect("one");
    book.reported(holding, steward, Sent::Again(tally.clone()), now);
    let bad = |due: &Due| if due.target.ordinal == lost { Seen::NotHere } else { Seen::Good };
    run(&mut book, now.plus_ms(12 * HOUR), bad);
    let later = now.plus_ms(12 * HOUR);
    let told = book.reports(later, 9);
    let said = findings(told[0].0, &told[0].2);
    assert_eq!(said.missing, Ordinals::from_iter([lost]));
    assert!(said.good > 5 && !said.shown.contains(lost), "{said:?}");
    book.reported(&told[0].0, &told[0].1, Sent::Taken, later);
    assert!(book.reports(later.plus_ms(HOUR), 9).is_empty());
    let status = book.status(later);
    assert!((status.holders, status.shards) == (1, 4) && status.good > 5 && status.missing >= 1, "{status:?}");
    // The duty is over, and nothing is asked any more.
    let over = NOW.plus_ms(49 * HOUR);
    book.expire(over);
    assert_eq!((book.status(over).holders, book.next_challenge()), (0, None));
}

#[test]
fn what_a_holder_never_had_is_not_held_against_it() {
    let mut book = book_with_a_duty();
    let saw = run(&mut book, NOW.plus_ms(24 * HOUR), |_| Seen::NotHere);
    assert_eq!(saw, [], "who knows whether it ever had anything of this group");
    let told = book.reports(NOW.plus_ms(24 * HOUR), 9);
    assert_eq!(findings(told[0].0, &told[0].2).missing.len(), 4, "but stewards that gave it something are told");
    // Though it shows what it has: an owner may list beside that what it never brought.
    let honest = |due: &Due| if due.target.ordinal == 0 { Seen::Good } else { Seen::NotHere };
    let blamed = |book: &mut Book| {
        let saw = run(book, NOW.plus_ms(47 * HOUR), honest);
        assert!(saw.contains(&Observed::Good));
        saw.iter().filter(|seen| **seen == Observed::NotHere).count()
    };
    assert_eq!(blamed(&mut book_with_a_duty()), 0);
    // What it signed that it took it did have; a loss of that counts, once a round.
    let mut book = book_with_words(&[word(&holder_key(), 0, &[1, 3])]);
    assert!((1..=2).contains(&blamed(&mut book)));
    // Another's word, one of another group or slot, and one that nobody signed say nothing.
    let mut forged = word(&holder_key(), 0, &[1, 3]);
    forged[40] ^= 1;
    let mut other_slot = Taken::open(&word(&holder_key(), 0, &[1, 3])).expect("signed");
    other_slot.slot = Slot::new(1).expect("valid");
    let strange = [
        word(&SigningKey::from_bytes(&[99; 32]), 0, &[1, 3]),
        word(&holder_key(), 1, &[1, 3]),
        other_slot.seal(&holder_key()),
        forged,
        Vec::new(),
    ];
    assert_eq!(blamed(&mut book_with_words(&strange)), 0);
    // What it showed us once it had, too.
    let mut book = book_with_a_duty();
    run(&mut book, NOW.plus_ms(24 * HOUR), |_| Seen::Good);
    assert!((1..=2).contains(&blamed(&mut book)));
}

/// The receipt that its holder gave for a stripe of slot 2, the last of four.
fn receipt() -> Receipt {
    let sheet = sheet(&ticket(0), 2, 1);
    let lease = NOW.plus_ms(1000 * HOUR);
    let rows: Vec<_> = sheet.rows.iter().map(|row| (row.ordinal, row.root, lease)).collect();
    Receipt {
        holder: key_of(&holder_key()),
        group: sheet.group,
        slot: sheet.slot,
        ordinal: 3,
        root: sheet.rows[3].root,
        lease_until: lease,
        stored_at: NOW,
        held: Some(Held::of(&rows)),
    }
}

/// How often a loss of shard 1 is held against the holder, which shows the others.
fn blamed_for_one(book: &mut Book, until: Timestamp) -> usize {
    let honest = |due: &Due| if due.target.ordinal == 1 { Seen::NotHere } else { Seen::Good };
    run(book, until, honest).iter().filter(|seen| **seen == Observed::NotHere).count()
}

#[test]
fn what_it_gave_the_owner_a_receipt_for_is_held_against_it_by_who_never_saw_it() {
    let until = NOW.plus_ms(47 * HOUR);
    let of = |receipt: Receipt| book_with_words(&[receipt.seal(&holder_key()).encode_to_vec()]);
    assert!((1..=2).contains(&blamed_for_one(&mut of(receipt()), until)), "all that it had, by one receipt");
    assert_eq!(blamed_for_one(&mut of(Receipt { held: None, ..receipt() }), until), 0, "of one shard, another is lost");
    let mut everything = of(receipt());
    let saw = run(&mut everything, until, |_| Seen::NotHere);
    assert!(saw.contains(&Observed::NotHere) && !saw.contains(&Observed::Good), "from the first question on");
    let owing = everything.owing(&key_of(&holder_key()), until);
    let line = owing.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let group = ticket(0).id();
    assert_eq!(
        line,
        format!("did not show 4 shards of slot 2 of group {}: it signed for 4, and showed 0 before", group.short())
    );
    // It has them again, or it was never bound by anything: nothing is held against it.
    run(&mut everything, NOW.plus_ms(47 * HOUR + 40 * 60_000), |_| Seen::Good);
    assert!(everything.owing(&key_of(&holder_key()), until).iter().all(|owing| owing.shards < 4));
    let mut nothing = book_with_words(&[receipt().seal(&SigningKey::from_bytes(&[99; 32])).encode_to_vec()]);
    run(&mut nothing, until, |_| Seen::NotHere);
    assert_eq!(nothing.owing(&key_of(&holder_key()), until), [], "nobody's word");
    // A lease that ends while we watch: from a day before on, nothing is held against it.
    let ends = Receipt { lease_until: NOW.plus_ms(25 * HOUR), ..receipt() };
    let ends = Receipt { held: receipt().held.map(|held| Held { lease_until: ends.lease_until, ..held }), ..ends };
    let late = |book: &mut Book| {
        run(book, NOW.plus_ms(HOUR), |_| Seen::Busy);
        blamed_for_one(book, until)
    };
    assert_eq!(late(&mut of(ends)), 0);
    assert!(late(&mut of(receipt())) > 0);
}

#[test]
fn a_receipt_that_is_not_the_holders_own_is_held_against_nobody() {
    let until = NOW.plus_ms(47 * HOUR);
    let other = SigningKey::from_bytes(&[99; 32]);
    let moved = |change: fn(&mut Receipt)| {
        let mut receipt = receipt();
        change(&mut receipt);
        receipt.seal(&holder_key()).encode_to_vec()
    };
    let mut forged = receipt().seal(&other);
    forged.signer = holder_key().verifying_key().to_bytes().to_vec();
    let strange = [
        receipt().seal(&other).encode_to_vec(),
        forged.encode_to_vec(),
        moved(|r| r.group = ticket(1).id()),
        moved(|r| r.slot = Slot::new(1).expect("valid")),
        // Of shards that it had before the owner put others there.
        moved(|r| {
            let rows: Vec<_> = (0..4).map(|o| (o, ShardRoot::from_bytes([o + 40; 32]), r.lease_until)).collect();
            (r.root, r.held) = (rows[3].1, Some(Held::of(&rows)));
        }),
        // Over long ago.
        moved(|r| (r.lease_until, r.held) = (NOW, r.held.map(|held| Held { lease_until: NOW, ..held }))),
        receipt().seal(&holder_key()).body,
    ];
    assert_eq!(blamed_for_one(&mut book_with_words(&strange), until), 0);
    // Newer sheets, with other shards: what was signed of the older ones is forgotten.
    let mut book = book_with_words(&[receipt().seal(&holder_key()).encode_to_vec()]);
    let mut newer = sheet(&ticket(0), 2, 2);
    newer.rows.iter_mut().for_each(|row| row.root = ShardRoot::from_bytes([row.ordinal + 40; 32]));
    let duty = Duty { holder: key_of(&holder_key()), ..duty(ticket(0), &newer) };
    book.take(peer(3), domain(3), &duty, &newer, NOW).expect("taken");
    assert_eq!(blamed_for_one(&mut book, until), 0);
}

#[test]
fn who_is_busy_for_long_is_silent_and_a_time_in_which_we_heard_nobody_counts_for_nothing() {
    let mut book = book_with_a_duty();
    let saw = run(&mut book, NOW.plus_ms(23 * HOUR), |_| Seen::Busy);
    assert_eq!(saw, []);
    let saw = run(&mut book, NOW.plus_ms(47 * HOUR), |_| Seen::Busy);
    assert!(saw.contains(&Observed::Silent));
    let mut book = book_with_a_duty();
    assert_eq!(run(&mut book, NOW.plus_ms(47 * HOUR), |_| Seen::Blind), []);
    assert!(book.reports(NOW.plus_ms(47 * HOUR), 9).is_empty());
}

#[test]
fn who_is_there_and_shows_nothing_has_nothing_and_who_is_away_is_away() {
    for (reached, missing) in [(true, true), (false, false)] {
        let mut book = book_with_a_duty();
        let saw = run(&mut book, NOW.plus_ms(47 * HOUR), |_| Seen::Silent { reached, complaint: None });
        assert!(!saw.is_empty() && saw.iter().all(|seen| *seen == Observed::Silent));
        let told = book.reports(NOW.plus_ms(47 * HOUR), 9);
        let said = findings(told[0].0, &told[0].2);
        assert_eq!((said.good, !said.missing.is_empty()), (0, missing), "{said:?}");
    }
}

/// A holder of four shards is given as long as one of thousands: its four silences about one are over a day, and what says nothing of it uses none up.
#[test]
fn a_holder_of_few_shards_has_a_day_for_its_four_answers() {
    let mut book = book_with_words(&[word(&holder_key(), 0, &[0, 1, 2, 3])]);
    let (mut rng, end) = (ChaCha8Rng::seed_from_u64(1), NOW.plus_ms(47 * HOUR));
    let (mut asked, mut withheld) = (Vec::new(), None);
    while let Some(now) = book.next_challenge().filter(|at| *at < end && withheld.is_none()) {
        while let Some((due, ..)) = book.due(now, &mut rng) {
            let bad = due.target.ordinal == 2;
            if bad {
                asked.push(now.ms_since(NOW));
            }
            let outcome = match bad {
                // The second time we heard nobody, and the third it was busy.
                true if asked.len() == 2 => Seen::Blind,
                true if asked.len() == 3 => Seen::Busy,
                true => Seen::Silent { reached: true, complaint: None },
                false => Seen::Good,
            };
            let told = book.settle(&due.holder, &due.target, outcome, now);
            if told.saw.contains(&Observed::Withheld) {
                withheld = Some(now);
            }
        }
    }
    let pauses: Vec<u64> = asked.windows(2).map(|two| (two[1] - two[0]) / HOUR).collect();
    assert_eq!(pauses, [1, 1, 1, 4, 16], "{asked:?}");
    assert_eq!(withheld.map(|at| at.ms_since(NOW)), asked.last().copied());
}

/// Another group's only shard at the same holder, which this steward of this domain has us ask for as long as it may.
fn give(book: &mut Book, from: u16, of: u16, salt: u16) -> Result<(), Refusal> {
    let ticket = ticket(salt);
    let sheet = SlotSheet { rows: sheet(&ticket, 2, 1).rows[..1].to_vec(), ..sheet(&ticket, 2, 1) };
    let (ordinals, until) = ((0..4).collect(), NOW.plus_ms(1000 * HOUR));
    // What is sealed in it does not matter here: the caller opened it.
    let duty = Duty { ticket, sheet: Vec::new(), holder: peer(2), ordinals, auditors: 1, until, words: Vec::new() };
    book.take(peer(from), domain(of), &duty, &sheet, NOW)
}

#[test]
fn no_domain_fills_the_book() {
    let mut book = Book::new(peer(1), SPANS, FEW);
    let mut salt = 0;
    for of in 0..4 {
        for _ in 0..FEW.of_domain {
            salt += 1;
            assert_eq!(give(&mut book, 100 + salt % 7, of, salt), Ok(()));
        }
        assert_eq!(give(&mut book, 100, of, salt + 1), Err(Refusal::Busy), "a domain has its share");
    }
    assert_eq!(usize::from(salt), FEW.holdings);
    assert_eq!(give(&mut book, 100, 9, salt + 1), Err(Refusal::Busy), "full");
    for other in 1..FEW.stewards_each as u16 {
        assert_eq!(give(&mut book, 200 + other, 10, 1), Ok(()), "what is known has room for its committee");
    }
    assert_eq!(give(&mut book, 300, 10, 1), Err(Refusal::Busy));
    // Whatever they say, no duty lasts longer than two rounds, and a holder is asked no more often than a seventh of the day's audits.
    let mut asked = 0;
    run(&mut book, NOW.plus_ms(24 * HOUR), |_| {
        asked += 1;
        Seen::Good
    });
    assert!((50..=80).contains(&asked), "{asked}");
    book.expire(NOW.plus_ms(60 * HOUR));
    assert_eq!(book.status(NOW).holders, 0);
    // Nor is more kept of sheets than there is room for.
    let mut book = Book::new(peer(1), SPANS, Limits { rows: 7, ..FEW });
    let whole = |salt| (ticket(salt), sheet(&ticket(salt), 2, 1));
    let (first, second) = (whole(1), whole(2));
    assert_eq!(book.take(peer(3), domain(3), &duty(first.0, &first.1), &first.1, NOW), Ok(()));
    assert_eq!(book.take(peer(3), domain(3), &duty(second.0, &second.1), &second.1, NOW), Err(Refusal::Busy));
}

/// Knows the peers 3 to 5 and reaches nobody.
struct Quiet;

impl StewardNet for Quiet {
    fn me(&self) -> PeerKey {
        peer(1)
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerView>> {
        let view = |at| PeerView {
            peer: peer(at),
            domain: domain(at),
            subnet: None,
            subnet_seen: false,
            region: cairn_proto::Region::unknown(),
            region_basis: cairn_core::region::Basis::Unsaid,
            network: None,
            roles: Roles::STORAGE,
            protocol: cairn_proto::PROTOCOL_VERSION,
            give: cairn_proto::ByteSize(0),
            free: cairn_proto::ByteSize(0),
            first_seen: NOW,
            last_heard: NOW,
            reachable: None,
            rtt_ms: None,
            loss: 0,
            reputation: 0,
            newcomer: false,
        };
        std::future::ready((3..6).map(view).collect()).boxed()
    }

    fn probe(&self, _: PeerKey) -> BoxFuture<'_, Result<(), TransferError>> {
        unreachable!("auditors probe nobody")
    }

    fn request(&self, _: PeerKey, _: Request) -> BoxFuture<'_, Result<Answer, TransferError>> {
        std::future::ready(Err(TransferError::TimedOut)).boxed()
    }

    fn holding(&self, _: PeerKey, _: WatchPass, _: Slot) -> BoxFuture<'_, Result<Ordinals, TransferError>> {
        unreachable!("auditors show no mandate")
    }

    fn fetch(&self, _: PeerKey, _: Arc<Credentials>, _: u8) -> BoxFuture<'_, Result<bytes::Bytes, TransferError>> {
        unreachable!("auditors fetch nothing")
    }
}

struct Nobody;

impl Witness for Nobody {
    fn saw(&self, _: PeerKey, _: Observed) {}

    fn learned(&self, _: Evidence) {}
}

#[tokio::test]
async fn another_colour_is_refused() {
    let ticket = ticket(0);
    let own = (10..200).map(domain).find(|domain| colour(&ticket, domain).index() == 2).expect("one");
    let auditor = Auditor::default();
    let good = sheet(&ticket, 2, 2);
    assert_eq!(auditor.duty(peer(3), &duty(ticket, &good)), Answer::Refused(Refusal::Busy), "not yet");
    let config = AuditorConfig {
        key: SigningKey::from_bytes(&[1; 32]),
        domain: own,
        timers: Timers::default(),
        clock: Arc::new(|| NOW),
        entropy: [1; 32],
        cut_off: Arc::new(|| true),
    };
    auditor.start(config, Arc::new(Quiet), Arc::new(Nobody));
    let say = |duty: Duty| auditor.duty(peer(3), &duty);
    while say(duty(ticket, &good)) != Answer::Done {
        tokio::task::yield_now().await;
    }
    assert_eq!((auditor.status().holders, auditor.status().shards), (1, 4));
    let refused: BTreeSet<u8> =
        (0..5).filter(|at| say(duty(ticket, &sheet(&ticket, *at, 2))) != Answer::Done).collect();
    assert_eq!(refused, BTreeSet::from([0, 1, 3, 4]), "SEP-1");
    assert_eq!(auditor.duty(peer(9), &duty(ticket, &good)), Answer::Refused(Refusal::Busy), "nobody knows it");
    assert_eq!(say(duty(ticket, &sheet(&ticket, 2, 1))), Answer::Refused(Refusal::Old));
    assert_eq!(say(Duty { until: NOW, ..duty(ticket, &good) }), Answer::Refused(Refusal::Old));
    assert_eq!(say(Duty { holder: peer(1), ..duty(ticket, &good) }), Answer::Refused(Refusal::Forged), "ourselves");
    let mut forged = duty(ticket, &good);
    forged.sheet[40] ^= 1;
    assert_eq!(say(forged), Answer::Refused(Refusal::Forged));
    assert_eq!(auditor.status().holders, 1);
    auditor.close().await;
    assert_eq!(say(duty(ticket, &good)), Answer::Refused(Refusal::Busy));
}
