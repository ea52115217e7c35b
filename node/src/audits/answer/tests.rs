//! Holders that are asked: by those who may, by those who may not, too often, with garbage.

use std::collections::BTreeMap;

use cairn_core::{
    audit::{Outcome, Token, convict, verify, verify_digest},
    colour::may_hold,
};
use cairn_proto::{
    CodeParams, GroupTicket, SHARD_SIZE, ShardRoot,
    audit::{Evidence, Way},
    signed::SignedBytes,
};
use futures::future::join_all;

use super::*;
use crate::{network::keeper::memory::MemoryKeeper, store::NewShard};

const NOW: u64 = 1_000_000_000;
const HOLDER: u8 = 1;
const AUDITOR: u8 = 2;
const OWNER: u8 = 3;
const STRANGER: u8 = 4;
/// Of the auditor's domain.
const NEIGHBOUR: u8 = 5;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn peer(n: u8) -> PeerKey {
    PeerKey::from_bytes(key(n).verifying_key().to_bytes())
}

fn domain(n: u8) -> Domain {
    Domain::operator(&format!("d{}", if n == NEIGHBOUR { AUDITOR } else { n })).expect("valid")
}

struct Book;

impl Domains for Book {
    fn pinned(&self, peer: PeerKey) -> BoxFuture<'_, Option<Domain>> {
        let known: BTreeMap<PeerKey, u8> = (1..=NEIGHBOUR).map(|n| (self::peer(n), n)).collect();
        std::future::ready(known.get(&peer).map(|n| domain(*n))).boxed()
    }
}

fn authority() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

/// A group of which the auditor has the slot's colour and the stranger and the owner have not.
fn group() -> (GroupTicket, Slot) {
    let public = authority().verifying_key().to_bytes();
    let tickets = (0..=u8::MAX).filter_map(|salt| GroupTicket::new(public, [salt; 32], CodeParams::DEFAULT, 9).ok());
    let mut found = tickets.flat_map(|t| t.code().each_slot().map(move |slot| (t, slot)).collect::<Vec<_>>());
    let fits = |(t, slot): &(GroupTicket, Slot)| {
        may_hold(t, &domain(AUDITOR), *slot)
            && !may_hold(t, &domain(STRANGER), *slot)
            && !may_hold(t, &domain(OWNER), *slot)
    };
    found.find(fits).expect("one of 256 salts")
}

fn shard(seed: u8) -> Bytes {
    (0..SHARD_SIZE).map(|i| (i / 1024 * usize::from(seed) + i) as u8).collect()
}

fn root(shard: &[u8]) -> ShardRoot {
    ShardRoot::from_bytes(*blake3::hash(shard).as_bytes())
}

struct Stage {
    answerer: Answerer,
    keeper: Arc<MemoryKeeper>,
    losses: mpsc::Receiver<OwnLoss>,
    ticket: GroupTicket,
    slot: Slot,
    nonces: std::cell::Cell<u8>,
}

impl Stage {
    /// With a shard at ordinal 7.
    async fn new() -> Self {
        let keeper = Arc::new(MemoryKeeper::default());
        let (ticket, slot) = group();
        let bytes = shard(1);
        let new = NewShard {
            group: ticket.id(),
            slot,
            ordinal: 7,
            root: root(&bytes),
            lease_until: Timestamp(u64::MAX),
            bytes: bytes.to_vec().into(),
        };
        keeper.put(new).await.expect("kept");
        let (sink, losses) = mpsc::channel(64);
        let answerer = Answerer::new(Setup {
            key: key(HOLDER),
            keeper: keeper.clone(),
            domains: Arc::new(Book),
            losses: Some(Arc::new(sink)),
            clock: Arc::new(|| Timestamp(NOW)),
            day: Duration::from_secs(86_400),
        });
        Self { answerer, keeper, losses, ticket, slot, nonces: std::cell::Cell::new(0) }
    }

