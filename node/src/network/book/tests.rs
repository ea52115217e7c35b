//! What the book takes, keeps and says.

use super::*;
use super::{learning::AHEAD_MAX_MS, outcomes::Outcomes};
use cairn_core::peer_view;
use cairn_proto::{ByteSize, Region, message::Advert};
use ed25519_dalek::SigningKey;

fn network() -> NetworkFile {
    NetworkFile::create("book", 0, &SigningKey::from_bytes(&[1; 32])).expect("valid")
}

fn advert(seed: u8, sequence: u64, domain: &str) -> SignedBytes {
    let key = SigningKey::from_bytes(&[seed; 32]);
    told(&key, sequence, Domain::operator(domain).expect("valid"), "/ip4/127.0.0.1/tcp/9")
}

fn told(key: &SigningKey, sequence: u64, domain: Domain, address: &str) -> SignedBytes {
    Advert {
        peer: PeerKey::from_bytes(key.verifying_key().to_bytes()),
        network: network().id,
        sequence: Timestamp(sequence),
        protocol: network().protocol,
        domain,
        region: Region::new("EU").expect("valid"),
        roles: Roles::STORAGE,
        give: ByteSize(10),
        free: ByteSize(5),
        version: "1".into(),
        addresses: vec!["junk".into(), address.into()],
        pass: Vec::new(),
    }
    .seal(key)
}

fn book() -> PeerBook {
    PeerBook::new(network(), PeerKey::from_bytes([0; 32]), true, &[5; 32])
}

#[test]
fn the_first_domain_stays_and_the_newest_advert_wins() {
    let mut book = book();
    let now = Timestamp(1000);
    assert_eq!(book.learn(&advert(2, 10, "first"), None, now), Ok(Learned::New));
    assert_eq!(book.learn(&advert(2, 9, "older"), None, now), Ok(Learned::Stale));
    assert_eq!(book.learn(&advert(2, 11, "second"), None, now), Ok(Learned::Newer));
    let view = &book.views(now)[0];
    assert_eq!(view.domain.as_str(), "op:first", "BOOK-1");

    let bytes = book.take_unwritten().expect("changed");
    let mut again = self::book();
    again.restore(&bytes, now).expect("valid");
    assert_eq!(again.views(now)[0].domain.as_str(), "op:first", "BOOK-1 survives a restart");
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(self::book().restore(&bad, now).is_err(), "byte {at}");
    }
    assert_eq!(book.learn(&advert(3, 2000 + AHEAD_MAX_MS, "later"), None, now), Err(NotLearned::Ahead));
}

/// A steward that starts anew is told of everybody, also of those who are long gone.
#[test]
fn what_others_had_in_their_books_is_no_sign_of_life_now() {
    let mut book = book();
    let now = Timestamp(900_000);
    let (peer, other) = (PeerKey::from_slice(&advert(2, 1, "a").signer).expect("a key"), PeerKey::from_bytes([9; 32]));
    let heard = |book: &PeerBook| book.views(now)[0].last_heard;
    assert_eq!(book.learn(&advert(2, 1000, "a"), Some(&other), now), Ok(Learned::New));
    assert_eq!(heard(&book), Timestamp(1000), "when it was written");
    assert_eq!(book.learn(&advert(2, 2000, "a"), None, now), Ok(Learned::Newer));
    assert_eq!(heard(&book), Timestamp(2000));
    assert_eq!(book.learn(&advert(2, 3000, "a"), Some(&peer), now), Ok(Learned::Newer));
    assert_eq!(heard(&book), now, "its own word");
    assert_eq!(book.learn(&advert(2, 4000, "a"), Some(&other), now), Ok(Learned::Newer));
    assert_eq!(heard(&book), now, "hearsay takes nothing back");

    let mut book = self::book();
    assert_eq!(book.learn_gossiped(&advert(2, 1000, "a"), Some(&other), now), Ok(Learned::New));
    assert_eq!(heard(&book), now, "on its way now, whatever its clock says");
    for (at, sign) in [
        (1, PeerBook::heard as fn(&mut PeerBook, &PeerKey, Timestamp)),
        (2, |book, peer, now| {
            book.served(peer, true, now);
        }),
    ] {
        let later = now.plus_ms(at);
        sign(&mut book, &peer, later);
        assert_eq!(heard(&book), later);
    }
    book.served(&peer, false, now.plus_ms(9));
    assert_eq!(heard(&book), now.plus_ms(2), "a failure is none");
}

