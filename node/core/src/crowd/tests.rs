//! Floods against a book as the node keeps one, only smaller.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const SHARES: Shares = Shares::of(256);
const KEY: [u8; 32] = [7; 32];

#[derive(Clone, Debug)]
struct Entry {
    peer: PeerKey,
    lot: u64,
    domain: Domain,
    subnet: Option<Domain>,
    source: Option<Source>,
    proof: Proof,
    stores: bool,
    first_seen: Timestamp,
    last_heard: Timestamp,
}

impl Entry {
    fn member(&self) -> Member<'_> {
        Member {
            peer: self.peer,
            lot: self.lot,
            domain: &self.domain,
            subnet: self.subnet.as_ref(),
            source: self.source,
            proof: self.proof,
            stores: self.stores,
            first_seen: self.first_seen,
            last_heard: self.last_heard,
        }
    }
}

fn domain(kind: &str, i: u32) -> Domain {
    Domain::operator(&format!("{kind}{i}")).expect("valid")
}

fn brought(kind: &str, i: u32) -> Source {
    source(&KEY, &domain(kind, i))
}

fn subnet(i: u32) -> Domain {
    let [_, a, b, c] = i.to_be_bytes();
    Domain::of_address([8, a, b, c].into()).expect("public")
}

/// A peer of its own domain, brought by one of `sources`.
fn entry(kind: &str, i: u32, sources: u32) -> Entry {
    let peer = PeerKey::from_bytes(*blake3::hash(format!("{kind}{i}").as_bytes()).as_bytes());
    Entry {
        peer,
        lot: lot(&KEY, &peer),
        domain: domain(kind, i),
        subnet: None,
        source: Some(brought(&format!("{kind}-source"), i % sources.max(1))),
        proof: Proof::default(),
        stores: true,
        first_seen: NOW,
        last_heard: NOW,
    }
}

#[derive(Clone, Default)]
struct Book(BTreeMap<PeerKey, Entry>);

impl Book {
    fn offer(&mut self, entry: &Entry) -> Admission {
        if self.0.contains_key(&entry.peer) {
            return Admission::Refused;
        }
        let mut entry = entry.clone();
        let all = || self.0.values().map(Entry::member);
        if entry.proof.met.is_some() && !may_prove(all(), entry.subnet.as_ref(), &SHARES, NOW) {
            entry.proof.met = None;
        }
        let admission = admit(all(), &entry.member(), &SHARES, NOW);
        if let Admission::Instead(gone) = admission {
            assert!(self.0.remove(&gone).is_some(), "only who is there can go");
        }
        if admission != Admission::Refused {
            self.0.insert(entry.peer, entry);
        }
        assert!(self.0.len() <= SHARES.entries);
        admission
    }

    fn count(&self, of: impl Fn(&Entry) -> bool) -> usize {
        self.0.values().filter(|e| of(e)).count()
    }

    fn holds(&self, e: &Entry) -> bool {
        self.0.contains_key(&e.peer)
    }
}

fn met(i: u32) -> Entry {
    let proof = Proof { met: Some(Timestamp(NOW.0 - 1000)), ..Proof::default() };
    Entry { subnet: Some(subnet(1_000_000 + i * 300)), proof, ..entry("met", i, 4) }
}

