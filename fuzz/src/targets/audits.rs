//! Targets over audits: what is asked and answered, what tells against a peer, what a panel says of it.
//!
//! The cast: an auditor, a holder that keeps its shard and says what is so, a third one that votes, and a liar. Whatever is
//! made of their statements, only the liar may be convicted (TRUST-1).

use std::{fmt::Debug, sync::LazyLock};

use cairn_core::{
    audit::{
        self, Conviction, Outcome, Token,
        token_file::{Prepared, TOKEN_FILE_MAX, TOKEN_HOLDERS_MAX, TOKENS_MAX, TokenFile},
    },
    stripe::root_of,
};
use cairn_proto::{
    CodeParams, DecodeError, Domain, GroupId, GroupTicket, PeerKey, SHARD_SIZE, ShardRoot, Slot, Timestamp,
    audit::{
        Answer, Bench, Challenge, DEADLINE_MAX_MS, DIGEST_LEAVES_MAX, Evidence, Found, Loss, Matter, RESPONSE_MAX,
        Response, SLICE_SIZE, SLICES_MAX, STATEMENT_MAX, SilenceReport, Verdict, VerdictKind, Verified, Vote, Way,
        evidence::EVIDENCE_MAX,
        spread::{SPREAD_MAX, Spread},
        verdict::{VERDICT_MAX, VOTE_EVIDENCE_MAX},
    },
    message,
    signed::SignedBytes,
};
use ed25519_dalek::SigningKey;
use prost::Message as _;

use super::Target;

pub(super) fn all() -> Vec<Target> {
    vec![
        Target { name: "audit-challenge", seeds: || spelled(&STAGE.challenges()), run: challenge },
        Target { name: "audit-answer", seeds: answer_seeds, run: answer },
        Target { name: "silence-report", seeds: || spelled(&STAGE.reports()), run: report },
        Target { name: "vote", seeds: || spelled(&STAGE.votes), run: vote },
        Target { name: "audit-response", seeds: || STAGE.responses(), run: response },
        Target { name: "evidence", seeds: || STAGE.evidence().iter().map(Evidence::encode).collect(), run: evidence },
        Target { name: "verdict", seeds: || STAGE.verdicts().iter().map(Verdict::encode).collect(), run: verdict },
        Target { name: "evidence-gossip", seeds: spread_seeds, run: spread },
        Target { name: "audit-token", seeds: || vec![STAGE.token.encode().to_vec()], run: token },
        Target { name: "audit-token-file", seeds: || vec![token_file_seed()], run: token_file },
    ]
}

fn spread_seeds() -> Vec<Vec<u8>> {
    let evidence = STAGE.evidence().into_iter().map(Spread::Evidence);
    evidence.chain(STAGE.votes.iter().cloned().map(Spread::Vote)).map(|spread| spread.encode()).collect()
}

/// One spelling, and no more bytes than may go round; what is in it convicts the liar alone.
fn spread(bytes: &[u8]) {
    let Ok(spread) = Spread::decode(bytes) else { return };
    assert!(bytes.len() <= SPREAD_MAX && spread.encode() == bytes, "one spelling");
    match spread {
        Spread::Evidence(found) => evidence(&found.encode()),
        Spread::Vote(signed) => vote(&signed.encode_to_vec()),
    }
}

const AUDITOR: u8 = 31;
const HOLDER: u8 = 32;
const WITNESS: u8 = 33;
const LIAR: u8 = 34;

/// Everything that was said by the cast: what was not cannot pass for theirs.
static STAGE: LazyLock<Stage> = LazyLock::new(Stage::new);

struct Stage {
    root: ShardRoot,
    /// To the holder: for slices, and for a digest.
    asked: SignedBytes,
    asked_digest: SignedBytes,
    /// To the liar.
    asked_liar: SignedBytes,
    shown: SignedBytes,
    slices: Vec<Vec<u8>>,
    digest: SignedBytes,
    admitted: SignedBytes,
    /// Two words of the liar on one challenge, with the slice that the first is of.
    lies: [SignedBytes; 2],
    bad_slice: Vec<u8>,
    /// As many hashes as an answer may have.
    long: SignedBytes,
    silent: SignedBytes,
    /// Three honest ones to exclude the liar, the same three to suspect it, two of the liar that contradict each other.
    votes: Vec<SignedBytes>,
    token: Token,
}