    fn challenge(&self, auditor: u8) -> Challenge {
        self.nonces.set(self.nonces.get().wrapping_add(1));
        Challenge {
            auditor: peer(auditor),
            holder: peer(HOLDER),
            group: self.ticket.id(),
            slot: self.slot,
            ordinal: 7,
            root: root(&shard(1)),
            nonce: [self.nonces.get(); 32],
            way: Way::Slices,
            slices: 4,
            previous: None,
            issued: Timestamp(NOW),
            deadline: Timestamp(NOW + 60_000),
        }
    }

    fn grant(&self, bearer: u8, rights: Rights) -> Vec<u8> {
        let (not_before, expires) = (Timestamp(NOW - 1), Timestamp(NOW + 60_000));
        let grant =
            Grant { group: self.ticket.id(), holder: peer(HOLDER), bearer: peer(bearer), rights, not_before, expires };
        grant.seal(&authority()).to_vec()
    }

    async fn send(&self, from: u8, challenge: &SignedBytes, grant: Option<Vec<u8>>) -> Answer {
        let questioned = Questioned { ticket: self.ticket, grant, challenge: challenge.clone() };
        self.answerer.answer(peer(from), questioned).await
    }

    /// Asked by its signer.
    async fn ask(&self, auditor: u8, challenge: &Challenge, grant: Option<Vec<u8>>) -> Result<Got, Refusal> {
        let asked = challenge.seal(&key(auditor));
        match self.send(auditor, &asked, grant).await {
            Answer::Audit(bytes) => {
                let (said, slices) = Response::read(&bytes).expect("within its bounds");
                Ok(Got { asked, said, slices })
            }
            Answer::Refused(why) => Err(why),
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Got {
    asked: SignedBytes,
    said: SignedBytes,
    slices: Vec<Vec<u8>>,
}

impl Got {
    fn outcome(&self) -> Outcome {
        verify(&self.asked, &self.said, &self.slices, &root(&shard(1))).expect("an answer")
    }

    fn found(&self) -> Found {
        signed::Answer::open(&self.said).expect("signed").found
    }
}

#[tokio::test]
async fn what_is_here_is_shown_to_its_colour_and_its_owner() {
    let mut stage = Stage::new().await;
    let of_colour = stage.ask(AUDITOR, &stage.challenge(AUDITOR), None).await.expect("may");
    let of_owner = stage.ask(OWNER, &stage.challenge(OWNER), Some(stage.grant(OWNER, Rights::GET))).await;
    for got in [of_colour, of_owner.expect("may")] {
        assert_eq!(got.outcome(), Outcome::Good);
        assert_eq!(got.slices.len(), 4);
    }
    assert!(stage.losses.try_recv().is_err());
}

#[tokio::test]
async fn who_may_not_see_the_slot_gets_nothing() {
    let stage = Stage::new().await;
    let grants = [
        None,
        Some(stage.grant(OWNER, Rights::GET)),
        Some(stage.grant(STRANGER, Rights::PUT)),
        Some(vec![0; 178]),
        Some(vec![]),
    ];
    for grant in grants {
        assert_eq!(stage.ask(STRANGER, &stage.challenge(STRANGER), grant).await, Err(Refusal::Forged));
    }
    assert_eq!(stage.ask(OWNER, &stage.challenge(OWNER), None).await, Err(Refusal::Forged), "not without its grant");
    let elsewhere = stage.ticket.code().each_slot().find(|slot| *slot != stage.slot).expect("eight");
    let other = Challenge { slot: elsewhere, ..stage.challenge(AUDITOR) };
    assert_eq!(stage.ask(AUDITOR, &other, None).await, Err(Refusal::Forged), "SEP-1: one colour, one slot");
}

#[tokio::test]
async fn anybody_with_a_token_learns_that_it_is_here_and_no_byte_of_it() {
    let stage = Stage::new().await;
    let token = Token::prepare(&shard(1), [9; 32], 64).expect("a shard");
    let digest = Challenge { way: Way::Digest, slices: 64, nonce: token.nonce, ..stage.challenge(STRANGER) };
    let got = stage.ask(STRANGER, &digest, None).await.expect("anybody may");
    assert_eq!(verify_digest(&got.asked, &got.said, &token, &root(&shard(1))), Ok(Outcome::Good));
    assert!(got.slices.is_empty());
}

#[tokio::test]
async fn what_is_gone_is_admitted_and_told() {
    let mut stage = Stage::new().await;
    let other = Challenge { ordinal: 8, ..stage.challenge(AUDITOR) };
    let got = stage.ask(AUDITOR, &other, None).await.expect("answered");
    assert!(matches!(got.outcome(), Outcome::NotHere(_)));
    assert_eq!(got.found(), Found::NotHere(Loss::Gone));
    let told = OwnLoss { group: stage.ticket.id(), slot: stage.slot, ordinal: 8, loss: Loss::Gone };
    assert_eq!(stage.losses.try_recv(), Ok(told));
    stage.keeper.reading_fails(Some(RefusalCode::Damaged));
    let got = stage.ask(AUDITOR, &stage.challenge(AUDITOR), None).await.expect("answered");
    assert_eq!(got.found(), Found::NotHere(Loss::Damaged));
    assert_eq!(stage.losses.try_recv(), Ok(OwnLoss { ordinal: 7, loss: Loss::Damaged, ..told }));
    stage.keeper.reading_fails(Some(RefusalCode::StoreFailed));
    let failed = stage.ask(AUDITOR, &stage.challenge(AUDITOR), None).await;
    assert_eq!(failed, Err(Refusal::Busy), "a disk that fails for now is no loss");
    assert!(stage.losses.try_recv().is_err());
}

#[tokio::test]
async fn a_flipped_byte_is_an_admission() {
    let stage = Stage::new().await;
    for at in [0, 12_345, SHARD_SIZE - 1] {
        stage.keeper.flip(stage.ticket.id(), 7, at);
        let got = stage.ask(AUDITOR, &stage.challenge(AUDITOR), None).await.expect("answered");
        assert_eq!(got.found(), Found::NotHere(Loss::Damaged), "byte {at}");
        assert!(got.slices.is_empty());
        let Outcome::NotHere(admission) = got.outcome() else { panic!("TRUST-1") };
        assert!(convict(&admission).is_err(), "TRUST-1");
        stage.keeper.flip(stage.ticket.id(), 7, at);
    }
}

#[tokio::test]
async fn whoever_names_another_root_cannot_have_us_tell_of_a_loss() {
    let mut stage = Stage::new().await;
    let false_root = Challenge { root: root(&shard(2)), ..stage.challenge(AUDITOR) };
    let got = stage.ask(AUDITOR, &false_root, None).await.expect("answered");
    assert_eq!(got.found(), Found::NotHere(Loss::Damaged));
    assert!(stage.losses.try_recv().is_err(), "nobody repairs what is sound");
}

#[tokio::test]
async fn only_who_signed_it_may_bring_it_and_only_in_time() {
    let stage = Stage::new().await;
    let asked = stage.challenge(AUDITOR).seal(&key(AUDITOR));
    let forged = Answer::Refused(Refusal::Forged);
    assert_eq!(stage.send(NEIGHBOUR, &asked, None).await, forged, "another of the same domain");
    assert_eq!(stage.send(OWNER, &asked, Some(stage.grant(OWNER, Rights::GET))).await, forged);
    let mut posing = asked.clone();
    posing.signer = peer(NEIGHBOUR).as_bytes().to_vec();
    assert_eq!(stage.send(NEIGHBOUR, &posing, None).await, forged, "signed by another");
    assert_eq!(
        stage.send(99, &stage.challenge(99).seal(&key(99)), None).await,
        Answer::Refused(Refusal::Busy),
        "unknown"
    );
    let good = stage.challenge(AUDITOR);
    let late = Challenge { issued: Timestamp(NOW - 60_000), deadline: Timestamp(NOW), ..good.clone() };
    assert_eq!(stage.ask(AUDITOR, &late, None).await, Err(Refusal::Old));
    let of_another = Challenge { holder: peer(AUDITOR), ..good.clone() };
    assert_eq!(stage.ask(AUDITOR, &of_another, None).await, Err(Refusal::Forged));
    let of_another = Challenge { group: GroupId::from_bytes([3; 32]), ..good };
    assert_eq!(stage.ask(AUDITOR, &of_another, None).await, Err(Refusal::Forged), "not the ticket's group");
}

#[tokio::test]
async fn garbage_is_refused() {
    let stage = Stage::new().await;
    let asked = stage.challenge(AUDITOR).seal(&key(AUDITOR));
    for at in 0..asked.body.len().min(120) {
        let mut bad = asked.clone();
        bad.body[at] ^= 1;
        assert_eq!(stage.send(AUDITOR, &bad, None).await, Answer::Refused(Refusal::Forged), "byte {at}");
    }
    let empty = SignedBytes { signer: peer(AUDITOR).as_bytes().to_vec(), ..SignedBytes::default() };
    assert_eq!(stage.send(AUDITOR, &empty, None).await, Answer::Refused(Refusal::Forged));
}

#[tokio::test]
async fn asked_again_it_says_the_same_and_remembers_what_it_said() {
    let stage = Stage::new().await;
    let challenge = stage.challenge(AUDITOR);
    let first = stage.ask(AUDITOR, &challenge, None).await.expect("answered");
    let again = stage.ask(AUDITOR, &challenge, None).await.expect("answered");
    assert_eq!((first.found(), &first.slices), (again.found(), &again.slices));
    let previous = signed::Answer::open(&again.said).expect("signed").previous;
    assert_eq!(previous, Some(signed::Answer::id(&first.said)));
    assert_eq!(again.outcome(), Outcome::Good);
    let twice = Evidence::Equivocation { first: first.said, second: again.said };
    assert!(convict(&twice).is_err(), "TRUST-1");
}

#[tokio::test]
async fn a_domain_that_floods_is_told_to_come_again_and_others_are_answered() {
    let stage = Stage::new().await;
    // Cheap ones: there is no such shard, so nothing is read.
    let mut answered = 0;
    loop {
        let cheap = Challenge { ordinal: 9, ..stage.challenge(AUDITOR) };
        let asker = if answered % 2 == 0 { AUDITOR } else { NEIGHBOUR };
        let cheap = Challenge { auditor: peer(asker), ..cheap };
        match stage.ask(asker, &cheap, None).await {
            Ok(_) => answered += 1,
            Err(why) => {
                assert_eq!(why, Refusal::Busy);
                break;
            }
        }
        assert!(answered <= 1000, "without end");
    }
    assert_eq!(answered, 460, "both peers together");
    assert_eq!(stage.ask(NEIGHBOUR, &stage.challenge(NEIGHBOUR), None).await, Err(Refusal::Busy));
    let owner = stage.ask(OWNER, &stage.challenge(OWNER), Some(stage.grant(OWNER, Rights::GET))).await;
    assert_eq!(owner.expect("has a share of its own").outcome(), Outcome::Good);
}

#[tokio::test]
async fn so_many_wait_for_the_disk_and_no_more() {
    let stage = Stage::new().await;
    let shut = stage.keeper.gate.acquire_many(MemoryKeeper::GATE as u32).await.expect("open");
    let grant = stage.grant(OWNER, Rights::GET);
    let challenges: Vec<_> = (0..WAITING + 5).map(|_| stage.challenge(OWNER)).collect();
    let asked = join_all(challenges.iter().map(|challenge| stage.ask(OWNER, challenge, Some(grant.clone()))));
    let opened = async {
        while stage.answerer.0.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        drop(shut);
    };
    let (answers, ()) = tokio::join!(asked, opened);
    let busy = answers.iter().filter(|answer| **answer == Err(Refusal::Busy)).count();
    assert_eq!(busy, 5);
    assert_eq!(answers.iter().flatten().filter(|got| got.outcome() == Outcome::Good).count(), WAITING);
}