fn sybil(subnets: u32, domains: u32) -> impl Strategy<Value = Entry> {
    (0u32..20_000, 0..subnets, 0..domains, 0u32..3, any::<bool>()).prop_map(|(i, s, d, source, stores)| Entry {
        domain: domain("evil", d),
        subnet: Some(subnet(s * 300)),
        source: Some(brought("evil", source)),
        stores,
        ..entry("sybil", i, 1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// BOOK-2, BOOK-3: whatever comes in whatever order, who proved itself stays.
    #[test]
    fn no_flood_puts_out_the_proven(
        flood in proptest::collection::vec(sybil(5000, 5000), 0..700), proven in 0u32..200, at in 0usize..700
    ) {
        let mut book = Book::default();
        let before = at.min(flood.len());
        flood[..before].iter().for_each(|e| { book.offer(e); });
        let proven: Vec<Entry> = (0..proven).map(met).collect();
        for e in &proven {
            prop_assert_ne!(book.offer(e), Admission::Refused, "BOOK-2: there is always room for one more that is met");
        }
        flood[before..].iter().for_each(|e| { book.offer(e); });
        prop_assert!(proven.iter().all(|e| book.holds(e)), "BOOK-2");
    }

    /// BOOK-3: few subnets or few names give few entries, in an empty book and a full one.
    #[test]
    fn a_crowd_of_few_origins_stays_small(
        flood in proptest::collection::vec(sybil(6, 4000), 100..600),
        named in proptest::collection::vec(sybil(4000, 2), 100..600), honest in 0u32..300,
    ) {
        let mut book = Book::default();
        for (i, e) in flood.iter().chain(&named).enumerate() {
            book.offer(e);
            if (i as u32) < honest {
                book.offer(&entry("honest", i as u32, 50));
            }
        }
        for s in 0..6 {
            let of = subnet(s * 300);
            prop_assert!(book.count(|e| e.subnet.as_ref() == Some(&of)) <= SHARES.subnet, "BOOK-3");
        }
        for d in 0..2 {
            let of = domain("evil", d);
            prop_assert!(book.count(|e| e.domain == of) <= SHARES.domain, "BOOK-3");
        }
        let crowd = book.count(|e| (0..3).any(|s| e.source == Some(brought("evil", s))));
        prop_assert!(crowd <= 6 * SHARES.subnet + 2 * SHARES.domain);
    }

    /// BOOK-3: names and told subnets are free, so a crowd may look like thousands of strangers; it still comes
    /// through somebody.
    #[test]
    fn one_talkative_source_cannot_take_the_book(order in proptest::collection::vec(any::<bool>(), 1400), seed in 0u32..1000) {
        let mut book = Book::default();
        let (mut good, mut bad) = (0, 0);
        let honest = (SHARES.entries - SHARES.source) as u32;
        for is_good in order {
            if is_good && good < honest {
                book.offer(&entry("honest", good, 20));
                good += 1;
            } else {
                let i = seed * 10_000 + bad;
                book.offer(&Entry { subnet: Some(subnet(i * 300 % (1 << 24))), ..entry("sybil", i, 1) });
                bad += 1;
            }
        }
        for i in good..honest {
            book.offer(&entry("honest", i, 20));
        }
        let kept = (0..honest).filter(|i| book.holds(&entry("honest", *i, 20))).count();
        prop_assert_eq!(kept, honest as usize);
    }

    /// Who repeats itself, comes first or last gains nothing: what stays is a sample of identities.
    #[test]
    fn repetition_gains_nothing(repeat in 1usize..6, first: bool) {
        let mut book = Book::default();
        let loud: Vec<Entry> = (0..600).map(|i| entry("loud", i, 50)).collect();
        let quiet: Vec<Entry> = (0..600).map(|i| entry("quiet", i, 50)).collect();
        let flood = |book: &mut Book| for _ in 0..repeat { loud.iter().for_each(|e| { book.offer(e); }); };
        if first { flood(&mut book); }
        quiet.iter().for_each(|e| { book.offer(e); });
        if !first { flood(&mut book); }
        let kept = quiet.iter().filter(|e| book.holds(e)).count();
        prop_assert!((90..166).contains(&kept), "{kept} of 256 are of the quiet half");
    }
}

#[test]
fn one_subnet_proves_only_a_few() {
    let mut shares = Shares::of(4096);
    shares.proven = 2;
    let mut book: Vec<Entry> = (0..3).map(met).collect();
    for e in &mut book {
        e.subnet = Some(subnet(1));
    }
    let of = |book: &[Entry], n: usize| may_prove(book[..n].iter().map(Entry::member), Some(&subnet(1)), &shares, NOW);
    assert!(of(&book, 1));
    assert!(!of(&book, 2), "BOOK-2");
    assert!(may_prove(book.iter().map(Entry::member), None, &shares, NOW), "neighbours on a LAN all count");
    book[0].proof.met = Some(Timestamp(NOW.0 - MET_FOR_MS - 1));
    assert!(of(&book, 2), "a proof ends");
}

#[test]
fn the_order_of_going() {
    let all = |n: u32| (0..n).map(|i| entry("old", i, 50)).collect::<Vec<_>>();
    let decide = |members: &[Entry], newcomer: &Entry| {
        admit(members.iter().map(Entry::member), &newcomer.member(), &SHARES, NOW)
    };
    let newcomer = entry("new", 1, 50);
    assert_eq!(decide(&all(255), &newcomer), Admission::Room);

    let mut members = all(256);
    members[9].last_heard = Timestamp(NOW.0 - SILENT_MS - 1);
    members[8].stores = false;
    assert_eq!(decide(&members, &newcomer), Admission::Instead(members[9].peer), "the silent first");
    members[9].last_heard = NOW;
    let lowest = members.iter().min_by_key(|e| e.lot).expect("some").clone();
    members.retain(|e| e.peer != lowest.peer);
    members.push(Entry { stores: false, ..entry("useless", 1, 50) });
    let useless = members.iter().filter(|e| !e.stores).map(|e| e.peer).collect::<Vec<_>>();
    assert!(
        matches!(decide(&members, &lowest), Admission::Instead(p) if useless.contains(&p)),
        "then who stores nothing"
    );

    // Long seen goes after young, whatever the lots say.
    let mut members = all(256);
    for e in &mut members {
        e.first_seen = Timestamp(NOW.0 - LONG_SEEN_MS);
    }
    let highest = members.iter().max_by_key(|e| e.lot).expect("some").peer;
    assert_eq!(decide(&members, &lowest), Admission::Instead(highest), "all are long seen: by lot");
    let young = members.iter().position(|e| e.peer != highest && e.lot > lowest.lot);
    members[young.expect("some")].first_seen = NOW;
    let young = members[young.expect("some")].peer;
    assert_eq!(decide(&members, &lowest), Admission::Instead(young));

    // Only the proven are left.
    let mut members: Vec<Entry> = (0..256).map(met).collect();
    assert_eq!(decide(&members, &newcomer), Admission::Refused, "BOOK-2");
    members[3].proof.met = Some(Timestamp(NOW.0 - 5000));
    members[4].proof =
        Proof { met: Some(Timestamp(NOW.0 - 9000)), served: Some(Timestamp(NOW.0 - 9000)), present: false };
    assert_eq!(decide(&members, &met(999)), Admission::Instead(members[3].peer), "not the one that holds our shards");
}