fn key(who: u8) -> SigningKey {
    SigningKey::from_bytes(&[who; 32])
}

fn peer(who: u8) -> PeerKey {
    PeerKey::from_bytes(key(who).verifying_key().to_bytes())
}

fn group() -> GroupId {
    GroupId::from_bytes([3; 32])
}

fn slot() -> Slot {
    Slot::new(4).expect("in range")
}

fn matter(kind: VerdictKind) -> Matter {
    let place = (kind == VerdictKind::Suspect).then(|| (group(), slot()));
    Matter { subject: peer(LIAR), kind, round: 9, place }
}

impl Stage {
    fn new() -> Self {
        let mut shard = vec![0; SHARD_SIZE];
        blake3::Hasher::new().update(b"fuzz").finalize_xof().fill(&mut shard);
        let root = root_of(&shard);
        let ask = |holder: u8, way: Way| Challenge {
            auditor: peer(AUDITOR),
            holder: peer(holder),
            group: group(),
            slot: slot(),
            ordinal: 7,
            root,
            nonce: [5; 32],
            way,
            slices: 2,
            previous: None,
            issued: Timestamp(1_000_000),
            deadline: Timestamp(1_060_000),
        };
        let say = |who: u8, challenge: &SignedBytes, found: Found| {
            let challenge = Challenge::id(challenge);
            Answer { holder: peer(who), challenge, previous: Some(challenge), found }.seal(&key(who))
        };
        let (slices_asked, digest_asked) = (ask(HOLDER, Way::Slices), ask(HOLDER, Way::Digest));
        let (asked, asked_digest) = (slices_asked.seal(&key(AUDITOR)), digest_asked.seal(&key(AUDITOR)));
        let asked_liar = ask(LIAR, Way::Slices).seal(&key(AUDITOR));
        let (found, slices) = audit::respond(Some(&shard), &slices_asked);
        let (found_digest, _) = audit::respond(Some(&shard), &digest_asked);
        let bad_slice = vec![7; SLICE_SIZE];
        let bad = *blake3::hash(&bad_slice).as_bytes();
        let report =
            SilenceReport { reporter: peer(AUDITOR), challenge: Challenge::id(&asked), at: Timestamp(1_060_000) };
        let word = |who: u8, kind: VerdictKind, against: bool| {
            // The liar names as much as a vote may.
            let pieces = if who == LIAR { VOTE_EVIDENCE_MAX } else { 1 };
            let evidence = vec![Challenge::id(&asked_liar); pieces];
            let vote = Vote { voter: peer(who), matter: matter(kind), against, evidence, issued: Timestamp(1_070_000) };
            vote.seal(&key(who))
        };
        let honest = [AUDITOR, HOLDER, WITNESS];
        let mut votes: Vec<SignedBytes> = [VerdictKind::Exclude, VerdictKind::Suspect]
            .iter()
            .flat_map(|kind| honest.map(|who| word(who, *kind, true)))
            .collect();
        votes.extend([true, false].map(|against| word(LIAR, VerdictKind::Exclude, against)));
        Self {
            root,
            shown: say(HOLDER, &asked, found),
            digest: say(HOLDER, &asked_digest, found_digest),
            admitted: say(HOLDER, &asked, Found::NotHere(Loss::Damaged)),
            lies: [Found::Slices(vec![bad; 2]), Found::Digest([8; 32])].map(|found| say(LIAR, &asked_liar, found)),
            long: say(LIAR, &asked_liar, Found::Slices(vec![bad; SLICES_MAX.into()])),
            silent: report.seal(&key(AUDITOR)),
            token: Token::prepare(&shard, [5; 32], 2).expect("a shard"),
            slices,
            bad_slice,
            votes,
            asked,
            asked_digest,
            asked_liar,
        }
    }

