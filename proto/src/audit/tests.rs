//! Formats of audits: what round-trips, what is refused, and that no bytes make a decoder panic.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::Domain;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn peer(seed: u8) -> PeerKey {
    PeerKey::from_bytes(key(seed).verifying_key().to_bytes())
}

fn challenge() -> Challenge {
    Challenge {
        auditor: peer(1),
        holder: peer(2),
        group: GroupId::from_bytes([3; 32]),
        slot: Slot::new(4).expect("valid"),
        ordinal: 255,
        root: ShardRoot::from_bytes([5; 32]),
        nonce: [6; 32],
        way: Way::Slices,
        slices: SLICES_DEFAULT,
        previous: Some(StatementId::from_bytes([7; 32])),
        issued: Timestamp(1_000),
        deadline: Timestamp(9_000),
    }
}

fn answer(to: &SignedBytes, found: Found) -> SignedBytes {
    Answer { holder: peer(2), challenge: Challenge::id(to), previous: None, found }.seal(&key(2))
}

#[test]
fn challenges_are_checked() {
    let good = challenge();
    assert_eq!(Challenge::open(&good.seal(&key(1))), Ok(good.clone()));
    let bad = [
        Challenge { slices: 0, ..good.clone() },
        Challenge { slices: SLICES_MAX + 1, ..good.clone() },
        Challenge { way: Way::Digest, slices: DIGEST_LEAVES_MAX + 1, ..good.clone() },
        Challenge { deadline: good.issued, ..good.clone() },
        Challenge { deadline: good.issued.plus_ms(DEADLINE_MAX_MS + 1), ..good.clone() },
    ];
    for challenge in bad {
        assert!(Challenge::open(&challenge.seal(&key(1))).is_err(), "{challenge:?}");
    }
    let digest = Challenge { way: Way::Digest, slices: DIGEST_LEAVES_MAX, previous: None, ..good };
    assert_eq!(Challenge::open(&digest.seal(&key(1))), Ok(digest));
}

#[test]
fn an_answer_says_one_thing() {
    let sealed = challenge().seal(&key(1));
    for found in [
        Found::Slices(vec![[1; 32]; 16]),
        Found::Digest([2; 32]),
        Found::NotHere(Loss::Gone),
        Found::NotHere(Loss::Damaged),
    ] {
        let signed = answer(&sealed, found.clone());
        assert_eq!(Answer::open(&signed).expect("valid").found, found);
    }
    assert!(Answer::open(&answer(&sealed, Found::Slices(vec![[1; 32]; 17]))).is_err());
    assert!(Answer::open(&answer(&sealed, Found::Slices(vec![]))).is_err());
    let both = AnswerBody { challenge: vec![1; 32], digest: vec![2; 32], loss: 1, ..AnswerBody::default() };
    assert!(Answer::open(&SignedBytes::sign(ANSWER_CONTEXT, both.encode_to_vec(), &key(2))).is_err());
}

#[test]
fn a_response_is_bounded() {
    let answer = answer(&challenge().seal(&key(1)), Found::Slices(vec![[1; 32]; 16]));
    let full = Response { answer: Some(answer.clone()), slices: vec![vec![0; SLICE_SIZE]; SLICES_MAX.into()] };
    assert!(Response::read(&full.encode_to_vec()).is_ok(), "the most that is allowed fits");
    let crowded = Response { slices: vec![vec![0; SLICE_SIZE]; usize::from(SLICES_MAX) + 1], ..full.clone() };
    let short = Response { slices: vec![vec![0; SLICE_SIZE - 1]], ..full.clone() };
    for bad in [crowded, short, Response { answer: None, ..full }] {
        assert!(Response::read(&bad.encode_to_vec()).is_err());
    }
    assert!(Response::read(&vec![0; RESPONSE_MAX + 1]).is_err());
}

#[test]
fn evidence_needs_parts_that_belong_together() {
    let asked = challenge().seal(&key(1));
    let gone = answer(&asked, Found::NotHere(Loss::Gone));
    let report =
        |who: u8, at: u64| SilenceReport { reporter: peer(who), challenge: Challenge::id(&asked), at: Timestamp(at) };
    let silence = |who, at| Evidence::Silence { challenge: asked.clone(), report: report(who, at).seal(&key(who)) };
    assert!(silence(1, 9_000).open().is_ok());
    assert!(silence(1, 8_999).open().is_err(), "before the deadline");
    assert!(silence(3, 9_000).open().is_err(), "hearsay");
    assert!(Evidence::SelfReport { challenge: asked.clone(), answer: gone.clone() }.open().is_ok());
    let other = Challenge { nonce: [9; 32], ..challenge() }.seal(&key(1));
    assert!(Evidence::SelfReport { challenge: other, answer: gone.clone() }.open().is_err(), "another nonce");
    let stranger =
        Answer { holder: peer(3), challenge: Challenge::id(&asked), previous: None, found: Found::NotHere(Loss::Gone) };
    assert!(Evidence::SelfReport { challenge: asked, answer: stranger.seal(&key(3)) }.open().is_err(), "not asked");
}