#[test]
fn a_flood_of_adverts_is_not_forwarded() {
    let mut book = book();
    let at = Timestamp;
    assert_eq!(book.learn(&advert(2, 10, "a"), None, at(5000)), Ok(Learned::New));
    assert_eq!(book.learn_gossiped(&advert(2, 11, "a"), None, at(5001)), Ok(Learned::Newer), "the first over gossip");
    for sequence in 12..20 {
        let flood = book.learn_gossiped(&advert(2, sequence, "a"), None, at(5001 + sequence));
        assert_eq!(flood, Ok(Learned::TooSoon));
    }
    assert_eq!(book.learn_gossiped(&advert(3, 12, "b"), None, at(5100)), Ok(Learned::New), "another peer");
    assert_eq!(book.learn(&advert(2, 12, "a"), None, at(5100)), Ok(Learned::Newer), "asked for");
    assert_eq!(book.learn_gossiped(&advert(2, 21, "a"), None, at(6001)), Ok(Learned::Newer));
    assert_eq!(book.learn_gossiped(&advert(2, 22, "a"), None, at(100)), Ok(Learned::Newer), "our clock went back");
}

#[test]
fn strangers_are_not_learned() {
    let mut hard = network();
    hard.puzzle_bits = 24;
    let mut book = PeerBook::new(hard, PeerKey::from_bytes([0; 32]), true, &[5; 32]);
    assert_eq!(book.learn(&advert(2, 1, "a"), None, Timestamp(1)), Err(NotLearned::Puzzle));
    let mut book = self::book();
    let mut forged = advert(2, 1, "a");
    forged.body[3] ^= 1;
    assert!(matches!(book.learn(&forged, None, Timestamp(1)), Err(NotLearned::Invalid(_))));
}

#[test]
fn loss_is_of_the_last_day_and_says_nothing_of_a_few_requests() {
    let limits = cairn_core::placement::Thresholds::default();
    let mut outcomes = Outcomes::default();
    let at = |hour: u64| Timestamp(hour * 3_600_000);
    for ok in [true, true, false, true, true] {
        outcomes.note(ok, at(100));
    }
    assert!(outcomes.loss(at(100)) < limits.loss_below, "one failure among five costs nobody a day");
    for _ in 0..45 {
        outcomes.note(true, at(101));
    }
    assert_eq!(outcomes.loss(at(101)), 20);
    assert_eq!(outcomes.loss(at(124)), 0, "the failure is more than a day old");
    assert_eq!(outcomes.loss(at(500)), 0);
    for _ in 0..40 {
        outcomes.note(false, at(600));
    }
    assert_eq!(outcomes.loss(at(600)), 1000);
}

#[test]
fn dials_in_quick_succession_are_one_failure() {
    let mut book = book();
    let (peer, advert) = member("away", 1, 1);
    let at = |second: u64| Timestamp(1_000_000 + second * 1000);
    assert!(book.learn(&advert, None, at(0)).is_ok());
    for second in 0..60 {
        book.dial_failed(&peer, at(second));
    }
    assert_eq!(book.peers[&peer].outcomes.all_and_failed(at(60)), (1, 1));
    book.dial_failed(&peer, at(60));
    assert_eq!(book.peers[&peer].outcomes.all_and_failed(at(60)), (2, 2));
}

/// Whoever dialled a peer while it was away does without it for ten minutes, or until it is heard of.
#[test]
fn an_advert_that_comes_after_a_dial_that_failed_says_that_it_may_be_back() {
    let mut book = book();
    let at = |second: u64| Timestamp(1_000_000 + second * 1000);
    let (peer, first) = member("away", 1, at(0).0);
    let (_, second) = member("away", 1, at(30).0);
    assert!(book.learn(&first, Some(&peer), at(0)).is_ok());
    let reachable = |book: &PeerBook, second| book.views(at(second)).first().expect("one").reachable;
    book.dial_failed(&peer, at(20));
    assert_eq!(reachable(&book, 29), Some(false));
    // What somebody else has of it was written before.
    assert!(book.learn(&first, None, at(29)).is_ok());
    assert_eq!(reachable(&book, 29), Some(false));
    assert!(book.learn(&second, Some(&peer), at(31)).is_ok());
    assert_eq!(reachable(&book, 31), None);
    book.dial_failed(&peer, at(40));
    assert_eq!((reachable(&book, 40), reachable(&book, 639), reachable(&book, 640)), (Some(false), Some(false), None));
}