    fn challenges(&self) -> [SignedBytes; 3] {
        [self.asked.clone(), self.asked_digest.clone(), self.asked_liar.clone()]
    }

    fn answers(&self) -> Vec<SignedBytes> {
        let [first, second] = self.lies.clone();
        vec![self.shown.clone(), self.digest.clone(), self.admitted.clone(), first, second, self.long.clone()]
    }

    fn reports(&self) -> [SignedBytes; 1] {
        [self.silent.clone()]
    }

    fn responses(&self) -> Vec<Vec<u8>> {
        let whole = |answer: &SignedBytes, slices: &[Vec<u8>]| {
            Response { answer: Some(answer.clone()), slices: slices.to_vec() }.encode_to_vec()
        };
        vec![whole(&self.shown, &self.slices), whole(&self.admitted, &[]), whole(&self.digest, &[])]
    }

    /// The first three convict the liar, the others nobody.
    fn evidence(&self) -> Vec<Evidence> {
        let wrong = |challenge: &SignedBytes, answer: &SignedBytes, at: u8, slice: &[u8]| Evidence::WrongAnswer {
            challenge: challenge.clone(),
            answer: answer.clone(),
            at,
            slice: slice.to_vec(),
        };
        let both = |first: &SignedBytes, second: &SignedBytes| Evidence::Equivocation {
            first: first.clone(),
            second: second.clone(),
        };
        vec![
            wrong(&self.asked_liar, &self.lies[0], 1, &self.bad_slice),
            both(&self.lies[0], &self.lies[1]),
            both(&self.votes[6], &self.votes[7]),
            wrong(&self.asked, &self.shown, 1, &self.slices[1]),
            both(&self.shown, &self.admitted),
            both(&self.votes[0], &self.votes[3]),
            Evidence::Silence { challenge: self.asked.clone(), report: self.silent.clone() },
            Evidence::SelfReport { challenge: self.asked.clone(), answer: self.admitted.clone() },
        ]
    }

    /// The first two hold.
    fn verdicts(&self) -> [Verdict; 3] {
        let of = |kind, votes: &[SignedBytes]| Verdict { matter: matter(kind), votes: votes.to_vec() };
        let torn = [&self.votes[..2], &self.votes[6..]].concat();
        let exclude = VerdictKind::Exclude;
        [of(exclude, &self.votes[..3]), of(VerdictKind::Suspect, &self.votes[3..6]), of(exclude, &torn)]
    }
}

/// A proof against the liar.
pub(super) fn conviction() -> Conviction {
    audit::convict(&STAGE.evidence()[0]).expect("proves")
}

/// What the others decided about it.
pub(super) fn verified() -> [Verified; 2] {
    let [exclude, suspect, _] = STAGE.verdicts();
    [exclude, suspect].map(|verdict| verdict.verify(&Three).expect("holds"))
}

/// In their envelopes, and the bare bodies that a hostile signer changes.
fn spelled(statements: &[SignedBytes]) -> Vec<Vec<u8>> {
    statements.iter().flat_map(|signed| [signed.encode_to_vec(), signed.body.clone()]).collect()
}

/// Nobody makes a statement but the key's owner; and what a hostile owner signs is refused or has one meaning, in no more bytes.
fn statement<T: PartialEq + Debug>(
    bytes: &[u8],
    context: &str,
    seeds: &[SignedBytes],
    open: fn(&SignedBytes) -> Result<T, DecodeError>,
    seal: fn(&T, &SigningKey) -> SignedBytes,
    bounded: fn(&T) -> bool,
) {
    if let Ok(signed) = message::decode::<SignedBytes>(bytes, "signed")
        && open(&signed).is_ok()
    {
        assert!(seeds.iter().any(|seed| (&seed.body, &seed.signer) == (&signed.body, &signed.signer)));
    }
    let hostile = SignedBytes::sign(context, bytes.to_vec(), &key(LIAR));
    if let Ok(said) = open(&hostile) {
        let again = seal(&said, &key(LIAR));
        assert!(again.body.len() <= bytes.len() && bytes.len() <= STATEMENT_MAX);
        assert!(bounded(&said), "{said:?}");
        assert_eq!(open(&again), Ok(said));
    }
}

