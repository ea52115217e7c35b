//! Audits under attack: answers, proofs, permissions. `tests/` has panels and schedules.

mod odds;
mod panels;
mod schedules;

use cairn_proto::{
    CodeParams, GroupId, SHARD_SIZE, Slot,
    audit::{Answer, DIGEST_LEAVES_MAX, Loss, SLICE_SIZE},
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::*;

pub(super) fn key(seed: u32) -> SigningKey {
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    SigningKey::from_bytes(&bytes)
}

pub(super) fn peer(seed: u32) -> PeerKey {
    PeerKey::from_bytes(key(seed).verifying_key().to_bytes())
}

pub(super) fn domain(n: u32) -> Domain {
    Domain::operator(&format!("o{n}")).expect("valid")
}

pub(super) fn ticket(salt: u8) -> GroupTicket {
    GroupTicket::new([1; 32], [salt; 32], CodeParams::DEFAULT, 9).expect("valid")
}

fn shard(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; SHARD_SIZE];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn root(shard: &[u8]) -> ShardRoot {
    ShardRoot::from_bytes(*blake3::hash(shard).as_bytes())
}

const AUDITOR: u32 = 1;
const HOLDER: u32 = 2;

fn challenge(root: ShardRoot, nonce: u8) -> Challenge {
    Challenge {
        auditor: peer(AUDITOR),
        holder: peer(HOLDER),
        group: ticket(3).id(),
        slot: Slot::new(4).expect("valid"),
        ordinal: 7,
        root,
        nonce: [nonce; 32],
        way: Way::Slices,
        slices: 4,
        previous: None,
        issued: Timestamp(1_000_000),
        deadline: Timestamp(1_060_000),
    }
}

fn sign(challenge: &SignedBytes, found: Found) -> SignedBytes {
    let answer = Answer { holder: peer(HOLDER), challenge: Challenge::id(challenge), previous: None, found };
    answer.seal(&key(HOLDER))
}

/// A challenge and what a holder with these bytes makes of it.
fn ask(bytes: Option<&[u8]>, challenge: &Challenge) -> (SignedBytes, SignedBytes, Vec<Vec<u8>>) {
    let asked = challenge.seal(&key(AUDITOR));
    let (found, slices) = respond(bytes, challenge);
    let said = sign(&asked, found);
    (asked, said, slices)
}

fn rehash(slices: &[Vec<u8>]) -> Found {
    Found::Slices(slices.iter().map(|s| *blake3::hash(s).as_bytes()).collect())
}

#[test]
fn bytes_that_are_there_are_shown() {
    let shard = shard(1);
    let mut seen = Vec::new();
    for nonce in 0..8 {
        let (asked, said, slices) = ask(Some(&shard), &challenge(root(&shard), nonce));
        assert_eq!(verify(&asked, &said, &slices, &root(&shard)), Ok(Outcome::Good));
        assert!(slices.iter().all(|s| s.len() == SLICE_SIZE));
        for slice in &slices {
            let leaf = &slice[SLICE_SIZE - LEAF_SIZE..];
            assert!(shard.chunks(LEAF_SIZE).any(|l| l == leaf), "a leaf of the shard");
        }
        seen.extend(slices);
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 28, "other nonces ask for other leaves");
}

#[test]
fn the_next_place_depends_on_the_last_slice() {
    let challenge = challenge(ShardRoot::from_bytes([1; 32]), 1);
    let places = |second: u8| slices::places(&challenge, &[[1; 32], [second; 32], [3; 32]]).collect::<Vec<_>>();
    let (a, b) = (places(2), places(9));
    assert_eq!(a[..2], b[..2]);
    assert_ne!(a[2], b[2], "what comes third cannot be known before the second");
}

#[test]
fn what_was_changed_on_the_way_is_no_answer_and_no_proof() {
    let shard = shard(2);
    let (asked, said, slices) = ask(Some(&shard), &challenge(root(&shard), 1));
    let mut rng = ChaCha8Rng::seed_from_u64(0x5eed);
    for _ in 0..200 {
        let mut bad = slices.clone();
        let (which, at) = (rng.next_u64() as usize % 4, rng.next_u64() as usize % SLICE_SIZE);
        bad[which][at] ^= 1 << (at % 8);
        assert!(verify(&asked, &said, &bad, &root(&shard)).is_err(), "slice {which} byte {at}");
        bad[which].truncate(at);
        assert!(verify(&asked, &said, &bad, &root(&shard)).is_err());
    }
    assert!(verify(&asked, &said, &slices[..3], &root(&shard)).is_err());
    for at in 0..said.body.len() {
        let mut bad = said.clone();
        bad.body[at] ^= 1;
        assert!(verify(&asked, &bad, &slices, &root(&shard)).is_err(), "answer byte {at}");
        bad.body.truncate(at);
        assert!(verify(&asked, &bad, &slices, &root(&shard)).is_err());
    }
}

#[test]
fn an_answer_is_good_for_one_challenge() {
    let shard = shard(3);
    let first = challenge(root(&shard), 1);
    let (_, said, slices) = ask(Some(&shard), &first);
    for other in [
        Challenge { nonce: [2; 32], ..first.clone() },
        Challenge { ordinal: 8, ..first.clone() },
        Challenge { slot: Slot::new(5).expect("valid"), ..first.clone() },
        Challenge { group: GroupId::from_bytes([9; 32]), ..first.clone() },
        Challenge { issued: Timestamp(1_000_001), ..first.clone() },
    ] {
        let asked = other.seal(&key(AUDITOR));
        assert!(verify(&asked, &said, &slices, &root(&shard)).is_err(), "{other:?}");
        // Slices of another nonce, signed anew by a holder that hopes for the best, are a wrong answer.
        let signed = verify(&asked, &sign(&asked, rehash(&slices)), &slices, &root(&shard));
        assert_eq!(matches!(signed, Ok(Outcome::Wrong(_))), other.nonce != first.nonce, "{other:?}");
    }
    let (asked, said, slices) = ask(Some(&shard), &first);
    assert!(verify(&asked, &said, &slices, &ShardRoot::from_bytes([0; 32])).is_err(), "another root than the record's");
}

#[test]
fn a_wrong_answer_convicts_from_its_file_alone() {
    let shard = shard(4);
    let first = challenge(root(&shard), 1);
    let asked = first.seal(&key(AUDITOR));
    let (_, right) = respond(Some(&shard), &first);
    let mut rng = ChaCha8Rng::seed_from_u64(0x5eed);
    for round in 0..60 {
        let mut slices = right.clone();
        let which = rng.next_u64() as usize % 4;
        let at = if round < 8 { round } else { rng.next_u64() as usize % SLICE_SIZE };
        slices[which][at] ^= 1 << (rng.next_u64() % 8);
        let Ok(Outcome::Wrong(evidence)) = verify(&asked, &sign(&asked, rehash(&slices)), &slices, &root(&shard))
        else {
            panic!("slice {which} byte {at} passed");
        };
        let file = evidence.encode();
        let read = Evidence::decode(&file).expect("our own file");
        let conviction = convict(&read).expect("proves itself");
        assert_eq!((conviction.subject(), conviction.lie()), (&peer(HOLDER), Lie::WrongAnswer));
        let Evidence::WrongAnswer { at: shown, slice, .. } = &read else { panic!("another kind") };
        assert_eq!((usize::from(*shown), slice), (which, &slices[which]), "and shows no right slice to anybody");
    }
    for (found, slices) in [(rehash(&right[..3]), right[..3].to_vec()), (Found::Digest([0; 32]), vec![])] {
        let outcome = verify(&asked, &sign(&asked, found), &slices, &root(&shard));
        let Ok(Outcome::Wrong(evidence)) = outcome else { panic!("less than was asked passed") };
        assert!(convict(&evidence).is_ok());
    }
}

/// bao looks at the length only with the last leaf, and a shorter one may have the same tree.
#[test]
fn a_slice_has_one_encoding() {
    let shard = shard(10);
    let first = challenge(root(&shard), 1);
    let asked = first.seal(&key(AUDITOR));
    let (_, mut slices) = respond(Some(&shard), &first);
    slices[0][..8].copy_from_slice(&(SHARD_SIZE as u64 - 1).to_le_bytes());
    let outcome = verify(&asked, &sign(&asked, rehash(&slices)), &slices, &root(&shard));
    assert!(matches!(outcome, Ok(Outcome::Wrong(Evidence::WrongAnswer { at: 0, .. }))), "{outcome:?}");
}

#[test]
fn a_proof_that_was_touched_proves_nothing() {
    let shard = shard(5);
    let first = challenge(root(&shard), 1);
    let asked = first.seal(&key(AUDITOR));
    let (found, right) = respond(Some(&shard), &first);
    let mut slices = right.clone();
    slices[2][700] ^= 1;
    let wrong = sign(&asked, rehash(&slices));
    let proof = |answer: &SignedBytes, at, slice: &[u8]| Evidence::WrongAnswer {
        challenge: asked.clone(),
        answer: answer.clone(),
        at,
        slice: slice.to_vec(),
    };
    assert!(convict(&proof(&wrong, 2, &slices[2])).is_ok());
    assert!(convict(&proof(&wrong, 2, &right[2])).is_err(), "not the slice that was signed");
    assert!(convict(&proof(&wrong, 1, &slices[1])).is_err(), "that slice is right");
    assert!(convict(&proof(&wrong, 1, &slices[2])).is_err());
    assert!(convict(&proof(&wrong, 200, &slices[2])).is_err());
    let honest = sign(&asked, found);
    for at in 0..16 {
        for slice in right.iter().chain(&slices).chain([&vec![], &vec![0; SLICE_SIZE]]) {
            assert!(convict(&proof(&honest, at, slice)).is_err(), "an honest answer convicts nobody");
        }
    }
    let file = proof(&wrong, 2, &slices[2]).encode();
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 1;
        let Ok(read) = Evidence::decode(&bad) else { continue };
        assert!(convict(&read).is_err() || read == proof(&wrong, 2, &slices[2]), "byte {at}");
    }
}

