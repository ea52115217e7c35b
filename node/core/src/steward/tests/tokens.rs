//! Tokens: when they are asked with, what an answer does, and that each is asked with once.

use cairn_proto::{
    audit::{Answer as Said, Challenge, Found, Loss, Response, Way},
    tokens::{Booklet, TOKEN_LEAVES, TOKENS_OF_SLOT_MAX, TokenRow},
};
use prost::Message as _;

use super::*;
use crate::steward::{
    TokenAnswer, TokenQuestion,
    wire::{Answer, Refusal},
};

const DAY: u64 = 24 * HOUR;
/// The slot whose colour nobody but its holder has.
const LONELY: u8 = 2;
const ALL: usize = STRIPES as usize;

fn token(seed: &[u8], ordinal: u8, root: ShardRoot) -> TokenRow {
    let nonce = *blake3::hash(seed).as_bytes();
    let mut row = TokenRow { ordinal, root: [0; 8], nonce, digest: [0; 16] };
    row.root.copy_from_slice(&root.as_bytes()[..8]);
    row.digest.copy_from_slice(&digest(&nonce)[..16]);
    row
}

/// What a holder with the shard would reckon, as far as these tests go.
fn digest(nonce: &[u8; 32]) -> [u8; 32] {
    *blake3::hash(nonce).as_bytes()
}

fn root(at: u8, ordinal: u8) -> ShardRoot {
    ShardRoot::from_bytes([at * 32 + ordinal; 32])
}

/// What a holder makes of a question.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Right,
    Wrong,
    Gone,
}

impl Village {
    /// Nobody has the colour of slot 2 but its holder; the others, to be brought back.
    fn lonely(&mut self) -> Vec<PeerView> {
        let (holder, others) = (self.holder(LONELY), self.of_colour(LONELY.into()));
        let others: Vec<PeerView> =
            self.views.extract_if(.., |v| others.contains(&v.peer) && v.peer != holder).collect();
        assert!(!others.is_empty());
        others
    }

    fn booklet(&self, steward: Option<PeerKey>, seed: u8, tokens: usize) -> Booklet {
        let name = steward.map_or([0; 32], |peer| *peer.as_bytes());
        let row = |i: usize| {
            let ordinal = (i % usize::from(STRIPES)) as u8;
            token(&[&name[..], &[seed], &i.to_le_bytes()].concat(), ordinal, root(LONELY, ordinal))
        };
        let mut rows: Vec<TokenRow> = (0..tokens).map(row).collect();
        rows.sort_by_key(|row| row.nonce);
        Booklet { group: self.ticket.id(), steward, slots: vec![(slot(LONELY), rows)] }
    }

    /// The owner leaves each steward so many tokens, and a spare booklet.
    fn bring(&mut self, tokens: usize) {
        let stewards: Vec<PeerKey> = self.stewards.keys().copied().collect();
        for (at, peer) in (0u8..).zip(stewards) {
            let seal = |booklet: &Booklet| Some(booklet.seal(&authority()).expect("valid"));
            let own = seal(&self.booklet(Some(peer), 1, tokens));
            let spare = seal(&self.booklet(None, 100 + at, tokens));
            let group = self.ticket.id();
            self.tell(owner(), peer, Say::Tokens { group, own, spare });
        }
    }

    /// What a steward asks now; the same call has it look for auditors.
    fn questions(&mut self, of: &PeerKey) -> Vec<TokenQuestion> {
        let mut views = self.views.clone();
        views.retain(|view| view.peer != *of);
        let now = self.now;
        let steward = self.stewards.get_mut(of).expect("there");
        steward.audits_due(now, &views, 1000);
        steward.tokens_due(now, 1000, 600_000)
    }

    fn said(&self, question: &TokenQuestion, manner: Manner) -> TokenAnswer {
        let challenge = Challenge::open(&question.question.challenge).expect("signed");
        let found = match manner {
            Manner::Right => Found::Digest(digest(&challenge.nonce)),
            Manner::Wrong => Found::Digest([9; 32]),
            Manner::Gone => Found::NotHere(Loss::Gone),
        };
        let name = Challenge::id(&question.question.challenge);
        let answer = Said { holder: question.holder, challenge: name, previous: None, found };
        let answer = answer.seal(&self.keys[&question.holder]);
        TokenAnswer::Said(Answer::Audit(Response { answer: Some(answer), slices: Vec::new() }.encode_to_vec()))
    }