#[test]
fn storing_peers_are_counted_as_they_come_change_and_go() {
    let mut book = book();
    let counted = |book: &PeerBook| book.peers.values().filter(|k| k.stores()).count();
    for seed in 2..12 {
        assert!(book.learn(&advert(seed, 1, "a"), None, Timestamp(5)).is_ok());
    }
    assert_eq!(book.storage_peers(), 10);
    let key = SigningKey::from_bytes(&[2; 32]);
    let idle = Advert { roles: Roles::NONE, ..Advert::open(&advert(2, 2, "a")).expect("valid") }.seal(&key);
    assert_eq!(book.learn(&idle, None, Timestamp(9)), Ok(Learned::Newer));
    assert_eq!(book.storage_peers(), 9);
    for i in 0..PEERS_MAX as u32 + 100 {
        let _ = book.learn(&member("p", i, 1).1, Some(&PeerKey::from_bytes([1; 32])), Timestamp(9));
    }
    assert_eq!(book.peers.len(), PEERS_MAX);
    assert_eq!(book.storage_peers(), counted(&book));
    let mut again = self::book();
    again.restore(&book.take_unwritten().expect("changed"), Timestamp(9)).expect("valid");
    assert_eq!(again.storage_peers(), book.storage_peers());
}

/// The i-th of a crowd, as it says of itself.
fn member(kind: &str, i: u32, sequence: u64) -> (PeerKey, SignedBytes) {
    let key = SigningKey::from_bytes(blake3::hash(format!("{kind}{i}").as_bytes()).as_bytes());
    let domain = Domain::operator(&format!("{kind}{i}")).expect("valid");
    let [_, a, b, c] = (i << 8).to_be_bytes();
    let address = format!("/ip4/8.{a}.{b}.{c}/tcp/1");
    (PeerKey::from_bytes(key.verifying_key().to_bytes()), told(&key, sequence, domain, &address))
}

#[test]
fn a_crowd_neither_puts_out_who_proved_itself_nor_fills_the_book() {
    let mut book = PeerBook::new(network(), PeerKey::from_bytes([0; 32]), false, &[5; 32]);
    let now = Timestamp(1_000_000);
    let liar = PeerKey::from_bytes([9; 32]);
    book.connected(&liar, Came::From(Domain::of_address([9, 9, 9, 9].into())), now);
    // As many as fit, each of a name and a /24 of its own, so it says; all through one connection.
    for i in 0..PEERS_MAX as u32 {
        assert_eq!(book.learn(&member("sybil", i, 1).1, Some(&liar), now), Ok(Learned::New));
    }
    assert_eq!(book.learn(&member("sybil", 5000, 1).1, Some(&liar), now).is_err(), {
        let lots = book.peers.values().map(|k| k.lot).max().expect("some");
        crowd::lot(&book.key, &member("sybil", 5000, 1).0) > lots
    });

    let met: Vec<PeerKey> = (0..300)
        .map(|i| {
            let (peer, advert) = member("met", i, 1);
            let subnet = Domain::of_address([7, 1, (i % 8) as u8, 0].into());
            book.connected(&peer, Came::From(subnet), now);
            assert!(book.learn(&advert, Some(&peer), now).is_ok(), "BOOK-2: {i}");
            book.disconnected(&peer, false, now);
            peer
        })
        .collect();
    let heard: Vec<PeerKey> = (0..300)
        .map(|i| {
            let (peer, advert) = member("heard", i, 1);
            let from = PeerKey::from_bytes([100 + (i % 20) as u8; 32]);
            assert_eq!(book.learn(&advert, Some(&from), now), Ok(Learned::New), "BOOK-3: the loud one makes room");
            peer
        })
        .collect();
    for i in 6000..7000 {
        let _ = book.learn(&member("sybil", i, 1).1, Some(&liar), now);
    }
    assert_eq!(book.peers.len(), PEERS_MAX);
    assert!(heard.iter().all(|p| book.peers.contains_key(p)), "BOOK-3");
    // Eight /24, so eight times sixteen of the three hundred are proven; the rest are as good as heard of.
    let proven: Vec<&PeerKey> = met.iter().filter(|p| book.peers.get(p).is_some_and(|k| k.met.is_some())).collect();
    assert_eq!(proven.len(), 8 * SHARES.proven);
    for i in 0..1000 {
        let from = PeerKey::from_bytes([200 + (i % 50) as u8; 32]);
        let _ = book.learn(&member("flood", i, 1).1, Some(&from), now);
    }
    assert!(proven.iter().all(|p| book.peers.contains_key(p)), "BOOK-2");

    let mut again = PeerBook::new(network(), PeerKey::from_bytes([0; 32]), false, &[6; 32]);
    again.restore(&book.take_unwritten().expect("changed"), now).expect("valid");
    assert_eq!(again.peers.len(), PEERS_MAX);
    assert!(proven.iter().all(|p| again.peers[p].met == Some(now) && again.peers[p].subnet_seen.is_some()));
}