#[test]
fn silence_and_admissions_convict_nobody() {
    let shard = shard(6);
    let first = challenge(root(&shard), 1);
    let (asked, said, _) = ask(None, &first);
    let Ok(Outcome::NotHere(admission)) = verify(&asked, &said, &[], &root(&shard)) else { panic!("admitted") };
    assert!(admission.open().is_ok() && convict(&admission).is_err());
    let report = cairn_proto::audit::SilenceReport {
        reporter: peer(AUDITOR),
        challenge: Challenge::id(&asked),
        at: first.deadline,
    };
    let silence = Evidence::Silence { challenge: asked, report: report.seal(&key(AUDITOR)) };
    assert!(silence.open().is_ok() && convict(&silence).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_honest_holder_cannot_be_made_to_convict_itself(
        nonce: u8, count in 1u8..=16, digest: bool, false_root: bool, damage in proptest::option::of(0usize..SHARD_SIZE), length in 0usize..3,
    ) {
        let good = shard(7);
        let mut held = good.clone();
        if let Some(at) = damage {
            held[at] ^= 1;
        }
        held.truncate(SHARD_SIZE - length % 2);
        let root = if false_root { ShardRoot::from_bytes([nonce; 32]) } else { root(&good) };
        let way = if digest { Way::Digest } else { Way::Slices };
        let asked = Challenge { way, slices: count, ..challenge(root, nonce) };
        let (sealed, said, slices) = ask(Some(&held), &asked);
        let whole = damage.is_none() && held.len() == SHARD_SIZE && !false_root;
        let found = Answer::open(&said).expect("valid").found;
        prop_assert_eq!(found == Found::NotHere(Loss::Damaged), !whole);
        if !digest {
            let outcome = verify(&sealed, &said, &slices, &root).expect("an answer");
            prop_assert_eq!(matches!(outcome, Outcome::Good), whole);
            prop_assert!(!matches!(outcome, Outcome::Wrong(_)));
        }
        let slice = slices.first().cloned().unwrap_or_default();
        for at in 0..16 {
            for slice in [slice.clone(), vec![], vec![0; SLICE_SIZE]] {
                let evidence = Evidence::WrongAnswer { challenge: sealed.clone(), answer: said.clone(), at, slice };
                prop_assert!(convict(&evidence).is_err());
            }
        }
        // Asked again after the disk was mended, or had broken.
        let (_, again, _) = ask(Some(&good), &asked);
        let twice = Evidence::Equivocation { first: said, second: again };
        prop_assert!(convict(&twice).is_err());
    }

    #[test]
    fn no_auditor_sees_two_slots(salt: u8, name in 0u32..10_000, way_digest: bool) {
        let ticket = ticket(salt);
        let asked = |slot| Challenge {
            group: ticket.id(),
            slot,
            way: if way_digest { Way::Digest } else { Way::Slices },
            ..challenge(ShardRoot::from_bytes([0; 32]), 0)
        };
        let may = |slot, grant| permit(&asked(slot), &peer(HOLDER), &ticket, &domain(name), grant, Timestamp(1_000_001)).is_ok();
        let slots = || ticket.code().each_slot();
        let seen = slots().filter(|s| may(*s, false)).count();
        prop_assert!(way_digest || seen <= 1, "SEP-1: {} slots", seen);
        prop_assert!(slots().all(|s| may(s, true)), "the owner may");
    }
}

#[test]
fn who_is_not_meant_or_comes_late_is_not_answered() {
    let ticket = ticket(3);
    let good = challenge(ShardRoot::from_bytes([0; 32]), 0);
    let check = |c: &Challenge, now| permit(c, &peer(HOLDER), &ticket, &domain(1), true, Timestamp(now));
    assert_eq!(check(&good, 1_000_000), Ok(()));
    assert_eq!(check(&good, 1_060_000), Err(Refusal::Time));
    assert_eq!(check(&good, 1_000_000 - CLOCK_SKEW_MS - 1), Err(Refusal::Time));
    assert_eq!(check(&Challenge { holder: peer(9), ..good.clone() }, 1_000_000), Err(Refusal::NotForMe));
    assert_eq!(check(&Challenge { group: GroupId::from_bytes([9; 32]), ..good }, 1_000_000), Err(Refusal::NotForMe));
}

#[test]
fn a_token_checks_without_bytes() {
    let shard = shard(8);
    let token = Token::prepare(&shard, [9; 32], DIGEST_LEAVES_MAX).expect("a shard");
    assert_eq!(Token::decode(&token.encode()), Ok(token));
    assert!(Token::decode(&[0; TOKEN_SIZE]).is_err() && Token::decode(&[1; 64]).is_err());
    assert!(Token::prepare(&shard, [9; 32], 0).is_none() && Token::prepare(&shard[1..], [9; 32], 1).is_none());
    let asked = Challenge { way: Way::Digest, slices: DIGEST_LEAVES_MAX, ..challenge(root(&shard), 9) };
    let judge = |bytes: Option<&[u8]>, asked: &Challenge, token: &Token| {
        let (asked, said, slices) = ask(bytes, asked);
        assert!(slices.is_empty(), "not a byte of the shard");
        verify_digest(&asked, &said, token, &root(&shard))
    };
    assert_eq!(judge(Some(&shard), &asked, &token), Ok(Outcome::Good));
    let other = Token { expected: [0; 32], ..token };
    assert_eq!(judge(Some(&shard), &asked, &other), Ok(Outcome::Mismatch));
    let mut rotten = shard.clone();
    rotten[123_456] ^= 1;
    assert!(matches!(judge(Some(&rotten), &asked, &token), Ok(Outcome::NotHere(_))));
    assert!(judge(Some(&shard), &Challenge { nonce: [1; 32], ..asked }, &token).is_err());
}

#[test]
fn the_chain_is_frozen() {
    let bytes: Vec<u8> = (0..SHARD_SIZE).map(|i| (i / 1024 + i) as u8).collect();
    let asked = challenge(root(&bytes), 0x11);
    let (found, slices) = respond(Some(&bytes), &asked);
    let Found::Slices(hashes) = found else { panic!("slices") };
    let places = slices::places(&asked, &hashes);
    let mut text = String::new();
    for ((place, hash), slice) in places.zip(&hashes).zip(&slices) {
        text.push_str(&format!("{place} {} {}\n", blake3::Hash::from(*hash), slice.len()));
    }
    let token = Token::prepare(&bytes, [0x11; 32], 4).expect("a shard");
    text.push_str(&format!("digest {}\n", blake3::Hash::from(token.expected)));
    crate::golden::check("audit-chain.txt", &text);
}

/// `perf stat -e user_time` over this gives the time of an answer: 200 answers of four slices, and their checks when asked.
#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_an_answer() {
    let shard = shard(9);
    let (mut good, check) = (0, std::env::var_os("CAIRN_CHECK").is_some());
    let first = challenge(root(&shard), 0);
    let (asked, said, slices) = ask(Some(&shard), &first);
    for round in 0..200u8 {
        let outcome = if check {
            verify(&asked, &said, &slices, &root(&shard)) == Ok(Outcome::Good)
        } else {
            matches!(respond(Some(&shard), &Challenge { nonce: [round; 32], ..first.clone() }).0, Found::Slices(_))
        };
        good += u32::from(outcome);
    }
    assert_eq!(good, 200);
}

#[test]
fn many_digests_of_a_shard_are_those_of_its_tokens() {
    let shard: Vec<u8> = (0..SHARD_SIZE).map(|i| (i / 7) as u8).collect();
    let nonces = [[1; 32], [2; 32], [3; 32]];
    let root = root(&shard);
    let all = digests(&shard, &root, nonces, DIGEST_LEAVES_MAX).expect("a shard");
    let one = |nonce| Token::prepare(&shard, nonce, DIGEST_LEAVES_MAX).expect("a shard").expected;
    assert_eq!(all, nonces.map(one));
    assert_eq!(digests(&shard[1..], &root, nonces, 1), None);
    assert_eq!(digests(&shard, &ShardRoot::from_bytes([7; 32]), nonces, 1), None, "bytes of another root");
    let of = |leaves| digests(&shard, &root, nonces, leaves);
    assert_eq!((of(0), of(DIGEST_LEAVES_MAX + 1)), (None, None));
}