    fn tell_answer(&mut self, of: &PeerKey, question: &TokenQuestion, answer: &TokenAnswer) {
        let now = self.now;
        let steward = self.stewards.get_mut(of).expect("there");
        steward.token_answered(question.holder, question.group, question.slot, answer, now);
    }

    /// Days pass, a look an hour; what was asked by whom, each answered so.
    fn days(&mut self, days: u64, answer: impl Fn(&PeerKey) -> Manner) -> Vec<(PeerKey, TokenQuestion)> {
        let stewards: Vec<PeerKey> = self.stewards.keys().copied().collect();
        let mut asked = Vec::new();
        for _ in 0..days * 24 {
            self.now = self.now.plus_ms(HOUR);
            self.hear();
            for steward in &stewards {
                for question in self.questions(steward) {
                    let said = self.said(&question, answer(steward));
                    self.tell_answer(steward, &question, &said);
                    asked.push((*steward, question));
                }
            }
        }
        asked
    }

    /// The first question that a steward asks within ten days.
    fn first_question(&mut self, of: &PeerKey) -> TokenQuestion {
        for _ in 0..240 {
            self.now = self.now.plus_ms(HOUR);
            self.hear();
            if let Some(question) = self.questions(of).pop() {
                return question;
            }
        }
        panic!("nothing was asked");
    }

    fn doubted(&self, of: &PeerKey) -> usize {
        let report = self.stewards[of].report(&self.ticket.id(), self.now).expect("watched");
        report.audits.distrusted.iter().map(|(.., shards)| shards).sum()
    }

    fn one(&self) -> PeerKey {
        *self.stewards.keys().next().expect("one")
    }

    /// Tokens of the lonely slot that a steward has left, and has used.
    fn left(&self, of: &PeerKey) -> Option<(usize, usize)> {
        let report = self.stewards[of].report(&self.ticket.id(), self.now).expect("watched");
        report.audits.by_tokens.first().map(|tokens| (tokens.left, tokens.used))
    }
}

#[test]
fn no_question_asks_for_a_leaf_and_each_token_is_asked_with_once() {
    let mut village = Village::new(7);
    village.bring(26);
    assert!(village.days(3, |_| Manner::Right).is_empty(), "others of its colour audit it");
    village.lonely();
    let asked = village.days(420, |_| Manner::Right);
    let mut nonces = BTreeSet::new();
    for (steward, question) in &asked {
        let challenge = Challenge::open(&question.question.challenge).expect("signed");
        assert_eq!((challenge.way, challenge.slices, challenge.auditor), (Way::Digest, TOKEN_LEAVES, *steward));
        assert_eq!((question.slot, question.holder), (slot(LONELY), village.holder(LONELY)));
        assert_eq!((challenge.root, &question.question.grant), (root(LONELY, challenge.ordinal), &None));
        assert!(nonces.insert(challenge.nonce), "a holder may keep the answer");
    }
    assert_eq!(asked.len(), 7 * 26, "all of them, over the mandate's time");
    let me = village.one();
    let of_me: Vec<u8> = asked
        .iter()
        .filter(|(steward, _)| *steward == me)
        .map(|(_, question)| Challenge::open(&question.question.challenge).expect("signed").ordinal)
        .collect();
    assert_eq!(of_me[..20].iter().collect::<BTreeSet<_>>().len(), 20, "every shard before any twice");
    let times = asked.iter().filter(|(steward, _)| *steward == me).map(|(_, q)| q.deadline.0).collect::<Vec<_>>();
    assert!(times.windows(2).all(|two| two[1] - two[0] >= 15 * DAY), "no more than one a fortnight");
    // They ran out, and it is said that nobody but the owner can audit that slot now.
    let report = village.report();
    assert_eq!((&report.audits.by_tokens[..], &report.audits.owner_only[..]), (&[][..], &[slot(LONELY)][..]));
    assert_eq!(village.doubted(&me), 0);
}