#[test]
fn only_two_words_that_cannot_both_be_true_are_equivocation() {
    let asked = challenge().seal(&key(1));
    let slices = |seed| answer(&asked, Found::Slices(vec![[seed; 32]]));
    let pair = |first: &SignedBytes, second: &SignedBytes| {
        Evidence::Equivocation { first: first.clone(), second: second.clone() }.open()
    };
    assert_eq!(pair(&slices(1), &slices(2)), Ok(Opened::Equivocation { signer: peer(2) }));
    assert!(pair(&slices(1), &slices(1)).is_err(), "said twice");
    assert!(pair(&slices(1), &answer(&asked, Found::NotHere(Loss::Damaged))).is_err(), "a disk may break");
    let other = Challenge { nonce: [9; 32], ..challenge() }.seal(&key(1));
    assert!(pair(&slices(1), &answer(&other, Found::Slices(vec![[2; 32]]))).is_err(), "two challenges");

    let matter = Matter { subject: peer(2), kind: VerdictKind::Exclude, round: 1, place: None };
    let vote = |against, round| {
        let matter = Matter { round, ..matter };
        Vote { voter: peer(1), matter, against, evidence: vec![], issued: Timestamp(1) }.seal(&key(1))
    };
    assert_eq!(pair(&vote(true, 1), &vote(false, 1)), Ok(Opened::Equivocation { signer: peer(1) }));
    assert!(pair(&vote(true, 1), &vote(false, 2)).is_err(), "a mind may change from round to round");
    assert!(pair(&vote(true, 1), &slices(1)).is_err());
}

struct Panel {
    seats: BTreeMap<PeerKey, Domain>,
    quorum: Option<usize>,
}

impl Bench for Panel {
    fn seat(&self, _: &Matter, voter: &PeerKey) -> Option<Domain> {
        self.seats.get(voter).cloned()
    }
    fn quorum(&self, _: &Matter) -> Option<usize> {
        self.quorum
    }
}

#[test]
fn a_verdict_needs_its_quorum_of_domains() {
    let matter = Matter {
        subject: peer(99),
        kind: VerdictKind::Suspect,
        round: 7,
        place: Some((GroupId::from_bytes([1; 32]), Slot::new(2).expect("valid"))),
    };
    let domain = |n: u8| Domain::operator(&format!("o{n}")).expect("valid");
    let mut panel = Panel { seats: (0..7).map(|n| (peer(n), domain(n))).collect(), quorum: Some(5) };
    let vote =
        |n: u8| Vote { voter: peer(n), matter, against: true, evidence: vec![], issued: Timestamp(10 + u64::from(n)) };
    let verdict = |votes: Vec<SignedBytes>| Verdict { matter, votes };
    let five: Vec<_> = (0..5).map(|n| vote(n).seal(&key(n))).collect();
    let good = verdict(five.clone()).verify(&panel).expect("five of seven");
    assert_eq!((good.votes(), good.issued()), (5, Timestamp(12)));
    assert_eq!(Verdict::decode(&verdict(five.clone()).encode()), Ok(verdict(five.clone())));

    let mut strangers = five[..4].to_vec();
    strangers.extend((20..30).map(|n| vote(n).seal(&key(n))));
    let few = VerdictError::TooFewVotes { needed: 5, found: 4 };
    assert_eq!(verdict(strangers).verify(&panel), Err(few), "who was not drawn does not count");

    let mut forged = five.clone();
    forged[2].signature[0] ^= 1;
    assert!(matches!(verdict(forged).verify(&panel), Err(VerdictError::Vote(_))));
    let mut other = five.clone();
    other[0] = Vote { against: false, ..vote(0) }.seal(&key(0));
    assert!(matches!(verdict(other).verify(&panel), Err(VerdictError::Foreign { .. })), "an acquittal");
    let mut other = five.clone();
    other[0] = Vote { matter: Matter { round: 8, ..matter }, ..vote(0) }.seal(&key(0));
    assert!(matches!(verdict(other).verify(&panel), Err(VerdictError::Foreign { .. })), "another round");
    let twice = [&five[..4], &five[..1]].concat();
    assert!(matches!(verdict(twice).verify(&panel), Err(VerdictError::TwiceOneDomain { .. })));
    panel.seats.insert(peer(4), domain(0));
    assert!(matches!(verdict(five.clone()).verify(&panel), Err(VerdictError::TwiceOneDomain { .. })), "one domain");

    panel.quorum = Some(2);
    let exclude = Matter { kind: VerdictKind::Exclude, ..matter };
    let two = (0..2).map(|n| Vote { matter: exclude, ..vote(n) }.seal(&key(n))).collect();
    let few = VerdictError::TooFewVotes { needed: 3, found: 2 };
    assert_eq!(Verdict { matter: exclude, votes: two }.verify(&panel), Err(few), "never by fewer than three");
    panel.quorum = None;
    assert_eq!(verdict(five).verify(&panel), Err(VerdictError::NoPanel));
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Evidence::decode(&bytes).map(|e| e.open());
        let _ = Verdict::decode(&bytes);
        let _ = Response::read(&bytes);
        for context in [CHALLENGE_CONTEXT, ANSWER_CONTEXT, VOTE_CONTEXT_FOR_TESTS] {
            let signed = SignedBytes::sign(context, bytes.clone(), &key(1));
            let _ = (Challenge::open(&signed), Answer::open(&signed), Vote::open(&signed), SilenceReport::open(&signed));
        }
    }

    #[test]
    fn one_flipped_bit_is_never_the_same_evidence(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let asked = challenge().seal(&key(1));
        let evidence =
            Evidence::SelfReport { answer: answer(&asked, Found::NotHere(Loss::Gone)), challenge: asked };
        let mut bytes = evidence.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Evidence::decode(&bytes) {
            prop_assert!(other == evidence || other.open().is_err());
        }
    }
}

const VOTE_CONTEXT_FOR_TESTS: &str = verdict::VOTE_CONTEXT;
