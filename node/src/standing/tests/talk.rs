//! What others say: proofs convict, slander does nothing, floods are bounded, a quorum is followed for a while.

use cairn_proto::{
    Domain,
    audit::{Matter, SilenceReport, VerdictKind, Vote, spread::Spread},
};

use super::*;
use crate::standing::{
    report,
    talk::{Heard, Voice},
};

fn mind() -> Mind {
    Mind::new(key(1), network(), Duration::from_millis(DAY), &[9; 32])
}

/// A key for each number, beyond 255 too.
fn many(n: u32) -> SigningKey {
    let mut seed = [0x5a; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SigningKey::from_bytes(&seed)
}

fn key_of(key: &SigningKey) -> PeerKey {
    PeerKey::from_bytes(key.verifying_key().to_bytes())
}

/// Peers, each with the number of its domain, all known for so many days.
fn voices(peers: impl IntoIterator<Item = (u32, u32)>, days: u64) -> BTreeMap<PeerKey, Voice> {
    let since = Timestamp(NOW.0 - days * DAY);
    let voice = |(peer, domain): (u32, u32)| {
        let domain = Domain::operator(&format!("o{domain}")).expect("valid");
        (key_of(&many(peer)), Voice { domain, since })
    };
    peers.into_iter().map(voice).collect()
}

fn complaint(by: u32, of: u32) -> Evidence {
    let by = many(by);
    let challenge = Challenge {
        auditor: key_of(&by),
        holder: key_of(&many(of)),
        group: GroupTicket::new([1; 32], [2; 32], CodeParams::DEFAULT, 9).expect("valid").id(),
        slot: Slot::new(0).expect("valid"),
        ordinal: 0,
        root: ShardRoot::from_bytes([0; 32]),
        nonce: [0; 32],
        way: Way::Slices,
        slices: 1,
        previous: None,
        issued: Timestamp(NOW.0 - 2000),
        deadline: Timestamp(NOW.0 - 1000),
    }
    .seal(&by);
    let report = SilenceReport { reporter: key_of(&by), challenge: Challenge::id(&challenge), at: NOW }.seal(&by);
    Evidence::Silence { challenge, report }
}

fn vote(by: u32, of: PeerKey) -> Vec<u8> {
    vote_in(NOW.0 / DAY, by, of)
}

fn vote_in(round: u64, by: u32, of: PeerKey) -> Vec<u8> {
    let matter = Matter { subject: of, kind: VerdictKind::Exclude, round, place: None };
    let vote = Vote { voter: key_of(&many(by)), matter, against: true, evidence: Vec::new(), issued: NOW };
    Spread::Vote(vote.seal(&many(by))).encode()
}

fn complains(mind: &mut Mind, by: u32, of: u32) -> Heard {
    mind.gossiped(&Spread::Evidence(complaint(by, of)).encode(), key_of(&many(by)), NOW)
}

fn votes(mind: &mut Mind, by: u32, of: u32) -> Heard {
    mind.gossiped(&vote(by, key_of(&many(of))), key_of(&many(by)), NOW)
}

fn score(mind: &mut Mind, of: u32) -> u16 {
    mind.score(&key_of(&many(of)), Timestamp(NOW.0 - 10 * DAY), false, NOW)
}

/// Who votes against a peer and for it in one round has signed two words that cannot both be true. It is outside, and its vote with it.
#[test]
fn who_votes_both_ways_convicts_itself() {
    let matter = |subject| Matter { subject, kind: VerdictKind::Exclude, round: NOW.0 / DAY, place: None };
    for first_against in [true, false] {
        let mut mind = mind();
        let all = voices((0..8u32).map(|n| (n, n)), 10);
        mind.survey(all.clone(), NOW);
        let (cheat, subject) = (key_of(&many(1)), key_of(&many(0)));
        let say = |mind: &mut Mind, against: bool| {
            let vote = Vote { voter: cheat, matter: matter(subject), against, evidence: Vec::new(), issued: NOW };
            mind.gossiped(&Spread::Vote(vote.seal(&many(1))).encode(), cheat, NOW)
        };
        assert_eq!(say(&mut mind, first_against), Heard::News, "others need it too");
        assert_eq!(mind.voted(&subject).is_some(), first_against, "for somebody is no vote that is counted");
        assert_eq!(say(&mut mind, first_against), Heard::Nothing);
        assert!(!mind.is_convicted(&cheat));
        assert_eq!(say(&mut mind, !first_against), Heard::Nothing, "the proof goes round and not its word");
        assert!(mind.is_convicted(&cheat) && !mind.is_convicted(&subject));
        let file = mind.next_to_say().expect("the proof goes round");
        let Ok(Spread::Evidence(proof)) = Spread::decode(&file) else { panic!("evidence") };
        let checked = report::check(&proof.encode());
        assert!(checked.proves && checked.subject == Some(cheat), "{checked:?}");
        assert_eq!(say(&mut mind, true), Heard::Nothing, "who lied is not heard");
        // Elsewhere it is news, for who heard one side only.
        let mut other = Mind::new(key(2), network(), Duration::from_millis(DAY), &[8; 32]);
        other.survey(all, NOW);
        assert_eq!(other.gossiped(&file, key_of(&key(1)), NOW), Heard::News);
        assert!(other.is_convicted(&cheat));
    }
}

/// TRUST-1: of thirty domains nine lie, with ten identities each, in complaints and in votes.
#[test]
fn slander_by_many_identities_of_few_domains_changes_nothing() {
    let mut mind = mind();
    let honest = (0..21u32).map(|n| (n, n));
    let liars = (0..90u32).map(|n| (100 + n, 100 + n / 10));
    let all = voices(honest.chain(liars.clone()), 10);
    for peer in all.keys() {
        mind.saw(*peer, Observed::Good, NOW);
    }
    mind.survey(all.clone(), NOW);
    let before = score(&mut mind, 0);
    assert!(before > 700);
    for (liar, _) in liars {
        assert_eq!(complains(&mut mind, liar, 0), Heard::News);
        assert_eq!(votes(&mut mind, liar, 0), Heard::News);
    }
    mind.survey(all, NOW);
    assert_eq!(score(&mut mind, 0), before);
    let voted = mind.voted(&key_of(&many(0))).expect("they vote");
    assert_eq!((voted.peers, voted.domains, voted.of), (90, 9, 30));
    // Their own domain's complaints, and those of strangers, are not even heard.
    assert_eq!(complains(&mut mind, 100, 101), Heard::Nothing);
    assert_eq!(complains(&mut mind, 5000, 0), Heard::Nothing);
}

#[test]
fn what_two_thirds_of_a_panel_found_out_is_followed_by_who_does_not_know_better() {
    for (voters, excluded) in [(13u32, false), (14, true)] {
        let mut mind = mind();
        let all = voices((0..22u32).map(|n| (n, n)), 8);
        mind.survey(all.clone(), NOW);
        for voter in 1..=voters {
            assert_eq!(votes(&mut mind, voter, 0), Heard::News);
            assert_eq!(votes(&mut mind, voter, 0), Heard::Nothing, "once");
        }
        mind.survey(all.clone(), NOW);
        assert_eq!(score(&mut mind, 0) < 500, excluded, "{voters} of 21");
        let file = mind.verdicts.get(&key_of(&many(0))).cloned();
        assert_eq!(file.is_some(), excluded);
        if let Some(file) = file {
            let checked = report::check(&file);
            assert_eq!((checked.kind, checked.proves), ("verdict", false));
            assert!(checked.lines[0].starts_with("14 peers signed that they exclude"), "{checked:?}");
        }
        // It lapses.
        let later = Timestamp(NOW.0 + 31 * DAY);
        assert!(mind.score(&key_of(&many(0)), Timestamp(0), false, later) > 700);
        // Who has seen it serve goes by its own eyes.
        for _ in 0..25 {
            mind.saw(key_of(&many(0)), Observed::Good, NOW);
        }
        assert!(score(&mut mind, 0) > 700);
    }
    // Peers that came yesterday are on no panel.
    let mut mind = mind();
    let all = voices((0..22u32).map(|n| (n, n)), 2);
    mind.survey(all.clone(), NOW);
    (1..22).for_each(|voter| assert_eq!(votes(&mut mind, voter, 0), Heard::News));
    mind.survey(all, NOW);
    assert!(score(&mut mind, 0) > 700);
}

#[test]
fn an_old_vote_said_again_takes_no_new_ones_place() {
    let mut mind = mind();
    mind.survey(voices([(1, 1), (2, 2)], 10), NOW);
    let (subject, speaker, replayer) = (key_of(&many(2)), key_of(&many(1)), peer(9));
    let tomorrow = Timestamp(NOW.0 + DAY);
    assert_eq!(mind.gossiped(&vote(1, subject), speaker, NOW), Heard::News);
    mind.gossiped(&vote(1, subject), replayer, tomorrow);
    assert_eq!(mind.gossiped(&vote_in(NOW.0 / DAY + 1, 1, subject), speaker, tomorrow), Heard::News);
    let long_ago = vote_in(NOW.0 / DAY - 2, 1, subject);
    assert_eq!(mind.gossiped(&long_ago, replayer, NOW), Heard::Nothing);
}

#[test]
fn our_own_eyes_vote_once_a_round() {
    let mut mind = mind();
    let subject = key_of(&many(0));
    mind.saw(subject, Observed::BadBytes, NOW);
    assert!(score(&mut mind, 0) < 500);
    for at in [NOW, NOW, Timestamp(NOW.0 + DAY)] {
        mind.survey(BTreeMap::new(), at);
    }
    let mut rounds = Vec::new();
    while let Some(said) = mind.next_to_say() {
        let Ok(Spread::Vote(signed)) = Spread::decode(&said) else { panic!("a vote") };
        let vote = Vote::open(&signed).expect("ours");
        assert_eq!((vote.voter, vote.matter.subject, vote.against), (mind.me, subject, true));
        rounds.push(vote.matter.round);
    }
    assert_eq!(rounds, [NOW.0 / DAY, NOW.0 / DAY + 1]);
}

#[test]
fn a_proof_is_news_once_and_what_proves_nothing_is_false() {
    let mut mind = mind();
    let proof = Spread::Evidence(lie_of(&key(3)));
    let Spread::Evidence(Evidence::Equivocation { first, second }) = proof.clone() else { unreachable!("made so") };
    let mut forged = second.clone();
    forged.signature[0] ^= 1;
    let falsehoods = [
        Spread::Evidence(Evidence::Equivocation { first: first.clone(), second: forged }),
        Spread::Evidence(Evidence::Equivocation { first: first.clone(), second: first.clone() }),
        Spread::Evidence(Evidence::SelfReport { challenge: first.clone(), answer: second }),
    ];
    for falsehood in &falsehoods {
        assert_eq!(mind.gossiped(&falsehood.encode(), peer(9), NOW), Heard::False, "{falsehood:?}");
    }
    assert_eq!(mind.gossiped(b"junk", peer(9), NOW), Heard::False);
    assert!(mind.convicted().is_empty());
    assert_eq!(mind.gossiped(&proof.encode(), peer(9), NOW), Heard::News);
    assert_eq!(mind.gossiped(&proof.encode(), peer(9), NOW), Heard::Nothing);
    assert!(mind.is_convicted(&peer(3)));
    assert_eq!(mind.score(&peer(3), Timestamp(0), true, NOW), 0);
    // A key that is none of this network's cannot be its liar.
    let strict = NetworkFile::create("strict", 24, &SigningKey::from_bytes(&[1; 32])).expect("valid");
    let mut other = Mind::new(key(1), strict, Duration::from_millis(DAY), &[9; 32]);
    assert_eq!(other.gossiped(&proof.encode(), peer(9), NOW), Heard::False);
    // Nor can we be made to think so of ourselves.
    let ours = Spread::Evidence(lie_of(&key(1)));
    assert_eq!(mind.gossiped(&ours.encode(), peer(9), NOW), Heard::Nothing);
}

#[test]
fn a_flood_is_bounded() {
    let mut mind = mind();
    let all = voices((0..120u32).map(|n| (n, n)), 10);
    mind.survey(all.clone(), NOW);
    let mut news = 0;
    for n in 0..200u32 {
        let word = vote(1, key_of(&many(10_000 + n)));
        news += usize::from(mind.gossiped(&word, key_of(&many(1)), NOW) == Heard::News);
    }
    assert_eq!(news, 64, "of one voter");
    // Self-made liars are true liars: a few of one publisher in a round, and those we know are heard all the same.
    let mut convicted = 0;
    for n in 0..40u32 {
        let proof = Spread::Evidence(lie_of(&many(20_000 + n))).encode();
        convicted += usize::from(mind.gossiped(&proof, peer(9), NOW) == Heard::News);
    }
    assert_eq!(convicted, 16);
    let known = Spread::Evidence(lie_of(&many(7))).encode();
    assert_eq!(mind.gossiped(&known, peer(9), NOW), Heard::News);
    let tomorrow = Timestamp(NOW.0 + DAY);
    let proof = Spread::Evidence(lie_of(&many(30_000))).encode();
    assert_eq!(mind.gossiped(&proof, peer(9), tomorrow), Heard::News, "a new round has new shares");
}

/// Who asks gets what it lacks, page by page, and nothing when it lacks nothing.
#[tokio::test]
async fn proofs_are_handed_on() {
    let (from, to) = (Standings::start(mind(), None, DEADLINE, Arc::new(|| NOW)), mind());
    let to = Standings::start(to, None, DEADLINE, Arc::new(|| NOW));
    for n in 0..5u8 {
        assert!(from.take_proof(&lie_of(&key(10 + n)).encode()).is_some());
    }
    let mut after = None;
    for most in [2, 2, 2] {
        let page = from.proofs_for(&to.proofs_digest(), after, most);
        assert!(page.len() <= most);
        for file in page {
            let subject = to.take_proof(&file).expect("a proof");
            assert!(after.is_none_or(|after| subject > after), "ascending");
            after = Some(subject);
        }
    }
    assert_eq!(to.convicted(), from.convicted());
    assert!(from.proofs_for(&to.proofs_digest(), None, 9).is_empty());
    assert_eq!(to.take_proof(b"junk"), None);
}

const DEADLINE: Duration = Duration::from_secs(3600);

#[test]
fn a_file_says_in_plain_words_what_it_proves() {
    let proof = report::check(&lie_of(&key(3)).encode());
    assert!(proof.proves && proof.subject == Some(peer(3)) && proof.lines[0].contains("lied"), "{proof:?}");
    let mut rotten = lie_of(&key(3)).encode();
    *rotten.last_mut().expect("some") ^= 1;
    assert_eq!((report::check(&rotten).kind, report::check(b"").kind), ("nothing", "nothing"));
    let word = report::check(&complaint(5, 6).encode());
    assert_eq!((word.kind, word.proves, word.subject), ("word", false, Some(key_of(&many(6)))));
}

/// A day as days are: pings, a request that fails now and then, an hour without power, a quarter of an hour without our own line.
#[test]
fn honest_peers_stay_eligible_through_a_day_of_ordinary_failures() {
    let mut mind = mind();
    let honest = [key_of(&many(1)), key_of(&many(2))];
    let other = key_of(&many(3));
    let aged = Timestamp(NOW.0 - 10 * DAY);
    for step in 0..24 * 60u64 {
        let now = Timestamp(NOW.0 + step * 60_000);
        let our_line = !(600..615).contains(&step);
        for (n, peer) in (0u64..).zip(honest) {
            let its_power = !(200 + n * 300..260 + n * 300).contains(&step);
            let there = our_line && its_power && (step + n) % 29 != 0;
            mind.saw(peer, if there { Observed::Alive } else { Observed::Silent }, now);
            if there && step % 60 == 0 {
                mind.saw(peer, Observed::Good, now);
            }
        }
        if our_line {
            mind.saw(other, Observed::Alive, now);
        }
        for peer in honest {
            assert!(mind.score(&peer, aged, false, now) > 700, "minute {step}");
            assert!(mind.score(&peer, NOW, true, now) >= 500, "a newcomer too, minute {step}");
        }
    }
}