fn challenge(bytes: &[u8]) {
    let bounded = |said: &Challenge| {
        let most = if said.way == Way::Slices { SLICES_MAX } else { DIGEST_LEAVES_MAX };
        (1..=most).contains(&said.slices) && (1..=DEADLINE_MAX_MS).contains(&said.deadline.ms_since(said.issued))
    };
    statement(bytes, "cairn audit challenge v1", &STAGE.challenges(), Challenge::open, Challenge::seal, bounded);
}

/// Also one hash too many: the mutator seldom finds a whole one to add.
fn answer_seeds() -> Vec<Vec<u8>> {
    let mut longer = Answer::open(&STAGE.long).expect("our own");
    longer.found = Found::Slices(vec![[1; 32]; usize::from(SLICES_MAX) + 1]);
    [spelled(&STAGE.answers()), vec![longer.seal(&key(LIAR)).body]].concat()
}

fn answer(bytes: &[u8]) {
    let bounded = |said: &Answer| match &said.found {
        Found::Slices(hashes) => (1..=usize::from(SLICES_MAX)).contains(&hashes.len()),
        Found::Digest(_) | Found::NotHere(_) => true,
    };
    statement(bytes, "cairn audit answer v1", &STAGE.answers(), Answer::open, Answer::seal, bounded);
}

fn report(bytes: &[u8]) {
    statement(bytes, "cairn audit silence v1", &STAGE.reports(), SilenceReport::open, SilenceReport::seal, |_| true);
}

fn vote(bytes: &[u8]) {
    let bounded = |said: &Vote| said.evidence.len() <= VOTE_EVIDENCE_MAX;
    statement(bytes, "cairn audit vote v1", &STAGE.votes, Vote::open, Vote::seal, bounded);
}

/// An honest holder's answer, changed on its way, shows its own slices or nothing, and is never a lie of its.
fn response(bytes: &[u8]) {
    let Ok((answer, slices)) = Response::read(bytes) else { return };
    let again = Response { answer: Some(answer.clone()), slices: slices.clone() }.encode_to_vec();
    assert!(again.len() <= bytes.len() && bytes.len() <= RESPONSE_MAX);
    let stage = &*STAGE;
    let outcome = audit::verify(&stage.asked, &answer, &slices, &stage.root);
    assert!(!matches!(outcome, Ok(Outcome::Wrong(_) | Outcome::Mismatch)), "{outcome:?}");
    match outcome {
        Ok(Outcome::Good) => assert_eq!((&answer.body, &slices), (&stage.shown.body, &stage.slices)),
        Ok(Outcome::NotHere(_)) => assert_eq!(answer.body, stage.admitted.body),
        _ => {}
    }
    assert_eq!(Response::read(&again), Ok((answer, slices)));
}

fn evidence(bytes: &[u8]) {
    let Ok(file) = Evidence::decode(bytes) else { return };
    let again = file.encode();
    assert!(again.len() <= bytes.len() && bytes.len() <= EVIDENCE_MAX);
    if let Ok(proved) = audit::convict(&file) {
        assert_eq!((proved.subject(), proved.evidence()), (&peer(LIAR), &file.id()));
    }
    assert_eq!(Evidence::decode(&again), Ok(file));
}

/// A panel of the three honest ones, of which two are enough to suspect.
struct Three;

impl Bench for Three {
    fn seat(&self, _: &Matter, voter: &PeerKey) -> Option<Domain> {
        [AUDITOR, HOLDER, WITNESS].iter().any(|who| peer(*who) == *voter).then(|| Domain::of_peer(voter))
    }

    fn quorum(&self, _: &Matter) -> Option<usize> {
        Some(2)
    }
}