#[test]
fn a_slot_whose_holder_five_stewards_find_wrong_is_rebuilt_elsewhere() {
    let mut village = Village::new(7);
    let others = village.lonely();
    village.bring(26);
    let cheat = village.holder(LONELY);
    village.days(20, |_| Manner::Wrong);
    for steward in village.stewards.keys() {
        assert_eq!(village.doubted(steward), ALL);
    }
    // It goes on saying that it has all.
    let (now, group, all) = (village.now, village.ticket.id(), (0..STRIPES).collect());
    village.stewards.values_mut().for_each(|steward| steward.reported(cheat, group, slot(LONELY), &all, now));
    village.views.extend(others);
    for _ in 0..15 * 24 {
        if village.given.is_empty() {
            village.turn();
        }
    }
    match village.carry_out() {
        Action::Rebuild { slot: at, to, helpers, .. } => {
            assert!(at == slot(LONELY) && to != cheat && helpers.iter().all(|(_, helper)| *helper != cheat));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn four_stewards_that_lie_cost_a_holder_nothing() {
    let mut village = Village::new(7);
    let others = village.lonely();
    village.bring(26);
    let liars: BTreeSet<PeerKey> = village.stewards.keys().take(4).copied().collect();
    let asked = village.days(20, |steward| if liars.contains(steward) { Manner::Wrong } else { Manner::Right });
    assert!(asked.len() >= 14);
    village.views.extend(others);
    village.turns(24);
    assert!(village.given.is_empty(), "five of seven do not see it that way");
}

#[test]
fn a_wrong_answer_doubts_all_and_three_right_ones_clear_it() {
    let mut village = Village::new(1);
    village.lonely();
    village.bring(90);
    let me = village.one();
    let question = village.first_question(&me);
    village.tell_answer(&me, &question, &village.said(&question, Manner::Wrong));
    assert_eq!(village.doubted(&me), ALL);
    let mut doubted = Vec::new();
    for times in 0..3 {
        let asked_at = village.now;
        let question = village.first_question(&me);
        assert!(times == 0 || village.now.ms_since(asked_at) <= DAY + HOUR, "soon again after a right one");
        village.tell_answer(&me, &question, &village.said(&question, Manner::Right));
        doubted.push(village.doubted(&me));
    }
    assert_eq!(doubted, [19, 18, 0]);
    // What it says itself that it lost is one shard, and by its own word.
    let question = village.first_question(&me);
    village.tell_answer(&me, &question, &village.said(&question, Manner::Gone));
    assert_eq!(village.doubted(&me), 1);
}

#[test]
fn what_is_doubted_lasts_until_the_other_stewards_had_their_turn() {
    let mut village = Village::new(1);
    village.lonely();
    village.bring(13);
    let me = village.one();
    let question = village.first_question(&me);
    village.tell_answer(&me, &question, &village.said(&question, Manner::Wrong));
    let views = village.views.clone();
    let wait = |village: &mut Village, days: u64| {
        village.now = village.now.plus_ms(days * DAY);
        village.hear();
        let now = village.now;
        let steward = village.stewards.get_mut(&me).expect("it");
        steward.tick(now, &views, &mut village.rng);
    };
    wait(&mut village, 59);
    assert_eq!(village.doubted(&me), ALL, "thirteen tokens: one in thirty days, and all have asked in twice that");
    // A restart, and a clock that is set back, leave it.
    let bytes = village.stewards[&me].encode_group(&village.ticket.id()).expect("watched");
    let now = village.now;
    village.stewards.get_mut(&me).expect("it").resume(&bytes, now).expect("its own");
    wait(&mut village, 1);
    assert_eq!(village.doubted(&me), ALL);
    wait(&mut village, 3);
    assert_eq!(village.doubted(&me), 0);
}

#[test]
fn an_old_answer_is_none_and_three_silences_count_as_gone() {
    let mut village = Village::new(1);
    village.lonely();
    village.bring(40);
    let me = village.one();
    let first = village.first_question(&me);
    let kept = village.said(&first, Manner::Right);
    village.tell_answer(&me, &first, &kept);
    // The second answer to the same question changes nothing: it is not open any more.
    village.tell_answer(&me, &first, &village.said(&first, Manner::Wrong));
    assert_eq!(village.doubted(&me), 0);
    for silence in 0..3 {
        assert_eq!(village.doubted(&me), 0, "after {silence}");
        let question = village.first_question(&me);
        // It kept the old answer, and has nothing else; or somebody else answers for it.
        let mut said = kept.clone();
        if silence == 1 {
            let other = TokenQuestion { holder: village.holder(3), ..question.clone() };
            said = village.said(&other, Manner::Right);
        }
        village.tell_answer(&me, &question, &said);
    }
    assert_eq!(village.doubted(&me), ALL);
}

#[test]
fn who_is_busy_has_longer_and_who_is_not_reached_uses_up_no_token() {
    let mut village = Village::new(1);
    village.lonely();
    village.bring(60);
    let me = village.one();
    let question = village.first_question(&me);
    assert_eq!(village.left(&me), Some((59, 1)));
    village.tell_answer(&me, &question, &TokenAnswer::Unreached);
    assert_eq!(village.left(&me), Some((60, 0)), "it never saw it");
    for times in 0..9 {
        assert_eq!(village.doubted(&me), 0, "{times}");
        let question = village.first_question(&me);
        assert_eq!(village.left(&me), Some((59 - times, 1 + times)));
        village.tell_answer(&me, &question, &TokenAnswer::Said(Answer::Refused(Refusal::Busy)));
    }
    assert_eq!(village.doubted(&me), ALL);
    // An answer is one.
    let question = village.first_question(&me);
    village.tell_answer(&me, &question, &village.said(&question, Manner::Right));
    assert_eq!(village.doubted(&me), ALL - 1);
}

#[test]
fn a_token_of_another_shard_is_never_asked_with() {
    let mut village = Village::new(1);
    village.lonely();
    let (me, group) = (village.one(), village.ticket.id());
    let mut booklet = village.booklet(Some(me), 1, 40);
    // All but the two of stripe 4 were made of shards that lay there once.
    for row in booklet.slots[0].1.iter_mut().filter(|row| row.ordinal != 4) {
        row.root = [200; 8];
    }
    let own = Some(booklet.seal(&authority()).expect("valid"));
    village.tell(owner(), me, Say::Tokens { group, own, spare: None });
    let question = village.first_question(&me);
    let asked = Challenge::open(&question.question.challenge).expect("signed");
    assert_eq!((asked.ordinal, village.left(&me)), (4, Some((1, 1))));
    village.tell_answer(&me, &question, &village.said(&question, Manner::Right));
    // Nor with one of a shard that the holder says it lacks.
    let (holder, now) = (village.holder(LONELY), village.now);
    let has: Ordinals = (0..STRIPES).filter(|ordinal| *ordinal != 4).collect();
    village.stewards.get_mut(&me).expect("it").reported(holder, group, slot(LONELY), &has, now);
    assert!(village.days(420, |_| Manner::Wrong).is_empty());
    assert_eq!(village.report().audits.owner_only, [slot(LONELY)]);
}

#[test]
fn used_tokens_are_written_before_the_question_and_stay_used_after_a_crash() {
    let mut village = Village::new(1);
    village.lonely();
    village.bring(3);
    let (me, group) = (village.one(), village.ticket.id());
    let mut nonces = BTreeSet::new();
    for left in (0..3).rev() {
        let question = village.first_question(&me);
        let steward = village.stewards.get_mut(&me).expect("it");
        let effects: Vec<Effect> = std::iter::from_fn(|| steward.poll()).collect();
        assert!(effects.contains(&Effect::Persist(group)));
        assert!(nonces.insert(Challenge::open(&question.question.challenge).expect("signed").nonce));
        // What is written now is all that the next life knows; the answer comes too late.
        let bytes = steward.encode_group(&group).expect("watched");
        let now = village.now;
        let steward = village.stewards.get_mut(&me).expect("it");
        assert_eq!(steward.resume(&bytes, now), Ok(group));
        assert_eq!(steward.encode_group(&group), Some(bytes));
        village.tell_answer(&me, &question, &village.said(&question, Manner::Wrong));
        assert_eq!(village.doubted(&me), 0);
        // The owner brings the same once more.
        village.bring(3);
        village.days(2, |_| panic!("not before its time"));
        assert_eq!(village.left(&me).map_or(0, |(left, _)| left), left);
        village.now = village.now.plus_ms(140 * DAY);
    }
    assert!(village.days(140, |_| Manner::Right).is_empty());
}

#[test]
fn a_state_of_before_there_were_tokens_is_read() {
    let mut village = Village::new(1);
    let (me, group, now) = (village.one(), village.ticket.id(), village.now);
    let steward = village.stewards.get_mut(&me).expect("it");
    let state = steward.encode_group(&group).expect("watched");
    // Two empty lists, no spare booklet, nobody whom it was given to.
    let mut before = state.strip_suffix(&[0; 4]).expect("no tokens").to_vec();
    before[0] = 2;
    assert_eq!(steward.resume(&before, now), Ok(group));
    assert_eq!(steward.encode_group(&group), Some(state.clone()));
    before[0] = 3;
    assert!(steward.resume(&before, now).is_err());
    before[0] = 4;
    assert!(steward.resume(&before, now).is_err());
    assert!(steward.resume(&[&[2], &state[1..]].concat(), now).is_err(), "an old one with tokens");
}

#[test]
fn a_steward_takes_its_own_tokens_and_nobody_elses() {
    let mut village = Village::new(2);
    village.lonely();
    let (group, both): (_, Vec<PeerKey>) = (village.ticket.id(), village.stewards.keys().copied().collect());
    let offer = |village: &mut Village, booklet: &Booklet, key: &SigningKey| {
        let own = Some(booklet.seal(key).expect("valid"));
        village.tell(both[1], both[0], Say::Tokens { group, own, spare: None });
        village.stewards[&both[0]].encode_group(&group).expect("watched")
    };
    let before = village.stewards[&both[0]].encode_group(&group).expect("watched");
    let (of_other, of_nobody) = (village.booklet(Some(both[1]), 1, 5), village.booklet(None, 1, 5));
    let own = village.booklet(Some(both[0]), 1, 5);
    let elsewhere = Booklet { group: GroupId::from_bytes([1; 32]), ..own.clone() };
    for (booklet, key) in [
        (&of_other, authority()),
        (&of_nobody, authority()),
        (&elsewhere, authority()),
        (&own, SigningKey::from_bytes(&[1; 32])),
    ] {
        assert!(offer(&mut village, booklet, &key) == before, "{booklet:?}");
    }
    assert!(offer(&mut village, &own, &authority()) != before);
    // However many an owner brings, so many are kept.
    for seed in 0..5 {
        let many = village.booklet(Some(both[0]), 10 + seed, TOKENS_OF_SLOT_MAX);
        let state = offer(&mut village, &many, &authority());
        assert!(state.len() <= before.len() + 200 * 60);
    }
}

#[test]
fn who_takes_a_stewards_place_gets_tokens_that_nobody_used() {
    let mut village = Village::new(7);
    village.lonely();
    village.bring(26);
    village.days(20, |_| Manner::Right);
    let lost = village.one();
    village.away.insert(lost);
    let group = village.ticket.id();
    let mut heir = None;
    for _ in 0..40 * 15 {
        village.turn();
        let watched = village.stewards.iter().find(|(peer, _)| **peer != lost).expect("one").1.groups.get(&group);
        let committee = watched.map(|watched| watched.committee().stewards().to_vec()).unwrap_or_default();
        let new = committee.into_iter().find(|peer| !village.stewards.contains_key(peer));
        if let Some(new) = new.filter(|_| heir.is_none()) {
            let budget = Budget::new(Limits::default(), 10 << 20, village.now);
            let watch = Watch::new(Timers::default());
            let steward =
                Steward::new(village.keys[&new].clone(), village.domain(&new), Rhythm::default(), watch, budget);
            village.stewards.insert(new, steward);
            heir = Some(new);
        }
    }
    let heir = heir.expect("somebody took its place");
    let pool =
        |steward: &PeerKey| -> BTreeSet<[u8; 32]> { village.stewards[steward].groups[&group].token_nonces().collect() };
    assert_eq!(pool(&heir).len(), 26);
    for steward in village.stewards.keys().filter(|steward| **steward != heir) {
        assert!(pool(steward).is_disjoint(&pool(&heir)), "no two have the same");
    }
    village.stewards.remove(&lost);
    let asked = village.days(30, |_| Manner::Right);
    assert!(asked.iter().any(|(steward, _)| *steward == heir), "it uses them");
}
