//! Where peers are taken to be: by address, by word, by light.

use cairn_core::region::Basis;

use super::*;
use crate::geoip::fixture;

fn says(seed: u8, sequence: u64, region: &str) -> (PeerKey, SignedBytes) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let signed = told(&key, sequence, Domain::operator("op").expect("valid"), "/ip4/8.8.8.8/tcp/9");
    let advert = Advert { region: Region::new(region).expect("valid"), ..Advert::open(&signed).expect("valid") };
    (advert.peer, advert.seal(&key))
}

fn subnet(address: &str) -> Option<Domain> {
    Domain::of_address(address.parse().expect("an address"))
}

fn placed(book: &PeerBook, now: Timestamp) -> (String, Basis, Option<u32>) {
    let view = book.views(now).remove(0);
    (view.region.as_str().to_owned(), view.region_basis, view.network)
}

fn with_files(here: &str) -> PeerBook {
    let mut book = book();
    let files = GeoIp::of(fixture::regions(), fixture::networks());
    book.place(Arc::new(files), Region::new(here).expect("valid"));
    book
}

/// GEO-2, from the connection to the view.
#[test]
fn the_address_it_was_seen_at_decides() {
    let now = Timestamp(1000);
    let mut book = with_files("");
    let (peer, signed) = says(2, 10, "SA/BR");
    book.learn(&signed, None, now).expect("taken");
    let declared = ("SA/BR".to_owned(), Basis::Declared, None);
    assert_eq!(placed(&book, now), declared, "the address that it tells is its own word too");
    let bytes = book.take_unwritten().expect("changed");
    let mut again = with_files("");
    again.restore(&bytes, now).expect("valid");
    assert_eq!(placed(&again, now), declared, "nor after a restart");
    book.connected(&peer, Came::Relayed, now);
    assert_eq!(placed(&book, now), declared, "through a relay nobody is seen");

    book.connected(&peer, Came::From(subnet("8.1.2.3")), now);
    let overruled = Basis::Overruled { declared: Region::new("SA/BR").expect("valid") };
    assert_eq!(placed(&book, now), ("NA/US/CA".to_owned(), overruled.clone(), Some(15169)));

    let bytes = book.take_unwritten().expect("changed");
    let mut again = with_files("");
    again.restore(&bytes, now).expect("valid");
    assert_eq!(placed(&again, now), ("NA/US/CA".to_owned(), overruled, Some(15169)), "after a restart");
    let mut without = self::book();
    without.restore(&bytes, now).expect("valid");
    assert_eq!(placed(&without, now), declared, "the files are the operator's, nothing of them is kept");

    book.connected(&peer, Came::From(subnet("11.1.2.3")), now);
    assert_eq!(placed(&book, now), declared, "it moved to where the files know nothing");
}

/// GEO-1, from the pings to the view.
#[test]
fn a_round_trip_that_light_cannot_make_leaves_no_region() {
    let now = Timestamp(1000);
    let mut book = book();
    book.place(Arc::default(), Region::new("EU/DE").expect("valid"));
    let (peer, signed) = says(2, 10, "SA/BR");
    book.learn(&signed, None, now).expect("taken");
    book.pinged(&peer, Some(300), now);
    assert_eq!(placed(&book, now).0, "SA/BR");
    book.pinged(&peer, Some(9), now);
    book.pinged(&peer, Some(300), now);
    book.pinged(&peer, None, now);
    let claimed = Region::new("SA/BR").expect("valid");
    let too_quick = Basis::TooQuick { claimed, rtt_ms: 9, least_ms: 23 };
    assert_eq!(placed(&book, now), (String::new(), too_quick.clone(), None), "a slow answer does not undo a quick one");
    assert_eq!(book.views(now)[0].rtt_ms, Some(300));

    book.learn(&says(2, 11, "SA/AR").1, None, now).expect("newer");
    assert_eq!(
        placed(&book, now).1,
        Basis::TooQuick { claimed: Region::new("SA/AR").expect("valid"), rtt_ms: 9, least_ms: 23 }
    );
    book.learn(&says(2, 12, "AF/MA").1, None, now).expect("newer");
    assert_eq!(placed(&book, now).0, "AF/MA", "whoever owns up is believed again");
    book.learn(&says(2, 13, "SA/BR").1, None, now).expect("newer");
    assert_eq!(placed(&book, now).0, "SA/BR", "nothing was measured since");
    book.pinged(&peer, Some(9), now);
    assert_eq!(placed(&book, now).0, "");
    book.stand_in(Region::new("SA/BR").expect("valid"));
    assert_eq!(placed(&book, now).0, "SA/BR", "it was we who moved");
    book.pinged(&peer, Some(9), now);
    book.connected(&peer, Came::From(subnet("8.1.2.3")), now);
    book.stand_in(Region::new("EU/DE").expect("valid"));
    assert_eq!(placed(&book, now).0, "SA/BR", "what was measured from elsewhere rules nothing out");
}