fn verdict(bytes: &[u8]) {
    let Ok(file) = Verdict::decode(bytes) else { return };
    let again = file.encode();
    assert!(again.len() <= bytes.len() && bytes.len() <= VERDICT_MAX);
    if let Ok(verified) = file.verify(&Three) {
        let kind = verified.matter().kind;
        let needed = if kind == VerdictKind::Exclude { 3 } else { 2 };
        assert_eq!(*verified.matter(), matter(kind));
        assert!((needed..=3).contains(&verified.votes()));
    }
    assert_eq!(Verdict::decode(&again), Ok(file));
}

/// Of all tokens only the true one finds the answer good.
fn token(bytes: &[u8]) {
    let Ok(token) = Token::decode(bytes) else { return };
    assert_eq!(token.encode(), bytes);
    assert!((1..=DIGEST_LEAVES_MAX).contains(&token.leaves));
    let stage = &*STAGE;
    let outcome = audit::verify_digest(&stage.asked_digest, &stage.digest, &token, &stage.root);
    assert_eq!(outcome == Ok(Outcome::Good), token == stage.token, "{outcome:?}");
}

fn token_file_seed() -> Vec<u8> {
    let ticket = GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid");
    let one = |ordinal: u8| Prepared {
        ticket,
        slot: Slot::new(3).expect("valid"),
        ordinal,
        root: STAGE.root,
        holders: vec![peer(HOLDER); ordinal.into()],
        token: STAGE.token,
    };
    let file = TokenFile { made: Timestamp(7), shards: 300, tokens: (0..4).map(one).collect() };
    file.encode().expect("valid")
}

/// As it comes, and with the checksum that it should have: nobody's typing slip, but anybody's file.
fn token_file(bytes: &[u8]) {
    let body = &bytes[..bytes.len().saturating_sub(32)];
    let checksum = blake3::derive_key("cairn 2026-11 audit token file v1", body);
    let summed = [body, &checksum].concat();
    for bytes in [bytes, &summed] {
        let Ok(file) = TokenFile::decode(bytes) else { continue };
        assert_eq!(file.encode().as_deref(), Ok(bytes), "one encoding");
        assert!(bytes.len() <= TOKEN_FILE_MAX && file.tokens.len() <= TOKENS_MAX);
        assert!(file.tokens.iter().all(|prepared| prepared.holders.len() <= TOKEN_HOLDERS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each part must do as its target takes for granted, or the target attacks nothing.
    #[test]
    fn the_stage_is_set() {
        let stage = &*STAGE;
        let hostile = |context, signed: &SignedBytes| SignedBytes::sign(context, signed.body.clone(), &key(LIAR));
        assert!(stage.challenges().iter().all(|s| Challenge::open(&hostile("cairn audit challenge v1", s)).is_ok()));
        assert!(stage.answers().iter().all(|s| Answer::open(&hostile("cairn audit answer v1", s)).is_ok()));
        assert!(stage.reports().iter().all(|s| SilenceReport::open(&hostile("cairn audit silence v1", s)).is_ok()));
        assert!(stage.votes.iter().all(|s| Vote::open(&hostile("cairn audit vote v1", s)).is_ok()));
        assert!(stage.responses().iter().all(|bytes| Response::read(bytes).is_ok()));
        let judge = |answer, slices: &[Vec<u8>]| audit::verify(&stage.asked, answer, slices, &stage.root);
        assert_eq!(judge(&stage.shown, &stage.slices), Ok(Outcome::Good));
        assert!(matches!(judge(&stage.admitted, &[]), Ok(Outcome::NotHere(_))));
        let proves: Vec<bool> = stage.evidence().iter().map(|file| audit::convict(file).is_ok()).collect();
        assert_eq!(proves, [true, true, true, false, false, false, false, false]);
        assert!(stage.evidence().iter().all(|file| Evidence::decode(&file.encode()).as_ref() == Ok(file)));
        let opened: Vec<bool> = stage.evidence().iter().map(|file| file.open().is_ok()).collect();
        assert_eq!(opened, [true, true, true, true, false, false, true, true]);
        assert_eq!(stage.verdicts().map(|file| file.verify(&Three).is_ok()), [true, true, false]);
        assert_eq!(verified().map(|v| v.votes()), [3, 3]);
    }
}