#[test]
fn a_peer_that_connected_before_it_was_known_is_met() {
    let mut book = book();
    let (peer, advert) = member("early", 1, 1);
    let subnet = Domain::of_address([7, 7, 7, 7].into());
    book.connected(&peer, Came::Relayed, Timestamp(5));
    book.connected(&peer, Came::From(subnet.clone()), Timestamp(6));
    book.connected(&peer, Came::Relayed, Timestamp(7));
    assert_eq!(book.learn(&advert, None, Timestamp(9)), Ok(Learned::New));
    let known = &book.peers[&peer];
    assert!(known.connected);
    assert_eq!((known.met, &known.subnet_seen), (Some(Timestamp(9)), &subnet));
    assert_eq!(known.subnet_told.as_ref().map(Domain::as_str), Some("v4:8.0.1"), "and what it says is another matter");
    book.disconnected(&peer, false, Timestamp(10));
    assert!(book.present.is_empty());

    let (relayed, advert) = member("hidden", 2, 1);
    book.connected(&relayed, Came::Relayed, Timestamp(5));
    assert_eq!(book.learn(&advert, None, Timestamp(9)), Ok(Learned::New));
    assert_eq!(book.peers[&relayed].met, None, "a relay's word is no address");
}

#[test]
fn nobody_takes_another_peers_own_domain() {
    let mut book = book();
    let key = SigningKey::from_bytes(&[8; 32]);
    let own = Domain::of_peer(&PeerKey::from_bytes(key.verifying_key().to_bytes()));
    let other = Domain::of_peer(&PeerKey::from_bytes([1; 32]));
    let at = Timestamp(1);
    assert_eq!(book.learn(&told(&key, 1, other, "/ip4/8.8.8.8/tcp/1"), None, at), Err(NotLearned::Domain));
    assert_eq!(book.learn(&told(&key, 1, own, "/ip4/8.8.8.8/tcp/1"), None, at), Ok(Learned::New));
}

#[test]
fn a_day_makes_a_peer_known() {
    let day = |n: u64| Timestamp(5 + n * peer_view::NEWCOMER_MS);
    let limits = cairn_core::placement::Thresholds::default();
    let mut lan = book();
    assert!(lan.learn(&advert(2, 1, "a"), None, day(0)).is_ok());
    assert!(lan.views(day(0))[0].newcomer);
    let view = &lan.views(day(1))[0];
    assert!(!view.newcomer && view.reputation > limits.reputation_above, "eligible after its first day too: {view:?}");

    // Outside a LAN an address that can be checked belongs to it.
    let mut world = PeerBook::new(network(), PeerKey::from_bytes([0; 32]), false, &[5; 32]);
    let (placed, advert) = member("placed", 1, 1);
    let key = SigningKey::from_bytes(&[8; 32]);
    let hidden = PeerKey::from_bytes(key.verifying_key().to_bytes());
    let relayed = "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
    assert!(world.learn(&advert, None, day(0)).is_ok());
    assert!(world.learn(&told(&key, 1, Domain::of_peer(&hidden), relayed), None, day(0)).is_ok());
    let views = world.views(day(1));
    let view = |p: &PeerKey| views.iter().find(|v| v.peer == *p).expect("known");
    assert_eq!(view(&placed).subnet.as_ref().map(Domain::as_str), Some("v4:8.0.1"));
    assert!(!view(&placed).newcomer && !view(&placed).subnet_seen);
    assert_eq!(view(&hidden).subnet, None, "a relay's address is not the peer's");
    assert!(view(&hidden).newcomer);
    world.connected(&hidden, Came::From(Domain::of_address([7, 7, 7, 7].into())), day(1));
    let views = world.views(day(1));
    let view = views.iter().find(|v| v.peer == hidden).expect("known");
    assert!(!view.newcomer && view.subnet_seen, "once seen, it stands somewhere");
}

mod places;
